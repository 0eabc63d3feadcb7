"""The contract on redis://, through a proxy before a server of our own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
import redis.asyncio

from chatstores.conformance.suite import *  # noqa: F403
from tests.backends.redis_harness import RedisHarness
from tests.run import PASSWORD
from tests.servers.proxy import Proxy
from tests.servers.redis import RedisServer


@pytest.fixture(scope="module")
def harness() -> Iterator[RedisHarness]:
    with (
        RedisServer(appendfsync="everysec", password=PASSWORD) as server,
        Proxy("127.0.0.1", server.port) as proxy,
    ):
        url = proxy.url(server.url)
        yield RedisHarness(
            url,
            [proxy],
            direct=lambda bucket: server.client(),
            restart=server.restart,
            clients=(
                lambda: redis.Redis.from_url(url),
                lambda: redis.asyncio.Redis.from_url(url),
            ),
        )
