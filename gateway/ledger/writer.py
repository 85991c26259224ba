"""The ledger's one writer: a thread that commits in groups, and the queue in front of it.

1. A caller's work joins the queue. If the thread is idle, the queue is handed over at the end of this turn of the event
   loop, so that everything of one turn is one transaction.
2. The thread commits the batch (`gateway.ledger.transactions`) and comes back with a single wake-up of the event loop.
3. The loop wakes the callers and hands over what has queued meanwhile. There is no timer: a lone call waits for nobody.

The queue belongs to the event loop, a batch to the thread that has it, so neither needs a lock.

When the store fails, holds fail at once and go on failing until a probe succeeds; settles stay in the queue, in their
order, and are tried again with growing pauses until they are committed. Their callers wait for at most `settle_timeout_s`.
Other writes fail with the store, or when they have waited that long and were not begun; one that was begun may still be
committed after its caller was told that it failed, so whoever must tell others about it does that in `to_its_end`.

Where there is a spool (`gateway.ledger.spool`), settles that have waited for a second, or find the store in trouble, are
written there too, and their callers are told that all is well as soon as the disk has them.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from itertools import islice
from queue import SimpleQueue
from typing import Any, TypeVar

import structlog
from sqlalchemy import Executable
from sqlalchemy.engine import Dialect

from gateway.errors import StoreError
from gateway.ledger.faults import RETRY_AFTER_S, Fault, store_error
from gateway.ledger.records import Entry, Hold
from gateway.ledger.refusal_counts import ADD_REFUSALS, RefusalCounts, RefusalRows
from gateway.ledger.spool import Spool
from gateway.ledger.spool_file import SpooledSettle
from gateway.ledger.statements import Row, compile_statement
from gateway.ledger.transactions import HoldWork, SettleWork, TaskWork, Transactions, Work
from gateway.tasks import spawn

__all__ = ["Writer"]

_log = structlog.get_logger()

_BATCH_MAX = 512
_RETRY_FIRST_S = 0.05
_RETRY_MAX_S = 2.0
_WATCH_S = 0.25
_SPOOLED_AFTER_S = 1.0
_REPLAYED_AT_ONCE = 128
_REPLAY_WAIT_S = 10.0
_NEVER_LATE = float("inf")
_SPOOLED_ELSEWHERE = -1

Batch = Sequence[Work]
Result = TypeVar("Result")


class Writer:
    """The `Ledger` of the pipeline, and the way of every other write. Belongs to the event loop that started it."""

    def __init__(
        self,
        connect: Callable[[], Transactions],
        *,
        dialect: Dialect,
        settle_timeout_s: float,
        calls_max: int,
        spool: Spool | None = None,
    ) -> None:
        """`connect` is called once, on the writer's thread; `dialect` is what its connection speaks. `spool` is for a
        store that can be away while this machine's disk is not."""
        self._connect = connect
        self._dialect = dialect
        self._settle_timeout_s = settle_timeout_s
        self._queue_max = calls_max
        self._spool = spool
        self._spooled_after_s = min(_SPOOLED_AFTER_S, settle_timeout_s / 2)
        self._replaying: asyncio.Task[None] | None = None
        self._on_late: Callable[[float], None] | None = None
        self._late_s = 0.0
        """By how much a settle was late of which `_on_late` was not told yet."""
        self._transactions: Transactions | None = None
        """The thread's; only its clock is looked at from here."""
        self._queue: deque[Work] = deque()
        self._in_hand: Batch = ()
        """What the thread is committing now."""
        self._handed_over_at = 0.0
        self._is_busy = False
        """The thread has a batch, or a pause after a failure is running."""
        self._trouble: StoreError | None = None
        self._is_stuck = False
        """The thread has been at one batch for longer than a caller may wait."""
        self._is_closing = False
        self._is_closed = False
        self._retry_s = _RETRY_FIRST_S
        self._watch: asyncio.TimerHandle | None = None
        self._refusals = RefusalCounts(self._write_refusals)
        self._idle = asyncio.Event()
        self._idle.set()
        self._inbox: SimpleQueue[tuple[Batch, bool] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="ledger-writer", daemon=True)

    async def start(self) -> None:
        """Opens the database for writing, and posts what others left in the spool, if that does not take long.

        Raises what opening it raised, and `ConfigError` for a spool that cannot be used.
        """
        self._loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        if self._spool is not None:
            await self._spool.open()
        self._thread.start()
        try:
            await self._opened
        except BaseException:
            if self._spool is not None:
                await self._spool.close()
            raise
        if self._spool is not None and self._spool.count:
            self._replaying = spawn(self._replay(self._spool), "replay-spool")
            await asyncio.wait({self._replaying}, timeout=_REPLAY_WAIT_S)

    @property
    def is_ready(self) -> bool:
        """False while the store is in trouble: holds are refused, settles wait."""
        return self._trouble is None and not self._is_stuck and not self._is_closing

    @property
    def spooled(self) -> int:
        """Settles on this machine's disk that the database has not committed yet."""
        return 0 if self._spool is None else self._spool.count

    def tell_of_late_settles(self, on_late: Callable[[float], None]) -> None:
        """`on_late` is told when settles have been committed whose callers were told before how they went: whoever read the
        ledger meanwhile did not see them. Told how many seconds that took at most; infinity for what another process left
        in the spool. Those of before count, too."""
        self._on_late = on_late
        self._tell_late()

    @property
    def clock_ahead_ms(self) -> int:
        """How far the clock of the store is ahead of this machine's."""
        return 0 if self._transactions is None else self._transactions.connection.clock_ahead_ms

    # What callers ask for

    def begin_hold(self, hold: Hold) -> "asyncio.Future[None]":
        """Queues the hold; the future is done when it survives kill -9.

        Raises `StoreError`, now or through the future: then the hold is not and will not be in the ledger.
        """
        if not self.is_ready or len(self._queue) >= self._queue_max:
            raise self._refusal()
        on_done: asyncio.Future[None] = self._loop.create_future()
        self._submit(HoldWork(hold, on_done, self._loop.time()))
        return on_done

    async def hold(self, hold: Hold) -> None:
        """Returns when the hold survives kill -9. Raises `StoreError` as `begin_hold` does."""
        await self.begin_hold(hold)

    async def settle(self, hold_id: str, entries: Sequence[Entry], *, frees: str = "") -> None:
        """Ends the hold and posts `entries` in one transaction; returns when that survives a power cut, or what has to be
        done does, in the spool.

        `frees` is the id of a reservation that ends with them: the call cost nothing, and may be made anew.

        Posts nothing when somebody else has ended the hold. Raises `StoreError` after `settle_timeout_s`: the entries are
        kept, and posted as soon as that is possible. Cancelling the caller does not cancel the settling.
        """
        work = SettleWork(hold_id, entries, self._loop.create_future(), self._loop.time(), frees)
        self._submit(work)
        if self._spool is not None and (self._trouble is not None or self._is_stuck):
            self._spool.keep([work])
        await work.on_done

    def count_refusal(self, creator: str, reason: str) -> None:
        """Counted per creator, day and reason; written at most once a second. Never blocks, never raises."""
        self._refusals.add(creator, reason)

    async def post(self, entries: Sequence[Entry], *, corrects: str | None = None) -> list[str]:
        """Posts entries that no hold stands for: cache hits, grants, refunds. Returns their ids.

        `corrects` is the id of the entry they mend. Raises `Conflict` if one of them is booked already, `StoreError`.
        """
        return await self.run(lambda transactions: transactions.post(entries, corrects=corrects))

    async def write(
        self,
        *statements: Executable,
        is_patient: bool = False,
        is_durable: bool = True,
        announces: Sequence[str] = (),
    ) -> list[list[Row]]:
        """Executes all or none, in one transaction that survives a power cut, or, if not `is_durable`, the end of the
        process. Returns the rows of each `returning`. Other processes are told `announces` (`gateway.instances`).

        Raises `Conflict` when a unique value is taken or a reference leads nowhere, `StoreError` as `run` does.
        """
        compiled = [compile_statement(statement, self._dialect) for statement in statements]

        def write(transactions: Transactions) -> list[list[Row]]:
            rows = [transactions.rows(each) for each in compiled]
            for text in announces:
                transactions.announce(text)
            return rows

        return await self.run(write, is_patient=is_patient, is_durable=is_durable)

    async def run(
        self, task: Callable[[Transactions], Result], *, is_patient: bool = False, is_durable: bool = True
    ) -> Result:
        """What `task` returned, inside a transaction of its own on the writer's thread; rolled back if it raises.

        Keep it short: every call waits meanwhile. It must not touch the event loop. Raises `StoreError` when the store
        fails, and after `settle_timeout_s`: then `task` may still be committed if it was begun. A patient caller waits on
        until that is known, and is told `StoreError` only of what is not committed.
        """
        if self._is_closing:
            raise self._refusal()
        on_done, now = self._loop.create_future(), self._loop.time()
        work = TaskWork(task, on_done, now, is_patient=is_patient, is_durable=is_durable)
        self._submit(work)
        result: Result = await work.on_done
        return result

    async def to_its_end(self, work: Coroutine[Any, Any, Result], name: str) -> Result:
        """What `work` returned or raised. It goes on to its end even if the caller leaves, or is told `StoreError` after
        `settle_timeout_s`: for a patient write and whatever others must be told as soon as it is committed."""
        ending = spawn(_heard(work), name)
        try:
            async with asyncio.timeout(self._settle_timeout_s):
                outcome: Result | Exception = await asyncio.shield(ending)
        except TimeoutError:
            ending.add_done_callback(_log_late)
            raise self._refusal() from None
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def close(self, timeout_s: float) -> None:
        """Commits what is queued and ends the thread. What cannot be written in `timeout_s` is left in the spool, for the
        next process to post; without one it is given up, and logged.

        Holds of settles given up stay open in the database: the next start books them as crashed.
        """
        if self._is_closing:
            return
        self._refusals.close()
        self._is_closing = True
        if self._replaying is not None:
            self._replaying.cancel()
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            await self._leave(timeout_s)
        finally:
            self._is_closed = True
            self._fail_waiters((*self._in_hand, *self._queue))
            self._queue.clear()
            if self._watch is not None:
                self._watch.cancel()
            self._inbox.put(None)
        try:
            async with asyncio.timeout(timeout_s):
                await self._ended
        except TimeoutError:
            _log.critical("ledger_writer_stuck")
        if self._spool is not None:
            await self._spool.close()

    async def _leave(self, timeout_s: float) -> None:
        """Whatever has not been committed."""
        settles = [work for work in (*self._in_hand, *self._queue) if isinstance(work, SettleWork)]
        if self._spool is not None:
            self._spool.keep(settles)
            try:
                async with asyncio.timeout(timeout_s):
                    await self._spool.written()
            except TimeoutError:
                _log.critical("spool_stuck")
            _log.warning("ledger_closed_with_spool_left", settles=self._spool.count)
        lost = [work.hold_id for work in settles if not work.is_spooled]
        if lost or self._spool is None:
            _log.critical("ledger_closed_with_work_left", settles=len(lost), request_ids=lost[:100])

    # The queue

    def _submit(self, work: Work) -> None:
        if self._is_closed:
            raise self._refusal()
        self._queue.append(work)
        if not self._is_busy:
            self._is_busy = True
            self._idle.clear()
            self._loop.call_soon(self._hand_over)
        if self._watch is None:
            self._watch = self._loop.call_later(_WATCH_S, self._look_at_waiters)

    async def _replay(self, spool: Spool) -> None:
        await spool.replay(self._submit_spooled, at_once=_REPLAYED_AT_ONCE)
        self._late_s = _NEVER_LATE
        self._tell_late()

    def _submit_spooled(self, settle: SpooledSettle) -> "asyncio.Future[None]":
        """What a process that is gone left in its spool: it waits for as long as it takes."""
        on_done: asyncio.Future[None] = self._loop.create_future()
        work = SettleWork(settle.hold_id, settle.entries, on_done, _NEVER_LATE, settle.frees)
        work.is_spooled, work.spool_number = True, _SPOOLED_ELSEWHERE
        self._submit(work)
        return on_done

    def _hand_over(self) -> None:
        if self._is_closed:
            return
        if len(self._queue) <= _BATCH_MAX:
            self._in_hand = list(self._queue)
            self._queue.clear()
        else:
            self._in_hand = list(islice(self._queue, _BATCH_MAX))
            for _ in self._in_hand:
                self._queue.popleft()
        self._handed_over_at = self._loop.time()
        self._inbox.put((self._in_hand, self._trouble is not None))

    def _finished(self, batch: Batch, trouble: StoreError | None) -> None:
        """Back on the event loop: wake the callers, then go on with what has queued."""
        self._in_hand = ()
        self._is_stuck = False
        retries = [work for work in batch if work.must_retry] if trouble is not None else ()
        for work in batch:
            if work.must_retry:
                continue
            self._wake(work)
        for work in reversed(retries):
            work.must_retry = False
            self._queue.appendleft(work)
        self._trouble = trouble
        if trouble is not None:
            self._drop([work for work in self._queue if isinstance(work, HoldWork)])
            if self._spool is not None:
                self._spool.keep(work for work in self._queue if isinstance(work, SettleWork))
            self._loop.call_later(self._retry_s, self._hand_over)
            self._retry_s = min(2 * self._retry_s, _RETRY_MAX_S)
            return
        self._retry_s = _RETRY_FIRST_S
        if self._late_s:
            self._tell_late()
        if self._queue:
            self._hand_over()
        else:
            self._is_busy = False
            self._idle.set()

    def _wake(self, work: Work) -> None:
        future: asyncio.Future[Any] = work.on_done
        if isinstance(work, SettleWork):
            work.is_over = True
            if work.spool_number and self._spool is not None:
                self._spool.strike(work)
            if future.done() and work.entries:
                self._late_s = max(self._late_s, self._loop.time() - work.submitted_at)
        if not future.done():
            if work.error is None:
                future.set_result(work.result)
            else:
                future.set_exception(_own(work.error))
        if isinstance(work, HoldWork) and (work.is_in_doubt or (work.is_given_up and work.error is None)):
            # Its caller was told that it failed, and dialled nobody: nothing may be booked for it.
            hold = work.hold
            frees = "" if hold.reservation is None else hold.reservation.id
            self._queue.append(SettleWork(hold.attribution.request_id, (), future, work.submitted_at, frees))

    def _tell_late(self) -> None:
        """Not before the last of them: those who are told may have to read all of the ledger."""
        if self._on_late is None or not self._late_s or any(map(_is_told_settle, self._queue)):
            return
        late_s, self._late_s = self._late_s, 0.0
        self._on_late(late_s)

    def _drop(self, works: Sequence[Work]) -> None:
        """Takes works out of the queue: they fail, and will not be done."""
        if works:
            self._fail_waiters(works)
            dropped = set(works)
            kept = [work for work in self._queue if work not in dropped]
            self._queue.clear()
            self._queue.extend(kept)

    def _look_at_waiters(self) -> None:
        """Every quarter of a second while there is work: nobody waits for longer than was promised."""
        self._watch = None
        if not self._is_busy:
            return
        self._watch = self._loop.call_later(_WATCH_S, self._look_at_waiters)
        now = self._loop.time()
        if self._spool is not None:
            self._spool.keep(self._settles_older_than(now - self._spooled_after_s))
        latest = now - self._settle_timeout_s
        self._is_stuck = bool(self._in_hand) and self._handed_over_at < latest
        late = [
            work for work in (*self._in_hand, *self._queue) if work.submitted_at < latest and not work.on_done.done()
        ]
        begun = {*self._in_hand, *(work for work in self._queue if _is_in_doubt(work))}
        late = [work for work in late if work not in begun or not _is_patient(work)]
        if late:
            self._fail_waiters(late)
            # Nothing of these was begun, so that what is called a failure can also be one.
            self._drop([work for work in late if isinstance(work, TaskWork) and work not in begun])
            _log.error("ledger_writes_late", works=len(late), queued=len(self._queue))

    def _settles_older_than(self, latest: float) -> list[SettleWork]:
        """Where the store is in trouble that is all of them: what could not be written to the spool is tried again."""
        if self._trouble is not None:
            latest = self._loop.time()
        works = (*self._in_hand, *self._queue)
        return [work for work in works if isinstance(work, SettleWork) and work.submitted_at <= latest]

    def _fail_waiters(self, works: Sequence[Work]) -> None:
        for work in works:
            if isinstance(work, HoldWork):
                work.is_given_up = True
            if not work.on_done.done():
                work.on_done.set_exception(self._refusal())

    def _refusal(self) -> StoreError:
        if self._trouble is not None:
            return _own_store_error(self._trouble)
        return StoreError(
            "The ledger is behind or shutting down; try again in a moment.", headers={"retry-after": str(RETRY_AFTER_S)}
        )

    def _write_refusals(self, rows: RefusalRows) -> "asyncio.Future[Any]":
        def add(transactions: Transactions) -> None:
            transactions.insert(ADD_REFUSALS, rows)

        # Patient: what may have been committed must not be counted again.
        work = TaskWork(add, self._loop.create_future(), self._loop.time(), is_patient=True)
        self._submit(work)
        return work.on_done  # type: ignore[no-any-return]

    # The thread

    def _run(self) -> None:
        try:
            transactions = self._connect()
        except Exception as exc:
            self._tell(self._set_opened, exc)
            return
        self._transactions = transactions
        self._tell(self._set_opened, None)
        while (job := self._inbox.get()) is not None:
            batch, is_probe = job
            try:
                trouble = transactions.apply(batch, is_probe=is_probe)
            except Exception as exc:  # the thread must outlive whatever is wrong with a batch
                _log.critical("ledger_writer_failed", error=repr(exc), exc_info=exc)
                trouble = store_error(Fault.TROUBLE)
                for work in batch:
                    work.error = trouble
            self._tell(self._finished, batch, trouble)
        transactions.close()
        self._tell(self._set_ended)

    def _tell(self, callback: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            _log.warning("event_loop_gone", callback=callback.__name__)

    def _set_opened(self, exc: Exception | None) -> None:
        if not self._opened.done():
            if exc is None:
                self._opened.set_result(None)
            else:
                self._opened.set_exception(exc)

    def _set_ended(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)


async def _heard(work: Coroutine[Any, Any, Result]) -> Result | Exception:
    """An error is handed to the caller; raised in a task of its own it would also be logged as unheard."""
    try:
        return await work
    except Exception as exc:
        return exc


def _log_late(ending: "asyncio.Task[Any]") -> None:
    outcome = None if ending.cancelled() else ending.result()
    error = repr(outcome) if isinstance(outcome, Exception) else ""
    _log.warning("write_ended_late", write=ending.get_name(), is_done=not error, error=error)


def _is_patient(work: Work) -> bool:
    return isinstance(work, TaskWork) and work.is_patient


def _is_told_settle(work: Work) -> bool:
    return isinstance(work, SettleWork) and work.on_done.done() and bool(work.entries)


def _is_in_doubt(work: Work) -> bool:
    """It was begun, and may be committed."""
    return isinstance(work, TaskWork) and bool(work.receipt)


def _own(error: Exception) -> Exception:
    """An instance for one caller, who may add headers to it."""
    return _own_store_error(error) if isinstance(error, StoreError) else error


def _own_store_error(error: StoreError) -> StoreError:
    return StoreError(error.message, headers=error.headers)
