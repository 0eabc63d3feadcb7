"""Cleanup: checkpoints of sessions that have grown useless records, and the tombstones of those.

A record is tombstoned only when a checkpoint that does without it was read back from the log and
found effective. What a process did not finish, the next `purge_expired` does: it reads the log from
its beginning, and so knows every record that is still there.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from array import array
from collections.abc import Iterable, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, NamedTuple

from confluent_kafka import KafkaException

from chatstores.errors import ChatStoreError
from chatstores.state import MARKER_US, now_us
from chatstores_kafka.checkpoint import encode_checkpoint
from chatstores_kafka.fold import PartitionFold
from chatstores_kafka.promise import Promise
from chatstores_kafka.record import Kind, encode_value
from chatstores_kafka.replay import read_whole
from chatstores_kafka.state import LoggedState, offset_of

if TYPE_CHECKING:
    from chatstores_kafka.view import View

__all__ = ["Cleaner", "Draft", "draft_checkpoint", "is_due", "leftovers"]

#: A session may have so many useless records and rows, or as many as it has messages.
_WASTE = 16
#: The part of a retention that a command may be without a checkpoint.
_PART = 0.25
#: Seconds in which the brokers must take what is sent; what is not done then is left to later.
_SECONDS = 10.0
#: Seconds after which a checkpoint that came too late is tried again, and how often.
_PAUSE = 0.05
_TRIES = 5

_log = logging.getLogger("chatstores_kafka")


class Draft(NamedTuple):
    """A checkpoint's record, to be sent."""

    token: bytes
    value: bytes


def is_due(state: LoggedState, before: int = 0) -> bool:
    """Whether a session should have a checkpoint now.

    Args:
        state: the session.
        before: an append time; what was done before it must stand in a checkpoint.
    """
    if 0 < state.since < before:
        return True
    if not state.alive:
        return state.waste > 0
    return state.waste > max(_WASTE, len(state.ids))


def draft_checkpoint(fold: PartitionFold, name: bytes, partitions: int) -> Draft:
    """A checkpoint of a session as it stands; what it makes useless will be noted in the fold.

    Args:
        fold: the partition's, which lacks nothing.
        name: the session's.
        partitions: how many the topic has.
    """
    state = fold.states[name]
    token = os.urandom(8)
    fold.useless[int.from_bytes(token, "little")] = None
    value = encode_value(
        Kind.CHECKPOINT,
        name,
        seen=state.mark,
        partitions=partitions,
        arguments=encode_checkpoint(state),
    )
    return Draft(token, value)


def leftovers(states: Iterable[LoggedState], now: int) -> list[int]:
    """The tokens of records that nothing needs, by a fold that has read the log from its beginning.

    Args:
        states: its sessions.
        now: the time in microseconds, for the markers of sessions that are gone for a day.
    """
    tokens: list[int] = []
    for state in states:
        if state.checkpoint < 0:
            continue
        needed = {offset_of(source) for source in state.sources}
        useless = [
            token
            for offset, token in zip(state.offsets, state.tokens, strict=True)
            if offset < state.checkpoint and offset not in needed
        ]
        tokens += useless
        if (
            not state.alive
            and not useless
            and state.offsets == array("q", [state.checkpoint])
            and now > state.time + MARKER_US
        ):
            tokens += state.tokens
    return tokens


class Cleaner:
    """Cleans up after this process's own writes, in a thread of its own that begins when needed.

    Args:
        view: the topic.
    """

    def __init__(self, view: View) -> None:
        self._view = view
        self._due: queue.SimpleQueue[tuple[int, bytes] | None] = queue.SimpleQueue()
        self._queued: set[bytes] = set()
        self._thread: threading.Thread | None = None

    def look(self, partition: int, name: bytes) -> None:
        """Have a session cleaned up if it is due; the view's lock is held."""
        state = self._view.state(partition, name)
        if state is None or name in self._queued or not is_due(state, self._before()):
            return
        self._queued.add(name)
        self._due.put((partition, name))
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, name="chatstores-kafka-cleanup", daemon=True
            )
            self._thread.start()

    def close(self) -> None:
        """Finish what is due, and end the thread."""
        if self._thread is not None:
            self._due.put(None)
            self._thread.join(_SECONDS)

    def clean(self, partition: int, name: bytes) -> bool:
        """Make a checkpoint of a session and remove what it makes useless.

        Returns:
            Whether it was effective: no command came in between.

        Raises:
            KafkaException: the brokers did not take a record.
            FutureTimeoutError: they did not answer.
        """
        view = self._view
        if not view.is_fresh(partition):
            view.caught_up(partition).result(_SECONDS)
        with view.lock:
            fold = view.partition_fold(partition)
            if name not in fold.states:
                return True
            draft = draft_checkpoint(fold, name, view.topic.partitions)
        number = int.from_bytes(draft.token, "little")
        try:
            view.sender.put(partition, draft.token, draft.value).result(_SECONDS)
            view.caught_up(partition).result(_SECONDS)
        finally:
            with view.lock:
                useless = fold.useless.pop(number, None)
        if useless:
            self.bury(partition, useless)
        return bool(useless)

    def bury(self, partition: int, tokens: Sequence[int]) -> None:
        """Send the tombstones of records.

        Raises:
            KafkaException: the brokers did not take one.
            FutureTimeoutError: they did not answer.
        """
        promises: list[Promise] = []
        for token in tokens:
            while True:
                try:
                    put = self._view.sender.put(partition, token.to_bytes(8, "little"), None)
                    break
                except BufferError:  # too many are on their way
                    time.sleep(_PAUSE)
            promises.append(put)
        for promise in promises:
            promise.result(_SECONDS)

    def sweep(self, namespace: str) -> None:
        """Remove what nothing needs of a namespace, whoever left it there.

        Reads the log from its beginning, a partition after another, into folds of its own.

        Raises:
            KafkaException: the brokers did not answer, or did not take a record.
            FutureTimeoutError: they did not answer.
        """
        view, prefix = self._view, namespace.encode() + b"\0"
        for partition in range(view.topic.partitions):
            with view.lock:
                before = self._before()
                due = [
                    name
                    for name, state in view.partition_fold(partition).states.items()
                    if name.startswith(prefix) and (state.waste > 0 or is_due(state, before))
                ]
            for name in due:
                self.clean(partition, name)
        for partition, fold in read_whole(view, _SECONDS):
            states = [state for name, state in fold.states.items() if name.startswith(prefix)]
            self.bury(partition, leftovers(states, now_us()))

    def _before(self) -> int:
        """What was done before this time in microseconds must stand in a checkpoint.

        Where the log is cut off behind a retention, what a command without a checkpoint does may
        be another thing for who has not read what stood before it.
        """
        retention = self._view.topic.retention
        return 0 if retention is None else now_us() - round(retention * _PART * 1_000_000)

    def _run(self) -> None:
        while (due := self._due.get()) is not None:
            partition, name = due
            self._queued.discard(name)
            try:
                for _ in range(_TRIES):
                    if self.clean(partition, name):
                        break
                    time.sleep(_PAUSE)
            except (KafkaException, FutureTimeoutError, ChatStoreError, BufferError) as exc:
                _log.debug("what is useless in partition %d stays for now: %s", partition, exc)
