"""What the ledger's short words mean, in sentences. Kept in step with the words by the tests."""

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["FLAGS", "OUTCOMES", "SOURCES", "flag_words", "outcome_kind", "reached_limits"]

FLAGS: Mapping[str, str] = {
    "over_hold": "The call cost more than was held for it: what it cost is booked in full.",
    "usage_refused": "The provider's report of usage could not be true, so usage was counted by the written rule.",
    "unpriced_usage": "The provider reported a kind of usage that the price row has no rate for: it is booked at the rate of text.",
    "unpriced_tier": "The provider served a service tier that the price row does not know.",
    "more_images": "The provider sent more images than were asked for.",
    "late_settle": "The call was first booked as lost, and ended well later: this books the difference.",
}
OUTCOMES: Mapping[str, str] = {
    "ok": "It ended well.",
    "client_gone": "The client left before the end.",
    "upstream_refused": "The provider answered with an error.",
    "upstream_error": "The provider sent an error inside the stream.",
    "upstream_died": "The provider's answer broke off.",
    "upstream_timeout": "The provider took too long.",
    "upstream_invalid": "The provider's answer made no sense.",
    "upstream_unreachable": "The provider could not be reached.",
    "aborted": "The gateway ended it: it was stopping, or a bound was reached.",
    "crashed": "The gateway's process died while the call was open; it is booked at an estimate, never above its hold.",
    "internal_error": "The gateway made a mistake; its log says which.",
}
SOURCES: Mapping[str, str] = {
    "provider": "as the provider reported it",
    "provider_partial": "as the provider reported it before the answer broke off",
    "estimated": "estimated by the written rule",
    "none": "nothing was used",
}
_FINE = frozenset({"ok"})
_DOUBTFUL = frozenset({"client_gone", "aborted"})


def flag_words(flag: str) -> str:
    return FLAGS.get(flag, flag)


def outcome_kind(outcome: str) -> str:
    """Which badge it gets."""
    return "ok" if outcome in _FINE else "warn" if outcome in _DOUBTFUL else "bad"


def reached_limits(steps: Iterable[Mapping[str, Any]], field: str) -> dict[str, int | None]:
    """Limits that led to a cheaper model, by name, with what each was: afterwards they are not asked any more, and stand
    in the list of limits as if there were none. `steps` are downgrades, whose `field` is the limit."""
    return {str(step.get("limit_name")): step.get(field) for step in steps}
