"""Moment: when something was asked, so that time in which the machine slept counts as well."""

from __future__ import annotations

import time
from typing import NamedTuple

__all__ = ["Moment"]

#: The steady clock stands still while a Linux machine is suspended, but for this one.
_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Moment(NamedTuple):
    """A moment by two clocks.

    Attributes:
        steady: seconds by the steady clock, which nobody sets.
        wall: seconds since 1970, by the clock that also knows of a machine that was stopped and
            resumed from a snapshot.
    """

    steady: float
    wall: float

    @classmethod
    def ago(cls, seconds: float = 0.0) -> Moment:
        """So many seconds before now."""
        return cls(time.clock_gettime(_STEADY) - seconds, time.time() - seconds)

    def age(self) -> float:
        """Seconds since then, the most that either clock says."""
        now = Moment.ago()
        return max(now.steady - self.steady, now.wall - self.wall)
