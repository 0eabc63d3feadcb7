"""Run pytest, and fail if the servers' password is in anything that the whole run prints.

``python -m tests.run ARGUMENT ...``: the arguments are pytest's.
"""

from __future__ import annotations

import subprocess
import sys
from urllib.parse import quote

#: The password of the tests' servers; with characters that a URL must escape.
PASSWORD = "sentinel@not/for:your?eyes"

_FORMS = [form.encode() for form in (PASSWORD, quote(PASSWORD, safe=""), quote(PASSWORD))]


def main(arguments: list[str]) -> int:
    """Pass on what pytest prints, and its exit code."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    shown = []
    for line in process.stdout:
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
        if any(form in line for form in _FORMS):
            shown.append(line)
    code = process.wait()
    if shown:
        print(f"the password of the tests' servers was printed in {len(shown)} lines")
    return code or bool(shown)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
