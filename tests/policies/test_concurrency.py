from dataclasses import replace

import pytest

from policies import concurrency
from policies.owners import creator_owner, key_owner
from policies.types import UNLIMITED, Limit, ProviderLimits
from tests.policies.samples import ACCOUNT, CALL, NOW, names, on_plan, only, with_key_limits


def gauge(capacity: int | None) -> Limit:
    return only(concurrency.decide(CALL, on_plan(concurrent_calls=capacity), NOW))


@pytest.mark.parametrize("capacity", [0, 1, 64])
def test_a_call_takes_one_place_as_long_as_it_lasts(capacity: int) -> None:
    limit = gauge(capacity)
    assert (limit.name, limit.kind, limit.unit) == ("concurrent_calls", "gauge", "call")
    assert (limit.capacity, limit.amount, limit.window_s, limit.resets_at) == (capacity, 1, 0, None)
    assert limit.key == concurrency.counter_key(creator_owner("ada"))


def test_a_plan_without_the_limit_is_counted_on_the_same_counter() -> None:
    assert gauge(None).capacity == UNLIMITED
    assert gauge(None).key == gauge(5).key


def test_creator_provider_and_key_must_all_have_a_place() -> None:
    account = with_key_limits(
        on_plan(concurrent_calls=20, providers={"openai": ProviderLimits(concurrent_calls=5)}), concurrent_calls=2
    )
    groups = concurrency.decide(CALL, account, NOW)
    assert names(groups) == [["concurrent_calls"], ["openai_concurrent_calls"], ["key_concurrent_calls"]]
    assert [limit.capacity for (limit,) in groups] == [20, 5, 2]
    ada = creator_owner("ada")
    assert [limit.key for (limit,) in groups] == [
        concurrency.counter_key(ada),
        concurrency.counter_key(ada, "openai"),
        concurrency.counter_key(key_owner("k1")),
    ]
    others = concurrency.decide(CALL._replace(provider="mock"), account, NOW)
    assert names(others) == [["concurrent_calls"], ["key_concurrent_calls"]]


def test_a_key_without_own_places_adds_none() -> None:
    account = with_key_limits(requests_per_hour=1)
    assert concurrency.decide(CALL, account, NOW) == concurrency.decide(CALL, ACCOUNT, NOW)


def test_the_refusal_names_whose_limit_it_is() -> None:
    account = with_key_limits(on_plan(concurrent_calls=3), concurrent_calls=1)
    creators, keys = (limit.refusal for (limit,) in concurrency.decide(CALL, account, NOW))
    assert (creators.code, creators.policy) == ("rate_limit_exceeded", "concurrency")
    assert creators.message == "Concurrency limit of plan 'pro' reached: 3 calls in flight at once."
    assert keys.message == "Concurrency limit of this virtual key reached: 1 call in flight at once."


def test_creators_share_no_places() -> None:
    bobs = only(concurrency.decide(CALL, replace(on_plan(concurrent_calls=5), creator="bob"), NOW))
    assert bobs.key != gauge(5).key


def test_the_overview_shows_every_gauge_that_is_set_and_takes_nothing() -> None:
    account = on_plan(
        providers={"mock": ProviderLimits(concurrent_calls=1)}, counted=frozenset({"openai/concurrent_calls"})
    )
    shown = [(limit.name, limit.capacity, limit.amount) for limit in concurrency.overview(account, NOW)]
    assert shown == [("concurrent_calls", UNLIMITED, 0), ("mock_concurrent_calls", 1, 0)]
