"""What notices say: a sentence and figures, without a float and without anything that a stranger could steer."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import orjson
import pytest

from gateway.notices import words
from gateway.notices.base import Notice
from gateway.notices.signals import Downgrade, ErrorRate
from policies import overview
from policies.types import Account, Limit
from tests.policies.samples import ACCOUNT, NOW, USD, on_plan, with_key_limits

EVERY = on_plan(
    quota_nano_usd_per_month=50 * USD,
    budget_nano_usd_per_month=10 * USD,
    budget_hard_nano_usd_per_month=20 * USD,
    when_budget_reached="downgrade_then_deny",
)
MONTH, RESETS_AT = "2025-06", "2025-07-01T00:00:00Z"


def limit_of(account: Account, name: str) -> Limit:
    return next(limit for limit in overview(account, NOW) if limit.name == name)


def quota_notice(account: Account = EVERY, step: words.Step = "80_percent", used: int = 40 * USD) -> Notice:
    return words.limit_reached(account, limit_of(account, "quota_usd_per_month"), step, used=used, period=MONTH)


def downgrade_notice(account: Account = EVERY) -> Notice:
    downgrade = Downgrade(account, "large", "small", "budget_usd_per_month", NOW)
    return words.downgraded(downgrade, limit_of(account, "budget_usd_per_month"), used=9 * USD, period=MONTH)


def every_notice(account: Account) -> Iterator[Notice]:
    yield quota_notice(account)
    yield quota_notice(account, "exhausted", 49 * USD)
    yield downgrade_notice(account)
    yield words.credits_exhausted(account, name="credits", used=97, granted=100, day="2025-06-15")
    yield words.key_expiring(key_id="abcdefghijkl", creator=account.creator, expires_at_ms=1_750_000_000_123)
    yield words.day_cost_above(day="2025-06-15", cost_nano_usd=200_000_000_001, amount_nano_usd=200 * USD)
    for provider in (None, "openai"):
        yield words.error_rate_above(provider=provider, rate=ErrorRate(30, 4), limit_percent=Decimal("5.00"), at=NOW)


def test_a_threshold_says_what_is_used_of_which_limit_until_when() -> None:
    notice = quota_notice(used=40_500_000_000)
    assert notice == Notice(
        "quota.80_percent",
        "quota.80_percent/quota:c/ada/2025-06/50000000000",
        "40.5 USD, 81 %, of the monthly quota of creator 'ada', 50 USD, are spent; it starts afresh at 2025-07-01T00:00:00Z.",
        {
            "limit_name": "quota_usd_per_month",
            "used_nano_usd": 40_500_000_000,
            "used_usd": "40.5",
            "limit_nano_usd": 50_000_000_000,
            "limit_usd": "50",
            "period": MONTH,
            "resets_at": RESETS_AT,
            "percent": 81,
        },
        "ada",
    )


def test_a_percentage_is_never_rounded_up_to_what_was_not_reached() -> None:
    assert quota_notice(used=50 * USD - 1).data["percent"] == 99


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("quota_usd_per_month", "quota.exhausted"),
        ("budget_usd_per_month", "budget.exhausted"),
        ("budget_hard_usd_per_month", "budget.exhausted"),
    ],
)
def test_each_limit_has_its_kind_and_words_of_its_own(name: str, kind: str) -> None:
    limit = limit_of(EVERY, name)
    notice = words.limit_reached(EVERY, limit, "exhausted", used=limit.capacity, period=MONTH)
    assert notice.kind == kind
    assert notice.once == f"{kind}/{limit.key}/{limit.capacity}" == words.limit_once(limit, "exhausted")
    assert "100 %" in notice.message


def test_a_keys_own_limit_names_the_key() -> None:
    account = with_key_limits(EVERY, quota_nano_usd_per_month=USD)
    limit = limit_of(account, "key_quota_usd_per_month")
    notice = words.limit_reached(account, limit, "95_percent", used=950_000_000, period=MONTH)
    assert "of the virtual key k1 of creator 'ada', 1 USD" in notice.message
    assert (notice.data["limit_name"], notice.data["key_id"]) == ("key_quota_usd_per_month", "k1")
    assert notice.once == "quota.95_percent/quota:k/k1/2025-06/1000000000"


@pytest.mark.parametrize("name", ["requests_per_hour", "concurrent_calls", "credits", "free_images_per_day"])
def test_other_limits_are_no_subject(name: str) -> None:
    assert words.subject_of(limit_of(EVERY, name)) is None


def test_only_the_soft_budget_is_not_hard() -> None:
    account = with_key_limits(EVERY, quota_nano_usd_per_month=USD, budget_nano_usd_per_month=USD)
    money = [limit for limit in overview(account, NOW) if words.subject_of(limit)]
    soft = [limit.name for limit in money if not words.is_hard(limit)]
    assert soft == ["budget_usd_per_month", "key_budget_usd_per_month"]
    assert len(money) == 5


def test_a_downgrade_names_both_models_and_what_was_spent() -> None:
    notice = downgrade_notice()
    assert notice.message == (
        "Calls of creator 'ada' for the model large are served by small: 9 USD of the monthly budget of 10 USD are spent; "
        "it starts afresh at 2025-07-01T00:00:00Z."
    )
    shown = {
        name: notice.data[name] for name in ("requested_model", "served_model", "used_usd", "limit_usd", "percent")
    }
    assert shown == {
        "requested_model": "large",
        "served_model": "small",
        "used_usd": "9",
        "limit_usd": "10",
        "percent": 90,
    }
    assert notice.once == "budget.downgraded/budget:c/ada/2025-06"


def test_a_budget_of_nothing_is_downgraded_at_once() -> None:
    account = on_plan(budget_nano_usd_per_month=0)
    assert downgrade_notice(account).data["percent"] == 100


def test_credits_are_counted_in_units() -> None:
    notice = words.credits_exhausted(EVERY, name="credits", used=97, granted=100, day="2025-06-15")
    assert notice.message == (
        "The credits of creator 'ada' do not cover its calls any more, which are refused: 97 of 100 credits are used."
    )
    assert notice.data == {
        "limit_name": "credits",
        "used_credits": 97,
        "limit_credits": 100,
        "left_credits": 3,
        "period": "2025-06-15",
    }
    assert notice.once == "credits.exhausted/ada/credits/2025-06-15"


def test_promotional_credits_alone_leave_no_figures_of_bought_ones_to_tell() -> None:
    """The last payer that refused has nothing; what was used up was another's."""
    notice = words.credits_exhausted(EVERY, name="credits", used=0, granted=0, day="2025-06-15")
    assert notice.message == "The credits of creator 'ada' do not cover its calls any more, which are refused."
    promotional = words.credits_exhausted(EVERY, name="promo_credits", used=9, granted=9, day="2025-06-15")
    assert promotional.message.startswith("The promotional credits of creator 'ada'")
    assert promotional.once != notice.once


def test_an_expiring_key_is_told_by_its_public_id_and_instant() -> None:
    notice = words.key_expiring(key_id="abcdefghijkl", creator="ada", expires_at_ms=1_750_000_000_123)
    assert notice.message == (
        "The virtual key abcdefghijkl of creator 'ada' expires at 2025-06-15T15:06:40.123Z: its calls are refused from "
        "then on."
    )
    assert notice.data == {"key_id": "abcdefghijkl", "expires_at": "2025-06-15T15:06:40.123Z"}
    assert notice.once == "key.expiring/abcdefghijkl/1750000000123"


def test_a_days_cost_concerns_nobody_in_particular() -> None:
    notice = words.day_cost_above(day="2025-06-15", cost_nano_usd=200 * USD + 1, amount_nano_usd=200 * USD)
    assert (
        notice.message == "The calls of 2025-06-15 have cost 200.000000001 USD so far, above the set amount of 200 USD."
    )
    assert notice.data["cost_nano_usd"] == 200 * USD + 1
    assert (notice.creator, notice.once) == ("", "day_cost.above/2025-06-15/200000000000")


def test_an_error_rate_is_told_in_hundredths_of_a_percent() -> None:
    at = datetime(2025, 6, 15, 12, 59, tzinfo=UTC)
    notice = words.error_rate_above(provider="openai", rate=ErrorRate(30, 4), limit_percent=Decimal("5.00"), at=at)
    assert notice.message == (
        "4 of the last ten minutes' 30 calls to provider 'openai' failed: 13.33 %, more than 5 %."
    )
    assert notice.data == {
        "provider": "openai",
        "calls": 30,
        "errors": 4,
        "percent": "13.33",
        "limit_percent": "5",
        "period": "2025-06-15T12",
    }
    assert notice.once == "error_rate.above/provider/openai/2025-06-15T12"


def test_a_provider_called_all_is_not_all_of_them() -> None:
    rate = ErrorRate(100, 100)
    named, overall = (
        words.error_rate_above(provider=provider, rate=rate, limit_percent=Decimal(10), at=NOW)
        for provider in ("all", None)
    )
    assert named.once != overall.once
    assert overall.message == "100 of the last ten minutes' 100 calls to all providers failed: 100 %, more than 10 %."
    assert overall.data["provider"] is None


def test_no_figure_of_any_notice_is_a_float() -> None:
    for notice in every_notice(EVERY):
        assert not [value for value in _values(notice.data) if isinstance(value, float)], notice
        assert orjson.loads(orjson.dumps(dict(notice.data))) == notice.data


def test_money_is_the_same_in_both_ways_of_writing_it() -> None:
    for notice in every_notice(EVERY):
        for name, amount in notice.data.items():
            if name.endswith("_nano_usd"):
                assert Decimal(notice.data[name.replace("_nano_usd", "_usd")]).scaleb(9) == amount


def test_a_creator_named_like_a_format_is_named_as_it_is() -> None:
    hostile = replace(EVERY, creator="..:a%s%(x)s{0}{limit.__class__}@-")
    told = [notice for notice in every_notice(hostile) if notice.creator]
    assert len(told) == 5
    for notice in told:
        assert f"creator '{hostile.creator}'" in notice.message
        assert notice.message.endswith(".")
        assert "\n" not in notice.message


def test_no_two_notices_share_their_words() -> None:
    found = [notice.once for notice in every_notice(ACCOUNT)]
    assert len(set(found)) == len(found)


def _values(data: Mapping[str, Any]) -> Iterator[Any]:
    for value in data.values():
        if isinstance(value, Mapping):
            yield from _values(value)
        else:
            yield value
