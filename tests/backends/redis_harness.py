"""The harness of the Redis store: servers of our own, each behind a proxy."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import redis

from chatstores.conformance import Borrowed, Harness, NotThere
from chatstores_redis import RedisChatStore
from tests.backends.proxied_harness import ProxiedHarness
from tests.servers.proxy import Proxy

__all__ = ["RedisHarness", "bucket"]


def bucket(namespace: str, key: str) -> bytes:
    """The bucket of a session, as README's ``prefix`` has it by default."""
    return f"chatstores:{{{namespace}:{zlib.crc32(key.encode()) & 0xFF:02x}}}".encode()


class RedisHarness(ProxiedHarness):
    """Reaches the servers through the proxies, and their data directly.

    Args:
        url: the store's, through the proxies.
        proxies: all of them.
        direct: a client of the server that has a bucket.
        restart: restarts the servers with what they had.
        clients: makes a client of the caller's own, sync and async.
    """

    needs_setup = False
    driver = "redis"
    writes = (b"EVALSHA",)

    def __init__(
        self,
        url: str,
        proxies: Sequence[Proxy],
        *,
        direct: Callable[[bytes], redis.Redis],
        restart: Callable[[], None],
        clients: tuple[Callable[[], Any], Callable[[], Any]],
    ) -> None:
        super().__init__(url, proxies)
        self._direct = direct
        self._restart = restart
        self._clients = clients

    @contextmanager
    def fresh_place(self) -> Iterator[Harness]:
        yield self

    def overwrite(self, namespace: str, key: str, index: int, payload: bytes) -> None:
        where = bucket(namespace, key)
        with self._direct(where) as client:
            rows = where + b":r:" + key.encode()
            ordinal = client.lindex(rows, index).partition(b" ")[0]
            client.lset(rows, index, ordinal + b" " + payload)

    def restart(self) -> None:
        self._restart()

    def contended(self, namespace: str, key: str) -> None:
        raise NotThere("Redis runs one script after another: no write loses to another")

    def borrowed(self, form: str, **options: object) -> Borrowed:
        sync_client, async_client = self._clients
        if form == "sync":
            client = sync_client()
            return Borrowed(RedisChatStore(client=client, **options), client.ping, client.close)
        aclient = async_client()
        store = RedisChatStore(async_client=aclient, **options)
        return Borrowed(store, aclient.ping, aclient.aclose)
