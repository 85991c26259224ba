"""What a gateway does by the clock, beside its calls: ends what is overdue, books what died, removes what expired."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import structlog

from gateway.counters.base import CounterStore
from gateway.errors import StoreError
from gateway.ledger.orphans import book_orphans
from gateway.ledger.retention import drop_old_months

if TYPE_CHECKING:
    from gateway.services import Services

__all__ = ["drop_old_entries", "give_back", "remove_expired", "tidy", "watch"]

_log = structlog.get_logger()

_WATCH_EVERY_S = 1.0
_EXPIRE_EVERY_S = 60
_DROP_FIRST_AFTER_S = 60
_DROP_EVERY_S = 86_400


async def give_back(counters: CounterStore, dead: Sequence[Mapping[str, Any]]) -> None:
    """Tell the counters what calls took that `book_orphans` has booked, and the log that there were any."""
    for call in dead:
        await counters.settle(call["request_id"], call["actuals"], account_id=call["creator"])
    if dead:
        _log.warning("orphaned_holds_booked", count=len(dead), note="calls a crash cut off; see outcome=crashed")


async def watch(services: "Services") -> None:
    """Once a second: calls past their deadline; now and then holds of this process whose call is gone; and, if this
    process leads, holds of processes that are gone."""
    sweep_every = max(1, int(services.settings.hold_timeout_s / 4))
    turn = 0
    while True:
        await asyncio.sleep(_WATCH_EVERY_S)
        turn += 1
        try:
            services.calls.interrupt_overdue()
            if turn % sweep_every == 0:
                dead = await book_orphans(
                    services.database,
                    older_than_s=services.settings.hold_timeout_s,
                    instance_id=services.database.instance_id,
                    is_alive=services.calls.__contains__,
                )
                await give_back(services.counters, dead)
            if services.instances.may_bury():
                dead = await book_orphans(services.database, not_of=services.instances.alive())
                await give_back(services.counters, dead)
        except StoreError as exc:
            # Trouble now must not mean that nobody watches later; and it is told elsewhere what the trouble is.
            _log.warning("watch_failed", error=str(exc))
        except Exception:
            _log.exception("watch_failed")


async def tidy(services: "Services") -> None:
    """Once a minute, apart from `watch`, which must not wait for a slow disk."""
    while True:
        await asyncio.sleep(_EXPIRE_EVERY_S)
        await remove_expired(services)


async def drop_old_entries(services: "Services") -> None:
    """Once a day, by one of several processes: what `GATEWAY_LEDGER_RETENTION_MONTHS` lets go of. It may take minutes."""
    months = services.settings.ledger_retention_months
    while months:
        await asyncio.sleep(_DROP_FIRST_AFTER_S)
        if not services.instances.is_leader:
            continue
        try:
            await drop_old_months(services.database, months, services.clock())
        except StoreError as exc:
            _log.warning("old_months_not_dropped", error=str(exc))
        except Exception:
            _log.exception("old_months_not_dropped")
        await asyncio.sleep(_DROP_EVERY_S)


async def remove_expired(services: "Services") -> None:
    """What is this process's own; and, of several, one removes what all have together."""
    removals: list[Callable[[], Awaitable[object]]] = [services.cache.sweep]
    if services.instances.is_leader:
        removals += [services.credits.expire_due, services.idempotency.purge, services.lookout.notices.purge]
    for remove in removals:
        try:
            await remove()
        except StoreError as exc:
            _log.warning("expiry_failed", of=remove.__qualname__, error=str(exc))
        except Exception:
            # The others are not to grow without bound because one of them is in trouble.
            _log.exception("expiry_failed", of=remove.__qualname__)
