"""Why a hold that is open while units lapse needs a memory: what it does not use in the end was never spent in time.

A balance is cut into eras. One begins with a lapse: by then at least `floor` units are used, spent or not. What is used
now is what it would be if every call had taken, when it was admitted, what it has been found to use: era by era, the
floor or what was used before, whichever is more, and on top of it what the era's own calls used. So an open hold stands
in for lapsed units only until it ends; what it gives back is then as gone as they are.

Eras are kept only while calls admitted before a lapse are open: never more of them than open calls, and one.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.counters.tally import Tally

__all__ = ["Era", "merge_ended", "used_in"]


class Era:
    """Units admitted between one lapse and the next; where their holds end."""

    __slots__ = ("floor", "held", "open_holds", "settled", "tally")

    def __init__(self, tally: "Tally", floor: int, settled: int = 0, held: int = 0, open_holds: int = 0) -> None:
        self.tally = tally
        self.floor = floor
        self.settled = settled
        """Below 0 where more was given back in this era than spent in it."""
        self.held = held
        self.open_holds = open_holds

    def end(self, taken: int, actual: int) -> None:
        self.held -= taken
        self.open_holds -= 1
        self.settled += actual
        self.tally.end_in_era(taken)

    def absorb(self, earlier: "Era") -> None:
        """Go on as one era with the one before, whose calls have all ended: the sums come out the same."""
        self.floor = max(earlier.floor, self.floor - earlier.settled)
        self.settled += earlier.settled


def used_in(eras: list[Era], *, with_holds: bool = True) -> int:
    """Units that are used after `eras`, or would be if every open hold ended without using any."""
    used = 0
    for era in eras:
        used = max(used, era.floor) + era.settled
        if with_holds:
            used += era.held
    return used


def merge_ended(eras: list[Era]) -> None:
    """Make one of each era without open calls and its successor."""
    number = 0
    while number < len(eras) - 1:
        if eras[number].open_holds:
            number += 1
        else:
            eras[number + 1].absorb(eras.pop(number))
