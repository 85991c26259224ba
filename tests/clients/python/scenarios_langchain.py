"""langchain-openai: chat, streams, tools, structured output and embeddings."""

import tiktoken
import tiktoken.registry
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

from tests.clients.python.running import scenario, serve

Value = dict[str, object]

# OpenAIEmbeddings makes tokens of texts itself, by a vocabulary that it would fetch. A token a byte does as well here.
tiktoken.registry.ENCODINGS["cl100k_base"] = tiktoken.Encoding(
    "cl100k_base",
    pat_str=r"[\s\S]",
    mergeable_ranks={bytes([byte]): byte for byte in range(256)},
    special_tokens={},
)


class City(BaseModel):
    """A city."""

    name: str
    people: int


@tool
def weather(city: str) -> str:
    """What the weather is like in a city."""
    return f"sunny in {city}"


@scenario
def invoke(marker: str) -> Value:
    answer = ChatOpenAI(model="rig-chat").invoke(marker)
    return {"content": answer.content, "usage": answer.usage_metadata, "model": answer.response_metadata["model_name"]}


@scenario
async def invoke_async(marker: str) -> Value:
    answer = await ChatOpenAI(model="rig-chat").ainvoke(marker)
    return {"content": answer.content, "usage": answer.usage_metadata, "model": answer.response_metadata["model_name"]}


@scenario
def stream(marker: str, **options: object) -> Value:
    chunks = list(ChatOpenAI(model="rig-chat", **options).stream(marker))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    return {"texts": [chunk.content for chunk in chunks if chunk.content], "usage": whole.usage_metadata}


@scenario
async def stream_async(marker: str, **options: object) -> Value:
    chunks = [chunk async for chunk in ChatOpenAI(model="rig-chat", **options).astream(marker)]
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    return {"texts": [chunk.content for chunk in chunks if chunk.content], "usage": whole.usage_metadata}


@scenario
def tools(marker: str) -> Value:
    model = ChatOpenAI(model="rig-chat").bind_tools([weather], strict=True)
    messages: list[object] = [HumanMessage(marker)]
    asked = model.invoke(messages)
    messages += [asked, *(weather.invoke(call) for call in asked.tool_calls)]
    assert isinstance(messages[-1], ToolMessage)
    return {"calls": asked.tool_calls, "answer": model.invoke(messages).content}


@scenario
def tools_stream(marker: str) -> Value:
    chunks = list(ChatOpenAI(model="rig-chat").bind_tools([weather]).stream(marker))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    return {"calls": whole.tool_calls}


@scenario
def structured(marker: str, method: str) -> Value:
    model = ChatOpenAI(model="rig-chat").with_structured_output(City, method=method)
    return model.invoke(marker).model_dump()


@scenario
def by_responses(marker: str) -> Value:
    answer = ChatOpenAI(model="rig-chat", use_responses_api=True).invoke(marker)
    return {"text": answer.text, "usage": answer.usage_metadata}


@scenario
def embed(marker: str) -> list[list[float]]:
    return OpenAIEmbeddings(model="rig-embed", model_kwargs={"user": marker}).embed_documents(["abc", "d"])


@scenario
async def embed_async(marker: str) -> list[float]:
    return await OpenAIEmbeddings(model="rig-embed", model_kwargs={"user": marker}).aembed_query("abc")


@scenario
def embed_texts(marker: str) -> list[float]:
    embeddings = OpenAIEmbeddings(
        model="rig-embed", model_kwargs={"user": marker}, check_embedding_ctx_length=False, dimensions=3
    )
    return embeddings.embed_query("abc")


if __name__ == "__main__":
    serve()
