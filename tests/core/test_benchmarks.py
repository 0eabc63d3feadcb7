"""The benchmarks' own machinery, on toy cases; no figure is judged here."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest

from chatstores.codec import encode
from tests.benchmarks.backend import Backend, Plan, open_cases
from tests.benchmarks.case import Case, Row, row
from tests.benchmarks.json_file import filesystem
from tests.benchmarks.messages import WORDS, make_messages, payloads
from tests.benchmarks.report import Check, Report, check_line, table_head, table_line
from tests.benchmarks.run import Run
from tests.benchmarks.runner import measure

ROOT = Path(__file__).parents[2]


def toy(**fields: Any) -> Case:
    """A case that does nothing."""
    given = {"ours": lambda: None, "history": 10} | fields
    return Case(name="do nothing", backend="toy", form=given.pop("form", "sync"), **given)


class ToyCalls:
    """A list in the place of a driver."""

    def __init__(self) -> None:
        self.kept: list[bytes] = []
        self.closed = False

    def fill(self, payloads: Sequence[bytes]) -> None:
        self.kept = list(payloads)

    def add(self, payload: bytes) -> None:
        self.kept.append(payload)

    def last(self) -> list[bytes]:
        return self.kept[-20:]

    def all(self) -> list[Any]:
        return [json.loads(payload) for payload in self.kept]

    def close(self) -> None:
        self.closed = True


class AwaitedToyCalls(ToyCalls):
    """The same, awaited."""

    async def last(self) -> list[bytes]:  # type: ignore[override]
        return self.kept[-20:]

    async def close(self) -> None:  # type: ignore[override]
        self.closed = True


class Toy(Backend):
    """The memory store beside a list."""

    name = "memory"
    plans = (
        Plan("add", "sync", (10, 30), 0, 2, "append"),
        Plan("last", "async", (30,), 0, 2, "slice"),
        Plan("all", "sync", (30,), 0),
    )

    def __init__(self) -> None:
        self.opened: list[ToyCalls] = []

    @contextmanager
    def place(self) -> Iterator[str]:
        yield "toy"

    def url(self, place: str, name: str) -> str:
        return f"memory://{place}-{name}"

    def raw(self, place: str, plan: Plan, name: str) -> ToyCalls:
        self.opened.append(ToyCalls() if plan.form == "sync" else AwaitedToyCalls())
        return self.opened[-1]

    def facts(self, place: str) -> dict[str, str]:
        return {"list": "of this interpreter"}


def test_a_round_calls_each_side_once_and_resets_between() -> None:
    seen: list[str] = []
    case = toy(
        ours=lambda: seen.append("ours"),
        raw=lambda: seen.append("raw"),
        reset=lambda: seen.append("reset"),
        reset_every=2,
    )
    [found] = asyncio.run(measure([case], 0, least=6))
    rounds = "".join({"ours": "o", "raw": "r", "reset": "|"}[word] for word in seen)
    assert found.rounds == 6
    assert [sorted(part) for part in rounds.split("|")] == [["o", "o", "r", "r"]] * 6
    assert {"or", "ro"} <= {part[:2] for part in rounds.split("|")}


def test_what_a_case_does_now_and_then_is_counted() -> None:
    done = {"ours": 0}

    def ours() -> None:
        done["ours"] += 1

    case = toy(ours=ours, watch=lambda: done["ours"] // 4, watched="fourths")
    [found] = asyncio.run(measure([case], 0, least=10))
    assert (found.rounds, found.watched) == (10, "fourths: 3")
    assert table_line(found).endswith("  fourths: 3")


def test_a_case_goes_on_until_what_it_watches_has_happened() -> None:
    start = perf_counter()
    done = {"late": False}

    def ours() -> None:
        done["late"] = perf_counter() > start + 1.05

    case = toy(ours=ours, watch=lambda: done["late"], watched="ends")
    [found] = asyncio.run(measure([case], 1.0))
    assert found.watched == "ends: 1"


def test_an_async_case_awaits_both_sides() -> None:
    awaited = {"ours": 0, "raw": 0}

    async def call(side: str) -> None:
        await asyncio.sleep(0)
        awaited[side] += 1

    case = toy(form="async", ours=lambda: call("ours"), raw=lambda: call("raw"))
    [found] = asyncio.run(measure([case], 0, least=4))
    assert found.form == "async"
    assert awaited == {"ours": 8, "raw": 8}


def test_the_figures_of_a_row() -> None:
    ours = [3_000] * 98 + [5_000, 9_000]
    raw = [2_000] * 99 + [102_000]
    median = row(toy(raw=lambda: None, ceiling=1.5), ours, raw)
    assert (median.ours, median.raw, median.ratio, median.met) == (3.0, 2.0, 1.5, True)
    assert (median.ours_p99, median.raw_p99) == (5.0, 2.0)
    mean = row(toy(raw=lambda: None, ceiling=1, statistic="mean"), ours, raw)
    assert (mean.ours, mean.raw, mean.ratio, mean.met) == (3.08, 3.0, 1.0267, False)
    alone = row(toy(ceiling=3), ours, [])
    assert (alone.raw, alone.ratio, alone.error, alone.met) == (None, None, 0.0, True)
    assert row(toy(), [1, 2], []).error is None


def test_the_table_and_the_json_say_the_same(tmp_path: Path) -> None:
    measured = row(toy(raw=lambda: None, baseline="pass", ceiling=2), [3_000] * 4, [2_000] * 4)
    over = row(toy(ceiling=1.0), [2_500_000], [])
    missing = Row("every row", "none", "", note="not there: no driver")
    report = Report({"cpu": "toy"}, [measured, over, missing], [Check("it is so", "toy", True)])
    report.write(tmp_path / "bench.json")
    read = json.loads((tmp_path / "bench.json").read_text())
    assert read == asdict(report)
    assert read["rows"][0]["ratio"] == 1.5
    assert table_head().split()[:4] == ["backend", "form", "row", "history"]
    assert "3.0 us     2.0 us    1.50" in table_line(measured)
    assert table_line(measured).endswith("  pass")
    assert "1 us  NO" in table_line(over)
    assert "2.50 ms" in table_line(over)
    assert table_line(missing).endswith("  not there: no driver")
    assert check_line(read and report.checks[0]) == "toy: it is so: yes"
    assert report.summary().splitlines() == [
        "1 of 2 ceilings met",
        "  over: toy sync do nothing at 10",
        "  not measured: none every row: not there: no driver",
    ]


def test_a_row_says_that_other_work_disturbed_it() -> None:
    disturbed = row(toy(raw=lambda: None), [3_000] * 100, [2_000] * 98 + [50_000] * 2)
    assert disturbed.disturbed
    assert table_line(disturbed).endswith("  DISTURBED")
    assert "1 rows were disturbed" in Report({}, [disturbed]).summary()


def test_a_backend_is_measured_against_its_raw_calls(capsys: pytest.CaptureFixture[str]) -> None:
    backend = Toy()
    run = Run(["memory", "a"], scale=0)
    run.backend(backend)
    rows = [found for found in run.report.rows if not found.name.startswith("buffer")]
    assert [(r.name, r.form, r.history, r.note) for r in rows] == [
        ("add one", "sync", 10, ""),
        ("add one", "sync", 30, ""),
        ("last 20", "async", 30, ""),
        ("all", "sync", 30, ""),
    ]
    assert all(found.ratio for found in rows)
    assert rows[-1].met is None
    assert run.report.header == {"list": "of this interpreter"}
    assert all(calls.closed for calls in backend.opened)
    assert "last 20" in capsys.readouterr().out


def test_both_sides_hold_the_same_bytes() -> None:
    async def compare() -> None:
        backend = Toy()
        async with open_cases(backend, "bytes", Toy.plans[0]) as cases:
            for case, raw in zip(cases, backend.opened, strict=True):
                assert case.raw is not None
                assert len(raw.kept) == case.history
                for _ in range(5):
                    assert case.ours().added == 1
                    case.raw()
            history = Toy.plans[2]
            async with open_cases(backend, "bytes", history) as [case]:
                stored = [encode(message) for message in case.ours()]
                assert stored == backend.opened[-1].kept

    asyncio.run(compare())


def test_what_is_missing_or_fails_is_a_line_in_the_table() -> None:
    class Missing(Toy):
        name = "nothing"

    class Failing(Toy):
        def raw(self, place: str, plan: Plan, name: str) -> ToyCalls:
            raise RuntimeError("it broke")

    run = Run(["all"], scale=0)
    run.backend(Missing())
    run.backend(Failing())
    run.module("no_such_module")
    notes = [found.note for found in run.report.rows]
    assert notes[0].startswith("not there: no backend has the scheme 'nothing'")
    assert notes[1] == "failed: RuntimeError: it broke"
    assert notes[2].startswith("not there: No module named")


def test_messages_are_of_so_many_words_and_equal_in_every_run() -> None:
    some, again = make_messages(50), make_messages(50)
    assert {len(str(message.content).split()) for message in some} == {WORDS}
    assert [m.content for m in some] == [m.content for m in again]
    assert len({message.id for message in some + again}) == 100
    assert payloads(some) == [encode(message) for message in some]


def test_the_filesystem_has_a_name(tmp_path: Path) -> None:
    assert filesystem(str(tmp_path))


def test_the_command_writes_json(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    command = [sys.executable, "-m", "tests.benchmarks", "--quick", "--json", str(path)]
    command += ["--only", "memory", "async", "last"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    found = json.loads(path.read_text())
    assert {r["name"] for r in found["rows"]} == {"last 20"}
    assert {"cpu", "python", "date"} <= found["header"].keys()
    assert "of 2 ceilings met" in done.stdout
