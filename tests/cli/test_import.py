"""What other libraries wrote comes in, once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import redis

from chatstores import ChatMessage, open_store
from chatstores.langchain_format import from_langchain
from tests.servers.redis import RedisServer

#: What ``message_to_dict`` of langchain-core 1.7 made of ten messages.
LANGCHAIN = json.loads((Path(__file__).parent / "langchain_messages.json").read_text())


def llama(*texts):
    return [
        {"role": "user", "additional_kwargs": {}, "blocks": [{"block_type": "text", "text": text}]}
        for text in texts
    ]


@pytest.fixture
def file(tmp_path):
    """LlamaIndex's file."""
    path = tmp_path / "chat_store.json"
    path.write_text(json.dumps({"store": {"a": llama("x", "x", "y"), "b": llama("z"), "c": []}}))
    return path


@pytest.fixture(scope="module")
def own():
    with RedisServer(password="geheim") as server:
        yield server


@pytest.fixture
def source(own):
    """A server that is empty, with a password."""
    with redis.Redis.from_url(own.url) as client:
        client.flushall()
        yield client


def bare(server):
    """Its URL without the password."""
    return f"redis://127.0.0.1:{server.port}/0"


def texts(url, key):
    with open_store(url) as store:
        return [message.text for message in store.get_messages(key)]


def test_llama_index(cli, url, store, file):
    command = ("import", "--from", "llama-index", file, "--url", url)
    assert cli(*command) == (
        0,
        "added 4 messages to 2 sessions; 1 was complete already\n",
        "",
    )
    assert [m.text for m in store.get_messages("a")] == ["x", "x", "y"]
    before = store.get_messages("a")
    told = cli(*command, "--json")
    assert json.loads(told.out) == {
        "source": "llama-index",
        "sessions": 0,
        "messages": 0,
        "there": 3,
    }
    assert store.get_messages("a") == before


def test_what_came_since_is_added(cli, url, store, file):
    command = ("import", "--from", "llama-index", file, "--url", url)
    cli(*command)
    store.add_message("a", ChatMessage("our own"))
    file.write_text(json.dumps({"store": {"a": llama("x", "x", "y", "x"), "d": llama("new")}}))
    assert cli(*command).out == "added 2 messages to 2 sessions\n"
    assert [m.text for m in store.get_messages("a")] == ["x", "x", "y", "our own", "x"]


def test_a_long_session_twice(cli, url, store, file):
    many = [str(number % 7) for number in range(1700)]
    file.write_text(json.dumps({"store": {"a": llama(*many)}}))
    command = ("import", "--from", "llama-index", file, "--url", url)
    assert cli(*command).out == "added 1,700 messages to 1 session\n"
    store.delete_oldest("a", 100)
    store.add_messages("a", [ChatMessage("own")] + [ChatMessage(str(n)) for n in range(99)])
    assert cli(*command).out == "added 100 messages to 1 session\n"


def test_a_prefix(cli, url, file):
    cli("import", "--from", "llama-index", "--prefix", "b", file, "--url", url)
    assert cli("keys", "--url", url).out == "b\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nonsense", "neither a snapshot of chatstores nor a file of LlamaIndex"),
        ('{"store": {"a": 3}}', "session 'a' is no list of messages"),
        ('{"store": {"a": [{"content": 3}]}}', "message 0 of session 'a': its content must be"),
        ('{"store": {"": [{"content": "x"}]}}', "key must not be empty"),
        ('{"store": {"a": [{"content": "\\ud800"}]}}', "lone surrogate"),
    ],
)
def test_a_file_that_is_wrong(cli, url, file, text, said):
    file.write_text(text)
    told = cli("import", "--from", "llama-index", file, "--url", url)
    assert (told.code, told.out) == (1, "")
    assert said in told.err
    assert told.err.count("\n") == 1


def test_a_file_that_is_not_there(cli, url, tmp_path):
    for path in (tmp_path / "nix", tmp_path):
        told = cli("import", "--from", "llama-index", path, "--url", url)
        assert told.code == 1
        assert told.err.startswith("chatstores: cannot read ")


def test_llama_index_of_redis(cli, url, source, own, monkeypatch):
    monkeypatch.setenv("CHATSTORES_SOURCE_PASSWORD", "geheim")
    for key in ("chat:1", "chat:[2]", "other"):
        source.rpush(key, *map(json.dumps, llama(f"first of {key}", "last")))
    source.set("chat:string", "no list")
    kind = ("import", "--from", "llama-index-redis")
    told = cli(*kind, "--prefix", "chat:", bare(own), "--url", url)
    assert told == (0, "added 4 messages to 2 sessions\n", "")
    assert cli("keys", "--url", url).out == "chat:1\nchat:[2]\n"
    assert texts(url, "chat:1") == ["first of chat:1", "last"]
    told = cli(*kind, "--prefix", "chat:[", bare(own), "--url", url)
    assert told.out == "added 0 messages to 0 sessions; 1 was complete already\n"
    told = cli(*kind, "--prefix", "", bare(own), "--url", url)
    assert told.out == "added 2 messages to 1 session; 2 were complete already\n"


def test_langchain_of_redis(cli, url, source, own, monkeypatch):
    monkeypatch.setenv("CHATSTORES_SOURCE_PASSWORD", "geheim")
    for stored in LANGCHAIN:
        source.lpush("message_store:ann", json.dumps(stored))
    kind = ("import", "--from", "langchain-redis", bare(own), "--url", url)
    assert cli(*kind) == (0, "added 10 messages to 1 session\n", "")
    assert cli(*kind).out == "added 0 messages to 0 sessions; 1 was complete already\n"
    with open_store(url) as store:
        found = store.get_messages("ann")
    assert [m.role for m in found] == [
        *["system", "user", "assistant", "tool", "assistant"],
        *["user", "user", "critic", "assistant", "assistant"],
    ]
    source.lpush("message_store:ann", json.dumps(LANGCHAIN[1]))
    assert cli(*kind).out == "added 1 message to 1 session\n"


def test_langchains_messages():
    found = [from_langchain(stored) for stored in LANGCHAIN]
    assert found[1].to_openai()["content"] == LANGCHAIN[1]["data"]["content"]
    [call] = found[2].tool_calls
    assert (call.id, call.name, call.arguments) == ("call_1", "look", '{"where": "cat.png"}')
    assert found[2].extras["langchain"]["usage_metadata"]["total_tokens"] == 12
    assert (found[3].text, found[3].tool_call_id, found[3].name) == ("a cat", "call_1", "look")
    assert found[4].extras["langchain"]["response_metadata"] == {"model_name": "gpt-4o"}
    assert found[5].name == "bob"
    assert found[8].tool_calls[0].id == "call_2"
    assert found[9].to_openai()["content"] == LANGCHAIN[9]["data"]["content"]


@pytest.mark.parametrize(
    "wrong", [3, {}, {"type": "human"}, {"type": 3, "data": {}}, {"type": "", "data": {}}]
)
def test_what_is_no_message_of_langchains(wrong):
    with pytest.raises(ValueError, match="no message of LangChain"):
        from_langchain(wrong)


def test_sources_that_are_wrong(cli, own, source, monkeypatch):
    source.rpush("chat", "nonsense")
    source.lpush("message_store:a", "[1]")
    to = ("--url", "memory://")
    kind = ("import", "--from", "llama-index-redis", "--prefix", "")
    told = cli(*kind, bare(own), *to)
    assert told.code == 1
    assert "wants a password: redis://:password@..., or CHATSTORES_SOURCE_PASSWORD" in told.err
    told = cli(*kind, f"redis://s3cret@127.0.0.1:{own.port}", *to)
    assert told.code == 1
    assert "refused the user, who has no password" in told.err
    assert "s3cret" not in told.err
    told = cli(*kind, f"redis://:wrong@127.0.0.1:{own.port}", *to)
    assert told.code == 1
    assert "refused the user or password" in told.err
    told = cli(*kind, "redis://127.0.0.1:1", *to)
    assert told.code == 1
    assert "cannot be read" in told.err
    for url in ("http://localhost", "nonsense"):
        assert cli(*kind, url, *to).code == 2
    monkeypatch.setenv("CHATSTORES_SOURCE_PASSWORD", "geheim")
    told = cli(*kind, own.url, *to)
    assert told.code == 2
    assert "CHATSTORES_SOURCE_PASSWORD" in told.err
    assert "geheim" not in told.err
    assert "entry 0 of the list 'chat' is not JSON" in cli(*kind, bare(own), *to).err
    told = cli("import", "--from", "langchain-redis", bare(own), *to)
    assert "message 0 of session 'a': this is no message of LangChain's" in told.err
