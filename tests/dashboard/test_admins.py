"""The pages of admins and of the audit log: who may see them, what can be done there, and that a key is shown once."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.dashboard.world import Page, World, opened_dashboard

ADMINS, AUDIT = "/dashboard/admins", "/dashboard/audit"
LISTED = "What admins did, the newest first"
HOSTILE = "<img src=x onerror=alert(1)> שלום"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with opened_dashboard(tmp_path, creators=("ada",)) as world:
        yield world


def once(page: Page) -> list[str]:
    """The keys that the page shows."""
    return [word for word in page.words.split() if word.startswith("sk-gwadmin-")]


async def id_of(world: World, name: str) -> str:
    (found,) = [row for row in (await world.admin_api("GET", "/admin/admin-keys"))["data"] if row["name"] == name]
    return str(found["id"])


async def test_a_key_is_made_and_shown_once(world):
    page = await world.owner.get(ADMINS)
    assert page.status == 200
    fields = page.form(ADMINS).fields
    assert (fields["name"], fields["role"], len(fields["id"])) == ("", "support", 12)
    made = await world.owner.post(ADMINS, {"name": HOSTILE, "role": "finance"})
    (key,) = once(made)
    assert made.status == 200
    assert made.headers["cache-control"] == "no-store"
    assert "<img" not in made.text
    again = await world.owner.get(ADMINS)
    assert once(again) == []
    assert key not in again.text
    (row,) = [row for row in again.rows("Admin keys") if row[0].startswith("<img")]
    assert (row[0], row[2]) == (HOSTILE, "finance")
    somebody = await world.stranger()
    assert (await somebody.sign_in(key)).location == "/dashboard"
    assert (await somebody.get(AUDIT)).status == 200


async def test_a_role_is_changed_and_counts_at_once(world):
    finance = await id_of(world, "finance of the tests")
    page = await world.owner.get(ADMINS)
    assert page.form(f"{ADMINS}/{finance}").fields == {"name": "finance of the tests", "role": "finance"}
    answer = await world.owner.post(f"{ADMINS}/{finance}", {"name": "Fin", "role": "support"})
    assert (answer.status, answer.location) == (303, ADMINS)
    assert (await world.finance.get(AUDIT)).status == 403
    (row,) = [row for row in (await world.owner.get(ADMINS)).rows("Admin keys") if row[0] == "Fin"]
    assert row[2] == "support"


async def test_a_key_that_is_revoked_is_signed_out(world):
    support = await id_of(world, "support of the tests")
    answer = await world.owner.post(f"{ADMINS}/{support}/revoke")
    assert (answer.status, answer.location) == (303, ADMINS)
    page = await world.owner.get(ADMINS)
    assert [row[1] for row in page.rows("Revoked admin keys")] == [support]
    assert (await world.support.get("/dashboard/creators")).location.startswith("/dashboard/sign-in?")


async def test_the_last_owner_stays_and_the_page_says_why(world):
    own = await id_of(world, "owner of the tests")
    for path, fields in ((f"{ADMINS}/{own}/revoke", {}), (f"{ADMINS}/{own}", {"name": "Ada", "role": "finance"})):
        answer = await world.owner.post(path, fields)
        assert answer.status == 409
        assert "This is the last admin key with the role owner" in answer.words
    assert (await world.owner.get(ADMINS)).status == 200


async def test_what_is_wrong_with_a_form_is_said_beside_it(world):
    for fields, reason in (({"name": "", "role": "owner"}, "whose key"), ({"name": "Eve", "role": "root"}, "“Role”")):
        answer = await world.owner.post(ADMINS, fields)
        assert answer.status == 400
        assert reason in answer.words
        assert answer.form(ADMINS).fields["name"] == fields["name"]
    assert (await world.owner.post(f"{ADMINS}/nobody/revoke")).status == 404
    assert len((await world.admin_api("GET", "/admin/admin-keys"))["data"]) == 3


async def test_nobody_but_an_owner_sees_or_does_anything_there(world):
    own = await id_of(world, "owner of the tests")
    for visitor in (world.finance, world.support):
        page = await visitor.get(ADMINS)
        assert (page.status, own in page.text) == (403, False)
        assert ADMINS not in page.hrefs
        for path in (ADMINS, f"{ADMINS}/{own}", f"{ADMINS}/{own}/revoke"):
            fields = {} if path.endswith("revoke") else {"name": "Eve", "role": "owner"}
            assert (await visitor.post(path, fields)).status == 403
    assert (await world.creator("ada").get(ADMINS)).status == 403
    rows = (await world.admin_api("GET", "/admin/admin-keys"))["data"]
    assert [row["status"] for row in rows] == ["active"] * 3


async def test_what_is_done_on_pages_is_in_the_log_of_whoever_did_it(world):
    await world.owner.post(ADMINS, {"name": "Eve", "role": "finance"})
    await world.support.post(ADMINS, {"name": "Mallory", "role": "owner"})
    page = await world.finance.get(f"{AUDIT}?action=admin-keys")
    refused, made = page.rows(LISTED)
    assert (made[1], made[3], made[6]) == ("201", "POST /admin/admin-keys", "192.0.2.1")
    assert made[2].endswith(" owner")
    assert made[5] == 'role "finance"; also name'
    assert (refused[1], refused[2].split()[-1]) == ("403", "support")
    assert "Mallory" not in page.text


async def test_the_log_is_filtered_by_its_address_and_paged(world):
    for number in range(55):
        await world.admin_api("POST", "/admin/creators", json={"id": f"cr{number}"})
    page = await world.finance.get(f"{AUDIT}?action=POST+/admin/creators")
    assert len(page.rows(LISTED)) == 50
    assert page.form(AUDIT).fields["action"] == "POST /admin/creators"
    older = await world.finance.get(page.links["Older"])
    assert len(older.rows(LISTED)) == 5
    assert older.links["Newest"] == f"{AUDIT}?action=POST+%2Fadmin%2Fcreators"
    exported = await world.finance.get(page.links["Export CSV"])
    assert exported.headers["content-type"].startswith("text/csv")
    assert exported.text.count("POST /admin/creators,") == 55
    assert "Nothing fits" in (await world.finance.get(f"{AUDIT}?target=nobody")).words


async def test_a_wrong_filter_is_said_and_stays_filled_in(world):
    page = await world.owner.get(f"{AUDIT}?from=yesterday")
    assert page.status == 400
    assert page.form(AUDIT).fields["from"] == "yesterday"
    assert (await world.owner.get(f"{AUDIT}?who=me")).status == 400


async def test_support_does_not_see_the_log(world):
    assert (await world.support.get(AUDIT)).status == 403
    assert (await world.support.get("/dashboard/export/audit")).status == 403


async def test_names_in_the_log_are_harmless(world):
    made = await world.owner.post(ADMINS, {"name": HOSTILE, "role": "owner"})
    somebody = await world.stranger()
    await somebody.sign_in(once(made)[0])
    await somebody.post(ADMINS, {"name": "=cmd()", "role": "owner"})
    page = await world.owner.get(f"{AUDIT}?action=admin-keys")
    assert page.rows(LISTED)[0][2].startswith(HOSTILE)
    assert "<img" not in page.text
