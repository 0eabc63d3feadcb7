"""postgresql:// and sqlite:// - sessions in a database that is there, or in a file.

The drivers of one are not needed for the other: each class is imported when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chatstores_sql.postgres import PostgresChatStore
    from chatstores_sql.sqlite import SqliteChatStore

__all__ = ["PostgresChatStore", "SqliteChatStore"]


def __getattr__(name: str) -> Any:
    if name == "PostgresChatStore":
        from chatstores_sql.postgres import PostgresChatStore

        return PostgresChatStore
    if name == "SqliteChatStore":
        from chatstores_sql.sqlite import SqliteChatStore

        return SqliteChatStore
    raise AttributeError(f"module 'chatstores_sql' has no attribute {name!r}")
