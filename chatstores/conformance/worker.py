"""Other processes that use the same store: started together, each with one function to run.

A worker imports this module and no pytest. It reads what to do from its standard input, says when
it is ready, begins when all are, and writes what its function returns, or yields, to its standard
output.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from inspect import isgenerator
from types import TracebackType
from typing import Any, BinaryIO, Self

__all__ = ["Worker", "in_processes", "main"]

_MAIN = "from chatstores.conformance.worker import main; main()"


class Worker:
    """One process; a context manager that ends it.

    Args:
        function: what to call there, with the arguments; a module's own, since it is pickled. If it
            is a generator, its values come one by one.
        args: the arguments, such as a ``Harness.elsewhere``.
    """

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        path = os.pathsep.join(filter(None, sys.path))
        self._process = subprocess.Popen(
            [sys.executable, "-c", _MAIN],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        self._send((function, args))

    def wait_until_ready(self) -> None:
        """Return when it could begin."""
        self._receive()

    def go(self) -> None:
        """Let it begin."""
        self._send("go")

    def values(self) -> Iterator[Any]:
        """What the function yielded, to its end or until the process is gone."""
        while (value := self._receive()) is not _END:
            yield value

    def kill(self) -> None:
        """Kill it (SIGKILL): it has no time for anything."""
        self._process.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def _send(self, value: Any) -> None:
        assert self._process.stdin is not None
        pickle.dump(value, self._process.stdin)
        self._process.stdin.flush()

    def _receive(self) -> Any:
        assert self._process.stdout is not None
        try:
            kind, value = pickle.load(self._process.stdout)
        except (EOFError, pickle.UnpicklingError):
            return _END
        if kind == "error":
            raise AssertionError(f"in another process:\n{value}")
        return _END if kind == "end" else value


_END = object()


def in_processes(function: Callable[..., Any], *argss: Sequence[Any]) -> list[Any]:
    """What the function returned in as many processes, all at once, one for each row of arguments.

    Raises:
        AssertionError: one of them raised; the text is its traceback.
    """
    workers: list[Worker] = []
    try:
        workers += [Worker(function, *args) for args in argss]
        for worker in workers:
            worker.wait_until_ready()
        for worker in workers:
            worker.go()
        return [next(worker.values()) for worker in workers]
    finally:
        for worker in workers:
            worker.__exit__(None, None, None)


def main() -> None:
    """Be a worker."""
    commands = sys.stdin.buffer
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a driver prints is no reply
    try:
        function, args = pickle.load(commands)
        _reply(replies, "ready", None)
        pickle.load(commands)
        result = function(*args)
        for value in result if isgenerator(result) else [result]:
            _reply(replies, "value", value)
        _reply(replies, "end", None)
    except Exception:
        _reply(replies, "error", traceback.format_exc())


def _reply(replies: BinaryIO, kind: str, value: Any) -> None:
    pickle.dump((kind, value), replies)
    replies.flush()
