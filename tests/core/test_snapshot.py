"""persist and load, between memory stores: what is carried, and what no damage can do."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import json
import os
import random
import signal
import stat
import subprocess
import sys
import tempfile
import time
import tracemalloc
from datetime import timedelta
from pathlib import Path

import pytest
from llama_index.core.llms import ChatMessage as LlamaMessage
from llama_index.core.storage.chat_store import SimpleChatStore

from chatstores import (
    ChatMessage,
    ImageBlock,
    TextBlock,
    ToolCallBlock,
    UnknownBlock,
    open_store,
)
from chatstores.codec import encode
from chatstores.errors import (
    ChatStoreError,
    CorruptRecordError,
    CorruptSnapshotError,
    InvalidArgumentError,
    InvalidKeyError,
    InvalidMessageError,
    MessageTooLargeError,
    PermissionDeniedError,
    SessionExistsError,
)
from chatstores.operations import KeyPage
from chatstores.snapshot import run as snapshot_run
from chatstores.state import Head, Record, Restore, Snapshot, now_us
from chatstores.transport import run_sync
from chatstores.types import Capabilities
from chatstores_memory import MemoryChatStore

# What LlamaIndex 0.14.25 wrote with SimpleChatStore.persist (under pydantic 2.12: under 2.14 it
# cannot write at all).
FILE_OF_LLAMA_INDEX = (
    '{"store":{"k":[{"role":"user","additional_kwargs":{},"blocks":[{"block_type":"text","text":'
    '"hé"}]},{"role":"assistant","additional_kwargs":{"tool_calls":[{"id":"c1","function":{"name":'
    '"f","arguments":"{}"},"type":"function"}]},"blocks":[{"block_type":"tool_call","tool_call_id":'
    '"c1","tool_name":"f","tool_kwargs":{"a":1}},{"block_type":"thinking","content":"x",'
    '"num_tokens":3,"additional_information":{"signature":"s","type":"thinking"}}]},{"role":"tool",'
    '"additional_kwargs":{"tool_call_id":"c1","name":"f"},"blocks":[{"block_type":"text","text":"4"'
    '}]},{"role":"user","additional_kwargs":{},"blocks":[{"block_type":"image","image":'
    '"iVBORw0KGgoxMjM=","path":null,"url":null,"image_mimetype":"image/png","detail":null},'
    '{"block_type":"video","video":null,"path":null,"url":"https://x.org/a.mp4","video_mimetype":'
    '"video/mp4","detail":null,"fps":2},{"block_type":"document","data":"JVBERi0xLjQ=","path":null,'
    '"url":null,"title":"input_document","document_mimetype":"application/pdf"},{"block_type":'
    '"cache","cache_control":{"type":"ephemeral","ttl":"5m"}}]}],"e":[]},"class_name":'
    '"SimpleChatStore"}'
)
# The older shape, text in ``content``.
OLD_FILE_OF_LLAMA_INDEX = json.dumps(
    {
        "store": {
            "user1": [
                {"role": "user", "content": "What is 1 + 1?", "additional_kwargs": {}},
                {
                    "role": "assistant",
                    "content": None,
                    "additional_kwargs": {
                        "tool_calls": [
                            {
                                "id": "call_1",
                                "function": {"arguments": '{"a":1,"b":1}', "name": "add"},
                                "type": "function",
                            }
                        ]
                    },
                },
                {
                    "role": "tool",
                    "content": "2",
                    "additional_kwargs": {"name": "add", "tool_call_id": "call_1"},
                },
            ]
        },
        "class_name": "SimpleChatStore",
    }
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "snapshot.jsonl"


def filled(**options):
    """A store with something of everything."""
    store = MemoryChatStore(**options)
    store.add_messages("alice", [ChatMessage(f"message {i} 🦜 \n\0") for i in range(3)])
    store.set_metadata("alice", {"title": "Ünï", "deep": [1, 1.0, True, None, 10**30]})
    run_sync(
        store._set_metadata(sync_transport(store), "alice", {"chatstores.x": [1]}, None, own=True)
    )
    store.add_message(
        "é/:\n*",
        ChatMessage(
            [
                TextBlock(text=""),
                ToolCallBlock(id="c", name="f", arguments={"a": 1}),
                ImageBlock(data=b"\xff\x00"),
                UnknownBlock(type="refusal", refusal="no"),
            ],
            "assistant",
            metadata={"a": 1.0},
            extras={"openai": {"set": {"n": None}}},
        ),
    )
    store.set_messages("empty", [])
    return store


def sync_transport(store):
    return store._transports.sync()


def contents(store):
    """All that a snapshot carries, but for what is left of the ttl."""
    found = {}
    for key in store.get_keys():
        head = run_sync(store._head(None, key))
        rows = run_sync(store._read(None, key, None, None))
        found[key] = (rows, head.metadata, head.own, head.created_at, head.updated_at, head.count)
    return found


def loaded(path, **options):
    store = MemoryChatStore()
    store.load(path, **options)
    return store


def break_record(store, key, index, payload=b"{"):
    store._sessions.fold.state(store.namespace, key).payloads[index] = payload


def leftovers(path):
    return [name for name in os.listdir(path.parent) if name != path.name]


def resealed(text):
    """A snapshot whose last line is right for what stands before it."""
    lines = text.splitlines(keepends=True)
    sessions = sum(line.startswith('{"session"') for line in lines)
    messages = len(lines) - sessions - 2
    digest = hashlib.sha256("".join(lines[:-1]).encode()).hexdigest()
    counts = {"sessions": sessions, "messages": messages, "sha256": digest}
    return "".join(lines[:-1]) + json.dumps({"end": counts}) + "\n"


# What is carried


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_a_store_comes_back_equal(tmp_path, name):
    store = filled()
    store.persist(tmp_path / name)
    again = loaded(str(tmp_path / name))
    assert contents(again) == contents(store)
    assert contents(again)["alice"][2] == b'{"chatstores.x":[1]}'
    for key in store.get_keys():
        assert again.get_messages(key) == store.get_messages(key)
        assert again.get_session(key).metadata == store.get_session(key).metadata
    assert sorted(os.listdir(tmp_path)) == [name]


def test_a_store_without_sessions(path):
    MemoryChatStore().persist(path)
    assert len(path.read_text().splitlines()) == 2
    assert loaded(path).get_keys() == []


def test_the_same_in_async_form(path):
    async def run():
        store, again = filled(), MemoryChatStore()
        await store.apersist(path)
        await again.aload(path)
        assert contents(again) == contents(store)
        with pytest.raises(SessionExistsError):
            await again.aload(path)
        await again.aload(path, on_existing="skip")
        with pytest.warns(RuntimeWarning, match="refusal"):
            await store.apersist(path, format="llama_index")
        await again.aload(path, on_existing="replace")
        assert again.get_keys() == store.get_keys()
        await store.aclose()
        await again.aclose()

    asyncio.run(run())


def test_only_this_namespace_is_written(path):
    one = MemoryChatStore("snapshot-spaces")
    other = MemoryChatStore("snapshot-spaces", namespace="other")
    one.add_message("a", ChatMessage("1"))
    other.add_message("b", ChatMessage("2"))
    one.persist(path)
    assert loaded(path).get_keys() == ["a"]
    target = MemoryChatStore(namespace="third")
    target.load(path)
    assert target.get_keys() == ["a"]


def test_what_is_left_of_the_ttl_counts_from_the_load(path):
    store = MemoryChatStore(ttl=100)
    store.add_message("mortal", ChatMessage("x"))
    store.persist(path)
    left = json.loads(path.read_text().splitlines()[1])["left"]
    assert 99_000_000 < left <= 100_000_000
    again = MemoryChatStore(ttl=5)
    again.load(path)
    expiry = again.get_session("mortal").expires_at.timestamp() - time.time()
    assert 95 < expiry <= 100
    MemoryChatStore().persist(path)
    filled().persist(path)
    assert again.load(path) is None
    assert again.get_session("alice").expires_at is None


def test_a_session_that_has_expired_is_not_written(path):
    class Late(MemoryChatStore):
        async def _snapshot(self, t, key, before, limit):
            found = await super()._snapshot(t, key, before, limit)
            return found._replace(head=_at(found.head, expires_at=now_us() - 1))

    store = Late()
    store.add_message("a", ChatMessage("x"))
    store.persist(path)
    assert loaded(path).get_keys() == []


def _at(head, **changes):
    fields = {name: getattr(head, name) for name in Head.__slots__}
    return Head(**(fields | changes))


def test_a_session_that_goes_meanwhile_is_not_written(path):
    class Going(MemoryChatStore):
        async def _list(self, t, prefix, after, limit):
            page = await super()._list(t, prefix, after, limit)
            self._sessions.fold.namespaces[self.namespace].pop("b", None)
            return page

    store = Going()
    for key in "abc":
        store.add_message(key, ChatMessage(key))
    store.persist(path)
    assert loaded(path).get_keys() == ["a", "c"]


def test_many_sessions_over_pages_of_keys_some_of_them_empty(path):
    class Slow(MemoryChatStore):
        async def _list(self, t, prefix, after, limit):
            page = await super()._list(t, prefix, after, 7)
            return (
                page if random.random() < 0.5 or page.after is None else KeyPage([], after or " ")
            )

    store = Slow()
    for number in range(50):
        store.add_message(f"{number:02}", ChatMessage("x"))
    store.persist(path)
    assert loaded(path).get_keys() == store.get_keys()


def test_a_session_with_repeated_ids_is_restored(path):
    store = MemoryChatStore()
    message = ChatMessage("again")
    records = [Record(message.id, encode(message))] * 3
    restore = Restore(records, b"{}", b"{}", 1, 2, None)
    run_sync(store._do(sync_transport(store), "k", restore, None))
    store.persist(path)
    assert contents(loaded(path)) == contents(store)
    assert loaded(path).get_messages("k") == [message] * 3


def test_a_record_that_holds_newlines_stays_one_line(path):
    store = MemoryChatStore()
    message = ChatMessage("one\ntwo")
    store.add_message("k", message)
    payload = encode(message)
    break_record(store, "k", 0, payload[:7] + b"\n\r\n" + payload[7:])
    store.persist(path)
    assert loaded(path).get_messages("k") == [message]


def test_large_messages_and_long_sessions(path):
    store = MemoryChatStore()
    store.add_message("large", ChatMessage("x" * 3_000_000))
    store.add_messages("long", [ChatMessage(f"{i}") for i in range(1201)])
    store.persist(path)
    assert contents(loaded(path)) == contents(store)


def test_a_listing_out_of_order_is_no_snapshot(path):
    class Wrong(MemoryChatStore):
        async def _list(self, t, prefix, after, limit):
            return KeyPage(["b", "a"], None)

    store = Wrong()
    store.add_message("a", ChatMessage("x"))
    store.add_message("b", ChatMessage("x"))
    with pytest.raises(ChatStoreError, match="out of order"):
        store.persist(path)


def test_the_file_can_be_read_by_a_person(path):
    store = MemoryChatStore()
    store.add_message("a", ChatMessage("hello"))
    store.set_metadata("a", {"title": "t"})
    store.persist(path)
    header, session, message, end = map(json.loads, path.read_text().splitlines())
    assert (header["format"], header["version"]) == ("chatstores snapshot", 1)
    assert (session["session"], session["count"], session["metadata"]) == ("a", 1, {"title": "t"})
    assert message["content"] == "hello"
    assert (end["end"]["sessions"], end["end"]["messages"]) == (1, 1)


def test_conversations_of_people(path, tmp_path):
    name = os.environ.get("CHATSTORES_TEST_CONVERSATIONS")
    if not name:
        pytest.skip("CHATSTORES_TEST_CONVERSATIONS names no file")
    store = MemoryChatStore()
    with open(name) as file:
        for line in file:
            session = json.loads(line)
            messages = [ChatMessage.from_openai(message) for message in session["messages"]]
            store.set_messages(session["session"], messages)
    store.persist(path)
    assert contents(loaded(path)) == contents(store)
    store.persist(path, format="llama_index")
    theirs = SimpleChatStore.from_persist_path(str(path))
    again = loaded(path)
    assert sorted(theirs.get_keys()) == sorted(again.get_keys())
    for key in store.get_keys():
        assert [m.text for m in again.get_messages(key)] == [
            m.text for m in store.get_messages(key)
        ]


# Records that are not readable


def test_a_record_that_is_not_readable_is_no_snapshot(path):
    store = filled()
    store.persist(path)
    before = path.read_bytes()
    break_record(store, "alice", 1)
    for kind in ("chatstores", "llama_index"):
        with pytest.raises(CorruptRecordError) as caught:
            store.persist(path, format=kind)
        assert (caught.value.key, caught.value.position) == ("alice", 1)
    assert path.read_bytes() == before
    assert leftovers(path) == []


def test_a_record_of_a_later_format_says_so(path):
    store = filled()
    break_record(store, "alice", 1, b'{"v":2,"x":1}')
    with pytest.raises(CorruptRecordError, match="upgrade chatstores"):
        store.persist(path)


@pytest.mark.parametrize("format", ["chatstores", "llama_index"])
def test_or_it_is_skipped_with_a_warning(path, format):
    store = MemoryChatStore(on_corrupt="skip")
    store.add_messages("k", [ChatMessage("a"), ChatMessage("b"), ChatMessage("c")])
    break_record(store, "k", 1)
    with pytest.warns(RuntimeWarning, match=r"skipped: record 1 of session 'k' is not readable"):
        store.persist(path, format=format)
    assert [m.content for m in loaded(path).get_messages("k")] == ["a", "c"]


def test_metadata_that_is_not_readable(path):
    store = filled()
    store._sessions.fold.state("default", "alice").metadata = b'{"a"'
    with pytest.raises(CorruptRecordError, match="alice"):
        store.persist(path)
    store._on_corrupt = "skip"
    with pytest.warns(RuntimeWarning, match="unreadable metadata"):
        store.persist(path)
    assert loaded(path).get_session("alice").metadata == {}


# Damage


def refused(path, store):
    """Load what is damaged; nothing may be written."""
    before = contents(store)
    with pytest.raises(CorruptSnapshotError) as caught:
        store.load(path, on_existing="replace")
    assert contents(store) == before
    assert path.name in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def small(**options):
    store = MemoryChatStore(**options)
    store.add_messages("a", [ChatMessage("1"), ChatMessage("2")])
    store.add_messages("b", [ChatMessage("3")])
    return store


def test_a_file_cut_anywhere_is_refused(path):
    store = small()
    store.persist(path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refused(path, store)


def test_a_file_without_any_one_of_its_lines_is_refused(path):
    store = small()
    store.persist(path)
    lines = path.read_bytes().splitlines(keepends=True)
    for index in range(len(lines)):
        path.write_bytes(b"".join(lines[:index] + lines[index + 1 :]))
        refused(path, store)
        path.write_bytes(b"".join([*lines[: index + 1], *lines[index:]]))
        refused(path, store)


def test_a_file_with_any_one_byte_altered_is_refused(path):
    store = small()
    store.persist(path)
    whole = path.read_bytes()
    for index in range(len(whole)):
        for flip in (0x01, 0x20, 0xFF):
            path.write_bytes(whole[:index] + bytes([whole[index] ^ flip]) + whole[index + 1 :])
            refused(path, store)


def test_a_compressed_file_cut_or_altered_is_refused(tmp_path):
    path = tmp_path / "a.gz"
    store = small()
    store.persist(path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refused(path, store)
    harmless = range(4, 10)  # gzip's time and system
    for index in range(len(whole)):
        if index not in harmless:
            path.write_bytes(whole[:index] + bytes([whole[index] ^ 0x11]) + whole[index + 1 :])
            refused(path, store)
    path.write_bytes(whole + b"more")
    refused(path, store)
    path.write_bytes(whole + whole)
    refused(path, store)


def test_where_the_damage_is_said(path):
    store = small()
    store.persist(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3]))
    assert "line 4: the file ends here" in refused(path, store)
    path.write_bytes(b"".join([*lines[:2], b"{}\n", *lines[3:]]))
    assert "line 3: the message is not readable" in refused(path, store)
    path.write_bytes(b"".join(lines) + b"x")
    assert "goes on after its last line" in refused(path, store)
    path.write_bytes(b"".join(lines).replace(b'"content":"1"', b'"content":"7"'))
    assert "the checksum are others" in refused(path, store)
    path.write_bytes(b"".join(lines).replace(b"\n", b"\r\n"))
    refused(path, store)


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("session", "", "must not be empty"),
        ("session", "x" * 513, "513 bytes"),
        ("session", "a\0", "NUL"),
        ("session", 1, "must be a str"),
        ("count", -1, "out of range"),
        ("count", True, "out of range"),
        ("count", 1.0, "out of range"),
        ("created_at", "now", "out of range"),
        ("updated_at", 2**53, "out of range"),
        ("left", 0, "out of range"),
        ("left", 1.5, "out of range"),
        ("metadata", [], "must be a dict"),
        ("metadata", {"a": "x" * 20_000}, "16,384"),
        ("own", None, "must be a dict"),
        ("more", 1, "fields are others"),
    ],
    ids=str,
)
def test_a_session_line_that_makes_no_sense_is_refused(path, field, value, why):
    store = MemoryChatStore()
    store.add_message("a", ChatMessage("x"))
    store.persist(path)
    lines = path.read_text().splitlines(keepends=True)
    lines[1] = json.dumps(json.loads(lines[1]) | {field: value}) + "\n"
    path.write_text(resealed("".join(lines)))
    assert why in refused(path, store)


def test_a_key_twice_is_refused(path):
    store = MemoryChatStore()
    store.add_message("a", ChatMessage("x"))
    store.persist(path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(resealed("".join([*lines[:3], *lines[1:]])))
    assert "'a' is not after the one before it" in refused(path, store)


def test_a_newer_format_says_so(path):
    store = small()
    store.persist(path)
    text = path.read_text().replace('"version":1', '"version":12', 1)
    path.write_text(resealed(text))
    assert "upgrade chatstores" in refused(path, store)
    path.write_text(resealed(path.read_text().replace('{"v":1', '{"v":2').replace(":12", ":1", 1)))
    assert "line 3: the message was written in format 2" in refused(path, store)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"hello",
        b"{}",
        b"[]",
        b"null",
        b'""',
        b'"a"',
        b'"{}"',
        b"{" * 100_000,
        b'{"a": ' * 100_000,
        b'{"store": []}',
        b'{"store": {"k": 1}}',
        b'{"store": {"k": [1]}}',
        b'{"store": {"k": [{"role": "user", "blocks": [{"block_type": "text"}]}]}}',
        b"\x1f\x8b",
        b"\x1f\x8b\x08 no gzip",
        gzip.compress(b"hello"),
        gzip.compress(b""),
        b"SQLite format 3\0" + bytes(5000),
        b"\xff\xfe{\0}\0",
    ],
    ids=lambda content: ascii(content[:12]),
)
def test_a_file_of_another_program_is_refused(path, content):
    path.write_bytes(content)
    refused(path, small())


def test_a_message_too_large_for_this_store(path):
    class Small(MemoryChatStore):
        capabilities = Capabilities(max_message_bytes=1000)

    source = MemoryChatStore()
    source.add_message("a", ChatMessage("fits"))
    source.add_messages("b", [ChatMessage("fits"), ChatMessage("x" * 1000)])
    for kind in ("chatstores", "llama_index"):
        source.persist(path, format=kind)
        store = Small()
        with pytest.raises(MessageTooLargeError, match="message 1 of session 'b'") as caught:
            store.load(path)
        assert (caught.value.limit, caught.value.size > 1000) == (1000, True)
        assert store.get_keys() == []
    source.persist(path)
    path.write_bytes(path.read_bytes().replace(b"xxxx", b"yyyy"))
    refused(path, Small())  # altered is what is said first


# on_existing


def test_error_names_what_is_there_and_writes_nothing(path):
    store = MemoryChatStore()
    for number in range(30):
        store.add_message(f"{number:02}", ChatMessage("x"))
    store.persist(path)
    other = MemoryChatStore()
    for number in range(5, 30):
        other.add_message(f"{number:02}", ChatMessage("kept"))
    before = contents(other)
    with pytest.raises(SessionExistsError) as caught:
        other.load(path)
    assert caught.value.keys == [f"{number:02}" for number in range(5, 25)]
    assert contents(other) == before


def test_error_does_not_mind_other_sessions(path):
    small().persist(path)
    other = MemoryChatStore()
    other.add_message("c", ChatMessage("x"))
    other.load(path)
    assert other.get_keys() == ["a", "b", "c"]


def test_replace_takes_the_files(path):
    store = small()
    store.persist(path)
    store.add_message("a", ChatMessage("later"))
    store.set_metadata("b", {"x": 1})
    store.add_message("c", ChatMessage("other"))
    version = store.get_version("a")
    store.load(path, on_existing="replace")
    assert [m.content for m in store.get_messages("a")] == ["1", "2"]
    assert store.get_session("b").metadata == {}
    assert store.get_keys() == ["a", "b", "c"]
    assert store.get_version("a") > version


def test_skip_keeps_the_stores(path):
    store = small()
    store.persist(path)
    store.delete_messages("b")
    store.set_messages("a", [])
    store.load(path, on_existing="skip")
    assert store.get_messages("a") == []
    assert [m.content for m in store.get_messages("b")] == ["3"]


def test_an_interrupted_load_is_finished_with_skip(path):
    class Interrupted(MemoryChatStore):
        left = 3

        async def _commit(self, t, key, command):
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            return await super()._commit(t, key, command)

    store = MemoryChatStore()
    for number in range(10):
        store.add_message(f"{number}", ChatMessage(f"{number}"))
    store.persist(path)
    other = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        other.load(path)
    assert len(other.get_keys()) == 3
    with pytest.raises(SessionExistsError):
        other.load(path)
    other.left = 100
    other.load(path, on_existing="skip")
    assert contents(other) == contents(store)


class Raced(MemoryChatStore):
    """Somebody else writes each session just before the load does."""

    async def _commit(self, t, key, command):
        if isinstance(command.action, Restore):
            other = MemoryChatStore(self._name, namespace=self.namespace)
            other.add_message(key, ChatMessage("theirs"))
        return await super()._commit(t, key, command)


def test_what_comes_meanwhile_is_never_written_over(path):
    small().persist(path)
    store = Raced("snapshot-race")
    with pytest.raises(SessionExistsError) as caught:
        store.load(path)
    assert caught.value.keys == ["a"]
    store.load(path, on_existing="skip")
    assert [m.content for m in store.get_messages("b")] == ["theirs"]


# The file


def test_a_new_file_is_private_and_a_former_ones_mode_is_kept(path):
    small().persist(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o640)
    small().persist(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_link_stays_a_link(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to(target)
    small().persist(link)
    assert link.is_symlink()
    assert loaded(target).get_keys() == ["a", "b"]


def test_a_long_name(tmp_path):
    path = tmp_path / ("é" * 120 + "x" * 15)
    small().persist(path)
    assert loaded(path).get_keys() == ["a", "b"]
    with pytest.raises(InvalidArgumentError, match="too long"):
        small().persist(tmp_path / ("x" * 300))
    with pytest.raises(InvalidArgumentError, match="too long"):
        small().load(tmp_path / ("x" * 300))


def test_a_name_without_a_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small().persist("here.jsonl")
    assert loaded("here.jsonl").get_keys() == ["a", "b"]


@pytest.mark.parametrize("value", [None, 3, b"bytes", "", "a\0b", "\ud800", ["a"]], ids=ascii)
def test_a_path_is_a_files_name(value):
    for call in (small().persist, small().load):
        with pytest.raises(InvalidArgumentError, match="path must be a file's name"):
            call(value)


def test_what_is_no_file(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    file = tmp_path / "file"
    file.write_text("")
    store = small()
    for place, why in [(tmp_path, "is a directory"), (pipe, "pipe"), (file / "x", "file")]:
        for call in (store.persist, store.load):
            with pytest.raises(InvalidArgumentError, match=why):
                call(place)
    with pytest.raises(InvalidArgumentError, match="no file or directory"):
        store.load(tmp_path / "missing")
    with pytest.raises(InvalidArgumentError, match="there is no directory"):
        store.persist(tmp_path / "missing" / "x")
    assert sorted(os.listdir(tmp_path)) == ["file", "pipe"]


@contextlib.contextmanager
def as_nobody(directory):
    """As a user without rights but on a directory, where the tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    if not hasattr(os, "setresuid"):
        pytest.skip("root may do everything")
    os.chown(directory, 65534, -1)
    os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


def test_no_permission():
    with tempfile.TemporaryDirectory() as name, as_nobody(name):
        closed = Path(name) / "closed"
        closed.mkdir()
        small().persist(closed / "a")
        closed.chmod(0o000)
        with pytest.raises(PermissionDeniedError, match="no permission"):
            small().persist(closed / "a")
        with pytest.raises(PermissionDeniedError, match="no permission"):
            small().load(closed / "a")
        closed.chmod(0o500)
        with pytest.raises(PermissionDeniedError, match="no permission"):
            small().persist(closed / "b")
        closed.chmod(0o700)


def test_a_read_only_file_is_not_replaced():
    with tempfile.TemporaryDirectory() as name, as_nobody(name):
        path = Path(name) / "a"
        small().persist(path)
        path.chmod(0o400)
        with pytest.raises(PermissionDeniedError, match="no permission to write"):
            small().persist(path)
        assert loaded(path).get_keys() == ["a", "b"]
        assert leftovers(path) == []


@pytest.mark.parametrize("format", ["chatstores", "llama_index"])
@pytest.mark.parametrize("file", ["chats.json", "chats.json.journal", "link"])
def test_a_stores_own_file_is_not_replaced(tmp_path, file, format):
    (tmp_path / "link").symlink_to(tmp_path / "chats.json")
    with open_store(f"json:///{tmp_path}/chats.json") as store:
        store.add_message("k", ChatMessage("x"))
        for other in [store, small()]:
            with pytest.raises(InvalidArgumentError, match="of a json:// store, whose sessions wo"):
                other.persist(tmp_path / file, format=format)
    with open_store(f"json:///{tmp_path}/chats.json") as store:
        assert store.count_messages("k") == 1
        store.persist(tmp_path / "snapshot")
        store.persist(tmp_path / "snapshot")


def test_a_stores_own_file_is_no_snapshot(tmp_path):
    with open_store(f"json:///{tmp_path}/chats.json") as store:
        store.add_message("k", ChatMessage("x"))
    for file in ["chats.json", "chats.json.journal"]:
        with pytest.raises(CorruptSnapshotError, match="a file of a json:// store: open that sto"):
            small().load(tmp_path / file)


@pytest.mark.parametrize("value", ["json", "", None, 1, ["chatstores"], "Chatstores"], ids=str)
def test_unknown_choices(path, value):
    with pytest.raises(InvalidArgumentError, match='format must be "chatstores" or "llama_index"'):
        small().persist(path, format=value)
    with pytest.raises(InvalidArgumentError, match='on_existing must be "error" or "replace"'):
        small().load(path, on_existing=value)
    assert leftovers(path) == []


def test_a_file_altered_between_the_two_readings(path, monkeypatch):
    small().persist(path)
    check = snapshot_run._check

    async def slow(*args):
        await check(*args)
        with path.open("ab") as file:
            file.write(b"x")

    monkeypatch.setattr(snapshot_run, "_check", slow)
    store = MemoryChatStore()
    with pytest.raises(CorruptSnapshotError, match="altered while it was loaded"):
        store.load(path)
    assert store.get_keys() == []


def test_a_file_replaced_between_the_two_readings_does_not_matter(path, monkeypatch):
    small().persist(path)
    check = snapshot_run._check

    async def slow(*args):
        await check(*args)
        filled().persist(path)

    monkeypatch.setattr(snapshot_run, "_check", slow)
    store = MemoryChatStore()
    store.load(path)
    assert store.get_keys() == ["a", "b"]


def test_a_failure_of_the_store_leaves_nothing_behind(path):
    class Failing(MemoryChatStore):
        async def _snapshot(self, t, key, before, limit):
            if key == "b":
                raise KeyboardInterrupt
            return await super()._snapshot(t, key, before, limit)

    small().persist(path)
    before = path.read_bytes()
    store = Failing()
    store.add_message("a", ChatMessage("x"))
    store.add_message("b", ChatMessage("x"))
    for name in (path, path.with_suffix(".gz")):
        with pytest.raises(KeyboardInterrupt):
            store.persist(name)
    assert path.read_bytes() == before
    assert leftovers(path) == []


def test_a_cancelled_persist_leaves_nothing_behind(path):
    small().persist(path)
    former = path.read_bytes()
    store = MemoryChatStore()
    for number in range(200):
        store.add_messages(f"{number:03}", [ChatMessage("x" * 100) for _ in range(20)])

    async def run(delay):
        task = asyncio.create_task(store.apersist(path))
        await asyncio.sleep(delay)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert leftovers(path) == []
        if task.cancelled() and path.read_bytes() != former:  # the last step ran to its end
            assert len(loaded(path).get_keys()) == 200

    began = time.monotonic()
    store.persist(path)
    duration = time.monotonic() - began
    path.write_bytes(former)
    for step in range(20):
        asyncio.run(run(duration * step / 12))


def test_a_cancelled_load_leaves_no_file_open(path):
    store = MemoryChatStore()
    for number in range(200):
        store.add_messages(f"{number:03}", [ChatMessage("x" * 100) for _ in range(20)])
    store.persist(path)

    async def run(delay):
        other = MemoryChatStore()
        task = asyncio.create_task(other.aload(path, on_existing="skip"))
        await asyncio.sleep(delay)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await other.aload(path, on_existing="skip")
        assert contents(other) == contents(store)

    before = len(os.listdir("/dev/fd"))
    for step in range(8):
        asyncio.run(run(step * 0.01))
    assert len(os.listdir("/dev/fd")) <= before


#: Children find what this process finds.
WITH_PATH = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}

KILLED = """
import sys
from chatstores import ChatMessage, open_store
store = open_store("memory://")
for number in range(40):
    store.add_messages(f"{number:02}", [ChatMessage("x" * 200) for _ in range(25)])
print("ready", flush=True)
while True:
    store.persist(sys.argv[1])
"""


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_persist_killed_at_any_moment_leaves_the_former_file_whole(tmp_path, suffix):
    path = tmp_path / f"a.jsonl{suffix}"
    small().persist(path)
    for _ in range(8):
        command = [sys.executable, "-c", KILLED, path]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=WITH_PATH) as process:
            assert process.stdout.readline() == b"ready\n"
            time.sleep(random.uniform(0, 0.06))
            process.send_signal(signal.SIGKILL)
        assert len(loaded(path).get_keys()) in (2, 40)
        for name in leftovers(path):
            assert name.startswith(".a.jsonl")
            assert name.endswith(".chatstores-tmp")
            (tmp_path / name).unlink()


FULL = """
import os, resource, sys, warnings
warnings.simplefilter("error")
from chatstores import ChatMessage, open_store
from chatstores.errors import ChatStoreError
store = open_store("memory://")
for number in range(400):
    store.add_messages(f"{number:03}", [ChatMessage(os.urandom(150).hex()) for _ in range(20)])
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
for name in sys.argv[1:]:
    try:
        store.persist(name)
    except ChatStoreError as error:
        print(f"{type(error).__name__}: {error}: {type(error.__cause__).__name__}")
"""


def test_a_full_disk(path):
    small().persist(path)
    before = path.read_bytes()
    names = [str(path), str(path.with_suffix(".gz"))]
    result = subprocess.run(
        [sys.executable, "-c", FULL, *names],
        capture_output=True,
        text=True,
        check=True,
        env=WITH_PATH,
    )
    assert result.stderr == ""
    assert result.stdout.splitlines() == [
        f"ChatStoreError: {name!r}: File too large: OSError" for name in names
    ]
    assert path.read_bytes() == before
    assert leftovers(path) == []


# Memory


class Endless(MemoryChatStore):
    """300 sessions of 200 messages, made as they are asked for; it keeps nothing."""

    SESSIONS, MESSAGES = 300, 200
    payloads = tuple(bytearray(encode(ChatMessage(f"{i:03} " * 100))) for i in range(MESSAGES))
    restored = 0

    async def _list(self, t, prefix, after, limit):
        start = 0 if after is None else int(after) + 1
        stop = min(start + limit, self.SESSIONS)
        keys = [f"{number:03}" for number in range(start, stop)] if not self.restored else []
        return KeyPage(keys, None if stop == self.SESSIONS else keys[-1])

    async def _snapshot(self, t, key, before, limit):
        rows = [(i, bytes(payload)) for i, payload in enumerate(self.payloads)]
        return Snapshot(Head(1, 1, len(rows), 1, 1, None, b"{}", b"{}"), rows)

    async def _commit(self, t, key, command):
        self.restored += len(command.action.records)
        return await super()._commit(t, "same", command._replace(expected_version=None))


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_memory_stays_flat(tmp_path, name):
    path = tmp_path / name
    Endless().persist(path)  # what is made once is made
    data = path.read_bytes()
    assert len(gzip.decompress(data) if name.endswith(".gz") else data) > 20_000_000
    del data
    target = Endless()
    peaks = []
    for work in (lambda: Endless().persist(path), lambda: target.load(path, on_existing="skip")):
        tracemalloc.start()
        work()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert target.restored == Endless.SESSIONS * Endless.MESSAGES
    assert max(peaks) < 4_000_000, peaks


# LlamaIndex


def texts(store, key):
    return [message.text for message in store.get_messages(key)]


def test_a_file_of_llama_index(path):
    path.write_text(FILE_OF_LLAMA_INDEX, encoding="utf-8")
    store = loaded(path)
    assert store.get_keys() == ["e", "k"]
    assert store.get_messages("e") == []
    first, call, result, media = store.get_messages("k")
    assert (first.role, first.content) == ("user", "hé")
    assert call.tool_calls == [ToolCallBlock(id="c1", name="f", arguments={"a": 1})]
    assert (result.role, result.tool_call_id, result.name) == ("tool", "c1", "f")
    assert [block.type for block in media.content] == ["image", "video", "document", "cache"]
    assert media.content[0].data == b"\x89PNG\r\n\x1a\n123"
    assert len({message.id for message in store.get_messages("k")}) == 4


def test_a_file_of_llama_index_comes_back_the_same(path):
    path.write_text(FILE_OF_LLAMA_INDEX, encoding="utf-8")
    original = SimpleChatStore.from_persist_path(str(path))
    loaded(path).persist(path, format="llama_index")
    assert SimpleChatStore.from_persist_path(str(path)) == original


def test_a_file_of_an_older_llama_index(path):
    path.write_text(OLD_FILE_OF_LLAMA_INDEX)
    store = loaded(path)
    question, call, result = store.get_messages("user1")
    assert question.content == "What is 1 + 1?"
    assert call.content == [ToolCallBlock(id="call_1", name="add", arguments='{"a":1,"b":1}')]
    assert (result.text, result.tool_call_id, result.name) == ("2", "call_1", "add")
    original = SimpleChatStore.from_persist_path(str(path))
    store.persist(path, format="llama_index")
    assert SimpleChatStore.from_persist_path(str(path)) == original


@pytest.mark.parametrize("text", [FILE_OF_LLAMA_INDEX, OLD_FILE_OF_LLAMA_INDEX])
@pytest.mark.parametrize("form", ["twice", "indented", "bom", "gz", "blank"])
def test_other_forms_of_a_file_of_llama_index(path, text, form):
    path.write_text(text, encoding="utf-8")
    plain = loaded(path)
    data = {
        "twice": json.dumps(text).encode(),
        "indented": json.dumps(json.loads(text), indent=2, ensure_ascii=False).encode(),
        "bom": b"\xef\xbb\xbf" + text.encode(),
        "gz": gzip.compress(text.encode()),
        "blank": b"\n" * 100 + text.encode(),
    }[form]
    path.write_bytes(data)
    store = loaded(path)
    assert store.get_keys() == plain.get_keys()
    for key in plain.get_keys():
        assert [(m.role, m.content, m.extras) for m in store.get_messages(key)] == [
            (m.role, m.content, m.extras) for m in plain.get_messages(key)
        ]


def test_a_file_of_llama_index_cut_or_altered_is_refused_or_whole(path):
    store = small()
    data = FILE_OF_LLAMA_INDEX.encode()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        refused(path, store)


def test_the_real_store_reads_what_we_wrote(path):
    store = filled()
    store.add_message("alice", ChatMessage("4", "tool", tool_call_id="c", name="f"))
    with pytest.warns(RuntimeWarning, match="left out: .* no type 'refusal'"):
        store.persist(path, format="llama_index")
    theirs = SimpleChatStore.from_persist_path(str(path))
    assert theirs.get_keys() == store.get_keys()
    assert [m.content for m in theirs.get_messages("alice")] == texts(store, "alice")
    assert theirs.get_messages("alice")[-1].additional_kwargs == {
        "tool_call_id": "c",
        "name": "f",
    }
    assert [block.block_type for block in theirs.get_messages("é/:\n*")[0].blocks] == [
        "text",
        "tool_call",
        "image",
    ]
    again = loaded(path)
    assert {key: texts(again, key) for key in again.get_keys()} == {
        key: texts(store, key) for key in store.get_keys()
    }


def test_we_read_what_the_real_store_wrote(path):
    theirs = SimpleChatStore()
    theirs.add_message("k", LlamaMessage("hi", role="user", additional_kwargs={"a": [1, None]}))
    try:
        theirs.persist(str(path))
    except Exception as error:
        pytest.skip(f"LlamaIndex cannot write with this pydantic: {type(error).__name__}")
    store = loaded(path)
    assert texts(store, "k") == ["hi"]
    store.persist(path, format="llama_index")
    assert SimpleChatStore.from_persist_path(str(path)) == theirs


def test_sessions_of_llama_index_live_as_long_as_new_ones(path):
    path.write_text(OLD_FILE_OF_LLAMA_INDEX)
    store = MemoryChatStore(ttl=60)
    store.load(path)
    info = store.get_session("user1")
    assert info.expires_at - info.updated_at <= timedelta(seconds=61)


def test_nothing_is_written_of_a_file_of_llama_index_with_one_fault(path):
    good = {"role": "user", "content": "x"}
    for sessions, error in [
        ({"a": [good], "": [good]}, InvalidKeyError),
        ({"a": [good], "x" * 513: [good]}, InvalidKeyError),
        ({"a": [good], "b": [good, {"role": "user", "content": "\ud800"}]}, InvalidMessageError),
        ({"a": [good], "b": [{**good, "additional_kwargs": {"x": 1e999}}]}, InvalidMessageError),
        ({"a": [good], "b": [{"role": 1}]}, CorruptSnapshotError),
        ({"a": [good], "b": {}}, CorruptSnapshotError),
    ]:
        path.write_text(json.dumps({"store": sessions, "class_name": "SimpleChatStore"}))
        store = MemoryChatStore()
        with pytest.raises(error) as caught:
            store.load(path)
        assert type(caught.value) is error
        assert store.get_keys() == []


def test_on_existing_with_a_file_of_llama_index(path):
    path.write_text(OLD_FILE_OF_LLAMA_INDEX)
    store = MemoryChatStore()
    store.add_message("user1", ChatMessage("mine"))
    with pytest.raises(SessionExistsError):
        store.load(path)
    store.load(path, on_existing="skip")
    assert texts(store, "user1") == ["mine"]
    store.load(path, on_existing="replace")
    assert len(texts(store, "user1")) == 3


def test_a_role_that_llama_index_does_not_know(path):
    store = small()
    store.add_message("a", ChatMessage("x", "narrator"))
    with pytest.raises(InvalidMessageError, match=r"message 2 of session 'a': .*'narrator'"):
        store.persist(path, format="llama_index")
    assert leftovers(path) == []
    assert not path.exists()
