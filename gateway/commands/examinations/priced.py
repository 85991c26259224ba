"""Whether what the catalog serves has a price, how old that is, and whether other lists agree. Opens no connection."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime

from gateway.catalog import Catalog, Model
from gateway.commands.examinations.finding import Finding, bad, ok, warn
from gateway.errors import ConfigError

__all__ = ["examine_prices"]

_READ_ON = re.compile(r"\bread (?:on )?(\d{4}-\d{2}-\d{2})\b")
_NAMED_MAX = 5
_DAYS_A_MONTH = 30.44


def examine_prices(catalog: Catalog, now: datetime, *, months_max: int) -> Iterator[Finding]:
    """`catalog` with the keys that are there: only active models are looked at. `now` is aware UTC."""
    active = [model for model in catalog.models.values() if model.active]
    unpriced = list(_unpriced(active))
    yield from unpriced
    if not unpriced:
        yield ok("priced", "models", f"{len(active)} are active, and priced for every endpoint they serve")
    paid = [model for model in active if catalog.providers[model.provider].dialect != "mock"]
    yield from _ages(paid, now, months_max)
    yield from _lists(catalog, now)


def _unpriced(active: list[Model]) -> Iterator[Finding]:
    for model in active:
        served = [model, *(each.model for each in model.deployments)]
        for endpoint in sorted(model.endpoints):
            missing = sorted({key for each in served for key in each.missing_prices(endpoint)})
            if missing:
                why = f"no {' and '.join(missing)}: {endpoint} calls are refused as unpriced"
                yield bad("priced", model.name, why, "set it in pricing.toml, or take the endpoint away")


def _ages(paid: list[Model], now: datetime, months_max: int) -> Iterator[Finding]:
    """By the day in `source` on which the prices were read."""
    old, undated = [], []
    for model in paid:
        days = [day for text in _READ_ON.findall(model.source) if (day := _day(text)) is not None]
        if not days:
            undated.append(model.name)
        elif (now - max(days)).days > months_max * _DAYS_A_MONTH:
            old.append(model.name)
    if old:
        advice = "compare them with the providers' pages, `gateway prices diff`, and set `source`"
        yield warn("priced", "age", f"read more than {months_max} months ago: {_named(old)}", advice)
    if undated:
        yield warn("priced", "age", f"no day in `source`: {_named(undated)}", "say where and when they were read")
    if not old and not undated:
        yield ok("priced", "age", f"all prices of active models were read within {months_max} months")


def _day(text: str) -> datetime | None:
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        return None


def _named(names: list[str]) -> str:
    more = len(names) - _NAMED_MAX
    return ", ".join(names[:_NAMED_MAX]) + (f" and {more} more" if more > 0 else "")


def _lists(catalog: Catalog, now: datetime) -> Iterator[Finding]:
    from gateway.price_references import GenaiPrices, LitellmMap, Reference, compare

    try:
        found: list[Reference | None] = [LitellmMap.installed(), GenaiPrices.installed(now)]
    except ConfigError as exc:
        yield warn("priced", "price lists", str(exc), "install the list again")
        return
    installed = [reference for reference in found if reference is not None]
    if not installed:
        yield ok("priced", "price lists", "none is installed to compare with")
    for reference in installed:
        count = len(compare(catalog, reference).differences)
        if count:
            yield warn("priced", reference.name, f"{count} figures differ", "see `gateway prices diff`")
        else:
            yield ok("priced", reference.name, "no figure differs")
