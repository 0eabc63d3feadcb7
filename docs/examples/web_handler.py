"""An async handler, as in a web application: one store for all requests.

    python web_handler.py [URL]

Put the body of `handle` into a route of your framework, and `open_store` where the application
starts. Users come at the same time; a session is one user's.
"""

import asyncio
import sys

from chatstores import ChatMemoryBuffer, ChatMessage, ChatStore, open_store


async def ask_model(messages: list[dict]) -> dict:
    """Stands for a model that takes its time."""
    await asyncio.sleep(0.01)
    return {"role": "assistant", "content": f"You said: {messages[-1]['content']}"}


async def handle(store: ChatStore, user: str, text: str) -> str:
    """One request: what the user said, and the model's answer."""
    memory = ChatMemoryBuffer(store, f"chat/{user}", token_limit=3000)
    # Before the model is asked: if it fails, what the user said is not lost.
    await memory.aput(ChatMessage(text))
    answer = await ask_model([message.to_openai() for message in await memory.aget()])
    await memory.aput(ChatMessage.from_openai(answer))
    return answer["content"]


async def history(store: ChatStore, user: str, before: str | None = None) -> dict:
    """Another request: the last messages for the screen, and the cursor of those before them."""
    page = await store.apage(f"chat/{user}", before=before, limit=20)
    messages = [{"role": message.role, "text": message.text} for message in page.messages]
    return {"messages": messages, "before": page.before}


async def main(url: str = "memory://") -> None:
    """Three users at once."""
    async with open_store(url, ttl="30d") as store:
        await asyncio.gather(*(handle(store, user, "Hello!") for user in ("ann", "bob", "cy")))
        print(await handle(store, "ann", "Still there?"))
        print(len((await history(store, "ann"))["messages"]), "messages of ann")
        print(await store.aget_keys("chat/"))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
