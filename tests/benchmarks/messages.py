"""The messages that are added and read: 40 words each, the same in every run but for their ids."""

from __future__ import annotations

import random
from collections.abc import Sequence

from chatstores import ChatMessage
from chatstores.codec import encode

__all__ = ["WORDS", "make_messages", "payloads"]

WORDS = 40

_TEXT = """
You asked me how the new house can be kept warm through a long winter without much work. First look
at every window and door: where cold air comes in, most of the heat goes out again. Then read what
the last people who lived there paid each year, and write it down next to your own numbers. A good
wall will help more than a large fire, and it never needs any wood. If you still want to change one
thing only, begin with the roof, because warm air goes up and little else in the world is as sure.
"""
_VOCABULARY = _TEXT.split()


def make_messages(number: int) -> list[ChatMessage]:
    """So many messages, a user's and an assistant's in turn."""
    choose = random.Random(number).choices
    return [
        ChatMessage(" ".join(choose(_VOCABULARY, k=WORDS)), ("user", "assistant")[index % 2])
        for index in range(number)
    ]


def payloads(messages: Sequence[ChatMessage]) -> list[bytes]:
    """The very bytes that a store keeps for them."""
    return [encode(message) for message in messages]
