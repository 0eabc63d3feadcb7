"""What of the contract a retention touches, on kafka:// with one; the rest is as without."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from chatstores.conformance.fixtures import *  # noqa: F403
from chatstores.conformance.test_lifetime import *  # noqa: F403
from chatstores.conformance.test_reading import *  # noqa: F403
from chatstores.conformance.test_removing import *  # noqa: F403
from chatstores.conformance.test_writing import *  # noqa: F403
from tests.backends.kafka_harness import KafkaHarness
from tests.run import PASSWORD
from tests.servers.kafka import KafkaServer
from tests.servers.proxy import Proxy

pytest_plugins = ["chatstores.conformance.report"]


@pytest.fixture(scope="module")
def harness() -> Iterator[KafkaHarness]:
    server = KafkaServer(security="sasl", password=PASSWORD)
    with Proxy("127.0.0.1", server.port) as proxy:
        server.advertised = proxy.port
        with server:
            harness = KafkaHarness(server, proxy, retention="30d")
            with harness.open() as store:  # so that the stores of all tests share one view
                store.ping()
                yield harness
