"""How commands reach a Redis server: one request and its replies, blocking or awaiting.

Connections are redis-py's own, made as its client would make them, but held here: what a client
does around each command (a pool's check-out, retries of writes) costs a fifth of a command's time,
and its retries would do a write twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Self

from chatstores.registry import missing
from chatstores.retry import NotDone
from chatstores.transport import AsyncTransport, SyncTransport
from chatstores_redis.scripts import Script

try:
    from redis.exceptions import (
        BusyLoadingError,
        ClusterDownError,
        NoScriptError,
        OutOfMemoryError,
        ReadOnlyError,
        RedisError,
        ResponseError,
        TryAgainError,
    )
except ImportError as exc:
    raise missing("redis", "redis") from exc

try:
    import hiredis
except ImportError:
    hiredis = None  # type: ignore[assignment]

__all__ = ["AsyncRedis", "Connections", "SyncRedis"]

Request = tuple[Any, ...]

#: Error replies that say: the server did nothing, and may do it later. Some have no class.
_LATER = (BusyLoadingError, ClusterDownError, OutOfMemoryError, ReadOnlyError, TryAgainError)
_LATER_TEXTS = ("BUSY ", "MISCONF", "NOREPLICAS")


class Connections:
    """Idle connections of one kind, all of them connected and sound; and how to make more.

    Args:
        connection_class: redis-py's, sync or async.
        options: what it is made with.
        retry: redis-py's retry that never tries again.
        limit: how many an event loop may use at once; more callers wait their turn.
    """

    def __init__(
        self, connection_class: Any, options: dict[str, Any], retry: Any, limit: int
    ) -> None:
        self._class = connection_class
        self._options = options
        self._retry = retry
        self._idle: list[Any] = []
        self.limit = limit

    def take(self) -> Any | None:
        """A connected connection, or None."""
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def make(self, seconds: float | None) -> Any:
        """A connection that is not connected yet and waits so long for an answer."""
        timeouts = {"socket_timeout": seconds, "socket_connect_timeout": seconds}
        return self._class(**{**self._options, **timeouts, "retry": self._retry})

    def give_back(self, connection: Any) -> None:
        """Keep a sound connection for the next caller."""
        self._idle.append(connection)

    def take_all(self) -> list[Any]:
        """Every idle connection, to close them."""
        idle, self._idle = self._idle, []
        return idle


def _by_name(script: Script, bucket: bytes, arguments: Sequence[Any]) -> Request:
    return (b"EVALSHA", script.sha, b"1", bucket, *arguments)


def _by_text(script: Script, bucket: bytes, arguments: Sequence[Any]) -> Request:
    return (b"EVAL", script.text, b"1", bucket, *arguments)


def _all_by_name(
    script: Script, buckets: Sequence[bytes], arguments: Sequence[Any]
) -> list[Request]:
    load = (b"SCRIPT", b"LOAD", script.text)
    return [load, *(_by_name(script, bucket, arguments) for bucket in buckets)]


def _packed(connection: Any, requests: list[Request]) -> Any:
    """Requests as bytes; hiredis alone is three times as fast as through redis-py."""
    if hiredis is None:
        return connection.pack_commands(requests)
    return list(map(hiredis.pack_command, requests))


def _checked(replies: list[Any]) -> list[Any]:
    """The replies, if none of them is an error."""
    for reply in replies:
        if isinstance(reply, RedisError):
            if isinstance(reply, _LATER) or str(reply).startswith(_LATER_TEXTS):
                raise NotDone from reply
            raise reply
    return replies


class SyncRedis(SyncTransport):
    """Blocks until the reply is there.

    Args:
        connections: where connections come from.
        full: the seconds of a first attempt.
        seconds: those of this attempt. A shorter one goes over a connection of its own.
    """

    def __init__(self, connections: Connections, full: float, seconds: float | None = None) -> None:
        self._connections = connections
        self._full = full
        self._seconds = full if seconds is None else seconds

    def within(self, seconds: float) -> Self:
        """The same transport, for an attempt that has so many seconds."""
        if seconds > 0.9 * self._full:
            return self
        return type(self)(self._connections, self._full, seconds)

    async def script(self, script: Script, bucket: bytes, *arguments: Any) -> Any:
        """A script's answer."""
        try:
            return self._exchange([_by_name(script, bucket, arguments)])[0]
        except NoScriptError:  # a new server, or one that restarted
            return self._exchange([_by_text(script, bucket, arguments)])[0]

    async def scripts(self, script: Script, buckets: Sequence[bytes], *arguments: Any) -> list[Any]:
        """A script's answers for many buckets, asked for in one request."""
        return self._exchange(_all_by_name(script, buckets, arguments))[1:]

    async def command(self, *arguments: Any) -> Any:
        """A plain command's reply."""
        return self._exchange([arguments])[0]

    def _exchange(self, requests: list[Request]) -> list[Any]:
        kept = self._seconds == self._full
        connection = (self._connections.take() if kept else None) or self._connect()
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
            for other in (connection, *self._connections.take_all()):
                other.disconnect()
            raise
        if kept:
            self._connections.give_back(connection)
        else:
            connection.disconnect()
        return _checked(replies)

    def _connect(self) -> Any:
        connection = self._connections.make(self._seconds)
        try:
            connection.connect()
        except (RedisError, OSError) as exc:
            raise NotDone from exc
        return connection

    async def close(self) -> None:
        """Close the idle connections."""
        for connection in self._connections.take_all():
            connection.disconnect()


class AsyncRedis(AsyncTransport):
    """Awaits the reply. The arguments are those of SyncRedis."""

    def __init__(
        self,
        connections: Connections,
        seconds: float,
        turns: asyncio.Semaphore | None = None,
    ) -> None:
        super().__init__()
        self._connections = connections
        self._seconds = seconds
        self._turns = turns or asyncio.Semaphore(connections.limit)

    def within(self, seconds: float) -> Self:
        """The same transport, for an attempt that has so many seconds."""
        return type(self)(self._connections, seconds, self._turns)

    async def script(self, script: Script, bucket: bytes, *arguments: Any) -> Any:
        """A script's answer."""
        try:
            return (await self._exchange([_by_name(script, bucket, arguments)]))[0]
        except NoScriptError:  # a new server, or one that restarted
            return (await self._exchange([_by_text(script, bucket, arguments)]))[0]

    async def scripts(self, script: Script, buckets: Sequence[bytes], *arguments: Any) -> list[Any]:
        """A script's answers for many buckets, asked for in one request."""
        return (await self._exchange(_all_by_name(script, buckets, arguments)))[1:]

    async def command(self, *arguments: Any) -> Any:
        """A plain command's reply."""
        return (await self._exchange([arguments]))[0]

    async def _exchange(self, requests: list[Request]) -> list[Any]:
        sent = False
        replies: list[Any] = []
        try:
            async with asyncio.timeout(self._seconds), self._turns:
                connection = self._connections.take() or await self._connect()
                try:
                    packed = _packed(connection, requests)
                    sent = True
                    await connection.send_packed_command(packed, check_health=False)
                    for _ in requests:
                        try:
                            replies.append(await connection.read_response())
                        except (ResponseError, BusyLoadingError) as exc:
                            replies.append(exc)
                except BaseException:
                    for other in (connection, *self._connections.take_all()):
                        await other.disconnect(nowait=True)
                    raise
                self._connections.give_back(connection)
        except TimeoutError as exc:
            if not sent:
                raise NotDone from exc
            raise
        return _checked(replies)

    async def _connect(self) -> Any:
        # Without timeouts of its own: each would cost a timer a call, and there is one around all.
        connection = self._connections.make(None)
        try:
            await connection.connect()
        except (RedisError, OSError) as exc:
            await connection.disconnect(nowait=True)
            raise NotDone from exc
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    async def close(self) -> None:
        """Close the idle connections."""
        await super().close()
        for connection in self._connections.take_all():
            await connection.disconnect()
