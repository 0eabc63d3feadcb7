"""The memory store: the core's fold with no log under it."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Sequence
from typing import Any, Self

from chatstores.errors import InvalidURLError
from chatstores.fold import Fold
from chatstores.operations import KeyPage, RecentPage
from chatstores.state import Command, Head, Outcome, Snapshot, now_us
from chatstores.store import ChatStore
from chatstores.transport import AsyncTransport, SyncTransport
from chatstores.types import Capabilities
from chatstores.url import StoreURL

__all__ = ["MemoryChatStore"]


class _Sessions:
    """The sessions of all namespaces, and the lock around them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.fold = Fold()
        _all.add(self)


_all: weakref.WeakSet[_Sessions] = weakref.WeakSet()
_shared: dict[str, _Sessions] = {}


def _after_fork() -> None:
    for sessions in list(_all):
        sessions.lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


class MemoryChatStore(ChatStore):
    """Sessions in this process: for tests, notebooks, and as the model of all other stores.

    URL: ``memory://`` is private to the store; ``memory://name`` is shared by all stores of that
    name in this process. A forked child starts with a copy.

    Args:
        name: the shared name, or None for a private store.
        options: those of every store, see ``ChatStore``.
    """

    capabilities = Capabilities(
        refused={
            "R5": "memory ends with the process; persist() and load() carry it over",
            "W4.processes": "memory is one process's own; threads and tasks share it",
        },
        notes={"durability": "none: what is in memory is gone with the process"},
        clock="server",
    )

    def __init__(self, name: str | None = None, **options: Any) -> None:
        if name is not None and (not isinstance(name, str) or not name or "://" in name):
            raise InvalidURLError("name must be a str that is not empty, and no URL, or None")
        super().__init__(**options)
        self._name = name
        self._sessions = _Sessions() if name is None else _shared.setdefault(name, _Sessions())

    @classmethod
    def _from_parts(cls, url: StoreURL, options: dict[str, Any]) -> Self:
        name, port = url.hosts[0] if url.hosts else (None, None)
        if (
            url.path.strip("/")
            or len(url.hosts) > 1
            or port is not None
            or url.username
            or url.password
        ):
            raise InvalidURLError(
                "write memory:// or memory://name, without user, password, port or path"
            )
        return cls(name, **options)

    @property
    def url(self) -> str:
        """``memory://``, or ``memory://name``."""
        hosts = () if self._name is None else ((self._name, None),)
        return StoreURL("memory", hosts, None, None, "", {}).public

    def _open(self) -> SyncTransport:
        return SyncTransport()

    def _aopen(self) -> AsyncTransport:
        return AsyncTransport()

    async def _commit(self, t: object, key: str, command: Command) -> Outcome:
        with self._sessions.lock:
            return self._sessions.fold.commit(self._namespace, key, command, now_us())

    async def _read(
        self, t: object, key: str, first: int | None, last: int | None
    ) -> Sequence[bytes]:
        with self._sessions.lock:
            return self._sessions.fold.read(self._namespace, key, first, last, now_us())

    async def _head(self, t: object, key: str) -> Head | None:
        with self._sessions.lock:
            return self._sessions.fold.head(self._namespace, key, now_us())

    async def _snapshot(
        self, t: object, key: str, before: int | None, limit: int | None
    ) -> Snapshot | None:
        with self._sessions.lock:
            return self._sessions.fold.snapshot(self._namespace, key, before, limit, now_us())

    async def _list(self, t: object, prefix: str, after: str | None, limit: int) -> KeyPage:
        with self._sessions.lock:
            return self._sessions.fold.list(self._namespace, prefix, after, limit, now_us())

    async def _recent(self, t: object, before: tuple[int, str] | None, limit: int) -> RecentPage:
        with self._sessions.lock:
            return self._sessions.fold.recent(self._namespace, before, limit, now_us())

    async def _purge(self, t: object) -> int:
        with self._sessions.lock:
            return self._sessions.fold.purge(self._namespace, now_us())

    async def _ping(self, t: object) -> None:
        pass
