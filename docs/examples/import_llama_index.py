"""From a file of LlamaIndex's SimpleChatStore into any store.

    python import_llama_index.py chat_store.json redis://localhost:6379/0

The file is checked to its end before anything is written. If a session of it is in the store
already, nothing is written and the program says which. If it was interrupted, run it again with
"skip" as a third argument.
"""

import sys

from chatstores import open_store
from chatstores.errors import ChatStoreError


def main(file: str, url: str, on_existing: str = "error") -> None:
    """Load the file and say what is in the store now."""
    with open_store(url) as store:
        store.load(file, on_existing=on_existing)
        for key in store.iter_keys():
            print(f"{key}: {store.count_messages(key)} messages")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except ChatStoreError as error:
        sys.exit(str(error))
