"""How sessions are listed: by key, and by last write."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from chatstores import ChatMessage
from chatstores.conformance.api import Api
from chatstores.conformance.fixtures import OpenApi, OpenStore
from chatstores.conformance.harness import Harness
from chatstores.conformance.texts import add_texts
from chatstores.errors import InvalidArgumentError, InvalidKeyError


@pytest.mark.clause("K4")
def test_k4_every_live_session_once_in_byte_order(api: Api) -> None:
    keys = ["b", "a", "B", "a b", "ab", "é", "z", "\uffff", "\U00010000", "🦜", "\n", "~", "aa"]
    for key in keys:
        add_texts(api, key, "1", "2")
    in_order = sorted(keys, key=str.encode)
    assert in_order.index("\uffff") < in_order.index("\U00010000")  # unlike in UTF-16
    assert api.get_keys() == in_order
    assert list(api.iter_keys()) == in_order
    assert list(api.iter_keys(page_size=1)) == in_order


@pytest.mark.clause("K4")
def test_k4_what_is_dead_is_not_listed_and_what_is_empty_is(api: Api) -> None:
    add_texts(api, "deleted", "1")
    add_texts(api, "emptied", "1")
    api.set_messages("born empty", [])
    api.delete_messages("deleted")
    api.delete_last_message("emptied")
    assert api.get_keys() == ["born empty", "emptied"]


@pytest.mark.clause("K4")
@pytest.mark.parametrize(
    "prefix", ["a", "a*", "a%", "a_", "a?", "a[", "a\\", "*", "%", "_", "é", " "]
)
def test_k4_a_prefix_is_literal_text(api: Api, prefix: str) -> None:
    keys = [
        "ab",
        "a*b",
        "a%b",
        "a_b",
        "a?b",
        "a[b]",
        "a\\b",
        "*",
        "%",
        "_x",
        "éa",
        "e\u0301a",
        " x",
    ]
    for key in keys:
        add_texts(api, key, "1")
    expected = sorted((key for key in keys if key.startswith(prefix)), key=str.encode)
    assert api.get_keys(prefix) == expected
    assert list(api.iter_keys(prefix, page_size=2)) == expected


@pytest.mark.clause("K4")
def test_k4_a_prefix_ends_where_it_says(api: Api) -> None:
    keys = ["a", "a\U0010ffff", "a\U0010ffffz", "b", "\U0010ffff", "\U0010ffff\U0010ffff"]
    for key in keys:
        add_texts(api, key, "1")
    assert api.get_keys("a") == ["a", "a\U0010ffff", "a\U0010ffffz"]
    assert api.get_keys("\U0010ffff") == ["\U0010ffff", "\U0010ffff\U0010ffff"]
    assert api.get_keys("a\U0010ffff") == ["a\U0010ffff", "a\U0010ffffz"]
    assert api.get_keys("c") == []


@pytest.mark.clause("K4")
@pytest.mark.parametrize(
    "prefix", ["\0", "\ud800", "x" * 513, None, 1, b"a"], ids=lambda p: f"{p!a:.9}"
)
def test_k4_what_no_key_can_begin_with_is_refused(api: Api, prefix: Any) -> None:
    with pytest.raises(InvalidKeyError):
        api.get_keys(prefix)
    with pytest.raises(InvalidKeyError):
        next(iter(api.iter_keys(prefix)))


@pytest.mark.clause("K4")
@pytest.mark.parametrize("size", [0, -1, 1.5, "10", None])
def test_k4_a_page_size_is_a_whole_number(api: Api, size: Any) -> None:
    with pytest.raises(InvalidArgumentError):
        next(iter(api.iter_keys(page_size=size)))


@pytest.mark.clause("K4")
def test_k4_keys_come_by_pages(api: Api) -> None:
    keys = [f"{number:04}" for number in range(300)]
    for key in keys:
        add_texts(api, key, "1")
    assert list(api.iter_keys(page_size=11)) == keys
    assert list(api.iter_keys("01", page_size=11)) == keys[100:200]


@pytest.mark.clause("K4")
def test_k4_10000_sessions(open_store: OpenStore) -> None:
    store = open_store()
    keys = [f"{number:05}" for number in range(10_000)]
    for key in keys:
        store.set_messages(key, [])
    assert list(store.iter_keys()) == keys
    assert store.get_keys() == keys


@pytest.mark.clause("K4")
def test_k4_what_comes_and_goes_meanwhile_disturbs_no_listing(api: Api) -> None:
    stay = [f"{number:03}" for number in range(0, 200, 2)]
    for key in stay:
        add_texts(api, key, "1")
    seen = []
    for number, key in enumerate(api.iter_keys(page_size=10)):
        seen.append(key)
        add_texts(api, f"{(number * 37) % 200:03}x", "1")
        api.delete_messages(f"{(number * 53) % 200:03}x")
    assert [key for key in seen if not key.endswith("x")] == stay
    assert seen == sorted(set(seen))


@pytest.mark.clause("K4")
def test_k4_other_namespaces_cost_nothing(
    harness: Harness, open_api: OpenApi, namespace: str
) -> None:
    api, other = open_api(), open_api(namespace=f"{namespace}.2")
    for number in range(10):
        add_texts(api, f"{number}", "1")
    api.get_keys()
    with harness.received() as before:
        api.get_keys()
    for number in range(1_000):
        other.set_messages(f"{number}", [])
    with harness.received() as after:
        api.get_keys()
    assert after.count <= before.count * 1.2 + 200


@pytest.mark.clause("K5")
def test_k5_sessions_by_last_write(api: Api) -> None:
    for key in ["a", "b", "c", "d", "b", "a"]:
        add_texts(api, key, "1")
        time.sleep(0.005)
    api.get_messages("d")
    sessions = api.list_sessions().sessions
    assert [(info.key, info.count) for info in sorted(sessions, key=lambda info: info.key)] == [
        ("a", 2),
        ("b", 2),
        ("c", 1),
        ("d", 1),
    ]
    for info in sessions:
        assert info == api.get_session(info.key)
    assert api.capabilities.recency in ("exact", "minute")
    assert [info.key for info in sessions] == ["a", "b", "d", "c"]


@pytest.mark.clause("K5")
def test_k5_every_kind_of_write_counts(api: Api) -> None:
    if api.capabilities.recency != "exact":
        return
    first, second = ChatMessage("1"), ChatMessage("2")
    for key in ["a", "b"]:
        api.add_messages(key, [first, second])
    writes: list[Callable[[], Any]] = [
        lambda: api.add_message("a", ChatMessage("3")),
        lambda: api.set_messages("b", [first, second]),
        lambda: api.set_metadata("a", {"title": "x"}),
        lambda: api.delete_last_message("b"),
        lambda: api.replace_message("a", ChatMessage("changed", id=first.id)),
        lambda: api.set_messages("b", [second]),
    ]
    for write in writes:
        newest = api.list_sessions(limit=1).sessions[0].key
        time.sleep(0.005)
        write()
        assert api.list_sessions(limit=1).sessions[0].key != newest


@pytest.mark.clause("K5")
@pytest.mark.parametrize("limit", [1, 3, 7, 50])
def test_k5_pages(api: Api, limit: int) -> None:
    keys = [f"{number:02}:é.{number}" for number in range(20)]
    for key in keys:
        add_texts(api, key, "1")
    seen, before = [], None
    while True:
        page = api.list_sessions(limit=limit, before=before)
        assert len(page.sessions) <= limit
        seen += [info.key for info in page.sessions]
        before = page.before
        if before is None:
            break
    assert sorted(seen) == keys
    if api.capabilities.recency == "exact":
        assert seen == keys[::-1]


@pytest.mark.clause("K5")
def test_k5_what_is_dead_is_not_listed(api: Api) -> None:
    assert api.list_sessions() == ([], None)
    add_texts(api, "deleted", "1")
    add_texts(api, "emptied", "1")
    api.delete_messages("deleted")
    api.delete_last_message("emptied")
    assert [info.key for info in api.list_sessions().sessions] == ["emptied"]


@pytest.mark.clause("K5")
def test_k5_arguments_are_checked(api: Api) -> None:
    add_texts(api, "k", "1")
    for limit in [0, -1, 1.5, "1"]:
        with pytest.raises(InvalidArgumentError):
            api.list_sessions(limit=limit)  # type: ignore[arg-type]
    for cursor in ["", "x", "x.k", 1]:
        with pytest.raises(InvalidArgumentError):
            api.list_sessions(before=cursor)  # type: ignore[arg-type]
