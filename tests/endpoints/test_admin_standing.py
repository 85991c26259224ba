"""`/admin/standing`, a creator's limits and refusals, and the months side by side, asked as an admin would."""

import random
from asyncio import Event
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import insert, update
from starlette.types import Message

from gateway.ledger.periods import now_ms, period_of
from gateway.ledger.records import Entry
from gateway.ledger.schema import creators, refusals_daily
from tests.dashboard.world import NOON, World, opened_dashboard
from tests.ledger.books import ROUTE, entry, hold

PAYERS = ("quota", "credits", "promo_credits", "free_images")
NAMES = ("ada", "bo", "cy", "di", "ed")


def random_entry(number: int, chance: random.Random, *, names: tuple[str, ...] = NAMES, months: int = 1) -> Entry:
    """A call, a refund or an adjustment, of any payer, in May 2026 or one of the months before."""
    payer, kind = chance.choice(PAYERS), chance.choice(("usage", "usage", "usage", "refund", "adjustment"))
    amount = chance.randrange(1, 10**12) * (1 if kind == "usage" else -1)
    at = NOON - timedelta(days=30 * chance.randrange(months), hours=chance.randrange(24 * 19))
    changes = {
        "route": ROUTE._replace(payer=payer, payer_unit="nano_usd" if payer == "quota" else "credit"),
        "kind": kind,
        "final": kind == "usage",
        "cost_nano_usd": amount if kind == "usage" else 0,
        "charge_nano_usd": amount if payer == "quota" else 0,
        "payer_amount": amount if payer == "quota" else chance.randrange(9),
        "outcome": chance.choice(("ok", "error")),
    }
    return entry(f"req_{number}", creator=chance.choice(names), at=at, changes=changes)


async def post(world: World, *posted: Entry) -> None:
    await world.services.database.ledger.post(list(posted))


@pytest.fixture
async def world(tmp_path):
    async with opened_dashboard(tmp_path, creators=(), has_calls=False) as world:
        yield world


async def ask(world: World, path: str, **params: Any) -> Any:
    return await world.admin_api("GET", path, params=params)


async def refused(world: World, path: str, *, status: int, **params: Any) -> str:
    answer = await world.owner.api("GET", path, world.admin_keys["owner"], params=params)
    assert answer.status_code == status, answer.text
    return str(answer.json()["error"]["code"])


async def make(world: World, *names: str, plan: str = "open", **fields: Any) -> None:
    for name in names:
        await world.services.accounts.create_creator(name, plan=plan, **fields)


@pytest.mark.parametrize("seed", range(3))
async def test_every_row_has_the_figures_that_the_creator_sees_itself_and_is_charged(world, seed):
    chance = random.Random(seed)
    await make(world, *NAMES, plan="narrow")
    await post(world, *(random_entry(number, chance, months=3) for number in range(60)))
    rows = {row["creator"]: row for row in (await ask(world, "/admin/standing"))["data"]}
    charges = {row["creator"]: row for row in (await ask(world, "/admin/charges", month="2026-05"))["data"]}
    assert set(rows) == set(NAMES)
    for name, row in rows.items():
        month = (await ask(world, f"/admin/creators/{name}/limits"))["month"]
        for field in ("calls", "cost_nano_usd", "cost_usd", "charge_nano_usd", "charge_usd", "forecast_cost_nano_usd"):
            assert row[field] == month[field], (name, field)
        for field in ("budget_usd", "quota_usd"):
            assert row[field] == month[field], (name, field)
        charged = charges.get(name, {"calls": 0, "cost_nano_usd": 0, "charge_nano_usd": 0})
        assert all(row[field] == charged[field] for field in ("calls", "cost_nano_usd", "charge_nano_usd"))
        assert len(row["daily_cost_nano_usd"]) == NOON.day
        assert sum(row["daily_cost_nano_usd"]) == row["cost_nano_usd"]


@pytest.mark.parametrize("sort", ["spend", "forecast", "used", "name"])
async def test_pages_show_everybody_once_and_in_order(world, sort):
    names = [f"cr{number}" for number in range(7)]
    await make(world, *names[:5], plan="narrow")
    await make(world, *names[5:], overrides={"quota_usd_per_month": None})
    chance = random.Random(7)
    # Some spent nothing, and some the same: ties must not lose anybody.
    await post(world, *(random_entry(number, chance, names=("cr0", "cr3", "cr6")) for number in range(9)))
    found, cursor = [], None
    while True:
        cursors = {} if cursor is None else {"cursor": cursor}
        page = await ask(world, "/admin/standing", sort=sort, limit=2, **cursors)
        assert len(page["data"]) <= 2
        found += page["data"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert sorted(row["creator"] for row in found) == names
    values = {
        "spend": [-row["cost_nano_usd"] for row in found],
        "forecast": [-row["forecast_cost_nano_usd"] for row in found],
        "used": [1 if row["used_permille"] is None else -row["used_permille"] for row in found],
        "name": [row["creator"] for row in found],
    }[sort]
    assert values == sorted(values)
    assert (await ask(world, "/admin/standing", sort=sort, limit=7))["data"] == found


async def test_a_list_is_narrowed_by_plan_part_of_a_name_and_state(world):
    await make(world, "ada", plan="narrow", name="Ada Lovelace")
    await make(world, "bo", overrides={"budget_usd_per_month": "0.08"})
    await make(world, "cy")
    await world.services.accounts.update_creator("cy", {"is_active": False})
    await make(world, "gone")
    await world.services.accounts.delete_creator("gone")
    key = str((await world.services.accounts.create_key("bo"))["key"])
    assert (await world.gateway.images(key, "premium")).status == 200

    async def named(**params: Any) -> list[str]:
        return sorted(row["creator"] for row in (await ask(world, "/admin/standing", **params))["data"])

    assert await named() == ["ada", "bo", "cy"]
    assert await named(plan="narrow") == ["ada"]
    assert await named(q="LOVE") == ["ada"]
    assert await named(q="%") == []
    assert await named(state="inactive") == ["cy"]
    assert await named(state="near_limit") == ["bo"]
    assert await named(state="downgraded") == ["bo"]
    assert await named(state="downgraded", plan="narrow") == []
    (row,) = (await ask(world, "/admin/standing", q="bo"))["data"]
    assert (row["is_downgraded"], row["used_permille"], row["last_day"]) == (True, 1000, "2026-05-20")
    assert (await ask(world, "/admin/creators/bo/limits"))["downgrade"]["is_active"] is True


async def test_pages_of_the_downgraded_pass_over_those_who_are_not(world):
    """By the ledger every one of them is so near its cap that it may be; only the counters know."""
    for number in range(6):
        await make(world, f"cr{number}", overrides={"budget_usd_per_month": "0.08"})
        if number % 2:
            key = str((await world.services.accounts.create_key(f"cr{number}"))["key"])
            assert (await world.gateway.images(key, "premium")).status == 200
        else:
            changes = {"cost_nano_usd": 79_000_000, "charge_nano_usd": 0, "payer_amount": 0}
            await post(world, entry(f"req_{number}", creator=f"cr{number}", at=NOON, changes=changes))
    first = await ask(world, "/admin/standing", state="downgraded", sort="name", limit=2)
    second = await ask(world, "/admin/standing", state="downgraded", sort="name", limit=2, cursor=first["next_cursor"])
    assert [row["creator"] for row in first["data"]] == ["cr1", "cr3"]
    assert [row["creator"] for row in second["data"]] == ["cr5"]
    assert second["next_cursor"] is None


async def test_a_creator_whose_plan_left_the_file_is_listed_without_caps(world):
    await make(world, "ada")
    await world.services.database.write(update(creators).values(plan="gone"))
    (row,) = (await ask(world, "/admin/standing"))["data"]
    assert (row["plan"], row["budget_usd"], row["used_permille"], row["is_downgraded"]) == ("gone", None, None, False)
    assert await refused(world, "/admin/creators/ada/limits", status=403) == "plan_unknown"


@pytest.mark.parametrize(
    ("params", "code"),
    [
        pytest.param({"sort": "luck"}, "invalid_value", id="sort"),
        pytest.param({"state": "rich"}, "invalid_value", id="state"),
        pytest.param({"limit": "0"}, "invalid_value", id="no-rows"),
        pytest.param({"limit": "201"}, "invalid_value", id="too-many-rows"),
        pytest.param({"cursor": "zzz"}, "invalid_value", id="cursor"),
        pytest.param({"cursor": "WyJuYW1lIiwieCIsInkiXQ"}, "invalid_value", id="cursor-of-another-order"),
        pytest.param({"cursor": "WyJzcGVuZCIsInRydWUiLDFd"}, "invalid_value", id="cursor-of-wrong-types"),
        pytest.param({"color": "red"}, "unknown_parameter", id="unknown"),
    ],
)
async def test_a_wrong_question_about_creators_is_refused(world, params, code):
    assert await refused(world, "/admin/standing", status=400, **params) == code


async def test_limits_are_those_that_the_creator_is_told(world):
    await world.new_creator("ada", plan="narrow")
    await world.call("ada")
    told = (await world.owner.api("GET", "/v1/me", world.keys["ada"])).json()
    shown = await ask(world, "/admin/creators/ada/limits")
    # Windows step on between two answers.
    for view in (told, shown):
        for limit in view["limits"]:
            del limit["reset_s"], limit["resets_at"]
    del told["key_id"]
    assert shown == {**told, "object": "creator.limits"}


async def test_nobody_has_limits_or_refusals_under_an_unknown_id(world):
    for what in ("limits", "refusals"):
        assert await refused(world, f"/admin/creators/nobody/{what}", status=404) == "creator_not_found"


async def test_refusals_are_counted_by_day_and_reason(world):
    await make(world, "ada", "bo")
    rows = [
        ("ada", "2026-05-19", "rate_limit", 3),
        ("ada", "2026-05-20", "rate_limit", 1),
        ("ada", "2026-04-30", "x", 9),
    ]
    rows += [("ada", "2026-05-20", "insufficient_quota", 2), ("bo", "2026-05-20", "rate_limit", 8)]
    names = ("creator", "day", "reason", "count")
    for row in rows:
        await world.services.database.write(insert(refusals_daily).values(dict(zip(names, row, strict=True))))
    shown = await ask(world, "/admin/creators/ada/refusals")
    assert [(row["day"], row["reason"], row["count"]) for row in shown["data"]] == [
        ("2026-05-19", "rate_limit", 3),
        ("2026-05-20", "insufficient_quota", 2),
        ("2026-05-20", "rate_limit", 1),
    ]
    span = {"from": "2026-04-30", "to": "2026-05-20"}
    assert [row["count"] for row in (await ask(world, "/admin/creators/ada/refusals", **span))["data"]] == [9, 3]
    assert await refused(world, "/admin/creators/ada/refusals", status=400, to="tomorrow") == "invalid_value"


async def test_credit_packages_are_listed_as_the_file_has_them(world):
    packages = (await ask(world, "/admin/credit-packages"))["data"]
    assert packages == [{"name": "small", "credits": 100, "price_usd": "9"}]


async def test_a_file_has_everybody_once_also_if_somebody_spends_while_it_is_read(world):
    names = [f"c{number:03}" for number in range(201)]
    about = {"plan": "open", "name": "", "overrides": "{}", "metadata": "{}", "is_active": True, "created_at": 1}
    rows = [{"id": name, "account_id": name, **about} for name in names]
    await world.services.database.write(insert(creators).values(rows))
    written: list[bytes] = []

    async def receive() -> Message:
        return await Event().wait()

    async def send(message: Message) -> None:
        if not written:  # the first page is read, and whoever is last of all is now the first
            await post(world, entry("req_more", creator=names[-1], at=NOON, changes={"cost_nano_usd": 10**15}))
        written.append(message.get("body", b""))

    key = world.admin_keys["owner"].encode()
    about_request = {"type": "http", "method": "GET", "path": "/admin/standing", "query_string": b"format=csv"}
    await world.app({**about_request, "headers": [(b"authorization", b"Bearer " + key)]}, receive, send)
    lines = b"".join(written).decode().splitlines()
    assert [line.partition(",")[0] for line in lines[1:]] == names


# Months


@pytest.mark.parametrize("seed", range(3))
async def test_months_sum_what_the_charges_of_each_month_sum(world, seed):
    chance = random.Random(seed)
    await post(world, *(random_entry(number, chance, months=4) for number in range(80)))
    await world.admin_api("POST", "/admin/charges/2026-03/close")
    months = (await ask(world, "/admin/charges/months", count=6))["data"]
    assert [month["month"] for month in months] == [f"2026-{number:02d}" for number in (5, 4, 3, 2, 1)] + ["2025-12"]
    for month in months:
        charges = await ask(world, "/admin/charges", month=month["month"])
        for name in ("calls", "charge_nano_usd", "cost_nano_usd"):
            assert month[name] == sum(row[name] for row in charges["data"]) == charges["totals"][name]
        assert charges["totals"]["creators"] == len(charges["data"])
        assert month["state"] == ("closed" if month["month"] == "2026-03" else "closable")
        assert (month["closed_at"] is not None) == charges["closed"]


async def test_a_month_says_what_keeps_it_open(world):
    await world.services.database.ledger.hold(hold("req_open", at=NOON))
    running = period_of(now_ms())[1]
    (may,) = (await ask(world, "/admin/charges/months", to="2026-05", count=1))["data"]
    (now,) = (await ask(world, "/admin/charges/months", to=running, count=1))["data"]
    assert (may["state"], may["open_calls"]) == ("held_open", 1)
    assert (now["state"], now["open_calls"]) == ("running", 0)
    await world.services.database.ledger.settle("req_open", [entry("req_open", at=NOON)])
    (may,) = (await ask(world, "/admin/charges/months", to="2026-05", count=1))["data"]
    assert (may["state"], may["open_calls"]) == ("closable", 0)


@pytest.mark.parametrize(
    "params", [{"to": "May"}, {"to": "2026-13"}, {"count": "0"}, {"count": "37"}, {"month": "2026-05"}], ids=str
)
async def test_a_wrong_question_about_months_is_refused(world, params):
    await refused(world, "/admin/charges/months", status=400, **params)


async def test_months_end_where_the_calendar_begins(world):
    months = (await ask(world, "/admin/charges/months", to="0001-02", count=5))["data"]
    assert [month["month"] for month in months] == ["0001-02", "0001-01"]
