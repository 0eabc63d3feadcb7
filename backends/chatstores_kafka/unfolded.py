"""UnfoldedState: a session whose records were read, and are folded when it is first used."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

from chatstores_kafka.state import LoggedState

__all__ = ["PLACE", "UnfoldedState"]

#: A record's offset, append time and key; and the same with the key as a number, a token.
PLACE = struct.Struct("<QQ8s")
_NUMBERS = struct.Struct("<QQQ")

_FIELDS = tuple(field.name for field in fields(LoggedState))


class UnfoldedState(LoggedState):
    """Has nothing of a session but its records: all else is there when it is asked for.

    To read a log takes a third of the time that it takes to fold it, and most programs that open a
    topic use some of its sessions.

    Attributes:
        name: the session's.
        is_folded: whether it is a state like any other.
        places: of each record that was read its offset, append time and token, as `PLACE` has them.
        values: of each its value.
    """

    __slots__ = ("fold", "is_folded", "name", "places", "values")

    def __init__(self, name: bytes, fold: Callable[[UnfoldedState], None]) -> None:
        """Belong to what folds the records into it."""
        self.name = name
        self.fold = fold
        self.is_folded = False
        self.places = bytearray()
        self.values: list[bytes] = []

    @property
    def records(self) -> Iterator[tuple[int, int, int, bytes]]:
        """Each record that was read: offset, append time, token, value."""
        places = _NUMBERS.iter_unpack(self.places)
        for (offset, now, token), value in zip(places, self.values, strict=True):
            yield offset, now, token, value

    def __getattr__(self, attribute: str) -> Any:
        """Fold what was read, after which everything is there."""
        if attribute not in _FIELDS or self.is_folded:
            raise AttributeError(attribute)
        self.is_folded = True
        try:
            self._start()
            self.fold(self)
        except BaseException:  # not readable: so it is the next time
            self.forget()
            self.is_folded = False
            raise
        self.places, self.values = bytearray(), []
        return getattr(self, attribute)

    def forget(self) -> None:
        """Have all of it be folded when it is asked for."""
        for name in _FIELDS:
            with contextlib.suppress(AttributeError):
                delattr(self, name)

    def _start(self) -> None:
        """Be what the session was before the first record."""
        LoggedState.__init__(self)
