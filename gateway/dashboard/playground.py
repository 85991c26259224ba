"""`/dashboard/me/playground`: a creator tries models in the browser. What it sends are calls like all others.

A page's request becomes a call of `/v1/chat/completions` or `/v1/images/generations` in this process, by the key its sender
signed in with, and the endpoint answers it as it answers everybody: authenticated again, limited, metered, booked under
the feature `playground`, streamed as the answer comes, and ended when the browser leaves. Only what the forms below have can be
said; the session's cookie goes no further than the page.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Annotated, Any, Literal

import orjson
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.dashboard.api import api_of, scope_of_call
from gateway.dashboard.guard import PAGE_HEADERS
from gateway.dashboard.render import render
from gateway.dashboard.viewer import require_creator
from gateway.endpoints import Form, read_form
from gateway.front import CYCLE

__all__ = ["FEATURE", "routes"]

FEATURE = "playground"
_BODY_BYTES_MAX = 1_000_000
_MESSAGES_MAX = 200
_NAME_CHARS_MAX = 200
_TEXT_CHARS_MAX = 200_000
_TOKENS_MAX = 1_000_000
_HEADERS = (*PAGE_HEADERS, (b"cache-control", b"no-store"))

_Name = Annotated[str, Field(min_length=1, max_length=_NAME_CHARS_MAX)]
_Text = Annotated[str, Field(min_length=1, max_length=_TEXT_CHARS_MAX)]


class Turn(Form):
    """One message of the conversation on the page."""

    role: Literal["user", "assistant"]
    content: _Text


class ChatAsked(Form):
    """What the page may say of a chat. What is left out is the model's own affair."""

    model: _Name
    system: Annotated[str, Field(max_length=_TEXT_CHARS_MAX)] = ""
    messages: Annotated[list[Turn], Field(min_length=1, max_length=_MESSAGES_MAX)]
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    max_tokens: Annotated[int | None, Field(ge=1, le=_TOKENS_MAX)] = None
    stream: bool = True

    def body(self) -> dict[str, Any]:
        """As `/v1/chat/completions` reads it."""
        messages = [turn.model_dump() for turn in self.messages]
        if self.system:
            messages.insert(0, {"role": "system", "content": self.system})
        body: dict[str, Any] = {"model": self.model, "messages": messages, "stream": self.stream}
        if self.temperature is not None:
            body["temperature"] = self.temperature
        if self.max_tokens is not None:
            body["max_tokens"] = self.max_tokens
        return body


class ImageAsked(Form):
    """What the page may say of an image."""

    model: _Name
    prompt: _Text
    size: Annotated[str, Field(max_length=32)] = ""

    def body(self) -> dict[str, Any]:
        """As `/v1/images/generations` reads it: the image is to be kept, so that the history can show it."""
        size = {"size": self.size} if self.size else {}
        return {"model": self.model, "prompt": self.prompt, "response_format": "url", **size}


class _Handover:
    """Plain ASGI: the answer streams, and is written by the endpoint itself."""

    def __init__(self, path: str, form: type[ChatAsked] | type[ImageAsked]) -> None:
        self._path = path
        self._form = form

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        require_creator(request)
        endpoints: Mapping[str, ASGIApp] = request.app.state.model_endpoints
        # From here on the endpoint answers, by the connection and not by `send`.
        request.state.is_call = True
        cycle = scope[CYCLE]
        cycle.default_headers = [*cycle.default_headers, *_HEADERS]
        with ExitStack() as lent:
            call = scope_of_call(request, self._path, lent, feature=FEATURE)
            del scope[CYCLE]  # as where calls come in: the cycle holds the scope, and need not be held by it
            await endpoints[self._path](call, self._reading(request), send)

    def _reading(self, request: Request) -> Receive:
        """The body as the endpoint is to read it. What is wrong with the page's own is refused as the call's would be."""

        async def receive() -> Message:
            bytes_max = request.app.state.settings.body_bytes_max
            asked = await read_form(request, self._form, bytes_max=min(bytes_max, _BODY_BYTES_MAX))
            return {"type": "http.request", "body": orjson.dumps(asked.body()), "more_body": False}

        return receive


async def show_playground(request: Request) -> Response:
    require_creator(request)
    models = (await api_of(request).get("/v1/models"))["data"]
    return render(
        request,
        "playground.html",
        title="Playground",
        chat_models=[model for model in models if "chat" in model["endpoints"]],
        image_models=[model for model in models if "images" in model["endpoints"]],
        chosen=request.query_params.get("model", ""),
    )


routes = [
    Route("/dashboard/me/playground", show_playground, methods=["GET"]),
    Route("/dashboard/me/playground/chat", _Handover("/v1/chat/completions", ChatAsked), methods=["POST"]),
    Route("/dashboard/me/playground/images", _Handover("/v1/images/generations", ImageAsked), methods=["POST"]),
]
