"""Why a call was admitted as it was: written beside its hold and its entry, read again by whoever asks.

Kept small, because every call carries one: limits without a capacity are left out, but for budgets, and lists have no
names. `decision_json` gives the names back.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson

from gateway.counters.base import LimitState
from policies import budget
from policies.types import UNLIMITED

__all__ = ["Step", "decision_json", "decision_text"]

_LIMIT = ("name", "unit", "limit", "used", "held", "taken")
_ESTIMATE = (
    "worst_cost_nano_usd",
    "worst_charge_nano_usd",
    "expected_cost_nano_usd",
    "input_and_output_tokens",
    "hold_nano_usd",
)
_STEP = ("from_model", "to_model", "limit_name", "used", "held", "limit")


class Step(NamedTuple):
    """One downgrade on the way to the model that serves the call, with the limit as it stood."""

    from_model: str
    to_model: str
    limit_name: str
    used: int
    held: int
    capacity: int


def decision_text(
    states: Sequence[LimitState],
    estimate: tuple[int, int, int, int, int],
    steps: Sequence[Step] = (),
    clamped_to: int | None = None,
    overruled: Sequence[str] = (),
) -> str:
    """`states` right after the call took its share, which `used` or `held` therefore contain; `overruled` names limits
    that were only observed."""
    limits = [
        (limit.name, limit.unit, limit.capacity if limit.capacity < UNLIMITED else None, settled, held, taken)
        for limit, settled, held, _, taken in states
        if limit.capacity < UNLIMITED or limit.name == budget.NAME
    ]
    found: dict[str, Any] = {"limits": limits, "estimate": estimate}
    if steps:
        found["downgrades"] = [tuple(step) for step in steps]
    if clamped_to is not None:
        found["clamped_to"] = clamped_to
    if overruled:
        found["overruled"] = overruled
    return orjson.dumps(found).decode()


def decision_json(text: str) -> dict[str, Any] | None:
    """The decision with its names; None where none was kept (an entry from before there were any)."""
    if not text:
        return None
    kept = orjson.loads(text)
    return {
        "limits": [dict(zip(_LIMIT, limit, strict=True)) for limit in kept["limits"]],
        "estimate": dict(zip(_ESTIMATE, kept["estimate"], strict=False)),
        "downgrades": [dict(zip(_STEP, step, strict=True)) for step in kept.get("downgrades", ())],
        "clamped_to_tokens": kept.get("clamped_to"),
        "overruled_limits": kept.get("overruled", []),
    }
