"""A client on raw sockets: it sends exactly these bytes, and knows whether the answer ended by its own framing."""

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from tests.rig import wire
from tests.rig.waiting import PATIENCE_S

_LINGER_RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes
    """Without HTTP's chunked coding, otherwise as it came."""
    is_complete: bool
    """The message ended by its own framing, so the client holds all of it."""

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    @property
    def header_names(self) -> set[str]:
        return {name.lower() for name, _ in self.headers}

    @property
    def request_id(self) -> str:
        value = self.header("x-request-id")
        assert value, f"no x-request-id on a {self.status}"
        return value

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error object, after checking that it has OpenAI's shape."""
        assert (self.header("content-type") or "").startswith("application/json"), self
        error = self.json["error"]
        assert {"message", "type", "param", "code"} <= error.keys(), error
        assert isinstance(error["message"], str), error
        assert error["message"], error
        return error

    @property
    def last_event(self) -> Any:
        """The data of a stream's last event, after checking that the stream itself is well-formed."""
        assert self.body.endswith(b"\n\n"), self.body[-200:]
        return json.loads(self.body.rstrip(b"\n").rpartition(b"\n\n")[2].removeprefix(b"data: "))

    def assert_broken_off(self) -> None:
        """A stream that failed after its first byte: the last event says so, and there is no `[DONE]`."""
        assert self.status == 200, self
        assert b"[DONE]" not in self.body
        error = self.last_event.get("error")
        assert error, self.body[-500:]
        assert {"message", "type", "param", "code"} <= error.keys()
        assert error["message"]


def request_bytes(
    method: str, path: str, *, key: str | None = None, body: object = None, headers: wire.Headers = ()
) -> bytes:
    """A well-formed request; what is not bytes goes as JSON."""
    fields = [("host", "gateway.test")]
    if key is not None:
        fields.append(("authorization", f"Bearer {key}"))
    data = b""
    if body is not None:
        data = body if isinstance(body, bytes) else wire.compact(body)
        if not any(name.lower() == "content-type" for name, _ in headers):
            fields.append(("content-type", "application/json"))
        fields.append(("content-length", str(len(data))))
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in [*fields, *headers])]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


class Connection:
    """One TCP connection; reads are bounded by the rig's patience."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.body = b""
        """What has been read of the current answer's body."""
        self._is_complete = False
        self._status = 0
        self._headers: list[tuple[str, str]] = []

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def read_head(self, *, within_s: float = PATIENCE_S) -> int:
        """The status. The body is read by `read_until` and `read_rest`. Raises `EOFError` when there is no answer."""
        async with asyncio.timeout(within_s):
            try:
                raw = await self._reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError) as exc:
                raise EOFError("the connection ended before an answer") from exc
        line, *fields = raw[:-4].decode("latin-1").split("\r\n")
        self._status = int(line.split(" ")[1])
        self._headers = [(name.strip(), value.strip()) for name, _, value in (field.partition(":") for field in fields)]
        self.body, self._is_complete = b"", False
        self._pieces = self._read_pieces()
        return self._status

    def header(self, name: str) -> str | None:
        return self.answer.header(name)

    @property
    def answer(self) -> Answer:
        return Answer(self._status, self._headers, self.body, self._is_complete)

    async def read_until(self, text: bytes) -> None:
        """Reads on until the body contains `text`. Raises `EOFError` when it ends without."""
        async with asyncio.timeout(PATIENCE_S):
            while text not in self.body:
                if not (piece := await anext(self._pieces, b"")):
                    raise EOFError(f"the answer ended without {text!r}: {self.body!r}")
                self.body += piece

    async def read_rest(self) -> Answer:
        """The whole answer, complete or cut."""
        async with asyncio.timeout(PATIENCE_S):
            async for piece in self._pieces:
                self.body += piece
        return self.answer

    async def is_closed_by_peer(self) -> bool:
        """Waits until the gateway closes; what it still sends is ignored."""
        async with asyncio.timeout(PATIENCE_S):
            with contextlib.suppress(OSError):
                while await self._reader.read(65_536):
                    pass
        return True

    async def _read_pieces(self) -> AsyncIterator[bytes]:
        headers = {name.lower(): value for name, value in self._headers}
        try:
            if headers.get("transfer-encoding", "").lower() == "chunked":
                while size := int((await self._reader.readuntil(b"\r\n")).split(b";")[0], 16):
                    yield await self._reader.readexactly(size)
                    await self._reader.readexactly(2)
                await self._reader.readuntil(b"\r\n")
            elif self._status >= 200 and self._status not in (204, 304):
                left = int(headers["content-length"])
                while left:
                    piece = await self._reader.read(min(left, 65_536))
                    if not piece:
                        return
                    left -= len(piece)
                    yield piece
            self._is_complete = True
        except (asyncio.IncompleteReadError, OSError):
            return

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def reset(self) -> None:
        """Leaves with RST, as a crashed or impatient client does."""
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
        self._writer.transport.abort()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


async def connect(port: int, *, buffer_bytes: int = 2**26) -> Connection:
    """`buffer_bytes` is what is read ahead: with a small one, a client that does not read lets the sender wait."""
    async with asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=buffer_bytes)
    return Connection(reader, writer)


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[Connection]:
    connection = await connect(port)
    try:
        yield connection
    finally:
        await connection.close()


async def exchange(port: int, request: bytes, *, within_s: float = PATIENCE_S) -> Answer:
    """One request on a connection of its own, and its whole answer, which begins `within_s`."""
    async with connected(port) as connection:
        await connection.send(request)
        await connection.read_head(within_s=within_s)
        return await connection.read_rest()
