"""The tests' own Redis: found, started, hurt and stopped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.servers import GivenServer, ServerError, free_port
from tests.servers.redis import RedisServer, redis_server

ROOT = Path(__file__).parents[2]


def say(server: RedisServer, line: str) -> bytes:
    """Send one inline command on a new connection and return the answer."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=1) as connection:
        connection.sendall(line.encode() + b"\r\nQUIT\r\n")
        with connection.makefile("rb") as replies:
            return replies.read().removesuffix(b"+OK\r\n")


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_a_server_answers_and_leaves_nothing() -> None:
    with RedisServer(databases=3) as server:
        directory = server.directory
        assert server.url == f"redis://127.0.0.1:{server.port}/0"
        assert say(server, "SELECT 2") == b"+OK\r\n"
        assert b"ERR" in say(server, "SELECT 3")
    assert not directory.exists()
    with pytest.raises(ConnectionRefusedError):
        say(server, "PING")
    server.stop()


def test_a_password_is_asked_for_and_is_in_the_url() -> None:
    with RedisServer(password="p/w@") as server:
        assert urlsplit(server.url).password == "p%2Fw%40"
        assert say(server, "PING").startswith(b"-NOAUTH")


def test_without_persistence_a_restart_forgets() -> None:
    with RedisServer() as server:
        url = server.url
        say(server, "SET a 1")
        server.restart()
        assert server.url == url
        assert say(server, "GET a") == b"$-1\r\n"


def test_with_fsync_at_every_write_a_kill_loses_nothing() -> None:
    with RedisServer(appendfsync="always") as server:
        say(server, "SET a 1")
        server.kill()
        with pytest.raises(ConnectionRefusedError):
            say(server, "PING")
        server.restart()
        assert say(server, "GET a") == b"$1\r\n1\r\n"


def test_a_restart_in_order_keeps_what_is_synced_every_second() -> None:
    with RedisServer(appendfsync="everysec") as server:
        say(server, "SET a 1")
        server.restart()
        assert say(server, "GET a") == b"$1\r\n1\r\n"


def test_a_paused_server_is_silent_and_can_be_stopped() -> None:
    with RedisServer() as server:
        server.pause()
        with pytest.raises(TimeoutError):
            say(server, "PING")
        server.resume()
        assert say(server, "PING") == b"+PONG\r\n"
        server.pause()


def test_a_failed_start_shows_the_log() -> None:
    server = RedisServer()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", server.port))
        taken.listen()
        with pytest.raises(ServerError, match="Could not create server TCP listening socket"):
            server.start()
    with server:
        assert server.ready()
        with pytest.raises(ServerError, match="runs already"):
            server.start()


def test_the_environment_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHATSTORES_TEST_REDIS_URL", raising=False)
    with redis_server() as own:
        assert isinstance(own, RedisServer)
        assert own.ready()
    monkeypatch.setenv("CHATSTORES_TEST_REDIS_URL", "redis://elsewhere:1/2")
    with redis_server() as given:
        assert given == GivenServer("redis://elsewhere:1/2")


def test_a_missing_program_skips_or_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CHATSTORES_TEST_STRICT", raising=False)
    with pytest.raises(pytest.skip.Exception, match="tests/servers/install redis"):
        RedisServer().start()
    monkeypatch.setenv("CHATSTORES_TEST_STRICT", "1")
    with pytest.raises(pytest.fail.Exception, match="tests/servers/install redis"):
        RedisServer().start()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_server_outlives_a_killed_run() -> None:
    script = (
        "import time; from tests.servers.redis import RedisServer\n"
        "s = RedisServer(); s.start(); print(s._process.pid, s.directory, flush=True)\n"
        "time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        pid, directory = run.stdout.readline().split()
        assert alive(int(pid))
        run.send_signal(signal.SIGKILL)
    until(lambda: not alive(int(pid)) and not Path(directory).exists())


def test_free_ports_are_free_and_below_the_outgoing_ones() -> None:
    for _ in range(20):
        port = free_port()
        assert 15000 <= port < 32000
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))


def install(*arguments: str, path: str, strict: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/bash", str(ROOT / "tests/servers/install"), *arguments],
        env={"PATH": path, "HOME": path, "CHATSTORES_TEST_STRICT": strict},
        capture_output=True,
        text=True,
        check=False,
    )


def test_install_has_nothing_to_do_or_says_what_to_do(tmp_path: Path) -> None:
    for name in ("redis-server", "initdb", "ps", "pgbouncer", "java", "mvn"):
        (tmp_path / name).symlink_to("/bin/true")
    (tmp_path / ".cache/chatstores-servers/kafka-4.1.0/lib").mkdir(parents=True)
    there = install(path=str(tmp_path))
    assert (there.returncode, there.stdout, there.stderr) == (0, "", "")
    empty = str(tmp_path / "empty")
    missing = install("redis", path=empty)
    assert missing.returncode == 0
    assert missing.stderr.count("\n") == 1
    assert "apt-get install redis-server" in missing.stderr
    assert install("redis", path=empty, strict="1").returncode == 1
    assert install("nothing", path=os.environ["PATH"]).returncode == 2
