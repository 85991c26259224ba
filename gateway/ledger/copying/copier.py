"""A ledger copied, table by table, and then compared with what it was copied from.

1. The source must be quiet: no open calls, and nobody who writes (`gateway.ledger.copying.source`).
2. The target must be empty, or have what an earlier run of the same copy left (`gateway.ledger.copying.target`).
3. Partitions are made for every month that has entries, then every table's rows follow in the order of their keys.
4. Both are counted, summed and verified. Only a target that has the same is marked as complete.

While PostgreSQL takes one chunk, a thread reads the next: two are in memory at most.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing
from datetime import UTC, datetime
from typing import Any, NamedTuple

import uvloop

from gateway.errors import ConfigError
from gateway.ledger.copying.source import Chunk, Source, Totals
from gateway.ledger.copying.tables import TABLES, Mark
from gateway.ledger.copying.target import Target, open_target
from gateway.ledger.postgres.opening import verify_postgres
from gateway.ledger.postgres.partitions import months_from
from gateway.ledger.verify import Report, verify
from gateway.tasks import look_at

__all__ = ["CHUNK_ROWS", "Compared", "Outcome", "Progress", "copy_ledger"]

CHUNK_ROWS = 5_000

Progress = Callable[[str, int, int], None]
"""Called with a table, its rows that are copied, and all it has."""


class Compared(NamedTuple):
    """One thing that was counted or summed on both sides."""

    what: str
    source: Any
    target: Any


class Outcome(NamedTuple):
    """What was copied, and how both sides compare now."""

    was_complete: bool
    """By an earlier run: this one copied nothing."""
    rows: int
    """Copied by this run."""
    tables: list[Compared]
    months: list[Compared]
    """Of each month, all creators together: how many entries, and their cost, charge (nano-dollars) and payer amount."""
    unequal_sums: list[tuple[str, str]]
    """(month, creator) whose sums are not the same."""
    source_report: Report
    target_report: Report

    @property
    def is_same(self) -> bool:
        """Whether the target has what the source has."""
        compared = (*self.tables, *self.months)
        return not self.unequal_sums and all(each.source == each.target for each in compared)

    @property
    def differences(self) -> int:
        """What `ledger verify` found, on both sides."""
        return self.source_report.differences_count + self.target_report.differences_count


def copy_ledger(
    source: Source, url: str, *, on_progress: Progress | None = None, chunk_rows: int = CHUNK_ROWS
) -> Outcome:
    """Copies what is not copied yet, then compares. Ended at any moment, it goes on where it was when it is called again.

    Not for a thread that runs an event loop. Raises `ConfigError` where the copy is refused, `StoreError` when a ledger
    cannot be verified, and what sqlite3 and asyncpg raise.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_Copy(source, url, on_progress or _say_nothing, chunk_rows).run())


class _Copy:
    def __init__(self, source: Source, url: str, on_progress: Progress, chunk_rows: int) -> None:
        self._source = source
        self._url = url
        self._on_progress = on_progress
        self._chunk_rows = chunk_rows
        self._rows = 0

    async def run(self) -> Outcome:
        self._source.require_quiet()
        async with open_target(self._url) as target:
            mark = await self._mark(target)
            if mark.is_complete:
                await self._require_unused(target)
            else:
                mark = await self._copied(target, mark)
            outcome = await self._compared(target, mark)
            self._source.require_unchanged()
            if outcome.is_same and not mark.is_complete:
                await target.complete(mark)
            return outcome

    async def _mark(self, target: Target) -> Mark:
        mark, mine = await target.mark(), self._source.identity
        if mark is None:
            return await target.begin(mine)
        if mark.source == mine:
            return mark
        begun = "a copy" if mark.is_complete else "an unfinished copy"
        other = "this ledger as it was before" if mine.is_same_ledger(mark.source) else "another ledger"
        raise ConfigError(f"the target has {begun} of {other}: drop that database, and copy into an empty one")

    async def _require_unused(self, target: Target) -> None:
        """What a gateway writes at its start may be there; anything else is its books by now."""
        found = await target.counts()
        more = [
            f"{name} {found[name]} instead of {expected}"
            for name, expected in self._source.identity.counts.items()
            if found[name] != expected and name != "meta"
        ]
        if more:
            raise ConfigError(
                f"the target has a finished copy that was used since ({', '.join(more)}), and nothing is ever added to "
                "such: name an empty database to copy into"
            )

    async def _copied(self, target: Target, mark: Mark) -> Mark:
        ahead = months_from(datetime.now(UTC))
        await target.make_partitions(sorted({*self._source.months(), *ahead}))
        for table in TABLES:
            position, total = mark.at(table.name), self._source.identity.counts[table.name]
            if position.is_done:
                continue
            with closing(self._source.chunks(table, position.after, self._chunk_rows)) as chunks:
                async with aclosing(_read_ahead(chunks)) as coming:
                    async for chunk in coming:
                        mark = await target.write(table, chunk, mark)
                        self._rows += len(chunk.rows)
                        self._on_progress(table.name, mark.at(table.name).rows, total)
            mark = await target.finish(table, mark)
        await target.flush()
        return mark

    async def _compared(self, target: Target, mark: Mark) -> Outcome:
        self._on_progress("comparing", 0, 0)
        counts, here, there = await target.counts(), self._source.totals(), await target.totals()
        if mark.is_complete:
            # A gateway that was started there notes this and that.
            counts["meta"] = self._source.identity.counts["meta"]
        return Outcome(
            was_complete=mark.is_complete,
            rows=self._rows,
            tables=[Compared(name, count, counts[name]) for name, count in self._source.identity.counts.items()],
            months=_months(here, there),
            unequal_sums=sorted(key for key in here.keys() | there.keys() if here.get(key) != there.get(key)),
            source_report=await asyncio.to_thread(verify, self._source.path),
            target_report=await asyncio.to_thread(verify_postgres, self._url),
        )


def _months(here: Totals, there: Totals) -> list[Compared]:
    months = sorted({month for month, _ in here.keys() | there.keys()})
    return [Compared(month, _sum_of(here, month), _sum_of(there, month)) for month in months]


def _sum_of(totals: Totals, month: str) -> tuple[int, ...]:
    of_month = [sums for (each, _), sums in totals.items() if each == month]
    return tuple(sum(column) for column in zip(*of_month, strict=True)) or (0, 0, 0, 0)


async def _read_ahead(chunks: Iterator[Chunk]) -> AsyncGenerator[Chunk, None]:
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1) as thread:
        coming = loop.run_in_executor(thread, next, chunks, None)
        while (chunk := await coming) is not None:
            coming = loop.run_in_executor(thread, next, chunks, None)
            coming.add_done_callback(look_at)  # nobody waits for it where writing fails
            yield chunk


def _say_nothing(table: str, rows: int, total: int) -> None:
    pass
