"""Heads and rows: held against `SessionState`, and raced, step by step, with crashes and losses."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from chatstores.heads import (
    Attempt,
    Batch,
    Commit,
    Limits,
    Newest,
    Oldest,
    ReadHead,
    ReadText,
    Remove,
    Row,
    SessionHead,
    Stage,
    Steps,
    perform,
)
from chatstores.state import (
    REMEMBERED,
    Action,
    Append,
    Clear,
    Command,
    Delete,
    Edit,
    Outcome,
    Record,
    Replace,
    Restore,
    SessionState,
    SetMetadata,
)

START = 1_700_000_000_000_000
SECOND = 1_000_000
#: Batches so small that most trims and sets are staged.
SMALL = Limits(rows=3, size=200)
LARGE = Limits(rows=100, size=4_000_000)


class Lost(Exception):
    """The answer to a step, or the step itself, was lost."""


@dataclass
class Engine:
    """One session in memory, as an engine with conditional batches keeps it."""

    head: SessionHead | None = None
    rows: dict[tuple[int, int], Row] = field(default_factory=dict)
    texts: dict[str, bytes] = field(default_factory=dict)
    committed: Callable[[Batch], None] = lambda _: None

    def do(self, step: Any) -> Any:
        match step:
            case ReadHead():
                return self.head
            case Newest(gen, before, least):
                found = [row for row in self.of(gen) if before is None or row.key < before]
                return _enough(found[::-1], least)[::-1]
            case Oldest(gen, least):
                return _enough(self.of(gen), least)
            case ReadText(name):
                return self.texts.get(name)
            case Stage(rows):
                self.put(rows)
                return None
            case Commit(batch):
                return self.commit(batch)
            case Remove(gen):
                for row in self.of(gen):
                    del self.rows[gen, row.key]
                return None
        raise AssertionError(step)

    def commit(self, batch: Batch) -> bool:
        if (self.head.version if self.head else 0) != batch.basis:
            return False
        for key in batch.drops:
            del self.rows[batch.head.gen, key]
        self.put(batch.puts)
        for name, text in batch.texts.items():
            if text is None:
                self.texts.pop(name, None)
            else:
                self.texts[name] = text
        self.head = batch.head
        self.committed(batch)
        return True

    def put(self, rows: Any) -> None:
        for row in rows:
            assert row.messages
            self.rows[row.gen, row.key] = row

    def of(self, gen: int) -> list[Row]:
        return [self.rows[place] for place in sorted(self.rows) if place[0] == gen]

    def messages(self) -> list[tuple[int, Record]]:
        if self.head is None or not self.head.alive:
            return []
        return [one for row in self.of(self.head.gen) for one in row.messages]


def _enough(rows: list[Row], least: int) -> list[Row]:
    found: list[Row] = []
    for row in rows:
        if sum(len(one.messages) for one in found) >= least:
            break
        found.append(row)
    return found


def run(engine: Engine, steps: Steps[Outcome | None]) -> Outcome | None:
    """All steps, one after another."""
    answer = None
    while True:
        try:
            answer = engine.do(steps.send(answer))
        except StopIteration as end:
            outcome: Outcome | None = end.value
            return outcome


class Actions:
    """Makes commands, some of them about what is there."""

    def __init__(self, chance: random.Random, name: str = "") -> None:
        self.chance = chance
        self.name = name
        self.made = 0

    def record(self) -> Record:
        self.made += 1
        name = f"{self.name}{self.made}"
        return Record(name, b"text of " + name.encode())

    def action(self, ids: list[str]) -> Action:
        pick = self.chance.choice(ids) if ids else "none"
        number = self.chance.randint(1, 6)
        return self.chance.choice(
            [
                Append([self.record()]),
                Append([self.record()]),
                Append([self.record() for _ in range(number)]),
                Append([Record(pick, b"text of " + pick.encode()), self.record()]),
                Append([]),
                Delete("last"),
                Delete("index", self.chance.randint(-4, 4)),
                Delete("oldest", number),
                Delete("id", pick),
                Delete("after", pick),
                Edit(Record(pick, b"edited %d" % self.made)),
                Replace([self.record() for _ in range(number)]),
                Restore([self.record(), self.record()], b'{"r":1}', b"{}", 5, 6, None),
                Clear(),
                SetMetadata(b'{"n":%d}' % number, own=self.chance.random() < 0.3),
            ]
        )


def view(engine: Engine) -> object:
    """All of a session that a user can see."""
    head = engine.head
    if head is None or not head.alive:
        return None
    return (
        head.version,
        head.epoch,
        head.created_at,
        head.updated_at,
        head.expires_at,
        engine.messages(),
        engine.texts.get("m", b"{}"),
        engine.texts.get("w", b"{}"),
    )


def view_of(state: SessionState) -> object:
    if not state.alive:
        return None
    return (
        state.version,
        state.epoch,
        state.created_at,
        state.updated_at,
        state.expires_at,
        [(row.ordinal, Record(row.id, row.payload)) for row in state.rows],
        state.metadata,
        state.own,
    )


@pytest.mark.parametrize("limits", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("seed", range(100))
def test_one_writer_comes_to_the_same_as_the_state_machine(seed: int, limits: Limits) -> None:
    chance = random.Random(seed)
    actions = Actions(chance)
    state, engine = SessionState(), Engine()
    now = START
    for _ in range(60):
        now += chance.choice([0, 1, SECOND])
        expected = None
        if chance.random() < 0.2:
            expected = chance.choice([0, state.version if state.is_live(now) else 0])
        ttl = SECOND // 2 if chance.random() < 0.1 else None
        command = Command(chance.getrandbits(64), actions.action(list(state.ids)), expected, ttl)
        steps = perform(command, Attempt(), now, chance.getrandbits(64), limits)
        assert run(engine, steps) == state.apply(command, now), command
        if state.is_live(now):
            assert view(engine) == view_of(state)
            assert engine.head is not None
            assert engine.head.count == len(state.ids)
            # Nothing that nobody sees is left.
            assert {gen for gen, _ in engine.rows} <= {engine.head.gen}


@pytest.mark.parametrize("seed", range(30))
def test_a_command_that_comes_again_is_not_done_again(seed: int) -> None:
    chance = random.Random(seed)
    actions = Actions(chance)
    engine = Engine()
    done: list[tuple[Command, Attempt, Outcome | None]] = []
    for number in range(60):
        ids = [record.id for _, record in engine.messages()]
        command = Command(number, actions.action(ids))
        attempt = Attempt()
        version = engine.head.version if engine.head else 0
        outcome = run(engine, perform(command, attempt, START + number, number, LARGE))
        assert outcome is not None
        if engine.head is not None and engine.head.version > version:
            done.append((command, attempt, outcome))
        for again, before, first in done[-REMEMBERED:]:
            there = replace(engine.head or SessionHead()), dict(engine.rows)
            assert run(engine, perform(again, before, START + number, 10**6, LARGE)) == first
            assert (engine.head, engine.rows) == there


@dataclass
class Caller:
    """A client that works off commands, each to its end, through losses and crashes."""

    engine: Engine
    chance: random.Random
    number: int
    trouble: float
    actions: Actions = field(init=False)
    steps: Steps[Outcome | None] | None = None
    command: Command = field(init=False)
    attempt: Attempt = field(init=False)
    answer: Any = None
    late: list[Any] = field(default_factory=list)
    #: When each batch was decided, and for which command.
    decided: dict[int, tuple[Command, int, Batch]] = field(default_factory=dict)
    began: int = 0
    told: list[tuple[Command, Outcome, int, int]] = field(default_factory=list)
    #: How many batches were committed so far, now and when the command began.
    moment: int = 0
    first: int = 0
    unknown: list[Command] = field(default_factory=list)
    killed: int = 0

    def __post_init__(self) -> None:
        self.actions = Actions(self.chance, f"{self.number}.")

    def begin(self, now: int) -> None:
        ids = [record.id for _, record in self.engine.messages()]
        self.command = Command(self.chance.getrandbits(64), self.actions.action(ids))
        self.attempt = Attempt()
        self.first = self.moment
        self.again(now)

    def again(self, now: int) -> None:
        self.answer = None
        self.began = now
        gen = self.chance.getrandbits(64)
        self.steps = perform(self.command, self.attempt, now, gen, SMALL)

    def go_on(self, now: int) -> None:
        """One step, which may be lost, or its answer, or may come late; or the client crashes."""
        if self.late and self.chance.random() < 0.2:
            self.engine.do(self.late.pop(0))
        if self.steps is None:
            self.begin(now)
        assert self.steps is not None
        try:
            step = self.steps.send(self.answer)
        except StopIteration as end:
            self.finish(end.value, now)
            return
        if isinstance(step, Commit):
            self.decided.setdefault(id(step.batch), (self.command, self.began, step.batch))
        luck = self.chance.random() if self.chance.random() < self.trouble else 1.0
        if luck < 0.1:  # the client is killed, before or after the step
            if self.chance.random() < 0.5:
                self.engine.do(step)
            self.killed += 1
            self.steps = None
        elif luck < 0.6:  # nothing is heard
            kind = self.chance.random()
            if kind < 0.4:
                self.engine.do(step)
            elif kind < 0.7 and isinstance(step, Commit | Stage):
                self.late.append(step)
            self.again(now)
        else:
            self.answer = self.engine.do(step)

    def finish(self, outcome: Outcome | None, now: int) -> None:
        if outcome is None:
            self.again(now)
            return
        if outcome.refusal == "unknown":
            self.unknown.append(self.command)
        else:
            self.told.append((self.command, outcome, self.first, self.moment))
        self.steps = None


@pytest.mark.parametrize("remembered", [REMEMBERED, 1])
@pytest.mark.parametrize("seed", range(100))
def test_clients_that_race_lose_nothing_and_do_nothing_twice(
    seed: int, remembered: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatstores.heads.REMEMBERED", remembered)
    chance = random.Random(seed)
    engine = Engine()
    callers = [Caller(engine, chance, number, chance.choice([0.0, 0.3])) for number in range(3)]
    state = SessionState()
    versions: dict[int, Outcome] = {}

    def committed(batch: Batch) -> None:
        """What the engine did is what the state machine does with the same command."""
        [(command, began, _)] = [
            caller.decided[id(batch)] for caller in callers if id(batch) in caller.decided
        ]
        assert command.id not in versions, "done twice"
        assert batch.head.version > max([0, *(head.version for head in heads)])
        heads.append(batch.head)
        versions[command.id] = batch.outcome
        assert state.apply(command, began) == batch.outcome
        assert view(engine) == view_of(state)
        assert engine.head is not None
        assert engine.head.count == len(state.ids)
        states.append(copy.deepcopy(state))
        for caller in callers:
            caller.moment += 1

    states = [copy.deepcopy(state)]
    heads: list[SessionHead] = []
    engine.committed = committed
    now = START
    for _ in range(600):
        now += chance.choice([0, 1, 1000])
        chance.choice(callers).go_on(now)
    for caller in callers:
        for command, outcome, first, last in caller.told:
            if command.id in versions:
                assert outcome == versions[command.id]
                continue
            # What changes nothing is so at some moment of the call.
            answers = [copy.deepcopy(one).apply(command, now) for one in states[first : last + 1]]
            assert outcome in answers
    assert sum(len(caller.told) for caller in callers) > 20
    if remembered == REMEMBERED:
        assert sum(len(caller.unknown) for caller in callers) < 5
