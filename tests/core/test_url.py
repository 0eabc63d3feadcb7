"""URLs and options: what they mean, what is refused, and that no secret is ever said."""

from __future__ import annotations

import string
import traceback
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatstores import open_store
from chatstores.errors import InvalidURLError
from chatstores.url import (
    StoreURL,
    nearest,
    parse_bool,
    parse_duration,
    parse_int,
    parse_options,
    parse_url,
)


def said(error: BaseException) -> str:
    """All that a user sees of an error."""
    return "".join(traceback.format_exception(error)) + repr(error) + str(error.args)


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("memory://", ("memory", (), None, None, "", {})),
        ("memory://name", ("memory", (("name", None),), None, None, "", {})),
        ("json:///chats.json", ("json", (), None, None, "/chats.json", {})),
        ("json:////var/chats.json", ("json", (), None, None, "//var/chats.json", {})),
        ("json:///~/a%20b.json", ("json", (), None, None, "/~/a b.json", {})),
        ("REDIS://Host/0", ("redis", (("Host", None),), None, None, "/0", {})),
        ("redis://h:6379/0", ("redis", (("h", 6379),), None, None, "/0", {})),
        ("redis+cluster://a:1,b,c:3/0", None),
        ("redis://[::1]:6379/0", ("redis", (("::1", 6379),), None, None, "/0", {})),
        ("redis://127.0.0.1", ("redis", (("127.0.0.1", None),), None, None, "", {})),
        ("redis://u@h", ("redis", (("h", None),), "u", None, "", {})),
        ("redis://u:p@h", ("redis", (("h", None),), "u", "p", "", {})),
        ("redis://:p@h", ("redis", (("h", None),), None, "p", "", {})),
        ("redis://u:p:q@h", ("redis", (("h", None),), "u", "p:q", "", {})),
        ("redis://u%40x:%23%2F@h", ("redis", (("h", None),), "u@x", "#/", "", {})),
        ("redis://:@h", ("redis", (("h", None),), None, None, "", {})),
        ("redis://h?ttl=7d&x=", ("redis", (("h", None),), None, None, "", {"ttl": "7d", "x": ""})),
        ("redis://h/0?a=b%26c+d", ("redis", (("h", None),), None, None, "/0", {"a": "b&c d"})),
    ],
)
def test_the_parts_of_a_url(url: str, parts: tuple[Any, ...] | None) -> None:
    if parts is None:
        parts = ("redis+cluster", (("a", 1), ("b", None), ("c", 3)), None, None, "/0", {})
    assert parse_url(url) == StoreURL(*parts)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "begins with a scheme"),
        ("redis", "begins with a scheme"),
        ("://h", "begins with a scheme"),
        ("localhost:6379", "begins with a scheme"),
        ("/var/chats.json", "begins with a scheme"),
        (" redis://h", "begins with a scheme"),
        (None, "must be a str, not NoneType"),
        (b"redis://h", "must be a str, not bytes"),
        ("redis://h:port/0", "host is not understood"),
        ("redis://h:70000", "host is not understood"),
        ("redis://h:-1", "host is not understood"),
        ("redis://[::1/0", "host is not understood"),
        ("redis://a,,b", "host is not understood"),
        ("redis://u:p@/0", "no host after the '@'"),
        ("redis://h?a=1&a=2", "'a' twice"),
        ("json:///x#y", "percent-encoded"),
        ("json:///x.json&ttl=7d", r"follows a '\?', not an '&'"),
        ("redis://h/0&ttl=7d?db=1", r"follows a '\?', not an '&'"),
    ],
)
def test_u5_a_wrong_url_says_which_part(url: Any, why: str) -> None:
    with pytest.raises(InvalidURLError, match=why):
        parse_url(url)


# U5: a password with @ # / ? that nobody encoded.

PASSWORDS = ["hun@ter", "hun#ter", "hun/ter", "hun?ter", "@hunter", "12/hunter", "1?hunter"]
PASSWORDS += ["hunter#", "hunter/", "hunter?", "hun@#/?ter", "7#hunter", "/hunter", "?hunter=1"]


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize(
    "form", ["redis://user:{}@host:6379/0", "redis://:{}@host", "memory://:{}@h"]
)
def test_u5_an_unescaped_password_is_refused_and_not_echoed(password: str, form: str) -> None:
    with pytest.raises(InvalidURLError) as caught:
        open_store(form.format(password))
    text = said(caught.value)
    assert "hunter" not in text
    assert "ter@" not in text
    assert "percent-encode" in text
    assert "password=" in text


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:hunter",
        "redis://user:hunter/0",
        "redis://user:hun?ter=1",
        "redis://user:hunter@",
        "redis://user:hunter@:6379",
        "redis://user:hunter@h:port",
        "redis://user:hunter@[::1",
        "redis://user:hunter@a,,b",
        "redis://user:hunter@h?x=1&x=2",
        "redis://user:hunter@h?tll=1",
        "redis://user:hunter@h?ttl=soon",
        "redsi://user:hunter@h",
        "memory://user:hunter@h",
        "json://user:hunter@h",
    ],
)
def test_u4_no_error_of_open_store_says_the_password(url: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        open_store(url)
    assert "hunter" not in said(caught.value)
    assert "hun?ter" not in said(caught.value)


secrets = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@settings(max_examples=200, deadline=None)
@given(secrets, st.none() | secrets)
def test_any_password_comes_back_from_its_escaped_form(password: str, user: str | None) -> None:
    mark = "SECRET"  # so that a short password is not found in the rest of the URL by chance
    escaped = quote(mark + password, safe="")
    name = quote(user, safe="") if user else ""
    parsed = parse_url(f"redis://{name}:{escaped}@host:6379/0?ttl=7d")
    assert (parsed.username, parsed.password) == (user, mark + password)
    assert (parsed.hosts, parsed.path, parsed.query) == ((("host", 6379),), "/0", {"ttl": "7d"})
    public = parsed.public
    if mark not in (user or ""):
        assert mark not in public
    assert parse_url(public) == parsed._replace(password=None)


@settings(max_examples=200, deadline=None)
@given(st.text(string.printable, max_size=12))
def test_u5_a_password_as_it_is_never_shows_in_an_error(password: str) -> None:
    """Nobody encoded it: either it is understood as it is, or refused without a word of it."""
    mark = f"hun{password}ter"
    shown = ""
    try:
        assert parse_url(f"redis://user:{mark}@host/0").hosts == (("host", None),)
    except InvalidURLError as error:
        shown = said(error)
    assert "hun" not in shown
    assert "ter@" not in shown


# The public form.


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "Password",
        "sasl.password",
        "sasl_password",
        "passphrase",
        "ssl_keyfile_password",
        "secret",
        "aws_secret_access_key",
        "token",
        "aws_session_token",
        "api_key",
        "account_key",
        "apikey",
        *(pytest.param(name) for name in ("access-key", "accountKey", "ssl.key")),
        "sas",
        "credential",
        "credentials",
    ],
)
def test_u4_options_that_may_be_secret_are_left_out(name: str) -> None:
    public = parse_url(f"redis://h/0?{name}=hunter2&ttl=7d").public
    assert public == "redis://h/0?ttl=7d"


@pytest.mark.parametrize("name", ["auth", "pwd", "authorization", "aws_access_key_id", "api_keys"])
def test_u4_more_names_of_secrets(name: str) -> None:
    assert "hunter2" not in parse_url(f"redis://h/0?{name}=hunter2").public


def test_u4_the_parts_themselves_do_not_show_it() -> None:
    assert "hunter2" not in repr(parse_url("redis://u:hunter2@h"))


@pytest.mark.parametrize(
    "url",
    [
        "memory://",
        "memory://name",
        "json:///a%20b/c.json",
        "json:////var/x.json",
        "redis://h:1,[::1]:2,c/0",
        "redis://user%40x@h/0?ttl=7d&x=a%26b",
        "redis://m%C3%BCnchen/0",
    ],
)
def test_the_public_form_means_the_same(url: str) -> None:
    parsed = parse_url(url)
    assert parse_url(parsed.public) == parsed


@pytest.mark.parametrize(
    "url", ["redis://%2Ftmp%2Fredis.sock/0", "memory://a%20b", "memory://a%2Fb"]
)
def test_the_public_form_of_an_escaped_host_means_the_same(url: str) -> None:
    parsed = parse_url(url)
    assert parse_url(parsed.public) == parsed


# Options.


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("30", 30.0),
        ("30s", 30.0),
        ("30m", 1800.0),
        ("12h", 43200.0),
        ("7d", 604800.0),
        ("2w", 1209600.0),
        ("250ms", 0.25),
        ("1.5h", 5400.0),
        (1, 1.0),
        (0.5, 0.5),
    ],
)
def test_durations(value: Any, seconds: float) -> None:
    assert parse_duration(value) == pytest.approx(seconds)
    assert type(parse_duration(value)) is float


@pytest.mark.parametrize(
    "value",
    [
        *["", "0", "0s", "-1", "-1s", "1e3", "soon", "7 d", "1d12h", "7D", "nan", "inf", "٣"],
        *["9" * 400, 0, -1, 0.0, float("nan"), float("inf"), True, None, [], b"1"],
    ],
)
def test_what_is_no_duration(value: Any) -> None:
    with pytest.raises(ValueError, match="must be"):
        parse_duration(value)


@pytest.mark.parametrize(("value", "number"), [("0", 0), ("-5", -5), ("12", 12), (7, 7)])
def test_whole_numbers(value: Any, number: int) -> None:
    assert parse_int(value) == number


@pytest.mark.parametrize("value", ["", "x", "1.0", "1e3", 1.0, True, None, "9" * 5000, b"1"])
def test_what_is_no_whole_number(value: Any) -> None:
    with pytest.raises(ValueError, match="must be a whole number"):
        parse_int(value)


@pytest.mark.parametrize(
    ("value", "truth"),
    [
        ("true", True),
        ("TRUE", True),
        ("1", True),
        ("yes", True),
        (True, True),
        ("false", False),
        ("0", False),
        ("no", False),
        (False, False),
    ],
)
def test_truths(value: Any, truth: bool) -> None:
    assert parse_bool(value) is truth


@pytest.mark.parametrize("value", ["", "on", "2", 1, 0, None, [], "truee"])
def test_what_is_no_truth(value: Any) -> None:
    with pytest.raises(ValueError, match="must be true or false"):
        parse_bool(value)


def test_the_nearest_word() -> None:
    assert nearest("redsi", ["json", "memory", "redis"]) == " (did you mean 'redis'?)"
    assert nearest("kafka", ["json", "memory", "redis"]) == ""
    assert nearest("x", []) == ""


def test_u5_an_unknown_option_says_which_there_are() -> None:
    with pytest.raises(InvalidURLError) as caught:
        parse_options({"tll": "hunter2"}, {"ttl": parse_duration, "create": parse_bool}, "x://")
    assert str(caught.value) == (
        "x:// has no option 'tll' (did you mean 'ttl'?); it has create, ttl"
    )


def test_u5_a_wrong_value_says_whose_and_not_itself() -> None:
    given_options = {"ttl": "hunter2"}
    with pytest.raises(InvalidURLError) as caught:
        parse_options(given_options, {"ttl": parse_duration}, "x://")
    assert str(caught.value).startswith("the option ttl: must be seconds")
    assert "hunter2" not in said(caught.value)


def test_options_come_out_as_what_they_mean() -> None:
    parsers = {"ttl": parse_duration, "create": parse_bool}
    assert parse_options({"create": "no", "ttl": "1m"}, parsers, "x") == {
        "create": False,
        "ttl": 60.0,
    }
    assert parse_options({}, parsers, "x") == {}
