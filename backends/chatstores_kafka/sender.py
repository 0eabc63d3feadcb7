"""Sender: records on their way to the brokers, and a thread that acts on what these say of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, KafkaError, KafkaException

from chatstores_kafka.attempt import Attempt
from chatstores_kafka.partition import Partition
from chatstores_kafka.promise import Promise
from chatstores_kafka.topic import named

if TYPE_CHECKING:
    from chatstores_kafka.view import View

__all__ = ["Sender"]

#: Seconds that the thread waits for something to do.
_TICK = 0.05
#: Seconds in which what the brokers say of further records is waited for, if more are on their way.
_GATHER_SECONDS = 0.001


class Sender:
    """Sends records, and settles the promises of who waits for them.

    Args:
        view: the topic.
    """

    def __init__(self, view: View) -> None:
        self._view = view
        #: What the brokers said of records, and who is to be told.
        self._reports: deque[tuple[KafkaError | None, Any, Callable[[KafkaError | None], None]]] = (
            deque()
        )
        self._closing = False

    def put(self, partition: int, token: bytes, value: bytes | None) -> Promise:
        """Send a record; kept when it is acknowledged.

        Args:
            partition: where it goes.
            token: its key.
            value: what it says; None for a tombstone.

        Raises:
            BufferError: too much is on its way.
        """
        promise = Promise()
        self._produce(
            partition,
            token,
            value,
            lambda error: promise.settle(None if error is None else KafkaException(error)),
        )
        return promise

    def put_command(self, partition: int, token: bytes, value: bytes, attempt: Attempt) -> Promise:
        """Send a command's record; kept when it is acknowledged, and the log was read to there.

        The arguments and errors are those of `put`.
        """
        promise = attempt.again()
        self._produce(partition, token, value, lambda error: self._acknowledge(attempt, error))
        return promise

    def give_up(self) -> None:
        """Take back what was not sent yet."""
        self._view.missed()
        self._view.clients.producer.purge(in_queue=True, in_flight=False, blocking=False)

    def stop(self) -> None:
        """Have the thread end."""
        self._closing = True

    def run(self) -> None:
        """The thread's work; it also has the topic looked at now and then."""
        producer = self._view.clients.producer
        while not self._closing:
            producer.poll(_TICK)
            if self._reports:
                while len(producer) > len(self._reports) and producer.poll(_GATHER_SECONDS):
                    pass
                self._settle()
            self._view.watch.look_if_due()

    def _produce(
        self,
        partition: int,
        token: bytes,
        value: bytes | None,
        told: Callable[[KafkaError | None], None],
    ) -> None:
        def delivered(error: KafkaError | None, message: Any) -> None:
            self._reports.append((error, message, told))

        try:
            self._view.clients.producer.produce(
                self._view.settings.name, value, token, partition, on_delivery=delivered
            )
        except KafkaException as exc:  # what librdkafka knows without asking
            delivered(exc.args[0], None)

    def _settle(self) -> None:
        """Act on what the brokers said of records: once for all that came together.

        The callbacks themselves only note it: each of them takes the interpreter's lock from the
        threads that write.
        """
        reports = [self._reports.popleft() for _ in range(len(self._reports))]
        with self._view.lock:
            touched = {self._fold_own(message) for error, message, _ in reports if error is None}
            for part in touched:
                if part is not None:
                    part.wake()
            for error, _, told in reports:
                told(None if error is None else named(error, "Write", self._view.settings.name))

    def _fold_own(self, message: Any) -> Partition | None:
        """Fold an acknowledged record of our own at once, if all before it is folded.

        The broker has said where it stands and when it was appended; the consumer, which is later,
        then passes over it.
        """
        part = self._view.partitions.get(message.partition())
        if (
            part is None
            or message.offset() != part.position
            or message.timestamp()[0] != TIMESTAMP_LOG_APPEND_TIME
        ):
            return None
        return part if part.take(message) else None

    def _acknowledge(self, attempt: Attempt, error: KafkaError | None) -> None:
        if error is not None:
            self._view.missed()
            self._view.watch.look_soon()
        with self._view.lock:
            attempt.acknowledge(error)
