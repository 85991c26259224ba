"""The Response object of an answer that was made by a chat model, but for its output. Pure.

It repeats what was asked for, as OpenAI's does; a field the caller left out has OpenAI's default where that is a fact about
the call, and null where only the model's maker knows it (temperature, top_p).

Source: openai 3.52, `types/responses/response.py` and `response_usage.py`, read 2026-10; a stream of OpenAI's recorded
2026-08, for the fields and their defaults.
"""

from collections.abc import Mapping
from typing import Any

__all__ = ["response_object", "response_usage"]

_REPEATED = (
    "instructions",
    "max_output_tokens",
    "max_tool_calls",
    "previous_response_id",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "temperature",
    "top_p",
    "user",
)


def response_object(response_id: str, created_at: int, request: Mapping[str, Any], model: str) -> dict[str, Any]:
    """A response to `request` that is in progress: no output, no usage. `created_at` is in Unix seconds."""
    response = {
        "id": response_id,
        "object": "response",
        "created_at": created_at,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "model": model,
        "output": [],
        "parallel_tool_calls": request.get("parallel_tool_calls") is not False,
        "reasoning": {"effort": None, "summary": None} | (request.get("reasoning") or {}),
        "service_tier": request.get("service_tier") or "auto",
        "store": request.get("store") is not False,
        "text": {"format": {"type": "text"}} | (request.get("text") or {}),
        "tool_choice": request.get("tool_choice") or "auto",
        "tools": [_tool(tool) for tool in request.get("tools") or []],
        "top_logprobs": request.get("top_logprobs") or 0,
        "truncation": request.get("truncation") or "disabled",
        "usage": None,
        "metadata": request.get("metadata") or {},
    } | {field: request.get(field) for field in _REPEATED}
    if conversation := request.get("conversation"):
        response["conversation"] = {"id": conversation} if isinstance(conversation, str) else conversation
    return response


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI repeats a function with both, and typed clients expect them."""
    return {"parameters": None, "strict": None, **tool} if tool.get("type") == "function" else dict(tool)


def response_usage(usage: object) -> dict[str, Any] | None:
    """A chat completion's usage under the names that responses have for it; None where it has no totals.

    Nothing is judged: what a provider reports about parts of the totals is handed on, and details beyond OpenAI's (audio,
    images) stay, as they are priced. A provider that counts its reasoning beside the completion, which its total shows, has
    it counted inside here, as everybody's output includes it.
    """
    if not isinstance(usage, dict):
        return None
    read, made, total = usage.get("prompt_tokens"), usage.get("completion_tokens"), usage.get("total_tokens")
    if type(read) is not int or type(made) is not int or read < 0 or made < 0:
        return None
    input_details, output_details = (
        _details(usage, "prompt_tokens_details"),
        _details(usage, "completion_tokens_details"),
    )
    cached = input_details.get("cached_tokens") or usage.get("prompt_cache_hit_tokens") or 0
    written = (
        input_details.get("cache_write_tokens")
        or input_details.get("cache_creation_tokens")
        or usage.get("cache_creation_input_tokens")
        or 0
    )
    reasoning = output_details.get("reasoning_tokens") or 0
    if type(reasoning) is int and reasoning > 0 and total == read + made + reasoning:
        made += reasoning
    return {
        "input_tokens": read,
        "input_tokens_details": input_details | {"cached_tokens": cached, "cache_write_tokens": written},
        "output_tokens": made,
        "output_tokens_details": output_details | {"reasoning_tokens": reasoning},
        "total_tokens": total if type(total) is int else read + made,
    }


def _details(usage: Mapping[str, Any], name: str) -> dict[str, Any]:
    details = usage.get(name)
    return {part: count for part, count in details.items() if count is not None} if isinstance(details, dict) else {}
