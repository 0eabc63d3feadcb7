"""Reading on from where a group stopped, against a broker of our own."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
)

from chatstores import ChatMessage, open_store
from chatstores.errors import (
    BackendMismatchError,
    BackendUnavailableError,
    CorruptRecordError,
    InvalidArgumentError,
    InvalidKeyError,
    PermissionDeniedError,
    StoreClosedError,
)
from chatstores_kafka import KafkaChatStore
from tests.backends.kafka_harness import PARTITIONS, KafkaHarness
from tests.run import PASSWORD
from tests.servers import wait_until
from tests.servers.kafka import QUIET, KafkaServer
from tests.servers.proxy import Proxy


@pytest.fixture(scope="module")
def server() -> Iterator[KafkaServer]:
    with KafkaServer() as server:
        yield server


@pytest.fixture(scope="module")
def harness(server: KafkaServer) -> Iterator[KafkaHarness]:
    with Proxy("127.0.0.1", server.port) as proxy:
        server.advertised = proxy.port
        server.restart()
        yield KafkaHarness(server, proxy)


@pytest.fixture
def store(harness: KafkaHarness) -> Iterator[KafkaChatStore]:
    with harness.open() as store:
        yield store


@pytest.fixture
def key() -> str:
    return secrets.token_hex(6)


def said(store: KafkaChatStore, key: str, *texts: str) -> list[str]:
    """Add messages; their ids."""
    messages = [ChatMessage(text) for text in texts]
    store.add_messages(key, messages)
    return [message.id for message in messages]


def read(store: KafkaChatStore, key: str, group: str = "g", **options: object) -> list[str]:
    return [message.text for message in store.consume(key, group, **options)]


def test_the_example_of_langchains_documentation(store, key):
    said(store, key, "hi!")
    store.add_message(key, ChatMessage("whats up?", "assistant"))
    assert read(store, key) == ["hi!", "whats up?"]
    assert read(store, key) == []
    said(store, key, "hi again!", "whats up again?")
    assert read(store, key) == ["hi again!", "whats up again?"]
    everything = ["hi!", "whats up?", "hi again!", "whats up again?"]
    assert read(store, key, position="beginning") == everything
    assert read(store, key, position="latest") == []
    said(store, key, "HI!", "WHATS UP?")
    assert read(store, key) == ["HI!", "WHATS UP?"]
    assert read(store, key, position="last_consumed") == []


def test_async(harness, key):
    async def run() -> None:
        async with harness.open() as store:
            await store.aadd_messages(key, [ChatMessage(text) for text in "abc"])
            first = await store.aconsume(key, "g", max_message_count=2)
            assert first == await store.aget_messages(key, first=2)
            assert [m.text for m in await store.aconsume(key, "g")] == ["c"]
            assert await store.aconsume(key, "g") == []
            assert len(await store.aconsume(key, "g", position="beginning")) == 3
            assert await store.aconsume(key, "g", position="latest") == []
            waiting = asyncio.create_task(store.aconsume(key, "g", max_time_sec=60))
            other = asyncio.create_task(store.aconsume(key, "h", position="latest", max_time_sec=9))
            await asyncio.sleep(0.3)
            assert not waiting.done()
            await store.aadd_message(key, ChatMessage("d"))
            assert [m.text for m in await waiting] == ["d"]
            assert [m.text for m in await other] == ["d"]
            cut = asyncio.create_task(store.aconsume(key, "g", max_time_sec=60))
            await asyncio.sleep(0.3)
            cut.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cut
            await store.aadd_message(key, ChatMessage("e"))
            assert [m.text for m in await store.aconsume(key, "g")] == ["e"]

    asyncio.run(run())


def test_a_few_at_a_time(store, key):
    said(store, key, *"abcde")
    assert read(store, key, max_message_count=0) == []
    assert read(store, key, max_message_count=2) == ["a", "b"]
    assert read(store, key, max_message_count=2) == ["c", "d"]
    assert read(store, key, position="beginning", max_message_count=1) == ["a"]
    assert read(store, key, max_message_count=2**80) == ["b", "c", "d", "e"]
    assert read(store, key, position="beginning", max_message_count=0) == []
    assert read(store, key) == ["a", "b", "c", "d", "e"]


def test_each_group_session_namespace_and_topic_has_its_own_position(store, harness, key):
    said(store, key, "a")
    said(store, f"{key}.", "b")
    assert read(store, key, "g") == ["a"]
    assert read(store, key, "g.h") == ["a"]
    assert read(store, f"{key}.", "g") == ["b"]
    with harness.open(namespace="other") as other:
        said(other, key, "c")
        assert read(other, key, "g") == ["c"]
    assert [read(store, key, group) for group in ("g", "g.h", "G", "g_-." * 50)] == [
        *([], []),
        *(["a"], ["a"]),
    ]


def test_a_session_that_is_not_there(store, key):
    for position in ("last_consumed", "beginning", "latest"):
        assert read(store, key, position=position) == []
    assert store.get_session(key) is None
    said(store, key, "a")
    assert read(store, key) == ["a"]


def test_what_was_removed_is_not_consumed(store, key):
    ids = said(store, key, *"abcdef")
    assert read(store, key, max_message_count=2) == ["a", "b"]
    store.delete_message(key, id=ids[3])
    store.delete_last_message(key)
    assert read(store, key, max_message_count=1) == ["c"]
    store.delete_oldest(key, 3)
    assert read(store, key) == ["e"]
    store.delete_oldest(key, 9)
    assert read(store, key) == []
    said(store, key, "g")
    store.delete_last_message(key)
    said(store, key, "h")
    assert read(store, key) == ["h"]


def test_the_end_of_a_session_whose_last_messages_were_removed(store, key):
    said(store, key, "a", "b")
    store.delete_last_message(key)
    assert read(store, key, position="latest") == []
    said(store, key, "c")
    assert read(store, key) == ["c"]


def test_a_replaced_message_is_not_consumed_again(store, key):
    ids = said(store, key, "a", "b")
    assert read(store, key, max_message_count=1) == ["a"]
    store.replace_message(key, ChatMessage("A", id=ids[0]))
    store.replace_message(key, ChatMessage("B", id=ids[1]))
    assert read(store, key) == ["B"]


def test_another_history_is_consumed_from_its_beginning(store, key):
    said(store, key, *"abc")
    assert len(read(store, key)) == 3
    store.set_messages(key, [ChatMessage("d")])
    assert read(store, key) == ["d"]
    store.set_messages(key, [])
    assert read(store, key) == []
    said(store, key, "e")
    assert read(store, key, position="latest") == []
    store.delete_messages(key)
    assert read(store, key) == []
    said(store, key, "f")
    assert read(store, key) == ["f"]


def test_waiting(store, harness, key):
    said(store, key, "a")
    assert read(store, key, max_time_sec=60) == ["a"]
    assert read(store, key, max_time_sec=0.2) == []
    assert read(store, key, max_time_sec=1e300, max_message_count=0) == []
    found: list[list[str]] = []
    threads = [
        threading.Thread(
            target=lambda group=group: found.append(read(store, key, group, max_time_sec=60))
        )
        for group in ("g", "g", "h")
    ]
    read(store, key, "h")
    for thread in threads:
        thread.start()
    with harness.open() as other:
        said(other, f"{key} and another", *"xyz")
        waiters(store, key, 3)
        popped = said(other, key, "b")
        for thread in threads:
            thread.join()
    assert found == [["b"]] * 3
    assert popped == [store.get_messages(key, last=1)[0].id]
    waiters(store, key, 0)


def waiters(store: KafkaChatStore, key: str, count: int) -> None:
    """Return when so many wait for records."""
    parts = store._transports.sync().view().partitions

    def done() -> bool:
        return sum(len(part._watchers) for part in parts.values()) == count

    wait_until(f"{count} wait", done)


def test_waiting_in_vain_leaves_nothing_behind(store, key):
    for _ in range(3):
        assert read(store, key, max_time_sec=0.05) == []
    said(store, key, "a")
    waiters(store, key, 0)


def test_closed_while_it_waits(harness, key):
    store = harness.open(timeout=2)
    store.count_messages(key)
    failed = []

    def wait() -> None:
        with pytest.raises(StoreClosedError) as caught:
            store.consume(key, "g", max_time_sec=60)
        failed.append(caught.value)

    thread = threading.Thread(target=wait)
    thread.start()
    waiters(store, key, 1)
    store.close()
    thread.join()
    assert len(failed) == 1


def test_a_restart_of_the_process_and_of_the_broker(harness, server, key):
    with harness.open(timeout=30) as store:
        said(store, key, *"abc")
        assert read(store, key, max_message_count=2) == ["a", "b"]
    with harness.open(timeout=30) as store:
        assert read(store, key, max_message_count=1) == ["c"]
        said(store, key, "d")
        server.kill()
        server.start()
        assert read(store, key) == ["d"]
        assert read(store, key) == []
    server.restart()
    with harness.open(timeout=30) as store:
        assert read(store, key) == []
        said(store, key, "e")
        assert read(store, key) == ["e"]


def test_the_broker_is_away_or_silent(harness, key):
    with harness.open(timeout=2) as store:
        said(store, key, "a")
        for trouble in (harness.away, harness.silent):
            with trouble():
                for seconds in (None, 60):
                    with pytest.raises(BackendUnavailableError):
                        store.consume(key, "g", max_time_sec=seconds)
            with harness.open(timeout=30) as patient:
                assert read(patient, key) == ["a"]
                said(patient, key, "a")
                patient.delete_oldest(key, 1)


def test_a_reply_that_is_lost_while_it_waits(harness, key):
    with harness.open(timeout=2) as store:
        assert read(store, key) == []
        failed = []

        def wait() -> None:
            with pytest.raises(BackendUnavailableError) as caught:
                store.consume(key, "g", max_time_sec=3600)
            failed.append(caught.value)

        thread = threading.Thread(target=wait)
        thread.start()
        waiters(store, key, 1)
        with harness.silent():
            thread.join()
    assert len(failed) == 1


def test_what_kafkas_own_tools_see(store, server, key):
    said(store, key, "a", "b")
    assert read(store, key, "readers") == ["a", "b"]
    state = next(
        part.fold.states[f"default\0{key}".encode()]
        for part in store._transports.sync().view().partitions.values()
        if f"default\0{key}".encode() in part.fold.states
    )
    admin = server.client()
    groups = admin.list_consumer_groups().result().valid
    [group] = [one.group_id for one in groups if one.group_id.startswith("chatstores.readers.")]
    asked = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])
    found = asked[group].result().topic_partitions
    assert [(place.topic, place.offset, place.metadata) for place in found] == [
        ("chatstores", state.mark + 1, f"{state.epoch}.2.{state.sources[-1]}")
    ]
    client = Consumer({"bootstrap.servers": server.direct, "group.id": group, **QUIET})
    place = TopicPartition("chatstores", found[0].partition, 0)
    client.commit(offsets=[place], asynchronous=False)
    client.close()
    with pytest.raises(BackendMismatchError, match="committed by another program"):
        store.consume(key, "readers")
    assert read(store, key, "readers", position="beginning") == ["a", "b"]
    assert read(store, key, "readers") == []


def test_a_record_that_is_not_readable(harness, key):
    with harness.open() as store, harness.open(on_corrupt="skip") as skipping:
        said(store, key, "a", "b", "c")
        harness.overwrite("default", key, 1, b'{"v": 1}')
        with pytest.raises(CorruptRecordError) as caught:
            store.consume(key, "g")
        assert caught.value.position == 1
        assert read(store, key, max_message_count=1) == ["a"]
        with pytest.warns(RuntimeWarning, match="record 1"):
            assert read(skipping, key) == ["c"]


def test_many_sessions_of_one_partition(store, key):
    keys = [f"{key}-{number}" for number in range(3 * PARTITIONS)]
    for one in keys:
        said(store, one, one)
    assert [read(store, one) for one in keys] == [[one] for one in keys]
    assert [read(store, one) for one in keys] == [[] for one in keys]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"group": ""}, "'' is no group's name: 1 to 200 of the characters A-Z a-z 0-9 . _ -"),
        ({"group": "g" * 201}, "is no group's name"),
        ({"group": "a group"}, "'a group' is no group's name"),
        ({"group": None}, "None is no group's name"),
        ({"position": "end"}, "one of beginning, latest, last_consumed, not 'end'"),
        ({"position": None}, "one of beginning, latest, last_consumed, not None"),
        ({"max_message_count": -1}, "max_message_count must be a whole number, 0 or more, not -1"),
        ({"max_message_count": 1.0}, "max_message_count must be a whole number"),
        ({"max_message_count": True}, "max_message_count must be a whole number"),
        ({"max_time_sec": -0.1}, "max_time_sec must be a number of seconds, 0 or more, not -0.1"),
        ({"max_time_sec": float("nan")}, "max_time_sec must be a number of seconds"),
        ({"max_time_sec": "5"}, "max_time_sec must be a number of seconds, 0 or more, not '5'"),
        ({"max_time_sec": True}, "max_time_sec must be a number of seconds"),
    ],
)
def test_arguments_that_are_wrong(options, text):
    with pytest.raises(InvalidArgumentError) as caught:
        open_store("kafka://127.0.0.1:1").consume("k", **{"group": "g", **options})
    assert text in str(caught.value)


def test_a_key_that_is_wrong():
    with pytest.raises(InvalidKeyError):
        open_store("kafka://127.0.0.1:1").consume("", "g")


def grant(server: KafkaServer, kind: ResourceType, name: str, *operations: AclOperation) -> None:
    """Allow the server's user to do something with what begins with a name."""
    user = f"User:{server.login}"
    allow, begins = AclPermissionType.ALLOW, ResourcePatternType.PREFIXED
    admin = server.client()
    bindings = [AclBinding(kind, name, begins, user, "*", one, allow) for one in operations]
    for done in admin.create_acls(bindings).values():
        done.result()


def test_the_acl_that_it_needs(key):
    with KafkaServer(security="sasl", password=PASSWORD, acls=True) as server:
        operations = [AclOperation.READ, AclOperation.WRITE, AclOperation.CREATE]
        operations.append(AclOperation.DESCRIBE_CONFIGS)
        grant(server, ResourceType.TOPIC, "chats", *operations)
        with open_store(f"{server.url}/chats", **server.options) as store:
            said(store, key, "a")
            with pytest.raises(PermissionDeniedError) as caught:
                store.consume(key, "g")
            assert "it needs the ACL Read on the groups that begin with 'chats.'" in str(
                caught.value
            )
            grant(server, ResourceType.GROUP, "chats.", AclOperation.READ)
            wait_until("the ACL is known", lambda: allowed(store, key))
            assert read(store, key, position="beginning") == ["a"]
            assert read(store, key) == []


def allowed(store: KafkaChatStore, key: str) -> bool:
    try:
        store.consume(key, "g", position="latest")
    except PermissionDeniedError:
        return False
    return True
