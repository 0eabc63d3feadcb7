"""The JSON store's files: what happens when others change them under an open store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from chatstores import ChatMessage, ChatStore, open_store
from chatstores.errors import BackendMismatchError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chats.json"


@pytest.fixture
def stores(path: Path) -> Iterator[tuple[ChatStore, ChatStore]]:
    with open_store(f"json:///{path}") as one, open_store(f"json:///{path}") as other:
        one.add_message("k", ChatMessage("first"))
        assert texts(other) == ["first"]
        yield one, other


def texts(store: ChatStore) -> list[str]:
    return [message.text for message in store.get_messages("k")]


def test_another_stores_checkpoint_is_seen_by_readers_and_writers(stores):
    one, other = stores
    for n in range(3):
        one.purge_expired()  # ends with a checkpoint
        one.add_message("k", ChatMessage(f"{n}"))
        assert texts(other) == texts(one)
        one.purge_expired()
        other.add_message("k", ChatMessage(f"{n}'"))
        assert texts(other) == texts(one)
    assert texts(one) == ["first", "0", "0'", "1", "1'", "2", "2'"]


def test_a_store_whose_files_were_removed_begins_anew(stores, path):
    one, other = stores
    for file in (path, Path(f"{path}.journal"), Path(f"{path}.lock")):
        file.unlink()
    assert texts(one) == []
    other.add_message("k", ChatMessage("second"))
    assert texts(one) == texts(other) == ["second"]
    assert path.exists()


def test_a_backup_put_back_is_what_is_read(stores, path):
    one, other = stores
    backup = {file: file.read_bytes() for file in (path, Path(f"{path}.journal"))}
    one.add_message("k", ChatMessage("later"))
    one.purge_expired()
    for file, data in backup.items():
        file.unlink()
        file.write_bytes(data)
    assert texts(other) == texts(one) == ["first"]
    other.add_message("k", ChatMessage("then"))
    assert texts(one) == ["first", "then"]


def test_a_journal_removed_alone_is_no_place_to_write_to(stores, path):
    one, _ = stores
    one.purge_expired()
    Path(f"{path}.journal").unlink()
    one.add_message("k", ChatMessage("second"))
    with open_store(f"json:///{path}") as later:
        assert texts(later) == ["first", "second"]


def test_a_checkpoint_removed_alone_is_missed(stores, path):
    one, _ = stores
    one.purge_expired()
    path.unlink()
    with pytest.raises(BackendMismatchError, match="older than the journal beside it"):
        one.add_message("k", ChatMessage("second"))
