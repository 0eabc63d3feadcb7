"""Which server has a bucket: the one that is known, Sentinel's primary, or a Cluster's slots."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from chatstores.registry import missing
from chatstores.retry import NotDone

try:
    import redis.asyncio.connection
    import redis.connection
    from redis.crc import key_slot
    from redis.exceptions import ClusterDownError, RedisError
except ImportError as exc:
    raise missing("redis", "redis") from exc

__all__ = [
    "Address",
    "Cluster",
    "Connections",
    "NoPrimaryError",
    "OneServer",
    "Sentinel",
    "Topology",
    "UnknownServiceError",
    "fields",
    "is_tls",
]

Address = tuple[str, int]
Request = tuple[Any, ...]

# Everything that a script of a session may touch. On a Cluster it is declared: while a slot moves,
# a session's keys lie on two nodes, and the server then answers TRYAGAIN and runs nothing.
_SESSION = (b":h:", b":r:", b":i:", b":c0:", b":c1:", b":x:")
_INDEX = (b":k", b":t", b":e")


class UnknownServiceError(RedisError):
    """No Sentinel knows a service of that name."""


class NoPrimaryError(RedisError):
    """Sentinel names a server that is not, or not yet, a primary."""


class Connections:
    """Idle connections to one server, all of them connected and sound; and how to make more.

    Args:
        connection_class: redis-py's, sync or async.
        options: what it is made with.
        retry: redis-py's retry that never tries again.
        primary: whether a server that is a replica is refused.
    """

    def __init__(
        self, connection_class: Any, options: dict[str, Any], retry: Any, *, primary: bool = False
    ) -> None:
        self._class = connection_class
        self._options = options
        self._retry = retry
        self._idle: list[Any] = []
        self.primary = primary

    @property
    def tls(self) -> bool:
        """Whether they are spoken to over TLS."""
        return is_tls(self._class)

    @property
    def host(self) -> str:
        """The server's name or address."""
        return str(self._options.get("host", ""))

    def at(self, address: Address, *, primary: bool = False, **options: Any) -> Connections:
        """Connections of the same kind to another server."""
        host, port = address
        options = {**self._options, **options, "host": host, "port": port}
        return Connections(self._class, options, self._retry, primary=primary)

    def take(self) -> Any | None:
        """A connected connection, or None."""
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def make(self, seconds: float | None) -> Any:
        """A connection that is not connected yet and waits so long for an answer."""
        timeouts = {"socket_timeout": seconds, "socket_connect_timeout": seconds}
        return self._class(**{**self._options, **timeouts, "retry": self._retry})

    def give_back(self, connection: Any) -> None:
        """Keep a sound connection for the next caller."""
        self._idle.append(connection)

    def take_all(self) -> list[Any]:
        """Every idle connection, to close them."""
        idle, self._idle = self._idle, []
        return idle


class Asking(Protocol):
    """What a topology needs of a transport."""

    seconds: float

    def within(self, seconds: float) -> Asking:
        """The same transport, for an attempt that has so many seconds."""

    async def exchange(self, connections: Connections, requests: Sequence[Request]) -> list[Any]:
        """The replies; errors among them are values."""


class Topology(ABC):
    """Where buckets are. What is learnt is kept until ``forget``."""

    #: Whether a server may answer that another one has the bucket.
    moves = False

    @abstractmethod
    def of(self, bucket: bytes) -> Connections | None:
        """The server of a bucket, if that is known."""

    @abstractmethod
    async def learn(self, t: Asking, bucket: bytes) -> Connections:
        """The server of a bucket, asked for.

        Raises:
            NotDone: nobody knows it now.
        """

    def forget(self) -> None:
        """Ask again at the next call: what is known may have changed."""

    def at(self, address: Address) -> Connections:
        """The server at an address that another one named."""
        raise NotImplementedError

    def keys(self, bucket: bytes, session: bytes | None) -> Request:
        """What a script declares: how many keys, and these; the bucket is the first."""
        return (b"1", bucket)

    @abstractmethod
    def everything(self) -> Iterable[Connections]:
        """All connections, to close them."""


class OneServer(Topology):
    """A server that is known."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def of(self, bucket: bytes) -> Connections:
        """The server."""
        return self._connections

    async def learn(self, t: Asking, bucket: bytes) -> Connections:
        """The server."""
        return self._connections

    def everything(self) -> Iterable[Connections]:
        """Its connections."""
        return [self._connections]


async def _ask(
    t: Asking, seed: Connections, among: int, requests: Sequence[Request]
) -> list[Any] | BaseException:
    """The replies of one of several servers that may be asked, or why there are none.

    All of them together may take half of the attempt's time.
    """
    try:
        replies = await t.within(max(0.05, t.seconds / (2 * among))).exchange(seed, requests)
    except NotDone as exc:
        return exc.__cause__ or exc
    except (RedisError, OSError) as exc:
        return exc
    return next((reply for reply in replies if isinstance(reply, RedisError)), replies)


class Sentinel(Topology):
    """The primary that Sentinels name (redis.io, "Guidelines for Redis clients with Sentinel").

    All of them are asked, and the one with the newest configuration is believed: another may name,
    for some seconds, a primary that was replaced and that came back with what it had.

    Args:
        seeds: the Sentinels.
        server: what connections to the primary are made like.
        service: its name among theirs.
    """

    # States of a failover in which it is not certain yet that a replica takes over.
    _UNDECIDED = (b"wait_start", b"select_slave", b"send_slaveof_noone", b"wait_promotion")

    def __init__(self, seeds: Sequence[Connections], server: Connections, service: str) -> None:
        self._seeds = seeds
        self._server = server
        self._service = service
        # Kept, so that what a former primary's last callers give back is closed in the end.
        self._servers: dict[Address, Connections] = {}
        self._primary: Connections | None = None

    def of(self, bucket: bytes) -> Connections | None:
        """The primary, if that is known."""
        return self._primary

    async def learn(self, t: Asking, bucket: bytes) -> Connections:
        """The primary, asked for."""
        questions: list[Request] = [
            (b"SENTINEL", b"MASTER", self._service),
            (b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", self._service),
        ]
        failure: BaseException | None = None
        newest, undecided, address = -1, False, None
        for seed in self._seeds:
            answer = await _ask(t, seed, len(self._seeds), questions)
            if isinstance(answer, BaseException):
                failure = answer
                continue
            state = fields(answer[0])
            epoch = int(state[b"config-epoch"])
            if epoch > newest:
                newest, undecided, address = epoch, False, answer[1]
            if epoch == newest:
                undecided = undecided or state.get(b"failover-state") in self._UNDECIDED
        if undecided:
            raise NotDone from NoPrimaryError("the Sentinels are choosing a new primary")
        if address is None:
            if "No such master" in str(failure):
                raise UnknownServiceError(f"no Sentinel knows the service {self._service!r}")
            raise NotDone from failure
        place = (_text(address[0]), int(address[1]))
        if place not in self._servers:
            self._servers[place] = self._server.at(place, primary=True)
        self._primary = self._servers[place]
        return self._primary

    def forget(self) -> None:
        """Ask the Sentinels at the next call."""
        self._primary = None

    def everything(self) -> Iterable[Connections]:
        """Those to the Sentinels and to all that were primaries."""
        return [*self._seeds, *self._servers.values()]


class Cluster(Topology):
    """The primaries of a Cluster, by slot, as the first of its nodes that answers says.

    Args:
        seeds: some of its nodes.
    """

    moves = True

    def __init__(self, seeds: Sequence[Connections]) -> None:
        self._seeds = self._given = list(seeds)
        self._ranges: list[tuple[int, int, Address]] = []
        self._nodes: dict[Address, Connections] = {}
        self._buckets: dict[bytes, Connections] = {}

    def of(self, bucket: bytes) -> Connections | None:
        """The node of a bucket, if that is known."""
        found = self._buckets.get(bucket)
        if found is None:
            slot = key_slot(bucket)
            for first, last, address in self._ranges:
                if first <= slot <= last:
                    found = self._buckets[bucket] = self.at(address)
        return found

    async def learn(self, t: Asking, bucket: bytes) -> Connections:
        """The node of a bucket, asked for."""
        failure: BaseException = ClusterDownError("no node has the slot")
        seeds = self._seeds
        for seed in seeds:
            answer = await _ask(t, seed, len(seeds), [(b"CLUSTER", b"SLOTS")])
            if isinstance(answer, BaseException):
                failure = answer
                continue
            self._take_in(answer[0], seed)
            if (found := self.of(bucket)) is not None:
                return found
        self._seeds = seeds[1:] + seeds[:1]  # the next call asks another one first
        raise NotDone from failure

    def forget(self) -> None:
        """Ask a node at the next call."""
        self._ranges, self._buckets = [], {}

    def at(self, address: Address) -> Connections:
        """The node at an address."""
        node = self._nodes.get(address)
        if node is None:
            node = self._nodes[address] = self._seeds[0].at(address)
        return node

    def keys(self, bucket: bytes, session: bytes | None) -> Request:
        """Everything that the script may touch."""
        keys = [bucket, *(bucket + name for name in _INDEX)]
        if session is not None:
            keys += [bucket + name + session for name in _SESSION]
        return (b"%d" % len(keys), *keys)

    def everything(self) -> Iterable[Connections]:
        """Those to all nodes."""
        return [*self._seeds, *self._nodes.values()]

    def _take_in(self, reply: Any, seed: Connections) -> None:
        ranges = []
        for first, last, primary, *_ in reply:
            host = _text(primary[0] or b"")
            if host in ("", "?"):  # it does not know its own
                host = seed.host
            ranges.append((first, last, (host, int(primary[1]))))
        self._buckets, self._ranges = {}, ranges
        # The nodes of the URL may be gone one day; those that have slots now are asked first.
        nodes = [self.at(address) for address in {address for _, _, address in ranges}]
        self._seeds = [*nodes, *self._given]


def is_tls(connection_class: Any) -> bool:
    """Whether connections of a class of redis-py's are over TLS."""
    kinds = (redis.connection.SSLConnection, redis.asyncio.connection.SSLConnection)
    return issubclass(connection_class, kinds)


def fields(reply: Any) -> dict[bytes, Any]:
    """A reply of names and values, which is a list in RESP2 and a map in RESP3."""
    return reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=False))


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
