"""Settles on local disk while PostgreSQL is away: their callers are told so, and they are posted exactly once."""

import asyncio
import os
import shutil
import stat
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway.config import Settings
from gateway.errors import ConfigError, StoreError
from gateway.ledger import spool_file
from gateway.ledger.database import Database
from gateway.ledger.orphans import book_orphans
from gateway.ledger.postgres.opening import SPOOL_FOLDER, open_postgres
from gateway.ledger.records import Entry
from gateway.ledger.spool_file import SpooledSettle, SpoolFile, settle_record
from gateway.ledger.statements import Statement
from gateway.tasks import spawn
from tests.ledger.books import (
    COST,
    MODEL,
    NOON,
    ORPHAN_COST,
    PRICE,
    Place,
    be_hasty,
    call,
    change,
    count,
    entry,
    hold,
    locked,
    rows,
    unwritable,
    verify,
)

STORES = ("postgres",)
BOOKED = "SELECT request_id, count(*), sum(cost_nano_usd) FROM entries GROUP BY request_id ORDER BY request_id"


def settle_of(request_id: str) -> SpooledSettle:
    return SpooledSettle(request_id, [entry(request_id)], "")


def left_by_a_dead_process(folder: Path, *settles: SpooledSettle) -> Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = SpoolFile.make(folder)
    file.append([(n, settle_record(n, settle)) for n, settle in enumerate(settles, start=1)])
    file.close()
    return file.path


def settles_in(file: SpoolFile) -> list[SpooledSettle]:
    return [settle for some in file.settles(2) for settle in some]


def taken_over(path: Path) -> SpoolFile:
    file = SpoolFile.take_over(path)
    assert file is not None
    return file


# The file


def test_a_settle_comes_back_exactly_as_it_was(tmp_path: Path) -> None:
    exact = entry("r1", at=NOON + timedelta(microseconds=123_457), metadata='{"a":"\u00e9"}', tags="a,b")
    odd = exact._replace(
        cost_nano_usd=2**63 - 1, payer_amount=-(2**63), ttft_ms=None, decision='{"limits":[]}', final=False, cached=True
    )
    settles = [SpooledSettle("r1", [exact, odd], "reserved"), SpooledSettle("r2", [], "")]
    path = left_by_a_dead_process(tmp_path, *settles)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    file = taken_over(path)
    found = settles_in(file)
    file.close()
    assert found == settles
    assert [type(part) for part in found[0].entries] == [Entry, Entry]
    assert [type(value) for value in found[0].entries[1]] == [type(value) for value in odd]


def test_whatever_a_crash_cut_off_is_no_record_and_all_before_it_is_there(tmp_path: Path) -> None:
    path = left_by_a_dead_process(tmp_path, *(settle_of(f"r{n}") for n in range(3)))
    whole = path.read_bytes()
    two = len(whole) - len(settle_record(3, settle_of("r2")))
    for end in (*range(two, len(whole), 97), two + 1, len(whole) - 1):
        path.write_bytes(whole[:end])
        file = taken_over(path)
        assert [settle.hold_id for settle in settles_in(file)] == ["r0", "r1"], end
        file.close()
    for garbage in (b"\0" * 64, b"\xff" * 64, b"\x10\0\0\0abcd" + b"x" * 16):
        path.write_bytes(whole + garbage)
        file = taken_over(path)
        assert file.count == 3
        file.close()
    path.write_bytes(whole[: two + 20] + b"?" + whole[two + 21 :])
    file = taken_over(path)
    assert [settle.hold_id for settle in settles_in(file)] == ["r0", "r1"]
    file.close()


def test_what_is_struck_is_gone_and_a_file_with_nothing_left_is_empty(tmp_path: Path) -> None:
    file = SpoolFile.make(tmp_path)
    file.append([(n, settle_record(n, settle_of(f"r{n}"))) for n in range(1, 5)])
    file.strike([1, 3])
    file.append([(5, settle_record(5, settle_of("r5")))])
    file.close()
    file = taken_over(file.path)
    assert [settle.hold_id for settle in settles_in(file)] == ["r2", "r4", "r5"]
    file.strike([2, 4, 5])
    assert file.path.stat().st_size == 0
    file.remove()
    assert list(tmp_path.iterdir()) == []


def test_an_append_that_fails_leaves_all_that_was_there_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = SpoolFile.make(tmp_path)
    monkeypatch.setattr(spool_file, "SPOOL_BYTES_MAX", 10_000)
    small = settle_record(1, settle_of("r1"))
    with unwritable(), pytest.raises(OSError, match="too large"):
        file.append([(2, small), (3, small)])
    assert file.path.stat().st_size == 0
    file.append([(1, small)])
    with pytest.raises(OSError, match="No space"):
        file.append([(n, small) for n in range(100)])
    file.append([(3, settle_record(3, settle_of("r3")))])
    file.close()
    file = taken_over(file.path)
    assert file.count == 2
    file.close()


def test_a_file_whose_process_lives_is_not_taken_over(tmp_path: Path) -> None:
    file = SpoolFile.make(tmp_path)
    file.append([(1, settle_record(1, settle_of("r1")))])
    assert SpoolFile.left_behind(tmp_path) == []
    file.close()
    (taken,) = SpoolFile.left_behind(tmp_path)
    assert SpoolFile.left_behind(tmp_path) == []
    taken.close()


# With the writer


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "own"


@asynccontextmanager
async def opened_with_spool(path: Place, data_dir: Path, *, settle_timeout_s: float = 2) -> AsyncIterator[Database]:
    settings = Settings(data_dir=data_dir, settle_timeout_s=settle_timeout_s)
    database = await open_postgres(str(path), settings=settings)
    await database.record_prices({MODEL: PRICE})
    try:
        yield database
    finally:
        await database.close()


def files_in(data_dir: Path) -> list[Path]:
    return sorted((data_dir / SPOOL_FOLDER).iterdir())


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not is_so():
            await asyncio.sleep(0.01)


async def test_while_the_database_is_away_settles_succeed_and_holds_are_refused(
    prepared: Place, data_dir: Path
) -> None:
    ids = [f"r{n:02d}" for n in range(40)]
    with capture_logs() as logs:
        async with opened_with_spool(prepared, data_dir, settle_timeout_s=30) as database:
            ledger = database.ledger
            await asyncio.gather(*(ledger.hold(hold(each)) for each in ids))
            await be_hasty(database)
            with locked(prepared):
                async with asyncio.timeout(10):
                    await asyncio.gather(*(ledger.settle(each, [entry(each)]) for each in ids[:30]))
                    with pytest.raises(StoreError):
                        await ledger.hold(hold("refused"))
                    assert not ledger.is_ready
                    await asyncio.gather(*(ledger.settle(each, [entry(each)]) for each in ids[30:]))
                assert ledger.spooled == 40
                assert count(prepared, "entries") == 0
                (file,) = files_in(data_dir)
                assert file.stat().st_size > 0
            await until(lambda: ledger.is_ready and ledger.spooled == 0)
            await call(database, "after")
            assert rows(prepared, BOOKED) == [(each, 1, COST) for each in ["after", *ids]]
            await until(lambda: file.stat().st_size == 0)
            assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        assert files_in(data_dir) == []
    events = [log["event"] for log in logs]
    assert events.count("settles_spooled") == events.count("spool_emptied") == 1
    assert verify(prepared).differences == []


async def test_a_settle_that_waits_for_long_is_spooled_before_anybody_knows_why(
    prepared: Place, data_dir: Path
) -> None:
    async with opened_with_spool(prepared, data_dir, settle_timeout_s=30) as database:
        await database.run(lambda transactions: transactions.rows(Statement("SET lock_timeout = 0", ())))
        await database.ledger.hold(hold("r1"))
        with locked(prepared), capture_logs() as logs:
            await database.ledger.settle("r1", [entry("r1")])
            assert database.ledger.is_ready
            assert [log["event"] for log in logs] == ["settles_spooled"]
        await until(lambda: database.ledger.spooled == 0)
    assert rows(prepared, BOOKED) == [("r1", 1, COST)]


async def test_it_is_told_once_when_all_that_was_spooled_is_in_the_ledger(prepared: Place, data_dir: Path) -> None:
    told: list[tuple[float, int]] = []
    async with opened_with_spool(prepared, data_dir, settle_timeout_s=30) as database:
        ledger = database.ledger
        ledger.tell_of_late_settles(lambda late_s: told.append((late_s, count(prepared, "entries"))))
        await call(database, "in time")
        await asyncio.gather(*(ledger.hold(hold(f"r{n}")) for n in range(600)))
        await be_hasty(database)
        with locked(prepared):
            await asyncio.gather(*(ledger.settle(f"r{n}", [entry(f"r{n}")]) for n in range(600)))
            assert told == []
        await until(lambda: ledger.spooled == 0)
        assert [entries for _, entries in told] == [601]
        assert 0 < told[0][0] < 30


async def test_what_others_left_in_the_spool_is_told_whoever_asks_later(prepared: Place, data_dir: Path) -> None:
    async with opened_with_spool(prepared, data_dir) as database:
        await database.ledger.hold(hold("r1"))
    left_by_a_dead_process(data_dir / SPOOL_FOLDER, settle_of("r1"))
    told: list[float] = []
    async with opened_with_spool(prepared, data_dir) as database:
        database.ledger.tell_of_late_settles(told.append)
        await until(lambda: told == [float("inf")])
    assert rows(prepared, BOOKED) == [("r1", 1, COST)]


async def test_settles_of_one_moment_share_the_wait_for_the_disk(
    prepared: Place, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    fsync = os.fsync

    def counted(handle: int) -> None:
        synced.append(handle)
        fsync(handle)

    async with opened_with_spool(prepared, data_dir, settle_timeout_s=30) as database:
        await asyncio.gather(*(database.ledger.hold(hold(f"r{n}")) for n in range(100)))
        await be_hasty(database)
        with locked(prepared):
            with pytest.raises(StoreError):
                await database.ledger.hold(hold("tells that it is in trouble"))
            monkeypatch.setattr(os, "fsync", counted)
            await asyncio.gather(*(database.ledger.settle(f"r{n}", [entry(f"r{n}")]) for n in range(100)))
        assert 1 <= len(synced) <= 3


async def test_where_the_spools_disk_is_full_too_callers_are_told_and_nothing_is_lost(
    prepared: Place, data_dir: Path
) -> None:
    async with opened_with_spool(prepared, data_dir) as database:
        ledger = database.ledger
        await asyncio.gather(*(ledger.hold(hold(f"r{n}")) for n in range(10)))
        await be_hasty(database)
        with locked(prepared):
            with unwritable(), capture_logs() as logs:
                settles = [spawn(ledger.settle(f"r{n}", [entry(f"r{n}")]), "settle") for n in range(10)]
                told = await asyncio.gather(*settles, return_exceptions=True)
                assert {type(each) for each in told} == {StoreError}
                assert ledger.spooled == 0
            await until(lambda: ledger.spooled == 10)  # asked for again as long as they wait
        await until(lambda: ledger.spooled == 0)
    assert [log["event"] for log in logs].count("spool_failed") == 1
    assert rows(prepared, BOOKED) == [(f"r{n}", 1, COST) for n in range(10)]


async def test_a_stop_while_the_database_is_away_leaves_all_to_the_next_start(prepared: Place, data_dir: Path) -> None:
    with capture_logs() as logs:
        async with opened_with_spool(prepared, data_dir, settle_timeout_s=30) as database:
            ledger = database.ledger
            await asyncio.gather(*(ledger.hold(hold(f"r{n}")) for n in range(300)))
            await be_hasty(database)
            with locked(prepared):
                settles = [spawn(ledger.settle(f"r{n}", [entry(f"r{n}")]), "settle") for n in range(300)]
                await asyncio.sleep(0)
                await ledger.close(0.1)
                assert await asyncio.gather(*settles) == [None] * 300
        assert len(files_in(data_dir)) == 1
        assert count(prepared, "entries") in (0, 300)  # what had been sent when it was stopped may still arrive
        async with opened_with_spool(prepared, data_dir) as database:
            assert await book_orphans(database) == []
            assert database.ledger.spooled == 0
    assert [log["settles"] for log in logs if log["event"] == "ledger_closed_with_spool_left"] == [300]
    assert [log["settles"] for log in logs if log["event"] == "spool_replayed"] == [300]
    assert files_in(data_dir) == []
    assert rows(prepared, "SELECT count(*), count(DISTINCT request_id), sum(cost_nano_usd) FROM entries") == [
        (300, 300, 300 * COST)
    ]
    assert verify(prepared).differences == []


async def test_what_was_committed_before_a_crash_is_not_posted_again(prepared: Place, data_dir: Path) -> None:
    async with opened_with_spool(prepared, data_dir, settle_timeout_s=30) as database:
        await asyncio.gather(*(database.ledger.hold(hold(f"r{n}")) for n in range(5)))
        await be_hasty(database)
        with locked(prepared):
            await asyncio.gather(*(database.ledger.settle(f"r{n}", [entry(f"r{n}")]) for n in range(5)))
            (file,) = files_in(data_dir)
            copy = shutil.copy(file, data_dir / "before")
        await until(lambda: database.ledger.spooled == 0)
    for name in ("a", "b"):
        shutil.copy(copy, data_dir / SPOOL_FOLDER / f"{name}.spool")
    async with opened_with_spool(prepared, data_dir):
        pass
    assert files_in(data_dir) == []
    assert rows(prepared, BOOKED) == [(f"r{n}", 1, COST) for n in range(5)]
    assert verify(prepared).differences == []


async def test_a_spool_that_comes_late_corrects_what_was_booked_as_crashed(prepared: Place, data_dir: Path) -> None:
    async with opened_with_spool(prepared, data_dir) as database:
        await database.ledger.hold(hold("r1"))
        await book_orphans(database)
    left_by_a_dead_process(data_dir / SPOOL_FOLDER, settle_of("r1"), settle_of("r1"))
    async with opened_with_spool(prepared, data_dir):
        pass
    assert rows(prepared, "SELECT kind, cost_nano_usd FROM entries ORDER BY id") == [
        ("usage", ORPHAN_COST),
        ("adjustment", COST - ORPHAN_COST),
    ]
    assert verify(prepared).differences == []


async def test_a_spooled_settle_whose_hold_the_server_forgot_is_posted_once(prepared: Place, data_dir: Path) -> None:
    """The server waits for its disk with settles only: a power cut can take a hold whose settle is on this disk."""
    folder = data_dir / SPOOL_FOLDER
    free = SpooledSettle("free", [entry("free", changes=dict.fromkeys(("cost_nano_usd", "charge_nano_usd"), 0))], "")
    free = free._replace(entries=[free.entries[0]._replace(payer_amount=0)])
    left_by_a_dead_process(folder, settle_of("r1"), settle_of("r1"), free)
    left_by_a_dead_process(folder, settle_of("r1"))
    async with opened_with_spool(prepared, data_dir) as database:
        await database.ledger.settle("unknown", [entry("unknown")])
    assert rows(prepared, BOOKED) == [("r1", 1, COST)]


async def test_nothing_is_added_to_a_month_that_is_closed(prepared: Place, data_dir: Path) -> None:
    change(prepared, "INSERT INTO meta (key, value) VALUES ('month_closed:2026-05', '1')")
    left_by_a_dead_process(data_dir / SPOOL_FOLDER, settle_of("r1"))
    with capture_logs() as logs:
        async with opened_with_spool(prepared, data_dir):
            pass
    assert count(prepared, "entries") == 0
    assert [log["request_id"] for log in logs if log["event"] == "settle_of_closed_month"] == ["r1"]


async def test_a_file_of_another_version_stays_where_it_is(prepared: Place, data_dir: Path) -> None:
    path = left_by_a_dead_process(data_dir / SPOOL_FOLDER, settle_of("r1"))
    file = taken_over(path)
    file.append([(2, spool_file._record({"number": 2, "hold_id": "r2", "frees": "", "entries": [{"new": 1}]}))])
    file.close()
    with capture_logs() as logs:
        async with opened_with_spool(prepared, data_dir):
            pass
    assert files_in(data_dir) == [path]
    assert [log["file"] for log in logs if log["event"] == "spool_unreadable"] == [path.name]


async def test_a_folder_that_cannot_be_used_stops_the_start(prepared: Place, data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / SPOOL_FOLDER).touch()
    with pytest.raises(ConfigError, match="GATEWAY_DATA_DIR"):
        await open_postgres(str(prepared), settings=Settings(data_dir=data_dir))


ROOT = Path(__file__).parents[2]
CHILD = """
import asyncio, sys
from pathlib import Path
from gateway.config import Settings
from gateway.ledger.postgres.opening import open_postgres
from tests.ledger.books import entry, hold

async def main(url, data_dir):
    database = await open_postgres(url, settings=Settings(data_dir=Path(data_dir), settle_timeout_s=30))
    await asyncio.gather(*(database.ledger.hold(hold(f"r{n:02d}")) for n in range(50)))
    print("held", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await asyncio.gather(*(database.ledger.settle(f"r{n:02d}", [entry(f"r{n:02d}")]) for n in range(50)))
    print("settled", flush=True)
    await asyncio.sleep(60)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_process_killed_while_the_database_is_away_has_lost_nothing(prepared: Place, data_dir: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, str(prepared), str(data_dir), stdin=PIPE, stdout=PIPE, stderr=DEVNULL, cwd=ROOT
    )
    assert process.stdin is not None
    assert process.stdout is not None

    async def says(word: bytes) -> None:
        async with asyncio.timeout(30):
            while word not in await process.stdout.readline():  # type: ignore[union-attr]
                assert process.returncode is None

    try:
        await says(b"held")
        with locked(prepared):
            process.stdin.write(b"\n")
            await says(b"settled")
            process.kill()
            await process.wait()
            change(prepared, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name ~ 'writer'")
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
    assert count(prepared, "entries") == 0
    async with opened_with_spool(prepared, data_dir) as database:
        assert await book_orphans(database) == []
    assert files_in(data_dir) == []
    assert rows(prepared, BOOKED) == [(f"r{n:02d}", 1, COST) for n in range(50)]
    assert verify(prepared).differences == []
