"""The whole OpenAPI 3.1 document, made once out of the operations."""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from gateway.openapi.books_paths import books_operations
from gateway.openapi.creator_paths import creator_operations
from gateway.openapi.errors import Code
from gateway.openapi.model_paths import model_operations
from gateway.openapi.open_paths import open_operations
from gateway.openapi.people_paths import people_operations
from gateway.openapi.running_paths import running_operations
from gateway.openapi.schemas import component_schemas
from gateway.openapi.shapes import Operation, Schema, ref

__all__ = ["openapi_document", "operations"]

_TAGS: Mapping[str, str] = {
    "Calls": "What models answer. Fields that are not listed travel on to the provider.",
    "Models": "What there is to call, and what it would cost.",
    "Me": "What a creator sees of itself, with the key it has.",
    "Images": "Images that were made, and are kept.",
    "Responses": "What is kept of responses.",
    "Conversations": "Kept by the gateway, for any model.",
    "Creators": "Whom the gateway serves and charges, and under which limits.",
    "Virtual keys": "What callers bring.",
    "Credits and corrections": "What is booked without a call.",
    "Ledger": "Every entry, and what explains it.",
    "Costs and charges": "Sums of the ledger.",
    "Models and providers": "The catalog, and who serves it.",
    "Running it": "How the gateway is doing, and whom it told of what.",
    "Admins": "Who they are, and what they did.",
    "Watching": "For machines that watch. Needs no key.",
}
_SCHEMES: Mapping[str, Schema] = {
    "virtualKey": {"type": "http", "scheme": "bearer", "description": "A virtual key, `sk-gw-...`."},
    "virtualKeyHeader": {
        "type": "apiKey",
        "in": "header",
        "name": "x-api-key",
        "description": "The same, as Anthropic's clients send it.",
    },
    "adminKey": {"type": "http", "scheme": "bearer", "description": "An admin key, `sk-gwadmin-...`."},
}
_ANTHROPIC = frozenset({"/v1/messages", "/v1/messages/count_tokens"})
_REQUEST_ID: Schema = {"x-request-id": {"description": "The request's id in the ledger.", "schema": {"type": "string"}}}
_READY = "/health/ready"


def operations() -> list[Operation]:
    return [
        *model_operations(),
        *creator_operations(),
        *people_operations(),
        *books_operations(),
        *running_operations(),
        *open_operations(),
    ]


@cache
def openapi_document() -> Mapping[str, Any]:
    """Must not be changed: it is shared."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations():
        paths.setdefault(operation.path, {})[operation.method.lower()] = _shown(operation)
    return {
        "openapi": "3.1.0",
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "info": {
            "title": "Gateway",
            "version": _version(),
            "description": "A self-hosted, OpenAI-compatible gateway: virtual keys, limits, budgets and an exact ledger.",
        },
        "servers": [{"url": "/", "description": "This gateway."}],
        "tags": [{"name": name, "description": description} for name, description in _TAGS.items()],
        "paths": paths,
        "components": {"schemas": component_schemas(), "securitySchemes": dict(_SCHEMES)},
    }


def _shown(operation: Operation) -> Schema:
    made: Schema = {
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": operation.description,
        "operationId": _id(operation),
        "parameters": [*_path_parameters(operation.path), *operation.parameters],
        "responses": _responses(operation),
        "security": [{name: []} for name in operation.security],
    }
    if operation.roles:
        made["x-roles"] = list(operation.roles)
    if operation.body is not None:
        example = {} if operation.example is None else {"example": operation.example}
        content = {kind: {"schema": operation.body.schema} for kind in operation.body.types}
        content[operation.body.types[0]] |= example
        made["requestBody"] = {"required": operation.body.is_required, "content": content}
    return made


def _responses(operation: Operation) -> Schema:
    answer = operation.answer
    first, *others = answer.types
    content: Schema = {first: {"schema": answer.schema}, **{kind: {} for kind in others}}
    shown: Schema = {
        str(answer.status): {"description": answer.description, "headers": _REQUEST_ID, "content": content}
    }
    error = ref("AnthropicError" if operation.path in _ANTHROPIC else "Error")
    for status, codes in _by_status(operation.codes).items():
        if operation.path == _READY:
            shown[str(status)] = {"description": "Calls are not taken.", "content": content}
            continue
        shown[str(status)] = {
            "description": ", ".join(f"`{code}`" for code in codes),
            "content": {"application/json": {"schema": error}},
            "x-codes": codes,
        }
    return shown


def _by_status(codes: Sequence[Code]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for status, code in sorted(set(codes)):
        found.setdefault(status, []).append(code)
    return found


def _path_parameters(path: str) -> list[Schema]:
    return [
        {"name": name, "in": "path", "required": True, "description": _OF_PATH[name], "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", path)
    ]


_OF_PATH: Mapping[str, str] = {
    "id": "Its id.",
    "name": "A model's name.",
    "request_id": "As an answer carried it in `x-request-id`.",
    "response_id": "The response's id.",
    "conversation_id": "The conversation's id.",
    "item_id": "The item's id.",
    "month": "`YYYY-MM`.",
    "creator": "The creator's id.",
    "plan": "The plan's name.",
}


def _id(operation: Operation) -> str:
    words = re.findall(r"\w+", operation.path)
    return "_".join([operation.method.lower(), *words])


def _version() -> str:
    try:
        return version("llm-gateway")
    except PackageNotFoundError:  # run out of a folder that nobody installed
        return "0"
