"""The programs in docs/examples run, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from chatstores import ChatMessage, open_store
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer

ROOT = Path(__file__).parents[2]
#: As LlamaIndex 0.14 writes it.
LLAMA_INDEX = """{"store": {"old/ann": [
    {"role": "user", "additional_kwargs": {}, "blocks": [{"block_type": "text", "text": "Hi!"}]},
    {"role": "assistant", "blocks": [{"block_type": "text", "text": "Hello."}]}
]}, "class_name": "SimpleChatStore"}"""
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))


def run(name: str, *arguments: str, cwd: Path, said: str = "", status: int = 0) -> str:
    """What an example prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", ROOT / "docs" / "examples" / name, *arguments],
        cwd=cwd,
        input=said,
        capture_output=True,
        text=True,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with RedisServer() as server:
        yield server.url


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    with PostgresServer() as server:
        yield server.url


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_a_page_links_to_it(example: Path) -> None:
    pages = [page.read_text() for page in (ROOT / "docs").glob("*.md")]
    assert any(f"(examples/{example.name})" in page for page in pages)


def test_the_chatbot_remembers_after_a_restart(tmp_path: Path) -> None:
    first = run("terminal_chatbot.py", cwd=tmp_path, said="Hello\nI am Ann\n\n")
    assert first == "> You said 'Hello'.\n> You said 'I am Ann', and before that 'Hello'.\n> "
    again = run("terminal_chatbot.py", cwd=tmp_path, said="And now?\n\n")
    assert again.startswith("(user) Hello\n(assistant) You said 'Hello'.\n(user) I am Ann\n")
    assert "> You said 'And now?', and before that 'I am Ann'.\n" in again


@pytest.mark.parametrize("where", ["memory", "json", "sqlite", "postgres", "redis"])
def test_the_handler_serves_three_users(
    tmp_path: Path, redis_url: str, postgres_url: str, where: str
) -> None:
    urls = {
        "memory": "memory://",
        "json": "json:///chats.json",
        "sqlite": "sqlite:///chats.db",
        "postgres": postgres_url,
        "redis": redis_url,
    }
    assert run("web_handler.py", urls[where], cwd=tmp_path) == (
        "You said: Still there?\n4 messages of ann\n['chat/ann', 'chat/bob', 'chat/cy']\n"
    )


def test_a_file_of_llama_index_comes_over(tmp_path: Path, redis_url: str) -> None:
    (tmp_path / "chat_store.json").write_text(LLAMA_INDEX)
    url = f"{redis_url}?namespace=import"
    told = run("import_llama_index.py", "chat_store.json", url, cwd=tmp_path)
    assert told == "old/ann: 2 messages\n"
    told = run("import_llama_index.py", "chat_store.json", url, cwd=tmp_path, status=1)
    assert told.startswith("sessions are there already: 'old/ann'; ")
    assert run("import_llama_index.py", "chat_store.json", url, "skip", cwd=tmp_path)


def test_a_backup_can_be_loaded_and_the_oldest_goes(tmp_path: Path) -> None:
    with open_store(f"json:///{tmp_path}/chats.json") as store:
        store.add_message("ann", ChatMessage("Hi!"))
    backups = tmp_path / "backups"
    backups.mkdir()
    for day in range(1, 8):
        (backups / f"chats-2020-01-0{day}.json.gz").touch()
    told = run("nightly_backup.py", "json:///chats.json", "backups", cwd=tmp_path)
    assert told.endswith(".json.gz: 1 sessions\nchats-2020-01-01.json.gz removed\n")
    *_, newest = sorted(backups.iterdir())
    with open_store("memory://") as store:
        store.load(newest)
        assert store.get_messages("ann")[0].text == "Hi!"
    told = run("nightly_backup.py", "json:///none.json", "backups", cwd=tmp_path, status=1)
    assert "none.json: 'chatstores setup" in told
    assert len(list(backups.iterdir())) == 7
