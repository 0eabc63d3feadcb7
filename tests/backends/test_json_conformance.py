"""The contract on json:///."""

from __future__ import annotations

import fcntl
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from chatstores.conformance import Harness, NotThere
from chatstores.conformance.suite import *  # noqa: F403


class JsonHarness(Harness):
    """A file in a directory of the tests."""

    throwaway = True
    driver = ""

    def __init__(self, directory: Path) -> None:
        self.path = directory / f"{secrets.token_hex(8)}.json"
        super().__init__(f"json:///{self.path}")

    def away(self) -> NoReturn:
        raise NotThere("there is no server")

    restart = silent = away

    def dropped_replies(self, n: int) -> NoReturn:
        raise NotThere("there is no wire")

    def received(self) -> NoReturn:
        raise NotThere("there is no wire")

    def borrowed(self, form: str, **options: object) -> NoReturn:
        raise NotThere("there is no client")

    @contextmanager
    def contended(self, namespace: str, key: str) -> Iterator[None]:
        with Path(f"{self.path}.lock").open("rb+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def fresh_place(self) -> Iterator[Harness]:
        yield JsonHarness(self.path.parent)


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> JsonHarness:
    return JsonHarness(tmp_path_factory.mktemp("json"))
