"""What the pages must name: every option, every error, every public name."""

from __future__ import annotations

from pathlib import Path

import pytest

import chatstores
from chatstores import errors, open_store
from chatstores.registry import BACKENDS, find_backend

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("scheme", BACKENDS)
def test_every_option_is_explained(scheme: str) -> None:
    page = (DOCS / "urls.md").read_text()
    store = find_backend(scheme)
    for name in [*store._base_options, *store._options]:
        assert f"`{name}`" in page, name


@pytest.mark.parametrize("name", [n for n in errors.__all__ if n != "ChatStoreError"])
def test_every_error_is_explained(name: str) -> None:
    assert f"### {name}\n" in (DOCS / "errors.md").read_text()


def test_every_public_name_is_in_the_reference() -> None:
    page = (DOCS / "reference.md").read_text()
    for name in chatstores.__all__:
        assert f"::: chatstores.{name}\n" in page, name
    for backend in BACKENDS.values():
        assert f"::: {backend.module}.{backend.name}\n" in page


def test_the_kafka_page_has_the_command_that_creates_the_topic() -> None:
    store = open_store("kafka://b1.example.org/chats?partitions=24&replication_factor=3")
    assert store._setup_script() in (DOCS / "kafka.md").read_text()
