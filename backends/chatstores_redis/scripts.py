"""The Lua scripts beside this module, each with the parts that it begins with."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import NamedTuple

__all__ = [
    "APPEND",
    "CLEAR",
    "DELETE",
    "EDIT",
    "LIST",
    "METADATA",
    "PURGE",
    "RECENT",
    "REPLACE",
    "SNAPSHOT",
    "STAGE",
    "Script",
]


class Script(NamedTuple):
    """A script.

    Attributes:
        text: in Lua.
        sha: the name under which a server knows it once it has run.
        of_session: whether it is about one session, its first argument, or about a bucket.
    """

    text: bytes
    sha: bytes
    of_session: bool


def _script(*parts: str) -> Script:
    folder = files(__package__) / "scripts"
    text = b"\n".join((folder / f"{part}.lua").read_bytes() for part in parts)
    sha = hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()
    return Script(text, sha, parts[0] == "session")


_COMMAND = ("session", "state", "command", "rows", "changes")

# The functions of Lua are made anew at each call: the most usual command comes before all of them.
APPEND = _script("session", "append_one", *_COMMAND[1:], "append")
CLEAR = _script(*_COMMAND, "clear")
DELETE = _script(*_COMMAND, "delete")
EDIT = _script(*_COMMAND, "edit")
METADATA = _script(*_COMMAND, "metadata")
REPLACE = _script(*_COMMAND, "replace")
SNAPSHOT = _script("session", "state", "rows", "snapshot")
STAGE = _script("session", "stage")
LIST = _script("bucket", "list")
PURGE = _script("bucket", "purge")
RECENT = _script("bucket", "recent")
