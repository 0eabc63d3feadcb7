"""How statements reach SQLite: connections of the standard library's module, held here.

A pool of SQLAlchemy's would cost as much as the write itself, the disk aside.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import threading
import weakref
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar
from urllib.parse import quote

from chatstores.retry import Busy, NotDone
from chatstores.state import now_us
from chatstores.transport import AsyncTransport, SyncTransport, run_sync
from chatstores_sql.store import Duplicate, MissingTables, Rows

__all__ = ["AsyncSqlite", "Files", "SyncSqlite"]

T = TypeVar("T")

#: Milliseconds that SQLite waits for another process's lock; then the core tries again.
_BUSY_MS = 100


class _Driver(sqlite3.Connection):
    """A connection that knows which file it was made to."""

    file: tuple[int, int] | None = None


def _file_at(path: Path | None) -> tuple[int, int] | None:
    """What tells the file of a name from another one of that name; None if there is none."""
    if path is None:
        return None
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


class Files:
    """Connections to a file; or the one to a database in memory, which goes with it.

    Args:
        path: the file, or None.
        create: whether it may be created.
        synchronous: SQLite's setting of that name.
    """

    def __init__(self, path: Path | None, *, create: bool, synchronous: str) -> None:
        self.path = path
        self._create = create
        self._synchronous = synchronous
        self._idle: list[_Driver] = []
        self._turn = threading.Lock()  # for the one connection to what is in memory

    def take(self) -> _Driver:
        """A connection to the file that has the name now: another one would keep nothing."""
        if self.path is None:
            self._turn.acquire()
        file = _file_at(self.path)
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # another thread took it
                break
            if connection.file == file:
                return connection
            connection.close()
        try:
            return self._connect()
        except BaseException:
            if self.path is None:
                self._turn.release()
            raise

    def give_back(self, connection: _Driver) -> None:
        """Keep a connection for the next caller."""
        self._idle.append(connection)
        if self.path is None:
            self._turn.release()

    def close(self) -> None:
        """Close what is idle."""
        while self._idle:
            self._idle.pop().close()

    def _connect(self) -> _Driver:
        path = self.path
        if path is not None and self._create and not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))  # private
        mode = "rwc" if self._create else "rw"
        connection = sqlite3.connect(
            ":memory:" if path is None else f"file:{quote(str(path))}?mode={mode}",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=0,
            factory=_Driver,
        )
        try:
            connection.file = _file_at(path)
            connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
            if connection.execute("PRAGMA journal_mode").fetchone()[0] == "delete":
                connection.execute("PRAGMA journal_mode = wal")
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            connection.create_function("now_us", 0, now_us)
        except BaseException:
            connection.close()
            raise
        return connection


@lru_cache
def _numbered(statement: str) -> str:
    return re.sub(r"\$(\d+)", r"?\1", statement)


def _raise(exc: BaseException) -> NoReturn:
    """Say what an error means; a failed statement, or commit, did nothing."""
    code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        raise Busy("another process held the database's lock") from exc
    if str(exc).startswith("no such table"):
        raise MissingTables from exc
    if getattr(exc, "sqlite_errorname", "") == "SQLITE_CONSTRAINT_UNIQUE":
        raise Duplicate from exc
    if isinstance(exc, sqlite3.Error | OSError):
        raise NotDone from exc
    raise exc


class _Connection:
    """A connection, as `Connection`."""

    def __init__(self, driver: sqlite3.Connection) -> None:
        self._driver = driver

    async def fetch(self, statement: str, *values: Any) -> Rows:
        """Run a statement; its rows, if it gives any."""
        text = _numbered(statement)
        if values and isinstance(values[-1], list):
            *others, last = values
            places = ", ".join("?" * len(last))
            text = text.replace(f"= ANY(?{len(values)})", f"IN ({places})")
            values = (*others, *last)
        return self._driver.execute(text, values).fetchall()

    async def many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run a statement once for each of the rows of values."""
        self._driver.executemany(_numbered(statement), rows)


class _Gate:
    """Lets operations through, any number at once; at a fork it waits for their end."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._changed = threading.Condition()
        self._active = 0
        self._shut = False

    def __enter__(self) -> None:
        with self._changed:
            while self._shut:
                self._changed.wait()
            self._active += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._active -= 1
            if self._shut:
                self._changed.notify_all()

    def shut(self) -> None:
        """Let nobody in, and wait until all are out."""
        with self._changed:
            self._shut = True
            while self._active:
                self._changed.wait()

    def open(self) -> None:
        """Let them in again."""
        with self._changed:
            self._shut = False
            self._changed.notify_all()


class SyncSqlite(SyncTransport):
    """Blocks until the answer is there.

    No connection is open while its process forks: SQLite keeps a file's locks by process, and the
    child would believe to have those that only its parent has
    (https://sqlite.org/howtocorrupt.html, "Carrying an open database across a fork").

    Args:
        files: where connections come from.
    """

    def __init__(self, files: Files) -> None:
        self._files = files
        self._gate = _Gate()
        _alive.add(self)
        # Threads take turns here, in order, and need not wait for the file's lock in the dark.
        self._writing = threading.Lock()

    async def one(self, statement: str, *values: Any) -> Rows:
        """Run a statement by itself; its rows."""
        with self._gate:
            try:
                driver = self._files.take()
                try:
                    return await _Connection(driver).fetch(statement, *values)
                finally:
                    self._files.give_back(driver)
            except Exception as exc:
                _raise(exc)

    async def transaction(self, work: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Do some work on a `Connection`, and commit it."""
        with self._gate:
            try:
                driver = self._files.take()
                try:
                    return await self._commit(driver, work, *args)
                finally:
                    self._files.give_back(driver)
            except Exception as exc:
                _raise(exc)

    async def _commit(self, driver: Any, work: Callable[..., Awaitable[T]], *args: Any) -> T:
        with self._writing:
            driver.execute("BEGIN IMMEDIATE")
            try:
                result = await work(_Connection(driver), *args)
                driver.execute("COMMIT")
            except BaseException:
                if driver.in_transaction:
                    driver.execute("ROLLBACK")
                raise
        return result

    def before_fork(self) -> None:
        """Finish what is going on, and close every connection; what is in memory is copied."""
        self._gate.shut()
        if self._files.path is not None:
            self._files.close()

    def after_fork(self, *, child: bool) -> None:
        """Go on; in the child, where no other thread is, anew."""
        if child:
            self._gate.reset()
        else:
            self._gate.open()

    async def close(self) -> None:
        """Close the idle connections."""
        if self._files.path is not None:
            self._files.close()

    def end(self) -> None:
        """Close the idle connections, and give up what is in memory."""
        self._files.close()

    def __del__(self) -> None:
        # A store that nobody closed.
        with contextlib.suppress(Exception):
            self._files.close()


class AsyncSqlite(AsyncTransport):
    """Awaits the answer, which comes from a thread of this transport's own."""

    def __init__(self, sync: SyncSqlite) -> None:
        super().__init__()
        self._sync = sync

    async def one(self, statement: str, *values: Any) -> Rows:
        """Run a statement by itself; its rows."""
        return await self.offload(_run, self._sync.one, statement, *values)

    async def transaction(self, work: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Do some work on a `Connection`, and commit it."""
        return await self.offload(_run, self._sync.transaction, work, *args)

    async def close(self) -> None:
        """End the threads, and close the idle connections."""
        await super().close()
        await self._sync.close()


def _run(verb: Callable[..., Any], *args: Any) -> Any:
    return run_sync(verb(*args))


_alive: weakref.WeakSet[SyncSqlite] = weakref.WeakSet()
_forking: list[SyncSqlite] = []


def _before_fork() -> None:
    _forking[:] = _alive
    for transport in _forking:
        transport.before_fork()


def _after_fork(*, child: bool) -> None:
    for transport in _forking:
        transport.after_fork(child=child)
    _forking.clear()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=partial(_after_fork, child=False),
    after_in_child=partial(_after_fork, child=True),
)
