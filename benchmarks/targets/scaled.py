"""The gateway on Redis and PostgreSQL, with one process and with several.

The servers are those the tests bring along. They run beside load and upstream, so that the targets' core is the
gateway's own, and answer what they were asked: so many round trips to Redis, so many transactions of PostgreSQL.
"""

import os
import re
import secrets
import time
from pathlib import Path
from typing import ClassVar

from benchmarks.local_http import answers
from benchmarks.machine import TargetFailed
from benchmarks.targets.base import Unavailable
from benchmarks.targets.gateway import Gateway
from tests.servers.postgres_server import PostgresServer
from tests.servers.redis_server import RedisServer

_DATABASE = "benchmark"
_READY_WITHIN_S = 30
_READY_FOR_S = 3


class Scaled(Gateway):
    name = "scaled"
    workers: ClassVar[int] = 1

    def start(self) -> None:
        try:
            self._redis = RedisServer(settings={"maxmemory-policy": "noeviction"})
            self._postgres = PostgresServer()
            self._redis.start()
            self._postgres.start()
        except Exception as exc:
            raise Unavailable(f"no servers to run it on: {exc}") from exc
        self._move_servers_away()
        self.settings = {
            "GATEWAY_REDIS_URL": self._redis.url,
            "GATEWAY_DATABASE_URL": self._postgres.create_database(_DATABASE),
            "GATEWAY_SECRET": secrets.token_urlsafe(32),
            "GATEWAY_WORKERS": str(self.workers),
        }
        try:
            super().start()
        except TargetFailed as exc:
            raise TargetFailed(f"{self.name}: {exc}") from exc

    def stop(self) -> None:
        super().stop()
        for server in (getattr(self, "_redis", None), getattr(self, "_postgres", None)):
            if server is not None:
                server.close()

    def thaw(self) -> None:
        """A process that was frozen for longer than its lease has to agree with the others before it counts again."""
        super().thaw()
        give_up_at, ready_at = time.monotonic() + _READY_WITHIN_S, time.monotonic()
        while time.monotonic() < min(give_up_at, ready_at + _READY_FOR_S):
            if not answers(self.port, "/health/ready"):
                ready_at = time.monotonic()
            time.sleep(0.05)

    def work(self) -> dict[str, int]:
        """Since they were started: reads from sockets that Redis made, transactions that PostgreSQL ended, and bytes of its
        log of changes."""
        stats = str(self._redis.command("INFO", "stats"))
        found = re.search(r"total_reads_processed:(\d+)", stats)
        (row,) = self._postgres.query(
            "SELECT xact_commit + xact_rollback, pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint "
            f"FROM pg_stat_database WHERE datname = '{_DATABASE}'"
        )
        transactions, wal_bytes = (int(str(value)) for value in row)
        reads = int(found[1]) if found else 0
        return {"redis_reads": reads, "transactions": transactions, "wal_bytes": wal_bytes}

    def _move_servers_away(self) -> None:
        """From the targets' core: what they use is not the gateway's."""
        if self.core is None:
            return
        others = os.sched_getaffinity(0) - {self.core}
        for server in (self._redis, self._postgres):
            for task in Path(f"/proc/{server.pid}/task").iterdir():
                os.sched_setaffinity(int(task.name), others)


class ScaledTwo(Scaled):
    name = "scaled-2"
    workers = 2
