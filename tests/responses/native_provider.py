"""A provider that has the Responses API, on a loopback socket: it keeps what it answers, and a record of what it was asked.

The upstream model's name says how it behaves: `...-dies` breaks its stream off before the end, `...-fails` ends it with
`response.failed`, `...-cut` with `response.incomplete`. Everything else says "Hi there" for 20 tokens in and 5 out.
"""

import asyncio
from types import TracebackType
from typing import Any, NamedTuple

import orjson

TEXT = "Hi there"
TOKENS_IN, TOKENS_OUT = 20, 5


class Asked(NamedTuple):
    method: str
    target: str
    body: Any
    """None where there was none."""


class NativeProvider:
    """`async with NativeProvider() as provider`: its rows for pricing.toml are `provider.rows()`."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.kept: dict[str, dict[str, Any]] = {}
        self.secret = ""
        """Quoted in every error."""
        self._made = 0
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> "NativeProvider":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    def rows(self, *models: str, provider: str = "native") -> str:
        """The provider and a model for each upstream name, called the same."""
        rows = f'\n[providers.{provider}]\ndialect = "openai"\nbase_url = "http://127.0.0.1:{self.port}/v1"\n'
        for name in models:
            rows += (
                f'\n[models."{name}"]\nprovider = "{provider}"\nupstream_model = "{name}-upstream"\n'
                f'endpoints = ["responses"]\ndisplay_name = "{name}"\ninput_usd_per_mtok = 1\noutput_usd_per_mtok = 10\n'
                "context_tokens_max = 100_000\noutput_tokens_max = 4_096\n"
            )
        return rows

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                raw = await reader.readexactly(length)
                asked = Asked(method, target.removeprefix("/v1"), orjson.loads(raw) if raw else None)
                self.asked.append(asked)
                writer.write(self._answer(asked))
                if asked.body and "-dies" in asked.body.get("model", ""):
                    await writer.drain()
                    break
        except (EOFError, ConnectionError):
            pass  # the gateway hung up, as it does with a connection it no longer needs
        finally:
            writer.close()

    def _answer(self, asked: Asked) -> bytes:
        path = asked.target.partition("?")[0]
        if asked.method == "POST" and path == "/responses":
            return self._create(asked.body)
        response_id = path.split("/")[2]
        if response_id not in self.kept:
            message = f"Response with id '{response_id}' not found. {self.secret}"
            error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
            return _message(404, {"error": error})
        if asked.method == "DELETE":
            del self.kept[response_id]
            return _message(200, {"id": response_id, "object": "response", "deleted": True})
        if path.endswith("/input_items"):
            return _message(200, {"object": "list", "data": [{"id": "msg_theirs"}], "has_more": False})
        return _message(200, self.kept[response_id])

    def _create(self, body: dict[str, Any]) -> bytes:
        self._made += 1
        model = body["model"]
        status = "incomplete" if "-cut" in model else "failed" if "-fails" in model else "completed"
        part = {"type": "output_text", "text": TEXT, "annotations": []}
        item = {"id": f"msg_n{self._made}", "type": "message", "role": "assistant", "content": [part]}
        response = {
            "id": f"resp_n{self._made}",
            "object": "response",
            "status": status,
            "model": model,
            "output": [item],
            "usage": {
                "input_tokens": TOKENS_IN,
                "input_tokens_details": {"cached_tokens": 8},
                "output_tokens": TOKENS_OUT,
                "output_tokens_details": {"reasoning_tokens": 2},
                "total_tokens": TOKENS_IN + TOKENS_OUT,
            },
        }
        if body.get("store") is not False:
            self.kept[response["id"]] = response
        if not body.get("stream"):
            return _message(200, response)
        begun = {**response, "status": "in_progress", "output": [], "usage": None}
        events = [
            {"type": "response.created", "response": begun},
            {"type": "response.output_text.delta", "item_id": item["id"], "delta": "Hi "},
            {"type": "response.output_text.delta", "item_id": item["id"], "delta": "there"},
            {"type": f"response.{status}", "response": response},
        ]
        if "-dies" in model:
            events.pop()
        return stream(events)


def stream(events: list[dict[str, Any]]) -> bytes:
    body = b"".join(
        b"event: %s\ndata: %s\n\n" % (each["type"].encode(), orjson.dumps({**each, "sequence_number": number}))
        for number, each in enumerate(events)
    )
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    is_whole = events[-1]["type"] in ("response.completed", "response.incomplete", "response.failed")
    return head + b"%x\r\n%s\r\n" % (len(body), body) + (b"0\r\n\r\n" if is_whole else b"")


def _message(status: int, body: dict[str, Any]) -> bytes:
    raw = orjson.dumps(body)
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(raw)}\r\n\r\n"
    return head.encode() + raw
