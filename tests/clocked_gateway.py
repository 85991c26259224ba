"""One gateway inside the test's process, without its server, at an instant that the test sets.

Everything is real but the wall clock, the client and the provider: the mock provider answers, the ledger is a file, the
counters are those in memory. Opening the same folder again is a restart. The clock must stay behind the machine's, because
nothing is posted before it was admitted.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson

from gateway.chat import read_chat_request
from gateway.config import Settings
from gateway.creator_view import view_of
from gateway.images import read_image_request
from gateway.ledger.migration import migrate
from gateway.ledger.verify import Difference, verify
from gateway.model_request import ModelRequest
from gateway.responder import Header
from gateway.services import Services, open_services
from policies.types import Account
from tests.ledger.books import count, rows

USD = 1_000_000_000
"""In nano-dollars."""
HANG_S = 10

CATALOG = """
version = "2026-11-20"

[providers.mock]
dialect = "mock"

[providers.other]
dialect = "mock"
"""

_CHAT = """
[models."{name}"]
provider = "{provider}"
upstream_model = "{upstream}"
endpoints = ["chat"]
display_name = "{name}"
input_usd_per_mtok = {input}
output_usd_per_mtok = {output}
context_tokens_max = 100_000
output_tokens_max = 4_096
"""

_IMAGES = """
[models."{name}"]
provider = "mock"
upstream_model = "{upstream}"
endpoints = ["images"]
display_name = "{name}"
image_default = "1024x1024/standard"
image_usd = {{ "*/*" = {price} }}
"""

PLANS = """
[plans.open]
requests_per_hour = 1_000_000
quota_usd_per_month = 1_000_000
budget_usd_per_month = "unlimited"
free_images_per_day = 0
payers = ["free_images", "promo_credits", "credits"]

[plans.narrow]
requests_per_hour = 100
tokens_per_minute = 10_000
quota_usd_per_month = 1
free_images_per_day = 3

[credit_packages.small]
credits = 100
price_usd = 9
"""


def chat_model(
    name: str, *, upstream: str = "echo", input: str = "1", output: str = "10", provider: str = "mock", more: str = ""
) -> str:
    return _CHAT.format(name=name, upstream=upstream, input=input, output=output, provider=provider) + more + "\n"


def image_model(
    name: str, *, price: str, upstream: str = "picture", credits: int | None = None, downgrade_to: str | None = None
) -> str:
    lines = [_IMAGES.format(name=name, upstream=upstream, price=price)]
    if credits is not None:
        lines.append(f"credits = {credits}")
    if downgrade_to is not None:
        lines.append(f'downgrade_to = "{downgrade_to}"')
    return "\n".join(lines) + "\n"


MODELS = "".join(
    [
        chat_model("talk"),
        chat_model("talk-other", provider="other"),
        chat_model("grand", input="10", output="100", more='downgrade_to = "talk"'),
        chat_model("one-token", input="0.01875", output="0"),
        chat_model("waits", upstream="f100d0n3"),
        image_model("painter", price="0.25"),
        image_model("painter-waits", price="0.25", upstream="f100d0n0"),
        image_model("premium", price="0.08", downgrade_to="standard"),
        image_model("standard", price="0.003"),
        image_model("gallery", price="0.02", credits=1),
        image_model("gallery-half", price="0.02", credits=1, upstream="half"),
        image_model("gallery-waits", price="0.02", credits=1, upstream="f100d0n0"),
        image_model("gallery-dies", price="0.02", credits=1, upstream="f100d0n0-die"),
    ]
)
"""`painter` costs 0.25 USD an image and the quota pays; `gallery` costs one credit. Those that wait take 100 ms."""


class Clock:
    """The gateway's wall clock."""

    def __init__(self, at: datetime) -> None:
        self.now = at

    def __call__(self) -> datetime:
        return self.now

    def turn_to(self, at: datetime) -> None:
        self.now = at

    def advance(self, **parts: float) -> None:
        self.now += timedelta(**parts)


@dataclass
class Answer:
    """What a client was sent; a `Responder`. `is_gone` may be set while the call is under way."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    is_gone: bool = False
    is_stalled: bool = False

    @property
    def is_started(self) -> bool:
        return self.status > 0

    @property
    def request_id(self) -> str:
        return self.headers["x-request-id"]

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def code(self) -> str | None:
        """The error's, None for an answer without one."""
        return None if self.status < 300 else str(self.json["error"]["code"])

    async def send(self, status: int, headers: list[Header], body: bytes) -> None:
        self.start(status, headers)
        self.body = body

    def start(self, status: int, headers: list[Header]) -> None:
        self.status = status
        self.headers = {name.decode(): value.decode() for name, value in headers}

    def write(self, data: bytes) -> None:
        self.body += data

    async def drain(self) -> None:
        """It reads at once."""

    async def end(self, data: bytes = b"") -> None:
        self.body += data

    def on_gone(self, callback: Callable[[], None]) -> None:
        """It stays, as far as streams are concerned."""

    def abort(self) -> None:
        self.is_gone = True


@dataclass
class ClockedGateway:
    services: Services
    clock: Clock
    folder: Path

    # Who calls

    async def new_key(self, creator: str = "acme", *, plan: str = "open", **overrides: Any) -> str:
        """The key of a new creator whose plan has these overrides."""
        await self.services.accounts.create_creator(creator, plan=plan, overrides=overrides or None)
        return await self.second_key(creator)

    async def second_key(self, creator: str = "acme", **overrides: Any) -> str:
        """Another key of a creator, with limits of its own if any are named."""
        made = await self.services.accounts.create_key(creator, overrides=overrides or None)
        return str(made["key"])

    async def account(self, key: str) -> Account:
        return await self.services.authenticator.authenticate(_headers(key))

    # Calls

    async def chat(
        self,
        key: str,
        model: str = "talk",
        *,
        text: str = "hi",
        answer: Answer | None = None,
        headers: dict[str, str] | None = None,
        **fields: Any,
    ) -> Answer:
        body = {"model": model, "messages": [{"role": "user", "content": text}], **fields}
        return await self._call("chat", key, body, answer, headers)

    async def images(
        self,
        key: str,
        model: str = "painter",
        *,
        answer: Answer | None = None,
        headers: dict[str, str] | None = None,
        **fields: Any,
    ) -> Answer:
        return await self._call("images", key, {"model": model, "prompt": "a cat", **fields}, answer, headers)

    async def _call(
        self, endpoint: str, key: str, body: dict[str, Any], answer: Answer | None, headers: dict[str, str] | None
    ) -> Answer:
        answer = Answer() if answer is None else answer
        raw = orjson.dumps(body)

        async def read() -> ModelRequest:
            return read_chat_request(raw) if endpoint == "chat" else read_image_request(raw)

        named = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        async with asyncio.timeout(HANG_S):
            await self.services.pipeline.serve(endpoint, read, [*_headers(key), *named], answer)
        return answer

    # What came of it

    async def view(self, key: str) -> dict[str, Any]:
        """`GET /v1/me`."""
        services = self.services
        return await view_of(await self.account(key), services.database, services.counters, self.clock.now)

    async def limits(self, key: str) -> dict[str, dict[str, Any]]:
        """The limits of `/v1/me` by name."""
        return {limit["name"]: limit for limit in (await self.view(key))["limits"]}

    def entries(self, columns: str, *, kind: str = "usage") -> list[tuple[Any, ...]]:
        return rows(self.path, f"SELECT {columns} FROM entries WHERE kind = ? ORDER BY id", kind)

    def rollup(self, columns: str, where: str = "1") -> list[tuple[Any, ...]]:
        return rows(self.path, f"SELECT {columns} FROM usage_daily WHERE {where} ORDER BY 1")

    @property
    def path(self) -> Path:
        return self.services.settings.database_path

    def differences(self) -> list[Difference]:
        return verify(self.path).differences

    async def has_in_flight(self, calls: int) -> None:
        """Returns once so many calls wait for the provider and all others have been refused."""
        async with asyncio.timeout(HANG_S):
            while [call.is_dialled for call in self.services.calls] != [True] * calls:
                await asyncio.sleep(0)


@asynccontextmanager
async def opened(
    folder: Path, clock: Clock, *, models: str = "", plans: str = PLANS, **settings: Any
) -> AsyncIterator[ClockedGateway]:
    """The gateway of `folder`, its counters made from what the ledger there says. Ends with no hold left."""
    catalog, plans_file, data = folder / "pricing.toml", folder / "plans.toml", folder / "data"
    catalog.write_text(CATALOG + MODELS + models)
    plans_file.write_text(plans)
    if not data.exists():
        data.mkdir()
        (data / "gateway.db").write_bytes(_empty_database())
    known = Settings(data_dir=data, pricing_file=catalog, plans_file=plans_file, **settings)
    async with open_services(known, clock=clock) as services:
        yield ClockedGateway(services, clock, folder)
        assert len(services.calls) == 0
    assert count(known.database_path, "holds") == 0


@cache
def _empty_database() -> bytes:
    """A migrated database without rows, made once: migrating takes longer than many tests here."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "gateway.db"
        path.touch()
        migrate(path)
        return path.read_bytes()


def _headers(key: str) -> list[Header]:
    return [(b"host", b"gateway"), (b"authorization", b"Bearer " + key.encode())]


def utc(year: int, month: int, day: int, hour: int = 0, minute: int = 0, second: float = 0) -> datetime:
    return datetime(year, month, day, hour, minute, tzinfo=UTC) + timedelta(seconds=second)
