"""Sessions: an opaque token in a cookie instead of the key somebody signed in with.

Of the token only an HMAC is kept. A session says which key it began with, and is over with that key: the key is looked up
again at every request. It also ends unused, and at a fixed age.
"""

import secrets
from collections.abc import Callable
from typing import Any

from sqlalchemy import delete, insert, or_, select, update

from gateway.auth import AdminAuthenticator, Authenticator
from gateway.dashboard.viewer import Viewer
from gateway.errors import GatewayError
from gateway.ledger.database import Database
from gateway.ledger.schema import sessions
from gateway.secrets import ADMIN_KEY_PREFIX, Secrets

__all__ = ["IDLE_S", "LIFETIME_S", "SessionBook"]

LIFETIME_S = 12 * 3_600
IDLE_S = 2 * 3_600
_TOKEN_BYTES = 32
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
    ) -> None:
        self._database = database
        self._digest = secrets.hasher("sessions")
        self._authenticator = authenticator
        self._admins = admin_authenticator
        self._wall_clock = wall_clock

    async def open(self, key: str) -> tuple[str, Viewer]:
        """A new session's token, and whose it is. Raises what either authenticator raises for `key`."""
        headers = [(b"authorization", b"Bearer " + key.encode("utf-8", "replace"))]
        # An admin key of the settings may look like anything: whatever is no admin's is asked for as a virtual key.
        digest = self._admins.digest(key)
        admin = await self._admins.admin_of(digest)
        if admin is None:
            if key.startswith(f"{ADMIN_KEY_PREFIX}-"):
                await self._admins.authenticate(headers)  # raises
            account = await self._authenticator.authenticate(headers)
            digest = self._authenticator.digest(key)
            viewer = Viewer("", creator=account.creator, key_id=account.key_id, key_digest=digest)
        else:
            viewer = Viewer("", admin=admin)
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        session_id, now = self._id_of(token), self._now_ms()
        row = {
            "id": session_id,
            "kind": "creator" if admin is None else "admin",
            "key_digest": digest,
            "created_at": now,
            "seen_at": now,
            "expires_at": now + LIFETIME_S * 1000,
        }
        await self._database.write(delete(sessions).where(self._is_over(now)), insert(sessions).values(row))
        return token, viewer._replace(session_id=session_id)

    async def find(self, token: str) -> Viewer | None:
        """Whose session it is; None where there is none, or no longer. Raises `StoreError`."""
        session_id, now = self._id_of(token), self._now_ms()
        row = await self._database.fetch_one(select(sessions).where(sessions.c.id == session_id, ~self._is_over(now)))
        if row is None or (viewer := await self._viewer(row)) is None:
            return None
        if now - row["seen_at"] >= _SEEN_EVERY_S * 1000:
            await self._database.write(update(sessions).where(sessions.c.id == session_id).values(seen_at=now))
        return viewer

    async def close(self, session_id: str) -> None:
        await self._database.write(delete(sessions).where(sessions.c.id == session_id))

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
