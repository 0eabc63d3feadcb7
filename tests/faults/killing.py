"""Kill a writing process again and again, and hold the store against what it acknowledged."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from chatstores import ChatStore
from tests.faults.writer import BATCH

ROOT = Path(__file__).parents[2]


def kill_writers(store: ChatStore, url: str, times: int, key: str = "k") -> int:
    """Kill a writer at random moments, so many times.

    Returns:
        How many were killed between the start and the end of a write.
    """
    chance = random.Random(7)
    acknowledged: list[str] = []
    in_flight = 0
    writers = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.writer", url, store.namespace, key],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'backends'}"},
    )
    with writers:
        for run in range(times):
            said = _kill_one(writers, f"run{run}", chance.uniform(0.0, 0.15))
            begun = [int(line[2:]) for line in said if line.startswith("?")]
            done = [int(line[2:]) for line in said if line.startswith("!")]
            in_flight += len(begun) > len(done)
            acknowledged += [
                f"run{run}.{number}.{part}" for number in done for part in range(BATCH)
            ]
    _check([message.id for message in store.get_messages(key)], acknowledged)
    assert all(message.text == "x" * 2000 for message in store.get_messages(key))
    return in_flight


def _kill_one(writers: subprocess.Popen[str], name: str, after: float) -> list[str]:
    """What a writer said until it was killed, so many seconds after it began its first batch."""
    assert writers.stdin is not None
    assert writers.stdout is not None
    writers.stdin.write(f"{name}\n")
    writers.stdin.flush()
    writer = int(writers.stdout.readline())
    first = writers.stdout.readline()
    assert first == "? 0\n", "a writer did not begin"
    time.sleep(after)
    os.kill(writer, signal.SIGKILL)
    said = [first]
    for line in writers.stdout:
        if line == ".\n":
            return said
        said.append(line)
    raise AssertionError("the parent of the writers ended")


def _check(there: list[str], acknowledged: list[str]) -> None:
    assert max(Counter(there).values(), default=1) == 1, "there twice"
    assert not set(acknowledged) - set(there), "acknowledged and missing"
    assert len(there) % BATCH == 0
    for at in range(0, len(there), BATCH):
        batch = [name.rsplit(".", 1) for name in there[at : at + BATCH]]
        assert [part for _, part in batch] == [str(part) for part in range(BATCH)], "half a batch"
        assert len({name for name, _ in batch}) == 1, "another's message within a batch"
