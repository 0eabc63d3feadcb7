"""Clients: the connections to the brokers, their settings, and what was heard of them.

An admin client asks, a producer writes and a consumer follows the log. The consumer belongs to the
thread that polls it: a call from another one waits for that, and holds the interpreter's lock.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from chatstores_kafka.topic import MAX_RECORD_BYTES

__all__ = ["DENIED", "FETCH_SECONDS", "FIRST", "Clients", "refused_by_tls"]

T = TypeVar("T")

#: How long a fetch waits at the broker for something new; another partition waits for it.
FETCH_SECONDS = 0.1
#: Seconds after which a waiting admin client is asked what it heard.
_TICK = 0.05
#: Seconds that a client waits for a broker when it is revived.
_REVIVE_SECONDS = 0.5

#: What every client is told; a user's options come after, and ours after those.
_CLIENT = {
    "log_level": 0,
    # A question about a topic would create it, where the brokers allow that.
    "allow.auto.create.topics": False,
    "reconnect.backoff.ms": 20,
    "reconnect.backoff.max.ms": 100,
    "socket.timeout.ms": 10_000,
    "socket.nagle.disable": True,
    "topic.metadata.refresh.fast.interval.ms": 100,
    "linger.ms": 0,
    "fetch.error.backoff.ms": 100,
    "fetch.queue.backoff.ms": 5,
    "queued.max.messages.kbytes": 32_768,
}
_PRODUCER = {
    "acks": "all",
    # What is not acknowledged is settled here, by the command's id; the driver repeats nothing.
    "message.send.max.retries": 0,
    "message.max.bytes": MAX_RECORD_BYTES + 65_536,
    "message.timeout.ms": 60_000,
    "request.timeout.ms": 10_000,
}
_CONSUMER = {
    "group.id": "chatstores",  # of no meaning: partitions are assigned here, and nothing committed
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": True,
    "auto.offset.reset": "error",
    # A transaction that somebody else left open would hide what comes after it.
    "isolation.level": "read_uncommitted",
    "fetch.wait.max.ms": int(FETCH_SECONDS * 1000),
    "fetch.message.max.bytes": 2 * MAX_RECORD_BYTES,
}


#: What nobody says whose broker was asked in a protocol that it does not speak.
_HANGS_UP = "the brokers hang up; if they want TLS or SASL, security.protocol= must say so"
#: Of a consumer that reads a single record.
FIRST = {"fetch.message.max.bytes": 1, "fetch.queue.backoff.ms": 1000}

#: What a broker says of a user who may not do something, or whom it does not know.
DENIED = {
    KafkaError._AUTHENTICATION,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
}

#: What librdkafka says when nobody answers; what it heard of the connection says more.
_SILENT = {KafkaError._TIMED_OUT, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN}


def refused_by_tls(error: KafkaError) -> bool:
    """Whether a certificate was not accepted, by us or by the broker."""
    text = error.str()
    return "certificate verify failed" in text or "SSL alert number" in text


class Clients:
    """The clients of one topic.

    Args:
        config: librdkafka's options of the connection.
        topic: the topic's name.
    """

    def __init__(self, config: Mapping[str, Any], topic: str) -> None:
        self._config = {**_CLIENT, **config, "error_cb": self._hear}
        self._topic = topic
        #: What was heard of a connection: that it was refused; why there is none.
        self._denied: KafkaError | None = None
        self._said: KafkaError | None = None
        self.admin = AdminClient(self._config)
        self.producer: Producer
        self.consumer: Consumer
        self._all: list[Any] = [self.admin]

    def start(self) -> None:
        """Make the producer and the consumer."""
        self.producer = Producer({**self._config, **_PRODUCER})
        self.consumer = Consumer({**self._config, **_CONSUMER})
        self._all += [self.producer, self.consumer]

    def close(self) -> None:
        """Close them; nobody uses them any more."""
        if len(self._all) > 1:
            self.producer.purge()
            self.consumer.close()
            del self.producer, self.consumer
        self._all.clear()
        del self.admin

    def leak(self) -> None:
        """In a forked child: never end what only its parent's threads serve."""
        for client in self._all:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(client))

    def reader(self, **settings: Any) -> Consumer:
        """Another consumer, which its caller closes."""
        return Consumer({**self._config, **_CONSUMER, **settings})

    def group_client(self, group: str, seconds: float) -> Consumer:
        """A client for the committed offsets of a consumer group; its caller closes it.

        librdkafka's admin client would do, but aborts the process when a broker goes away while a
        group's coordinator is asked.

        Args:
            group: the group's id.
            seconds: how long a commit waits.
        """
        milliseconds = max(10, int(min(seconds, 60) * 1000))
        limits = {"session.timeout.ms": milliseconds, "socket.timeout.ms": milliseconds}
        return self.reader(**limits, **{"group.id": group})

    def asked(self, question: Callable[[], T]) -> T:
        """An answer of the brokers; if there is none, the reason that is known for it."""
        self._denied = None
        try:
            answer = question()
        except KafkaException as exc:
            self.admin.poll(0)
            reason = self._denied
            if reason is None and exc.args[0].code() in _SILENT:
                reason = self._said
            if reason is not None:
                raise KafkaException(reason) from None
            raise
        self._said = None
        return answer

    def answer(self, future: Future[T]) -> T:
        """What the brokers answer; a login that they refused answers nothing else."""
        while True:
            try:
                return future.result(_TICK)
            except FutureTimeoutError:
                self.admin.poll(0)
                if self._denied is not None:
                    raise KafkaException(self._denied) from None

    def _hear(self, error: KafkaError) -> None:
        code, text = error.code(), error.str()
        # A connection that broke off while it logged in is called an error of the login too.
        if (code in DENIED and "Broker transport failure" not in text) or refused_by_tls(error):
            self._denied = error
        elif code != KafkaError._ALL_BROKERS_DOWN:
            self._said = error
        elif self._said is None:
            self._said = KafkaError(code, _HANGS_UP)

    def revive(self) -> None:
        """Have the admin client and the producer connect: by themselves they look once a second.

        Raises:
            KafkaException: there is no broker.
        """
        # All topics: what the admin client keeps of a single one, that it had no leader say, is not
        # renewed by asking for that one.
        self.admin.list_topics(timeout=_REVIVE_SECONDS)
        self.producer.list_topics(self._topic, timeout=_REVIVE_SECONDS)

    def revive_consumer(self) -> None:
        """Have the consumer connect, if there is a broker."""
        with contextlib.suppress(KafkaException):
            self.consumer.list_topics(self._topic, timeout=_REVIVE_SECONDS)
