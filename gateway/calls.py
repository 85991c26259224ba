"""One call in flight, and the register of all of them: what a drain, a deadline or a leaving client can interrupt."""

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, NamedTuple

from gateway.errors import GatewayError, StoreError
from policies.types import Account

if TYPE_CHECKING:
    from gateway.idempotency import Claim
    from gateway.recorder import Recorder

InterruptReason = Literal["client_gone", "total_timeout", "drain", "after_done"]


_NOT_YET = datetime.min.replace(tzinfo=UTC)


class ClientShape(NamedTuple):
    """What the clients of an endpoint look for, beside the answer itself."""

    error: Callable[[GatewayError], bytes] = GatewayError.body
    """The body of an error."""
    error_event_name: str = ""
    """The name of the event that tells an error in the middle of a stream; empty: it has none."""
    request_id_headers: tuple[bytes, ...] = (b"x-request-id",)

    def error_event(self, error: GatewayError) -> bytes:
        name = f"event: {self.error_event_name}\n".encode() if self.error_event_name else b""
        return b"%bdata: %b\n\n" % (name, self.error(error))


OPENAI_SHAPE = ClientShape()


class Call:
    """Lifetime: one request. Only its own task changes it, except through `interrupt`."""

    __slots__ = (
        "_is_dialled",
        "_is_interruptible",
        "_task",
        "account",
        "admitted_at",
        "claim",
        "creator",
        "deadline_at",
        "endpoint",
        "first_byte_at",
        "hold",
        "interrupted_by",
        "is_ended",
        "key_id",
        "recorder",
        "request_id",
        "shape",
        "started_at",
        "trace_parent",
    )

    def __init__(self, endpoint: str, shape: ClientShape = OPENAI_SHAPE) -> None:
        self.request_id = new_request_id()
        self.endpoint = endpoint
        self.shape = shape
        """What this endpoint's clients expect beside the answer itself."""
        self.started_at = time.monotonic()
        self.admitted_at = _NOT_YET
        """The instant that decides on the call's period; set when it is admitted."""
        self.first_byte_at: float | None = None
        self.deadline_at = float("inf")
        """On the monotonic clock: when even a client that will not read has had its time."""
        self.account: Account | None = None
        """Whose limits the answer tells, also where it is an error; None before the key is known."""
        self.trace_parent = ""
        """The trace that the caller is in, as it says; only where traces are sent."""
        self.creator = ""
        self.key_id = ""
        self.claim: Claim | None = None
        """On its `Idempotency-Key`; None where it came without."""
        self.recorder: Recorder | None = None
        """Where its answer may be given again."""
        self.hold: asyncio.Future[None] | None = None
        """Done when the hold is durable."""
        self.is_ended = False
        """The hold has been ended, or its settle is on the way."""
        self.interrupted_by: InterruptReason | None = None
        self._task = asyncio.current_task()
        self._is_interruptible = False
        self._is_dialled = False

    @property
    def is_dialled(self) -> bool:
        """From here on the request counts as sent, unless the provider's failure says otherwise."""
        return self._is_dialled

    def note_dial(self) -> None:
        """The provider is about to be written to."""
        self._is_dialled = True

    def forget_dial(self) -> None:
        """The attempt failed at no cost; until the next one dials, nothing counts as sent."""
        self._is_dialled = False

    @property
    def is_cancelled(self) -> bool:
        """The server gave the call up, without a reason of ours."""
        return self._task is not None and self._task.cancelling() > 0

    def allow_interrupts(self) -> None:
        """From here on `interrupt` cancels what the call waits for."""
        self._is_interruptible = True

    def forbid_interrupts(self) -> None:
        """From here on the call runs to its end: it settles."""
        self._is_interruptible = False

    def interrupt(self, reason: InterruptReason) -> None:
        """Stop waiting for upstream or client, and settle. Does nothing before the dial and once settling began."""
        if self._is_interruptible and self._task is not None:
            self._is_interruptible = False
            self.interrupted_by = reason
            self._task.cancel()

    def absorb_interrupt(self) -> bool:
        """True if the cancellation just caught was our own interrupt, which ends here; False if it must go on."""
        if self.interrupted_by is None or self._task is None:
            return False
        self._task.uncancel()
        return True

    def elapsed_ms(self) -> int:
        return int((time.monotonic() - self.started_at) * 1000)

    def ttft_ms(self) -> int | None:
        """From the request to the first byte relayed."""
        return None if self.first_byte_at is None else int((self.first_byte_at - self.started_at) * 1000)


class Calls:
    """Every call in flight. Bounded: above `calls_max` new ones get 503."""

    def __init__(self, calls_max: int) -> None:
        self._calls_max = calls_max
        self._open: dict[str, Call] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self.is_draining = False
        self.is_cut = False

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, request_id: object) -> bool:
        return request_id in self._open

    def __iter__(self) -> Iterator[Call]:
        return iter(list(self._open.values()))

    def enter(self, call: Call) -> None:
        """Raises `StoreError` above the bound, and once the grace of a drain is over."""
        self.refuse_if_cut()
        if len(self._open) >= self._calls_max:
            raise StoreError(
                "The gateway is at its limit of calls in flight; try again in a moment.",
                code="overloaded",
                headers={"retry-after": "1"},
            )
        self._open[call.request_id] = call
        self._idle.clear()

    def refuse_if_cut(self) -> None:
        """Also for a call about to be admitted: it was still being read when the grace ended. Raises `StoreError`."""
        if self.is_cut:
            raise _shutting_down()

    def leave(self, call: Call) -> None:
        self._open.pop(call.request_id, None)
        if not self._open:
            self._idle.set()

    def interrupt_overdue(self) -> None:
        """End the calls whose client stopped reading: past its deadline an upstream exchange would have ended itself."""
        now = time.monotonic()
        for call in self:
            if now > call.deadline_at:
                call.interrupt("total_timeout")

    def begin_drain(self) -> None:
        """The process is about to end. What still comes, on connections that are open, is served."""
        self.is_draining = True

    def interrupt_all(self) -> None:
        """The grace is over: end what runs, and let nothing begin or dial any more."""
        self.is_cut = True
        for call in self:
            call.interrupt("drain")

    async def wait_idle(self) -> None:
        await self._idle.wait()


def _shutting_down() -> StoreError:
    return StoreError(
        "The gateway is shutting down; try again in a moment.",
        code="shutting_down",
        headers={"retry-after": "1", "connection": "close"},
    )


def new_request_id() -> str:
    """`req_` and 32 hex digits, the first 12 of them the time in milliseconds: ids sort by time, and index well."""
    return f"req_{time.time_ns() // 1_000_000:012x}{random.getrandbits(80):020x}"
