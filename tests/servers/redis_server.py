"""A real Redis or Valkey server for tests, and the little of its protocol that a test needs to look at it."""

import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Self

from tests.rig.waiting import PATIENCE_S, eventually
from tests.servers import provision
from tests.servers.process import Server

PASSWORD = "redis-canary-0123456789abcdef"
"""Every server asks for it; it must turn up in no log and no error of the gateway."""

Reply = str | int | list["Reply"] | None


class RedisError(Exception):
    """The server answered with an error; the text is its own."""


class RedisServer(Server):
    """A server that keeps nothing unless `appendonly`: what a write answered then outlives a kill, but for a power cut.

    `maxmemory` is bytes, or text such as `8mb`, 0 for no bound; at the bound writes are refused. `settings` are lines of
    redis.conf. `DEBUG` is allowed, so that `DEBUG SLEEP 2` makes a slow server.
    """

    def __init__(
        self,
        *,
        appendonly: bool = False,
        maxmemory: int | str = 0,
        replicaof: "RedisServer | None" = None,
        settings: Mapping[str, object] | None = None,
        program: Path | None = None,
    ) -> None:
        self._program = program or provision.redis_program()
        super().__init__()
        self._primary = replicaof
        self._settings = {
            "bind": "127.0.0.1",
            "port": self.port,
            "dir": self.folder,
            "requirepass": PASSWORD,
            "masterauth": PASSWORD,
            "save": '""',
            "appendonly": "yes" if appendonly else "no",
            "maxmemory": maxmemory,
            "enable-debug-command": "local",
            "repl-diskless-sync-delay": 0,
            **(settings or {}),
        }

    @property
    def url(self) -> str:
        return f"redis://:{PASSWORD}@127.0.0.1:{self.port}/0"

    def command(self, *words: str | int, within_s: float = PATIENCE_S) -> Reply:
        """The answer to one command, on a connection of its own. Raises `RedisError`, `TimeoutError`, `OSError`."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=within_s) as connection:
            connection.sendall(_request("AUTH", PASSWORD) + _request(*words))
            with connection.makefile("rb") as answers:
                _reply(answers)
                return _reply(answers)

    def info(self, section: str) -> dict[str, str]:
        """`INFO`, by field."""
        lines = str(self.command("INFO", section)).splitlines()
        return {name: value for name, colon, value in (line.partition(":") for line in lines) if colon}

    def ping(self, within_s: float = PATIENCE_S) -> bool:
        with suppress(RedisError):  # it is loading its data
            return self.command("PING", within_s=within_s) == "PONG"
        return False

    def flush(self) -> None:
        """Forgets every key; loaded scripts stay."""
        self.command("FLUSHALL")

    def promote(self) -> None:
        """Makes a replica a primary, as a failover does; its former primary is told nothing."""
        self.command("REPLICAOF", "NO", "ONE")
        self._primary = None

    def synced(self) -> Self:
        """Waits until this replica has all that its primary had written when asked. Raises `AssertionError`."""
        assert self._primary is not None, f"{self} is no replica"
        written = int(self._primary.info("replication")["master_repl_offset"])
        eventually(lambda: self._has_read(written), f"{self} to be in step with its primary")
        return self

    def _has_read(self, offset: int) -> bool:
        seen = self.info("replication")
        return seen.get("master_link_status") == "up" and int(seen["slave_repl_offset"]) >= offset

    def _command(self) -> list[str]:
        primary = {"replicaof": f"127.0.0.1 {self._primary.port}"} if self._primary else {}
        lines = [f"{name} {value}\n" for name, value in {**self._settings, **primary}.items()]
        (self.folder / "redis.conf").write_text("".join(lines))
        return [str(self._program), str(self.folder / "redis.conf")]


def _request(*words: str | int) -> bytes:
    parts = [str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


def _reply(answers: BinaryIO) -> Reply:
    """One value of the Redis protocol, version 2. Raises `RedisError`, and `ConnectionError` when the server hung up."""
    line = answers.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionResetError("the server closed the connection")
    kind, text = line[:1], line[1:-2].decode()
    match kind:
        case b"+":
            return text
        case b"-":
            raise RedisError(text)
        case b":":
            return int(text)
        case b"$":
            return None if text == "-1" else answers.read(int(text) + 2)[:-2].decode()
        case b"*":
            return None if text == "-1" else [_reply(answers) for _ in range(int(text))]
    raise AssertionError(f"not the Redis protocol: {line!r}")
