"""The JSON store in a place where it cannot be: what it says."""

from __future__ import annotations

import asyncio
import gc
import os
from pathlib import Path

import pytest

from chatstores import ChatMemoryBuffer, ChatMessage, open_store
from chatstores.errors import BackendMismatchError, NotSetUpError


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("directory", "directory is a directory; name a file in it"),
        ("none/chats.json", "there is no directory .*/none: create it first"),
        ("notes.json/chats.json", "there is no directory .*/notes.json: create it first"),
        ("notes.json", "notes.json is not a store's file: another program wrote it"),
        ("empty.json", "empty.json is not a store's file: it is empty"),
        ("k" * 300, "File name too long"),
    ],
)
def test_a_place_that_cannot_be_is_named_at_once(tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "notes.json").write_text('{"my": "notes"}')
    (tmp_path / "empty.json").touch()
    store = open_store(f"json:///{tmp_path}/{name}")
    with pytest.raises(BackendMismatchError, match=why):
        store.ping()
    with pytest.raises(BackendMismatchError, match=why):
        store.add_message("k", ChatMessage("x"))
    store.close()


def test_the_command_that_sets_up_is_named_as_a_shell_takes_it(tmp_path: Path) -> None:
    store = open_store(f"json:///{tmp_path}/my%20chats.json", create=False)
    command = f"'chatstores setup --url json:///{tmp_path}/my%20chats.json'"
    with pytest.raises(NotSetUpError, match=command):
        store.ping()


def test_stores_that_nobody_closed_leave_no_descriptors(tmp_path: Path) -> None:
    url = f"json:///{tmp_path}/chats.json"

    async def turn() -> None:
        memory = ChatMemoryBuffer(url, "k")
        await memory.aput(ChatMessage("x"))
        await memory.aget()

    def descriptors() -> int:
        gc.collect()
        return len(os.listdir("/dev/fd"))

    before = descriptors()
    for _ in range(20):
        memory = ChatMemoryBuffer(url, "k")
        memory.put(ChatMessage("x"))
        memory.get()
        asyncio.run(turn())
    del memory
    assert descriptors() == before
