"""`/v1/conversations`: made, read, changed and deleted by their creator. Always the gateway's own, as a conversation names
no model; calls of `/v1/responses` continue them and add to them."""

from collections.abc import Mapping
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.calls import Call
from gateway.chat import ChatRequest
from gateway.endpoints import json_response, read_bounded
from gateway.endpoints.responses import listing
from gateway.errors import NotFound, RequestError
from gateway.request_fields import parse_body, read_object, too_deep, wrong
from gateway.responses.chat_body import input_items
from gateway.responses.conversations import ITEMS_AT_ONCE_MAX, Conversations
from gateway.responses.ids import is_id, new_id
from gateway.responses.measuring import measure_items
from policies.types import Account

__all__ = ["routes"]

_PAIRS_MAX = 16
_NAME_CHARS_MAX = 64
_VALUE_CHARS_MAX = 512


async def create_conversation(request: Request) -> Response:
    body = await _read(request, {"items", "metadata"})
    items = _items(body, is_required=False)
    return json_response(await _conversations(request).create(_account(request), items, _metadata(body)))


async def retrieve_conversation(request: Request) -> Response:
    return json_response(await _conversations(request).get(_account(request), _id(request)))


async def update_conversation(request: Request) -> Response:
    """`metadata` as a whole; absent it becomes empty, as everything of it that is not said."""
    body = await _read(request, {"metadata"})
    return json_response(await _conversations(request).set_metadata(_account(request), _id(request), _metadata(body)))


async def delete_conversation(request: Request) -> Response:
    conversation_id = _id(request)
    await _conversations(request).delete(_account(request), conversation_id)
    return json_response({"id": conversation_id, "object": "conversation.deleted", "deleted": True})


async def create_items(request: Request) -> Response:
    body = await _read(request, {"items"})
    added = await _conversations(request).add(_account(request), _id(request), _items(body, is_required=True))
    return json_response(added.to_json())


async def list_items(request: Request) -> Response:
    after, limit, order = listing(request)
    page = await _conversations(request).items(
        _account(request), _id(request), after=after, limit=limit, is_descending=order == "desc"
    )
    return json_response(page.to_json())


async def retrieve_item(request: Request) -> Response:
    return json_response(await _conversations(request).item(_account(request), _id(request), _item_id(request)))


async def delete_item(request: Request) -> Response:
    return json_response(await _conversations(request).delete_item(_account(request), _id(request), _item_id(request)))


async def _read(request: Request, known: set[str]) -> dict[str, Any]:
    """The body, empty where there is none; one of the calls in flight while it is read. Raises `RequestError`."""
    state = request.app.state
    call = Call("conversations")
    state.calls.enter(call)
    try:
        raw = await read_bounded(request, state.settings.body_bytes_max)
    finally:
        state.calls.leave(call)
    body = parse_body(raw) if raw.strip() else {}
    if not known.issuperset(body):
        raise RequestError(
            f"A field of the body is not known here; these are: {', '.join(sorted(known))}.", code="unknown_parameter"
        )
    return body


def _items(body: Mapping[str, Any], *, is_required: bool) -> list[dict[str, Any]]:
    """In full form, each with an id. Raises `RequestError`."""
    given = body.get("items")
    if given is None and not is_required:
        return []
    if not isinstance(given, list) or len(given) > ITEMS_AT_ONCE_MAX or (is_required and not given):
        raise wrong("items", f"must be an array of at most {ITEMS_AT_ONCE_MAX} items")
    try:
        measure_items(ChatRequest({}, "", 0), given, "items")  # what is no item is told now, not when it is continued
    except orjson.JSONEncodeError:
        raise too_deep() from None
    items = input_items(given, new_id)
    for item in items:
        if item.get("type") == "item_reference":
            raise wrong("items", "must hold items, not references to them")
        if not is_id(item["id"]):
            raise wrong("items[].id", "must be 1 to 128 letters, digits, dashes or underscores")
    return items


def _metadata(body: Mapping[str, Any]) -> Mapping[str, str]:
    """OpenAI's bounds: 16 pairs, names of 64 characters, texts of 512. Raises `RequestError`."""
    metadata = read_object(body, "metadata")
    is_within = len(metadata) <= _PAIRS_MAX and all(
        len(name) <= _NAME_CHARS_MAX and isinstance(value, str) and len(value) <= _VALUE_CHARS_MAX
        for name, value in metadata.items()
    )
    if not is_within:
        raise wrong(
            "metadata",
            f"must be at most {_PAIRS_MAX} names of up to {_NAME_CHARS_MAX} characters with texts of up to {_VALUE_CHARS_MAX}",
        )
    return metadata


def _id(request: Request) -> str:
    found: str = request.path_params["conversation_id"]
    if not is_id(found):
        raise NotFound("There is no conversation with the id in the path.", code="conversation_not_found")
    return found


def _item_id(request: Request) -> str:
    found: str = request.path_params["item_id"]
    if not is_id(found):
        raise NotFound("There is no item with the id in the path.", code="item_not_found")
    return found


def _conversations(request: Request) -> Conversations:
    conversations: Conversations = request.app.state.response_store.conversations
    return conversations


def _account(request: Request) -> Account:
    account: Account = request.state.account
    return account


routes = [
    Route("/v1/conversations", create_conversation, methods=["POST"]),
    Route("/v1/conversations/{conversation_id}", retrieve_conversation, methods=["GET"]),
    Route("/v1/conversations/{conversation_id}", update_conversation, methods=["POST"]),
    Route("/v1/conversations/{conversation_id}", delete_conversation, methods=["DELETE"]),
    Route("/v1/conversations/{conversation_id}/items", create_items, methods=["POST"]),
    Route("/v1/conversations/{conversation_id}/items", list_items, methods=["GET"]),
    Route("/v1/conversations/{conversation_id}/items/{item_id}", retrieve_item, methods=["GET"]),
    Route("/v1/conversations/{conversation_id}/items/{item_id}", delete_item, methods=["DELETE"]),
]
