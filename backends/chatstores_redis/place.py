"""Where the servers are: from a URL or arguments to a topology, and back to a URL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from chatstores.errors import InvalidURLError
from chatstores.registry import missing
from chatstores.url import StoreURL, parse_int
from chatstores_redis.topology import (
    Address,
    Cluster,
    Connections,
    OneServer,
    Sentinel,
    Topology,
    is_tls,
)

try:
    import redis
    import redis.asyncio.connection
    import redis.connection
    from redis.asyncio.retry import Retry as AsyncRetry
    from redis.backoff import NoBackoff
    from redis.retry import Retry
except ImportError as exc:
    raise missing("redis", "redis") from exc

__all__ = [
    "SCHEMES",
    "Kind",
    "Place",
    "login_refused",
    "place_of_arguments",
    "place_of_client",
    "place_of_url",
    "topology",
]

Kind = Literal["server", "socket", "sentinel", "cluster"]
Form = Literal["sync", "async"]

#: Scheme -> what it names, and whether it is spoken to over TLS.
SCHEMES: Mapping[str, tuple[Kind, bool]] = {
    "redis": ("server", False),
    "rediss": ("server", True),
    "unix": ("socket", False),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
}
_PORTS: Mapping[Kind, int] = {"server": 6379, "sentinel": 26379, "cluster": 6379}


@dataclass(frozen=True)
class Place:
    """Where the servers are, and how connections to them are made.

    Attributes:
        kind: one server, one over a socket file, a service of Sentinels, or a Cluster.
        tls: whether over TLS.
        hosts: the server, the Sentinels, or some nodes of the Cluster.
        path: the socket file.
        service: what the Sentinels call the server.
        settings: redis-py's arguments of a connection, but the address.
        sentinel_settings: those of a connection to a Sentinel.
        connection_class: redis-py's, if a client was given; sync or async as that is.
    """

    kind: Kind = "server"
    tls: bool = False
    hosts: Sequence[Address] = ()
    path: str = ""
    service: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    sentinel_settings: Mapping[str, Any] = field(default_factory=dict)
    connection_class: Any = None

    def url(self, query: Mapping[str, str]) -> str:
        """The URL, without secrets."""
        scheme = next(name for name, what in SCHEMES.items() if what == (self.kind, self.tls))
        database = self.settings.get("db") or 0
        path = f"/{database}"
        if self.kind == "cluster":
            path = ""
        elif self.kind == "sentinel":
            path = f"/{self.service}/{database}"
        elif self.kind == "socket":
            path, query = self.path, {"db": str(database), **query}
        # A user without a password is likely a password in the wrong place: it is not shown.
        user = self.settings.get("username") if self.settings.get("password") else None
        return StoreURL(scheme, tuple(self.hosts), user, None, path, query).public


def place_of_url(url: StoreURL, options: dict[str, Any]) -> dict[str, Any]:
    """A URL's parts as arguments of RedisChatStore, beside its options.

    Raises:
        InvalidURLError: a part is missing, or is one too many.
    """
    kind, tls = SCHEMES[url.scheme]
    given: dict[str, Any] = {"username": url.username, "password": url.password, **options}
    if tls:
        given["ssl"] = True
    if kind == "socket":
        if url.hosts or not url.path.strip("/"):
            raise InvalidURLError("unix:// takes the path of a socket: unix:///run/redis.sock?db=0")
        return given | {"unix_socket_path": url.path}
    usual = _PORTS[kind]
    hosts = [(host or "localhost", usual if port is None else port) for host, port in url.hosts]
    parts = url.path.strip("/").split("/") if url.path.strip("/") else []
    if kind == "sentinel":
        if not hosts or not 1 <= len(parts) <= 2:
            raise InvalidURLError(
                f"{url.scheme}:// takes the Sentinels and the service's name: "
                f"{url.scheme}://host1:26379,host2:26379/mymaster"
            )
        given |= {"sentinels": hosts, "service": parts.pop(0)}
    elif kind == "cluster":
        if not hosts:
            raise InvalidURLError(f"{url.scheme}:// takes nodes: {url.scheme}://host1,host2")
        given |= {"cluster_nodes": hosts}
    elif len(hosts) > 1:
        raise InvalidURLError(
            f"{url.scheme}:// takes one host; for several there are {url.scheme}+cluster:// and "
            f"{url.scheme}+sentinel://host1,host2/service"
        )
    elif hosts:
        given |= {"host": hosts[0][0], "port": hosts[0][1]}
    if parts:
        given["db"] = _database(url.scheme, parts, options)
    return given


def _database(scheme: str, parts: Sequence[str], options: Mapping[str, Any]) -> int:
    if len(parts) > 1 or not parts[0].isdecimal():
        raise InvalidURLError(f"what follows {scheme}://host:port/ is the database's number")
    if "db" in options:
        raise InvalidURLError("given in the URL's path and as an option: db")
    return int(parts[0])


def login_refused(
    where: str, *, user: bool, password: bool, beside: str = "password=... beside the URL"
) -> str:
    """What a refused login means.

    Args:
        where: the URL, which shows no user without a password.
        user: whether a user was given.
        password: whether a password was given.
        beside: how one is given, if not in the URL.
    """
    if password:
        return f"{where} refused the user or password"
    how = f"{where.partition('://')[0]}://:password@..., or {beside}"
    if user:
        return f"{where} refused the user, who has no password; a password alone stands as {how}"
    return f"{where} wants a password: {how}"


def _address(given: Any, what: str) -> Address:
    if not isinstance(given, list | tuple) or len(given) != 2 or not isinstance(given[0], str):
        raise InvalidURLError(
            f"{what} must be text and a number, such as 'localhost', 6379 (a client is client=)"
        )
    host, port = given
    if "://" in host:
        raise InvalidURLError(
            f"{what}: that is a URL; open_store(url) and RedisChatStore.from_url(url) take one"
        )
    if not host or host.count(":") == 1 or set(host) & set("/@[] "):
        raise InvalidURLError(f"{what}: the host is a name or an address, the port a number beside")
    try:
        number = parse_int(port)
    except ValueError:
        number = 0
    if not 0 < number < 65536:
        raise InvalidURLError(f"{what}: the port must be a number, 1 to 65535")
    return host, number


def _addresses(given: Any, what: str) -> list[Address]:
    if not isinstance(given, list | tuple) or not given:
        raise InvalidURLError(f"{what} must be a list of (host, port)")
    return [_address(one, what) for one in given]


def place_of_arguments(
    settings: dict[str, Any],
    server: tuple[str | None, int | None],
    *,
    tls: bool,
    path: str | None,
    sentinels: Sequence[Address] | None,
    service: str | None,
    nodes: Sequence[Address] | None,
) -> Place:
    """The place that arguments of RedisChatStore name.

    Raises:
        InvalidURLError: an argument means nothing there.
    """
    given = (None if server == (None, None) else server, path, sentinels, nodes)
    if sum(one is not None for one in given) > 1:
        raise InvalidURLError(
            "one of host and port, unix_socket_path=, sentinels= and cluster_nodes=, not several"
        )
    sentinel = {
        name.removeprefix("sentinel_"): settings.pop(name)
        for name in ("sentinel_username", "sentinel_password")
        if name in settings
    }
    if settings.get("credential_provider") and (
        settings.get("username") or settings.get("password")
    ):
        raise InvalidURLError("credential_provider= gives the user and password: leave those out")
    certificates = {name: value for name, value in settings.items() if name.startswith("ssl_")}
    if certificates and not tls:
        raise InvalidURLError(
            f"{', '.join(sorted(certificates))}: only with TLS (rediss://, or ssl=True)"
        )
    if sentinels is not None:
        if not service:
            raise InvalidURLError("sentinels= needs service=, what they call the server")
        asked = {**certificates, **sentinel}
        hosts = _addresses(sentinels, "sentinels=")
        return Place("sentinel", tls, hosts, "", service, settings, asked)
    if sentinel or service:
        raise InvalidURLError(
            "service and sentinel_* belong to Sentinels (redis+sentinel://, or sentinels=)"
        )
    if nodes is not None:
        if settings.pop("db"):
            raise InvalidURLError("a Cluster has no databases but number 0")
        return Place("cluster", tls, _addresses(nodes, "cluster_nodes="), settings=settings)
    if path is not None:
        if tls:
            raise InvalidURLError("a socket file is not spoken to over TLS")
        return Place("socket", path=path, settings=settings)
    host, port = server
    address = _address(
        ("localhost" if host is None else host, 6379 if port is None else port), "host and port"
    )
    return Place("server", tls, (address,), settings=settings)


def _checked(client: Any, form: Form) -> None:
    kinds: dict[Form, Any] = {
        "sync": (redis.Redis, redis.RedisCluster),
        "async": (redis.asyncio.Redis, redis.asyncio.RedisCluster),
    }
    if isinstance(client, kinds[form]):
        return
    name, module = ("client", "redis") if form == "sync" else ("async_client", "redis.asyncio")
    hint = ""
    if isinstance(client, kinds["async" if form == "sync" else "sync"]):
        hint = f": that is {'async_client' if form == 'sync' else 'client'}="
    elif isinstance(client, str):
        hint = ": open_store(url) takes a URL"
    raise InvalidURLError(
        f"{name}= takes a {module}.Redis or {module}.RedisCluster, not {type(client)!r}{hint}"
    )


def place_of_client(client: Any, form: Form) -> Place:
    """The place of a client of redis-py: of a server, of a Sentinel's service, or of a Cluster.

    Raises:
        InvalidURLError: it is no client, or one of the other form.
    """
    _checked(client, form)
    if hasattr(client, "nodes_manager"):
        nodes = [
            (str(node.host), int(node.port)) for node in client.nodes_manager.startup_nodes.values()
        ]
        if hasattr(client, "get_redis_connection"):
            pool = client.get_redis_connection(client.get_default_node()).connection_pool
            made_with, settings = pool.connection_class, pool.connection_kwargs
        else:
            settings = dict(client.connection_kwargs)
            made_with = settings.pop("connection_class", redis.asyncio.connection.Connection)
        return Place("cluster", is_tls(made_with), nodes, "", "", _own(settings), {}, made_with)
    pool = client.connection_pool
    settings = {"host": "localhost", "port": 6379, **pool.connection_kwargs}
    service = getattr(pool, "service_name", None)
    if service is not None:
        if not pool.is_master:
            raise InvalidURLError("a client of replicas (slave_for) cannot write: use master_for")
        sentinels = [
            one.connection_pool.connection_kwargs for one in pool.sentinel_manager.sentinels
        ]
        return Place(
            "sentinel",
            is_tls(pool.connection_class),
            [(str(one["host"]), int(one["port"])) for one in sentinels],
            service=service,
            settings=_own(settings),
            connection_class=pool.connection_class,
        )
    path = settings.get("path", "")
    return Place(
        "socket" if path else "server",
        is_tls(pool.connection_class),
        () if path else ((str(settings["host"]), int(settings["port"])),),
        path,
        settings=_own(settings),
        connection_class=pool.connection_class,
    )


def _own(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings for a connection of ours: no retries, replies as bytes, nothing of a pool."""
    dropped = (
        "retry",
        "retry_on_error",
        "retry_on_timeout",
        "decode_responses",
        "max_connections",
        "response_callbacks",
    )
    return {
        name: value
        for name, value in settings.items()
        if name not in dropped and not name.startswith(("maint_", "orig_", "oss_"))
    }


def topology(place: Place, form: Form) -> Topology:
    """What finds the place's servers, with connections of a form. No I/O."""
    module: Any = redis.connection if form == "sync" else redis.asyncio.connection
    retry = (Retry if form == "sync" else AsyncRetry)(NoBackoff(), 0)
    made_with = place.connection_class or (
        module.UnixDomainSocketConnection
        if place.kind == "socket"
        else module.SSLConnection
        if place.tls
        else module.Connection
    )
    address = {"path": place.path} if place.kind == "socket" else {}
    server = Connections(made_with, {**place.settings, **address}, retry)
    if place.kind == "cluster":
        return Cluster([server.at(node) for node in place.hosts])
    if place.kind == "socket" or place.connection_class:  # redis-py's own finds Sentinel's primary
        return OneServer(server)
    if place.kind == "server":
        return OneServer(server.at(place.hosts[0]))
    sentinel = Connections(made_with, dict(place.sentinel_settings), retry)
    return Sentinel([sentinel.at(one) for one in place.hosts], server, place.service)
