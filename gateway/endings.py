"""How admitted calls end: what is booked and what the client is still told, for every way there is. Pure."""

from collections.abc import Callable, Mapping

from gateway.admission import Admitted
from gateway.answers import upstream_failed
from gateway.calls import Call
from gateway.chat import CONTEXT_TOKENS_DEFAULT, OUTPUT_TOKENS_DEFAULT
from gateway.errors import DO_NOT_RETRY, GatewayError, StoreError
from gateway.ledger.records import Outcome
from gateway.metering import NOTHING, Ending, Metered, estimated, reported
from gateway.providers.base import FailureKind, UpstreamFailure
from gateway.streaming import SseRelay, text_bytes
from gateway.usage import Usage, from_chat

_FAILED_OUTCOMES: Mapping[FailureKind, Outcome] = {
    "unreachable": "upstream_unreachable",
    "died": "upstream_died",
    "first_byte_timeout": "upstream_timeout",
    "idle_timeout": "upstream_timeout",
    "total_timeout": "upstream_timeout",
    "invalid": "upstream_invalid",
}


def of_stream(
    call: Call,
    admitted: Admitted,
    relay: SseRelay,
    broken: UpstreamFailure | None,
    *,
    is_gone: bool,
) -> Ending:
    """How a stream ended, with what was relayed of it. `broken` is the exchange's failure, if it failed."""
    is_complete = relay.is_complete
    metered = meter(admitted, relay.usage, relay.output_tokens_estimate, is_partial=not is_complete)
    if is_gone:
        return Ending(metered, "client_gone")
    if is_complete:
        return Ending(metered, "ok")
    if relay.has_error_event:
        return Ending(metered, "upstream_error")
    if call.interrupted_by == "drain" or (call.interrupted_by is None and broken is None and call.is_cancelled):
        return Ending(metered, "aborted", _draining())
    if call.interrupted_by == "total_timeout":
        broken = UpstreamFailure("total_timeout", "the client read too slowly", is_sent=True, is_fully_sent=True)
    if broken is None:
        broken = UpstreamFailure("died", "the stream ended unfinished", is_sent=True, is_fully_sent=True)
    return Ending(metered, _FAILED_OUTCOMES[broken.kind], upstream_failed(broken))


def meter(
    admitted: Admitted, usage: object, estimate_output: Callable[[], int], *, is_partial: bool = False
) -> Metered:
    """By the provider's report where there is one that can be true, else by the written rule.

    A report from the middle of a broken stream may be older than what followed it, so the words that were relayed count
    if they are more.
    """
    believed = None if usage is None else _believe(admitted, usage)
    if believed is not None and is_partial:
        missing = estimate_output() - believed.output_tokens
        if missing > 0:
            believed = believed._replace(text_output=believed.text_output + missing)
        return reported(believed, admitted.model.price, "provider_partial")
    if believed is not None and (any(believed) or not estimate_output()):
        return reported(believed, admitted.model.price)
    # No report, one that cannot be true, or one of nothing at all for an answer that says something.
    return _estimate_of(admitted, estimate_output(), was_reported=usage is not None)


def _believe(admitted: Admitted, usage: object) -> Usage | None:
    """The provider's report in buckets, or None if it cannot be true."""
    model = admitted.model
    return from_chat(
        usage,
        context_tokens_max=model.context_tokens_max or CONTEXT_TOKENS_DEFAULT,
        output_tokens_max=model.output_tokens_max or OUTPUT_TOKENS_DEFAULT,
        choices=admitted.request.choices,
        unlisted_is_reasoning=admitted.row.unlisted_is_reasoning,
    )


def output_estimate(parsed: Mapping[str, object]) -> int:
    return -(-sum(text_bytes(choice.get("message")) for choice in _choices(parsed)) // 4)


def _estimate_of(admitted: Admitted, output_tokens: int, *, was_reported: bool) -> Metered:
    flags = ("usage_refused",) if was_reported else ()
    return estimated(admitted.request.input_tokens_estimate, output_tokens, admitted.model.price, *flags)


def input_only(admitted: Admitted) -> Metered:
    return _estimate_of(admitted, 0, was_reported=False)


def of_failure(admitted: Admitted, failure: UpstreamFailure) -> Ending:
    """A call that got no answer to relay: the input is owed once the request was fully sent."""
    metered = input_only(admitted) if failure.is_fully_sent else NOTHING
    return Ending(metered, _FAILED_OUTCOMES[failure.kind], upstream_failed(failure))


def of_interrupt(call: Call, admitted: Admitted) -> Ending:
    metered = input_only(admitted) if call.is_dialled else NOTHING
    if call.interrupted_by == "total_timeout":
        late = UpstreamFailure("total_timeout", "the call took too long", is_sent=True, is_fully_sent=True)
        return Ending(metered, "upstream_timeout", upstream_failed(late))
    if call.interrupted_by == "client_gone":
        return Ending(metered, "client_gone")
    return Ending(metered, "aborted", _draining())


def _choices(parsed: Mapping[str, object]) -> list[dict[str, object]]:
    choices = parsed.get("choices")
    return [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []


def internal_error() -> GatewayError:
    return GatewayError("The gateway failed; the error is in its log.", headers=DO_NOT_RETRY)


def _draining() -> StoreError:
    return StoreError(
        "The gateway shut down before the answer was complete.", code="shutting_down", headers=DO_NOT_RETRY
    )
