"""Accounts over a real SQLite database, with a clock that the test turns."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy import insert, select

from gateway.accounts import Accounts
from gateway.auth import AdminAuthenticator, Authenticator
from gateway.ledger.database import Database
from gateway.ledger.migration import migrate
from gateway.ledger.schema import creators, credit_grants
from gateway.plans import load_plans
from gateway.secrets import Secrets, random_id
from policies.types import Account

ROOT = b"root-of-the-tests-0123456789abcdef"
NOON_S = 1_800_000_000.0

INJECTIONS = (
    "' OR '1'='1",
    "x'; DROP TABLE virtual_keys; --",
    '" OR 1=1 --',
    "') UNION SELECT id, digest FROM virtual_keys --",
    "%",
    "_",
    "\\",
    "sk-gw-%-%",
    "1; ATTACH DATABASE 'x' AS y",
)


class Clock:
    """Unix time and monotonic time at once, in seconds."""

    def __init__(self) -> None:
        self.now_s = NOON_S

    def __call__(self) -> float:
        return self.now_s


@dataclass
class World:
    database: Database
    path: Path
    clock: Clock
    secrets: Secrets
    authenticator: Authenticator
    accounts: Accounts

    async def new_key(self, creator: str = "acme", **fields: Any) -> dict[str, Any]:
        """A key of `creator`, who is made if need be."""
        page = await self.accounts.list_creators()
        if creator not in {row["id"] for row in page["data"]}:
            await self.accounts.create_creator(creator)
        return await self.accounts.create_key(creator, **fields)

    async def new_service_key(self, creator: str = "app", **fields: Any) -> dict[str, Any]:
        """A key that may act for others; `default_plan` among `fields` lets it bring new creators."""
        return await self.new_key(creator, scopes=["act_for"], **fields)

    async def account(self, key: dict[str, Any]) -> Account:
        return await self.authenticator.authenticate(bearer(key["key"]))

    async def grant(
        self, creator: str, credits: int, payer: str = "credits", expires_in_s: float | None = None
    ) -> None:
        """Credits given, as the ledger records them; the authenticator hears of it as after any write."""
        now = int(self.clock.now_s * 1000)
        row = {
            "entry_id": random_id(),
            "creator": creator,
            "payer": payer,
            "credits": credits,
            "expires_at": None if expires_in_s is None else now + int(expires_in_s * 1000),
            "created_at": now,
        }
        await self.database.write(insert(credit_grants).values(row))
        self.authenticator.invalidate(creator=creator)

    async def rows_of(self, creator: str) -> list[dict[str, Any]]:
        return await self.database.fetch_all(select(creators).where(creators.c.id == creator))

    def admin_authenticator(self) -> AdminAuthenticator:
        return AdminAuthenticator(self.database, self.secrets, None)

    def stored_bytes(self) -> bytes:
        """Everything SQLite keeps on disk, its log included."""
        return b"".join(path.read_bytes() for path in self.path.parent.glob(self.path.name + "*"))


@cache
def _empty_database() -> bytes:
    """A migrated database without rows, made once: migrating takes longer than most tests here."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "gateway.db"
        path.touch()
        migrate(path)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return path.read_bytes()


@asynccontextmanager
async def open_world(folder: Path, **authenticator_options: Any) -> AsyncIterator[World]:
    path = folder / "gateway.db"
    path.write_bytes(_empty_database())
    database = await Database.open(path)
    try:
        clock, plans, secrets = Clock(), load_plans(), Secrets(ROOT)
        authenticator = Authenticator(
            database, plans, secrets, wall_clock=clock, monotonic_clock=clock, **authenticator_options
        )
        accounts = Accounts(database, plans, secrets, authenticator, wall_clock=clock)
        yield World(database, path, clock, secrets, authenticator, accounts)
    finally:
        await database.close()


def bearer(key: str | bytes) -> list[tuple[bytes, bytes]]:
    text = key if isinstance(key, bytes) else key.encode()
    return [(b"host", b"gateway"), (b"authorization", b"Bearer " + text)]
