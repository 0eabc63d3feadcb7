"""The tokenizers: how near the default one is to tiktoken, how fast, and what errors say."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import timeit
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatstores import ChatMemoryBuffer, ChatMessage, memory_buffer
from chatstores.errors import InvalidArgumentError, MissingDependencyError
from chatstores.tokens import default_tokenizer, tiktoken_tokenizer

ENGLISH = """\
The best way to find a plan that meets your needs is to do some research and compare different
options. Consider factors such as fees, investment choices, employer matching and withdrawal rules.
You don't have to decide today: write down what matters most to you, then ask a few questions.

1. How much can I contribute each year (for 2024 it's $23,000)?
2. Which funds are offered, and what do they cost?
3. What happens if I change jobs?

If you'd like, I can draft an e-mail to your employer's human resources department.
"""
CHINESE = "你好,我想问一下明天早上去机场最好的方式是什么?我需要一份关于机器学习的简短介绍。"
JAPANESE = "こんにちは。明日の朝、空港へ行く一番いい方法を教えてください。よろしくお願いします。"
KOREAN = "안녕하세요. 내일 아침 공항에 가는 가장 좋은 방법을 알려 주세요. 감사합니다."
EMOJI = "Great job! 🎉🎉 See you tomorrow 😊👍🏽 🔥🔥🔥 lol 😂😂😂😂"


def count(text: str) -> int:
    return len(default_tokenizer(text))


# What tiktoken 0.14 makes of them in cl100k_base and o200k_base.
@pytest.mark.parametrize(
    ("text", "cl100k", "o200k", "allowed"),
    [
        (ENGLISH, 121, 118, 0.05),
        (CHINESE, 46, 29, 0.25),
        (JAPANESE, 37, 23, 0.25),
        (KOREAN, 39, 21, 0.25),
        (EMOJI, 37, 23, 0.25),
    ],
)
def test_it_is_near_tiktoken(text, cl100k, o200k, allowed):
    assert count(text) == pytest.approx(cl100k, rel=allowed)
    assert count(text) >= o200k * 0.95


@pytest.fixture
def tables(monkeypatch):
    """Tiktoken's tables of tokens, of which LlamaIndex ships a copy; nothing is fetched."""
    pytest.importorskip("tiktoken")
    found = importlib.util.find_spec("llama_index.core")
    if found is None or found.origin is None:
        pytest.skip("llama-index-core, which ships tiktoken's tables, is not installed")
    folder = Path(found.origin).parent / "_static" / "tiktoken_cache"
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(folder))


@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize("encoding", ["cl100k_base", "o200k_base"])
def test_it_is_near_tiktoken_on_code(encoding):
    exact = tiktoken_tokenizer(encoding)
    for module in (memory_buffer, inspect, timeit):
        text = inspect.getsource(module)
        assert count(text) == pytest.approx(len(exact(text)), rel=0.1)


@pytest.mark.usefixtures("tables")
def test_the_real_tiktoken():
    tokens = tiktoken_tokenizer("gpt-4o")
    assert [len(tokens(text)) for text in (ENGLISH, CHINESE, EMOJI)] == [118, 29, 23]
    assert len(tokens("<|endoftext|>")) > 1
    assert len(tokens("\ud800")) > 0


def test_small_texts():
    assert count("") == 0
    assert count("hello") == 1
    assert count("Hello, world!") == 4
    assert count("x = 1\n") == 5
    assert count("9" * 10) == 4
    assert count("a" * 100) == 8
    assert count("\ud800") == 1


@given(st.text(st.characters(codec=None), max_size=200))
def test_pieces_of_plain_text_are_the_text(text):
    pieces = default_tokenizer(text)
    assert "".join(pieces).startswith(text)
    assert len(pieces) <= 2 * len(text)


def test_forty_words_take_some_microseconds():
    text = " ".join(ENGLISH.split()[:40])
    best = min(timeit.repeat(lambda: default_tokenizer(text), number=1000, repeat=5)) / 1000
    assert best < 50e-6  # 5 are usual; the rest is for a busy machine


@pytest.mark.parametrize("text", [" ", "\n \t", "a", "-", "\r", "\u3000", "é"])
def test_long_runs_take_no_longer(text):
    text *= 200_000
    assert timeit.timeit(lambda: default_tokenizer(text + "x"), number=1) < 5


# tiktoken


class Encoding:
    """Stands in for tiktoken's."""

    def encode_ordinary(self, text: str) -> list[int]:
        return list(text.encode())


class Tiktoken:
    """Stands in for the package, with one model and one encoding."""

    @staticmethod
    def list_encoding_names() -> list[str]:
        return ["o200k_base", "unfetched"]

    @staticmethod
    def get_encoding(name: str) -> Encoding:
        if name == "unfetched":
            raise ConnectionError("no route")
        return Encoding()

    @staticmethod
    def encoding_for_model(name: str) -> Encoding:
        return {"gpt-4o": Encoding()}[name]


@pytest.mark.parametrize("model", ["gpt-4o", "o200k_base"])
def test_tiktoken(monkeypatch, model):
    monkeypatch.setitem(sys.modules, "tiktoken", Tiktoken)
    memory = ChatMemoryBuffer.from_defaults(
        [ChatMessage("abc"), ChatMessage("def")],
        token_limit=5,
        tokenizer_fn=tiktoken_tokenizer(model),
    )
    assert [m.text for m in memory.get()] == ["def"]


def test_an_unknown_model(monkeypatch):
    monkeypatch.setitem(sys.modules, "tiktoken", Tiktoken)
    with pytest.raises(InvalidArgumentError, match="no model or encoding 'gpt-x'"):
        tiktoken_tokenizer("gpt-x")


def test_offline(monkeypatch):
    monkeypatch.setitem(sys.modules, "tiktoken", Tiktoken)
    with pytest.raises(MissingDependencyError, match="TIKTOKEN_CACHE_DIR"):
        tiktoken_tokenizer("unfetched")


def test_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'chatstores\[tiktoken\]'"):
        tiktoken_tokenizer("gpt-4o")


def test_the_real_one_knows_no_wrong_model():
    pytest.importorskip("tiktoken")
    with pytest.raises(InvalidArgumentError, match="no model or encoding 'no-such-model'"):
        tiktoken_tokenizer("no-such-model")
