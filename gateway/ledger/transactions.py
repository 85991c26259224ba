"""The writer thread's side: a batch of holds and settles becomes one transaction, everything else one of its own.

One batch, in this order:
1. insert its holds, and the idempotency keys reserved with them;
2. delete the holds its settles end, and the keys they free; a settle whose hold somebody else ended posts nothing, or
   what was booked too much or too little (`gateway.ledger.late_settles`);
3. insert the entries of the settles that ended a hold, with ids in the order of the batch;
4. add their sums to the rollups;
5. commit: durable against a power cut if there was a settle in it, else against the end of the process.

When the store fails, the batch is rolled back whole: its holds fail, its settles are to be tried again. When one row is at
fault, the batch is repeated one by one, so that only that row fails.
"""

from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import structlog
from sqlalchemy import bindparam, delete, func, select

from gateway.errors import StoreError
from gateway.ledger.connection import Connection
from gateway.ledger.faults import Conflict, Fault, store_error
from gateway.ledger.ids import EntryIds
from gateway.ledger.late_settles import Posted, still_owed
from gateway.ledger.periods import ms_of
from gateway.ledger.records import Entry, Hold
from gateway.ledger.rollups import NameBook, Rollups
from gateway.ledger.rows import entry_row, hold_row, reservation_row
from gateway.ledger.schema import (
    HOLD_COLUMNS,
    USAGE_DAILY_KEY,
    USAGE_DAILY_SUMS,
    entries,
    holds,
    idempotency,
    meta,
    usage_daily,
)
from gateway.ledger.statements import (
    ManyRows,
    Prepared,
    Row,
    Runnable,
    Statement,
    compile_statement,
    many_rows,
    upsert,
    upsert_adding,
)

__all__ = ["ORPHANS_LOCK", "HoldWork", "SettleWork", "TaskWork", "Transactions", "Work"]

_log = structlog.get_logger()

ORPHANS_LOCK = "orphans"
"""Held by who books the holds of dead processes, and by who writes holds again that a server forgot."""
_TRIES = (False,) * 9 + (True,)
"""How often a transaction that was in another one's way is tried: whether it is the last time."""
_HOLDS = many_rows(holds)
_ENTRIES = many_rows(entries)
_RESERVATIONS = many_rows(idempotency)
_MISSING_HOLDS = many_rows(holds, is_kept=True)
_MISSING_RESERVATIONS = many_rows(idempotency, is_kept=True)
_IDS_AT_ONCE = 1_000
_AHEAD_MAX_MS = 60_000
"""By how much a machine's clock may be ahead of the store's and be followed."""
_USAGE = upsert_adding(usage_daily, USAGE_DAILY_KEY, USAGE_DAILY_SUMS)
_HOLD_ID = HOLD_COLUMNS.index("id")
_RESERVATION_ID = list(idempotency.columns.keys()).index("id")
_RESERVED_FOR = list(idempotency.columns.keys()).index("request_id")
_FREE = Prepared(
    delete(idempotency).where(
        idempotency.c.id == bindparam("reserved"), idempotency.c.request_id == bindparam("hold_id")
    )
)
_NAMES = Prepared(
    select(usage_daily.c.creator, usage_daily.c.feature, usage_daily.c.agent)
    .where(usage_daily.c.period_day == bindparam("day"))
    .distinct()
)
_NAMES_OF_CREATOR = Prepared(
    select(usage_daily.c.feature, usage_daily.c.agent)
    .where(usage_daily.c.period_day == bindparam("day"), usage_daily.c.creator == bindparam("of_creator"))
    .distinct()
)
_LAST_ID = Prepared(select(func.max(entries.c.id).label("id")))
_PROBED = upsert(meta).values(key="probed_at", value=bindparam("at"))
_PROBE = Prepared(_PROBED.on_conflict_do_update(index_elements=["key"], set_={"value": _PROBED.excluded.value}))


class Work:
    """Something the writer is asked for. `error` and `must_retry` say how it went; neither: it is committed."""

    __slots__ = ("error", "must_retry", "on_done", "result", "submitted_at")

    def __init__(self, on_done: Any, submitted_at: float) -> None:
        self.on_done = on_done
        """A future of the event loop, which this thread does not touch."""
        self.submitted_at = submitted_at
        self.result: Any = None
        self.error: Exception | None = None
        self.must_retry = False


class HoldWork(Work):
    __slots__ = ("hold", "is_given_up", "is_in_doubt")

    def __init__(self, hold: Hold, on_done: Any, submitted_at: float) -> None:
        super().__init__(on_done, submitted_at)
        self.hold = hold
        self.is_given_up = False
        """Its caller was told that it failed: if it becomes durable after all, it has to end."""
        self.is_in_doubt = False
        """It failed while it was committed, and may be there: it has to end."""


class SettleWork(Work):
    __slots__ = ("entries", "frees", "hold_id", "is_over", "is_spooled", "spool_number")

    def __init__(
        self, hold_id: str, entries: Sequence[Entry], on_done: Any, submitted_at: float, frees: str = ""
    ) -> None:
        super().__init__(on_done, submitted_at)
        self.hold_id = hold_id
        self.entries = entries
        self.frees = frees
        """The id of a reservation that ends with the hold; empty for none."""
        self.is_over = False
        """It is committed, or was refused for good."""
        self.is_spooled = False
        """It is on local disk, and its caller was told that it is done."""
        self.spool_number = 0
        """Under which it is there, or is to be; 0: nobody asked for that (`gateway.ledger.spool`)."""


class TaskWork(Work):
    """A transaction of its own: `task` runs inside it, and what it returns is the result."""

    __slots__ = ("is_durable", "is_patient", "receipt", "task")

    def __init__(
        self,
        task: "Callable[[Transactions], Any]",
        on_done: Any,
        submitted_at: float,
        *,
        is_patient: bool = False,
        is_durable: bool = True,
    ) -> None:
        super().__init__(on_done, submitted_at)
        self.task = task
        self.is_durable = is_durable
        """Against a power cut too, and not only against the end of the process."""
        self.is_patient = is_patient
        """Once begun, it is waited for until it is known whether it was committed."""
        self.receipt = ""
        """Of a transaction that failed while it was committed: what became of it is asked before anything else."""


class _HoldRows(NamedTuple):
    """What the holds of one batch were written as."""

    holds: Sequence[tuple[Any, ...]]
    reservations: Sequence[tuple[Any, ...]]


class _HoldIsMissing(Exception):
    """Some hold of the batch was ended before: the batch has to ask which."""


class Transactions:
    """The one connection that writes. Used by the writer's thread only.

    A task (`Database.run`) uses `rows`, `count`, `insert`, `post` and `end_holds`, all inside the transaction that is open.
    """

    def __init__(self, connection: Connection, instance_id: str) -> None:
        self.connection = connection
        self._instance_id = instance_id
        self._ids = EntryIds(self.rows(_LAST_ID)[0]["id"])
        # Nobody else writes to a file.
        self._names = NameBook(self._load_names, look_again=None if connection.epoch is None else self._look_again)
        self._rollups = Rollups(self._names)
        self._epoch = connection.epoch
        self._at_risk: list[_HoldRows] = []
        """Holds since the last durable transaction: a server that dies now may have forgotten them when it is back."""

    def apply(self, batch: Sequence[Work], *, is_probe: bool) -> StoreError | None:
        """Commit what can be committed and mark each work. Returns the store's trouble, if it is in any.

        `is_probe`: the store was in trouble; find out whether it still is, even if there is nothing to write.
        """
        calls = [work for work in batch if not isinstance(work, TaskWork)]
        trouble = self._commit_calls(calls) if calls else None
        if is_probe and trouble is None:
            trouble = self._probe()
        for work in batch:
            if isinstance(work, TaskWork):
                trouble = self._commit_task(work, trouble)
        return trouble

    def close(self) -> None:
        self.connection.close()

    # What a transaction is made of

    def rows(self, statement: Runnable | Prepared, **values: Any) -> list[Row]:
        """Executes; what it returned: a `select`, or a write with `returning`. `values` are those of a `Prepared`."""
        return self.connection.rows(self._compiled(statement, values))

    def count(self, statement: Runnable | Prepared, **values: Any) -> int:
        """Executes a write; how many rows it met."""
        return self.connection.count(self._compiled(statement, values))

    def lock(self, name: str) -> None:
        """Until this transaction ends no other process has the lock `name`: to be taken before what it protects is read."""
        self.connection.lock(name)

    def lock_credits(self, creator: str) -> None:
        """As `lock`, for all that no call stands for: grants, refunds, corrections. Of several creators in their order."""
        self.lock(f"credits:{creator}")

    def announce(self, text: str) -> None:
        """Tells every other process of the gateway, if and when this is committed; see `gateway.instances`."""
        self.connection.announce(f"{self._instance_id} {text}")

    def insert(self, many: ManyRows, rows: Sequence[Sequence[Any]]) -> None:
        """All rows or none, in as few statements as the store allows."""
        if rows:
            self.connection.insert(many, rows)

    def now_ms(self) -> int:
        """By the clock that all who write share."""
        return self.connection.now_ms()

    def post(self, posted: Iterable[Entry], *, corrects: str | None = None) -> list[str]:
        """Insert entries and add them to the rollups. Returns their ids."""
        return self._post((entry, corrects) for entry in posted)

    def _post(self, posted: Iterable[Posted]) -> list[str]:
        created_ms = self.now_ms()
        rows = []
        for entry, corrects in posted:
            at_ms = created_ms if self._epoch is None else _not_before_admission(entry, created_ms)
            row = entry_row(entry, *self._ids.next(at_ms), corrects)
            rows.append(row)
            self._rollups.add(row)
        self.insert(_ENTRIES, rows)
        self.insert(_USAGE, self._rollups.rows())
        self._rollups.clear()
        return [row[0] for row in rows]

    def end_holds(self, ids: Sequence[str]) -> set[str]:
        """Delete holds. Returns the ids that this call ended."""
        return set(self.connection.delete_holds(ids))

    def _compiled(self, statement: Runnable | Prepared, values: dict[str, Any]) -> Statement:
        if isinstance(statement, Prepared):
            return statement.bind(self.connection.dialect, values)
        return compile_statement(statement, self.connection.dialect)

    # Holds and settles

    def _commit_calls(self, calls: Sequence[Work]) -> StoreError | None:
        try:
            self._commit_together(calls)
        except Exception as exc:
            fault = self.connection.fault_of(exc)
            if fault.is_trouble:
                return self._fail_all(calls, exc)
            return self._commit_one_by_one(calls, exc)
        return None

    def _commit_together(self, calls: Sequence[Work]) -> None:
        new = [work.hold for work in calls if isinstance(work, HoldWork)]
        settles = [work for work in calls if isinstance(work, SettleWork)]
        try:
            rows = self._transact(
                lambda: self._write_calls(new, settles, self._end_all_holds), is_durable=bool(settles)
            )
            if not settles and self._epoch is not None:
                self._at_risk.append(rows)
        except _HoldIsMissing:
            self._transact(lambda: self._write_calls(new, settles, self._end_known_holds), is_durable=True)

    def _write_calls(
        self,
        new: Sequence[Hold],
        settles: Sequence[SettleWork],
        end: Callable[[Sequence[SettleWork]], tuple[Iterable[Posted], Sequence[SettleWork]]],
    ) -> "_HoldRows":
        """The rows of the new holds."""
        created_at = self.now_ms()
        reserved = [reservation_row(hold, created_at) for hold in new if hold.reservation is not None]
        # In the order of their ids: of two writers that are sent the same keys, one waits for the other.
        rows = _HoldRows(
            [hold_row(hold, self._instance_id, created_at) for hold in new],
            sorted(reserved, key=itemgetter(_RESERVATION_ID)),
        )
        self.insert(_HOLDS, rows.holds)
        self.insert(_RESERVATIONS, rows.reservations)
        if settles:
            posted, ended = end(settles)
            self._post(posted)
            for work in ended:
                if work.frees:
                    self.count(_FREE, reserved=work.frees, hold_id=work.hold_id)
        return rows

    def _end_all_holds(self, settles: Sequence[SettleWork]) -> tuple[Iterable[Posted], Sequence[SettleWork]]:
        """Nearly always each hold is there, and counting is enough: one step, however many holds there are."""
        if self.connection.count_deleted_holds([work.hold_id for work in settles]) != len(settles):
            raise _HoldIsMissing
        return _entries_of(settles), settles

    def _end_known_holds(self, settles: Sequence[SettleWork]) -> tuple[Iterable[Posted], Sequence[SettleWork]]:
        """The settles that came first, and what is owed of the others, whose holds somebody else has ended."""
        ended = self.end_holds([work.hold_id for work in settles])
        waiting = set(ended)
        first, late = [], []
        for work in settles:
            if work.hold_id in waiting:
                waiting.remove(work.hold_id)
                first.append(work)
            elif work.hold_id not in ended:
                late.append(work)
        return [*_entries_of(first), *still_owed(self, late)], first

    def _commit_one_by_one(self, calls: Sequence[Work], exc: Exception) -> StoreError | None:
        """Some row of the batch is at fault: find out which, and let the others through."""
        if len(calls) == 1:
            self._refuse(calls[0], exc)
            return None
        for index, work in enumerate(calls):
            trouble = self._commit_calls([work])
            if trouble is not None:
                self._fail_all(calls[index + 1 :], trouble)
                return trouble
        return None

    def _refuse(self, work: Work, exc: Exception) -> None:
        fault = self.connection.fault_of(exc)
        if isinstance(work, HoldWork) and work.hold.reservation is not None and fault is Fault.CONFLICT:
            work.error = Conflict("Another call has this idempotency key.")  # which the caller hears as such
            return
        work.error = store_error(fault)
        request_id = work.hold_id if isinstance(work, SettleWork) else None
        if isinstance(work, HoldWork):
            request_id = work.hold.attribution.request_id
        # A hold that cannot be settled stays open, and is booked at its orphan cost at the next start.
        _log.critical("ledger_row_refused", work=type(work).__name__, request_id=request_id, error=repr(exc))

    def _fail_all(self, calls: Sequence[Work], exc: Exception) -> StoreError:
        fault = self.connection.fault_of(exc)
        if fault is Fault.FULL:
            self.connection.make_room()
        trouble = exc if isinstance(exc, StoreError) else store_error(fault)
        if trouble is not exc:
            _log.error("ledger_write_failed", error=repr(exc), works=len(calls))
        for work in calls:
            if isinstance(work, SettleWork):
                work.must_retry = True  # if it was committed after all, its hold is gone, and it posts nothing
            else:
                work.error = trouble
            if isinstance(work, HoldWork):
                work.is_in_doubt = fault is Fault.IN_DOUBT
        return trouble

    # Transactions

    def _commit_task(self, work: TaskWork, trouble: StoreError | None) -> StoreError | None:
        was_in_doubt = bool(work.receipt)
        work.error = trouble
        if trouble is not None:
            work.must_retry = was_in_doubt
            return trouble
        try:
            if was_in_doubt:
                self._look_up(work)
            else:
                work.result = self._transact(lambda: self._do(work), is_durable=work.is_durable)
            work.receipt = ""
        except Exception as exc:
            fault = self.connection.fault_of(exc)
            work.must_retry = bool(work.receipt) and (fault is Fault.IN_DOUBT or (was_in_doubt and fault.is_trouble))
            if not work.must_retry:
                work.receipt = ""
            if fault is Fault.CONFLICT:
                work.error = Conflict("This contradicts what is already there.")
                work.error.__cause__ = exc
            elif fault is Fault.BAD_SQL or not fault.is_trouble:
                work.error = exc
            else:
                work.error = self._fail_all((), exc)
                return work.error
        return None

    def _do(self, work: TaskWork) -> Any:
        result = work.result = work.task(self)
        work.receipt = self.connection.receipt()
        return result

    def _look_up(self, work: TaskWork) -> None:
        """What became of a task that failed while it was committed; what it returned then is its result."""
        was_committed = self._transact(lambda: self.connection.was_committed(work.receipt), is_durable=False)
        if not was_committed:
            work.error = store_error(Fault.TROUBLE)

    def _probe(self) -> StoreError | None:
        try:
            self._transact(lambda: self.count(_PROBE, at=str(self.now_ms())), is_durable=True)
            self.connection.recover()
        except Exception as exc:
            return self._fail_all((), exc)
        return None

    def _transact(self, write: Callable[[], Any], *, is_durable: bool) -> Any:
        for is_last in _TRIES:
            self.connection.begin(is_durable=is_durable)
            try:
                if self._at_risk and self.connection.epoch != self._epoch:
                    self._restore_holds()
                result = write()
                self.connection.commit()
                break
            except BaseException as exc:
                self._rollups.clear()
                self._names.forget()
                self.connection.rollback()
                if is_last or self.connection.fault_of(exc) is not Fault.PASSING:
                    raise
        self._epoch = self.connection.epoch
        if is_durable:
            self._at_risk.clear()
        return result

    def _restore_holds(self) -> None:
        """Write again what the server forgot; else the settles of these calls would find that their holds had been ended.

        A hold of which there is an entry was not forgotten: it was ended by a transaction whose commit was in doubt, or by
        somebody who took this process for dead, and does so under the same lock.
        """
        self.lock(ORPHANS_LOCK)
        ids = [row[_HOLD_ID] for rows in self._at_risk for row in rows.holds]
        booked: set[str] = set()
        for start in range(0, len(ids), _IDS_AT_ONCE):
            some = select(entries.c.request_id).where(entries.c.request_id.in_(ids[start : start + _IDS_AT_ONCE]))
            booked.update(row["request_id"] for row in self.rows(some))
        for rows in self._at_risk:
            self.insert(_MISSING_HOLDS, [row for row in rows.holds if row[_HOLD_ID] not in booked])
            self.insert(_MISSING_RESERVATIONS, [row for row in rows.reservations if row[_RESERVED_FOR] not in booked])
        _log.warning("holds_restored", holds=len(ids) - len(booked))

    def _load_names(self, day: str) -> Iterable[tuple[str, str, str]]:
        return [(row["creator"], row["feature"], row["agent"]) for row in self.rows(_NAMES, day=day)]

    def _look_again(self, day: str, creator: str) -> Iterable[tuple[str, str]]:
        """Whoever has the lock has written its names, or will have when it lets go of it."""
        self.lock("names")
        return [(row["feature"], row["agent"]) for row in self.rows(_NAMES_OF_CREATOR, day=day, of_creator=creator)]


def _entries_of(settles: Sequence[SettleWork]) -> Iterable[Posted]:
    return ((entry, None) for work in settles for entry in work.entries)


def _not_before_admission(entry: Entry, now_ms: int) -> int:
    """Calls are admitted by the clock of their own machine. Who looks for those admitted since an instant takes it that
    none has an id from before that, which a clock ahead of the store's must not make wrong."""
    return max(now_ms, min(ms_of(entry.attribution.admitted_at), now_ms + _AHEAD_MAX_MS))
