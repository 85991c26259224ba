"""Which deployment serves a call, and which come after it: weighted choice, cooldown and circuit breaking.

A model has one deployment, its own row, or several (`Model.deployments`). For each call they are put in an order: those in
good health first, within them by a weighted draw, so that the first has its share of the calls and the others are what a
call falls back to. A sticky model draws by the creator instead of by chance, and a change of weights moves as few creators
as it must.

Health is per deployment and process. A rate limit cools a deployment down for as long as it asks for, within bounds: it is
only tried after the others. Failures in a row open its circuit: for a while it is not tried at all, then by one call at a
time. Where there is nobody else to ask, only a deployment that cannot even be reached is left alone: every other failure
may be the doing of one caller, who must not take the model away from all. Nothing here waits or dials.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import log
from typing import Any, Literal, NamedTuple

from gateway.catalog import Catalog, Model
from gateway.errors import UpstreamError
from gateway.providers.base import UpstreamFailure

__all__ = ["Deployments", "ErrorClass", "class_of_failure", "class_of_status"]

ErrorClass = Literal["rate_limit", "server_error", "unreachable", "timeout", "broken", "auth", "not_found", "request"]
"""Why an attempt failed. `request`: the caller's mistake, which another deployment would see as well."""

_COUNTED_FAILURES: frozenset[ErrorClass] = frozenset({"server_error", "unreachable", "timeout", "broken"})
"""What says that a deployment is not well; a rate limit says that it is busy."""
_COOLDOWN_S = 5.0
"""After a rate limit that does not say how long."""
_COOLDOWN_MAX_S = 60.0
_OPERATOR_COOLDOWN_S = 60.0
"""After an answer that only the operator can mend (key, balance, unknown model)."""


class _Key(NamedTuple):
    provider: str
    upstream_model: str


@dataclass(slots=True)
class _Health:
    failures: int = 0
    """In a row."""
    unreached: int = 0
    """How many of the last ones did not even get a connection."""
    opened_until: float = 0.0
    """The circuit is open until then; afterwards one call in as many seconds may try. 0: it is closed."""
    cool_until: float = 0.0
    last_error: ErrorClass | None = None
    troubled_at: float = 0.0
    """When the first of them failed since one last succeeded."""


class Deployments:
    """Lifetime: the process. `failures_max` failures in a row open a circuit for `open_s` seconds; 0: none ever opens."""

    def __init__(
        self,
        *,
        failures_max: int,
        open_s: float,
        clock: Callable[[], float],
        draw: Callable[[], float] = random.random,
    ) -> None:
        """`clock` is monotonic seconds, `draw` a number from 0 to 1."""
        self._failures_max = failures_max
        self._open_s = open_s
        self._clock = clock
        self._draw = draw
        self._health: dict[_Key, _Health] = {}
        """Of deployments that failed; one that succeeds again is forgotten."""

    def order(self, model: Model, creator: str) -> Sequence[Model]:
        """The deployments of `model` a call of `creator` may try, the first choice first; never empty.

        Raises `UpstreamError` 503 with the wait when none of them could be reached of late.
        """
        models = self.drawn(model, creator)
        return self._usable(models) if self._health else models

    def drawn(self, model: Model, creator: str) -> Sequence[Model]:
        """The same order, were they all in good health: for a call that may not have to go to any."""
        if not model.deployments:
            return (model,)
        drawn = sorted(
            model.deployments,
            key=lambda each: self._score(each.model, each.weight, model.name, creator if model.sticky else None),
        )
        return [each.model for each in drawn]

    def dials(self, model: Model) -> None:
        """A call is about to try it: where the circuit was open, the next one may in `open_s` seconds."""
        if self._health and (health := self._health.get(_key(model))) is not None and health.opened_until:
            health.opened_until = self._clock() + self._open_s

    def reached(self, model: Model) -> None:
        """An answer has begun. Whether it ends well is told by `succeeded` or `failed`."""
        if self._health and (health := self._health.get(_key(model))) is not None:
            health.unreached = 0
            health.opened_until = 0.0

    def succeeded(self, model: Model) -> None:
        if self._health:
            self._health.pop(_key(model), None)

    def failed(self, model: Model, error: ErrorClass, retry_after_s: float | None = None) -> None:
        """Note why an attempt failed; `retry_after_s` as the provider said."""
        if error == "request":
            self.succeeded(model)
            return
        now = self._clock()
        health = self._health.setdefault(_key(model), _Health(troubled_at=now))
        health.last_error = error
        if error == "rate_limit":
            wait = _COOLDOWN_S if retry_after_s is None else min(max(retry_after_s, 0.0), _COOLDOWN_MAX_S)
            health.cool_until = now + wait
        elif error in ("auth", "not_found"):
            health.cool_until = now + _OPERATOR_COOLDOWN_S
        elif error in _COUNTED_FAILURES:
            health.failures += 1
            health.unreached = health.unreached + 1 if error == "unreachable" else 0
            if 0 < self._failures_max <= health.failures:
                health.opened_until = now + self._open_s

    def state(self, catalog: Catalog) -> list[dict[str, Any]]:
        """Every deployment of an active model with its health, for admins."""
        now = self._clock()
        shown: dict[_Key, dict[str, Any]] = {}
        for model in catalog.models.values():
            for each in _deployments_of(model) if model.active else ():
                key = _key(each)
                line = shown.setdefault(key, {**key._asdict(), "models": [], **self._shown(key, now)})
                line["models"].append(model.name)
        return list(shown.values())

    def up(self, catalog: Catalog) -> dict[tuple[str, str], bool]:
        """Provider and upstream model of every deployment of an active model: whether its circuit is not open."""
        now = self._clock()
        models = [each for model in catalog.models.values() if model.active for each in _deployments_of(model)]
        return {key: self._health.get(key, _HEALTHY).opened_until <= now for key in map(_key, models)}

    def troubled(self) -> list[str]:
        """`provider/upstream model` of every deployment whose circuit is open."""
        now = self._clock()
        return sorted("/".join(key) for key, health in self._health.items() if health.opened_until > now)

    def _shown(self, key: _Key, now: float) -> dict[str, Any]:
        health = self._health.get(key, _HEALTHY)
        if health.opened_until > now:
            state, until = "open", health.opened_until
        elif health.opened_until:
            state, until = "half_open", now
        elif health.cool_until > now:
            state, until = "cooling_down", health.cool_until
        else:
            state, until = "ok", now
        return {
            "state": state,
            "retry_in_s": round(until - now, 1),
            "troubled_for_s": None if health is _HEALTHY else round(now - health.troubled_at, 1),
            "failures_in_a_row": health.failures,
            "last_error": health.last_error,
        }

    def _usable(self, models: Sequence[Model]) -> Sequence[Model]:
        """Those in good health first. Raises `UpstreamError` where none is worth trying."""
        now = self._clock()
        if closed := [each for each in models if self._open_for_s(each, now) <= 0]:
            return sorted(closed, key=lambda each: self._is_cooling(each, now))
        if reachable := [each for each in models if not self._is_out_of_reach(each)]:
            return reachable
        wait_s = min(self._open_for_s(each, now) for each in models)
        raise UpstreamError(
            "The provider of this model could not be reached several times in a row; try again in a moment.",
            status=503,
            code="circuit_open",
            headers={"retry-after": str(int(wait_s) + 1)},
        )

    def _open_for_s(self, model: Model, now: float) -> float:
        health = self._health.get(_key(model))
        return 0.0 if health is None else health.opened_until - now

    def _is_out_of_reach(self, model: Model) -> bool:
        health = self._health.get(_key(model))
        return health is not None and health.unreached >= self._failures_max

    def _is_cooling(self, model: Model, now: float) -> bool:
        health = self._health.get(_key(model))
        return health is not None and health.cool_until > now

    def _score(self, deployment: Model, weight: int, model: str, creator: str | None) -> tuple[bool, float]:
        """Sorted by it, each deployment comes first in proportion to its weight; weight 0 comes last."""
        if not weight:
            return True, 0.0
        if creator is None:
            drawn = self._draw()
        else:
            digest = sha256("\0".join((creator, model, *_key(deployment))).encode()).digest()
            drawn = int.from_bytes(digest[:8], "big") / 2**64
        return False, -log(1.0 - drawn) / weight


_HEALTHY = _Health()


def _deployments_of(model: Model) -> Sequence[Model]:
    return [each.model for each in model.deployments] or [model]


def _key(model: Model) -> _Key:
    return _Key(model.provider, model.upstream_model)


def class_of_status(status: int) -> ErrorClass:
    """Of a provider's answer of 300 or more."""
    if status == 429:
        return "rate_limit"
    if status in (401, 402, 403):
        return "auth"
    if status == 404:
        return "not_found"
    return "server_error" if status >= 500 else "request"


def class_of_failure(failure: UpstreamFailure) -> ErrorClass:
    if failure.kind == "unreachable":
        return "unreachable"
    return "timeout" if failure.kind.endswith("timeout") else "broken"
