"""What a chat completion consumed: the provider's report where it can be true, else the written rule. Pure."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from gateway.catalog import Model, ProviderRow
from gateway.metering import Metered, estimated, reported
from gateway.streaming import text_bytes
from gateway.usage import Usage, from_chat

if TYPE_CHECKING:
    from gateway.chat import ChatRequest

OUTPUT_TOKENS_DEFAULT = 16_384
"""Taken as a model's cap where the catalog names none."""
CONTEXT_TOKENS_DEFAULT = 2_000_000
"""Likewise for the context: beyond any model of today, so that it bounds hostile usage only."""


class Report(NamedTuple):
    """What a provider said of a call, unjudged; None where it said nothing."""

    usage: Any
    service_tier: Any = None


def meter_chat(
    request: "ChatRequest",
    model: Model,
    row: ProviderRow,
    report: Report,
    estimate_output: Callable[[], int],
    *,
    is_partial: bool = False,
) -> Metered:
    """By the provider's report where there is one that can be true, else by the written rule.

    A report from the middle of a broken stream may be older than what followed it, so the words that were relayed count
    if they are more.
    """
    usage, tier = report
    asked = request.variant(model)
    believed = None if usage is None else _believe(request, model, row, usage)
    if believed is not None and is_partial:
        missing = estimate_output() - believed.output_tokens
        if missing > 0:
            believed = believed._replace(text_output=believed.text_output + missing)
        return reported(believed, model.price, "provider_partial", tier=tier, asked=asked)
    if believed is not None and (any(believed) or not estimate_output()):
        return reported(believed, model.price, tier=tier, asked=asked)
    # No report, one that cannot be true, or one of nothing at all for an answer that says something.
    flags = () if usage is None else ("usage_refused",)
    return estimated(request.input_tokens_estimate, estimate_output(), model.price, *flags, tier=tier, asked=asked)


def output_estimate(answer: Mapping[str, Any]) -> int:
    """Output tokens of a whole answer by the written rule."""
    choices = answer.get("choices")
    found = [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
    return -(-sum(text_bytes(choice.get("message")) for choice in found) // 4)


def _believe(request: "ChatRequest", model: Model, row: ProviderRow, usage: object) -> Usage | None:
    """The provider's report in buckets, or None if it cannot be true."""
    return from_chat(
        usage,
        context_tokens_max=model.context_tokens_max or CONTEXT_TOKENS_DEFAULT,
        output_tokens_max=model.output_tokens_max or OUTPUT_TOKENS_DEFAULT,
        choices=request.choices,
        unlisted_is_reasoning=row.unlisted_is_reasoning,
    )
