"""What stores hand back: Commit, Page, SessionInfo, SessionPage, Capabilities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple

from chatstores.message import ChatMessage

__all__ = ["Capabilities", "Commit", "Page", "SessionInfo", "SessionPage"]


class Commit(NamedTuple):
    """What a write did.

    Attributes:
        version: the session's version after it.
        added: how many messages it added (those that were there already are not counted).
    """

    version: int
    added: int


class Page(NamedTuple):
    """Part of a session, walking backwards.

    Attributes:
        messages: the page's messages, oldest first.
        before: the cursor of the page before this one; None at the session's start.
    """

    messages: list[ChatMessage]
    before: str | None


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """What is known of a session beside its messages.

    Attributes:
        key: its key.
        version: grows with every change, and is never used twice for one key.
        count: how many messages it holds.
        created_at: when it was first written (UTC).
        updated_at: when it was last changed (UTC).
        expires_at: when it expires (UTC), or None.
        metadata: what ``set_metadata`` put there.
    """

    key: str
    version: int
    count: int
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None
    metadata: dict[str, Any]


class SessionPage(NamedTuple):
    """Some sessions, newest write first.

    Attributes:
        sessions: the page's sessions.
        before: the cursor of the next (older) page; None at the end.
    """

    sessions: list[SessionInfo]
    before: str | None


@dataclass(frozen=True)
class Capabilities:
    """What a backend keeps, refuses and is good for.

    Attributes:
        refused: the contract's clauses that it does not keep, each with the reason.
        notes: what a user should know, by topic ("durability", "failover", ...).
        max_message_bytes: the largest message, in bytes as stored.
        max_batch_bytes: the largest ``add_messages``, in bytes as stored.
        recency: by what ``list_sessions`` goes on from page to page: the "exact" time of a
            session's last write, or its "minute".
        clock: whose clock decides expiry: "server" or "writer".
    """

    refused: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    notes: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    max_message_bytes: int = 16 * 1024 * 1024
    max_batch_bytes: int = 64 * 1024 * 1024
    recency: str = "exact"
    clock: str = "server"
