"""What processes tell each other, and what they do about it.

Words: `creator ID` and `key ID` (changed: forget what is remembered of it), `cache {"creator": ..., "model": ...}` (remove
kept answers; with neither, all), `forgotten ID` (a creator was erased), `notice` (see `gateway.ledger.notices`). Plans and
prices need no word: each process sees by a number in the database that they were read again.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from gateway.auth import Authenticator
    from gateway.cache.responses import ResponseCache
    from gateway.instances.base import Instances

__all__ = ["CACHE", "FORGOTTEN", "Announce", "changed", "listen"]

_CREATOR, _KEY = "creator", "key"
CACHE, FORGOTTEN = "cache", "forgotten"

Announce = Callable[[str, str], Awaitable[None]]
"""Told a word and the rest; returns when all processes that are connected have been sent it."""


def changed(*, creator: str | None = None, key_id: str | None = None) -> tuple[str, ...]:
    """What to announce with a write that changed them."""
    named = (_CREATOR, creator), (_KEY, key_id)
    return tuple(f"{word} {name}" for word, name in named if name is not None)


def listen(instances: "Instances", authenticator: "Authenticator", cache: "ResponseCache") -> None:
    """From now on this process does what others announce."""

    async def forget_creator(creator: str) -> None:
        authenticator.invalidate(creator=creator)

    async def forget_key(key_id: str) -> None:
        authenticator.invalidate(key_id=key_id)

    async def clear_cache(rest: str) -> None:
        await cache.clear(**orjson.loads(rest))

    instances.on(_CREATOR, forget_creator)
    instances.on(_KEY, forget_key)
    instances.on(CACHE, clear_cache)
    instances.on(FORGOTTEN, cache.forget)
