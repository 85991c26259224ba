"""openai-agents: its loop of tools, handoffs and typed output, over responses (its default) and over chat."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIConversationsSession,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
    function_tool,
)
from agents.models.interface import Model
from openai import AsyncOpenAI
from pydantic import BaseModel

from tests.clients.python.running import scenario, serve

Value = dict[str, object]
CONFIG = RunConfig(tracing_disabled=True)


class City(BaseModel):
    name: str
    people: int


@function_tool
def weather(city: str) -> str:
    """What the weather is like in a city."""
    return f"sunny in {city}"


@asynccontextmanager
async def _model(api: str, name: str) -> AsyncIterator[Model]:
    async with AsyncOpenAI() as client:
        yield (OpenAIChatCompletionsModel if api == "chat" else OpenAIResponsesModel)(name, client)


@scenario
async def run(marker: str, api: str, model: str) -> Value:
    async with _model(api, model) as asked:
        agent = Agent(name="Guide", instructions="Be brief.", model=asked)
        result = await Runner.run(agent, marker, run_config=CONFIG)
        usage = result.context_wrapper.usage
        return {
            "output": result.final_output,
            "usage": [usage.requests, usage.input_tokens, usage.output_tokens],
            "response_id": result.last_response_id,
        }


@scenario
async def run_streamed(marker: str, api: str, model: str) -> Value:
    async with _model(api, model) as asked:
        result = Runner.run_streamed(Agent(name="Guide", model=asked), marker, run_config=CONFIG)
        deltas = [
            event.data.delta
            async for event in result.stream_events()
            if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
        ]
        usage = result.context_wrapper.usage
        return {"output": result.final_output, "deltas": deltas, "usage": [usage.input_tokens, usage.output_tokens]}


@scenario
async def tools(marker: str, api: str, model: str) -> Value:
    async with _model(api, model) as asked:
        settings = ModelSettings(parallel_tool_calls=False)
        agent = Agent(name="Guide", model=asked, tools=[weather], model_settings=settings)
        result = await Runner.run(agent, marker, run_config=CONFIG)
        return {"output": result.final_output, "items": [item.type for item in result.new_items]}


@scenario
async def tools_streamed(marker: str, api: str, model: str) -> Value:
    async with _model(api, model) as asked:
        result = Runner.run_streamed(Agent(name="Guide", model=asked, tools=[weather]), marker, run_config=CONFIG)
        items = [event.item.type async for event in result.stream_events() if event.type == "run_item_stream_event"]
        return {"output": result.final_output, "items": items}


@scenario
async def tools_by_response_id(marker: str, model: str) -> Value:
    """The loop goes on by the id of the response before it: only what is new is sent."""
    async with _model("responses", model) as asked:
        agent = Agent(name="Guide", model=asked, tools=[weather])
        result = await Runner.run(agent, marker, run_config=CONFIG, auto_previous_response_id=True)
        return {"output": result.final_output}


@scenario
async def handoff(marker: str, api: str, model: str) -> Value:
    async with _model(api, model) as asked:
        expert = Agent(name="Expert", instructions="You know all.", model=asked)
        triage = Agent(name="Triage", model=asked, handoffs=[expert])
        result = await Runner.run(triage, marker, run_config=CONFIG)
        return {"output": result.final_output, "last": result.last_agent.name}


@scenario
async def typed(marker: str, api: str, model: str) -> Value:
    async with _model(api, model) as asked:
        result = await Runner.run(Agent(name="Guide", model=asked, output_type=City), marker, run_config=CONFIG)
        return result.final_output_as(City).model_dump()


@scenario
async def remembered(marker: str, model: str) -> Value:
    """Two runs in one conversation."""
    async with AsyncOpenAI() as client:
        agent = Agent(name="Guide", model=OpenAIResponsesModel(model, client))
        session = OpenAIConversationsSession(openai_client=client)
        outputs = [
            (await Runner.run(agent, f"{word} {marker}", session=session, run_config=CONFIG)).final_output
            for word in ("One.", "Two.")
        ]
        items = await session.get_items()
        await session.clear_session()
        return {"outputs": outputs, "roles": [item["role"] for item in items]}


if __name__ == "__main__":
    serve()
