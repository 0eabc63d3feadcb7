"""A chatbot in a terminal that remembers: no framework, no network.

    python terminal_chatbot.py [URL] [NAME]

Talk, leave with an empty line, and start it again: it knows what was said. URL is any store's
(default json:///chats.json), NAME the session's key (default "me").
"""

import sys

from chatstores import ChatMemoryBuffer, ChatMessage, open_store


def ask_model(messages: list[dict]) -> dict:
    """Stands for a model: it takes and gives what Chat Completions does."""
    said = [message["content"] for message in messages if message["role"] == "user"]
    text = f"You said {said[-1]!r}"
    if len(said) > 1:
        text += f", and before that {said[-2]!r}"
    return {"role": "assistant", "content": text + "."}


def main(url: str = "json:///chats.json", name: str = "me") -> None:
    """Talk until an empty line."""
    with open_store(url) as store:
        memory = ChatMemoryBuffer(store, name, token_limit=3000)
        for message in store.get_messages(name, last=4):
            print(f"({message.role}) {message.text}")
        while text := input("> "):
            memory.put(ChatMessage(text))
            answer = ask_model([message.to_openai() for message in memory.get()])
            memory.put(ChatMessage.from_openai(answer))
            print(answer["content"])


if __name__ == "__main__":
    main(*sys.argv[1:])
