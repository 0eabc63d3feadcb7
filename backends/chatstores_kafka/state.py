"""LoggedState: a session folded from a partition, which knows where each of its rows stands."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from chatstores.state import (
    WINDOW,
    Append,
    Command,
    Edit,
    Outcome,
    Record,
    Replace,
    Restore,
    SessionState,
)

__all__ = ["INDEX_BITS", "REMEMBERED", "LoggedState", "Remembered", "offset_of"]

#: A row's source is the offset of its record, and in the low bits its place among its messages.
INDEX_BITS = 20
#: How many commands a session remembers at least, and after how many the older half is forgotten.
REMEMBERED = 256


def offset_of(source: int) -> int:
    """The offset of the record in which a row stands."""
    return source >> INDEX_BITS


def _signed() -> array[int]:
    return array("q")


def _unsigned() -> array[int]:
    return array("Q")


@dataclass(slots=True)
class Remembered:
    """The commands of a session that it remembers, oldest first, and what they answered.

    What most answer, a version and a number of messages, stands in columns.
    """

    ids: array[int] = field(default_factory=_unsigned)
    offsets: array[int] = field(default_factory=_signed)
    versions: array[int] = field(default_factory=_signed)
    added: array[int] = field(default_factory=_signed)
    others: dict[int, Outcome] = field(default_factory=dict)
    #: Those that were done by a retry: a first attempt that comes after it was overtaken.
    overtaken: set[int] = field(default_factory=set)
    #: The offset of the newest that is forgotten.
    floor: int = -1

    def add(self, id: int, outcome: Outcome, offset: int, retry: bool) -> None:
        """Remember a command."""
        self.ids.append(id)
        self.offsets.append(offset)
        self.versions.append(outcome.version)
        self.added.append(outcome.added)
        if outcome.removed or outcome.cleared or outcome.refusal is not None:
            self.others[id] = outcome
        if retry:
            self.overtaken.add(id)
        if len(self.ids) >= 2 * REMEMBERED:
            self.forget(REMEMBERED)

    def get(self, id: int) -> Outcome | None:
        """What a command answered, if it is remembered."""
        try:
            index = self.ids.index(id)
        except ValueError:
            return None
        return self.others.get(id) or Outcome(self.versions[index], self.added[index])

    def forget(self, keep: int) -> None:
        """Forget all but the newest."""
        end = len(self.ids) - keep
        if end <= 0:
            return
        for number in self.ids[:end]:
            self.others.pop(number, None)
            self.overtaken.discard(number)
        self.floor = self.offsets[end - 1]
        del self.ids[:end], self.offsets[:end], self.versions[:end], self.added[:end]


@dataclass(slots=True)
class LoggedState(SessionState):
    """One session, folded from the records of its partition in their order.

    What it remembers of commands is counted in offsets: `SessionState` counts in time.
    """

    #: Of each row, where it stands in the log.
    sources: array[int] = field(default_factory=_signed)
    #: Every record of this session that was read, and its token.
    offsets: array[int] = field(default_factory=_signed)
    tokens: array[int] = field(default_factory=_unsigned)
    #: The offset of the last command, whatever became of it.
    mark: int = -1
    remembered: Remembered = field(default_factory=Remembered)
    #: The newest append time, which a later record's may be behind: leaders' clocks differ.
    time: int = 0
    #: The offset of the newest effective checkpoint.
    checkpoint: int = -1
    #: The append time of the first command since then; 0 if there was none.
    since: int = 0
    #: How many records and rows have become useless since the checkpoint.
    waste: int = 0
    #: Messages that were removed or refused, by source: where records are gone from the log, a
    #: later checkpoint may say that they were not.
    shed: dict[int, Record] = field(default_factory=dict)
    #: Messages of a command in several records, by the token of each.
    parts: dict[int, tuple[int, Sequence[Record]]] = field(default_factory=dict)
    #: An id that none of the last ones is above, for many appends in a row: most ids grow with
    #: time. None if it has to be found.
    newest: str | None = None
    #: The messages of the command that is being done, and where each stands.
    _incoming: Sequence[tuple[int, Record]] = ()

    def append_one(
        self, id: int, message_id: str, payload: bytes, ttl: int | None, offset: int, now: int
    ) -> int | None:
        """The most usual command in the fewest steps: a first attempt that adds one message.

        Its writer has seen every command that is forgotten.

        Returns:
            The version after it; None if the general way must decide, and nothing was done.
        """
        memory = self.remembered
        if not self.alive or id in memory.overtaken:
            return None
        if now < self.time:
            now = self.time
        if self.expires_at is not None and now > self.expires_at:
            return None
        newest = self.newest
        if newest is None or message_id <= newest:
            last = self.ids[-max(WINDOW, self.batch) :]
            if message_id in last:
                return None
            self.newest = max(message_id, newest or max(last, default=""))
        else:
            self.newest = message_id
        self.time = now
        self.mark = offset
        if not self.since:
            self.since = now
        self.last_ordinal = ordinal = self.last_ordinal + 1
        self.ordinals.append(ordinal)
        self.ids.append(message_id)
        self.payloads.append(payload)
        self.sources.append(offset << INDEX_BITS)
        self.batch = 1
        self.version = version = self.version + 1
        if now > self.updated_at:
            self.updated_at = now
        self.expires_at = None if ttl is None else now + ttl
        memory.ids.append(id)
        memory.offsets.append(offset)
        memory.versions.append(version)
        memory.added.append(1)
        if len(memory.ids) >= 2 * REMEMBERED:
            memory.forget(REMEMBERED)
        return version

    def take(
        self,
        command: Command,
        sources: Sequence[int],
        *,
        seen: int,
        retry: bool,
        offset: int,
        now: int,
    ) -> Outcome | None:
        """Do the command of a record, or answer as the first time if it was done before.

        Args:
            command: the write.
            sources: where each of its messages stands.
            seen: the offset of the session's last command that its writer had folded.
            retry: whether an earlier attempt may stand in the log.
            offset: the record's.
            now: its append time, in microseconds.

        Returns:
            The outcome; None if it was not done and never will be, since the writer had not seen
            commands that are forgotten.
        """
        self.mark = offset
        self.time = now = max(now, self.time)
        self.since = self.since or now
        memory = self.remembered
        known = memory.get(command.id) if retry or command.id in memory.overtaken else None
        records = _records(command)
        self.newest = None
        if known is None:
            self.expire(now)
            if seen >= memory.floor:
                self._incoming = list(zip(sources, records, strict=True))
                known = self._decide(command, now)
                self._incoming = ()
                memory.add(command.id, known, offset, retry)
                if known.refusal is None and known.added == len(records) > 0:
                    return known
        self.waste += 1
        self.shed.update(zip(sources, records, strict=True))
        return known

    def lose(self, offset: int) -> None:
        """Note a command that cannot be done, since a part of it is not there."""
        self.mark = offset
        self.waste += 1

    def rows_by_source(self) -> dict[int, Record]:
        """Every message that a checkpoint may name."""
        found = dict(self.shed)
        for offset, records in self.parts.values():
            found.update(
                (offset << INDEX_BITS | index, record) for index, record in enumerate(records)
            )
        for index, source in enumerate(self.sources):
            found[source] = Record(self.ids[index], self.payloads[index])
        return found

    def _begin(self, now: int) -> None:
        # Whether the marker of the former session is still there must not matter.
        if not self.alive:
            self.last_ordinal = 0
        SessionState._begin(self, now)

    # Rows, and where they stand.

    def _add(self, records: Sequence[Record]) -> None:
        SessionState._add(self, records)
        incoming = self._incoming
        if len(records) < len(incoming):  # some were there
            added = {record.id for record in records}
            incoming = [pair for pair in incoming if pair[1].id in added]
        self.sources.extend(source for source, _ in incoming)

    def _put(self, index: int, record: Record) -> None:
        self.shed[self.sources[index]] = Record(self.ids[index], self.payloads[index])
        SessionState._put(self, index, record)
        self.sources[index] = self._incoming[0][0]

    def _remove(self, span: slice) -> None:
        self._shed(span)
        SessionState._remove(self, span)
        del self.sources[span]

    def _drop_rows(self) -> None:
        self._shed(slice(None))
        SessionState._drop_rows(self)
        self.sources = _signed()

    def _shed(self, span: slice) -> None:
        for index in range(len(self.ids))[span]:
            self.shed[self.sources[index]] = Record(self.ids[index], self.payloads[index])
            self.waste += 1


def _records(command: Command) -> Sequence[Record]:
    match command.action:
        case Append(records) | Replace(records) | Restore(records):
            return records
        case Edit(record):
            return [record]
        case _:
            return ()
