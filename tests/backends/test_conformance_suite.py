"""The conformance suite itself: its names, and what it says of a store that refuses or breaks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import FunctionType

import pytest

from chatstores.conformance import CLAUSES
from chatstores.conformance import suite as all_tests

ROOT = Path(__file__).parents[2]
TESTS = {name: test for name, test in vars(all_tests).items() if name.startswith("test_")}

STORE = """
import pytest
from chatstores import errors
from chatstores.conformance import Harness
from chatstores.conformance.suite import *
from chatstores.types import Capabilities
from chatstores_memory import MemoryChatStore

class Store(MemoryChatStore):
    capabilities = Capabilities(refused={refused!r})
{body}

class OwnHarness(Harness):
    name = "own"
    throwaway = True

    def open(self, **options):
        return Store("own", **options)

@pytest.fixture
def harness():
    return OwnHarness("memory://own")
"""

RAISES = """
    async def _delete_last(self, t, key, expected):
        raise errors.UnsupportedError("pops are not supported")
"""
FORGETS = """
    async def _delete_last(self, t, key, expected):
        await super()._delete_last(t, key, expected)
        return None
"""


def marks(test: FunctionType) -> list[pytest.Mark]:
    return [mark for mark in test.pytestmark if mark.name == "clause"]


def run(tmp_path: Path, select: str, refused: dict[str, str], body: str = "") -> tuple[int, str]:
    """What a run of some tests on a store that refuses something says."""
    file = tmp_path / "test_own_conformance.py"
    file.write_text(STORE.format(refused=refused, body=body or "    pass"))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", select, str(file)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'backends'}"},
    )
    return done.returncode, done.stdout


def row(output: str, clause: str) -> str:
    """The word of the table for a clause."""
    [found] = re.findall(rf"^{clause} .*", output, re.MULTILINE)
    return found.split("  ")[-1].strip()


@pytest.mark.parametrize("name", TESTS)
def test_a_test_is_named_after_its_clause(name):
    [mark] = marks(TESTS[name])
    [part] = mark.args
    assert part.partition(".")[0] in CLAUSES
    assert name.startswith(f"test_{part.partition('.')[0].lower()}_")


@pytest.mark.parametrize("clause", CLAUSES)
def test_a_clause_has_a_test(clause):
    assert any(mark.args[0] == clause for test in TESTS.values() for mark in marks(test))


def test_the_suite_has_every_test_module():
    files = {path.stem for path in Path(all_tests.__file__).parent.glob("test_*.py")}
    assert set(all_tests.MODULES) == files


def test_a_clause_that_holds_is_kept(tmp_path):
    status, output = run(tmp_path, "w5_pop", {})
    assert status == 0
    assert row(output, "W5") == "kept in part"  # the other tests of W5 were not run


def test_a_clause_that_does_not_hold_failed(tmp_path):
    status, output = run(tmp_path, "w5_pop", {}, FORGETS)
    assert status == 1
    assert row(output, "W5") == "FAILED"


def test_a_refused_clause_raises_and_is_refused(tmp_path):
    status, output = run(tmp_path, "w5_", {"W5": "there is no way back"}, RAISES)
    assert status == 0
    assert row(output, "W5") == "refused"
    assert "W5 refused: there is no way back" in output


def test_a_refused_clause_that_holds_is_a_failure(tmp_path):
    status, output = run(tmp_path, "w5_", {"W5": "there is no way back"})
    assert status == 1
    assert row(output, "W5") == "FAILED"
    assert "XPASS(strict)" in output


def test_a_refused_clause_that_breaks_otherwise_is_a_failure(tmp_path):
    status, output = run(tmp_path, "w5_pop", {"W5": "there is no way back"}, FORGETS)
    assert status == 1
    assert row(output, "W5") == "FAILED"


def test_an_error_without_a_refusal_is_a_failure(tmp_path):
    status, output = run(tmp_path, "w5_pop", {}, RAISES)
    assert status == 1
    assert row(output, "W5") == "FAILED"


def test_what_a_harness_cannot_do_is_not_tried(tmp_path):
    status, output = run(tmp_path, "u3_", {})
    assert status == 0
    assert row(output, "U3") == "not tried"
    assert "U3 not tried: the harness cannot silence the server" in output


def test_a_run_by_url(tmp_path):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["--pyargs", "chatstores.conformance", "-k", "k5"]
    for url, status, text in [
        ("memory://x", 0, "sessions are listed by last write"),
        (None, 4, "which store? pytest --pyargs chatstores.conformance --store-url URL"),
    ]:
        done = subprocess.run(
            [*command, "--store-url", url] if url else command,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == status, done.stdout + done.stderr
        assert text in done.stdout + done.stderr
