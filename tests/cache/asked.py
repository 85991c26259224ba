"""What the tests of kept answers share: a request of each endpoint, models and accounts that could have sent them."""

from dataclasses import replace
from typing import Any

import orjson

from gateway.catalog import Model, Price, ProviderRow
from gateway.chat import ChatRequest, read_chat_request
from gateway.completions import CompletionRequest, read_completion_request
from gateway.embeddings import EmbeddingsRequest, read_embeddings_request
from gateway.images import ImageRequest, read_image_request
from gateway.messages.request import MessagesRequest, read_messages_request
from gateway.responses.request import ResponsesRequest, read_responses_request
from gateway.responses.state import ResponseStore
from gateway.secrets import Secrets
from policies.types import Account, Plan

DIGEST = Secrets(b"the root of a test's secrets, 32+").hasher("cache-keys")
ROW = ProviderRow("p", "openai")
PRICE = Price("1", input=1_000_000, output=2_000_000)
DRAWING = Price("1", images={"*/*": 10**10})
EVERYTHING = frozenset({"chat", "completions", "embeddings", "messages", "responses"})
BIG = Model("big", "p", "big-upstream", EVERYTHING, PRICE, output_tokens_max=4_096)
SMALL = replace(BIG, name="small", upstream_model="small-upstream")
PAINTER = Model("painter", "p", "painter-upstream", frozenset({"images"}), DRAWING)
ACME = Account("acme", "acme", "k1", Plan("open"))
NO_STATE: ResponseStore = None  # type: ignore[assignment]  # of requests that load and keep nothing
QUESTION = [{"role": "user", "content": "What is a fox?"}]


def account(creator: str = "acme", **plan: Any) -> Account:
    return Account(creator, creator, f"key-of-{creator}", Plan("open", **plan))


def chat(**fields: Any) -> ChatRequest:
    return read_chat_request(_body(fields, model="big", messages=QUESTION))


def completion(**fields: Any) -> CompletionRequest:
    return read_completion_request(_body(fields, model="big", prompt="Once"))


def embeddings(**fields: Any) -> EmbeddingsRequest:
    return read_embeddings_request(_body(fields, model="big", input="fox"))


def image(**fields: Any) -> ImageRequest:
    return read_image_request(_body(fields, model="painter", prompt="A red fox"))


def messages(**fields: Any) -> MessagesRequest:
    return read_messages_request(_body(fields, model="big", messages=QUESTION, max_tokens=100))


def responses(**fields: Any) -> ResponsesRequest:
    return read_responses_request(_body(fields, model="big", input="What is a fox?", store=False), NO_STATE)


def _body(fields: dict[str, Any], **usual: Any) -> bytes:
    return orjson.dumps({**usual, **fields})
