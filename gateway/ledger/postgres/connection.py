"""The connection that writes to PostgreSQL: asyncpg on an event loop of its own, which runs only while the writer's thread
waits for an answer. So the thread writes as it would to a file, and no other thread is woken meanwhile.

A connection that fails is closed and made anew by the next transaction:
1. connect to the server that can be written to;
2. end the session before this one, if the server still has it, and wait until it is gone: what it was committing has
   been committed by then, or never will be;
3. take the lock that tells that this gateway writes: alone, or, where all count in one store, beside others who do.

Ids and instants follow the clock of the server, which all who write share: it is read with each connection and twice a
minute after that, and goes on by this machine's monotonic clock in between.
"""

import asyncio
import time
from collections.abc import Awaitable, Sequence
from functools import cache
from typing import Any, TypeVar
from zlib import crc32

import structlog
import uvloop
from sqlalchemy import LargeBinary, Text
from sqlalchemy.engine import Dialect

from gateway.errors import ConfigError
from gateway.ledger.faults import Fault
from gateway.ledger.periods import now_ms
from gateway.ledger.postgres.faults import PostgresFault, fault_of, translated
from gateway.ledger.postgres.link import CHANNEL, LOCK_CLASS, POSTGRES, Link, connect, end, storable
from gateway.ledger.schema import Flag
from gateway.ledger.statements import ManyRows, Row, Statement

__all__ = ["PostgresConnection"]

_log = structlog.get_logger()

_STATEMENT_TIMEOUT_S = 6.0
_ANSWER_TIMEOUT_S = 8.0
"""Longer, so that a server that still answers can say what was wrong."""
_OTHER_ENDS_WITHIN_S = 5.0
_LOOK_AGAIN_S = 0.1
_CLOCK_READ_EVERY_S = 30.0
_CLOCK_SAMPLES = 3
_CLOCKS_DIFFER_MS = 2_000
_ANNOUNCED_CHARS_MAX = 1_900
"""A notification has to be below 8000 bytes, and a character has up to four."""
_NOW_US = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
_IDLE_BESIDE_OTHERS = {"idle_in_transaction_session_timeout": "1500ms"}
"""A process that was frozen in the middle of a transaction has locks that others wait for, for two seconds at most."""
_BEGIN = {
    True: "BEGIN; SET LOCAL synchronous_commit TO on",  # whatever the server's default is
    False: "BEGIN; SET LOCAL synchronous_commit TO off",
}
_END_PREDECESSOR = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE application_name = $1 AND usename = current_user AND pid <> pg_backend_pid()"
)
_ONLY_GATEWAY = 0
_LOCKS = {
    False: "SELECT pg_try_advisory_lock($1, $2)",
    True: "SELECT pg_try_advisory_lock_shared($1, $2)",
}
_TAKEN = {
    False: "another gateway uses this database: stop it first, or give this one a database of its own "
    "(GATEWAY_DATABASE_URL), or let both count in one Redis (GATEWAY_REDIS_URL)",
    True: "a gateway that counts in its own memory uses this database: stop it, or let it count in the same Redis "
    "(GATEWAY_REDIS_URL)",
}
"""By whether the one who asks shares."""
_DELETE_HOLDS = "DELETE FROM holds WHERE id = ANY($1::text[])"
_COMMITTED = "committed"
_WHOLE = frozenset({int, bool, type(None), bytes})
"""What a column of numbers may be given: asyncpg would cut a float down to an integer without a word."""

Result = TypeVar("Result")


class PostgresConnection:
    """`gateway.ledger.connection.Connection` for PostgreSQL. Made and used by one thread that runs no event loop."""

    def __init__(self, url: str, instance_id: str, *, is_shared: bool = False) -> None:
        """Connects. Raises `PostgresFault`, and `ConfigError` when a gateway writes to this database that this one must
        not write beside: any other, or, if it is shared, one that shares it with nobody."""
        self._url = url
        self._is_shared = is_shared
        self._name = f"gateway writer {instance_id[:32]}"
        self._own_lock = -_lock_number(self._name)
        self._loop = uvloop.new_event_loop()
        self._link: Link | None = None
        self._is_open = False
        """A transaction is open."""
        self._epoch = 0
        self._server_ahead_s = 0.0
        """Of this machine's monotonic clock."""
        self._clock_read_at = 0.0
        try:
            self._link = self._run(self._connected(is_first=True))
        except BaseException:
            self._loop.close()
            raise

    @property
    def dialect(self) -> Dialect:
        return POSTGRES

    @property
    def epoch(self) -> int:
        return self._epoch

    def now_ms(self) -> int:
        return int((time.monotonic() + self._server_ahead_s) * 1000)

    @property
    def clock_ahead_ms(self) -> int:
        return self.now_ms() - now_ms()

    # Transactions

    def begin(self, *, is_durable: bool) -> None:
        if self._link is None or self._link.is_closed():
            self._link = self._run(self._connected(is_first=False))
            self._epoch += 1
            _log.info("ledger_connected_again")
        elif time.monotonic() - self._clock_read_at > _CLOCK_READ_EVERY_S:
            self._run(self._read_clock(self._link))
        self._run(self._link.execute(_BEGIN[is_durable]))
        self._is_open = True

    def commit(self) -> None:
        """A connection that is lost meanwhile leaves it open whether it was committed: `Fault.IN_DOUBT`."""
        self._is_open = False
        try:
            status = self._run(self._linked().execute("COMMIT"))
        except PostgresFault as exc:
            self._lose()
            if exc.fault.is_trouble and exc.fault is not Fault.PASSING:
                raise PostgresFault(Fault.IN_DOUBT, str(exc), exc.sqlstate) from None
            raise
        if status != "COMMIT":
            raise PostgresFault(Fault.TROUBLE, f"COMMIT was answered with {status}")

    def rollback(self) -> None:
        if not self._is_open or self._link is None:
            return
        self._is_open = False
        try:
            self._run(self._link.execute("ROLLBACK"))
        except PostgresFault:
            self._lose()  # the server does the same when it has seen the end of the connection

    def receipt(self) -> str:
        found = self._run(self._linked().fetchval("SELECT pg_current_xact_id_if_assigned()::text"))
        return found or ""

    def was_committed(self, receipt: str) -> bool:
        """Every session that could still commit it has ended when a transaction has begun since."""
        found = self._run(self._linked().fetchval("SELECT pg_xact_status($1::text::xid8)", receipt))
        return bool(found == _COMMITTED)

    # Statements

    def lock(self, name: str) -> None:
        self._run(self._linked().execute("SELECT pg_advisory_xact_lock($1, $2)", LOCK_CLASS, _lock_number(name)))

    def announce(self, text: str) -> None:
        """Cut off where it is longer than anything that there is: an id that somebody made up must not fail the write."""
        said = _written((CHANNEL, text[:_ANNOUNCED_CHARS_MAX]))
        self._run(self._linked().execute("SELECT pg_notify($1, $2)", *said))

    def rows(self, statement: Statement) -> list[Row]:
        records = self._run(self._linked().fetch(statement.sql, *_written(statement.parameters)))
        return statement.rows(list(records[0].keys()), records) if records else []

    def count(self, statement: Statement) -> int:
        return _count_in(self._run(self._linked().execute(statement.sql, *_written(statement.parameters))))

    def insert(self, many: ManyRows, rows: Sequence[Sequence[Any]]) -> None:
        """One statement, however many rows: a list for each column. Sums are added in the order of their keys, so that two
        gateways that add to the same rows wait for each other instead of ending each other."""
        sql, is_text = _insert_of(many)
        ordered = sorted(rows, key=tuple) if many.key else rows
        columns: list[Sequence[Any]] = list(zip(*ordered, strict=True))
        for index, column in enumerate(columns):
            if is_text[index]:
                columns[index] = _storable_column(column)
            elif not _WHOLE.issuperset(map(type, column)):
                raise PostgresFault(Fault.BAD_ROW, f"{many.table.name}.{many.columns[index]}: no whole number")
        self._run(self._linked().execute(sql, *columns))

    def count_deleted_holds(self, ids: Sequence[str]) -> int:
        return _count_in(self._run(self._linked().execute(_DELETE_HOLDS, ids)))

    def delete_holds(self, ids: Sequence[str]) -> list[str]:
        return [row[0] for row in self._run(self._linked().fetch(f"{_DELETE_HOLDS} RETURNING id", ids))]

    # Faults

    def fault_of(self, exc: BaseException) -> Fault:
        return fault_of(exc)

    def make_room(self) -> None:
        """Its disk is another machine's."""

    def recover(self) -> None:
        """Nothing was given up."""

    def close(self) -> None:
        self._loop.run_until_complete(self._end_all())
        self._loop.close()

    async def _end_all(self) -> None:
        if self._link is not None:
            await end(self._link)
        self._link = None
        # What asyncpg began, to cancel a statement that was given up.
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await asyncio.sleep(0)

    def _run(self, work: Awaitable[Result]) -> Result:
        try:
            return self._loop.run_until_complete(work)
        except ConfigError:
            raise
        except Exception as exc:
            fault = translated(exc)
            if fault.fault in (Fault.TROUBLE, Fault.FULL):
                self._lose()
            raise fault from None

    def _linked(self) -> Link:
        if self._link is None:
            raise PostgresFault(Fault.TROUBLE, "the connection was lost")
        return self._link

    def _lose(self) -> None:
        """Whatever state it is in, the next transaction has a new one."""
        if self._link is not None:
            self._link.terminate()
        self._link = None
        self._is_open = False

    # Connecting

    async def _connected(self, *, is_first: bool) -> Link:
        link = await connect(
            self._url,
            name=self._name,
            statement_timeout_s=_STATEMENT_TIMEOUT_S,
            answer_timeout_s=_ANSWER_TIMEOUT_S,
            target="read-write",
            settings=_IDLE_BESIDE_OTHERS if self._is_shared else None,
        )
        try:
            if not is_first:
                await link.execute(_END_PREDECESSOR, self._name)
            await link.execute("SELECT pg_advisory_lock($1, $2)", LOCK_CLASS, self._own_lock)
            await self._take_place(link, within_s=_OTHER_ENDS_WITHIN_S if is_first else 0)
            await self._read_clock(link)
            if abs(self.clock_ahead_ms) > _CLOCKS_DIFFER_MS:
                _log.warning("database_clock_differs", ahead_ms=self.clock_ahead_ms)
        except BaseException:
            link.terminate()
            raise
        return link

    async def _take_place(self, link: Link, within_s: float) -> None:
        """Counters in the memory of one process know nothing of another: it would let through as much again."""
        until = time.monotonic() + within_s
        while not await link.fetchval(_LOCKS[self._is_shared], LOCK_CLASS, _ONLY_GATEWAY):
            if time.monotonic() >= until:
                if within_s:
                    raise ConfigError(_TAKEN[self._is_shared])
                raise PostgresFault(Fault.TROUBLE, "another gateway has taken this database over")
            await asyncio.sleep(_LOOK_AGAIN_S)  # one that was killed just now is still being cleared away

    async def _read_clock(self, link: Link) -> None:
        """The answer that came soonest is the one that says most exactly what the time was."""
        soonest_s = float("inf")
        for _ in range(_CLOCK_SAMPLES):
            asked_at = time.monotonic()
            at_us = await link.fetchval(_NOW_US)
            answered_at = time.monotonic()
            if answered_at - asked_at < soonest_s:
                soonest_s = answered_at - asked_at
                self._server_ahead_s = at_us / 1e6 - (asked_at + answered_at) / 2
        self._clock_read_at = time.monotonic()


def _lock_number(name: str) -> int:
    """Above 0; a connection's own lock has one below."""
    return 1 + crc32(name.encode()) % (2**31 - 1)


@cache
def _insert_of(many: ManyRows) -> tuple[str, Sequence[bool]]:
    """The statement, and which of its columns are texts."""
    kinds = [many.table.c[name].type for name in many.columns]
    arrays = ", ".join(f"${n}::{_array_of(kind)}" for n, kind in enumerate(kinds, start=1))
    names = [f"v{n}" for n in range(len(kinds))]
    values = ", ".join(
        f"{name} <> 0" if isinstance(kind, Flag) else name for name, kind in zip(names, kinds, strict=True)
    )
    columns = ", ".join(f'"{name}"' for name in many.columns)
    table = many.table.name
    sql = f"INSERT INTO {table} ({columns}) SELECT {values} FROM unnest({arrays}) AS given({', '.join(names)})"  # noqa: S608
    if many.key:
        added = ", ".join(f'"{name}" = {table}."{name}" + excluded."{name}"' for name in many.sums)
        sql += f" ON CONFLICT ({', '.join(many.key)}) DO UPDATE SET {added}"
    elif many.is_kept:
        sql += " ON CONFLICT DO NOTHING"
    return sql, [isinstance(kind, Text) for kind in kinds]


def _array_of(kind: Any) -> str:
    if isinstance(kind, Text):
        return "text[]"
    return "bytea[]" if isinstance(kind, LargeBinary) else "bigint[]"


def _written(values: Sequence[Any]) -> Sequence[Any]:
    if any(type(value) is float for value in values):
        raise PostgresFault(Fault.BAD_ROW, "a float, where every number is whole")
    return storable(values)


def _storable_column(column: Sequence[Any]) -> Sequence[Any]:
    try:
        is_fine = "\0" not in "".join(column)
    except TypeError:
        return column  # what is no text is refused where it is written
    return column if is_fine else storable(column)


def _count_in(status: str) -> int:
    """Of `DELETE 3` or `INSERT 0 3`."""
    return int(status.rpartition(" ")[2])
