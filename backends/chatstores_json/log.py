"""The journal and its checkpoint, folded, under a lock that all processes of the machine share."""

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
from urllib.parse import quote

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
from chatstores_json.format import NotOurs, checkpoint_parts, parse_checkpoint
from chatstores_json.journal import Journal, sync_file

__all__ = ["Log"]

#: The journal is folded into the checkpoint when it is larger than this, and than the checkpoint:
#: so a byte of the journal costs at most two of checkpoints.
CHECKPOINT_BYTES = 1024 * 1024

T = TypeVar("T")

_alive: weakref.WeakSet[Log] = weakref.WeakSet()


class Log:
    """One store's view of its files; every store, in this process or another, has its own.

    ``mutex`` is held by whoever looks at ``fold``. What takes the lock answers None, or False,
    while another process has it.

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
        self._checkpoint_fd: int | None = None
        self._journal: Journal | None = None
        self.forget()
        _alive.add(self)

    def forget(self) -> None:
        """Read everything anew at the next call; a forked child's parent keeps its locks."""
        self.mutex = threading.RLock()
        self.close()

    def close(self) -> None:
        """Close the files."""
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None
        self._start_anew()

    def __del__(self) -> None:
        self.close()  # descriptors do not close themselves, and not everybody closes a store

    def _start_anew(self) -> None:
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        self._hold_checkpoint(None)
        self.fold = Fold()
        self._generation = 0

    def _hold_checkpoint(self, fd: int | None) -> None:
        """The checkpoint that the fold began with stays open: no other file gets its identity."""
        if self._checkpoint_fd is not None:
            os.close(self._checkpoint_fd)
        self._checkpoint_fd = fd
        self._checkpoint_bytes = 0
        self._identity: tuple[int, int] | None = None
        if fd is not None:
            found = os.fstat(fd)
            self._checkpoint_bytes = found.st_size
            self._identity = (found.st_dev, found.st_ino)

    def is_current(self) -> bool:
        """Whether the fold holds all that was acknowledged before this call."""
        journal = self._journal_in_place()
        return journal is not None and not journal.has_more()

    def _journal_in_place(self) -> Journal | None:
        """The journal, if the files are still those that the fold was read from.

        A new journal comes with a new checkpoint, which is looked at in its place: Linux makes a
        file's next write a third slower when its times were looked at.
        """
        if self._journal is None or not os.access(self._journal_path, os.F_OK):
            return None
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            return None
        return self._journal if (found.st_dev, found.st_ino) == self._identity else None

    def catch_up(self) -> bool:
        """Fold what others wrote."""
        with self.mutex:
            if not self._exists():
                self._refuse_missing()
                self._start_anew()
                return True
            return self._under_lock(fcntl.LOCK_SH, self._read_on) is not None

    def check_directory(self) -> None:
        """Raise an OSError if there is no directory that the files could be in."""
        os.stat(f"{self.path.parent}/.")

    def commit(self, namespace: str, key: str, command: Command) -> Outcome | None:
        """Do a command, and have it on the disk."""
        with self.mutex:
            return self._under_lock(fcntl.LOCK_EX, self._commit, namespace, key, command)

    def set_up(self) -> bool:
        """Create the files."""
        with self.mutex:
            return self._under_lock(fcntl.LOCK_EX, self._prepare) is not None

    def purge(self, namespace: str) -> int | None:
        """Remove what has expired, and from the files the text of all that was removed."""
        with self.mutex:
            return self._under_lock(fcntl.LOCK_EX, self._purge, namespace)

    def _commit(self, namespace: str, key: str, command: Command) -> Outcome:
        self._prepare()
        outcome, entry = self.fold.commit_logged(namespace, key, command, now_us())
        if entry is not None:
            self._append(entry + b"\n")
        return outcome

    def _purge(self, namespace: str) -> int:
        self._prepare()
        purged = self.fold.purge(namespace, now_us())
        self._checkpoint()
        return purged

    def _append(self, line: bytes) -> None:
        assert self._journal is not None
        try:
            self._journal.append(line, self._sync)
        except OSError as exc:
            # The fold is ahead of the journal: read it again, without this line.
            try:
                self._journal.cut_off(self._sync)
            except OSError:
                raise exc from None
            else:
                raise NotDone from exc
            finally:
                self.close()
        if self._journal.offset > max(CHECKPOINT_BYTES, self._checkpoint_bytes):
            # The command is safe in the journal: a checkpoint can as well be made the next time.
            with contextlib.suppress(OSError):
                self._checkpoint()

    # The lock: a file of its own that is never renamed, opened once a store.

    def _under_lock(self, kind: int, work: Callable[..., T], *args: Any) -> T | None:
        """What the work gives, done under the lock; None if another process has it."""
        if self._lock_fd is None:
            if not self._exists():
                self._refuse_missing()
            self._lock_fd = self._open_lock(kind)
        lock = self._lock_fd
        if lock is None:
            return work(*args)
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        try:
            return work(*args)
        finally:
            if self._lock_fd == lock:  # else it was closed, and with it the lock
                fcntl.flock(lock, fcntl.LOCK_UN)

    def _open_lock(self, kind: int) -> int | None:
        """The lock's descriptor; None for a reader in a directory where it may not write."""
        try:
            return os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            if kind == fcntl.LOCK_EX:
                raise
        try:
            return os.open(self._lock_path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None

    # The files, under the lock

    def _exists(self) -> bool:
        return self.path.exists() or os.path.exists(self._journal_path)

    def _refuse_missing(self) -> None:
        if not self._create:
            raise NotSetUpError(
                f"there is no {self.path}: 'chatstores setup --url "
                f"json:///{quote(str(self.path))}' or setup() of a store with create=True makes it"
            )

    def _prepare(self) -> bool:
        """Have the files there, whole, and folded; under the exclusive lock."""
        if self.is_current():
            return True
        if not self._exists():
            self._refuse_missing()
            self._start_anew()
            self._checkpoint()
        self._read_on(repair=True)
        if self._journal is None:
            self._journal = Journal.create(self._journal_path, self._generation, self._sync)
        return True

    def _read_on(self, repair: bool = False) -> bool:
        """Fold what is new in the journal, or everything if the journal is another one."""
        if self._journal_in_place() is None:
            self._open_anew(repair)
        journal = self._journal
        if journal is None or not journal.has_more():
            return True
        try:
            lines, cut_off = journal.read_more()
            for line in lines:
                self.fold.replay(line)
                journal.offset += len(line) + 1
        except ValueError as exc:
            raise CorruptRecordError(
                "", None, f"in {self._journal_path} at byte {journal.offset} is damaged: {exc}"
            ) from None
        if cut_off and repair:
            journal.cut_off(self._sync)
        return True

    def _open_anew(self, repair: bool) -> None:
        self._start_anew()
        self._read_checkpoint()
        try:
            journal = Journal.open(self._journal_path, writable=repair)
        except NotOurs as exc:
            raise BackendMismatchError(f"{self._journal_path} is not a journal: {exc}") from None
        if journal is None:
            return
        if journal.generation > self._generation:
            journal.close()
            raise BackendMismatchError(
                f"{self.path} is older than the journal beside it: put the right one back, or "
                "move the journal away"
            )
        if journal.generation < self._generation:
            # The process ended between a checkpoint and its journal: the former holds it all.
            journal.close()
            return
        self._journal = journal

    def _read_checkpoint(self) -> None:
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        self._hold_checkpoint(fd)
        with open(fd, "rb", closefd=False) as file:
            text = file.read()
        try:
            self._generation, self.fold.namespaces = parse_checkpoint(text)
        except NotOurs as exc:
            raise BackendMismatchError(
                f"{self.path} is not a store's file: {exc}; name another file, or load() it if it "
                "is a snapshot or LlamaIndex's"
            ) from None
        except ValueError as exc:
            raise CorruptRecordError("", None, f"in {self.path} is damaged: {exc}") from None

    def _checkpoint(self) -> None:
        """Put the fold into the checkpoint and begin a new journal."""
        generation = self._generation + 1
        temporary = f"{self.path}.new"
        try:
            with open(temporary, "wb", opener=_private) as file:
                for part in checkpoint_parts(self.fold.namespaces, generation, now_us()):
                    file.write(part)
                file.flush()
                if self._sync:
                    sync_file(file.fileno())
                self._hold_checkpoint(os.dup(file.fileno()))
            os.replace(temporary, self.path)
            journal = Journal.create(self._journal_path, generation, self._sync)
            self._sync_directory()
        except OSError:
            self.close()  # whichever of the two files is new: read both again
            raise
        if self._journal is not None:
            self._journal.close()
        self._generation, self._journal = generation, journal

    def _sync_directory(self) -> None:
        if self._sync:
            fd = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def error(self, exc: OSError) -> ChatStoreError | None:
        """What an error of the file system means, if it is not a passing one."""
        name = exc.filename if isinstance(exc.filename, str | Path) else self.path
        if isinstance(exc, PermissionError) or exc.errno == errno.EROFS:
            return PermissionDeniedError(f"{name} cannot be read or written by this user")
        if isinstance(exc, IsADirectoryError):
            return BackendMismatchError(f"{name} is a directory; name a file in it")
        if isinstance(exc, FileNotFoundError | NotADirectoryError):
            return BackendMismatchError(
                f"there is no directory {self.path.parent}: create it first"
            )
        if exc.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            return BackendMismatchError(f"{name}: {exc.strerror}")
        return None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _after_fork() -> None:
    for log in list(_alive):
        log.forget()


os.register_at_fork(after_in_child=_after_fork)
