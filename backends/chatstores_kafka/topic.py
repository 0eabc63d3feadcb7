"""The topic: created with the settings it needs, or checked and refused with what differs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, NamedTuple, cast

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ConfigResource,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from chatstores.errors import BackendMismatchError, NotSetUpError
from chatstores.fold import Fold
from chatstores_kafka.fold import PartitionFold

__all__ = [
    "EARLIEST",
    "LATEST",
    "MAX_RECORD_BYTES",
    "Topic",
    "TopicSettings",
    "ask_topic",
    "check_first_record",
    "find_topic",
    "named",
    "read_topic",
    "setup_script",
]

#: Waits for what brokers answer, and returns it or raises.
Answer = Callable[[Future[Any]], Any]

EARLIEST = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
LATEST = OffsetSpec.latest()  # type: ignore[no-untyped-call]

#: The largest record. Hosted Kafka allows no more than 8 MiB.
MAX_RECORD_BYTES = 8 * 1024 * 1024
#: The cleanup policy of a topic with a retention, as we write it.
_BOTH = "compact,delete"
_TIMES = ("min.compaction.lag.ms", "delete.retention.ms")


class TopicSettings(NamedTuple):
    """What a topic is created with, and must be.

    Attributes:
        name: its name.
        partitions: how many, if it is created.
        replication_factor: how many copies, if it is created; -1: the broker's default.
        compaction_lag: milliseconds in which nothing that is written is compacted.
        retention: milliseconds after which what was written goes; None: never.
    """

    name: str
    partitions: int
    replication_factor: int
    compaction_lag: int
    retention: int | None = None

    def config(self) -> dict[str, str]:
        """The topic's configuration."""
        config = {
            "cleanup.policy": "compact",
            "max.message.bytes": str(MAX_RECORD_BYTES),
            "message.timestamp.type": "LogAppendTime",
            "min.compaction.lag.ms": str(self.compaction_lag),
        }
        if self.retention is not None:
            config["cleanup.policy"] = _BOTH
            config["retention.ms"] = str(self.retention)
            config["retention.bytes"] = "-1"
        return config


class Topic(NamedTuple):
    """A topic that is there.

    Attributes:
        id: its id, by which a topic that was made anew is another one.
        partitions: how many it has.
        compaction_lag: seconds in which nothing that is written is compacted.
        delete_retention: seconds in which a tombstone stays at least.
        retention: seconds after which what was written goes; None: never.
    """

    id: str
    partitions: int
    compaction_lag: float
    delete_retention: float
    retention: float | None


def find_topic(
    admin: AdminClient, settings: TopicSettings, answer: Answer, *, create: bool, seconds: float
) -> Topic:
    """The topic as it is, created if it may be.

    Args:
        admin: asks the brokers.
        settings: what it must be.
        answer: waits for what they answer.
        create: whether it may be created.
        seconds: how long one answer may take.

    Raises:
        NotSetUpError: it is not there, and may not be created.
        BackendMismatchError: it is not what it must be.
        KafkaException: the broker did not say.
    """
    deadline = time.monotonic() + seconds
    created = False
    while True:
        found = _describe(admin, settings.name, answer, seconds)
        # One broker may not know yet what another one does.
        config = None if found is None else _config(admin, settings.name, answer, seconds)
        if found is not None and config is not None:
            _check(settings, config)
            lag, stay = (int(config[name]) / 1000 for name in _TIMES)
            retention = None if settings.retention is None else settings.retention / 1000
            return Topic(*found, lag, stay, retention)
        if found is None and not create:
            raise NotSetUpError(
                f"there is no topic {settings.name!r}: 'chatstores setup' creates it; or open the "
                "store without create=False"
            )
        if found is None and not created:
            _create(admin, settings, answer, seconds)
            created = True
        if time.monotonic() > deadline:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        time.sleep(0.02)


def ask_topic(admin: AdminClient, name: str, seconds: float) -> Future[Any]:
    """The topic's description, when the brokers have answered; for `read_topic`."""
    return admin.describe_topics(TopicCollection([name]), request_timeout=seconds)[name]


def read_topic(found: Any) -> tuple[str, int]:
    """A topic's id, and its number of partitions, once all of them have a leader."""
    if any(partition.leader is None for partition in found.partitions):
        raise KafkaException(KafkaError(KafkaError.LEADER_NOT_AVAILABLE))
    return str(found.topic_id), len(found.partitions)


def check_first_record(
    consumer: Consumer,
    admin: AdminClient,
    answer: Answer,
    settings: TopicSettings,
    topic: Topic,
    seconds: float,
) -> None:
    """Look at one record of chatstores, if there is any, for how many partitions it knew.

    A partition that was added is empty, and would say nothing of its own.

    Args:
        consumer: reads it; nobody else has it.
        admin: asks where the log begins and ends.
        answer: waits for what the brokers answer.
        settings: what the topic must be.
        topic: what it is.
        seconds: how long one answer may take.

    Raises:
        BackendMismatchError: it is of another number, or of a newer version.
        KafkaException: the brokers did not say.
    """
    places = [TopicPartition(settings.name, number) for number in range(topic.partitions)]
    begins, ends = (
        admin.list_offsets(dict.fromkeys(places, spec), request_timeout=seconds)
        for spec in (EARLIEST, LATEST)
    )
    deadline = time.monotonic() + seconds
    for place in places:
        place.offset, end = answer(begins[place]).offset, answer(ends[place]).offset
        if place.offset == end:
            continue
        fold = PartitionFold(Fold(), place.partition, topic.partitions, (), lambda *_: None)
        consumer.assign([place])
        while not fold.states:
            if time.monotonic() > deadline:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
            message = consumer.poll(0.1)
            if message is None:
                continue
            error, offset = message.error(), message.offset()
            if error is not None and error.code() == KafkaError._PARTITION_EOF:
                break
            if error is not None and error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
                continue  # it is in no group
            if error is not None:
                raise KafkaException(named(error, "Read", settings.name))
            fold.take(cast(int, offset), 0, cast(bytes, message.key()), message.value())
            deadline = time.monotonic() + seconds
        if fold.states:
            return


def named(error: KafkaError, operation: str, topic: str) -> KafkaError:
    """A refusal with the operation on the topic that was refused, which brokers do not name."""
    if error.code() != KafkaError.TOPIC_AUTHORIZATION_FAILED:
        return error
    return KafkaError(error.code(), f"{operation} on the topic {topic!r}")


def _describe(
    admin: AdminClient, name: str, answer: Answer, seconds: float
) -> tuple[str, int] | None:
    """See `read_topic`; None if there is no topic."""
    try:
        return read_topic(answer(ask_topic(admin, name, seconds)))
    except KafkaException as exc:
        if exc.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            return None
        raise KafkaException(named(exc.args[0], "Describe", name)) from None


def _create(admin: AdminClient, settings: TopicSettings, answer: Answer, seconds: float) -> None:
    topic = NewTopic(
        settings.name,
        num_partitions=settings.partitions,
        replication_factor=settings.replication_factor,
        config=settings.config(),
    )
    future = admin.create_topics([topic], request_timeout=seconds, operation_timeout=seconds)
    try:
        answer(future[settings.name])
    except KafkaException as exc:
        if exc.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # another process was first
            raise KafkaException(named(exc.args[0], "Create", settings.name)) from None


def _config(admin: AdminClient, name: str, answer: Answer, seconds: float) -> dict[str, str] | None:
    resource = ConfigResource(ResourceType.TOPIC, name)
    [future] = admin.describe_configs([resource], request_timeout=seconds).values()
    try:
        found = answer(future)
    except KafkaException as exc:
        if exc.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            return None
        raise KafkaException(named(exc.args[0], "DescribeConfigs", name)) from None
    return {entry: value.value for entry, value in found.items()}


def _check(settings: TopicSettings, config: Mapping[str, str]) -> None:
    wanted = settings.config()
    wrong = []
    policy = config.get("cleanup.policy", "")
    if set(policy.split(",")) != set(wanted["cleanup.policy"].split(",")):
        wrong.append(f"cleanup.policy is {policy}, not {wanted['cleanup.policy']}")
        wrong[0] += _opens(policy, int(config.get("retention.ms", -1)))
    for name in ("message.timestamp.type", "retention.ms", "retention.bytes"):
        found = config.get(name)
        if found != wanted.get(name, found):
            wrong.append(f"{name} is {found}, not {wanted[name]}")
    for name in ("max.message.bytes", "min.compaction.lag.ms"):
        if int(config.get(name, 0)) < int(wanted[name]):
            wrong.append(f"{name} is {config.get(name)}, not {wanted[name]} or more")
    if wrong:
        raise BackendMismatchError(
            f"the topic {settings.name!r} is not what chatstores needs: {'; '.join(wrong)}"
        )


def _opens(policy: str, retention: int) -> str:
    """A word on the option that opens a topic as it is, if there is one."""
    if policy == "compact":
        return " (open the store without retention=)"
    if set(policy.split(",")) == set(_BOTH.split(",")) and retention > 0:
        return f" (open the store with retention={retention / 1000:.15g}: older messages go)"
    return ""


def setup_script(settings: TopicSettings) -> str:
    """The command that creates the topic, for someone else to run."""
    words = [
        "kafka-topics.sh --bootstrap-server BROKER --create",
        f"--topic {settings.name} --partitions {settings.partitions}",
    ]
    if settings.replication_factor > 0:
        words.append(f"--replication-factor {settings.replication_factor}")
    words += [f"--config {name}={value}" for name, value in settings.config().items()]
    return " \\\n  ".join(words) + "\n"
