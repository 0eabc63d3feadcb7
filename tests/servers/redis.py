"""Redis for tests: a `redis-server` of our own, or the one the environment names."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Literal
from urllib.parse import quote, urlencode

from redis import Redis, RedisError

from tests.servers import GivenServer, Server, as_user, find, program
from tests.servers.certificates import certificates

__all__ = ["RedisServer", "redis_server"]


class RedisServer(Server):
    """A Redis on 127.0.0.1.

    `appendfsync` is Redis's own setting; None keeps nothing on disk, so that the
    server is empty after a restart. With `tls` it speaks nothing else and wants a client's
    certificate. `settings` are further words of its command line.
    """

    name = "redis"

    def __init__(
        self,
        *,
        appendfsync: Literal["everysec", "always"] | None = None,
        password: str | None = None,
        databases: int = 16,
        tls: bool = False,
        settings: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.tls = tls
        self.settings = settings
        self.appendfsync = appendfsync
        self.password = password
        self.databases = databases

    @property
    def url(self) -> str:
        """The address of database 0, with the password."""
        login = f":{quote(self.password, safe='')}@" if self.password else ""
        if not self.tls:
            return f"redis://{login}127.0.0.1:{self.port}/0"
        files = certificates()
        query = {
            "ssl_ca_certs": files.ca,
            "ssl_certfile": files.client,
            "ssl_keyfile": files.client_key,
        }
        return f"rediss://{login}127.0.0.1:{self.port}/0?{urlencode(query)}"

    @property
    def socket(self) -> str:
        """The path of its socket file."""
        return str(self.directory / "redis.sock")

    def command(self) -> list[str]:
        """Return the command line; every setting is on it."""
        command = [program("redis-server", self.name), "--bind", "127.0.0.1"]
        command += ["--dir", str(self.directory), "--unixsocket", self.socket]
        if self.tls:
            files = certificates()
            command += ["--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "yes"]
            command += ["--tls-cert-file", files.server, "--tls-key-file", files.server_key]
            command += ["--tls-ca-cert-file", files.ca]
        else:
            command += ["--port", str(self.port)]
        command += ["--databases", str(self.databases), "--save", ""]
        if self.appendfsync is None:
            command += ["--appendonly", "no"]
        else:
            command += ["--appendonly", "yes", "--appendfsync", self.appendfsync]
            self._repair()
        if self.password:
            command += ["--requirepass", self.password, "--masterauth", self.password]
        return [*command, *self.settings]

    def _repair(self) -> None:
        """Cut off the transaction that a kill left half written.

        At its start the server itself cuts off the broken command only, and at the next start runs
        what stands before it: https://github.com/valkey-io/valkey/pull/4342.
        """
        manifest = self.directory / "appendonlydir" / "appendonly.aof.manifest"
        if manifest.exists():
            subprocess.run(
                [program("redis-check-aof", self.name), "--fix", manifest],
                input=b"y\n",
                check=True,
                stdout=subprocess.DEVNULL,
                **as_user(self.user),
            )

    def client(self) -> Redis:
        """A client of redis-py, with the password."""
        return Redis.from_url(f"unix://{self.socket}", password=self.password)

    def ready(self) -> bool:
        """Say whether PING is answered."""
        try:
            with self.client() as client:
                return bool(client.ping())
        except RedisError:
            return False


def redis_server() -> AbstractContextManager[Server | GivenServer]:
    """Find a Redis for as long as the context lasts; its `url` is what a test needs.

    A test that hurts its server starts a `RedisServer` of its own.
    """
    return find(RedisServer)
