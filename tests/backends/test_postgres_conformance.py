"""The contract on postgresql://, through a proxy before a server of our own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from chatstores.conformance.suite import *  # noqa: F403
from tests.backends.postgres_harness import PostgresHarness
from tests.run import PASSWORD
from tests.servers.postgres import PostgresServer
from tests.servers.proxy import Proxy


@pytest.fixture(scope="module")
def harness() -> Iterator[PostgresHarness]:
    with (
        PostgresServer(password=PASSWORD) as server,
        Proxy("127.0.0.1", server.port) as proxy,
    ):
        yield PostgresHarness(server, proxy)
