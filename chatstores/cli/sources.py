"""What other libraries' stores wrote, by kind; and how it comes into a store, once."""

from __future__ import annotations

import json
import uuid
from collections import Counter as Occurrences
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any, NamedTuple

from chatstores.codec import encode
from chatstores.errors import InvalidArgumentError, InvalidMessageError
from chatstores.llama_index_format import from_llama_index
from chatstores.message import ChatMessage
from chatstores.snapshot import Tally
from chatstores.snapshot.llama_index import read_json
from chatstores.store import ChatStore

__all__ = ["KINDS", "bring_in", "from_llama_index", "read_llama_index"]

_IDS = uuid.UUID("6c8a3a52-0f1e-4d5b-9b43-7d1f6a0e2c94")
#: A batch that is added at once holds so many messages and bytes, at most.
_BATCH = 500
_BATCH_BYTES = 4 * 1024 * 1024


class Kind(NamedTuple):
    """What another library's store wrote.

    Attributes:
        source: what SOURCE is, for the help.
        module: where the two functions are.
        read: takes the source, a prefix or None, and a password or None; yields a session's key
            and what is stored of its messages (JSON's types), oldest first.
        convert: makes one of these a ChatMessage, or raises ValueError.
    """

    source: str
    module: str
    read: str
    convert: str


KINDS = {
    "langchain-kafka": Kind(
        "the kafka:// URL of a topic that LangChain's KafkaChatMessageHistory wrote",
        "chatstores_kafka.importing",
        "read_langchain",
        "from_record",
    ),
    "langchain-redis": Kind(
        "the redis:// URL of a server where LangChain's RedisChatMessageHistory wrote",
        "chatstores_redis.importing",
        "read_langchain",
        "from_langchain",
    ),
    "llama-index": Kind(
        "a file of LlamaIndex's SimpleChatStore", __name__, "read_llama_index", "from_llama_index"
    ),
    "llama-index-redis": Kind(
        "the redis:// URL of a server where LlamaIndex's RedisChatStore wrote",
        "chatstores_redis.importing",
        "read_llama_index",
        "from_llama_index",
    ),
}


def bring_in(
    store: ChatStore, kind: str, source: str, prefix: str | None, password: str | None, tally: Tally
) -> None:
    """Add what another library's store holds, but for what an earlier call added.

    A message's id follows from its session's key, what is stored of it, and how many equal ones
    stand before it. So the same message has the same id each time.

    Args:
        store: where to.
        kind: one of ``KINDS``.
        source: what to read.
        prefix: only keys that begin with this text.
        password: that of the source, or None.
        tally: counts sessions that got messages, these messages, and sessions that got none.

    Raises:
        InvalidArgumentError: the source cannot be opened.
        InvalidMessageError: something is no message; the sessions before it are added.
    """
    _, module, read, convert = KINDS[kind]
    functions = import_module(module)
    for key, stored in getattr(functions, read)(source, prefix, password):
        messages = _messages(key, stored, getattr(functions, convert))
        there = {message.id for message in store.get_messages(key)} if messages else set()
        new = [message for message in messages if message.id not in there]
        for batch in _batches(new):
            store.add_messages(key, batch)
        tally.messages += len(new)
        tally.sessions += bool(new)
        tally.there += not new
        tally.step()


def _messages(
    key: str, stored: Sequence[Any], convert: Callable[[Any], ChatMessage]
) -> list[ChatMessage]:
    messages = []
    seen = Occurrences[str]()
    for index, wire in enumerate(stored):
        try:
            message = convert(wire)
        except ValueError as exc:
            raise InvalidMessageError(f"message {index} of session {key!r}: {exc}") from exc
        text = json.dumps(wire, sort_keys=True)
        message.id = str(uuid.uuid5(_IDS, f"{key!r} {seen[text]} {text}"))
        seen[text] += 1
        messages.append(message)
    return messages


def _batches(messages: Sequence[ChatMessage]) -> Iterator[list[ChatMessage]]:
    batch: list[ChatMessage] = []
    size = 0
    for message in messages:
        more = len(encode(message))
        if batch and (len(batch) == _BATCH or size + more > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(message)
        size += more
    if batch:
        yield batch


def read_llama_index(
    source: str, prefix: str | None, password: str | None
) -> Iterator[tuple[str, list[Any]]]:
    """The sessions of a file of LlamaIndex's SimpleChatStore."""
    try:
        with open(source, "rb") as file:
            sessions = read_json(source, file)
    except OSError as exc:
        raise InvalidArgumentError(f"cannot read {source!r}: {exc.strerror}") from exc
    for key, stored in sessions.items():
        if key.startswith(prefix or ""):
            if not isinstance(stored, list):
                raise InvalidMessageError(f"{source!r}: session {key!r} is no list of messages")
            yield key, stored
