"""litellm as a client: its `openai/` models at the gateway's base URL, which users of it pass by name."""

import os

import litellm

from tests.clients.python.running import caught, scenario, serve

Value = dict[str, object]


def _at() -> dict[str, str]:
    at = os.environ  # noqa: TID251 - a client's process, not the gateway's
    return {"api_base": at["OPENAI_BASE_URL"], "api_key": at["OPENAI_API_KEY"]}


def _ask(marker: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": marker}]


@scenario
def whole(marker: str) -> Value:
    answer = litellm.completion(model="openai/rig-chat", messages=_ask(marker), **_at())
    return {"content": answer.choices[0].message.content, "total": answer.usage.total_tokens}


@scenario
async def whole_async(marker: str) -> Value:
    answer = await litellm.acompletion(model="openai/rig-chat", messages=_ask(marker), **_at())
    return {"content": answer.choices[0].message.content, "total": answer.usage.total_tokens}


@scenario
def stream(marker: str) -> Value:
    options = {"include_usage": True}
    chunks = list(
        litellm.completion(model="openai/rig-chat", messages=_ask(marker), stream=True, stream_options=options, **_at())
    )
    texts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    [total] = [chunk.usage.total_tokens for chunk in chunks if getattr(chunk, "usage", None)]
    return {"texts": texts, "total": total}


@scenario
async def stream_async(marker: str) -> Value:
    told = await litellm.acompletion(model="openai/rig-chat", messages=_ask(marker), stream=True, **_at())
    return {"texts": [chunk.choices[0].delta.content async for chunk in told if chunk.choices[0].delta.content]}


@scenario
def tools(marker: str) -> Value:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tool = {"type": "function", "function": {"name": "weather", "parameters": parameters}}
    answer = litellm.completion(
        model="openai/rig-chat",
        messages=_ask(marker),
        tools=[tool],
        tool_choice="required",
        _skip_mcp_handler=True,  # without its extra `mcp`, litellm cannot even look whether a tool is one of these
        **_at(),
    )
    [call] = answer.choices[0].message.tool_calls
    return {"id": call.id, "name": call.function.name, "arguments": call.function.arguments}


@scenario
def reasoning(marker: str) -> Value:
    """A field that providers beside OpenAI have, and that litellm hands on."""
    answer = litellm.completion(model="openai/rig-chat", messages=_ask(marker), **_at())
    return {"reasoning": answer.choices[0].message.reasoning_content}


@scenario
def embedding(marker: str) -> Value:
    answer = litellm.embedding(model="openai/rig-embed", input=["one", "two"], user=marker, **_at())
    return {"vectors": [item["embedding"] for item in answer.data], "total": answer.usage.total_tokens}


@scenario
def refused(marker: str, model: str = "openai/rig-chat") -> Value:
    try:
        litellm.completion(model=model, messages=_ask(marker), num_retries=0, max_retries=0, **_at())
    except Exception as error:
        return caught(error)
    raise AssertionError("nothing was raised")


if __name__ == "__main__":
    serve()
