"""Real servers for tests and benchmarks: how one is found, started, hurt and stopped.

A test finds a server in this order:

1. an address in the environment, `CHATSTORES_TEST_REDIS_URL` and the like;
2. a program on this machine, started on a free port with its own data directory
   and stopped at the end;
3. a skip that says what to install, or a failure where `CHATSTORES_TEST_STRICT=1`.

Each server has one module here, and one line in `install`.
"""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NoReturn, Self

import pytest

__all__ = ["GivenServer", "Server", "ServerError", "find", "free_port", "program", "unavailable"]

_WATCH = 'read -r _; kill -s KILL -- "-$1"; rm -rf -- "$2"'


class ServerError(RuntimeError):
    """A server did not start; the message ends with its log."""


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody uses.

    It lies below the ports that the kernel gives to outgoing connections, so that
    none of those takes it while the server is down.
    """
    while True:
        port = 15000 + secrets.randbelow(17000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def unavailable(what: str, how: str) -> NoReturn:
    """Skip the test for want of `what`, saying `how` to get it; fail where tests are strict."""
    message = f"{what} is not available; {how}"
    if os.environ.get("CHATSTORES_TEST_STRICT") == "1":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def program(name: str, server: str) -> str:
    """Return the path of a program on this machine, which `install` brings for `server`."""
    return shutil.which(name) or unavailable(name, f"run tests/servers/install {server}")


@dataclass(frozen=True)
class GivenServer:
    """A server that somebody else runs: the environment names its address."""

    url: str


class Server(ABC):
    """A server process of our own, with a port, a data directory and a log of its own."""

    name: ClassVar[str]
    """The server's name for `install` and, in capitals, for the environment."""

    start_seconds: ClassVar[float] = 30.0
    """How long it may take to answer."""

    def __init__(self) -> None:
        self.port = free_port()
        self._starter = os.getpid()
        self._directory: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """The address that a client opens."""

    @abstractmethod
    def command(self) -> list[str]:
        """Write what the server needs into its directory, and return what to run."""

    @abstractmethod
    def ready(self) -> bool:
        """Say whether the server answers."""

    @property
    def directory(self) -> Path:
        """The data directory: made when first asked for, kept by `restart`, removed by `stop`."""
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix=f"chatstores-{self.name}-"))
        return self._directory

    @property
    def log(self) -> Path:
        """The file that holds what the server printed."""
        return self.directory / "server.log"

    def start(self) -> None:
        """Start the server and return when it answers."""
        if self._process is not None:
            raise ServerError(f"{self.name} runs already")
        atexit.register(self.stop)
        try:
            self._process = self._run(self.command())
            self._watch(self._process)
            self._wait_until_ready(self._process)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server and remove its directory; nothing happens when that is done.

        Nor in a forked child of the process that started it, whose server it is not.
        """
        if os.getpid() != self._starter:
            return
        self._end()
        if self._directory is not None:
            shutil.rmtree(self._directory)
            self._directory = None
        atexit.unregister(self.stop)

    def restart(self) -> None:
        """Stop the server in order, unless it is dead, and start it with the same data."""
        self._end()
        self.start()

    def kill(self) -> None:
        """Kill the server (SIGKILL): it has no time to write anything."""
        self._signal(signal.SIGKILL)
        self._end()

    def pause(self) -> None:
        """Stop the server's clock (SIGSTOP): connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused server go on (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        """Start the server."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the server."""
        self.stop()

    def _run(self, command: list[str]) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None:
            raise ServerError(f"{self.name} does not run")
        if self._process.poll() is None:
            os.killpg(self._process.pid, number)

    def _end(self) -> None:
        """End the process, if there is one, and its watcher."""
        if self._process is None:
            return
        self._unwatch()
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait()
        self._process = None

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + self.start_seconds
        while process.poll() is None and time.monotonic() < deadline:
            # Another server may answer on this port while ours is giving up.
            if self.ready() and process.poll() is None:
                return
            time.sleep(0.01)
        ended = process.poll()
        why = "did not answer" if ended is None else f"ended with {ended}"
        tail = self.log.read_text(errors="replace").splitlines()[-20:]
        raise ServerError("\n".join([f"{self.name} {why}; the end of its log:", *tail]))

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """Have a shell end the server when this process is gone, however that came about.

        The shell waits for the end of a pipe whose other end only this process holds.
        PR_SET_PDEATHSIG would act at the end of the thread that started the server.
        """
        self._watcher = subprocess.Popen(
            ["/bin/sh", "-c", _WATCH, "watch", str(process.pid), str(self.directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _unwatch(self) -> None:
        if self._watcher is not None:
            self._watcher.kill()
            self._watcher.communicate()
            self._watcher = None


@contextmanager
def find(server: type[Server]) -> Iterator[Server | GivenServer]:
    """Find a server in the order above, for as long as the context lasts."""
    given = os.environ.get(f"CHATSTORES_TEST_{server.name.upper()}_URL")
    if given:
        yield GivenServer(given)
        return
    with server() as own:
        yield own
