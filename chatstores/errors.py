"""The errors of chatstores: one tree, each also the builtin that a Python programmer would catch.

::

    ChatStoreError
    ├── InvalidURLError         ValueError           the URL or an option is wrong
    ├── UnknownBackendError     ValueError           no backend has this scheme
    ├── MissingDependencyError  ImportError          the backend's driver is not installed
    ├── InvalidArgumentError    ValueError           an argument of a call is wrong
    │   ├── InvalidKeyError                          ... the session's key
    │   └── InvalidMessageError                      ... a message, or the metadata
    │       └── MessageTooLargeError                     ... its size: .size, .limit
    ├── ConflictError                                not at expected_version: .expected, .actual
    ├── ContentionError         TimeoutError         others won for too long; nothing written
    ├── StaleCursorError                             the cursor's history was replaced
    ├── SessionNotFoundError    KeyError             the call needs a session that exists
    ├── MessageNotFoundError    KeyError             the call needs a message that exists
    ├── SessionExistsError                           load() would overwrite: .keys
    ├── NotSetUpError                                create=False and nothing is set up
    ├── BackendUnavailableError ConnectionError      the server is away, or silent
    │   └── OutcomeUnknownError                      ... during a write: .command_id
    ├── AuthenticationError     PermissionError      the server refused user or password
    ├── PermissionDeniedError   PermissionError      the user may not do this
    ├── BackendMismatchError                         a topic, table or file is not as needed
    ├── UnsupportedError        NotImplementedError  this backend cannot: see its Capabilities
    ├── StoreClosedError        RuntimeError         the store was closed
    ├── CorruptRecordError                           unreadable record: .key, .position
    └── CorruptSnapshotError    ValueError           a snapshot is truncated or altered

Every method of a store raises one of these, ``from`` the driver's own error. Constructors of
messages raise ``pydantic.ValidationError``.
"""

from __future__ import annotations

__all__ = [
    "AuthenticationError",
    "BackendMismatchError",
    "BackendUnavailableError",
    "ChatStoreError",
    "ConflictError",
    "ContentionError",
    "CorruptRecordError",
    "CorruptSnapshotError",
    "InvalidArgumentError",
    "InvalidKeyError",
    "InvalidMessageError",
    "InvalidURLError",
    "MessageNotFoundError",
    "MessageTooLargeError",
    "MissingDependencyError",
    "NotSetUpError",
    "OutcomeUnknownError",
    "PermissionDeniedError",
    "SessionExistsError",
    "SessionNotFoundError",
    "StaleCursorError",
    "StoreClosedError",
    "UnknownBackendError",
    "UnsupportedError",
]


class ChatStoreError(Exception):
    """The base of every error that a store raises."""

    def __str__(self) -> str:
        # KeyError would print its argument's repr, OSError "[Errno ..]".
        return str(self.args[0]) if self.args else ""


class InvalidURLError(ChatStoreError, ValueError):
    """The URL, or an option in it or beside it, is wrong; the text says which part."""


class UnknownBackendError(ChatStoreError, ValueError):
    """No backend is registered for the URL's scheme; the text names the nearest one."""


class MissingDependencyError(ChatStoreError, ImportError):
    """The backend's driver is not installed; the text is the ``pip install`` line."""


class InvalidArgumentError(ChatStoreError, ValueError):
    """An argument has a wrong type or value; nothing was sent."""


class InvalidKeyError(InvalidArgumentError):
    """A session's key is empty, too long, or not text that UTF-8 can hold; nothing was sent."""


class InvalidMessageError(InvalidArgumentError):
    """A message or metadata cannot be stored and come back equal; nothing was written."""


class MessageTooLargeError(InvalidMessageError):
    """A message or a batch is larger than the backend takes; nothing was written.

    Attributes:
        size: what it measures, in bytes as stored.
        limit: what the backend takes, in bytes (``capabilities`` has it).
    """

    def __init__(self, size: int, limit: int, what: str = "the message") -> None:
        super().__init__(size, limit, what)
        self.size = size
        self.limit = limit
        self.what = what

    def __str__(self) -> str:
        return f"{self.what} takes {self.size:,} bytes; this store takes at most {self.limit:,}"


class ConflictError(ChatStoreError):
    """The session was not at ``expected_version``; nothing was changed.

    Attributes:
        expected: the version that the caller named.
        actual: the session's version, 0 if it is not there.
    """

    def __init__(self, expected: int, actual: int) -> None:
        super().__init__(expected, actual)
        self.expected = expected
        self.actual = actual

    def __str__(self) -> str:
        return (
            f"the session is at version {self.actual}, not {self.expected}: "
            "read it again and decide anew"
        )


class ContentionError(ChatStoreError, TimeoutError):
    """Other writers won for the whole limit (30 s); nothing was written."""


class StaleCursorError(ChatStoreError):
    """The history that a page's cursor walks through was replaced or deleted: start again."""


class SessionNotFoundError(ChatStoreError, KeyError):
    """The call needs a session that exists."""


class MessageNotFoundError(ChatStoreError, KeyError):
    """The call needs a message that is in the session."""


class SessionExistsError(ChatStoreError):
    """Sessions of the snapshot are in the store already; nothing was written.

    Attributes:
        keys: those sessions (at most 20 of them).
    """

    def __init__(self, keys: list[str]) -> None:
        super().__init__(keys)
        self.keys = keys

    def __str__(self) -> str:
        return (
            f"sessions are there already: {', '.join(map(repr, self.keys))}; "
            'load with on_existing="replace" or "skip"'
        )


class NotSetUpError(ChatStoreError):
    """The store has ``create=False`` and what it needs does not exist; the text says how to."""


class BackendUnavailableError(ChatStoreError, ConnectionError):
    """The server is away or silent, for the whole of the store's ``timeout``."""


class OutcomeUnknownError(BackendUnavailableError):
    """A write was sent, its answer was lost, and whether it happened cannot be learnt.

    Attributes:
        command_id: the write's id, 16 hexadecimal digits.
    """

    def __init__(self, command_id: str) -> None:
        super().__init__(command_id)
        self.command_id = command_id

    def __str__(self) -> str:
        return (
            f"the answer to write {self.command_id} was lost: it happened wholly or not at all; "
            "read the session to learn which"
        )


class AuthenticationError(ChatStoreError, PermissionError):
    """The server refused the user, password or certificate."""


class PermissionDeniedError(ChatStoreError, PermissionError):
    """The server knows the user, who may not do this."""


class BackendMismatchError(ChatStoreError):
    """A topic, table, key or file is not what the store needs; the text names the difference."""


class UnsupportedError(ChatStoreError, NotImplementedError):
    """The backend cannot do this; ``capabilities.refused`` has the clause and the reason."""


class StoreClosedError(ChatStoreError, RuntimeError):
    """The store was closed; open a new one."""


class CorruptRecordError(ChatStoreError):
    """A stored record cannot be read. It stays where it is.

    Attributes:
        key: the session; "" if the damage is wider.
        position: the message's index in the session, from 0; None if it is not known.
    """

    def __init__(self, key: str, position: int | None, reason: str = "is not readable") -> None:
        super().__init__(key, position, reason)
        self.key = key
        self.position = position
        self.reason = reason

    def __str__(self) -> str:
        where = "a record" if self.position is None else f"record {self.position}"
        whose = f" of session {self.key!r}" if self.key else ""
        return f"{where}{whose} {self.reason}"


class CorruptSnapshotError(ChatStoreError, ValueError):
    """A snapshot file is truncated or altered; nothing was loaded."""
