"""Servers that are jars from Maven: what `install` fetched by a pom beside this file."""

from __future__ import annotations

import os
from pathlib import Path
from xml.etree import ElementTree

from tests.servers import program, unavailable

__all__ = ["java"]


def java(server: str) -> list[str]:
    """Return the start of the command line that runs a class of a server's jars."""
    jars = _folder(server) / "lib"
    if not jars.is_dir():
        unavailable(str(jars), f"run tests/servers/install {server}")
    return [program("java", server), "-cp", f"{jars}/*"]


def _folder(server: str) -> Path:
    """The folder of a server in this version, as in `install`."""
    pom = ElementTree.parse(Path(__file__).with_name(f"{server}.pom.xml"))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    servers = os.environ.get("CHATSTORES_SERVERS") or cache / "chatstores-servers"
    return Path(servers) / f"{server}-{pom.findtext('{*}version')}"
