"""The SQLite store when its writers are killed, and when many processes write at once."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from chatstores import open_store
from tests.faults.killing import kill_writers
from tests.faults.mixing import mix


def test_killed_writers_lose_nothing_acknowledged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path}/chats.db"
    with open_store(url) as store:
        store.setup()
        in_flight = kill_writers(store, url, times=50)
    with capsys.disabled():
        print(f"\nsqlite: 50 writers killed, {in_flight} of them within a write")
    assert in_flight >= 17
    with closing(sqlite3.connect(tmp_path / "chats.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.parametrize("adds", [40, pytest.param(100, marks=pytest.mark.long)])
def test_processes_that_add_pop_delete_set_and_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], adds: int
) -> None:
    opener = partial(open_store, f"sqlite:///{tmp_path}/chats.db")
    with opener() as store:
        said = mix(store, opener, adds)
    with capsys.disabled():
        print(f"\nsqlite: {said}")
