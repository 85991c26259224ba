"""What the audit log keeps of a request: values of fields that decide what is done, names of the others, no more.

A value is kept only where it looks like what it should be: a key that somebody put into the wrong field must not stay in
a log that is never changed. Names people gave, notes and metadata are never kept, and a field that no form has is counted.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import orjson
from starlette.types import Message, Receive

from gateway.endpoints import FORM_BYTES_MAX

__all__ = ["ReadBody", "details_of", "read_ahead", "target_of"]

NOT_SHOWN = "(not shown)"
_VALUES = frozenset(
    """all amount_usd attempt cached creator credits days default_plan downgrade endpoint expires_at expires_in_s
    feature format from grace_s group_by id is_active kind limit model models month outcome overrides package payer plan
    provider requests_per_minute role scopes to until_at""".split()
)
"""Fields and parameters whose values are kept."""
_NAMES = frozenset(
    {
        "action",
        "admin",
        "address",
        "agent",
        "cursor",
        "idempotency_key",
        "metadata",
        "name",
        "note",
        "request",
        "target",
    }
)
"""Fields and parameters of which it is kept that they were sent."""
_VALUES_BYTES_MAX = 16 * 1024
"""Of a longer body only names are kept."""
_DEPTH_MAX = 5
_ITEMS_MAX = 50
_TEXT_CHARS_MAX = 128
_TEXT = re.compile(r"[A-Za-z0-9._:@/,+-]*")
_KEY = re.compile(r"(^|[^A-Za-z])sk-")
"""Ours begin so, and those of several providers."""
_OPAQUE = re.compile(r"[A-Za-z0-9]{24,}")
"""What may be any other key. Names of plans and models, amounts and instants have no such run of letters and digits; ids
that others gave may."""
_IDS = frozenset({"id", "creator"})


class ReadBody(NamedTuple):
    """A body that was read before its handler reads it."""

    fields: Mapping[str, Any] = {}
    """Of a JSON object; of anything else none."""
    size: int = 0
    """In bytes; above `FORM_BYTES_MAX` no more of it was read than that."""


async def read_ahead(receive: Receive) -> tuple[ReadBody, Receive]:
    """The body, or as much of it as a form may have, and a `receive` that brings all of it once more."""
    kept: list[Message] = []
    body = bytearray()
    while len(body) <= FORM_BYTES_MAX:
        message = await receive()
        kept.append(message)
        body += message.get("body", b"")
        if message["type"] != "http.request" or not message.get("more_body", False):
            break

    async def receive_again() -> Message:
        return kept.pop(0) if kept else await receive()

    return ReadBody(_fields(bytes(body)), len(body)), receive_again


def details_of(body: ReadBody, query: bytes) -> dict[str, Any]:
    """What is kept of a body and a query string: JSON-ready, without anything that names people, and without secrets."""
    found = _kept_of(body.fields, keeps_values=body.size <= _VALUES_BYTES_MAX)
    if body.size > FORM_BYTES_MAX:
        found["too_large"] = True
    asked = dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True, encoding="utf-8", errors="replace"))
    return found | ({"query": _kept_of(asked, keeps_values=True)} if asked else {})


def target_of(path_params: Mapping[str, Any]) -> str:
    """What the route's braces stood for: `id=acme`."""
    return ",".join(f"{name}={_text(str(value), is_id=True)}" for name, value in path_params.items())


def _kept_of(fields: Mapping[str, Any], *, keeps_values: bool) -> dict[str, Any]:
    values = (
        {name: _kept(fields[name], is_id=name in _IDS) for name in sorted(_VALUES & fields.keys())}
        if keeps_values
        else {}
    )
    named = sorted(((_VALUES | _NAMES) & fields.keys()) - values.keys())
    unknown = len(fields.keys() - _VALUES - _NAMES)
    return values | ({"fields": named} if named else {}) | ({"unknown_fields": unknown} if unknown else {})


def _fields(body: bytes) -> Mapping[str, Any]:
    if len(body) > FORM_BYTES_MAX:
        return {}
    try:
        value = orjson.loads(body) if body.strip() else {}
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _kept(value: Any, depth: int = 0, *, is_id: bool = False) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return _text(value, is_id=is_id)
    if depth >= _DEPTH_MAX or len(value) > _ITEMS_MAX:
        return NOT_SHOWN
    if isinstance(value, dict):
        return {_text(name): _kept(item, depth + 1) for name, item in value.items()}
    return [_kept(item, depth + 1) for item in value]


def _text(text: str, *, is_id: bool = False) -> str:
    is_plain = len(text) <= _TEXT_CHARS_MAX and _TEXT.fullmatch(text) is not None
    may_be_a_key = _KEY.search(text) or (not is_id and _OPAQUE.search(text))
    return text if is_plain and not may_be_a_key else NOT_SHOWN
