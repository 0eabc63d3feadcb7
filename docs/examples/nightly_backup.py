"""A snapshot a night: written, checked, and the last seven kept.

    python nightly_backup.py redis://localhost:6379/0 /var/backups/chats

For cron. It ends with 1 and a line if anything went wrong, and then no older file is removed.
"""

import sys
from datetime import UTC, datetime
from pathlib import Path

from chatstores import open_store
from chatstores.errors import ChatStoreError

KEPT = 7


def main(url: str, folder: str) -> None:
    """Write today's snapshot, read it back, remove what is too old."""
    path = Path(folder) / f"chats-{datetime.now(UTC):%Y-%m-%d}.json.gz"
    with open_store(url, create=False) as store:
        print(f"{store.purge_expired()} expired sessions removed")
        store.persist(path)
    with open_store("memory://") as check:  # all of it, for a moment
        check.load(path)
        print(f"{path.name}: {len(check.get_keys())} sessions")
    for old in sorted(Path(folder).glob("chats-*.json.gz"))[:-KEPT]:
        old.unlink()
        print(f"{old.name} removed")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except ChatStoreError as error:
        sys.exit(str(error))
