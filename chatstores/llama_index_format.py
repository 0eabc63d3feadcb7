"""LlamaIndex's messages as JSON dicts, to ChatMessage and back, without LlamaIndex.

A dict from LlamaIndex (``message.model_dump(mode="json")``, or one of a SimpleChatStore's file)
and back is equal to what went in: what no field of ``ChatMessage`` says is kept under
``extras["llama_index"]``.

What LlamaIndex cannot say of our message is left out on the way there: its id, created_at,
metadata, the extras of others, and blocks that LlamaIndex has no type for. ``additional_kwargs``
could carry them, but LLM integrations send all of it to the provider, which refuses what it does
not know, and LlamaIndex puts it into prompts and counts its tokens.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from chatstores.message import (
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

__all__ = ["ROLES", "from_llama_index", "left_out", "to_llama_index"]

#: The roles that LlamaIndex knows.
ROLES = ("system", "developer", "user", "assistant", "function", "tool", "chatbot", "model")

_EXTRAS = "llama_index"

_BLOCKS: dict[str, type[BaseModel]] = {
    "text": TextBlock,
    "image": ImageBlock,
    "audio": AudioBlock,
    "video": VideoBlock,
    "document": DocumentBlock,
    "thinking": ThinkingBlock,
    "tool_call": ToolCallBlock,
}

#: By block type: LlamaIndex's name of each field, and ours.
_FIELDS: dict[str, dict[str, str]] = {
    "text": {"text": "text"},
    "image": {
        "image": "data",
        "path": "path",
        "url": "url",
        "image_mimetype": "mimetype",
        "detail": "detail",
    },
    "audio": {"audio": "data", "path": "path", "url": "url", "format": "format"},
    "video": {"video": "data", "path": "path", "url": "url", "video_mimetype": "mimetype"},
    "document": {
        "data": "data",
        "path": "path",
        "url": "url",
        "title": "title",
        "document_mimetype": "mimetype",
    },
    "thinking": {"content": "text"},
    "tool_call": {"tool_call_id": "id", "tool_name": "name", "tool_kwargs": "arguments"},
}

#: Where LlamaIndex keeps a thought's signature, beside what else a provider says of it.
_INFORMATION = "additional_information"


def from_llama_index(message: Mapping[str, Any]) -> ChatMessage:
    """A message of LlamaIndex as a ChatMessage.

    Args:
        message: the message as JSON's types, ``message.model_dump(mode="json")``; with ``blocks``,
            or with ``content`` as older versions wrote it. A ``path`` is not looked for.

    Returns:
        The message, with a new id and the present time. Tool calls in ``additional_kwargs`` become
        blocks, as do its ``name`` and ``tool_call_id`` the message's own.

    Raises:
        ValueError: it is no message of LlamaIndex's; the text says where.
    """
    if not isinstance(message, Mapping):
        raise ValueError(f"a message must be a dict, not {type(message).__name__}")
    rest = dict(message)
    role = rest.pop("role", "user")
    kwargs = rest.pop("additional_kwargs", {})
    if not isinstance(role, str) or not role:
        raise ValueError("its role must be text")
    if not isinstance(kwargs, dict):
        raise ValueError("its additional_kwargs must be a dict")
    kwargs = dict(kwargs)
    name, tool_call_id = _pop_text(kwargs, "name"), _pop_text(kwargs, "tool_call_id")
    blocks, kept = _from_blocks(_wire_blocks(rest.pop("content", None), rest.pop("blocks", None)))
    if not any(isinstance(block, ToolCallBlock) for block in blocks):
        calls, forms = _pop_calls(kwargs)
        blocks += calls
        if forms:
            kept["tool_calls"] = forms
    if kwargs:
        kept["additional_kwargs"] = kwargs
    if rest:
        kept["fields"] = rest
    return ChatMessage(
        _content(blocks, kept),
        role,
        name=name,
        tool_call_id=tool_call_id,
        extras={_EXTRAS: kept} if kept else {},
    )


def to_llama_index(message: ChatMessage) -> dict[str, Any]:
    """A ChatMessage as LlamaIndex's ``ChatMessage.model_validate`` takes it.

    LlamaIndex looks for the file of an image, sound or video that has only a ``path``, and refuses
    the message if there is none.

    Args:
        message: the message.

    Returns:
        A dict of JSON's types: ``role``, ``additional_kwargs`` and ``blocks``. Blocks that
        LlamaIndex has no type for are left out, see ``left_out``.

    Raises:
        ValueError: LlamaIndex does not know the role.
    """
    if message.role not in ROLES:
        raise ValueError(f"LlamaIndex has no role {message.role!r:.80}, only {', '.join(ROLES)}")
    kept = message.extras.get(_EXTRAS)
    kept = kept if isinstance(kept, dict) else {}
    kwargs = dict(kept.get("additional_kwargs", {}))
    if message.name is not None:
        kwargs["name"] = message.name
    if message.tool_call_id is not None:
        kwargs["tool_call_id"] = message.tool_call_id
    forms = kept.get("tool_calls")
    if forms is not None and message.tool_calls:
        kwargs["tool_calls"] = _wire_calls(message.tool_calls, forms)
    blocks = _to_blocks(message, kept.get("blocks", {}), skip_calls=forms is not None)
    return {
        **kept.get("fields", {}),
        "role": message.role,
        "additional_kwargs": kwargs,
        "blocks": blocks,
    }


def left_out(message: ChatMessage) -> list[str]:
    """The types of a message's blocks that LlamaIndex cannot hold, in order.

    Args:
        message: the message.
    """
    blocks = message.content if isinstance(message.content, list) else []
    return [block.type for block in blocks if isinstance(block, UnknownBlock) and _is_ours(block)]


def _is_ours(block: UnknownBlock) -> bool:
    """Whether the block did not come from LlamaIndex, whose blocks say their ``block_type``."""
    return not isinstance((block.model_extra or {}).get("block_type"), str)


# From LlamaIndex.


def _pop_text(kwargs: dict[str, Any], name: str) -> str | None:
    return kwargs.pop(name) if isinstance(kwargs.get(name), str) else None


def _wire_blocks(content: Any, blocks: Any) -> list[Any]:
    """The blocks of either shape; ``content`` wins, as in LlamaIndex."""
    if isinstance(content, str):
        return [{"block_type": "text", "text": content}]
    found = content if content is not None else blocks
    if found is None:
        return []
    if not isinstance(found, list):
        raise ValueError("its content must be text, null or a list of blocks")
    return found


def _from_blocks(wire: list[Any]) -> tuple[list[BaseModel], dict[str, Any]]:
    """Blocks, and by index what they cannot say."""
    blocks = []
    kept = {}
    for index, part in enumerate(wire):
        kind = part.get("block_type") if isinstance(part, dict) else None
        if not isinstance(kind, str):
            raise ValueError(f"its block {index} has no block_type")
        try:
            block, more = _from_block(kind, part)
        except ValidationError as exc:
            first = exc.errors(include_input=False, include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise ValueError(f"its block {index} ({kind:.80}): {where}: {first['msg']}") from None
        blocks.append(block)
        if more:
            kept[str(index)] = {"block_type": kind, **more}
    return blocks, {"blocks": kept} if kept else {}


def _from_block(kind: str, part: dict[str, Any]) -> tuple[BaseModel, dict[str, Any]]:
    if kind not in _BLOCKS:
        more = {"type": part["type"]} if "type" in part else {}
        return UnknownBlock.model_validate({**part, "type": kind}), more
    names = _FIELDS[kind]
    fields = {ours: part[theirs] for theirs, ours in names.items() if theirs in part}
    more = {
        name: value
        for name, value in part.items()
        if name not in names and name != "block_type" and value is not None
    }
    if "data" in fields:
        fields["data"] = _bytes(fields["data"])
    if kind == "tool_call":
        fields.setdefault("arguments", {})
    if kind == "thinking":
        fields["signature"] = _pop_signature(more)
    return _BLOCKS[kind].model_validate(fields), more


def _bytes(data: Any) -> Any:
    """The bytes of base64; text that is none stands for itself, as in LlamaIndex."""
    if not isinstance(data, str):
        return data
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        return data.encode("utf-8", "surrogatepass")


def _pop_signature(more: dict[str, Any]) -> str | None:
    information = more.pop(_INFORMATION, None)
    if not isinstance(information, dict):
        return None
    information = dict(information)
    signature = _pop_text(information, "signature")
    if information:
        more[_INFORMATION] = information
    return signature


def _pop_calls(kwargs: dict[str, Any]) -> tuple[list[ToolCallBlock], list[dict[str, Any]]]:
    """The calls of ``additional_kwargs``, and of each what its block cannot say."""
    calls = kwargs.get("tool_calls")
    if not isinstance(calls, list) or not calls or not all(map(_is_call, calls)):
        return [], []
    del kwargs["tool_calls"]
    return [
        ToolCallBlock(
            id=call["id"], name=call["function"]["name"], arguments=call["function"]["arguments"]
        )
        for call in calls
    ], [_form(call) for call in calls]


def _is_call(call: Any) -> bool:
    """Whether it is a call of a function, in the form that ToolCallBlock holds."""
    function = call.get("function") if isinstance(call, dict) else None
    return (
        isinstance(function, dict)
        and isinstance(function.get("name"), str)
        and isinstance(function.get("arguments"), str)
        and "id" in call
        and isinstance(call["id"], str | None)
    )


def _form(call: dict[str, Any]) -> dict[str, Any]:
    form = {name: value for name, value in call.items() if name not in ("id", "function")}
    function = {
        name: value for name, value in call["function"].items() if name not in ("name", "arguments")
    }
    return form | ({"function": function} if function else {})


def _content(blocks: Sequence[BaseModel], kept: Mapping[str, Any]) -> str | list[Any] | None:
    if not blocks:
        return None
    if len(blocks) == 1 and isinstance(blocks[0], TextBlock) and "blocks" not in kept:
        return blocks[0].text
    return list(blocks)


# To LlamaIndex.


def _to_blocks(
    message: ChatMessage, kept: Mapping[str, Any], *, skip_calls: bool
) -> list[dict[str, Any]]:
    if message.content is None:
        return []
    if isinstance(message.content, str):
        return [{"block_type": "text", "text": message.content}]
    blocks = []
    for index, block in enumerate(message.content):
        if isinstance(block, UnknownBlock) and _is_ours(block):
            continue
        if skip_calls and isinstance(block, ToolCallBlock):
            continue
        blocks.append(_to_block(block, kept.get(str(index), {})))
    return blocks


def _to_block(block: Any, kept: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(block, UnknownBlock):
        wire = dict(block.model_extra or {})
    else:
        wire = {"block_type": block.type}
        for theirs, ours in _FIELDS[block.type].items():
            value = getattr(block, ours)
            wire[theirs] = base64.b64encode(value).decode() if type(value) is bytes else value
    # The content may have been edited since: what was kept is for a block of that type only.
    if kept.get("block_type") == wire["block_type"]:
        wire |= kept
    if isinstance(block, ThinkingBlock):
        signature = {} if block.signature is None else {"signature": block.signature}
        wire[_INFORMATION] = wire.get(_INFORMATION, {}) | signature
    return wire


def _wire_calls(calls: Sequence[ToolCallBlock], forms: Sequence[Any]) -> list[dict[str, Any]]:
    """Calls as ``additional_kwargs`` held them; a call that came since in the usual form."""
    wire = []
    for index, call in enumerate(calls):
        form: dict[str, Any] = dict(forms[index]) if index < len(forms) else {"type": "function"}
        arguments = call.arguments
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        function = {**form.pop("function", {}), "name": call.name, "arguments": arguments}
        wire.append({"id": call.id, **form, "function": function})
    return wire
