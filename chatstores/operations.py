"""What each public method does, once for sync and async; and the hooks that a backend writes.

Here stands all that is the same on every backend: checking, encoding, deadlines, the settling of
lost replies, errors. ``ChatStore`` adds the public pairs of methods on top, a backend the hooks
below.
"""

from __future__ import annotations

import os
import time
import warnings
from abc import ABC, abstractmethod
from collections import ChainMap
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Literal, NamedTuple, NoReturn, Self, SupportsIndex, TypeVar
from urllib.parse import quote

from chatstores.codec import (
    Unreadable,
    decode,
    decode_metadata,
    decode_one,
    encode,
    encode_metadata,
)
from chatstores.errors import (
    BackendUnavailableError,
    ChatStoreError,
    ConflictError,
    ContentionError,
    CorruptRecordError,
    InvalidArgumentError,
    InvalidKeyError,
    InvalidMessageError,
    InvalidURLError,
    MessageNotFoundError,
    MessageTooLargeError,
    OutcomeUnknownError,
    SessionNotFoundError,
    StaleCursorError,
)
from chatstores.message import ChatMessage
from chatstores.registry import BACKENDS
from chatstores.retry import CONTENTION_LIMIT, Busy, Deadline, NotDone, attempt_seconds
from chatstores.state import (
    Action,
    Append,
    Clear,
    Command,
    Delete,
    Edit,
    Head,
    Outcome,
    Record,
    Replace,
    SetMetadata,
    Snapshot,
)
from chatstores.transport import Transport, Transports
from chatstores.types import Capabilities, Commit, Page, SessionInfo, SessionPage
from chatstores.url import StoreURL, parse_bool, parse_duration, parse_options, parse_url

__all__ = ["KeyPage", "Operations", "RecentPage"]

T = TypeVar("T")

MAX_KEY_BYTES = 512
MAX_COUNT = 2**53 - 2  # what a double holds exactly, and one more
OWN_PREFIX = "chatstores."

_NAMESPACE_CHARACTERS = frozenset(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class KeyPage(NamedTuple):
    """Some keys in byte order, and the key to go on after; None at the end."""

    keys: Sequence[str]
    after: str | None


class RecentPage(NamedTuple):
    """Some live sessions, newest write first, and the place to go on below; None at the end."""

    sessions: Sequence[tuple[str, Head]]
    before: tuple[int, str] | None


def _namespace(value: Any) -> str:
    if (
        not isinstance(value, str)
        or not 1 <= len(value) <= 64
        or set(value) - _NAMESPACE_CHARACTERS
    ):
        raise ValueError("must be 1 to 64 of the characters A-Z a-z 0-9 _ . -")
    return value


def _on_corrupt(value: Any) -> str:
    if value not in ("raise", "skip"):
        raise ValueError('must be "raise" or "skip"')
    return str(value)


class Operations(ABC):
    """The base of ChatStore; see there for the arguments."""

    #: What this backend keeps, refuses and is good for.
    capabilities: Capabilities = Capabilities()
    #: The base classes of the driver's errors; ``_error`` says what each means.
    _driver_errors: ClassVar[tuple[type[BaseException], ...]] = ()
    #: The backend's own options: a function for each that checks it, or reads it from text.
    _options: ClassVar[Mapping[str, Callable[[Any], Any]]] = {}
    #: The options of every store.
    _base_options: ClassVar[Mapping[str, Callable[[Any], Any]]] = {
        "namespace": _namespace,
        "ttl": parse_duration,
        "create": parse_bool,
        "timeout": parse_duration,
        "on_corrupt": _on_corrupt,
    }

    def __init__(
        self,
        *,
        namespace: str = "default",
        ttl: float | str | None = None,
        create: bool = True,
        timeout: float | str = 5.0,
        on_corrupt: Literal["raise", "skip"] = "raise",
    ) -> None:
        given = {
            "namespace": namespace,
            "create": create,
            "timeout": timeout,
            "on_corrupt": on_corrupt,
        } | ({} if ttl is None else {"ttl": ttl})
        options = parse_options(given, self._base_options, "a store")
        self._namespace: str = options["namespace"]
        self._ttl: float | None = options.get("ttl")
        self._create: bool = options["create"]
        self._timeout: float = options["timeout"]
        #: Seconds of a call's first attempt: what a transport is opened with.
        self._first_attempt = attempt_seconds(self._timeout)
        self._on_corrupt: str = options["on_corrupt"]
        self._ttl_us = None if self._ttl is None else max(1, round(self._ttl * 1_000_000))
        #: Seconds after which a write that loses to others gives up.
        self._contention_limit = CONTENTION_LIMIT
        self._secrets: tuple[str, ...] = ()
        self._transports = Transports(self._open, self._aopen)

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError(
            f"a {type(self).__name__} cannot be pickled or copied: open its URL there instead"
        )

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:
        """The store that a URL names.

        Args:
            url: the URL; its query holds options.
            options: further options; none may stand in both places.

        Raises:
            InvalidURLError: a part of the URL or an option is wrong.
        """
        parsed = parse_url(url)
        backend = BACKENDS.get(parsed.scheme)
        if backend and backend.name not in [base.__name__ for base in cls.__mro__]:
            raise InvalidURLError(
                f"{parsed.scheme}:// is no URL of {cls.__name__}: open_store() opens all of them"
            )
        twice = sorted(options.keys() & parsed.query.keys())
        if "password" in options and parsed.password is not None:
            twice.append("password")
        if twice:
            raise InvalidURLError(f"given in the URL and beside it: {', '.join(twice)}")
        if "password" in parsed.query:
            raise InvalidURLError(
                f"a password stands before the host, {parsed.scheme}://user:password@host, or is "
                "passed as password=..., and is no option of the URL"
            )
        password = options.pop("password", parsed.password)
        if password is not None and not isinstance(password, str):
            raise InvalidURLError("the option password: must be a str")
        known: Mapping[str, Any] = ChainMap(dict(cls._base_options), cls._options)  # type: ignore[arg-type]
        values = parse_options({**parsed.query, **options}, known, f"{parsed.scheme}://")
        return cls._from_parts(parsed._replace(password=password), values)

    # The hooks: what a backend writes. Each is called with a transport that has this attempt's
    # time; none may use asyncio or time itself.

    @classmethod
    @abstractmethod
    def _from_parts(cls, url: StoreURL, options: dict[str, Any]) -> Self:
        """The store of a parsed URL; the options are checked."""
        raise NotImplementedError

    @abstractmethod
    def _open(self) -> Transport:
        """A transport for sync code; no I/O."""

    @abstractmethod
    def _aopen(self) -> Transport:
        """A transport for the running event loop; no I/O."""

    @abstractmethod
    async def _commit(self, t: Any, key: str, command: Command) -> Outcome:
        """Do a command; the same one again gives the same answer and is not done again."""

    @abstractmethod
    async def _read(self, t: Any, key: str, first: int | None, last: int | None) -> Sequence[bytes]:
        """The stored messages of a session, oldest first: all, or the first or last so many."""

    @abstractmethod
    async def _head(self, t: Any, key: str) -> Head | None:
        """The head of a live session."""

    @abstractmethod
    async def _snapshot(
        self, t: Any, key: str, before: int | None, limit: int | None
    ) -> Snapshot | None:
        """In one moment, the head of a live session and its newest rows below an ordinal.

        At most ``limit`` rows, oldest first; None for either means no bound.
        """

    @abstractmethod
    async def _list(self, t: Any, prefix: str, after: str | None, limit: int) -> KeyPage:
        """Live sessions' keys that begin with a prefix and come after a key, in byte order.

        About ``limit`` of them; fewer, even none, are no end: only a page without ``after`` is.
        """

    @abstractmethod
    async def _recent(self, t: Any, before: tuple[int, str] | None, limit: int) -> RecentPage:
        """Live sessions by (last write, key), descending, below a place.

        The last write may be rounded to the minute, if ``capabilities.recency`` says so.
        """

    @abstractmethod
    async def _purge(self, t: Any) -> int:
        """Remove what has expired; how many sessions that were."""

    async def _setup(self, t: Any) -> None:
        """Create what the store needs, unless ``create`` is False; nothing by default."""

    def _setup_script(self) -> str:
        """What ``_setup`` would run, for someone else to run; "" if nothing has to be created."""
        return ""

    @abstractmethod
    async def _ping(self, t: Any) -> None:
        """Return if the store can be used, raise if not."""

    def _error(self, exc: BaseException) -> ChatStoreError:
        """What a driver's error means. Most specific class first.

        A BackendUnavailableError is tried again until the deadline.
        """
        raise exc

    # Running a hook.

    async def _run(
        self,
        t: Transport,
        hook: Callable[..., Awaitable[T]],
        *args: Any,
        command: Command | None = None,
    ) -> T:
        """A hook's result, tried again while the server is away, or busy, and there is time.

        A write is tried again as the same command, so that the engine knows it; if its outcome
        stays open at the end, that is what is raised.
        """
        began = heard = time.monotonic()
        silence = contention = None
        may_have_happened = False
        attempt = t  # as opened, it has the time of a first attempt
        while True:
            clock = None
            try:
                if command is None:
                    return await hook(attempt, *args)
                return await hook(attempt, *args, command)
            except Busy as exc:
                cause: BaseException = exc.__cause__ or exc
                error: ChatStoreError = ContentionError(f"{exc}, for {self._contention_limit:g} s")
                clock = contention = contention or Deadline(
                    self._contention_limit, first_pause=0.001, longest_pause=0.02
                )
                silence, heard = None, time.monotonic()
            except NotDone as exc:
                cause = exc.__cause__ or exc
                error = self._error(cause)
            except ChatStoreError as exc:
                if command is not None and may_have_happened:
                    raise OutcomeUnknownError(f"{command.id:016x}") from self._scrubbed(exc)
                if exc.__cause__ is not None:
                    raise exc from self._scrubbed(exc.__cause__)
                raise
            except self._driver_errors as exc:
                cause = exc
                error = self._error(exc)
                may_have_happened |= isinstance(error, BackendUnavailableError)
            if isinstance(error, BackendUnavailableError):
                clock = silence = silence or Deadline(self._timeout, heard)
            pause = clock.pause() if clock else None
            if pause is None:
                if command is not None and may_have_happened:
                    error = OutcomeUnknownError(f"{command.id:016x}")
                raise error from self._scrubbed(cause)
            await t.sleep(pause)
            seconds = silence.attempt() if silence else self._first_attempt
            attempt = t.within(seconds)
            if command is not None and may_have_happened:
                # What is on its way for as long as the attempt may take counts as older.
                age = time.monotonic() - began + seconds
                command = command._replace(age=int(age * 1_000_000) + 1)

    def _scrubbed(self, exc: BaseException) -> BaseException:
        """The error, or a copy without secrets if its text, or its chain's, holds one."""
        forms = {
            form
            for secret in self._secrets
            for form in (secret, quote(secret, safe=""), repr(secret)[1:-1])
        }
        seen: set[int] = set()
        link: BaseException | None = exc
        while link is not None and id(link) not in seen:
            seen.add(id(link))
            said = f"{link} {link.args} {getattr(link, '__notes__', '')}"
            if any(form in said for form in forms):
                text = f"{type(exc).__module__}.{type(exc).__qualname__}: {exc}"
                for form in sorted(forms, key=len, reverse=True):
                    text = text.replace(form, "***")
                return RuntimeError(text)
            link = link.__cause__ or link.__context__
        return exc

    # Checking what comes in.

    @staticmethod
    def _check_key(key: str) -> None:
        if not isinstance(key, str):
            hint = ": it comes first, then the message" if isinstance(key, ChatMessage) else ""
            raise InvalidKeyError(f"a session's key must be a str, not {type(key).__name__}{hint}")
        if not key:
            raise InvalidKeyError("a session's key must not be empty")
        try:
            size = len(key) if key.isascii() else len(key.encode())
        except UnicodeEncodeError as exc:
            raise InvalidKeyError(
                f"the session's key has a lone surrogate at character {exc.start}, "
                "which UTF-8 cannot hold"
            ) from None
        if size > MAX_KEY_BYTES:
            raise InvalidKeyError(
                f"the session's key takes {size} bytes of UTF-8; at most {MAX_KEY_BYTES} may"
            )
        if "\0" in key:
            raise InvalidKeyError("the session's key has a NUL character, which no key may")

    @staticmethod
    def _check_count(name: str, value: Any, least: int = 0) -> int:
        """A whole number; one above any count that is kept means no more than that."""
        if type(value) is not int or value < least:
            raise InvalidArgumentError(
                f"{name} must be a whole number, {least} or more, not {value!r:.80}"
            )
        return min(value, MAX_COUNT)

    @staticmethod
    def _check_index(value: Any) -> int:
        """A whole number; one beyond any count that is kept means no more than that."""
        if type(value) is not int:
            kind = type(value).__name__
            hint = ": an id is given by id=" if kind in ("str", "ChatMessage") else ""
            raise InvalidArgumentError(f"index must be a whole number, not {kind}{hint}")
        return max(-MAX_COUNT, min(value, MAX_COUNT))

    @staticmethod
    def _check_id(value: Any) -> None:
        if not isinstance(value, str):
            kind = type(value).__name__
            hint = ": give message.id" if kind == "ChatMessage" else ""
            raise InvalidArgumentError(f"a message's id must be a str, not {kind}{hint}")
        try:
            value.encode()
        except UnicodeEncodeError as exc:
            raise InvalidArgumentError(
                f"the message's id has a lone surrogate at character {exc.start}, "
                "which UTF-8 cannot hold"
            ) from None

    def _encode(self, messages: Sequence[ChatMessage], *, batch: bool) -> list[Record]:
        """Messages as records: each storable, no id twice, none too large, nor the batch."""
        if not isinstance(messages, list | tuple):
            hint = ": put it in a list" if isinstance(messages, ChatMessage) else ""
            raise InvalidMessageError(
                f"messages must be a list of ChatMessage, not {type(messages).__name__}{hint}"
            )
        records = []
        limit = self.capabilities.max_message_bytes
        for message in messages:
            payload = encode(message)
            if len(payload) > limit:
                raise MessageTooLargeError(len(payload), limit)
            records.append(Record(message.id, payload))
        if len(records) > 1:
            if len({record.id for record in records}) < len(records):
                raise InvalidMessageError(
                    "two of the messages have one id; ids are made by ChatMessage, leave them out"
                )
            size = sum(len(record.payload) for record in records)
            limit = self.capabilities.max_batch_bytes
            if batch and size > limit:
                raise MessageTooLargeError(size, limit, "the batch")
        return records

    async def _corrupt(self, t: Transport, key: str, position: int) -> CorruptRecordError:
        """The error for a record that a deletion found not readable, with the reason."""
        payloads = await self._run(t, self._read, key, position + 1, None)
        try:
            decode(payloads[position:])
        except Unreadable as exc:
            return CorruptRecordError(key, position, str(exc))
        return CorruptRecordError(key, position)

    # Writing.

    async def _do(self, t: Transport, key: str, action: Action, expected: int | None) -> Outcome:
        """Run one command on a key that was checked; a refusal becomes its error."""
        if expected is not None:
            self._check_count("expected_version", expected)
        # From the system: of a machine that is copied while it runs, as functions in the cloud are,
        # both copies would draw the same from a generator of our own.
        command = Command(int.from_bytes(os.urandom(8), "big"), action, expected, self._ttl_us)
        outcome = await self._run(t, self._commit, key, command=command)
        if outcome.refusal is None:
            return outcome
        if outcome.refusal == "corrupt":
            raise await self._corrupt(t, key, int(outcome.detail))
        raise self._refused(key, command, outcome)

    def _refused(self, key: str, command: Command, outcome: Outcome) -> ChatStoreError:
        match outcome.refusal:
            case "conflict":
                return ConflictError(command.expected_version or 0, outcome.version)
            case "no_session":
                return SessionNotFoundError(f"there is no session {key!r}; add a message first")
            case "no_message":
                return MessageNotFoundError(
                    f"session {key!r} has no message of the id {outcome.detail!r}"
                )
            case "other_content":
                return InvalidMessageError(
                    f"session {key!r} holds a message of the id {outcome.detail!r} with other "
                    "content; replace_message() changes it, a new ChatMessage has a new id"
                )
            case _:
                return OutcomeUnknownError(f"{command.id:016x}")

    async def _add(
        self, t: Transport, key: str, messages: Sequence[ChatMessage], expected: int | None
    ) -> Commit:
        self._check_key(key)
        outcome = await self._do(t, key, Append(self._encode(messages, batch=True)), expected)
        return Commit(outcome.version, outcome.added)

    async def _set(
        self, t: Transport, key: str, messages: Sequence[ChatMessage], expected: int | None
    ) -> Commit:
        self._check_key(key)
        outcome = await self._do(t, key, Replace(self._encode(messages, batch=False)), expected)
        return Commit(outcome.version, outcome.added)

    async def _replace(
        self, t: Transport, key: str, message: ChatMessage, expected: int | None
    ) -> Commit:
        self._check_key(key)
        [record] = self._encode([message], batch=False)
        outcome = await self._do(t, key, Edit(record), expected)
        return Commit(outcome.version, 0)

    async def _delete(
        self, t: Transport, key: str, action: Delete, expected: int | None
    ) -> list[ChatMessage]:
        self._check_key(key)
        if action.which in ("id", "after"):
            self._check_id(action.argument)
        if action.which == "index":
            action = Delete("index", self._check_index(action.argument))
        if action.which == "oldest":
            action = Delete("oldest", self._check_count("n", action.argument))
        outcome = await self._do(t, key, action, expected)
        try:
            return [decode_one(payload) for payload in outcome.removed]
        except Unreadable as exc:
            raise CorruptRecordError(key, None, str(exc)) from None

    async def _delete_one(
        self, t: Transport, key: str, index: int | None, id: str | None, expected: int | None
    ) -> ChatMessage | None:
        if index is not None and id is None:
            action = Delete("index", index)
        elif id is not None and index is None:
            action = Delete("id", id)
        else:
            raise InvalidArgumentError(
                "delete_message() takes an index or id=, exactly one of them"
            )
        removed = await self._delete(t, key, action, expected)
        return removed[0] if removed else None

    async def _delete_last(
        self, t: Transport, key: str, expected: int | None
    ) -> ChatMessage | None:
        removed = await self._delete(t, key, Delete("last"), expected)
        return removed[0] if removed else None

    async def _clear(self, t: Transport, key: str, expected: int | None) -> int:
        self._check_key(key)
        return (await self._do(t, key, Clear(), expected)).cleared

    async def _set_metadata(
        self,
        t: Transport,
        key: str,
        metadata: dict[str, Any],
        expected: int | None,
        *,
        own: bool = False,
    ) -> Commit:
        """Replace the caller's metadata or, for adapters, the library's own."""
        self._check_key(key)
        text = encode_metadata(metadata)
        for name in metadata:
            if name.startswith(OWN_PREFIX) is not own:
                raise InvalidMessageError(
                    f"metadata has the key {name!r}: keys that begin with {OWN_PREFIX!r} are the "
                    "library's own"
                )
        outcome = await self._do(t, key, SetMetadata(text, own), expected)
        return Commit(outcome.version, 0)

    # Reading.

    async def _get(
        self, t: Transport, key: str, last: int | None, first: int | None
    ) -> list[ChatMessage]:
        self._check_key(key)
        if last is not None:
            last = self._check_count("last", last)
        if first is not None:
            first = self._check_count("first", first)
            if last is not None:
                raise InvalidArgumentError("get_messages() takes last= or first=, not both")
        payloads = await self._run(t, self._read, key, first, last)
        try:
            return decode(payloads)
        except Unreadable:
            return await self._decode_each(t, key, payloads)

    async def _decode_each(
        self, t: Transport, key: str, payloads: Sequence[bytes]
    ) -> list[ChatMessage]:
        """The slow way for a session with a record that is not readable."""
        messages = []
        for payload in payloads:
            try:
                messages.append(decode_one(payload))
            except Unreadable as exc:
                error = CorruptRecordError(key, await self._position(t, key, payload), str(exc))
                if self._on_corrupt == "raise":
                    raise error from None
                warnings.warn(f"skipped: {error}", RuntimeWarning, stacklevel=2)
        return messages

    async def _position(self, t: Transport, key: str, payload: bytes) -> int | None:
        """The index of a stored message."""
        payloads = await self._run(t, self._read, key, None, None)
        return next((i for i, other in enumerate(payloads) if other == payload), None)

    async def _page(self, t: Transport, key: str, before: str | None, limit: int) -> Page:
        self._check_key(key)
        limit = self._check_count("limit", limit, least=1)
        epoch, ordinal = self._parse_cursor(before) if before is not None else (None, None)
        snapshot = await self._run(t, self._snapshot, key, ordinal, limit + 1)
        if epoch is not None and (snapshot is None or snapshot.head.epoch != epoch):
            raise StaleCursorError(
                f"the history of session {key!r} was replaced or deleted; start at its end again"
            )
        if snapshot is None:
            return Page([], None)
        rows = snapshot.rows[-limit:]
        payloads = [payload for _, payload in rows]
        try:
            messages = decode(payloads)
        except Unreadable:
            messages = await self._decode_each(t, key, payloads)
        more = len(snapshot.rows) > limit
        return Page(messages, f"{snapshot.head.epoch}.{rows[0][0]}" if more else None)

    @staticmethod
    def _parse_cursor(cursor: str) -> tuple[int, int]:
        try:
            epoch, ordinal = map(int, cursor.split("."))
        except (ValueError, AttributeError, TypeError):
            raise InvalidArgumentError(
                "before must be the cursor that the last page gave (page.before)"
            ) from None
        return epoch, ordinal

    async def _get_head(self, t: Transport, key: str) -> Head | None:
        self._check_key(key)
        return await self._run(t, self._head, key)

    async def _count(self, t: Transport, key: str) -> int:
        head = await self._get_head(t, key)
        return head.count if head else 0

    async def _version(self, t: Transport, key: str) -> int:
        head = await self._get_head(t, key)
        return head.version if head else 0

    async def _get_session(self, t: Transport, key: str) -> SessionInfo | None:
        head = await self._get_head(t, key)
        return self._info(key, head) if head else None

    @staticmethod
    def _info(key: str, head: Head) -> SessionInfo:
        try:
            metadata = decode_metadata(head.metadata)
        except Unreadable as exc:
            raise CorruptRecordError(key, None, str(exc)) from None
        return SessionInfo(
            key,
            head.version,
            head.count,
            _EPOCH + timedelta(microseconds=head.created_at),
            _EPOCH + timedelta(microseconds=head.updated_at),
            None if head.expires_at is None else _EPOCH + timedelta(microseconds=head.expires_at),
            metadata,
        )

    # Listing.

    async def _key_page(self, t: Transport, prefix: str, after: str | None, size: int) -> KeyPage:
        if not isinstance(prefix, str):
            raise InvalidKeyError(f"prefix must be a str, not {type(prefix).__name__}")
        if prefix:
            self._check_key(prefix)
        size = self._check_count("page_size", size, least=1)
        return await self._run(t, self._list, prefix, after, size)

    async def _get_keys(self, t: Transport, prefix: str) -> list[str]:
        keys: list[str] = []
        after = None
        while True:
            page = await self._key_page(t, prefix, after, 1000)
            keys += page.keys
            after = page.after
            if after is None:
                return keys

    async def _session_page(self, t: Transport, limit: int, before: str | None) -> SessionPage:
        limit = self._check_count("limit", limit, least=1)
        place = None
        if before is not None:
            try:
                time, _, key = before.partition(".")
                place = (int(time), key)
            except (ValueError, AttributeError, TypeError):
                raise InvalidArgumentError(
                    "before must be the cursor that the last page gave (page.before)"
                ) from None
        sessions: list[SessionInfo] = []
        while True:
            page = await self._run(t, self._recent, place, limit - len(sessions))
            sessions += [self._info(key, head) for key, head in page.sessions]
            place = page.before
            if place is None or len(sessions) >= limit:
                break
        # Pages follow the order that the engine keeps; within one it can as well be exact.
        sessions.sort(key=lambda info: info.updated_at, reverse=True)
        return SessionPage(sessions, None if place is None else f"{place[0]}.{place[1]}")
