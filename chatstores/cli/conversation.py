"""A conversation as text for a person: one block of lines for each message."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_json

from chatstores.cli.output import clean, counted, moment
from chatstores.message import (
    AudioBlock,
    ChatMessage,
    DocumentBlock,
    ImageBlock,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
    VideoBlock,
)
from chatstores.types import SessionInfo

__all__ = ["message_lines", "session_lines"]

#: (text, style): what stands on some lines, and how a terminal shows it.
Lines = tuple[str, str]

_ROLES = {"user": "bold cyan", "assistant": "bold green", "tool": "bold yellow"}


def session_lines(info: SessionInfo) -> Iterator[Lines]:
    """What is known of a session."""
    yield clean(info.key), "bold"
    yield f"{counted(info.count, 'message')}, version {info.version}", "dim"
    yield f"created {moment(info.created_at)}, changed {moment(info.updated_at)}", "dim"
    if info.expires_at is not None:
        yield f"expires {moment(info.expires_at)}", "dim"
    if info.metadata:
        yield f"metadata {_json(info.metadata)}", "dim"


def message_lines(message: ChatMessage) -> Iterator[Lines]:
    """A message: who and when, then what, indented."""
    who = clean(message.role) + (f" ({clean(message.name)})" if message.name else "")
    answers = f", answers {clean(message.tool_call_id)}" if message.tool_call_id else ""
    style = _ROLES.get(message.role, "bold")
    yield f"{who}, {moment(message.created_at.astimezone(UTC))}{answers}", style
    content = message.content or ()
    for block in [TextBlock(text=content)] if isinstance(content, str) else content:
        yield _block(block)
    if message.metadata:
        yield _indented(f"[metadata {_json(message.metadata)}]"), "dim"


def _block(block: BaseModel) -> Lines:
    match block:
        case TextBlock():
            return _indented(block.text), ""
        case ThinkingBlock():
            return _indented(f"[thinking] {block.text or ''}".rstrip()), "dim italic"
        case ToolCallBlock():
            arguments = block.arguments
            if not isinstance(arguments, str):
                arguments = _json(arguments)
            number = f" {clean(block.id)}" if block.id else ""
            return _indented(f"[call{number}] {clean(block.name)} {arguments}".rstrip()), "yellow"
        case ImageBlock() | AudioBlock() | VideoBlock() | DocumentBlock():
            return _indented(f"[{_media(block)}]"), "magenta"
        case _:
            size = len(to_json(block))
            return _indented(f"[{clean(str(getattr(block, 'type', '?')))}, {_size(size)}]"), "dim"


def _media(block: ImageBlock | AudioBlock | VideoBlock | DocumentBlock) -> str:
    """One short line: what, of which type, and how large or where."""
    kind = block.mimetype or getattr(block, "format", None)
    title = getattr(block, "title", None)
    where = block.url or block.path
    if block.url is not None and block.url.startswith("data:"):
        head, _, data = block.url.partition(",")
        kind = kind or head.removeprefix("data:").partition(";")[0]
        where = _size(len(data) * 3 // 4 if head.endswith(";base64") else len(data))
    if block.data is not None:
        where = _size(len(block.data))
    return ", ".join(clean(part) for part in (block.type, title, kind, where) if part)


def _size(count: int) -> str:
    if count < 1024:
        return counted(count, "byte")
    return f"{count / 1024:,.1f} KiB" if count < 1024**2 else f"{count / 1024**2:,.1f} MiB"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _indented(text: str) -> str:
    # Only "\n" ends a line here; str.splitlines knows others, which are written out.
    return "\n".join(f"  {line}".rstrip() for line in text.split("\n"))
