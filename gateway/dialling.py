"""From an admitted call to the head of an answer: one deployment after another, as long as an attempt costs nothing."""

import asyncio
import time

import structlog

from gateway.admission import Admission, Admitted
from gateway.attempts import seconds
from gateway.calls import Call
from gateway.metrics import Metrics
from gateway.providers.base import Deadlines, Exchange, UpstreamFailure, UpstreamRequest
from gateway.providers.translated import TranslatedExchange
from gateway.responder import Responder
from gateway.routing import Deployments, class_of_failure, class_of_status

__all__ = ["Dialler", "log_failure"]

_log = structlog.get_logger()


class Dialler:
    """Lifetime: the process. Holds no state of a call."""

    def __init__(
        self,
        *,
        admission: Admission,
        deployments: Deployments,
        metrics: Metrics,
        deadlines: Deadlines,
        answer_bytes_max: int,
    ) -> None:
        self._admission = admission
        self._deployments = deployments
        self._metrics = metrics
        self._deadlines = deadlines
        self._answer_bytes_max = answer_bytes_max

    async def dial(
        self, call: Call, admitted: Admitted, hold: "asyncio.Future[None]", responder: Responder
    ) -> Exchange:
        """The head of the first answer that is no refusal, or of the last refusal when there is nobody else to ask.

        Raises `UpstreamFailure` of the last attempt, or whatever `hold` raises.
        """
        attempts, deployments = admitted.attempts, self._deployments
        while True:
            deployments.dials(admitted.model)
            began_ms = call.elapsed_ms()
            try:
                exchange = await self.open(call, admitted, hold)
            except UpstreamFailure as failure:
                error, status, retry_after_s = class_of_failure(failure), 0, None
                deployments.failed(admitted.model, error)
                pause = None
                if not failure.is_sent and not responder.is_gone:
                    pause = attempts.next_after(error, retry_after_s=None, now=time.monotonic())
                if pause is None:
                    raise
                log_failure(call, admitted, failure)
            else:
                if exchange.status < 300:
                    deployments.reached(admitted.model)
                    return exchange
                error, status = class_of_status(exchange.status), exchange.status
                retry_after_s = seconds(exchange.headers.get("retry-after"))
                deployments.failed(admitted.model, error, retry_after_s)
                pause = None
                if not responder.is_gone:  # nobody waits for another attempt
                    pause = attempts.next_after(error, retry_after_s=retry_after_s, now=time.monotonic())
                if pause is None:
                    return exchange
                exchange.close()
            elapsed_ms = call.elapsed_ms() - began_ms
            attempts.note(
                provider=admitted.row.name, model=admitted.model.name, error=error, status=status, elapsed_ms=elapsed_ms
            )
            self._metrics.failed_attempt(admitted.row.name, error)
            call.forget_dial()  # nothing is owed for what failed
            if pause:
                await asyncio.sleep(pause)
                if responder.is_gone:
                    raise UpstreamFailure(
                        "unreachable", "the client left before it was asked again", is_sent=False, is_fully_sent=False
                    )
            self._admission.go_on(admitted)

    def note_success(self, admitted: Admitted) -> None:
        """The answer came to its end."""
        self._deployments.succeeded(admitted.model)

    def note_failure(self, admitted: Admitted, failure: UpstreamFailure) -> None:
        """The answer began and broke."""
        self._deployments.failed(admitted.model, class_of_failure(failure))

    async def open(self, call: Call, admitted: Admitted, hold: "asyncio.Future[None]") -> Exchange:
        """One attempt, as `admitted` has it now; see `Provider.open`."""
        exchange = await admitted.provider.open(self._upstream_request(call, admitted), hold)
        request, model = admitted.request, admitted.model
        if request.checked(model) is not None or (translator := request.translator(model)) is None:
            return exchange  # what has to be checked is turned into another shape afterwards
        return TranslatedExchange(exchange, translator, answer_bytes_max=self._answer_bytes_max)

    def _upstream_request(self, call: Call, admitted: Admitted) -> UpstreamRequest:
        path, body, content_type, headers, is_streaming = admitted.outgoing
        return UpstreamRequest(
            path, body, is_streaming, self._deadlines, call.request_id, call.note_dial, content_type, "POST", headers
        )


def log_failure(call: Call, admitted: Admitted, failure: UpstreamFailure) -> None:
    """What the operator needs and the caller is not told: whether it was DNS, TLS, a reset or a bound."""
    _log.warning(
        "upstream_failed",
        request_id=call.request_id,
        provider=admitted.row.name,
        kind=failure.kind,
        detail=failure.detail,
        is_sent=failure.is_sent,
        is_fully_sent=failure.is_fully_sent,
    )
