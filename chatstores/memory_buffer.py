"""ChatMemoryBuffer: the newest part of a session that fits a number of tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence, Sized
from typing import Any, NamedTuple, Self

from chatstores.codec import Unreadable, decode_one, encode
from chatstores.errors import InvalidArgumentError, StaleCursorError
from chatstores.message import (
    AudioBlock,
    ChatMessage,
    DocumentBlock,
    ImageBlock,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
    VideoBlock,
)
from chatstores.registry import open_store
from chatstores.store import ChatStore
from chatstores.tokens import default_tokenizer
from chatstores.transport import Transport, run_sync
from chatstores.url import parse_url

__all__ = ["DEFAULT_TOKEN_LIMIT", "MEDIA_TOKENS", "ChatMemoryBuffer"]

DEFAULT_TOKEN_LIMIT = 3000
#: What an image, sound, video or document counts for, whatever its size.
MEDIA_TOKENS = 1000

_PRIVATE = "memory://"
_HEAD_ROLES = ("system", "developer")
_RESULT_ROLES = ("tool", "function")
#: The roles at which no window begins while it can begin at another, such as user.
_INNER_ROLES = (*_HEAD_ROLES, *_RESULT_ROLES, "assistant", "model", "chatbot")
#: How far before a tool's result its call is looked for, in messages.
_CALL_DISTANCE = 100
#: How far back a user's message is looked for when the limit is passed, in messages.
_EXCHANGE_DISTANCE = 1000
_MIN_PAGE, _MAX_PAGE = 8, 500
_RESTARTS = 5


class ChatMemoryBuffer:
    """A session of a store, and of it, for a model, the newest messages that fit a limit.

    ::

        memory = ChatMemoryBuffer.from_defaults(
            chat_store="redis://localhost:6379/0", chat_store_key="alice", token_limit=3000
        )
        memory.put(ChatMessage("What is a cursor?"))
        answer = client.chat.completions.create(
            model="gpt-4o", messages=[m.to_openai() for m in memory.get()]
        )
        memory.put(ChatMessage.from_openai(answer.choices[0].message.model_dump()))

    It keeps no messages itself: what another process puts is in the next ``get``. It may be used
    from threads and coroutines, as its store. Every method has an async twin with a leading ``a``,
    and raises what the store's methods raise.

    A message counts for the tokens of its text, of its name and of its tool calls' names and
    arguments, an image, sound, video or document for ``MEDIA_TOKENS`` (1,000) whatever its size,
    and each message for one at least. The few tokens that providers put around each message are
    not counted.

    Args:
        chat_store: the store, or its URL; None: a private one in memory. ``chat_store.close()``
            closes it.
        chat_store_key: the session; default "chat_history".
        token_limit: how many tokens ``get`` may return, 1 or more; default 3000.
        tokenizer_fn: from text to the list of its tokens (only its length is used); default an
            estimate that needs nothing, ``chatstores.tokens.default_tokenizer``; exact for OpenAI's
            models is ``chatstores.tokens.tiktoken_tokenizer("gpt-4o")``.

    Raises:
        InvalidArgumentError: an argument is of a wrong type, or the limit is below 1.
        InvalidURLError: the URL is wrong; and what ``open_store`` raises besides.
    """

    def __init__(
        self,
        chat_store: ChatStore | str | None = None,
        chat_store_key: str = "chat_history",
        token_limit: int = DEFAULT_TOKEN_LIMIT,
        tokenizer_fn: Callable[[str], Sized] | None = None,
    ) -> None:
        if type(token_limit) is not int or token_limit < 1:
            raise InvalidArgumentError(
                f"token_limit must be a whole number, 1 or more, not {token_limit!r:.80}"
            )
        if tokenizer_fn is not None and not callable(tokenizer_fn):
            raise InvalidArgumentError(
                "tokenizer_fn must be a function from text to a list of tokens, not "
                f"{type(tokenizer_fn).__name__}"
            )
        self._store = _store(chat_store)
        self._store._check_key(chat_store_key)
        self._key = chat_store_key
        self._limit = token_limit
        self._tokenize: Callable[[str], Sized] = tokenizer_fn or default_tokenizer
        #: Of the messages that the last get() looked at: id -> (hash of the text, tokens).
        self._counts: dict[str, tuple[int, int]] = {}
        #: A head that is known to be of one history with a tail: the tail's epoch and the head.
        self._known_head: tuple[str, object] | None = None
        #: How many messages to ask for first.
        self._page_size = _within_page(token_limit // 50)

    @classmethod
    def from_defaults(
        cls,
        chat_history: Sequence[ChatMessage] | None = None,
        chat_store: ChatStore | str | None = None,
        chat_store_key: str = "chat_history",
        token_limit: int | None = None,
        tokenizer_fn: Callable[[str], Sized] | None = None,
    ) -> Self:
        """A buffer with LlamaIndex's arguments in LlamaIndex's order.

        Args:
            chat_history: messages that replace what the session holds, written at once and
                blocking (in a coroutine, call ``aset`` instead); None: the session stays.
            chat_store: the store, or its URL; None: a private one in memory.
            chat_store_key: the session; default "chat_history".
            token_limit: how many tokens ``get`` may return; default 3000.
            tokenizer_fn: from text to the list of its tokens; default an estimate.

        Returns:
            The buffer.

        Raises:
            InvalidArgumentError: an argument is of a wrong type, or the limit is below 1.
        """
        limit = DEFAULT_TOKEN_LIMIT if token_limit is None else token_limit
        memory = cls(chat_store, chat_store_key, limit, tokenizer_fn)
        if chat_history is not None:
            memory.set(chat_history)
        return memory

    @property
    def chat_store(self) -> ChatStore:
        """The store."""
        return self._store

    @property
    def chat_store_key(self) -> str:
        """The session's key."""
        return self._key

    @property
    def token_limit(self) -> int:
        """How many tokens ``get`` may return."""
        return self._limit

    @property
    def tokenizer_fn(self) -> Callable[[str], Sized]:
        """The function from text to its tokens."""
        return self._tokenize

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self._store!r}, chat_store_key={self._key!r}, "
            f"token_limit={self._limit})"
        )

    # Writing

    def put(self, message: ChatMessage) -> None:
        """Add a message at the end of the session.

        Args:
            message: the message.

        Raises:
            InvalidMessageError: it is no ChatMessage, or cannot be stored and come back equal.
            MessageTooLargeError: it is larger than the store takes.
        """
        self._store.add_message(self._key, message)

    async def aput(self, message: ChatMessage) -> None:
        """Async `put`."""
        await self._store.aadd_message(self._key, message)

    def put_messages(self, messages: Sequence[ChatMessage]) -> None:
        """Add messages at the end of the session: all or none, and nobody else's between.

        Args:
            messages: the messages.

        Raises:
            InvalidMessageError: one is no ChatMessage, or cannot be stored and come back equal.
            MessageTooLargeError: one, or all together, are larger than the store takes.
        """
        self._store.add_messages(self._key, messages)

    async def aput_messages(self, messages: Sequence[ChatMessage]) -> None:
        """Async `put_messages`."""
        await self._store.aadd_messages(self._key, messages)

    def set(self, messages: Sequence[ChatMessage]) -> None:
        """Put messages in the place of all that the session holds, in one moment.

        Args:
            messages: the messages.

        Raises:
            InvalidMessageError: one is no ChatMessage, or cannot be stored and come back equal.
            MessageTooLargeError: one is larger than the store takes.
        """
        self._store.set_messages(self._key, messages)

    async def aset(self, messages: Sequence[ChatMessage]) -> None:
        """Async `set`."""
        await self._store.aset_messages(self._key, messages)

    def reset(self) -> None:
        """Remove the session, its metadata included."""
        self._store.delete_messages(self._key)

    async def areset(self) -> None:
        """Async `reset`."""
        await self._store.adelete_messages(self._key)

    # Reading

    def get(self, input: str | None = None, initial_token_count: int = 0) -> list[ChatMessage]:
        """The messages for the model's next answer; how many are read follows the limit.

        A session that fits the limit comes whole. Otherwise the system and developer messages at
        its start come, and the newest messages that fit beside them, from a user's message on. A
        tool's call and its results stay together or go together, and no result comes first. If
        the last exchange (from the last user's message on) is over the limit, it comes whole. If
        there is no user's message (in the newest 1,000, once over the limit), it is the newest
        messages that fit, at least the last one, or the last call with its results.

        Args:
            input: not used; LlamaIndex's signature has it.
            initial_token_count: how many tokens of the limit are taken already, 0 or more.

        Returns:
            The messages, oldest first.

        Raises:
            InvalidArgumentError: the initial count is no whole number, below 0 or over the limit.
        """
        return run_sync(self._get(self._store._transports.sync(), initial_token_count))

    async def aget(
        self, input: str | None = None, initial_token_count: int = 0
    ) -> list[ChatMessage]:
        """Async `get`."""
        return await self._get(await self._store._transports.running(), initial_token_count)

    def get_all(self) -> list[ChatMessage]:
        """All messages of the session.

        Returns:
            The messages, oldest first.
        """
        return self._store.get_messages(self._key)

    async def aget_all(self) -> list[ChatMessage]:
        """Async `get_all`."""
        return await self._store.aget_messages(self._key)

    # As text

    def to_dict(self) -> dict[str, Any]:
        """The buffer's settings, of JSON's types: limit, key, the store's URL and options.

        No password is in it, nor the tokenizer. No messages either, but those of a private
        ``memory://`` store, which are nowhere else.

        Returns:
            The dict, for ``from_dict``.
        """
        store = self._store
        inside = parse_url(store.url).query
        options = {name: getattr(store, f"_{name}") for name in store._base_options}
        data = {
            "token_limit": self._limit,
            "chat_store_key": self._key,
            "chat_store": {"url": store.url}
            | {k: v for k, v in options.items() if v is not None and k not in inside},
        }
        if store.url == _PRIVATE:
            data["messages"] = [json.loads(encode(message)) for message in self.get_all()]
        return data

    def to_string(self) -> str:
        """``to_dict`` as JSON.

        Returns:
            The text, for ``from_string``.
        """
        return json.dumps(self.to_dict())

    @classmethod
    def from_dict(
        cls,
        data: Mapping[str, Any],
        *,
        chat_store: ChatStore | str | None = None,
        password: str | None = None,
        tokenizer_fn: Callable[[str], Sized] | None = None,
    ) -> Self:
        """The buffer that ``to_dict`` described; its store is opened by its URL.

        Args:
            data: what ``to_dict`` returned.
            chat_store: a store, or a URL, to use in the place of the one described; its session
                stays as it is.
            password: the store's, which ``data`` does not hold.
            tokenizer_fn: from text to the list of its tokens; default an estimate, whatever the
                buffer had.

        Returns:
            The buffer.

        Raises:
            InvalidArgumentError: ``data`` is not what ``to_dict`` returns.
        """
        try:
            limit, key = data["token_limit"], data["chat_store_key"]
            described, payloads = data["chat_store"], data.get("messages", [])
            url, options = described["url"], {k: v for k, v in described.items() if k != "url"}
            messages = [_message(payload) for payload in payloads]
        except (KeyError, TypeError, AttributeError, Unreadable) as exc:
            raise InvalidArgumentError(
                f"this is not what ChatMemoryBuffer.to_dict() returns: {exc!r:.200}"
            ) from None
        if chat_store is not None:
            return cls(chat_store, key, limit, tokenizer_fn)
        memory = cls(open_store(url, password=password, **options), key, limit, tokenizer_fn)
        if messages:
            memory.set(messages)
        return memory

    @classmethod
    def from_string(
        cls,
        text: str,
        *,
        chat_store: ChatStore | str | None = None,
        password: str | None = None,
        tokenizer_fn: Callable[[str], Sized] | None = None,
    ) -> Self:
        """The buffer that ``to_string`` described; its store is opened by its URL.

        Args:
            text: what ``to_string`` returned.
            chat_store: a store, or a URL, to use in the place of the one described; its session
                stays as it is.
            password: the store's, which the text does not hold.
            tokenizer_fn: from text to the list of its tokens; default an estimate, whatever the
                buffer had.

        Returns:
            The buffer.

        Raises:
            InvalidArgumentError: the text is not what ``to_string`` returns.
        """
        try:
            data = json.loads(text)
        except (ValueError, TypeError):
            raise InvalidArgumentError(
                "this is not what ChatMemoryBuffer.to_string() returns"
            ) from None
        return cls.from_dict(
            data, chat_store=chat_store, password=password, tokenizer_fn=tokenizer_fn
        )

    # The window: what get() and aget() do.

    async def _get(self, t: Transport, initial: int) -> list[ChatMessage]:
        if type(initial) is not int or initial < 0:
            raise InvalidArgumentError(
                f"initial_token_count must be a whole number, 0 or more, not {initial!r:.80}"
            )
        if initial > self._limit:
            raise InvalidArgumentError(
                f"initial_token_count {initial} is over the token_limit {self._limit}"
            )
        budget = self._limit - initial
        for _ in range(_RESTARTS):
            try:
                return await self._read_window(t, budget)
            except StaleCursorError:  # set, or deleted, between two pages
                continue
        return self._whole_window(await self._store._get(t, self._key, None, None), budget)

    async def _read_window(self, t: Transport, budget: int) -> list[ChatMessage]:
        """The window, read from the session's end until it is full, and from its start."""
        counts: dict[str, tuple[int, int]] = {}
        messages: list[ChatMessage] = []
        tokens: list[int] = []
        cursor, size = None, self._page_size
        while True:
            page = await self._store._page(t, self._key, cursor, size)
            messages = page.messages + messages
            tokens = self._count(page.messages, counts) + tokens
            if page.before is None:
                self._counts = counts
                return self._whole_window(messages, budget)
            cut = find_cut(messages, tokens, budget, whole=False)
            if cut is not None:
                break
            cursor, size = page.before, _next_page(tokens, budget)
        self._page_size = _within_page(cut.looked_at)
        head = await self._read_head(t)
        budget -= sum(self._count(head, counts))
        epoch = page.before.partition(".")[0]
        known = (epoch, [(message.id, counts[message.id]) for message in head])
        if known != self._known_head:
            # While the tail's cursor is good, the head is of the same history as the tail.
            await self._store._page(t, self._key, page.before, 1)
            self._known_head = known
        self._counts = counts
        start = _end_of_overlap(head, messages)
        messages, tokens = messages[start:], tokens[start:]
        cut = find_cut(messages, tokens, budget, whole=start > 0)
        return head + messages[cut.start if cut else 0 :]

    async def _read_head(self, t: Transport) -> list[ChatMessage]:
        """The system and developer messages at the session's start."""
        size = 2
        while True:
            messages = await self._store._get(t, self._key, None, size)
            length = _head_length(messages)
            if length < size:
                return messages[:length]
            size *= 4

    def _whole_window(self, messages: list[ChatMessage], budget: int) -> list[ChatMessage]:
        """The window of a session of which all messages are at hand."""
        counts: dict[str, tuple[int, int]] = {}
        tokens = self._count(messages, counts)
        self._counts = counts
        length = _head_length(messages)
        budget -= sum(tokens[:length])
        cut = find_cut(messages[length:], tokens[length:], budget, whole=True)
        assert cut is not None
        return messages[:length] + messages[length + cut.start :]

    def _count(
        self, messages: Sequence[ChatMessage], counts: dict[str, tuple[int, int]]
    ) -> list[int]:
        """The tokens of each message; what is known is not counted again."""
        tokens = []
        for message in messages:
            text, media = _countable(message)
            mark = hash(text)
            known = self._counts.get(message.id)
            if known is None or known[0] != mark:
                known = (mark, self._length(text))
            counts[message.id] = known
            tokens.append(max(1, known[1] + media))
        return tokens

    def _length(self, text: str) -> int:
        tokens = self._tokenize(text)
        try:
            return len(tokens)
        except TypeError:
            raise InvalidArgumentError(
                "tokenizer_fn must return a list of tokens (its length is taken), not "
                f"{type(tokens).__name__}"
            ) from None


def _store(chat_store: ChatStore | str | None) -> ChatStore:
    if chat_store is None:
        return open_store(_PRIVATE)
    if isinstance(chat_store, str):
        return open_store(chat_store)
    if isinstance(chat_store, ChatStore):
        return chat_store
    raise InvalidArgumentError(
        f"chat_store must be a ChatStore or a URL, not {type(chat_store).__name__}"
    )


def _message(payload: Mapping[str, Any]) -> ChatMessage:
    """A message of ``to_dict``, whatever became of the order of its fields."""
    fields = {"v": payload["v"], **payload}
    return decode_one(json.dumps(fields, separators=(",", ":")).encode())


def _within_page(size: int) -> int:
    """A number of messages to ask for, with a few to spare."""
    return max(_MIN_PAGE, min(_MAX_PAGE, size + size // 8 + 4))


def _next_page(tokens: Sequence[int], budget: int) -> int:
    """How many messages to ask for next: what seems to be missing, or as many again."""
    used = sum(tokens)
    missing = (budget - used) * len(tokens) // used if 0 < used <= budget else len(tokens)
    return _within_page(missing)


def _head_length(messages: Sequence[ChatMessage]) -> int:
    """How many system and developer messages are at the start."""
    others = (i for i, message in enumerate(messages) if message.role not in _HEAD_ROLES)
    return next(others, len(messages))


def _end_of_overlap(head: Sequence[ChatMessage], messages: Sequence[ChatMessage]) -> int:
    """The place after the last of the messages that is in the head too; 0 if none is."""
    ids = {message.id for message in head}
    return max((i + 1 for i, message in enumerate(messages) if message.id in ids), default=0)


def _countable(message: ChatMessage) -> tuple[str, int]:
    """What of a message a tokenizer counts, and the tokens of its media."""
    content = message.content
    if isinstance(content, str) and message.name is None and not message.extras:
        return content, 0
    texts = [message.name or ""]
    media = 0
    if isinstance(content, str):
        texts.append(content)
    for block in content if isinstance(content, list) else ():
        match block:
            case TextBlock() | ThinkingBlock():
                texts.append(block.text or "")
            case ToolCallBlock():
                texts += [block.name, _text(block.arguments)]
            case ImageBlock() | AudioBlock() | VideoBlock() | DocumentBlock():
                media += MEDIA_TOKENS
            case _:
                texts.append(_text(block.model_extra))
    # What to_openai() sends beside the fields.
    for _, original in message.extras.get("openai", {}).values():
        texts += [_text(value) for value in original.values() if value]
    return "\n".join(filter(None, texts)), media


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


class Cut(NamedTuple):
    """Where a window starts, and how many of the newest messages were looked at to see it."""

    start: int
    looked_at: int


def find_cut(
    messages: Sequence[ChatMessage], tokens: Sequence[int], budget: int, *, whole: bool
) -> Cut | None:
    """Where the window of a session's newest messages starts, by the rules of ``get``.

    Args:
        messages: the newest messages of a session, oldest first, without its head.
        tokens: what each counts for.
        budget: how many tokens may be returned; below 0 if the head alone is over the limit.
        whole: whether these are all.

    Returns:
        The place; None if older messages must be read to know it.
    """
    count = len(messages)
    calls = _calls_of_results(messages)
    needed = count  # the oldest call that has a result at or after i
    used = 0
    user: int | None = None  # the oldest user's message that fits
    clean: int | None = None  # the oldest other place that fits, or the newest that cuts nothing
    for i in range(count - 1, -1, -1):
        used += tokens[i]
        if used > budget and user is not None:
            return Cut(user, count - i) if needed >= 0 else None
        role = messages[i].role
        if role == "tool":
            call = calls[i]
            if call is None and not whole and i < _CALL_DISTANCE:
                call = -1  # it may be older than what was read
            needed = needed if call is None else min(needed, call)
        if needed < i:
            continue
        if role not in _INNER_ROLES:
            if used > budget:
                return Cut(i, count - i)
            user = i
        elif role not in _RESULT_ROLES and (used <= budget or clean is None):
            clean = i
        if used > budget and clean is not None and count - i >= _EXCHANGE_DISTANCE:
            return Cut(clean, count - i)
    if not whole:
        return None
    if used <= budget and (count == 0 or messages[0].role not in _RESULT_ROLES):
        return Cut(0, count)
    place = user if user is not None else clean
    return Cut(count if place is None else place, count)


def _calls_of_results(messages: Sequence[ChatMessage]) -> dict[int, int | None]:
    """For the place of each tool's result, that of its call; None if it is not among them."""
    calls: dict[str | None, int] = {}
    results: dict[int, int | None] = {}
    for i, message in enumerate(messages):
        if message.role == "tool":
            results[i] = calls.get(message.tool_call_id)
        elif isinstance(message.content, list):
            for call in message.tool_calls:
                calls[call.id] = calls[None] = i
    return results
