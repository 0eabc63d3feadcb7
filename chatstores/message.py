"""ChatMessage and its content blocks, and their form in OpenAI's Chat Completions."""

from __future__ import annotations

import base64
import copy
import json
import os
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Annotated, Any, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Strict,
    Tag,
    ValidationError,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

__all__ = [
    "AudioBlock",
    "Block",
    "ChatMessage",
    "DocumentBlock",
    "ImageBlock",
    "TextBlock",
    "ThinkingBlock",
    "ToolCallBlock",
    "UnknownBlock",
    "VideoBlock",
]

_NonEmpty = Annotated[str, Field(min_length=1)]


class _Block(BaseModel):
    """What all blocks share: unknown fields are kept as they came."""

    model_config = ConfigDict(
        extra="allow",
        ser_json_bytes="base64",
        val_json_bytes="base64",
        hide_input_in_errors=True,
        defer_build=True,
    )

    type: str


class TextBlock(_Block):
    """Text."""

    type: Literal["text"] = "text"
    text: str


class _MediaBlock(_Block):
    """Media by exactly where it is: its bytes, a URL or a local path (never looked for)."""

    data: Annotated[bytes, Field(strict=True)] | None = None
    url: str | None = None
    path: str | None = None
    mimetype: str | None = None


class ImageBlock(_MediaBlock):
    """An image; ``detail`` is OpenAI's "low", "high" or "auto"."""

    type: Literal["image"] = "image"
    detail: str | None = None


class AudioBlock(_MediaBlock):
    """A sound; ``format`` is OpenAI's "wav" or "mp3"."""

    type: Literal["audio"] = "audio"
    format: str | None = None


class VideoBlock(_MediaBlock):
    """A video."""

    type: Literal["video"] = "video"


class DocumentBlock(_MediaBlock):
    """A document, such as a PDF; ``title`` is its name."""

    type: Literal["document"] = "document"
    title: str | None = None


class ThinkingBlock(_Block):
    """What a model thought; ``signature`` is the provider's proof of it."""

    type: Literal["thinking"] = "thinking"
    text: str | None = None
    signature: str | None = None


class ToolCallBlock(_Block):
    """A model's call of a tool; ``arguments`` are a dict or a string, as they came.

    The result is a message of role ``tool`` whose ``tool_call_id`` is this ``id``.
    """

    type: Literal["tool_call"] = "tool_call"
    id: str | None = None
    name: str
    arguments: dict[str, Any] | str = ""


class UnknownBlock(_Block):
    """A block of a type that this version does not know, kept as it came."""


_KNOWN = ("text", "image", "audio", "video", "document", "thinking", "tool_call")


def _block_tag(value: Any) -> str:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return kind if isinstance(kind, str) and kind in _KNOWN else "unknown"


Block = Annotated[
    Annotated[TextBlock, Tag("text")]
    | Annotated[ImageBlock, Tag("image")]
    | Annotated[AudioBlock, Tag("audio")]
    | Annotated[VideoBlock, Tag("video")]
    | Annotated[DocumentBlock, Tag("document")]
    | Annotated[ThinkingBlock, Tag("thinking")]
    | Annotated[ToolCallBlock, Tag("tool_call")]
    | Annotated[UnknownBlock, Tag("unknown")],
    Discriminator(_block_tag),
]


# Bytes are no text; and the first that fits is taken, which is sooner than looking for the best.
_Content = Annotated[
    Annotated[str, Strict()] | list[Block] | None, Field(union_mode="left_to_right")
]


def _new_id() -> str:
    """A UUID version 7 (RFC 9562, section 5.7): 48 bits of Unix milliseconds, 74 of chance."""
    raw = int.from_bytes(os.urandom(10), "big")
    value = (
        (time.time_ns() // 1_000_000) << 80
        | 0x7 << 76
        | (raw >> 68) << 64
        | 0b10 << 62
        | raw & 0x3FFF_FFFF_FFFF_FFFF
    )
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


#: The usual roles. Any other text is one too.
_ROLES = frozenset({"user", "assistant", "system", "developer", "tool"})


def _warn_of_order(content: str | None, role: str) -> None:
    """Text and role in the wrong order are valid, and most likely not meant."""
    if content in _ROLES:
        warnings.warn(
            f"ChatMessage takes the text first: is ChatMessage(..., {content!r}) meant?",
            UserWarning,
            stacklevel=3,
        )


def _plain(exc: ValidationError, content: Any) -> ValidationError:
    """The same error, in which a wrong content is one line and not one for each of its forms."""
    lines: list[InitErrorDetails] = []
    for line in exc.errors(include_url=False):
        kind: str | PydanticCustomError = line["type"]
        where = line["loc"]
        if where[0] == "content":
            listed = isinstance(content, list | tuple)
            if (where[1] == "str") is listed:
                continue  # content is the one form; this is about the other
            where = ("content", *where[2:3], *where[4:])
            if not listed:
                hint = (
                    "; from_openai() takes a message of OpenAI's" if type(content) is dict else ""
                )
                kind = _wrong("Input should be text, a list of blocks, or None" + hint)
            elif len(where) == 2 and kind == "model_type":
                kind = _wrong("Input should be a block, such as TextBlock(text=...)")
        details: InitErrorDetails = {"type": kind, "loc": where, "input": line["input"]}
        if "ctx" in line:
            details["ctx"] = line["ctx"]
        lines.append(details)
    return ValidationError.from_exception_data(exc.title, lines, hide_input=True)


def _wrong(text: str) -> PydanticCustomError:
    return PydanticCustomError("content_type", text)


def _now() -> datetime:
    return datetime.now(UTC)


class ChatMessage(BaseModel):
    """One message of a conversation: ``ChatMessage("hi")`` is a user's text.

    Args:
        content: text, a list of blocks, or None.
        role: who speaks: usually system, developer, user, assistant or tool; default user.
        id: its identity, a new UUID v7 unless given. Adding a message of an id that the session
            holds adds nothing; never take a framework's id or a hash of the content for it.
        name: the speaker's name.
        tool_call_id: in a message of role ``tool``: the call that this answers.
        created_at: when it was made, with a time zone; default now.
        metadata: what you want to keep with it, of JSON's types.
        extras: by framework, what the other fields cannot say; adapters use it.

    Raises:
        pydantic.ValidationError: an argument is of a wrong type or name.

    Warns:
        UserWarning: the text is the name of a role and the role is none: they may be in the wrong
            order.
    """

    model_config = ConfigDict(
        extra="forbid",
        validate_assignment=True,
        ser_json_bytes="base64",
        val_json_bytes="base64",
        hide_input_in_errors=True,
        defer_build=True,
    )

    id: _NonEmpty = Field(default_factory=_new_id)
    role: _NonEmpty = "user"
    content: _Content = None
    name: str | None = None
    tool_call_id: str | None = None
    created_at: AwareDatetime = Field(default_factory=_now)
    metadata: dict[str, Any] = Field(default_factory=dict)
    extras: dict[str, Any] = Field(default_factory=dict)

    def __init__(
        self,
        content: str | list[Any] | None = None,
        role: str = "user",
        **fields: Any,
    ) -> None:
        when = fields.get("created_at")
        if isinstance(when, datetime) and when.tzinfo not in (None, UTC):
            # Python calls an hour that comes twice unequal to itself in any other zone.
            fields["created_at"] = when.astimezone(timezone(when.utcoffset() or timedelta(0)))
        if type(role) is str and role not in _ROLES and isinstance(content, str | None):
            _warn_of_order(content, role)
        try:
            super().__init__(content=content, role=role, **fields)
        except ValidationError as exc:
            raise _plain(exc, content) from None

    # Validation from JSON fills the fields without a call of __init__, as for any model.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @property
    def text(self) -> str:
        """The text of the content: that of its text blocks, joined by newlines."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(b.text for b in self.content or () if isinstance(b, TextBlock))

    @property
    def tool_calls(self) -> list[ToolCallBlock]:
        """The tool calls among the blocks, in order."""
        if not isinstance(self.content, list):
            return []
        return [block for block in self.content if isinstance(block, ToolCallBlock)]

    def to_openai(self) -> dict[str, Any]:
        """This message as a Chat Completions request takes it.

        Returns:
            A dict of ``role``, ``content`` and, where present, ``name``, ``tool_calls`` and
            ``tool_call_id``. Thinking blocks are left out: the API takes none.

        Raises:
            ValueError: a media block has only a local path, which the API cannot see.
        """
        wire = _to_wire(self)
        kept = self.extras.get("openai", {})
        absent = object()
        for name, (fields, original) in kept.items():
            # What was kept beside a field counts as long as the field is what it was.
            if wire.get(name, absent) == fields.get(name, absent):
                wire.pop(name, None)
                wire.update(copy.deepcopy(original))
        return wire

    @classmethod
    def from_openai(cls, message: dict[str, Any]) -> ChatMessage:
        """A message of Chat Completions, request or response, as a ChatMessage.

        Args:
            message: the dict (of an SDK's object: its ``model_dump()``).

        Returns:
            The message; its ``to_openai()`` is equal to what was given. What no field can say
            is kept under ``extras["openai"]``.

        Raises:
            ValueError: it is not a dict with a ``role``.
        """
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise ValueError(
                "from_openai() takes a Chat Completions message: a dict with a 'role' "
                "(of an SDK's object: its model_dump())"
            )
        message = copy.deepcopy(message)
        result = cls(
            _content_from_wire(message),
            message["role"],
            name=_text_or_none(message.get("name")),
            tool_call_id=_text_or_none(message.get("tool_call_id")),
        )
        wire = _to_wire(result)
        kept = {}
        for name in {**wire, **message}:
            ours = {name: wire[name]} if name in wire else {}
            theirs = {name: message[name]} if name in message else {}
            if ours != theirs:
                kept[name] = [ours, theirs]
        if kept:
            result.extras = {"openai": kept}
        return result


def _text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _to_wire(message: ChatMessage) -> dict[str, Any]:
    """The Chat Completions form of the canonical fields alone."""
    wire: dict[str, Any] = {"role": message.role, "content": message.content}
    calls = message.tool_calls
    if isinstance(message.content, list):
        others = [b for b in message.content if not isinstance(b, ToolCallBlock | ThinkingBlock)]
        if calls and not others:
            wire["content"] = None
        elif calls and len(others) == 1 and isinstance(others[0], TextBlock):
            wire["content"] = others[0].text
        else:
            wire["content"] = [_part(block) for block in others]
    if message.name is not None:
        wire["name"] = message.name
    if message.tool_call_id is not None:
        wire["tool_call_id"] = message.tool_call_id
    if calls:
        wire["tool_calls"] = [_call_to_wire(call) for call in calls]
    return wire


def _call_to_wire(call: ToolCallBlock) -> dict[str, Any]:
    arguments = call.arguments
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    }


def _location(block: _MediaBlock, default_mimetype: str) -> str:
    """The URL of a media block; its bytes become a data: URL."""
    if block.url is not None:
        return block.url
    if block.data is not None:
        encoded = base64.b64encode(block.data).decode()
        return f"data:{block.mimetype or default_mimetype};base64,{encoded}"
    raise ValueError(
        f"the {type(block).__name__} has neither url nor data; read the file into data first"
    )


def _part(block: _Block) -> dict[str, Any]:
    """One block as a content part."""
    part: dict[str, Any]
    match block:
        case TextBlock():
            part = {"type": "text", "text": block.text}
        case ImageBlock():
            image = {"url": _location(block, "image/png")}
            if block.detail is not None:
                image["detail"] = block.detail
            part = {"type": "image_url", "image_url": image}
        case AudioBlock():
            if block.data is None:
                raise ValueError("the AudioBlock has no data; read the sound into data first")
            data = base64.b64encode(block.data).decode()
            part = {"type": "input_audio", "input_audio": {"data": data}}
            if block.format is not None:
                part["input_audio"]["format"] = block.format
        case VideoBlock():
            part = {"type": "video_url", "video_url": {"url": _location(block, "video/mp4")}}
        case DocumentBlock():
            file = {"file_data": _location(block, "application/pdf")}
            if block.title is not None:
                file["filename"] = block.title
            part = {"type": "file", "file": file}
        case _:
            part = {"type": getattr(block, "type", None)}
    return part | copy.deepcopy(block.model_extra or {})


def _content_from_wire(message: dict[str, Any]) -> str | list[Any] | None:
    content = message.get("content")
    calls = message.get("tool_calls")
    if isinstance(calls, list) and calls and all(map(_is_call, calls)):
        blocks: list[Any] = [TextBlock(text=content)] if isinstance(content, str) else []
        if isinstance(content, list):
            blocks = _blocks_of(content)
        return blocks + [
            ToolCallBlock(
                id=call.get("id"),
                name=call["function"]["name"],
                arguments=call["function"]["arguments"],
            )
            for call in calls
        ]
    if isinstance(content, list):
        return _blocks_of(content)
    return content if isinstance(content, str) else None


def _is_call(call: Any) -> bool:
    """Whether it is a call of a function, in the form that ToolCallBlock holds."""
    function = call.get("function") if isinstance(call, dict) else None
    return (
        isinstance(function, dict)
        and isinstance(function.get("name"), str)
        and isinstance(function.get("arguments"), str)
        and isinstance(call.get("id"), str | None)
    )


def _text_part(part: dict[str, Any]) -> TextBlock:
    return TextBlock(**part)


def _image_part(part: dict[str, Any]) -> ImageBlock:
    image = part["image_url"]
    return ImageBlock(url=image["url"], detail=image.get("detail"))


def _audio_part(part: dict[str, Any]) -> AudioBlock:
    audio = part["input_audio"]
    data = base64.b64decode(audio["data"], validate=True)
    return AudioBlock(data=data, format=audio.get("format"))


def _video_part(part: dict[str, Any]) -> VideoBlock:
    return VideoBlock(url=part["video_url"]["url"])


def _file_part(part: dict[str, Any]) -> DocumentBlock:
    file = part["file"]
    return DocumentBlock(url=file["file_data"], title=file.get("filename"))


_FROM_PART: dict[str, Callable[[dict[str, Any]], _Block]] = {
    "text": _text_part,
    "image_url": _image_part,
    "input_audio": _audio_part,
    "video_url": _video_part,
    "file": _file_part,
}


def _blocks_of(parts: list[Any]) -> list[_Block]:
    """Content parts as blocks; a part that no block can say is left to ``extras``."""
    return [block for block in map(_block_of, parts) if block is not None]


def _block_of(part: Any) -> _Block | None:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in _FROM_PART:
        try:
            block = _FROM_PART[kind](part)
            if _part(block) == part:
                return block
        except (KeyError, TypeError, ValueError):
            pass  # a form of the part that we do not know: kept as it came
    if isinstance(kind, str) and kind not in _KNOWN:
        return UnknownBlock(**part)
    return None
