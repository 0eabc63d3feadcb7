"""Commands, their outcomes, and SessionState.apply(command): the one state machine.

Backends whose engine runs logic (Redis, SQL) say the same in the engine's language; logs (the
JSON file, Kafka) and the memory store fold commands with this one. All of them are held against it
by the conformance suite, and it is held against a plain Python list by a property test.

Times are whole microseconds since 1970, UTC. Versions and ordinals are whole numbers below 2**53.
"""

from __future__ import annotations

import time
from array import array
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

__all__ = [
    "Action",
    "Append",
    "Clear",
    "Command",
    "Delete",
    "Edit",
    "Head",
    "Outcome",
    "Record",
    "Refusal",
    "Replace",
    "Restore",
    "Row",
    "SessionState",
    "SetMetadata",
    "Snapshot",
    "now_us",
]

#: How many commands a folded session remembers (the contract's W10).
REMEMBERED = 16
#: How far back a message's id is looked for (the contract's W8), or the last batch if longer.
WINDOW = 64
#: How long the marker of a dead session stays: a day. By then the clock is above its version.
MARKER_US = 24 * 3600 * 1_000_000

#: Why a command changed nothing.
#: conflict: expected_version was not met (the outcome's version is the actual one).
#: no_session, no_message: what it names is not there.
#: other_content: a message of that id is there with other content.
#: corrupt: the record that it would remove is not readable.
#: unknown: whether an earlier attempt did it cannot be learnt.
Refusal = Literal["conflict", "no_session", "no_message", "other_content", "corrupt", "unknown"]


class Record(NamedTuple):
    """A message as stored: its id, and its bytes."""

    id: str
    payload: bytes


class Row(NamedTuple):
    """A record in its place; the ordinal is permanent and never used twice in an epoch."""

    ordinal: int
    id: str
    payload: bytes


class Append(NamedTuple):
    """Add at the end; those that are there already are skipped."""

    records: Sequence[Record]


class Delete(NamedTuple):
    """Remove the last message, the one at an index or of an id, the n oldest, or what follows."""

    which: Literal["last", "index", "id", "oldest", "after"]
    argument: int | str = 0


class Edit(NamedTuple):
    """Put a record in the place of the one with its id."""

    record: Record


class Replace(NamedTuple):
    """Put other messages in the place of all."""

    records: Sequence[Record]


class Restore(NamedTuple):
    """A whole session from a snapshot, in the place of what is there.

    Ids may repeat. ``left`` is what is left of the ttl, or None; ``own`` is the library's own
    metadata, JSON like ``metadata``.
    """

    records: Sequence[Record]
    metadata: bytes
    own: bytes
    created_at: int
    updated_at: int
    left: int | None


class Clear(NamedTuple):
    """Remove the session."""


class SetMetadata(NamedTuple):
    """Replace the metadata (or the library's own), a JSON object."""

    text: bytes
    own: bool = False


Action = Append | Delete | Edit | Replace | Restore | Clear | SetMetadata


class Command(NamedTuple):
    """One write.

    Attributes:
        id: 8 random bytes as a whole number; the same in every attempt.
        action: what to do.
        expected_version: the version that the session must have, or None.
        ttl: how long the session lives after this, in microseconds, or None for ever.
        age: how long ago the call began, in microseconds; 0 on the first attempt.
    """

    id: int
    action: Action
    expected_version: int | None = None
    ttl: int | None = None
    age: int = 0


class Outcome(NamedTuple):
    """What a command did.

    Attributes:
        version: the session's version after it (0: not there).
        added: how many messages it added.
        removed: the bytes of the messages that it removed, oldest first (not by Clear).
        cleared: how many messages Clear removed.
        refusal: why it changed nothing, or None.
        detail: the message's id that the refusal is about.
    """

    version: int
    added: int = 0
    removed: Sequence[bytes] = ()
    cleared: int = 0
    refusal: Refusal | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Head:
    """A live session beside its messages."""

    version: int
    epoch: int
    count: int
    created_at: int
    updated_at: int
    expires_at: int | None
    metadata: bytes
    own: bytes


class Snapshot(NamedTuple):
    """A session's head and some of its rows (ordinal and bytes), taken in one moment."""

    head: Head
    rows: Sequence[tuple[int, bytes]]


def now_us() -> int:
    """This machine's time in microseconds since 1970."""
    return time.time_ns() // 1000


def _no_numbers() -> array[int]:
    return array("q")


@dataclass(slots=True)
class SessionState:
    """One session, folded from its commands in their order."""

    version: int = 0
    alive: bool = False
    epoch: int = 0
    last_ordinal: int = 0
    # The rows by column: what is looked for among the last ids, and read as the last payloads, are
    # plain slices; and a row costs no object of its own.
    ordinals: array[int] = field(default_factory=_no_numbers)
    ids: list[str] = field(default_factory=list)
    payloads: list[bytes] = field(default_factory=list)
    batch: int = 0  # the length of the last batch, those included that were there
    created_at: int = 0
    updated_at: int = 0
    expires_at: int | None = None
    metadata: bytes = b"{}"
    own: bytes = b"{}"
    commands: OrderedDict[int, tuple[int, Outcome]] = field(default_factory=OrderedDict)
    floor: int = 0  # the time of the newest command that ``commands`` has forgotten

    def apply(self, command: Command, now: int) -> Outcome:
        """Do a command, or answer as the first time if it was done before.

        Args:
            command: the write.
            now: the time that decides expiry and a birth's version, in microseconds.
        """
        done = self.commands.get(command.id)
        if done is not None:
            return done[1]
        self.expire(now)
        if command.age and now - command.age <= self.floor:
            return Outcome(self._actual(), refusal="unknown")
        outcome = self._decide(command, now)
        self.commands[command.id] = (now, outcome)
        while len(self.commands) > REMEMBERED:
            self.floor = self.commands.popitem(last=False)[1][0]
        return outcome

    def expire(self, now: int) -> bool:
        """End the session if its time is over; whether it did."""
        if not (self.alive and self.expires_at is not None and now > self.expires_at):
            return False
        self._end(self.expires_at)
        return True

    def is_live(self, now: int) -> bool:
        """Whether a reader sees the session."""
        return self.alive and (self.expires_at is None or now <= self.expires_at)

    def is_forgettable(self, now: int) -> bool:
        """Whether the marker of a dead session has done its work."""
        return not self.alive and now > self.updated_at + MARKER_US

    def head(self) -> Head:
        """The head of a live session."""
        return Head(
            self.version,
            self.epoch,
            len(self.ids),
            self.created_at,
            self.updated_at,
            self.expires_at,
            self.metadata,
            self.own,
        )

    @property
    def rows(self) -> list[Row]:
        """All rows, in order."""
        return [Row(*row) for row in zip(self.ordinals, self.ids, self.payloads, strict=True)]

    def rows_before(self, ordinal: int | None, limit: int | None) -> list[tuple[int, bytes]]:
        """Ordinal and bytes of the newest ``limit`` rows below an ordinal (None: the end)."""
        stop = len(self.ids) if ordinal is None else bisect_left(self.ordinals, ordinal)
        span = slice(0 if limit is None else max(0, stop - limit), stop)
        return list(zip(self.ordinals[span], self.payloads[span], strict=True))

    def targets(self, action: Delete) -> range:
        """The indexes that a deletion would remove; for those who must look at them first."""
        return range(len(self.ids))[self._span(action)]

    # One decision an action. Each checks what W0 asks before anything else.

    def _decide(self, command: Command, now: int) -> Outcome:
        action, expected = command.action, command.expected_version
        if isinstance(action, Append):
            return self._append(action.records, expected, command.ttl, now)
        actual = self._actual()
        if expected is not None and expected != actual:
            return Outcome(actual, refusal="conflict")
        match action:
            case Delete():
                return self._delete(action, command.ttl, now)
            case Edit():
                return self._edit(action.record, command.ttl, now)
            case Replace():
                self._replace(action.records, command.ttl, now)
                return Outcome(self.version, added=len(action.records))
            case Restore():
                return self._restore(action, now)
            case Clear():
                count = len(self.ids)
                if self.alive:
                    self._end(now)
                return Outcome(0, cleared=count)
            case SetMetadata():
                return self._set_metadata(action, command.ttl, now)

    def _append(
        self, records: Sequence[Record], expected: int | None, ttl: int | None, now: int
    ) -> Outcome:
        fresh, other = self._sift(records)
        if records and not fresh and other is None:
            return Outcome(self._actual())
        if expected is not None and expected != self._actual():
            return Outcome(self._actual(), refusal="conflict")
        if other is not None:
            return Outcome(self._actual(), refusal="other_content", detail=other)
        if not fresh:
            return Outcome(self._actual())
        born = not self.alive
        self._begin(now)
        self._add(fresh)
        self.batch = len(records)
        self._changed(ttl, now, new_epoch=born)
        return Outcome(self.version, added=len(fresh))

    def _sift(self, records: Sequence[Record]) -> tuple[Sequence[Record], str | None]:
        """The records that are not there yet; and the id of one that is, with other content."""
        window = max(WINDOW, self.batch)
        recent = self.ids[-window:]
        if len(records) == 1 and records[0].id not in recent:
            return records, None
        there = dict(zip(recent, self.payloads[-window:], strict=True))
        fresh = []
        for record in records:
            payload = there.get(record.id)
            if payload is None:
                fresh.append(record)
            elif payload != record.payload:
                return (), record.id
        return fresh, None

    def _delete(self, action: Delete, ttl: int | None, now: int) -> Outcome:
        if action.which == "after" and action.argument not in self.ids:
            return Outcome(self._actual(), refusal="no_message", detail=str(action.argument))
        span = self._span(action)
        removed = self.payloads[span]
        if not removed:
            return Outcome(self._actual())
        self._remove(span)
        self._changed(ttl, now)
        return Outcome(self.version, removed=removed)

    def _edit(self, record: Record, ttl: int | None, now: int) -> Outcome:
        index = self._find(record.id)
        if index is None:
            refusal: Refusal = "no_message" if self.alive else "no_session"
            return Outcome(self._actual(), refusal=refusal, detail=record.id)
        if self.payloads[index] == record.payload:
            return Outcome(self.version)
        self._put(index, record)
        self._changed(ttl, now)
        return Outcome(self.version)

    def _restore(self, action: Restore, now: int) -> Outcome:
        self._replace(action.records, action.left, now)
        self.metadata, self.own = action.metadata, action.own
        self.created_at, self.updated_at = action.created_at, action.updated_at
        return Outcome(self.version, added=len(action.records))

    def _set_metadata(self, action: SetMetadata, ttl: int | None, now: int) -> Outcome:
        if not self.alive:
            return Outcome(0, refusal="no_session")
        if action.text == (self.own if action.own else self.metadata):
            return Outcome(self.version)
        if action.own:
            self.own = action.text
        else:
            self.metadata = action.text
        self._changed(ttl, now)
        return Outcome(self.version)

    # The parts that they share.

    def _actual(self) -> int:
        return self.version if self.alive else 0

    def _find(self, message_id: object) -> int | None:
        for index in range(len(self.ids) - 1, -1, -1):
            if self.ids[index] == message_id:
                return index
        return None

    def _span(self, action: Delete) -> slice:
        which, argument, count = action.which, action.argument, len(self.ids)
        if which == "oldest":
            return slice(0, int(argument))
        if which == "last":
            return slice(max(0, count - 1), count)
        if which == "index":
            index = int(argument) + (count if int(argument) < 0 else 0)
            return slice(index, index + 1) if 0 <= index < count else slice(0, 0)
        found = self._find(argument)
        if found is None:
            return slice(0, 0)
        return slice(found, found + 1) if which == "id" else slice(found + 1, count)

    # All that is ever done to rows; a log's own state follows them here.

    def _add(self, records: Sequence[Record]) -> None:
        for record in records:
            self.last_ordinal += 1
            self.ordinals.append(self.last_ordinal)
            self.ids.append(record.id)
            self.payloads.append(record.payload)
        self.batch = len(records)

    def _put(self, index: int, record: Record) -> None:
        self.payloads[index] = record.payload

    def _remove(self, span: slice) -> None:
        del self.ordinals[span], self.ids[span], self.payloads[span]

    def _drop_rows(self) -> None:
        self.ordinals, self.ids, self.payloads = _no_numbers(), [], []

    # The life of a session.

    def _begin(self, now: int) -> None:
        """A session that is not there is born."""
        if not self.alive:
            self.version = max(self.version, now - 1)
            self.alive = True
            self.created_at = now
            self.metadata = self.own = b"{}"

    def _replace(self, records: Sequence[Record], ttl: int | None, now: int) -> None:
        self._begin(now)
        self._drop_rows()
        self._add(records)
        self._changed(ttl, now, new_epoch=True)

    def _changed(self, ttl: int | None, now: int, new_epoch: bool = False) -> None:
        self.version += 1
        if new_epoch:
            self.epoch = self.version
        self.updated_at = max(now, self.updated_at)
        self.expires_at = None if ttl is None else now + ttl

    def _end(self, now: int) -> None:
        """The session is over: only a marker stays, without text."""
        self.version += 1
        self.alive = False
        self._drop_rows()
        self.batch = 0
        self.updated_at = now
        self.expires_at = None
        self.metadata = self.own = b"{}"
