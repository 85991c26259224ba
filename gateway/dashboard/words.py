"""What people are told in place of the API's names: of limits and keys of plans, units, payers, outcomes, kinds and reasons.

One table for the pages of admins and of creators. A name that is not in it is said as it is, with spaces.
"""

from collections.abc import Callable, Mapping

from markupsafe import Markup, escape

__all__ = [
    "FILTERS",
    "deed_words",
    "kind_words",
    "limit_words",
    "message_words",
    "option_words",
    "outcome_words",
    "payer_words",
    "reason_words",
]

_KEYS: Mapping[str, str] = {
    "requests_per_minute": "Requests a minute",
    "requests_per_hour": "Requests an hour",
    "requests_per_day": "Requests a day",
    "tokens_per_minute": "Tokens a minute",
    "tokens_per_day": "Tokens a day",
    "concurrent_calls": "Calls at once",
    "quota_usd_per_month": "Quota of the month",
    "budget_usd_per_month": "Budget of the month",
    "budget_hard_usd_per_month": "Hard budget of the month",
    "when_budget_reached": "When the budget is reached",
    "free_images_per_day": "Free images a day",
    "promo_credits": "Promotional credits",
    "credits": "Credits",
    "payers": "Payers, in their order",
    "kind": "Kind",
    "model": "Model",
    "models": "Models",
    "tiers": "Tiers",
    "endpoints": "Endpoints",
    "addresses": "Networks calls may come from",
    "providers": "Limits towards providers",
    "cache": "Kept answers",
    "cache_scope": "Kept answers are shared with",
    "when_unusual": "When an hour is out of the usual",
    "on_store_error": "When the shared counters are down",
    "prices": "Prices of its own",
    "override_warnings": "Overrides that say nothing",
}
"""Limits, and the other keys of a plan."""
_OF_KEY = "key_"
_PAYERS: Mapping[str, str] = {
    "free_images": "free images",
    "promo_credits": "promotional credits",
    "credits": "credits",
    "quota": "quota",
}
_UNITS: Mapping[str, str] = {
    "nano_usd": "US dollars",
    "cost_nano_usd": "US dollars",
    "request": "requests",
    "token": "tokens",
    "call": "calls",
    "image": "images",
    "credit": "credits",
}
_OUTCOMES: Mapping[str, str] = {
    "ok": "ok",
    "client_gone": "client left",
    "upstream_refused": "refused by provider",
    "upstream_error": "error of provider",
    "upstream_died": "broke off",
    "upstream_timeout": "timed out",
    "upstream_invalid": "senseless answer",
    "upstream_unreachable": "unreachable",
    "aborted": "ended by gateway",
    "crashed": "lost in a crash",
    "internal_error": "gateway's mistake",
}
_KINDS: Mapping[str, str] = {
    "usage": "call",
    "grant": "grant",
    "refund": "refund",
    "adjustment": "adjustment",
    "expiry": "expiry",
}
_REASONS: Mapping[str, str] = {
    "rate_limit_exceeded": "too many at once or in a stretch of time",
    "insufficient_quota": "quota, budget or credits used up",
    "request_too_large": "larger than its limit",
    "model_not_allowed": "model not allowed",
    "tier_not_allowed": "tier not allowed",
    "endpoint_not_allowed": "endpoint not allowed",
    "model_not_found": "no such model",
    "unpriced_model": "model without a price",
    "unpriced_feature": "feature without a price",
    "address_not_allowed": "address not allowed",
    "context_length_exceeded": "longer than the model's context",
    "overloaded": "gateway overloaded",
    "circuit_open": "provider failing",
    "provider_unavailable": "provider not available",
}
"""Codes of refusals."""
_OPTIONS: Mapping[str, str] = {
    "downgrade": "cheaper models",
    "deny": "calls are refused",
    "downgrade_then_deny": "cheaper models, then refused",
    "asked": "where a call asks",
    "on": "unless a call declines",
    "never": "never",
    "creator": "nobody",
    "shared": "everybody who shares",
    "notify": "tell",
    "throttle": "slow down",
    "pause": "pause the key",
    "local_share": "each process its share",
    "allow": "not asked",
    "unlimited": "unlimited",
}
"""Values of the keys that take a word."""
_FIELDS: Mapping[str, str] = {
    "agent": "Agent",
    "amount_usd": "US dollars",
    "attempt": "Attempt",
    "confirm": "Type it to delete it",
    "credits": "Credits",
    "creator": "Creator",
    "cursor": "Older",
    "endpoint": "Endpoint",
    "expires_at": "Expires",
    "feature": "Feature",
    "from": "From",
    "grace_s": "Old key for",
    "id": "Id",
    "kind": "Kind",
    "model": "Model",
    "models": "Models",
    "name": "Name",
    "note": "Note",
    "outcome": "Outcome",
    "overrides": "Overrides",
    "package": "Package",
    "payer": "Payer",
    "period": "Period",
    "plan": "Plan",
    "provider": "Provider",
    "request_id": "Request id",
    "role": "Role",
    "size": "Size",
    "to": "Before",
    "top": "Largest",
}
"""What stands beside the fields of forms."""
_DEEDS: Mapping[str, str] = {"notify": "told", "throttle": "slowed down", "pause": "key paused"}
"""What was done about an hour out of the usual."""
_NOTICES: Mapping[str, str] = {
    "quota.80_percent": "80 % of the quota",
    "quota.95_percent": "95 % of the quota",
    "quota.exhausted": "quota used up",
    "budget.80_percent": "80 % of the budget",
    "budget.95_percent": "95 % of the budget",
    "budget.exhausted": "budget used up",
    "budget.downgraded": "cheaper models",
    "credits.exhausted": "credits used up",
    "key.expiring": "key expires soon",
    "key.paused": "key paused",
    "creator.throttled": "slowed down",
    "anomaly.request_rate": "unusual number of calls",
    "anomaly.cost": "unusual cost",
    "day_cost.above": "costly day",
    "error_rate.above": "many errors",
    "test": "test",
}
_STATES: Mapping[str, str] = {
    "ok": "ok",
    "cooling_down": "cooling down",
    "half_open": "being tried again",
    "open": "circuit open",
}
"""Of a provider's deployment."""


def limit_words(name: str) -> str:
    """`Requests an hour`; of limits of the virtual key alone, `..., of this key`, and towards one provider, `..., to openai`."""
    plain = name.removeprefix(_OF_KEY)
    known = _KEYS.get(plain)
    if known is None:
        found = next((key for key in _KEYS if plain.endswith(f"_{key}")), None)
        known = _spaced(plain) if found is None else f"{_KEYS[found]}, to {plain.removesuffix(f'_{found}')}"
    return known if plain == name else f"{known}, of this key"


def payer_words(name: str) -> str:
    return _PAYERS.get(name, _spaced(name).lower())


def unit_words(name: str) -> str:
    return _UNITS.get(name, name.replace("_", " "))


def outcome_words(name: str) -> str:
    return _OUTCOMES.get(name, name.replace("_", " "))


def kind_words(name: str) -> str:
    """Of an entry of the ledger, or of a notice."""
    return _KINDS.get(name) or _NOTICES.get(name) or name.replace("_", " ")


def reason_words(code: str) -> str:
    """Why a call was refused."""
    return _REASONS.get(code, code.replace("_", " "))


def option_words(value: str) -> str:
    """A value that a key of a plan may have: `cheaper models` of `downgrade`."""
    return _OPTIONS.get(value, value.replace("_", " "))


def message_words(text: str) -> Markup:
    """A message of the API for people: a name between backticks is the field as its form calls it, or stands out as code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    return Markup("").join(escape(part) if index % 2 == 0 else _named(part) for index, part in enumerate(parts))


def _named(name: str) -> Markup:
    field = _FIELDS.get(name)
    return Markup("<code>{}</code>").format(name) if field is None else Markup("“{}”").format(field)


def deed_words(action: str) -> str:
    """What was done about an hour out of the usual: `slowed down` of `throttle`."""
    return _DEEDS.get(action, action.replace("_", " "))


def state_words(name: str) -> str:
    """Of a provider's deployment."""
    return _STATES.get(name, name.replace("_", " "))


def _spaced(name: str) -> str:
    return name.replace("_", " ").capitalize()


FILTERS: Mapping[str, Callable[[str], str]] = {
    "limit_words": limit_words,
    "payer_words": payer_words,
    "unit_words": unit_words,
    "outcome_words": outcome_words,
    "kind_words": kind_words,
    "reason_words": reason_words,
    "option_words": option_words,
    "deed_words": deed_words,
    "state_words": state_words,
}
"""What templates call them."""
