"""Follower: the log read on, in a thread of its own, which alone touches the consumer."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from chatstores.errors import BackendMismatchError
from chatstores_kafka.clients import DENIED, FETCH_SECONDS
from chatstores_kafka.moment import Moment
from chatstores_kafka.partition import Partition
from chatstores_kafka.topic import EARLIEST, named

if TYPE_CHECKING:
    from chatstores_kafka.view import View

__all__ = ["BATCH", "Follower"]

_log = logging.getLogger("chatstores_kafka")

#: How many records are taken from the consumer at once.
BATCH = 2000
#: Seconds that the thread waits for something to do.
_TICK = 0.05
#: Seconds in which a broker must say where a log begins.
_ASK_SECONDS = 2.0
#: What a consumer says whose place in the log is gone.
_LOST = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}


class Follower:
    """Reads the partitions that are asked for, and keeps them up with the log.

    Args:
        view: the topic.
    """

    def __init__(self, view: View) -> None:
        self._view = view
        #: Partitions that are to be read from their beginning, and those that the consumer reads.
        self._unassigned: list[int] = []
        self._assigned: set[int] = set()
        self._wanted = threading.Event()
        self._look_again = self._closing = False

    def place(self, number: int) -> None:
        """Have the consumer read a partition from its beginning; the view's lock is held."""
        self._unassigned.append(number)
        self._wanted.set()

    def look_again(self) -> None:
        """Have the consumer connect, if it is not."""
        self._look_again = True

    def stop(self) -> None:
        """Have the thread end."""
        self._closing = True
        self._wanted.set()

    def run(self) -> None:
        """The thread's work."""
        view = self._view
        consumer, partitions = view.clients.consumer, view.partitions
        while not self._wanted.wait(1.0):  # until there is a partition to follow
            consumer.poll(0)
        while not self._closing:
            if self._unassigned:
                self._assign()
            if self._look_again:
                self._look_again = False
                view.clients.revive_consumer()
            first = consumer.poll(_TICK)
            if first is None:
                continue
            messages = [first, *consumer.consume(BATCH, 0)]
            with view.lock:
                touched = set()
                for message in messages:
                    error = message.error()
                    part = partitions.get(message.partition())  # type: ignore[arg-type]
                    if error is not None:
                        self._note(part, message.offset(), error)
                    elif part is not None and part.take(message):
                        touched.add(part)
                for part in touched:
                    part.denied = None
                    part.wake()

    def _assign(self) -> None:
        # In the thread that polls: another one waits for it, holding the interpreter's lock.
        view = self._view
        with view.lock:
            numbers, self._unassigned = self._unassigned, []
        name, assigned, consumer = view.settings.name, self._assigned, view.clients.consumer
        # What the consumer has fetched of them before goes with that.
        again = [TopicPartition(name, number) for number in numbers if number in assigned]
        if again:
            consumer.incremental_unassign(again)
            assigned.difference_update(numbers)
        places = [TopicPartition(name, number) for number in numbers]
        # An offset by name would be looked up by the consumer, three times as slowly.
        answers = view.clients.admin.list_offsets(
            dict.fromkeys(places, EARLIEST), request_timeout=_ASK_SECONDS
        )
        try:
            for place in places:
                place.offset = answers[place].result().offset
        except KafkaException:
            with view.lock:
                self._unassigned += numbers
            return
        for place in places:
            self._begin(place)
        consumer.incremental_assign(places)
        assigned.update(numbers)
        with view.lock:
            for number in numbers:
                view.partitions[number].placed = True

    def _begin(self, place: TopicPartition) -> None:
        """Have a partition begin with what was saved of it, if anything was."""
        view = self._view
        saved = None if view.state_dir is None else view.state_dir.load(place.partition)
        with view.lock:
            part = view.partitions[place.partition]
            part.start(place.offset)
            if saved is None or part.is_read_anew:
                return
            if saved.about["begin"] != part.begin:
                if view.topic.retention is not None:
                    return  # it is read from there
                part.fail(
                    BackendMismatchError(
                        f"partition {part.number} of the topic {view.settings.name!r} begins at "
                        f"offset {part.begin}, and began at {saved.about['begin']} when it was "
                        f"saved in state_dir: records were deleted; look at what is lost, then "
                        "remove the directory"
                    )
                )
                return
            part.begin_with(saved)
            place.offset = part.position

    def _note(self, part: Partition | None, offset: int | None, error: KafkaError) -> None:
        code, topic = error.code(), self._view.topic
        name = self._view.settings.name
        if code == KafkaError._PARTITION_EOF:
            if part is not None and part.trouble is None and offset is not None:
                part.ended(offset, Moment.ago(FETCH_SECONDS + _TICK))
        elif code in _LOST and part is not None and topic.retention is not None:
            if part.placed:
                part.reload()
        elif code in _LOST and part is not None:
            part.fail(
                BackendMismatchError(
                    f"partition {part.number} of the topic {name!r} no longer has "
                    f"what comes after offset {part.position}: {error.str()}"
                )
            )
        elif code in DENIED and part is not None:
            part.denied = KafkaException(named(error, "Read", name))
            part.wake()
        else:
            self._view.watch.look_soon()
            _log.debug("%s: %s", name, error)
