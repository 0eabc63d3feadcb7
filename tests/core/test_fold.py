"""The fold of many sessions: listing, recency, purge, and what it forgets."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatstores import ChatMessage
from chatstores.codec import encode
from chatstores.fold import Fold
from chatstores.state import (
    MARKER_US,
    Action,
    Append,
    Clear,
    Command,
    Delete,
    Outcome,
    Record,
    SetMetadata,
)

START = 1_700_000_000_000_000
SPACE = "default"

numbers = iter(range(1, 10**9))


def do(
    fold: Fold,
    key: str,
    action: Action,
    now: int = START,
    *,
    space: str = SPACE,
    expected: int | None = None,
    ttl: int | None = None,
) -> Outcome:
    return fold.commit(space, key, Command(next(numbers), action, expected, ttl), now)


def write(
    fold: Fold, key: str, now: int = START, *, space: str = SPACE, ttl: int | None = None
) -> Outcome:
    message = ChatMessage("hi")
    return do(fold, key, Append([Record(message.id, encode(message))]), now, space=space, ttl=ttl)


def keys(fold: Fold, prefix: str = "", *, size: int = 1000, now: int = START) -> list[str]:
    """All pages of a listing."""
    found: list[str] = []
    after = None
    while True:
        page = fold.list(SPACE, prefix, after, size, now)
        assert len(page.keys) <= size
        assert not set(found) & set(page.keys)
        found += page.keys
        after = page.after
        if after is None:
            return found


def newest(fold: Fold, *, size: int = 1000, now: int = START) -> list[str]:
    found: list[str] = []
    before = None
    while True:
        page = fold.recent(SPACE, before, size, now)
        assert len(page.sessions) <= size
        assert not set(found) & {key for key, _ in page.sessions}
        found += [key for key, _ in page.sessions]
        before = page.before
        if before is None:
            return found


any_key = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=6
)


@settings(max_examples=60, deadline=None)
@given(st.sets(any_key, max_size=12), any_key | st.just(""), st.integers(1, 5))
def test_keys_come_once_in_byte_order_by_any_page_size(
    written: set[str], prefix: str, size: int
) -> None:
    fold = Fold()
    for key in written:
        write(fold, key)
    wanted = sorted((key for key in written if key.startswith(prefix)), key=str.encode)
    assert keys(fold, prefix, size=size) == wanted


def test_byte_order_is_that_of_utf8() -> None:
    fold = Fold()
    ordered = ["A", "a", "a:messages", "b", "é", "\uffff", "\U0001f600"]
    for key in reversed(ordered):
        write(fold, key)
    assert keys(fold) == ordered


@pytest.mark.parametrize("prefix", ["*", "?", "[a]", "%", "_", "a*", ".", "\\", "{"])
def test_a_prefix_is_literal(prefix: str) -> None:
    fold = Fold()
    for key in ("abc", "a", f"{prefix}x"):
        write(fold, key)
    assert keys(fold, prefix) == [f"{prefix}x"]


def test_a_page_that_ends_exactly_is_the_end() -> None:
    fold = Fold()
    for key in "abcd":
        write(fold, key)
    first = fold.list(SPACE, "", None, 2, START)
    assert (list(first.keys), first.after) == (["a", "b"], "b")
    second = fold.list(SPACE, "", first.after, 2, START)
    assert (list(second.keys), second.after) == (["c", "d"], None)


def test_a_listing_goes_on_after_its_last_key_was_deleted() -> None:
    fold = Fold()
    for key in "abcd":
        write(fold, key)
    page = fold.list(SPACE, "", None, 2, START)
    do(fold, "b", Clear())
    assert list(fold.list(SPACE, "", page.after, 2, START).keys) == ["c", "d"]


def test_namespaces_are_disjoint() -> None:
    fold = Fold()
    write(fold, "a", space="one", ttl=10)
    write(fold, "a", space="two")
    do(fold, "a", Clear(), space="two")
    assert fold.list("one", "", None, 10, START).keys == ["a"]
    assert list(fold.list("two", "", None, 10, START).keys) == []
    assert fold.purge("two", START + 100) == 0
    assert fold.purge("one", START + 100) == 1
    assert len(fold.recent("nobody", None, 10, START).sessions) == 0


def test_reading_makes_nothing() -> None:
    fold = Fold()
    assert list(fold.read(SPACE, "a", None, None, START)) == []
    assert fold.head(SPACE, "a", START) is None
    assert fold.snapshot(SPACE, "a", None, 10, START) is None
    assert list(fold.list(SPACE, "", None, 10, START).keys) == []
    assert fold.purge(SPACE, START) == 0
    assert not fold.namespaces.get(SPACE)


@pytest.mark.parametrize(
    ("first", "last", "wanted"),
    [
        (None, None, "abc"),
        (2, None, "ab"),
        (None, 2, "bc"),
        (0, None, ""),
        (None, 0, ""),
        (9, None, "abc"),
        (None, 9, "abc"),
    ],
)
def test_read_takes_the_first_or_the_last(first: int | None, last: int | None, wanted: str) -> None:
    fold = Fold()
    do(fold, "k", Append([Record(name, name.encode()) for name in "abc"]))
    assert b"".join(fold.read(SPACE, "k", first, last, START)).decode() == wanted


def test_a_snapshot_is_the_newest_rows_below_an_ordinal() -> None:
    fold = Fold()
    do(fold, "k", Append([Record(name, name.encode()) for name in "abcd"]))
    end = fold.snapshot(SPACE, "k", None, 2, START)
    assert end is not None
    assert end.head.count == 4
    assert [payload for _, payload in end.rows] == [b"c", b"d"]
    start = fold.snapshot(SPACE, "k", end.rows[0][0], 5, START)
    assert start is not None
    assert [payload for _, payload in start.rows] == [b"a", b"b"]


# Recency.


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 3)), max_size=12),
    st.integers(1, 4),
)
def test_the_newest_write_comes_first(writes: list[tuple[str, int]], size: int) -> None:
    fold = Fold()
    last: dict[str, int] = {}
    now = START
    for key, pause in writes:
        now += pause
        write(fold, key, now)
        last[key] = now
    wanted = sorted(last, key=lambda key: (last[key], key), reverse=True)
    assert newest(fold, size=size, now=now) == wanted


def test_what_changes_nothing_is_not_recent() -> None:
    fold = Fold()
    write(fold, "a", START)
    write(fold, "b", START + 1)
    do(fold, "a", Delete("index", 9), START + 2)
    do(fold, "a", SetMetadata(b"{}"), START + 3)
    assert newest(fold, now=START + 9) == ["b", "a"]
    do(fold, "a", SetMetadata(b'{"x":1}'), START + 4)
    assert newest(fold, now=START + 9) == ["a", "b"]


# Expiry and what is forgotten.


def test_what_has_expired_is_nowhere_before_any_purge() -> None:
    fold = Fold()
    write(fold, "a", ttl=100)
    write(fold, "b")
    later = START + 101
    assert keys(fold, now=later) == ["b"]
    assert newest(fold, now=later) == ["b"]
    assert fold.head(SPACE, "a", later) is None
    assert list(fold.read(SPACE, "a", None, None, later)) == []
    assert fold.snapshot(SPACE, "a", None, 5, later) is None


def test_purge_counts_the_expired_once() -> None:
    fold = Fold()
    for key in "abc":
        write(fold, key, ttl=100)
    write(fold, "d")
    write(fold, "c", START + 50, ttl=100)
    assert fold.purge(SPACE, START + 101) == 2
    assert fold.purge(SPACE, START + 101) == 0
    assert keys(fold, now=START + 101) == ["c", "d"]


def test_the_expired_are_those_whose_end_nobody_saw() -> None:
    fold = Fold()
    assert fold.expired(SPACE, START) == []
    for key in "abc":
        write(fold, key, ttl=100)
    write(fold, "d")
    do(fold, "a", Clear())
    assert fold.expired(SPACE, START + 100) == []
    assert fold.expired(SPACE, START + 101) == ["b", "c"]
    do(fold, "b", Clear(), START + 101)
    assert fold.expired(SPACE, START + 101) == ["c"]


def test_purge_does_not_take_a_session_that_was_revived() -> None:
    fold = Fold()
    write(fold, "a", ttl=100)
    write(fold, "a", START + 200)
    assert fold.purge(SPACE, START + 300) == 0
    assert keys(fold, now=START + 300) == ["a"]


def test_a_marker_keeps_versions_and_answers_for_a_day() -> None:
    fold = Fold()
    version = write(fold, "a").version
    clear = Command(7_000_000_000, Clear())
    told = fold.commit(SPACE, "a", clear, START)
    assert fold.purge(SPACE, START + MARKER_US) == 0
    later = START + MARKER_US
    assert fold.commit(SPACE, "a", clear._replace(age=MARKER_US + 1), later) == told
    assert write(fold, "a", later).version > version


def test_a_marker_is_forgotten_after_a_day_and_its_versions_stay_behind() -> None:
    fold = Fold()
    version = write(fold, "a").version
    do(fold, "a", Clear())
    later = START + MARKER_US + 1
    assert fold.purge(SPACE, later) == 0
    assert "a" not in fold.namespaces[SPACE]
    assert write(fold, "a", later).version > version


def test_a_marker_holds_no_text() -> None:
    fold = Fold()
    message = ChatMessage("a secret plan")
    do(fold, "a", Append([Record(message.id, encode(message))]))
    do(fold, "a", SetMetadata(b'{"title":"a secret plan"}'))
    do(fold, "a", Clear())
    assert "secret" not in repr(fold.state(SPACE, "a"))


def test_keys_that_were_only_asked_for_are_forgotten() -> None:
    fold = Fold()
    for key in "abc":
        do(fold, key, Delete("last"))
        do(fold, key, SetMetadata(b"{}"))
    fold.purge(SPACE, START)
    assert not fold.namespaces[SPACE]


# M4: a record that is not readable.


def corrupt(fold: Fold, key: str = "k") -> None:
    write(fold, key)
    do(fold, key, Append([Record("bad", b"not json")]))


@pytest.mark.parametrize(
    "action", [Delete("last"), Delete("index", -1), Delete("id", "bad"), Delete("oldest", 2)]
)
def test_m4_a_record_that_is_not_readable_is_never_removed(action: Delete) -> None:
    fold = Fold()
    corrupt(fold)
    outcome = do(fold, "k", action)
    assert (outcome.refusal, outcome.detail) == ("corrupt", "1")
    assert len(fold.read(SPACE, "k", None, None, START)) == 2


def test_m4_the_others_may_be_removed() -> None:
    fold = Fold()
    corrupt(fold)
    assert do(fold, "k", Delete("oldest", 1)).refusal is None


def test_w0_the_version_is_checked_before_the_record_is_looked_at() -> None:
    fold = Fold()
    corrupt(fold)
    assert do(fold, "k", Delete("last"), expected=1).refusal == "conflict"


def test_w10_a_deletion_that_comes_again_is_answered_whatever_is_last_now() -> None:
    fold = Fold()
    write(fold, "k")
    write(fold, "k")
    pop = Command(next(numbers), Delete("last"))
    told = fold.commit(SPACE, "k", pop, START)
    do(fold, "k", Append([Record("bad", b"not json")]))
    assert fold.commit(SPACE, "k", pop._replace(age=5), START) == told
