"""A machine in trouble: a log that cannot be written, a store that is locked while holds are swept. It heals by itself."""

import contextlib
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.rig import wire
from tests.rig.catalog import cost_nano_usd
from tests.rig.client import connected
from tests.rig.environment import REPOSITORY
from tests.rig.gateway import Gateway, Key
from tests.rig.upstream import Gate, Send, Upstream
from tests.rig.waiting import soon

USAGE = wire.usage(9, 4)


class Speechless(Gateway):
    """A gateway whose standard output is a full disk."""

    def launch(self) -> None:
        (self.folder / "stdout").touch()
        with Path("/dev/full").open("wb") as stdout, (self.folder / "stderr").open("ab") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gateway", "serve"],
                cwd=REPOSITORY,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
            )


@contextlib.contextmanager
def locked(gateway: Gateway) -> Iterator[sqlite3.Connection]:
    """Somebody else holds the database for writing, until the block ends or rolls back."""
    connection = sqlite3.connect(gateway.data_dir / "gateway.db", isolation_level=None, timeout=15)
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield connection
        connection.execute("ROLLBACK")
    finally:
        connection.close()


async def works_again(gateway: Gateway, upstream: Upstream, key: Key) -> None:
    script = upstream.reply(wire.completion("a", usage=USAGE))
    for _ in range(50):
        if (await gateway.chat(key, script)).status == 200:
            return
    raise AssertionError("the gateway did not recover")


async def test_a_gateway_that_cannot_write_its_log_serves_settles_and_heals(upstream: Upstream, tmp_path: Path) -> None:
    """The ledger's trouble is logged by whoever has to tell its waiters; the log's own must not keep him from it."""
    gateway = Speechless(tmp_path, upstream, settings={"SETTLE_TIMEOUT_S": 1})
    try:
        gateway.start()
        key = gateway.new_key()
        gate = Gate()
        script = upstream.script(gate, Send(wire.reply(wire.completion("x", usage=USAGE))))
        async with connected(gateway.port) as connection:
            await connection.send(gateway.chat_request(key, script))
            await soon(gate.is_reached.is_set, "the request at the upstream")
            with locked(gateway):
                gate.open()
                assert await connection.read_head() == 503
                assert (await connection.read_rest()).error["code"] == "store_unavailable"
                refused = await gateway.chat(key, upstream.reply(wire.completion("a", usage=USAGE)))
                assert refused.status == 503
        (entry,) = await soon(lambda: gateway.entries(creator=key.creator), "the entry, once it can be written")
        assert entry["cost_nano_usd"] == cost_nano_usd(9, 4)
        await works_again(gateway, upstream, gateway.new_key())
        assert gateway.is_ready()
        gateway.audit()
        assert gateway.stop() == 0
    finally:
        gateway.close()


async def test_the_watch_outlives_a_locked_store_and_books_the_dead_hold_later(
    upstream: Upstream, tmp_path: Path
) -> None:
    gateway = Gateway(tmp_path, upstream, settings={"HOLD_TIMEOUT_S": 1, "SETTLE_TIMEOUT_S": 1})
    try:
        gateway.start()
        key = gateway.new_key()
        gate = Gate()
        script = upstream.script(gate, Send(wire.reply(wire.completion("x", usage=USAGE))))
        async with connected(gateway.port) as connection:
            await connection.send(gateway.chat_request(key, script))
            await soon(gate.is_reached.is_set, "the request at the upstream")
            with locked(gateway) as store:
                plant_dead_hold(store)
                store.execute("COMMIT")
                store.execute("BEGIN IMMEDIATE")
                await soon(lambda: gateway.log_lines("watch_failed"), "a watch that cannot write")
            dead = await soon(lambda: gateway.entries(creator=key.creator), "the entry of the dead hold")
            assert [entry["outcome"] for entry in dead] == ["crashed"]
            assert gateway.open_holds() == 1, "a hold whose call is alive is left alone"
            gate.open()
            assert await connection.read_head() == 200
            await connection.read_rest()
        assert gateway.open_holds() == 0
        assert gateway.verify().returncode == 0
        assert gateway.stop() == 0
    finally:
        gateway.close()


def plant_dead_hold(store: sqlite3.Connection) -> None:
    """A copy of the only open hold, long ago, whose call nobody knows."""
    changed = {"id": "'req_dead'", "created_at": "created_at - 100000"}
    columns = [row[1] for row in store.execute("PRAGMA table_info(holds)")]
    selected = ", ".join(changed.get(column, column) for column in columns)
    store.execute(f"INSERT INTO holds SELECT {selected} FROM holds")
