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
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Self

import pytest

__all__ = [
    "GivenServer",
    "Scratch",
    "Server",
    "ServerError",
    "as_user",
    "find",
    "free_port",
    "program",
    "unavailable",
    "unprivileged",
    "wait_until",
]

#: Ends the process group that it was last told of, with the signal that it was told, and removes
#: a directory; both when the pipe it reads from is closed.
_WATCH = """
while read -r line; do told=$line; done
if [ -n "$told" ]; then
    pid=${told% *}
    kill -s "${told#* }" -- "-$pid"
    kill -s CONT -- "-$pid"
    tries=0
    while [ $((tries += 1)) -le 100 ]; do
        case $(ps -o stat= -p "$pid") in "" | Z*) break ;; esac
        sleep 0.1
    done
    kill -s KILL -- "-$pid"
fi
rm -rf -- "$1"
"""


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


def program(name: str, server: str, *further: str) -> str:
    """Return the path of a program on this machine, which `install` brings for `server`.

    It is on the PATH, or in one of the `further` folders.
    """
    path = os.pathsep.join(filter(None, [os.environ.get("PATH", os.defpath), *further]))
    return shutil.which(name, path=path) or unavailable(name, f"run tests/servers/install {server}")


def wait_until(what: str, done: Callable[[], Any], seconds: float = 30) -> None:
    """Return when something is so."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise ServerError(f"after {seconds:g} s it is not so: {what}")
        time.sleep(0.02)


def unprivileged() -> str | None:
    """Return a user for servers that refuse to run as root; None where this process is not root."""
    if os.geteuid() != 0:
        return None
    users = {user.pw_name for user in pwd.getpwall()}
    return "postgres" if "postgres" in users else "nobody"


def as_user(user: str | None) -> dict[str, Any]:
    """The keywords of `subprocess` that run a program as a user, or as this process's (None)."""
    if user is None:
        return {}
    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


class Scratch:
    """A temporary directory that is removed when this process ends, however that comes about.

    A shell waits for the end of a pipe whose other end only this process holds.
    PR_SET_PDEATHSIG would act at the end of the thread that started a server.

    Args:
        name: the last word but one of the directory's name.
        owner: the user who owns it, or None: this process's.
    """

    def __init__(self, name: str, owner: str | None = None) -> None:
        self._maker = os.getpid()
        self.path = Path(tempfile.mkdtemp(prefix=f"chatstores-{name}-"))
        if owner is not None:
            shutil.chown(self.path, owner, pwd.getpwnam(owner).pw_gid)
        self._watcher = subprocess.Popen(
            ["/bin/sh", "-c", _WATCH, "watch", str(self.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        atexit.register(self.remove)

    def end_first(self, pid: int, number: signal.Signals) -> None:
        """Have this process group, which uses the directory, ended before by this signal."""
        self._tell(f"{pid} {number.name.removeprefix('SIG')}")

    def end_nothing(self) -> None:
        """Forget the process group, which has ended."""
        self._tell("")

    def remove(self) -> None:
        """Remove it now; nothing happens the second time, nor in a forked child."""
        if os.getpid() != self._maker or self._watcher.returncode is not None:
            return
        self._watcher.kill()
        self._watcher.communicate()
        shutil.rmtree(self.path)
        atexit.unregister(self.remove)

    def _tell(self, line: str) -> None:
        assert self._watcher.stdin is not None
        self._watcher.stdin.write(line.encode() + b"\n")
        self._watcher.stdin.flush()


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

    refuses_root: ClassVar[bool] = False
    """Whether it must run as another user where the tests run as root."""

    end_signal: ClassVar[signal.Signals] = signal.SIGTERM
    """The signal that ends it in order."""

    abort_signal: ClassVar[signal.Signals] = signal.SIGKILL
    """The signal that ends it at once, and all of its processes."""

    def __init__(self) -> None:
        self.port = free_port()
        self._starter = os.getpid()
        self._scratch: Scratch | None = None
        self._process: subprocess.Popen[bytes] | None = None

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
        if self._scratch is None:
            self._scratch = Scratch(self.name, self.user)
        return self._scratch.path

    @property
    def user(self) -> str | None:
        """The user that it runs as, or None: this process's."""
        return unprivileged() if self.refuses_root else None

    @property
    def log(self) -> Path:
        """The file that holds what the server printed."""
        return self.directory / "server.log"

    def write(self, name: str, text: str) -> Path:
        """Write a file into the directory that only the server's user may read."""
        path = self.directory / name
        path.touch(mode=0o600)
        path.write_text(text)
        if self.user is not None:
            shutil.chown(path, self.user)
        return path

    def start(self) -> None:
        """Start the server and return when it answers."""
        if self._process is not None:
            raise ServerError(f"{self.name} runs already")
        # What is registered last is done first at exit: the server ends before its directory.
        assert self.directory
        atexit.register(self.stop)
        try:
            self._process = self._run(self.command())
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
        if self._scratch is not None:
            self._scratch.remove()
            self._scratch = None
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
            process = subprocess.Popen(
                command,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **as_user(self.user),
            )
        assert self._scratch is not None
        self._scratch.end_first(process.pid, self.abort_signal)
        return process

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None:
            raise ServerError(f"{self.name} does not run")
        if self._process.poll() is None:
            os.killpg(self._process.pid, number)

    def _end(self, number: signal.Signals | None = None) -> None:
        """End the process, if there is one, in order or by another signal."""
        if self._process is None:
            return
        self._signal(number or self.end_signal)
        self.resume()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait()
        self._process = None
        assert self._scratch is not None
        self._scratch.end_nothing()

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


@contextmanager
def find(server: type[Server]) -> Iterator[Server | GivenServer]:
    """Find a server in the order above, for as long as the context lasts."""
    given = os.environ.get(f"CHATSTORES_TEST_{server.name.upper()}_URL")
    if given:
        yield GivenServer(given)
        return
    with server() as own:
        yield own
