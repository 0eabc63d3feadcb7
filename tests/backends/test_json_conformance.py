"""The contract on json:///."""

from __future__ import annotations

import fcntl
import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chatstores.conformance import Harness
from chatstores.conformance.suite import *  # noqa: F403
from tests.backends.local_harness import LocalHarness


class JsonHarness(LocalHarness):
    """A file in a directory of the tests."""

    driver = ""

    def __init__(self, directory: Path) -> None:
        self.path = directory / f"{secrets.token_hex(8)}.json"
        super().__init__(f"json:///{self.path}")

    def overwrite(self, namespace: str, key: str, index: int, payload: bytes) -> None:
        with self.open() as store:
            store.purge_expired()  # folds the journal into the file
        whole = json.loads(self.path.read_bytes())
        [session] = [
            entry
            for entry in whole["sessions"]
            if (entry["namespace"], entry["key"]) == (namespace, key)
        ]
        try:
            session["messages"][index][1] = json.loads(payload)
        except ValueError:  # as the store itself keeps what it found damaged
            session["messages"][index][1] = "\0" + payload.decode("latin-1")
        self.path.write_text(json.dumps(whole))

    @contextmanager
    def contended(self, namespace: str, key: str) -> Iterator[None]:
        with Path(f"{self.path}.lock").open("rb+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def fresh_place(self) -> Iterator[Harness]:
        yield JsonHarness(self.path.parent)


@pytest.fixture
def harness(tmp_path_factory: pytest.TempPathFactory) -> JsonHarness:
    # A file of its own for each test: a store reads the whole file when it opens.
    return JsonHarness(tmp_path_factory.mktemp("json"))
