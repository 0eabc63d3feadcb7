"""Records: what stands in the topic, to bytes and back.

A record's key is a token of 8 random bytes, another one for each attempt, so that compaction never
takes one attempt for another. Its value is, little-endian::

    head       0xC5, version u8, kind u8, retry u8, partitions u16, length of the session's name
               u16, number of messages u32, command's id u64, seen, expected version, ttl i64
    name       the namespace, NUL, the key: UTF-8
    messages   of each: length of its id u32, of its text u32, then the id and the text
    arguments  JSON; nothing if the command has none

Not the JSON of ``chatstores.entries``: a topic of a million messages is read whole when it is
opened, and reading that form takes longer than all the rest.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple

from pydantic_core import from_json, to_json

from chatstores.state import (
    Action,
    Append,
    Clear,
    Command,
    Delete,
    Edit,
    Record,
    Replace,
    Restore,
    SetMetadata,
)

__all__ = [
    "FORMAT",
    "FRONT",
    "HEAD",
    "LENGTHS",
    "MAGIC",
    "Kind",
    "RecordHead",
    "action_of",
    "encode_command",
    "encode_value",
    "name_of",
    "read_arguments",
    "read_messages",
    "size_of",
]

#: The version of this form; a newer one is refused by name.
FORMAT = 1
HEAD = struct.Struct("<BBBBHHIQqqq")
#: Of a head, what says whether and where to look further: version, kind, partitions, the length of
#: the name, the command's id.
FRONT = struct.Struct("<xBBxHH4xQ")
MAGIC = 0xC5
LENGTHS = struct.Struct("<II")
_NONE = -1


class Kind(IntEnum):
    """What a record is."""

    APPEND = 1
    DELETE = 2
    EDIT = 3
    REPLACE = 4
    RESTORE = 5
    CLEAR = 6
    SET_METADATA = 7
    PART = 8
    CHECKPOINT = 9


class RecordHead(NamedTuple):
    """The head of a record's value.

    Attributes:
        magic: ``MAGIC``, with which no text begins.
        version: of the form, ``FORMAT``.
        kind: a ``Kind``.
        retry: 1 if an earlier attempt of this command may stand in the log.
        partitions: how many the topic has for its writer.
        name: the length of the session's name in bytes.
        messages: how many it holds.
        id: the command's; 0 for a checkpoint.
        seen: the offset of the session's last command that its writer had folded, or -1; of a
            checkpoint, the offset of the last command that it holds.
        expected: the version that the session must have, or -1.
        ttl: in microseconds, or -1.
    """

    magic: int
    version: int
    kind: int
    retry: int
    partitions: int
    name: int
    messages: int
    id: int
    seen: int
    expected: int
    ttl: int


_KINDS: dict[type, Kind] = {
    Append: Kind.APPEND,
    Delete: Kind.DELETE,
    Edit: Kind.EDIT,
    Replace: Kind.REPLACE,
    Restore: Kind.RESTORE,
    Clear: Kind.CLEAR,
    SetMetadata: Kind.SET_METADATA,
}


def name_of(namespace: str, key: str) -> bytes:
    """What tells a session from all others of the topic."""
    return b"%b\0%b" % (namespace.encode(), key.encode())


def encode_value(
    kind: Kind,
    name: bytes,
    *,
    id: int = 0,
    seen: int,
    partitions: int,
    retry: bool = False,
    expected: int | None = None,
    ttl: int | None = None,
    records: Sequence[Record] = (),
    arguments: bytes = b"",
) -> bytes:
    """A record's value; the arguments are those of `RecordHead`."""
    head = HEAD.pack(
        MAGIC,
        FORMAT,
        kind,
        retry,
        partitions,
        len(name),
        len(records),
        id,
        seen,
        _NONE if expected is None else expected,
        _NONE if ttl is None else ttl,
    )
    parts = [head, name]
    for record in records:
        message_id = record.id.encode()
        parts += [LENGTHS.pack(len(message_id), len(record.payload)), message_id, record.payload]
    parts.append(arguments)
    return b"".join(parts)


def size_of(record: Record) -> int:
    """The bytes that a message takes in a record."""
    return LENGTHS.size + len(record.id.encode()) + len(record.payload)


def encode_command(
    name: bytes,
    command: Command,
    *,
    seen: int,
    partitions: int,
    retry: bool,
    parts: Sequence[int] = (),
) -> bytes:
    """A command's value.

    Args:
        name: the session's.
        command: what to do.
        seen: see `RecordHead`.
        partitions: see `RecordHead`.
        retry: see `RecordHead`.
        parts: the tokens of the records that hold its messages, where one cannot.
    """
    action = command.action
    records: Sequence[Record] = ()
    arguments: Any = None
    match action:
        case Append() | Replace():
            records = action.records
        case Edit():
            records = [action.record]
        case Delete():
            arguments = list(action)
        case SetMetadata():
            arguments = [action.text.decode(), action.own]
        case Restore():
            records = action.records
            arguments = [action.metadata.decode(), action.own.decode(), *action[3:]]
        case Clear():
            pass
    if parts:
        records, arguments = (), {"parts": list(parts), "arguments": arguments}
    return encode_value(
        _KINDS[type(action)],
        name,
        id=command.id,
        seen=seen,
        partitions=partitions,
        retry=retry,
        expected=command.expected_version,
        ttl=command.ttl,
        records=records,
        arguments=b"" if arguments is None else to_json(arguments),
    )


def read_messages(body: bytes, count: int) -> tuple[list[Record], int]:
    """The messages with which a value goes on behind its name, and the place after them.

    Raises:
        ValueError: they are not all there.
    """
    records, start = [], 0
    for _ in range(count):
        if len(body) < start + LENGTHS.size:
            raise ValueError("it ends too early")
        id_length, length = LENGTHS.unpack_from(body, start)
        middle = start + LENGTHS.size + id_length
        start = middle + length
        records.append(Record(body[middle - id_length : middle].decode(), body[middle:start]))
    if start > len(body):
        raise ValueError("it ends too early")
    return records, start


def action_of(kind: int, records: list[Record], arguments: Any) -> Action:
    """The action of a record.

    Raises:
        ValueError: it is none.
    """
    try:
        match kind:
            case Kind.APPEND:
                return Append(records)
            case Kind.REPLACE:
                return Replace(records)
            case Kind.EDIT:
                return Edit(*records)
            case Kind.DELETE:
                return Delete(*arguments)
            case Kind.CLEAR:
                return Clear()
            case Kind.SET_METADATA:
                text, own = arguments
                return SetMetadata(text.encode(), own)
            case Kind.RESTORE:
                metadata, own, *rest = arguments
                return Restore(records, metadata.encode(), own.encode(), *rest)
    except (TypeError, AttributeError) as exc:
        raise ValueError(str(exc)) from None
    raise ValueError(f"an unknown kind {kind}")


def read_arguments(text: bytes) -> Any:
    """The arguments of a record; None if it has none."""
    return from_json(text) if text else None
