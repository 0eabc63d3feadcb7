"""kafka://: a bare produce with its delivery callback, and a bare end-offset query."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition, libversion, version

from tests.benchmarks.backend import HISTORIES, Backend, Plan, Raw
from tests.benchmarks.case import Form
from tests.servers.kafka import QUIET, KafkaServer, kafka_server

__all__ = ["BACKEND"]

_RUN = f"bench-{secrets.token_hex(4)}"
_PRODUCER = {"acks": "all", "linger.ms": 0, **QUIET}


class _Calls:
    """A producer and an idle consumer of its own, on a partition of the store's topic."""

    def __init__(self, servers: str) -> None:
        self._producer = Producer({"bootstrap.servers": servers, **_PRODUCER})
        self._consumer = Consumer({"bootstrap.servers": servers, "group.id": _RUN, **QUIET})
        self._place = TopicPartition(f"{_RUN}-raw", 0)
        self._closing = False
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def fill(self, payloads: Sequence[bytes]) -> None:
        """Nothing: a log is as fast at any length."""

    def last(self) -> Any:
        """The end of the partition."""
        return self._consumer.get_watermark_offsets(self._place, timeout=5, cached=False)

    def close(self) -> None:
        """Close both."""
        self._closing = True
        self._thread.join()
        self._consumer.close()

    def _produce(self, payload: bytes, told: Any) -> None:
        self._producer.produce(
            self._place.topic, payload, secrets.token_bytes(8), 0, on_delivery=told
        )

    def _serve(self) -> None:
        while not self._closing:
            self._producer.poll(0.05)


class _SyncCalls(_Calls):
    def add(self, payload: bytes) -> Any:
        """Produce, and wait for the delivery callback."""
        done = threading.Event()
        self._produce(payload, lambda error, message: done.set())
        done.wait()


class _AsyncCalls(_Calls):
    async def add(self, payload: bytes) -> Any:
        """Produce, and await the delivery callback."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._produce(
            payload,
            lambda error, message: loop.call_soon_threadsafe(future.set_result, error),
        )
        await future

    def last(self) -> Any:
        """The same on a thread."""
        return asyncio.get_running_loop().run_in_executor(None, super().last)


def _plans(form: Form) -> list[Plan]:
    return [
        Plan("add", form, HISTORIES, 10, 1.3, "produce, acks=all"),
        Plan("last", form, (10_000,), 5, 1.5, "end offset"),
    ]


class KafkaBackend(Backend):
    """The Kafka store."""

    name = "kafka"
    plans = (*_plans("sync"), *_plans("async"))

    @contextmanager
    def place(self) -> Iterator[str]:
        """A broker, and the topic of the bare calls."""
        with kafka_server() as server:
            assert isinstance(server, KafkaServer)
            from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]

            admin = server.client()
            [made] = admin.create_topics([NewTopic(f"{_RUN}-raw", num_partitions=1)]).values()
            made.result()
            time.sleep(1)
            yield server.url

    def url(self, place: str, name: str) -> str:
        """A topic of this run's own."""
        return f"{place}/{_RUN}?partitions=4"

    def raw(self, place: str, plan: Plan, name: str) -> Raw:
        """confluent-kafka's own calls."""
        servers = place.partition("://")[2]
        return (_SyncCalls if plan.form == "sync" else _AsyncCalls)(servers)

    def facts(self, place: str) -> dict[str, str]:
        """The versions."""
        return {"confluent-kafka": f"{version()}, librdkafka {libversion()[0]}"}


BACKEND = KafkaBackend()
"""What the runner asks for."""
