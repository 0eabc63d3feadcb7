"""Reading: what is there, the last of it, and walks through it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import pytest

from chatstores import ChatMessage, Page
from chatstores.conformance import jobs
from chatstores.conformance.api import Api
from chatstores.conformance.fixtures import OpenApi, OpenStore
from chatstores.conformance.harness import Harness
from chatstores.conformance.test_messages import MESSAGES, assert_same
from chatstores.conformance.texts import add_texts, contents, messages, texts
from chatstores.conformance.worker import in_processes
from chatstores.errors import BackendUnavailableError, InvalidArgumentError, StaleCursorError

READS: list[Callable[[Api], Any]] = [
    lambda api: api.get_messages("k"),
    lambda api: api.get_messages("k", last=5),
    lambda api: api.get_messages("k", first=5),
    lambda api: api.count_messages("k"),
    lambda api: api.get_version("k"),
    lambda api: api.get_session("k"),
    lambda api: api.page("k").messages,
    lambda api: api.get_keys(),
    lambda api: list(api.iter_keys("k")),
    lambda api: api.list_sessions().sessions,
    lambda api: api.purge_expired(),
]
NOTHING: list[Any] = [[], [], [], 0, 0, None, [], [], [], [], 0]


@pytest.mark.clause("R1")
def test_r1_a_session_never_written(api: Api) -> None:
    for _ in range(2):
        assert [read(api) for read in READS] == NOTHING


@pytest.mark.clause("R1")
def test_r1_a_deleted_session_reads_as_one_never_written(api: Api) -> None:
    add_texts(api, "k", "1", "2")
    api.delete_messages("k")
    assert [read(api) for read in READS] == NOTHING


@pytest.mark.clause("R1")
def test_r1_an_emptied_session_is_there(api: Api) -> None:
    add_texts(api, "k", "1")
    api.delete_last_message("k")
    assert api.get_messages("k") == []
    assert api.count_messages("k") == 0
    assert api.get_version("k") > 0
    assert api.get_session("k") is not None
    assert api.page("k") == Page([], None)
    assert api.get_keys() == ["k"]


@pytest.mark.clause("R1")
def test_r1_reading_creates_nothing(api: Api) -> None:
    for read in READS:
        read(api)
    assert api.add_message("k", ChatMessage("1"), expected_version=0).added == 1


@pytest.mark.clause("R1")
def test_r1_what_is_returned_is_the_callers_own(api: Api) -> None:
    message = ChatMessage([{"type": "text", "text": "1"}], metadata={"list": [1]})
    api.add_messages("k", [message, *messages("2")])
    original = message.model_copy(deep=True)
    message.metadata["list"].append("by the writer")
    reads: list[Callable[[], list[ChatMessage]]] = [
        lambda: api.get_messages("k"),
        lambda: api.get_messages("k", first=1),
        lambda: api.page("k").messages,
    ]
    for read in reads:
        found = read()
        assert found[0] == original
        found[0].metadata["list"].append("by a reader")
        found[0].role = "changed"
        assert isinstance(found[0].content, list)
        found[0].content.clear()
        found.clear()
        assert read()[0] == original


@pytest.mark.clause("R2", decided=False)
def test_r2_a_write_is_read_by_its_writer(api: Api) -> None:
    for number in range(50):
        commit = add_texts(api, "k", f"{number}")
        assert texts(api, "k")[-1] == f"{number}"
        assert contents(api.get_messages("k", last=1)) == [f"{number}"]
        assert api.count_messages("k") == number + 1
        assert api.get_version("k") == commit.version
        assert contents(api.page("k", limit=1).messages) == [f"{number}"]


@pytest.mark.clause("R2", decided=False)
def test_r2_a_write_is_read_by_every_other_client(open_api: OpenApi) -> None:
    one, other = open_api(), open_api()
    for number in range(15):
        writer, reader = (one, other) if number % 2 else (other, one)
        commit = add_texts(writer, "k", f"{number}")
        assert texts(reader, "k")[-1] == f"{number}"
        assert reader.count_messages("k") == number + 1
        assert reader.get_version("k") == commit.version
        add_texts(writer, f"{number}", "1")
        assert f"{number}" in reader.get_keys()
        assert reader.get_session(f"{number}") is not None
        writer.delete_messages(f"{number}")
        assert reader.get_messages(f"{number}") == []
        assert reader.get_keys() == ["k"]


@pytest.mark.clause("R2", decided=False)
def test_r2_sync_and_async_code_read_each_others_writes(open_store: OpenStore) -> None:
    store = open_store()

    async def run() -> None:
        for number in range(20):
            await store.aadd_message("k", ChatMessage("async"))
            assert store.count_messages("k") == 2 * number + 1
            store.add_message("k", ChatMessage("sync"))
            assert await store.acount_messages("k") == 2 * number + 2
        await store.aclose()

    asyncio.run(run())


@pytest.mark.clause("R3")
@pytest.mark.parametrize("n", [0, 1, 2, 5, 6, 1_000, sys.maxsize])
def test_r3_the_last_and_the_first(api: Api, n: int) -> None:
    some = messages("1", "2", "3", "4", "5")
    api.add_messages("k", some)
    assert api.get_messages("k", last=n) == some[max(0, 5 - n) :]
    assert api.get_messages("k", first=n) == some[:n]


@pytest.mark.clause("R3")
@pytest.mark.parametrize("n", [-1, -sys.maxsize, 1.0, "1", True])
def test_r3_how_many_is_a_whole_number(api: Api, n: Any) -> None:
    for key in ["k", "not there"]:
        with pytest.raises(InvalidArgumentError):
            api.get_messages(key, last=n)
        with pytest.raises(InvalidArgumentError):
            api.get_messages(key, first=n)
        with pytest.raises(InvalidArgumentError):
            api.get_messages(key, last=1, first=1)
        add_texts(api, "k", "1")


@pytest.mark.clause("R3", decided=False)
@pytest.mark.parametrize("end", ["last", "first"])
def test_r3_n_messages_move_n_messages(harness: Harness, api: Api, end: str) -> None:
    for key, count in [("short", 20), ("long", 2_000)]:
        for start in range(0, count, 500):
            some = [f"{number:4}" * 250 for number in range(start, min(count, start + 500))]
            add_texts(api, key, *some)
    api.get_messages("short", **{end: 20})
    with harness.received() as few:
        assert len(api.get_messages("short", **{end: 20})) == 20
    with harness.received() as many:
        assert len(api.get_messages("long", **{end: 20})) == 20
    assert many.count <= few.count * 1.1
    with harness.received() as none:
        assert api.count_messages("long") == 2_000
        assert api.get_messages("long", **{end: 0}) == []
        assert api.get_version("long") > 0
    assert none.count < 2_000
    with harness.received() as page:
        assert len(api.page("long", limit=20).messages) == 20
    assert page.count <= few.count * 1.2


def walk(api: Api, key: str, limit: int, between: Callable[[int], object] = bool) -> list[str]:
    """The texts of a whole walk, oldest first; something happens between its pages."""
    found: list[str] = []
    before = None
    for number in range(10_000):
        page = api.page(key, before=before, limit=limit)
        assert type(page) is Page
        assert len(page.messages) <= limit
        found = contents(page.messages) + found
        before = page.before
        if before is None:
            return found
        between(number)
    raise AssertionError("a walk without end")


@pytest.mark.clause("R4")
@pytest.mark.parametrize("limit", [1, 2, 3, 9, 10, 11, 1_000, sys.maxsize])
def test_r4_a_walk_gives_all_once(api: Api, limit: int) -> None:
    expected = [f"{number}" for number in range(10)]
    add_texts(api, "k", *expected)
    assert walk(api, "k", limit) == expected


@pytest.mark.clause("R4")
def test_r4_pages_are_oldest_first_and_the_last_has_no_cursor(api: Api) -> None:
    add_texts(api, "k", "1", "2", "3", "4", "5")
    page = api.page("k", limit=2)
    assert contents(page.messages) == ["4", "5"]
    assert isinstance(page.before, str)
    page = api.page("k", before=page.before, limit=2)
    assert contents(page.messages) == ["2", "3"]
    page = api.page("k", before=page.before, limit=2)
    assert (contents(page.messages), page.before) == (["1"], None)
    page = api.page("k", limit=5)
    assert (contents(page.messages), page.before) == (["1", "2", "3", "4", "5"], None)
    add_texts(api, "long", *(f"{number}" for number in range(60)))
    assert len(api.page("long").messages) == 50


@pytest.mark.clause("R4")
def test_r4_a_walk_while_others_append_and_pop(api: Api) -> None:
    stay = [f"{number}" for number in range(40)]
    add_texts(api, "k", *stay)

    def disturb(number: int) -> None:
        add_texts(api, "k", f"new {number}", f"new {number}.2")
        api.delete_last_message("k")

    assert walk(api, "k", 3, disturb) == stay


@pytest.mark.clause("R4")
def test_r4_a_walk_past_what_was_popped_and_added_anew(api: Api) -> None:
    add_texts(api, "k", *"abcdefgh")
    page = api.page("k", limit=2)
    for _ in range(5):
        api.delete_last_message("k")
    add_texts(api, "k", "new", "newer", "newest", "more", "most")
    rest = walk_from(api, page.before)
    assert rest == ["a", "b", "c"]


def walk_from(api: Api, before: str | None) -> list[str]:
    """The texts of the rest of a walk."""
    found: list[str] = []
    while before is not None:
        page = api.page("k", before=before, limit=2)
        found = contents(page.messages) + found
        before = page.before
    return found


@pytest.mark.clause("R4")
def test_r4_a_walk_while_others_delete(api: Api) -> None:
    some = messages(*(f"{number}" for number in range(60)))
    api.add_messages("k", some)
    gone = [message for number, message in enumerate(some) if number % 3 == 0]
    stay = [message.text for number, message in enumerate(some) if number % 3]

    def disturb(number: int) -> None:
        if number < 10:
            api.delete_message("k", id=gone[-1 - number].id)
            api.delete_message("k", id=gone[number].id)

    found = walk(api, "k", 4, disturb)
    assert [text for text in found if text in stay] == stay
    assert len(set(found)) == len(found)


@pytest.mark.clause("R4")
def test_r4_a_walk_while_others_trim(api: Api) -> None:
    some = messages(*(f"{number}" for number in range(30)))
    api.add_messages("k", some)
    page = api.page("k", limit=5)
    api.delete_oldest("k", 10)
    api.delete_after("k", some[27].id)
    assert walk_from(api, page.before) == [f"{number}" for number in range(10, 25)]
    page = api.page("k", limit=5)
    api.delete_oldest("k", 18)
    assert walk_from(api, page.before) == []


@pytest.mark.clause("R4")
def test_r4_a_walk_goes_on_after_other_changes(api: Api) -> None:
    some = messages("1", "2", "3", "4")
    api.add_messages("k", some)
    page = api.page("k", limit=1)
    api.set_metadata("k", {"title": "x"})
    api.replace_message("k", ChatMessage("changed", id=some[1].id))
    assert walk_from(api, page.before) == ["1", "changed", "3"]


@pytest.mark.clause("R4")
@pytest.mark.parametrize(
    "end",
    [
        lambda api, some: api.set_messages("k", some),
        lambda api, some: api.set_messages("k", []),
        lambda api, some: api.delete_messages("k"),
        lambda api, some: (api.delete_messages("k"), api.add_messages("k", some)),
    ],
    ids=["set", "set to none", "deleted", "deleted and added"],
)
def test_r4_a_set_or_a_deletion_ends_a_walk(api: Api, end: Callable[..., object]) -> None:
    some = messages("1", "2", "3", "4")
    api.add_messages("k", some)
    page = api.page("k", limit=1)
    end(api, some)
    for _ in range(2):
        with pytest.raises(StaleCursorError):
            api.page("k", before=page.before, limit=1)


@pytest.mark.clause("R4")
@pytest.mark.parametrize("cursor", ["", "x", "1", ".", "1.", ".1", "a.b", "1.2.3", 1, b"1.2", {}])
def test_r4_a_cursor_is_what_a_page_gave(api: Api, cursor: Any) -> None:
    add_texts(api, "k", "1", "2")
    for key in ["k", "not there"]:
        with pytest.raises(InvalidArgumentError):
            api.page(key, before=cursor)


@pytest.mark.clause("R4")
def test_r4_a_forged_cursor_breaks_nothing(api: Api) -> None:
    add_texts(api, "k", "1", "2", "3")
    epoch = str(api.page("k", limit=1).before).partition(".")[0]
    for cursor in [f"{epoch}.{10**30}", f"{10**30}.1", f"{epoch}.-1", f"{epoch}.0"]:
        try:
            page = api.page("k", before=cursor)
        except (InvalidArgumentError, StaleCursorError):
            continue
        assert contents(page.messages) in ([], ["1", "2", "3"])


@pytest.mark.clause("R4")
@pytest.mark.parametrize("limit", [0, -1, 1.5, "1", None, True])
def test_r4_a_limit_is_a_whole_number(api: Api, limit: Any) -> None:
    with pytest.raises(InvalidArgumentError):
        api.page("k", limit=limit)


@pytest.mark.clause("R5", decided=False)
def test_r5_what_was_acknowledged_is_there_in_a_new_process(
    harness: Harness, api: Api, namespace: str
) -> None:
    some = list(MESSAGES.values())
    api.add_messages("k", some)
    api.set_metadata("k", {"title": "x"})
    api.delete_last_message("k")
    opener = harness.elsewhere(namespace=namespace)
    for _ in range(2):
        [(found, info)] = in_processes(jobs.read, (opener, api.form))
        for one, expected in zip(found, some[:-1], strict=True):
            assert_same(one, expected)
        assert info == api.get_session("k")
        assert api.add_messages("k", some[:-1]).added == 0
        api.purge_expired()  # housekeeping moves what is stored, in some stores


@pytest.mark.clause("R5", decided=False)
def test_r5_what_was_acknowledged_is_there_after_a_restart(harness: Harness, api: Api) -> None:
    some = messages("1", "2", "3")
    api.add_messages("k", some)
    api.set_metadata("k", {"title": "x"})
    api.delete_last_message("k")
    info = api.get_session("k")
    harness.restart()
    assert eventually(lambda: api.get_messages("k")) == some[:2]
    assert api.get_session("k") == info
    assert add_texts(api, "k", "next").added == 1


def eventually(call: Callable[[], Any]) -> Any:
    """What a call returns once the server is back."""
    for _ in range(10):
        try:
            return call()
        except BackendUnavailableError:
            continue
    return call()
