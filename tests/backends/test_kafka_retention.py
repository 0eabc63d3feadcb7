"""Kafka with a retention: the log is cut off under views that live, and all agree on what is left.

Also what else makes a view read a partition anew: a sleep in which tombstones may have gone.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from itertools import count
from typing import Any
from urllib.parse import urlencode

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import NewTopic

from chatstores import ChatMessage, ChatStore, open_store
from chatstores.errors import (
    BackendMismatchError,
    ConflictError,
    CorruptRecordError,
    InvalidURLError,
    StaleCursorError,
    UnsupportedError,
)
from chatstores_kafka import KafkaChatStore
from chatstores_kafka.cleanup import is_due
from chatstores_kafka.moment import Moment
from chatstores_kafka.partition import Partition
from chatstores_kafka.state import LoggedState
from chatstores_kafka.topic import EARLIEST, LATEST
from tests.servers import wait_until
from tests.servers.kafka import KafkaServer

_numbers = count()


@pytest.fixture(scope="module")
def server() -> Iterator[KafkaServer]:
    """A broker that looks every second for what is too old."""
    with KafkaServer() as one:
        yield one


@pytest.fixture
def topic() -> str:
    """A topic's name that no other test has."""
    return f"kept-{next(_numbers)}"


def opened(server: KafkaServer, topic: str, **options: Any) -> KafkaChatStore:
    """A store on one partition; another ``client.id`` makes another view, as a process has."""
    given = {"partitions": 1, "retention": "30d", "client.id": f"c{next(_numbers)}", **options}
    store = open_store(f"{server.url}/{topic}?{urlencode(given)}")
    assert isinstance(store, KafkaChatStore)
    return store


def add(store: ChatStore, *texts: str, key: str = "k") -> list[ChatMessage]:
    messages = [ChatMessage(text) for text in texts]
    for message in messages:
        store.add_message(key, message)
    return messages


def texts(store: ChatStore, key: str = "k") -> list[str]:
    return [message.text for message in store.get_messages(key)]


def part_of(store: KafkaChatStore) -> Partition:
    return store._transports.sync().view().partitions[0]


def state_of(store: KafkaChatStore, key: str = "k") -> LoggedState:
    return part_of(store).fold.states[f"default\0{key}".encode()]


def offset_of(store: KafkaChatStore, index: int, key: str = "k") -> int:
    """Where the record of a session's message stands."""
    return state_of(store, key).sources[index] >> 20


def cut(server: KafkaServer, topic: str, offset: int) -> None:
    """Have the log begin at an offset, as a retention would."""
    place = TopicPartition(topic, 0, offset)
    admin = server.client()  # which must be there until it has answered
    [done] = admin.delete_records([place]).values()
    assert done.result(30).low_watermark >= offset


def clean(store: KafkaChatStore, key: str = "k") -> None:
    """Make a checkpoint of a session."""
    view = store._transports.sync().view()
    while not view.cleaner.clean(0, f"default\0{key}".encode()):
        pass


# What is read, by a view that lives and by one that begins now.


@pytest.mark.parametrize("form", ["sync", "async"])
def test_what_is_cut_off_is_gone_for_all(server: KafkaServer, topic: str, form: str) -> None:
    with opened(server, topic) as store, opened(server, topic) as other:
        add(store, "1", "2", "3", "4")
        add(store, "x", key="another")
        add(other, "5")
        cut(server, topic, offset_of(store, 2))
        if form == "async":

            async def read() -> list[str]:
                try:
                    return [message.text for message in await store.aget_messages("k")]
                finally:
                    await store.aclose()

            assert asyncio.run(read()) == ["3", "4", "5"]
        else:
            assert texts(store) == ["3", "4", "5"]
        assert texts(other) == ["3", "4", "5"]
        assert other.count_messages("k") == 3
        with opened(server, topic) as new:
            assert texts(new) == ["3", "4", "5"]
            assert new.get_session("k") == other.get_session("k")
            assert new.get_keys() == other.get_keys() == ["another", "k"]
            cut(server, topic, part_of(other).position)
            assert new.get_keys() == other.get_keys() == []
            assert texts(new) == texts(other) == []


def test_a_cut_below_every_session_reads_nothing_anew(server: KafkaServer, topic: str) -> None:
    with opened(server, topic) as store:
        add(store, "1")
        store.delete_messages("k")
        add(store, "2", key="other")
        clean(store)
        part, generation = part_of(store), part_of(store).generation
        cut(server, topic, offset_of(store, 0, "other"))
        wait_until("nothing else is left of it", lambda: len(state_of(store).offsets) == 1)
        assert texts(store, "other") == ["2"]
        assert (part.generation, part.begin) == (generation, offset_of(store, 0, "other"))


def test_versions_go_up_over_a_cut(server: KafkaServer, topic: str) -> None:
    with opened(server, topic) as store:
        add(store, "1", "2", "3")
        before = store.get_version("k")
        cursor = store.page("k", limit=1).before
        cut(server, topic, offset_of(store, 1))
        after = store.get_version("k")
        assert after > before
        with pytest.raises(ConflictError):
            store.add_message("k", ChatMessage("late"), expected_version=before)
        with pytest.raises(StaleCursorError):
            store.page("k", before=cursor)
        assert store.add_message("k", ChatMessage("4"), expected_version=after).version > after
        versions = [after]
        for text in "56789":
            add(store, text)
            cut(server, topic, offset_of(store, 1))
            versions.append(store.get_version("k"))
        assert versions == sorted(set(versions))


def test_a_write_sees_the_cut_first(server: KafkaServer, topic: str) -> None:
    with opened(server, topic) as store, opened(server, topic) as other:
        first, *_ = add(store, "1", "2", "3")
        assert texts(other) == ["1", "2", "3"]
        cut(server, topic, offset_of(store, 1))
        removed = other.delete_message("k", 0)
        assert removed is not None
        assert removed.text == "2"
        assert store.delete_message("k", id=first.id) is None
        assert texts(store) == texts(other) == ["3"]
        assert [message.text for message in store.delete_oldest("k", 5)] == ["3"]
        assert texts(other) == []


def test_writers_and_readers_go_on_while_the_log_is_cut(server: KafkaServer, topic: str) -> None:
    """Nobody who waits is lost, nobody sees half of what is left, nothing acknowledged goes."""
    stop = threading.Event()
    failed: list[BaseException] = []
    stores = [opened(server, topic, timeout=30) for _ in range(2)]
    added: list[list[int]] = [[], [], [], []]

    def write(number: int) -> None:
        store = stores[number % 2]
        try:
            while not stop.is_set():
                own = len(added[number])
                store.add_message("k", ChatMessage(f"{number} {own}"))
                added[number].append(own)
                found = texts(store)
                mine = [int(text.split()[1]) for text in found if text.startswith(f"{number} ")]
                assert mine[-1:] == [own], (mine, own)
                assert mine == list(range(mine[0], own + 1))
        except BaseException as exc:
            failed.append(exc)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    with stores[0], stores[1]:
        add(stores[0], "begun")
        texts(stores[1])
        for thread in threads:
            thread.start()
        for _ in range(25):
            time.sleep(0.1)
            cut(server, topic, part_of(stores[0]).position // 2 + part_of(stores[0]).begin // 2)
        stop.set()
        for thread in threads:
            thread.join()
        assert not failed, failed
        assert min(map(len, added)) > 10
        with opened(server, topic) as new:
            assert texts(new) == texts(stores[0]) == texts(stores[1])
            assert new.get_session("k") == stores[0].get_session("k")
        assert part_of(stores[0]).generation > 3


def test_a_cut_in_front_of_who_reads(
    server: KafkaServer, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is to be read next is gone: the partition is read from where the log begins now."""
    with opened(server, topic) as store:
        add(store, "1", "2", "3", "4")
        view, part = store._transports.sync().view(), part_of(store)
        cut(server, topic, offset_of(store, 2))
        begin = part.start
        stale = iter([0])
        monkeypatch.setattr(part, "start", lambda offset: begin(next(stale, offset)))
        assign = view.clients.consumer.incremental_assign
        moved = iter([0])

        class Behind:
            def __getattr__(self, name: str) -> Any:
                return getattr(consumer, name)

            def incremental_assign(self, places: list[TopicPartition]) -> None:
                for place in places:
                    place.offset = next(moved, place.offset)
                assign(places)

        consumer = view.clients.consumer
        monkeypatch.setattr(view.clients, "consumer", Behind())
        generation = part.generation
        assert texts(store) == ["3", "4"]
        assert part.generation == generation + 2
        monkeypatch.undo()


# Checkpoints.


def test_a_checkpoint_carries_a_session_over_the_cut(server: KafkaServer, topic: str) -> None:
    with opened(server, topic) as store, opened(server, topic) as other:
        messages = add(store, "1", "2", "3", "4")
        store.set_metadata("k", {"title": "x"})
        store.delete_message("k", 1)
        cursor = store.page("k", limit=1).before
        before = store.get_session("k")
        assert before is not None
        clean(store)
        assert texts(other) == ["1", "3", "4"]
        cut(server, topic, offset_of(store, 1))
        with opened(server, topic, on_corrupt="raise") as new:
            for one in (store, other, new):
                after = one.get_session("k")
                assert after is not None
                assert after.count == 2
                assert (after.version, after.metadata) == (before.version, before.metadata)
                assert after.created_at == before.created_at
                assert texts(one) == ["3", "4"]
                assert [found.text for found in one.page("k", before=cursor).messages] == ["3"]
            assert new.add_message("k", ChatMessage("5"), expected_version=before.version).added
            assert new.delete_message("k", id=messages[0].id) is None
            assert texts(store) == texts(other) == ["3", "4", "5"]


def test_without_a_retention_a_message_that_is_gone_is_an_error(
    server: KafkaServer, topic: str
) -> None:
    with opened(server, topic) as store:
        add(store, "1", "2")
        clean(store)
        clean(store)
        part = part_of(store)
        part._topic = part._topic._replace(retention=None)
        cut(server, topic, offset_of(store, 1))
        with store._transports.sync().view().lock:
            part.reload()
        with pytest.raises(CorruptRecordError, match="record 0"):
            store.get_messages("k")


def test_a_session_is_due_a_quarter_of_the_retention_after_its_first_command(
    server: KafkaServer, topic: str
) -> None:
    with opened(server, topic, retention=4) as store:
        add(store, "1", "2")
        assert state_of(store).checkpoint == -1
        time.sleep(1.1)
        add(store, "3")
        wait_until("there is a checkpoint", lambda: state_of(store).checkpoint > 0)
        assert state_of(store).since == 0
        add(store, "4", "5", key="quiet")
        assert state_of(store, "quiet").checkpoint == -1
        time.sleep(1.1)
        store.purge_expired()
        assert state_of(store, "quiet").checkpoint > 0


def test_is_due() -> None:
    state = LoggedState(alive=True, since=100)
    assert not is_due(state)
    assert not is_due(state, 100)
    assert is_due(state, 101)
    state.since = 0
    assert not is_due(state, 101)


# Consumers.


@pytest.mark.parametrize("checkpoint", [True, False])
def test_a_consumer_goes_on_behind_the_cut(
    server: KafkaServer, topic: str, checkpoint: bool
) -> None:
    with opened(server, topic) as store:
        store.add_messages("k", [ChatMessage("1"), ChatMessage("2"), ChatMessage("3")])
        add(store, "4", "5")
        if checkpoint:
            clean(store)

        def read(count: int | None = None) -> list[str]:
            return [found.text for found in store.consume("k", "g", max_message_count=count)]

        assert read(4) == ["1", "2", "3", "4"]
        cut(server, topic, offset_of(store, 3))
        assert read() == ["5"]
        assert read() == []
        add(store, "6", "7", "8")
        cut(server, topic, offset_of(store, -2))  # what was consumed last is gone, and more
        assert read() == ["7", "8"]


def test_a_consumer_in_the_midst_of_a_batch(server: KafkaServer, topic: str) -> None:
    with opened(server, topic) as store:
        add(store, "0")
        store.add_messages("k", [ChatMessage("1"), ChatMessage("2"), ChatMessage("3")])
        assert [m.text for m in store.consume("k", "g", max_message_count=2)] == ["0", "1"]
        cut(server, topic, offset_of(store, 1))
        assert [m.text for m in store.consume("k", "g")] == ["2", "3"]


def test_a_consumer_that_waits(server: KafkaServer, topic: str) -> None:
    with opened(server, topic) as store, opened(server, topic) as other:
        add(store, "1", "2")
        assert len(store.consume("k", "g")) == 2
        found: list[ChatMessage] = []
        thread = threading.Thread(
            target=lambda: found.extend(store.consume("k", "g", max_time_sec=20))
        )
        thread.start()
        wait_until("it waits", lambda: part_of(store)._watchers)
        cut(server, topic, offset_of(store, 1))
        assert store.count_messages("k") == 1
        add(other, "3")
        thread.join()
        assert [message.text for message in found] == ["3"]


# The broker's own clock.


def test_the_broker_removes_what_is_too_old(server: KafkaServer, topic: str) -> None:
    """With segments that are closed at once, a retention really is one."""
    settings = {
        "cleanup.policy": "delete,compact",
        "max.message.bytes": "8388608",
        "message.timestamp.type": "LogAppendTime",
        "min.compaction.lag.ms": "3600000",
        "retention.ms": "2000",
        "segment.ms": "500",
    }
    admin = server.client()
    [made] = admin.create_topics([NewTopic(topic, 1, config=settings)]).values()
    made.result(30)
    with opened(server, topic, retention=2) as store, opened(server, topic, retention=2) as other:
        add(store, "old", "older")
        assert texts(other) == ["old", "older"]
        deadline = time.monotonic() + 60
        while "old" in texts(store):
            assert time.monotonic() < deadline
            time.sleep(0.3)
            add(store, "new")
        assert texts(store) == texts(other)
        with opened(server, topic, retention=2) as new:
            assert texts(new) == texts(store)


# Opening.


def test_a_retention_must_be_the_topics(server: KafkaServer, topic: str) -> None:
    with opened(server, topic) as store:
        store.ping()
    with pytest.raises(BackendMismatchError, match=r"retention.ms is 2592000000, not 604800000"):
        opened(server, topic, retention="7d").ping()
    with pytest.raises(BackendMismatchError, match=r"is compact,delete, not compact .*=2592000: "):
        open_store(f"{server.url}/{topic}?partitions=1").ping()
    with opened(server, topic, retention=2592000) as store:  # the same, in other words
        store.ping()


def test_a_topic_that_keeps_all_is_not_one_with_a_retention(
    server: KafkaServer, topic: str
) -> None:
    with open_store(f"{server.url}/{topic}?partitions=1") as store:
        store.ping()
    with pytest.raises(BackendMismatchError, match=r"is compact, not compact,delete .* without"):
        opened(server, topic).ping()


def test_no_ttl_beside_it() -> None:
    with pytest.raises(UnsupportedError, match="not both"):
        open_store("kafka://localhost/chats?retention=30d&ttl=7d")
    with pytest.raises(UnsupportedError, match="not both"):
        KafkaChatStore("localhost", retention="30d", ttl=7)
    with pytest.raises(InvalidURLError, match="retention"):
        open_store("kafka://localhost/chats?retention=soon")
    with pytest.raises(InvalidURLError, match="retention"):
        KafkaChatStore("localhost", retention=0)
    store = KafkaChatStore("localhost", retention="30d")
    assert list(store.capabilities.refused) == ["L1"]
    assert store.url == "kafka://localhost/chatstores?retention=30d"
    assert not KafkaChatStore.capabilities.refused


# What is read anew without a retention.


def slept(store: KafkaChatStore, seconds: float) -> None:
    """Have it be so long ago that the end of the log was asked for."""
    part = part_of(store)
    with store._transports.sync().view().lock:
        assert part._asked is not None
        part._asked = Moment(part._asked.steady - seconds, part._asked.wall)


@pytest.mark.parametrize(("days", "anew"), [(0.9, False), (1.1, True)])
def test_who_slept_for_longer_than_tombstones_stay_reads_anew(
    server: KafkaServer, topic: str, days: float, anew: bool
) -> None:
    with opened(server, topic) as store, opened(server, topic) as other:
        add(store, "1", "2")
        assert texts(other) == ["1", "2"]
        part = part_of(store)
        before, fold = part.generation, part.fold
        with store._transports.sync().view().lock:
            slept(store, days * 86_400)
            part._gap = True  # there was an offset that is not there now
        add(other, "3")
        assert texts(store) == ["1", "2", "3"]
        assert part.generation > before
        assert (part.position, part.loaded, part.placed) == (part_of(other).position, True, True)
        assert (part.fold is not fold) == anew


def test_who_slept_and_missed_nothing_reads_on(server: KafkaServer, topic: str) -> None:
    with opened(server, topic) as store, opened(server, topic) as other:
        add(store, "1", "2")
        fold = part_of(store).fold
        slept(store, 10 * 86_400)
        add(other, "3")
        assert texts(store) == ["1", "2", "3"]
        assert part_of(store).fold is fold


def test_all_that_wait_are_answered_by_the_new_state(server: KafkaServer, topic: str) -> None:
    with opened(server, topic, timeout=30) as store:
        add(store, *map(str, range(300)))
        view, part = store._transports.sync().view(), part_of(store)
        found: list[list[str]] = []
        stop = threading.Event()

        def read() -> None:
            while not stop.is_set():
                found.append(texts(store))

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(30):
            with view.lock:
                if part.placed:
                    part.reload()
            add(store, "more")
        stop.set()
        for thread in threads:
            thread.join()
        assert found
        assert all(texts[:300] == list(map(str, range(300))) for texts in found)
        assert part.generation >= 10
        assert len(texts(store)) == 330
        assert view.fold.namespaces["default"]["k"] is part.fold.states[b"default\0k"]


def test_a_moments_age_is_what_the_clock_says_that_went_on() -> None:
    now = Moment.ago()
    assert 0 <= now.age() < 5
    assert 100 <= Moment.ago(100).age() < 105
    assert 50 <= Moment(now.steady - 50, now.wall).age() < 55  # the machine slept
    assert 50 <= Moment(now.steady, now.wall - 50).age() < 55  # it was resumed from a snapshot
    assert 0 <= Moment(now.steady, now.wall + 50).age() < 5  # the wall clock was set back


@pytest.mark.parametrize("retention", [True, False])
def test_where_the_log_begins_is_asked_only_with_a_retention(
    server: KafkaServer, topic: str, monkeypatch: pytest.MonkeyPatch, retention: bool
) -> None:
    with opened(server, topic) if retention else open_store(f"{server.url}/{topic}") as store:
        add(store, "1")
        view = store._transports.sync().view()
        asked: list[Any] = []
        ask = view.clients.admin.list_offsets

        class Admin:
            def list_offsets(self, places: Any, **given: Any) -> Any:
                asked.extend(places.values())
                return ask(places, **given)

        monkeypatch.setattr(view.clients, "admin", Admin())
        texts(store)
        assert asked == ([LATEST, EARLIEST] if retention else [LATEST])
