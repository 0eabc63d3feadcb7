"""Redis: what a wrong URL, argument or server is told, in sync code and in coroutines."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

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
    ChatStoreError,
    InvalidURLError,
)
from chatstores.retry import NotDone
from chatstores.transport import run_sync
from chatstores_redis import RedisChatStore, scripts
from chatstores_redis.transport import SyncRedis
from tests.run import PASSWORD
from tests.servers.redis import RedisServer

FORMS = pytest.mark.parametrize("form", ["sync", "async"])


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as one:
        yield one


@pytest.fixture(scope="module")
def locked() -> Iterator[RedisServer]:
    """A server with a password."""
    with RedisServer(password=PASSWORD) as one:
        yield one


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """A server that gives everybody the same answer and hangs up; its host and port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                connection, _ = listener.accept()
                with connection:
                    if not connection.recv(65536):
                        return
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        socket.create_connection(listener.getsockname()).close()
        thread.join()


def ping(form: str, store: ChatStore) -> None:
    if form == "sync":
        store.ping()
    else:
        asyncio.run(store.aping())


def told(form: str, store: ChatStore, kind: type[ChatStoreError]) -> str:
    """What ping raises."""
    with pytest.raises(kind) as caught:
        ping(form, store)
    return str(caught.value)


def printed(form: str, store: ChatStore, kind: type[ChatStoreError]) -> str:
    """All that is printed of what ping raises, and of the store."""
    with pytest.raises(kind) as caught:
        ping(form, store)
    return "".join([*traceback.format_exception(caught.value), store.url, repr(store)])


def first(form: str, store: RedisChatStore) -> str:
    """What the first attempt to connect says; another one may have too little time."""

    async def attempt(t: Any) -> str:
        try:
            await store._ping(t)
        except NotDone as exc:
            error = store._error(exc.__cause__)
            assert isinstance(error, BackendUnavailableError)
            return str(error)
        finally:
            await t.close()
        raise AssertionError("it answered")

    async def running() -> str:
        return await attempt(store._aopen())

    return run_sync(attempt(store._open())) if form == "sync" else asyncio.run(running())


# Logging in


@FORMS
def test_no_password_where_one_is_wanted(locked: RedisServer, form: str) -> None:
    store = open_store(f"redis://127.0.0.1:{locked.port}")
    text = told(form, store, AuthenticationError)
    assert text == (
        f"redis://127.0.0.1:{locked.port}/0 wants a password: redis://:password@..., "
        "or password=... beside the URL"
    )
    store = open_store(f"unix://{locked.socket}")
    assert "wants a password: unix://:password@" in told(form, store, AuthenticationError)


@FORMS
def test_a_wrong_password(locked: RedisServer, form: str) -> None:
    for login in (":wrong", "bot:wrong"):
        store = open_store(f"redis://{login}@127.0.0.1:{locked.port}")
        text = told(form, store, AuthenticationError)
        assert text.endswith("/0 refused the user or password")


@FORMS
def test_a_password_in_the_place_of_the_user_is_not_shown(locked: RedisServer, form: str) -> None:
    where = f"127.0.0.1:{locked.port}"
    for store in (open_store(f"redis://s3cret@{where}"), open_store(f"redis://s3cret:@{where}")):
        text = printed(form, store, AuthenticationError)
        assert "s3cret" not in text
        assert "a password alone stands as redis://:password@" in text
    for url in ("redis://s3cret@127.0.0.1:1", "unix://s3cret@/nowhere/redis.sock"):
        store = open_store(url, timeout=0.1)
        assert "s3cret" not in printed(form, store, BackendUnavailableError)


@FORMS
def test_a_user_whose_password_stands_beside_the_url(locked: RedisServer, form: str) -> None:
    with locked.client() as client:
        client.execute_command("ACL SETUSER bot on >own ~* &* +@all")
    where = f"bot@127.0.0.1:{locked.port}"
    store = open_store(f"redis://{where}", password="own")
    works(form, store)
    assert store.url == f"redis://{where}/0"
    store = open_store(f"redis://{where}", password="wrong")
    assert told(form, store, AuthenticationError).startswith(f"redis://{where}/0 refused")


@FORMS
def test_a_user_who_needs_no_password(server: RedisServer, form: str) -> None:
    with server.client() as client:
        client.execute_command("ACL SETUSER free on nopass ~* &* +@all")
    works(form, open_store(f"redis://free@127.0.0.1:{server.port}"))


@FORMS
def test_a_provider_of_credentials(locked: RedisServer, form: str) -> None:
    url = f"redis://127.0.0.1:{locked.port}"
    provider = redis.UsernamePasswordCredentialProvider(password=PASSWORD)
    works(form, open_store(url, credential_provider=provider))
    provider = redis.UsernamePasswordCredentialProvider(password="wrong")
    text = told(form, open_store(url, credential_provider=provider), AuthenticationError)
    assert text.endswith("refused the user or password")
    with pytest.raises(InvalidURLError, match="leave those out"):
        open_store(url, credential_provider=provider, password="x")


def works(form: str, store: ChatStore) -> None:
    if form == "sync":
        with store:
            assert store.count_messages("k") == 0
    else:
        asyncio.run(works_async(store))


async def works_async(store: ChatStore) -> None:
    async with store:
        assert await store.acount_messages("k") == 0


# Another server than was meant


@FORMS
def test_a_database_that_is_not_there(server: RedisServer, form: str) -> None:
    store = open_store(f"redis://127.0.0.1:{server.port}/99")
    text = told(form, store, BackendMismatchError)
    assert "has no database 99; by default Redis has 16, from 0 to 15" in text
    with redis.Redis(port=server.port, db=98) as client:
        text = told("sync", RedisChatStore(client=client), BackendMismatchError)
    assert "has no database 98" in text
    store = open_store(f"unix://{server.socket}?db=97")
    assert "has no database 97" in told(form, store, BackendMismatchError)


@FORMS
def test_a_server_is_no_sentinel(server: RedisServer, form: str) -> None:
    store = open_store(f"redis+sentinel://127.0.0.1:{server.port}/chats")
    text = told(form, store, BackendMismatchError)
    assert text.endswith("that server is no Sentinel; open it as redis://")


def test_an_unknown_command() -> None:
    with RedisServer(settings=["--rename-command", "LRANGE", ""]) as server:
        store = open_store(f"redis://127.0.0.1:{server.port}")
        for call in (store.get_messages, lambda key: asyncio.run(store.aget_messages(key))):
            with pytest.raises(BackendMismatchError) as caught:
                call("s3cret")
            assert "must be Redis 7.0 or newer, and no Sentinel" in str(caught.value)
            assert "s3cret" not in str(caught.value)


@FORMS
def test_an_error_of_a_servers_own(form: str) -> None:
    with answering(b"-ERR not today\r\n") as where:
        text = told(form, open_store(f"redis://{where}"), BackendMismatchError)
    assert "did not understand a command (not today); it must be Redis 7.0 or newer" in text


@FORMS
def test_a_database_of_a_node_of_a_cluster(form: str) -> None:
    with RedisServer(settings=["--cluster-enabled", "yes", "--cluster-port", "1"]) as node:
        store = open_store(f"redis://127.0.0.1:{node.port}/2")
        assert "open it as redis+cluster://" in told(form, store, BackendMismatchError)


def test_keys_of_another_program(server: RedisServer) -> None:
    store = RedisChatStore("127.0.0.1", server.port, prefix="taken")
    store.add_message("k", ChatMessage("x"))
    with server.client() as client:
        for key in client.keys("taken:*"):
            client.delete(key)
            client.set(key, "x")
    with pytest.raises(BackendMismatchError, match="taken: belongs to another program; give"):
        store.get_messages("k")


def test_what_was_staged_and_is_gone_is_staged_again(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of a large set lie aside until the last is there; a failover may lose some."""
    script = SyncRedis.script
    lost = []

    async def losing(t: Any, which: Any, *arguments: Any, **options: Any) -> Any:
        if which is scripts.REPLACE and not lost:
            with server.client() as client:
                lost.extend(client.keys("chatstores:{staged:*}:r?*"))
                client.delete(*lost)
        return await script(t, which, *arguments, **options)

    monkeypatch.setattr(SyncRedis, "script", losing)
    with RedisChatStore("127.0.0.1", server.port, namespace="staged") as store:
        assert store.set_messages("k", [ChatMessage(str(n)) for n in range(2500)]).added == 2500
        assert [message.text for message in store.get_messages("k", last=1)] == ["2499"]
    assert lost


def test_a_server_without_memory() -> None:
    with RedisServer() as server, open_store(server.url, timeout=0.5) as store:
        store.add_messages("old", [ChatMessage("1"), ChatMessage("2"), ChatMessage("3")])
        with server.client() as client:
            client.config_set("maxmemory", 1)
        for key in ("old", "new"):
            with pytest.raises(BackendUnavailableError, match="has reached its maxmemory"):
                store.add_message(key, ChatMessage("x"))
        assert store.get_keys() == ["old"]
        assert store.delete_last_message("old").text == "3"
        assert len(store.delete_oldest("old", 1)) == 1
        assert store.delete_messages("old") == 1


def test_a_replica_refuses_writes(server: RedisServer) -> None:
    with RedisServer(settings=["--replicaof", "127.0.0.1", str(server.port)]) as replica:
        store = open_store(f"redis://127.0.0.1:{replica.port}", timeout=0.5)
        with pytest.raises(BackendUnavailableError, match=r"refuses for now: .*read only replica"):
            store.add_message("k", ChatMessage("x"))


@FORMS
def test_no_more_clients(form: str) -> None:
    with RedisServer(settings=["--maxclients", "1"]) as server, server.client() as client:
        client.ping()
        store = RedisChatStore("127.0.0.1", server.port)
        assert "as its maxclients lets it" in first(form, store)


@FORMS
@pytest.mark.parametrize("kind", ["", "+cluster"])
def test_tls_where_none_is_spoken(server: RedisServer, form: str, kind: str) -> None:
    store = open_store(f"rediss{kind}://127.0.0.1:{server.port}", timeout=0.5)
    text = told(form, store, BackendUnavailableError)
    assert "TLS got no answer in time" in text
    assert text.endswith(f"plain Redis there is redis{kind}://")


@FORMS
def test_tls_that_is_answered_in_clear(form: str) -> None:
    with answering(b"-ERR unknown command\r\n") as where:
        text = told(form, open_store(f"rediss://{where}"), BackendMismatchError)
    assert text.endswith("answered without TLS; open it as redis://")


@FORMS
def test_a_server_that_hangs_up_during_tls_is_away(form: str) -> None:
    with answering(b"") as where:
        text = first(form, RedisChatStore.from_url(f"rediss://{where}"))
    assert "cannot be reached: it hung up; if it wants a certificate of the client's: ssl_" in text


@FORMS
@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "it hung up"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak Redis's protocol"),
        (b"\x15\x03\x03\x00\x02\x02\x46", "does not speak Redis's protocol"),
    ],
    ids=["nothing", "HTTP", "an alert of TLS"],
)
def test_a_server_that_may_want_tls(form: str, answer: bytes, why: str) -> None:
    with answering(answer) as where:
        text = first(form, RedisChatStore.from_url(f"redis://{where}"))
    assert why in text
    assert text.endswith("a server that speaks TLS there is rediss://")


@FORMS
def test_a_server_that_wants_tls(form: str) -> None:
    with RedisServer(tls=True) as server:
        text = first(form, RedisChatStore("127.0.0.1", server.port))
    assert text.endswith("a server that speaks TLS there is rediss://")


# Arguments


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: RedisChatStore("redis://:s3cret@h:1/0"), "that is a URL; open_store(url)"),
        (lambda: RedisChatStore("h:6379"), "the host is a name or an address"),
        (lambda: RedisChatStore(":s3cret@h"), "the host is a name or an address"),
        (lambda: RedisChatStore(""), "the host is a name or an address"),
        (lambda: RedisChatStore("h", "six"), "the port must be a number, 1 to 65535"),
        (lambda: RedisChatStore("h", 65536), "the port must be a number, 1 to 65535"),
        (lambda: RedisChatStore(redis.Redis()), "a client is client="),
        (lambda: RedisChatStore(sentinels=["h:1"], service="s"), "sentinels= must be text and a"),
        (lambda: RedisChatStore(cluster_nodes="h:1"), "cluster_nodes= must be a list of (host"),
        (lambda: RedisChatStore(cluster_nodes=[]), "cluster_nodes= must be a list of (host"),
        (lambda: RedisChatStore("h", cluster_nodes=[("h", 1)]), "one of host and port, unix_"),
        (lambda: RedisChatStore(port=1, unix_socket_path="/x"), "one of host and port, unix_"),
        (lambda: RedisChatStore(sentinels=[("h", 1)]), "sentinels= needs service="),
        (lambda: RedisChatStore(service="s"), "belong to Sentinels"),
        (lambda: RedisChatStore(cluster_nodes=[("h", 1)], db=1), "no databases but number 0"),
        (lambda: RedisChatStore(unix_socket_path="/x", ssl=True), "not spoken to over TLS"),
        (lambda: RedisChatStore(password=b"s3cret"), "the option password: must be text"),
        (lambda: RedisChatStore(username=3, password="s3cret"), "username: must be text"),
        (lambda: RedisChatStore(db=-1), "the option db: must be a whole number, 0 or more"),
        (lambda: RedisChatStore(db="one"), "the option db: must be a whole number"),
        (lambda: RedisChatStore(retry=None), "the option retry: is refused"),
    ],
)
def test_arguments(make: Callable[[], RedisChatStore], why: str) -> None:
    with pytest.raises(InvalidURLError, match=re.escape(why)) as caught:
        make()
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("store", "url"),
    [
        (lambda: RedisChatStore(), "redis://localhost:6379/0"),
        (lambda: RedisChatStore("h"), "redis://h:6379/0"),
        (lambda: RedisChatStore(port=7), "redis://localhost:7/0"),
        (lambda: RedisChatStore("::1", "7", db=2), "redis://[::1]:7/2"),
        (lambda: RedisChatStore("h", ssl=True), "rediss://h:6379/0"),
        (lambda: RedisChatStore("h", username="a", password="b"), "redis://a@h:6379/0"),
        (lambda: RedisChatStore("h", username="a"), "redis://h:6379/0"),
        (
            lambda: RedisChatStore(sentinels=[("h", 1), ("i", 2)], service="s", db=3),
            "redis+sentinel://h:1,i:2/s/3",
        ),
        (lambda: RedisChatStore(cluster_nodes=(("h", 1),)), "redis+cluster://h:1"),
        (lambda: RedisChatStore(unix_socket_path="/x", db=1), "unix:///x?db=1"),
    ],
)
def test_arguments_as_a_url(store: Callable[[], RedisChatStore], url: str) -> None:
    assert store().url == url


@pytest.mark.parametrize(
    ("url", "options", "why"),
    [
        ("redis://h", {"client": redis.Redis()}, "RedisChatStore(client=...) does"),
        ("redis://h", {"async_client": redis.Redis()}, "RedisChatStore(async_client=...) does"),
        ("redis://h", {"host": "i"}, "the option host: is refused: it is a part of the URL"),
        ("redis://h", {"username": "i"}, "username: is refused: it is a part of the URL"),
        ("redis://h?ssl=true", {}, "the option ssl: is refused: it is a part of the URL"),
        ("redis://h?max_connections=0", {}, "must be a whole number, 1 or more"),
        ("redis://h?wait=-1", {}, "must be a whole number, 0 or more"),
        ("redis://h?protocol=4", {}, "must be 2 or 3"),
        ("redis://h?credential_provider=x", {}, "must be a redis.CredentialProvider"),
        ("rediss://h?ssl_cert_reqs=perhaps", {}, "must be none, optional or required"),
        ("redis://h:0", {}, "the port must be a number, 1 to 65535"),
        ("redis://h/one", {}, "is the database's number"),
        ("redis://h/1", {"db": 1}, "in the URL's path and as an option: db"),
        ("redis://h,i", {}, "takes one host"),
        ("redis+sentinel://h", {}, "takes the Sentinels and the service's name"),
        ("redis+cluster://", {}, "takes nodes"),
        ("redis+cluster://h/1", {}, "no databases but number 0"),
        ("unix://h/x", {}, "takes the path of a socket"),
        ("redis://h?prefix=a:b", {}, "without braces, colons"),
    ],
)
def test_urls(url: str, options: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidURLError, match=re.escape(why)):
        open_store(url, **options)


def test_what_an_unknown_option_may_be_is_none_that_is_refused() -> None:
    with pytest.raises(InvalidURLError, match="it has client_name, create") as caught:
        open_store("redis://h?hst=x")
    assert not re.search(r"\b(host|client)\b", str(caught.value))


# Clients


@pytest.mark.parametrize(
    ("clients", "why"),
    [
        (
            {"client": redis.asyncio.Redis()},
            "not <class 'redis.asyncio.client.Redis'>: that is asy",
        ),
        ({"async_client": redis.Redis()}, "not <class 'redis.client.Redis'>: that is client="),
        ({"client": "redis://:s3cret@h"}, "not <class 'str'>: open_store(url) takes a URL"),
        ({"async_client": "redis://h"}, "takes a redis.asyncio.Redis or redis.asyncio.RedisCluste"),
        ({"client": redis.sentinel.Sentinel([("h", 1)])}, "takes a redis.Redis or redis.RedisCl"),
        ({"client": redis.ConnectionPool()}, "takes a redis.Redis or redis.RedisCluster"),
        (
            {"client": redis.sentinel.Sentinel([("h", 1)]).slave_for("s")},
            "a client of replicas (slave_for) cannot write",
        ),
    ],
)
def test_what_is_no_client(clients: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidURLError, match=re.escape(why)) as caught:
        RedisChatStore(**clients)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("name", ["client", "async_client"])
@pytest.mark.parametrize(
    "beside",
    [
        {"host": "localhost"},
        {"port": 6379},
        {"db": 0},
        {"username": "bot"},
        {"password": "s3cret"},
        {"ssl": True},
        {"unix_socket_path": "/x"},
        {"sentinels": [("h", 1)]},
        {"cluster_nodes": [("h", 1)]},
        {"client_name": "bot"},
        {"ssl_ca_certs": "ca.pem"},
        {"host": "h", "port": 1, "protocol": 3},
    ],
    ids=", ".join,
)
def test_what_a_client_has_of_its_own(name: str, beside: dict[str, Any]) -> None:
    client: Any = redis.Redis() if name == "client" else redis.asyncio.Redis()
    with pytest.raises(InvalidURLError) as caught:
        RedisChatStore(**{name: client}, **beside)
    assert str(caught.value).startswith(f"{', '.join(beside)}: not beside client=")
    assert "s3cret" not in str(caught.value)


@FORMS
def test_what_may_stand_beside_a_client(server: RedisServer, form: str) -> None:
    options: dict[str, Any] = {"namespace": "n", "ttl": "7d", "prefix": "p", "max_connections": 2}
    where = {"host": "127.0.0.1", "port": server.port}

    async def more() -> None:
        async with redis.asyncio.Redis(**where) as client:
            store = RedisChatStore(async_client=client, **options)
            assert (await store.aadd_message(form, ChatMessage("x"))).added == 1
            await store.aclose()

    if form == "async":
        asyncio.run(more())
        return
    with redis.Redis(**where) as client, RedisChatStore(client=client, **options) as store:
        assert store.add_message(form, ChatMessage("x")).added == 1


@pytest.mark.parametrize("module", [redis.sentinel, redis.asyncio.sentinel])
def test_the_url_of_a_client_under_sentinels(module: Any) -> None:
    client = module.Sentinel([("h", 1), ("i", 2)]).master_for("chats", db=3)
    name = "client" if module is redis.sentinel else "async_client"
    assert RedisChatStore(**{name: client}).url == "redis+sentinel://h:1,i:2/chats/3"
