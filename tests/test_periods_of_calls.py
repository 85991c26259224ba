"""A call belongs to the day and the month of its admission, in UTC, whenever it ends, wherever the host is and however
its clock moves."""

import asyncio
import json
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.clocked_gateway import USD, Answer, Clock, ClockedGateway, image_model, opened, utc
from tests.rig.environment import REPOSITORY, inherited

PICTURE = USD // 4
"""What `painter` costs."""
HALF_WAITS = image_model("gallery-half-waits", price="0.02", credits=1, upstream="f100d0n0-half")
BOUNDARIES = [
    pytest.param(utc(2023, 3, 1), id="28 days"),
    pytest.param(utc(2024, 3, 1), id="29 days, leap year"),
    pytest.param(utc(2025, 5, 1), id="30 days"),
    pytest.param(utc(2025, 8, 1), id="31 days"),
    pytest.param(utc(2026, 1, 1), id="year end"),
]
BEFORE = timedelta(milliseconds=100)


async def limits_at(gateway: ClockedGateway, key: str, at: datetime) -> dict[str, dict[str, Any]]:
    """The limits as `/v1/me` would have shown them at another instant."""
    now = gateway.clock.now
    gateway.clock.turn_to(at)
    try:
        return await gateway.limits(key)
    finally:
        gateway.clock.turn_to(now)


async def across(gateway: ClockedGateway, midnight: datetime, key: str, model: str, **fields: Any) -> Answer:
    """A call admitted at 23:59:59.9 whose answer comes after midnight."""
    gateway.clock.turn_to(midnight - BEFORE)
    task = asyncio.get_running_loop().create_task(gateway.images(key, model, **fields))
    await gateway.has_in_flight(1)
    gateway.clock.turn_to(midnight + BEFORE)
    return await task


@pytest.mark.parametrize("midnight", BOUNDARIES)
async def test_a_call_admitted_before_midnight_and_settled_after_it_is_of_the_old_month(
    tmp_path: Path, midnight: datetime
) -> None:
    before = midnight - BEFORE
    old_day, old_month = f"{before:%Y-%m-%d}", f"{before:%Y-%m}"
    clock = Clock(before)
    async with opened(tmp_path, clock) as gateway:
        key = await gateway.new_key(quota_usd_per_month=1, budget_usd_per_month=100, budget_hard_usd_per_month=100)
        answer = await across(gateway, midnight, key, "painter-waits", n=3)
        assert answer.status == 200
        columns = "period_day, period_month, admitted_at, charge_nano_usd, outcome"
        admitted_ms = int(midnight.timestamp() * 1000) - 100
        assert gateway.entries(columns) == [(old_day, old_month, admitted_ms, 3 * PICTURE, "ok")]
        assert gateway.rollup("period_day, calls, cost_nano_usd") == [(old_day, 1, 3 * PICTURE)]
        for name in ("quota_usd_per_month", "budget_usd_per_month", "budget_hard_usd_per_month"):
            old, new = (await limits_at(gateway, key, before))[name], (await gateway.limits(key))[name]
            assert (old["used"], old["held"]) == (3 * PICTURE, 0), name
            assert (new["used"], new["held"]) == (0, 0), name
        month = (await gateway.view(key))["month"]
        assert (month["period"], month["calls"], month["cost_nano_usd"]) == (f"{midnight:%Y-%m}", 0, 0)
        # The new month's quota is whole: four pictures fit, a fifth does not.
        assert (await gateway.images(key, n=4)).status == 200
        assert (await gateway.images(key)).code == "insufficient_quota"
        assert gateway.differences() == []
    async with opened(tmp_path, clock) as gateway:
        assert (await gateway.limits(key))["quota_usd_per_month"]["used"] == 4 * PICTURE
    clock.turn_to(before)
    async with opened(tmp_path, clock) as gateway:
        assert (await gateway.limits(key))["quota_usd_per_month"]["used"] == 3 * PICTURE


@pytest.mark.parametrize("midnight", BOUNDARIES[-2:])
async def test_while_it_runs_across_midnight_a_call_holds_only_the_old_months_money(
    tmp_path: Path, midnight: datetime
) -> None:
    clock = Clock(midnight - BEFORE)
    async with opened(tmp_path, clock) as gateway:
        key = await gateway.new_key(quota_usd_per_month=1)
        task = asyncio.get_running_loop().create_task(gateway.images(key, "painter-waits", n=4))
        await gateway.has_in_flight(1)
        assert (await gateway.limits(key))["quota_usd_per_month"]["held"] == 4 * PICTURE
        clock.turn_to(midnight)
        assert (await gateway.limits(key))["quota_usd_per_month"]["held"] == 0
        assert (await gateway.images(key, n=4)).status == 200
        assert (await task).status == 200
        days = [row[0] for row in gateway.entries("period_month")]
        assert sorted(days) == [f"{midnight - BEFORE:%Y-%m}", f"{midnight:%Y-%m}"]


@pytest.mark.parametrize("midnight", [*BOUNDARIES[1::3], pytest.param(utc(2025, 6, 11), id="an ordinary night")])
async def test_free_images_of_a_call_across_midnight_are_those_of_its_first_day(
    tmp_path: Path, midnight: datetime
) -> None:
    """Three were asked for and two came back: the third goes back to the day it was taken from."""
    clock = Clock(midnight - BEFORE)
    async with opened(tmp_path, clock, models=HALF_WAITS) as gateway:
        key = await gateway.new_key(free_images_per_day=3)
        answer = await across(gateway, midnight, key, "gallery-half-waits", n=3)
        assert (answer.status, answer.headers["x-gateway-payer"]) == (200, "free_images")
        assert (await limits_at(gateway, key, midnight - BEFORE))["free_images_per_day"]["used"] == 2
        assert (await gateway.view(key))["free_images_today"]["left"] == 3
        assert gateway.entries("period_day, payer_amount") == [(f"{midnight - BEFORE:%Y-%m-%d}", 2)]
    async with opened(tmp_path, clock, models=HALF_WAITS) as gateway:
        assert (await gateway.view(key))["free_images_today"]["left"] == 3
        assert (await gateway.images(key, "gallery", n=3)).headers["x-gateway-payer"] == "free_images"
        assert (await gateway.images(key, "gallery")).code == "insufficient_quota"
    clock.turn_to(midnight - BEFORE)
    async with opened(tmp_path, clock, models=HALF_WAITS) as gateway:
        assert (await gateway.view(key))["free_images_today"]["left"] == 1


async def test_a_failed_call_across_midnight_gives_the_old_days_images_back(tmp_path: Path) -> None:
    midnight = utc(2025, 6, 11)
    async with opened(tmp_path, Clock(midnight)) as gateway:
        key = await gateway.new_key(free_images_per_day=3)
        assert (await across(gateway, midnight, key, "gallery-dies", n=3)).code == "upstream_died"
        assert (await limits_at(gateway, key, midnight - BEFORE))["free_images_per_day"]["remaining"] == 3
        assert (await gateway.view(key))["free_images_today"]["left"] == 3


# The first second of a month


async def crowd(gateway: ClockedGateway, key: str, model: str) -> list[Answer]:
    """64 calls at once; all are decided before the provider answers the first."""
    return list(await asyncio.gather(*(gateway.images(key, model) for _ in range(64))))


async def test_64_first_calls_in_the_first_second_of_a_month_share_its_quota_exactly(tmp_path: Path) -> None:
    clock = Clock(utc(2025, 3, 1, 0, 0, 0.2))
    async with opened(tmp_path, clock) as gateway:
        key = await gateway.new_key(quota_usd_per_month="2.5")
        answers = await crowd(gateway, key, "painter-waits")
        refused = [answer for answer in answers if answer.status != 200]
        assert len(refused) == 54
        # The money was held by calls in flight, which might have given some of it back.
        assert {(answer.status, answer.code) for answer in refused} == {(429, "rate_limit_exceeded")}
        assert all(int(answer.headers["retry-after"]) <= 2 for answer in refused)
        late = await gateway.images(key)
        assert (late.code, late.headers["x-should-retry"]) == ("insufficient_quota", "false")
        limit = (await gateway.limits(key))["quota_usd_per_month"]
        assert (limit["used"], limit["held"], limit["remaining"]) == (2_500_000_000, 0, 0)
        assert gateway.rollup("period_day, calls, charge_nano_usd") == [("2025-03-01", 10, 2_500_000_000)]
        assert gateway.differences() == []


async def test_crowds_on_both_sides_of_midnight_get_each_months_quota_exactly(tmp_path: Path) -> None:
    midnight = utc(2026, 1, 1)
    clock = Clock(midnight - BEFORE)
    async with opened(tmp_path, clock) as gateway:
        key = await gateway.new_key(quota_usd_per_month="2.5")
        old = asyncio.get_running_loop().create_task(crowd(gateway, key, "painter-waits"))
        await gateway.has_in_flight(10)
        clock.turn_to(midnight)
        new = await crowd(gateway, key, "painter-waits")
        for answers in (await old, new):
            assert sum(answer.status == 200 for answer in answers) == 10
        sums = gateway.rollup("period_day, calls, charge_nano_usd")
        assert sums == [("2025-12-31", 10, 2_500_000_000), ("2026-01-01", 10, 2_500_000_000)]


async def test_64_first_calls_of_a_day_share_its_free_images_and_then_the_credits_exactly(tmp_path: Path) -> None:
    async with opened(tmp_path, Clock(utc(2024, 2, 29, 0, 0, 0.2))) as gateway:
        key = await gateway.new_key(free_images_per_day=3)
        await gateway.services.credits.grant("acme", "promo_credits", credits=5, expires_at=utc(2024, 3, 1))
        await gateway.services.credits.grant("acme", credits=7)
        answers = await crowd(gateway, key, "gallery-waits")
        payers = [answer.headers.get("x-gateway-payer", "") for answer in answers]
        counts = {payer: payers.count(payer) for payer in ("free_images", "promo_credits", "credits", "")}
        assert counts == {"free_images": 3, "promo_credits": 5, "credits": 7, "": 49}
        assert (await gateway.images(key, "gallery")).code == "insufficient_quota"
        assert gateway.differences() == []


async def test_64_first_calls_of_a_month_cross_the_soft_budget_exactly_once(tmp_path: Path) -> None:
    """0.80 USD are ten premium pictures of 0.08; whoever comes after is served by the cheaper model."""
    models = image_model("premium-waits", price="0.08", upstream="f100d0n0", downgrade_to="standard")
    async with opened(tmp_path, Clock(utc(2025, 2, 1, 0, 0, 0.2)), models=models) as gateway:
        key = await gateway.new_key(budget_usd_per_month="0.8")
        answers = await crowd(gateway, key, "premium-waits")
        assert {answer.status for answer in answers} == {200}
        served = [answer.headers["x-gateway-model"] for answer in answers]
        assert (served.count("premium-waits"), served.count("standard")) == (10, 54)
        assert gateway.rollup("sum(cost_nano_usd)") == [(10 * 80_000_000 + 54 * 3_000_000,)]


# Where the host is


MOMENTS = [
    utc(2025, 3, 9, 6, 59, 59.9),  # New York's clocks are about to jump forward
    utc(2025, 3, 9, 7, 0, 0.1),
    utc(2025, 10, 31, 14, 59, 59.9),  # midnight in Tokyo, and a new month there
    utc(2025, 10, 31, 15, 0, 0.1),
    utc(2025, 10, 31, 23, 59, 59.9),
    utc(2025, 11, 1, 0, 0, 0.1),
    utc(2025, 11, 1, 3, 59, 59.9),  # midnight in New York
    utc(2025, 11, 1, 4, 0, 0.1),
    utc(2025, 11, 2, 5, 59, 59.9),  # New York's clocks are about to fall back: the next hour comes twice
    utc(2025, 11, 2, 6, 30),
    utc(2025, 12, 31, 23, 59, 59.9),
    utc(2026, 1, 1, 0, 0, 0.1),
]


async def ledger_of_moments(folder: Path) -> dict[str, Any]:
    """What the books and `/v1/me` say after some calls at every moment, without what is different each time."""
    clock = Clock(MOMENTS[0])
    views: list[Any] = []
    async with opened(folder, clock) as gateway:
        key = await gateway.new_key(free_images_per_day=2, quota_usd_per_month=3, budget_usd_per_month=1)
        await gateway.services.credits.grant("acme", credits=3)
        await gateway.services.credits.grant("acme", "promo_credits", credits=4, expires_at=utc(2025, 11, 2, 6, 15))
        for moment in MOMENTS:
            clock.turn_to(moment)
            answers = [
                await gateway.chat(key, max_tokens=100),
                await gateway.images(key, "gallery"),
                await gateway.images(key),
                await gateway.images(key, "premium"),
            ]
            views.append([answer.code for answer in answers])
            views.append(_timeless(await gateway.view(key)))
    async with opened(folder, clock) as gateway:
        views.append(_timeless(await gateway.view(key)))
        columns = (
            "period_day, period_month, admitted_at, served_model, kind, payer, payer_amount, cost_nano_usd, "
            "charge_nano_usd, outcome"
        )
        entries = [gateway.entries(columns, kind=kind) for kind in ("usage", "grant", "expiry")]
        sums = gateway.rollup("period_day, served_model, payer, kind, calls, cost_nano_usd, charge_nano_usd")
        return {"views": views, "entries": entries, "rollup": sums, "differences": gateway.differences()}


def _timeless(view: dict[str, Any]) -> dict[str, Any]:
    """Without the key's id, which is random, and rolling windows, which go by the machine's monotonic clock."""
    limits = [limit for limit in view["limits"] if limit["unit"] not in ("request", "token")]
    return {**view, "key_id": "", "limits": limits}


_IN_A_ZONE = """
import asyncio, json, pathlib, sys, time
from tests.test_periods_of_calls import ledger_of_moments
folder = pathlib.Path(sys.argv[1])
found = asyncio.run(ledger_of_moments(folder))
(folder / "found.json").write_text(json.dumps([time.strftime("%z", time.localtime(1_761_950_000)), found]))
"""


def test_books_and_views_are_the_same_in_every_time_zone(tmp_path: Path) -> None:
    offsets = {"UTC": "+0000", "Asia/Tokyo": "+0900", "America/New_York": "-0400"}
    processes = {}
    for zone in offsets:
        folder = tmp_path / zone.replace("/", "-")
        folder.mkdir()
        processes[zone] = (
            folder,
            subprocess.Popen(
                [sys.executable, "-c", _IN_A_ZONE, str(folder)],
                cwd=REPOSITORY,
                env={**inherited(), "TZ": zone},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            ),
        )
    found = {}
    for zone, (folder, process) in processes.items():
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors.decode()
        offset, found[zone] = json.loads((folder / "found.json").read_text())
        assert offset == offsets[zone], "the process was not in the zone"
    assert found["Asia/Tokyo"] == found["UTC"]
    assert found["America/New_York"] == found["UTC"]
    assert "internal_error" not in json.dumps(found["UTC"]["views"])
    days = {row[0] for row in found["UTC"]["entries"][0]}
    assert days == {f"{moment:%Y-%m-%d}" for moment in MOMENTS}
    assert found["UTC"]["differences"] == []


# A clock that steps


async def test_a_stepping_clock_resets_no_window_early_and_gives_true_waits(tmp_path: Path) -> None:
    clock = Clock(utc(2025, 6, 11, 12))
    async with opened(tmp_path, clock) as gateway:
        key = await gateway.new_key(requests_per_hour=5)
        for step_h in (0, 2, -2, -2, 2):
            clock.advance(hours=step_h)
            assert (await gateway.chat(key)).status == 200
        for step_h in (2, 24 * 40, -24 * 40, -4):
            clock.advance(hours=step_h)
            refused = await gateway.chat(key)
            assert (refused.status, refused.code) == (429, "rate_limit_exceeded")
            assert 3_500 < int(refused.headers["retry-after"]) <= 3_601
        # The ledger is asked again, with a clock that is behind all of it.
    clock.turn_to(utc(2025, 6, 11, 9))
    async with opened(tmp_path, clock) as gateway:
        assert (await gateway.limits(key))["requests_per_hour"]["used"] == 5
        assert (await gateway.chat(key)).code == "rate_limit_exceeded"


async def test_calls_under_a_stepping_clock_lose_no_money_and_no_time(tmp_path: Path) -> None:
    """Every call is of the month the clock showed when it came; steps while it runs change neither that nor its latency."""
    clock = Clock(utc(2025, 6, 30, 23))
    async with opened(tmp_path, clock) as gateway:
        key = await gateway.new_key(quota_usd_per_month=2, free_images_per_day=3)
        for step_h in (2, -2, 0, -24 * 60, 24 * 60):
            tasks = [
                asyncio.get_running_loop().create_task(gateway.images(key, model))
                for model in ("painter-waits", "gallery-waits")
            ]
            await gateway.has_in_flight(2)
            clock.advance(hours=step_h)
            assert [answer.status for answer in await asyncio.gather(*tasks)] == [200, 200]
        rows = gateway.entries("latency_ms, period_month, charge_nano_usd, payer_amount")
        assert len(rows) == 10
        assert all(90 <= latency_ms < 20_000 for latency_ms, *_ in rows)
        charges: dict[str, int] = {}
        for _, month, charge, _ in rows:
            charges[month] = charges.get(month, 0) + charge
        # 23:00, 01:00, 23:00, 23:00, and 60 days earlier
        assert charges == {"2025-06": 3 * PICTURE, "2025-07": PICTURE, "2025-05": PICTURE}
        for month, at in (("2025-05", utc(2025, 5, 9)), ("2025-06", utc(2025, 6, 9)), ("2025-07", utc(2025, 7, 9))):
            limit = (await limits_at(gateway, key, at))["quota_usd_per_month"]
            assert (limit["used"], limit["held"]) == (charges[month], 0), month
        assert gateway.differences() == []
        assert gateway.services.counters.open_holds == 0  # type: ignore[attr-defined]


async def test_a_clock_that_steps_back_over_midnight_gives_no_free_images_anew(tmp_path: Path) -> None:
    clock = Clock(utc(2025, 6, 11, 0, 5))
    async with opened(tmp_path, clock) as gateway:
        key = await gateway.new_key(free_images_per_day=3)
        assert (await gateway.images(key, "gallery", n=3)).status == 200
        clock.advance(minutes=-10)
        assert (await gateway.images(key, "gallery", n=3)).status == 200
        for minutes in (10, -10, 10):
            assert (await gateway.images(key, "gallery")).code == "insufficient_quota"
            clock.advance(minutes=minutes)
        assert [row[0] for row in gateway.entries("period_day")] == ["2025-06-11", "2025-06-10"]
