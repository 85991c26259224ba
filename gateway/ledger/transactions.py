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

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import structlog

from gateway.errors import StoreError
from gateway.ledger.ballast import Ballast
from gateway.ledger.faults import Conflict, is_bad_sql, is_disk_full, is_trouble, store_error
from gateway.ledger.ids import EntryIds
from gateway.ledger.periods import now_ms
from gateway.ledger.records import Entry, Hold
from gateway.ledger.rollups import NameBook, Rollups
from gateway.ledger.rows import entry_row, hold_row, reservation_row
from gateway.ledger.schema import USAGE_DAILY_KEY, USAGE_DAILY_SUMS, entries, holds, idempotency, usage_daily
from gateway.ledger.statements import many_rows, upsert_adding

__all__ = ["HoldWork", "SettleWork", "TaskWork", "Transactions", "Work", "connect"]

_log = structlog.get_logger()

BUSY_TIMEOUT_MS = 2_000
_CACHE_KIB = 8 * 1024
_CHECKPOINT_PAGES = 4_096
_WAL_BYTES_KEPT = 64 * 2**20
_STATEMENTS_KEPT = 256
_IDS_A_DELETE = 64

_HOLDS = many_rows(holds)
_ENTRIES = many_rows(entries)
_RESERVATIONS = many_rows(idempotency)
_FREE = "DELETE FROM idempotency WHERE id = ? AND request_id = ?"
_USAGE = upsert_adding(usage_daily, USAGE_DAILY_KEY, USAGE_DAILY_SUMS)
_NAMES = "SELECT DISTINCT creator, feature, agent FROM usage_daily WHERE period_day = ?"
_LAST_ID = "SELECT max(id) FROM entries"
_PROBE = "INSERT INTO meta (key, value) VALUES ('probed_at', ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"


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


def connect(path: Path) -> sqlite3.Connection:
    """A connection for writing. Transactions begin and end where we say so."""
    connection = sqlite3.connect(
        path,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=_STATEMENTS_KEPT,
        timeout=BUSY_TIMEOUT_MS / 1000,
    )
    for pragma in (
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
        "recursive_triggers = ON",  # else INSERT OR REPLACE deletes a row without asking the triggers
        f"wal_autocheckpoint = {_CHECKPOINT_PAGES}",
        f"journal_size_limit = {_WAL_BYTES_KEPT}",
        f"cache_size = -{_CACHE_KIB}",
        "temp_store = MEMORY",
    ):
        connection.execute(f"PRAGMA {pragma}").close()
    return connection


class Transactions:
    """The one connection that writes. Used by the writer's thread only."""

    def __init__(self, path: Path, instance_id: str, ballast: Ballast) -> None:
        self.connection = connect(path)
        self._instance_id = instance_id
        self._ballast = ballast
        self._is_full_sync = True
        self._ids = EntryIds(self.connection.execute(_LAST_ID).fetchone()[0])
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
        try:
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").close()
        except sqlite3.Error as exc:
            _log.warning("checkpoint_failed", error=str(exc))
        self.connection.close()

    def post(self, posted: Iterable[Entry], *, corrects: str | None = None) -> list[str]:
        """Insert entries and add them to the rollups, inside the transaction that is open. Returns their ids."""
        created_ms = now_ms()
        rows = []
        for entry in posted:
            row = entry_row(entry, *self._ids.next(created_ms), corrects)
            rows.append(row)
            self._rollups.add(row)
        _ENTRIES.run(self.connection, rows)
        _USAGE.run(self.connection, self._rollups.rows())
        self._rollups.clear()
        return [row[0] for row in rows]

    def end_holds(self, ids: Sequence[str]) -> set[str]:
        """Delete holds, inside the transaction that is open. Returns the ids that this call ended."""
        ended: set[str] = set()
        for chunk in _chunks(ids):
            marks = ", ".join("?" * len(chunk))
            sql = f"DELETE FROM holds WHERE id IN ({marks}) RETURNING id"  # noqa: S608 -- question marks only
            ended.update(row[0] for row in self.connection.execute(sql, chunk).fetchall())
        return ended

    # Holds and settles

    def _commit_calls(self, calls: Sequence[Work]) -> StoreError | None:
        try:
            self._commit_together(calls)
        except Exception as exc:
            if is_trouble(exc):
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
            _HOLDS.run(self.connection, [hold_row(hold, self._instance_id, created_at) for hold in new])
            reservations = [reservation_row(hold, created_at) for hold in new if hold.reservation is not None]
            if reservations:
                _RESERVATIONS.run(self.connection, reservations)
        if settles:
            ended = end(settles)
            self.post(entry for work in ended for entry in work.entries)
            for work in ended:
                if work.frees:
                    self.connection.execute(_FREE, (work.frees, work.hold_id)).close()

    def _end_all_holds(self, settles: Sequence[SettleWork]) -> Sequence[SettleWork]:
        """Nearly always each hold is there, and counting is enough: one step, however many holds there are."""
        ended = 0
        for chunk in _chunks([work.hold_id for work in settles]):
            marks = ", ".join("?" * len(chunk))
            sql = f"DELETE FROM holds WHERE id IN ({marks})"  # noqa: S608 -- question marks only
            ended += self.connection.execute(sql, chunk).rowcount
        if ended != len(settles):
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
        if isinstance(work, HoldWork) and work.hold.reservation is not None and isinstance(exc, sqlite3.IntegrityError):
            work.error = Conflict("Another call has this idempotency key.")  # which the caller hears as such
            return
        work.error = store_error(exc)
        request_id = work.hold_id if isinstance(work, SettleWork) else None
        if isinstance(work, HoldWork):
            request_id = work.hold.attribution.request_id
        # A hold that cannot be settled stays open, and is booked at its orphan cost at the next start.
        _log.critical("ledger_row_refused", work=type(work).__name__, request_id=request_id, error=repr(exc))

    def _fail_all(self, calls: Sequence[Work], exc: Exception) -> StoreError:
        if is_disk_full(exc):
            self._ballast.drop()
        trouble = exc if isinstance(exc, StoreError) else store_error(exc)
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
        except sqlite3.IntegrityError as exc:
            work.error = Conflict("This contradicts what is already there.")
            work.error.__cause__ = exc
        except Exception as exc:
            if is_bad_sql(exc) or not is_trouble(exc):
                work.error = exc
                return None
            work.error = self._fail_all((), exc)
            return work.error
        return None

    def _probe(self) -> StoreError | None:
        try:
            self._transact(lambda: self.connection.execute(_PROBE, (str(now_ms()),)).close(), is_durable=True)
            self._ballast.restore()
        except Exception as exc:
            return self._fail_all((), exc)
        return None

    def _transact(self, write: Callable[[], Any], *, is_durable: bool) -> Any:
        connection = self.connection
        if is_durable is not self._is_full_sync:
            connection.execute(f"PRAGMA synchronous = {'FULL' if is_durable else 'NORMAL'}").close()
            self._is_full_sync = is_durable
        connection.execute("BEGIN IMMEDIATE")
        try:
            result = write()
            connection.execute("COMMIT")
        except BaseException:
            self._rollups.clear()
            self._names.forget()
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return result

    def _load_names(self, day: str) -> Iterable[tuple[str, str, str]]:
        return self.connection.execute(_NAMES, (day,)).fetchall()


def _chunks(ids: Sequence[str]) -> Iterable[Sequence[str]]:
    return (ids[start : start + _IDS_A_DELETE] for start in range(0, len(ids), _IDS_A_DELETE))
