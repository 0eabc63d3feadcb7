"""Files of LlamaIndex's SimpleChatStore (S3)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chatstores import ChatMessage, ToolCallBlock
from chatstores.conformance.api import Api
from chatstores.conformance.texts import add_texts, texts
from chatstores.errors import CorruptSnapshotError, SessionExistsError

BLOCKS: dict[str, Any] = {
    "store": {
        "user1": [
            {
                "role": "user",
                "additional_kwargs": {},
                "blocks": [{"block_type": "text", "text": "What is 1 + 1? é🦜"}],
            },
            {
                "role": "assistant",
                "additional_kwargs": {},
                "blocks": [
                    {"block_type": "text", "text": "let me see"},
                    {
                        "block_type": "tool_call",
                        "tool_call_id": "call_1",
                        "tool_name": "add",
                        "tool_kwargs": {"a": 1, "b": 1},
                    },
                ],
            },
            {
                "role": "tool",
                "additional_kwargs": {"name": "add", "tool_call_id": "call_1"},
                "blocks": [{"block_type": "text", "text": "2"}],
            },
        ],
        "user2": [],
    },
    "class_name": "SimpleChatStore",
}

CONTENT: dict[str, Any] = {
    "store": {
        "user1": [
            {"role": "user", "content": "What is 1 + 1? é🦜", "additional_kwargs": {}},
            {
                "role": "assistant",
                "content": "let me see",
                "additional_kwargs": {
                    "tool_calls": [
                        {
                            "id": "call_1",
                            "type": "function",
                            "function": {"name": "add", "arguments": '{"a": 1, "b": 1}'},
                        }
                    ]
                },
            },
            {
                "role": "tool",
                "content": "2",
                "additional_kwargs": {"name": "add", "tool_call_id": "call_1"},
            },
        ],
        "user2": [],
    },
    "class_name": "SimpleChatStore",
}

LLAMA_FILES = {
    "blocks": json.dumps(BLOCKS),
    "content": json.dumps(CONTENT),
    "content as a JSON text": json.dumps(json.dumps(CONTENT)),
}


@pytest.mark.clause("S3")
@pytest.mark.parametrize("text", LLAMA_FILES.values(), ids=LLAMA_FILES)
def test_s3_a_file_of_llama_index_is_loaded(api: Api, path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    api.load(path)
    assert api.get_keys() == ["user1", "user2"]
    assert api.get_messages("user2") == []
    question, call, result = api.get_messages("user1")
    assert (question.role, question.text) == ("user", "What is 1 + 1? é🦜")
    assert (call.role, call.text) == ("assistant", "let me see")
    [tool_call] = call.tool_calls
    assert type(tool_call) is ToolCallBlock
    assert (tool_call.id, tool_call.name) == ("call_1", "add")
    assert (result.role, result.text, result.tool_call_id) == ("tool", "2", "call_1")
    assert len({question.id, call.id, result.id}) == 3
    with pytest.raises(SessionExistsError):
        api.load(path)


@pytest.mark.clause("S3")
def test_s3_and_written_as_it_was(api: Api, path: Path) -> None:
    path.write_text(json.dumps(BLOCKS), encoding="utf-8")
    api.load(path)
    api.persist(path, format="llama_index")
    assert json.loads(path.read_text(encoding="utf-8")) == BLOCKS


@pytest.mark.clause("S3")
def test_s3_a_file_for_llama_index(api: Api, in_memory: Api, path: Path) -> None:
    add_texts(api, "k", "1", "2 é🦜")
    api.add_message("k", ChatMessage("a result", "tool", tool_call_id="call_1", name="add"))
    api.set_messages("empty", [])
    api.persist(path, format="llama_index")
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["class_name"] == "SimpleChatStore"
    assert sorted(found["store"]) == ["empty", "k"]
    assert [message["role"] for message in found["store"]["k"]] == ["user", "user", "tool"]
    for message in found["store"]["k"]:
        assert set(message) <= {"role", "additional_kwargs", "blocks", "content"}
    in_memory.load(path)
    assert texts(in_memory, "k") == ["1", "2 é🦜", "a result"]
    assert in_memory.get_messages("k")[2].tool_call_id == "call_1"


@pytest.mark.clause("S3")
@pytest.mark.parametrize(
    "text",
    [
        LLAMA_FILES["blocks"][:-1],
        LLAMA_FILES["blocks"][:200],
        '{"store": []}',
        '{"store": {"k": 1}}',
        '{"store": {"k": [{"role": 1}]}}',
    ],
    ids=["cut", "cut early", "a list", "a number", "no role"],
)
def test_s3_a_damaged_file_of_llama_index_is_refused(api: Api, path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CorruptSnapshotError):
        api.load(path)
    assert api.get_keys() == []
