"""``python -m tests.benchmarks``: the figures as a table and as JSON.

The exit code is 0 whatever they are: this is a measurement, not a test.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.benchmarks.run import Run

#: The modules of the backends.
BACKENDS = ("memory", "json_file", "sqlite", "redis", "postgres", "kafka")

_QUICK = 0.1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "--only",
        metavar="WORD",
        nargs="+",
        default=[],
        help='only rows whose title, such as "redis async add one", holds all of these words',
    )
    parser.add_argument("--json", metavar="FILE", type=Path, default=Path("bench.json"))
    parser.add_argument("--quick", action="store_true", help="a tenth of the time, to try it out")
    return parser.parse_args()


def main() -> None:
    """Measure, print and write."""
    arguments = _arguments()
    run = Run(arguments.only, _QUICK if arguments.quick else 1.0)
    run.head()
    run.core()
    for module in BACKENDS:
        run.module(module)
    print()
    print(run.report.summary())
    run.report.write(arguments.json)
    print(f"written to {arguments.json}")


if __name__ == "__main__":
    main()
