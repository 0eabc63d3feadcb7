"""Stores for the command line's tests, and the command line itself."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from chatstores import open_store
from chatstores.cli.commands import run
from tests.servers.redis import redis_server


class Told(NamedTuple):
    """What a command said."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    for name in ("CHATSTORES_URL", "CHATSTORES_PASSWORD", "CHATSTORES_SOURCE_PASSWORD"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def cli(capsys) -> Callable[..., Told]:
    """Run a command in this process."""

    def call(*arguments: object) -> Told:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        return Told(code, *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    with redis_server() as server:
        yield server.url


@pytest.fixture(params=["json", "redis"])
def url(request, tmp_path) -> str:
    """A store that is empty."""
    if request.param == "json":
        return f"json:///{tmp_path}/chats.json"
    return f"{request.getfixturevalue('redis_url')}?namespace=cli-{secrets.token_hex(6)}"


@pytest.fixture
def store(url):
    with open_store(url) as store:
        yield store
