"""How admitted calls end: what is booked and what the client is still told, for every way there is. Pure."""

from collections.abc import Mapping

from gateway.admission import Admitted
from gateway.answers import upstream_failed
from gateway.calls import Call
from gateway.errors import DO_NOT_RETRY, GatewayError, StoreError, UpstreamError
from gateway.ledger.records import Outcome
from gateway.metering import NOTHING, Ending, Metered
from gateway.providers.base import FailureKind, UpstreamFailure
from gateway.relay import Relay

_FAILED_OUTCOMES: Mapping[FailureKind, Outcome] = {
    "unreachable": "upstream_unreachable",
    "died": "upstream_died",
    "first_byte_timeout": "upstream_timeout",
    "idle_timeout": "upstream_timeout",
    "total_timeout": "upstream_timeout",
    "invalid": "upstream_invalid",
}


def of_stream(call: Call, relay: Relay, broken: UpstreamFailure | None, *, is_gone: bool) -> Ending:
    """How an answer that was relayed ended. `broken` is the exchange's failure, if it failed."""
    is_complete = relay.is_complete and not relay.has_error_event
    metered = relay.metered(is_partial=not is_complete)
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


def unanswered(admitted: Admitted) -> Metered:
    """Fully sent, and never properly answered; or answered, and then something else went wrong."""
    return admitted.reported or admitted.request.meter_unanswered(admitted.model)


def of_failure(admitted: Admitted, failure: UpstreamFailure) -> Ending:
    """A call that got no answer to relay: the input is owed once the request was fully sent."""
    metered = unanswered(admitted) if failure.is_fully_sent else NOTHING
    return Ending(metered, _FAILED_OUTCOMES[failure.kind], upstream_failed(failure))


def of_interrupt(call: Call, admitted: Admitted) -> Ending:
    metered = unanswered(admitted) if call.is_dialled else NOTHING
    if call.interrupted_by == "total_timeout":
        late = UpstreamFailure("total_timeout", "the call took too long", is_sent=True, is_fully_sent=True)
        return Ending(metered, "upstream_timeout", upstream_failed(late))
    if call.interrupted_by == "client_gone":
        return Ending(metered, "client_gone")
    return Ending(metered, "aborted", _draining())


def schema_mismatch() -> UpstreamError:
    return UpstreamError(
        "The model's answer does not match the JSON schema of this request, and it did not mend it when asked to.",
        code="schema_mismatch",
        headers=DO_NOT_RETRY,
    )


def internal_error() -> GatewayError:
    return GatewayError("The gateway failed; the error is in its log.", headers=DO_NOT_RETRY)


def _draining() -> StoreError:
    return StoreError(
        "The gateway shut down before the answer was complete.", code="shutting_down", headers=DO_NOT_RETRY
    )
