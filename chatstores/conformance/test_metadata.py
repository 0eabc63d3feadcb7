"""A session's facts and metadata (W13)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from chatstores import ChatMessage, SessionInfo
from chatstores.conformance.api import Api
from chatstores.conformance.fixtures import OpenApi
from chatstores.conformance.texts import add_texts, messages, unchanged
from chatstores.errors import InvalidMessageError, SessionNotFoundError

LIMIT = 16 * 1024

VALUES: dict[str, Any] = {
    "text": "日本\U0001f99c\0\n\"'\\",
    "true": True,
    "one": 1,
    "one_float": 1.0,
    "none": None,
    "big": 10**50,
    "list": [1, "2", [3.5, {"four": None}], []],
    "dict": {"": {}, "é": {"a.b": 1}},
    "": "an empty name",
}

NOT_STORED: list[Any] = [
    {"a": float("nan")},
    {"a": float("inf")},
    {"a": (1, 2)},
    {"a": {1}},
    {"a": b"bytes"},
    {1: "a"},
    {"a": {2: "b"}},
    {"a": "\ud800"},
    {"\ud800": "a"},
    {"a": datetime.now(UTC)},
    {"a": object()},
    [],
    "text",
    None,
]


def info_of(api: Api, key: str = "k") -> SessionInfo:
    """The facts of a session that is there."""
    info = api.get_session(key)
    assert info is not None
    return info


@pytest.mark.clause("W13")
def test_w13_a_sessions_facts(api: Api) -> None:
    assert api.get_session("k") is None
    commit = add_texts(api, "k", "1", "2")
    info = info_of(api)
    assert type(info) is SessionInfo
    assert (info.key, info.version, info.count) == ("k", commit.version, 2)
    assert info.metadata == {}
    assert info.expires_at is None
    assert info.created_at == info.updated_at
    assert info.created_at.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - info.created_at) < timedelta(minutes=10)


@pytest.mark.clause("W13")
def test_w13_times(open_api: OpenApi) -> None:
    api = open_api(ttl=3600)
    add_texts(api, "k", "1")
    first = info_of(api)
    time.sleep(0.02)
    add_texts(api, "k", "2")
    second = info_of(api)
    assert second.created_at == first.created_at
    assert second.updated_at > first.updated_at
    assert first.expires_at is not None
    assert second.expires_at is not None
    assert second.expires_at > first.expires_at
    assert abs(second.expires_at - second.updated_at - timedelta(hours=1)) < timedelta(seconds=2)
    assert second.expires_at.utcoffset() == timedelta(0)
    api.delete_messages("k")
    time.sleep(0.02)
    add_texts(api, "k", "3")
    assert info_of(api).created_at > second.created_at


@pytest.mark.clause("W13")
def test_w13_metadata_is_replaced_whole(api: Api) -> None:
    add_texts(api, "k", "1")
    version = api.get_version("k")
    values: list[dict[str, Any]] = [
        {"title": "one", "tags": ["a"]},
        {"tags": []},
        {"title": None},
        {},
    ]
    for metadata in values:
        commit = api.set_metadata("k", metadata)
        assert commit.version > version
        assert commit.added == 0
        version = commit.version
        info = info_of(api)
        assert info.metadata == metadata
        assert (info.version, info.count) == (version, 1)


@pytest.mark.clause("W13")
def test_w13_metadata_comes_back_equal_types_included(api: Api) -> None:
    add_texts(api, "k", "1")
    api.set_metadata("k", VALUES)
    found = info_of(api).metadata
    assert found == VALUES
    assert [type(found[name]) for name in VALUES] == [type(VALUES[name]) for name in VALUES]


@pytest.mark.clause("W13")
def test_w13_what_is_returned_is_the_callers_own(api: Api) -> None:
    add_texts(api, "k", "1")
    metadata = {"tags": ["a"]}
    api.set_metadata("k", metadata)
    metadata["tags"].append("b")
    info_of(api).metadata["tags"].append("c")
    assert info_of(api).metadata == {"tags": ["a"]}


@pytest.mark.clause("W13")
def test_w13_metadata_needs_a_session(api: Api) -> None:
    with pytest.raises(SessionNotFoundError):
        api.set_metadata("k", {"title": "x"})
    assert api.get_session("k") is None
    add_texts(api, "k", "1")
    api.delete_messages("k")
    with pytest.raises(SessionNotFoundError):
        api.set_metadata("k", {"title": "x"})
    api.set_messages("k", [])
    api.set_metadata("k", {"title": "x"})
    assert info_of(api).metadata == {"title": "x"}


@pytest.mark.clause("W13")
def test_w13_metadata_lives_and_dies_with_the_session(api: Api) -> None:
    [first, second] = messages("1", "2")
    api.add_messages("k", [first, second])
    api.set_metadata("k", {"title": "x"})
    writes: list[Callable[[], Any]] = [
        lambda: api.add_message("k", ChatMessage("3")),
        lambda: api.replace_message("k", ChatMessage("changed", id=first.id)),
        lambda: api.delete_last_message("k"),
        lambda: api.delete_oldest("k", 5),
        lambda: api.set_messages("k", [second]),
        lambda: api.set_messages("k", []),
    ]
    for write in writes:
        write()
        assert info_of(api).metadata == {"title": "x"}
    api.delete_messages("k")
    add_texts(api, "k", "1")
    assert info_of(api).metadata == {}


@pytest.mark.clause("W13")
def test_w13_metadata_of_16_kib(api: Api) -> None:
    add_texts(api, "k", "1")
    around = len(json.dumps({"a": ""}, separators=(",", ":")))
    largest = {"a": "x" * (LIMIT - around)}
    api.set_metadata("k", largest)
    assert info_of(api).metadata == largest
    for larger in [{"a": "x" * (LIMIT - around + 1)}, {"a": "é" * (LIMIT // 2)}]:
        with unchanged(api, "k"), pytest.raises(InvalidMessageError, match="16,384"):
            api.set_metadata("k", larger)


@pytest.mark.clause("W13")
@pytest.mark.parametrize("metadata", NOT_STORED, ids=lambda value: f"{value!a:.20}")
def test_w13_metadata_that_would_not_come_back_equal(api: Api, metadata: Any) -> None:
    add_texts(api, "k", "1")
    with unchanged(api, "k"), pytest.raises(InvalidMessageError, match="metadata"):
        api.set_metadata("k", metadata)


@pytest.mark.clause("W13")
def test_w13_the_librarys_own_keys(api: Api) -> None:
    add_texts(api, "k", "1")
    refused: list[dict[str, Any]] = [{"chatstores.x": 1}, {"title": "x", "chatstores.": None}]
    for metadata in refused:
        with unchanged(api, "k"), pytest.raises(InvalidMessageError, match=r"chatstores\."):
            api.set_metadata("k", metadata)
    api.set_metadata("k", {"chatstores": 1, "Chatstores.x": 2})
    assert info_of(api).metadata == {"chatstores": 1, "Chatstores.x": 2}


@pytest.mark.clause("W13")
def test_w13_the_librarys_own_metadata_is_kept_apart(api: Api) -> None:
    add_texts(api, "k", "1")
    version = api.get_version("k")
    api.set_own_metadata("k", {"chatstores.adapter": {"n": 1}})
    assert api.get_version("k") > version
    assert info_of(api).metadata == {}
    values: list[dict[str, Any]] = [{"title": "x"}, {}]
    for metadata in values:
        api.set_metadata("k", metadata)
        assert info_of(api).metadata == metadata
        assert own_metadata(api) == {"chatstores.adapter": {"n": 1}}
    api.set_metadata("k", {"title": "x"})
    api.set_own_metadata("k", {"chatstores.other": 2})
    assert own_metadata(api) == {"chatstores.other": 2}
    assert info_of(api).metadata == {"title": "x"}
    with pytest.raises(InvalidMessageError):
        api.set_own_metadata("k", {"title": "x"})
    api.delete_messages("k")
    add_texts(api, "k", "1")
    assert own_metadata(api) == {}


def own_metadata(api: Api) -> Any:
    """What adapters keep."""
    head = api.head("k")
    assert head is not None
    return json.loads(head.own)
