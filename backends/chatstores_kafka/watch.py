"""TopicWatch: whether the topic is still the one that was opened."""

from __future__ import annotations

import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaError, KafkaException

from chatstores.errors import BackendMismatchError, ChatStoreError, NotSetUpError
from chatstores_kafka.topic import ask_topic, read_topic

if TYPE_CHECKING:
    from chatstores_kafka.view import View

__all__ = ["TopicWatch"]

#: Seconds after which the topic is looked at, if it is used; and in which a broker must answer.
_LOOK_SECONDS = 2.0
_ASK_SECONDS = 2.0


class TopicWatch:
    """Looks at the topic now and then.

    Args:
        view: the topic.

    Attributes:
        trouble: why the topic is not what it was when it was opened, or not there; else None.
        used: whether somebody wanted something since the last look.
    """

    def __init__(self, view: View) -> None:
        self._view = view
        self.trouble: Exception | None = None
        self.used = self._looking = False
        self._next = time.monotonic() + _LOOK_SECONDS

    def look_soon(self) -> None:
        """Have it looked at as soon as possible."""
        self._next = 0.0

    def look_if_due(self) -> None:
        """Ask for it, if it is time and it is used; nobody waits for the answer."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _LOOK_SECONDS
        admin = self._view.clients.admin
        admin.poll(0)
        if not self.used or self._looking:
            return
        self.used, self._looking = False, True
        asked = ask_topic(admin, self._view.settings.name, _ASK_SECONDS)
        asked.add_done_callback(self._looked)

    def ping(self, seconds: float) -> None:
        """Ask the brokers for the topic.

        Raises:
            BackendMismatchError: it is not the one that was opened.
            KafkaException: they do not answer.
        """
        name = self._view.settings.name

        def describe() -> tuple[str, int]:
            # This question has the client connect at once; the other one waits for it.
            self._view.clients.admin.list_topics(name, timeout=seconds)
            future = ask_topic(self._view.clients.admin, name, seconds)
            return read_topic(self._view.clients.answer(future))

        self._judge(self._view.clients.asked(describe))
        if self.trouble is not None:
            raise self.trouble

    def _looked(self, answer: Future[Any]) -> None:
        self._looking = False
        name = self._view.settings.name
        try:
            self._judge(read_topic(answer.result()))
        except KafkaException as exc:
            if exc.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                self._distrust(NotSetUpError(f"there is no topic {name!r} any more"))

    def _judge(self, found: tuple[str, int]) -> None:
        """Compare the topic with the one that was opened."""
        topic, name = self._view.topic, self._view.settings.name
        if found[0] != topic.id:
            self._distrust(
                BackendMismatchError(
                    f"the topic {name!r} was deleted and made anew while this store was open; "
                    "close it and look at what is lost"
                )
            )
        elif found[1] != topic.partitions:
            self._distrust(
                BackendMismatchError(
                    f"the topic {name!r} was given {found[1]} partitions and had "
                    f"{topic.partitions}: sessions are found by that number, so it must not "
                    "change; load a snapshot into a new topic"
                )
            )
        elif isinstance(self.trouble, NotSetUpError):
            self.trouble = None

    def _distrust(self, trouble: ChatStoreError) -> None:
        with self._view.lock:
            if not isinstance(self.trouble, BackendMismatchError):
                self.trouble = trouble
            for part in self._view.partitions.values():
                part.end_waits(self.trouble)
