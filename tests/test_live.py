"""Reload: what counts afterwards, what is told, and everything that leaves things as they were."""

import asyncio
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import pytest

from gateway.catalog import Price
from gateway.errors import ConfigError, StoreError
from gateway.live import Changes, Live
from gateway.tasks import spawn
from policies.types import Plan

PRICING = """\
version = "1"

[providers.mock]
dialect = "mock"

[providers.up]
dialect = "openai"
base_url = "http://127.0.0.1:9001/v1"
api_key_env = "UP_KEY"

[models."small"]
provider = "mock"
endpoints = ["chat"]
input_usd_per_mtok = 1
output_usd_per_mtok = 2

[models."far"]
provider = "up"
endpoints = ["chat"]
input_usd_per_mtok = 3
output_usd_per_mtok = 4
"""

PLANS = """\
[plans.free]
requests_per_hour = 10

[plans.pro]
requests_per_hour = 100

[credit_packages.big]
credits = 100
price_usd = 9
"""


class World:
    """Both files, and what a reload asks of the database."""

    def __init__(self, folder: Path) -> None:
        self.pricing, self.plans = folder / "pricing.toml", folder / "plans.toml"
        self.pricing.write_text(PRICING)
        self.plans.write_text(PLANS)
        self.keys = {"UP_KEY": "sk-up"}
        self.in_use = ["free"]
        self.recorded: list[Mapping[str, Price]] = []
        self.store_fails = False
        self.counters_fail = False
        self.told: list[tuple[dict[str, Plan], dict[str, Plan]]] = []
        self.live = Live(self.pricing, self.plans, self.keys.get)

    def edit(self, path: Path, old: str, new: str) -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    async def record_prices(self, prices: Iterable[tuple[str, Price]]) -> None:
        await asyncio.sleep(0)
        if self.store_fails:
            raise StoreError("the disk is full")
        self.recorded.append(dict(prices))

    async def plans_in_use(self) -> Collection[str]:
        await asyncio.sleep(0)
        return self.in_use

    async def before_swap(self, plans: Mapping[str, Plan]) -> None:
        await asyncio.sleep(0)
        if self.counters_fail:
            raise StoreError("the ledger cannot be read")
        self.told.append((dict(self.live.plans), dict(plans)))

    async def reload(self) -> Changes:
        return await self.live.reload(
            record_prices=self.record_prices, plans_in_use=self.plans_in_use, before_swap=self.before_swap
        )


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def refused(world: World) -> str:
    """Why a reload was refused; it has left everything as it was."""
    before = (world.live.catalog, world.live.credit_packages, dict(world.live.plans))
    with pytest.raises(ConfigError) as caught:
        await world.reload()
    assert world.live.catalog is before[0]
    assert world.live.credit_packages is before[1]
    assert dict(world.live.plans) == before[2]
    assert world.recorded == []
    return str(caught.value)


def test_a_start_reads_both_files_and_the_keys(world: World) -> None:
    live = world.live
    assert list(live.plans) == ["free", "pro"]
    assert live.credit_packages["big"].credits == 100
    assert live.catalog.models["far"].active
    assert not Live(world.pricing, world.plans, {}.get).catalog.models["far"].active


def test_a_start_tells_the_faults_of_both_files(world: World) -> None:
    world.edit(world.pricing, 'endpoints = ["chat"]', 'endpoints = ["telex"]')
    world.edit(world.plans, "requests_per_hour = 10\n", "requests_per_hour = -10\n")
    with pytest.raises(ConfigError) as caught:
        Live(world.pricing, world.plans, world.keys.get)
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"{world.pricing}:13: ")
    assert second.startswith(f"{world.plans}:2: ")


def test_without_files_of_ones_own_the_packaged_ones_are_read() -> None:
    live = Live(None, None, {}.get)
    assert "free" in live.plans
    assert "mock-1" in live.catalog.models


async def test_a_reload_of_the_same_files_changes_nothing(world: World) -> None:
    assert await world.reload() == Changes("1")
    assert await world.reload() == Changes("1")


async def test_a_reload_tells_what_changed(world: World) -> None:
    world.edit(world.plans, "[plans.pro]", "[plans.extra]\nrequests_per_day = 7\n[plans.pro]")
    world.edit(world.plans, "requests_per_hour = 100\n", "requests_per_hour = 200\n")
    world.edit(world.plans, "price_usd = 9", "price_usd = 8\n[credit_packages.huge]\ncredits = 1\nprice_usd = 1")
    world.edit(world.pricing, 'version = "1"', 'version = "2"')
    world.edit(world.pricing, "output_usd_per_mtok = 2", "output_usd_per_mtok = 2.5")
    world.edit(world.pricing, "output_usd_per_mtok = 4", 'output_usd_per_mtok = 4\nactive = false\ntier = "far"')
    world.pricing.write_text(
        world.pricing.read_text() + '[models."new"]\nprovider = "mock"\nendpoints = ["chat"]\ncredits = 1\n'
    )
    assert await world.reload() == Changes(
        catalog_version="2",
        plans_added=("extra",),
        plans_changed=("pro",),
        credit_packages_added=("huge",),
        credit_packages_changed=("big",),
        models_added=("new",),
        models_repriced=("small",),
        models_switched=("far",),
        models_changed=("far",),
    )


async def test_a_reload_tells_what_is_gone(world: World) -> None:
    world.plans.write_text("[plans.free]\nrequests_per_hour = 10\n")
    world.pricing.write_text(PRICING[: PRICING.index('[models."far"]')])
    changes = await world.reload()
    assert changes == Changes("1", plans_removed=("pro",), credit_packages_removed=("big",), models_removed=("far",))
    assert changes.to_json() == {
        "catalog_version": "1",
        "plans_added": [],
        "plans_removed": ["pro"],
        "plans_changed": [],
        "credit_packages_added": [],
        "credit_packages_removed": ["big"],
        "credit_packages_changed": [],
        "models_added": [],
        "models_removed": ["far"],
        "models_repriced": [],
        "models_switched": [],
        "models_changed": [],
    }


async def test_the_new_plans_are_told_while_the_old_ones_still_count(world: World) -> None:
    world.edit(world.plans, "requests_per_hour = 10\n", "requests_per_hour = 10\nrequests_per_day = 7\n")
    await world.reload()
    ((before, after),) = world.told
    assert (before["free"].requests_per_day, after["free"].requests_per_day) == (None, 7)
    assert after == dict(world.live.plans)


async def test_a_reload_that_cannot_be_prepared_changes_nothing(world: World) -> None:
    world.edit(world.plans, "requests_per_hour = 10\n", "requests_per_hour = 20\n")
    world.counters_fail = True
    with pytest.raises(StoreError):
        await world.reload()
    assert world.live.plans["free"].requests_per_hour == 10
    world.counters_fail = False
    assert (await world.reload()).plans_changed == ("free",)


async def test_another_price_in_credits_is_another_price(world: World) -> None:
    world.edit(world.pricing, "output_usd_per_mtok = 2", "output_usd_per_mtok = 2\ncredits = 3")
    assert await world.reload() == Changes("1", models_repriced=("small",))


async def test_those_who_hold_the_plans_see_the_new_ones(world: World) -> None:
    held = world.live.plans
    walk = iter(held)
    assert next(walk) == "free"
    world.plans.write_text("[plans.free]\nrequests_per_hour = 11\n[plans.gold]\n")
    await world.reload()
    assert held is world.live.plans
    assert held["free"].requests_per_hour == 11
    assert "gold" in held
    assert held.get("pro") is None
    assert (list(held), len(held)) == (["free", "gold"], 2)
    assert list(walk) == ["pro"]


async def test_a_call_in_flight_keeps_its_model_and_price(world: World) -> None:
    model = world.live.catalog.models["small"]
    world.edit(world.pricing, "output_usd_per_mtok = 2", "output_usd_per_mtok = 20")
    await world.reload()
    assert model.price.output == 2_000_000
    assert world.live.catalog.models["small"].price.output == 20_000_000


async def test_a_window_that_another_plan_sets_is_counted_and_no_change_of_the_plan(world: World) -> None:
    world.edit(world.plans, "requests_per_hour = 100\n", "requests_per_hour = 100\nrequests_per_day = 7\n")
    assert (await world.reload()).plans_changed == ("pro",)
    assert world.live.plans["free"].counted == frozenset({"requests_per_day"})


async def test_the_keys_in_the_environment_decide_again_which_models_are_on(world: World) -> None:
    world.keys.clear()
    assert await world.reload() == Changes("1", models_switched=("far",))
    assert not world.live.catalog.models["far"].active


async def test_new_prices_are_recorded_before_they_count(world: World) -> None:
    seen: list[int | None] = []

    async def record(prices: Iterable[tuple[str, Price]]) -> None:
        await asyncio.sleep(0)
        seen.extend((dict(prices)["small"].output, world.live.catalog.models["small"].price.output))

    world.edit(world.pricing, "output_usd_per_mtok = 2", "output_usd_per_mtok = 20")
    await world.live.reload(record_prices=record, plans_in_use=world.plans_in_use)
    assert seen == [20_000_000, 2_000_000]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        pytest.param('dialect = "openai"', 'dialect = "morse"', ":7: providers.up.dialect: unknown", id="unknown"),
        pytest.param('version = "1"', "version =", ":1: not valid TOML", id="not TOML"),
    ],
)
async def test_a_bad_catalog_keeps_the_old_files_and_says_why(world: World, old: str, new: str, reason: str) -> None:
    world.edit(world.pricing, old, new)
    world.edit(world.plans, "requests_per_hour = 10\n", "requests_per_hour = 11\n")
    assert f"{world.pricing}{reason}" in await refused(world)


async def test_bad_plans_keep_the_old_files_and_say_why(world: World) -> None:
    world.edit(world.plans, "requests_per_hour = 10\n", "requests_per_our = 10\n")
    world.edit(world.pricing, "output_usd_per_mtok = 2", "output_usd_per_mtok = 20")
    assert f"{world.plans}:2: plans.free.requests_per_our: unknown key" in await refused(world)


async def test_a_file_that_went_away_keeps_the_old_ones(world: World) -> None:
    world.plans.unlink()
    assert f"{world.plans}: cannot be read" in await refused(world)


async def test_a_refused_reload_does_not_stand_in_the_way_of_the_next(world: World) -> None:
    world.plans.write_text("[plans.free]\nrequests_per_hour = -1\n")
    await refused(world)
    world.plans.write_text(PLANS.replace("100\n", "200\n", 1))
    assert (await world.reload()).plans_changed == ("pro",)


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        pytest.param("9001", "9002", ["providers.up.base_url differs"], id="an address"),
        pytest.param(
            'api_key_env = "UP_KEY"',
            'api_key_env = "OTHER_KEY"\nretry_unanswered = true',
            ["providers.up.api_key_env differs", "providers.up.retry_unanswered differs"],
            id="two fields",
        ),
        pytest.param(
            "[providers.mock]",
            '[providers.two]\ndialect = "mock"\n[providers.mock]',
            ["providers.two is new"],
            id="new",
        ),
    ],
)
async def test_another_provider_needs_a_restart(world: World, old: str, new: str, lines: list[str]) -> None:
    world.edit(world.pricing, old, new)
    assert await refused(world) == "\n".join(f"{world.pricing}: {line}: needs a restart" for line in lines)


async def test_a_provider_that_is_gone_needs_a_restart(world: World) -> None:
    world.pricing.write_text(PRICING[: PRICING.index("[providers.up]")])
    assert await refused(world) == f"{world.pricing}: providers.up is gone: needs a restart"


async def test_a_plan_that_creators_are_on_cannot_go(world: World) -> None:
    world.plans.write_text("[plans.other]\n")
    world.in_use = ["pro", "free", "long gone"]
    assert await refused(world) == f"{world.plans}: plans that are in use are not in it any more: free, pro"


async def test_a_plan_that_was_gone_before_does_not_stand_in_the_way(world: World) -> None:
    world.in_use = ["free", "pro", "long gone"]
    world.edit(world.plans, "requests_per_hour = 10\n", "requests_per_hour = 11\n")
    assert (await world.reload()).plans_changed == ("free",)


async def test_prices_that_cannot_be_recorded_do_not_count(world: World) -> None:
    world.edit(world.pricing, "output_usd_per_mtok = 2", "output_usd_per_mtok = 20")
    world.edit(world.plans, "requests_per_hour = 10\n", "requests_per_hour = 11\n")
    world.store_fails = True
    with pytest.raises(StoreError):
        await world.reload()
    assert world.live.catalog.models["small"].price.output == 2_000_000
    assert world.live.plans["free"].requests_per_hour == 10


async def test_a_reload_that_is_cancelled_changes_nothing_and_does_not_block_the_next(world: World) -> None:
    is_recording, never = asyncio.Event(), asyncio.Event()

    async def record(prices: Mapping[str, Price]) -> None:
        is_recording.set()
        await never.wait()

    world.edit(world.plans, "requests_per_hour = 10\n", "requests_per_hour = 11\n")
    task = spawn(world.live.reload(record_prices=record, plans_in_use=world.plans_in_use), "reload")
    async with asyncio.timeout(10):
        await is_recording.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert world.live.plans["free"].requests_per_hour == 10
        assert (await world.reload()).plans_changed == ("free",)


async def test_reloads_at_once_come_one_after_the_other(world: World) -> None:
    inside = most = 0

    async def record(prices: Mapping[str, Price]) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0)
        inside -= 1

    world.edit(world.plans, "requests_per_hour = 10\n", "requests_per_hour = 11\n")
    reloads = (world.live.reload(record_prices=record, plans_in_use=world.plans_in_use) for _ in range(4))
    changes = await asyncio.gather(*reloads)
    assert most == 1
    assert [change.plans_changed for change in changes] == [("free",), (), (), ()]
