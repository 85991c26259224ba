"""What a creator reads about itself: its own, nobody else's, page by page."""

from datetime import timedelta
from typing import Any

import orjson
import pytest
from sqlalchemy import insert

from gateway.decision import decision_text
from gateway.errors import StoreError
from gateway.ledger.creator_queries import (
    MonthSums,
    call_of_creator,
    calls_of_creator,
    corrections_of,
    credit_history,
    grants_of_creator,
    month_of_creator,
    price_of_version,
    usage_of_creator,
)
from gateway.ledger.database import Database
from gateway.ledger.entry_json import ENTRY_FIELDS, entry_json, explained_json
from gateway.ledger.periods import ms_of
from gateway.ledger.queries import EntryFilter, charges_of_month, entries_of_request, entry_page
from gateway.ledger.records import Route
from gateway.ledger.schema import credit_grants
from gateway.pricing import usd
from gateway.usage import NO_USAGE
from tests.ledger.books import BOTH, COST, MODEL, NOON, PRICE, Place, call, change, entry

STORES = BOTH

MAY = {"from_day": "2026-05-01", "to_day": "2026-06-01"}


async def post(database: Database, name: str, *, corrects: str | None = None, **fields: Any) -> str:
    changes = fields.pop("changes", {})
    (entry_id,) = await database.ledger.post([entry(name, changes=changes, **fields)], corrects=corrects)
    return entry_id


def credits(kind: str, amount: int, payer: str = "credits") -> dict[str, Any]:  # noqa: A001
    nothing = {"usage": NO_USAGE, "cost_nano_usd": 0, "charge_nano_usd": 0}
    return {**nothing, "kind": kind, "route": Route("", "", "", payer, "credit"), "payer_amount": amount}


@pytest.fixture
async def used(database: Database) -> Database:
    """Three calls of `acme` on two days with two models, one call of `zeta`, and a refund."""
    first = await post(database, "r1")
    await post(database, "r2", feature="search", changes={"route": Route("other", "openai", "1")})
    await post(database, "r3", at=NOON + timedelta(days=1))
    await post(database, "z1", creator="zeta")
    back = {"kind": "refund", "charge_nano_usd": -5, "payer_amount": -5, "usage": NO_USAGE, "cost_nano_usd": 0}
    await post(database, "b1", corrects=first, at=NOON + timedelta(days=1), changes=back)
    return database


@pytest.mark.parametrize(
    ("group_by", "expected"),
    [
        ([], [(3,)]),
        (["day"], [("2026-05-14", 2), ("2026-05-15", 1)]),
        (["model"], [(MODEL, 2), ("other", 1)]),
        (["feature"], [("chat-ui", 2), ("search", 1)]),
        (["day", "model"], [("2026-05-14", MODEL, 1), ("2026-05-14", "other", 1), ("2026-05-15", MODEL, 1)]),
    ],
    ids=["nothing", "day", "model", "feature", "two"],
)
async def test_usage_is_the_creators_own_calls(
    used: Database, group_by: list[str], expected: list[tuple[Any, ...]]
) -> None:
    found = await usage_of_creator(used, "acme", group_by, **MAY)
    assert [(*(row[name] for name in group_by), row["calls"]) for row in found] == expected
    assert sum(row["charge_nano_usd"] for row in found) == 3 * COST


async def test_a_creator_without_usage_has_no_rows(used: Database) -> None:
    for group_by in ([], ["day"]):
        assert await usage_of_creator(used, "nobody", group_by, **MAY) == []
    assert await usage_of_creator(used, "acme", ["day"], from_day="2026-05-16", to_day="2026-06-01") == []


async def test_a_month_is_summed_up_to_now(used: Database) -> None:
    await post(used, "i1", changes=credits("usage", 3) | {"cost_nano_usd": 11})
    found = await month_of_creator(used, "acme", "2026-05")
    assert found == MonthSums(3 * COST + 11, 3 * COST - 5, 4, corrected_nano_usd=-5)
    assert await month_of_creator(used, "acme", "2026-06") == MonthSums(0, 0, 0)


async def test_a_month_is_the_creators_row_among_all_charges(used: Database) -> None:
    await post(used, "a1", changes={"kind": "adjustment", "charge_nano_usd": 70, "cost_nano_usd": 0})
    await post(used, "g1", changes=credits("grant", -10))
    charges, _ = await charges_of_month(used, "2026-05")
    assert {row["creator"] for row in charges} == {"acme", "zeta"}
    for row in charges:
        found = await month_of_creator(used, row["creator"], "2026-05")
        assert found[:3] == (row["cost_nano_usd"], row["charge_nano_usd"], row["calls"])


async def test_calls_come_in_pages_the_newest_first(used: Database) -> None:
    first = await calls_of_creator(used, "acme", limit=2)
    assert [row["request_id"] for row in first] == ["r3", "r2"]
    second = await calls_of_creator(used, "acme", limit=2, before=first[-1]["id"])
    assert [row["request_id"] for row in second] == ["r1"]
    assert await calls_of_creator(used, "acme", limit=2, before=second[-1]["id"]) == []
    posted_ms = first[0]["created_at"]
    assert await calls_of_creator(used, "acme", limit=9, from_ms=posted_ms + 1) == []
    assert len(await calls_of_creator(used, "acme", limit=9, from_ms=ms_of(NOON), to_ms=posted_ms + 1)) == 3


async def test_a_call_is_shown_to_its_creator_only(used: Database) -> None:
    (row,) = await call_of_creator(used, "acme", "r1")
    assert (row["request_id"], row["cost_nano_usd"]) == ("r1", COST)
    assert await call_of_creator(used, "acme", "z1") == []
    assert await call_of_creator(used, "acme", "b1") == []
    assert await call_of_creator(used, "acme", "unknown") == []


async def test_every_attempt_of_a_call_is_shown(database: Database) -> None:
    attempts = [entry("r1", changes={"final": False}), entry("r1", changes={"attempt": 2})]
    await database.ledger.post(attempts)
    assert [row["attempt"] for row in await call_of_creator(database, "acme", "r1")] == [1, 2]


async def test_the_credit_history_tells_what_came_and_went(used: Database) -> None:
    grant = await post(used, "g1", changes=credits("grant", -10, "promo_credits"))
    row = {"entry_id": grant, "creator": "acme", "payer": "promo_credits", "credits": 10, "created_at": 1}
    await used.write(insert(credit_grants).values(**row, expires_at=99))
    spent = await post(used, "u1", changes=credits("usage", 4, "promo_credits"))
    await post(used, "x1", changes=credits("expiry", 6, "promo_credits"), corrects=grant)
    await post(used, "g2", changes=credits("grant", -10), creator="zeta")
    history = await credit_history(used, "acme", limit=2)
    assert [(row["kind"], row["payer_amount"], row["expires_at"]) for row in history] == [
        ("expiry", 6, None),
        ("usage", 4, None),
    ]
    older = await credit_history(used, "acme", limit=9, before=spent)
    assert [(row["kind"], row["payer_amount"], row["expires_at"]) for row in older] == [("grant", -10, 99)]
    assert await grants_of_creator(used, "acme") == [{**row, "expires_at": 99, "expired_entry_id": None}]
    assert await grants_of_creator(used, "zeta") == []


async def test_corrections_are_found_by_what_they_correct(used: Database) -> None:
    (paid,) = await call_of_creator(used, "acme", "r1")
    assert [(row["request_id"], row["kind"]) for row in await corrections_of(used, paid["id"])] == [("b1", "refund")]
    assert await corrections_of(used, "unknown") == []


async def test_a_price_is_found_by_its_version(database: Database, path: Place) -> None:
    assert await price_of_version(database, MODEL, PRICE.version) == PRICE
    assert await price_of_version(database, MODEL, "9.zzz") is None
    change(path, "UPDATE price_rows SET row = 'nonsense'")
    with pytest.raises(StoreError, match="cannot be read"):
        await price_of_version(database, MODEL, PRICE.version)


# How an entry is shown


async def test_only_the_explanation_of_one_call_has_its_decision(database: Database) -> None:
    decided = {"variant": "flex", "charge_price_version": "own.1", "decision": decision_text((), (4, 3, 2, 1))}
    first = await post(database, "r1", changes=decided)
    await call(database, "r2")
    await post(database, "b1", corrects=first, changes={**credits("refund", -1), "decision": "kept back as well"})
    page = await entry_page(database, EntryFilter(), limit=9, before=None)
    corrections = await corrections_of(database, first)
    assert (len(page), len(corrections)) == (3, 1)
    for row in (*page, *await calls_of_creator(database, "acme", limit=9), *corrections):
        assert row["decision"] == ""
        assert tuple(entry_json(row)) == ENTRY_FIELDS
    assert "decision" not in ENTRY_FIELDS
    (explained,) = await entries_of_request(database, "r1")
    shown = explained_json(explained)
    assert (shown["variant"], shown["charge_price_version"]) == ("flex", "own.1")
    assert shown["decision"]["estimate"]["worst_cost_nano_usd"] == 4
    assert orjson.loads(orjson.dumps(shown)) == shown
    assert explained["decision"] == decided["decision"]
    (before_there_were_any,) = await entries_of_request(database, "r2")
    assert explained_json(before_there_were_any)["decision"] is None


async def test_lists_show_what_a_cached_answer_saved(database: Database) -> None:
    free = {"cost_nano_usd": 0, "charge_nano_usd": 0, "payer_amount": 0}
    await post(database, "hit", changes={**free, "cached": True, "saved_nano_usd": COST, "decision": "x" * 5_000})
    await post(database, "miss", changes={"decision": "x" * 5_000})
    for page in (
        await entry_page(database, EntryFilter(), limit=9, before=None),
        await calls_of_creator(database, "acme", limit=9),
    ):
        shown = {row["request_id"]: entry_json(row) for row in page}
        assert [(shown[name]["saved_nano_usd"], shown[name]["saved_usd"]) for name in ("hit", "miss")] == [
            (COST, usd(COST)),
            (0, "0"),
        ]
