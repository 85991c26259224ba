"""Waiting for a condition instead of for time."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE_S = 15.0
"""Bound on hanging, never a claim about speed: the machine may be busy."""
_POLL_S = 0.01


def eventually(condition: Callable[[], T], what: str, within_s: float = PATIENCE_S) -> T:
    """The first truthy result of `condition`. Raises `AssertionError` naming `what` when it never comes."""
    deadline = time.monotonic() + within_s
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {within_s:g} s in vain: {what}")
        time.sleep(_POLL_S)
    return result


async def soon(condition: Callable[[], T], what: str, within_s: float = PATIENCE_S) -> T:
    """`eventually` for tests whose own event loop has work to do meanwhile."""
    deadline = time.monotonic() + within_s
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {within_s:g} s in vain: {what}")
        await asyncio.sleep(_POLL_S)
    return result
