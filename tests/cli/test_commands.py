"""Every command on a file and on a server, with good and bad input."""

from __future__ import annotations

import json

import pytest

from chatstores import (
    AudioBlock,
    ChatMessage,
    DocumentBlock,
    ImageBlock,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
    UnknownBlock,
    __version__,
    open_store,
)
from chatstores.cli import commands, sources
from chatstores_json import JsonChatStore
from chatstores_memory import MemoryChatStore

COMMANDS = ["setup", "ping", "keys", "show", "persist", "load", "purge", "doctor", "import"]
NEEDS = {
    "show": ["k"],
    "persist": ["file.json"],
    "load": ["file.json"],
    "import": ["--from", "llama-index", "file.json"],
}


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


# What all commands share.


def test_the_commands_are_these():
    registered = commands.app.registered_commands
    assert sorted(c.name or c.callback.__name__ for c in registered) == sorted(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_no_url_is_wrong_usage(cli, command):
    told = cli(command, *NEEDS.get(command, []))
    assert (told.code, told.out) == (2, "")
    assert told.err.startswith("chatstores: which store? Give --url or set CHATSTORES_URL")
    assert told.err.count("\n") == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_a_server_that_is_away_is_one_line(cli, command, tmp_path):
    (tmp_path / "file.json").write_text('{"store": {"k": []}}')
    arguments = [str(tmp_path / a) if a == "file.json" else a for a in NEEDS.get(command, [])]
    if command == "import":
        (tmp_path / "file.json").write_text('{"store": {"k": [{"content": "x"}]}}')
    told = cli(command, *arguments, "--url", "redis://:geheim@127.0.0.1:1", "--timeout", "0.3")
    assert told.code == 1
    assert told.err.startswith("chatstores: redis://127.0.0.1:1/0 cannot be reached")
    assert told.err.count("\n") == 1
    assert "geheim" not in told.out + told.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ping", "--url", "redos://x"], "did you mean 'redis'?"),
        (["ping", "--url", "chats.json"], "begins with a scheme"),
        (["ping", "--url", "json:///x.json?tll=3"], "did you mean 'ttl'?"),
        (["ping", "--url", "memory://", "--namespace", "a b"], "namespace: must be"),
        (["ping", "--url", "memory://", "--timeout", "soon"], "timeout: must be"),
        (["bogus"], "No such command 'bogus'"),
        (["ping", "--nonsense"], "No such option: --nonsense"),
        (["show"], "Missing argument"),
        (["show", "", "--url", "memory://"], "key must not be empty"),
        (["show", "k" * 513, "--url", "memory://"], "at most 512"),
        (["show", "a\udcff", "--url", "memory://"], "surrogate"),
        (["show", "k", "--last", "-1", "--url", "memory://"], "--last"),
        (["keys", "--recent", "0", "--url", "memory://"], "--recent"),
        (["keys", "a", "--recent", "3", "--url", "memory://"], "no PREFIX"),
        (["load", "x", "--on-existing", "merge", "--url", "memory://"], "replace"),
        (["persist", "x", "--format", "xml", "--url", "memory://"], "llama_index"),
        (["import", "--from", "lama", "x", "--url", "memory://"], "llama-index"),
        (["import", "x", "--url", "memory://"], "'--from'. Choose from: langchain-kafka, "),
        (["--url", "memory://", "ping"], "--url follows the command"),
        (["ping", "redis://:geheim@h"], "(URL); the store's URL is given by --url; see"),
        (["ping", "x", "--url", "memory://"], "extra argument(s) (x); see chatstores ping"),
        (["import", "--from", "llama-index-redis", "redis://", "--url", "memory://"], "--prefix"),
    ],
)
def test_wrong_usage(cli, arguments, said):
    told = cli(*arguments)
    assert (told.code, told.out) == (2, "")
    assert said in told.err
    assert told.err.startswith("chatstores: ")
    assert told.err.count("\n") == 1


def test_the_version(cli):
    assert cli("--version") == (0, f"chatstores {__version__}\n", "")


@pytest.mark.parametrize("command", ["keys", "show", "persist", "purge", "doctor"])
def test_a_file_that_is_not_there_is_no_empty_store(cli, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = cli(command, *NEEDS.get(command, []), "--url", "json:///chatz.json")
    assert told.code == 1
    assert f"there is no {tmp_path}/chatz.json: 'chatstores setup --url json:///" in told.err
    assert list(tmp_path.iterdir()) == []
    told = cli("keys", "--url", "json:///chatz.json?create=true")
    assert told == (0, "", "")


def test_no_command_shows_the_help(cli):
    told = cli()
    assert told.code == 2
    assert "persist" in told.err


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help(cli, command):
    told = cli(*command, "--help")
    assert told.code == 0
    assert "Usage: chatstores" in told.out


def test_the_url_comes_from_the_environment(cli, url, monkeypatch):
    monkeypatch.setenv("CHATSTORES_URL", url)
    assert cli("ping").code == 0


def test_the_namespace_of_the_option(cli, tmp_path):
    url = f"json:///{tmp_path}/c.json"
    with open_store(url, namespace="bot") as store:
        store.add_message("k", ChatMessage("x"))
    assert cli("keys", "--url", url).out == ""
    assert cli("keys", "--url", url, "--namespace", "bot").out == "k\n"


# Secrets.


def test_a_password_in_a_wrong_place_is_not_repeated(cli):
    told = cli("ping", "redis://:geheim@host/0", "--url", "memory://")
    assert told.code == 2
    assert "geheim" not in told.err
    assert cli("show", "k", "--last=redis://:geheim@h").err.count("geheim") == 0


def test_the_password_of_the_environment(cli, monkeypatch):
    monkeypatch.setenv("CHATSTORES_PASSWORD", "geheim")
    for url, said in [
        ("redis://:other@host", "given in the URL and beside it: password"),
        ("json:///x.json", "has no password"),
    ]:
        told = cli("ping", "--url", url)
        assert told.code == 2
        assert said in told.err
        assert "CHATSTORES_PASSWORD" in told.err
        assert "geheim" not in told.err
        assert "other" not in told.err


# setup, ping, purge


def test_setup(cli, url):
    told = cli("setup", "--url", url)
    assert (told.code, told.err) == (0, "")
    assert told.out.startswith("set up: ")
    [result] = lines(cli("setup", "--url", url, "--json").out)
    assert list(result) == ["url"]


def test_setup_prints_what_it_would_create(cli, url, tmp_path, monkeypatch):
    told = cli("setup", "--print", "--url", url)
    assert (told.code, told.out) == (0, "")
    assert "needs nothing" in told.err
    assert lines(cli("setup", "--print", "--url", url, "--json").out)[0]["script"] == ""
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(MemoryChatStore, "_setup_script", lambda self: "CREATE TABLE t;")
    assert cli("setup", "--print", "--url", "memory://").out == "CREATE TABLE t;\n"


def test_ping(cli, url, store):
    told = cli("ping", "--url", url)
    assert (told.code, told.err) == (0, "")
    assert told.out.startswith(f"ok: {store.url} answers in ")
    [result] = lines(cli("ping", "--url", url, "--json").out)
    assert result["url"] == store.url
    assert result["ms"] > 0


def test_purge(cli, url):
    with open_store(url, ttl=0.05) as store:
        store.add_message("k", ChatMessage("x"))
        while store.get_keys():
            pass
    assert cli("purge", "--url", url).out == "purged 1 expired session\n"
    assert cli("purge", "--url", url, "--json").out == '{"purged": 0}\n'


# keys


def test_keys_in_byte_order(cli, url, store):
    keys = ["b", "a b", "ä", "a\nb\x1b[31m", "z\u009b", "\U0001f600"]
    for key in keys:
        store.add_message(key, ChatMessage("x"))
    told = cli("keys", "--url", url)
    assert (told.code, told.err) == (0, "")
    assert told.out.splitlines() == [r"a\nb\x1b[31m", "a b", "b", r"z\x9b", "ä", "\U0001f600"]
    told = cli("keys", "--url", url, "--json")
    assert [line["key"] for line in lines(told.out)] == sorted(keys)
    assert "\x1b" not in told.out
    assert "\u009b" not in told.out
    assert cli("keys", "a", "--url", url, "--json").out.count("\n") == 2
    assert cli("keys", "[a", "--url", url).out == ""


def test_recent_keys(cli, url, store):
    for key in "abc":
        store.add_messages(key, [ChatMessage("x"), ChatMessage("y")])
    told = cli("keys", "--recent", "2", "--url", url)
    assert [line.split()[-1] for line in told.out.splitlines()] == ["c", "b"]
    assert [line.split()[-2] for line in told.out.splitlines()] == ["2", "2"]
    infos = lines(cli("keys", "--recent", "2", "--url", url, "--json").out)
    assert [(info["key"], info["count"]) for info in infos] == [("c", 2), ("b", 2)]


# show


def test_show(cli, url, store):
    store.add_messages(
        "alice",
        [
            ChatMessage("Hello \x1b]0;owned\x07 \u202e\nthere\r\n\tyou", name="bo\x1bb"),
            ChatMessage(
                [
                    ThinkingBlock(text="hm"),
                    TextBlock(text="[bold]Look[/bold]"),
                    ToolCallBlock(id="c1", name="get", arguments={"city": "Köln"}),
                    ToolCallBlock(name="stop", arguments="{}"),
                    ImageBlock(data=b"x" * 3000, mimetype="image/png"),
                    ImageBlock(url="data:image/gif;base64,AAAA"),
                    AudioBlock(data=b"x" * 3_000_000, format="wav"),
                    DocumentBlock(url="https://example.org/a.pdf", title="A"),
                    UnknownBlock.model_validate({"type": "refusal", "why": "x" * 9000}),
                ],
                "assistant",
            ),
            ChatMessage("22 C", "tool", tool_call_id="c1", metadata={"a": 1}),
        ],
    )
    store.set_metadata("alice", {"title": "Cursors"})
    told = cli("show", "alice", "--url", url)
    assert (told.code, told.err) == (0, "")
    shown = told.out
    head, user, assistant, tool = shown.split("\n\n")
    assert head.startswith("alice\n3 messages, version ")
    assert head.endswith('metadata {"title": "Cursors"}')
    assert user.startswith(r"user (bo\x1bb), 2")
    assert user.endswith("  Hello \\x1b]0;owned\\x07 \\u202e\n  there\n  \tyou")
    assert assistant.splitlines()[1:] == [
        "  [thinking] hm",
        "  [bold]Look[/bold]",
        '  [call c1] get {"city": "Köln"}',
        "  [call] stop {}",
        "  [image, image/png, 2.9 KiB]",
        "  [image, image/gif, 3 bytes]",
        "  [audio, wav, 2.9 MiB]",
        "  [document, A, https://example.org/a.pdf]",
        "  [refusal, 8.8 KiB]",
    ]
    assert tool.endswith(', answers c1\n  22 C\n  [metadata {"a": 1}]\n')
    assert "22 C" in cli("show", "alice", "--last", "1", "--url", url).out
    assert "Hello" not in cli("show", "alice", "--last", "1", "--url", url).out


def test_show_as_json(cli, url, store):
    messages = [ChatMessage("a\u009b\x1b\x7f"), ChatMessage([ImageBlock(data=b"\xff\xfe")])]
    store.add_messages("k", messages)
    told = cli("show", "k", "--json", "--url", url)
    session, *shown = lines(told.out)
    assert session["key"] == "k"
    assert session["count"] == 2
    assert [ChatMessage.model_validate_json(json.dumps(wire)) for wire in shown] == messages
    assert not set("\u009b\x1b\x7f") & set(told.out)
    assert len(lines(cli("show", "k", "--json", "--last", "0", "--url", url).out)) == 1


def test_show_nobody(cli, url, store):
    store.add_message("k", ChatMessage("x"))
    told = cli("show", "nobody\x1b", "--url", url)
    assert (told.code, told.out) == (1, "")
    assert told.err == "chatstores: there is no session 'nobody\\x1b'; see 'chatstores keys'\n"


def test_show_of_an_empty_session(cli, url, store):
    store.set_messages("k", [])
    assert cli("show", "k", "--url", url).out.startswith("k\n0 messages, version ")


# persist and load


@pytest.mark.parametrize("name", ["s.json", "s.json.gz"])
def test_persist_and_load(cli, url, store, tmp_path, name):
    for key in "abc":
        store.add_messages(key, [ChatMessage("x"), ChatMessage("y")])
    path = tmp_path / name
    told = cli("persist", path, "--url", url)
    assert told == (0, f"wrote 3 sessions with 6 messages to {path}\n", "")
    other = f"json:///{tmp_path}/other.json"
    assert cli("load", path, "--url", other) == (0, "restored 3 sessions with 6 messages\n", "")
    with open_store(other) as copy:
        for key in "abc":
            assert copy.get_messages(key) == store.get_messages(key)
    told = cli("load", path, "--url", url, "--json")
    assert lines(told.out) == [{"file": str(path), "sessions": 0, "messages": 0, "there": 3}]
    told = cli("persist", path, "--url", url, "--json")
    assert lines(told.out) == [{"file": str(path), "sessions": 3, "messages": 6}]


def test_load_where_a_session_has_other_content(cli, url, store, tmp_path):
    for key in "abc":
        store.add_message(key, ChatMessage(f"old {key}"))
    path = tmp_path / "s.json"
    cli("persist", path, "--url", url)
    store.add_message("b", ChatMessage("new"))
    store.delete_messages("c")
    told = cli("load", path, "--url", url)
    assert (told.code, told.out) == (1, "")
    assert "sessions are there with other content: 'b'; give --on-existing replace or" in told.err
    assert store.get_keys() == ["a", "b"]
    told = cli("load", path, "--url", url, "--on-existing", "skip")
    assert told.out == "restored 1 session with 1 message; 2 were there already\n"
    assert store.count_messages("b") == 2
    told = cli("load", path, "--url", url, "--on-existing", "replace")
    assert told.out == "restored 3 sessions with 3 messages\n"
    assert store.count_messages("b") == 1


def test_load_of_what_is_there_but_for_its_metadata(cli, url, store, tmp_path):
    store.add_message("k", ChatMessage("x"))
    path = tmp_path / "s.json"
    cli("persist", path, "--url", url)
    store.set_metadata("k", {"a": 1})
    assert cli("load", path, "--url", url).code == 1


def test_llama_index_files(cli, url, store, tmp_path):
    store.add_messages("k", [ChatMessage("x"), ChatMessage("y", "assistant")])
    path = tmp_path / "s.json"
    cli("persist", path, "--format", "llama_index", "--url", url)
    assert json.loads(path.read_text())["class_name"] == "SimpleChatStore"
    other = f"json:///{tmp_path}/other.json"
    assert cli("load", path, "--url", other).out == "restored 1 session with 2 messages\n"
    told = cli("load", path, "--url", other)
    assert told.out == "restored 0 sessions with 0 messages; 1 was there already\n"


def test_a_warning_is_one_line(cli, url, store, tmp_path):
    block = UnknownBlock.model_validate({"type": "refusal"})
    store.add_message("k", ChatMessage([block]))
    told = cli("persist", tmp_path / "s", "--format", "llama_index", "--url", url)
    assert told.code == 0
    assert told.err.startswith("chatstores: warning: left out: a block of message 0")
    assert told.err.count("\n") == 1


@pytest.mark.parametrize("content", [b"", b"{}", b"\x1f\x8bxx", b'{"format":"chatstores snapshot'])
def test_load_of_a_file_that_is_no_snapshot(cli, url, tmp_path, content):
    path = tmp_path / "s"
    path.write_bytes(content)
    told = cli("load", path, "--url", url)
    assert (told.code, told.out, told.err.count("\n")) == (1, "", 1)


def test_files_that_cannot_be(cli, url, tmp_path):
    assert "there is no file" in cli("load", tmp_path / "nix", "--url", url).err
    assert "is a directory" in cli("load", tmp_path, "--url", url).err
    assert "there is no directory" in cli("persist", tmp_path / "nix/s", "--url", url).err
    for command in (("load", tmp_path / "nix"), ("persist", tmp_path / "nix" / "s")):
        assert cli(*command, "--url", url).code == 1


# doctor


def test_doctor_of_a_sound_store(cli, url, store):
    store.add_messages("k", [ChatMessage("x")] * 1)
    told = cli("doctor", "--url", url)
    assert told == (0, "read 1 session with 1 message: 0 unreadable records\n", "")
    [result] = lines(cli("doctor", "--url", url, "--json").out)
    assert result == {"sessions": 1, "messages": 1, "unreadable": []}


def test_doctor_finds_what_is_unreadable(cli, redis_url):
    redis = pytest.importorskip("redis")
    url = f"{redis_url}?namespace=cli-doctor"
    with open_store(url) as store, redis.Redis.from_url(redis_url) as client:
        store.add_messages("k", [ChatMessage(str(n)) for n in range(700)])
        store.add_message("sound", ChatMessage("x"))
        [rows] = client.keys("chatstores:{cli-doctor:*}:r:k")
        client.lset(rows, 3, b"4 {nonsense")
        client.lset(rows, 600, b'601 {"v":9,"id":"x"}')
        told = cli("doctor", "--url", url)
        assert told.code == 1
        assert told.out.splitlines() == [
            "record 3 of session 'k' is not readable",
            "record 600 of session 'k' was written in format 9 by a newer version of chatstores; "
            "this version reads format 1: upgrade chatstores",
            "read 2 sessions with 701 messages: 2 unreadable records",
        ]
        assert told.err.startswith("chatstores: what is unreadable stays where it is")
        told = cli("doctor", "--url", url, "--json")
        assert told.code == 1
        [result] = lines(told.out)
        assert [(r["key"], r["position"]) for r in result["unreadable"]] == [("k", 3), ("k", 600)]
        told = cli("show", "k", "--url", url)
        assert told.code == 1
        assert "chatstores doctor" in told.err
        told = cli("show", "k", "--url", f"{url}&on_corrupt=skip")
        assert told.code == 0
        assert told.err.count("chatstores: warning: skipped: record") == 2


def test_doctor_of_a_file_that_is_not_readable(cli, tmp_path):
    path = tmp_path / "c.json"
    with JsonChatStore(path) as store:
        store.add_message("k", ChatMessage("x"))
    path.write_text("nonsense")
    told = cli("doctor", "--url", f"json:///{path}")
    assert told.code == 1
    assert "Traceback" not in told.err


# The table of kinds.


def test_the_kinds_are_those_of_the_option():
    assert sorted(kind.value for kind in commands.From) == sorted(sources.KINDS)
