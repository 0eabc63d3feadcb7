"""Partition: one partition as this process sees it: how far it was read, and who waits for it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

from confluent_kafka import KafkaException

from chatstores.errors import ChatStoreError
from chatstores.fold import Fold
from chatstores.state import MARKER_US
from chatstores_kafka.fold import PartitionFold
from chatstores_kafka.moment import Moment
from chatstores_kafka.promise import Promise
from chatstores_kafka.saved import Saved
from chatstores_kafka.topic import Topic

__all__ = ["Partition", "fields_of"]

_log = logging.getLogger("chatstores_kafka")

#: Seconds in which nothing goes unnoticed, at least; only tests have topics that say less.
_LEAST = 5.0


def fields_of(message: Any) -> tuple[int, int, bytes | None, bytes | None]:
    """A record as a fold takes it: offset, append time in microseconds, key and value."""
    return message.offset(), message.timestamp()[1] * 1000, message.key(), message.value()


class Partition:
    """One partition; its view's lock is held around every call.

    Args:
        number: which.
        name: the topic's name.
        topic: the topic.
        shown: where its sessions are, with those of the other partitions.
        new_fold: makes a fold of it, whose sessions are in a place that is given.
        place: has the consumer put at its beginning, which sets `placed`.
    """

    def __init__(
        self,
        number: int,
        name: str,
        topic: Topic,
        shown: Fold,
        new_fold: Callable[[Fold], PartitionFold],
        place: Callable[[], None],
    ) -> None:
        self.number = number
        self.name = name
        self._topic = topic
        self._shown = shown
        self._new_fold = new_fold
        self._place = place
        #: Its sessions, as they are shown; and the fold that is read into, which is another one
        #: while it is read anew.
        self.fold = self._reading = new_fold(shown)
        #: Whether the consumer was put at its beginning: what comes before that is not for us.
        self.placed = False
        #: The offset that comes next, and that with which the log begins.
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
        #: What a state directory has of it: how far it had read, and since when.
        self.saved = -1
        self.saved_at = time.monotonic()
        #: How far it was read when an end was reached.
        self._sound = -1
        self._lag = max(topic.compaction_lag, _LEAST)
        #: A reader that was away for longer may miss that a session is gone: its last record is
        #: tombstoned a day after its end, and a tombstone stays for so long.
        self._longest = max(min(topic.delete_retention, MARKER_US / 1_000_000), _LEAST)
        #: When the newest end was asked for that was reached.
        self._asked: Moment | None = None
        #: Whether the offsets since then have a gap: what stood there may have been compacted.
        self._gap = False
        self._waiters: list[tuple[int, Moment, Promise]] = []
        self._watchers: list[tuple[Callable[[], bool], Promise]] = []
        self._warned = False

    @property
    def is_fresh(self) -> bool:
        """Whether it is loaded, and nothing can be missing."""
        if self.trouble is not None or self.denied is not None or not self.loaded:
            return False
        return self._asked is not None and self._asked.age() < self._lag

    @property
    def known_at(self) -> float:
        """When all was read that stood in the log, in seconds since 1970."""
        return 0.0 if self._asked is None else self._asked.wall

    @property
    def is_read_anew(self) -> bool:
        """Whether it is read into a fold that is not shown yet."""
        return self._reading is not self.fold

    def start(self, offset: int) -> None:
        """Read from an offset on, where the log begins; the consumer is about to be put there."""
        self.position = offset
        self._begins(offset)

    def reload(self) -> None:
        """Read it anew from its beginning.

        Until that is done nothing is answered; who was answered just now still finds what was.
        """
        self.placed = self.loaded = self._gap = False
        self.generation += 1
        self.position, self._sound = 0, -1
        self._asked = None
        self._reading = self._new_fold(Fold())
        self._place()

    def cut_off(self, beginning: int) -> None:
        """Note where the log begins now: if a session lacks a record by that, read all anew."""
        if not self.placed or beginning <= self.begin:
            return
        states = self._reading.states.values()
        try:
            lacks = any(state.offsets and state.offsets[0] < beginning for state in states)
        except ChatStoreError as exc:  # what was saved is not readable
            self.fail(exc)
            return
        if lacks:
            self.reload()
        else:
            self._begins(beginning)

    def _begins(self, offset: int) -> None:
        self.begin = offset
        if self._topic.retention is not None:
            self._reading.begin = offset

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
        if self.trouble is not None or not self.placed or offset < self.position:
            return False
        try:
            self._reading.take(
                offset, message.timestamp()[1] * 1000, message.key(), message.value()
            )
        except ChatStoreError as exc:
            self.fail(exc)
            return False
        if offset > self.position:
            self._gap = True
        self.position = offset + 1
        return True

    def reached(self, asked: Moment) -> bool:
        """Note that everything was read that stood in the log at a moment.

        Returns:
            Whether it may be answered from. If not, tombstones may have been missed, since it was
            not read for too long: it is read anew.
        """
        if self.loaded and self._asked is not None:
            age = self._asked.age()
            if self._gap and age >= self._longest:
                self.reload()
                return False
            if age >= self._lag:
                self.generation += 1
        self.loaded, self._gap = True, False
        self._reading.reached_end()
        if self.is_read_anew:
            self._reading.take_over(self.fold, self._shown)
            self.fold = self._reading
        self._sound = self.position
        if self._asked is None or asked.steady > self._asked.steady:
            self._asked = asked
        return True

    def ended(self, offset: int, asked: Moment) -> None:
        """Note that the log ended at an offset, at a moment."""
        if not self.placed:
            return
        if offset > self.position:
            self._gap = True
            self.position = offset
        self.denied = None
        self.reached(asked)
        self.wake()

    def wait(self, promises: Iterable[Promise], end: int, asked: Moment) -> None:
        """Have promises be kept when it was read up to an end that was asked for at a moment."""
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
            if self.placed and self.position >= end and self.reached(asked):
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
            try:
                is_so = ready()
            except ChatStoreError as exc:  # its session is not readable
                promise.settle(exc)
                continue
            if is_so:
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
                self.name,
                self.fold.foreign_offset,
            )
