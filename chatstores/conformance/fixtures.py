"""The fixtures that the tests use; a backend's own test file takes them in with the tests."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

import chatstores
from chatstores.conformance.api import Api, make_api, using
from chatstores.conformance.clauses import clause_of
from chatstores.conformance.harness import Harness, NotThere
from chatstores.errors import UnsupportedError
from chatstores.store import ChatStore

__all__ = [
    "OpenApi",
    "OpenStore",
    "api",
    "clause",
    "form",
    "in_memory",
    "namespace",
    "open_api",
    "open_store",
    "path",
]


class OpenStore(Protocol):
    """Opens a store in the test's namespace, unless another is named."""

    def __call__(self, **options: Any) -> ChatStore:
        """The options are those of ``chatstores.open_store``."""


class OpenApi(Protocol):
    """Opens a store in the test's namespace, unless another is named, in the test's form."""

    def __call__(self, **options: Any) -> Api:
        """The options are those of ``chatstores.open_store``."""


@pytest.fixture(autouse=True)
def clause(request: pytest.FixtureRequest, harness: Harness) -> None:
    """Judges a test by what the store says of its clause: a refused one must raise.

    A race, a fault or a restart (``decided=False``) proves nothing when it goes well, and has no
    call that could refuse; such a test is not run where its clause is refused.
    """
    marker = request.node.get_closest_marker("clause")
    name = marker.args[0]
    store = harness.open()
    refused = store.capabilities.refused
    store.close()
    reason = refused.get(name) or refused.get(clause_of(name))
    request.node.user_properties.append(("chatstores.store", harness.name))
    if reason is None:
        return
    request.node.user_properties.append(("chatstores.refused", reason))
    if not marker.kwargs.get("decided", True):
        pytest.xfail(f"refused: {reason}")
    mark = pytest.mark.xfail(reason=f"refused: {reason}", raises=UnsupportedError, strict=True)
    request.node.add_marker(mark)


@pytest.fixture(params=["sync", "async"])
def form(request: pytest.FixtureRequest) -> str:
    """Whether the test calls a store's methods or their async twins."""
    return str(request.param)


@pytest.fixture
def namespace() -> str:
    """A namespace of the test's own."""
    return f"t-{secrets.token_hex(8)}"


@pytest.fixture
def open_store(
    request: pytest.FixtureRequest, harness: Harness, namespace: str
) -> Iterator[OpenStore]:
    """Opens stores; closes them at the end, and deletes what is in the test's own namespaces."""
    stores: list[ChatStore] = []
    clause = request.node.get_closest_marker("clause").args[0]

    def open_store(**options: Any) -> ChatStore:
        try:
            stores.append(harness.open(**{"namespace": namespace, **options}))
        except UnsupportedError as exc:
            if "ttl" not in options or clause_of(clause) == "L1":
                raise
            raise NotThere(f"sessions that expire: {exc}") from None
        return stores[-1]

    yield open_store
    for store in stores:
        store.close()
    if not harness.throwaway:
        for name in {store.namespace for store in stores}:
            if name.startswith(namespace):  # nobody else's
                _delete_all(harness.open(namespace=name))


def _delete_all(store: ChatStore) -> None:
    for key in store.get_keys():
        store.delete_messages(key)
    store.purge_expired()
    store.close()


@pytest.fixture
def open_api(open_store: OpenStore, form: str) -> Iterator[OpenApi]:
    """Opens stores in the test's form."""
    apis: list[Api] = []

    def open_api(**options: Any) -> Api:
        apis.append(make_api(open_store(**options), form))
        return apis[-1]

    yield open_api
    for api in apis:
        api.close()
        api.end()


@pytest.fixture
def api(open_api: OpenApi) -> Api:
    """A store in the test's form, in a namespace of the test's own."""
    return open_api()


@pytest.fixture
def in_memory(form: str) -> Iterator[Api]:
    """Another store: in memory, private to the test."""
    with using(chatstores.open_store("memory://"), form) as api:
        yield api


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that is not there, in a directory of its own."""
    return tmp_path / "snapshot.jsonl"
