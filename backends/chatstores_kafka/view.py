"""View: one topic as this process sees it: its partitions folded, and kept up with the log.

The stores of a process that have one topic in common share a view. Three threads serve it: one
follows the log (`Follower`), one acts on what the brokers say of records (`Sender`), one has
connections made again. Whoever waits gets a promise.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from chatstores.errors import BackendMismatchError, StoreClosedError
from chatstores.fold import Fold
from chatstores.state import Command, Outcome
from chatstores_kafka.attempt import Attempt, Verdict
from chatstores_kafka.cleanup import Cleaner
from chatstores_kafka.clients import FIRST, Clients
from chatstores_kafka.fold import PartitionFold
from chatstores_kafka.follower import Follower
from chatstores_kafka.moment import Moment
from chatstores_kafka.partition import Partition
from chatstores_kafka.promise import Promise
from chatstores_kafka.sender import Sender
from chatstores_kafka.state import LoggedState
from chatstores_kafka.state_dir import Saver, StateDir
from chatstores_kafka.topic import (
    EARLIEST,
    LATEST,
    Topic,
    TopicSettings,
    check_first_record,
    find_topic,
    named,
)
from chatstores_kafka.watch import TopicWatch

__all__ = ["View"]

#: Seconds after which a broker that is away is tried again.
_TICK = 0.05
#: Seconds in which a broker must say where a log ends, before it is asked again.
_ASK_SECONDS = 2.0
#: How many sessions are folded at once that were only read.
_UNFOLDED = 20


class View:
    """One topic.

    Args:
        config: librdkafka's options of the connection.
        settings: the topic's.
        state_dir: a directory that keeps what was read between runs, or None.

    Attributes:
        lock: held by who looks at the sessions, or changes what is known of a partition.
        fold: the sessions of all partitions, to read them.
        partitions: those that were asked for, by number.
        sender: sends records.
        watch: looks whether the topic is still the one that was opened.
        cleaner: removes what this process made useless.
        state_dir: the directory, or None.
        users: how many transports use it.
    """

    def __init__(
        self, config: Mapping[str, Any], settings: TopicSettings, state_dir: str | None = None
    ) -> None:
        self.settings = settings
        self.fold = Fold()
        self.cleaner = Cleaner(self)
        self.sender = Sender(self)
        self.watch = TopicWatch(self)
        self.state_dir = StateDir(state_dir, settings.name) if state_dir is not None else None
        self._follower = Follower(self)
        self._saver: Saver | None = None
        self.users = 0
        self.lock = threading.RLock()
        self._config = config
        self._clients: Clients | None = None
        self._opening = threading.Lock()
        self._topic: Topic | None = None
        self.partitions: dict[int, Partition] = {}
        self._attempts: dict[int, Attempt] = {}
        #: Something was not answered: whatever connection is down is wanted again now.
        self._missed = threading.Event()
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
                if self.state_dir is not None:
                    self.state_dir.take(topic)
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
        for work in (self._follower.run, self.sender.run, self._revive):
            thread = threading.Thread(target=work, name="chatstores-kafka", daemon=True)
            self._threads.append(thread)
            thread.start()
        if self.state_dir is not None:
            self._saver = Saver(self, self.state_dir)
            self._saver.start()

    def close(self) -> None:
        """End the threads, and close the clients."""
        self.cleaner.close()
        if self._saver is not None:
            self._saver.close()
        self._closing = True
        self._follower.stop()
        self.sender.stop()
        self._missed.set()
        for thread in self._threads:
            thread.join()
        with self.lock:
            for part in self.partitions.values():
                part.fail(StoreClosedError("this store was closed; open a new one"))
        clients, self._clients = self._clients, None
        if clients is not None:
            clients.close()
        if self.state_dir is not None:
            self.state_dir.close()

    def leak(self) -> None:
        """In a forked child: never end what only its parent's threads serve."""
        if self._clients is not None:
            self._clients.leak()
        if self.state_dir is not None:
            self.state_dir.close()  # the parent keeps its lock

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

    # Reading

    def state(self, partition: int, name: bytes) -> LoggedState | None:
        """A session's state; the lock is held."""
        return self.partitions[partition].fold.states.get(name)

    def partition_fold(self, partition: int) -> PartitionFold:
        """The fold of a partition that was asked for; the lock is held."""
        return self.partitions[partition].fold

    def is_fresh(self, partition: int) -> bool:
        """Whether a partition is loaded, and nothing can be missing."""
        self.watch.used = True
        part = self.partitions.get(partition)
        return part is not None and self.watch.trouble is None and part.is_fresh

    def position(self, partition: int) -> int:
        """How far a partition was read."""
        part = self.partitions.get(partition)
        return 0 if part is None else part.position

    def progress(self) -> int:
        """How much was read of all partitions."""
        return sum(part.position for part in list(self.partitions.values()))

    def loaded(self) -> list[Partition]:
        """The partitions that were read to an end."""
        return [part for part in list(self.partitions.values()) if part.loaded]

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
        return self.partitions[partition].generation

    def caught_up(self, partition: int) -> Promise:
        """Done when everything is folded that stood in a partition at the time of this call."""
        promise = Promise()
        self.watch.used = True
        with self.lock:
            part = self._partition(partition)
            trouble = self.watch.trouble or part.trouble
            if trouble is not None:
                promise.settle(trouble)
            elif part.asking is None:
                part.asking = [promise]
                self._ask(part)
            else:  # the answer that is under way is from before this call
                part.asked_next.append(promise)
        return promise

    def _partition(self, number: int) -> Partition:
        part = self.partitions.get(number)
        if part is None:
            part = self.partitions[number] = Partition(
                number,
                self.settings.name,
                self.topic,
                self.fold,
                partial(self._new_fold, number),
                partial(self._follower.place, number),
            )
            self._follower.place(number)
        return part

    def _new_fold(self, number: int, fold: Fold) -> PartitionFold:
        answer = self._answer_of(number)
        return PartitionFold(fold, number, self.topic.partitions, self._attempts, answer)

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
                self.missed()
                self.watch.look_soon()
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
            part = self.partitions[partition]
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

    def _answer_of(self, number: int) -> Callable[[int, Outcome | None], None]:
        def answer(command: int, outcome: Outcome | None) -> None:
            attempt = self._attempts[command]
            if attempt.verdict is None:
                attempt.verdict = Verdict(outcome, self.is_fresh(number))
            attempt.check()

        return answer

    # Connections that are down

    def missed(self) -> None:
        """Note that something was not answered: what is down is connected again now."""
        self._missed.set()

    def _revive(self) -> None:
        """Have the clients connect at once: by themselves they look for a broker once a second."""
        while self._missed.wait() and not self._closing:
            self._missed.clear()
            self._follower.look_again()
            try:
                self.clients.revive()
            except KafkaException:
                time.sleep(_TICK)
