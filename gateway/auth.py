"""Virtual key -> account, and admin key -> admin. The two kinds of key share no table, no digest and no path.

Every credential is hashed first and looked up by its digest, so that nothing about a wrong one can be learned from how
long the refusal took. A key that was seen before costs one HMAC and one dictionary look-up, without suspending, and so
does a creator whom a service key (scope `act_for`) named before.
"""

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from hmac import compare_digest
from typing import Generic, TypeVar

import structlog
from pydantic import SecretStr
from sqlalchemy import select

from gateway.account_statements import check_creator_id, insert_creator
from gateway.errors import GatewayError, RequestError, StoreError, Unauthenticated
from gateway.ledger.database import Conflict, Database
from gateway.ledger.faults import RETRY_AFTER_S
from gateway.ledger.schema import admin_keys
from gateway.principals import (
    CHALLENGE,
    Principal,
    denied,
    newcomer,
    paused,
    plan_unknown,
    read_acting,
    read_creator,
    read_principal,
    refused,
)
from gateway.roles import SETTINGS, Admin
from gateway.secrets import Secrets
from policies.types import Account, Plan

Headers = Sequence[tuple[bytes, bytes]]

ACT_FOR = "act_for"
"""The scope of service keys: their calls may be another creator's."""
CREATOR_HEADER = "x-gateway-creator"

CREATOR_HEADER_BYTES = CREATOR_HEADER.encode()
_CACHED_KEYS_MAX = 10_000
_LENT_BYTES = 32
_LOAD_LOCKS = 64
_LOAD_TRIES = 3
_NEVER = float("inf")
_log = structlog.get_logger()

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


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


class _Cache(Generic[Key, Value]):
    """Bounded: keeps what was used last, and believes nothing for longer than `max_age_s`, nor beyond its own end."""

    def __init__(self, entries_max: int, max_age_s: float | None, clock: Callable[[], float]) -> None:
        self._entries_max = entries_max
        self.max_age_s = max_age_s
        self._clock = clock
        self._entries: OrderedDict[Key, tuple[Value, float, float]] = OrderedDict()

    def get(self, key: Key, now_s: float = 0.0) -> Value | None:
        """None for what ended at `now_s` (Unix time) or before."""
        entry = self._entries.get(key)
        if entry is None or now_s >= entry[2]:
            return None
        if self.max_age_s is not None and self._clock() - entry[1] > self.max_age_s:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: Key, value: Value, read_at_s: float, ends_at_s: float = _NEVER) -> None:
        self._entries[key] = value, read_at_s, ends_at_s
        self._entries.move_to_end(key)
        if len(self._entries) > self._entries_max:
            self._entries.popitem(last=False)

    def forget(self, is_meant: Callable[[Value], bool]) -> None:
        for key in [key for key, (value, *_) in self._entries.items() if is_meant(value)]:
            del self._entries[key]

    def clear(self) -> None:
        self._entries.clear()


class _Loading:
    """One load at a time. Whoever waits for one that fails fails with it, or a database that does not answer would keep
    each of them as long as the one before, and longer."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._failures = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Raises `StoreError` where what is done inside raises it."""
        failures = self._failures
        async with self._lock:
            if self._failures != failures:
                raise _unreadable()
            try:
                yield
            except StoreError as error:
                self._failures += 1
                raise _unreadable() from error


class Authenticator:
    """Knows the keys that were used lately; the rest it reads from the database.

    `max_age_s` is how long an entry may be believed: None where every write goes through this process, or is told to it,
    which calls `invalidate`; about a second while others write and cannot be heard (`believe`). `plans` is read at every load, so it
    may be changed in place: call `invalidate` right after.
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
        self._wall_clock = wall_clock
        self._monotonic_clock = monotonic_clock
        bounds = cached_keys_max, max_age_s, monotonic_clock
        self._known: _Cache[bytes, Principal] = _Cache(*bounds)
        self._refused: _Cache[bytes, bool] = _Cache(*bounds)
        self._acting: _Cache[tuple[str, str], Principal] = _Cache(*bounds)
        self._lent: dict[bytes, bytes] = {}
        self.generation = 0
        """Another number after every write that may have changed what `authenticate` would answer."""
        # Calls that bring the same unknown key at once read it once; strangers' keys cannot flood the database.
        self._loading = [_Loading() for _ in range(_LOAD_LOCKS)]

    async def authenticate(self, headers: Headers) -> Account:
        """Whom the key in `headers` belongs to. Does not suspend for a key that is cached.

        Raises `Unauthenticated`, in the same words for unknown, malformed, revoked and expired keys and deleted
        creators, `PolicyDenied` when the key is paused, the creator's plan no longer exists or the overrides cannot be
        applied any more, `StoreError` when the database cannot be read.
        """
        credential = find_credential(headers)
        if not credential:
            raise _missing()
        digest = self._digest(credential)
        now_s = self._wall_clock()
        principal = self._known.get(digest, now_s) or await self._load_key(digest)
        if principal is None or now_s >= principal.expires_at_s:
            raise refused()
        if principal.is_paused:
            raise paused()
        return principal.account

    async def resolve_creator(
        self, account: Account, headers: Headers, user: object = None, *, brings: bool = True
    ) -> Account:
        """Whose call it is: `account` itself, or the creator a service key names in `x-gateway-creator`, else in `user`.

        `user` is the body's field as it came; from a key without the scope `act_for` it means nothing. `brings` as in
        `act_for`. Does not suspend where nobody is named or the creator is cached. Raises `RequestError` (400) for an
        unusable name or a header given twice, and what `act_for` raises.
        """
        named = [value for name, value in headers if name == CREATOR_HEADER_BYTES]
        if named:
            if len(named) > 1:
                raise _unusable("is given twice: a call has one creator", CREATOR_HEADER)
            return await self.act_for(account, named[0].decode("latin-1").strip(" \t"), brings=brings)
        if user is None or ACT_FOR not in account.scopes:
            return account
        if not isinstance(user, str):
            raise _unusable("must be a string: from this key it names the creator", "user")
        return await self.act_for(account, user, param="user", brings=brings)

    async def act_for(
        self, account: Account, name: str, *, param: str = CREATOR_HEADER, brings: bool = True
    ) -> Account:
        """The creator `name` with its own plan, overrides and credits, under the restrictions of the key of `account`.

        A creator nobody knows is made, on the key's `default_plan` if it has one: that is for calls. Without `brings`
        nothing is written, and the answer is the account that a call would make. Does not suspend for one that is cached.
        Raises `PolicyDenied` (403): `act_for_not_allowed`, `creator_unknown`, `creator_inactive` (deleted ones too),
        `plan_unknown`, `overrides_unusable`; `RequestError` (400) naming `param` for what cannot be an id; `StoreError`.
        """
        if name == account.creator:
            return account
        if ACT_FOR not in account.scopes:
            raise denied(
                f"This key may not act for another creator: leave the header `{CREATOR_HEADER}` out, or use a key with "
                f"the scope `{ACT_FOR}`.",
                "act_for_not_allowed",
                param=param,
            )
        acting = self._acting.get((account.key_id, name), self._wall_clock())
        return await self._load_acting(account, name, param, brings) if acting is None else acting.account

    async def account_of(self, creator: str) -> Account | None:
        """The creator's account as it stands in the database, for an admin's question; None if there is none."""
        return await read_creator(self._database, self._plans, creator, self._wall_clock())

    def digest(self, credential: str) -> str:
        """What the database keeps instead of a virtual key."""
        return self._digest(credential.encode("utf-8", "replace")).hex()

    @contextmanager
    def lend(self, digest: str) -> Iterator[bytes]:
        """A credential as good as the virtual key that has this `digest`, in this process and while the context is entered:
        for somebody who showed the key itself before. Raises nothing; `authenticate` does."""
        credential = secrets.token_urlsafe(_LENT_BYTES).encode()
        lent = self._digest(credential)
        self._lent[lent] = bytes.fromhex(digest)
        try:
            yield credential
        finally:
            del self._lent[lent]

    def believe(self, max_age_s: float | None) -> None:
        """From now on an entry is believed for so long; None: until `invalidate`."""
        for cache in (self._known, self._refused, self._acting):
            cache.max_age_s = max_age_s

    def invalidate(self, *, creator: str | None = None, key_id: str | None = None) -> None:
        """Forget the keys of `creator`, one key, or (with neither) everything. Called right after a write committed."""
        self.generation += 1
        self._refused.clear()
        if creator is None and key_id is None:
            self._known.clear()
            self._acting.clear()
            return
        for cache in (self._known, self._acting):
            cache.forget(lambda known: known.account.key_id == key_id or known.account.creator == creator)

    async def _load_key(self, digest: bytes) -> Principal | None:
        if (lent := self._lent.get(digest)) is not None:
            return self._known.get(lent, self._wall_clock()) or await self._load_key(lent)
        if self._refused.get(digest):
            return None
        async with self._loading[digest[0] % _LOAD_LOCKS].turn():
            now_s = self._wall_clock()
            if (principal := self._known.get(digest, now_s)) is not None or self._refused.get(digest):
                return principal

            def remember(principal: Principal | None, read_at_s: float) -> None:
                if principal is None:
                    self._refused.put(digest, True, read_at_s)
                else:
                    self._known.put(digest, principal, read_at_s, principal.reload_at_s)

            return await self._settled(
                lambda: read_principal(self._database, self._plans, digest.hex(), now_s), remember
            )

    async def _load_acting(self, account: Account, name: str, param: str, brings: bool) -> Account:
        check_creator_id(name, param)
        async with self._loading[hash(name) % _LOAD_LOCKS].turn():
            if (known := self._acting.get((account.key_id, name), self._wall_clock())) is not None:
                return known.account
            found = await self._read_acting(account, name)
            if found is None and not brings:
                # Not remembered: to the next call it must still be somebody to bring.
                found = await newcomer(self._database, self._plans, account.key_id, name)
            elif found is None:
                await self._bring(account, name)
                found = await self._read_acting(account, name)
            if found is None:
                raise _unknown(param)
            return found

    async def _read_acting(self, account: Account, name: str) -> Account | None:
        now_s = self._wall_clock()

        def remember(found: Principal | None, read_at_s: float) -> None:
            # That there is none is not remembered: the next call may come after the admin made it.
            if found is not None:
                self._acting.put((account.key_id, name), found, read_at_s, found.reload_at_s)

        found = await self._settled(
            lambda: read_acting(self._database, self._plans, account.key_id, name, now_s), remember
        )
        return None if found is None else found.account

    async def _bring(self, account: Account, name: str) -> None:
        """Makes the creator on the key's default plan, durably; nothing where the key has none."""
        plan = account.default_plan
        if plan is None:
            return
        if plan not in self._plans:
            raise plan_unknown(plan)
        try:
            await self._database.write(insert_creator(name, plan=plan, now=int(self._wall_clock() * 1000)))
        except Conflict:
            return  # another key or process was faster, and theirs is as good
        _log.info("creator_brought", creator=name, plan=plan, key_id=account.key_id)

    async def _settled(self, read: Callable[[], Awaitable[Value]], remember: Callable[[Value, float], None]) -> Value:
        """Reads until no write came in between: what was read before a revocation must not be remembered after it."""
        for _ in range(_LOAD_TRIES):
            generation = self.generation
            read_at_s = self._monotonic_clock()
            value = await read()
            if generation == self.generation:
                remember(value, read_at_s)
                break
        return value


class AdminAuthenticator:
    """Admin keys: the one of the settings, and those in the database. Reads the database each time: off the hot path."""

    def __init__(self, database: Database, secrets: Secrets, admin_key: SecretStr | None) -> None:
        self._database = database
        self._digest = secrets.hasher("admin-keys")
        # Both sides are hashed, so that the comparison tells neither the length nor a common beginning.
        self._settings_digest = None if admin_key is None else self._digest(admin_key.get_secret_value().encode()).hex()

    async def authenticate(self, headers: Headers) -> Admin:
        """Whose admin key is in `headers`. Raises `Unauthenticated`, `StoreError`."""
        credential = find_credential(headers)
        if not credential:
            raise _missing()
        admin = await self.admin_of(self._digest(credential).hex())
        if admin is None:
            raise refused()
        return admin

    def digest(self, key: str) -> str:
        """What the database keeps instead of an admin key."""
        return self._digest(key.encode("utf-8", "replace")).hex()

    async def admin_of(self, digest: str) -> Admin | None:
        """Whose admin key has this digest; None where it is nobody's, or revoked. Raises `StoreError`."""
        if self._settings_digest is not None and compare_digest(digest, self._settings_digest):
            return SETTINGS
        query = select(admin_keys.c.id, admin_keys.c.name, admin_keys.c.role).where(
            admin_keys.c.digest == digest, admin_keys.c.revoked_at.is_(None)
        )
        row = await self._database.fetch_one(query)
        return None if row is None else Admin(row["id"], row["name"], row["role"])


def _unreadable() -> StoreError:
    return StoreError("Keys cannot be looked up at the moment.", headers={"retry-after": str(RETRY_AFTER_S)})


def _missing() -> GatewayError:
    return Unauthenticated(
        "No API key was sent: put it into the header `Authorization: Bearer KEY`.", headers=CHALLENGE
    )


def _unusable(reason: str, param: str) -> RequestError:
    return RequestError(f"`{param}` {reason}.", param=param, code="invalid_value")


def _unknown(param: str) -> GatewayError:
    return denied(
        "There is no creator with the id this call names, and this key may not bring new ones: an admin must make it, "
        "or give the key a default plan.",
        "creator_unknown",
        param=param,
    )
