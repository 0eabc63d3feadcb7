"""docs/adding-a-backend.md, word for word: its files, its installation, its suite's table."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from chatstores.conformance import CLAUSES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "adding-a-backend.md").read_text()
FILE = re.compile(r"^```(?:python|toml)\n# (\S+?)(?:, continued)?\n(.*?)^```$", re.M | re.S)
CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.M | re.S)
HOME = "/home/ann/mystore"
#: What the suite by URL cannot try here; the harness makes up for all of it.
NOT_TRIED = {"M4", "U3"}


def command(begin: str, *, end: str = "") -> str:
    """The page's command that begins, and ends, so."""
    commands = re.findall(r"^\$ (.*)$", "".join(CONSOLE.findall(PAGE)), re.M)
    [found] = [line for line in commands if line.startswith(begin) and line.endswith(end)]
    return str(found)


class Reader:
    """Somebody with a new environment and a folder, who does what the page says.

    The environment has the packages of this one by their folders, so that nothing is downloaded.
    """

    def __init__(self, place: Path) -> None:
        self.folder = place / "mystore"
        self.folder.mkdir()
        for name in dict.fromkeys(match[1] for match in FILE.finditer(PAGE)):
            parts = [match[2] for match in FILE.finditer(PAGE) if match[1] == name]
            (self.folder / name).write_text("".join(parts))
        environment = place / "venv"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
        self.python = environment / "bin" / "python"
        [packages] = environment.glob("lib/*/site-packages")
        here = [Path(pytest.__file__).parents[1], ROOT, ROOT / "backends"]
        (packages / "of_the_tests.pth").write_text("\n".join(map(str, here)))

    def start(self, line: str) -> subprocess.Popen[str]:
        """Begin one of the page's commands."""
        program, *rest = shlex.split(line)
        if program == "pip":
            offline = ["--no-index", "--no-deps", "--no-build-isolation"]
            words = [sys.executable, "-m", "pip", "--python", self.python, *rest, *offline]
        elif program == "pytest":
            words = [self.python, "-m", "pytest", *rest]
        else:
            words = [self.python, *rest]
        return subprocess.Popen(
            words,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={name: v for name, v in os.environ.items() if not name.startswith("PY")},
        )

    def run(self, line: str) -> str:
        """What a command prints; it must succeed."""
        return ended(self.start(line))


def ended(process: subprocess.Popen[str]) -> str:
    """What a command printed; it must have succeeded."""
    told, _ = process.communicate()
    assert process.returncode == 0, told[-5000:]
    return told


def table(told: str) -> dict[str, str]:
    """What the suite's table says of each clause."""
    return {
        clause: re.split(r" {2,}", line.strip())[-1]
        for clause in CLAUSES
        for line in re.findall(rf"^{clause} .*", told, re.M)
    }


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    reader = Reader(tmp_path_factory.mktemp("reader").resolve())
    reader.run(command("pip install"))
    return reader


def test_the_first_program(reader: Reader) -> None:
    line = command("python first.py")
    told = reader.run(line).replace(str(reader.folder), HOME)
    assert f"$ {line}\n{told}```" in PAGE


def test_the_suite_in_parts(reader: Reader) -> None:
    by_url, by_harness = [
        reader.start(command("pytest --pyargs", end='-k "not async"')),
        reader.start(command("pytest test_mystore.py -k")),
    ]
    found = table(ended(by_url))
    assert found.keys() == CLAUSES.keys()
    assert {clause for clause, word in found.items() if word == "not tried"} == NOT_TRIED
    assert set(found.values()) <= {"kept", "kept in part", "not tried"}
    found = table(ended(by_harness))
    assert found.keys() >= {"K2", "M4", "W0", "W10", "U3", "L3", "R1", "R5", "S2"}
    assert {found[clause] for clause in ["M4", "U3", "W10"]} == {"kept"}


@pytest.mark.long
def test_the_whole_suite(reader: Reader) -> None:
    found = table(reader.run(command("pytest --pyargs", end='sync=false"')))
    assert set(found.values()) <= {"kept", "kept in part", "not tried"}
    assert {clause for clause, word in found.items() if word == "not tried"} == NOT_TRIED
    found = table(reader.run(command("pytest test_mystore.py", end=".py")))
    assert found == dict.fromkeys(CLAUSES, "kept")
