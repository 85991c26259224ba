"""What the scripted upstream answers to the clients: whole answers and streams of each API, as exact bytes."""

import itertools
import json
from collections.abc import Iterable
from typing import Any

from tests.rig import wire
from tests.rig.upstream import Request, Script, Send, Upstream

_USAGE = wire.usage(9, 4)
_numbers = itertools.count(1)


def in_turn(upstream: Upstream, *answers: bytes) -> Script:
    """One marker, an answer for each request that carries it; one request too many fails."""
    left = iter(answers)

    def answer(_: Request) -> list[Send]:
        too_many = wire.reply({"error": {"message": "one request too many", "code": "unscripted"}}, 400)
        return [Send(next(left, too_many))]

    return upstream.answer_with(answer)


def chat_events(*contents: str, usage: object) -> bytes:
    """A whole chat stream as one write."""
    return event_stream([*wire.text_events(*contents), wire.event(wire.usage_chunk(usage)), wire.DONE])


def event_stream(events: Iterable[bytes]) -> bytes:
    """A chunked event stream, head and end included."""
    return wire.stream_head() + b"".join(map(wire.framed, events)) + wire.LAST_CHUNK


def payloads(events: Iterable[bytes]) -> list[Any]:
    """What JSON the events carry."""
    return [json.loads(event.partition(b"data: ")[2]) for event in events]


def typed_events(events: Iterable[dict[str, Any]]) -> list[bytes]:
    """Events that say their type twice, as those of responses and messages do."""
    return [b"event: " + event["type"].encode() + b"\n" + wire.event(event) for event in events]


def tool_call(name: str, arguments: object, call_id: str = "call_1") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}


def tool_completion(*calls: dict[str, Any], usage: object) -> bytes:
    """A whole chat answer that calls tools."""
    return wire.reply(wire.completion(None, usage=usage, finish="tool_calls", tool_calls=list(calls)))


def tool_events(call: dict[str, Any], usage: object) -> bytes:
    """The same as a stream, its arguments in two pieces."""
    arguments = call["function"]["arguments"]
    half = len(arguments) // 2
    first = {"index": 0, **call, "function": {**call["function"], "arguments": arguments[:half]}}
    rest = {"index": 0, "function": {"arguments": arguments[half:]}}
    chunks = [
        wire.chunk(role="assistant", content=None, tool_calls=[first]),
        wire.chunk(tool_calls=[rest]),
        wire.chunk(finish="tool_calls"),
        wire.usage_chunk(usage),
    ]
    return event_stream([*map(wire.event, chunks), wire.DONE])


def usage_of(usage: dict[str, Any]) -> dict[str, Any]:
    """The same figures in the words of responses."""
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": usage["prompt_tokens_details"]["cached_tokens"]},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": usage["completion_tokens_details"]["reasoning_tokens"]},
        "total_tokens": usage["total_tokens"],
    }


def response_message(text: str, **fields: Any) -> dict[str, Any]:
    content = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [content],
        **fields,
    }


def response(*output: dict[str, Any], id: str = "", usage: Any = _USAGE, **fields: Any) -> dict[str, Any]:
    """A response as OpenAI sends it. No two responses of a provider have the same id."""
    return {
        "id": id or f"resp_{next(_numbers)}",
        "object": "response",
        "created_at": wire.CREATED,
        "status": "completed",
        "model": "upstream-native",
        "output": list(output),
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "usage": usage_of(usage) if usage else None,
        **fields,
    }


def response_events(text: str) -> list[bytes]:
    """The stream of a response of one message."""
    begun = response(usage=None, status="in_progress")
    item, part = response_message(text), {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    at = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": {**item, "content": [], "status": "in_progress"},
        },
        {"type": "response.content_part.added", **at, "part": {**part, "text": ""}},
        {"type": "response.output_text.delta", **at, "delta": text, "logprobs": []},
        {"type": "response.output_text.done", **at, "text": text, "logprobs": []},
        {"type": "response.content_part.done", **at, "part": part},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": response(item, id=begun["id"])},
    ]
    return typed_events({**event, "sequence_number": number} for number, event in enumerate(events))


def called_item(call: dict[str, Any]) -> dict[str, Any]:
    """A tool call of a chat answer as an item of a response."""
    return {"id": "fc_1", "type": "function_call", "call_id": call["id"], "status": "completed", **call["function"]}


def claude(*content: dict[str, Any], usage: tuple[int, int], stop: str = "end_turn") -> dict[str, Any]:
    """A message as Anthropic sends it."""
    return {
        "id": f"msg_{next(_numbers)}",
        "type": "message",
        "role": "assistant",
        "model": "upstream-native",
        "content": list(content),
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": claude_usage(*usage),
    }


def claude_usage(input_tokens: int, output_tokens: int) -> dict[str, Any]:
    """Anthropic's report, without any caching."""
    return {
        "input_tokens": input_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": output_tokens,
    }


def claude_text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def claude_call(call: dict[str, Any]) -> dict[str, Any]:
    """A tool call of a chat answer as a block of a message."""
    function = call["function"]
    return {"type": "tool_use", "id": call["id"], "name": function["name"], "input": json.loads(function["arguments"])}


def claude_events(*texts: str, usage: tuple[int, int]) -> list[bytes]:
    """The stream of a message of one text, piece by piece."""
    begun = {**claude(usage=(usage[0], 1)), "stop_reason": None}
    deltas = [{"type": "text_delta", "text": text} for text in texts]
    return typed_events(
        [
            {"type": "message_start", "message": begun},
            {"type": "content_block_start", "index": 0, "content_block": claude_text("")},
            {"type": "ping"},
            *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas),
            {"type": "content_block_stop", "index": 0},
            {
                "type": "message_delta",
                "delta": {"stop_reason": "end_turn", "stop_sequence": None},
                "usage": {"output_tokens": usage[1]},
            },
            {"type": "message_stop"},
        ]
    )
