"""Signing in leads to the page that was asked for, if it is one of ours, and to nothing else."""

import pytest
import pytest_asyncio

from gateway.dashboard.own_paths import own_path
from gateway.dashboard.sessions import IDLE_S
from tests.dashboard.world import HOST, SIGN_IN, opened_dashboard

pytestmark = pytest.mark.asyncio(loop_scope="module")
CALLS = "/dashboard/calls?creator=acme&outcome=ok"
WAY = f"{SIGN_IN}?next=/dashboard/calls%3Fcreator%3Dacme%26outcome%3Dok"

FOREIGN = (
    "",
    "overview",
    "/",
    "/admin/creators",
    "/dashboardx",
    "/dashboard",
    "/dashboard/",
    "//evil.example/dashboard/calls",
    "/\\evil.example/dashboard",
    "\\\\evil.example",
    "https://evil.example/dashboard/calls",
    "https:/dashboard/calls",
    "javascript:alert(1)//dashboard/",
    "/dashboard//evil.example",
    "/dashboard/\\evil.example",
    "/dashboard/../admin",
    "/dashboard/%2e%2E/admin",
    "/dashboard/calls/./../../admin",
    "/dashboard/calls\r\nset-cookie: a=b",
    "/dashboard/calls\n",
    " /dashboard/calls",
    "/dashboard/ca lls",
    "/dashboard/calls#frag",
    '/dashboard/calls?"><script>',
    "/dashboard/cälls",
    "/dashboard/calls?q=\u202e",
    "/dashboard/sign-in?next=/dashboard/calls",
    "/dashboard/sign-out",
    "/dashboard/%73ign-out",
    "/dashboard/%65xport/costs",
    "/dashboard/static/app.js",
    "/dashboard/export/costs?group_by=day",
    "/dashboard/" + "x" * 2_000,
    "@evil.example/dashboard/calls",
)
OWN = (
    CALLS,
    "/dashboard/creators/acme",
    "/dashboard/creators/a%20b@c:d",
    "/dashboard/explore?metric=cost&next=//evil.example",
    "/dashboard/me/",
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory):
    async with opened_dashboard(tmp_path_factory.mktemp("way"), creators=("ada",), has_calls=False) as opened:
        yield opened


@pytest.mark.parametrize("wanted", FOREIGN)
async def test_nobody_is_led_anywhere_else(world, wanted):
    assert own_path(wanted) == ""
    stranger = await world.stranger()
    page = await stranger.http.get(SIGN_IN, params={"next": wanted})
    assert 'name="next"' not in page.text
    answer = await stranger.post(SIGN_IN, {"key": world.admin_keys["owner"], "next": wanted})
    # White space around it is taken off fields, and is no way elsewhere.
    assert (answer.status, answer.location) == (303, own_path(wanted.strip()) or "/dashboard")


@pytest.mark.parametrize("wanted", OWN)
async def test_our_own_pages_are_led_back_to(world, wanted):
    answer = await (await world.stranger()).post(SIGN_IN, {"key": world.admin_keys["owner"], "next": wanted})
    assert (answer.status, answer.location) == (303, wanted)


async def test_a_link_shows_what_it_was_sent_for_after_signing_in(world):
    stranger = await world.stranger()
    asked = await stranger.get(CALLS)
    assert (asked.status, asked.location) == (303, WAY)
    form = (await stranger.get(asked.location)).form(SIGN_IN)
    assert form.fields["next"] == CALLS
    wrong = await stranger.post(SIGN_IN, {**form.fields, "key": "wrong"})
    assert (wrong.status, wrong.form(SIGN_IN).fields["next"]) == (401, CALLS)
    answer = await stranger.post(SIGN_IN, {**wrong.form(SIGN_IN).fields, "key": world.admin_keys["finance"]})
    assert answer.location == CALLS
    assert (await stranger.get(answer.location)).status == 200


async def test_a_part_of_a_page_and_a_form_lead_back_to_their_page(world):
    stranger = await world.stranger()
    part = await stranger.get(CALLS, hx_request="true")
    assert (part.status, part.headers["hx-redirect"]) == (200, WAY)
    for referer, way in (
        (f"http://{HOST}{CALLS}", WAY),
        ("https://evil.example//evil", SIGN_IN),
        ("http://[", SIGN_IN),
        ("", SIGN_IN),
    ):
        form = await stranger.post("/dashboard/creators/ada/change", {}, referer=referer)
        assert (form.status, form.location) == (303, way), referer


async def test_who_follows_a_link_for_others_is_told_so_and_where_to_go(world):
    for visitor, path, words in (
        (world.creator("ada"), CALLS, "This page is for admins. You are signed in with a virtual key, as ada."),
        (world.owner, "/dashboard/me", "This page is a creator's. You are signed in with an admin key"),
    ):
        page = await visitor.get(path)
        assert (page.status, words in page.words) == (403, True)
        assert page.links["Back to the first page"] == "/dashboard"
        way = page.links["Sign in with another key"]
        assert way.startswith(f"{SIGN_IN}?next=/dashboard/")
        form = await visitor.get(way)
        assert (form.status, form.form(SIGN_IN).fields["next"]) == (200, path)
        assert "You are signed in as" in form.words
        assert form.links["Go on"] == path


# What pages ask by themselves


async def test_what_a_page_asks_by_itself_is_no_use_of_the_session(world):
    visitor = await world.stranger()
    await visitor.sign_in(world.admin_keys["owner"])
    live = "/dashboard/overview/live"
    for _ in range(4):
        world.clock.advance(seconds=IDLE_S // 4 - 10)
        assert (await visitor.get(live, hx_request="true", x_gateway_poll="1")).status == 200
    world.clock.advance(seconds=60)
    over = await visitor.get(live, hx_request="true", x_gateway_poll="1")
    assert (over.status, over.text, "hx-redirect" in over.headers) == (401, "", False)
    assert (await visitor.get("/dashboard/overview")).status == 303


async def test_a_form_is_a_use_of_the_session_whatever_it_says(world):
    visitor = await world.stranger()
    await visitor.sign_in(world.admin_keys["owner"])
    world.clock.advance(seconds=IDLE_S - 60)
    await visitor.post("/dashboard/creators/ada/change", {}, x_gateway_poll="1")
    world.clock.advance(seconds=IDLE_S - 60)
    assert (await visitor.get("/dashboard/overview")).status == 200
