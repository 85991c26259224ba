"""A real PostgreSQL server for tests.

`initdb` runs once in a test process; every server begins as a copy of what it made. Where root runs the tests the server
runs as `nobody`, in a folder of that account; if `nobody` cannot reach the programs, it gets a copy of them.
"""

import atexit
import ctypes
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from tests.rig.waiting import PATIENCE_S
from tests.servers import provision
from tests.servers.postgres_wire import PostgresError, Row, Session
from tests.servers.process import START_WITHIN_S, Account, Server, scratch_folder

PASSWORD = "postgres-canary-0123456789abcdef"
"""Part of every URL though any would do; it must turn up in no log and no error of the gateway."""
USER = "gateway"
"""Owns the databases of tests and is no superuser, so that the reserved connections stay reserved."""
_SUPERUSER = "postgres"
_STARTING_UP = "57P03"
_IPC_RMID = 0
_SHARED_MEMORY_LINE = 6


class PostgresServer(Server):
    """A server with the databases that tests create in it.

    Without `fsync` it is several times as quick; what it answered then outlives any kill, but for a power cut. `settings`
    are lines of postgresql.conf, such as `{"deadlock_timeout": "50ms"}`.
    """

    _stop_signal = signal.SIGINT  # "fast": clients are sent away, what is written is kept

    def __init__(
        self,
        *,
        fsync: bool = False,
        max_connections: int = 100,
        settings: Mapping[str, object] | None = None,
        programs: Path | None = None,
    ) -> None:
        account = Account.for_postgres()
        self._programs = _reachable(programs or provision.postgres_programs(), account)
        template = _template(self._programs, account)
        super().__init__(account)
        self.data = self.folder / "data"
        subprocess.run(["cp", "-a", str(template), str(self.data)], check=True)
        chosen = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "max_connections": max_connections,
            "fsync": "on" if fsync else "off",
            "full_page_writes": "on" if fsync else "off",
            "shared_buffers": "64MB",
            "dynamic_shared_memory_type": "mmap",  # /dev/shm is small in containers, and keeps what a kill left
            **(settings or {}),
        }
        with (self.data / "postgresql.conf").open("a") as configuration:
            configuration.writelines(f"{name} = '{value}'\n" for name, value in chosen.items())

    @property
    def url(self) -> str:
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        return f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def create_database(self, name: str, *, template: str = "template1") -> str:
        """The URL of a new database: empty, or a copy of `template`, to which nobody may be connected."""
        self.query(f'CREATE DATABASE "{name}" OWNER {USER} TEMPLATE "{template}"')
        return self.url_of(name)

    def drop_database(self, name: str) -> None:
        """Removes a database and cuts whoever uses it."""
        self.query(f'DROP DATABASE "{name}" WITH (FORCE)')

    def query(self, sql: str, *, database: str = "postgres", within_s: float = PATIENCE_S) -> list[Row]:
        """The rows as text, asked by the superuser on a connection of its own. Raises `PostgresError`, `OSError`."""
        with self.session(database=database, user=_SUPERUSER, within_s=within_s) as session:
            return session.query(sql)

    def session(self, *, database: str = "postgres", user: str = USER, within_s: float = PATIENCE_S) -> Session:
        """A connection to hold, for locks and for taking the others' place."""
        return Session(self.port, user=user, database=database, within_s=within_s)

    def ping(self, within_s: float = PATIENCE_S) -> bool:
        try:
            return self.query("SELECT 1", within_s=within_s) == [("1",)]
        except PostgresError as refusal:
            if refusal.code == _STARTING_UP:
                return False
            raise

    def flush(self) -> None:
        """Drops every database that a test created."""
        for (name,) in self.query("SELECT datname FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres'"):
            self.drop_database(str(name))

    def close(self) -> None:
        """Ends it at once without a last write, so that it takes its shared memory along; then as every server."""
        if self.is_running:
            self.thaw()
            os.kill(self.pid, signal.SIGQUIT)
            self._ended()
        forget_shared_memory(self.data)
        super().close()

    def _command(self) -> list[str]:
        return [str(self._programs / "postgres"), "-D", str(self.data)]


@cache
def _template(programs: Path, account: Account | None) -> Path:
    """A data folder fresh from `initdb`, with the role of the tests."""
    folder = scratch_folder(account)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    data = folder / "template"
    flags = ["--username", _SUPERUSER, "--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-sync"]
    _run_as(account, [str(programs / "initdb"), "--pgdata", str(data), *flags], folder)
    single = [str(programs / "postgres"), "--single", "-D", str(data), "-F", "postgres"]
    _run_as(account, single, folder, f"CREATE ROLE {USER} LOGIN CREATEDB\n")
    return data


def _run_as(account: Account | None, command: list[str], folder: Path, text: str = "") -> None:
    done = subprocess.run(
        command,
        cwd=folder,
        env={"LC_ALL": "C", "TZ": "UTC"},
        input=text,
        capture_output=True,
        text=True,
        timeout=START_WITHIN_S,
        check=False,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
    )
    assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"


@cache
def _reachable(programs: Path, account: Account | None) -> Path:
    """The programs where the account can run them: in place, or as a copy when a folder above is closed to it."""
    if account is None or account.can_reach(programs / "postgres"):
        return programs
    folder = scratch_folder(account)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    installation = provision.installation_of(programs)
    subprocess.run(["cp", "-a", f"{installation}/.", str(folder)], check=True)
    subprocess.run(["chmod", "-R", "a+rX", str(folder)], check=True)
    return folder / programs.relative_to(installation)


def forget_shared_memory(data: Path) -> None:
    """Frees the segment of a server that was killed, which the kernel would keep for ever.

    Its id is the last word of the seventh line of the lock file (PostgreSQL's pidfile.h), which a clean end removes.
    """
    lock_file = data / "postmaster.pid"
    lines = lock_file.read_text().splitlines() if lock_file.is_file() else []
    if len(lines) > _SHARED_MEMORY_LINE and (words := lines[_SHARED_MEMORY_LINE].split()):
        ctypes.CDLL(None).shmctl(int(words[-1]), _IPC_RMID, None)
