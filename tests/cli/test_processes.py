"""The installed program: pipes, terminals, signals, memory."""

from __future__ import annotations

import json
import os
import pty
import re
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from chatstores import ChatMessage, open_store
from tests.servers.proxy import Proxy

PROGRAM = str(Path(sys.executable).with_name("chatstores"))


def program(*arguments, **options):
    """What the program said."""
    command = [PROGRAM, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def peak(*arguments):
    """The program's largest resident memory, in bytes; it must have succeeded."""
    process = subprocess.Popen([PROGRAM, *map(str, arguments)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.read()
    process.stdout.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def terminal(*arguments, interrupt_after=None):
    """What a terminal would show, and the exit code."""
    pid, descriptor = pty.fork()
    if pid == 0:
        # A shell ignores it for what it runs in the background, and so would what that starts.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.execve(PROGRAM, [PROGRAM, *map(str, arguments)], {**os.environ, "TERM": "xterm"})
    shown = b""
    while True:
        try:
            part = os.read(descriptor, 65536)
        except OSError:  # Linux's way of saying that the other side is closed
            part = b""
        if not part:
            break
        shown += part
        if interrupt_after is not None and interrupt_after in shown:
            os.write(descriptor, b"\x03")  # Ctrl-C, as the terminal sends it
            interrupt_after = None
    os.close(descriptor)
    return shown.decode(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A snapshot of 10,000 sessions of 2 messages, and one of 100."""
    folder = tmp_path_factory.mktemp("many")
    paths = {}
    for count in (100, 10_000):
        with open_store("memory://") as store:
            for number in range(count):
                texts = [f"question {number} " + "x" * 500, "answer " * 100]
                store.add_messages(f"session {number:05}", [ChatMessage(t) for t in texts])
            paths[count] = folder / f"{count}.json"
            store.persist(paths[count])
    return paths


@pytest.fixture
def redis_namespace(redis_url):
    return f"{redis_url}?namespace=cli-{secrets.token_hex(6)}"


def test_the_program(url):
    assert program("ping", "--url", url).returncode == 0
    told = program("ping", env={**os.environ, "CHATSTORES_URL": ""})
    assert (told.returncode, told.stdout) == (2, "")


def test_a_password_of_the_environment_opens_the_store():
    from tests.servers.redis import RedisServer

    with RedisServer(password="ge@heim") as server:
        url = f"redis://127.0.0.1:{server.port}"
        told = program("ping", "--url", url, env={**os.environ, "CHATSTORES_PASSWORD": "ge@heim"})
        assert told.returncode == 0
        assert told.stdout.startswith(f"ok: {url}/0 answers")
        for password, why in [("wrong", "refused the user or password"), ("", "wants a password")]:
            environment = {**os.environ, "CHATSTORES_PASSWORD": password}
            told = program("ping", "--url", url, env=environment)
            assert told.returncode == 1
            assert why in told.stderr
            assert "wrong" not in told.stderr


def test_the_core_imports_neither_typer_nor_rich():
    code = "import sys, chatstores; print({'typer', 'rich', 'click'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


def test_without_the_extra_it_says_what_to_install():
    code = (
        "import importlib.abc, sys\n"
        "class Hidden(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name in ('typer', 'rich'): raise ModuleNotFoundError(name)\n"
        "import importlib.util as u\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name: None if name in ('typer', 'rich') else find(name)\n"
        "import chatstores.cli\n"
        "sys.exit(chatstores.cli.main())\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr == (
        "chatstores: the command line needs typer and rich: pip install 'chatstores[cli]'\n"
    )


def test_a_reader_that_has_seen_enough(redis_namespace, many):
    assert program("load", many[10_000], "--url", redis_namespace).returncode == 0
    command = f"'{PROGRAM}' keys --url '{redis_namespace}' | head -1"
    told = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert (told.stdout, told.stderr) == ("session 00000\n", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a full device")
def test_output_that_cannot_be_written(url, store):
    store.add_message("k", ChatMessage("x"))
    with open("/dev/full", "w") as full:
        told = subprocess.run(
            [PROGRAM, "keys", "--url", url], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert told.returncode == 1
    assert told.stderr == b"chatstores: cannot write the output: No space left on device\n"


def test_output_of_other_encodings_is_utf_8(url, store):
    store.add_message("ä", ChatMessage("x"))
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    assert program("keys", "--url", url, env=environment, encoding="utf-8").stdout == "ä\n"


def test_completion_of_keys(url, store):
    for key in ("anna", "alice", "bob"):
        store.add_message(key, ChatMessage("x"))

    def completed(line, **more):
        words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}
        environment = {**os.environ, "_CHATSTORES_COMPLETE": "complete_bash", **words, **more}
        return program(env=environment)

    told = completed("chatstores show a", CHATSTORES_URL=url)
    assert (told.stdout.split(), told.stderr) == (["alice", "anna"], "")
    assert completed(f"chatstores show --url {url} b").stdout.split() == ["bob"]
    told = completed("chatstores show a", CHATSTORES_URL="redis://127.0.0.1:1")
    assert (told.stdout.split(), told.stderr) == ([], "")


def test_a_terminal_gets_colours_and_no_control_characters(url, store):
    store.add_message("k", ChatMessage("\x1b]0;owned\x07 [bold]x[/bold] " + "long " * 100))
    shown, code = terminal("show", "k", "--url", url)
    assert code == 0
    assert "\x1b[1;36muser" in shown
    assert r"\x1b]0;owned\x07 [bold]x[/bold]" in shown
    assert "\x1b]" not in shown
    assert "\x07" not in shown
    assert "long " * 99 in shown  # not wrapped: the terminal does that
    piped = program("show", "k", "--url", url).stdout
    assert "\x1b" not in piped
    assert piped == re.sub("\x1b\\[[0-9;]*m", "", shown.replace("\r\n", "\n"))


def test_a_terminal_gets_a_live_line(redis_namespace, many):
    shown, code = terminal("load", many[10_000], "--url", redis_namespace)
    assert code == 0
    assert "checking: " in shown
    assert "of 10,000 sessions" in shown
    assert shown.endswith("restored 10,000 sessions with 20,000 messages\r\n")
    told = program("load", many[10_000], "--url", redis_namespace)
    assert told.stdout == ("restored 0 sessions with 0 messages; 10,000 were there already\n")
    assert told.stderr == ""


@pytest.fixture
def slow(redis_namespace):
    """The same place, so slowly that a load does not end before it is interrupted."""
    with Proxy("127.0.0.1", urlsplit(redis_namespace).port) as proxy:
        proxy.delay(0.001)
        yield proxy.url(redis_namespace)


def test_interrupted_by_ctrl_c(redis_namespace, slow, many):
    shown, code = terminal("load", many[10_000], "--url", slow, interrupt_after=b"restoring: ")
    assert code == 130
    assert shown.endswith("chatstores: interrupted\r\n")
    assert "Traceback" not in shown
    told = program("load", many[10_000], "--url", redis_namespace, "--json")
    result = json.loads(told.stdout)
    assert result["sessions"] + result["there"] == 10_000
    assert result["sessions"] > 0


def test_a_load_that_was_killed_is_finished_by_the_same_command(redis_namespace, slow, many):
    with open_store(redis_namespace) as store:
        command = [PROGRAM, "load", str(many[10_000]), "--url", slow]
        killed = 0
        while killed < 3:
            with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
                before = len(store.get_keys())
                while len(store.get_keys()) < before + 500 and process.poll() is None:
                    time.sleep(0.01)
                process.send_signal(signal.SIGKILL)
            killed += 1
        there = len(store.get_keys())
        assert 1500 <= there < 10_000
        told = program("load", many[10_000], "--url", redis_namespace)
        assert told.returncode == 0
        assert told.stdout == (
            f"restored {10_000 - there:,} sessions with {2 * (10_000 - there):,} messages; "
            f"{there:,} were there already\n"
        )
        assert len(store.get_keys()) == 10_000
        assert all(store.count_messages(f"session {n:05}") == 2 for n in range(0, 10_000, 97))


def test_memory_is_flat(redis_url, many, tmp_path):
    peaks = {}
    for count, path in many.items():
        url = f"{redis_url}?namespace=cli-{secrets.token_hex(6)}"
        for command in (["load", path], ["persist", tmp_path / f"{count}"], ["doctor"]):
            peaks[count, command[0]] = peak(*command, "--url", url)
    for command in ("load", "persist", "doctor"):
        more = peaks[10_000, command] - peaks[100, command]
        assert more < many[10_000].stat().st_size / 2, peaks
        assert more < 4 * 1024 * 1024, peaks
