"""The writer thread's side: a batch of holds and settles becomes one transaction, everything else one of its own.

One batch, in this order:
1. insert its holds, and the idempotency keys reserved with them;
2. delete the holds its settles end, and the keys they free; a settle whose hold somebody else ended posts nothing;
3. insert the entries of the settles that ended a hold, with ids in the order of the batch;
4. add their sums to the rollups;
5. commit: durable against a power cut if there was a settle in it, else against the end of the process.

When the store fails, the batch is rolled back whole: its holds fail, its settles are to be tried again. When one row is at
fault, the batch is repeated one by one, so that only that row fails.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import structlog
from sqlalchemy import bindparam, delete, func, select

from gateway.errors import StoreError
from gateway.ledger.connection import Connection
from gateway.ledger.faults import Conflict, Fault, store_error
from gateway.ledger.ids import EntryIds
from gateway.ledger.periods import now_ms
from gateway.ledger.records import Entry, Hold
from gateway.ledger.rollups import NameBook, Rollups
from gateway.ledger.rows import entry_row, hold_row, reservation_row
from gateway.ledger.schema import USAGE_DAILY_KEY, USAGE_DAILY_SUMS, entries, holds, idempotency, meta, usage_daily
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

__all__ = ["HoldWork", "SettleWork", "TaskWork", "Transactions", "Work"]

_log = structlog.get_logger()

_HOLDS = many_rows(holds)
_ENTRIES = many_rows(entries)
_RESERVATIONS = many_rows(idempotency)
_USAGE = upsert_adding(usage_daily, USAGE_DAILY_KEY, USAGE_DAILY_SUMS)
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
    __slots__ = ("hold", "is_given_up")

    def __init__(self, hold: Hold, on_done: Any, submitted_at: float) -> None:
        super().__init__(on_done, submitted_at)
        self.hold = hold
        self.is_given_up = False
        """Its caller was told that it failed: if it becomes durable after all, it has to end."""


class SettleWork(Work):
    __slots__ = ("entries", "frees", "hold_id")

    def __init__(
        self, hold_id: str, entries: Sequence[Entry], on_done: Any, submitted_at: float, frees: str = ""
    ) -> None:
        super().__init__(on_done, submitted_at)
        self.hold_id = hold_id
        self.entries = entries
        self.frees = frees
        """The id of a reservation that ends with the hold; empty for none."""


class TaskWork(Work):
    """A transaction of its own: `task` runs inside it, and what it returns is the result."""

    __slots__ = ("is_durable", "is_patient", "task")

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
        self._names = NameBook(self._load_names)
        self._rollups = Rollups(self._names)

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

    def insert(self, many: ManyRows, rows: Sequence[Sequence[Any]]) -> None:
        """All rows or none, in as few statements as the store allows."""
        if rows:
            self.connection.insert(many, rows)

    def post(self, posted: Iterable[Entry], *, corrects: str | None = None) -> list[str]:
        """Insert entries and add them to the rollups. Returns their ids."""
        created_ms = now_ms()
        rows = []
        for entry in posted:
            row = entry_row(entry, *self._ids.next(created_ms), corrects)
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
            self._transact(lambda: self._write_calls(new, settles, self._end_all_holds), is_durable=bool(settles))
        except _HoldIsMissing:
            self._transact(lambda: self._write_calls(new, settles, self._end_known_holds), is_durable=True)

    def _write_calls(
        self,
        new: Sequence[Hold],
        settles: Sequence[SettleWork],
        end: Callable[[Sequence[SettleWork]], Sequence[SettleWork]],
    ) -> None:
        if new:
            created_at = now_ms()
            self.insert(_HOLDS, [hold_row(hold, self._instance_id, created_at) for hold in new])
            self.insert(
                _RESERVATIONS, [reservation_row(hold, created_at) for hold in new if hold.reservation is not None]
            )
        if settles:
            ended = end(settles)
            self.post(entry for work in ended for entry in work.entries)
            for work in ended:
                if work.frees:
                    self.count(_FREE, reserved=work.frees, hold_id=work.hold_id)

    def _end_all_holds(self, settles: Sequence[SettleWork]) -> Sequence[SettleWork]:
        """Nearly always each hold is there, and counting is enough: one step, however many holds there are."""
        if self.connection.count_deleted_holds([work.hold_id for work in settles]) != len(settles):
            raise _HoldIsMissing
        return settles

    def _end_known_holds(self, settles: Sequence[SettleWork]) -> Sequence[SettleWork]:
        """The settles that came first; for the others somebody else has ended the hold, and booked it."""
        ended = self.end_holds([work.hold_id for work in settles])
        posting = []
        for work in settles:
            if work.hold_id in ended:
                ended.remove(work.hold_id)
                posting.append(work)
        return posting

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
                work.must_retry = True
            else:
                work.error = trouble
        return trouble

    # Transactions

    def _commit_task(self, work: TaskWork, trouble: StoreError | None) -> StoreError | None:
        if trouble is not None:
            work.error = trouble
            return trouble
        try:
            work.result = self._transact(lambda: work.task(self), is_durable=work.is_durable)
        except Exception as exc:
            fault = self.connection.fault_of(exc)
            if fault is Fault.CONFLICT:
                work.error = Conflict("This contradicts what is already there.")
                work.error.__cause__ = exc
            elif fault is Fault.BAD_SQL or not fault.is_trouble:
                work.error = exc
            else:
                work.error = self._fail_all((), exc)
                return work.error
        return None

    def _probe(self) -> StoreError | None:
        try:
            self._transact(lambda: self.count(_PROBE, at=str(now_ms())), is_durable=True)
            self.connection.recover()
        except Exception as exc:
            return self._fail_all((), exc)
        return None

    def _transact(self, write: Callable[[], Any], *, is_durable: bool) -> Any:
        self.connection.begin(is_durable=is_durable)
        try:
            result = write()
            self.connection.commit()
        except BaseException:
            self._rollups.clear()
            self._names.forget()
            self.connection.rollback()
            raise
        return result

    def _load_names(self, day: str) -> Iterable[tuple[str, str, str]]:
        return [(row["creator"], row["feature"], row["agent"]) for row in self.rows(_NAMES, day=day)]
