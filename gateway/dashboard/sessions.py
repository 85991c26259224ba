"""Sessions: an opaque token in a cookie instead of the key somebody signed in with.

Of the token only an HMAC is kept. A session says which key it began with, and is over with that key: the key is looked up
again at every request. It also ends unused, and at a fixed age.
"""

import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from sqlalchemy import delete, insert, or_, select, update

from gateway.auth import AdminAuthenticator, Authenticator
from gateway.dashboard.attempts import Attempts
from gateway.dashboard.viewer import Viewer
from gateway.errors import GatewayError, StoreError
from gateway.ledger.database import Database
from gateway.ledger.schema import sessions
from gateway.secrets import ADMIN_KEY_PREFIX, Secrets

__all__ = ["IDLE_S", "LIFETIME_S", "SessionBook"]

LIFETIME_S = 12 * 3_600
IDLE_S = 2 * 3_600
_TOKEN_BYTES = 32
_TOKEN_CHARS_MAX = 100
_PER_KEY_MAX = 50
"""Of one key the newest so many: whoever signs in over and over fills no table."""
_SEEN_EVERY_S = 60
"""How exactly it is known when a session was last used: a write a minute at most."""


class SessionBook:
    """Lifetime: the process. What it knows is in the database, for all processes."""

    def __init__(
        self,
        database: Database,
        secrets: Secrets,
        authenticator: Authenticator,
        admin_authenticator: AdminAuthenticator,
        *,
        wall_clock: Callable[[], float],
        monotonic_clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._digest = secrets.hasher("sessions")
        self._authenticator = authenticator
        self._admins = admin_authenticator
        self._wall_clock = wall_clock
        self.attempts = Attempts(monotonic_clock)

    async def recognise(self, key: str) -> tuple[Viewer, str]:
        """Whose admin key or virtual key it is, and the digest to `open` a session with.

        Raises what either authenticator raises for `key`.
        """
        headers = [(b"authorization", b"Bearer " + key.encode("utf-8", "replace"))]
        # An admin key of the settings may look like anything: whatever is no admin's is asked for as a virtual key.
        digest = self._admins.digest(key)
        admin = await self._admins.admin_of(digest)
        if admin is not None:
            return Viewer("", admin=admin), digest
        if key.startswith(f"{ADMIN_KEY_PREFIX}-"):
            await self._admins.authenticate(headers)  # raises
        account = await self._authenticator.authenticate(headers)
        digest = self._authenticator.digest(key)
        return Viewer("", creator=account.creator, key_id=account.key_id, key_digest=digest), digest

    async def open(self, viewer: Viewer, digest: str) -> str:
        """A new session's token, for whom `recognise` found. Raises `StoreError`."""
        token, now = secrets.token_urlsafe(_TOKEN_BYTES), self._now_ms()
        row = {
            "id": self._id_of(token),
            "kind": "creator" if viewer.admin is None else "admin",
            "key_digest": digest,
            "created_at": now,
            "seen_at": now,
            "expires_at": now + LIFETIME_S * 1000,
        }
        same = sessions.c.key_digest == digest
        newest = select(sessions.c.id).where(same).order_by(sessions.c.created_at.desc()).limit(_PER_KEY_MAX - 1)
        await self._database.write(
            delete(sessions).where(self._is_over(now)),
            delete(sessions).where(same, sessions.c.id.not_in(newest)),
            insert(sessions).values(row),
        )
        return token

    async def find(self, token: str, *, is_use: bool = True) -> Viewer | None:
        """Whose session it is; None where there is none, or no longer. Raises `StoreError`.

        Unused for `IDLE_S` it is over; being found is a use of it only if `is_use`.
        """
        if len(token) > _TOKEN_CHARS_MAX:
            return None
        session_id, now = self._id_of(token), self._now_ms()
        row = await self._database.fetch_one(select(sessions).where(sessions.c.id == session_id, ~self._is_over(now)))
        if row is None or (viewer := await self._viewer(row)) is None:
            return None
        if is_use and now - row["seen_at"] >= _SEEN_EVERY_S * 1000:
            # A store that takes no writes is one to be looked at all the more: the session may end early instead.
            with suppress(StoreError):
                await self._database.write(update(sessions).where(sessions.c.id == session_id).values(seen_at=now))
        return viewer

    async def close(self, session_id: str) -> None:
        """Ends it, now and everywhere. Raises `StoreError`."""
        await self._database.write(delete(sessions).where(sessions.c.id == session_id))

    async def close_token(self, token: str) -> None:
        """The same by what the cookie holds, whether there is such a session or not."""
        await self.close(self._id_of(token))

    async def _viewer(self, row: Any) -> Viewer | None:
        if row["kind"] == "admin":
            admin = await self._admins.admin_of(row["key_digest"])
            return None if admin is None else Viewer(row["id"], admin=admin)
        with self._authenticator.lend(row["key_digest"]) as credential:
            try:
                account = await self._authenticator.authenticate([(b"authorization", b"Bearer " + credential)])
            except GatewayError as error:
                if error.status >= 500:
                    raise
                return None
        return Viewer(row["id"], creator=account.creator, key_id=account.key_id, key_digest=row["key_digest"])

    def _is_over(self, now: int) -> Any:
        return or_(sessions.c.expires_at <= now, sessions.c.seen_at <= now - IDLE_S * 1000)

    def _id_of(self, token: str) -> str:
        return self._digest(token.encode("utf-8", "replace")).hex()

    def _now_ms(self) -> int:
        return int(self._wall_clock() * 1000)
