"""StateDir: a directory that keeps a topic's view between runs, for one process at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import mmap
import os
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaException
from pydantic_core import from_json, to_json

from chatstores.errors import BackendMismatchError, ChatStoreError, PermissionDeniedError
from chatstores_kafka.saved import Captured, Saved, capture, encode, read_saved
from chatstores_kafka.topic import Topic

if TYPE_CHECKING:
    from chatstores_kafka.partition import Partition
    from chatstores_kafka.view import View

__all__ = ["HeldError", "Saver", "StateDir"]

_log = logging.getLogger("chatstores_kafka")

#: Seconds after which what was saved is not used: a session that was deleted since then may have
#: left no trace in the topic a day later (``chatstores.state.MARKER_US``).
_STALE_SECONDS = 12 * 3600.0
#: Seconds between two looks at what should be saved, and after which it is even if nothing is new.
_LOOK_SECONDS = 60.0
_RENEW_SECONDS = 3 * 3600.0
#: A partition is saved when it has so many new records, and a tenth of all are new.
_NEW_RECORDS = 1000
#: Seconds that closing waits for the brokers to say that nothing is missing.
_LAST_SECONDS = 2.0


class HeldError(Exception):
    """Another process has the directory now."""


class StateDir:
    """The directory: one of its own for each topic in it.

    Args:
        path: the directory, made if it is not there.
        topic: the topic's name.
    """

    def __init__(self, path: str, topic: str) -> None:
        self.path = os.path.join(path, topic)
        self._name = topic
        self._lock: int | None = None

    def take(self, topic: Topic) -> None:
        """Have it for this process, and see that it is of the topic.

        Raises:
            HeldError: another process has it.
            BackendMismatchError: it is of another topic, or no directory can be there.
            PermissionDeniedError: this user may not write there.
        """
        try:
            os.makedirs(self.path, mode=0o700, exist_ok=True)
            lock = os.open(self._file("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            said = f"state_dir: {self.path} cannot be used: {exc.strerror}"
            if isinstance(exc, PermissionError) or exc.errno == errno.EROFS:
                raise PermissionDeniedError(said) from exc
            raise BackendMismatchError(said) from exc
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._check(topic)
        except BaseException as exc:
            os.close(lock)
            if isinstance(exc, BlockingIOError):
                raise HeldError(f"another process uses {self.path}: each needs its own") from None
            raise
        self._lock = lock

    def _check(self, topic: Topic) -> None:
        file = self._file("topic.json")
        now = {"id": topic.id, "partitions": topic.partitions}
        try:
            with open(file, "rb") as opened:
                found = from_json(opened.read())
        except FileNotFoundError:
            self._write(file, [to_json(now)])
            return
        except ValueError:
            found = None
        if found != now:
            raise BackendMismatchError(
                f"{self.path} holds the state of another topic {self._name!r}: this one was "
                "deleted and made anew, or given other partitions, or is on other brokers; look "
                "at what is lost, then remove the directory, or name another state_dir="
            )

    def load(self, partition: int) -> Saved | None:
        """What was saved of a partition, if it can be used."""
        try:
            with open(self._file(f"{partition}.view"), "rb") as file:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            saved = read_saved(data)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as exc:
            _log.warning("what %s has of partition %d is not used: %s", self.path, partition, exc)
            return None
        if not -_LOOK_SECONDS < time.time() - saved.about["known_at"] < _STALE_SECONDS:
            _log.info("what %s has of partition %d is too old", self.path, partition)
            return None
        return saved

    def save(self, partition: int, captured: Iterable[Captured], about: Mapping[str, Any]) -> None:
        """Put what a partition holds in the place of what was there; all of it, or nothing.

        Raises:
            OSError: it is as it was.
        """
        self._write(self._file(f"{partition}.view"), encode(captured, about))

    def close(self) -> None:
        """Let another process have it."""
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def _file(self, name: str) -> str:
        return os.path.join(self.path, name)

    def _write(self, path: str, pieces: Iterable[bytes]) -> None:
        temporary = f"{path}.new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        try:
            with open(os.open(temporary, flags, 0o600), "wb") as file:
                for piece in pieces:
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        directory = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


class Saver:
    """Saves what a view holds, now and then and at the end, in a thread of its own.

    Args:
        view: the view.
        directory: where.
    """

    def __init__(self, view: View, directory: StateDir) -> None:
        self._view = view
        self._dir = directory
        self._closing = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name="chatstores-kafka-saver", daemon=True
        )

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Save what is new, and end the thread; the view's other threads still run."""
        self._closing.set()
        self._thread.join()
        end = time.monotonic() + _LAST_SECONDS
        for part in self._view.loaded():
            if part.position != part.saved or _age(part) > _LOOK_SECONDS:
                self._save(part, end - time.monotonic())

    def _run(self) -> None:
        while not self._closing.wait(_LOOK_SECONDS):
            for part in self._view.loaded():
                new = part.position - part.saved
                if new >= max(_NEW_RECORDS, (part.position - part.begin) // 10) or (
                    _age(part) > _RENEW_SECONDS
                ):
                    self._save(part, _LAST_SECONDS)

    def _save(self, part: Partition, seconds: float) -> None:
        with contextlib.suppress(KafkaException, ChatStoreError, FutureTimeoutError):
            self._view.caught_up(part.number).result(max(0.0, seconds))
        try:
            self._view.unfold()
        except ChatStoreError as exc:
            _log.error("partition %d is not saved in %s: %s", part.number, self._dir.path, exc)
            return
        with self._view.lock:
            if not part.is_exact:
                return
            captured, position = capture(part.fold.states), part.position
            about = {
                "position": position,
                "begin": part.begin,
                "known_at": part.known_at,
                **part.fold.about(),
            }
        try:
            self._dir.save(part.number, captured, about)
        except (OSError, ChatStoreError) as exc:
            _log.error("partition %d is not saved in %s: %s", part.number, self._dir.path, exc)
            return
        part.saved, part.saved_at = position, time.monotonic()


def _age(part: Partition) -> float:
    """Seconds since a partition was saved."""
    return time.monotonic() - part.saved_at
