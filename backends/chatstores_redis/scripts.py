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
    """A script's text, and the name under which a server knows it once it has run."""

    text: bytes
    sha: bytes


def _script(*parts: str) -> Script:
    folder = files(__package__) / "scripts"
    text = b"\n".join((folder / f"{part}.lua").read_bytes() for part in parts)
    return Script(text, hashlib.sha1(text, usedforsecurity=False).hexdigest().encode())


APPEND = _script("session", "command", "append")
CLEAR = _script("session", "command", "clear")
DELETE = _script("session", "command", "delete")
EDIT = _script("session", "command", "edit")
METADATA = _script("session", "command", "metadata")
REPLACE = _script("session", "command", "replace")
SNAPSHOT = _script("session", "snapshot")
STAGE = _script("session", "stage")
LIST = _script("bucket", "list")
PURGE = _script("bucket", "purge")
RECENT = _script("bucket", "recent")
