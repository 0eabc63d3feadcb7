"""kafka://: a topic opened, beside the bare consumption of the same records."""

from __future__ import annotations

import json
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from urllib.parse import quote

from confluent_kafka import Consumer, Producer, TopicPartition

from chatstores import ChatStore, open_store
from chatstores.state import Append, Command, Record
from chatstores_kafka.record import encode_command, name_of
from chatstores_kafka.topic import MAX_RECORD_BYTES
from tests.benchmarks.backend import Other
from tests.benchmarks.case import Row
from tests.benchmarks.messages import make_messages, payloads
from tests.servers.kafka import QUIET

__all__ = ["OPENINGS"]

_RUN = f"bench-{secrets.token_hex(4)}"
_MESSAGES = 1_000_000
_SESSIONS = 1_000
#: Records that came while a store with `state_dir` was away.
_NEW = 1_000
_OPENINGS = 3
_OPEN, _LISTED, _MEMORY = "opening, one session", "opening, all listed", "memory of a view"
_SAVED = "opening, state_dir"
_CEILING, _SAVED_CEILING = 4.0, 0.1
_MEGABYTES = 700


def _openings(place: str, scale: float) -> Iterator[Row]:
    """All of a topic read, by a store and by a bare consumer, each time in a new process."""
    count = int(_MESSAGES * scale)
    whole = count == _MESSAGES
    topic = f"{_RUN}-whole"
    url = f"{place}/{topic}?partitions=1"
    _fill(url, count)
    found: dict[str, list[dict[str, float]]] = {"store": [], "bare": []}
    for _ in range(_OPENINGS):
        for side, results in found.items():
            results.append(_in_a_process(side, url))
    ours, raw = ([each["seconds"] * 1e6 for each in found[side]] for side in found)
    yield _ratio(_OPEN, count, ours, raw, _CEILING, "consume(2000), value() of each")
    listed = [each["listed"] * 1e6 for each in found["store"]]
    yield _ratio(_LISTED, count, listed, raw, None, "the same; ours folds every session")
    megabytes = statistics.median(each["megabytes"] for each in found["store"])
    bare = statistics.median(each["megabytes"] for each in found["bare"])
    yield Row(
        name=_MEMORY,
        backend="kafka",
        form="sync",
        history=count,
        unit="MB",
        ours=megabytes,
        ceiling=_MEGABYTES if whole else None,
        met=megabytes <= _MEGABYTES if whole else None,
        rounds=_OPENINGS,
        baseline=f"growth by opening; a bare consumer grows by {bare:.0f} MB",
    )


def _saved_openings(place: str, scale: float) -> Iterator[Row]:
    """The same, but for some new records, out of what a former process has saved."""
    count = int(_MESSAGES * scale)
    url = f"{place}/{_RUN}-saved?partitions=1"
    _fill(url, count)
    ours, raw = [], []
    with tempfile.TemporaryDirectory() as directory:
        saving = f"{url}&state_dir={quote(directory)}/view"
        _in_a_process("store", saving)
        for number in range(_OPENINGS):
            _fill(url, _NEW, count + number * _NEW)
            ours.append(_in_a_process("store", saving)["seconds"] * 1e6)
            raw.append(_in_a_process("store", url)["seconds"] * 1e6)
    yield _ratio(_SAVED, count, ours, raw, _SAVED_CEILING, f"opening; ours reads {_NEW:,} records")


def _fill(url: str, count: int, start: int = 0) -> None:
    """Write so many messages into a topic as a store would have, one at a time."""
    with open_store(url) as store:
        store.ping()
    servers, topic = _parts(url)
    producer = Producer({"bootstrap.servers": servers, "linger.ms": 50, **QUIET})
    messages = make_messages(2_000)
    supply = cycle(zip(messages, payloads(messages), strict=True))
    for offset in range(start, start + count):
        message, payload = next(supply)
        new = f"{offset:08x}{message.id[8:]}"
        record = Record(new, payload.replace(message.id.encode(), new.encode()))
        value = encode_command(
            name_of("default", f"s{offset % _SESSIONS}"),
            Command(int.from_bytes(secrets.token_bytes(8), "big"), Append([record])),
            seen=max(-1, offset - _SESSIONS),
            partitions=1,
            retry=False,
        )
        if offset % 10_000 == 0:
            producer.flush()
        producer.produce(topic, value, secrets.token_bytes(8), 0)
    producer.flush()


def _in_a_process(side: str, url: str) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.kafka_opening", side, url]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().rpartition("\n")[2])
    return dict(json.loads(done.stdout))


def _open_store(url: str) -> ChatStore:
    store = open_store(url)
    if not store.count_messages("s1"):
        raise RuntimeError("the topic is not what was written")
    return store


def _consume(url: str) -> Consumer:
    servers, topic = _parts(url)
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": _RUN,
            "enable.auto.commit": False,
            # As the store's own, without which it is slower.
            "fetch.error.backoff.ms": 100,
            "fetch.message.max.bytes": 2 * MAX_RECORD_BYTES,
            "fetch.queue.backoff.ms": 5,
            "queued.max.messages.kbytes": 32_768,
            "reconnect.backoff.ms": 20,
            "topic.metadata.refresh.fast.interval.ms": 100,
            **QUIET,
        }
    )
    place = TopicPartition(topic, 0, 0)
    _, end = consumer.get_watermark_offsets(place)
    consumer.assign([place])
    left = end
    while left:
        first = consumer.poll(1.0)  # consume() waits for as many as it may return
        for message in [first, *consumer.consume(2_000, 0)] if first is not None else []:
            message.value()
            left -= 1
    return consumer


def _parts(url: str) -> tuple[str, str]:
    servers, _, topic = url.partition("://")[2].partition("?")[0].partition("/")
    return servers, topic


def _resident() -> float:
    """The memory of this process, in megabytes; on Linux."""
    text = Path("/proc/self/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) / 1000


def _ratio(
    name: str, count: int, ours: list[float], raw: list[float], ceiling: float | None, baseline: str
) -> Row:
    figures = [statistics.median(times) for times in (ours, raw)]
    ratio = figures[0] / figures[1]
    return Row(
        name=name,
        backend="kafka",
        form="sync",
        history=count,
        ours=figures[0],
        raw=figures[1],
        ratio=round(ratio, 4),
        baseline=baseline,
        ceiling=ceiling,
        met=None if ceiling is None else ratio <= ceiling,
        rounds=len(ours),
    )


#: The rows.
OPENINGS = (Other(_OPEN, "sync", _openings), Other(_SAVED, "sync", _saved_openings))


def _main() -> None:
    side, url = sys.argv[1:]
    before, start = _resident(), time.perf_counter()
    kept: ChatStore | Consumer = _open_store(url) if side == "store" else _consume(url)
    found = {"seconds": time.perf_counter() - start}
    if isinstance(kept, ChatStore):
        kept.get_keys()  # which folds all that was only read, and so takes the most memory
    found |= {"listed": time.perf_counter() - start, "megabytes": _resident() - before}
    print(json.dumps(found))
    kept.close()


if __name__ == "__main__":
    _main()
