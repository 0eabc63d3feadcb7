"""The folders, pyproject.toml, the registry and the wheel agree."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydantic
import pytest

from chatstores import registry

ROOT = Path(__file__).parents[2]
BACKENDS = sorted(path for path in (ROOT / "backends").iterdir() if path.name.isidentifier())
PACKAGES = [ROOT / "chatstores", *BACKENDS]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
WHEEL: dict[str, Any] = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]


def sources(package: Path) -> Iterator[Path]:
    """Its files but the compiled."""
    for path in sorted(package.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path


MODULES = [path for package in PACKAGES for path in sources(package) if path.suffix == ".py"]
MODULES.append(ROOT / "chatstores_pytest.py")


def test_the_wheel_lists_every_package() -> None:
    assert WHEEL["packages"] == [str(path.relative_to(ROOT)) for path in PACKAGES]


def test_every_backend_has_an_extra_and_all_takes_every_driver() -> None:
    names = [path.name.removeprefix("chatstores_") for path in BACKENDS]
    assert set(names) <= set(EXTRAS)
    match = re.fullmatch(r"chatstores\[(.*)\]", *EXTRAS["all"])
    assert match
    with_driver = {name for name in names if EXTRAS[name]}
    assert with_driver <= set(match[1].split(","))
    assert set(match[1].split(",")) <= set(EXTRAS)


def test_the_registry_names_every_backend_and_no_other() -> None:
    modules = {backend.module for backend in registry.BACKENDS.values()}
    assert modules == {path.name for path in BACKENDS}


def test_the_registry_is_sorted() -> None:
    assert list(registry.BACKENDS) == sorted(registry.BACKENDS)


@pytest.mark.parametrize("scheme", registry.BACKENDS)
def test_every_scheme_has_its_class(scheme: str) -> None:
    store = registry.find_backend(scheme)
    backend = registry.BACKENDS[scheme]
    assert (store.__name__, store.__module__.partition(".")[0]) == (backend.name, backend.module)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_every_package_is_typed(package: Path) -> None:
    assert (package / "py.typed").is_file()
    assert (package / "__init__.py").is_file()


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_says_in_its_first_line_what_it_is(module: Path) -> None:
    text = module.read_text()
    assert text.startswith('"""')
    assert len((ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]) > 10


@pytest.mark.parametrize("package", BACKENDS, ids=lambda path: path.name)
def test_no_backend_imports_another(package: Path) -> None:
    others = {path.name for path in BACKENDS} - {package.name}
    for module in sources(package):
        if module.suffix == ".py":
            assert not imported(module) & others, module


def test_the_core_imports_no_backend_and_no_driver() -> None:
    allowed = {"chatstores", "pydantic", "pydantic_core", *sys.stdlib_module_names}
    for module in (ROOT / "chatstores").glob("*.py"):
        assert imported(module, top_level=True) <= allowed, module


def imported(module: Path, *, top_level: bool = False) -> set[str]:
    """The packages that a module imports; at its top level, or anywhere."""
    tree = ast.parse(module.read_text())
    found = set()
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


# The wheel, as a user gets it.


def run(*command: object, **options: Any) -> str:
    """What a command prints; its errors are the test's."""
    result = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, **options
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", ROOT, "--no-deps", "--quiet", "-w", folder)
    [wheel] = folder.glob("*.whl")
    return wheel


def test_the_wheel_holds_every_file_of_every_package(wheel: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    wanted = {
        str(path.relative_to(package.parent)) for package in PACKAGES for path in sources(package)
    }
    assert held == wanted | {"chatstores_pytest.py"}
    for package in PACKAGES:
        assert f"{package.name}/py.typed" in held
    assert any(re.fullmatch(r"chatstores_redis/scripts/\w+\.lua", name) for name in held)


def test_the_wheel_says_what_it_needs(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    metadata = archive.read(name).decode()
    required = re.findall(r"^Requires-Dist: (.*)$", metadata, re.MULTILINE)
    assert [need for need in required if "extra ==" not in need] == ["pydantic<3,>=2.11"]
    [name] = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
    assert b"[pytest11]\nchatstores = chatstores_pytest" in archive.read(name)
    assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())


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


def test_the_wheel_opens_a_store_in_a_new_environment(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", environment)
    python = environment / "bin" / "python"
    packages = Path(
        run(python, "-c", "import sysconfig as s; print(s.get_path('purelib'))").strip()
    )
    pip = ("-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--target", packages)
    run(sys.executable, *pip, wheel)
    # pydantic as it is here; by its folder alone, so that no editable install comes with it.
    (packages / "pydantic_of_the_tests.pth").write_text(str(Path(pydantic.__file__).parents[1]))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    chats = tmp_path / "chats.json"
    told = run(
        python, "-W", "error", "-c", SESSION, packages, chats, cwd=tmp_path, env=clean, timeout=60
    )
    assert told == "hi\n"
