"""The report: a table for people, the same as JSON for programs."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from tests.benchmarks.case import Row

__all__ = ["Check", "Report", "check_line", "machine", "table_head", "table_line"]

_COLUMNS = (
    ("backend", "<10"),
    ("form", "<5"),
    ("row", "<25"),
    ("history", ">7"),
    ("ours", ">9"),
    ("raw", ">9"),
    ("ratio", ">6"),
    ("+-", ">5"),
    ("ceiling", ">7"),
    ("met", "<3"),
    ("p99 ours", ">9"),
    ("p99 raw", ">9"),
    ("rounds", ">6"),
    ("raw is", "<0"),
)


@dataclass(frozen=True)
class Check:
    """Something that must be so, looked at in the same run."""

    name: str
    backend: str
    passed: bool
    detail: str = ""


@dataclass
class Report:
    """All that a run found."""

    header: dict[str, str]
    rows: list[Row] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    def summary(self) -> str:
        """How many ceilings are met, which are not, and whether other work disturbed it."""
        bounded = [row for row in self.rows if row.met is not None]
        over = [row for row in bounded if not row.met]
        lines = [f"{len(bounded) - len(over)} of {len(bounded)} ceilings met"]
        lines += [f"  over: {_title(row)}" for row in over]
        lines += [f"  not measured: {_title(row)}: {row.note}" for row in self.rows if row.note]
        disturbed = sum(row.disturbed for row in self.rows)
        if disturbed:
            lines.append(f"{disturbed} rows were disturbed by other work: measure them again")
        return "\n".join(lines)


def machine() -> dict[str, str]:
    """What the figures were taken on."""
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "cpu": f"{_cpu()}, {os.cpu_count()} cores",
        "system": platform.platform(),
        "python": platform.python_version(),
        "chatstores": version("chatstores"),
        "pydantic": version("pydantic"),
        "load before": f"{os.getloadavg()[0]:.2f}",
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def table_head() -> str:
    """The names of the columns."""
    return _line([name for name, _ in _COLUMNS])


def table_line(row: Row) -> str:
    """One row of the table."""
    history = f"{row.history:,}" if row.history else ""
    cells = [row.backend, row.form, row.name, history]
    if row.ours is None:
        return _line(cells).rstrip() + "  " + row.note
    return _line(
        [
            *cells,
            _figure(row.ours, row.unit),
            _figure(row.raw, row.unit),
            "" if row.ratio is None else f"{row.ratio:.2f}",
            "" if row.error is None else f"{row.error:.1%}",
            _ceiling(row),
            {True: "yes", False: "NO", None: ""}[row.met],
            _figure(row.ours_p99, row.unit),
            _figure(row.raw_p99, row.unit),
            str(row.rounds),
            _remarks(row),
        ]
    )


def check_line(check: Check) -> str:
    """One check."""
    verdict = "yes" if check.passed else "NO"
    return f"{check.backend}: {check.name}: {verdict}" + (check.detail and f" ({check.detail})")


def _title(row: Row) -> str:
    history = f"at {row.history:,}" if row.history else ""
    return " ".join(filter(None, [row.backend, row.form, row.name, history]))


def _line(cells: Sequence[str]) -> str:
    padded = [f"{cell:{width}}" for cell, (_, width) in zip(cells, _COLUMNS, strict=False)]
    return "  ".join(padded).rstrip()


def _remarks(row: Row) -> str:
    disturbed = "DISTURBED" if row.disturbed else ""
    mean = "means" if row.statistic == "mean" else ""
    return ", ".join(filter(None, [row.baseline, mean, row.watched, disturbed]))


def _ceiling(row: Row) -> str:
    if row.ceiling is None:
        return ""
    return f"{row.ceiling:g} {row.unit}" if row.ratio is None else f"{row.ceiling:.2f}"


def _figure(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    if unit != "us":
        return f"{value:,.0f} {unit}"
    if value < 1_000:
        return f"{value:.1f} us"
    return f"{value / 1_000:.2f} ms" if value < 1_000_000 else f"{value / 1_000_000:.2f} s"
