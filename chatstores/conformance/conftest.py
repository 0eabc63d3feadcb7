"""For a run by URL: pytest --pyargs chatstores.conformance --store-url URL."""

from __future__ import annotations

import pytest

from chatstores.conformance.fixtures import *  # noqa: F403
from chatstores.conformance.harness import Harness
from chatstores.errors import ChatStoreError


def pytest_configure(config: pytest.Config) -> None:
    """Load the closing table."""
    config.pluginmanager.import_plugin("chatstores.conformance.report")


def pytest_collection_modifyitems(config: pytest.Config) -> None:
    """Refuse to run on nothing, or on a store that cannot be used."""
    url = config.option.store_url
    if not url:
        raise pytest.UsageError(
            "which store? pytest --pyargs chatstores.conformance --store-url URL"
        )
    try:
        with Harness(url).open() as store:
            store.ping()
    except Exception as exc:  # a backend of one's own may raise anything
        reason = f"{exc}" if isinstance(exc, ChatStoreError) else f"{type(exc).__name__}: {exc}"
        raise pytest.UsageError(f"--store-url: {reason}") from None


@pytest.fixture(scope="session")
def harness(request: pytest.FixtureRequest) -> Harness:
    """The store of --store-url."""
    return Harness(request.config.option.store_url)
