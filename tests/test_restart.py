"""A restart changes no figure: what `/v1/me` said before the gateway closed it says after it opened the same folder again.

Windows alone may give back a little later. What a crash cut off is booked by the written rule, and takes no credits and no
images.
"""

import asyncio
import contextlib
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.ledger.database import Database
from tests.clocked_gateway import USD, Clock, ClockedGateway, chat_model, image_model, opened, utc
from tests.ledger.books import MODEL, ORPHAN_COST, PRICE, change, hold, rows
from tests.rig.client import exchange, request_bytes
from tests.rig.gateway import Gateway, Key
from tests.rig.upstream import Upstream
from tests.rig.waiting import soon

NOON = utc(2025, 6, 11, 12)
Figures = dict[str, Any]


async def figures(gateway: ClockedGateway, keys: dict[str, str]) -> dict[str, Figures]:
    return {name: await gateway.view(key) for name, key in keys.items()}


WINDOW_S = {"minute": 60, "hour": 3_600, "day": 86_400}


def assert_same(before: dict[str, Figures], after: dict[str, Figures], *, with_windows: bool = True) -> None:
    """Every figure is the same. A rolling window counts the same, and gives nothing back before its time.

    `with_windows`: the clock stood still, as the monotonic one nearly did, by which windows go while a gateway runs.
    """
    for name in before:
        old, new = dict(before[name]), dict(after[name])
        old_limits, new_limits = old.pop("limits"), new.pop("limits")
        assert new == old, name
        assert [limit["name"] for limit in new_limits] == [limit["name"] for limit in old_limits]
        for old_limit, new_limit in zip(old_limits, new_limits, strict=True):
            if old_limit["unit"] not in ("request", "token"):
                assert new_limit == old_limit, name
            elif with_windows:
                timeless = {"reset_s": new_limit["reset_s"], "resets_at": new_limit["resets_at"]}
                assert new_limit == old_limit | timeless, name
                if new_limit["used"]:
                    assert new_limit["reset_s"] >= WINDOW_S[new_limit["name"].rpartition("_")[2]], name


async def assert_survives_a_restart(
    folder: Path, clock: Clock, keys: dict[str, str], before: dict[str, Figures], *, with_windows: bool = True
) -> None:
    async with opened(folder, clock) as gateway:
        assert_same(before, await figures(gateway, keys), with_windows=with_windows)
        assert gateway.differences() == []


async def busy(gateway: ClockedGateway) -> dict[str, str]:
    """Several creators and keys, and something of everything. Returns the keys."""
    services, clock = gateway.services, gateway.clock
    keys = {
        "narrow": await gateway.new_key("narrow", plan="narrow"),
        "rich": await gateway.new_key(
            "rich",
            free_images_per_day=2,
            budget_usd_per_month=1,
            providers={"other": {"requests_per_minute": 7, "tokens_per_day": 90_000}},
        ),
        "capped": await gateway.new_key(
            "capped",
            budget_usd_per_month=1,
            budget_hard_usd_per_month="1.5",
            when_budget_reached="downgrade_then_deny",
            requests_per_day=50,
        ),
    }
    keys["rich, second key"] = await gateway.second_key(
        "rich", requests_per_hour=20, quota_usd_per_month="0.9", tokens_per_day=100_000, budget_usd_per_month=5
    )
    await services.credits.grant("rich", credits=40)
    await services.credits.grant("rich", "promo_credits", credits=6, expires_at=clock.now + timedelta(hours=5))
    await services.credits.grant("rich", "promo_credits", credits=9, expires_at=clock.now + timedelta(days=40))
    painted = await gateway.images(keys["rich"], n=2)
    second = await gateway.images(keys["rich, second key"])
    for name, key in keys.items():
        assert (await gateway.chat(key, max_tokens=100)).status == 200, name
        assert (await gateway.chat(key, "talk-other", text="longer words " * 20)).status == 200, name
        assert (await gateway.chat(key, "waits", stream=True, max_tokens=9)).status == 200, name
    for n in (2, 4, 3):  # free images, promotional credits, and more of them
        assert (await gateway.images(keys["rich"], "gallery", n=n)).status == 200
    clock.advance(hours=6)
    await services.credits.expire_due()
    bought = await gateway.images(keys["rich, second key"], "gallery", n=10)
    assert bought.headers["x-gateway-payer"] == "credits"
    assert (await gateway.images(keys["narrow"], "gallery-dies", n=2)).status == 502
    assert (await gateway.images(keys["narrow"], "gallery-half", n=3)).status == 200
    assert (await gateway.images(keys["narrow"], n=5)).code == "request_too_large"
    # Refunds and adjustments, of everything that can be given back or mended.
    await services.credits.refund(painted.request_id, amount_usd="0.1")
    await services.credits.refund(second.request_id)
    await services.credits.refund(bought.request_id, credits=3)
    await services.credits.adjust("rich", "credits", credits=-5)
    await services.credits.adjust("rich", "promo_credits", credits=-1)
    await services.credits.adjust("rich", "quota", amount_usd="-0.05")
    # And on to the cap of the one whose calls are downgraded.
    for _ in range(14):
        assert (await gateway.images(keys["capped"], "premium")).status == 200
    return keys


async def test_every_figure_of_a_busy_gateway_survives_a_restart(tmp_path: Path) -> None:
    clock = Clock(NOON)
    async with opened(tmp_path, clock) as gateway:
        keys = await busy(gateway)
        before = await figures(gateway, keys)
        assert before["capped"]["downgrade"]["is_active"], "the mix should have somebody downgraded"
        assert gateway.differences() == []
    await assert_survives_a_restart(tmp_path, clock, keys, before, with_windows=False)


async def test_every_window_survives_a_restart(tmp_path: Path) -> None:
    """Of creators, keys and providers; exact ones and those in buckets, and one that is full."""
    clock = Clock(NOON)
    async with opened(tmp_path, clock) as gateway:
        providers = {"other": {"requests_per_minute": 7, "requests_per_hour": 800, "tokens_per_day": 90_000}}
        keys = {
            "plain": await gateway.new_key("plain"),
            "all": await gateway.new_key(
                "all", requests_per_minute=50, requests_per_day=600, tokens_per_day=90_000, providers=providers
            ),
            "full": await gateway.new_key("full", requests_per_hour=6),
        }
        keys["all, second key"] = await gateway.second_key(
            "all", requests_per_hour=20, tokens_per_minute=10_000, providers={"mock": {"requests_per_minute": 9}}
        )
        for key in keys.values():
            for model, text in (("talk", "hi"), ("talk-other", "longer words " * 20), ("talk", "x")):
                assert (await gateway.chat(key, model, text=text, max_tokens=100)).status == 200
            assert (await gateway.chat(key, "waits", stream=True)).status == 200
            for n in (1, 2):
                assert (await gateway.images(key, n=n)).status == 200
        before = await figures(gateway, keys)
        names = {limit["name"] for view in before.values() for limit in view["limits"] if limit["used"]}
        assert len([name for name in names if "requests" in name or "tokens" in name]) == 11
    async with opened(tmp_path, clock) as gateway:
        assert_same(before, await figures(gateway, keys))
        assert (await gateway.chat(keys["full"])).code == "rate_limit_exceeded"
        assert (await gateway.chat(keys["plain"])).status == 200


async def test_decisions_after_a_restart_are_those_from_before(tmp_path: Path) -> None:
    """Two gateways with the same past, one of which has just started, say the same to the same calls."""

    async def ask(gateway: ClockedGateway, keys: dict[str, str]) -> list[tuple[str, str | None, str | None]]:
        asked = [
            ("narrow", "gallery", 1),
            ("narrow", "gallery", 2),
            ("rich", "gallery", 8),
            ("rich", "gallery", 1),
            ("capped", "premium", 1),
            ("capped", "painter", 2),
            ("rich, second key", "painter", 3),
        ]
        found = []
        for name, model, n in asked:
            answer = await gateway.images(keys[name], model, n=n)
            found.append(
                (name, answer.headers.get("x-gateway-model"), answer.headers.get("x-gateway-payer") or answer.code)
            )
        return found

    said = []
    for is_restarted in (False, True):
        folder, clock = tmp_path / str(is_restarted), Clock(NOON)
        folder.mkdir()
        async with contextlib.AsyncExitStack() as stack:
            gateway = await stack.enter_async_context(opened(folder, clock))
            keys = await busy(gateway)
            if is_restarted:
                await stack.aclose()
                gateway = await stack.enter_async_context(opened(folder, clock))
            said.append(await ask(gateway, keys))
    assert said[1] == said[0]


async def test_a_restart_in_the_next_month_starts_from_what_is_still_of_the_period(tmp_path: Path) -> None:
    """Not restarted or restarted: what is left of quota, budget, free images and credits is the same."""
    clock = Clock(NOON)
    async with opened(tmp_path, clock) as gateway:
        keys = await busy(gateway)
        clock.advance(days=19, hours=13)
        before = await figures(gateway, keys)
    async with opened(tmp_path, clock) as gateway:
        after = await figures(gateway, keys)
        for name in keys:
            for part in ("free_images_today", "credits", "promo_credits", "month", "downgrade", "plan"):
                assert after[name][part] == before[name][part], (name, part)
            for old, new in zip(before[name]["limits"], after[name]["limits"], strict=True):
                if old["unit"] not in ("request", "token"):
                    assert new == old, name
        assert gateway.differences() == []


# Promotional credits around their expiry


async def promo_left(gateway: ClockedGateway, key: str) -> int:
    left: int = (await gateway.view(key))["promo_credits"]["left"]
    return left


async def test_credits_spent_right_after_others_expired_are_still_spent_after_a_restart(tmp_path: Path) -> None:
    """Ten were given and four spent when the rest expired; three of five new ones are spent. Two are left, though the
    expiry is not booked yet when the gateway stops."""
    clock = Clock(NOON)
    async with opened(tmp_path, clock) as gateway:
        keys = {"acme": await gateway.new_key()}
        await gateway.services.credits.grant(
            "acme", "promo_credits", credits=10, expires_at=NOON + timedelta(minutes=1)
        )
        assert (await gateway.images(keys["acme"], "gallery", n=4)).status == 200
        clock.advance(minutes=1, seconds=10)
        await gateway.services.credits.grant("acme", "promo_credits", credits=5)
        assert (await gateway.images(keys["acme"], "gallery", n=3)).status == 200
        before = await figures(gateway, keys)
        assert before["acme"]["promo_credits"]["left"] == 2
    await assert_survives_a_restart(tmp_path, clock, keys, before)


async def test_nobody_spends_more_promotional_credits_than_were_ever_left_across_a_restart(tmp_path: Path) -> None:
    clock = Clock(NOON)
    spent_after = 0
    async with opened(tmp_path, clock) as gateway:
        key = await gateway.new_key()
        await gateway.services.credits.grant(
            "acme", "promo_credits", credits=10, expires_at=NOON + timedelta(minutes=1)
        )
        clock.advance(minutes=1, seconds=10)
        await gateway.services.credits.grant("acme", "promo_credits", credits=5)
        while (await gateway.images(key, "gallery")).status == 200:
            spent_after += 1
    async with opened(tmp_path, clock) as gateway:
        while (await gateway.images(key, "gallery")).status == 200:
            spent_after += 1
    assert spent_after == 5
    clock.advance(hours=1)
    async with opened(tmp_path, clock) as gateway:
        assert await promo_left(gateway, key) == 0
        assert gateway.differences() == []


async def test_a_call_that_fails_after_its_credits_expired_gives_nobody_new_ones(tmp_path: Path) -> None:
    """It held four of ten when all ten expired; meanwhile three of five new ones were spent. It fails: the four come back
    to a grant that is gone, and two are left."""
    clock = Clock(NOON)
    async with opened(tmp_path, clock) as gateway:
        keys = {"acme": await gateway.new_key()}
        await gateway.services.credits.grant(
            "acme", "promo_credits", credits=10, expires_at=NOON + timedelta(minutes=1)
        )
        task = asyncio.get_running_loop().create_task(gateway.images(keys["acme"], "gallery-dies", n=4))
        await gateway.has_in_flight(1)
        clock.advance(minutes=1, seconds=10)
        await gateway.services.credits.grant("acme", "promo_credits", credits=5)
        assert (await gateway.images(keys["acme"], "gallery", n=3)).status == 200
        assert (await task).status == 502
        assert await promo_left(gateway, keys["acme"]) == 2
        clock.advance(minutes=5)
        await gateway.services.credits.expire_due()
        assert await promo_left(gateway, keys["acme"]) == 2
        before = await figures(gateway, keys)
    await assert_survives_a_restart(tmp_path, clock, keys, before, with_windows=False)


# Downgrades


async def test_a_creator_who_came_back_under_nine_tenths_is_not_downgraded_by_a_restart(tmp_path: Path) -> None:
    """A large call was downgraded, smaller ones were served as asked afterwards: the refusal is over."""
    clock = Clock(NOON)
    async with opened(tmp_path, clock) as gateway:
        keys = {"acme": await gateway.new_key(budget_usd_per_month=1)}
        assert (await gateway.images(keys["acme"], "premium", n=4)).status == 200  # 0.32
        large = await gateway.images(keys["acme"], "premium", n=9)  # 0.72 more do not fit
        assert large.headers["x-gateway-model"] == "standard"
        for _ in range(7):
            small = await gateway.images(keys["acme"], "premium")
            assert small.headers["x-gateway-model"] == "premium"
        before = await figures(gateway, keys)
        assert not before["acme"]["downgrade"]["is_active"]
    await assert_survives_a_restart(tmp_path, clock, keys, before)


async def test_a_cap_that_was_raised_is_not_taken_back_by_a_restart(tmp_path: Path) -> None:
    clock = Clock(NOON)
    async with opened(tmp_path, clock) as gateway:
        keys = {"acme": await gateway.new_key(budget_usd_per_month=1)}
        for _ in range(13):
            last = await gateway.images(keys["acme"], "premium")
        assert last.headers["x-gateway-model"] == "standard"  # 0.96 and 0.003 are spent
        await gateway.services.accounts.update_creator("acme", {"overrides": {"budget_usd_per_month": "1.05"}})
        assert (await gateway.images(keys["acme"], "premium")).headers["x-gateway-model"] == "premium"
        before = await figures(gateway, keys)
        assert not before["acme"]["downgrade"]["is_active"]
    await assert_survives_a_restart(tmp_path, clock, keys, before)


async def test_a_refused_downgrade_is_forgotten_by_a_restart(tmp_path: Path) -> None:
    """A refused call leaves no entry, and the ledger is all that a start knows: the budget speaks again at its cap."""
    clock = Clock(NOON)
    async with opened(tmp_path, clock) as gateway:
        keys = {"acme": await gateway.new_key(budget_usd_per_month=1)}
        for _ in range(12):
            assert (await gateway.images(keys["acme"], "premium")).status == 200  # 0.96
        refused = await gateway.images(keys["acme"], "premium", headers={"x-gateway-downgrade": "never"})
        assert refused.code == "insufficient_quota"
        before = await figures(gateway, keys)
        assert before["acme"]["downgrade"]["is_active"]
    async with opened(tmp_path, clock) as gateway:
        after = await figures(gateway, keys)
        assert not after["acme"]["downgrade"]["is_active"]
        assert (await gateway.images(keys["acme"], "premium")).headers["x-gateway-model"] == "standard"  # 1.04


async def test_one_keys_own_budget_downgrades_nobody_else_after_a_restart(tmp_path: Path) -> None:
    clock = Clock(NOON)
    async with opened(tmp_path, clock) as gateway:
        keys = {"acme": await gateway.new_key(budget_usd_per_month=1)}
        keys["own budget"] = await gateway.second_key(budget_usd_per_month="0.1")
        for _ in range(2):
            assert (await gateway.images(keys["own budget"], "premium")).status == 200
        for _ in range(10):
            served = await gateway.images(keys["acme"], "premium")
            assert served.headers["x-gateway-model"] == "premium"  # 0.083 + 0.80
        for _ in range(10):
            assert (await gateway.images(keys["acme"], "standard")).status == 200  # 0.913
        before = await figures(gateway, keys)
        assert not before["acme"]["downgrade"]["is_active"]
    await assert_survives_a_restart(tmp_path, clock, keys, before)


# Crashes


MOCKS = '\n[providers.mock]\ndialect = "mock"\n' + "".join(
    [
        chat_model("talk"),
        chat_model("stuck", upstream="f60000d0n1"),
        image_model("gallery", price="0.02", credits=2),
        image_model("gallery-stuck", price="0.02", credits=2, upstream="f60000d0n0"),
        image_model("painter", price="0.25"),
        image_model("painter-stuck", price="0.25", upstream="f60000d0n0"),
    ]
)
RIG_PLANS = """
[plans.mixed]
requests_per_hour = 1000
tokens_per_minute = 1_000_000
concurrent_calls = 20
quota_usd_per_month = 100
budget_usd_per_month = 50
free_images_per_day = 3
"""


async def me(gateway: Gateway, key: Key) -> Figures:
    answer = await gateway.get(key, "/v1/me")
    assert answer.status == 200, answer
    found: Figures = answer.json
    return found


def used(view: Figures, name: str) -> tuple[int, int]:
    limit = next(limit for limit in view["limits"] if limit["name"] == name)
    return limit["used"], limit["held"]


def picture_request(key: Key, model: str, n: int) -> bytes:
    body = {"model": model, "prompt": "a cat", "n": n}
    return request_bytes("POST", "/v1/images/generations", key=key.key, body=body)


def chat_request(key: Key, model: str) -> bytes:
    body = {"model": model, "messages": [{"role": "user", "content": "go on!!!"}], "max_tokens": 2_000}
    return request_bytes("POST", "/v1/chat/completions", key=key.key, body=body)


async def test_calls_that_kill_9_cut_off_are_booked_by_the_rule_and_take_no_credits_and_no_images(
    tmp_path: Path, upstream: Upstream
) -> None:
    gateway = Gateway(tmp_path, upstream, models=MOCKS, plans=RIG_PLANS)
    try:
        gateway.start()
        key = gateway.new_key(plan="mixed")
        grants = f"/admin/creators/{key.creator}/credits"
        gateway.admin_json("POST", grants, json={"credits": 10})
        gateway.admin_json("POST", grants, json={"credits": 6, "payer": "promo_credits"})
        for request in (
            chat_request(key, "talk"),
            picture_request(key, "gallery", 1),
            picture_request(key, "painter", 1),
        ):
            assert (await exchange(gateway.port, request)).status == 200
        settled = await me(gateway, key)
        stuck = [
            chat_request(key, "stuck"),
            picture_request(key, "gallery-stuck", 2),  # free images
            picture_request(key, "gallery-stuck", 3),  # promotional credits
            picture_request(key, "gallery-stuck", 4),  # credits
            picture_request(key, "painter-stuck", 2),  # quota
        ]
        calls = []
        for number, request in enumerate(stuck, 1):
            calls.append(asyncio.get_running_loop().create_task(exchange(gateway.port, request)))
            await soon(lambda number=number: gateway.open_holds() == number, "the hold")  # type: ignore[misc]
        before = await me(gateway, key)
        assert used(before, "free_images_per_day") == (1, 2)
        assert used(before, "promo_credits") == (0, 6)
        assert used(before, "credits") == (0, 8)
        assert used(before, "concurrent_calls") == (0, 5)
        assert used(before, "quota_usd_per_month")[1] > USD // 2
        gateway.kill9()
        await asyncio.gather(*calls, return_exceptions=True)
        gateway.start()
        after = await me(gateway, key)

        # Eight bytes are two tokens, and a thousand of the answer; images cost what was asked for.
        chat = 2 * 1_000 + 1_000 * 10_000
        owed, cost = chat + USD // 2, chat + USD // 2 + 9 * 20_000_000
        assert used(after, "quota_usd_per_month") == (used(settled, "quota_usd_per_month")[0] + owed, 0)
        assert used(after, "budget_usd_per_month") == (used(settled, "budget_usd_per_month")[0] + cost, 0)
        assert used(after, "budget_hard_usd_per_month") == (used(settled, "budget_hard_usd_per_month")[0] + cost, 0)
        assert used(after, "free_images_per_day") == (1, 0)
        assert (after["promo_credits"]["left"], after["credits"]["left"]) == (6, 10)
        assert used(after, "concurrent_calls") == (0, 0)
        assert used(after, "requests_per_hour") == used(before, "requests_per_hour") == (8, 0)
        assert sum(used(after, "tokens_per_minute")) >= used(settled, "tokens_per_minute")[0]
        assert after["month"]["charge_nano_usd"] == settled["month"]["charge_nano_usd"] + owed
        assert after["month"]["cost_nano_usd"] == settled["month"]["cost_nano_usd"] + cost

        crashed = gateway.entries(creator=key.creator, outcome="crashed")
        assert sorted((row["payer"], row["payer_amount"], row["charge_nano_usd"]) for row in crashed) == [
            ("credits", 0, 0),
            ("free_images", 0, 0),
            ("promo_credits", 0, 0),
            ("quota", chat, chat),
            ("quota", USD // 2, USD // 2),
        ]
        assert {row["usage_source"] for row in crashed} == {"estimated"}
        gateway.audit()
    finally:
        gateway.close()


async def left_open(folder: Path, clock: Clock, at: datetime, sql: str = "") -> None:
    """A gateway that died with one call in flight, admitted at `at`; `sql` then changes its file."""
    async with opened(folder, clock) as gateway:
        await gateway.new_key()
        await gateway.services.database.record_prices({MODEL: PRICE})
        path = gateway.path
    database = await Database.open(path)
    await database.ledger.hold(hold("req_1", at=at))
    await database.close()
    if sql:
        change(path, sql)


async def test_a_crash_at_the_months_end_is_booked_in_the_month_of_the_call(tmp_path: Path) -> None:
    clock = Clock(utc(2025, 5, 31, 23, 59, 59.9))
    await left_open(tmp_path, clock, clock.now)
    clock.advance(seconds=1)
    async with opened(tmp_path, clock) as gateway:
        assert gateway.entries("period_day, period_month, outcome, charge_nano_usd") == [
            ("2025-05-31", "2025-05", "crashed", ORPHAN_COST)
        ]
        key = await gateway.second_key()
        assert (await gateway.limits(key))["quota_usd_per_month"]["used"] == 0
        assert gateway.differences() == []


async def test_holds_of_a_dead_process_end_at_the_start_though_the_clock_was_set_back_meanwhile(tmp_path: Path) -> None:
    """Every hold that is open when the port opens belongs to a process that is no more, whatever its instant."""
    clock = Clock(NOON)
    await left_open(tmp_path, clock, NOON, "UPDATE holds SET created_at = created_at + 7200000")
    async with opened(tmp_path, clock) as gateway:
        assert rows(gateway.path, "SELECT count(*) FROM holds") == [(0,)]
        assert gateway.entries("outcome, charge_nano_usd") == [("crashed", ORPHAN_COST)]


async def test_killed_over_and_over_while_it_starts_it_books_a_crashed_call_once(tmp_path: Path) -> None:
    clock = Clock(NOON)
    await left_open(tmp_path, clock, NOON)
    for _ in range(3):
        async with opened(tmp_path, clock) as gateway:
            assert gateway.entries("outcome") == [("crashed",)]
            assert gateway.differences() == []


# Any past


class Books:
    """What money there is, kept as simply as can be: sums, and one rule for promotional credits (what is used counts
    against those that expire first, so that at least the expired ones are used)."""

    QUOTA = 3 * USD
    FREE = 2

    def __init__(self) -> None:
        self.charged: dict[str, int] = {}
        self.cost: dict[str, int] = {}
        self.given_back: dict[str, int] = {}
        self.free: dict[str, int] = {}
        self.credits = 0
        self.promo: list[tuple[int, datetime]] = []
        self.promo_used = 0
        self.calls: list[tuple[str, str, int, str]] = []
        """Request id, payer, amount and month of what can be given back."""

    def quota_used(self, now: datetime) -> int:
        month = f"{now:%Y-%m}"
        return self.charged.get(month, 0) - self.given_back.get(month, 0)

    def free_left(self, now: datetime) -> int:
        return self.FREE - self.free.get(f"{now:%Y-%m-%d}", 0)

    def promo_left(self, now: datetime) -> int:
        expired = sum(given for given, expires_at in self.promo if expires_at <= now)
        self.promo_used = max(self.promo_used, expired)
        return sum(given for given, _ in self.promo) - self.promo_used

    def payer_of_images(self, n: int, now: datetime) -> str | None:
        if n <= self.free_left(now):
            return "free_images"
        if n <= self.promo_left(now):
            return "promo_credits"
        return "credits" if n <= self.credits else None

    def note_images(self, request_id: str, payer: str, returned: int, now: datetime) -> None:
        day, month = f"{now:%Y-%m-%d}", f"{now:%Y-%m}"
        self.cost[month] = self.cost.get(month, 0) + returned * 20_000_000
        if payer == "free_images":
            self.free[day] = self.free.get(day, 0) + returned
            return
        self.calls.append((request_id, payer, returned, month))
        if payer == "promo_credits":
            self.promo_used += returned
        else:
            self.credits -= returned

    def note_painting(self, request_id: str, n: int, now: datetime) -> None:
        month, owed = f"{now:%Y-%m}", n * USD // 4
        self.charged[month] = self.charged.get(month, 0) + owed
        self.cost[month] = self.cost.get(month, 0) + owed
        self.calls.append((request_id, "quota", owed, month))

    def note_refund(self, payer: str, amount: int, month: str, now: datetime) -> None:
        if payer == "credits":
            self.credits += amount
        elif payer == "promo_credits":
            self.promo_left(now)
            self.promo_used -= amount
        elif month == f"{now:%Y-%m}":
            self.given_back[month] = self.given_back.get(month, 0) + amount


class Story:
    """A gateway and its books through the same sequence of steps."""

    def __init__(self, gateway: ClockedGateway, key: str, books: Books) -> None:
        self.gateway, self.key, self.books = gateway, key, books

    @property
    def now(self) -> datetime:
        return self.gateway.clock.now

    async def paint(self, n: int) -> None:
        answer = await self.gateway.images(self.key, "painter", n=n)
        if self.books.quota_used(self.now) + n * USD // 4 > Books.QUOTA:
            assert answer.code == "insufficient_quota"
        else:
            assert answer.status == 200
            self.books.note_painting(answer.request_id, n, self.now)

    async def picture(self, n: int, model: str = "gallery") -> None:
        payer = self.books.payer_of_images(n, self.now)
        answer = await self.gateway.images(self.key, model, n=n)
        if payer is None:
            assert answer.code == "insufficient_quota"
        else:
            assert (answer.status, answer.headers["x-gateway-payer"]) == (200, payer)
            returned = n if model == "gallery" else -(-n // 2)
            self.books.note_images(answer.request_id, payer, returned, self.now)

    async def half(self, n: int) -> None:
        await self.picture(n, "gallery-half")

    async def grant(self, credits: int) -> None:
        await self.gateway.services.credits.grant("acme", credits=credits)
        self.books.credits += credits

    async def promo(self, given: tuple[int, int]) -> None:
        amount, hours = given
        expires_at = self.now + timedelta(hours=hours)
        await self.gateway.services.credits.grant("acme", "promo_credits", credits=amount, expires_at=expires_at)
        self.books.promo.append((amount, expires_at))

    async def refund(self, number: int) -> None:
        if self.books.calls:
            request_id, payer, amount, month = self.books.calls.pop(number % len(self.books.calls))
            await self.gateway.services.credits.refund(request_id)
            self.books.note_refund(payer, amount, month, self.now)

    async def take_away(self, credits: int) -> None:
        if credits <= self.books.credits:
            await self.gateway.services.credits.adjust("acme", "credits", credits=-credits)
            self.books.credits -= credits

    async def wait(self, hours: float) -> None:
        self.gateway.clock.advance(hours=hours)

    async def expire(self, _: None) -> None:
        await self.gateway.services.credits.expire_due()

    async def assert_told(self) -> None:
        """`/v1/me` says what the books say."""
        view, books, now = await self.gateway.view(self.key), self.books, self.now
        month = f"{now:%Y-%m}"
        assert used(view, "quota_usd_per_month") == (books.quota_used(now), 0)
        assert used(view, "budget_usd_per_month") == (books.cost.get(month, 0), 0)
        assert view["free_images_today"]["left"] == books.free_left(now)
        assert view["credits"]["left"] == books.credits
        assert view["promo_credits"]["left"] == books.promo_left(now)
        assert view["month"]["cost_nano_usd"] == books.cost.get(month, 0)
        assert view["month"]["charge_nano_usd"] == books.charged.get(month, 0)


STEPS = st.one_of(
    st.tuples(st.just("paint"), st.integers(1, 5)),
    st.tuples(st.just("picture"), st.integers(1, 6)),
    st.tuples(st.just("half"), st.integers(1, 6)),
    st.tuples(st.just("grant"), st.integers(1, 12)),
    st.tuples(st.just("promo"), st.tuples(st.integers(1, 12), st.sampled_from([1, 20, 24 * 8, 24 * 45]))),
    st.tuples(st.just("refund"), st.integers(0, 7)),
    st.tuples(st.just("take_away"), st.integers(1, 4)),
    st.tuples(st.just("wait"), st.sampled_from([0.001, 0.02, 1, 11, 24, 24 * 9, 24 * 31])),
    st.tuples(st.just("expire"), st.none()),
    st.tuples(st.just("restart"), st.none()),
)


@settings(max_examples=10)
@given(steps=st.lists(STEPS, min_size=4, max_size=24))
def test_any_sequence_over_months_leaves_what_simple_books_say_before_and_after_a_restart(
    steps: list[tuple[str, Any]],
) -> None:
    with TemporaryDirectory() as folder:
        asyncio.run(_tell(Path(folder), steps))


async def _tell(folder: Path, steps: list[tuple[str, Any]]) -> None:
    clock, books, key = Clock(utc(2024, 1, 30, 22)), Books(), ""
    chapters: list[list[tuple[str, Any]]] = [[]]
    for step in steps:
        if step[0] == "restart":
            chapters.append([])
        else:
            chapters[-1].append(step)
    for chapter in [*chapters, []]:
        async with opened(folder, clock) as gateway:
            key = key or await gateway.new_key(quota_usd_per_month=3, free_images_per_day=Books.FREE)
            story = Story(gateway, key, books)
            await story.assert_told()
            for name, argument in chapter:
                act: Callable[[Any], Any] = getattr(story, name)
                await act(argument)
                clock.advance(milliseconds=2)  # what happens is told apart by the millisecond
            await story.assert_told()
            assert gateway.differences() == []
