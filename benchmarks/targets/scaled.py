"""The gateway on Redis and PostgreSQL, with one process and with several.

The servers are those the tests bring along. They run beside load and upstream, so that the targets' core is the
gateway's own, and answer what they were asked: so many round trips to Redis, so many transactions of PostgreSQL.
"""

import os
import re
import secrets
from pathlib import Path
from typing import ClassVar

from benchmarks.machine import TargetFailed
from benchmarks.targets.base import Unavailable
from benchmarks.targets.gateway import Gateway
from tests.servers.postgres_server import PostgresServer
from tests.servers.redis_server import RedisServer

_DATABASE = "benchmark"


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

    def work(self) -> dict[str, int]:
        """Reads from sockets that Redis made, and transactions that PostgreSQL ended, since they were started."""
        stats = str(self._redis.command("INFO", "stats"))
        found = re.search(r"total_reads_processed:(\d+)", stats)
        query = f"SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = '{_DATABASE}'"
        ((transactions, *_),) = self._postgres.query(query)
        return {"redis_reads": int(found[1]) if found else 0, "transactions": int(str(transactions))}

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
