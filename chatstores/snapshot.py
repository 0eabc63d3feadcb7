"""persist and load: every session of a store in one file, between any two backends.

A snapshot is lines of JSON: a header that names the format; then for each session, in byte order
of their keys, a line with its key, count, times, what is left of its ttl and its metadata, and
its messages, one a line, byte for byte as stored; last a line with the counts and the SHA-256 of
all before it. ``left`` counts from the persist: a session that is restored lives that long from
then on.

Over a sync transport nothing here suspends; all work on files goes through ``offload``. Of the
sessions one at a time is in memory (a file of LlamaIndex's is read whole, as LlamaIndex does).
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import json
import os
import stat
import threading
import warnings
import zlib
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from typing import IO, Any, NamedTuple, Protocol

from pydantic_core import from_json, to_json

from chatstores import llama_index_format
from chatstores.codec import (
    Unreadable,
    decode,
    decode_metadata,
    decode_one,
    encode,
    encode_metadata,
)
from chatstores.errors import (
    ChatStoreError,
    ConflictError,
    CorruptRecordError,
    CorruptSnapshotError,
    InvalidArgumentError,
    InvalidMessageError,
    MessageTooLargeError,
    PermissionDeniedError,
    SessionExistsError,
)
from chatstores.message import ChatMessage
from chatstores.operations import Operations
from chatstores.state import Head, Record, Restore, Snapshot, now_us
from chatstores.transport import Transport

__all__ = ["load", "persist"]

_VERSION = 1
_HEADER = b'{"format":"chatstores snapshot","version":'
_GZIP = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"
_SESSION_FIELDS = {"session", "count", "created_at", "updated_at", "left", "metadata", "own"}

_KEYS_A_PAGE = 1000
#: How many existing sessions SessionExistsError names.
_NAMED = 20
#: Small sessions are read together until they hold so many bytes.
_READ_BYTES = 256 * 1024
_BUFFER_BYTES = 1024 * 1024
#: Messages are decoded so many at a time.
_DECODED = 500


class _Session(NamedTuple):
    """One session of a file, checked."""

    key: str
    restore: Restore


async def persist(store: Operations, t: Transport, path: Any, format: str) -> None:
    """Write every session of a store's namespace to a file, which is replaced when all is written.

    A new file is for its owner only (mode 0600); a former one's mode is kept if it has the same
    owner and group.

    Args:
        store: the store.
        t: its transport, sync or async.
        path: the file.
        format: "chatstores" or "llama_index".

    Raises:
        InvalidArgumentError: the format is unknown, or the path is no place for a file.
        PermissionDeniedError: the file may not be written.
        CorruptRecordError: a record is not readable, and ``on_corrupt`` is "raise".
        InvalidMessageError: LlamaIndex has no role as a message has.
        ChatStoreError: the disk is full or broken.
    """
    writers: dict[str, type[_Writer]] = {"chatstores": _LinesWriter, "llama_index": _LlamaWriter}
    _check_choice("format", format, writers)
    writer = writers[format](skip_corrupt=store._on_corrupt == "skip")
    output = _Output(path)
    try:
        await t.offload(output.open)
        await t.offload(output.write, writer.begin())
        after: str | None = None
        while True:
            page = await store._run(t, store._list, "", after, _KEYS_A_PAGE)
            for key in page.keys:
                snapshot = await store._run(t, store._snapshot, key, None, None)
                if snapshot is not None:
                    await t.offload(output.write, writer.session(key, snapshot))
                    _warn(writer.warnings)
            after = page.after
            if after is None:
                break
        await t.offload(output.write, writer.end())
        await t.offload(output.commit)
    finally:
        output.discard()


async def load(store: Operations, t: Transport, path: Any, on_existing: str) -> None:
    """Restore every session of a file, after reading it once to its end.

    Args:
        store: the store.
        t: its transport, sync or async.
        path: a file that ``persist`` wrote, or LlamaIndex's SimpleChatStore, compressed or not.
        on_existing: "error", "replace" or "skip". A load that was interrupted is finished with
            "skip"; one with "replace", by running it again.

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
    source = _Source(path, store.capabilities.max_message_bytes, store._ttl_us)
    try:
        await t.offload(source.open)
        await _check(store, t, source, on_existing)
        await t.offload(source.rewind)
        while sessions := await t.offload(source.read):
            for session in sessions:
                await _restore(store, t, session, on_existing)
    finally:
        source.close()


async def _check(store: Operations, t: Transport, source: _Source, on_existing: str) -> None:
    """Read the file to its end and, for "error", look for its sessions in the store."""
    look = on_existing == "error" and await _holds_any(store, t)
    existing: list[str] = []
    while sessions := await t.offload(source.read):
        for session in sessions if look else ():
            if len(existing) < _NAMED and await _is_there(store, t, session.key):
                existing.append(session.key)
    if existing:
        raise SessionExistsError(existing)


async def _is_there(store: Operations, t: Transport, key: str) -> bool:
    head: Head | None = await store._run(t, store._head, key)
    return head is not None


async def _holds_any(store: Operations, t: Transport) -> bool:
    after: str | None = None
    while True:
        page = await store._run(t, store._list, "", after, 1)
        after = page.after
        if page.keys or after is None:
            return bool(page.keys)


async def _restore(store: Operations, t: Transport, session: _Session, on_existing: str) -> None:
    if on_existing == "replace":
        await store._do(t, session.key, session.restore, None)
        return
    if on_existing == "skip" and await _is_there(store, t, session.key):
        return
    try:
        await store._do(t, session.key, session.restore, 0)
    except ConflictError as exc:  # it came since it was looked for
        if on_existing == "error":
            raise SessionExistsError([session.key]) from exc


def _check_choice(name: str, value: Any, choices: Any) -> None:
    if not isinstance(value, str) or value not in choices:
        known = " or ".join(f'"{choice}"' for choice in choices)
        raise InvalidArgumentError(f"{name} must be {known}, not {value!r:.80}")


def _warn(texts: list[str]) -> None:
    for text in texts:
        warnings.warn(text, RuntimeWarning, stacklevel=3)
    texts.clear()


# Files.


def _file_name(path: Any) -> str:
    try:
        name = os.fspath(path)
    except TypeError:
        name = None
    if not isinstance(name, str) or not name or "\0" in name or not _is_encodable(name):
        raise InvalidArgumentError(
            f"path must be a file's name, a str or a pathlib.Path, not {path!r:.80}"
        )
    return name


def _is_encodable(name: str) -> bool:
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True


@contextlib.contextmanager
def _os_errors(name: str) -> Iterator[None]:
    """What the system says of a file, as errors of ours."""
    try:
        yield
    except ChatStoreError:
        raise
    except FileNotFoundError as exc:
        raise InvalidArgumentError(f"there is no file or directory {exc.filename!r}") from exc
    except IsADirectoryError as exc:
        raise InvalidArgumentError(f"{name!r} is a directory, not a file") from exc
    except NotADirectoryError as exc:
        raise InvalidArgumentError(f"{name!r} goes through a file as if a directory") from exc
    except PermissionError as exc:
        raise PermissionDeniedError(f"no permission for {name!r}") from exc
    except OSError as exc:
        kind: type[ChatStoreError] = ChatStoreError
        if exc.errno == errno.EROFS:
            kind = PermissionDeniedError
        elif exc.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            kind = InvalidArgumentError
        raise kind(f"{name!r}: {exc.strerror or exc}") from exc


class _Output:
    """A file that is written beside its place and put there whole.

    The lock is for async callers: one that was cancelled discards the file while its last step
    may still be running on another thread.
    """

    def __init__(self, path: Any) -> None:
        self._name = _file_name(path)
        self._place = self._name  # where the file is, links followed
        self._temporary = ""
        self._lock = threading.Lock()
        self._over = False
        self._raw: IO[bytes] | None = None
        self._file: IO[bytes] | gzip.GzipFile | None = None

    def open(self) -> None:
        """Make the temporary file."""
        with self._lock, _os_errors(self._name):
            self._refuse_if_over()
            self._place = os.path.realpath(self._name)
            former = self._former()
            directory, base = os.path.split(self._place)
            token = os.urandom(8).hex()
            self._temporary = os.path.join(directory, f".{base[:40]}.{token}.chatstores-tmp")
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            try:
                descriptor = os.open(self._temporary, flags, 0o600)
            except FileNotFoundError as exc:
                raise InvalidArgumentError(f"there is no directory {directory!r}") from exc
            self._raw = self._file = os.fdopen(descriptor, "wb", _BUFFER_BYTES)
            new = os.fstat(descriptor)
            if former and (former.st_uid, former.st_gid) == (new.st_uid, new.st_gid):
                os.fchmod(descriptor, stat.S_IMODE(former.st_mode))
            if self._name.endswith(".gz"):
                self._file = gzip.GzipFile("", "wb", 6, self._raw, mtime=0)

    def write(self, chunks: Iterator[bytes]) -> None:
        """Write what comes; large amounts a step."""
        with self._lock, _os_errors(self._name):
            self._refuse_if_over()
            assert self._file is not None
            for chunk in chunks:
                self._file.write(chunk)

    def commit(self) -> None:
        """Put the file in its place, lasting."""
        with self._lock, _os_errors(self._name):
            self._refuse_if_over()
            assert self._file is not None
            assert self._raw is not None
            if self._file is not self._raw:
                self._file.close()
            self._raw.flush()
            os.fsync(self._raw.fileno())
            self._raw.close()
            os.replace(self._temporary, self._place)
            self._over = True
            _sync_directory(os.path.dirname(self._place))

    def discard(self) -> None:
        """Leave nothing behind, unless the file is in its place."""
        with self._lock:
            if self._over:
                return
            self._over = True
            for file in (self._file, self._raw):
                with contextlib.suppress(OSError):  # a full disk: what is unwritten is not wanted
                    if file is not None:
                        file.close()
            if self._raw is not None:
                with contextlib.suppress(OSError):
                    os.unlink(self._temporary)

    def _former(self) -> os.stat_result | None:
        """What is in the file's place; only a file that may be written may be replaced."""
        try:
            former = os.stat(self._place)
        except FileNotFoundError:
            return None
        _check_regular(self._name, former)
        if not os.access(self._place, os.W_OK):
            raise PermissionDeniedError(f"no permission to write {self._name!r}")
        return former

    def _refuse_if_over(self) -> None:
        if self._over:
            raise ChatStoreError(f"writing {self._name!r} was given up")


def _check_regular(name: str, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise InvalidArgumentError(f"{name!r} is a directory, not a file")
    if not stat.S_ISREG(status.st_mode):
        raise InvalidArgumentError(f"{name!r} is a device, pipe or socket, not a file")


def _sync_directory(name: str) -> None:
    descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as exc:
        if exc.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system without it
            raise
    finally:
        os.close(descriptor)


class _Source:
    """A file that is read twice through one descriptor, and must be the same both times.

    Args:
        path: the file.
        limit: the largest message that the store takes, in bytes.
        ttl: how long the sessions of a file that has no ttl live, in microseconds, or None.
    """

    def __init__(self, path: Any, limit: int, ttl: int | None) -> None:
        self._name = _file_name(path)
        self._limit = limit
        self._ttl = ttl
        self._lock = threading.Lock()
        self._over = False
        self._file: IO[bytes] | None = None
        self._sessions: Iterator[_Session] = iter(())
        self._whole: list[_Session] | None = None  # of a file that is read whole
        self._state: tuple[int, ...] = ()
        self._again = False

    def open(self) -> None:
        """Open the file."""
        with self._lock, self._errors():
            if self._over:
                return
            # O_NONBLOCK: a pipe must not make this wait.
            descriptor = os.open(self._name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                status = os.fstat(descriptor)
                _check_regular(self._name, status)
            except BaseException:
                os.close(descriptor)
                raise
            self._state = _state(status)
            self._file = os.fdopen(descriptor, "rb", _BUFFER_BYTES)
            self._sessions = self._parse()

    def rewind(self) -> None:
        """Begin the second reading."""
        with self._lock, self._errors():
            if self._over:
                return
            self._again = True
            self._sessions = self._parse() if self._whole is None else iter(self._whole)

    def read(self) -> list[_Session]:
        """Some sessions more; none at the end, when all of the file was found whole."""
        with self._lock, self._errors():
            sessions, size = [], 0
            if self._over:
                return []
            for session in self._sessions:
                sessions.append(session)
                size += sum(len(record.payload) for record in session.restore.records)
                if size > _READ_BYTES:
                    break
            self._refuse_if_changed()
            return sessions

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._over = True
            if self._file is not None:
                self._file.close()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        with _os_errors(self._name):
            try:
                yield
            except (EOFError, gzip.BadGzipFile, zlib.error) as exc:
                self._refuse_if_changed()
                raise CorruptSnapshotError(
                    f"{self._name!r} is truncated or altered, as its compression shows"
                ) from exc
            except CorruptSnapshotError:
                self._refuse_if_changed()
                raise

    def _refuse_if_changed(self) -> None:
        if self._file is None:
            return
        if self._whole is None and _state(os.fstat(self._file.fileno())) != self._state:
            done = "the sessions before that are restored" if self._again else "nothing was written"
            raise CorruptSnapshotError(f"{self._name!r} was altered while it was loaded; {done}")

    def _parse(self) -> Iterator[_Session]:
        """The sessions of a file in whatever format."""
        assert self._file is not None
        self._file.seek(0)
        packed = self._file.read(2) == _GZIP
        self._file.seek(0)
        file: IO[bytes] = gzip.GzipFile(fileobj=self._file) if packed else self._file  # type: ignore[assignment]
        begin = file.read(len(_HEADER))
        if begin == _HEADER:
            lines = _Lines(self._name, file, begin)
            return _read_lines(lines, self._limit)
        self._whole = list(self._parse_llama(file, begin))
        return iter(self._whole)

    def _parse_llama(self, file: IO[bytes], begin: bytes) -> Iterator[_Session]:
        if not begin:
            raise CorruptSnapshotError(f"{self._name!r} is empty")
        if begin.removeprefix(_BOM).lstrip()[:1] not in (b"{", b'"', b""):
            raise _foreign(self._name)
        return _read_llama(self._name, begin + file.read(), self._limit, self._ttl)


def _state(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _foreign(name: str) -> CorruptSnapshotError:
    return CorruptSnapshotError(
        f"{name!r} is neither a snapshot of chatstores nor a file of LlamaIndex's SimpleChatStore, "
        "or its beginning is damaged"
    )


# Writing a format.


class _Writer(Protocol):
    """A format: the bytes of a file's beginning, of each session, and of its end."""

    #: What the caller is told after each step.
    warnings: list[str]

    def __init__(self, *, skip_corrupt: bool) -> None: ...

    def begin(self) -> Iterator[bytes]: ...

    def session(self, key: str, snapshot: Snapshot) -> Iterator[bytes]: ...

    def end(self) -> Iterator[bytes]: ...


class _Readable:
    """The readable messages of sessions; the others raise, or become warnings."""

    def __init__(self, *, skip_corrupt: bool) -> None:
        self.warnings: list[str] = []
        self._skip = skip_corrupt

    def messages(self, key: str, snapshot: Snapshot) -> Iterator[tuple[int, bytes, ChatMessage]]:
        """Index, bytes and message of each."""
        rows = snapshot.rows
        for start in range(0, len(rows), _DECODED):
            payloads = [payload for _, payload in rows[start : start + _DECODED]]
            try:
                found: Sequence[ChatMessage | None] = decode(payloads)
            except Unreadable:
                found = [self._try(key, start + i, payload) for i, payload in enumerate(payloads)]
            for index, (payload, message) in enumerate(zip(payloads, found, strict=True), start):
                if message is not None:
                    yield index, payload, message

    def metadata(self, key: str, text: bytes) -> bytes:
        """Metadata, if it is readable."""
        try:
            decode_metadata(text)
        except Unreadable as exc:
            self.refuse(CorruptRecordError(key, None, str(exc)))
            return b"{}"
        return text

    def refuse(self, error: CorruptRecordError) -> None:
        """Raise or warn, as the store was told to."""
        if not self._skip:
            raise error
        self.warnings.append(f"skipped: {error}")

    def _try(self, key: str, index: int, payload: bytes) -> ChatMessage | None:
        try:
            return decode_one(payload)
        except Unreadable as exc:
            self.refuse(CorruptRecordError(key, index, str(exc)))
            return None


class _LinesWriter(_Readable):
    """Our own format."""

    def __init__(self, *, skip_corrupt: bool) -> None:
        super().__init__(skip_corrupt=skip_corrupt)
        self._hash = hashlib.sha256()
        self._sessions = 0
        self._messages = 0
        self._last_key = b""

    def begin(self) -> Iterator[bytes]:
        now = datetime.now(timezone.utc)  # noqa: UP017
        yield self._line(b'%b%d,"written_at":%b}' % (_HEADER, _VERSION, to_json(now)))

    def session(self, key: str, snapshot: Snapshot) -> Iterator[bytes]:
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
        self._sessions += 1
        self._messages += len(payloads)

    def end(self) -> Iterator[bytes]:
        digest = self._hash.hexdigest()
        counts = {"sessions": self._sessions, "messages": self._messages, "sha256": digest}
        yield to_json({"end": counts}) + b"\n"

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


class _LlamaWriter(_Readable):
    """The file of LlamaIndex's SimpleChatStore."""

    def __init__(self, *, skip_corrupt: bool) -> None:
        super().__init__(skip_corrupt=skip_corrupt)
        self._separator = b""

    def begin(self) -> Iterator[bytes]:
        yield b'{"store":{'

    def session(self, key: str, snapshot: Snapshot) -> Iterator[bytes]:
        yield b"%b%b:[" % (self._separator, to_json(key))
        self._separator = b","
        separator = b""
        for index, _, message in self.messages(key, snapshot):
            yield separator + self._message(key, index, message)
            separator = b","
        yield b"]"

    def end(self) -> Iterator[bytes]:
        yield b'},"class_name":"SimpleChatStore"}'

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


# Reading a format.


class _Lines:
    """The lines of a file: counted, hashed, each whole."""

    def __init__(self, name: str, file: IO[bytes], begin: bytes) -> None:
        self.name = name
        self.number = 0
        self._file = file
        self._begin = begin
        self._hash = hashlib.sha256()
        self._digest = ""
        #: Raised at the end, once the file is known to be as it was written.
        self.too_large: MessageTooLargeError | None = None

    def next(self) -> bytes:
        """The next line; that there is one is what the format says."""
        self.number += 1
        line = self._begin + self._file.readline()
        self._begin = b""
        if not line.endswith(b"\n"):
            raise self.error("the file ends here, before its last line")
        self._digest = self._hash.hexdigest()
        self._hash.update(line)
        return line

    def digest(self) -> str:
        """The SHA-256 of all before the last line that was read."""
        return self._digest

    def at_end(self) -> bool:
        """Whether nothing follows."""
        return not self._file.read(1)

    def error(self, what: str) -> CorruptSnapshotError:
        """An error at the last line that was read."""
        return CorruptSnapshotError(f"{self.name!r}, line {self.number}: {what}")


def _read_lines(lines: _Lines, limit: int) -> Iterator[_Session]:
    """The sessions of our own format; at its end, that it is whole is known."""
    _read_header(lines)
    count = messages = 0
    last_key = b""
    while "end" not in (fields := _object(lines)):
        key, session = _read_session(lines, fields, limit)
        if key <= last_key:
            raise lines.error(f"session {session.key!r} is not after the one before it")
        last_key = key
        count += 1
        messages += len(session.restore.records)
        yield session
    digest = lines.digest()
    if fields != {"end": {"sessions": count, "messages": messages, "sha256": digest}}:
        raise lines.error("the counts or the checksum are others: the file was altered")
    if not lines.at_end():
        raise lines.error("the file goes on after its last line")
    if lines.too_large is not None:
        raise lines.too_large


def _read_header(lines: _Lines) -> None:
    version = _object(lines).get("version")
    if type(version) is not int or version < 1:
        raise lines.error("the header is not readable: the file was altered")
    if version > _VERSION:
        raise lines.error(
            f"the snapshot has format {version}, of a newer version of chatstores; this version "
            f"reads format {_VERSION}: upgrade chatstores"
        )


def _object(lines: _Lines) -> dict[str, Any]:
    line = lines.next()
    try:
        value = from_json(line)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise lines.error("this is not readable: the file was altered")
    return value


def _read_session(lines: _Lines, fields: dict[str, Any], limit: int) -> tuple[bytes, _Session]:
    """The session whose line was read, and its messages; also its key's bytes."""
    try:
        count, created_at, updated_at, left, metadata, own = _check_fields(fields)
    except ValueError as exc:
        raise lines.error(f"this is no session: {exc}") from exc
    key = fields["session"]
    records: list[Record] = []
    while len(records) < count:
        first = lines.number + 1
        wanted = min(_DECODED, count - len(records))
        payloads = [lines.next()[:-1] for _ in range(wanted)]
        lines.too_large = lines.too_large or _too_large(payloads, limit, key, len(records))
        records += _records(lines, payloads, first)
    restore = Restore(records, metadata, own, created_at, updated_at, left)
    return key.encode(), _Session(key, restore)


def _check_fields(fields: dict[str, Any]) -> tuple[int, int, int, int | None, bytes, bytes]:
    if fields.keys() != _SESSION_FIELDS:
        raise ValueError("its fields are others")
    Operations._check_key(fields["session"])
    numbers = [fields["count"], fields["created_at"], fields["updated_at"]]
    left = fields["left"]
    if left is not None and (type(left) is not int or left < 1):
        raise ValueError("what is left of its ttl is out of range")
    for number in numbers:
        if type(number) is not int or not 0 <= number < 2**53:
            raise ValueError("its count or a time is out of range")
    metadata, own = encode_metadata(fields["metadata"]), encode_metadata(fields["own"])
    return numbers[0], numbers[1], numbers[2], left, metadata, own


def _too_large(
    payloads: Sequence[bytes], limit: int, key: str, start: int
) -> MessageTooLargeError | None:
    """The error about the first message that is larger than the limit."""
    for index, payload in enumerate(payloads, start):
        if len(payload) > limit:
            where = f"message {index} of session {key!r}"
            return MessageTooLargeError(len(payload), limit, where)
    return None


def _records(lines: _Lines, payloads: Sequence[bytes], first: int) -> list[Record]:
    """Stored messages with their ids; ``first`` is the first one's line."""
    try:
        messages = decode(payloads)
    except Unreadable:
        messages = []
        for lines.number, payload in enumerate(payloads, first):
            try:
                messages.append(decode_one(payload))
            except Unreadable as exc:
                raise lines.error(f"the message {exc}") from None
    return [Record(m.id, payload) for m, payload in zip(messages, payloads, strict=True)]


def _read_llama(name: str, text: bytes, limit: int, ttl: int | None) -> Iterator[_Session]:
    """The sessions of a file of LlamaIndex's: JSON, or JSON in a JSON string."""
    try:
        value = json.loads(text.removeprefix(_BOM))
        if isinstance(value, str):
            value = json.loads(value)
    except (ValueError, RecursionError) as exc:
        raise _foreign(name) from exc
    sessions = value.get("store") if isinstance(value, dict) else None
    if not isinstance(sessions, dict):
        raise _foreign(name)
    now = now_us()
    for key, messages in sessions.items():
        Operations._check_key(key)
        if not isinstance(messages, list):
            raise CorruptSnapshotError(f"{name!r}: session {key!r} is no list of messages")
        records = []
        for index, wire in enumerate(messages):
            records.append(_record_of_llama(name, f"message {index} of session {key!r}", wire))
        too_large = _too_large([record.payload for record in records], limit, key, 0)
        if too_large is not None:
            raise too_large
        yield _Session(key, Restore(records, b"{}", b"{}", now, now, ttl))


def _record_of_llama(name: str, where: str, wire: Any) -> Record:
    try:
        message = llama_index_format.from_llama_index(wire)
    except ValueError as exc:
        raise CorruptSnapshotError(f"{name!r}: {where} is none of LlamaIndex's: {exc}") from exc
    try:
        return Record(message.id, encode(message))
    except InvalidMessageError as exc:
        raise InvalidMessageError(f"{where}: {exc}") from exc
