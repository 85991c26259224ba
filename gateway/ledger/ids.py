"""Ids of ledger entries: uuid7 that only ever grow, also when the clock steps back or the process starts anew."""

import random
import re

__all__ = ["EntryIds", "id_floor", "is_entry_id", "ms_in"]

_TAIL_BITS = 74
_ENTRY_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


class EntryIds:
    """Makes the next id and its instant. Not for two threads at once.

    48 bits of milliseconds and 74 bits that start at random and then step forward by a random amount. While the clock is
    behind the last id, the last id's millisecond goes on: order is worth more than the true instant, as cursors and time
    ranges are both cut out of the id.
    """

    def __init__(self, last: str | None = None) -> None:
        self._ms = ms_in(last) if last else 0
        self._tail = _tail_in(last) if last else 0

    def next(self, now_ms: int) -> tuple[str, int]:
        """An id above every id before, and the milliseconds in it: `now_ms` unless the clock stepped back."""
        if now_ms > self._ms:
            self._ms, self._tail = now_ms, random.getrandbits(_TAIL_BITS - 1)
        else:
            self._tail += 1 + random.getrandbits(32)
            if self._tail >> _TAIL_BITS:
                self._ms, self._tail = self._ms + 1, random.getrandbits(_TAIL_BITS - 1)
        ms, tail = self._ms, self._tail
        high, low = 0x8000 | tail >> 48 & 0x3FFF, tail & 0xFFFF_FFFF_FFFF
        return f"{ms >> 16:08x}-{ms & 0xFFFF:04x}-7{tail >> 62:03x}-{high:04x}-{low:012x}", ms


def id_floor(at_ms: int) -> str:
    """A text below every id of `at_ms` and later, above every earlier one: bounds of a range of ids."""
    return f"{at_ms >> 16:08x}-{at_ms & 0xFFFF:04x}"


def ms_in(id: str) -> int:
    return int(id[:8] + id[9:13], 16)


def is_entry_id(text: str) -> bool:
    return _ENTRY_ID.fullmatch(text) is not None


def _tail_in(id: str) -> int:
    high = int(id[19:23], 16) & 0x3FFF
    return int(id[15:18], 16) << 62 | high << 48 | int(id[24:], 16)
