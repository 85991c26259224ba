"""What becomes of forms: what is refused is said where its reader is, what is done is said once, and nothing is done twice."""

import asyncio
from typing import get_args

import pytest
import pytest_asyncio

from gateway.dashboard.forms import DONE, Done
from tests.dashboard.world import Page, World, opened_dashboard

pytestmark = pytest.mark.asyncio(loop_scope="module")
ADA, ADMINS, NEW = "/dashboard/creators/ada", "/dashboard/admins", "/dashboard/creators/new"
ONE_USE = {"id", "key_id", "idempotency_key"}
SAME_AGAIN = {
    "/dashboard/sign-out",
    f"{ADA}/change",
    f"{ADA}/delete",
    "/dashboard/notices/test",
}
"""Forms without a field of one use: sent again they find things as they are. A test notice may arrive twice."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory):
    """One for all: each test looks at what it has made itself."""
    async with opened_dashboard(tmp_path_factory.mktemp("forms")) as opened:
        yield opened


async def keys_of(world: World, creator: str = "ada") -> list[dict]:
    return list((await world.admin_api("GET", f"/admin/creators/{creator}/keys"))["data"])


async def admin_ids(world: World) -> set[str]:
    return {row["id"] for row in (await world.admin_api("GET", "/admin/admin-keys"))["data"]}


def secrets_in(page: Page) -> list[str]:
    return [word for word in page.words.split() if word.startswith(("sk-gw-", "sk-gwadmin-"))]


def alerts(page: Page) -> list[dict[str, str]]:
    return [given for _, given in page.elements if given.get("role") == "alert"]


def said(page: Page) -> list[str]:
    """The statuses above the page's own content, by whether they are there."""
    return [words for words in DONE.values() if words in page.words]


# Not twice


async def test_a_form_that_is_sent_again_makes_no_second_key(world):
    before = await keys_of(world)
    fields = {**(await world.owner.get(ADA)).form(f"{ADA}/keys").fields, "name": "again"}
    made = await world.owner.post(f"{ADA}/keys", fields)
    assert made.status == 201
    (key,) = secrets_in(made)
    assert key.split("-")[2] == fields["id"]
    for _ in range(2):
        again = await world.owner.post(f"{ADA}/keys", fields)
        assert (again.status, again.heading, secrets_in(again)) == (409, "This key was made before", [])
        assert fields["id"] in again.words
        assert again.links["To the creator"] == ADA
    assert len(await keys_of(world)) == len(before) + 1
    other = (await world.owner.get(ADA)).form(f"{ADA}/keys").fields
    assert other["id"] != fields["id"]


async def test_of_many_at_once_one_makes_the_key(world):
    """Whichever process they reach: it is the database that has one row for an id."""
    for path, fields in (
        (f"{ADA}/keys", (await world.owner.get(ADA)).form(f"{ADA}/keys").fields),
        (ADMINS, {**(await world.owner.get(ADMINS)).form(ADMINS).fields, "name": "Twin"}),
        (NEW, (await world.owner.get(NEW)).form(NEW).fields),
    ):
        answers = await asyncio.gather(*(world.owner.post(path, fields) for _ in range(6)))
        assert sum(len(secrets_in(answer)) for answer in answers) == 1, path
        assert sorted(answer.status for answer in answers)[1:] == [409] * 5, path


async def test_an_admin_key_is_made_once_however_often_its_form_is_sent(world):
    before = await admin_ids(world)
    fields = {**(await world.owner.get(ADMINS)).form(ADMINS).fields, "name": "Eve", "role": "owner"}
    made = await world.owner.post(ADMINS, fields)
    assert (made.status, len(secrets_in(made))) == (200, 1)
    again = await world.owner.post(ADMINS, fields)
    assert (again.status, again.heading, secrets_in(again)) == (409, "This key was made before", [])
    assert again.links["To the admins"] == ADMINS
    assert await admin_ids(world) - before == {fields["id"]}


@pytest.mark.parametrize("id", ["", "fay"])
async def test_a_new_creator_is_made_once_with_one_key(world, id):
    fields = {**(await world.owner.get(NEW)).form(NEW).fields, "id": id, "plan": "open"}
    made = await world.owner.post(NEW, fields)
    assert (made.status, len(secrets_in(made))) == (201, 1)
    creators = len((await world.admin_api("GET", "/admin/creators"))["data"])
    again = await world.owner.post(NEW, fields)
    assert (again.status, again.heading, secrets_in(again)) == (409, "This key was made before", [])
    assert again.links["To the creator"] == made.links["To the creator"]
    assert len((await world.admin_api("GET", "/admin/creators"))["data"]) == creators
    assert len(await keys_of(world, made.links["To the creator"].rpartition("/")[2])) == 1


async def test_a_creator_of_others_gets_no_key_by_the_form_for_new_ones(world):
    before = await keys_of(world, "bo")
    fields = {**(await world.owner.get(NEW)).form(NEW).fields, "id": "bo"}
    page = await world.owner.post(NEW, fields)
    assert (page.status, page.heading) == (409, "New creator")
    assert "This creator id is taken" in page.words
    assert await keys_of(world, "bo") == before


async def test_a_rotation_that_is_sent_again_says_that_it_is_done(world):
    made = await world.admin_api("POST", "/admin/creators/ada/keys", json={"name": "old"})
    path = f"{ADA}/keys/{made['id']}/rotate"
    fields = (await world.owner.get(ADA)).form(path).fields
    answers = [await world.owner.post(path, fields) for _ in range(2)]
    assert [(answer.status, len(secrets_in(answer))) for answer in answers] == [(201, 1), (409, 0)]
    assert answers[1].heading == "This key was made before"
    (new,) = [key for key in await keys_of(world) if key["id"] == fields["id"]]
    assert new["status"] == "active"
    other = await world.owner.post(path, {**fields, "id": "AAAAbbbb0000"})
    assert (other.status, "only a live key can be rotated" in other.words) == (409, True)


async def test_an_id_that_is_none_is_refused_and_makes_nothing(world):
    before = await keys_of(world), await admin_ids(world)
    for chosen in ("short", "x" * 13, "with-a-dash-", "<script>aaaa"):
        for path in (f"{ADA}/keys", ADMINS):
            page = await world.owner.post(
                path, {"id": chosen, "name": "k"} | ({"role": "owner"} if path == ADMINS else {})
            )
            assert (page.status, secrets_in(page)) == (400, []), (chosen, path)
    assert (await keys_of(world), await admin_ids(world)) == before


async def test_every_form_is_of_one_use_or_may_be_sent_again(world):
    call = f"/dashboard/calls/{world.calls[0].request_id}"
    found = 0
    for path in (ADA, NEW, ADMINS, call, "/dashboard/notices", "/dashboard/months"):
        for form in (await world.owner.get(path)).forms:
            if form.method != "post" or form.action in SAME_AGAIN:
                continue
            is_change = form.action.startswith(f"{ADMINS}/") or form.action.endswith(("/pause", "/resume"))
            found += not is_change
            assert is_change or ONE_USE & set(form.names), (path, form.action)
            own = {"key_id"} if form.action == NEW else ONE_USE  # the id of a creator is filled in, or left to the form
            assert all(form.fields[name] for name in own & set(form.names)), form.action
    assert found >= 6


# What is refused


async def test_what_is_refused_is_said_at_the_top_and_leads_to_its_form(world):
    page = await world.owner.get(ADA)
    (key,) = [key for key in await keys_of(world) if key["name"] == ""][:1]
    call = f"/dashboard/calls/{world.calls[0].request_id}"
    own = next(row["id"] for row in (await world.admin_api("GET", "/admin/admin-keys"))["data"])
    for action, wrong, form in (
        (f"{ADA}/change", {**page.form(f"{ADA}/change").fields, "overrides": "{no"}, "form-change"),
        (f"{ADA}/grant", {"credits": "many"}, "form-grant"),
        (f"{ADA}/adjust", {"payer": "quota", "amount_usd": "0"}, "form-adjust"),
        (f"{ADA}/delete", {"confirm": "bo"}, "form-delete"),
        (f"{ADA}/keys", {"name": "x" * 300}, "form-key"),
        (f"{ADA}/keys/{key['id']}/rotate", {"grace_s": "a day"}, "form-keys"),
        (NEW, {"id": "ada"}, "form-new"),
        (ADMINS, {"name": "", "role": "owner"}, "form-new"),
        (f"{ADMINS}/{own}", {"name": "", "role": "owner"}, f"form-change-{own}"),
        (f"{call}/refunds", {"amount_usd": "much"}, "form-refund"),
    ):
        refused = await world.owner.post(action, wrong)
        assert refused.status >= 400, action
        assert refused.title.startswith("Error: "), action
        (alert,) = alerts(refused)
        assert "autofocus" in alert
        assert alert["tabindex"] == "-1"
        assert refused.links["To the form"] == f"#{form}", action
        assert form in [given.get("id") for _, given in refused.elements], action
        assert said(refused) == []


async def test_a_wrong_filter_is_an_error_of_the_page_too(world):
    for path in ("calls?from=yesterday", "audit?from=yesterday", "overview?by=colour", "providers?window=1y"):
        page = await world.owner.get(f"/dashboard/{path}")
        assert (page.status, page.title.startswith("Error: "), len(alerts(page))) == (400, True, 1), path
    page = await world.owner.get("/dashboard/calls")
    assert (page.title, alerts(page)) == ("Calls · Gateway", [])


# What is done


async def test_what_was_done_is_said_once(world):
    page = await world.owner.get(ADA)
    made = await world.admin_api("POST", "/admin/creators/ada/keys", json={})
    key = f"{ADA}/keys/{made['id']}"
    admin = await world.admin_api("POST", "/admin/admin-keys", json={"name": "Gone"})
    for action, fields, word in (
        (f"{ADA}/grant", {**page.form(f"{ADA}/grant").fields, "credits": "5"}, "granted"),
        (f"{ADA}/change", page.form(f"{ADA}/change").fields, "saved"),
        (f"{ADA}/adjust", {"payer": "quota", "amount_usd": "-0.01"}, "adjusted"),
        (f"{key}/pause", {}, "key_paused"),
        (f"{key}/resume", {}, "key_resumed"),
        (f"{key}/revoke", {}, "key_revoked"),
        (f"{ADMINS}/{admin['id']}", {"name": "Going", "role": "support"}, "admin_changed"),
        (f"{ADMINS}/{admin['id']}/revoke", {}, "admin_revoked"),
    ):
        sent = await world.owner.post(action, fields)
        assert (sent.status, "?" in sent.location) == (303, False), action
        # What only a part of a page is does not use it up.
        part = await world.owner.get("/dashboard/overview/live", hx_request="true")
        assert said(part) == []
        first, second = [await world.owner.get(sent.location) for _ in range(2)]
        assert said(first) == [DONE[word]], action
        assert ("status", "notice") in [(given.get("role"), given.get("class")) for _, given in first.elements]
        assert said(second) == [], action


async def test_nobody_makes_a_page_say_anything_else(world):
    stranger = await world.stranger()
    await stranger.sign_in(world.admin_keys["owner"])
    for word in ("nothing", "The credits are granted.", "<script>alert(1)</script>", "\xff", "x" * 5000):
        sent = f"gateway_session={stranger.token}; gateway_done={word}".encode("latin-1")
        answer = await stranger.http.get(ADA, headers={"cookie": sent})
        assert answer.status_code == 200
        assert "alert(1)" not in answer.text
        assert 'role="status" class="notice">' not in answer.text
    for query in ("done=granted", "refunded=1"):
        assert said(await world.owner.get(f"{ADA}?{query}")) == []
    assert get_args(Done) == tuple(DONE)
