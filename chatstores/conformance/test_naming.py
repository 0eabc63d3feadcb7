"""What is said: secrets never (U4), wrong URLs in full (U5), errors as builtins too (U6)."""

from __future__ import annotations

import logging
import pickle
import re
import traceback
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pydantic
import pytest

import chatstores
from chatstores import ChatMessage, ChatStore, TextBlock, errors
from chatstores.conformance import jobs
from chatstores.conformance.api import Api, using
from chatstores.conformance.fixtures import OpenApi
from chatstores.conformance.harness import Harness, NotThere, NotTried
from chatstores.conformance.texts import add_texts
from chatstores.conformance.worker import in_processes
from chatstores.errors import (
    BackendUnavailableError,
    ChatStoreError,
    ConflictError,
    InvalidArgumentError,
    InvalidKeyError,
    InvalidMessageError,
    InvalidURLError,
    MessageNotFoundError,
    SessionNotFoundError,
    StaleCursorError,
    StoreClosedError,
    UnknownBackendError,
)
from chatstores.registry import schemes
from chatstores.url import parse_url

SECRET = "s3cr3t" + "-wörd"  # in two parts, so that the source lines in a traceback do not hold it
FORMS = [SECRET, quote(SECRET, safe=""), repr(SECRET.encode())[2:-1], ascii(SECRET)[1:-1]]


def assert_silent(text: str) -> None:
    """The text does not hold the secret, in any form."""
    for form in FORMS:
        assert form not in text


def printed(exc: BaseException) -> str:
    """An exception with its chain, as printed."""
    return f"{exc!r} {exc} {exc.args} " + "".join(traceback.format_exception(exc))


def opened(harness: Harness, by: str, **options: Any) -> ChatStore:
    """A store with the secret for a password, given in the URL or beside it."""
    scheme, _, rest = harness.url.partition("://")
    login, _, rest = rest.rpartition("@")
    user = login.partition(":")[0]  # without the right password
    if by == "url":
        url = f"{scheme}://{user}:{quote(SECRET, safe='')}@{rest}"
        return chatstores.open_store(url, **options)
    url = f"{scheme}://{user}@{rest}" if user else f"{scheme}://{rest}"
    return chatstores.open_store(url, password=SECRET, **options)


@pytest.mark.clause("U4")
@pytest.mark.parametrize("by", ["url", "option"])
def test_u4_a_password_is_not_shown(
    harness: Harness, form: str, by: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    try:
        store = opened(harness, by)
    except ChatStoreError as exc:  # this backend has no passwords
        assert_silent(printed(exc))
        return
    with using(store, form) as api:
        for text in [repr(store), str(store), f"{store}", store.url, repr(store.capabilities)]:
            assert_silent(text)
        calls: list[Callable[[], Any]] = [api.ping, lambda: api.get_messages("k")]
        for call in calls:
            try:
                call()
            except ChatStoreError as exc:
                assert_silent(printed(exc))
    assert_silent(caplog.text)


@pytest.mark.clause("U4", decided=False)
@pytest.mark.parametrize("fault", ["away", "silent"])
def test_u4_a_password_is_not_shown_when_the_server_is_away(
    harness: Harness, form: str, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with getattr(harness, fault)():
        store = opened(harness, "option", timeout=0.3)
        with using(store, form) as api, pytest.raises(ChatStoreError) as caught:
            api.ping()
        assert_silent(printed(caught.value))
    assert_silent(caplog.text)


@pytest.mark.clause("U4", decided=False)
def test_u4_the_right_password_is_not_shown(
    harness: Harness, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    secret = harness.options.get("password") or parse_url(harness.url).password
    if not secret:
        raise NotThere("the store has no password")
    caplog.set_level(logging.DEBUG)
    with using(harness.open(timeout=0.3), form) as api:
        api.ping()
        shown = [repr(api.store), str(api.store), api.store.url]
        for fault in [harness.away, harness.silent]:
            with fault(), pytest.raises(BackendUnavailableError) as caught:
                api.ping()
            shown.append(printed(caught.value))
    for text in [*shown, caplog.text]:
        assert secret not in text
        assert quote(secret, safe="") not in text


@pytest.mark.clause("U4")
@pytest.mark.parametrize("by", ["url", "option"])
def test_u4_a_password_is_not_serialised(harness: Harness, by: str) -> None:
    try:
        store = opened(harness, by)
    except ChatStoreError:  # this backend has no passwords
        return
    try:
        assert_silent(pickle.dumps(store).decode("utf-8", "replace"))
    except ChatStoreError as exc:
        assert_silent(printed(exc))
    except (TypeError, AttributeError, pickle.PicklingError) as exc:  # not serialised at all
        assert_silent(printed(exc))
    memory = chatstores.ChatMemoryBuffer.from_defaults(chat_store=store, chat_store_key="k")
    for text in [memory.to_string(), repr(memory), str(memory.to_dict())]:
        assert_silent(text)
    store.close()


WRONG_URLS = [
    "",
    "x",
    "localhost:6379",
    "://",
    "//host",
    "no scheme",
    "1x://host",
    None,
    1,
    b"memory://",
]


@pytest.mark.clause("U5")
@pytest.mark.parametrize("url", WRONG_URLS, ids=lambda url: f"{url!a:.15}")
def test_u5_no_url(harness: Harness, url: Any) -> None:
    with pytest.raises(InvalidURLError, match="URL"):
        chatstores.open_store(url)


@pytest.mark.clause("U5")
def test_u5_an_unknown_scheme_names_the_nearest_and_all(harness: Harness) -> None:
    scheme, _, rest = harness.url.partition("://")
    for wrong in [scheme[:-1], f"{scheme}x", scheme[0] + scheme]:
        if wrong in schemes():  # redis, of rediss
            continue
        with pytest.raises(UnknownBackendError) as caught:
            chatstores.open_store(f"{wrong}://{rest}")
        text = str(caught.value)
        assert repr(wrong) in text
        assert f"did you mean {scheme!r}" in text
        assert f"{scheme}://" in text


@pytest.mark.clause("U5")
@pytest.mark.parametrize("by", ["url", "option"])
def test_u5_an_unknown_option_names_the_nearest_and_all(harness: Harness, by: str) -> None:
    for wrong, right in [("tll", "ttl"), ("namespce", "namespace"), ("timeouts", "timeout")]:
        url, options = harness.url, {wrong: "1"}
        if by == "url":
            url, options = f"{url}{_and(url)}{wrong}=1", {}
        with pytest.raises(InvalidURLError) as caught:
            chatstores.open_store(url, **options)  # type: ignore[arg-type]
        text = str(caught.value)
        assert repr(wrong) in text
        assert f"did you mean {right!r}" in text
        for option in ["create", "namespace", "on_corrupt", "timeout", "ttl"]:
            assert option in text


def _and(url: str) -> str:
    return "&" if "?" in url else "?"


@pytest.mark.clause("U5")
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("ttl", "soon"),
        ("ttl", "0"),
        ("timeout", "never"),
        ("timeout", "-1"),
        ("create", "maybe"),
        ("on_corrupt", "ignore"),
        ("namespace", "a b"),
        ("namespace", ""),
    ],
)
def test_u5_a_wrong_value_names_its_option(harness: Harness, option: str, value: str) -> None:
    with pytest.raises(InvalidURLError, match=option):
        chatstores.open_store(f"{harness.url}{_and(harness.url)}{option}={quote(value)}")
    with pytest.raises(InvalidURLError, match=option):
        chatstores.open_store(harness.url, **{option: value})  # type: ignore[arg-type]


@pytest.mark.clause("U5")
def test_u5_an_option_stands_in_one_place(harness: Harness) -> None:
    with pytest.raises(InvalidURLError, match="ttl"):
        chatstores.open_store(f"{harness.url}{_and(harness.url)}ttl=1", ttl=1)
    with pytest.raises(InvalidURLError, match="ttl"):
        chatstores.open_store(f"{harness.url}{_and(harness.url)}ttl=1&ttl=2")


@pytest.mark.clause("U5")
def test_u5_options_in_the_url_are_those_beside_it(harness: Harness) -> None:
    store = chatstores.open_store(
        f"{harness.url}{_and(harness.url)}namespace=n&timeout=7s&create=true"
    )
    assert store.namespace == "n"
    assert store._timeout == 7
    store.close()


@pytest.mark.clause("U5")
@pytest.mark.parametrize("character", "@#/?")
def test_u5_an_unescaped_password_is_refused_and_not_echoed(
    harness: Harness, character: str
) -> None:
    scheme = harness.url.partition("://")[0]
    for password in [f"{SECRET}{character}x", f"{character}{SECRET}", f"{SECRET}{character}"]:
        for url in [f"{scheme}://user:{password}@localhost/0", f"{scheme}://:{password}@h:1"]:
            with pytest.raises(InvalidURLError) as caught:
                chatstores.open_store(url)
            text = str(caught.value)
            assert re.search("percent-encode", text)
            assert "password=" in text
            assert_silent(printed(caught.value))


@pytest.mark.clause("U5", decided=False)
def test_u5_a_missing_driver_says_how_to_install_it(harness: Harness) -> None:
    if harness.driver is None:
        raise NotTried("the harness names no driver")
    if not harness.driver:
        raise NotThere("no driver is needed")
    [(name, text)] = in_processes(jobs.open_without, (harness.driver, harness.url))
    assert name == "MissingDependencyError"
    assert re.search(r"pip install '?[\w.-]+(\[[\w,-]+\])?'?", text)


@pytest.mark.clause("U5", decided=False)
def test_u5_opening_connects_to_nothing(harness: Harness) -> None:
    with harness.silent():
        harness.open().close()


BUILTINS: dict[type[ChatStoreError], type[BaseException]] = {
    errors.InvalidURLError: ValueError,
    errors.UnknownBackendError: ValueError,
    errors.MissingDependencyError: ImportError,
    errors.InvalidArgumentError: ValueError,
    errors.InvalidKeyError: ValueError,
    errors.InvalidMessageError: ValueError,
    errors.MessageTooLargeError: ValueError,
    errors.ContentionError: TimeoutError,
    errors.SessionNotFoundError: KeyError,
    errors.MessageNotFoundError: KeyError,
    errors.BackendUnavailableError: ConnectionError,
    errors.OutcomeUnknownError: ConnectionError,
    errors.AuthenticationError: PermissionError,
    errors.PermissionDeniedError: PermissionError,
    errors.UnsupportedError: NotImplementedError,
    errors.StoreClosedError: RuntimeError,
    errors.CorruptSnapshotError: ValueError,
}


@pytest.mark.clause("U6")
def test_u6_every_error_is_a_chat_store_error_and_a_builtin(api: Api) -> None:
    for name in errors.__all__:
        assert issubclass(getattr(errors, name), ChatStoreError)
    for error, builtin in BUILTINS.items():
        assert issubclass(error, builtin)
    assert issubclass(errors.OutcomeUnknownError, errors.BackendUnavailableError)


@pytest.mark.clause("U6")
def test_u6_what_methods_raise(api: Api) -> None:
    add_texts(api, "k", "1", "2")
    page = api.page("k", limit=1)
    api.set_messages("k", [])
    calls: list[tuple[type[ChatStoreError], type[BaseException], Callable[[], Any]]] = [
        (InvalidKeyError, ValueError, lambda: api.get_messages("")),
        (InvalidArgumentError, ValueError, lambda: api.get_messages("k", last=-1)),
        (InvalidArgumentError, ValueError, lambda: api.page("k", before="x")),
        (InvalidMessageError, ValueError, lambda: api.add_message("k", ChatMessage("\ud800"))),
        (MessageNotFoundError, KeyError, lambda: api.delete_after("k", "x")),
        (MessageNotFoundError, KeyError, lambda: api.replace_message("k", ChatMessage("x"))),
        (SessionNotFoundError, KeyError, lambda: api.set_metadata("none", {})),
        (StaleCursorError, ChatStoreError, lambda: api.page("k", before=page.before)),
        (ConflictError, ChatStoreError, lambda: api.delete_messages("k", expected_version=1)),
    ]
    for error, builtin, call in calls:
        with pytest.raises(error) as caught:
            call()
        assert isinstance(caught.value, builtin)
        assert isinstance(caught.value, ChatStoreError)
        assert re.fullmatch(r"[^'\"(].*", str(caught.value), re.DOTALL)  # text, not a repr of it
    api.close()
    with pytest.raises(StoreClosedError) as closed:
        api.get_messages("k")
    assert isinstance(closed.value, RuntimeError)


@pytest.mark.clause("U6", decided=False)
def test_u6_a_drivers_error_is_the_cause(harness: Harness, open_api: OpenApi) -> None:
    api = open_api(timeout=0.3)
    calls: list[Callable[[], Any]] = [
        api.ping,
        lambda: api.get_messages("k"),
        lambda: api.add_message("k", ChatMessage("x")),
    ]
    for call in calls:
        with harness.away(), pytest.raises(ConnectionError) as caught:
            call()
        assert isinstance(caught.value, ChatStoreError)
        assert caught.value.__cause__ is not None
        assert not isinstance(caught.value.__cause__, ChatStoreError)


@pytest.mark.clause("U6")
def test_u6_constructors_raise_pydantics_error_with_inputs_hidden(harness: Harness) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: ChatMessage(1.5, SECRET),  # type: ignore[arg-type]
        lambda: ChatMessage([{"type": "text", "text": [SECRET]}]),
        lambda: ChatMessage("x", unknown=SECRET),
        lambda: ChatMessage("x", created_at=SECRET),
        lambda: TextBlock(text=[SECRET]),  # type: ignore[arg-type]
    ]
    for call in calls:
        with pytest.raises(pydantic.ValidationError) as caught:
            call()
        assert_silent(str(caught.value))
