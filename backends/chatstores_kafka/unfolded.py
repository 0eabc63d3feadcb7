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

    To read a log takes a quarter of the time that it takes to fold it, and most programs that open
    a topic use some of its sessions.

    Args:
        name: the session's.
        fold: folds what was read into the state.
    """

    __slots__ = ("_fold", "name", "numbers", "values")

    def __init__(self, name: bytes, fold: Callable[[UnfoldedState], None]) -> None:
        self.name = name
        self._fold: Callable[[UnfoldedState], None] | None = fold
        #: Of each record: its offset, append time and token; and its value.
        self.numbers = array("Q")
        self.values: list[bytes] = []

    @property
    def is_folded(self) -> bool:
        """Whether it is a state like any other."""
        return self._fold is None

    @property
    def records(self) -> Iterator[tuple[int, int, int, bytes]]:
        """Each record that was noted: offset, append time, token, value."""
        numbers = self.numbers
        return zip(numbers[::3], numbers[1::3], numbers[2::3], self.values, strict=True)

    def __getattr__(self, attribute: str) -> Any:
        """Fold what was read, after which everything is there."""
        fold = self._fold
        if fold is None:
            raise AttributeError(attribute)
        self._fold = None
        LoggedState.__init__(self)
        try:
            fold(self)
        except BaseException:  # not readable: so it is the next time
            for name in _FIELDS:
                with contextlib.suppress(AttributeError):
                    delattr(self, name)
            self._fold = fold
            raise
        self.numbers, self.values = array("Q"), []
        return getattr(self, attribute)
