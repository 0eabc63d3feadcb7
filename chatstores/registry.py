"""Which backend serves which URL: a table, sorted, and the entry points of third parties."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from chatstores.errors import MissingDependencyError, UnknownBackendError
from chatstores.url import nearest, parse_url

if TYPE_CHECKING:
    from chatstores.store import ChatStore

__all__ = ["BACKENDS", "ENTRY_POINTS", "Backend", "find_backend", "open_store", "schemes"]

#: The entry-point group in which a third party names its scheme and its class.
ENTRY_POINTS = "chatstores.backends"


class Backend(NamedTuple):
    """Where a scheme's class is.

    Attributes:
        module: the import package.
        name: the class in it.
    """

    module: str
    name: str


#: Scheme -> class. Nothing is imported before its scheme is opened.
BACKENDS = {
    "json": Backend("chatstores_json", "JsonChatStore"),
    "kafka": Backend("chatstores_kafka", "KafkaChatStore"),
    "memory": Backend("chatstores_memory", "MemoryChatStore"),
    "postgres": Backend("chatstores_sql", "PostgresChatStore"),
    "postgresql": Backend("chatstores_sql", "PostgresChatStore"),
    "postgresql+asyncpg": Backend("chatstores_sql", "PostgresChatStore"),
    "postgresql+psycopg": Backend("chatstores_sql", "PostgresChatStore"),
    "redis": Backend("chatstores_redis", "RedisChatStore"),
    "redis+cluster": Backend("chatstores_redis", "RedisChatStore"),
    "redis+sentinel": Backend("chatstores_redis", "RedisChatStore"),
    "rediss": Backend("chatstores_redis", "RedisChatStore"),
    "rediss+cluster": Backend("chatstores_redis", "RedisChatStore"),
    "rediss+sentinel": Backend("chatstores_redis", "RedisChatStore"),
    "sqlite": Backend("chatstores_sql", "SqliteChatStore"),
    "unix": Backend("chatstores_redis", "RedisChatStore"),
}


def _third_parties() -> dict[str, Any]:
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def schemes() -> list[str]:
    """Every scheme that ``open_store`` knows on this machine, sorted."""
    return sorted({*BACKENDS, *_third_parties()})


def find_backend(scheme: str) -> type[ChatStore]:
    """The class that serves a scheme.

    Raises:
        UnknownBackendError: there is none; the text names the nearest.
        MissingDependencyError: its driver is not installed; the text says how to.
    """
    if scheme in BACKENDS:
        backend = BACKENDS[scheme]
        return getattr(import_module(backend.module), backend.name)  # type: ignore[no-any-return]
    third_parties = _third_parties()
    if scheme in third_parties:
        return third_parties[scheme].load()  # type: ignore[no-any-return]
    known = schemes()
    raise UnknownBackendError(
        f"no backend has the scheme {scheme!r}{nearest(scheme, known)}; there are "
        f"{', '.join(f'{name}://' for name in known)}"
    )


def missing(driver: str, extra: str) -> MissingDependencyError:
    """The error for a driver that is not installed, with the command that installs it."""
    return MissingDependencyError(
        f"the package {driver!r} is not installed: pip install 'chatstores[{extra}]'"
    )


def open_store(
    url: str,
    *,
    namespace: str | None = None,
    ttl: float | str | None = None,
    create: bool | None = None,
    timeout: float | str | None = None,
    on_corrupt: Literal["raise", "skip"] | None = None,
    password: str | None = None,
    **backend_options: Any,
) -> ChatStore:
    """Open the store that a URL names. Nothing is connected or read before its first call.

    Args:
        url: for example ``memory://``, ``json:///chats.json`` or ``redis://localhost:6379/0``.
            Every option may stand in its query (``?ttl=7d&namespace=bot``) or here, not in both.
        namespace: which of the sessions in that place are this store's; ``[A-Za-z0-9_.-]``, 1 to
            64 of them; default "default".
        ttl: how long a session lives after its last change: seconds, or text such as "30m" or
            "7d". Default: for ever.
        create: whether tables, topics and files may be created; default True.
        timeout: seconds of silence after which a call ends, all attempts together, or text such
            as "500ms"; default 5.
        on_corrupt: "raise" (default), or "skip" to read over records that are not readable, with
            a warning.
        password: instead of one in the URL.
        backend_options: what the backend and its driver take besides.

    Returns:
        The store, of the backend's own class.

    Raises:
        InvalidURLError: a part of the URL or an option is wrong.
        UnknownBackendError: no backend has the URL's scheme.
        MissingDependencyError: the backend's driver is not installed.
    """
    parsed = parse_url(url)
    given = {
        "namespace": namespace,
        "ttl": ttl,
        "create": create,
        "timeout": timeout,
        "on_corrupt": on_corrupt,
        "password": password,
        **backend_options,
    }
    options = {name: value for name, value in given.items() if value is not None}
    return find_backend(parsed.scheme).from_url(url, **options)
