"""Chat completions that have to match a schema which their provider does not enforce: read, checked, and asked for once
more where they do not. An attempt that is followed by another is kept with the call and booked at its end."""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import orjson

from gateway.admission import Admitted
from gateway.answers import parse_answer
from gateway.booking import Booking
from gateway.calls import Call
from gateway.chat import ChatRequest
from gateway.dialling import Dialler
from gateway.endings import schema_mismatch, unanswered
from gateway.errors import DO_NOT_RETRY, GatewayError, StoreError
from gateway.metering import NOTHING, Ending, Metered
from gateway.providers.base import Exchange
from gateway.request_fields import dump_body
from gateway.responder import Responder
from gateway.schema_checker import SchemaChecker
from gateway.structured import StructuredOutput

__all__ = ["CheckedAnswer", "CheckedAnswers"]


class CheckedAnswer(NamedTuple):
    """What came of the last attempt."""

    answer: dict[str, Any] | None
    """None: it was no answer at all."""
    metered: Metered
    flaw: str | None
    """Why it does not match; words for the model, which may repeat what it said."""
    headers: dict[str, str]
    """The provider's, of the exchange that answered."""
    refusal: Exchange | None = None
    """The repair was refused: nothing else of this counts. Whoever takes it closes it."""


class CheckedAnswers:
    """Lifetime: the process. Holds no state of a call."""

    def __init__(
        self,
        *,
        dialler: Dialler,
        booking: Booking,
        checker: SchemaChecker,
        read_answer: Callable[[Admitted, Exchange], Awaitable[bytes]],
    ) -> None:
        self._dialler = dialler
        self._booking = booking
        self._checker = checker
        self._read_answer = read_answer

    async def read(
        self, call: Call, admitted: Admitted, chat: ChatRequest, exchange: Exchange, responder: Responder
    ) -> CheckedAnswer:
        """The answer of `exchange`, or that of the repair. Raises `UpstreamFailure`, and `GatewayError` where it could not
        be checked; `admitted.reported` is then what is owed."""
        structured = chat.structured
        assert structured is not None  # noqa: S101 -- that is why it is checked
        first = await self._read(admitted, chat, structured, exchange)
        if first.answer is None or first.flaw is None or responder.is_gone:
            return first
        self._booking.keep_attempt(call, admitted, Ending(first.metered, "upstream_invalid", schema_mismatch()))
        admitted.reported = None
        exchange.close()
        outgoing = admitted.request.outgoing(admitted.model, admitted.row)
        repair = structured.repair(orjson.loads(outgoing.body), first.answer, first.flaw)
        admitted.outgoing = outgoing._replace(body=dump_body(repair))
        call.forget_dial()
        assert call.hold is not None  # noqa: S101 -- the first attempt waited for it
        second = await self._dialler.open(call, admitted, call.hold)
        if second.status >= 300:
            return CheckedAnswer(None, NOTHING, None, second.headers, second)
        try:
            return await self._read(admitted, chat, structured, second)
        finally:
            second.close()

    async def _read(
        self, admitted: Admitted, chat: ChatRequest, structured: StructuredOutput, exchange: Exchange
    ) -> CheckedAnswer:
        answer = parse_answer(await self._read_answer(admitted, exchange))
        metered = None if answer is None else chat.meter(answer, admitted.model, admitted.row)
        if answer is None or metered is None or not metered.is_answer:
            return CheckedAnswer(None, metered or unanswered(admitted), None, exchange.headers)
        admitted.reported = metered  # owed whatever becomes of the check
        try:
            flaw = await structured.checked(answer, self._checker, admitted.hold.attribution.creator)
        except StoreError as error:
            # It is paid for; an SDK must not pay again, and the books must not take it for an undialled call.
            raise GatewayError(error.message, status=503, code=error.code, headers=DO_NOT_RETRY) from error
        return CheckedAnswer(answer, metered, flaw, exchange.headers)
