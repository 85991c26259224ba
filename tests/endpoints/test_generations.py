"""`/v1/generations` and `/assets/{id}` over ASGI: real keys, real files, and nobody sees what is not theirs."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from starlette.applications import Starlette

from gateway.assets.folder import FolderStore
from gateway.endpoints import EXCEPTION_HANDLERS, assets, generations
from gateway.endpoints.guard import CreatorOnly
from policies.types import Account
from tests.kept_world import BASE, NOON_S, TTL_S, KeptWorld, b64, open_kept_world, png


class Seen:
    """Two creators and a stranger with one gateway's routes in front of them."""

    def __init__(self, kept: KeptWorld, public: httpx.AsyncClient) -> None:
        self.kept = kept
        self.public = public
        """Sends no key."""
        self.accounts: dict[str, Account] = {}
        self.keys: dict[str, str] = {}

    async def join(self, creator: str) -> None:
        key = await self.kept.world.new_key(creator)
        self.keys[creator] = key["key"]
        self.accounts[creator] = await self.kept.world.account(key)

    async def make(self, images: int = 1, creator: str = "acme", **fields: Any) -> str:
        """A call that was answered with so many images; its request id."""
        self.kept.world.clock.now_s += 1
        pictures = [b64(png(100 + number)) for number in range(images)]
        return (await self.kept.keep(pictures, account=self.accounts[creator], **fields))[0]

    async def get(self, path: str, who: str = "acme", **params: Any) -> httpx.Response:
        return await self.public.get(path, params=params or None, headers=self._as(who))

    async def post(self, path: str, creator: str = "acme", **how: Any) -> httpx.Response:
        return await self.public.post(path, headers=self._as(creator), **how)

    async def listed(self, creator: str = "acme", **params: Any) -> list[dict[str, Any]]:
        answer = await self.get("/v1/generations", creator, **params)
        assert answer.status_code == 200, answer.text
        return list(answer.json()["data"])

    def _as(self, creator: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.keys[creator]}"}


async def no_windows(account: Account) -> list[tuple[bytes, bytes]]:
    return []


@asynccontextmanager
async def opened(folder: Path, **how: Any) -> AsyncIterator[Seen]:
    async with AsyncExitStack() as stack:
        kept = await stack.enter_async_context(open_kept_world(folder, **how))
        closed = Starlette(routes=generations.routes, exception_handlers=EXCEPTION_HANDLERS)
        closed.add_middleware(CreatorOnly)
        open_ = Starlette(routes=assets.routes, exception_handlers=EXCEPTION_HANDLERS)
        for app in (closed, open_):
            app.state.kept_images = kept.kept
            app.state.database = kept.world.database
            app.state.authenticator = kept.world.authenticator
            app.state.window_headers = no_windows

        async def app_by_path(scope: Any, receive: Any, send: Any) -> None:
            await (open_ if scope["path"].startswith("/assets") else closed)(scope, receive, send)

        transport = httpx.ASGITransport(app_by_path)
        client = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url=BASE))
        seen = Seen(kept, client)
        await seen.join("acme")
        await seen.join("other")
        yield seen


@pytest.fixture
async def seen(tmp_path: Path) -> AsyncIterator[Seen]:
    async with opened(tmp_path) as seen:
        yield seen


# The list


async def test_a_generation_says_what_was_made_and_where_it_is(seen: Seen) -> None:
    request_id = await seen.make(prompt="a red fox", size="512x512")
    (shown,) = await seen.listed()
    url = shown.pop("url")
    assert shown.pop("id").startswith("gen_")
    assert shown == {
        "object": "generation",
        "created_at": int(NOON_S) + 1,
        "request_id": request_id,
        "index": 0,
        "endpoint": "images",
        "model": "painter",
        "provider": "mock",
        "prompt": "a red fox",
        "revised_prompt": None,
        "size": "512x512",
        "quality": "standard",
        "selected": False,
        "url_expires_at": int(NOON_S) + 1 + TTL_S,
        "content_type": "image/png",
        "bytes": 100,
    }
    assert (await seen.public.get(url)).content == png(100)


async def test_an_image_that_is_not_kept_has_no_url(seen: Seen) -> None:
    await seen.make(response_format="b64_json")
    (shown,) = await seen.listed()
    assert [shown[name] for name in ("url", "url_expires_at", "content_type", "bytes")] == [None] * 4


async def test_without_a_store_nothing_has_a_url_any_more(tmp_path: Path) -> None:
    async with opened(tmp_path) as seen:
        await seen.make()
        rows = await seen.kept.assets()
        link = seen.kept.kept.links.make(rows[0]["id"], seen.kept.world.clock.now_s).url
        seen.kept.kept.library._store = None
        assert [shown["url"] for shown in await seen.listed()] == [None]
        assert (await seen.public.get(link)).status_code == 404


async def test_pages_are_newest_first_and_hold_every_image_once(seen: Seen) -> None:
    for number in range(4):
        await seen.make(images=2, prompt=f"p{number}")
    await seen.make(creator="other")
    pages, after = [], None
    while True:
        answer = (await seen.get("/v1/generations", limit=3, **({"after": after} if after else {}))).json()
        assert answer["object"] == "list"
        assert (answer["first_id"], answer["last_id"]) == (answer["data"][0]["id"], answer["data"][-1]["id"])
        pages.append([(shown["prompt"], shown["index"]) for shown in answer["data"]])
        if not answer["has_more"]:
            break
        after = answer["last_id"]
    assert [len(page) for page in pages] == [3, 3, 2]
    assert [shown for page in pages for shown in page] == [
        (f"p{number}", index) for number in (3, 2, 1, 0) for index in (0, 1)
    ]


async def test_an_empty_list_is_a_list(seen: Seen) -> None:
    answer = await seen.get("/v1/generations")
    assert answer.json() == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


async def test_one_requests_images_can_be_asked_for(seen: Seen) -> None:
    wanted = await seen.make(images=2)
    theirs = await seen.make(creator="other")
    await seen.make()
    assert [shown["request_id"] for shown in await seen.listed(request_id=wanted)] == [wanted, wanted]
    assert await seen.listed(request_id=theirs) == []


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "101"}, "limit"),
        ({"limit": "x"}, "limit"),
        ({"after": "gen_1"}, "after"),
        ({"after": "' OR 1=1 --"}, "after"),
        ({"creator": "other"}, None),
    ],
)
async def test_a_query_that_is_not_understood_is_refused(seen: Seen, params: dict[str, str], param: str | None) -> None:
    answer = await seen.get("/v1/generations", **params)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


# The choice


async def test_exactly_one_image_of_a_request_is_selected(seen: Seen) -> None:
    await seen.make(images=3)
    other_request = await seen.make(images=2)
    ids = [shown["id"] for shown in await seen.listed()]
    kept_apart, three = ids[:2], ids[2:]
    await seen.post(f"/v1/generations/{kept_apart[1]}/select")
    for chosen in (three[0], three[2], three[2]):
        answer = await seen.post(f"/v1/generations/{chosen}/select", json={})
        assert answer.status_code == 200
        assert (answer.json()["id"], answer.json()["selected"]) == (chosen, True)
        selected = {shown["id"] for shown in await seen.listed() if shown["selected"]}
        assert selected == {chosen, kept_apart[1]}
    assert [shown["selected"] for shown in await seen.listed(request_id=other_request)] == [False, True]


async def test_a_choice_takes_no_fields(seen: Seen) -> None:
    await seen.make()
    (shown,) = await seen.listed()
    answer = await seen.post(f"/v1/generations/{shown['id']}/select", json={"selected": False})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "selected")


@pytest.mark.parametrize("path", ["/v1/generations/{}", "/v1/generations/{}/select"])
@pytest.mark.parametrize("whose", ["somebody else's", "nobody's", "nonsense"])
async def test_what_is_not_ones_own_does_not_exist(seen: Seen, path: str, whose: str) -> None:
    await seen.make(images=2, creator="other")
    (first, second) = await seen.listed("other")
    named = {"somebody else's": first["id"], "nobody's": "gen_0192f0c4-0000-7000-8000-000000000000"}.get(whose, "x'--")
    ask = seen.post if path.endswith("select") else seen.get
    answer = await ask(path.format(named))
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "generation_not_found")
    assert [shown["selected"] for shown in await seen.listed("other")] == [False, False]
    own = await seen.get(f"/v1/generations/{second['id']}", "other")
    assert own.json()["id"] == second["id"]


async def test_somebody_elses_image_is_no_page_to_go_on_from(seen: Seen) -> None:
    await seen.make(prompt="mine")
    await seen.make(creator="other", prompt="theirs")
    (theirs,) = await seen.listed("other")
    assert [shown["prompt"] for shown in await seen.listed(after=theirs["id"])] == ["mine"]


@pytest.mark.parametrize("path", ["/v1/generations", "/v1/generations/gen_x"])
async def test_without_a_key_there_is_nothing_to_see(seen: Seen, path: str) -> None:
    assert (await seen.public.get(path)).status_code == 401


# The image itself


async def url_of(seen: Seen) -> str:
    await seen.make()
    (shown,) = await seen.listed()
    return str(shown["url"])


async def test_an_image_is_served_without_a_key_and_as_nothing_but_an_image(seen: Seen) -> None:
    url = await url_of(seen)
    seen.kept.world.clock.now_s += 100
    answer = await seen.public.get(url)
    assert (answer.status_code, answer.content) == (200, png(100))
    headers = answer.headers
    assert headers["content-type"] == "image/png"
    assert headers["content-length"] == "100"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == f"private, max-age={TTL_S - 100}"
    assert headers["content-security-policy"] == "default-src 'none'; sandbox"


async def test_a_head_of_an_image_has_its_length_and_no_body(seen: Seen) -> None:
    answer = await seen.public.head(await url_of(seen))
    assert (answer.status_code, answer.headers["content-length"], answer.content) == (200, "100", b"")


async def test_an_expired_url_is_refused_as_such(seen: Seen) -> None:
    url = await url_of(seen)
    seen.kept.world.clock.now_s += TTL_S
    answer = await seen.public.get(url)
    assert answer.status_code == 403
    assert answer.json()["error"] == {
        "message": "This URL has expired: `GET /v1/generations` gives out new ones.",
        "type": "invalid_request_error",
        "param": None,
        "code": "url_expired",
    }


@pytest.mark.parametrize(
    "changed",
    [
        lambda url: url.partition("?")[0],
        lambda url: url.replace("signature=", "signature=0"),
        lambda url: url.replace("expires=1", "expires=2"),
        lambda url: url.replace("/assets/0", "/assets/1"),
        lambda url: f"{url}0",
        lambda url: f"{BASE}/assets/x?expires=9999999999&signature=",
    ],
)
async def test_a_url_that_was_changed_is_refused(seen: Seen, changed: Any) -> None:
    answer = await seen.public.get(changed(await url_of(seen)))
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "invalid_signature")


@pytest.mark.parametrize("path", ["/assets", "/assets/"])
async def test_assets_are_never_listed(seen: Seen, path: str) -> None:
    query = urlsplit(await url_of(seen)).query
    for url in (path, f"{path}?{query}"):
        answer = await seen.public.get(url)
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "not_found"


async def test_an_image_that_is_no_longer_kept_is_gone(seen: Seen) -> None:
    url = await url_of(seen)
    await seen.kept.kept.forget("acme")
    answer = await seen.public.get(url)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "asset_not_found")


async def test_a_store_that_cannot_be_read_is_a_503(tmp_path: Path) -> None:
    async with opened(tmp_path) as seen:
        url = await url_of(seen)
        unreadable = FolderStore(tmp_path / "assets")
        await unreadable.close()
        before, seen.kept.kept.library._store = seen.kept.kept.library._store, unreadable
        answer = await seen.public.get(url)
        seen.kept.kept.library._store = before
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "asset_unavailable")


async def test_an_image_can_be_posted_nowhere(seen: Seen) -> None:
    answer = await seen.public.post(await url_of(seen), content=b"x")
    assert answer.status_code == 405
