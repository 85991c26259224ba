"""What calls leave behind for whoever looks after notices: a few plain counts, so that a call pays next to nothing.

Everything is in memory and taken away by `drain`. What a crash loses shows again with the next call of the creator.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from gateway.ledger.records import Entry
from policies.types import Account

__all__ = ["Downgrade", "ErrorRate", "Heard", "Signals"]

_WINDOW_MINUTES = 10
_ACCOUNTS_MAX = 100_000
_FINE = frozenset({"ok", "client_gone"})
_CALLERS_FAULTS = frozenset({400, 404, 413, 415, 422})
"""Answers of a provider that say the request was wrong: nobody needs to look after these."""


class Downgrade(NamedTuple):
    """The last call of a virtual key that a limit sent to another model."""

    account: Account
    requested_model: str
    served_model: str
    limit_name: str
    admitted_at: datetime


class ErrorRate(NamedTuple):
    """Calls of the last ten minutes to one provider."""

    calls: int
    errors: int


class Heard(NamedTuple):
    """Since the last `drain`."""

    accounts: Mapping[tuple[str, str], Account]
    """(creator, virtual key) -> the account of its last call that was booked or refused for money."""
    downgrades: Mapping[tuple[str, str, str], Downgrade]
    """(creator, virtual key, name of the limit): a key may have limits of its own."""
    exhausted: Mapping[tuple[str, str, str], tuple[Account, Mapping[str, Any]]]
    """(creator, virtual key, name of the limit) -> the account, and the `metadata` of the refusal `insufficient_quota`."""


class Signals:
    """Lifetime: the process. Belongs to the event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._accounts: dict[tuple[str, str], Account] = {}
        self._downgrades: dict[tuple[str, str, str], Downgrade] = {}
        self._exhausted: dict[tuple[str, str, str], tuple[Account, Mapping[str, Any]]] = {}
        self._minutes: deque[tuple[int, dict[str, list[int]]]] = deque(maxlen=_WINDOW_MINUTES)
        """(minute, provider -> [calls, errors]), the last ones that had a call."""

    def finished(self, account: Account, entry: Entry) -> None:
        """A call was booked."""
        if self._hear(account) and (reason := entry.downgrade_reason):
            told = entry.attribution
            models = told.requested_model, entry.route.served_model
            downgrade = Downgrade(account, *models, limit_name=reason, admitted_at=told.admitted_at)
            self._downgrades[account.creator, account.key_id, reason] = downgrade
        if entry.cached:
            return
        minute = int(self._clock() // 60)
        minutes = self._minutes
        if not minutes or minutes[-1][0] != minute:
            minutes.append((minute, {}))
        counts = minutes[-1][1].get(entry.route.provider)
        if counts is None:
            counts = minutes[-1][1][entry.route.provider] = [0, 0]
        counts[0] += 1
        if entry.outcome not in _FINE and not (entry.outcome == "upstream_refused" and entry.status in _CALLERS_FAULTS):
            counts[1] += 1

    def refused(self, account: Account, metadata: Mapping[str, Any]) -> None:
        """A call was refused because money has run out (`insufficient_quota`)."""
        if self._hear(account):
            name = str(metadata.get("name", ""))
            self._exhausted[account.creator, account.key_id, name] = (account, metadata)

    def _hear(self, account: Account) -> bool:
        """False where so many wait already that one more would not fit."""
        key = (account.creator, account.key_id)
        if len(self._accounts) >= _ACCOUNTS_MAX and key not in self._accounts:
            return False
        self._accounts[key] = account
        return True

    def error_rates(self) -> dict[str, ErrorRate]:
        """By provider, over the last ten minutes. Takes nothing away."""
        oldest = int(self._clock() // 60) - _WINDOW_MINUTES
        found: dict[str, ErrorRate] = {}
        for minute, providers in self._minutes:
            if minute > oldest:
                for provider, (calls, errors) in providers.items():
                    before = found.get(provider, ErrorRate(0, 0))
                    found[provider] = ErrorRate(before.calls + calls, before.errors + errors)
        return found

    def drain(self) -> Heard:
        heard = Heard(self._accounts, self._downgrades, self._exhausted)
        self._accounts, self._downgrades, self._exhausted = {}, {}, {}
        return heard
