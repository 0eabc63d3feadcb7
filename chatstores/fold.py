"""Fold: the sessions of all namespaces, folded from commands; what memory and log stores read."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from itertools import islice

from chatstores.codec import Unreadable, decode_one
from chatstores.entries import decode_entry, encode_entry
from chatstores.operations import KeyPage, RecentPage
from chatstores.state import Command, Delete, Head, Outcome, SessionState, Snapshot

__all__ = ["Fold"]


class Fold:
    """Sessions in memory; its owner holds a lock around every call.

    Each method takes the time that decides expiry, in microseconds.
    """

    def __init__(self) -> None:
        self.namespaces: dict[str, dict[str, SessionState]] = {}

    def state(self, namespace: str, key: str) -> SessionState:
        """The state of a session, made if it is not there."""
        sessions = self.namespaces.setdefault(namespace, {})
        state = sessions.get(key)
        if state is None:
            state = sessions[key] = SessionState()
        return state

    def commit(self, namespace: str, key: str, command: Command, now: int) -> Outcome:
        """Do a command, unless it would remove a record that is not readable."""
        state = self.state(namespace, key)
        looks = (
            command.expected_version in (None, state.version) and command.id not in state.commands
        )
        if looks and isinstance(command.action, Delete) and state.is_live(now):
            for index in state.targets(command.action):
                try:
                    decode_one(state.payloads[index])
                except Unreadable:
                    return Outcome(state.version, refusal="corrupt", detail=str(index))
        return state.apply(command, now)

    def commit_logged(
        self, namespace: str, key: str, command: Command, now: int
    ) -> tuple[Outcome, bytes | None]:
        """`commit`, and the entry that a log must keep; None if there is nothing to keep.

        What was refused is not kept, even if it found its session expired: who folds the log ends
        the session at the same time, and would not know again why the command was refused.
        """
        state = self.state(namespace, key)
        before = state.version
        outcome = self.commit(namespace, key, command, now)
        if outcome.refusal is not None or state.version == before:
            return outcome, None
        return outcome, encode_entry(namespace, key, command, now)

    def replay(self, entry: bytes) -> None:
        """Do again what an entry of a log says.

        Raises:
            ValueError: it is not readable.
        """
        namespace, key, command, time = decode_entry(entry)
        self.state(namespace, key).apply(command, time)

    def read(
        self, namespace: str, key: str, first: int | None, last: int | None, now: int
    ) -> Sequence[bytes]:
        """The stored messages of a session: all, or the first or last so many."""
        state = self._live(namespace, key, now)
        if state is None or last == 0:
            return []
        return state.payloads[:first] if last is None else state.payloads[-last:]

    def head(self, namespace: str, key: str, now: int) -> Head | None:
        """The head of a live session."""
        state = self._live(namespace, key, now)
        return state.head() if state else None

    def snapshot(
        self, namespace: str, key: str, before: int | None, limit: int | None, now: int
    ) -> Snapshot | None:
        """The head of a live session and its newest rows below an ordinal."""
        state = self._live(namespace, key, now)
        if state is None:
            return None
        return Snapshot(state.head(), state.rows_before(before, limit))

    def list(self, namespace: str, prefix: str, after: str | None, limit: int, now: int) -> KeyPage:
        """Live sessions' keys in byte order."""
        keys = heapq.nsmallest(
            limit + 1,
            (
                key
                for key, _ in self._all_live(namespace, now)
                if key.startswith(prefix) and (after is None or key.encode() > after.encode())
            ),
            key=str.encode,
        )
        return KeyPage(keys[:limit], keys[limit - 1] if len(keys) > limit else None)

    def recent(
        self, namespace: str, before: tuple[int, str] | None, limit: int, now: int
    ) -> RecentPage:
        """Live sessions by last write, newest first."""
        found = heapq.nlargest(
            limit + 1,
            (
                (state.updated_at, key, state)
                for key, state in self._all_live(namespace, now)
                if before is None or (state.updated_at, key) < before
            ),
            key=lambda entry: entry[:2],
        )
        sessions = [(key, state.head()) for _, key, state in islice(found, limit)]
        return RecentPage(sessions, found[limit - 1][:2] if len(found) > limit else None)

    def expired(self, namespace: str, now: int) -> Sequence[str]:
        """The keys of the sessions whose time is over, and whose end nobody has seen yet."""
        sessions = self.namespaces.get(namespace, {})
        return [key for key, state in sessions.items() if state.alive and not state.is_live(now)]

    def purge(self, namespace: str, now: int) -> int:
        """End the sessions whose time is over, forget old markers; how many were ended."""
        sessions = self.namespaces.get(namespace, {})
        purged = sum(state.expire(now) for state in sessions.values())
        for key in [key for key, state in sessions.items() if state.is_forgettable(now)]:
            del sessions[key]
        return purged

    def _live(self, namespace: str, key: str, now: int) -> SessionState | None:
        state = self.namespaces.get(namespace, {}).get(key)
        return state if state is not None and state.is_live(now) else None

    def _all_live(self, namespace: str, now: int) -> Iterator[tuple[str, SessionState]]:
        for key, state in self.namespaces.get(namespace, {}).items():
            if state.is_live(now):
                yield key, state
