"""Brakes on unusual use: paused keys and creators who are slowed down for a while, and that neither lets go too early."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import select

from gateway.auth import Authenticator
from gateway.errors import GatewayError, NotFound, PolicyDenied, RequestError, Unauthenticated
from gateway.ledger.schema import throttles
from gateway.plans import load_plans
from policies import rate_limit
from policies.types import Account
from tests.account_world import World, bearer, open_world
from tests.clocked_gateway import Clock, ClockedGateway, opened, utc
from tests.test_auth import count_reads, without_suspending

MINUTE_MS = 60_000


@pytest.fixture
async def world(tmp_path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as world:
        yield world


async def refused(work, error: type[GatewayError], **expected: object) -> GatewayError:
    with pytest.raises(error) as caught:
        await work
    assert {name: getattr(caught.value, name) for name in expected} == expected
    return caught.value


async def is_paused(world: World, key: dict[str, Any]) -> bool:
    try:
        await world.account(key)
    except PolicyDenied as exc:
        if exc.code != "key_paused":
            raise
        return True
    return False


async def statuses(world: World, creator: str = "acme") -> dict[str, str]:
    return {row["id"]: row["status"] for row in (await world.accounts.list_keys(creator))["data"]}


# Pauses


async def test_a_paused_key_is_refused_from_the_next_call_on_until_it_is_resumed(world):
    key, other = await world.new_key(), await world.new_key()
    assert not await is_paused(world, key)
    paused = await world.accounts.pause_key(key["id"])
    assert (paused["status"], paused["paused_at"]) == ("paused", "2027-01-15T08:00:00.000Z")
    assert await is_paused(world, key)
    assert not await is_paused(world, other)
    resumed = await world.accounts.resume_key(key["id"])
    assert (resumed["status"], resumed["paused_at"]) == ("active", None)
    assert (await world.account(key)).key_id == key["id"]


async def test_whoever_is_paused_is_told_so_and_not_to_try_again(world):
    key = await world.new_key()
    await world.accounts.pause_key(key["id"])
    answer = await refused(world.account(key), PolicyDenied, status=403, type="invalid_request_error")
    assert answer.headers == {"x-should-retry": "false"}
    assert "an admin of the gateway can resume it" in answer.message


async def test_a_paused_key_that_calls_on_does_not_reach_the_database(world, monkeypatch):
    """It was paused because it calls too often."""
    key = await world.new_key()
    await world.accounts.pause_key(key["id"])
    assert await is_paused(world, key)
    reads = count_reads(world, monkeypatch)
    for _ in range(3):
        with pytest.raises(PolicyDenied, match="paused"):
            without_suspending(world.authenticator.authenticate(bearer(key["key"])))
    assert reads == []


async def test_pausing_and_resuming_twice_changes_nothing(world):
    key = await world.new_key()
    assert (await world.accounts.resume_key(key["id"]))["paused_at"] is None
    first = await world.accounts.pause_key(key["id"])
    world.clock.now_s += 60
    assert await world.accounts.pause_key(key["id"]) == first
    assert (await world.accounts.list_keys("acme"))["data"] == [first]
    await world.accounts.resume_key(key["id"])
    assert (await world.accounts.resume_key(key["id"]))["paused_at"] is None


async def test_only_a_key_that_is_there_and_not_revoked_is_paused_or_resumed(world):
    key, paused = await world.new_key(), await world.new_key()
    await world.accounts.pause_key(paused["id"])
    for revoked in (key, paused):
        await world.accounts.revoke_key(revoked["id"])
    for change in (world.accounts.pause_key, world.accounts.resume_key):
        await refused(change("nothing"), NotFound, status=404, code="key_not_found")
        for revoked in (key, paused):
            await refused(change(revoked["id"]), RequestError, status=409, code="key_not_live")
    assert set((await statuses(world)).values()) == {"revoked"}


async def test_a_pause_outlives_the_process(world):
    key = await world.new_key()
    await world.accounts.pause_key(key["id"])
    later = Authenticator(world.database, load_plans(), world.secrets, wall_clock=world.clock)
    await refused(later.authenticate(bearer(key["key"])), PolicyDenied, code="key_paused")


async def test_a_key_that_has_ended_is_refused_as_such_paused_or_not(world):
    """A pause must not tell strangers that a key was once real."""
    expired, revoked = await world.new_key(expires_in_s=60), await world.new_key()
    for key in (expired, revoked):
        await world.accounts.pause_key(key["id"])
        assert await is_paused(world, key)
    world.clock.now_s += 60
    await world.accounts.revoke_key(revoked["id"])
    for key in (expired, revoked):
        await refused(world.account(key), Unauthenticated, status=401, code="invalid_api_key")
    assert await statuses(world) == {expired["id"]: "expired", revoked["id"]: "revoked"}


async def test_a_paused_service_key_acts_for_nobody_it_ever_named(world):
    await world.accounts.create_creator("alice")
    key = await world.new_service_key(default_plan="pro")
    account, act_for = await world.account(key), world.authenticator.act_for
    assert (await act_for(account, "alice")).creator == "alice"
    await world.accounts.pause_key(key["id"])
    assert await is_paused(world, key)
    for name in ("alice", "newcomer"):  # calls that had shown their key before it was paused
        for brings in (True, False):
            await refused(act_for(account, name, brings=brings), PolicyDenied, status=403, code="key_paused")
    assert await world.rows_of("newcomer") == []
    await world.accounts.resume_key(key["id"])
    assert (await act_for(await world.account(key), "newcomer")).creator == "newcomer"


async def test_a_creators_paused_key_does_not_keep_a_service_key_from_acting_for_it(world):
    await world.accounts.pause_key((await world.new_key("alice"))["id"])
    acting = await world.authenticator.act_for(await world.account(await world.new_service_key()), "alice")
    assert acting.creator == "alice"


async def test_a_paused_key_that_is_rotated_stays_paused_under_its_new_text(world):
    old = await world.new_key()
    paused_at = (await world.accounts.pause_key(old["id"]))["paused_at"]
    world.clock.now_s += 60
    new = await world.accounts.rotate_key(old["id"])
    assert (new["status"], new["paused_at"]) == ("paused", paused_at)
    assert (await is_paused(world, old), await is_paused(world, new)) == (True, True)
    await world.accounts.resume_key(new["id"])
    assert (await is_paused(world, old), await is_paused(world, new)) == (True, False)


async def test_of_a_key_rotated_before_only_the_text_that_is_paused_stops(world):
    """The old text may have leaked, and be what is used out of the usual."""
    old = await world.new_key()
    new = await world.accounts.rotate_key(old["id"])
    await world.accounts.pause_key(old["id"])
    assert (await is_paused(world, old), await is_paused(world, new)) == (True, False)
    assert await statuses(world) == {old["id"]: "paused", new["id"]: "active"}


async def test_no_rotation_slips_past_a_pause_that_comes_at_the_same_time(world):
    old = await world.new_key()
    _, new = await asyncio.gather(world.accounts.pause_key(old["id"]), world.accounts.rotate_key(old["id"]))
    assert (await is_paused(world, old), await is_paused(world, new)) == (True, True)


async def test_a_key_read_before_a_pause_is_not_remembered_after_it(world, monkeypatch):
    key = await world.new_key()
    fetch_all, paused = world.database.fetch_all, False

    async def pausing_meanwhile(query, **options):
        nonlocal paused
        if not paused:
            paused = True
            await world.accounts.pause_key(key["id"])
        return await fetch_all(query)

    monkeypatch.setattr(world.database, "fetch_all", pausing_meanwhile)
    assert await is_paused(world, key)


# Throttles


def until(world: World, minutes: float) -> int:
    return int(world.clock.now_s * 1000 + minutes * MINUTE_MS)


async def throttled(world: World, key: dict[str, Any], to: int = 3, *, minutes: float = 10, by: str = "a1") -> Account:
    await world.accounts.throttle("acme", to, until(world, minutes), by)
    return await world.account(key)


def window(account: Account) -> int | None:
    """What the policy will count of requests in a minute, if it does."""
    counted = {limit.name: limit.capacity for limit in rate_limit.overview(account, datetime.now(UTC))}
    return counted.get("requests_per_minute")


@pytest.mark.parametrize(
    ("own", "to", "counts"),
    [
        pytest.param({}, 3, 3, id="where there was no limit"),
        pytest.param({"requests_per_minute": 50}, 3, 3, id="below the limit"),
        pytest.param({"requests_per_minute": 2}, 3, 2, id="above the limit"),
        pytest.param({"requests_per_minute": 0}, 3, 0, id="where nothing is allowed"),
    ],
)
async def test_a_throttle_lowers_the_requests_of_a_minute_from_the_next_call_on(world, own, to, counts):
    await world.accounts.create_creator("acme", overrides=own)
    key = await world.accounts.create_key("acme", overrides={"requests_per_minute": 40})
    before = await world.account(key)
    assert (before.plan.requests_per_minute, window(before)) == (own.get("requests_per_minute"),) * 2
    account = await throttled(world, key, to)
    assert (account.plan.requests_per_minute, window(account)) == (counts, counts)
    assert (account.plan.name, account.plan.is_overridden) == ("free", True)
    assert account.plan.requests_per_hour == before.plan.requests_per_hour
    assert account.key_plan == before.key_plan


async def test_a_throttle_is_of_one_creator_whichever_key_calls(world):
    keys = [await world.new_key(), await world.new_key(), await world.new_key("other")]
    await throttled(world, keys[0])
    assert [window(await world.account(key)) for key in keys] == [3, 3, None]


async def test_a_throttle_ends_by_itself_and_costs_one_reading(world, monkeypatch):
    key = await world.new_key()
    account = await throttled(world, key, minutes=10)
    reads = count_reads(world, monkeypatch)
    authenticate = world.authenticator.authenticate
    world.clock.now_s += 599.9
    assert without_suspending(authenticate(bearer(key["key"]))) is account, "remembered as long as it lasts"
    world.clock.now_s += 0.1
    after = await world.account(key)
    assert (window(after), after.plan) == (None, load_plans()["free"])
    world.clock.now_s += 10**6
    assert without_suspending(authenticate(bearer(key["key"]))) is after
    assert len(reads) == 1


async def test_many_calls_at_the_end_of_a_throttle_read_the_key_once(world, monkeypatch):
    key = await world.new_key()
    await throttled(world, key)
    world.clock.now_s += 600
    reads = count_reads(world, monkeypatch)
    accounts = await asyncio.gather(*(world.account(key) for _ in range(50)))
    assert {window(account) for account in accounts} == {None}
    assert len(reads) == 1


async def test_a_throttle_counts_and_ends_for_whoever_acts_for_the_creator(world, monkeypatch):
    await world.accounts.create_creator("acme")
    account, act_for = await world.account(await world.new_service_key()), world.authenticator.act_for
    assert window(await act_for(account, "acme")) is None
    await world.accounts.throttle("acme", 3, until(world, 10), "a1")
    slowed = await act_for(account, "acme")
    assert window(slowed) == 3
    world.clock.now_s += 599.9
    assert without_suspending(act_for(account, "acme")) is slowed
    world.clock.now_s += 0.1
    after = await act_for(account, "acme")
    assert window(after) is None
    assert without_suspending(act_for(account, "acme")) is after


async def test_an_estimate_for_an_admin_is_of_the_account_as_it_is_slowed_down(world):
    await throttled(world, await world.new_key())
    account = await world.authenticator.account_of("acme")
    assert account is not None
    assert window(account) == 3
    world.clock.now_s += 600
    account = await world.authenticator.account_of("acme")
    assert account is not None
    assert window(account) is None


async def test_a_lifted_throttle_is_gone_at_the_next_call(world):
    key = await world.new_key()
    await throttled(world, key)
    assert await world.accounts.lift_throttle("acme") is True
    assert window(await world.account(key)) is None
    assert await world.accounts.lift_throttle("acme") is False
    await throttled(world, key)
    world.clock.now_s += 600
    assert await world.accounts.lift_throttle("acme") is False, "it had ended by itself"


@pytest.mark.parametrize(
    ("second", "stands"),
    [
        pytest.param((3, 10, "b"), (3, 10, "a"), id="the same"),
        pytest.param((5, 5, "b"), (3, 10, "a"), id="weaker and shorter"),
        pytest.param((2, 5, "b"), (2, 10, "b"), id="stricter and shorter"),
        pytest.param((5, 20, "b"), (3, 20, "b"), id="weaker and longer"),
        pytest.param((2, 20, "b"), (2, 20, "b"), id="stricter and longer"),
    ],
)
async def test_a_throttle_is_never_weakened_by_another(world, second, stands):
    key, start = await world.new_key(), until(world, 0)
    for to, minutes, anomaly in ((3, 10, "a"), second):
        await throttled(world, key, to, minutes=minutes, by=anomaly)
    (row,) = await world.database.fetch_all(select(throttles))
    to, minutes, anomaly = stands
    assert row == {
        "creator": "acme",
        "requests_per_minute": to,
        "until_at": start + minutes * MINUTE_MS,
        "anomaly_id": anomaly,
    }
    assert window(await world.account(key)) == to


async def test_a_throttle_that_has_ended_does_not_bind_the_next_one(world):
    key = await world.new_key()
    await throttled(world, key, 1, minutes=10)
    world.clock.now_s += 600
    assert window(await throttled(world, key, 30, minutes=1, by="b")) == 30
    assert (await world.accounts.get_creator("acme"))["throttle"]["anomaly_id"] == "b"


async def test_only_creators_who_are_there_are_slowed_down_and_not_to_a_standstill(world):
    await world.new_key("gone")
    await world.accounts.delete_creator("gone")
    for creator in ("gone", "nobody"):
        work = world.accounts.throttle(creator, 1, until(world, 1), "a1")
        await refused(work, NotFound, status=404, code="creator_not_found")
        assert await world.accounts.lift_throttle(creator) is False
    with pytest.raises(ValueError, match="0 requests"):
        await world.accounts.throttle("acme", 0, until(world, 1), "a1")
    assert await world.database.fetch_all(select(throttles)) == []


async def test_a_creator_is_shown_with_the_throttle_that_lasts(world):
    key = await world.new_key()
    assert (await world.accounts.get_creator("acme"))["throttle"] is None
    await throttled(world, key, minutes=10)
    shown = await world.accounts.get_creator("acme")
    assert shown["throttle"] == {
        "requests_per_minute": 3,
        "until_at": "2027-01-15T08:10:00.000Z",
        "anomaly_id": "a1",
    }
    assert shown["effective_plan"]["requests_per_minute"] is None, "what counts again afterwards"
    world.clock.now_s += 600
    assert (await world.accounts.get_creator("acme"))["throttle"] is None


async def test_a_deleted_creator_leaves_no_throttle(world):
    await throttled(world, await world.new_key())
    await world.new_key("other")
    await world.accounts.throttle("other", 1, until(world, 10), "a2")
    await world.accounts.delete_creator("acme")
    assert [row["creator"] for row in await world.database.fetch_all(select(throttles))] == ["other"]


# Calls


@pytest.fixture
async def gateway(tmp_path) -> AsyncIterator[ClockedGateway]:
    async with opened(tmp_path, Clock(utc(2026, 5, 10, 12))) as gateway:
        yield gateway


async def slow_down(gateway: ClockedGateway, to: int, *, minutes: float = 60) -> None:
    ends_ms = int(gateway.clock.now.timestamp() * 1000 + minutes * MINUTE_MS)
    await gateway.services.accounts.throttle("acme", to, ends_ms, "a1")


async def test_a_paused_keys_call_dials_nobody_and_books_nothing(gateway):
    key = await gateway.new_key()
    key_id = (await gateway.account(key)).key_id
    await gateway.services.accounts.pause_key(key_id)
    answer = await gateway.chat(key)
    assert (answer.status, answer.code, answer.headers["x-should-retry"]) == (403, "key_paused", "false")
    assert gateway.entries("request_id") == []
    await gateway.services.accounts.resume_key(key_id)
    assert (await gateway.chat(key)).status == 200


async def test_a_throttled_creators_calls_are_refused_above_it_and_admitted_when_it_has_ended(gateway):
    key = await gateway.new_key()
    await slow_down(gateway, 2)
    answers = [await gateway.chat(key) for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 429]
    assert answers[2].json["error"]["metadata"]["limit"] == 2
    assert "2 requests in any 60 seconds" in answers[2].json["error"]["message"]
    gateway.clock.advance(minutes=60)
    assert [(await gateway.chat(key)).status for _ in range(3)] == [200] * 3


async def test_a_throttle_begins_with_what_was_called_in_the_minute_before(gateway):
    """Or the creator would be given a fresh allowance on top of the burst that made it unusual."""
    key = await gateway.new_key()
    for _ in range(3):
        assert (await gateway.chat(key)).status == 200
    await slow_down(gateway, 3)
    assert (await gateway.chat(key)).code == "rate_limit_exceeded"
    assert (await gateway.limits(key))["requests_per_minute"]["used"] == 3


async def test_a_throttle_that_is_lengthened_forgets_nothing(gateway):
    key = await gateway.new_key()
    await slow_down(gateway, 2)
    for _ in range(2):
        assert (await gateway.chat(key)).status == 200
    await slow_down(gateway, 2, minutes=120)
    assert (await gateway.limits(key))["requests_per_minute"]["used"] == 2
    assert (await gateway.chat(key)).status == 429


@pytest.mark.parametrize("minutes", [60, 0])
async def test_a_restart_within_the_minute_gives_no_new_allowance_while_a_throttle_lasts(tmp_path, minutes):
    clock = Clock(utc(2026, 5, 10, 12))
    async with opened(tmp_path, clock) as gateway:
        key = await gateway.new_key()
        await slow_down(gateway, 2, minutes=minutes)
        for _ in range(2):
            assert (await gateway.chat(key)).status == 200
    clock.advance(seconds=5)
    async with opened(tmp_path, clock) as gateway:
        assert (await gateway.chat(key)).status == (429 if minutes else 200)
