"""Saved: a partition's sessions as bytes, each of them read when it is first used.

Little-endian::

    bodies     of each session: a checkpoint's head and columns; in more columns, its records'
               offsets and tokens, and the lengths of its messages' ids and texts; then those
    index      of each session: a struct, its name
    about      JSON: which partition it is, and how far it was read
    trailer    a struct

A body is looked at when its session is used: a topic of a million messages is there at once.
"""

from __future__ import annotations

import struct
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from mmap import mmap
from typing import Any, NamedTuple

from pydantic_core import from_json, to_json

from chatstores.errors import BackendMismatchError
from chatstores.state import Record
from chatstores_kafka.checkpoint import COLUMNS, Checkpoint, assume, describe, pack, unpack
from chatstores_kafka.state import LoggedState
from chatstores_kafka.unfolded import UnfoldedState

__all__ = ["Captured", "Saved", "SavedState", "capture", "encode", "read_saved"]

_MAGIC = b"chatview"
#: The version of this form: a file of another one is not read.
_FORMAT = 1
#: The place of the index, the lengths of the index and of what is about, the checksum of both, the
#: form, the magic.
_TRAILER = struct.Struct("<QQQIB8s")
#: Of a session: alive, waste, last write, expiry or -1, the body's place, length and checksum, the
#: name's length.
_ENTRY = struct.Struct("<?IqqQQIH")
#: What is kept of a session and does not stand in a checkpoint.
_KEPT = ("mark", "checkpoint", "waste", "since")
#: The types of the further columns.
_MORE = "qQqq"


class _Body(NamedTuple):
    """Where the rest of a session stands."""

    data: mmap | bytes
    start: int
    length: int
    checksum: int

    def read(self) -> bytes:
        """Its bytes.

        Raises:
            BackendMismatchError: they are not what was written.
        """
        body = bytes(memoryview(self.data)[self.start : self.start + self.length])
        if zlib.crc32(body) != self.checksum:
            raise BackendMismatchError(
                "a file of state_dir= is damaged: remove it, and the topic is read instead"
            )
        return body


class SavedState(UnfoldedState):
    """A session of a file, which is read when something is asked for that is not there yet."""

    __slots__ = ("_body",)

    def __init__(
        self,
        name: bytes,
        body: _Body,
        alive: bool,
        waste: int,
        updated_at: int,
        expires_at: int | None,
    ) -> None:
        """Have what a listing looks at, and know where the rest is."""
        super().__init__(name, lambda _: None)
        self._body = body
        self.alive = alive
        self.waste = waste
        self.updated_at = updated_at
        self.expires_at = expires_at

    @property
    def saved(self) -> _Body | None:
        """Where all of it stands, if nothing came since and it was not used; else None."""
        return None if self.is_folded or self.values else self._body

    def _start(self) -> None:
        super()._start()
        _fill(self, self._body.read())


class Captured(NamedTuple):
    """A session as it was at a moment."""

    name: bytes
    alive: bool
    waste: int
    updated_at: int
    expires_at: int | None
    rest: _Body | tuple[Checkpoint, list[array[int]], list[Record]]

    def body(self) -> bytes:
        """The rest as bytes."""
        if isinstance(self.rest, _Body):
            return self.rest.read()
        (head, columns), more, records = self.rest
        ids = "".join([record.id for record in records]).encode()
        more = [
            *more,
            array("q", [len(record.id) for record in records]),
            array("q", [len(record.payload) for record in records]),
        ]
        payloads = [record.payload for record in records]
        return b"".join([pack(head | {"ids": len(ids)}, [*columns, *more]), ids, *payloads])


class Saved(NamedTuple):
    """What a file holds.

    Attributes:
        about: which partition it is, and how far it was read.
        states: its sessions by name.
    """

    about: dict[str, Any]
    states: dict[bytes, SavedState]


def capture(states: Mapping[bytes, LoggedState]) -> list[Captured]:
    """Sessions as they are now; who may change them waits meanwhile."""
    found = []
    for name, state in states.items():
        rest = state.saved if isinstance(state, SavedState) else None
        found.append(
            Captured(
                name,
                state.alive,
                state.waste,
                state.updated_at,
                state.expires_at,
                rest or _rest_of(state),
            )
        )
    return found


def _rest_of(state: LoggedState) -> tuple[Checkpoint, list[array[int]], list[Record]]:
    head, columns = describe(state)
    records = list(map(Record, state.ids, state.payloads))
    parts = []
    for token, (place, some) in state.parts.items():
        parts.append([token, place, len(some)])
        records += some
    head |= {"parts": parts, **{name: getattr(state, name) for name in _KEPT}}
    return Checkpoint(head, columns), [state.offsets[:], state.tokens[:]], records


def encode(captured: Iterable[Captured], about: Mapping[str, Any]) -> Iterator[bytes]:
    """A file's bytes, piece by piece.

    Args:
        captured: the sessions.
        about: which partition it is, and how far it was read: what JSON can say.
    """
    index, place = [], 0
    for one in captured:
        body = one.body()
        expires_at = -1 if one.expires_at is None else one.expires_at
        waste = min(one.waste, 2**32 - 1)
        index += [
            _ENTRY.pack(
                one.alive,
                waste,
                one.updated_at,
                expires_at,
                place,
                len(body),
                zlib.crc32(body),
                len(one.name),
            ),
            one.name,
        ]
        place += len(body)
        yield body
    entries, text = b"".join(index), to_json(about)
    yield entries
    yield text
    checksum = zlib.crc32(text, zlib.crc32(entries))
    yield _TRAILER.pack(place, len(entries), len(text), checksum, _FORMAT, _MAGIC)


def read_saved(data: mmap | bytes) -> Saved:
    """What a file holds, which stays mapped as long as a session of it was not read.

    Raises:
        ValueError: it is not readable, or of another form.
    """
    view = memoryview(data)
    end = len(view) - _TRAILER.size
    if end < 0:
        raise ValueError("it is too short")
    place, length, about_length, checksum, version, magic = _TRAILER.unpack_from(view, end)
    if magic != _MAGIC or version != _FORMAT:
        raise ValueError("it is of another form")
    if place + length + about_length != end or zlib.crc32(view[place:end]) != checksum:
        raise ValueError("it is damaged")
    index = bytes(view[place : place + length])
    states: dict[bytes, SavedState] = {}
    at = 0
    while at < length:
        alive, waste, updated_at, expires_at, start, size, crc, name = _ENTRY.unpack_from(index, at)
        at += _ENTRY.size + name
        text = index[at - name : at]
        states[text] = SavedState(
            text,
            _Body(data, start, size, crc),
            alive,
            waste,
            updated_at,
            None if expires_at < 0 else expires_at,
        )
    return Saved(from_json(bytes(view[place + length : end])), states)


def _fill(state: LoggedState, body: bytes) -> None:
    (head, columns), start = unpack(body, COLUMNS + _MORE)
    offsets, tokens, id_lengths, lengths = columns[len(COLUMNS) :]
    assume(state, Checkpoint(head, columns[: len(COLUMNS)]), {})
    middle = start + head["ids"]
    text = body[start:middle].decode()
    ids = [text[a:b] for a, b in pairwise(accumulate(id_lengths, initial=0))]
    payloads = [body[a:b] for a, b in pairwise(accumulate(lengths, initial=middle))]
    count = len(state.sources)
    state.ids, state.payloads = ids[:count], payloads[:count]
    state.offsets, state.tokens = offsets, tokens
    for name in _KEPT:
        setattr(state, name, head[name])
    rest = map(Record, ids[count:], payloads[count:])
    for token, place, number in head["parts"]:
        some: Sequence[Record] = [next(rest) for _ in range(number)]
        state.parts[token] = (place, some)
