"""Our own format: lines of JSON.

A header that names the format; then for each session, in byte order of their keys, a line with its
key, count, times, what is left of its ttl and its metadata, and its messages, one a line, byte for
byte as stored; last a line with the counts and the SHA-256 of all before it. ``left`` is what was
left when the file was written: a session that is restored lives that long from its load on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from typing import IO, Any

from pydantic_core import from_json, to_json

from chatstores.codec import Unreadable, decode, decode_one, encode_metadata
from chatstores.errors import ChatStoreError, CorruptSnapshotError, MessageTooLargeError
from chatstores.operations import Operations
from chatstores.snapshot.formats import DECODED, Session, Writer, too_large
from chatstores.state import Head, Record, Restore, Snapshot, now_us

__all__ = ["HEADER", "LinesWriter", "read"]

#: What a file of this format begins with.
HEADER = b'{"format":"chatstores snapshot","version":'

_VERSION = 1
_SESSION_FIELDS = {"session", "count", "created_at", "updated_at", "left", "metadata", "own"}


class LinesWriter(Writer):
    """Writes our own format."""

    def __init__(self, *, skip_corrupt: bool) -> None:
        super().__init__(skip_corrupt=skip_corrupt)
        self._hash = hashlib.sha256()
        self._last_key = b""

    def begin(self) -> bytes:
        """The header."""
        now = datetime.now(timezone.utc)  # noqa: UP017
        return self._line(b'%b%d,"written_at":%b}' % (HEADER, _VERSION, to_json(now)))

    def session(self, key: str, snapshot: Snapshot) -> Iterator[bytes]:
        """A session's line and those of its messages."""
        head = snapshot.head
        left = None if head.expires_at is None else head.expires_at - now_us()
        if left is not None and left <= 0:
            return  # it has expired since it was listed
        if key.encode() <= self._last_key:
            raise ChatStoreError(f"the store lists its keys out of order: {key!r} came too late")
        payloads = [payload for _, payload, _ in self.messages(key, snapshot)]
        yield self._line(self._session_line(key, head, len(payloads), left))
        for payload in payloads:
            yield self._line(payload)
        self._last_key = key.encode()
        self.sessions_written += 1

    def end(self) -> bytes:
        """The last line."""
        end = _end(self.sessions_written, self.messages_written, self._hash.hexdigest())
        return to_json(end) + b"\n"

    def _session_line(self, key: str, head: Head, count: int, left: int | None) -> bytes:
        fields = to_json(
            {
                "session": key,
                "count": count,
                "created_at": head.created_at,
                "updated_at": head.updated_at,
                "left": left,
            }
        )
        metadata, own = self.metadata(key, head.metadata), self.metadata(key, head.own)
        return b'%b,"metadata":%b,"own":%b}' % (fields[:-1], metadata, own)

    def _line(self, text: bytes) -> bytes:
        # In JSON that is readable a newline is a blank between tokens.
        line = text.replace(b"\r", b" ").replace(b"\n", b" ") + b"\n"
        self._hash.update(line)
        return line


def read(name: str, file: IO[bytes], limit: int) -> Iterator[Session]:
    """The sessions of a file, which at their end is known to be whole.

    Args:
        name: the file's name.
        file: the file, at its beginning.
        limit: the largest message that the store takes, in bytes.

    Raises:
        CorruptSnapshotError: the file is not as it was written.
        MessageTooLargeError: a message is larger than the limit; raised after all sessions, when
            the file is known to be as it was written.
    """
    lines = _Lines(name, file)
    _read_header(lines)
    count = messages = 0
    last_key = b""
    larger: MessageTooLargeError | None = None
    while "end" not in (fields := lines.next_object()):
        session = _read_session(lines, fields)
        if session.key.encode() <= last_key:
            raise lines.error(f"session {session.key!r} is not after the one before it")
        last_key = session.key.encode()
        count += 1
        messages += len(session.restore.records)
        larger = larger or too_large(session, limit)
        yield session
    if fields != _end(count, messages, lines.digest()):
        raise lines.error("the counts or the checksum are others: the file was altered")
    if file.read(1):
        raise lines.error("the file goes on after its last line")
    if larger is not None:
        raise larger


def _end(sessions: int, messages: int, digest: str) -> dict[str, Any]:
    return {"end": {"sessions": sessions, "messages": messages, "sha256": digest}}


class _Lines:
    """The lines of a file: counted, hashed, each whole."""

    def __init__(self, name: str, file: IO[bytes]) -> None:
        self.number = 0
        self._name = name
        self._file = file
        self._line = b""
        self._hash = hashlib.sha256()

    def next(self) -> bytes:
        """The next line; that there is one is what the format says."""
        self._hash.update(self._line)
        self.number += 1
        self._line = self._file.readline()
        if not self._line.endswith(b"\n"):
            raise self.error("the file ends here, before its last line")
        return self._line

    def next_object(self) -> dict[str, Any]:
        """The next line, which must be a JSON object."""
        line = self.next()
        try:
            value = from_json(line)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise self.error("this is not readable: the file was altered")
        return value

    def digest(self) -> str:
        """The SHA-256 of all before the last line that was read."""
        return self._hash.hexdigest()

    def error(self, what: str, number: int | None = None) -> CorruptSnapshotError:
        """An error at a line; None: at the last one that was read."""
        return CorruptSnapshotError(f"{self._name!r}, line {number or self.number}: {what}")


def _read_header(lines: _Lines) -> None:
    version = lines.next_object().get("version")
    if type(version) is not int or version < 1:
        raise lines.error("the header is not readable: the file was altered")
    if version > _VERSION:
        raise lines.error(
            f"the snapshot has format {version}, of a newer version of chatstores; this version "
            f"reads format {_VERSION}: upgrade chatstores"
        )


def _read_session(lines: _Lines, fields: dict[str, Any]) -> Session:
    """The session whose line was read, and its messages."""
    try:
        count, empty = _check_fields(fields)
    except ValueError as exc:
        raise lines.error(f"this is no session: {exc}") from exc
    records: list[Record] = []
    while len(records) < count:
        first = lines.number + 1
        payloads = [lines.next()[:-1] for _ in range(min(DECODED, count - len(records)))]
        records += _records(lines, payloads, first)
    return Session(fields["session"], empty._replace(records=records))


def _check_fields(fields: dict[str, Any]) -> tuple[int, Restore]:
    """How many messages a session has, and the session without them."""
    if fields.keys() != _SESSION_FIELDS:
        raise ValueError("its fields are others")
    Operations._check_key(fields["session"])
    left = fields["left"]
    if left is not None and (type(left) is not int or left < 1):
        raise ValueError("what is left of its ttl is out of range")
    count, created_at, updated_at = numbers = [
        fields[name] for name in ("count", "created_at", "updated_at")
    ]
    for number in numbers:
        if type(number) is not int or not 0 <= number < 2**53:
            raise ValueError("its count or a time is out of range")
    metadata, own = encode_metadata(fields["metadata"]), encode_metadata(fields["own"])
    return count, Restore((), metadata, own, created_at, updated_at, left)


def _records(lines: _Lines, payloads: Sequence[bytes], first: int) -> list[Record]:
    """Stored messages with their ids; ``first`` is the first one's line."""
    try:
        messages = decode(payloads)
    except Unreadable:
        messages = []
        for number, payload in enumerate(payloads, first):
            try:
                messages.append(decode_one(payload))
            except Unreadable as exc:
                raise lines.error(f"the message {exc}", number) from None
    return [Record(m.id, payload) for m, payload in zip(messages, payloads, strict=True)]
