"""Partition: one partition as this process sees it: how far it was read, and who waits for it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

from confluent_kafka import KafkaException

from chatstores.errors import ChatStoreError
from chatstores_kafka.fold import PartitionFold
from chatstores_kafka.promise import Promise
from chatstores_kafka.saved import Saved

__all__ = ["Partition", "fields_of"]

_log = logging.getLogger("chatstores_kafka")

#: Seconds that a partition counts as fresh at least; only tests have a shorter compaction lag.
_LEAST_LAG = 5.0


def fields_of(message: Any) -> tuple[int, int, bytes | None, bytes | None]:
    """A record as a fold takes it: offset, append time in microseconds, key and value."""
    return message.offset(), message.timestamp()[1] * 1000, message.key(), message.value()


class Partition:
    """One partition; its view's lock is held around every call.

    Args:
        number: which.
        topic: the topic's name.
        compaction_lag: seconds in which nothing that is written is compacted.
        fold: its sessions.
    """

    def __init__(self, number: int, topic: str, compaction_lag: float, fold: PartitionFold) -> None:
        self.number = number
        self.topic = topic
        self.fold = fold
        #: The offset that comes next, and that with which the log began.
        self.position = 0
        self.begin = 0
        #: Whether an end was reached.
        self.loaded = False
        #: Counts how often records may have been missing.
        self.generation = 0
        #: Why it cannot be used.
        self.trouble: Exception | None = None
        #: Why it may not be read, until it may again.
        self.denied: KafkaException | None = None
        #: Who waits for the answer of where the log ends, and who for the next one.
        self.asking: list[Promise] | None = None
        self.asked_next: list[Promise] = []
        #: What a state directory has of it: how far it had read, and when that was written.
        self.saved = -1
        self.saved_at = 0.0
        #: When all was read that stood in the log, in seconds since 1970; and how far that was.
        self.known_at = 0.0
        self._sound = -1
        self._lag = max(compaction_lag, _LEAST_LAG)
        #: When records that come next may begin to be missing, by the monotonic clock.
        self._fresh_until = 0.0
        self._waiters: list[tuple[int, float, Promise]] = []
        self._watchers: list[tuple[Callable[[], bool], Promise]] = []
        self._warned = False

    @property
    def is_fresh(self) -> bool:
        """Whether it is loaded, and nothing can be missing."""
        if self.trouble is not None or self.denied is not None:
            return False
        return self.loaded and time.monotonic() < self._fresh_until

    @property
    def is_exact(self) -> bool:
        """Whether its sessions are what the log says up to its position: nothing was missing."""
        return self.is_fresh or (self.trouble is None and self.position == self._sound)

    def begin_with(self, saved: Saved) -> None:
        """Go on where an earlier process was; what it had read is not read again."""
        self.fold.adopt(saved)
        self.position = self.saved = saved.about["position"]
        self.saved_at = time.monotonic()

    def take(self, message: Any) -> bool:
        """Fold a record; whether it was new."""
        offset = message.offset()
        if self.trouble is not None or offset < self.position:
            return False
        try:
            self.fold.take(*fields_of(message))
        except ChatStoreError as exc:
            self.fail(exc)
            return False
        self.position = offset + 1
        return True

    def reached(self, asked: float) -> None:
        """Note that everything was read that stood in the log at a time of the monotonic clock."""
        if self.loaded and time.monotonic() >= self._fresh_until:
            self.generation += 1
        self.loaded = True
        self.fold.reached_end()
        self._fresh_until = max(self._fresh_until, asked + self._lag)
        self._sound = self.position
        self.known_at = max(self.known_at, time.time() - (time.monotonic() - asked))

    def ended(self, offset: int, asked: float) -> None:
        """Note that the log ended at an offset, at a time of the monotonic clock."""
        self.position = max(self.position, offset)
        self.denied = None
        self.reached(asked)
        self.wake()

    def wait(self, promises: Iterable[Promise], end: int, asked: float) -> None:
        """Have promises be kept when it was read up to an end that was asked for at a time."""
        self._waiters += [(end, asked, promise) for promise in promises]
        self.wake()

    def watch(self, ready: Callable[[], bool], promise: Promise) -> None:
        """Have a promise be kept when something is so; asked each time that records came."""
        self._watchers.append((ready, promise))
        self._tell()

    def wake(self) -> None:
        """Tell those whose wait is over."""
        waiting = []
        for waiter in self._waiters:
            end, asked, promise = waiter
            if self.position >= end:
                self.reached(asked)
                promise.settle()
            elif self.denied is not None:
                promise.settle(self.denied)
            else:
                waiting.append(waiter)
        self._waiters = waiting
        self._tell()
        self._warn()

    def fail(self, error: Exception) -> None:
        """End every wait, now and later: it cannot be used."""
        self.trouble = error
        self.end_waits(error)

    def end_waits(self, error: Exception) -> None:
        """End every wait."""
        waiters, self._waiters = self._waiters, []
        for _, _, promise in waiters:
            promise.settle(error)

    def _tell(self) -> None:
        watching = []
        for watcher in self._watchers:
            ready, promise = watcher
            if promise.cancelled:
                continue
            if ready():
                promise.settle()
            else:
                watching.append(watcher)
        self._watchers = watching

    def _warn(self) -> None:
        """Say once that another program writes to it."""
        if self.fold.foreign and not self._warned:
            self._warned = True
            _log.warning(
                "partition %d of the topic %r holds records that chatstores did not write, such "
                "as that at offset %d: they are left out",
                self.number,
                self.topic,
                self.fold.foreign_offset,
            )
