"""The topic: created with the settings it needs, or checked and refused with what differs."""

from __future__ import annotations

import time
from typing import NamedTuple

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from chatstores.errors import BackendMismatchError, NotSetUpError

__all__ = ["MAX_RECORD_BYTES", "Topic", "TopicSettings", "find_topic", "setup_script"]

#: The largest record. Hosted Kafka allows no more than 8 MiB.
MAX_RECORD_BYTES = 8 * 1024 * 1024


class TopicSettings(NamedTuple):
    """What a topic is created with, and must be.

    Attributes:
        name: its name.
        partitions: how many, if it is created.
        replication_factor: how many copies, if it is created; -1: the broker's default.
        compaction_lag: milliseconds in which nothing that is written is compacted.
        retention: milliseconds after which the log is cut off, or None.
    """

    name: str
    partitions: int
    replication_factor: int
    compaction_lag: int
    retention: int | None

    def config(self) -> dict[str, str]:
        """The topic's configuration."""
        config = {
            "cleanup.policy": "compact" if self.retention is None else "compact,delete",
            "max.message.bytes": str(MAX_RECORD_BYTES),
            "message.timestamp.type": "LogAppendTime",
            "min.compaction.lag.ms": str(self.compaction_lag),
        }
        if self.retention is not None:
            config["retention.ms"] = str(self.retention)
        return config


class Topic(NamedTuple):
    """A topic that is there.

    Attributes:
        id: its id, by which a topic that was made anew is another one.
        partitions: how many it has.
        compaction_lag: seconds in which nothing that is written is compacted.
    """

    id: str
    partitions: int
    compaction_lag: float


def find_topic(
    admin: AdminClient, settings: TopicSettings, *, create: bool, seconds: float
) -> Topic:
    """The topic as it is, created if it may be.

    Raises:
        NotSetUpError: it is not there, and may not be created.
        BackendMismatchError: it is not what it must be.
        KafkaException: the broker did not say.
    """
    deadline = time.monotonic() + seconds
    found = _describe(admin, settings.name, seconds)
    if found is None:
        if not create:
            raise NotSetUpError(
                f"there is no topic {settings.name!r}: 'chatstores setup' creates it; or open the "
                "store without create=False"
            )
        _create(admin, settings, seconds)
        while found is None:
            if time.monotonic() > deadline:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
            time.sleep(0.02)
            found = _describe(admin, settings.name, seconds)
    config = _config(admin, settings.name, seconds)
    _check(settings, config)
    return Topic(*found, int(config["min.compaction.lag.ms"]) / 1000)


def _describe(admin: AdminClient, name: str, seconds: float) -> tuple[str, int] | None:
    """Id and number of partitions, once all of them have a leader."""
    future = admin.describe_topics(TopicCollection([name]), request_timeout=seconds)[name]
    try:
        found = future.result()
    except KafkaException as exc:
        if exc.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            return None
        raise
    if any(partition.leader is None for partition in found.partitions):
        raise KafkaException(KafkaError(KafkaError.LEADER_NOT_AVAILABLE))
    return str(found.topic_id), len(found.partitions)


def _create(admin: AdminClient, settings: TopicSettings, seconds: float) -> None:
    topic = NewTopic(
        settings.name,
        num_partitions=settings.partitions,
        replication_factor=settings.replication_factor,
        config=settings.config(),
    )
    future = admin.create_topics([topic], request_timeout=seconds, operation_timeout=seconds)
    try:
        future[settings.name].result()
    except KafkaException as exc:
        if exc.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # another process was first
            raise


def _config(admin: AdminClient, name: str, seconds: float) -> dict[str, str]:
    resource = ConfigResource(ResourceType.TOPIC, name)
    [future] = admin.describe_configs([resource], request_timeout=seconds).values()
    return {entry: value.value for entry, value in future.result().items()}


def _check(settings: TopicSettings, config: dict[str, str]) -> None:
    wanted = settings.config()
    wrong = []
    policy = set(config["cleanup.policy"].split(","))
    if policy != set(wanted["cleanup.policy"].split(",")):
        wrong.append(f"cleanup.policy is {config['cleanup.policy']}")
    if config["message.timestamp.type"] != "LogAppendTime":
        wrong.append(f"message.timestamp.type is {config['message.timestamp.type']}")
    if int(config["max.message.bytes"]) < MAX_RECORD_BYTES:
        wrong.append(f"max.message.bytes is {config['max.message.bytes']}")
    if int(config["min.compaction.lag.ms"]) < settings.compaction_lag:
        wrong.append(f"min.compaction.lag.ms is {config['min.compaction.lag.ms']}")
    if wrong:
        needed = ", ".join(f"{name}={value}" for name, value in wanted.items())
        raise BackendMismatchError(
            f"the topic {settings.name!r} is not what chatstores needs: {', '.join(wrong)}; it "
            f"must have {needed}"
        )


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
