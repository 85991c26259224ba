from dataclasses import replace

import pytest

from policies import rate_limit
from policies.owners import creator_owner, key_owner
from policies.types import UNLIMITED, Limit, ProviderLimits
from tests.policies.samples import ACCOUNT, CALL, NOW, names, on_plan, only, with_key_limits


def hour(capacity: int | None, creator: str = "ada") -> Limit:
    account = replace(on_plan(requests_per_hour=capacity), creator=creator)
    return only(rate_limit.decide(CALL, account, NOW))


@pytest.mark.parametrize("capacity", [0, 1, 10, 512, 513, 10_000])
def test_a_call_takes_one_request_of_the_plans_rolling_hour(capacity: int) -> None:
    limit = hour(capacity)
    assert (limit.name, limit.kind, limit.window_s) == ("requests_per_hour", "rolling", 3600)
    assert (limit.capacity, limit.amount, limit.unit) == (capacity, 1, "request")
    assert (limit.resets_at, limit.amount_min, limit.resume_below) == (None, None, None)


def test_a_plan_without_the_limit_is_counted_on_the_same_counter() -> None:
    assert hour(None).capacity == UNLIMITED
    assert hour(None).key == hour(10).key


def test_all_windows_of_a_plan_must_have_room() -> None:
    account = on_plan(requests_per_minute=5, requests_per_day=1_000)
    groups = rate_limit.decide(CALL, account, NOW)
    assert names(groups) == [["requests_per_minute"], ["requests_per_hour"], ["requests_per_day"]]
    assert [(limit.capacity, limit.window_s) for (limit,) in groups] == [(5, 60), (100, 3_600), (1_000, 86_400)]
    assert len({limit.key for (limit,) in groups}) == 3


def test_a_window_of_another_plan_is_counted_on_the_counter_that_plan_will_use() -> None:
    _, (counted,) = rate_limit.decide(CALL, on_plan(counted=frozenset({"requests_per_day"})), NOW)
    _, (limited,) = rate_limit.decide(CALL, on_plan(requests_per_day=7), NOW)
    assert (counted.key, counted.capacity) == (limited.key, UNLIMITED)


def test_a_providers_window_counts_only_calls_to_it() -> None:
    account = on_plan(providers={"openai": ProviderLimits(requests_per_minute=3)})
    _, (limit,) = rate_limit.decide(CALL, account, NOW)
    assert (limit.name, limit.capacity, limit.window_s) == ("openai_requests_per_minute", 3, 60)
    assert limit.key == rate_limit.counter_key(creator_owner("ada"), 60, "openai")
    assert "for provider 'openai'" in limit.refusal.message
    assert names(rate_limit.decide(CALL._replace(provider="mock"), account, NOW)) == [["requests_per_hour"]]


def test_a_keys_own_window_comes_beside_the_creators_on_its_own_counter() -> None:
    account = with_key_limits(requests_per_hour=2, requests_per_minute=1)
    groups = rate_limit.decide(CALL, account, NOW)
    assert names(groups) == [["requests_per_hour"], ["key_requests_per_minute"], ["key_requests_per_hour"]]
    creators, _, keys = (limit for (limit,) in groups)
    assert (creators.capacity, keys.capacity) == (100, 2)
    assert creators.key == rate_limit.counter_key(creator_owner("ada"), 3_600)
    assert keys.key == rate_limit.counter_key(key_owner("k1"), 3_600)
    assert keys.refusal.message == "Rate limit of this virtual key reached: 2 requests in any 60 minutes."


def test_a_key_without_own_windows_adds_none() -> None:
    account = with_key_limits(quota_nano_usd_per_month=1)
    assert rate_limit.decide(CALL, account, NOW) == rate_limit.decide(CALL, ACCOUNT, NOW)


@pytest.mark.parametrize(
    ("capacity", "words"), [(10, "10 requests in any 60 minutes"), (1, "1 request in any 60 minutes")]
)
def test_the_refusal_names_plan_and_limit(capacity: int, words: str) -> None:
    refusal = hour(capacity).refusal
    assert (refusal.code, refusal.policy) == ("rate_limit_exceeded", "rate_limit")
    assert refusal.message == f"Rate limit of plan 'pro' reached: {words}."


def test_all_keys_of_a_creator_share_one_counter_and_creators_share_none() -> None:
    one = only(rate_limit.decide(CALL, replace(ACCOUNT, key_id="k1"), NOW))
    other = only(rate_limit.decide(CALL, replace(ACCOUNT, key_id="k2"), NOW))
    assert one.key == other.key == rate_limit.counter_key(creator_owner("ada"), 3_600)
    assert hour(10, "ada").key != hour(10, "bob").key


def test_keys_share_no_counter_of_their_own() -> None:
    account = with_key_limits(requests_per_hour=2)
    _, (one,) = rate_limit.decide(CALL, account, NOW)
    _, (other,) = rate_limit.decide(CALL, replace(account, key_id="k2"), NOW)
    assert one.key != other.key


def test_a_new_plan_counts_on_the_next_call_on_the_same_counter() -> None:
    before, after = hour(10), hour(500)
    assert (before.capacity, after.capacity) == (10, 500)
    assert before.key == after.key


def test_an_override_counts_though_the_plan_has_the_same_name() -> None:
    """Plans are hashed by name, so only their comparison keeps two of one name apart."""
    assert [hour(capacity).capacity for capacity in (10, 11, 10)] == [10, 11, 10]


def test_the_overview_shows_every_window_that_is_set_and_takes_nothing() -> None:
    account = with_key_limits(
        on_plan(
            requests_per_day=9, providers={"mock": ProviderLimits(requests_per_hour=4), "openai": ProviderLimits()}
        ),
        requests_per_hour=2,
    )
    limits = rate_limit.overview(account, NOW)
    shown = {limit.name: (limit.capacity, limit.amount) for limit in limits}
    assert shown == {
        "requests_per_hour": (100, 0),
        "requests_per_day": (9, 0),
        "mock_requests_per_hour": (4, 0),
        "key_requests_per_hour": (2, 0),
    }
    taken = {limit.key for (limit,) in rate_limit.decide(CALL._replace(provider="mock"), account, NOW)}
    assert {limit.key for limit in limits} == taken
