"""What the commands print: text that is safe for a terminal, JSON, and progress."""

from __future__ import annotations

import contextlib
import functools
import json
import re
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from chatstores.snapshot import Tally

__all__ = ["Counter", "clean", "counted", "moment", "say", "write", "write_json"]

# Controls (C0, DEL, C1) make a terminal do things; controls of direction make it show another
# order than there is; U+2028 and U+2029 end lines.
_UNSAFE = "\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
_LINE = re.compile(f"[{_UNSAFE}]")
_TEXT = re.compile(f"(?![\n\t])[{_UNSAFE}]")
_JSON = re.compile(f"(?!\n)[{_UNSAFE}]")

#: Seconds between two lines of progress where there is no terminal.
_PAUSE = 10.0


def clean(text: str, *, lines: bool = False) -> str:
    r"""Text with control characters written out, as in ``\x1b``.

    Args:
        text: any text.
        lines: whether line ends and tabs stay.
    """
    if lines:
        text = text.replace("\r\n", "\n")
    return (_TEXT if lines else _LINE).sub(lambda match: repr(match[0])[1:-1], text)


def moment(time: datetime | None) -> str:
    """A time in UTC, to the second; "never" for None."""
    return "never" if time is None else f"{time:%Y-%m-%d %H:%M:%S} UTC"


def counted(number: int, noun: str) -> str:
    """Such as "1 session" or "1,000 sessions"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def say(text: str) -> None:
    """One line for the user, not for a pipe: it goes to stderr."""
    sys.stdout.flush()
    print(f"chatstores: {clean(text)}", file=sys.stderr, flush=True)


def write(text: str, style: str = "") -> None:
    """Print text to stdout, never wrapped or cut; with a style only on a terminal."""
    text = clean(text, lines=True)
    if style and sys.stdout.isatty():
        from rich.text import Text

        _console().print(Text(text, style))
    else:
        print(text)


@functools.cache
def _console() -> Any:
    from rich.console import Console

    return Console(soft_wrap=True)


def write_json(value: Any) -> None:
    """Print a line of JSON to stdout."""
    text = json.dumps(value, ensure_ascii=False, default=_plain)
    print(_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", text))


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"no JSON for {type(value).__name__}")


class Counter(Tally):
    """Counts that are shown on stderr: as a live line on a terminal, else now and then.

    Args:
        doing: what is being done, such as "restoring".
        checking: what is done before, while only ``checked`` grows.
    """

    def __init__(self, doing: str, checking: str = "checking") -> None:
        super().__init__()
        self._doing = doing
        self._checking = checking
        self._due = time.monotonic() + _PAUSE
        self._bar: Any = None

    def __str__(self) -> str:
        done = self.sessions + self.there
        if self.checked and not done:
            return f"{self._checking}: {counted(self.checked, 'session')}"
        of = f" of {self.checked:,}" if self.checked else ""
        text = f"{self._doing}: {done:,}{of} {'session' if done == 1 else 'sessions'}"
        return f"{text}, {counted(self.messages, 'message')}"

    def step(self) -> None:
        """Show the counts, if it is time to."""
        if self._bar is not None:
            done = self.sessions + self.there
            self._bar.update(
                0, description=str(self), total=self.checked if done else None, completed=done
            )
        elif time.monotonic() >= self._due:
            self._due = time.monotonic() + _PAUSE
            say(str(self))

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Show the counts while the context lasts; the live line is gone afterwards."""
        if not sys.stderr.isatty():
            yield
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = BarColumn(24), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
        with Progress(*columns, console=Console(stderr=True), transient=True) as self._bar:
            self._bar.add_task(self._doing, total=None)
            try:
                yield
            finally:
                self._bar = None
