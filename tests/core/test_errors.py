"""The tree of errors: as drawn, each also a builtin, readable, and able to cross processes."""

from __future__ import annotations

import builtins
import copy
import inspect
import pickle
import re
from typing import Any

import pytest

from chatstores import errors
from chatstores.errors import ChatStoreError

CLASSES = {
    name: value
    for name, value in vars(errors).items()
    if inspect.isclass(value) and issubclass(value, ChatStoreError)
}

#: How each is made.
EXAMPLES: list[tuple[ChatStoreError, str, dict[str, Any]]] = [
    (errors.InvalidURLError("why"), "why", {}),
    (errors.UnknownBackendError("why"), "why", {}),
    (errors.MissingDependencyError("pip install 'x[y]'"), "pip install 'x[y]'", {}),
    (errors.InvalidArgumentError("why"), "why", {}),
    (errors.InvalidKeyError("why"), "why", {}),
    (errors.InvalidMessageError("why"), "why", {}),
    (
        errors.MessageTooLargeError(2000, 1000),
        "the message takes 2,000 bytes; this store takes at most 1,000",
        {"size": 2000, "limit": 1000},
    ),
    (
        errors.MessageTooLargeError(2000, 1000, "the batch"),
        "the batch takes 2,000 bytes; this store takes at most 1,000",
        {"size": 2000, "limit": 1000, "what": "the batch"},
    ),
    (
        errors.ConflictError(1, 2),
        "the session is at version 2, not 1: read it again and decide anew",
        {"expected": 1, "actual": 2},
    ),
    (errors.ContentionError("why"), "why", {}),
    (errors.StaleCursorError("why"), "why", {}),
    (errors.SessionNotFoundError("there is no session 'k'"), "there is no session 'k'", {}),
    (errors.MessageNotFoundError("why"), "why", {}),
    (
        errors.SessionExistsError(["a", "b'c"]),
        'sessions are there already: \'a\', "b\'c"; load with on_existing="replace" or "skip"',
        {"keys": ["a", "b'c"]},
    ),
    (errors.NotSetUpError("why"), "why", {}),
    (errors.BackendUnavailableError("why"), "why", {}),
    (
        errors.OutcomeUnknownError("00000000000000ff"),
        "the answer to write 00000000000000ff was lost: it happened wholly or not at all; "
        "read the session to learn which",
        {"command_id": "00000000000000ff"},
    ),
    (errors.AuthenticationError("why"), "why", {}),
    (errors.PermissionDeniedError("why"), "why", {}),
    (errors.BackendMismatchError("why"), "why", {}),
    (errors.UnsupportedError("why"), "why", {}),
    (errors.StoreClosedError("why"), "why", {}),
    (
        errors.CorruptRecordError("k", 3),
        "record 3 of session 'k' is not readable",
        {"key": "k", "position": 3, "reason": "is not readable"},
    ),
    (
        errors.CorruptRecordError("k", None, "was torn"),
        "a record of session 'k' was torn",
        {"key": "k", "position": None, "reason": "was torn"},
    ),
    (errors.CorruptSnapshotError("why"), "why", {}),
]
examples = pytest.mark.parametrize(
    ("error", "text", "fields"), EXAMPLES, ids=[type(e).__name__ for e, _, _ in EXAMPLES]
)


def drawn() -> dict[str, tuple[str, set[str]]]:
    """Name -> (parent's name, builtins) as the module's docstring draws them."""
    assert errors.__doc__
    tree: dict[str, tuple[str, set[str]]] = {}
    above = ["ChatStoreError"]  # the last name drawn at each depth
    for line in errors.__doc__.splitlines():
        match = re.match(r"    ([│ ]*)[├└]── (\w+)(.*)", line)
        if match is None:
            continue
        depth = len(match[1]) // 4 + 1
        words = re.findall(r"[A-Z]\w+Error\b", match[3].split("  ... ")[0])
        known = {word for word in words if hasattr(builtins, word)}
        tree[match[2]] = (above[depth - 1], known)
        above[depth:] = [match[2]]
    return tree


def test_the_tree_is_as_drawn() -> None:
    tree = drawn()
    assert set(tree) == set(CLASSES) - {"ChatStoreError"}
    for name, (parent, known) in tree.items():
        bases = CLASSES[name].__bases__
        assert bases[0] is CLASSES[parent], name
        assert {base.__name__ for base in bases[1:]} == known, name


def test_all_are_exported_in_order() -> None:
    assert errors.__all__ == sorted(CLASSES)


def test_every_error_has_an_example_here_and_a_docstring() -> None:
    assert {type(error).__name__ for error, _, _ in EXAMPLES} == set(CLASSES) - {"ChatStoreError"}
    assert all(cls.__doc__ for cls in CLASSES.values())


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        ("InvalidURLError", ValueError),
        ("UnknownBackendError", ValueError),
        ("MissingDependencyError", ImportError),
        ("InvalidKeyError", ValueError),
        ("InvalidMessageError", ValueError),
        ("MessageTooLargeError", ValueError),
        ("ContentionError", TimeoutError),
        ("SessionNotFoundError", KeyError),
        ("MessageNotFoundError", KeyError),
        ("BackendUnavailableError", ConnectionError),
        ("OutcomeUnknownError", ConnectionError),
        ("AuthenticationError", PermissionError),
        ("PermissionDeniedError", PermissionError),
        ("UnsupportedError", NotImplementedError),
        ("StoreClosedError", RuntimeError),
        ("CorruptSnapshotError", ValueError),
    ],
)
def test_u6_each_is_what_a_python_programmer_would_catch(name: str, builtin: type) -> None:
    assert issubclass(CLASSES[name], builtin)


def test_a_wrong_password_is_no_connection_that_failed() -> None:
    """It must not be tried again."""
    assert not issubclass(errors.AuthenticationError, ConnectionError)
    assert not issubclass(errors.ContentionError, ConnectionError)
    assert not issubclass(errors.UnsupportedError, errors.StoreClosedError)


@examples
def test_the_text_and_the_fields(error: ChatStoreError, text: str, fields: dict[str, Any]) -> None:
    assert str(error) == text
    assert {name: getattr(error, name) for name in fields} == fields
    assert not str(error).startswith(("'", "[Errno"))


@examples
@pytest.mark.parametrize("way", ["pickle", "copy"])
def test_it_crosses_processes(
    error: ChatStoreError, text: str, fields: dict[str, Any], way: str
) -> None:
    again = pickle.loads(pickle.dumps(error)) if way == "pickle" else copy.copy(error)
    assert type(again) is type(error)
    assert (str(again), again.args) == (str(error), error.args)
    assert {name: getattr(again, name) for name in fields} == fields


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_an_error_without_arguments_has_an_empty_text(name: str) -> None:
    if "__init__" in vars(CLASSES[name]):
        with pytest.raises(TypeError):
            CLASSES[name]()
    else:
        assert str(CLASSES[name]()) == ""
