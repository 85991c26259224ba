"""What a creator sees of itself: exact figures, and a forecast that is integer arithmetic."""

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.creator_view import call_json, forecast_nano_usd
from gateway.ledger.creator_queries import call_of_creator
from gateway.ledger.entry_json import entry_json
from gateway.ledger.queries import charges_of_month
from tests.clocked_gateway import USD, Clock, ClockedGateway, opened, utc


@pytest.mark.parametrize(
    ("spent", "now", "forecast"),
    [
        pytest.param(10 * USD, utc(2025, 6, 11), 30 * USD, id="ten of thirty days"),
        pytest.param(14 * USD, utc(2025, 2, 15), 28 * USD, id="half of February"),
        pytest.param(29, utc(2024, 2, 2), 29 * 29, id="one day of a leap February"),
        pytest.param(31, utc(2025, 12, 31), 32, id="31 * 31 / 30 is 32.03: down"),
        pytest.param(1, utc(2025, 1, 31, 23, 59, 59.999999), 1, id="the last microsecond"),
        pytest.param(7, utc(2025, 6, 1), 7 * 720, id="the first instant counts as an hour"),
        pytest.param(7, utc(2025, 6, 1, 0, 59), 7 * 720, id="and so does its first hour"),
        pytest.param(7, utc(2025, 6, 1, 2), 7 * 360, id="then time is what it is"),
        pytest.param(0, utc(2025, 6, 1), 0, id="nothing leads to nothing"),
        pytest.param(10**18 + 1, utc(2025, 4, 16), 2 * 10**18 + 2, id="beyond what a float can tell apart"),
        pytest.param(30, utc(9999, 12, 2), 930, id="the last month there is"),
    ],
)
def test_the_forecast_goes_on_as_the_month_began(spent: int, now: datetime, forecast: int) -> None:
    found = forecast_nano_usd(spent, now)
    assert (found, type(found)) == (forecast, int)


def test_the_forecast_is_by_the_month_in_utc() -> None:
    """New Year in Tokyo is still December; the last evening in New York is already January."""
    for offset_h in (-5, 0, 9):
        zone = timezone(timedelta(hours=offset_h))
        assert forecast_nano_usd(31, utc(2025, 12, 31, 23, 30).astimezone(zone)) == 31
        assert forecast_nano_usd(31, utc(2026, 1, 2).astimezone(zone)) == 31 * 31


@given(st.integers(0, 10**19), st.integers(0, 3 * 366 * 86_400))
def test_a_forecast_is_never_below_what_is_spent(spent: int, second: int) -> None:
    assert forecast_nano_usd(spent, utc(2024, 1, 1) + timedelta(seconds=second)) >= spent


async def test_the_view_of_a_creator_who_did_nothing_yet(tmp_path: Path) -> None:
    async with opened(tmp_path, Clock(utc(2025, 6, 11, 12))) as gateway:
        view = await gateway.view(await gateway.new_key(plan="narrow"))
        assert view["object"] == "me"
        assert view["creator"] == "acme"
        assert view["plan"]["name"] == "narrow"
        assert view["free_images_today"] == {
            "granted": 3, "used": 0, "held": 0, "left": 3, "resets_at": "2025-06-12T00:00:00Z"
        }  # fmt: skip
        assert view["credits"] == {"granted": 0, "used": 0, "held": 0, "left": 0, "resets_at": None}
        assert view["promo_credits"] == {"granted": 0, "used": 0, "held": 0, "left": 0, "next_expiry_at": None}
        # The plan's budget is 80 % of its quota of one dollar.
        resumes = {"limit_name": "budget_usd_per_month", "resumes_below_usd": "0.72"}
        assert view["downgrade"] == {"is_active": False, "calls_this_month": 0, **resumes}
        month = view["month"]
        assert (month["period"], month["calls"], month["cost_usd"], month["charge_usd"]) == ("2025-06", 0, "0", "0")
        assert {limit["used"] for limit in view["limits"]} == {0}


async def test_the_month_of_a_creator_adds_up_whoever_paid(tmp_path: Path) -> None:
    clock = Clock(utc(2025, 6, 11))
    async with opened(tmp_path, clock) as gateway:
        key = await gateway.new_key(quota_usd_per_month=10, budget_usd_per_month=5)
        await gateway.services.credits.grant("acme", credits=10)
        assert (await gateway.images(key, n=2)).status == 200  # 0.50, by the quota
        assert (await gateway.images(key, "gallery", n=5)).status == 200  # 0.10, by credits
        month = (await gateway.view(key))["month"]
        assert (month["calls"], month["cost_usd"], month["charge_usd"]) == (2, "0.6", "0.5")
        assert (month["forecast_cost_usd"], month["forecast_charge_usd"]) == ("1.8", "1.5")
        assert (month["quota_usd"], month["budget_usd"]) == ("10", "5")


async def test_promotional_credits_show_the_next_expiry_while_there_are_any(tmp_path: Path) -> None:
    clock = Clock(utc(2025, 6, 11, 12))
    async with opened(tmp_path, clock) as gateway:
        key = await gateway.new_key()
        for credits_given, day in ((2, 12), (3, 15)):
            await gateway.services.credits.grant(
                "acme", "promo_credits", credits=credits_given, expires_at=utc(2025, 6, day)
            )
        shown: list[Any] = []
        for day in (11, 12, 15):
            clock.turn_to(utc(2025, 6, day))
            promo = (await gateway.view(key))["promo_credits"]
            shown.append((promo["left"], promo["next_expiry_at"]))
        assert shown == [(5, "2025-06-12T00:00:00Z"), (3, "2025-06-15T00:00:00Z"), (0, None)]


async def test_the_view_says_whether_the_next_call_would_be_downgraded(tmp_path: Path) -> None:
    async with opened(tmp_path, Clock(utc(2025, 6, 11, 12))) as gateway:
        key = await gateway.new_key(budget_usd_per_month="0.2")
        states = []
        for _ in range(3):
            states.append((await gateway.view(key))["downgrade"]["is_active"])
            await gateway.images(key, "premium")  # 0.08 each: the third does not fit
        states.append((await gateway.view(key))["downgrade"]["is_active"])
        assert states == [False, False, False, False]  # 0.163 used, and below 0.18 it resumes
        await gateway.images(key, "standard", n=10)
        assert (await gateway.view(key))["downgrade"] == {
            "is_active": True,
            "limit_name": "budget_usd_per_month",
            "resumes_below_usd": "0.18",
            "calls_this_month": 1,
        }


async def test_a_month_with_refunds_and_adjustments_owes_what_the_admin_charges(tmp_path: Path) -> None:
    """The forecast goes on with what calls owe, and takes what was given back once as given back once."""
    async with opened(tmp_path, Clock(utc(2025, 6, 11))) as gateway:
        key = await gateway.new_key()
        painted = await gateway.images(key, n=4)  # 1.00
        await gateway.services.credits.refund(painted.request_id, amount_usd="0.1")
        await gateway.services.credits.adjust("acme", "quota", amount_usd="-0.2")
        month = (await gateway.view(key))["month"]
        (charged,), _ = await charges_of_month(gateway.services.database, "2025-06")
        assert month["charge_nano_usd"] == charged["charge_nano_usd"] == 7 * USD // 10
        assert (month["cost_usd"], month["forecast_cost_usd"], month["forecast_charge_usd"]) == ("1", "3", "2.7")


async def test_the_view_says_that_a_keys_own_budget_downgrades(tmp_path: Path) -> None:
    async with opened(tmp_path, Clock(utc(2025, 6, 11, 12))) as gateway:
        key = await gateway.new_key(budget_usd_per_month=1)
        own = await gateway.second_key(budget_usd_per_month="0.1")
        states = []
        for _ in range(3):
            states.append([await downgrade(gateway, each) for each in (own, key)])
            await gateway.images(own, "premium")  # 0.08
        creators = {"is_active": False, "limit_name": "budget_usd_per_month", "resumes_below_usd": "0.9"}
        keys = {"is_active": True, "limit_name": "key_budget_usd_per_month", "resumes_below_usd": "0.09"}
        assert states == [[creators, creators], [creators, creators], [creators, creators]]
        await gateway.images(own, "standard", n=10)
        assert [await downgrade(gateway, each) for each in (own, key)] == [keys, creators]


async def downgrade(gateway: ClockedGateway, key: str) -> dict[str, Any]:
    """As the key sees it, without the count of calls, which is the creator's."""
    shown: dict[str, Any] = (await gateway.view(key))["downgrade"]
    del shown["calls_this_month"]
    return shown


async def test_looking_changes_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path, Clock(utc(2025, 6, 11, 12))) as gateway:
        key = await gateway.new_key(budget_usd_per_month="0.1", requests_per_hour=1)
        views = [await gateway.view(key) for _ in range(5)]
        assert all(view == views[0] for view in views)
        assert gateway.services.counters.kept_counters == 0  # type: ignore[attr-defined]
        assert (await gateway.chat(key)).status == 200


async def test_a_creator_sees_its_call_without_what_is_the_operators_affair(tmp_path: Path) -> None:
    async with opened(tmp_path, Clock(utc(2025, 6, 11, 12))) as gateway:
        key = await gateway.new_key()
        answer = await gateway.chat(key)
        (row,) = await call_of_creator(gateway.services.database, "acme", answer.request_id)
        shown = call_json(entry_json(row))
        assert (shown["request_id"], shown["cost_nano_usd"], shown["outcome"]) == (answer.request_id, 41_000, "ok")
        assert not {"provider", "price_version", "upstream_request_id", "key_id", "decision"} & shown.keys()
        assert await call_of_creator(gateway.services.database, "somebody-else", answer.request_id) == []
