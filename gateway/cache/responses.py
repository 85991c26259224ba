"""Kept answers as the pipeline sees them: whether a call wants one, under which key, and what may be kept.

1. `wish`: what the call and its plan say, and whether such a request can be kept at all;
2. `key`, once it is known which model would serve it and what that would be sent; `find` looks under it;
3. `keep`, after the answer was booked: only what is whole, was reported in full by its provider and is not too large.

Where the store is and how it makes room is `gateway.cache.base`; who pays for a hit is the pipeline's.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from gateway.cache.base import CachedAnswer, CacheStore, Kind, Wish
from gateway.cache.keys import answer_key
from gateway.cache.whole import is_whole, is_whole_stream
from gateway.catalog import Model
from gateway.config import Settings
from gateway.errors import RequestError
from gateway.metering import Metered
from gateway.model_request import ModelRequest, Outgoing
from policies.types import Account

__all__ = ["CACHE_HEADER", "ResponseCache"]

CACHE_HEADER = b"x-gateway-cache"
_WORDS = (b"on", b"off", b"refresh")
_JUDGED_AT_ONCE_BYTES = 2**16
"""Longer streams are read through on a thread: one of 200 kB takes 9 ms, and every other call would wait for it."""


class ResponseCache:
    """Lifetime: the process."""

    def __init__(
        self,
        store: CacheStore | None,
        *,
        digest: Callable[[bytes], bytes],
        settings: Settings,
        wall_clock: Callable[[], float],
    ) -> None:
        """`store` is None where nothing is kept at all; `digest` is keyed; `wall_clock` gives Unix seconds."""
        self.store = store
        self.answer_bytes_max = settings.cache_answer_bytes_max
        self._digest = digest
        self._wall_clock = wall_clock
        self._normalises_prompts = settings.cache_image_prompts == "normalised"
        self._forgotten: set[str] = set()
        """Creators deleted since the start, whose last calls may still be under way. Their ids are never used again."""
        self._ttl_s: Mapping[Kind, int] = {
            "chat": settings.cache_chat_ttl_s,
            "completion": settings.cache_completion_ttl_s,
            "embedding": settings.cache_embedding_ttl_s,
            "image": settings.cache_image_ttl_s,
        }

    def wish(self, account: Account, headers: Mapping[bytes, bytes], request: ModelRequest) -> Wish:
        """What the call wants of the cache. Raises `RequestError` for a header that says neither of the three words,
        also where nothing is kept. Asked before the request's body is let go of."""
        said = headers.get(CACHE_HEADER)
        use = account.plan.cache
        if said is None and use != "on":
            return ""
        word = _checked(said)
        if use == "never" or word == b"off":
            return ""
        # Of another conversation's calls of tools nobody wants to hear who has not said so.
        if self._ttl_of(request) == 0 or (said is None and request.has_tools):
            return "bypass"
        return "refresh" if word == b"refresh" else "read"

    def key(self, account: Account, request: ModelRequest, model: Model, outgoing: Outgoing) -> str:
        """What an answer of `model` to `outgoing` is found by; empty where there is no such thing, as what is sent is no
        JSON. `request.body` is the caller's, without its labels."""
        return answer_key(self._digest, account, request, model, outgoing, normalises_prompts=self._normalises_prompts)

    async def find(self, key: str) -> CachedAnswer | None:
        """The answer kept under `key`, unless it has expired. Never raises."""
        return await self.store.get(key) if self.store is not None and key else None

    async def keep(
        self,
        key: str,
        account: Account,
        request: ModelRequest,
        model: Model,
        metered: Metered,
        *,
        answer: Mapping[str, Any] | None,
        body: bytes,
        content_type: str,
        cost_nano_usd: int,
    ) -> bool:
        """Keep an answer that came with status 200, in full and unclamped, if it is worth it. Returns whether it was handed
        to the store. Never raises.

        `answer` is a JSON body parsed; None for a stream, of which `body` has all that was sent. `cost_nano_usd` is what
        it cost over all attempts.
        """
        kind, ttl_s = request.cache_kind, self._ttl_of(request)
        if self.store is None or not key or not kind or not ttl_s or not 0 < len(body) <= self.answer_bytes_max:
            return False
        # Whose provider says what it consumed has also said that this was all of it.
        if metered.source != "provider" or not metered.is_answer or not await _is_all(request, answer, body):
            return False
        # Asked last, with no waiting before the store has the answer: it does in order what it is asked.
        if account.creator in self._forgotten:
            return False
        now_ms = int(self._wall_clock() * 1000)
        await self.store.put(
            key,
            CachedAnswer(
                creator=account.creator,
                model=model.name,
                provider=model.provider,
                kind=kind,
                content_type=content_type,
                is_streaming=answer is None,
                body=body,
                cost_nano_usd=cost_nano_usd,
                created_at_ms=now_ms,
                expires_at_ms=now_ms + ttl_s * 1000,
            ),
        )
        return True

    async def forget(self, creator: str) -> None:
        """Remove what was bought by a creator, in whatever scope, and keep nothing more of it. Raises `StoreError`."""
        self._forgotten.add(creator)
        if self.store is not None:
            await self.store.remove(creator=creator)

    async def clear(self, *, creator: str | None = None, model: str | None = None) -> int:
        """How many answers were removed: all that match, of those in this process's own store. Raises `StoreError`."""
        given = {name: value for name, value in (("creator", creator), ("model", model)) if value is not None}
        return 0 if self.store is None else await self.store.remove(**given)

    async def sweep(self) -> None:
        """Remove what has expired. Never raises."""
        if self.store is not None:
            await self.store.remove_expired()

    async def close(self) -> None:
        if self.store is not None:
            await self.store.close()

    def _ttl_of(self, request: ModelRequest) -> int:
        """Seconds that its answer is kept; 0 where it is not."""
        kind = request.cache_kind
        return self._ttl_s[kind] if kind and self.store is not None else 0


def _checked(said: bytes | None) -> bytes:
    """The header's word in small letters; empty where there is none. Raises `RequestError`."""
    if said is None:
        return b""
    word = said.lower()
    if word not in _WORDS:
        raise RequestError(
            "`x-gateway-cache` takes `on`, `off` or `refresh`.", code="invalid_value", param="x-gateway-cache"
        )
    return word


async def _is_all(request: ModelRequest, answer: Mapping[str, Any] | None, body: bytes) -> bool:
    if answer is not None:
        return is_whole(request, answer)
    if len(body) <= _JUDGED_AT_ONCE_BYTES:
        return is_whole_stream(request, body)
    return await asyncio.to_thread(is_whole_stream, request, body)
