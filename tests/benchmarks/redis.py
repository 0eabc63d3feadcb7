"""redis://: RPUSH and LRANGE on a plain list."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.utils import HIREDIS_AVAILABLE

from tests.benchmarks.backend import HISTORIES, Backend, Plan, Raw
from tests.benchmarks.case import Form
from tests.servers.redis import redis_server

__all__ = ["BACKEND"]

_RUN = f"bench-{secrets.token_hex(4)}"


class _Calls:
    """A list of its own; it is filled over a second connection, which is never timed."""

    def __init__(self, client: Any, url: str, name: str) -> None:
        self._client = client
        self._list = f"{_RUN}-{name}"
        self._other = Redis.from_url(url)

    def fill(self, payloads: Sequence[bytes]) -> None:
        """Have the list hold these."""
        self._other.delete(self._list)
        self._other.rpush(self._list, *payloads)

    def add(self, payload: bytes) -> Any:
        """RPUSH."""
        return self._client.rpush(self._list, payload)

    def last(self) -> Any:
        """LRANGE of the newest 20."""
        return self._client.lrange(self._list, -20, -1)

    def remove(self) -> None:
        """Delete the list."""
        self._other.delete(self._list)
        self._other.close()


class _SyncCalls(_Calls):
    def __init__(self, url: str, name: str) -> None:
        super().__init__(Redis.from_url(url, single_connection_client=True), url, name)

    def all(self) -> Any:
        """LRANGE of every one, each parsed."""
        return [json.loads(item) for item in self._client.lrange(self._list, 0, -1)]

    def close(self) -> None:
        """Delete the list and close the connection."""
        self.remove()
        self._client.close()


class _AsyncCalls(_Calls):
    def __init__(self, url: str, name: str) -> None:
        super().__init__(AsyncRedis.from_url(url, single_connection_client=True), url, name)

    async def all(self) -> Any:
        """LRANGE of every one, each parsed."""
        return [json.loads(item) for item in await self._client.lrange(self._list, 0, -1)]

    async def close(self) -> None:
        """Delete the list and close the connection."""
        self.remove()
        await self._client.aclose()


def _plans(form: Form) -> list[Plan]:
    return [
        Plan("add", form, HISTORIES, 10, ceiling=1.45, baseline="RPUSH"),
        Plan("last", form, (10_000,), 5, ceiling=1.35, baseline="LRANGE -20 -1"),
        Plan("all", form, (10_000,), 10, ceiling=3, baseline="LRANGE 0 -1, json.loads of each"),
    ]


class RedisBackend(Backend):
    """The Redis store."""

    name = "redis"
    plans = (*_plans("sync"), *_plans("async"))

    @contextmanager
    def place(self) -> Iterator[str]:
        """A server."""
        with redis_server() as server:
            yield server.url

    def url(self, place: str, name: str) -> str:
        """The server, and a namespace of this run's own."""
        return f"{place}?namespace={_RUN}"

    def raw(self, place: str, plan: Plan, name: str) -> Raw:
        """redis-py's own calls."""
        return (_SyncCalls if plan.form == "sync" else _AsyncCalls)(place, name)

    def facts(self, place: str) -> dict[str, str]:
        """The versions."""
        with Redis.from_url(place) as client:
            info: Any = client.info("server")
        parser = f"hiredis {version('hiredis')}" if HIREDIS_AVAILABLE else "without hiredis"
        return {
            "redis-server": str(info["redis_version"]),
            "redis-py": f"{version('redis')}, {parser}",
        }


BACKEND = RedisBackend()
