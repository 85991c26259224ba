"""Virtual keys and admin keys against a real database: who gets in, who does not, and what is remembered."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr
from sqlalchemy import select, update
from structlog.testing import capture_logs

from gateway.auth import AdminAuthenticator, find_credential
from gateway.errors import PolicyDenied, Unauthenticated
from gateway.ledger.schema import creators, virtual_keys
from gateway.roles import SETTINGS, Admin
from gateway.secrets import ADMIN_KEY_PREFIX, VIRTUAL_KEY_PREFIX, make_key
from tests.account_world import INJECTIONS, World, bearer, open_world


@pytest.fixture
async def world(tmp_path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as world:
        yield world


async def refusal(world: World, key: str | bytes) -> Unauthenticated:
    with pytest.raises(Unauthenticated) as caught:
        await world.authenticator.authenticate(bearer(key))
    return caught.value


async def accepts(world: World, key: str) -> bool:
    try:
        await world.authenticator.authenticate(bearer(key))
    except Unauthenticated:
        return False
    return True


def without_suspending(work):
    """The result of a coroutine that never waits."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    work.close()
    raise AssertionError("it waited for something")


# Where the key is looked for


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        pytest.param([(b"authorization", b"Bearer abc")], b"abc", id="bearer"),
        pytest.param([(b"authorization", b"bEARER  abc ")], b"abc", id="any case, spaces around"),
        pytest.param([(b"x-api-key", b"abc")], b"abc", id="x-api-key"),
        pytest.param([(b"api-key", b"abc")], b"abc", id="api-key"),
        pytest.param([(b"api-key", b"azure"), (b"x-api-key", b"abc")], b"abc", id="x-api-key before api-key"),
        pytest.param([(b"x-api-key", b"abc"), (b"api-key", b"azure")], b"abc", id="whatever their order"),
        pytest.param([(b"x-api-key", b"x"), (b"authorization", b"Bearer abc")], b"abc", id="bearer before all"),
        pytest.param([(b"authorization", b"Basic eDp5"), (b"api-key", b"abc")], b"abc", id="basic is not ours"),
        pytest.param([(b"authorization", b"abc")], b"", id="no scheme"),
        pytest.param([(b"authorization", b"Bearer ")], b"", id="nothing behind the scheme"),
        pytest.param([(b"cookie", b"authorization=Bearer abc")], b"", id="not in cookies"),
        pytest.param([], b"", id="no header"),
    ],
)
def test_the_key_is_found(headers, found):
    assert find_credential(headers) == found


# What a good key gives


async def test_a_key_gives_its_creator_plan_and_models(world):
    await world.accounts.create_creator("acme", plan="pro")
    key = await world.accounts.create_key("acme", models=["mock-1", "gpt-5"])
    account = await world.authenticator.authenticate(bearer(key["key"]))
    assert (account.creator, account.account_id, account.key_id) == ("acme", "acme", key["id"])
    assert account.models == {"mock-1", "gpt-5"}
    assert (account.plan.name, account.plan.requests_per_hour) == ("pro", 100)


async def test_overrides_of_the_creator_stand_above_the_plans_and_a_keys_own_above_those(world):
    await world.accounts.create_creator(
        "acme", plan="free", overrides={"quota_usd_per_month": "2.5", "free_images_per_day": 5, "models": ["mock-1"]}
    )
    key = await world.accounts.create_key("acme", overrides={"free_images_per_day": 1, "tiers": ["standard"]})
    account = await world.account(key)
    plan = account.plan
    assert (plan.quota_nano_usd_per_month, plan.free_images_per_day) == (2_500_000_000, 1)
    assert (plan.models, plan.tiers) == ({"mock-1"}, {"standard"})
    assert account.key_plan is None


async def test_limits_of_a_key_stand_beside_the_creators(world):
    await world.accounts.create_creator("acme", plan="free", overrides={"requests_per_hour": 7})
    key = await world.accounts.create_key("acme", overrides={"requests_per_hour": 3, "quota_usd_per_month": "0.1"})
    account = await world.account(key)
    assert (account.plan.requests_per_hour, account.plan.quota_nano_usd_per_month) == (7, 1_000_000_000)
    own = account.key_plan
    assert (own.requests_per_hour, own.quota_nano_usd_per_month) == (3, 100_000_000)
    assert own.concurrent_calls is None


async def test_credits_are_those_of_the_creator_and_promotional_ones_keep_their_end(world):
    key = await world.new_key()
    await world.new_key("other")
    await world.grant("acme", 100)
    await world.grant("acme", 20)
    await world.grant("acme", 5, "promo_credits", expires_in_s=60)
    await world.grant("acme", 6, "promo_credits", expires_in_s=60)
    await world.grant("acme", 7, "promo_credits", expires_in_s=-60)
    await world.grant("acme", 8, "promo_credits")
    await world.grant("other", 1_000)
    await world.grant("other", 1_000, "promo_credits")
    account = await world.account(key)
    now = world.clock.now_s
    assert account.credits_granted == 120
    assert set(account.promo_grants) == {(11, now + 60), (7, now - 60), (8, None)}


async def test_a_grant_counts_from_the_next_call(world):
    key = await world.new_key()
    assert (await world.account(key)).credits_granted == 0
    await world.grant("acme", 9)
    assert (await world.account(key)).credits_granted == 9


async def test_scopes_and_the_default_plan_come_with_the_key(world):
    plain, service = await world.new_key(), await world.new_service_key(default_plan="pro")
    account = await world.account(service)
    assert (account.scopes, account.default_plan) == ({"act_for"}, "pro")
    account = await world.account(plain)
    assert (account.scopes, account.default_plan) == (frozenset(), None)


@pytest.mark.parametrize("overrides", ['{"requests_per_fortnight": 3}', '{"requests_per_hour": -1}', "[1]", "{", "7"])
@pytest.mark.parametrize("table", [creators, virtual_keys], ids=["the creator's", "the key's"])
async def test_overrides_that_mean_nothing_any_more_close_that_key_only(world, table, overrides):
    """A limit that cannot be read must not turn into no limit."""
    key, other = await world.new_key(), await world.new_key("other")
    mine = table.c.id == (key["id"] if table is virtual_keys else "acme")
    await world.database.write(update(table).where(mine).values(overrides=overrides))
    with capture_logs() as logs:
        for _ in range(2):
            with pytest.raises(PolicyDenied, match="overrides") as caught:
                await world.account(key)
    assert (caught.value.status, caught.value.code) == (403, "overrides_unusable")
    (line,) = [line for line in logs if line["event"] == "overrides_unusable"]
    assert (line["creator"], line["key_id"], line["log_level"]) == ("acme", key["id"], "error")
    assert (await world.account(other)).creator == "other"
    await world.database.write(update(table).where(mine).values(overrides="{}"))
    assert (await world.account(key)).creator == "acme"


async def test_a_cached_key_is_answered_without_waiting(world):
    key = (await world.new_key())["key"]
    loaded = await world.authenticator.authenticate(bearer(key))
    assert without_suspending(world.authenticator.authenticate(bearer(key))) is loaded


async def test_many_calls_with_one_new_key_read_it_once(world, monkeypatch):
    key = (await world.new_key())["key"]
    reads = count_reads(world, monkeypatch)
    accounts = await asyncio.gather(*(world.authenticator.authenticate(bearer(key)) for _ in range(50)))
    assert {account.creator for account in accounts} == {"acme"}
    assert len(reads) == 1


def count_reads(world: World, monkeypatch) -> list[object]:
    """Every `fetch_one` from now on; the real one still answers."""
    reads: list[object] = []
    fetch_one = world.database.fetch_one

    async def counted(query, **options):
        reads.append(query)
        return await fetch_one(query, **options)

    monkeypatch.setattr(world.database, "fetch_one", counted)
    return reads


# What every bad key gets


async def test_every_bad_key_gets_the_same_refusal(world):
    good = await world.new_key()
    revoked = await world.new_key()
    await world.accounts.revoke_key(revoked["id"])
    expired = await world.new_key(expires_in_s=1)
    world.clock.now_s += 2
    gone = await world.new_key("gone")
    await world.accounts.delete_creator("gone")
    idle = await world.new_key("idle")
    await world.accounts.update_creator("idle", {"is_active": False})
    bad = {
        "unknown": make_key(VIRTUAL_KEY_PREFIX).text,
        "wrong end": good["key"][:-1] + ("a" if good["key"][-1] != "a" else "b"),
        "cut": good["key"][:-1],
        "public part": good["id"],
        "malformed": "hello",
        "not UTF-8": b"\xff\xfe",
        "control characters": b"a\r\nb\x00",
        "100 KB": "k" * 100_000,
        "an admin key": (await world.accounts.create_admin_key())["key"],
        "revoked": revoked["key"],
        "expired": expired["key"],
        "deleted creator": gone["key"],
        "inactive creator": idle["key"],
    }
    # Twice: what is remembered of a refusal must not show either.
    refusals = [await refusal(world, key) for key in [*bad.values(), *bad.values()]]
    assert {(refused.status, refused.body(), str(refused.headers)) for refused in refusals} == {
        (401, refusals[0].body(), str({"www-authenticate": "Bearer"}))
    }
    assert refusals[0].code == "invalid_api_key"
    assert await accepts(world, good["key"])


async def test_a_missing_key_is_told_how_to_send_one(world):
    with pytest.raises(Unauthenticated, match="Authorization: Bearer"):
        await world.authenticator.authenticate([(b"host", b"x")])


@pytest.mark.parametrize("text", INJECTIONS)
async def test_sql_in_a_key_is_only_a_wrong_key(world, text):
    good = await world.new_key()
    assert not await accepts(world, text)
    with pytest.raises(Unauthenticated):
        await world.admin_authenticator().authenticate(bearer(text))
    assert await accepts(world, good["key"])


async def test_the_lookup_sends_the_digest_as_a_parameter(world):
    """A wrong key's text reaches the database in no form; what does is bound, not written into the statement."""
    query = select(virtual_keys.c.id).where(virtual_keys.c.digest == world.secrets.digest("virtual-keys", "x' OR 1"))
    assert "OR 1" not in str(query)
    assert "OR 1" not in str(query.compile().params)


# When a key ends


async def test_a_revoked_key_is_refused_on_the_next_call(world):
    key = await world.new_key()
    assert await accepts(world, key["key"])
    await world.accounts.revoke_key(key["id"])
    assert not await accepts(world, key["key"])


async def test_a_key_is_good_until_its_expiry_and_not_at_it(world):
    key = await world.new_key(expires_in_s=60)
    assert await accepts(world, key["key"])
    world.clock.now_s += 59.999
    assert await accepts(world, key["key"])
    world.clock.now_s += 0.001
    assert not await accepts(world, key["key"])


async def test_a_key_first_used_after_its_expiry_is_refused(world):
    key = await world.new_key(expires_in_s=60)
    world.clock.now_s += 60
    assert not await accepts(world, key["key"])


@pytest.mark.parametrize(
    "change", [{"plan": "business"}, {"overrides": {"requests_per_hour": 500}}], ids=["plan", "overrides"]
)
async def test_a_changed_plan_counts_from_the_next_call(world, change):
    key = (await world.new_key())["key"]
    assert (await world.authenticator.authenticate(bearer(key))).plan.requests_per_hour == 10
    await world.accounts.update_creator("acme", change)
    assert (await world.authenticator.authenticate(bearer(key))).plan.requests_per_hour == 500


async def test_a_creator_made_active_again_is_let_in_on_the_next_call(world):
    key = (await world.new_key())["key"]
    await world.accounts.update_creator("acme", {"is_active": False})
    assert not await accepts(world, key)
    await world.accounts.update_creator("acme", {"is_active": True})
    assert await accepts(world, key)


async def test_writes_about_one_creator_leave_the_others_cached(world, monkeypatch):
    acme, other = (await world.new_key("acme"))["key"], (await world.new_key("other"))["key"]
    await accepts(world, acme)
    await accepts(world, other)
    await world.accounts.update_creator("acme", {"name": "Acme"})
    reads = count_reads(world, monkeypatch)
    assert await accepts(world, other)
    assert reads == []
    assert await accepts(world, acme)
    assert len(reads) == 1


async def test_a_row_read_before_a_revocation_is_not_remembered_after_it(world, monkeypatch):
    key = await world.new_key()
    fetch_one = world.database.fetch_one
    revocations = []

    async def overtaken(query, **options):
        row = await fetch_one(query, **options)
        if not revocations:
            revocations.append(await world.accounts.revoke_key(key["id"]))
        return row

    monkeypatch.setattr(world.database, "fetch_one", overtaken)
    assert not await accepts(world, key["key"])
    assert not await accepts(world, key["key"])


async def test_a_write_whose_caller_left_still_ends_the_key(world):
    key = await world.new_key()
    assert await accepts(world, key["key"])
    revoking = asyncio.get_running_loop().create_task(world.accounts.revoke_key(key["id"]))
    await asyncio.sleep(0)
    revoking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await revoking
    async with asyncio.timeout(10):
        while await accepts(world, key["key"]):
            await asyncio.sleep(0.001)


async def test_other_processes_writes_are_seen_within_the_age_limit(tmp_path):
    async with open_world(tmp_path, max_age_s=1.0) as world:
        key = await world.new_key()
        assert await accepts(world, key["key"])
        await world.database.write(update(virtual_keys).values(revoked_at=1))
        world.clock.now_s += 1.0
        assert await accepts(world, key["key"])
        world.clock.now_s += 0.1
        assert not await accepts(world, key["key"])
        await world.database.write(update(virtual_keys).values(revoked_at=None))
        world.clock.now_s += 1.1
        assert await accepts(world, key["key"])


async def test_without_other_writers_a_key_is_read_once_for_good(world, monkeypatch):
    key = (await world.new_key())["key"]
    reads = count_reads(world, monkeypatch)
    for _ in range(3):
        assert await accepts(world, key)
        world.clock.now_s += 86_400
    assert len(reads) == 1


# What is remembered


async def test_the_caches_are_bounded_and_keep_what_was_used_last(tmp_path, monkeypatch):
    async with open_world(tmp_path, cached_keys_max=3) as world:
        keys = [(await world.new_key())["key"] for _ in range(4)]
        for key in keys[:3]:
            assert await accepts(world, key)
        assert await accepts(world, keys[0])
        assert await accepts(world, keys[3])
        reads = count_reads(world, monkeypatch)
        for key in (keys[0], keys[2], keys[3]):
            assert await accepts(world, key)
        assert reads == []
        assert await accepts(world, keys[1])
        assert len(reads) == 1


async def test_strangers_keys_push_no_good_key_out_of_memory(tmp_path, monkeypatch):
    async with open_world(tmp_path, cached_keys_max=3) as world:
        good = (await world.new_key())["key"]
        assert await accepts(world, good)
        for number in range(20):
            assert not await accepts(world, f"stranger-{number}")
        reads = count_reads(world, monkeypatch)
        assert await accepts(world, good)
        assert not await accepts(world, "stranger-19")
        assert reads == []
        assert not await accepts(world, "stranger-0")
        assert len(reads) == 1


async def test_a_creator_on_a_plan_that_is_gone_is_told_so(world):
    key = (await world.new_key())["key"]
    await world.database.write(update(creators).values(plan="legacy"))
    with pytest.raises(PolicyDenied, match="`legacy`") as caught:
        await world.authenticator.authenticate(bearer(key))
    assert (caught.value.status, caught.value.code) == (403, "plan_unknown")


# Admin keys


async def test_the_settings_admin_key_and_the_databases_open_the_admin_api(world):
    made = await world.accounts.create_admin_key()
    admins = AdminAuthenticator(world.database, world.secrets, SecretStr("an-admin-key-of-the-settings"))
    assert await admins.authenticate(bearer("an-admin-key-of-the-settings")) == SETTINGS
    assert await admins.authenticate([(b"x-api-key", made["key"].encode())]) == Admin(made["id"], "", "owner")


async def test_other_keys_do_not_open_the_admin_api(world):
    admins = AdminAuthenticator(world.database, world.secrets, SecretStr("an-admin-key-of-the-settings"))
    revoked = await world.accounts.create_admin_key()
    await world.accounts.create_admin_key()  # the last owner could not be revoked
    await world.accounts.revoke_admin_key(revoked["id"])
    virtual = await world.new_key()
    wrong = ["an-admin-key-of-the-setting", "an-admin-key-of-the-settings2", make_key(ADMIN_KEY_PREFIX).text]
    bodies = set()
    for key in [*wrong, virtual["key"], revoked["key"]]:
        with pytest.raises(Unauthenticated) as caught:
            await admins.authenticate(bearer(key))
        bodies.add(caught.value.body())
    assert len(bodies) == 1
    with pytest.raises(Unauthenticated, match="No API key"):
        await admins.authenticate([])
