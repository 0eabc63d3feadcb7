"""Stored records that cannot be read (M4), and what other clauses say of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest

from chatstores import ChatMessage
from chatstores.codec import encode
from chatstores.conformance.api import new_command
from chatstores.conformance.fixtures import OpenApi
from chatstores.conformance.harness import Harness
from chatstores.conformance.texts import add_texts, contents, messages
from chatstores.errors import ConflictError, CorruptRecordError
from chatstores.state import Delete

GARBAGE = b'{"v":1,"id":"cut off'
NEWER = b'{"v":2,"id":"x","role":"user","content":{"parts":[]}}'


def corrupted(harness: Harness, open_api: OpenApi, index: int, payload: bytes) -> list[ChatMessage]:
    """Make a session one of whose records is overwritten; its messages before that."""
    some = messages(*(f"{number}" for number in range(5)))
    with_some = open_api()
    for message in some:
        with_some.add_message("k", message)
    with_some.close()
    harness.overwrite(with_some.namespace, "k", index, payload)
    return some


def raises_corrupt(call: Callable[[], Any], position: int) -> str:
    """The call raises of the record at a position; the error's text."""
    with pytest.raises(CorruptRecordError) as caught:
        call()
    assert caught.value.key == "k"
    assert caught.value.position in (position, None)
    return str(caught.value)


@pytest.mark.clause("M4", decided=False)
@pytest.mark.parametrize("index", [0, 2, 4])
@pytest.mark.parametrize("payload", [GARBAGE, NEWER], ids=["garbage", "newer"])
def test_m4_a_record_that_cannot_be_read_raises(
    harness: Harness, open_api: OpenApi, index: int, payload: bytes
) -> None:
    some = corrupted(harness, open_api, index, payload)
    api = open_api()
    for _ in range(2):
        raises_corrupt(lambda: api.get_messages("k"), index)
        raises_corrupt(lambda: api.get_messages("k", last=5 - index), index)
        raises_corrupt(lambda: api.get_messages("k", first=index + 1), index)
        raises_corrupt(lambda: api.page("k"), index)
    assert api.get_messages("k", first=index) == some[:index]
    assert api.get_messages("k", last=4 - index) == some[index + 1 :]
    assert api.count_messages("k") == 5  # nothing was deleted by reading


@pytest.mark.clause("M4", decided=False)
def test_m4_a_record_of_a_newer_format_says_so(harness: Harness, open_api: OpenApi) -> None:
    corrupted(harness, open_api, 1, NEWER)
    api = open_api()
    for call in [lambda: api.get_messages("k"), lambda: api.page("k")]:
        text = raises_corrupt(call, 1)
        assert "newer" in text
        assert "2" in text


@pytest.mark.clause("M4", decided=False)
@pytest.mark.parametrize("payload", [GARBAGE, NEWER], ids=["garbage", "newer"])
def test_m4_or_is_skipped_with_a_warning(
    harness: Harness, open_api: OpenApi, payload: bytes
) -> None:
    some = corrupted(harness, open_api, 2, payload)
    api = open_api(on_corrupt="skip")
    reads: list[Callable[[], list[ChatMessage]]] = [
        lambda: api.get_messages("k"),
        lambda: api.get_messages("k", last=5),
        lambda: api.get_messages("k", first=5),
        lambda: api.page("k").messages,
    ]
    for read in reads:
        with pytest.warns(RuntimeWarning, match="'k'"):
            assert read() == some[:2] + some[3:]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert api.get_messages("k", last=2) == some[3:]
    assert api.count_messages("k") == 5


@pytest.mark.clause("M4", decided=False)
@pytest.mark.parametrize("on_corrupt", ["raise", "skip"])
def test_m4_a_pop_of_a_corrupt_record_raises(
    harness: Harness, open_api: OpenApi, on_corrupt: str
) -> None:
    some = corrupted(harness, open_api, 4, GARBAGE)
    api = open_api(on_corrupt=on_corrupt)
    version = api.get_version("k")
    for _ in range(2):
        raises_corrupt(lambda: api.delete_last_message("k"), 4)
        raises_corrupt(lambda: api.delete_message("k", 4), 4)
        raises_corrupt(lambda: api.delete_message("k", -1), 4)
        raises_corrupt(lambda: api.delete_after("k", some[2].id), 4)
        raises_corrupt(lambda: api.delete_oldest("k", 5), 4)
    assert api.get_version("k") == version
    assert api.count_messages("k") == 5
    assert api.get_messages("k", first=4) == some[:4]


@pytest.mark.clause("W0", decided=False)
def test_w0_the_version_comes_before_a_corrupt_record(harness: Harness, open_api: OpenApi) -> None:
    corrupted(harness, open_api, 4, GARBAGE)
    api = open_api()
    version = api.get_version("k")
    with pytest.raises(ConflictError):
        api.delete_last_message("k", expected_version=version - 1)
    raises_corrupt(lambda: api.delete_last_message("k", expected_version=version), 4)


@pytest.mark.clause("W10", decided=False)
def test_w10_a_pop_again_is_answered_whatever_is_last_now(
    harness: Harness, open_api: OpenApi
) -> None:
    before = open_api()
    some = messages("0", "1", "2")
    for message in some:
        before.add_message("k", message)
    command = new_command(Delete("last"))
    first = before.commit("k", command)
    assert list(first.removed) == [encode(some[2])]
    before.close()
    harness.overwrite(before.namespace, "k", 1, GARBAGE)
    again = open_api().commit("k", command._replace(age=60_000_000))
    assert (again.refusal, again.version) in ((None, first.version), ("unknown", first.version))
    assert open_api().count_messages("k") == 2


@pytest.mark.clause("M4", decided=False)
def test_m4_the_rest_of_the_session_stays_usable(harness: Harness, open_api: OpenApi) -> None:
    some = corrupted(harness, open_api, 1, GARBAGE)
    api = open_api()
    assert add_texts(api, "k", "new").added == 1
    removed = api.delete_last_message("k")
    assert removed is not None
    assert removed.text == "new"
    assert api.delete_message("k", id=some[3].id) == some[3]
    assert contents(api.delete_oldest("k", 1)) == ["0"]
    raises_corrupt(lambda: api.get_messages("k"), 0)
    api.set_metadata("k", {"title": "x"})
    assert api.delete_messages("k") == 3
    assert api.get_messages("k") == []
