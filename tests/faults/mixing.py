"""Processes that add, pop, delete, set and read one session, held against what each was told.

An add and a set are told the version of their commit, so the order of all of them is known, and
with it what any reader may see.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from chatstores import ChatMessage, ChatStore
from chatstores.conformance.api import using
from chatstores.conformance.worker import in_processes

__all__ = ["mix"]

_SET = 20
_KEY = "mixed"


@dataclass
class _Told:
    """What a process was told; a message is named by its id."""

    adds: dict[int, list[str]] = field(default_factory=dict)
    """By version."""
    sets: dict[int, list[str]] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)
    reads: list[list[str]] = field(default_factory=list)


def mix(store: ChatStore, opener: Callable[[], ChatStore], adds: int, processes: int = 16) -> str:
    """Let so many processes change one session, and check all that they were told.

    Args:
        store: the store.
        opener: what opens the same store elsewhere; it is pickled.
        adds: how many each adds.
        processes: how many; every other one runs coroutines.

    Returns:
        What there was, for people.
    """
    rows = [(opener, ("sync", "async")[n % 2], n, adds) for n in range(processes)]
    told: list[_Told] = in_processes(_change, *rows)
    for one in told:
        assert list(one.adds) == sorted(one.adds), "a writer's own order is not kept"
    commits = sorted((version, ids) for one in told for version, ids in one.adds.items())
    sets = sorted((version, ids) for one in told for version, ids in one.sets.items())
    removed = Counter(name for one in told for name in one.removed)
    reads = [read for one in told for read in one.reads]
    left = [message.id for message in store.get_messages(_KEY)]

    assert len(commits) == processes * adds
    log = sorted(commits + sets)
    assert len({version for version, _ in log}) == len(log), "two commits of one version"
    assert not (removed - Counter(set(removed))), "removed twice"
    for read in [*reads, left]:
        _check_read(read, log, [version for version, _ in sets], set(removed))
    last = sets[-1][0]
    told_of = [name for version, ids in log if version >= last for name in ids]
    assert left == [name for name in told_of if name not in removed], "lost, or came back"
    return (
        f"{processes} processes on one session: {len(commits)} adds, {len(sets)} sets, "
        f"{len(removed)} messages removed, {len(reads)} reads"
    )


def _change(opener: Callable[[], ChatStore], form: str, name: int, adds: int) -> _Told:
    told = _Told()
    with using(opener(), form) as api:
        for number in range(adds):
            message = ChatMessage("text", id=f"{name}.{number}")
            told.adds[api.add_message(_KEY, message).version] = [message.id]
            match (number + name) % 10:
                case 2 | 6:
                    removed = api.delete_last_message(_KEY)
                    told.removed += [removed.id] if removed else []
                case 4 | 8:
                    removed = api.delete_message(_KEY, (0, -2, 5)[number % 3])
                    told.removed += [removed.id] if removed else []
                case 5:
                    told.reads.append([message.id for message in api.get_messages(_KEY)])
            if (number + 3 * name) % 20 == 0:
                some = [ChatMessage("text", id=f"set{name}.{number}.{n}") for n in range(_SET)]
                told.sets[api.set_messages(_KEY, some).version] = [one.id for one in some]
    return told


def _check_read(
    read: list[str], log: list[tuple[int, list[str]]], sets: list[int], removed: set[str]
) -> None:
    """A read shows one moment: a set and the adds after it, without what was removed."""
    version_of = {name: version for version, ids in log for name in ids}
    newest = max((version_of[name] for name in read), default=0)
    begun = max((version for version in sets if version <= newest), default=0)
    expected = [name for version, ids in log if begun <= version <= newest for name in ids]
    assert [name for name in expected if name in read] == read, "out of order, twice, or mixed"
    assert set(expected) - set(read) <= removed, "a read misses what nobody removed"
