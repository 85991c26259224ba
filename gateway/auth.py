"""Virtual key -> account, and admin key -> admin. The two kinds of key share no table, no digest and no path.

Every credential is hashed first and looked up by its digest, so that nothing about a wrong one can be learned from how
long the refusal took. A key that was seen before costs one HMAC and one dictionary look-up, without suspending.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from hmac import compare_digest
from typing import Any, NamedTuple

import orjson
import structlog
from pydantic import SecretStr
from sqlalchemy import select

from gateway.errors import GatewayError, PolicyDenied, Unauthenticated
from gateway.ledger.database import Database
from gateway.ledger.schema import admin_keys, creators, virtual_keys
from gateway.plans import with_overrides
from gateway.secrets import Secrets
from policies.types import Account, Plan

Headers = Sequence[tuple[bytes, bytes]]

_CACHED_KEYS_MAX = 10_000
_LOAD_LOCKS = 64
_LOAD_TRIES = 3
_NEVER = float("inf")
_log = structlog.get_logger()


class _Principal(NamedTuple):
    account: Account
    expires_at_s: float
    """Unix time; infinite for keys without an end."""
    loaded_at_s: float
    """On the monotonic clock."""


def find_credential(headers: Headers) -> bytes:
    """The key in `Authorization: Bearer`, else `x-api-key`, else `api-key`; empty if there is none. Names are lower-case."""
    for name, value in headers:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].strip()
    other = b""
    for name, value in headers:
        if name == b"x-api-key" or (name == b"api-key" and not other):
            other = value
    return other.strip()


class Authenticator:
    """Knows the keys that were used lately; the rest it reads from the database.

    `max_age_s` is how long an entry may be believed: None where every write goes through this process, which calls
    `invalidate`; about a second where other processes write to the same database.
    """

    def __init__(
        self,
        database: Database,
        plans: Mapping[str, Plan],
        secrets: Secrets,
        *,
        max_age_s: float | None = None,
        cached_keys_max: int = _CACHED_KEYS_MAX,
        wall_clock: Callable[[], float] = time.time,
        monotonic_clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._plans = plans
        self._digest = secrets.hasher("virtual-keys")
        self._max_age_s = max_age_s
        self._cached_keys_max = cached_keys_max
        self._wall_clock = wall_clock
        self._monotonic_clock = monotonic_clock
        self._known: OrderedDict[bytes, _Principal] = OrderedDict()
        self._refused: OrderedDict[bytes, float] = OrderedDict()
        self._generation = 0
        # Calls that bring the same unknown key at once read it once; strangers' keys cannot flood the database.
        self._loading = [asyncio.Lock() for _ in range(_LOAD_LOCKS)]

    async def authenticate(self, headers: Headers) -> Account:
        """Whom the key in `headers` belongs to. Does not suspend for a key that is cached.

        Raises `Unauthenticated`, in the same words for unknown, malformed, revoked and expired keys and deleted
        creators, `PolicyDenied` when the creator's plan no longer exists, `StoreError` when the database cannot be read.
        """
        credential = find_credential(headers)
        if not credential:
            raise _missing()
        digest = self._digest(credential)
        principal = self._cached(digest) or await self._load_once(digest)
        if principal is None or self._wall_clock() >= principal.expires_at_s:
            raise _refused()
        return principal.account

    def invalidate(self, *, creator: str | None = None, key_id: str | None = None) -> None:
        """Forget the keys of `creator`, one key, or (with neither) everything. Called right after a write committed."""
        self._generation += 1
        self._refused.clear()
        if creator is None and key_id is None:
            self._known.clear()
            return
        for digest, principal in list(self._known.items()):
            if principal.account.key_id == key_id or principal.account.creator == creator:
                del self._known[digest]

    def _cached(self, digest: bytes) -> _Principal | None:
        principal = self._known.get(digest)
        if principal is None or self._is_stale(principal.loaded_at_s):
            return None
        self._known.move_to_end(digest)
        return principal

    def _is_stale(self, loaded_at_s: float) -> bool:
        return self._max_age_s is not None and self._monotonic_clock() - loaded_at_s > self._max_age_s

    def _is_refused(self, digest: bytes) -> bool:
        loaded_at_s = self._refused.get(digest)
        return loaded_at_s is not None and not self._is_stale(loaded_at_s)

    async def _load_once(self, digest: bytes) -> _Principal | None:
        if self._is_refused(digest):
            return None
        async with self._loading[digest[0] % _LOAD_LOCKS]:
            if (principal := self._cached(digest)) is not None or self._is_refused(digest):
                return principal
            return await self._load(digest)

    async def _load(self, digest: bytes) -> _Principal | None:
        """Reads until no write came in between: what was read before a revocation must not be remembered after it."""
        for _ in range(_LOAD_TRIES):
            generation = self._generation
            loaded_at_s = self._monotonic_clock()
            row = await self._database.fetch_one(_KEY_BY_DIGEST.where(virtual_keys.c.digest == digest.hex()))
            principal = None if row is None else self._principal(row, loaded_at_s)
            if generation == self._generation:
                self._remember(digest, principal, loaded_at_s)
                break
        return principal

    def _remember(self, digest: bytes, principal: _Principal | None, loaded_at_s: float) -> None:
        cache: OrderedDict[bytes, Any] = self._refused if principal is None else self._known
        cache[digest] = loaded_at_s if principal is None else principal
        cache.move_to_end(digest)
        if principal is None:
            self._known.pop(digest, None)
        if len(cache) > self._cached_keys_max:
            cache.popitem(last=False)

    def _principal(self, row: Mapping[str, Any], loaded_at_s: float) -> _Principal:
        plan = self._plans.get(row["plan"])
        if plan is None:
            _log.warning("plan_unknown", creator=row["creator_id"], plan=row["plan"])
            raise _plan_unknown(row["plan"])
        for overrides in (row["creator_overrides"], row["key_overrides"]):
            plan = with_overrides(plan, orjson.loads(overrides))
        models = row["models"]
        account = Account(
            creator=row["creator_id"],
            account_id=row["account_id"],
            key_id=row["id"],
            plan=plan,
            models=None if models is None else frozenset(orjson.loads(models)),
        )
        expires_at = row["expires_at"]
        return _Principal(account, _NEVER if expires_at is None else expires_at / 1000, loaded_at_s)


class AdminAuthenticator:
    """Admin keys: the one of the settings, and those in the database. Reads the database each time: off the hot path."""

    def __init__(self, database: Database, secrets: Secrets, admin_key: SecretStr | None) -> None:
        self._database = database
        self._digest = secrets.hasher("admin-keys")
        # Both sides are hashed, so that the comparison tells neither the length nor a common beginning.
        self._settings_digest = None if admin_key is None else self._digest(admin_key.get_secret_value().encode())

    async def authenticate(self, headers: Headers) -> str:
        """The admin key's public id, or `settings` for the one in `GATEWAY_ADMIN_KEY`. Raises `Unauthenticated`."""
        credential = find_credential(headers)
        if not credential:
            raise _missing()
        digest = self._digest(credential)
        if self._settings_digest is not None and compare_digest(digest, self._settings_digest):
            return "settings"
        query = select(admin_keys.c.id).where(admin_keys.c.digest == digest.hex(), admin_keys.c.revoked_at.is_(None))
        row = await self._database.fetch_one(query)
        if row is None:
            raise _refused()
        return str(row["id"])


_KEY_BY_DIGEST = (
    select(
        virtual_keys.c.id,
        virtual_keys.c.creator_id,
        virtual_keys.c.account_id,
        virtual_keys.c.models,
        virtual_keys.c.expires_at,
        virtual_keys.c.overrides.label("key_overrides"),
        creators.c.plan,
        creators.c.overrides.label("creator_overrides"),
    )
    .join(creators, creators.c.id == virtual_keys.c.creator_id)
    .where(virtual_keys.c.revoked_at.is_(None), creators.c.is_active, creators.c.deleted_at.is_(None))
)

_CHALLENGE = {"www-authenticate": "Bearer"}


def _missing() -> GatewayError:
    return Unauthenticated(
        "No API key was sent: put it into the header `Authorization: Bearer KEY`.", headers=_CHALLENGE
    )


def _refused() -> GatewayError:
    return Unauthenticated(
        "The API key is not valid: it is unknown, expired or revoked. Ask the gateway's admin for one.",
        headers=_CHALLENGE,
    )


def _plan_unknown(plan: str) -> GatewayError:
    return PolicyDenied(
        f"The plan `{plan}` of this creator is not in the gateway's plans file: its admin must add it or move the creator.",
        status=403,
        type="invalid_request_error",
        code="plan_unknown",
    )
