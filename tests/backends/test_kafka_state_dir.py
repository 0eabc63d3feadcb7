"""What the Kafka store keeps on disk between runs: used, refused, or left aside."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from urllib.parse import urlencode

import pytest
from confluent_kafka import OFFSET_END, TopicPartition
from confluent_kafka.admin import NewPartitions  # type: ignore[attr-defined]

from chatstores import ChatMessage, ChatStore, open_store
from chatstores.errors import (
    BackendMismatchError,
    BackendUnavailableError,
    ChatStoreError,
    InvalidURLError,
)
from chatstores_kafka import state_dir
from chatstores_kafka.saved import read_saved
from tests.backends.test_kafka_deployments import alter
from tests.servers import wait_until
from tests.servers.kafka import KafkaServer
from tests.servers.proxy import Proxy

ROOT = Path(__file__).parents[2]
_numbers = count()


@pytest.fixture(scope="module")
def proxied() -> Iterator[tuple[KafkaServer, Proxy]]:
    """A broker, and what counts the bytes that it sends."""
    server = KafkaServer()
    with Proxy("127.0.0.1", server.port) as proxy:
        server.advertised = proxy.port
        with server:
            yield server, proxy


@pytest.fixture
def server(proxied: tuple[KafkaServer, Proxy]) -> KafkaServer:
    return proxied[0]


@pytest.fixture
def topic() -> str:
    """A topic's name that no other test has."""
    return f"kept-{next(_numbers)}"


@pytest.fixture
def opened(server: KafkaServer, topic: str, tmp_path: Path) -> Callable[..., ChatStore]:
    """Opens a store that is kept; with ``kept=False``, one that reads everything."""

    def open_it(kept: bool = True, **options: object) -> ChatStore:
        kept_in = {"state_dir": tmp_path} if kept else {}
        query = urlencode({"partitions": 2, **kept_in})
        return open_store(f"{server.url}/{topic}?{query}", **options)

    return open_it


def seen(store: ChatStore) -> dict[str, object]:
    """All that a user can see."""
    found: dict[str, object] = {}
    for info in store.list_sessions().sessions:
        found[info.key] = (info, [message.id for message in store.get_messages(info.key)])
    return found


def fill(store: ChatStore, sessions: int = 6) -> None:
    """Sessions of all kinds."""
    for number in range(sessions):
        key = f"session {number}"
        store.add_messages(key, [ChatMessage(f"é{n}") for n in range(number + 2)])
        store.set_metadata(key, {"n": number})
    store.delete_last_message("session 1")
    store.delete_message("session 2", 0)
    store.set_messages("session 3", [ChatMessage("anew")])
    store.delete_messages("session 4")


def test_the_next_run_goes_on_where_this_one_ended(
    opened: Callable[..., ChatStore], tmp_path: Path, topic: str
) -> None:
    with opened() as store:
        fill(store)
        before = seen(store)
    with opened(kept=False) as other:
        assert seen(other) == before
        other.add_message("session 0", ChatMessage("of another process"))
        other.delete_messages("session 5")
        other.add_message("session 4", ChatMessage("born again"))
        now = seen(other)
    with opened() as store:
        assert seen(store) == now
        version = store.get_session("session 0").version
        store.add_message("session 0", ChatMessage("more"), expected_version=version)
        assert store.delete_last_message("session 0").text == "more"
        now = seen(store)
    with opened(kept=False) as other:
        assert seen(other) == now
    files = sorted(path.name for path in (tmp_path / topic).iterdir())
    assert files == ["0.view", "1.view", "lock", "topic.json"]
    assert stat.S_IMODE((tmp_path / topic).stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / topic).iterdir()} == {0o600}


def test_async(opened: Callable[..., ChatStore]) -> None:
    async def run() -> list[str]:
        async with opened() as store:
            await store.aadd_message("k", ChatMessage("1"))
        async with opened() as store:
            await store.aadd_message("k", ChatMessage("2"))
            return [message.text for message in await store.aget_messages("k")]

    assert asyncio.run(run()) == ["1", "2"]


def test_only_what_is_new_is_read(
    opened: Callable[..., ChatStore], proxied: tuple[KafkaServer, Proxy]
) -> None:
    text = random.Random(1).randbytes(1000).hex()
    with opened() as store:
        for _ in range(100):
            store.add_messages("k", [ChatMessage(text) for _ in range(5)])
    with opened(kept=False) as other:
        other.add_message("k", ChatMessage("new"))
    _, proxy = proxied
    received = {}
    for kept in (True, False):
        proxy.reset_counters()
        with opened(kept=kept) as store:
            assert store.count_messages("k") == 501
        received[kept] = proxy.received
    assert received[True] < 50_000
    assert received[False] > 1_000_000


def test_one_process_at_a_time(opened: Callable[..., ChatStore], server: KafkaServer) -> None:
    with opened() as store:
        store.add_message("k", ChatMessage("1"))
        with pytest.raises(BackendUnavailableError, match="each needs its own"):
            opened(timeout=1, **{"client.id": "another view"}).ping()
        same = opened()  # of one process, and so of one view
        assert same.count_messages("k") == 1
        same.close()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with pytest.raises(BackendUnavailableError):
                    opened(timeout=1).ping()
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
    with opened() as store:
        assert store.count_messages("k") == 1


def test_who_waits_for_the_directory_gets_it(opened: Callable[..., ChatStore]) -> None:
    store = opened()
    store.add_message("k", ChatMessage("1"))
    other = opened(timeout=20, **{"client.id": "another view"})

    async def both() -> int:
        waiting = asyncio.create_task(other.acount_messages("k"))
        await asyncio.sleep(0.5)
        await asyncio.to_thread(store.close)
        found = await waiting
        await other.aclose()
        return found

    assert asyncio.run(both()) == 1


@pytest.mark.parametrize("change", ["made anew", "more partitions"])
def test_another_topic_is_an_error(
    opened: Callable[..., ChatStore], server: KafkaServer, topic: str, change: str
) -> None:
    with opened() as store:
        store.add_message("k", ChatMessage("1"))
    admin = server.client()
    if change == "made anew":
        admin.delete_topics([topic])[topic].result()
        wait_until("it is gone", lambda: topic not in admin.list_topics(timeout=5).topics)
    else:
        admin.create_partitions([NewPartitions(topic, 3)])[topic].result()
        wait_until(
            "it has them",
            lambda: len(admin.list_topics(timeout=5).topics[topic].partitions) == 3,
        )
    with pytest.raises(BackendMismatchError) as error:
        opened().get_messages("k")
    if change == "made anew":
        assert "holds the state of another topic" in str(error.value)
        assert "remove the directory" in str(error.value)


def test_records_that_were_deleted_are_an_error(
    opened: Callable[..., ChatStore], server: KafkaServer, topic: str
) -> None:
    with opened() as store:
        for number in range(4):
            store.add_message("k", ChatMessage(str(number)))
    admin = server.client()
    places = [TopicPartition(topic, number, OFFSET_END) for number in range(2)]
    alter(server, topic, "cleanup.policy", "compact,delete")
    for done in admin.delete_records(places).values():
        done.result()
    alter(server, topic, "cleanup.policy", "compact")
    with opened() as store, pytest.raises(BackendMismatchError, match="records were deleted"):
        store.get_messages("k")


def test_what_is_damaged_is_not_used(
    opened: Callable[..., ChatStore],
    tmp_path: Path,
    topic: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with opened() as store:
        fill(store)
        before = seen(store)
    for path in (tmp_path / topic).glob("*.view"):
        data = path.read_bytes()
        path.write_bytes(data[:-200] + bytes(10) + data[-190:])  # in the index
    with caplog.at_level(logging.WARNING), opened() as store:
        assert seen(store) == before
    assert "of partition 0 is not used: it is damaged" in caplog.text
    for path in (tmp_path / topic).glob("*.view"):
        path.write_bytes(path.read_bytes()[:100])
    (tmp_path / topic / "0.view").write_bytes(b"")
    with opened() as store:
        assert seen(store) == before
    for path in (tmp_path / topic).glob("*.view"):
        data = path.read_bytes()
        path.write_bytes(bytes(50) + data[50:])  # of a session
    with opened() as store, pytest.raises(BackendMismatchError, match="is damaged: remove it"):
        seen(store)
    for path in (tmp_path / topic).glob("*.view"):
        path.unlink()
    with opened() as store:
        assert seen(store) == before


def test_what_is_old_is_not_used(
    opened: Callable[..., ChatStore],
    tmp_path: Path,
    topic: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with opened() as store:
        fill(store)
        before = seen(store)
    monkeypatch.setattr(state_dir, "_STALE_SECONDS", -1.0)
    with caplog.at_level(logging.INFO), opened() as store:
        assert seen(store) == before
    assert "of partition 0 is too old" in caplog.text


def test_it_is_saved_now_and_then(
    opened: Callable[..., ChatStore],
    tmp_path: Path,
    topic: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(state_dir, "_LOOK_SECONDS", 0.05)
    monkeypatch.setattr(state_dir, "_NEW_RECORDS", 10)
    with opened() as store:
        for number in range(40):
            store.add_message("k", ChatMessage(str(number)))
        [number] = [part.number for part in store._transports.sync().view().loaded()]
        path = tmp_path / topic / f"{number}.view"
        wait_until("a file is there", path.exists)
        assert read_saved(path.read_bytes()).about["position"] >= 10


def test_a_full_disk_is_told_of(
    opened: Callable[..., ChatStore],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with opened() as store:
        fill(store)
        before = seen(store)
    with opened() as store:
        store.add_message("session 0", ChatMessage("unsaved"))
        store.delete_last_message("session 0")
        monkeypatch.setattr(state_dir.os, "fsync", full)
    assert "is not saved in " in caplog.text
    monkeypatch.undo()
    with opened() as store:
        assert seen(store).keys() == before.keys()


def test_a_directory_that_cannot_be_used(server: KafkaServer, topic: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    url = f"{server.url}/{topic}?partitions=2"
    with pytest.raises(BackendMismatchError, match=r"state_dir: .*file/.* cannot be used: Not a"):
        open_store(url, state_dir=str(tmp_path / "file")).ping()
    with pytest.raises(ChatStoreError, match="cannot be used"):
        open_store(url, state_dir="/proc/1").ping()
    with pytest.raises(InvalidURLError, match="state_dir: must be the path of a directory"):
        open_store(f"{url}&state_dir=")


_WRITER = """
import os, sys, time
from chatstores import ChatMessage, open_store
from chatstores_kafka import state_dir
state_dir._LOOK_SECONDS = state_dir._NEW_RECORDS = 0.001
sync = os.fsync
os.fsync = lambda descriptor: (sync(descriptor), time.sleep(0.05))  # else few kills hit a file
url, run = sys.argv[1:]
with open_store(url, timeout=30) as store:
    store.get_keys()
    for number in range(100_000):
        store.add_message(f"k{number % 3}", ChatMessage("x" * 500, id=f"{run}.{number}"))
        print(f"{run}.{number}", flush=True)
        if number % 10 == 9:
            store.delete_last_message(f"k{number % 3}")
            print(f"-{run}.{number}", flush=True)
"""


def test_a_killed_process_leaves_what_can_be_used(
    server: KafkaServer,
    topic: str,
    tmp_path: Path,
    opened: Callable[..., ChatStore],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Writers that save all the time are killed; the next begins with what they left."""
    chance = random.Random(5)
    query = urlencode({"partitions": 2, "state_dir": tmp_path})
    acknowledged: set[str] = set()
    unsure: set[str] = set()
    resumed = in_saving = 0
    for run in range(15):
        writer = subprocess.Popen(
            [sys.executable, "-c", _WRITER, f"{server.url}/{topic}?{query}", str(run)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'backends'}"},
        )
        assert writer.stdout is not None
        said = [writer.stdout.readline().strip()]
        time.sleep(chance.uniform(0.0, 0.4))
        writer.send_signal(signal.SIGKILL)
        said += writer.stdout.read().split()
        writer.wait()
        writer.stdout.close()
        in_saving += any((tmp_path / topic).glob("*.new"))
        resumed += any((tmp_path / topic).glob("*.view"))
        for line in said:
            if line.startswith("-"):
                acknowledged.discard(line[1:])
            else:
                acknowledged.add(line)
        last = int(said[-1].lstrip("-").partition(".")[2])
        unsure |= {f"{run}.{last}", f"{run}.{last + 1}"}
    with opened() as kept, opened(kept=False) as whole:
        assert seen(kept) == seen(whole)
        found = {message.id for key in whole.get_keys() for message in whole.get_messages(key)}
    assert found - unsure == acknowledged - unsure
    with capsys.disabled():
        print(f"\nkafka: 15 processes killed while they saved, {in_saving} within a file")
    assert resumed >= 14
    assert in_saving >= 1


def test_the_age_of_what_is_kept_is_renewed(
    opened: Callable[..., ChatStore],
    tmp_path: Path,
    topic: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A session that was deleted long after the last write must not come back."""
    with opened() as store:
        store.add_message("k", ChatMessage("1"))
    [path] = (tmp_path / topic).glob("*.view")
    first = read_saved(path.read_bytes()).about["known_at"]
    monkeypatch.setattr(state_dir, "_LOOK_SECONDS", 0.0)
    with opened() as store:
        assert store.count_messages("k") == 1
    assert read_saved(path.read_bytes()).about["known_at"] > first
