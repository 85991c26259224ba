"""The servers that tests bring: where their programs come from, what each verb does, and that nothing stays behind."""

import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.rig.environment import REPOSITORY, inherited
from tests.rig.waiting import eventually
from tests.servers import provision
from tests.servers.leash import process_stat
from tests.servers.postgres_server import PASSWORD, USER, PostgresServer, forget_shared_memory
from tests.servers.postgres_wire import PostgresError
from tests.servers.process import Server, scratch_folder
from tests.servers.provision import NotMade, Wheels
from tests.servers.redis_server import RedisError, RedisServer

_BRIEFLY_S = 0.3


@pytest.fixture(scope="module")
def kept_redis() -> Iterator[RedisServer]:
    with RedisServer(appendonly=True) as server:
        yield server


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with PostgresServer(settings={"deadlock_timeout": "20ms"}, max_connections=8) as server:
        server.query("CREATE TABLE kept (what text)")
        yield server


@pytest.fixture(params=["kept_redis", "postgres"])
def server(request: pytest.FixtureRequest) -> Server:
    """Each kind in turn."""
    chosen: Server = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder that PostgreSQL's account may enter too, for what a killed process leaves."""
    folder = scratch_folder(None)
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def keep(server: Server, what: str) -> None:
    if isinstance(server, RedisServer):
        server.command("SET", "kept", what)
    elif isinstance(server, PostgresServer):
        server.query(f"TRUNCATE kept; INSERT INTO kept VALUES ('{what}')")


def kept(server: Server) -> object:
    if isinstance(server, PostgresServer):
        return server.query("SELECT what FROM kept")[0][0]
    assert isinstance(server, RedisServer)
    return server.command("GET", "kept")


def alive(pids: list[int]) -> list[int]:
    """Those that are neither gone nor waiting to be reaped."""
    return [pid for pid in pids if (process_stat(pid) or "Z")[0] != "Z"]


# Verbs


def test_a_frozen_server_accepts_and_says_nothing_until_it_is_thawed(server: Server) -> None:
    server.freeze()
    with pytest.raises(TimeoutError):
        server.ping(within_s=_BRIEFLY_S)
    server.thaw()
    assert server.ping()


def test_a_connection_of_a_frozen_postgres_hangs_and_then_gets_its_answer(postgres: PostgresServer) -> None:
    """Freezing the parent alone would leave every backend at work."""
    with postgres.session() as session, ThreadPoolExecutor(1) as thread:
        assert session.query("SELECT 1") == [("1",)]
        postgres.freeze()
        assert {(process_stat(pid) or "gone")[0] for pid in postgres.processes()} == {"T"}
        answer = thread.submit(session.query, "SELECT 2")
        with pytest.raises(TimeoutError):
            answer.result(_BRIEFLY_S)
        postgres.thaw()
        assert answer.result() == [("2",)]


def test_a_killed_server_keeps_what_it_had_answered(server: Server) -> None:
    keep(server, "before the kill")
    processes = server.processes()
    server.kill9()
    assert alive(processes) == []
    with pytest.raises(ConnectionRefusedError):
        server.ping()
    server.start()
    assert kept(server) == "before the kill"


def test_a_frozen_server_can_be_killed_and_started(server: Server) -> None:
    keep(server, "before the frost")
    server.freeze()
    processes = server.processes()
    server.kill9()
    assert alive(processes) == []
    server.start()
    assert kept(server) == "before the frost"


def test_a_restarted_server_has_another_process_and_the_same_port_and_data(server: Server) -> None:
    keep(server, "before the restart")
    pid, url = server.pid, server.url
    server.restart()
    assert (server.pid != pid, server.url == url) == (True, True)
    assert kept(server) == "before the restart"


def test_a_stopped_server_ends_cleanly_even_out_of_the_frost(server: Server) -> None:
    server.freeze()
    assert server.stop() == 0
    assert not server.is_running
    assert server.processes() == []
    server.start()


def test_a_redis_without_a_log_of_writes_comes_back_empty_under_another_run_id() -> None:
    with RedisServer() as redis:
        redis.command("SET", "kept", "not for long")
        first = redis.info("server")["run_id"]
        redis.restart()
        assert redis.command("GET", "kept") is None
        assert redis.info("server")["run_id"] != first


def test_two_servers_of_a_kind_run_side_by_side(kept_redis: RedisServer, postgres: PostgresServer) -> None:
    keep(kept_redis, "the first")
    keep(postgres, "the first")
    with RedisServer() as other_redis, PostgresServer() as other_postgres:
        assert other_redis.command("GET", "kept") is None
        assert other_postgres.query("SELECT to_regclass('kept')") == [(None,)]
        other_redis.kill9()
        other_postgres.kill9()
        assert (kept(kept_redis), kept(postgres)) == ("the first", "the first")


# Redis


def test_a_flushed_redis_is_empty(kept_redis: RedisServer) -> None:
    keep(kept_redis, "until the flush")
    kept_redis.flush()
    assert kept_redis.command("DBSIZE") == 0


def test_a_full_redis_refuses_writes() -> None:
    with RedisServer(maxmemory=1) as redis, pytest.raises(RedisError, match="OOM"):
        redis.command("SET", "one", "too many")


def test_a_redis_asks_for_its_password(kept_redis: RedisServer) -> None:
    with socket.create_connection(("127.0.0.1", kept_redis.port)) as stranger:
        stranger.sendall(b"PING\r\n")
        assert stranger.recv(64).startswith(b"-NOAUTH")
    assert kept_redis.url.startswith("redis://:redis-canary-")


def test_a_replica_takes_over_what_its_primary_had(kept_redis: RedisServer) -> None:
    keep(kept_redis, "before the failover")
    with RedisServer(replicaof=kept_redis) as replica:
        replica.synced()
        with pytest.raises(RedisError, match="READONLY"):
            replica.command("SET", "kept", "by a replica")
        before = replica.info("replication")["master_replid"]
        replica.promote()
        assert kept(replica) == "before the failover"
        assert replica.info("replication")["master_replid"] != before
        keep(replica, "by a primary")


def test_redis_replies_are_read_whatever_their_kind(kept_redis: RedisServer) -> None:
    assert kept_redis.command("EVAL", "return {1, 'two', {false}, redis.status_reply('four')}", 0) == [
        1,
        "two",
        [None],
        "four",
    ]


# PostgreSQL


def test_postgres_runs_as_an_account_without_rights(postgres: PostgresServer) -> None:
    """It refuses root; whoever runs the tests as another user is that user."""
    owner = Path(f"/proc/{postgres.pid}").stat().st_uid
    assert owner != 0
    assert owner == postgres.data.stat().st_uid


def test_databases_are_apart_and_a_template_is_copied(postgres: PostgresServer) -> None:
    url = postgres.create_database("first")
    assert url == f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{postgres.port}/first"
    with postgres.session(database="first") as session:
        session.query("CREATE TABLE rows_of_first AS SELECT 1 AS one")
    postgres.create_database("second", template="first")
    postgres.create_database("third")
    assert postgres.query("SELECT one FROM rows_of_first", database="second") == [("1",)]
    with pytest.raises(PostgresError, match="42P01"):
        postgres.query("SELECT one FROM rows_of_first", database="third")


def test_a_flushed_postgres_has_lost_its_databases_whoever_is_connected(postgres: PostgresServer) -> None:
    postgres.create_database("in_use")
    with postgres.session(database="in_use") as session:
        postgres.flush()
        with pytest.raises((PostgresError, ConnectionError)):
            session.query("SELECT 1")
    with pytest.raises(PostgresError, match="3D000"):
        postgres.session(database="in_use")


def test_the_last_connections_are_kept_for_the_test(postgres: PostgresServer) -> None:
    """What "out of connections" looks like to the gateway, while the test can still look."""
    sessions = [postgres.session() for _ in range(8 - 3)]
    try:
        with pytest.raises(PostgresError, match="53300"):
            postgres.session()
        assert postgres.query("SELECT 1") == [("1",)]
    finally:
        for session in sessions:
            session.close()


def test_settings_are_taken(postgres: PostgresServer) -> None:
    assert postgres.query("SHOW fsync") == [("off",)]
    assert postgres.query("SHOW deadlock_timeout") == [("20ms",)]
    with PostgresServer(fsync=True) as durable:
        assert durable.query("SHOW fsync; SHOW full_page_writes") == [("on",)]


def test_a_refusal_leaves_a_session_usable(postgres: PostgresServer) -> None:
    with postgres.session() as session:
        with pytest.raises(PostgresError, match="22012"):
            session.query("SELECT 1/0")
        assert session.query("SELECT 'é', NULL") == [("é", None)]


def test_programs_behind_a_closed_door_serve_another_account_too(tmp_path: Path) -> None:
    """Root's own folders are closed to the account it lends PostgreSQL."""
    behind = tmp_path / "behind"
    behind.mkdir(mode=0o700)
    programs = provision.postgres_programs()
    installation = provision.installation_of(programs)
    subprocess.run(["cp", "-a", str(installation), str(behind / "installed")], check=True)
    with PostgresServer(programs=behind / "installed" / programs.relative_to(installation)) as postgres:
        assert postgres.query("SELECT 1") == [("1",)]


# What is left behind, and what is shown


def test_a_closed_server_leaves_no_process_and_no_folder() -> None:
    servers: list[Callable[[], Server]] = [RedisServer, PostgresServer]
    for begin in servers:
        with begin() as server:
            processes, folder = server.processes(), server.folder
            assert alive(processes)
        assert alive(processes) == []
        assert not folder.exists()


def test_a_server_that_cannot_start_shows_its_log() -> None:
    with (
        pytest.raises(AssertionError, match=r"ended by itself:\n(.|\n)*no-such-setting"),
        RedisServer(settings={"no-such-setting": 1}),
    ):
        pass


def test_servers_die_with_the_process_that_started_them(reachable: Path) -> None:
    """Killed in the middle, with one server at work and the other frozen."""
    script = (
        "import time\n"
        "from tests.servers.postgres_server import PostgresServer\n"
        "from tests.servers.redis_server import RedisServer\n"
        "redis, postgres = RedisServer().start(), PostgresServer().start()\n"
        "postgres.freeze()\n"
        "print(postgres.data, *redis.processes(), *postgres.processes(), flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=REPOSITORY,
        env={**inherited(), "TMPDIR": str(reachable)},
        stdout=subprocess.PIPE,
        text=True,
    ) as owner:
        assert owner.stdout is not None
        data, *words = owner.stdout.readline().split()
        owner.kill()
    pids = [int(word) for word in words]
    assert len(pids) > 2
    eventually(lambda: not alive(pids), "the servers to end with their owner")
    forget_shared_memory(Path(data))


def test_the_fixtures_share_servers_empty_them_and_show_their_logs_on_failure(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "@pytest.mark.parametrize('number', [1, 2])\n"
        "def test_is_empty(number, redis, postgres, database_url):\n"
        "    assert redis.command('DBSIZE') == 0\n"
        "    redis.command('SET', 'left', 'behind')\n"
        "    name = database_url.rpartition('/')[2]\n"
        "    postgres.query('CREATE TABLE left_behind (what text)', database=name)\n"
        "def test_fails(postgres, database_url):\n"
        "    postgres.query('SELECT no_such_column')\n"
    )
    flags = ["-p", "tests.servers.fixtures", "-p", "no:cacheprovider", "-c", "/dev/null", "-q", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *flags],
        cwd=REPOSITORY,
        env=inherited(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "2 passed" in done.stdout, done.stdout
    assert "1 failed" in done.stdout
    assert "Captured stdout teardown" in done.stdout
    assert 'ERROR:  column "no_such_column" does not exist' in done.stdout


# Where the programs come from


@pytest.mark.parametrize(
    ("arguments", "needed"),
    [
        pytest.param([], True, id="everything"),
        pytest.param(["-x", "-k", "redis"], True, id="no-path"),
        pytest.param(["tests/ledger"], True, id="one-of-them"),
        pytest.param(["tests/endpoints", "tests/test_chat.py"], False, id="others"),
    ],
)
def test_programs_are_brought_only_where_their_tests_may_run(arguments: list[str], needed: bool) -> None:
    assert provision.are_needed(arguments) is needed


def test_programs_are_recent_enough() -> None:
    redis = provision.version_of(provision.redis_program())
    postgres = provision.version_of(provision.postgres_programs() / "postgres")
    assert redis is not None
    assert postgres is not None
    assert redis >= provision.OLDEST["Redis"]
    assert postgres >= provision.OLDEST["PostgreSQL"]


@pytest.mark.parametrize(
    ("printed", "taken"),
    [
        pytest.param("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.2.1", True, id="recent"),
        pytest.param("Valkey server v=9.1.2 sha=00000000:1 malloc=libc", True, id="valkey"),
        pytest.param("Redis server v=6.2.14 sha=00000000:0 malloc=libc", False, id="old"),
        pytest.param("something else altogether", False, id="no-version"),
    ],
)
def test_the_machines_own_program_is_taken_when_it_is_recent_enough(
    printed: str, taken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "redis-server"
    program.write_text(f"#!/bin/sh\necho '{printed}'\n")
    program.chmod(0o755)
    monkeypatch.delenv("TEST_SERVERS", raising=False)
    assert provision.recent("Redis", [None, tmp_path / "nothing", program]) == (program if taken else None)
    monkeypatch.setenv("TEST_SERVERS", "locked")
    assert provision.recent("Redis", [program]) is None


def test_wheels_are_unpacked_once_and_again_when_their_lock_changes(tmp_path: Path) -> None:
    """An empty lock needs no index. Two who unpack at once do not get in each other's way."""
    lock = tmp_path / "requirements.lock"
    lock.write_text("# nothing\n")
    wheels = Wheels(tmp_path / "made", lock)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda each: each.make(), [wheels, wheels]))
    assert wheels.is_ready
    with pytest.raises(NotMade, match="carry no bin/server"):
        wheels.program("bin/server")
    lock.write_text("# nothing, and no more\n")
    assert not wheels.is_ready
    assert wheels.program("bin/server") is None


def test_wheels_that_cannot_be_had_are_a_clear_error(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text("not a requirement at all\n")
    wheels = Wheels(tmp_path / "made", lock)
    with pytest.raises(NotMade, match="Invalid requirement"):
        wheels.make()
    assert not wheels.is_ready


def test_the_lock_holds_hashes_and_no_host() -> None:
    text = (provision.HERE / "requirements.lock").read_text()
    assert text.count("==") == 2
    assert text.count("--hash=sha256:") > 4
    assert "://" not in text
    assert "index" not in text
