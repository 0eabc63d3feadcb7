"""The Redis store: a session is a hash and a list, a command one script."""

from __future__ import annotations

import secrets
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
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
from chatstores.operations import KeyPage, RecentPage
from chatstores.registry import missing
from chatstores.state import (
    Append,
    Clear,
    Command,
    Delete,
    Edit,
    Head,
    Outcome,
    Record,
    Replace,
    Restore,
    SetMetadata,
    Snapshot,
)
from chatstores.store import ChatStore
from chatstores.types import Capabilities
from chatstores.url import StoreURL, parse_bool, parse_int, parse_options, refused
from chatstores_redis import scripts
from chatstores_redis.transport import AsyncRedis, Connections, SyncRedis

try:
    import redis
    import redis.asyncio
    from redis.asyncio.retry import Retry as AsyncRetry
    from redis.backoff import NoBackoff
    from redis.retry import Retry
except ImportError as exc:
    raise missing("redis", "redis") from exc

__all__ = ["RedisChatStore"]

#: The index of a namespace is spread over so many hash slots.
BUCKETS = 256
#: A larger set or restore is staged in parts of this size.
STAGE_BYTES = 4 * 1024 * 1024
STAGE_ROWS = 2000
#: How many commands one event loop may have on their way at once.
CONCURRENCY = 64


def _prefix(value: Any) -> str:
    if not isinstance(value, str) or not value or set(value) & set("{}:* \n"):
        raise ValueError("must be text without braces, colons, asterisks and blanks")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("must be text")
    return value


_TIMEOUT = "timeout= bounds the whole call, all attempts together"
_RETRY = "this library tries again itself, where a write cannot be done twice"
_BYTES = "replies must stay bytes"


class RedisChatStore(ChatStore):
    """Sessions in a Redis server, 7.0 or newer.

    URL: ``redis://[user:password@]host[:6379][/db][?option=value]``. What a server keeps of an
    acknowledged write is its own configuration's: ``appendonly yes`` with ``appendfsync always``
    keeps all.

    Args:
        host: the server; default "localhost".
        port: its port; default 6379.
        db: the number of the database; default 0.
        username: the user, or None.
        password: the password, or None.
        prefix: what all keys begin with; default "chatstores".
        client: a ``redis.Redis`` to take the connections' settings from, for sync code; it is
            never closed, and its own retries are not used.
        async_client: a ``redis.asyncio.Redis``, likewise, for coroutines.
        driver_options: redis-py's options of a connection: ``client_name``, ``protocol``,
            ``socket_keepalive``, ``max_connections`` (of one event loop, default 64),
            ``credential_provider``.
        options: those of every store, see ``ChatStore``.
    """

    capabilities = Capabilities(
        notes={
            "durability": "what the server's appendfsync keeps; with its default a crash may lose "
            "the last second",
            "failover": "a replica takes over without what had not reached it: acknowledged "
            "messages may be lost then, and versions repeat",
            "expiry": "expired sessions go by themselves; purge_expired() removes their entries "
            "in the index of keys",
            "deletion": "what was removed stays invisible for a minute, to answer a repeated "
            "command",
        },
        recency="minute",
    )
    _driver_errors = (redis.RedisError, OSError)
    _options: ClassVar[Mapping[str, Any]] = {
        "prefix": _prefix,
        "client_name": _text,
        "protocol": parse_int,
        "socket_keepalive": parse_bool,
        "max_connections": parse_int,
        "credential_provider": lambda value: value,
        "decode_responses": refused(_BYTES),
        "encoding": refused(_BYTES),
        "retry": refused(_RETRY),
        "retry_on_error": refused(_RETRY),
        "retry_on_timeout": refused(_RETRY),
        "socket_timeout": refused(_TIMEOUT),
        "socket_connect_timeout": refused(_TIMEOUT),
        "db": parse_int,
    }

    def __init__(
        self,
        host: str = "localhost",
        port: int = 6379,
        *,
        db: int = 0,
        username: str | None = None,
        password: str | None = None,
        prefix: str = "chatstores",
        client: redis.Redis | None = None,
        async_client: redis.asyncio.Redis | None = None,
        **options: Any,
    ) -> None:
        base = {name: options.pop(name) for name in self._base_options.keys() & options.keys()}
        super().__init__(**base)
        driver = self._check_options({"prefix": prefix, "db": db, **options})
        self._prefix = driver.pop("prefix")
        self._limit = driver.pop("max_connections", CONCURRENCY)
        self._client, self._async_client = client, async_client
        self._query = {
            name: str(value).lower() if isinstance(value, bool) else str(value)
            for name, value in {"prefix": prefix, **options}.items()
            if isinstance(value, str | int) and (name, value) != ("prefix", "chatstores")
        }
        self._settings = {
            "host": host,
            "port": port,
            "username": username,
            "password": password,
            **driver,
        }
        if client is not None or async_client is not None:
            given = (client or async_client).connection_pool.connection_kwargs  # type: ignore[union-attr]
            self._settings = {"host": "localhost", "port": 6379, "db": 0, **given}
        self._secrets = tuple(
            value for value in [self._settings.get("password")] if isinstance(value, str) and value
        )
        tag = f"{self._prefix}:{{{self._namespace}:"
        self._buckets = [f"{tag}{number:02x}}}".encode() for number in range(BUCKETS)]

    @classmethod
    def _check_options(cls, options: dict[str, Any]) -> dict[str, Any]:
        return parse_options(options, cls._options, "redis://")

    @classmethod
    def _from_parts(cls, url: StoreURL, options: dict[str, Any]) -> Self:
        if len(url.hosts) > 1:
            raise InvalidURLError("redis:// takes one host")
        database = url.path.strip("/")
        if database:
            if not database.isdecimal():
                raise InvalidURLError("what follows redis://host:port/ is the database's number")
            if "db" in options:
                raise InvalidURLError("given in the URL's path and as an option: db")
            options["db"] = int(database)
        host, port = url.hosts[0] if url.hosts else ("localhost", None)
        return cls(
            host or "localhost",
            6379 if port is None else port,
            username=url.username,
            password=url.password,
            **options,
        )

    @property
    def url(self) -> str:
        """``redis://user@host:port/db``."""
        given = self._settings
        public = StoreURL(
            "redis",
            ((str(given["host"]), int(given["port"])),),
            given.get("username"),
            None,
            f"/{given.get('db') or 0}",
            self._query,
        )
        return public.public

    # Connections

    def _open(self) -> SyncRedis:
        if self._client is None and self._async_client is not None:
            raise UnsupportedError(
                "this store has async_client= only; sync code needs client= as well"
            )
        connection_class: Any = redis.Connection
        settings = self._settings
        if self._client is not None:
            pool = self._client.connection_pool
            connection_class, settings = pool.connection_class, pool.connection_kwargs
        retry = Retry(NoBackoff(), 0)
        connections = Connections(connection_class, _own(settings), retry, self._limit)
        return SyncRedis(connections, self._first_attempt)

    def _aopen(self) -> AsyncRedis:
        if self._async_client is None and self._client is not None:
            raise UnsupportedError(
                "this store has client= only; coroutines need async_client= as well"
            )
        connection_class: Any = redis.asyncio.Connection
        settings = self._settings
        if self._async_client is not None:
            pool = self._async_client.connection_pool
            connection_class, settings = pool.connection_class, pool.connection_kwargs
        retry = AsyncRetry(NoBackoff(), 0)
        connections = Connections(connection_class, _own(settings), retry, self._limit)
        return AsyncRedis(connections, self._first_attempt)

    def _bucket(self, key: bytes) -> bytes:
        return self._buckets[zlib.crc32(key) % BUCKETS]

    # Commands

    async def _commit(self, t: SyncRedis | AsyncRedis, key: str, command: Command) -> Outcome:
        name = key.encode()
        bucket = self._bucket(name)
        _, action, expected, ttl, age = command
        match action:
            case Append():
                script = scripts.APPEND
                arguments: list[Any] = []
                for record in action.records:
                    arguments += record
            case Delete():
                script, arguments = scripts.DELETE, [action.which, action.argument]
            case Edit():
                script, arguments = scripts.EDIT, [*action.record]
            case Clear():
                script, arguments = scripts.CLEAR, []
            case SetMetadata():
                script, arguments = scripts.METADATA, ["w" if action.own else "m", action.text]
            case Replace():
                script = scripts.REPLACE
                arguments = [*await _staged(t, bucket, name, action.records, [""] * 5)]
            case Restore():
                script, ttl = scripts.REPLACE, action.left
                ids = {record.id for record in action.records}
                restored = [
                    action.metadata,
                    action.own,
                    action.created_at,
                    action.updated_at,
                    int(len(ids) < len(action.records)),
                ]
                arguments = [*await _staged(t, bucket, name, action.records, restored)]
        about = struct.pack(
            "<8sddd",
            command.id.to_bytes(8, "big"),
            -1 if expected is None else min(expected, 2**53),
            0 if ttl is None else max(1, ttl // 1000),
            age // 1000 + 1 if age else 0,
        )
        answer = await t.script(script, bucket, name, about, *arguments)
        if len(answer) == 2:  # one message, added
            return Outcome(*answer)
        version, added, cleared, refusal, detail, removed = answer
        if not refusal:
            return Outcome(version, added, removed, cleared)
        return Outcome(version, refusal=refusal.decode(), detail=detail.decode())

    # Reading

    async def _read(
        self, t: SyncRedis | AsyncRedis, key: str, first: int | None, last: int | None
    ) -> Sequence[bytes]:
        if first == 0 or last == 0:
            return []
        name = key.encode()
        start, stop = (0, -1 if first is None else first - 1) if last is None else (-last, -1)
        rows = await t.command(b"LRANGE", self._bucket(name) + b":r:" + name, start, stop)
        # The list expires by itself, to the same millisecond as the session.
        return [row.partition(b" ")[2] for row in rows]

    async def _snapshot(
        self, t: SyncRedis | AsyncRedis, key: str, before: int | None, limit: int | None
    ) -> Snapshot | None:
        name = key.encode()
        answer = await t.script(
            scripts.SNAPSHOT,
            self._bucket(name),
            name,
            "" if before is None else before,
            "" if limit is None else limit,
        )
        if not answer:
            return None
        rows = [_row(row) for row in answer[8]]
        return Snapshot(_head(answer), rows)

    async def _head(self, t: SyncRedis | AsyncRedis, key: str) -> Head | None:
        snapshot = await self._snapshot(t, key, None, 0)
        return snapshot.head if snapshot else None

    # Listing: every bucket is asked for a few, and what they give is merged as far as it is whole.

    async def _list(
        self, t: SyncRedis | AsyncRedis, prefix: str, after: str | None, limit: int
    ) -> KeyPage:
        start = prefix.encode()
        lowest = b"[" + start
        if after is not None and after.encode() >= start:
            lowest = b"(" + after.encode()
        # No UTF-8 text has the byte 0xff.
        answers = await t.scripts(
            scripts.LIST, self._buckets, lowest, b"(" + start + b"\xff", _share(limit)
        )
        found = sorted(key for answer in answers for key in answer[2:])
        ends = [answer[1] for answer in answers if answer[0]]
        end = min(ends) if ends else None
        whole = [key for key in found if end is None or key <= end]
        if len(whole) > limit:
            return KeyPage([key.decode() for key in whole[:limit]], whole[limit - 1].decode())
        return KeyPage([key.decode() for key in whole], None if end is None else end.decode())

    async def _recent(
        self, t: SyncRedis | AsyncRedis, before: tuple[int, str] | None, limit: int
    ) -> RecentPage:
        share = _share(limit)
        place = (b"", b"") if before is None else (before[0], before[1].encode())
        answers = await t.scripts(scripts.RECENT, self._buckets, *place, share)
        lists = [list(zip(map(int, a[::2]), a[1::2], strict=True)) for a in answers]
        # Below the last one of a bucket that may have more, others of it may stand.
        ends = [found[-1] for found in lists if len(found) == share]
        end = max(ends) if ends else None
        found = sorted((entry for found in lists for entry in found), reverse=True)
        whole = [entry for entry in found if end is None or entry >= end]
        more = end is not None or len(whole) > limit
        sessions = []
        for _, name in whole[:limit]:
            head = await self._head(t, name.decode())
            if head is not None:
                sessions.append((name.decode(), head))
        if not more:
            return RecentPage(sessions, None)
        written, name = whole[:limit][-1]
        return RecentPage(sessions, (written, name.decode()))

    async def _purge(self, t: SyncRedis | AsyncRedis) -> int:
        purged, part = 0, 1000
        while True:
            counts: list[int] = await t.scripts(scripts.PURGE, self._buckets, part)
            purged += sum(counts)
            if max(counts) < part:
                return purged

    async def _setup(self, t: SyncRedis | AsyncRedis) -> None:
        await self._ping(t)

    async def _ping(self, t: SyncRedis | AsyncRedis) -> None:
        await t.command("PING")

    def _error(self, exc: BaseException) -> ChatStoreError:
        where = self.url
        if isinstance(exc, redis.AuthenticationError):
            return AuthenticationError(f"{where} refused the user or password")
        if isinstance(exc, redis.exceptions.NoPermissionError):
            return PermissionDeniedError(
                f"{where}: the user may not do this; it needs the keys {self._prefix}:* and the "
                "commands of the categories @read, @write, @scripting and TIME, PING"
            )
        if isinstance(exc, redis.exceptions.OutOfMemoryError):
            return BackendUnavailableError(f"{where} has reached its maxmemory")
        if isinstance(exc, redis.ResponseError):
            if "WRONGTYPE" in str(exc):
                return BackendMismatchError(
                    f"{where}: a key that begins with {self._prefix}: belongs to another program; "
                    "give this store a prefix= of its own"
                )
            if str(exc).startswith(("BUSY ", "MISCONF", "NOREPLICAS")):
                return BackendUnavailableError(f"{where} refuses writes for now")
            return BackendMismatchError(
                f"{where} did not understand; it must be Redis 7.0 or newer"
            )
        if isinstance(exc, redis.TimeoutError | TimeoutError):
            return BackendUnavailableError(f"{where} did not answer in time")
        return BackendUnavailableError(f"{where} cannot be reached{_reason(exc)}")


def _reason(exc: BaseException) -> str:
    """What the system said of a connection, such as "connection refused"."""
    link: BaseException | None = exc
    while link is not None:
        if isinstance(link, OSError) and link.strerror:
            return f": {link.strerror.lower()}"
        link = link.__cause__ or link.__context__
    return ""


def _own(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings for a connection of ours: no retries, replies as bytes, nothing of a pool."""
    dropped = ("retry", "retry_on_error", "retry_on_timeout", "decode_responses")
    return {
        name: value
        for name, value in settings.items()
        if name not in dropped and not name.startswith(("maint_", "orig_", "oss_"))
    }


def _share(limit: int) -> int:
    """How many a bucket is asked for: what it has of ``limit`` on average, several times over."""
    return max(8, 4 * limit // BUCKETS)


def _row(row: bytes) -> tuple[int, bytes]:
    ordinal, _, payload = row.partition(b" ")
    return (int(ordinal), payload) if ordinal.isdigit() else (0, row)


def _head(answer: Sequence[Any]) -> Head:
    version, epoch, count, created, updated, expires, metadata, own = answer[:8]
    return Head(
        int(version),
        int(epoch),
        int(count),
        int(created),
        int(updated),
        expires * 1000 if expires else None,
        metadata,
        own,
    )


def _parts(records: Sequence[Record]) -> Iterator[tuple[int, list[Record]]]:
    """Records in parts that are not too large, each with the ordinal of its first."""
    part: list[Record] = []
    size, ordinal = 0, 1
    for number, record in enumerate(records, 1):
        part.append(record)
        size += len(record.payload)
        if size >= STAGE_BYTES or len(part) == STAGE_ROWS or number == len(records):
            yield ordinal, part
            part, size, ordinal = [], 0, number + 1


async def _staged(
    t: SyncRedis | AsyncRedis,
    bucket: bytes,
    name: bytes,
    records: Sequence[Record],
    restored: Sequence[Any],
) -> list[Any]:
    """The arguments of REPLACE; more records than one call should carry are put aside before."""
    parts = list(_parts(records))
    if len(parts) <= 1:
        return ["", len(records), *restored, *(part for record in records for part in record)]
    token = secrets.token_hex(8)
    for ordinal, part in parts:
        flat = [value for record in part for value in record]
        await t.script(scripts.STAGE, bucket, name, token, ordinal, *flat)
    return [token, len(records), *restored]
