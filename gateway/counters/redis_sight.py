"""How the server of the counters looks: what a look at it reads, on a connection of the watch's own."""

from typing import Any, NamedTuple

import structlog

from gateway.counters.redis_link import INFO, Command, RedisLink, Server, server_of, unavailable
from gateway.counters.redis_names import Names

__all__ = ["Seen", "Sight"]

_log = structlog.get_logger()

_EPOCH_LASTS_S = 180 * 86_400


class Seen(NamedTuple):
    """The server at one instant."""

    server: Server
    epoch: str | None
    epoch_server: str
    made_at: float
    last_epoch: str
    evicted_keys: int
    """When the epoch was made."""
    clock_s: float
    """What the server's clock says, as Unix time."""
    rebuilding: str | None
    """The epoch that is being made."""
    database_id: str
    """Of the database that the counters are filled from; empty where nobody has said."""

    def is_sound(self, database_id: str) -> bool:
        """The epoch's counters are all there, and those of that database (empty: of whichever)."""
        return (
            database_id in ("", self.database_id)
            and self.epoch_server == self.server.fingerprint
            and self.evicted_keys == self.server.evicted_keys
            and abs(self.clock_s - self.made_at) < _EPOCH_LASTS_S
        )


class Sight:
    """Lifetime: the process. For one task at a time: its commands go over one connection, whether the link is open or not.

    `is_here` is sent with every look: it says that this process is alive. All methods raise `CountersUnavailable`.
    """

    def __init__(self, link: RedisLink, names: Names, is_here: Command) -> None:
        self._link = link
        self._names = names
        self._is_here = is_here
        self._connection = link.new_connection()

    async def see(self) -> Seen:
        names = self._names
        *sections, clock, epoch, server, rebuilding, database_id, _ = await self.ask(
            *INFO,
            ("TIME",),
            ("GET", names.epoch),
            ("HMGET", names.server, "server", "made_at", "epoch", "evicted"),
            ("GET", names.rebuild),
            ("GET", names.database),
            self._is_here,
        )
        fingerprint, made_at, last_epoch, evicted = (part or b"" for part in server)
        return Seen(
            server_of(sections),
            epoch and epoch.decode(),
            fingerprint.decode(),
            float(made_at or 0),
            last_epoch.decode(),
            int(evicted or 0),
            float(clock[0]),
            rebuilding and rebuilding.decode(),
            (database_id or b"").decode(),
        )

    async def ask(self, *commands: Command) -> list[Any]:
        """The replies; an error among them is raised."""
        replies = await self._link.ask(self._connection, *commands)
        for reply in replies:
            if isinstance(reply, Exception):
                _log.error("counters_refused_by_redis", reason=str(reply)[:200])
                raise unavailable("it refuses to work")
        return replies

    async def eval(self, source: bytes, keys: tuple[str, ...], *args: bytes | str | int) -> Any:
        """What a script says that is sent with its source, for those that run once in a while."""
        (reply,) = await self.ask((b"EVAL", source, len(keys), *keys, *args))
        return reply

    async def aclose(self) -> None:
        await self._connection.disconnect()
