"""PartitionFold: the sessions of one partition, folded from its records in their order."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Container
from itertools import islice
from typing import Any, NoReturn

from chatstores.errors import BackendMismatchError
from chatstores.fold import Fold
from chatstores.state import Command, Outcome
from chatstores_kafka.checkpoint import decode_checkpoint, take_checkpoint
from chatstores_kafka.record import (
    FORMAT,
    FRONT,
    HEAD,
    LENGTHS,
    MAGIC,
    Kind,
    RecordHead,
    action_of,
    read_arguments,
    read_messages,
)
from chatstores_kafka.saved import Saved
from chatstores_kafka.state import INDEX_BITS, LoggedState, offset_of
from chatstores_kafka.unfolded import PLACE, UnfoldedState

__all__ = ["PartitionFold"]


_APPEND, _CHECKPOINT = int(Kind.APPEND), int(Kind.CHECKPOINT)
_place, _front = PLACE.pack, FRONT.unpack_from
_HEAD_BYTES, _LENGTHS_BYTES = HEAD.size, LENGTHS.size


class PartitionFold:
    """Folds records; its owner holds a lock around every call.

    Args:
        fold: where the sessions are, with those of the other partitions.
        partition: which partition this is.
        partitions: how many the topic has.
        waiting: the ids of the commands that somebody waits for.
        answer: is told the outcome of each of those: its id, and an outcome, or None where it was
            not done and never will be.
    """

    def __init__(
        self,
        fold: Fold,
        partition: int,
        partitions: int,
        waiting: Container[int],
        answer: Callable[[int, Outcome | None], None],
    ) -> None:
        self._fold = fold
        self._partition = partition
        self._partitions = partitions
        self._waiting = waiting
        self._answer = answer
        self.states: dict[bytes, LoggedState] = {}
        #: Where a log that is cut off begins: what stood before that is no message any more.
        self.begin = 0
        #: Records that are not ours: how many, and the offset of the newest.
        self.foreign = 0
        self.foreign_offset = -1
        #: While the log's older part is read, the tokens that were tombstoned in it; else None.
        self.dead: set[int] | None = set()
        #: Checkpoints of sessions that are not there: the tombstone of one ends its memory too.
        self._markers: dict[int, bytes] = {}
        #: What this process's own checkpoints made useless, by the checkpoint's token.
        self.useless: dict[int, list[int] | None] = {}
        self._shedding: list[LoggedState] = []
        #: Sessions whose records were only read; and what was tombstoned when the end was reached.
        self._unfolded: dict[bytes, UnfoldedState] = {}
        self._was_dead: set[int] = set()

    def _hold(self, name: bytes, state: LoggedState) -> None:
        self.states[name] = state
        namespace, _, key = name.partition(b"\0")
        self._fold.namespaces.setdefault(namespace.decode(), {})[key.decode()] = state

    def _hide(self, name: bytes) -> None:
        namespace, _, key = name.partition(b"\0")
        del self._fold.namespaces[namespace.decode()][key.decode()]

    def take_over(self, other: PartitionFold, fold: Fold) -> None:
        """Show these sessions in the place of those of another fold.

        Args:
            other: the fold of the same partition that was there.
            fold: where its sessions are, with those of the other partitions.
        """
        for name in other.states:
            other._hide(name)
        self._fold = fold
        for name, state in self.states.items():
            self._hold(name, state)

    def adopt(self, saved: Saved) -> None:
        """Begin with what an earlier process folded, as if this fold had read so far."""
        for name, state in saved.states.items():
            state.fold = self._unfold
            self._hold(name, state)
        self.foreign, self.foreign_offset = saved.about["foreign"]
        self._markers = {int(token): name.encode() for token, name in saved.about["markers"]}

    def about(self) -> dict[str, Any]:
        """What `adopt` needs to know beside the sessions: what JSON can say."""
        return {
            "foreign": [self.foreign, self.foreign_offset],
            "markers": [[token, name.decode()] for token, name in self._markers.items()],
        }

    def take(self, offset: int, now: int, key: bytes | None, value: bytes | None) -> None:
        """Fold one record.

        Args:
            offset: where it stands.
            now: its append time in microseconds.
            key: its token.
            value: what it says; None for a tombstone.

        Raises:
            BackendMismatchError: a newer version wrote it, the topic had other partitions, or it is
                ours and not readable.
        """
        if value is None:
            self._bury(key)
            return
        if len(value) < _HEAD_BYTES or value[0] != MAGIC or key is None or len(key) != 8:
            self.foreign += 1
            self.foreign_offset = offset
            return
        version, kind, partitions, length, number = _front(value)
        if version != FORMAT or partitions != self._partitions:
            self._refuse(offset, version, partitions)
        name = value[_HEAD_BYTES : _HEAD_BYTES + length]
        if self.dead is not None and number not in self._waiting:
            unfolded = self._unfolded.get(name) or self._begin_unfolded(name)
            if unfolded is not None:
                unfolded.places += _place(offset, now, key)
                unfolded.values.append(value)
                if kind == _CHECKPOINT:
                    self._markers[int.from_bytes(key, "little")] = name
                return
        state = self.states.get(name)
        if state is None:
            state = LoggedState()
            self._hold(name, state)
        self._fold_one(state, offset, now, int.from_bytes(key, "little"), value)

    def _begin_unfolded(self, name: bytes) -> UnfoldedState | None:
        """A session whose records need only be read; None if it is in use already."""
        state = self.states.get(name)
        if state is None:
            state = UnfoldedState(name, self._unfold)
            self._hold(name, state)
        elif isinstance(state, UnfoldedState) and not state.is_folded:
            state.forget()  # what its file says of it is not so any more
        else:
            return None
        self._unfolded[name] = state
        return state

    def _fold_one(
        self, state: LoggedState, offset: int, now: int, token: int, value: bytes
    ) -> None:
        """Fold a record of ours, of this version."""
        head = HEAD.unpack_from(value)
        _, _, kind, retry, _, length, count, number, seen, expected, ttl = head
        start = _HEAD_BYTES + length
        try:
            state.offsets.append(offset)
            state.tokens.append(token)
            if (
                kind == _APPEND
                and count == 1
                and expected < 0
                and not retry
                and seen >= state.remembered.floor
            ):
                id_length, _ = LENGTHS.unpack_from(value, start)
                start_id = start + _LENGTHS_BYTES
                middle = start_id + id_length
                done = state.append_one(
                    number,
                    value[start_id:middle].decode(),
                    value[middle:],
                    None if ttl < 0 else ttl,
                    offset,
                    now,
                )
                if done is not None:
                    if number in self._waiting:
                        self._answer(number, Outcome(done, 1))
                    return
            name = value[_HEAD_BYTES:start]
            self._take(state, name, RecordHead(*head), token, offset, now, value[start:])
        except (ValueError, KeyError, TypeError, struct.error) as exc:
            raise BackendMismatchError(
                f"{self._at(offset)} is a record of chatstores that is not readable: {exc!r}"
            ) from None

    def reached_end(self) -> None:
        """Forget what only matters while records may be missing: an end was reached in time."""
        for state in self._shedding:
            state.shed = {}
            state.newest = None
        self._shedding.clear()
        if self.dead:
            for state in self.states.values():
                # What is not used yet drops them when it is folded.
                if not isinstance(state, UnfoldedState) or state.is_folded:
                    _drop(state, self.dead)
        self._was_dead, self.dead = self.dead or self._was_dead, None

    @property
    def is_unfolded(self) -> bool:
        """Whether there are sessions whose records were only read."""
        return bool(self._unfolded)

    def unfold(self, most: int) -> None:
        """Fold some of the sessions whose records were only read."""
        for state in list(islice(self._unfolded.values(), most)):
            assert state.sources is not None  # which folds it

    def _unfold(self, state: UnfoldedState) -> None:
        """Fold what was read of a session; as if that had been done when it was read."""
        dead, self.dead = self.dead, self._was_dead if self.dead is None else self.dead
        shedding = len(self._shedding)
        try:
            for record in state.records:
                self._fold_one(state, *record)
        finally:
            self.dead = dead
        self._unfolded.pop(state.name, None)
        if dead is None:  # the end was reached since
            del self._shedding[shedding:]
            state.shed, state.newest = {}, None
            _drop(state, self._was_dead)

    def _take(
        self,
        state: LoggedState,
        name: bytes,
        head: RecordHead,
        token: int,
        offset: int,
        now: int,
        body: bytes,
    ) -> None:
        """Fold a record in the general way."""
        if not state.shed:
            self._shedding.append(state)
        records, end = read_messages(body, head.messages)
        if head.kind == Kind.PART:
            state.parts[token] = (offset, records)
            return
        if head.kind == Kind.CHECKPOINT:
            self._take_checkpoint(state, name, head, token, offset, body)
            return
        sources = [offset << INDEX_BITS | index for index in range(len(records))]
        arguments = read_arguments(body[end:])
        tokens = arguments["parts"] if isinstance(arguments, dict) else []
        if tokens:
            there = [state.parts[part] for part in tokens if part in state.parts]
            if len(there) < len(tokens):  # cut off by a checkpoint: it cannot be done
                state.lose(offset)
                if head.id in self._waiting:
                    self._answer(head.id, None)
                return
            arguments = arguments["arguments"]
            for place, some in there:
                sources += [place << INDEX_BITS | index for index in range(len(some))]
                records += some
        command = Command(
            head.id,
            action_of(head.kind, records, arguments),
            None if head.expected < 0 else head.expected,
            None if head.ttl < 0 else head.ttl,
        )
        outcome = state.take(
            command, sources, seen=head.seen, retry=bool(head.retry), offset=offset, now=now
        )
        for part in tokens:
            del state.parts[part]  # its messages are rows now, or shed
        if head.id in self._waiting:
            self._answer(head.id, outcome)

    def _take_checkpoint(
        self,
        state: LoggedState,
        name: bytes,
        head: RecordHead,
        token: int,
        offset: int,
        body: bytes,
    ) -> None:
        checkpoint = decode_checkpoint(body)
        whole = self.dead is None
        if not take_checkpoint(state, checkpoint, head.seen, offset, whole=whole, begin=self.begin):
            if token in self.useless:
                self.useless[token] = []
            return
        if not state.alive:
            self._markers[token] = name
        if not whole:
            return
        # What it made useless is its maker's to tombstone; if that does not, the next purge's.
        needed = {offset_of(source) for source in state.sources} | {offset}
        pairs = list(zip(state.offsets, state.tokens, strict=True))
        kept = [pair for pair in pairs if pair[0] in needed]
        state.offsets = array("q", [pair[0] for pair in kept])
        state.tokens = array("Q", [pair[1] for pair in kept])
        if token in self.useless:
            self.useless[token] = [pair[1] for pair in pairs if pair[0] not in needed]

    def _bury(self, key: bytes | None) -> None:
        """Fold a tombstone."""
        if key is None or len(key) != 8:
            return
        token = int.from_bytes(key, "little")
        if self.dead is not None:
            self.dead.add(token)
        name = self._markers.pop(token, None)
        state = self.states.get(name) if name is not None else None
        if name is None or state is None or state.alive or state.tokens[-1:] != array("Q", [token]):
            return
        del self.states[name]
        self._hide(name)

    def _refuse(self, offset: int, version: int, partitions: int) -> NoReturn:
        if version > FORMAT:
            raise BackendMismatchError(
                f"{self._at(offset)} was written by a newer chatstores (record format {version}, "
                f"this one knows {FORMAT}): upgrade it"
            )
        raise BackendMismatchError(
            f"{self._at(offset)} was written when the topic had {partitions} partitions, now it "
            f"has {self._partitions}: sessions are found by that number, so it must not change; "
            "persist them with the number that was, and load them into a new topic"
        )

    def _at(self, offset: int) -> str:
        return f"partition {self._partition}, offset {offset},"


def _drop(state: LoggedState, dead: set[int]) -> None:
    """Forget a session's records that are tombstoned."""
    keep = [i for i, token in enumerate(state.tokens) if token not in dead]
    if len(keep) < len(state.tokens):
        state.offsets = array("q", [state.offsets[i] for i in keep])
        state.tokens = array("Q", [state.tokens[i] for i in keep])
