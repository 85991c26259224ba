"""Calls that were refused, counted per creator, day and reason, and added to the table once a second."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from gateway.ledger.periods import now_ms, period_of
from gateway.ledger.schema import refusals_daily
from gateway.ledger.statements import upsert_adding

__all__ = ["ADD_REFUSALS", "RefusalCounts", "RefusalRows"]

ADD_REFUSALS = upsert_adding(refusals_daily, ("creator", "day", "reason"), ("count",))
_EVERY_S = 1.0

RefusalRows = Sequence[tuple[str, str, str, int]]


class RefusalCounts:
    """Belongs to the writer, and to its event loop."""

    def __init__(self, write: "Callable[[RefusalRows], asyncio.Future[Any]]") -> None:
        """`write` adds rows to the table: what its future says has failed is added again later."""
        self._write = write
        self._counts: dict[tuple[str, str, str], int] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    def add(self, creator: str, reason: str) -> None:
        key = (creator, period_of(now_ms())[0], reason)
        self._counts[key] = self._counts.get(key, 0) + 1
        self._write_soon()

    def close(self) -> None:
        """Hands over what is left."""
        if self._timer is not None:
            self._timer.cancel()
        self._hand_over()
        self._is_closed = True

    def _write_soon(self) -> None:
        if self._timer is None and not self._is_closed:
            self._timer = asyncio.get_running_loop().call_later(_EVERY_S, self._hand_over)

    def _hand_over(self) -> None:
        self._timer = None
        if not self._counts:
            return
        counts, self._counts = self._counts, {}
        written = self._write([(*key, count) for key, count in counts.items()])
        written.add_done_callback(lambda done: self._written(done, counts))

    def _written(self, done: "asyncio.Future[Any]", counts: dict[tuple[str, str, str], int]) -> None:
        if done.cancelled() or done.exception() is None:
            return
        for key, count in counts.items():
            self._counts[key] = self._counts.get(key, 0) + count
        self._write_soon()
