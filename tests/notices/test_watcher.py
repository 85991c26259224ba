"""What is told, how often, and that nothing which was heard is lost: real counters, a real database, a clock that the test
turns."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any

import orjson
import pytest
from structlog.testing import capture_logs

from gateway.answers import denied, refused
from gateway.config import Settings
from gateway.counters.base import Refused, Taken
from gateway.counters.memory import MemoryCounters
from gateway.errors import StoreError
from gateway.ledger.records import Entry
from gateway.notices import watcher as module
from gateway.notices.book import Notices
from gateway.notices.signals import Signals
from gateway.notices.watcher import Watcher
from policies import decide, quota
from policies.owners import creator_owner
from policies.types import Account, Deny, PromoGrant
from tests.account_world import World, open_world
from tests.ledger.books import ROUTE, attribution, be_hasty, call, change, entry, hold, locked, rows
from tests.policies.samples import ACCOUNT, CALL, IMAGES, USD, groups_of, on_plan, with_key_limits

QUOTA = on_plan(quota_nano_usd_per_month=100 * USD)
SOFT = on_plan(quota_nano_usd_per_month=None, budget_nano_usd_per_month=100 * USD)
HARD = on_plan(quota_nano_usd_per_month=None, budget_nano_usd_per_month=100 * USD, when_budget_reached="deny")
DAY_S, HOUR_S, MINUTE_S = 86_400, 3_600, 60


@dataclass
class Room:
    """Everything a watcher looks at."""

    world: World
    counters: MemoryCounters
    signals: Signals
    settings: Settings = field(default_factory=Settings)
    ids: Any = field(default_factory=count)
    account_of: Callable[[str], Awaitable[Account | None]] | None = None
    watcher: Watcher = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self, **settings: Any) -> None:
        """A watcher as it is after a start of the process; the counters were made anew from the ledger."""
        self.settings = self.settings.model_copy(update=settings)
        world, clock = self.world, self.world.clock
        self.watcher = Watcher(
            database=world.database,
            counters=self.counters,
            signals=self.signals,
            book=Notices(world.database, (), wall_clock=clock, on_recorded=lambda: None),
            settings=self.settings,
            wall_clock=clock,
            account_of=self.account_of or world.authenticator.account_of,
        )

    @property
    def now(self) -> datetime:
        return datetime.fromtimestamp(self.world.clock(), UTC)

    def turn_to(self, *date: int) -> None:
        self.world.clock.now_s = datetime(*date, tzinfo=UTC).timestamp()

    def turn_on(self, seconds: float) -> None:
        self.world.clock.now_s += seconds

    async def spend(self, account: Account, nano_usd: int) -> None:
        """A call of `account` that cost so much, whatever it was admitted at."""
        hold_id = f"hold-{next(self.ids)}"
        small = CALL._replace(charge_nano_usd=0, cost_nano_usd=0, expected_nano_usd=0)
        taken = await self.counters.take(hold_id, groups_of(decide(small, account, self.now)))
        assert isinstance(taken, Taken)
        await self.counters.settle(hold_id, {"nano_usd": nano_usd, "cost_nano_usd": nano_usd})
        self.signals.finished(account, self.entry_of(account))

    def entry_of(self, account: Account, **changes: Any) -> Entry:
        told = attribution("r", creator=account.creator, key_id=account.key_id, at=self.now, requested_model="large")
        return entry("r", changes={"attribution": told, **changes})

    async def refuse(self, account: Account, call: Any = CALL) -> None:
        """A call of `account` that the counters have no room for."""
        answer = await self.counters.take(f"hold-{next(self.ids)}", groups_of(decide(call, account, self.now)))
        assert isinstance(answer, Refused)
        error = refused(answer, self.world.clock())
        assert error.code == "insufficient_quota"
        self.signals.refused(account, error.metadata or {})

    def downgrade(self, account: Account, limit_name: str = "budget_usd_per_month") -> None:
        route = ROUTE._replace(served_model="small")
        self.signals.finished(account, self.entry_of(account, downgrade_reason=limit_name, route=route))

    def calls(
        self, number: int, outcome: str = "ok", *, status: int = 200, provider: str = "openai", **more: Any
    ) -> None:
        for _ in range(number):
            changes = {"outcome": outcome, "status": status, "route": ROUTE._replace(provider=provider), **more}
            self.signals.finished(ACCOUNT, self.entry_of(ACCOUNT, **changes))

    async def look(self) -> list[str]:
        """The kinds that this round told, in their order."""
        before = len(self.told())
        with capture_logs() as logs:
            await self.watcher.look()
        assert not logs
        return [kind for kind, _, _ in self.told()[before:]]

    async def look_in_vain(self) -> set[str]:
        """Parts that failed in this round."""
        with capture_logs() as lines:
            await self.watcher.look()
        logs = [line for line in lines if line["event"] != "ledger_write_failed"]  # the writer's own
        assert {(line["event"], line["log_level"]) for line in logs} == {("notices_failed", "error")}
        return {line["part"] for line in logs}

    def told(self) -> list[tuple[str, str, Mapping[str, Any]]]:
        """(kind, creator, figures) of everything that was ever told."""
        found = rows(self.world.path, "SELECT kind, creator, data FROM notices ORDER BY id")
        return [(kind, creator, orjson.loads(data)) for kind, creator, data in found]


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    async with open_world(tmp_path) as world:
        room = Room(world, MemoryCounters(world.clock, world.clock), Signals(world.clock))
        room.turn_to(2026, 5, 14, 12)
        yield room


# Quotas and budgets


@pytest.mark.parametrize(
    ("account", "last"),
    [
        pytest.param(QUOTA, "quota.exhausted", id="quota"),
        pytest.param(HARD, "budget.exhausted", id="hard-budget"),
        pytest.param(SOFT, "budget.95_percent", id="soft-budget"),
    ],
)
async def test_each_step_is_told_once_a_month_and_again_in_the_next(room: Room, account: Account, last: str) -> None:
    """A soft budget is never exhausted: it sends calls elsewhere."""
    subject = last.partition(".")[0]
    for month in (5, 6):
        room.turn_to(2026, month, 14, 12)
        found = []
        for spent in (79 * USD, USD - 1, 1, 15 * USD, 4 * USD, USD, 50 * USD):
            await room.spend(account, spent)
            found.append(await room.look())
            found.append(await room.look())
        steps = [kind for kinds in found for kind in kinds]
        assert steps == list(dict.fromkeys([f"{subject}.80_percent", f"{subject}.95_percent", last]))
        assert [bool(kinds) for kinds in found[:6]] == [False] * 4 + [True, False]
    assert {creator for _, creator, _ in room.told()} == {"ada"}


async def test_the_figures_are_those_of_the_counter(room: Room) -> None:
    await room.spend(QUOTA, 81 * USD + 500_000_000)
    await room.look()
    ((_, _, data),) = room.told()
    assert data == {
        "limit_name": "quota_usd_per_month",
        "used_nano_usd": 81_500_000_000,
        "used_usd": "81.5",
        "limit_nano_usd": 100_000_000_000,
        "limit_usd": "100",
        "percent": 81,
        "period": "2026-05",
        "resets_at": "2026-06-01T00:00:00Z",
    }


async def test_what_is_only_held_counts_for_nothing(room: Room) -> None:
    large = CALL._replace(charge_nano_usd=99 * USD)
    assert isinstance(await room.counters.take("open", groups_of(decide(large, QUOTA, room.now))), Taken)
    room.signals.finished(QUOTA, room.entry_of(QUOTA))
    assert await room.look() == []


async def test_a_leap_tells_the_highest_step_only(room: Room) -> None:
    await room.spend(QUOTA, 97 * USD)
    assert await room.look() == ["quota.95_percent"]
    assert await room.look() == []


async def test_a_lower_step_is_not_told_after_a_higher_one_though_money_came_back(room: Room) -> None:
    await room.spend(QUOTA, 97 * USD)
    assert await room.look() == ["quota.95_percent"]
    key = quota.counter_key(creator_owner("ada"), "2026-05")
    for refund, spent in ((12, 0), (30, 30), (0, 12)):  # 85, then 55 and 85, then 97 %
        await room.counters.adjust(key, -refund * USD)
        await room.spend(QUOTA, spent * USD)
        assert await room.look() == []
    await room.spend(QUOTA, 3 * USD)
    assert await room.look() == ["quota.exhausted"]


async def test_a_raised_cap_is_told_of_anew(room: Room) -> None:
    await room.spend(QUOTA, 80 * USD)
    assert await room.look() == ["quota.80_percent"]
    raised = on_plan(quota_nano_usd_per_month=200 * USD)
    await room.spend(raised, 79 * USD)
    assert await room.look() == []
    await room.spend(raised, USD)
    assert await room.look() == ["quota.80_percent"]


async def test_nothing_is_told_twice_across_a_restart(room: Room) -> None:
    await room.spend(QUOTA, 80 * USD)
    assert await room.look() == ["quota.80_percent"]
    room.start()
    await room.spend(QUOTA, 1)
    assert await room.look() == []
    await room.spend(QUOTA, 15 * USD)
    assert await room.look() == ["quota.95_percent"]


@pytest.mark.parametrize("cap", [None, 0])
async def test_a_plan_without_a_limit_or_without_any_money_tells_nothing(room: Room, cap: int | None) -> None:
    account = on_plan(quota_nano_usd_per_month=cap, budget_nano_usd_per_month=cap)
    await room.spend(account, 10**6 * USD)
    assert await room.look() == []


async def test_a_keys_own_quota_and_budget_are_told_under_their_own_names(room: Room) -> None:
    account = with_key_limits(QUOTA, quota_nano_usd_per_month=10 * USD, budget_nano_usd_per_month=5 * USD)
    await room.spend(account, 9 * USD)
    assert await room.look() == ["quota.80_percent", "budget.95_percent"]
    told = [(data["limit_name"], data["key_id"], data["used_usd"]) for _, _, data in room.told()]
    assert told == [("key_quota_usd_per_month", "k1", "9"), ("key_budget_usd_per_month", "k1", "9")]
    other = replace(account, key_id="k2")
    await room.spend(other, 8 * USD)
    assert await room.look() == ["quota.80_percent", "budget.95_percent"]
    assert {data["key_id"] for _, _, data in room.told()[2:]} == {"k2"}


async def test_many_creators_are_all_looked_at_in_one_round(room: Room) -> None:
    for number in range(120):
        await room.spend(replace(QUOTA, creator=f"creator-{number}"), 90 * USD)
    assert await room.look() == ["quota.80_percent"] * 120
    assert len({creator for _, creator, _ in room.told()}) == 120


# Downgrades


async def test_a_downgrade_is_told_once_a_month_with_models_and_what_was_spent(room: Room) -> None:
    await room.spend(SOFT, 60 * USD)
    room.downgrade(SOFT)
    assert await room.look() == ["budget.downgraded"]
    room.downgrade(SOFT)
    assert await room.look() == []
    room.turn_to(2026, 6, 2)
    room.downgrade(SOFT)
    assert await room.look() == ["budget.downgraded"]
    (_, creator, data), (_, _, later) = room.told()
    assert (creator, data["limit_name"], data["limit_usd"]) == ("ada", "budget_usd_per_month", "100")
    assert (data["requested_model"], data["served_model"]) == ("large", "small")
    assert (data["used_usd"], data["percent"], data["period"]) == ("60", 60, "2026-05")
    assert (later["used_usd"], later["period"]) == ("0", "2026-06")


async def test_a_downgrade_heard_after_the_months_end_belongs_to_its_own_month(room: Room) -> None:
    room.turn_to(2026, 5, 31, 23, 59, 59)
    room.downgrade(SOFT)
    room.turn_to(2026, 6, 1, 0, 0, 2)
    assert await room.look() == ["budget.downgraded"]
    assert room.told()[0][2]["period"] == "2026-05"
    room.turn_to(2026, 6, 20)
    room.downgrade(SOFT)
    assert await room.look() == ["budget.downgraded"]


async def test_each_key_with_a_budget_of_its_own_is_told_of(room: Room) -> None:
    one = with_key_limits(SOFT, budget_nano_usd_per_month=USD)
    for account in (one, replace(one, key_id="k2")):
        room.downgrade(account, "key_budget_usd_per_month")
    assert await room.look() == ["budget.downgraded"] * 2
    assert [data["key_id"] for _, _, data in room.told()] == ["k1", "k2"]


async def test_a_downgrade_by_a_limit_the_account_does_not_have_is_left_out(room: Room) -> None:
    room.downgrade(on_plan(), "key_budget_usd_per_month")
    assert await room.look() == []


# Refusals


@pytest.mark.parametrize(
    ("account", "kind"),
    [pytest.param(QUOTA, "quota.exhausted", id="quota"), pytest.param(HARD, "budget.exhausted", id="budget")],
)
async def test_a_refusal_tells_exhaustion_once_a_month_though_some_is_left(
    room: Room, account: Account, kind: str
) -> None:
    """And then neither the steps below nor the full hundred of the same limit."""
    large = CALL._replace(charge_nano_usd=5 * USD, cost_nano_usd=5 * USD, expected_nano_usd=5 * USD)
    await room.spend(account, 97 * USD)
    await room.refuse(account, large)
    assert await room.look() == [kind]
    await room.refuse(account, large)
    await room.spend(account, 10 * USD)
    assert await room.look() == []
    ((_, _, data),) = room.told()
    assert (data["used_usd"], data["limit_usd"], data["percent"]) == ("97", "100", 97)
    room.turn_to(2026, 6, 2)
    await room.spend(account, 97 * USD)
    await room.refuse(account, large)
    assert await room.look() == [kind]


async def test_a_soft_budget_is_exhausted_for_callers_who_rule_a_cheaper_model_out(room: Room) -> None:
    await room.spend(SOFT, 100 * USD)
    await room.refuse(SOFT, CALL._replace(downgrade="refused"))
    assert await room.look() == ["budget.exhausted"]
    assert room.told()[0][2]["limit_name"] == "budget_usd_per_month"


async def test_a_refusal_heard_after_the_months_end_belongs_to_its_own_month(room: Room) -> None:
    room.turn_to(2026, 5, 31, 23, 59, 59)
    await room.spend(QUOTA, 100 * USD)
    await room.refuse(QUOTA)
    room.turn_to(2026, 6, 1, 0, 0, 2)
    assert await room.look() == ["quota.exhausted"]
    assert room.told()[0][2]["period"] == "2026-05"
    await room.spend(QUOTA, 100 * USD)
    assert await room.look() == ["quota.exhausted"]


async def test_a_keys_own_quota_is_exhausted_under_its_own_name(room: Room) -> None:
    account = with_key_limits(QUOTA, quota_nano_usd_per_month=10 * USD)
    await room.spend(account, 10 * USD)
    await room.refuse(account)
    assert await room.look() == ["quota.exhausted"]
    assert room.told()[0][2]["limit_name"] == "key_quota_usd_per_month"


async def test_exhausted_credits_are_told_once_a_day(room: Room) -> None:
    account = replace(on_plan(free_images_per_day=0), credits_granted=4)
    for day in (14, 15):
        room.turn_to(2026, 5, day, 12)
        for told in (["credits.exhausted"], []):
            await room.refuse(account, IMAGES)
            assert await room.look() == told
    ((_, creator, data), _) = room.told()
    assert creator == "ada"
    assert data == {
        "limit_name": "credits",
        "used_credits": 0,
        "limit_credits": 4,
        "left_credits": 4,
        "period": "2026-05-14",
    }


async def test_credits_that_never_were_are_not_told_as_used_up(room: Room) -> None:
    account = on_plan(free_images_per_day=0)
    await room.refuse(account, IMAGES)
    assert await room.look() == []
    promoted = replace(account, promo_grants=(PromoGrant(3, None),))
    await room.refuse(promoted, IMAGES)
    assert await room.look() == ["credits.exhausted"]


async def test_a_quota_of_nothing_is_not_told_as_used_up(room: Room) -> None:
    await room.refuse(on_plan(quota_nano_usd_per_month=0))
    assert await room.look() == []


async def test_free_images_and_plans_on_which_nothing_pays_are_not_told_as_used_up(room: Room) -> None:
    account = replace(on_plan(free_images_per_day=1, payers=("free_images",)), credits_granted=1)
    picture = IMAGES._replace(images=1)
    assert isinstance(await room.counters.take("first", groups_of(decide(picture, account, room.now))), Taken)
    await room.counters.settle("first", {})
    await room.refuse(account, picture)
    nothing = decide(IMAGES, on_plan(payers=()), room.now)
    assert isinstance(nothing, Deny)
    room.signals.refused(ACCOUNT, denied(nothing).metadata or {})
    assert await room.look() == []


# Keys


async def test_a_key_is_told_once_when_its_end_is_near(room: Room) -> None:
    made = await room.world.new_key(expires_at=room.now + timedelta(days=7, minutes=10))
    assert await room.look() == []
    room.turn_on(10 * MINUTE_S)
    assert await room.look() == ["key.expiring"]
    room.turn_on(DAY_S)
    assert await room.look() == []
    room.start()
    assert await room.look() == []
    ((_, creator, data),) = room.told()
    assert (creator, data) == ("acme", {"key_id": made["id"], "expires_at": "2026-05-21T12:10:00.000Z"})


async def test_an_end_that_was_moved_is_told_anew(room: Room) -> None:
    made = await room.world.new_key(expires_at=room.now + timedelta(days=2))
    assert await room.look() == ["key.expiring"]
    moved = (room.now + timedelta(days=5)).timestamp() * 1000
    change(room.world.path, "UPDATE virtual_keys SET expires_at = ? WHERE id = ?", int(moved), made["id"])
    room.turn_on(MINUTE_S)
    assert await room.look() == ["key.expiring"]


async def test_keys_that_are_over_or_serve_nobody_are_left_out(room: Room) -> None:
    accounts, soon = room.world.accounts, room.now + timedelta(days=1)
    await room.world.new_key("lasting")
    await room.world.new_key("later", expires_at=room.now + timedelta(days=8))
    await room.world.new_key("ended", expires_at=room.now + timedelta(seconds=1))
    revoked = await room.world.new_key("revoked", expires_at=soon)
    await accounts.revoke_key(revoked["id"])
    await accounts.rotate_key((await room.world.new_key("rotated"))["id"], grace_s=HOUR_S)
    await room.world.new_key("idle", expires_at=soon)
    await accounts.update_creator("idle", {"is_active": False})
    await room.world.new_key("deleted", expires_at=soon)
    await accounts.delete_creator("deleted")
    room.turn_on(1)
    assert await room.look() == []
    await room.world.new_key("told", expires_at=soon)
    room.turn_on(MINUTE_S)
    assert await room.look() == ["key.expiring"]
    assert room.told()[0][1] == "told"


async def test_keys_are_looked_for_once_a_minute(room: Room) -> None:
    assert await room.look() == []
    await room.world.new_key(expires_at=room.now + timedelta(days=1))
    room.turn_on(59)
    assert await room.look() == []
    room.turn_on(1)
    assert await room.look() == ["key.expiring"]


async def test_a_clock_that_steps_back_does_not_end_the_looking(room: Room) -> None:
    assert await room.look() == []
    room.turn_on(-365 * DAY_S)
    await room.world.new_key(expires_at=room.now + timedelta(days=1))
    assert await room.look() == ["key.expiring"]


async def test_many_keys_are_told_in_turns_the_soonest_first(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_KEYS_MAX", 2)
    ends = [await room.world.new_key(expires_at=room.now + timedelta(days=days)) for days in (3, 1, 2)]
    found = []
    for _ in range(3):
        found.append(await room.look())
        room.turn_on(MINUTE_S)
    assert found == [["key.expiring"] * 2, ["key.expiring"], []]
    assert [data["key_id"] for _, _, data in room.told()] == [ends[index]["id"] for index in (1, 2, 0)]


async def test_no_days_ahead_means_no_keys(room: Room) -> None:
    room.start(notice_key_expiry_days=0)
    await room.world.new_key(expires_at=room.now + timedelta(minutes=1))
    assert await room.look() == []


# The day's cost


async def spend_on_day(room: Room, *costs: int, creator: str = "acme") -> None:
    """Calls booked on the clock's day, each of which cost so much at the provider."""
    for cost in costs:
        request_id = f"request-{next(room.ids)}"
        about = {"creator": creator, "at": room.now}
        await room.world.database.ledger.hold(hold(request_id, **about))
        await room.world.database.ledger.settle(
            request_id, [entry(request_id, changes={"cost_nano_usd": cost}, **about)]
        )


async def test_a_days_cost_is_told_above_the_amount_once_a_day(room: Room) -> None:
    room.start(notice_day_cost_usd=Decimal("0.5"))
    for day in (14, 15):
        room.turn_to(2026, 5, day, 12)
        await spend_on_day(room, 300_000_000)
        await spend_on_day(room, 200_000_000, creator="bob")
        assert await room.look() == []
        await spend_on_day(room, 1)
        room.turn_on(29)
        assert await room.look() == []
        room.turn_on(1)
        assert await room.look() == ["day_cost.above"]
        await spend_on_day(room, USD)
        room.turn_on(HOUR_S)
        assert await room.look() == []
    (_, creator, data), _ = room.told()
    assert creator == ""
    assert data == {
        "period": "2026-05-14",
        "cost_nano_usd": 500_000_001,
        "cost_usd": "0.500000001",
        "limit_nano_usd": 500_000_000,
        "limit_usd": "0.5",
    }


async def test_another_amount_is_told_the_same_day(room: Room) -> None:
    await spend_on_day(room, 3 * USD)
    for amount in (2, 1):
        room.start(notice_day_cost_usd=Decimal(amount))
        assert await room.look() == ["day_cost.above"]
    room.start(notice_day_cost_usd=Decimal(3))
    assert await room.look() == []


async def test_calls_that_end_after_midnight_still_count_for_their_day(room: Room) -> None:
    room.start(notice_day_cost_usd=Decimal(1))
    room.turn_to(2026, 5, 14, 23, 59)
    await spend_on_day(room, 2 * USD)
    room.turn_to(2026, 5, 15, 0, 15)
    assert await room.look() == ["day_cost.above"]
    assert room.told()[0][2]["period"] == "2026-05-14"


@pytest.mark.parametrize("amount", [None, Decimal(200)])
async def test_no_amount_and_a_day_below_it_tell_nothing(room: Room, amount: Decimal | None) -> None:
    room.start(notice_day_cost_usd=amount)
    await spend_on_day(room, 200 * USD)
    assert await room.look() == []


# Failed calls


async def test_failed_calls_are_told_overall_and_by_provider_once_an_hour(room: Room) -> None:
    room.calls(18)
    room.calls(2, "upstream_died", status=502)
    for hour in (12, 13):
        room.turn_to(2026, 5, 14, hour, 5 if hour == 13 else 55)
        room.calls(18)
        room.calls(2, "upstream_died", status=502)
        assert await room.look() == ["error_rate.above"] * 2
        assert await room.look() == []
    assert {(data["provider"], data["period"]) for _, _, data in room.told()} == {
        (provider, f"2026-05-14T{hour}") for provider in (None, "openai") for hour in (12, 13)
    }
    assert room.told()[0][2]["percent"] == "10"


async def test_an_error_rate_needs_twenty_calls(room: Room) -> None:
    room.calls(19, "upstream_died", status=502)
    assert await room.look() == []
    room.calls(1)
    assert await room.look() == ["error_rate.above"] * 2


async def test_one_providers_failures_are_told_where_all_together_are_fine(room: Room) -> None:
    room.calls(600)
    room.calls(20, "upstream_timeout", status=504, provider="slow")
    assert await room.look() == ["error_rate.above"]
    assert room.told()[0][2] == {
        "provider": "slow",
        "calls": 20,
        "errors": 20,
        "percent": "100",
        "limit_percent": "5",
        "period": "2026-05-14T12",
    }


async def test_few_failures_at_each_of_many_providers_are_told_together(room: Room) -> None:
    for number in range(10):
        room.calls(3, "upstream_error", provider=f"provider-{number}")
    assert await room.look() == ["error_rate.above"]
    assert room.told()[0][2]["provider"] is None


async def test_a_share_of_exactly_the_setting_is_not_above_it(room: Room) -> None:
    room.start(notice_error_percent=Decimal("3.33"))
    room.calls(9_667)
    room.calls(333, "upstream_error")
    assert await room.look() == []
    room.calls(1, "upstream_error")
    assert await room.look() == ["error_rate.above"] * 2


async def test_callers_faults_and_cached_hits_make_no_error_rate(room: Room) -> None:
    """Hits do not thin out the failures either: nineteen calls stay nineteen."""
    room.calls(100, "upstream_refused", status=400)
    assert await room.look() == []
    room.turn_on(20 * MINUTE_S)
    room.calls(19, "upstream_died", status=502)
    room.calls(100, cached=True)
    assert await room.look() == []


async def test_failures_of_earlier_than_ten_minutes_are_forgotten_and_none_is_never(room: Room) -> None:
    room.calls(50, "upstream_died", status=502)
    room.turn_on(10 * MINUTE_S)
    assert await room.look() == []
    room.start(notice_error_percent=None)
    room.calls(50, "upstream_died", status=502)
    assert await room.look() == []


# What goes wrong


async def test_a_failing_database_loses_nothing_that_was_heard(room: Room) -> None:
    world = room.world
    assert await room.look() == []
    await be_hasty(world.database)
    await room.spend(QUOTA, 80 * USD)
    bob = replace(QUOTA, creator="bob")
    await room.spend(bob, 100 * USD)
    await room.refuse(bob)
    room.downgrade(replace(SOFT, creator="dan"))
    with locked(world.path):
        assert await room.look_in_vain() == {"refusals", "downgrades", "limits"}
        carol = replace(QUOTA, creator="carol")
        await room.spend(carol, 96 * USD)
        assert await room.look_in_vain() == {"refusals", "downgrades", "limits"}
        assert room.signals.drain().accounts == {}
    assert sorted(await room.look()) == [
        "budget.downgraded",
        "quota.80_percent",
        "quota.95_percent",
        "quota.exhausted",
    ]
    assert await room.look() == []


async def test_what_was_not_written_is_queried_again_without_waiting_its_turn(room: Room) -> None:
    await room.world.new_key(expires_at=room.now + timedelta(days=1))
    await spend_on_day(room, USD)
    await be_hasty(room.world.database)
    room.start(notice_day_cost_usd=Decimal(0))
    with locked(room.world.path):
        assert await room.look_in_vain() == {"keys", "day_cost"}
    assert await room.look() == ["key.expiring", "day_cost.above"]


async def test_a_closed_database_stops_no_round(room: Room) -> None:
    await room.spend(QUOTA, 80 * USD)
    room.calls(20, "upstream_died", status=502)
    await room.world.database.close()
    assert await room.look_in_vain() == {"recall", "limits", "keys", "day_cost", "errors"}


async def test_one_account_that_cannot_be_looked_at_stands_in_nobodys_way(room: Room) -> None:
    """Who fails is put behind the others and tried again."""
    broken = replace(QUOTA, creator="broken", plan=None)  # type: ignore[arg-type]
    room.signals.finished(broken, room.entry_of(broken))
    await room.spend(QUOTA, 80 * USD)
    assert await room.look_in_vain() == {"limits"}
    assert await room.look_in_vain() == {"limits"}
    assert [kind for kind, _, _ in room.told()] == ["quota.80_percent"]


async def test_more_creators_than_fit_are_not_kept(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WAITING_MAX", 1)
    for creator in ("first", "second", "first"):
        await room.spend(replace(QUOTA, creator=creator), 45 * USD)
    assert await room.look() == ["quota.80_percent"]
    assert room.told()[0][1] == "first"


# After a start


async def spent_before_the_start(room: Room, creator: str, **fields: Any) -> None:
    """Money that the counters know of after their rebuild, from a call that nobody could hear of."""
    if not rows(room.world.path, "SELECT 1 FROM creators WHERE id = ?", creator):
        await room.world.accounts.create_creator(creator, **fields)
    await call(room.world.database, f"request-{next(room.ids)}", creator=creator)
    account = await room.world.authenticator.account_of(creator)
    await room.spend(account, (account.plan.quota_nano_usd_per_month or 0) * 8 // 10)
    room.signals.drain()


async def test_what_a_crash_swallowed_is_told_after_the_start(room: Room) -> None:
    room.world.clock.now_s = time.time()  # entries have the machine's instant in their id
    for _ in range(2):
        await spent_before_the_start(room, "acme", plan="pro", overrides={"budget_usd_per_month": 1_000})
    room.start()
    assert await room.look() == ["quota.exhausted"]
    assert await room.look() == []


async def test_who_called_long_before_the_start_is_not_looked_at(room: Room) -> None:
    room.world.clock.now_s = time.time() + 11 * MINUTE_S
    await spent_before_the_start(room, "acme")
    assert await room.look() == []


async def test_only_the_first_round_looks_back(room: Room) -> None:
    room.world.clock.now_s = time.time()
    assert await room.look() == []
    await spent_before_the_start(room, "acme")
    assert await room.look() == []


async def test_creators_who_are_gone_are_passed_over_after_the_start(room: Room) -> None:
    room.world.clock.now_s = time.time()
    for creator in ("a-orphan", "b-deleted", "c-told"):
        await spent_before_the_start(room, creator, overrides={"budget_usd_per_month": "unlimited"})
    change(room.world.path, "UPDATE creators SET plan = 'gone' WHERE id = 'a-orphan'")
    await room.world.accounts.delete_creator("b-deleted")
    room.start()
    with capture_logs() as logs:
        await room.watcher.look()
    assert [line["event"] for line in logs] == ["plan_unknown"]
    assert [(kind, creator) for kind, creator, _ in room.told()] == [("quota.80_percent", "c-told")]


async def test_the_look_back_is_repeated_from_the_same_instant_until_it_succeeds(room: Room) -> None:
    room.world.clock.now_s = time.time()
    await spent_before_the_start(room, "acme", overrides={"budget_usd_per_month": "unlimited"})
    asked = []

    async def account_of(creator: str) -> Account | None:
        asked.append(creator)
        if len(asked) == 1:
            raise StoreError("The database cannot be read at the moment.")
        return await room.world.authenticator.account_of(creator)

    room.account_of = account_of
    room.start()
    assert await room.look_in_vain() == {"recall"}
    room.turn_on(15 * MINUTE_S)
    assert await room.look() == ["quota.80_percent"]
    assert await room.look() == []
    assert asked == ["acme", "acme"]
