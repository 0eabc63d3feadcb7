"""The harness of the Kafka store: a broker of our own behind a proxy."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any
from urllib.parse import urlencode

from confluent_kafka import Producer

from chatstores.conformance import Borrowed, Harness, NotThere
from chatstores.state import Command, Edit, Record
from chatstores_kafka.record import FORMAT, MAGIC, Kind, encode_command, name_of
from tests.backends.proxied_harness import ProxiedHarness
from tests.servers.kafka import QUIET, KafkaServer
from tests.servers.proxy import Proxy

__all__ = ["PARTITIONS", "KafkaHarness"]

PARTITIONS = 4
_topics = count()


class KafkaHarness(ProxiedHarness):
    """Reaches the broker through the proxy, and its data directly.

    Args:
        server: the broker, which advertises the proxy.
        proxy: the proxy.
        topic: the topic.
        retention: how long it keeps what is written, such as "30d"; None: for ever.
    """

    name = "kafka"
    driver = "confluent_kafka"
    # What the store tidies up behind its commands begins otherwise.
    writes = tuple(bytes([MAGIC, FORMAT, kind]) for kind in Kind if kind < Kind.PART)

    def __init__(
        self,
        server: KafkaServer,
        proxy: Proxy,
        topic: str = "chatstores",
        retention: str | None = None,
    ) -> None:
        options = {"partitions": PARTITIONS, **server.options}
        if retention is not None:
            self.name = "kafka-retention"
            options["retention"] = retention
        super().__init__(f"{server.url}/{topic}?{urlencode(options)}", [proxy])
        self._server = server
        self._proxy = proxy
        self._topic = topic
        self._retention = retention

    @contextmanager
    def fresh_place(self) -> Iterator[Harness]:
        topic = f"fresh-{next(_topics)}"
        yield KafkaHarness(self._server, self._proxy, topic, self._retention)

    def overwrite(self, namespace: str, key: str, index: int, payload: bytes) -> None:
        with self.open(namespace=namespace, on_corrupt="skip") as store:
            store.count_messages(key)
            view = store._transports.sync().view()
            name = name_of(namespace, key)
            partition = zlib.crc32(name) % PARTITIONS
            state = view.state(partition, name)
            command = Command(
                int.from_bytes(os.urandom(8), "big"), Edit(Record(state.ids[index], payload))
            )
            value = encode_command(
                name, command, seen=state.mark, partitions=PARTITIONS, retry=False
            )
        producer = Producer({"bootstrap.servers": self._server.direct, **QUIET})
        producer.produce(self._topic, value, os.urandom(8), partition)
        producer.flush()

    def restart(self) -> None:
        self._server.restart()

    def contended(self, namespace: str, key: str) -> Any:
        raise NotThere("the log has one order: no write loses to another")

    def borrowed(self, form: str, **options: object) -> Borrowed:
        raise NotThere("the store needs three clients with settings of its own")
