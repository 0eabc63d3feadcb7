"""For a run by URL: pytest --pyargs chatstores.conformance --store-url URL."""

from __future__ import annotations

import pytest

from chatstores.conformance.fixtures import *  # noqa: F403
from chatstores.conformance.harness import Harness


def pytest_configure(config: pytest.Config) -> None:
    """Load the closing table."""
    config.pluginmanager.import_plugin("chatstores.conformance.report")


def pytest_collection_modifyitems(config: pytest.Config) -> None:
    """Refuse to run on nothing."""
    if not config.option.store_url:
        pytest.exit("which store? pytest --pyargs chatstores.conformance --store-url URL", 4)


@pytest.fixture(scope="session")
def harness(request: pytest.FixtureRequest) -> Harness:
    """The store of --store-url."""
    return Harness(request.config.option.store_url)
