"""Heads: commands on a session that is kept as a head and its rows; what to do, not how.

For engines whose strong tool is one conditional batch: every command is one, on condition that the
head has the version that the decision was made for. Who loses reads the head, and decides anew.

`perform` is a generator of steps: it yields what it wants of the engine, and is sent the answer. So
it does no I/O, and a test can end it, or let another one in, between any two steps.

The rules are those of ``chatstores.state``, which holds whole sessions; both are held against each
other by a property test.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

from chatstores.state import (
    REMEMBERED,
    WINDOW,
    Append,
    Clear,
    Command,
    Delete,
    Edit,
    Outcome,
    Record,
    Replace,
    Restore,
    SetMetadata,
)

__all__ = [
    "PACKED_BYTES",
    "PACKED_MESSAGES",
    "Attempt",
    "Batch",
    "Commit",
    "Newest",
    "Oldest",
    "ReadHead",
    "ReadText",
    "Remove",
    "Row",
    "SessionHead",
    "Stage",
    "Steps",
    "perform",
]

T = TypeVar("T")

#: A batch of messages is packed into rows of so many, and so many bytes.
PACKED_MESSAGES = 64
PACKED_BYTES = 300_000
#: How many messages are read at once where one is looked for.
_PAGE = 256


class Row(NamedTuple):
    """Messages under one key.

    Attributes:
        gen: the generation of rows that it belongs to; only those of the head's are there.
        key: its place in it: the ordinal of the first message that it was made with.
        messages: ordinal and record of each.
    """

    gen: int
    key: int
    messages: tuple[tuple[int, Record], ...]


class Remembered(NamedTuple):
    """A command that was done: its id, the version that it made, how many messages it added."""

    id: int
    version: int
    added: int


@dataclass(frozen=True, slots=True)
class SessionHead:
    """A session beside its rows; of one that is gone it is a marker, without text.

    Attributes:
        version: rises with every command.
        alive: whether the session is there.
        epoch: the version of its last birth or set.
        gen: which rows are its own.
        count: how many messages they hold.
        last_ordinal: the newest that was given out.
        removals: how often rows were changed or removed: who reads in parts starts again by it.
        batch: the length of the last batch.
        created_at: when it was born, in microseconds since 1970.
        updated_at: when it was changed.
        expires_at: when it ends, or None.
        commands: the last commands, oldest first.
        floor: the version after which ``commands`` is whole.
    """

    version: int = 0
    alive: bool = False
    epoch: int = 0
    gen: int = 0
    count: int = 0
    last_ordinal: int = 0
    removals: int = 0
    batch: int = 0
    created_at: int = 0
    updated_at: int = 0
    expires_at: int | None = None
    commands: tuple[Remembered, ...] = ()
    floor: int = 0

    def is_live(self, now: int) -> bool:
        """Whether a reader sees the session."""
        return self.alive and (self.expires_at is None or now <= self.expires_at)


class Batch(NamedTuple):
    """What is done in one moment, or not at all.

    Attributes:
        basis: the version that the head must have; 0: there must be none.
        head: the new head.
        puts: rows to write.
        drops: keys of rows to remove, of the head's generation.
        texts: the metadata to write ("m", and "w" the library's own), or to remove (None).
        staged: rows of the new generation that are written before.
        left: a generation that nobody needs afterwards, or None.
        outcome: what it did.
    """

    basis: int
    head: SessionHead
    puts: Sequence[Row] = ()
    drops: Sequence[int] = ()
    texts: Mapping[str, bytes | None] = {}
    staged: Sequence[Row] = ()
    left: int | None = None
    outcome: Outcome = Outcome(0)


# The steps, and what is sent back.


class ReadHead(NamedTuple):
    """The head, as it is after the step began; None if there is none."""


class Newest(NamedTuple):
    """The newest rows below a key, oldest first, that hold at least so many messages."""

    gen: int
    before: int | None
    least: int


class Oldest(NamedTuple):
    """The oldest rows that hold at least so many messages."""

    gen: int
    least: int


class ReadText(NamedTuple):
    """The metadata "m", or "w"; None if there is none."""

    name: str


class Stage(NamedTuple):
    """Write rows that nobody sees."""

    rows: Sequence[Row]


class Commit(NamedTuple):
    """Do a batch; whether its condition was met."""

    batch: Batch


class Remove(NamedTuple):
    """Remove the rows of a generation that nobody sees; it may be left undone."""

    gen: int


Step = ReadHead | Newest | Oldest | ReadText | Stage | Commit | Remove
Steps = Generator[Step, Any, T]


@dataclass(slots=True)
class Attempt:
    """What was sent of a command, over all attempts of a call.

    Attributes:
        batch: the one that was sent last.
        is_lost: whether others may have been sent that nobody knows of here.
    """

    batch: Batch | None = None
    is_lost: bool = False


class Limits(NamedTuple):
    """What one batch can hold: rows, and bytes of messages."""

    rows: int
    size: int


def perform(
    command: Command, attempt: Attempt, now: int, gen: int, limits: Limits
) -> Steps[Outcome | None]:
    """Do a command.

    Args:
        command: the write.
        attempt: of the call; the same in each of its attempts.
        now: the time that decides expiry and a birth's version, in microseconds.
        gen: a random number that was never given before.
        limits: of a batch.

    Returns:
        What it did; None if another writer was first: to be called again.
    """
    head = yield ReadHead()
    known = _settled(command, attempt, head)
    if known is not None:
        return known
    if attempt.batch is not None and _version(head) == attempt.batch.basis:
        batch: Batch | Outcome = attempt.batch  # the same again, as it was
    else:
        batch = yield from _Decision(command, head, now, gen, limits).make()
    if isinstance(batch, Outcome):
        again = yield ReadHead()  # what was read after the head may be of a later moment
        return batch if _version(again) == _version(head) else None
    if batch.staged:
        yield Stage(batch.staged)
    attempt.batch = batch
    done = yield Commit(batch)
    if done:
        if batch.left is not None:
            yield Remove(batch.left)
        return batch.outcome
    return _settled(command, attempt, (yield ReadHead()))


def _version(head: SessionHead | None) -> int:
    return 0 if head is None else head.version


def _settled(command: Command, attempt: Attempt, head: SessionHead | None) -> Outcome | None:
    """What a command did that was done; None if it was not, and so may be done."""
    for known in head.commands if head is not None else ():
        if known.id == command.id:
            batch = attempt.batch
            if batch is not None and batch.head.version == known.version:
                return batch.outcome
            return Outcome(known.version, known.added)
    if head is None or (attempt.batch is None and not attempt.is_lost):
        return None
    basis = 0 if attempt.batch is None or attempt.is_lost else attempt.batch.basis
    if head.version == basis or head.floor <= basis:
        return None
    return Outcome(0, refusal="unknown")


class _Decision:
    """One command on one head."""

    def __init__(
        self, command: Command, head: SessionHead | None, now: int, gen: int, limits: Limits
    ) -> None:
        self.command = command
        self.before = head
        self.head = head or SessionHead()
        self.live = self.head.is_live(now)
        self.actual = self.head.version if self.live else 0
        self.now = now
        self.gen = gen
        self.limits = limits

    def make(self) -> Steps[Batch | Outcome]:
        """The batch that does it; an outcome if it changes nothing."""
        action, expected = self.command.action, self.command.expected_version
        if isinstance(action, Append):
            return (yield from self._append(action.records, expected))
        if expected is not None and expected != self.actual:
            return Outcome(self.actual, refusal="conflict")
        match action:
            case Delete():
                return (yield from self._delete(action))
            case Edit():
                return (yield from self._edit(action.record))
            case Replace():
                return self._replace(action.records)
            case Restore():
                return self._restore(action)
            case Clear():
                return self._clear()
            case SetMetadata():
                return (yield from self._set_metadata(action))

    # One decision an action.

    def _append(self, records: Sequence[Record], expected: int | None) -> Steps[Batch | Outcome]:
        fresh, other = yield from self._sift(records)
        if records and not fresh and other is None:
            return Outcome(self.actual)
        if expected is not None and expected != self.actual:
            return Outcome(self.actual, refusal="conflict")
        if other is not None:
            return Outcome(self.actual, refusal="other_content", detail=other)
        if not fresh:
            return Outcome(self.actual)
        begun = self._begun()
        rows = _packed(begun.gen, begun.last_ordinal, fresh)
        head = replace(
            begun,
            count=begun.count + len(fresh),
            last_ordinal=begun.last_ordinal + len(fresh),
            batch=len(records),
        )
        return self._batch(head, puts=rows, added=len(fresh), epoch=not self.live)

    def _sift(self, records: Sequence[Record]) -> Steps[tuple[Sequence[Record], str | None]]:
        """The records that are not there yet; and the id of one that is, with other content."""
        window = max(WINDOW, self.head.batch)
        if not self.live or not self.head.count or not records:
            return records, None
        rows = yield Newest(self.head.gen, None, window)
        last = [record for _, record in _messages(rows)][-window:]
        there = {record.id: record.payload for record in last}
        fresh = []
        for record in records:
            payload = there.get(record.id)
            if payload is None:
                fresh.append(record)
            elif payload != record.payload:
                return (), record.id
        return fresh, None

    def _delete(self, action: Delete) -> Steps[Batch | Outcome]:
        count = self.head.count if self.live else 0
        rows: Sequence[Row] = ()
        gone: Sequence[tuple[int, Record]] = ()
        which, argument = action.which, action.argument
        if which in ("id", "after"):
            rows, at = yield from self._find(argument)
            if at is None and which == "after":
                return Outcome(self.actual, refusal="no_message", detail=str(argument))
            messages = _messages(rows)
            if at is not None:
                gone = messages[at : at + 1] if which == "id" else messages[at + 1 :]
        elif which == "oldest":
            if count:
                rows = yield Oldest(self.head.gen, min(int(argument), count))
                gone = _messages(rows)[: int(argument)]
        else:
            index = count - 1 if which == "last" else int(argument)
            index += count if index < 0 else 0
            if 0 <= index < count:
                rows = yield Newest(self.head.gen, None, count - index)
                at = len(_messages(rows)) - (count - index)
                gone = _messages(rows)[at : at + 1]
        if not gone:
            return Outcome(self.actual)
        return (yield from self._without(rows, gone))

    def _without(
        self, rows: Sequence[Row], gone: Sequence[tuple[int, Record]]
    ) -> Steps[Batch | Outcome]:
        """The session without some messages of these rows."""
        ordinals = {ordinal for ordinal, _ in gone}
        removed = [record.payload for _, record in gone]
        head = replace(
            self.head,
            count=self.head.count - len(gone),
            removals=self.head.removals + 1,
        )
        puts, drops = [], []
        for row in rows:
            left = tuple(one for one in row.messages if one[0] not in ordinals)
            if not left:
                drops.append(row.key)
            elif len(left) < len(row.messages):
                puts.append(row._replace(messages=left))
        if self._fits(puts, len(drops)):
            return self._batch(head, puts=puts, drops=drops, removed=removed)
        # Too much for one batch: what stays is written anew, with its ordinals.
        rows = yield Newest(self.head.gen, None, self.head.count)
        stay = [one for one in _messages(rows) if one[0] not in ordinals]
        head = replace(head, gen=self.gen)
        staged = _pack(self.gen, stay)
        return self._batch(head, staged=staged, removed=removed)

    def _edit(self, record: Record) -> Steps[Batch | Outcome]:
        rows, at = yield from self._find(record.id)
        if at is None:
            refusal: Any = "no_message" if self.live else "no_session"
            return Outcome(self.actual, refusal=refusal, detail=record.id)
        ordinal, there = _messages(rows)[at]
        if there.payload == record.payload:
            return Outcome(self.actual)
        [row] = [row for row in rows if any(ordinal == one for one, _ in row.messages)]
        messages = tuple((one, record if one == ordinal else old) for one, old in row.messages)
        head = replace(self.head, removals=self.head.removals + 1)
        return self._batch(head, puts=[row._replace(messages=messages)])

    def _replace(self, records: Sequence[Record]) -> Batch:
        begun = self._begun()
        head = replace(
            begun,
            gen=self.gen,
            count=len(records),
            last_ordinal=begun.last_ordinal + len(records),
            batch=len(records),
        )
        rows = _packed(self.gen, begun.last_ordinal, records)
        return self._batch(head, rows=rows, added=len(records), epoch=True)

    def _restore(self, action: Restore) -> Batch:
        self.command = self.command._replace(ttl=action.left)
        batch = self._replace(action.records)
        head = replace(batch.head, created_at=action.created_at, updated_at=action.updated_at)
        return batch._replace(head=head, texts={"m": action.metadata, "w": action.own})

    def _clear(self) -> Batch | Outcome:
        if not self.live:
            return Outcome(0)
        head = replace(
            self.head,
            alive=False,
            count=0,
            batch=0,
            expires_at=None,
            updated_at=self.now,
            version=self.head.version + 1,
        )
        return Batch(
            _version(self.before),
            self._remembering(head, 0),
            texts={"m": None, "w": None},
            left=self.head.gen,
            outcome=Outcome(0, cleared=self.head.count),
        )

    def _set_metadata(self, action: SetMetadata) -> Steps[Batch | Outcome]:
        if not self.live:
            return Outcome(0, refusal="no_session")
        name = "w" if action.own else "m"
        text = yield ReadText(name)
        if action.text == (b"{}" if text is None else text):
            return Outcome(self.actual)
        return self._batch(self.head, texts={name: action.text})

    # The parts that they share.

    def _find(self, message_id: object) -> Steps[tuple[Sequence[Row], int | None]]:
        """The newest rows down to the last message of an id, and its index among theirs."""
        rows: list[Row] = []
        seen = 0
        while self.live and seen < self.head.count:
            older = yield Newest(self.head.gen, rows[0].key if rows else None, _PAGE)
            if not older:
                break
            rows = [*older, *rows]
            seen += len(_messages(older))
            for index, (_, record) in reversed([*enumerate(_messages(rows))]):
                if record.id == message_id:
                    return rows, index
        return rows, None

    def _begun(self) -> SessionHead:
        """The head of a session that is there: as it is, or newly born."""
        if self.live:
            return self.head
        version = self.head.version + (1 if self.head.alive else 0)  # its time was over
        return replace(
            self.head,
            version=max(version, self.now - 1),
            alive=True,
            gen=self.gen,
            count=0,
            batch=0,
            created_at=self.now,
            updated_at=self.now if not self.before else self.head.updated_at,
            expires_at=None,
        )

    def _batch(
        self,
        head: SessionHead,
        *,
        puts: Sequence[Row] = (),
        drops: Sequence[int] = (),
        rows: Sequence[Row] = (),
        staged: Sequence[Row] = (),
        texts: Mapping[str, bytes | None] | None = None,
        added: int = 0,
        removed: Sequence[bytes] = (),
        epoch: bool = False,
    ) -> Batch:
        """The batch that makes a head the session's next; new rows are staged if they are many."""
        version = head.version + 1
        ttl = self.command.ttl
        if rows:
            puts, staged = (rows, ()) if self._fits(rows, 0) else ((), rows)
        if texts is None:
            texts = {} if self.live else {"m": None, "w": None}
        new = replace(
            head,
            version=version,
            epoch=version if epoch else head.epoch,
            updated_at=max(self.now, head.updated_at),
            expires_at=None if ttl is None else self.now + ttl,
        )
        left = self.head.gen if self.before is not None and new.gen != self.head.gen else None
        return Batch(
            _version(self.before),
            self._remembering(new, added),
            puts,
            drops,
            texts,
            staged,
            left,
            Outcome(version, added, removed),
        )

    def _remembering(self, head: SessionHead, added: int) -> SessionHead:
        commands = (*head.commands, Remembered(self.command.id, head.version, added))
        over = commands[:-REMEMBERED]
        return replace(
            head,
            commands=commands[-REMEMBERED:],
            floor=over[-1].version if over else head.floor,
        )

    def _fits(self, rows: Sequence[Row], drops: int) -> bool:
        size = sum(len(record.payload) for row in rows for _, record in row.messages)
        return len(rows) + drops <= self.limits.rows and size <= self.limits.size


def _messages(rows: Sequence[Row]) -> list[tuple[int, Record]]:
    return [message for row in rows for message in row.messages]


def _packed(gen: int, last: int, records: Sequence[Record]) -> list[Row]:
    """Rows of records, with the ordinals that follow the last one."""
    return _pack(gen, list(enumerate(records, last + 1)))


def _pack(gen: int, messages: Sequence[tuple[int, Record]]) -> list[Row]:
    rows: list[Row] = []
    part: list[tuple[int, Record]] = []
    size = 0
    for ordinal, record in messages:
        if part and (len(part) == PACKED_MESSAGES or size + len(record.payload) > PACKED_BYTES):
            rows.append(Row(gen, part[0][0], tuple(part)))
            part, size = [], 0
        part.append((ordinal, record))
        size += len(record.payload)
    if part:
        rows.append(Row(gen, part[0][0], tuple(part)))
    return rows
