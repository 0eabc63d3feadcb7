"""Kafka as it is run: logins, TLS, ACLs, topics that change; and what a mistake is told.

The least that a user needs, with ``create=False``, are these ACLs on the topic (all of them
"literal" or "prefixed", no others; Read or Write bring Describe along):

    Read, Write, DescribeConfigs

and Create on the topic, for who lets the store create it. See `LEAST`, and the tests of it.
"""

from __future__ import annotations

import asyncio
import logging
import shlex
import socket
import traceback
from collections.abc import Iterator
from itertools import count
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)

from chatstores import ChatMessage, ChatStore, open_store
from chatstores.errors import (
    AuthenticationError,
    BackendMismatchError,
    BackendUnavailableError,
    ChatStoreError,
    InvalidURLError,
    NotSetUpError,
    OutcomeUnknownError,
    PermissionDeniedError,
)
from chatstores.state import Append, Command, Record
from chatstores_kafka import KafkaChatStore
from chatstores_kafka.record import FORMAT, encode_command, name_of
from chatstores_kafka.topic import TopicSettings
from tests.run import PASSWORD
from tests.servers import wait_until
from tests.servers.certificates import certificates
from tests.servers.kafka import QUIET, KafkaServer

FORMS = pytest.mark.parametrize("form", ["sync", "async"])
#: What a user must be allowed to do on the topic.
LEAST = (AclOperation.READ, AclOperation.WRITE, AclOperation.DESCRIBE_CONFIGS)
_numbers = count()


@pytest.fixture(scope="module")
def server() -> Iterator[KafkaServer]:
    """A server in the plain."""
    with KafkaServer() as one:
        yield one


@pytest.fixture(scope="module")
def locked() -> Iterator[KafkaServer]:
    """A server with a user, who may do nothing without an ACL."""
    with KafkaServer(security="sasl", password=PASSWORD, acls=True) as one:
        yield one


@pytest.fixture(scope="module")
def tls() -> Iterator[KafkaServer]:
    """A server that speaks TLS only, and wants a certificate of the client."""
    with KafkaServer(security="ssl") as one:
        yield one


@pytest.fixture
def topic() -> str:
    """A topic's name that no other test has."""
    return f"chats-{next(_numbers)}"


def url_of(server: KafkaServer, topic: str, **options: Any) -> str:
    """A topic of few partitions."""
    return f"{server.url}/{topic}?{urlencode({'partitions': 2, **server.options, **options})}"


def works(store: ChatStore) -> None:
    """Adds, pops, sets and lists in both forms; and the store is closed."""

    async def more() -> list[str]:
        async with store:
            await store.aadd_messages("k", [ChatMessage("2"), ChatMessage("3")])
            await store.adelete_last_message("k")
            return [message.text for message in await store.aget_messages("k", last=20)]

    store.delete_messages("k")
    assert store.add_message("k", ChatMessage("1")).added == 1
    store.set_messages("other", [ChatMessage("a"), ChatMessage("b")])
    assert store.delete_last_message("other").text == "b"
    assert store.get_keys() == ["k", "other"]
    assert asyncio.run(more()) == ["1", "2"]


def add(store: ChatStore, *texts: str, key: str = "k") -> None:
    for text in texts:
        store.add_message(key, ChatMessage(text))


def texts(store: ChatStore, key: str = "k") -> list[str]:
    return [message.text for message in store.get_messages(key)]


def ping(form: str, store: ChatStore) -> None:
    if form == "sync":
        store.ping()
    else:
        asyncio.run(store.aping())


def error_of(form: str, kind: type[ChatStoreError], url: str, **options: Any) -> str:
    """What ping raises; nothing that is printed of it holds the password."""
    store = open_store(url, **options)
    with pytest.raises(kind) as caught:
        ping(form, store)
    store.close()
    printed = "".join([*traceback.format_exception(caught.value), store.url, repr(store)])
    assert PASSWORD not in printed
    assert quote(PASSWORD, safe="") not in printed
    return str(caught.value)


def refused(url: str, **options: Any) -> str:
    """What opening says against a URL."""
    with pytest.raises(InvalidURLError) as caught:
        open_store(url, **options)
    return str(caught.value)


def create(server: KafkaServer, topic: str, **config: str) -> None:
    """Create a topic as the store would, but for some of its settings."""
    settings = {**TopicSettings(topic, 2, 1, 3_600_000).config(), **config}
    new = NewTopic(topic, 2, 1, config=settings)
    admin = server.client()
    admin.create_topics([new])[topic].result(timeout=10)


def delete(server: KafkaServer, topic: str) -> None:
    admin = server.client()
    admin.delete_topics([topic])[topic].result(timeout=10)


def is_gone(store: ChatStore, before: list[str]) -> bool:
    """Whether a store was told that its topic was deleted; brokers may take a moment for it."""
    try:
        assert texts(store) == before
    except (NotSetUpError, BackendMismatchError):
        return True
    return False


def alter(server: KafkaServer, topic: str, name: str, value: str) -> None:
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin = server.client()
    for done in admin.incremental_alter_configs([resource]).values():
        done.result(timeout=10)


def add_partitions(server: KafkaServer, topic: str, total: int) -> None:
    admin = server.client()
    done = admin.create_partitions([NewPartitions(topic, total)])
    done[topic].result(timeout=10)


def put(server: KafkaServer, topic: str, value: bytes, key: bytes, partition: int) -> None:
    """Write a record as another program would."""
    said: list[Any] = []
    producer = Producer({"bootstrap.servers": server.direct, **QUIET})
    producer.produce(topic, value, key, partition, lambda error, _: said.append(error))
    producer.flush(10)
    assert said == [None]


def acl(server: KafkaServer, topic: str, operation: AclOperation) -> AclBinding:
    return AclBinding(
        ResourceType.TOPIC,
        topic,
        ResourcePatternType.LITERAL,
        f"User:{server.login}",
        "*",
        operation,
        AclPermissionType.ALLOW,
    )


def allow(server: KafkaServer, topic: str, *operations: AclOperation) -> None:
    admin = server.client()
    for done in admin.create_acls([acl(server, topic, one) for one in operations]).values():
        done.result(timeout=10)


def forbid(server: KafkaServer, topic: str, operation: AclOperation) -> None:
    one = acl(server, topic, operation)
    filters = AclBindingFilter(
        one.restype,
        one.name,
        one.resource_pattern_type,
        one.principal,
        one.host,
        one.operation,
        one.permission_type,
    )
    admin = server.client()
    for done in admin.delete_acls([filters]).values():
        done.result(timeout=10)


def answers(store: ChatStore) -> bool:
    """Whether the store may be used by now; a right may be lost while an answer is waited for."""
    try:
        add(store, "?")
        store.get_messages("k")
    except (PermissionDeniedError, OutcomeUnknownError):
        return False
    return True


# Logging in


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
def test_a_password(locked: KafkaServer, topic: str, mechanism: str) -> None:
    allow(locked, topic, *LEAST, AclOperation.CREATE)
    url = url_of(locked, topic, **{"sasl.mechanism": mechanism})
    store = open_store(url)
    wait_until("the user may", lambda: answers(store))
    store.close()
    works(open_store(url))
    works(open_store(store.url, password=PASSWORD))
    assert PASSWORD not in repr(store)
    works(
        KafkaChatStore(
            f"127.0.0.1:{locked.port}",
            topic=topic,
            username=locked.login,
            password=PASSWORD,
            partitions=2,
            driver_options={"security.protocol": "sasl_plaintext", "sasl.mechanism": mechanism},
        )
    )


@FORMS
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
def test_a_wrong_password_is_told_at_once(locked: KafkaServer, form: str, mechanism: str) -> None:
    options = {"security.protocol": "sasl_plaintext", "sasl.mechanism": mechanism}
    url = f"kafka://{locked.login}:wrong@127.0.0.1:{locked.port}"
    # Whoever waits for the end of the time is told of that.
    text = error_of(form, AuthenticationError, url, timeout=60, **options)
    assert text.startswith(
        f"kafka://{locked.login}@127.0.0.1:{locked.port}/chatstores refuses the user or the "
        "password: "
    )
    assert "Authentication failed" in text
    assert "wrong@" not in text


@FORMS
def test_a_mechanism_that_the_brokers_do_not_have(locked: KafkaServer, form: str) -> None:
    url = url_of(locked, "t", **{"sasl.mechanism": "SCRAM-SHA-512"})
    text = error_of(form, AuthenticationError, url, timeout=60)
    assert "supported mechanisms: PLAIN,SCRAM-SHA-256" in text


@pytest.mark.parametrize("security", ["sasl", "ssl"])
def test_no_login_where_one_is_wanted(locked: KafkaServer, tls: KafkaServer, security: str) -> None:
    port = (locked if security == "sasl" else tls).port
    text = error_of("sync", BackendUnavailableError, f"kafka://127.0.0.1:{port}", timeout=1)
    assert text.endswith("if they want TLS or SASL, security.protocol= must say so")


def test_a_login_goes_over_tls_unless_said(locked: KafkaServer) -> None:
    url = locked.url
    text = error_of("sync", BackendUnavailableError, url, timeout=1)
    assert "connecting to a PLAINTEXT broker listener?" in text


# TLS


def test_tls_and_a_certificate_of_the_client(tls: KafkaServer, topic: str) -> None:
    works(open_store(url_of(tls, topic)))
    works(open_store(f"kafka://localhost:{tls.port}/{topic}", partitions=2, **tls.options))


@FORMS
@pytest.mark.parametrize("mistake", ["another authority", "no certificate of the client"])
def test_tls_that_fails_is_told_at_once(tls: KafkaServer, form: str, mistake: str) -> None:
    options = tls.options
    if mistake == "another authority":
        options["ssl.ca.location"] = certificates().stranger_ca
    else:
        del options["ssl.certificate.location"], options["ssl.key.location"]
    text = error_of(form, AuthenticationError, tls.url, timeout=60, **options)
    assert f"{tls.url}/chatstores: TLS failed: " in text
    assert "certificate" in text.partition("; ssl.ca.location names the authority")[0]


def test_tls_where_nobody_speaks_it(server: KafkaServer, tls: KafkaServer) -> None:
    text = error_of("sync", BackendUnavailableError, server.url, timeout=1, **tls.options)
    assert "SSL" in text


# What a user may


def test_a_user_needs_no_more_than_these_acls(locked: KafkaServer, topic: str) -> None:
    """Read, Write and DescribeConfigs on the topic, which somebody else has created."""
    create(locked, topic)
    allow(locked, topic, *LEAST)
    store = open_store(url_of(locked, topic), create=False)
    wait_until("the user may", lambda: answers(store))
    store.setup()
    store.ping()
    works(store)


@FORMS
@pytest.mark.parametrize("lacking", LEAST)
def test_what_a_user_may_not_is_named(
    locked: KafkaServer, topic: str, lacking: AclOperation, form: str
) -> None:
    with open_store(f"kafka://{locked.direct}/{topic}", partitions=2) as store:
        add(store, "1")
    allow(locked, topic, *(one for one in LEAST if one is not lacking))
    word = "".join(part.title() for part in lacking.name.split("_"))
    what = f"denies this user {word} on the topic '{topic}': it needs the ACLs Read, Write"

    def use(store: ChatStore) -> None:
        if form == "sync":
            add(store, "2")
        else:
            asyncio.run(store.aadd_message("k", ChatMessage("2")))

    store = open_store(url_of(locked, topic), create=False, timeout=30)

    def denied() -> bool:
        with pytest.raises(PermissionDeniedError) as caught:
            use(store)
        return what in str(caught.value)

    wait_until("what was granted is", denied)
    allow(locked, topic, lacking)
    wait_until("the user may", lambda: answers(store))
    assert set(texts(store)) == {"1", "?"}
    store.close()


@pytest.mark.parametrize("taken", [AclOperation.READ, AclOperation.WRITE])
def test_a_right_that_is_taken_and_given_again(
    locked: KafkaServer, topic: str, taken: AclOperation
) -> None:
    allow(locked, topic, *LEAST)
    with open_store(f"kafka://{locked.direct}/{topic}", partitions=2) as other:

        def may() -> bool:
            add(other, "!")  # what one writes oneself needs no right to read
            return answers(store)

        store = open_store(url_of(locked, topic), create=False)
        wait_until("the user may", may)
        add(store, "1")
        forbid(locked, topic, taken)
        wait_until("the user may not", lambda: not may())
        with pytest.raises(PermissionDeniedError, match=f"denies this user {taken.name.title()} "):
            add(store, "refused")
        allow(locked, topic, taken)
        wait_until("the user may again", may)
        add(store, "2")
        assert [text for text in texts(store) if text not in "?!"] == ["1", "2"]
        assert texts(store) == texts(other)
        store.close()


@FORMS
def test_who_may_not_create_is_told(locked: KafkaServer, topic: str, form: str) -> None:
    allow(locked, topic, *LEAST)
    store = open_store(url_of(locked, topic))

    def told() -> str:
        with pytest.raises(PermissionDeniedError) as caught:
            ping(form, store)
        return str(caught.value)

    wait_until("the user may describe", lambda: "Describe on" not in told())
    assert f"denies this user Create on the topic '{topic}'" in told()
    store.close()
    text = error_of(form, NotSetUpError, url_of(locked, topic), create=False)
    assert text.startswith(f"there is no topic '{topic}': 'chatstores setup' creates it")


# The topic


@FORMS
def test_a_missing_topic_is_not_created_by_a_question(topic: str, form: str) -> None:
    with KafkaServer(settings={"auto.create.topics.enable": "true"}) as server:
        url = url_of(server, topic)
        text = error_of(form, NotSetUpError, url, create=False)
        assert text.startswith(f"there is no topic '{topic}': 'chatstores setup' creates it")
        assert topic not in server.client().list_topics(timeout=10).topics
        with open_store(url) as store:
            add(store, "1")
            delete(server, topic)
            wait_until("the store is told", lambda: is_gone(store, ["1"]))
            for _ in range(2):
                with pytest.raises((NotSetUpError, BackendMismatchError)):
                    add(store, "2")
                with pytest.raises((NotSetUpError, BackendMismatchError)):
                    ping(form, store)
        assert topic not in server.client().list_topics(timeout=10).topics


def test_the_printed_words_create_the_topic(server: KafkaServer, topic: str) -> None:
    store = open_store(url_of(server, topic, replication_factor=1, compaction_lag="2h"))
    words = shlex.split(store._setup_script().replace("\\\n", " "))
    assert words[:4] == ["kafka-topics.sh", "--bootstrap-server", "BROKER", "--create"]
    given = list(zip(words[4::2], words[5::2], strict=True))
    single = dict(given)
    assert single["--topic"] == topic
    new = NewTopic(
        topic,
        int(single["--partitions"]),
        int(single["--replication-factor"]),
        config=dict(value.split("=") for name, value in given if name == "--config"),
    )
    admin = server.client()
    admin.create_topics([new])[topic].result(timeout=10)
    works(open_store(store.url, create=False))


@FORMS
@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("cleanup.policy", "delete", "cleanup.policy is delete, not compact"),
        (
            "cleanup.policy",
            "compact,delete",
            "cleanup.policy is compact,delete, not compact (open the store with retention=604800: "
            "older messages go)",
        ),
        (
            "message.timestamp.type",
            "CreateTime",
            "message.timestamp.type is CreateTime, not LogAppendTime",
        ),
        (
            "max.message.bytes",
            "1048588",
            "max.message.bytes is 1048588, not 8388608 or more",
        ),
        ("min.compaction.lag.ms", "0", "min.compaction.lag.ms is 0, not 3600000 or more"),
    ],
)
def test_a_topic_with_other_settings(
    server: KafkaServer, topic: str, form: str, name: str, value: str, what: str
) -> None:
    create(server, topic, **{name: value})
    text = error_of(form, BackendMismatchError, url_of(server, topic))
    assert text == f"the topic '{topic}' is not what chatstores needs: {what}"
    alter(server, topic, name, TopicSettings(topic, 2, 1, 3_600_000).config()[name])
    works(open_store(url_of(server, topic)))


def test_every_setting_that_differs_is_named(server: KafkaServer, topic: str) -> None:
    admin = server.client()
    admin.create_topics([NewTopic(topic, 2, 1)])[topic].result(timeout=10)
    text = error_of("sync", BackendMismatchError, url_of(server, topic))
    assert text.count(" is ") == 5
    assert text.count("; ") == 3


def test_a_topic_that_the_brokers_refuse(server: KafkaServer, topic: str) -> None:
    url = url_of(server, topic, replication_factor=3)
    text = error_of("sync", BackendMismatchError, url)
    assert "refuses the topic: " in text
    assert "replication" in text.lower()
    create(server, f"{topic}.x")
    text = error_of("sync", BackendMismatchError, url_of(server, f"{topic}_x"))
    assert "collides with" in text


@FORMS
def test_a_topic_that_is_deleted_under_an_open_store(
    server: KafkaServer, topic: str, form: str
) -> None:
    with open_store(url_of(server, topic)) as store:
        add(store, "1", "2")
        delete(server, topic)
        wait_until("the store is told", lambda: is_gone(store, ["1", "2"]))
        for _ in range(2):
            with pytest.raises((NotSetUpError, BackendMismatchError), match=topic):
                texts(store)
            with pytest.raises((NotSetUpError, BackendMismatchError), match=topic):
                add(store, "3")
            with pytest.raises((NotSetUpError, BackendMismatchError), match=topic):
                ping(form, store)
    text = error_of(form, NotSetUpError, url_of(server, topic), create=False)
    assert f"there is no topic '{topic}'" in text


@pytest.mark.parametrize("consistency", ["linearizable", "eventual"])
@pytest.mark.parametrize("records", [0, 1, 9])
def test_a_topic_that_is_made_anew_under_an_open_store(
    server: KafkaServer, topic: str, records: int, consistency: str
) -> None:
    """Also where the new topic holds more records than the old one did."""
    with open_store(url_of(server, topic, consistency=consistency)) as store:
        add(store, "1", "2", "3")
        assert texts(store) == ["1", "2", "3"]
        delete(server, topic)
        wait_until("it is gone", lambda: topic not in server.client().list_topics().topics)
        with open_store(url_of(server, topic, **{"client.id": "another"})) as other:
            other.setup()
            add(other, *(f"new {n}" for n in range(records)))
            assert len(texts(other)) == records

            def told() -> bool:
                try:
                    found = texts(store)
                except NotSetUpError:  # as long as it was away
                    return False
                except BackendMismatchError:
                    return True
                assert found[:3] == ["1", "2", "3"]
                return False

            wait_until("the store is told", told)
            for _ in range(2):
                with pytest.raises(BackendMismatchError, match=topic):
                    add(store, "4")
                with pytest.raises(BackendMismatchError, match=topic):
                    store.get_keys()
                with pytest.raises(BackendMismatchError, match=topic):
                    store.ping()
            assert len(texts(other)) == records
    with open_store(url_of(server, topic)) as store:
        assert len(texts(store)) == records


def test_partitions_that_are_added_under_an_open_store(server: KafkaServer, topic: str) -> None:
    with open_store(url_of(server, topic)) as store:
        add(store, "1")
        add_partitions(server, topic, 3)

        def told() -> bool:
            try:
                add(store, "2")
            except BackendMismatchError:
                return True
            return False

        wait_until("the store is told", told)
        with pytest.raises(BackendMismatchError, match="was given 3 partitions and had 2"):
            texts(store)
        with pytest.raises(BackendMismatchError, match="3 partitions"):
            store.ping()


@FORMS
def test_partitions_that_are_added_between_two_openings(
    server: KafkaServer, topic: str, form: str
) -> None:
    """What is asked for may be in a partition that is empty yet."""
    url = url_of(server, topic)
    with open_store(url) as store:
        add(store, "1")
    add_partitions(server, topic, 64)
    text = error_of(form, BackendMismatchError, url)
    assert "was written when the topic had 2 partitions, now it has 64: sessions are found" in text


def test_partitions_that_are_added_before_anything_is_written(
    server: KafkaServer, topic: str
) -> None:
    create(server, topic)
    add_partitions(server, topic, 5)
    put(server, topic, b"not ours", b"key", 0)
    works(open_store(url_of(server, topic)))


# What others write


def test_records_of_another_program_are_left_out_and_told_of_once(
    server: KafkaServer, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    with open_store(url_of(server, topic)) as store:
        add(store, "1")
        [number] = store._transports.sync().view().partitions
        with caplog.at_level(logging.WARNING, "chatstores_kafka"):
            for value, key in [
                (b"", b"12345678"),
                (b'{"type": "human"}', b"s"),
                (b"\xc5\x01 not a head", b"12345678"),
                (b"\xc5" * 80, b"nine bytes"),
                (b"x" * 80, b"12345678"),
            ]:
                put(server, topic, value, key, number)
            add(store, "2")
            assert texts(store) == ["1", "2"]
            put(server, topic, b"again", b"s", number)
            assert texts(store) == ["1", "2"]
            [told] = [record.getMessage() for record in caplog.records]
            assert f"partition {number} of the topic '{topic}' holds records that chats" in told
            assert "such as that at offset " in told
            put(server, topic, b"elsewhere", b"s", 1 - number)
            assert store.get_keys() == ["k"]
            assert len(caplog.records) == 2
    with open_store(url_of(server, topic)) as store:
        assert texts(store) == ["1", "2"]


@FORMS
def test_a_transaction_that_another_program_leaves_open(
    server: KafkaServer, topic: str, form: str
) -> None:
    def read(store: ChatStore) -> list[str]:
        if form == "sync":
            return texts(store)
        return [message.text for message in asyncio.run(store.aget_messages("k"))]

    with open_store(url_of(server, topic)) as store:
        add(store, "1")
        stranger = Producer(
            {"bootstrap.servers": server.direct, "transactional.id": topic, **QUIET}
        )
        stranger.init_transactions(10)
        for end in (stranger.commit_transaction, stranger.abort_transaction):
            stranger.begin_transaction()
            for partition in range(2):
                stranger.produce(topic, b"a stranger's", b"key", partition)
            stranger.flush(10)
            before = read(store)
            add(store, "2")
            assert read(store) == [*before, "2"]
            with open_store(url_of(server, topic, **{"client.id": "new"})) as fresh:
                assert read(fresh) == [*before, "2"]
                assert fresh.get_keys() == ["k"]
                end(10)
                assert read(fresh) == [*before, "2"]
            assert read(store) == [*before, "2"]
    with open_store(url_of(server, topic)) as store:
        assert read(store) == ["1", "2", "2"]
        assert store.get_keys() == ["k"]


def a_record(partitions: int = 2) -> bytearray:
    command = Command(1, Append([Record("id", b"{}")]))
    name = name_of("default", "k")
    return bytearray(encode_command(name, command, seen=-1, partitions=partitions, retry=False))


@FORMS
@pytest.mark.parametrize("opened", [True, False])
def test_a_record_of_a_newer_version(
    server: KafkaServer, topic: str, form: str, opened: bool
) -> None:
    value = a_record()
    value[1] = FORMAT + 1
    with open_store(url_of(server, topic)) as store:
        add(store, "1")
        [number] = store._transports.sync().view().partitions
        if opened:
            put(server, topic, bytes(value), b"12345678", number)
            for _ in range(2):
                with pytest.raises(BackendMismatchError, match="upgrade it"):
                    texts(store)
                with pytest.raises(BackendMismatchError, match="upgrade it"):
                    add(store, "2")
    if not opened:
        delete(server, topic)
        wait_until("it is gone", lambda: topic not in server.client().list_topics().topics)
        create(server, topic)
        put(server, topic, bytes(value), b"12345678", number)
        text = error_of(form, BackendMismatchError, url_of(server, topic))
        assert f"written by a newer chatstores (record format {FORMAT + 1}" in text


def test_a_record_of_ours_that_is_cut_off(server: KafkaServer, topic: str) -> None:
    create(server, topic)
    for partition in range(2):
        put(server, topic, bytes(a_record()[:-1]), b"12345678", partition)
    with open_store(url_of(server, topic)) as store:
        for _ in range(2):  # each time that it is asked for
            with pytest.raises(BackendMismatchError, match=r"offset 0, .* is not readable"):
                store.get_messages("k")
        with pytest.raises(BackendMismatchError, match=r"offset 0, .* is not readable"):
            store.get_keys()


# A message that is too large


def test_a_topic_that_takes_less_than_it_did(server: KafkaServer, topic: str) -> None:
    with open_store(url_of(server, topic)) as store:
        add(store, "1")
        alter(server, topic, "max.message.bytes", "100000")
        large = ChatMessage("x" * 1_000_000)
        wait_until("the broker takes less", lambda: not takes(store, large))
        with pytest.raises(BackendMismatchError, match=r"max.message.bytes of the topic"):
            store.add_message("k", ChatMessage("y" * 1_000_000))
        add(store, "2")
        assert [text for text in texts(store) if len(text) == 1] == ["1", "2"]
        assert "y" not in "".join(texts(store))


def takes(store: ChatStore, message: ChatMessage) -> bool:
    try:
        store.add_message("k", message.model_copy(update={"id": str(next(_numbers))}))
    except BackendMismatchError:
        return False
    return True


# Where the brokers are


def test_a_batch_that_one_record_cannot_hold(server: KafkaServer, topic: str) -> None:
    batch = [ChatMessage(f"{number}" * 3_000_000) for number in range(8)]
    with open_store(url_of(server, topic), timeout=30) as store:
        add(store, "before")
        assert store.add_messages("k", batch).added == 8
        add(store, "after")
        before, *found, after = store.get_messages("k")
    assert found == batch
    with open_store(url_of(server, topic, **{"client.id": "new"}), timeout=30) as store:
        assert store.get_messages("k") == [before, *batch, after]


def test_many_hosts_of_which_some_are_away(server: KafkaServer, topic: str) -> None:
    hosts = f"127.0.0.1:1,127.0.0.1:{server.port},localhost:2"
    store = open_store(f"kafka://{hosts}/{topic}?partitions=2")
    assert store.url == f"kafka://{hosts}/{topic}?partitions=2"
    works(store)


def test_ipv6(topic: str) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    server = KafkaServer()
    told = f"CLIENTS://[::1]:{server.port},DIRECT://{server.direct}"
    server.settings = {
        "listeners": f"{told},CONTROLLER://127.0.0.1:{server.controller_port}",
        "advertised.listeners": told,
    }
    with server:
        store = open_store(f"kafka://[::1]:{server.port}/{topic}?partitions=2")
        assert store.url == f"kafka://[::1]:{server.port}/{topic}?partitions=2"
        works(store)


@FORMS
def test_nobody_there(form: str) -> None:
    text = error_of(form, BackendUnavailableError, "kafka://127.0.0.1:1", timeout=0.5)
    assert text.startswith("kafka://127.0.0.1:1/chatstores cannot be used now: ")
    assert "Connection refused" in text
    text = error_of(form, BackendUnavailableError, "kafka://nowhere.invalid", timeout=0.5)
    assert "nowhere.invalid" in text


def test_eventual_reads_ask_no_broker(topic: str) -> None:
    with KafkaServer() as server:
        options = {"consistency": "eventual", "timeout": 1}
        with open_store(url_of(server, topic, **options)) as store:
            assert store.url.endswith(f"/{topic}?consistency=eventual&partitions=2")
            add(store, "1", "2")
            assert texts(store) == ["1", "2"]  # its own writes
            with open_store(url_of(server, topic, **{"client.id": "another"})) as other:
                add(other, "3")
                wait_until("it is heard of", lambda: texts(store) == ["1", "2", "3"])
                server.kill()
                assert texts(store) == ["1", "2", "3"]
                assert store.count_messages("k") == 3
                with pytest.raises(BackendUnavailableError):
                    add(store, "4")
                server.start()
                wait_until("it is back", lambda: came_back(store))


def came_back(store: ChatStore) -> bool:
    try:
        add(store, "5", key="other")
    except BackendUnavailableError:
        return False
    return True


# URLs and options; nothing is connected


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("kafka://", "kafka://localhost:9092/chatstores"),
        ("kafka:///chats", "kafka://localhost:9092/chats"),
        ("kafka://h", "kafka://h:9092/chatstores"),
        ("kafka://h/", "kafka://h:9092/chatstores"),
        ("kafka://[::1],[::2]:9/a.b-c_D", "kafka://[::1]:9092,[::2]:9/a.b-c_D"),
        ("kafka://b1:1,b2,b3:3/t", "kafka://b1:1,b2:9092,b3:3/t"),
        ("kafka://u:s3cret@h/t", "kafka://u@h:9092/t"),
        (
            "kafka://h/t?linger.ms=5&partitions=3&consistency=eventual",
            "kafka://h:9092/t?consistency=eventual&partitions=3&linger.ms=5",
        ),
        (
            "kafka://h/t?ssl.key.password=s3cret&ssl.key.pem=s3cret&client.id=x"
            "&sasl.oauthbearer.client.secret=s3cret&sasl.oauthbearer.config=s3cret",
            "kafka://h:9092/t?client.id=x",
        ),
    ],
)
def test_the_url_is_shown_without_secrets(url: str, shown: str) -> None:
    store = open_store(url)
    assert store.url == shown
    assert repr(store) == f"KafkaChatStore('{shown}', namespace='default')"


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("kafka://u@h", "a user needs a password: kafka://user:password@host:9092/topic"),
        ("kafka://:p@h", "a password needs a user: kafka://user:password@host:9092/topic"),
        ("kafka://u:p@h?security.protocol=ssl", "must be sasl_ssl, or sasl_plaintext"),
        ("kafka://h/a/b", "'a/b' is no topic's name: 1 to 249 of the characters A-Z a-z 0-9 . _ -"),
        ("kafka://h/..", "'..' is no topic's name"),
        ("kafka://h/a%20b", "'a b' is no topic's name"),
        (f"kafka://h/{'x' * 250}", "is no topic's name"),
        ("kafka://h?partition=3", "has no option 'partition' (did you mean 'partitions'?)"),
        ("kafka://h?sasl_mechanism=PLAIN", "(did you mean 'sasl.mechanism'?)"),
        (
            "kafka://h?secuirty.protocol=ssl",
            "kafka:// has no option 'secuirty.protocol' (did you mean 'security.protocol'?); it "
            "has consistency, partitions, replication_factor, compaction_lag",
        ),
        ("kafka://h?partitions=0", "the option partitions: must be a whole number"),
        ("kafka://h?replication_factor=x", "the option replication_factor: must be a whole number"),
        ("kafka://h?consistency=strong", "must be linearizable or eventual"),
        ("kafka://h?compaction_lag=soon", "the option compaction_lag: must be seconds"),
        ("kafka://h?acks=1", "the option acks: is refused: chatstores sets it, since"),
        ("kafka://h?enable.idempotence=true", "is refused: chatstores sets it"),
        ("kafka://h?message.timeout.ms=5", "is refused: timeout= bounds every call"),
        ("kafka://h?bootstrap.servers=x", "is refused: it is a part of the URL"),
        ("kafka://h?sasl.password=s3cret", "is refused: it is a part of the URL"),
        ("kafka://h?linger.ms=soon", "the option linger.ms: Invalid value"),
        ("kafka://h?linger.ms=-1", "value -1 is outside allowed range 0..900000"),
        ("kafka://h?compression.type=rar", 'the option compression.type: Invalid value "rar"'),
        ("kafka://h?debug=all,s3", "the option debug: Invalid value"),
        ("kafka://h?default.topic.config=x", "is refused: give what it holds as options"),
        (
            "kafka://h?security.protocol=ssl&ssl.ca.location=/nowhere",
            "librdkafka refuses the options: ssl.ca.location failed: ",
        ),
        (
            "kafka://u:s3cret@h?sasl.mechanism=SCRUM",
            "librdkafka refuses the options: Unsupported SASL mechanism: SCRUM",
        ),
        ("kafka://h?ssl.key.password=s3%00cret", "must be text or a number"),
    ],
)
def test_a_wrong_url(url: str, what: str, capfd: pytest.CaptureFixture[str]) -> None:
    text = refused(url)
    assert what in text
    assert "s3cret" not in text
    assert "\n" not in text
    assert capfd.readouterr() == ("", "")


def test_wrong_options_from_python(capfd: pytest.CaptureFixture[str]) -> None:
    assert "librdkafka's callbacks itself" in refused("kafka://h", error_cb=print)
    assert "must be text or a number" in refused("kafka://h", **{"linger.ms": [1]})
    assert "'topic'" in refused("kafka://h", topic="t")
    for servers in ("", "h/t", "u@h", 5):
        with pytest.raises(InvalidURLError, match='servers must be "host:9092"'):
            KafkaChatStore(servers)  # type: ignore[arg-type]
    with pytest.raises(InvalidURLError, match="no topic's name"):
        KafkaChatStore("h", topic=5)  # type: ignore[arg-type]
    with pytest.raises(InvalidURLError, match=r"did you mean 'linger.ms'"):
        KafkaChatStore("h", driver_options={"lingerms": 1})
    assert capfd.readouterr() == ("", "")


def test_options_of_librdkafka_reach_it(server: KafkaServer, topic: str) -> None:
    options = {"compression.type": "zstd", "linger.ms": 1, "client.id": "mine"}
    store = open_store(f"{server.url}/{topic}", partitions=1, **options)
    add(store, "x" * 100_000)
    store.close()
    [segment] = server.segments(topic)
    wait_until("it is in the file", lambda: 0 < len(segment.read_bytes().rstrip(b"\0")) < 10_000)


def test_a_driver_s_error_is_the_cause(server: KafkaServer) -> None:
    store = open_store("kafka://127.0.0.1:1", timeout=0.3)
    with pytest.raises(BackendUnavailableError) as caught:
        store.ping()
    assert isinstance(caught.value.__cause__, KafkaException)
