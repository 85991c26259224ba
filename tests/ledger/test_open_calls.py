"""Calls that are open, read off the ledger: counters that hold them again say what those said that admitted them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import insert

from gateway.counters.memory import MemoryCounters
from gateway.counters.open_calls import open_calls
from gateway.decision import decision_text
from gateway.ledger.database import Database
from gateway.ledger.schema import creators, virtual_keys
from policies import decide
from policies.types import Account, Call, LimitGroup, Plan, PromoGrant, ProviderLimits
from tests.counters.backend import admitted
from tests.ledger.books import BOTH, MODEL, call, hold

STORES = BOTH

NOW = datetime(2026, 5, 14, 12, 30, tzinfo=UTC)
EVERY_WINDOW = ProviderLimits(50, 60, 70, 8_000, 9_000, 10)
PLAN = Plan(
    "pro",
    requests_per_minute=5,
    requests_per_hour=6,
    requests_per_day=7,
    tokens_per_minute=8_000,
    tokens_per_day=9_000,
    concurrent_calls=3,
    quota_nano_usd_per_month=10**9,
    budget_nano_usd_per_month=10**8,
    budget_hard_nano_usd_per_month=2 * 10**8,
    when_budget_reached="downgrade_then_deny",
    free_images_per_day=3,
    providers={"openai": EVERY_WINDOW, "key": EVERY_WINDOW},
)
KEY_ID = "k" * 12
CALL = Call("chat", MODEL, MODEL, "openai", "", 1_000, 2_000, 1_500, 100, 200, tokens=300, images=2, credits=4)


def account(**fields: Any) -> Account:
    grants = (PromoGrant(10, None),)
    return Account("acme", "acme", KEY_ID, PLAN, credits_granted=10, promo_grants=grants, **fields)


def groups_of(account: Account, call: Call) -> Sequence[LimitGroup]:
    groups = decide(call, account, NOW)
    assert isinstance(groups, list)
    return groups


async def written(database: Database, account: Account, call: Call) -> list[tuple[str, int, int]]:
    """A call that is admitted and open: every limit it took of, with what is settled and held."""
    taken = admitted(await MemoryCounters().take("r1", groups_of(account, call)))
    decision = decision_text(taken.states, (2_000, 1_000, 1_500, 300, 2_000))
    await database.ledger.begin_hold(hold("r1", at=NOW)._replace(decision=decision))
    return [(state.limit.key, state.settled, state.held) for state in taken.states]


async def held_again(database: Database, account: Account, call: Call) -> list[tuple[str, int, int]]:
    counters = MemoryCounters()
    (found,) = await open_calls(database)
    assert (found.hold_id, found.admitted_at) == ("r1", NOW.timestamp())
    counters.restore(found.hold_id, found.taken, age_s=5.0)
    limits = [limit for group in groups_of(account, call) for limit in group]
    return [(state.limit.key, state.settled, state.held) for state in await counters.read(limits)]


@pytest.mark.parametrize(
    ("payer", "call"),
    [
        pytest.param("quota", CALL._replace(credits=None), id="quota"),
        pytest.param("free_images", CALL, id="free images"),
        pytest.param("promo_credits", CALL, id="promotional credits"),
        pytest.param("credits", CALL, id="credits"),
        pytest.param("quota", CALL._replace(credits=None, provider="key"), id="a provider with an odd name"),
    ],
)
async def test_what_an_open_call_took_is_held_again_of_every_limit(database: Database, payer: str, call: Call) -> None:
    plan = Plan(**{**{name: getattr(PLAN, name) for name in PLAN.__slots__}, "payers": (payer,)})
    of = Account("acme", "acme", KEY_ID, plan, credits_granted=10, promo_grants=(PromoGrant(10, None),))
    assert await written(database, of, call) == await held_again(database, of, call)


async def test_a_keys_own_limits_are_held_under_the_first_of_its_ids(database: Database) -> None:
    values = {"id": "acme", "account_id": "acme", "plan": "pro", "is_active": True, "created_at": 0}
    await database.write(insert(creators).values(values))
    key = {"id": KEY_ID, "creator_id": "acme", "account_id": "acme", "digest": "d", "last4": "abcd", "created_at": 0}
    own = {"overrides": '{"requests_per_hour": 2}', "limits_id": "first"}
    await database.write(insert(virtual_keys).values(key | own))
    of = account(
        limits_id="first", key_plan=Plan("key", requests_per_hour=2, concurrent_calls=1, quota_nano_usd_per_month=5_000)
    )
    call = CALL._replace(credits=None)
    taken = await written(database, of, call)
    assert ("requests:k/first/3600", 1, 0) in taken
    assert taken == await held_again(database, of, call)


async def test_calls_that_have_ended_are_not_open(database: Database) -> None:
    await call(database, "r1", at=NOW)
    assert await open_calls(database) == []


async def test_a_hold_that_says_nothing_of_limits_holds_nothing(database: Database) -> None:
    await database.ledger.begin_hold(hold("r1", at=NOW))
    decision = '{"limits":[["gone_per_week","request",5,1,0,1]],"estimate":[0,0,0,0,0]}'
    await database.ledger.begin_hold(hold("r2", at=NOW)._replace(decision=decision))
    assert [(found.hold_id, found.taken) for found in await open_calls(database)] == [("r1", ()), ("r2", ())]
