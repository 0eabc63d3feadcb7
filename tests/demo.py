"""The demo: a conversation that outlives its process, and moves to another store.

One process holds a conversation and ends, another reads it; then a snapshot carries everything to a
second store, and the two are compared. With --data, the conversations are those of a file: JSON
lines such as {"session": "a", "messages": [{"role": "user", "content": "hi"}]}.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import NamedTuple

from chatstores import ChatMemoryBuffer, ChatMessage, ChatStore, ToolCallBlock, open_store
from chatstores.errors import ChatStoreError

#: Where a child process finds the URL: it may hold a password, which argv would show to all.
_URL = "CHATSTORES_DEMO_URL"

Conversation = tuple[str, list[ChatMessage]]


class Wrong(Exception):
    """What the user gave cannot be used; the text says why."""


class Failed(Exception):
    """The demo did not come out as it must; the text says how."""


class Counts(NamedTuple):
    """How much there is."""

    sessions: int
    messages: int

    def __str__(self) -> str:
        return f"{self.sessions:,} sessions, {self.messages:,} messages"


# The conversations


def script() -> list[Conversation]:
    """What is said without ``--data``; the assistant is no model, its lines are written here."""
    call = ToolCallBlock(id="call-1", name="weather", arguments={"place": "Oslo"})
    alice = [
        ChatMessage("You are a friendly travel guide. Answer in one sentence.", "system"),
        ChatMessage("Hi, I am Alice. I am going to Oslo tomorrow."),
        ChatMessage("How nice, Alice! What would you like to know about Oslo?", "assistant"),
        ChatMessage("Shall I take an umbrella?"),
        ChatMessage([call], "assistant"),
        ChatMessage('{"rain": true, "degrees": 11}', "tool", tool_call_id="call-1"),
        ChatMessage("Yes, take one: rain and 11 degrees are expected.", "assistant"),
    ]
    bob = [
        ChatMessage("¿Hablas español? 🙂"),
        ChatMessage("¡Claro que sí, Bob! ¿En qué te ayudo?", "assistant"),
    ]
    return [("alice", alice), ("bob", bob)]


def conversations(data: str | None) -> list[Conversation]:
    """The script's conversations, or a file's."""
    if data is None:
        return script()
    found = []
    try:
        with open(data, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    found.append(parse(line, f"{data}, line {number}"))
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8"
        raise Wrong(f"cannot read {data}: {reason}") from None
    if not found:
        raise Wrong(f"{data} holds no conversation")
    return found


def parse(line: str, where: str) -> Conversation:
    """One line of the file."""
    try:
        record = json.loads(line)
        return record["session"], [ChatMessage.from_openai(m) for m in record["messages"]]
    except (ValueError, KeyError, TypeError):
        raise Wrong(
            f'{where} is not like {{"session": "a", "messages": [{{"role": "user", "content": '
            '"hi"}]}'
        ) from None


def counts_of(found: list[Conversation]) -> Counts:
    """How much a store must hold in the end."""
    return Counts(len({key for key, _ in found}), sum(len(messages) for _, messages in found))


# What the processes do


def write(store: ChatStore, data: str | None) -> None:
    """Hold the conversations, message by message, as an application would."""
    found = conversations(data)
    total = counts_of(found).messages
    progress = Progress(total) if data is not None else None
    written = 0
    for key, messages in found:
        memory = ChatMemoryBuffer.from_defaults(chat_store=store, chat_store_key=key)
        for message in messages:
            memory.put(message)
            written += 1
            if progress is not None:
                progress.show(written)
            elif message.role == "user":
                print(f"   {key} asks; the model would be given {len(memory.get())} message(s)")


def show(store: ChatStore, data: str | None) -> None:
    """Print what is there: the script's sessions, or the newest of a file's."""
    sessions = store.list_sessions(limit=5 if data is None else 1).sessions
    for session in sorted(sessions, key=lambda session: session.key):
        print(f"\n   session {session.key!r}, {session.count} messages")
        for message in store.get_messages(session.key):
            print(readable(message))


def readable(message: ChatMessage) -> str:
    """A message as a few lines of text."""
    calls = [f"calls {call.name}({call.arguments})" for call in message.tool_calls]
    text = " ".join([message.text, *calls]).strip()
    return textwrap.fill(
        textwrap.shorten(text, 400, placeholder=" ..."),
        width=96,
        initial_indent=f"   {message.role:>9}: ",
        subsequent_indent=" " * 14,
    )


class Progress:
    """A count on stderr: one line that changes on a terminal, ten lines in a log."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.terminal = sys.stderr.isatty()
        self.step = max(1, total // (100 if self.terminal else 10))

    def show(self, done: int) -> None:
        """Say how many are done, now and then."""
        if done % self.step and done != self.total:
            return
        start = "\r" if self.terminal else ""
        end = "" if self.terminal and done < self.total else "\n"
        print(
            f"{start}   {done:,} of {self.total:,} messages written",
            end=end,
            file=sys.stderr,
            flush=True,
        )


def in_another_process(step: str, url: str, namespace: str, data: str | None) -> None:
    """Run one of the steps in a process of its own, and wait for its end."""
    command = [sys.executable, "-m", "tests.demo", "--step", step, "--namespace", namespace]
    sys.stdout.flush()
    command += ["--data", data] if data is not None else []
    with subprocess.Popen(command, env={**os.environ, _URL: url}) as child:
        print(f"   (process {child.pid})", flush=True)
    if child.returncode:
        raise Failed(f"the process that was to {step} the conversations failed")


# The whole


def compare(store: ChatStore, other: ChatStore) -> Counts:
    """How much both hold, if they hold the same."""
    keys = store.get_keys()
    if keys != other.get_keys():
        raise Failed("the two stores do not hold the same sessions")
    messages = 0
    for key in keys:
        here, there = store.get_messages(key), other.get_messages(key)
        session, copy = store.get_session(key), other.get_session(key)
        if here != there or session is None or copy is None or session.metadata != copy.metadata:
            raise Failed(f"session {key!r} is not the same in both stores")
        messages += len(here)
    return Counts(len(keys), messages)


def demo(url: str, data: str | None, folder: Path) -> None:
    """Every step, in a namespace of its own that is emptied at the end."""
    found = conversations(data)
    namespace = f"demo-{secrets.token_hex(4)}"
    with open_first(url, namespace) as store:
        try:
            print(f"The store is {store.url}, in the namespace {namespace}.")
            print("\n1. A process holds the conversations, and ends.")
            in_another_process("write", url, namespace, data)
            print("\n2. Another process opens the store and reads them.")
            in_another_process("show", url, namespace, data)
            print("\n3. A snapshot carries everything to a second store.")
            snapshot = folder / "snapshot"
            store.persist(snapshot)
            with open_store(f"json:///{folder / 'copy.json'}") as other:
                other.load(snapshot)
                there = compare(store, other)
            print(f"   {snapshot.stat().st_size:,} bytes; both stores are equal.")
            if there != counts_of(found):
                raise Failed(f"the store holds {there}; {counts_of(found)} were said")
            print(f"\nAll {there} are there" + (f", as in {data}." if data else "."))
        finally:
            clean_up(store)


def open_first(url: str, namespace: str) -> ChatStore:
    """The store, opened and reached."""
    try:
        store = open_store(url, namespace=namespace)
        if "R5" in store.capabilities.refused:
            raise Wrong(
                f"{store.url} ends with its process; give a store that lasts, such as "
                "sqlite:///chats.db"
            )
        store.ping()
    except ChatStoreError as exc:
        raise Wrong(str(exc)) from exc
    return store


def clean_up(store: ChatStore) -> None:
    """Delete what the demo wrote."""
    for key in store.get_keys():
        store.delete_messages(key)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.demo", description=__doc__)
    parser.add_argument("--url", help="the store; default: a SQLite file in a temporary folder")
    parser.add_argument("--data", metavar="FILE", help="conversations to use, as JSON lines")
    parser.add_argument("--step", choices=["write", "show"], help=argparse.SUPPRESS)
    parser.add_argument("--namespace", help=argparse.SUPPRESS)
    return parser.parse_args()


def run(given: argparse.Namespace) -> None:
    """The whole demo, or in a child process one step."""
    if given.step is not None:
        with open_store(os.environ[_URL], namespace=given.namespace) as store:
            (write if given.step == "write" else show)(store, given.data)
        return
    with tempfile.TemporaryDirectory(prefix="chatstores-demo-") as folder:
        url = given.url or f"sqlite:///{folder}/chats.db"
        demo(url, given.data, Path(folder))


def main() -> int:
    """Run; 0 if all came out as it must, 1 if not, 2 if what was given cannot be used."""
    try:
        run(arguments())
    except Wrong as exc:
        return say(exc, 2)
    except (Failed, ChatStoreError) as exc:
        return say(exc, 1)
    except KeyboardInterrupt:
        return say("stopped", 130)
    return 0


def say(problem: object, code: int) -> int:
    """One line on stderr; the exit code."""
    print(f"demo: {' '.join(str(problem).split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
