"""The hooks of the Kafka store: commands as records, settled by folding the log."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Self, TypeVar

from confluent_kafka import KafkaError, KafkaException

from chatstores.codec import Unreadable, decode_one
from chatstores.errors import (
    AuthenticationError,
    BackendMismatchError,
    BackendUnavailableError,
    ChatStoreError,
    NotSetUpError,
    PermissionDeniedError,
    UnsupportedError,
)
from chatstores.message import ChatMessage
from chatstores.operations import KeyPage, RecentPage
from chatstores.retry import Busy, NotDone
from chatstores.state import (
    Append,
    Command,
    Delete,
    Head,
    Outcome,
    Record,
    Replace,
    Restore,
    Snapshot,
    now_us,
)
from chatstores.store import ChatStore
from chatstores.transport import run_sync
from chatstores.types import Capabilities
from chatstores.url import StoreURL, parse_options
from chatstores_kafka import cursor
from chatstores_kafka.attempt import Attempt
from chatstores_kafka.clients import DENIED, refused_by_tls
from chatstores_kafka.place import (
    OPTIONS,
    OURS,
    PORT,
    check_driver_options,
    check_topic,
    connection,
    hosts_text,
    is_secret,
    parse_hosts,
    topic_of,
)
from chatstores_kafka.promise import Promise
from chatstores_kafka.record import Kind, encode_command, encode_value, name_of, size_of
from chatstores_kafka.state import REMEMBERED
from chatstores_kafka.state_dir import HeldError
from chatstores_kafka.topic import MAX_RECORD_BYTES, TopicSettings, setup_script
from chatstores_kafka.transport import AsyncKafka, SilentError, SyncKafka
from chatstores_kafka.view import View

__all__ = ["KafkaChatStore"]

T = TypeVar("T")
KafkaTransport = SyncKafka | AsyncKafka

#: What a record's head, name and arguments may take of it.
_HEAD_BYTES = 64 * 1024
_LIMIT = MAX_RECORD_BYTES - _HEAD_BYTES
#: Seconds in which librdkafka says what it had not sent.
_GIVE_UP_SECONDS = 0.1
_NO_TTL = (
    "with retention= messages go by their own age, from live sessions too; take retention= or "
    "ttl=, not both"
)
_DEFAULTS = {
    "consistency": "linearizable",
    "partitions": 12,
    "compaction_lag": 3600.0,
}


class KafkaChatStore(ChatStore):
    """Sessions in one compacted topic of Kafka, 2.8 or newer.

    Every write is a record; a session is what its records say in the log's order. Each process
    keeps the sessions of the partitions that it was asked for in its memory, and up with the log.

    URL: ``kafka://[user:password@]host1[:9092],host2/topic?option=value``; the topic is
    ``chatstores`` unless named.

    Args:
        servers: the brokers to begin with: "host:port", several with commas between.
        topic: the topic; default "chatstores".
        username: the user for SASL, or None.
        password: the user's password, or None.
        consistency: "linearizable" (default): a read sees every write that returned before it
            began; "eventual": it asks no broker, and sees what this process has heard of.
        partitions: how many the topic is created with; default 12. It can never change.
        replication_factor: how many copies the topic is created with; None: the broker's default.
        compaction_lag: seconds in which what is written is not compacted, if the topic is created;
            default an hour. No process may be asleep for longer and then answer without looking.
        retention: seconds, or text such as "30d", after which the brokers may remove a message,
            also one of a live session; None (default): messages are kept for ever.
        state_dir: a directory in which what was read is kept between runs, so that the next one
            reads only what is new; for one process at a time. It holds the messages, readable for
            this user. Default None: the topic is read again.
        driver_options: librdkafka's options, by their own names, such as ``security.protocol``.
        options: those of every store, see ``ChatStore``.

    Raises:
        InvalidURLError: an option is wrong.
        UnsupportedError: a ttl is given beside a retention.
    """

    capabilities = Capabilities(
        notes={
            "durability": "what the topic's replication keeps: with three copies and "
            "min.insync.replicas=2 the loss of a broker loses nothing",
            "cold": "the first call for a session reads its partition from the beginning, or from "
            "where state_dir is; listing and purge_expired() read all partitions",
            "memory": "each process holds the sessions of the partitions that it was asked for; "
            "with state_dir, those that were used since it began",
            "deletion": "what was removed stays in the log until a checkpoint and Kafka's own "
            "compaction have passed",
            "expiry": "is decided by the brokers' clock, and read by this machine's",
        },
        max_message_bytes=_LIMIT,
    )
    _driver_errors = (KafkaException, SilentError, FutureTimeoutError, HeldError)
    _options: ClassVar[Mapping[str, Any]] = OPTIONS

    def __init__(
        self,
        servers: str,
        *,
        topic: str = "chatstores",
        username: str | None = None,
        password: str | None = None,
        consistency: Literal["linearizable", "eventual"] = "linearizable",
        partitions: int = 12,
        replication_factor: int | None = None,
        compaction_lag: float | str = 3600.0,
        retention: float | str | None = None,
        state_dir: str | os.PathLike[str] | None = None,
        driver_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        given = {
            "consistency": consistency,
            "partitions": partitions,
            "compaction_lag": compaction_lag,
            **({} if replication_factor is None else {"replication_factor": replication_factor}),
            **({} if retention is None else {"retention": retention}),
            **({} if state_dir is None else {"state_dir": os.fspath(state_dir)}),
            **(driver_options or {}),
        }
        values = parse_options(given, OPTIONS, "kafka://")
        self._topic = check_topic(topic)
        self._consistency: str = values.pop("consistency")
        kept: float | None = values.pop("retention", None)
        self._state_dir: str | None = values.pop("state_dir", None)
        self._settings = TopicSettings(
            self._topic,
            values.pop("partitions"),
            values.pop("replication_factor", -1),
            round(values.pop("compaction_lag") * 1000),
            None if kept is None else max(1, round(kept * 1000)),
        )
        if kept is not None:
            if self._ttl is not None:
                raise UnsupportedError(_NO_TTL)
            self.capabilities = replace(
                self.capabilities, refused=MappingProxyType({"L1": _NO_TTL})
            )
        check_driver_options(values)
        hosts = parse_hosts(servers)
        self._config = connection(hosts, username, password, values)
        self._secrets = tuple(str(value) for name, value in self._config.items() if is_secret(name))
        shown = {
            name: str(value)
            for name, value in {**given, **values}.items()
            if _DEFAULTS.get(name) != value and not is_secret(name)
        }
        self._public = StoreURL("kafka", hosts, username, None, f"/{self._topic}", shown).public

    @classmethod
    def _from_parts(cls, url: StoreURL, options: dict[str, Any]) -> Self:
        own = {name: options.pop(name) for name in OURS if name in options}
        base = {name: options.pop(name) for name in cls._base_options if name in options}
        return cls(
            hosts_text(url.hosts or (("localhost", PORT),)),
            topic=topic_of(url),
            username=url.username,
            password=url.password,
            driver_options=options,
            **own,
            **base,
        )

    @property
    def url(self) -> str:
        """``kafka://host:9092/topic``, without the password."""
        return self._public

    def _open(self) -> SyncKafka:
        return SyncKafka(self._config, self._settings, self._state_dir, self._first_attempt)

    def _aopen(self) -> AsyncKafka:
        return AsyncKafka(self._config, self._settings, self._state_dir, self._first_attempt)

    def consume(
        self,
        key: str,
        group: str,
        *,
        position: Literal["beginning", "latest", "last_consumed"] = "last_consumed",
        max_message_count: int | None = None,
        max_time_sec: float | None = None,
    ) -> list[ChatMessage]:
        """A session's messages, oldest first, read on from where a group stopped.

        What the session holds now is consumed: messages that were removed are not, a replaced
        message is not consumed again, and after ``set_messages``, or in a session that is born
        anew, everything is. A group has one consumer at a time: of several at once, more than one
        may get a message.

        Kafka keeps the position, for a week after the group's last call for the session unless
        the brokers' ``offsets.retention.minutes`` says otherwise. It moves before the messages are
        returned.

        Args:
            key: the session.
            group: whose position; 1 to 200 of the characters ``A-Z a-z 0-9 . _ -``.
            position: "beginning": go back to the first message; "latest": skip what is there;
                "last_consumed": go on where the group stopped, or begin if it never did.
            max_message_count: how many messages at most; None: all.
            max_time_sec: how many seconds to wait for a message where there is none; None: 0.

        Returns:
            The messages; an empty list if there is nothing new.

        Raises:
            InvalidArgumentError: an argument is wrong.
            CorruptRecordError: a record is not readable, and ``on_corrupt`` is "raise"; the
                position stays.
            BackendUnavailableError: the brokers are silent; the position may have moved, past
                messages that were not returned.
            BackendMismatchError: another program committed offsets for the group.
        """
        t = self._transports.sync()
        return run_sync(
            cursor.consume(self, t, key, group, position, max_message_count, max_time_sec)
        )

    async def aconsume(
        self,
        key: str,
        group: str,
        *,
        position: Literal["beginning", "latest", "last_consumed"] = "last_consumed",
        max_message_count: int | None = None,
        max_time_sec: float | None = None,
    ) -> list[ChatMessage]:
        """Async `consume`."""
        t = await self._transports.running()
        return await cursor.consume(self, t, key, group, position, max_message_count, max_time_sec)

    # The view

    async def _view(self, t: KafkaTransport) -> View:
        """The topic's view, open."""
        view = t.view()
        if not view.is_open:
            await t.offload(view.open, self._create, t.seconds)
        return view

    def _partition(self, view: View, name: bytes) -> int:
        return zlib.crc32(name) % view.topic.partitions

    async def _loaded(
        self, t: KafkaTransport, view: View, partition: int, *, linearizable: bool
    ) -> None:
        """Return when a partition can answer."""
        if linearizable or not view.is_fresh(partition):
            await self._caught_up(t, view, partition)

    async def _caught_up(self, t: KafkaTransport, view: View, partition: int) -> None:
        """Return when all is folded that stands in a partition now."""
        await t.wait(view.caught_up(partition), partial(view.position, partition))

    async def _all_loaded(self, t: KafkaTransport) -> View:
        """Return when all partitions can answer."""
        view = await self._view(t)
        promises = [view.caught_up(number) for number in range(view.topic.partitions)]
        for promise in promises:
            await t.wait(promise, view.progress)
        if view.is_unfolded:
            await t.offload(view.unfold)
        return view

    async def _look(self, t: KafkaTransport, key: str) -> View:
        """The view, when a session can be read."""
        view = await self._view(t)
        partition = self._partition(view, name_of(self._namespace, key))
        await self._loaded(t, view, partition, linearizable=self._consistency == "linearizable")
        return view

    # Commands

    async def _commit(self, t: KafkaTransport, key: str, command: Command) -> Outcome:
        try:
            view = await self._view(t)
            name = name_of(self._namespace, key)
            partition = self._partition(view, name)
            # With a retention, also who writes asks whether the log was cut off.
            await self._loaded(t, view, partition, linearizable=view.topic.retention is not None)
        except (KafkaException, SilentError, HeldError) as exc:
            raise NotDone from exc
        unreadable = self._unreadable(view, partition, name, command)
        if unreadable is not None:
            return unreadable
        attempt = view.attempt(command, partition, name)
        tokens = await self._send_parts(t, view, partition, name, command, attempt)
        value = encode_command(
            name,
            command,
            seen=attempt.seen,
            partitions=view.topic.partitions,
            retry=attempt.sent,
            parts=tokens,
        )
        # A record's key is another one for each attempt; the first has the command's own chance.
        token = os.urandom(8) if attempt.sent else command.id.to_bytes(8, "little")
        put = partial(view.sender.put_command, attempt=attempt)
        await self._send(t, view, put, partition, token, value)
        return await self._outcome(t, view, partition, name, command, attempt)

    async def _send_parts(
        self,
        t: KafkaTransport,
        view: View,
        partition: int,
        name: bytes,
        command: Command,
        attempt: Attempt,
    ) -> list[int]:
        """Send the messages of a command that one record cannot hold; the tokens of the parts."""
        tokens = []
        for records in _parts(command):
            value = encode_value(
                Kind.PART,
                name,
                id=command.id,
                seen=attempt.seen,
                partitions=view.topic.partitions,
                records=records,
            )
            token = os.urandom(8)
            try:
                await self._send(t, view, view.sender.put, partition, token, value)
            except (KafkaException, SilentError) as exc:
                raise NotDone from exc
            tokens.append(int.from_bytes(token, "little"))
        return tokens

    async def _send(
        self,
        t: KafkaTransport,
        view: View,
        put: Callable[[int, bytes, bytes], Promise],
        partition: int,
        token: bytes,
        value: bytes,
    ) -> None:
        """Send a record and wait for its promise."""
        try:
            promise = put(partition, token, value)
        except BufferError:
            raise Busy("too many writes of this process wait for the brokers") from None
        try:
            try:
                await t.wait(promise)
            except SilentError:
                view.sender.give_up()  # what no broker has been sent
                await t.within(_GIVE_UP_SECONDS).wait(promise)
        except KafkaException as exc:
            if exc.args[0].code() in _NOT_DONE:
                raise NotDone from exc
            raise

    async def _outcome(
        self,
        t: KafkaTransport,
        view: View,
        partition: int,
        name: bytes,
        command: Command,
        attempt: Attempt,
    ) -> Outcome:
        """What a command did that is in the log and was folded."""
        verdict = attempt.verdict
        assert verdict is not None
        outcome = verdict.outcome
        if not verdict.sure:
            # Records before it may have been missing; what comes up to the end has all of them.
            await self._caught_up(t, view, partition)
            with view.lock:
                state = view.state(partition, name)
                outcome = state.remembered.get(command.id) if state is not None else None
        unsettled = outcome is None and verdict.sure
        if unsettled and attempt.generation == view.generation(partition):
            view.anew(attempt, partition, name)
            raise Busy(f"{REMEMBERED} and more other writes came before this one")
        view.settled(command.id, partition, name)
        if outcome is not None:
            return outcome
        return Outcome(0, refusal="unknown")

    def _unreadable(
        self, view: View, partition: int, name: bytes, command: Command
    ) -> Outcome | None:
        """The refusal of a deletion that would remove a record that is not readable."""
        if not isinstance(command.action, Delete):
            return None
        with view.lock:
            state = view.state(partition, name)
            if (
                state is None
                or not state.is_live(now_us())
                or command.expected_version not in (None, state.version)
                or state.remembered.get(command.id) is not None
            ):
                return None
            for index in state.targets(command.action):
                try:
                    decode_one(state.payloads[index])
                except Unreadable:
                    return Outcome(state.version, refusal="corrupt", detail=str(index))
        return None

    # Reading

    async def _read(
        self, t: KafkaTransport, key: str, first: int | None, last: int | None
    ) -> Sequence[bytes]:
        view = await self._look(t, key)
        with view.lock:
            return view.fold.read(self._namespace, key, first, last, now_us())

    async def _head(self, t: KafkaTransport, key: str) -> Head | None:
        view = await self._look(t, key)
        with view.lock:
            return view.fold.head(self._namespace, key, now_us())

    async def _snapshot(
        self, t: KafkaTransport, key: str, before: int | None, limit: int | None
    ) -> Snapshot | None:
        view = await self._look(t, key)
        with view.lock:
            return view.fold.snapshot(self._namespace, key, before, limit, now_us())

    async def _list(self, t: KafkaTransport, prefix: str, after: str | None, limit: int) -> KeyPage:
        view = await self._all_loaded(t)
        with view.lock:
            return view.fold.list(self._namespace, prefix, after, limit, now_us())

    async def _recent(
        self, t: KafkaTransport, before: tuple[int, str] | None, limit: int
    ) -> RecentPage:
        view = await self._all_loaded(t)
        with view.lock:
            return view.fold.recent(self._namespace, before, limit, now_us())

    # The whole

    async def _purge(self, t: KafkaTransport) -> int:
        view = await self._all_loaded(t)
        with view.lock:
            expired = view.fold.expired(self._namespace, now_us())
        purged = 0
        for key in expired:
            # Any command ends the session whose time is over, by the brokers' clock.
            number = int.from_bytes(os.urandom(8), "big")
            outcome = await self._commit(t, key, Command(number, Delete("oldest", 0)))
            purged += outcome.version == 0
        await t.offload(view.cleaner.sweep, self._namespace)
        return purged

    async def _setup(self, t: KafkaTransport) -> None:
        await self._ping(t)

    def _setup_script(self) -> str:
        return setup_script(self._settings)

    async def _ping(self, t: KafkaTransport) -> None:
        view = await self._view(t)
        await t.offload(view.watch.ping, t.seconds)

    def _error(self, exc: BaseException) -> ChatStoreError:
        where = self._public.partition("?")[0]
        if isinstance(exc, HeldError):
            return BackendUnavailableError(f"state_dir: {exc}")
        if not isinstance(exc, KafkaException):
            return BackendUnavailableError(f"{where} did not answer: {exc}")
        error = exc.args[0]
        code, reason = error.code(), error.str()
        if code in (KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED):
            return AuthenticationError(f"{where} refuses the user or the password: {reason}")
        if refused_by_tls(error):
            return AuthenticationError(
                f"{where}: TLS failed: {reason}; ssl.ca.location names the authority of the "
                "brokers' certificates, ssl.certificate.location and ssl.key.location the client's "
                "own"
            )
        if code in DENIED:
            return PermissionDeniedError(
                f"{where} denies this user {reason}: it needs the ACLs Read, Write and "
                "DescribeConfigs on the topic, and Create to create it"
            )
        if code in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):
            return NotSetUpError(f"there is no topic {self._topic!r} any more: {reason}")
        if code in (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE):
            return BackendMismatchError(
                f"the brokers take no record of {MAX_RECORD_BYTES} bytes: max.message.bytes of "
                f"the topic {self._topic!r} must allow it"
            )
        if code in _WRONG:
            return BackendMismatchError(f"{where} refuses the topic: {reason}")
        return BackendUnavailableError(f"{where} cannot be used now: {reason}")


def _parts(command: Command) -> list[list[Record]]:
    """The messages of a command that one record cannot hold, by records that can."""
    action = command.action
    if not isinstance(action, Append | Replace | Restore):
        return []
    if len(action.records) == 1:
        return []
    parts: list[list[Record]] = [[]]
    room = _LIMIT
    for record in action.records:
        size = size_of(record)
        if size > room and parts[-1]:
            parts.append([])
            room = _LIMIT
        parts[-1].append(record)
        room -= size
    return parts if len(parts) > 1 else []


_WRONG = {
    KafkaError.INVALID_CONFIG,
    KafkaError.INVALID_PARTITIONS,
    KafkaError.INVALID_REPLICATION_FACTOR,
    KafkaError.POLICY_VIOLATION,
    KafkaError.TOPIC_EXCEPTION,
}
#: What a broker, or librdkafka, says of a record that it did not take.
_NOT_DONE = {
    KafkaError._PURGE_QUEUE,
    KafkaError._QUEUE_FULL,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.NOT_ENOUGH_REPLICAS,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.RECORD_LIST_TOO_LARGE,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
}
