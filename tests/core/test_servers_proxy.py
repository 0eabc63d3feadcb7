"""The tests' own proxy: what it drops, delays and counts before a real Redis."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.servers.proxy import Proxy
from tests.servers.redis import RedisServer


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


class Client:
    """A connection that speaks inline Redis commands."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=5)

    def send(self, line: str) -> None:
        self.socket.sendall(line.encode() + b"\r\n")

    def say(self, line: str) -> bytes:
        self.send(line)
        return self.socket.recv(65536)

    def is_cut(self) -> bool:
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[Proxy]:
    with Proxy("127.0.0.1", server.port) as proxy:
        yield proxy


@pytest.fixture
def connect(proxy: Proxy) -> Iterator[Callable[[], Client]]:
    clients: list[Client] = []

    def connect() -> Client:
        clients.append(Client(proxy.port))
        return clients[-1]

    yield connect
    for client in clients:
        client.socket.close()


@pytest.fixture
def direct(server: RedisServer) -> Iterator[Client]:
    client = Client(server.port)
    client.say("FLUSHALL")
    yield client
    client.socket.close()


Connect = Callable[[], Client]


def test_a_url_gets_the_proxys_address(proxy: Proxy) -> None:
    assert proxy.url("redis://:p%40w@db:1/2?x=y") == (
        f"redis://:p%40w@127.0.0.1:{proxy.port}/2?x=y"
    )
    assert proxy.url("redis://[::1]:1/0") == f"redis://127.0.0.1:{proxy.port}/0"


def test_it_counts(proxy: Proxy, connect: Connect) -> None:
    client = connect()
    assert client.say("PING") == b"+PONG\r\n"
    connect().say("PING")
    assert (proxy.sent, proxy.received, proxy.connections) == (12, 14, 2)
    proxy.reset_counters()
    client.say("PING")
    assert (proxy.sent, proxy.received, proxy.connections) == (6, 7, 0)


def test_a_dropped_reply_was_executed(proxy: Proxy, connect: Connect, direct: Client) -> None:
    proxy.drop_replies(2)
    for _ in range(2):
        client = connect()
        client.send("INCR a")
        assert client.is_cut()
    assert proxy.dropped == 2
    assert connect().say("INCR a") == b":3\r\n"
    assert direct.say("GET a") == b"$1\r\n3\r\n"


def test_only_matching_replies_are_dropped(proxy: Proxy, connect: Connect, direct: Client) -> None:
    proxy.drop_replies(1, b"INCR a")
    client = connect()
    assert client.say("PING") == b"+PONG\r\n"
    assert client.say("INCR b") == b":1\r\n"
    assert proxy.dropped == 0
    client.send("INCR a")
    assert client.is_cut()
    assert proxy.dropped == 1
    assert direct.say("GET a") == b"$1\r\n1\r\n"
    proxy.drop_replies(1)
    proxy.drop_replies(0)
    assert connect().say("PING") == b"+PONG\r\n"


def test_a_pipeline_whose_reply_is_dropped_is_executed_to_its_end(
    proxy: Proxy, connect: Connect, direct: Client
) -> None:
    proxy.drop_replies(1, b"INCR a")
    client = connect()
    client.socket.sendall(b"INCR a\r\n" * 20_000)
    assert client.is_cut()
    assert direct.say("GET a") == b"$5\r\n20000\r\n"
    assert proxy.dropped == 1


def test_a_dropped_request_was_not_executed(proxy: Proxy, connect: Connect, direct: Client) -> None:
    proxy.drop_requests(1, b"INCR a")
    client = connect()
    assert client.say("INCR b") == b":1\r\n"
    client.socket.sendall(b"INC")
    time.sleep(0.05)
    client.send("R a")
    assert client.is_cut()
    assert (proxy.dropped_requests, proxy.dropped) == (1, 0)
    assert direct.say("EXISTS a") == b":0\r\n"
    assert connect().say("INCR a") == b":1\r\n"


def test_silence_forwards_nothing(proxy: Proxy, connect: Connect, direct: Client) -> None:
    quiet, waiting = connect(), connect()
    quiet.say("PING")
    proxy.silence()
    waiting.send("INCR a")
    waiting.socket.settimeout(0.1)
    with pytest.raises(TimeoutError):
        waiting.socket.recv(1)
    assert direct.say("EXISTS a") == b":0\r\n"
    proxy.silence(False)
    assert waiting.is_cut()
    assert quiet.say("PING") == b"+PONG\r\n"


def test_refusal_keeps_the_port(proxy: Proxy, connect: Connect) -> None:
    client = connect()
    client.say("PING")
    proxy.refuse()
    proxy.refuse()
    assert client.is_cut()
    with pytest.raises(ConnectionRefusedError):
        connect()
    proxy.refuse(False)
    assert connect().say("PING") == b"+PONG\r\n"


def test_a_cut_says_how_many_waited(proxy: Proxy, connect: Connect) -> None:
    idle, waiting = connect(), connect()
    idle.say("PING")
    waiting.say("PING")
    waiting.send("BLPOP nothing 0")
    time.sleep(0.05)
    assert proxy.cut() == 1
    assert idle.is_cut()
    assert waiting.is_cut()
    assert connect().say("PING") == b"+PONG\r\n"
    assert proxy.cut() == 0


def test_a_delay_is_that_of_each_reply(proxy: Proxy, connect: Connect) -> None:
    client = connect()
    client.say("PING")
    proxy.delay(0.2)
    started = time.perf_counter()
    client.send("PING")
    time.sleep(0.05)
    client.send("ECHO x")
    with client.socket.makefile("rb") as replies:
        assert [replies.readline() for _ in range(3)] == [b"+PONG\r\n", b"$1\r\n", b"x\r\n"]
    assert 0.2 < time.perf_counter() - started < 0.4
    client.send("PING")
    time.sleep(0.05)
    assert proxy.cut() == 1
    proxy.delay(0)
    client = connect()
    started = time.perf_counter()
    client.say("PING")
    assert time.perf_counter() - started < 0.15


def test_a_killed_server_closes_its_clients(connect: Connect) -> None:
    with RedisServer() as server, Proxy("127.0.0.1", server.port) as proxy:
        client = Client(proxy.port)
        client.say("PING")
        server.kill()
        assert client.is_cut()
        late = Client(proxy.port)
        assert late.is_cut()
        server.restart()
        back = Client(proxy.port)
        assert back.say("PING") == b"+PONG\r\n"
        for each in (client, late, back):
            each.socket.close()


def test_64_mib_pass_unchanged(proxy: Proxy, connect: Connect) -> None:
    size = 64 << 20
    payload = bytes(range(256)) * (size // 256)
    client = connect()
    started = time.perf_counter()
    client.socket.sendall(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$%d\r\n%b\r\n" % (size, payload))
    assert client.socket.recv(100) == b"+OK\r\n"
    client.send("GET a")
    with client.socket.makefile("rb") as replies:
        assert replies.readline() == b"$%d\r\n" % size
        assert replies.read(size) == payload
    assert time.perf_counter() - started < 5
    assert proxy.sent > size
    assert proxy.received > size


def test_many_clients_under_cuts_and_a_close_leave_nothing(server: RedisServer) -> None:
    threads, files = threading.active_count(), open_files()
    proxy = Proxy("127.0.0.1", server.port)
    over = threading.Event()

    def use() -> None:
        while not over.is_set():
            try:
                client = Client(proxy.port)
            except OSError:
                continue
            try:
                while client.say("PING"):
                    pass
            except OSError:
                pass
            client.socket.close()

    users = [threading.Thread(target=use) for _ in range(8)]
    for user in users:
        user.start()
    for _ in range(30):
        proxy.cut()
        proxy.refuse()
        proxy.refuse(False)
        proxy.drop_replies(3)
        time.sleep(0.01)
    proxy.close()
    proxy.close()
    over.set()
    for user in users:
        user.join()
    assert (threading.active_count(), open_files()) == (threads, files)
    assert proxy.dropped + proxy.received > 0
