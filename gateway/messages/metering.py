"""What a message consumed, by Anthropic's report where it can be true, else by the written rule. Pure.

Anthropic reports disjoint input: `input_tokens` are those that came from no cache and went into none. Output is one total
with the thinking inside. In a stream `message_start` reports the input and `message_delta` repeats what has changed, in
cumulative figures. Source: the usage types of the anthropic package 2.11.0, read 2026-11-21.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from gateway.catalog import Model
from gateway.chat import ChatRequest
from gateway.chat_metering import CONTEXT_TOKENS_DEFAULT, OUTPUT_TOKENS_DEFAULT
from gateway.ledger.records import UsageSource
from gateway.metering import Metered, estimated, reported
from gateway.usage import TOKENS_MAX, ImpossibleCount, Usage, count_of, parts_of

__all__ = ["Report", "from_messages", "is_beyond_price", "meter_message"]

FAST = "fast"
"""The service tier of `speed: fast`: a price row may have a table of this name."""
_HOSTED_USES = ("web_search_requests", "web_fetch_requests", "code_execution_requests")


class Report(NamedTuple):
    """A provider's usage object, unjudged. None: it said nothing."""

    usage: Any
    is_final: bool = True
    """False for the figures a stream began with, which know nothing of its output."""


def from_messages(usage: object, *, context_tokens_max: int | None, output_tokens_max: int | None) -> Usage | None:
    """The buckets of a message's `usage`, None if it cannot be believed.

    Refused: anything negative, fractional, textual or boolean where a count belongs; parts larger than their whole; more
    input than `context_tokens_max`, more output than `output_tokens_max` (without caps: `TOKENS_MAX`). Both lifetimes of
    a cache write land in one bucket. What is missing or null is a zero, except the two totals.
    """
    if not isinstance(usage, dict) or usage.get("input_tokens") is None or usage.get("output_tokens") is None:
        return None
    try:
        buckets = _buckets(usage)
    except ImpossibleCount:
        return None
    input_max = context_tokens_max or TOKENS_MAX
    output_max = output_tokens_max or context_tokens_max or TOKENS_MAX
    return buckets if buckets.input_tokens <= input_max and buckets.output_tokens <= output_max else None


def is_beyond_price(usage: Mapping[str, Any]) -> bool:
    """Whether the provider billed something no row has a rate for: an hour's cache, a hosted tool, another sampling.

    All of it is refused before a call; a report that has it all the same is flagged.
    """
    written = usage.get("cache_creation")
    if isinstance(written, dict) and written.get("ephemeral_1h_input_tokens"):
        return True
    hosted = usage.get("server_tool_use")
    if isinstance(hosted, dict) and any(hosted.get(name) for name in _HOSTED_USES):
        return True
    iterations = usage.get("iterations")
    if not isinstance(iterations, list):
        return False
    return any(isinstance(one, dict) and one.get("type") != "message" for one in iterations)


def meter_message(
    chat: ChatRequest,
    model: Model,
    report: Report,
    estimate_output: Callable[[], int],
    *,
    is_partial: bool = False,
) -> Metered:
    """By `report` where it can be true, else by the written rule. `chat` is what the hold was computed from.

    Figures that are older than what followed them, as in a stream that broke off, count with the words relayed since.
    """
    usage = report.usage
    asked = chat.variant(model)
    tier = _tier(usage)
    believed = from_messages(
        usage,
        context_tokens_max=model.context_tokens_max or CONTEXT_TOKENS_DEFAULT,
        output_tokens_max=model.output_tokens_max or OUTPUT_TOKENS_DEFAULT,
    )
    is_old = is_partial or not report.is_final
    if believed is None or not _says_enough(believed, estimate_output, is_old=is_old):
        flags = () if usage is None or (believed is not None and is_old) else ("usage_refused",)
        return estimated(chat.input_tokens_estimate, estimate_output(), model.price, *flags, tier=tier, asked=asked)
    if is_old:
        missing = estimate_output() - believed.output_tokens
        believed = believed._replace(text_output=believed.text_output + max(0, missing))
    source: UsageSource = "provider_partial" if is_partial else "provider"
    metered = reported(believed, model.price, source, tier=tier, asked=asked)
    if is_beyond_price(usage) and "unpriced_usage" not in metered.flags:
        return metered._replace(flags=(*metered.flags, "unpriced_usage"))
    return metered


def _says_enough(believed: Usage, estimate_output: Callable[[], int], *, is_old: bool) -> bool:
    """Zeros are no report of an answer with words in it; and no stream that began with them has told its input yet."""
    return bool(believed.input_tokens) if is_old else any(believed) or not estimate_output()


def _buckets(usage: Mapping[str, Any]) -> Usage:
    made = count_of(usage, "output_tokens")
    thought = count_of(parts_of(usage, "output_tokens_details"), "thinking_tokens")
    lifetimes = parts_of(usage, "cache_creation")
    parts = count_of(lifetimes, "ephemeral_5m_input_tokens") + count_of(lifetimes, "ephemeral_1h_input_tokens")
    written = count_of(usage, "cache_creation_input_tokens")
    if usage.get("cache_creation_input_tokens") is None:
        written = parts
    if thought > made or parts > written:
        raise ImpossibleCount
    return Usage(
        uncached_input=count_of(usage, "input_tokens"),
        cached_input=count_of(usage, "cache_read_input_tokens"),
        cache_write=written,
        text_output=made - thought,
        reasoning=thought,
    )


def _tier(usage: object) -> object:
    """The service tier the provider says it served; its fast mode counts as one."""
    if not isinstance(usage, dict):
        return None
    return FAST if usage.get("speed") == FAST else usage.get("service_tier")
