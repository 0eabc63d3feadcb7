"""The contract on sqlite:///, and on a database in memory."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from chatstores.conformance import Harness, NotThere
from chatstores.conformance.suite import *  # noqa: F403


class SqliteHarness(Harness):
    """A file in a directory of the tests."""

    throwaway = True
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

    def away(self) -> NoReturn:
        raise NotThere("there is no server")

    restart = silent = away

    def dropped_replies(self, n: int) -> NoReturn:
        raise NotThere("there is no wire")

    def received(self) -> NoReturn:
        raise NotThere("there is no wire")

    def borrowed(self, form: str, **options: object) -> NoReturn:
        raise NotThere("there is no client")

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
