"""Creators and keys over a real database: what is kept, what is not, and what holds under concurrency."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, update

from gateway.accounts import Accounts
from gateway.auth import Authenticator
from gateway.errors import NotFound, RequestError
from gateway.first_run import prepare, render
from gateway.ledger.schema import creators, virtual_keys
from gateway.plans import load_plans
from gateway.secrets import Secrets
from tests.account_world import INJECTIONS, NOON_S, World, bearer, open_world


@pytest.fixture
async def world(tmp_path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as world:
        yield world


async def refused(work, **expected: object) -> RequestError:
    with pytest.raises(RequestError) as caught:
        await work
    assert {name: getattr(caught.value, name) for name in expected} == expected
    return caught.value


# Creators


async def test_a_creator_is_kept_as_it_was_given(world):
    given = {
        "name": "Acme & Söhne",
        "plan": "pro",
        "overrides": {"quota_usd_per_month": "0.25"},
        "metadata": {"crm": 7},
    }
    made = await world.accounts.create_creator("org:acme@eu-1.x", **given)
    assert made == {
        "id": "org:acme@eu-1.x",
        **given,
        "is_active": True,
        "created_at": "2027-01-15T08:00:00.000Z",
    }
    shown = await world.accounts.get_creator("org:acme@eu-1.x")
    assert {name: value for name, value in shown.items() if name not in {"effective_plan", "throttle"}} == made


async def test_a_creator_is_shown_with_the_plan_that_counts(world):
    await world.accounts.create_creator("acme", plan="pro", overrides={"requests_per_hour": 3, "models": ["mock-1"]})
    effective = (await world.accounts.get_creator("acme"))["effective_plan"]
    (pro,) = [plan for plan in world.accounts.list_plans()["data"] if plan["name"] == "pro"]
    assert effective == {**pro, "requests_per_hour": 3, "models": ["mock-1"]}


@pytest.mark.parametrize("change", [{"plan": "legacy"}, {"overrides": '{"gone": 1}'}, {"overrides": "{"}])
async def test_a_creator_without_a_plan_that_counts_is_shown_and_can_be_mended(world, change):
    await world.accounts.create_creator("acme", plan="pro")
    await world.database.write(update(creators).values(change))
    assert (await world.accounts.get_creator("acme"))["effective_plan"] is None
    assert [row["id"] for row in (await world.accounts.list_creators())["data"]] == ["acme"]
    await world.accounts.update_creator("acme", {"plan": "pro", "overrides": {}})
    assert (await world.accounts.get_creator("acme"))["effective_plan"]["name"] == "pro"


async def test_plans_are_listed_as_they_stand_now(world):
    plans = dict(load_plans())
    accounts = Accounts(world.database, plans, world.secrets, world.authenticator)
    assert [plan["name"] for plan in accounts.list_plans()["data"]] == list(plans)
    plans["gold"] = plans["pro"]
    del plans["free"]
    assert [plan["name"] for plan in accounts.list_plans()["data"]] == [plan.name for plan in plans.values()]
    assert (await accounts.create_creator("acme", plan="gold"))["plan"] == "gold"


async def test_without_an_id_and_a_plan_both_are_chosen(world):
    made = await world.accounts.create_creator()
    assert made["id"].startswith("cr_")
    assert made["plan"] == "free"


@pytest.mark.parametrize("id", ["", " ", "a b", "a/b", "a\n", "ä", "x" * 129, ".", "..", "a'b", "\x00"])
async def test_ids_of_other_characters_are_refused(world, id):
    await refused(world.accounts.create_creator(id), status=400, param="id")


async def test_an_id_is_taken_once(world):
    await world.accounts.create_creator("acme")
    await refused(world.accounts.create_creator("acme"), status=409, param="id", code="creator_exists")


async def test_the_id_of_a_deleted_creator_is_never_used_again(world):
    await world.accounts.create_creator("acme")
    await world.accounts.delete_creator("acme")
    await refused(world.accounts.create_creator("acme"), status=409, param="id")


async def test_unknown_plans_are_refused_with_the_known_ones(world):
    error = await refused(world.accounts.create_creator("acme", plan="gold"), status=400, param="plan")
    assert "free, starter, pro" in error.message
    await world.accounts.create_creator("acme")
    await refused(world.accounts.update_creator("acme", {"plan": "gold"}), status=400, param="plan")


@pytest.mark.parametrize(
    ("overrides", "param"),
    [
        pytest.param({"quota_usd_per_month": 0.5}, "overrides.quota_usd_per_month", id="money as a float"),
        pytest.param({"quota_usd_per_month": "-1"}, "overrides.quota_usd_per_month", id="negative"),
        pytest.param({"credits": 5}, "overrides.credits", id="no field of a plan"),
        pytest.param({"requests_per_hour": True}, "overrides.requests_per_hour", id="not a number"),
        pytest.param({"payers": ["gold"]}, "overrides.payers", id="an unknown payer"),
        pytest.param({"when_budget_reached": "shrug"}, "overrides.when_budget_reached", id="an unknown word"),
        pytest.param({"addresses": ["10.0.0.1/8"]}, "overrides.addresses", id="no network"),
        pytest.param({"models": []}, "overrides.models", id="no model at all"),
        pytest.param({"free_images_per_day": -1}, "overrides.free_images_per_day", id="fewer than no images"),
        pytest.param(
            {"providers": {"openai": {"requests_per_fortnight": 1}}},
            "overrides.providers.openai.requests_per_fortnight",
            id="no window of a provider",
        ),
        pytest.param(
            {"prices": {"mock-1": {"output_usd_per_mtok": 0.5}}},
            "overrides.prices.mock-1.output_usd_per_mtok",
            id="a price as a float",
        ),
        pytest.param({"models": ["m" * 100 + str(number) for number in range(200)]}, "overrides", id="a long list"),
    ],
)
async def test_unusable_overrides_are_refused_wherever_they_come(world, overrides, param):
    await world.accounts.create_creator("acme")
    for work in (
        world.accounts.create_creator("other", overrides=overrides),
        world.accounts.update_creator("acme", {"overrides": overrides}),
        world.accounts.create_key("acme", overrides=overrides),
    ):
        await refused(work, status=400, param=param)


async def test_metadata_is_bounded(world):
    await world.accounts.create_creator("acme", metadata={"note": "x" * 4_000})
    await refused(world.accounts.create_creator("big", metadata={"note": "x" * 5_000}), status=400, param="metadata")
    deep: dict[str, object] = {}
    for _ in range(300):
        deep = {"a": deep}
    await refused(world.accounts.create_creator("deep", metadata=deep), status=400, param="metadata")


async def test_a_change_touches_only_what_it_names(world):
    made = await world.accounts.create_creator("acme", name="Acme", overrides={"requests_per_hour": 3})
    changed = await world.accounts.update_creator("acme", {"plan": "pro", "metadata": {"a": "b"}})
    assert changed == {**made, "plan": "pro", "metadata": {"a": "b"}}
    assert "effective_plan" not in changed
    assert await world.accounts.update_creator("acme", {}) == changed


async def test_deleting_erases_what_people_may_recognise_and_ends_every_key(world):
    await world.accounts.create_creator("acme", name="Secret Name", metadata={"mail": "x@y.example"})
    first, second = await world.new_key(name="Laptop"), await world.new_key()
    await world.accounts.revoke_key(first["id"])
    world.clock.now_s += 10
    assert await world.accounts.delete_creator("acme") == {"id": "acme", "deleted": True}
    (creator,) = await world.database.fetch_all(select(creators))
    assert (creator["name"], creator["metadata"], creator["is_active"]) == ("", "{}", False)
    keys = {row["id"]: row for row in await world.database.fetch_all(select(virtual_keys))}
    assert {row["name"] for row in keys.values()} == {""}
    assert keys[second["id"]]["revoked_at"] == round((NOON_S + 10) * 1000)
    assert keys[first["id"]]["revoked_at"] == round(NOON_S * 1000)


async def test_a_deleted_creator_is_gone_for_every_question(world):
    await world.accounts.create_creator("acme")
    await world.accounts.delete_creator("acme")
    assert await world.accounts.delete_creator("acme") == {"id": "acme", "deleted": True}
    assert (await world.accounts.list_creators())["data"] == []
    for work in (
        world.accounts.get_creator("acme"),
        world.accounts.update_creator("acme", {"name": "x"}),
        world.accounts.create_key("acme"),
        world.accounts.list_keys("acme"),
    ):
        await refused(work, status=404, code="creator_not_found")


async def test_unknown_ids_are_not_found(world):
    for work in (
        world.accounts.get_creator("nobody"),
        world.accounts.update_creator("nobody", {"name": "x"}),
        world.accounts.delete_creator("nobody"),
        world.accounts.create_key("nobody"),
        world.accounts.list_keys("nobody"),
        world.accounts.revoke_key("nothing"),
        world.accounts.rotate_key("nothing"),
        world.accounts.revoke_admin_key("nothing"),
    ):
        with pytest.raises(NotFound):
            await work


async def test_creators_are_listed_in_pages_without_loss_or_repetition(world):
    ids = [f"creator-{number}" for number in range(7)]
    for creator in reversed(ids):
        await world.accounts.create_creator(creator, plan="pro" if creator == "creator-3" else "free")
    seen, cursor, sizes = [], None, []
    while True:
        page = await world.accounts.list_creators(limit=3, cursor=cursor)
        seen += [row["id"] for row in page["data"]]
        sizes.append(len(page["data"]))
        if (cursor := page["next_cursor"]) is None:
            break
    assert (seen, sizes) == (ids, [3, 3, 1])
    assert [row["id"] for row in (await world.accounts.list_creators(plan="pro"))["data"]] == ["creator-3"]


@pytest.mark.parametrize("text", INJECTIONS)
async def test_sql_in_filters_and_ids_is_only_text(world, text):
    await world.new_key("acme")
    assert (await world.accounts.list_creators(plan=text))["data"] == []
    with pytest.raises(NotFound):
        await world.accounts.get_creator(text)
    await refused(world.accounts.list_keys("acme", cursor=text), status=400, param="cursor")
    page = await world.accounts.list_creators(cursor=text)
    assert {row["id"] for row in page["data"]} <= {"acme"}
    named = await world.accounts.update_creator("acme", {"name": text, "metadata": {text: text}})
    assert (named["name"], named["metadata"]) == (text, {text: text})
    assert len((await world.accounts.list_keys("acme"))["data"]) == 1


# Keys


async def test_a_new_key_is_told_once_and_stored_nowhere(world):
    key = await world.new_key(name="Laptop", models=["mock-1"], scopes=["act_for"])
    admin_key = await world.accounts.create_admin_key()
    assert key["key"].startswith(f"sk-gw-{key['id']}-")
    assert key["key"].endswith(key["last4"])
    listed = (await world.accounts.list_keys("acme"))["data"]
    assert listed == [{name: value for name, value in key.items() if name not in {"key", "warnings"}}]
    stored = world.stored_bytes()
    assert key["id"].encode() in stored
    for text in (key["key"], admin_key["key"]):
        assert text.encode() not in stored
        assert text.rpartition("-")[2].encode() not in stored
        assert text.rpartition("-")[2][:12].encode() not in stored


async def test_a_default_plan_is_for_keys_that_may_act_for_others(world):
    key = await world.new_service_key(default_plan="pro")
    assert (key["scopes"], key["default_plan"]) == (["act_for"], "pro")
    assert (await world.new_service_key())["default_plan"] is None
    await refused(world.new_key(default_plan="pro"), status=400, param="default_plan")
    await refused(world.new_service_key(default_plan="gold"), status=400, param="default_plan", code="plan_unknown")
    listed = (await world.accounts.list_keys("app"))["data"]
    assert sorted(str(row["default_plan"]) for row in listed) == ["None", "pro"]


async def test_limits_of_a_key_that_its_creators_make_pointless_are_told(world):
    await world.accounts.create_creator(
        "acme",
        plan="free",
        overrides={"providers": {"openai": {"tokens_per_day": 100}, "mock": {"concurrent_calls": 3}}},
    )
    key = await world.accounts.create_key(
        "acme",
        overrides={
            "requests_per_hour": 11,
            "concurrent_calls": 5,
            "requests_per_day": 10**6,
            "quota_usd_per_month": "1.5",
            "free_images_per_day": 1_000,
            "providers": {"openai": {"tokens_per_day": 101, "concurrent_calls": 9}, "mock": {"concurrent_calls": 3}},
        },
    )
    assert [line.partition(":")[0] for line in key["warnings"]] == [
        "requests_per_hour",
        "quota_usd_per_month",
        "providers.openai.tokens_per_day",
    ]
    assert key["warnings"][1] == (
        "quota_usd_per_month: the key's 1.5 has no effect, for its creator has 1 and a call must fit both."
    )


async def test_limits_that_count_need_no_warning(world):
    assert (await world.new_key(overrides={"requests_per_hour": 10}))["warnings"] == []
    assert (await world.new_key())["warnings"] == []
    service = await world.new_service_key(overrides={"requests_per_hour": 10_000})
    assert service["warnings"] == [], "it spans many creators"


async def test_a_key_is_made_for_a_creator_whose_own_overrides_cannot_be_applied(world):
    await world.accounts.create_creator("acme")
    await world.database.write(update(creators).values(overrides='{"gone": 1}'))
    assert (await world.accounts.create_key("acme", overrides={"requests_per_hour": 9}))["warnings"] == []


async def test_no_answer_shows_a_digest(world):
    key = await world.new_key()
    digest = world.secrets.digest("virtual-keys", key["key"])
    answers = [key, await world.accounts.list_keys("acme"), await world.accounts.revoke_key(key["id"])]
    assert digest not in str(answers)


async def test_an_expiry_may_be_an_instant_or_a_time_from_now(world):
    now = datetime.fromtimestamp(NOON_S, UTC)
    at = await world.new_key(expires_at=now + timedelta(hours=1))
    after = await world.new_key(expires_in_s=3_600)
    assert at["expires_at"] == after["expires_at"] == "2027-01-15T09:00:00.000Z"
    await refused(world.new_key(expires_at=now), status=400, param="expires_at")
    await refused(world.new_key(expires_at=now + timedelta(days=40_000)), status=400, param="expires_at")
    await refused(world.new_key(expires_at=now + timedelta(1), expires_in_s=5), status=400, param="expires_in_s")


async def test_keys_tell_their_state(world):
    active, revoked, expired, replaced = [
        await world.new_key(expires_in_s=lifetime) for lifetime in (None, None, 5, None)
    ]
    await world.accounts.revoke_key(revoked["id"])
    world.clock.now_s += 5
    successor = await world.accounts.rotate_key(replaced["id"])
    states = {row["id"]: row["status"] for row in (await world.accounts.list_keys("acme"))["data"]}
    assert states == {
        active["id"]: "active",
        revoked["id"]: "revoked",
        expired["id"]: "expired",
        replaced["id"]: "replaced",
        successor["id"]: "active",
    }


async def test_keys_are_listed_in_pages_without_loss_or_repetition(world):
    ids = []
    for number in range(7):
        world.clock.now_s += number % 2  # some share their instant
        ids.append((await world.new_key())["id"])
    seen, cursor = [], None
    while True:
        page = await world.accounts.list_keys("acme", limit=2, cursor=cursor)
        seen += [row["id"] for row in page["data"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert sorted(seen) == sorted(ids)
    assert len(seen) == len(ids)


async def test_revoking_twice_keeps_the_first_instant(world):
    key = await world.new_key()
    first = await world.accounts.revoke_key(key["id"])
    world.clock.now_s += 60
    assert await world.accounts.revoke_key(key["id"]) == first


async def test_a_rotated_key_goes_on_for_the_grace_and_no_longer(world):
    old = await world.new_service_key(
        "acme", name="Laptop", models=["mock-1"], overrides={"requests_per_hour": 2}, default_plan="pro"
    )
    new = await world.accounts.rotate_key(old["id"], grace_s=60)
    assert new["key"] != old["key"]
    assert (new["replaces"], new["replaced_expires_at"]) == (old["id"], "2027-01-15T08:01:00.000Z")
    for field in ("creator", "name", "models", "overrides", "scopes", "default_plan", "expires_at", "paused_at"):
        assert new[field] == old[field]
    world.clock.now_s += 59.9
    assert (await world.authenticator.authenticate(bearer(old["key"]))).key_id == old["id"]
    world.clock.now_s += 0.2
    with pytest.raises(RequestError):
        await world.authenticator.authenticate(bearer(old["key"]))
    assert (await world.authenticator.authenticate(bearer(new["key"]))).key_id == new["id"]


async def test_a_rotation_without_grace_ends_the_old_key_at_once(world):
    old = await world.new_key()
    await world.authenticator.authenticate(bearer(old["key"]))
    await world.accounts.rotate_key(old["id"], grace_s=0)
    with pytest.raises(RequestError):
        await world.authenticator.authenticate(bearer(old["key"]))


async def test_a_rotation_lengthens_no_life(world):
    old = await world.new_key(expires_in_s=100)
    new = await world.accounts.rotate_key(old["id"], grace_s=1_000)
    assert new["expires_at"] == new["replaced_expires_at"] == old["expires_at"]


async def test_only_a_live_key_is_rotated(world):
    revoked, expired, replaced = await world.new_key(), await world.new_key(expires_in_s=1), await world.new_key()
    await world.accounts.revoke_key(revoked["id"])
    world.clock.now_s += 1
    await world.accounts.rotate_key(replaced["id"])
    for key in (revoked, expired, replaced):
        await refused(world.accounts.rotate_key(key["id"]), status=409, code="key_not_live")
    assert len((await world.accounts.list_keys("acme"))["data"]) == 4


async def test_of_many_rotations_at_once_one_happens(world):
    key = await world.new_key()
    outcomes = await asyncio.gather(*(world.accounts.rotate_key(key["id"]) for _ in range(8)), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["RequestError"] * 7 + ["dict"]
    assert len((await world.accounts.list_keys("acme"))["data"]) == 2


async def test_no_key_outlives_a_deletion_that_races_with_its_making(world):
    await world.accounts.create_creator("acme")
    await asyncio.gather(
        *(world.accounts.create_key("acme") for _ in range(5)),
        world.accounts.delete_creator("acme"),
        *(world.accounts.create_key("acme") for _ in range(5)),
        return_exceptions=True,
    )
    rows = await world.database.fetch_all(select(virtual_keys))
    assert all(row["revoked_at"] is not None for row in rows)


# The root secret, the first run


async def test_another_root_secret_is_noticed_until_it_is_recorded(world):
    assert await world.accounts.record_secret(replace=False)
    other = Secrets(b"another-root-of-enough-characters")
    plans = load_plans()
    later = Accounts(world.database, plans, other, Authenticator(world.database, plans, other))
    assert not await later.record_secret(replace=False)
    assert await world.accounts.record_secret(replace=False)
    assert not await later.record_secret(replace=True)
    assert await later.record_secret(replace=False)
    assert not await world.accounts.record_secret(replace=False)


async def test_of_two_root_secrets_that_come_at_once_one_is_recorded(world):
    other = Secrets(b"another-root-of-enough-characters")
    plans = load_plans()
    later = Accounts(world.database, plans, other, Authenticator(world.database, plans, other))
    both = world.accounts, later
    first = await asyncio.gather(*(accounts.record_secret(replace=False) for accounts in both))
    assert sorted(first) == [False, True]
    assert [await accounts.record_secret(replace=False) for accounts in both] == first


async def test_plans_that_creators_still_need_are_named(world):
    await world.accounts.create_creator("acme", plan="pro")
    await world.new_service_key(default_plan="business")
    revoked = await world.new_service_key(default_plan="enterprise")
    await world.accounts.revoke_key(revoked["id"])
    plans = {"free": load_plans()["free"]}
    later = Accounts(world.database, plans, world.secrets, world.authenticator)
    assert await later.orphaned_plans() == ["business", "pro"]
    assert await world.accounts.orphaned_plans() == []


async def test_the_first_run_makes_a_creator_and_keys_that_work(world):
    first = await prepare(world.accounts, has_admin_key=False)
    assert (first.creator, first.plan) == ("default", "free")
    assert (await world.authenticator.authenticate(bearer(first.key))).creator == "default"
    assert await world.admin_authenticator().authenticate(bearer(first.admin_key))
    assert first.key not in repr(first)
    assert first.admin_key not in repr(first)
    assert await prepare(world.accounts, has_admin_key=False) is None


async def test_the_first_run_makes_no_second_admin_key(world):
    await world.accounts.create_admin_key()
    assert (await prepare(world.accounts, has_admin_key=False)).admin_key is None


async def test_with_an_admin_key_in_the_settings_none_is_made(world):
    assert (await prepare(world.accounts, has_admin_key=True)).admin_key is None
    assert (await world.accounts.list_admin_keys())["data"] == []


async def test_a_database_whose_creators_were_all_deleted_has_no_second_first_run(world):
    await prepare(world.accounts, has_admin_key=True)
    await world.accounts.delete_creator("default")
    assert await prepare(world.accounts, has_admin_key=True) is None


async def test_the_first_run_takes_the_first_plan_of_a_file_without_free(world):
    plans = {name: plan for name, plan in load_plans().items() if name != "free"}
    accounts = Accounts(world.database, plans, world.secrets, world.authenticator)
    assert (await prepare(accounts, has_admin_key=True)).plan == "starter"


async def test_what_is_printed_has_everything_to_begin_with(world):
    first = await prepare(world.accounts, has_admin_key=False)
    text = render(first, "http://127.0.0.1:8000", "mock-1")
    assert " http://127.0.0.1:8000/dashboard " in text
    assert "http://127.0.0.1:8000/v1\n" in text
    assert f'curl http://127.0.0.1:8000/v1/chat/completions \\\n    -H "Authorization: Bearer {first.key}"' in text
    assert '{"model": "mock-1", "messages": [{"role": "user", "content": "Hello"}]}' in text
    assert f'curl http://127.0.0.1:8000/admin/ledger -H "Authorization: Bearer {first.admin_key}"' in text


async def test_what_is_printed_leaves_out_what_there_is_not(world):
    first = await prepare(world.accounts, has_admin_key=True)
    text = render(first, "http://127.0.0.1:8000", None)
    assert "chat/completions" not in text
    assert "Bearer $GATEWAY_ADMIN_KEY" in text
