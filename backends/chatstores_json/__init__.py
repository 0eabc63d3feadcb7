"""json:///path.json - sessions in a JSON file and a journal beside it, for one machine."""

from chatstores_json.store import JsonChatStore

__all__ = ["JsonChatStore"]
