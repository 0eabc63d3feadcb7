"""Entries of a log: commands as bytes, and back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatstores import ChatMessage
from chatstores.codec import encode
from chatstores.entries import DAMAGED, Entry, decode_entry, encode_entry
from chatstores.fold import Fold
from chatstores.state import (
    Action,
    Append,
    Clear,
    Command,
    Delete,
    Edit,
    Record,
    Replace,
    Restore,
    SetMetadata,
)

ONE, TWO = Record("a", b'{"v":1,"id":"a"}'), Record("b", b'{"v":1,"id":"b"}')

ACTIONS: list[Action] = [
    Append([ONE]),
    Append([ONE, TWO]),
    Replace([]),
    Replace([TWO]),
    Edit(ONE),
    Delete("last"),
    Delete("index", -1),
    Delete("id", "a\nb"),
    Delete("oldest", 3),
    Delete("after", "\t"),
    SetMetadata(b'{"title":"x\\ty"}'),
    SetMetadata(b'{"chatstores.x":1}', own=True),
    Restore([ONE, ONE], b'{"t":1}', b"{}", 1, 2, None),
    Restore([], b"{}", b"{}", 1, 2, 3),
    Clear(),
]


@pytest.mark.parametrize("action", ACTIONS, ids=repr)
@pytest.mark.parametrize("ttl", [None, 5])
def test_an_entry_comes_back_equal_and_is_one_line(action: Action, ttl: int | None) -> None:
    command = Command(2**64 - 1, action, None, ttl)
    data = encode_entry("n", "key\n\t🙂", command, 7)
    assert b"\n" not in data
    assert decode_entry(data) == Entry("n", "key\n\t🙂", command, 7)


def test_the_bytes_of_an_entry_stay_as_they_are() -> None:
    command = Command(255, Append([ONE, TWO]), 3, 60, 9)
    assert encode_entry("n", "k", command, 7) == (
        b'853d6a9e {"action":"Append","namespace":"n","key":"k","id":"00000000000000ff","time":7,'
        b'"ttl":60,"ids":["a","b"]}\t{"v":1,"id":"a"}\t{"v":1,"id":"b"}'
    )


def test_a_message_of_an_altered_entry_is_marked() -> None:
    data = encode_entry("n", "k", Command(1, Append([ONE])), 7)
    altered = data.replace(b'"v":1', b'"v":3')
    [record] = decode_entry(altered).command.action.records  # type: ignore[union-attr]
    assert record == Record("a", DAMAGED + b'{"v":3,"id":"a"}')


@pytest.mark.parametrize("data", [b"", b"x", b"0 {}", b'0 {"id":"1","action":"Other"}', b"0 []"])
def test_what_is_no_entry(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"header|JSON|EOF|action"):
        decode_entry(data)


def test_a_fold_of_entries_answers_a_command_again() -> None:
    fold, again = Fold(), Fold()
    records = [
        Record(message.id, encode(message)) for message in (ChatMessage("1"), ChatMessage("2"))
    ]
    commands = [Command(1, Append(records)), Command(2, Delete("last")), Command(3, Clear())]
    outcomes = []
    for n, command in enumerate(commands):
        outcome, entry = fold.commit_logged("n", "k", command, 10 + n)
        outcomes.append(outcome)
        assert entry is not None
        again.replay(entry)
    assert [again.commit("n", "k", command, 99) for command in commands] == outcomes


def test_what_changes_nothing_is_not_logged() -> None:
    fold = Fold()
    _, entry = fold.commit_logged("n", "k", Command(1, Append([ONE])), 10)
    assert entry is not None
    for number, command in enumerate(
        [
            Command(1, Append([ONE])),  # done before
            Command(2, Append([ONE])),  # there already
            Command(3, Append([TWO]), 99),  # a conflict
            Command(4, Delete("index", 7)),
            Command(5, Delete("after", "x")),
        ]
    ):
        assert fold.commit_logged("n", "k", command, 11 + number)[1] is None


def test_what_an_expired_session_refused_is_not_logged() -> None:
    fold = Fold()
    first, _ = fold.commit_logged("n", "k", Command(1, Append([ONE]), ttl=5), 10)
    late = Command(2, Append([TWO]), first.version)
    outcome, entry = fold.commit_logged("n", "k", late, 20)
    assert outcome.refusal == "conflict"
    assert entry is None


@given(
    st.lists(
        st.tuples(
            st.integers(0, 4),  # microseconds since the command before
            st.sampled_from(ACTIONS),
            st.sampled_from(["any", "met", "not met"]),
            st.sampled_from([None, 1, 3]),  # the ttl
            st.booleans(),  # whether it is an attempt that may have been made before
        ),
        max_size=40,
    )
)
@settings(deadline=None)
def test_a_fold_of_the_log_is_the_fold_that_wrote_it(
    steps: list[tuple[int, Action, str, int | None, bool]],
) -> None:
    fold, again, now = Fold(), Fold(), 1000
    for number, (passed, action, expects, ttl, late) in enumerate(steps):
        now += passed
        head = fold.head("n", "k", now)
        version = head.version if head else 0
        expected = {"any": None, "met": version, "not met": version + 1}[expects]
        command = Command(number, action, expected, ttl, age=5 if late else 0)
        _, entry = fold.commit_logged("n", "k", command, now)
        if entry is not None:
            again.replay(entry)
        for time in [now, now + 2]:
            assert again.snapshot("n", "k", None, None, time) == fold.snapshot(
                "n", "k", None, None, time
            )
