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
from tests.servers.kafka import KafkaServer
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer

ROOT = Path(__file__).parents[2]
#: Pages with tests of their own.
ELSEWHERE = ("adding-a-backend.md", "command-line.md")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [page for page in PAGES if page.name not in ELSEWHERE and "```python" in page.read_text()]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: What pages write for a server, which is then one of the page's own.
SERVERS: dict[str, type[RedisServer | PostgresServer | KafkaServer]] = {
    "localhost:6379": RedisServer,
    "localhost:5432": PostgresServer,
    "localhost:9092": KafkaServer,
}
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
    with servers(text) as addresses:
        try:
            for block in blocks:
                # As many lines as stand before it, so that a traceback names the page's line.
                before = "\n" * text.count("\n", 0, block.start(1))
                run(before + block[1], page, namespace, addresses)
        finally:
            for value in list(namespace.values()):
                if isinstance(value, ChatStore):
                    value.close()


@contextlib.contextmanager
def servers(text: str) -> Iterator[dict[str, str]]:
    """The servers that a page uses, and where they are: what is on them is the page's."""
    with contextlib.ExitStack() as running:
        yield {
            written: f"127.0.0.1:{running.enter_context(server()).port}"
            for written, server in SERVERS.items()
            if any(written in block for block in BLOCK.findall(text))
        }


def run(source: str, page: Path, namespace: dict[str, Any], addresses: dict[str, str]) -> None:
    """Run a block, statement by statement."""
    for written, address in addresses.items():
        source = source.replace(written, address)
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
            wanted = " ".join(comments_after(lines, statement.end_lineno))
            said = str(error)
            for written, address in addresses.items():
                wanted, said = wanted.replace(address, written), said.replace(address, written)
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
