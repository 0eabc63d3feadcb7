"""What other processes do; no pytest is imported there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import chatstores
from chatstores import ChatMessage, ChatStore
from chatstores.conformance.api import using
from chatstores.conformance.texts import add_texts, contents
from chatstores.errors import MissingDependencyError

__all__ = [
    "ADDS",
    "add_and_pop",
    "add_batches",
    "load_all",
    "open_without",
    "persist_for_ever",
    "read",
    "set_up_and_add",
]

#: How many messages `add_and_pop` adds.
ADDS = 100


def add_and_pop(opener: Callable[[], ChatStore], form: str, name: int) -> list[str]:
    """Add to one session; add to and pop from another: the popped texts."""
    popped = []
    with using(opener(), form) as api:
        for number in range(ADDS):
            api.add_message("adds", ChatMessage(f"{name}.{number}"))
            if number % 4 == 0:
                add_texts(api, "pops", f"{name}.{number}", f"{name}.{number}.2")
                popped.append(api.delete_last_message("pops"))
    return contents([message for message in popped if message is not None])


def set_up_and_add(opener: Callable[[], ChatStore], form: str, name: int) -> None:
    """Set up a place that others set up at the same time."""
    with using(opener(), form) as api:
        api.setup()
        api.add_message("k", ChatMessage(f"{name}"))


def read(opener: Callable[[], ChatStore], form: str) -> tuple[list[ChatMessage], Any]:
    """The session k."""
    with using(opener(), form) as api:
        return api.get_messages("k"), api.get_session("k")


def add_batches(opener: Callable[[], ChatStore], form: str, name: str) -> Iterator[str]:
    """Add batches of 5 for ever; the name of each that was acknowledged."""
    with using(opener(), form) as api:
        for number in count():
            add_texts(api, "k", *(f"{name}.{number}.{part}" for part in range(5)))
            yield f"{name}.{number}"


def load_all(opener: Callable[[], ChatStore], form: str, path: Path) -> Iterator[int]:
    """Load a file; say when it begins and when it is done."""
    with using(opener(), form) as api:
        yield 0
        api.load(path, on_existing="skip")
        yield 1


def persist_for_ever(opener: Callable[[], ChatStore], form: str, path: Path) -> Iterator[int]:
    """Persist to one file again and again."""
    with using(opener(), form) as api:
        for number in count():
            api.persist(path)
            yield number


def open_without(driver: str, url: str) -> tuple[str, str]:
    """What opening a store says in a process where its driver is not installed."""
    for name in [name for name in sys.modules if name.partition(".")[0] == driver]:
        del sys.modules[name]
    sys.modules[driver] = None  # type: ignore[assignment]
    try:
        chatstores.open_store(url)
    except MissingDependencyError as exc:
        return type(exc).__name__, str(exc)
    return "nothing", ""
