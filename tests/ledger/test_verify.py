"""`verify` finds what was changed, and nothing where nothing was; closing a month is for good."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gateway.catalog import Price
from gateway.errors import ConfigError, RequestError
from gateway.ledger.closing import close_month
from gateway.ledger.database import Database
from gateway.ledger.orphans import book_orphans
from gateway.ledger.records import Route
from gateway.ledger.verify import Difference
from gateway.pricing import cost_nano_usd
from gateway.tasks import spawn
from gateway.usage import NO_USAGE, Usage
from tests.ledger.books import (
    BOTH,
    COST,
    MODEL,
    NOON,
    PRICE,
    USAGE,
    Place,
    call,
    change,
    entry,
    hold,
    rows,
    unprotect,
    verify,
)

STORES = BOTH

MAY = "2026-05"


@pytest.fixture
async def booked(database: Database, path: Place) -> Place:
    """Calls that ended in many ways, in a closed month and after it."""
    await call(database, "r1")
    await call(database, "r2", creator="zeta", feature="search")
    await call(database, "r3", at=NOON + timedelta(days=31))
    await database.ledger.hold(hold("crashed"))
    await book_orphans(database)
    refused = {"usage": NO_USAGE, "usage_source": "none", "cost_nano_usd": 0, "charge_nano_usd": 0, "payer_amount": 0}
    await database.ledger.post([entry("refused", changes={**refused, "outcome": "upstream_refused"})])
    ((first,),) = rows(path, "SELECT id FROM entries WHERE request_id = 'r1'")
    back = {**refused, "kind": "refund", "charge_nano_usd": -5, "payer_amount": -5}
    await database.ledger.post([entry("refund", changes=back)], corrects=first)
    free = {"cost_nano_usd": 0, "charge_nano_usd": 0, "payer_amount": 0}
    await database.ledger.post([entry("hit", changes={"cached": True, "saved_nano_usd": COST, **free})])
    await close_month(database, MAY)
    return path


def test_an_untouched_ledger_has_no_difference(booked: Place) -> None:
    report = verify(booked)
    assert report.differences == []
    assert report.differences_count == 0
    assert (report.entries, report.closed_months) == (7, 1)


PLANTED: list[tuple[str, str, str]] = [
    ("UPDATE usage_daily SET cost_nano_usd = cost_nano_usd + 1 WHERE creator = 'zeta'", "usage_daily", "cost_nano_usd"),
    ("UPDATE usage_daily SET calls = 0 WHERE creator = 'zeta'", "usage_daily", "calls"),
    ("UPDATE usage_daily SET saved_nano_usd = 0 WHERE cached", "usage_daily", "saved_nano_usd"),
    ("UPDATE usage_daily SET saved_nano_usd = 1 WHERE creator = 'zeta'", "usage_daily", "saved_nano_usd"),
    ("UPDATE usage_daily SET text_output = 31 WHERE creator = 'zeta'", "usage_daily", "text_output"),
    ("UPDATE usage_daily SET feature = 'x' WHERE creator = 'zeta'", "usage_daily", "calls"),
    ("DELETE FROM usage_daily WHERE creator = 'zeta'", "usage_daily", "calls"),
    ("UPDATE month_charges SET charge_nano_usd = charge_nano_usd - 1", "month_charges", "charge_nano_usd"),
    ("UPDATE month_charges SET units = '{}' WHERE creator = 'zeta'", "month_charges", "units"),
    ("DELETE FROM month_charges WHERE creator = 'zeta'", "month_charges", "charge_nano_usd"),
    (
        "INSERT INTO month_charges SELECT 'ghost', month, 1, 1, 1, '{}', 1 FROM month_charges LIMIT 1",
        "month_charges",
        "calls",
    ),
    ("UPDATE price_rows SET \"row\" = replace(\"row\", '1250000', '1250001')", "entries", "cost_nano_usd"),
    ("UPDATE price_rows SET \"row\" = 'nonsense'", "price_rows", "row"),
    ("DELETE FROM price_rows", "entries", "cost_nano_usd"),
]


@pytest.mark.parametrize(("sql", "table", "column"), PLANTED, ids=[sql for sql, _, _ in PLANTED])
def test_a_planted_difference_is_found(booked: Place, sql: str, table: str, column: str) -> None:
    change(booked, sql)
    report = verify(booked)
    assert report.differences_count == len(report.differences) > 0
    assert (table, column) in {(found.table, found.column) for found in report.differences}


@pytest.mark.parametrize("column", ["cost_nano_usd", "charge_nano_usd", "payer_amount", "uncached_input", "period_day"])
def test_an_entry_changed_past_the_triggers_is_found(booked: Place, column: str) -> None:
    unprotect(booked)
    value = "'2026-05-15'" if column == "period_day" else f"{column} + 1000"
    change(booked, f"UPDATE entries SET {column} = {value} WHERE request_id = 'r1'")
    assert verify(booked).differences_count > 0


async def test_what_is_owed_is_computed_by_the_price_it_names(database: Database, path: Place) -> None:
    own = Price(version="own.1", input=1_000_000, output=1_000_000)
    await database.record_prices({MODEL: own})
    charge = cost_nano_usd(USAGE, own)
    owed = {"charge_price_version": "own.1", "charge_nano_usd": charge, "payer_amount": charge}
    await database.ledger.post([entry("owed", changes=owed)])
    assert verify(path).differences == []
    await database.ledger.post([entry("wrong", changes={**owed, "charge_nano_usd": COST, "payer_amount": COST})])
    await database.ledger.post([entry("unknown", changes={**owed, "charge_price_version": "own.2"})])
    differences = verify(path).differences
    assert [(found.column, found.stored) for found in differences] == [
        ("charge_nano_usd", COST),
        ("charge_nano_usd", charge),
    ]
    assert differences[0].computed == charge
    assert "own.2" in differences[1].computed


async def test_tokens_that_the_own_price_does_not_know_are_owed_at_cost(database: Database, path: Place) -> None:
    catalog = Price(version="2", input=1_000_000, output=1_000_000, audio_input=4_000_000)
    await database.record_prices({MODEL: catalog})
    await database.record_prices({MODEL: Price(version="own.1", input=1_000_000, output=1_000_000)})
    heard = Usage(uncached_input=10, audio_input=5, text_output=3)
    cost = cost_nano_usd(heard, catalog)
    amounts = {"cost_nano_usd": cost, "charge_nano_usd": cost, "payer_amount": cost}
    changes = {"route": Route(MODEL, "openai", "2"), "usage": heard, "charge_price_version": "own.1", **amounts}
    await database.ledger.post([entry("heard", changes=changes)])
    assert verify(path).differences == []


async def test_the_variant_is_part_of_the_price(database: Database, path: Place) -> None:
    images = Price(version="3", images={"1024x1024/hd": 80_000_000_000, "1024x1024/standard": 40_000_000_000})
    await database.record_prices({MODEL: images})
    route, usage = Route(MODEL, "openai", "3", "credits", "credit"), Usage(pieces=2)
    free = {"charge_nano_usd": 0, "payer_amount": 8, "route": route, "usage": usage}
    await database.ledger.post([entry("i1", changes={**free, "variant": "1024x1024/hd", "cost_nano_usd": 160_000_000})])
    await database.ledger.post(
        [entry("i2", changes={**free, "variant": "1024x1024/standard", "cost_nano_usd": 160_000_000})]
    )
    cheaper = [found for found in verify(path).differences if found.column == "cost_nano_usd"]
    assert [(found.stored, found.computed) for found in cheaper] == [(160_000_000, 80_000_000)]


@pytest.mark.parametrize(
    ("changes", "column"),
    [
        ({"payer_amount": COST - 1}, "payer_amount"),
        (
            {"route": Route(MODEL, "openai", PRICE.version, "free_images", "image"), "payer_amount": 1},
            "charge_nano_usd",
        ),
        (
            {
                "route": Route(MODEL, "openai", PRICE.version, "free_images", "image"),
                "payer_amount": -1,
                "charge_nano_usd": 0,
            },
            "payer_amount",
        ),
        ({"kind": "refund", "charge_nano_usd": -1, "payer_amount": -1}, "corrects"),
    ],
    ids=["the quota pays the charge", "images owe no money", "a call takes nothing below 0", "a refund of nothing"],
)
async def test_a_payer_that_contradicts_itself_is_found(
    database: Database, path: Place, changes: dict[str, Any], column: str
) -> None:
    await database.ledger.post([entry("r1", changes=changes)])
    assert [found.column for found in verify(path).differences] == [column]


@pytest.mark.parametrize("kind", ["usage", "refund"])
async def test_only_a_cached_answer_saves(booked: Place, kind: str) -> None:
    """Also where the sums agree with it."""
    unprotect(booked)
    name = {"usage": "r1", "refund": "refund"}[kind]
    change(booked, "UPDATE entries SET saved_nano_usd = 5 WHERE request_id = ?", name)
    key = "period_day = '2026-05-14' AND creator = 'acme' AND NOT cached AND outcome = 'ok' AND kind = ?"
    change(booked, f"UPDATE usage_daily SET saved_nano_usd = 5 WHERE {key}", kind)
    (found,) = verify(booked).differences
    assert (found.table, found.column, found.stored, found.computed) == ("entries", "saved_nano_usd", 5, 0)


def test_a_difference_names_the_row_and_both_values(booked: Place) -> None:
    change(booked, "UPDATE usage_daily SET cost_nano_usd = 7 WHERE creator = 'zeta'")
    (found,) = verify(booked).differences
    assert found == Difference("usage_daily", found.key, "cost_nano_usd", 7, COST)
    assert "zeta" in found.key
    assert "search" in found.key


async def test_verify_reads_one_instant_while_calls_go_on(patient_database: Database, path: Place) -> None:
    async def calls() -> None:
        for n in range(150):
            await call(patient_database, f"r{n}")

    going = spawn(calls(), "calls")
    reports = []
    while not going.done():
        reports.append(await asyncio.to_thread(verify, path))
    await going
    assert [report.differences for report in reports] == [[]] * len(reports)
    assert len({report.entries for report in reports}) > 1


@pytest.mark.sqlite_only
def test_verify_needs_a_database(path: Place) -> None:
    with pytest.raises(ConfigError, match="no database"):
        verify(path)


# Closing


def charges(path: Place) -> list[tuple[Any, ...]]:
    return rows(
        path, "SELECT creator, month, charge_nano_usd, cost_nano_usd, calls, units FROM month_charges ORDER BY creator"
    )


async def test_a_closed_month_holds_one_row_a_creator(database: Database, path: Place) -> None:
    await call(database, "r1")
    await call(database, "r2")
    await call(database, "r3", creator="zeta")
    await call(database, "june", at=NOON + timedelta(days=31))
    await database.ledger.hold(hold("image"))
    in_credits = {"route": Route("m", "p", "1", "credits", "credit"), "charge_nano_usd": 0, "payer_amount": 3}
    await database.ledger.settle("image", [entry("image", changes=in_credits)])
    assert await close_month(database, MAY) == (2, True)
    assert charges(path) == [
        ("acme", MAY, 2 * COST, 3 * COST, 3, f'{{"credits":3,"quota":{2 * COST}}}'),
        ("zeta", MAY, COST, COST, 1, f'{{"quota":{COST}}}'),
    ]


async def test_a_month_counts_what_was_consumed_less_what_was_given_back(database: Database, path: Place) -> None:
    await call(database, "r1")
    ((first,),) = rows(path, "SELECT id FROM entries")
    nothing = {"usage": NO_USAGE, "cost_nano_usd": 0}
    money_back = {**nothing, "kind": "refund", "charge_nano_usd": -7, "payer_amount": -7}
    await database.ledger.post([entry("b1", changes=money_back)], corrects=first)
    route = Route("", "", "", "promo_credits", "credit")
    for name, kind, amount, creator in [
        ("g1", "grant", -10, "acme"),
        ("u1", "usage", 4, "acme"),
        ("a1", "adjustment", 2, "acme"),
        ("x1", "expiry", 4, "acme"),
        ("g2", "grant", -10, "only-granted"),
    ]:
        changes = {**nothing, "kind": kind, "route": route, "charge_nano_usd": 0, "payer_amount": amount}
        await database.ledger.post([entry(name, creator=creator, changes=changes)])
    assert await close_month(database, MAY) == (1, True)
    assert charges(path) == [("acme", MAY, COST - 7, COST, 2, f'{{"promo_credits":6,"quota":{COST - 7}}}')]
    assert [found for found in verify(path).differences if found.table == "month_charges"] == []


async def test_closing_again_changes_nothing(database: Database, path: Place) -> None:
    await call(database, "r1")
    await close_month(database, MAY)
    before = rows(path, "SELECT * FROM month_charges")
    assert await close_month(database, MAY) == (1, False)
    assert rows(path, "SELECT * FROM month_charges") == before


async def test_a_month_without_usage_can_be_closed_too(database: Database) -> None:
    assert await close_month(database, "2020-01") == (0, True)
    assert await close_month(database, "2020-01") == (0, False)


async def test_a_month_with_an_open_call_is_not_closed(database: Database, path: Place) -> None:
    await database.ledger.hold(hold("open", at=datetime(2026, 5, 31, 23, 59, 59, 999_000, UTC)))
    with pytest.raises(RequestError, match="still open") as refused:
        await close_month(database, MAY)
    assert refused.value.status == 409
    assert charges(path) == []
    await close_month(database, "2026-04")
    await database.ledger.settle("open", [entry("open")])
    assert await close_month(database, MAY) == (1, True)


async def test_a_call_of_the_next_month_does_not_keep_a_month_open(database: Database) -> None:
    await database.ledger.hold(hold("june", at=datetime(2026, 6, 1, tzinfo=UTC)))
    assert await close_month(database, MAY) == (0, True)


async def test_a_month_that_is_not_over_is_not_closed(database: Database) -> None:
    with pytest.raises(RequestError, match="not over"):
        await close_month(database, datetime.now(UTC).strftime("%Y-%m"))
    with pytest.raises(RequestError, match="takes a month"):
        await close_month(database, "9999-12")
