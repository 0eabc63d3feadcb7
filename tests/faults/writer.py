"""A process that writes batches until it is killed, and says each time what it is about to do.

Run as ``python -m tests.faults.writer URL NAMESPACE KEY NAME``. It prints ``? n`` before it adds
batch n and ``! n`` when the store has acknowledged it.
"""

from __future__ import annotations

import sys

from chatstores import ChatMessage, open_store

BATCH = 3


def main(url: str, namespace: str, key: str, name: str) -> None:
    """Write until killed."""
    with open_store(url, namespace=namespace) as store:
        number = 0
        while True:
            batch = [ChatMessage("x" * 2000, id=f"{name}.{number}.{part}") for part in range(BATCH)]
            print(f"? {number}", flush=True)
            store.add_messages(key, batch)
            print(f"! {number}", flush=True)
            number += 1


if __name__ == "__main__":
    main(*sys.argv[1:])
