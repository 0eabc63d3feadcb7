"""Chat histories in whatever you already run, opened by URL, with one promise on all of them."""

from chatstores import errors
from chatstores.memory_buffer import ChatMemoryBuffer
from chatstores.message import (
    AudioBlock,
    ChatMessage,
    DocumentBlock,
    ImageBlock,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
    UnknownBlock,
    VideoBlock,
)
from chatstores.registry import open_store
from chatstores.store import ChatStore
from chatstores.types import Capabilities, Commit, Page, SessionInfo, SessionPage

__version__ = "0.1.0"

__all__ = [
    "AudioBlock",
    "Capabilities",
    "ChatMemoryBuffer",
    "ChatMessage",
    "ChatStore",
    "Commit",
    "DocumentBlock",
    "ImageBlock",
    "Page",
    "SessionInfo",
    "SessionPage",
    "TextBlock",
    "ThinkingBlock",
    "ToolCallBlock",
    "UnknownBlock",
    "VideoBlock",
    "errors",
    "open_store",
]
