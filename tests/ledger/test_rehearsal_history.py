"""What a rehearsal reads, from either store."""

from collections.abc import Mapping
from datetime import timedelta

import orjson
from sqlalchemy import insert

from gateway.catalog import Catalog, Model
from gateway.ledger.database import Database
from gateway.ledger.schema import creators, refusals_daily
from gateway.plans import changed_plan, load_plans
from gateway.rehearsal import Rehearsals, RehearsalWish
from tests.ledger.books import BOTH, COST, MODEL, NOON, PRICE, entry

STORES = BOTH
_CREATOR = {"account_id": "acme", "plan": "pro", "is_active": True, "created_at": 0}


async def test_a_rehearsal_reads_calls_sums_and_refusals_from_either_store(patient_database: Database) -> None:
    await patient_database.write(
        insert(creators).values(id="acme", **_CREATOR),
        insert(creators).values(id="elsewhere", **{**_CREATOR, "plan": "free"}),
        insert(refusals_daily).values(creator="acme", day=NOON.date().isoformat(), reason="x", count=3),
    )
    earlier, later = NOON - timedelta(days=2), NOON + timedelta(minutes=1)
    await patient_database.ledger.post(
        [
            entry("r0", at=earlier),
            entry("r2", at=later),
            entry("r1", at=NOON),
            entry("r3", at=NOON, creator="elsewhere"),
        ]
    )
    plans = load_plans()
    model = Model(MODEL, "openai", MODEL, frozenset({"chat"}), PRICE)
    # Room for one call beside the one before the first day.
    changes: Mapping[str, object] = {"quota_usd_per_month": f"{2 * COST / 1e9:.9f}"}
    wish = RehearsalWish({"pro": changed_plan(plans["pro"], changes)}, days=1)
    catalog = Catalog("1", {}, {MODEL: model})
    report = await Rehearsals().rehearse(patient_database, plans, catalog, wish, NOON + timedelta(hours=1))
    report = orjson.loads(orjson.dumps(report))
    after = report["totals"]["after"]
    assert (after["passed"], after["refused"], after["cost_nano_usd"]) == (1, 1, COST)
    assert after["first_refused_at"] == "2026-05-14T12:01:00.000Z"
    assert report["really_refused"] == {"x": 3}
