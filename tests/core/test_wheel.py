"""The wheel, as a user gets it: what it holds, and that it works without this checkout."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydantic
import pytest

from chatstores import registry
from chatstores.conformance import suite

ROOT = Path(__file__).parents[2]
BACKENDS = sorted(path for path in (ROOT / "backends").iterdir() if path.name.isidentifier())
PACKAGES = [ROOT / "chatstores", *BACKENDS]


def run(*command: object, status: int = 0, **options: Any) -> str:
    """What a command prints; its errors are the test's."""
    result = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, **options
    )
    assert result.returncode == status, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    offline = ("--no-deps", "--no-index", "--no-build-isolation")
    run(sys.executable, "-m", "pip", "wheel", ROOT, *offline, "--quiet", "-w", folder)
    [wheel] = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def archive(wheel: Path) -> Iterator[zipfile.ZipFile]:
    with zipfile.ZipFile(wheel) as archive:
        yield archive


def information(archive: zipfile.ZipFile, name: str) -> str:
    """A file of the wheel's .dist-info."""
    [found] = [path for path in archive.namelist() if path.endswith(f".dist-info/{name}")]
    return archive.read(found).decode()


def files(package: Path) -> Iterator[str]:
    """A package's files but the compiled, as the wheel names them."""
    for path in package.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            yield str(path.relative_to(package.parent))


def test_it_holds_every_file_of_every_package_and_nothing_else(archive: zipfile.ZipFile) -> None:
    held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == {name for package in PACKAGES for name in files(package)} | {
        "chatstores_pytest.py"
    }


def test_it_holds_what_is_easily_forgotten(archive: zipfile.ZipFile) -> None:
    held = archive.namelist()
    for package in PACKAGES:
        assert f"{package.name}/py.typed" in held
    for name in ["__init__", "conftest", "harness", "report", "suite", *suite.MODULES]:
        assert f"chatstores/conformance/{name}.py" in held
    assert any(re.fullmatch(r"chatstores_redis/scripts/\w+\.lua", name) for name in held)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in held)
    assert not [name for name in held if name.startswith(("tests", "docs"))]


def test_it_holds_the_class_of_every_scheme(archive: zipfile.ZipFile) -> None:
    held = archive.namelist()
    for backend in registry.BACKENDS.values():
        assert f"{backend.module}/__init__.py" in held


def test_it_says_what_it_needs(archive: zipfile.ZipFile) -> None:
    metadata = information(archive, "METADATA")
    required = re.findall(r"^Requires-Dist: (.*)$", metadata, re.MULTILINE)
    assert [need for need in required if "extra ==" not in need] == ["pydantic<3,>=2.11"]


def test_it_names_the_command_and_the_pytest_plugin(archive: zipfile.ZipFile) -> None:
    points = configparser.ConfigParser()
    points.read_string(information(archive, "entry_points.txt"))
    assert {name: dict(points[name]) for name in points.sections()} == {
        "console_scripts": {"chatstores": "chatstores.cli:main"},
        "pytest11": {"chatstores": "chatstores_pytest"},
    }


# In a new environment


class Environment:
    """A virtual environment with the wheel, and the other packages as they are here."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        run(sys.executable, "-m", "venv", "--without-pip", folder)
        self.python = folder / "bin" / "python"
        [self.packages] = folder.glob("lib/*/site-packages")
        offline = ("--no-deps", "--no-index", "--quiet")
        run(sys.executable, "-m", "pip", "--python", self.python, "install", *offline, wheel)
        # By their folder alone, so that no editable install comes with them.
        (self.packages / "of_the_tests.pth").write_text(str(Path(pydantic.__file__).parents[1]))

    def run(self, *arguments: object, cwd: Path, status: int = 0) -> str:
        """What its Python prints."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PY")}
        return run(self.python, *arguments, cwd=cwd, env=clean, status=status)


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("environment") / "venv", wheel)


SESSION = """
import chatstores, pathlib, sys
from chatstores import ChatMessage, open_store
assert pathlib.Path(chatstores.__file__).is_relative_to(sys.argv[1]), chatstores.__file__
with open_store("memory://") as store:
    store.add_message("k", ChatMessage("hi"))
    assert [m.text for m in store.get_messages("k")] == ["hi"]
with open_store("json:///" + sys.argv[2]) as store:
    store.add_message("k", ChatMessage("hi"))
with open_store("json:///" + sys.argv[2]) as store:
    print(store.get_messages("k")[0].text)
"""


def test_it_opens_a_store(environment: Environment, tmp_path: Path) -> None:
    chats = tmp_path / "chats.json"
    told = environment.run("-W", "error", "-c", SESSION, environment.packages, chats, cwd=tmp_path)
    assert told == "hi\n"


THEIRS = """
from chatstores_memory import MemoryChatStore

class TheirChatStore(MemoryChatStore):
    pass
"""


def test_its_suite_runs_on_a_third_partys_store(environment: Environment, tmp_path: Path) -> None:
    (environment.packages / "theirs.py").write_text(THEIRS)
    theirs = environment.packages / "theirs-1.dist-info"
    theirs.mkdir()
    (theirs / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1\n")
    points = "[chatstores.backends]\ntheirs = theirs:TheirChatStore\n"
    (theirs / "entry_points.txt").write_text(points)
    suite = ("-m", "pytest", "--pyargs", "chatstores.conformance")
    told = environment.run(*suite, "--store-url", "theirs://x", "-k", "k5 or w5", cwd=tmp_path)
    assert re.search(r"^K5 .* kept$", told, re.MULTILINE)
    assert re.search(r"^theirs: \d\d tests$", told, re.MULTILINE)
    assert "FAILED" not in told
