"""Harness: how the suite reaches one backend, and what it can do to it."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

from chatstores.registry import open_store
from chatstores.store import ChatStore

__all__ = ["Borrowed", "Counted", "Harness", "NotThere", "NotTried"]


class NotTried(Exception):
    """The harness cannot do what a test needs; the table says *not tried*, and why."""


class NotThere(NotTried):
    """What a test would hurt or measure does not exist here, such as a server or a wire."""


class Counted(Protocol):
    """What a fault or a meter has met so far."""

    @property
    def count(self) -> int:
        """Replies that were dropped, or bytes that came."""


@dataclass(frozen=True)
class Borrowed:
    """A store around a client that the test owns.

    Attributes:
        store: the store that was given the client.
        use: sends something through the client itself; a coroutine function for an async one.
        close: closes the client; likewise.
    """

    store: ChatStore
    use: Callable[[], Any]
    close: Callable[[], Any]


class Harness:
    """One backend as the suite sees it: a URL, and what can be done to the server behind it.

    As it is, it runs every test that needs no more than a URL. A backend's own tests override what
    they can; what they leave shows as *not tried*. All faults must hit the stores that `open`
    returns, so that a proxy before the server stands in ``url``; and they end with their context,
    also when a test fails within it.

    Args:
        url: the store; also what another process opens.
        options: for every `open`, such as ``password``.
    """

    #: The column in the closing table; the URL's scheme unless set.
    name: str = ""
    #: Whether the place is thrown away after the run; if not, tests delete what they wrote.
    throwaway: bool = False
    #: Whether a new place must be set up (tables, topics, files) before it can be used.
    needs_setup: bool = True
    #: The driver's import package; "" if the backend has none, None if the harness does not know.
    driver: str | None = None

    def __init__(self, url: str, **options: Any) -> None:
        self.url = url
        self.options = options
        self.name = self.name or url.partition(":")[0]

    def open(self, **options: Any) -> ChatStore:
        """A store on the same data; the options are those of ``open_store``."""
        return open_store(self.url, **{**self.options, **options})

    def elsewhere(self, **options: Any) -> Callable[[], ChatStore]:
        """What opens such a store in another process; it can be pickled."""
        store = self.open()
        refused = store.capabilities.refused.get("W4.processes")
        store.close()
        if refused is not None:
            raise NotThere(f"other processes: {refused}")
        return functools.partial(open_store, self.url, **{**self.options, **options})

    def fresh_place(self) -> AbstractContextManager[Harness]:
        """Another place of the same kind (a schema, a prefix, a path) where nothing is set up."""
        self._cannot("make a place where nothing is set up")

    def advance(self, seconds: float) -> None:
        """Let time pass for what expires."""
        if seconds > 3:
            self._cannot(f"let {seconds:g} seconds pass without waiting for them")
        time.sleep(seconds)

    def overwrite(self, namespace: str, key: str, index: int, payload: bytes) -> None:
        """Put other bytes in the place of a stored message, behind the store's back.

        The session's messages were added one by one. A store that is open need not notice.
        """
        self._cannot("overwrite a stored record")

    def restart(self) -> None:
        """Stop the server in order and start it again."""
        self._cannot("restart the server")

    def away(self) -> AbstractContextManager[None]:
        """A time in which the server refuses connections, and those that were open are cut."""
        self._cannot("take the server away")

    def silent(self) -> AbstractContextManager[None]:
        """A time in which the server takes everything and answers nothing."""
        self._cannot("silence the server")

    def dropped_replies(self, n: int) -> AbstractContextManager[Counted]:
        """A time in which the next n writes are executed, and their answers lost."""
        self._cannot("drop a reply")

    def received(self) -> AbstractContextManager[Counted]:
        """A time in which the bytes that come from the server are counted."""
        self._cannot("count the bytes that come from the server")

    def contended(self, namespace: str, key: str) -> AbstractContextManager[None]:
        """A time in which somebody else holds, or always wins, what a write to the key needs."""
        self._cannot("make every write lose to another writer")

    def borrowed(self, form: str, **options: Any) -> Borrowed:
        """A store that was given a client, of the form "sync" or "async"."""
        self._cannot("give a store a client of the caller's own")

    def _cannot(self, what: str) -> NoReturn:
        raise NotTried(f"the harness cannot {what}")
