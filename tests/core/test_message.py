"""ChatMessage, its blocks, and their form in OpenAI's Chat Completions."""

from __future__ import annotations

import copy
import time
import uuid
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

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
from chatstores.codec import decode_one, encode
from tests.core.strategies import json_values, same, texts

UTC = timezone.utc  # noqa: UP017

# The constructor.


@pytest.mark.parametrize("content", ["user", "assistant", "system", "developer", "tool"])
def test_text_and_role_in_the_wrong_order(content: str) -> None:
    with pytest.warns(UserWarning, match=rf"is ChatMessage\(..., '{content}'\) meant\?") as caught:
        message = ChatMessage(content, "Hi!")
    assert caught[0].filename == __file__
    assert (message.text, message.role) == (content, "Hi!")  # it is a message all the same


def test_no_other_text_or_role_is_warned_of() -> None:
    for content in ["user", "tool", "Hi!", "", None, [TextBlock(text="user")]]:
        for role in ["user", "assistant", "tool"]:
            ChatMessage(content, role)
    ChatMessage("Hi!", "moderator")
    ChatMessage(None, "moderator")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (5, "content\n  Input should be text, a list of blocks, or None [type"),
        (b"x", "content\n  Input should be text, a list of blocks, or None [type"),
        ({"role": "user"}, "or None; from_openai() takes a message of OpenAI's [type"),
        (["x"], "content.0\n  Input should be a block, such as TextBlock(text=...) [type"),
        ([TextBlock(text="x"), {"type": "text"}], "content.1.text\n  Field required [type"),
        (({"type": "text", "text": 1},), "content.0.text\n  Input should be a valid string [type"),
    ],
)
def test_a_wrong_content_is_said_in_one_line(content: Any, said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ChatMessage(content)
    assert caught.value.error_count() == 1
    assert said in str(caught.value)
    assert "input_value" not in str(caught.value)
    with pytest.raises(ValidationError) as caught:
        ChatMessage(content, 5)  # type: ignore[arg-type]
    assert {error["loc"][0] for error in caught.value.errors()} == {"content", "role"}


def test_a_text_is_a_users() -> None:
    message = ChatMessage("hi")
    assert (message.role, message.content, message.text) == ("user", "hi", "hi")
    assert (message.name, message.tool_call_id, message.metadata, message.extras) == (
        None,
        None,
        {},
        {},
    )
    assert datetime.now(UTC) - message.created_at < timedelta(seconds=5)
    assert message.created_at.tzinfo is not None


def test_content_and_role_by_place_or_by_name() -> None:
    by_place = ChatMessage("hi", "system", id="1")
    by_name = ChatMessage(role="system", content="hi", id="1", created_at=by_place.created_at)
    assert by_place == by_name
    assert ChatMessage().content is None


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool", "narrator"])
def test_any_role_that_is_not_empty(role: str) -> None:
    assert ChatMessage("x", role).role == role


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"role": ""}, "role"),
        ({"role": None}, "role"),
        ({"id": ""}, "id"),
        ({"id": 5}, "id"),
        ({"content": 5}, "content"),
        ({"content": b"bytes"}, "content"),
        ({"content": {"type": "text", "text": "x"}}, "content"),
        ({"content": ["x"]}, "content"),
        ({"content": [{"text": "no type"}]}, "content"),
        ({"content": [{"type": 5}]}, "content"),
        ({"content": [{"type": "text"}]}, "content"),
        ({"content": [{"type": "tool_call"}]}, "content"),
        ({"content": [{"type": "tool_call", "name": "f", "arguments": 5}]}, "content"),
        ({"content": [{"type": "image", "data": "text is no bytes"}]}, "content"),
        ({"name": 5}, "name"),
        ({"tool_call_id": 5}, "tool_call_id"),
        ({"created_at": datetime(2024, 1, 1)}, "created_at"),
        ({"created_at": "yesterday"}, "created_at"),
        ({"metadata": []}, "metadata"),
        ({"metadata": None}, "metadata"),
        ({"extras": "x"}, "extras"),
        ({"mood": "good"}, "mood"),
    ],
    ids=repr,
)
def test_what_is_wrong_is_named(fields: dict[str, Any], where: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ChatMessage(**fields)
    assert all(error["loc"][0] == where for error in caught.value.errors())


@pytest.mark.parametrize(
    "fields",
    [
        {"content": ["hunter2"]},
        {"content": [{"type": "text", "text": ["hunter2"]}]},
        {"content": [{"type": "image", "data": "hunter2"}]},
        {"metadata": "hunter2"},
        {"created_at": "hunter2"},
        {"name": ["hunter2"]},
        {"mood": "hunter2"},
    ],
    ids=repr,
)
def test_u6_inputs_are_hidden_in_errors(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        ChatMessage(**fields)
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(caught.value)


def test_u6_inputs_are_hidden_when_a_block_is_made_or_a_field_assigned() -> None:
    message = ChatMessage("x")
    with pytest.raises(ValidationError) as assigned:
        message.metadata = "hunter2"  # type: ignore[assignment]
    with pytest.raises(ValidationError) as made:
        TextBlock(text=["hunter2"])  # type: ignore[arg-type]
    assert "hunter2" not in f"{assigned.value}{made.value}"


def test_assignment_is_checked() -> None:
    message = ChatMessage("x")
    message.content = [{"type": "text", "text": "y"}]  # type: ignore[list-item]
    assert message.content == [TextBlock(text="y")]
    with pytest.raises(ValidationError):
        message.role = ""


def test_a_lone_surrogate_in_a_role_is_refused_at_once() -> None:
    with pytest.raises(ValidationError):
        ChatMessage("x", "\ud800")


def test_messages_are_equal_by_all_that_they_hold() -> None:
    one = ChatMessage("x")
    assert one == one.model_copy(deep=True)
    assert one != ChatMessage("x")  # another id


def test_defaults_are_not_shared() -> None:
    one, other = ChatMessage("x"), ChatMessage("x")
    one.metadata["k"] = 1
    one.extras["k"] = 1
    assert other.metadata == {}
    assert other.extras == {}


# The id.


def test_an_id_is_a_uuid_version_7() -> None:
    before = time.time_ns() // 1_000_000
    text = ChatMessage("x").id
    after = time.time_ns() // 1_000_000
    number = uuid.UUID(text)
    assert str(number) == text
    assert (number.version, number.variant) == (7, uuid.RFC_4122)
    assert before <= number.int >> 80 <= after


def test_ids_are_in_the_order_of_time_by_the_millisecond() -> None:
    ids = []
    for _ in range(5):
        ids.append(ChatMessage("x").id)
        time.sleep(0.0021)
    assert ids == sorted(ids)


def test_ids_are_never_the_same() -> None:
    assert len({ChatMessage("x").id for _ in range(5000)}) == 5000


def test_every_random_bit_of_an_id_is_used() -> None:
    numbers = [uuid.UUID(ChatMessage("x").id).int for _ in range(200)]
    random = (1 << 76) - 1 & ~(0xF << 76) & ~(0b11 << 62)
    ones = zeros = 0
    for number in numbers:
        ones |= number
        zeros |= ~number
    assert ones & random == random
    assert zeros & random == random


# Blocks.


@pytest.mark.parametrize(
    ("form", "block"),
    [
        ({"type": "text", "text": "x"}, TextBlock(text="x")),
        ({"type": "image", "url": "u"}, ImageBlock(url="u")),
        ({"type": "audio", "path": "p"}, AudioBlock(path="p")),
        ({"type": "video", "mimetype": "video/mp4"}, VideoBlock(mimetype="video/mp4")),
        ({"type": "document", "title": "t"}, DocumentBlock(title="t")),
        ({"type": "thinking", "signature": "s"}, ThinkingBlock(signature="s")),
        (
            {"type": "tool_call", "id": "1", "name": "f", "arguments": {"a": 1}},
            ToolCallBlock(id="1", name="f", arguments={"a": 1}),
        ),
        ({"type": "hologram", "beams": 3}, UnknownBlock(type="hologram", beams=3)),
    ],
    ids=lambda value: str(value.get("type")) if isinstance(value, dict) else "",
)
def test_a_dict_becomes_the_block_of_its_type(form: dict[str, Any], block: Any) -> None:
    message = ChatMessage([form])
    assert message.content == [block]
    assert type(message.content[0]) is type(block)  # type: ignore[index]


def test_unknown_fields_of_a_known_block_are_kept() -> None:
    block = TextBlock(text="x", citations=[1])  # type: ignore[call-arg]
    assert block.model_extra == {"citations": [1]}
    assert block != TextBlock(text="x")


def test_a_tool_calls_arguments_stay_a_dict_or_a_string() -> None:
    assert ToolCallBlock(name="f", arguments="{ }").arguments == "{ }"
    assert ToolCallBlock(name="f", arguments={"a": True}).arguments == {"a": True}


def test_text_is_that_of_the_text_blocks() -> None:
    assert ChatMessage(None).text == ""
    assert ChatMessage([]).text == ""
    blocks = [
        TextBlock(text="a"),
        ImageBlock(url="u"),
        ThinkingBlock(text="hidden"),
        ToolCallBlock(name="f"),
        TextBlock(text="b"),
    ]
    assert ChatMessage(blocks).text == "a\nb"


def test_tool_calls_are_the_blocks_in_order() -> None:
    one, two = ToolCallBlock(id="1", name="f"), ToolCallBlock(id="2", name="f")
    assert ChatMessage([one, TextBlock(text="x"), two]).tool_calls == [one, two]
    assert ChatMessage("x").tool_calls == []
    assert ChatMessage().tool_calls == []


# OpenAI: from, then to, is equal.


def round_trip(wire: dict[str, Any]) -> ChatMessage:
    """There and back, also through a store; the dict that was given is not changed."""
    given_dict = copy.deepcopy(wire)
    message = ChatMessage.from_openai(given_dict)
    assert same(given_dict, wire)
    assert same(message.to_openai(), wire)
    assert same(decode_one(encode(message)).to_openai(), wire)
    assert same(message.to_openai(), wire), "to_openai() changed the message"
    return message


call = st.fixed_dictionaries(
    {
        "id": texts,
        "type": st.just("function"),
        "function": st.fixed_dictionaries({"name": texts, "arguments": texts}),
    }
)
odd_call = st.fixed_dictionaries(
    {"type": st.sampled_from(["function", "custom"])},
    optional={
        "id": st.none() | texts,
        "index": st.integers(),
        "function": st.fixed_dictionaries(
            {},
            optional={"name": st.none() | texts, "arguments": json_values, "strict": json_values},
        ),
        "custom": json_values,
    },
)
base64s = st.sampled_from(["", "eA==", "aGVsbG8=", "aGVsbG8", "eB==", "e A=", "\xe9", "data:x"])
part = st.one_of(
    st.fixed_dictionaries({"type": st.just("text"), "text": texts}),
    st.fixed_dictionaries(
        {"type": st.just("image_url")},
        optional={
            "image_url": texts
            | st.fixed_dictionaries(
                {"url": texts},
                optional={"detail": st.none() | texts | st.integers(), "more": json_values},
            )
        },
    ),
    st.fixed_dictionaries(
        {"type": st.just("input_audio")},
        optional={
            "input_audio": st.fixed_dictionaries(
                {"data": base64s}, optional={"format": st.none() | texts, "more": json_values}
            )
        },
    ),
    st.fixed_dictionaries(
        {"type": st.just("video_url"), "video_url": st.fixed_dictionaries({"url": texts})}
    ),
    st.fixed_dictionaries(
        {"type": st.just("file")},
        optional={
            "file": st.fixed_dictionaries(
                {}, optional={"file_data": texts, "filename": texts, "file_id": texts}
            )
        },
    ),
    st.fixed_dictionaries({"type": st.just("refusal"), "refusal": texts}),
    # Types of our own blocks, and of nobody's, with fields of any kind.
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(
                ["text", "image", "audio", "thinking", "tool_call", "document", "hologram", ""]
            )
        },
        optional=dict.fromkeys(
            ("text", "url", "data", "name", "self", "copy", "model_extra", "cls"), json_values
        ),
    ),
    json_values,
)
wires = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "developer", "user", "assistant", "tool", "function"])},
    optional={
        "content": texts | st.none() | st.lists(part, max_size=4) | json_values,
        "name": st.none() | texts | json_values,
        "tool_calls": st.none()
        | st.lists(call, max_size=3)
        | st.lists(call | odd_call, max_size=3)
        | json_values,
        "tool_call_id": st.none() | texts | json_values,
        "refusal": st.none() | texts,
        "annotations": st.lists(json_values, max_size=2),
        "function_call": st.none() | st.fixed_dictionaries({"name": texts, "arguments": texts}),
        "audio": st.none() | st.fixed_dictionaries({"id": texts}),
        "reasoning_content": texts,
        "id": json_values,
        "metadata": json_values,
    },
)


@settings(max_examples=300, deadline=None)
@given(wires)
def test_openai_from_then_to_is_equal(wire: dict[str, Any]) -> None:
    round_trip(wire)


WEATHER = {
    "id": "call_abc123",
    "type": "function",
    "function": {"name": "get_current_weather", "arguments": '{\n"location": "Boston, MA"\n}'},
}

#: As the API's reference and its answers show them.
EXAMPLES: dict[str, dict[str, Any]] = {
    "request": {"role": "user", "content": "Hello!"},
    "developer": {"role": "developer", "content": "You are a helpful assistant.", "name": "boss"},
    "answer": {
        "role": "assistant",
        "content": "Hello there, how may I assist you today?",
        "refusal": None,
        "annotations": [],
    },
    "answer of an SDK's model_dump": {
        "content": "Hi!",
        "refusal": None,
        "role": "assistant",
        "annotations": None,
        "audio": None,
        "function_call": None,
        "tool_calls": None,
    },
    "answer with calls": {"role": "assistant", "content": None, "tool_calls": [WEATHER]},
    "answer with calls and no content": {"role": "assistant", "tool_calls": [WEATHER]},
    "answer with text and calls": {
        "role": "assistant",
        "content": "Let me look.",
        "tool_calls": [WEATHER, {**WEATHER, "id": "call_2"}],
    },
    "tool": {"role": "tool", "tool_call_id": "call_abc123", "content": '{"celsius": 22}'},
    "refusal": {"role": "assistant", "content": None, "refusal": "I can't help with that."},
    "audio answer": {
        "role": "assistant",
        "content": None,
        "audio": {"id": "audio_abc", "expires_at": 1729018505, "data": "eA==", "transcript": "x"},
    },
    "search answer": {
        "role": "assistant",
        "content": "Yes.[1]",
        "annotations": [
            {
                "type": "url_citation",
                "url_citation": {
                    "start_index": 4,
                    "end_index": 7,
                    "title": "t",
                    "url": "https://e",
                },
            }
        ],
    },
    "image": {
        "role": "user",
        "content": [
            {"type": "text", "text": "What is in this image?"},
            {
                "type": "image_url",
                "image_url": {"url": "https://example.com/boardwalk.jpg", "detail": "high"},
            },
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
        ],
    },
    "sound": {
        "role": "user",
        "content": [
            {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
        ],
    },
    "file": {
        "role": "user",
        "content": [
            {"type": "file", "file": {"file_id": "file-abc"}},
            {
                "type": "file",
                "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,eA=="},
            },
        ],
    },
    "custom tool": {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "call_1", "type": "custom", "custom": {"name": "sql", "input": "select 1"}}
        ],
    },
    "old function": {"role": "function", "name": "f", "content": "1"},
    "old function call": {
        "role": "assistant",
        "content": None,
        "function_call": {"name": "f", "arguments": "{}"},
    },
    "prompt cache": {
        "role": "system",
        "content": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}],
    },
    "another server's": {"role": "assistant", "content": "x", "reasoning_content": "thinking"},
}


@pytest.mark.parametrize("wire", EXAMPLES.values(), ids=list(EXAMPLES))
def test_openai_examples(wire: dict[str, Any]) -> None:
    round_trip(wire)


def test_openai_what_fields_can_say_is_in_the_fields() -> None:
    message = round_trip(EXAMPLES["answer with text and calls"])
    assert message.text == "Let me look."
    assert [c.id for c in message.tool_calls] == ["call_abc123", "call_2"]
    assert message.extras == {}
    image = round_trip(EXAMPLES["image"])
    assert image.content[1] == ImageBlock(  # type: ignore[index]
        url="https://example.com/boardwalk.jpg", detail="high"
    )
    assert image.extras == {}
    assert round_trip(EXAMPLES["sound"]).content == [AudioBlock(data=b"RIFF", format="wav")]
    tool = round_trip(EXAMPLES["tool"])
    assert (tool.role, tool.tool_call_id, tool.extras) == ("tool", "call_abc123", {})


def test_openai_what_no_field_can_say_is_kept_under_extras() -> None:
    message = round_trip(EXAMPLES["refusal"])
    assert set(message.extras) == {"openai"}


def test_openai_every_message_gets_an_id_of_our_own() -> None:
    wire = {"role": "user", "content": "x", "id": "msg_1"}
    assert round_trip(wire).id not in ("msg_1", round_trip(wire).id)


@pytest.mark.parametrize(
    "thing", [None, "text", [], {}, {"content": "hunter2"}, {"role": 5, "content": "hunter2"}]
)
def test_openai_what_is_no_message_is_refused(thing: Any) -> None:
    with pytest.raises(ValueError, match="role") as caught:
        ChatMessage.from_openai(thing)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("message", "wire"),
    [
        (ChatMessage("x"), {"role": "user", "content": "x"}),
        (ChatMessage(None, "assistant"), {"role": "assistant", "content": None}),
        (
            ChatMessage("x", "tool", tool_call_id="1", name="f"),
            {"role": "tool", "content": "x", "name": "f", "tool_call_id": "1"},
        ),
        (
            ChatMessage([ToolCallBlock(id="1", name="f", arguments={"ö": 1})], "assistant"),
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "1",
                        "type": "function",
                        "function": {"name": "f", "arguments": '{"ö": 1}'},
                    }
                ],
            },
        ),
        (
            ChatMessage([ThinkingBlock(text="hm"), TextBlock(text="x")]),
            {"role": "user", "content": [{"type": "text", "text": "x"}]},
        ),
        (
            ChatMessage([ImageBlock(data=b"x", mimetype="image/gif")]),
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": "data:image/gif;base64,eA=="}}
                ],
            },
        ),
        (
            ChatMessage([VideoBlock(url="u"), DocumentBlock(data=b"x", title="t")]),
            {
                "role": "user",
                "content": [
                    {"type": "video_url", "video_url": {"url": "u"}},
                    {
                        "type": "file",
                        "file": {"file_data": "data:application/pdf;base64,eA==", "filename": "t"},
                    },
                ],
            },
        ),
    ],
)
def test_openai_from_our_own(message: ChatMessage, wire: dict[str, Any]) -> None:
    assert message.to_openai() == wire
    assert ChatMessage.from_openai(wire).to_openai() == wire


@pytest.mark.parametrize("block", [ImageBlock(path="/x"), AudioBlock(url="u"), VideoBlock()])
def test_openai_media_that_the_api_cannot_see(block: Any) -> None:
    with pytest.raises(ValueError, match=f"{type(block).__name__} has "):
        ChatMessage([block]).to_openai()


def test_openai_metadata_and_other_frameworks_extras_stay_here() -> None:
    message = ChatMessage("x", metadata={"m": 1}, extras={"langchain": {"k": 1}})
    assert message.to_openai() == {"role": "user", "content": "x"}


@pytest.mark.parametrize("side", ["from_openai", "to_openai"])
@pytest.mark.parametrize(
    "wire",
    [
        {"role": "assistant", "content": "x", "annotations": [1]},
        pytest.param({"role": "user", "content": [{"type": "text", "text": "x", "cache": [1]}]}),
        pytest.param({"role": "user", "content": [{"type": "hologram", "beams": [1]}]}),
    ],
    ids=["extras", "field", "block"],
)
def test_openai_nothing_is_shared_with_the_dicts(wire: dict[str, Any], side: str) -> None:
    wire = copy.deepcopy(wire)
    message = ChatMessage.from_openai(wire)
    before = message.model_copy(deep=True)
    taken = wire if side == "from_openai" else message.to_openai()
    inner = taken["annotations"] if "annotations" in taken else taken["content"][0]
    inner = inner if isinstance(inner, list) else next(v for v in inner.values() if v == [1])
    inner.append(2)
    assert message == before


@pytest.mark.parametrize(
    "wire",
    [
        {"role": "assistant", "tool_calls": [WEATHER]},
        {"role": "user", "content": [{"type": "image", "url": "u"}]},
    ],
    ids=["dropped", "set"],
)
def test_openai_a_content_that_was_changed_afterwards_is_what_is_sent(wire: dict[str, Any]) -> None:
    message = ChatMessage.from_openai(wire)
    message.content = "changed"
    assert message.to_openai()["content"] == "changed"
