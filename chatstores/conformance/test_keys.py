"""Keys and namespaces: what they may be, and what they share."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Any

import pytest

from chatstores import ChatMessage
from chatstores.conformance.api import Api
from chatstores.conformance.fixtures import OpenApi
from chatstores.conformance.harness import Harness
from chatstores.conformance.texts import add_texts, texts
from chatstores.errors import InvalidKeyError, InvalidURLError

KEYS = [
    " ",
    "a b",
    "/",
    ":",
    "{",
    "}",
    "{}",
    "a{b}c",
    "*",
    "?",
    "[a-z]",
    "]",
    "'",
    '"',
    "\\",
    "%",
    "%2F",
    "_",
    "|",
    "#",
    "..",
    "../../etc/passwd",
    "\n",
    "\r\n",
    "\t",
    "\x01",
    "\x7f",
    "\ufeff",
    "\uffff",
    "\U0010ffff",
    "🦜",
    "👩‍👩‍👧‍👦",
    "日本語",
    "שלום",
    " leading",
    "trailing ",
    "\nleading newline",
    "trailing newline\n",
    "a.b",
    "a,b;c",
    "$a",
    "a=b&c=d",
    "0",
    "-1",
    "None",
    "null",
    "x' or PartitionKey ne '",
    "'; DROP TABLE messages; --",
    "redis.call('flushall')",
]

ALIKE = [
    ("a", "a:messages"),
    ("a", "a:m"),
    ("a", "A"),
    ("a", "a "),
    ("a", " a"),
    ("a", "a\n"),
    ("a", "a/"),
    ("a", "a%"),
    ("a b", "a%20b"),
    ("a b", "a+b"),
    ("a/b", "a%2Fb"),
    ("a", "{a}"),
    ("1", "01"),
    ("1", "1.0"),
    ("ß", "ss"),
    ("İ", "i"),
    ("ﬁ", "fi"),
    ("a", "а"),  # Latin, Cyrillic
    (unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")),
    (unicodedata.normalize("NFC", "한"), unicodedata.normalize("NFD", "한")),
    ("a\u200b", "a"),
    ("\\x61", "a"),
    ("x" * 512, "x" * 511),
    ("x" * 511 + "y", "x" * 511 + "z"),
]

NO_KEYS: list[Any] = [
    "",
    "x" * 513,
    "é" * 256 + "x",
    "🦜" * 128 + "x",
    "\0",
    "a\0b",
    "a\0",
    "\ud800",
    "a\udfff",
    None,
    1,
    b"bytes",
    ["a"],
    ("a", "b"),
]


@pytest.mark.clause("K1")
def test_k1_every_character_may_stand_in_a_key(api: Api) -> None:
    for key in KEYS:
        api.add_message(key, ChatMessage(f"of {key!r}"))
    for key in KEYS:
        assert texts(api, key) == [f"of {key!r}"]
    assert sorted(api.get_keys()) == sorted(KEYS)


@pytest.mark.clause("K1")
@pytest.mark.parametrize("pair", ALIKE, ids=lambda pair: f"{pair[0][:9]!a}-{pair[1][:9]!a}")
def test_k1_keys_that_look_alike_share_nothing(api: Api, pair: tuple[str, str]) -> None:
    one, other = pair
    add_texts(api, one, "one", "two")
    assert texts(api, other) == []
    assert api.get_version(other) == 0
    add_texts(api, other, "three")
    api.set_metadata(other, {"title": "other"})
    assert texts(api, one) == ["one", "two"]
    assert api.delete_messages(other) == 1
    assert texts(api, one) == ["one", "two"]
    assert api.get_keys() == [one]
    info = api.get_session(one)
    assert info is not None
    assert info.metadata == {}


@pytest.mark.clause("K1")
@pytest.mark.parametrize("key", ["x" * 512, "é" * 256, "🦜" * 128, "\n" * 512], ids=ascii)
def test_k1_a_key_may_take_512_bytes(api: Api, key: str) -> None:
    add_texts(api, key, "one")
    assert texts(api, key) == ["one"]
    assert api.get_keys() == [key]
    assert api.get_keys(prefix=key) == [key]
    info = api.get_session(key)
    assert info is not None
    assert info.key == key


@pytest.mark.clause("K1")
@pytest.mark.parametrize("name", ["a", "A-Z_a.z-09", "x" * 64, ".", "..", "-", "_"])
def test_k1_namespaces(open_api: OpenApi, namespace: str, name: str) -> None:
    api = open_api(namespace=name)
    assert api.namespace == name
    key = f"key of {namespace}"  # a namespace that others may use
    add_texts(api, key, "one")
    assert texts(api, key) == ["one"]
    assert key in api.get_keys()
    api.delete_messages(key)


@pytest.mark.clause("K1")
@pytest.mark.parametrize("name", ["", "x" * 65, "a b", "a/b", "a:b", "é", "a\n", "a\0", "*", 1])
def test_k1_no_namespaces(harness: Harness, name: Any) -> None:
    with pytest.raises(InvalidURLError, match="namespace"):
        harness.open(namespace=name)


@pytest.mark.clause("K2")
@pytest.mark.parametrize("key", NO_KEYS, ids=lambda key: f"{key!a:.12}")
def test_k2_what_is_no_key_is_refused_by_every_method(api: Api, key: Any) -> None:
    message = ChatMessage("x")
    calls: list[Callable[[], Any]] = [
        lambda: api.add_message(key, message),
        lambda: api.add_messages(key, []),
        lambda: api.add_messages(key, [message]),
        lambda: api.set_messages(key, [message]),
        lambda: api.replace_message(key, message),
        lambda: api.delete_last_message(key),
        lambda: api.delete_message(key, 0),
        lambda: api.delete_message(key, id="x"),
        lambda: api.delete_oldest(key, 1),
        lambda: api.delete_after(key, "x"),
        lambda: api.delete_messages(key),
        lambda: api.set_metadata(key, {}),
        lambda: api.get_messages(key),
        lambda: api.get_messages(key, last=0),
        lambda: api.count_messages(key),
        lambda: api.get_version(key),
        lambda: api.page(key),
        lambda: api.get_session(key),
    ]
    for call in calls:
        with pytest.raises(InvalidKeyError):
            call()
    assert api.get_keys() == []


@pytest.mark.clause("K2")
def test_k2_nothing_is_sent_for_what_is_no_key(harness: Harness, open_api: OpenApi) -> None:
    api = open_api(timeout=1)
    with harness.away(), pytest.raises(InvalidKeyError):
        api.add_message("", ChatMessage("x"))


@pytest.mark.clause("K2")
@pytest.mark.parametrize(
    "pattern", ["*", "?", "[a]", "[^b]", "%", "_", "a*", "a%", "^a", ".*", "a|b", "' or '1'='1"]
)
def test_k2_a_key_is_no_pattern(api: Api, pattern: str) -> None:
    add_texts(api, "a", "of a")
    add_texts(api, "b", "of b")
    assert texts(api, pattern) == []
    assert api.count_messages(pattern) == 0
    assert api.get_session(pattern) is None
    assert api.page(pattern).messages == []
    assert api.delete_last_message(pattern) is None
    assert api.delete_messages(pattern) == 0
    assert api.get_keys(prefix=pattern) == []
    assert texts(api, "a") == ["of a"]
    assert texts(api, "b") == ["of b"]


@pytest.mark.clause("K3")
def test_k3_a_store_sees_only_its_namespace(open_api: OpenApi, namespace: str) -> None:
    one, other = open_api(), open_api(namespace=f"{namespace}.2")
    add_texts(one, "k", "of one")
    assert texts(other, "k") == []
    assert other.get_version("k") == 0
    assert other.get_keys() == []
    assert other.list_sessions().sessions == []
    add_texts(other, "k", "of other", "more")
    other.set_metadata("k", {"title": "other"})
    assert texts(one, "k") == ["of one"]
    assert [info.count for info in one.list_sessions().sessions] == [1]
    assert other.delete_messages("k") == 2
    assert texts(one, "k") == ["of one"]
    assert one.get_keys() == ["k"]


@pytest.mark.clause("K3")
def test_k3_a_key_cannot_reach_into_another_namespace(open_api: OpenApi, namespace: str) -> None:
    inner = f"{namespace}.2"
    one, other = open_api(), open_api(namespace=inner)
    add_texts(other, "k", "of other")
    for key in ["k", f"{inner}:k", f"{inner}/k", f"../{inner}/k", f"{{{inner}}}:k", ".2:k", ".2k"]:
        assert texts(one, key) == []
        assert one.delete_messages(key) == 0
    assert one.get_keys(prefix="") == []
    assert texts(other, "k") == ["of other"]


@pytest.mark.clause("K3")
def test_k3_only_its_own_is_purged(harness: Harness, open_api: OpenApi, namespace: str) -> None:
    one, other = open_api(ttl=0.2), open_api(namespace=f"{namespace}.2", ttl=0.2)
    add_texts(one, "k", "one")
    add_texts(other, "k", "other")
    harness.advance(0.5)
    assert one.purge_expired() == 1
    assert other.purge_expired() == 1
