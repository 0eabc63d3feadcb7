"""Run pytest, and fail if the servers' password is in anything that the whole run prints.

``python -m tests.run ARGUMENT ...``: the arguments are pytest's. With ``--contract-table FILE``,
which is for runs of the whole suite, it also fails if that page is not what the suite found; the
contract on every store and all other tests then run at the same time, since both mostly wait.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from pathlib import Path
from typing import IO
from urllib.parse import quote

#: The password of the tests' servers; with characters that a URL must escape.
PASSWORD = "sentinel@not/for:your?eyes"

#: The files that run the contract on a store.
_CONTRACT = "tests/backends/test_*_conformance.py"

_FORMS = [form.encode() for form in (PASSWORD, quote(PASSWORD, safe=""), quote(PASSWORD))]


def main(arguments: list[str]) -> int:
    """Pass on what pytest prints, and its exit code."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--contract-table", type=Path)
    given, arguments = parser.parse_known_args(arguments)
    if given.contract_table is None:
        return run(arguments)
    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor() as threads:
        found = Path(directory) / "table.md"
        later = Path(directory) / "rest.txt"
        with later.open("wb") as shown:
            rest = threads.submit(run, [*arguments, f"--ignore-glob={_CONTRACT}"], shown)
            table = ["--contract-table", str(found)]
            code = run([*arguments, *table, *glob(_CONTRACT)])
            code = rest.result() or code
        sys.stdout.buffer.write(later.read_bytes())
        sys.stdout.buffer.flush()
        return code or int(not agrees(given.contract_table, found.read_text()))


def run(arguments: list[str], out: IO[bytes] | None = None) -> int:
    """Run pytest once; what it prints goes to a file, or is shown."""
    out = out or sys.stdout.buffer
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    shown = []
    for line in process.stdout:
        out.write(line)
        out.flush()
        if any(form in line for form in _FORMS):
            shown.append(line)
    code = process.wait()
    if shown:
        print(f"the password of the tests' servers was printed in {len(shown)} lines")
    return code or bool(shown)


def agrees(page: Path, found: str) -> bool:
    """Whether a page of the contract's table is what the suite found; if not, it is written anew.

    Without a server, its store is not in what was found: then nothing is written, and it is a
    failure where tests are strict.
    """
    committed = page.read_text() if page.exists() else ""
    if committed == found:
        return True
    if missing := _stores(committed) - _stores(found):
        print(f"{page} was not compared: the suite did not run on {', '.join(sorted(missing))}")
        return os.environ.get("CHATSTORES_TEST_STRICT") != "1"
    page.write_text(found)
    print(f"{page} was not what the suite found; it is written anew: look at it and commit it")
    return False


def _stores(page: str) -> set[str]:
    """The names at the head of the table."""
    head = next((line for line in page.splitlines() if line.startswith("|")), "")
    return {name.strip() for name in head.split("|")} - {""}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
