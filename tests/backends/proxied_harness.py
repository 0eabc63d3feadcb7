"""The harness of a store whose servers stand behind proxies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from chatstores.conformance import Harness
from tests.servers.proxy import Proxy, Since

__all__ = ["ProxiedHarness"]


class ProxiedHarness(Harness):
    """Hurts the wire at the proxies.

    Args:
        url: the store's, through the proxies.
        proxies: all of them.
        options: for every `open`.
    """

    throwaway = True
    #: What a request contains that writes: one of these.
    writes: Sequence[bytes] = ()

    def __init__(self, url: str, proxies: Sequence[Proxy], **options: Any) -> None:
        super().__init__(url, **options)
        self._proxies = proxies

    @contextmanager
    def away(self) -> Iterator[None]:
        for proxy in self._proxies:
            proxy.refuse()
        try:
            yield
        finally:
            for proxy in self._proxies:
                proxy.refuse(False)

    @contextmanager
    def silent(self) -> Iterator[None]:
        for proxy in self._proxies:
            proxy.silence()
        try:
            yield
        finally:
            for proxy in self._proxies:
                proxy.silence(False)

    @contextmanager
    def received(self) -> Iterator[Since]:
        yield Since(self._proxies, "received")

    @contextmanager
    def dropped_replies(self, n: int) -> Iterator[Since]:
        for proxy in self._proxies:  # a session is on one of them
            proxy.drop_replies(n, *self.writes)
        try:
            yield Since(self._proxies, "dropped")
        finally:
            for proxy in self._proxies:
                proxy.drop_replies(0)
