"""Whose calls are rehearsed: creators and virtual keys as they stand today, under one set of plans or another."""

from collections.abc import Mapping
from dataclasses import replace

from sqlalchemy import select

from gateway.errors import GatewayError
from gateway.ledger.database import Database
from gateway.ledger.schema import creators, credit_grants, virtual_keys
from gateway.ledger.statements import Row
from gateway.principals import CREATOR_COLUMNS, KEY_COLUMNS, NO_KEY, NO_THROTTLE, account_from
from gateway.rehearsal.history import Whose
from policies.types import Account, Plan

__all__ = ["Callers", "read_callers"]


class Callers:
    """What accounts are made of, read once."""

    def __init__(self, database: Database, of_creators: Mapping[str, Row], keys: dict[str, Row]) -> None:
        self._database = database
        self._creators = of_creators
        self._keys = keys
        self._grants: dict[str, list[Row]] = {}

    def add_grant(self, row: Row) -> None:
        self._grants.setdefault(row["creator"], []).append(row)

    @property
    def plan_of(self) -> Mapping[str, str]:
        """Creator -> name of the plan."""
        return {creator: row["plan"] for creator, row in self._creators.items()}

    async def know_key(self, key_id: str) -> None:
        """Read a key of somebody else, who acted for one of the creators."""
        if key_id not in self._keys:
            row = await self._database.fetch_one(select(*KEY_COLUMNS).where(virtual_keys.c.id == key_id))
            self._keys[key_id] = {**NO_KEY, "id": key_id} if row is None else row

    def account(self, creator: str, key_id: str, plans: Mapping[str, Plan], now_s: float) -> Account | GatewayError:
        """The account under `plans`, or why its calls would be refused. Nobody wrote down where calls came from, so that
        every address is allowed; a throttle of today says nothing about yesterday."""
        row = {**self._keys[key_id], **self._creators[creator], **NO_THROTTLE}
        try:
            account = account_from(plans, row, self._grants.get(creator, []), now_s)
        except GatewayError as error:
            return error
        if account.plan.addresses is None:
            return account
        return replace(account, plan=replace(account.plan, addresses=None))


async def read_callers(database: Database, whose: Whose) -> Callers:
    """Deleted creators and revoked keys, too: they made calls."""
    of_creators: dict[str, Row] = {}
    async for rows in database.stream(select(*CREATOR_COLUMNS).where(creators.c.id.in_(whose.ids))):
        of_creators |= {row["creator_id"]: row for row in rows}
    keys: dict[str, Row] = {}
    async for rows in database.stream(select(*KEY_COLUMNS).where(virtual_keys.c.creator_id.in_(whose.ids))):
        keys |= {row["id"]: row for row in rows}
    callers = Callers(database, of_creators, keys)
    there = credit_grants.c
    grants = select(there.creator, there.payer, there.expires_at, there.credits).where(there.creator.in_(whose.ids))
    async for rows in database.stream(grants.order_by(there.expires_at)):
        for row in rows:
            callers.add_grant(row)
    return callers
