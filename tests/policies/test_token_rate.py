from dataclasses import replace

import pytest

from policies import token_rate
from policies.owners import creator_owner, key_owner
from policies.types import UNLIMITED, Limit, ProviderLimits
from tests.policies.samples import ACCOUNT, CALL, NOW, names, on_plan, only, with_key_limits


def minute(capacity: int | None, tokens: int = 1_500) -> Limit:
    return only(token_rate.decide(CALL._replace(tokens=tokens), on_plan(tokens_per_minute=capacity), NOW))


@pytest.mark.parametrize("tokens", [0, 1, 1_500, 200_000])
@pytest.mark.parametrize("capacity", [0, 1_000, 10_000_000])
def test_a_call_takes_its_tokens_of_the_plans_rolling_minute(capacity: int, tokens: int) -> None:
    limit = minute(capacity, tokens)
    assert (limit.name, limit.kind, limit.window_s) == ("tokens_per_minute", "rolling", 60)
    assert (limit.capacity, limit.amount, limit.unit) == (capacity, tokens, "token")
    assert (limit.resets_at, limit.amount_min, limit.resume_below) == (None, None, None)


def test_a_plan_without_the_limit_is_counted_on_the_same_counter() -> None:
    assert minute(None).capacity == UNLIMITED
    assert minute(None).key == minute(10).key == token_rate.counter_key(creator_owner("ada"), 60)


def test_what_one_call_took_does_not_stick_to_the_next() -> None:
    assert [minute(10, tokens).amount for tokens in (5, 7, 5)] == [5, 7, 5]


def test_every_window_takes_the_same_tokens() -> None:
    account = with_key_limits(
        on_plan(tokens_per_day=10**6, providers={"openai": ProviderLimits(tokens_per_minute=50)}),
        tokens_per_minute=20,
    )
    groups = token_rate.decide(CALL, account, NOW)
    assert names(groups) == [
        ["tokens_per_minute"],
        ["tokens_per_day"],
        ["openai_tokens_per_minute"],
        ["key_tokens_per_minute"],
    ]
    assert {limit.amount for (limit,) in groups} == {CALL.tokens}
    ada = creator_owner("ada")
    assert [limit.key for (limit,) in groups] == [
        token_rate.counter_key(ada, 60),
        token_rate.counter_key(ada, 86_400),
        token_rate.counter_key(ada, 60, "openai"),
        token_rate.counter_key(key_owner("k1"), 60),
    ]


def test_a_providers_window_counts_only_calls_to_it() -> None:
    account = on_plan(providers={"openai": ProviderLimits(tokens_per_minute=50)})
    assert names(token_rate.decide(CALL._replace(provider="mock"), account, NOW)) == [["tokens_per_minute"]]


def test_a_key_without_own_windows_adds_none() -> None:
    account = with_key_limits(requests_per_hour=1)
    assert token_rate.decide(CALL, account, NOW) == token_rate.decide(CALL, ACCOUNT, NOW)


def test_the_refusal_names_whose_limit_it_is() -> None:
    account = with_key_limits(
        on_plan(tokens_per_minute=900, providers={"openai": ProviderLimits(tokens_per_day=1)}), tokens_per_day=70
    )
    creators, providers, keys = (limit.refusal for (limit,) in token_rate.decide(CALL, account, NOW))
    assert {(refusal.code, refusal.policy) for refusal in (creators, providers, keys)} == {
        ("rate_limit_exceeded", "token_rate")
    }
    assert creators.message == "Token limit of plan 'pro' reached: 900 tokens in any 60 seconds."
    assert providers.message == "Token limit of plan 'pro' for provider 'openai' reached: 1 token in any 24 hours."
    assert keys.message == "Token limit of this virtual key reached: 70 tokens in any 24 hours."


def test_creators_share_no_counter() -> None:
    bobs = only(token_rate.decide(CALL, replace(on_plan(tokens_per_minute=10), creator="bob"), NOW))
    assert bobs.key != minute(10).key


def test_the_overview_shows_every_window_that_is_set_and_takes_nothing() -> None:
    account = with_key_limits(on_plan(counted=frozenset({"tokens_per_day"})), tokens_per_day=3)
    shown = [(limit.name, limit.capacity, limit.amount) for limit in token_rate.overview(account, NOW)]
    assert shown == [("tokens_per_minute", UNLIMITED, 0), ("key_tokens_per_day", 3, 0)]
