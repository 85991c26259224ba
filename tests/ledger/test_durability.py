"""What was acknowledged before `kill -9` is there afterwards."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.ledger.database import Database
from gateway.ledger.orphans import book_orphans
from gateway.ledger.verify import verify
from tests.ledger.books import MODEL, PRICE, rows

CALLS = """
import asyncio, sys
from pathlib import Path
from gateway.ledger.database import Database
from tests.ledger.books import MODEL, PRICE, entry, hold

async def client(database, name):
    for n in range(100_000):
        id = f"{name}-{n:06d}"
        await database.ledger.hold(hold(id))
        sys.stdout.write(f"held {id}\\n")
        await database.ledger.settle(id, [entry(id)])
        sys.stdout.write(f"settled {id}\\n")
        sys.stdout.flush()

async def main():
    database = await Database.open(Path(sys.argv[1]))
    await database.record_prices({MODEL: PRICE})
    await asyncio.gather(*(client(database, f"c{n}") for n in range(16)))

asyncio.run(main())
"""


@pytest.mark.parametrize("lines", [1, 77, 400])
async def test_what_was_acknowledged_survives_kill_9(path: Path, lines: int) -> None:
    root = Path(__file__).parents[2]
    process = subprocess.Popen([sys.executable, "-c", CALLS, str(path)], stdout=subprocess.PIPE, text=True, cwd=root)
    assert process.stdout is not None
    said = [process.stdout.readline() for _ in range(lines)]
    process.kill()
    rest = process.stdout.read().splitlines(keepends=True)
    process.stdout.close()
    process.wait()
    told = [line.split() for line in [*said, *rest] if line.endswith("\n")]
    held = {request_id for word, request_id in told if word == "held"}
    settled = {request_id for word, request_id in told if word == "settled"}
    assert held

    database = await Database.open(path)
    kept = {row[0] for row in rows(path, "SELECT id FROM holds")}
    posted = {row[0] for row in rows(path, "SELECT request_id FROM entries")}
    assert settled <= posted
    assert held <= kept | posted
    assert not kept & posted
    booked = await book_orphans(database)
    assert {row["request_id"] for row in booked} == kept
    await database.close()
    report = await asyncio.to_thread(verify, path)
    assert report.differences == []
    assert report.entries == len(posted) + len(kept)
    assert (MODEL, PRICE.version) == rows(path, "SELECT model, version FROM price_rows")[0]
