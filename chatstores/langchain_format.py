"""LangChain's messages as JSON dicts, to ChatMessage, without LangChain."""

from __future__ import annotations

import json
from typing import Any

from chatstores.message import ChatMessage

__all__ = ["from_langchain"]

_ROLES = {
    "human": "user",
    "HumanMessageChunk": "user",
    "ai": "assistant",
    "AIMessageChunk": "assistant",
}
#: Fields of LangChain's messages that a ChatMessage has.
_SAID = {"content", "name", "role", "tool_call_id", "tool_calls", "type"}


def from_langchain(stored: Any) -> ChatMessage:
    """A message of LangChain (``message_to_dict``) as a ChatMessage.

    What no field can say is kept under ``extras["langchain"]``.

    Raises:
        ValueError: it is none.
    """
    data = stored.get("data") if isinstance(stored, dict) else None
    kind = stored.get("type") if isinstance(stored, dict) else None
    if not isinstance(data, dict) or not isinstance(kind, str) or not kind:
        raise ValueError("this is no message of LangChain's, which has a type and data")
    wire: dict[str, Any] = {"role": _ROLES.get(kind, kind), "content": data.get("content")}
    if isinstance(data.get("role"), str) and data["role"]:  # of a "chat" message
        wire["role"] = data["role"]
    wire |= {name: data[name] for name in ("name", "tool_call_id") if data.get(name) is not None}
    more = {name: value for name, value in data.items() if name not in _SAID and value}
    kwargs = more.pop("additional_kwargs", None)
    if isinstance(kwargs, dict):
        kwargs = dict(kwargs)
    if isinstance(kwargs, dict) and kwargs.get("tool_calls"):
        wire["tool_calls"] = kwargs.pop("tool_calls")
    elif data.get("tool_calls"):
        wire["tool_calls"] = _calls(data["tool_calls"])
    if kwargs:
        more["additional_kwargs"] = kwargs
    message = ChatMessage.from_openai(wire)
    if more:
        message.extras = {**message.extras, "langchain": {"type": kind, **more}}
    return message


def _calls(calls: Any) -> list[dict[str, Any]]:
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise ValueError("its tool_calls are no list of calls")
    return [
        {
            "id": call.get("id"),
            "type": "function",
            "function": {
                "name": call.get("name"),
                "arguments": json.dumps(call.get("args", {}), ensure_ascii=False),
            },
        }
        for call in calls
    ]
