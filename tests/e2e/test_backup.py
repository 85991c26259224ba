"""`gateway db backup` beside a gateway under load, and a second gateway that goes on from the copy."""

import asyncio
import json
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

from tests.rig import wire
from tests.rig.client import connect
from tests.rig.gateway import Gateway, Key
from tests.rig.upstream import Script, Upstream
from tests.rig.waiting import soon

_CLIENTS = 10
_BEFORE = 100
_FILLER_BYTES = 24 * 2**20
"""Unused pages, so that the copy takes a few steps."""


@asynccontextmanager
async def under_load(gateway: Gateway, key: Key, script: Script) -> AsyncIterator[list[str]]:
    """Request ids in the order in which clients received the whole answer. Every call is answered."""
    received: list[str] = []
    is_enough = asyncio.Event()

    async def client() -> None:
        connection = await connect(gateway.port)
        while not is_enough.is_set():
            await connection.send(gateway.chat_request(key, script))
            assert await connection.read_head() == 200
            answer = await connection.read_rest()
            assert answer.is_complete
            received.append(answer.request_id)
        await connection.close()

    async with asyncio.TaskGroup() as clients:
        for _ in range(_CLIENTS):
            clients.create_task(client())
        try:
            yield received
        finally:
            is_enough.set()


def request_ids(database: Path) -> list[str]:
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        return [row[0] for row in connection.execute("SELECT request_id FROM entries WHERE kind = 'usage'")]


def fill(database: Path) -> None:
    with closing(sqlite3.connect(database, isolation_level=None, timeout=10)) as connection:
        connection.execute("CREATE TABLE filler (bytes BLOB)")
        connection.execute("INSERT INTO filler VALUES (zeroblob(?))", (_FILLER_BYTES,))
        connection.execute("DROP TABLE filler")


async def test_a_copy_made_under_load_has_every_answered_call_and_another_gateway_goes_on_from_it(
    tmp_path: Path, upstream: Upstream
) -> None:
    folders = [tmp_path / name for name in ("first", "second", "backups")]
    for folder in folders:
        folder.mkdir()
    first, second = (Gateway(folder, upstream) for folder in folders[:2])
    try:
        fill_with = upstream.reply(wire.completion("fine", usage=wire.usage(100, 10)))
        first.start()
        fill(first.data_dir / "gateway.db")
        key = first.new_key()
        async with under_load(first, key, fill_with) as received:
            await soon(lambda: len(received) >= _BEFORE, "calls before the backup")
            before = set(received)
            made = await asyncio.to_thread(first.cli, "db", "backup", str(folders[2]), "--with-secret", "--json")
            assert made.returncode == 0, made.stderr
            during = len(received)
            await soon(lambda: len(received) > during, "calls after the backup")
        told = json.loads(made.stdout)
        assert (made.stderr, told["bytes"] > _FILLER_BYTES) == ("", True)
        copied = request_ids(Path(told["path"]))
        assert before <= set(copied)
        assert len(copied) == len(set(copied)) == told["entries"]
        assert set(copied) <= set(received), "the copy has calls that nobody made"
        assert len(copied) < len(received), "calls that came after it are not in the copy"
        first.audit()

        # Another machine: the secret first, then the database.
        refused = second.cli("db", "restore", told["path"])
        assert (refused.returncode, told["secret"] in refused.stderr) == (2, True)
        shutil.copy(told["secret"], second.data_dir / "secret")
        restored = second.cli("db", "restore", told["path"], "--json")
        assert restored.returncode == 0, restored.stderr
        found = json.loads(restored.stdout)
        assert (found["entries"], found["open_calls"], found["kept"]) == (told["entries"], told["open_calls"], None)
        second.start()
        assert (await second.chat(key, fill_with)).status == 200
        outcomes = [entry["outcome"] for entry in second.entries(creator=key.creator)]
        assert outcomes.count("crashed") == told["open_calls"]
        assert outcomes.count("ok") == told["entries"] + 1
        second.audit()

        # Where a gateway runs, nothing is restored.
        refused = second.cli("db", "restore", told["path"])
        assert (refused.returncode, "another gateway serves" in refused.stderr) == (2, True)
        assert [gateway.stop() for gateway in (first, second)] == [0, 0]
    finally:
        first.close()
        second.close()
