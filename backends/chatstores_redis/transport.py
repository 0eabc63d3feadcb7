"""How commands reach a Redis server: one request and its replies, blocking or awaiting.

Connections are redis-py's own, made as its client would make them, but held here: what a client
does around each command (a pool's check-out, retries of writes) costs a fifth of a command's time,
and its retries would do a write twice.
"""

from __future__ import annotations

import asyncio
import copy
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Self

from chatstores.registry import missing
from chatstores.retry import NotDone
from chatstores.transport import AsyncTransport, SyncTransport
from chatstores_redis.scripts import Script
from chatstores_redis.topology import Connections, NoPrimaryError, Topology, fields

try:
    from redis.exceptions import (
        AskError,
        BusyLoadingError,
        ClusterDownError,
        MovedError,
        NoScriptError,
        OutOfMemoryError,
        ReadOnlyError,
        RedisError,
        ResponseError,
        TryAgainError,
    )
    from redis.exceptions import TimeoutError as RedisTimeoutError
except ImportError as exc:
    raise missing("redis", "redis") from exc

try:
    import hiredis
except ImportError:
    hiredis = None  # type: ignore[assignment]

__all__ = [
    "AsyncRedis",
    "ConnectTimeoutError",
    "RedisTransport",
    "SyncRedis",
    "TooFewReplicasError",
    "is_refusal_for_now",
]

Request = tuple[Any, ...]

#: Error replies that say: the server did nothing, and may do it later. Some have no class.
_LATER = (BusyLoadingError, ClusterDownError, OutOfMemoryError, ReadOnlyError, TryAgainError)
_LATER_TEXTS = ("BUSY ", "MISCONF", "NOREPLICAS", "chatstores: what was staged is gone")

# How far an async exchange is.
_WAITS, _CONNECTS, _SENDS = range(3)

#: How often a bucket may turn out to have moved before the attempt ends.
_MOVES = 5


class TooFewReplicasError(RedisError):
    """A write was done, and not enough replicas said in time that they have it."""


class ConnectTimeoutError(RedisTimeoutError):
    """There was no connection in time."""


def _packed(connection: Any, requests: Sequence[Request]) -> Any:
    """Requests as bytes; hiredis alone is three times as fast as through redis-py."""
    if hiredis is None:
        return connection.pack_commands(requests)
    return list(map(hiredis.pack_command, requests))


def _connect_timeout(exc: BaseException) -> ConnectTimeoutError:
    error = ConnectTimeoutError("no connection in time")
    error.__cause__ = exc
    return error


def is_refusal_for_now(exc: BaseException) -> bool:
    """Whether it is a reply that says: nothing was done, and may be later."""
    return isinstance(exc, _LATER) or str(exc).startswith(_LATER_TEXTS)


def _checked(replies: list[Any]) -> list[Any]:
    """The replies, if none of them is an error."""
    for reply in replies:
        if isinstance(reply, RedisError):
            if is_refusal_for_now(reply):
                raise NotDone from reply
            raise reply
    return replies


def _refuse_replica(hello: Any) -> None:
    """Look at HELLO's reply."""
    if fields(hello).get(b"role") != b"master":
        raise NoPrimaryError("the server that Sentinel names is no primary yet")


class RedisTransport:
    """The verbs of the hooks; the two forms differ in ``exchange`` alone."""

    _topology: Topology

    @abstractmethod
    async def exchange(self, connections: Connections, requests: Sequence[Request]) -> list[Any]:
        """Send requests over one connection; their replies, errors among them as values."""

    @abstractmethod
    async def _drop(self, connections: Connections) -> None:
        """Close what is idle."""

    async def script(
        self, script: Script, bucket: bytes, *arguments: Any, replicas: int = 0
    ) -> Any:
        """A script's answer, when so many replicas have what it wrote.

        Args:
            script: the script.
            bucket: the bucket, its first key.
            arguments: its arguments; the first one is the session, in scripts of a session.
            replicas: how many.

        Raises:
            TooFewReplicasError: fewer have it after half of the attempt's time.
        """
        keys = self._topology.keys(bucket, arguments[0] if script.of_session else None)
        requests: list[Request] = [(b"EVALSHA", script.sha, *keys, *arguments)]
        if replicas:
            requests.append((b"WAIT", replicas, int(self.seconds * 500)))  # type: ignore[attr-defined]
        try:
            replies = await self._send(bucket, requests)
        except NoScriptError:  # a new server, or one that restarted
            requests[0] = (b"EVAL", script.text, *keys, *arguments)
            replies = await self._send(bucket, requests)
        if replicas and replies[1] < replicas:
            raise TooFewReplicasError(f"{replies[1]} of {replicas} replicas have the write")
        return replies[0]

    async def scripts(
        self, script: Script, calls: Sequence[tuple[bytes, Sequence[Any]]]
    ) -> list[Any]:
        """A script's answers for many buckets, each with its arguments; one request a server."""
        answers: list[Any] = [None] * len(calls)
        servers: dict[Connections, list[int]] = defaultdict(list)
        for number, (bucket, _) in enumerate(calls):
            servers[await self._server(bucket)].append(number)
        for server, numbers in servers.items():
            requests: list[Request] = [(b"SCRIPT", b"LOAD", script.text)]
            for number in numbers:
                bucket, arguments = calls[number]
                keys = self._topology.keys(bucket, arguments[0] if script.of_session else None)
                requests.append((b"EVALSHA", script.sha, *keys, *arguments))
            replies = await self.exchange(server, requests)
            for number, reply in zip(numbers, replies[1:], strict=True):
                if isinstance(reply, AskError) and self._topology.moves:  # or moved
                    bucket, arguments = calls[number]
                    reply = await self.script(script, bucket, *arguments)
                [answers[number]] = _checked([reply])
        return answers

    async def command(self, bucket: bytes, *arguments: Any) -> Any:
        """The reply to a plain command on a key of a bucket."""
        return (await self._send(bucket, [arguments]))[0]

    async def _server(self, bucket: bytes) -> Connections:
        return self._topology.of(bucket) or await self._topology.learn(self, bucket)  # type: ignore[arg-type]

    async def _send(self, bucket: bytes, requests: Sequence[Request]) -> list[Any]:
        topology = self._topology
        moved = 0
        while True:
            server = topology.of(bucket) or await self._server(bucket)
            try:
                return _checked(await self.exchange(server, requests))
            except MovedError as exc:
                topology.forget()
                moved += 1
                if not topology.moves:
                    raise
                if moved == _MOVES:
                    raise NotDone from exc
            except AskError as exc:
                if not topology.moves:
                    raise
                asking = [part for request in requests for part in ((b"ASKING",), request)]
                server = topology.at((exc.host, exc.port))
                return _checked(await self.exchange(server, asking))[1::2]
            except NotDone:
                # A replica now, or a Cluster that is finding a new primary.
                topology.forget()
                await self._drop(server)
                raise


class SyncRedis(RedisTransport, SyncTransport):
    """Blocks until the reply is there.

    Args:
        topology: which server has what.
        full: the seconds of a first attempt.
        seconds: those of this attempt. A shorter one goes over a connection of its own.
    """

    def __init__(self, topology: Topology, full: float, seconds: float | None = None) -> None:
        self._topology = topology
        self._full = full
        self.seconds = full if seconds is None else seconds

    def within(self, seconds: float) -> Self:
        """The same transport, for an attempt that has so many seconds."""
        if 0.9 * self._full < seconds <= self._full:
            return self
        return type(self)(self._topology, self._full, seconds)

    async def exchange(self, connections: Connections, requests: Sequence[Request]) -> list[Any]:
        """Send requests over one connection; their replies, errors among them as values."""
        kept = self.seconds == self._full
        connection = (connections.take() if kept else None) or self._connect(connections)
        replies: list[Any] = []
        try:
            connection.send_packed_command(_packed(connection, requests), check_health=False)
            for _ in requests:
                try:
                    replies.append(connection.read_response())
                except (ResponseError, BusyLoadingError) as exc:
                    replies.append(exc)
        except BaseException:
            # What is idle was connected to the same server: it is likely as dead.
            connection.disconnect()
            await self._drop(connections)
            self._topology.forget()
            raise
        if kept:
            connections.give_back(connection)
        else:
            connection.disconnect()
        return replies

    def _connect(self, connections: Connections) -> Any:
        connection = connections.make(self.seconds)
        try:
            connection.connect()
            if connections.primary:
                connection.send_command(b"HELLO", check_health=False)
                _refuse_replica(connection.read_response())
        except (RedisError, OSError) as exc:
            connection.disconnect()
            self._topology.forget()
            if isinstance(exc, RedisTimeoutError | TimeoutError):
                raise NotDone from _connect_timeout(exc)
            raise NotDone from exc
        return connection

    async def _drop(self, connections: Connections) -> None:
        for connection in connections.take_all():
            connection.disconnect()

    async def close(self) -> None:
        """Close the idle connections."""
        for connections in self._topology.everything():
            await self._drop(connections)


class AsyncRedis(RedisTransport, AsyncTransport):
    """Awaits the reply.

    Args:
        topology: which server has what.
        seconds: those of an attempt.
        limit: how many may be on their way at once.
    """

    def __init__(self, topology: Topology, seconds: float, limit: int) -> None:
        super().__init__()
        self._topology = topology
        self.seconds = seconds
        self._turns = asyncio.Semaphore(limit)

    def within(self, seconds: float) -> Self:
        """The same transport, for an attempt that has so many seconds."""
        other = copy.copy(self)
        other.seconds = seconds
        return other

    async def exchange(self, connections: Connections, requests: Sequence[Request]) -> list[Any]:
        """Send requests over one connection; their replies, errors among them as values."""
        step = _WAITS
        replies: list[Any] = []
        try:
            async with asyncio.timeout(self.seconds), self._turns:
                connection = connections.take()
                if connection is None:
                    step = _CONNECTS
                    connection = await self._connect(connections)
                try:
                    packed = _packed(connection, requests)
                    step = _SENDS
                    await connection.send_packed_command(packed, check_health=False)
                    for _ in requests:
                        try:
                            replies.append(await connection.read_response())
                        except (ResponseError, BusyLoadingError) as exc:
                            replies.append(exc)
                except BaseException:
                    await connection.disconnect(nowait=True)
                    await self._drop(connections)
                    self._topology.forget()
                    raise
                connections.give_back(connection)
        except TimeoutError as exc:
            if step == _SENDS:
                raise
            self._topology.forget()
            raise NotDone from (_connect_timeout(exc) if step == _CONNECTS else exc)
        return replies

    async def _connect(self, connections: Connections) -> Any:
        # Without timeouts of its own: each would cost a timer a call, and there is one around all.
        connection = connections.make(None)
        try:
            await connection.connect()
            if connections.primary:
                await connection.send_command(b"HELLO", check_health=False)
                _refuse_replica(await connection.read_response())
        except (RedisError, OSError) as exc:
            await connection.disconnect(nowait=True)
            self._topology.forget()
            # Over a socket file redis-py wraps what the server said in a ConnectionError.
            said = exc.__cause__ if isinstance(exc.__cause__, RedisError) else exc
            raise NotDone from said
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    async def _drop(self, connections: Connections) -> None:
        for connection in connections.take_all():
            await connection.disconnect(nowait=True)

    async def close(self) -> None:
        """Close the idle connections."""
        await super().close()
        goodbyes = []
        for connections in self._topology.everything():
            for connection in connections.take_all():
                if connections.tls:  # which ends with words on both sides
                    goodbyes.append(connection.disconnect())
                else:  # before anything is awaited: the loop may end, and leave this where it is
                    await connection.disconnect(nowait=True)
        await asyncio.gather(*goodbyes)
        await asyncio.sleep(0)  # in which asyncio closes the sockets
