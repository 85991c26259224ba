"""The holds this process has open, and how it ends them: what must not be lost when Redis loses everything.

A hold is kept here until Redis has said that it ended. An ending that cannot reach Redis is kept with it, and told again
as soon as it can; by its id it ends once, however often that is told.
"""

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass

import orjson

from gateway.counters.base import LimitState
from gateway.counters.redis_names import Names
from gateway.counters.redis_scripts import limits_for, microseconds

__all__ = ["ABANDONED", "RELEASED", "OpenHold", "OpenHolds", "restore_arguments"]

RELEASED, ABANDONED = b"released", b"abandoned"


@dataclass(slots=True)
class OpenHold:
    tag: str
    epoch: str
    """In which it was taken, or restored."""
    states: tuple[LimitState, ...]
    """What was taken; nothing where that is not known."""
    taken_at: float
    """On this process's monotonic clock."""
    ending: bytes | None = None
    """How it is to end, once that is known: as the script wants to hear it."""
    is_being_told: bool = False
    """Its ending is on its way to Redis."""


class OpenHolds:
    """By id. Lifetime: the process."""

    def __init__(self) -> None:
        self.process = secrets.token_hex(6)
        """How holds say whose they are."""
        self._holds: dict[str, OpenHold] = {}

    def __len__(self) -> int:
        return len(self._holds)

    def __contains__(self, hold_id: str) -> bool:
        return hold_id in self._holds

    def opened(self, hold_id: str, tag: str, epoch: str, states: tuple[LimitState, ...]) -> None:
        self._holds[hold_id] = OpenHold(tag, epoch, states, time.monotonic())

    def abandon(self, hold_id: str, tag: str, epoch: str) -> None:
        """Nobody knows whether it was taken; it must not be."""
        self._holds[hold_id] = OpenHold(tag, epoch, (), time.monotonic(), ABANDONED)

    def is_abandoned(self, hold_id: str) -> bool:
        hold = self._holds.get(hold_id)
        return hold is not None and hold.ending == ABANDONED

    def foreign(self, hold_id: str, tag: str, how: bytes) -> OpenHold:
        """One that another process took and this one ends."""
        hold = self._holds[hold_id] = OpenHold(tag, "", (), time.monotonic(), how)
        return hold

    def ending(self, hold_id: str, how: bytes) -> OpenHold | None:
        """The hold, which from now on is to end so; None if it is not open, or ends already."""
        hold = self._holds.get(hold_id)
        if hold is None or hold.ending is not None:
            return None
        hold.ending = how
        return hold

    def ended(self, hold_id: str) -> None:
        self._holds.pop(hold_id, None)

    def unended(self) -> list[tuple[str, OpenHold]]:
        """Whose ending still has to be told."""
        return [
            (hold_id, hold)
            for hold_id, hold in self._holds.items()
            if hold.ending is not None and not hold.is_being_told
        ]

    def outside(self, epoch: str) -> list[tuple[str, OpenHold]]:
        """Those that `epoch` has not heard of."""
        return [(hold_id, hold) for hold_id, hold in self._holds.items() if hold.epoch != epoch and hold.states]

    def moved(self, epoch: str) -> None:
        """All of them are counted in `epoch` now."""
        for hold in self._holds.values():
            hold.epoch = epoch

    def written(self, epoch: str, names: Names) -> Iterator[tuple[str, bytes]]:
        """Each with what another process needs to restore it in `epoch`: JSON of its keys, its arguments, and whether it
        is ending."""
        for hold_id, hold in self._holds.items():
            if hold.states:
                keys, limits = restore_arguments(hold, epoch, names)
                yield hold_id, orjson.dumps([keys, [limits.decode(), self.process], hold.ending is not None])


def restore_arguments(hold: OpenHold, epoch: str, names: Names) -> tuple[list[str], bytes]:
    """Keys, holds first, and the argument of the script that restores it."""
    age_us = microseconds(time.monotonic() - hold.taken_at)
    counters, rows = limits_for([(state.limit, state.taken) for state in hold.states], epoch, names)
    return [names.holds(hold.tag, epoch), *counters], orjson.dumps([age_us, rows])
