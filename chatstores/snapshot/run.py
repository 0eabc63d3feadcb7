"""The two coroutines: from a store to a file, and from a file to a store."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import partial
from typing import IO, Any

from chatstores.codec import Unreadable, decode, decode_metadata
from chatstores.errors import (
    ConflictError,
    CorruptSnapshotError,
    InvalidArgumentError,
    SessionExistsError,
)
from chatstores.message import ChatMessage
from chatstores.operations import Operations
from chatstores.snapshot import lines, llama_index
from chatstores.snapshot.file import Output, Source
from chatstores.snapshot.formats import STORES, Session, Writer
from chatstores.state import Head, Snapshot
from chatstores.transport import Transport

__all__ = ["Tally", "load", "persist"]

_WRITERS: dict[str, type[Writer]] = {
    "chatstores": lines.LinesWriter,
    "llama_index": llama_index.LlamaIndexWriter,
}
_KEYS_A_PAGE = 1000
#: How many existing sessions SessionExistsError names.
_NAMED = 20


class Tally:
    """What a run has done so far; ``step`` is called after each session.

    Attributes:
        checked: sessions of the file that were read to check it (by ``load``).
        sessions: sessions written or restored.
        messages: their messages.
        there: sessions that stood already and stay as they are (by ``load``).
    """

    def __init__(self) -> None:
        self.checked = 0
        self.sessions = 0
        self.messages = 0
        self.there = 0

    def step(self) -> None:
        """Nothing; who shows the progress overrides it."""


async def persist(
    store: Operations, t: Transport, path: Any, format: str, tally: Tally | None = None
) -> None:
    """Write every session of a store's namespace to a file, which is replaced when all is written.

    A new file is for its owner only (mode 0600); a former one's mode is kept if it has the same
    owner and group.

    Args:
        store: the store.
        t: its transport, sync or async.
        path: the file.
        format: "chatstores" or "llama_index".
        tally: counts what was written.

    Raises:
        InvalidArgumentError: the format is unknown, or the path is no place for a file.
        PermissionDeniedError: the file may not be written.
        CorruptRecordError: a record is not readable, and ``on_corrupt`` is "raise".
        InvalidMessageError: LlamaIndex has no role as a message has.
        ChatStoreError: the disk is full or broken.
    """
    _check_choice("format", format, _WRITERS)
    writer = _WRITERS[format](skip_corrupt=store._on_corrupt == "skip")
    output = Output(path)
    tally = tally or Tally()
    try:
        await t.offload(output.open)
        await t.offload(output.write, [writer.begin()])
        after: str | None = None
        while True:
            page = await store._run(t, store._list, "", after, _KEYS_A_PAGE)
            for key in page.keys:
                snapshot = await store._run(t, store._snapshot, key, None, None)
                if snapshot is not None:
                    await t.offload(output.write, writer.session(key, snapshot))
                    _warn(writer.warnings)
                    tally.sessions = writer.sessions_written
                    tally.messages = writer.messages_written
                    tally.step()
            after = page.after
            if after is None:
                break
        await t.offload(output.write, [writer.end()])
        await t.offload(output.commit)
    finally:
        output.discard()


async def load(
    store: Operations,
    t: Transport,
    path: Any,
    on_existing: str,
    tally: Tally | None = None,
    *,
    resume: bool = False,
) -> None:
    """Restore every session of a file, after reading it once to its end.

    Args:
        store: the store.
        t: its transport, sync or async.
        path: a file that ``persist`` wrote, or LlamaIndex's SimpleChatStore, compressed or not.
        on_existing: "error", "replace" or "skip". A load that was interrupted is finished with
            "skip"; one with "replace", by running it again.
        tally: counts what was checked and restored.
        resume: with "error": whether a session that is in the store as it is in the file is no
            error but passed over, so that the same call finishes a load that was interrupted.

    Raises:
        InvalidArgumentError: there is no such file, it is none, or ``on_existing`` is unknown.
        PermissionDeniedError: the file may not be read.
        CorruptSnapshotError: the file is truncated, altered, or no snapshot; nothing was written
            (unless it was altered while it was loaded: the text says so).
        InvalidKeyError: a key in a file of LlamaIndex's is none that a store takes.
        InvalidMessageError: a message in a file of LlamaIndex's cannot be stored.
        MessageTooLargeError: a message is larger than this store takes; nothing was written.
        SessionExistsError: sessions are there already, and ``on_existing`` is "error".
        ChatStoreError: the disk is broken.
    """
    _check_choice("on_existing", on_existing, ("error", "replace", "skip"))
    limit = store.capabilities.max_message_bytes
    source = Source(path, partial(_parse, limit=limit, ttl=store._ttl_us))
    tally = tally or Tally()
    try:
        await t.offload(source.open)
        look = on_existing == "error" and await _holds_any(store, t)
        await _check(store, t, source, tally, look, resume)
        await t.offload(source.rewind)
        while sessions := await t.offload(source.read):
            for session in sessions:
                if await _restore(store, t, session, on_existing, resume=look and resume):
                    tally.sessions += 1
                    tally.messages += len(session.restore.records)
                else:
                    tally.there += 1
                tally.step()
    finally:
        source.close()


def _parse(
    name: str, file: IO[bytes], *, limit: int, ttl: int | None
) -> Iterator[Session] | list[Session]:
    """The sessions of a file in whatever format."""
    begin = file.read(len(lines.HEADER))
    file.seek(0)
    if begin == lines.HEADER:
        return lines.read(name, file, limit)
    if begin.startswith(STORES):
        raise CorruptSnapshotError(
            f"{name!r} is no snapshot but a file of a json:// store: open that store by its URL "
            "and persist() it to another file"
        )
    return llama_index.read(name, file, limit, ttl)


async def _check(
    store: Operations, t: Transport, source: Source, tally: Tally, look: bool, resume: bool
) -> None:
    """Read the file to its end and, if asked to, look for its sessions in the store."""
    existing: list[str] = []
    while sessions := await t.offload(source.read):
        for session in sessions:
            if (
                look
                and len(existing) < _NAMED
                and await _is_there(store, t, session.key)
                and not (resume and await _is_same(store, t, session))
            ):
                existing.append(session.key)
            tally.checked += 1
            tally.step()
    if existing:
        raise SessionExistsError(existing)


async def _is_there(store: Operations, t: Transport, key: str) -> bool:
    head: Head | None = await store._run(t, store._head, key)
    return head is not None


async def _is_same(store: Operations, t: Transport, session: Session) -> bool:
    """Whether a session is in the store as it is in the file, but for what was made up."""
    found: Snapshot | None = await store._run(t, store._snapshot, session.key, None, None)
    if found is None:
        return False
    head, restore = found.head, session.restore
    stored, given = [row[1] for row in found.rows], [r.payload for r in restore.records]
    times = (head.created_at, head.updated_at) == (restore.created_at, restore.updated_at)
    if len(stored) != len(given) or (session.exact and not times):
        return False
    try:
        if decode_metadata(head.metadata) != decode_metadata(restore.metadata):
            return False
        return stored == given or [
            _content(message, exact=session.exact) for message in decode(stored)
        ] == [_content(message, exact=session.exact) for message in decode(given)]
    except Unreadable:
        return False


def _content(message: ChatMessage, *, exact: bool) -> dict[str, Any]:
    """What two messages are compared by."""
    fields = dict(message)
    return fields if exact else fields | {"id": None, "created_at": None}


async def _holds_any(store: Operations, t: Transport) -> bool:
    after: str | None = None
    while True:
        page = await store._run(t, store._list, "", after, 1)
        after = page.after
        if page.keys or after is None:
            return bool(page.keys)


async def _restore(
    store: Operations, t: Transport, session: Session, on_existing: str, *, resume: bool
) -> bool:
    """Whether the session was restored; if not, one of its key is there and stays."""
    if on_existing == "replace":
        await store._do(t, session.key, session.restore, None)
        return True
    if (resume or on_existing == "skip") and await _is_there(store, t, session.key):
        if resume and not await _is_same(store, t, session):  # it came since it was looked for
            raise SessionExistsError([session.key])
        return False
    try:
        await store._do(t, session.key, session.restore, 0)
    except ConflictError as exc:  # it came since it was looked for
        if on_existing == "error":
            raise SessionExistsError([session.key]) from exc
        return False
    return True


def _check_choice(name: str, value: Any, choices: Any) -> None:
    if not isinstance(value, str) or value not in choices:
        known = " or ".join(f'"{choice}"' for choice in choices)
        raise InvalidArgumentError(f"{name} must be {known}, not {value!r:.80}")


def _warn(texts: list[str]) -> None:
    for text in texts:
        warnings.warn(text, RuntimeWarning, stacklevel=3)
    texts.clear()
