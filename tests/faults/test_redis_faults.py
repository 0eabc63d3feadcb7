"""The Redis store when its writers are killed, its server restarts, and replies are lost."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Iterator

import pytest

from chatstores import ChatMessage, open_store
from tests.faults.killing import kill_writers
from tests.faults.ledger import Load
from tests.servers.proxy import Proxy
from tests.servers.redis import RedisServer


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A server that has every acknowledged write on the disk."""
    with RedisServer(appendfsync="always") as server:
        yield server


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[Proxy]:
    """A proxy before the server."""
    with Proxy("127.0.0.1", server.port) as proxy:
        yield proxy


def test_killed_writers_lose_nothing_acknowledged(
    server: RedisServer, proxy: Proxy, capsys: pytest.CaptureFixture[str]
) -> None:
    proxy.delay(0.003)  # so that most of a writer's time is between its sending and the reply
    url = proxy.url(server.url)
    with open_store(server.url, namespace="killed") as store:
        in_flight = kill_writers(store, url, times=50)
    with capsys.disabled():
        print(f"\nredis: 50 writers killed, {in_flight} of them between sending and the reply")
    assert in_flight >= 17


@pytest.mark.parametrize("times", [20, pytest.param(500, marks=pytest.mark.long)])
def test_server_killed_and_restarted_under_load(
    server: RedisServer, capsys: pytest.CaptureFixture[str], times: int
) -> None:
    chance = random.Random(3)
    hits = 0
    namespace = f"restarts{times}"
    store = open_store(server.url, namespace=namespace, timeout=60)
    with store, Load(store) as load:
        for _ in range(times):
            time.sleep(chance.uniform(0.1, 0.4))
            hits += load.in_flight > 0
            server.kill()
            server.restart()
            before = load.calls
            while load.calls < before + 50:  # it goes on by itself
                time.sleep(0.01)
    store = open_store(server.url, namespace=namespace)
    load.store = store
    load.check()
    store.close()
    with capsys.disabled():
        print(
            f"\nredis: {times} kills under {load.calls} calls, {hits} of them hit calls in flight; "
            f"outcomes unknown: {load.unknown}, given up: {load.unavailable}"
        )
    assert hits >= times * 3 // 4
    assert load.unknown == 0
    assert load.unavailable == 0


def test_lost_replies_are_settled(
    server: RedisServer, proxy: Proxy, capsys: pytest.CaptureFixture[str]
) -> None:
    dropped = 0
    store = open_store(proxy.url(server.url), namespace="replies", timeout=10)
    with store, Load(store, threads=4) as load:
        for _ in range(200):
            proxy.drop_replies(1, b"EVALSHA")
            time.sleep(0.01)
        dropped = proxy.dropped
        proxy.drop_replies(0)
    with open_store(server.url, namespace="replies") as load.store:
        load.check()
    with capsys.disabled():
        print(
            f"\nredis: {dropped} replies lost under {load.calls} calls; "
            f"outcomes unknown: {load.unknown}, given up: {load.unavailable}"
        )
    assert dropped >= 100
    assert load.unknown == 0


def test_lost_requests_are_sent_again(server: RedisServer, proxy: Proxy) -> None:
    with open_store(proxy.url(server.url), namespace="requests") as store:
        for number in range(50):
            proxy.drop_requests(1, b"EVALSHA")
            assert store.add_message("k", ChatMessage(str(number))).added == 1
        assert proxy.dropped_requests == 50
        assert [message.text for message in store.get_messages("k")] == [str(n) for n in range(50)]


def test_a_stopped_server_is_waited_for(server: RedisServer) -> None:
    with open_store(server.url, namespace="paused", timeout=4) as store:
        store.add_message("k", ChatMessage("before"))
        server.pause()
        timer = threading.Timer(2.5, server.resume)
        timer.start()
        try:
            assert store.add_message("k", ChatMessage("during")).added == 1
        finally:
            timer.join()
        assert [message.text for message in store.get_messages("k")] == ["before", "during"]


def test_64_adds_at_once_start_no_thread(server: RedisServer) -> None:
    async def adds() -> int:
        threads = threading.active_count()
        async with open_store(server.url, namespace="tasks") as store:
            await asyncio.gather(*(store.aadd_message("k", ChatMessage(str(n))) for n in range(64)))
            assert threading.active_count() == threads
            return await store.acount_messages("k")

    assert asyncio.run(adds()) == 64
