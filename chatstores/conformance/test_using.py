"""Using a store: threads, loops and forks; and closing it."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from chatstores import ChatMessage, ChatStore
from chatstores.conformance.api import Api, at_once, make_api, until
from chatstores.conformance.fixtures import OpenApi, OpenStore
from chatstores.conformance.harness import Harness
from chatstores.conformance.test_lifetime import CALLS
from chatstores.conformance.texts import add_texts, contents, messages, texts
from chatstores.errors import StoreClosedError, UnsupportedError


def open_files() -> int:
    """How many descriptors this process has open."""
    gc.collect()
    return len(list(Path("/dev/fd").iterdir()))


def settles_at(most: int) -> bool:
    """Whether no more are open soon: what stands between may close its side a little later."""
    end = time.monotonic() + 3
    while open_files() > most and time.monotonic() < end:
        time.sleep(0.02)
    return open_files() <= most


async def use(store: ChatStore, key: str, number: int) -> None:
    """Write and read."""
    await store.aadd_message(key, ChatMessage(f"{number}"))
    assert contents(await store.aget_messages(key, last=1)) == [f"{number}"]


@pytest.mark.clause("U1", decided=False)
def test_u1_8_threads(api: Api) -> None:
    def work(name: str) -> Callable[[Api], None]:
        def run(api: Api) -> None:
            for number in range(20):
                add_texts(api, name, f"{number}")
                assert texts(api, name) == [f"{n}" for n in range(number + 1)]
                add_texts(api, "all", f"{name}.{number}")
                assert api.count_messages("all") > number

        return run

    at_once(api, *(work(f"{number}") for number in range(8)))
    assert api.count_messages("all") == 160


@pytest.mark.clause("U1", decided=False)
def test_u1_sync_and_async_code_at_once(open_store: OpenStore) -> None:
    store = open_store()

    def work(form: str, name: str) -> None:
        api = make_api(store, form)
        for number in range(20):
            add_texts(api, "all", f"{name}.{number}")
            assert api.count_messages("all") > number
        api.end()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, ["sync", "async"] * 4, "abcdefgh"))
    assert store.count_messages("all") == 160


@pytest.mark.clause("U1", decided=False)
def test_u1_many_tasks_of_one_loop(open_store: OpenStore) -> None:
    store = open_store()

    async def run() -> None:
        await asyncio.gather(*(use(store, f"{number}", number) for number in range(200)))
        assert len(await store.aget_keys()) == 200
        await store.aclose()

    asyncio.run(run())


@pytest.mark.clause("U1", decided=False)
def test_u1_loops_one_after_another_leave_nothing_behind(open_store: OpenStore) -> None:
    store = open_store()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(5):
            asyncio.run(use(store, "k", number))
        before = open_files()
        for number in range(100):
            asyncio.run(use(store, "k", number))
        assert settles_at(before)
    assert store.count_messages("k") == 105


@pytest.mark.clause("U1", decided=False)
def test_u1_stores_that_were_closed_leave_nothing_behind(harness: Harness, namespace: str) -> None:
    async def run(number: int) -> None:
        async with harness.open(namespace=namespace) as store:
            await use(store, "k", number)
            await store.adelete_messages("k")

    def run_sync() -> None:
        with harness.open(namespace=namespace) as store:
            store.add_message("k", ChatMessage("x"))
            store.delete_messages("k")

    for number in range(3):
        asyncio.run(run(number))
        run_sync()
    before = open_files()
    for number in range(20):
        asyncio.run(run(number))
        run_sync()
    assert settles_at(before)


@pytest.mark.clause("U1", decided=False)
def test_u1_loops_at_once(open_store: OpenStore) -> None:
    store = open_store()

    async def run(name: str) -> None:
        await asyncio.gather(*(use(store, f"{name}.{number}", number) for number in range(20)))

    def thread(name: str) -> None:
        for _ in range(3):
            asyncio.run(run(name))

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(thread, "abc"))
    assert sum(store.count_messages(key) for key in store.get_keys()) == 180


@pytest.mark.clause("U1", decided=False)
def test_u1_a_loop_within_which_sync_code_runs(open_store: OpenStore) -> None:
    store = open_store()

    async def run() -> None:
        tasks = [asyncio.create_task(use(store, f"{number}", number)) for number in range(10)]
        for _ in range(10):
            store.add_message("sync", ChatMessage("x"))
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        await store.aclose()

    asyncio.run(run())


@contextmanager
def forked(child: Callable[[], Any]) -> Iterator[Callable[[], Any]]:
    """A forked child that runs a function; what is given waits for its result."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.write(write, json.dumps(child()).encode())
            status = 0
        except BaseException as exc:
            os.write(write, json.dumps(f"{type(exc).__name__}: {exc}").encode())
        finally:
            os._exit(status)
    os.close(write)

    def result() -> Any:
        with os.fdopen(read, "rb", closefd=False) as pipe:
            return json.loads(pipe.read())

    try:
        yield result
    finally:
        os.close(read)
        os.waitpid(pid, 0)


@pytest.mark.clause("U1", decided=False)
def test_u1_a_forked_child_uses_the_store_and_its_parent_goes_on(
    harness: Harness, api: Api
) -> None:
    shared = _is_shared(harness)
    add_texts(api, "k", "before")

    def child() -> list[str]:
        twin = api.twin()
        for number in range(10):
            add_texts(twin, "k", f"child {number}")
        found = texts(twin, "k")
        twin.close()
        twin.end()
        return found

    with forked(child) as result:
        for number in range(10):
            add_texts(api, "k", f"parent {number}")
        found = result()
    assert [text for text in found if not text.startswith("parent")] == [
        "before",
        *(f"child {number}" for number in range(10)),
    ]
    expected = ["before", *(f"parent {number}" for number in range(10))]
    assert [text for text in texts(api, "k") if not text.startswith("child")] == expected
    assert api.count_messages("k") == (21 if shared else 11)
    assert add_texts(api, "k", "after").added == 1


def _is_shared(harness: Harness) -> bool:
    store = harness.open()
    refused = store.capabilities.refused
    store.close()
    return "W4.processes" not in refused


@pytest.mark.clause("U1", decided=False)
def test_u1_a_child_forked_while_threads_use_the_store(api: Api) -> None:
    done = threading.Event()

    def work(api: Api) -> bool:
        for _ in until(done):
            api.set_messages("busy", messages("1", "2"))
            api.get_messages("busy")
        return True

    def fork(api: Api) -> bool:
        try:
            for number in range(5):

                def child(number: int = number) -> list[str]:
                    twin = api.twin()
                    add_texts(twin, f"{number}", "child")
                    found = texts(twin, f"{number}")
                    twin.end()
                    return found

                with forked(child) as result:
                    assert result() == ["child"]
        finally:
            done.set()
        return True

    assert all(at_once(api, work, work, fork))


@pytest.mark.clause("U2")
@pytest.mark.parametrize("call", [*CALLS.values(), lambda api: api.ping()], ids=[*CALLS, "ping"])
def test_u2_a_closed_store_says_so(open_api: OpenApi, call: Callable[[Api], Any]) -> None:
    used, unused = open_api(), open_api()
    used.set_messages("k", [])
    for api in [used, unused]:
        for _ in range(3):
            api.close()
            with pytest.raises(StoreClosedError):
                call(api)


@pytest.mark.clause("U2")
def test_u2_closing_in_one_form_closes_the_other(open_store: OpenStore) -> None:
    store = open_store()

    async def run() -> None:
        await store.aadd_message("k", ChatMessage("x"))
        store.close()
        with pytest.raises(StoreClosedError):
            await store.aget_messages("k")
        await store.aclose()

    asyncio.run(run())
    with pytest.raises(StoreClosedError):
        store.get_messages("k")
    store = open_store()
    store.add_message("k", ChatMessage("y"))
    asyncio.run(store.aclose())
    with pytest.raises(StoreClosedError):
        store.get_messages("k")
    store.close()


@pytest.mark.clause("U2")
def test_u2_with(open_store: OpenStore) -> None:
    store = open_store()
    with store as entered:
        assert entered is store
        store.add_message("k", ChatMessage("x"))
    with pytest.raises(StoreClosedError):
        store.get_messages("k")
    store = open_store()
    with pytest.raises(ZeroDivisionError), store:
        1 / 0  # noqa: B018
    with pytest.raises(StoreClosedError):
        store.get_messages("k")


@pytest.mark.clause("U2")
def test_u2_async_with(open_store: OpenStore) -> None:
    async def run() -> None:
        store = open_store()
        async with store as entered:
            assert entered is store
            await store.aadd_message("k", ChatMessage("x"))
        with pytest.raises(StoreClosedError):
            await store.aget_messages("k")
        store = open_store()
        with pytest.raises(ZeroDivisionError):
            async with store:
                1 / 0  # noqa: B018
        with pytest.raises(StoreClosedError):
            await store.aget_messages("k")

    asyncio.run(run())


@pytest.mark.clause("U2", decided=False)
def test_u2_what_was_open_is_closed(open_store: OpenStore) -> None:
    async def run(store: ChatStore) -> None:
        await asyncio.gather(*(use(store, f"{number}", number) for number in range(8)))
        await store.aclose()

    open_store().add_message("k", ChatMessage("x"))
    asyncio.run(run(open_store()))
    before = open_files()
    for _ in range(5):
        store = open_store()
        store.add_message("k", ChatMessage("x"))
        store.close()
        asyncio.run(run(open_store()))
    assert settles_at(before)


@pytest.mark.clause("U2", decided=False)
def test_u2_a_given_client_is_not_closed(harness: Harness, namespace: str) -> None:
    borrowed = harness.borrowed("sync", namespace=namespace)
    with borrowed.store as store:
        store.add_message("k", ChatMessage("x"))
        assert store.delete_messages("k") == 1
    borrowed.use()
    with pytest.raises(StoreClosedError):
        store.get_messages("k")
    borrowed.close()


@pytest.mark.clause("U2", decided=False)
def test_u2_a_given_async_client_is_not_closed(harness: Harness, namespace: str) -> None:
    async def run() -> None:
        borrowed = harness.borrowed("async", namespace=namespace)
        async with borrowed.store as store:
            await store.aadd_message("k", ChatMessage("x"))
            assert await store.adelete_messages("k") == 1
        await borrowed.use()
        with pytest.raises(StoreClosedError):
            await store.aget_messages("k")
        await borrowed.close()

    asyncio.run(run())


@pytest.mark.clause("U2", decided=False)
def test_u2_the_missing_kind_of_client_is_named(harness: Harness, namespace: str) -> None:
    async def run_async() -> None:
        borrowed = harness.borrowed("async", namespace=namespace)
        with pytest.raises(UnsupportedError, match=r"\bclient="):
            borrowed.store.get_messages("k")
        await borrowed.close()

    async def run_sync(store: ChatStore) -> None:
        with pytest.raises(UnsupportedError, match="async_client="):
            await store.aget_messages("k")

    asyncio.run(run_async())
    borrowed = harness.borrowed("sync", namespace=namespace)
    asyncio.run(run_sync(borrowed.store))
    borrowed.close()
