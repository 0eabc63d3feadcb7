"""View: one topic as this process sees it: its partitions folded, and kept up with the log.

The stores of a process that have one topic in common share a view. Three threads serve it: one
follows the log, one tells what the brokers acknowledged, one has connections made again. Whoever
waits gets a promise.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any

from confluent_kafka import (
    TIMESTAMP_LOG_APPEND_TIME,
    Consumer,
    KafkaError,
    KafkaException,
    TopicPartition,
)

from chatstores.errors import (
    BackendMismatchError,
    ChatStoreError,
    NotSetUpError,
    StoreClosedError,
)
from chatstores.fold import Fold
from chatstores.state import Command, Outcome
from chatstores_kafka.attempt import Attempt, Verdict
from chatstores_kafka.cleanup import Cleaner
from chatstores_kafka.clients import DENIED, FETCH_SECONDS, FIRST, Clients
from chatstores_kafka.fold import PartitionFold
from chatstores_kafka.moment import Moment
from chatstores_kafka.partition import Partition, fields_of
from chatstores_kafka.promise import Promise
from chatstores_kafka.state import LoggedState
from chatstores_kafka.state_dir import Saver, StateDir
from chatstores_kafka.topic import (
    EARLIEST,
    LATEST,
    Topic,
    TopicSettings,
    ask_topic,
    check_first_record,
    find_topic,
    named,
    read_topic,
)

__all__ = ["View"]

_log = logging.getLogger("chatstores_kafka")

#: Seconds that the threads wait for something to do.
_TICK = 0.05
#: Seconds in which what the brokers say of further records is waited for, if more are on their way.
_GATHER_SECONDS = 0.001
#: Seconds in which a broker must say where a log ends, before it is asked again.
_ASK_SECONDS = 2.0
#: Seconds after which it is looked whether the topic is the one that was opened, if it is used.
_LOOK_SECONDS = 2.0
#: How many records are taken from the consumer at once.
_BATCH = 2000
#: How many sessions are folded at once that were only read.
_UNFOLDED = 20
#: What a consumer says whose place in the log is gone.
_LOST = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}


class View:
    """One topic.

    Args:
        config: librdkafka's options of the connection.
        settings: the topic's.
        state_dir: a directory that keeps what was read between runs, or None.
    """

    def __init__(
        self, config: Mapping[str, Any], settings: TopicSettings, state_dir: str | None = None
    ) -> None:
        self.settings = settings
        self.fold = Fold()
        self.cleaner = Cleaner(self)
        self._dir = StateDir(state_dir, settings.name) if state_dir is not None else None
        self._saver: Saver | None = None
        self.users = 0
        #: Held by who looks at the sessions.
        self.lock = threading.RLock()
        self._config = config
        self._clients: Clients | None = None
        self._opening = threading.Lock()
        self._topic: Topic | None = None
        #: The topic is not what it was when it was opened, or not there.
        self._trouble: Exception | None = None
        #: Somebody wanted something since the last look at the topic; one is under way; when the
        #: next one is due.
        self._used = self._looking = False
        self._next_look = time.monotonic() + _LOOK_SECONDS
        self._partitions: dict[int, Partition] = {}
        self._attempts: dict[int, Attempt] = {}
        #: Partitions that are to be read from their beginning, and those that the consumer reads.
        self._unassigned: list[int] = []
        self._assigned: set[int] = set()
        self._wanted = threading.Event()
        #: Something was not answered: whatever connection is down is wanted again now.
        self._missed = threading.Event()
        self._look_again = False
        #: What the brokers said of records, and who is to be told.
        self._reports: list[tuple[KafkaError | None, Any, Callable[[KafkaError | None], None]]] = []
        self._closing = False
        self._threads: list[threading.Thread] = []

    # Its life

    def open(self, create: bool, seconds: float) -> Topic:
        """Connect, and look at the topic; at once if that was done.

        Raises:
            NotSetUpError: there is no topic, and it may not be created.
            BackendMismatchError: it is not what it must be, or what the state directory is of.
            PermissionDeniedError: the state directory may not be used.
            HeldError: another process uses it.
            KafkaException: the broker did not say.
        """
        if self._topic is not None:
            return self._topic
        if not self._opening.acquire(timeout=seconds):
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        try:
            if self._topic is None:
                clients = self._clients = self._clients or Clients(self._config, self.settings.name)
                topic = clients.asked(lambda: self._find(clients, create, seconds))
                if self._dir is not None:
                    self._dir.take(topic)
                clients.start()
                self._topic = topic
                self._start()
            return self._topic
        finally:
            self._opening.release()

    def _find(self, clients: Clients, create: bool, seconds: float) -> Topic:
        admin, answer, settings = clients.admin, clients.answer, self.settings
        topic = find_topic(admin, settings, answer, create=create, seconds=seconds)
        consumer = clients.reader(**FIRST)
        try:
            check_first_record(consumer, admin, answer, settings, topic, seconds)
        finally:
            consumer.close()
        return topic

    def _start(self) -> None:
        for work in (self._follow, self._serve, self._revive):
            thread = threading.Thread(target=work, name="chatstores-kafka", daemon=True)
            self._threads.append(thread)
            thread.start()
        if self._dir is not None:
            self._saver = Saver(self, self._dir)
            self._saver.start()

    def close(self) -> None:
        """End the threads, and close the clients."""
        self.cleaner.close()
        if self._saver is not None:
            self._saver.close()
        self._closing = True
        self._wanted.set()
        self._missed.set()
        for thread in self._threads:
            thread.join()
        with self.lock:
            for part in self._partitions.values():
                part.fail(StoreClosedError("this store was closed; open a new one"))
        clients, self._clients = self._clients, None
        if clients is not None:
            clients.close()
        if self._dir is not None:
            self._dir.close()

    def leak(self) -> None:
        """In a forked child: never end what only its parent's threads serve."""
        if self._clients is not None:
            self._clients.leak()
        if self._dir is not None:
            self._dir.close()  # the parent keeps its lock

    @property
    def is_open(self) -> bool:
        """Whether `open` was done."""
        return self._topic is not None

    @property
    def topic(self) -> Topic:
        """The topic; `open` was called."""
        assert self._topic is not None
        return self._topic

    @property
    def clients(self) -> Clients:
        """The clients; `open` was called, and `close` was not."""
        assert self._clients is not None
        return self._clients

    # The topic

    def ping(self, seconds: float) -> None:
        """Ask the brokers for the topic.

        Raises:
            BackendMismatchError: it is not the one that was opened.
            KafkaException: they do not answer.
        """

        def describe() -> tuple[str, int]:
            # This question has the client connect at once; the other one waits for it.
            self.clients.admin.list_topics(self.settings.name, timeout=seconds)
            future = ask_topic(self.clients.admin, self.settings.name, seconds)
            return read_topic(self.clients.answer(future))

        self._judge(self.clients.asked(describe))
        if self._trouble is not None:
            raise self._trouble

    def _look(self) -> None:
        """Ask whether the topic is the one that was opened, if it is used; nobody waits for it."""
        if not self._used or self._looking:
            return
        self._used, self._looking = False, True
        ask_topic(self.clients.admin, self.settings.name, _ASK_SECONDS).add_done_callback(
            self._looked
        )

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
        with self.lock:
            if not isinstance(self._trouble, BackendMismatchError):
                self._trouble = trouble
            for part in self._partitions.values():
                part.end_waits(self._trouble)

    # Reading

    def state(self, partition: int, name: bytes) -> LoggedState | None:
        """A session's state; the lock is held."""
        return self._partitions[partition].fold.states.get(name)

    def partition_fold(self, partition: int) -> PartitionFold:
        """The fold of a partition that was asked for; the lock is held."""
        return self._partitions[partition].fold

    def is_fresh(self, partition: int) -> bool:
        """Whether a partition is loaded, and nothing can be missing."""
        self._used = True
        part = self._partitions.get(partition)
        return part is not None and self._trouble is None and part.is_fresh

    def position(self, partition: int) -> int:
        """How far a partition was read."""
        part = self._partitions.get(partition)
        return 0 if part is None else part.position

    def progress(self) -> int:
        """How much was read of all partitions."""
        return sum(part.position for part in list(self._partitions.values()))

    def loaded(self) -> list[Partition]:
        """The partitions that were read to an end."""
        return [part for part in list(self._partitions.values()) if part.loaded]

    @property
    def is_unfolded(self) -> bool:
        """Whether there are sessions whose records were only read."""
        return any(part.fold.is_unfolded for part in self.loaded())

    def unfold(self) -> None:
        """Fold all of them, a few at a time: others get the lock in between."""
        for part in self.loaded():
            while part.fold.is_unfolded:
                with self.lock:
                    part.fold.unfold(_UNFOLDED)

    def generation(self, partition: int) -> int:
        """Counts how often records of a partition may have been missing."""
        return self._partitions[partition].generation

    def caught_up(self, partition: int) -> Promise:
        """Done when everything is folded that stood in a partition at the time of this call."""
        promise = Promise()
        self._used = True
        with self.lock:
            part = self._partition(partition)
            trouble = self._trouble or part.trouble
            if trouble is not None:
                promise.settle(trouble)
            elif part.asking is None:
                part.asking = [promise]
                self._ask(part)
            else:  # the answer that is under way is from before this call
                part.asked_next.append(promise)
        return promise

    def _partition(self, number: int) -> Partition:
        part = self._partitions.get(number)
        if part is None:
            part = self._partitions[number] = Partition(
                number,
                self.settings.name,
                self.topic,
                self.fold,
                partial(self._new_fold, number),
                partial(self._place, number),
            )
            self._place(number)
        return part

    def _new_fold(self, number: int, fold: Fold) -> PartitionFold:
        answer = self._answer_of(number)
        return PartitionFold(fold, number, self.topic.partitions, self._attempts, answer)

    def _place(self, number: int) -> None:
        """Have the consumer read a partition from its beginning; the lock is held."""
        self._unassigned.append(number)
        self._wanted.set()

    def _ask(self, part: Partition) -> None:
        asked, position = Moment.ago(), part.position
        try:
            end = self._offset_of(part, LATEST)
            begin = None if self.topic.retention is None else self._offset_of(part, EARLIEST)
        except (KafkaException, AttributeError, AssertionError) as exc:  # closed in the meantime
            self._told(part, asked, position, None, exc)
            return

        def told(_: object) -> None:
            self._answered(part, asked, position, end, begin)

        if begin is None:
            end.add_done_callback(told)
        else:  # both are under way
            end.add_done_callback(lambda _: begin.add_done_callback(told))

    def _offset_of(self, part: Partition, which: Any) -> Future[Any]:
        place = TopicPartition(self.settings.name, part.number)
        admin = self.clients.admin
        return admin.list_offsets({place: which}, request_timeout=_ASK_SECONDS)[place]

    def _answered(
        self,
        part: Partition,
        asked: Moment,
        position: int,
        end: Future[Any],
        begin: Future[Any] | None,
    ) -> None:
        answers = [end] if begin is None else [end, begin]
        error = next((one.exception() for one in answers if one.exception() is not None), None)
        if isinstance(error, KafkaException):
            error = KafkaException(named(error.args[0], "Describe", self.settings.name))
        if error is None and any(one.result().offset < 0 for one in answers):
            error = KafkaException(KafkaError(KafkaError._NO_OFFSET))
        if error is None and begin is not None:
            with self.lock:
                part.cut_off(begin.result().offset)
                error = part.trouble
        self._told(part, asked, position, None if error else end.result().offset, error)

    def _told(
        self,
        part: Partition,
        asked: Moment,
        position: int,
        end: int | None,
        error: BaseException | None,
    ) -> None:
        with self.lock:
            promises, part.asking = part.asking or [], None
            if part.asked_next:
                part.asking, part.asked_next = part.asked_next, []
            again = part.asking is not None
            if end is None:
                self._missed.set()
                self._next_look = 0.0
                for promise in promises:
                    promise.settle(error)
            elif end < position:
                error = BackendMismatchError(
                    f"partition {part.number} of the topic {self.settings.name!r} ends at {end}, "
                    f"and was read up to {position}: it was made anew, or lost what it had "
                    "acknowledged; close this store and look at it"
                )
                part.fail(error)
                for promise in promises:
                    promise.settle(error)
            else:
                part.wait(promises, end, asked)
        if again:
            self._ask(part)

    def when(self, partition: int, ready: Callable[[], bool]) -> Promise:
        """Kept when something is so that is asked of the sessions each time that records came.

        Args:
            partition: whose records.
            ready: asks, with the lock held.

        Returns:
            A promise, to be cancelled by who does not wait any longer.
        """
        promise = Promise()
        with self.lock:
            self._partition(partition).watch(ready, promise)
        return promise

    def read_whole(self, seconds: float) -> Iterator[tuple[int, PartitionFold]]:
        """Each partition folded anew from its beginning to its end, one after another.

        Args:
            seconds: how long nothing may come.

        Raises:
            KafkaException: the brokers did not answer.
        """
        numbers = range(self.topic.partitions)
        places = [TopicPartition(self.settings.name, number) for number in numbers]
        earliest = self.clients.admin.list_offsets(
            dict.fromkeys(places, EARLIEST), request_timeout=seconds
        )
        consumer = self.clients.reader()
        try:
            for place in places:
                place.offset = earliest[place].result().offset
                consumer.assign([place])
                yield place.partition, self._read_to_end(consumer, place, seconds)
        finally:
            consumer.close()

    def _read_to_end(
        self, consumer: Consumer, place: TopicPartition, seconds: float
    ) -> PartitionFold:
        fold = PartitionFold(Fold(), place.partition, self.topic.partitions, (), lambda *_: None)
        if self.topic.retention is not None:
            fold.begin = place.offset
        while True:
            messages = consumer.consume(1, seconds) + consumer.consume(_BATCH, 0)
            if not messages:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
            for message in messages:
                error = message.error()
                if error is None:
                    fold.take(*fields_of(message))
                elif error.code() == KafkaError._PARTITION_EOF:
                    fold.reached_end()
                    return fold
                elif error.code() != KafkaError.GROUP_AUTHORIZATION_FAILED:  # it is in none
                    raise KafkaException(named(error, "Read", self.settings.name))

    # Writing

    def attempt(self, command: Command, partition: int, name: bytes) -> Attempt:
        """A command on its way: the same for all of its attempts.

        Args:
            command: the write.
            partition: where it goes.
            name: its session's.
        """
        number = command.id
        with self.lock:
            attempt = self._attempts.get(number)
            part = self._partitions[partition]
            seen = self._seen(partition, name)
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

    def anew(self, attempt: Attempt, partition: int, name: bytes) -> None:
        """Have a command that was refused, and so never ran, begin anew.

        Args:
            attempt: the command; every record up to here was looked at for it.
            partition: where it goes.
            name: its session's.
        """
        with self.lock:
            attempt.seen = self._seen(partition, name)
            attempt.verdict = None

    def _seen(self, partition: int, name: bytes) -> int:
        """The offset of a session's last command that was folded; -1 if there is none."""
        state = self.state(partition, name)
        return -1 if state is None else state.mark

    def settled(self, number: int, partition: int, name: bytes) -> None:
        """Forget a command that is done, and see whether its session is to be cleaned up."""
        with self.lock:
            self._attempts.pop(number, None)
            self.cleaner.look(partition, name)

    def _forget_attempts(self) -> None:
        if len(self._attempts) > 1000:
            old = time.monotonic() - 600
            for number in [n for n, attempt in self._attempts.items() if attempt.began < old]:
                del self._attempts[number]

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
            self.clients.producer.produce(
                self.settings.name, value, token, partition, on_delivery=delivered
            )
        except KafkaException as exc:  # what librdkafka knows without asking
            delivered(exc.args[0], None)

    def _settle(self) -> None:
        """Act on what the brokers said of records: once for all that came together.

        The callbacks themselves only note it: each of them takes the interpreter's lock from the
        threads that write.
        """
        reports, self._reports = self._reports, []
        with self.lock:
            touched = {self._fold_own(message) for error, message, _ in reports if error is None}
            for part in touched:
                if part is not None:
                    part.wake()
            for error, _, told in reports:
                told(None if error is None else named(error, "Write", self.settings.name))

    def _fold_own(self, message: Any) -> Partition | None:
        """Fold an acknowledged record of our own at once, if all before it is folded.

        The broker has said where it stands and when it was appended; the consumer, which is later,
        then passes over it.
        """
        part = self._partitions.get(message.partition())
        if (
            part is None
            or message.offset() != part.position
            or message.timestamp()[0] != TIMESTAMP_LOG_APPEND_TIME
        ):
            return None
        return part if part.take(message) else None

    def _acknowledge(self, attempt: Attempt, error: KafkaError | None) -> None:
        if error is not None:
            self._missed.set()
            self._next_look = 0.0
        with self.lock:
            attempt.acknowledge(error)

    def give_up(self) -> None:
        """Take back what was not sent yet."""
        self._missed.set()
        self.clients.producer.purge(in_queue=True, in_flight=False, blocking=False)

    def _answer_of(self, number: int) -> Callable[[int, Outcome | None], None]:
        def answer(command: int, outcome: Outcome | None) -> None:
            attempt = self._attempts[command]
            if attempt.verdict is None:
                attempt.verdict = Verdict(outcome, self.is_fresh(number))
            attempt.check()

        return answer

    # The threads

    def _serve(self) -> None:
        producer = self.clients.producer
        while not self._closing:
            producer.poll(_TICK)
            if self._reports:
                while len(producer) > len(self._reports) and producer.poll(_GATHER_SECONDS):
                    pass
                self._settle()
            now = time.monotonic()
            if now >= self._next_look:
                self._next_look = now + _LOOK_SECONDS
                self.clients.admin.poll(0)
                self._look()

    def _revive(self) -> None:
        """Have the clients connect at once: by themselves they look for a broker once a second."""
        while self._missed.wait() and not self._closing:
            self._missed.clear()
            self._look_again = True
            try:
                self.clients.revive()
            except KafkaException:
                time.sleep(_TICK)

    def _follow(self) -> None:
        consumer, partitions = self.clients.consumer, self._partitions
        while not self._wanted.wait(1.0):  # until there is a partition to follow
            consumer.poll(0)
        while not self._closing:
            if self._unassigned:
                self._assign()
            if self._look_again:
                self._look_again = False
                self.clients.revive_consumer()
            first = consumer.poll(_TICK)
            if first is None:
                continue
            messages = [first, *consumer.consume(_BATCH, 0)]
            with self.lock:
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
        with self.lock:
            numbers, self._unassigned = self._unassigned, []
        name, assigned, consumer = self.settings.name, self._assigned, self.clients.consumer
        # What the consumer has fetched of them before goes with that.
        again = [TopicPartition(name, number) for number in numbers if number in assigned]
        if again:
            consumer.incremental_unassign(again)
            assigned.difference_update(numbers)
        places = [TopicPartition(name, number) for number in numbers]
        # An offset by name would be looked up by the consumer, three times as slowly.
        answers = self.clients.admin.list_offsets(
            dict.fromkeys(places, EARLIEST), request_timeout=_ASK_SECONDS
        )
        try:
            for place in places:
                place.offset = answers[place].result().offset
        except KafkaException:
            with self.lock:
                self._unassigned += numbers
            return
        for place in places:
            self._begin(place)
        consumer.incremental_assign(places)
        assigned.update(numbers)
        with self.lock:
            for number in numbers:
                self._partitions[number].placed = True

    def _begin(self, place: TopicPartition) -> None:
        """Have a partition begin with what was saved of it, if anything was."""
        saved = self._dir.load(place.partition) if self._dir is not None else None
        with self.lock:
            part = self._partitions[place.partition]
            part.start(place.offset)
            if saved is None or part.is_read_anew:
                return
            if saved.about["begin"] != part.begin:
                if self.topic.retention is not None:
                    return  # it is read from there
                part.fail(
                    BackendMismatchError(
                        f"partition {part.number} of the topic {self.settings.name!r} begins at "
                        f"offset {part.begin}, and began at {saved.about['begin']} when it was "
                        f"saved in state_dir: records were deleted; look at what is lost, then "
                        "remove the directory"
                    )
                )
                return
            part.begin_with(saved)
            place.offset = part.position

    def _note(self, part: Partition | None, offset: int | None, error: KafkaError) -> None:
        code = error.code()
        if code == KafkaError._PARTITION_EOF:
            if part is not None and part.trouble is None and offset is not None:
                part.ended(offset, Moment.ago(FETCH_SECONDS + _TICK))
        elif code in _LOST and part is not None and self.topic.retention is not None:
            if part.placed:
                part.reload()
        elif code in _LOST and part is not None:
            part.fail(
                BackendMismatchError(
                    f"partition {part.number} of the topic {self.settings.name!r} no longer has "
                    f"what comes after offset {part.position}: {error.str()}"
                )
            )
        elif code in DENIED and part is not None:
            part.denied = KafkaException(named(error, "Read", self.settings.name))
            part.wake()
        else:
            self._next_look = 0.0
            _log.debug("%s: %s", self.settings.name, error)
