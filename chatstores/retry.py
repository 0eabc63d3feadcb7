"""Deadlines, and how long to wait between attempts."""

from __future__ import annotations

import random
import time

__all__ = ["CONTENTION_LIMIT", "Busy", "Deadline", "NotDone", "attempt_seconds"]

#: How long a write goes on losing to other writers, in seconds (the contract's U3).
CONTENTION_LIMIT = 30.0

_SHORTEST_ATTEMPT = 0.25
#: Seconds that the last attempt has at least, or a tenth of all if that is less: one that times
#: out makes a certain "it was not done" an unknown outcome.
_LAST_ATTEMPT = 0.05


class NotDone(Exception):
    """A transport's word that the engine did nothing: not reached, or it refused to begin.

    Raised ``from`` the driver's error. The same command may be sent again without a question.
    """


class Busy(Exception):
    """A hook's word that another writer was first, or holds the lock; the engine did nothing.

    Its text says who. The same hook is called again until ``CONTENTION_LIMIT``, with pauses from
    1 ms to 20 ms: raise it at once, and wait for no lock yourself.
    """


def attempt_seconds(left: float) -> float:
    """Seconds for an attempt when so many are left: half of them, but at least 250 ms."""
    return max(0.001, min(left, max(_SHORTEST_ATTEMPT, left / 2)))


class Deadline:
    """The time that one call of a user has, over all its attempts.

    Args:
        seconds: how long.
        began: when it began, by ``time.monotonic()``; default now.
        first_pause: seconds before the second attempt; then twice as long each time,
        longest_pause: up to this.
    """

    __slots__ = ("_began", "_end", "_last", "_longest", "_pause")

    def __init__(
        self,
        seconds: float,
        began: float | None = None,
        *,
        first_pause: float = 0.02,
        longest_pause: float = 1.0,
    ) -> None:
        self._began = time.monotonic() if began is None else began
        self._end = self._began + seconds
        self._last = min(_LAST_ATTEMPT, seconds / 10)
        self._pause = first_pause
        self._longest = longest_pause

    def attempt(self) -> float:
        """Seconds for the next attempt."""
        return attempt_seconds(self._end - time.monotonic())

    def pause(self) -> float | None:
        """Seconds to wait before another attempt, with jitter; None if no time is left for one."""
        seconds = random.uniform(self._pause / 2, self._pause)
        self._pause = min(self._pause * 2, self._longest)
        left = self._end - time.monotonic() - self._last
        return min(seconds, left) if left > 0 else None
