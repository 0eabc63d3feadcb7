"""redis:// - sessions in a Redis server, each command one script."""

from chatstores_redis.store import RedisChatStore

__all__ = ["RedisChatStore"]
