"""The fold of a Kafka partition: held against a plain history, replayed, compacted, and raced."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import pytest

from chatstores.fold import Fold
from chatstores.state import (
    Action,
    Append,
    Clear,
    Command,
    Delete,
    Edit,
    Outcome,
    Record,
    Replace,
    SetMetadata,
)
from chatstores_kafka.cleanup import draft_checkpoint, leftovers
from chatstores_kafka.fold import PartitionFold
from chatstores_kafka.record import Kind, encode_command, encode_value, name_of
from chatstores_kafka.saved import capture, encode, read_saved
from chatstores_kafka.state import LoggedState

NAMES = [name_of("default", key) for key in ("a", "b")]
SECOND = 1_000_000
DAY = 86_400 * SECOND


@dataclass
class Log:
    """A partition: records by offset, as a broker keeps and compacts them."""

    records: dict[int, tuple[bytes, bytes | None, int]] = field(default_factory=dict)
    end: int = 0
    now: int = 1_000 * SECOND

    def append(self, key: bytes, value: bytes | None) -> int:
        self.records[self.end] = (key, value, self.now)
        self.end += 1
        return self.end - 1

    def compact(self, upto: int, *, tombstones: bool) -> None:
        """Keep the last record of each key below an offset; drop tombstones, if told to."""
        newest = {self.records[offset][0]: offset for offset in sorted(self.records)}
        for offset in [offset for offset in self.records if offset < upto]:
            key, value, _ = self.records[offset]
            if newest[key] != offset or (value is None and tombstones):
                del self.records[offset]


class Reader:
    """A view of the log, which reads on when it is told to."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.sessions = Fold()
        self.verdicts: dict[int, Outcome | None] = {}
        self.waiting: set[int] = set()
        self.fold = PartitionFold(self.sessions, 0, 1, self.waiting, self._answer)
        self.position = 0

    def _answer(self, number: int, outcome: Outcome | None) -> None:
        self.verdicts.setdefault(number, outcome)

    def read(self, upto: int | None = None) -> None:
        end = self.log.end if upto is None else upto
        for offset in sorted(self.log.records):
            if self.position <= offset < end:
                key, value, time = self.log.records[offset]
                self.fold.take(offset, time, key, value)
        self.position = max(self.position, end)
        if self.position == self.log.end:
            self.fold.reached_end()

    def save(self) -> bytes:
        """What a state directory would hold of it, once it has read all there is."""
        about = {"position": self.position, **self.fold.about()}
        return b"".join(encode(capture(self.fold.states), about))

    @classmethod
    def resume(cls, log: Log, data: bytes) -> Reader:
        """A reader that goes on where another one was saved."""
        reader, saved = cls(log), read_saved(data)
        reader.fold.adopt(saved)
        reader.position = saved.about["position"]
        return reader

    def state(self, name: bytes) -> LoggedState | None:
        return self.fold.states.get(name)

    def mark(self, name: bytes) -> int:
        state = self.state(name)
        return -1 if state is None else state.mark

    def plain(self, name: bytes) -> object:
        """All that a user can see of a session, and what decides later commands."""
        state = self.state(name)
        if state is None or (not state.alive and not state.remembered.ids):
            return None
        return (
            state.alive,
            state.version,
            state.epoch,
            state.last_ordinal,
            list(state.ordinals),
            list(state.ids),
            list(state.payloads),
            list(state.sources),
            state.metadata,
            state.expires_at,
            state.mark,
            state.remembered.floor,
            list(state.remembered.ids),
        )


class Writer:
    """Sends commands on what its own view knows."""

    def __init__(self, log: Log, chance: random.Random, number: int) -> None:
        self.log, self.chance, self.number = log, chance, number
        self.view = Reader(log)
        self.sent: list[tuple[bytes, Command]] = []
        self.delays = True
        self.delayed: list[bytes] = []
        self.made = 0

    def record(self) -> Record:
        self.made += 1
        number = f"{self.number}.{self.made}"
        return Record(number, b"secret " + number.encode())

    def action(self, name: bytes) -> Action:
        state = self.view.state(name)
        ids = list(state.ids) if state else []
        pick = self.chance.choice(ids) if ids else "none"
        return self.chance.choice(
            [
                Append([self.record()]),
                Append([self.record()]),
                Append([self.record(), self.record()]),
                Append([Record(pick, b"secret " + pick.encode()), self.record()]),
                Delete("last"),
                Delete("oldest", 2),
                Delete("id", pick),
                Delete("after", pick),
                Edit(Record(pick, b"edited")),
                Replace([self.record(), self.record()]),
                Clear(),
                SetMetadata(b'{"n":%d}' % self.made),
            ]
        )

    def write(self) -> None:
        if self.sent and self.chance.random() < 0.2:  # a lost reply: the same command again
            name, command = self.chance.choice(self.sent[-3:])
            self.send(name, command, retry=True)
            return
        name = self.chance.choice(NAMES)
        state = self.view.state(name)
        expected = None
        if self.chance.random() < 0.2:
            expected = state.version if state and state.alive else 0
        ttl = 2 * SECOND if self.chance.random() < 0.1 else None
        command = Command(self.chance.getrandbits(64), self.action(name), expected, ttl)
        self.sent.append((name, command))
        self.send(name, command, retry=False)

    def send(self, name: bytes, command: Command, *, retry: bool) -> None:
        self.view.waiting.add(command.id)
        records = getattr(command.action, "records", ())
        parts = []
        if len(records) > 1 and self.chance.random() < 0.3:
            for record in records:
                token = self.chance.randbytes(8)
                value = encode_value(
                    Kind.PART, name, id=command.id, seen=-1, partitions=1, records=[record]
                )
                self.log.append(token, value)
                parts.append(int.from_bytes(token, "little"))
        # What was folded and forgotten must not be done again: the store knows no better then.
        seen = -1 if command.id in self.view.verdicts else self.view.mark(name)
        value = encode_command(name, command, seen=seen, partitions=1, retry=retry, parts=parts)
        if self.delays and not retry and self.chance.random() < 0.1:
            self.delayed.append(value)
        else:
            self.log.append(self.chance.randbytes(8), value)
        if self.delayed and self.chance.random() < 0.2:  # perhaps after its own retry
            self.log.append(self.chance.randbytes(8), self.delayed.pop(0))

    def clean(self) -> None:
        """A checkpoint, then the tombstones of what it made useless; either may not happen."""
        self.view.read()
        name = self.chance.choice(NAMES)
        if self.view.state(name) is None:
            return
        draft = draft_checkpoint(self.view.fold, name, 1)
        if self.chance.random() < 0.3:
            self.write()  # of somebody else, or its own: the checkpoint comes too late
        self.log.append(draft.token, draft.value)
        self.view.read()
        useless = self.view.fold.useless.pop(int.from_bytes(draft.token, "little"))
        for token in useless or []:
            if self.chance.random() < 0.9:  # or it is killed
                self.log.append(token.to_bytes(8, "little"), None)


class Counting(LoggedState):
    """Counts how often each command is done."""

    done: ClassVar[Counter[int]] = Counter()

    def _decide(self, command: Command, now: int) -> Outcome:
        self.done[command.id] += 1
        return super()._decide(command, now)

    def append_one(self, number: int, *args: Any) -> int | None:
        version = super().append_one(number, *args)
        if version is not None:
            self.done[number] += 1
        return version


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions that remember so little that it matters."""
    monkeypatch.setattr("chatstores_kafka.state.REMEMBERED", 4)
    monkeypatch.setattr("chatstores_kafka.checkpoint._REMEMBERED", 2)


@pytest.mark.usefixtures("forgetful")
@pytest.mark.parametrize("seed", range(300))
def test_every_reader_of_a_compacted_log_sees_the_same(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    log = Log()
    writers = [Writer(log, chance, number) for number in range(3)]
    late, watcher = Reader(log), Reader(log)
    saved = Reader(log).save()
    monkeypatch.setattr(Counting, "done", Counter())
    for _ in range(120):
        log.now += chance.choice([0, 1000, SECOND])
        writer = chance.choice(writers)
        writer.write()
        if chance.random() < 0.5:
            chance.choice(writers).view.read()
        if chance.random() < 0.15:
            writer.clean()
        if chance.random() < 0.1:
            # Only who is loading may be further behind than what is compacted.
            with monkeypatch.context() as patch:
                patch.setattr("chatstores_kafka.fold.LoggedState", Counting)
                watcher.read()
            for each in writers:
                each.view.read()
            if late.fold.dead is None:
                late.read()
            log.compact(chance.randrange(log.end + 1), tombstones=chance.random() < 0.3)
        if chance.random() < 0.1:
            late = Reader(log)
            late.read(chance.randrange(log.end + 1))
        if chance.random() < 0.1:
            resumed = Reader.resume(log, saved)
            resumed.read()
            saved = resumed.save()
    fresh = Reader(log)
    readers = [fresh, late, watcher, Reader.resume(log, saved)]
    readers += [writer.view for writer in writers]
    for reader in readers:
        reader.read()
    for name in NAMES:
        assert {repr(reader.plain(name)) for reader in readers} == {repr(fresh.plain(name))}
    assert set(Counting.done.values()) <= {1}
    for writer in writers:
        assert len(writer.view.verdicts) > len(writer.sent) // 2


@pytest.mark.parametrize("seed", range(20))
def test_what_is_saved_comes_back_whole(seed: int) -> None:
    chance = random.Random(seed)
    log = Log()
    writer = Writer(log, chance, 0)
    for _ in range(100):
        log.now += chance.choice([0, 1000, SECOND])
        writer.write()
        if chance.random() < 0.1:
            writer.clean()
    writer.view.read()
    resumed = Reader.resume(log, writer.view.save())
    again = Reader.resume(log, resumed.save())
    for reader in (resumed, again):
        reader.read()
        assert reader.fold.states.keys() == writer.view.fold.states.keys()
        for name, state in reader.fold.states.items():
            for each in fields(LoggedState):
                if each.name in ("newest", "remembered"):  # a shortcut; what commands answered
                    continue
                there = getattr(writer.view.fold.states[name], each.name)
                assert getattr(state, each.name) == there, each.name


@pytest.mark.parametrize("seed", range(40))
def test_everything_of_a_deleted_session_goes(seed: int) -> None:
    chance = random.Random(seed)
    log = Log()
    writer = Writer(log, chance, 0)
    writer.delays = False
    for _ in range(60):
        writer.write()
        writer.view.read()
    for name in NAMES:
        writer.send(name, Command(chance.getrandbits(64), Clear()), retry=False)
        writer.view.read()
        for _ in range(2):  # the second finds what the first did not finish
            draft = draft_checkpoint(writer.view.fold, name, 1)
            log.append(draft.token, draft.value)
            writer.view.read()
            for token in writer.view.fold.useless.pop(int.from_bytes(draft.token, "little")) or []:
                log.append(token.to_bytes(8, "little"), None)
    log.compact(log.end, tombstones=True)
    text = b"".join(value or b"" for _, value, _ in log.records.values())
    assert b"secret" not in text
    assert len(log.records) == len(NAMES)
    log.now += DAY + SECOND
    fresh = Reader(log)
    fresh.read()
    assert leftovers(fresh.fold.states.values(), log.now - 2 * SECOND) == []
    tokens = leftovers(fresh.fold.states.values(), log.now)
    assert len(tokens) == len(NAMES)
    for token in tokens:
        log.append(token.to_bytes(8, "little"), None)
    for reader in (fresh, writer.view):
        reader.read()
        assert reader.fold.states == {}
        assert reader.sessions.namespaces == {"default": {}}


class LongWay(LoggedState):
    """Does every command in the general way."""

    def append_one(self, *args: Any) -> None:
        return None


@pytest.mark.parametrize("seed", range(5))
def test_the_short_way_of_an_append_is_the_long_one(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    log = Log()
    writer = Writer(log, chance, 0)
    for _ in range(1000):
        log.now += chance.choice([0, 1000, SECOND])
        writer.write()
        writer.view.read()
    plain = Reader(log)
    monkeypatch.setattr("chatstores_kafka.fold.LoggedState", LongWay)
    plain.read()
    for name in NAMES:
        assert plain.plain(name) == writer.view.plain(name)
