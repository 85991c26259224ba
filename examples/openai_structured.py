"""OpenAI's SDK for Python: an answer that matches a schema. Of models that cannot promise it the gateway checks the answer.

    pip install openai
    GATEWAY_KEY=sk-gw-... python examples/openai_structured.py

Prints:

    Ulm has 128928 people
"""

import os

from openai import OpenAI
from pydantic import BaseModel


class City(BaseModel):
    name: str
    people: int


SCHEMA = {**City.model_json_schema(), "additionalProperties": False}

url = os.environ.get("GATEWAY_URL", "http://127.0.0.1:8000") + "/v1"
client = OpenAI(base_url=url, api_key=os.environ["GATEWAY_KEY"])
answer = client.chat.completions.create(
    model="mock-1",
    messages=[{"role": "user", "content": '{"name": "Ulm", "people": 128928}'}],
    response_format={"type": "json_schema", "json_schema": {"name": "city", "strict": True, "schema": SCHEMA}},
)
# The mock puts "You said: " before what it was told, so it is told JSON. A model sends JSON alone, and
# `client.chat.completions.parse(response_format=City, ...)` does both steps.
city = City.model_validate_json((answer.choices[0].message.content or "").removeprefix("You said: "))
print(city.name, "has", city.people, "people")
