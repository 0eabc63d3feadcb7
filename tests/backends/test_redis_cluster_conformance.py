"""The contract on redis+cluster://: three primaries with a replica each, all behind proxies."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
import redis.asyncio

from chatstores.conformance.suite import *  # noqa: F403
from tests.backends.redis_harness import RedisHarness
from tests.run import PASSWORD
from tests.servers.redis_sets import RedisCluster

#: Four minutes; test_redis_deployments.py tries in `make test` what is a Cluster's own.
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def harness() -> Iterator[RedisHarness]:
    with RedisCluster(password=PASSWORD) as cluster:
        port = cluster.members[0].proxy.port
        yield RedisHarness(
            cluster.url,
            [member.proxy for member in cluster.members],
            direct=lambda bucket: cluster.primary(bucket).client(),
            restart=cluster.restart,
            clients=(
                lambda: redis.RedisCluster("127.0.0.1", port, password=PASSWORD),
                lambda: redis.asyncio.RedisCluster("127.0.0.1", port, password=PASSWORD),
            ),
        )
