"""postgresql://: the drivers' own calls, with the same statement and with the plainest."""

from __future__ import annotations

import re
import secrets
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from itertools import count
from typing import Any

import asyncpg
import psycopg
from sqlalchemy.dialects.postgresql.base import PGDialect

from chatstores import open_store
from chatstores.codec import decode
from chatstores_sql.statements import statements as statements_of
from chatstores_sql.tables import Tables
from tests.benchmarks.backend import HISTORIES, Backend, Plan, Raw
from tests.benchmarks.case import Form
from tests.benchmarks.json_file import filesystem
from tests.benchmarks.messages import make_messages, payloads
from tests.benchmarks.report import Check
from tests.servers import find
from tests.servers.postgres import PostgresServer

__all__ = ["BACKEND"]

_RUN = f"bench-{secrets.token_hex(4)}"
_TABLES = Tables(PGDialect(), "chatstores_")  # type: ignore[no-untyped-call]
_SQL = statements_of(_TABLES)
_SESSIONS, _MESSAGES = _TABLES.name("sessions"), _TABLES.name("messages")
_LAST = f"SELECT payload FROM {_MESSAGES} WHERE session = $1 ORDER BY ordinal DESC LIMIT 20"
_PLAIN = "add one, plain INSERT"
_COLUMNS = ("session", "ordinal", "id", "version", "command", "added", "at", "payload")
_WAL = 2_048
_WAL_ADDS = 200


class _Server(PostgresServer):
    """A server whose commits are on the disk."""

    def __init__(self) -> None:
        super().__init__(fsync=True)


class _Sync:
    """psycopg on one connection that commits each statement."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(url, autocommit=True)

    def run(self, statement: str, *values: Any) -> Any:
        """Run a statement; its rows."""
        cursor = psycopg.RawCursor(self._connection)
        cursor.execute(statement, values)
        return cursor.fetchall()

    def copy(self, table: str, rows: Sequence[Sequence[Any]]) -> Any:
        """COPY rows into a table."""
        with self._connection.cursor() as cursor, cursor.copy(_copying(table)) as copy:
            for row in rows:
                copy.write_row(row)

    def close(self) -> Any:
        """Close the connection."""
        self._connection.close()


class _Async:
    """asyncpg on one connection, made at the first call."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: Any = None

    async def run(self, statement: str, *values: Any) -> Any:
        """Run a statement; its rows."""
        if self._connection is None:
            self._connection = await asyncpg.connect(self._url)
        return await self._connection.fetch(statement, *values)

    async def copy(self, table: str, rows: Sequence[Sequence[Any]]) -> Any:
        """COPY rows into a table."""
        if self._connection is None:
            self._connection = await asyncpg.connect(self._url)
        await self._connection.copy_records_to_table(table, records=rows, columns=_COLUMNS)

    async def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            await self._connection.close()


class _Calls:
    """What all three share; they are filled over connections of their own, which are never timed.

    Args:
        url: the store's.
        place: the server's.
        name: of the row.
        driver: what is timed.
    """

    def __init__(self, url: str, place: str, name: str, driver: _Sync | _Async) -> None:
        self._url = url
        self._name = f"raw {name}"
        self._driver = driver
        self._other = psycopg.connect(place, autocommit=True)
        self._numbers = count(1)

    def remove(self) -> None:
        """Remove what was written."""

    def close(self) -> Any:
        """Remove what was written and close the connections."""
        self.remove()
        self._other.close()
        return self._driver.close()

    def _do(self, statement: str, *values: Any) -> Any:
        cursor = psycopg.RawCursor(self._other).execute(statement, values or None)
        return cursor.fetchall() if cursor.description else []


class _Same(_Calls):
    """The store's own statement, on a session beside the store's; and the newest payloads of it."""

    _session = 0

    def fill(self, payloads: Sequence[bytes]) -> None:
        """Have the session hold these."""
        messages = decode(payloads)
        with open_store(self._url) as store:
            if self._session:
                store.delete_after(self._name, messages[-1].id)
                return
            store.set_messages(self._name, messages)
        [[self._session]] = self._do(
            f"SELECT id FROM {_SESSIONS} WHERE namespace = $1 AND key = $2", _RUN, self._name
        )

    def add(self, payload: bytes) -> Any:
        """The statement that adds."""
        about = (_RUN, self._name, None, None, next(self._numbers), secrets.token_bytes(16))
        return self._driver.run(_SQL.append, *about, payload.decode())

    def last(self) -> Any:
        """The payloads of the newest 20."""
        return self._driver.run(_LAST, self._session)

    def remove(self) -> None:
        """Delete the session."""
        with open_store(self._url) as store:
            store.delete_messages(self._name)


class _Plain(_Calls):
    """A table of a number and a payload."""

    _filled = False

    def fill(self, payloads: Sequence[bytes]) -> None:
        """Have the table hold these."""
        if self._filled:
            self._do(f"DELETE FROM {self._table} WHERE id > {len(payloads)}")
        else:
            self._do(f"CREATE TABLE {self._table} (id bigint PRIMARY KEY, payload text NOT NULL)")
            texts = [payload.decode() for payload in payloads]
            self._do(
                f"INSERT INTO {self._table} SELECT n, payload "
                "FROM unnest($1::text[]) WITH ORDINALITY AS row (payload, n)",
                texts,
            )
            self._filled = True
        self._statement = f"INSERT INTO {self._table} (id, payload) VALUES ($1, $2) RETURNING id"
        self._numbers = count(len(payloads) + 1)

    def add(self, payload: bytes) -> Any:
        """INSERT."""
        return self._driver.run(self._statement, next(self._numbers), payload.decode())

    def remove(self) -> None:
        """Drop the table."""
        self._do(f"DROP TABLE {self._table}")

    @property
    def _table(self) -> str:
        return f'"{_RUN} {self._name}"'


class _Copy(_Calls):
    """A table like that of the messages."""

    _batch: Sequence[tuple[Any, ...]] = ()
    _history = 0

    def fill(self, payloads: Sequence[bytes]) -> None:
        """Have the table hold these."""
        if not self._history:
            self._do(f"CREATE TABLE {self._table} (LIKE {_MESSAGES} INCLUDING ALL)")
            copying = _copying(self._table)
            with self._other.cursor() as cursor, cursor.copy(copying) as copy:
                for row in _rows(payloads):
                    copy.write_row(row)
            self._history = len(payloads)
        self._do(f"DELETE FROM {self._table} WHERE ordinal > {self._history}")

    def batch(self, payloads: Sequence[bytes]) -> Any:
        """COPY."""
        if not self._batch:
            self._batch = _rows(payloads, self._history + 1)
        return self._driver.copy(self._table, self._batch)

    def remove(self) -> None:
        """Drop the table."""
        self._do(f"DROP TABLE {self._table}")

    @property
    def _table(self) -> str:
        return re.sub(r"\W+", "_", f"{_RUN} {self._name}").lower()


def _copying(table: str) -> bytes:
    return f"COPY {table} ({', '.join(_COLUMNS)}) FROM STDIN".encode()


def _rows(payloads: Sequence[bytes], first: int = 1) -> list[tuple[Any, ...]]:
    """Rows of messages."""
    return [
        (1, ordinal, secrets.token_bytes(16), 1, 1, 1, 1, payload.decode())
        for ordinal, payload in enumerate(payloads, first)
    ]


def _plans(form: Form) -> list[Plan]:
    add, plain = (1.4, 1.75) if form == "sync" else (1.5, 2.0)
    return [
        Plan("add", form, HISTORIES, 10, add, "the same statement"),
        Plan("add", form, HISTORIES, 10, plain, "INSERT", name=_PLAIN),
        Plan("last", form, (10_000,), 5, 1.35, "SELECT payload ... LIMIT 20"),
        Plan("batch", form, (1_000,), 10, 4, "COPY"),
    ]


class Postgres(Backend):
    """The Postgres store."""

    name = "postgresql"
    plans = (*_plans("sync"), *_plans("async"))

    @contextmanager
    def place(self) -> Iterator[str]:
        """A server."""
        with find(_Server) as server:
            yield server.url

    def url(self, place: str, name: str) -> str:
        """The server, and a namespace of this run's own."""
        return f"{place}?namespace={_RUN}"

    def raw(self, place: str, plan: Plan, name: str) -> Raw:
        """The drivers' own calls."""
        calls: type[_Same | _Plain | _Copy] = _Plain if plan.title == _PLAIN else _Same
        if plan.kind == "batch":
            calls = _Copy
        driver = _Sync(place) if plan.form == "sync" else _Async(place)
        return calls(self.url(place, name), place, name, driver)

    def checks(self, place: str) -> Iterator[Check]:
        """How much of the write-ahead log an add writes."""
        messages = make_messages(max(HISTORIES))
        size = statistics.mean(map(len, payloads(messages)))
        with (
            open_store(self.url(place, "")) as store,
            psycopg.connect(place, autocommit=True) as connection,
        ):
            found = {}
            for history in HISTORIES:
                store.set_messages("wal", messages[:history])
                before = _written(connection)
                for message in make_messages(_WAL_ADDS):
                    store.add_message("wal", message)
                found[history] = (_written(connection) - before) / _WAL_ADDS
            store.delete_messages("wal")
        detail = ", ".join(f"{each:,.0f} bytes at {history:,}" for history, each in found.items())
        name = f"an add of {size:.0f} bytes writes at most {_WAL:,} to the log"
        yield Check(name, self.name, max(found.values()) <= _WAL, detail)

    def facts(self, place: str) -> dict[str, str]:
        """The versions, and whether commits are on a disk."""
        with psycopg.connect(place) as connection:
            settings: dict[str, str] = dict(
                connection.execute(
                    "SELECT name, setting FROM pg_settings "
                    "WHERE name IN ('server_version', 'fsync', 'synchronous_commit')"
                ).fetchall()
            )
        server = f"{settings['server_version']}, fsync={settings['fsync']}"
        return {
            "postgres": f"{server}, synchronous_commit={settings['synchronous_commit']}",
            "psycopg": f"{version('psycopg')}, {psycopg.pq.__impl__}",
            "asyncpg": version("asyncpg"),
            "sqlalchemy": version("sqlalchemy"),
            "temporary files on": filesystem(tempfile.gettempdir()),
        }


def _written(connection: psycopg.Connection[Any]) -> int:
    """The bytes that the server has ever written to its log."""
    [[written]] = connection.execute(
        "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')"
    ).fetchall()
    return int(written)


BACKEND = Postgres()
