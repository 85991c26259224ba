"""The app of a `World` behind the gateway's own HTTP front, on a port: for what an app in memory cannot show, such as an
answer that comes in pieces and a client that leaves in the middle of one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx

from gateway.front_server import FrontServer
from gateway.sockets import bind_port
from gateway.tasks import spawn
from tests.dashboard.world import SIGN_IN, World

HANG_S = 20


@dataclass
class Served:
    world: World
    port: int

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def visitor(self, key: str | None = None) -> AsyncIterator[httpx.AsyncClient]:
        """A browser, signed in with `key` if there is one: what it sends comes from a page of the gateway."""
        async with httpx.AsyncClient(base_url=self.origin, trust_env=False, headers={"origin": self.origin}) as client:
            if key is not None:
                answer = await client.post(SIGN_IN, data={"key": key})
                assert answer.status_code == 303, answer.text
            yield client

    async def is_idle(self) -> None:
        """Returns once no call is under way."""
        async with asyncio.timeout(HANG_S):
            while len(self.world.services.calls):
                await asyncio.sleep(0)

    @property
    def lent(self) -> int:
        """How many credentials are lent right now."""
        return len(self.world.services.authenticator._lent)


@asynccontextmanager
async def served(world: World) -> AsyncIterator[Served]:
    with bind_port("127.0.0.1", 0) as listener:
        server = FrontServer(world.services.settings, world.app)
        serving = spawn(server.serve(sockets=[listener]), "serve-the-test")
        try:
            yield Served(world, listener.getsockname()[1])
        finally:
            server.stop()
            async with asyncio.timeout(HANG_S):
                await serving
