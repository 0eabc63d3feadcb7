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
from tests.backends.local_harness import LocalHarness


class MemoryHarness(LocalHarness):
    """A shared name, in this process only."""

    needs_setup = False
    driver = ""

    def __init__(self) -> None:
        super().__init__(f"memory://{secrets.token_hex(8)}")

    @contextmanager
    def fresh_place(self) -> Iterator[Harness]:
        yield MemoryHarness()

    def contended(self, namespace: str, key: str) -> NoReturn:
        raise NotThere("a write waits for nobody longer than for a copy in memory")

    def overwrite(self, namespace: str, key: str, index: int, payload: bytes) -> None:
        store = self.open()
        assert isinstance(store, MemoryChatStore)
        with store._sessions.lock:
            store._sessions.fold.state(namespace, key).payloads[index] = payload


@pytest.fixture(scope="module")
def harness() -> MemoryHarness:
    return MemoryHarness()
