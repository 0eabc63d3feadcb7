"""The command line: ``chatstores``; typer and rich come with the extra ``cli``."""

from __future__ import annotations

import sys
from importlib.util import find_spec

__all__ = ["main"]


def main() -> int:
    """Run the command that the process's arguments name.

    Returns:
        The exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
    """
    lacking = [name for name in ("typer", "rich") if find_spec(name) is None]
    if lacking:
        print(
            f"chatstores: the command line needs {' and '.join(lacking)}: "
            "pip install 'chatstores[cli]'",
            file=sys.stderr,
        )
        return 1
    from chatstores.cli.commands import run

    return run()
