from dataclasses import replace
from typing import get_args

import pytest

from policies import payer, quota
from policies.owners import creator_owner
from policies.types import PAYERS, Call, Deny, Limit, Payer, PromoGrant
from tests.policies.samples import ACCOUNT, CALL, IMAGES, NOW, groups_of, names, on_plan, with_key_limits


def test_every_payer_there_is_can_pay() -> None:
    assert list(payer.PAYERS) == list(PAYERS) == list(get_args(Payer))


def test_a_model_without_a_price_in_credits_is_the_quotas() -> None:
    account = replace(on_plan(free_images_per_day=3), credits_granted=1_000)
    assert names(payer.decide(CALL, account, NOW)) == [["quota_usd_per_month"]]
    assert names(payer.decide(IMAGES._replace(credits=None), account, NOW)) == [["quota_usd_per_month"]]


def test_a_model_with_a_price_in_credits_is_paid_in_the_plans_order() -> None:
    assert names(payer.decide(IMAGES, ACCOUNT, NOW)) == [["free_images_per_day", "promo_credits", "credits"]]
    account = on_plan(payers=("credits", "quota", "free_images"))
    assert names(payer.decide(IMAGES, account, NOW)) == [["credits", "quota_usd_per_month", "free_images_per_day"]]


def test_a_payer_with_nothing_stays_so_that_the_refusal_can_speak_of_it() -> None:
    ((free, promo, bought),) = groups_of(payer.decide(IMAGES, on_plan(free_images_per_day=0), NOW))
    assert (free.capacity, promo.capacity, bought.capacity) == (0, 0, 0)


def test_each_payer_takes_the_whole_call_in_its_unit() -> None:
    account = on_plan(payers=PAYERS)
    ((free, promo, bought, owed),) = groups_of(payer.decide(IMAGES, account, NOW))
    assert [(limit.amount, limit.unit) for limit in (free, promo, bought, owed)] == [
        (2, "image"),
        (10, "credit"),
        (10, "credit"),
        (1_234, "nano_usd"),
    ]


def test_free_images_pay_for_images_only() -> None:
    """A model that answers in something else may have a price in credits too."""
    speech = IMAGES._replace(endpoint="speech", images=0)
    assert names(payer.decide(speech, ACCOUNT, NOW)) == [["promo_credits", "credits"]]


@pytest.mark.parametrize(
    ("payers", "images"),
    [
        pytest.param(("free_images",), 0, id="free images, but none asked for"),
        pytest.param((), 2, id="no payers"),
    ],
)
def test_a_call_that_nothing_may_pay_for_is_refused(payers: tuple[Payer, ...], images: int) -> None:
    deny = payer.decide(IMAGES._replace(images=images), on_plan(payers=payers), NOW)
    assert isinstance(deny, Deny)
    assert (deny.code, deny.policy) == ("insufficient_quota", "payer")
    assert "'pro'" in deny.message
    assert "'painter'" in deny.message


def test_the_quota_pays_for_other_models_whatever_the_payers() -> None:
    assert names(payer.decide(CALL, on_plan(payers=()), NOW)) == [["quota_usd_per_month"]]


def test_a_call_for_no_credits_has_a_price_in_credits() -> None:
    assert names(payer.decide(IMAGES._replace(credits=0), ACCOUNT, NOW))[0][-1] == "credits"


@pytest.mark.parametrize(
    ("call", "payers", "has_key_group"),
    [
        pytest.param(CALL, (), True, id="quota only"),
        pytest.param(IMAGES, ("credits", "quota"), True, id="quota among others"),
        pytest.param(IMAGES, ("free_images", "credits"), False, id="no quota"),
    ],
)
def test_a_keys_own_quota_is_a_second_group_where_the_quota_may_pay(
    call: Call, payers: tuple[Payer, ...], has_key_group: bool
) -> None:
    account = with_key_limits(on_plan(payers=payers), quota_nano_usd_per_month=5)
    groups = names(payer.decide(call, account, NOW))
    assert groups[1:] == ([["key_quota_usd_per_month"]] if has_key_group else [])


def taken(limits: list[Limit]) -> list[tuple[Payer, str] | None]:
    return [payer.payer_of(limit) for limit in limits]


def test_the_limit_taken_tells_the_payer_and_its_unit() -> None:
    (group,) = groups_of(payer.decide(IMAGES, on_plan(payers=PAYERS), NOW))
    assert taken(list(group)) == [
        ("free_images", "image"),
        ("promo_credits", "credit"),
        ("credits", "credit"),
        ("quota", "nano_usd"),
    ]


def test_a_keys_own_quota_is_no_payer() -> None:
    _, (limit,) = groups_of(payer.decide(CALL, with_key_limits(quota_nano_usd_per_month=5), NOW))
    assert payer.payer_of(limit) is None


def test_the_overview_shows_the_plans_payers_and_the_quota_once() -> None:
    account = replace(
        with_key_limits(on_plan(free_images_per_day=3), quota_nano_usd_per_month=5),
        credits_granted=7,
        promo_grants=(PromoGrant(4, 0.0), PromoGrant(2, None)),
    )
    limits = payer.overview(account, NOW)
    assert [(limit.name, limit.capacity, limit.lapsed) for limit in limits] == [
        ("free_images_per_day", 3, 0),
        ("promo_credits", 6, 4),
        ("credits", 7, 0),
        ("quota_usd_per_month", 50_000_000_000, 0),
        ("key_quota_usd_per_month", 5, 0),
    ]
    assert {limit.amount for limit in limits} == {0}
    assert limits[3].key == quota.counter_key(creator_owner("ada"), "2025-06")


def test_the_overview_keeps_the_plans_order() -> None:
    limits = payer.overview(on_plan(payers=("quota", "credits")), NOW)
    assert [limit.name for limit in limits] == ["quota_usd_per_month", "credits"]
    assert [limit.name for limit in payer.overview(on_plan(payers=()), NOW)] == ["quota_usd_per_month"]
