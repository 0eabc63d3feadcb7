"""The tests' own Kafka: found, started, hurt and stopped."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)

from tests.run import PASSWORD
from tests.servers import GivenServer, wait_until
from tests.servers.certificates import certificates
from tests.servers.kafka import QUIET, KafkaCluster, KafkaServer, kafka_server, produces
from tests.servers.proxy import Proxy


def client(server: KafkaServer) -> dict[str, Any]:
    """The options of a client that comes as clients do."""
    address = server.url.rpartition("@")[2].removeprefix("kafka://")
    options = {"bootstrap.servers": address, **server.options, **QUIET}
    if server.security == "sasl":
        options |= {"sasl.username": server.login, "sasl.password": server.password}
    return options


def create(server: KafkaServer, topic: str, replicas: int = 1) -> None:
    admin = server.client()
    admin.create_topics([NewTopic(topic, 1, replicas)])[topic].result(timeout=10)


def put(options: dict[str, Any], topic: str, value: bytes, seconds: float = 10) -> None:
    """Write one record, and raise what the broker or the client says against it."""
    said: list[KafkaError | None] = []
    options = {**options, "message.timeout.ms": int(seconds * 1000)}
    producer = Producer(options, error_cb=lambda error: None)
    producer.produce(topic, value, on_delivery=lambda error, _: said.append(error))
    producer.flush(seconds + 5)
    [error] = said
    if error is not None:  # to compare it with None by == fails in confluent-kafka
        raise KafkaException(error)


def get(options: dict[str, Any], topic: str) -> list[bytes | None]:
    """Read all that a topic holds."""
    consumer = Consumer({**options, "group.id": "test", "enable.auto.commit": False})
    try:
        _, end = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=10)
        consumer.assign([TopicPartition(topic, 0, 0)])
        return [message.value() for message in consumer.consume(end, timeout=10)]
    finally:
        consumer.close()


def may_put(options: dict[str, Any], value: bytes) -> bool:
    try:
        put(options, "chats", value)
    except KafkaException:
        return False
    return True


def ask(options: dict[str, Any], seconds: float = 10) -> None:
    """Ask which brokers there are, and raise the first error that the client tells of."""
    said: list[KafkaError] = []
    admin = AdminClient({**options, "error_cb": said.append})
    end = time.monotonic() + seconds
    while True:
        try:
            admin.list_topics(timeout=0.2)
        except KafkaException:
            admin.poll(0)
            if said or time.monotonic() > end:
                raise KafkaException(*said[:1]) from None
        else:
            return


@pytest.fixture(scope="module")
def server() -> Iterator[KafkaServer]:
    """One that no test hurts, with a user who may do nothing."""
    with KafkaServer(security="sasl", password=PASSWORD, acls=True) as server:
        create(server, "chats")
        yield server


@pytest.fixture(scope="module")
def cluster() -> Iterator[KafkaCluster]:
    with KafkaCluster() as cluster:
        yield cluster


def test_what_was_acknowledged_outlives_every_end() -> None:
    with KafkaServer() as server:
        url, directory = server.url, server.directory
        assert url == f"kafka://127.0.0.1:{server.port}"
        create(server, "chats")
        create(server, "chats-2")
        put(client(server), "chats", b"one")
        server.restart()
        put(client(server), "chats", b"two")
        server.kill()
        with pytest.raises(KafkaException):
            put(client(server), "chats", b"lost", 0.2)
        server.start()
        assert server.url == url
        assert get(client(server), "chats") == [b"one", b"two"]
        [segment] = server.segments("chats")
        assert b"one" in segment.read_bytes()
        server.pause()
        with pytest.raises(KafkaException):
            put(client(server), "chats", b"late", 0.2)
        time.sleep(2)  # longer than the broker's session lasts
        server.resume()
        put(client(server), "chats", b"three")
        server.pause()
    assert not directory.exists()
    server.stop()


def test_passwords_are_asked_for_and_nobody_may_do_more_than_granted(
    server: KafkaServer, capfd: pytest.CaptureFixture[str]
) -> None:
    assert urlsplit(server.url).username == server.login
    assert unquote(urlsplit(server.url).password or "") == PASSWORD
    with pytest.raises(KafkaException, match="authorization failed"):
        put(client(server), "chats", b"refused")
    admin = server.client()
    who, all_hosts, allow = f"User:{server.login}", "*", AclPermissionType.ALLOW
    granted = [
        AclBinding(kind, "chats", ResourcePatternType.PREFIXED, who, all_hosts, operation, allow)
        for kind, operation in [
            (ResourceType.TOPIC, AclOperation.READ),
            (ResourceType.TOPIC, AclOperation.WRITE),
        ]
    ]
    for done in admin.create_acls(granted).values():
        done.result(timeout=10)
    for mechanism in ("PLAIN", "SCRAM-SHA-256"):
        options = {**client(server), "sasl.mechanism": mechanism}
        wait_until("the user may write", lambda o=options: may_put(o, b"granted"))
        with pytest.raises(KafkaException, match="Authentication"):
            ask({**options, "sasl.password": "wrong"})
    assert get({"bootstrap.servers": server.direct, **QUIET}, "chats") == [b"granted"] * 2
    restricted = AdminClient(client(server))
    created = restricted.create_topics([NewTopic("chats-more", 1)])["chats-more"]
    with pytest.raises(KafkaException, match="Authorization failed"):
        created.result(timeout=10)
    assert capfd.readouterr() == ("", "")


def test_tls_and_a_client_s_certificate_are_asked_for() -> None:
    with KafkaServer(security="ssl") as server:
        options = client(server)
        ask(options)
        with pytest.raises(KafkaException, match="certificate verify failed"):
            ask({**options, "ssl.ca.location": certificates().stranger_ca})
        del options["ssl.certificate.location"], options["ssl.key.location"]
        with pytest.raises(KafkaException, match=r"SSL|ssl"):
            ask(options)


def test_clients_come_by_the_proxy_that_is_advertised() -> None:
    server = KafkaServer()
    with Proxy("127.0.0.1", server.port) as proxy:
        server.advertised = proxy.port
        with server:
            assert server.url == f"kafka://127.0.0.1:{proxy.port}"
            create(server, "chats")
            assert proxy.connections == 0
            options = {**client(server), "request.timeout.ms": 5000}
            proxy.drop_replies(1, produces(5000))
            put(options, "chats", b"a")
            assert proxy.dropped == 1
            assert get(client(server), "chats") == [b"a", b"a"]
            proxy.drop_requests(2, produces(5000))
            put(options, "chats", b"b")
            assert proxy.dropped_requests == 2
            put({**options, "enable.idempotence": True}, "chats", b"c")
            proxy.drop_replies(2, produces(5000))
            put({**options, "enable.idempotence": True}, "chats", b"d")
            assert proxy.dropped == 3
            assert get(client(server), "chats") == [b"a", b"a", b"b", b"c", b"d"]
            for hurt in (proxy.silence, proxy.refuse):
                hurt()
                with pytest.raises(KafkaException):
                    put(options, "chats", b"lost", 0.5)
                hurt(False)
            assert server.ready()


def test_a_killed_leader_is_replaced_and_comes_back_with_its_data(cluster: KafkaCluster) -> None:
    one = cluster.members[0].server
    create(one, "chats", 3)
    options = {"bootstrap.servers": cluster.url.removeprefix("kafka://"), **QUIET}
    put(options, "chats", b"one")
    first = cluster.leader("chats")
    assert first is not None
    assert first.proxy.connections > 0
    first.server.kill()
    put(options, "chats", b"two", 20)
    second = cluster.leader("chats")
    assert second not in (None, first)
    first.server.start()
    assert get(options, "chats") == [b"one", b"two"]
    wait_until("it has it all", lambda: b"two" in first.server.segments("chats")[-1].read_bytes())


def test_the_environment_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATSTORES_TEST_KAFKA_URL", "kafka://elsewhere")
    with kafka_server() as given:
        assert given == GivenServer("kafka://elsewhere")


def test_what_is_missing_skips_or_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CHATSTORES_SERVERS", str(tmp_path))
    monkeypatch.delenv("CHATSTORES_TEST_STRICT", raising=False)
    with pytest.raises(pytest.skip.Exception, match="tests/servers/install kafka"):
        KafkaServer().start()
    monkeypatch.setenv("CHATSTORES_TEST_STRICT", "1")
    with pytest.raises(pytest.fail.Exception, match="tests/servers/install kafka"):
        KafkaServer().start()
