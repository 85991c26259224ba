"""Anthropic's SDK on messages: at a provider that speaks it, and in front of a model that only chats."""

from collections.abc import Callable
from typing import Any

import anthropic
from anthropic import Anthropic, AsyncAnthropic

from tests.clients.python.running import caught, scenario, serve

Value = dict[str, object]
WEATHER = {
    "name": "weather",
    "description": "What the weather is like in a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def _ask(marker: str) -> list[Any]:
    return [{"role": "user", "content": marker}]


@scenario
def create(marker: str, model: str, **options: Any) -> Value:
    with Anthropic() as client:
        answer = client.messages.create(model=model, max_tokens=800, messages=_ask(marker), **options)
        return {"answer": answer.to_dict(), "request_id": answer._request_id}


@scenario
async def create_async(marker: str, model: str, **options: Any) -> Value:
    async with AsyncAnthropic() as client:
        answer = await client.messages.create(model=model, max_tokens=800, messages=_ask(marker), **options)
        return {"answer": answer.to_dict(), "request_id": answer._request_id}


@scenario
def create_stream(marker: str, model: str) -> list[Value]:
    with Anthropic() as client:
        stream = client.messages.create(model=model, max_tokens=800, messages=_ask(marker), stream=True)
        return [event.to_dict() for event in stream]


@scenario
def stream(marker: str, model: str) -> Value:
    with (
        Anthropic() as client,
        client.messages.stream(model=model, max_tokens=800, messages=_ask(marker)) as told,
    ):
        texts = list(told.text_stream)
        return {"texts": texts, "final": told.get_final_message().to_dict()}


@scenario
async def stream_async(marker: str, model: str) -> Value:
    async with (
        AsyncAnthropic() as client,
        client.messages.stream(model=model, max_tokens=800, messages=_ask(marker)) as told,
    ):
        texts = [text async for text in told.text_stream]
        return {"texts": texts, "final": (await told.get_final_message()).to_dict()}


@scenario
def tools(marker: str, model: str) -> Value:
    messages = _ask(marker)
    with Anthropic() as client:
        first = client.messages.create(
            model=model, max_tokens=800, messages=messages, tools=[WEATHER], tool_choice={"type": "any"}
        )
        [call] = [block for block in first.content if block.type == "tool_use"]
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
        messages += [{"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
        last = client.messages.create(model=model, max_tokens=800, messages=messages, tools=[WEATHER])
        return {"input": call.input, "stop": first.stop_reason, "text": last.content[0].text}


@scenario
def tools_stream(marker: str, model: str) -> Value:
    with (
        Anthropic() as client,
        client.messages.stream(model=model, max_tokens=800, messages=_ask(marker), tools=[WEATHER]) as told,
    ):
        final = told.get_final_message()
        [call] = [block for block in final.content if block.type == "tool_use"]
        return {"id": call.id, "input": call.input, "stop": final.stop_reason}


@scenario
def count(marker: str, model: str) -> int:
    with Anthropic() as client:
        return client.messages.count_tokens(model=model, messages=[{"role": "user", "content": "x" * 400}]).input_tokens


@scenario
def refused(marker: str, model: str, **fields: Any) -> Value:
    return _raised(
        lambda client: client.messages.create(**{"model": model, "max_tokens": 800, "messages": _ask(marker), **fields})
    )


@scenario
def refused_in_stream(marker: str, model: str) -> Value:
    return _raised(
        lambda client: list(client.messages.create(model=model, max_tokens=800, messages=_ask(marker), stream=True))
    )


def _raised(call: Callable[[Anthropic], object]) -> Value:
    with Anthropic() as client:
        try:
            call(client)
        except anthropic.APIError as error:
            return {**caught(error), "body": error.body}
    raise AssertionError("nothing was raised")


if __name__ == "__main__":
    serve()
