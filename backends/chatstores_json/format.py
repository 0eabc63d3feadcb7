"""The bytes of the two files: the head of the journal, and the checkpoint.

Behind the journal's head each line is one entry of ``chatstores.entries``. The checkpoint is one
JSON object.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic_core import from_json, to_json

from chatstores.entries import DAMAGED
from chatstores.state import Outcome, Row, SessionState

__all__ = [
    "NotOurs",
    "checkpoint_parts",
    "journal_head",
    "parse_checkpoint",
    "parse_journal_head",
]

NAME = "chatstores"
VERSION = 1


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
        if not text:
            raise NotOurs("it is empty") from None
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
        ordinals=array("q", [row.ordinal for row in rows]),
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
