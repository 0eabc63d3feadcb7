"""json://: appending the same bytes to a file and syncing it."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from tests.benchmarks.backend import HISTORIES, Backend, Plan, Raw
from tests.benchmarks.case import Call

__all__ = ["BACKEND", "disk", "filesystem"]

_IN_MEMORY = {"tmpfs", "ramfs"}
_FDATASYNC = getattr(os, "fdatasync", os.fsync)  # macOS has none
_AGAINST_FSYNC = "add one, fsync"


class _Calls:
    """A file that only grows, opened once."""

    def __init__(self, path: Path, *, full: bool) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._sync = os.fsync if full else _FDATASYNC

    def fill(self, payloads: Sequence[bytes]) -> None:
        """Have the file begin with these; it may grow on, which costs an append nothing."""
        if os.fstat(self._file).st_size == 0:
            os.write(self._file, b"".join(payloads))
            os.fsync(self._file)

    def add(self, payload: bytes) -> Any:
        """Write and sync."""
        os.write(self._file, payload)
        self._sync(self._file)

    def close(self) -> None:
        """Close the file; its directory is removed."""
        os.close(self._file)


class _AsyncCalls(_Calls):
    def add(self, payload: bytes) -> Any:
        """Write and sync on a thread."""
        return asyncio.get_running_loop().run_in_executor(None, super().add, payload)


class JsonFile(Backend):
    """The JSON file store. Its mean counts: now and then an add writes a checkpoint."""

    name = "json"
    watched = "checkpoints"
    plans = (
        Plan("add", "sync", HISTORIES, 20, 1.5, "write, fdatasync", "mean"),
        Plan("add", "async", HISTORIES, 10, None, "write, fdatasync on a thread", "mean"),
        Plan("add", "sync", (1_000,), 5, None, "write, fsync", "mean", _AGAINST_FSYNC),
    )

    def place(self) -> AbstractContextManager[str]:
        """A directory on a disk."""
        return disk()

    def url(self, place: str, name: str) -> str:
        """A file for each name."""
        return f"json:///{place}/{name}.json"

    def raw(self, place: str, plan: Plan, name: str) -> Raw:
        """The operating system's own calls."""
        calls = _Calls if plan.form == "sync" else _AsyncCalls
        return calls(Path(place, f"{name}.raw"), full=plan.title == _AGAINST_FSYNC)

    def watch(self, place: str, name: str) -> Call:
        """The identity of the checkpoint: each is a new file."""
        path = Path(place, f"{name}.json")

        def identity() -> tuple[int, int] | None:
            try:
                found = path.stat()
            except FileNotFoundError:
                return None
            return found.st_ino, found.st_mtime_ns

        return identity

    def facts(self, place: str) -> dict[str, str]:
        """The filesystem."""
        return {"files on": filesystem(place)}


@contextmanager
def disk() -> Iterator[str]:
    """A directory for a while, on a filesystem that is no memory if there is one."""
    choices = [tempfile.gettempdir(), "/var/tmp", os.getcwd()]
    parent = next((d for d in choices if filesystem(d) not in _IN_MEMORY), choices[0])
    directory = tempfile.mkdtemp(prefix="chatstores-bench-", dir=parent)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def filesystem(path: str) -> str:
    """The kind of filesystem that a path lies on."""
    try:
        lines = Path("/proc/mounts").read_text().splitlines()
    except OSError:
        return "a filesystem that this system does not name"
    real = Path(os.path.realpath(path))
    mounts = [(fields[1], fields[2]) for fields in map(str.split, lines)]
    holding = [mount for mount in mounts if real.is_relative_to(mount[0])]
    return max(reversed(holding), key=lambda mount: len(mount[0]))[1]  # the later hides the former


BACKEND = JsonFile()
