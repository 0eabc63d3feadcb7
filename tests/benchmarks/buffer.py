"""ChatMemoryBuffer.get(): what it costs must not follow the length of the history."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import cycle
from typing import Any

from chatstores import ChatMemoryBuffer, ChatMessage, ChatStore, open_store
from tests.benchmarks.backend import Backend
from tests.benchmarks.case import Case
from tests.benchmarks.messages import make_messages
from tests.benchmarks.report import Check

__all__ = ["NAMES", "Buffers", "buffer_cases", "open_buffers", "sees_another_put"]

NAMES = ("buffer.get()", "buffer.get() after a put")

SHORT, LONG = 100, 100_000
LIMIT = 3_000
CEILING = 1.5

_BATCH = 500
_PUT = """
import sys
from chatstores import ChatMessage, open_store
url, key, text = sys.argv[1:]
with open_store(url) as store:
    store.add_message(key, ChatMessage(text))
"""


@dataclass(frozen=True)
class Buffers:
    """A buffer over few messages and one over many, each in a store of its own."""

    short: ChatMemoryBuffer
    long: ChatMemoryBuffer
    put: Callable[[], Any]
    """Puts a message in the place of the newest in both, over other store objects."""
    put_elsewhere: Callable[[str], Any]
    """Adds a text to the long one from another process; for memory, over another store."""


@contextmanager
def open_buffers(backend: Backend, place: str) -> Iterator[Buffers]:
    """Both, filled."""
    with ExitStack() as stack:
        urls = {size: backend.url(place, f"bench-buffer-{size}") for size in (SHORT, LONG)}
        stores = {}
        for size, url in urls.items():
            stores[size] = stack.enter_context(open_store(url))
            stack.callback(stores[size].delete_messages, _key(size))
            _fill(stores[size], _key(size), size)
        others = {size: stack.enter_context(open_store(url)) for size, url in urls.items()}

        def elsewhere(text: str) -> None:
            if backend.name == "memory":
                others[LONG].add_message(_key(LONG), ChatMessage(text))
            else:
                command = [sys.executable, "-c", _PUT, urls[LONG], _key(LONG), text]
                subprocess.run(command, check=True)

        yield Buffers(
            _buffer(stores[SHORT], SHORT), _buffer(stores[LONG], LONG), _puts(others), elsewhere
        )


def buffer_cases(backend: Backend, buffers: Buffers) -> Iterator[Case]:
    """get() as it is, and after something was put; the raw side is that of few messages."""
    for name, put in zip(NAMES, (None, buffers.put), strict=True):
        yield Case(
            name=name,
            backend=backend.name,
            form="sync",
            history=LONG,
            ours=buffers.long.get,
            raw=buffers.short.get,
            baseline=f"the same at {SHORT}",
            ceiling=CEILING,
            reset=put,
        )


def sees_another_put(backend: Backend, buffers: Buffers) -> Check:
    """Whether get() returns what somebody else has put a moment ago."""
    seen = 0
    texts = [f"put by another, {number}" for number in range(3)]
    for text in texts:
        buffers.long.get()
        buffers.put_elsewhere(text)
        seen += buffers.long.get()[-1].content == text
    who = "store of that name" if backend.name == "memory" else "process"
    name = f"buffer.get() sees what another {who} put"
    return Check(name, backend.name, seen == len(texts), f"{seen} of {len(texts)}")


def _key(size: int) -> str:
    return f"buffer-{size}"


def _fill(store: ChatStore, key: str, size: int) -> None:
    messages = make_messages(size)
    for start in range(0, size, _BATCH):
        store.add_messages(key, messages[start : start + _BATCH])


def _buffer(store: ChatStore, size: int) -> ChatMemoryBuffer:
    return ChatMemoryBuffer.from_defaults(
        chat_store=store, chat_store_key=_key(size), token_limit=LIMIT
    )


def _puts(stores: dict[int, ChatStore]) -> Callable[[], None]:
    supply = cycle(make_messages(1_000))

    def put() -> None:
        for size, store in stores.items():
            store.delete_last_message(_key(size))
            store.add_message(_key(size), next(supply))

    return put
