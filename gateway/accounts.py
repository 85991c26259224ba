"""Creators and their virtual keys: made, changed, listed, slowed down, rotated, paused, revoked.

Every write is one transaction and is forgotten by the authenticator before its caller hears of it, so that a revoked key
is refused on the very next call. The shape of what comes in was checked by the caller (`gateway.endpoints.admin`); what
needs the plans, the clock or the database is checked here. What comes out is JSON-ready; a key's text is in it once.
"""

import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, NoReturn

import orjson
from sqlalchemy import Executable, and_, or_, select

from gateway import account_statements as statements
from gateway.account_json import (
    Page,
    Row,
    admin_key_json,
    bounded_json,
    creator_json,
    effective_plan_json,
    instant_text,
    json_text,
    key_cursor,
    key_json,
    page_json,
    parse_key_cursor,
    throttle_json,
)
from gateway.auth import ACT_FOR, Authenticator
from gateway.counters.window_seeds import THROTTLED, own_windows
from gateway.errors import NotFound, RequestError
from gateway.instances.news import changed
from gateway.key_warnings import idle_limits
from gateway.ledger.database import Conflict, Database
from gateway.ledger.schema import admin_keys, creators, meta, throttles, virtual_keys
from gateway.plans import default_plan, key_limits, plan_to_json, with_key_overrides, with_overrides
from gateway.roles import Role
from gateway.secrets import ADMIN_KEY_PREFIX, VIRTUAL_KEY_PREFIX, NewKey, Secrets, make_key, random_id
from policies.types import Plan

GRACE_S_DEFAULT = 86_400
GRACE_S_MAX = 30 * 86_400
PAGE_ROWS_DEFAULT = 100
PAGE_ROWS_MAX = 1_000
LIFETIME_S_MAX = 100 * 366 * 86_400

_SECRET_FINGERPRINT = "secret_fingerprint"  # noqa: S105 -- the name of a row
_FIRST_ADMIN = "first admin"
_METADATA_BYTES_MAX = 4_096
_OVERRIDES_BYTES_MAX = 16_384

Rows = list[list[dict[str, Any]]]
"""Per statement, the rows it returned."""


SeedWindows = Callable[[Collection[str], Collection[str]], Awaitable[None]]
"""Fills windows, named as in `Plan.counted`, of creators; None where nothing counts (the command line)."""


class Accounts:
    """The only writer of creators, virtual keys and admin keys."""

    def __init__(
        self,
        database: Database,
        plans: Mapping[str, Plan],
        secrets: Secrets,
        authenticator: Authenticator,
        *,
        wall_clock: Callable[[], float] = time.time,
        seed_windows: SeedWindows | None = None,
        forget: Sequence[Callable[[str], Awaitable[None]]] = (),
        has_settings_key: bool = False,
    ) -> None:
        """`forget` erases what else is kept of a creator who is deleted; `has_settings_key` says whether there is an owner
        beside those in the database."""
        self._forget = forget
        self._has_settings_key = has_settings_key
        self._seed_windows = seed_windows
        self._database = database
        self._plans = plans
        self._secrets = secrets
        self._authenticator = authenticator
        self._wall_clock = wall_clock

    @property
    def default_plan(self) -> str:
        """Name of the plan of a creator that was given none."""
        return default_plan(self._plans).name

    def list_plans(self) -> Page:
        """The plans as they stand now, in the file's order."""
        return {"data": [plan_to_json(plan) for plan in self._plans.values()], "next_cursor": None}

    # Creators

    async def create_creator(
        self,
        id: str | None = None,
        *,
        plan: str | None = None,
        name: str = "",
        overrides: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The new creator. Raises `RequestError`: 409 for an id in use or used before, 400 for a wrong plan or override."""
        statement = self._insert_creator(id, plan=plan, name=name, overrides=overrides, metadata=metadata)
        try:
            ((row,),) = await self._commit(statement)
        except Conflict as exc:
            raise RequestError(
                "This creator id is taken, or belonged to a creator that was deleted; ids are never used again.",
                status=409,
                code="creator_exists",
                param="id",
            ) from exc
        return creator_json(row)

    async def get_creator(self, id: str) -> dict[str, Any]:
        """The creator, under `effective_plan` the plan with its overrides, and under `throttle` what lowers that for a
        while; None where nothing does."""
        row = await self._creator(id)
        throttle = await self._throttle(id)
        return creator_json(row) | {
            "effective_plan": effective_plan_json(row, self._plans),
            "throttle": None if throttle is None else throttle_json(throttle),
        }

    async def list_creators(
        self,
        *,
        limit: int = PAGE_ROWS_DEFAULT,
        cursor: str | None = None,
        plan: str | None = None,
        ids: Sequence[str] | None = None,
    ) -> Page:
        """Creators by id, all or those of `ids`. `cursor` is the last page's `next_cursor`."""
        query = select(creators).where(creators.c.deleted_at.is_(None)).order_by(creators.c.id).limit(limit + 1)
        if cursor is not None:
            query = query.where(creators.c.id > cursor)
        if plan is not None:
            query = query.where(creators.c.plan == plan)
        if ids is not None:
            query = query.where(creators.c.id.in_(ids))
        rows = await self._database.fetch_all(query)
        return page_json(rows, limit, creator_json, lambda row: str(row["id"]))

    async def update_creator(self, id: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Sets the named fields among `name`, `plan`, `overrides`, `metadata`, `is_active`; counts from the next call on.

        `overrides` and `metadata` are replaced as a whole.
        """
        values = dict(changes)
        if not values:
            return creator_json(await self._creator(id))
        if "plan" in values:
            self._check_plan(values["plan"])
        if "overrides" in values:
            values["overrides"] = self._overrides_text(values["overrides"])
        if "metadata" in values:
            values["metadata"] = bounded_json(values["metadata"], "metadata", _METADATA_BYTES_MAX)
        fields = await self._windows_added(id, values["overrides"]) if "overrides" in values else frozenset[str]()
        (rows,) = await self._commit(statements.update_creator(id, values), creator=id, seeds=fields)
        if not rows:
            raise _no_creator()
        return creator_json(rows[0])

    async def _windows_added(self, id: str, overrides: str) -> frozenset[str]:
        """Optional windows that nobody has counted for this creator before, and that these overrides limit."""
        row = await self._creator(id)
        return own_windows(overrides) - own_windows(row["overrides"]) - self._plans[self.default_plan].counted

    async def delete_creator(self, id: str) -> dict[str, Any]:
        """Revokes the creator's keys and erases names and metadata; the id stays taken. Deleting again changes nothing."""
        rows, *_ = await self._commit(*statements.erase_creator(id, self._now_ms()), creator=id)
        if not rows:
            raise _no_creator()
        for erase in self._forget:  # asked for again, what failed here is done again
            await erase(id)
        return {"id": id, "deleted": True}

    async def throttle(self, creator: str, requests_per_minute: int, until_ms: int, anomaly_id: str) -> None:
        """Slows the creator down to so many requests a minute (at least 1), over all its keys, until `until_ms` (Unix time).

        Where a throttle lasts already, the lower number and the later end stand; `anomaly_id` is that of the last one
        that changed something. Raises `NotFound`.
        """
        if requests_per_minute < 1:
            raise ValueError(f"a creator cannot be slowed down to {requests_per_minute} requests a minute")
        now = self._now_ms()
        added = await self._window_added_by_throttle(creator)
        writes = statements.throttle_creator(creator, requests_per_minute, until_ms, anomaly_id, now)
        _, tightened, made = await self._commit(*writes, creator=creator, seeds=added)
        if not tightened and not made:
            raise _no_creator()

    async def lift_throttle(self, creator: str) -> bool:
        """Whether there was a throttle that still lasted; from the next call on there is none."""
        (rows,) = await self._commit(statements.delete_throttle(creator), creator=creator)
        return any(row["until_at"] > self._now_ms() for row in rows)

    async def _throttle(self, creator: str) -> Row | None:
        lasts = throttles.c.until_at > self._now_ms()
        return await self._database.fetch_one(select(throttles).where(throttles.c.creator == creator, lasts))

    async def _window_added_by_throttle(self, creator: str) -> frozenset[str]:
        """The window a throttle lowers, where nobody counts it for this creator yet."""
        row = await self._creator(creator)
        if await self._throttle(creator) is not None:
            return frozenset()
        return THROTTLED - own_windows(row["overrides"]) - self._plans[self.default_plan].counted

    # Virtual keys

    async def create_key(
        self,
        creator: str,
        *,
        name: str = "",
        models: Sequence[str] | None = None,
        expires_at: datetime | None = None,
        expires_in_s: int | None = None,
        overrides: Mapping[str, Any] | None = None,
        scopes: Sequence[str] = (),
        default_plan: str | None = None,
        id: str | None = None,
    ) -> dict[str, Any]:
        """The new key, with its text under `key`: the only time it is told. `models` None allows every model.

        `default_plan` is for keys with the scope `act_for`: creators they name who are not known are made, on that plan.
        Under `warnings` stand limits of the key that its creator's make pointless. `id` is the public id it gets: asked for
        twice, one key is made, and the second time is a `RequestError` (409 `key_exists`).
        """
        if default_plan is not None:
            self._check_default_plan(default_plan, scopes)
        with_key_overrides(self._plans[self.default_plan], overrides or {})
        # Before the key is made: nothing may fail between that and telling it.
        warnings = await self._key_warnings(creator, overrides or {}, scopes)
        key = make_key(VIRTUAL_KEY_PREFIX, id)
        statement = statements.insert_key(
            key,
            self._secrets.digest("virtual-keys", key.text),
            creator,
            now=self._now_ms(),
            name=name,
            models=None if models is None else json_text(models),
            overrides=bounded_json(overrides or {}, "overrides", _OVERRIDES_BYTES_MAX),
            scopes=json_text(scopes),
            expires_at=self._expiry_ms(expires_at, expires_in_s),
            default_plan=default_plan,
        )
        try:
            (rows,) = await self._commit(statement)
        except Conflict as exc:
            raise _made_before() from exc
        if not rows:
            raise _no_creator()
        return _told_once(key, key_json(rows[0], self._now_ms())) | {"warnings": warnings}

    async def list_keys(self, creator: str, *, limit: int = PAGE_ROWS_DEFAULT, cursor: str | None = None) -> Page:
        """The creator's keys, oldest first, revoked and expired ones among them. Never their text."""
        await self._creator(creator)
        now = self._now_ms()
        order = (virtual_keys.c.created_at, virtual_keys.c.id)
        query = select(virtual_keys).where(virtual_keys.c.creator_id == creator).order_by(*order).limit(limit + 1)
        if cursor is not None:
            created_at, key_id = parse_key_cursor(cursor)
            later = and_(virtual_keys.c.created_at == created_at, virtual_keys.c.id > key_id)
            query = query.where(or_(virtual_keys.c.created_at > created_at, later))
        rows = await self._database.fetch_all(query)
        return page_json(rows, limit, lambda row: key_json(row, now), key_cursor)

    async def revoke_key(self, id: str) -> dict[str, Any]:
        """The key, refused from the next call on. Revoking again changes nothing."""
        (rows,) = await self._commit(statements.revoke_key(id, self._now_ms()), key_id=id)
        if not rows:
            raise _no_key()
        return key_json(rows[0], self._now_ms())

    async def pause_key(self, id: str) -> dict[str, Any]:
        """The key, whose calls are refused from the next one on until it is resumed. Pausing again changes nothing.

        Raises `NotFound`, or `RequestError` 409 for a revoked key.
        """
        return await self._set_pause(id, statements.pause_key(id, self._now_ms()))

    async def resume_key(self, id: str) -> dict[str, Any]:
        """The key, not paused any more. Resuming again changes nothing. Raises as `pause_key` does."""
        return await self._set_pause(id, statements.resume_key(id))

    async def _set_pause(self, id: str, write: Executable) -> dict[str, Any]:
        (rows,) = await self._commit(write, key_id=id)
        if not rows:
            await self._raise_why_not(id, "This key is revoked: it can be neither paused nor resumed.")
        return key_json(rows[0], self._now_ms())

    async def rotate_key(self, id: str, *, grace_s: int = GRACE_S_DEFAULT, new_id: str | None = None) -> dict[str, Any]:
        """A new key with all that the old one had but its text; the old one ends in `grace_s` seconds. The key that takes
        the place of a paused one is paused. `new_id` is the public id that it gets.

        Raises `RequestError` 409 when the old key is revoked, expired or was replaced before; `key_exists` when there is a
        key with the new id.
        """
        key = make_key(VIRTUAL_KEY_PREFIX, new_id)
        now = self._now_ms()
        digest = self._secrets.digest("virtual-keys", key.text)
        if await self._is_key(key.id):
            raise _made_before()
        try:
            new_rows, old_rows = await self._commit(
                statements.insert_successor(key, digest, id, now),
                statements.end_replaced(id, key.id, now + grace_s * 1000),
                key_id=id,
            )
        except Conflict as exc:
            raise _made_before() from exc
        if not new_rows:
            if await self._is_key(key.id):
                raise _made_before()  # by the same request, which came twice at once
            await self._raise_why_not(
                id, "This key is revoked, expired or was replaced before; only a live key can be rotated."
            )
        return _told_once(key, key_json(new_rows[0], now)) | {
            "replaces": id,
            "replaced_expires_at": instant_text(old_rows[0]["expires_at"]),
        }

    # Admin keys and the first run

    async def create_admin_key(self, *, name: str = "", role: Role = "owner", id: str | None = None) -> dict[str, Any]:
        """A new admin key, with its text under `key`: the only time it is told. `name` is that of whoever gets it. Raises
        `RequestError` (409 `key_exists`) where there is one with this `id`."""
        key = make_key(ADMIN_KEY_PREFIX, id)
        try:
            ((row,),) = await self._commit(self._insert_admin_key(key, name, role))
        except Conflict as exc:
            raise _made_before() from exc
        return _told_once(key, admin_key_json(row))

    async def list_admin_keys(self) -> Page:
        query = select(admin_keys).order_by(admin_keys.c.created_at, admin_keys.c.id).limit(PAGE_ROWS_MAX)
        return {"data": [admin_key_json(row) for row in await self._database.fetch_all(query)], "next_cursor": None}

    async def update_admin_key(self, id: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """The admin key with the named fields among `name` and `role`; what it may do counts from the next request on.

        Raises `NotFound`, or `RequestError` 409 for a revoked key and for the last owner (see `revoke_admin_key`).
        """
        return await self._change_admin_key(id, changes)

    async def revoke_admin_key(self, id: str) -> dict[str, Any]:
        """The admin key, refused from the next request on. Revoking again changes nothing.

        Raises `NotFound`, or `RequestError` 409 where nobody would be left who may make admin keys: neither another key
        with the role `owner` nor one in the settings.
        """
        return await self._change_admin_key(id, {"revoked_at": self._now_ms()})

    async def _change_admin_key(self, id: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        ledger, needs_owner = self._database.ledger, not self._has_settings_key
        change = partial(statements.change_admin_key, id=id, changes=changes, needs_owner=needs_owner)
        row = await ledger.to_its_end(ledger.run(change, is_patient=True), "write_accounts")
        if row is None:
            raise _no_key()
        return admin_key_json(row)

    async def has_creators(self) -> bool:
        """Whether there ever was one; deleted ones count."""
        return await self._database.fetch_one(select(creators.c.id).limit(1)) is not None

    async def has_admin_keys(self) -> bool:
        query = select(admin_keys.c.id).where(admin_keys.c.revoked_at.is_(None)).limit(1)
        return await self._database.fetch_one(query) is not None

    async def create_first(self, creator: str, *, with_admin_key: bool) -> tuple[NewKey, NewKey | None]:
        """The first creator with one key, and an admin key if asked for: all in one transaction, or nothing."""
        key = make_key(VIRTUAL_KEY_PREFIX)
        admin_key = make_key(ADMIN_KEY_PREFIX) if with_admin_key else None
        now = self._now_ms()
        digest = self._secrets.digest("virtual-keys", key.text)
        writes = [
            self._insert_creator(creator),
            statements.insert_key(key, digest, creator, now=now, name="first key"),
        ]
        if admin_key is not None:
            writes.append(self._insert_admin_key(admin_key, _FIRST_ADMIN, "owner"))
        await self._commit(*writes)
        return key, admin_key

    async def record_secret(self, *, replace: bool) -> bool:
        """Whether the root secret is the one this database's keys were made with.

        The first one seen is recorded as that; `replace` records this one when it is another.
        """
        mine = self._secrets.fingerprint
        query = select(meta.c.value).where(meta.c.key == _SECRET_FINGERPRINT)
        row = await self._database.fetch_one(query)
        if row is None:
            # Of processes that start together one is the first.
            await self._commit(statements.put_first_meta(_SECRET_FINGERPRINT, mine))
            row = await self._database.fetch_one(query)
        if row is not None and row["value"] == mine:
            return True
        if replace:
            await self._commit(*statements.put_meta(_SECRET_FINGERPRINT, mine))
        return False

    async def plans_in_use(self) -> set[str]:
        """Plans that creators are on, or keys bring creators to."""
        named = select(creators.c.plan).where(creators.c.deleted_at.is_(None)).distinct()
        rows = await self._database.fetch_all(named)
        brought = virtual_keys.c.default_plan.label("plan")
        named = select(brought).where(brought.is_not(None), virtual_keys.c.revoked_at.is_(None)).distinct()
        return {row["plan"] for row in rows + await self._database.fetch_all(named)}

    async def orphaned_plans(self) -> list[str]:
        """Plans in use that the plans file lacks: calls of those creators are refused until it is mended."""
        return sorted(await self.plans_in_use() - self._plans.keys())

    # Writing

    def _insert_creator(
        self,
        id: str | None,
        *,
        plan: str | None = None,
        name: str = "",
        overrides: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Executable:
        creator = id if id is not None else f"cr_{random_id()}"
        statements.check_creator_id(creator, "id")
        plan = plan if plan is not None else self.default_plan
        self._check_plan(plan)
        return statements.insert_creator(
            creator,
            name=name,
            plan=plan,
            overrides=self._overrides_text(overrides),
            metadata=bounded_json(metadata or {}, "metadata", _METADATA_BYTES_MAX),
            now=self._now_ms(),
        )

    def _insert_admin_key(self, key: NewKey, name: str, role: Role) -> Executable:
        digest = self._secrets.digest("admin-keys", key.text)
        return statements.insert_admin_key(key, digest, self._now_ms(), name=name, role=role)

    async def _commit(
        self,
        *writes: Executable,
        creator: str | None = None,
        key_id: str | None = None,
        seeds: Collection[str] = (),
    ) -> Rows:
        """Write, then forget what the write changed: both, even if the caller is cancelled or gives up in between.

        `seeds` are windows of `creator` that begin to count with this write: they begin with what was used already.
        """
        ledger = self._database.ledger

        async def write_and_forget() -> Rows:
            try:
                news = changed(creator=creator, key_id=key_id)
                if not seeds or creator is None or self._seed_windows is None:
                    return await ledger.write(*writes, is_patient=True, announces=news)
                rows = await ledger.write(*writes, is_patient=True)
                await self._seed_windows(seeds, [creator])
                await ledger.write(announces=news)  # other processes count on these windows from then on
                return rows
            finally:
                if creator is not None or key_id is not None:
                    self._authenticator.invalidate(creator=creator, key_id=key_id)

        return await ledger.to_its_end(write_and_forget(), "write_accounts")

    # Reading and checking

    async def _creator(self, id: str) -> Row:
        query = select(creators).where(creators.c.id == id, creators.c.deleted_at.is_(None))
        row = await self._database.fetch_one(query)
        if row is None:
            raise _no_creator()
        return row

    async def _raise_why_not(self, key_id: str, reason: str) -> NoReturn:
        """404 for a key that is none, 409 with `reason` for one that is."""
        if not await self._is_key(key_id):
            raise _no_key()
        raise RequestError(reason, status=409, code="key_not_live")

    async def _is_key(self, id: str) -> bool:
        return await self._database.fetch_one(select(virtual_keys.c.id).where(virtual_keys.c.id == id)) is not None

    async def _key_warnings(self, creator: str, overrides: Mapping[str, Any], scopes: Sequence[str]) -> list[str]:
        """A service key's limits span many creators, so that those of its own say nothing about them."""
        own = key_limits(overrides)
        row = None if own is None or ACT_FOR in scopes else await self._creator(creator)
        if row is None or row["plan"] not in self._plans:
            return []
        try:
            return idle_limits(own, with_overrides(self._plans[row["plan"]], orjson.loads(row["overrides"])))
        except (RequestError, orjson.JSONDecodeError):
            return []  # the creator's own overrides are refused at the next call, in clear words

    def _check_plan(self, plan: str, param: str = "plan") -> None:
        if plan not in self._plans:
            raise RequestError(
                f"There is no such plan. Plans: {', '.join(self._plans)}.", param=param, code="plan_unknown"
            )

    def _check_default_plan(self, plan: str, scopes: Sequence[str]) -> None:
        if ACT_FOR not in scopes:
            raise RequestError(
                f"`default_plan` is for keys with the scope `{ACT_FOR}`: others bring no creators.",
                param="default_plan",
                code="invalid_value",
            )
        self._check_plan(plan, "default_plan")

    def _overrides_text(self, overrides: Mapping[str, Any] | None) -> str:
        """Kept as they came, so that a later plan file applies to them; tried now, so that a wrong one is refused now."""
        text = bounded_json(overrides or {}, "overrides", _OVERRIDES_BYTES_MAX)
        with_overrides(self._plans[self.default_plan], overrides or {})
        return text

    def _expiry_ms(self, expires_at: datetime | None, expires_in_s: int | None) -> int | None:
        if expires_at is not None and expires_in_s is not None:
            raise RequestError(
                "Send `expires_at` or `expires_in_s`, not both.", param="expires_in_s", code="invalid_value"
            )
        now = self._now_ms()
        if expires_in_s is not None:
            return now + expires_in_s * 1000
        if expires_at is None:
            return None
        at = round(expires_at.timestamp() * 1000)
        if at <= now:
            raise RequestError("`expires_at` has passed already.", param="expires_at", code="invalid_value")
        if at > now + LIFETIME_S_MAX * 1000:
            raise RequestError("`expires_at` is more than 100 years away.", param="expires_at", code="invalid_value")
        return at

    def _now_ms(self) -> int:
        return int(self._wall_clock() * 1000)


def _told_once(key: NewKey, shown: dict[str, Any]) -> dict[str, Any]:
    return {"id": key.id, "key": key.text} | shown


def _no_creator() -> NotFound:
    return NotFound("There is no creator with this id.", code="creator_not_found")


def _no_key() -> NotFound:
    return NotFound("There is no key with this id.", code="key_not_found")


def _made_before() -> RequestError:
    return RequestError(
        "There is a key with this id already: it was made before, and its text was told then. Nothing was made now.",
        status=409,
        code="key_exists",
        param="id",
    )
