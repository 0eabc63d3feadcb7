"""Kafka for tests: a broker of our own, three of them that fail over, or a given one."""

from __future__ import annotations

import logging
import shutil
import socket
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self
from urllib.parse import quote

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from tests.servers import GivenServer, Scratch, Server, ServerError, find, free_port, wait_until
from tests.servers.certificates import certificates
from tests.servers.jars import java
from tests.servers.proxy import Proxy

__all__ = ["QUIET", "KafkaCluster", "KafkaServer", "Member", "kafka_server", "produces"]

#: The options of a client that prints nothing.
QUIET: dict[str, Any] = {"logger": logging.Logger("silent", logging.CRITICAL + 1), "log_level": 0}

_CLUSTER_ID = "chatstores-tests-00000"
_JVM = ["-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
_LOG4J = """<Configuration>
  <Appenders>
    <Console name="console"><PatternLayout pattern="%d %p %c{1}: %m%n"/></Console>
  </Appenders>
  <Loggers><Root level="WARN"><AppenderRef ref="console"/></Root></Loggers>
</Configuration>
"""
_PROTOCOLS = {"plain": "PLAINTEXT", "sasl": "SASL_PLAINTEXT", "ssl": "SSL"}
#: What a cluster has besides; a leader that is silent is soon replaced.
_CLUSTER_SETTINGS = {
    "broker.heartbeat.interval.ms": "200",
    "broker.session.timeout.ms": "1000",
    "controller.quorum.election.backoff.max.ms": "200",
    "controller.quorum.election.timeout.ms": "500",
    "controller.quorum.fetch.timeout.ms": "700",
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    "transaction.state.log.replication.factor": "3",
}
#: Light, and quick in all that a test would wait for.
_SETTINGS = {
    "auto.create.topics.enable": "false",
    "broker.heartbeat.interval.ms": "300",
    "broker.session.timeout.ms": "1500",
    "default.replication.factor": "1",
    "group.initial.rebalance.delay.ms": "0",
    "log.cleaner.backoff.ms": "200",
    "log.cleaner.dedupe.buffer.size": "8388608",
    "log.initial.task.delay.ms": "200",
    "log.retention.check.interval.ms": "1000",
    "log.segment.delete.delay.ms": "200",
    "offsets.topic.num.partitions": "1",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
}


class KafkaServer(Server):
    """A Kafka broker on 127.0.0.1 that is its own controller (KRaft).

    Its `direct` listener, for the test itself, knows neither a proxy nor security.

    Args:
        advertised: the port of a proxy that clients are told instead of the broker's, or None.
        security: whether clients come in the plain, by SASL with a password (PLAIN or
            SCRAM-SHA-256), or by TLS with a certificate.
        user: the name for SASL.
        password: the password for SASL, without quotation marks.
        acls: whether nobody but the user of `direct`, who has no name, may do anything without an
            ACL. Clients in the plain have no name either.
        settings: further lines of server.properties.
    """

    name = "kafka"
    start_seconds = 60.0

    def __init__(
        self,
        *,
        advertised: int | None = None,
        security: Literal["plain", "sasl", "ssl"] = "plain",
        user: str = "chatstores",
        password: str = "",
        acls: bool = False,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.advertised = advertised
        self.security = security
        self.login = user
        self.password = password
        self.acls = acls
        self.settings = dict(settings or {})
        self.node_id = 1
        self.direct_port = free_port()
        self.controller_port = free_port()
        self.voters = f"1@127.0.0.1:{self.controller_port}"

    @property
    def url(self) -> str:
        """The address for clients, by the proxy where one is advertised, with the password."""
        login = ""
        if self.security == "sasl":
            login = f"{quote(self.login, safe='')}:{quote(self.password, safe='')}@"
        return f"kafka://{login}127.0.0.1:{self.advertised or self.port}"

    @property
    def options(self) -> dict[str, str]:
        """The options of librdkafka that a client needs and the URL does not say."""
        if self.security == "sasl":
            return {"security.protocol": "sasl_plaintext", "sasl.mechanism": "SCRAM-SHA-256"}
        if self.security == "ssl":
            files = certificates()
            return {
                "security.protocol": "ssl",
                "ssl.ca.location": files.ca,
                "ssl.certificate.location": files.client,
                "ssl.key.location": files.client_key,
            }
        return {}

    @property
    def direct(self) -> str:
        """The host and port for the test itself, as the super user."""
        return f"127.0.0.1:{self.direct_port}"

    @property
    def data(self) -> Path:
        """Kafka's own directory."""
        return self.directory / "data"

    def segments(self, topic: str) -> list[Path]:
        """The files that hold a topic's records, newest last; not those that are being removed."""
        files = [file for file in self.data.glob(f"{topic}-*/*.log") if _topic(file) == topic]
        return sorted(files, key=lambda file: file.name)

    def command(self) -> list[str]:
        """Make the data, the first time, and return the command line."""
        log4j = self.write("log4j2.xml", _LOG4J)
        file = self.write("server.properties", _properties(self._settings()))
        if not self.data.exists():
            user = (self.login, self.password) if self.security == "sasl" else None
            shutil.copytree(_formatted(self.node_id, user), self.data)
        run = [*java(self.name), *_JVM, f"-Dlog4j2.configurationFile={log4j}"]
        return [*run, "kafka.Kafka", str(file)]

    def ready(self) -> bool:
        """Say whether it tells which brokers there are, itself among them."""
        try:
            socket.create_connection(("127.0.0.1", self.direct_port), timeout=1).close()
            found = self.client().list_topics(timeout=2)
        except (OSError, KafkaException):
            return False
        return self.node_id in found.brokers

    def client(self) -> AdminClient:
        """An admin client of `direct`."""
        return AdminClient({"bootstrap.servers": self.direct, **QUIET})

    def _settings(self) -> dict[str, str]:
        clients, direct = f"CLIENTS://127.0.0.1:{self.port}", f"DIRECT://{self.direct}"
        controller = f"CONTROLLER://127.0.0.1:{self.controller_port}"
        told = f"CLIENTS://127.0.0.1:{self.advertised or self.port}"
        protocols = f"CLIENTS:{_PROTOCOLS[self.security]},DIRECT:PLAINTEXT,CONTROLLER:PLAINTEXT"
        settings = {
            "process.roles": "broker,controller",
            "node.id": str(self.node_id),
            "log.dirs": str(self.data),
            "listeners": f"{clients},{direct},{controller}",
            "advertised.listeners": f"{told},{direct}",
            "listener.security.protocol.map": protocols,
            "inter.broker.listener.name": "DIRECT",
            "controller.listener.names": "CONTROLLER",
            "controller.quorum.voters": self.voters,
            **_SETTINGS,
        }
        if self.acls:
            settings["authorizer.class.name"] = (
                "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
            )
            settings["super.users"] = "User:ANONYMOUS"
        if self.security == "sasl":
            settings |= self._sasl()
        if self.security == "ssl":
            settings |= self._ssl()
        return {**settings, **self.settings}

    def _sasl(self) -> dict[str, str]:
        prefix, user = "listener.name.clients.", f'user_{self.login}="{self.password}"'
        plain = "org.apache.kafka.common.security.plain.PlainLoginModule"
        scram = "org.apache.kafka.common.security.scram.ScramLoginModule"
        return {
            f"{prefix}sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256",
            f"{prefix}plain.sasl.jaas.config": f"{plain} required {user};",
            f"{prefix}scram-sha-256.sasl.jaas.config": f"{scram} required;",
        }

    def _ssl(self) -> dict[str, str]:
        files, prefix = certificates(), "listener.name.clients.ssl."
        key = load_pem_private_key(Path(files.server_key).read_bytes(), None)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        keystore = self.write("server.pem", pem + Path(files.server).read_text())
        return {
            f"{prefix}client.auth": "required",
            f"{prefix}keystore.type": "PEM",
            f"{prefix}keystore.location": str(keystore),
            f"{prefix}truststore.type": "PEM",
            f"{prefix}truststore.location": files.ca,
        }


class Member(NamedTuple):
    """A broker of a cluster, and the proxy before it."""

    server: KafkaServer
    proxy: Proxy


class KafkaCluster:
    """Three brokers, which are its controllers, each behind a proxy that it advertises.

    A topic has three replicas by default, and a write needs two of them. The brokers do not
    reach each other by the proxies.

    Args:
        settings: further lines of each server.properties.
    """

    def __init__(self, *, settings: Mapping[str, str] | None = None) -> None:
        self.members = []
        for _ in range(3):
            server = KafkaServer(settings={**_CLUSTER_SETTINGS, **(settings or {})})
            proxy = Proxy("127.0.0.1", server.port)
            server.advertised = proxy.port
            self.members.append(Member(server, proxy))
        self._servers = [member.server for member in self.members]
        for node_id, server in enumerate(self._servers, 1):
            server.node_id = node_id
        voters = [f"{one.node_id}@127.0.0.1:{one.controller_port}" for one in self._servers]
        for server in self._servers:
            server.voters = ",".join(voters)
        self._stack = ExitStack()

    @property
    def url(self) -> str:
        """The address of all brokers."""
        return "kafka://" + ",".join(f"127.0.0.1:{member.proxy.port}" for member in self.members)

    @property
    def direct(self) -> str:
        """The hosts and ports for the test itself."""
        return ",".join(server.direct for server in self._servers)

    def leader(self, topic: str, partition: int = 0) -> Member | None:
        """The broker that leads a partition, as those say that are alive; None while none does."""
        admin = AdminClient({"bootstrap.servers": self.direct, **QUIET})
        led_by = admin.list_topics(topic, timeout=10).topics[topic].partitions[partition].leader
        return next((one for one in self.members if one.server.node_id == led_by), None)

    def __enter__(self) -> Self:
        """Start everything."""
        try:
            for member in self.members:
                self._stack.enter_context(member.proxy)
                self._stack.callback(member.server.stop)
            # None answers before a second one is there.
            with ThreadPoolExecutor() as threads:
                list(threads.map(KafkaServer.start, self._servers))
            wait_until(
                "all brokers know each other", lambda: all(map(self._is_whole, self._servers))
            )
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop everything."""
        self._end()

    def _end(self) -> None:
        # The last two could not stop in order, for want of a majority.
        for server in self._servers:
            with suppress(ServerError):
                server.kill()
        self._stack.close()

    def _is_whole(self, server: KafkaServer) -> bool:
        return len(server.client().list_topics(timeout=10).brokers) == len(self._servers)


def produces(timeout_ms: int = 30000) -> bytes:
    """What every Produce request contains, and no other; for `Proxy.drop_replies` and the like.

    Args:
        timeout_ms: the producer's `request.timeout.ms`; its `acks` must be `all`.
    """
    return b"\xff\xff" + timeout_ms.to_bytes(4, "big")


def kafka_server() -> AbstractContextManager[Server | GivenServer]:
    """Find a Kafka for as long as the context lasts; its `url` is what a test needs.

    A test that hurts its server starts a `KafkaServer` of its own.
    """
    return find(KafkaServer)


@cache
def _formatted(node_id: int, user: tuple[str, str] | None) -> Path:
    """The data of a node that was never started, with a user for SCRAM and its password.

    A copy is made faster than the data.
    """
    folder = Scratch("kafka-template").path
    settings = {
        "process.roles": "controller",
        "node.id": str(node_id),
        "log.dirs": str(folder / "data"),
        "listeners": "CONTROLLER://127.0.0.1:1",
        "controller.listener.names": "CONTROLLER",
        "controller.quorum.voters": f"{node_id}@127.0.0.1:1",
    }
    file = folder / "server.properties"
    file.write_text(_properties(settings))
    command = [*java(KafkaServer.name), *_JVM, "kafka.tools.StorageTool", "format"]
    command += ["--config", str(file), "--cluster-id", _CLUSTER_ID]
    if user is not None:
        name, password = user
        command += ["--add-scram", f'SCRAM-SHA-256=[name="{name}",password="{password}"]']
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServerError(f"the storage was not formatted: {done.stdout}{done.stderr}")
    return folder / "data"


def _topic(segment: Path) -> str:
    return segment.parent.name.rpartition("-")[0]


def _properties(settings: Mapping[str, str]) -> str:
    """Settings as Java's properties."""
    lines = [f"{name}={value}\n" for name, value in settings.items()]
    return "".join(lines).replace("\\", "\\\\")
