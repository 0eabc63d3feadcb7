"""Entries: a command as bytes, and back; what a store that keeps a log of commands writes.

An entry is ``<crc32> <header>[TAB<message>...]``. The header and the messages are JSON, which holds
no raw tab or newline, so the messages stand in it as they are stored, and an entry is one line.

`Fold.commit_logged` says what belongs into a log, and `Fold.replay` does it again: in their order,
the entries give the same sessions, and the same answer to a command that is sent again.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic_core import from_json, to_json

from chatstores.state import (
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

__all__ = ["DAMAGED", "Entry", "decode_entry", "encode_entry"]

#: What a message begins with that stood in an entry with a wrong checksum: no JSON does, so that
#: reading it is a CorruptRecordError.
DAMAGED = b"\0"


class Entry(NamedTuple):
    """One committed command.

    Attributes:
        namespace: the session's namespace.
        key: the session's key.
        command: what was done; without the version that it expected, which was met.
        time: when, in microseconds since 1970: what it is applied with, then and ever after.
    """

    namespace: str
    key: str
    command: Command
    time: int


def encode_entry(namespace: str, key: str, command: Command, time: int) -> bytes:
    """An entry's bytes; the arguments are its attributes. They hold no newline."""
    action = command.action
    head: dict[str, Any] = {
        "action": type(action).__name__,
        "namespace": namespace,
        "key": key,
        "id": f"{command.id:016x}",
        "time": time,
    }
    if command.ttl is not None:
        head["ttl"] = command.ttl
    records: Sequence[Record] = ()
    match action:
        case Append() | Replace():
            records = action.records
        case Edit():
            records = [action.record]
        case Delete():
            head["which"], head["argument"] = action.which, action.argument
        case SetMetadata():
            head["text"], head["own"] = action.text, action.own
        case Restore():
            records = action.records
            head["restored"] = list(action[1:])
        case Clear():
            pass
    if records:
        head["ids"] = [record.id for record in records]
    text = b"\t".join([to_json(head), *[record.payload for record in records]])
    return b"%08x %b" % (zlib.crc32(text), text)


def decode_entry(data: bytes) -> Entry:
    """The entry of some bytes.

    The messages of one with a wrong checksum are marked as ``DAMAGED``, so that the rest of the
    session stays readable.

    Raises:
        ValueError: not even its header is readable.
    """
    checksum, _, text = data.partition(b" ")
    head_text, *payloads = text.split(b"\t")
    if checksum != b"%08x" % zlib.crc32(text):
        payloads = [DAMAGED + payload for payload in payloads]
    try:
        head = from_json(head_text)
        records = [Record(*pair) for pair in zip(head.get("ids", ()), payloads, strict=True)]
        command = Command(int(head["id"], 16), _action(head, records), None, head.get("ttl"))
        return Entry(head["namespace"], head["key"], command, head["time"])
    except (KeyError, TypeError, AttributeError) as exc:
        raise ValueError(f"no command's header: {exc!r}") from None


def _action(head: Mapping[str, Any], records: list[Record]) -> Any:
    match head["action"]:
        case "Append":
            return Append(records)
        case "Replace":
            return Replace(records)
        case "Edit":
            return Edit(*records)
        case "Delete":
            return Delete(head["which"], head["argument"])
        case "Clear":
            return Clear()
        case "SetMetadata":
            return SetMetadata(head["text"].encode(), head["own"])
        case "Restore":
            metadata, own, *rest = head["restored"]
            return Restore(records, metadata.encode(), own.encode(), *rest)
        case other:
            raise ValueError(f"an unknown action {other!r}")
