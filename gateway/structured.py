"""Answers that must match a JSON Schema, from models whose provider does not see to it.

1. The schema goes into the prompt, as an instruction of its own before the caller's messages.
2. The answer is checked. What models like to wrap JSON in (a code fence, a sentence before it) is taken off.
3. If it does not match, the model is told why and asked once more; both attempts are paid.
4. If it still does not, the caller gets an error and not the answer.

What is no answer to the schema passes unchecked: tool calls, refusals, answers cut by their length or a filter; SDKs tell
these apart by themselves. Comparing is the business of `gateway.schema_checker`, since schemas come from callers.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from gateway.errors import RequestError
from gateway.schema_checker import CheckTooLong, SchemaChecker, UnsoundSchema
from gateway.schema_worker import FLAW_CHARS_MAX, FLAWS_MAX

__all__ = ["REPAIR_TOKENS_MAX", "StructuredOutput", "as_stream"]

_FENCE = re.compile(r"\A\s*```[A-Za-z]*\s*\n(.*?)\n?\s*```\s*\Z", re.DOTALL)
_SCHEMA_BYTES_MAX = 256 * 1024
REPAIR_TOKENS_MAX = 4 * FLAWS_MAX * FLAW_CHARS_MAX + 512
"""What a repair adds to its prompt beside the first answer: a token a byte of the flaws, and the words around them."""
_INSTRUCTION = (
    "Answer with a single JSON value and nothing else: no code fence, no words around it. It has to be valid against this "
    "JSON Schema:\n"
)
_REPAIR = (
    "That answer cannot be used. Answer the request again, with nothing but a JSON value that is valid against the schema. "
    "What was wrong: "
)
_UNCHECKED_ENDS = frozenset({"length", "content_filter"})


class StructuredOutput:
    """The `json_schema` of a request's `response_format`. Lifetime: one request."""

    __slots__ = ("_raw", "_schema")

    def __init__(self, response_format: Mapping[str, Any]) -> None:
        """Raises `RequestError` where there is no schema in it, or one too large to be put into a prompt."""
        inside = response_format.get("json_schema")
        schema = inside.get("schema") if isinstance(inside, dict) else None
        if not isinstance(schema, dict):
            raise _wrong_schema("must be an object with a `schema` that is an object")
        self._schema = schema
        try:
            self._raw = orjson.dumps(schema)
        except orjson.JSONEncodeError:
            raise _wrong_schema("is nested too deeply") from None
        if len(self._raw) > _SCHEMA_BYTES_MAX:
            raise _wrong_schema(f"is larger than {_SCHEMA_BYTES_MAX} bytes")

    async def require_sound(self, checker: SchemaChecker) -> None:
        """Raises `RequestError` for what is no schema that answers could be checked against."""
        try:
            await checker.flaws(self._schema)
        except UnsoundSchema:
            raise _wrong_schema(
                "is no JSON Schema this gateway can check, without references to other places"
            ) from None
        except CheckTooLong:
            raise _wrong_schema("takes too long to check") from None

    @property
    def instruction_bytes(self) -> int:
        """What `instruct` adds to a prompt."""
        return len(_INSTRUCTION) + len(self._raw)

    def instruct(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The request with the schema in its prompt instead of in `response_format`."""
        said = {"role": "system", "content": _INSTRUCTION + self._raw.decode()}
        return {**{key: body[key] for key in body if key != "response_format"}, "messages": [said, *body["messages"]]}

    def repair(self, body: Mapping[str, Any], answer: Mapping[str, Any], flaw: str) -> dict[str, Any]:
        """The instructed request with the flawed answer and what is wrong with it."""
        first = next(iter(_messages(answer)), {})
        said = first.get("content") if isinstance(first.get("content"), str) else ""
        more = [{"role": "assistant", "content": said or "-"}, {"role": "user", "content": _REPAIR + flaw}]
        return {**body, "messages": [*body["messages"], *more]}

    async def checked(self, answer: dict[str, Any], checker: SchemaChecker) -> str | None:
        """Why the answer does not match; None when all its choices do, and hold nothing but their JSON from now on.

        The words are for the model: they may repeat what it said.
        """
        found: list[tuple[dict[str, Any], str, Any]] = []
        for message in _messages(answer):
            content = message.get("content")
            if not isinstance(content, str):
                return "there is no text"
            inside = _json_in(content)
            if inside is None:
                return "it is not JSON"
            found.append((message, *inside))
        try:
            flaws = await checker.flaws(self._schema, [value for _, _, value in found])
        except (CheckTooLong, UnsoundSchema):
            return "it takes too long to compare with the schema: make it smaller and simpler"
        if any(flaws):
            return "; ".join(next(filter(None, flaws)))
        for message, text, _ in found:
            message["content"] = text
        return None


def as_stream(answer: Mapping[str, Any], *, with_usage: bool) -> bytes:
    """A whole chat completion as the events of a stream, for a client that asked for one."""
    head = {key: answer.get(key) for key in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
    choices = [choice for choice in answer.get("choices", ()) if isinstance(choice, dict)]
    said = [
        {"index": choice.get("index", 0), "delta": _delta(choice.get("message")), "finish_reason": None}
        for choice in choices
    ]
    ends = [
        {"index": choice.get("index", 0), "delta": {}, "finish_reason": choice.get("finish_reason")}
        for choice in choices
    ]
    chunks: list[dict[str, Any]] = [{**head, "choices": said}, {**head, "choices": ends}]
    if with_usage:
        chunks.append({**head, "choices": [], "usage": answer.get("usage")})
    return b"".join(b"data: %b\n\n" % orjson.dumps(chunk) for chunk in chunks) + b"data: [DONE]\n\n"


def _delta(message: object) -> dict[str, Any]:
    if not isinstance(message, dict):
        return {}
    delta = {key: value for key, value in message.items() if value is not None}
    if isinstance(calls := delta.get("tool_calls"), list):
        delta["tool_calls"] = [{"index": index, **call} for index, call in enumerate(calls) if isinstance(call, dict)]
    return {"role": "assistant", **delta}


def _messages(answer: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What has to match: the messages of choices that are a whole answer in words."""
    choices = answer.get("choices")
    for choice in choices if isinstance(choices, list) else []:
        message = choice.get("message") if isinstance(choice, dict) else None
        if not isinstance(message, dict) or choice.get("finish_reason") in _UNCHECKED_ENDS:
            continue
        if not message.get("tool_calls") and not message.get("function_call") and not message.get("refusal"):
            yield message


def _json_in(content: str) -> tuple[str, Any] | None:
    """The JSON in what a model said, as text and as a value."""
    candidates = [content.strip()]
    if fenced := _FENCE.match(content):
        candidates.append(fenced[1].strip())
    for opening, closing in ("{}", "[]"):
        start, end = content.find(opening), content.rfind(closing)
        if 0 <= start < end:
            candidates.append(content[start : end + 1])
    for text in candidates:
        try:
            return text, orjson.loads(text)
        except orjson.JSONDecodeError:
            continue
    return None


def _wrong_schema(reason: str) -> RequestError:
    return RequestError(
        f"`response_format.json_schema` {reason}.", code="invalid_value", param="response_format.json_schema"
    )
