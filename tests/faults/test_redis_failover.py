"""The Redis store when a primary is killed under load and a replica takes over."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import pytest

from chatstores import open_store
from tests.backends.redis_harness import bucket
from tests.faults.ledger import Load
from tests.servers.redis_sets import Member, RedisCluster, RedisSentinel

#: How often in the short and in the long campaign.
TIMES = [1, pytest.param(5, marks=pytest.mark.long)]
#: Seconds: a failover is over, and the killed server back as a replica, in some ten.
TIMEOUT = 60.0


@pytest.fixture(scope="module", params=["cluster", "sentinel"])
def servers(request: pytest.FixtureRequest) -> Iterator[RedisCluster | RedisSentinel]:
    with {"cluster": RedisCluster, "sentinel": RedisSentinel}[request.param]() as servers:
        yield servers


def primary_of(servers: RedisCluster | RedisSentinel, namespace: str, key: str) -> Member:
    if isinstance(servers, RedisCluster):
        return servers.primary(bucket(namespace, key))
    return servers.primary


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("wait", [0, 1])
def test_primaries_killed_under_load(
    servers: RedisCluster | RedisSentinel,
    capsys: pytest.CaptureFixture[str],
    wait: int,
    times: int,
) -> None:
    chance = random.Random(4)
    namespace = f"failover{wait}{times}"
    hits = 0
    took = []
    store = open_store(f"{servers.url}?wait={wait}", namespace=namespace, timeout=TIMEOUT)
    with store, Load(store) as load:
        keys = list(load.ledgers)
        for number in range(times):
            time.sleep(chance.uniform(0.3, 0.6))
            primary = primary_of(servers, namespace, keys[number % len(keys)])
            hits += load.in_flight > 0
            took.append(servers.fail(primary))
            before = load.calls
            while load.calls < before + 50:  # it goes on by itself
                time.sleep(0.01)
    with open_store(servers.url, namespace=namespace) as load.store:
        lost, came_back = load.count_losses()
        if wait:
            load.check()
    with capsys.disabled():
        print(
            f"\n{store.url.partition(':')[0]}, wait={wait}: {times} primaries killed under "
            f"{load.calls} calls, {hits} of them with calls in flight; a replica took over after "
            f"{min(took):.1f} to {max(took):.1f} s; lost: {lost} messages, {came_back} pops; "
            f"outcomes unknown: {load.unknown}, given up: {load.unavailable}"
        )
    assert hits >= times * 3 // 4
    assert load.unknown == 0
    assert load.unavailable == 0
