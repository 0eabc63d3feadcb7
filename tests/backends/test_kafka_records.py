"""Records of the Kafka store: every command comes back equal; other bytes are told from them."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import to_json

from chatstores.state import (
    Action,
    Append,
    Clear,
    Command,
    Delete,
    Edit,
    Record,
    Replace,
    Restore,
    SetMetadata,
)
from chatstores_kafka.record import (
    FORMAT,
    HEAD,
    MAGIC,
    Kind,
    RecordHead,
    action_of,
    encode_command,
    encode_value,
    name_of,
    read_arguments,
    read_messages,
    size_of,
)
from tests.core.strategies import json_objects, texts

#: Whole numbers as versions, ordinals and offsets are.
numbers = st.integers(0, 2**53)
ids = st.integers(0, 2**64 - 1)
names = st.builds(name_of, st.from_regex(r"[A-Za-z0-9_.-]{1,64}", fullmatch=True), texts)
records = st.builds(Record, texts, st.binary(max_size=50))
batches = st.lists(records, max_size=5)
objects = json_objects.map(to_json)
deletions = st.one_of(
    st.just(Delete("last")),
    st.builds(Delete, st.just("index"), st.integers(-(2**53), 2**53)),
    st.builds(Delete, st.sampled_from(["id", "after"]), texts),
    st.builds(Delete, st.just("oldest"), numbers),
)
actions = st.one_of(
    st.builds(Append, batches),
    deletions,
    st.builds(Edit, records),
    st.builds(Replace, batches),
    st.builds(Restore, batches, objects, objects, numbers, numbers, st.none() | numbers),
    st.builds(Clear),
    st.builds(SetMetadata, objects, st.booleans()),
)
commands = st.builds(Command, ids, actions, st.none() | numbers, st.none() | numbers)


class Read(NamedTuple):
    """What a reader finds in a value."""

    head: RecordHead
    name: bytes
    action: Action


def read(value: bytes) -> Read:
    head = RecordHead(*HEAD.unpack_from(value))
    start = HEAD.size + head.name
    found, end = read_messages(value[start:], head.messages)
    arguments = read_arguments(value[start + end :])
    return Read(head, value[HEAD.size : start], action_of(head.kind, found, arguments))


@given(names, commands, st.integers(-1, 2**62), st.integers(1, 2**16 - 1), st.booleans())
def test_every_command_comes_back_equal(
    name: bytes, command: Command, seen: int, partitions: int, retry: bool
) -> None:
    value = encode_command(name, command, seen=seen, partitions=partitions, retry=retry)
    head, its_name, action = read(value)
    assert (type(action), action, its_name) == (type(command.action), command.action, name)
    assert (head.magic, head.version, head.name) == (MAGIC, FORMAT, len(name))
    assert (head.id, head.retry, head.seen, head.partitions) == (
        command.id,
        retry,
        seen,
        partitions,
    )
    assert head.expected == (-1 if command.expected_version is None else command.expected_version)
    assert head.ttl == (-1 if command.ttl is None else command.ttl)


@given(names, commands, st.lists(ids, min_size=2, max_size=4))
def test_a_command_in_parts_names_them_and_holds_no_message(
    name: bytes, command: Command, parts: list[int]
) -> None:
    value = encode_command(name, command, seen=-1, partitions=1, retry=False, parts=parts)
    head = RecordHead(*HEAD.unpack_from(value))
    assert head.messages == 0
    named = read_arguments(value[HEAD.size + len(name) :])
    assert named["parts"] == parts
    if not isinstance(command.action, Edit):
        messages = getattr(command.action, "records", [])
        assert action_of(head.kind, messages, named["arguments"]) == command.action


@given(names, batches)
def test_a_message_takes_what_its_size_says(name: bytes, batch: list[Record]) -> None:
    value = encode_value(Kind.PART, name, seen=0, partitions=1, records=batch)
    assert len(value) == HEAD.size + len(name) + sum(map(size_of, batch))


@given(names, commands, st.data())
def test_a_value_that_is_cut_off_is_no_command(
    name: bytes, command: Command, data: st.DataObject
) -> None:
    value = encode_command(name, command, seen=0, partitions=1, retry=False)
    start = HEAD.size + len(name)
    if len(value) > start:
        cut = value[: data.draw(st.integers(start, len(value) - 1))]
        with pytest.raises(ValueError):  # noqa: PT011 - whatever the reader meets first
            read(cut)


@given(st.sampled_from(list(Kind)), st.integers(0, 2**32 - 1), st.binary(max_size=200))
def test_any_bytes_behind_a_head_are_read_or_refused(
    kind: Kind, messages: int, body: bytes
) -> None:
    """No other error leaves the reader, and no number of messages that is not there is believed."""
    try:
        found, end = read_messages(body, messages)
        action_of(kind, found, read_arguments(body[end:]))
    except ValueError:
        return
    assert end <= len(body)


@pytest.mark.parametrize("text", [b"{}", b'{"type": "human"}', b"\xef\xbb\xbftext", b"\x00\x01"])
def test_the_first_byte_tells_what_other_programs_write(text: bytes) -> None:
    assert text[0] != MAGIC


def test_names_differ_where_sessions_do() -> None:
    assert name_of("a", "b.c") != name_of("a.b", "c")
    assert name_of("default", "k") == b"default\0k"


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (Kind.DELETE, None),
        (Kind.DELETE, 7),
        (Kind.DELETE, [1, 2, 3]),
        (Kind.SET_METADATA, ["{}"]),
        (Kind.SET_METADATA, [7, False]),
        (Kind.RESTORE, ["{}", "{}"]),
        (Kind.RESTORE, [None] * 5),
        (Kind.EDIT, None),
        (Kind.PART, None),
        (Kind.CHECKPOINT, None),
        (77, None),
    ],
)
def test_arguments_that_make_no_action(kind: int, arguments: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        action_of(kind, [], arguments)
