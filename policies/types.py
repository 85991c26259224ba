"""What every policy speaks: the call, the account, limits as data, and a refusal.

A policy is a pure function `(call, account, now) -> Limits | Deny`. It reads no clock, store or environment: it says
which limits the call must fit into, and the counter store takes all of them or none, in one atomic step.
NamedTuples, because a handful is made for every call on the hot path.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple, get_args

Kind = Literal["rolling", "calendar", "gauge", "balance"]
"""`rolling`: units in any window of `window_s`; `calendar`: units in a period named in the key; `gauge`: units at once,
given back when the call ends; `balance`: units left of what was granted."""

Unit = Literal["request", "token", "call", "nano_usd", "cost_nano_usd", "image", "credit"]
"""`nano_usd` is what the creator owes, `cost_nano_usd` what the provider costs; settling corrects amounts by unit."""

Payer = Literal["free_images", "promo_credits", "credits", "quota"]
PAYERS: tuple[Payer, ...] = ("free_images", "promo_credits", "credits", "quota")

BudgetAction = Literal["downgrade", "deny", "downgrade_then_deny"]
DowngradeChoice = Literal["possible", "impossible", "refused"]
CacheUse = Literal["asked", "on", "never"]
"""`asked`: kept answers are used where the call says so; `on`: unless it says otherwise; `never`: whatever it says."""
CacheScope = Literal["creator", "shared"]
"""Whose answers a creator may be given: its own, or those of everybody whose plan says `shared`."""
AnomalyAction = Literal["notify", "throttle", "pause"]
OnStoreError = Literal["deny", "local_share", "allow"]
"""While the store that counts for all processes cannot be used: `deny` refuses the call, `local_share` lets each process
give out its share of what is left, `allow` does not ask the limit."""
LimitedBy = Literal[
    "rate_limit", "token_rate", "concurrency", "free_images", "promo_credits", "credits", "quota", "budget"
]
LIMITED_BY: tuple[LimitedBy, ...] = get_args(LimitedBy)
"""What `Plan.on_store_error` has a say about."""
MAY_ALLOW: frozenset[LimitedBy] = frozenset({"rate_limit", "token_rate", "concurrency"})
"""Limits that nobody owes anything for. Without the others an outage would be money for nothing."""


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
    unit: Unit
    refusal: Deny
    """What is said when it does not fit and no other limit of its group does. The message says which limit of which
    plan; `policies.refusals.explain` adds figures, the wait and what to do."""
    window_s: int = 0
    """Length of a rolling window; 0 for other kinds."""
    resets_at: float | None = None
    """When a calendar period ends, as a Unix time; None for other kinds."""
    amount_min: int | None = None
    """The store may take less than `amount`, down to this: what is left, and only half of what is left while other holds
    are open on the counter. None: all of it or nothing."""
    resume_below: int | None = None
    """Once refused, the counter stays refused until what is used with this call's amount is below this figure, or the
    capacity was raised. None: no such memory."""
    lapsed: int = 0
    """Units of a balance that are gone without having been spent: at least so many count as used."""
    downgrades: bool = False
    """When it does not fit, a cheaper model is tried before the refusal is told."""
    on_store_error: OnStoreError = "local_share"
    """What becomes of it while the counters of all processes cannot be asked."""


LimitGroup = tuple[Limit, ...]
"""Alternatives: satisfied by its first limit with room."""


class Call(NamedTuple):
    """What a policy may know of a call. Amounts are worst cases where nothing else is said."""

    endpoint: str
    requested_model: str
    model: str
    """The model that would serve it: after a downgrade another than the requested one."""
    provider: str
    tier: str
    charge_nano_usd: int
    """What the creator may owe."""
    cost_nano_usd: int
    """What the provider may cost."""
    expected_nano_usd: int = 0
    """What the provider most likely costs: images exactly, chat by its explicit bound or 1 000 tokens of output."""
    charge_min_nano_usd: int | None = None
    """What the hold may shrink to where the caller left the length of the answer open; None where it may not."""
    cost_min_nano_usd: int | None = None
    tokens: int = 0
    """For token windows: ceil(bytes / 4) of the input and the explicit bound of the output, else 1 000."""
    images: int = 0
    """Images asked for; 0 where none are."""
    credits: int | None = None
    """The price in credits of all that was asked for; None for a model without one."""
    address: str = ""
    """The caller's IP address; empty when it is not known."""
    downgrade: DowngradeChoice = "impossible"
    """Whether a cheaper model could do this call; `refused` when the caller will not have one."""


@dataclass(frozen=True, slots=True)
class ProviderLimits:
    """What a plan allows towards one provider, beside its other limits. None means without limit."""

    requests_per_minute: int | None = None
    requests_per_hour: int | None = None
    requests_per_day: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None
    concurrent_calls: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A named set of limits. None means without limit."""

    name: str
    requests_per_hour: int | None = None
    quota_nano_usd_per_month: int | None = None
    requests_per_minute: int | None = None
    requests_per_day: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None
    concurrent_calls: int | None = None
    budget_nano_usd_per_month: int | None = None
    """The soft cap on provider cost, whoever pays."""
    budget_is_auto: bool = False
    """The soft cap was not named: it is the smaller of 100 USD and 80 % of the quota, whatever the quota becomes."""
    budget_hard_nano_usd_per_month: int | None = None
    """The cap at which `downgrade_then_deny` refuses; None: no such cap."""
    when_budget_reached: BudgetAction = "downgrade"
    free_images_per_day: int = 0
    payers: tuple[Payer, ...] = ("free_images", "promo_credits", "credits")
    """For models with a price in credits, in the order they are asked; all other calls are the quota's."""
    models: frozenset[str] | None = None
    """Names of models; None allows all, and so for the next three."""
    tiers: frozenset[str] | None = None
    endpoints: frozenset[str] | None = None
    addresses: tuple[str, ...] | None = None
    """Networks in CIDR notation from which calls may come."""
    providers: Mapping[str, ProviderLimits] = field(default_factory=dict)
    cache: CacheUse = "asked"
    cache_scope: CacheScope = "creator"
    when_unusual: AnomalyAction = "notify"
    """What is done about an hour out of the usual, beside telling it."""
    on_store_error: Mapping[LimitedBy, OnStoreError] = field(default_factory=dict)
    """By what sets the limit; `local_share` where nothing is said. Holds for a key's own limits, too."""
    prices: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """What this account owes instead of the catalog's price, by model: pico-dollars by price field, or `credits`."""
    is_overridden: bool = field(default=False, compare=False)
    """Some of it is the creator's or the key's own, not what the plan of this name says."""
    counted: frozenset[str] = frozenset()
    """Optional windows that are counted though this plan sets no limit, because another plan of the file does."""

    def without_store(self, limited_by: LimitedBy) -> OnStoreError:
        return self.on_store_error.get(limited_by, "local_share")

    def __hash__(self) -> int:
        # Policies keep what depends on the plan alone; hashing two dozen fields a call would cost more than that saves.
        return hash(self.name)


class PromoGrant(NamedTuple):
    """Promotional credits given once. What is unspent at `expires_at` (Unix time; None: never) is gone."""

    credits: int
    expires_at: float | None


NO_GRANTS: tuple[PromoGrant, ...] = ()


@dataclass(frozen=True, slots=True)
class Account:
    """Who pays and under which limits, as it stands at this call: plan and creator's overrides merged."""

    creator: str
    account_id: str
    """Whom the money belongs to: the creator itself, until teams exist."""
    key_id: str
    """The public id of the virtual key."""
    plan: Plan
    models: frozenset[str] | None = None
    """Models the key may use; None for all."""
    key_plan: Plan | None = None
    """The key's own limits, counted per key beside the creator's; only its limits mean something here, what else a key
    overrides is in `plan` already."""
    credits_granted: int = 0
    """All credits ever given, without promotional ones; what was spent is the counter's to know."""
    promo_grants: tuple[PromoGrant, ...] = NO_GRANTS
    """Every grant of promotional credits, expired ones too."""
    scopes: frozenset[str] = frozenset()
    default_plan: str | None = None
    """The plan of creators whom a key with the scope `act_for` brings along; None: it may not bring new ones."""
    limits_id: str = ""
    """The virtual key on whose counters `key_plan` is counted: the first of those this one replaced by rotation. Empty:
    `key_id`."""
    memo: dict[Any, Any] = field(default_factory=dict, init=False, compare=False, repr=False)
    """Where policies keep what they made of this account and is the same for its next call; under keys that begin with
    the policy's name. An account lives until anything about it changes, and its memo with it."""

    def __hash__(self) -> int:
        return hash(self.key_id)


Policy = Callable[[Call, Account, datetime], Sequence[LimitGroup] | Deny]
Overview = Callable[[Account, datetime], Sequence[Limit]]
