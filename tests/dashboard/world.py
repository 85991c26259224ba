"""A gateway inside the test's process with people who look at its pages: an admin of each role, and creators.

Everything is real but the server, the provider (the mock's) and the clock. Calls that creators made stand in the ledger;
`World.call` makes more. Signing in goes through the form, as a browser's would.

    async with opened_dashboard(tmp_path) as world:
        page = await world.owner.get("/dashboard/overview")
        assert page.rows("Top creators")[0][0] == "ada"
"""

import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import insert
from starlette.types import ASGIApp

from gateway.app import build_app
from gateway.ledger.schema import admin_keys
from gateway.roles import Role
from gateway.services import Services
from tests.clocked_gateway import Answer, Clock, ClockedGateway, opened, utc
from tests.dashboard.reading import Page, read_page

__all__ = ["HOST", "NOON", "SIGN_IN", "Page", "Visitor", "World", "new_admin", "opened_dashboard"]

HOST = "gateway.test"
NOON = utc(2026, 5, 20, 12)
SIGN_IN = "/dashboard/sign-in"
_ROLES: Sequence[Role] = ("owner", "finance", "support")


class Visitor:
    """Somebody with a browser, signed in or not. Follows no redirects: what an answer says is the test's affair."""

    def __init__(self, app: ASGIApp, *, origin: str = f"http://{HOST}", address: str = "192.0.2.1") -> None:
        self.origin = origin
        transport = httpx.ASGITransport(app, client=(address, 4711))
        self.http = httpx.AsyncClient(transport=transport, base_url=origin, trust_env=False, follow_redirects=False)

    async def get(self, path: str, **headers: str) -> Page:
        """`headers` by name, `_` for `-`."""
        return read_page(await self.http.get(path, headers=_named(headers)))

    async def head(self, path: str) -> Page:
        return read_page(await self.http.head(path))

    async def post(self, path: str, fields: Mapping[str, str] | None = None, **headers: str) -> Page:
        """As the browser sends a form of a page of this gateway: with its `Origin`."""
        sent = {"origin": self.origin, **_named(headers)}
        return read_page(await self.http.post(path, data=dict(fields or {}), headers=sent))

    async def api(self, method: str, path: str, key: str, **options: Any) -> httpx.Response:
        """The API itself, with a key in a header: what pages must agree with."""
        return await self.http.request(method, path, headers={"authorization": f"Bearer {key}"}, **options)

    async def sign_in(self, key: str) -> Page:
        return await self.post(SIGN_IN, {"key": key})

    @property
    def token(self) -> str:
        """What the session's cookie holds; empty without one."""
        return self.http.cookies.get("gateway_session") or ""


@dataclass
class World:
    gateway: ClockedGateway
    app: ASGIApp
    admin_keys: Mapping[Role, str]
    """The admin key of each role."""
    keys: dict[str, str]
    """The virtual key of each creator."""
    owner: Visitor
    finance: Visitor
    support: Visitor
    origin: str
    """Where visitors find the gateway: `GATEWAY_PUBLIC_URL` if it is set."""
    _creators: dict[str, Visitor]
    _stack: AsyncExitStack
    calls: list[Answer] = field(default_factory=list)
    """Every call that was made, the first first."""

    @property
    def services(self) -> Services:
        return self.gateway.services

    @property
    def clock(self) -> Clock:
        return self.gateway.clock

    def creator(self, name: str) -> Visitor:
        """Signed in with the virtual key of `name`."""
        return self._creators[name]

    def admin(self, role: Role) -> Visitor:
        return {"owner": self.owner, "finance": self.finance, "support": self.support}[role]

    async def stranger(self, **options: str) -> Visitor:
        """Nobody in particular; closed with the world."""
        return await self._stack.enter_async_context(_visiting(self.app, **{"origin": self.origin, **options}))

    async def new_creator(self, name: str, *, plan: str = "open", **overrides: Any) -> Visitor:
        self.keys[name] = await self.gateway.new_key(name, plan=plan, **overrides)
        self._creators[name] = await self.stranger()
        await _enter(self._creators[name], self.keys[name])
        return self._creators[name]

    async def call(self, creator: str, model: str = "talk", *, text: str = "hi", **fields: Any) -> Answer:
        """A chat, or images where the model makes some, by the creator's key."""
        key = self.keys[creator]
        if model.startswith(("painter", "premium", "standard", "gallery")):
            answer = await self.gateway.images(key, model, **fields)
        else:
            answer = await self.gateway.chat(key, model, text=text, **fields)
        self.calls.append(answer)
        return answer

    async def admin_api(self, method: str, path: str, role: Role = "owner", **options: Any) -> Any:
        """The JSON of the admin API, which is what pages must show."""
        answer = await self.owner.api(method, path, self.admin_keys[role], **options)
        assert answer.status_code < 400, answer.text
        return answer.json()


@asynccontextmanager
async def opened_dashboard(
    folder: Path,
    *,
    at: datetime = NOON,
    creators: Sequence[str] = ("ada", "bo"),
    has_calls: bool = True,
    signs_in: bool = True,
    models: str = "",
    **settings: Any,
) -> AsyncIterator[World]:
    """`creators` are on the plan `open` of `tests.clocked_gateway`; with `has_calls` each made a chat, and the first one an
    image as well. `settings` as in `gateway.config.Settings`."""
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(opened(folder, Clock(at), models=models, **settings))
        app = build_app(gateway.services)
        keys = {role: await new_admin(gateway.services, role) for role in _ROLES}
        # Over https the cookie would not go out again to anybody else.
        origin = str(settings.get("public_url") or f"http://{HOST}")
        visitors = {role: await stack.enter_async_context(_visiting(app, origin=origin)) for role in _ROLES}
        for role, visitor in visitors.items():
            if signs_in:
                await _enter(visitor, keys[role])
        owner, finance, support = visitors.values()
        world = World(gateway, app, keys, {}, owner, finance, support, origin, {}, stack)
        for name in creators:
            await world.new_creator(name)
            if has_calls:
                await world.call(name)
        if has_calls and creators:
            await world.call(creators[0], "painter")
        yield world


async def new_admin(services: Services, role: Role, name: str = "") -> str:
    """The key of a new admin, named like the role if nothing else is said."""
    key_id, key = secrets.token_hex(4), f"sk-gwadmin-{secrets.token_hex(4)}-{secrets.token_urlsafe(32)}"
    row = {
        "id": key_id,
        "digest": services.admin_authenticator.digest(key),
        "created_at": int(services.clock().timestamp() * 1000),
        "name": name or f"{role} of the tests",
        "role": role,
    }
    await services.database.write(insert(admin_keys).values(row))
    return key


async def _enter(visitor: Visitor, key: str) -> None:
    answer = await visitor.sign_in(key)
    assert answer.status == 303, answer.words


@asynccontextmanager
async def _visiting(app: ASGIApp, **options: str) -> AsyncIterator[Visitor]:
    visitor = Visitor(app, **options)
    async with visitor.http:
        yield visitor


def _named(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}
