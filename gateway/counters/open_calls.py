"""What the calls that are open have taken of which counters, read off the ledger: their holds say why they were admitted.

The processes that serve them know it better and restore it themselves (redis_epochs.py). This is for who counts without
them. A hold keeps no limits without a capacity, so nothing is known of those; they bound nothing.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from gateway.decision import decision_json
from gateway.ledger.counted import OpenCallRow, open_call_rows
from gateway.ledger.database import Database
from policies import budget, concurrency, free_images, periods, quota, rate_limit, token_rate
from policies import credits as credit_policy
from policies.owners import Owner, creator_owner, key_owner
from policies.types import UNLIMITED, Deny, Kind, Limit
from policies.windows import WINDOWS

__all__ = ["OpenCall", "open_calls"]

_KEYS = "key_"
"""What the names of a virtual key's own limits begin with."""


class OpenCall(NamedTuple):
    hold_id: str
    admitted_at: float
    """Unix time, in seconds."""
    taken: tuple[tuple[Limit, int], ...]
    """Limits, each with how much of it was taken."""


async def open_calls(database: Database) -> list[OpenCall]:
    """Every call of the ledger that is open, of every process. Raises `StoreError`."""
    return [_open_call(row) for row in await open_call_rows(database)]


def _open_call(row: OpenCallRow) -> OpenCall:
    return OpenCall(row.request_id, row.admitted_at / 1000, tuple(_taken(row)))


def _taken(row: OpenCallRow) -> Iterator[tuple[Limit, int]]:
    decision = decision_json(row.decision)
    admitted_at = datetime.fromtimestamp(row.admitted_at / 1000, UTC)
    for said in () if decision is None else decision["limits"]:
        name: str = said["name"]
        owner = creator_owner(row.creator)
        if row.key_id and name.startswith(_KEYS):
            owner, name = key_owner(row.key_id), name.removeprefix(_KEYS)
        counter = _counter(name, owner, admitted_at)
        if counter is not None:
            capacity = UNLIMITED if said["limit"] is None else said["limit"]
            refusal = Deny("rate_limit_exceeded", "", "")
            kind, key, window_s, resets_at = counter
            limit = Limit(said["name"], key, kind, capacity, said["taken"], said["unit"], refusal, window_s, resets_at)
            yield limit, said["taken"]


class _Counter(NamedTuple):
    kind: Kind
    key: str
    window_s: int = 0
    resets_at: float | None = None


def _counter(name: str, owner: Owner, admitted_at: datetime) -> _Counter | None:
    """The counter of a limit by its name; None for one that no policy of today makes."""
    if name in (quota.NAME, budget.NAME, budget.HARD_NAME):
        keys = {
            quota.NAME: quota.counter_key,
            budget.NAME: budget.counter_key,
            budget.HARD_NAME: budget.hard_counter_key,
        }
        ends_at = periods.month_ends_at(admitted_at.year, admitted_at.month)
        return _Counter("calendar", keys[name](owner, periods.month_of(admitted_at)), resets_at=ends_at)
    if name == free_images.NAME:
        ends_at = periods.day_ends_at(admitted_at.year, admitted_at.month, admitted_at.day)
        return _Counter("calendar", free_images.counter_key(owner, periods.day_of(admitted_at)), resets_at=ends_at)
    if name == credit_policy.NAME:
        return _Counter("balance", credit_policy.counter_key(owner))
    if name == credit_policy.PROMO_NAME:
        return _Counter("balance", credit_policy.promo_counter_key(owner))
    return _window(name, owner)


def _window(name: str, owner: Owner) -> _Counter | None:
    """`requests_per_hour`, or `openai_requests_per_hour` of one provider."""
    for field, window in WINDOWS.items():
        provider = name.removesuffix(field)
        if provider != name and (not provider or provider.endswith("_")):
            towards = provider[:-1] or None
            if window.unit == "call":
                return _Counter("gauge", concurrency.counter_key(owner, towards))
            of_unit = rate_limit if window.unit == "request" else token_rate
            return _Counter("rolling", of_unit.counter_key(owner, window.window_s, towards), window.window_s)
    return None
