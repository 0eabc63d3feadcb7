"""The journal and its checkpoint: read on, appended to and folded, under a lock of the machine."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from chatstores.errors import (
    BackendMismatchError,
    ChatStoreError,
    CorruptRecordError,
    NotSetUpError,
    PermissionDeniedError,
)
from chatstores.fold import Fold
from chatstores.retry import NotDone
from chatstores.state import Command, Outcome, now_us
from chatstores_json.format import (
    NotOurs,
    checkpoint_parts,
    journal_head,
    parse_checkpoint,
    parse_journal_head,
    parse_line,
    to_line,
)

__all__ = ["Log"]

#: A journal is folded into the checkpoint when it is larger than this, and than the checkpoint: so
#: a byte of the journal costs at most two of checkpoints.
CHECKPOINT_BYTES = 1024 * 1024

T = TypeVar("T")

_alive: weakref.WeakSet[Log] = weakref.WeakSet()


class Log:
    """One store's view of its files; every store, in this process or another, has its own.

    ``mutex`` is held by whoever looks at ``fold``.

    Args:
        path: the checkpoint; the journal and the lock stand beside it.
        create: whether the files may be created.
        sync: whether an acknowledged write is on the disk.
    """

    def __init__(self, path: Path, create: bool, sync: bool) -> None:
        self.path = path
        self._journal_path = f"{path}.journal"
        self._lock_path = f"{path}.lock"
        self._create = create
        self._sync = sync
        self._lock_fd: int | None = None
        self._journal_fd: int | None = None
        self.forget()
        _alive.add(self)

    def forget(self) -> None:
        """Read everything anew at the next call; what is open was another process's."""
        self.mutex = threading.RLock()
        self.close()

    def close(self) -> None:
        """Close the files, in a forked child too: its parent's locks stay."""
        for fd in (self._lock_fd, self._journal_fd):
            if fd is not None:
                os.close(fd)
        self._lock_fd = self._journal_fd = None
        self._start_anew()

    def _start_anew(self) -> None:
        self.fold = Fold()
        self._generation = 0
        self._offset = 0  # how far the journal is folded
        self._size = 0  # how long it was at the last look
        self._identity: tuple[int, int] | None = None  # the journal's device and inode
        self._checkpoint_bytes = 0

    def is_current(self) -> bool:
        """Whether the fold holds all that was acknowledged before this call."""
        return self._is_same_journal() and self._size == self._offset

    def catch_up(self) -> bool:
        """Fold what others wrote; False if another process is writing just now."""
        with self.mutex:
            if not self._exists():
                self._refuse_missing()
                self._start_anew()
                return True
            return self._under_lock(fcntl.LOCK_SH, self._read_on) is not None

    def commit(self, namespace: str, key: str, command: Command) -> Outcome | None:
        """Do a command, and have it on the disk; None if another process is writing just now."""
        with self.mutex:
            return self._under_lock(fcntl.LOCK_EX, self._commit, namespace, key, command)

    def set_up(self) -> bool:
        """Create the files; False if another process is writing just now."""
        with self.mutex:
            return self._under_lock(fcntl.LOCK_EX, self._prepare) is not None

    def purge(self, namespace: str) -> int | None:
        """Remove what has expired, its text from the files too; None if another is writing."""
        with self.mutex:
            return self._under_lock(fcntl.LOCK_EX, self._purge, namespace)

    def _commit(self, namespace: str, key: str, command: Command) -> Outcome:
        self._prepare()
        state = self.fold.state(namespace, key)
        before, now = state.version, now_us()
        outcome = self.fold.commit(namespace, key, command, now)
        if state.version != before:
            self._append(to_line(namespace, key, command, now))
        return outcome

    def _purge(self, namespace: str) -> int:
        self._prepare()
        purged = self.fold.purge(namespace, now_us())
        self._checkpoint()
        return purged

    def _prepare(self) -> bool:
        """Under the exclusive lock: the files are there, whole, and folded."""
        if not self._is_same_journal() and not self._exists():
            self._refuse_missing()
            self._start_anew()
            self._checkpoint()
        return self._read_on(repair=True)

    # The lock: a file of its own that is never renamed, opened once a process and store.

    def _under_lock(self, kind: int, work: Callable[..., T], *args: Any) -> T | None:
        """What the work gives, done under the lock; None if another process has it."""
        if self._lock_fd is None:
            if not self._exists():
                self._refuse_missing()
            self._lock_fd = self._open_lock(kind)
        if self._lock_fd is None:
            return work(*args)
        try:
            fcntl.flock(self._lock_fd, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        lock = self._lock_fd
        try:
            return work(*args)
        finally:
            if self._lock_fd == lock:  # else it was closed, and with it the lock
                fcntl.flock(lock, fcntl.LOCK_UN)

    def _open_lock(self, kind: int) -> int | None:
        """The lock's descriptor; None for a reader in a folder where nobody like it may write."""
        try:
            return os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            if kind == fcntl.LOCK_EX:
                raise
        try:
            return os.open(self._lock_path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None

    # Reading, under the lock

    def _exists(self) -> bool:
        return self.path.exists() or os.path.exists(self._journal_path)

    def _refuse_missing(self) -> None:
        if not self._create:
            raise NotSetUpError(
                f"there is no {self.path} and create=False: run setup() once with create=True "
                f"(chatstores setup --url json:///{self.path})"
            )

    def _read_on(self, repair: bool = False) -> bool:
        """Fold what is new in the journal, or everything if the journal is another one."""
        if self.is_current():
            return True
        if self._journal_fd is None or not self._is_same_journal():
            self._open_anew(repair)
        if self._journal_fd is not None:
            new = _read_from(self._journal_fd, self._offset)
            if new:
                self._fold_lines(new, repair)
        return True

    def _is_same_journal(self) -> bool:
        """Whether the journal at the path is the one that is folded, and how long it is now."""
        if self._identity is None:
            return False
        try:
            found = os.stat(self._journal_path)
        except FileNotFoundError:
            return False
        self._size = found.st_size
        return (found.st_dev, found.st_ino) == self._identity and self._size >= self._offset

    def _open_anew(self, repair: bool) -> None:
        if self._journal_fd is not None:
            os.close(self._journal_fd)
            self._journal_fd = None
        self._start_anew()
        self._read_checkpoint()
        try:
            # Without O_APPEND a reader needs no right to write.
            flags = os.O_RDWR | os.O_APPEND if repair else os.O_RDONLY
            fd = os.open(self._journal_path, flags | os.O_CLOEXEC)
        except FileNotFoundError:
            if repair:
                self._new_journal()
            return
        head = _read_from(fd, 0).split(b"\n", 1)[0] + b"\n"
        try:
            generation = parse_journal_head(head)
        except NotOurs as exc:
            os.close(fd)
            raise BackendMismatchError(f"{self._journal_path} is not a journal: {exc}") from None
        if generation < self._generation:
            # The process ended between the new checkpoint and its journal: all is in the former.
            os.close(fd)
            if repair:
                self._new_journal()
            return
        if generation > self._generation:
            os.close(fd)
            raise BackendMismatchError(
                f"{self.path} is older than the journal beside it: an old copy was put in its "
                "place; put the right one back, or move the journal away"
            )
        self._journal_fd, self._offset = fd, len(head)
        found = os.fstat(fd)
        self._identity = (found.st_dev, found.st_ino)

    def _read_checkpoint(self) -> None:
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            return
        except IsADirectoryError:
            raise BackendMismatchError(f"{self.path} is a folder; name a file") from None
        try:
            self._generation, self.fold.namespaces = parse_checkpoint(text)
        except NotOurs as exc:
            raise BackendMismatchError(
                f"{self.path} is not a store's file: {exc}; name another file, or load() it if it "
                "is a snapshot"
            ) from None
        except ValueError as exc:
            raise CorruptRecordError("", None, f"{self.path} is damaged: {exc}") from None
        self._checkpoint_bytes = len(text)

    def _fold_lines(self, new: bytes, repair: bool) -> None:
        whole = new.rfind(b"\n") + 1
        lines = new[:whole].splitlines(keepends=True)
        # What a crash left at the end was never acknowledged: a line cut off, or a block of zeros.
        if lines and b"\0" in lines[-1]:
            whole -= len(lines.pop())
        for line in lines:
            try:
                namespace, key, command, time = parse_line(line)
            except ValueError as exc:
                raise CorruptRecordError(
                    "", None, f"of {self._journal_path} at byte {self._offset} is damaged: {exc}"
                ) from None
            self.fold.state(namespace, key).apply(command, time)
            self._offset += len(line)
        if whole < len(new) and repair:
            self._truncate()

    def _truncate(self) -> None:
        fd = self._writable()
        os.ftruncate(fd, self._offset)
        self._flush(fd)

    # Writing, under the exclusive lock

    def _writable(self) -> int:
        """The journal, open for writing."""
        if self._journal_fd is None:
            self._new_journal()
        assert self._journal_fd is not None
        if fcntl.fcntl(self._journal_fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            os.close(self._journal_fd)
            self._journal_fd = None
            flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC
            self._journal_fd = os.open(self._journal_path, flags)
        return self._journal_fd

    def _append(self, line: bytes) -> None:
        try:
            fd = self._writable()
            _write_all(fd, line)
            self._flush(fd)
        except OSError as exc:
            # The fold is ahead of the journal: read it again, without this line.
            with contextlib.suppress(OSError):
                os.truncate(self._journal_path, self._offset)
                self.close()
                raise NotDone from exc
            self.close()
            raise
        self._offset += len(line)
        if self._offset > max(CHECKPOINT_BYTES, self._checkpoint_bytes):
            # The command is safe in the journal; a checkpoint can as well be made the next time.
            with contextlib.suppress(OSError):
                self._checkpoint()

    def _flush(self, fd: int) -> None:
        if self._sync:
            os.fdatasync(fd) if hasattr(os, "fdatasync") else os.fsync(fd)

    def _checkpoint(self) -> None:
        """Put the fold into the checkpoint and begin a new journal."""
        generation = self._generation + 1
        size = 0
        temporary = self.path.with_name(self.path.name + ".new")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            for part in checkpoint_parts(self.fold.namespaces, generation, now_us()):
                _write_all(fd, part)
                size += len(part)
            self._flush(fd)
        finally:
            os.close(fd)
        os.replace(temporary, self.path)
        self._flush_folder()
        self._generation, self._checkpoint_bytes = generation, size
        self._new_journal()

    def _new_journal(self) -> None:
        head = journal_head(self._generation)
        temporary = f"{self._journal_path}.new"
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        fd = os.open(temporary, flags, 0o600)
        _write_all(fd, head)
        self._flush(fd)
        os.replace(temporary, self._journal_path)
        self._flush_folder()
        if self._journal_fd is not None:
            os.close(self._journal_fd)
        self._journal_fd, self._offset = fd, len(head)
        found = os.fstat(fd)
        self._identity = (found.st_dev, found.st_ino)

    def _flush_folder(self) -> None:
        if self._sync:
            fd = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def error(self, exc: OSError) -> ChatStoreError | None:
        """What an error of the file system means, if it is not a passing one."""
        if isinstance(exc, PermissionError) or exc.errno == errno.EROFS:
            return PermissionDeniedError(
                f"{exc.filename or self.path} cannot be written or read by this user"
            )
        if isinstance(exc, IsADirectoryError | NotADirectoryError):
            return BackendMismatchError(f"{exc.filename or self.path} is not a file in a folder")
        if isinstance(exc, FileNotFoundError):
            return BackendMismatchError(
                f"the folder {self.path.parent} does not exist: create it, or name another"
            )
        return None


def _read_from(fd: int, offset: int) -> bytes:
    parts = []
    while part := os.pread(fd, 1 << 20, offset):
        parts.append(part)
        offset += len(part)
    return b"".join(parts)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _after_fork() -> None:
    for log in list(_alive):
        log.forget()


os.register_at_fork(after_in_child=_after_fork)
