"""The commands."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from enum import Enum
from io import TextIOWrapper
from typing import Annotated, Any

import typer
from pydantic_core import to_jsonable_python

from chatstores import __version__, snapshot
from chatstores.cli.conversation import message_lines, session_lines
from chatstores.cli.output import Counter, clean, counted, moment, say, write, write_json
from chatstores.errors import (
    ChatStoreError,
    CorruptRecordError,
    InvalidArgumentError,
    InvalidURLError,
    SessionExistsError,
    UnknownBackendError,
)
from chatstores.operations import Operations
from chatstores.registry import open_store
from chatstores.store import ChatStore
from chatstores.transport import run_sync
from chatstores.types import SessionInfo
from chatstores.url import parse_url

__all__ = ["run"]

FAILED, USAGE, INTERRUPTED, BROKEN_PIPE = 1, 2, 130, 141

#: click's class, which typer brings along under another name from 0.20 on.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    help="Chat histories in any store that chatstores opens by URL.",
    epilog="The store's password may stand in CHATSTORES_PASSWORD instead of the URL. "
    "Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def run(arguments: list[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: those after the program's name; None: the process's.

    Returns:
        The exit code.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    with warnings.catch_warnings():
        warnings.simplefilter("always", RuntimeWarning)
        warnings.showwarning = lambda message, *_, **__: say(f"warning: {message}")
        try:
            code = app(arguments, prog_name="chatstores", standalone_mode=False)
        except _UsageError as exc:
            return _usage(exc, sys.argv[1:] if arguments is None else arguments)
    return code if isinstance(code, int) else 0


#: Options that each command has, and the program itself has not.
_OF_COMMANDS = ("--url", "--namespace", "--timeout", "--json")


def _usage(exc: Any, arguments: list[str]) -> int:
    text = exc.format_message().rstrip(".")
    if text.startswith("Usage:"):  # no command at all: this is the help
        print(text, file=sys.stderr)
        return USAGE
    text = " ".join(text.split()).replace(": Value error, ", ": ")  # pydantic's way to say it
    given = any(word.startswith("--url") for word in arguments)
    if exc.ctx and exc.ctx.parent is None and getattr(exc, "option_name", "") in _OF_COMMANDS:
        text += f"; {exc.option_name} follows the command"
    elif "unexpected extra argument" in text and "://" in "".join(arguments) and not given:
        text += "; the store's URL is given by --url"
    for argument in arguments:
        if "://" in argument:  # it may hold a password
            text = text.replace(argument, "URL")
    path = exc.ctx.command_path if exc.ctx else "chatstores"
    say(f"{text}; see {path} --help")
    return USAGE


def _command(name: str | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command of the app, whose errors become one line and an exit code."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def guarded(*args: Any, **options: Any) -> None:
            code = _exit_code(function, *args, **options)
            if code:
                raise typer.Exit(code)

        return app.command(name)(guarded)

    return decorate


def _exit_code(function: Callable[..., None], *args: Any, **options: Any) -> int:
    try:
        try:
            function(*args, **options)
            sys.stdout.flush()
        except ChatStoreError as exc:
            say(_explain(exc))
            return USAGE if isinstance(exc, InvalidURLError | UnknownBackendError) else FAILED
        except KeyboardInterrupt:
            say("interrupted")
            return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has seen enough
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        return BROKEN_PIPE
    except OSError as exc:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        say(f"cannot write the output: {exc.strerror}")
        return FAILED
    return 0


def _explain(exc: ChatStoreError) -> str:
    """An error, with what helps on the command line."""
    match exc:
        case SessionExistsError():
            named = ", ".join(map(repr, exc.keys))
            return (
                f"sessions are there with other content: {named}; give --on-existing replace or "
                "--on-existing skip"
            )
        case CorruptRecordError():
            return (
                f"{exc}; 'chatstores doctor' finds all of these, and on_corrupt=skip in the URL's "
                "query reads over them"
            )
    return str(exc)


def _version(wanted: bool) -> None:
    if wanted:
        write(f"chatstores {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """What the program itself takes; its help is the app's."""


# What commands take.


def _checked_key(value: str) -> str:
    try:
        Operations._check_key(value)
    except InvalidArgumentError as exc:
        raise typer.BadParameter(str(exc)) from None
    return value


def _checked_prefix(value: str) -> str:
    return _checked_key(value) if value else value


def _complete_key(ctx: typer.Context, incomplete: str) -> list[str]:
    """Keys for the shell, from the store; none if that fails for whatever reason."""
    with contextlib.suppress(Exception):
        url = ctx.params.get("url") or os.environ["CHATSTORES_URL"]
        with _opened(url, ctx.params.get("namespace"), "1") as store:
            t = store._transports.sync()
            return list(run_sync(store._key_page(t, incomplete, None, 100)).keys)
    return []


Url = Annotated[
    str | None,
    typer.Option(
        envvar="CHATSTORES_URL",
        help="The store, such as redis://localhost:6379/0 or json:///chats.json.",
        show_default=False,
    ),
]
Namespace = Annotated[
    str | None, typer.Option(help='The namespace; "default" if none is given.', show_default=False)
]
Timeout = Annotated[
    str | None,
    typer.Option(
        help="How long a silent server is waited for: seconds, or such as 500ms; 5 by default.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Key = Annotated[
    str,
    typer.Argument(
        help="The session.",
        callback=_checked_key,
        autocompletion=_complete_key,
        show_default=False,
    ),
]
Prefix = Annotated[
    str,
    typer.Argument(help="Only keys that begin with this text.", callback=_checked_prefix),
]


class OnExisting(Enum):
    """What to do with sessions that are there already."""

    error = "error"
    replace = "replace"
    skip = "skip"


class Format(Enum):
    """The formats of a snapshot file."""

    chatstores = "chatstores"
    llama_index = "llama_index"


class From(Enum):
    """The kinds of ``chatstores.cli.sources.KINDS``, which is imported only where it is used."""

    langchain_kafka = "langchain-kafka"
    langchain_redis = "langchain-redis"
    llama_index = "llama-index"
    llama_index_redis = "llama-index-redis"


@contextlib.contextmanager
def _opened(
    url: str | None, namespace: str | None, timeout: str | None, *, create: bool | None = None
) -> Iterator[ChatStore]:
    """The store, closed at the end; ``create=False`` for commands that only read one."""
    if not url:
        raise InvalidURLError(
            "which store? Give --url or set CHATSTORES_URL, for example "
            "redis://localhost:6379/0 or json:///chats.json"
        )
    password = os.environ.get("CHATSTORES_PASSWORD") or None
    options: dict[str, Any] = {"namespace": namespace, "timeout": timeout, "password": password}
    try:
        if create is not None and "create" not in parse_url(url).query:
            options["create"] = create
        store = open_store(url, **options)
    except InvalidURLError as exc:
        if password and "password" in str(exc):
            raise InvalidURLError(f"{exc} (the one here is CHATSTORES_PASSWORD)") from None
        raise
    with contextlib.closing(store):
        yield store


# The commands.


@_command()
def setup(
    url: Url = None,
    namespace: Namespace = None,
    timeout: Timeout = None,
    script: Annotated[
        bool, typer.Option("--print", help="Only print what would be created.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Create what the store needs, if it is missing."""
    with _opened(url, namespace, timeout) as store:
        text = store._setup_script()
        if not script:
            store.setup()
        if as_json:
            write_json({"url": store.url, "script": text} if script else {"url": store.url})
        elif not script:
            write(f"set up: {store.url}")
        elif text:
            write(text)
        else:
            say(f"{store.url} needs nothing that someone would have to create before")


@_command()
def ping(
    url: Url = None, namespace: Namespace = None, timeout: Timeout = None, as_json: Json = False
) -> None:
    """See whether the store can be used, and how fast it answers."""
    with _opened(url, namespace, timeout) as store:
        store.ping()  # the first one connects
        began = time.perf_counter()
        store.ping()
        ms = (time.perf_counter() - began) * 1000
        if as_json:
            write_json({"url": store.url, "ms": round(ms, 3)})
        else:
            write(f"ok: {store.url} answers in {ms:.2f} ms")


@_command()
def keys(
    prefix: Prefix = "",
    url: Url = None,
    namespace: Namespace = None,
    timeout: Timeout = None,
    recent: Annotated[
        int | None,
        typer.Option(
            min=1, help="The N sessions that were written last, newest first.", metavar="N"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Print the sessions' keys, in byte order."""
    if prefix and recent is not None:
        raise typer.BadParameter("--recent lists all keys: it takes no PREFIX")
    with _opened(url, namespace, timeout, create=False) as store:
        if recent is not None:
            for info in store.list_sessions(limit=recent).sessions:
                if as_json:
                    write_json(_plain(info))
                else:
                    _write_key(f"{moment(info.updated_at)}  {info.count:>7,}  ", info.key)
            return
        for key in store.iter_keys(prefix):
            if as_json:
                write_json({"key": key})
            else:
                _write_key("", key)


def _write_key(before: str, key: str) -> None:
    print(before + clean(key))


def _plain(info: SessionInfo) -> dict[str, Any]:
    return {name: getattr(info, name) for name in SessionInfo.__dataclass_fields__}


@_command()
def show(
    key: Key,
    url: Url = None,
    namespace: Namespace = None,
    timeout: Timeout = None,
    last: Annotated[
        int | None, typer.Option(min=0, help="Only the last N messages.", metavar="N")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print a session: what is known of it, and its messages.

    With --json, the first line is the session, each further one a message.
    """
    with _opened(url, namespace, timeout, create=False) as store:
        info = store.get_session(key)
        if info is None:
            raise InvalidArgumentError(f"there is no session {key!r}; see 'chatstores keys'")
        messages = store.get_messages(key, last=last)
        if as_json:
            write_json(_plain(info))
            for message in messages:
                write_json(to_jsonable_python(message, bytes_mode="base64"))
            return
        for text, style in session_lines(info):
            write(text, style)
        for message in messages:
            write("")
            for text, style in message_lines(message):
                write(text, style)


@_command()
def persist(
    file: Annotated[str, typer.Argument(help="Where to; .gz is compressed.", show_default=False)],
    url: Url = None,
    namespace: Namespace = None,
    timeout: Timeout = None,
    format: Annotated[Format, typer.Option(help="The file's format.")] = Format.chatstores,
    as_json: Json = False,
) -> None:
    """Write every session to a file. A former one is replaced when the new one is whole."""
    counter = Counter("writing")
    with _opened(url, namespace, timeout, create=False) as store, counter.shown():
        t = store._transports.sync()
        run_sync(snapshot.persist(store, t, file, format.value, counter))
    if as_json:
        write_json({"file": file, "sessions": counter.sessions, "messages": counter.messages})
    else:
        write(f"wrote {_both(counter)} to {file}")


@_command()
def load(
    file: Annotated[
        str, typer.Argument(help="What persist or LlamaIndex wrote.", show_default=False)
    ],
    url: Url = None,
    namespace: Namespace = None,
    timeout: Timeout = None,
    on_existing: Annotated[
        OnExisting,
        typer.Option(help="What to do with sessions that are there with other content."),
    ] = OnExisting.error,
    as_json: Json = False,
) -> None:
    """Restore every session of a file.

    The file is checked to its end before. A session that is there as in the file is passed over: a
    load that was interrupted is finished by the same command again.
    """
    counter = Counter("restoring")
    with _opened(url, namespace, timeout) as store, counter.shown():
        t = store._transports.sync()
        run_sync(snapshot.load(store, t, file, on_existing.value, counter, resume=True))
    if as_json:
        counts = {"sessions": counter.sessions, "messages": counter.messages}
        write_json({"file": file, **counts, "there": counter.there})
    else:
        write(f"restored {_both(counter)}" + _there(counter.there, "there already"))


@_command()
def purge(
    url: Url = None, namespace: Namespace = None, timeout: Timeout = None, as_json: Json = False
) -> None:
    """Remove what is left of expired sessions."""
    with _opened(url, namespace, timeout, create=False) as store:
        purged = store.purge_expired()
    if as_json:
        write_json({"purged": purged})
    else:
        write(f"purged {counted(purged, 'expired session')}")


@_command()
def doctor(
    url: Url = None, namespace: Namespace = None, timeout: Timeout = None, as_json: Json = False
) -> None:
    """Read every session, and report what cannot be read."""
    from chatstores.cli.doctor import unreadable

    counter = Counter("reading")
    found = []
    with _opened(url, namespace, timeout, create=False) as store, counter.shown():
        for error in unreadable(store, counter):
            found.append(error)
    records = [{"key": e.key, "position": e.position, "reason": e.reason} for e in found]
    if as_json:
        counts = {"sessions": counter.sessions, "messages": counter.messages}
        write_json({**counts, "unreadable": records})
    else:
        for error in found:
            write(str(error))
        write(f"read {_both(counter)}: {counted(len(found), 'unreadable record')}")
    if found:
        raise ChatStoreError(
            "what is unreadable stays where it is; on_corrupt=skip in the URL's query reads over it"
        )


@_command("import")
def import_(
    kind: Annotated[From, typer.Option("--from", help="What wrote it.", show_default=False)],
    source: Annotated[
        str, typer.Argument(help="The file, or the server's URL.", show_default=False)
    ],
    url: Url = None,
    namespace: Namespace = None,
    timeout: Timeout = None,
    prefix: Annotated[
        str | None,
        typer.Option(
            help="Only keys that begin with this text. llama-index-redis needs one (it may be "
            "empty); langchain-redis has message_store: and leaves it out of the new key; for "
            "langchain-kafka it stands in the place of the URL's topic."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Add what another library's store wrote. Doing it again adds only what is new.

    The password of a server that is read may stand in CHATSTORES_SOURCE_PASSWORD.
    """
    from chatstores.cli.sources import bring_in

    counter = Counter("adding")
    password = os.environ.get("CHATSTORES_SOURCE_PASSWORD") or None
    with _opened(url, namespace, timeout) as store, counter.shown():
        bring_in(store, kind.value, source, prefix, password, counter)
    if as_json:
        counts = {"sessions": counter.sessions, "messages": counter.messages}
        write_json({"source": kind.value, **counts, "there": counter.there})
    else:
        write(
            f"added {counted(counter.messages, 'message')} to "
            f"{counted(counter.sessions, 'session')}" + _there(counter.there, "complete already")
        )


def _both(counter: Counter) -> str:
    return f"{counted(counter.sessions, 'session')} with {counted(counter.messages, 'message')}"


def _there(there: int, how: str) -> str:
    return f"; {there:,} {'was' if there == 1 else 'were'} {how}" if there else ""
