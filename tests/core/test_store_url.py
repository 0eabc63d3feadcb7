"""The suite by URL: what cannot be run on is one clear line and pytest's code for wrong usage."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

THEIRS = """
from chatstores import ChatStore

class Unfinished(ChatStore):
    @classmethod
    def _from_parts(cls, url, options):
        return cls(**options)
"""
POINTS = """[chatstores.backends]
unfinished = theirs:Unfinished
renamed = theirs:Renamed
elsewhere = not_installed:Store
"""
SECRET = "s3cr3t"


def run(folder: Path, *arguments: str) -> tuple[int, str]:
    """What a run of the suite says, where a third party has installed stores that do not work."""
    (folder / "theirs.py").write_text(THEIRS)
    information = folder / "theirs-1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1\n")
    (information / "entry_points.txt").write_text(POINTS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "--pyargs", "chatstores.conformance", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )
    return done.returncode, done.stdout + done.stderr


def test_a_store_that_can_be_used(tmp_path: Path) -> None:
    status, said = run(tmp_path, "--store-url", "memory://x", "-k", "k5")
    assert status == 0, said
    assert "sessions are listed by last write" in said


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "which store? pytest --pyargs chatstores.conformance --store-url URL"),
        (["--store-url="], "which store? "),
        (["--store-url", "chats.json"], "a store's URL begins with a scheme"),
        (["--store-url", "jsn:///x.json"], "(did you mean 'json'?); there are elsewhere://, json"),
        (["--store-url", "memory://x?tll=7d"], "has no option 'tll' (did you mean 'ttl'?)"),
        (["--store-url", f"redis://:{SECRET}@x@localhost"], "must be percent-encoded"),
        (
            ["--store-url", f"redis://:{SECRET}@127.0.0.1:1/0?timeout=0.1"],
            "cannot be reached: connection refused",
        ),
        (["--store-url", "json:///none/x.json"], "there is no directory"),
        (["--store-url", "unfinished://x"], "TypeError: Can't instantiate abstract class"),
        (["--store-url", "renamed://x"], "AttributeError: module 'theirs' has no attribute"),
        (["--store-url", "elsewhere://x"], "No module named 'not_installed'"),
    ],
)
def test_a_store_that_cannot(tmp_path: Path, arguments: list[str], reason: str) -> None:
    status, said = run(tmp_path, *arguments)
    assert status == pytest.ExitCode.USAGE_ERROR
    [line] = [line for line in said.splitlines() if line.startswith("ERROR")]
    assert reason in line
    assert len(said.splitlines()) < 8
    assert SECRET not in said
