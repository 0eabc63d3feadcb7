"""The recorded session of docs/command-line.md; run as a program, this records it anew."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.servers.redis import RedisServer

__all__ = ["PAGE", "normal", "recorded"]

PAGE = Path(__file__).parents[2] / "docs" / "command-line.md"
#: What the page shows in the place of the real ones.
HOME = "/home/ann"
ADDRESS = "localhost:6379"

_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PYTHON = re.compile(r"^```python\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MARK = "=== the end of the command ==="
#: What differs each time.
_VARYING = [
    (r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?( UTC|Z|\+00:00)", "TIME"),
    (r'version(": |\s)\d+', r"version\1N"),
    (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID"),
    (r"\d+\.\d+ ms", "N ms"),
    (r'"ms": [\d.]+', '"ms": N'),
    # typer's words, which change from version to version
    (r"(Invalid value for|Missing argument) .*;", r"\1 ...;"),
]


def normal(text: str) -> str:
    """Text without what differs each time."""
    for pattern, instead in _VARYING:
        text = re.sub(pattern, instead, text)
    return text


def recorded(page: str) -> str:
    """The page with what its commands print now."""
    commands = [
        line[2:]
        for block in _BLOCK.finditer(page)
        for line in block[1].splitlines()
        if line.startswith("$ ")
    ]
    outputs = iter(_run(commands, {match[1]: match[2] for match in _PYTHON.finditer(page)}))

    def block(match: re.Match[str]) -> str:
        lines = [line for line in match[1].splitlines() if line.startswith("$ ")]
        return "```console\n" + "".join(f"{line}\n{next(outputs)}" for line in lines) + "```"

    return _BLOCK.sub(block, page)


def _run(commands: list[str], files: dict[str, str]) -> list[str]:
    """What each command prints, all of them in one shell in a new directory."""
    with tempfile.TemporaryDirectory() as name, RedisServer() as server:
        folder = Path(name).resolve()
        for file, text in files.items():
            (folder / file).write_text(text)
        script = "".join(f"{command}\necho '{_MARK}'\n" for command in commands)
        address = f"127.0.0.1:{server.port}"
        environment = {k: v for k, v in os.environ.items() if not k.startswith("CHATSTORES_")}
        programs = Path(sys.executable).parent
        told = subprocess.run(
            ["bash", "-c", "exec 2>&1\n" + script.replace(ADDRESS, address)],
            cwd=folder,
            env=environment | {"PATH": f"{programs}{os.pathsep}{environment['PATH']}"},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout
        told = told.replace(str(folder), HOME).replace(address, ADDRESS)
        *outputs, rest = told.split(_MARK + "\n")
        assert rest == ""
        return outputs


if __name__ == "__main__":
    PAGE.write_text(recorded(PAGE.read_text()))
