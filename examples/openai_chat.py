"""OpenAI's SDK for Python: one call, what it cost, and what it was for.

    pip install openai
    GATEWAY_KEY=sk-gw-... python examples/openai_chat.py

Prints:

    You said: Hello
    0.0000027 USD for chat by mock-1
"""

import os

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("GATEWAY_URL", "http://127.0.0.1:8000") + "/v1",
    api_key=os.environ["GATEWAY_KEY"],
    default_headers={"x-gateway-feature": "chat"},  # what the spending is told apart by
)
# `with_raw_response` shows the headers; without it, `create` gives the completion itself.
raw = client.chat.completions.with_raw_response.create(model="mock-1", messages=[{"role": "user", "content": "Hello"}])
print(raw.parse().choices[0].message.content)
print(raw.headers["x-gateway-cost-usd"], "USD for chat by", raw.headers["x-gateway-model"])
