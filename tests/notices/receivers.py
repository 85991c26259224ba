"""A receiver of webhooks on loopback whose every answer the test writes, and what it takes to fill and watch an outbox."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import orjson
from sqlalchemy import select

from gateway.ledger.database import Database
from gateway.ledger.schema import notice_deliveries
from gateway.ledger.statements import Row
from gateway.notices.base import Notice
from tests.rig.waiting import PATIENCE_S

SECRET = "whsec_" + "dGhlIHNlY3JldCBvZiB0aGUgdGVzdHMsIDMyIGJ5dGVz"
ENDLESS_CHUNKS = 32 * 1024
"""32 MiB: far more than the buffers of a connection that nobody reads from."""
_CHUNK = b"400\r\n" + b"x" * 1024 + b"\r\n"

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


class Post(NamedTuple):
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


def status(code: int, *headers: str) -> Answer:
    """A whole answer with the status, and `headers` such as `retry-after: 5`."""
    head = "\r\n".join([f"HTTP/1.1 {code} Some Reason", "content-length: 2", *headers, "", "ok"])

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head.encode())

    return answer


async def silence(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """No answer, until the other side goes."""
    await reader.read()


def endless(code: int) -> Answer:
    """A body that goes on for as long as somebody reads it, or nearly so."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 {code} Some Reason\r\ntransfer-encoding: chunked\r\n\r\n".encode())
        for _ in range(ENDLESS_CHUNKS):
            writer.write(_CHUNK)
            await writer.drain()

    return answer


async def head_only(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A status that is fine, and a body that never comes."""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n")
    await reader.read()


def after(event: asyncio.Event, then: Answer) -> Answer:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await event.wait()
        await then(reader, writer)

    return answer


class Receiver:
    """Answers with what is in `answers`, in turn, then with `otherwise`."""

    def __init__(self) -> None:
        self.posts: list[Post] = []
        self.answers: list[Answer] = []
        self.otherwise = status(200)
        self.cut_off = 0
        """Answers that the other side did not read to their end."""
        self.url = ""
        self._changed = asyncio.Condition()
        self._serving: set[asyncio.Task[Any]] = set()

    async def has(self, count: int) -> list[Post]:
        """The posts, once there are `count` of them."""
        async with asyncio.timeout(PATIENCE_S), self._changed:
            await self._changed.wait_for(lambda: len(self.posts) >= count)
        return self.posts

    async def was_cut_off(self) -> None:
        async with asyncio.timeout(PATIENCE_S), self._changed:
            await self._changed.wait_for(lambda: self.cut_off > 0)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
            body = await reader.readexactly(int(headers["content-length"]))
            answer = self.answers.pop(0) if self.answers else self.otherwise
            self.posts.append(Post(head[0].split(" ")[1], headers, body))
            await self._tell()
            await answer(reader, writer)
            await writer.drain()
        except ConnectionError:
            self.cut_off += 1
            await self._tell()
        finally:
            self._serving.discard(task)
            writer.close()

    async def close(self) -> None:
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    receiver.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook/s3cr3t-path"
    try:
        yield receiver
    finally:
        server.close()
        await receiver.close()


def notice(once: str = "day_cost.above/2027-01-15", **changes: Any) -> Notice:
    """A notice, told once under the words `once`."""
    plain = Notice("day_cost.above", once, "The day has cost more than 200 USD.", {"cost_nano_usd": 201}, "acme")
    return plain._replace(**changes)


async def outbox(database: Database, notice_id: str | None = None) -> list[Row]:
    """The rows of `notice_deliveries`, the oldest first."""
    query = select(notice_deliveries).order_by(notice_deliveries.c.notice_id, notice_deliveries.c.target)
    if notice_id is not None:
        query = query.where(notice_deliveries.c.notice_id == notice_id)
    return await database.fetch_all(query)


async def outbox_where(database: Database, is_so: Callable[[list[Row]], bool], what: str) -> list[Row]:
    """The outbox, once `is_so` of it. Raises `AssertionError` naming `what` when that never comes."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not is_so(rows := await outbox(database)):
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"waited in vain: {what}; the outbox is {await outbox(database)}") from None
    return rows
