"""Holds and settles: grouped, exactly once, and never lost when the store fails."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, insert, select, update
from structlog.testing import capture_logs

from gateway.errors import StoreError
from gateway.ledger.ballast import Ballast
from gateway.ledger.database import Conflict, Database
from gateway.ledger.migration import migrate
from gateway.ledger.orphans import book_orphans
from gateway.ledger.schema import creators, entries, refusals_daily, virtual_keys
from gateway.ledger.sqlite.connection import SqliteConnection
from gateway.ledger.transactions import HoldWork, SettleWork, Transactions, Work
from gateway.tasks import spawn
from tests.ledger.books import (
    BOTH,
    COST,
    Place,
    be_hasty,
    call,
    count,
    entry,
    hold,
    locked,
    opened,
    refuse_entries,
    rows,
    unwritable,
)

STORES = BOTH


async def written(database: Database) -> None:
    """Returns once all that was begun is committed."""
    async with asyncio.timeout(10):
        while True:
            try:
                return await database.run(lambda transactions: None)
            except StoreError:
                continue


CREATOR = {"account_id": "acme", "plan": "free", "is_active": True, "created_at": 1}


async def test_a_settle_posts_its_entries_and_ends_the_hold(database: Database, path: Place) -> None:
    await database.ledger.hold(hold("r1"))
    assert rows(path, "SELECT id, creator, instance_id FROM holds") == [("r1", "acme", "test")]
    first = entry("r1", changes={"final": False, "outcome": "upstream_died"})
    await database.ledger.settle("r1", [first, entry("r1", changes={"attempt": 2})])
    assert count(path, "holds") == 0
    assert rows(path, "SELECT request_id, attempt, final, cost_nano_usd FROM entries ORDER BY id") == [
        ("r1", 1, 0, COST),
        ("r1", 2, 1, COST),
    ]
    assert rows(path, "SELECT sum(calls), sum(attempts), sum(charge_nano_usd) FROM usage_daily") == [(1, 2, 2 * COST)]


async def test_only_the_first_settle_of_a_hold_posts(database: Database, path: Place) -> None:
    await database.ledger.hold(hold("r1"))
    settles = (database.ledger.settle("r1", [entry("r1", changes={"attempt": n})]) for n in range(1, 6))
    await asyncio.gather(*settles)
    await database.ledger.settle("r1", [entry("r1", changes={"attempt": 6})])
    await database.ledger.settle("unknown", [entry("unknown")])
    assert rows(path, "SELECT request_id, attempt FROM entries") == [("r1", 1)]


async def test_a_hold_ends_once_however_settles_and_sweeps_race(patient_database: Database, path: Place) -> None:
    """A thousand races: settled before, during and after a sweep; whoever comes first books it, and nobody else."""
    database = patient_database
    ids = [f"r{n:04d}" for n in range(1_000)]
    await asyncio.gather(*(database.ledger.hold(hold(each)) for each in ids))
    await asyncio.gather(*(database.ledger.settle(each, [entry(each)]) for each in ids[:100]))
    swept_first = await book_orphans(database, is_alive=lambda each: each >= ids[200])
    assert [row["request_id"] for row in swept_first] == ids[100:200]

    async def settle_late(request_id: str, turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        await database.ledger.settle(request_id, [entry(request_id)])

    late = [settle_late(each, turns % 97) for turns, each in enumerate(ids[100:])]
    await asyncio.gather(*late, *(book_orphans(database) for _ in range(3)))
    assert count(path, "holds") == 0
    booked = rows(
        path, "SELECT request_id, count(*) FROM entries WHERE kind = 'usage' GROUP BY request_id ORDER BY request_id"
    )
    assert booked == [(each, 1) for each in ids]
    outcomes = dict(rows(path, "SELECT outcome, count(*) FROM entries WHERE kind = 'usage' GROUP BY outcome"))
    assert outcomes["ok"] >= 100
    assert outcomes["crashed"] >= 100
    assert rows(path, "SELECT count(*) FROM entries WHERE flags = 'late_settle'") == [(outcomes["crashed"],)]
    # Every call said in the end what it did cost.
    assert rows(path, "SELECT sum(cost_nano_usd), sum(calls) FROM usage_daily") == [(1_000 * COST, 1_000)]


@pytest.mark.sqlite_only
async def test_calls_of_one_moment_share_transactions(database: Database, path: Place) -> None:
    statements: list[str] = []
    await database.run(lambda transactions: transactions.connection.raw.set_trace_callback(statements.append))
    await asyncio.gather(*(call(database, f"r{n}") for n in range(87)))
    await database.run(lambda transactions: transactions.connection.raw.set_trace_callback(None))
    assert count(path, "entries") == 87
    commits = statements.count("COMMIT")
    assert 2 <= commits <= 20


async def test_ids_follow_the_order_of_posting(database: Database, path: Place) -> None:
    for n in range(20):
        await call(database, f"r{n:02d}")
    assert [row[0] for row in rows(path, "SELECT request_id FROM entries ORDER BY id")] == [
        f"r{n:02d}" for n in range(20)
    ]


@pytest.mark.sqlite_only
def test_holds_alone_commit_without_waiting_for_the_disk_and_settles_do_not(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    migrate(path)
    transactions = Transactions(SqliteConnection(path, Ballast(tmp_path / "ballast")), "test")

    def synchronous_after(work: Work) -> int:
        assert transactions.apply([work], is_probe=False) is None
        assert work.error is None
        return int(transactions.connection.raw.execute("PRAGMA synchronous").fetchone()[0])

    normal, full = 1, 2
    for n in range(3):
        assert synchronous_after(HoldWork(hold(f"r{n}"), None, 0)) == normal
        assert synchronous_after(SettleWork(f"r{n}", [entry(f"r{n}")], None, 0)) == full
    transactions.close()


# A store that fails


@pytest.mark.parametrize(
    ("store", "fault"), [("sqlite", "locked"), ("sqlite", "unwritable"), ("postgres", "locked")], indirect=["store"]
)
async def test_a_failing_store_refuses_holds_and_keeps_settles(database: Database, path: Place, fault: str) -> None:
    await be_hasty(database)
    ledger = database.ledger
    await asyncio.gather(*(ledger.hold(hold(f"r{n}")) for n in range(5)))
    with locked(path) if fault == "locked" else unwritable():
        with pytest.raises(StoreError) as refused:
            await ledger.hold(hold("new"))
        assert refused.value.status == 503
        assert not ledger.is_ready
        settles = [spawn(ledger.settle(f"r{n}", [entry(f"r{n}")]), "settle") for n in range(5)]
        for settle in settles:
            with pytest.raises(StoreError):
                await settle
        with pytest.raises(StoreError):
            await ledger.hold(hold("newer"))
    # Settles are booked in their order, so this one returns when all have been.
    async with asyncio.timeout(10):
        while True:
            try:
                await ledger.settle("unknown", [])
                break
            except StoreError:
                continue
    assert count(path, "entries") == 5
    assert count(path, "holds") == 0
    assert ledger.is_ready
    await call(database, "after")
    assert rows(path, "SELECT sum(calls), sum(cost_nano_usd) FROM usage_daily") == [(6, 6 * COST)]


async def test_a_caller_may_change_the_error_it_got(database: Database, path: Place) -> None:
    """Each caller adds headers of its own to the error."""
    await be_hasty(database)
    with locked(path):
        results = await asyncio.gather(*(database.ledger.hold(hold(f"r{n}")) for n in range(3)), return_exceptions=True)
    assert all(isinstance(result, StoreError) for result in results)
    assert len({id(result) for result in results}) == 3


async def test_a_hold_given_up_does_not_come_back_when_the_store_does(database: Database, path: Place) -> None:
    """Its caller was told that it failed and dialled nobody, so nothing may be booked for it."""
    with locked(path):
        with pytest.raises(StoreError):
            await database.ledger.hold(hold("late"))
        assert not database.ledger.is_ready
    async with asyncio.timeout(10):
        await database.run(lambda transactions: None)
    await database.run(lambda transactions: None)
    assert count(path, "holds") == 0
    assert count(path, "entries") == 0
    await call(database, "after")


async def test_a_task_that_was_not_begun_is_not_done_after_its_caller_was_told_so(
    database: Database, path: Place
) -> None:
    """A caller who tries again must not find it done twice."""

    def posting(name: str) -> Callable[[Transactions], object]:
        return lambda transactions: transactions.post([entry(name)])

    with locked(path):
        begun = spawn(database.run(posting("begun")), "begun")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        waiting = [spawn(database.run(posting(f"w{n}")), "waiting") for n in range(3)]
        for told in (begun, *waiting):
            with pytest.raises(StoreError):
                await told
    await written(database)
    assert rows(path, "SELECT request_id FROM entries") == [("begun",)]


async def test_a_patient_write_says_what_became_of_it_and_its_work_goes_on_without_the_caller(
    database: Database, path: Place
) -> None:
    ledger = database.ledger
    heard = []

    async def work() -> None:
        heard.append(await ledger.run(lambda transactions: transactions.post([entry("r1")]), is_patient=True))

    with locked(path):
        with pytest.raises(StoreError):
            await ledger.to_its_end(work(), "work")
        async with asyncio.timeout(10):
            while ledger.is_ready:
                await asyncio.sleep(0.01)
        assert heard == []
    await written(database)
    assert rows(path, "SELECT id FROM entries") == [(entry_id,) for entry_id in heard[0]]


async def test_work_that_goes_on_without_its_caller_tells_the_log_how_it_ended(database: Database, path: Place) -> None:
    ledger = database.ledger

    def changes_its_mind(transactions: Transactions) -> None:
        transactions.post([entry("r1")])
        raise LookupError("changed its mind")

    with capture_logs() as logs:
        with locked(path), pytest.raises(StoreError):
            await ledger.to_its_end(ledger.run(changes_its_mind, is_patient=True), "rename")
        async with asyncio.timeout(10):
            while not (late := [log for log in logs if log["event"] == "write_ended_late"]):
                await asyncio.sleep(0)
    assert [(log["write"], log["is_done"]) for log in late] == [("rename", False)]
    assert "changed its mind" in late[0]["error"]


async def test_a_caller_that_leaves_does_not_end_its_work(database: Database, path: Place) -> None:
    ledger = database.ledger
    post = ledger.run(lambda transactions: transactions.post([entry("r1")]), is_patient=True)
    caller = spawn(ledger.to_its_end(post, "post"), "caller")
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await written(database)
    assert count(path, "entries") == 1


async def test_a_cancelled_settle_is_booked_all_the_same(database: Database, path: Place) -> None:
    await database.ledger.hold(hold("r1"))
    settle = spawn(database.ledger.settle("r1", [entry("r1")]), "settle")
    await asyncio.sleep(0)
    settle.cancel()
    with pytest.raises(asyncio.CancelledError):
        await settle
    await database.run(lambda transactions: None)
    assert count(path, "entries") == 1


@pytest.mark.sqlite_only
async def test_a_full_disk_gives_up_the_ballast_and_takes_it_back(database: Database, path: Place) -> None:
    assert isinstance(path, Path)
    ballast = path.parent / "ballast"
    assert ballast.stat().st_size >= 2**20

    def fill(transactions: Transactions) -> None:
        (pages,) = transactions.connection.raw.execute("PRAGMA page_count").fetchone()
        transactions.connection.raw.execute(f"PRAGMA max_page_count = {pages}").close()

    await database.run(fill)

    async def hold_until_refused() -> None:
        for n in range(1_000):
            await database.ledger.hold(hold(f"r{n}"))

    with capture_logs() as logs:
        with pytest.raises(StoreError, match="full"):
            await hold_until_refused()
        async with asyncio.timeout(10):
            await database.run(
                lambda transactions: transactions.connection.raw.execute("PRAGMA max_page_count = 100000")
            )
            while not database.ledger.is_ready:
                await asyncio.sleep(0)
    events = [log["event"] for log in logs]
    assert events.index("ballast_dropped") < events.index("ballast_restored")
    assert ballast.stat().st_size >= 2**20
    await call(database, "after")


# A row that cannot be written

POISON: dict[str, dict[str, Any]] = {
    "no value": {"feature": None},
    "text that is no text": {"feature": "\ud800"},
}
POISON_ENTRY: dict[str, dict[str, Any]] = {
    "a float": {"cost_nano_usd": 1.5},
    "above 64 bits": {"cost_nano_usd": 2**63},
    "no number": {"latency_ms": "fast"},
}
BOOKED_ALREADY = {"attribution": entry("first").attribution}
"""A file has a unique index on calls. PostgreSQL cannot: that a call is booked once is known by its hold alone."""


@pytest.mark.parametrize(
    ("store", "changes"),
    [
        *(
            pytest.param(store, changes, id=f"{store}-{name}")
            for store in BOTH
            for name, changes in POISON_ENTRY.items()
        ),
        pytest.param("sqlite", BOOKED_ALREADY, id="sqlite-booked already"),
    ],
    indirect=["store"],
)
async def test_a_bad_entry_fails_alone(database: Database, path: Place, changes: dict[str, Any]) -> None:
    await call(database, "first")
    ids = [f"r{n}" for n in range(20)]
    await asyncio.gather(*(database.ledger.hold(hold(each)) for each in ids))
    made = {each: entry(each) for each in ids}
    made["r7"] = made["r7"]._replace(**changes)
    with capture_logs() as logs:
        results = await asyncio.gather(
            *(database.ledger.settle(each, [made[each]]) for each in ids),
            *(database.ledger.hold(hold(f"h{n}")) for n in range(20)),
            return_exceptions=True,
        )
    assert [index for index, result in enumerate(results) if result is not None] == [7]
    assert isinstance(results[7], StoreError)
    assert count(path, "entries") == 20
    assert [row[0] for row in rows(path, "SELECT id FROM holds WHERE id LIKE 'r%'")] == ["r7"]
    assert count(path, "holds") == 21
    assert rows(path, "SELECT sum(calls), sum(cost_nano_usd) FROM usage_daily") == [(20, 20 * COST)]
    assert [log["request_id"] for log in logs if log["event"] == "ledger_row_refused"] == ["r7"]
    assert database.ledger.is_ready


@pytest.mark.parametrize("fields", POISON.values(), ids=POISON)
async def test_a_bad_hold_fails_alone(database: Database, path: Place, fields: dict[str, Any]) -> None:
    results = await asyncio.gather(
        database.ledger.hold(hold("good")),
        database.ledger.hold(hold("bad", **fields)),
        database.ledger.hold(hold("fine")),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [type(None), StoreError, type(None)]
    assert {row[0] for row in rows(path, "SELECT id FROM holds")} == {"good", "fine"}


async def test_a_row_a_trigger_refuses_fails_alone(database: Database, path: Place) -> None:
    refuse_entries(path, "NEW.feature = 'bad'")
    results = await asyncio.gather(
        *(call(database, f"r{n}", feature="bad" if n == 3 else "good") for n in range(8)), return_exceptions=True
    )
    assert [index for index, result in enumerate(results) if result is not None] == [3]
    assert count(path, "entries") == 7


# Other writes


async def test_statements_are_written_together_or_not_at_all(database: Database, path: Place) -> None:
    first = insert(creators).values(id="acme", **CREATOR).returning(*creators.c)
    renamed = update(creators).where(creators.c.id == "acme").values(name="Acme")
    made, nothing = await database.write(first, renamed)
    assert made[0]["id"] == "acme"
    assert made[0]["is_active"] is True
    assert nothing == []
    with pytest.raises(Conflict) as conflict:
        await database.write(
            insert(creators).values(id="other", **CREATOR), insert(creators).values(id="acme", **CREATOR)
        )
    assert conflict.value.status == 409
    assert rows(path, "SELECT id, name FROM creators") == [("acme", "Acme")]


async def test_a_reference_to_nothing_is_a_conflict(database: Database) -> None:
    key = {"id": "k", "creator_id": "nobody", "account_id": "a", "digest": "d", "last4": "1234", "created_at": 1}
    with pytest.raises(Conflict):
        await database.write(insert(virtual_keys).values(**key))
    assert database.ledger.is_ready


async def test_a_task_that_raises_leaves_nothing(database: Database, path: Place) -> None:
    def task(transactions: Transactions) -> None:
        transactions.post([entry("r1")])
        raise LookupError("changed its mind")

    with pytest.raises(LookupError):
        await database.run(task)
    assert count(path, "entries") == 0
    assert count(path, "usage_daily") == 0
    await database.ledger.post([entry("r1")])
    assert rows(path, "SELECT sum(calls) FROM usage_daily") == [(1,)]


@pytest.mark.sqlite_only
async def test_entries_without_a_hold_are_posted_once(database: Database, path: Place) -> None:
    hit = entry("hit", changes={"cached": True, "cost_nano_usd": 0, "charge_nano_usd": 0, "payer_amount": 0})
    (first,) = await database.ledger.post([hit])
    with pytest.raises(Conflict):
        await database.ledger.post([hit])
    (refund,) = await database.ledger.post([entry("refund", changes={"kind": "refund"})], corrects=first)
    assert rows(path, "SELECT id, corrects FROM entries ORDER BY id") == [(first, None), (refund, first)]


async def test_refusals_are_counted_by_creator_day_and_reason(prepared: Place) -> None:
    path = prepared
    database = await opened(path)
    for creator, reason in [("acme", "rate_limit"), ("acme", "rate_limit"), ("acme", "quota"), ("zeta", "quota")]:
        database.ledger.count_refusal(creator, reason)
    await database.close()
    database.ledger.count_refusal("acme", "too_late")
    assert rows(path, "SELECT creator, reason, count FROM refusals_daily ORDER BY 1, 2") == [
        ("acme", "quota", 1),
        ("acme", "rate_limit", 2),
        ("zeta", "quota", 1),
    ]


async def test_refusals_survive_a_failing_store(database: Database, path: Place) -> None:
    await be_hasty(database)
    database.ledger.count_refusal("acme", "quota")
    with locked(path):
        async with asyncio.timeout(10):
            while database.ledger.is_ready:  # the flush, a second later, finds the store locked
                await asyncio.sleep(0.01)
    database.ledger.count_refusal("acme", "quota")
    async with asyncio.timeout(10):
        while not rows(path, "SELECT 1 FROM refusals_daily WHERE count = 2"):
            await asyncio.sleep(0.01)
    assert (await database.fetch_one(select(func.sum(refusals_daily.c.count).label("n")))) == {"n": 2}


async def test_a_refusal_written_late_is_counted_once(database: Database, path: Place) -> None:
    database.ledger.count_refusal("acme", "quota")
    with locked(path):
        async with asyncio.timeout(10):
            while database.ledger.is_ready:  # the flush waits for the lock, and a caller would have given up
                await asyncio.sleep(0.01)
    await written(database)
    await database.close()
    assert rows(path, "SELECT reason, count FROM refusals_daily") == [("quota", 1)]


async def test_close_commits_what_is_queued_and_refuses_what_comes_later(database: Database, path: Place) -> None:
    await asyncio.gather(*(database.ledger.hold(hold(f"r{n}")) for n in range(50)))
    settles = [spawn(database.ledger.settle(f"r{n}", [entry(f"r{n}")]), "settle") for n in range(50)]
    await asyncio.sleep(0)
    await database.close()
    await asyncio.gather(*settles)
    assert count(path, "entries") == 50
    for late in (database.ledger.hold(hold("x")), database.ledger.settle("r1", []), database.run(lambda t: None)):
        with pytest.raises(StoreError):
            await late
    with pytest.raises(StoreError):
        await database.fetch_all(select(entries.c.id))
    await database.close()
