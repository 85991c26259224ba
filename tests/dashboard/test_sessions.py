"""Signing in, being signed in, and no longer being so."""

import asyncio
import sqlite3
from contextlib import closing
from http.cookies import SimpleCookie
from itertools import product

import pytest
from structlog.testing import capture_logs

from gateway.dashboard.sessions import IDLE_S, LIFETIME_S
from tests.dashboard.world import HOST, SIGN_IN, Visitor, World, opened_dashboard

HOME = "/dashboard/nothing"
"""A path behind the guard that shows who is let through: 404 for admins and 403 for creators, else 303."""


@pytest.fixture
async def world(tmp_path):
    async with opened_dashboard(tmp_path, creators=("ada",), has_calls=False) as opened:
        yield opened


async def is_in(visitor: Visitor) -> bool:
    answer = await visitor.get(HOME)
    assert answer.status in (303, 403, 404)
    return answer.status != 303


def cookie_of(answer) -> dict[str, str]:
    morsel = SimpleCookie(answer.headers["set-cookie"])["gateway_session"]
    return {"value": morsel.value, **{name: str(value) for name, value in morsel.items() if value}}


def stored(world: World, query: str = "SELECT * FROM sessions") -> list[tuple]:
    with closing(sqlite3.connect(world.gateway.path)) as connection:
        return connection.execute(query).fetchall()


def audit_rows(world: World) -> list[tuple]:
    columns = "phase, admin_key_id, role, action, status, address, details"
    return stored(world, f"SELECT {columns} FROM audit_log WHERE action LIKE '%/dashboard/%' ORDER BY id")


# Keys that open nothing


KEYS_OF_NOBODY = (
    "",
    " ",
    "wrong",
    "sk-gw-aaaaaaaa-bbbbbbbbbbbbbbbbbbbbbbbbbbbb",
    "sk-gwadmin-aaaa-bbbbbbbbbbbbbbbbbbbbbbb",
    "' OR '1'='1",
    "<script>alert(1)</script>",
    "ключ\u202e\x00",
    "x" * 100_000,
)


async def test_a_key_that_nobody_has_opens_nothing(world):
    stranger = await world.stranger()
    before = stored(world)
    for key in KEYS_OF_NOBODY:
        with capture_logs() as logs:
            answer = await stranger.sign_in(key)
        assert answer.status == 401, key
        assert "set-cookie" not in answer.headers
        assert "not one of this gateway" in answer.words
        assert [line["code"] for line in logs if line["event"] == "sign_in_refused"] == ["invalid_api_key"]
        if len(key) > 1:
            assert key not in answer.text
            assert key not in str(logs)
    assert stored(world) == before
    assert not await is_in(stranger)


async def test_a_form_that_is_not_ours_is_refused(world):
    forms: list[tuple[dict[str, str], int]] = [
        ({"key": "k", "prev": "/dashboard"}, 422),
        ({"password": "k"}, 422),
        ({"key": "x" * 1_100_000}, 413),
    ]
    stranger = await world.stranger()
    for fields, status in forms:
        answer = await stranger.post(SIGN_IN, fields)
        assert answer.status == status
        assert "set-cookie" not in answer.headers
        assert answer.heading == "Sign in"


async def test_a_revoked_admin_key_opens_nothing(world):
    await revoke_admin(world, "support")
    assert (await (await world.stranger()).sign_in(world.admin_keys["support"])).status == 401


async def test_after_ten_failures_an_address_waits_even_with_the_right_key(world):
    stranger = await world.stranger(address="198.51.100.7")
    for number in range(10):
        assert (await stranger.sign_in(f"guess-{number}")).status == 401
    answer = await stranger.sign_in(world.admin_keys["owner"])
    assert answer.status == 429
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert "set-cookie" not in answer.headers
    assert answer.heading == "Sign in"
    assert "Try again" in answer.words
    assert (await (await world.stranger(address="198.51.100.8")).sign_in(world.admin_keys["owner"])).status == 303


async def test_many_guesses_at_once_are_many(world):
    stranger = await world.stranger(address="198.51.100.7")
    answers = await asyncio.gather(*(stranger.sign_in(f"guess-{number}") for number in range(30)))
    assert sorted(answer.status for answer in answers) == [401] * 10 + [429] * 20


async def test_an_address_that_nobody_vouches_for_is_not_believed(world):
    for number in range(10):
        stranger = await world.stranger(address="198.51.100.7")
        await stranger.post(SIGN_IN, {"key": "guess"}, x_forwarded_for=f"203.0.113.{number}")
    assert (await stranger.post(SIGN_IN, {"key": "guess"}, x_forwarded_for="203.0.113.99")).status == 429


# Other people's pages


NOT_OURS: tuple[dict[str, str], ...] = (
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"origin": f"http://{HOST}:8080"},
    {"origin": f"http://{HOST}.evil.example"},
    {"origin": f"http://{HOST}@evil.example"},
    {"origin": f"http://x@{HOST}"},
    {"origin": f"ftp://{HOST}"},
    {"origin": HOST},
    {"origin": "http://["},
    {"origin": "\xff"},
    {"origin": "", "sec-fetch-site": "same-origin"},
    {"origin": "null", "sec-fetch-site": "same-origin"},
    {"origin": "null", "host": ""},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"sec-fetch-site": "none"},
    {},
)


async def test_what_another_page_sends_is_refused(world):
    for headers, path in product(NOT_OURS, (SIGN_IN, "/dashboard/sign-out", "/dashboard/creators")):
        sent = {name: value.encode("latin-1") for name, value in headers.items()}
        answer = await world.owner.http.post(path, data={"key": world.admin_keys["owner"]}, headers=sent)
        assert answer.status_code == 403, headers
        assert "cross_origin" in answer.text
        assert answer.headers["content-type"].startswith("text/html")
        assert "set-cookie" not in answer.headers
    assert await is_in(world.owner)


async def test_two_origins_are_none_of_ours(world):
    sent = [("origin", f"http://{HOST}"), ("origin", "https://evil.example")]
    assert (await world.owner.http.post("/dashboard/sign-out", headers=sent)).status_code == 403


async def test_what_our_own_page_sends_is_taken(world):
    ours: list[dict[str, str]] = [
        {"origin": f"http://{HOST}"},
        {"origin": f"HTTP://{HOST.upper()}:80"},
        {"sec-fetch-site": "same-origin"},
    ]
    for headers in ours:
        answer = await world.owner.http.post(SIGN_IN, data={"key": world.admin_keys["owner"]}, headers=headers)
        assert (answer.status_code, answer.headers["location"]) == (303, "/dashboard")


async def test_behind_a_proxy_the_public_url_is_our_own(tmp_path):
    async with opened_dashboard(tmp_path, creators=(), public_url="https://llm.example.com") as world:
        key, named = {"key": world.admin_keys["owner"]}, {"host": "10.0.0.7:8000"}
        for origin, status in (("https://llm.example.com", 303), ("http://llm.example.com", 403)):
            answer = await world.owner.http.post(SIGN_IN, data=key, headers={**named, "origin": origin})
            assert answer.status_code == status


# The cookie


async def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(world):
    cookie = cookie_of(await world.owner.sign_in(world.admin_keys["owner"]))
    assert len(cookie.pop("value")) == 43
    assert cookie == {"httponly": "True", "samesite": "strict", "path": "/dashboard", "max-age": str(LIFETIME_S)}


@pytest.mark.parametrize(
    ("settings", "origin", "headers", "is_secure"),
    [
        pytest.param({}, f"http://{HOST}", {}, False, id="http"),
        pytest.param({}, f"https://{HOST}", {}, True, id="https"),
        pytest.param(
            {"public_url": f"https://{HOST}"}, f"http://{HOST}", {"origin": f"https://{HOST}"}, True, id="url"
        ),
        pytest.param(
            {"trusted_proxies": "192.0.2.0/24"},
            f"http://{HOST}",
            {"origin": f"https://{HOST}", "x_forwarded_proto": "https"},
            True,
            id="trusted proxy",
        ),
        pytest.param(
            {"trusted_proxies": "10.0.0.0/8"}, f"http://{HOST}", {"x_forwarded_proto": "https"}, False, id="not"
        ),
        pytest.param(
            {"trusted_proxies": "192.0.2.0/24"},
            f"http://{HOST}",
            {"x_forwarded_proto": "http"},
            False,
            id="proxy: http",
        ),
    ],
)
async def test_the_cookie_stays_on_https_where_it_came_over_https(tmp_path, settings, origin, headers, is_secure):
    async with opened_dashboard(tmp_path, creators=(), signs_in=False, **settings) as world:
        stranger = await world.stranger(origin=origin)
        answer = await stranger.post(SIGN_IN, {"key": world.admin_keys["owner"]}, **headers)
        assert answer.status == 303
        assert ("secure" in cookie_of(answer)) is is_secure


async def test_the_database_never_has_the_token(world):
    token = world.owner.token
    on_disk = b"".join(path.read_bytes() for path in world.gateway.path.parent.rglob("*") if path.is_file())
    assert token.encode() not in on_disk
    assert world.admin_keys["owner"].encode() not in on_disk
    assert len(stored(world)) == 4


NO_SESSIONS = (
    "gateway_session=",
    "gateway_session",
    "gateway_session=x",
    "gateway_session=" + "x" * 5000,
    "gateway_session=\xff\xfe",
    "gateway_session=' OR 1=1 --",
    "=;;;=;",
    "GATEWAY_SESSION={token}",
    "other_gateway_session={token}",
    'gateway_session="{token}"',
    "gateway_session={token}x",
    "gateway_session={digest}",
)


async def test_cookies_that_are_no_session_lead_to_the_sign_in(world):
    digest = stored(world, "SELECT id FROM sessions LIMIT 1")[0][0]
    stranger = await world.stranger()
    for value in NO_SESSIONS:
        sent = value.format(token=world.owner.token, digest=digest).encode("latin-1")
        answer = await stranger.http.get(HOME, headers={"cookie": sent})
        assert (answer.status_code, answer.headers["location"]) == (303, f"{SIGN_IN}?next={HOME}"), value


async def test_cookies_of_others_on_the_same_host_do_no_harm(world):
    stranger = await world.stranger()
    for junk in ("a b c", "x={}", 'n="[;]"', "\xe9t\xe9=\xff", "{a}=1,2", "gateway_session="):
        sent = f"{junk}; gateway_session={world.owner.token}; z=1".encode("latin-1")
        assert (await stranger.http.get(HOME, headers={"cookie": sent})).status_code == 404, junk


# How sessions end


async def test_signing_out_ends_the_session_for_whoever_kept_the_cookie(world):
    token = world.owner.token
    answer = await world.owner.post("/dashboard/sign-out")
    assert (answer.status, answer.location) == (303, SIGN_IN)
    assert world.owner.token == ""
    thief = await world.stranger()
    assert (await thief.http.get(HOME, headers={"cookie": f"gateway_session={token}"})).status_code == 303
    assert await is_in(world.finance)


async def test_a_new_sign_in_has_a_new_token_and_ends_the_old_session(world):
    token = world.owner.token
    await world.owner.sign_in(world.admin_keys["finance"])
    assert world.owner.token not in ("", token)
    world.owner.http.cookies.clear()
    answer = await world.owner.http.get(HOME, headers={"cookie": f"gateway_session={token}"})
    assert answer.status_code == 303


async def test_a_token_that_somebody_else_chose_is_never_taken_over(world):
    stranger = await world.stranger()
    stranger.http.cookies.set("gateway_session", "chosen-by-somebody-else", domain=HOST, path="/dashboard")
    chosen = cookie_of(await stranger.sign_in(world.admin_keys["owner"]))["value"]
    assert chosen != "chosen-by-somebody-else"


async def test_a_failed_sign_in_leaves_the_session_alone(world):
    assert (await world.owner.sign_in("wrong")).status == 401
    assert await is_in(world.owner)


async def test_a_session_ends_unused(world):
    world.clock.advance(seconds=IDLE_S - 1)
    assert await is_in(world.owner)  # which is a use
    world.clock.advance(seconds=IDLE_S - 1)
    assert await is_in(world.owner)
    assert not await is_in(world.finance)
    world.clock.advance(seconds=IDLE_S)
    assert not await is_in(world.owner)


async def test_a_session_ends_at_its_age_however_much_it_is_used(world):
    for _ in range(LIFETIME_S // 3600):
        assert await is_in(world.owner)
        world.clock.advance(hours=1)
    assert not await is_in(world.owner)


async def test_sessions_that_are_over_are_deleted_by_the_next_sign_in(world):
    world.clock.advance(seconds=IDLE_S)
    await (await world.stranger()).sign_in(world.admin_keys["owner"])
    assert len(stored(world)) == 1


async def test_of_one_key_the_newest_fifty_sessions_stay(world):
    for _ in range(55):
        stranger = await world.stranger()
        world.clock.advance(milliseconds=1)
        assert (await stranger.sign_in(world.keys["ada"])).status == 303
    assert len(stored(world, "SELECT id FROM sessions WHERE kind = 'creator'")) == 50
    assert await is_in(stranger)
    assert not await is_in(world.creator("ada"))
    assert await is_in(world.owner)


async def revoke_admin(world: World, role: str) -> None:
    with closing(sqlite3.connect(world.gateway.path)) as connection, connection:
        connection.execute("UPDATE admin_keys SET revoked_at = 1 WHERE role = ?", (role,))


async def test_a_revoked_admin_key_ends_its_sessions_at_once(world):
    assert await is_in(world.support)
    await revoke_admin(world, "support")
    assert not await is_in(world.support)
    assert await is_in(world.owner)


async def test_another_role_counts_from_the_next_page_on(world):
    assert "owner" in (await world.owner.get(HOME)).words
    with closing(sqlite3.connect(world.gateway.path)) as connection, connection:
        connection.execute("UPDATE admin_keys SET role = 'support' WHERE role = 'owner'")
    page = await world.owner.get(HOME)
    assert "Explore" not in page.links
    assert "Creators" in page.links


@pytest.mark.parametrize("how", ["revoke", "pause", "deactivate", "delete"])
async def test_a_virtual_key_that_is_no_good_any_more_ends_its_sessions_at_once(world, how):
    ada = world.creator("ada")
    assert await is_in(ada)
    keys = await world.admin_api("GET", "/admin/creators/ada/keys")
    key_id = keys["data"][0]["id"]
    if how == "revoke":
        await world.admin_api("DELETE", f"/admin/keys/{key_id}")
    elif how == "pause":
        await world.admin_api("POST", f"/admin/keys/{key_id}/pause")
    elif how == "deactivate":
        await world.admin_api("PATCH", "/admin/creators/ada", json={"is_active": False})
    else:
        await world.owner.api("DELETE", "/admin/creators/ada", world.admin_keys["owner"])
    assert not await is_in(ada)


# What is written down


async def test_what_admins_do_here_is_in_the_audit_log_and_creators_are_not(world):
    before = audit_rows(world)
    assert len(before) == 6  # three admins, a row before and one after
    await world.creator("ada").post("/dashboard/sign-out")
    await (await world.stranger()).sign_in("wrong")
    assert audit_rows(world) == before
    await world.finance.post("/dashboard/sign-out")
    asked, done = audit_rows(world)[6:]
    assert asked[0] == "asked"
    assert done[0] == "done"
    assert (asked[4], done[4]) == (0, 303)
    assert asked[2:4] == done[2:4] == ("finance", "POST /dashboard/sign-out")
    assert asked[5] == "192.0.2.1"


async def test_where_the_audit_log_cannot_be_written_no_admin_gets_in(world):
    with closing(sqlite3.connect(world.gateway.path)) as connection, connection:
        connection.execute("CREATE TRIGGER full BEFORE INSERT ON audit_log BEGIN SELECT RAISE(ABORT, 'full'); END")
    before = stored(world)
    stranger = await world.stranger()
    answer = await stranger.sign_in(world.admin_keys["owner"])
    assert answer.status == 503
    assert "set-cookie" not in answer.headers
    assert stored(world) == before


async def test_the_log_says_who_came_and_went_and_never_a_key(world):
    stranger = await world.stranger()
    with capture_logs() as logs:
        await stranger.sign_in(world.keys["ada"])
        token = stranger.token
        await stranger.post("/dashboard/sign-out")
    told = [(line["event"], line.get("creator")) for line in logs if line["event"].startswith("signed_")]
    assert told == [("signed_in", "ada"), ("signed_out", "ada")]
    assert world.keys["ada"] not in str(logs)
    assert token not in str(logs)
