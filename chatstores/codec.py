"""A message to bytes and back: a JSON object whose first field is the format's version.

``encode`` reads back what it wrote and compares, so that nothing is changed in silence: what JSON
cannot give back equal, types included, is refused with the field's name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, from_json, to_json

from chatstores.errors import InvalidMessageError
from chatstores.message import ChatMessage

__all__ = ["MAX_DEPTH", "MAX_METADATA_BYTES", "Unreadable", "decode", "decode_one", "encode"]

#: How deep the values in a field may nest, the field itself not counted. (The JSON parser of
#: pydantic-core stops at 200.)
MAX_DEPTH = 100
#: The size of a session's metadata as JSON.
MAX_METADATA_BYTES = 16 * 1024

_PREFIX = b'{"v":1,'
_START = _PREFIX + b'"id":'  # what every record begins with
_MAX_INT = 10**4300  # Python's own limit of int <-> str (sys.int_info.default_max_str_digits)

_OFTEN_EMPTY = {"name", "tool_call_id", "metadata", "extras"}
_EMPTY: tuple[Any, ...] = (None, {})

#: What was meant, where it is plain.
_INSTEAD: dict[type, str] = {
    str: ': ChatMessage("..."), or ChatMessage("...", "assistant")',
    tuple: ': ChatMessage("...", "assistant"), the text before the role',
    dict: ": ChatMessage.from_openai(...) takes a dict of OpenAI's",
    list: ": add_messages() and set_messages() take several",
}

_quoted = json.JSONEncoder(ensure_ascii=False).encode  # escapes what pydantic does, to the byte

_messages: TypeAdapter[list[ChatMessage]] | None = None


class Unreadable(ValueError):
    """Stored bytes are not a message that this version can read; the text says why."""


def _empty_fields(message: ChatMessage) -> set[str]:
    """The fields that most messages leave empty; without them the JSON is half as long."""
    values = message.__dict__
    return {name for name in _OFTEN_EMPTY if values[name] in _EMPTY}


def encode(message: ChatMessage) -> bytes:
    """The bytes to store for a message.

    Raises:
        InvalidMessageError: it would not come back equal; the text names the field.
    """
    if type(message) is not ChatMessage:
        hint = _INSTEAD.get(type(message), "")
        if type(message).__module__.startswith("openai."):
            hint = ": ChatMessage.from_openai(message.model_dump()) takes OpenAI's"
        raise InvalidMessageError(f"a message must be a ChatMessage, not {_name(message)}{hint}")
    if _is_plain_text(message):
        # Text in each field, and a time in UTC: JSON gives back either equal, or UTF-8 refuses it.
        fields = message.__dict__
        text = (
            f'{{"v":1,"id":{_quoted(fields["id"])},"role":{_quoted(fields["role"])},'
            f'"content":{_quoted(fields["content"])},'
            f'"created_at":"{fields["created_at"].isoformat()[:-6]}Z"}}'
        )
        try:
            return text.encode()
        except UnicodeEncodeError as exc:
            raise InvalidMessageError(_explain(message)) from exc
    try:
        body = _to_json(message, exclude=_empty_fields(message), warnings="error")
        again = message.__pydantic_validator__.validate_json(body)
    except (PydanticSerializationError, ValidationError, ValueError, TypeError) as exc:
        raise InvalidMessageError(_explain(message)) from exc
    if again.__dict__ != message.__dict__ or _find(message) is not None:
        raise InvalidMessageError(_explain(message))
    return _PREFIX + body[1:]


def decode(payloads: Sequence[bytes]) -> list[ChatMessage]:
    """Messages from stored bytes, all at once.

    Raises:
        Unreadable: one of them is no message; ``decode_one`` tells which.
    """
    global _messages
    if _messages is None:
        _messages = TypeAdapter(list[ChatMessage])
    if not payloads:
        return []
    texts = [payload[7:] for payload in payloads if payload.startswith(_START)]
    if len(texts) < len(payloads):
        raise Unreadable(_why(next(p for p in payloads if not p.startswith(_START))))
    try:
        messages = _messages.validator.validate_json(b"[{" + b",{".join(texts) + b"]")
    except ValidationError:
        raise Unreadable("is not readable") from None
    # What the model made up, and a text that held two.
    dated = [m for m in messages if "created_at" in m.__pydantic_fields_set__]
    if not len(dated) == len(messages) == len(payloads):
        raise Unreadable("is not readable")
    return dated


def decode_one(payload: bytes) -> ChatMessage:
    """One message from its stored bytes, however another program may have ordered its fields.

    Raises:
        Unreadable: it is none; the text says why.
    """
    try:
        fields = from_json(payload)
        # The model would make these up.
        if fields.pop("v") == 1 and "id" in fields and "created_at" in fields:
            return ChatMessage.model_validate_json(to_json(fields))
    except (ValueError, TypeError, KeyError, AttributeError):
        pass
    raise Unreadable(_why(payload))


def _why(payload: bytes) -> str:
    try:
        version = from_json(payload)["v"]
    except (ValueError, TypeError, KeyError, IndexError):
        return "is not readable"
    if isinstance(version, int) and version > 1:
        return (
            f"was written in format {version} by a newer version of chatstores; this version "
            "reads format 1: upgrade chatstores"
        )
    return "is not readable"


def encode_metadata(metadata: dict[str, Any]) -> bytes:
    """A session's metadata as JSON.

    Raises:
        InvalidMessageError: it is no dict, cannot come back equal, or is over 16 KiB.
    """
    if type(metadata) is not dict:
        raise InvalidMessageError(f"metadata must be a dict, not {_name(metadata)}")
    problem = _problem(metadata, "metadata")
    if problem:
        raise InvalidMessageError(problem)
    text = to_json(metadata)
    if len(text) > MAX_METADATA_BYTES:
        raise InvalidMessageError(
            f"metadata takes {len(text):,} bytes as JSON; at most {MAX_METADATA_BYTES:,} are kept"
        )
    return text


def decode_metadata(text: bytes | str) -> dict[str, Any]:
    """A session's metadata from its JSON.

    Raises:
        Unreadable: it is no JSON object.
    """
    try:
        value = from_json(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise Unreadable("has unreadable metadata")
    return value


def _to_json(message: ChatMessage, **options: Any) -> bytes:
    return message.__pydantic_serializer__.to_json(message, **options)


def _is_plain_text(message: ChatMessage) -> bool:
    """Whether it is of the most usual kind: text, a role, an id and a time, and nothing else."""
    fields = message.__dict__
    created_at = fields["created_at"]
    return (
        type(fields["content"]) is str
        and type(fields["role"]) is str
        and type(fields["id"]) is str
        and bool(fields["role"] and fields["id"])
        and fields["name"] is None
        and fields["tool_call_id"] is None
        and type(created_at) is datetime
        and created_at.tzinfo is UTC
        and fields["metadata"] == {}
        and fields["extras"] == {}
    )


def _explain(message: ChatMessage) -> str:
    """The first field that cannot be stored, and why."""
    return _find(message) or "the message does not come back equal from JSON"


def _find(message: ChatMessage) -> str | None:
    for name in ChatMessage.model_fields:
        value = getattr(message, name)
        if name == "created_at":
            if problem := _problem_of_time(value):
                return problem
            continue
        if name == "content" and type(value) is list:
            for index, block in enumerate(value):
                problem = _find_in_block(block, f"content[{index}]")
                if problem:
                    return problem
        elif problem := _problem(value, name):
            return problem
    try:
        ChatMessage.model_validate(message.__dict__)
    except ValidationError as exc:
        first = exc.errors(include_input=False, include_url=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return None


def _find_in_block(block: Any, path: str) -> str | None:
    if not isinstance(block, BaseModel):
        return f"{path} must be a block, not {_name(block)}"
    fields = {name: getattr(block, name) for name in type(block).model_fields}
    for name, value in (fields | (block.model_extra or {})).items():
        if type(value) is bytes and name in fields:
            continue
        problem = _problem(name, f"a field name of {path}") or _problem(value, f"{path}.{name}")
        if problem:
            return problem
    try:
        type(block).model_validate(fields)
    except ValidationError as exc:
        first = exc.errors(include_input=False, include_url=False)[0]
        return f"{'.'.join([path, *map(str, first['loc'])])}: {first['msg']}"
    return None


def _name(value: Any) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _problem(value: Any, path: str, depth: int = 0) -> str | None:
    """Why a value would not come back from JSON equal, types included; None if it would."""
    kind = type(value)
    if value is None or kind is bool:
        return None
    if kind is str:
        return _problem_of_text(value, path)
    if kind is int:
        return None if -_MAX_INT < value < _MAX_INT else f"{path} has more than 4,300 digits"
    if kind is float:
        return None if math.isfinite(value) else f"{path} is {value}, which JSON cannot hold"
    if kind not in (dict, list):
        return f"{path} is a {_name(value)}, which JSON cannot give back equal"
    if depth > MAX_DEPTH:
        return f"{path[:60]}... is nested more than {MAX_DEPTH} deep"
    if kind is list:
        for index, item in enumerate(value):
            if problem := _problem(item, f"{path}[{index}]", depth + 1):
                return problem
        return None
    for name, item in value.items():
        if type(name) is not str:
            return f"{path} has the key {name!r} of type {_name(name)}; JSON's keys are str"
        problem = _problem_of_text(name, f"a key of {path}") or _problem(
            item, f"{path}.{name}", depth + 1
        )
        if problem:
            return problem
    return None


def _problem_of_time(value: Any) -> str | None:
    """Why a time does not come back: JSON has it with the offset of that moment, in minutes."""
    offset = value.utcoffset() if isinstance(value, datetime) else None
    if offset is None:
        return None  # no time with a zone: what the model says of it is clearer
    minutes = timezone(timedelta(minutes=offset // timedelta(minutes=1)))
    if value != value.replace(tzinfo=minutes, fold=0):
        return "created_at has an offset of odd seconds or an hour that comes twice: give it in UTC"
    return None


def _problem_of_text(text: str, path: str) -> str | None:
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        return f"{path} has a lone surrogate at character {exc.start}, which UTF-8 cannot hold"
    return None
