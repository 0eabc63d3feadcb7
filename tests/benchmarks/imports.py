"""What importing the library costs a fresh interpreter, and what it must not import."""

from __future__ import annotations

import subprocess
import sys

from tests.benchmarks.case import Call, Case
from tests.benchmarks.report import Check

__all__ = ["import_case", "imports_no_driver"]

CEILING = 1.2

_OURS = """
from chatstores import open_store
open_store("memory://")
"""
_BASELINE = """
import asyncio
from pydantic import BaseModel
class Message(BaseModel):
    role: str
    content: str
"""
_TELL = """
import sys
print(*{name.partition(".")[0] for name in sys.modules} - {"__main__"})
"""
_OWN = {"chatstores", "chatstores_memory"}


def import_case() -> Case:
    """A script that opens the memory store beside one that imports what any would."""
    return Case(
        name="import, open memory://",
        backend="core",
        form="sync",
        history=0,
        ours=_script(_OURS),
        raw=_script(_BASELINE),
        baseline="import asyncio, one pydantic model",
        ceiling=CEILING,
    )


def imports_no_driver() -> Check:
    """Whether nothing but the standard library and what pydantic needs was imported."""
    more = _modules(_OURS) - _modules(_BASELINE) - set(sys.stdlib_module_names) - _OWN
    detail = f"imported besides: {', '.join(sorted(more))}" if more else ""
    return Check("importing imports no driver", "core", not more, detail)


def _script(text: str) -> Call:
    command = [sys.executable, "-c", text]
    return lambda: subprocess.run(command, check=True)


def _modules(text: str) -> set[str]:
    command = [sys.executable, "-c", text + _TELL]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
