"""Redis over a socket file, over TLS, under Sentinels and as a Cluster: what is its own there."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel

from chatstores import ChatMessage, ChatStore, open_store
from chatstores.errors import (
    AuthenticationError,
    BackendMismatchError,
    BackendUnavailableError,
    InvalidURLError,
    OutcomeUnknownError,
    PermissionDeniedError,
)
from chatstores.transport import run_sync
from chatstores_redis import RedisChatStore
from chatstores_redis.topology import Connections
from tests.backends.redis_harness import bucket
from tests.run import PASSWORD
from tests.servers.certificates import certificates
from tests.servers.redis import RedisServer
from tests.servers.redis_sets import RedisCluster, RedisSentinel

DOCS = Path(__file__).parents[2] / "docs"
PASSWORD_IN_URL = quote(PASSWORD, safe="")


@pytest.fixture(scope="module")
def tls() -> Iterator[RedisServer]:
    with RedisServer(password=PASSWORD, tls=True) as server:
        yield server


@pytest.fixture(scope="module")
def sentinel() -> Iterator[RedisSentinel]:
    with RedisSentinel(password=PASSWORD, sentinel_password=f"{PASSWORD}2") as servers:
        yield servers


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    with RedisCluster(password=PASSWORD) as servers:
        yield servers


def works(store: ChatStore) -> None:
    """A conversation in both forms; and the URL, with the password again, opens the same."""

    async def more() -> list[str]:
        async with store:
            await store.aadd_messages("k", [ChatMessage("2"), ChatMessage("3")])
            await store.adelete_last_message("k")
            return [message.text for message in await store.aget_messages("k", last=20)]

    store.delete_messages("k")
    assert store.add_message("k", ChatMessage("1")).added == 1
    assert store.get_keys() == ["k"]
    assert [info.count for info in store.list_sessions().sessions] == [1]
    assert asyncio.run(more()) == ["1", "2"]


def test_a_socket_file() -> None:
    with RedisServer(password=PASSWORD) as server:
        works(open_store(f"unix://{server.socket}?db=2", password=PASSWORD))
        works(open_store(f"unix://default:{PASSWORD_IN_URL}@{server.socket}?db=2"))
        works(RedisChatStore(unix_socket_path=server.socket, password=PASSWORD))
        store = open_store(f"unix://{server.socket}?db=2", password=PASSWORD)
        assert store.url == f"unix://{server.socket}?db=2"
        server.kill()
        with pytest.raises(BackendUnavailableError, match=r"redis\.sock"):
            open_store(store.url, timeout=0.5, password=PASSWORD).ping()


def test_tls(tls: RedisServer) -> None:
    works(open_store(tls.url))
    files = certificates()
    works(
        RedisChatStore(
            "127.0.0.1",
            tls.port,
            password=PASSWORD,
            ssl=True,
            ssl_ca_certs=files.ca,
            ssl_certfile=files.client,
            ssl_keyfile=files.client_key,
        )
    )
    with redis.Redis.from_url(tls.url) as client:
        store = RedisChatStore(client=client)
        assert store.add_message("k", ChatMessage("x")).added == 1
        assert store.url.startswith("rediss://")


@pytest.mark.parametrize("form", ["sync", "async"])
@pytest.mark.parametrize(
    ("options", "why"),
    [
        (lambda files: {}, "certificate"),
        (lambda files: {"ssl_ca_certs": files.stranger_ca}, "certificate"),
        (lambda files: {"ssl_ca_certs": files.ca}, "certificate"),
        (lambda files: {"ssl_ca_certs": "/nowhere/ca.pem"}, "is not there"),
    ],
    ids=["no authority", "another authority", "no certificate of the client", "no such file"],
)
def test_tls_that_fails_says_why(
    tls: RedisServer, form: str, options: Callable[..., dict[str, str]], why: str
) -> None:
    store = open_store(
        f"rediss://127.0.0.1:{tls.port}", password=PASSWORD, timeout=1, **options(certificates())
    )
    call = store.ping if form == "sync" else lambda: asyncio.run(store.aping())
    # Who wants a certificate may have hung up before its word of that is read.
    kinds = (AuthenticationError, InvalidURLError, BackendUnavailableError)
    with pytest.raises(kinds, match=f"(?i){why}"):
        call()


def test_tls_is_not_spoken_to_in_clear(tls: RedisServer) -> None:
    with pytest.raises(BackendUnavailableError):
        open_store(f"redis://127.0.0.1:{tls.port}", timeout=0.5).ping()


def test_options_of_tls_without_tls() -> None:
    with pytest.raises(InvalidURLError, match="only with TLS"):
        open_store("redis://h?ssl_ca_certs=ca.pem")


def test_sentinel(sentinel: RedisSentinel) -> None:
    works(open_store(sentinel.url, sentinel_password=f"{PASSWORD}2"))
    sentinels = [("127.0.0.1", one.port) for one in sentinel.sentinels]
    with redis.sentinel.Sentinel(
        sentinels, sentinel_kwargs={"password": f"{PASSWORD}2"}, password=PASSWORD
    ).master_for(sentinel.service) as client:
        store = RedisChatStore(client=client)
        store.add_message("k", ChatMessage("3"))
        assert store.count_messages("k") == 3
        assert store.url.startswith("redis+sentinel://127.0.0.1:")


def test_a_primary_that_is_asked_for_again_is_the_same(sentinel: RedisSentinel) -> None:
    """So that what its callers give back meanwhile is used, and closed in the end."""

    async def asked_twice(t: Any) -> list[Connections | None]:
        found = []
        for _ in range(2):
            await store._ping(t)
            found.append(t._topology.of(b""))
            t._topology.forget()
        await t.close()
        return found

    store = RedisChatStore.from_url(sentinel.url, sentinel_password=f"{PASSWORD}2")
    first, again = run_sync(asked_twice(store._open()))
    assert first is again is not None
    assert first.take() is None


def test_sentinels_passwords(sentinel: RedisSentinel) -> None:
    for options in [{}, {"sentinel_password": "wrong"}]:
        with pytest.raises(AuthenticationError, match="sentinel_password"):
            open_store(sentinel.url, **options).ping()
    hosts = sentinel.url.rpartition("@")[2]
    with pytest.raises(AuthenticationError):
        open_store(f"redis+sentinel://{hosts}", sentinel_password=f"{PASSWORD}2").ping()


def test_a_service_that_no_sentinel_knows(sentinel: RedisSentinel) -> None:
    url = sentinel.url.replace(f"/{sentinel.service}", "/others")
    with pytest.raises(BackendMismatchError, match="know no service 'others'"):
        open_store(url, sentinel_password=f"{PASSWORD}2").ping()


def test_sentinels_some_of_which_are_away(sentinel: RedisSentinel) -> None:
    dead = ",".join(["127.0.0.1:1", "127.0.0.1:2"])
    url = sentinel.url.replace("127.0.0.1", f"{dead},127.0.0.1", 1)
    works(open_store(url, sentinel_password=f"{PASSWORD}2"))
    with pytest.raises(BackendUnavailableError):
        open_store(f"redis+sentinel://{dead}/chats", timeout=0.5).ping()


def test_wait(sentinel: RedisSentinel) -> None:
    options = {"sentinel_password": f"{PASSWORD}2"}
    works(open_store(f"{sentinel.url}?wait=1", **options))
    with open_store(f"{sentinel.url}?wait=2", timeout=1, **options) as store:
        with pytest.raises(OutcomeUnknownError):
            store.add_message("waiting", ChatMessage("1"))
        assert [message.text for message in store.get_messages("waiting")] == ["1"]


def test_a_retry_waits_for_what_its_first_attempt_wrote(sentinel: RedisSentinel) -> None:
    [replica] = [member for member in sentinel.members if member.role == "slave"]
    options = {"sentinel_password": f"{PASSWORD}2", "timeout": 6}
    with open_store(f"{sentinel.url}?wait=1", **options) as store:
        store.add_message("retried", ChatMessage("before"))
        replica.server.pause()
        timer = threading.Timer(2.0, replica.server.resume)
        timer.start()
        try:
            assert store.add_message("retried", ChatMessage("1")).added == 1
        finally:
            timer.join()
        assert store.count_messages("retried") == 2


def test_a_retry_over_another_connection_waits_too(sentinel: RedisSentinel) -> None:
    """WAIT waits for all that was written before it, by whatever connection."""
    [replica] = [member for member in sentinel.members if member.role == "slave"]
    options = {"sentinel_password": f"{PASSWORD}2", "timeout": 1.5}
    with open_store(f"{sentinel.url}?wait=1", **options) as store:
        store.add_message("lost reply", ChatMessage("before"))
        replica.server.pause()
        proxy = sentinel.primary.proxy
        dropped = proxy.dropped
        proxy.drop_replies(1, b"EVALSHA")
        try:
            with pytest.raises(OutcomeUnknownError):
                store.add_message("lost reply", ChatMessage("1"))
        finally:
            replica.server.resume()
        assert proxy.dropped == dropped + 1
        assert store.count_messages("lost reply") == 2


def test_cluster(cluster: RedisCluster) -> None:
    works(open_store(cluster.url))
    port = cluster.members[0].proxy.port
    with redis.RedisCluster("127.0.0.1", port, password=PASSWORD) as client:
        store = RedisChatStore(client=client)
        store.add_message("k", ChatMessage("3"))
        assert store.count_messages("k") == 3
        assert store.url.startswith("redis+cluster://127.0.0.1:")


def test_the_rights_that_docs_redis_says(cluster: RedisCluster) -> None:
    [line] = re.findall(r"^ACL SETUSER bot .*$", (DOCS / "redis.md").read_text(), re.MULTILINE)
    with RedisServer() as server:
        for one in [server, *(member.server for member in cluster.members)]:
            with one.client() as client:
                client.execute_command(line)
        url = f"redis://bot:password@127.0.0.1:{server.port}"
        works(open_store(url))
        with pytest.raises(PermissionDeniedError, match="it needs the keys other:"):
            open_store(url, prefix="other").add_message("k", ChatMessage("x"))
        nodes = cluster.url.rpartition("@")[2]
        works(open_store(f"redis+cluster://bot:password@{nodes}", wait=1))


def test_a_node_of_a_cluster_is_no_server(cluster: RedisCluster) -> None:
    port = cluster.members[0].proxy.port
    with pytest.raises(BackendMismatchError, match=r"open it as redis\+cluster://"):
        open_store(f"redis://:{PASSWORD_IN_URL}@127.0.0.1:{port}").get_keys()


def test_a_server_is_no_cluster() -> None:
    with RedisServer() as server, pytest.raises(BackendMismatchError, match="no Cluster"):
        open_store(f"redis+cluster://127.0.0.1:{server.port}", timeout=0.5).ping()


def test_scripts_are_loaded_again_on_every_node(cluster: RedisCluster) -> None:
    with open_store(cluster.url, namespace="flushed") as store:
        for number in range(30):
            store.add_message(f"{number}", ChatMessage("1"))
        for member in cluster.members:
            with member.client() as client:
                client.script_flush()
        for number in range(30):
            store.add_message(f"{number}", ChatMessage("2"))
        assert {info.count for info in store.list_sessions(limit=30).sessions} == {2}
        assert len(store.get_keys()) == 30


def test_a_slot_moves_while_it_is_written_to(cluster: RedisCluster) -> None:
    """While it moves calls wait; nothing is done in part, and nothing is lost."""
    key, keys = "moving", [f"moving too {n}" for n in range(5)]
    with open_store(cluster.url, namespace="moved", timeout=0.5) as store:
        texts = []
        for other in keys:
            store.add_message(other, ChatMessage("x"))
        store.add_message(key, ChatMessage("first"))
        refused = 0
        for _ in cluster.move(bucket("moved", key)):
            text = str(len(texts))
            try:
                store.add_message(key, ChatMessage(text))
                texts.append(text)
            except BackendUnavailableError:
                refused += 1
        store.add_message(key, ChatMessage("last"))
        assert [message.text for message in store.get_messages(key)] == ["first", *texts, "last"]
        assert refused > 0
        assert store.get_keys() == sorted([key, *keys])
