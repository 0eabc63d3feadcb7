"""Writing, one call after another: what each write does, returns and refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from chatstores import ChatMessage, Commit
from chatstores.conformance.api import Api
from chatstores.conformance.fixtures import OpenApi
from chatstores.conformance.texts import add_texts, contents, messages, texts, unchanged
from chatstores.errors import ConflictError, InvalidArgumentError, InvalidMessageError

Write = Callable[..., Any]

#: Every write, on a session of the messages m0, m1, m2 with some metadata; each changes something.
WRITES: dict[str, Write] = {
    "add_message": lambda api, m, **v: api.add_message("k", ChatMessage("new"), **v),
    "add_messages": lambda api, m, **v: api.add_messages("k", messages("new", "newer"), **v),
    "set_messages": lambda api, m, **v: api.set_messages("k", messages("set"), **v),
    "replace_message": lambda api, m, **v: api.replace_message(
        "k", ChatMessage("changed", id=m[1].id), **v
    ),
    "delete_last_message": lambda api, m, **v: api.delete_last_message("k", **v),
    "delete_message": lambda api, m, **v: api.delete_message("k", 1, **v),
    "delete_message by id": lambda api, m, **v: api.delete_message("k", id=m[1].id, **v),
    "delete_oldest": lambda api, m, **v: api.delete_oldest("k", 2, **v),
    "delete_after": lambda api, m, **v: api.delete_after("k", m[0].id, **v),
    "delete_messages": lambda api, m, **v: api.delete_messages("k", **v),
    "set_metadata": lambda api, m, **v: api.set_metadata("k", {"title": "new"}, **v),
}

#: Writes that change nothing there.
NO_OPS: dict[str, Write] = {
    "add_messages of none": lambda api, m, **v: api.add_messages("k", [], **v),
    "delete_message past the end": lambda api, m, **v: api.delete_message("k", 3, **v),
    "delete_message before the start": lambda api, m, **v: api.delete_message("k", -4, **v),
    "delete_message of no id": lambda api, m, **v: api.delete_message("k", id="none", **v),
    "delete_oldest of none": lambda api, m, **v: api.delete_oldest("k", 0, **v),
    "delete_after the last": lambda api, m, **v: api.delete_after("k", m[2].id, **v),
    "replace_message by itself": lambda api, m, **v: api.replace_message("k", m[1], **v),
    "set_metadata as it is": lambda api, m, **v: api.set_metadata("k", {"title": "old"}, **v),
}

#: Writes that need what is not there.
MISSES: dict[str, Write] = {
    "replace_message": lambda api, m, **v: api.replace_message("k", ChatMessage("x"), **v),
    "delete_after": lambda api, m, **v: api.delete_after("k", "none", **v),
}

every_write = pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
every_no_op = pytest.mark.parametrize("write", NO_OPS.values(), ids=NO_OPS)
every_miss = pytest.mark.parametrize("write", MISSES.values(), ids=MISSES)


def three(api: Api) -> list[ChatMessage]:
    """A session of three messages with some metadata; the messages."""
    some = messages("m0", "m1", "m2")
    api.add_messages("k", some)
    api.set_metadata("k", {"title": "old"})
    return some


@pytest.mark.clause("W0")
@every_write
def test_w0_a_write_at_another_version_is_refused(api: Api, write: Write) -> None:
    some = three(api)
    version = api.get_version("k")
    for wrong in [0, version - 1, version + 1]:
        with unchanged(api, "k"), pytest.raises(ConflictError) as caught:
            write(api, some, expected_version=wrong)
        assert (caught.value.expected, caught.value.actual) == (wrong, version)
    write(api, some, expected_version=version)
    with pytest.raises(ConflictError):
        write(api, some, expected_version=version)


@pytest.mark.clause("W0")
@pytest.mark.parametrize("write", [*NO_OPS.values(), *MISSES.values()], ids=[*NO_OPS, *MISSES])
def test_w0_the_version_comes_before_all_else(api: Api, write: Write) -> None:
    some = three(api)
    version = api.get_version("k")
    with unchanged(api, "k"), pytest.raises(ConflictError) as caught:
        write(api, some, expected_version=version - 1)
    assert (caught.value.expected, caught.value.actual) == (version - 1, version)


@pytest.mark.clause("W0")
@pytest.mark.parametrize(
    "write", [*WRITES.values(), *NO_OPS.values(), *MISSES.values()], ids=[*WRITES, *NO_OPS, *MISSES]
)
def test_w0_a_session_that_is_not_there_is_at_0(api: Api, write: Write) -> None:
    with pytest.raises(ConflictError) as caught:
        write(api, messages("m0", "m1", "m2"), expected_version=7)
    assert (caught.value.expected, caught.value.actual) == (7, 0)
    assert api.get_session("k") is None


@pytest.mark.clause("W0")
def test_w0_the_version_comes_before_the_content(api: Api) -> None:
    [first, *_] = three(api)
    version = api.get_version("k")
    with pytest.raises(ConflictError):
        api.add_message("k", ChatMessage("other", id=first.id), expected_version=version - 1)


@pytest.mark.clause("W0")
@every_no_op
def test_w0_what_changes_nothing_returns_the_version_as_it_is(api: Api, write: Write) -> None:
    some = three(api)
    version = api.get_version("k")
    with unchanged(api, "k"):
        for expected in [None, version]:
            result = write(api, some, expected_version=expected)
            assert result in (Commit(version, 0), None, [])


@pytest.mark.clause("W0")
def test_w0_what_changes_nothing_makes_no_session(api: Api) -> None:
    for expected in [None, 0]:
        assert api.add_messages("k", [], expected_version=expected) == Commit(0, 0)
        assert api.delete_last_message("k", expected_version=expected) is None
        assert api.delete_message("k", 0, expected_version=expected) is None
        assert api.delete_message("k", id="x", expected_version=expected) is None
        assert api.delete_oldest("k", 1, expected_version=expected) == []
        assert api.delete_messages("k", expected_version=expected) == 0
    assert api.get_session("k") is None
    assert api.get_keys() == []


@pytest.mark.clause("W0")
def test_w0_what_changes_nothing_in_an_empty_session(api: Api) -> None:
    version = api.set_messages("k", []).version
    with unchanged(api, "k"):
        assert api.add_messages("k", []) == Commit(version, 0)
        assert api.delete_last_message("k") is None
        assert api.delete_message("k", -1) is None
        assert api.delete_oldest("k", 5) == []
        assert api.set_metadata("k", {}) == Commit(version, 0)


@pytest.mark.clause("W0")
@every_no_op
def test_w0_what_changes_nothing_does_not_slide_the_ttl(open_api: OpenApi, write: Write) -> None:
    api = open_api(ttl=3600)
    some = three(api)
    other = open_api(ttl=7200)
    with unchanged(api, "k"):
        write(other, some)
    other = open_api()
    with unchanged(api, "k"):
        write(other, some)


@pytest.mark.clause("W0")
@pytest.mark.parametrize("version", [-1, 1.5, "1", True])
def test_w0_a_version_is_a_whole_number(api: Api, version: Any) -> None:
    with pytest.raises(InvalidArgumentError):
        api.add_message("k", ChatMessage("x"), expected_version=version)
    assert api.get_session("k") is None


@pytest.mark.clause("W1")
def test_w1_the_order_is_that_of_the_commits_not_of_a_clock(api: Api) -> None:
    late = ChatMessage("first", created_at="2999-01-01T00:00:00Z")
    early = ChatMessage("second", created_at="1970-01-01T00:00:00Z")
    api.add_message("k", late)
    api.add_messages("k", [early, ChatMessage("third")])
    assert texts(api, "k") == ["first", "second", "third"]


@pytest.mark.clause("W1")
def test_w1_the_order_is_not_that_of_the_ids(api: Api) -> None:
    for number in range(20, 0, -1):
        api.add_message("k", ChatMessage(f"{number}", id=f"{number:02}"))
    assert texts(api, "k") == [f"{number}" for number in range(20, 0, -1)]


@pytest.mark.clause("W1")
def test_w1_the_order_stays(api: Api) -> None:
    expected = [f"{number}" for number in range(300)]
    for start in range(0, 300, 7):
        add_texts(api, "k", *expected[start : start + 7])
    assert texts(api, "k") == expected
    api.delete_message("k", 100)
    api.delete_last_message("k")
    assert texts(api, "k") == expected[:100] + expected[101:-1]


@pytest.mark.clause("W2")
def test_w2_a_batch_goes_in_in_its_order(api: Api) -> None:
    assert add_texts(api, "k", "1", "2").added == 2
    assert add_texts(api, "k", "3", "4", "5").added == 3
    assert texts(api, "k") == ["1", "2", "3", "4", "5"]


@pytest.mark.clause("W2")
def test_w2_all_or_none(api: Api) -> None:
    [first] = messages("1")
    api.add_message("k", first)
    bad = ChatMessage("bad", metadata={"a": {1, 2}})
    for batch in [
        [*messages("2", "3"), bad],
        [bad, *messages("2", "3")],
        [*messages("2"), ChatMessage("other", id=first.id), *messages("3")],
        [*messages("2"), *[ChatMessage("twice", id="x")] * 2],
    ]:
        with unchanged(api, "k"), pytest.raises(InvalidMessageError):
            api.add_messages("k", batch)
        with unchanged(api, "new"), pytest.raises(InvalidMessageError):
            api.set_messages("new", [bad])


@pytest.mark.clause("W2")
def test_w2_an_empty_list_is_a_no_op(api: Api) -> None:
    assert api.add_messages("k", []) == Commit(0, 0)
    assert api.get_session("k") is None
    version = add_texts(api, "k", "1").version
    assert api.add_messages("k", []) == Commit(version, 0)


@pytest.mark.clause("W2")
@pytest.mark.parametrize("wrong", ["text", ChatMessage("one"), None, {}, ["text"], [{}], [None]])
def test_w2_a_batch_is_a_list_of_messages(api: Api, wrong: Any) -> None:
    for call in [api.add_messages, api.set_messages]:
        with pytest.raises(InvalidMessageError):
            call("k", wrong)
    assert api.get_session("k") is None


@pytest.mark.clause("W3")
def test_w3_a_set_replaces_all(api: Api) -> None:
    add_texts(api, "k", "1", "2", "3")
    version = api.get_version("k")
    commit = api.set_messages("k", messages("a", "b"))
    assert commit.version > version
    assert commit.added == 2
    assert texts(api, "k") == ["a", "b"]
    assert api.count_messages("k") == 2
    assert contents(api.get_messages("k", last=1)) == ["b"]
    add_texts(api, "k", "c")
    assert texts(api, "k") == ["a", "b", "c"]


@pytest.mark.clause("W3")
def test_w3_a_set_makes_a_session_an_empty_one_too(api: Api) -> None:
    assert api.set_messages("new", messages("1")).added == 1
    assert texts(api, "new") == ["1"]
    commit = api.set_messages("empty", [])
    assert commit.added == 0
    info = api.get_session("empty")
    assert info is not None
    assert (info.version, info.count) == (commit.version, 0)
    assert api.get_messages("empty") == []
    assert api.get_keys() == ["empty", "new"]


@pytest.mark.clause("W3")
def test_w3_messages_may_be_set_again(api: Api) -> None:
    some = messages("1", "2", "3")
    api.add_messages("k", some)
    version = api.get_version("k")
    assert api.set_messages("k", some[::-1]).version > version
    assert texts(api, "k") == ["3", "2", "1"]


@pytest.mark.clause("W3")
def test_w3_what_a_set_removed_may_be_added_again(api: Api) -> None:
    some = messages("1", "2", "3")
    api.add_messages("k", some)
    api.set_messages("k", [])
    assert api.add_messages("k", some).added == 3
    assert texts(api, "k") == ["1", "2", "3"]


@pytest.mark.clause("W9")
def test_w9_writes_return_commits_and_deletions_what_they_removed(api: Api) -> None:
    some = messages("1", "2", "3", "4", "5", "6")
    changed = ChatMessage("changed", id=some[0].id)
    commits = [
        api.add_message("k", some[0]),
        api.add_messages("k", some[1:3]),
        api.set_messages("k", some),
        api.replace_message("k", changed),
        api.set_metadata("k", {"title": "x"}),
    ]
    assert all(type(commit) is Commit for commit in commits)
    assert [commit.added for commit in commits] == [1, 2, 6, 0, 0]
    versions = [commit.version for commit in commits]
    assert versions == sorted(set(versions))
    assert versions[-1] == api.get_version("k")
    assert api.delete_last_message("k") == some[5]
    assert api.delete_message("k", 1) == some[1]
    assert api.delete_oldest("k", 1) == [changed]
    assert api.delete_after("k", some[2].id) == some[3:5]
    assert api.delete_messages("k") == 1


@pytest.mark.clause("W9")
@every_write
def test_w9_a_version_grows_with_every_change(api: Api, write: Write) -> None:
    some = three(api)
    version = api.get_version("k")
    assert type(version) is int
    result = write(api, some, expected_version=version)
    now = api.get_version("k")
    if result == 3:  # deleted
        assert now == 0
        three(api)
        assert api.get_version("k") > version
    else:
        assert now > version
        assert not isinstance(result, Commit) or result.version == now


@pytest.mark.clause("W9")
def test_w9_0_is_a_session_that_is_not_there(api: Api) -> None:
    assert api.get_version("k") == 0
    first = api.add_message("k", ChatMessage("1"), expected_version=0)
    assert first.version > 0
    with pytest.raises(ConflictError) as caught:
        api.add_message("k", ChatMessage("2"), expected_version=0)
    assert (caught.value.expected, caught.value.actual) == (0, first.version)
    assert api.set_messages("other", [], expected_version=0).version > 0
    assert api.delete_messages("none", expected_version=0) == 0


@pytest.mark.clause("W9")
def test_w9_no_version_is_used_twice(api: Api) -> None:
    used = []
    for _ in range(5):
        used += [add_texts(api, "k", "1").version, add_texts(api, "k", "2").version]
        api.delete_messages("k")
        used.append(api.set_messages("k", []).version)
        api.delete_messages("k")
    assert used == sorted(set(used))


@pytest.mark.clause("W9")
def test_w9_versions_are_a_sessions_own(api: Api) -> None:
    version = add_texts(api, "a", "1").version
    add_texts(api, "b", "1")
    assert api.get_version("a") == version
    api.add_message("a", ChatMessage("2"), expected_version=version)
