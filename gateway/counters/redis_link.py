"""The way to Redis: calls that arrive together share one round trip, and a server that is gone costs nobody a wait.

Everything asked for in one turn of the event loop is sent as one pipeline. Where all connections are busy it waits and
gathers more, so load makes the pipelines longer, not the queue. Nothing is ever sent twice: a command without an answer
may have been done, and who asked is told so.

A first failure closes the link: from then on calls are refused at once, until whoever watches the server opens it again.
Every new connection looks at whom it is connected to; a server other than the expected one is a failure too, so that no
script runs on a server that lost its data before somebody has noticed.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import structlog
from hiredis import pack_command
from redis.asyncio import BlockingConnectionPool, Connection
from redis.asyncio.connection import AbstractConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    NoPermissionError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from gateway.counters.base import RETRY_SOON, CountersUnavailable
from gateway.counters.redis_scripts import Reply, Script
from gateway.errors import ConfigError
from gateway.tasks import look_at, spawn

__all__ = ["INFO", "Command", "Limits", "RedisLink", "Server", "server_of", "unavailable"]

_log = structlog.get_logger()
_BATCH_MAX = 256
_QUEUE_MAX = 20_000
"""Calls waiting to be sent. Beyond it the server is not keeping up, and more would only wait in vain."""

Command = tuple[bytes | str | int, ...]
INFO: tuple[Command, ...] = (("INFO", "server"), ("INFO", "replication"), ("INFO", "stats"))
"""What `server_of` reads."""


class Limits(NamedTuple):
    """How long to wait, in seconds, and for how much."""

    connect_timeout_s: float = 0.5
    command_timeout_s: float = 0.5
    """For a whole pipeline, from its first byte to its last answer."""
    connections_max: int = 4


class Server(NamedTuple):
    """Who answers. After a restart or a failover it is somebody else, and what was written may be lost."""

    fingerprint: str
    is_primary: bool
    evicted_keys: int
    """Keys that it threw away to make room: a server of counters must not."""


class UnknownServer(RedisError):
    """Connected, but not to the server whose counters are known."""


class _Sent(NamedTuple):
    script: Script | None
    command: Command
    answer: "asyncio.Future[Any]"


def server_of(sections: Sequence[bytes]) -> Server:
    """The server that answered `INFO`."""
    lines = b"".join(sections).decode("utf-8", "replace").splitlines()
    figures = {name: value for name, colon, value in (line.partition(":") for line in lines) if colon}
    return Server(
        f"{figures.get('run_id', '')}/{figures.get('master_replid', '')}",
        figures.get("role", "master") == "master",
        int(figures.get("evicted_keys", 0)),
    )


def unavailable(why: str) -> CountersUnavailable:
    return CountersUnavailable(f"The store of the limits cannot be used: {why}.", headers=RETRY_SOON)


class RedisLink:
    """Lifetime: the process. Connects when first used. `on_failure` is called whenever the link closes itself."""

    def __init__(self, url: str, limits: Limits, on_failure: Callable[[], None]) -> None:
        try:
            how = cast(dict[str, Any], parse_url(url))
        except ValueError:
            raise ConfigError("GATEWAY_REDIS_URL is not a URL of the form redis://, rediss:// or unix://.") from None
        self._connection_class: type[AbstractConnection] = how.pop("connection_class", Connection)
        self._how = {
            **how,
            "socket_connect_timeout": limits.connect_timeout_s,
            "socket_timeout": None,  # one deadline for a whole pipeline replaces one for each answer
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
            "driver_info": None,
        }
        self._limits = limits
        self._pool = BlockingConnectionPool(
            limits.connections_max,
            limits.connect_timeout_s,
            self._connection_class,
            redis_connect_func=self._greet,
            **self._how,
        )
        self._on_failure = on_failure
        self._waiting: list[_Sent] = []
        self._is_flush_due = False
        self._busy = 0
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._closed_for: str | None = None
        self._expected: str | None = None
        """The fingerprint of the server that new connections must find; None until one is known."""
        self.round_trips = 0

    # For everybody

    def call(self, script: Script, keys: Sequence[str], args: Sequence[bytes | str | int]) -> "asyncio.Future[Reply]":
        """The script's reply. Raises `CountersUnavailable`, at once while the link is closed; the future may raise it too,
        and whether the script ran is not known then."""
        return self._queue(script, (b"EVALSHA", script.sha, len(keys), *keys, *args))

    def send(self, *command: bytes | str | int) -> "asyncio.Future[Any]":
        """The reply to a plain command; raises as `call`."""
        return self._queue(None, command)

    def require_open(self) -> None:
        """Raises `CountersUnavailable` while the link is closed."""
        if self._closed_for is not None:
            raise unavailable(self._closed_for)

    async def idle(self) -> None:
        """Returns once everything that was sent has been answered, or given up."""
        await self._is_idle.wait()

    # For whoever watches the server

    @property
    def is_open(self) -> bool:
        return self._closed_for is None

    async def expect(self, server: Server) -> None:
        """From now on this server counts, and nobody talks to another."""
        if server.fingerprint != self._expected:
            self._expected = server.fingerprint
            await self._pool.disconnect()

    def open(self) -> None:
        self._closed_for = None

    def close(self, why: str) -> None:
        """Refuse what comes. What was sent may still be answered."""
        if self._closed_for is None:
            _log.warning("counters_unavailable", reason=why)
            self._closed_for = why
            self._on_failure()

    async def ask(self, connection: AbstractConnection, *commands: Command) -> list[Any]:
        """The replies to `commands` on a connection of one's own, whether the link is open or not.

        Raises `CountersUnavailable`; the connection is closed then.
        """
        try:
            async with asyncio.timeout(self._limits.connect_timeout_s):
                await connection.connect()  # type: ignore[no-untyped-call]
            return await self._ask(connection, commands)
        except (RedisError, OSError, TimeoutError) as error:
            await connection.disconnect(nowait=True)
            raise unavailable(_reason(error)) from error

    def new_connection(self) -> AbstractConnection:
        """One that takes whichever server it finds."""
        return self._connection_class(**self._how)

    async def aclose(self) -> None:
        """Answers nothing from here on, and leaves no socket open."""
        self._closed_for = "it was closed"
        self._refuse(self._waiting, self._closed_for)
        self._waiting = []
        self._flush()
        await self.idle()
        await self._pool.disconnect()

    # How calls become pipelines

    def _queue(self, script: Script | None, command: Command) -> "asyncio.Future[Any]":
        self.require_open()
        if len(self._waiting) >= _QUEUE_MAX:
            raise unavailable("too many calls are waiting for it")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        self._is_idle.clear()
        self._waiting.append(_Sent(script, command, answer))
        if not self._is_flush_due:
            self._is_flush_due = True
            loop.call_soon(self._flush)
        return answer

    def _flush(self) -> None:
        self._is_flush_due = False
        while self._waiting and self._busy < self._limits.connections_max:
            batch, self._waiting = self._waiting[:_BATCH_MAX], self._waiting[_BATCH_MAX:]
            self._busy += 1
            spawn(self._deliver(batch), "counters_round_trip")
        if not self._busy and not self._waiting:
            self._is_idle.set()

    async def _deliver(self, batch: list[_Sent]) -> None:
        try:
            if self._closed_for is None:
                await self._exchange(batch)
        except (RedisError, OSError, TimeoutError) as error:
            self.close(_reason(error))
        finally:
            # After a failure, or if this task is cancelled: nobody is left waiting.
            self._refuse(batch, self._closed_for or "the call was given up")
            self._busy -= 1
            self._flush()

    async def _exchange(self, batch: list[_Sent]) -> None:
        async with asyncio.timeout(self._limits.connect_timeout_s):
            connection = await self._pool.get_connection()  # type: ignore[no-untyped-call]
        is_sound = False
        try:
            again = _settle(batch, await self._ask(connection, [each.command for each in batch]))
            if again:  # the server has not compiled these scripts yet: nothing of them was done
                _settle(again, await self._ask(connection, [_with_source(each) for each in again]))
            is_sound = True
        finally:
            if not is_sound:
                await connection.disconnect(nowait=True)
            await self._pool.release(connection)

    async def _ask(self, connection: AbstractConnection, commands: Sequence[Command]) -> list[Any]:
        """Replies, errors of single commands among them."""
        replies: list[Any] = []
        async with asyncio.timeout(self._limits.command_timeout_s):
            self.round_trips += 1
            await connection.send_packed_command(_packed(commands), check_health=False)
            for _ in commands:
                try:
                    replies.append(await connection.read_response(disable_decoding=True))
                except ReadOnlyError:
                    raise  # it is a replica now
                except ResponseError as error:
                    replies.append(error)
        return replies

    async def _greet(self, connection: AbstractConnection) -> None:
        """What a new connection does first."""
        await connection.on_connect()
        await connection.send_packed_command(_packed(INFO), check_health=False)
        server = server_of([await connection.read_response(disable_decoding=True) for _ in INFO])
        if server.fingerprint != self._expected:
            raise UnknownServer

    def _refuse(self, batch: Sequence[_Sent], why: str) -> None:
        for _, _, answer in batch:
            if not answer.done():
                answer.set_exception(unavailable(why))
                answer.add_done_callback(look_at)


def _settle(batch: Sequence[_Sent], replies: Sequence[Any]) -> list[_Sent]:
    """Hand out replies. Returns what has to be sent with its source."""
    again = []
    for each, reply in zip(batch, replies, strict=True):
        if isinstance(reply, NoScriptError) and each.script is not None:
            again.append(each)
        elif each.answer.done():  # nobody waits for it any more
            continue
        elif isinstance(reply, ResponseError):
            name = "" if each.script is None else each.script.name
            _log.error("counters_refused_by_redis", script=name, reason=str(reply)[:200])
            each.answer.set_exception(unavailable("it refuses to work"))
            each.answer.add_done_callback(look_at)
        else:
            each.answer.set_result(reply)
    return again


def _packed(commands: Sequence[Command]) -> bytes:
    return b"".join([pack_command(command) for command in commands])  # type: ignore[arg-type] # its stub knows one word


def _with_source(sent: _Sent) -> Command:
    source = b"" if sent.script is None else sent.script.source
    return (b"EVAL", source, *sent.command[2:])


def _reason(error: Exception) -> str:
    """Words of our own: those of the library may hold the address."""
    if isinstance(error, TimeoutError) or "imeout" in type(error).__name__:
        return "it does not answer in time"
    if isinstance(error, ReadOnlyError):
        return "it is a replica"
    if isinstance(error, UnknownServer):
        return "it was restarted or replaced"
    if isinstance(error, AuthenticationError | NoPermissionError | AuthenticationWrongNumberOfArgsError):
        return "it does not take the name and the password"
    if isinstance(error, ResponseError):
        return "it refuses to work"
    return "it cannot be reached"
