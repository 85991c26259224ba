"""Entries summed into the rows of `usage_daily`. The writer adds these sums up, `verify` makes them again from nothing.

A creator who sends ever new features or agents must not make as many rollup rows: beyond 200 names a creator and day the
rollup says `other`. Entries keep every name. A name has rows of its own for a whole day or not at all; which 200 do is
decided by who posts first, and several processes may post at once: so a name that would take a place is looked at again
under a lock, and `verify` reads from the rollups which names have one.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import add, itemgetter
from typing import Any, Protocol

from gateway.ledger.schema import ENTRY_COLUMNS, USAGE_DAILY_KEY
from gateway.usage import Usage

__all__ = ["NAMES_MAX", "OTHER", "Folding", "NameBook", "Rollups", "StoredNames"]

NAMES_MAX = 200
OTHER = "other"
_PLACELESS = ("", OTHER)
"""No name, and the word `other`, always have rows, and take no place."""
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
LookAgain = Callable[[str, str], Iterable[tuple[str, str]]]
"""Day, creator -> (feature, agent) of the rollup rows, as of now and until the transaction ends: nobody else adds names."""


class Folding(Protocol):
    """Decides which names have rollup rows of their own."""

    def fold(self, key: tuple[Any, ...]) -> tuple[Any, ...]:
        """The rollup key with names beyond the bound replaced by `other`."""
        ...

    def trim(self) -> None:
        """What was folded is about to be forgotten, or written."""
        ...


class NameBook:
    """Which features and agents have rows of their own, per creator and day. Keeps a few days; reads others again.

    `look_again` is for a store that others write to as well. It is asked before a name takes a place, and only then: a
    known name stays known, and a full book stays full, whatever others do.
    """

    def __init__(
        self, load: LoadNames, *, look_again: LookAgain | None = None, days_kept: int | None = _DAYS_KEPT
    ) -> None:
        self._load = load
        self._look_again = look_again
        self._days_kept = days_kept
        self._days: OrderedDict[str, Names] = OrderedDict()
        self._settled: set[tuple[str, str, str, str]] = set()
        self._looked_at: set[tuple[str, str]] = set()
        """Days and creators that were read again in the transaction that is open."""

    def fold(self, key: tuple[Any, ...]) -> tuple[Any, ...]:
        """The rollup key with names beyond the bound replaced by `other`."""
        label = (key[_DAY], key[_CREATOR], key[_FEATURE], key[_AGENT])
        if label in self._settled:
            return key
        day, creator, feature, agent = label
        names = self._names_of(day)
        if self._look_again is not None and (
            _takes_a_place(names, (creator, "feature"), feature) or _takes_a_place(names, (creator, "agent"), agent)
        ):
            self._read_again(names, day, creator)
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
        self._looked_at.clear()

    def trim(self) -> None:
        """Let go of what is beyond the bound. Only when all was written: what is read again must have a row."""
        self._looked_at.clear()
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
                _add(names, (creator, "feature"), feature)
                _add(names, (creator, "agent"), agent)
        return names

    def _read_again(self, names: Names, day: str, creator: str) -> None:
        """Names that others wrote since; those of this transaction have no rows yet, and stay."""
        assert self._look_again is not None  # noqa: S101 -- the caller looked
        if (day, creator) in self._looked_at:
            return
        for feature, agent in self._look_again(day, creator):
            _add(names, (creator, "feature"), feature)
            _add(names, (creator, "agent"), agent)
        self._looked_at.add((day, creator))


class StoredNames:
    """The names that have rollup rows, as they stand there: by them `verify` folds again what was folded once.

    `faults` tells where that cannot have been right. Bounded by the number of rollup rows.
    """

    def __init__(self, rows: Iterable[tuple[str, str, str, str]]) -> None:
        """`rows`: day, creator, feature and agent of the rollups."""
        self._days: dict[str, Names] = {}
        self._folded: set[tuple[str, str, str]] = set()
        for day, creator, feature, agent in rows:
            names = self._days.setdefault(day, {})
            _add(names, (creator, "feature"), feature)
            _add(names, (creator, "agent"), agent)

    def fold(self, key: tuple[Any, ...]) -> tuple[Any, ...]:
        """The rollup key with names that have no row replaced by `other`."""
        feature = self._kept(key[_DAY], key[_CREATOR], "feature", key[_FEATURE])
        agent = self._kept(key[_DAY], key[_CREATOR], "agent", key[_AGENT])
        if feature == key[_FEATURE] and agent == key[_AGENT]:
            return key
        folded = list(key)
        folded[_FEATURE], folded[_AGENT] = feature, agent
        return tuple(folded)

    def trim(self) -> None:
        """They stay."""

    def faults(self) -> Iterator[tuple[str, int, str]]:
        """(day, creator and label; how many names have rows; what should be): more names than there is room for, or
        names folded while there was room."""
        for day, names in self._days.items():
            for (creator, label), known in names.items():
                if len(known) > NAMES_MAX:
                    yield f"{day} {creator} {label}", len(known), f"{NAMES_MAX} at most"
        for day, creator, label in sorted(self._folded):
            known = self._days.get(day, {}).get((creator, label), set())
            if len(known) < NAMES_MAX:
                yield f"{day} {creator} {label}", len(known), f"{NAMES_MAX}, as others were folded into `{OTHER}`"

    def _kept(self, day: str, creator: str, label: str, name: str) -> str:
        if name in _PLACELESS or name in self._days.get(day, {}).get((creator, label), ()):
            return name
        self._folded.add((day, creator, label))
        return OTHER


class Rollups:
    """Sums of the entries added since the last `clear`, by rollup key."""

    def __init__(self, names: Folding) -> None:
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
    """`name`, if it has rows of its own from now on, or `other`."""
    known = names.get(label, ())
    if name in known or name in _PLACELESS:
        return name
    if len(known) >= NAMES_MAX:
        return OTHER
    _add(names, label, name)
    return name


def _takes_a_place(names: Names, label: tuple[str, str], name: str) -> bool:
    known = names.get(label, ())
    return name not in known and name not in _PLACELESS and len(known) < NAMES_MAX


def _add(names: Names, label: tuple[str, str], name: str) -> None:
    if name not in _PLACELESS:
        names.setdefault(label, set()).add(name)
