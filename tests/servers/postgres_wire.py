"""One question to PostgreSQL over its own protocol, so that tests do not look through the gateway's driver.

Protocol 3.0, simple queries, values as text, no encryption (PostgreSQL documentation, "Message Formats").
"""

import socket
import struct
from collections.abc import Iterator
from typing import BinaryIO

Row = tuple[str | None, ...]
_PROTOCOL = 3 << 16


class PostgresError(Exception):
    """The server refused; `code` is the SQLSTATE. After one that `ends_session` the connection is of no more use."""

    def __init__(self, code: str, message: str, *, ends_session: bool) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.ends_session = ends_session


class Session:
    """One connection, closed at the end of a `with`. Raises `PostgresError`, `TimeoutError`, `OSError`."""

    def __init__(self, port: int, *, user: str, database: str, within_s: float) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=within_s)
        self._answers: BinaryIO = self._socket.makefile("rb")
        try:
            words = b"\0".join(word.encode() for word in ("user", user, "database", database))
            self._socket.sendall(_framed(b"", struct.pack("!i", _PROTOCOL) + words + b"\0\0"))
            self._until_ready()
        except BaseException:
            self.close()
            raise

    def query(self, sql: str) -> list[Row]:
        """The rows of one statement, or of the last of several."""
        self._socket.sendall(_framed(b"Q", sql.encode() + b"\0"))
        return self._until_ready()

    def close(self) -> None:
        self._answers.close()
        self._socket.close()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _until_ready(self) -> list[Row]:
        rows: list[Row] = []
        refusal: PostgresError | None = None
        for kind, body in self._messages():
            match kind:
                case b"R" if body != b"\0\0\0\0":
                    raise AssertionError("the server asks for a password, which a test's server does not")
                case b"T":
                    rows = []
                case b"D":
                    rows.append(_row(body))
                case b"E":
                    refusal = _error(body)
                    if refusal.ends_session:
                        break
                case b"Z":
                    break
        if refusal:
            raise refusal
        return rows

    def _messages(self) -> Iterator[tuple[bytes, bytes]]:
        while True:
            head = self._answers.read(5)
            if len(head) < 5:
                raise ConnectionResetError("the server closed the connection")
            yield head[:1], self._answers.read(struct.unpack("!i", head[1:])[0] - 4)


def _framed(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


def _row(body: bytes) -> Row:
    values: list[str | None] = []
    at = 2
    for _ in range(struct.unpack_from("!h", body)[0]):
        (length,) = struct.unpack_from("!i", body, at)
        at += 4
        values.append(None if length < 0 else body[at : at + length].decode())
        at += max(length, 0)
    return tuple(values)


def _error(body: bytes) -> PostgresError:
    fields = {part[:1]: part[1:].decode(errors="replace") for part in body.split(b"\0") if part}
    return PostgresError(fields[b"C"], fields[b"M"], ends_session=fields[b"V"] in ("FATAL", "PANIC"))
