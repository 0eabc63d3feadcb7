"""open_store: which backend serves a URL, and what it says if it cannot."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chatstores import ChatMessage, ChatStore, open_store, registry
from chatstores.errors import InvalidURLError, MissingDependencyError, UnknownBackendError
from chatstores_json import JsonChatStore
from chatstores_memory import MemoryChatStore

ROOT = Path(__file__).parents[2]


def test_a_store_of_the_backends_own_class() -> None:
    store = open_store("memory://")
    assert type(store) is MemoryChatStore
    assert isinstance(store, ChatStore)
    assert (store.url, store.namespace) == ("memory://", "default")


def test_the_scheme_may_be_in_any_case() -> None:
    assert type(open_store("MEMORY://")) is MemoryChatStore


def test_shared_and_private() -> None:
    open_store("memory://registry-test").add_message("k", ChatMessage("x"))
    assert open_store("memory://registry-test").count_messages("k") == 1
    assert open_store("memory://").count_messages("k") == 0


@pytest.mark.parametrize("beside", [False, True])
def test_options_in_the_url_or_beside_it(beside: bool) -> None:
    if beside:
        store = open_store("memory://", namespace="bot", ttl="7d", create=False, timeout=2)
    else:
        store = open_store("memory://?namespace=bot&ttl=7d&create=false&timeout=2")
    assert store.namespace == "bot"
    store.add_message("k", ChatMessage("x"))
    info = store.get_session("k")
    assert info is not None
    assert info.expires_at is not None
    assert (info.expires_at - info.updated_at).days == 7


def test_none_is_not_given() -> None:
    store = open_store("memory://?namespace=bot", namespace=None, ttl=None, password=None)
    assert store.namespace == "bot"


@pytest.mark.parametrize(
    ("url", "options", "why"),
    [
        ("memory://?ttl=7d", {"ttl": 5}, "given in the URL and beside it: ttl"),
        ("redis://:p@h", {"password": "q"}, "given in the URL and beside it: password"),
        ("memory://", {"tll": 5}, r"no option 'tll' \(did you mean 'ttl'\?\)"),
        ("memory://?nmaespace=x", {}, r"no option 'nmaespace' \(did you mean 'namespace'\?\)"),
        ("memory://?decode_responses=1", {}, "no option 'decode_responses'"),
        ("memory://", {"namespace": "a/b"}, "the option namespace: must be 1 to 64"),
        ("memory://", {"namespace": ""}, "the option namespace: must be 1 to 64"),
        ("memory://", {"namespace": "a" * 65}, "the option namespace: must be 1 to 64"),
        ("memory://", {"namespace": "a\n"}, "the option namespace: must be 1 to 64"),
        ("memory://", {"namespace": "é"}, "the option namespace: must be 1 to 64"),
        ("memory://", {"namespace": 5}, "the option namespace: must be 1 to 64"),
        ("memory://", {"ttl": 0}, "the option ttl: must be more than zero"),
        ("memory://", {"ttl": True}, "the option ttl: must be"),
        ("memory://", {"timeout": -1}, "the option timeout: must be more than zero"),
        ("memory://", {"create": "maybe"}, "the option create: must be true or false"),
        ("memory://", {"on_corrupt": "ignore"}, 'the option on_corrupt: must be "raise" or "skip"'),
        ("memory://", {"password": 5}, "the option password: must be a str"),
        ("memory://", {"password": "x"}, "write memory://"),
        ("memory://a/b", {}, "write memory://"),
        ("memory://a,b", {}, "write memory://"),
        ("memory", {}, "begins with a scheme"),
        ("kafka://h/a/b", {}, "'a/b' is no topic's name"),
        ("kafka://h?partitions=0", {}, "the option partitions: must be a whole number from 1 to"),
        ("kafka://h", {"partitions": 2**16}, "the option partitions: must be a whole number"),
        ("kafka://h", {"replication_factor": 2**15}, "the option replication_factor: must be"),
        ("kafka://h?compaction_lag=-1", {}, "the option compaction_lag: must be"),
        ("kafka://h?consistency=strong", {}, "must be linearizable or eventual"),
        ("kafka://h?acks=1", {}, "the option acks: is refused: chatstores sets it"),
        ("kafka://h?lingr.ms=5", {}, r"no option 'lingr.ms' \(did you mean 'linger.ms'\?\)"),
        ("kafka://h?linger.ms=often", {}, "the option linger.ms: "),
        ("kafka://bot@h", {}, "a user needs a password"),
        ("kafka://bot:p@h?security.protocol=plaintext", {}, "sends no user"),
    ],
)
def test_u5_what_is_wrong_is_said_by_open_store(
    url: str, options: dict[str, Any], why: str
) -> None:
    with pytest.raises(InvalidURLError, match=why):
        open_store(url, **options)


def test_a_kafka_stores_url_opens_it_again() -> None:
    store = open_store(
        "kafka://bot@h1,h2:9093/chats", password="p@ss", compaction_lag=0, partitions=3
    )
    assert "p@ss" not in store.url
    assert open_store(store.url, password="p@ss").url == store.url


@pytest.mark.parametrize("owner", [ChatStore, JsonChatStore])
def test_u5_a_class_opens_its_own_urls_only(owner: type[ChatStore]) -> None:
    with pytest.raises(InvalidURLError, match=f"memory:// is no URL of {owner.__name__}: open_st"):
        owner.from_url("memory://")
    with pytest.raises(NotImplementedError):
        ChatStore.from_url("another://")


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda: MemoryChatStore("memory://name"), "name must be .* no URL"),
        (lambda: MemoryChatStore(""), "name must be"),
        (lambda: MemoryChatStore(3), "name must be"),
        (lambda: JsonChatStore("json:///chats.json"), r"a URL is opened by open_store\(\)"),
        (lambda: JsonChatStore(3), "path must be a str or a pathlib.Path, not int"),
        (lambda: JsonChatStore(""), "json:// needs a file"),
        (lambda: JsonChatStore(b"x.json"), "path must be a str or a pathlib.Path, not bytes"),
        (lambda: JsonChatStore("x.json", sync="sometimes"), "sync: must be true or false"),
        (lambda: JsonChatStore("~no-such-user/x.json"), "no home directory"),
    ],
)
def test_u5_what_is_wrong_is_said_by_a_class(call: Callable[[], ChatStore], why: str) -> None:
    with pytest.raises(InvalidURLError, match=why):
        call()


def test_u5_a_port_means_nothing_to_memory() -> None:
    with pytest.raises(InvalidURLError):
        open_store("memory://name:80")


@pytest.mark.parametrize(
    "name",
    [
        *["my%20chat", "a%2Fb", "a%40b", "a%3Fb", "100%25", "m%C3%BCn", "A_b.c-d"],
        pytest.param("a%3A1"),
    ],
)
def test_a_stores_url_opens_the_same_store(name: str) -> None:
    store = open_store(f"memory://{name}")
    store.add_message("k", ChatMessage("x"))
    assert open_store(store.url).count_messages("k") == 1


@pytest.mark.parametrize(
    ("url", "nearest"),
    [("redsi://u:hunter2@h", "redis"), ("memry://", "memory"), ("jsn:///x", "json")],
)
def test_u5_an_unknown_scheme_names_the_nearest(url: str, nearest: str) -> None:
    with pytest.raises(UnknownBackendError) as caught:
        open_store(url)
    text = str(caught.value)
    assert f"(did you mean {nearest!r}?)" in text
    for scheme in registry.BACKENDS:
        assert f"{scheme}://" in text
    assert "hunter2" not in text


def test_u5_a_scheme_like_no_other() -> None:
    with pytest.raises(UnknownBackendError, match="'carrier-pigeon'; there are"):
        open_store("carrier-pigeon://h")


# Third parties.


class Pigeons(MemoryChatStore):
    """A third party's store."""


@pytest.fixture
def pigeons(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package that serves pigeon:// and would like to serve memory:// too."""
    group = registry.ENTRY_POINTS
    points = importlib.metadata.EntryPoints(
        importlib.metadata.EntryPoint(name, f"{__name__}:Pigeons", group)
        for name in ("pigeon", "memory")
    )
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Pigeons.__module__])
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **want: points.select(**want))


@pytest.mark.usefixtures("pigeons")
def test_a_third_party_serves_its_scheme() -> None:
    assert registry.ENTRY_POINTS == "chatstores.backends"
    assert type(open_store("pigeon://loft")) is Pigeons
    assert "pigeon" in registry.schemes()
    with pytest.raises(UnknownBackendError, match="did you mean 'pigeon'"):
        open_store("pigeno://")


@pytest.mark.usefixtures("pigeons")
def test_a_third_party_cannot_take_a_scheme_of_ours() -> None:
    assert type(open_store("memory://")) is MemoryChatStore


def test_schemes_are_sorted() -> None:
    assert registry.schemes() == sorted(registry.schemes())
    assert set(registry.BACKENDS) <= set(registry.schemes())


# Drivers.


def without(monkeypatch: pytest.MonkeyPatch, driver: str, package: str) -> None:
    """As if the driver were not installed, and the backend never imported."""
    for name in list(sys.modules):
        if name.partition(".")[0] in (driver, package):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, driver, None)


def test_u5_a_missing_driver_says_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "redis", "chatstores_redis")
    url = "redis://u:hunter2@h"
    with pytest.raises(MissingDependencyError) as caught:
        open_store(url)
    assert str(caught.value) == (
        "the package 'redis' is not installed: pip install 'chatstores[redis]'"
    )
    assert isinstance(caught.value, ImportError)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_a_missing_driver_does_not_spoil_the_next_try(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as hidden:
        without(hidden, "redis", "chatstores_redis")
        with pytest.raises(MissingDependencyError):
            open_store("redis://h")
    assert open_store("redis://h").url.startswith("redis://h")


def modules_after(code: str) -> set[str]:
    """The modules that a new interpreter has loaded after this code."""
    code = f"import sys\nbefore = set(sys.modules)\n{code}\nprint(*set(sys.modules) - before)"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'backends'}"},
    )
    return set(result.stdout.split())


DRIVERS = "redis hiredis aiohttp httpx requests sqlalchemy psycopg llama_index tiktoken nltk numpy"
OPEN = "import chatstores; chatstores.open_store('memory://').get_messages('k')"


@pytest.mark.parametrize(
    ("code", "backends"), [("import chatstores", set()), (OPEN, {"chatstores_memory"})]
)
def test_no_driver_is_imported_before_it_is_needed(code: str, backends: set[str]) -> None:
    loaded = {name.partition(".")[0] for name in modules_after(code)}
    assert not loaded & {*DRIVERS.split(), "pytest", "hypothesis"}
    assert {name for name in loaded if name.startswith("chatstores_")} == backends


def test_the_pytest_plugin_imports_nothing_of_ours() -> None:
    loaded = {name.partition(".")[0] for name in modules_after("import chatstores_pytest")}
    assert not loaded & {"chatstores", "pydantic"}


def test_opening_a_store_connects_to_nothing() -> None:
    """The port is nobody's; open_store does no I/O."""
    open_store("redis://user:hunter2@127.0.0.1:1/0").close()
