"""Settles that find their hold gone: what is still to be booked of them.

A process that was frozen, or away for longer than others wait for it, or whose settles lay on its disk, comes back to holds
that were booked as `crashed` at what the calls had probably cost. Then the difference to what they did cost is booked, once
and now, by an entry that corrects that one. Whose hold was ended by a settle has been booked already.

A hold can also be missing because the server of the database forgot it, in a power cut: it waits for the disk with settles
only. A settle that was kept on local disk meanwhile is posted all the same, if there is no entry of its call.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import structlog
from sqlalchemy import select

from gateway.calls import new_request_id
from gateway.ledger.periods import instant, ms_of, period_of
from gateway.ledger.records import Attribution, Entry, entry_without_call
from gateway.ledger.rows import route_of
from gateway.ledger.schema import ENTRY_FACTS, entries, meta
from gateway.ledger.statements import Row

if TYPE_CHECKING:
    from gateway.ledger.transactions import SettleWork, Transactions

__all__ = ["LATE_SETTLE", "Posted", "still_owed"]

_log = structlog.get_logger()

LATE_SETTLE = "late_settle"
"""The flag of such a correction."""
_IDS_AT_ONCE = 1_000
_AMOUNTS = ("cost_nano_usd", "charge_nano_usd", "payer_amount")

Posted = tuple[Entry, str | None]
"""An entry, and the id of the one it corrects."""


def still_owed(transactions: "Transactions", late: Sequence["SettleWork"]) -> list[Posted]:
    """What has to be posted inside the open transaction. `late`: settles whose holds are gone.

    What was reserved for such a call goes on standing for it.
    """
    found = _open_among(transactions, late) if late else {}
    if not found:
        return []
    late = [work for work in late if work.hold_id in found]
    for creator in sorted({_creator_of(work, found[work.hold_id]) for work in late}):
        transactions.lock_credits(creator)
    open_now = _open_among(transactions, late)
    corrections = _corrections_of(transactions, [row["id"] for row in open_now.values() if row is not None])
    posted: list[Posted] = []
    for work in late:
        if work.hold_id not in open_now:
            continue
        row = open_now.pop(work.hold_id)
        if row is None:
            posted += [(entry, None) for entry in work.entries if _is_of_open_month(transactions, entry)]
        else:
            posted += _difference(row, work.entries, corrections.get(row["id"], ()), transactions.now_ms())
    if posted:
        _log.warning("late_settles_booked", settles=len(late), entries=len(posted))
    return posted


def _creator_of(work: "SettleWork", crashed: Row | None) -> str:
    return str(crashed["creator"]) if crashed is not None else work.entries[0].attribution.creator


def _open_among(transactions: "Transactions", late: Sequence["SettleWork"]) -> dict[str, Row | None]:
    """Request id -> the entry that says `crashed`, or None where there is no entry at all of a call that has to have one."""
    found: dict[str, Row | None] = {
        work.hold_id: None for work in late if work.is_spooled and any(entry.takes_something for entry in work.entries)
    }
    ids = [work.hold_id for work in late]
    for start in range(0, len(ids), _IDS_AT_ONCE):
        some = entries.c.request_id.in_(ids[start : start + _IDS_AT_ONCE])
        for row in transactions.rows(select(*ENTRY_FACTS).where(some)):
            if row["outcome"] == "crashed":
                found[row["request_id"]] = row
            elif found.get(row["request_id"]) is None:
                found.pop(row["request_id"], None)
    return found


def _corrections_of(transactions: "Transactions", ids: Sequence[str]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    columns = [entries.c[name] for name in ("corrects", "kind", *_AMOUNTS)]
    for start in range(0, len(ids), _IDS_AT_ONCE):
        some = entries.c.corrects.in_(ids[start : start + _IDS_AT_ONCE])
        for row in transactions.rows(select(*columns).where(entries.c.corrects.is_not(None), some)):
            found.setdefault(row["corrects"], []).append(row)
    return found


def _difference(row: Row, true: Sequence[Entry], corrections: Sequence[Row], now_ms: int) -> list[Posted]:
    """The entry that makes right what `row` booked, if anything has to be and nobody did. What was given back of it is not
    given back again: together they never give more than was taken."""
    if any(each["kind"] == "adjustment" for each in corrections):
        return []
    cost, charge, units = (
        sum(getattr(entry, name) for entry in true) - row[name]
        for name in ("cost_nano_usd", "charge_nano_usd", "payer_amount")
    )
    charge = max(charge, -row["charge_nano_usd"] - sum(each["charge_nano_usd"] for each in corrections))
    units = max(units, -row["payer_amount"] - sum(each["payer_amount"] for each in corrections))
    if not (cost or charge or units):
        return []
    return [(_correction(row, cost, charge, units, now_ms), str(row["id"]))]


def _correction(row: Row, cost: int, charge: int, units: int, now_ms: int) -> Entry:
    """Of the call it takes key, feature, model and the like, so that sums by any of these come out right; never its
    words. It has no tokens: those of the crashed entry stay an estimate."""
    named = {name: row[name] for name in Attribution._fields}
    changed = {
        "request_id": new_request_id(),
        "admitted_at": instant(now_ms),
        "tags": "",
        "metadata": "",
        "client_request_id": "",
    }
    return entry_without_call(
        Attribution(**{**named, **changed}),
        route_of(row),
        "adjustment",
        cost_nano_usd=cost,
        charge_nano_usd=charge,
        payer_amount=units,
        flags=LATE_SETTLE,
    )


def _is_of_open_month(transactions: "Transactions", entry: Entry) -> bool:
    """Nothing is added to a month whose charges are written; its entries may even have been dropped since."""
    from gateway.ledger.queries import closed_key  # which reads by way of the database, and that writes by way of this

    month = period_of(ms_of(entry.attribution.admitted_at))[1]
    if not transactions.rows(select(meta.c.value).where(meta.c.key == closed_key(month))):
        return True
    _log.critical(
        "settle_of_closed_month", request_id=entry.attribution.request_id, charge_nano_usd=entry.charge_nano_usd
    )
    return False
