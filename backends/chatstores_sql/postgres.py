"""PostgresChatStore: postgresql:// over psycopg (sync) and asyncpg (async)."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping, Sequence
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
from chatstores.state import Command, Record
from chatstores.types import Capabilities
from chatstores.url import StoreURL, parse_bool, parse_duration, parse_int, parse_options
from chatstores_sql.place import LIBPQ, PARSERS, Place, hosts_of, place_of_client
from chatstores_sql.postgres_transport import (
    DRIVER_ERRORS,
    LOCK_MS,
    AsyncPostgres,
    SyncPostgres,
    async_engine_of,
    sqlstate,
    sync_engine_of,
)
from chatstores_sql.session import Connection, command_number, hashed
from chatstores_sql.store import SqlChatStore, SqlTransport
from chatstores_sql.tables import Tables, identifier

try:
    import sqlalchemy
    from sqlalchemy.dialects.postgresql.base import PGDialect
    from sqlalchemy.engine import Dialect
    from sqlalchemy.ext.asyncio import AsyncEngine
except ImportError as exc:
    raise missing("sqlalchemy", "postgres") from exc

__all__ = ["PostgresChatStore"]

_PREFIX = "chatstores_"
#: How many connections there are by default.
_POOL = 10
#: The store's own options, and what they are by default.
_USUAL: dict[str, Any] = {
    "schema": None,
    "table_prefix": _PREFIX,
    "pool_size": _POOL,
    "pool_timeout": None,
    "prepare": True,
}
_PARTS = ("host", "port", "user", "password", "database")
#: libpq gives no code for what a server said at connecting; this is how it is known all the same.
_CONNECTING = {
    "28P01": "password authentication failed|no password supplied",
    "28000": r"authentication failed|no pg_hba\.conf entry|valid client certificate|"
    'role ".*" (does not exist|is not permitted)|peer user name mismatch',
    "3D000": 'database ".*" does not exist',
    "42501": "permission denied for database",
    "08P01": "unsupported startup parameter",
    "42704": "unrecognized configuration parameter|invalid value for parameter",
    "42601": "invalid command-line argument",
}


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
        port: its port, the same for all of them, or None: 5432.
        user: the role, or None for the driver's default.
        password: its password, or None.
        database: the database, or None for the driver's default.
        schema: the schema of the tables; default: the first of the role's search path.
        table_prefix: what their names begin with; default "chatstores\\_".
        pool_size: how many connections sync code, and each event loop, may have; default 10.
        pool_timeout: how long a call waits for one, in seconds; default: as ``timeout`` allows.
        prepare: whether statements are prepared on the server; False behind PgBouncer in
            transaction mode. Default True.
        client: a SQLAlchemy ``Engine`` on psycopg to take connections from, in sync code. It is
            never disposed of. Where a lock may be held long, give it a ``lock_timeout``.
        async_client: an ``AsyncEngine`` on asyncpg, likewise, for coroutines of the loop that it
            was made for. Beside an engine stand no host, user, password and the like: it has them.
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
    _options: ClassVar[Mapping[str, Any]] = {
        "schema": identifier,
        "table_prefix": identifier,
        "pool_size": _positive,
        "pool_timeout": parse_duration,
        "prepare": parse_bool,
        **PARSERS,
    }

    def __init__(
        self,
        host: str | None = None,
        port: int | None = None,
        *,
        user: str | None = None,
        password: str | None = None,
        database: str | None = None,
        schema: str | None = None,
        table_prefix: str = _PREFIX,
        pool_size: int | None = None,
        pool_timeout: float | str | None = None,
        prepare: bool = True,
        client: sqlalchemy.Engine | None = None,
        async_client: AsyncEngine | None = None,
        **options: Any,
    ) -> None:
        base = {name: options.pop(name) for name in self._base_options.keys() & options.keys()}
        hosts = hosts_of(host, port)
        given: dict[str, Any] = {"schema": schema, "pool_size": pool_size}
        given |= {"pool_timeout": pool_timeout}
        own = {name: value for name, value in given.items() if value is not None}
        own |= {"table_prefix": table_prefix, "prepare": prepare, **options}
        own = parse_options(own, self._options, "postgresql://")
        place = Place.of_arguments(hosts, user, password, database, dict(own))
        if client is not None or async_client is not None:
            parts = (host, port, user, password, database)
            beside = [name for name, part in zip(_PARTS, parts, strict=True) if part is not None]
            beside += [name for name in (*LIBPQ, "pool_size", "pool_timeout") if name in own]
            if beside:
                raise InvalidURLError(
                    f"{', '.join(beside)}: not beside client= or async_client=, which have "
                    "their own"
                )
            if async_client is not None:
                place = place_of_client(async_client, "async")
            if client is not None:
                place = place_of_client(client, "sync")
        self._place = place
        self._finish(own, base, client, async_client)

    def _finish(
        self,
        own: dict[str, Any],
        options: dict[str, Any],
        client: sqlalchemy.Engine | None = None,
        async_client: AsyncEngine | None = None,
    ) -> None:
        dialect: Dialect = PGDialect()  # type: ignore[no-untyped-call]
        tables = Tables(dialect, own.get("table_prefix", _PREFIX), own.get("schema"))
        super().__init__(tables, **options)
        self._pool = {
            "prepare": own.get("prepare", True),
            "size": own.get("pool_size", _POOL),
            "seconds": own.get("pool_timeout", self._first_attempt),
        }
        # PgBouncer knows no settings at connecting.
        self._settings = {"lock_timeout": str(LOCK_MS)} if self._pool["prepare"] else {}
        self._query = {
            name: str(own[name]).lower()
            for name, usual in _USUAL.items()
            if own.get(name, usual) != usual
        }
        self._clients = (client, async_client)
        self._made_in = os.getpid()
        self._secrets = (self._place.password,) if self._place.password else ()

    @classmethod
    def _from_parts(cls, url: StoreURL, options: dict[str, Any]) -> Self:
        own = {name: options.pop(name) for name in list(options) if name in cls._options}
        store = cls.__new__(cls)
        store._place = Place.of_url(url, own)
        store._finish(own, options)
        return store

    @property
    def url(self) -> str:
        """The URL, without the password; what it has by default is left out."""
        return self._place.url(self._query)

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
                self._place.for_asyncpg(self._first_attempt, self._settings), **self._pool
            )
        return AsyncPostgres(
            given, self._first_attempt, connector=connector, prepare=self._pool["prepare"]
        )

    async def _make_tables(self, c: Connection) -> None:
        # Two that create the same table at once would fail, in spite of IF NOT EXISTS.
        await c.fetch("SELECT pg_advisory_xact_lock(hashtext('chatstores'))")
        await super()._make_tables(c)

    async def _append(
        self, t: SqlTransport, key: str, command: Command, records: Sequence[Record]
    ) -> int | None:
        about = (self._namespace, key, command.expected_version, command.ttl)
        number = command_number(command)
        if len(records) == 1:
            [[name, payload]] = records
            values = (number, hashed(name), payload.decode())
            rows = await self._one(t, self._sql.append, *about, *values)
        else:
            names = [hashed(record.id) for record in records]
            payloads = [record.payload.decode() for record in records]
            rows = await self._one(t, self._sql.append_many, *about, number, names, payloads)
        return rows[0][0] if rows else None

    def _error(self, exc: BaseException) -> ChatStoreError:
        where = self.url
        said = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
        state = sqlstate(exc) or _state_of(said)
        said = said.removeprefix("connection failed: ").rpartition("FATAL:  ")[2]
        if error := self._login_error(exc, state, said):
            return error
        match state[:2], state:
            case _, "42501":
                return PermissionDeniedError(f"{where}: {said}")
            case _, "3D000":
                return BackendMismatchError(f"{where}: {said}; CREATE DATABASE makes it")
            case _, "26000" | "42P05" | "08P01":
                return BackendMismatchError(
                    f"{where}: {said}; behind PgBouncer in transaction mode give prepare=false, "
                    "and no options="
                )
            case _, "42704" | "22023" | "55P02":
                return InvalidURLError(f"the option options: {said}")
            case _, "25006":
                return BackendUnavailableError(
                    f"{where} takes no writes: {said}. It is a standby, or has "
                    "default_transaction_read_only; of several hosts target_session_attrs="
                    "read-write finds the one that takes them"
                )
            case "42" | "22" | "0A" | "23", _:
                if "command-line argument" in said:
                    return InvalidURLError(f"the option options: {said}")
                return BackendMismatchError(
                    f"{where}: {said}; the tables {self._tables.prefix}* are not what this "
                    "chatstores made"
                )
        if isinstance(exc, sqlalchemy.exc.TimeoutError):
            whose = f"the pool (pool_size={self._pool['size']})"
            if any(self._clients):
                whose = "the engine's pool"
            return BackendUnavailableError(f"{where}: every connection of {whose} is in use")
        if isinstance(exc, TimeoutError):
            return BackendUnavailableError(f"{where} did not answer in time")
        if state:
            return BackendUnavailableError(f"{where} refuses for now: {said}")
        return BackendUnavailableError(f"{where} cannot be reached: {said}")

    def _login_error(self, exc: BaseException, state: str, said: str) -> ChatStoreError | None:
        """What it means if files, TLS or the login are at fault."""
        where = self.url
        refused = state.startswith("28")
        tls = isinstance(exc, ssl.SSLError) or "SSL error" in said
        if refused or tls or not state:
            if file := self._place.missing_file():
                return InvalidURLError(f"the option {file} is not there")
            if "root certificate file" in said or (
                isinstance(exc, ValueError) and not isinstance(exc, ssl.SSLError)
            ):
                return InvalidURLError(f"{where}: {said}")
        if tls:
            return AuthenticationError(
                f"{where}: TLS failed: {getattr(exc, 'verify_message', '') or said}; sslrootcert= "
                "names the authority of the server's certificate, sslcert= and sslkey= the "
                "client's own"
            )
        if not refused:
            return None
        if "client certificate" in said:
            return AuthenticationError(f"{where}: {said}: sslcert= and sslkey= name it")
        if state == "28P01" and not self._place.password and "passfile" not in self._place.options:
            return AuthenticationError(
                f"{where} wants a password: postgresql://user:password@..., or password=... "
                f"beside the URL ({said})"
            )
        return AuthenticationError(f"{where} refused the login: {said}")


def _state_of(said: str) -> str:
    """The code of an error at connecting, by its text; "" if it is not known."""
    return next((code for code, text in _CONNECTING.items() if re.search(text, said)), "")
