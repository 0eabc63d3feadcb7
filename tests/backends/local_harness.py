"""The harness of a store without a server: what of the suite is not there."""

from __future__ import annotations

from typing import NoReturn

from chatstores.conformance import Harness, NotThere

__all__ = ["LocalHarness"]


class LocalHarness(Harness):
    """No server, no wire and no client of the caller's own."""

    throwaway = True

    def away(self) -> NoReturn:
        raise NotThere("there is no server")

    restart = silent = away

    def dropped_replies(self, n: int) -> NoReturn:
        raise NotThere("there is no wire")

    def received(self) -> NoReturn:
        raise NotThere("there is no wire")

    def borrowed(self, form: str, **options: object) -> NoReturn:
        raise NotThere("there is no client")
