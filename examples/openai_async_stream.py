"""OpenAI's SDK for Python, asynchronous: two streams at once, each with its usage.

    pip install openai
    GATEWAY_KEY=sk-gw-... python examples/openai_async_stream.py

Prints:

    You said: one and two, 6 tokens
    You said: three, 4 tokens
"""

import asyncio
import os

from openai import AsyncOpenAI


async def ask(client: AsyncOpenAI, text: str) -> str:
    """The answer, piece by piece, and how many tokens it was."""
    stream = await client.chat.completions.create(
        model="mock-1",
        messages=[{"role": "user", "content": text}],
        stream=True,
        stream_options={"include_usage": True},
    )
    words, tokens = "", 0
    async for chunk in stream:
        for choice in chunk.choices:
            words += choice.delta.content or ""
        if chunk.usage:
            tokens = chunk.usage.completion_tokens
    return f"{words.strip()}, {tokens} tokens"


async def main() -> None:
    url = os.environ.get("GATEWAY_URL", "http://127.0.0.1:8000") + "/v1"
    async with AsyncOpenAI(base_url=url, api_key=os.environ["GATEWAY_KEY"]) as client:
        for answer in await asyncio.gather(ask(client, "one and two"), ask(client, "three")):
            print(answer)


asyncio.run(main())
