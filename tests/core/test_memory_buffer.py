"""ChatMemoryBuffer: the rules of its window, what it reads, and its form as text."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatstores import (
    ChatMemoryBuffer,
    ChatMessage,
    ImageBlock,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
    UnknownBlock,
    memory_buffer,
    open_store,
    registry,
)
from chatstores.errors import (
    InvalidArgumentError,
    InvalidKeyError,
    InvalidMessageError,
    InvalidURLError,
    StaleCursorError,
)
from chatstores.memory_buffer import MEDIA_TOKENS
from chatstores_memory import MemoryChatStore

KEY = "chat_history"


def words(text: str) -> list[str]:
    return text.split()


def user(tokens: int = 1, text: str = "u") -> ChatMessage:
    return ChatMessage(" ".join([text] * tokens))


def assistant(tokens: int = 1) -> ChatMessage:
    return ChatMessage(" ".join(["a"] * tokens), "assistant")


def system(tokens: int = 1, role: str = "system") -> ChatMessage:
    return ChatMessage(" ".join(["s"] * tokens), role)


def call(*ids: str | None) -> ChatMessage:
    """An assistant's message of one token a call."""
    return ChatMessage([ToolCallBlock(id=each, name="f") for each in ids], "assistant")


def result(id: str | None, tokens: int = 1) -> ChatMessage:
    return ChatMessage(" ".join(["r"] * tokens), "tool", tool_call_id=id)


def buffer(messages: list[ChatMessage], limit: int = 3000, **options) -> ChatMemoryBuffer:
    return ChatMemoryBuffer.from_defaults(
        messages, token_limit=limit, tokenizer_fn=words, **options
    )


def window(messages: list[ChatMessage], limit: int, initial: int = 0) -> list[int]:
    """The places of what get() returns."""
    ids = [message.id for message in messages]
    return [ids.index(m.id) for m in buffer(messages, limit).get(initial_token_count=initial)]


@contextmanager
def pages_of(size: int) -> Iterator[None]:
    with patch.object(memory_buffer, "_within_page", lambda wanted: size):
        yield


# The rules, one by one


def test_a_session_that_fits_comes_whole_whoever_begins():
    messages = [assistant(), user(), assistant(), user()]
    assert window(messages, 4) == [0, 1, 2, 3]
    assert window([], 4) == []
    assert window([system(), assistant()], 4) == [0, 1]


def test_a_cut_window_starts_at_a_users_message():
    messages = [user(), assistant(), user(), assistant(), user()]
    assert window(messages, 5) == [0, 1, 2, 3, 4]
    assert window(messages, 4) == [2, 3, 4]
    assert window(messages, 3) == [2, 3, 4]
    assert window(messages, 2) == [4]


def test_the_initial_count_is_taken_off():
    messages = [user(), assistant(), user(), assistant(), user()]
    assert window(messages, 5, initial=2) == [2, 3, 4]
    assert window(messages, 5, initial=5) == [4]


def test_the_head_stays_and_counts():
    messages = [system(2), system(1, "developer"), user(), assistant(), user(), assistant()]
    assert window(messages, 7) == [0, 1, 2, 3, 4, 5]
    assert window(messages, 6) == [0, 1, 4, 5]
    assert window(messages, 5) == [0, 1, 4, 5]
    assert window(messages, 1) == [0, 1, 4, 5]


def test_a_system_message_in_the_middle_is_no_head_and_no_start():
    messages = [user(), system(), assistant(), user(), assistant()]
    assert window(messages, 4) == [3, 4]


@pytest.mark.parametrize("length", [1, 2, 3, 7, 9, 40])
def test_a_long_head_is_kept_whole(length):
    messages = [system() for _ in range(length)] + [user(), assistant()] * 300
    messages = [m.model_copy(update={"id": f"{i}"}) for i, m in enumerate(messages)]
    expected = [*range(length), *range(length + 590, length + 600)]
    assert window(messages, length + 11) == expected


def test_the_last_exchange_comes_whole_when_it_is_over_the_limit():
    messages = [user(), assistant(), user(9), call("1"), result("1", 9), assistant(9)]
    assert window(messages, 5) == [2, 3, 4, 5]
    assert window([system(9), *messages], 5) == [0, 3, 4, 5, 6]


def test_calls_and_results_stay_together():
    exchange = [user(), call("1", "2"), result("1"), result("2"), assistant()]
    messages = [*exchange, *(m.model_copy(update={"id": m.id + "b"}) for m in exchange)]
    for limit in range(1, 12):
        assert window(messages, limit) == ([5, 6, 7, 8, 9] if limit < 12 else list(range(10)))
    assert window(messages, 12) == list(range(10))


def test_a_user_between_a_call_and_its_result_is_no_start():
    messages = [user(), assistant(), user(), call("1"), user(), result("1"), assistant()]
    for limit in range(1, 7):
        assert window(messages, limit) == [2, 3, 4, 5, 6]


def test_results_without_an_id_belong_to_the_call_before():
    messages = [user(), call(None), user(), result(None), user()]
    assert window(messages, 3) == [4]
    assert window(messages, 4) == [4]
    assert window(messages[:-1], 2) == [0, 1, 2, 3]


def test_the_nearest_call_of_an_id_is_the_one():
    messages = [user(), call("x"), result("x"), user(), call("x"), result("x"), user()]
    assert window(messages, 4) == [3, 4, 5, 6]


def test_a_result_without_its_call_never_comes_first():
    assert window([result("gone"), assistant(), user(), assistant()], 9) == [2, 3]
    assert window([result("gone"), assistant()], 9) == [1]
    assert window([result("gone"), result("gone")], 9) == []
    assert window([system(), result("gone")], 1) == [0]


def test_a_result_whose_call_is_gone_does_not_hide_what_is_before_it():
    tail = [user(), result("gone"), assistant()]
    assert window([user(), assistant(), *tail], 3) == [2, 3, 4]
    long = [m for _ in range(400) for m in (user(), assistant())]
    assert window([*long, *tail], 5) == [798, 799, 800, 801, 802]


@pytest.mark.parametrize("page_size", [1, 2, 3, 4, 5, 6])
def test_the_window_does_not_depend_on_where_pages_end(page_size):
    messages = [user(), user(), user(), result("gone"), user()]
    with pages_of(page_size):
        assert window(messages, 3) == [2, 3, 4]


def test_without_a_users_message_the_newest_that_fit():
    messages = [assistant(), assistant(), call("1"), result("1", 3), assistant()]
    assert window(messages, 5) == [2, 3, 4]
    assert window(messages, 4) == [4]
    assert window(messages[:-1], 2) == [2, 3]
    assert window([assistant(), assistant(9)], 2) == [1]


def test_a_user_far_behind_the_limit_is_looked_for_in_the_newest_thousand():
    near = [user(), *(assistant() for _ in range(900))]
    assert window(near, 5) == list(range(901))
    far = [user(), *(assistant() for _ in range(3000))]
    assert window(far, 5) == list(range(2996, 3001))


def test_other_roles_are_starts_like_user():
    messages = [ChatMessage("n", "narrator"), assistant(), ChatMessage("n", "narrator"), user()]
    assert window(messages, 3) == [2, 3]


def test_functions_results_are_no_start():
    messages = [user(), ChatMessage("x", "function"), assistant(), user(5), assistant()]
    assert window(messages, 8) == [3, 4]
    assert window([assistant(), ChatMessage("x", "function"), assistant()], 2) == [2]


def test_messages_without_text_count_for_one():
    messages = [ChatMessage(None) for _ in range(50)]
    assert window(messages, 7) == list(range(43, 50))


# The rules, all at once

pieces = st.one_of(
    st.builds(lambda n: [user(n)], st.integers(1, 4)),
    st.builds(lambda n: [assistant(n)], st.integers(0, 4)),
    st.builds(lambda role: [system(1, role)], st.sampled_from(["system", "developer"])),
    st.builds(lambda ids: [call(*ids)], st.lists(st.sampled_from(["1", "2", None]), max_size=2)),
    st.builds(lambda answered: [result(answered)], st.sampled_from(["1", "2", "3", None])),
    st.builds(
        lambda n, asked: [user(n), call(asked), result(asked), assistant(n)],
        st.integers(1, 3),
        st.sampled_from(["1", "2"]),
    ),
)
sessions = st.builds(
    lambda head, body: [*(system() for _ in range(head)), *(m for p in body for m in p)],
    st.integers(0, 4),
    st.lists(pieces, max_size=20),
)


def tokens(message: ChatMessage) -> int:
    return max(1, len(message.text.split()) + len(message.tool_calls))


def expected(messages: list[ChatMessage], limit: int) -> list[int]:
    """The window by the rules of the docstring, trying every cut."""
    n = len(messages)
    head = next((i for i in range(n) if messages[i].role not in ("system", "developer")), n)

    def call_of(i: int) -> int | None:
        asked = messages[i].tool_call_id
        for j in range(i - 1, -1, -1):
            ids = [c.id for c in messages[j].tool_calls]
            if ids and (asked is None or asked in ids):
                return j
        return None

    calls = {i: call_of(i) for i in range(n) if messages[i].role == "tool"}

    def good(cut: int) -> bool:
        cuts_none = all(c is None or c >= cut for i, c in calls.items() if i >= cut)
        return messages[cut].role != "tool" and cuts_none

    def fits(cut: int) -> bool:
        return sum(map(tokens, messages[:head] + messages[cut:])) <= limit

    cuts = [i for i in range(head, n) if good(i)]
    users = [i for i in cuts if messages[i].role == "user"]
    if fits(head) and (head == n or messages[head].role != "tool"):
        start = head
    else:
        kind = users or cuts
        fitting = [i for i in kind if fits(i)]
        start = min(fitting) if fitting else max(kind, default=n)
    return [*range(head), *range(start, n)]


@settings(max_examples=400, deadline=None)
@given(sessions, st.integers(1, 40), st.integers(1, 30))
def test_the_window_is_the_one_of_the_rules(messages, limit, page_size):
    with pages_of(page_size):
        got = window(messages, limit)
    assert got == expected(messages, limit)


@settings(max_examples=400, deadline=None)
@given(sessions, st.integers(1, 40), st.integers(1, 30))
def test_what_holds_of_every_window(messages, limit, page_size):
    with pages_of(page_size):
        got = window(messages, limit)
    head = next((i for i, m in enumerate(messages) if not is_head(m)), len(messages))
    assert got[:head] == list(range(head))
    tail = got[head:]
    assert tail == list(range(len(messages)))[len(messages) - len(tail) :]
    chosen = [messages[i] for i in tail]
    if not chosen:
        return
    assert chosen[0].role != "tool"
    assert_no_call_is_cut_off(messages[: tail[0]], chosen)
    later = [i for i in range(1, len(chosen)) if chosen[i].role == "user"]
    starts = [i for i in later if not is_unclean(chosen, i)]
    if tail[0] > head and chosen[0].role != "user":
        assert starts == []
    if sum(map(tokens, messages[:head] + chosen)) > limit:
        assert starts == []


def is_head(message: ChatMessage) -> bool:
    return message.role in ("system", "developer")


def is_unclean(messages: list[ChatMessage], cut: int) -> bool:
    try:
        assert_no_call_is_cut_off(messages[:cut], messages[cut:])
    except AssertionError:
        return True
    return False


def assert_no_call_is_cut_off(before: list[ChatMessage], after: list[ChatMessage]) -> None:
    """No result in the second part answers a call of the first."""
    callers = [message for message in before if message.tool_calls]
    seen: set[str | None] = set()
    for message in after:
        if message.role == "tool" and message.tool_call_id not in seen:
            asked = message.tool_call_id
            answers = [m for m in callers if asked in (None, *(c.id for c in m.tool_calls))]
            assert not answers
        if message.tool_calls:
            seen |= {c.id for c in message.tool_calls} | {None}


# What counts


def count(message: ChatMessage) -> int:
    [tokens] = buffer([])._count([message], {})
    return tokens


def test_text_names_calls_and_media_count():
    assert count(ChatMessage("a b c")) == 3
    assert count(ChatMessage("a b c", name="Ann Lee")) == 5
    assert count(ChatMessage([TextBlock(text="a b"), ThinkingBlock(text="c d e")])) == 5
    assert count(call("1", "2")) == 2
    assert count(ChatMessage([ToolCallBlock(name="f", arguments={"q": "a b"})])) == 1 + 3
    assert count(ChatMessage([ToolCallBlock(name="f", arguments='{"q": "ä"}')])) == 1 + 2
    assert count(ChatMessage([ImageBlock(url="https://x/y"), TextBlock(text="a")])) == (
        MEDIA_TOKENS + 1
    )
    assert count(ChatMessage([UnknownBlock(type="note", body="a b c")])) == 4
    assert count(ChatMessage([ThinkingBlock(signature="xyz")])) == 1


def test_what_only_openai_sees_counts():
    wire = {"role": "assistant", "content": None, "refusal": "I will not", "audio": None}
    assert count(ChatMessage.from_openai(wire)) == 3


def test_unchanged_messages_are_not_tokenized_again():
    seen: list[str] = []

    def tokenizer(text: str) -> list[str]:
        seen.append(text)
        return text.split()

    store = open_store("memory://")
    memory = ChatMemoryBuffer(store, token_limit=20, tokenizer_fn=tokenizer)
    memory.put_messages([system(), *(user(1, f"u{i}") for i in range(100))])
    for _ in range(2):  # the first sizes the second's page
        memory.get()
    assert len(seen) < 60
    seen.clear()
    memory.get()
    assert seen == []
    new = user(3, "new")
    memory.put(new)
    memory.get()
    assert seen == ["new new new"]
    seen.clear()
    store.replace_message(KEY, new.model_copy(update={"content": "other"}))
    assert memory.get()[-1].text == "other"
    assert seen == ["other"]
    assert len(memory._counts) < 60


# What is read


class Watched(MemoryChatStore):
    """A memory store that counts what is read, and lets another writer in before a read."""

    rows = 0
    reads = 0
    before_read: Callable[[int], None] | None = None

    def _note(self) -> None:
        self.reads += 1
        if self.before_read is not None:
            self.before_read(self.reads)

    async def _snapshot(self, t, key, before, limit):
        self._note()
        snapshot = await super()._snapshot(t, key, before, limit)
        self.rows += len(snapshot.rows) if snapshot else 0
        return snapshot

    async def _read(self, t, key, first, last):
        self._note()
        payloads = await super()._read(t, key, first, last)
        self.rows += len(payloads)
        return payloads


def conversation(n: int) -> list[ChatMessage]:
    return [(user, assistant)[i % 2](10) for i in range(n)]


def test_it_reads_the_same_of_a_hundred_messages_and_of_ten_thousand():
    read = []
    for n in (100, 10_000):
        store = Watched()
        store.add_messages(KEY, [system(), *conversation(n)])
        memory = ChatMemoryBuffer(store, token_limit=300, tokenizer_fn=words)
        first = [m.id for m in memory.get()]
        store.rows = store.reads = 0
        assert [m.id for m in memory.get()] == first
        read.append((store.reads, store.rows))
    assert read[0] == read[1]
    reads, rows = read[1]
    assert reads == 2
    assert rows < 60


def test_a_put_of_another_process_is_seen():
    here = buffer([user()], chat_store="memory://seen")
    there = ChatMemoryBuffer("memory://seen")
    assert len(here.get()) == 1
    message = assistant()
    there.put(message)
    assert here.get()[-1] == message
    there.reset()
    assert here.get() == []


def meddled(at: int, meddle: Callable[[MemoryChatStore], None]) -> ChatMemoryBuffer:
    """A buffer of whose next get() the read of that number comes after another's change."""
    store = Watched()
    store.add_messages(KEY, [system(), *conversation(400)])
    memory = ChatMemoryBuffer(store, token_limit=301, tokenizer_fn=words)

    def before_read(number: int) -> None:
        if number == at:
            store.before_read = None
            meddle(store)

    store.before_read = before_read
    return memory


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_a_set_between_two_reads_gives_one_history_or_the_other(at):
    new = [system(2), *conversation(300)]
    memory = meddled(at, lambda store: store.set_messages(KEY, new))
    with pages_of(20):
        got = memory.get()
    ids = {message.id for message in new}
    assert len({message.id in ids for message in got}) == 1
    assert got[0].role == "system"
    assert len(got) in (29, 31)


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_a_reset_between_two_reads_gives_one_history_or_none(at):
    memory = meddled(at, lambda store: store.delete_messages(KEY))
    with pages_of(20):
        got = memory.get()
    assert got == [] or len(got) == 31


@pytest.mark.parametrize("at", [1, 2, 3, 4])
@pytest.mark.parametrize("n", [1, 380, 390, 400, 401])
def test_a_trim_between_two_reads_gives_nothing_twice(at, n):
    memory = meddled(at, lambda store: store.delete_oldest(KEY, n))
    with pages_of(20):
        got = memory.get()
    assert len({message.id for message in got}) == len(got)


def test_a_trim_to_a_system_message_of_the_tail_gives_nothing_twice():
    store = Watched()
    tail = [user(10), assistant(10), system(10), user(10), assistant(10)]
    store.add_messages(KEY, [*conversation(40), *tail])
    memory = ChatMemoryBuffer(store, token_limit=60, tokenizer_fn=words)

    def before_read(number: int) -> None:
        if number == 2:
            store.delete_oldest(KEY, 42)

    store.before_read = before_read
    assert [m.id for m in memory.get()] == [m.id for m in tail[2:]]


def test_a_session_that_is_set_all_the_time_is_read_at_once():
    store = Watched()

    def before_read(number: int) -> None:
        store.set_messages(KEY, conversation(200))

    store.before_read = before_read
    memory = ChatMemoryBuffer(store, token_limit=300, tokenizer_fn=words)
    assert len(memory.get()) == 30
    assert store.reads < 30


def test_the_cursor_error_is_still_the_stores():
    memory = buffer(conversation(200), 300)
    page = memory.chat_store.page(KEY, limit=5)
    memory.set([user()])
    with pytest.raises(StaleCursorError):
        memory.chat_store.page(KEY, before=page.before)


# Writing, and async


def test_put_set_and_reset():
    memory = ChatMemoryBuffer.from_defaults()
    first, *more = conversation(3)
    memory.put(first)
    memory.put(first)
    version = memory.chat_store.get_version(KEY)
    memory.put_messages(more)
    assert memory.chat_store.get_version(KEY) == version + 1
    assert memory.get_all() == memory.get("not used") == [first, *more]
    memory.set(more)
    assert memory.get_all() == more
    memory.reset()
    assert memory.get_all() == []
    assert memory.chat_store.get_keys() == []


def test_async():
    async def run() -> None:
        memory = ChatMemoryBuffer.from_defaults(token_limit=20, tokenizer_fn=words)
        head, (first, *more) = system(), conversation(5)
        await memory.aset([head])
        await memory.aput(first)
        await memory.aput_messages(more)
        assert await memory.aget_all() == [head, first, *more] == memory.get_all()
        assert await memory.aget() == [head, more[-1]] == memory.get()
        assert await memory.aget("not used", 20) == [head, more[-1]]
        with pytest.raises(InvalidArgumentError, match="over the token_limit"):
            await memory.aget(initial_token_count=21)
        await memory.areset()
        assert await memory.aget() == []
        await memory.chat_store.aclose()

    asyncio.run(run())


def test_every_method_has_its_async_twin():
    for name in ("put", "put_messages", "get", "get_all", "set", "reset"):
        sync, twin = getattr(ChatMemoryBuffer, name), getattr(ChatMemoryBuffer, f"a{name}")
        assert inspect.iscoroutinefunction(twin)
        assert inspect.signature(sync) == inspect.signature(twin)
        assert twin.__doc__ == f"Async `{name}`."
        assert sync.__doc__


@contextmanager
def in_the_background(work: Callable[[], None]) -> Iterator[None]:
    """Repeat the work on a thread for as long as the block runs; its errors are raised here."""
    stop = threading.Event()

    def loop() -> None:
        while not stop.is_set():
            work()

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(loop)
        try:
            yield
        finally:
            stop.set()
        future.result()


def test_windows_are_whole_while_others_write():
    """Sets, exchanges and trims go on; each window is of one history, in order, nothing twice."""
    store = open_store("memory://")
    memory = ChatMemoryBuffer(store, token_limit=120, tokenizer_fn=words)
    numbers = iter(range(10**9))

    def exchange(generation: int) -> list[ChatMessage]:
        asked, n = os.urandom(4).hex(), next(numbers)
        mark = {"generation": generation, "n": n}
        return [
            ChatMessage("u u", metadata=mark),
            ChatMessage([ToolCallBlock(id=asked, name="f")], "assistant", metadata=mark),
            ChatMessage("r", "tool", tool_call_id=asked, metadata=mark),
            ChatMessage("a a", "assistant", metadata=mark),
        ]

    def history(generation: int) -> list[ChatMessage]:
        head = ChatMessage("s", "system", metadata={"generation": generation, "n": -1})
        return [head, *(m for _ in range(60) for m in exchange(generation))]

    memory.set(history(0))
    generations = iter(range(1, 10**9))

    def write() -> None:
        generation = next(generations)
        memory.set(history(generation))
        for _ in range(20):
            memory.put_messages(exchange(generation))
        for _ in range(20):
            store.delete_message(KEY, 5)

    def check(got: list[ChatMessage]) -> None:
        assert got[0].role == "system"
        assert got[1].role == "user"
        assert len({m.id for m in got}) == len(got)
        assert len({m.metadata["generation"] for m in got}) == 1
        order = [m.metadata["n"] for m in got]
        assert order == sorted(order)
        assert sum(map(tokens, got)) <= 120

    async def read() -> None:
        for _ in range(100):
            check(await memory.aget())

    with in_the_background(write), ThreadPoolExecutor(2) as pool:
        other = pool.submit(asyncio.run, read())
        for _ in range(200):
            check(memory.get())
        other.result()


# Arguments


@pytest.mark.parametrize("limit", [0, -1, True, 1.5, "3"])
def test_a_wrong_limit(limit):
    with pytest.raises(InvalidArgumentError, match="token_limit must be") as caught:
        ChatMemoryBuffer.from_defaults(token_limit=limit)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(("initial", "text"), [(-1, "0 or more"), (True, "0 or"), (6, "over the")])
def test_a_wrong_initial_count(initial, text):
    with pytest.raises(InvalidArgumentError, match=text):
        buffer([user()], 5).get(initial_token_count=initial)


def test_other_wrong_arguments():
    with pytest.raises(InvalidArgumentError, match="a ChatStore or a URL, not dict"):
        ChatMemoryBuffer.from_defaults(chat_store={})
    with pytest.raises(InvalidArgumentError, match="must be a function from text to a list"):
        ChatMemoryBuffer.from_defaults(tokenizer_fn="gpt-4o")
    with pytest.raises(InvalidKeyError):
        ChatMemoryBuffer.from_defaults(chat_store_key="")
    with pytest.raises(InvalidURLError):
        ChatMemoryBuffer.from_defaults(chat_store="nothing")
    memory = ChatMemoryBuffer.from_defaults(tokenizer_fn=len)
    with pytest.raises(InvalidMessageError, match="must be a ChatMessage, not str"):
        memory.put("hi")
    with pytest.raises(InvalidMessageError, match="must be a list of ChatMessage"):
        memory.put_messages(user())
    memory.put(user())
    with pytest.raises(InvalidArgumentError, match=r"must return a list of tokens.*not int"):
        memory.get()


def test_defaults():
    memory = ChatMemoryBuffer.from_defaults()
    assert (memory.token_limit, memory.chat_store_key) == (3000, "chat_history")
    assert memory.chat_store.url == "memory://"
    assert len(memory.tokenizer_fn("Hello world")) == 2
    other = ChatMemoryBuffer.from_defaults()
    memory.put(user())
    assert other.get_all() == []
    assert ChatMemoryBuffer.from_defaults([], chat_store=memory.chat_store).get_all() == []


# As text


class Guarded(MemoryChatStore):
    """A store with a password, for the URL guarded://user:password@host."""

    @classmethod
    def _from_parts(cls, url, options):
        store = cls(url.hosts[0][0], **options)
        store.password = url.password
        return store

    @property
    def url(self) -> str:
        return "guarded://ann@host"


@pytest.fixture
def guarded(monkeypatch):
    find = registry.find_backend
    monkeypatch.setattr(
        registry, "find_backend", lambda name: Guarded if name == "guarded" else find(name)
    )


@pytest.mark.usefixtures("guarded")
def test_text_holds_settings_and_no_secrets():
    store = open_store("guarded://ann:s3cret@host", namespace="bot", ttl="7d", timeout=2)
    memory = ChatMemoryBuffer(store, "alice", 99, words)
    memory.put(ChatMessage("private words"))
    text = memory.to_string()
    for shown in (text, repr(memory), str(memory)):
        assert "s3cret" not in shown
        assert "private words" not in shown
    assert json.loads(text) == memory.to_dict()
    again = ChatMemoryBuffer.from_string(text, password="s3cret", tokenizer_fn=words)
    assert again.chat_store.password == "s3cret"
    assert (again.chat_store_key, again.token_limit) == ("alice", 99)
    assert again.tokenizer_fn is words
    assert again.chat_store.namespace == "bot"
    assert again.get_all() == memory.get_all()
    assert again.to_string() == text


def test_an_option_of_the_url_stands_once():
    store = open_store("memory://once")
    with patch.object(type(store), "url", "memory://once?namespace=default"):
        memory = ChatMemoryBuffer(store)
        assert "namespace" not in memory.to_dict()["chat_store"]
        again = ChatMemoryBuffer.from_dict(memory.to_dict())
    assert again.chat_store.namespace == "default"


def test_a_private_store_takes_its_messages_along():
    messages = [
        system(),
        ChatMessage(
            [ImageBlock(data=b"\x00\xff"), TextBlock(text="\x00 ä 🎉 \u2028")],
            metadata={"n": 10**400, "x": 1.5, "y": 1e22, "deep": [None, True, {"": []}]},
        ),
    ]
    memory = ChatMemoryBuffer.from_defaults(messages, chat_store_key="k")
    for again in (
        ChatMemoryBuffer.from_string(memory.to_string()),
        ChatMemoryBuffer.from_dict(memory.to_dict()),
        ChatMemoryBuffer.from_string(json.dumps(memory.to_dict(), sort_keys=True, indent=1)),
    ):
        assert again.get_all() == messages
        again.put(user())
    assert memory.get_all() == messages
    assert "messages" not in ChatMemoryBuffer("memory://shared").to_dict()


def test_another_store_in_its_place():
    text = buffer([user()], chat_store="memory://one").to_string()
    store = open_store("memory://")
    assert ChatMemoryBuffer.from_string(text, chat_store=store).chat_store is store
    again = ChatMemoryBuffer.from_dict(json.loads(text), chat_store="memory://two")
    assert again.chat_store.url == "memory://two"
    assert again.get_all() == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "null",
        '"x"',
        '{"token_limit": 1, "chat_store_key": "k", "chat_store": "redis://"}',
        '{"token_limit": 1, "chat_store_key": "k", "chat_store": {}}',
        '{"token_limit": 1, "chat_store_key": "k", "chat_store": {"url": "memory://"}, '
        '"messages": [{"v": 1, "role": 3}]}',
    ],
)
def test_text_that_is_something_else(text):
    with pytest.raises(InvalidArgumentError, match="this is not what ChatMemoryBuffer"):
        ChatMemoryBuffer.from_string(text)
    with pytest.raises(InvalidArgumentError, match="this is not what ChatMemoryBuffer"):
        ChatMemoryBuffer.from_string(None)
