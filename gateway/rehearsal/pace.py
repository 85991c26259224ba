"""Work in small pieces: calls in flight have their turn after each of them."""

import asyncio
from collections.abc import Callable

__all__ = ["Pace"]

_PIECE_S = 0.002
"""How long calls in flight wait at most; what a clock and a switch cost is little beside it."""


class Pace:
    """`clock` is monotonic seconds; the work has until `ends_at`."""

    def __init__(self, clock: Callable[[], float], ends_at: float) -> None:
        self._clock = clock
        self._ends_at = ends_at
        self._piece_ends_at = clock() + _PIECE_S

    @property
    def left_s(self) -> float:
        return self._ends_at - self._clock()

    async def breathe(self) -> None:
        """Let others have their turn, if the piece was long enough. Raises `TimeoutError` when the time is over."""
        now = self._clock()
        if now >= self._piece_ends_at:
            if now >= self._ends_at:
                raise TimeoutError
            await asyncio.sleep(0)
            self._piece_ends_at = self._clock() + _PIECE_S
