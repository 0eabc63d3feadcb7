"""Topics that LangChain's KafkaChatMessageHistory wrote come in, once."""

from __future__ import annotations

import json
import secrets
from datetime import UTC, datetime
from pathlib import Path

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import NewTopic

from chatstores import ChatMessage, open_store
from tests.servers.kafka import QUIET, KafkaServer

#: What ``message_to_dict`` of langchain-core 1.7 made of ten messages.
LANGCHAIN = json.loads((Path(__file__).parent / "langchain_messages.json").read_text())
#: A time in milliseconds.
NOON = int(datetime(2025, 1, 1, 12, tzinfo=UTC).timestamp() * 1000)
PASSWORD = "geheim/#1"


@pytest.fixture(scope="module")
def own():
    with KafkaServer(security="sasl", password=PASSWORD) as server:
        yield server


@pytest.fixture
def topic(own):
    """A topic as LangChain makes it, but for the seven days after which Kafka forgets."""
    return create(own, f"session-{secrets.token_hex(6)}")


@pytest.fixture
def put(own):
    """Write a record; LangChain itself leaves partition and time to the client."""
    producer = Producer({"bootstrap.servers": own.direct, **QUIET})

    def put(topic, message, partition=0, ms=0):
        value = message if isinstance(message, bytes | None) else json.dumps(message)
        producer.produce(topic, value, partition=partition, timestamp=NOON + ms)
        assert producer.flush(10) == 0

    return put


@pytest.fixture
def url(tmp_path):
    return f"json:///{tmp_path}/chats.json"


def create(own, name):
    admin = own.client()
    topic = NewTopic(name, 3, 1, config={"retention.ms": "-1"})
    admin.create_topics([topic])[name].result()
    return name


def human(text):
    return {"type": "human", "data": {"content": text, "type": "human"}}


def source(own, topic="", login="chatstores:geheim%2F%231"):
    options = "&".join(f"{name}={value}" for name, value in own.options.items())
    return f"kafka://{login}@127.0.0.1:{own.port}/{topic}?{options}"


def messages(url, key):
    with open_store(url) as store:
        return store.get_messages(key)


def texts(url, key):
    return [message.text for message in messages(url, key)]


def test_a_topic(cli, url, own, topic, put):
    for number, stored in enumerate(LANGCHAIN):
        put(topic, stored, number % 3, number)
    command = ("import", "--from", "langchain-kafka", source(own, topic), "--url", url)
    assert cli(*command) == (0, "added 10 messages to 1 session\n", "")
    assert cli(*command).out == "added 0 messages to 0 sessions; 1 was complete already\n"
    found = messages(url, topic)
    assert [m.role for m in found] == [
        *["system", "user", "assistant", "tool", "assistant"],
        *["user", "user", "critic", "assistant", "assistant"],
    ]
    assert found[1].created_at == datetime(2025, 1, 1, 12, 0, 0, 1000, tzinfo=UTC)
    put(topic, LANGCHAIN[1], 0, 20)
    assert cli(*command).out == "added 1 message to 1 session\n"


def test_the_order_is_that_of_time_then_partition_then_offset(cli, url, own, topic, put):
    for partition, ms, text in (
        *((2, 30, "d"), (1, 30, "c"), (0, 30, "a"), (0, 30, "b")),
        *((2, 10, "first"), (1, 99, "last"), (1, 31, "e")),
    ):
        put(topic, human(text), partition, ms)
    cli("import", "--from", "langchain-kafka", source(own, topic), "--url", url)
    assert texts(url, topic) == ["first", "a", "b", "c", "d", "e", "last"]


def test_equal_messages_of_which_kafka_has_forgotten_the_first(cli, url, own, topic, put):
    command = ("import", "--from", "langchain-kafka", source(own, topic), "--url", url)
    for ms in (0, 0, 5):
        put(topic, human("yes"), ms=ms)
    assert cli(*command).out == "added 3 messages to 1 session\n"
    with open_store(url) as store:
        store.add_message(topic, ChatMessage("our own"))
    forget(own, topic, 2)
    assert cli(*command).out == "added 0 messages to 0 sessions; 1 was complete already\n"
    put(topic, human("yes"), ms=9)
    assert cli(*command).out == "added 1 message to 1 session\n"
    assert texts(url, topic) == ["yes", "yes", "yes", "our own", "yes"]


def forget(own, topic, offset):
    """Cut off a topic's first partition before an offset, as retention does."""
    admin = own.client()
    [future] = admin.delete_records([TopicPartition(topic, 0, offset)]).values()
    future.result()


def test_a_prefix(cli, url, own, put):
    prefix = secrets.token_hex(6)
    for name in ("a", "b"):
        put(create(own, f"{prefix}-{name}"), human(name))
    create(own, f"{prefix}-empty")
    command = ("import", "--from", "langchain-kafka", "--prefix", f"{prefix}-", source(own))
    told = cli(*command, "--url", url)
    assert told == (0, "added 2 messages to 2 sessions; 1 was complete already\n", "")
    assert cli("keys", "--url", url).out == f"{prefix}-a\n{prefix}-b\n"


def test_the_password_may_stand_in_the_environment(cli, url, own, topic, put, monkeypatch):
    put(topic, human("Hi"))
    monkeypatch.setenv("CHATSTORES_SOURCE_PASSWORD", PASSWORD)
    place = source(own, topic, login="chatstores")
    told = cli("import", "--from", "langchain-kafka", place, "--url", url)
    assert told == (0, "added 1 message to 1 session\n", "")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (b"nonsense", "the record at offset 1 of partition 2 of the topic 'TOPIC' is not JSON"),
        (None, "the record at offset 1 of partition 2 of the topic 'TOPIC' is not JSON"),
        (b"\xff", "the record at offset 1 of partition 2 of the topic 'TOPIC' is not JSON"),
        (b"[1]", "message 1 of session 'TOPIC': this is no message of LangChain's"),
        ({"type": "human"}, "message 1 of session 'TOPIC': this is no message of LangChain's"),
    ],
)
def test_a_record_that_is_no_message(cli, url, own, topic, put, wrong, said):
    put(topic, human("Hi"), 2)
    put(topic, wrong, 2)
    told = cli("import", "--from", "langchain-kafka", source(own, topic), "--url", url)
    assert (told.code, told.out) == (1, "")
    assert said.replace("TOPIC", topic) in told.err
    assert told.err.count("\n") == 1


def test_sources_that_are_wrong(cli, own, topic, monkeypatch):
    def told(place, *more):
        told = cli("import", "--from", "langchain-kafka", *more, place, "--url", "memory://")
        assert told.err.count("\n") == 1
        return told.code, told.err

    assert told(source(own, "nowhere"))[0] == 1
    assert "there is no topic 'nowhere' that this user may read" in told(source(own, "nowhere"))[1]
    code, said = told(source(own, topic, login="chatstores:s3cret"))
    assert code == 1
    assert "refuses the user or the password" in said
    assert "s3cret" not in said
    code, said = told("kafka://127.0.0.1:1/topic")
    assert code == 1
    assert "kafka://127.0.0.1:1/topic cannot be read: " in said
    for place, more in ((source(own), ()), (source(own, topic), ("--prefix", "a"))):
        code, said = told(place, *more)
        assert code == 2
        assert "each session is a topic" in said
    for place in ("redis://localhost/0", "http://localhost/a"):
        code, said = told(place)
        assert code == 2
        assert "must be a URL such as kafka://localhost:9092/session-topic" in said
    assert told("nonsense")[0] == 2
    assert told(source(own, topic).replace("sasl.mechanism", "sasl.mechanics"))[0] == 2
    monkeypatch.setenv("CHATSTORES_SOURCE_PASSWORD", PASSWORD)
    code, said = told(source(own, topic))
    assert code == 2
    assert "CHATSTORES_SOURCE_PASSWORD" in said
    assert "geheim" not in said
