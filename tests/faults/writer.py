"""A process that writes batches until it is killed, and says each time what it is about to do.

Run as ``python -m tests.faults.writer URL NAMESPACE KEY``. For each line NAME that it reads, it
forks a writer, which says its process id, prints ``? n`` before it adds batch n, and ``! n`` when
the store has acknowledged it. When the writer is dead, its parent prints ``.``. So a writer costs a
fork, and not the start of an interpreter.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from chatstores import ChatMessage, open_store

BATCH = 3


def main(url: str, namespace: str, key: str) -> None:
    """Fork a writer for each name."""
    open_store(url).close()  # imports the backend and its driver
    for line in sys.stdin:
        writer = os.fork()
        if writer == 0:
            write(url, namespace, key, line.strip())
        os.waitpid(writer, 0)
        say(".")


def write(url: str, namespace: str, key: str, name: str) -> NoReturn:
    """Write until killed."""
    try:
        say(f"{os.getpid()}")
        with open_store(url, namespace=namespace) as store:
            number = 0
            while True:
                ids = [f"{name}.{number}.{part}" for part in range(BATCH)]
                batch = [ChatMessage("x" * 2000, id=one) for one in ids]
                say(f"? {number}")
                store.add_messages(key, batch)
                say(f"! {number}")
                number += 1
    finally:
        os._exit(1)


def say(line: str) -> None:
    """Print a line in one piece, or not at all: a killed writer leaves no half of one."""
    os.write(1, f"{line}\n".encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
