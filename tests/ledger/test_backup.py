"""Copies of the database and their way back: of one instant, sound, complete before they have a name; and `kill -9` at
every step leaves a whole database under each name there is."""

import asyncio
import errno
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner, Result

from gateway.accounts import Accounts
from gateway.auth import Authenticator
from gateway.cli import app
from gateway.config import Settings
from gateway.errors import ConfigError, StoreError
from gateway.ledger import migration
from gateway.ledger.database import Database
from gateway.ledger.sqlite.backup import back_up, backup_name, contents_of
from gateway.ledger.sqlite.restore import restore
from gateway.ledger.verify import verify
from gateway.lock import DataLock
from gateway.secrets import load_secrets
from tests.ledger.books import MODEL, PRICE, change, count, entry, hold, rows

Cli = Callable[..., Result]
NOW = datetime(2026, 5, 14, 12, 0, tzinfo=UTC)
BYSTANDERS = {"secret", "lock", "ballast"}
KEPT = "gateway.db.before-restore-20260514T120000Z"

KILLED = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from gateway.ledger.sqlite.backup import back_up
from gateway.ledger.sqlite.restore import restore

what, count = sys.argv[1], 0

def work(database):
    if what == "backup":
        back_up(database, database.parent / "copy.db", secret=b"s" * 64)
    else:
        restore(database, database.parent.parent / "copy.db", datetime(2026, 5, 14, 12, tzinfo=UTC))

def die(event, arguments):
    global count
    if event in ("os.link", "os.rename", "os.remove", "fcntl.flock", "sqlite3.connect"):
        count += 1
        if count == allowed:
            os.kill(os.getpid(), signal.SIGKILL)

for allowed, folder in enumerate(sys.argv[2:], start=1):
    child = os.fork()
    if not child:
        sys.addaudithook(die)
        work(Path(folder) / "gateway.db")
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture
def data(empty: Path, tmp_path: Path) -> Path:
    """A data folder with a secret, and a database that knows it and has two entries and an open call."""
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    shutil.copy(empty, folder / "gateway.db")
    settings = Settings(data_dir=folder)
    secrets = load_secrets(settings)

    async def book() -> None:
        database = await Database.open(settings.database_path)
        await database.record_prices({MODEL: PRICE})
        await Accounts(database, {}, secrets, Authenticator(database, {}, secrets)).record_secret(replace=True)
        await database.ledger.post([entry("r1"), entry("r2", creator="zeta")])
        await database.ledger.hold(hold("r3"))
        await database.close()

    asyncio.run(book())
    return folder


@pytest.fixture
def path(data: Path) -> Path:
    return data / "gateway.db"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "backups"
    folder.mkdir()
    return folder


@pytest.fixture
def cli(data: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setenv("GATEWAY_DATA_DIR", str(data))
    monkeypatch.setenv("COLUMNS", "250")

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, arguments)

    return run


@pytest.fixture
def later(path: Path) -> Iterator[sqlite3.Connection]:
    """Somebody who has the database open, and has written what is in its log only."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA wal_autocheckpoint = 0").close()
        connection.execute("INSERT INTO meta VALUES ('later', 'only in the log')").close()
        assert path.with_name("gateway.db-wal").stat().st_size
        yield connection


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def is_later(database: Path) -> bool:
    return bool(rows(database, "SELECT 1 FROM meta WHERE key = 'later'"))


def assert_sound(database: Path) -> None:
    assert rows(database, "PRAGMA integrity_check") == [("ok",)]
    report = verify(database)
    assert (report.entries, report.differences_count) == (2, 0)


# Backup


def test_a_copy_in_a_folder_is_named_after_the_time_and_tells_what_is_in_it(cli: Cli, path: Path, folder: Path) -> None:
    made = cli("db", "backup", str(folder), "--json")
    assert made.exit_code == 0, made.output
    (copy,) = folder.iterdir()
    assert datetime.strptime(copy.name, "gateway-%Y%m%dT%H%M%SZ.db").replace(tzinfo=UTC) <= datetime.now(UTC)
    assert copy.stat().st_mode & 0o777 == 0o600
    ((last,),) = rows(path, "SELECT max(id) FROM entries")
    assert orjson.loads(made.output) == {
        "path": str(copy),
        "bytes": copy.stat().st_size,
        "version": migration.HEAD,
        "entries": 2,
        "last_entry_id": last,
        "open_calls": 1,
        "secret": None,
    }
    assert_sound(copy)


def test_names_sort_by_time() -> None:
    moments = [datetime(2026, 5, 14, 12, 0, tzinfo=UTC), datetime(2026, 5, 14, 12, 1, tzinfo=UTC)]
    moments += [datetime(2026, 11, 2, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)]
    assert sorted(map(backup_name, moments)) == list(map(backup_name, moments))


def test_the_secret_is_copied_beside_it_or_its_place_is_told(cli: Cli, data: Path, folder: Path) -> None:
    without = cli("db", "backup", str(folder / "a.db"))
    assert str(data / "secret") in without.output
    assert "cache.db" in without.output
    with_it = cli("db", "backup", str(folder / "b.db"), "--with-secret")
    assert with_it.exit_code == 0, with_it.output
    assert names(folder) == {"a.db", "b.db", "b.secret"}
    copy = folder / "b.secret"
    assert copy.read_bytes() == (data / "secret").read_bytes()
    assert copy.stat().st_mode & 0o777 == 0o600
    assert copy.read_text().strip() not in with_it.output


def test_a_secret_of_the_environment_is_not_written_down(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_SECRET", "canary-" * 8)
    refused = cli("db", "backup", str(folder), "--with-secret")
    assert "GATEWAY_SECRET" in str(refused.exception)
    told = cli("db", "backup", str(folder))
    assert "GATEWAY_SECRET" in told.output
    assert "canary" not in told.output
    assert len(names(folder)) == 1


def test_a_copied_secret_that_is_not_the_databases_is_told(cli: Cli, data: Path, folder: Path) -> None:
    (data / "secret").write_text("another secret of more than 32 characters")
    made = cli("db", "backup", str(folder), "--with-secret")
    assert made.exit_code == 0
    assert "another root secret" in made.stderr


@pytest.mark.parametrize("taken", ["copy.db", "copy.secret"])
def test_no_file_is_ever_replaced(cli: Cli, folder: Path, taken: str) -> None:
    (folder / taken).write_text("mine")
    refused = cli("db", "backup", str(folder / "copy.db"), "--with-secret")
    assert f"{folder / taken} exists already" in str(refused.exception)
    assert (folder / taken).read_text() == "mine"
    assert names(folder) == {taken}


def test_a_file_that_came_up_meanwhile_stays(path: Path, folder: Path) -> None:
    target = folder / "copy.db"

    def come_up(done: int, total: int) -> None:
        target.write_text("mine")

    with pytest.raises(ConfigError, match="exists already"):
        back_up(path, target, on_progress=come_up)
    assert target.read_text() == "mine"
    assert names(folder) == {"copy.db"}


def test_a_file_system_without_links_gets_a_copy_too(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    back_up(path, folder / "copy.db", secret=b"root")
    assert names(folder) == {"copy.db", "copy.secret"}
    assert_sound(folder / "copy.db")


def test_the_copy_has_what_was_committed_before_and_nothing_that_came_between_its_steps(
    path: Path, folder: Path, later: sqlite3.Connection
) -> None:
    """A writer that commits between all steps neither gets into the copy nor makes it begin again."""
    later.execute("CREATE TABLE filler (bytes BLOB)")
    later.execute("INSERT INTO filler VALUES (zeroblob(12000000))")
    seen: list[int] = []

    def write(done: int, total: int) -> None:
        seen.append(done)
        assert len(seen) < 50, "it begins again and again"
        later.execute("INSERT INTO meta VALUES (?, 'during the copy')", (f"step {len(seen)}",))

    back_up(path, folder / "copy.db", on_progress=write)
    assert len(seen) > 4
    assert seen == sorted(set(seen))
    assert is_later(folder / "copy.db")
    assert rows(folder / "copy.db", "SELECT count(*) FROM meta WHERE key LIKE 'step %'") == [(0,)]
    assert rows(path, "SELECT count(*) FROM meta WHERE key LIKE 'step %'") == [(len(seen),)]


def test_a_crashed_gateways_log_is_in_the_copy(path: Path, folder: Path, later: sqlite3.Connection) -> None:
    crashed = folder / "gateway.db"
    shutil.copy(path, crashed)
    shutil.copy(f"{path}-wal", f"{crashed}-wal")
    back_up(crashed, folder / "copy.db")
    assert is_later(folder / "copy.db")


def test_a_damaged_database_is_told_and_leaves_no_copy(path: Path, folder: Path) -> None:
    ((page,),) = rows(path, "SELECT rootpage FROM sqlite_master WHERE name = 'entries'")
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)
    with pytest.raises(StoreError, match=r"damaged|malformed"):
        back_up(path, folder / "copy.db")
    assert names(folder) == set()


def test_what_a_killed_backup_left_is_swept_and_what_a_living_one_writes_is_not(path: Path, folder: Path) -> None:
    dead = folder / ".gateway-backup-dead"
    dead.write_text("half a copy")
    hidden: list[set[str]] = []

    def second(done: int, total: int) -> None:
        if not hidden:
            hidden.append(names(folder))
            back_up(path, folder / "second.db")

    back_up(path, folder / "first.db", on_progress=second)
    assert dead.name not in hidden[0]
    assert len(hidden[0]) == 1
    assert names(folder) == {"first.db", "second.db"}


@pytest.mark.parametrize("what", ["backup", "restore"])
def test_killed_at_every_step_there_is_a_whole_database_under_every_name(
    what: str, path: Path, tmp_path: Path, later: sqlite3.Connection
) -> None:
    """Each folder is a crashed gateway's, with a log; the n-th process dies before its n-th step, the last one ends."""
    back_up(path, tmp_path / "copy.db")
    change(tmp_path / "copy.db", "DELETE FROM meta WHERE key = 'later'")
    folders = [tmp_path / f"killed-{number}" for number in range(1, 20)]
    for folder in folders:
        folder.mkdir()
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", folder / f"gateway.db{suffix}")
    run = [sys.executable, "-c", KILLED, what, *map(str, folders)]
    codes = subprocess.run(run, capture_output=True, text=True, timeout=60, check=True).stdout.split()
    killed = codes.count(str(-signal.SIGKILL))
    assert codes == [str(-signal.SIGKILL)] * killed + ["0"] * (len(codes) - killed)
    assert 4 < killed < len(folders)
    seen = set()
    for folder in folders:
        is_complete = (folder / "copy.db").exists()
        if is_complete:
            assert_sound(folder / "copy.db")
            assert is_later(folder / "copy.db")
            assert (folder / "copy.secret").read_bytes() == b"s" * 64
        is_old = is_later(folder / "gateway.db")
        assert_sound(folder / "gateway.db")
        if not is_old:
            assert is_later(folder / KEPT)
            assert_sound(folder / KEPT)
        seen.add((is_complete, is_old))
    assert seen == ({(False, True), (True, True)} if what == "backup" else {(False, True), (False, False)})


# Restore


@pytest.fixture
def copy(path: Path, folder: Path) -> Path:
    """Made before `later` wrote."""
    back_up(path, folder / "copy.db")
    return folder / "copy.db"


def test_a_restored_copy_is_the_database_and_what_was_there_is_kept(cli: Cli, path: Path, copy: Path) -> None:
    change(path, "INSERT INTO meta VALUES ('later', '')")
    done = cli("db", "restore", str(copy), "--json")
    assert done.exit_code == 0, done.output
    told = orjson.loads(done.output)
    assert (told["path"], told["entries"], told["open_calls"], told["secret_fits"]) == (str(path), 2, 1, True)
    kept = Path(told["kept"])
    assert kept.name.startswith("gateway.db.before-restore-")
    assert names(path.parent) - BYSTANDERS == {"gateway.db", kept.name}
    assert path.stat().st_mode & 0o777 == 0o600
    assert (is_later(path), is_later(kept)) == (False, True)
    assert_sound(path)
    assert_sound(kept)
    assert "0 differences" in cli("ledger", "verify").output
    again = cli("db", "restore", str(copy))
    assert "gateway ledger verify" in again.output
    assert "crashed" in again.output


def test_a_log_that_was_not_merged_goes_with_the_kept_database(
    path: Path, copy: Path, later: sqlite3.Connection
) -> None:
    crashed = path.with_name("crashed") / "gateway.db"
    crashed.parent.mkdir()
    for suffix in ("", "-wal", "-shm"):
        shutil.copy(f"{path}{suffix}", f"{crashed}{suffix}")
    _, kept = restore(crashed, copy, NOW)
    assert names(crashed.parent) == {"gateway.db", KEPT}
    assert kept == crashed.with_name(KEPT)
    assert (is_later(crashed), is_later(kept)) == (False, True)


def test_a_database_that_is_none_any_more_is_kept_and_its_log_does_not_get_into_the_restored_one(
    path: Path, copy: Path
) -> None:
    path.write_bytes(b"no database at all" * 500)
    path.with_name("gateway.db-wal").write_bytes(b"a stale log")
    path.with_name("gateway.db-shm").write_bytes(b"its index")
    restore(path, copy, NOW)
    assert names(path.parent) - BYSTANDERS == {"gateway.db", KEPT}
    assert path.with_name(KEPT).read_bytes() == b"no database at all" * 500
    assert_sound(path)


@pytest.mark.parametrize("is_empty", [True, False], ids=["empty", "gone"])
def test_the_log_of_a_database_that_is_gone_is_kept_under_the_other_name(
    path: Path, copy: Path, is_empty: bool
) -> None:
    path.unlink()
    if is_empty:
        path.touch()
    path.with_name("gateway.db-wal").write_bytes(b"a log")
    _, kept = restore(path, copy, NOW)
    assert kept == path.with_name(KEPT)
    assert names(path.parent) - BYSTANDERS == {"gateway.db", f"{KEPT}-wal"} | ({KEPT} if is_empty else set())
    assert path.with_name(f"{KEPT}-wal").read_bytes() == b"a log"
    assert_sound(path)


def test_an_empty_place_gets_the_copy(cli: Cli, copy: Path, tmp_path: Path) -> None:
    contents, kept = restore(tmp_path / "new" / "gateway.db", copy, NOW)
    assert kept is None
    assert contents.entries == 2
    assert names(tmp_path / "new") == {"gateway.db"}


def test_two_restores_in_a_second_keep_both_databases(path: Path, copy: Path) -> None:
    kept = [restore(path, copy, NOW)[1] for _ in range(2)]
    assert [name and name.name for name in kept] == [KEPT, f"{KEPT}-2"]


def test_the_second_name_that_a_killed_restore_left_to_the_database_goes(path: Path, copy: Path) -> None:
    left = path.with_name("gateway.db.before-restore-20260101T000000Z")
    os.link(path, left)
    _, kept = restore(path, copy, NOW)
    restore(path, copy, NOW)
    assert not left.exists()
    assert kept is not None
    assert_sound(kept)


def test_a_copy_whose_log_lies_beside_it_is_restored_with_it(
    path: Path, folder: Path, later: sqlite3.Connection
) -> None:
    """Three files that somebody copied by hand after a crash."""
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", folder / f"by-hand.db{suffix}")
    restore(folder / "gateway.db", folder / "by-hand.db", NOW)
    assert is_later(folder / "gateway.db")


def test_nothing_is_restored_while_a_gateway_runs(cli: Cli, data: Path, copy: Path) -> None:
    before = names(data)
    with DataLock(data):
        refused = cli("db", "restore", str(copy))
    assert "another gateway serves" in str(refused.exception)
    assert names(data) == before | {"lock"}


def test_a_database_that_somebody_reads_is_not_replaced(
    path: Path, copy: Path, later: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.ledger.sqlite.restore._BUSY_TIMEOUT_S", 0)
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM entries").fetchone()
        with pytest.raises(ConfigError, match=r"another program is reading|locked"):
            restore(path, copy, NOW)
    assert is_later(path)
    assert not [name for name in names(path.parent) if name.startswith((".gateway", KEPT))]


def test_another_secret_is_refused_unless_forced(cli: Cli, data: Path, copy: Path) -> None:
    (data / "secret").write_text("another secret of more than 32 characters")
    refused = cli("db", "restore", str(copy))
    assert "another root secret" in str(refused.exception)
    assert str(data / "secret") in str(refused.exception)
    assert not list(data.glob("*.before-restore-*"))
    forced = cli("db", "restore", str(copy), "--force")
    assert forced.exit_code == 0, forced.output
    assert "refused until" in forced.output


def test_a_missing_secret_is_refused_and_not_made(cli: Cli, data: Path, folder: Path) -> None:
    cli("db", "backup", str(folder / "copy.db"), "--with-secret")
    (data / "secret").unlink()
    refused = cli("db", "restore", str(folder / "copy.db"))
    assert f"put {folder / 'copy.secret'} in its place" in str(refused.exception)
    assert not (data / "secret").exists()
    shutil.copy(folder / "copy.secret", data / "secret")
    assert cli("db", "restore", str(folder / "copy.db")).exit_code == 0


def test_files_that_are_no_sound_copy_of_this_version_are_refused(cli: Cli, path: Path, copy: Path) -> None:
    good = copy.read_bytes()
    foreign = copy.with_name("foreign.db")
    change(foreign, "CREATE TABLE t (x)")
    refusals: dict[str, str] = {}

    def attempt(name: str, prepare: Callable[[], object]) -> None:
        copy.write_bytes(good)
        prepare()
        refusals[name] = str(cli("db", "restore", str(copy)).exception)

    attempt("no database", lambda: copy.write_text("something else " * 100))
    attempt("another program's", lambda: shutil.copy(foreign, copy))
    attempt("empty", lambda: copy.write_bytes(b""))
    attempt("cut short", lambda: copy.write_bytes(good[: len(good) // 2]))
    attempt("newer", lambda: change(copy, "UPDATE alembic_version SET version_num = '9999'"))
    attempt("gone", copy.unlink)
    assert "cannot be read as a database" in refusals["no database"]
    assert "no database of a gateway" in refusals["another program's"]
    assert "no database of a gateway" in refusals["empty"]
    assert "malformed" in refusals["cut short"] or "damaged" in refusals["cut short"]
    assert "newer gateway" in refusals["newer"]
    assert "there is no file" in refusals["gone"]
    assert_sound(path)
    assert not list(path.parent.glob("*.before-restore-*"))
    assert "the database itself" in str(cli("db", "restore", str(path)).exception)


def test_a_copy_of_an_older_version_is_brought_up_by_the_next_start(cli: Cli, path: Path, folder: Path) -> None:
    old = folder / "old.db"
    old.touch()
    migration._upgrade(old, "0003")
    back_up(old, folder / "copy.db")
    assert contents_of(folder / "copy.db").version == "0003"
    done = cli("db", "restore", str(folder / "copy.db"))
    assert f"from version 0003 to {migration.HEAD}" in done.output
    assert migration.migrate(path)


def test_copying_lets_other_threads_write(path: Path, folder: Path) -> None:
    """The copy holds no lock that a commit would have to wait for, even between its steps."""
    is_done = threading.Event()

    def write() -> None:
        with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as connection:
            while not is_done.is_set():
                connection.execute("INSERT OR REPLACE INTO meta VALUES ('beat', ?)", (str(threading.get_ident()),))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(5):
            assert back_up(path, folder / f"{number}.db").entries == 2
    finally:
        is_done.set()
        writer.join()
    assert count(path, "entries") == 2
