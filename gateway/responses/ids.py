"""Ids of responses, conversations and their items: those the gateway makes, and what it takes for one of a provider's."""

import random
import re
import time

from gateway.errors import RequestError

__all__ = ["checked_id", "is_id", "new_id"]

_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


def new_id(prefix: str) -> str:
    """`prefix`, an underscore and 32 hex digits, the first 12 of them the time in milliseconds: ids sort by time."""
    return f"{prefix}_{time.time_ns() // 1_000_000:012x}{random.getrandbits(80):020x}"


def is_id(value: object) -> bool:
    """Whether `value` may stand in a path, a table and a query as it is."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def checked_id(value: object, param: str) -> str:
    """`value` as an id. Raises `RequestError` naming `param`."""
    if not isinstance(value, str) or not is_id(value):
        raise RequestError(
            f"`{param}` must be an id: 1 to 128 letters, digits, dashes or underscores.",
            code="invalid_value",
            param=param,
        )
    return value
