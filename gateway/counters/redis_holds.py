"""The holds this process has open, and how it ends them: what must not be lost when Redis loses everything.

A hold is kept here until Redis has said that it ended. An ending that cannot reach Redis is kept with it, and told again
as soon as it can; by its id it ends once, however often that is told.
"""

import secrets
import time
from collections.abc import Iterable, Iterator
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
    may_have_ended: bool = False
    """Redis may know of its ending: it was told before, or the hold was not restored, as the ledger had its end."""
    written_in: str = ""
    """The epoch for which it was written down, to be restored."""

    @property
    def is_unheard_of(self) -> bool:
        """It was taken elsewhere, and no epoch has been made since."""
        return bool(self.states) and not self.epoch

    @property
    def is_booked(self) -> bool:
        """It ends with an entry in the ledger."""
        return self.ending not in (None, RELEASED, ABANDONED)


class OpenHolds:
    """By id. Lifetime: the process."""

    def __init__(self) -> None:
        self.process = secrets.token_hex(6)
        """How holds say whose they are."""
        self._holds: dict[str, OpenHold] = {}
        self.has_forgotten = False
        """Holds were forgotten that the ledger has an entry of, and which no epoch may lack that is to count."""

    def __len__(self) -> int:
        return len(self._holds)

    def __contains__(self, hold_id: str) -> bool:
        return hold_id in self._holds

    def opened(self, hold_id: str, tag: str, epoch: str, states: tuple[LimitState, ...]) -> None:
        self._holds[hold_id] = OpenHold(tag, epoch, states, time.monotonic())

    def adopt(self, hold_id: str, tag: str, states: tuple[LimitState, ...], taken_at: float) -> None:
        """One that was taken elsewhere, and is in no epoch yet. One that is open already stays as it is."""
        hold = self._holds.get(hold_id)
        # One that was given up here is in no epoch that is still to count: its call went on elsewhere.
        if hold is None or hold.ending == ABANDONED:
            self._holds[hold_id] = OpenHold(tag, "", states, taken_at)

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

    def forget(self, hold_ids: Iterable[str]) -> None:
        """The ledger has an entry of these: an epoch that is filled from now on has it, too."""
        self.has_forgotten = True
        for hold_id in hold_ids:
            self._holds.pop(hold_id, None)

    def booked(self) -> list[str]:
        """Ids of those that end with an entry in the ledger."""
        return [hold_id for hold_id, hold in self._holds.items() if hold.is_booked]

    def unended(self) -> list[tuple[str, OpenHold]]:
        """Whose ending still has to be told."""
        return [
            (hold_id, hold)
            for hold_id, hold in self._holds.items()
            if hold.ending is not None and not hold.is_being_told
        ]

    def open_states(self) -> list[tuple[str, str, tuple[LimitState, ...], float]]:
        """Those whose end is not known: id, tag, what was taken, and when."""
        return [
            (hold_id, hold.tag, hold.states, hold.taken_at)
            for hold_id, hold in self._holds.items()
            if hold.states and hold.ending is None
        ]

    def outside(self, epoch: str) -> list[tuple[str, OpenHold]]:
        """Those that `epoch` has not heard of."""
        return [
            (hold_id, hold)
            for hold_id, hold in self._holds.items()
            if hold.states and epoch not in (hold.epoch, hold.written_in)
        ]

    def were_written(self, hold_ids: Iterable[str], epoch: str) -> None:
        """Whoever makes `epoch` knows these, and has not begun to read the ledger."""
        self.has_forgotten = False
        for hold_id in hold_ids:
            if hold := self._holds.get(hold_id):
                hold.written_in = epoch

    def moved(self, epoch: str) -> None:
        """All of them are counted in `epoch` now."""
        self.has_forgotten = False
        for hold in self._holds.values():
            hold.epoch = epoch
            if hold.states and hold.ending is not None:
                hold.may_have_ended = True

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
