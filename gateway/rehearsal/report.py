"""The answer of a rehearsal as JSON: figures, the lines for the plans file, and what could not be known."""

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from typing import Any, NamedTuple

import orjson

from gateway.ledger.periods import ms_of, rfc3339
from gateway.plans import plan_table
from gateway.pricing import usd
from gateway.rehearsal.tallies import Tallies
from policies.types import Plan

__all__ = ["ASSUMPTIONS", "CREATORS_MAX", "Asked", "report"]

CREATORS_MAX = 1_000
ASSUMPTIONS = (
    "A call takes what it used and cost in the end: what it held beyond that while it was under way is not known.",
    "A call counts as under way for as long as it took to answer.",
    "Whoever is refused does not ask again, and whoever is downgraded asks for the same afterwards.",
    "A cheaper model would have used the same tokens and images; whether it could do the call is judged by endpoint and "
    "price alone.",
    "Every caller lets itself be downgraded: `x-gateway-downgrade: never` is not written down.",
    "Calls from addresses that a plan does not allow are not found out: addresses are not written down.",
    "What a kept answer served is served by it again, and nothing else is.",
    "Creators, keys, overrides, grants and prices are those of today; throttles, refunds and calls that were refused in "
    "truth are left out.",
    "The changed plans begin with the first day: what was used of the month and of the day before it stands as it was.",
    "Limits of a virtual key count its calls for the creators rehearsed here.",
)
"""What cannot be known of calls that are over, and what is taken for true instead."""


class Asked(NamedTuple):
    """What was rehearsed, and what stands beside it for comparison."""

    before: Mapping[str, Plan]
    after: Mapping[str, Plan]
    days: int
    first_day: date
    days_left_out: int
    to: datetime
    plan_of: Mapping[str, str]
    refused: Mapping[str, Mapping[str, int]]
    """In truth: creator -> code -> times."""


def report(asked: Asked, tallies: Tallies, *, is_complete: bool, took_ms: int) -> dict[str, Any]:
    changes = {name: _differences(asked.before[name], plan) for name, plan in asked.after.items()}
    return {
        "object": "rehearsal",
        "plans": list(asked.after),
        "changes": changes,
        "toml": _toml(changes),
        "from": rfc3339(ms_of(datetime.combine(asked.first_day, datetime.min.time(), UTC))),
        "to": rfc3339(ms_of(asked.to)),
        "days": asked.days,
        "days_left_out": asked.days_left_out,
        "complete": is_complete,
        "took_ms": took_ms,
        "totals": tallies.total().to_json(),
        "creators": _creators(asked, tallies),
        "creators_left_out": max(0, len(tallies.by_creator) - CREATORS_MAX),
        "by_day": [_day_json(day, tallies) for day in sorted(tallies.by_day)],
        "really_refused": _summed(asked.refused.values()),
        "assumptions": list(ASSUMPTIONS),
    }


def _creators(asked: Asked, tallies: Tallies) -> list[dict[str, Any]]:
    """Whose calls cost the most less first."""
    ordered = sorted(tallies.by_creator.items(), key=lambda each: (-each[1].saved_nano_usd, each[0]))
    return [
        {
            "creator": creator,
            "plan": asked.plan_of.get(creator, ""),
            **compared.to_json(),
            "really_refused": dict(asked.refused.get(creator, {})),
        }
        for creator, compared in ordered[:CREATORS_MAX]
    ]


def _day_json(day: str, tallies: Tallies) -> dict[str, Any]:
    of_day = tallies.by_day[day]
    return {
        "day": day,
        "calls": of_day.calls,
        "before_nano_usd": of_day.before.cost_nano_usd,
        "before_usd": usd(of_day.before.cost_nano_usd),
        "after_nano_usd": of_day.after.cost_nano_usd,
        "after_usd": usd(of_day.after.cost_nano_usd),
        "before_refused": of_day.before.refused,
        "after_refused": of_day.after.refused,
        "before_downgraded": of_day.before.downgraded,
        "after_downgraded": of_day.after.downgraded,
    }


def _summed(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for each in counts:
        for code, times in each.items():
            total[code] = total.get(code, 0) + times
    return total


def _differences(before: Plan, after: Plan) -> dict[str, dict[str, Any]]:
    old, new = plan_table(before), plan_table(after)
    return {key: {"from": old[key], "to": new[key]} for key in new if old[key] != new[key]}


# The lines for the file


def _toml(changes: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """What to write into plans.toml, in place of what these keys say there."""
    tables = []
    for name, differences in changes.items():
        if differences:
            lines = [f"{key} = {_toml_value(change['to'])}" for key, change in differences.items()]
            tables.append("\n".join((f"[plans.{_toml_key(name)}]", *lines)))
    return "\n\n".join(tables) + ("\n" if tables else "")


def _toml_value(value: Any) -> str:
    if value is None:
        return '"unlimited"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_toml_key(key)} = {_toml_value(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    return _quoted(str(value))


def _toml_key(key: str) -> str:
    return key if key.isascii() and key.replace("-", "").replace("_", "").isalnum() else _quoted(key)


def _quoted(text: str) -> str:
    """A basic string of TOML, whose escapes are those of JSON."""
    return orjson.dumps(text).decode()
