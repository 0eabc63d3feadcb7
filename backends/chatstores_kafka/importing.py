"""What LangChain's KafkaChatMessageHistory wrote, for the command line."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from chatstores.errors import (
    BackendUnavailableError,
    InvalidArgumentError,
    InvalidMessageError,
    InvalidURLError,
)
from chatstores.langchain_format import from_langchain
from chatstores.message import ChatMessage
from chatstores.url import parse_url
from chatstores_kafka.store import KafkaChatStore

__all__ = ["from_record", "read_langchain"]

_SECONDS = 5.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CONSUMER = {
    "log_level": 0,
    "group.id": "chatstores",  # of no meaning: partitions are assigned here, and nothing committed
    "enable.auto.commit": False,
    "enable.partition.eof": True,
    "auto.offset.reset": "error",
    "isolation.level": "read_uncommitted",
}
_LOGIN = (KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED)


def read_langchain(
    url: str, prefix: str | None, password: str | None
) -> Iterator[tuple[str, list[Any]]]:
    """Sessions that LangChain's KafkaChatMessageHistory wrote: each is a topic.

    LangChain spreads a session's messages over the partitions of its topic, so nothing in Kafka
    says their order. They are ordered by time, then by partition and offset.

    Args:
        url: the brokers and the topic; or, with a prefix, the brokers alone.
        prefix: every topic whose name begins with this text.
        password: that of the user, unless the URL has it.

    Yields:
        A session's key, which is the topic's name, and its records: each a dict of the
        ``timestamp`` in milliseconds and the ``message`` as parsed.

    Raises:
        InvalidURLError: the URL is wrong, or names a topic beside a prefix, or none.
        InvalidArgumentError: there is no such topic.
        BackendUnavailableError: the brokers are away or silent.
        AuthenticationError: they refused the user or password.
        PermissionDeniedError: the user may not read the topic.
        InvalidMessageError: a record is not JSON.
    """
    topic = _check(url, prefix, password)
    store = KafkaChatStore.from_url(url, **({} if password is None else {"password": password}))
    said: list[KafkaError] = []
    consumer = Consumer({**store._config, **_CONSUMER, "error_cb": said.append})
    with contextlib.closing(consumer), _errors(store, consumer, said):
        found = consumer.list_topics(timeout=_SECONDS).topics
        topics = [topic] if prefix is None else sorted(n for n in found if n.startswith(prefix))
        for name in topics:
            if name not in found:
                raise InvalidArgumentError(f"there is no topic {name!r} that this user may read")
            yield name, _records(consumer, name, sorted(found[name].partitions))


def from_record(stored: Any) -> ChatMessage:
    """A record of ``read_langchain`` as a ChatMessage, which has the record's time.

    Raises:
        ValueError: it is no message of LangChain's.
    """
    message = from_langchain(stored["message"])
    if stored["timestamp"] >= 0:
        try:
            message.created_at = _EPOCH + timedelta(milliseconds=stored["timestamp"])
        except OverflowError:
            raise ValueError(f"its time is {stored['timestamp']} ms after 1970") from None
    return message


def _check(url: str, prefix: str | None, password: str | None) -> str:
    """The topic that a URL names."""
    place = parse_url(url)
    topic = place.path.removeprefix("/")
    if place.scheme != "kafka":
        raise InvalidURLError("SOURCE must be a URL such as kafka://localhost:9092/session-topic")
    if place.password is not None and password is not None:
        raise InvalidURLError(
            "given in the URL and beside it: password (the one here is CHATSTORES_SOURCE_PASSWORD)"
        )
    if bool(topic) is (prefix is not None):
        raise InvalidURLError(
            "each session is a topic: name one in the URL, kafka://localhost:9092/session-topic, "
            "or say with --prefix how those begin that are to be read"
        )
    return topic


def _records(consumer: Consumer, topic: str, partitions: list[int]) -> list[dict[str, Any]]:
    """All records of a topic up to where it ends now, by time."""
    places: list[TopicPartition] = []
    ends: dict[int, int] = {}
    for partition in partitions:
        first, end = consumer.get_watermark_offsets(
            TopicPartition(topic, partition), timeout=_SECONDS
        )
        if end > first:
            places.append(TopicPartition(topic, partition, first))
            ends[partition] = end
    consumer.assign(places)
    found = []
    while ends:
        message: Any = consumer.poll(_SECONDS)
        if message is None:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        error, partition, offset = message.error(), message.partition(), message.offset()
        if error is not None and error.code() != KafkaError._PARTITION_EOF:
            raise KafkaException(error)
        if partition not in ends:
            continue
        if error is None and offset < ends[partition]:
            order = (message.timestamp()[1], partition, offset)
            found.append((order, _parsed(topic, partition, offset, message.value())))
        if error is not None or offset + 1 >= ends[partition]:
            del ends[partition]
    consumer.unassign()
    found.sort(key=lambda record: record[0])
    return [{"timestamp": order[0], "message": message} for order, message in found]


def _parsed(topic: str, partition: int, offset: int, value: bytes | None) -> Any:
    try:
        return json.loads(value or b"")
    except ValueError as exc:
        raise InvalidMessageError(
            f"the record at offset {offset} of partition {partition} of the topic {topic!r} is not "
            "JSON"
        ) from exc


@contextlib.contextmanager
def _errors(store: KafkaChatStore, consumer: Consumer, said: list[KafkaError]) -> Iterator[None]:
    try:
        yield
    except KafkaException as exc:
        consumer.poll(0)  # hear why
        login = [error for error in said if error.code() in _LOGIN]
        error = store._error(KafkaException(login[-1]) if login else exc)
        if isinstance(error, BackendUnavailableError):
            reason = said[-1] if said else exc.args[0]
            where = store.url.partition("?")[0]
            error = BackendUnavailableError(f"{where} cannot be read: {reason.str()}")
        raise error from store._scrubbed(exc)
