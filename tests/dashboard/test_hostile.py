"""Creators, admins and strangers who mean harm: what one of them sends does not stop others, tells them nothing that is not
theirs, and takes nothing."""

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Message

from gateway.app import public_routes
from gateway.dashboard.render import render
from gateway.json_depth import DEPTH_MAX, is_too_deep
from tests.dashboard.world import SIGN_IN, Visitor, World, opened_dashboard
from tests.ledger.books import change, unprotect

SILENT_ABOUT = ("/dashboard/export/", "/dashboard/static/")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with opened_dashboard(tmp_path) as world:
        yield world


def pages_of(world: World, *, creators: bool) -> Iterator[str]:
    """Every page that is asked for by GET, of creators or of admins, with something that there is in its braces."""
    stands_for = {
        "id": "ada",
        "request_id": world.calls[0].request_id,
        "month": "2026-05",
        "plan": "open",
        "name": "talk",
    }
    for route in public_routes():
        if not (isinstance(route, Route) and route.path.startswith("/dashboard/") and "GET" in (route.methods or ())):
            continue
        if route.path.startswith(SILENT_ABOUT) or ("/dashboard/me" in route.path) is not creators:
            continue
        yield re.sub(r"{(\w+)(:\w+)?}", lambda found: stands_for.get(found[1], "nobody"), route.path)


# What others have to read


def nested(depth: int) -> dict[str, Any]:
    value: Any = "x"
    for _ in range(depth - 1):
        value = [value]
    return {"a": value}


async def test_metadata_that_no_answer_could_hold_is_refused(world: World) -> None:
    for depth in (DEPTH_MAX + 1, 200, 253):
        answer = await world.call("ada", metadata=nested(depth))
        assert (answer.status, answer.code) == (400, "invalid_value")
    assert (await world.call("ada", metadata=nested(DEPTH_MAX))).status == 200
    deep = {"metadata": nested(DEPTH_MAX + 1)}
    answer = await world.owner.api("PATCH", "/admin/creators/ada", world.admin_keys["owner"], json=deep)
    assert answer.status_code == 400
    for visitor, path in ((world.owner, "/dashboard/calls"), (world.support, "/dashboard/calls")):
        assert (await visitor.get(path)).status == 200


async def test_an_entry_with_such_metadata_does_not_hide_the_others(world: World) -> None:
    text = '{"a":' + "[" * 253 + "]" * 253 + "}"
    unprotect(world.gateway.path)
    change(world.gateway.path, "UPDATE entries SET metadata = ?", text)
    for visitor, path in (
        (world.owner, "/dashboard/calls"),
        (world.owner, f"/dashboard/calls/{world.calls[0].request_id}"),
        (world.owner, "/dashboard/creators/ada"),
        (world.owner, "/dashboard/export/ledger?format=ndjson"),
        (world.owner, "/dashboard/export/ledger"),
        (world.support, "/dashboard/calls"),
        (world.creator("ada"), "/dashboard/me"),
        (world.creator("ada"), "/dashboard/export/me/calls"),
    ):
        assert (await visitor.get(path)).status == 200, path


@pytest.mark.parametrize(
    ("text", "is_deep"),
    [
        ("", False),
        ("[" * DEPTH_MAX + "]" * DEPTH_MAX, False),
        ("[" * (DEPTH_MAX + 1) + "]" * (DEPTH_MAX + 1), True),
        ("[" + ",".join(["[]"] * 500) + "]", False),
        ('{"a":"' + "[" * 500 + '"}', False),
        ('{"a\\"' + "[" * 500 + '":1}', False),
        ('{"\\\\":' * 65 + "1" + "}" * 65, True),
    ],
)
def test_depth_is_that_of_brackets_outside_of_texts(text: str, is_deep: bool) -> None:
    assert is_too_deep(text) is is_deep


# What calls would have to wait for


async def test_a_page_is_written_on_another_thread(world: World) -> None:
    seen: list[int] = []

    class Sentence:
        def __str__(self) -> str:
            seen.append(threading.get_ident())
            return "a sentence"

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError("nothing is read")

    scope: dict[str, Any] = {
        "type": "http",
        "method": "GET",
        "path": "/dashboard/x",
        "query_string": b"",
        "headers": [],
    }
    values = {"sentence": Sentence(), "action": "/x", "button": "b", "back": "/y"}
    await render(Request(scope), "confirm.html", title="A page", **values)(scope, receive, send)
    assert seen
    assert threading.get_ident() not in seen
    body = sent[1]["body"]
    assert b"a sentence" in body
    assert dict(sent[0]["headers"])[b"content-length"] == str(len(body)).encode()


# Money


async def test_support_is_not_told_who_is_near_a_limit_of_money(world: World) -> None:
    for path in ("/admin/standing?sort=name&state=near_limit", "/admin/standing?state=near%5Flimit&sort=name"):
        answer = await world.owner.api("GET", path, world.admin_keys["support"])
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "role_not_allowed")
    assert (await world.support.get("/dashboard/creators?state=near_limit")).status == 403
    assert (await world.owner.get("/dashboard/creators?state=near_limit")).status == 200
    assert (await world.support.get("/dashboard/creators?state=downgraded")).status == 200


async def test_no_page_of_support_has_an_amount_of_money(world: World) -> None:
    seen = 0
    for path in pages_of(world, creators=False):
        page = await world.support.get(path)
        assert page.status in (200, 303, 403), path
        assert not re.search(r"\$\s?\d|\bUSD\b.*\d", page.words), (path, page.words)
        seen += page.status == 200
    assert seen > 6


async def test_looking_takes_nothing(world: World) -> None:
    async def state() -> list[Any]:
        tables = [world.gateway.entries("id", kind=kind) for kind in ("usage", "grant", "adjustment", "refund")]
        limits = await world.gateway.limits(world.keys["ada"])
        used = {name: {key: limit[key] for key in ("used", "held", "limit")} for name, limit in limits.items()}
        return [tables, used]

    before = await state()
    for path in pages_of(world, creators=False):
        assert (await world.owner.get(path)).status < 500
    for path in pages_of(world, creators=True):
        assert (await world.creator("ada").get(path)).status < 500
    fields = {"model": "talk", "endpoint": "chat", "creator": "ada", "tokens": "1000", "max_tokens": "50"}
    assert (await world.owner.post("/dashboard/estimate", fields)).status == 200
    rehearsed = await world.owner.get("/dashboard/policies/open?days=7&requests_per_hour=1")
    assert rehearsed.status == 200
    assert await state() == before


# Paths


TRICKS = (
    "//dashboard/overview",
    "/dashboard//overview",
    "/dashboard/./overview",
    "/dashboard/../admin/creators",
    "/dashboard/%2e%2e/admin/creators",
    "/dashboard/static/../overview",
    "/dashboard/static/../../admin/creators",
    "/dashboard/static//admin/creators",
    "/dashboard/sign-in/../overview",
    "/dashboard/sign-in/",
    "/dashboard/me/../overview",
    "/dashboard/me/..;/creators",
    "/Dashboard/overview",
    "/dashboard;/overview",
    "/dashboard/overview/",
    "/dashboard\\overview",
    "/dashboard/overview\x00",
    "/dashboardx",
    "/dashboard/export/../creators",
    "/dashboard/export/me/../costs",
    "/admin/../dashboard/overview",
    "/ADMIN/creators",
    "//admin/creators",
    "/admin//creators",
    "/v1/../admin/creators",
)


async def asked(
    visitor: Visitor, world: World, path: str, method: str, headers: Mapping[str, str]
) -> tuple[int, bytes]:
    """A path exactly as it stands: clients mend it before they send it."""
    sent: list[Message] = []
    cookie = [(b"cookie", f"gateway_session={visitor.token}".encode())] if visitor.token else []
    named = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"gateway.test"), (b"origin", b"http://gateway.test"), *cookie, *named],
        "client": ("192.0.2.1", 4711),
        "server": ("gateway.test", 80),
    }

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    await world.app(scope, receive, send)
    body = b"".join(message.get("body", b"") for message in sent if message["type"] == "http.response.body")
    return int(sent[0]["status"]), body


async def test_no_spelling_of_a_path_leads_past_the_guard(world: World) -> None:
    stranger = await world.stranger()
    pretended = {
        "x-http-method-override": "GET",
        "x-original-url": "/dashboard/overview",
        "x-rewrite-url": "/admin/creators",
    }
    for path in TRICKS:
        for visitor in (stranger, world.creator("bo")):
            for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE"):
                status, body = await asked(visitor, world, path, method, pretended)
                assert status in (303, 400, 401, 403, 404, 405), (path, method, status)
                assert b"ada" not in body, (path, method)


async def test_a_session_is_no_key_of_the_api(world: World) -> None:
    for path in ("/admin/creators", "/admin/whoami", "/v1/me", "/v1/models"):
        status, _ = await asked(world.owner, world, path, "GET", {})
        assert status == 401, path
    for token in (world.owner.token, world.creator("ada").token):
        answer = await world.owner.api("GET", "/admin/whoami", token)
        assert answer.status_code == 401
        assert (await (await world.stranger()).post(SIGN_IN, {"key": token})).status == 401


async def test_nobody_has_more_than_a_few_pages_made_at_once(world: World) -> None:
    ada, paths = world.creator("ada"), ["/dashboard/me"] * 40
    async with asyncio.timeout(30):
        pages = await asyncio.gather(*map(ada.get, paths), world.creator("bo").get("/dashboard/me"))
    statuses = [page.status for page in pages]
    assert set(statuses[:-1]) == {200, 429}
    assert statuses[-1] == 200
    refused = next(page for page in pages if page.status == 429)
    assert refused.headers["retry-after"] == "1"
    assert "rate_limit_exceeded" in refused.words
    assert (await ada.get("/dashboard/me")).status == 200


async def test_the_ends_of_the_calendar_are_days_like_others(world: World) -> None:
    for first, after in (("0001-01-01", "0001-01-02"), ("0001-01-01", "0001-02-01"), ("9999-12-30", "9999-12-31")):
        for page in ("overview", "explore"):
            assert (await world.owner.get(f"/dashboard/{page}?from={first}&to={after}")).status == 200, (page, first)
