"""Checkpoints: a session in one record, by naming the records whose messages it holds.

What a checkpoint names stays in the log; every other record of the session before it is useless
and may be removed by a tombstone. The arguments of a checkpoint's record are, compressed, a JSON
head, a NUL and the columns.
"""

from __future__ import annotations

import sys
import zlib
from array import array
from typing import Any, NamedTuple

from pydantic_core import from_json, to_json

from chatstores.state import Outcome, Record
from chatstores_kafka.state import LoggedState, Remembered

__all__ = ["GONE", "decode_checkpoint", "encode_checkpoint", "take_checkpoint"]

#: How many commands a checkpoint remembers.
_REMEMBERED = 16
#: What a message reads as whose record is not in the log any more; no JSON begins so.
GONE = b"\0the record that holds it is gone from the topic"


class Checkpoint(NamedTuple):
    """What a checkpoint says: a head, and the columns of the rows and of what is remembered."""

    head: dict[str, Any]
    columns: list[array[int]]


def encode_checkpoint(state: LoggedState) -> bytes:
    """The arguments of a checkpoint of a session as it stands."""
    memory = state.remembered
    since = max(0, len(memory.ids) - _REMEMBERED)
    ids = memory.ids[since:]
    columns = [
        state.sources,
        state.ordinals,
        ids,
        memory.offsets[since:],
        memory.versions[since:],
        memory.added[since:],
    ]
    head = {
        "version": state.version,
        "alive": state.alive,
        "epoch": state.epoch,
        "last_ordinal": state.last_ordinal,
        "batch": state.batch,
        "created_at": state.created_at,
        "updated_at": state.updated_at,
        "expires_at": state.expires_at,
        "time": state.time,
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
        "lengths": [len(column) for column in columns],
    }
    return zlib.compress(to_json(head) + b"\0" + b"".join(map(_little, columns)), 1)


def decode_checkpoint(arguments: bytes) -> Checkpoint:
    """A checkpoint.

    Raises:
        ValueError: it is not readable.
    """
    try:
        text, _, data = zlib.decompress(arguments).partition(b"\0")
        head = from_json(text)
        columns, start = [], 0
        for code, length in zip("qqQqqq", head["lengths"], strict=True):
            column = array(code)
            column.frombytes(data[start : start + 8 * length])
            if sys.byteorder == "big":
                column.byteswap()
            columns.append(column)
            start += 8 * length
    except (zlib.error, KeyError, TypeError) as exc:
        raise ValueError(f"no checkpoint: {exc!r}") from None
    return Checkpoint(head, columns)


def take_checkpoint(
    state: LoggedState, checkpoint: Checkpoint, upto: int, offset: int, *, whole: bool
) -> bool:
    """Make a session what a checkpoint says, if no command came after what it holds.

    Args:
        state: the session.
        checkpoint: what it says.
        upto: the offset of the last command that it holds.
        offset: its own.
        whole: whether no record was missing so far: then what was removed is still known here, and
            is the answer to a command that comes again.

    Returns:
        Whether it was effective. A message whose record is not in the log any more reads as
        ``GONE``, which is no message.
    """
    if state.mark > upto:
        return False
    head, (sources, ordinals, ids, offsets, versions, added) = checkpoint
    if sources != state.sources:
        found = state.rows_by_source()
        rows = []
        for source in sources:
            record = found.get(source)
            if record is None:
                record = Record(f"gone {source}", GONE)
            rows.append(record)
        state.ids = [row.id for row in rows]
        state.payloads = [row.payload for row in rows]
        state.sources = sources
    state.ordinals = ordinals
    for name in (
        "version",
        "alive",
        "epoch",
        "last_ordinal",
        "batch",
        "created_at",
        "updated_at",
        "expires_at",
        "time",
    ):
        setattr(state, name, head[name])
    state.metadata, state.own = head["metadata"].encode(), head["own"].encode()
    known = state.remembered.others if whole else {}
    others = {
        number: known.get(number)
        or Outcome(version, some, (), cleared, "unknown" if removed else refusal, detail)
        for number, version, some, removed, cleared, refusal, detail in head["others"]
    }
    state.remembered = Remembered(
        ids, offsets, versions, added, others, set(head["overtaken"]), head["floor"]
    )
    state.mark, state.checkpoint = upto, offset
    state.waste = 0
    state.shed = {}
    state.parts = {}
    state.newest = None
    return True


def _little(column: array[int]) -> bytes:
    if sys.byteorder == "big":
        column = column[:]
        column.byteswap()
    return column.tobytes()
