"""The estimator's form as a body of the endpoint that is meant. Pure."""

from collections.abc import Callable, Mapping
from typing import Any

from gateway.errors import RequestError

__all__ = ["FIELDS", "estimate_form"]

FIELDS = ("model", "endpoint", "creator", "text", "tokens", "max_tokens", "n", "size", "quality", "voice", "downgrade")
TOKENS_MAX = 1_000_000
_NUMBER_MAX = 10_000_000
_TOKEN = "word"  # noqa: S105 -- four bytes, which count as one token
_VOICE = "alloy"


def estimate_form(fields: Mapping[str, str]) -> dict[str, Any]:
    """What `POST /admin/estimate` takes. Raises `RequestError` for what is no number."""
    endpoint = fields["endpoint"] or "chat"
    write = _BODIES.get(endpoint, _chat)
    body = {"model": fields["model"], **write(fields, _text(fields))}
    form: dict[str, Any] = {"endpoint": endpoint, "request": body, "downgrade": fields["downgrade"] != "never"}
    return {**form, "creator": fields["creator"]} if fields["creator"] else form


def _text(fields: Mapping[str, str]) -> str:
    """The text itself, or one that counts as so many tokens."""
    if fields["text"]:
        if fields["tokens"]:
            raise _refused("tokens", "is for when there is no text")
        return fields["text"]
    return _TOKEN * (_number(fields, "tokens", TOKENS_MAX) or 1)


def _chat(fields: Mapping[str, str], text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **_bound(fields, "max_completion_tokens")}


def _messages(fields: Mapping[str, str], text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **_bound(fields, "max_tokens")}


def _completions(fields: Mapping[str, str], text: str) -> dict[str, Any]:
    return {"prompt": text, **_bound(fields, "max_tokens")}


def _responses(fields: Mapping[str, str], text: str) -> dict[str, Any]:
    return {"input": text, **_bound(fields, "max_output_tokens")}


def _input(fields: Mapping[str, str], text: str) -> dict[str, Any]:
    return {"input": text}


def _speech(fields: Mapping[str, str], text: str) -> dict[str, Any]:
    return {"input": text, "voice": fields["voice"] or _VOICE}


def _images(fields: Mapping[str, str], text: str) -> dict[str, Any]:
    words = {name: fields[name] for name in ("size", "quality") if fields[name]}
    return {"prompt": text, **words, **_bound(fields, "n", "n")}


_BODIES: Mapping[str, Callable[[Mapping[str, str], str], dict[str, Any]]] = {
    "chat": _chat,
    "completions": _completions,
    "embeddings": _input,
    "images": _images,
    "messages": _messages,
    "moderations": _input,
    "responses": _responses,
    "speech": _speech,
}


def _bound(fields: Mapping[str, str], name: str, field: str = "max_tokens") -> dict[str, int]:
    number = _number(fields, field, _NUMBER_MAX)
    return {} if number is None else {name: number}


def _number(fields: Mapping[str, str], name: str, most: int) -> int | None:
    text = fields[name]
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(most)) and 1 <= int(text) <= most):
        raise _refused(name, f"takes a whole number from 1 to {most}")
    return int(text)


def _refused(name: str, reason: str) -> RequestError:
    return RequestError(f"`{name}` {reason}.", code="invalid_value", param=name)
