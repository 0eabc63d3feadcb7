"""The JSON store when its writers are killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatstores import open_store
from tests.faults.killing import kill_writers


def test_killed_writers_lose_nothing_acknowledged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"json:///{tmp_path}/chats.json"
    with open_store(url) as store:
        in_flight = kill_writers(store, url, times=50)
    with capsys.disabled():
        print(f"\njson: 50 writers killed, {in_flight} of them within a write")
    assert in_flight >= 17
