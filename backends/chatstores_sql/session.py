"""Commands on one locked session: what is decided, and the statements that do it.

The same decisions as ``chatstores.state.SessionState``, on rows instead of lists. The session's row
in ``sessions`` is locked first, so commands have one order; the time is taken after that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic_core import from_json, to_json

from chatstores.codec import Unreadable, decode
from chatstores.state import (
    Append,
    Clear,
    Command,
    Delete,
    Edit,
    Outcome,
    Record,
    Refusal,
    Replace,
    Restore,
    SetMetadata,
)
from chatstores_sql.statements import MINUTE, Statements

__all__ = ["REMEMBER", "Connection", "Session", "command_number", "hashed"]

#: How long a command is remembered, and what it removed kept to be handed out again: microseconds.
REMEMBER = 60_000_000
#: How many rows one statement is given.
_PART = 1000


class Connection(Protocol):
    """A connection within a transaction."""

    async def fetch(self, statement: str, *values: Any) -> Sequence[Sequence[Any]]:
        """Run a statement; its rows, if it gives any."""

    async def many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run a statement once for each of the rows of values."""


def hashed(message_id: str) -> bytes:
    """What stands for a message's id: an index entry holds no long ones."""
    return hashlib.blake2b(message_id.encode(), digest_size=16).digest()


def command_number(command: Command) -> int:
    """A command's id as a signed number of 64 bits."""
    return command.id - 2**64 if command.id >= 2**63 else command.id


@dataclass(slots=True)
class Session:
    """One session, locked: its row in ``sessions``, and what its commands do.

    Attributes:
        c: the connection of the transaction.
        sql: the statements.
        number: the id of the row; None if there is none.
        now: the server's time, after the lock was taken.
    """

    c: Connection
    sql: Statements
    number: int | None = None
    version: int = 0
    alive: bool = False
    epoch: int = 0
    last_ordinal: int = 0
    count: int = 0
    repeats: bool = False
    created_at: int = 0
    updated_at: int = 0
    expires_at: int | None = None
    overtaken: int = 0
    metadata: str = "{}"
    own: str = "{}"
    now: int = 0
    _recent: int = 0

    def __post_init__(self) -> None:
        self._recent = self.updated_at // MINUTE * MINUTE

    @classmethod
    async def locked(
        cls, c: Connection, sql: Statements, namespace: str, key: str, *, create: bool
    ) -> Session:
        """The session, locked; one that never was is made, if it is to be."""
        rows = await c.fetch(sql.lock, namespace, key)
        if not rows and create:
            rows = await c.fetch(sql.create, namespace, key)
            rows = rows or await c.fetch(sql.lock, namespace, key)  # another one made it just now
        return cls(c, sql, *rows[0]) if rows else cls(c, sql)

    async def commit(self, command: Command) -> Outcome:
        """Do a command, or answer as the first time if it was done before."""
        answer = await self._settle(command)
        if answer is not None:
            return answer
        before = self.version
        if self._is_over:
            await self._end(self.expires_at or 0)
        outcome = await self._decide(command)
        changed = self.version != before
        if self.number is None:  # neither there nor made
            return outcome
        if changed or command.age:
            await self._write_head()
        if command.age or not outcome.added or not isinstance(command.action, Append):
            await self._remember(command, outcome)  # an append's rows remember it themselves
        return outcome

    async def expire(self) -> bool:
        """End the session if its time is over; whether it did."""
        if not self._is_over:
            return False
        await self._end(self.expires_at or 0)
        await self._write_head()
        return True

    # What a session remembers

    async def _settle(self, command: Command) -> Outcome | None:
        """What a command answered when it was done before; None if it was not.

        A first attempt can have been only if its own retry overtook it, which leaves its mark in
        the session.
        """
        if self.number is None or (command.age == 0 and self.overtaken < self.now):
            return None
        number = command_number(command)
        found = await self.c.fetch(self.sql.answer, self.number, number)
        if found:
            version, added, cleared, refusal, detail, removed = from_json(found[0][0])
            payloads = [text.encode() for text in removed]
            return Outcome(version, added, payloads, cleared, refusal, detail)
        if command.age == 0:
            return None
        if isinstance(command.action, Append):
            found = await self.c.fetch(self.sql.appended, self.number, number)
            if found:
                version, added = found[0]
                return Outcome(version, added)
        if command.age >= REMEMBER:
            return self._refused("unknown")
        self.overtaken = self.now + REMEMBER
        return None

    async def _remember(self, command: Command, outcome: Outcome) -> None:
        removed = [payload.decode() for payload in outcome.removed]
        version, added, _, cleared, refusal, detail = outcome
        text = to_json([version, added, cleared, refusal, detail, removed]).decode()
        await self.c.fetch(self.sql.remember, self.number, command_number(command), self.now, text)
        await self.c.fetch(self.sql.forget, self.now - REMEMBER)

    async def _remember_appends(self, first: int, last: int) -> None:
        """Before messages are removed: the appends that brought them may be repeated."""
        since = self.now - REMEMBER
        await self.c.fetch(self.sql.remember_appends, self.number, first, last, since)

    # One decision an action

    async def _decide(self, command: Command) -> Outcome:
        action, expected = command.action, command.expected_version
        if isinstance(action, Append):
            return await self._append(action.records, command)
        if expected is not None and expected != self._actual:
            return self._refused("conflict")
        match action:
            case Delete():
                return await self._delete(action, command.ttl)
            case Edit():
                return await self._edit(action.record, command.ttl)
            case Replace():
                await self._replace(action.records, command, command.ttl)
                return Outcome(self.version, added=self.count)
            case Restore():
                await self._replace(action.records, command, action.left)
                self.metadata, self.own = action.metadata.decode(), action.own.decode()
                self.created_at, self.updated_at = action.created_at, action.updated_at
                return Outcome(self.version, added=self.count)
            case Clear():
                count = self.count
                if self.alive:
                    await self._end(self.now)
                return Outcome(0, cleared=count)
            case SetMetadata():
                return self._set_metadata(action, command.ttl)

    async def _append(self, records: Sequence[Record], command: Command) -> Outcome:
        hashes = [hashed(record.id) for record in records]
        there: dict[bytes, str] = {}
        if self.alive:
            for at in range(0, len(hashes), _PART):
                part = hashes[at : at + _PART]
                there |= dict(await self.c.fetch(self.sql.there, self.number, part))  # type: ignore[arg-type]
        fresh = [
            (name, record)
            for name, record in zip(hashes, records, strict=True)
            if name not in there
        ]
        other = next(
            (
                record.id
                for name, record in zip(hashes, records, strict=True)
                if name in there and there[name].encode() != record.payload
            ),
            None,
        )
        if records and not fresh and other is None:
            return Outcome(self._actual)
        if command.expected_version not in (None, self._actual):
            return self._refused("conflict")
        if other is not None:
            return self._refused("other_content", other)
        if not fresh:
            return Outcome(self._actual)
        born = self._begin()
        self._changed(command.ttl, epoch=born)
        await self._add([name for name, _ in fresh], [record for _, record in fresh], command)
        return Outcome(self.version, added=len(fresh))

    async def _delete(self, action: Delete, ttl: int | None) -> Outcome:
        rows = await self._chosen(action)
        if rows is None:
            return self._refused("no_message", str(action.argument))
        if not rows:
            return Outcome(self._actual)
        removed = [text.encode() for _, _, text in rows]
        for (ordinal, _, _), payload in zip(rows, removed, strict=True):
            try:
                decode([payload])
            except Unreadable:  # what cannot be read is not removed
                [[position]] = await self.c.fetch(self.sql.position, self.number, ordinal)
                return self._refused("corrupt", str(position))
        first, last = rows[0][0], rows[-1][0]
        await self._remember_appends(first, last)
        await self.c.fetch(self.sql.delete, self.number, first, last)
        if self.repeats:
            await self._give_ids({name for _, name, _ in rows})
        self.count -= len(rows)
        self._changed(ttl)
        return Outcome(self.version, removed=removed)

    async def _chosen(self, action: Delete) -> Sequence[Sequence[Any]] | None:
        """The rows that a deletion is about, oldest first; None if what it names is not there."""
        sql, number, argument = self.sql, self.number, action.argument
        if not self.alive:
            return None if action.which == "after" else []
        match action.which:
            case "last":
                return await self.c.fetch(sql.newest, number, 0)
            case "oldest":
                return await self.c.fetch(sql.oldest, number, argument, 0)
            case "index" if int(argument) < 0:
                return await self.c.fetch(sql.newest, number, -1 - int(argument))
            case "index":
                return await self.c.fetch(sql.oldest, number, 1, argument)
        found = await self.c.fetch(sql.of_id, number, hashed(str(argument)))
        if action.which == "id":
            return found
        return await self.c.fetch(sql.after, number, found[0][0]) if found else None

    async def _give_ids(self, gone: set[bytes]) -> None:
        """An id that repeats now means its last message that stays."""
        for ordinal, text in await self.c.fetch(self.sql.repeated, self.number):
            try:
                name = hashed(decode([text.encode()])[0].id)
            except Unreadable:
                continue
            if name in gone:
                gone.remove(name)
                await self.c.fetch(self.sql.give_id, self.number, ordinal, name)

    async def _edit(self, record: Record, ttl: int | None) -> Outcome:
        if not self.alive:
            return self._refused("no_session", record.id)
        found = await self.c.fetch(self.sql.of_id, self.number, hashed(record.id))
        if not found:
            return self._refused("no_message", record.id)
        text = record.payload.decode()
        ordinal, _, before = found[0]
        if before == text:
            return Outcome(self.version)
        await self.c.fetch(self.sql.edit, self.number, ordinal, text)
        self._changed(ttl)
        return Outcome(self.version)

    async def _replace(self, records: Sequence[Record], command: Command, ttl: int | None) -> None:
        if self.count:
            await self._remember_appends(0, self.last_ordinal)
            await self.c.fetch(self.sql.delete_all, self.number)
        self._begin()
        self._changed(ttl, epoch=True)
        self.count = 0
        names: list[bytes | None] = []
        seen: set[bytes] = set()
        for record in reversed(records):
            name = hashed(record.id)
            names.append(None if name in seen else name)
            seen.add(name)
        self.repeats = len(seen) < len(records)
        await self._add(names[::-1], records, command)

    def _set_metadata(self, action: SetMetadata, ttl: int | None) -> Outcome:
        text = action.text.decode()
        if not self.alive:
            return self._refused("no_session")
        if text == (self.own if action.own else self.metadata):
            return Outcome(self.version)
        if action.own:
            self.own = text
        else:
            self.metadata = text
        self._changed(ttl)
        return Outcome(self.version)

    # The parts that they share

    @property
    def _is_over(self) -> bool:
        return self.alive and self.expires_at is not None and self.expires_at < self.now

    @property
    def _actual(self) -> int:
        return self.version if self.alive else 0

    def _refused(self, refusal: Refusal, detail: str = "") -> Outcome:
        return Outcome(self._actual, refusal=refusal, detail=detail)

    def _begin(self) -> bool:
        """A session that is not there is born; whether it was."""
        if self.alive:
            return False
        self.version = max(self.version, self.now - 1)
        self.alive, self.created_at = True, self.now
        self.metadata = self.own = "{}"
        return True

    def _changed(self, ttl: int | None, *, epoch: bool = False) -> None:
        self.version += 1
        if epoch:
            self.epoch = self.version
        self.updated_at = max(self.now, self.updated_at)
        self.expires_at = None if ttl is None else self.now + ttl

    async def _add(
        self, names: Sequence[bytes | None], records: Sequence[Record], command: Command
    ) -> None:
        """Add rows, at the version that the session has by now."""
        about = (self.version, command_number(command), len(records), self.now)
        rows = [
            (self.number, ordinal, name, *about, record.payload.decode())
            for ordinal, (name, record) in enumerate(
                zip(names, records, strict=True), self.last_ordinal + 1
            )
        ]
        for at in range(0, len(rows), _PART):
            await self.c.many(self.sql.add, rows[at : at + _PART])
        self.last_ordinal += len(rows)
        self.count += len(rows)

    async def _end(self, when: int) -> None:
        """The session is over: only a marker stays, without text."""
        await self._remember_appends(0, self.last_ordinal)
        await self.c.fetch(self.sql.delete_all, self.number)
        self.version += 1
        self.alive, self.repeats, self.count = False, False, 0
        self.updated_at, self.expires_at = when, None
        self.metadata = self.own = "{}"

    async def _write_head(self) -> None:
        await self.c.fetch(
            self.sql.write_head,
            self.number,
            self.version,
            self.alive,
            self.epoch,
            self.last_ordinal,
            self.count,
            self.repeats,
            self.created_at,
            self.updated_at,
            self.expires_at,
            self.overtaken,
            self.metadata,
            self.own,
        )
        recent = self.updated_at // MINUTE * MINUTE
        if recent != self._recent:
            await self.c.fetch(self.sql.write_recent, self.number, recent)
