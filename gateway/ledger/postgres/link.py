"""One connection to PostgreSQL, its bounds set, and what every statement needs before it travels.

Sums of 64-bit columns come back as `numeric`: they are read as integers here, for money is one.
"""

import asyncio
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, Literal

import asyncpg  # type: ignore[import-untyped]
from sqlalchemy.dialects.postgresql.asyncpg import dialect as asyncpg_dialect
from sqlalchemy.engine import Dialect

__all__ = ["CHANNEL", "CONNECT_TIMEOUT_S", "LOCK_CLASS", "POSTGRES", "Link", "connect", "end", "storable"]

POSTGRES: Final[Dialect] = asyncpg_dialect(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]
Link = Any
"""An `asyncpg.Connection`, whose methods have no types that a checker could read."""
CONNECT_TIMEOUT_S = 5.0
LOCK_CLASS = 0x67_77_6C  # the first half of every advisory lock: other programs have their own
CHANNEL = "gateway"
"""On which the processes of a gateway tell each other what they changed."""
_STATEMENTS_KEPT = 512
_CLOSE_TIMEOUT_S = 2.0
_BOUNDS: Final = {
    "idle_in_transaction_session_timeout": "30s",
    "lock_timeout": "2s",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "20000",
    "jit": "off",  # statements are short
    "timezone": "UTC",
}
"""So that a gateway that vanished keeps no lock for long, wherever its machine went."""


async def connect(
    url: str,
    *,
    name: str,
    statement_timeout_s: float,
    answer_timeout_s: float | None = None,
    target: Literal["read-write", "primary"] = "primary",
    settings: Mapping[str, str] | None = None,
) -> Link:
    """A connection to a server that is no replica. Raises what asyncpg raises, `TimeoutError` after five seconds.

    A statement is ended by the server after `statement_timeout_s` (0: never), and given up here after `answer_timeout_s`,
    for a server that does not answer at all.
    """
    link: Link = await asyncpg.connect(
        url,
        timeout=CONNECT_TIMEOUT_S,
        command_timeout=answer_timeout_s,
        statement_cache_size=_STATEMENTS_KEPT,
        target_session_attrs=target,
        server_settings={
            **_BOUNDS,
            "application_name": name,
            "statement_timeout": str(int(statement_timeout_s * 1000)),
            **(settings or {}),
        },
    )
    try:
        await link.set_type_codec("numeric", schema="pg_catalog", encoder=str, decoder=_number, format="text")
    except BaseException:
        link.terminate()
        raise
    return link


async def end(link: Link) -> None:
    """Closed, if need be without a word to the server. Raises nothing."""
    try:
        await link.close(timeout=_CLOSE_TIMEOUT_S)
    except Exception:
        link.terminate()
        await asyncio.sleep(0)  # only then is the socket closed


def storable(values: Sequence[Any]) -> Sequence[Any]:
    """`values` without the character 0, which PostgreSQL keeps in no text."""
    if any(type(value) is str and "\0" in value for value in values):
        return [value.replace("\0", "\ufffd") if type(value) is str else value for value in values]
    return values


def _number(text: str) -> int | Decimal:
    return int(text) if text.lstrip("-").isdecimal() else Decimal(text)
