"""Messages to bytes and back: what comes back equal, what is refused, and by which name."""

from __future__ import annotations

import contextlib
import json
import math
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
from chatstores.codec import (
    MAX_DEPTH,
    MAX_METADATA_BYTES,
    Unreadable,
    decode,
    decode_metadata,
    decode_one,
    encode,
    encode_metadata,
)
from chatstores.errors import InvalidMessageError
from tests.core.strategies import json_objects, json_values, same, texts

UTC = timezone.utc  # noqa: UP017


def back(message: ChatMessage) -> ChatMessage:
    """The message after a stay in a store; by one and by many, which must agree."""
    payload = encode(message)
    one = decode_one(payload)
    assert decode([payload, payload]) == [one, one]
    return one


def kept(message: ChatMessage) -> None:
    """It comes back equal, types included."""
    again = back(message)
    assert again == message
    assert again.created_at.utcoffset() == message.created_at.utcoffset()
    assert same(dumped(again), dumped(message))


def dumped(message: ChatMessage) -> dict[str, Any]:
    return message.model_dump(exclude={"created_at"})


def nested(depth: int, kind: str) -> Any:
    """So many lists or dicts in each other."""
    value: Any = 1
    for _ in range(depth):
        value = [value] if kind == "list" else {"k": value}
    return value


# M1: every message comes back equal.

media = st.sampled_from([ImageBlock, AudioBlock, VideoBlock, DocumentBlock])
some_text = st.none() | texts
blocks = (
    st.builds(TextBlock, text=texts)
    | st.builds(
        lambda kind, **fields: kind(**fields),
        media,
        data=st.none() | st.binary(max_size=20),
        url=some_text,
        path=some_text,
        mimetype=some_text,
    )
    | st.builds(ThinkingBlock, text=some_text, signature=some_text)
    | st.builds(ToolCallBlock, id=some_text, name=texts, arguments=texts | json_objects)
    | json_objects.map(lambda fields: {**fields, "type": "from_tomorrow"})
    | json_objects.map(lambda fields: {**fields, "type": "text", "text": "known"})
)
zones = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
messages = st.builds(
    ChatMessage,
    texts | st.none() | st.lists(blocks, max_size=4),
    st.sampled_from(["user", "assistant", "tool"]) | texts.filter(bool),
    name=some_text,
    tool_call_id=some_text,
    created_at=st.datetimes(
        min_value=datetime(2, 1, 1), max_value=datetime(9998, 1, 1), timezones=zones
    ),
    metadata=json_objects,
    extras=json_objects,
)


@settings(max_examples=150, deadline=None)
@given(messages)
def test_m1_every_message_comes_back_equal(message: ChatMessage) -> None:
    kept(message)


@settings(max_examples=100, deadline=None)
@given(json_values)
def test_m1_every_json_value_comes_back_in_every_place(value: Any) -> None:
    block: Any = {"type": "from_tomorrow", "field": value}
    call = ToolCallBlock(name="f", arguments={"a": value})
    message = ChatMessage(
        [block, {"type": "text", "text": "t", "new": value}, call],
        metadata={"m": value},
        extras={"e": {"x": value}},
    )
    kept(message)
    content: Any = back(message).content
    assert isinstance(content[0], UnknownBlock)
    assert same(content[0].model_extra, {"field": value})
    assert same(content[1].model_extra, {"new": value})
    assert same(content[2].arguments, {"a": value})
    assert same(decode_metadata(encode_metadata({"v": value})), {"v": value})


@pytest.mark.parametrize(
    "value",
    [
        True,
        False,
        None,
        0,
        1,
        -1,
        1.0,
        0.0,
        -0.0,
        0.1,
        5e-324,
        1.7976931348623157e308,
        1e16,
        1e22,
        2**53 + 1,
        2**63,
        2**64,
        -(2**64),
        10**4300 - 1,
        -(10**4300 - 1),
        "",
        "\0",
        "\x7f\x85\u2028\u2029\ufeff\uffff",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467",
        "é",
        "e\u0301",
        '"\\/\b\f\n\r\t',
        "]}",
        [],
        {},
        [[]],
        {"": {}},
        {"v": 1, "id": 2, "__class__": 3},
        [True, 1, 1.0],
    ],
    ids=lambda value: repr(value)[:20],
)
def test_m1_by_name(value: Any) -> None:
    kept(ChatMessage("x", metadata={"k": value}, extras={"k": value}))
    kept(ChatMessage([{"type": "from_tomorrow", "k": value}]))
    assert same(back(ChatMessage("x", metadata={"k": value})).metadata, {"k": value})


@pytest.mark.parametrize("kind", ["list", "dict"])
def test_m1_nesting_up_to_100(kind: str) -> None:
    value = nested(MAX_DEPTH, kind)
    kept(ChatMessage("x", metadata={"k": value}, extras={"k": value}))
    kept(ChatMessage([{"type": "from_tomorrow", "k": value}]))
    kept(ChatMessage([ToolCallBlock(name="f", arguments={"k": value})]))
    assert same(decode_metadata(encode_metadata({"k": value})), {"k": value})


def test_m1_the_order_of_keys_stays() -> None:
    message = ChatMessage("x", metadata={"z": 1, "a": 2, "m": {"q": 1, "b": 2}})
    assert list(back(message).metadata) == ["z", "a", "m"]
    assert list(back(message).metadata["m"]) == ["q", "b"]


@pytest.mark.parametrize(
    "message",
    [
        ChatMessage(""),
        ChatMessage(None),
        ChatMessage([]),
        ChatMessage("", name="", tool_call_id=""),
        ChatMessage([TextBlock(text="")]),
        ChatMessage([ToolCallBlock(name="", arguments={})]),
        ChatMessage([ToolCallBlock(name="f", arguments="")]),
        ChatMessage([ImageBlock()]),
        ChatMessage([ImageBlock(data=b"")]),
        ChatMessage([ThinkingBlock()]),
    ],
    ids=repr,
)
def test_m2_empty_content_is_content(message: ChatMessage) -> None:
    again = back(message)
    assert again == message
    assert type(again.content) is type(message.content)
    assert (again.name, again.tool_call_id) == (message.name, message.tool_call_id)


def test_m1_bytes_of_every_value() -> None:
    every = bytes(range(256))
    for size in (0, 1, 2, 3, 256):
        kept(ChatMessage([ImageBlock(data=every[:size])]))


@pytest.mark.parametrize(
    "moment",
    [
        datetime.min.replace(tzinfo=UTC),
        datetime.max.replace(tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999999, UTC),
        datetime(2024, 2, 29, 12, 0, 0, 1, timezone(timedelta(hours=5, minutes=45))),
        datetime(2024, 1, 1, tzinfo=timezone(-timedelta(hours=23, minutes=59))),
    ],
    ids=str,
)
def test_m1_times(moment: datetime) -> None:
    kept(ChatMessage("x", created_at=moment))


@pytest.mark.parametrize("fold", [0, 1])
def test_m1_the_hour_in_which_summer_time_ends(fold: int) -> None:
    zone = ZoneInfo("Europe/Berlin")
    moment = datetime(2024, 10, 27, 2, 30, tzinfo=zone, fold=fold)
    again = back(ChatMessage("x", created_at=moment))
    assert again.created_at.astimezone(UTC) == moment.astimezone(UTC)


def test_m2_a_time_zone_of_odd_seconds_is_kept_or_named() -> None:
    moment = datetime(1900, 1, 1, tzinfo=timezone(timedelta(minutes=19, seconds=32)))
    try:
        kept(ChatMessage("x", created_at=moment))
    except InvalidMessageError as error:
        assert "created_at" in str(error)  # noqa: PT017


# M2: what would not come back is refused, with its name.

UNSTORABLE: list[tuple[Any, str]] = [
    ((1, 2), "tuple"),
    ({1}, "set"),
    (frozenset(), "frozenset"),
    (b"x", "bytes"),
    (bytearray(b"x"), "bytearray"),
    (math.nan, "nan"),
    (math.inf, "inf"),
    (-math.inf, "inf"),
    (10**4300, "4,300 digits"),
    (-(10**4300), "4,300 digits"),
    ("\ud800", "lone surrogate"),
    ("a\udfff", "lone surrogate at character 1"),
    ({"\ud800": 1}, "lone surrogate"),
    ({1: 2}, "the key 1 of type int"),
    ({None: 2}, "the key None"),
    ({True: 2}, "the key True"),
    (datetime(2024, 1, 1, tzinfo=UTC), "datetime"),
    (Decimal(1), "Decimal"),
    (OrderedDict(a=1), "OrderedDict"),
    (object(), "object"),
    (TextBlock(text="x"), "TextBlock"),
    (1j, "complex"),
    (nested(MAX_DEPTH + 2, "list"), "100 deep"),
    (nested(MAX_DEPTH + 2, "dict"), "100 deep"),
    (nested(5000, "list"), "100 deep"),
]
unstorable = pytest.mark.parametrize(
    ("value", "why"), UNSTORABLE, ids=[f"{why}-{n}" for n, (_, why) in enumerate(UNSTORABLE)]
)


def refusal(make: Callable[[], Any]) -> str:
    with pytest.raises(InvalidMessageError) as caught:
        make()
    return str(caught.value)


@unstorable
def test_m2_in_metadata(value: Any, why: str) -> None:
    text = refusal(lambda: encode(ChatMessage("x", metadata={"ok": 1, "bad": value})))
    assert "metadata" in text
    assert "bad" in text
    assert why in text


@unstorable
def test_m2_in_extras(value: Any, why: str) -> None:
    text = refusal(lambda: encode(ChatMessage("x", extras={"f": [0, {"bad": value}]})))
    assert "extras.f[1].bad" in text
    assert why in text


@unstorable
def test_m2_in_a_tool_call(value: Any, why: str) -> None:
    call = ToolCallBlock(name="f", arguments={"bad": value})
    text = refusal(lambda: encode(ChatMessage([TextBlock(text="t"), call])))
    assert "content[1].arguments.bad" in text
    assert why in text


@unstorable
def test_m2_in_an_unknown_block_and_an_unknown_field(value: Any, why: str) -> None:
    for block in (
        UnknownBlock(type="from_tomorrow", bad=value),  # type: ignore[call-arg]
        TextBlock(text="t", bad=value),  # type: ignore[call-arg]
    ):
        message = ChatMessage([TextBlock(text="t")])
        message.content = [block]
        text = refusal(lambda message=message: encode(message))  # type: ignore[misc]
        assert "content[0].bad" in text
        assert why in text


@unstorable
def test_m2_in_a_sessions_metadata(value: Any, why: str) -> None:
    text = refusal(lambda: encode_metadata({"bad": value}))
    assert "metadata" in text
    assert "bad" in text
    assert why in text


def test_m2_a_circle() -> None:
    circle: dict[str, Any] = {}
    circle["self"] = circle
    assert "100 deep" in refusal(lambda: encode(ChatMessage("x", metadata=circle)))
    assert "100 deep" in refusal(lambda: encode_metadata(circle))


@pytest.mark.parametrize("field", ["content", "role", "name", "tool_call_id", "id"])
def test_m2_a_lone_surrogate_in_a_field(field: str) -> None:
    message = ChatMessage("x")
    message.__dict__[field] = "a\ud800"
    assert field in refusal(lambda: encode(message))


@pytest.mark.parametrize(
    ("content", "where"),
    [
        ([TextBlock(text="x"), "text"], "content[1]"),
        ([{"type": "text", "text": "x"}], "content[0]"),
        (5, "content"),
        (b"x", "content"),
        ((TextBlock(text="x"),), "content"),
    ],
)
def test_m2_content_put_in_behind_pydantics_back(content: Any, where: str) -> None:
    message = ChatMessage("x")
    message.__dict__["content"] = content
    assert where in refusal(lambda: encode(message))


def test_m2_a_block_that_was_changed_to_a_wrong_type_is_named() -> None:
    message = ChatMessage([TextBlock(text="x"), TextBlock(text="y")])
    message.content[1].text = 5  # type: ignore[index, union-attr, assignment]
    assert "content[1].text" in refusal(lambda: encode(message))


@pytest.mark.parametrize("field", ["id", "role"])
def test_m2_an_empty_role_or_id_that_nobody_checked_is_refused(field: str) -> None:
    """model_copy checks nothing; stored, such a message could never be read again."""
    refusal(lambda: encode(ChatMessage("x").model_copy(update={field: ""})))


def test_m2_a_subclass_of_a_block_is_refused() -> None:
    class Mine(TextBlock):
        mine: int = 1

    refusal(lambda: encode(ChatMessage([Mine(text="x")])))


def test_m2_only_a_chat_message_is_a_message() -> None:
    class Mine(ChatMessage):
        pass

    for thing in ("text", None, {"content": "x"}, Mine("x"), object()):
        assert "must be a ChatMessage" in refusal(lambda thing=thing: encode(thing))  # type: ignore[misc]


def test_m2_a_refused_message_shows_none_of_its_text() -> None:
    text = refusal(lambda: encode(ChatMessage("my secret", metadata={"k": ("my secret",)})))
    assert "my secret" not in text


# encode changes nothing, and its bytes stay as they are.


@settings(max_examples=50, deadline=None)
@given(messages)
def test_encode_changes_nothing_and_says_the_same_again(message: ChatMessage) -> None:
    before = message.model_copy(deep=True)
    first = encode(message)
    assert encode(message) == first
    assert message == before
    assert same(dumped(message), dumped(before))
    assert message.model_fields_set == before.model_fields_set
    assert encode(decode_one(first)) == first


def test_the_bytes_of_format_1() -> None:
    """A stored history outlives the code: these bytes must be readable for ever."""
    message = ChatMessage(
        "hi", id="0", created_at=datetime(2024, 1, 2, 3, 4, 5, 678901, UTC), name="n"
    )
    stored = (
        b'{"v":1,"id":"0","role":"user","content":"hi","name":"n",'
        b'"created_at":"2024-01-02T03:04:05.678901Z"}'
    )
    assert encode(message) == stored
    assert decode_one(stored) == message


def test_a_record_is_one_json_object_that_names_its_version_first() -> None:
    value = json.loads(encode(ChatMessage([ImageBlock(data=b"x")])))
    assert next(iter(value.items())) == ("v", 1)
    assert value["content"][0]["data"] == "eA=="


def test_empty_fields_take_no_bytes_and_come_back_as_defaults() -> None:
    value = json.loads(encode(ChatMessage("x")))
    assert set(value) == {"v", "id", "role", "content", "created_at"}
    again = back(ChatMessage("x"))
    assert (again.name, again.tool_call_id, again.metadata, again.extras) == (None, None, {}, {})


def test_what_is_decoded_shares_nothing() -> None:
    payload = encode(ChatMessage("x", metadata={"k": [1]}))
    one, other = decode([payload, payload])
    one.metadata["k"].append(2)
    one.extras["x"] = 1
    assert other.metadata == {"k": [1]}
    assert other.extras == {}


# M4: what is not readable.

GOOD = encode(ChatMessage("x", metadata={"k": "v"}))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"{}",
        b"null",
        b"[]",
        b"[1]",
        b"1",
        b'"text"',
        b'{"v":1}',
        b'{"v":"1"}',
        b'{"v":0,"id":"a","role":"user","content":"x"}',
        b'{"v":null}',
        b'{"v":1,',
        b'{"v":1,"content":',
        b"\xff\xfe",
        GOOD[:-1],
        GOOD[:20],
        GOOD[1:],
        GOOD + b"}",
        GOOD + GOOD,
        GOOD + b"," + GOOD,
        GOOD.replace(b'"x"', b'"\xff"'),
        GOOD.replace(b'"user"', b"5"),
        GOOD.replace(b'"x"', b"5"),
        GOOD.replace(b'"x"', b'[{"text":"no type"}]'),
        GOOD.replace(b'"metadata"', b'"metadatum"'),
    ],
    ids=lambda payload: repr(payload)[:30],
)
def test_m4_garbage_is_not_readable(payload: bytes) -> None:
    with pytest.raises(Unreadable, match="not readable"):
        decode_one(payload)
    for payloads in ([payload], [GOOD, payload], [payload, GOOD]):
        with pytest.raises(Unreadable):
            decode(payloads)


def test_m4_two_halves_do_not_make_two_records() -> None:
    for halves in (
        [b'{"v":1,"content":"a"', b'{"v":1,"content":"b"}'],
        [b'{"v":1,"metadata":{"x":[', b'{"v":1,"content":"b"}]}}'],
        [b'{"v":1,"content":"a"},{"content":"b"}'],
    ):
        with pytest.raises(Unreadable):
            decode(halves)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=30) | st.binary(max_size=30).map(b'{"v":1,'.__add__))
def test_m4_any_bytes_are_a_message_or_unreadable(payload: bytes) -> None:
    with contextlib.suppress(Unreadable):
        assert isinstance(decode_one(payload), ChatMessage)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(GOOD) - 1))
def test_m4_a_torn_record_is_not_readable(size: int) -> None:
    with pytest.raises(Unreadable):
        decode_one(GOOD[:size])


@pytest.mark.parametrize(
    "field",
    [
        "id",
        pytest.param("created_at"),
    ],
)
def test_m4_a_record_without_its_id_or_time_is_not_readable(field: str) -> None:
    value = json.loads(GOOD)
    del value[field]
    payload = json.dumps(value, separators=(",", ":")).encode()
    for read in (decode_one, lambda payload: decode([GOOD, payload])):
        with pytest.raises(Unreadable):
            read(payload)


@pytest.mark.parametrize(
    "payload", [b'{"v":2,"id":"a"}', b'{"v":2}', b'{"v": 2, "x": []}', b'{"x":1,"v":2}']
)
def test_m4_a_newer_format_says_so(payload: bytes) -> None:
    with pytest.raises(Unreadable, match=r"format 2 .* newer version .*upgrade chatstores"):
        decode_one(payload)
    with pytest.raises(Unreadable):
        decode([GOOD, payload])


def test_decode_of_nothing() -> None:
    assert decode([]) == []


# A session's metadata.


def test_w13_metadata_of_up_to_16_kib() -> None:
    fits = {"k": "x" * (MAX_METADATA_BYTES - 8)}
    assert len(encode_metadata(fits)) == MAX_METADATA_BYTES == 16 * 1024
    assert decode_metadata(encode_metadata(fits)) == fits
    assert "16,385" in refusal(lambda: encode_metadata({"k": "x" * (MAX_METADATA_BYTES - 7)}))


def test_w13_its_size_is_counted_in_bytes() -> None:
    refusal(lambda: encode_metadata({"k": "é" * (MAX_METADATA_BYTES // 2)}))


@pytest.mark.parametrize("value", [None, [], "x", 1, OrderedDict(a=1)])
def test_w13_metadata_is_a_dict(value: Any) -> None:
    assert "metadata must be a dict" in refusal(lambda: encode_metadata(value))


@pytest.mark.parametrize("text", [b"", b"[]", b"null", b"{", b"\xff", b"1"])
def test_m4_metadata_that_is_not_readable(text: bytes) -> None:
    with pytest.raises(Unreadable, match="metadata"):
        decode_metadata(text)
