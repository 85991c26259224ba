"""The ledger computed again from its entries: costs and charges from tokens and prices, sums and closed months from the
entries, and what must hold between entries (`gateway.ledger.credit_checks`).

Reads beside a running gateway, everything from one instant. What does not come out the same is a difference;
there must be none. Which names are summed as `other` is taken from the rollups, and looked at by itself. Where entries were
dropped (`gateway.ledger.dropped`), the sums that took their place are added to those of the entries that are left, and
the rollups have to be those of which there is a checksum. A crashed call's amounts were fixed when its hold was made, and grants, refunds and the like have no
tokens, so theirs are taken as they stand. What another payer than the quota took can only be told from below: which of
the images were delivered is not in the buckets.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from sqlalchemy import func, select

from gateway.catalog import Price
from gateway.errors import StoreError
from gateway.ledger.credit_checks import findings
from gateway.ledger.dropped_checks import DroppedMonths
from gateway.ledger.migration import require_current
from gateway.ledger.periods import period_of
from gateway.ledger.queries import closed_key, month_sums
from gateway.ledger.rollups import Rollups, StoredNames
from gateway.ledger.schema import (
    ENTRY_COLUMNS,
    ENTRY_FACTS,
    USAGE_DAILY_KEY,
    USAGE_DAILY_SUMS,
    entries,
    meta,
    month_charges,
    price_rows,
    usage_daily,
)
from gateway.ledger.sqlite.readers import rows_of_one_instant
from gateway.ledger.statements import Rows
from gateway.pricing import UnpricedUsage, cost_nano_usd, price_from_json
from gateway.usage import Usage

__all__ = ["DIFFERENCES_MAX", "Difference", "Progress", "Report", "verify", "verify_rows"]

DIFFERENCES_MAX = 1_000
"""Kept to be shown; more are only counted."""
Progress = Callable[[int, int], None]
"""Called with the entries read and all there are."""
_TOLD_EVERY = 2_048
"""Entries between two calls of it."""

_AS_STORED = tuple(entries.c.saved_nano_usd if column.name == "saved_nano_usd" else column for column in ENTRY_FACTS)
"""Where lists take it for granted that only a cached answer saves, this is what is looked at."""
_FACTS = tuple(column.name for column in _AS_STORED)
_BUCKETS = slice(ENTRY_COLUMNS.index(Usage._fields[0]), ENTRY_COLUMNS.index(Usage._fields[-1]) + 1)
_NAMES = tuple(usage_daily.c[name] for name in ("period_day", "creator", "feature", "agent"))
_MONTH_KEY = ("creator", "payer", "kind")
_MONTH_SUMS = ("calls", "cost_nano_usd", "charge_nano_usd", "payer_amount")


class Difference(NamedTuple):
    table: str
    key: str
    column: str
    stored: Any
    computed: Any


class Report(NamedTuple):
    """What was looked at and what did not come out the same."""

    entries: int
    rollups: int
    closed_months: int
    differences: list[Difference]
    """The first `DIFFERENCES_MAX`."""
    differences_count: int


def verify(path: Path, *, on_progress: Progress | None = None) -> Report:
    """The ledger in a file of SQLite. Raises `ConfigError` when there is no such database, `StoreError` when it cannot be
    read."""
    try:
        require_current(path)
        with rows_of_one_instant(path) as rows:
            return verify_rows(rows, on_progress=on_progress)
    except sqlite3.Error as exc:
        raise StoreError(f"The database {path} cannot be read: {exc}.") from exc


def verify_rows(rows: Rows, *, on_progress: Progress | None = None) -> Report:
    """The ledger that `rows` reads. Raises what it raises."""
    return _Verification(rows, on_progress).run()


class _Verification:
    def __init__(self, rows: Rows, on_progress: Progress | None) -> None:
        self._rows = rows
        self._on_progress = on_progress
        self._differences: list[Difference] = []
        self._count = 0
        self._names = StoredNames(self._rows(select(*_NAMES).distinct()))
        self._rollups = Rollups(self._names)
        self._dropped = DroppedMonths(self._rows)
        self._prices = self._read_prices()

    def run(self) -> Report:
        entries_read = 0
        for row in self._entries():
            entries_read += 1
            self._check_entry(row)
            self._rollups.add(row)
        computed = {row[: len(USAGE_DAILY_KEY)]: row[len(USAGE_DAILY_KEY) :] for row in self._rollups.rows()}
        for key, names, expected in self._names.faults():
            self._differ(Difference("usage_daily", key, "names", names, expected))
        self._check_rollups(computed)
        closed = self._closed_months()
        for finding in chain(self._dropped.findings(computed, closed), findings(self._rows)):
            self._differ(Difference(*finding))
        rollups = self._dropped.in_place(computed)
        self._check_charges(rollups, closed)
        return Report(entries_read, len(rollups), len(closed), self._differences, self._count)

    # Entries

    def _entries(self) -> Iterable[tuple[Any, ...]]:
        """All of them. They are counted first only where somebody wants to know how far it is."""
        rows = self._rows(select(*_AS_STORED).order_by(entries.c.id))
        if self._on_progress is None:
            return rows
        ((total,),) = self._rows(select(func.count()).select_from(entries))
        return _told(rows, self._on_progress, total)

    def _check_entry(self, row: tuple[Any, ...]) -> None:
        entry = dict(zip(_FACTS, row, strict=True))
        for column, computed in zip(("period_day", "period_month"), period_of(entry["admitted_at"]), strict=True):
            self._compare_one(entry, column, computed)
        if entry["saved_nano_usd"] and not entry["cached"]:
            self._compare_one(entry, "saved_nano_usd", 0)
        if entry["kind"] == "usage":
            self._check_call(entry, Usage(*row[_BUCKETS]))
        elif entry["kind"] == "refund" and entry["corrects"] is None:
            self._compare_one(entry, "corrects", "the call it is a refund of")

    def _check_call(self, entry: Mapping[str, Any], usage: Usage) -> None:
        is_crashed = entry["outcome"] == "crashed"
        cost = entry["cost_nano_usd"] if is_crashed else self._cost(entry, usage)
        self._compare_one(entry, "cost_nano_usd", cost)
        if entry["payer"] != "quota":
            self._compare_one(entry, "charge_nano_usd", 0)
            if entry["payer_amount"] < 0:
                self._compare_one(entry, "payer_amount", "0 or more")
            return
        charge = entry["charge_nano_usd"] if is_crashed else self._charge(entry, usage, cost)
        self._compare_one(entry, "charge_nano_usd", charge)
        self._compare_one(entry, "payer_amount", entry["charge_nano_usd"])

    def _cost(self, entry: Mapping[str, Any], usage: Usage) -> Any:
        """In nano-dollars, or a text that says why it cannot be told."""
        if entry["cached"] or not any(usage):
            return 0
        try:
            return self._amount(entry, usage, entry["price_version"])
        except UnpricedUsage as exc:
            return str(exc)

    def _charge(self, entry: Mapping[str, Any], usage: Usage, cost: Any) -> Any:
        """What the creator owes where the quota pays: by a price of its own where there was one, else the cost."""
        if not entry["charge_price_version"] or entry["cached"] or not any(usage):
            return cost
        try:
            return self._amount(entry, usage, entry["charge_price_version"])
        except UnpricedUsage:
            return cost  # a kind of token the creator's own price has no rate for is owed at cost

    def _amount(self, entry: Mapping[str, Any], usage: Usage, version: str) -> Any:
        price = self._prices.get((entry["served_model"], version))
        if price is None:
            return f"no price row {version} of {entry['served_model']}"
        return cost_nano_usd(usage, price, entry["variant"])

    def _read_prices(self) -> dict[tuple[str, str], Price]:
        found = {}
        for model, version, text in self._rows(select(price_rows.c.model, price_rows.c.version, price_rows.c.row)):
            try:
                found[model, version] = price_from_json(text)
            except ValueError:
                self._differ(Difference("price_rows", f"{model} {version}", "row", text, "a price row"))
        return found

    # Rollups and months

    def _check_rollups(self, computed: Mapping[tuple[Any, ...], tuple[int, ...]]) -> None:
        key_columns = len(USAGE_DAILY_KEY)
        seen = set()
        in_order = (usage_daily.c[name] for name in USAGE_DAILY_KEY)
        for row in self._rows(select(usage_daily).order_by(*in_order)):
            key, stored = row[:key_columns], row[key_columns:]
            seen.add(key)
            if self._dropped.take(row):
                continue
            expected = computed.get(key, (0,) * len(stored))
            self._compare_all("usage_daily", _shown(key), zip(USAGE_DAILY_SUMS, stored, expected, strict=True))
        for key, sums in computed.items():
            if key not in seen and not self._dropped.concern(key):
                self._compare_all(
                    "usage_daily", _shown(key), ((n, None, v) for n, v in zip(USAGE_DAILY_SUMS, sums, strict=True))
                )

    def _closed_months(self) -> set[str]:
        prefix = closed_key("")
        marks = self._rows(select(meta.c.key).where(meta.c.key.startswith(prefix, autoescape=True)))
        return {key.removeprefix(prefix) for (key,) in marks}

    def _check_charges(self, rollups: Mapping[tuple[Any, ...], tuple[int, ...]], closed: set[str]) -> None:
        expected = {
            (charge["creator"], month): charge
            for month in closed
            for charge in month_sums(month, _month_rows(rollups, month))
        }
        columns = [column.name for column in month_charges.columns]
        for row in self._rows(select(month_charges)):
            stored = dict(zip(columns, row, strict=True))
            stored["units"] = orjson.loads(stored["units"])
            key = (stored["creator"], stored["month"])
            charge = expected.pop(key, {})
            compared = ("charge_nano_usd", "cost_nano_usd", "calls", "units")
            self._compare_all("month_charges", _shown(key), ((n, stored[n], charge.get(n)) for n in compared))
        for key, charge in expected.items():
            self._compare("month_charges", _shown(key), "charge_nano_usd", None, charge["charge_nano_usd"])

    # Comparing

    def _compare_one(self, entry: Mapping[str, Any], column: str, computed: Any) -> None:
        self._compare("entries", entry["id"], column, entry[column], computed)

    def _compare_all(self, table: str, key: str, values: Iterable[tuple[str, Any, Any]]) -> None:
        for column, stored, computed in values:
            self._compare(table, key, column, stored, computed)

    def _compare(self, table: str, key: str, column: str, stored: Any, computed: Any) -> None:
        if stored != computed:
            self._differ(Difference(table, key, column, stored, computed))

    def _differ(self, difference: Difference) -> None:
        self._count += 1
        if len(self._differences) < DIFFERENCES_MAX:
            self._differences.append(difference)


def _told(rows: Iterable[tuple[Any, ...]], tell: Progress, total: int) -> Iterator[tuple[Any, ...]]:
    for read, row in enumerate(rows):
        if not read % _TOLD_EVERY:
            tell(read, total)
        yield row
    tell(total, total)


def _month_rows(computed: Mapping[tuple[Any, ...], tuple[int, ...]], month: str) -> list[dict[str, Any]]:
    """What `queries.sums_of_month` reads, out of computed rollups."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for key, sums in computed.items():
        named = dict(zip(USAGE_DAILY_KEY, key, strict=True))
        if not named["period_day"].startswith(month):
            continue
        values = dict(zip(USAGE_DAILY_SUMS, sums, strict=True))
        grouped = {name: named[name] for name in _MONTH_KEY}
        total = found.setdefault(tuple(grouped.values()), {**grouped, **dict.fromkeys(_MONTH_SUMS, 0)})
        for name in _MONTH_SUMS:
            total[name] += values[name]
    return [found[key] for key in sorted(found)]


def _shown(key: tuple[Any, ...]) -> str:
    return " ".join(str(part) or "-" for part in key)
