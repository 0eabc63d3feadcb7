"""The same message again (W8)."""

from __future__ import annotations

from typing import Any

import pytest

from chatstores import ChatMessage, Commit
from chatstores.conformance.api import Api
from chatstores.conformance.texts import add_texts, messages, texts, unchanged
from chatstores.errors import ConflictError, InvalidMessageError

WINDOW = 64


@pytest.mark.clause("W8")
def test_w8_a_message_that_is_there_changes_nothing(api: Api) -> None:
    some = messages("1", "2", "3")
    version = api.add_messages("k", some).version
    with unchanged(api, "k"):
        for there in [some, some[:1], some[1:], some[::-1]]:
            for expected in [None, version, 0, version - 1, version + 1]:
                commit = api.add_messages("k", there, expected_version=expected)
                assert commit == Commit(version, 0)
        assert api.add_message("k", some[1], expected_version=0) == Commit(version, 0)


@pytest.mark.clause("W8")
def test_w8_what_was_read_may_be_added_again(api: Api) -> None:
    add_texts(api, "k", "1", "2")
    version = api.get_version("k")
    assert api.add_messages("k", api.get_messages("k")) == Commit(version, 0)


@pytest.mark.clause("W8")
def test_w8_what_is_there_is_skipped_and_the_rest_added(api: Api) -> None:
    some = messages("1", "2", "3", "4", "5")
    version = api.add_messages("k", [some[0], some[2]]).version
    with unchanged(api, "k"), pytest.raises(ConflictError):
        api.add_messages("k", some, expected_version=version - 1)
    commit = api.add_messages("k", some, expected_version=version)
    assert commit.added == 3
    assert commit.version > version
    assert texts(api, "k") == ["1", "3", "2", "4", "5"]


@pytest.mark.clause("W8")
def test_w8_among_the_last_64_messages(api: Api) -> None:
    some = messages(*(f"{number}" for number in range(WINDOW)))
    for message in some:
        api.add_message("k", message)
    version = api.get_version("k")
    for message in [some[0], some[1], some[-1]]:
        assert api.add_message("k", message) == Commit(version, 0)
    assert api.add_messages("k", some) == Commit(version, 0)
    with pytest.raises(InvalidMessageError):
        api.add_message("k", ChatMessage("other", id=some[0].id))


@pytest.mark.clause("W8")
def test_w8_past_the_window_a_duplicate_may_be_accepted(api: Api) -> None:
    some = messages(*(f"{number}" for number in range(WINDOW + 1)))
    for message in some:
        api.add_message("k", message)
    added = api.add_message("k", some[0]).added
    assert api.get_messages("k") == some + [some[0]] * added


@pytest.mark.clause("W8")
def test_w8_within_the_last_batch_if_that_is_longer(api: Api) -> None:
    some = messages(*(f"{number}" for number in range(3 * WINDOW)))
    version = api.add_messages("k", some).version
    assert api.add_messages("k", some) == Commit(version, 0)
    assert api.add_message("k", some[0]) == Commit(version, 0)
    assert api.get_messages("k") == some


@pytest.mark.clause("W8")
def test_w8_a_batch_that_was_there_in_part_again(api: Api) -> None:
    some = messages(*(f"{number}" for number in range(3 * WINDOW)))
    api.add_messages("k", some[: 2 * WINDOW])
    commit = api.add_messages("k", some)
    assert commit.added == WINDOW
    assert api.add_messages("k", some) == Commit(commit.version, 0)
    assert api.get_messages("k") == some


@pytest.mark.clause("W8")
@pytest.mark.parametrize(
    "change",
    [
        {"content": "other"},
        {"content": None},
        {"role": "assistant"},
        {"name": "x"},
        {"tool_call_id": "x"},
        {"metadata": {"x": 1}},
        {"extras": {"x": 1}},
        {"created_at": "2020-01-01T00:00:00Z"},
    ],
    ids=str,
)
def test_w8_the_same_id_with_other_content_is_refused(api: Api, change: dict[str, Any]) -> None:
    some = messages("1", "2", "3")
    api.add_messages("k", some)
    other = ChatMessage(**{**some[1].model_dump(), **change})
    with unchanged(api, "k"):
        for batch in [[other], [*messages("new"), other], [some[0], other, *messages("new")]]:
            with pytest.raises(InvalidMessageError, match=some[1].id):
                api.add_messages("k", batch)


@pytest.mark.clause("W8")
def test_w8_two_of_one_id_in_a_batch_or_set_are_refused(api: Api) -> None:
    [first, second] = messages("1", "2")
    api.add_message("k", first)
    for batch in [
        [second, second],
        [second, ChatMessage("other", id=second.id)],
        [first, first],
        [second, *messages("3"), second],
    ]:
        with unchanged(api, "k"):
            with pytest.raises(InvalidMessageError):
                api.add_messages("k", batch)
            with pytest.raises(InvalidMessageError):
                api.set_messages("k", batch)


@pytest.mark.clause("W8")
def test_w8_what_was_removed_may_come_back(api: Api) -> None:
    some = messages("1", "2", "3", "4")
    api.add_messages("k", some)
    assert api.delete_last_message("k") == some[3]
    assert api.add_message("k", some[3]).added == 1
    api.delete_message("k", id=some[1].id)
    assert api.add_message("k", some[1]).added == 1
    api.delete_oldest("k", 1)
    assert api.add_message("k", ChatMessage("other", id=some[0].id)).added == 1
    assert texts(api, "k") == ["3", "4", "2", "other"]


@pytest.mark.clause("W8")
def test_w8_an_id_is_any_text(api: Api) -> None:
    names = ["1", "01", " ", "é", "e\u0301", "🦜", "\0", "\n", "a\0b", "{}", "A", "a", "x" * 3_000]
    some = [ChatMessage(f"{number}", id=name) for number, name in enumerate(names)]
    api.add_messages("k", some)
    version = api.get_version("k")
    assert api.get_messages("k") == some
    assert api.add_messages("k", some) == Commit(version, 0)
    for message in some:
        assert api.delete_message("k", id=message.id) == message


@pytest.mark.clause("W8")
def test_w8_ids_are_a_sessions_own(api: Api) -> None:
    some = messages("1", "2")
    assert api.add_messages("a", some).added == 2
    assert api.add_messages("b", some).added == 2
    assert api.get_messages("b") == some
