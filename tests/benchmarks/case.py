"""A case: one call of ours, the raw call beside it, and the row of figures they give."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Call", "Case", "Form", "Row", "Statistic", "row"]

Call = Callable[[], Any]
Form = Literal["sync", "async"]
Statistic = Literal["median", "mean"]

_CENTRAL: dict[Statistic, Callable[[Sequence[int]], float]] = {
    "median": statistics.median,
    "mean": statistics.fmean,
}
_PARTS = 8
_HELD_UP = 5


@dataclass(frozen=True)
class Case:
    """What is measured: our call and, unless the bound is a time, the raw one beside it.

    In the form "async" both calls return awaitables; `reset` never does.
    """

    name: str
    backend: str
    form: Form
    history: int
    ours: Call
    raw: Call | None = None
    baseline: str = ""
    """What the raw call is, in its own words."""
    ceiling: float | None = None
    """The most that is allowed: times the raw call or, without one, microseconds."""
    statistic: Statistic = "median"
    reset: Call | None = None
    """Undoes, untimed, what the calls have grown."""
    reset_every: int = 1
    """After how many rounds it does."""
    watch: Call | None = None
    """Its result changes when our call has done what it does only now and then."""
    watched: str = ""
    """What that is."""


@dataclass(frozen=True)
class Row:
    """A line of the report; figures are in `unit`. Without figures, `note` says why."""

    name: str
    backend: str
    form: str
    history: int | None = None
    unit: str = "us"
    statistic: str = "median"
    ours: float | None = None
    raw: float | None = None
    ratio: float | None = None
    error: float | None = None
    """The standard error of the ratio (without a raw call, of the time), as a part of it."""
    ours_p99: float | None = None
    raw_p99: float | None = None
    baseline: str = ""
    ceiling: float | None = None
    met: bool | None = None
    rounds: int = 0
    watched: str = ""
    """How often our call did what it does only now and then."""
    disturbed: bool = False
    """Whether the raw call was often held up: the machine had other work, and means say little."""
    note: str = ""


def row(case: Case, ours: Sequence[int], raw: Sequence[int], changes: int = 0) -> Row:
    """The figures of a case from the nanoseconds of each round; `raw` may be empty."""
    ratio = _ratio(case.statistic, ours, raw) if raw else None
    figure = _central(case.statistic, ours)
    bounded = figure if ratio is None else ratio
    return Row(
        name=case.name,
        backend=case.backend,
        form=case.form,
        history=case.history,
        statistic=case.statistic,
        ours=round(figure, 3),
        raw=round(_central(case.statistic, raw), 3) if raw else None,
        ratio=None if ratio is None else round(ratio, 4),
        error=_error(case.statistic, ours, raw),
        ours_p99=round(_p99(ours), 3),
        raw_p99=round(_p99(raw), 3) if raw else None,
        baseline=case.baseline,
        ceiling=case.ceiling,
        met=None if case.ceiling is None else bounded <= case.ceiling,
        rounds=len(ours),
        disturbed=bool(raw) and _p99(raw) > _HELD_UP * _central("median", raw),
        watched=f"{case.watched}: {changes:,}" if case.watch else "",
    )


def _central(statistic: Statistic, times: Sequence[int]) -> float:
    return _CENTRAL[statistic](times) / 1000


def _ratio(statistic: Statistic, ours: Sequence[int], raw: Sequence[int]) -> float:
    return _central(statistic, ours) / _central(statistic, raw)


def _p99(times: Sequence[int]) -> float:
    """The 99th percentile, by the nearest rank."""
    return sorted(times)[-(-99 * len(times) // 100) - 1] / 1000


def _error(statistic: Statistic, ours: Sequence[int], raw: Sequence[int]) -> float | None:
    """How much the figure differs between the parts of the run; None if it was too short."""
    size = len(ours) // _PARTS
    if size < 2:
        return None
    parts = [slice(i * size, (i + 1) * size) for i in range(_PARTS)]
    if raw:
        figures = [_ratio(statistic, ours[part], raw[part]) for part in parts]
    else:
        figures = [_central(statistic, ours[part]) for part in parts]
    return round(statistics.stdev(figures) / math.sqrt(_PARTS) / statistics.fmean(figures), 4)
