"""What each role may do with the admin API, and the wrapper around every route that sees to it.

1. Whoever lacks the role is refused (403 `role_not_allowed`), and the handler is not asked. What `PERMISSIONS` does not name
   is the owner's alone.
2. What changes anything, and every export, is in the audit log before it is carried out, and again with its status. Where
   the log cannot be written, nothing is done.
3. What `support` is answered has no money in it, whatever the handler says.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from typing import Any
from urllib.parse import parse_qsl

import orjson
import structlog
from sqlalchemy import select
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.addresses import client_address
from gateway.audit import AuditLog
from gateway.calls import new_request_id
from gateway.endpoints.admin.audited_fields import ReadBody, details_of, read_ahead, target_of
from gateway.endpoints.admin.audited_targets import MAKES, target_asked, target_made
from gateway.endpoints.admin.without_money import without_money
from gateway.errors import RequestError, StoreError
from gateway.ledger.faults import RETRY_AFTER_S
from gateway.ledger.schema import virtual_keys
from gateway.roles import ROLES, Admin, Role

__all__ = ["PERMISSIONS", "guarded"]

Roles = frozenset[Role]

_ALL: Roles = frozenset(ROLES)
_MONEY: Roles = frozenset({"owner", "finance"})
_CARE: Roles = frozenset({"owner", "support"})

PERMISSIONS: Mapping[tuple[str, str], Roles] = {
    ("GET", "/admin/whoami"): _ALL,
    ("GET", "/admin/plans"): _ALL,
    ("GET", "/admin/policies"): _ALL,
    ("GET", "/admin/policies/{plan}/overrides"): _ALL,
    ("GET", "/admin/creators"): _ALL,
    ("GET", "/admin/creators/{id}"): _ALL,
    ("GET", "/admin/creators/{id}/keys"): _ALL,
    ("POST", "/admin/creators/{id}/keys"): _CARE,
    ("DELETE", "/admin/keys/{id}"): _CARE,
    ("POST", "/admin/keys/{id}/rotate"): _CARE,
    ("GET", "/admin/paused-keys"): _ALL,
    ("POST", "/admin/keys/{id}/pause"): _CARE,
    ("POST", "/admin/keys/{id}/resume"): _CARE,
    ("GET", "/admin/creators/{id}/limits"): _ALL,
    ("GET", "/admin/creators/{id}/refusals"): _ALL,
    ("GET", "/admin/standing"): _ALL,
    ("GET", "/admin/refusals"): _ALL,
    ("GET", "/admin/creators/{id}/credits"): _MONEY,
    ("GET", "/admin/credit-packages"): _MONEY,
    ("GET", "/admin/admin-keys"): _MONEY,
    ("GET", "/admin/audit"): _MONEY,
    ("GET", "/admin/ledger"): _ALL,
    ("GET", "/admin/ledger/{request_id}"): _ALL,
    ("GET", "/admin/costs"): _MONEY,
    ("GET", "/admin/charges"): _MONEY,
    ("GET", "/admin/charges/months"): _MONEY,
    ("POST", "/admin/estimate"): _MONEY,
    ("POST", "/admin/rehearsals"): _MONEY,
    ("GET", "/admin/models"): _MONEY,
    ("GET", "/admin/models/{name:path}"): _MONEY,
    ("GET", "/admin/prices/diff"): _MONEY,
    ("GET", "/admin/providers"): _ALL,
    ("GET", "/admin/status"): _ALL,
    ("GET", "/admin/providers/figures"): _ALL,
    ("GET", "/admin/cache"): _MONEY,
    ("DELETE", "/admin/cache"): _CARE,
    ("GET", "/admin/notices"): _ALL,
    ("GET", "/admin/anomalies"): _ALL,
    ("GET", "/admin/throttles"): _ALL,
    ("DELETE", "/admin/throttles/{creator}"): _CARE,
}
"""Method and path of a route -> who may use it. HEAD counts as GET."""

_CHANGES_NOTHING = frozenset({("POST", "/admin/estimate"), ("POST", "/admin/rehearsals")})
"""Questions too long for a query string: answered like a GET, and no more in the audit log than one."""
_EXPORTS = frozenset({"csv", "ndjson"})
_OWNERS_FIELDS: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("POST", "/admin/creators/{id}/keys"): ("overrides", "scopes", "default_plan"),
}
"""What `support` must leave empty: it decides on limits, on prices, or on whose money is spent."""
_ORDERS: Mapping[tuple[str, str], str] = {("GET", "/admin/standing"): "name"}
"""The one `sort` that says nothing of money. The cursor of any other holds an amount, too."""
_ROTATE = ("POST", "/admin/keys/{id}/rotate")
_BYTES_AT_ONCE = 64 * 1024
"""Of an answer that is rewritten while calls wait: a few milliseconds."""
_LEFT = 499
"""The status of an answer that nobody waited for."""

_log = structlog.get_logger()


def guarded(routes: Iterable[BaseRoute]) -> list[BaseRoute]:
    """The same routes, each behind its permissions and the audit log. Put them behind `AdminOnly`, which says who asks."""
    return [_guarded(route) for route in routes]


def _guarded(route: BaseRoute) -> BaseRoute:
    if not isinstance(route, Route):
        raise TypeError(f"{route!r} has no method and path that permissions could name")
    # A route is shared by all apps that are built, and stays as its module made it.
    made = copy(route)
    made.app = _Guarded(route.app, route.path)
    return made


class _Guarded:
    """Plain ASGI: one route with what its permissions ask for."""

    def __init__(self, app: ASGIApp, path: str) -> None:
        self._app = app
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises `RequestError` 403 and `StoreError`; the handler's own errors are answers by then."""
        admin: Admin = scope["state"]["admin"]
        route = ("GET" if scope["method"] == "HEAD" else scope["method"], self._path)
        query = _parameters(scope)
        forms = [value for name, value in query if name == "format" and value != "json"]
        export = next((form for form in forms if form in _EXPORTS), None)
        refusal = _refusal(admin, route) or _query_refusal(admin, route, query, forms)
        app = _WithoutMoney(self._app) if admin.role == "support" else self._app
        changes = route[0] != "GET" and route not in _CHANGES_NOTHING
        if not changes and export is None:
            if refusal is not None:
                raise refusal
            await app(scope, receive, send)
            return
        record = _Record.of(scope, admin, route, f" ({export})" if export else "", changes=changes)
        if refusal is not None:
            await record.write(status=refusal.status)
            raise refusal
        body = ReadBody()
        if changes:
            body, receive = await read_ahead(receive)
            record.target = await target_asked(scope, route, body)
        record.details = details_of(body, scope["query_string"])
        if admin.role == "support" and (refusal := await _form_refusal(scope, admin, route, body)) is not None:
            await record.write(status=refusal.status)
            raise refusal
        await record.write(phase="asked", status=0)
        await record.carry_out(app, scope, receive, send, ends_with_headers=changes)


class _Record:
    """The audit log's rows of one request."""

    def __init__(self, log: AuditLog | None, route: tuple[str, str], target: str, facts: Mapping[str, Any]) -> None:
        self._log = log
        self._route = route
        self._facts = facts
        self.target = target
        self.details: Mapping[str, Any] = {}
        self._status = 0
        self._is_done = False

    @classmethod
    def of(cls, scope: Scope, admin: Admin, route: tuple[str, str], form: str, *, changes: bool) -> "_Record":
        """Raises `StoreError` for a change where there is no log, because the database is open for reading only; whoever
        reads it so has the file, and an export tells nothing new."""
        state = scope["app"].state
        if state.audit is None:
            if changes:
                raise StoreError("The database is open for reading only.")
            return cls(None, route, "", {})
        peer = scope.get("client")
        facts = {
            "request_id": scope["state"].get("request_id") or new_request_id(),
            "admin": admin,
            "action": " ".join(route) + form,
            "address": client_address(peer[0] if peer else None, scope["headers"], state.trusted_proxies),
        }
        return cls(state.audit, route, target_of(scope["path_params"]), facts)

    async def write(self, *, phase: Any = "done", status: int) -> None:
        """Raises `StoreError` in words of its own: nothing was carried out yet."""
        if self._log is None:
            return
        try:
            await self._log.record(**self._facts, target=self.target, details=self.details, phase=phase, status=status)
        except StoreError as exc:
            raise StoreError(
                "The audit log cannot be written at the moment, so nothing was done.",
                headers={"retry-after": str(RETRY_AFTER_S)},
            ) from exc

    async def carry_out(
        self, app: ASGIApp, scope: Scope, receive: Receive, send: Send, *, ends_with_headers: bool
    ) -> None:
        """Lets `app` answer. The status is in the log when the client has the headers (`ends_with_headers`), or else when
        the answer has ended, and in any case when this returns or raises."""
        makes = self._log is not None and self._route in MAKES
        start: Message | None = None

        async def send_seen(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                self._status = message["status"]
                if makes and self._status == 201:
                    # What was made stands in the body, which such answers have in one piece.
                    start = message
                    return
                if ends_with_headers:
                    await self._finish()
            elif start is not None:
                self.target = target_made(self.target, self._route, message["body"])
                await self._finish()
                await send(start)
                start = None
            await send(message)

        try:
            await app(scope, receive, send_seen)
        except Exception:
            self._status = self._status or 500
            raise
        finally:
            self._status = self._status or _LEFT
            await self._finish()

    async def _finish(self) -> None:
        if self._is_done:
            return
        self._is_done = True
        try:
            await self.write(status=self._status)
        except StoreError as exc:
            # It is done, and the client must hear of it. The row that is there says that it was asked for.
            _log.error("audit_incomplete", request_id=self._facts["request_id"], status=self._status, error=repr(exc))


class _WithoutMoney:
    """Answers JSON without what is about money, and nothing that is no JSON."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start: Message | None = None
        body = bytearray()

        async def keep(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
            elif message["type"] == "http.response.body":
                body.extend(message.get("body", b""))

        await self._app(scope, receive, keep)
        if start is None:
            raise RuntimeError("a route of the admin API did not answer")
        headers = [(name, value) for name, value in start["headers"] if name != b"content-length"]
        if dict(headers).get(b"content-type") != b"application/json":
            raise RuntimeError("what is no JSON cannot be answered without what is about money")
        shown = await asyncio.to_thread(_shown, body) if len(body) > _BYTES_AT_ONCE else _shown(body)
        headers.append((b"content-length", str(len(shown)).encode()))
        await send({**start, "headers": headers})
        await send({"type": "http.response.body", "body": shown})


def _shown(body: bytearray) -> bytes:
    return orjson.dumps(without_money(orjson.loads(body)))


def _parameters(scope: Scope) -> list[tuple[str, str]]:
    query = scope["query_string"]
    return parse_qsl(query.decode("latin-1"), keep_blank_values=True) if query else []


def _refusal(admin: Admin, route: tuple[str, str]) -> RequestError | None:
    allowed = PERMISSIONS.get(route, frozenset({"owner"}))
    if admin.role == "owner" or admin.role in allowed:
        return None
    needed = " or ".join(f"`{role}`" for role in ROLES if role in allowed or role == "owner")
    return _not_allowed(f"This needs an admin key with the role {needed}; yours has `{admin.role}`.")


def _query_refusal(
    admin: Admin, route: tuple[str, str], query: Sequence[tuple[str, str]], forms: Sequence[str]
) -> RequestError | None:
    """What of a query string `support` may not ask for."""
    if admin.role != "support":
        return None
    if forms:
        return _not_allowed(
            "An export needs an admin key with the role `owner` or `finance`; yours has `support`. Leave `format` out."
        )
    if route in _ORDERS and ("state", "near_limit") in query:
        return _not_allowed("Who is near a limit of money is not shown to your role, `support`.", param="state")
    order = _ORDERS.get(route)
    if order is not None and [value for name, value in query if name == "sort"] != [order]:
        return _not_allowed(f"Your role, `support`, sees this with `sort={order}` only.", param="sort")
    return None


async def _form_refusal(scope: Scope, admin: Admin, route: tuple[str, str], body: ReadBody) -> RequestError | None:
    """What of a form `support` may not send. Raises `StoreError`."""
    named = [name for name in _OWNERS_FIELDS.get(route, ()) if body.fields.get(name)]
    if named:
        return _not_allowed(
            f"`{named[0]}` needs an admin key with the role `owner`; yours has `{admin.role}`. Leave the field out.",
            param=named[0],
        )
    if route == _ROTATE:
        # Its successor's text would be told, and with it whoever has it acts for every creator.
        query = select(virtual_keys.c.scopes).where(virtual_keys.c.id == scope["path_params"]["id"])
        row = await scope["app"].state.database.fetch_one(query)
        if row is not None and orjson.loads(row["scopes"]):
            return _not_allowed(
                f"To rotate a service key needs an admin key with the role `owner`; yours has `{admin.role}`."
            )
    return None


def _not_allowed(message: str, *, param: str | None = None) -> RequestError:
    return RequestError(message, status=403, code="role_not_allowed", param=param)
