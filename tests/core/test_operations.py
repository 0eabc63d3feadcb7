"""What the base does around a backend's hooks: retries, deadlines, errors, arguments, secrets."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import time
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from chatstores import Capabilities, ChatMessage, open_store
from chatstores.codec import encode
from chatstores.errors import (
    AuthenticationError,
    BackendUnavailableError,
    ChatStoreError,
    ConflictError,
    ContentionError,
    CorruptRecordError,
    InvalidArgumentError,
    InvalidKeyError,
    InvalidMessageError,
    MessageNotFoundError,
    MessageTooLargeError,
    OutcomeUnknownError,
    PermissionDeniedError,
    SessionNotFoundError,
    StaleCursorError,
)
from chatstores.retry import Deadline, NotDone
from chatstores.state import Append, Command, Outcome, Record, now_us
from chatstores_memory import MemoryChatStore

# A backend whose driver fails as a script says.


class DriverError(Exception):
    """The driver's base class."""


class Away(DriverError):
    """The server is away, or silent."""


class WrongPassword(Away):
    """To many drivers a wrong password is a connection that failed."""


class Forbidden(DriverError):
    """The user may not."""


class Strange(DriverError):
    """What ``_error`` does not know."""


class Lost(Exception):
    """Not the driver's: the hook's work was done, and then the answer was lost."""


Step = Exception | Callable[[], Exception] | None


class Scripted(MemoryChatStore):
    """Each attempt takes the next step: an error to raise, or None to do the work.

    ``Lost`` does the work and then raises ``Away``.
    """

    _driver_errors = (DriverError,)

    def __init__(self, *steps: Step, repeat: Step = None, **options: Any) -> None:
        super().__init__(**options)
        self.steps = deque(steps)
        self.repeat = repeat
        self.commands: list[Command] = []
        self.attempts = 0
        self.began = time.monotonic()

    def _error(self, exc: BaseException) -> ChatStoreError:
        match exc:
            case WrongPassword():
                return AuthenticationError("wrong password")
            case Away():
                return BackendUnavailableError("the server is away")
            case Forbidden():
                return PermissionDeniedError("not allowed")
            case _:
                raise exc

    async def _attempt(self, work: Callable[[], Awaitable[Any]]) -> Any:
        self.attempts += 1
        step = self.steps.popleft() if self.steps else self.repeat
        step = step() if callable(step) else step
        if isinstance(step, Lost):
            await work()
            raise Away("the answer was lost")
        if step is not None:
            raise step
        return await work()

    async def _commit(self, t: object, key: str, command: Command) -> Outcome:
        self.commands.append(command)
        work = super()._commit
        outcome: Outcome = await self._attempt(lambda: work(t, key, command))
        return outcome

    async def _read(
        self, t: object, key: str, first: int | None, last: int | None
    ) -> Sequence[bytes]:
        work = super()._read
        payloads: Sequence[bytes] = await self._attempt(lambda: work(t, key, first, last))
        return payloads


def not_done(cause: Exception | None = None) -> NotDone:
    error = NotDone("not sent")
    error.__cause__ = cause
    return error


# Retries.


def test_w10_a_write_is_tried_again_as_the_same_command() -> None:
    store = Scripted(Away(), Away())
    message = ChatMessage("x")
    assert store.add_message("k", message).added == 1
    assert store.get_messages("k") == [message]
    first = store.commands[0]
    assert [command._replace(age=0) for command in store.commands] == [first] * 3


def test_w10_a_write_whose_answer_was_lost_is_done_once() -> None:
    store = Scripted(Lost())
    store.set_messages("k", [ChatMessage("a"), ChatMessage("b")])
    store.steps = deque([Lost()])
    popped = store.delete_last_message("k")
    assert popped is not None
    assert popped.content == "b"
    assert store.count_messages("k") == 1
    store.steps = deque([Lost()])
    assert store.delete_messages("k") == 1


def test_w10_an_attempt_has_an_age_only_after_one_that_may_have_happened() -> None:
    store = Scripted(not_done(Away()), not_done(Away()), Away(), None)
    store.add_message("k", ChatMessage("x"))
    ages = [command.age for command in store.commands]
    assert ages[:3] == [0, 0, 0]
    assert ages[3] > 0


def test_w10_the_age_covers_the_whole_call() -> None:
    """A command that happened at the call's beginning must not look younger than it is."""
    began = now_us()
    store = Scripted(Away(), Away(), Away())
    store.add_message("k", ChatMessage("x"))
    for command in store.commands[1:]:
        assert now_us() - command.age <= began


def test_w10_its_outcome_is_unknown_only_if_it_may_have_happened() -> None:
    store = Scripted(repeat=Away(), timeout=0.3)
    with pytest.raises(OutcomeUnknownError) as caught:
        store.add_message("k", ChatMessage("x"))
    assert caught.value.command_id == f"{store.commands[0].id:016x}"
    assert len(caught.value.command_id) == 16
    assert isinstance(caught.value.__cause__, Away)


def test_u3_nothing_happened_is_no_unknown_outcome() -> None:
    store = Scripted(repeat=lambda: not_done(Away()), timeout=0.3)
    with pytest.raises(BackendUnavailableError) as caught:
        store.add_message("k", ChatMessage("x"))
    assert type(caught.value) is BackendUnavailableError
    assert isinstance(caught.value.__cause__, Away)
    assert store.attempts > 1
    assert {command.age for command in store.commands} == {0}


def test_w10_once_it_may_have_happened_it_stays_unknown() -> None:
    for last in (
        not_done(Away()),
        WrongPassword(),
        Forbidden(),
        not_done(WrongPassword()),
        ContentionError("30 s"),
    ):
        store = Scripted(Away(), repeat=last, timeout=0.3)
        with pytest.raises(OutcomeUnknownError):
            store.add_message("k", ChatMessage("x"))


def test_u3_a_read_that_fails_is_never_of_unknown_outcome() -> None:
    store = Scripted(repeat=Away(), timeout=0.3)
    with pytest.raises(BackendUnavailableError) as caught:
        store.get_messages("k")
    assert type(caught.value) is BackendUnavailableError


def test_u3_a_read_is_tried_again_until_the_server_is_back() -> None:
    store = Scripted(Away(), not_done(Away()), Away())
    assert store.get_messages("k") == []
    assert store.attempts == 4


@pytest.mark.parametrize(
    ("error", "raised"),
    [(WrongPassword(), AuthenticationError), (Forbidden(), PermissionDeniedError)],
)
@pytest.mark.parametrize("done", ["sent", "not done"])
def test_what_will_not_get_better_is_not_tried_again(
    error: DriverError, raised: type[ChatStoreError], done: str
) -> None:
    store = Scripted(repeat=error if done == "sent" else not_done(error))
    for call in (
        lambda: store.add_message("k", ChatMessage("x")),
        lambda: store.get_messages("k"),
    ):
        store.attempts = 0
        with pytest.raises(raised) as caught:
            call()
        assert store.attempts == 1
        assert caught.value.__cause__ is error


def test_errors_that_are_not_the_drivers_pass_through_as_they_are() -> None:
    for error in (ZeroDivisionError("a bug"), KeyError("k"), OSError(5, "x")):
        store = Scripted(error)
        with pytest.raises(type(error)) as caught:
            store.get_messages("k")
        assert caught.value is error
        assert store.attempts == 1


def test_a_drivers_error_that_nobody_knows_passes_through() -> None:
    with pytest.raises(Strange):
        Scripted(Strange("?")).get_messages("k")


def test_a_hooks_own_error_of_ours_passes_through() -> None:
    store = Scripted(ContentionError("30 s"))
    with pytest.raises(ContentionError):
        store.add_message("k", ChatMessage("x"))
    assert store.attempts == 1


def test_w10_a_refusal_that_cannot_be_settled_is_an_unknown_outcome() -> None:
    store = Scripted()
    for number in range(20):
        store.add_message("k", ChatMessage(str(number)))

    async def forgotten(t: object, key: str, command: Command) -> Outcome:
        return Outcome(1, refusal="unknown")

    store._commit = forgotten  # type: ignore[method-assign]
    with pytest.raises(OutcomeUnknownError):
        store.add_message("k", ChatMessage("x"))


def test_two_calls_are_two_commands() -> None:
    store = Scripted()
    message = ChatMessage("x")
    store.add_message("k", message)
    store.add_message("k", message)
    one, other = store.commands
    assert one.id != other.id
    assert all(0 <= command.id < 2**64 for command in store.commands)


@pytest.mark.parametrize("form", ["sync", "async"])
@pytest.mark.parametrize("timeout", [0.05, 0.4, 1.0])
def test_u3_all_attempts_together_end_within_the_timeout(form: str, timeout: float) -> None:
    store = Scripted(repeat=Away(), timeout=timeout)
    began = time.monotonic()
    with pytest.raises(BackendUnavailableError):
        call(store, "get_messages", form, "k")
    took = time.monotonic() - began
    assert timeout * 0.8 < took < timeout + 0.3
    assert store.attempts < 60


def test_u3_an_attempts_time_is_half_of_what_is_left_but_250_ms_at_least() -> None:
    assert Deadline(8.0).attempt() == pytest.approx(4.0, abs=0.05)
    assert Deadline(0.4).attempt() == pytest.approx(0.25, abs=0.01)
    assert Deadline(0.1).attempt() == pytest.approx(0.1, abs=0.01)
    assert 0 < Deadline(1e-9).attempt() <= 0.001


def test_u3_attempts_that_take_all_their_time_stay_within_the_timeout() -> None:
    """Counted, not waited for: halves of what is left, and pauses between."""
    deadline = Deadline(0.6)
    began = time.monotonic()
    while True:
        time.sleep(deadline.attempt())
        pause = deadline.pause()
        if pause is None:
            break
        time.sleep(pause)
    assert time.monotonic() - began < 0.8


def test_w10_a_cancelled_write_leaves_the_store_usable() -> None:
    store = Scripted(repeat=Away(), timeout=30)

    async def main() -> None:
        task = asyncio.create_task(store.aadd_message("k", ChatMessage("x")))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        store.repeat = None
        assert (await store.aadd_message("k", ChatMessage("y"))).added == 1

    asyncio.run(main())


# U4: no secret in a chain as it is printed.

SECRET = "hunter2"


def printed(store: Scripted) -> str:
    with pytest.raises(ChatStoreError) as caught:
        store.get_messages("k")
    return "".join(traceback.format_exception(caught.value))


def with_secret(*steps: Step, **options: Any) -> Scripted:
    store = Scripted(*steps, **options)
    store._secrets = (SECRET,)
    return store


def caused_by(error: Exception, cause: Exception, how: str) -> Exception:
    if how == "cause":
        error.__cause__ = cause
    else:
        error.__context__ = cause
    return error


def failing(make: Callable[[], Exception]) -> Scripted:
    return with_secret(repeat=make(), timeout=0.05)


def test_u4_a_text_that_holds_it_is_chained_as_a_scrubbed_copy() -> None:
    text = printed(failing(lambda: Forbidden("redis://u:" + SECRET + "@h: denied")))
    assert SECRET not in text
    assert "Forbidden: redis://u:***@h: denied" in text


@pytest.mark.parametrize("how", ["cause", "context"])
def test_u4_so_is_one_whose_chain_holds_it(how: str) -> None:
    inner = OSError(111, "cannot connect with " + SECRET)
    text = printed(failing(lambda: caused_by(Forbidden("denied"), inner, how)))
    assert SECRET not in text
    assert "denied" in text


def test_u4_in_an_argument_that_the_text_does_not_show() -> None:
    class Terse(Forbidden):
        def __str__(self) -> str:
            return "denied"

    store = failing(lambda: Terse({"password": SECRET}))
    with pytest.raises(PermissionDeniedError) as caught:
        store.get_messages("k")
    assert SECRET not in repr(caught.value.__cause__)


def test_u4_behind_a_word_that_nothing_was_done() -> None:
    cause = Forbidden("denied for " + SECRET)
    assert SECRET not in printed(failing(lambda: not_done(cause)))


def test_u4_an_error_without_it_is_chained_as_it_is() -> None:
    error = Forbidden("denied")
    store = with_secret(error)
    with pytest.raises(PermissionDeniedError) as caught:
        store.get_messages("k")
    assert caught.value.__cause__ is error


def test_u4_an_unknown_outcome_is_scrubbed_too() -> None:
    store = with_secret(repeat=Away("lost " + SECRET), timeout=0.05)
    with pytest.raises(OutcomeUnknownError) as caught:
        store.add_message("k", ChatMessage("x"))
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_u4_in_a_note() -> None:
    error = Forbidden("denied")
    error.add_note("tried with " + SECRET)
    assert SECRET not in printed(failing(lambda: error))


def test_u4_in_a_group() -> None:
    group = ExceptionGroup("all hosts failed", [OSError("tried with " + SECRET)])
    assert SECRET not in printed(failing(lambda: caused_by(Forbidden("denied"), group, "cause")))


def test_u4_in_its_percent_encoded_form() -> None:
    store = failing(lambda: Forbidden("redis://u:p%40ss%2Fword@h: denied"))
    store._secrets = ("p@ss/word",)
    assert "p%40ss" not in printed(store)


@pytest.mark.parametrize("secret", ["pa\\ss", "pa'\"ss", "pa\nss"])
def test_u4_in_the_form_that_repr_gives_it(secret: str) -> None:
    store = failing(lambda: Forbidden("denied", {"password": secret}))
    store._secrets = (secret,)
    assert repr(secret)[1:-1] not in printed(store)


def test_u4_one_secret_that_begins_with_another() -> None:
    store = failing(lambda: Forbidden("denied for hunter2000"))
    store._secrets = ("hunter", "hunter2000")
    assert "2000" not in printed(store)


def test_u4_an_error_of_ours_that_a_hook_raises_from_the_drivers() -> None:
    error = caused_by(ContentionError("30 s"), DriverError("lost with " + SECRET), "cause")
    assert SECRET not in printed(failing(lambda: error))


# Arguments.

KEYS_REFUSED: list[tuple[Any, str]] = [
    ("", "must not be empty"),
    ("a" * 513, "takes 513 bytes of UTF-8; at most 512"),
    ("é" * 257, "takes 514 bytes"),
    ("a\0b", "NUL"),
    ("\ud800", "lone surrogate at character 0"),
    ("a\udfffb", "lone surrogate at character 1"),
    (None, "must be a str, not NoneType"),
    (b"k", "must be a str, not bytes"),
    (5, "must be a str, not int"),
    (["k"], "must be a str, not list"),
]

MESSAGE = ChatMessage("x", id="1")
SDK_MESSAGE = type("ChatCompletionMessage", (), {"__module__": "openai.types.chat"})()

WITH_A_KEY: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "add_message": ((MESSAGE,), {}),
    "add_messages": (([MESSAGE],), {}),
    "set_messages": (([MESSAGE],), {}),
    "replace_message": ((MESSAGE,), {}),
    "delete_last_message": ((), {}),
    "delete_message": ((0,), {}),
    "delete_oldest": ((1,), {}),
    "delete_after": (("1",), {}),
    "delete_messages": ((), {}),
    "set_metadata": (({},), {}),
    "get_messages": ((), {}),
    "count_messages": ((), {}),
    "get_version": ((), {}),
    "page": ((), {}),
    "get_session": ((), {}),
}
WRITES = [name for name in WITH_A_KEY if name.startswith(("add", "set", "replace", "delete"))]


def call(store: MemoryChatStore, name: str, form: str, *args: Any, **named: Any) -> Any:
    """A method, in either form."""
    if form == "sync":
        return getattr(store, name)(*args, **named)

    async def main() -> Any:
        return await getattr(store, f"a{name}")(*args, **named)

    return asyncio.run(main())


forms = pytest.mark.parametrize("form", ["sync", "async"])


@forms
@pytest.mark.parametrize("name", WITH_A_KEY)
def test_k2_a_wrong_key_is_refused_before_anything_is_sent(name: str, form: str) -> None:
    store = Scripted(repeat=Away(), timeout=0.05)
    args, named = WITH_A_KEY[name]
    for key, why in KEYS_REFUSED:
        with pytest.raises(InvalidKeyError, match=why):
            call(store, name, form, key, *args, **named)
    assert store.attempts == 0


@pytest.mark.parametrize(
    "key", ["a" * 512, "é" * 256, "\U0001f600" * 128, " ", "\n", "a\x7f", "{}*?[]'\"\\%|#:/"]
)
def test_k1_any_text_of_up_to_512_bytes_is_a_key(key: str) -> None:
    store = MemoryChatStore()
    store.add_message(key, ChatMessage("x"))
    assert store.get_keys() == [key]
    assert store.get_keys(key) == [key]


@forms
@pytest.mark.parametrize("name", WRITES)
@pytest.mark.parametrize("version", [-1, 1.0, "1", True, b"1", [1]])
def test_an_expected_version_is_a_whole_number(name: str, version: Any, form: str) -> None:
    store = Scripted()
    args, named = WITH_A_KEY[name]
    with pytest.raises(InvalidArgumentError, match="expected_version must be a whole number"):
        call(store, name, form, "k", *args, **named, expected_version=version)
    assert store.attempts == 0


@pytest.mark.parametrize("name", WRITES)
def test_w9_every_write_is_refused_at_another_version(name: str) -> None:
    store = MemoryChatStore()
    store.add_message("k", ChatMessage("other"))
    version = store.get_version("k")
    args, named = WITH_A_KEY[name]
    for expected in (version + 1, version - 1, 0, 2**53):
        with pytest.raises(ConflictError) as caught:
            getattr(store, name)("k", *args, **named, expected_version=expected)
        assert (caught.value.expected, caught.value.actual) == (expected, version)
    assert store.get_version("k") == version


@forms
@pytest.mark.parametrize(
    ("name", "args", "named", "error", "why"),
    [
        ("add_message", ("text",), {}, InvalidMessageError, "must be a ChatMessage, not str"),
        ("add_message", (None,), {}, InvalidMessageError, "must be a ChatMessage, not NoneType"),
        ("add_message", ([MESSAGE],), {}, InvalidMessageError, "must be a ChatMessage, not list"),
        ("add_message", ({"content": "x"},), {}, InvalidMessageError, "ChatMessage, not dict"),
        ("add_message", (("user", "x"),), {}, InvalidMessageError, "the text before the role"),
        (
            "add_message",
            (SDK_MESSAGE,),
            {},
            InvalidMessageError,
            r"from_openai\(message.model_dump",
        ),
        ("add_messages", (MESSAGE,), {}, InvalidMessageError, "not ChatMessage: put it in a list"),
        ("add_messages", ("text",), {}, InvalidMessageError, "must be a list of ChatMessage"),
        ("add_messages", ({},), {}, InvalidMessageError, "must be a list of ChatMessage"),
        ("add_messages", (None,), {}, InvalidMessageError, "must be a list of ChatMessage"),
        ("add_messages", (iter([]),), {}, InvalidMessageError, "must be a list of ChatMessage"),
        ("add_messages", (["x"],), {}, InvalidMessageError, "must be a ChatMessage, not str"),
        ("add_messages", ([MESSAGE, MESSAGE],), {}, InvalidMessageError, "have one id"),
        ("set_messages", ([MESSAGE, MESSAGE],), {}, InvalidMessageError, "have one id"),
        ("set_messages", (None,), {}, InvalidMessageError, "must be a list of ChatMessage"),
        ("replace_message", ("1",), {}, InvalidMessageError, "must be a ChatMessage"),
        ("delete_message", (), {}, InvalidArgumentError, "exactly one"),
        ("delete_message", (0,), {"id": "1"}, InvalidArgumentError, "exactly one"),
        ("delete_message", ("0",), {}, InvalidArgumentError, "number, not str: an id is given by"),
        ("delete_message", (MESSAGE,), {}, InvalidArgumentError, "an id is given by id="),
        ("delete_message", (0.0,), {}, InvalidArgumentError, "index must be a whole number"),
        ("delete_message", (True,), {}, InvalidArgumentError, "index must be a whole number"),
        ("delete_message", (), {"id": 1}, InvalidArgumentError, "id must be a str"),
        ("delete_message", (), {"id": b"1"}, InvalidArgumentError, "id must be a str"),
        ("delete_message", (), {"id": "a\ud800"}, InvalidArgumentError, "surrogate at character 1"),
        ("delete_after", ("\ud800",), {}, InvalidArgumentError, "lone surrogate at character 0"),
        ("delete_oldest", (-1,), {}, InvalidArgumentError, "n must be a whole number"),
        ("delete_oldest", ("1",), {}, InvalidArgumentError, "n must be a whole number"),
        ("delete_oldest", (True,), {}, InvalidArgumentError, "n must be a whole number"),
        ("delete_oldest", (None,), {}, InvalidArgumentError, "n must be a whole number"),
        ("delete_after", (5,), {}, InvalidArgumentError, "id must be a str"),
        ("delete_after", (None,), {}, InvalidArgumentError, "id must be a str, not NoneType"),
        ("delete_after", (MESSAGE,), {}, InvalidArgumentError, "give message.id"),
        ("set_metadata", (None,), {}, InvalidMessageError, "metadata must be a dict"),
        ("set_metadata", ([],), {}, InvalidMessageError, "metadata must be a dict"),
        ("set_metadata", ({"chatstores.x": 1},), {}, InvalidMessageError, "library's own"),
        ("set_metadata", ({1: 1},), {}, InvalidMessageError, "keys are str"),
        ("get_messages", (), {"last": -1}, InvalidArgumentError, "last must be"),
        ("get_messages", (), {"last": "1"}, InvalidArgumentError, "last must be"),
        ("get_messages", (), {"last": True}, InvalidArgumentError, "last must be"),
        ("get_messages", (), {"first": -1}, InvalidArgumentError, "first must be"),
        ("get_messages", (), {"first": 1.0}, InvalidArgumentError, "first must be"),
        ("get_messages", (), {"first": 1, "last": 1}, InvalidArgumentError, "not both"),
        ("page", (), {"limit": 0}, InvalidArgumentError, "limit must be a whole number, 1 or more"),
        ("page", (), {"limit": -1}, InvalidArgumentError, "limit must be"),
        ("page", (), {"limit": "5"}, InvalidArgumentError, "limit must be"),
        ("page", (), {"before": ""}, InvalidArgumentError, "before must be the cursor"),
        ("page", (), {"before": "x"}, InvalidArgumentError, "before must be the cursor"),
        ("page", (), {"before": "1"}, InvalidArgumentError, "before must be the cursor"),
        ("page", (), {"before": "1.2.3"}, InvalidArgumentError, "before must be the cursor"),
        ("page", (), {"before": 5}, InvalidArgumentError, "before must be the cursor"),
        ("page", (), {"before": b"1.2"}, InvalidArgumentError, "before must be the cursor"),
    ],
)
def test_a_wrong_argument_is_refused_before_anything_is_sent(
    name: str,
    args: tuple[Any, ...],
    named: dict[str, Any],
    error: type[ChatStoreError],
    why: str,
    form: str,
) -> None:
    store = Scripted()
    with pytest.raises(error, match=why):
        call(store, name, form, "k", *args, **named)
    assert store.attempts == 0


@forms
def test_key_and_message_in_the_wrong_order(form: str) -> None:
    store = Scripted()
    with pytest.raises(InvalidKeyError, match="not ChatMessage: it comes first, then the message"):
        call(store, "add_message", form, MESSAGE, "k")
    assert store.attempts == 0


@pytest.mark.parametrize("way", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_store_is_not_pickled_or_copied(way: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match="a Scripted cannot be pickled or copied: open its URL"):
        way(Scripted())


@forms
@pytest.mark.parametrize(
    ("name", "args", "named", "error", "why"),
    [
        ("get_keys", (None,), {}, InvalidKeyError, "prefix must be a str"),
        ("get_keys", (b"a",), {}, InvalidKeyError, "prefix must be a str"),
        ("get_keys", ("a\0",), {}, InvalidKeyError, "NUL"),
        ("get_keys", ("\ud800",), {}, InvalidKeyError, "lone surrogate"),
        (
            "list_sessions",
            (),
            {"limit": 0},
            InvalidArgumentError,
            "limit must be a whole number, 1 or more",
        ),
        ("list_sessions", (), {"limit": "5"}, InvalidArgumentError, "limit must be"),
        ("list_sessions", (), {"before": "x"}, InvalidArgumentError, "before must be the cursor"),
        ("list_sessions", (), {"before": 5}, InvalidArgumentError, "before must be the cursor"),
        ("list_sessions", (), {"before": b"1.k"}, InvalidArgumentError, "before must be the"),
    ],
)
def test_a_wrong_argument_of_a_listing(
    name: str,
    args: tuple[Any, ...],
    named: dict[str, Any],
    error: type[ChatStoreError],
    why: str,
    form: str,
) -> None:
    with pytest.raises(error, match=why):
        call(MemoryChatStore(), name, form, *args, **named)


@pytest.mark.parametrize("named", [{"page_size": 0}, {"page_size": "x"}, {"prefix": 5}])
def test_a_wrong_argument_of_iter_keys(named: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError):
        list(MemoryChatStore().iter_keys(**named))

    async def main() -> None:
        async for _ in MemoryChatStore().aiter_keys(**named):
            pass

    with pytest.raises(InvalidArgumentError):
        asyncio.run(main())


def test_a_tuple_is_a_list_of_messages_too() -> None:
    assert MemoryChatStore().add_messages("k", (ChatMessage("a"), ChatMessage("b"))).added == 2


class Small(MemoryChatStore):
    """A backend that takes little."""

    capabilities = Capabilities(max_message_bytes=300, max_batch_bytes=400)


def test_m3_what_is_too_large_is_refused_with_its_size_and_the_limit() -> None:
    store = Small()
    big = ChatMessage("x" * 300)
    for write in (
        lambda: store.add_message("k", big),
        lambda: store.add_messages("k", [ChatMessage("ok"), big]),
        lambda: store.set_messages("k", [big]),
        lambda: store.replace_message("k", big),
    ):
        with pytest.raises(MessageTooLargeError) as caught:
            write()
        assert (caught.value.size, caught.value.limit) == (len(encode(big)), 300)
    assert store.get_version("k") == 0


def test_m3_a_batch_is_measured_whole() -> None:
    store = Small()
    batch = [ChatMessage("x" * 100) for _ in range(3)]
    size = sum(len(encode(message)) for message in batch)
    with pytest.raises(MessageTooLargeError, match="the batch takes") as caught:
        store.add_messages("k", batch)
    assert (caught.value.size, caught.value.limit) == (size, 400)
    assert store.set_messages("k", batch).added == 3


# What a refusal becomes.


def test_each_refusal_is_its_error() -> None:
    store = MemoryChatStore()
    with pytest.raises(SessionNotFoundError, match="no session 'k'"):
        store.set_metadata("k", {"a": 1})
    with pytest.raises(SessionNotFoundError, match="no session 'k'"):
        store.replace_message("k", MESSAGE)
    store.set_messages("k", [])
    with pytest.raises(MessageNotFoundError, match="no message of the id '1'"):
        store.replace_message("k", MESSAGE)
    with pytest.raises(MessageNotFoundError, match="no message of the id 'x'"):
        store.delete_after("k", "x")
    store.add_message("k", MESSAGE)
    with pytest.raises(InvalidMessageError, match="of the id '1' with other content"):
        store.add_message("k", ChatMessage("y", id="1"))


def test_r4_a_cursor_of_a_replaced_or_deleted_history() -> None:
    store = MemoryChatStore()
    store.set_messages("k", [ChatMessage(str(number)) for number in range(5)])
    cursor = store.page("k", limit=2).before
    store.set_messages("k", [ChatMessage("new")])
    with pytest.raises(StaleCursorError):
        store.page("k", before=cursor)
    store.delete_messages("k")
    with pytest.raises(StaleCursorError):
        store.page("k", before=cursor)


# M4: what is not readable.


def broken(**options: Any) -> tuple[MemoryChatStore, list[ChatMessage]]:
    """A session of three whose second record is not readable."""
    store = MemoryChatStore(**options)
    good = [ChatMessage("a"), ChatMessage("c")]
    records = [Record(message.id, encode(message)) for message in good]
    records.insert(1, Record("bad", b'{"v":2,"content":"hunter2"}'))
    fold = store._sessions.fold
    fold.commit("default", "k", Command(1, Append(records)), now_us())
    return store, good


@forms
def test_m4_a_read_names_the_session_and_the_place(form: str) -> None:
    store, good = broken()
    for named in ({}, {"last": 2}, {"first": 2}):
        with pytest.raises(CorruptRecordError, match="format 2") as caught:
            call(store, "get_messages", form, "k", **named)
        assert (caught.value.key, caught.value.position) == ("k", 1)
        assert "hunter2" not in str(caught.value)
    with pytest.raises(CorruptRecordError) as caught:
        call(store, "page", form, "k", limit=2)
    assert caught.value.position == 1
    assert call(store, "get_messages", form, "k", last=1) == good[1:]


@forms
def test_m4_skip_reads_over_it_with_a_warning(form: str) -> None:
    store, good = broken(on_corrupt="skip")
    with pytest.warns(RuntimeWarning, match="skipped: record 1 of session 'k'"):
        assert call(store, "get_messages", form, "k") == good
    with pytest.warns(RuntimeWarning, match="skipped: record 1 of session 'k'"):
        assert call(store, "page", form, "k").messages == good
    assert store.count_messages("k") == 3


def test_m4_a_record_in_another_order_of_fields_is_read_and_removed_alike() -> None:
    """What can be read can be popped: never is it removed and then called not readable."""
    store = MemoryChatStore()
    message = ChatMessage("x", metadata={"k": 1})
    fields = json.loads(encode(message))
    fields["id"] = fields.pop("id")  # to the end
    record = Record(message.id, json.dumps(fields).encode())
    store._sessions.fold.commit("default", "k", Command(1, Append([record])), now_us())
    assert store.get_messages("k") == [message]
    assert store.page("k").messages == [message]
    assert store.delete_last_message("k") == message


@pytest.mark.parametrize("on_corrupt", ["raise", "skip"])
def test_m4_it_is_never_removed(on_corrupt: str) -> None:
    store, good = broken(on_corrupt=on_corrupt)
    assert store.delete_last_message("k") == good[1]
    for delete in (
        lambda: store.delete_last_message("k"),
        lambda: store.delete_message("k", 1),
        lambda: store.delete_oldest("k", 2),
        lambda: store.delete_after("k", good[0].id),
    ):
        with pytest.raises(CorruptRecordError) as caught:
            delete()
        assert caught.value.position == 1
    assert store.count_messages("k") == 2


def test_m4_a_deletion_says_that_the_record_is_of_a_newer_format() -> None:
    store, _ = broken()
    with pytest.raises(CorruptRecordError, match="format 2"):
        store.delete_message("k", 1)


# Reading.


def test_r1_what_is_returned_is_the_callers_own() -> None:
    store = MemoryChatStore()
    message = ChatMessage("x", metadata={"k": [1]})
    store.add_message("k", message)
    message.metadata["k"].append(2)
    store.get_messages("k")[0].metadata["k"].append(3)
    assert store.get_messages("k")[0].metadata == {"k": [1]}
    store.set_metadata("k", {"tags": [1]})
    info = store.get_session("k")
    assert info is not None
    info.metadata["tags"].append(2)
    assert store.get_session("k").metadata == {"tags": [1]}  # type: ignore[union-attr]


def test_r4_a_walk_gives_every_message_once() -> None:
    store = MemoryChatStore()
    messages = [ChatMessage(str(number)) for number in range(23)]
    store.set_messages("k", messages)
    for limit in (1, 7, 22, 23, 24, 100):
        walked: list[ChatMessage] = []
        before = None
        while True:
            page = store.page("k", before=before, limit=limit)
            assert len(page.messages) <= limit
            walked = page.messages + walked
            before = page.before
            if before is None:
                break
        assert walked == messages


def test_the_keys_of_the_library_survive_set_metadata() -> None:
    store = MemoryChatStore()
    store.add_message("k", ChatMessage("x"))
    t = store._transports.sync()
    from chatstores.transport import run_sync

    own = store._set_metadata(t, "k", {"chatstores.x": 1}, None, own=True)
    run_sync(own)
    store.set_metadata("k", {"title": "a"})
    head = run_sync(store._get_head(t, "k"))
    assert head is not None
    assert head.own == b'{"chatstores.x":1}'


def test_k5_sessions_page_by_page() -> None:
    store = MemoryChatStore()
    for number in range(7):
        store.add_message(f"a.b.{number}", ChatMessage("x"))
    found, before = [], None
    while True:
        page = store.list_sessions(limit=3, before=before)
        found += [info.key for info in page.sessions]
        before = page.before
        if before is None:
            break
    assert found == [f"a.b.{number}" for number in reversed(range(7))]


def test_open_store_gives_these_errors_too() -> None:
    with pytest.raises(InvalidKeyError):
        open_store("memory://").get_messages("")
