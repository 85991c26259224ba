"""Kept images over a real database and a real folder, with calls that were answered, and a clock that steps on."""

import base64
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson
from sqlalchemy import select

from gateway.assets.base import AssetStore
from gateway.assets.folder import FolderStore
from gateway.assets.library import AssetBounds, Library
from gateway.assets.links import AssetLinks
from gateway.catalog import Model, load_catalog
from gateway.images import read_image_request
from gateway.kept_images import KeptImages
from gateway.ledger.schema import assets, generations
from gateway.ledger.statements import Row
from gateway.model_request import Answered
from policies.types import Account
from tests.account_world import NOON_S, World, open_world

BASE = "https://llm.example.com"
TTL_S = 600
BOUNDS = AssetBounds(asset_bytes_max=4_000, creator_bytes_max=10_000, all_bytes_max=15_000)
PNG = b"\x89PNG\r\n\x1a\n"

_CATALOG = """
version = "1"

[providers.mock]
dialect = "mock"

[models."painter"]
provider = "mock"
endpoints = ["images"]
image_default = "1024x1024/standard"
image_usd = { "*/*" = 0.25 }
"""


@cache
def painter() -> Model:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "pricing.toml"
        path.write_text(_CATALOG)
        return load_catalog(path).models["painter"]


def png(size: int = 100, filling: bytes = b"x") -> bytes:
    """Enough of one to pass for one."""
    return PNG + filling * (size - len(PNG))


def b64(image: bytes) -> dict[str, str]:
    """An image as a provider answers it."""
    return {"b64_json": base64.b64encode(image).decode()}


@dataclass
class KeptWorld:
    world: World
    kept: KeptImages
    folder: Path
    _numbers: Any

    async def account(self, creator: str = "acme") -> Account:
        return await self.world.account(await self.world.new_key(creator))

    async def keep(
        self, data: Sequence[Any], *, account: Account | None = None, answer: Any = None, **fields: Any
    ) -> tuple[str, dict[str, Any] | None]:
        """A call for URLs that was answered with these images: its request id, and what the client gets instead."""
        asked = {"model": "painter", "prompt": "a cat", "response_format": "url", **fields}
        request = read_image_request(orjson.dumps({name: value for name, value in asked.items() if value is not None}))
        body = {"created": 1, "data": list(data), **(answer or {})}
        request_id = f"req_{next(self._numbers)}"
        answered = Answered(
            request_id, account or await self.account(), painter(), orjson.dumps(body), body, None, 250_000_000
        )
        keeper = self.kept.keeper(request.body)
        request.body = {}  # as the pipeline leaves it, once it was sent
        sent = await keeper.keep(answered, request)
        return request_id, None if sent is None else orjson.loads(sent)

    async def generations(self) -> list[Row]:
        return await self.world.database.fetch_all(select(generations).order_by(generations.c.id.desc()))

    async def assets(self) -> list[Row]:
        return await self.world.database.fetch_all(select(assets).order_by(assets.c.id))

    def files(self) -> set[str]:
        return {path.name for path in (self.folder / "assets").rglob("*") if path.is_file()}


@asynccontextmanager
async def open_kept_world(
    folder: Path,
    *,
    store: AssetStore | None = None,
    is_off: bool = False,
    keeps_history: bool = True,
    bounds: AssetBounds = BOUNDS,
) -> AsyncIterator[KeptWorld]:
    """`store` in place of the folder; `is_off`: none at all."""
    async with open_world(folder) as world:
        chosen = None if is_off else store or FolderStore(folder / "assets")
        library = Library(world.database, chosen, bounds, wall_clock=world.clock)
        links = AssetLinks(world.secrets.hasher("asset-links"), BASE, ttl_s=TTL_S)
        kept = KeptImages(world.database, library, links, keeps_history=keeps_history)
        try:
            yield KeptWorld(world, kept, folder, count(1))
        finally:
            await kept.close()


__all__ = ["BASE", "BOUNDS", "NOON_S", "TTL_S", "KeptWorld", "b64", "open_kept_world", "painter", "png"]
