"""SqliteChatStore: sqlite:///file.db, the durable store that needs no server."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from chatstores.errors import (
    BackendMismatchError,
    BackendUnavailableError,
    ChatStoreError,
    NotSetUpError,
    PermissionDeniedError,
)
from chatstores.registry import missing
from chatstores.state import Command, Record
from chatstores.types import Capabilities
from chatstores.url import StoreURL, absolute_path, file_of, parse_options
from chatstores_sql.session import Connection, command_number, hashed
from chatstores_sql.sqlite_transport import AsyncSqlite, Files, SyncSqlite
from chatstores_sql.store import SqlChatStore, SqlTransport
from chatstores_sql.tables import Tables, identifier

try:
    from sqlalchemy.dialects import sqlite
except ImportError as exc:
    raise missing("sqlalchemy", "sqlite") from exc

__all__ = ["SqliteChatStore"]


_IN_MEMORY = Capabilities(
    refused={
        "R5": "a database in memory ends with its store; sqlite:///chats.db is a file",
        "W4.processes": "a database in memory is one store's own",
    },
    notes={"durability": "none: what is in memory is gone with the store"},
    recency="minute",
    clock="writer",
)


def _synchronous(value: Any) -> str:
    if value not in ("full", "normal"):
        raise ValueError('must be "full" or "normal"')
    return str(value)


class SqliteChatStore(SqlChatStore):
    r"""Sessions in a SQLite file; any number of threads and processes of one machine share it.

    URLs: ``sqlite:///chats.db`` in the working directory, ``sqlite:////var/lib/bot/chats.db`` with
    its absolute path, ``sqlite:///~/chats.db``; ``sqlite://`` alone is a database in memory, of
    this store's own. Not on a network file system, whose locks do not hold.

    Args:
        path: the file; beside it stand, while it is in use, ``-wal`` and ``-shm``. None, or
            ":memory:": in memory.
        synchronous: "full" (default): what was acknowledged outlives a crash of the machine.
            "normal": of the process; the machine's may lose the last writes, and nothing else.
        table_prefix: what the tables' names begin with; default "chatstores\\_".
        options: those of every store, see ``ChatStore``.

    Raises:
        InvalidURLError: an option or the path is wrong.
    """

    capabilities = Capabilities(
        notes={
            "durability": "all that was acknowledged; with synchronous=normal a crash of the "
            "machine may lose the last writes",
            "expiry": "expired sessions take their space until they are written again, or "
            "purge_expired()",
            "deletion": "what was removed stays in the table of commands, to answer a repeated "
            "one: a minute, and until the next removal or purge_expired()",
        },
        recency="minute",
        clock="writer",
    )
    _driver_errors = (sqlite3.Error, OSError)
    _options: ClassVar[Mapping[str, Any]] = {
        "synchronous": _synchronous,
        "table_prefix": identifier,
    }

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        *,
        synchronous: str = "full",
        table_prefix: str = "chatstores_",
        **options: Any,
    ) -> None:
        base = {name: options.pop(name) for name in self._base_options.keys() & options.keys()}
        given = {"synchronous": synchronous, "table_prefix": table_prefix, **options}
        own = parse_options(given, self._options, "sqlite://")
        super().__init__(Tables(sqlite.dialect(), own["table_prefix"]), **base)
        if path == ":memory:":
            path = None
        self._path = None if path is None else absolute_path(path, "sqlite:///chats.db")
        self._synchronous: str = own["synchronous"]
        if self._path is None:
            self.capabilities = _IN_MEMORY
            self._only = SyncSqlite(self._files())

    @classmethod
    def _from_parts(cls, url: StoreURL, options: dict[str, Any]) -> Self:
        path = file_of(url)
        return cls(path or None, **options)

    @property
    def url(self) -> str:
        """``sqlite:////absolute/path.db``, or ``sqlite://``; what it has by default is left out."""
        query = {}
        if self._synchronous != "full":
            query["synchronous"] = self._synchronous
        if self._tables.prefix != "chatstores_":
            query["table_prefix"] = self._tables.prefix
        path = "" if self._path is None else f"/{self._path}"
        return StoreURL("sqlite", (), None, None, path, query).public

    def _open(self) -> SyncSqlite:
        if self._path is None:
            return self._only
        return SyncSqlite(self._files())

    def _aopen(self) -> AsyncSqlite:
        return AsyncSqlite(self._open())

    def close(self) -> None:
        """Close the connections; what is in memory is gone."""
        super().close()
        if self._path is None:
            self._only.end()

    async def aclose(self) -> None:
        """Async `close`."""
        await super().aclose()
        if self._path is None:
            self._only.end()

    def _files(self) -> Files:
        return Files(self._path, create=self._create, synchronous=self._synchronous)

    async def _append(
        self, t: SqlTransport, key: str, command: Command, records: Sequence[Record]
    ) -> int | None:
        if len(records) > 1:
            return None
        return await self._transaction(t, self._add_one, key, command, records[0])

    async def _add_one(
        self, c: Connection, key: str, command: Command, record: Record
    ) -> int | None:
        about = (self._namespace, key, command.expected_version, command.ttl)
        rows = await c.fetch(self._sql.append_head, *about)
        if not rows:
            return None
        number, version, ordinal, now = rows[0]
        row = (number, ordinal, hashed(record.id), version, command_number(command), 1, now)
        await c.fetch(self._sql.add, *row, record.payload.decode())
        return int(version)

    def _error(self, exc: BaseException) -> ChatStoreError:
        reason = getattr(exc, "strerror", None) or str(exc)
        if isinstance(exc, FileNotFoundError | NotADirectoryError | PermissionError):
            return self._cannot_open()
        if isinstance(exc, OSError) and exc.errno == errno.ENAMETOOLONG:
            return BackendMismatchError(f"{self._path}: {reason}")
        match getattr(exc, "sqlite_errorcode", 0) & 0xFF:  # https://sqlite.org/rescode.html
            case sqlite3.SQLITE_CANTOPEN:
                return self._cannot_open()
            case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_AUTH:
                return PermissionDeniedError(
                    f"{self._path} cannot be written by this user: the file and its directory "
                    "must be writable"
                )
            case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_ERROR:
                return BackendMismatchError(
                    f"{self._path} is no database of this chatstores: {reason}"
                )
        return BackendUnavailableError(f"{self._path} cannot be used now: {reason}")

    def _cannot_open(self) -> ChatStoreError:
        path = self._path
        assert path is not None
        if not path.parent.is_dir():
            return BackendMismatchError(f"there is no directory {path.parent}: create it first")
        if path.is_dir():
            return BackendMismatchError(f"{path} is a directory; name a file in it")
        if not path.exists() and not self._create:
            return NotSetUpError(
                f"there is no file {path}: 'chatstores setup' makes it, or open the store without "
                "create=False"
            )
        return PermissionDeniedError(f"{path} cannot be read or written by this user")
