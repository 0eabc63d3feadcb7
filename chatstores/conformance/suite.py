"""All tests and fixtures, for a backend's own test file: ``from ...suite import *``.

The file defines the fixture ``harness`` (and may define any of the others anew).
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from chatstores.conformance import fixtures

__all__ = ["pytest_plugins"]

#: The test modules, by the contract's chapters.
MODULES = (
    "test_keys",
    "test_listing",
    "test_writing",
    "test_removing",
    "test_writing_at_once",
    "test_identity",
    "test_failing_writes",
    "test_metadata",
    "test_reading",
    "test_messages",
    "test_corrupt",
    "test_lifetime",
    "test_using",
    "test_absence",
    "test_naming",
    "test_snapshots",
    "test_llama_index_files",
)

pytest_plugins = ["chatstores.conformance.report"]


def _take_in(module: Any, names: list[str]) -> None:
    for name in names:
        if name in globals():
            raise RuntimeError(f"two of the suite's modules have a {name}")
        globals()[name] = getattr(module, name)
        __all__.append(name)


_take_in(fixtures, fixtures.__all__)
for _name in MODULES:
    _module = import_module(f"chatstores.conformance.{_name}")
    _take_in(_module, [name for name in vars(_module) if name.startswith("test_")])
