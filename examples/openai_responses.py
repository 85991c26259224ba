"""OpenAI's SDK for Python, Responses API: a conversation that the gateway remembers. Every chat model answers on it.

    pip install openai
    GATEWAY_KEY=sk-gw-... python examples/openai_responses.py

Prints:

    You said: My name is Ada.
    You said: What is my name?
"""

import os

from openai import OpenAI

url = os.environ.get("GATEWAY_URL", "http://127.0.0.1:8000") + "/v1"
client = OpenAI(base_url=url, api_key=os.environ["GATEWAY_KEY"])
first = client.responses.create(model="mock-1", input="My name is Ada.")
print(first.output_text)
# A mock remembers nothing; another model would be sent both turns, and say.
then = client.responses.create(model="mock-1", input="What is my name?", previous_response_id=first.id)
print(then.output_text)
