"""`verify` over credits: what grants, refunds, expiries and balances have to say to each other."""

from typing import Any

import pytest
from sqlalchemy import insert

from gateway.ledger.database import Database
from gateway.ledger.records import Route
from gateway.ledger.schema import credit_grants, postings
from gateway.ledger.verify import Difference
from gateway.usage import NO_USAGE
from tests.ledger.books import BOTH, COST, Place, call, change, entry, rows, verify

STORES = BOTH

FREE = {"usage": NO_USAGE, "cost_nano_usd": 0, "charge_nano_usd": 0}
BALANCED = [("g", "grant", -10), ("u", "usage", 6)]


async def post(database: Database, name: str, kind: str, amount: int, **fields: Any) -> str:
    """An entry of `amount` promotional credits, of the creator `acme` unless said otherwise."""
    payer, corrects = fields.pop("payer", "promo_credits"), fields.pop("corrects", None)
    flags = fields.pop("flags", "")
    route = Route("", "", "", payer, "credit")
    changes = {**FREE, "kind": kind, "route": route, "payer_amount": amount, "flags": flags}
    (entry_id,) = await database.ledger.post([entry(name, changes=changes, **fields)], corrects=corrects)
    return entry_id


async def grant(database: Database, credits_given: int = 10, name: str = "g1") -> str:
    """The entry and its row."""
    entry_id = await post(database, name, "grant", -credits_given)
    row = {"entry_id": entry_id, "creator": "acme", "payer": "promo_credits", "credits": credits_given}
    await database.write(insert(credit_grants).values(**row, expires_at=5, created_at=1))
    return entry_id


@pytest.fixture
async def granted(database: Database, path: Place) -> Place:
    """A grant of 10 credits: 3 used, 1 of them given back, and the other 8 expired; posted by name."""
    grant_id = await grant(database)
    used = await post(database, "u1", "usage", 3)
    await post(database, "b1", "refund", -1, corrects=used)
    expiry = await post(database, "x1", "expiry", 8, corrects=grant_id)
    change(path, "UPDATE credit_grants SET expired_entry_id = ?", expiry)
    row = {"creator": "acme", "idempotency_key": "once", "digest": "d", "entry_id": grant_id, "created_at": 1}
    await database.write(insert(postings).values(row))
    return path


def test_credits_that_agree_make_no_difference(granted: Place) -> None:
    assert verify(granted).differences == []


async def test_a_grant_that_left_nothing_to_expire_is_in_order(granted: Place) -> None:
    change(granted, "UPDATE credit_grants SET expired_entry_id = ''")
    assert verify(granted).differences == []


PLANTED = [
    ("UPDATE credit_grants SET credits = 11", "credit_grants", "credits"),
    ("UPDATE credit_grants SET creator = 'zeta'", "credit_grants", "creator"),
    ("UPDATE credit_grants SET payer = 'credits'", "credit_grants", "payer"),
    ("DELETE FROM credit_grants", "credit_grants", "credits"),
    ("UPDATE credit_grants SET entry_id = 'nobody'", "credit_grants", "entry_id"),
    ("UPDATE credit_grants SET expired_entry_id = 'nobody'", "credit_grants", "expired_entry_id"),
    ("UPDATE credit_grants SET expired_entry_id = entry_id", "credit_grants", "expired_entry_id"),
    ("UPDATE postings SET entry_id = 'nobody'", "postings", "entry_id"),
    ("UPDATE postings SET creator = 'zeta'", "postings", "entry_id"),
]


@pytest.mark.parametrize(("sql", "table", "column"), PLANTED, ids=[sql for sql, _, _ in PLANTED])
def test_a_planted_difference_is_found(granted: Place, sql: str, table: str, column: str) -> None:
    change(granted, sql)
    assert (table, column) in {(found.table, found.column) for found in verify(granted).differences}


@pytest.mark.parametrize("column", ["charge_nano_usd", "payer_amount"])
@pytest.mark.parametrize(
    ("refunds", "is_fine"),
    [([-COST], True), ([-COST + 1, -1], True), ([-COST, -1], False), ([-COST - 1], False), ([-5, 5], False)],
)
async def test_no_more_is_given_back_than_was_taken(
    database: Database, path: Place, column: str, refunds: list[int], is_fine: bool
) -> None:
    await call(database, "r1")
    ((paid,),) = rows(path, "SELECT id FROM entries")
    for n, amount in enumerate(refunds):
        changes = {**FREE, "kind": "refund", "payer_amount": 0, column: amount}
        await database.ledger.post([entry(f"b{n}", changes=changes)], corrects=paid)
    found = verify(path).differences
    assert [(difference.key, difference.column) for difference in found] == (
        [] if is_fine else [(paid, f"{column} refunded")]
    )


@pytest.mark.parametrize(
    ("refund", "column"),
    [
        ({"creator": "zeta"}, "creator refunded"),
        ({"payer": "credits"}, "payer refunded"),
        ({"corrects": "nobody"}, "refunded"),
    ],
    ids=["to somebody else", "to another payer", "of no call"],
)
async def test_a_refund_goes_back_where_it_came_from(
    database: Database, path: Place, refund: dict[str, Any], column: str
) -> None:
    await grant(database)
    used = await post(database, "u1", "usage", 5)
    await post(database, "b1", "refund", -1, **{"corrects": used, **refund})
    assert column in {found.column for found in verify(path).differences}


async def test_a_refund_of_a_grant_is_none(granted: Place, database: Database) -> None:
    ((grant_id,),) = rows(granted, "SELECT id FROM entries WHERE kind = 'grant'")
    await post(database, "b2", "refund", -1, corrects=grant_id)
    assert Difference("entries", grant_id, "refunded", "grant", "only calls are") in verify(granted).differences


@pytest.mark.parametrize(
    ("more", "balance"),
    [
        ([], None),
        ([("usage", 7, "")], None),
        ([("usage", 8, "")], -1),
        ([("usage", 8, "clamped,over_hold")], None),
        ([("adjustment", 9, "")], None),
        ([("adjustment", 9, ""), ("usage", 3, "")], None),
        ([("adjustment", 9, ""), ("usage", 8, "")], -10),
        ([("adjustment", -9, ""), ("usage", 16, "")], None),
        ([("expiry", 8, "")], -1),
    ],
)
async def test_no_more_credits_are_gone_than_were_granted(
    database: Database, path: Place, more: list[tuple[str, int, str]], balance: int | None
) -> None:
    """3 of 10 are used; what an adjustment took, or a call beyond its hold, may bring the balance below 0."""
    await grant(database)
    await post(database, "u1", "usage", 3)
    for n, (kind, amount, flags) in enumerate(more):
        await post(database, f"m{n}", kind, amount, flags=flags)
    found = [difference.stored for difference in verify(path).differences if difference.column == "balance"]
    assert found == ([] if balance is None else [balance])


async def test_balances_are_kept_by_payer_and_creator(database: Database, path: Place) -> None:
    await grant(database)
    await post(database, "u1", "usage", 1, payer="credits")
    await post(database, "u2", "usage", 2, creator="zeta")
    found = [(difference.key, difference.stored) for difference in verify(path).differences]
    assert found == [("acme credits", -1), ("zeta promo_credits", -2)]
