"""What the formats of a file have in common: a writer, and the sessions that a reader finds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from chatstores.codec import Unreadable, decode, decode_metadata, decode_one
from chatstores.errors import CorruptRecordError, MessageTooLargeError
from chatstores.message import ChatMessage
from chatstores.state import Restore, Snapshot

__all__ = ["DECODED", "STORES", "Session", "Writer", "too_large"]

#: Messages are decoded so many at a time.
DECODED = 500
#: What the files of a json:// store begin with. They are no snapshots, and no snapshot may take
#: their place.
STORES = (b'{"format":"chatstores",', b'{"journal":"chatstores",')


class Session(NamedTuple):
    """One session of a file, checked.

    Attributes:
        key: its key.
        restore: the command that puts it into a store.
        exact: whether the file says all of it; if not, ids and times were made up.
    """

    key: str
    restore: Restore
    exact: bool = True


class Writer(ABC):
    """A format: the bytes of a file's beginning, of each session, and of its end.

    Args:
        skip_corrupt: whether records that are not readable become warnings; else they raise.
    """

    def __init__(self, *, skip_corrupt: bool) -> None:
        #: What the caller is told after each step.
        self.warnings: list[str] = []
        #: What was written so far.
        self.sessions_written = 0
        self.messages_written = 0
        self._skip = skip_corrupt

    @abstractmethod
    def begin(self) -> bytes:
        """What stands before the sessions."""

    @abstractmethod
    def session(self, key: str, snapshot: Snapshot) -> Iterator[bytes]:
        """A session."""

    @abstractmethod
    def end(self) -> bytes:
        """What stands after the sessions."""

    def messages(self, key: str, snapshot: Snapshot) -> Iterator[tuple[int, bytes, ChatMessage]]:
        """Index, bytes and message of each that is readable."""
        rows = snapshot.rows
        for start in range(0, len(rows), DECODED):
            payloads = [payload for _, payload in rows[start : start + DECODED]]
            try:
                found: Sequence[ChatMessage | None] = decode(payloads)
            except Unreadable:
                found = [self._try(key, start + i, payload) for i, payload in enumerate(payloads)]
            for index, (payload, message) in enumerate(zip(payloads, found, strict=True), start):
                if message is not None:
                    self.messages_written += 1
                    yield index, payload, message

    def metadata(self, key: str, text: bytes) -> bytes:
        """Metadata, if it is readable."""
        try:
            decode_metadata(text)
        except Unreadable as exc:
            self._refuse(CorruptRecordError(key, None, str(exc)))
            return b"{}"
        return text

    def _try(self, key: str, index: int, payload: bytes) -> ChatMessage | None:
        try:
            return decode_one(payload)
        except Unreadable as exc:
            self._refuse(CorruptRecordError(key, index, str(exc)))
            return None

    def _refuse(self, error: CorruptRecordError) -> None:
        if not self._skip:
            raise error
        self.warnings.append(f"skipped: {error}")


def too_large(session: Session, limit: int) -> MessageTooLargeError | None:
    """The error about a session's first message of more bytes than the limit."""
    for index, record in enumerate(session.restore.records):
        if len(record.payload) > limit:
            where = f"message {index} of session {session.key!r}"
            return MessageTooLargeError(len(record.payload), limit, where)
    return None
