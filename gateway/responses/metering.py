"""What a response consumed: its usage in the buckets of the ledger, and its words where nobody reports. Pure.

Usage is that of chat under other names, so it is judged by the same rules: what `gateway.usage.from_chat` refuses is
refused here. A bridged answer carries the totals its chat provider reported, so that what a provider counts beside its
completion is found again.

Source: openai-python 3.52.0 (2026-11-16), `types/responses/response_usage.py`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from gateway.streaming import utf8_bytes
from gateway.usage import Usage, from_chat

__all__ = ["as_chat_usage", "from_responses", "item_bytes", "output_estimate"]

_CHAT_NAMES: Mapping[str, str] = {
    "input_tokens": "prompt_tokens",
    "input_tokens_details": "prompt_tokens_details",
    "output_tokens": "completion_tokens",
    "output_tokens_details": "completion_tokens_details",
    "total_tokens": "total_tokens",
}
_SAID = ("text", "refusal", "transcript")
"""Where a part of an item has its words."""
_CALLED = ("name", "arguments", "input")
"""Where a tool call has its own."""


def as_chat_usage(usage: object) -> object:
    """`usage` under the names chat has for it, unjudged. What is no object stays what it is."""
    if not isinstance(usage, dict):
        return usage
    return {chat_name: usage[name] for name, chat_name in _CHAT_NAMES.items() if name in usage}


def from_responses(
    usage: object,
    *,
    context_tokens_max: int | None,
    output_tokens_max: int | None,
    unlisted_is_reasoning: bool = False,
) -> Usage | None:
    """The buckets of a response's `usage`; None if it cannot be believed. Bounds and refusals are those of `from_chat`."""
    return from_chat(
        as_chat_usage(usage),
        context_tokens_max=context_tokens_max,
        output_tokens_max=output_tokens_max,
        choices=1,
        unlisted_is_reasoning=unlisted_is_reasoning,
    )


def output_estimate(answer: Mapping[str, Any]) -> int:
    """Output tokens of a whole response by the written rule: its words' UTF-8 bytes / 4, rounded up."""
    output = answer.get("output")
    return -(-sum(map(item_bytes, output)) // 4) if isinstance(output, list) else 0


def item_bytes(item: object) -> int:
    """UTF-8 bytes of what an output item says: text, refusal, reasoning that can be read, a tool's name and input."""
    if not isinstance(item, dict):
        return 0
    total = sum(utf8_bytes(word) for name in _CALLED if isinstance(word := item.get(name), str))
    for field in ("content", "summary"):
        if isinstance(parts := item.get(field), list):
            total += sum(_said(parts))
    return total


def _said(parts: Iterable[object]) -> Iterable[int]:
    for part in parts:
        if isinstance(part, dict):
            yield sum(utf8_bytes(word) for name in _SAID if isinstance(word := part.get(name), str))
