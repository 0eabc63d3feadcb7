"""LlamaIndex's messages to ours and back, held against the real library's classes."""

from __future__ import annotations

import base64
import json

import pytest
from llama_index.core.base.llms import types as li

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
from chatstores.llama_index_format import ROLES, from_llama_index, left_out, to_llama_index

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(40))
WAV = b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(16)

# What LlamaIndex wrote of a call before it had blocks for them.
CALL = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}


def blocks_of_llama_index(tmp_path):
    picture = tmp_path / "picture.png"
    picture.write_bytes(PNG)
    text, image = li.TextBlock(text="quoted"), li.ImageBlock(url="https://example.org/a.png")
    return {
        "text": li.TextBlock(text="Grüße 🦜 \0"),
        "image data": li.ImageBlock(image=PNG, detail="low"),
        "image url": image,
        "image path": li.ImageBlock(path=picture, image_mimetype="image/png"),
        "image empty": li.ImageBlock(image=b""),
        "audio": li.AudioBlock(audio=WAV),
        "audio url": li.AudioBlock(url="https://example.org/a.mp3", format="mp3"),
        "video": li.VideoBlock(url="https://example.org/a.mp4", detail="high", fps=2),
        "document": li.DocumentBlock(data=b"%PDF-1.4 text", title="A title"),
        "document path": li.DocumentBlock(path="/no/such/file.pdf"),
        "cache": li.CachePoint(cache_control=li.CacheControl(type="ephemeral", ttl="1h")),
        "citable": li.CitableBlock(title="t", source="s", content=[text, image]),
        "citation": li.CitationBlock(
            cited_content=text, source="s", title="t", additional_location_info={"page": 3}
        ),
        "thinking": li.ThinkingBlock(
            content="hm", num_tokens=7, additional_information={"signature": "xyz", "type": "t"}
        ),
        "thinking bare": li.ThinkingBlock(),
        "thinking odd signature": li.ThinkingBlock(additional_information={"signature": [1]}),
        "tool call": li.ToolCallBlock(tool_call_id="c", tool_name="add", tool_kwargs={"a": [1.0]}),
        "tool call text": li.ToolCallBlock(tool_name="add", tool_kwargs="{not json"),
        "tool call bare": li.ToolCallBlock(tool_name="add"),
    }


def there_and_back(message):
    """Through our form, and through our stored bytes."""
    ours = from_llama_index(message.model_dump(mode="json"))
    stored = decode_one(encode(ours))
    assert stored == ours
    return ours, li.ChatMessage.model_validate(to_llama_index(stored))


def test_every_block_type_of_the_library_is_tried(tmp_path):
    tried = {block.block_type for block in blocks_of_llama_index(tmp_path).values()}
    union = li.ContentBlock.__origin__.__args__
    assert tried == {kind.model_fields["block_type"].default for kind in union}


def test_every_block_comes_back_equal(tmp_path):
    for name, block in blocks_of_llama_index(tmp_path).items():
        for blocks in ([block], [li.TextBlock(text="before"), block, block]):
            message = li.ChatMessage(role="assistant", blocks=blocks)
            _, back = there_and_back(message)
            assert back == message, name


def test_all_blocks_of_a_message_come_back_in_order(tmp_path):
    blocks = list(blocks_of_llama_index(tmp_path).values())
    message = li.ChatMessage(role="assistant", blocks=blocks, additional_kwargs={"n": 1})
    ours, back = there_and_back(message)
    assert back == message
    assert to_llama_index(ours) == to_llama_index(from_llama_index(to_llama_index(ours)))
    assert [call.name for call in ours.tool_calls] == ["add", "add", "add"]


@pytest.mark.parametrize("role", ROLES)
def test_every_role(role):
    message = li.ChatMessage("hi", role=role)
    ours, back = there_and_back(message)
    assert (ours.role, ours.content, ours.extras) == (role, "hi", {})
    assert back == message


def test_the_roles_are_the_librarys():
    assert set(ROLES) == {role.value for role in li.MessageRole}


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"name": "add", "tool_call_id": "call_1"},
        {"name": None, "tool_call_id": 3},
        {"tool_calls": []},
        {"tool_calls": None},
        {"tool_calls": [CALL]},
        {"tool_calls": [CALL, CALL]},
        {"tool_calls": [{**CALL, "index": 0}, {"id": None, "function": CALL["function"]}]},
        {"tool_calls": [{**CALL, "function": {**CALL["function"], "strict": True}}]},
        {"tool_calls": [CALL, {"id": "custom", "type": "custom", "custom": {"name": "x"}}]},
        {"tool_calls": [{"function": CALL["function"]}]},
        {"tool_calls": [{**CALL, "function": {"name": "add", "arguments": {"a": 1}}}]},
        {"function_call": {"name": "add", "arguments": "{}"}},
        {"cache_control": {"type": "ephemeral"}, "deep": [{"a": [None, True, 1, 1.0]}]},
    ],
    ids=str,
)
@pytest.mark.parametrize("content", ["text", "", None])
def test_additional_kwargs_come_back_equal(kwargs, content):
    message = li.ChatMessage(content, role="assistant", additional_kwargs=kwargs)
    _, back = there_and_back(message)
    assert back == message
    assert json.dumps(back.additional_kwargs, sort_keys=True) == json.dumps(kwargs, sort_keys=True)


def test_additional_kwargs_of_any_python_type_come_back_as_json():
    message = li.ChatMessage(
        "x", additional_kwargs={"model": li.TextBlock(text="t"), "bytes": b"\xff"}
    )
    _, back = there_and_back(message)
    assert back.model_dump(mode="json") == message.model_dump(mode="json")


def test_calls_in_additional_kwargs_are_our_blocks():
    wire = {"role": "assistant", "content": None, "additional_kwargs": {"tool_calls": [CALL]}}
    ours = from_llama_index(wire)
    assert ours.content == [ToolCallBlock(id="call_1", name="add", arguments='{"a": 1}')]
    assert ours.to_openai() == {"role": "assistant", "content": None, "tool_calls": [CALL]}


def test_calls_in_both_places_are_our_blocks_once():
    block = li.ToolCallBlock(tool_call_id="call_1", tool_name="add", tool_kwargs='{"a": 1}')
    message = li.ChatMessage(
        role="assistant", blocks=[block], additional_kwargs={"tool_calls": [CALL]}
    )
    ours, back = there_and_back(message)
    assert len(ours.tool_calls) == 1
    assert back == message


def test_a_call_added_to_those_of_additional_kwargs_joins_them():
    wire = {"role": "assistant", "additional_kwargs": {"tool_calls": [{**CALL, "index": 0}]}}
    ours = from_llama_index(wire)
    ours.content = [*ours.content, ToolCallBlock(id="2", name="sub", arguments={"b": 2})]
    assert to_llama_index(ours)["additional_kwargs"]["tool_calls"] == [
        {**CALL, "index": 0},
        {"id": "2", "type": "function", "function": {"name": "sub", "arguments": '{"b": 2}'}},
    ]
    ours.content = "no calls any more"
    assert "tool_calls" not in to_llama_index(ours)["additional_kwargs"]


def test_a_result_of_an_agent_is_one_of_ours():
    message = li.ChatMessage("4", role="tool", additional_kwargs={"tool_call_id": "call_1"})
    ours, back = there_and_back(message)
    assert (ours.role, ours.content, ours.tool_call_id, ours.extras) == ("tool", "4", "call_1", {})
    assert back == message


def test_the_older_shape():
    wire = {"role": "user", "content": "hi", "additional_kwargs": {}}
    assert from_llama_index(wire).content == "hi"
    assert to_llama_index(from_llama_index(wire)) == {
        "role": "user",
        "additional_kwargs": {},
        "blocks": [{"block_type": "text", "text": "hi"}],
    }
    assert from_llama_index({"content": None}).content is None
    parts = [{"block_type": "text", "text": "a"}, {"block_type": "text", "text": "b"}]
    assert from_llama_index({"content": parts}).text == "a\nb"


def test_unknown_fields_are_kept():
    wire = {
        "role": "user",
        "additional_kwargs": {},
        "timestamp": 3,
        "blocks": [
            {"block_type": "text", "text": "a", "annotations": [1]},
            {"block_type": "of a later version", "type": "x", "data": None},
        ],
    }
    ours = from_llama_index(wire)
    assert ours.content[1].type == "of a later version"
    assert to_llama_index(decode_one(encode(ours))) == wire


def test_what_was_kept_of_a_block_is_not_put_on_another():
    wire = {"blocks": [{"block_type": "video", "url": "https://example.org/a.mp4", "fps": 2}]}
    ours = from_llama_index(wire)
    ours.content = [TextBlock(text="a"), *ours.content]
    assert "fps" not in to_llama_index(ours)["blocks"][0]


def test_our_message_is_what_users_of_llama_index_expect():
    ours = ChatMessage(
        [
            TextBlock(text="look"),
            ThinkingBlock(text="hm", signature="s"),
            ImageBlock(data=PNG, mimetype="image/png", detail="low"),
            ImageBlock(url="https://example.org/a.png"),
            AudioBlock(data=WAV, format="wav"),
            VideoBlock(url="https://example.org/a.mp4"),
            DocumentBlock(data=b"%PDF", title="paper"),
            ToolCallBlock(id="c", name="add", arguments={"a": 1}),
        ],
        "assistant",
        name="bob",
    )
    theirs = li.ChatMessage.model_validate(to_llama_index(ours))
    text, thinking, image, by_url, audio, video, document, call = theirs.blocks
    assert (text.text, thinking.content) == ("look", "hm")
    assert thinking.additional_information == {"signature": "s"}
    assert image.resolve_image().read() == PNG
    assert (image.image, image.detail) == (base64.b64encode(PNG), "low")
    assert str(by_url.url) == "https://example.org/a.png"
    assert audio.resolve_audio().read() == WAV
    assert str(video.url) == "https://example.org/a.mp4"
    assert (document.resolve_document().read(), document.title) == (b"%PDF", "paper")
    assert (call.tool_call_id, call.tool_name, call.tool_kwargs) == ("c", "add", {"a": 1})
    assert theirs.additional_kwargs == {"name": "bob"}
    again = from_llama_index(theirs.model_dump(mode="json"))
    assert again.name == "bob"
    assert again.content[2:4] == [
        ImageBlock(data=PNG, mimetype="image/png", detail="low"),
        ImageBlock(url="https://example.org/a.png", mimetype="image/png"),
    ]


def test_our_tools_result_has_its_id_where_llama_index_looks():
    wire = to_llama_index(ChatMessage("4", "tool", tool_call_id="c", name="add"))
    assert wire["additional_kwargs"] == {"tool_call_id": "c", "name": "add"}


def test_nothing_of_ours_travels_to_a_provider():
    """LLM integrations send all of additional_kwargs."""
    ours = ChatMessage("x", metadata={"private": 1}, extras={"openai": {"set": {"a": 1}}})
    assert to_llama_index(ours)["additional_kwargs"] == {}


def test_a_path_is_not_looked_for():
    wire = {"blocks": [{"block_type": "image", "path": "/no/such/file.png"}]}
    assert from_llama_index(wire).content == [ImageBlock(path="/no/such/file.png")]


def test_blocks_without_a_place_in_llama_index_are_left_out():
    ours = ChatMessage([TextBlock(text="a"), UnknownBlock(type="refusal", refusal="no")])
    assert left_out(ours) == ["refusal"]
    assert to_llama_index(ours)["blocks"] == [{"block_type": "text", "text": "a"}]
    assert left_out(ChatMessage("text")) == []
    cache = {"block_type": "cache", "cache_control": {"type": "ephemeral"}}
    assert left_out(from_llama_index({"blocks": [cache]})) == []


def test_a_role_that_llama_index_does_not_know_is_refused():
    with pytest.raises(ValueError, match="no role 'narrator'"):
        to_llama_index(ChatMessage("x", "narrator"))


@pytest.mark.parametrize(
    ("wire", "why"),
    [
        ("text", "must be a dict, not str"),
        ({"role": 1}, "role must be text"),
        ({"role": ""}, "role must be text"),
        ({"additional_kwargs": []}, "additional_kwargs must be a dict"),
        ({"additional_kwargs": None}, "additional_kwargs must be a dict"),
        ({"content": 3}, "text, null or a list"),
        ({"blocks": {}}, "text, null or a list"),
        ({"blocks": ["text"]}, "block 0 has no block_type"),
        ({"blocks": [{"text": "x"}]}, "block 0 has no block_type"),
        ({"blocks": [{"block_type": "text"}]}, r"block 0 \(text\): text: Field required"),
        ({"blocks": [{"block_type": "image", "image": 3}]}, r"block 0 \(image\): data"),
        ({"blocks": [{"block_type": "tool_call"}]}, r"block 0 \(tool_call\): name"),
    ],
    ids=str,
)
def test_what_is_no_message_is_refused(wire, why):
    with pytest.raises(ValueError, match=why):
        from_llama_index(wire)


def test_data_that_is_no_base64_stands_for_itself():
    wire = {"blocks": [{"block_type": "image", "image": "not base64!"}]}
    ours = from_llama_index(wire)
    assert ours.content[0].data == b"not base64!"
    theirs = li.ChatMessage.model_validate(wire)
    assert li.ChatMessage.model_validate(to_llama_index(ours)) == theirs
