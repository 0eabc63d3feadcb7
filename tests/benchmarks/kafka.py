"""kafka://: bare produces with their delivery callbacks, and a bare end-offset query."""

from __future__ import annotations

import asyncio
import secrets
import statistics
import threading
import time
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition, libversion, version

from chatstores import open_store
from tests.benchmarks.backend import HISTORIES, Backend, Other, Plan, Raw
from tests.benchmarks.case import Form, Row
from tests.benchmarks.kafka_opening import OPENINGS
from tests.benchmarks.messages import make_messages, payloads
from tests.servers.kafka import QUIET, KafkaServer, kafka_server

__all__ = ["BACKEND"]

_RUN = f"bench-{secrets.token_hex(4)}"
_EVENTUAL = "last 20, eventual"
_TASKS = 64
_ADDS = 100
_AWAITING, _FLAT_OUT = "64 tasks, raw 64 too", "64 tasks, raw flat out"
#: The most that an add may take beside a message of the bare producer: half of its rate.
_HALF = 2.0
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

    def flat_out(self, payloads: Sequence[bytes]) -> float:
        """Produce many, then wait for all; microseconds a message."""
        start = time.perf_counter()
        for payload in payloads:
            self._produce(payload, lambda error, message: None)
        self._producer.flush()
        return (time.perf_counter() - start) * 1e6 / len(payloads)

    def last(self) -> Any:
        """The same on a thread."""
        return asyncio.get_running_loop().run_in_executor(None, super().last)


def _plans(form: Form) -> list[Plan]:
    return [
        Plan("add", form, HISTORIES, 10, 1.3, "produce, acks=all"),
        Plan("last", form, (10_000,), 5, 1.5, "end offset"),
        Plan("last", form, (10_000,), 2, 80, name=_EVENTUAL),
    ]


def _many_adds(place: str, scale: float) -> list[Row]:
    """Adds of 64 tasks at once, beside a bare producer: as many tasks, and as fast as it can."""
    rounds = max(3, round(10 * scale))
    ours, awaiting, flat_out = asyncio.run(_compare(place, rounds))
    return [
        _rate(_AWAITING, ours, awaiting, "produce, acks=all, in 64 tasks that await each", None),
        _rate(_FLAT_OUT, ours, flat_out, "produce, acks=all, and one flush", _HALF),
    ]


async def _compare(place: str, rounds: int) -> tuple[list[float], list[float], list[float]]:
    """Microseconds a message, of each round, after one for warming up."""
    raw = _AsyncCalls(place.partition("://")[2])
    messages = [make_messages(_ADDS) for _ in range(_TASKS)]
    stored = [payloads(some) for some in messages]
    ours, awaiting, flat_out = [], [], []

    async def adds(key: str, task: int) -> None:
        for message in messages[task]:
            await store.aadd_message(key, message)

    async def produces(task: int) -> None:
        for payload in stored[task]:
            await raw.add(payload)

    async with open_store(f"{place}/{_RUN}-tasks?partitions=1") as store:
        for number in range(rounds + 1):
            ours.append(await _timed(adds(f"{number}-{task}", task) for task in range(_TASKS)))
            awaiting.append(await _timed(produces(task) for task in range(_TASKS)))
            flat_out.append(raw.flat_out([each for some in stored for each in some]))
    raw.close()
    return ours[1:], awaiting[1:], flat_out[1:]


async def _timed(calls: Iterable[Awaitable[None]]) -> float:
    start = time.perf_counter()
    await asyncio.gather(*calls)
    return (time.perf_counter() - start) * 1e6 / (_TASKS * _ADDS)


def _rate(
    name: str, ours: list[float], raw: list[float], baseline: str, ceiling: float | None
) -> Row:
    figures = [statistics.median(times) for times in (ours, raw)]
    ratio = figures[0] / figures[1]
    our_rate, raw_rate = (f"{1e6 / figure:,.0f}/s" for figure in figures)
    return Row(
        name=name,
        backend="kafka",
        form="async",
        ours=figures[0],
        raw=figures[1],
        ratio=round(ratio, 4),
        baseline=f"{baseline}: {our_rate} beside {raw_rate}",
        ceiling=ceiling,
        met=None if ceiling is None else ratio <= ceiling,
        rounds=len(ours),
    )


class KafkaBackend(Backend):
    """The Kafka store."""

    name = "kafka"
    plans = (*_plans("sync"), *_plans("async"))
    others = (Other(_AWAITING, "async", _many_adds), *OPENINGS)

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
        eventual = "&consistency=eventual" if "eventual" in name else ""
        return f"{place}/{_RUN}?partitions=4{eventual}"

    def raw(self, place: str, plan: Plan, name: str) -> Raw | None:
        """confluent-kafka's own calls."""
        if plan.title == _EVENTUAL:
            return None
        servers = place.partition("://")[2]
        return (_SyncCalls if plan.form == "sync" else _AsyncCalls)(servers)

    def facts(self, place: str) -> dict[str, str]:
        """The versions."""
        return {"confluent-kafka": f"{version()}, librdkafka {libversion()[0]}"}


BACKEND = KafkaBackend()
"""What the runner asks for."""
