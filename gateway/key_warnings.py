"""What an admin should hear about a new key: limits of its own that its creator's make pointless."""

from dataclasses import fields

from gateway.plan_fields import PLAN_FIELDS
from policies.types import Plan, ProviderLimits

__all__ = ["idle_limits"]

_PROVIDER_WINDOWS = tuple(field.name for field in fields(ProviderLimits))


def idle_limits(own: Plan | None, creators: Plan) -> list[str]:
    """A sentence for each limit of a key above its creator's: a call must fit both, so that it never comes to count."""
    if own is None:
        return []
    warnings = []
    for name, field in PLAN_FIELDS.items():
        if field.is_limit and name != "providers":
            mine, theirs = getattr(own, field.attribute), getattr(creators, field.attribute)
            warnings += _warning(name, field.show(mine), field.show(theirs)) if _is_above(mine, theirs) else []
    for provider, limits in sorted(own.providers.items()):
        beneath = creators.providers.get(provider, ProviderLimits())
        for window in _PROVIDER_WINDOWS:
            mine, theirs = getattr(limits, window), getattr(beneath, window)
            warnings += _warning(f"providers.{provider}.{window}", mine, theirs) if _is_above(mine, theirs) else []
    return warnings


def _is_above(mine: int | None, theirs: int | None) -> bool:
    return mine is not None and theirs is not None and mine > theirs


def _warning(name: str, mine: object, theirs: object) -> list[str]:
    return [f"{name}: the key's {mine} has no effect, for its creator has {theirs} and a call must fit both."]
