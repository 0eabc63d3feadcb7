"""The bytes of the two files: a line of the journal, and the checkpoint.

A line is ``<crc32> <header>[TAB<message>...]``: the header and the messages are JSON, which holds
no raw tab or newline, so the messages stand in it as they are stored. The checkpoint is one JSON
object.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic_core import from_json, to_json

from chatstores.state import (
    Append,
    Clear,
    Command,
    Delete,
    Edit,
    Outcome,
    Record,
    Replace,
    Restore,
    Row,
    SessionState,
    SetMetadata,
)

__all__ = [
    "DAMAGED",
    "Entry",
    "NotOurs",
    "checkpoint_parts",
    "journal_head",
    "parse_checkpoint",
    "parse_journal_head",
    "parse_line",
    "to_line",
]

NAME = "chatstores"
VERSION = 1

#: What a message begins with that stood in a line with a wrong checksum: no JSON does.
DAMAGED = b"\0"

Entry = tuple[str, str, Command, int]  # namespace, key, command, time


class NotOurs(ValueError):
    """The file is not one that this version of the store wrote; the text says what it is."""


def journal_head(generation: int) -> bytes:
    """The first line of a journal."""
    return to_json({"journal": NAME, "version": VERSION, "generation": generation}) + b"\n"


def parse_journal_head(line: bytes) -> int:
    """A journal's generation."""
    try:
        head = from_json(line)
        name, version, generation = head["journal"], head["version"], head["generation"]
    except (ValueError, KeyError, TypeError):
        raise NotOurs("its first line is not a journal's") from None
    _check(name, version)
    return int(generation)


def _check(name: Any, version: Any) -> None:
    if name != NAME:
        raise NotOurs("another program wrote it")
    if version != VERSION:
        raise NotOurs(f"it has format {version}, and this version reads {VERSION}")


def to_line(namespace: str, key: str, command: Command, time: int) -> bytes:
    """A command as a line."""
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
    return b"%08x %b\n" % (zlib.crc32(text), text)


def parse_line(line: bytes) -> Entry:
    """A line as a command, its namespace, key and time.

    The messages of a line with a wrong checksum are marked as damaged.

    Raises:
        ValueError: not even its header is readable.
    """
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    head_text, *payloads = text.split(b"\t")
    if checksum != b"%08x" % zlib.crc32(text):
        payloads = [DAMAGED + payload for payload in payloads]
    try:
        head = from_json(head_text)
        records = [Record(*pair) for pair in zip(head.get("ids", ()), payloads, strict=True)]
        command = Command(int(head["id"], 16), _action(head, records), None, head.get("ttl"))
        return head["namespace"], head["key"], command, head["time"]
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


# The checkpoint


def checkpoint_parts(
    namespaces: Mapping[str, Mapping[str, SessionState]], generation: int, now: int
) -> Iterator[bytes]:
    """A checkpoint, piece by piece; markers of dead sessions that have done their work are left."""
    yield b'{"format":"%b","version":%d,"generation":%d,"sessions":[' % (
        NAME.encode(),
        VERSION,
        generation,
    )
    comma = b"\n"
    for namespace, sessions in namespaces.items():
        for key, state in sessions.items():
            if not state.is_forgettable(now):
                yield comma + _session(namespace, key, state)
                comma = b",\n"
    yield b"\n]}\n"


def _session(namespace: str, key: str, state: SessionState) -> bytes:
    head = {
        "namespace": namespace,
        "key": key,
        "version": state.version,
        "alive": state.alive,
        "epoch": state.epoch,
        "last_ordinal": state.last_ordinal,
        "batch": state.batch,
        "created_at": state.created_at,
        "updated_at": state.updated_at,
        "expires_at": state.expires_at,
        "metadata": state.metadata,
        "own": state.own,
        "floor": state.floor,
        "commands": [
            [f"{command_id:016x}", time, *_without_text(outcome)]
            for command_id, (time, outcome) in state.commands.items()
        ],
    }
    rows = b",\n".join(
        b"[%d,%b]" % (row.ordinal, to_json(row.payload.decode("latin-1")))
        if row.payload.startswith(DAMAGED)
        else b"[%d,%b]" % (row.ordinal, row.payload)
        for row in state.rows
    )
    return to_json(head)[:-1] + b',"messages":[' + (b"\n" + rows if rows else b"") + b"]}"


def _without_text(outcome: Outcome) -> tuple[Any, ...]:
    """What is kept of a command's outcome: the text of what it removed is not."""
    if outcome.removed:
        outcome = Outcome(outcome.version, refusal="unknown")
    return outcome.version, outcome.added, outcome.cleared, outcome.refusal, outcome.detail


def parse_checkpoint(text: bytes) -> tuple[int, dict[str, dict[str, SessionState]]]:
    """A checkpoint's generation and its sessions.

    Raises:
        NotOurs: another program, or another version, wrote it.
        ValueError: it is damaged.
    """
    try:
        whole = from_json(text)
    except ValueError as exc:
        if text.startswith(b'{"format":"chatstores"'):
            raise ValueError(f"it is no JSON: {exc}") from None
        raise NotOurs("it is no JSON") from None
    if not isinstance(whole, dict) or "format" not in whole:
        raise NotOurs("another program wrote it")
    _check(whole["format"], whole.get("version"))
    namespaces: dict[str, dict[str, SessionState]] = {}
    try:
        for entry in whole["sessions"]:
            namespace, key = entry.pop("namespace"), entry.pop("key")
            namespaces.setdefault(namespace, {})[key] = _parse_session(entry)
        return whole["generation"], namespaces
    except (KeyError, TypeError, AttributeError) as exc:
        raise ValueError(f"a session in it is incomplete: {exc!r}") from None


def _parse_session(entry: dict[str, Any]) -> SessionState:
    rows = [_parse_row(*pair) for pair in entry.pop("messages")]
    metadata, own = entry.pop("metadata").encode(), entry.pop("own").encode()
    commands = entry.pop("commands")
    state = SessionState(
        **entry,
        ordinals=[row.ordinal for row in rows],
        ids=[row.id for row in rows],
        payloads=[row.payload for row in rows],
        metadata=metadata,
        own=own,
    )
    for command_id, time, version, added, cleared, refusal, detail in commands:
        outcome = Outcome(version, added, (), cleared, refusal, detail)
        state.commands[int(command_id, 16)] = (time, outcome)
    return state


def _parse_row(ordinal: int, message: Any) -> Row:
    if isinstance(message, str):
        return Row(ordinal, "", message.encode("latin-1"))
    return Row(ordinal, message["id"], to_json(message))
