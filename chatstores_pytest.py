"""The pytest options and marker of the conformance suite; loaded by every pytest run, so thin."""

from __future__ import annotations

from typing import Any

import pytest

pytest.register_assert_rewrite("chatstores.conformance")


def pytest_addoption(parser: Any) -> None:
    """Add ``--store-url`` and ``--contract-table``."""
    group = parser.getgroup("chatstores")
    group.addoption(
        "--store-url",
        metavar="URL",
        help="run the chat-store contract on the store of this URL: "
        "pytest --pyargs chatstores.conformance --store-url URL",
    )
    group.addoption(
        "--contract-table",
        metavar="FILE",
        help="write the closing table of the chat-store contract to this file, as Markdown",
    )


def pytest_configure(config: Any) -> None:
    """Name the marker that ties a test to a clause of the contract."""
    config.addinivalue_line(
        "markers",
        "clause(name, decided=True): the clause of the contract that the test proves; "
        "decided=False: a race, a fault or a restart, which proves nothing when it goes well",
    )
