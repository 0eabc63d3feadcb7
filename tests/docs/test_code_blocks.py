"""Every Python block of the README and the pages runs, and does what its comments say.

The blocks of a page run in order, in one namespace, in a directory of their own. Three comments are
looked at, each at the end of a statement that is not inside another:

- ``print(x)  # text``: the text is what it prints;
- ``call()  # raises SomeError``: it raises that;
- the comment lines right after such a call: the error's text, or where they end in ``...``, its
  beginning.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, ModuleType, SimpleNamespace
from typing import Any

import pytest

from chatstores import ChatStore
from tests.servers.redis import RedisServer

ROOT = Path(__file__).parents[2]
#: Pages with tests of their own.
ELSEWHERE = ("adding-a-backend.md", "command-line.md")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [page for page in PAGES if page.name not in ELSEWHERE and "```python" in page.read_text()]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ADDRESS = "localhost:6379"  # what pages write for their Redis
RAISES = re.compile(r"# raises (\w+)$")


class Completions:
    """In the place of OpenAI's server: it takes what the wire takes, and answers every message."""

    def create(self, *, model: str, messages: list[dict[str, Any]]) -> SimpleNamespace:
        assert model
        *_, last = json.loads(json.dumps(messages))
        answer = {"role": "assistant", "content": f"You said: {last['content']}"}
        answer |= {"refusal": None, "annotations": []}
        message = SimpleNamespace(model_dump=lambda: answer, content=answer["content"])
        return SimpleNamespace(choices=[SimpleNamespace(message=message)])


class OpenAI:
    """The client, as far as the pages use it."""

    def __init__(self) -> None:
        self.chat = SimpleNamespace(completions=Completions())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_blocks_of_a_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = page.read_text()
    blocks = list(BLOCK.finditer(text))
    assert len(blocks) == text.count("```python"), "a block is indented, or does not end"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "openai", ModuleType("openai"))
    monkeypatch.setattr(sys.modules["openai"], "OpenAI", OpenAI, raising=False)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    with a_server(text) as address:
        try:
            for block in blocks:
                # As many lines as stand before it, so that a traceback names the page's line.
                before = "\n" * text.count("\n", 0, block.start(1))
                run(before + block[1], page, namespace, address)
        finally:
            for value in list(namespace.values()):
                if isinstance(value, ChatStore):
                    value.close()


@contextlib.contextmanager
def a_server(text: str) -> Iterator[str]:
    """The address of a Redis of the page's own, if it uses one: its keys are the page's."""
    if ADDRESS not in text:
        yield ADDRESS
        return
    with RedisServer() as server:
        yield f"127.0.0.1:{server.port}"


def run(source: str, page: Path, namespace: dict[str, Any], address: str) -> None:
    """Run a block, statement by statement."""
    source = source.replace(ADDRESS, address)
    lines = source.splitlines()
    for statement in ast.parse(source).body:
        code = compile(ast.Module([statement], []), page, "exec")
        assert statement.end_lineno is not None
        line = lines[statement.end_lineno - 1].encode()[statement.end_col_offset :].decode()
        comment = line.strip()
        where = f"{page.name}:{statement.end_lineno}"
        if found := RAISES.fullmatch(comment):
            error = error_of(code, namespace)
            assert found[1] in [kind.__name__ for kind in type(error).__mro__], where
            wanted = " ".join(comments_after(lines, statement.end_lineno)).replace(address, ADDRESS)
            said = str(error).replace(address, ADDRESS)
            if wanted.endswith("..."):
                wanted = wanted.removesuffix("...")
                said = said[: len(wanted)]
            assert wanted in ("", said), f"{where}: {error}"
            continue
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code, namespace)
        if comment and ast.unparse(statement).startswith("print("):
            assert printed.getvalue().rstrip() == comment.removeprefix("# "), where


def error_of(code: CodeType, namespace: dict[str, Any]) -> Exception | None:
    """What a statement raises."""
    try:
        exec(code, namespace)
    except Exception as exc:
        return exc
    return None


def comments_after(lines: list[str], number: int) -> Iterator[str]:
    """The text of the comment lines that follow a line."""
    for line in lines[number:]:
        if not line.startswith("# "):
            return
        yield line.removeprefix("# ")
