"""A ledger copied from SQLite to PostgreSQL: every row of every table, killed at any moment and gone on with, and refused
wherever something would be lost, mixed or served twice."""

import asyncio
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from asyncpg import IntegrityConstraintViolationError  # type: ignore[import-untyped]
from typer.testing import CliRunner, Result

from gateway.accounts import Accounts
from gateway.auth import Authenticator
from gateway.cli import app
from gateway.errors import ConfigError, GatewayError
from gateway.ledger.copying.copier import Outcome, Progress, copy_ledger
from gateway.ledger.copying.source import open_source
from gateway.ledger.copying.tables import MARK, TABLES
from gateway.ledger.migration import HEAD
from gateway.ledger.postgres.opening import open_postgres, upgrade_postgres
from gateway.ledger.schema import responses
from gateway.lock import DataLock
from gateway.plans import load_plans
from gateway.secrets import Secrets
from tests.account_world import ROOT, bearer
from tests.ledger.books import call, change, count, entry, hold, opened, rows, verify
from tests.ledger.copy_world import MONTHS, Ledger, everything, make_ledger, make_tables
from tests.servers.postgres_server import PASSWORD, PostgresServer

Cli = Callable[..., Result]

KILLED = """
import asyncio, os, random, signal, sys
from pathlib import Path
import alembic.command
from asyncpg import Connection
from gateway.ledger.copying.copier import copy_ledger
from gateway.ledger.copying.source import open_source

path, url, steps = Path(sys.argv[1]), sys.argv[2], random.Random(int(sys.argv[3]))

def counted(name, allowed, is_sent):
    method = getattr(Connection, name)

    async def step(*arguments, **options):
        allowed[0] -= 1
        if not allowed[0] and is_sent:
            asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGKILL)
        elif not allowed[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return await method(*arguments, **options)

    setattr(Connection, name, step)

for _ in range(100):
    allowed, is_sent = [steps.randint(1, 160)], steps.random() < 0.5
    child = os.fork()
    if not child:
        for name in ("execute", "fetch", "fetchval", "copy_records_to_table"):
            counted(name, allowed, is_sent)
        with open_source(path) as source:
            assert copy_ledger(source, url, chunk_rows=5).is_same
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(code, flush=True)
    if code != -signal.SIGKILL:
        break
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    return make_ledger(tmp_path_factory.mktemp("made"))


@pytest.fixture
def ledger(made: Ledger, tmp_path: Path) -> Ledger:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    for name in ("gateway.db", "secret"):
        shutil.copy(made.path.with_name(name), folder / name)
    return Ledger(folder / "gateway.db", made.key)


@pytest.fixture
def target(postgres: PostgresServer, template: str, tmp_path: Path) -> Iterator[str]:
    """A database with tables and nothing in them, which takes far less time to make than to migrate."""
    name = f"copy_{tmp_path.name}".lower()[-60:]
    yield postgres.create_database(name, template=template)
    postgres.drop_database(name)


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setenv("GATEWAY_DATA_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.delenv("GATEWAY_SECRET", raising=False)
    monkeypatch.delenv("GATEWAY_DATABASE_URL", raising=False)
    monkeypatch.setenv("COLUMNS", "250")

    def run(*arguments: str) -> Result:
        result = CliRunner().invoke(app, ("db", "copy", *arguments))
        assert PASSWORD not in result.output + result.stderr + said(result)
        return result

    return run


def said(result: Result) -> str:
    exc = result.exception
    return exc.message if isinstance(exc, GatewayError) else str(exc or "")


def copied(ledger: Ledger, url: str, *, on_progress: Progress | None = None, chunk_rows: int = 1_000) -> Outcome:
    with open_source(ledger.path) as source:
        return copy_ledger(source, url, on_progress=on_progress, chunk_rows=chunk_rows)


def assert_same(ledger: Ledger, url: str) -> None:
    mine, theirs = everything(ledger.path), everything(url)
    for name, stored in mine.items():
        assert theirs[name] == stored, name
    for place in (ledger.path, url):
        assert verify(place).differences == []


class Stopped(Exception):
    """Raised in the middle of a copy."""


def stop_after(chunks: int) -> Progress:
    left = [chunks]

    def stop(table: str, done: int, total: int) -> None:
        left[0] -= 1
        if not left[0]:
            raise Stopped

    return stop


# What is copied


def test_every_row_of_every_table_is_copied_as_it_is(ledger: Ledger, database_url: str) -> None:
    outcome = copied(ledger, database_url, chunk_rows=7)
    assert (outcome.is_same, outcome.differences, outcome.was_complete) == (True, 0, False)
    assert_same(ledger, database_url)
    stored = everything(ledger.path)
    assert {name for name, found in stored.items() if not found} <= {"holds", "dropped_months", "dropped_sums"}
    assert outcome.rows == sum(map(len, stored.values()))
    assert [each.target for each in outcome.tables] == [len(stored[str(table.name)]) for table in TABLES]
    assert count(database_url, "instances") == count(database_url, "leases") == count(database_url, "sessions") == 0


def test_entries_lie_in_the_tables_of_their_months_and_stay_as_they_are(ledger: Ledger, target: str) -> None:
    copied(ledger, target)
    lying = Counter(name for (name,) in rows(target, "SELECT tableoid::regclass::text FROM entries"))
    for month in MONTHS:
        assert lying[f"entries_{month.replace('-', '_')}"] == 4
    assert lying["entries_other"] == 0
    month = f"entries_{MONTHS[0].replace('-', '_')}"
    for sql in ("UPDATE entries SET cost_nano_usd = 1", "DELETE FROM entries", f"TRUNCATE {month}"):
        with pytest.raises(IntegrityConstraintViolationError, match="never changed"):
            change(target, sql)


async def test_what_was_copied_serves_the_keys_of_before(ledger: Ledger, target: str) -> None:
    await asyncio.to_thread(copied, ledger, target)
    database, secrets, plans = await open_postgres(target, instance_id="test"), Secrets(ROOT), load_plans()
    try:
        authenticator = Authenticator(database, plans, secrets)
        assert (await authenticator.authenticate(bearer(ledger.key))).creator == "acme"
        assert await Accounts(database, plans, secrets, authenticator).record_secret(replace=False)
        await call(database, "after", at=datetime.now(UTC))
    finally:
        await database.close()
    report = verify(target)
    assert (report.entries, report.differences) == (count(ledger.path, "entries") + 1, [])


def test_an_empty_ledger_is_copied_too(empty: Path, target: str) -> None:
    outcome = copied(Ledger(empty, ""), target)
    assert (outcome.is_same, outcome.rows, outcome.months) == (True, 0, [])


def test_long_rows_travel_a_few_at_a_time(ledger: Ledger) -> None:
    change(ledger.path, "DELETE FROM responses WHERE id NOT IN (SELECT id FROM responses LIMIT 5)")
    change(ledger.path, "UPDATE responses SET body = ?, input = ''", "x" * (5 * 2**20))
    with open_source(ledger.path) as source:
        assert [len(chunk.rows) for chunk in source.chunks(responses, None, 1_000)] == [2, 2, 1]


# Killed, and gone on with


@pytest.mark.parametrize("seed", [1])
def test_killed_again_and_again_it_goes_on_and_ends_the_same(ledger: Ledger, database_url: str, seed: int) -> None:
    """Each process dies by SIGKILL before one of its statements, or with that under way to the server."""
    run = [sys.executable, "-c", KILLED, str(ledger.path), database_url, str(seed)]
    codes = subprocess.run(run, capture_output=True, text=True, timeout=60, check=True).stdout.split()
    assert codes == [str(-signal.SIGKILL)] * (len(codes) - 1) + ["0"]
    assert len(codes) > 3
    assert_same(ledger, database_url)


def test_what_is_there_is_not_copied_again(ledger: Ledger, target: str) -> None:
    with pytest.raises(Stopped):
        copied(ledger, target, on_progress=stop_after(12), chunk_rows=5)
    there = sum(map(len, everything(target).values()))
    outcome = copied(ledger, target)
    assert 0 < there < sum(map(len, everything(ledger.path).values())) == there + outcome.rows
    assert_same(ledger, target)


async def test_nobody_is_served_from_half_a_ledger(ledger: Ledger, target: str) -> None:
    with pytest.raises(Stopped):
        await asyncio.to_thread(copied, ledger, target, on_progress=stop_after(3), chunk_rows=5)
    with pytest.raises(ConfigError, match="unfinished copy"):
        await open_postgres(target)
    await asyncio.to_thread(copied, ledger, target)
    await (await open_postgres(target)).close()


def test_a_finished_copy_says_so_and_is_verified_again(cli: Cli, ledger: Ledger, target: str) -> None:
    first, second = cli(ledger.url, target), cli(ledger.url, target)
    assert (first.exit_code, second.exit_code) == (0, 0), said(first) + said(second)
    assert "0 differences" in first.stdout
    assert "was complete already; the same as the source" in second.stdout
    told = orjson.loads(cli(ledger.url, target, "--json").stdout)
    assert (told["was_complete"], told["rows"], told["is_same"], told["differences"]) == (True, 0, True, 0)
    entries = count(ledger.path, "entries")
    assert f"entries: {entries} of {entries}\n" in first.stderr


def test_a_gateway_that_only_started_there_leaves_it_a_finished_copy(ledger: Ledger, target: str) -> None:
    copied(ledger, target)
    change(target, "INSERT INTO meta VALUES ('probed_at', '1')")
    assert copied(ledger, target).is_same


def test_nothing_is_copied_into_what_was_used_since(ledger: Ledger, target: str) -> None:
    copied(ledger, target)
    _booked(target)
    before = everything(target)
    with pytest.raises(ConfigError, match="was used since"):
        copied(ledger, target)
    assert everything(target) == before


# Refused


def _booked(place: Path | str, *, is_open: bool = False) -> None:
    async def book() -> None:
        database = await opened(place)
        await (database.ledger.hold(hold("later")) if is_open else database.ledger.post([entry("later")]))
        await database.close()

    asyncio.run(book())


def _tables_of(url: str) -> list[Any]:
    return rows(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")


def test_open_calls_are_ended_first(cli: Cli, ledger: Ledger, database_url: str) -> None:
    _booked(ledger.path, is_open=True)
    refused = cli(ledger.url, database_url)
    assert "1 open calls" in said(refused)
    assert "gateway serve" in said(refused)
    assert _tables_of(database_url) == []


def test_a_running_gateway_is_stopped_first(cli: Cli, ledger: Ledger, database_url: str) -> None:
    with DataLock(ledger.path.parent):
        refused = cli(ledger.url, database_url)
    assert "stop it" in said(refused)
    assert _tables_of(database_url) == []
    assert cli(ledger.url, database_url).exit_code == 0


def test_a_gateway_whose_data_folder_is_another_one_is_locked_out_too(
    cli: Cli, ledger: Ledger, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_DATABASE_URL", ledger.url)
    with DataLock(tmp_path / "elsewhere"):
        assert str(tmp_path / "elsewhere") in said(cli(ledger.url, target))


def test_what_is_written_during_the_copy_is_noticed(ledger: Ledger, target: str) -> None:
    def write(table: str, done: int, total: int) -> None:
        if table == "entries":
            change(ledger.path, "UPDATE creators SET is_active = 0")

    with pytest.raises(ConfigError, match="wrote to"):
        copied(ledger, target, on_progress=write)
    with pytest.raises(ConfigError, match="this ledger as it was before"):
        copied(ledger, target)


async def test_a_target_that_a_gateway_uses_is_left_alone(ledger: Ledger, target: str) -> None:
    database = await open_postgres(target)
    try:
        with pytest.raises(ConfigError, match="uses the target"):
            await asyncio.to_thread(copied, ledger, target)
    finally:
        await database.close()
    assert rows(target, "SELECT count(*) FROM entries") == [(0,)]


def test_a_ledger_is_never_added_to_another(ledger: Ledger, target: str) -> None:
    asyncio.run(upgrade_postgres(target))
    change(target, "INSERT INTO price_rows VALUES ('m', 'v', '{}', 1)")
    with pytest.raises(ConfigError, match=r"ledger of its own already \(price_rows\)"):
        copied(ledger, target)


def test_an_older_ledger_in_the_target_is_not_upgraded_on_the_way(ledger: Ledger, database_url: str) -> None:
    make_tables(database_url, "0004")
    change(database_url, "INSERT INTO meta VALUES ('secret_fingerprint', 'x')")
    with pytest.raises(ConfigError, match="older gateway"):
        copied(ledger, database_url)
    assert rows(database_url, "SELECT version_num FROM alembic_version") == [("0004",)]


@pytest.mark.parametrize("chunks", [3, None], ids=["unfinished", "finished"])
def test_another_ledger_does_not_go_on_with_it(ledger: Ledger, target: str, tmp_path: Path, chunks: int | None) -> None:
    other = tmp_path / "other"
    other.mkdir()
    if chunks is None:
        copied(ledger, target)
    else:
        with pytest.raises(Stopped):
            copied(ledger, target, on_progress=stop_after(chunks), chunk_rows=5)
    before = everything(target)
    with pytest.raises(ConfigError, match="of another ledger"):
        copied(make_ledger(other), target)
    assert everything(target) == before


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE virtual_keys SET revoked_at = 1",
        "UPDATE creators SET plan = 'other' WHERE id = 'acme'",
        "DELETE FROM notices",
        "INSERT INTO meta VALUES ('closed:2026-06', '1')",
    ],
)
def test_the_same_ledger_does_not_go_on_once_it_was_changed(ledger: Ledger, target: str, sql: str) -> None:
    """A key that was revoked between two runs would be good again in the copy."""
    with pytest.raises(Stopped):
        copied(ledger, target, on_progress=stop_after(3), chunk_rows=5)
    change(ledger.path, sql)
    with pytest.raises(ConfigError, match="this ledger as it was before"):
        copied(ledger, target)


def test_newer_tables_on_either_side_are_refused(cli: Cli, ledger: Ledger, target: str) -> None:
    asyncio.run(upgrade_postgres(target))
    change(target, "UPDATE alembic_version SET version_num = '9999'")
    assert "newer gateway (version '9999'" in said(cli(ledger.url, target))
    change(target, "UPDATE alembic_version SET version_num = ?", HEAD)
    change(ledger.path, "UPDATE alembic_version SET version_num = '9998'")
    assert "newer gateway (version '9998'" in said(cli(ledger.url, target))


def test_without_its_extra_it_says_what_to_install(
    cli: Cli, ledger: Ledger, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    assert "llm-gateway[postgres]" in said(cli(ledger.url, target))


WRONG: list[tuple[str, str, str]] = [
    ("postgresql://u:{password}@h/name", "sqlite:///x.db", "no way back"),
    ("mysql://u:{password}@h/name", "", "sqlite:///path"),
    ("sqlite:///", "", "sqlite:///path"),
    ("sqlite:///missing.db", "postgresql://u:{password}@h/name", "no database at missing.db"),
    ("{ledger}", "sqlite:///y.db", "db backup"),
    ("{ledger}", "", "GATEWAY_DATABASE_URL"),
    ("{ledger}", "redis://u:{password}@h/name", "%40"),
    ("{ledger}", "postgresql://u:{password}/@h/name", "%2F"),
    ("{ledger}", "postgresql://u:{password}@h", "%2F"),
    ("{ledger}", "postgresql://u:{password}@127.0.0.1:1/name", "postgresql://127.0.0.1:1/name"),
    ("{ledger}", "postgresql://u:{password}@127.0.0.1:1/name?sslmode={password}", "sslmode"),
]


@pytest.mark.parametrize(("source", "target", "told"), WRONG)
def test_a_wrong_address_is_told_without_its_password(
    cli: Cli, ledger: Ledger, source: str, target: str, told: str
) -> None:
    given = [text.format(password=PASSWORD, ledger=ledger.url) for text in (source, target) if text]
    refused = cli(*given)
    assert refused.exit_code == 1
    assert told in said(refused)


def test_a_password_that_the_server_repeats_is_struck_out(cli: Cli, ledger: Ledger, target: str) -> None:
    refused = cli(ledger.url, target.replace("//gateway:", f"//{PASSWORD}:"))
    assert '"***"' in said(refused)


# What is told


def test_the_target_may_come_from_the_environment(
    cli: Cli, ledger: Ledger, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_DATABASE_URL", target)
    monkeypatch.setenv("GATEWAY_SECRET", ROOT.decode())
    done = cli(ledger.url)
    assert done.exit_code == 0, said(done)
    assert "leave GATEWAY_SECRET as it is" in done.stdout
    assert_same(ledger, target)


def test_the_root_secret_is_named_by_its_place_and_never_shown(cli: Cli, ledger: Ledger, target: str) -> None:
    told = cli(ledger.url, target).stdout
    assert f"GATEWAY_SECRET to the content of {ledger.path.with_name('secret')}" in told
    assert ROOT.decode() not in told


def test_another_root_secret_is_refused_before_anything_is_copied(
    cli: Cli, ledger: Ledger, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_SECRET", "canary-of-another-root-secret-0123456789")
    refused = said(cli(ledger.url, database_url))
    assert f"set GATEWAY_SECRET to the content of {ledger.path.with_name('secret')}" in refused
    assert "canary" not in refused
    assert _tables_of(database_url) == []
    ledger.path.with_name("secret").unlink()
    assert "the root secret that its keys were made with" in said(cli(ledger.url, database_url))


def test_a_copy_that_is_not_the_same_is_told_and_never_served(ledger: Ledger, target: str) -> None:
    def lose_a_row(table: str, done: int, total: int) -> None:
        if table == "comparing":
            change(target, "UPDATE usage_daily SET charge_nano_usd = charge_nano_usd + 1 WHERE creator = 'zeta'")
            change(target, "DELETE FROM postings")

    outcome = copied(ledger, target, on_progress=lose_a_row)
    assert not outcome.is_same
    assert outcome.differences > 0
    assert [each.what for each in outcome.tables if each.source != each.target] == ["postings"]
    with pytest.raises(ConfigError, match="unfinished copy"):
        asyncio.run(open_postgres(target))


def test_sums_of_money_are_compared_by_month_and_creator(ledger: Ledger, target: str) -> None:
    """Entries of two creators that were exchanged on the way leave the numbers of rows, and the sums of the month, as they
    were."""

    def exchange(table: str, done: int, total: int) -> None:
        if table == "comparing":
            change(target, "ALTER TABLE entries DISABLE TRIGGER USER")
            change(target, "UPDATE entries SET creator = 'zeta' WHERE request_id = 'r0'")

    outcome = copied(ledger, target, on_progress=exchange)
    assert not outcome.is_same
    assert all(each.source == each.target for each in (*outcome.tables, *outcome.months))
    assert outcome.unequal_sums == [("2026-05", "acme"), ("2026-05", "zeta")]


def test_books_that_did_not_add_up_before_are_told(cli: Cli, ledger: Ledger, target: str) -> None:
    change(ledger.path, "UPDATE usage_daily SET cost_nano_usd = cost_nano_usd + 1 WHERE creator = 'zeta'")
    done = cli(ledger.url, target)
    assert done.exit_code == 1
    assert "the same as the source, but the books" in done.stdout
    assert rows(target, "SELECT value LIKE '%\"is_complete\":true}' FROM meta WHERE key = ?", MARK) == [(True,)]


def test_the_source_stays_as_it_is(cli: Cli, ledger: Ledger, target: str) -> None:
    before = everything(ledger.path)
    cli(ledger.url, target)
    assert everything(ledger.path) == before
    with closing(sqlite3.connect(ledger.path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
