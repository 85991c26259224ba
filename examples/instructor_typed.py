"""instructor: an answer as an object, out of the JSON in a model's text.

    pip install instructor
    GATEWAY_KEY=sk-gw-... python examples/instructor_typed.py

Prints:

    Ulm has 128928 people
"""

import os

import instructor
from openai import OpenAI
from pydantic import BaseModel, Field


class City(BaseModel):
    name: str
    people: int = Field(gt=0)


url = os.environ.get("GATEWAY_URL", "http://127.0.0.1:8000") + "/v1"
openai = OpenAI(base_url=url, api_key=os.environ["GATEWAY_KEY"])
# The mode JSON-in-text suits the mock, which repeats what it is told; others want Mode.TOOLS or Mode.JSON_SCHEMA.
client = instructor.from_openai(openai, mode=instructor.Mode.MD_JSON)
city = client.chat.completions.create(
    model="mock-1",
    response_model=City,
    messages=[{"role": "user", "content": '{"name": "Ulm", "people": 128928}'}],
)
print(city.name, "has", city.people, "people")
