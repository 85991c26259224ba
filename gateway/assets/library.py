"""The store and the table `assets` together: what is kept, for whom, and for how long.

An asset exists while it has a row. The file comes first and goes last, so a row never points at nothing; what a crash
leaves in between is a file without a row, which nobody can ask for.

Bounds, in bytes: a single asset, one creator's together, all together. When the second or third is passed, the oldest of
the creator, or of everybody, are removed after the answer has left. There is no other end to an asset's life but its
creator's.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import structlog

from gateway.assets.base import AssetError, AssetMissing, AssetStore
from gateway.assets.formats import image_type
from gateway.errors import ConfigError, NotFound, StoreError
from gateway.ledger.database import Database
from gateway.ledger.generations import AssetRow, asset_by_id, asset_bytes, oldest_assets, remove_assets
from gateway.ledger.ids import EntryIds, is_entry_id
from gateway.tasks import spawn

__all__ = ["PIECE_BYTES", "AssetBounds", "Library"]

_log = structlog.get_logger()

PIECE_BYTES = 1024 * 1024
"""What is read of an asset at once."""
_PUT_TIMEOUT_S = 20.0
_REMOVED_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class AssetBounds:
    """Raises `ConfigError` where the newest images of one call would not fit."""

    asset_bytes_max: int = 32 * 2**20
    creator_bytes_max: int = 2**30
    all_bytes_max: int = 10 * 2**30

    def __post_init__(self) -> None:
        if not 0 < self.asset_bytes_max <= self.creator_bytes_max <= self.all_bytes_max:
            raise ConfigError(
                "GATEWAY_ASSET_BYTES_MAX must be at most GATEWAY_CREATOR_ASSETS_BYTES_MAX, and that at most "
                "GATEWAY_ASSETS_BYTES_MAX"
            )


class Library:
    """Lifetime: the process. Owns the store."""

    def __init__(
        self,
        database: Database,
        store: AssetStore | None,
        bounds: AssetBounds,
        *,
        wall_clock: Callable[[], float] = time.time,
        put_timeout_s: float = _PUT_TIMEOUT_S,
    ) -> None:
        self._database = database
        self._store = store
        self.bounds = bounds
        self._wall_clock = wall_clock
        self._put_timeout_s = put_timeout_s
        self._ids = EntryIds()
        self._bytes_added = 0
        """Since the start."""
        self._all_bytes_less_added: int | None = None
        """All bytes at the last look at the table, less what had been added before it; None before the first look. With
        what was added by now it is never below the truth: what comes in between is counted twice at most."""
        self._tidying = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_open(self) -> bool:
        """Whether anything can be kept: false where storing is switched off."""
        return self._store is not None

    def now_ms(self) -> int:
        return int(self._wall_clock() * 1000)

    def next_id(self) -> tuple[str, int]:
        """An id above all this process gave before, and its instant in milliseconds."""
        return self._ids.next(self.now_ms())

    async def put(self, images: Sequence[bytes]) -> list[AssetRow | None]:
        """Files for these images, without rows yet; None for one that is no image, is too large or could not be stored."""
        return list(await asyncio.gather(*map(self._put, images)))

    def added(self, creator: str, rows: Iterable[AssetRow]) -> None:
        """Their rows are in the table: from here on they count, and older ones may have to go."""
        self._bytes_added += sum(row.size_bytes for row in rows)
        self._spawn(self._tidy(creator), "tidy-assets")

    def discard(self, rows: Iterable[AssetRow]) -> None:
        """Their rows could not be written: remove the files."""
        self._spawn(self._delete([row.id for row in rows]), "discard-assets")

    async def find(self, id: str) -> AssetRow:
        """Raises `NotFound`, `StoreError`."""
        row = await asset_by_id(self._database, id) if is_entry_id(id) and self._store is not None else None
        if row is None:
            raise _gone()
        return row

    async def open(self, row: AssetRow) -> AsyncIterator[bytes]:
        """The bytes of an asset, in pieces. The first one is here already. Raises `NotFound`, `StoreError`."""
        if self._store is None:
            raise _gone()
        try:
            first = await self._store.read(row.id, 0, PIECE_BYTES)
        except AssetMissing:
            _log.error("asset_missing", asset=row.id)
            raise _gone() from None
        except AssetError as exc:
            _log.error("asset_unreadable", asset=row.id, error=str(exc))
            raise StoreError("The image cannot be read at the moment.", code="asset_unavailable") from exc
        return _pieces(self._store, row, first)

    async def remove(self, ids: Iterable[str]) -> None:
        """The files of rows that are gone. A failure is logged."""
        await self._delete(list(ids))

    async def close(self) -> None:
        """Waits for what is still to be removed."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        if self._store is not None:
            await self._store.close()

    async def _put(self, data: bytes) -> AssetRow | None:
        assert self._store is not None  # noqa: S101 -- nobody puts into a library that is not open
        content_type = image_type(data)
        if content_type is None or len(data) > self.bounds.asset_bytes_max:
            _log.warning("asset_refused", size_bytes=len(data), content_type=content_type or "unknown")
            return None
        asset_id, _ = self.next_id()  # before anything is waited for: ids are in the order of the images
        digest = await asyncio.to_thread(lambda: sha256(data).hexdigest())
        row = AssetRow(asset_id, content_type, len(data), digest)
        try:
            async with asyncio.timeout(self._put_timeout_s):
                await self._store.put(row.id, content_type, data)
        except AssetError as exc:
            _log.warning("asset_not_stored", error=str(exc))
            return None
        except TimeoutError:
            _log.warning("asset_not_stored", error="the store did not answer in time")
            # It may be there all the same in a moment; nobody will have a row for it.
            self.discard([row])
            return None
        return row

    async def _tidy(self, creator: str) -> None:
        """Bring the creator's assets, and then all of them, within their bounds."""
        try:
            async with self._tidying:
                await self._shrink(creator, await asset_bytes(self._database, creator), self.bounds.creator_bytes_max)
                if self._may_be_full():
                    added_before = self._bytes_added
                    total = await asset_bytes(self._database)
                    left = await self._shrink(None, total, self.bounds.all_bytes_max)
                    self._all_bytes_less_added = left - added_before
        except StoreError as exc:
            _log.warning("assets_not_tidied", error=exc.message)

    def _may_be_full(self) -> bool:
        """To add up the whole table after every call would be too much."""
        known = self._all_bytes_less_added
        return known is None or known + self._bytes_added > self.bounds.all_bytes_max

    async def _shrink(self, creator: str | None, total: int, bytes_max: int) -> int:
        """Remove the oldest until at most `bytes_max` of `total` are left. Returns what is left."""
        while total > bytes_max:
            going: list[str] = []
            for row in await oldest_assets(self._database, creator, _REMOVED_AT_ONCE):
                if total <= bytes_max:
                    break
                going.append(row["id"])
                total -= row["size_bytes"]
            if not going:
                break
            await remove_assets(self._database, going)
            await self._delete(going)
            _log.info("assets_removed", assets=len(going), creator=creator or "", why="the bound is reached")
        return total

    async def _delete(self, ids: Sequence[str]) -> None:
        if self._store is None:
            return
        for asset_id in ids:
            try:
                await self._store.delete(asset_id)
            except AssetError as exc:
                _log.warning("asset_not_removed", asset=asset_id, error=str(exc))

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = spawn(work, name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _pieces(store: AssetStore, row: AssetRow, first: bytes) -> AsyncIterator[bytes]:
    start, piece = 0, first
    while piece:
        yield piece
        start += len(piece)
        if start >= row.size_bytes:
            return
        piece = await store.read(row.id, start, PIECE_BYTES)


def _gone() -> NotFound:
    return NotFound("There is no such image, or it is no longer kept.", code="asset_not_found")
