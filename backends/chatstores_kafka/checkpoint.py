"""Checkpoints: a session in one record, by naming the records whose messages it holds.

What a checkpoint names stays in the log; every other record of the session before it is useless
and may be removed by a tombstone. The arguments of a checkpoint's record are, compressed, a JSON
head, a NUL and the columns.
"""

from __future__ import annotations

import sys
import zlib
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic_core import from_json, to_json

from chatstores.state import Outcome, Record
from chatstores_kafka.state import LoggedState, Remembered, offset_of

__all__ = [
    "COLUMNS",
    "GONE",
    "Checkpoint",
    "assume",
    "decode_checkpoint",
    "describe",
    "encode_checkpoint",
    "pack",
    "take_checkpoint",
    "unpack",
]

#: How many commands a checkpoint remembers.
_REMEMBERED = 16
#: What a message reads as whose record is not in the log any more; no JSON begins so.
GONE = b"\0the record that holds it is gone from the topic"

#: The types of a checkpoint's columns: sources, ordinals; commands' ids, offsets, versions, added.
COLUMNS = "qqQqqq"
#: What a checkpoint's head says of a session as it is.
_FIELDS = (
    "version",
    "alive",
    "epoch",
    "last_ordinal",
    "batch",
    "created_at",
    "updated_at",
    "expires_at",
    "time",
)


class Checkpoint(NamedTuple):
    """What a checkpoint says: a head, and the columns of the rows and of what is remembered."""

    head: dict[str, Any]
    columns: list[array[int]]


def describe(state: LoggedState, remembered: int | None = None) -> Checkpoint:
    """A session as it stands, but for its messages' ids and bytes.

    Args:
        state: the session.
        remembered: how many commands it remembers; None: as many as the session.
    """
    memory = state.remembered
    since = 0 if remembered is None else max(0, len(memory.ids) - remembered)
    ids = memory.ids[since:]
    columns = [
        state.sources[:],
        state.ordinals[:],
        ids,
        memory.offsets[since:],
        memory.versions[since:],
        memory.added[since:],
    ]
    head = {name: getattr(state, name) for name in _FIELDS} | {
        "metadata": state.metadata.decode(),
        "own": state.own.decode(),
        "floor": memory.offsets[since - 1] if since else memory.floor,
        # What was removed is not written again: a command that removed says only that it did.
        "others": [
            [number, *outcome[:2], bool(outcome.removed), *outcome[3:]]
            for number, outcome in memory.others.items()
            if number in ids
        ],
        "overtaken": [number for number in memory.overtaken if number in ids],
    }
    return Checkpoint(head, columns)


def encode_checkpoint(state: LoggedState) -> bytes:
    """The arguments of a checkpoint of a session as it stands."""
    return zlib.compress(pack(*describe(state, _REMEMBERED)), 1)


def decode_checkpoint(arguments: bytes) -> Checkpoint:
    """A checkpoint.

    Raises:
        ValueError: it is not readable.
    """
    try:
        return unpack(zlib.decompress(arguments), COLUMNS)[0]
    except zlib.error as exc:
        raise ValueError(f"no checkpoint: {exc!r}") from None


def pack(head: dict[str, Any], columns: Sequence[array[int]]) -> bytes:
    """A head and columns as bytes."""
    lengths = [len(column) for column in columns]
    return to_json(head | {"lengths": lengths}) + b"\0" + b"".join(map(_little, columns))


def unpack(data: bytes, codes: str) -> tuple[Checkpoint, int]:
    """A head and columns of such types, and the place where they end.

    Raises:
        ValueError: they are not readable.
    """
    try:
        start = data.index(b"\0") + 1
        head = from_json(data[: start - 1])
        columns = []
        for code, length in zip(codes, head["lengths"], strict=True):
            column = array(code)
            column.frombytes(data[start : start + 8 * length])
            if sys.byteorder == "big":
                column.byteswap()
            columns.append(column)
            start += 8 * length
    except (KeyError, TypeError) as exc:
        raise ValueError(f"no checkpoint: {exc!r}") from None
    return Checkpoint(head, columns), start


def take_checkpoint(
    state: LoggedState,
    checkpoint: Checkpoint,
    upto: int,
    offset: int,
    *,
    whole: bool,
    begin: int = 0,
) -> bool:
    """Make a session what a checkpoint says, if no command came after what it holds.

    Args:
        state: the session.
        checkpoint: what it says.
        upto: the offset of the last command that it holds.
        offset: its own.
        whole: whether no record was missing so far: then what was removed is still known here, and
            is the answer to a command that comes again.
        begin: where the log begins, if its older part is cut off: the messages that stood
            there are not in the session any more.

    Returns:
        Whether it was effective. Any other message whose record is not in the log reads as
        ``GONE``, which is no message.
    """
    if state.mark > upto:
        return False
    sources = checkpoint.columns[0]
    if sources != state.sources:
        found = state.rows_by_source()
        here = [i for i, one in enumerate(sources) if one in found or offset_of(one) >= begin]
        if len(here) < len(sources):
            sources = array("q", [sources[index] for index in here])
            ordinals = array("q", [checkpoint.columns[1][index] for index in here])
            columns = [sources, ordinals, *checkpoint.columns[2:]]
            checkpoint = checkpoint._replace(columns=columns)
        rows = []
        for source in sources:
            record = found.get(source)
            if record is None:
                record = Record(f"gone {source}", GONE)
            rows.append(record)
        state.ids = [row.id for row in rows]
        state.payloads = [row.payload for row in rows]
        state.sources = sources
    assume(state, checkpoint, state.remembered.others if whole else {})
    state.mark, state.checkpoint = upto, offset
    state.waste = state.since = 0
    state.shed = {}
    state.parts = {}
    state.newest = None
    return True


def assume(state: LoggedState, checkpoint: Checkpoint, known: Mapping[int, Outcome]) -> None:
    """Make a session what a checkpoint says, but for its messages' ids and bytes.

    Args:
        state: the session.
        checkpoint: what it says.
        known: what commands answered, by id, as far as it is known better.
    """
    head, (state.sources, state.ordinals, ids, offsets, versions, added) = checkpoint
    for name in _FIELDS:
        setattr(state, name, head[name])
    state.metadata, state.own = head["metadata"].encode(), head["own"].encode()
    others = {
        number: known.get(number)
        or Outcome(version, some, (), cleared, "unknown" if removed else refusal, detail)
        for number, version, some, removed, cleared, refusal, detail in head["others"]
    }
    state.remembered = Remembered(
        ids, offsets, versions, added, others, set(head["overtaken"]), head["floor"]
    )


def _little(column: array[int]) -> bytes:
    if sys.byteorder == "big":
        column = column[:]
        column.byteswap()
    return column.tobytes()
