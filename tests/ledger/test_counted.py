"""What counters ask about calls by their ids."""

from gateway.ledger.counted import ended_among, open_among
from gateway.ledger.database import Database
from tests.ledger.books import BOTH, call, hold

STORES = BOTH
MANY = [f"unheard of {number}" for number in range(1_200)]
"""More than one question asks for."""


async def test_a_call_is_open_then_ended_and_never_both(database: Database) -> None:
    await database.ledger.hold(hold("open"))
    await call(database, "ended")
    asked = ["open", *MANY, "ended"]
    assert await open_among(database, asked) == {"open"}
    assert await ended_among(database, asked) == {"ended"}
    assert await open_among(database, []) == frozenset()
