"""pydantic-ai: agents over chat, over responses and over Anthropic's messages."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anthropic import AsyncAnthropic
from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models import Model
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

from tests.clients.python.running import scenario, serve

Value = dict[str, object]


class City(BaseModel):
    """A city."""

    name: str
    people: int


def weather(city: str) -> str:
    """What the weather is like in a city."""
    return f"sunny in {city}"


@asynccontextmanager
async def _model(api: str, name: str) -> AsyncIterator[Model]:
    if api == "messages":
        async with AsyncAnthropic() as anthropic:
            yield AnthropicModel(name, provider=AnthropicProvider(anthropic_client=anthropic))
        return
    async with AsyncOpenAI() as openai:
        kind = OpenAIChatModel if api == "chat" else OpenAIResponsesModel
        yield kind(name, provider=OpenAIProvider(openai_client=openai))


@scenario
async def run(marker: str, api: str, model: str) -> Value:
    async with _model(api, model) as asked:
        result = await Agent(asked, instructions="Be brief.").run(marker)
        usage = result.usage() if callable(result.usage) else result.usage
        return {"output": result.output, "usage": [usage.requests, usage.input_tokens, usage.output_tokens]}


@scenario
async def run_stream(marker: str, api: str, model: str) -> Value:
    async with _model(api, model) as asked, Agent(asked).run_stream(marker) as result:
        pieces = [piece async for piece in result.stream_text(delta=True, debounce_by=None)]
        usage = result.usage() if callable(result.usage) else result.usage
        return {"pieces": pieces, "usage": [usage.input_tokens, usage.output_tokens]}


@scenario
async def tools(marker: str, api: str, model: str) -> Value:
    async with _model(api, model) as asked:
        result = await Agent(asked, tools=[weather]).run(marker)
        return {"output": result.output}


@scenario
async def typed_by_tool(marker: str, api: str, model: str) -> Value:
    async with _model(api, model) as asked:
        return (await Agent(asked, output_type=City).run(marker)).output.model_dump()


@scenario
async def typed_by_schema(marker: str, api: str, model: str) -> Value:
    async with _model(api, model) as asked:
        return (await Agent(asked, output_type=NativeOutput(City)).run(marker)).output.model_dump()


if __name__ == "__main__":
    serve()
