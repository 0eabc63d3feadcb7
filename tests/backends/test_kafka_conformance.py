"""The contract on kafka://, through a proxy before a broker of our own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from chatstores.conformance.suite import *  # noqa: F403
from tests.backends.kafka_harness import KafkaHarness
from tests.run import PASSWORD
from tests.servers.kafka import KafkaServer
from tests.servers.proxy import Proxy


@pytest.fixture(scope="module")
def harness() -> Iterator[KafkaHarness]:
    server = KafkaServer(security="sasl", password=PASSWORD)
    with Proxy("127.0.0.1", server.port) as proxy:
        server.advertised = proxy.port
        with server:
            harness = KafkaHarness(server, proxy)
            with harness.open() as store:  # so that the stores of all tests share one view
                store.ping()
                yield harness
