"""PostgresChatStore: postgresql:// over psycopg (sync) and asyncpg (async)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from chatstores.errors import (
    AuthenticationError,
    BackendMismatchError,
    BackendUnavailableError,
    ChatStoreError,
    InvalidURLError,
    PermissionDeniedError,
    UnsupportedError,
)
from chatstores.registry import missing
from chatstores.types import Capabilities
from chatstores.url import StoreURL, parse_bool, parse_duration, parse_int, parse_options, refused
from chatstores_sql.place import LIBPQ, PORT, REFUSED, Place
from chatstores_sql.postgres_transport import (
    DRIVER_ERRORS,
    LOCK_MS,
    AsyncPostgres,
    SyncPostgres,
    async_engine_of,
    sqlstate,
    sync_engine_of,
)
from chatstores_sql.session import Connection
from chatstores_sql.store import SqlChatStore
from chatstores_sql.tables import Tables, identifier

try:
    import sqlalchemy
    from sqlalchemy.dialects.postgresql.base import PGDialect
    from sqlalchemy.engine import Dialect
    from sqlalchemy.ext.asyncio import AsyncEngine
except ImportError as exc:
    raise missing("sqlalchemy", "postgres") from exc

__all__ = ["PostgresChatStore"]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a str")
    return value


def _positive(value: Any) -> int:
    number = parse_int(value)
    if number < 1:
        raise ValueError("must be 1 or more")
    return number


class PostgresChatStore(SqlChatStore):
    r"""Sessions in PostgreSQL, 13 or newer.

    URL: ``postgresql://[user[:password]@]host[:5432][,host2 ...][/database][?option=value]``;
    ``postgres://``, ``postgresql+asyncpg://`` and ``postgresql+psycopg://`` mean the same. Sync
    code goes through psycopg, coroutines through asyncpg.

    Args:
        host: the server, or several with commas between; a directory for its socket file. Default:
            the driver's own.
        port: its port, the same for all of them; default 5432.
        user: the role, or None for the driver's default.
        password: its password, or None.
        database: the database, or None for the driver's default.
        schema: the schema of the tables; default: the first of the role's search path.
        table_prefix: what their names begin with; default "chatstores\\_".
        pool_size: how many connections sync code, and each event loop, may have; default 10.
        pool_timeout: how long a call waits for one, in seconds; default: as ``timeout`` allows.
        prepare: whether statements are prepared on the server; False for PgBouncer in transaction
            mode before its version 1.21. Default True.
        client: a SQLAlchemy ``Engine`` on psycopg to take connections from, in sync code. It is
            never disposed of. Where a lock may be held long, give it a ``lock_timeout``.
        async_client: an ``AsyncEngine`` on asyncpg, likewise, for coroutines of the loop that it
            was made for.
        options: libpq's ``application_name``, ``options``, ``passfile``, ``sslmode``,
            ``sslrootcert``, ``sslcert``, ``sslkey``, ``sslcrl``, ``sslpassword``,
            ``target_session_attrs``; and those of every store, see ``ChatStore``.

    Raises:
        InvalidURLError: an option is wrong, or one that a driver has not.
    """

    capabilities = Capabilities(
        notes={
            "durability": "what the server's synchronous_commit keeps; with its default all that "
            "was acknowledged",
            "failover": "a standby that is not synchronous takes over without what had not "
            "reached it",
            "expiry": "expired sessions take their space until they are written again, or "
            "purge_expired()",
            "deletion": "what was removed stays in the table of commands, to answer a repeated "
            "one: a minute, and until the next removal or purge_expired()",
        },
        recency="minute",
    )
    _driver_errors = DRIVER_ERRORS
    _appends_at_once = True
    _options: ClassVar[Mapping[str, Any]] = {
        "schema": identifier,
        "table_prefix": identifier,
        "pool_size": _positive,
        "pool_timeout": parse_duration,
        "prepare": parse_bool,
        **dict.fromkeys(LIBPQ, _text),
        **{name: refused(reason) for name, reason in REFUSED.items()},
    }

    def __init__(
        self,
        host: str | None = None,
        port: int = PORT,
        *,
        user: str | None = None,
        password: str | None = None,
        database: str | None = None,
        schema: str | None = None,
        table_prefix: str = "chatstores_",
        pool_size: int = 10,
        pool_timeout: float | str | None = None,
        prepare: bool = True,
        client: sqlalchemy.Engine | None = None,
        async_client: AsyncEngine | None = None,
        **options: Any,
    ) -> None:
        own = {name: options.pop(name) for name in list(options) if name in self._options}
        own |= {"table_prefix": table_prefix, "pool_size": pool_size, "prepare": prepare}
        own |= {} if schema is None else {"schema": schema}
        own |= {} if pool_timeout is None else {"pool_timeout": pool_timeout}
        own = parse_options(own, self._options, "postgresql://")
        hosts = [(name, port) for name in host.split(",")] if host else []
        self._place = Place.of_arguments(hosts, user, password, database, own)
        self._finish(own, options, client, async_client)

    def _finish(
        self,
        own: dict[str, Any],
        options: dict[str, Any],
        client: sqlalchemy.Engine | None = None,
        async_client: AsyncEngine | None = None,
    ) -> None:
        dialect: Dialect = PGDialect()  # type: ignore[no-untyped-call]
        tables = Tables(dialect, own["table_prefix"], own.get("schema"))
        super().__init__(tables, **options)
        self._pool = {
            "prepare": own["prepare"],
            "size": own["pool_size"],
            "seconds": own.get("pool_timeout", self._first_attempt),
        }
        # PgBouncer knows no settings at connecting.
        self._settings = {"lock_timeout": str(LOCK_MS)} if own["prepare"] else {}
        self._clients = (client, async_client)
        self._made_in = os.getpid()
        self._secrets = (self._place.password,) if self._place.password else ()

    @classmethod
    def _from_parts(cls, url: StoreURL, options: dict[str, Any]) -> Self:
        own = {name: options.pop(name) for name in list(options) if name in cls._options}
        own = {"table_prefix": "chatstores_", "pool_size": 10, "prepare": True, **own}
        store = cls.__new__(cls)
        store._place = Place.of_url(url, own)
        store._finish(own, options)
        return store

    @property
    def url(self) -> str:
        """The URL, without the password; what it has by default is left out."""
        query = {}
        if self._tables.schema is not None:
            query["schema"] = self._tables.schema
        if self._tables.prefix != "chatstores_":
            query["table_prefix"] = self._tables.prefix
        return self._place.url(query)

    def _open(self) -> SyncPostgres:
        given, other = self._clients
        if given is None and other is not None:
            raise UnsupportedError(
                "this store has async_client= only; sync code needs client= as well"
            )
        if given is not None and os.getpid() != self._made_in:
            given.dispose(close=False)  # its connections belong to the parent of this process
        engine = given or sync_engine_of(
            self._place.for_psycopg(self._first_attempt, self._settings), **self._pool
        )
        return SyncPostgres(
            engine, self._first_attempt, own=given is None, prepare=self._pool["prepare"]
        )

    def _aopen(self) -> AsyncPostgres:
        other, given = self._clients
        if given is None and other is not None:
            raise UnsupportedError(
                "this store has client= only; coroutines need async_client= as well"
            )
        connector = None
        if given is None:
            given, connector = async_engine_of(
                self._place.for_asyncpg(self._settings), **self._pool
            )
        return AsyncPostgres(
            given, self._first_attempt, connector=connector, prepare=self._pool["prepare"]
        )

    async def _make_tables(self, c: Connection) -> None:
        # Two that create the same table at once would fail, in spite of IF NOT EXISTS.
        await c.fetch("SELECT pg_advisory_xact_lock(hashtext('chatstores'))")
        await super()._make_tables(c)

    def _error(self, exc: BaseException) -> ChatStoreError:
        where = self.url
        state = sqlstate(exc)
        said = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
        match state[:2], state:
            case "28", _:
                return AuthenticationError(f"{where} refused the user or password: {said}")
            case _, "42501":
                return PermissionDeniedError(f"{where}: {said}")
            case _, "3D000":
                return BackendMismatchError(f"{where}: {said}; CREATE DATABASE makes it")
            case _, "26000" | "42P05":
                return BackendMismatchError(
                    f"{where}: {said}; behind PgBouncer in transaction mode give prepare=false"
                )
            case "42" | "22" | "0A" | "23", _:
                return BackendMismatchError(
                    f"{where}: {said}; the tables {self._tables.prefix}* are not what this "
                    "chatstores made"
                )
        if isinstance(exc, sqlalchemy.exc.TimeoutError):
            return BackendUnavailableError(
                f"{where}: all {self._pool['size']} connections are in use"
            )
        if isinstance(exc, FileNotFoundError | ValueError):
            return InvalidURLError(f"{where}: {said}")
        if isinstance(exc, TimeoutError):
            return BackendUnavailableError(f"{where} did not answer in time")
        return BackendUnavailableError(f"{where} cannot be reached: {said}")
