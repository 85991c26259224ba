"""What the pipeline hands to the ledger: a hold before the dial, entries at the end.

Money is integer nano-dollars (1e-9 USD); instants are aware UTC. `cost` is what the provider costs at catalog price,
`charge` what the creator owes; they differ when somebody else pays.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Literal, NamedTuple, Protocol

from gateway.usage import NO_USAGE, Usage

UsageSource = Literal["provider", "provider_partial", "estimated", "none"]
Kind = Literal["usage", "grant", "refund", "adjustment", "expiry"]
Outcome = Literal[
    "ok",
    "client_gone",
    "upstream_refused",
    "upstream_error",
    "upstream_died",
    "upstream_timeout",
    "upstream_invalid",
    "upstream_unreachable",
    "aborted",
    "crashed",
    "internal_error",
]
"""`upstream_refused`: a 4xx or 5xx answer; `upstream_error`: an error event inside a stream; `aborted`: ended by us
(drain, a bound); `crashed`: the process died with the hold open."""


class Attribution(NamedTuple):
    """Who and what a call is booked on. The same on its hold and on its entries."""

    request_id: str
    account_id: str
    creator: str
    key_id: str
    feature: str
    """Empty when the caller named none; likewise `agent`."""
    agent: str
    tags: str
    """Comma-joined."""
    metadata: str
    """JSON object, at most 1 KB; empty when there is none."""
    endpoint: str
    requested_model: str
    client_request_id: str
    admitted_at: datetime
    """The call's period is this instant's, whenever it is settled."""


class Route(NamedTuple):
    """Who served one attempt, and at which price."""

    served_model: str
    provider: str
    price_version: str
    payer: str = "quota"
    """`free_images`, `promo_credits`, `credits` or `quota`: one for the whole call."""
    payer_unit: str = "nano_usd"
    """`nano_usd`, `image` or `credit`: the unit of `payer_amount`."""


class Reservation(NamedTuple):
    """An `Idempotency-Key` that is this call's from the moment its hold is durable."""

    id: str
    """HMAC of virtual key, creator and the caller's value."""
    fingerprint: str
    """Of method, path and body."""
    expires_at: datetime


class Hold(NamedTuple):
    """Money set aside for one call. `id` is the request id. Durable before any request byte goes upstream."""

    attribution: Attribution
    route: Route
    amount_nano_usd: int
    """The worst case of what the provider costs; kept from budget and payer until the hold ends."""
    orphan_usage: Usage
    """What is booked if the process dies: the input estimate and 1 000 output tokens."""
    orphan_cost_nano_usd: int
    """min(amount, price of `orphan_usage`)."""
    orphan_charge_nano_usd: int = 0
    """What the creator then owes; 0 unless the quota pays."""
    charge_price_version: str = ""
    """Of the price the creator owes, where that is not the catalog's; else empty."""
    downgrade_reason: str = ""
    """Why another model than the requested one serves the call: the limit's name; empty where none does."""
    decision: str = ""
    """JSON: the limits as they stood when this call took its share, and what led here (`gateway.decision`)."""
    reservation: Reservation | None = None
    """Written with the hold, or the hold is refused."""


class Entry(NamedTuple):
    """One attempt of one call, as it will stand for ever. The writer adds its id (uuid7) and `created_at`."""

    attribution: Attribution
    route: Route
    attempt: int
    final: bool
    kind: Kind
    usage: Usage
    usage_source: UsageSource
    cost_nano_usd: int
    charge_nano_usd: int
    payer_amount: int
    """What the entry took from its payer; negative gives: grants and refunds."""
    outcome: Outcome
    flags: str
    """Comma-joined: `over_hold`, `usage_refused`, `clamped` ...; empty for none."""
    error: str
    """A short code, never text of the provider."""
    status: int
    """What the caller was answered; 0 if nothing was."""
    cached: bool
    is_streaming: bool
    latency_ms: int
    ttft_ms: int | None
    upstream_request_id: str
    free_attempts: str
    """JSON list of the attempts that cost nothing, on the final entry; empty for none."""
    downgrade_reason: str
    variant: str = ""
    """What the price also depends on: `1024x1792/hd` of an image, the service tier the provider reported; else empty."""
    charge_price_version: str = ""
    """As in the hold."""
    decision: str = ""
    """As in the hold, whose copy it is."""
    saved_nano_usd: int = 0
    """What a cached answer cost when it was bought; 0 unless `cached`."""

    @property
    def takes_something(self) -> bool:
        """Whether anybody pays or owes anything for it."""
        return bool(self.cost_nano_usd or self.charge_nano_usd or self.payer_amount)


def entry_without_call(
    attribution: Attribution,
    route: Route,
    kind: Kind,
    *,
    cost_nano_usd: int = 0,
    charge_nano_usd: int = 0,
    payer_amount: int = 0,
    flags: str = "",
) -> Entry:
    """A grant, a refund, a correction: amounts, and nothing that only a call has."""
    return Entry(
        attribution=attribution,
        route=route,
        attempt=1,
        final=True,
        kind=kind,
        usage=NO_USAGE,
        usage_source="none",
        cost_nano_usd=cost_nano_usd,
        charge_nano_usd=charge_nano_usd,
        payer_amount=payer_amount,
        outcome="ok",
        flags=flags,
        error="",
        status=0,
        cached=False,
        is_streaming=False,
        latency_ms=0,
        ttft_ms=None,
        upstream_request_id="",
        free_attempts="",
        downgrade_reason="",
    )


class Ledger(Protocol):
    """What the pipeline needs of the writer. Both raise `StoreError` when it did not become durable."""

    def begin_hold(self, hold: Hold) -> "asyncio.Future[None]":
        """Hands the hold to the writer at once; the future is done when it survives kill -9.

        Raises `StoreError`, now or through the future: then the hold is not and will not be in the ledger. A settle may
        follow before the future is done: they are written in this order. Cancelling the future does not take it back.
        """
        ...

    async def settle(self, hold_id: str, entries: Sequence[Entry], *, frees: str = "") -> None:
        """Ends the hold and posts `entries` in one transaction; returns when it survives a power cut.

        `frees` is the id of a reservation that goes with it: the call cost nothing, and may be made anew.

        Exactly one caller ends a hold: for the others (a sweeper that came first) this posts nothing and returns.
        """
        ...

    def count_refusal(self, creator: str, reason: str) -> None:
        """Counted per creator, day and reason; written at most once a second. Never blocks, never raises."""
        ...
