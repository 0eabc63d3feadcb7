"""Transports: the verbs that hooks are written against, blocking or awaiting.

A hook is one ``async def``. Over a sync transport it never suspends, so ``run_sync`` finishes it in
one step; over an async one it awaits. ``Transports`` keeps one of the first kind a store and one of
the second kind a running event loop, and forgets all of them in a forked child.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, Self, TypeVar

from chatstores.errors import StoreClosedError

__all__ = ["AsyncTransport", "SyncTransport", "Transport", "Transports", "run_sync"]

T = TypeVar("T")


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    coroutine.close()
    raise RuntimeError("a hook over a sync transport suspended; this is a bug of its backend")


class Transport(Protocol):
    """What every hook can ask of its transport; each backend adds the verbs of its engine."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""

    async def offload(self, function: Callable[..., T], *args: Any) -> T:
        """The result of a function that blocks (on a file, or a driver without async)."""

    def within(self, seconds: float) -> Self:
        """The same transport, for an attempt that has so many seconds."""

    async def close(self) -> None:
        """Close what it opened."""


class SyncTransport:
    """Blocks inside its verbs; enough for a backend without a connection."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

    async def offload(self, function: Callable[..., T], *args: Any) -> T:
        """Call the function."""
        return function(*args)

    def within(self, seconds: float) -> Self:
        """This transport: without a connection nothing can be silent."""
        return self

    async def close(self) -> None:
        """Close what it opened: nothing."""


class AsyncTransport:
    """Awaits inside its verbs; enough for a backend without a connection."""

    def __init__(self) -> None:
        self._executor: ThreadPoolExecutor | None = None

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)

    async def offload(self, function: Callable[..., T], *args: Any) -> T:
        """Call the function on a thread of this transport's own.

        Cancelled while it waits, it is never called; cancelled while it runs, it runs to its end.
        """
        if self._executor is None:
            self._executor = ThreadPoolExecutor(4, thread_name_prefix="chatstores")
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *args)

    def within(self, seconds: float) -> Self:
        """This transport: without a connection nothing can be silent."""
        return self

    async def close(self) -> None:
        """End the threads."""
        if self._executor is not None:
            self._executor.shutdown(wait=False)


async def _lifetime(transport: Transport) -> AsyncGenerator[Transport]:
    """Holds a loop's transport, so that the loop's own shutdown of generators closes it."""
    try:
        yield transport
    finally:
        await transport.close()


class Transports:
    """A store's open transports: one for sync code, one for each running event loop.

    Args:
        open_sync: makes the transport for sync code, without I/O.
        open_async: makes a transport for the running loop, without I/O.
    """

    def __init__(
        self, open_sync: Callable[[], Transport], open_async: Callable[[], Transport]
    ) -> None:
        self._open_sync = open_sync
        self._open_async = open_async
        self._closed = False
        self.forget()
        _alive.add(self)

    def forget(self) -> None:
        """Start anew, closing nothing: what is open belongs to the parent of this process."""
        inherited = (getattr(self, "_sync", None), getattr(self, "_loops", None))
        if any(inherited):
            _inherited.append(inherited)
        self._lock = threading.Lock()
        self._sync: Transport | None = None
        self._loops: dict[
            asyncio.AbstractEventLoop, tuple[Transport, AsyncGenerator[Transport]]
        ] = {}

    def sync(self) -> Transport:
        """The transport for sync code."""
        transport = self._sync
        if transport is not None:
            return transport
        with self._lock:
            self._refuse_if_closed()
            if self._sync is None:
                self._sync = self._open_sync()
            return self._sync

    async def running(self) -> Transport:
        """The transport for the running event loop."""
        loop = asyncio.get_running_loop()
        entry = self._loops.get(loop)
        if entry is not None:
            return entry[0]
        self._refuse_if_closed()
        transport = self._open_async()
        generator = _lifetime(transport)
        await anext(generator)  # does not suspend: another task of this loop cannot come between
        with self._lock:
            closed = self._closed
            for other in [other for other in self._loops if other.is_closed()]:
                del self._loops[other]
            if not closed:
                self._loops[loop] = (transport, generator)
        if closed:  # from another thread, in the meantime
            await generator.aclose()
            self._refuse_if_closed()
        return transport

    def close(self) -> None:
        """Close from sync code. A loop that runs in another thread closes its own soon after."""
        sync, loops = self._take()
        for loop, (_, generator) in loops.items():
            with contextlib.suppress(RuntimeError):  # closed in the meantime
                loop.call_soon_threadsafe(_close_soon, loop, generator)
        if sync is not None:
            run_sync(sync.close())

    async def aclose(self) -> None:
        """Close from a coroutine, and wait until what its loop uses is closed."""
        here = asyncio.get_running_loop()
        with self._lock:
            own = self._loops.pop(here, None)
        if own is not None:
            await own[1].aclose()
        self.close()

    def _take(
        self,
    ) -> tuple[
        Transport | None,
        dict[asyncio.AbstractEventLoop, tuple[Transport, AsyncGenerator[Transport]]],
    ]:
        with self._lock:
            self._closed = True
            sync, self._sync = self._sync, None
            loops, self._loops = self._loops, {}
        return sync, loops

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise StoreClosedError("this store was closed; open a new one")


def _close_soon(loop: asyncio.AbstractEventLoop, generator: AsyncGenerator[Transport]) -> None:
    task = loop.create_task(_aclose(generator))
    _closing.add(task)
    task.add_done_callback(_closing.discard)


async def _aclose(generator: AsyncGenerator[Transport]) -> None:
    await generator.aclose()


_alive: weakref.WeakSet[Transports] = weakref.WeakSet()
_closing: set[asyncio.Task[None]] = set()
_inherited: list[Any] = []  # never closed: a child that closes these would end its parent's


def _after_fork() -> None:
    for transports in list(_alive):
        transports.forget()


os.register_at_fork(after_in_child=_after_fork)
