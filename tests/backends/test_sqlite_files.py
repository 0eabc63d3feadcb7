"""The SQLite store's file: where it cannot be, who may use it, what is seen of it, and forks."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from chatstores import ChatMessage, ChatStore, open_store
from chatstores.errors import (
    BackendMismatchError,
    ChatStoreError,
    ContentionError,
    InvalidURLError,
    NotSetUpError,
)
from chatstores.transport import run_sync
from chatstores_sql import SqliteChatStore

FORMS = pytest.mark.parametrize("form", ["sync", "async"])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chats.db"


def texts(store: ChatStore, key: str = "k") -> list[str]:
    return [message.text for message in store.get_messages(key)]


def error_of(form: str, kind: type[ChatStoreError], url: str, **options: Any) -> str:
    """What ping raises."""
    store = open_store(url, **options)
    call = store.ping if form == "sync" else lambda: asyncio.run(store.aping())
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


def make_other(path: Path, statement: str) -> None:
    """A database of another program."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)


# Where it cannot be


@FORMS
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("directory", "directory is a directory; name a file in it"),
        ("none/chats.db", "there is no directory .*/none: create it first"),
        ("notes.txt/chats.db", "there is no directory .*/notes.txt: create it first"),
        ("notes.txt", "notes.txt is no database of this chatstores: file is not a database"),
        ("k" * 300, "File name too long"),
    ],
)
def test_a_place_that_cannot_be(tmp_path: Path, form: str, name: str, why: str) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "notes.txt").write_text("These are my notes. " * 100)
    assert re.search(why, error_of(form, BackendMismatchError, f"sqlite:///{tmp_path}/{name}"))
    assert (tmp_path / "notes.txt").read_text() == "These are my notes. " * 100


@FORMS
@pytest.mark.parametrize("table", ["sessions", "messages", "schema"])
def test_tables_of_another_program(path: Path, form: str, table: str) -> None:
    make_other(path, f"CREATE TABLE chatstores_{table} (one)")
    text = error_of(form, BackendMismatchError, f"sqlite:///{path}")
    assert "is no database of this chatstores: no such column" in text
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
    assert found == [(f"chatstores_{table}",)]


def test_a_database_of_another_program_is_shared_with_it(path: Path) -> None:
    make_other(path, "CREATE TABLE theirs (one)")
    with open_store(f"sqlite:///{path}") as store:
        store.add_message("k", ChatMessage("x"))
        make_other(path, "INSERT INTO theirs VALUES (1)")
        assert texts(store) == ["x"]
    with open_store(f"sqlite:///{path}?table_prefix=bot_") as store:
        assert texts(store) == []


def test_tables_of_a_newer_version(path: Path) -> None:
    open_store(f"sqlite:///{path}").setup()
    make_other(path, "UPDATE chatstores_schema SET version = 99")
    text = error_of("sync", BackendMismatchError, f"sqlite:///{path}")
    assert "have the version 99; this chatstores knows versions up to 1: upgrade it" in text


@FORMS
def test_without_create_nothing_is_made(path: Path, form: str) -> None:
    text = error_of(form, NotSetUpError, f"sqlite:///{path}", create=False)
    assert text.startswith(f"there is no file {path}: 'chatstores setup")
    assert not path.exists()
    path.touch()
    text = error_of(form, NotSetUpError, f"sqlite:///{path}", create=False)
    assert "has no tables chatstores_*" in text
    path.unlink()
    open_store(f"sqlite:///{path}").setup()
    with open_store(f"sqlite:///{path}", create=False) as store:
        store.add_message("k", ChatMessage("x"))


def test_hostile_keys_and_contents(path: Path) -> None:
    contents = ["'; drop table chatstores_messages; --", "?1 $1 :a %s", "NUL \x00", "x" * (3 << 20)]
    keys = ["'; drop table chatstores_sessions; --", "100%", "a'b\"c\\d", "?1", "_"]
    with open_store(f"sqlite:///{path}") as store:
        for key in keys:
            store.set_messages(key, [ChatMessage("stays")])
        store.add_messages("texts", [ChatMessage(text) for text in contents])
        assert texts(store, "texts") == contents
        for number, key in enumerate(keys, 1):
            assert store.get_keys(key) == [key]
            assert store.delete_messages(key) == 1
            assert set(store.get_keys()) == {*keys[number:], "texts"}


# Who may


@pytest.fixture
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that every user may enter, and that nobody but its owner may write in."""
    directory = tmp_path_factory.mktemp("shared")
    for one in (directory, *directory.parents):
        if one.stat().st_uid == os.geteuid() and one.name.startswith(("shared", "pytest-")):
            one.chmod(0o755)
    return directory


CALLS = ["store.ping()", "asyncio.run(store.aping())", "store.add_message('k', ChatMessage('x'))"]


@pytest.mark.parametrize("words", CALLS)
def test_who_may_not(shared: Path, words: str) -> None:
    def said(name: str) -> str:
        return in_a_child(shared, name, words)

    open_store(f"sqlite:///{shared}/closed.db").setup()
    assert re.match("PermissionDeniedError .*closed.db cannot be read or wr", said("closed.db"))
    open_store(f"sqlite:///{shared}/read.db").setup()
    (shared / "read.db").chmod(0o444)
    assert re.match("PermissionDeniedError .*read.db cannot be written", said("read.db"))
    assert re.match("PermissionDeniedError .*new.db cannot be read or wr", said("new.db"))
    shared.chmod(0o755)
    open_store(f"sqlite:///{shared}/file.db").setup()
    (shared / "file.db").chmod(0o666)
    assert re.match("PermissionDeniedError .*file.db cannot be written", said("file.db"))


def in_a_child(directory: Path, name: str, words: str) -> str:
    """What a call says in a forked child that is not root."""
    read, write = os.pipe()
    store = open_store(f"sqlite:///{directory}/{name}", timeout=1)
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            else:
                if (directory / name).exists():
                    (directory / name).chmod(0o444)
                directory.chmod(0o555)
            said = repr(
                eval(words, {"store": store, "asyncio": asyncio, "ChatMessage": ChatMessage})
            )
        except Exception as exc:
            said = f"{type(exc).__name__} {exc}"
        os.write(write, said.encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with open(read) as pipe:
        return pipe.read()


def test_a_new_file_is_its_owners(path: Path) -> None:
    before = os.umask(0o022)
    try:
        with open_store(f"sqlite:///{path}") as store:
            store.add_message("k", ChatMessage("x"))
            for file in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
                assert stat.S_IMODE(file.stat().st_mode) == 0o600
    finally:
        os.umask(before)


# What it is


@pytest.mark.parametrize(("options", "number"), [("", 2), ("?synchronous=normal", 1)])
def test_how_it_writes(path: Path, options: str, number: int) -> None:
    """As the store's own connection sees it: 2 is FULL, 1 is NORMAL."""
    store = SqliteChatStore.from_url(f"sqlite:///{path}{options}")
    with store:
        t = store._transports.sync()
        assert run_sync(t.one("PRAGMA journal_mode")) == [("wal",)]
        assert run_sync(t.one("PRAGMA synchronous")) == [(number,)]
        assert store.url.endswith(options)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_in_memory(url: str) -> None:
    async def more() -> list[str]:
        await store.aadd_message("k", ChatMessage("2"))
        return [message.text for message in await store.aget_messages("k")]

    store = open_store(url)
    assert store.url == "sqlite://"
    assert store.capabilities.refused.keys() == {"R5", "W4.processes"}
    store.add_message("k", ChatMessage("1"))
    assert asyncio.run(more()) == ["1", "2"]
    assert asyncio.run(more()) == ["1", "2", "2"]
    assert texts(store) == ["1", "2", "2"]
    with open_store(url) as other:
        assert texts(other) == []
    store.close()
    assert SqliteChatStore(":memory:").url == SqliteChatStore(None).url == "sqlite://"
    assert not Path(":memory:").exists()


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("sqlite:///chats.db", "{cwd}/chats.db"),
        ("sqlite:///data/chats.db", "{cwd}/data/chats.db"),
        ("sqlite:////var/bot/chats.db", "/var/bot/chats.db"),
        ("sqlite:///~/chats.db", "{home}/chats.db"),
        ("sqlite:///my%20%3Fchats%23%25.db", "{cwd}/my ?chats#%.db"),
        ("sqlite:///file:chats.db", "{cwd}/file:chats.db"),
        ("SQLITE:///chats.db", "{cwd}/chats.db"),
    ],
)
def test_paths(url: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ann")
    store = SqliteChatStore.from_url(url)
    assert str(store._path) == found.format(cwd=tmp_path, home="/home/ann")
    assert SqliteChatStore.from_url(store.url)._path == store._path
    if found.startswith("{cwd}/") and "data" not in found:
        with store:
            store.add_message("k", ChatMessage("x"))
        assert Path(found.format(cwd=tmp_path)).is_file()


@pytest.mark.parametrize(
    ("url", "why"),
    [
        (
            "sqlite:///chats.db?synchronous=off",
            'the option synchronous: must be "full" or "normal"',
        ),
        ("sqlite:///chats.db?sync=false", "sqlite:// has no option 'sync'"),
        ("sqlite:///chats.db?mode=ro", "sqlite:// has no option 'mode'"),
        ("sqlite:///chats.db?table_prefix=a-b", "the option table_prefix: must be 1 to 40 of the"),
        ("sqlite://chats.db", "sqlite:///chats.db, sqlite:////chats.db"),
        ("sqlite:///chats/", "sqlite:// needs a file: sqlite:///chats.db"),
        ("sqlite://u:p@h/chats.db", "a file has three slashes"),
    ],
)
def test_urls(url: str, why: str) -> None:
    with pytest.raises(InvalidURLError, match=re.escape(why)):
        open_store(url)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: SqliteChatStore(3), "path must be a str or a pathlib.Path, not int"),
        (lambda: SqliteChatStore("sqlite:///x.db"), "a URL is opened by open_store()"),
        (lambda: SqliteChatStore(""), "sqlite:// needs a file"),
        (lambda: SqliteChatStore(sqlite3.connect(":memory:")), "path must be a str"),
        (lambda: SqliteChatStore("x.db", synchronous="off"), 'must be "full" or "normal"'),
        (lambda: SqliteChatStore("x.db", pool_size=3), "sqlite:// has no option 'pool_size'"),
        (lambda: SqliteChatStore("x.db", password="s3cret"), "has no option 'password'"),
    ],
)
def test_arguments(make: Callable[[], SqliteChatStore], why: str) -> None:
    with pytest.raises(InvalidURLError, match=re.escape(why)) as caught:
        make()
    assert "s3cret" not in str(caught.value)


# Others at the same file


def test_a_lock_that_another_process_holds(path: Path) -> None:
    with open_store(f"sqlite:///{path}") as store:
        store.add_message("k", ChatMessage("1"))
        with held_by_another_process(path) as let_go:
            store._contention_limit = 0.3
            with pytest.raises(ContentionError, match="another process held the database's lock"):
                store.add_message("k", ChatMessage("no"))
            assert texts(store) == ["1"]  # readers do not wait
            store._contention_limit = 30.0
            timer = threading.Timer(0.5, let_go)
            timer.start()
            store.add_message("k", ChatMessage("2"))
            timer.join()
        assert texts(store) == ["1", "2"]


class held_by_another_process:
    """The database's lock, until it is let go."""

    def __init__(self, path: Path) -> None:
        source = (
            "import sqlite3, sys\n"
            f"c = sqlite3.connect({str(path)!r}, isolation_level=None)\n"
            "c.execute('BEGIN IMMEDIATE')\nprint('held', flush=True)\nsys.stdin.read()\n"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def let_go(self) -> None:
        self._process.communicate()

    def __enter__(self) -> Callable[[], None]:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"held\n"
        return self.let_go

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()


def test_a_fork_while_threads_write(path: Path) -> None:
    stop = threading.Event()
    written = [0] * 4

    def write(number: int) -> None:
        while not stop.is_set():
            store.add_message(f"thread {number}", ChatMessage(f"{written[number]}"))
            written[number] += 1

    with open_store(f"sqlite:///{path}") as store:
        store.setup()
        threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        try:
            for turn in range(10):
                child = os.fork()
                if child == 0:
                    code = 1
                    try:
                        for n in range(5):
                            store.add_message(f"child {turn}", ChatMessage(f"{n}"))
                        code = 0 if texts(store, f"child {turn}") == list("01234") else 2
                    finally:
                        os._exit(code)
                assert os.waitpid(child, 0)[1] == 0
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        for number, count in enumerate(written):
            assert texts(store, f"thread {number}") == [str(n) for n in range(count)]
        for turn in range(10):
            assert texts(store, f"child {turn}") == list("01234")
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@FORMS
def test_a_file_that_was_removed_is_begun_anew(path: Path, form: str) -> None:
    """What is written to a file that has no name would be gone with the process."""

    def add(text: str) -> None:
        if form == "sync":
            store.add_message("k", ChatMessage(text))
        else:
            asyncio.run(store.aadd_message("k", ChatMessage(text)))

    store = open_store(f"sqlite:///{path}")
    add("1")
    for file in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        file.unlink(missing_ok=True)
    assert texts(store) == []
    add("2")
    store.close()
    with open_store(f"sqlite:///{path}") as later:
        assert texts(later) == ["2"]


def test_a_backup_that_is_put_in_its_place_is_what_is_read(path: Path, tmp_path: Path) -> None:
    with open_store(f"sqlite:///{path}") as before:
        before.add_message("k", ChatMessage("1"))
    backup = tmp_path / "backup.db"
    shutil.copy(path, backup)
    with open_store(f"sqlite:///{path}") as store:
        assert texts(store) == ["1"]
        for file in (Path(f"{path}-wal"), Path(f"{path}-shm")):
            file.unlink(missing_ok=True)
        backup.rename(path)
        store.add_message("k", ChatMessage("2"))
        assert texts(store) == ["1", "2"]
    with open_store(f"sqlite:///{path}") as later:
        assert texts(later) == ["1", "2"]


def test_a_fork_of_a_database_in_memory() -> None:
    """The child has a copy, also where threads of the parent were writing."""
    stop = threading.Event()
    with open_store("sqlite://") as store:
        store.add_message("k", ChatMessage("1"))

        def write() -> None:
            while not stop.is_set():
                store.add_message("other", ChatMessage("x"))

        threads = [threading.Thread(target=write) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(10):
                child = os.fork()
                if child == 0:
                    code = 1
                    try:
                        store.add_message("k", ChatMessage("2"))
                        code = 0 if texts(store) == ["1", "2"] else 2
                    finally:
                        os._exit(code)
                assert os.waitpid(child, 0)[1] == 0
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert texts(store) == ["1"]
