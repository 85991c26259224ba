"""`entries` in PostgreSQL is a table a month, made ahead of time, so that a month can be dropped or moved as one.

An id begins with the instant of posting, so a month is a range of ids. What falls into no month's table, because nobody
made it, or the clock was wrong by months, is kept in the table `entries_other`: every question finds it there too.
"""

from datetime import UTC, datetime

import structlog

from gateway.ledger.ids import id_floor
from gateway.ledger.periods import month_bounds_ms
from gateway.ledger.postgres.faults import translated
from gateway.ledger.postgres.link import LOCK_CLASS, Link

__all__ = ["MONTHS_AHEAD", "make_partitions", "months_from", "partition_of"]

_log = structlog.get_logger()

MONTHS_AHEAD = 2
_PARTITIONS_LOCK = 2
_CHECK_VIOLATION = "23514"


def months_from(at: datetime, more: int = MONTHS_AHEAD) -> list[str]:
    """The month of `at` and `more` after it, as `YYYY-MM`."""
    first = at.astimezone(UTC)
    numbers = (12 * first.year + first.month - 1 + n for n in range(more + 1))
    return [f"{number // 12:04d}-{number % 12 + 1:02d}" for number in numbers]


def partition_of(month: str) -> str:
    """The table of what was posted in `YYYY-MM`, whether it was made or not."""
    return f"entries_{month.replace('-', '_')}"


async def make_partitions(link: Link, months: list[str]) -> list[str]:
    """The tables of those `months` that had none are made; returns their names.

    Nobody who posts waits for it, nor who reads a range of other months; who reads all of them waits a moment, and lets
    this wait for two seconds at most. Raises what asyncpg raises.
    """
    made = []
    for month in months:
        name = partition_of(month)
        try:
            async with link.transaction():
                await link.execute("SELECT pg_advisory_xact_lock($1, $2)", LOCK_CLASS, _PARTITIONS_LOCK)
                if await link.fetchval("SELECT to_regclass($1::text)", name) is None:
                    await link.execute(_script(name, month))
                    made.append(name)
        except Exception as exc:
            if translated(exc).sqlstate != _CHECK_VIOLATION:
                raise
            # Some of its entries are in `entries_other` and cannot leave it. They are found there as well.
            _log.warning("partition_not_made", partition=name)
    return made


def _script(name: str, month: str) -> str:
    first, after = (id_floor(at_ms) for at_ms in month_bounds_ms(month))
    # Made beside `entries` and then attached: to make it as a part at once would lock everybody out.
    return f"""
        CREATE TABLE {name} (LIKE entries INCLUDING ALL);
        CREATE TRIGGER entries_never_truncated BEFORE TRUNCATE ON {name}
            FOR EACH STATEMENT EXECUTE FUNCTION entries_never_changed();
        ALTER TABLE entries ATTACH PARTITION {name} FOR VALUES FROM ('{first}') TO ('{after}');
    """
