"""One journal file: lines in their order, each on the disk before it counts.

Space is taken ahead of the lines and holds zeros, which no line does: a write that does not make
the file longer is on the disk a sixth sooner. So the lines end at the first zero byte.
"""

from __future__ import annotations

import contextlib
import os

from chatstores_json.format import journal_head, parse_journal_head

__all__ = ["Damage", "Journal", "sync_file"]

#: How much space is taken at a time.
ROOM_BYTES = 256 * 1024


class Damage(ValueError):
    """Something else than a cut-off last line is wrong with the file; the text says where."""


def sync_file(fd: int) -> None:
    """Have what was written to a file on the disk (macOS has no fdatasync)."""
    getattr(os, "fdatasync", os.fsync)(fd)


class Journal:
    """An open journal, read as far as ``offset``.

    Args:
        path: the file.
        fd: its descriptor.
        writable: whether that may be written to.
    """

    def __init__(self, path: str, fd: int, writable: bool) -> None:
        self._path = path
        self._fd = fd
        self._writable = writable
        self._room = os.fstat(fd).st_size
        head = os.pread(fd, 4096, 0).partition(b"\n")[0]
        self.offset = len(head) + 1
        self.generation = parse_journal_head(head)

    @classmethod
    def open(cls, path: str, writable: bool) -> Journal | None:
        """The journal at a path; None if there is none.

        Raises:
            NotOurs: the file is none.
        """
        try:
            fd = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            return cls(path, fd, writable)
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    def create(cls, path: str, generation: int, sync: bool) -> Journal:
        """A new journal at a path, in the place of the one that is there."""
        temporary = f"{path}.new"
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        fd = os.open(temporary, flags, 0o600)
        try:
            _write_all(fd, journal_head(generation), 0)
            journal = cls(path, fd, writable=True)
            journal._take_room(0)
            if sync:
                os.fsync(fd)
            os.replace(temporary, path)
        except BaseException:
            os.close(fd)
            raise
        return journal

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def has_more(self) -> bool:
        """Whether there is something behind the offset."""
        return os.pread(self._fd, 1, self.offset) not in (b"", b"\0")

    def read_more(self) -> tuple[list[bytes], bool]:
        """The whole lines behind the offset, and whether a part of a line follows them.

        Raises:
            Damage: lines follow behind a gap.
        """
        data = self._read_all()
        text, gap, rest = data.partition(b"\0")
        whole, newline, part = text.rpartition(b"\n")
        lines = whole.split(b"\n") if newline else []
        # The one line whose writing a crash cut off may have lost blocks in its middle.
        behind = (part + gap + rest).replace(b"\0", b"")
        if b"\n" in behind[:-1]:
            where = self.offset + len(whole) + len(newline)
            raise Damage(f"it has a gap at byte {where} and lines behind it")
        return lines, bool(behind)

    def cut_off(self, sync: bool) -> None:
        """Remove what follows the offset."""
        self._make_writable()
        os.ftruncate(self._fd, self.offset)
        self._room = self.offset
        if sync:
            os.fsync(self._fd)

    def append(self, line: bytes, sync: bool) -> None:
        """Add a line; when this returns it is on the disk.

        Raises:
            OSError: it may stand there in part.
        """
        self._make_writable()
        if self.offset + len(line) > self._room:
            self._take_room(len(line))
        _write_all(self._fd, line, self.offset)
        if sync:
            sync_file(self._fd)
        self.offset += len(line)

    def _take_room(self, size: int) -> None:
        if hasattr(os, "posix_fallocate"):
            # Where the file system cannot, or is full, the line's own write will say so.
            with contextlib.suppress(OSError):
                os.posix_fallocate(self._fd, self.offset, size + ROOM_BYTES)
        self._room = max(os.fstat(self._fd).st_size, self.offset + size)

    def _make_writable(self) -> None:
        if not self._writable:
            fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
            os.close(self._fd)
            self._fd, self._writable = fd, True

    def _read_all(self) -> bytes:
        parts, at = [], self.offset
        while part := os.pread(self._fd, ROOM_BYTES, at):
            parts.append(part)
            at += len(part)
        return b"".join(parts)


def _write_all(fd: int, data: bytes, at: int) -> None:
    written = os.pwrite(fd, data, at)
    while written < len(data):
        written += os.pwrite(fd, data[written:], at + written)
