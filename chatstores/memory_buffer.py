"""ChatMemoryBuffer (being written)."""

from __future__ import annotations


class ChatMemoryBuffer:
    """Placeholder."""
