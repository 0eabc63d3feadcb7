"""Messages: what comes back equal, what is refused, and how large they may be."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from chatstores import (
    AudioBlock,
    ChatMessage,
    DocumentBlock,
    ImageBlock,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
    UnknownBlock,
    VideoBlock,
)
from chatstores.codec import encode
from chatstores.conformance.api import Api
from chatstores.conformance.texts import add_texts, messages, texts, unchanged
from chatstores.errors import InvalidMessageError, MessageTooLargeError

MIB = 1024 * 1024


def nested(depth: int, wrap: Callable[[Any], Any]) -> Any:
    """A value inside so many others."""
    value: Any = "innermost"
    for _ in range(depth):
        value = wrap(value)
    return value


def unknown(kind: str, **fields: Any) -> UnknownBlock:
    """A block that this version does not know."""
    return UnknownBlock(type=kind, **fields)


def in_list(value: Any) -> Any:
    """A value in a list."""
    return [value]


def in_dict(value: Any) -> Any:
    """A value in a dict."""
    return {"a": value}


EVERY_CHARACTER = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x11_0000)]))

MESSAGES: dict[str, ChatMessage] = {
    "nothing": ChatMessage(),
    "empty text": ChatMessage(""),
    "no blocks": ChatMessage([]),
    "an empty block": ChatMessage([TextBlock(text="")]),
    "blank": ChatMessage(" \n\t\r\n "),
    "text": ChatMessage("hi"),
    "unicode": ChatMessage("é e\u0301 日本 🦜 👩‍👩‍👧‍👦 \ufeff \u2028 \uffff \U0010ffff שלום"),
    "NUL": ChatMessage("a\0b\0", name="\0", metadata={"\0": "\0"}),
    "controls": ChatMessage("".join(map(chr, range(32))) + "\x7f\x85"),
    "like JSON": ChatMessage('{"v":1}', metadata={"text": "[]", "null": "null", "quote": '"\\'}),
    "roles": ChatMessage("x", "a role of nobody's"),
    "system": ChatMessage("x", "system"),
    "developer": ChatMessage("x", "developer"),
    "names": ChatMessage("x", "user", name="Ada", tool_call_id="call_1"),
    "empty names": ChatMessage("x", name="", tool_call_id=""),
    "an id": ChatMessage("x", id="an id / of {nobody's} \U0001f99c"),
    "a long id": ChatMessage("x", id="i" * 4_000),
    "microseconds": ChatMessage(created_at=datetime(2024, 2, 29, 12, 30, 59, 123456, UTC)),
    "early": ChatMessage(created_at=datetime(1970, 1, 1, tzinfo=UTC)),
    "before 1970": ChatMessage(created_at=datetime(1901, 5, 6, 7, 8, 9, 10, UTC)),
    "late": ChatMessage(created_at=datetime(9999, 12, 31, 23, 59, 59, 999999, UTC)),
    "east": ChatMessage(
        created_at=datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    ),
    "west": ChatMessage(created_at=datetime(2024, 1, 1, tzinfo=timezone(-timedelta(hours=9.5)))),
    "true and one": ChatMessage(metadata={"true": True, "one": 1, "float": 1.0, "false": False}),
    "zeros": ChatMessage(metadata={"int": 0, "float": 0.0, "minus": -0.0, "none": None, "": ""}),
    "floats": ChatMessage(
        metadata={"all": [0.1, 1 / 3, 1e308, -1e308, 5e-324, 1e16, 1e22, 1e-7, 123456789.0]}
    ),
    "integers": ChatMessage(
        metadata={
            "all": [2**31, -(2**31) - 1, 2**53, 2**53 + 1, 2**63, -(2**63) - 1, 2**64, 10**50]
        }
    ),
    "4300 digits": ChatMessage(metadata={"plus": 10**4300 - 1, "minus": -(10**4300) + 1}),
    "lists": ChatMessage(metadata={"all": [[], [[]], [1, [2, [3]]], {}, [{}], [None]]}),
    "100 lists": ChatMessage(metadata={"deep": nested(100, in_list)}),
    "100 dicts": ChatMessage(extras={"deep": nested(100, in_dict)}),
    "many names": ChatMessage(metadata={f"name {number}": number for number in range(1_000)}),
    "names in no order": ChatMessage(metadata={"b": 1, "a": 2, "é": 3, "": 4, "a.b": 5, "$x": 6}),
    "extras": ChatMessage(extras={"openai": {"refusal": None}, "other": {"n": [1.0, True]}}),
    "blocks": ChatMessage(
        [
            TextBlock(text="a"),
            ImageBlock(data=bytes(range(256)), mimetype="image/png", detail="low"),
            ImageBlock(url="https://example.org/ü?a=b#c"),
            ImageBlock(path="/tmp/a b.png"),
            ImageBlock(data=b""),
            AudioBlock(data=b"\0\xff", format="wav"),
            VideoBlock(url="https://example.org/v", mimetype="video/mp4"),
            DocumentBlock(data=b"%PDF", title="ä.pdf"),
            ThinkingBlock(text="hm", signature="s" * 100),
            ThinkingBlock(),
            TextBlock(text="b"),
        ],
        "assistant",
    ),
    "tool calls": ChatMessage(
        [
            TextBlock(text="let me see"),
            ToolCallBlock(id="call_1", name="search", arguments={"q": "x", "n": 1.0, "deep": [{}]}),
            ToolCallBlock(id="call_2", name="search", arguments='{"q": "cut off'),
            ToolCallBlock(id=None, name="none"),
            ToolCallBlock(id="call_3", name="deep", arguments=nested(100, in_dict)),
        ],
        "assistant",
    ),
    "a tool's result": ChatMessage('{"ok": true}', "tool", tool_call_id="call_1"),
    "unknown blocks": ChatMessage(
        [
            unknown("hologram", depth=3, data={"a": [1, 1.0, True, None]}),
            {"type": "citation", "text": "x", "of": {"\0": "\0"}},
            unknown(""),
        ],
        "assistant",
    ),
    "unknown fields": ChatMessage(
        [
            TextBlock(text="x", cache_control={"type": "ephemeral", "ttl": 1.0}),  # type: ignore[call-arg]
            ToolCallBlock(name="x", id="1", index=True, index_float=0.0),  # type: ignore[call-arg]
            ImageBlock(url="x", width=2**70, alt=None),  # type: ignore[call-arg]
        ]
    ),
}


def typed(value: Any) -> Any:
    """A value with its types in it, so that 1, 1.0 and True differ, and 0.0 and -0.0."""
    if isinstance(value, dict):
        return {name: typed(item) for name, item in value.items()}
    if isinstance(value, list):
        return [typed(item) for item in value]
    if isinstance(value, datetime):
        return value, value.utcoffset()
    return type(value), repr(value) if isinstance(value, float) else value


def assert_same(found: ChatMessage, expected: ChatMessage) -> None:
    """The messages are equal, types included."""
    assert found == expected
    assert type(found) is ChatMessage
    assert typed(found.model_dump()) == typed(expected.model_dump())
    if isinstance(expected.content, list):
        assert isinstance(found.content, list)
        assert list(map(type, found.content)) == list(map(type, expected.content))


@pytest.mark.clause("M1")
@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)
def test_m1_a_message_comes_back_equal(api: Api, message: ChatMessage) -> None:
    api.add_message("k", message)
    [found] = api.get_messages("k")
    assert_same(found, message)
    assert_same(api.page("k").messages[0], message)
    removed = api.delete_last_message("k")
    assert removed is not None
    assert_same(removed, message)


@pytest.mark.clause("M1")
def test_m1_messages_come_back_equal_by_every_way(api: Api) -> None:
    some = list(MESSAGES.values())
    api.add_messages("batch", some)
    api.set_messages("set", some)
    api.set_messages("edited", [ChatMessage("x", id=message.id) for message in some])
    for message in some:
        api.replace_message("edited", message)
    for key in ["batch", "set", "edited"]:
        for found, expected in zip(api.get_messages(key), some, strict=True):
            assert_same(found, expected)
        for found, expected in zip(api.delete_oldest(key, len(some)), some, strict=True):
            assert_same(found, expected)


@pytest.mark.clause("M1")
def test_m1_every_character(api: Api) -> None:
    step = 100_000
    parts = [EVERY_CHARACTER[n : n + step] for n in range(0, len(EVERY_CHARACTER), step)]
    add_texts(api, "k", *parts)
    assert texts(api, "k") == parts


@pytest.mark.clause("M1")
def test_m1_a_message_keeps_what_only_it_had(api: Api) -> None:
    message = ChatMessage("x")
    api.add_message("k", message)
    [found] = api.get_messages("k")
    assert found.id == message.id
    assert found.created_at == message.created_at
    assert found.created_at.tzinfo is not None


REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "lone surrogate in the text": ("content", {"content": "a\ud800b"}),
    "lone surrogate in the name": ("name", {"name": "\udfff"}),
    "lone surrogate in a tool_call_id": ("tool_call_id", {"tool_call_id": "\ud800"}),
    "lone surrogate in a block": ("content[0].text", {"content": [TextBlock(text="\ud800")]}),
    "lone surrogate in an unknown block": (
        "content[1].a",
        {"content": [TextBlock(text="x"), unknown("x", a={"b": "\ud800"})]},
    ),
    "lone surrogate in a call": (
        "content[0].arguments",
        {"content": [ToolCallBlock(name="x", arguments={"q": "\ud800"})]},
    ),
    "lone surrogate in a value": ("metadata.a", {"metadata": {"a": "\ud800"}}),
    "lone surrogate in a key": ("metadata", {"metadata": {"\ud800": 1}}),
    "lone surrogate deep in extras": ("extras.a", {"extras": {"a": [{"\udc00": 1}]}}),
    "NaN": ("metadata.a", {"metadata": {"a": float("nan")}}),
    "infinity": ("metadata.a", {"metadata": {"a": [float("inf")]}}),
    "minus infinity": ("extras.a", {"extras": {"a": {"b": float("-inf")}}}),
    "NaN in an unknown block": (
        "content[0].a",
        {"content": [unknown("x", a=float("nan"))]},
    ),
    "NaN in an unknown field": (
        "content[0].a",
        {"content": [TextBlock(text="x", a=float("nan"))]},  # type: ignore[call-arg]
    ),
    "102 lists": ("metadata", {"metadata": {"a": nested(102, in_list)}}),
    "102 dicts": ("extras", {"extras": {"a": nested(102, in_dict)}}),
    "1000 lists": ("metadata", {"metadata": {"a": nested(1_000, in_list)}}),
    "a tuple": ("metadata.a", {"metadata": {"a": (1, 2)}}),
    "a set": ("metadata.a", {"metadata": {"a": {1}}}),
    "bytes": ("metadata.a", {"metadata": {"a": b"x"}}),
    "bytes in an unknown block": ("content[0].a", {"content": [unknown("x", a=b"x")]}),
    "an integer key": ("metadata", {"metadata": {"a": {1: 2}}}),
    "a None key": ("metadata", {"metadata": {"a": {None: 2}}}),
    "a bool key": ("extras", {"extras": {"a": {True: 2}}}),
    "a time": ("metadata.a", {"metadata": {"a": datetime(2024, 1, 1, tzinfo=UTC)}}),
    "an object": ("metadata.a", {"metadata": {"a": object()}}),
    "a complex number": ("metadata.a", {"metadata": {"a": 1j}}),
    "4301 digits": ("metadata.a", {"metadata": {"a": 10**4300}}),
    "minus 4301 digits": ("metadata.a", {"metadata": {"a": -(10**4300)}}),
}


@pytest.mark.clause("M2")
@pytest.mark.parametrize(("field", "values"), REFUSED.values(), ids=REFUSED)
def test_m2_what_would_not_come_back_equal_is_refused(
    api: Api, field: str, values: dict[str, Any]
) -> None:
    some = messages("1", "2")
    api.add_messages("k", some)
    bad = ChatMessage(id=some[0].id, **values)
    writes: list[Callable[[], Any]] = [
        lambda: api.add_message("k", bad),
        lambda: api.add_messages("k", [*messages("new"), bad, *messages("new")]),
        lambda: api.set_messages("k", [bad]),
        lambda: api.replace_message("k", bad),
        lambda: api.add_message("new", bad),
    ]
    with unchanged(api, "k"):
        for write in writes:
            with pytest.raises(InvalidMessageError) as caught:
                write()
            assert field in str(caught.value)
    assert api.get_session("new") is None


@pytest.mark.clause("M2")
def test_m2_empty_content_is_content(api: Api) -> None:
    some = [ChatMessage(""), ChatMessage(None), ChatMessage([]), ChatMessage([TextBlock(text="")])]
    assert api.add_messages("k", some).added == 4
    found = api.get_messages("k")
    assert [message.content for message in found] == ["", None, [], [TextBlock(text="")]]
    assert api.count_messages("k") == 4
    assert api.delete_last_message("k") == some[3]


@pytest.mark.clause("M2")
@pytest.mark.parametrize("wrong", [None, "text", {"role": "user", "content": "x"}, 1, [], object()])
def test_m2_a_message_is_a_chat_message(api: Api, wrong: Any) -> None:
    for write in [api.add_message, api.replace_message]:
        with pytest.raises(InvalidMessageError):
            write("k", wrong)
    assert api.get_session("k") is None


@pytest.mark.clause("M3")
def test_m3_a_message_of_3_mib(api: Api) -> None:
    large = ChatMessage("é" * (3 * MIB // 2))
    small = ChatMessage("small")
    api.add_messages("k", [large, small])
    assert api.get_messages("k") == [large, small]
    assert api.get_messages("k", first=1) == [large]
    api.set_messages("k", [small, large])
    assert api.page("k", limit=1).messages == [large]
    assert api.delete_last_message("k") == large
    api.replace_message("k", changed := ChatMessage("x" * 3 * MIB, id=small.id))
    assert api.get_messages("k") == [changed]


@pytest.mark.clause("M3")
def test_m3_a_batch_of_1000_messages_of_1_kib(api: Api) -> None:
    batch = messages(*(f"{number:04}" * 256 for number in range(1_000)))
    assert api.add_messages("k", batch).added == 1_000
    assert api.get_messages("k") == batch
    assert api.count_messages("k") == 1_000
    api.set_messages("k", batch[::-1])
    assert api.get_messages("k") == batch[::-1]
    assert api.delete_oldest("k", 999) == batch[:0:-1]
    assert api.get_messages("k") == batch[:1]


@pytest.mark.clause("M3")
def test_m3_a_message_past_the_limit(api: Api) -> None:
    limit = api.capabilities.max_message_bytes
    assert limit >= 3 * MIB
    [first] = messages("1")
    api.add_message("k", first)
    empty = ChatMessage("", id=first.id)
    text = "x" * (limit + 1 - len(encode(empty)))
    larger = empty.model_copy(update={"content": text})
    writes: list[Callable[[], Any]] = [
        lambda: api.add_message("k", larger),
        lambda: api.add_messages("k", [*messages("2"), larger]),
        lambda: api.set_messages("k", [larger]),
        lambda: api.replace_message("k", larger),
    ]
    with unchanged(api, "k"):
        for write in writes:
            with pytest.raises(MessageTooLargeError) as caught:
                write()
            assert (caught.value.size, caught.value.limit) == (limit + 1, limit)


@pytest.mark.clause("M3")
def test_m3_the_largest_message(api: Api) -> None:
    empty = ChatMessage("")
    text = "x" * (api.capabilities.max_message_bytes - len(encode(empty)))
    largest = empty.model_copy(update={"content": text})
    assert api.add_message("k", largest).added == 1
    assert api.get_messages("k") == [largest]


@pytest.mark.clause("M3")
def test_m3_a_batch_past_the_limit(api: Api) -> None:
    limit = api.capabilities.max_batch_bytes
    assert limit >= 1_000 * 1_024
    size = min(api.capabilities.max_message_bytes, limit // 2) - 1_000
    batch = [ChatMessage("x" * size) for _ in range(limit // size + 1)]
    with pytest.raises(MessageTooLargeError) as caught:
        api.add_messages("k", batch)
    assert caught.value.limit == limit
    assert caught.value.size == sum(len(encode(message)) for message in batch)
    assert api.get_session("k") is None
