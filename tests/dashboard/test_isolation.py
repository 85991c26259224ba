"""A creator can in no way see or change another's data, nor anything of an admin's: every route there is, tried.

Ada has one of everything; Bo asks for it by its ids, with its key and with its session. What it is answered is, byte for
byte, what it is answered for ids that nobody has, nothing of Ada's stands in it, and Ada's state is the same afterwards.
A route that `OWNED`, `SHARED` and `OPEN` do not know fails here, unless it is an admin's, which Bo never reaches at all.
"""

import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from starlette.routing import Route
from structlog.testing import capture_logs

from gateway.app import MODEL_PATHS, public_routes
from tests.dashboard.served import Served, served
from tests.dashboard.world import opened_dashboard

WORDS = "words-that-only-ada-said"
PICTURE = "a-picture-that-only-ada-has"
METHODS = ("GET", "POST", "PATCH", "DELETE")
"""What is tried where a route takes any method."""

OWNED = {
    "/v1/me/calls/{request_id}": {"request_id": "chat"},
    "/v1/responses/{response_id}": {"response_id": "response"},
    "/v1/responses/{response_id}/cancel": {"response_id": "response"},
    "/v1/responses/{response_id}/input_items": {"response_id": "response"},
    "/v1/conversations/{conversation_id}": {"conversation_id": "conversation"},
    "/v1/conversations/{conversation_id}/items": {"conversation_id": "conversation"},
    "/v1/conversations/{conversation_id}/items/{item_id}": {"conversation_id": "conversation", "item_id": "item"},
    "/v1/generations/{id}": {"id": "generation"},
    "/v1/generations/{id}/select": {"id": "generation"},
    "/dashboard/me/calls/{request_id}": {"request_id": "chat"},
    "/dashboard/me/images/{id}/select": {"id": "generation"},
    "/assets/{id}": {"id": "asset"},
}
"""Routes whose path names something of a creator's, and what of Ada's each parameter is."""

SHARED: Mapping[str, tuple[str, ...]] = {
    "/v1/models": (),
    "/v1/models/{name:path}": (),
    "/v1/providers": (),
    "/v1/me": (),
    "/v1/me/usage": (),
    "/v1/me/calls": (),
    "/v1/me/credits": (),
    "/v1/estimate": (),
    "/v1/messages/count_tokens": (),
    "/v1/responses/input_tokens": (),
    "/v1/conversations": (),
    "/v1/generations": ("?request_id={image}", "?after={generation}"),
    "/dashboard/me": (),
    "/dashboard/me/calls": (),
    "/dashboard/me/images": ("?after={generation}",),
    "/dashboard/me/playground": (),
    "/dashboard/me/playground/chat": (),
    "/dashboard/me/playground/images": (),
    "/dashboard/export/me/usage": (),
    "/dashboard/export/me/calls": (),
    "/dashboard/export/me/images": ("?request_id={image}",),
}
"""Routes that answer every creator about itself, or all alike, and the queries by which they could be asked for Ada's."""

OPEN = (
    "/health/",
    "/metrics",
    "/dashboard/static/",
    "/dashboard/sign-in",
    "/dashboard/sign-out",
    "/docs",
    "/openapi.json",
)
"""Where nothing of anybody's is."""

BODIES = (
    {"model": "talk", "input": "hi", "previous_response_id": "{response}"},
    {"model": "talk", "input": "hi", "conversation": "{conversation}"},
    {"model": "talk", "input": [{"type": "item_reference", "id": "{item}"}]},
)
"""What may name another's things in the body of a call of `/v1/responses`."""


@dataclass
class Pair:
    """Ada's things by name, and Bo who asks for them."""

    found: Served
    ids: Mapping[str, str]
    bo: httpx.AsyncClient
    """With a session."""

    @property
    def marks(self) -> list[str]:
        """What stands in no answer to Bo."""
        return [*self.ids.values(), WORDS, PICTURE, self.found.world.keys["ada"]]

    @property
    def key(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.found.world.keys['bo']}"}

    async def ask(self, method: str, path: str, *, session: bool, body: Any = None) -> httpx.Response:
        headers = {} if session else self.key
        return await self.bo.request(
            method, path, headers=headers, json={} if body is None and method == "POST" else body
        )

    async def state(self) -> dict[str, Any]:
        """Everything of Ada's, as Ada and an admin see it."""
        key, ids = self.found.world.keys["ada"], self.ids
        shown = {}
        for path in (
            "/v1/me",
            "/v1/me/usage?group_by=day,model,feature",
            "/v1/me/calls",
            "/v1/me/credits",
            "/v1/generations",
            f"/v1/conversations/{ids['conversation']}",
            f"/v1/conversations/{ids['conversation']}/items",
            f"/v1/responses/{ids['response']}",
            f"/v1/responses/{ids['response']}/input_items",
        ):
            answer = await self.found.world.owner.api("GET", path, key)
            assert answer.status_code == 200, (path, answer.text)
            shown[path] = _timeless(answer.json())
        for path in ("/admin/creators/ada", "/admin/creators/ada/keys", "/admin/creators/ada/limits"):
            shown[path] = _timeless(await self.found.world.admin_api("GET", path))
        return shown


@asynccontextmanager
async def opened_pair(folder: Path) -> AsyncIterator[Pair]:
    async with opened_dashboard(folder, has_calls=False) as world, served(world) as found:
        await world.admin_api("POST", "/admin/creators/ada/credits", json={"credits": 70})
        await world.call("bo", text="what Bo said")
        async with found.visitor() as ada, found.visitor(world.keys["bo"]) as bo:
            ada.headers["authorization"] = f"Bearer {world.keys['ada']}"
            yield Pair(found, await things_of(ada, world.keys["ada"]), bo)


async def things_of(ada: httpx.AsyncClient, key: str) -> dict[str, str]:
    """One of everything that a creator can have, by the API."""

    async def made(path: str, body: dict[str, Any]) -> tuple[Any, str]:
        answer = await ada.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json(), answer.headers["x-request-id"]

    message = {"role": "user", "content": WORDS}
    _, chat = await made("/v1/chat/completions", {"model": "talk", "messages": [message]})
    images, image = await made(
        "/v1/images/generations", {"model": "painter", "prompt": PICTURE, "response_format": "url"}
    )
    conversation, _ = await made("/v1/conversations", {"items": [{"type": "message", **message}]})
    response, _ = await made("/v1/responses", {"model": "talk", "input": WORDS})
    items = (await ada.get(f"/v1/conversations/{conversation['id']}/items")).json()
    generations = (await ada.get("/v1/generations")).json()
    return {
        "chat": chat,
        "image": image,
        "conversation": conversation["id"],
        "item": items["data"][0]["id"],
        "response": response["id"],
        "generation": generations["data"][0]["id"],
        "asset": images["data"][0]["url"].split("/assets/")[1].split("?")[0],
        "key": key.split("-")[2],
    }


def nobodys(ids: Mapping[str, str]) -> dict[str, str]:
    """Ids of the same form that nobody has."""
    return {name: f"{known[:-1]}{'0' if known[-1] != '0' else '1'}" for name, known in ids.items()}


def routes() -> Iterator[tuple[str, str]]:
    """Every method and path that the gateway answers, the paths with their parameters."""
    for route in public_routes():
        assert isinstance(route, Route), f"{route} cannot be looked into: have this test know it"
        for method in sorted(route.methods or METHODS):
            if method != "HEAD":
                yield method, route.path
    for path in MODEL_PATHS:
        yield "POST", path


def is_admins(path: str) -> bool:
    """What Bo never reaches: the admin API, and every page that is not a creator's own."""
    if path.startswith("/admin/"):
        return True
    is_page = path == "/dashboard" or path.startswith("/dashboard/")
    return is_page and path not in OWNED and path not in SHARED and not path.startswith(OPEN)


def filled(path: str, ids: Mapping[str, str]) -> str:
    for parameter, name in OWNED[path].items():
        path = path.replace(f"{{{parameter}}}", ids[name])
    return path


def seen(answer: httpx.Response, ids: Mapping[str, str]) -> tuple[int, bytes, dict[str, str]]:
    """What tells one answer from another, apart from the id that was asked for and those of the request itself."""
    body = answer.content
    for known in ids.values():
        body = body.replace(known.encode(), b"ID")
    varies = ("date", "x-request-id", "content-length", "x-ratelimit-reset-requests", "x-ratelimit-reset-tokens")
    return answer.status_code, body, {name: value for name, value in answer.headers.items() if name not in varies}


def test_every_route_is_known_here() -> None:
    unknown = [
        (method, path)
        for method, path in routes()
        if path not in OWNED
        and path not in SHARED
        and path not in MODEL_PATHS
        and not path.startswith(OPEN)
        and not is_admins(path)
    ]
    assert unknown == []
    known = {path for _, path in routes()}
    assert [path for path in (*OWNED, *SHARED) if path not in known] == []


async def test_ids_of_another_creator_are_ids_that_nobody_has(tmp_path: Path) -> None:
    async with opened_pair(tmp_path) as pair:
        before, others = await pair.state(), nobodys(pair.ids)
        tried = 0
        for method, path in routes():
            if path not in OWNED:
                continue
            body = {"items": [{"type": "message", "role": "user", "content": "mine now"}]} if method == "POST" else None
            if not path.endswith("/items"):
                body = None
            for session in (False, True):
                answer = await pair.ask(method, filled(path, pair.ids), session=session, body=body)
                missing = await pair.ask(method, filled(path, others), session=session, body=body)
                assert seen(answer, pair.ids) == seen(missing, others), (method, path, session)
                assert not answer.is_success, (method, path, session, answer.text)
                tried += 1
        assert tried >= 2 * len(OWNED)
        assert await pair.state() == before


async def test_an_item_of_another_s_conversation_is_not_in_one_s_own(tmp_path: Path) -> None:
    async with opened_pair(tmp_path) as pair:
        before, others = await pair.state(), nobodys(pair.ids)
        own = (await pair.ask("POST", "/v1/conversations", session=False)).json()["id"]
        for method in ("GET", "DELETE"):
            answers = [
                await pair.ask(method, f"/v1/conversations/{own}/items/{ids['item']}", session=False)
                for ids in (pair.ids, others)
            ]
            assert answers[0].status_code == 404
            assert seen(answers[0], pair.ids) == seen(answers[1], others)
        after = [
            await pair.ask("GET", f"/v1/conversations/{own}/items?after={ids['item']}", session=False)
            for ids in (pair.ids, others)
        ]
        assert seen(after[0], pair.ids) == seen(after[1], others)
        assert await pair.state() == before


async def test_calls_cannot_go_on_with_what_another_creator_said(tmp_path: Path) -> None:
    async with opened_pair(tmp_path) as pair:
        before, others = await pair.state(), nobodys(pair.ids)
        for path in ("/v1/responses", "/v1/responses/input_tokens"):
            for template in BODIES:
                answers = []
                for ids in (pair.ids, others):
                    body = {**template}
                    for name, known in ids.items():
                        body = {field: _named(value, name, known) for field, value in body.items()}
                    answers.append(await pair.ask("POST", path, session=False, body=body))
                assert not answers[0].is_success, (path, template, answers[0].text)
                shown = [seen(answer, ids) for answer, ids in zip(answers, (pair.ids, others), strict=True)]
                assert shown[0][:2] == shown[1][:2], (path, template)
        assert await pair.state() == before


async def test_what_answers_everybody_tells_nothing_of_another(tmp_path: Path) -> None:
    async with opened_pair(tmp_path) as pair:
        before, others = await pair.state(), nobodys(pair.ids)
        for method, path in routes():
            if path not in SHARED and path not in MODEL_PATHS:
                continue
            for session in (False, True):
                plain = path.replace("{name:path}", "talk")
                answer = await pair.ask(method, plain, session=session)
                assert_nothing_of(answer, pair.marks)
                for query in SHARED.get(path, ()):
                    asked = await pair.ask(method, plain + query.format(**pair.ids), session=session)
                    missing = await pair.ask(method, plain + query.format(**others), session=session)
                    assert seen(asked, pair.ids)[:2] == seen(missing, others)[:2], (method, path, query)
        assert await pair.state() == before


async def test_nobody_is_another_creator_by_saying_so(tmp_path: Path) -> None:
    """Whether there is a creator of the name is not told either."""
    async with opened_pair(tmp_path) as pair:
        before = await pair.state()
        for path in ("/v1/me", "/v1/me/calls", "/v1/generations", f"/v1/responses/{pair.ids['response']}"):
            answers = [
                await pair.bo.get(path, headers={**pair.key, "x-gateway-creator": name}) for name in ("ada", "ida")
            ]
            assert [answer.status_code for answer in answers] == [403, 403]
            assert answers[0].content == answers[1].content
        # What a page is asked for is the signed-in creator's, whatever stands in headers.
        page = await pair.bo.get("/dashboard/me/calls", headers={"x-gateway-creator": "ada"})
        assert page.status_code == 200
        assert_nothing_of(page, pair.marks)
        assert await pair.state() == before


async def test_a_creator_reaches_nothing_of_an_admin_s(tmp_path: Path) -> None:
    async with opened_pair(tmp_path) as pair:
        before, stranger = await pair.state(), await pair.found.world.stranger()
        with capture_logs() as logs:
            for method, path in routes():
                if not is_admins(path):
                    continue
                for creator, ids in (("ada", pair.ids), ("ida", nobodys(pair.ids))):
                    asked = _of_admins(path, creator, ids)
                    if path.startswith("/admin/"):
                        for session in (False, True):
                            answer = await pair.ask(method, asked, session=session)
                            assert answer.status_code == 401, (method, path, answer.text)
                    else:
                        answer = await pair.ask(method, asked, session=True)
                        if asked.rstrip("/") == "/dashboard":
                            assert answer.headers["location"] == "/dashboard/me"
                        else:
                            assert answer.status_code == 403, (method, path, answer.text)
                            assert "admins_only" in answer.text
                        refused = await stranger.http.request(method, asked, headers={"origin": stranger.origin})
                        assert refused.headers["location"].partition("?")[0] == "/dashboard/sign-in", (method, path)
        routed = [line["route"] for line in logs if line["event"] == "request_finished"]
        assert routed
        assert set(routed) == {""}, "a handler was reached"
        assert await pair.state() == before


async def test_a_session_is_no_key(tmp_path: Path) -> None:
    """Neither in the header of a key nor as the cookie that it is, and an admin's is no creator's."""
    async with opened_pair(tmp_path) as pair, pair.found.visitor(pair.found.world.admin_keys["owner"]) as owner:
        for visitor in (pair.bo, owner):
            token = visitor.cookies["gateway_session"]
            for path in ("/v1/me", "/v1/models", "/admin/creators", "/admin/admin-keys"):
                for headers in (
                    {"authorization": f"Bearer {token}"},
                    {"x-api-key": token},
                    {"cookie": f"gateway_session={token}"},
                ):
                    answer = await pair.bo.get(path, headers=headers)
                    assert answer.status_code == 401, (path, headers)
            chat = {"model": "talk", "messages": [{"role": "user", "content": "hi"}]}
            refused = await pair.bo.post(
                "/v1/chat/completions", json=chat, headers={"authorization": f"Bearer {token}"}
            )
            assert refused.status_code == 401
        for path in ("/dashboard/me", "/dashboard/me/calls", "/dashboard/export/me/calls"):
            refused = await owner.get(path)
            assert (refused.status_code, "creators_only" in refused.text) == (403, True)


async def test_ada_sees_on_her_pages_what_bo_does_not(tmp_path: Path) -> None:
    """Or the tests above would only say that nobody sees anything."""
    async with opened_pair(tmp_path) as pair, pair.found.visitor(pair.found.world.keys["ada"]) as ada:
        for path, mark in (
            ("/dashboard/me", pair.ids["chat"]),
            ("/dashboard/me/calls", pair.ids["chat"]),
            (f"/dashboard/me/calls/{pair.ids['chat']}", pair.ids["chat"]),
            ("/dashboard/me/images", PICTURE),
            ("/dashboard/export/me/calls", pair.ids["chat"]),
        ):
            answer = await ada.get(path)
            assert answer.status_code == 200, path
            assert mark in answer.text, path
        assert pair.found.lent == 0


def assert_nothing_of(answer: httpx.Response, marks: list[str]) -> None:
    shown = answer.text + repr(answer.headers)
    assert not [mark for mark in marks if mark in shown], (answer.request.url, shown[:2_000])


def _timeless(value: Any) -> Any:
    """Without when rolling windows are free again: that goes on by itself."""
    if isinstance(value, dict):
        return {name: _timeless(inner) for name, inner in value.items() if name not in ("reset_s", "resets_at")}
    return [_timeless(inner) for inner in value] if isinstance(value, list) else value


def _named(value: Any, name: str, known: str) -> Any:
    if isinstance(value, str):
        return value.replace(f"{{{name}}}", known)
    if isinstance(value, list):
        return [{field: _named(inner, name, known) for field, inner in item.items()} for item in value]
    return value


def _of_admins(path: str, creator: str, ids: Mapping[str, str]) -> str:
    """A path of an admin's with the things of `creator`. Who is let in is said before anybody looks at parameters."""
    values = {"request_id": ids["chat"], "key": ids["key"], "month": "2026-05"}
    if "/keys/" in path:
        values["id"] = ids["key"]
    return re.sub(r"\{(\w+)[^}]*\}", lambda found: values.get(found[1], creator), path)
