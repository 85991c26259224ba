"""The book of notices: each is recorded once, durably, with its place in the outbox of every target.

What was recorded lately is remembered, so that asking again for the same costs no write. Nothing here sends anything:
`gateway.notices.delivery` does, and is woken.
"""

import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import orjson

from gateway.ledger.database import Database
from gateway.ledger.notices import NoticeRows, remove_notices
from gateway.notices.base import Notice
from gateway.notices.targets import Target

__all__ = ["Notices"]

_REMEMBERED_MAX = 10_000
_MESSAGE_CHARS_MAX = 1_000
_DATA_BYTES_MAX = 8 * 1024
"""With these two a webhook's body stays below 20 kB, however its text is escaped."""
_KEPT_DAYS = 400
_PURGE_SLICE = 500
_DAY_S = 86_400


class Notices:
    """The `NoticeBook` of the process. Belongs to the event loop."""

    def __init__(
        self,
        database: Database,
        targets: Sequence[Target],
        *,
        wall_clock: Callable[[], float],
        on_recorded: Callable[[], None],
    ) -> None:
        """`on_recorded` is told of each new notice once it is durable: the delivery's `wake`."""
        self.targets = tuple(target.name for target in targets)
        """Names of the places that each notice goes to."""
        self._database = database
        self._wall_clock = wall_clock
        self._on_recorded = on_recorded
        self._rows = NoticeRows()
        self._told: dict[str, None] = {}
        """The `once` words seen last, the oldest first."""

    async def record(self, notice: Notice, *, unless: Collection[str] = ()) -> bool:
        """As `NoticeBook` says. What is too long is cut: above 1 000 characters of `message`, 8 kB of `data`."""
        return await self._record(notice, unless) is not None

    async def record_test(self) -> str:
        """The id of a new notice that says no more than that notices arrive. Raises `StoreError`."""
        message = "This is a test: notices of the gateway arrive here."
        notice_id = await self._record(Notice("test", f"test/{uuid.uuid4().hex}", message, {}), ())
        assert notice_id is not None  # noqa: S101 -- nobody else has such a word
        return notice_id

    async def purge(self) -> int:
        """How many notices older than 400 days were removed, with their deliveries. Raises `StoreError`.

        In slices, so that no call waits long for the writer.
        """
        before_ms = int((self._wall_clock() - _KEPT_DAYS * _DAY_S) * 1000)
        removed = 0
        while True:
            slice_removed = await remove_notices(self._database, before_ms=before_ms, limit=_PURGE_SLICE)
            removed += slice_removed
            if slice_removed < _PURGE_SLICE:
                return removed

    async def _record(self, notice: Notice, unless: Collection[str]) -> str | None:
        if any(word in self._told for word in (notice.once, *unless)):
            return None
        values = {
            "kind": notice.kind,
            "once": notice.once,
            "creator": notice.creator,
            "message": notice.message[:_MESSAGE_CHARS_MAX],
            "data": _data_text(notice.data),
        }
        insert = partial(
            self._rows.insert,
            values=values,
            unless=tuple(unless),
            targets=self.targets,
            now_ms=int(self._wall_clock() * 1000),
        )
        notice_id, word = await self._database.run(insert)
        self._remember(word)
        if notice_id is not None:
            self._on_recorded()
        return notice_id

    def _remember(self, word: str) -> None:
        self._told[word] = None
        while len(self._told) > _REMEMBERED_MAX:
            del self._told[next(iter(self._told))]


def _data_text(data: Mapping[str, Any]) -> str:
    text = orjson.dumps(data)
    return (text if len(text) <= _DATA_BYTES_MAX else orjson.dumps({"omitted_bytes": len(text)})).decode()
