"""Redis for tests: a `redis-server` of our own, or the one the environment names."""

from __future__ import annotations

import socket
from contextlib import AbstractContextManager
from typing import Literal
from urllib.parse import quote

from tests.servers import GivenServer, Server, find, program

__all__ = ["RedisServer", "redis_server"]


class RedisServer(Server):
    """A Redis on 127.0.0.1.

    `appendfsync` is Redis's own setting; None keeps nothing on disk, so that the
    server is empty after a restart.
    """

    name = "redis"

    def __init__(
        self,
        *,
        appendfsync: Literal["everysec", "always"] | None = None,
        password: str | None = None,
        databases: int = 16,
    ) -> None:
        super().__init__()
        self.appendfsync = appendfsync
        self.password = password
        self.databases = databases

    @property
    def url(self) -> str:
        """The address of database 0, with the password."""
        login = f":{quote(self.password, safe='')}@" if self.password else ""
        return f"redis://{login}127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        """Return the command line; every setting is on it."""
        command = [program("redis-server", self.name), "--bind", "127.0.0.1"]
        command += ["--port", str(self.port), "--dir", str(self.directory)]
        command += ["--databases", str(self.databases), "--save", ""]
        if self.appendfsync is None:
            command += ["--appendonly", "no"]
        else:
            command += ["--appendonly", "yes", "--appendfsync", self.appendfsync]
        if self.password:
            command += ["--requirepass", self.password]
        return command

    def ready(self) -> bool:
        """Say whether PING is answered with PONG."""
        commands = [["AUTH", self.password]] if self.password else []
        commands += [["PING"], ["QUIT"]]
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"".join(_resp(command) for command in commands))
                with connection.makefile("rb") as replies:
                    return b"+PONG\r\n" in replies.read()
        except OSError:
            return False


def _resp(command: list[str]) -> bytes:
    words = [word.encode() for word in command]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in words)


def redis_server() -> AbstractContextManager[Server | GivenServer]:
    """Find a Redis for as long as the context lasts; its `url` is what a test needs.

    A test that hurts its server starts a `RedisServer` of its own.
    """
    return find(RedisServer)
