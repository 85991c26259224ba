"""plans.toml -> plans and credit packages, and the overrides that creators and virtual keys have above a plan.

A file and an override have the same keys and the same checks (`gateway.plan_fields`). Money is exact: decimal in the
file, a decimal string or an integer in JSON, integer nano-dollars (1e-9 USD) inside; prices are pico-dollars (1e-12 USD).
What an override says counts before what the plan says: first the key's, then the creator's, then the plan's own. Only
limits of a key are different: they stand beside the creator's (`key_limits`), and both must have room.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import policies
from gateway.errors import RequestError
from gateway.plan_fields import AUTO, BUDGET, NAME, PLAN_FIELDS, USD_MAX, exact
from gateway.price_rows import CREDITS_MAX
from gateway.pricing import NANO_DIGITS, usd
from gateway.toml_file import Table, TomlFile, Where
from policies.types import Plan
from policies.windows import optional_fields

__all__ = [
    "CreditPackage",
    "PlanFile",
    "changed_plan",
    "credit_package_to_json",
    "default_plan",
    "key_limits",
    "load_plan_file",
    "load_plans",
    "packaged_plans",
    "plan_table",
    "plan_to_json",
    "read_plan",
    "with_key_overrides",
    "with_overrides",
]

PLANS_MAX = 1_000
CREDIT_PACKAGES_MAX = 1_000

_FREE_IMAGES_PER_DAY = 3
_AUTO_BUDGET_NANO_USD = 100 * 10**9


class CreditPackage(NamedTuple):
    """`[credit_packages.NAME]`: a size in which credits are granted, and what it is sold for."""

    name: str
    credits: int
    price_nano_usd: int


class PlanFile(NamedTuple):
    """All that a plans file says, in its order."""

    plans: Mapping[str, Plan]
    credit_packages: Mapping[str, CreditPackage]


def load_plans(path: Path | None = None) -> Mapping[str, Plan]:
    """The plans of `path`, or of the packaged file, in the file's order; at least one. Raises as `load_plan_file`."""
    return load_plan_file(path).plans


def load_plan_file(path: Path | None = None) -> PlanFile:
    """What `path`, or the packaged file, says. Raises `ConfigError` naming file, line and reason of every fault."""
    file = TomlFile(path or packaged_plans())
    root = Table(file, (), file.data)
    root.refuse_unknown({"plans", "credit_packages"})
    plans = {name: _plan(name, table) for name, table in root.tables("plans", count_max=PLANS_MAX).items()}
    if not file.data.get("plans"):
        file.fault(("plans",), "has no plan: add a table such as [plans.free]")
    packages = root.tables("credit_packages", count_max=CREDIT_PACKAGES_MAX)
    credit_packages = {name: _credit_package(name, table) for name, table in packages.items()}
    file.finish()
    counted = frozenset[str]().union(*(optional_fields(plan) for plan in plans.values()))
    return PlanFile({name: replace(plan, counted=counted) for name, plan in plans.items()}, credit_packages)


def packaged_plans() -> Path:
    """The file that holds when no other is set."""
    return Path(policies.__file__).with_name("plans.toml")


def default_plan(plans: Mapping[str, Plan]) -> Plan:
    """The plan of a creator that was given none: `free`, or the first of the file."""
    return plans.get("free") or next(iter(plans.values()))


def with_overrides(plan: Plan, overrides: Mapping[str, object]) -> Plan:
    """`plan` with a creator's `overrides` above it, as read from JSON; null or "unlimited" lifts a limit.

    Providers are merged field by field, prices price by price; every other value takes the place of the plan's. A soft
    budget that follows the quota follows the overridden one.
    Raises `RequestError` (400) naming the field that is unknown or has an unusable value.
    """
    if overrides == {}:
        return plan
    return _with_auto_budget(replace(plan, **_changes(plan, overrides), is_overridden=True))


def changed_plan(plan: Plan, changes: Mapping[str, object]) -> Plan:
    """`plan` as the file would have it after these `changes`, merged as overrides are.

    Raises `RequestError` (400) naming the field of `changes` that is unknown or has an unusable value.
    """
    changed = _with_auto_budget(replace(plan, **_changes(plan, changes, "changes")))
    return replace(changed, counted=plan.counted | optional_fields(changed))


def read_plan(name: str, table: Mapping[str, object]) -> Plan:
    """A whole plan, told with the keys of plans.toml. Raises `RequestError` (400) naming what is wrong with it."""
    plan = _plan(name, Table(_Request(), ("plans", name), table))
    return replace(plan, counted=optional_fields(plan))


def plan_table(plan: Plan) -> dict[str, object]:
    """The plan as `read_plan` takes it."""
    shown = plan_to_json(plan)
    table = {key: shown[key] for key in PLAN_FIELDS}
    return table | ({BUDGET: AUTO} if plan.budget_is_auto else {})


def with_key_overrides(plan: Plan, overrides: Mapping[str, object]) -> Plan:
    """`plan`, the creator's merged one, with all of a key's `overrides` above it that are no limits.

    Raises `RequestError` as `with_overrides`, for faults of the limits too, so that trying it is a whole check.
    """
    key_limits(overrides)
    changes = _changes(plan, overrides)
    kept = {field.attribute for key, field in PLAN_FIELDS.items() if key in overrides and not field.is_limit}
    if not kept:
        return plan
    return replace(plan, **{name: value for name, value in changes.items() if name in kept}, is_overridden=True)


def key_limits(overrides: Mapping[str, object]) -> Plan | None:
    """The limits among a key's `overrides`, to be counted for the key alone; None if it has none.

    Raises `RequestError` as `with_overrides`, and where a key's budget should follow from its quota: it has to be named.
    """
    changes = _changes(_KEY_PLAN, overrides)
    if changes.get("budget_is_auto"):
        _Request().fault(("overrides", BUDGET), 'of a key must be an amount: "auto" is for plans and creators')
    limits = {field.attribute for field in PLAN_FIELDS.values() if field.is_limit}
    plan = replace(_KEY_PLAN, **{name: value for name, value in changes.items() if name in limits})
    return None if plan == _KEY_PLAN else plan


def plan_to_json(plan: Plan) -> dict[str, object]:
    """The plan with the keys of plans.toml: money as a decimal string, null where there is no limit.

    A soft budget is shown as the figure it comes to; `budget_is_auto` tells whether it follows the quota.
    """
    shown: dict[str, object] = {"name": plan.name}
    for key, field in PLAN_FIELDS.items():
        shown[key] = field.show(getattr(plan, field.attribute))
        if key == BUDGET:
            shown["budget_is_auto"] = plan.budget_is_auto
    return shown


def credit_package_to_json(package: CreditPackage) -> dict[str, object]:
    """The package with the keys of plans.toml: the price as a decimal string."""
    return {"name": package.name, "credits": package.credits, "price_usd": usd(package.price_nano_usd)}


class _Request:
    """Refuses a request by the first fault of its overrides."""

    def fault(self, where: Where, reason: str) -> None:
        shown = _dotted(where)
        raise RequestError(f"{shown}: {reason}", param=shown)


def _dotted(where: Where) -> str:
    """`overrides.prices."gpt-4.1".credits`: names of the caller's own are cut short, quoted where they hold a dot."""
    parts = ("".join(char if char.isprintable() else "?" for char in part[:64]) for part in where)
    return ".".join(f'"{part}"' if "." in part else part for part in parts)


_KEY_PLAN = Plan("key")


def _changes(beneath: Plan, overrides: Mapping[str, object], where: str = "overrides") -> dict[str, Any]:
    if not isinstance(overrides, Mapping):
        raise RequestError(f"{where} must be an object of plan fields", param=where)
    return _read(Table(_Request(), (where,), overrides), beneath)


def _read(table: Table, beneath: Plan) -> dict[str, Any]:
    """The attributes of `Plan` that `table` sets. `beneath` is the plan that nested tables are merged into."""
    table.refuse_unknown(PLAN_FIELDS)
    changes = {
        field.attribute: field.read(table, key, beneath) for key, field in PLAN_FIELDS.items() if key in table.data
    }
    if BUDGET in table.data:
        changes["budget_is_auto"] = table.data[BUDGET] == AUTO
    return changes


def _with_auto_budget(plan: Plan) -> Plan:
    if not plan.budget_is_auto:
        return plan
    quota = plan.quota_nano_usd_per_month
    budget = _AUTO_BUDGET_NANO_USD if quota is None else min(_AUTO_BUDGET_NANO_USD, quota * 4 // 5)
    return replace(plan, budget_nano_usd_per_month=budget)


def _plan(name: str, table: Table) -> Plan:
    if not NAME.fullmatch(name):
        table.fault(f"the name of a plan must match {NAME.pattern}")
    bare = Plan(name, budget_is_auto=True, free_images_per_day=_FREE_IMAGES_PER_DAY)
    return _with_auto_budget(replace(bare, **_read(table, bare)))


def _credit_package(name: str, table: Table) -> CreditPackage:
    if not NAME.fullmatch(name):
        table.fault(f"the name of a credit package must match {NAME.pattern}")
    table.refuse_unknown({"credits", "price_usd"})
    for key in {"credits", "price_usd"} - table.data.keys():
        table.fault(f"{key} is missing")
    count = table.count("credits", at_least=1, at_most=CREDITS_MAX)
    price_nano_usd = exact(table, "price_usd", digits=NANO_DIGITS, at_most=USD_MAX)
    return CreditPackage(name, count or 0, price_nano_usd or 0)
