"""The frame around every page, and what is answered where there is no page."""

import gzip
import hashlib
from pathlib import Path

import httpx
import orjson
import pytest
import pytest_asyncio
from starlette.types import Receive, Scope, Send

import gateway.dashboard
from gateway.dashboard.guard import DashboardGuard
from gateway.dashboard.render import NAVIGATION
from gateway.dashboard.static_files import static_url
from tests.dashboard.world import SIGN_IN, new_admin, opened_dashboard

pytestmark = pytest.mark.asyncio(loop_scope="module")
STATIC = Path(gateway.dashboard.__file__).parent / "static"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory):
    """One for all: none of these tests changes anything that another looks at."""
    async with opened_dashboard(tmp_path_factory.mktemp("shell"), creators=("ada",), has_calls=False) as opened:
        yield opened


# Refusals


async def test_without_a_session_every_path_leads_to_the_sign_in(world):
    stranger = await world.stranger()
    for path in (
        "/dashboard",
        "/dashboard/",
        "/dashboard/overview",
        "/dashboard/nothing",
        "/dashboard/static",
        "/dashboard//",
    ):
        for answer in (await stranger.get(path), await stranger.head(path)):
            assert (answer.status, answer.location.partition("?")[0]) == (303, SIGN_IN), path
            assert answer.text == ""


async def test_a_part_of_a_page_asked_for_without_a_session_sends_the_whole_page_to_the_sign_in(world):
    answer = await (await world.stranger()).get("/dashboard/overview", hx_request="true")
    leads_to = f"{SIGN_IN}?next=/dashboard/overview"
    assert (answer.status, answer.headers["hx-redirect"], answer.text) == (200, leads_to, "")


async def test_a_path_without_a_page_is_a_page_that_says_so(world):
    for visitor in (world.owner, world.support):
        page = await visitor.get("/dashboard/nothing/<b>at all</b>")
        assert (page.status, page.heading) == (404, "Not found")
        assert "no such page" in page.words
        assert "<b>" not in page.text
        assert page.links["Back to the first page"] == "/dashboard"
        assert page.headers["cache-control"] == "no-store"


async def test_a_page_does_not_take_what_it_is_not_made_for(world):
    page = await world.owner.post("/dashboard")
    assert (page.status, page.heading) == (405, "This cannot be done")
    assert "GET" in page.headers["allow"]
    assert (await world.owner.get("/dashboard/sign-out")).status == 405


async def test_whoever_asks_for_json_gets_the_error_as_json(world):
    page = await world.owner.get("/dashboard/nothing", accept="application/json")
    assert page.status == 404
    assert orjson.loads(page.text)["error"]["code"] == "not_found"


async def test_a_page_that_cannot_be_made_is_an_error_page_and_the_fault_goes_on_to_the_log():
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError("secret of the template")

    for is_raised in (True, False):
        transport = httpx.ASGITransport(DashboardGuard(broken), raise_app_exceptions=is_raised)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway.test", trust_env=False) as http:
            if is_raised:
                with pytest.raises(ZeroDivisionError):
                    await http.get(SIGN_IN)
                continue
            answer = await http.get(SIGN_IN)
    assert answer.status_code == 500
    assert "could not make this page" in answer.text
    assert "secret" not in answer.text
    assert "script-src 'self'" in answer.headers["content-security-policy"]


async def test_the_api_keeps_its_own_errors(world):
    answer = await world.owner.http.get("/v1/nothing", headers={"authorization": f"Bearer {world.keys['ada']}"})
    assert answer.json()["error"]["code"] == "not_found"


async def test_pages_have_a_policy_that_runs_nothing_but_the_gateways_own_files(world):
    answers = [
        await (await world.stranger()).get(SIGN_IN),
        await (await world.stranger()).get("/dashboard"),
        await world.owner.get("/dashboard/nothing"),
        await world.owner.http.post("/dashboard/sign-out"),
        await world.owner.get(static_url("app.css")),
        await world.owner.get("/dashboard/static/nothing.js"),
    ]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "style-src 'self';" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"


async def test_creators_see_no_page_of_admins_and_admins_none_of_creators(world):
    for path in (
        "/dashboard/overview",
        "/dashboard/creators/ada",
        "/dashboard/export/costs",
        "/dashboard/metrics",
    ):
        answer = await world.creator("ada").get(path)
        assert (answer.status, "This page is for admins" in answer.words) == (403, True), path
    for path in ("/dashboard/me", "/dashboard/me/calls", "/dashboard/export/me/usage"):
        answer = await world.owner.get(path)
        assert (answer.status, "This page is a creator's" in answer.words) == (403, True), path


# The frame


async def test_everybody_comes_to_a_page_of_their_own_first(world):
    assert (await world.owner.get("/dashboard")).location == "/dashboard/overview"
    assert (await world.finance.get("/dashboard/")).location == "/dashboard/overview"
    assert (await world.support.get("/dashboard")).location == "/dashboard/creators"
    assert (await world.creator("ada").get("/dashboard")).location == "/dashboard/me"


async def test_the_frame_has_landmarks_a_way_past_them_and_who_is_signed_in(world):
    page = await world.owner.get("/dashboard/nothing")
    tags = [tag for tag, _ in page.elements]
    assert tags.count("main") == tags.count("nav") == tags.count("h1") == 1
    assert page.links["Skip to the page"] == "#page"
    assert ("main", {"id": "page", "tabindex": "-1"}) in page.elements
    assert "owner of the tests owner" in page.words
    assert page.form("/dashboard/sign-out").method == "post"
    assert page.title == "Error: Not found · Gateway"


@pytest.mark.parametrize("role", ["owner", "finance", "support", "creator"])
async def test_the_navigation_has_the_places_of_the_role(world, role):
    visitor = world.creator("ada") if role == "creator" else world.admin(role)
    page = await visitor.get("/dashboard/me/nothing" if role == "creator" else "/dashboard/nothing")
    assert page.status == 404
    wanted = [place.path for place in NAVIGATION if role in place.roles]
    assert [href for href in page.hrefs if href in {place.path for place in NAVIGATION}] == wanted


async def test_the_navigation_says_where_one_is(world):
    def here(page):
        return [(given["href"], given["aria-current"]) for tag, given in page.elements if "aria-current" in given]

    assert here(await world.owner.get("/dashboard/explore/nothing")) == [("/dashboard/explore", "true")]
    assert here(await world.owner.get("/dashboard/nothing")) == []
    assert here(await world.creator("ada").get("/dashboard/me/calls/x/y")) == [("/dashboard/me/calls", "true")]


async def test_hostile_names_are_text(world):
    name = "<img src=x onerror=alert(1)>"
    visitor = await world.stranger()
    await visitor.sign_in(await new_admin(world.services, "owner", name))
    page = await visitor.get("/dashboard/nothing")
    assert name in page.words
    assert "img" not in [tag for tag, _ in page.elements]


async def test_head_is_answered_like_get(world):
    for path in (SIGN_IN, "/dashboard", static_url("app.js"), "/dashboard/nothing"):
        assert (await world.owner.head(path)).status == (await world.owner.get(path)).status


# The files


async def test_what_is_not_there_is_not_found(world):
    for name in (
        "nothing.js",
        "",
        "../render.py",
        "..%2frender.py",
        "%2e%2e/%2e%2e/config.py",
        "vendor/../../sign_in.py",
        "//etc/passwd",
        "vendor",
        "vendor/htmx.LICENSE",
        "vendor/README.md",
        "app.css%00.js",
        "APP.CSS",
    ):
        answer = await (await world.stranger()).http.get(f"http://gateway.test/dashboard/static/{name}")
        assert answer.status_code in (303, 404), name
        assert len(answer.content) < 5000
        assert "def " not in answer.text


async def test_a_file_under_its_digest_is_kept_for_ever_and_under_another_asked_for_again(world):
    stranger = await world.stranger()
    content = (STATIC / "app.css").read_bytes()
    url = static_url("app.css")
    assert url == f"/dashboard/static/app.css?v={hashlib.sha256(content).hexdigest()[:12]}"
    kept = await stranger.get(url)
    assert kept.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert kept.headers["content-type"] == "text/css; charset=utf-8"
    assert kept.response.content == content
    for other in ("/dashboard/static/app.css", "/dashboard/static/app.css?v=000000000000"):
        asked = await stranger.get(other)
        assert asked.headers["cache-control"] == "public, no-cache"
        again = await stranger.get(other, if_none_match=f'"x", W/{asked.headers["etag"]}')
        assert (again.status, again.response.content) == (304, b"")
        assert again.headers["etag"] == asked.headers["etag"]
        assert (await stranger.get(other, if_none_match='"x"')).status == 200


async def test_files_are_packed_for_whoever_can_unpack_them(world):
    stranger = await world.stranger()
    content = (STATIC / "vendor/htmx.min.js").read_bytes()
    url = static_url("vendor/htmx.min.js")
    for accepted, is_packed in (
        ("gzip, br", True),
        ("GZIP;q=0.5", True),
        ("identity", False),
        ("gzip;q=0", False),
        ("", False),
    ):
        async with stranger.http.stream("GET", url, headers={"accept-encoding": accepted}) as answer:
            raw = b"".join([piece async for piece in answer.aiter_raw()])
        assert (answer.headers.get("content-encoding") == "gzip") is is_packed, accepted
        assert (gzip.decompress(raw) if is_packed else raw) == content
        assert answer.headers["vary"] == "accept-encoding"
        assert answer.headers["etag"].endswith('-gzip"') is is_packed
        assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
