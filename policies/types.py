"""What every policy speaks: the call, the account, limits as data, and a refusal.

A policy is a pure function `(call, account, now) -> Limits | Deny`. It reads no clock, store or environment: it says
which limits the call must fit into, and the counter store takes all of them or none, in one atomic step.
NamedTuples, because a handful is made for every call on the hot path.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple

Kind = Literal["rolling", "calendar", "gauge", "balance"]
"""`rolling`: units in any window of `window_s`; `calendar`: units in a period named in the key; `gauge`: units at once,
given back when the call ends; `balance`: units left of what was granted."""


class Deny(NamedTuple):
    """Why a call may not go on. `code` is OpenAI's or ours; the shell turns it into a status."""

    code: str
    message: str
    policy: str


class Refusal(NamedTuple):
    """A denial as the caller hears it: which words, how long to wait, and whether an SDK may ask again by itself."""

    deny: Deny
    retry_after_s: float | None
    """The true wait; None when waiting does not help."""
    should_retry: bool
    """False: the answer carries `x-should-retry: false`."""


UNLIMITED = 2**62
"""The capacity where a plan sets no limit. It is counted all the same: another plan may count on the next call."""


class Limit(NamedTuple):
    """One thing a call takes units of. Taken only together with every other limit of the call."""

    name: str
    """What people read: `requests_per_hour`, `quota_usd_per_month`."""
    key: str
    """The counter: limits with the same key share it."""
    kind: Kind
    capacity: int
    amount: int
    unit: str
    """`request`, `token`, `nano_usd`, `call` ...: settling corrects the amount by unit."""
    refusal: Deny
    """What is said when it does not fit and no other limit of its group does. The message says which limit of which
    plan; `policies.refusals.explain` adds figures, the wait and what to do."""
    window_s: int = 0
    """Length of a rolling window; 0 for other kinds."""
    resets_at: float | None = None
    """When a calendar period ends, as a Unix time; None for other kinds."""


LimitGroup = tuple[Limit, ...]
"""Alternatives: satisfied by its first limit with room."""


class Call(NamedTuple):
    """What a policy may know of a call."""

    endpoint: str
    requested_model: str
    model: str
    provider: str
    tier: str
    hold_nano_usd: int
    """The worst case of what it can cost."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A named set of limits. None means without limit."""

    name: str
    requests_per_hour: int | None
    quota_nano_usd_per_month: int | None


@dataclass(frozen=True, slots=True)
class Account:
    """Who pays and under which limits, as it stands at this call: plan, creator's overrides and key's overrides merged."""

    creator: str
    account_id: str
    """Whom the money belongs to: the creator itself, until teams exist."""
    key_id: str
    """The public id of the virtual key."""
    plan: Plan
    models: frozenset[str] | None = None
    """Models the key may use; None for all."""


Policy = Callable[[Call, Account, datetime], Sequence[LimitGroup] | Deny]
