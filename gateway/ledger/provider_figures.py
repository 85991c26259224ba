"""How providers did lately, out of the newest entries: calls, errors, and how long answers took.

Bounded by the number of entries read, not by the window: a busy hour is told by its newest part, and says so. Entries come
in pieces, between which calls have their turn.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from sqlalchemy import select

from gateway.ledger.database import Database
from gateway.ledger.ids import id_floor
from gateway.ledger.periods import rfc3339
from gateway.ledger.schema import entries
from gateway.ledger.statements import Row

__all__ = ["ENTRIES_MAX", "provider_figures"]

ENTRIES_MAX = 10_000
_PIECE_ROWS = 500
"""Counted at once, in a millisecond."""
_FINE = frozenset({"ok", "client_gone"})
_COLUMNS = "provider served_model kind cached outcome error status latency_ms ttft_ms free_attempts created_at".split()


async def provider_figures(database: Database, from_ms: int) -> dict[str, Any]:
    """Of the newest `ENTRIES_MAX` entries since `from_ms` those that are calls and went to a provider."""
    query = select(*(entries.c[name] for name in _COLUMNS)).where(entries.c.id >= id_floor(from_ms))
    newest = query.order_by(entries.c.id.desc()).limit(ENTRIES_MAX)
    found: dict[str, dict[str, _Tally]] = {}
    number, oldest_ms = 0, from_ms
    async for rows in database.stream(newest, chunk_rows=_PIECE_ROWS):
        number += len(rows)
        oldest_ms = rows[-1]["created_at"]
        _count(found, rows)
    is_cut = number == ENTRIES_MAX
    return {
        "entries": number,
        "entries_max": ENTRIES_MAX,
        "is_cut": is_cut,
        "since": rfc3339(oldest_ms if is_cut else from_ms),
        "data": [_provider_json(name, models) for name, models in sorted(found.items())],
    }


@dataclass(slots=True)
class _Tally:
    """Of one model at one provider, or of all of them. Entries are added the newest first."""

    calls: int = 0
    failed_attempts: int = 0
    """They cost nothing, and another attempt followed."""
    outcomes: dict[str, int] = field(default_factory=dict)
    latencies_ms: list[int] = field(default_factory=list)
    """Of calls that ended well; so are those to the first byte."""
    ttfts_ms: list[int] = field(default_factory=list)
    last_error: Mapping[str, Any] | None = None

    def add(self, row: Row) -> None:
        outcome = row["outcome"]
        self.calls += 1
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        if outcome == "ok":
            self.latencies_ms.append(row["latency_ms"])
            if row["ttft_ms"] is not None:
                self.ttfts_ms.append(row["ttft_ms"])
        elif outcome not in _FINE:
            self._note(row, outcome, row["error"], row["status"])

    def add_failed(self, row: Row, attempt: Mapping[str, Any]) -> None:
        self.failed_attempts += 1
        self._note(row, "attempt_failed", attempt["error"], attempt["status"])

    def _note(self, row: Row, outcome: str, error: str, status: int) -> None:
        if self.last_error is None:
            self.last_error = {"at": rfc3339(row["created_at"]), "outcome": outcome, "error": error, "status": status}

    def to_json(self) -> dict[str, Any]:
        return {
            "calls": self.calls,
            "errors": sum(count for outcome, count in self.outcomes.items() if outcome not in _FINE),
            "failed_attempts": self.failed_attempts,
            "outcomes": dict(sorted(self.outcomes.items())),
            "latency_ms": _percentiles(self.latencies_ms),
            "ttft_ms": _percentiles(self.ttfts_ms),
            "last_error": self.last_error,
        }


_ALL = ""
"""In place of a model: no model is called that."""


def _count(found: dict[str, dict[str, _Tally]], rows: Sequence[Row]) -> None:
    for row in rows:
        if row["kind"] != "usage" or row["cached"]:
            continue
        for tally in _tallies(found, row["provider"], row["served_model"]):
            tally.add(row)
        for attempt in orjson.loads(row["free_attempts"]) if row["free_attempts"] else ():
            for tally in _tallies(found, attempt["provider"], attempt["model"]):
                tally.add_failed(row, attempt)


def _tallies(found: dict[str, dict[str, _Tally]], provider: str, model: str) -> Iterator[_Tally]:
    models = found.setdefault(provider, {})
    for name in (_ALL, model):
        yield models.setdefault(name, _Tally())


def _provider_json(name: str, models: Mapping[str, _Tally]) -> dict[str, Any]:
    shown = [{"served_model": model, **tally.to_json()} for model, tally in sorted(models.items()) if model != _ALL]
    return {"provider": name, **models[_ALL].to_json(), "models": shown}


def _percentiles(values: list[int]) -> dict[str, int | None]:
    """By nearest rank: the smallest value that so many percent of all are not above. None of no values."""
    values.sort()
    return {f"p{percent}": values[-(-len(values) * percent // 100) - 1] if values else None for percent in (50, 95)}
