"""A run: every row that is wanted, backend by backend."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module

import pytest

from chatstores.errors import UnknownBackendError
from chatstores.registry import find_backend
from tests.benchmarks.backend import Backend, Plan, open_cases
from tests.benchmarks.buffer import NAMES as BUFFER_NAMES
from tests.benchmarks.buffer import buffer_cases, open_buffers, sees_another_put
from tests.benchmarks.case import Row
from tests.benchmarks.imports import import_case, imports_no_driver
from tests.benchmarks.report import Check, Report, check_line, machine, table_head, table_line
from tests.benchmarks.runner import measure

__all__ = ["Run"]

_IMPORT_SECONDS = 20.0
_BUFFER_SECONDS = 3.0
_NOT_THERE = (ImportError, UnknownBackendError, pytest.skip.Exception, pytest.fail.Exception)


class Run:
    """One run: what is measured is printed at once, and kept in `report`.

    Args:
        words: rows are measured whose title, such as "redis async add one", holds all of these.
        scale: the share of its usual time that each row gets.
    """

    def __init__(self, words: Sequence[str] = (), scale: float = 1.0) -> None:
        self.report = Report({})
        self._words = [word.lower() for word in words]
        self._scale = scale

    def head(self) -> None:
        """What the figures are taken on, and the names of the columns."""
        self._header(machine())
        print(f"\n{table_head()}", flush=True)

    def core(self) -> None:
        """The rows that need no backend."""
        case = import_case()
        if self._wanted(case.backend, case.form, case.name):
            with self._noting(Row(case.name, case.backend, case.form)):
                seconds = _IMPORT_SECONDS * self._scale
                self._rows(asyncio.run(measure([case], seconds, least=10)))
                self._check(imports_no_driver())

    def module(self, name: str) -> None:
        """The rows of a backend's module."""
        with self._noting(Row("every row", name.partition("_")[0], "")):
            backend: Backend = import_module(f"tests.benchmarks.{name}").BACKEND
            self.backend(backend)

    def backend(self, backend: Backend) -> None:
        """The rows of a backend."""
        plans = [p for p in backend.plans if self._wanted(backend.name, p.form, p.title)]
        others = [o for o in backend.others if self._wanted(backend.name, o.form, o.name)]
        buffers = [name for name in BUFFER_NAMES if self._wanted(backend.name, "sync", name)]
        if not plans and not others and not buffers:
            return
        with self._noting(Row("every row", backend.name, "")):
            find_backend(backend.name)
            with backend.place() as place:
                self._header(backend.facts(place))
                for plan in plans:
                    self._plan(backend, place, plan)
                for other in others:
                    with self._noting(Row(other.name, backend.name, other.form)):
                        for row in other.rows(place, self._scale):
                            self._rows([row])
                if buffers:
                    self._buffers(backend, place, buffers)
                if any(plan.kind == "add" for plan in plans):
                    with self._noting(Row("checks", backend.name, "")):
                        for check in backend.checks(place):
                            self._check(check)

    def _plan(self, backend: Backend, place: str, plan: Plan) -> None:
        async def run() -> list[Row]:
            async with open_cases(backend, place, plan) as cases:
                return await measure(cases, plan.seconds * self._scale)

        with self._noting(Row(plan.title, backend.name, plan.form)):
            self._rows(asyncio.run(run()))

    def _buffers(self, backend: Backend, place: str, names: Sequence[str]) -> None:
        with (
            self._noting(Row(names[0], backend.name, "sync")),
            open_buffers(backend, place) as buffers,
        ):
            for case in buffer_cases(backend, buffers):
                if case.name in names:
                    self._rows(asyncio.run(measure([case], _BUFFER_SECONDS * self._scale)))
            self._check(sees_another_put(backend, buffers))

    def _wanted(self, backend: str, form: str, name: str) -> bool:
        title = f"{backend} {form} {name}".lower()
        return all(word in title for word in self._words)

    def _header(self, facts: dict[str, str]) -> None:
        for name, value in facts.items():
            print(f"{name}: {value}", flush=True)
        self.report.header |= facts

    def _rows(self, rows: Sequence[Row]) -> None:
        for row in rows:
            print(table_line(row), flush=True)
        self.report.rows += rows

    def _check(self, check: Check) -> None:
        print(check_line(check), flush=True)
        self.report.checks.append(check)

    @contextmanager
    def _noting(self, row: Row) -> Iterator[None]:
        """Put a line in the table for what could not be measured, and go on."""
        try:
            yield
        except _NOT_THERE as exc:
            self._rows([replace(row, note=f"not there: {exc}")])
        except Exception as exc:
            self._rows([replace(row, note=f"failed: {type(exc).__name__}: {exc}")])
