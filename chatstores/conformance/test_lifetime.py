"""The life of a session: its ttl, purging, and setting a store up."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from chatstores import ChatMessage
from chatstores.conformance import jobs
from chatstores.conformance.api import Api, at_once, using
from chatstores.conformance.fixtures import OpenApi
from chatstores.conformance.harness import Harness
from chatstores.conformance.texts import add_texts, messages, texts, unchanged
from chatstores.conformance.worker import in_processes
from chatstores.errors import ConflictError, InvalidURLError, NotSetUpError, StaleCursorError

#: Lives that are over after a short wait, and the wait.
SHORT, WAIT = 0.3, 0.5
#: A life within which a test makes some calls, however slow the store; and most of it.
LIFE, MOST = 1.2, 0.8


@pytest.mark.clause("L1")
def test_l1_an_expired_session_reads_as_none(harness: Harness, open_api: OpenApi) -> None:
    api = open_api(ttl=SHORT)
    add_texts(api, "k", "1", "2", "3")
    api.set_metadata("k", {"title": "x"})
    version, page = api.get_version("k"), api.page("k", limit=1)
    open_api().set_messages("permanent", [])
    harness.advance(WAIT)
    assert api.get_messages("k") == []
    assert api.get_messages("k", last=1) == []
    assert api.count_messages("k") == 0
    assert api.get_version("k") == 0
    assert api.get_session("k") is None
    assert api.page("k").messages == []
    assert api.get_keys() == ["permanent"]
    assert list(api.iter_keys("k")) == []
    assert [info.key for info in api.list_sessions().sessions] == ["permanent"]
    with pytest.raises(StaleCursorError):
        api.page("k", before=page.before)
    assert api.delete_last_message("k") is None
    assert api.delete_messages("k") == 0
    with pytest.raises(ConflictError) as caught:
        api.add_message("k", ChatMessage("late"), expected_version=version)
    assert caught.value.actual == 0


@pytest.mark.clause("L1")
def test_l1_what_an_expired_session_refused_is_nowhere(harness: Harness, open_api: OpenApi) -> None:
    api = open_api(ttl=SHORT)
    version = add_texts(api, "k", "old").version
    harness.advance(WAIT)
    with pytest.raises(ConflictError):
        api.add_message("k", ChatMessage("late"), expected_version=version)
    assert api.get_messages("k") == []
    assert open_api().get_messages("k") == []  # nor for who folds a log from its beginning


@pytest.mark.clause("L1")
def test_l1_a_new_life_has_a_higher_version_and_nothing_of_the_old(
    harness: Harness, open_api: OpenApi
) -> None:
    api = open_api(ttl=SHORT)
    [old] = messages("old")
    for _ in range(20):
        api.set_messages("k", [])
    api.add_message("k", old)
    version = api.set_metadata("k", {"title": "x"}).version
    born = api.get_session("k")
    harness.advance(WAIT)
    permanent = open_api()
    commit = permanent.add_messages("k", messages("new", "newer"), expected_version=0)
    assert commit.version > version
    assert texts(permanent, "k") == ["new", "newer"]
    info = permanent.get_session("k")
    assert info is not None
    assert born is not None
    assert (info.count, info.metadata, info.expires_at) == (2, {}, None)
    assert info.created_at > born.created_at
    assert permanent.add_message("k", old).added == 1


@pytest.mark.clause("L1")
def test_l1_a_change_gives_a_whole_ttl_again_and_reading_none(
    harness: Harness, open_api: OpenApi
) -> None:
    api = open_api(ttl=LIFE)
    some = messages("1", "2", "3", "4")
    slides: dict[str, Callable[[str], Any]] = {
        "added": lambda key: api.add_message(key, ChatMessage("new")),
        "set": lambda key: api.set_messages(key, some),
        "popped": lambda key: api.delete_last_message(key),
        "deleted": lambda key: api.delete_message(key, 0),
        "trimmed": lambda key: api.delete_oldest(key, 1),
        "replaced": lambda key: api.replace_message(key, ChatMessage("x", id=some[0].id)),
        "metadata": lambda key: api.set_metadata(key, {"title": "x"}),
    }
    reads: dict[str, Callable[[str], Any]] = {
        "read": lambda key: (api.get_messages(key), api.page(key), api.get_session(key)),
        "not changed": lambda key: (api.add_message(key, some[0]), api.delete_message(key, 9)),
    }
    for key in [*slides, *reads]:
        api.add_messages(key, some)
    harness.advance(MOST)
    for key, call in [*slides.items(), *reads.items()]:
        call(key)
    harness.advance(MOST)
    for key in slides:
        assert api.count_messages(key) >= 3, key
    for key in reads:
        assert api.count_messages(key) == 0, key
    assert api.get_keys() == sorted(slides)
    harness.advance(MOST)
    assert api.get_keys() == []


@pytest.mark.clause("L1")
def test_l1_nothing_of_a_live_session_expires(harness: Harness, open_api: OpenApi) -> None:
    api = open_api(ttl=LIFE)
    api.set_messages("k", [])
    api.set_metadata("k", {"title": "x"})
    api.set_own_metadata("k", {"chatstores.x": 1})
    for number in range(3):
        add_texts(api, "k", f"{number}")
        harness.advance(MOST)
    assert texts(api, "k") == ["0", "1", "2"]
    info, head = api.get_session("k"), api.head("k")
    assert info is not None
    assert head is not None
    assert (info.count, info.metadata, head.own) == (3, {"title": "x"}, b'{"chatstores.x":1}')
    assert api.get_keys() == ["k"]
    assert [info.key for info in api.list_sessions().sessions] == ["k"]


@pytest.mark.clause("L1")
def test_l1_the_last_writers_ttl_counts(harness: Harness, open_api: OpenApi) -> None:
    writers = {"short": open_api(ttl=SHORT), "long": open_api(ttl=3600), "none": open_api()}
    pairs = [(first, last) for first in writers for last in writers]
    # So that none expires before its second writer: those that begin short are written together.
    for first, last in sorted(pairs, reverse=True):
        key = f"{first}, {last}"
        add_texts(writers[first], key, "1")
        add_texts(writers[last], key, "2")
        info = writers["none"].get_session(key)
        if last == "none":
            assert info is not None
            assert info.expires_at is None
        elif last == "long":
            assert info is not None
            assert info.expires_at is not None
            assert timedelta(seconds=3590) < info.expires_at - info.updated_at
    harness.advance(WAIT)
    for first, last in pairs:
        assert bool(texts(writers["none"], f"{first}, {last}")) is (last != "short")


@pytest.mark.clause("L1")
@pytest.mark.parametrize(
    ("ttl", "seconds"),
    [
        (90, 90),
        (90.5, 90.5),
        ("90", 90),
        ("90s", 90),
        ("30m", 1800),
        ("12h", 43200),
        ("7d", 604800),
    ],
)
def test_l1_a_ttl_is_seconds_or_text(open_api: OpenApi, ttl: Any, seconds: float) -> None:
    api = open_api(ttl=ttl)
    add_texts(api, "k", "1")
    info = api.get_session("k")
    assert info is not None
    assert info.expires_at is not None
    assert abs((info.expires_at - info.updated_at).total_seconds() - seconds) < 0.1


@pytest.mark.clause("L1", decided=False)  # no store takes these
@pytest.mark.parametrize("ttl", [0, -1, "0", "-1s", "", "x", "5 days", float("nan"), "1y", True])
def test_l1_no_ttl(harness: Harness, ttl: Any) -> None:
    with pytest.raises(InvalidURLError, match="ttl"):
        harness.open(ttl=ttl)


@pytest.mark.clause("L2")
def test_l2_purging_removes_what_has_expired_and_counts_it(
    harness: Harness, open_api: OpenApi
) -> None:
    api, permanent = open_api(ttl=SHORT), open_api()
    assert api.purge_expired() == 0
    for number in range(30):
        add_texts(api, f"short {number}", "1")
        add_texts(permanent, f"permanent {number}", "1")
    version = api.get_version("short 0")
    add_texts(open_api(ttl=3600), "long", "1")
    harness.advance(WAIT)
    assert permanent.purge_expired() == 30
    assert permanent.purge_expired() == 0
    assert len(permanent.get_keys()) == 31
    assert texts(permanent, "long") == ["1"]
    assert permanent.get_messages("short 0") == []
    assert add_texts(permanent, "short 0", "new").version > version
    with unchanged(permanent, "short 0"):
        assert permanent.purge_expired() == 0


@pytest.mark.clause("L2")
def test_l2_what_was_deleted_is_not_counted(harness: Harness, open_api: OpenApi) -> None:
    api = open_api(ttl=SHORT)
    add_texts(api, "deleted", "1")
    add_texts(api, "expired", "1")
    api.delete_messages("deleted")
    harness.advance(WAIT)
    assert api.purge_expired() == 1


@pytest.mark.clause("L2")
def test_l2_what_was_revived_is_not_purged(harness: Harness, open_api: OpenApi) -> None:
    api, permanent = open_api(ttl=SHORT), open_api()
    for key in ["expired", "revived", "revived by another"]:
        add_texts(api, key, "1")
    harness.advance(WAIT)
    add_texts(permanent, "revived", "2")
    add_texts(open_api(ttl=3600), "revived by another", "2")
    assert api.purge_expired() == 1
    assert api.get_keys() == ["revived", "revived by another"]
    assert texts(api, "revived") == ["2"]
    assert texts(api, "revived by another") == ["2"]


@pytest.mark.clause("L2", decided=False)
def test_l2_what_is_revived_meanwhile_is_not_purged(harness: Harness, open_api: OpenApi) -> None:
    short, api = open_api(ttl=SHORT), open_api()
    keys = [f"{number:02}" for number in range(60)]
    for key in keys:
        add_texts(short, key, "1")
    harness.advance(WAIT)

    def purge(api: Api) -> None:
        for _ in range(5):
            api.purge_expired()

    def revive(api: Api) -> None:
        for key in keys:
            add_texts(api, key, "2")

    at_once(api, purge, revive, purge)
    assert api.get_keys() == keys
    for key in keys:
        assert texts(api, key) == ["2"]


@pytest.mark.clause("L3")
def test_l3_setting_up_again_changes_nothing(api: Api) -> None:
    api.setup()
    add_texts(api, "k", "1")
    with unchanged(api, "k"):
        api.setup()
        api.setup()
    api.ping()


@pytest.mark.clause("L3", decided=False)
def test_l3_setting_up_from_many_threads(harness: Harness, form: str, namespace: str) -> None:
    with harness.fresh_place() as place, using(place.open(namespace=namespace), form) as api:
        at_once(api, *[lambda api: api.setup()] * 8)
        add_texts(api, "k", "1")
        assert texts(api, "k") == ["1"]


@pytest.mark.clause("L3.processes", decided=False)
def test_l3_setting_up_from_16_processes(harness: Harness, namespace: str) -> None:
    with harness.fresh_place() as place:
        opener = place.elsewhere(namespace=namespace)
        forms = ["sync", "async"] * 8
        in_processes(jobs.set_up_and_add, *((opener, form, n) for n, form in enumerate(forms)))
        with place.open(namespace=namespace) as store:
            found = sorted(int(message.text) for message in store.get_messages("k"))
        assert found == list(range(16))


CALLS: dict[str, Callable[[Api], Any]] = {
    "get_messages": lambda api: api.get_messages("k"),
    "count_messages": lambda api: api.count_messages("k"),
    "get_version": lambda api: api.get_version("k"),
    "get_session": lambda api: api.get_session("k"),
    "page": lambda api: api.page("k").messages,
    "get_keys": lambda api: api.get_keys(),
    "iter_keys": lambda api: list(api.iter_keys()),
    "list_sessions": lambda api: api.list_sessions().sessions,
    "purge_expired": lambda api: api.purge_expired(),
    "add_message": lambda api: api.add_message("k", ChatMessage("x")),
    "set_messages": lambda api: api.set_messages("k", []),
    "delete_messages": lambda api: api.delete_messages("k"),
    "delete_last_message": lambda api: api.delete_last_message("k"),
    "setup": lambda api: api.setup(),
}
READS = list(CALLS)[:9]


@pytest.mark.clause("L3")
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_l3_without_create_nothing_is_made(
    harness: Harness, form: str, namespace: str, call: Callable[[Api], Any]
) -> None:
    with (
        harness.fresh_place() as place,
        using(place.open(namespace=namespace, create=False), form) as api,
    ):
        if not place.needs_setup:
            call(api)
            return
        for _ in range(2):
            with pytest.raises(NotSetUpError) as caught:
                call(api)
            assert re.search(r"\bsetup\b", str(caught.value))


@pytest.mark.clause("L3")
def test_l3_without_create_what_is_set_up_is_used(
    harness: Harness, form: str, namespace: str
) -> None:
    with harness.fresh_place() as place:
        with using(place.open(), form) as maker:
            maker.setup()
        with using(place.open(namespace=namespace, create=False), form) as api:
            api.setup()
            assert add_texts(api, "k", "1").added == 1
            assert texts(api, "k") == ["1"]
            assert api.delete_messages("k") == 1


@pytest.mark.clause("R1")
@pytest.mark.parametrize("name", READS)
def test_r1_where_nothing_is_set_up_there_is_nothing(
    harness: Harness, form: str, namespace: str, name: str
) -> None:
    with harness.fresh_place() as place, using(place.open(namespace=namespace), form) as api:
        assert CALLS[name](api) in ([], 0, None)
