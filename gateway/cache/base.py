"""The contract of a store of kept answers. One suite runs on every backend."""

from typing import Literal, NamedTuple, Protocol

__all__ = ["CacheStats", "CacheStore", "CachedAnswer", "Kind", "Wish"]

Kind = Literal["chat", "completion", "embedding", "image"]
"""What a kept answer is: decides on how long it is kept."""

Wish = Literal["", "read", "refresh", "bypass"]
"""What one call wants of kept answers: nothing, to read and keep, to keep only; `bypass`: it would, but cannot."""


class CachedAnswer(NamedTuple):
    """One answer as its first caller got it."""

    creator: str
    """Who bought it: whose deletion takes it away, whatever its scope."""
    model: str
    """The catalog's name of the model that served it."""
    provider: str
    kind: Kind
    content_type: str
    is_streaming: bool
    body: bytes
    """The whole body; of a stream everything that was sent, its end included."""
    cost_nano_usd: int
    """What it cost then, over all attempts: what a hit saves."""
    created_at_ms: int
    expires_at_ms: int
    """Unix time. From this instant on it is not given out."""


class CacheStats(NamedTuple):
    """What there is, and what happened since the start of the process."""

    answers: int
    size_bytes: int
    """Of the kept bodies and their rows' other columns, as they are counted against the bound."""
    bytes_max: int
    hits: int
    misses: int
    stored: int
    evicted: int
    """Taken out for want of room; not those that expired."""


class CacheStore(Protocol):
    """Bounded in bytes. A store in trouble is an empty one: it loses answers, and never makes a call fail.

    `key` is a hex digest of everything the answer depends on, its scope included.
    """

    async def get(self, key: str) -> CachedAnswer | None:
        """The answer, unless it has expired. Counts as used now. Never raises."""
        ...

    async def put(self, key: str, answer: CachedAnswer) -> None:
        """Keep it in place of what is there; makes room by removing what expired, then what was unused longest. An answer
        larger than the whole store is not kept. Never raises."""
        ...

    async def remove(self, *, creator: str | None = None, model: str | None = None) -> int:
        """Remove the answers that match all that is given; with nothing given, all. Returns how many. Raises `StoreError`:
        who asked for it must know."""
        ...

    async def remove_expired(self) -> int:
        """Returns how many went. Never raises."""
        ...

    async def stats(self) -> CacheStats:
        """Raises `StoreError`."""
        ...

    async def close(self) -> None: ...
