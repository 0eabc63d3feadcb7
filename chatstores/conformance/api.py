"""Api: a store through one of its two forms, under the names of the sync one.

A test that says ``api.add_message("k", message)`` calls ``store.add_message`` in its sync run, and
``await store.aadd_message`` on a loop of the Api's own in its async run.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from chatstores.state import Action, Command, Head, Outcome
from chatstores.store import ChatStore
from chatstores.transport import run_sync

if TYPE_CHECKING:
    _Names = ChatStore  # what __getattr__ gives
else:
    _Names = object

__all__ = ["Api", "at_once", "make_api", "new_command", "until", "using"]

T = TypeVar("T")


class Api(_Names):
    """One store, one form.

    Args:
        store: the store.
        form: "sync" or "async".
    """

    store: ChatStore
    form: str

    def __init__(self, store: ChatStore, form: str) -> None:
        self.store = store
        self.form = form
        self._runner = asyncio.Runner() if form == "async" else None

    def __getattr__(self, name: str) -> Any:
        if self._runner is None:
            return getattr(self.store, name)
        twin = getattr(self.store, f"a{name}", None)
        if twin is None:
            return getattr(self.store, name)
        return lambda *args, **kwargs: self._finish(twin(*args, **kwargs))

    def iter_keys(self, prefix: str = "", *, page_size: int = 1000) -> Iterator[str]:
        """The keys one by one, each from its own step of the iterator."""
        if self._runner is None:
            yield from self.store.iter_keys(prefix, page_size=page_size)
            return
        keys: AsyncIterator[str] = self.store.aiter_keys(prefix, page_size=page_size)
        while (key := self._runner.run(_next(keys))) is not None:
            yield key

    def commit(self, key: str, command: Command) -> Outcome:
        """Give the store a command, as its own retry would."""
        store = self.store
        return self._hook(lambda t: store._run(t, store._commit, key, command=command))

    def do(self, key: str, action: Action, expected_version: int | None = None) -> Outcome:
        """Give the store a new command."""
        return self.commit(key, new_command(action, expected_version))

    def head(self, key: str) -> Head | None:
        """What the store keeps beside the messages, the library's own metadata included."""
        store = self.store
        return self._hook(lambda t: store._run(t, store._head, key))

    def set_own_metadata(self, key: str, metadata: dict[str, Any]) -> None:
        """Replace the library's own metadata, as adapters do."""
        self._hook(lambda t: self.store._set_metadata(t, key, metadata, None, own=True))

    def twin(self) -> Api:
        """The same store and form for another thread; an async one has its own loop."""
        return make_api(self.store, self.form)

    def end(self) -> None:
        """End the loop, but leave the store open."""
        if self._runner is not None:
            self._runner.close()

    def _hook(self, call: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
        if self._runner is None:
            return run_sync(call(self.store._transports.sync()))

        async def run() -> T:
            return await call(await self.store._transports.running())

        return self._runner.run(run())

    def _finish(self, coroutine: Any) -> Any:
        assert self._runner is not None
        return self._runner.run(coroutine)


async def _next(keys: AsyncIterator[str]) -> str | None:
    return await anext(keys, None)


def make_api(store: ChatStore, form: str) -> Api:
    """An Api; for the type checker it has the methods that it finds in the store."""
    return Api(store, form)  # type: ignore[abstract]


@contextlib.contextmanager
def using(store: ChatStore, form: str) -> Iterator[Api]:
    """An Api for a while; the store is closed at the end."""
    api = make_api(store, form)
    try:
        yield api
    finally:
        api.close()
        api.end()


def new_command(action: Action, expected_version: int | None = None) -> Command:
    """A command with an id of its own."""
    return Command(int.from_bytes(secrets.token_bytes(8), "big"), action, expected_version)


def until(done: threading.Event) -> Iterator[None]:
    """Rounds of a loop that goes on until others are done, and leaves them time."""
    while not done.is_set():
        yield
        time.sleep(0.001)


def at_once(api: Api, *workers: Callable[[Api], T]) -> list[T]:
    """What each worker returned, all of them running at once in threads of their own.

    Each has its own Api on the one store; an async one its own event loop.
    """
    results: list[Any] = [None] * len(workers)
    failures: list[BaseException] = []
    start = threading.Barrier(len(workers))

    def run(index: int) -> None:
        twin = api.twin()
        try:
            start.wait()
            results[index] = workers[index](twin)
        except BaseException as exc:
            failures.append(exc)
        finally:
            twin.end()

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(workers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return results
