"""The way to a server, which a test can lengthen, cut, close, or lead to another server. TCP, on a thread of its own."""

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from tests.rig.waiting import PATIENCE_S
from tests.servers.process import Server, listening_port

Result = TypeVar("Result")


class Way:
    """From a port of its own, which it keeps however often it is closed, to the server. Open from construction to `close`."""

    def __init__(self, server: Server) -> None:
        self.port = listening_port()
        self.delay_s = 0.0
        """How long every piece of an answer takes; asked for each piece."""
        self._server_port = server.port
        self._url = server.url
        self._listener: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="way", daemon=True)
        self._thread.start()
        self.open()

    def url(self, url: str = "") -> str:
        """`url`, or that of the server, by this way."""
        url = url or self._url
        return url.replace(f":{urlsplit(url).port}/", f":{self.port}/")

    def open(self) -> None:
        self._done(self._open())

    def refuse(self) -> None:
        """From now on nobody can connect, and whoever was connected is cut off."""
        self._done(self._refuse())

    def lead_to(self, server: Server) -> None:
        """To another server, for everybody: as when the address of a service has moved."""
        if self._server_port != server.port:
            self._server_port = server.port
            self._done(self._cut())

    def close(self) -> None:
        self._done(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # On the thread

    def _done(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_S)

    async def _open(self) -> None:
        if self._listener is None:
            self._listener = await asyncio.start_server(self._accept, "127.0.0.1", self.port, backlog=1024)

    async def _refuse(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        await self._cut()

    async def _cut(self) -> None:
        for end in self._ends:
            end.transport.abort()

    async def _end(self) -> None:
        await self._refuse()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._ends.add(writer)
        there: asyncio.StreamWriter | None = None
        try:
            answers, there = await asyncio.open_connection("127.0.0.1", self._server_port)
            self._ends.add(there)
            directions = [
                self._loop.create_task(self._pour(reader, there, is_answer=False)),
                self._loop.create_task(self._pour(answers, writer, is_answer=True)),
            ]
            # Whichever side hangs up, the other is told.
            _, left = await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
            for direction in left:
                direction.cancel()
        except OSError:
            pass
        finally:
            for end in (writer, there):
                if end is not None:
                    self._ends.discard(end)
                    end.close()

    async def _pour(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_answer: bool) -> None:
        with suppress(OSError):
            while data := await reader.read(2**16):
                if is_answer and self.delay_s:
                    await asyncio.sleep(self.delay_s)
                writer.write(data)
                await writer.drain()
