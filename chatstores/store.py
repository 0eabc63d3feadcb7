"""ChatStore: every public method, sync and async."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import AsyncIterator, Iterator, Sequence
from types import TracebackType
from typing import Any, Literal, Self

from chatstores import snapshot
from chatstores.message import ChatMessage
from chatstores.operations import Operations
from chatstores.state import Delete
from chatstores.transport import run_sync
from chatstores.types import Commit, Page, SessionInfo, SessionPage

__all__ = ["ChatStore"]


class ChatStore(Operations):
    """Chat histories by key, kept in one backend; opened by ``chatstores.open_store``.

    A *session* is the ordered list of messages under one key. One store may be used from threads,
    from coroutines of several event loops and in forked children. Every method has an async twin
    with a leading ``a``. Every write takes ``expected_version``: it is done only if the session is
    at that version (0: not there), and raises ``ConflictError`` otherwise.

    Every method raises ``InvalidKeyError`` for a key that is no text of 1 to 512 UTF-8 bytes
    without NUL, ``BackendUnavailableError`` when the server is silent for ``timeout`` seconds, and
    ``StoreClosedError`` after ``close``; a write raises ``OutcomeUnknownError`` when its answer was
    lost and cannot be learnt.

    Args:
        namespace: which of the sessions in that place are this store's; ``[A-Za-z0-9_.-]``, 1 to
            64 of them.
        ttl: how long a session lives after its last change: seconds, or text such as "7d";
            None: for ever.
        create: whether what the store needs (tables, topics, files) may be created.
        timeout: seconds of silence after which a call ends, all attempts together.
        on_corrupt: "raise", or "skip" to read over records that are not readable, with a warning.
    """

    @property
    def namespace(self) -> str:
        """The namespace of this store's sessions."""
        return self._namespace

    @property
    @abstractmethod
    def url(self) -> str:
        """The URL of this store, without secrets."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r}, namespace={self.namespace!r})"

    # Writing

    def add_message(
        self, key: str, message: ChatMessage, *, expected_version: int | None = None
    ) -> Commit:
        """Add one message at the end of a session; the first makes the session.

        Args:
            key: the session.
            message: the message. One that is there already (its id) is not added again.
            expected_version: the version that the session must have, or None.

        Returns:
            The session's version after it, and how many messages were added (1 or 0).

        Raises:
            InvalidMessageError: it cannot be stored and come back equal, or one of its id is there
                with other content.
            MessageTooLargeError: it is larger than ``capabilities.max_message_bytes``.
            ConflictError: the session is not at ``expected_version``.
        """
        return run_sync(self._add(self._transports.sync(), key, [message], expected_version))

    async def aadd_message(
        self, key: str, message: ChatMessage, *, expected_version: int | None = None
    ) -> Commit:
        """Async `add_message`."""
        t = await self._transports.running()
        return await self._add(t, key, [message], expected_version)

    def add_messages(
        self, key: str, messages: Sequence[ChatMessage], *, expected_version: int | None = None
    ) -> Commit:
        """Add messages at the end of a session: all or none, and nobody else's between.

        Args:
            key: the session.
            messages: the messages. Those that are there already (their ids) are not added again;
                an empty list changes nothing.
            expected_version: the version that the session must have, or None. Not looked at if
                all the messages are there already.

        Returns:
            The session's version after it, and how many messages were added.

        Raises:
            InvalidMessageError: one cannot be stored and come back equal, two have one id, or one
                of an id is there with other content.
            MessageTooLargeError: one is larger than ``capabilities.max_message_bytes``, or all are
                larger than ``capabilities.max_batch_bytes``.
            ConflictError: the session is not at ``expected_version``.
        """
        return run_sync(self._add(self._transports.sync(), key, messages, expected_version))

    async def aadd_messages(
        self, key: str, messages: Sequence[ChatMessage], *, expected_version: int | None = None
    ) -> Commit:
        """Async `add_messages`."""
        return await self._add(await self._transports.running(), key, messages, expected_version)

    def set_messages(
        self, key: str, messages: Sequence[ChatMessage], *, expected_version: int | None = None
    ) -> Commit:
        """Put messages in the place of all that a session holds, in one moment.

        Args:
            key: the session.
            messages: the messages; an empty list makes an empty session.
            expected_version: the version that the session must have, or None.

        Returns:
            The session's version after it, and how many messages it holds.

        Raises:
            InvalidMessageError: one cannot be stored and come back equal, or two have one id.
            MessageTooLargeError: one is larger than ``capabilities.max_message_bytes``.
            ConflictError: the session is not at ``expected_version``.
        """
        return run_sync(self._set(self._transports.sync(), key, messages, expected_version))

    async def aset_messages(
        self, key: str, messages: Sequence[ChatMessage], *, expected_version: int | None = None
    ) -> Commit:
        """Async `set_messages`."""
        return await self._set(await self._transports.running(), key, messages, expected_version)

    def replace_message(
        self, key: str, message: ChatMessage, *, expected_version: int | None = None
    ) -> Commit:
        """Put a message in the place of the one with its id; order and count stay.

        Args:
            key: the session.
            message: the message; its id names the one to replace.
            expected_version: the version that the session must have, or None.

        Returns:
            The session's version after it; ``added`` is 0.

        Raises:
            SessionNotFoundError: there is no session.
            MessageNotFoundError: it holds no message of that id.
            InvalidMessageError: the message cannot be stored and come back equal.
            MessageTooLargeError: it is larger than ``capabilities.max_message_bytes``.
            ConflictError: the session is not at ``expected_version``.
        """
        return run_sync(self._replace(self._transports.sync(), key, message, expected_version))

    async def areplace_message(
        self, key: str, message: ChatMessage, *, expected_version: int | None = None
    ) -> Commit:
        """Async `replace_message`."""
        return await self._replace(await self._transports.running(), key, message, expected_version)

    def delete_last_message(
        self, key: str, *, expected_version: int | None = None
    ) -> ChatMessage | None:
        """Remove the last message. Of concurrent callers, each gets another one.

        Args:
            key: the session.
            expected_version: the version that the session must have, or None.

        Returns:
            The message, or None if there is none.

        Raises:
            CorruptRecordError: the last record is not readable; it stays.
            ConflictError: the session is not at ``expected_version``.
        """
        return run_sync(self._delete_last(self._transports.sync(), key, expected_version))

    async def adelete_last_message(
        self, key: str, *, expected_version: int | None = None
    ) -> ChatMessage | None:
        """Async `delete_last_message`."""
        return await self._delete_last(await self._transports.running(), key, expected_version)

    def delete_message(
        self,
        key: str,
        index: int | None = None,
        *,
        id: str | None = None,
        expected_version: int | None = None,
    ) -> ChatMessage | None:
        """Remove one message, by its index or by its id; the others keep their order.

        Args:
            key: the session.
            index: its index, from 0, or from -1 backwards as in a Python list.
            id: its id; exactly one of the two must be given.
            expected_version: the version that the session must have, or None.

        Returns:
            The message, or None if there is none.

        Raises:
            InvalidArgumentError: both or none of index and id are given, or of a wrong type.
            CorruptRecordError: the record is not readable; it stays.
            ConflictError: the session is not at ``expected_version``.
        """
        t = self._transports.sync()
        return run_sync(self._delete_one(t, key, index, id, expected_version))

    async def adelete_message(
        self,
        key: str,
        index: int | None = None,
        *,
        id: str | None = None,
        expected_version: int | None = None,
    ) -> ChatMessage | None:
        """Async `delete_message`."""
        t = await self._transports.running()
        return await self._delete_one(t, key, index, id, expected_version)

    def delete_oldest(
        self, key: str, n: int, *, expected_version: int | None = None
    ) -> list[ChatMessage]:
        """Remove the oldest messages.

        Args:
            key: the session.
            n: how many at most.
            expected_version: the version that the session must have, or None.

        Returns:
            The removed messages, oldest first.

        Raises:
            InvalidArgumentError: n is no whole number of 0 or more.
            CorruptRecordError: one of the records is not readable; all stay.
            ConflictError: the session is not at ``expected_version``.
        """
        t = self._transports.sync()
        return run_sync(self._delete(t, key, Delete("oldest", n), expected_version))

    async def adelete_oldest(
        self, key: str, n: int, *, expected_version: int | None = None
    ) -> list[ChatMessage]:
        """Async `delete_oldest`."""
        t = await self._transports.running()
        return await self._delete(t, key, Delete("oldest", n), expected_version)

    def delete_after(
        self, key: str, id: str, *, expected_version: int | None = None
    ) -> list[ChatMessage]:
        """Remove what follows a message; the message itself stays.

        Args:
            key: the session.
            id: the message's id.
            expected_version: the version that the session must have, or None.

        Returns:
            The removed messages, oldest first.

        Raises:
            MessageNotFoundError: there is no message of that id.
            CorruptRecordError: one of the records is not readable; all stay.
            ConflictError: the session is not at ``expected_version``.
        """
        t = self._transports.sync()
        return run_sync(self._delete(t, key, Delete("after", id), expected_version))

    async def adelete_after(
        self, key: str, id: str, *, expected_version: int | None = None
    ) -> list[ChatMessage]:
        """Async `delete_after`."""
        t = await self._transports.running()
        return await self._delete(t, key, Delete("after", id), expected_version)

    def delete_messages(self, key: str, *, expected_version: int | None = None) -> int:
        """Remove a session, its metadata included. The key is then as if never written.

        Args:
            key: the session.
            expected_version: the version that the session must have, or None.

        Returns:
            How many messages it held.

        Raises:
            ConflictError: the session is not at ``expected_version``.
        """
        return run_sync(self._clear(self._transports.sync(), key, expected_version))

    async def adelete_messages(self, key: str, *, expected_version: int | None = None) -> int:
        """Async `delete_messages`."""
        return await self._clear(await self._transports.running(), key, expected_version)

    def set_metadata(
        self, key: str, metadata: dict[str, Any], *, expected_version: int | None = None
    ) -> Commit:
        """Replace a session's metadata: a title, tags, what you like.

        Args:
            key: the session.
            metadata: a dict of JSON's types, at most 16 KiB as JSON. Keys that begin with
                "chatstores." are the library's own: they are refused here, and stay.
            expected_version: the version that the session must have, or None.

        Returns:
            The session's version after it; ``added`` is 0.

        Raises:
            SessionNotFoundError: there is no session.
            InvalidMessageError: the metadata cannot be stored and come back equal, or is too large.
            ConflictError: the session is not at ``expected_version``.
        """
        t = self._transports.sync()
        return run_sync(self._set_metadata(t, key, metadata, expected_version))

    async def aset_metadata(
        self, key: str, metadata: dict[str, Any], *, expected_version: int | None = None
    ) -> Commit:
        """Async `set_metadata`."""
        t = await self._transports.running()
        return await self._set_metadata(t, key, metadata, expected_version)

    # Reading

    def get_messages(
        self, key: str, *, last: int | None = None, first: int | None = None
    ) -> list[ChatMessage]:
        """A session's messages, oldest first.

        Args:
            key: the session.
            last: only the last so many; no others leave the server.
            first: only the first so many; not together with ``last``.

        Returns:
            The messages; an empty list if there is no session.

        Raises:
            InvalidArgumentError: last or first is negative, or both are given.
            CorruptRecordError: a record is not readable, and ``on_corrupt`` is "raise".
        """
        return run_sync(self._get(self._transports.sync(), key, last, first))

    async def aget_messages(
        self, key: str, *, last: int | None = None, first: int | None = None
    ) -> list[ChatMessage]:
        """Async `get_messages`."""
        return await self._get(await self._transports.running(), key, last, first)

    def count_messages(self, key: str) -> int:
        """How many messages a session holds; none of them leaves the server.

        Args:
            key: the session.

        Returns:
            The number; 0 if there is no session.
        """
        return run_sync(self._count(self._transports.sync(), key))

    async def acount_messages(self, key: str) -> int:
        """Async `count_messages`."""
        return await self._count(await self._transports.running(), key)

    def get_version(self, key: str) -> int:
        """A session's version, for ``expected_version``.

        Args:
            key: the session.

        Returns:
            The version; 0 if there is no session.
        """
        return run_sync(self._version(self._transports.sync(), key))

    async def aget_version(self, key: str) -> int:
        """Async `get_version`."""
        return await self._version(await self._transports.running(), key)

    def page(self, key: str, *, before: str | None = None, limit: int = 50) -> Page:
        """A part of a session, walking backwards from its end.

        A message that is there throughout the walk comes exactly once, whatever others append,
        pop and delete meanwhile.

        Args:
            key: the session.
            before: the cursor of the last page (``page.before``); None for the session's end.
            limit: how many messages at most.

        Returns:
            The messages, oldest first, and the cursor of the page before them.

        Raises:
            InvalidArgumentError: the cursor is none of ``page``'s, or the limit is below 1.
            StaleCursorError: the session was set or deleted since the walk began.
            CorruptRecordError: a record is not readable, and ``on_corrupt`` is "raise".
        """
        return run_sync(self._page(self._transports.sync(), key, before, limit))

    async def apage(self, key: str, *, before: str | None = None, limit: int = 50) -> Page:
        """Async `page`."""
        return await self._page(await self._transports.running(), key, before, limit)

    def get_session(self, key: str) -> SessionInfo | None:
        """What is known of a session beside its messages.

        Args:
            key: the session.

        Returns:
            Its version, count, times and metadata; None if there is no session.
        """
        return run_sync(self._get_session(self._transports.sync(), key))

    async def aget_session(self, key: str) -> SessionInfo | None:
        """Async `get_session`."""
        return await self._get_session(await self._transports.running(), key)

    # Listing

    def get_keys(self, prefix: str = "") -> list[str]:
        """The keys of all live sessions of this namespace, in byte order (of UTF-8).

        Args:
            prefix: only keys that begin with this text, taken literally.

        Returns:
            The keys.
        """
        return run_sync(self._get_keys(self._transports.sync(), prefix))

    async def aget_keys(self, prefix: str = "") -> list[str]:
        """Async `get_keys`."""
        return await self._get_keys(await self._transports.running(), prefix)

    def iter_keys(self, prefix: str = "", *, page_size: int = 1000) -> Iterator[str]:
        """The same keys, fetched by pages; for namespaces too large for a list.

        Args:
            prefix: only keys that begin with this text, taken literally.
            page_size: how many keys to fetch at a time, about.

        Returns:
            An iterator of the keys.
        """
        after = None
        while True:
            page = run_sync(self._key_page(self._transports.sync(), prefix, after, page_size))
            yield from page.keys
            after = page.after
            if after is None:
                return

    async def aiter_keys(self, prefix: str = "", *, page_size: int = 1000) -> AsyncIterator[str]:
        """Async `iter_keys`."""
        after = None
        while True:
            page = await self._key_page(await self._transports.running(), prefix, after, page_size)
            for key in page.keys:
                yield key
            after = page.after
            if after is None:
                return

    def list_sessions(self, *, limit: int = 50, before: str | None = None) -> SessionPage:
        """Live sessions by their last write, newest first.

        Args:
            limit: how many at most.
            before: the cursor of the last page (``page.before``); None for the newest.

        Returns:
            The sessions, and the cursor of the next page. Each page is in exact order; which
            sessions it holds is decided to the minute if ``capabilities.recency`` says "minute".

        Raises:
            InvalidArgumentError: the cursor is none of ``list_sessions``, or the limit is below 1.
        """
        return run_sync(self._session_page(self._transports.sync(), limit, before))

    async def alist_sessions(self, *, limit: int = 50, before: str | None = None) -> SessionPage:
        """Async `list_sessions`."""
        return await self._session_page(await self._transports.running(), limit, before)

    # Housekeeping

    def purge_expired(self) -> int:
        """Remove what is left of expired sessions; readers do not see them anyway.

        Returns:
            How many sessions were removed.
        """
        t = self._transports.sync()
        return run_sync(self._run(t, self._purge))

    async def apurge_expired(self) -> int:
        """Async `purge_expired`."""
        return await self._run(await self._transports.running(), self._purge)

    def setup(self) -> None:
        """Create what the store needs, if it is missing; safe to call again, and at once.

        Raises:
            NotSetUpError: something is missing and ``create`` is False.
            BackendMismatchError: what is there is not what it must be.
        """
        run_sync(self._run(self._transports.sync(), self._setup))

    async def asetup(self) -> None:
        """Async `setup`."""
        await self._run(await self._transports.running(), self._setup)

    def ping(self) -> None:
        """Return if the store can be used.

        Raises:
            BackendUnavailableError: the server is away or silent.
            AuthenticationError: the server refused the user or password.
        """
        run_sync(self._run(self._transports.sync(), self._ping))

    async def aping(self) -> None:
        """Async `ping`."""
        await self._run(await self._transports.running(), self._ping)

    def persist(
        self,
        path: str | os.PathLike[str],
        *,
        format: Literal["chatstores", "llama_index"] = "chatstores",
    ) -> None:
        """Write every session of this namespace to a snapshot file.

        A new file can be read by its owner only (mode 0600); one that takes a former one's place
        keeps that one's mode, if the owner and group are the same.

        Args:
            path: the file; a former one is replaced when the new one is whole. A name that ends
                in ".gz" is compressed.
            format: "chatstores", which keeps everything, or "llama_index" for a file of
                LlamaIndex's SimpleChatStore. That loses the sessions' metadata, times and ttls,
                the messages' ids, times, metadata and the extras of other providers, and, with a
                warning, blocks that LlamaIndex has no type for.

        Raises:
            InvalidArgumentError: the format is unknown, or the path is no place for a file, or the
                file there is that of a ``json://`` store.
            PermissionDeniedError: the file may not be written.
            CorruptRecordError: a record is not readable, and ``on_corrupt`` is "raise".
            InvalidMessageError: a message has a role that LlamaIndex lacks (only with
                ``format="llama_index"``).
        """
        run_sync(snapshot.persist(self, self._transports.sync(), path, format))

    async def apersist(
        self,
        path: str | os.PathLike[str],
        *,
        format: Literal["chatstores", "llama_index"] = "chatstores",
    ) -> None:
        """Async `persist`."""
        await snapshot.persist(self, await self._transports.running(), path, format)

    def load(
        self,
        path: str | os.PathLike[str],
        *,
        on_existing: Literal["error", "replace", "skip"] = "error",
    ) -> None:
        """Restore every session of a snapshot file. The whole file is checked first.

        What was left of a session's ttl when the file was written counts from the load on;
        sessions of LlamaIndex's file live as long as new ones.

        Args:
            path: a file that ``persist`` wrote, or LlamaIndex's SimpleChatStore; its format is
                recognised.
            on_existing: what to do with sessions that are there already: "error" writes nothing,
                "replace" takes the file's, "skip" keeps the store's. If a load was interrupted,
                finish it with "skip"; one with "replace", by running it with "replace" again.

        Raises:
            InvalidArgumentError: there is no such file, it is a directory or a pipe, or
                ``on_existing`` is unknown.
            PermissionDeniedError: the file may not be read.
            CorruptSnapshotError: the file is truncated, altered, or no snapshot; nothing written,
                unless it was altered while it was loaded (the text says so).
            MessageTooLargeError: a message is larger than ``capabilities.max_message_bytes``;
                nothing written.
            InvalidKeyError: LlamaIndex's file has a key that no store takes; nothing written.
            InvalidMessageError: LlamaIndex's file has a message that cannot be stored; nothing
                written.
            SessionExistsError: a session is there already, and ``on_existing`` is "error".
        """
        run_sync(snapshot.load(self, self._transports.sync(), path, on_existing))

    async def aload(
        self,
        path: str | os.PathLike[str],
        *,
        on_existing: Literal["error", "replace", "skip"] = "error",
    ) -> None:
        """Async `load`."""
        await snapshot.load(self, await self._transports.running(), path, on_existing)

    def close(self) -> None:
        """Close what the store opened, never what it was given; calling it again does nothing."""
        self._transports.close()

    async def aclose(self) -> None:
        """Async `close`."""
        await self._transports.aclose()

    def __enter__(self) -> Self:
        self.ping()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        await self.aping()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()
