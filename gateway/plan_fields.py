"""The keys of a plan, one by one: how each is read from a table, checked, and shown again as JSON.

Overrides have the same keys, so they are read by the same functions: a `Table` over the JSON object instead of one over
the file. Two things are JSON's alone: null, which lifts a limit as "unlimited" does, and floats, which are refused where
money is meant, because they have lost digits before anybody could look at them.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from ipaddress import ip_network
from typing import Any, NamedTuple, get_args

from gateway.catalog import ENDPOINTS, PRICE_FIELDS
from gateway.price_rows import (
    CREDITS_MAX,
    IMAGE_DIGITS,
    PIECE_PRICES,
    RATE_DIGITS,
    USD_PER_IMAGE_MAX,
    USD_PER_MTOK_MAX,
    PieceKey,
    image_keys,
)
from gateway.pricing import IMAGE_PREFIX, NANO_DIGITS, usd
from gateway.toml_file import Table
from policies.types import (
    LIMITED_BY,
    MAY_ALLOW,
    PAYERS,
    AnomalyAction,
    BudgetAction,
    CacheScope,
    CacheUse,
    LimitedBy,
    OnStoreError,
    Plan,
    ProviderLimits,
)
from policies.windows import WINDOWS

UNLIMITED = "unlimited"
AUTO = "auto"
"""The soft budget that follows the quota."""
BUDGET = "budget_usd_per_month"

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
COUNT_MAX = 10**9
TOKENS_MAX = 10**12
USD_MAX = 10**9
"""In nano-dollars this is 1e18, which a 64-bit integer holds ninefold."""

_MODEL = re.compile(r"\S(.{0,198}\S)?")
_WORDS_MAX = 1_000
_ADDRESSES_MAX = 256
_PROVIDERS_MAX = 1_000
_MODELS_MAX = 10_000


class PlanField(NamedTuple):
    """One key of a plan, and the attribute of `Plan` it becomes."""

    attribute: str
    read: Callable[[Table, str, Plan], Any]
    """The value, given a table that has the key, and the plan beneath; faults are noted in the table."""
    show: Callable[[Any], object]
    is_limit: bool = False
    """A virtual key that overrides it gets a counter of its own, beside the creator's."""


def exact(table: Table, key: str, *, digits: int, at_most: int) -> int | None:
    """Money as a whole count of 10^-`digits` dollars, as `Table.decimal` reads it; a JSON float is told as such."""
    if isinstance(table.data.get(key), float):
        table.fault('is a JSON float, which is not exact: send a string such as "2.5" or an integer', key)
        return None
    return table.decimal(key, scale=digits, at_most=at_most)


def _is_lifted(table: Table, key: str) -> bool:
    value = table.data[key]
    return value is None or value == UNLIMITED


# Counts and money


def _count(at_most: int) -> Callable[[Table, str, Plan], int | None]:
    def read(table: Table, key: str, plan: Plan) -> int | None:
        return None if _is_lifted(table, key) else table.count(key, at_least=0, at_most=at_most)

    return read


def _usd(table: Table, key: str, plan: Plan) -> int | None:
    return None if _is_lifted(table, key) else exact(table, key, digits=NANO_DIGITS, at_most=USD_MAX)


def _budget(table: Table, key: str, plan: Plan) -> int | None:
    """None for "auto" too: the figure then follows from the quota, which may be read later than this."""
    return None if table.data[key] == AUTO else _usd(table, key, plan)


def _free_images(table: Table, key: str, plan: Plan) -> int:
    if table.data[key] is None:
        table.fault(f"must be a whole number from 0 to {COUNT_MAX}", key)
        return 0
    return table.count(key, at_least=0, at_most=COUNT_MAX) or 0


def _word(allowed: tuple[str, ...]) -> Callable[[Table, str, Plan], object]:
    def read(table: Table, key: str, plan: Plan) -> object:
        value = table.data[key]
        if value not in allowed:
            table.fault(f"must be one of {', '.join(allowed)}", key)
        return value

    return read


# Lists


def _names(allowed: re.Pattern[str]) -> Callable[[Table, str, Plan], frozenset[str] | None]:
    def read(table: Table, key: str, plan: Plan) -> frozenset[str] | None:
        if _is_lifted(table, key):
            return None
        _refuse_empty(table, key)
        return table.words(key, allowed=allowed, count_max=_WORDS_MAX)

    return read


def _endpoints(table: Table, key: str, plan: Plan) -> frozenset[str] | None:
    found = _names(NAME)(table, key, plan)
    if unknown := (found or frozenset()) - ENDPOINTS:
        table.fault(f"unknown: {', '.join(sorted(unknown))}; known are {', '.join(sorted(ENDPOINTS))}", key)
    return found


def _payers(table: Table, key: str, plan: Plan) -> tuple[Any, ...]:
    value = table.data[key]
    if not isinstance(value, list) or not value or any(word not in PAYERS for word in value):
        table.fault(f"must be a list with one or more of {', '.join(PAYERS)}", key)
        return ()
    if len(set(value)) < len(value):
        table.fault("names an entry twice", key)
    return tuple(value)


def _addresses(table: Table, key: str, plan: Plan) -> tuple[str, ...] | None:
    if _is_lifted(table, key):
        return None
    value = table.data[key]
    _refuse_empty(table, key)
    if not isinstance(value, list) or len(value) > _ADDRESSES_MAX:
        table.fault(f"must be a list of at most {_ADDRESSES_MAX} networks", key)
        return None
    networks = [network for entry in value if (network := _network(table, key, entry)) is not None]
    if len(set(networks)) < len(networks):
        table.fault("names an entry twice", key)
    return tuple(networks)


def _network(table: Table, key: str, entry: object) -> str | None:
    """The network in its one usual spelling; an address alone is a network of one."""
    try:
        if not isinstance(entry, str) or "%" in entry:
            raise ValueError
        return str(ip_network(entry))
    except ValueError:
        shown = entry[:64] if isinstance(entry, str) and entry.isprintable() else "an entry"
        table.fault(
            f"{shown} is not a network such as 192.0.2.0/24 or 2001:db8::/32 (no bit set after the prefix)", key
        )
        return None


def _refuse_empty(table: Table, key: str) -> None:
    if table.data[key] == []:
        table.fault("must not be empty: leave it out to allow all", key)


# Tables below a plan


def _on_store_error(table: Table, key: str, plan: Plan) -> dict[LimitedBy, OnStoreError]:
    if _is_lifted(table, key):
        return {}
    merged: dict[Any, Any] = dict(plan.on_store_error)
    data = table.data[key]
    if not isinstance(data, dict):
        table.fault("must be a table", key)
        return merged
    below = Table(table.file, (*table.where, key), data)
    below.refuse_unknown(LIMITED_BY)
    for name in LIMITED_BY:
        if name in data:
            _put(merged, name, None if data[name] is None else _action(below, name))
    return merged


def _action(table: Table, name: LimitedBy) -> object:
    action = table.data[name]
    if action not in (allowed := get_args(OnStoreError)):
        table.fault(f"must be one of {', '.join(allowed)}", name)
    elif action == "allow" and name not in MAY_ALLOW:
        table.fault(
            'cannot be "allow": without its counter nobody would pay for what is used, and nothing would bound it; say '
            '"local_share" or "deny"',
            name,
        )
    return action


def _providers(table: Table, key: str, plan: Plan) -> dict[str, ProviderLimits]:
    if _is_lifted(table, key):
        return {}
    merged = dict(plan.providers)
    for name, below in _below(table, key, count_max=_PROVIDERS_MAX):
        limits = ProviderLimits() if below is None else _provider_limits(below, merged.get(name, ProviderLimits()))
        if below is not None and not NAME.fullmatch(name):
            below.fault(f"a provider's name must match {NAME.pattern}")
        _put(merged, name, None if limits == ProviderLimits() else limits)
    return merged


def _provider_limits(table: Table, beneath: ProviderLimits) -> ProviderLimits:
    table.refuse_unknown(WINDOWS)
    changes: dict[str, Any] = {}
    for name in WINDOWS:
        if name in table.data and not _is_lifted(table, name):
            changes[name] = table.count(name, at_least=0, at_most=_most(name))
        elif name in table.data:
            changes[name] = None
    return replace(beneath, **changes)


def _prices(table: Table, key: str, plan: Plan) -> dict[str, Mapping[str, int]]:
    if _is_lifted(table, key):
        return {}
    merged = dict(plan.prices)
    for name, below in _below(table, key, count_max=_MODELS_MAX):
        row = {} if below is None else _price_row(below, merged.get(name, {}))
        if below is not None and not _MODEL.fullmatch(name):
            below.fault("a model's name must be 1 to 200 characters without spaces around them")
        _put(merged, name, row or None)
    return merged


_PRICE_KEYS: Mapping[str, PieceKey] = {
    **{name: PieceKey(f"{name}_usd_per_mtok", RATE_DIGITS, USD_PER_MTOK_MAX) for name in PRICE_FIELDS},
    **PIECE_PRICES,
}
"""How the prices of a plan that are one number each are written, by their names."""


def _price_row(table: Table, beneath: Mapping[str, int]) -> dict[str, int]:
    """Null takes a price away again, so that the one beneath holds: the catalog's, in the end."""
    table.refuse_unknown((*(key for key, _, _ in _PRICE_KEYS.values()), "credits", "image_usd"))
    row = dict(beneath)
    for name, (key, digits, at_most) in _PRICE_KEYS.items():
        if key in table.data:
            _put(row, name, _price(table, key, digits=digits, at_most=at_most))
    if "credits" in table.data:
        _put(row, "credits", table.count("credits", at_least=0, at_most=CREDITS_MAX))
    if "image_usd" in table.data:
        if _is_lifted(table, "image_usd"):
            row = {name: price for name, price in row.items() if not name.startswith(IMAGE_PREFIX)}
        else:
            for prices, key, whole in image_keys(table):
                price = _price(prices, key, digits=IMAGE_DIGITS, at_most=USD_PER_IMAGE_MAX)
                _put(row, IMAGE_PREFIX + whole, price)
    return row


def _price(table: Table, key: str, *, digits: int, at_most: int) -> int | None:
    return None if table.data[key] is None else exact(table, key, digits=digits, at_most=at_most)


def _below(table: Table, key: str, *, count_max: int) -> Iterable[tuple[str, Table | None]]:
    """The tables below `key` by name, None for one that JSON calls null."""
    data = table.data[key]
    if not isinstance(data, dict):
        table.fault("must be a table", key)
        return
    named = Table(table.file, table.where, {key: {name: below for name, below in data.items() if below is not None}})
    yield from ((name, None) for name, below in data.items() if below is None)
    yield from named.tables(key, count_max=count_max).items()


def _put(mapping: dict[str, Any], key: str, value: object) -> None:
    """`value` under `key`; None takes away what is there."""
    if value is None:
        mapping.pop(key, None)
    else:
        mapping[key] = value


def _most(window: str) -> int:
    return TOKENS_MAX if WINDOWS[window].unit == "token" else COUNT_MAX


# Showing


def _same(value: object) -> object:
    return value


def _show_usd(nano_usd: int | None) -> str | None:
    return None if nano_usd is None else usd(nano_usd)


def _show_names(names: frozenset[str] | None) -> list[str] | None:
    return None if names is None else sorted(names)


def _show_list(values: tuple[str, ...] | None) -> list[str] | None:
    return None if values is None else list(values)


def _show_providers(providers: Mapping[str, ProviderLimits]) -> dict[str, dict[str, int]]:
    return {
        name: {window: value for window in WINDOWS if (value := getattr(limits, window)) is not None}
        for name, limits in sorted(providers.items())
    }


def _show_prices(prices: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, object]]:
    return {model: _show_price_row(row) for model, row in sorted(prices.items())}


def _show_price_row(row: Mapping[str, int]) -> dict[str, object]:
    shown: dict[str, object] = {
        key: usd(row[name], digits) for name, (key, digits, _) in _PRICE_KEYS.items() if name in row
    }
    if "credits" in row:
        shown["credits"] = row["credits"]
    images = {
        name.removeprefix(IMAGE_PREFIX): usd(price, IMAGE_DIGITS)
        for name, price in sorted(row.items())
        if name.startswith(IMAGE_PREFIX)
    }
    return shown | ({"image_usd": images} if images else {})


def _show_on_store_error(said: Mapping[LimitedBy, OnStoreError]) -> dict[str, str]:
    return {name: said[name] for name in LIMITED_BY if name in said}


PLAN_FIELDS: Mapping[str, PlanField] = {
    **{name: PlanField(name, _count(_most(name)), _same, is_limit=True) for name in WINDOWS},
    "quota_usd_per_month": PlanField("quota_nano_usd_per_month", _usd, _show_usd, is_limit=True),
    BUDGET: PlanField("budget_nano_usd_per_month", _budget, _show_usd, is_limit=True),
    "budget_hard_usd_per_month": PlanField("budget_hard_nano_usd_per_month", _usd, _show_usd, is_limit=True),
    "when_budget_reached": PlanField("when_budget_reached", _word(get_args(BudgetAction)), _same),
    "free_images_per_day": PlanField("free_images_per_day", _free_images, _same),
    "payers": PlanField("payers", _payers, _show_list),
    "models": PlanField("models", _names(_MODEL), _show_names),
    "tiers": PlanField("tiers", _names(NAME), _show_names),
    "endpoints": PlanField("endpoints", _endpoints, _show_names),
    "addresses": PlanField("addresses", _addresses, _show_list),
    "providers": PlanField("providers", _providers, _show_providers, is_limit=True),
    "prices": PlanField("prices", _prices, _show_prices),
    "cache": PlanField("cache", _word(get_args(CacheUse)), _same),
    "cache_scope": PlanField("cache_scope", _word(get_args(CacheScope)), _same),
    "when_unusual": PlanField("when_unusual", _word(get_args(AnomalyAction)), _same),
    "on_store_error": PlanField("on_store_error", _on_store_error, _show_on_store_error),
}
"""Every key of `[plans.NAME]`, in the order it is shown."""
