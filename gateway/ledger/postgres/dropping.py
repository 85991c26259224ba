"""The table of a month is emptied at once, but for what is kept, over a connection of its own.

One transaction:
1. keep everybody from writing to this table, which nobody does any more, and let them read;
2. add up what goes, and copy what stays;
3. have the table alone, for a moment: who reads over all months waits, and who posts does not;
4. look whether somebody corrected one of its calls meanwhile, and if so begin anew;
5. empty the table and put back what stays.

Emptying is not seen by a snapshot's age: who reads several tables as of one instant locks `entries` before (`verify`).
"""

import asyncio
from typing import TYPE_CHECKING, Any

import structlog

from gateway.errors import StoreError
from gateway.ledger.dropped import CREDIT_PAYERS
from gateway.ledger.ids import id_floor
from gateway.ledger.periods import month_bounds_ms
from gateway.ledger.postgres.faults import translated
from gateway.ledger.postgres.link import LOCK_CLASS, Link, connect, end
from gateway.ledger.postgres.partitions import partition_of

if TYPE_CHECKING:
    from gateway.ledger.database import Database

__all__ = ["drop_posted"]

_log = structlog.get_logger()

_DROPPING_LOCK = 3
_STATEMENT_TIMEOUT_S = 1_800.0
_LOCK_TIMEOUT_MS = 500
"""Who comes while the table is waited for waits behind: no longer than this."""
_TRIES = 60
_AGAIN_S = 1.0
_LOCK_NOT_AVAILABLE = "55P03"
_PAYERS = ", ".join(f"'{payer}'" for payer in CREDIT_PAYERS)
_GOES = f"""
    kind = 'usage' AND payer NOT IN ({_PAYERS}) AND period_month <= $1
    AND period_month IN (SELECT month FROM dropped_months)
    AND NOT EXISTS (SELECT FROM entries AS correction WHERE correction.corrects = posted.id)
"""  # noqa: S608 -- our own words
_ADD = """
    INSERT INTO dropped_sums (month, creator, payer, entries, calls, cost_nano_usd, charge_nano_usd, payer_amount)
    SELECT period_month, creator, payer, count(*), count(*) FILTER (WHERE final), sum(cost_nano_usd)::bigint,
        sum(charge_nano_usd)::bigint, sum(payer_amount)::bigint
    FROM {table} AS posted WHERE {goes} GROUP BY period_month, creator, payer
    ON CONFLICT (month, creator, payer) DO UPDATE SET entries = dropped_sums.entries + excluded.entries,
        calls = dropped_sums.calls + excluded.calls, cost_nano_usd = dropped_sums.cost_nano_usd + excluded.cost_nano_usd,
        charge_nano_usd = dropped_sums.charge_nano_usd + excluded.charge_nano_usd,
        payer_amount = dropped_sums.payer_amount + excluded.payer_amount
"""
_KEEP = "CREATE TEMPORARY TABLE kept_entries ON COMMIT DROP AS SELECT * FROM {table} AS posted WHERE NOT ({goes})"
_CORRECTIONS = "SELECT count(*) FROM entries WHERE corrects IS NOT NULL AND corrects >= $1 AND corrects < $2"
_EMPTY = """
    ALTER TABLE {table} DISABLE TRIGGER entries_never_truncated;
    TRUNCATE {table};
    ALTER TABLE {table} ENABLE TRIGGER entries_never_truncated;
    INSERT INTO {table} SELECT * FROM kept_entries;
"""


async def drop_posted(url: str, database: "Database", month: str) -> int:
    """What `Database.drop_posted` promises. Entries that are in no table of a month (`entries_other`) stay."""
    try:
        link = await connect(url, name="gateway retention", statement_timeout_s=_STATEMENT_TIMEOUT_S)
        try:
            return await _drop_patiently(link, month)
        finally:
            await end(link)
    except StoreError:
        raise
    except Exception as exc:
        raise StoreError(f"Entries of {month} cannot be dropped at the moment.") from translated(exc)


async def _drop_patiently(link: Link, month: str) -> int:
    if await link.fetchval("SELECT to_regclass($1::text)", partition_of(month)) is None:
        return 0
    for _ in range(_TRIES):
        try:
            async with link.transaction():
                return await _drop(link, month)
        except _CorrectedMeanwhileError:
            pass
        except Exception as exc:
            if translated(exc).sqlstate != _LOCK_NOT_AVAILABLE:
                raise
        _log.info("month_is_in_use", month=month)
        await asyncio.sleep(_AGAIN_S)
    raise StoreError(f"Entries of {month} are in use: they are dropped another time.")


class _CorrectedMeanwhileError(Exception):
    """A call that was to go has to stay."""


async def _drop(link: Link, month: str) -> int:
    table, goes = partition_of(month), _GOES
    bounds = [id_floor(at_ms) for at_ms in month_bounds_ms(month)]
    await link.execute(f"SET LOCAL lock_timeout = {_LOCK_TIMEOUT_MS}; SET LOCAL synchronous_commit = on")
    await link.execute("SELECT pg_advisory_xact_lock($1, $2)", LOCK_CLASS, _DROPPING_LOCK)
    await link.execute(f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE")
    corrections = await link.fetchval(_CORRECTIONS, *bounds)
    before = await link.fetchval(f"SELECT count(*) FROM {table}")  # noqa: S608 -- the name of a month
    await link.execute(_ADD.format(table=table, goes=goes), month)
    await _execute(link, _KEEP.format(table=table, goes=goes), month)
    await link.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
    # Whoever had read one of its calls to correct it has committed by now; whoever comes later does not find it.
    if await link.fetchval(_CORRECTIONS, *bounds) != corrections:
        raise _CorrectedMeanwhileError
    await link.execute(_EMPTY.format(table=table))
    kept = await link.fetchval("SELECT count(*) FROM kept_entries")
    return int(before) - int(kept)


async def _execute(link: Link, sql: str, month: str) -> Any:
    """A command that takes no values; a month is digits and a hyphen."""
    return await link.execute(sql.replace("$1", f"'{month}'"))
