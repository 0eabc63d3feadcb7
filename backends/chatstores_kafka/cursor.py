"""consume: a session read on from where a group stopped; Kafka keeps the group's position.

The position is the committed offset of a consumer group of its own for each group and session,
since Kafka keeps one per partition, and many sessions share a partition. What counts stands in its
metadata, ``<epoch>.<ordinal>.<source>`` of the last consumed row: an offset is no place in a
session whose rows were removed or replaced. Where the log was cut off, the session's birth may be
gone, and its epoch be another one: then the row is found by its source.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from chatstores.codec import Unreadable, decode
from chatstores.errors import BackendMismatchError, InvalidArgumentError, PermissionDeniedError
from chatstores.message import ChatMessage
from chatstores.state import now_us
from chatstores_kafka.record import name_of
from chatstores_kafka.state import LoggedState, offset_of
from chatstores_kafka.transport import AsyncKafka, SilentError, SyncKafka
from chatstores_kafka.view import View

if TYPE_CHECKING:
    from chatstores_kafka.store import KafkaChatStore

__all__ = ["consume"]

T = TypeVar("T")
KafkaTransport = SyncKafka | AsyncKafka

_POSITIONS = ("beginning", "latest", "last_consumed")
_GROUP_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
#: The longest wait in seconds, decades: what a clock still adds without a thought.
_LONGEST = 1e9


class Position(NamedTuple):
    """How far a group has consumed a session.

    Attributes:
        epoch: the session's when it was consumed; another one is consumed from its first row.
        ordinal: the last consumed row's.
        source: where that row stands in the log; -1 if there is none.
    """

    epoch: int
    ordinal: int
    source: int


_BEGINNING = Position(0, 0, -1)


async def consume(
    store: KafkaChatStore,
    t: Any,
    key: str,
    group: str,
    position: str,
    max_message_count: int | None,
    max_time_sec: float | None,
) -> list[ChatMessage]:
    """See `KafkaChatStore.consume`."""
    store._check_key(key)
    _check_group(group)
    limit, seconds = None, 0.0
    if max_message_count is not None:
        limit = store._check_count("max_message_count", max_message_count)
    if max_time_sec is not None:
        seconds = _check_seconds(max_time_sec)
    if position not in _POSITIONS:
        raise InvalidArgumentError(
            f"position must be one of {', '.join(_POSITIONS)}, not {position!r:.80}"
        )
    start = _BEGINNING
    if position == "last_consumed":
        start = await store._run(t, partial(_committed, store), key, group)
    elif position == "latest":
        start = await store._run(t, partial(_end, store), key)
    payloads, end = await store._run(t, partial(_rows, store), key, start, limit)
    while not payloads and seconds > 0 and limit != 0:
        # In parts, so that brokers which went away are noticed within the store's timeout.
        part = min(seconds, store._timeout)
        await store._run(t, partial(_wait, store), key, start, part)
        seconds -= part
        payloads, end = await store._run(t, partial(_rows, store), key, start, limit)
    try:
        messages = decode(payloads)
    except Unreadable:
        messages = await store._decode_each(t, key, payloads)
    # Also where nothing came: Kafka forgets a position that was not written for a week.
    await store._run(t, partial(_commit, store), key, group, end)
    return messages


def _check_group(group: Any) -> None:
    if not isinstance(group, str) or not 1 <= len(group) <= 200 or set(group) - _GROUP_CHARACTERS:
        raise InvalidArgumentError(
            f"{group!r:.80} is no group's name: 1 to 200 of the characters A-Z a-z 0-9 . _ -"
        )


def _check_seconds(value: Any) -> float:
    if type(value) not in (int, float) or not value >= 0:
        raise InvalidArgumentError(
            f"max_time_sec must be a number of seconds, 0 or more, not {value!r:.80}"
        )
    return float(min(value, _LONGEST))


# The session.


async def _place(store: KafkaChatStore, t: KafkaTransport, key: str) -> tuple[View, int, bytes]:
    """The view, and a session's partition and name."""
    store._transports._refuse_if_closed()  # while it waited
    view = await store._view(t)
    name = name_of(store._namespace, key)
    return view, store._partition(view, name), name


async def _read(
    store: KafkaChatStore, t: KafkaTransport, key: str, look: Callable[[LoggedState | None], T]
) -> T:
    """What a look at a session finds, None if it is not there; it sees every finished write."""
    view, partition, name = await _place(store, t, key)
    await store._loaded(t, view, partition, linearizable=True)
    with view.lock:
        return look(_live(view, partition, name))


def _live(view: View, partition: int, name: bytes) -> LoggedState | None:
    state = view.state(partition, name)
    return state if state is not None and state.is_live(now_us()) else None


async def _end(store: KafkaChatStore, t: KafkaTransport, key: str) -> Position:
    """The position at the end of a session."""

    def look(state: LoggedState | None) -> Position:
        if state is None:
            return _BEGINNING
        source = state.sources[-1] if state.sources else -1
        return Position(state.epoch, state.last_ordinal, source)

    return await _read(store, t, key, look)


async def _rows(
    store: KafkaChatStore, t: KafkaTransport, key: str, start: Position, limit: int | None
) -> tuple[Sequence[bytes], Position]:
    """The stored messages after a position, at most so many; and the position after these."""

    def look(state: LoggedState | None) -> tuple[Sequence[bytes], Position]:
        rows = _behind(state, start)
        if limit is not None:
            rows = rows[:limit]
        if state is None or not rows:
            return [], start
        last = rows[-1]
        end = Position(state.epoch, state.ordinals[last], state.sources[last])
        return state.payloads[rows[0] : rows[-1] + 1], end

    return await _read(store, t, key, look)


def _behind(state: LoggedState | None, start: Position) -> range:
    """The indexes of a session's rows after a position."""
    if state is None:
        return range(0)
    if state.epoch == start.epoch:
        first = bisect_right(state.ordinals, start.ordinal)
    else:
        first = state.sources.index(start.source) + 1 if start.source in state.sources else 0
    return range(first, len(state.ids))


async def _wait(
    store: KafkaChatStore, t: KafkaTransport, key: str, start: Position, seconds: float
) -> None:
    """Return when there is a message after a position, or after so many seconds."""
    view, partition, name = await _place(store, t, key)
    came = view.when(partition, lambda: bool(_behind(_live(view, partition, name), start)))
    try:
        await t.within(seconds).wait(came)
    except SilentError:
        pass
    finally:
        came.cancelled = True


# The position.


async def _committed(store: KafkaChatStore, t: KafkaTransport, key: str, group: str) -> Position:
    """Where a group stopped."""

    def ask(client: Consumer, place: TopicPartition) -> Position:
        [found] = client.committed([place], timeout=t.seconds)
        if found.error is not None:
            raise KafkaException(found.error)
        if found.offset < 0:  # there is none
            return _BEGINNING
        try:
            return Position(*map(int, (found.metadata or "").split(".")))
        except (TypeError, ValueError):
            raise BackendMismatchError(
                f"the offset of the consumer group {_group_id(store, key, group)!r} was committed "
                'by another program; consume from "beginning" or "latest" to set it anew'
            ) from None

    return await _with_client(store, t, key, group, ask)


async def _commit(
    store: KafkaChatStore, t: KafkaTransport, key: str, group: str, end: Position
) -> None:
    """Note where a group stopped."""

    def tell(client: Consumer, place: TopicPartition) -> None:
        position = f"{end.epoch}.{end.ordinal}.{end.source}"
        # Kafka's own tools show the offset: where the log goes on after that row's record.
        offset = offset_of(end.source) + 1
        there = TopicPartition(place.topic, place.partition, offset, position)
        for done in client.commit(offsets=[there], asynchronous=False):
            if done.error is not None:
                raise KafkaException(done.error)

    await _with_client(store, t, key, group, tell)


async def _with_client(
    store: KafkaChatStore,
    t: KafkaTransport,
    key: str,
    group: str,
    use: Callable[[Consumer, TopicPartition], T],
) -> T:
    """What is done with a client of a consumer group, which blocks, and a partition."""
    view, partition, _ = await _place(store, t, key)

    def work() -> T:
        client = view.clients.group_client(_group_id(store, key, group), t.seconds)
        try:
            return use(client, TopicPartition(view.settings.name, partition))
        except KafkaException as exc:
            heard = client.poll(0)  # what it was told while it waited
            error = None if heard is None else heard.error()
            if error is None or error.code() != KafkaError.GROUP_AUTHORIZATION_FAILED:
                raise
            raise PermissionDeniedError(
                f"this user may not keep the position of the group {group!r}: it needs the ACL "
                f"Read on the groups that begin with {f'{store._topic}.'!r}"
            ) from exc
        finally:
            client.close()

    return await t.offload(work)


def _group_id(store: KafkaChatStore, key: str, group: str) -> str:
    """The consumer group for a group and a session."""
    text = f"{store._topic}\0{group}\0{store._namespace}\0{key}"
    return f"{store._topic}.{group}.{blake2b(text.encode(), digest_size=16).hexdigest()}"
