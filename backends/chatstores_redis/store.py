"""The Redis store: a session is a hash and a list, a command one script."""

from __future__ import annotations

import re
import secrets
import ssl
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self, TypeVar

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
from chatstores.url import StoreURL, parse_bool, parse_int, parse_options, parse_text, refused
from chatstores_redis import scripts
from chatstores_redis.place import (
    Place,
    login_refused,
    place_of_arguments,
    place_of_client,
    place_of_url,
    topology,
)
from chatstores_redis.topology import Address, NoPrimaryError, UnknownServiceError
from chatstores_redis.transport import (
    AsyncRedis,
    ConnectTimeoutError,
    SyncRedis,
    TooFewReplicasError,
    is_refusal_for_now,
)

try:
    import redis
    import redis.asyncio
except ImportError as exc:
    raise missing("redis", "redis") from exc

__all__ = ["RedisChatStore"]

E = TypeVar("E", bound=BaseException)

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


def _at_least(least: int) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        number = parse_int(value)
        if number < least:
            raise ValueError(f"must be a whole number, {least} or more")
        return number

    return parse


def _protocol(value: Any) -> int:
    if (number := parse_int(value)) not in (2, 3):
        raise ValueError("must be 2 or 3")
    return number


def _cert_reqs(value: Any) -> str:
    if value not in ("none", "optional", "required"):
        raise ValueError("must be none, optional or required")
    return str(value)


def _provider(value: Any) -> redis.CredentialProvider:
    if not isinstance(value, redis.CredentialProvider):
        raise ValueError("must be a redis.CredentialProvider, beside the URL")
    return value


#: What OpenSSL calls an answer that is no TLS.
_NOT_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")

_TIMEOUT = "timeout= bounds the whole call, all attempts together"
_RETRY = "this library tries again itself, where a write cannot be done twice"
_BYTES = "replies must stay bytes"
_CLIENT = "open_store() takes none; chatstores_redis.RedisChatStore({}=...) does, without a URL"
_PLACE = "it is a part of the URL; chatstores_redis.RedisChatStore takes it as an argument"
#: Arguments that are parts of a URL; a user too.
_PARTS = (
    "host",
    "port",
    "ssl",
    "unix_socket_path",
    "sentinels",
    "service",
    "cluster_nodes",
)

#: What a URL need not say.
_DEFAULTS = {"prefix": "chatstores", "wait": 0}


class RedisChatStore(ChatStore):
    """Sessions in Redis, 7.0 or newer: one server, Sentinel's primary, or a Cluster.

    URLs, each ``[user:password@]`` before the hosts and ``?option=value`` at the end:

    - ``redis://host[:6379][/db]``, and ``rediss://`` over TLS;
    - ``unix:///path/to.sock?db=0``;
    - ``redis+sentinel://host1[:26379],host2/service[/db]``, ``rediss+sentinel://``;
    - ``redis+cluster://host1[:6379],host2``, ``rediss+cluster://``.

    What a server keeps of an acknowledged write is its own configuration's: ``appendonly yes`` with
    ``appendfsync always`` keeps all.

    Args:
        host: the server; None for "localhost".
        port: its port; None for 6379.
        db: the number of the database; None for 0.
        username: the user, or None.
        password: the password, or None.
        ssl: whether over TLS; default False.
        unix_socket_path: the server's socket file, instead of a host.
        sentinels: (host, port) of Sentinels, instead of a host.
        service: what they call the server.
        sentinel_username: the user of the Sentinels, or None.
        sentinel_password: their password, or None.
        cluster_nodes: (host, port) of some nodes of a Cluster, instead of a host.
        wait: how many replicas must have a write before it is acknowledged; default 0. If they do
            not in time, the outcome is unknown: the primary has it.
        prefix: what all keys begin with; default "chatstores".
        client: a ``redis.Redis`` or ``redis.RedisCluster`` to take the connections' settings from,
            for sync code, instead of a host; it is never closed, and its own retries are not used.
        async_client: one of ``redis.asyncio``, likewise, for coroutines.
        driver_options: redis-py's options of a connection: ``client_name``, ``protocol``,
            ``socket_keepalive``, ``max_connections`` (of one event loop, default 64),
            ``credential_provider``; with TLS ``ssl_ca_certs``, ``ssl_certfile``, ``ssl_keyfile``
            and the like.
        options: those of every store, see ``ChatStore``.

    Raises:
        InvalidURLError: an option is wrong, or is none of this place's.
    """

    capabilities = Capabilities(
        notes={
            "durability": "what the server's appendfsync keeps; with its default a crash may lose "
            "the last second; where a crash cut off a write, redis-check-aof --fix before the next "
            "start keeps a half of it from being done at the one after (valkey pull 4342)",
            "failover": "a replica takes over without what had not reached it: acknowledged "
            "messages may be lost then, and versions repeat; wait=1 loses nothing that was "
            "acknowledged, if a replica that had it takes over (primaries of a Cluster and under "
            "Sentinels killed 10 times each under load: none lost, with wait and without)",
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
        "client_name": parse_text,
        "protocol": _protocol,
        "socket_keepalive": parse_bool,
        "max_connections": _at_least(1),
        "credential_provider": _provider,
        "ssl_ca_certs": parse_text,
        "ssl_ca_data": parse_text,
        "ssl_ca_path": parse_text,
        "ssl_cert_reqs": _cert_reqs,
        "ssl_certfile": parse_text,
        "ssl_check_hostname": parse_bool,
        "ssl_ciphers": parse_text,
        "ssl_keyfile": parse_text,
        "ssl_password": parse_text,
        "sentinel_username": parse_text,
        "sentinel_password": parse_text,
        "wait": _at_least(0),
        "db": _at_least(0),
        "decode_responses": refused(_BYTES),
        "encoding": refused(_BYTES),
        "retry": refused(_RETRY),
        "retry_on_error": refused(_RETRY),
        "retry_on_timeout": refused(_RETRY),
        "socket_timeout": refused(_TIMEOUT),
        "socket_connect_timeout": refused(_TIMEOUT),
        "client": refused(_CLIENT.format("client")),
        "async_client": refused(_CLIENT.format("async_client")),
        **dict.fromkeys((*_PARTS, "username"), refused(_PLACE)),
    }

    def __init__(
        self,
        host: str | None = None,
        port: int | None = None,
        *,
        db: int | None = None,
        username: str | None = None,
        password: str | None = None,
        ssl: bool = False,
        unix_socket_path: str | None = None,
        sentinels: Sequence[Address] | None = None,
        service: str | None = None,
        cluster_nodes: Sequence[Address] | None = None,
        wait: int = 0,
        prefix: str = "chatstores",
        client: redis.Redis | redis.RedisCluster | None = None,
        async_client: redis.asyncio.Redis | redis.asyncio.RedisCluster | None = None,
        **options: Any,
    ) -> None:
        base = {name: options.pop(name) for name in self._base_options.keys() & options.keys()}
        super().__init__(**base)
        given = {"prefix": prefix, "wait": wait, **options}
        login = {"username": username, "password": password, "db": db}
        driver = parse_options(
            {**{name: value for name, value in login.items() if value is not None}, **given},
            {**self._options, "username": parse_text, "password": parse_text},
            "redis://",
        )
        self._prefix = driver.pop("prefix")
        self._wait = driver.pop("wait")
        self._limit = driver.pop("max_connections", CONCURRENCY)
        if client is not None or async_client is not None:
            parts = (host, port, ssl or None, unix_socket_path, sentinels, service, cluster_nodes)
            beside = [name for name, part in zip(_PARTS, parts, strict=True) if part is not None]
            if beside or driver:
                raise InvalidURLError(
                    f"{', '.join([*beside, *driver])}: not beside client= or async_client=, "
                    "which have their own"
                )
        place = place_of_arguments(
            {"db": 0, **driver},
            (host, port),
            tls=ssl,
            path=unix_socket_path,
            sentinels=sentinels,
            service=service,
            nodes=cluster_nodes,
        )
        self._clients = (client, async_client)  # held: a client's pool may end with it
        self._sync_place: Place | None = place
        self._async_place: Place | None = place
        if client is not None or async_client is not None:
            self._sync_place = None if client is None else place_of_client(client, "sync")
            self._async_place = (
                None if async_client is None else place_of_client(async_client, "async")
            )
        self._place = self._sync_place or self._async_place or place
        self._query = {
            name: str(value).lower() if isinstance(value, bool) else str(value)
            for name, value in given.items()
            if isinstance(value, str | int) and _DEFAULTS.get(name) != value
        }
        settings = [self._place.settings, self._place.sentinel_settings]
        self._secrets = tuple(
            value
            for name in ("password", "ssl_password")
            for value in (one.get(name) for one in settings)
            if isinstance(value, str) and value
        )
        tag = f"{self._prefix}:{{{self._namespace}:"
        self._buckets = [f"{tag}{number:02x}}}".encode() for number in range(BUCKETS)]

    @classmethod
    def _from_parts(cls, url: StoreURL, options: dict[str, Any]) -> Self:
        return cls(**place_of_url(url, options))

    @property
    def url(self) -> str:
        """Such as ``redis://user@host:port/db``."""
        return self._place.url(self._query)

    # Connections

    def _open(self) -> SyncRedis:
        if self._sync_place is None:
            raise UnsupportedError(
                "this store has async_client= only; sync code needs client= as well"
            )
        return SyncRedis(topology(self._sync_place, "sync"), self._first_attempt)

    def _aopen(self) -> AsyncRedis:
        if self._async_place is None:
            raise UnsupportedError(
                "this store has client= only; coroutines need async_client= as well"
            )
        where = topology(self._async_place, "async")
        return AsyncRedis(where, self._first_attempt, self._limit)

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
        answer = await t.script(script, bucket, name, about, *arguments, replicas=self._wait)
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
        bucket = self._bucket(name)
        rows = await t.command(bucket, b"LRANGE", bucket + b":r:" + name, start, stop)
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
        return Snapshot(_head(answer), [_row(row) for row in answer[8]])

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
        span = (lowest, b"(" + start + b"\xff", _share(limit))
        answers = await t.scripts(scripts.LIST, [(bucket, span) for bucket in self._buckets])
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
        about = (*place, share)
        answers = await t.scripts(scripts.RECENT, [(bucket, about) for bucket in self._buckets])
        lists = [list(zip(map(int, a[::2]), a[1::2], strict=True)) for a in answers]
        # Below the last one of a bucket that may have more, others of it may stand.
        ends = [found[-1] for found in lists if len(found) == share]
        end = max(ends) if ends else None
        found = sorted((entry for found in lists for entry in found), reverse=True)
        whole = [entry for entry in found if end is None or entry >= end]
        more = end is not None or len(whole) > limit
        names = [name for _, name in whole[:limit]]
        heads = await t.scripts(
            scripts.SNAPSHOT, [(self._bucket(name), (name, "", 0)) for name in names]
        )
        sessions = [
            (name.decode(), _head(answer))
            for name, answer in zip(names, heads, strict=True)
            if answer
        ]
        if not more:
            return RecentPage(sessions, None)
        written, name = whole[:limit][-1]
        return RecentPage(sessions, (written, name.decode()))

    async def _purge(self, t: SyncRedis | AsyncRedis) -> int:
        purged, part = 0, 1000
        while True:
            counts: list[int] = await t.scripts(
                scripts.PURGE, [(bucket, (part,)) for bucket in self._buckets]
            )
            purged += sum(counts)
            if max(counts) < part:
                return purged

    async def _setup(self, t: SyncRedis | AsyncRedis) -> None:
        await self._ping(t)

    async def _ping(self, t: SyncRedis | AsyncRedis) -> None:
        await t.command(self._buckets[0], b"PING")

    def _error(self, exc: BaseException) -> ChatStoreError:
        where = self.url
        if isinstance(exc, redis.AuthenticationError):
            also = " (or the Sentinels theirs: sentinel_password)" * (
                self._place.kind == "sentinel"
            )
            given = self._place.settings
            password = given.get("password") or given.get("credential_provider")
            text = login_refused(where, user=bool(given.get("username")), password=bool(password))
            return AuthenticationError(f"{text}{also}")
        if isinstance(exc, redis.exceptions.NoPermissionError):
            return PermissionDeniedError(
                f"{where}: the user may not do this; it needs the keys {self._prefix}:* and the "
                "commands of the categories @read, @write, @scripting and TIME, PING"
            )
        if isinstance(exc, redis.exceptions.OutOfMemoryError):
            return BackendUnavailableError(f"{where} has reached its maxmemory")
        text = str(exc)
        if "cluster support disabled" in text:
            return BackendMismatchError(f"{where}: that server is no Cluster; open it as redis://")
        if re.match("unknown command .SENTINEL", text):
            return BackendMismatchError(f"{where}: that server is no Sentinel; open it as redis://")
        if "DB index is out of range" in text:
            return BackendMismatchError(
                f"{where}: the server has no database {self._place.settings.get('db')}; by default "
                'Redis has 16, from 0 to 15 (its setting "databases")'
            )
        if isinstance(exc, UnknownServiceError):
            return BackendMismatchError(
                f"{where}: its Sentinels know no service {self._place.service!r}; "
                "SENTINEL MASTERS on one of them lists those there are"
            )
        if isinstance(exc, redis.exceptions.AskError) or "in cluster mode" in text:  # or moved
            return BackendMismatchError(
                f"{where} is a node of a Cluster: open it as redis+cluster://host:port"
            )
        if isinstance(exc, TooFewReplicasError | NoPrimaryError):
            return BackendUnavailableError(f"{where}: {exc}")
        if is_refusal_for_now(exc):
            return BackendUnavailableError(f"{where} refuses for now: {exc}")
        if isinstance(exc, redis.ResponseError):
            if "WRONGTYPE" in text:
                return BackendMismatchError(
                    f"{where}: a key that begins with {self._prefix}: belongs to another program; "
                    "give this store a prefix= of its own"
                )
            # What follows "unknown command" are its arguments: keys, and messages.
            said = "a command" if "unknown command" in text else f"a command ({text:.200})"
            return BackendMismatchError(
                f"{where} did not understand {said}; it must be Redis 7.0 or newer, and no "
                "Sentinel (those are redis+sentinel://)"
            )
        scheme = where.partition("://")[0]
        if self._place.tls:
            plain = scheme.replace("rediss", "redis")
            if _cause(exc, FileNotFoundError):
                return InvalidURLError(
                    "one of the files ssl_ca_certs, ssl_certfile and ssl_keyfile is not there"
                )
            if isinstance(exc, ConnectTimeoutError):
                return BackendUnavailableError(
                    f"{where}: TLS got no answer in time; a server that speaks plain Redis there "
                    f"is {plain}://"
                )
            refusal = _cause(exc, ssl.SSLError)
            if refusal and refusal.reason in _NOT_TLS:
                return BackendMismatchError(f"{where} answered without TLS; open it as {plain}://")
            if refusal and not isinstance(refusal, ssl.SSLEOFError | ssl.SSLZeroReturnError):
                why = getattr(refusal, "verify_message", "") or refusal.reason or refusal
                return AuthenticationError(
                    f"{where}: TLS failed: {why}; ssl_ca_certs= names the authority of the "
                    "server's certificate, ssl_certfile= and ssl_keyfile= the client's own"
                )
        if isinstance(exc, redis.TimeoutError | TimeoutError):
            return BackendUnavailableError(f"{where} did not answer in time")
        hint = ""
        if self._place.tls:
            if _hung_up(exc):
                hint = "; if it wants a certificate of the client's: ssl_certfile= and ssl_keyfile="
        elif self._place.kind != "socket" and (_hung_up(exc) or _cause(exc, redis.InvalidResponse)):
            hint = f"; a server that speaks TLS there is {scheme.replace('redis', 'rediss')}://"
        return BackendUnavailableError(f"{where} cannot be reached{_reason(exc)}{hint}")


def _cause(exc: BaseException, kind: type[E]) -> E | None:
    """The error of a kind that led to another one."""
    link: BaseException | None = exc
    while link is not None:
        if isinstance(link, kind):
            return link
        link = link.__cause__ or link.__context__
    return None


def _hung_up(exc: BaseException) -> bool:
    """Whether the server ended the connection."""
    ends = (ConnectionResetError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
    return any(_cause(exc, kind) for kind in ends) or "closed by server" in str(exc)


def _reason(exc: BaseException) -> str:
    """Why a server cannot be reached, such as "connection refused"."""
    if _cause(exc, redis.InvalidResponse):
        return ": what answers does not speak Redis's protocol"
    if _hung_up(exc):
        return ": it hung up"
    if "max number of clients" in str(exc):
        return ": it has as many clients as its maxclients lets it"
    said = _cause(exc, OSError)
    return f": {said.strerror.lower()}" if said is not None and said.strerror else ""


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
