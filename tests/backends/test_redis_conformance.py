"""The contract on redis://, through a proxy before a server of our own."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import redis

from chatstores.conformance import Borrowed, Harness, NotThere
from chatstores.conformance.suite import *  # noqa: F403
from chatstores_redis import RedisChatStore
from tests.run import PASSWORD
from tests.servers.proxy import Proxy
from tests.servers.redis import RedisServer


@dataclass
class Since:
    """A counter of the proxy, from now on."""

    proxy: Proxy
    counter: str

    def __post_init__(self) -> None:
        self._start = getattr(self.proxy, self.counter)

    @property
    def count(self) -> int:
        return getattr(self.proxy, self.counter) - self._start


class RedisHarness(Harness):
    """Reaches the server through the proxy, and its data directly."""

    throwaway = True
    needs_setup = False
    driver = "redis"

    def __init__(self, server: RedisServer, proxy: Proxy) -> None:
        super().__init__(proxy.url(server.url))
        self.server = server
        self.proxy = proxy

    @contextmanager
    def fresh_place(self) -> Iterator[Harness]:
        yield self

    def overwrite(self, namespace: str, key: str, index: int, payload: bytes) -> None:
        name = key.encode()
        bucket = f"chatstores:{{{namespace}:{zlib.crc32(name) & 0xFF:02x}}}".encode()
        with redis.Redis.from_url(self.server.url) as client:
            rows = bucket + b":r:" + name
            ordinal = client.lindex(rows, index).partition(b" ")[0]
            client.lset(rows, index, ordinal + b" " + payload)

    def restart(self) -> None:
        self.server.restart()

    @contextmanager
    def away(self) -> Iterator[None]:
        self.proxy.refuse()
        try:
            yield
        finally:
            self.proxy.refuse(False)

    @contextmanager
    def silent(self) -> Iterator[None]:
        self.proxy.silence()
        try:
            yield
        finally:
            self.proxy.silence(False)

    @contextmanager
    def dropped_replies(self, n: int) -> Iterator[Since]:
        self.proxy.drop_replies(n, matching=b"EVALSHA")
        try:
            yield Since(self.proxy, "dropped")
        finally:
            self.proxy.drop_replies(0)

    @contextmanager
    def received(self) -> Iterator[Since]:
        yield Since(self.proxy, "received")

    def contended(self, namespace: str, key: str) -> None:
        raise NotThere("Redis runs one script after another: no write loses to another")

    def borrowed(self, form: str, **options: object) -> Borrowed:
        if form == "sync":
            client = redis.Redis.from_url(self.url)
            return Borrowed(RedisChatStore(client=client, **options), client.ping, client.close)
        aclient = redis.asyncio.Redis.from_url(self.url)
        store = RedisChatStore(async_client=aclient, **options)
        return Borrowed(store, aclient.ping, aclient.aclose)


@pytest.fixture(scope="module")
def harness() -> Iterator[RedisHarness]:
    with (
        RedisServer(appendfsync="everysec", password=PASSWORD) as server,
        Proxy("127.0.0.1", server.port) as proxy,
    ):
        yield RedisHarness(server, proxy)
