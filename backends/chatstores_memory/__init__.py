"""memory:// - sessions in this process, gone with it."""

from chatstores_memory.store import MemoryChatStore

__all__ = ["MemoryChatStore"]
