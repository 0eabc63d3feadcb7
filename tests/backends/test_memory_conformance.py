"""The contract on memory://."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import pytest

from chatstores.conformance import Harness, NotThere
from chatstores.conformance.suite import *  # noqa: F403
from chatstores_memory import MemoryChatStore


class MemoryHarness(Harness):
    """A shared name, in this process only."""

    throwaway = True
    needs_setup = False
    driver = ""

    def __init__(self) -> None:
        super().__init__(f"memory://{secrets.token_hex(8)}")

    @contextmanager
    def fresh_place(self) -> Iterator[Harness]:
        yield MemoryHarness()

    def away(self) -> NoReturn:
        raise NotThere("there is no server")

    restart = silent = away

    def dropped_replies(self, n: int) -> NoReturn:
        raise NotThere("there is no wire")

    def received(self) -> NoReturn:
        raise NotThere("there is no wire")

    def contended(self, namespace: str, key: str) -> NoReturn:
        raise NotThere("a write waits for nobody longer than for a copy in memory")

    def borrowed(self, form: str, **options: object) -> NoReturn:
        raise NotThere("there is no client")

    def overwrite(self, namespace: str, key: str, index: int, payload: bytes) -> None:
        store = self.open()
        assert isinstance(store, MemoryChatStore)
        with store._sessions.lock:
            store._sessions.fold.state(namespace, key).payloads[index] = payload


@pytest.fixture(scope="module")
def harness() -> MemoryHarness:
    return MemoryHarness()
