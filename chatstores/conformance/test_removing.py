"""Removing, trimming and replacing messages, one call after another."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from chatstores import ChatMessage, Commit
from chatstores.conformance.api import Api
from chatstores.conformance.test_writing import Write, every_write, three
from chatstores.conformance.texts import add_texts, messages, texts, unchanged
from chatstores.errors import (
    ConflictError,
    InvalidArgumentError,
    InvalidMessageError,
    MessageNotFoundError,
    SessionNotFoundError,
)


@pytest.mark.clause("W5")
def test_w5_pop_returns_the_last_message_or_none(api: Api) -> None:
    assert api.delete_last_message("k") is None
    some = messages("1", "2", "3")
    api.add_messages("k", some)
    for left in [2, 1, 0]:
        version = api.get_version("k")
        assert api.delete_last_message("k") == some[left]
        assert api.get_messages("k") == some[:left]
        assert api.count_messages("k") == left
        assert api.get_version("k") > version
    assert api.delete_last_message("k") is None
    assert api.get_session("k") is not None  # emptied, and still there


@pytest.mark.clause("W6")
@pytest.mark.parametrize("index", [0, 1, 2, 3, 4, -1, -2, -4, -5])
def test_w6_an_index_removes_what_it_would_in_a_list(api: Api, index: int) -> None:
    expected = messages("0", "1", "2", "3", "4")
    api.add_messages("k", expected)
    assert api.delete_message("k", index) == expected.pop(index)
    assert api.get_messages("k") == expected
    assert api.count_messages("k") == 4


@pytest.mark.clause("W6")
@pytest.mark.parametrize(
    "index",
    [
        3,
        -4,
        1_000,
        -1_000,
        sys.maxsize,
        -sys.maxsize - 1,
        pytest.param(-(10**5000), id="-10**5000"),
    ],
)
def test_w6_an_index_outside_removes_nothing(api: Api, index: int) -> None:
    add_texts(api, "k", "0", "1", "2")
    with unchanged(api, "k"):
        assert api.delete_message("k", index) is None


@pytest.mark.clause("W6")
def test_w6_an_index_counts_what_is_there_now(api: Api) -> None:
    add_texts(api, "k", *"abcdef")
    api.delete_oldest("k", 1)
    api.delete_message("k", 2)
    assert texts(api, "k") == ["b", "c", "e", "f"]
    for index, expected in [(2, "e"), (0, "b"), (-1, "f"), (0, "c")]:
        removed = api.delete_message("k", index)
        assert removed is not None
        assert removed.text == expected
    assert texts(api, "k") == []


@pytest.mark.clause("W6")
def test_w6_an_id_removes_its_message(api: Api) -> None:
    some = messages("0", "1", "2", "3")
    api.add_messages("k", some)
    assert api.delete_message("k", id=some[2].id) == some[2]
    assert api.delete_message("k", id=some[0].id) == some[0]
    assert api.get_messages("k") == [some[1], some[3]]
    with unchanged(api, "k"):
        assert api.delete_message("k", id=some[2].id) is None
        assert api.delete_message("k", id="none") is None
        assert api.delete_message("k", id="*") is None


@pytest.mark.clause("W6")
def test_w6_an_id_is_found_in_a_long_session(api: Api) -> None:
    some = messages(*(f"{number}" for number in range(500)))
    api.add_messages("k", some)
    assert api.delete_message("k", id=some[3].id) == some[3]
    assert api.get_messages("k") == some[:3] + some[4:]


@pytest.mark.clause("W6")
def test_w6_index_or_id(api: Api) -> None:
    add_texts(api, "k", "1")
    calls: list[Callable[[], Any]] = [
        lambda: api.delete_message("k"),
        lambda: api.delete_message("k", 0, id="x"),
        lambda: api.delete_message("k", "0"),  # type: ignore[arg-type]
        lambda: api.delete_message("k", 0.0),  # type: ignore[arg-type]
        lambda: api.delete_message("k", id=0),  # type: ignore[arg-type]
    ]
    with unchanged(api, "k"):
        for call in calls:
            with pytest.raises(InvalidArgumentError):
                call()


@pytest.mark.clause("W7")
def test_w7_a_session_is_deleted_whole(api: Api) -> None:
    some = three(api)
    assert api.delete_messages("k") == 3
    assert api.get_messages("k") == []
    assert api.count_messages("k") == 0
    assert api.get_version("k") == 0
    assert api.get_session("k") is None
    assert api.page("k").messages == []
    assert api.get_keys() == []
    assert api.list_sessions().sessions == []
    assert api.delete_messages("k") == 0
    api.add_messages("k", some)
    info = api.get_session("k")
    assert info is not None
    assert (info.count, info.metadata) == (3, {})
    assert api.get_messages("k") == some


@pytest.mark.clause("W7")
def test_w7_an_empty_session_is_deleted_too(api: Api) -> None:
    api.set_messages("k", [])
    assert api.delete_messages("k") == 0
    assert api.get_session("k") is None
    assert api.get_keys() == []


@pytest.mark.clause("W7")
@every_write
def test_w7_a_late_writer_is_refused(api: Api, write: Write) -> None:
    some = three(api)
    version = api.get_version("k")
    api.delete_messages("k")
    with pytest.raises(ConflictError) as caught:
        write(api, some, expected_version=version)
    assert caught.value.actual == 0
    assert api.get_session("k") is None
    three(api)
    with unchanged(api, "k"), pytest.raises(ConflictError):
        write(api, some, expected_version=version)


@pytest.mark.clause("W11")
@pytest.mark.parametrize("n", [0, 1, 3, 5, 6, 1_000, sys.maxsize])
def test_w11_the_oldest_are_trimmed(api: Api, n: int) -> None:
    some = messages("0", "1", "2", "3", "4")
    api.add_messages("k", some)
    version = api.get_version("k")
    assert api.delete_oldest("k", n) == some[:n]
    assert api.get_messages("k") == some[n:]
    assert api.count_messages("k") == len(some[n:])
    assert (api.get_version("k") > version) is (n > 0)


@pytest.mark.clause("W11")
@pytest.mark.parametrize("n", [-1, 1.0, "1", None, True])
def test_w11_how_many_is_a_whole_number(api: Api, n: Any) -> None:
    add_texts(api, "k", "1")
    with unchanged(api, "k"), pytest.raises(InvalidArgumentError):
        api.delete_oldest("k", n)


@pytest.mark.clause("W11")
@pytest.mark.parametrize("index", [0, 1, 3, 4])
def test_w11_what_follows_a_message_is_trimmed(api: Api, index: int) -> None:
    some = messages("0", "1", "2", "3", "4")
    api.add_messages("k", some)
    assert api.delete_after("k", some[index].id) == some[index + 1 :]
    assert api.get_messages("k") == some[: index + 1]
    add_texts(api, "k", "next")
    assert texts(api, "k")[-2:] == [some[index].text, "next"]


@pytest.mark.clause("W11")
def test_w11_what_follows_no_message(api: Api) -> None:
    add_texts(api, "k", "1", "2")
    with unchanged(api, "k"), pytest.raises(MessageNotFoundError):
        api.delete_after("k", "none")
    with pytest.raises((MessageNotFoundError, SessionNotFoundError)):
        api.delete_after("not there", "none")
    with pytest.raises(InvalidArgumentError):
        api.delete_after("k", 1)  # type: ignore[arg-type]


@pytest.mark.clause("W11")
def test_w11_both_ends_of_a_long_session(api: Api) -> None:
    some = messages(*(f"{number}" for number in range(600)))
    api.add_messages("k", some)
    assert api.delete_oldest("k", 250) == some[:250]
    assert api.delete_after("k", some[349].id) == some[350:]
    assert api.get_messages("k") == some[250:350]
    assert api.get_messages("k", last=3) == some[347:350]
    assert api.get_messages("k", first=3) == some[250:253]
    assert api.add_messages("k", some[350:360]).added == 10
    assert api.get_messages("k") == some[250:360]


@pytest.mark.clause("W12")
@pytest.mark.parametrize("index", [0, 1, 2])
def test_w12_a_message_is_replaced_in_its_place(api: Api, index: int) -> None:
    some = three(api)
    version = api.get_version("k")
    some[index] = ChatMessage("changed", "tool", id=some[index].id, metadata={"n": 1})
    commit = api.replace_message("k", some[index])
    assert commit.added == 0
    assert commit.version > version
    assert commit.version == api.get_version("k")
    assert api.get_messages("k") == some
    assert api.count_messages("k") == 3
    assert api.get_messages("k", last=1) == some[2:]
    assert api.delete_message("k", id=some[index].id) == some[index]


@pytest.mark.clause("W12")
def test_w12_a_replaced_message_keeps_its_ordinal(api: Api) -> None:
    some = messages(*(f"{number}" for number in range(6)))
    api.add_messages("k", some)
    page = api.page("k", limit=2)
    for index in [1, 3, 5]:
        some[index] = ChatMessage("changed", id=some[index].id)
        api.replace_message("k", some[index])
    assert api.page("k", limit=2, before=page.before).messages == some[2:4]


@pytest.mark.clause("W12")
def test_w12_a_message_that_is_not_there_is_not_replaced(api: Api) -> None:
    with pytest.raises(SessionNotFoundError):
        api.replace_message("k", ChatMessage("x"))
    assert api.get_session("k") is None
    [first, *_] = three(api)
    with unchanged(api, "k"), pytest.raises(MessageNotFoundError):
        api.replace_message("k", ChatMessage("x"))
    api.delete_message("k", id=first.id)
    with unchanged(api, "k"), pytest.raises(MessageNotFoundError):
        api.replace_message("k", first)


@pytest.mark.clause("W12")
def test_w12_a_replaced_message_is_known_by_its_new_content(api: Api) -> None:
    [first, *_] = three(api)
    changed = ChatMessage("changed", id=first.id)
    api.replace_message("k", changed)
    version = api.get_version("k")
    assert api.add_message("k", changed) == Commit(version, 0)
    with pytest.raises(InvalidMessageError):
        api.add_message("k", first)
