"""The hooks of both stores: one statement where one is enough, else a locked session's commands."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

from pydantic_core import from_json

from chatstores.errors import BackendMismatchError, NotSetUpError
from chatstores.operations import KeyPage, RecentPage
from chatstores.state import (
    Append,
    Clear,
    Command,
    Delete,
    Head,
    Outcome,
    Record,
    SetMetadata,
    Snapshot,
)
from chatstores.store import ChatStore
from chatstores_sql.session import REMEMBER, Connection, Session
from chatstores_sql.statements import statements
from chatstores_sql.tables import MIGRATIONS, SCHEMA_VERSION, Tables

__all__ = ["Duplicate", "MissingTables", "SqlChatStore", "SqlTransport"]

#: More than any ordinal or count, and a number that both databases take for a LIMIT.
_ALL = 2**62
#: How many expired sessions one transaction removes.
_PART = 100

T = TypeVar("T")
Rows = Sequence[Sequence[Any]]


class MissingTables(Exception):
    """A transport's word, from the driver's error: a table is not there, and nothing was done."""


class Duplicate(Exception):
    """A transport's word, from the driver's error: a message's id is there; nothing was done."""


class SqlTransport(Protocol):
    """The verbs of the hooks.

    Both raise NotDone where a driver's error says, or its time, that nothing was committed.
    """

    async def one(self, statement: str, *values: Any) -> Rows:
        """Run a statement by itself; its rows."""

    async def transaction(self, work: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Do some work on a `Connection`, which is its first argument, and commit it."""


class SqlChatStore(ChatStore):
    """What PostgresChatStore and SqliteChatStore share."""

    def __init__(self, tables: Tables, **options: Any) -> None:
        super().__init__(**options)
        self._tables = tables
        self._sql = statements(tables)

    # The tables

    async def _one(self, t: SqlTransport, statement: str, *values: Any) -> Rows:
        try:
            return await t.one(statement, *values)
        except MissingTables as exc:
            await self._make_missing(t, exc)
        return await t.one(statement, *values)

    async def _transaction(
        self, t: SqlTransport, work: Callable[..., Awaitable[T]], *args: Any
    ) -> T:
        try:
            return await t.transaction(work, *args)
        except MissingTables as exc:
            await self._make_missing(t, exc)
        return await t.transaction(work, *args)

    async def _make_missing(self, t: SqlTransport, exc: MissingTables) -> None:
        if not self._create:
            raise NotSetUpError(
                f"{self.url} has no tables {self._tables.prefix}*: 'chatstores setup' makes them, "
                "with --print it prints how; or open the store without create=False"
            ) from exc.__cause__
        await t.transaction(self._make_tables)

    async def _make_tables(self, c: Connection) -> None:
        for statement in self._tables.ddl():
            await c.fetch(statement)
        [[version]] = await c.fetch(self._sql.schema_version)
        self._check_version(version)
        for number in range(version + 1, SCHEMA_VERSION + 1):
            for statement in MIGRATIONS[number]:
                await c.fetch(statement)
        if version < SCHEMA_VERSION:
            await c.fetch(self._sql.write_schema_version, SCHEMA_VERSION)

    def _check_version(self, version: int) -> None:
        if version > SCHEMA_VERSION:
            raise BackendMismatchError(
                f"the tables {self._tables.prefix}* of {self.url} have the version {version}; this "
                f"chatstores knows versions up to {SCHEMA_VERSION}: upgrade it"
            )

    async def _setup(self, t: SqlTransport) -> None:
        if self._create:
            await t.transaction(self._make_tables)
        await self._ping(t)

    def _setup_script(self) -> str:
        return ";\n\n".join(self._tables.ddl()) + ";\n"

    async def _ping(self, t: SqlTransport) -> None:
        [[version]] = await self._one(t, self._sql.schema_version)
        self._check_version(version)
        if version < SCHEMA_VERSION:
            raise NotSetUpError(
                f"the tables {self._tables.prefix}* of {self.url} have the version {version}: "
                f"'chatstores setup' brings them to {SCHEMA_VERSION}"
            )

    # Commands

    async def _commit(self, t: SqlTransport, key: str, command: Command) -> Outcome:
        action = command.action
        if isinstance(action, Append) and action.records and not command.age:
            try:
                version = await self._append(t, key, command, action.records)
            except Duplicate:
                version = None
            if version is not None:
                return Outcome(version, len(action.records))
        return await self._transaction(t, self._decide, key, command)

    @abstractmethod
    async def _append(
        self, t: SqlTransport, key: str, command: Command, records: Sequence[Record]
    ) -> int | None:
        """The most usual command in the fewest statements, or not at all.

        Args:
            command: an append, at its first attempt.
            records: what it adds.

        Returns:
            The version after all of them were added; None if the general way must decide: the
            session is not there, or not at the expected version.

        Raises:
            Duplicate: one of them is there.
        """

    async def _decide(self, c: Connection, key: str, command: Command) -> Outcome:
        # A repeated command needs a place for its mark, wherever it ends.
        create = command.age > 0 or not isinstance(command.action, Clear | Delete | SetMetadata)
        session = await Session.locked(c, self._sql, self._namespace, key, create=create)
        return await session.commit(command)

    # Reading

    async def _read(
        self, t: SqlTransport, key: str, first: int | None, last: int | None
    ) -> Sequence[bytes]:
        if last is not None:
            statement = self._sql.last.format(limit=min(last, _ALL))
            rows = await self._one(t, statement, self._namespace, key)
            return [row[0].encode() for row in reversed(rows)]
        statement = self._sql.first.format(limit=_ALL if first is None else min(first, _ALL))
        rows = await self._one(t, statement, self._namespace, key)
        return [row[0].encode() for row in rows]

    async def _head(self, t: SqlTransport, key: str) -> Head | None:
        rows = await self._one(t, self._sql.head, self._namespace, key)
        return _parse_head(rows[0][0]) if rows else None

    async def _snapshot(
        self, t: SqlTransport, key: str, before: int | None, limit: int | None
    ) -> Snapshot | None:
        below = _ALL if before is None else min(before, _ALL)
        statement = self._sql.snapshot.format(limit=_ALL if limit is None else min(limit, _ALL))
        rows = await self._one(t, statement, self._namespace, key, below)
        heads = [text for ordinal, text in rows if ordinal is None]
        if not heads:
            return None
        found = [(ordinal, text.encode()) for ordinal, text in rows if ordinal is not None]
        return Snapshot(_parse_head(heads[0]), sorted(found))

    async def _list(self, t: SqlTransport, prefix: str, after: str | None, limit: int) -> KeyPage:
        values: list[Any] = [self._namespace, prefix, after or "", limit + 1]
        above = _above(prefix)
        statement = self._sql.keys
        if above is not None:
            statement = self._sql.keys_below
            values.append(above)
        keys = [row[0] for row in await self._one(t, statement, *values)]
        return KeyPage(keys[:limit], keys[limit - 1] if len(keys) > limit else None)

    async def _recent(
        self, t: SqlTransport, before: tuple[int, str] | None, limit: int
    ) -> RecentPage:
        minute, key = before or (_ALL, "")
        place = (min(minute, _ALL), key)
        rows = await self._one(t, self._sql.recent, self._namespace, *place, limit + 1)
        sessions = [(row[0], _parse_head(row[2])) for row in rows[:limit]]
        more = len(rows) > limit
        return RecentPage(sessions, (rows[limit - 1][1], rows[limit - 1][0]) if more else None)

    async def _purge(self, t: SqlTransport) -> int:
        purged = 0
        while True:
            found, ended = await self._transaction(t, self._purge_some)
            purged += ended
            if found < _PART:
                return purged

    async def _purge_some(self, c: Connection) -> tuple[int, int]:
        """How many sessions were due, and how many of those this ended."""
        sql = self._sql
        due = await c.fetch(sql.due, self._namespace, _PART)
        ended = 0
        for key in sorted(row[0] for row in due):  # in one order, so that no two wait in a circle
            session = await Session.locked(c, sql, self._namespace, key, create=False)
            ended += await session.expire()
        await c.fetch(sql.forget_dead, self._namespace, REMEMBER)
        [[now]] = await c.fetch(sql.now)
        while len(await c.fetch(sql.forget, now - REMEMBER)) > 0:
            pass
        return len(due), ended


def _parse_head(text: str) -> Head:
    version, epoch, count, created_at, updated_at, expires_at, metadata, own = from_json(text)
    return Head(
        version, epoch, count, created_at, updated_at, expires_at, metadata.encode(), own.encode()
    )


def _above(prefix: str) -> str | None:
    """The first text after all that begin with a prefix, in the order of UTF-8; None: no end."""
    for at in range(len(prefix) - 1, -1, -1):
        code = ord(prefix[at])
        if code < 0x10FFFF:
            return prefix[:at] + chr(0xE000 if code == 0xD7FF else code + 1)
    return None
