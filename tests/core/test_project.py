"""The folders, pyproject.toml and the registry agree."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chatstores import registry

ROOT = Path(__file__).parents[2]
BACKENDS = sorted(path for path in (ROOT / "backends").iterdir() if path.name.isidentifier())
PACKAGES = [ROOT / "chatstores", *BACKENDS]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
WHEEL: dict[str, Any] = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
#: The extras of a backend; of the others there is one, named like the package.
SEVERAL = {"chatstores_sql": {"postgres", "sqlite"}}


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
    assert {path.name for path in BACKENDS} >= SEVERAL.keys()
    names: set[str] = set()
    for path in BACKENDS:
        names |= SEVERAL.get(path.name, {path.name.removeprefix("chatstores_")})
    assert names <= set(EXTRAS)
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
