"""Attempt: a command on its way to the log, and what was heard of it."""

from __future__ import annotations

import time
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from chatstores.state import Outcome

__all__ = ["Attempt", "Verdict", "new_future", "settle"]


def new_future() -> Future[Any]:
    """A future that nobody who waits can cancel: another thread sets it."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    return future


def settle(future: Future[None], error: KafkaError | None) -> None:
    """Have a future be done, or fail."""
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(KafkaException(error))


class Attempt:
    """A command on its way, over all of its attempts.

    Attributes:
        seen: the offset of the session's last command, when it was sent first.
        generation: the partition's, at that time.
        sent: whether it was sent before.
        verdict: what the log says of it; None as long as it says nothing.
    """

    def __init__(self, seen: int, generation: int) -> None:
        self.seen = seen
        self.generation = generation
        self.sent = False
        self.verdict: Verdict | None = None
        self.began = time.monotonic()
        self._acknowledged = False
        self._future: Future[None] = new_future()

    def again(self) -> Future[None]:
        """The future of the next record; what is still heard of those before is as good."""
        self.sent = True
        self._future = new_future()
        self.check()
        return self._future

    def acknowledge(self, error: KafkaError | None) -> None:
        """Note what the broker says of a record: one that it has is enough."""
        if error is None:
            self._acknowledged = True
            self.check()
        elif not self._future.done():
            self._future.set_exception(KafkaException(error))

    def check(self) -> None:
        """Be done, if all is there."""
        if self._acknowledged and self.verdict is not None and not self._future.done():
            self._future.set_result(None)


class Verdict:
    """What the log says of a command.

    Attributes:
        outcome: what it did; None if it never will be done.
        sure: whether the view was fresh: no record before it may have been missing.
    """

    __slots__ = ("outcome", "sure")

    def __init__(self, outcome: Outcome | None, sure: bool) -> None:
        self.outcome = outcome
        self.sure = sure
