"""The OpenAI SDK on chat, completions, embeddings, moderations and models. Runs under its releases 2 and 3 alike."""

import openai
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from tests.clients.python.running import caught, scenario, serve

Value = dict[str, object]


class City(BaseModel):
    name: str
    people: int


class Weather(BaseModel):
    """What the weather is like in a city."""

    city: str


def _ask(marker: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": marker}]


@scenario
def chat(marker: str) -> Value:
    with OpenAI() as client:
        answer = client.chat.completions.create(model="rig-chat", messages=_ask(marker))
        return {"answer": answer.to_dict(), "request_id": answer._request_id}


@scenario
async def chat_async(marker: str) -> Value:
    async with AsyncOpenAI() as client:
        answer = await client.chat.completions.create(model="rig-chat", messages=_ask(marker))
        return {"answer": answer.to_dict(), "request_id": answer._request_id}


@scenario
def chat_stream(marker: str, **options: object) -> list[Value]:
    with OpenAI() as client:
        stream = client.chat.completions.create(model="rig-chat", messages=_ask(marker), stream=True, **options)
        return [chunk.to_dict() for chunk in stream]


@scenario
async def chat_stream_async(marker: str, **options: object) -> list[Value]:
    async with AsyncOpenAI() as client:
        stream = await client.chat.completions.create(model="rig-chat", messages=_ask(marker), stream=True, **options)
        return [chunk.to_dict() async for chunk in stream]


@scenario
def chat_stream_helper(marker: str) -> Value:
    with OpenAI() as client, client.chat.completions.stream(model="rig-chat", messages=_ask(marker)) as stream:
        kinds = [event.type for event in stream]
        return {"kinds": kinds, "final": stream.get_final_completion().to_dict()}


@scenario
async def chat_stream_helper_async(marker: str) -> Value:
    async with (
        AsyncOpenAI() as client,
        client.chat.completions.stream(model="rig-chat", messages=_ask(marker)) as stream,
    ):
        kinds = [event.type async for event in stream]
        return {"kinds": kinds, "final": (await stream.get_final_completion()).to_dict()}


@scenario
def parse(marker: str) -> Value:
    with OpenAI() as client:
        answer = client.chat.completions.parse(model="rig-chat", messages=_ask(marker), response_format=City)
        parsed = answer.choices[0].message.parsed
        assert isinstance(parsed, City)
        return parsed.model_dump()


@scenario
def parse_stream(marker: str) -> Value:
    with (
        OpenAI() as client,
        client.chat.completions.stream(model="rig-chat", messages=_ask(marker), response_format=City) as stream,
    ):
        parsed = stream.get_final_completion().choices[0].message.parsed
        assert isinstance(parsed, City)
        return parsed.model_dump()


@scenario
def tools(marker: str) -> Value:
    """A whole round: the call, its result, the answer."""
    tool = openai.pydantic_function_tool(Weather, name="weather")
    messages: list[object] = [*_ask(marker)]
    with OpenAI() as client:
        first = client.chat.completions.parse(
            model="rig-chat", messages=messages, tools=[tool], tool_choice="required", parallel_tool_calls=False
        )
        call = first.choices[0].message.tool_calls[0]
        messages += [first.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
        last = client.chat.completions.create(model="rig-chat", messages=messages, tools=[tool])
        return {"arguments": call.function.parsed_arguments.model_dump(), "answer": last.choices[0].message.content}


@scenario
def tools_stream(marker: str) -> Value:
    tool = openai.pydantic_function_tool(Weather, name="weather")
    with (
        OpenAI() as client,
        client.chat.completions.stream(model="rig-chat", messages=_ask(marker), tools=[tool]) as stream,
    ):
        kinds = sorted({event.type for event in stream})
        call = stream.get_final_completion().choices[0].message.tool_calls[0]
        return {"kinds": kinds, "id": call.id, "arguments": call.function.parsed_arguments.model_dump()}


@scenario
def several_choices(marker: str) -> list[Value]:
    with OpenAI() as client:
        answer = client.chat.completions.create(model="rig-chat", messages=_ask(marker), n=2)
        return [choice.to_dict() for choice in answer.choices]


@scenario
def several_choices_stream(marker: str) -> list[str]:
    with OpenAI() as client, client.chat.completions.stream(model="rig-chat", messages=_ask(marker), n=2) as stream:
        return [choice.message.content or "" for choice in stream.get_final_completion().choices]


@scenario
def unknown_fields(marker: str) -> Value:
    """What a user's provider may know and the gateway need not."""
    body = {"vendor_switch": {"deep": [1, 2.5, 2**53 + 1]}, "top_k": 7}
    with OpenAI(default_query={"trace": "on"}, organization="org-a", project="proj-b") as client:
        answer = client.chat.completions.create(model="rig-chat", messages=_ask(marker), extra_body=body)
        return answer.to_dict()


@scenario
def completion(marker: str) -> Value:
    with OpenAI() as client:
        return client.completions.create(model="rig-completions", prompt=marker, max_tokens=5).to_dict()


@scenario
def completion_stream(marker: str) -> list[Value]:
    with OpenAI() as client:
        stream = client.completions.create(model="rig-completions", prompt=marker, max_tokens=5, stream=True)
        return [chunk.to_dict() for chunk in stream]


@scenario
def embeddings(marker: str, input: object, **options: object) -> Value:
    """`user` carries the marker, as tokens cannot."""
    with OpenAI() as client:
        answer = client.embeddings.create(model="rig-embed", input=input, user=marker, **options)
        return {"vectors": [item.embedding for item in answer.data], "usage": answer.usage.to_dict()}


@scenario
async def embeddings_async(marker: str, input: object) -> Value:
    async with AsyncOpenAI() as client:
        answer = await client.embeddings.create(model="rig-embed", input=input, user=marker)
        return {"vectors": [item.embedding for item in answer.data], "usage": answer.usage.to_dict()}


@scenario
def moderation(marker: str) -> Value:
    with OpenAI() as client:
        return client.moderations.create(model="rig-moderation", input=[marker, "second"]).to_dict()


@scenario
def models(marker: str) -> Value:
    with OpenAI() as client:
        listed = {model.id: model.object for model in client.models.list()}
        found = client.models.retrieve("rig/with-slash")
        return {"listed": listed, "found": found.id, "owner": found.owned_by}


@scenario
async def models_async(marker: str) -> Value:
    async with AsyncOpenAI() as client:
        try:
            await client.models.retrieve("gpt-nowhere")
        except openai.APIError as error:
            return {"listed": [model.id async for model in client.models.list()], "error": caught(error)}
    raise AssertionError("a model that nobody has was found")


@scenario
def raw_response(marker: str) -> Value:
    with OpenAI() as client:
        raw = client.chat.completions.with_raw_response.create(model="rig-chat", messages=_ask(marker))
        return {
            "status": raw.status_code,
            "request_id": raw.request_id,
            "headers": dict(raw.headers),
            "retries": raw.retries_taken,
            "content": raw.parse().choices[0].message.content,
        }


@scenario
def raw_lines(marker: str) -> Value:
    with (
        OpenAI() as client,
        client.chat.completions.with_streaming_response.create(
            model="rig-chat", messages=_ask(marker), stream=True
        ) as raw,
    ):
        return {"request_id": raw.request_id, "type": raw.headers["content-type"], "lines": list(raw.iter_lines())}


if __name__ == "__main__":
    serve()
