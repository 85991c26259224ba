"""Entries summed into the rows of `usage_daily`. The writer adds these sums up, `verify` makes them again from nothing.

A creator who sends ever new features or agents must not make as many rollup rows: beyond 200 names a creator and day the
rollup says `other`. Entries keep every name. Which 200 is decided by the order of posting, so that it can be repeated.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from operator import add, itemgetter
from typing import Any

from gateway.ledger.schema import ENTRY_COLUMNS, USAGE_DAILY_KEY
from gateway.usage import Usage

__all__ = ["NAMES_MAX", "OTHER", "NameBook", "Rollups"]

NAMES_MAX = 200
OTHER = "other"
_DAYS_KEPT = 4
_LABELS_KEPT = 100_000
_FINE_OUTCOMES = frozenset({"ok", "client_gone"})

_KEY = itemgetter(*(ENTRY_COLUMNS.index(name) for name in USAGE_DAILY_KEY))
_BUCKETS = slice(ENTRY_COLUMNS.index(Usage._fields[0]), ENTRY_COLUMNS.index(Usage._fields[-1]) + 1)
_FINAL_AND_MONEY = itemgetter(
    *map(ENTRY_COLUMNS.index, ("final", "cost_nano_usd", "charge_nano_usd", "payer_amount", "saved_nano_usd"))
)
_DAY, _CREATOR, _FEATURE, _AGENT = map(USAGE_DAILY_KEY.index, ("period_day", "creator", "feature", "agent"))
_OUTCOME, _KIND = USAGE_DAILY_KEY.index("outcome"), USAGE_DAILY_KEY.index("kind")

Names = dict[tuple[str, str], set[str]]
"""(creator, "feature" or "agent") -> the names that have rows of their own."""
LoadNames = Callable[[str], Iterable[tuple[str, str, str]]]
"""Day -> (creator, feature, agent) of its rollup rows."""


class NameBook:
    """Which features and agents have rows of their own, per creator and day. Keeps a few days; reads others again."""

    def __init__(self, load: LoadNames, *, days_kept: int | None = _DAYS_KEPT) -> None:
        self._load = load
        self._days_kept = days_kept
        self._days: OrderedDict[str, Names] = OrderedDict()
        self._settled: set[tuple[str, str, str, str]] = set()

    def fold(self, key: tuple[Any, ...]) -> tuple[Any, ...]:
        """The rollup key with names beyond the bound replaced by `other`."""
        label = (key[_DAY], key[_CREATOR], key[_FEATURE], key[_AGENT])
        if label in self._settled:
            return key
        day, creator, feature, agent = label
        names = self._names_of(day)
        kept_feature = _kept(names, (creator, "feature"), feature)
        kept_agent = _kept(names, (creator, "agent"), agent)
        if kept_feature == feature and kept_agent == agent:
            self._settled.add(label)
            return key
        folded = list(key)
        folded[_FEATURE], folded[_AGENT] = kept_feature, kept_agent
        return tuple(folded)

    def forget(self) -> None:
        """After a rollback: names that were not written have no row."""
        self._days.clear()
        self._settled.clear()

    def trim(self) -> None:
        """Let go of what is beyond the bound. Only between transactions: what is read again must have been written."""
        if len(self._settled) > _LABELS_KEPT:
            self._settled.clear()
        if self._days_kept is not None:
            while len(self._days) > self._days_kept:
                self._days.popitem(last=False)
                self._settled.clear()

    def _names_of(self, day: str) -> Names:
        names = self._days.get(day)
        if names is None:
            names = self._days[day] = {}
            for creator, feature, agent in self._load(day):
                _remember(names, (creator, "feature"), feature)
                _remember(names, (creator, "agent"), agent)
        return names


class Rollups:
    """Sums of the entries added since the last `clear`, by rollup key."""

    def __init__(self, names: NameBook) -> None:
        self._names = names
        self._sums: dict[tuple[Any, ...], tuple[int, ...]] = {}

    def add(self, row: Sequence[Any]) -> None:
        """Adds one row of `entries`, its columns in the order of the table."""
        key = self._names.fold(_KEY(row))
        final, cost, charge, payer_amount, saved = _FINAL_AND_MONEY(row)
        is_call = 1 if final and key[_KIND] == "usage" else 0
        is_error = 1 if is_call and key[_OUTCOME] not in _FINE_OUTCOMES else 0
        sums = (is_call, 1, *row[_BUCKETS], cost, charge, payer_amount, is_error, saved)
        before = self._sums.get(key)
        self._sums[key] = sums if before is None else tuple(map(add, before, sums))

    def rows(self) -> list[tuple[Any, ...]]:
        """`(*key, *sums)` of each rollup row."""
        return [key + sums for key, sums in self._sums.items()]

    def clear(self) -> None:
        self._sums.clear()
        self._names.trim()


def _kept(names: Names, label: tuple[str, str], name: str) -> str:
    if _remember(names, label, name):
        return name
    return OTHER


def _remember(names: Names, label: tuple[str, str], name: str) -> bool:
    """Whether `name` has rows of its own. No name, and the word `other`, always have, and take no place."""
    if name in ("", OTHER):
        return True
    known = names.setdefault(label, set())
    if name in known:
        return True
    if len(known) >= NAMES_MAX:
        return False
    known.add(name)
    return True
