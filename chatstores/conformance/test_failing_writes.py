"""The same command again, and writes that fail on their way (W10)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from chatstores import ChatMessage, Commit
from chatstores.codec import encode
from chatstores.conformance import jobs
from chatstores.conformance.api import Api, at_once, new_command
from chatstores.conformance.fixtures import OpenApi, OpenStore
from chatstores.conformance.harness import Harness
from chatstores.conformance.test_writing import Write, every_write, three
from chatstores.conformance.texts import add_texts, contents, messages, texts, unchanged
from chatstores.conformance.worker import Worker
from chatstores.errors import BackendUnavailableError, ConflictError, OutcomeUnknownError
from chatstores.state import (
    Action,
    Append,
    Clear,
    Delete,
    Edit,
    Outcome,
    Record,
    Replace,
    Restore,
    SetMetadata,
)

#: A command that comes again says how long ago its call began; here a minute, in microseconds.
AGE = 60_000_000


# W10: the same command again.


def record(message: ChatMessage) -> Record:
    """A message as commands hold it."""
    return Record(message.id, encode(message))


#: Commands on a session of the messages m0, m1, m2 with some metadata.
ACTIONS: dict[str, Callable[[list[ChatMessage]], Action]] = {
    "append": lambda m: Append([record(ChatMessage("new")), record(ChatMessage("newer"))]),
    "append what is there": lambda m: Append([record(m[1]), record(m[2])]),
    "append nothing": lambda m: Append([]),
    "delete last": lambda m: Delete("last"),
    "delete at index": lambda m: Delete("index", 1),
    "delete at no index": lambda m: Delete("index", 3),
    "delete by id": lambda m: Delete("id", m[0].id),
    "delete oldest": lambda m: Delete("oldest", 2),
    "delete after": lambda m: Delete("after", m[0].id),
    "delete after none": lambda m: Delete("after", "none"),
    "edit": lambda m: Edit(record(ChatMessage("changed", id=m[1].id))),
    "edit none": lambda m: Edit(record(ChatMessage("changed"))),
    "replace": lambda m: Replace([record(ChatMessage("set")), record(m[1])]),
    "replace by none": lambda m: Replace([]),
    "restore": lambda m: Restore([record(m[1])] * 2, b'{"a":1}', b"{}", 1_000_000, 2_000_000, None),
    "clear": lambda m: Clear(),
    "metadata": lambda m: SetMetadata(b'{"title":"new"}'),
    "own metadata": lambda m: SetMetadata(b'{"chatstores.x":1}', own=True),
}

every_action = pytest.mark.parametrize("action", ACTIONS.values(), ids=ACTIONS)


def plain(outcome: Outcome) -> Outcome:
    """An outcome that can be compared."""
    return outcome._replace(removed=[bytes(payload) for payload in outcome.removed])


@pytest.mark.clause("W10")
@every_action
def test_w10_a_command_again_answers_as_the_first_time(
    api: Api, action: Callable[[list[ChatMessage]], Action]
) -> None:
    command = new_command(action(three(api)))
    again = command._replace(age=AGE)
    first = plain(api.commit("k", command))
    with unchanged(api, "k"):
        assert plain(api.commit("k", again)) == first
    add_texts(api, "k", "another's")
    api.delete_oldest("k", 1)
    with unchanged(api, "k"):
        assert plain(api.commit("k", again)) == first
    api.set_messages("k", [])
    with unchanged(api, "k"):
        assert plain(api.commit("k", again)) == first
    api.delete_messages("k")
    assert plain(api.commit("k", again)) == first
    assert api.get_session("k") is None
    add_texts(api, "k", "a new life")
    with unchanged(api, "k"):
        assert plain(api.commit("k", again)) == first


@pytest.mark.clause("W10")
@every_action
def test_w10_a_refused_command_again_is_refused_again(
    api: Api, action: Callable[[list[ChatMessage]], Action]
) -> None:
    some = three(api)
    what = action(some)
    version = api.get_version("k")
    add_texts(api, "k", "another's")
    command = new_command(what, version)
    first = plain(api.commit("k", command))
    for _ in range(2):
        with unchanged(api, "k"):
            assert plain(api.commit("k", command._replace(age=AGE))) == first
        api.delete_last_message("k")


@pytest.mark.clause("W10")
def test_w10_the_last_16_commands_are_remembered(api: Api) -> None:
    some = three(api)
    command = new_command(Append([record(ChatMessage("new"))]))
    first = api.commit("k", command)
    for number in range(15):
        api.add_message("k", ChatMessage(f"{number}"))
    with unchanged(api, "k"):
        assert plain(api.commit("k", command._replace(age=AGE))) == plain(first)
    assert api.get_messages("k")[:3] == some


@pytest.mark.clause("W10")
@every_action
def test_w10_a_forgotten_command_is_not_done_again(
    api: Api, action: Callable[[list[ChatMessage]], Action]
) -> None:
    command = new_command(action(three(api)))
    first = plain(api.commit("k", command))
    for number in range(40):
        api.add_message("k", ChatMessage(f"{number}"))
    with unchanged(api, "k"):
        again = plain(api.commit("k", command._replace(age=AGE)))
    assert again == first or again.refusal == "unknown"


@pytest.mark.clause("W10")
def test_w10_commands_are_a_sessions_own(api: Api) -> None:
    command = new_command(Append([record(ChatMessage("new"))]))
    for key in ["a", "b"]:
        assert api.commit(key, command).added == 1
        assert texts(api, key) == ["new"]


# W10: faults.


def outcome_of(result: Any) -> Any:
    """What a write returned, without versions and ids."""
    if isinstance(result, Commit):
        return result.added
    if isinstance(result, list):
        return contents(result)
    return result.text if isinstance(result, ChatMessage) else result


def state_of(api: Api) -> Any:
    """What a session holds, without versions, times and ids."""
    info = api.get_session("k")
    return texts(api, "k"), info and (info.count, info.metadata)


@pytest.mark.clause("W10", decided=False)
@every_write
@pytest.mark.parametrize("times", [1, 2])
def test_w10_a_write_whose_answer_is_lost_is_done_once(
    harness: Harness, open_api: OpenApi, namespace: str, write: Write, times: int
) -> None:
    api, control = open_api(), open_api(namespace=f"{namespace}.2")
    expected = outcome_of(write(control, three(control)))
    some = three(api)
    with harness.dropped_replies(times) as drops:
        result = write(api, some)
        assert drops.count == times
    assert outcome_of(result) == expected
    assert state_of(api) == state_of(control)
    if isinstance(result, Commit):
        assert result.version == api.get_version("k")
    assert add_texts(api, "k", "next").added == 1


@pytest.mark.clause("W10", decided=False)
@every_write
def test_w10_a_refusal_whose_answer_is_lost_is_still_one(
    harness: Harness, api: Api, write: Write
) -> None:
    some = three(api)
    version = api.get_version("k")
    with unchanged(api, "k"), harness.dropped_replies(1) as drops:
        with pytest.raises(ConflictError) as caught:
            write(api, some, expected_version=version - 1)
        assert drops.count == 1
    assert caught.value.actual == version


@pytest.mark.clause("W10", decided=False)
def test_w10_many_lost_answers_among_many_writers(harness: Harness, api: Api) -> None:
    expected = [f"{number}" for number in range(120)]
    add_texts(api, "k", *expected)

    def pop(api: Api) -> tuple[list[str], int]:
        popped, unknown = [], 0
        for _ in range(15):
            try:
                message = api.delete_last_message("k")
            except OutcomeUnknownError:
                unknown += 1
                continue
            assert message is not None
            popped.append(message.text)
        return popped, unknown

    with harness.dropped_replies(12) as drops:
        parts = at_once(api, *[pop] * 4)
        assert drops.count == 12
    popped = [text for part, _ in parts for text in part]
    unknown = sum(number for _, number in parts)
    left = texts(api, "k")
    assert len(set(popped)) == len(popped)
    assert not set(popped) & set(left)
    assert 0 <= len(expected) - len(popped) - len(left) <= unknown


@pytest.mark.clause("W10", decided=False)
@every_write
def test_w10_a_write_to_a_silent_server_happens_wholly_or_not_at_all(
    harness: Harness, open_api: OpenApi, namespace: str, write: Write
) -> None:
    api, control = open_api(timeout=0.3), open_api(namespace=f"{namespace}.2")
    some = three(api)
    before = state_of(api)
    write(control, three(control))
    with harness.silent(), pytest.raises(BackendUnavailableError):
        write(api, some)
    assert state_of(api) in (before, state_of(control))
    assert add_texts(api, "k", "next").added == 1


def whole_batches(found: list[str]) -> set[str]:
    """The names of the batches of 5 that a session consists of."""
    names = [text.rpartition(".")[0] for text in found[::5]]
    assert found == [f"{name}.{part}" for name in names for part in range(5)]
    assert len(set(names)) == len(names)
    return set(names)


@pytest.mark.clause("W10", decided=False)
def test_w10_a_killed_writer_leaves_whole_writes(
    harness: Harness, api: Api, namespace: str
) -> None:
    chance = random.Random(10)
    acknowledged: set[str] = set()
    for number in range(3):
        opener = harness.elsewhere(namespace=namespace)
        with Worker(jobs.add_batches, opener, api.form, f"{number}") as worker:
            worker.wait_until_ready()
            worker.go()
            values = worker.values()
            acknowledged |= {next(values) for _ in range(chance.randrange(1, 40))}
            worker.kill()
            acknowledged |= set(values)
    there = whole_batches(texts(api, "k"))
    assert acknowledged <= there
    assert len(there) <= len(acknowledged) + 3
    assert add_texts(api, "k", "next").added == 1


@pytest.mark.clause("W10", decided=False)
def test_w10_a_cancelled_write_happens_wholly_or_not_at_all(open_store: OpenStore) -> None:
    store = open_store()
    chance = random.Random(10)

    async def add(number: int) -> str:
        await store.aadd_messages("k", messages(*(f"{number}.{part}" for part in range(5))))
        return f"{number}"

    async def run() -> list[object]:
        results: list[object] = []
        for number in range(0, 160, 4):
            tasks = [asyncio.ensure_future(add(number + task)) for task in range(4)]
            await asyncio.sleep(chance.choice([0, 0, 0.0002, 0.0005, 0.001, 0.003]))
            for task in tasks[:3]:
                task.cancel()
            results += await asyncio.gather(*tasks, return_exceptions=True)
            assert await store.acount_messages("k") % 5 == 0
        assert (await store.aadd_message("k2", ChatMessage("next"))).added == 1
        await store.aclose()
        return results

    results = asyncio.run(run())
    assert all(isinstance(result, str | asyncio.CancelledError) for result in results)
    acknowledged = {result for result in results if isinstance(result, str)}
    with open_store() as fresh:
        assert acknowledged <= whole_batches(contents(fresh.get_messages("k")))


@pytest.mark.clause("W10", decided=False)
def test_w10_nobody_gets_the_answer_of_a_cancelled_call(open_store: OpenStore) -> None:
    store = open_store()
    store.add_messages("long", messages(*("x" * 1_000 for _ in range(200))))
    store.add_messages("short", messages("1", "2"))
    store.close()
    store = open_store()
    chance = random.Random(10)

    async def run() -> None:
        for number in range(60):
            task = asyncio.ensure_future(store.aget_messages("long"))
            await asyncio.sleep(chance.choice([0, 0.0002, 0.0005, 0.001]))
            task.cancel()
            assert contents(await store.aget_messages("short")) == ["1", "2"]
            assert (await store.aset_messages("new", [])).added == 0
            await asyncio.gather(task, return_exceptions=True)
            assert await store.acount_messages("long") == 200, number
        await store.aclose()

    asyncio.run(run())
