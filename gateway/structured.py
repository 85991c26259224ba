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
_CHOICES_AT_ONCE = 32
_UNCHECKED_ENDS = frozenset({"length", "content_filter"})


class StructuredOutput:
    """The schema that a request wants its answer to match. Lifetime: one request."""

    __slots__ = ("_flawed", "_param", "_raw", "_schema")

    def __init__(self, schema: object, param: str = "response_format.json_schema") -> None:
        """`param` is where the caller put it. Raises `RequestError` for what is no object, or too large for a prompt."""
        self._param = param
        if not isinstance(schema, dict):
            raise self._wrong("needs a `schema` that is an object")
        self._schema = schema
        self._flawed = ""
        """What the model said that did not match, of the answer checked last."""
        try:
            self._raw = orjson.dumps(schema)
        except orjson.JSONEncodeError:
            raise self._wrong("is nested too deeply") from None
        if len(self._raw) > _SCHEMA_BYTES_MAX:
            raise self._wrong(f"is larger than {_SCHEMA_BYTES_MAX} bytes")

    async def require_sound(self, checker: SchemaChecker, creator: str) -> None:
        """Raises `RequestError` for what is no schema that answers could be checked against."""
        try:
            await checker.flaws(creator, self._schema)
        except UnsoundSchema:
            raise self._wrong("is no JSON Schema this gateway can check, without references to other places") from None
        except CheckTooLong:
            raise self._wrong("takes too long to check") from None

    def _wrong(self, reason: str) -> RequestError:
        return RequestError(f"`{self._param}` {reason}.", code="invalid_value", param=self._param)

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
        said = self._flawed or next((message.get("content") for message in _messages(answer)), "")
        said = said if isinstance(said, str) else ""
        more = [{"role": "assistant", "content": said or "-"}, {"role": "user", "content": _REPAIR + flaw}]
        return {**body, "messages": [*body["messages"], *more]}

    async def checked(self, answer: dict[str, Any], checker: SchemaChecker, creator: str) -> str | None:
        """Why the answer does not match; None when all its choices do, and hold nothing but their JSON from now on.

        The words are for the model: they may repeat what it said.
        """
        found: list[tuple[dict[str, Any], str, Any]] = []
        for message in _messages(answer):
            content = message.get("content")
            self._flawed = content if isinstance(content, str) else ""
            if not isinstance(content, str):
                return "there is no text"
            inside = _json_in(content)
            if inside is None:
                return "it is not JSON"
            found.append((message, *inside))
        for begin in range(0, len(found), _CHOICES_AT_ONCE):
            some = found[begin : begin + _CHOICES_AT_ONCE]
            self._flawed = str(some[0][0]["content"])
            try:
                flaws = await checker.flaws(creator, self._schema, [value for _, _, value in some])
            except (CheckTooLong, UnsoundSchema):
                return "it takes too long to compare with the schema: make it smaller and simpler"
            except orjson.JSONEncodeError:  # what can be read may be too deep to be written
                return "it is nested too deeply"
            for (message, _, _), told in zip(some, flaws, strict=True):
                if told:
                    self._flawed = str(message["content"])
                    return "; ".join(told)
        for message, text, _ in found:
            message["content"] = text
        return None


def as_stream(answer: Mapping[str, Any], *, with_usage: bool) -> bytes:
    """A whole chat completion as the events of a stream, for a client that asked for one."""
    head = {key: answer.get(key) for key in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
    choices = list(_choices(answer))
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


def _choices(answer: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    choices = answer.get("choices")
    return (choice for choice in (choices if isinstance(choices, list) else ()) if isinstance(choice, dict))


def _messages(answer: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What has to match: the messages of choices that are a whole answer in words."""
    for choice in _choices(answer):
        message = choice.get("message")
        if not isinstance(message, dict) or choice.get("finish_reason") in _UNCHECKED_ENDS:
            continue
        if not message.get("tool_calls") and not message.get("function_call") and not message.get("refusal"):
            yield message


def _json_in(content: str) -> tuple[str, Any] | None:
    """The JSON in what a model said, as text and as a value."""
    candidates = [content.strip()]
    if fenced := _FENCE.match(content):
        candidates.append(fenced[1].strip())
    # What opens first holds the other: an array of objects is no object.
    spans = sorted((content.find(opening), content.rfind(closing)) for opening, closing in ("{}", "[]"))
    candidates.extend(content[start : end + 1] for start, end in spans if 0 <= start < end)
    for text in candidates:
        try:
            return text, orjson.loads(text)
        except orjson.JSONDecodeError:
            continue
    return None
