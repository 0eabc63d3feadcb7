"""The Postgres store: writers killed, servers crashed, replies lost, a standby promoted.

The servers run without fsync: what a commit wrote is the system's, which does not crash here.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from functools import partial

import pytest

from chatstores import ChatMessage, open_store
from tests.faults.killing import kill_writers
from tests.faults.ledger import AsyncLoad, Load
from tests.faults.mixing import mix
from tests.servers.postgres import PostgresServer
from tests.servers.proxy import Proxy

#: Both forms: psycopg under threads, asyncpg under tasks.
LOADS = [pytest.param(Load, id="sync"), pytest.param(AsyncLoad, id="async")]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def proxy(server: PostgresServer) -> Iterator[Proxy]:
    """A proxy before the server."""
    with Proxy("127.0.0.1", server.port) as proxy:
        yield proxy


def wait_for_calls(load: Load, number: int = 50) -> None:
    """It goes on by itself."""
    before = load.calls
    while load.calls < before + number:
        time.sleep(0.01)


def test_killed_writers_lose_nothing_acknowledged(
    server: PostgresServer, proxy: Proxy, capsys: pytest.CaptureFixture[str]
) -> None:
    proxy.delay(0.003)  # so that most of a writer's time is between its sending and the reply
    with open_store(server.url, namespace="killed") as store:
        store.setup()
        in_flight = kill_writers(store, proxy.url(server.url), times=50)
    with capsys.disabled():
        print(f"\npostgres: 50 writers killed, {in_flight} between sending and the reply")
    assert in_flight >= 17


@pytest.mark.parametrize("times", [3, pytest.param(20, marks=pytest.mark.long)])
@pytest.mark.parametrize("kind", LOADS)
def test_server_crashed_and_started_under_load(
    server: PostgresServer, capsys: pytest.CaptureFixture[str], kind: type[Load], times: int
) -> None:
    chance = random.Random(3)
    hits = 0
    namespace = f"crashes{times}{kind.__name__}"
    store = open_store(server.url, namespace=namespace, timeout=20)
    with store, kind(store) as load:
        for _ in range(times):
            time.sleep(chance.uniform(0.1, 0.4))
            hits += load.in_flight > 0
            server.halt(immediate=True)
            server.start()
            wait_for_calls(load)
    with open_store(server.url, namespace=namespace) as load.store:
        load.check()
    with capsys.disabled():
        print(
            f"\npostgres, {kind.__name__}: {times} crashes under {load.calls} calls, {hits} of "
            f"them hit calls in flight; outcomes unknown: {load.unknown}, "
            f"given up: {load.unavailable}"
        )
    assert hits >= times * 3 // 4
    assert load.unknown == 0
    assert load.unavailable == 0


@pytest.mark.parametrize("function", ["pg_terminate_backend", "pg_cancel_backend"])
@pytest.mark.parametrize("kind", LOADS)
def test_connections_ended_and_statements_cancelled_by_an_administrator(
    server: PostgresServer, capsys: pytest.CaptureFixture[str], kind: type[Load], function: str
) -> None:
    hits = 0
    namespace = f"{function}{kind.__name__}"
    store = open_store(server.url, namespace=namespace, timeout=20)
    with store, kind(store) as load, server.client() as client:
        for _ in range(50):
            time.sleep(0.02)
            hits += client.execute(
                f"SELECT {function}(pid) FROM pg_stat_activity "
                "WHERE usename = 'chats' AND state <> 'idle'"
            ).rowcount
        wait_for_calls(load)
    with open_store(server.url, namespace=namespace) as load.store:
        load.check()
    with capsys.disabled():
        print(
            f"\npostgres, {kind.__name__}: {function} hit {hits} of {load.calls} calls in flight; "
            f"outcomes unknown: {load.unknown}, given up: {load.unavailable}"
        )
    assert hits >= 50
    assert load.unknown == 0
    assert load.unavailable == 0


@pytest.mark.parametrize("kind", LOADS)
def test_lost_replies_are_settled(
    server: PostgresServer, proxy: Proxy, capsys: pytest.CaptureFixture[str], kind: type[Load]
) -> None:
    namespace = f"replies{kind.__name__}"
    store = open_store(proxy.url(server.url), namespace=namespace, timeout=10)
    with store, kind(store, threads=4) as load:
        for _ in range(100):
            proxy.drop_replies(1, b"COMMIT\0", b'"v":1,')
            wait_for_calls(load, 5)
        dropped = proxy.dropped
        proxy.drop_replies(0)
    with open_store(server.url, namespace=namespace) as load.store:
        load.check()
    with capsys.disabled():
        print(
            f"\npostgres, {kind.__name__}: {dropped} replies lost under {load.calls} calls; "
            f"outcomes unknown: {load.unknown}, given up: {load.unavailable}"
        )
    assert dropped >= 75
    assert load.unknown == 0
    assert load.unavailable == 0


def test_lost_requests_are_sent_again(server: PostgresServer, proxy: Proxy) -> None:
    with open_store(proxy.url(server.url), namespace="requests") as store:
        for number in range(50):
            proxy.drop_requests(1, b'"v":1,')
            assert store.add_message("k", ChatMessage(str(number))).added == 1
        assert proxy.dropped_requests == 50
        assert [message.text for message in store.get_messages("k")] == [str(n) for n in range(50)]


def test_a_stopped_server_is_waited_for(server: PostgresServer) -> None:
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


@pytest.mark.parametrize("times", [1, pytest.param(5, marks=pytest.mark.long)])
@pytest.mark.parametrize("kind", LOADS)
def test_standby_promoted_under_load(
    capsys: pytest.CaptureFixture[str], kind: type[Load], times: int
) -> None:
    hits = calls = 0
    for _ in range(times):
        with PostgresServer() as primary, primary.standby() as standby:
            url = (
                f"postgresql://chats@127.0.0.1:{primary.port},127.0.0.1:{standby.port}/chats"
                "?target_session_attrs=read-write"
            )
            store = open_store(url, timeout=20)
            with store, kind(store) as load:
                wait_for_calls(load)
                hits += load.in_flight > 0
                primary.kill()
                standby.configure(synchronous_standby_names="")
                standby.promote()
                wait_for_calls(load)
            with open_store(standby.url) as load.store:
                load.check()
            assert load.unknown == 0
            assert load.unavailable == 0
            calls += load.calls
    with capsys.disabled():
        print(
            f"\npostgres, {kind.__name__}: {times} primaries killed and standbys promoted under "
            f"{calls} calls, {hits} of them with calls in flight; outcomes unknown: 0"
        )
    assert hits >= times * 3 // 4


@pytest.mark.parametrize("adds", [40, pytest.param(100, marks=pytest.mark.long)])
def test_processes_that_add_pop_delete_set_and_read(
    server: PostgresServer, capsys: pytest.CaptureFixture[str], adds: int
) -> None:
    opener = partial(open_store, server.url, namespace=f"mixed{adds}")
    with opener() as store:
        said = mix(store, opener, adds)
    with capsys.disabled():
        print(f"\npostgres: {said}")
