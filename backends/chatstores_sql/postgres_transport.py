"""How statements reach PostgreSQL: the driver's own connection, out of SQLAlchemy's pool.

SQLAlchemy keeps the pool, and gives it up to whoever brings an engine. Statements go to the driver
as they are: executed through SQLAlchemy, one costs a fifth of its time more.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import weakref
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NoReturn, Self, TypeVar

from chatstores.registry import missing
from chatstores.retry import Busy, NotDone
from chatstores.transport import AsyncTransport, SyncTransport
from chatstores_sql.store import Duplicate, MissingTables, Rows

try:
    import asyncpg
    import psycopg
    import sqlalchemy
    from psycopg.rows import tuple_row
    from psycopg.types.array import ListBinaryDumper
    from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_dbapi
    from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
    from sqlalchemy.util import greenlet_spawn
except ImportError as exc:
    raise missing("asyncpg", "postgres") from exc

__all__ = [
    "DRIVER_ERRORS",
    "LOCK_MS",
    "AsyncPostgres",
    "Connector",
    "SyncPostgres",
    "async_engine_of",
    "sqlstate",
    "sync_engine_of",
]

T = TypeVar("T")

DRIVER_ERRORS = (
    psycopg.Error,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    sqlalchemy.exc.SQLAlchemyError,
    AsyncAdapt_asyncpg_dbapi.Error,
    OSError,
    TimeoutError,
    ValueError,  # asyncpg's, of a setting
)

#: Errors that say: nothing was done, and may be later. Connections refused, or too many; a server
#: that starts or stops; a standby; a full disk; a statement that was cancelled.
_LATER = ("25006", "53", "57P01", "57P02", "57P03", "57014", "58", "XX")
#: ... and: another one was first.
_BUSY = ("40001", "40P01", "55P03")
#: What another connection may do: this one has seen another table, or another server behind it.
_STALE = ("0A000", "25006", "26000", "57")
#: How long a statement waits for a lock; then the core tries again. Less than any attempt's time,
#: so that another writer is not taken for a server that is silent.
LOCK_MS = 100
_BEGIN = f"BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = {LOCK_MS}"


def sqlstate(exc: BaseException) -> str:
    """The error's code, of either driver; "" if the server did not say it.

    https://www.postgresql.org/docs/current/errcodes-appendix.html
    """
    return getattr(_original(exc), "sqlstate", None) or ""


def sync_engine_of(
    arguments: dict[str, Any], *, prepare: bool, size: int, seconds: float
) -> sqlalchemy.Engine:
    """An engine whose connections commit each statement; nothing is connected."""
    threshold = 5 if prepare else None

    def connect() -> psycopg.Connection[Any]:
        connection = psycopg.connect(**arguments, autocommit=True, prepare_threshold=threshold)
        # As text, each element of a list is escaped by a regular expression.
        connection.adapters.register_dumper(list, ListBinaryDumper)
        return connection

    return sqlalchemy.create_engine(
        "postgresql+psycopg://",
        creator=connect,
        isolation_level="AUTOCOMMIT",
        pool_size=size,
        max_overflow=0,
        pool_timeout=seconds,
        pool_reset_on_return=None,
    )


class Connector:
    """Connects asyncpg.

    Cancelled while it connects, asyncpg leaves futures behind that complain, and what was done so
    far would be done again by the next attempt, which has no more time: so it goes on, and whoever
    connects next gets the connection.

    Args:
        arguments: those of ``asyncpg.connect``.
    """

    def __init__(self, arguments: dict[str, Any]) -> None:
        self._arguments = arguments
        self._spare: list[Any] = []

    async def connect(self) -> Any:
        """A connection of asyncpg."""
        while self._spare:
            connection = self._spare.pop()
            if not connection.is_closed():
                return connection
        connecting = asyncio.ensure_future(asyncpg.connect(**self._arguments))
        try:
            return await asyncio.shield(connecting)
        except asyncio.CancelledError:
            connecting.add_done_callback(self._keep)
            raise

    def _keep(self, connecting: asyncio.Future[Any]) -> None:
        if not connecting.cancelled() and connecting.exception() is None:
            self._spare.append(connecting.result())

    def close(self) -> None:
        """Close what nobody took."""
        while self._spare:
            self._spare.pop().terminate()


def async_engine_of(
    arguments: dict[str, Any], *, prepare: bool, size: int, seconds: float
) -> tuple[AsyncEngine, Connector]:
    """The same, for an event loop; and what connects it, to be closed after it."""
    cached = 100 if prepare else 0
    connector = Connector({**arguments, "statement_cache_size": cached})
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=connector.connect,
        isolation_level="AUTOCOMMIT",
        pool_size=size,
        max_overflow=0,
        pool_timeout=seconds,
        pool_reset_on_return=None,
    )
    return engine, connector


def _original(exc: BaseException) -> BaseException:
    """The driver's own error, in SQLAlchemy's."""
    if isinstance(exc, sqlalchemy.exc.DBAPIError | AsyncAdapt_asyncpg_dbapi.Error):
        return getattr(exc, "orig", None) or exc.__cause__ or exc
    return exc


def _raise(exc: BaseException, *, committing: bool) -> NoReturn:
    """Say what an error means; one that came while nothing was being committed did nothing."""
    exc = _original(exc)
    state = sqlstate(exc)
    if state in ("42P01", "3F000"):
        raise MissingTables from exc
    if state == "23505":
        raise Duplicate from exc
    if state in _BUSY:
        raise Busy("another writer was first") from exc
    if not committing and isinstance(exc, DRIVER_ERRORS) and not state:
        raise NotDone from exc
    if state.startswith(_LATER) and not (committing and state.startswith("57P")):
        raise NotDone from exc
    raise exc


class _SyncConnection:
    """A connection, as `Connection`; each call is bounded."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver

    async def fetch(self, statement: str, *values: Any) -> Rows:
        """Run a statement; its rows, if it gives any."""
        cursor = psycopg.RawCursor(self._driver, row_factory=tuple_row)  # an engine may have others
        cursor.execute(statement, values or None)
        return cursor.fetchall() if cursor.description else ()

    async def many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run a statement once for each of the rows of values."""
        psycopg.RawCursor(self._driver).executemany(statement, rows)

    def say(self, text: str) -> None:
        """Run statements that take nothing and give nothing."""
        psycopg.RawCursor(self._driver).execute(text, prepare=False)


class _Generation:
    """Which connections are of the time before a failure: the server is likely gone for all."""

    def __init__(self) -> None:
        self._number = 0

    def has(self, pooled: Any) -> bool:
        """Whether a connection was made since the last failure."""
        return bool(pooled.info.setdefault("chatstores_generation", self._number) == self._number)

    def end(self) -> None:
        """A connection failed."""
        self._number += 1


class SyncPostgres(SyncTransport):
    """Blocks until the answer is there.

    Args:
        engine: where connections come from.
        seconds: those of an attempt.
        own: whether the engine is this transport's: its connections commit by themselves, and it
            is disposed of.
        prepare: whether what one transaction did to a connection is there for the next.
    """

    def __init__(
        self, engine: sqlalchemy.Engine, seconds: float, *, own: bool, prepare: bool
    ) -> None:
        self._engine = engine
        self._seconds = seconds
        self._own = own
        self._prepare = prepare
        self._generation = _Generation()
        if own:  # a store that nobody closed; at exit a fork's parent may still use them
            weakref.finalize(self, engine.dispose).atexit = False

    def within(self, seconds: float) -> Self:
        """The same transport, for an attempt that has so many seconds."""
        other = copy.copy(self)
        other._seconds = seconds
        return other

    async def one(self, statement: str, *values: Any) -> Rows:
        """Run a statement by itself; its rows."""
        if not self._prepare:
            return await self.transaction(_fetch, statement, *values)
        pooled, driver = self._take()
        try:
            rows = await _SyncConnection(driver).fetch(statement, *values)
        except BaseException as exc:
            self._drop(pooled, exc)
            _raise(exc, committing=True)
        self._give_back(pooled, driver)
        return rows

    async def transaction(self, work: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Do some work on a `Connection`, and commit it."""
        pooled, driver = self._take()
        connection = _SyncConnection(driver)
        committing = False
        try:
            connection.say(_BEGIN)
            try:
                result = await work(connection, *args)
            except BaseException:
                if driver.info.transaction_status != psycopg.pq.TransactionStatus.ACTIVE:
                    connection.say("ROLLBACK")
                raise
            committing = True
            connection.say("COMMIT")
        except BaseException as exc:
            self._drop(pooled, exc)
            _raise(exc, committing=committing)
        self._give_back(pooled, driver)
        return result

    def _take(self) -> tuple[Any, Any]:
        try:
            pooled = self._engine.raw_connection()
            while not self._generation.has(pooled):
                self._end(pooled)
                pooled = self._engine.raw_connection()
        except DRIVER_ERRORS as exc:
            raise NotDone from _original(exc)
        driver: Any = pooled.driver_connection
        if not self._own:
            driver.autocommit, pooled.info["chatstores_autocommit"] = True, driver.autocommit
        # psycopg waits for ever by itself, and a call's time is the store's.
        driver.wait = functools.partial(psycopg.Connection.wait, driver, timeout=self._seconds)
        return pooled, driver

    def _give_back(self, pooled: Any, driver: Any) -> None:
        del driver.wait
        if not self._own:
            driver.autocommit = pooled.info.pop("chatstores_autocommit")
        pooled.close()

    def _drop(self, pooled: Any, exc: BaseException) -> None:
        """Give a connection back, or close it if more than a statement failed."""
        driver = pooled.driver_connection
        idle = driver.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        if idle and not sqlstate(exc).startswith(_STALE):
            self._give_back(pooled, driver)
            return
        self._generation.end()
        self._end(pooled)

    def _end(self, pooled: Any) -> None:
        with contextlib.suppress(Exception):
            pooled.driver_connection.close()
        pooled.invalidate()
        pooled.close()

    async def close(self) -> None:
        """Close the idle connections."""
        if self._own:
            self._engine.dispose()


class _AsyncConnection:
    """A connection, as `Connection`."""

    def __init__(self, driver: Any) -> None:
        self.fetch = driver.fetch
        self.many = driver.executemany


class AsyncPostgres(AsyncTransport):
    """Awaits the answer.

    Args:
        engine: where connections come from.
        seconds: those of an attempt.
        connector: what connects the engine, if it is this transport's; then it is disposed of.
        prepare: whether what one transaction did to a connection is there for the next.
    """

    def __init__(
        self, engine: AsyncEngine, seconds: float, *, connector: Connector | None, prepare: bool
    ) -> None:
        super().__init__()
        self._engine = engine
        self._seconds = seconds
        self._connector = connector
        self._prepare = prepare
        self._generation = _Generation()

    def within(self, seconds: float) -> Self:
        """The same transport, for an attempt that has so many seconds."""
        other = copy.copy(self)
        other._seconds = seconds
        return other

    async def one(self, statement: str, *values: Any) -> Rows:
        """Run a statement by itself; its rows."""
        if not self._prepare:
            return await self.transaction(_fetch, statement, *values)
        pooled = None
        try:
            async with asyncio.timeout(self._seconds):
                pooled = await self._take()
                driver: Any = pooled.driver_connection
                rows: Rows = await driver.fetch(statement, *values)
        except BaseException as exc:
            await self._drop(pooled, exc)
            _raise(exc, committing=pooled is not None)
        await self._give_back(pooled)
        return rows

    async def transaction(self, work: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Do some work on a `Connection`, and commit it."""
        pooled, committing = None, False
        try:
            async with asyncio.timeout(self._seconds):
                pooled = await self._take()
                driver: Any = pooled.driver_connection
                await driver.execute(_BEGIN)
                try:
                    result = await work(_AsyncConnection(driver), *args)
                except Exception:
                    await driver.execute("ROLLBACK")
                    raise
                committing = True
                await driver.execute("COMMIT")
        except BaseException as exc:
            await self._drop(pooled, exc)
            _raise(exc, committing=committing)
        await self._give_back(pooled)
        return result

    async def _take(self) -> Any:
        pooled = await self._engine.raw_connection()
        while not self._generation.has(pooled):
            await self._end(pooled)
            pooled = await self._engine.raw_connection()
        return pooled

    async def _give_back(self, pooled: Any) -> None:
        if self._connector:
            pooled.close()  # into the pool, which has a place for it: nothing is sent
        else:
            await greenlet_spawn(pooled.close)

    async def _drop(self, pooled: Any, exc: BaseException) -> None:
        """Give a connection back, or close it if more than a statement failed."""
        if pooled is None:
            return
        driver, state = pooled.driver_connection, sqlstate(exc)
        if state and not (
            state.startswith(_STALE) or driver.is_closed() or driver.is_in_transaction()
        ):
            await self._give_back(pooled)
            return
        if not isinstance(exc, asyncio.CancelledError):
            self._generation.end()
        await self._end(pooled)

    async def _end(self, pooled: Any) -> None:
        pooled.driver_connection.terminate()
        await greenlet_spawn(pooled.invalidate)
        await greenlet_spawn(pooled.close)

    async def close(self) -> None:
        """Close the idle connections."""
        await super().close()
        if self._connector:
            await self._engine.dispose()
            self._connector.close()


async def _fetch(connection: Any, statement: str, *values: Any) -> Rows:
    rows: Rows = await connection.fetch(statement, *values)
    return rows
