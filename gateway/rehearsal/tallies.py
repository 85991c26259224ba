"""What became of the calls, summed up: by creator, by day and in all, under the plans as they are and the changed ones."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from gateway.ledger.periods import period_of, rfc3339
from gateway.pricing import usd
from gateway.rehearsal.past_call import PastCall
from gateway.rehearsal.stage import Fate

__all__ = ["Comparison", "Tallies", "Tally"]


@dataclass(slots=True)
class Tally:
    """Calls under one set of plans: each passed, was downgraded or refused."""

    passed: int = 0
    downgraded: int = 0
    refused: int = 0
    cost_nano_usd: int = 0
    first_downgraded_at: int | None = None
    first_refused_at: int | None = None
    refusals: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """By policy, code and name of the limit."""
    downgrades: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """By requested model, the model instead, and name of the limit."""

    def add(self, call: PastCall, fate: Fate) -> None:
        self.cost_nano_usd += fate.cost_nano_usd
        if fate.is_refused:
            self.refused += 1
            self.refusals[fate.policy, fate.code, fate.limit] += 1
            if self.first_refused_at is None:
                self.first_refused_at = call.admitted_at
        elif fate.is_downgraded:
            self.downgraded += 1
            self.downgrades[call.model, fate.model, fate.limit] += 1
            if self.first_downgraded_at is None:
                self.first_downgraded_at = call.admitted_at
        else:
            self.passed += 1

    def add_all(self, other: "Tally") -> None:
        """What was tallied elsewhere, of later calls."""
        self.passed += other.passed
        self.downgraded += other.downgraded
        self.refused += other.refused
        self.cost_nano_usd += other.cost_nano_usd
        self.refusals += other.refusals
        self.downgrades += other.downgrades
        if self.first_downgraded_at is None:
            self.first_downgraded_at = other.first_downgraded_at
        if self.first_refused_at is None:
            self.first_refused_at = other.first_refused_at

    def to_json(self) -> dict[str, Any]:
        return {
            "passed": self.passed,
            "downgraded": self.downgraded,
            "refused": self.refused,
            "cost_nano_usd": self.cost_nano_usd,
            "cost_usd": usd(self.cost_nano_usd),
            "first_downgraded_at": _instant(self.first_downgraded_at),
            "first_refused_at": _instant(self.first_refused_at),
            "refusals": _listed(self.refusals, ("policy", "code", "limit")),
            "downgrades": _listed(self.downgrades, ("from_model", "to_model", "limit")),
        }


@dataclass(slots=True)
class Comparison:
    """The same calls three times: as they went in truth, under the plans as they are, and under the changed ones."""

    calls: int = 0
    booked_nano_usd: int = 0
    before: Tally = field(default_factory=Tally)
    after: Tally = field(default_factory=Tally)

    def add(self, call: PastCall, before: Fate, after: Fate) -> None:
        self.calls += 1
        self.booked_nano_usd += call.cost_nano_usd
        self.before.add(call, before)
        self.after.add(call, after)

    @property
    def saved_nano_usd(self) -> int:
        return self.before.cost_nano_usd - self.after.cost_nano_usd

    def to_json(self) -> dict[str, Any]:
        return {
            "calls": self.calls,
            "booked_nano_usd": self.booked_nano_usd,
            "booked_usd": usd(self.booked_nano_usd),
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "saved_nano_usd": self.saved_nano_usd,
            "saved_usd": usd(self.saved_nano_usd),
        }


class Tallies:
    def __init__(self) -> None:
        self.calls = 0
        self.by_creator: defaultdict[str, Comparison] = defaultdict(Comparison)
        self.by_day: defaultdict[str, Comparison] = defaultdict(Comparison)

    def add(self, call: PastCall, before: Fate, after: Fate) -> None:
        self.calls += 1
        day, _ = period_of(call.admitted_at)
        self.by_creator[call.creator].add(call, before, after)
        self.by_day[day].add(call, before, after)

    def total(self) -> Comparison:
        found = Comparison()
        for each in self.by_day.values():
            found.calls += each.calls
            found.booked_nano_usd += each.booked_nano_usd
            found.before.add_all(each.before)
            found.after.add_all(each.after)
        return found


def _instant(at_ms: int | None) -> str | None:
    return None if at_ms is None else rfc3339(at_ms)


def _listed(counted: Counter[tuple[str, str, str]], names: tuple[str, str, str]) -> list[dict[str, Any]]:
    return [{**dict(zip(names, key, strict=True)), "calls": calls} for key, calls in counted.most_common()]
