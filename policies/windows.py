"""The table of everything a plan limits per stretch of time or at once, and which of it counts for a call.

A field of the table is a field of `Plan` and of `ProviderLimits` and a key of plans.toml at the same time. The words and
the counters are the policies' own: `rate_limit`, `token_rate`, `concurrency`.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from policies.owners import Owner, is_key, limit_name
from policies.types import UNLIMITED, Plan, ProviderLimits, Unit

__all__ = ["WINDOWS", "Counted", "Window", "counted", "optional_fields", "provider_field", "shown"]


class Window(NamedTuple):
    """One field: so many units in any `window_s` seconds, or at once where that is 0."""

    field: str
    unit: Unit
    window_s: int
    stretch: str
    """How a refusal says it, after `in`: `any 60 minutes`, `flight at once`."""
    is_core: bool
    """Counted for every creator, also where unlimited: another plan may limit it on the next call. The others are
    optional: counted only where the plan sets them or `plan.counted` names them; so is every window of a provider."""


WINDOWS: Mapping[str, Window] = {
    window.field: window
    for window in (
        Window("requests_per_minute", "request", 60, "any 60 seconds", False),
        Window("requests_per_hour", "request", 3_600, "any 60 minutes", True),
        Window("requests_per_day", "request", 86_400, "any 24 hours", False),
        Window("tokens_per_minute", "token", 60, "any 60 seconds", True),
        Window("tokens_per_day", "token", 86_400, "any 24 hours", False),
        Window("concurrent_calls", "call", 0, "flight at once", True),
    )
}

_NOT_LIMITED = ProviderLimits()
_NONE: frozenset[str] = frozenset()


class Counted(NamedTuple):
    """A window as it counts for one owner."""

    window: Window
    name: str
    """What people read: `requests_per_hour`, `openai_requests_per_minute`, `key_requests_per_hour`."""
    provider: str | None
    """Counts only calls to this provider; None: calls to any."""
    capacity: int


def counted(unit: Unit, owner: Owner, plan: Plan, provider: str) -> Iterator[Counted]:
    """The windows in `unit` that a call to `provider` takes from, as `plan` sets them for `owner`.

    A key's own are counted only where they are set.
    """
    yield from _own(unit, owner, plan, plan.counted)
    yield from _towards(provider, unit, owner, plan, plan.counted)


def shown(unit: Unit, owner: Owner, plan: Plan) -> Iterator[Counted]:
    """The windows in `unit` that concern `owner`, whatever the provider: those that are set, and a creator's core ones."""
    yield from _own(unit, owner, plan, _NONE)
    for provider in plan.providers:
        yield from _towards(provider, unit, owner, plan, _NONE)


def provider_field(provider: str, field: str) -> str:
    """How `Plan.counted` names a provider's window: `openai/requests_per_minute`."""
    return f"{provider}/{field}"


def optional_fields(plan: Plan) -> frozenset[str]:
    """The optional windows that `plan` sets, named as in `Plan.counted`."""
    own = {field for field, window in WINDOWS.items() if not window.is_core and getattr(plan, field) is not None}
    towards = {
        provider_field(provider, field)
        for provider, limits in plan.providers.items()
        for field in WINDOWS
        if getattr(limits, field) is not None
    }
    return frozenset(own | towards)


def _own(unit: Unit, owner: Owner, plan: Plan, also: frozenset[str]) -> Iterator[Counted]:
    for window in _of(unit):
        capacity: int | None = getattr(plan, window.field)
        is_wanted = not is_key(owner) and (window.is_core or window.field in also)
        if capacity is not None or is_wanted:
            yield Counted(window, limit_name(owner, window.field), None, _capacity(capacity))


def _towards(provider: str, unit: Unit, owner: Owner, plan: Plan, also: frozenset[str]) -> Iterator[Counted]:
    limits = plan.providers.get(provider, _NOT_LIMITED)
    for window in _of(unit):
        capacity: int | None = getattr(limits, window.field)
        is_wanted = not is_key(owner) and provider_field(provider, window.field) in also
        if capacity is not None or is_wanted:
            name = limit_name(owner, f"{provider}_{window.field}")
            yield Counted(window, name, provider, _capacity(capacity))


def _of(unit: Unit) -> Iterator[Window]:
    return (window for window in WINDOWS.values() if window.unit == unit)


def _capacity(limit: int | None) -> int:
    return UNLIMITED if limit is None else limit
