"""What LlamaIndex's and LangChain's own stores wrote to a Redis server, for the command line."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any

from chatstores.errors import (
    AuthenticationError,
    BackendUnavailableError,
    InvalidMessageError,
    InvalidURLError,
)
from chatstores.langchain_format import from_langchain
from chatstores.llama_index_format import from_llama_index
from chatstores.registry import missing
from chatstores.url import StoreURL, parse_url
from chatstores_redis.place import login_refused

try:
    import redis
except ImportError as exc:
    raise missing("redis", "redis") from exc

__all__ = ["from_langchain", "from_llama_index", "read_langchain", "read_llama_index"]

_SECONDS = 5.0


def read_llama_index(
    url: str, prefix: str | None, password: str | None
) -> Iterator[tuple[str, list[Any]]]:
    """Sessions that LlamaIndex's RedisChatStore wrote: by key a list of JSON, oldest first.

    Args:
        url: the server.
        prefix: only keys that begin with this text; it must be given, since LlamaIndex's keys
            have nothing that tells them from other programs'.
        password: that of the server, unless the URL has it.

    Raises:
        InvalidURLError: the URL is wrong, or there is no prefix.
        BackendUnavailableError: the server is away or silent.
        AuthenticationError: it refused the user or password.
        InvalidMessageError: an entry of a list is not JSON.
    """
    if prefix is None:
        raise InvalidURLError(
            "LlamaIndex's keys are bare: say with --prefix how those begin that are to be read; "
            '--prefix "" reads every list of the database'
        )
    yield from _lists(url, prefix, password)


def read_langchain(
    url: str, prefix: str | None, password: str | None
) -> Iterator[tuple[str, list[Any]]]:
    """Sessions that LangChain's RedisChatMessageHistory wrote: lists of JSON, newest first.

    Args:
        url: the server.
        prefix: LangChain's ``key_prefix``, which is no part of the session's key here; default
            "message_store:".
        password: that of the server, unless the URL has it.

    Raises:
        as ``read_llama_index``.
    """
    prefix = "message_store:" if prefix is None else prefix
    for key, stored in _lists(url, prefix, password):
        if session := key.removeprefix(prefix):
            yield session, stored[::-1]


def _lists(url: str, prefix: str, password: str | None) -> Iterator[tuple[str, list[Any]]]:
    """Every list whose key begins with a prefix, parsed, by key."""
    place = parse_url(url)
    if place.password is not None and password is not None:
        raise InvalidURLError(
            "given in the URL and beside it: password (the one here is CHATSTORES_SOURCE_PASSWORD)"
        )
    options: dict[str, Any] = {"socket_timeout": _SECONDS, "socket_connect_timeout": _SECONDS}
    if password is not None:
        options["password"] = password
        place = place._replace(password=password)
    try:
        client = redis.Redis.from_url(url, **options)
    except (ValueError, TypeError) as exc:
        raise InvalidURLError(
            "SOURCE must be a URL that redis-py knows, such as redis://localhost:6379/0"
        ) from exc
    pattern = re.sub(r"([\\*?\[\]^])", r"\\\1", prefix) + "*"
    with contextlib.closing(client), _errors(place):
        found = set(client.scan_iter(match=pattern, count=1000, _type="list"))
        for name in sorted(found):
            key = name.decode("utf-8", "backslashreplace")
            yield key, [_parsed(key, i, item) for i, item in enumerate(_items(client, name))]


def _items(client: Any, name: bytes) -> list[bytes]:
    items: list[bytes] = client.lrange(name, 0, -1)
    return items


def _parsed(key: str, index: int, item: bytes) -> Any:
    try:
        return json.loads(item)
    except ValueError as exc:
        raise InvalidMessageError(f"entry {index} of the list {key!r} is not JSON") from exc


@contextlib.contextmanager
def _errors(place: StoreURL) -> Iterator[None]:
    # A user without a password is likely a password in the wrong place: it is not shown.
    where = (place if place.password else place._replace(username=None)).public
    try:
        yield
    except redis.AuthenticationError as exc:
        text = login_refused(
            where,
            user=bool(place.username),
            password=bool(place.password),
            beside="CHATSTORES_SOURCE_PASSWORD in the environment",
        )
        raise AuthenticationError(text) from exc
    except redis.RedisError as exc:
        raise BackendUnavailableError(f"{where} cannot be read: {exc}") from exc
