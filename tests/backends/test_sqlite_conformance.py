"""The contract on sqlite:///, and on a database in memory."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from chatstores.conformance import Harness
from chatstores.conformance.suite import *  # noqa: F403
from tests.backends.local_harness import LocalHarness


class SqliteHarness(LocalHarness):
    """A file in a directory of the tests."""

    needs_setup = True
    driver = "sqlalchemy"

    def __init__(self, directory: Path) -> None:
        self.path = directory / f"{secrets.token_hex(8)}.db"
        super().__init__(f"sqlite:///{self.path}")

    def overwrite(self, namespace: str, key: str, index: int, payload: bytes) -> None:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute(
                "UPDATE chatstores_messages SET payload = ? WHERE (session, ordinal) = ("
                "SELECT session, ordinal FROM chatstores_messages m JOIN chatstores_sessions s "
                "ON s.id = m.session WHERE namespace = ? AND key = ? "
                "ORDER BY ordinal LIMIT 1 OFFSET ?)",
                (payload.decode(errors="replace"), namespace, key, index),
            )

    @contextmanager
    def contended(self, namespace: str, key: str) -> Iterator[None]:
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("ROLLBACK")

    @contextmanager
    def fresh_place(self) -> Iterator[Harness]:
        yield SqliteHarness(self.path.parent)


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> SqliteHarness:
    return SqliteHarness(tmp_path_factory.mktemp("sqlite"))
