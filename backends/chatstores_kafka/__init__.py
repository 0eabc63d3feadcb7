"""Chat histories in Kafka: all sessions in one compacted topic."""

from chatstores.registry import missing

try:
    import confluent_kafka  # noqa: F401 - once for all modules of this package
except ImportError as exc:
    raise missing("confluent_kafka", "kafka") from exc

from chatstores_kafka.store import KafkaChatStore

__all__ = ["KafkaChatStore"]
