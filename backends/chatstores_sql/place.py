"""Where a PostgreSQL is: from a URL or arguments to what each driver connects with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from chatstores.errors import InvalidURLError
from chatstores.url import StoreURL

__all__ = ["LIBPQ", "REFUSED", "Place"]

#: libpq's options that both drivers honour; what the URL's own parts say is not among them.
#: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
LIBPQ = (
    "application_name",
    "host",
    "options",
    "passfile",
    "sslcert",
    "sslcrl",
    "sslkey",
    "sslmode",
    "sslpassword",
    "sslrootcert",
    "target_session_attrs",
)
_ONE_ONLY = "is an option of psycopg that asyncpg has not; both must mean the same"
_TIMEOUT = "is refused: timeout= bounds every call, connecting included"
#: Those that are refused, and why.
REFUSED = {
    "connect_timeout": _TIMEOUT,
    "tcp_user_timeout": _TIMEOUT,
    "client_encoding": "is refused: it is always UTF8",
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
PORT = 5432


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
        path = url.path.removeprefix("/")
        if "/" in path:
            raise InvalidURLError(
                "the path of a postgresql:// URL is the database: postgresql://host:5432/database"
            )
        return cls.of_arguments(hosts, url.username, url.password, path or None, options)

    @classmethod
    def of_arguments(
        cls,
        hosts: Sequence[tuple[str, int]],
        user: str | None,
        password: str | None,
        database: str | None,
        options: dict[str, Any],
    ) -> Place:
        """The place of arguments; takes libpq's options out of the others."""
        libpq = {name: options.pop(name) for name in LIBPQ if name in options}
        if directory := libpq.pop("host", None):
            if hosts:
                raise InvalidURLError("the option host: the URL names a host already")
            hosts = [(directory, PORT)]
        return cls(tuple(hosts), user, password, database, libpq)

    def url(self, query: Mapping[str, str]) -> str:
        """The URL of this place, without secrets."""
        options = {**self.options, **query}
        hosts = self.hosts
        if len(hosts) == 1 and hosts[0][0].startswith("/"):
            options, hosts = {"host": hosts[0][0], **options}, ()
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

    def for_asyncpg(self, settings: Mapping[str, str]) -> dict[str, Any]:
        """What ``asyncpg.connect`` is called with; the settings are the server's, for a session."""
        options = dict(self.options)
        own = ("application_name", "options")
        settings = {**settings, **{name: options.pop(name) for name in own if name in options}}
        arguments: dict[str, Any] = {
            "dsn": f"postgresql://?{urlencode(options)}",
            "user": self.user,
            "password": self.password,
            "database": self.database,
            "server_settings": settings or None,
        }
        if self.hosts:
            arguments["host"] = [host for host, _ in self.hosts]
            arguments["port"] = [port for _, port in self.hosts]
        return {name: value for name, value in arguments.items() if value is not None}
