"""SessionState held against a plain Python list."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from chatstores.state import (
    REMEMBERED,
    WINDOW,
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

START = 1_700_000_000_000_000  # some day in 2023, in microseconds


def record(name: str, edition: int = 0) -> Record:
    return Record(name, f"{name}{edition}".encode())


def state_with(*names: str, ttl: int | None = None) -> SessionState:
    """A session of these messages, written one by one."""
    state = SessionState()
    for number, name in enumerate(names):
        state.apply(Command(1_000_000 + number, Append([record(name)]), ttl=ttl), START)
    return state


def texts(state: SessionState) -> list[str]:
    return [row.id for row in state.rows]


def view(state: SessionState) -> dict[str, Any]:
    """All of a session but what it remembers of commands."""
    return {
        field.name: copy.copy(getattr(state, field.name))
        for field in dataclasses.fields(state)
        if field.name not in ("commands", "floor")
    }


@dataclasses.dataclass
class Model:
    """The same session as a list; and what its owner was told."""

    rows: list[Record] = dataclasses.field(default_factory=list)
    alive: bool = False
    version: int = 0
    highest: int = 0  # the highest version that ever was
    epoch: int = 0
    created_at: int = 0
    updated_at: int = 0
    expires_at: int | None = None
    metadata: bytes = b"{}"
    own: bytes = b"{}"

    def pass_time(self, now: int) -> None:
        if self.alive and self.expires_at is not None and now > self.expires_at:
            self.end()

    def end(self) -> None:
        self.rows, self.alive, self.version = [], False, 0
        self.expires_at, self.metadata, self.own = None, b"{}", b"{}"


records = st.builds(record, st.sampled_from("abcdefghijkl"), st.sampled_from([0, 0, 0, 1]))
batches = st.lists(records, max_size=5, unique_by=lambda r: r.id)
ttls = st.sampled_from([None, None, 50, 1000])
objects = st.sampled_from([b"{}", b'{"title":"a"}', b'{"title":"b"}'])
expectations = st.sampled_from(["none", "none", "right", "wrong", "absent"])
deletions = st.one_of(
    st.just(Delete("last")),
    st.builds(Delete, st.just("index"), st.integers(-8, 8)),
    st.builds(Delete, st.just("id"), st.sampled_from("abcdefghijkl")),
    st.builds(Delete, st.just("oldest"), st.integers(0, 8)),
    st.builds(Delete, st.just("after"), st.sampled_from("abcdefghijkl")),
)


class SessionMachine(RuleBasedStateMachine):
    """Every action, right and wrong versions, time that passes, commands that come again."""

    def __init__(self) -> None:
        super().__init__()
        self.state = SessionState()
        self.model = Model()
        self.now = START
        self.said: list[tuple[int, Command, Outcome]] = []
        self.places: dict[tuple[int, int], str] = {}

    @initialize(ttl=ttls)
    def begin(self, ttl: int | None) -> None:
        self.do(Append([record("a")]), "none", ttl)

    # Running one command on both, and comparing what each says.

    def do(self, action: Action, expectation: str, ttl: int | None) -> None:
        self.model.pass_time(self.now)
        version = self.model.version
        expected = {"none": None, "right": version, "wrong": version + 1, "absent": 0}[expectation]
        command = Command(len(self.said) + 1, action, expected, ttl)
        before = view(self.state)
        told = self.decide(command)
        outcome = self.state.apply(command, self.now)
        assert (list(outcome.removed), outcome.added, outcome.cleared, outcome.refusal) == told
        if outcome.refusal == "conflict":
            assert outcome.version == version != expected
        if not self.changed:
            self.model.pass_time(self.now)
            assert outcome.version == version
            if before["alive"] == self.state.alive:  # it may have expired instead
                assert view(self.state) == before
        self.said.append((self.now, command, outcome))
        self.follow(outcome)

    def follow(self, outcome: Outcome) -> None:
        """Take over the version, which only has to grow."""
        model = self.model
        if not self.changed:
            return
        assert self.state.version > model.highest
        model.highest = self.state.version
        model.version = self.state.version if model.alive else 0
        assert outcome.version == model.version
        if self.new_epoch:
            model.epoch = model.version

    def decide(self, command: Command) -> tuple[list[bytes], int, int, str | None]:
        """What the list says; ``changed`` and ``new_epoch`` tell what it did to the session."""
        model, action, expected = self.model, command.action, command.expected_version
        self.changed = self.new_epoch = False
        held = {row.id: row.payload for row in model.rows}
        if isinstance(action, Append) and action.records:
            fresh = [r for r in action.records if held.get(r.id) != r.payload]
            if not fresh:
                return [], 0, 0, None
        if expected is not None and expected != model.version:
            return [], 0, 0, "conflict"
        removed: list[Record] = []
        added = cleared = 0
        left = command.ttl
        rows = list(model.rows)
        match action:
            case Append(new):
                if any(held.get(r.id, r.payload) != r.payload for r in new):
                    return [], 0, 0, "other_content"
                fresh = [r for r in new if r.id not in held]
                rows += fresh
                added = len(fresh)
                self.changed = bool(fresh)
            case Replace(new) | Restore(new):
                rows = list(new)
                added = len(rows)
                self.changed = self.new_epoch = True
            case Edit(new):
                places = [i for i, row in enumerate(rows) if row.id == new.id]
                if not places:
                    return [], 0, 0, "no_message" if model.alive else "no_session"
                self.changed = rows[places[-1]] != new
                rows[places[-1]] = new
            case Delete(which, argument):
                places = [i for i, row in enumerate(rows) if row.id == argument]
                if which == "after" and not places:
                    return [], 0, 0, "no_message"
                rows, removed = self.cut(rows, which, argument)
                self.changed = bool(removed)
            case Clear():
                self.changed, cleared = model.alive, len(rows)
                model.end()
                return [], 0, cleared, None
            case SetMetadata(text, own):
                if not model.alive:
                    return [], 0, 0, "no_session"
                self.changed = text != (model.own if own else model.metadata)
        if self.changed:
            self.change(command, rows, left)
        return [r.payload for r in removed], added, cleared, None

    @staticmethod
    def cut(rows: list[Record], which: str, argument: Any) -> tuple[list[Record], list[Record]]:
        """What Python's own list would keep and remove."""
        kept = list(rows)
        if which == "oldest":
            return rows[argument:], rows[:argument]
        if which == "after":
            last = max(i for i, row in enumerate(rows) if row.id == argument)
            return rows[: last + 1], rows[last + 1 :]
        if which == "id":
            argument = max((i for i, row in enumerate(rows) if row.id == argument), default=None)
        try:
            removed = (
                [kept.pop(-1 if which == "last" else argument)] if argument is not None else []
            )
        except IndexError:
            removed = []
        return kept, removed

    def change(self, command: Command, rows: list[Record], left: int | None) -> None:
        model, action, now = self.model, command.action, self.now
        if not model.alive:
            model.alive, model.created_at, model.updated_at = True, now, 0
            self.new_epoch = True
        model.rows = rows
        model.updated_at = max(now, model.updated_at)
        if isinstance(action, SetMetadata):
            setattr(model, "own" if action.own else "metadata", action.text)
        if isinstance(action, Restore):
            left = action.left
            model.metadata, model.own = action.metadata, action.own
            model.created_at, model.updated_at = action.created_at, action.updated_at
        model.expires_at = None if left is None else now + left

    # The rules.

    @rule(new=batches, expectation=expectations, ttl=ttls)
    def append(self, new: list[Record], expectation: str, ttl: int | None) -> None:
        rows = self.model.rows
        if len(set(rows)) > len({row.id for row in rows}):
            return  # a restored session has one id with two contents: either answer is right
        self.do(Append(new), expectation, ttl)

    @rule(deletion=deletions, expectation=expectations, ttl=ttls)
    def delete(self, deletion: Delete, expectation: str, ttl: int | None) -> None:
        self.do(deletion, expectation, ttl)

    @rule(new=records, expectation=expectations, ttl=ttls)
    def edit(self, new: Record, expectation: str, ttl: int | None) -> None:
        self.do(Edit(new), expectation, ttl)

    @rule(new=batches, expectation=expectations, ttl=ttls)
    def replace(self, new: list[Record], expectation: str, ttl: int | None) -> None:
        self.do(Replace(new), expectation, ttl)

    @rule(
        new=st.lists(records, max_size=4),
        metadata=objects,
        own=objects,
        ago=st.integers(0, 10**9),
        left=st.sampled_from([None, 50, 1000]),
        expectation=expectations,
    )
    def restore(
        self,
        new: list[Record],
        metadata: bytes,
        own: bytes,
        ago: int,
        left: int | None,
        expectation: str,
    ) -> None:
        times = (self.now - 2 * ago, self.now - ago)
        self.do(Restore(new, metadata, own, *times, left), expectation, None)

    @rule(expectation=expectations)
    def clear(self, expectation: str) -> None:
        self.do(Clear(), expectation, None)

    @rule(text=objects, own=st.booleans(), expectation=expectations, ttl=ttls)
    def set_metadata(self, text: bytes, own: bool, expectation: str, ttl: int | None) -> None:
        self.do(SetMetadata(text, own), expectation, ttl)

    @rule(microseconds=st.sampled_from([1, 1, 49, 50, 51, 999, 1000, 1001]))
    def wait(self, microseconds: int) -> None:
        self.now += microseconds

    @rule(back=st.integers(1, REMEMBERED), with_age=st.booleans())
    def say_again(self, back: int, with_age: bool) -> None:
        """A remembered command is answered as it was, and not done again."""
        if back > len(self.said):
            return
        time, command, outcome = self.said[-back]
        before = view(self.state)
        age = self.now - time + 1 if with_age else 0
        assert self.state.apply(command._replace(age=age), self.now) == outcome
        assert view(self.state) == before

    @precondition(lambda self: len(self.said) > REMEMBERED)
    @rule(data=st.data())
    def say_a_forgotten_one_again(self, data: st.DataObject) -> None:
        """It is never done twice: the store says that it does not know."""
        forgotten = self.said[:-REMEMBERED]
        time, command, _ = data.draw(st.sampled_from(forgotten))
        self.model.pass_time(self.now)
        again = command._replace(age=self.now - time + 1)
        assert self.state.apply(again, self.now).refusal == "unknown"

    @rule(data=st.data(), limit=st.none() | st.integers(1, 6))
    def look_back(self, data: st.DataObject, limit: int | None) -> None:
        """rows_before is a filter of the list."""
        top = max((row.ordinal for row in self.state.rows), default=0) + 2
        ordinal = data.draw(st.none() | st.integers(0, top))
        rows = [
            (row.ordinal, row.payload)
            for row in self.state.rows
            if ordinal is None or row.ordinal < ordinal
        ]
        found = self.state.rows_before(ordinal, limit)
        assert list(found) == (rows if limit is None else rows[-limit:])

    # What holds at every moment.

    @invariant()
    def the_list_and_the_state_agree(self) -> None:
        model, state = self.model, self.state
        model.pass_time(self.now)
        assert state.is_live(self.now) == model.alive
        if not model.alive:
            return
        assert [Record(row.id, row.payload) for row in state.rows] == model.rows
        head = state.head()
        assert head.count == len(model.rows)
        for name in (
            "version",
            "epoch",
            "created_at",
            "updated_at",
            "expires_at",
            "metadata",
            "own",
        ):
            assert getattr(head, name) == getattr(model, name), name

    @invariant()
    def ordinals_grow_and_are_never_used_twice(self) -> None:
        ordinals = [row.ordinal for row in self.state.rows]
        assert ordinals == sorted(set(ordinals))
        for row in self.state.rows:
            assert self.places.setdefault((self.state.epoch, row.ordinal), row.id) == row.id


TestSession = SessionMachine.TestCase
TestSession.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


# W8: the window of ids.


numbers = iter(range(1, 10**9))


def add(state: SessionState, *new: Record, now: int = START, ttl: int | None = None) -> Outcome:
    return state.apply(Command(next(numbers), Append(list(new)), ttl=ttl), now)


def fill(state: SessionState, count: int, prefix: str = "m") -> list[Record]:
    new = [record(f"{prefix}{number}") for number in range(count)]
    for one in new:
        add(state, one)
    return new


def test_w8_an_id_among_the_last_64_is_not_added_again() -> None:
    state = SessionState()
    new = fill(state, WINDOW)
    version = state.version
    assert add(state, new[0]) == Outcome(version)
    assert add(state, *new) == Outcome(version)
    assert len(state.rows) == WINDOW


def test_w8_the_window_is_at_least_64() -> None:
    assert WINDOW >= 64


def test_w8_past_the_window_a_duplicate_may_come() -> None:
    state = SessionState()
    new = fill(state, WINDOW + 1)
    assert add(state, new[0]).refusal is None
    assert add(state, new[-1]).added == 0


def test_w8_the_last_batch_is_looked_through_whole() -> None:
    state = SessionState()
    batch = [record(f"b{number}") for number in range(3 * WINDOW)]
    version = add(state, *batch).version
    assert add(state, *batch) == Outcome(version)
    assert add(state, batch[0]) == Outcome(version)


def test_w8_a_set_is_a_batch_too() -> None:
    state = state_with("x")
    batch = [record(f"b{number}") for number in range(2 * WINDOW)]
    state.apply(Command(next(numbers), Replace(batch)), START)
    assert add(state, batch[0]).added == 0


def test_w8_a_batch_that_was_there_in_part_is_looked_through_whole() -> None:
    state = SessionState()
    batch = [record(f"b{number}") for number in range(WINDOW + 36)]
    assert add(state, *batch[:10]).added == 10
    assert add(state, *batch).added == WINDOW + 26
    assert add(state, *batch).added == 0
    assert len(state.rows) == len(batch)


def test_w8_other_content_is_refused_and_nothing_of_the_batch_added() -> None:
    state = state_with("a", "b")
    outcome = add(state, record("new"), record("b", 1))
    assert (outcome.refusal, outcome.detail) == ("other_content", "b")
    assert texts(state) == ["a", "b"]


def test_w8_those_that_are_there_are_skipped_in_a_batch() -> None:
    state = state_with("a", "b")
    assert add(state, record("c"), record("a"), record("d")).added == 2
    assert texts(state) == ["a", "b", "c", "d"]


def test_w8_a_popped_message_may_come_back() -> None:
    state = state_with("a", "b")
    state.apply(Command(next(numbers), Delete("last")), START)
    assert add(state, record("b")).added == 1


def test_w8_all_there_is_no_conflict_but_some_there_is() -> None:
    state = state_with("a", "b")
    again = Command(next(numbers), Append([record("a")]), expected_version=1)
    assert state.apply(again, START) == Outcome(state.version)
    partly = Command(next(numbers), Append([record("a"), record("c")]), expected_version=1)
    assert state.apply(partly, START).refusal == "conflict"


def test_w0_a_version_is_checked_for_an_empty_list_too() -> None:
    state = state_with("a")
    empty = Command(next(numbers), Append([]), expected_version=1)
    assert state.apply(empty, START).refusal == "conflict"


def test_w0_other_content_with_a_wrong_version_is_a_conflict() -> None:
    state = state_with("a")
    command = Command(next(numbers), Append([record("a", 1)]), expected_version=1)
    assert state.apply(command, START).refusal == "conflict"


# W10: what a session remembers.


def test_w10_the_last_16_commands_are_answered_again_even_after_the_session_is_gone() -> None:
    state = SessionState()
    first = Command(1, Append([record("a")]))
    told = state.apply(first, START)
    state.apply(Command(2, Clear()), START)
    for number in range(3, REMEMBERED + 1):
        state.apply(Command(number, Delete("last")), START)
    assert state.apply(first._replace(age=5), START + 5) == told
    assert not state.is_live(START + 5)


def test_w10_a_refusal_is_remembered_too() -> None:
    state = SessionState()
    edit = Command(1, Edit(record("a")))
    assert state.apply(edit, START).refusal == "no_session"
    add(state, record("a", 1))
    assert state.apply(edit._replace(age=5), START + 5).refusal == "no_session"
    assert state.rows[0].payload == b"a1"


def test_w10_the_17th_forgets_the_first() -> None:
    state = SessionState()
    first = Command(1, Append([record("a")]))
    state.apply(first, START)
    for number in range(2, REMEMBERED + 2):
        state.apply(Command(number, Delete("last")), START + number)
    again = state.apply(first._replace(age=100), START + 100)
    assert again.refusal == "unknown"
    assert again.version == state.version
    assert not state.rows


def test_w10_a_retry_younger_than_all_that_is_forgotten_never_happened() -> None:
    state = SessionState()
    for number in range(REMEMBERED + 5):
        state.apply(Command(number + 1, Append([record(f"m{number}")])), START + number)
    late = Command(99, Append([record("late")]), age=10)
    assert state.apply(late, START + 1000).added == 1


@pytest.mark.parametrize(("age", "refusal"), [(96, "unknown"), (97, "unknown"), (95, None)])
def test_w10_the_boundary_between_never_and_unknown(age: int, refusal: str | None) -> None:
    state = SessionState()
    for number in range(REMEMBERED + 5):
        state.apply(Command(number + 1, Append([record(f"m{number}")])), START + number)
    # The newest that is forgotten came at START + 4.
    late = Command(99, Append([record("late")]), age=age)
    assert state.apply(late, START + 100).refusal == refusal


def test_w10_an_unknown_command_leaves_no_trace() -> None:
    state = SessionState()
    for number in range(REMEMBERED + 5):
        state.apply(Command(number + 1, Append([record(f"m{number}")])), START)
    before = view(state)
    late = Command(99, Clear(), age=10**9)
    assert state.apply(late, START + 1).refusal == "unknown"
    assert view(state) == before
    assert state.apply(late, START + 2).refusal == "unknown"


# L1 and versions.


def test_l1_a_session_lives_a_whole_ttl_and_not_a_microsecond_more() -> None:
    state = state_with("a", ttl=100)
    assert state.is_live(START + 100)
    assert not state.expire(START + 100)
    assert not state.is_live(START + 101)
    assert state.expire(START + 101)
    assert not state.expire(START + 101)


def test_l1_what_changes_nothing_does_not_slide_the_ttl() -> None:
    state = state_with("a", ttl=100)
    add(state, record("a"), now=START + 50, ttl=100)
    state.apply(Command(next(numbers), Delete("index", 7), ttl=100), START + 50)
    state.apply(Command(next(numbers), Edit(record("a")), ttl=100), START + 50)
    state.apply(Command(next(numbers), SetMetadata(b"{}"), ttl=100), START + 50)
    assert state.expires_at == START + 100


def test_l1_a_writer_without_ttl_makes_it_permanent() -> None:
    state = state_with("a", ttl=100)
    add(state, record("b"))
    assert state.expires_at is None


@pytest.mark.parametrize("end", ["clear", "expire"])
def test_a_version_is_never_used_again(end: str) -> None:
    state = state_with("a", "b", "c", ttl=100)
    old = state.version
    if end == "clear":
        state.apply(Command(next(numbers), Clear()), START)
        later = START
    else:
        later = START + 101
    held = Command(next(numbers), Append([record("d")]), expected_version=old)
    assert state.apply(held, later).refusal == "conflict"
    assert add(state, record("a"), now=later).version > old


def test_a_new_incarnation_starts_without_the_old_ones_things() -> None:
    state = state_with("a", "b")
    state.apply(Command(next(numbers), SetMetadata(b'{"x":1}')), START)
    state.apply(Command(next(numbers), SetMetadata(b'{"y":1}', own=True)), START)
    epoch, last = state.epoch, state.rows[-1].ordinal
    state.apply(Command(next(numbers), Clear()), START)
    add(state, record("a"), now=START + 7)
    assert (state.metadata, state.own) == (b"{}", b"{}")
    assert state.created_at == START + 7
    assert state.epoch > epoch
    assert state.rows[0].ordinal > last


def test_the_last_ordinal_never_falls() -> None:
    state = state_with("a", "b")
    last = state.rows[-1].ordinal
    state.apply(Command(next(numbers), Delete("last")), START)
    add(state, record("c"))
    assert state.rows[-1].ordinal > last


def test_a_clock_that_goes_back_does_no_harm() -> None:
    state = state_with("a")
    version = state.version
    add(state, record("b"), now=START - 10**9)
    assert state.version == version + 1
    assert state.updated_at == START
    state.apply(Command(next(numbers), Clear()), START - 10**9)
    assert add(state, record("c"), now=START - 10**9).version > version


def test_versions_stay_below_2_to_the_53() -> None:
    year_2200 = 7_258_118_400_000_000
    state = SessionState()
    assert add(state, record("a"), now=year_2200).version < 2**53


def test_an_emptied_session_is_still_there() -> None:
    state = state_with("a")
    state.apply(Command(next(numbers), Delete("last")), START)
    assert state.is_live(START)
    assert state.version > 0


def test_restored_ids_may_repeat_and_the_newest_is_meant() -> None:
    state = SessionState()
    twice = [record("a"), record("b"), record("a")]
    restore = Restore(twice, b"{}", b"{}", START - 5, START - 3, None)
    assert state.apply(Command(1, restore), START).added == 3
    state.apply(Command(2, Delete("id", "a")), START)
    assert texts(state) == ["a", "b"]
