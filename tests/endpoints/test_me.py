"""`/v1/me/usage` of a creator with many sums: bounded, and nobody else waits while it is written."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from datetime import date, timedelta
from pathlib import Path

import httpx

from gateway.app import build_app
from gateway.ledger.creator_queries import USAGE_ROWS_MAX
from tests.clocked_gateway import Clock, ClockedGateway, opened, utc

DAYS = 100
FEATURES = USAGE_ROWS_MAX // DAYS
FIRST_DAY = date(2025, 1, 1)


@asynccontextmanager
async def with_many_sums(folder: Path) -> AsyncIterator[tuple[ClockedGateway, httpx.AsyncClient]]:
    """As many combinations of day and feature as one answer may have, and the client of their creator."""
    async with opened(folder, Clock(utc(2025, 6, 11, 12))) as gateway:
        key = await gateway.new_key()
        await gateway.chat(key)
        with closing(sqlite3.connect(gateway.path)) as connection, connection:
            copied = connection.execute("SELECT * FROM usage_daily")
            columns = [column[0] for column in copied.description]
            sums = dict(zip(columns, copied.fetchone(), strict=True))
            connection.execute("DELETE FROM usage_daily")
            connection.executemany(
                f"INSERT INTO usage_daily VALUES ({', '.join(f':{name}' for name in columns)})",
                (
                    {**sums, "period_day": (FIRST_DAY + timedelta(days=day)).isoformat(), "feature": f"f{feature}"}
                    for day in range(DAYS)
                    for feature in range(FEATURES)
                ),
            )
        transport = httpx.ASGITransport(build_app(gateway.services))
        headers = {"authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway", headers=headers) as client:
            yield gateway, client


async def test_usage_of_too_many_rows_is_refused_and_that_of_the_most_is_whole(tmp_path: Path) -> None:
    async with with_many_sums(tmp_path) as (gateway, client):
        path = f"/v1/me/usage?from={FIRST_DAY}&group_by=day,feature"
        whole = await client.get(path)
        assert whole.status_code == 200
        rows = whole.json()["data"]
        assert len({(row["day"], row["feature"]) for row in rows}) == len(rows) == USAGE_ROWS_MAX
        assert {row["cost_nano_usd"] for row in rows} == {41_000}
        await gateway.chat(client.headers["authorization"].removeprefix("Bearer "))
        refused = await client.get(path)
        assert refused.status_code == 400
        assert str(USAGE_ROWS_MAX) in refused.json()["error"]["message"]
        by_day = (await client.get(f"/v1/me/usage?from={FIRST_DAY}")).json()["data"]
        assert len(by_day) == DAYS + 1
