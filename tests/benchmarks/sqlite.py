"""sqlite:///: the standard library's own calls on a plain table."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from contextlib import AbstractContextManager
from itertools import count
from pathlib import Path
from typing import Any

from tests.benchmarks.backend import HISTORIES, Backend, Plan, Raw
from tests.benchmarks.json_file import disk, filesystem

__all__ = ["BACKEND"]


class _Calls:
    """A table of a number and a payload in a file of its own, over one connection."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode = wal")
        self._connection.execute("PRAGMA synchronous = full")
        self._connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, payload TEXT NOT NULL)")

    def fill(self, payloads: Sequence[bytes]) -> None:
        """Have the table hold these."""
        rows = [(number, payload.decode()) for number, payload in enumerate(payloads, 1)]
        with self._connection:
            self._connection.execute("BEGIN")
            self._connection.execute("DELETE FROM t WHERE id > ?", (len(rows),))
            self._connection.executemany("INSERT OR IGNORE INTO t VALUES (?, ?)", rows)
        self._numbers = count(len(rows) + 1)

    def add(self, payload: bytes) -> Any:
        """INSERT, which commits."""
        values = (next(self._numbers), payload.decode())
        self._connection.execute("INSERT INTO t VALUES (?, ?)", values)

    def last(self) -> Any:
        """The payloads of the newest 20."""
        return self._connection.execute(
            "SELECT payload FROM t ORDER BY id DESC LIMIT 20"
        ).fetchall()

    def close(self) -> None:
        """Close the file; its directory is removed."""
        self._connection.close()


class _AsyncCalls(_Calls):
    def add(self, payload: bytes) -> Any:
        """INSERT on a thread."""
        return asyncio.get_running_loop().run_in_executor(None, super().add, payload)

    def last(self) -> Any:
        """The same on a thread."""
        return asyncio.get_running_loop().run_in_executor(None, super().last)


class Sqlite(Backend):
    """The SQLite store."""

    name = "sqlite"
    plans = (
        Plan("add", "sync", HISTORIES, 15, 1.5, "INSERT"),
        Plan("add", "async", HISTORIES, 10, None, "INSERT on a thread"),
        Plan("last", "sync", (10_000,), 5, None, "SELECT ... LIMIT 20"),
        Plan("last", "async", (10_000,), 5, None, "SELECT ... LIMIT 20 on a thread"),
    )

    def place(self) -> AbstractContextManager[str]:
        """A directory on a disk."""
        return disk()

    def url(self, place: str, name: str) -> str:
        """A file for each name."""
        return f"sqlite:///{place}/{name}.db"

    def raw(self, place: str, plan: Plan, name: str) -> Raw:
        """The standard library's own calls."""
        calls = _Calls if plan.form == "sync" else _AsyncCalls
        return calls(Path(place, f"{name}.raw"))

    def facts(self, place: str) -> dict[str, str]:
        """The version and the filesystem."""
        return {"sqlite": f"{sqlite3.sqlite_version}, synchronous=full, on {filesystem(place)}"}


BACKEND = Sqlite()
