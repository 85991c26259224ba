"""What the tests of the Messages bridge share: a model of each kind, chat answers as servers write them, and Anthropic's
own client to read what comes out."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import anthropic
import httpx2

from gateway.catalog import Model, Price, ProviderRow
from gateway.messages.request import MessagesRequest, read_messages_request
from gateway.relay import Guard

PRICE = Price("1", input=3_000_000, cached_input=300_000, cache_write=3_750_000, output=15_000_000)
"""Three dollars a million tokens, in pico-dollars a token; cache reads a tenth, cache writes a quarter more."""
_LIMITS: Mapping[str, Any] = {"context_tokens_max": 200_000, "output_tokens_max": 8_192}
NATIVE = Model("claude", "p", "claude-upstream", frozenset({"messages", "chat"}), PRICE, **_LIMITS)
BRIDGED = Model("gpt", "p", "gpt-upstream", frozenset({"chat"}), PRICE, **_LIMITS)
ROW = ProviderRow("p", "openai")
GUARD = Guard(2**20, lambda data: data.replace(b"hush", b"[redacted]"), b"hush")
QUESTION = [{"role": "user", "content": "Hi"}]


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "max_tokens": 100, "messages": QUESTION, **fields}).encode()


def request(**fields: Any) -> MessagesRequest:
    return read_messages_request(body(**fields))


def sent(model: Model, **fields: Any) -> dict[str, Any]:
    """The body that goes upstream."""
    told: dict[str, Any] = json.loads(request(**fields).outgoing(model, ROW).body)
    return told


def chunk(delta: Mapping[str, Any] | None = None, finish: str | None = None, **fields: Any) -> bytes:
    """One chunk of a chat stream."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    head = {"id": "chatcmpl-7", "object": "chat.completion.chunk", "model": "gpt-upstream"}
    return b"data: " + json.dumps({**head, "choices": choices, **fields}).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def call_part(index: int, *, id: str | None = None, name: str | None = None, arguments: str = "") -> dict[str, Any]:
    function = {"arguments": arguments, **({"name": name} if name else {})}
    return {"tool_calls": [{"index": index, "function": function, **({"id": id, "type": "function"} if id else {})}]}


def events_of(stream: bytes) -> list[dict[str, Any]]:
    """The data of each event; every event must name its type twice, as Anthropic's do."""
    found = []
    for block in stream.decode().split("\n\n"):
        if block:
            name, _, data = block.partition("\n")
            parsed = json.loads(data.removeprefix("data: "))
            assert name == f"event: {parsed['type']}"
            found.append(parsed)
    return found


@contextmanager
def client(answer: bytes, content_type: str = "application/json", status: int = 200) -> Iterator[anthropic.Anthropic]:
    """Anthropic's client, which gets `answer` whatever it asks."""
    response = httpx2.Response(status, headers={"content-type": content_type}, content=answer)
    transport = httpx2.MockTransport(lambda _: response)
    with anthropic.Anthropic(
        api_key="k", base_url="http://gateway.test", max_retries=0, http_client=httpx2.Client(transport=transport)
    ) as made:
        yield made


def read_by_sdk(answer: bytes) -> Any:
    """The whole answer as Anthropic's client understands it, checked against its types."""
    with client(answer) as made:
        message = made.messages.create(model="m", max_tokens=1, messages=[{"role": "user", "content": "Hi"}])
    return type(message).model_validate(message.to_dict())


def accumulated_by_sdk(stream: bytes) -> Any:
    """The stream as the accumulator of Anthropic's client sums it up."""
    with (
        client(stream, "text/event-stream") as made,
        made.messages.stream(model="m", max_tokens=1, messages=[{"role": "user", "content": "Hi"}]) as told,
    ):
        return told.get_final_message()
