"""OpenAI's SDK for Python: a tool is called, its result goes back, an answer comes.

    pip install openai
    GATEWAY_KEY=sk-gw-... python examples/openai_tools.py

Prints:

    wants weather({})
    You said: And in words?
"""

import json
import os

from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam


def weather(city: str = "Ulm") -> str:
    return f"sunny in {city}"


TOOLS: list[ChatCompletionToolParam] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "What the weather is like in a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]

url = os.environ.get("GATEWAY_URL", "http://127.0.0.1:8000") + "/v1"
client = OpenAI(base_url=url, api_key=os.environ["GATEWAY_KEY"])
messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the weather like?"}]
# mock-tools calls the first function it is given, without arguments; mock-1 only talks.
asked = client.chat.completions.create(model="mock-tools", messages=messages, tools=TOOLS).choices[0].message
for call in asked.tool_calls or []:
    print(f"wants {call.function.name}({call.function.arguments})")
    result = weather(**json.loads(call.function.arguments))
    messages += [asked, {"role": "tool", "tool_call_id": call.id, "content": result}]
messages.append({"role": "user", "content": "And in words?"})
print(client.chat.completions.create(model="mock-1", messages=messages).choices[0].message.content)
