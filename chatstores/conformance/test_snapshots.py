"""Snapshots: persist and load between this store and any other."""

from __future__ import annotations

import gzip
import json
import random
import threading
import time
import tracemalloc
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import chatstores
from chatstores import ChatMessage
from chatstores.codec import encode
from chatstores.conformance import jobs
from chatstores.conformance.api import Api, at_once, until, using
from chatstores.conformance.fixtures import OpenApi, OpenStore
from chatstores.conformance.harness import Harness
from chatstores.conformance.test_corrupt import NEWER
from chatstores.conformance.test_messages import MESSAGES, assert_same
from chatstores.conformance.texts import add_texts, contents, messages, texts
from chatstores.conformance.worker import Worker
from chatstores.errors import (
    ConflictError,
    CorruptRecordError,
    CorruptSnapshotError,
    InvalidArgumentError,
    SessionExistsError,
)
from chatstores.state import Record, Restore

MIB = 1024 * 1024
KEYS = ["a", "A", "é", "e\u0301", "🦜", " ", "\n", "*", "{a}", "x" * 512, "a:b/c"]


def fill(api: Api, permanent: Api) -> None:
    """Something of everything; ``api`` has a ttl."""
    for key in KEYS:
        permanent.add_messages(key, messages(f"{key} 1", f"{key} 2"))
    permanent.add_messages("messages", list(MESSAGES.values()))
    permanent.set_messages("empty", [])
    permanent.set_metadata("a", {"title": "x", "deep": [1, 1.0, True, {"é": None}]})
    permanent.set_own_metadata("a", {"chatstores.x": 1})
    repeated = ChatMessage("twice")
    record = Record(repeated.id, encode(repeated))
    permanent.do("repeated", Restore([record] * 2, b"{}", b"{}", 1_000_000, 2_000_000, None))
    add_texts(api, "with a ttl", "1", "2")
    permanent.delete_last_message("a")


def assert_equal(found: Api, expected: Api) -> None:
    """Two stores hold the same, but for versions; what has a ttl expires at about the same time."""
    assert found.get_keys() == expected.get_keys()
    for key in expected.get_keys():
        for one, other in zip(found.get_messages(key), expected.get_messages(key), strict=True):
            assert_same(one, other)
        info, wanted = found.get_session(key), expected.get_session(key)
        assert info is not None
        assert wanted is not None
        assert info.count == wanted.count
        assert info.metadata == wanted.metadata
        assert (info.created_at, info.updated_at) == (wanted.created_at, wanted.updated_at)
        assert (info.expires_at is None) == (wanted.expires_at is None)
        if info.expires_at is not None and wanted.expires_at is not None:
            assert abs(info.expires_at - wanted.expires_at) < timedelta(seconds=20)
        head, wanted_head = found.head(key), expected.head(key)
        assert head is not None
        assert wanted_head is not None
        assert json.loads(head.own) == json.loads(wanted_head.own)


@pytest.mark.clause("S1")
@pytest.mark.parametrize("name", ["snapshot.jsonl", "snapshot.jsonl.gz"])
def test_s1_to_another_store_and_back(
    open_api: OpenApi, namespace: str, in_memory: Api, tmp_path: Path, name: str
) -> None:
    api = open_api()
    fill(open_api(ttl=3600), api)
    api.persist(tmp_path / name)
    in_memory.load(tmp_path / name)
    assert_equal(in_memory, api)
    in_memory.persist(str(tmp_path / f"back.{name}"))
    back = open_api(namespace=f"{namespace}.2")
    back.load(str(tmp_path / f"back.{name}"))
    assert_equal(back, api)
    assert add_texts(back, "a", "next").added == 1
    assert texts(back, "a")[-1] == "next"
    assert back.delete_last_message("repeated") == back.get_messages("repeated")[0]


@pytest.mark.clause("S1")
def test_s1_from_another_store(open_api: OpenApi, in_memory: Api, path: Path, form: str) -> None:
    with using(chatstores.open_store("memory://"), form) as source:
        source.set_messages("k", list(MESSAGES.values()))
        source.set_metadata("k", {"title": "x"})
        source.persist(path)
        api = open_api()
        api.load(path)
        assert_equal(api, source)


@pytest.mark.clause("S1")
def test_s1_an_empty_store(api: Api, in_memory: Api, path: Path) -> None:
    api.persist(path)
    in_memory.load(path)
    assert in_memory.get_keys() == []
    add_texts(api, "k", "1")
    api.load(path)
    assert texts(api, "k") == ["1"]


@pytest.mark.clause("S1")
def test_s1_only_its_own_namespace(
    open_api: OpenApi, namespace: str, in_memory: Api, path: Path
) -> None:
    api = open_api()
    add_texts(api, "k", "1")
    add_texts(open_api(namespace=f"{namespace}.2"), "elsewhere", "1")
    api.persist(path)
    in_memory.load(path)
    assert in_memory.get_keys() == ["k"]


@pytest.mark.clause("S1")
def test_s1_many_sessions_and_a_long_one(
    open_api: OpenApi, namespace: str, in_memory: Api, path: Path
) -> None:
    api = open_api()
    long = [f"{number}" for number in range(3_000)]
    for start in range(0, 3_000, 1_000):
        add_texts(api, "long", *long[start : start + 1_000])
    for number in range(300):
        add_texts(api, f"{number:03}", f"{number}")
    api.persist(path)
    back = open_api(namespace=f"{namespace}.2")
    back.load(path)
    assert texts(back, "long") == long
    assert back.get_keys() == api.get_keys()
    assert contents([m for n in range(300) for m in back.get_messages(f"{n:03}")]) == long[:300]


@pytest.mark.clause("S1")
def test_s1_what_is_left_of_the_ttl(
    harness: Harness, open_api: OpenApi, namespace: str, path: Path
) -> None:
    api, permanent, expired, long = (open_api(ttl=ttl) for ttl in (1.0, None, 0.1, 3600))
    back = open_api(namespace=f"{namespace}.2", ttl=7200)
    for each in [api, permanent, expired, long, back]:
        each.ping()  # opening takes its time, and not that of what lives a second
    add_texts(api, "short", "1")
    add_texts(expired, "expired", "1")
    add_texts(permanent, "permanent", "1")
    add_texts(long, "long", "1")
    harness.advance(0.3)
    api.persist(path)
    back.load(path)
    assert back.get_keys() == ["long", "permanent", "short"]
    info = back.get_session("permanent")
    assert info is not None
    assert info.expires_at is None
    harness.advance(1.1)
    assert back.get_keys() == ["long", "permanent"]


@pytest.mark.clause("S1", decided=False)
def test_s1_a_reader_sees_whole_sessions(open_api: OpenApi, namespace: str, path: Path) -> None:
    api = open_api()
    for number in range(10):
        add_texts(api, f"{number}", *("x" * 100 for _ in range(100)))
    api.persist(path)
    back = open_api(namespace=f"{namespace}.2")
    done = threading.Event()

    def load(api: Api) -> set[int]:
        try:
            for _ in range(3):
                api.load(path, on_existing="replace")
        finally:
            done.set()
        return set()

    def read(api: Api) -> set[int]:
        counts = set()
        for _ in until(done):
            for number in range(10):
                counts |= {api.count_messages(f"{number}"), len(api.get_messages(f"{number}"))}
        return counts

    for counts in at_once(back, load, read):
        assert counts <= {0, 100}


@pytest.mark.clause("S1", decided=False)
def test_s1_memory_stays_flat(open_store: OpenStore, namespace: str, form: str, path: Path) -> None:
    with using(open_store(), form) as api:
        for number in range(32):
            api.add_message(f"{number}", ChatMessage("x" * MIB))
        tracemalloc.start()
        try:
            api.persist(path)
            persisting = tracemalloc.get_traced_memory()[1]
            with using(open_store(namespace=f"{namespace}.2"), form) as back:
                tracemalloc.reset_peak()
                back.load(path)
                held, peak = tracemalloc.get_traced_memory()
                loading = peak - held
        finally:
            tracemalloc.stop()
    assert persisting < 16 * MIB
    assert loading < 16 * MIB


def lines(path: Path) -> list[bytes]:
    """The lines of a file, with their ends."""
    return path.read_bytes().splitlines(keepends=True)


@pytest.mark.clause("S2")
def test_s2_a_truncated_file_is_refused(api: Api, path: Path) -> None:
    for number in range(5):
        add_texts(api, f"{number}", "1", "2", "3")
    api.persist(path)
    whole = path.read_bytes()
    api.delete_messages("0")
    before = state_of(api)
    chance = random.Random(2)
    cuts = {0, 1, len(whole) - 2, *(chance.randrange(len(whole)) for _ in range(20))}
    ends = [sum(map(len, lines(path)[:n])) for n in range(1, len(lines(path)))]
    for cut in sorted({*cuts, *ends}):
        path.write_bytes(whole[:cut])
        with pytest.raises(CorruptSnapshotError):
            api.load(path, on_existing="replace")
    assert state_of(api) == before


@pytest.mark.clause("S2")
def test_s2_an_altered_file_is_refused(api: Api, path: Path) -> None:
    for number in range(5):
        add_texts(api, f"{number}", "1", "2", "3")
    api.persist(path)
    whole, parts = path.read_bytes(), lines(path)
    api.delete_messages("0")
    before = state_of(api)
    chance = random.Random(2)
    altered = []
    for place in [0, 10, len(whole) - 5, *(chance.randrange(len(whole) - 1) for _ in range(20))]:
        altered.append(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    for n in range(1, len(parts) - 1):
        altered.append(b"".join(parts[:n] + parts[n + 1 :]))
        altered.append(b"".join(parts[: n + 1] + parts[n:]))
    altered += [whole + whole, whole + b"x", whole + parts[-1], b"".join(reversed(parts))]
    for text in altered:
        path.write_bytes(text)
        with pytest.raises(CorruptSnapshotError):
            api.load(path, on_existing="replace")
    assert state_of(api) == before


@pytest.mark.clause("S2")
@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n",
        b"text",
        b"{}",
        b"[]",
        b"null",
        b"\x89PNG\r\n",
        b"\x1f\x8b",
        b'{"store":1}',
        b"\0" * 99,
    ],
    ids=lambda text: f"{text!r:.12}",
)
def test_s2_a_file_that_is_no_snapshot_is_refused(api: Api, path: Path, text: bytes) -> None:
    path.write_bytes(text)
    with pytest.raises(CorruptSnapshotError):
        api.load(path)
    assert api.get_keys() == []


@pytest.mark.clause("S2")
def test_s2_a_truncated_compressed_file_is_refused(api: Api, tmp_path: Path) -> None:
    path = tmp_path / "snapshot.jsonl.gz"
    add_texts(api, "k", "1", "2", "3")
    api.persist(path)
    whole = path.read_bytes()
    assert b'"k"' in gzip.decompress(whole)
    api.delete_messages("k")
    for cut in [1, 10, len(whole) // 2, len(whole) - 8, len(whole) - 1]:
        path.write_bytes(whole[:cut])
        with pytest.raises(CorruptSnapshotError):
            api.load(path)
    assert api.get_keys() == []


def state_of(api: Api) -> dict[str, Any]:
    """All that a store holds."""
    return {key: (api.get_messages(key), api.get_session(key)) for key in api.get_keys()}


@pytest.mark.clause("S2")
def test_s2_sessions_that_are_there_already(open_api: OpenApi, namespace: str, path: Path) -> None:
    source, api = open_api(), open_api(namespace=f"{namespace}.2")
    for key in ["a", "b", "c"]:
        add_texts(source, key, "of the file")
    source.persist(path)
    add_texts(api, "b", "of the store")
    api.set_messages("c", [])
    add_texts(api, "z", "of the store")
    before = state_of(api)
    for options in [{}, {"on_existing": "error"}]:
        with pytest.raises(SessionExistsError) as caught:
            api.load(path, **options)  # type: ignore[arg-type]
        assert caught.value.keys == ["b", "c"]
        assert state_of(api) == before
    api.load(path, on_existing="skip")
    assert texts(api, "a") == ["of the file"]
    assert {key: state for key, state in state_of(api).items() if key != "a"} == before
    version = api.get_version("b")
    api.load(path, on_existing="replace")
    assert [texts(api, key) for key in "abc"] == [["of the file"]] * 3
    assert texts(api, "z") == ["of the store"]
    assert api.get_version("b") > version
    with pytest.raises(ConflictError):
        api.add_message("b", ChatMessage("late"), expected_version=version)


@pytest.mark.clause("S2")
def test_s2_arguments_are_checked(api: Api, path: Path, tmp_path: Path) -> None:
    add_texts(api, "k", "1")
    before = state_of(api)
    calls: list[Callable[[], Any]] = [
        lambda: api.load(path),
        lambda: api.load(tmp_path),
        lambda: api.load(path, on_existing="overwrite"),  # type: ignore[arg-type]
        lambda: api.persist(path, format="csv"),  # type: ignore[arg-type]
        lambda: api.persist(tmp_path),
        lambda: api.persist(tmp_path / "none" / "file"),
    ]
    for call in calls:
        with pytest.raises(InvalidArgumentError):
            call()
    assert state_of(api) == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.clause("S2")
def test_s2_a_persist_leaves_one_file(api: Api, path: Path) -> None:
    for number in range(3):
        add_texts(api, "k", f"{number}")
        api.persist(path)
        assert list(path.parent.iterdir()) == [path]


@pytest.mark.clause("S2", decided=False)
def test_s2_a_persist_that_fails_leaves_the_former_file(
    harness: Harness, open_api: OpenApi, in_memory: Api, path: Path
) -> None:
    api = open_api()
    for text in ["1", "2"]:
        add_texts(api, "k", text)
    api.persist(path)
    former = path.read_bytes()
    api.close()
    harness.overwrite(api.namespace, "k", 1, NEWER)
    with pytest.raises(CorruptRecordError):
        open_api().persist(path)
    assert path.read_bytes() == former
    assert list(path.parent.iterdir()) == [path]
    in_memory.load(path)
    assert texts(in_memory, "k") == ["1", "2"]


@pytest.mark.clause("S2", decided=False)
def test_s2_a_persist_that_is_killed_leaves_the_former_file(
    harness: Harness, api: Api, namespace: str, form: str, tmp_path: Path
) -> None:
    for number in range(10):
        add_texts(api, f"{number}", *("x" * 1_000 for _ in range(50)))
    before = contents([m for n in range(10) for m in api.get_messages(f"{n}")])
    chance = random.Random(2)
    path = tmp_path / "snapshot.jsonl"
    for _ in range(2):
        opener = harness.elsewhere(namespace=namespace)
        with Worker(jobs.persist_for_ever, opener, form, path) as worker:
            worker.wait_until_ready()
            worker.go()
            next(worker.values())
            time.sleep(chance.uniform(0, 0.05))
            worker.kill()
        with using(chatstores.open_store("memory://"), form) as memory:
            memory.load(path)
            assert contents([m for n in range(10) for m in memory.get_messages(f"{n}")]) == before


@pytest.mark.clause("S2", decided=False)
def test_s2_an_interrupted_load_is_finished_by_skip(
    harness: Harness, open_api: OpenApi, namespace: str, form: str, path: Path
) -> None:
    api = open_api()
    for number in range(100):
        add_texts(api, f"{number}", *(f"{number}.{part}" for part in range(20)))
    api.persist(path)
    chance = random.Random(2)
    for run in range(2):
        back = open_api(namespace=f"{namespace}.{run}")
        opener = harness.elsewhere(namespace=back.namespace)
        with Worker(jobs.load_all, opener, form, path) as worker:
            worker.wait_until_ready()
            worker.go()
            next(worker.values())
            time.sleep(chance.uniform(0, 0.06))
            worker.kill()
        assert all(info.count == 20 for info in back.list_sessions(limit=100).sessions)
        back.load(path, on_existing="skip")
        assert_equal(back, api)
