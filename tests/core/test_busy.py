"""A hook that is busy: it is called again until the limit, and what that says of the outcome."""

from __future__ import annotations

import asyncio
import time

import pytest

from chatstores import ChatMessage
from chatstores.errors import (
    BackendUnavailableError,
    ChatStoreError,
    ContentionError,
    OutcomeUnknownError,
)
from chatstores.retry import Busy
from chatstores.state import Command, Outcome
from chatstores_memory import MemoryChatStore


class Away(Exception):
    """The driver's: the server is away."""


class Scripted(MemoryChatStore):
    """A write meets these errors one after another, then the last of them for ever."""

    _driver_errors = (Away,)

    def __init__(self, *errors: Exception | None, timeout: float = 5.0) -> None:
        super().__init__(timeout=timeout)
        self.errors = list(errors)
        self.ages: list[int] = []

    def _error(self, exc: BaseException) -> ChatStoreError:
        return BackendUnavailableError("the server is away")

    async def _commit(self, t: object, key: str, command: Command) -> Outcome:
        self.ages.append(command.age)
        error = self.errors.pop(0) if len(self.errors) > 1 else self.errors[0]
        if error is not None:
            raise error
        return await super()._commit(t, key, command)


BUSY = Busy("another process writes")


def test_u3_a_busy_hook_is_called_again() -> None:
    store = Scripted(*[BUSY] * 5, None)
    assert store.add_message("k", ChatMessage("x")).added == 1
    assert store.ages == [0] * 6  # it never happened before
    store.errors = [BUSY, BUSY, None]
    assert asyncio.run(store.aadd_message("k", ChatMessage("y"))).added == 1


def test_u3_a_busy_hook_ends_at_the_limit_not_at_the_timeout() -> None:
    cause = Away("locked")
    busy = Busy("another process writes")
    busy.__cause__ = cause
    store = Scripted(busy, timeout=0.05)
    store._contention_limit = 0.4
    began = time.monotonic()
    with pytest.raises(ContentionError, match=r"^another process writes, for 0\.4 s$") as caught:
        store.add_message("k", ChatMessage("x"))
    assert time.monotonic() - began >= 0.3
    assert caught.value.__cause__ is cause
    assert store.count_messages("k") == 0


def test_w10_a_busy_hook_after_a_lost_answer_is_of_unknown_outcome() -> None:
    store = Scripted(Away(), BUSY)
    store._contention_limit = 0.2
    with pytest.raises(OutcomeUnknownError):
        store.add_message("k", ChatMessage("x"))
    assert store.ages[0] == 0
    assert all(age > 0 for age in store.ages[1:])
    assert sorted(store.ages) == store.ages


def test_u3_the_time_that_others_took_is_no_silence() -> None:
    store = Scripted(*[BUSY] * 30, Away(), Away(), None, timeout=0.3)
    assert store.add_message("k", ChatMessage("x")).added == 1
