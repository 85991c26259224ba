"""instructor: typed answers by a forced tool or by JSON in the text, asked for again where they do not fit."""

import instructor
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel, Field

from tests.clients.python.running import scenario, serve

Value = dict[str, object]


class City(BaseModel):
    """A city."""

    name: str
    people: int = Field(gt=0)


def _ask(marker: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": marker}]


@scenario
def create(marker: str, mode: str, **options: object) -> Value:
    with OpenAI() as openai:
        client = instructor.from_openai(openai, mode=instructor.Mode[mode])
        city, answer = client.chat.completions.create_with_completion(
            model="rig-chat", messages=_ask(marker), response_model=City, **options
        )
        return {"city": city.model_dump(), "usage": answer.usage.total_tokens}


@scenario
async def create_async(marker: str, mode: str, **options: object) -> Value:
    async with AsyncOpenAI() as openai:
        client = instructor.from_openai(openai, mode=instructor.Mode[mode])
        city = await client.chat.completions.create(
            model="rig-chat", messages=_ask(marker), response_model=City, **options
        )
        return {"city": city.model_dump()}


@scenario
def create_partial(marker: str) -> Value:
    """As it grows."""
    with OpenAI() as openai:
        client = instructor.from_openai(openai, mode=instructor.Mode.TOOLS)
        grown = [
            city.model_dump()
            for city in client.chat.completions.create_partial(
                model="rig-chat", messages=_ask(marker), response_model=City
            )
        ]
        return {"first": grown[0], "last": grown[-1]}


if __name__ == "__main__":
    serve()
