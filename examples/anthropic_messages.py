"""Anthropic's SDK for Python, whole and as a stream. Its base URL is without /v1; every chat model answers on it.

    pip install anthropic
    GATEWAY_KEY=sk-gw-... python examples/anthropic_messages.py

Prints:

    You said: Hello
    You said: Hello again
"""

import os

from anthropic import Anthropic

client = Anthropic(base_url=os.environ.get("GATEWAY_URL", "http://127.0.0.1:8000"), api_key=os.environ["GATEWAY_KEY"])
message = client.messages.create(model="mock-1", max_tokens=100, messages=[{"role": "user", "content": "Hello"}])
print(message.content[0].text)
with client.messages.stream(
    model="mock-1", max_tokens=100, messages=[{"role": "user", "content": "Hello again"}]
) as stream:
    for text in stream.text_stream:
        print(text, end="")
print()
