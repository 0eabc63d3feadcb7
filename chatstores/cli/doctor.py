"""Looking for records that cannot be read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from chatstores.cli.output import Counter
from chatstores.codec import Unreadable, decode, decode_metadata, decode_one
from chatstores.errors import CorruptRecordError
from chatstores.snapshot.formats import DECODED
from chatstores.store import ChatStore
from chatstores.transport import run_sync

__all__ = ["unreadable"]


def unreadable(store: ChatStore, counter: Counter) -> Iterator[CorruptRecordError]:
    """Every record of a store that cannot be read; one session at a time is in memory.

    Args:
        store: the store.
        counter: counts the sessions and messages that were looked at.
    """
    try:
        for key in store.iter_keys():
            yield from _in_session(store, key, counter)
            counter.step()
    except CorruptRecordError as exc:  # the list of sessions itself
        yield exc


def _in_session(store: ChatStore, key: str, counter: Counter) -> Iterator[CorruptRecordError]:
    t = store._transports.sync()
    try:
        snapshot = run_sync(store._run(t, store._snapshot, key, None, None))
    except CorruptRecordError as exc:
        counter.sessions += 1
        yield exc
        return
    if snapshot is None:  # it is gone since it was listed
        return
    counter.sessions += 1
    counter.messages += len(snapshot.rows)
    for text in (snapshot.head.metadata, snapshot.head.own):
        try:
            decode_metadata(text)
        except Unreadable as exc:
            yield CorruptRecordError(key, None, str(exc))
    for start in range(0, len(snapshot.rows), DECODED):
        payloads = [payload for _, payload in snapshot.rows[start : start + DECODED]]
        yield from _among(key, start, payloads)


def _among(key: str, start: int, payloads: Sequence[bytes]) -> Iterator[CorruptRecordError]:
    try:
        decode(payloads)
    except Unreadable:
        for position, payload in enumerate(payloads, start):
            try:
                decode_one(payload)
            except Unreadable as exc:
                yield CorruptRecordError(key, position, str(exc))
