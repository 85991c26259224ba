"""plans.toml -> plans, and the overrides that creators and virtual keys have above them.

A file and an override have the same keys and the same checks. Money is exact: decimal in the file, a decimal string or
an integer in JSON, integer nano-dollars (1e-9 USD) inside.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from decimal import Context, Decimal
from pathlib import Path
from typing import Any, Literal, NamedTuple

import policies
from gateway.errors import RequestError
from gateway.pricing import usd
from gateway.toml_file import Table, TomlFile
from policies.types import Plan

__all__ = ["default_plan", "load_plans", "packaged_plans", "plan_to_json", "with_overrides"]

UNLIMITED = "unlimited"
PLANS_MAX = 1_000
COUNT_MAX = 10**9
USD_MAX = 10**9
"""In nano-dollars this is 1e18, which a 64-bit integer holds ninefold."""

_NANO_DIGITS = 9
_EXACT = Context(prec=64)
"""More digits than any amount we accept has: nothing is rounded away unseen."""
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DECIMAL = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,30})?")


class _Field(NamedTuple):
    """One key of a plan, as people write it, and the attribute of `Plan` it becomes."""

    attribute: str
    kind: Literal["count", "usd"]


_FIELDS: Mapping[str, _Field] = {
    "requests_per_hour": _Field("requests_per_hour", "count"),
    "quota_usd_per_month": _Field("quota_nano_usd_per_month", "usd"),
}


def load_plans(path: Path | None = None) -> Mapping[str, Plan]:
    """The plans of `path`, or of the packaged file, in the file's order; at least one.

    Raises `ConfigError` naming file, line and reason.
    """
    file = TomlFile(path or packaged_plans())
    root = Table(file, (), file.data)
    root.refuse_unknown({"plans"})
    tables = root.tables("plans", count_max=PLANS_MAX)
    plans = {name: _plan(name, table) for name, table in tables.items()}
    if not file.data.get("plans"):
        file.fault(("plans",), "has no plan: add a table such as [plans.free]")
    file.finish()
    return plans


def packaged_plans() -> Path:
    """The file that holds when no other is set."""
    return Path(policies.__file__).with_name("plans.toml")


def default_plan(plans: Mapping[str, Plan]) -> Plan:
    """The plan of a creator that was given none: `free`, or the first of the file."""
    return plans.get("free") or next(iter(plans.values()))


def with_overrides(plan: Plan, overrides: Mapping[str, object]) -> Plan:
    """`plan` with the limits of `overrides` above its own, as read from JSON; null or "unlimited" lifts a limit.

    Raises `RequestError` (400) naming the field that is unknown or has an unusable value.
    """
    if not overrides:
        return plan
    if not isinstance(overrides, Mapping):
        raise RequestError("overrides must be an object of plan fields", param="overrides")
    changes: dict[str, Any] = {}
    for name, value in overrides.items():
        field = _FIELDS.get(name)
        if field is None:
            raise _bad_override(name, f"is not a field of a plan; known are {', '.join(_FIELDS)}")
        if value is None or value == UNLIMITED:
            changes[field.attribute] = None
        else:
            changes[field.attribute] = _count(name, value) if field.kind == "count" else _nano_usd(name, value)
    return replace(plan, **changes)


def plan_to_json(plan: Plan) -> dict[str, object]:
    """The plan with the keys of plans.toml: money as a decimal string, null where there is no limit."""
    shown: dict[str, object] = {"name": plan.name}
    for name, field in _FIELDS.items():
        value = getattr(plan, field.attribute)
        shown[name] = usd(value) if field.kind == "usd" and value is not None else value
    return shown


def _plan(name: str, table: Table) -> Plan:
    if not _NAME.fullmatch(name):
        table.fault(f"the name of a plan must match {_NAME.pattern}")
    table.refuse_unknown(_FIELDS)
    limits: dict[str, Any] = {}
    for key, field in _FIELDS.items():
        if table.data.get(key) == UNLIMITED:
            limits[field.attribute] = None
        elif field.kind == "count":
            limits[field.attribute] = table.count(key, at_least=0, at_most=COUNT_MAX)
        else:
            limits[field.attribute] = table.decimal(key, scale=_NANO_DIGITS, at_most=USD_MAX)
    return Plan(name, **limits)


def _count(name: str, value: object) -> int:
    if type(value) is not int or not 0 <= value <= COUNT_MAX:
        raise _bad_override(name, f"must be a whole number from 0 to {COUNT_MAX}, or null for no limit")
    return value


def _nano_usd(name: str, value: object) -> int:
    """A decimal string or an integer of dollars. A JSON float has lost digits before anybody could look at them."""
    if isinstance(value, float):
        raise _bad_override(name, 'is a JSON float, which is not exact: send a string such as "2.5" or an integer')
    if type(value) is not int and not (isinstance(value, str) and _DECIMAL.fullmatch(value)):
        raise _bad_override(name, 'must be a decimal string such as "2.5" or an integer, or null for no limit')
    amount = Decimal(value)
    if not 0 <= amount <= USD_MAX:
        raise _bad_override(name, f"must be from 0 to {USD_MAX}")
    nano_usd = int(amount.scaleb(_NANO_DIGITS, _EXACT))
    if Decimal(nano_usd).scaleb(-_NANO_DIGITS, _EXACT) != amount:
        raise _bad_override(name, "is finer than a nano-dollar (0.000000001)")
    return nano_usd


def _bad_override(name: object, reason: str) -> RequestError:
    shown = str(name)[:64]
    return RequestError(f"overrides.{shown} {reason}", param=f"overrides.{shown}")
