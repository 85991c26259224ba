"""Service keys: whose call it is, who may say so, and that nobody reaches another's account by naming it."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, update

from gateway.auth import Authenticator
from gateway.errors import GatewayError, PolicyDenied, RequestError, StoreError, Unauthenticated
from gateway.ledger.schema import creators
from gateway.plans import load_plans
from policies.types import Account
from tests.account_world import INJECTIONS, World, bearer, open_world
from tests.test_auth import count_reads, without_suspending

USABLE = "[A-Za-z0-9._:@-]{1,128}"
UNUSABLE = [
    pytest.param("", id="empty"),
    pytest.param("   ", id="blank"),
    pytest.param("..", id="dots"),
    pytest.param("a/b", id="a path"),
    pytest.param("x" * 129, id="129 characters"),
    pytest.param("a\x00b", id="NUL"),
    pytest.param("a\r\nx-admin: 1", id="line breaks"),
    pytest.param("a\x7f", id="DEL"),
    pytest.param("a\tb", id="a tab inside"),
    pytest.param("müller", id="an umlaut"),
    pytest.param("аcme", id="a Cyrillic letter that looks Latin"),
    pytest.param("acme\u200b", id="an invisible character"),
    pytest.param("a" * 60_000, id="endless"),
    *INJECTIONS[:3],
]


@pytest.fixture
async def world(tmp_path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as world:
        yield world


def naming(*creators: str | bytes) -> list[tuple[bytes, bytes]]:
    encoded = [name if isinstance(name, bytes) else name.encode() for name in creators]
    return [(b"host", b"gateway"), *((b"x-gateway-creator", name) for name in encoded), (b"x-other", b"1")]


async def refused(work, error: type[GatewayError] = PolicyDenied, **expected: object) -> GatewayError:
    with pytest.raises(error) as caught:
        await work
    assert {name: getattr(caught.value, name) for name in expected} == expected
    return caught.value


async def service(world: World, **fields: object) -> Account:
    return await world.account(await world.new_service_key(**fields))


async def plain(world: World, creator: str = "acme") -> Account:
    return await world.account(await world.new_key(creator))


# Whose call it is


async def test_a_call_that_names_nobody_is_the_keys_own_and_costs_nothing_to_tell(world, monkeypatch):
    reads = count_reads(world, monkeypatch)
    for account in (await plain(world), await service(world)):
        reads.clear()
        assert without_suspending(world.authenticator.resolve_creator(account, naming())) is account
        assert reads == []


async def test_a_named_creator_has_its_own_plan_overrides_and_credits_under_the_keys_restrictions(world):
    await world.accounts.create_creator("alice", plan="pro", overrides={"quota_usd_per_month": "7", "tiers": ["a"]})
    await world.grant("alice", 40)
    await world.grant("alice", 3, "promo_credits")
    await world.accounts.create_creator("app", plan="free", overrides={"quota_usd_per_month": "1"})
    await world.grant("app", 1_000)
    key = await world.new_service_key(
        models=["mock-1"], overrides={"requests_per_minute": 50, "tiers": ["b"]}, default_plan="starter"
    )
    own = await world.account(key)
    acting = await world.authenticator.resolve_creator(own, naming("alice"))
    assert (acting.creator, acting.account_id, acting.key_id) == ("alice", "alice", key["id"])
    assert (acting.plan.name, acting.plan.quota_nano_usd_per_month) == ("pro", 7_000_000_000)
    assert acting.plan.tiers == {"b"}, "what the key overrides stands above the creator's"
    assert (acting.credits_granted, acting.promo_grants) == (40, ((3, None),))
    assert (acting.models, acting.key_plan) == (own.models, own.key_plan)
    assert acting.key_plan.requests_per_minute == 50
    assert own.plan.quota_nano_usd_per_month == 1_000_000_000


async def test_openais_user_names_the_creator_and_the_header_stands_above_it(world):
    for creator in ("alice", "bob"):
        await world.accounts.create_creator(creator)
    account = await service(world)
    resolve = world.authenticator.resolve_creator
    assert (await resolve(account, naming(), "bob")).creator == "bob"
    assert (await resolve(account, naming("alice"), "bob")).creator == "alice"
    assert (await resolve(account, naming("alice"), "no / id")).creator == "alice"
    assert await resolve(account, naming("app"), "bob") is account, "its own creator, and in so many words"


async def test_spaces_around_a_header_are_not_part_of_it(world):
    await world.accounts.create_creator("alice")
    account = await service(world)
    assert (await world.authenticator.resolve_creator(account, naming(" alice\t"))).creator == "alice"


async def test_naming_the_same_creator_again_changes_nothing(world):
    """An endpoint may ask again once it has read the body."""
    await world.accounts.create_creator("alice")
    acting = await world.authenticator.resolve_creator(await service(world), naming("alice"))
    again = world.authenticator.resolve_creator(acting, naming("alice"), "bob")
    assert without_suspending(again) is acting


# Who may


async def test_a_key_without_the_scope_reaches_nobody_else_by_name(world):
    alice = await plain(world, "alice")
    await world.new_key("bob")
    await world.accounts.create_creator("gone")
    await world.accounts.delete_creator("gone")
    answers = {
        (await refused(world.authenticator.resolve_creator(alice, naming(name)), status=403)).body()
        for name in ("bob", "gone", "nobody", "ALICE", "alice ..", "", "..", "x" * 129, b"\xff\x00")
    }
    assert len(answers) == 1, "it must not tell who exists"
    assert b'"act_for_not_allowed"' in answers.pop()
    await refused(world.authenticator.act_for(alice, "bob"), code="act_for_not_allowed")


async def test_a_key_without_the_scope_may_name_its_own_creator(world):
    account = await plain(world)
    assert await world.authenticator.resolve_creator(account, naming("acme")) is account


@pytest.mark.parametrize("user", ["bob", "nobody", "acme", "", "..", "x" * 1_000, 7, None, ["bob"], {"id": "bob"}])
async def test_the_user_field_of_a_key_without_the_scope_means_nothing(world, user):
    account = await plain(world)
    await world.accounts.create_creator("bob")
    assert await world.authenticator.resolve_creator(account, naming(), user) is account


@pytest.mark.parametrize("names", [("bob", "bob"), ("acme", "bob"), ("app", "app", "app")])
async def test_a_header_given_twice_is_refused_whoever_sends_it(world, names):
    await world.accounts.create_creator("bob")
    for account in (await plain(world), await service(world)):
        work = world.authenticator.resolve_creator(account, naming(*names), "bob")
        await refused(work, RequestError, status=400, param="x-gateway-creator")


# What is no name


@pytest.mark.parametrize("name", UNUSABLE)
async def test_what_cannot_be_an_id_is_refused_before_anything_is_read_or_made(world, monkeypatch, name):
    account = await service(world, default_plan="free")
    reads = count_reads(world, monkeypatch)
    resolve = world.authenticator.resolve_creator
    await refused(resolve(account, naming(name)), RequestError, status=400, param="x-gateway-creator")
    error = await refused(resolve(account, naming(), name), RequestError, status=400, param="user")
    assert name not in error.message or not name.strip()
    assert reads == []
    assert [row["id"] for row in (await world.accounts.list_creators())["data"]] == ["app"]


@pytest.mark.parametrize("user", [7, 1.5, True, ["alice"], {"id": "alice"}])
async def test_a_user_that_is_no_text_is_refused(world, user):
    account = await service(world, default_plan="free")
    await refused(world.authenticator.resolve_creator(account, naming(), user), RequestError, status=400, param="user")


NAMES = st.one_of(st.binary(max_size=200), st.from_regex(USABLE, fullmatch=True).map(str.encode))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=10)
@given(st.lists(NAMES, min_size=10, max_size=40))
def test_whatever_a_service_key_names_it_gets_that_creator_or_a_refusal(tmp_path_factory, names):
    async def run() -> None:
        async with open_world(tmp_path_factory.mktemp("world")) as world:
            account = await service(world, default_plan="pro")
            resolved = [world.authenticator.resolve_creator(account, naming(name)) for name in names]
            for name, outcome in zip(names, await asyncio.gather(*resolved, return_exceptions=True), strict=True):
                if isinstance(outcome, Account):
                    assert outcome.creator.encode() == name.strip(b" \t")
                    assert outcome.plan.name == ("free" if outcome.creator == "app" else "pro")
                else:
                    assert isinstance(outcome, RequestError), outcome
                    assert (outcome.status, outcome.param) == (400, "x-gateway-creator")

    asyncio.run(run())


# Creators nobody knows


async def test_an_unknown_creator_is_made_on_the_keys_default_plan(world):
    account = await service(world, default_plan="pro")
    acting = await world.authenticator.resolve_creator(account, naming("user:7@app"))
    assert (acting.creator, acting.account_id, acting.plan.name) == ("user:7@app", "user:7@app", "pro")
    made = await world.accounts.get_creator("user:7@app")
    assert (made["plan"], made["overrides"], made["is_active"]) == ("pro", {}, True)
    await world.accounts.update_creator("user:7@app", {"plan": "business"})
    assert (await world.authenticator.resolve_creator(account, naming("user:7@app"))).plan.name == "business"


async def test_without_a_default_plan_an_unknown_creator_is_refused_until_an_admin_makes_it(world):
    account = await service(world)
    resolve = world.authenticator.resolve_creator
    for _ in range(2):
        await refused(resolve(account, naming("alice")), status=403, code="creator_unknown")
    await world.accounts.create_creator("alice")
    assert (await resolve(account, naming("alice"))).creator == "alice"


async def test_many_first_calls_of_one_creator_make_it_once(world, monkeypatch):
    """Through several keys at once too: the second process or key finds it made."""
    accounts = [await service(world, default_plan=plan) for plan in ("pro", "pro", "starter")]
    others = Authenticator(world.database, load_plans(), world.secrets, wall_clock=world.clock)
    writes = []
    write = world.database.write

    async def counted(*statements):
        writes.append(statements)
        return await write(*statements)

    monkeypatch.setattr(world.database, "write", counted)
    acting = await asyncio.gather(
        *(
            who.resolve_creator(account, naming("alice"))
            for account in accounts
            for who in (world.authenticator, others)
            for _ in range(10)
        )
    )
    assert {(account.creator, account.plan.name) for account in acting} == {("alice", acting[0].plan.name)}
    assert len(await world.rows_of("alice")) == 1
    assert len(writes) <= 2, "at most one try for each process"


async def test_a_first_call_whose_client_leaves_makes_the_creator_once_or_not_at_all(world):
    account = await service(world, default_plan="pro")
    task = asyncio.get_running_loop().create_task(world.authenticator.resolve_creator(account, naming("alice")))
    while not await world.rows_of("alice") and not task.done():
        task.cancel()
        await asyncio.sleep(0)
    await asyncio.gather(task, return_exceptions=True)
    assert (await world.authenticator.resolve_creator(account, naming("alice"))).plan.name == "pro"
    assert len(await world.rows_of("alice")) == 1


async def test_a_store_that_cannot_write_makes_no_creator(world, monkeypatch):
    account = await service(world, default_plan="pro")

    async def failing(*statements):
        raise StoreError("The ledger cannot write.")

    monkeypatch.setattr(world.database, "write", failing)
    await refused(world.authenticator.resolve_creator(account, naming("alice")), StoreError, status=503)
    monkeypatch.undo()
    assert (await world.authenticator.resolve_creator(account, naming("alice"))).creator == "alice"


async def test_a_default_plan_that_left_the_file_makes_no_creator(world):
    account = await service(world, default_plan="pro")
    later = Authenticator(world.database, {"free": load_plans()["free"]}, world.secrets, wall_clock=world.clock)
    await refused(later.resolve_creator(account, naming("alice")), status=403, code="plan_unknown")
    assert await world.rows_of("alice") == []


async def test_who_only_reads_as_somebody_new_sees_what_a_call_would_make_and_makes_nobody(world):
    key = await world.new_service_key(default_plan="pro", models=["mock-1"], overrides={"requests_per_hour": 7})
    account = await world.account(key)
    resolve = world.authenticator.resolve_creator
    for _ in range(2):
        seen = await resolve(account, naming("alice"), brings=False)
        assert await world.rows_of("alice") == []
    made = await resolve(account, naming("alice"))
    assert len(await world.rows_of("alice")) == 1
    assert seen == made
    assert await resolve(account, naming("alice"), brings=False) is made, "remembered by then"


async def test_who_only_reads_is_refused_as_a_call_would_be(world):
    without, bringing = await service(world), await service(world, default_plan="pro")
    resolve = world.authenticator.resolve_creator
    await refused(resolve(without, naming("alice"), brings=False), status=403, code="creator_unknown")
    await refused(resolve(without, naming(), "alice", brings=False), status=403, code="creator_unknown", param="user")
    later = Authenticator(world.database, {"free": load_plans()["free"]}, world.secrets, wall_clock=world.clock)
    await refused(later.resolve_creator(bringing, naming("alice"), brings=False), status=403, code="plan_unknown")
    await world.accounts.create_creator("gone")
    await world.accounts.delete_creator("gone")
    await refused(resolve(bringing, naming("gone"), brings=False), status=403, code="creator_inactive")
    await world.accounts.revoke_key(bringing.key_id)
    await refused(resolve(bringing, naming("bob"), brings=False), Unauthenticated, status=401)


# Creators who may not


@pytest.mark.parametrize("default_plan", [None, "pro"])
async def test_deleted_and_inactive_creators_are_refused_and_deleted_ones_never_come_back(world, default_plan):
    account = await service(world, default_plan=default_plan)
    resolve = world.authenticator.resolve_creator
    for creator in ("gone", "idle"):
        await world.accounts.create_creator(creator)
        assert (await resolve(account, naming(creator))).creator == creator
    await world.accounts.delete_creator("gone")
    await world.accounts.update_creator("idle", {"is_active": False})
    for creator in ("gone", "idle", "gone", "idle"):
        await refused(resolve(account, naming(creator)), status=403, code="creator_inactive")
        await refused(resolve(account, naming(), creator), status=403, code="creator_inactive")
    ((gone,),) = [await world.rows_of("gone")]
    assert (gone["deleted_at"] is None, gone["is_active"], gone["name"]) == (False, False, "")
    await world.accounts.update_creator("idle", {"is_active": True})
    assert (await resolve(account, naming("idle"))).creator == "idle"


async def test_what_cannot_be_applied_to_one_creator_refuses_that_one(world):
    account = await service(world)
    for creator in ("alice", "bob", "carol"):
        await world.accounts.create_creator(creator)
    await world.database.write(update(creators).where(creators.c.id == "alice").values(overrides='{"gone": 1}'))
    await world.database.write(update(creators).where(creators.c.id == "bob").values(plan="legacy"))
    resolve = world.authenticator.resolve_creator
    await refused(resolve(account, naming("alice")), status=403, code="overrides_unusable")
    await refused(resolve(account, naming("bob")), status=403, code="plan_unknown")
    assert (await resolve(account, naming("carol"))).creator == "carol"


# What is remembered


async def test_a_creator_named_before_is_answered_without_waiting(world, monkeypatch):
    await world.accounts.create_creator("alice")
    account = await service(world)
    acting = await world.authenticator.resolve_creator(account, naming("alice"))
    reads = count_reads(world, monkeypatch)
    for work in (
        world.authenticator.resolve_creator(account, naming("alice")),
        world.authenticator.resolve_creator(account, naming(), "alice"),
    ):
        assert without_suspending(work) is acting
    assert reads == []


async def test_two_service_keys_share_no_remembered_account(world):
    await world.accounts.create_creator("alice")
    wide, narrow = await service(world), await service(world, models=["mock-1"], overrides={"requests_per_hour": 1})
    first = await world.authenticator.resolve_creator(wide, naming("alice"))
    second = await world.authenticator.resolve_creator(narrow, naming("alice"))
    assert (first.key_id, first.models, first.key_plan) == (wide.key_id, None, None)
    assert (second.key_id, second.models, second.key_plan.requests_per_hour) == (narrow.key_id, {"mock-1"}, 1)


async def test_writes_about_a_creator_count_from_the_next_call_and_leave_the_others_remembered(world, monkeypatch):
    account = await service(world)
    resolve = world.authenticator.resolve_creator
    for creator in ("alice", "bob"):
        await world.accounts.create_creator(creator)
        await resolve(account, naming(creator))
    await world.accounts.update_creator("alice", {"overrides": {"requests_per_hour": 1}})
    await world.grant("alice", 5)
    reads = count_reads(world, monkeypatch)
    without_suspending(resolve(account, naming("bob")))
    assert reads == []
    alice = await resolve(account, naming("alice"))
    assert (alice.plan.requests_per_hour, alice.credits_granted) == (1, 5)


async def test_a_revoked_service_key_acts_for_nobody(world):
    await world.accounts.create_creator("alice")
    key = await world.new_service_key(default_plan="free")
    account = await world.account(key)
    await world.authenticator.resolve_creator(account, naming("alice"))
    await world.accounts.revoke_key(key["id"])
    with pytest.raises(Unauthenticated):
        await world.authenticator.authenticate(bearer(key["key"]))
    for creator in ("alice", "newcomer"):
        await refused(world.authenticator.resolve_creator(account, naming(creator)), Unauthenticated, status=401)
    assert await world.rows_of("newcomer") == []


async def test_a_plans_file_read_again_counts_from_the_next_call(world):
    plans = dict(load_plans())
    authenticator = Authenticator(world.database, plans, world.secrets, wall_clock=world.clock)
    await world.accounts.create_creator("alice", plan="pro")
    account = await service(world)
    before = await authenticator.resolve_creator(account, naming("alice"))
    plans["pro"] = plans["business"]
    authenticator.invalidate()
    after = await authenticator.resolve_creator(account, naming("alice"))
    assert (before.plan.name, after.plan.name) == ("pro", "business")


async def test_other_processes_writes_about_a_creator_are_seen_within_the_age_limit(tmp_path):
    async with open_world(tmp_path, max_age_s=1.0) as world:
        await world.accounts.create_creator("alice")
        account = await service(world)
        await world.authenticator.resolve_creator(account, naming("alice"))
        await world.database.write(update(creators).where(creators.c.id == "alice").values(is_active=False))
        world.clock.now_s += 1.1
        await refused(world.authenticator.resolve_creator(account, naming("alice")), code="creator_inactive")


async def test_an_account_read_before_a_deletion_is_not_remembered_after_it(world, monkeypatch):
    await world.accounts.create_creator("alice")
    account = await service(world)
    fetch_one = world.database.fetch_one
    deletions = []

    async def overtaken(query, **options):
        row = await fetch_one(query, **options)
        if row is not None and row.get("creator_id") == "alice" and not deletions:
            deletions.append(1)
            await world.accounts.delete_creator("alice")
        return row

    monkeypatch.setattr(world.database, "fetch_one", overtaken)
    for _ in range(2):
        await refused(world.authenticator.resolve_creator(account, naming("alice")), code="creator_inactive")
    assert deletions == [1]


async def test_what_is_remembered_of_named_creators_is_bounded(tmp_path, monkeypatch):
    async with open_world(tmp_path, cached_keys_max=3) as world:
        account = await service(world, default_plan="free")
        resolve = world.authenticator.resolve_creator
        for number in range(8):
            await resolve(account, naming(f"user-{number}"))
        reads = count_reads(world, monkeypatch)
        for number in (5, 6, 7):
            without_suspending(resolve(account, naming(f"user-{number}")))
        assert reads == []
        await resolve(account, naming("user-0"))
        assert len(reads) > 0
        assert len(await world.database.fetch_all(select(creators.c.id))) == 9
