"""UnfoldedState: a session whose records were read, and are folded when it is first used."""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

from chatstores_kafka.state import LoggedState

__all__ = ["UnfoldedState"]

_FIELDS = tuple(field.name for field in fields(LoggedState))


class UnfoldedState(LoggedState):
    """Has nothing of a session but its records: all else is there when it is asked for.

    To read a log takes a third of the time that it takes to fold it, and most programs that open a
    topic use some of its sessions.

    Attributes:
        name: the session's.
        is_folded: whether it is a state like any other.
        numbers: of each record that was read its offset, append time and token.
        values: of each its value.
    """

    __slots__ = ("fold", "is_folded", "name", "numbers", "values")

    def __init__(self, name: bytes, fold: Callable[[UnfoldedState], None]) -> None:
        """Belong to what folds the records into it."""
        self.name = name
        self.fold = fold
        self.is_folded = False
        self.numbers = array("Q")
        self.values: list[bytes] = []

    @property
    def records(self) -> Iterator[tuple[int, int, int, bytes]]:
        """Each record that was read: offset, append time, token, value."""
        numbers = self.numbers
        return zip(numbers[::3], numbers[1::3], numbers[2::3], self.values, strict=True)

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
        self.numbers, self.values = array("Q"), []
        return getattr(self, attribute)

    def forget(self) -> None:
        """Have all of it be folded when it is asked for."""
        for name in _FIELDS:
            with contextlib.suppress(AttributeError):
                delattr(self, name)

    def _start(self) -> None:
        """Be what the session was before the first record."""
        LoggedState.__init__(self)
