"""Where a PostgreSQL is: from a URL or arguments to what each driver connects with."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlencode

from chatstores.errors import InvalidURLError
from chatstores.registry import missing
from chatstores.url import StoreURL, parse_int, parse_text, refused

try:
    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine
except ImportError as exc:
    raise missing("sqlalchemy", "postgres") from exc

__all__ = ["LIBPQ", "PARSERS", "Place", "hosts_of", "place_of_client"]

PORT = 5432


def _one_of(*words: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if value not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        return str(value)

    return parse


#: libpq's options that both drivers honour; what the URL's own parts say is not among them.
#: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
LIBPQ: dict[str, Callable[[Any], Any]] = {
    "application_name": parse_text,
    "options": parse_text,
    "passfile": parse_text,
    "sslcert": parse_text,
    "sslcrl": parse_text,
    "sslkey": parse_text,
    "sslmode": _one_of("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "sslpassword": parse_text,
    "sslrootcert": parse_text,
    "target_session_attrs": _one_of(
        "any", "read-write", "read-only", "primary", "standby", "prefer-standby"
    ),
}
#: Those that name a file.
_FILES = ("passfile", "sslcert", "sslcrl", "sslkey", "sslrootcert")
_ONE_ONLY = "psycopg has it and asyncpg has not, and both must mean the same"
_TIMEOUT = "timeout= bounds every call, connecting included"
_PART = "it is a part of the URL, postgresql://user:password@host:5432/database"
#: Those that are refused, and why.
_REFUSED = {
    "connect_timeout": _TIMEOUT,
    "tcp_user_timeout": _TIMEOUT,
    "client_encoding": "it is always UTF8",
    **dict.fromkeys(("database", "dbname", "user", "username"), _PART),
    **{
        name: f"an engine of your own is no part of a URL: PostgresChatStore({name}=...) takes it"
        for name in ("client", "async_client")
    },
    **dict.fromkeys(
        (
            "channel_binding",
            "gssencmode",
            "gsslib",
            "hostaddr",
            "keepalives",
            "keepalives_count",
            "keepalives_idle",
            "keepalives_interval",
            "krbsrvname",
            "load_balance_hosts",
            "require_auth",
            "service",
            "ssl_max_protocol_version",
            "ssl_min_protocol_version",
            "sslnegotiation",
            "sslsni",
        ),
        _ONE_ONLY,
    ),
}
#: What a value of each option must be, beside those of the store's own.
PARSERS: dict[str, Callable[[Any], Any]] = {
    **LIBPQ,
    "host": parse_text,
    "port": parse_int,
    **{name: refused(reason) for name, reason in _REFUSED.items()},
}


@dataclass(frozen=True)
class Place:
    """Where the servers are.

    Attributes:
        hosts: (host, port) pairs; a host that begins with "/" is a socket's directory. None at
            all: the drivers' default.
        user: or None for the driver's default.
        password: or None.
        database: or None for the driver's default.
        options: of libpq.
    """

    hosts: tuple[tuple[str, int], ...] = ()
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    database: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_url(cls, url: StoreURL, options: dict[str, Any]) -> Place:
        """The place of a URL; takes libpq's options out of the others.

        Raises:
            InvalidURLError: the path is no database, or a host is named twice.
        """
        hosts = [(host, PORT if port is None else port) for host, port in url.hosts]
        directory, port = options.pop("host", None), options.pop("port", None)
        if directory is not None:
            if hosts:
                raise InvalidURLError("the option host: the URL names a host already")
            if not directory.startswith("/"):
                raise InvalidURLError(
                    "the option host: must be the directory of a socket, such as /run/postgresql; "
                    "a server stands before the path: postgresql://host:5432/database"
                )
            hosts = [(directory, PORT if port is None else port)]
        elif port is not None:
            raise InvalidURLError(
                "the option port: only beside host=/directory; a server's stands behind its name: "
                "postgresql://host:5432/database"
            )
        path = url.path.removeprefix("/")
        if "/" in path:
            raise InvalidURLError(
                "the path of a postgresql:// URL is the database: postgresql://host:5432/database"
            )
        return cls.of_arguments(hosts, url.username, url.password, path or None, options)

    @classmethod
    def of_arguments(
        cls,
        hosts: Sequence[tuple[str, Any]],
        user: str | None,
        password: str | None,
        database: str | None,
        options: dict[str, Any],
    ) -> Place:
        """The place of arguments; takes libpq's options out of the others.

        Raises:
            InvalidURLError: an argument is of a wrong type, or no host.
        """
        for name, value in {"user": user, "password": password, "database": database}.items():
            if value is not None and not isinstance(value, str):
                raise InvalidURLError(f"the option {name}: must be text")
        libpq = {name: options.pop(name) for name in LIBPQ if name in options}
        return cls(tuple(_address(*one) for one in hosts), user, password, database, libpq)

    def missing_file(self) -> str:
        """Which file of the options is not there: "sslcert: /own/bot.pem"; "" if all are."""
        for name in _FILES:
            if name in self.options and not os.path.exists(self.options[name]):
                return f"{name}: {self.options[name]}"
        return ""

    def url(self, query: Mapping[str, str]) -> str:
        """The URL of this place, without secrets."""
        options = {**self.options, **query}
        hosts = self.hosts
        if len(hosts) == 1 and hosts[0][0].startswith("/"):
            [(directory, port)] = hosts
            here = {"host": directory} if port == PORT else {"host": directory, "port": str(port)}
            options, hosts = {**here, **options}, ()
        path = f"/{self.database}" if self.database else ""
        return StoreURL("postgresql", hosts, self.user, None, path, options).public

    def for_psycopg(self, seconds: float, settings: Mapping[str, str]) -> dict[str, Any]:
        """What ``psycopg.connect`` is called with.

        Args:
            seconds: how long connecting may take; 2 is the least that psycopg knows.
            settings: of the server, for each session.
        """
        arguments: dict[str, Any] = dict(self.options)
        ours = [f"-c {name}={value}" for name, value in settings.items()]
        if ours:
            arguments["options"] = " ".join([*ours, arguments.get("options", "")]).strip()
        if self.hosts:
            arguments["host"] = ",".join(host for host, _ in self.hosts)
            arguments["port"] = ",".join(str(port) for _, port in self.hosts)
        arguments |= {
            "user": self.user,
            "password": self.password,
            "dbname": self.database,
            "connect_timeout": max(2, round(seconds)),
            "client_encoding": "UTF8",
        }
        return {name: value for name, value in arguments.items() if value is not None}

    def for_asyncpg(self, seconds: float, settings: Mapping[str, str]) -> dict[str, Any]:
        """What ``asyncpg.connect`` is called with; the arguments are those of `for_psycopg`."""
        options = dict(self.options)
        own = ("application_name", "options")
        settings = {**settings, **{name: options.pop(name) for name in own if name in options}}
        arguments: dict[str, Any] = {
            "dsn": f"postgresql://?{urlencode(options)}",
            "user": self.user,
            "password": self.password,
            "database": self.database,
            "server_settings": settings or None,
            "timeout": seconds,
        }
        if self.hosts:
            arguments["host"] = [host for host, _ in self.hosts]
            arguments["port"] = [port for _, port in self.hosts]
        return {name: value for name, value in arguments.items() if value is not None}


def _address(host: Any, port: Any) -> tuple[str, int]:
    if not host or (
        not host.startswith("/") and (host.count(":") == 1 or set(host) & set("/@[] "))
    ):
        raise InvalidURLError(
            "the host is a name, an address, or the directory of a socket; the port a number beside"
        )
    try:
        number = parse_int(port)
    except ValueError:
        number = 0
    if not 0 < number < 65536:
        raise InvalidURLError("the port must be a number, 1 to 65535")
    return host, number


def hosts_of(host: Any, port: Any) -> list[tuple[str, Any]]:
    """The arguments host and port as pairs; several hosts have commas between.

    Raises:
        InvalidURLError: the host is no text, or a URL.
    """
    if host is None:
        if port is not None:
            raise InvalidURLError("port= needs host=")
        return []
    if not isinstance(host, str):
        raise InvalidURLError(f"host must be text, not {type(host)!r}; an engine is client=")
    if "://" in host:
        raise InvalidURLError(
            "host: that is a URL; open_store(url) and PostgresChatStore.from_url(url) take one"
        )
    return [(name, PORT if port is None else port) for name in host.split(",")]


def place_of_client(client: Any, form: Literal["sync", "async"]) -> Place:
    """The place of an engine of SQLAlchemy.

    Raises:
        InvalidURLError: it is none, one of the other form, or on another driver.
    """
    kind, other, driver = (
        (Engine, AsyncEngine, "psycopg") if form == "sync" else (AsyncEngine, Engine, "asyncpg")
    )
    if not isinstance(client, kind):
        name = "client" if form == "sync" else "async_client"
        hint = ""
        if isinstance(client, other):
            hint = f": that is {'async_client' if form == 'sync' else 'client'}="
        elif isinstance(client, str):
            hint = ": open_store(url) takes a URL"
        raise InvalidURLError(
            f"{name}= takes a SQLAlchemy {kind.__name__}, not {type(client)!r}{hint}"
        )
    found = f"{client.dialect.name}+{client.dialect.driver}"
    if found != f"postgresql+{driver}":
        raise InvalidURLError(
            f"the {kind.__name__} must be on postgresql+{driver}://; it is on {found}://"
        )
    url = client.url
    host = url.host or url.query.get("host")
    port = url.port or url.query.get("port")
    number = int(port) if isinstance(port, int | str) and str(port).isdecimal() else PORT
    hosts = ((host, number),) if isinstance(host, str) else ()
    password = None if url.password is None else str(url.password)
    return Place(hosts, url.username, password, url.database)
