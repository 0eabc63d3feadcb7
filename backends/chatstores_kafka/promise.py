"""Promise: what one thread waits for and another one settles."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

__all__ = ["Promise"]


class Promise:
    """Is settled once; one caller waits for it, by blocking or by a callback.

    Each write has one. A ``concurrent.futures.Future`` does the same for many who wait, and costs
    three times as much.

    Attributes:
        done: whether it is settled.
        cancelled: whether nobody waits for it any longer.
    """

    __slots__ = ("_callback", "_error", "_unsettled", "cancelled", "done")

    def __init__(self) -> None:
        self.done = self.cancelled = False
        self._error: BaseException | None = None
        self._callback: Callable[[], None] | None = None
        self._unsettled = Lock()
        self._unsettled.acquire()

    def settle(self, error: BaseException | None = None) -> None:
        """Have it be kept or, with an error, broken."""
        self._error = error
        self.done = True
        self._unsettled.release()
        if self._callback is not None:
            self._callback()

    def result(self, seconds: float) -> None:
        """Wait until it is settled.

        Args:
            seconds: how long at most.

        Raises:
            TimeoutError: it was not.
            BaseException: it is broken, by this error.
        """
        if not self._unsettled.acquire(timeout=seconds):
            raise TimeoutError
        self._unsettled.release()
        if self._error is not None:
            raise self._error

    def when_done(self, callback: Callable[[], None]) -> None:
        """Have a function called by the thread that settles it, at least once; at once if it is.

        The function takes the place of the one before.
        """
        self._callback = callback
        if self.done:
            callback()
