"""What the tests say over and over: add some texts, read a session's texts, see that nothing
changed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from chatstores import ChatMessage, Commit
from chatstores.conformance.api import Api

__all__ = ["add_texts", "messages", "texts", "unchanged"]


def messages(*contents: str) -> list[ChatMessage]:
    """A message for each text."""
    return [ChatMessage(content) for content in contents]


def add_texts(api: Api, key: str, *contents: str) -> Commit:
    """Add a message for each text, in one batch."""
    return api.add_messages(key, messages(*contents))


def texts(api: Api, key: str) -> list[str]:
    """The texts of a session's messages."""
    return contents(api.get_messages(key))


def contents(found: Sequence[ChatMessage]) -> list[str]:
    """The texts of messages."""
    return [message.text for message in found]


@contextlib.contextmanager
def unchanged(api: Api, key: str) -> Iterator[None]:
    """The session, its times and version included, is the same afterwards."""
    before = (api.get_session(key), api.get_messages(key))
    yield
    assert (api.get_session(key), api.get_messages(key)) == before
