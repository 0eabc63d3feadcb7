"""The JSON store: the core's fold over a journal on this machine's disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self, TypeVar

from chatstores.errors import (
    BackendUnavailableError,
    ChatStoreError,
)
from chatstores.fold import Fold
from chatstores.operations import KeyPage, RecentPage
from chatstores.retry import Busy
from chatstores.state import Command, Head, Outcome, Snapshot, now_us
from chatstores.store import ChatStore
from chatstores.transport import AsyncTransport, SyncTransport, Transport
from chatstores.types import Capabilities
from chatstores.url import StoreURL, absolute_path, file_of, parse_bool, parse_options
from chatstores_json.log import Log

__all__ = ["JsonChatStore"]

T = TypeVar("T")


class JsonChatStore(ChatStore):
    """Sessions in a JSON file, for one machine: threads, tasks and processes of it share them.

    Every acknowledged write stands in a journal beside the file (``path.journal``) and is on the
    disk; now and then the journal is folded into the file, which is plain JSON. A process keeps the
    sessions in its memory. The third file, ``path.lock``, must stay.

    URL: ``json:///path.json`` is relative to the working directory, ``json:////path.json`` is
    absolute, ``json:///~/path.json`` is in the home directory. Not for network file systems:
    they do not lock.

    Args:
        path: the file.
        sync: whether a write is on the disk when it returns; default True. False is some ten times
            as fast, and a crash of the machine (not of the process) may lose the last writes.
        options: those of every store, see ``ChatStore``.
    """

    capabilities = Capabilities(
        notes={
            "durability": "an acknowledged write is on the disk, unless sync=false",
            "memory": "each process holds all sessions of the file in memory",
            "deletion": "what was removed stays in the journal until it is folded into the file: "
            "at 1 MiB, or by purge_expired()",
        },
        clock="writer",
    )
    _driver_errors = (OSError,)
    _options: ClassVar[Mapping[str, Callable[[Any], Any]]] = {"sync": parse_bool}

    def __init__(self, path: str | os.PathLike[str], *, sync: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self._path = absolute_path(path, "json:///chats.json")
        self._sync: bool = parse_options({"sync": sync}, self._options, "json://")["sync"]
        self._log = Log(self._path, self._create, self._sync)

    @classmethod
    def _from_parts(cls, url: StoreURL, options: dict[str, Any]) -> Self:
        return cls(file_of(url), **options)

    @property
    def url(self) -> str:
        """``json:////absolute/path.json``."""
        query = {} if self._sync else {"sync": "false"}
        return StoreURL("json", (), None, None, f"/{self._path}", query).public

    def _open(self) -> Transport:
        return SyncTransport()

    def _aopen(self) -> Transport:
        return AsyncTransport()

    def close(self) -> None:
        """Close the files."""
        super().close()
        self._log.close()

    async def aclose(self) -> None:
        """Async `close`."""
        await super().aclose()
        self._log.close()

    async def _locked(self, t: Transport, attempt: Callable[..., T | None], *args: Any) -> T:
        """An attempt's result, unless another process holds the lock."""
        result = await t.offload(attempt, *args)
        if result is None or result is False:
            raise Busy(f"another process held {self._path}.lock")
        return result

    async def _look(self, t: Transport, look: Callable[[Fold, int], T]) -> T:
        """What the fold says, when it holds all that was acknowledged before."""
        mutex = self._log.mutex
        if mutex.acquire(blocking=False):
            try:
                if self._log.is_current():
                    return look(self._log.fold, now_us())
            finally:
                mutex.release()
        await self._locked(t, self._log.catch_up)
        return await t.offload(self._look_in_turn, look)

    def _look_in_turn(self, look: Callable[[Fold, int], T]) -> T:
        with self._log.mutex:
            return look(self._log.fold, now_us())

    # The hooks

    async def _commit(self, t: Transport, key: str, command: Command) -> Outcome:
        return await self._locked(t, self._log.commit, self._namespace, key, command)

    async def _read(
        self, t: Transport, key: str, first: int | None, last: int | None
    ) -> Sequence[bytes]:
        return await self._look(
            t, lambda fold, now: fold.read(self._namespace, key, first, last, now)
        )

    async def _head(self, t: Transport, key: str) -> Head | None:
        return await self._look(t, lambda fold, now: fold.head(self._namespace, key, now))

    async def _snapshot(
        self, t: Transport, key: str, before: int | None, limit: int | None
    ) -> Snapshot | None:
        return await self._look(
            t, lambda fold, now: fold.snapshot(self._namespace, key, before, limit, now)
        )

    async def _list(self, t: Transport, prefix: str, after: str | None, limit: int) -> KeyPage:
        return await self._look(
            t, lambda fold, now: fold.list(self._namespace, prefix, after, limit, now)
        )

    async def _recent(self, t: Transport, before: tuple[int, str] | None, limit: int) -> RecentPage:
        return await self._look(
            t, lambda fold, now: fold.recent(self._namespace, before, limit, now)
        )

    async def _purge(self, t: Transport) -> int:
        return await self._locked(t, self._log.purge, self._namespace)

    async def _setup(self, t: Transport) -> None:
        await self._locked(t, self._log.set_up)

    async def _ping(self, t: Transport) -> None:
        await self._locked(t, self._log.catch_up)
        await t.offload(self._log.check_directory)

    def _error(self, exc: BaseException) -> ChatStoreError:
        assert isinstance(exc, OSError)
        return self._log.error(exc) or BackendUnavailableError(
            f"{self._path} cannot be used now: {exc.strerror or exc}"
        )
