"""Writing by many at once: threads, tasks, and processes."""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable

import pytest

from chatstores import ChatMessage
from chatstores.conformance import jobs
from chatstores.conformance.api import Api, at_once, until
from chatstores.conformance.fixtures import OpenStore
from chatstores.conformance.harness import Harness
from chatstores.conformance.texts import add_texts, contents, messages, texts
from chatstores.conformance.worker import in_processes
from chatstores.errors import ConflictError

WRITERS = 8
PROCESSES = 16


def in_each_writers_order(found: Iterable[str]) -> dict[str, list[int]]:
    """The numbers of texts such as ``3.17``, by writer."""
    numbers = defaultdict(list)
    for text in found:
        writer, number = text.split(".")[:2]
        numbers[writer].append(int(number))
    return numbers


@pytest.mark.clause("W1", decided=False)
def test_w1_every_reader_sees_the_same_order_now_and_later(api: Api) -> None:
    done = threading.Event()
    writing = threading.Barrier(4, action=done.set)

    def write(name: str) -> Callable[[Api], list[list[str]]]:
        def run(api: Api) -> list[list[str]]:
            for number in range(40):
                api.add_message("k", ChatMessage(f"{name}.{number}"))
            writing.wait()
            return []

        return run

    def read(api: Api) -> list[list[str]]:
        seen = []
        for _ in until(done):
            seen.append(texts(api, "k"))
        return seen

    readings = at_once(api, *(write(f"{number}") for number in range(4)), read, read)
    end = texts(api, "k")
    assert len(end) == 160
    for seen in [reading for reader in readings for reading in reader]:
        assert seen == end[: len(seen)]


@pytest.mark.clause("W2", decided=False)
def test_w2_nobody_elses_message_comes_between(api: Api) -> None:
    def write(name: str) -> Callable[[Api], None]:
        def run(api: Api) -> None:
            for number in range(10):
                add_texts(api, "k", *(f"{name}.{number}.{part}" for part in range(5)))

        return run

    at_once(api, *(write(f"{number}") for number in range(WRITERS)))
    found = texts(api, "k")
    assert len(found) == WRITERS * 50
    for start in range(0, len(found), 5):
        batch = found[start].rpartition(".")[0]
        assert found[start : start + 5] == [f"{batch}.{part}" for part in range(5)]


@pytest.mark.clause("W2", decided=False)
def test_w2_a_reader_sees_whole_batches(api: Api) -> None:
    done = threading.Event()

    def write(api: Api) -> list[int]:
        for number in range(30):
            add_texts(api, "k", *(f"{number}.{part}" for part in range(20)))
        done.set()
        return []

    def read(api: Api) -> list[int]:
        counts = []
        for _ in until(done):
            counts += [len(api.get_messages("k")), api.count_messages("k")]
        return counts

    for counts in at_once(api, write, read, read):
        assert all(count % 20 == 0 for count in counts)


@pytest.mark.clause("W3", decided=False)
def test_w3_a_reader_sees_the_old_list_or_the_new_one(api: Api) -> None:
    old = [f"old {number}" for number in range(300)]
    new = [f"new {number}" for number in range(200)]
    api.set_messages("k", messages(*old))
    done = threading.Event()

    def write(api: Api) -> list[list[str]]:
        for number in range(30):
            api.set_messages("k", messages(*(old if number % 2 else new)))
        done.set()
        return []

    def read(api: Api) -> list[list[str]]:
        seen = []
        for _ in until(done):
            seen.append(texts(api, "k"))
        return seen

    def read_parts(api: Api) -> list[list[str]]:
        for _ in until(done):
            assert contents(api.get_messages("k", last=2)) in (old[-2:], new[-2:])
            assert contents(api.get_messages("k", first=2)) in (old[:2], new[:2])
            assert contents(api.page("k", limit=3).messages) in (old[-3:], new[-3:])
            assert api.count_messages("k") in (300, 200)
        return []

    for reading in at_once(api, write, read, read_parts):
        assert all(seen in (old, new) for seen in reading)


@pytest.mark.clause("W4", decided=False)
def test_w4_no_message_is_lost(api: Api) -> None:
    def write(name: str) -> Callable[[Api], None]:
        def run(api: Api) -> None:
            for number in range(50):
                api.add_message("k", ChatMessage(f"{name}.{number}"))

        return run

    at_once(api, *(write(f"{number}") for number in range(WRITERS)))
    numbers = in_each_writers_order(texts(api, "k"))
    assert numbers == {f"{number}": list(range(50)) for number in range(WRITERS)}
    assert api.count_messages("k") == WRITERS * 50


@pytest.mark.clause("W4", decided=False)
def test_w4_no_message_of_a_loops_tasks_is_lost(open_store: OpenStore) -> None:
    store = open_store()

    async def write(name: int) -> None:
        for number in range(10):
            await store.aadd_message("k", ChatMessage(f"{name}.{number}"))

    async def run() -> list[str]:
        await asyncio.gather(*(write(name) for name in range(32)))
        return contents(await store.aget_messages("k"))

    numbers = in_each_writers_order(asyncio.run(run()))
    assert numbers == {f"{name}": list(range(10)) for name in range(32)}


@pytest.mark.clause("W4.processes", decided=False)
def test_w4_16_processes(harness: Harness, open_store: OpenStore, namespace: str) -> None:
    opener = harness.elsewhere(namespace=namespace)
    forms = ["sync", "async"] * (PROCESSES // 2)
    rows = [(opener, form, name) for name, form in enumerate(forms)]
    popped = [text for part in in_processes(jobs.add_and_pop, *rows) for text in part]
    store = open_store()
    numbers = in_each_writers_order(contents(store.get_messages("adds")))
    assert numbers == {f"{name}": list(range(jobs.ADDS)) for name in range(PROCESSES)}
    left = contents(store.get_messages("pops"))
    assert len(popped) == PROCESSES * jobs.ADDS // 4
    assert not set(popped) & set(left)
    assert sorted(popped + left) == sorted(
        f"{name}.{number}{part}"
        for name in range(PROCESSES)
        for number in range(0, jobs.ADDS, 4)
        for part in ("", ".2")
    )


@pytest.mark.clause("W5", decided=False)
def test_w5_concurrent_pops_get_distinct_messages(api: Api) -> None:
    expected = [f"{number}" for number in range(200)]
    add_texts(api, "k", *expected)

    def pop(api: Api) -> list[ChatMessage | None]:
        return [api.delete_last_message("k") for _ in range(20)]

    popped = at_once(api, *[pop] * WRITERS)
    found = [message.text for part in popped for message in part if message is not None]
    assert len(found) == WRITERS * 20
    assert sorted(found + texts(api, "k")) == sorted(expected)
    assert texts(api, "k") == expected[:40]


@pytest.mark.clause("W5", decided=False)
def test_w5_what_was_popped_is_not_still_there(api: Api) -> None:
    def add_and_pop(name: str) -> Callable[[Api], list[str]]:
        def run(api: Api) -> list[str]:
            popped = []
            for number in range(20):
                add_texts(api, "k", f"{name}.{number}", f"{name}.{number}.2")
                message = api.delete_last_message("k")
                assert message is not None
                assert message.text not in texts(api, "k")
                popped.append(message.text)
            return popped

        return run

    parts = at_once(api, *(add_and_pop(f"{number}") for number in range(4)))
    popped = [text for part in parts for text in part]
    assert len(set(popped)) == len(popped) == 80
    left = texts(api, "k")
    assert len(left) == 80
    assert not set(popped) & set(left)


@pytest.mark.clause("W6", decided=False)
def test_w6_an_id_is_removed_by_one_of_many(api: Api) -> None:
    some = messages(*(f"{number}" for number in range(20)))
    api.add_messages("k", some)

    def remove(api: Api) -> list[ChatMessage | None]:
        return [api.delete_message("k", id=message.id) for message in some]

    results = at_once(api, *[remove] * 4)
    for index, message in enumerate(some):
        found = [part[index] for part in results if part[index] is not None]
        assert found == [message]
    assert api.get_messages("k") == []


@pytest.mark.clause("W8", decided=False)
def test_w8_the_same_message_from_many_is_added_once(api: Api) -> None:
    some = messages(*(f"{number}" for number in range(10)))

    def add(api: Api) -> int:
        return sum(api.add_message("k", message).added for message in some)

    assert sum(at_once(api, *[add] * WRITERS)) == 10
    assert api.get_messages("k") == some


@pytest.mark.clause("W9", decided=False)
def test_w9_of_writers_at_one_version_one_wins(api: Api) -> None:
    def race(version: int) -> Callable[[Api], bool]:
        def run(api: Api) -> bool:
            try:
                api.add_message("k", ChatMessage("x"), expected_version=version)
            except ConflictError:
                return False
            return True

        return run

    for _ in range(10):
        version = api.get_version("k")
        assert sum(at_once(api, *[race(version)] * 4)) == 1
    assert api.count_messages("k") == 10


@pytest.mark.clause("W9", decided=False)
def test_w9_no_change_is_lost_between_read_and_write(api: Api) -> None:
    api.set_messages("k", [])

    def increment(api: Api) -> None:
        for _ in range(5):
            while True:
                info = api.get_session("k")
                assert info is not None
                count = info.metadata.get("count", 0) + 1
                try:
                    api.set_metadata("k", {"count": count}, expected_version=info.version)
                    break
                except ConflictError:
                    continue

    at_once(api, *[increment] * 4)
    info = api.get_session("k")
    assert info is not None
    assert info.metadata == {"count": 20}


@pytest.mark.clause("W11", decided=False)
def test_w11_what_is_trimmed_is_trimmed_once(api: Api) -> None:
    expected = [f"{number}" for number in range(200)]
    add_texts(api, "k", *expected)

    def trim(api: Api) -> list[str]:
        return [text for _ in range(5) for text in contents(api.delete_oldest("k", 7))]

    parts = at_once(api, *[trim] * 4)
    removed = [text for part in parts for text in part]
    assert sorted(removed) == sorted(expected[:140])
    assert texts(api, "k") == expected[140:]
