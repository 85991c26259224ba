from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from policies import budget, concurrency, free_images, quota, rate_limit, token_rate
from policies import credits as credit_payers
from policies.owners import (
    Owner,
    creator_owner,
    is_key,
    key_owner,
    limit_name,
    own_limits_owner,
    owners_of,
    whose,
)
from policies.types import Plan
from tests.policies.samples import ACCOUNT, PLAN

CREATORS = st.text("abk0369:.@_-", min_size=1, max_size=12)
PROVIDERS = st.none() | st.text("ab0369:/c", min_size=1, max_size=8)
WINDOWS_S = st.sampled_from([60, 3_600, 86_400])


@given(CREATORS, CREATORS)
def test_no_creator_is_a_key_and_no_two_creators_are_one(one: str, other: str) -> None:
    assert creator_owner(one) != key_owner(other)
    assert (creator_owner(one) == creator_owner(other)) is (one == other)
    assert (key_owner(one) == key_owner(other)) is (one == other)
    assert is_key(key_owner(one))
    assert not is_key(creator_owner(one))


@given(st.lists(st.tuples(CREATORS.map(creator_owner), WINDOWS_S, PROVIDERS), min_size=2, max_size=30, unique=True))
def test_no_creator_can_be_named_onto_somebody_elses_counter(whom: list[tuple[Owner, int, str | None]]) -> None:
    """Creator ids may hold colons, digits and the names of providers."""
    keys = {rate_limit.counter_key(*who) for who in whom} | {token_rate.counter_key(*who) for who in whom}
    assert len(keys) == 2 * len(whom)
    gauges = {(owner, provider) for owner, _, provider in whom}
    assert len({concurrency.counter_key(*who) for who in gauges}) == len(gauges)


def test_every_kind_of_counter_has_keys_of_its_own() -> None:
    owner = creator_owner("ada")
    keys = [
        rate_limit.counter_key(owner, 60),
        token_rate.counter_key(owner, 60),
        concurrency.counter_key(owner),
        quota.counter_key(owner, "2025-06"),
        budget.counter_key(owner, "2025-06"),
        budget.hard_counter_key(owner, "2025-06"),
        free_images.counter_key(owner, "2025-06-15"),
        credit_payers.counter_key(owner),
        credit_payers.promo_counter_key(owner),
    ]
    assert len(set(keys)) == len(keys)


def test_a_call_counts_for_its_creator_and_for_a_key_with_limits_of_its_own() -> None:
    key_plan = Plan(name="pro", requests_per_hour=1)
    assert list(owners_of(ACCOUNT)) == [("c/ada", PLAN)]
    assert list(owners_of(replace(ACCOUNT, key_plan=key_plan))) == [("c/ada", PLAN), ("k/k1", key_plan)]


def test_keys_that_came_of_each_other_by_rotation_count_as_one() -> None:
    rotated = replace(ACCOUNT, key_id="k3", limits_id="k1", key_plan=Plan(name="pro", requests_per_hour=1))
    assert [owner for owner, _ in owners_of(rotated)] == ["c/ada", "k/k1"]
    assert own_limits_owner(rotated) == own_limits_owner(replace(ACCOUNT, key_id="k1")) == "k/k1"


def test_people_can_tell_whose_limit_it_is() -> None:
    creator, key = creator_owner("ada"), key_owner("k1")
    assert (limit_name(creator, "credits"), limit_name(key, "credits")) == ("credits", "key_credits")
    assert (whose(creator, PLAN), whose(key, PLAN)) == ("plan 'pro'", "this virtual key")
