"""Servers that are away or silent, and writers that always lose (U3)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from chatstores.conformance.api import Api, at_once
from chatstores.conformance.fixtures import OpenApi, OpenStore
from chatstores.conformance.harness import Harness
from chatstores.conformance.test_lifetime import CALLS
from chatstores.conformance.texts import add_texts, texts
from chatstores.errors import BackendUnavailableError, ContentionError


@contextmanager
def within(least: float, most: float) -> Iterator[None]:
    """The block takes so many seconds."""
    start = time.monotonic()
    yield
    assert least <= time.monotonic() - start <= most


def raised(api: Api) -> dict[str, BaseException | None]:
    """What each call raises, all of them at once."""

    def catch(call: Callable[[Api], Any]) -> Callable[[Api], BaseException | None]:
        def run(api: Api) -> BaseException | None:
            try:
                call(api)
            except Exception as exc:
                return exc
            return None

        return run

    calls = {**CALLS, "ping": lambda api: api.ping()}
    return dict(zip(calls, at_once(api, *map(catch, calls.values())), strict=True))


@pytest.mark.clause("U3", decided=False)
@pytest.mark.parametrize("fault", ["away", "silent"])
def test_u3_a_server_that_is_away_or_silent(
    harness: Harness, open_api: OpenApi, fault: str
) -> None:
    api = open_api(timeout=0.5)
    add_texts(api, "k", "1")
    with getattr(harness, fault)(), within(0.3, 3):
        failures = raised(api)
    for name, failure in failures.items():
        assert isinstance(failure, BackendUnavailableError), name
        assert failure.__cause__ is not None, name
    for _ in range(5):  # half a second for all calls at once is little on a busy machine
        failures = raised(api)
        if not any(failures.values()):
            break
    assert set(failures.values()) == {None}
    assert add_texts(api, "k", "2").added == 1


@pytest.mark.clause("U3", decided=False)
def test_u3_a_server_that_was_away_from_the_start(harness: Harness, open_api: OpenApi) -> None:
    api = open_api(timeout=0.5)
    with harness.away(), within(0, 2), pytest.raises(BackendUnavailableError):
        api.ping()
    api.ping()


@pytest.mark.clause("U3", decided=False)
def test_u3_the_timeout_is_5_seconds(harness: Harness, open_store: OpenStore) -> None:
    store = open_store()
    store.ping()
    with harness.silent(), within(4, 7), pytest.raises(BackendUnavailableError):
        store.get_messages("k")


@pytest.mark.clause("U3", decided=False)
def test_u3_a_server_that_was_away_for_a_moment(harness: Harness, api: Api) -> None:
    for number in range(3):
        assert add_texts(api, "k", f"{number}").added == 1
        with harness.away():
            pass
        assert texts(api, "k") == [f"{n}" for n in range(number + 1)]
        with harness.away():
            pass


@pytest.mark.clause("U3", decided=False)
def test_u3_a_call_waits_for_a_server_that_comes_back(harness: Harness, open_api: OpenApi) -> None:
    api = open_api(timeout=5)
    add_texts(api, "k", "1")
    with ThreadPoolExecutor() as thread:
        with harness.away():
            write = thread.submit(add_texts, api, "k", "2")
            time.sleep(0.5)
            assert not write.done()
        assert write.result().added == 1
    assert texts(api, "k") == ["1", "2"]


@pytest.mark.clause("U3", decided=False)
def test_u3_a_server_that_restarts(harness: Harness, api: Api) -> None:
    add_texts(api, "k", "1")
    harness.restart()
    api.setup()
    add_texts(api, "new", "1")
    assert texts(api, "new") == ["1"]


@pytest.mark.clause("U3", decided=False)
def test_u3_losing_to_other_writers_ends(harness: Harness, open_api: OpenApi) -> None:
    api = open_api(timeout=0.2)
    add_texts(api, "k", "1")
    api.store._contention_limit = 1.0
    with (
        harness.contended(api.namespace, "k"),
        within(0.9, 4),
        pytest.raises(ContentionError),
    ):
        add_texts(api, "k", "2")
    assert texts(api, "k") == ["1"]
    assert add_texts(api, "k", "3").added == 1


@pytest.mark.clause("U3", decided=False)
def test_u3_losing_to_other_writers_is_not_the_servers_absence(
    harness: Harness, open_api: OpenApi
) -> None:
    api = open_api(timeout=0.2)
    add_texts(api, "k", "1")
    with ThreadPoolExecutor() as thread:
        with harness.contended(api.namespace, "k"):
            write = thread.submit(add_texts, api, "k", "2")
            time.sleep(0.8)
            assert not write.done()
        assert write.result().added == 1
    assert texts(api, "k") == ["1", "2"]
