"""Counters after a start say what they would have said without one: read through the limits that policies make."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
import time_machine
from sqlalchemy import insert

from gateway.counters.base import LimitState, Refused
from gateway.counters.memory import MemoryCounters
from gateway.counters.rebuild import rebuild_counters
from gateway.counters.window_seeds import own_windows, seed_new_windows, windows_added
from gateway.decision import decision_text
from gateway.ledger.counted import free_images_of_day
from gateway.ledger.database import Database
from gateway.ledger.records import Route
from gateway.ledger.schema import creators, virtual_keys
from gateway.ledger.statements import SQLITE, compile_statement
from gateway.usage import NO_USAGE, Usage
from policies import budget, free_images, quota, rate_limit, token_rate
from policies import credits as credit_policy
from policies.types import Account, Call, Limit, Plan, PromoGrant, ProviderLimits
from tests.ledger.books import BOTH, COST, MODEL, USAGE, Place, call, change, entry, hold, rows

STORES = BOTH

NOW = datetime(2026, 5, 14, 12, 30, 30, 500_000, tzinfo=UTC)
TOKENS = USAGE.input_tokens + USAGE.output_tokens
CALL = Call("chat", MODEL, MODEL, "openai", "", 0, 0, images=1, credits=1)
PLAN = Plan("pro", requests_per_hour=1_000, budget_nano_usd_per_month=10**9)


@pytest.fixture(autouse=True)
def at_now() -> Iterator[None]:
    with time_machine.travel(NOW, tick=False):
        yield


def account(plan: Plan = PLAN, *, creator: str = "acme", key_id: str = "k" * 12, **fields: Any) -> Account:
    return Account(creator=creator, account_id=creator, key_id=key_id, plan=plan, **fields)


async def rebuilt(database: Database, *plans: Plan, clock_s: float = 0.0) -> "Counters":
    counters = Counters(clock_s)
    named = {plan.name: plan for plan in plans or (PLAN,)}
    await rebuild_counters(counters.store, database, plans=named, now=NOW)
    await rebuild_counters(counters.store, database, plans=named, now=NOW)  # twice is harmless
    return counters


class Counters:
    """A store whose clock the test turns."""

    def __init__(self, clock_s: float) -> None:
        self.clock_s = 10**6 + clock_s
        self.store = MemoryCounters(lambda: self.clock_s, NOW.timestamp)

    async def settled(self, *limits: Limit) -> list[int]:
        return [state.settled for state in await self.store.read(limits)]

    async def windows(self, account: Account) -> Mapping[str, int]:
        """Settled units by the limit's name."""
        limits = [*rate_limit.overview(account, NOW), *token_rate.overview(account, NOW)]
        return dict(zip([limit.name for limit in limits], await self.settled(*limits), strict=True))

    async def money(self, account: Account) -> list[int]:
        """Of the creator: quota, soft budget, hard budget."""
        return await self.settled(quota.alternative(CALL, account, NOW), *budget.overview(account, NOW)[:2])


async def post(database: Database, request_id: str, *, corrects: str | None = None, changes: Any, **fields: Any) -> str:
    fields.setdefault("at", NOW)
    (entry_id,) = await database.ledger.post([entry(request_id, changes=changes, **fields)], corrects=corrects)
    return entry_id


def paid_in(payer: str, amount: int, kind: str = "usage") -> dict[str, Any]:
    unit = "image" if payer == "free_images" else "credit"
    route = Route(MODEL, "openai", "1", payer, unit)
    return {"route": route, "kind": kind, "charge_nano_usd": 0, "payer_amount": amount}


def money_back(amount: int) -> dict[str, Any]:
    return {
        "kind": "refund",
        "usage": NO_USAGE,
        "cost_nano_usd": 0,
        "charge_nano_usd": -amount,
        "payer_amount": -amount,
    }


async def add_key(database: Database, key_id: str, overrides: Mapping[str, Any], creator: str = "acme") -> None:
    await database.write(
        insert(virtual_keys).values(
            id=key_id,
            creator_id=creator,
            account_id=creator,
            digest=key_id,
            last4="last",
            overrides=orjson.dumps(overrides).decode(),
            created_at=1,
        )
    )


async def add_creator(database: Database, creator: str, overrides: Mapping[str, Any] | None = None) -> None:
    await database.write(
        insert(creators).values(
            id=creator,
            account_id=creator,
            plan="pro",
            overrides=orjson.dumps(overrides or {}).decode(),
            is_active=True,
            created_at=1,
        )
    )


# Money


async def test_the_months_calls_count_on_quota_and_budgets(database: Database) -> None:
    await post(database, "r1", changes={"charge_nano_usd": 7, "payer_amount": 7})
    await post(database, "r2", changes=paid_in("credits", 3))
    await post(database, "r3", changes={}, creator="zeta")
    await post(database, "april", changes={}, at=datetime(2026, 4, 30, 23, 59, 59, tzinfo=UTC))
    counters = await rebuilt(database)
    assert await counters.money(account()) == [7, 2 * COST, 2 * COST]
    assert await counters.money(account(creator="zeta")) == [COST] * 3


async def test_a_refund_gives_quota_back_only_in_the_month_of_its_call(database: Database) -> None:
    april = await post(database, "april", changes={}, at=NOW - timedelta(days=20))
    may = await post(database, "may", changes={}, at=NOW - timedelta(days=2))
    await post(database, "b1", corrects=april, changes=money_back(1_000))
    await post(database, "b2", corrects=may, changes=money_back(10))
    await post(database, "b3", corrects=may, changes=money_back(1))
    await post(database, "a1", corrects=may, changes={**money_back(500), "kind": "adjustment"})
    counters = await rebuilt(database)
    assert await counters.money(account()) == [COST - 11, COST, COST]


CAPPED = Plan("pro", budget_nano_usd_per_month=1_000)
SOFT = budget.NAME
KEY_SOFT = f"key_{budget.NAME}"


async def budget_call(database: Database, number: int, what: str, cost: int = 0, **fields: Any) -> None:
    """A call as it is decided: `served` as asked though a cheaper model could have, or `uncapped` because none could, or
    sent to a cheaper one by the limit named."""
    budgets = budget.overview(account(CAPPED), NOW)[:1] if what == "served" else []
    states = [LimitState(limit, 0, 100, 0.0, 100) for limit in budgets]
    changes = {"cost_nano_usd": cost, "decision": decision_text(states, (1, 1, 1, 1))}
    if what in (SOFT, KEY_SOFT):
        changes["downgrade_reason"] = what
        fields["requested_model"] = "dearer"
    await post(database, f"r{number}", changes=changes, **fields)


@pytest.mark.parametrize(
    ("calls", "is_refused"),
    [
        pytest.param([SOFT], True, id="it refused"),
        pytest.param(["served"], False, id="it never did"),
        pytest.param([SOFT, "uncapped", "uncapped"], True, id="later calls say nothing about it"),
        pytest.param([SOFT, "served"], False, id="it had room again"),
        pytest.param(["served", SOFT, "served", SOFT], True, id="the newest one counts"),
        pytest.param([SOFT, *["uncapped"] * 50], False, id="too long ago to be looked for"),
        pytest.param([KEY_SOFT], False, id="it was the budget of a key"),
        pytest.param(["other_limit"], False, id="it was another limit"),
    ],
)
async def test_a_budget_that_had_refused_stays_so(database: Database, calls: list[str], is_refused: bool) -> None:
    """Below the cap, above 90 % of it: only whose newest call tells of a refusal is refused."""
    for number, what in enumerate(calls):
        await budget_call(database, number, what, 0 if number else 950)
    counters = await rebuilt(database)
    assert await has_refused(counters, account(CAPPED)) is is_refused


async def test_a_refusal_of_last_month_is_over(database: Database) -> None:
    await budget_call(database, 1, SOFT, at=NOW - timedelta(days=14))
    await budget_call(database, 2, "uncapped", 950)
    assert not await has_refused(await rebuilt(database), account(CAPPED))


async def test_a_keys_own_budget_and_its_creators_refuse_apart(database: Database) -> None:
    await add_creator(database, "acme")
    await add_key(database, "a" * 12, {"budget_usd_per_month": "0.000001"})
    await add_key(database, "b" * 12, {"budget_usd_per_month": "0.000001"})
    await budget_call(database, 1, KEY_SOFT, 950, key_id="a" * 12)
    await budget_call(database, 2, "served", 950, key_id="b" * 12)
    await budget_call(database, 3, KEY_SOFT, 950, key_id="a" * 12, creator="zeta")
    counters = await rebuilt(database)
    plan = Plan("pro", budget_nano_usd_per_month=2_000)
    owners = [account(plan, key_id=key_id * 12, key_plan=CAPPED) for key_id in "ab"]
    assert [await has_refused(counters, owner, 2) for owner in owners] == [True, False]
    assert not await has_refused(counters, account(plan))


async def has_refused(counters: "Counters", of: Account, number: int = 0) -> bool:
    """Whether one nano-dollar more finds no room in the budget with this place in the overview."""
    soft = budget.overview(of, NOW)[number]
    return isinstance(await counters.store.preview([(soft._replace(amount=1),)]), Refused)


# Images and credits


async def test_only_todays_free_images_count(database: Database) -> None:
    first = await post(database, "r1", changes=paid_in("free_images", 2))
    await post(database, "r2", changes=paid_in("free_images", 1), at=NOW.replace(hour=0, minute=0, second=0))
    before = await post(database, "r3", changes=paid_in("free_images", 3), at=NOW - timedelta(days=1))
    await post(database, "b1", corrects=first, changes=paid_in("free_images", -1, "refund"))
    await post(database, "b2", corrects=before, changes=paid_in("free_images", -3, "refund"))
    counters = await rebuilt(database)
    assert await counters.settled(free_images.alternative(CALL, account(), NOW)) == [2]
    assert await free_images_of_day(database, "2026-05-13") == {"acme": 3}


async def test_credits_are_gone_by_use_and_expiry_and_come_back_by_refunds(database: Database) -> None:
    long_ago = NOW - timedelta(days=400)
    await post(database, "g1", changes=paid_in("credits", -100, "grant"), at=long_ago)
    used = await post(database, "u1", changes=paid_in("credits", 30), at=long_ago)
    await post(database, "u2", changes=paid_in("credits", 5))
    await post(database, "b1", corrects=used, changes=paid_in("credits", -10, "refund"))
    await post(database, "a1", changes=paid_in("credits", 2, "adjustment"))
    grant = await post(database, "g2", changes=paid_in("promo_credits", -50, "grant"), at=long_ago)
    await post(database, "u3", changes=paid_in("promo_credits", 20), at=long_ago)
    await post(database, "x1", corrects=grant, changes=paid_in("promo_credits", 30, "expiry"))
    await post(database, "a2", changes=paid_in("credits", -9, "adjustment"), creator="gifted")
    counters = await rebuilt(database)
    mine = account(credits_granted=100, promo_grants=(PromoGrant(50, None),))
    limits = [credit_policy.alternative(CALL, mine, NOW), credit_policy.promo_alternative(CALL, mine, NOW)]
    assert await counters.settled(*limits) == [27, 50]
    assert await counters.settled(credit_policy.alternative(CALL, account(creator="gifted"), NOW)) == [0]


# Windows


async def test_windows_hold_the_calls_admitted_within_them(database: Database) -> None:
    for name, age in [("s", 10), ("m", 90), ("h", 3_500), ("d", 3_700), ("old", 90_000)]:
        await call(database, name, at=NOW - timedelta(seconds=age))
    daily = Plan("daily", requests_per_minute=9, requests_per_day=9, tokens_per_day=10**6)
    counters = await rebuilt(database, PLAN, daily)
    assert await counters.windows(account(daily)) == {
        "requests_per_minute": 1,
        "requests_per_hour": 3,
        "requests_per_day": 4,
        "tokens_per_minute": TOKENS,
        "tokens_per_day": 4 * TOKENS,
    }
    only_core = await rebuilt(database, PLAN)
    assert await only_core.windows(account(daily)) == {
        "requests_per_minute": 0,
        "requests_per_hour": 3,
        "requests_per_day": 0,
        "tokens_per_minute": TOKENS,
        "tokens_per_day": 0,
    }


async def test_a_unit_leaves_its_window_on_time_or_a_step_later_but_never_early(database: Database) -> None:
    await call(database, "r1", at=NOW - timedelta(seconds=1_000))
    (hour,) = rate_limit.overview(account(), NOW)
    counters = await rebuilt(database)
    counters.clock_s += 2_600
    assert await counters.settled(hour) == [1]
    counters.clock_s += 1
    assert await counters.settled(hour) == [0]
    (day,) = rate_limit.overview(account(Plan("day", requests_per_day=5)), NOW)[1:]
    counters = await rebuilt(database, Plan("day", requests_per_day=5))
    counters.clock_s += 85_400
    assert await counters.settled(day) == [1]
    counters.clock_s += 60
    assert await counters.settled(day) == [0]


async def test_attempts_make_one_request_and_hits_take_no_tokens(database: Database) -> None:
    await post(database, "r1", changes={"final": False})
    await post(database, "r1", changes={"attempt": 2})
    await post(database, "hit", changes={"cached": True})
    await post(database, "g1", changes=paid_in("credits", -100, "grant"))
    counters = await rebuilt(database)
    found = await counters.windows(account())
    assert (found["requests_per_hour"], found["tokens_per_minute"]) == (2, 2 * TOKENS)


async def test_tokens_are_those_that_a_settle_counts(database: Database) -> None:
    every = Usage(*range(1, len(Usage._fields) + 1))
    await post(database, "r1", changes={"usage": every})
    found = await (await rebuilt(database)).windows(account())
    assert found["tokens_per_minute"] == every.input_tokens + every.output_tokens


async def test_providers_are_counted_apart_where_a_plan_limits_them(database: Database) -> None:
    await call(database, "r1", at=NOW)
    await post(database, "r2", changes={"route": Route("m", "mistral", "1")})
    plan = Plan("pro", providers={"openai": ProviderLimits(requests_per_minute=5, tokens_per_day=10**6)})
    found = await (await rebuilt(database, plan)).windows(account(plan))
    assert found["requests_per_hour"] == 2
    assert (found["openai_requests_per_minute"], found["openai_tokens_per_day"]) == (1, TOKENS)


async def test_a_creators_own_window_is_counted_for_it_alone(database: Database) -> None:
    await add_creator(database, "acme", {"requests_per_day": 5})
    await add_creator(database, "zeta")
    for creator in ("acme", "zeta"):
        await call(database, creator, creator=creator, at=NOW - timedelta(hours=3))
    counters = await rebuilt(database)
    daily = Plan("daily", requests_per_day=5)
    assert (await counters.windows(account(daily)))["requests_per_day"] == 1
    assert (await counters.windows(account(daily, creator="zeta")))["requests_per_day"] == 0


async def test_a_key_with_limits_of_its_own_has_counters_of_its_own(database: Database) -> None:
    await add_creator(database, "acme")
    own = {"requests_per_hour": 3, "quota_usd_per_month": "1", "providers": {"openai": {"requests_per_day": 7}}}
    await add_key(database, "a" * 12, own)
    await add_key(database, "b" * 12, {})
    first = await post(database, "r1", changes={}, key_id="a" * 12)
    await post(database, "r2", changes={}, key_id="a" * 12, creator="zeta")  # the key acts for others
    await post(database, "r3", changes={}, key_id="b" * 12)
    await post(database, "x1", corrects=first, changes=money_back(5), key_id="a" * 12)
    key_plan = Plan(
        "key",
        requests_per_hour=3,
        quota_nano_usd_per_month=10**9,
        providers={"openai": ProviderLimits(requests_per_day=7)},
    )
    counters = await rebuilt(database)
    mine = Account("acme", "acme", "a" * 12, PLAN, key_plan=key_plan)
    found = await counters.windows(mine)
    assert found["requests_per_hour"] == 2
    assert (found["key_requests_per_hour"], found["key_openai_requests_per_day"]) == (2, 2)
    ((key_quota,),) = quota.key_groups(CALL, mine, NOW)
    assert await counters.settled(key_quota) == [2 * COST - 5]
    others = Account("acme", "acme", "b" * 12, PLAN, key_plan=key_plan)
    assert (await counters.windows(others))["key_requests_per_hour"] == 0


@pytest.mark.parametrize("overrides", ['{"no_such_limit": 1}', "nonsense"])
async def test_overrides_that_cannot_be_read_do_not_stop_a_start(
    database: Database, path: Place, overrides: str
) -> None:
    await add_creator(database, "acme", {"requests_per_day": 5})
    change(path, "UPDATE creators SET overrides = ?", overrides)
    await call(database, "r1", at=NOW)
    assert (await (await rebuilt(database)).windows(account()))["requests_per_hour"] == 1


async def test_the_window_of_a_busy_creator_is_folded_as_while_it_is_served(database: Database) -> None:
    seconds = range(1_000)
    made = [entry(f"r{n}", at=NOW - timedelta(seconds=3 * n)) for n in seconds]
    await database.ledger.post(made)
    (hour,) = rate_limit.overview(account(Plan("big", requests_per_hour=10_000)), NOW)
    counters = await rebuilt(database)
    assert await counters.settled(hour) == [1_000]
    counters.clock_s += 3_600
    assert (await counters.settled(hour))[0] > 0
    counters.clock_s += 61
    assert await counters.settled(hour) == [0]


# Windows that begin to be counted


DAILY = Plan("daily", requests_per_day=5, tokens_per_day=10**6)
DAILY_FIELDS = ("requests_per_day", "tokens_per_day")


async def open_call(database: Database, request_id: str, *, tokens: int = 0, **fields: Any) -> None:
    decision = decision_text([], (1, 1, 1, tokens))
    await database.ledger.hold(hold(request_id, **fields)._replace(decision=decision))


async def begun(database: Database, **asked: Any) -> "Counters":
    counters = Counters(0.0)
    for _ in range(2):  # twice is harmless
        await seed_new_windows(counters.store, database, **{"fields": DAILY_FIELDS, "now": NOW, **asked})
    return counters


@pytest.mark.parametrize("creators", [None, ["acme"]])
async def test_a_window_begins_with_what_was_used_before(database: Database, creators: list[str] | None) -> None:
    """What has ended with the tokens it used, what is open with those it is expected to use, all within the window."""
    for name, hours in [("r1", 0), ("r2", 23), ("r3", 25)]:
        await call(database, name, at=NOW - timedelta(hours=hours))
    await open_call(database, "o1", tokens=1_000, at=NOW)
    await open_call(database, "o2", at=NOW - timedelta(hours=1))
    await open_call(database, "o3", tokens=9, at=NOW - timedelta(hours=30))
    counters = await begun(database, creators=creators)
    found = await counters.windows(account(DAILY))
    assert (found["requests_per_day"], found["tokens_per_day"]) == (4, 2 * TOKENS + 1_000)


async def test_only_the_windows_and_creators_asked_for_are_filled(database: Database) -> None:
    """The others are counted already, and would be counted twice or lose what is in flight."""
    for creator in ("acme", "zeta"):
        await call(database, creator, creator=creator, at=NOW)
        await open_call(database, f"open-{creator}", creator=creator, at=NOW)
    counters = await begun(database, creators=["acme"], fields=["requests_per_day"])
    assert await counters.windows(account(DAILY)) == {
        "requests_per_hour": 0,
        "requests_per_day": 2,
        "tokens_per_minute": 0,
        "tokens_per_day": 0,
    }
    assert set((await counters.windows(account(DAILY, creator="zeta"))).values()) == {0}


async def test_what_a_creators_own_overrides_count_already_is_left_alone(database: Database) -> None:
    await add_creator(database, "acme", {"requests_per_day": 50})
    await add_creator(database, "zeta")
    for creator in ("acme", "zeta"):
        await call(database, creator, creator=creator, at=NOW)
    counters = await begun(database)
    found = [await counters.windows(account(DAILY, creator=creator)) for creator in ("acme", "zeta")]
    assert [windows["requests_per_day"] for windows in found] == [0, 1]
    assert [windows["tokens_per_day"] for windows in found] == [TOKENS] * 2


async def test_a_providers_window_begins_with_the_calls_to_it(database: Database) -> None:
    await call(database, "r1", at=NOW)
    await open_call(database, "o1", at=NOW)
    await post(database, "r2", changes={"route": Route("m", "mistral", "1")})
    plan = Plan("pro", providers={"openai": ProviderLimits(requests_per_minute=5)})
    counters = await begun(database, fields=windows_added([PLAN], [plan]), creators=["acme"])
    assert (await counters.windows(account(plan)))["openai_requests_per_minute"] == 2


@pytest.mark.parametrize(
    ("before", "after", "added"),
    [
        pytest.param([Plan("a")], [DAILY], set(DAILY_FIELDS), id="two new ones"),
        pytest.param([DAILY], [Plan("a")], set(), id="gone ones"),
        pytest.param([Plan("a"), DAILY], [DAILY, DAILY], set(), id="another plan limited them"),
        pytest.param([Plan("a", counted=frozenset(DAILY_FIELDS))], [DAILY], set(), id="counted without a limit"),
        pytest.param([Plan("a")], [Plan("a", requests_per_hour=5)], set(), id="always counted"),
        pytest.param(
            [Plan("a", providers={"p": ProviderLimits(tokens_per_day=1)})],
            [Plan("a", providers={"p": ProviderLimits(tokens_per_day=2, requests_per_hour=1)})],
            {"p/requests_per_hour"},
            id="of a provider",
        ),
    ],
)
def test_windows_that_plans_begin_to_count_are_found(before: list[Plan], after: list[Plan], added: set[str]) -> None:
    assert windows_added(before, after) == added


@pytest.mark.parametrize(
    ("overrides", "windows"),
    [
        pytest.param("{}", set(), id="none"),
        pytest.param('{"requests_per_day": 5, "requests_per_hour": 5}', {"requests_per_day"}, id="one, and a core one"),
        pytest.param('{"requests_per_day": null}', set(), id="lifted"),
        pytest.param('{"providers": {"p": {"tokens_per_day": 5}}}', {"p/tokens_per_day"}, id="of a provider"),
        pytest.param("nonsense", set(), id="unusable ones count nothing"),
    ],
)
def test_windows_that_overrides_count_are_found(overrides: str, windows: set[str]) -> None:
    assert own_windows(overrides) == windows


# What it reads


class Explaining(Database):
    """Notes how SQLite goes about each query."""

    path: Place

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.steps: list[str] = []

    async def fetch_all(self, query: Any, **options: Any) -> Any:
        self._note(query)
        return await super().fetch_all(query, **options)

    def stream(self, query: Any, **options: Any) -> Any:
        self._note(query)
        return super().stream(query, **options)

    def _note(self, query: Any) -> None:
        statement = compile_statement(query, SQLITE)
        plan = rows(self.path, f"EXPLAIN QUERY PLAN {statement.sql}", *statement.parameters)
        self.steps += [row[3] for row in plan]


@pytest.mark.sqlite_only
async def test_no_question_walks_through_the_entries_or_all_daily_sums(database: Database, path: Place) -> None:
    """SQLite likes to walk a whole index to spare itself a sort."""
    await call(database, "r1", at=NOW)
    await budget_call(database, 2, SOFT)
    explaining = await Explaining.open_read_only(path)
    assert isinstance(explaining, Explaining)
    explaining.path = path
    plan = Plan("pro", requests_per_day=5, providers={"openai": ProviderLimits(requests_per_minute=5)})
    await rebuilt(explaining, plan)
    await explaining.close()
    searches = [step for step in explaining.steps if step.startswith("SEARCH")]
    assert len([step for step in searches if "entries" in step]) >= 4
    assert len([step for step in searches if "usage_daily" in step]) >= 3
    scanned = {step.split()[1] for step in explaining.steps if step.startswith("SCAN")}
    assert scanned <= {"creators", "virtual_keys", "throttles"}


@pytest.mark.sqlite_only
async def test_filling_one_creators_windows_reads_no_others_entries(database: Database, path: Place) -> None:
    await call(database, "r1", at=NOW)
    explaining = Explaining(database._readers, database.ledger)
    explaining.path = path
    await seed_new_windows(MemoryCounters(), explaining, fields=DAILY_FIELDS, creators=["acme"], now=NOW)
    assert any("entries" in step and "creator=?" in step for step in explaining.steps), explaining.steps
    assert not [step for step in explaining.steps if step.startswith("SCAN entries")]
