"""Which features and agents have rollup rows of their own, decided by several processes at once."""

import asyncio
import random
from functools import partial

from gateway.ledger.database import Database
from gateway.ledger.postgres.connection import PostgresConnection
from gateway.ledger.postgres.link import POSTGRES
from gateway.ledger.rollups import NAMES_MAX, OTHER
from gateway.ledger.transactions import Transactions
from gateway.ledger.writer import Writer
from tests.ledger.books import count, entry, rows, verify

STORES = ("postgres",)


def features(path: str, creator: str) -> dict[str, int]:
    return dict(rows(path, "SELECT feature, sum(calls) FROM usage_daily WHERE creator = ? GROUP BY feature", creator))


async def test_writers_that_post_new_names_at_once_agree_which_have_rows(database: Database, path: str) -> None:
    """Each creator's names reach three writers in another order, and one of them knows some of the names before."""
    await database.close()
    writers = [
        Writer(
            partial(lambda name: Transactions(PostgresConnection(path, name, is_shared=True), name), f"writer-{n}"),
            dialect=POSTGRES,
            settle_timeout_s=60,
            calls_max=10_000,
        )
        for n in range(3)
    ]
    creators, names = ("acme", "zeta"), 350
    for writer in writers:
        await writer.start()
    await writers[0].post([entry(f"early {n}", creator="acme", feature=f"f{n}", agent=f"a{n}") for n in range(150)])

    async def post(number: int, creator: str) -> None:
        shuffled = random.Random(number).sample(range(names), names)
        for start in range(0, names, 10):
            await writers[number].post(
                [
                    entry(f"{number} {creator} {n}", creator=creator, feature=f"f{n}", agent=f"a{n}")
                    for n in shuffled[start : start + 10]
                ]
            )

    await asyncio.gather(*(post(number, creator) for number in range(len(writers)) for creator in creators))
    for writer in writers:
        await writer.close(10)
    assert count(path, "entries") == len(writers) * len(creators) * names + 150
    for creator in creators:
        for label in ("feature", "agent"):
            query = f"SELECT count(DISTINCT {label}) FROM usage_daily WHERE creator = ? AND {label} <> ?"
            assert rows(path, query, creator, OTHER) == [(NAMES_MAX,)]
    assert set(features(path, "acme")) >= {f"f{n}" for n in range(150)}
    # A name has rows of its own for every call, or for none.
    for creator in creators:
        counted = features(path, creator)
        known = {name for name in counted if name != OTHER}
        assert counted[OTHER] == len(writers) * (names - len(known))
    assert verify(path).differences == []
