"""A TCP proxy for tests: it stands before a server, and drops, delays and counts what passes.

It knows no protocol. A request is what a client has sent since the last bytes the
server sent it, and a reply is the first bytes that come back for a request. That is
exact for clients that wait for each answer, as Redis's and PostgreSQL's do.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Self, TypeVar, cast
from urllib.parse import urlsplit

from tests.servers import free_port

__all__ = ["Proxy", "Since"]

_DRAIN_SECONDS = 1.0
_READ_BYTES = 256 << 10

T = TypeVar("T")


class Proxy:
    """A proxy on a free port of 127.0.0.1 before the server at `host` and `port`.

    It runs from the moment it is made until `close`. One thread of its own runs
    everything; every method may be called from any other thread and returns when
    its effect is there.
    """

    host = "127.0.0.1"

    def __init__(self, host: str, port: int) -> None:
        self.port = free_port()
        self.sent = 0
        """Bytes that clients sent and the server was given."""
        self.received = 0
        """Bytes that the server sent and clients were given."""
        self.connections = 0
        """Connections that clients opened."""
        self.dropped = 0
        """Replies that were swallowed: the request was executed and its client not told."""
        self.dropped_requests = 0
        """Requests that were swallowed: the server never had them."""
        self._target = (host, port)
        self._links: set[_Link] = set()
        self._reply_drops = _Drops()
        self._request_drops = _Drops()
        self._read = memoryview(bytearray(_READ_BYTES))
        self._silent = False
        self._delay = 0.0
        self._closed = False
        self._listener = self._bind()
        self._loop = asyncio.new_event_loop()
        self._listen()
        self._thread = threading.Thread(target=self._run, name=f"proxy-{self.port}", daemon=True)
        self._thread.start()

    def url(self, template: str) -> str:
        """Return a server's URL with this proxy's host and port instead of the server's."""
        parts = urlsplit(template)
        login = parts.netloc[: parts.netloc.rfind("@") + 1]
        return parts._replace(netloc=f"{login}{self.host}:{self.port}").geturl()

    def reset_counters(self) -> None:
        """Set every counter to 0."""

        async def reset() -> None:
            self.sent = self.received = self.connections = 0
            self.dropped = self.dropped_requests = 0

        self._call(reset())

    def drop_replies(self, n: int = 1, *matching: bytes) -> None:
        """Swallow the next `n` replies to requests that contain one of `matching`, or to any.

        The server executes the request; then the client's connection is closed.
        A later call replaces an earlier one, and 0 ends it.
        """

        async def arm() -> None:
            self._reply_drops = _Drops(n, matching or (b"",))

        self._call(arm())

    def drop_requests(self, n: int = 1, *matching: bytes) -> None:
        """Swallow the next `n` requests that contain one of `matching`, and close the connections.

        A later call replaces an earlier one, and 0 ends it.
        """

        async def arm() -> None:
            self._request_drops = _Drops(n, matching or (b"",))

        self._call(arm())

    def silence(self, on: bool = True) -> None:
        """Read everything and forward nothing; connections stay open.

        When it ends, the connections that lost something are closed.
        """

        async def switch() -> None:
            self._silent = on
            if not on:
                await self._abort([link for link in self._links if link.lost])

        self._call(switch())

    def refuse(self, on: bool = True) -> None:
        """Refuse new connections and close those there are, until it is called with False."""

        async def switch() -> None:
            if on:
                await self._refuse()
            elif not self._listening:
                self._listen()

        self._call(switch())

    def cut(self) -> int:
        """Close every connection at once; return how many waited for a reply."""

        async def cut() -> int:
            self._accept()
            waiting = sum(link.waits for link in self._links)
            await self._abort(self._links)
            return waiting

        return self._call(cut())

    def delay(self, seconds: float) -> None:
        """Hold back all that the server sends for so long; 0 ends it."""

        async def switch() -> None:
            self._delay = seconds

        self._call(switch())

    def close(self) -> None:
        """Close every connection and end the thread; nothing happens the second time."""
        if self._closed:
            return
        self._closed = True

        async def stop() -> None:
            await self._refuse()
            self._listener.close()
            await self._loop.shutdown_default_executor()

        self._call(stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def __enter__(self) -> Self:
        """Return the proxy, which runs already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the proxy."""
        self.close()

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` in the proxy's thread, where all its state is changed."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _bind(self) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setblocking(False)
        listener.bind((self.host, self.port))
        return listener

    def _listen(self) -> None:
        self._listening = True
        self._listener.listen(1024)
        self._loop.add_reader(self._listener, self._accept)

    async def _refuse(self) -> None:
        if self._listening:
            self._accept()
            self._listening = False
            self._loop.remove_reader(self._listener)
            self._listener.close()
            # Bound and not listening, so that nobody else gets the port.
            self._listener = self._bind()
            await self._abort(self._links)

    def _accept(self) -> None:
        """Take every connection that waits at the listening socket."""
        while self._listening:
            try:
                client, _ = self._listener.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue
            self.connections += 1
            client.setblocking(False)
            # An answer in two parts would wait 40 ms for the client's delayed acknowledgment.
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._links.add(_Link(self, self._loop, client))

    async def _abort(self, links: Iterable[_Link]) -> None:
        """Close links, and return when their sockets are closed."""
        links = list(links)
        for link in links:
            link.abort()
        while not self._links.isdisjoint(links):
            await asyncio.sleep(0)


class Since:
    """One of the counters of some proxies, together, from now on."""

    def __init__(self, proxies: Iterable[Proxy], counter: str) -> None:
        self._proxies = list(proxies)
        self._counter = counter
        self._start = self._now()

    @property
    def count(self) -> int:
        """What was counted since then."""
        return self._now() - self._start

    def _now(self) -> int:
        return sum(getattr(proxy, self._counter) for proxy in self._proxies)


@dataclass
class _Drops:
    """How many more requests or replies to drop, and which."""

    left: int = 0
    matching: tuple[bytes, ...] = ()

    def hit(self, request: bytearray, new: int) -> bool:
        """Say whether this one is to be dropped; its last `new` bytes were not seen before."""
        seen = len(request) - new
        if self.left and any(
            request.find(text, max(0, seen - len(text) + 1)) >= 0 for text in self.matching
        ):
            self.left -= 1
            return True
        return False


class _Link:
    """A client's connection, and the connection to the server that is opened for it."""

    def __init__(
        self, proxy: Proxy, loop: asyncio.AbstractEventLoop, accepted: socket.socket
    ) -> None:
        self._proxy = proxy
        self._loop = loop
        self._accepted = accepted
        read = proxy._read
        self._client = _End(read, self._from_client, self._client_opened, self._end_lost)
        self._server = _End(read, self._from_server, lambda: None, self._end_lost)
        self._client.peer, self._server.peer = self._server, self._client
        self._request = bytearray()
        self._early: list[bytes] = []
        self._delayed: deque[bytes] = deque()
        self._due = 0.0
        self._draining = False
        self._closing = False
        self.lost = False
        """Whether something that was read will never be forwarded."""
        self.opening = loop.create_task(self._open())
        self.opening.add_done_callback(self._opened)

    @property
    def waits(self) -> bool:
        """Whether the client has sent a request and has no reply."""
        return bool(self._request or self._delayed)

    def abort(self) -> None:
        """Close both connections now; what is not yet written is lost."""
        self.opening.cancel()
        for end in (self._client, self._server):
            if end.transport is not None:
                end.transport.abort()

    def _close(self) -> None:
        """Close both connections when what was read is written."""
        self._closing = True
        for end in (self._client, self._server):
            if end.transport is not None:
                end.transport.close()

    def _end_lost(self) -> None:
        if not self._closing:
            self.abort()
        self._leave()

    def _leave(self) -> None:
        """Be forgotten by the proxy when nothing of this link is open."""
        if self.opening.done() and self._client.closed and self._server.closed:
            self._proxy._links.discard(self)

    async def _open(self) -> None:
        await self._loop.create_connection(lambda: self._server, *self._proxy._target)
        await self._loop.connect_accepted_socket(lambda: self._client, self._accepted)

    def _opened(self, opening: asyncio.Task[None]) -> None:
        if opening.cancelled() or opening.exception() is not None:
            self._accepted.close()
            self.abort()
            self._leave()

    def _client_opened(self) -> None:
        """Forward what the server said before the client's end was ready."""
        for data in self._early:
            self._from_server(data)

    def _from_client(self, data: bytes) -> None:
        if self._draining:
            return
        if not data:
            self._close()
            return
        self._request += data
        if self._proxy._silent:
            self.lost = True
        elif self._proxy._request_drops.hit(self._request, len(data)):
            self._proxy.dropped_requests += 1
            self.abort()
        else:
            self._proxy.sent += len(data)
            self._server.write(data)

    def _from_server(self, data: bytes) -> None:
        if self._draining:
            if not data:
                self.abort()
        elif self._client.transport is None:
            self._early.append(data)
        elif self._proxy._silent:
            self.lost = True
        elif data and self._request and self._drops_reply():
            self._proxy.dropped += 1
            self._drain()
        else:
            self._request.clear()
            if self._proxy._delay or self._delayed:
                self._forward_later(data)
            else:
                self._forward(data)

    def _drops_reply(self) -> bool:
        return self._proxy._reply_drops.hit(self._request, len(self._request))

    def _forward(self, data: bytes) -> None:
        if not data:
            self._close()
            return
        self._proxy.received += len(data)
        self._client.write(data)

    def _forward_later(self, data: bytes) -> None:
        self._delayed.append(data)
        self._due = max(self._due, self._loop.time() + self._proxy._delay)
        self._loop.call_at(self._due, self._forward_oldest)

    def _forward_oldest(self) -> None:
        data = self._delayed.popleft()
        if self._proxy._silent:
            self.lost = True
        else:
            self._forward(data)

    def _drain(self) -> None:
        """Swallow what the server still sends, and close when it has read all it was sent.

        Closing at once would reset the connection, and the server could lose the end
        of a pipeline that it has not yet read.
        """
        self._draining = True
        self._server.write_eof()
        self._loop.call_later(_DRAIN_SECONDS, self.abort)


class _End(asyncio.BufferedProtocol):
    """One connection of a link; while it cannot write, its peer does not read.

    All of them read into one buffer: a new one for each read would cost more than
    all the rest.
    """

    peer: _End

    def __init__(
        self,
        read: memoryview,
        take: Callable[[bytes], None],
        opened: Callable[[], None],
        lost: Callable[[], None],
    ) -> None:
        self.transport: asyncio.Transport | None = None
        self.closed = True
        self._read = read
        self._take = take
        self._opened = opened
        self._lost = lost

    def write(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)

    def write_eof(self) -> None:
        assert self.transport is not None
        self.transport.write_eof()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.closed = False
        self._opened()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._read

    def buffer_updated(self, nbytes: int) -> None:
        self._take(bytes(self._read[:nbytes]))

    def eof_received(self) -> bool:
        self._take(b"")
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._lost()

    def pause_writing(self) -> None:
        if self.peer.transport is not None:
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.peer.transport is not None:
            self.peer.transport.resume_reading()
