"""The Kafka store when leaders, brokers, writers and replies are lost; and the compacted log."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from confluent_kafka.admin import (
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from chatstores import ChatMessage, ChatStore, open_store
from chatstores.conformance.worker import in_processes
from tests.faults.killing import kill_writers
from tests.faults.ledger import AsyncLoad, Load
from tests.faults.mixing import mix
from tests.servers import wait_until
from tests.servers.kafka import KafkaCluster, KafkaServer, produces
from tests.servers.proxy import Proxy

LOADS = [Load, AsyncLoad]
#: Seconds: a new leader is there in some three, and a killed broker back in some five.
TIMEOUT = 60.0
long = pytest.mark.long


@pytest.fixture(scope="module")
def server() -> Iterator[KafkaServer]:
    with KafkaServer() as server:
        yield server


@pytest.fixture(scope="module")
def cluster() -> Iterator[KafkaCluster]:
    with KafkaCluster() as cluster:
        yield cluster


def goes_on(load: Load, calls: int = 50) -> None:
    """Return when so many more calls were made."""
    before = load.calls
    while load.calls < before + calls:
        time.sleep(0.01)


def said(load: Load, what: str) -> str:
    return (
        f"\nkafka, {type(load).__name__}: {what} under {load.calls} calls; "
        f"outcomes unknown: {load.unknown}, given up: {load.unavailable}"
    )


@pytest.mark.parametrize("times", [1, pytest.param(10, marks=long)])
@pytest.mark.parametrize("kind", LOADS)
def test_leaders_killed_under_load(
    cluster: KafkaCluster, capsys: pytest.CaptureFixture[str], kind: type[Load], times: int
) -> None:
    chance = random.Random(6)
    topic = f"leaders-{kind.__name__}-{times}"
    url = f"{cluster.url}/{topic}?partitions=1&replication_factor=3"
    hits = 0
    took = []
    with open_store(url, timeout=TIMEOUT) as store:
        store.setup()
        with kind(store) as load:
            for _ in range(times):
                goes_on(load)
                time.sleep(chance.uniform(0.1, 0.4))
                wait_until("there is a leader", lambda: cluster.leader(topic) is not None)
                leader = cluster.leader(topic)
                assert leader is not None
                hits += load.in_flight > 0
                leader.server.kill()
                began = time.monotonic()
                goes_on(load)
                took.append(time.monotonic() - began)
                leader.server.start()
                wait_until("it is in sync again", partial(in_sync, cluster, topic), 60)
        load.check()
    with open_store(url) as load.store:  # a replay
        load.check()
    with capsys.disabled():
        print(said(load, f"{times} leaders killed, {hits} with calls in flight"), end=", ")
        print(f"another led after {min(took):.1f} to {max(took):.1f} s")
    assert hits >= times * 3 // 4
    assert load.unknown == 0
    assert load.unavailable == 0


def in_sync(cluster: KafkaCluster, topic: str) -> bool:
    """Whether all replicas of a topic's partition are in sync."""
    admin = cluster.members[0].server.client()
    return len(admin.list_topics(topic, timeout=10).topics[topic].partitions[0].isrs) == 3


@pytest.mark.parametrize("times", [2, pytest.param(10, marks=long)])
@pytest.mark.parametrize("kind", LOADS)
def test_broker_killed_and_started_under_load(
    server: KafkaServer, capsys: pytest.CaptureFixture[str], kind: type[Load], times: int
) -> None:
    url = f"{server.url}/killed-{kind.__name__}-{times}?partitions=2"
    hits = 0
    with open_store(url, timeout=TIMEOUT) as store:
        store.setup()
        with kind(store) as load:
            for _ in range(times):
                goes_on(load)
                time.sleep(0.3)
                hits += load.in_flight > 0
                server.kill()
                server.start()
                goes_on(load)
        load.check()
    with capsys.disabled():
        print(said(load, f"the broker killed {times} times, {hits} with calls in flight"))
    assert hits == times
    assert load.unknown == 0
    assert load.unavailable == 0


@pytest.mark.parametrize("kind", LOADS)
def test_lost_replies_under_load(capsys: pytest.CaptureFixture[str], kind: type[Load]) -> None:
    server = KafkaServer()
    with Proxy("127.0.0.1", server.port) as proxy:
        server.advertised = proxy.port
        with server, open_store(f"{server.url}?partitions=1", timeout=TIMEOUT) as store:
            store.setup()
            with kind(store) as load:
                for _ in range(100):
                    proxy.drop_replies(1, produces(10_000))
                    goes_on(load, 10)
                dropped = proxy.dropped
            load.check()
    with capsys.disabled():
        print(said(load, f"{dropped} replies lost"))
    assert dropped >= 90
    assert load.unknown == 0
    assert load.unavailable == 0


def test_killed_writers_lose_nothing_acknowledged(
    server: KafkaServer, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"{server.url}/writers?partitions=1"
    with open_store(url) as store:
        store.setup()
        in_flight = kill_writers(store, url, times=30)
    with capsys.disabled():
        print(f"\nkafka: 30 writers killed, {in_flight} of them between sending and reply")
    assert in_flight >= 10


@pytest.mark.parametrize("adds", [40, pytest.param(100, marks=long)])
def test_processes_that_add_pop_delete_set_and_read(
    server: KafkaServer, capsys: pytest.CaptureFixture[str], adds: int
) -> None:
    opener = partial(open_store, f"{server.url}/mixed-{adds}?partitions=1")
    with opener() as store:
        store.setup()
        what = mix(store, opener, adds)
    with capsys.disabled():
        print(f"\nkafka: {what}")


# Two processes, a replay, and the compacted log.

KEYS = [f"session {number}" for number in range(5)]
Plain = dict[str, tuple[int, list[str]]]


@pytest.mark.parametrize("seconds", [5, pytest.param(60, marks=long)])
def test_two_processes_and_a_replay_see_the_same(
    server: KafkaServer, capsys: pytest.CaptureFixture[str], seconds: int
) -> None:
    topic = f"churned-{seconds}"
    opener = partial(open_store, f"{server.url}/{topic}?partitions=2&compaction_lag=0")
    with opener() as store:
        store.setup()
    compact_at_once(server, topic)
    rows = [(opener, number, float(seconds)) for number in range(2)]
    told = in_processes(churn, *rows)
    popped = Counter(name for _, names, _ in told for name in names)
    assert max(popped.values()) == 1, "popped twice"
    views: list[Plain] = [view for _, _, view in told]
    with opener() as store:
        views.append(plain(store))
    assert views[0] == views[1] == views[2]
    with opener() as store:
        store.purge_expired()
        size = roll_and_compact(server, topic, store)
    with opener() as store:
        after = plain(store)
    assert after == views[0]
    with capsys.disabled():
        print(
            f"\nkafka: two processes for {seconds} s, {sum(one for one, _, _ in told)} writes, "
            f"{len(popped)} pops, all distinct; views, replay, and replay of the compacted log "
            f"({size:,} bytes) equal"
        )


def churn(opener: Callable[[], ChatStore], number: int, seconds: float) -> tuple[int, Any, Plain]:
    """Add, pop, set and delete for some time; how many writes, what was popped, and the end."""
    chance = random.Random(number)
    popped: list[str] = []
    writes = 0
    end = time.monotonic() + seconds
    with opener() as store:
        while time.monotonic() < end:
            writes += 1
            key = chance.choice(KEYS)
            name = f"{number}.{writes}"
            kind = chance.random()
            if kind < 0.6:
                store.add_message(key, ChatMessage("text", id=name))
            elif kind < 0.9:
                message = store.delete_last_message(key)
                popped += [message.id] if message else []
            elif kind < 0.95:
                store.set_messages(key, [ChatMessage("text", id=f"{name}.{n}") for n in range(5)])
            else:
                store.delete_messages(key)
        store.add_message(f"done {number}", ChatMessage("done"))
        other = f"done {1 - number}"
        wait_until("the other process is done", lambda: store.count_messages(other))
        return writes, popped, plain(store)


def plain(store: ChatStore) -> Plain:
    return {
        key: (store.get_version(key), [message.id for message in store.get_messages(key)])
        for key in KEYS
    }


def compact_at_once(server: KafkaServer, topic: str) -> None:
    """Have the broker roll and compact a topic's segments as soon as it can."""
    values = {"segment.ms": "200", "min.cleanable.dirty.ratio": "0.001", "delete.retention.ms": "0"}
    entries = [
        ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
        for name, value in values.items()
    ]
    admin = server.client()
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
    [done] = admin.incremental_alter_configs([resource]).values()
    done.result()


def roll_and_compact(server: KafkaServer, topic: str, store: ChatStore) -> int:
    """Have every segment but the newest compacted; the bytes that are left on the disk."""
    sizes = [-1, -2, -3]
    while len(set(sizes[-3:])) > 1:
        for number in range(16):  # each partition gets something after segment.ms, and rolls
            store.add_message(f"roll {number}", ChatMessage("roll"))
            store.delete_messages(f"roll {number}")
        time.sleep(1.5)
        closed = closed_segments(server, topic)
        sizes.append(sum(os.path.getsize(file) // 4096 for file in closed))
    return sum(os.path.getsize(file) for file in closed_segments(server, topic))


def closed_segments(server: KafkaServer, topic: str) -> list[Any]:
    """All of a topic's segments but the newest of each partition."""
    files = server.segments(topic)
    newest = {file.parent: file for file in files}
    return [file for file in files if newest[file.parent] != file]


@pytest.mark.parametrize("writes", [5_000, pytest.param(100_000, marks=long)])
def test_the_log_follows_what_is_alive(
    server: KafkaServer, capsys: pytest.CaptureFixture[str], writes: int
) -> None:
    topic = f"alive-{writes}"
    sessions = writes // 100
    opener = partial(open_store, f"{server.url}/{topic}?partitions=2&compaction_lag=0")
    with opener() as store:
        store.setup()
    compact_at_once(server, topic)
    in_processes(fill, *[(opener, number, writes // 4, sessions) for number in range(4)])
    with opener() as store:
        keys = [key for key in store.get_keys() if key.startswith("s")]
        for key in keys[: sessions // 10]:
            store.add_message(key, ChatMessage("a deleted secret " + key))
            store.delete_messages(key)
        alive = {key: store.get_messages(key) for key in keys[sessions // 10 :]}
        store.purge_expired()
        size = roll_and_compact(server, topic, store)
    disk = b"".join(file.read_bytes() for file in server.segments(topic))
    assert b"a deleted secret" not in disk
    with opener() as store:
        assert {key: store.get_messages(key) for key in alive} == alive
    live = sum(len(one.model_dump_json()) for messages in alive.values() for one in messages)
    with capsys.disabled():
        print(
            f"\nkafka: {writes} writes over {sessions} sessions; alive {live:,} bytes in "
            f"{sum(map(len, alive.values()))} messages, closed segments {size:,} bytes"
        )
    assert size <= 2 * live


def fill(opener: Callable[[], ChatStore], number: int, writes: int, sessions: int) -> None:
    """Add and delete, mostly so that some ten messages stay in each session."""
    chance = random.Random(number)
    with opener() as store:
        for _ in range(writes):
            key = f"s{chance.randrange(sessions)}"
            if chance.random() < 0.6:
                store.add_message(key, ChatMessage("text of some length " * 15))
            else:
                store.delete_oldest(key, 1)
