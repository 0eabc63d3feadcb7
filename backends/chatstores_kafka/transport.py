"""How the hooks wait: for promises that a view's threads settle."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Mapping
from copy import copy
from typing import Any, Self, TypeVar

from chatstores.transport import AsyncTransport, SyncTransport
from chatstores_kafka.promise import Promise
from chatstores_kafka.topic import TopicSettings
from chatstores_kafka.view import View
from chatstores_kafka.views import acquire, release

__all__ = ["AsyncKafka", "SilentError", "SyncKafka"]

T = TypeVar("T")


class SilentError(Exception):
    """The brokers did not answer in an attempt's time."""


class _Holder:
    """A transport's hold on a view; shared by the transport's copies."""

    def __init__(
        self, config: Mapping[str, Any], settings: TopicSettings, state_dir: str | None
    ) -> None:
        self._place = (config, settings, state_dir)
        self._view: View | None = None

    def view(self) -> View:
        """The view."""
        if self._view is None:
            self._view = acquire(*self._place)
        return self._view

    def release(self) -> None:
        """Give it back."""
        view, self._view = self._view, None
        if view is not None:
            release(view)


class SyncKafka(SyncTransport):
    """Blocks until a promise is settled.

    Args:
        config: librdkafka's options of the connection.
        settings: the topic's.
        state_dir: where the view is kept between runs, or None.
        seconds: how long an attempt waits.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        settings: TopicSettings,
        state_dir: str | None,
        seconds: float,
    ) -> None:
        self._holder = _Holder(config, settings, state_dir)
        self.seconds = seconds

    def within(self, seconds: float) -> Self:
        """The same for an attempt that has so many seconds."""
        other = copy(self)
        other.seconds = seconds
        return other

    def view(self) -> View:
        """The topic's view."""
        return self._holder.view()

    async def wait(self, promise: Promise, progress: Callable[[], int] | None = None) -> None:
        """Return when a promise is kept, and raise what breaks it.

        Args:
            promise: what to wait for.
            progress: a number that grows as long as something comes: then the wait goes on.

        Raises:
            SilentError: nothing came in an attempt's time.
        """
        before = progress() if progress else 0
        while True:
            try:
                return promise.result(self.seconds)
            except TimeoutError:
                now = progress() if progress else 0
                if now == before:
                    raise SilentError(f"nothing came for {self.seconds:.3g} s") from None
                before = now

    async def close(self) -> None:
        """Give the view back."""
        self._holder.release()


class AsyncKafka(AsyncTransport):
    """Awaits a promise; the arguments are those of `SyncKafka`."""

    def __init__(
        self,
        config: Mapping[str, Any],
        settings: TopicSettings,
        state_dir: str | None,
        seconds: float,
    ) -> None:
        super().__init__()
        self._holder = _Holder(config, settings, state_dir)
        self._original = self
        self._loop = asyncio.get_running_loop()
        self._ready: deque[asyncio.Future[None]] = deque()
        self._posted = False
        self.seconds = seconds

    def within(self, seconds: float) -> Self:
        """The same for an attempt that has so many seconds."""
        other = copy(self)
        other.seconds = seconds
        return other

    def view(self) -> View:
        """The topic's view."""
        return self._holder.view()

    async def wait(self, promise: Promise, progress: Callable[[], int] | None = None) -> None:
        """Return when a promise is kept, and raise what breaks it; see `SyncKafka.wait`."""
        before = progress() if progress else 0
        while not await self._original._is_done(promise, self.seconds):
            now = progress() if progress else 0
            if now == before:
                raise SilentError(f"nothing came for {self.seconds:.3g} s")
            before = now
        promise.result(0)

    async def _is_done(self, promise: Promise, seconds: float) -> bool:
        """Wait for a promise; whether it is settled.

        Promises that are settled at the same moment wake the loop once.
        """
        waiter = self._loop.create_future()
        promise.when_done(lambda: self._post(waiter))
        timer = self._loop.call_later(seconds, _release, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
        return promise.done

    def _post(self, waiter: asyncio.Future[None]) -> None:
        """From any thread: have the loop release a waiter."""
        self._ready.append(waiter)
        if not self._posted:
            self._posted = True
            with contextlib.suppress(RuntimeError):  # the loop was closed in the meantime
                self._loop.call_soon_threadsafe(self._release_all)

    def _release_all(self) -> None:
        self._posted = False
        while self._ready:
            _release(self._ready.popleft())

    async def offload(self, function: Callable[..., T], *args: Any) -> T:
        """Call the function on a thread, which the transport's copies share."""
        return await AsyncTransport.offload(self._original, function, *args)

    async def close(self) -> None:
        """Give the view back."""
        await self.offload(self._holder.release)
        await super().close()


def _release(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
