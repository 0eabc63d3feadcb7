"""Several Redis servers that fail over: a Cluster, and a primary with a replica under Sentinels.

Each server stands behind a proxy and announces the proxy's address, so that a client, the other
servers and the Sentinels reach it there only, and a test can drop, delay and count.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Self
from urllib.parse import quote

from redis import Redis
from redis.crc import key_slot
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.servers import ServerError, free_port, wait_until
from tests.servers.proxy import Proxy
from tests.servers.redis import RedisServer

__all__ = ["Member", "RedisCluster", "RedisSentinel"]

_SLOTS = 16384
#: Milliseconds after which a server that is silent is taken for dead.
_DEAD_MS = 1000


class _Announced(RedisServer):
    """A server that announces its proxy's address, which is known before it starts."""

    name = "redis"
    proxy: Proxy

    def command(self) -> list[str]:
        """Return the command line."""
        return [*super().command(), *self.announce()]

    def announce(self) -> list[str]:
        """The words of the command line that announce the proxy."""
        port = str(self.proxy.port)
        return ["--replica-announce-ip", "127.0.0.1", "--replica-announce-port", port]


class _Node(_Announced):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.bus = free_port()

    def announce(self) -> list[str]:
        words = ["--cluster-enabled", "yes", "--cluster-node-timeout", str(_DEAD_MS)]
        words += ["--cluster-port", str(self.bus), "--cluster-announce-bus-port", str(self.bus)]
        words += ["--cluster-announce-ip", "127.0.0.1", "--cluster-replica-validity-factor", "0"]
        return [*words, "--cluster-announce-port", str(self.proxy.port)]


class _Sentinel(RedisServer):
    """A Sentinel; its file is its state."""

    def __init__(self, primary: Member, service: str, password: str | None) -> None:
        super().__init__(password=password)
        self._primary = primary
        self._service = service

    def command(self) -> list[str]:
        """Write its file, the first time, and return what to run."""
        file = self.directory / "sentinel.conf"
        port, name = self._primary.proxy.port, self._service
        if not file.exists():
            lines = [f"port {self.port}", f"dir {self.directory}", f"unixsocket {self.socket}"]
            lines += [f"sentinel monitor {name} 127.0.0.1 {port} 2"]
            lines += [f"sentinel down-after-milliseconds {name} {_DEAD_MS}"]
            lines += [f"sentinel failover-timeout {name} 5000"]
            if self._primary.server.password:
                lines += [f"sentinel auth-pass {name} {self._primary.server.password}"]
            if self.password:
                lines += [f"requirepass {self.password}", f"sentinel sentinel-pass {self.password}"]
            file.write_text("\n".join(lines) + "\n")
        return [super().command()[0], str(file), "--sentinel"]


class Member:
    """A server of the set, and the proxy before it."""

    def __init__(self, server: _Announced) -> None:
        self.server = server
        self.proxy = server.proxy = Proxy("127.0.0.1", server.port)

    def client(self) -> Redis:
        """A client of the server itself."""
        return self.server.client()

    @property
    def role(self) -> str:
        """Its role in Redis' words, master or slave; "" while it is away or changes its role."""
        return str(self.replication().get("role", ""))

    @property
    def is_in_step(self) -> bool:
        """Whether it is a replica that has what its primary has."""
        info = self.replication()
        return (
            info.get("role") == "slave"
            and info["master_link_status"] == "up"
            and not info["master_sync_in_progress"]
        )

    def replication(self) -> dict[str, Any]:
        """What it says of replication; nothing while it is away."""
        try:
            with self.client() as client:
                return dict(client.info("replication"))
        except RedisConnectionError:  # Sentinel ends all connections when it changes a role
            return {}


class _Set:
    """Members that start and end together."""

    def __init__(self, members: list[Member]) -> None:
        self.members = members
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Start everything."""
        try:
            for member in self.members:
                self._stack.enter_context(member.proxy)
                self._stack.enter_context(member.server)
            self.join()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop everything."""
        self._stack.close()

    def join(self) -> None:
        """Make the members one set."""

    def fail(self, primary: Member) -> float:
        """Kill a primary, wait until another took over, start it again; how many seconds it took.

        Returns when the killed one is a replica that has everything.
        """
        began = time.monotonic()
        others = [member for member in self.members if member is not primary]
        before = {member.server.port for member in others if member.role == "master"}
        primary.server.kill()

        def promoted() -> bool:
            return any(m.role == "master" and m.server.port not in before for m in others)

        wait_until("a replica took over", promoted, 90)
        seconds = time.monotonic() - began
        primary.server.restart()
        # A Sentinel on a machine that stood still, for being busy, does nothing for 30 s (TILT).
        try:
            wait_until("the killed one is a replica in step", lambda: primary.is_in_step, 180)
        except ServerError as exc:
            raise ServerError("\n".join([str(exc), *self.report()])) from None
        return seconds

    def report(self) -> list[str]:
        """What the members say of replication, and the ends of their logs."""
        lines = []
        for member in self.members:
            lines += [str(member.replication()), *_log_end(member.server)]
        return lines


class RedisCluster(_Set):
    """Three primaries, each with a replica.

    Args:
        password: of every node, or None.
        settings: further words of each node's command line.
    """

    def __init__(self, *, password: str | None = None) -> None:
        super().__init__(
            [Member(_Node(appendfsync="everysec", password=password)) for _ in range(6)]
        )
        self._login = f":{quote(password, safe='')}@" if password else ""

    @property
    def url(self) -> str:
        """The address of two of the nodes."""
        hosts = ",".join(f"127.0.0.1:{member.proxy.port}" for member in self.members[:2])
        return f"redis+cluster://{self._login}{hosts}"

    def primary(self, key: bytes) -> Member:
        """The node that has a key now."""
        port = self._port(key)
        return next(member for member in self.members if member.proxy.port == port)

    def join(self) -> None:
        """Give out the slots, and have every replica follow a primary."""
        primaries, replicas = self.members[:3], self.members[3:]
        share = -(-_SLOTS // 3)
        for number, member in enumerate(primaries):
            with member.client() as client:
                last = min(_SLOTS, (number + 1) * share) - 1
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", number * share, last)
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        with self.members[0].client() as client:
            for other in self.members[1:]:
                node: Any = other.server
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, node.bus)
        wait_until("all nodes know each other", lambda: all(map(self._knows_all, self.members)))
        for primary, replica in zip(primaries, replicas, strict=True):
            with primary.client() as client:
                name = client.execute_command("CLUSTER", "MYID")
            with replica.client() as client:
                client.execute_command("CLUSTER", "REPLICATE", name)
        wait_until("every replica is in step", lambda: all(m.is_in_step for m in replicas))
        wait_until("the Cluster is whole", lambda: all(map(self._is_whole, self.members)))

    def restart(self) -> None:
        """Restart every node with what it had."""
        for member in self.members:
            member.server.restart()
        wait_until("the Cluster is whole", lambda: all(map(self._is_whole, self.members)))

    def move(self, key: bytes) -> Iterator[None]:
        """Move a key's slot to another primary, key by key; between two steps it yields."""
        slot, source = key_slot(key), self.primary(key)
        primaries = [m for m in self.members if m.role == "master"]
        target = next(m for m in primaries if m is not source)
        names = {}
        for member in (source, target):
            with member.client() as client:
                names[member] = client.execute_command("CLUSTER", "MYID")
        with target.client() as there, source.client() as here:
            there.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", names[source])
            here.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", names[target])
            password = source.server.password
            login = ["AUTH", password] if password else []
            while keys := here.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1):
                yield
                port = target.server.port
                words = ["MIGRATE", "127.0.0.1", port, "", 0, 5000, *login, "KEYS", *keys]
                here.execute_command(*words)
            yield
        for member in (target, source, *primaries):
            with member.client() as client:
                client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", names[target])

    def _port(self, key: bytes) -> int:
        slot = key_slot(key)
        for member in self.members:
            try:
                with member.client() as client:
                    ranges: Any = client.execute_command("CLUSTER", "SLOTS")
            except OSError:
                continue
            for first, last, primary, *_ in ranges:
                if first <= slot <= last:
                    return int(primary[1])
        raise ServerError(f"nobody has the slot {slot}")

    def _knows_all(self, member: Member) -> bool:
        with member.client() as client:
            nodes: Any = client.execute_command("CLUSTER", "NODES")
        return nodes.count(b"\n") == len(self.members) and b"handshake" not in nodes

    def _is_whole(self, member: Member) -> bool:
        with member.client() as client:
            info: Any = client.execute_command("CLUSTER", "INFO")
        return b"cluster_state:ok" in info


class RedisSentinel(_Set):
    """A primary and a replica under three Sentinels, which call them "chats".

    Args:
        password: of the servers, or None.
        sentinel_password: of the Sentinels, or None.
    """

    service = "chats"

    def __init__(
        self, *, password: str | None = None, sentinel_password: str | None = None
    ) -> None:
        super().__init__(
            [Member(_Announced(appendfsync="everysec", password=password)) for _ in range(2)]
        )
        self.sentinels = [
            _Sentinel(self.members[0], self.service, sentinel_password) for _ in range(3)
        ]
        self._login = f":{quote(password, safe='')}@" if password else ""

    @property
    def url(self) -> str:
        """The address of the Sentinels and the service; without the Sentinels' password."""
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{self._login}{hosts}/{self.service}"

    def report(self) -> list[str]:
        """What the members and the Sentinels say."""
        return super().report() + [line for one in self.sentinels for line in _log_end(one)]

    @property
    def primary(self) -> Member:
        """The primary now."""
        return next(member for member in self.members if member.role == "master")

    def join(self) -> None:
        """Have the replica follow, and the Sentinels watch."""
        first, second = self.members
        with second.client() as client:
            client.execute_command("REPLICAOF", "127.0.0.1", first.proxy.port)
        wait_until("the replica is in step", lambda: second.is_in_step)
        for sentinel in self.sentinels:
            self._stack.enter_context(sentinel)
        wait_until("the Sentinels know each other and the replica", self._all_known)

    def _all_known(self) -> bool:
        for sentinel in self.sentinels:
            with sentinel.client() as client:
                found: Any = client.execute_command("SENTINEL", "MASTER", self.service)
                if (found[b"num-slaves"], found[b"num-other-sentinels"]) != (b"1", b"2"):
                    return False
        return True


def _log_end(server: RedisServer) -> list[str]:
    return server.log.read_text(errors="replace").splitlines()[-30:]
