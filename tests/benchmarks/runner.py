"""The runner: rounds in which every side of every case is called once, in random order."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from time import perf_counter, perf_counter_ns
from typing import NamedTuple

from tests.benchmarks.case import Call, Case, Row, row

__all__ = ["measure"]

_WARM_UP = 10


@dataclass
class _Tally:
    """A case, the nanoseconds that its sides took, and how often what it watches changed."""

    case: Case
    ours: list[int] = field(default_factory=list)
    raw: list[int] = field(default_factory=list)
    changes: int = 0
    whole: int = 0
    """The rounds up to the last change."""

    def forget(self) -> None:
        """Begin anew: so far it was warming up."""
        self.ours.clear()
        self.raw.clear()
        self.changes = self.whole = 0

    def change(self) -> None:
        """The watched thing has changed in the last round."""
        self.changes += 1
        self.whole = len(self.ours)

    def row(self) -> Row:
        """What it came to: where something is watched, over whole cycles of it if there was one."""
        end = self.whole or None
        return row(self.case, self.ours[:end], self.raw[:end], self.changes)


class _Step(NamedTuple):
    """A call to be timed, and where its time goes."""

    call: Call
    times: list[int]
    awaited: bool


async def measure(cases: Sequence[Case], seconds: float, *, least: int = 30) -> list[Row]:
    """Measure cases together for so long, at least so many rounds, after a few for warming up.

    It takes up to twice as long where that lets all that is watched happen once.
    """
    tallies = [_Tally(case) for case in cases]
    with _quiet():
        for call, times, awaited in _steps(tallies, seconds, least):
            times.append(await _timed(call) if awaited else _timed_sync(call))
    return [tally.row() for tally in tallies]


def _timed_sync(call: Call) -> int:
    start = perf_counter_ns()
    call()
    return perf_counter_ns() - start


async def _timed(call: Call) -> int:
    start = perf_counter_ns()
    await call()
    return perf_counter_ns() - start


def _steps(tallies: Sequence[_Tally], seconds: float, least: int) -> Iterator[_Step]:
    """Every call of a run in its order, which is the same in every run."""
    shuffle = random.Random(1).shuffle
    steps = list(_sides(tallies))
    warm_up = min(_WARM_UP, least)
    end = perf_counter() + seconds
    for number in count():
        if number >= warm_up + least and _enough(tallies, perf_counter() - end, seconds):
            return
        for tally in tallies:
            case = tally.case
            if number == warm_up:
                tally.forget()
            if case.reset is not None and number and number % case.reset_every == 0:
                case.reset()
        before = _watched(tallies)
        shuffle(steps)
        yield from steps
        for tally, old, new in zip(tallies, before, _watched(tallies), strict=True):
            if old != new:
                tally.change()


def _enough(tallies: Sequence[_Tally], over: float, seconds: float) -> bool:
    """Whether to end, so many seconds over the time."""
    waiting = any(tally.case.watch and not tally.changes for tally in tallies)
    return over >= (seconds if waiting else 0)


def _sides(tallies: Sequence[_Tally]) -> Iterator[_Step]:
    for tally in tallies:
        case, awaited = tally.case, tally.case.form == "async"
        yield _Step(case.ours, tally.ours, awaited)
        if case.raw is not None:
            yield _Step(case.raw, tally.raw, awaited)


def _watched(tallies: Sequence[_Tally]) -> list[object]:
    return [tally.case.watch and tally.case.watch() for tally in tallies]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the garbage collector, which stays on for both sides, off what was there before."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
