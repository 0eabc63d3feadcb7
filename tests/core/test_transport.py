"""Transports: run_sync, one a loop, closed with it; threads, forks, and a closed store."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from chatstores import ChatMessage, open_store
from chatstores.errors import StoreClosedError
from chatstores.transport import AsyncTransport, SyncTransport, Transports, run_sync

# run_sync.


async def answer() -> int:
    return 42


def test_run_sync_gives_the_result() -> None:
    assert run_sync(answer()) == 42


def test_run_sync_lets_errors_through() -> None:
    async def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        run_sync(fail())


def test_run_sync_refuses_a_coroutine_that_suspends() -> None:
    ended = []

    async def suspend() -> None:
        try:
            await asyncio.sleep(0)
        finally:
            ended.append(True)

    with pytest.raises(RuntimeError, match="suspended; this is a bug of its backend"):
        run_sync(suspend())
    assert ended == [True]


def test_run_sync_works_where_a_loop_runs() -> None:
    async def main() -> int:
        return run_sync(answer())

    assert asyncio.run(main()) == 42


# The transports of a backend without a connection.


def test_the_sync_transport_blocks() -> None:
    transport = SyncTransport()
    began = time.monotonic()
    run_sync(transport.sleep(0.02))
    assert time.monotonic() - began >= 0.02
    assert run_sync(transport.offload(threading.current_thread)) is threading.current_thread()
    assert transport.within(1.0) is transport
    run_sync(transport.close())


def test_the_async_transport_offloads_to_a_thread_and_ends_it() -> None:
    async def main() -> None:
        transport = AsyncTransport()
        thread = await transport.offload(threading.current_thread)
        assert thread is not threading.current_thread()
        assert await transport.offload(divmod, 7, 2) == (3, 1)
        await transport.close()
        while thread.is_alive():
            await transport.sleep(0.001)
        with pytest.raises(RuntimeError):
            await transport.offload(answer)

    asyncio.run(asyncio.wait_for(main(), 5))


# One transport a loop.


class Spy:
    """A transport that writes down who closed it, and where."""

    def __init__(self, kind: str, log: list[tuple[str, Any]]) -> None:
        self.kind = kind
        self.log = log
        self.pid = os.getpid()
        log.append((f"open {kind}", self))

    async def sleep(self, seconds: float) -> None: ...

    async def offload(self, function: Callable[..., Any], *args: Any) -> Any: ...

    def within(self, seconds: float) -> Spy:
        return self

    async def close(self) -> None:
        if self.kind == "async":
            await asyncio.sleep(0)  # as a driver's close does
        self.log.append((f"close {self.kind}", self))


class Owner:
    """Transports of spies, and what happened to them."""

    def __init__(self) -> None:
        self.log: list[tuple[str, Any]] = []
        self.transports = Transports(lambda: Spy("sync", self.log), lambda: Spy("async", self.log))

    @property
    def events(self) -> list[str]:
        return [event for event, _ in self.log]


@pytest.fixture
def owner() -> Iterator[Owner]:
    owner = Owner()
    yield owner
    owner.transports.close()


def test_nothing_is_open_before_it_is_needed(owner: Owner) -> None:
    assert owner.events == []
    owner.transports.close()
    assert owner.events == []


def test_sync_code_has_one_transport(owner: Owner) -> None:
    first = owner.transports.sync()
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(owner.transports.sync())) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [first] * 8
    assert owner.events == ["open sync"]


def test_eight_threads_at_once_open_one(owner: Owner) -> None:
    barrier = threading.Barrier(8)
    found = []

    def go() -> None:
        barrier.wait()
        found.append(owner.transports.sync())

    threads = [threading.Thread(target=go) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert owner.events == ["open sync"]


def test_the_tasks_of_a_loop_share_one(owner: Owner) -> None:
    async def main() -> None:
        found = await asyncio.gather(*(owner.transports.running() for _ in range(20)))
        assert len(set(found)) == 1

    asyncio.run(main())
    assert owner.events == ["open async", "close async"]


def test_asyncio_run_closes_its_own_at_its_end(owner: Owner) -> None:
    async def main() -> None:
        await owner.transports.running()

    for _ in range(3):
        asyncio.run(main())
    assert owner.events == ["open async", "close async"] * 3


def test_loops_at_once_have_one_each(owner: Owner) -> None:
    barrier = threading.Barrier(3)
    found = []

    async def main() -> None:
        found.append(await owner.transports.running())
        await asyncio.to_thread(barrier.wait)

    threads = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 3
    assert sorted(owner.events) == ["close async"] * 3 + ["open async"] * 3


def test_sync_and_async_side_by_side(owner: Owner) -> None:
    async def main() -> None:
        assert owner.transports.sync() is not await owner.transports.running()

    asyncio.run(main())
    owner.transports.sync()
    assert owner.events.count("open sync") == 1
    assert "close sync" not in owner.events


@pytest.mark.skipif(not os.path.exists("/dev/fd"), reason="counts descriptors there")
def test_u1_100_runs_leave_nothing() -> None:
    store = open_store("memory://")

    async def main() -> None:
        await store.aadd_message("k", ChatMessage("x"))
        await (await store._transports.running()).offload(os.getpid)

    def open_now() -> tuple[int, int]:
        gc.collect()
        return len(os.listdir("/dev/fd")), threading.active_count()

    asyncio.run(main())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = open_now()
        for _ in range(100):
            asyncio.run(main())
        end = time.monotonic() + 5
        while open_now()[1] > before[1] and time.monotonic() < end:
            time.sleep(0.01)
        assert open_now() <= before
    assert store.count_messages("k") == 101
    store.close()


def test_u1_the_transports_of_closed_loops_are_dropped(owner: Owner) -> None:
    """Loops that somebody else runs and closes without shutting their generators down."""
    spies: weakref.WeakSet[Any] = weakref.WeakSet()

    async def use() -> None:
        spies.add(await owner.transports.running())

    for _ in range(20):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(use())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
        del loop
        owner.log.clear()
    gc.collect()
    assert len(spies) <= 1  # the last is dropped when the next opens


def test_a_store_that_is_only_dropped_is_collected() -> None:
    store = open_store("memory://")

    store.ping()
    asyncio.run(store.aping())  # type: ignore[arg-type]
    seen = weakref.ref(store)
    del store
    gc.collect()
    assert seen() is None


# Closing.


def test_u2_close_twice_then_nothing_more(owner: Owner) -> None:
    owner.transports.sync()
    owner.transports.close()
    owner.transports.close()
    assert owner.events == ["open sync", "close sync"]
    with pytest.raises(StoreClosedError, match="closed; open a new one"):
        owner.transports.sync()
    with pytest.raises(StoreClosedError):
        asyncio.run(owner.transports.running())  # type: ignore[arg-type]
    assert owner.events == ["open sync", "close sync"]


def test_u2_aclose_waits_for_its_own_loops(owner: Owner) -> None:
    async def main() -> None:
        owner.transports.sync()
        await owner.transports.running()
        await owner.transports.aclose()
        assert sorted(owner.events[2:]) == ["close async", "close sync"]
        await owner.transports.aclose()
        with pytest.raises(StoreClosedError):
            await owner.transports.running()

    asyncio.run(main())
    assert len(owner.events) == 4


@pytest.mark.parametrize("way", ["close", "aclose"])
def test_u2_another_threads_loop_closes_its_own_soon(owner: Owner, way: str) -> None:
    opened, done = threading.Event(), threading.Event()
    where = []

    async def main() -> None:
        spy: Any = await owner.transports.running()
        close = spy.close

        async def closed() -> None:
            where.append(threading.current_thread())
            await close()

        spy.close = closed
        opened.set()
        await asyncio.to_thread(done.wait, 5)

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    assert opened.wait(5)
    if way == "close":
        owner.transports.close()
    else:
        asyncio.run(owner.transports.aclose())
    end = time.monotonic() + 5
    while "close async" not in owner.events and time.monotonic() < end:
        time.sleep(0.005)
    assert owner.events == ["open async", "close async"]
    assert where == [thread]
    done.set()
    thread.join()
    assert owner.events == ["open async", "close async"]


def test_u2_close_from_inside_a_running_loop(owner: Owner) -> None:
    async def main() -> None:
        await owner.transports.running()
        owner.transports.close()
        with pytest.raises(StoreClosedError):
            await owner.transports.running()

    asyncio.run(main())
    assert owner.events == ["open async", "close async"]


def test_u2_close_after_the_loop_was_closed(owner: Owner) -> None:
    async def main() -> None:
        await owner.transports.running()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
    owner.transports.close()
    assert owner.events == ["open async", "close async"]


def test_u2_a_store_that_is_closed_while_a_loop_opens_stays_closed() -> None:
    log: list[tuple[str, Any]] = []
    transports: Transports

    def open_slowly() -> Any:
        spy = Spy("async", log)
        thread = threading.Thread(target=transports.close)
        thread.start()
        thread.join(0.2)
        return spy

    transports = Transports(lambda: Spy("sync", log), open_slowly)

    async def main() -> None:
        with contextlib.suppress(StoreClosedError):
            await transports.running()
        with pytest.raises(StoreClosedError):
            await transports.running()

    asyncio.run(main())
    assert [event for event, _ in log] == ["open async", "close async"]


def test_u2_with_and_async_with_close() -> None:
    with open_store("memory://") as store:
        store.add_message("k", ChatMessage("x"))
    with pytest.raises(StoreClosedError):
        store.get_messages("k")

    async def main() -> None:
        async with open_store("memory://") as store:
            await store.aadd_message("k", ChatMessage("x"))
        with pytest.raises(StoreClosedError):
            await store.aget_messages("k")

    asyncio.run(main())


def test_u2_every_method_of_a_closed_store_says_so() -> None:
    store = open_store("memory://")
    store.close()
    calls: list[Callable[[], Any]] = [
        lambda: store.add_message("k", ChatMessage("x")),
        lambda: store.set_messages("k", []),
        lambda: store.delete_messages("k"),
        lambda: store.get_messages("k"),
        lambda: store.count_messages("k"),
        lambda: store.page("k"),
        lambda: store.get_session("k"),
        lambda: store.get_keys(),
        lambda: list(store.iter_keys()),
        lambda: store.list_sessions(),
        lambda: store.purge_expired(),
        lambda: store.setup(),
        lambda: store.ping(),
    ]
    for call in calls:
        with pytest.raises(StoreClosedError):
            call()


# Fork.


def in_child(work: Callable[[], Any]) -> str:
    """What a forked child says of its work: "ok", or its error."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside threads
        pid = os.fork()
    if pid == 0:
        try:
            work()
            text = "ok"
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(write, text.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    return text


def test_u1_a_child_gets_its_own_and_never_closes_its_parents(owner: Owner) -> None:
    parents = owner.transports.sync()

    def work() -> None:
        child: Any = owner.transports.sync()
        assert child is not parents
        assert child.pid == os.getpid()

        async def main() -> None:
            await owner.transports.running()

        asyncio.run(main())
        owner.transports.close()
        gc.collect()
        closed = [spy for event, spy in owner.log if event.startswith("close")]
        assert parents not in closed
        assert len(closed) == 2

    assert in_child(work) == "ok"
    assert owner.transports.sync() is parents
    assert owner.events == ["open sync"]


def test_u1_a_child_does_not_even_collect_its_parents() -> None:
    """A driver's client that is collected may say goodbye on its parent's connection."""
    transports = Transports(SyncTransport, AsyncTransport)
    seen = weakref.ref(transports.sync())

    def work() -> None:
        transports.sync()
        gc.collect()
        assert seen() is not None

    assert in_child(work) == "ok"
    transports.close()


def test_u1_a_fork_inside_a_running_loop(owner: Owner) -> None:
    async def main() -> None:
        parents = await owner.transports.running()

        def work() -> None:
            # The child leaves the parent's loop behind; it may not use or close what was its.
            owner.transports.close()
            assert [event for event, spy in owner.log if spy is parents] == ["open async"]

        assert in_child(work) == "ok"
        assert await owner.transports.running() is parents

    asyncio.run(main())
    assert owner.events == ["open async", "close async"]


def test_u1_a_fork_while_another_thread_holds_the_lock(owner: Owner) -> None:
    held, release = threading.Event(), threading.Event()

    def slow() -> Spy:
        held.set()
        release.wait(5)
        return Spy("sync", owner.log)

    owner.transports._open_sync = slow
    thread = threading.Thread(target=owner.transports.sync)
    thread.start()
    held.wait(5)

    def work() -> None:
        release.set()
        owner.transports.sync()

    assert in_child(work) == "ok"
    release.set()
    thread.join()


def test_u1_a_closed_store_is_closed_in_the_child_too(owner: Owner) -> None:
    owner.transports.close()
    assert in_child(owner.transports.sync).startswith("StoreClosedError")


def test_u1_a_memory_store_in_a_child_is_a_copy() -> None:
    store = open_store("memory://")
    store.add_message("k", ChatMessage("x"))

    def work() -> None:
        assert store.count_messages("k") == 1
        store.add_message("k", ChatMessage("y"))
        assert asyncio.run(store.acount_messages("k")) == 2

    assert in_child(work) == "ok"
    assert store.count_messages("k") == 1
