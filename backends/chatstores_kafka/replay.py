"""Replay: a topic read once more from its beginning, by a consumer of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from chatstores.fold import Fold
from chatstores_kafka.fold import PartitionFold
from chatstores_kafka.follower import BATCH
from chatstores_kafka.partition import fields_of
from chatstores_kafka.topic import EARLIEST, named

if TYPE_CHECKING:
    from chatstores_kafka.view import View

__all__ = ["read_whole"]


def read_whole(view: View, seconds: float) -> Iterator[tuple[int, PartitionFold]]:
    """Each partition folded anew from its beginning to its end, one after another.

    Args:
        view: the topic, open.
        seconds: how long nothing may come.

    Raises:
        KafkaException: the brokers did not answer.
    """
    numbers = range(view.topic.partitions)
    places = [TopicPartition(view.settings.name, number) for number in numbers]
    earliest = view.clients.admin.list_offsets(
        dict.fromkeys(places, EARLIEST), request_timeout=seconds
    )
    consumer = view.clients.reader()
    try:
        for place in places:
            place.offset = earliest[place].result().offset
            consumer.assign([place])
            yield place.partition, _read_to_end(view, consumer, place, seconds)
    finally:
        consumer.close()


def _read_to_end(
    view: View, consumer: Consumer, place: TopicPartition, seconds: float
) -> PartitionFold:
    fold = PartitionFold(Fold(), place.partition, view.topic.partitions, (), lambda *_: None)
    if view.topic.retention is not None:
        fold.begin = place.offset
    while True:
        messages = consumer.consume(1, seconds) + consumer.consume(BATCH, 0)
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
                raise KafkaException(named(error, "Read", view.settings.name))
