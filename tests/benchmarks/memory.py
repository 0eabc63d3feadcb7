"""memory://: no driver stands below it, so its bounds are times."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from tests.benchmarks.backend import HISTORIES, Backend, Plan

__all__ = ["BACKEND"]


class Memory(Backend):
    """The memory store."""

    name = "memory"
    plans = (
        Plan("add", "sync", HISTORIES, 3, ceiling=20),
        Plan("add", "async", HISTORIES, 3, ceiling=20),
        Plan("last", "sync", HISTORIES[1:], 3, ceiling=60),
        Plan("last", "async", HISTORIES[1:], 3, ceiling=60),
    )

    def place(self) -> AbstractContextManager[str]:
        """Nowhere."""
        return nullcontext("")

    def url(self, place: str, name: str) -> str:
        """A store that all of this process share."""
        return f"memory://{name}"


BACKEND = Memory()
