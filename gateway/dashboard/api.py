"""What pages ask: the admin API for admins and `/v1/me` for creators, in this process, as whoever is signed in.

A page therefore shows what the API answers and can do what the API allows, no more: roles, the audit log and the exact
figures are the API's affair, and nothing of them is done twice.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlencode

import orjson
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from gateway.auth import Authenticator
from gateway.dashboard.viewer import Viewer, viewer_of
from gateway.errors import GatewayError

__all__ = ["Api", "api_of", "scope_of_call"]

_PASSED_ON = frozenset({b"x-forwarded-for", b"user-agent"})
"""Where a request came from: an address that a virtual key does not allow is refused here too."""


Query = Sequence[tuple[str, str | int]]


class Api:
    """The API as one viewer may use it."""

    def __init__(self, request: Request, viewer: Viewer) -> None:
        self._request = request
        self._viewer = viewer

    async def get(self, path: str, **query: str | int | None) -> Any:
        """The JSON that `GET path` answers. What is None is left out of the query. Raises `GatewayError`."""
        return await self._ask("GET", path, query, None)

    async def send(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Carries out `method path` with a JSON body, and returns its JSON. Raises `GatewayError`."""
        return await self._ask(method, path, {}, None if body is None else orjson.dumps(body))

    async def relay(
        self, path: str, query: Query, receive: Receive, send: Send, *, body: Mapping[str, Any] | None = None
    ) -> None:
        """Answers the page's own request with what `GET path` answers, as it comes: for exports. With a `body` it is what
        `POST path` answers."""
        with ExitStack() as lent:
            if body is None:
                await self._request.app(self._scope("GET", path, query, b"", lent), receive, send)
                return
            asked = orjson.dumps(body)
            scope = self._scope("POST", path, query, asked, lent)
            await self._request.app(scope, _with_body(asked, receive), send)

    async def _ask(self, method: str, path: str, query: Mapping[str, str | int | None], body: bytes | None) -> Any:
        answer = _Answer(body or b"")
        with ExitStack() as lent:
            given = [(name, value) for name, value in query.items() if value is not None]
            await self._request.app(self._scope(method, path, given, answer.asked, lent), answer.receive, answer.send)
        return answer.json()

    def _scope(self, method: str, path: str, query: Query, body: bytes, lent: ExitStack) -> dict[str, Any]:
        scope, state = self._request.scope, {}
        headers = [(name, value) for name, value in scope["headers"] if name in _PASSED_ON]
        if self._viewer.admin is not None:
            state["admin"] = self._viewer.admin
        else:
            authenticator: Authenticator = self._request.app.state.authenticator
            credential = lent.enter_context(authenticator.lend(self._viewer.key_digest))
            headers.append((b"authorization", b"Bearer " + credential))
        headers.append((b"content-length", str(len(body)).encode()))
        return {
            "type": "http",
            "asgi": scope["asgi"],
            "http_version": "1.1",
            "method": method,
            "scheme": scope["scheme"],
            "path": path,
            "raw_path": path.encode(),
            "query_string": urlencode(query).encode(),
            "root_path": "",
            "headers": headers,
            "client": scope.get("client"),
            "server": scope.get("server"),
            "state": state,
        }


def _with_body(body: bytes, receive: Receive) -> Receive:
    """What brings `body`, and then whatever `receive` brings: an answer that streams hears of a client that leaves."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_next() -> Message:
        return first.pop() if first else await receive()

    return receive_next


class _Answer:
    """One request's body on the way in, and its answer on the way out."""

    def __init__(self, asked: bytes) -> None:
        self.asked = asked
        self._status = 500
        self._headers: dict[str, str] = {}
        self._body = bytearray()
        self._is_asked = False

    async def receive(self) -> Message:
        if self._is_asked:
            return {"type": "http.disconnect"}
        self._is_asked = True
        return {"type": "http.request", "body": self.asked, "more_body": False}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in message["headers"]}
        elif message["type"] == "http.response.body":
            self._body += message.get("body", b"")

    def json(self) -> Any:
        value: Any = orjson.loads(self._body) if self._body else None
        if self._status < 400:
            return value
        error = value["error"]
        raise GatewayError(
            error["message"],
            status=self._status,
            type=error["type"],
            code=error["code"],
            param=error["param"],
            metadata=error.get("metadata"),
            headers={name: value for name, value in self._headers.items() if name == "retry-after"},
        )


def api_of(request: Request) -> Api:
    """The API as the signed-in viewer of this page may use it."""
    return Api(request, viewer_of(request))


def scope_of_call(request: Request, path: str, lent: ExitStack, *, feature: str) -> Scope:
    """The page's own request, turned into a call of `path` by the signed-in creator: for what streams.

    Of its headers only those go on that say where it came from: no cookie, no credential, nothing that would name another
    creator or steer the call. The credential is good until `lent` is closed.
    """
    authenticator: Authenticator = request.app.state.authenticator
    credential = lent.enter_context(authenticator.lend(viewer_of(request).key_digest))
    return {
        **request.scope,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [
            *((name, value) for name, value in request.scope["headers"] if name in _PASSED_ON),
            (b"authorization", b"Bearer " + credential),
            (b"x-gateway-feature", feature.encode()),
        ],
    }
