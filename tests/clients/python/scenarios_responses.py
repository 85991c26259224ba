"""The OpenAI SDK on responses and conversations. `model` says whether a provider keeps them or the gateway does."""

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


@scenario
def create(marker: str, model: str, **options: object) -> Value:
    with OpenAI() as client:
        answer = client.responses.create(model=model, input=marker, **options)
        return {"answer": answer.to_dict(), "text": answer.output_text, "request_id": answer._request_id}


@scenario
async def create_async(marker: str, model: str) -> Value:
    async with AsyncOpenAI() as client:
        answer = await client.responses.create(model=model, input=marker)
        return {"answer": answer.to_dict(), "text": answer.output_text, "request_id": answer._request_id}


@scenario
def create_stream(marker: str, model: str) -> list[Value]:
    with OpenAI() as client:
        return [event.to_dict() for event in client.responses.create(model=model, input=marker, stream=True)]


@scenario
def broken_stream(marker: str, model: str) -> Value:
    """How far it came, and what the SDK made of its end."""
    kinds: list[str] = []
    with OpenAI() as client:
        try:
            stream = client.responses.create(model=model, input=marker, stream=True)
            kinds.extend(event.type for event in stream)
        except openai.APIError as error:
            return {"kinds": kinds, "error": caught(error)}
    return {"kinds": kinds, "error": None}


@scenario
def stream_helper(marker: str, model: str) -> Value:
    with OpenAI() as client, client.responses.stream(model=model, input=marker) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
        return {"kinds": kinds, "text": final.output_text, "status": final.status, "usage": final.usage.to_dict()}


@scenario
async def stream_helper_async(marker: str, model: str) -> Value:
    async with AsyncOpenAI() as client, client.responses.stream(model=model, input=marker) as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()
        return {"kinds": kinds, "text": final.output_text, "status": final.status, "usage": final.usage.to_dict()}


@scenario
def parse(marker: str, model: str) -> Value:
    with OpenAI() as client:
        return client.responses.parse(model=model, input=marker, text_format=City).output_parsed.model_dump()


@scenario
def parse_stream(marker: str, model: str) -> Value:
    with OpenAI() as client, client.responses.stream(model=model, input=marker, text_format=City) as stream:
        return stream.get_final_response().output_parsed.model_dump()


@scenario
def tools(marker: str, model: str) -> Value:
    """A round that goes on by the id of the response before it."""
    tool = openai.pydantic_function_tool(Weather, name="weather")["function"]
    tool = {"type": "function", **tool}
    with OpenAI() as client:
        first = client.responses.create(model=model, input=marker, tools=[tool])
        [call] = [item for item in first.output if item.type == "function_call"]
        result = {"type": "function_call_output", "call_id": call.call_id, "output": f"sunny {marker}"}
        last = client.responses.create(model=model, input=[result], tools=[tool], previous_response_id=first.id)
        return {
            "arguments": call.arguments,
            "call_id": call.call_id,
            "text": last.output_text,
            "previous": last.previous_response_id == first.id,
        }


@scenario
def tools_stream(marker: str, model: str) -> Value:
    tool = {"type": "function", **openai.pydantic_function_tool(Weather, name="weather")["function"]}
    with OpenAI() as client, client.responses.stream(model=model, input=marker, tools=[tool]) as stream:
        kinds = [event.type for event in stream]
        [call] = [item for item in stream.get_final_response().output if item.type == "function_call"]
        return {"kinds": kinds, "arguments": call.arguments, "call_id": call.call_id}


@scenario
def life(marker: str, model: str) -> Value:
    """Made, found again, its input listed, deleted, gone."""
    with OpenAI() as client:
        made = client.responses.create(model=model, input=marker, instructions="Be brief.", metadata={"trip": "1"})
        found = client.responses.retrieve(made.id)
        items = [item.to_dict() for item in client.responses.input_items.list(made.id)]
        client.responses.delete(made.id)
        try:
            client.responses.retrieve(made.id)
        except openai.APIError as error:
            gone = caught(error)
        return {"made": made.to_dict(), "found": found.to_dict(), "items": items, "gone": gone}


@scenario
def unkept(marker: str, model: str) -> Value:
    with OpenAI() as client:
        made = client.responses.create(model=model, input=marker, store=False)
        try:
            client.responses.retrieve(made.id)
        except openai.APIError as error:
            return {"store": made.store, "gone": caught(error)}
    raise AssertionError("what was not to be kept was found")


@scenario
def find(marker: str, response_id: str) -> Value:
    with OpenAI() as client:
        try:
            client.responses.create(model="rig-chat", input="hi", previous_response_id=response_id)
        except openai.APIError as error:
            continued = caught(error)
        try:
            client.responses.retrieve(response_id)
        except openai.APIError as error:
            return {"continued": continued, "found": caught(error)}
    raise AssertionError("someone else's response was found")


@scenario
def cancel(marker: str, model: str) -> Value:
    with OpenAI() as client:
        made = client.responses.create(model=model, input=marker)
        try:
            client.responses.cancel(made.id)
        except openai.APIError as error:
            return caught(error)
    raise AssertionError("a finished response was cancelled")


@scenario
def count(marker: str) -> Value:
    with OpenAI() as client:
        return client.responses.input_tokens.count(model="rig-chat", input="x" * 400).to_dict()


@scenario
def conversation(marker: str, model: str) -> Value:
    """Two turns; what was said is in the conversation."""
    with OpenAI() as client:
        made = client.conversations.create(
            metadata={"trip": "1"}, items=[{"type": "message", "role": "user", "content": "Before."}]
        )
        first = client.responses.create(model=model, input=f"One. {marker}", conversation=made.id)
        second = client.responses.create(model=model, input=f"Two. {marker}", conversation={"id": made.id})
        items = list(client.conversations.items.list(made.id, order="asc"))
        return {
            "id": made.id,
            "in": [answer.conversation and answer.conversation.id for answer in (first, second)],
            "texts": [first.output_text, second.output_text],
            "items": [[item.role, item.content[0].text] for item in items],
            "found": client.conversations.retrieve(made.id).metadata,
        }


@scenario
def conversation_items(marker: str) -> Value:
    with OpenAI() as client:
        made = client.conversations.create()
        added = client.conversations.items.create(
            made.id,
            items=[{"type": "message", "role": role, "content": role} for role in ("user", "developer")],
        )
        first, second = added.data
        found = client.conversations.items.retrieve(first.id, conversation_id=made.id)
        client.conversations.items.delete(first.id, conversation_id=made.id)
        pages = client.conversations.items.list(made.id, limit=1)
        left = [item.id for item in pages]
        updated = client.conversations.update(made.id, metadata={"topic": "x"})
        deleted = client.conversations.delete(made.id)
        try:
            client.conversations.retrieve(made.id)
        except openai.APIError as error:
            gone = caught(error)
        return {
            "found": found.content[0].text,
            "left": left == [second.id],
            "metadata": updated.metadata,
            "deleted": deleted.deleted,
            "gone": gone,
        }


@scenario
async def conversation_async(marker: str) -> Value:
    """Items over several pages."""
    items = [{"type": "message", "role": "user", "content": f"{number}"} for number in range(7)]
    async with AsyncOpenAI() as client:
        made = await client.conversations.create(items=items)
        listed = client.conversations.items.list(made.id, limit=3, order="asc")
        return {"texts": [item.content[0].text async for item in listed]}


if __name__ == "__main__":
    serve()
