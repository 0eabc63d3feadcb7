"""PostgreSQL for tests: a server of our own with a standby and PgBouncer, or a given one."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import psycopg
from psycopg import sql

from tests.servers import (
    GivenServer,
    Scratch,
    Server,
    ServerError,
    as_user,
    find,
    program,
    unprivileged,
    wait_until,
)
from tests.servers.certificates import certificates

__all__ = ["PgBouncer", "PostgresServer", "PostgresStandby", "postgres_server"]

_SUPERUSER = "postgres"
_OWNER = "chats"
_RESTRICTED = "chats_restricted"
_DATABASE = "chats"


class PostgresServer(Server):
    """A PostgreSQL on 127.0.0.1 with a database `chats`, which belongs to the role `chats`.

    That role may create in its database and is no superuser, as at a hosting service. The
    database sorts by the rules of English, so that a query that forgets to say how it sorts is
    found out.

    Args:
        fsync: PostgreSQL's own setting. Without it a commit outlives `kill` and `halt` all the
            same, since the system has it; only a system's crash could lose it. Benchmarks need it.
        password: of the roles, by SCRAM, or None: nobody is asked for one.
        tls: whether it speaks nothing else, and wants a client's certificate.
        settings: further settings of postgresql.conf.
    """

    name = "postgres"
    refuses_root = True
    end_signal = signal.SIGINT
    abort_signal = signal.SIGQUIT

    def __init__(
        self,
        *,
        fsync: bool = False,
        password: str | None = None,
        tls: bool = False,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.fsync = fsync
        self.password = password
        self.tls = tls
        self.settings = dict(settings or {})

    @property
    def url(self) -> str:
        """The address of the database for its owner, with the password."""
        return self._url(_OWNER)

    @property
    def data(self) -> Path:
        """PostgreSQL's own directory."""
        return self.directory / "data"

    def command(self) -> list[str]:
        """Make the data, the first time, and return the command line; every setting is on it."""
        command = [_binary("postgres"), "-D", str(self.data)]
        if not self.data.exists():
            self.make_data()
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.directory),
            "hba_file": str(self.write("pg_hba.conf", self._access())),
            "fsync": "on" if self.fsync else "off",
            "max_connections": "200",
        }
        if self.tls:
            files = certificates()
            settings["ssl"] = "on"
            for setting, file in {
                "ssl_ca_file": files.ca,
                "ssl_cert_file": files.server,
                "ssl_key_file": files.server_key,
            }.items():
                settings[setting] = str(self.write(f"{setting}.pem", Path(file).read_text()))
        for setting, value in {**settings, **self.settings}.items():
            command += ["-c", f"{setting}={value}"]
        return command

    def start(self) -> None:
        """Start the server, the first time with its roles and its database."""
        first = not self.data.exists()
        super().start()
        if first:
            try:
                self.prepare()
            except BaseException:
                self.stop()
                raise

    def ready(self) -> bool:
        """Say whether it takes a connection."""
        try:
            with self.client():
                return True
        except psycopg.OperationalError:
            return False

    def make_data(self) -> None:
        """Copy the data of a server that was never started."""
        _as_postgres(["/bin/cp", "-R", str(_template()), str(self.data)])

    def prepare(self) -> None:
        """Do what a server that has never run needs."""
        self._set_password(_OWNER)

    def client(self) -> psycopg.Connection[tuple[Any, ...]]:
        """A connection of the superuser, by the socket file; it commits by itself."""
        return psycopg.connect(
            host=str(self.directory),
            port=self.port,
            user=_SUPERUSER,
            dbname=_DATABASE,
            autocommit=True,
        )

    def execute(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run a statement as the superuser in the database `chats`; return its rows, if any."""
        with self.client() as client:
            cursor = client.execute(statement.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def configure(self, **settings: str) -> None:
        """Set settings that need no restart, for good; those of `settings` go before them."""
        for setting, value in settings.items():
            with self.client() as client:
                client.execute(_compose("ALTER SYSTEM SET {0} = {1}", setting, sql.Literal(value)))
        self.execute("SELECT pg_reload_conf()")

    def restricted(self, schema: str = "public") -> str:
        """Return the URL of a role that may only read and write the rows of a schema's tables.

        They are the tables that are there now. Of everything else it may do nothing, create a
        temporary table included.
        """
        with self.client() as client:
            if not client.execute(
                "SELECT FROM pg_roles WHERE rolname = %s", [_RESTRICTED]
            ).fetchall():
                client.execute(_compose("CREATE ROLE {0} LOGIN", _RESTRICTED))
                self._set_password(_RESTRICTED)
            for statement in (
                "REVOKE TEMPORARY ON DATABASE {0} FROM PUBLIC",
                "GRANT USAGE ON SCHEMA {1} TO {2}",
                "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {1} TO {2}",
            ):
                client.execute(_compose(statement, _DATABASE, schema, _RESTRICTED))
        return self._url(_RESTRICTED)

    def standby(self, *, synchronous: bool = True) -> PostgresStandby:
        """Return a standby of this server, which runs, that is to be started; see there."""
        return PostgresStandby(self, synchronous=synchronous)

    def halt(self, *, immediate: bool = False) -> None:
        """Stop the server and keep its data, with which `start` goes on.

        Args:
            immediate: whether it stops as in a crash, its sessions cut off without a checkpoint
                (`pg_ctl stop -m immediate`), or else in order (`-m fast`).
        """
        self._end(signal.SIGQUIT if immediate else None)

    def kill(self) -> None:
        """Kill every process that writes (SIGKILL): none has time to write anything.

        The postmaster, which writes no data, is left to bury them: a new server would not start
        beside one that is not yet gone.
        """
        self._to_all(signal.SIGKILL)
        self.halt(immediate=True)

    def pause(self) -> None:
        """Stop the clock of every process (SIGSTOP)."""
        self._to_all(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused server go on (SIGCONT)."""
        self._to_all(signal.SIGCONT)
        super().resume()

    def _to_all(self, number: signal.Signals) -> None:
        """Stop the postmaster, so that there is no new process, and signal all the others.

        The processes of sessions are not in its group.
        """
        self._signal(signal.SIGSTOP)
        for child in self._children():
            os.kill(child, number)

    def _children(self) -> set[int]:
        if self._process is None:
            return set()
        return {pid for pid, parent in _alive().items() if parent == self._process.pid}

    def _set_password(self, role: str) -> None:
        with self.client() as client:
            client.execute(
                _compose("ALTER ROLE {0} PASSWORD {1}", role, sql.Literal(self.password))
            )

    def _url(self, role: str) -> str:
        login = f"{role}:{quote(self.password, safe='')}" if self.password else role
        url = f"postgresql://{login}@127.0.0.1:{self.port}/{_DATABASE}"
        if not self.tls:
            return url
        files = certificates()
        query = {
            "sslmode": "verify-full",
            "sslrootcert": files.ca,
            "sslcert": files.client,
            "sslkey": files.client_key,
        }
        return f"{url}?{urlencode(query)}"

    def _access(self) -> str:
        """Who may connect how: by the socket file, which lies in a closed directory, all."""
        way = "scram-sha-256" if self.password else "trust"
        tcp = f"hostssl all all 127.0.0.1/32 {way} clientcert=verify-ca"
        if not self.tls:
            tcp = f"host all all 127.0.0.1/32 {way}"
        return f"local all all trust\nlocal replication all trust\n{tcp}\n"


class PostgresStandby(PostgresServer):
    """A streaming standby of a server; it can be read, and `promote` makes it a primary.

    Args:
        primary: the server that it follows, which must run when this one starts.
        synchronous: whether a commit on the primary waits until it is on the standby's disk.
            It then waits for as long as the standby is away, until
            `primary.configure(synchronous_standby_names="")`.
    """

    application_name = "standby"

    def __init__(self, primary: PostgresServer, *, synchronous: bool = True) -> None:
        super().__init__(
            fsync=primary.fsync,
            password=primary.password,
            tls=primary.tls,
            settings=primary.settings,
        )
        self.primary = primary
        self.synchronous = synchronous

    def make_data(self) -> None:
        """Copy the primary's data while it runs, with the settings that follow it."""
        primary = self.primary
        where = f"host={primary.directory} port={primary.port} user={_SUPERUSER}"
        where += f" application_name={self.application_name}"
        command = [_binary("pg_basebackup"), "--pgdata", str(self.data), "--dbname", where]
        _as_postgres([*command, "--write-recovery-conf", "--checkpoint=fast", "--no-sync"])

    def prepare(self) -> None:
        """Return when it streams, in step with the primary where it is synchronous."""
        if self.synchronous:
            self.primary.configure(synchronous_standby_names=f"FIRST 1 ({self.application_name})")
        state = "sync" if self.synchronous else "async"
        wait_until(f"the standby is {state}", lambda: self._state() == state)

    def promote(self) -> None:
        """Make it a primary; the one that it followed is not told."""
        if self.execute("SELECT pg_promote()") != [(True,)]:
            raise ServerError("the standby was not promoted")

    def _state(self) -> str | None:
        states = self.primary.execute(
            "SELECT sync_state FROM pg_stat_replication WHERE state = 'streaming'"
            " AND application_name = %s",
            self.application_name,
        )
        return str(states[0][0]) if states else None


class PgBouncer(Server):
    """A PgBouncer in transaction mode in front of a server: a session's next transaction may
    have another connection.

    So what belongs to a session is lost or another's: `SET`, `LISTEN`, advisory locks of the
    session, temporary tables, and named prepared statements, unless it is 1.21 or newer and
    `max_prepared_statements` is not 0. Debian 12 has 1.18, where a driver must not prepare
    (psycopg: `prepare_threshold=None`; asyncpg: `statement_cache_size=0`). A parameter at
    connecting which it does not know is refused, unless `ignore_startup_parameters` names it.

    Args:
        server: the PostgreSQL, which runs; its roles and their password are good here, too.
        pool_size: how many connections to the server it opens at most.
        settings: further settings of its file.
    """

    name = "pgbouncer"
    refuses_root = True

    def __init__(
        self,
        server: PostgresServer,
        *,
        pool_size: int = 20,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.server = server
        self.settings = {"default_pool_size": str(pool_size), **(settings or {})}

    @property
    def url(self) -> str:
        """The address of the database for its owner, with the password; without TLS."""
        password = self.server.password
        login = f"{_OWNER}:{quote(password, safe='')}" if password else _OWNER
        return f"postgresql://{login}@127.0.0.1:{self.port}/{_DATABASE}"

    def command(self) -> list[str]:
        """Write its file and the list of users, and return what to run."""
        password = (self.server.password or "").replace('"', '""')
        users = "".join(f'"{user}" "{password}"\n' for user in (_OWNER, _RESTRICTED))
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": str(self.port),
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256" if self.server.password else "trust",
            "auth_file": str(self.write("users.txt", users)),
            "pool_mode": "transaction",
            "max_client_conn": "500",
            **self.settings,
        }
        lines = ["[databases]", f"* = host={self.server.directory} port={self.server.port}"]
        lines += ["[pgbouncer]", *(f"{name} = {value}" for name, value in settings.items())]
        file = self.write("pgbouncer.ini", "\n".join(lines) + "\n")
        return [program("pgbouncer", self.name, "/usr/sbin", "/usr/local/sbin"), str(file)]

    def ready(self) -> bool:
        """Say whether it passes a connection on to the server."""
        try:
            with psycopg.connect(self.url):
                return True
        except psycopg.OperationalError:
            return False


def postgres_server() -> AbstractContextManager[Server | GivenServer]:
    """Find a PostgreSQL for as long as the context lasts; its `url` is what a test needs.

    A test that hurts its server starts a `PostgresServer` of its own.
    """
    return find(PostgresServer)


@cache
def _template() -> Path:
    """The data of a server that was never started; a copy is made faster than the data."""
    data = Scratch("postgres-template", unprivileged()).path / "data"
    command = [_binary("initdb"), "--pgdata", str(data), "--username", _SUPERUSER]
    _as_postgres([*command, "--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C"])
    # Single-user mode: each line is a statement.
    said = _as_postgres(
        [_binary("postgres"), "--single", "-D", str(data), "-c", "fsync=off", "postgres"],
        f"CREATE ROLE {_OWNER} LOGIN\n"
        f"CREATE DATABASE {_DATABASE} OWNER {_OWNER} TEMPLATE template0"
        " LOCALE_PROVIDER icu ICU_LOCALE 'en-US'\n",
    )
    if "ERROR" in said:
        raise ServerError(said)
    return data


def _binary(name: str) -> str:
    """Return the path of one of PostgreSQL's programs; all are of the newest version found.

    Debian has a folder for each version outside the PATH, on which only some of them are.
    """
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_version, reverse=True)
    initdb = program("initdb", PostgresServer.name, *map(str, versions))
    return str(Path(initdb).resolve().with_name(name))


def _version(binaries: Path) -> float:
    return float(binaries.parent.name)


def _as_postgres(command: list[str], given: str = "") -> str:
    """Run a program as the user that PostgreSQL runs as; return what it complained about."""
    done: subprocess.CompletedProcess[str] = subprocess.run(
        command, cwd="/", input=given, capture_output=True, text=True, **as_user(unprivileged())
    )
    if done.returncode:
        raise ServerError(f"{command[0]} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stderr


def _compose(statement: str, *parts: str | sql.Literal) -> sql.Composed:
    """Fill the places of a statement: a `str` is a name."""
    return sql.SQL(statement).format(
        *(sql.Identifier(part) if isinstance(part, str) else part for part in parts)
    )


def _alive() -> dict[int, int]:
    """The processes that have not ended, each with its parent's."""
    listed = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid=,stat="], capture_output=True, text=True, check=True
    )
    lines = [line.split() for line in listed.stdout.splitlines()]
    return {int(pid): int(parent) for pid, parent, state in lines if not state.startswith("Z")}
