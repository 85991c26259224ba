"""A gateway whose callers use the Responses API: calls through the pipeline, everything else through the router."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson
from starlette.applications import Starlette

from gateway.endpoints import EXCEPTION_HANDLERS, conversations, responses
from gateway.endpoints.guard import CreatorOnly
from gateway.model_request import ModelRequest
from gateway.providers.base import Provider
from gateway.providers.openai_compatible import OpenAICompatible
from gateway.responses.request import read_responses_request
from gateway.responses.state import ResponseStore
from tests.clocked_gateway import Answer, Clock, ClockedGateway, opened, utc

NOON = utc(2025, 6, 11, 12)


@dataclass
class ResponsesWorld:
    gateway: ClockedGateway
    store: ResponseStore
    client: httpx.AsyncClient

    async def respond(self, key: str, model: str = "talk", *, input: Any = "hi", **fields: Any) -> Answer:
        """`POST /v1/responses`; an `input` of None is left out."""
        body = {"model": model, **({} if input is None else {"input": input}), **fields}
        raw, answer = orjson.dumps(body), Answer()

        async def read() -> ModelRequest:
            return read_responses_request(raw, self.store)

        headers = [(b"host", b"gateway"), (b"authorization", b"Bearer " + key.encode())]
        await self.gateway.services.pipeline.serve("responses", read, headers, answer)
        return answer

    async def ask(self, key: str, method: str, path: str, **how: Any) -> httpx.Response:
        """Anything else below /v1."""
        return await self.client.request(method, path, headers={"authorization": f"Bearer {key}"}, **how)

    async def sent(self, key: str, method: str, path: str, **how: Any) -> Any:
        """The body of what must succeed."""
        answer = await self.ask(key, method, path, **how)
        assert answer.status_code == 200, answer.text
        return answer.json()


@asynccontextmanager
async def responses_world(folder: Path, models: str = "", **settings: Any) -> AsyncIterator[ResponsesWorld]:
    async with opened(folder, Clock(NOON), models=models, **settings) as gateway:
        services = gateway.services
        store = ResponseStore(services.database)
        providers: dict[str, Provider] = {
            row.name: OpenAICompatible(row, "", services.settings)
            for row in services.catalog.providers.values()
            if row.dialect == "openai"
        }
        app = Starlette(routes=[*responses.routes, *conversations.routes], exception_handlers=EXCEPTION_HANDLERS)
        app.add_middleware(CreatorOnly)
        known = {**services.state(), "response_store": store, "providers": providers, "provider_keys": {}}
        for name, value in known.items():
            setattr(app.state, name, value)
        transport = httpx.ASGITransport(app)
        try:
            async with httpx.AsyncClient(transport=transport, base_url="http://gateway/v1") as client:
                yield ResponsesWorld(gateway, store, client)
        finally:
            for provider in providers.values():
                await provider.close()


def events_of(body: bytes) -> list[dict[str, Any]]:
    """The data of every event of a stream."""
    return [
        orjson.loads(line[6:]) for block in body.split(b"\n\n") for line in block.split(b"\n") if line[:6] == b"data: "
    ]


def text_of(response: dict[str, Any]) -> str:
    return "".join(part["text"] for item in response["output"] if item["type"] == "message" for part in item["content"])
