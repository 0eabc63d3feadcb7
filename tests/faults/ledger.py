"""A ledger of what callers were told, held against what a session holds at the end."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from dataclasses import dataclass, field

from chatstores import ChatMessage, ChatStore, Commit
from chatstores.errors import BackendUnavailableError, OutcomeUnknownError
from chatstores.transport import run_sync


@dataclass
class Ledger:
    """What was acknowledged, by message id; one for each session."""

    added: list[str] = field(default_factory=list)
    popped: list[str] = field(default_factory=list)
    unknown_adds: list[str] = field(default_factory=list)
    unknown_pops: int = 0
    unavailable: int = 0

    def check(self, left: list[str]) -> None:
        """Nothing lost, nothing twice, nothing popped and still there, each writer's order kept."""
        self.check_order(left)
        still = self.still_there(left)
        assert not still, f"popped and still there (at which index): {still}"
        twice = self.popped_twice()
        assert not twice, f"popped twice (after how many other pops of the session): {twice}"
        lost = self.lost(left)
        assert len(lost) <= self.unknown_pops, f"lost: {lost}"

    def check_order(self, left: list[str]) -> None:
        """What is left is what was added, once each and each writer's in order."""
        twice = [name for name, times in Counter(left).items() if times > 1]
        assert not twice, f"there twice: {twice}"
        strange = (set(left) | set(self.popped)) - set(self.added) - set(self.unknown_adds)
        assert not strange, f"never acknowledged, and not unknown: {sorted(strange)}"
        for writer in {name.split(".")[0] for name in left}:
            numbers = [int(name.split(".")[1]) for name in left if name.split(".")[0] == writer]
            assert numbers == sorted(numbers), f"writer {writer} out of order"

    def lost(self, left: list[str]) -> list[str]:
        """What was acknowledged, is not there, and was not popped by anyone who was told so."""
        return sorted(set(self.added) - set(left) - set(self.popped))

    def still_there(self, left: list[str]) -> dict[str, int]:
        """What was popped and is still there, with its index of so many."""
        popped = {*self.popped}
        return {name: index for index, name in enumerate(left) if name in popped}

    def popped_twice(self) -> dict[str, list[int]]:
        """What was popped twice, with the place of each pop among all that were answered."""
        twice = [name for name, times in Counter(self.popped).items() if times > 1]
        return {name: [n for n, one in enumerate(self.popped) if one == name] for name in twice}


class Load:
    """Threads that add to and pop from sessions of one store until told to stop.

    Args:
        store: the store.
        sessions: how many sessions.
        threads: how many threads, each on every session.
    """

    def __init__(self, store: ChatStore, sessions: int = 2, threads: int = 8) -> None:
        self.store = store
        self.ledgers = {f"session {n}": Ledger() for n in range(sessions)}
        self.in_flight = 0
        self.calls = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._failures: list[BaseException] = []
        self._threads = self._make_threads(threads)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self._failures:
            raise self._failures[0]

    def check(self) -> None:
        """Hold every session against its ledger."""
        for key, ledger in self.ledgers.items():
            ledger.check(self._left(key))

    def count_losses(self) -> tuple[int, int]:
        """Hold order against the ledgers; how many messages were lost, how many pops undone."""
        lost = came_back = 0
        for key, ledger in self.ledgers.items():
            left = self._left(key)
            ledger.check_order(left)
            lost += max(0, len(ledger.lost(left)) - ledger.unknown_pops)
            came_back += len({*ledger.still_there(left), *ledger.popped_twice()})
        return lost, came_back

    def _left(self, key: str) -> list[str]:
        return [message.id for message in self.store.get_messages(key)]

    @property
    def unknown(self) -> int:
        """How many outcomes stayed unknown."""
        return sum(len(one.unknown_adds) + one.unknown_pops for one in self.ledgers.values())

    @property
    def unavailable(self) -> int:
        """How many calls gave up before anything happened."""
        return sum(ledger.unavailable for ledger in self.ledgers.values())

    def _make_threads(self, number: int) -> list[threading.Thread]:
        return [threading.Thread(target=lambda n=n: run_sync(self._work(n))) for n in range(number)]

    async def _add(self, key: str, message: ChatMessage) -> Commit:
        return self.store.add_message(key, message)

    async def _pop(self, key: str) -> ChatMessage | None:
        return self.store.delete_last_message(key)

    async def _work(self, writer: int) -> None:
        chance = random.Random(writer)
        number = 0
        try:
            while not self._stop.is_set():
                key = chance.choice(list(self.ledgers))
                number += 1
                with self._lock:
                    self.in_flight += 1
                    self.calls += 1
                try:
                    await self._call(key, f"w{writer}.{number}", pop=chance.random() < 0.3)
                finally:
                    with self._lock:
                        self.in_flight -= 1
        except BaseException as exc:
            self._failures.append(exc)

    async def _call(self, key: str, name: str, pop: bool) -> None:
        ledger = self.ledgers[key]
        try:
            if pop:
                message = await self._pop(key)
                if message is not None:
                    ledger.popped.append(message.id)
            else:
                commit = await self._add(key, ChatMessage(f"text of {name}", id=name))
                assert commit.added == 1, f"{name} was there already"
                ledger.added.append(name)
        except OutcomeUnknownError:
            if pop:
                ledger.unknown_pops += 1
            else:
                ledger.unknown_adds.append(name)
        except BackendUnavailableError:
            ledger.unavailable += 1


class AsyncLoad(Load):
    """Tasks of one event loop instead of threads; the loop has a thread of its own."""

    def _make_threads(self, number: int) -> list[threading.Thread]:
        async def work() -> None:
            await asyncio.gather(*(self._work(n) for n in range(number)))

        return [threading.Thread(target=lambda: asyncio.run(work()))]

    async def _add(self, key: str, message: ChatMessage) -> Commit:
        return await self.store.aadd_message(key, message)

    async def _pop(self, key: str) -> ChatMessage | None:
        return await self.store.adelete_last_message(key)
