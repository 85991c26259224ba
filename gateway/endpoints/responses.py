"""`/v1/responses`: calls, and what is kept of them.

`POST /v1/responses` is a call like any other. The rest reads and deletes what the creator's own calls left: the gateway
answers for responses it keeps itself, and asks their provider for the others, which nobody is billed for.
`POST /v1/responses/input_tokens` is an estimate: a token per four bytes of text, earlier responses by what they reported;
images, files and sounds count nothing, as their tokens are the model's to say.
"""

from collections.abc import Mapping
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive

from gateway.calls import Call
from gateway.endpoints import json_response, read_bounded
from gateway.endpoints.hot import ModelEndpoint, read_body
from gateway.endpoints.parameters import choice, refuse, whole_number
from gateway.errors import GatewayError, NotFound, RequestError
from gateway.ledger.statements import Row
from gateway.model_request import ModelRequest
from gateway.pipeline import Pipeline
from gateway.responder import Header
from gateway.responses.conversations import Page
from gateway.responses.ids import checked_id, is_id
from gateway.responses.provider_reads import ProviderReads
from gateway.responses.request import read_responses_request
from gateway.responses.state import ResponseStore
from policies.types import Account

__all__ = ["LIMIT_DEFAULT", "LIMIT_MAX", "Responses", "listing", "routes"]

LIMIT_DEFAULT = 20
LIMIT_MAX = 100
_TEXT_CHARS_MAX = 256


class Responses(ModelEndpoint):
    path = "/v1/responses"
    endpoint = "responses"

    def __init__(self, pipeline: Pipeline, body_bytes_max: int, store: ResponseStore) -> None:
        super().__init__(pipeline, body_bytes_max)
        self._store = store

    async def read(self, headers: list[Header], receive: Receive) -> ModelRequest:
        return read_responses_request(await read_body(headers, receive, self._body_bytes_max), self._store)


async def retrieve_response(request: Request) -> Response:
    if request.query_params.get("stream", "false") != "false":
        raise RequestError(
            "A finished response is not streamed again; leave `stream` out.",
            code="unsupported_parameter",
            param="stream",
        )
    row = await _row(request)
    if row["provider"]:
        return json_response(await _reads(request).ask(row["provider"], "GET", f"/responses/{row['id']}"))
    return Response(row["body"], media_type="application/json")


async def delete_response(request: Request) -> Response:
    """Where a provider keeps it, there first: what it still has must not be forgotten here."""
    row = await _row(request)
    if row["provider"]:
        try:
            await _reads(request).ask(row["provider"], "DELETE", f"/responses/{row['id']}")
        except GatewayError as error:
            if error.status != 404:
                raise
    await _store(request).delete(_account(request), row["id"])
    return json_response({"id": row["id"], "object": "response", "deleted": True})


async def cancel_response(request: Request) -> Response:
    """Only responses made in the background can be cancelled, and the gateway makes none."""
    await _row(request)
    raise RequestError("Cannot cancel a synchronous response.", code="response_not_cancellable")


async def list_input_items(request: Request) -> Response:
    after, limit, order = listing(request)
    row = await _row(request)
    if row["provider"]:
        path = f"/responses/{row['id']}/input_items?limit={limit}&order={order}"
        return json_response(
            await _reads(request).ask(row["provider"], "GET", f"{path}&after={after}" if after else path)
        )
    items = orjson.loads(row["input"])
    return json_response(_page(items, after, limit, is_descending=order == "desc").to_json())


async def count_input_tokens(request: Request) -> Response:
    """Takes nothing, and is one of the calls in flight all the same: reading bodies must stay bounded."""
    state = request.app.state
    call = Call("input_tokens")
    state.calls.enter(call)
    try:
        asked = read_responses_request(await read_bounded(request, state.settings.body_bytes_max), _store(request))
        if asked.keeps_state:
            await asked.load(_account(request))
        tokens = asked.chat.input_tokens_estimate
        return json_response({"object": "response.input_tokens", "input_tokens": tokens, "is_estimate": True})
    finally:
        state.calls.leave(call)


def listing(request: Request) -> tuple[str | None, int, str]:
    """`after`, `limit` and `order` of a list; `include` and what SDKs add are left alone. Raises `RequestError`."""
    query: Mapping[str, str] = request.query_params
    for name in ("after", "limit", "order"):
        if len(query.get(name, "")) > _TEXT_CHARS_MAX:
            refuse(name, f"takes at most {_TEXT_CHARS_MAX} characters")
    after = query.get("after") or None
    if after is not None:
        checked_id(after, "after")
    limit = whole_number(query, "limit", default=LIMIT_DEFAULT, least=1, most=LIMIT_MAX)
    return after, limit, choice(query, "order", {"asc", "desc"}, "desc") or "desc"


def _page(items: list[dict[str, Any]], after: str | None, limit: int, *, is_descending: bool) -> Page:
    if is_descending:
        items.reverse()
    if after is not None:
        behind = next((index + 1 for index, item in enumerate(items) if item.get("id") == after), None)
        if behind is None:
            refuse("after", "names no item of this list")
        items = items[behind:]
    return Page(items[:limit], len(items) > limit)


async def _row(request: Request) -> Row:
    """The creator's own response in the path. Raises `NotFound`."""
    response_id = request.path_params["response_id"]
    if not is_id(response_id):
        raise NotFound("There is no response with the id in the path.", code="response_not_found")
    return await _store(request).response(_account(request), response_id)


def _reads(request: Request) -> ProviderReads:
    state = request.app.state
    return ProviderReads(state.providers, state.provider_keys, state.settings)


def _store(request: Request) -> ResponseStore:
    store: ResponseStore = request.app.state.response_store
    return store


def _account(request: Request) -> Account:
    account: Account = request.state.account
    return account


routes = [
    Route("/v1/responses/input_tokens", count_input_tokens, methods=["POST"]),
    Route("/v1/responses/{response_id}", retrieve_response, methods=["GET"]),
    Route("/v1/responses/{response_id}", delete_response, methods=["DELETE"]),
    Route("/v1/responses/{response_id}/cancel", cancel_response, methods=["POST"]),
    Route("/v1/responses/{response_id}/input_items", list_input_items, methods=["GET"]),
]
