"""Answers given again: to a call that repeats one by its `Idempotency-Key`, and to one that asks what was asked before.

Before a call is admitted:
1. its key is claimed; where the first call's answer is kept, that is the answer, and nothing is taken or booked;
2. where the cache is wanted, and has the answer, the call takes a unit of the request windows, and is booked with cost 0.
After it was booked, and before the last byte leaves, its own answer is kept for both.
"""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from starlette.types import Receive

from gateway.admission import Admission, Admitted, Course
from gateway.answers import limit_headers, parse_answer
from gateway.body_hash import BodyHash
from gateway.booking import Booking
from gateway.cache.base import CachedAnswer
from gateway.cache.responses import ResponseCache
from gateway.calls import Call
from gateway.errors import GatewayError, RequestError
from gateway.idempotency import Claim, Idempotency, KeptAnswer
from gateway.ledger.faults import Conflict
from gateway.logs import log_request
from gateway.metering import Ending
from gateway.metrics import Metrics
from gateway.model_request import Answered
from gateway.pricing import usd
from gateway.recorder import Recorder, Room
from gateway.relay import EVENT_STREAM
from gateway.responder import Header, Responder

__all__ = ["IDEMPOTENCY_KEY", "Repeats", "cache_header"]

IDEMPOTENCY_KEY = b"idempotency-key"
_NO_COST = (b"x-gateway-cost-usd", usd(0).encode())
_AS_IT_COMES = [header for header in EVENT_STREAM if header[0] != b"content-type"]
"""What streams are told beside their type."""
_SHOWN = {"read": b"miss", "refresh": b"refresh", "bypass": b"bypass"}


class Repeats:
    """Lifetime: the process. Holds no state of a call."""

    def __init__(
        self,
        *,
        cache: ResponseCache,
        idempotency: Idempotency,
        admission: Admission,
        booking: Booking,
        metrics: Metrics,
        recorded_bytes_max: int,
        wall_clock: Callable[[], float],
    ) -> None:
        """`recorded_bytes_max` bounds what is kept of all answers that are on their way."""
        self._cache = cache
        self._idempotency = idempotency
        self._admission = admission
        self._booking = booking
        self._metrics = metrics
        self._room = Room(recorded_bytes_max)
        self._wall_clock = wall_clock

    async def begin(
        self,
        call: Call,
        course: Course,
        headers: Sequence[Header],
        fingerprint: str,
        responder: Responder,
    ) -> Responder | None:
        """Answer the call, if it was answered before. Else the responder it goes on with, which keeps what it needs.

        Raises `RequestError` for a key that cannot be used, `PolicyDenied`, `StoreError`.
        """
        self._admission.require_access(call, course)
        values = [value for name, value in headers if name == IDEMPOTENCY_KEY]
        if values:
            claimed = await self._idempotency.claim(course.account, call.request_id, _only(values), fingerprint)
            if isinstance(claimed, KeptAnswer):
                await self._replay(call, course, claimed, responder)
                return None
            call.claim = claimed
        responder = self._recorded(call, course, responder)
        if course.cache_wish == "read":
            course.cache_key = self._cache.key(course.account, course.request, course.offer.model, course.outgoing)
            found = await self._cache.find(course.cache_key)
            self._metrics.cache_looked_up(is_hit=found is not None)
            if found is not None:
                await self._answer_hit(call, course, found, responder)
                return None
        return responder

    def body_hash(self, receive: Receive, content_type: bytes) -> BodyHash:
        """What reads the body of a call with an `Idempotency-Key`, for its fingerprint."""
        return self._idempotency.body_hash(receive, content_type)

    def leave(self, call: Call) -> None:
        """The call has ended, however it did."""
        if call.claim is not None:
            self._idempotency.leave(call.claim)
        if call.recorder is not None:
            call.recorder.close()

    def taken(self) -> GatewayError:
        """For a call whose key was reserved by another process between its claim and its hold."""
        return self._idempotency.conflict()

    def note_sent(self, call: Call, admitted: Admitted) -> None:
        """A deployment has begun to answer: under what its answer may be kept is known now."""
        if admitted.cache_wish not in ("read", "refresh") or admitted.clamped_to is not None:
            return
        if not admitted.cache_key:  # else it was looked for under the same: to make one takes 4 ms for 1 MB
            assert call.account is not None  # noqa: S101 -- nobody is admitted without one
            admitted.cache_key = self._cache.key(call.account, admitted.request, admitted.model, admitted.outgoing)

    async def keep_whole(
        self,
        call: Call,
        admitted: Admitted,
        ending: Ending,
        cost_nano_usd: int,
        body: bytes,
        answer: Mapping[str, Any] | None,
        content_type: bytes,
    ) -> None:
        """Keep an answer that was booked, if it is fit to be given again."""
        if admitted.cache_key and answer is not None:
            await self._keep(call, admitted, ending, cost_nano_usd, body, answer, content_type)

    async def keep_stream(
        self, call: Call, admitted: Admitted, ending: Ending, cost_nano_usd: int, responder: Responder, rest: bytes
    ) -> None:
        """The same for a stream that was passed on by `responder`; `rest` is what has not left yet."""
        if admitted.cache_key and isinstance(responder, Recorder) and (said := responder.body) is not None:
            content_type = next((value for name, value in responder.headers if name == b"content-type"), b"")
            await self._keep(call, admitted, ending, cost_nano_usd, said + rest, None, content_type)

    async def _keep(
        self,
        call: Call,
        admitted: Admitted,
        ending: Ending,
        cost_nano_usd: int,
        body: bytes,
        answer: Mapping[str, Any] | None,
        content_type: bytes,
    ) -> None:
        if ending.error is not None or ending.outcome != "ok" or admitted.clamped_to is not None:
            return
        assert call.account is not None  # noqa: S101 -- nobody is admitted without one
        await self._cache.keep(
            admitted.cache_key,
            call.account,
            admitted.request,
            admitted.model,
            ending.metered,
            answer=answer,
            body=body,
            content_type=content_type.decode("latin-1"),
            cost_nano_usd=cost_nano_usd,
        )

    def _recorded(self, call: Call, course: Course, responder: Responder) -> Responder:
        """With a recorder in front, where bytes are needed that have left by the end: whole answers to be cached are not."""
        bounds = [self._idempotency.answer_bytes_max] if call.claim is not None else []
        if course.cache_wish in ("read", "refresh") and course.request.is_streaming:
            bounds.append(self._cache.answer_bytes_max)
        if not bounds:
            return responder
        call.recorder = Recorder(
            responder,
            room=self._room,
            bytes_max=max(bounds),
            outlives_client=call.claim is not None,
            before_end=None if call.claim is None else self._keeper(call, call.claim),
        )
        return call.recorder

    def _keeper(self, call: Call, claim: Claim) -> Callable[[Recorder], Awaitable[None]]:
        async def keep(recorder: Recorder) -> None:
            # Before the hold nothing is reserved; and what cost nothing and failed may be tried anew.
            if claim.is_freed or not call.is_ended:
                return
            await self._idempotency.keep(claim, recorder.status, recorder.headers, recorder.body)

        return keep

    # Answers

    async def _replay(self, call: Call, course: Course, kept: KeptAnswer, responder: Responder) -> None:
        """The first call's answer once more. Nothing is taken, booked or dialled."""
        self._metrics.replayed()
        log_request(
            "request_replayed",
            {
                "request_id": call.request_id,
                "first_request_id": kept.request_id,
                "creator": call.creator,
                "key_id": call.key_id,
                "endpoint": call.endpoint,
                "status": kept.status,
                "latency_ms": call.elapsed_ms(),
            },
        )
        headers = [
            *((name, call.request_id.encode()) for name in call.shape.request_id_headers),
            (b"x-gateway-idempotent-replay", kept.request_id.encode()),
            *await self._admission.window_headers(course.account),
            _NO_COST,
            *kept.headers,
        ]
        if _is_stream(kept.headers):
            headers += _AS_IT_COMES
        await responder.send(kept.status, headers, kept.body)

    async def _answer_hit(self, call: Call, course: Course, kept: CachedAnswer, responder: Responder) -> None:
        """What was answered before, as it was; booked with cost 0."""
        taken = await self._admission.admit_hit(call, course)
        call.first_byte_at = time.monotonic()
        try:
            await self._booking.hit(call, course, kept, taken)
        except Conflict:
            raise self.taken() from None
        body, request = kept.body, course.request
        if kept.kind == "image" and request.keeps_state:
            # Its URLs were for the first caller, and for a while: this one gets its own.
            answered = Answered(
                call.request_id, course.account, course.offer.model, body, parse_answer(body), None, cost_nano_usd=0
            )
            body = await request.keep(answered) or body
        age_s = max(0, int(self._wall_clock() - kept.created_at_ms / 1000))
        headers: list[Header] = [
            *((name, call.request_id.encode()) for name in call.shape.request_id_headers),
            (b"x-gateway-model", kept.model.encode("latin-1", "replace")),
            (b"x-gateway-provider", kept.provider.encode("latin-1", "replace")),
            (b"x-gateway-cache", b"hit"),
            (b"age", b"%d" % age_s),
            *limit_headers(taken.states),
            _NO_COST,
            (b"content-type", kept.content_type.encode("latin-1")),
        ]
        if kept.is_streaming:
            headers += _AS_IT_COMES
            responder.start(200, headers)
            await responder.end(body)
        else:
            await responder.send(200, headers, body)


def _only(values: Sequence[bytes]) -> bytes:
    """Raises `RequestError` for more than one: whichever counted, somebody on the way meant the other."""
    if len(values) > 1:
        raise RequestError(
            "`Idempotency-Key` is given twice: a call has one.", param=IDEMPOTENCY_KEY.decode(), code="invalid_value"
        )
    return values[0]


def _is_stream(headers: Sequence[Header]) -> bool:
    return any(name == b"content-type" and value.startswith(b"text/event-stream") for name, value in headers)


def cache_header(admitted: Admitted) -> Header | None:
    """What a call that was not answered from the cache is told about it; None where it did not want any."""
    shown = _SHOWN.get(admitted.cache_wish)
    return None if shown is None else (b"x-gateway-cache", shown)
