"""View: one topic as this process sees it: its partitions folded, and kept up with the log.

The stores of a process that have one topic in common share a view. It has a producer, a consumer
that follows the log, and a client that asks where the log ends; asking the consumer itself would
wait for its long poll. Two threads serve them; whoever waits gets a future.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, TypeVar

from confluent_kafka import (
    OFFSET_BEGINNING,
    TIMESTAMP_LOG_APPEND_TIME,
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from chatstores.errors import BackendMismatchError, ChatStoreError, NotSetUpError
from chatstores.fold import Fold
from chatstores.state import Command, Outcome
from chatstores_kafka.cleanup import Cleaner
from chatstores_kafka.fold import PartitionFold
from chatstores_kafka.state import LoggedState
from chatstores_kafka.topic import (
    EARLIEST,
    LATEST,
    MAX_RECORD_BYTES,
    Topic,
    TopicSettings,
    ask_topic,
    check_first_record,
    find_topic,
    named,
    read_topic,
)

__all__ = ["Attempt", "View", "acquire", "refused_by_tls", "release"]

T = TypeVar("T")

_log = logging.getLogger("chatstores_kafka")

#: Seconds that the threads wait for something to do.
_TICK = 0.05
#: How long a fetch waits at the broker for something new; another partition waits for it.
_FETCH_SECONDS = 0.1
#: Seconds in which a broker must say where a log ends, before it is asked again.
_ASK_SECONDS = 2.0
#: Seconds that a client waits for a broker when it is revived.
_REVIVE_SECONDS = 0.5
#: Seconds that a view counts as fresh at least; only tests have a shorter lag of compaction.
_LEAST_LAG = 5.0
#: Seconds after which a view that is used looks whether its topic is still the same one.
_LOOK_SECONDS = 2.0
#: How many records are taken from the consumer at once.
_BATCH = 2000

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
    "fetch.wait.max.ms": int(_FETCH_SECONDS * 1000),
    "fetch.message.max.bytes": 2 * MAX_RECORD_BYTES,
}


#: What nobody says whose broker was asked in a protocol that it does not speak.
_HANGS_UP = "the brokers hang up; if they want TLS or SASL, security.protocol= must say so"
#: Of a consumer that reads a single record.
_FIRST = {"fetch.message.max.bytes": 1, "fetch.queue.backoff.ms": 1000}


def refused_by_tls(error: KafkaError) -> bool:
    """Whether a certificate was not accepted, by us or by the broker."""
    text = error.str()
    return "certificate verify failed" in text or "SSL alert number" in text


def _future() -> Future[Any]:
    """A future that nobody who waits can cancel: another thread sets it."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    return future


def _parts_of(message: Any) -> tuple[int, int, bytes | None, bytes | None]:
    """A record as a fold takes it: offset, append time in microseconds, key and value."""
    return message.offset(), message.timestamp()[1] * 1000, message.key(), message.value()


def _settle(future: Future[None], error: KafkaError | None) -> None:
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(KafkaException(error))


class Attempt:
    """A command on its way, over all of its attempts.

    Attributes:
        seen: the offset of the session's last command, when it was sent first.
        generation: the partition's, at that time.
        sent: whether it was sent before.
        verdict: what the log says of it; None as long as it says nothing.
    """

    def __init__(self, seen: int, generation: int) -> None:
        self.seen = seen
        self.generation = generation
        self.sent = False
        self.verdict: Verdict | None = None
        self.began = time.monotonic()
        self._acknowledged = False
        self._future: Future[None] = _future()

    def again(self) -> Future[None]:
        """The future of the next record; what is still heard of those before is as good."""
        self.sent = True
        self._future = _future()
        self.check()
        return self._future

    def acknowledge(self, error: KafkaError | None) -> None:
        """Note what the broker says of a record: one that it has is enough."""
        if error is None:
            self._acknowledged = True
            self.check()
        elif not self._future.done():
            self._future.set_exception(KafkaException(error))

    def check(self) -> None:
        """Be done, if all is there."""
        if self._acknowledged and self.verdict is not None and not self._future.done():
            self._future.set_result(None)


class Verdict:
    """What the log says of a command.

    Attributes:
        outcome: what it did; None if it never will be done.
        sure: whether the view was fresh: no record before it may have been missing.
    """

    __slots__ = ("outcome", "sure")

    def __init__(self, outcome: Outcome | None, sure: bool) -> None:
        self.outcome = outcome
        self.sure = sure


class _Partition:
    def __init__(self, number: int, fold: PartitionFold) -> None:
        self.number = number
        self.fold = fold
        self.position = 0
        self.loaded = False
        #: When records that come next may begin to be missing, by the monotonic clock.
        self.fresh_until = 0.0
        #: Counts how often records may have been missing.
        self.generation = 0
        self.waiters: list[tuple[int, float, Future[None]]] = []
        self.asking: list[Future[None]] | None = None
        self.asked_next: list[Future[None]] = []
        self.watchers: list[tuple[Callable[[], bool], Future[None]]] = []
        self.trouble: Exception | None = None
        #: Why it may not be read, until it may again.
        self.denied: KafkaException | None = None
        self.warned = False


class View:
    """One topic.

    Args:
        config: librdkafka's options of the connection.
        settings: the topic's.
    """

    def __init__(self, config: Mapping[str, Any], settings: TopicSettings) -> None:
        self._config = {**_CLIENT, **config, "error_cb": self._hear}
        #: What was heard of a connection: that it was refused; why there is none.
        self._denied: KafkaError | None = None
        self._said: KafkaError | None = None
        #: The topic is not what it was when it was opened, or not there.
        self._trouble: Exception | None = None
        #: Somebody wanted something since the last look at the topic; one is under way; when the
        #: next one is due.
        self._used = self._looking = False
        self._next_look = time.monotonic() + _LOOK_SECONDS
        self.settings = settings
        self.fold = Fold()
        self.cleaner = Cleaner(self)
        self.users = 0
        self._lock = threading.RLock()
        self._opening = threading.Lock()
        self._topic: Topic | None = None
        self._partitions: dict[int, _Partition] = {}
        self._attempts: dict[int, Attempt] = {}
        self._unassigned: list[int] = []
        self._wanted = threading.Event()
        #: Something was not answered: whatever connection is down is wanted again now.
        self._missed = threading.Event()
        self._look_again = False
        self._closing = False
        self._threads: list[threading.Thread] = []
        self._clients: list[Any] = []

    # Its life

    def open(self, create: bool, seconds: float) -> Topic:
        """Connect, and look at the topic; at once if that was done.

        Raises:
            NotSetUpError: there is no topic, and it may not be created.
            BackendMismatchError: it is not what it must be.
            KafkaException: the broker did not say.
        """
        if self._topic is not None:
            return self._topic
        if not self._opening.acquire(timeout=seconds):
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        try:
            if self._topic is None:
                if not self._clients:
                    self._admin = AdminClient(self._config)
                    self._clients.append(self._admin)
                topic = self._asked(lambda: self._find(create, seconds))
                self._start()
                self._topic = topic
            return self._topic
        finally:
            self._opening.release()

    def _find(self, create: bool, seconds: float) -> Topic:
        admin, settings = self._admin, self.settings
        topic = find_topic(admin, settings, self._answer, create=create, seconds=seconds)
        consumer = Consumer({**self._config, **_CONSUMER, **_FIRST})
        try:
            check_first_record(consumer, admin, self._answer, settings, topic, seconds)
        finally:
            consumer.close()
        return topic

    def _asked(self, question: Callable[[], T]) -> T:
        """An answer of the brokers; if there is none, the reason that is known for it."""
        self._denied = None
        try:
            answer = question()
        except KafkaException as exc:
            self._admin.poll(0)
            reason = self._denied
            if reason is None and exc.args[0].code() in _SILENT:
                reason = self._said
            if reason is not None:
                raise KafkaException(reason) from None
            raise
        self._said = None
        return answer

    def _answer(self, future: Future[T]) -> T:
        """What the brokers answer; a login that they refused answers nothing else."""
        while True:
            try:
                return future.result(_TICK)
            except FutureTimeoutError:
                self._admin.poll(0)
                if self._denied is not None:
                    raise KafkaException(self._denied) from None

    def _hear(self, error: KafkaError) -> None:
        code, text = error.code(), error.str()
        # A connection that broke off while it logged in is called an error of the login too.
        if (code in _DENIED and "Broker transport failure" not in text) or refused_by_tls(error):
            self._denied = error
        elif code != KafkaError._ALL_BROKERS_DOWN:
            self._said = error
        elif self._said is None:
            self._said = KafkaError(code, _HANGS_UP)

    def _start(self) -> None:
        self._producer = Producer({**self._config, **_PRODUCER})
        self._consumer = Consumer({**self._config, **_CONSUMER})
        self._clients += [self._producer, self._consumer]
        for work in (self._follow, self._serve, self._revive):
            thread = threading.Thread(target=work, name="chatstores-kafka", daemon=True)
            self._threads.append(thread)
            thread.start()

    def close(self) -> None:
        """End the threads, and close the clients."""
        self.cleaner.close()
        self._closing = True
        self._wanted.set()
        self._missed.set()
        for thread in self._threads:
            thread.join()
        if self._threads:
            self._producer.purge()
            self._consumer.close()
        self._clients.clear()
        self._admin = self._producer = self._consumer = None  # type: ignore[assignment]

    def leak(self) -> None:
        """In a forked child: never end what only its parent's threads serve."""
        for client in self._clients:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(client))

    # Reading

    @property
    def is_open(self) -> bool:
        """Whether `open` was done."""
        return self._topic is not None

    @property
    def lock(self) -> threading.RLock:
        """Held by who looks at the sessions."""
        return self._lock

    @property
    def topic(self) -> Topic:
        """The topic; `open` was called."""
        assert self._topic is not None
        return self._topic

    def partition_fold(self, partition: int) -> PartitionFold:
        """The fold of a partition that was asked for; the lock is held."""
        return self._partitions[partition].fold

    def state(self, partition: int, name: bytes) -> LoggedState | None:
        """A session's state; the lock is held."""
        return self._partitions[partition].fold.states.get(name)

    def is_fresh(self, partition: int) -> bool:
        """Whether a partition is loaded, and nothing can be missing."""
        self._used = True
        part = self._partitions.get(partition)
        return (
            part is not None
            and part.loaded
            and part.trouble is None
            and self._trouble is None
            and time.monotonic() < part.fresh_until
        )

    def position(self, partition: int) -> int:
        """How far a partition was read."""
        part = self._partitions.get(partition)
        return 0 if part is None else part.position

    def progress(self) -> int:
        """How much was read of all partitions."""
        return sum(part.position for part in list(self._partitions.values()))

    def generation(self, partition: int) -> int:
        """Counts how often records of a partition may have been missing."""
        return self._partitions[partition].generation

    def ping(self, seconds: float) -> None:
        """Ask the brokers for the topic.

        Raises:
            BackendMismatchError: it is not the one that was opened.
            KafkaException: they do not answer.
        """

        def describe() -> tuple[str, int]:
            # This question has the client connect at once; the other one waits for it.
            self._admin.list_topics(self.settings.name, timeout=seconds)
            future = ask_topic(self._admin, self.settings.name, seconds)
            return read_topic(self._answer(future))

        self._judge(self._asked(describe))
        if self._trouble is not None:
            raise self._trouble

    def _look(self) -> None:
        """Ask whether the topic is the one that was opened, if it is used; nobody waits for it."""
        if not self._used or self._looking:
            return
        self._used, self._looking = False, True
        ask_topic(self._admin, self.settings.name, _ASK_SECONDS).add_done_callback(self._looked)

    def _looked(self, answer: Future[Any]) -> None:
        self._looking = False
        try:
            self._judge(read_topic(answer.result()))
        except KafkaException as exc:
            if exc.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                self._distrust(NotSetUpError(f"there is no topic {self.settings.name!r} any more"))

    def _judge(self, found: tuple[str, int]) -> None:
        """Compare the topic with the one that was opened."""
        topic, name = self.topic, self.settings.name
        if found[0] != topic.id:
            self._distrust(
                BackendMismatchError(
                    f"the topic {name!r} was deleted and made anew while this store was open; "
                    "close it and look at what is lost"
                )
            )
        elif found[1] != topic.partitions:
            self._distrust(
                BackendMismatchError(
                    f"the topic {name!r} was given {found[1]} partitions and had "
                    f"{topic.partitions}: sessions are found by that number, so it must not "
                    "change; load a snapshot into a new topic"
                )
            )
        elif isinstance(self._trouble, NotSetUpError):
            self._trouble = None

    def _distrust(self, trouble: ChatStoreError) -> None:
        with self._lock:
            if not isinstance(self._trouble, BackendMismatchError):
                self._trouble = trouble
            for part in self._partitions.values():
                waiters, part.waiters = part.waiters, []
                for _, _, future in waiters:
                    future.set_exception(self._trouble)

    def caught_up(self, partition: int) -> Future[None]:
        """Done when everything is folded that stood in a partition at the time of this call."""
        future = _future()
        self._used = True
        with self._lock:
            part = self._partition(partition)
            trouble = self._trouble or part.trouble
            if trouble is not None:
                future.set_exception(trouble)
            elif part.asking is None:
                part.asking = [future]
                self._ask(part)
            else:  # the answer that is under way is from before this call
                part.asked_next.append(future)
        return future

    def _partition(self, number: int) -> _Partition:
        part = self._partitions.get(number)
        if part is None:
            fold = PartitionFold(
                self.fold, number, self.topic.partitions, self._attempts, self._answer_of(number)
            )
            part = self._partitions[number] = _Partition(number, fold)
            self._unassigned.append(number)
            self._wanted.set()
        return part

    def _ask(self, part: _Partition) -> None:
        asked, position = time.monotonic(), part.position
        place = TopicPartition(self.settings.name, part.number)
        try:
            [answer] = self._admin.list_offsets(
                {place: LATEST}, request_timeout=_ASK_SECONDS
            ).values()
        except (KafkaException, AttributeError) as exc:  # closed in the meantime
            self._told(part, asked, position, None, exc)
            return
        answer.add_done_callback(lambda done: self._answered(part, asked, position, done))

    def _answered(self, part: _Partition, asked: float, position: int, answer: Future[Any]) -> None:
        error, end = answer.exception(), -1
        if isinstance(error, KafkaException):
            error = KafkaException(named(error.args[0], "Describe", self.settings.name))
        if error is None:
            end = answer.result().offset
            if end < 0:
                error = KafkaException(KafkaError(KafkaError._NO_OFFSET))
        self._told(part, asked, position, None if error else end, error)

    def _told(
        self,
        part: _Partition,
        asked: float,
        position: int,
        end: int | None,
        error: BaseException | None,
    ) -> None:
        with self._lock:
            futures, part.asking = part.asking or [], None
            if part.asked_next:
                part.asking, part.asked_next = part.asked_next, []
            again = part.asking is not None
            if end is None:
                self._missed.set()
                self._next_look = 0.0
                for future in futures:
                    future.set_exception(error)
            elif end < position:
                self._fail(
                    part,
                    BackendMismatchError(
                        f"partition {part.number} of the topic {self.settings.name!r} ends at "
                        f"{end}, and was read up to {position}: it was made anew, or lost "
                        "what it had acknowledged; close this store and look at it"
                    ),
                    futures,
                )
            else:
                for future in futures:
                    part.waiters.append((end, asked, future))
                self._wake(part)
        if again:
            self._ask(part)

    def _wake(self, part: _Partition) -> None:
        waiting = []
        for waiter in part.waiters:
            end, asked, future = waiter
            if part.position < end:
                if part.denied is not None:
                    future.set_exception(part.denied)
                else:
                    waiting.append(waiter)
                continue
            self._reached(part, asked)
            future.set_result(None)
        part.waiters = waiting
        self._tell(part)

    def when(self, partition: int, ready: Callable[[], bool]) -> Future[None]:
        """Done when something is so that is asked of the sessions each time that records came.

        Args:
            partition: whose records.
            ready: asks, with the lock held.

        Returns:
            A future, to be cancelled by who does not wait any longer.
        """
        future: Future[None] = Future()
        with self._lock:
            part = self._partition(partition)
            part.watchers.append((ready, future))
            self._tell(part)
        return future

    def _tell(self, part: _Partition) -> None:
        watching = []
        for watcher in part.watchers:
            ready, future = watcher
            if future.cancelled():
                continue
            if not ready():
                watching.append(watcher)
            elif future.set_running_or_notify_cancel():
                future.set_result(None)
        part.watchers = watching

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
        return Consumer({**self._config, **_CONSUMER, **limits, "group.id": group})

    def _reached(self, part: _Partition, asked: float) -> None:
        """Note that everything was read that stood in the log at a time."""
        now = time.monotonic()
        fresh_until = asked + max(self.topic.compaction_lag, _LEAST_LAG)
        if part.loaded and now >= part.fresh_until:
            part.generation += 1
        part.loaded = True
        part.fold.reached_end()
        part.fresh_until = max(part.fresh_until, fresh_until)

    def _fail(
        self, part: _Partition, error: Exception, futures: list[Future[None]] | None = None
    ) -> None:
        part.trouble = error
        for future in [*(futures or ()), *(waiter[2] for waiter in part.waiters)]:
            future.set_exception(error)
        part.waiters = []

    def read_whole(self, partition: int, seconds: float) -> PartitionFold:
        """A partition folded anew from its beginning to its end, by a consumer of its own.

        Args:
            partition: which.
            seconds: how long nothing may come.

        Raises:
            KafkaException: the brokers did not answer.
        """
        fold = PartitionFold(Fold(), partition, self.topic.partitions, (), lambda *_: None)
        consumer = Consumer({**self._config, **_CONSUMER})
        try:
            consumer.assign([TopicPartition(self.settings.name, partition, OFFSET_BEGINNING)])
            while True:
                messages = consumer.consume(1, seconds) + consumer.consume(_BATCH, 0)
                if not messages:
                    raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
                for message in messages:
                    error = message.error()
                    if error is None:
                        fold.take(*_parts_of(message))
                    elif error.code() == KafkaError._PARTITION_EOF:
                        fold.reached_end()
                        return fold
                    else:
                        raise KafkaException(error)
        finally:
            consumer.close()

    # Writing

    def attempt(self, command: Command, partition: int, name: bytes) -> Attempt:
        """A command on its way: the same for all of its attempts.

        Args:
            command: the write.
            partition: where it goes.
            name: its session's.
        """
        number = command.id
        with self._lock:
            attempt = self._attempts.get(number)
            part = self._partitions[partition]
            state = part.fold.states.get(name)
            seen = -1 if state is None else state.mark
            if attempt is None:
                self._forget_attempts()
                if command.age:  # begun, and not here: nobody has looked for it since
                    attempt = Attempt(-1, -1)
                    attempt.sent = True
                else:
                    attempt = Attempt(seen, part.generation)
                self._attempts[number] = attempt
            elif attempt.generation == part.generation and attempt.verdict is None:
                attempt.seen = seen  # every record up to here was looked at
            return attempt

    def settled(self, number: int, partition: int, name: bytes) -> None:
        """Forget a command that is done, and see whether its session is to be cleaned up."""
        with self._lock:
            self._attempts.pop(number, None)
            self.cleaner.look(partition, name)

    def _forget_attempts(self) -> None:
        if len(self._attempts) > 1000:
            old = time.monotonic() - 600
            for number in [n for n, attempt in self._attempts.items() if attempt.began < old]:
                del self._attempts[number]

    def put(self, partition: int, token: bytes, value: bytes | None) -> Future[None]:
        """Send a record; done when it is acknowledged.

        Args:
            partition: where it goes.
            token: its key.
            value: what it says; None for a tombstone.

        Raises:
            BufferError: too much is on its way.
        """
        future = _future()
        self._produce(partition, token, value, lambda error: _settle(future, error))
        return future

    def put_command(
        self, partition: int, token: bytes, value: bytes, attempt: Attempt
    ) -> Future[None]:
        """Send a command's record; done when it is acknowledged, and the log was read to there.

        The arguments and errors are those of `put`.
        """
        future = attempt.again()
        self._produce(partition, token, value, lambda error: self._acknowledge(attempt, error))
        return future

    def _produce(
        self,
        partition: int,
        token: bytes,
        value: bytes | None,
        told: Callable[[KafkaError | None], None],
    ) -> None:
        self._producer.produce(
            self.settings.name,
            value,
            token,
            partition,
            on_delivery=lambda error, message: self._delivered(error, message, told),
        )

    def _delivered(
        self, error: KafkaError | None, message: Any, told: Callable[[KafkaError | None], None]
    ) -> None:
        if error is None:
            self._fold_own(message)
            told(None)
        else:
            told(named(error, "Write", self.settings.name))

    def _fold_own(self, message: Any) -> None:
        """Fold an acknowledged record of our own at once, if all before it is folded.

        The broker has said where it stands and when it was appended; the consumer, which is later,
        then passes over it.
        """
        kind, _ = message.timestamp()
        with self._lock:
            part = self._partitions.get(message.partition())
            if part is None or kind != TIMESTAMP_LOG_APPEND_TIME:
                return
            if message.offset() == part.position and self._take(part, message):
                self._wake(part)

    def _acknowledge(self, attempt: Attempt, error: KafkaError | None) -> None:
        if error is not None:
            self._missed.set()
            self._next_look = 0.0
        with self._lock:
            attempt.acknowledge(error)

    def give_up(self) -> None:
        """Take back what was not sent yet."""
        self._missed.set()
        self._producer.purge(in_queue=True, in_flight=False, blocking=False)

    def _answer_of(self, number: int) -> Callable[[int, Outcome | None], None]:
        def answer(command: int, outcome: Outcome | None) -> None:
            attempt = self._attempts[command]
            if attempt.verdict is None:
                attempt.verdict = Verdict(outcome, self.is_fresh(number))
            attempt.check()

        return answer

    # The threads

    def _serve(self) -> None:
        while not self._closing:
            self._producer.poll(_TICK)
            now = time.monotonic()
            if now >= self._next_look:
                self._next_look = now + _LOOK_SECONDS
                self._admin.poll(0)
                self._look()

    def _revive(self) -> None:
        """Have the clients connect at once: by themselves they look for a broker once a second."""
        while self._missed.wait() and not self._closing:
            self._missed.clear()
            self._look_again = True
            try:
                for client in (self._admin, self._producer):
                    client.list_topics(self.settings.name, timeout=_REVIVE_SECONDS)
            except KafkaException:
                time.sleep(_TICK)

    def _follow(self) -> None:
        consumer, partitions = self._consumer, self._partitions
        while not self._wanted.wait(1.0):  # until there is a partition to follow
            consumer.poll(0)
        while not self._closing:
            if self._unassigned:
                self._assign()
            if self._look_again:
                self._look_again = False
                with contextlib.suppress(KafkaException):
                    consumer.list_topics(self.settings.name, timeout=_REVIVE_SECONDS)
            first = consumer.poll(_TICK)
            if first is None:
                continue
            messages = [first, *consumer.consume(_BATCH, 0)]
            with self._lock:
                touched = set()
                for message in messages:
                    error, offset = message.error(), message.offset()
                    part = partitions.get(message.partition())  # type: ignore[arg-type]
                    if error is not None:
                        self._note(part, offset, error)
                    elif part is not None and offset is not None and self._take(part, message):
                        touched.add(part)
                for part in touched:
                    part.denied = None
                    self._warn(part)
                    self._wake(part)

    def _assign(self) -> None:
        # In the thread that polls: another one waits for it, holding the interpreter's lock.
        with self._lock:
            numbers, self._unassigned = self._unassigned, []
        places = [TopicPartition(self.settings.name, number) for number in numbers]
        # An offset by name would be looked up by the consumer, three times as slowly.
        answers = self._admin.list_offsets(
            dict.fromkeys(places, EARLIEST), request_timeout=_ASK_SECONDS
        )
        try:
            for place in places:
                place.offset = answers[place].result().offset
        except KafkaException:
            with self._lock:
                self._unassigned += numbers
            return
        self._consumer.incremental_assign(places)

    def _take(self, part: _Partition, message: Any) -> bool:
        """Fold a record; whether it was new."""
        offset = message.offset()
        if part.trouble is not None or offset < part.position:
            return False
        try:
            part.fold.take(*_parts_of(message))
        except ChatStoreError as exc:
            self._fail(part, exc)
            return False
        part.position = offset + 1
        return True

    def _note(self, part: _Partition | None, offset: int | None, error: KafkaError) -> None:
        code = error.code()
        if code == KafkaError._PARTITION_EOF:
            if part is not None and part.trouble is None and offset is not None:
                part.position = max(part.position, offset)
                part.denied = None
                self._reached(part, time.monotonic() - _FETCH_SECONDS - _TICK)
                self._wake(part)
        elif code in _LOST and part is not None:
            self._fail(
                part,
                BackendMismatchError(
                    f"partition {part.number} of the topic {self.settings.name!r} no longer has "
                    f"what comes after offset {part.position}: {error.str()}"
                ),
            )
        elif code in _DENIED and part is not None:
            part.denied = KafkaException(named(error, "Read", self.settings.name))
            self._wake(part)
        else:
            self._next_look = 0.0
            _log.debug("%s: %s", self.settings.name, error)

    def _warn(self, part: _Partition) -> None:
        """Say once of a partition that another program writes to it."""
        if part.fold.foreign and not part.warned:
            part.warned = True
            _log.warning(
                "partition %d of the topic %r holds records that chatstores did not write, such "
                "as that at offset %d: they are left out",
                part.number,
                self.settings.name,
                part.fold.foreign_offset,
            )


_LOST = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}
_DENIED = {
    KafkaError._AUTHENTICATION,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
}

#: What librdkafka says when nobody answers; what it heard of the connection says more.
_SILENT = {KafkaError._TIMED_OUT, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN}

# The views of this process, by connection and topic.

_views: dict[tuple[Any, ...], View] = {}
_views_lock = threading.Lock()


def acquire(config: Mapping[str, Any], settings: TopicSettings) -> View:
    """The view of a topic, made if this process has none; to be given back."""
    key = (settings, *sorted((name, repr(value)) for name, value in config.items()))
    with _views_lock:
        view = _views.get(key)
        if view is None:
            view = _views[key] = View(config, settings)
        view.users += 1
        return view


def release(view: View) -> None:
    """Give a view back; it is closed with its last user."""
    with _views_lock:
        view.users -= 1
        if view.users:
            return
        for key in [key for key, other in _views.items() if other is view]:
            del _views[key]
    view.close()


def _close_all() -> None:
    for view in list(_views.values()):
        view.close()


def _after_fork() -> None:
    global _views, _views_lock
    for view in _views.values():
        view.leak()
    _views, _views_lock = {}, threading.Lock()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_after_fork)
