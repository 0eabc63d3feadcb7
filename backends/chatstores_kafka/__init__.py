"""Chat histories in Kafka: all sessions in one compacted topic."""

from chatstores_kafka.store import KafkaChatStore

__all__ = ["KafkaChatStore"]
