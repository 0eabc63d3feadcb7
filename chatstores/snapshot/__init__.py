"""persist and load: every session of a store in one file, between any two backends.

``run`` holds the two; ``file`` writes and reads files, whatever their format; ``lines`` is our own
format, ``llama_index`` that of LlamaIndex's SimpleChatStore, ``formats`` what both need.

Over a sync transport nothing here suspends; all work on files goes through ``offload``. Of the
sessions one at a time is in memory (a file of LlamaIndex's is read whole, as LlamaIndex does).
"""

from chatstores.snapshot.run import Tally, load, persist

__all__ = ["Tally", "load", "persist"]
