"""The public surface: it changes on purpose only, and both forms of it agree."""

from __future__ import annotations

import inspect
import re
from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import Any, get_type_hints

import pytest

import chatstores
from chatstores import ChatMemoryBuffer, ChatMessage, ChatStore
from chatstores_memory import MemoryChatStore

EXPORTED = [
    "AudioBlock",
    "Capabilities",
    "ChatMemoryBuffer",
    "ChatMessage",
    "ChatStore",
    "Commit",
    "DocumentBlock",
    "ImageBlock",
    "Page",
    "SessionInfo",
    "SessionPage",
    "TextBlock",
    "ThinkingBlock",
    "ToolCallBlock",
    "UnknownBlock",
    "VideoBlock",
    "errors",
    "open_store",
]

#: The pairs of ChatStore, by the sync name.
STORE = [
    *["add_message", "add_messages", "set_messages", "replace_message"],
    *["delete_last_message", "delete_message", "delete_oldest", "delete_after", "delete_messages"],
    *["set_metadata", "get_messages", "count_messages", "get_version", "page", "get_session"],
    *["get_keys", "iter_keys", "list_sessions"],
    *["purge_expired", "setup", "ping", "persist", "load", "close"],
]
STORE_ALONE = ["capabilities", "from_url", "namespace", "url"]

#: The pairs of ChatMemoryBuffer.
BUFFER = ["put", "put_messages", "get", "get_all", "set", "reset"]
BUFFER_ALONE = [
    *["chat_store", "chat_store_key", "token_limit", "tokenizer_fn"],
    *["from_defaults", "from_dict", "from_string", "to_dict", "to_string"],
]

PAIRS = [(ChatStore, name) for name in STORE] + [(ChatMemoryBuffer, name) for name in BUFFER]
pairs = pytest.mark.parametrize(
    ("owner", "name"), PAIRS, ids=[f"{owner.__name__}.{name}" for owner, name in PAIRS]
)


def public(owner: type) -> set[str]:
    return {name for name in dir(owner) if not name.startswith("_")}


def test_what_is_exported() -> None:
    assert chatstores.__all__ == EXPORTED
    for name in EXPORTED:
        assert getattr(chatstores, name) is not None


def test_star_import_gives_that_and_no_more() -> None:
    names: dict[str, Any] = {}
    exec("from chatstores import *", names)
    assert sorted(set(names) - {"__builtins__"}) == EXPORTED


def test_the_version_is_a_version() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc|\.dev)\d+)?", chatstores.__version__)


@pytest.mark.parametrize(
    ("owner", "both", "alone"),
    [(ChatStore, STORE, STORE_ALONE), (ChatMemoryBuffer, BUFFER, BUFFER_ALONE)],
    ids=["ChatStore", "ChatMemoryBuffer"],
)
def test_the_methods_are_these_and_no_others(
    owner: type, both: list[str], alone: list[str]
) -> None:
    assert public(owner) == {*both, *(f"a{name}" for name in both), *alone}


def test_a_message_has_these_fields_and_methods() -> None:
    assert list(ChatMessage.model_fields) == [
        "id",
        "role",
        "content",
        "name",
        "tool_call_id",
        "created_at",
        "metadata",
        "extras",
    ]
    for name in ("text", "tool_calls", "to_openai", "from_openai"):
        assert hasattr(ChatMessage, name)


@pytest.mark.parametrize("owner", [ChatStore, MemoryChatStore])
def test_a_backend_adds_no_public_name(owner: type) -> None:
    assert public(owner) == public(ChatStore)


@pairs
def test_a_pair_takes_the_same(owner: type, name: str) -> None:
    sync, twin = (inspect.signature(getattr(owner, n)) for n in (name, f"a{name}"))
    assert list(sync.parameters.values()) == list(twin.parameters.values())


@pairs
def test_a_pair_gives_the_same(owner: type, name: str) -> None:
    sync, twin = (get_type_hints(getattr(owner, n)) for n in (name, f"a{name}"))
    if name == "iter_keys":
        assert sync["return"] == Iterator[str]
        assert twin["return"] == AsyncIterator[str]
    else:
        assert sync == twin


@pairs
def test_the_one_blocks_and_the_other_awaits(owner: type, name: str) -> None:
    sync, twin = getattr(owner, name), getattr(owner, f"a{name}")
    assert not inspect.iscoroutinefunction(sync)
    if name == "iter_keys":
        assert inspect.isgeneratorfunction(sync)
        assert inspect.isasyncgenfunction(twin)
    else:
        assert inspect.iscoroutinefunction(twin)


@pairs
def test_the_sync_one_has_the_docstring(owner: type, name: str) -> None:
    assert getattr(owner, f"a{name}").__doc__ == f"Async `{name}`."
    method = getattr(owner, name)
    doc = inspect.getdoc(method)
    assert doc
    for parameter in list(inspect.signature(method).parameters)[1:]:
        assert re.search(rf"^    {parameter}: ", doc, re.MULTILINE), parameter
    if get_type_hints(method)["return"] is not type(None):
        assert "Returns:" in doc


@pytest.mark.parametrize("name", [n for n in STORE if n.startswith(("add", "set_", "delete"))])
def test_every_write_takes_an_expected_version(name: str) -> None:
    parameter = inspect.signature(getattr(ChatStore, name)).parameters["expected_version"]
    assert parameter.kind is parameter.KEYWORD_ONLY
    assert parameter.default is None


@pytest.mark.parametrize("owner", [ChatStore, ChatMemoryBuffer])
def test_every_public_name_is_documented(owner: type) -> None:
    for name in public(owner) - {"capabilities"}:
        assert inspect.getdoc(getattr(owner, name)), name


def test_every_parameter_and_result_has_a_type() -> None:
    for owner, name in PAIRS:
        method = getattr(owner, name)
        wanted = {*list(inspect.signature(method).parameters)[1:], "return"}
        assert set(get_type_hints(method)) == wanted


def test_what_is_awaited_is_awaitable() -> None:
    """Aclose and its like give a coroutine at once, and do nothing before it is awaited."""
    store = MemoryChatStore()
    coroutine = store.aclose()
    assert isinstance(coroutine, Awaitable)
    coroutine.close()  # type: ignore[attr-defined]
    store.ping()
