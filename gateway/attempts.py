"""The attempts of one call: which deployment is next, after which pause, and what is told of those that failed.

Another attempt is made only while nothing is owed for the last one and no byte has reached the client:
- the provider refused (rate limit, server error, key or model unknown to it), or
- not a byte of the request was written.

First come the other deployments, without a pause. The same ones again only where the model's row allows `retries`: the one
that may be asked soonest, after a pause of its provider's own `retry-after` or a doubling one, within bounds and with
jitter. Not more than `attempts_max` in all, and none after the client has stopped waiting.
"""

import random
from collections.abc import Callable, Mapping
from math import inf
from typing import Any

import orjson

from gateway.routing import ErrorClass

__all__ = ["Attempts", "client_waits_s", "seconds"]

_GOES_ON: frozenset[ErrorClass] = frozenset({"rate_limit", "server_error", "unreachable", "auth", "not_found"})
_RETRIED: frozenset[ErrorClass] = frozenset({"rate_limit", "server_error", "unreachable"})
"""What the same deployment may do better a moment later."""
_PAUSE_FIRST_S = 0.25
_PAUSE_MAX_S = 5.0


class Attempts:
    """Lifetime: one call. `index` is the offer in use."""

    __slots__ = ("_attempts_max", "_ends_at", "_failed", "_made", "_offers", "_ready_at", "_retries_left", "index")

    def __init__(self, offers: int, *, attempts_max: int, retries: int, ends_at: float) -> None:
        """`ends_at` on the monotonic clock: when the client will have stopped waiting."""
        self._offers = offers
        self._attempts_max = attempts_max
        self._retries_left = retries
        self._ends_at = ends_at
        self._made = 1
        self._failed: list[dict[str, Any]] = []
        self._ready_at = [0.0] * offers
        """On the monotonic clock: from when on each offer may be asked again."""
        self.index = 0

    @property
    def made(self) -> int:
        """So far, the one under way included."""
        return self._made

    @property
    def may_go_on(self) -> bool:
        """Whether there could be another attempt at all."""
        return self._made < self._attempts_max and (self._made < self._offers or self._retries_left > 0)

    def next_after(
        self,
        error: ErrorClass,
        *,
        retry_after_s: float | None,
        now: float,
        draw: Callable[[], float] = random.random,
    ) -> float | None:
        """Seconds to pause before the next attempt, which `index` then names; None when this was the last one."""
        if error not in _GOES_ON or self._made >= self._attempts_max:
            return None
        self._ready_at[self.index] = now + (retry_after_s or 0.0) if error in _RETRIED else inf
        pause, index = 0.0, self._made
        if self._made >= self._offers:
            if not self._retries_left:
                return None
            turns = [(self._made + turn) % self._offers for turn in range(self._offers)]
            index = min(turns, key=self._ready_at.__getitem__)
            wait = self._ready_at[index] - now
            if wait > _PAUSE_MAX_S:
                return None  # the client may wait that long if it likes
            pause = max(_PAUSE_FIRST_S * 2 ** (self._made - self._offers), wait)
            # At least what the provider asked for, up to half as much again.
            pause = min(pause, _PAUSE_MAX_S) * (1 + draw() / 2)
        if now + pause >= self._ends_at:
            return None
        if self._made >= self._offers:
            self._retries_left -= 1
        self.index = index
        self._made += 1
        return pause

    def note(self, *, provider: str, model: str, error: ErrorClass, status: int, elapsed_ms: int) -> None:
        """An attempt that cost nothing."""
        told = {"provider": provider, "model": model, "error": error, "status": status, "elapsed_ms": elapsed_ms}
        self._failed.append(told)

    def free_attempts(self) -> str:
        """JSON list of the attempts that cost nothing and were followed by another; empty for none."""
        return orjson.dumps(self._failed).decode() if self._failed else ""


def seconds(value: str | None) -> float | None:
    """A provider's `retry-after` in seconds; None where it is absent, negative or no number."""
    try:
        found = float(value) if value else None
    except ValueError:
        return None  # an HTTP date: rare, and a pause of our own does as well
    return found if found is not None and 0 <= found < 1e9 else None


def client_waits_s(headers: Mapping[bytes, bytes]) -> float | None:
    """How long an SDK said it will wait for the answer; None where it did not."""
    for name in (b"x-stainless-timeout", b"x-stainless-read-timeout"):
        raw = headers.get(name)
        if raw is not None and (found := seconds(raw.decode("latin-1"))):
            return found
    return None
