"""The closing table: of each clause, whether a store keeps it, refuses it, or was not asked.

A pytest plugin, which the suite loads; it also makes ``NotTried`` a skip.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from chatstores.conformance.clauses import CLAUSES, clause_of
from chatstores.conformance.harness import NotThere, NotTried

__all__ = ["Column", "Table"]

PACKAGE = "chatstores.conformance"
_PART, _STORE, _REFUSED = "chatstores.clause", "chatstores.store", "chatstores.refused"
_NOT_THERE, _MODULE = "chatstores.not_there", "chatstores.module"

_HEADING = """\
# What each store keeps

Made by the conformance suite, from what it found. Nobody edits it by hand.

- *kept*: every test of the clause passed.
- *kept in part*: what was tried passed; the rest is below, with the reason.
- *refused*: the store says that it cannot, and raises `UnsupportedError`.
- *not tried*: the suite had no means to try it here.
- *asks less*: a part of the clause is about something that this store does not have.
- *-*: all of the clause is."""


@dataclass
class Column:
    """What came out for one store, by clause or part of one (``W4``, ``W4.processes``)."""

    tests: int = 0
    kept: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)
    not_tried: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    not_there: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    not_run: set[str] = field(default_factory=set)

    def word(self, clause: str) -> str:
        """The table's word for a clause."""

        def has(parts: Iterable[str]) -> bool:
            return any(clause_of(part) == clause for part in parts)

        if has(self.failed):
            return "FAILED"
        gap = "refused" if has(self.refused) else "not tried" if has(self.not_tried) else ""
        gap = gap or ("not run" if has(self.not_run) else "")
        if has(self.kept):
            return "kept in part" if gap else "kept"
        return gap or ("-" if has(self.not_there) else "no test")

    def reasons(self) -> Iterable[tuple[str, str, str]]:
        """Clauses, the word for what they are, and the reason; by the clauses' order."""
        parts: dict[tuple[str, str], set[str]] = defaultdict(set)
        for part, reason in self.refused.items():
            parts["refused", reason].add(part)
        for word, gaps in [("not tried", self.not_tried), ("asks less", self.not_there)]:
            for part, reasons in gaps.items():
                for reason in reasons:
                    parts[word, reason].add(part)
        found = [(sorted(names, key=_place), *why) for why, names in parts.items()]
        for names, word, reason in sorted(found, key=lambda f: (_place(f[0][0]), f[2])):
            yield ", ".join(names), word, reason


class Table:
    """Fills the columns from the reports of tests, and says what stands in them."""

    def __init__(self) -> None:
        self.columns: dict[str, Column] = defaultdict(Column)
        self._modules: dict[str, str] = {}  # which column a test module fills
        self._waiting: dict[str, tuple[str, str]] = {}  # tests that did not run: module, part

    def expect(self, items: Iterable[pytest.Item]) -> None:
        """Count tests as not run until they are."""
        for item in items:
            if marker := item.get_closest_marker("clause"):
                self._waiting[item.nodeid] = (_module(item), marker.args[0])

    def add(self, report: pytest.TestReport) -> None:
        """Take in what came out of one phase of a test."""
        properties: dict[str, Any] = dict(report.user_properties)
        part = properties.get(_PART)
        if part is None or (report.when != "call" and report.passed):
            return
        self._waiting.pop(report.nodeid, None)
        module = properties[_MODULE]
        name = properties.get(_STORE) or module.rpartition(".")[2]
        self._modules[module] = name
        column = self.columns[name]
        column.tests += report.when != "teardown"
        if report.failed:
            column.failed.add(part)
        elif _REFUSED in properties:
            column.refused[part] = properties[_REFUSED]
        elif report.skipped and _NOT_THERE in properties:
            column.not_there[part].add(_why(report))
        elif report.skipped:
            column.not_tried[part].add(_why(report))
        else:
            column.kept.add(part)

    def lines(self) -> Iterable[str]:
        """The table, then the reasons."""
        names, rows = self._rows()
        yield from _aligned([["", "", *names], *rows])
        for name in names:
            yield ""
            yield f"{name}: {self.columns[name].tests} tests"
            for parts, word, reason in self.columns[name].reasons():
                yield f"  {parts} {word}: {reason}"

    def markdown(self) -> Iterable[str]:
        """The same as a page; without numbers of tests, which say little and change often."""
        names, rows = self._rows()
        yield from _HEADING.splitlines()
        yield from ["", *_markdown_rows([["", "", *names], ["---"] * (2 + len(names)), *rows])]
        for name in names:
            if reasons := list(self.columns[name].reasons()):
                yield from ["", f"## {name}", ""]
                yield from (f"- {parts} *{word}*: {reason}" for parts, word, reason in reasons)

    def _rows(self) -> tuple[list[str], list[list[str]]]:
        """The stores' names, and for each clause its number, its words and what each store does."""
        names = sorted(self.columns)
        for module, part in self._waiting.values():
            if module in self._modules:
                self.columns[self._modules[module]].not_run.add(part)
        rows = []
        for clause, text in CLAUSES.items():
            words = [self.columns[name].word(clause) for name in names]
            if set(words) != {"not run"}:
                rows.append([clause, text, *words])
        return names, rows


def _aligned(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        yield "  ".join(cells).rstrip()


def _markdown_rows(rows: Iterable[Sequence[str]]) -> Iterable[str]:
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


def _place(part: str) -> tuple[int, str]:
    clause = clause_of(part)
    return (list(CLAUSES).index(clause) if clause in CLAUSES else len(CLAUSES), part)


def _module(item: pytest.Item) -> str:
    """The backend's own test module; all modules of this package are one, in a run by URL."""
    name = item.module.__name__ if isinstance(item, pytest.Function) else ""
    return PACKAGE if name.startswith(f"{PACKAGE}.") else name


def _why(report: pytest.TestReport) -> str:
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")


_table = pytest.StashKey[Table]()


def pytest_configure(config: pytest.Config) -> None:
    """Begin a table."""
    config.stash[_table] = Table()


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Remember what the command line left out."""
    if items:
        items[0].config.stash[_table].expect(items)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Remember what is to run."""
    session.config.stash[_table].expect(session.items)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    """Tie the reports to the clause."""
    if marker := item.get_closest_marker("clause"):
        item.user_properties += [(_PART, marker.args[0]), (_MODULE, _module(item))]
    return (yield from _not_tried_is_a_skip(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Let a test end with NotTried."""
    return (yield from _not_tried_is_a_skip(item))


def _not_tried_is_a_skip(item: pytest.Item) -> Generator[None, object, object]:
    try:
        return (yield)
    except NotTried as exc:
        if isinstance(exc, NotThere):
            item.user_properties.append((_NOT_THERE, True))
        pytest.skip(str(exc))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fill the table."""
    report = yield
    item.config.stash[_table].add(report)
    return report


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the table, and write it to the file of --contract-table."""
    table = config.stash[_table]
    if table.columns:
        terminalreporter.section("chatstores: the contract, clause by clause")
        for line in table.lines():
            terminalreporter.write_line(line)
        if config.option.contract_table:
            Path(config.option.contract_table).write_text("\n".join(table.markdown()) + "\n")
