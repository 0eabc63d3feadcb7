"""The files: one that is written beside its place and put there whole, one that is read twice."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any, cast

from chatstores.errors import (
    ChatStoreError,
    CorruptSnapshotError,
    InvalidArgumentError,
    PermissionDeniedError,
)
from chatstores.snapshot.formats import STORES, Session

__all__ = ["Output", "Source"]

# gzip and zlib are imported where they are used: most programs write and read no snapshot.

_GZIP = b"\x1f\x8b"
#: Small sessions are read together until they hold so many bytes.
_READ_BYTES = 256 * 1024
_BUFFER_BYTES = 1024 * 1024


class Output:
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
        self._file: IO[bytes] | None = None  # what is written to: the same, or what compresses

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
                from gzip import GzipFile

                self._file = cast("IO[bytes]", GzipFile("", "wb", 6, self._raw, mtime=0))

    def write(self, chunks: Iterable[bytes]) -> None:
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
        with contextlib.suppress(PermissionError), open(self._place, "rb") as file:
            if file.read(max(map(len, STORES))).startswith(STORES):
                raise InvalidArgumentError(
                    f"{self._name!r} is a file of a json:// store, whose sessions would be lost: "
                    "name another file for the snapshot"
                )
        return former

    def _refuse_if_over(self) -> None:
        if self._over:
            raise ChatStoreError(f"writing {self._name!r} was given up")


class Source:
    """A file that is read twice through one descriptor, and must be the same both times.

    The lock is for async callers, as that of `Output` is.

    Args:
        path: the file.
        parse: the sessions of a file, of which it takes the name and the (uncompressed) bytes; a
            list if they are all that it reads of it, and need no second reading.
    """

    def __init__(
        self, path: Any, parse: Callable[[str, IO[bytes]], Iterator[Session] | list[Session]]
    ) -> None:
        self._name = _file_name(path)
        self._parse = parse
        self._lock = threading.Lock()
        self._over = False
        self._file: IO[bytes] | None = None
        self._sessions: Iterator[Session] = iter(())
        self._whole: list[Session] | None = None  # of a file that was read whole
        self._state: tuple[int, ...] = ()
        self._again = False

    def open(self) -> None:
        """Open the file, and begin the first reading."""
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
            self._begin(self._file)

    def rewind(self) -> None:
        """Begin the second reading."""
        with self._lock, self._errors():
            if self._over:
                return
            assert self._file is not None
            self._again = True
            self._begin(self._file)

    def read(self) -> list[Session]:
        """Some sessions more; none at the end, when all of the file was found whole."""
        with self._lock, self._errors():
            sessions: list[Session] = []
            if self._over:
                return sessions
            size = 0
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

    def _begin(self, file: IO[bytes]) -> None:
        if self._whole is None:
            sessions = self._parse(self._name, _uncompressed(file))
            if isinstance(sessions, list):
                self._whole = sessions
            else:
                self._sessions = sessions
        if self._whole is not None:
            self._sessions = iter(self._whole)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        from gzip import BadGzipFile
        from zlib import error as ZlibError

        with _os_errors(self._name):
            try:
                yield
            except (EOFError, BadGzipFile, ZlibError) as exc:
                self._refuse_if_changed()
                raise CorruptSnapshotError(
                    f"{self._name!r} is truncated or altered, as its compression shows"
                ) from exc
            except CorruptSnapshotError:
                self._refuse_if_changed()
                raise

    def _refuse_if_changed(self) -> None:
        if self._file is None or self._whole is not None:
            return
        if _state(os.fstat(self._file.fileno())) != self._state:
            done = "the sessions before that are restored" if self._again else "nothing was written"
            raise CorruptSnapshotError(f"{self._name!r} was altered while it was loaded; {done}")


def _uncompressed(file: IO[bytes]) -> IO[bytes]:
    """A file from its beginning, whether it is compressed or not."""
    file.seek(0)
    packed = file.read(len(_GZIP)) == _GZIP
    file.seek(0)
    if not packed:
        return file
    from gzip import GzipFile

    return cast("IO[bytes]", GzipFile(fileobj=file))


def _state(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _file_name(path: Any) -> str:
    try:
        name = os.fspath(path)
        os.fsencode(name)
    except (TypeError, UnicodeEncodeError):
        name = None
    if not isinstance(name, str) or not name or "\0" in name:
        raise InvalidArgumentError(
            f"path must be a file's name, a str or a pathlib.Path, not {path!r:.80}"
        )
    return name


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
