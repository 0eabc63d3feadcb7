"""The file of LlamaIndex's SimpleChatStore: one JSON object that holds every session."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import IO, Any

from pydantic_core import to_json

from chatstores import llama_index_format
from chatstores.codec import encode
from chatstores.errors import CorruptSnapshotError, InvalidMessageError
from chatstores.message import ChatMessage
from chatstores.operations import Operations
from chatstores.snapshot.formats import Session, Writer, too_large
from chatstores.state import Record, Restore, Snapshot, now_us

__all__ = ["LlamaIndexWriter", "read", "read_json"]

_BOM = b"\xef\xbb\xbf"
#: So many bytes tell whether a file may be JSON at all, before it is read whole.
_BEGIN_BYTES = 64


class LlamaIndexWriter(Writer):
    """Writes the file of LlamaIndex's SimpleChatStore."""

    def __init__(self, *, skip_corrupt: bool) -> None:
        super().__init__(skip_corrupt=skip_corrupt)
        self._separator = b""

    def begin(self) -> bytes:
        """What stands before the sessions."""
        return b'{"store":{'

    def session(self, key: str, snapshot: Snapshot) -> Iterator[bytes]:
        """A key and a list of messages."""
        yield b"%b%b:[" % (self._separator, to_json(key))
        self._separator = b","
        separator = b""
        for index, _, message in self.messages(key, snapshot):
            yield separator + self._message(key, index, message)
            separator = b","
        yield b"]"
        self.sessions_written += 1

    def end(self) -> bytes:
        """What stands after the sessions."""
        return b'},"class_name":"SimpleChatStore"}'

    def _message(self, key: str, index: int, message: ChatMessage) -> bytes:
        for kind in llama_index_format.left_out(message):
            self.warnings.append(
                f"left out: a block of message {index} of session {key!r}: LlamaIndex has no type "
                f"{kind!r:.80}"
            )
        try:
            return to_json(llama_index_format.to_llama_index(message))
        except ValueError as exc:
            raise InvalidMessageError(f"message {index} of session {key!r}: {exc}") from exc


def read(name: str, file: IO[bytes], limit: int, ttl: int | None) -> list[Session]:
    """The sessions of a file: JSON, or JSON in a JSON string, as some wrote it.

    Args:
        name: the file's name.
        file: the file, at its beginning.
        limit: the largest message that the store takes, in bytes.
        ttl: how long the sessions live, in microseconds, or None for ever.

    Raises:
        CorruptSnapshotError: it is no such file.
        InvalidKeyError: a key is none that a store takes.
        InvalidMessageError: a message cannot be stored.
        MessageTooLargeError: a message is larger than the limit.
    """
    sessions = read_json(name, file)
    now = now_us()
    found = []
    for key, messages in sessions.items():
        Operations._check_key(key)
        if not isinstance(messages, list):
            raise CorruptSnapshotError(f"{name!r}: session {key!r} is no list of messages")
        records = [
            _record(name, f"message {index} of session {key!r}", wire)
            for index, wire in enumerate(messages)
        ]
        restore = Restore(records, b"{}", b"{}", now, now, ttl)
        session = Session(key, restore, exact=False)
        if larger := too_large(session, limit):
            raise larger
        found.append(session)
    return found


def read_json(name: str, file: IO[bytes]) -> dict[str, Any]:
    """The file's JSON: by key, what should be a list of messages.

    Raises:
        CorruptSnapshotError: it is no such file.
    """
    begin = file.read(_BEGIN_BYTES)
    if not begin:
        raise CorruptSnapshotError(f"{name!r} is empty")
    if begin.removeprefix(_BOM).lstrip()[:1] not in (b"{", b'"', b""):
        raise _foreign(name)
    text = (begin + file.read()).removeprefix(_BOM)
    try:
        value = json.loads(text)
        if isinstance(value, str):
            value = json.loads(value)
    except (ValueError, RecursionError) as exc:
        raise _foreign(name) from exc
    sessions = value.get("store") if isinstance(value, dict) else None
    if not isinstance(sessions, dict):
        raise _foreign(name)
    return sessions


def _foreign(name: str) -> CorruptSnapshotError:
    return CorruptSnapshotError(
        f"{name!r} is neither a snapshot of chatstores nor a file of LlamaIndex's SimpleChatStore, "
        "or its beginning is damaged"
    )


def _record(name: str, where: str, wire: Any) -> Record:
    try:
        message = llama_index_format.from_llama_index(wire)
    except ValueError as exc:
        raise CorruptSnapshotError(f"{name!r}: {where} is none of LlamaIndex's: {exc}") from exc
    try:
        return Record(message.id, encode(message))
    except InvalidMessageError as exc:
        raise InvalidMessageError(f"{where}: {exc}") from exc
