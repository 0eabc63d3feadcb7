"""A store's URL split, checked and stripped of secrets; and its options, from text to values."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, unquote

from pydantic_core import MultiHostUrl, ValidationError

from chatstores.errors import InvalidURLError

__all__ = [
    "StoreURL",
    "absolute_path",
    "file_of",
    "nearest",
    "parse_bool",
    "parse_duration",
    "parse_int",
    "parse_options",
    "parse_text",
    "parse_url",
    "refused",
]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://", re.ASCII)
_SECRET = re.compile(
    r"pass|pwd|secret|token|credential|auth|(?<!ssl)key(?!space|file)|(^|[_.-])sas($|[_.-])",
    re.IGNORECASE,
)
#: A user of these may stand without a host: the socket is a path, or an option.
_HOSTLESS = ("unix", "postgres", "postgresql", "postgresql+asyncpg", "postgresql+psycopg")
_STRAY_OPTION = re.compile(r"&\w+=")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)?", re.ASCII)
_SECONDS = {None: 1, "ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


class StoreURL(NamedTuple):
    """The parts of a store's URL, unescaped.

    Attributes:
        scheme: in lower case.
        hosts: (host, port) pairs; the port is None where the URL has none.
        username: or None.
        password: or None.
        path: what follows the hosts, with its leading slash; "" if there is none.
        query: the options.
    """

    scheme: str
    hosts: tuple[tuple[str, int | None], ...]
    username: str | None
    password: str | None
    path: str
    query: Mapping[str, str]

    def __repr__(self) -> str:
        return f"StoreURL({self.public!r})"

    @property
    def public(self) -> str:
        """The URL again, without the password and any option that may be a secret."""
        user = f"{quote(self.username, safe='')}@" if self.username else ""
        hosts = ",".join(
            (f"[{host}]" if _is_ipv6(host) else quote(host, safe=""))
            + (f":{port}" if port is not None else "")
            for host, port in self.hosts
        )
        query = "&".join(
            f"{quote(name, safe='')}={quote(value, safe='')}"
            for name, value in self.query.items()
            if not _SECRET.search(name)
        )
        return f"{self.scheme}://{user}{hosts}{quote(self.path)}{'?' if query else ''}{query}"


def _is_ipv6(host: str) -> bool:
    return host.count(":") > 1


def parse_url(url: str) -> StoreURL:
    """A URL's parts.

    Raises:
        InvalidURLError: it is none; the text says which part, and never holds the password.
    """
    if not isinstance(url, str):
        raise InvalidURLError(f"a store's URL must be a str, not {type(url).__name__}")
    match = _SCHEME.match(url)
    if match is None:
        raise InvalidURLError(
            "a store's URL begins with a scheme, such as memory://, json:///chats.json "
            "or redis://localhost:6379/0"
        )
    scheme, rest = match[1].lower(), url[match.end() :]
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    after = rest[len(authority) :]
    if authority.count("@") > 1 or (authority and "@" in after) or "#" in after:
        raise InvalidURLError(
            "the URL has an '@' or '#' in a place where it must be percent-encoded (@ is %40, "
            "# is %23, / is %2F, ? is %3F): if it belongs to the password, encode it there or "
            "pass password=... instead"
        )
    path, _, query = after.partition("?")
    if _STRAY_OPTION.search(path):
        raise InvalidURLError(
            "the first option of a URL follows a '?', not an '&' (in a name & is written %26)"
        )
    hosts, username, password = _split_authority(authority, hostless=scheme in _HOSTLESS)
    return StoreURL(scheme, hosts, username, password, unquote(path), _split_query(query))


def _split_authority(
    authority: str, *, hostless: bool
) -> tuple[tuple[tuple[str, int | None], ...], str | None, str | None]:
    user, at, hosts = authority.rpartition("@")
    name, _, password = user.partition(":")
    who = (_unescape(name) or None, _unescape(password) if password else None)
    if not hosts:
        if at and not hostless:
            raise InvalidURLError("the URL names no host after the '@'")
        return (), *who
    try:
        parsed = MultiHostUrl(f"x://{hosts}")
    except ValidationError as exc:
        reason = exc.errors(include_url=False, include_input=False)[0]["msg"].rpartition(": ")[2]
        raise InvalidURLError(
            f"the URL's host is not understood ({reason}); write host:port, several with commas "
            "between, an IPv6 address in [brackets]; a password's @ # / ? percent-encoded"
        ) from None
    pairs = tuple((unquote(h["host"] or ""), h["port"]) for h in parsed.hosts())
    return (
        tuple((host.removeprefix("[").removesuffix("]"), port) for host, port in pairs),
        *who,
    )


def _unescape(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise InvalidURLError(
            "the URL's user or password has a percent-encoding that is not UTF-8: write a literal "
            "% as %25"
        ) from None


def _split_query(query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in options:
            raise InvalidURLError(f"the URL has the option {name!r} twice")
        options[name] = value
    return options


def nearest(word: str, known: Iterable[str]) -> str:
    """`` (did you mean ...?)``, or nothing if no known word is near."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def parse_options(
    given: Mapping[str, Any], parsers: Mapping[str, Callable[[Any], Any]], what: str
) -> dict[str, Any]:
    """Options with their values checked and, where they came as text, made what they mean.

    Args:
        given: the options, from a URL (text) or from Python.
        parsers: a function for each known name.
        what: whose options they are, for the error.

    Raises:
        InvalidURLError: a name is unknown, or a value is wrong.
    """
    values = {}
    for name, value in given.items():
        parse = parsers.get(name)
        if parse is None:
            known = sorted(n for n, p in parsers.items() if not isinstance(p, _Refused))
            raise InvalidURLError(
                f"{what} has no option {name!r}{nearest(name, known)}; it has {', '.join(known)}"
            )
        try:
            values[name] = parse(value)
        except (ValueError, TypeError) as exc:
            raise InvalidURLError(f"the option {name}: {exc}") from None
    return values


class _Refused:
    """The parser of an option that would break a promise."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def __call__(self, _: Any) -> Any:
        raise ValueError(f"is refused: {self._reason}")


def refused(reason: str) -> Callable[[Any], Any]:
    """A parser for a driver's option that would break a promise; it says why."""
    return _Refused(reason)


def parse_bool(value: Any) -> bool:
    """True or false, also as the text that a URL holds."""
    if isinstance(value, bool):
        return value
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    raise ValueError("must be true or false")


def parse_int(value: Any) -> int:
    """A whole number, also as text."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("must be a whole number")
    if isinstance(value, str) and not re.fullmatch(r"-?\d{1,18}", value, re.ASCII):
        raise ValueError("must be a whole number")
    return int(value)


def parse_text(value: Any) -> str:
    """Text as it is."""
    if not isinstance(value, str):
        raise ValueError("must be text")
    return value


def parse_duration(value: Any) -> float:
    """Seconds above zero: a number, or text such as 30s, 30m, 12h or 7d."""
    if isinstance(value, str):
        match = _DURATION.fullmatch(value)
        if match is None:
            raise ValueError("must be seconds, or a duration such as 30s, 30m, 12h or 7d")
        seconds = float(match[1]) * _SECONDS[match[2]]
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    else:
        raise ValueError("must be a number of seconds, or text such as 30s, 30m, 12h or 7d")
    if not 0 < seconds < 1e10:  # some 300 years; also refuses NaN
        raise ValueError("must be more than zero seconds, and less than 300 years")
    return seconds


def file_of(url: StoreURL) -> str:
    """The path of a URL that names a file; relative unless it begins with a slash.

    Raises:
        InvalidURLError: it names a host, mostly for want of a slash, or a password.
    """
    if url.hosts:
        path = ",".join(host for host, _ in url.hosts) + url.path
        raise InvalidURLError(
            f"a file has three slashes when it is relative to the working directory and four when "
            f"it is absolute: {url.scheme}:///{path}, {url.scheme}:////{path}"
        )
    if url.password is not None:
        raise InvalidURLError(f"a file of {url.scheme}:// has no password")
    return url.path.removeprefix("/")


def absolute_path(path: Any, example: str) -> Path:
    """The absolute path of a store's file; ``~`` is the home directory.

    Args:
        path: the path, a str or an os.PathLike.
        example: a URL that names a file, for the error.

    Raises:
        InvalidURLError: it is none.
    """
    try:
        text = os.fspath(path)
    except TypeError:
        text = None
    if not isinstance(text, str):
        kind = type(path).__name__
        raise InvalidURLError(f"path must be a str or a pathlib.Path, not {kind}")
    if "://" in text:
        raise InvalidURLError("path is a file's; a URL is opened by open_store()")
    if not text or text.endswith("/"):
        scheme = example.partition("://")[0]
        raise InvalidURLError(f"{scheme}:// needs a file: {example}")
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:
        raise InvalidURLError(f"there is no home directory for {text!r}") from None
