"""Attempt: a command on its way to the log, and what was heard of it."""

from __future__ import annotations

import time

from confluent_kafka import KafkaError, KafkaException

from chatstores.state import Outcome
from chatstores_kafka.promise import Promise

__all__ = ["Attempt", "Verdict"]


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
        self._promise = Promise()

    def again(self) -> Promise:
        """The promise of the next record; what is still heard of those before is as good."""
        self.sent = True
        self._promise = promise = Promise()
        self.check()
        return promise

    def acknowledge(self, error: KafkaError | None) -> None:
        """Note what the broker says of a record: one that it has is enough."""
        if error is None:
            self._acknowledged = True
            self.check()
        elif not self._promise.done:
            self._promise.settle(KafkaException(error))

    def check(self) -> None:
        """Be done, if all is there."""
        if self._acknowledged and self.verdict is not None and not self._promise.done:
            self._promise.settle()


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
