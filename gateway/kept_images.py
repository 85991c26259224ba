"""What the gateway keeps of the images a creator had made: their history, and the images where URLs were asked for.

An image request has a keeper, made when it was read (`KeptImages.keeper`), whose `keep` it calls once its call is booked
and before its answer leaves:
1. every image that came back gets a row in `generations`: prompt, model, size, the request that paid for it;
2. where the caller asked for `response_format: "url"` and the provider sent base64, the image goes into the library, and
   the answer says a signed URL in its place;
3. where that does not work (no image we serve, too large, storing off, the store down) the base64 stays, and a line in
   the log says why. Nothing here makes an answer fail that the creator has paid for.

An image the provider itself has at a URL is not fetched: its history has no picture.
"""

import asyncio
import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson
import structlog

from gateway.assets.library import Library
from gateway.assets.links import AssetLinks
from gateway.catalog import Model
from gateway.errors import StoreError
from gateway.ledger.database import Database
from gateway.ledger.faults import Conflict
from gateway.ledger.generations import GENERATION_PREFIX, AssetRow, forget_creator, insert_images
from gateway.model_request import Answered, ModelRequest
from gateway.pricing import UnpricedUsage

__all__ = ["ImageKeeper", "KeptImages"]

_log = structlog.get_logger()

PROMPT_CHARS_MAX = 1_000
_DECODED_AT_ONCE_CHARS = 4 * 2**16
IMAGES_MAX = 16
"""Kept of one call: more than `n` can ask for, in case a provider sends more; the rest stays as it came."""


class _Image(NamedTuple):
    position: int
    entry: Mapping[str, Any]


class KeptImages:
    """Lifetime: the process."""

    def __init__(self, database: Database, library: Library, links: AssetLinks, *, keeps_history: bool = True) -> None:
        """`keeps_history`: whether prompts and models are recorded; images at URLs are kept either way."""
        self._database = database
        self.library = library
        self.links = links
        self._keeps_history = keeps_history

    def keeper(self, body: Mapping[str, Any]) -> "ImageKeeper":
        """For one request. What is kept of its body is taken now: once it was sent, nobody has it any more."""
        # Said by nobody, the provider's own default counts.
        return ImageKeeper(self, _cut(body.get("prompt")), wants_urls=body.get("response_format") == "url")

    async def forget(self, creator: str) -> None:
        """Remove everything kept for a creator: history, rows, files. Raises `StoreError`."""
        await self.library.remove(await forget_creator(self._database, creator))

    async def close(self) -> None:
        await self.library.close()

    async def keep_images(
        self, answered: Answered, request: ModelRequest, prompt: str, *, wants_urls: bool
    ) -> bytes | None:
        """As `ImageKeeper.keep`."""
        images = _images(answered, request)
        stored = await self._store(images, answered) if wants_urls else {}
        made = self._made(answered, request, prompt, images, stored) if self._keeps_history else []
        try:
            await insert_images(self._database, made=made, kept=self._kept(answered, stored))
        except (StoreError, Conflict) as exc:
            _log.warning("images_not_recorded", request_id=answered.request_id, error=exc.message)
            self.library.discard(stored.values())
            return None
        if not stored:
            return None
        self.library.added(answered.account.creator, stored.values())
        return self._with_urls(answered, stored)

    async def _store(self, images: Sequence[_Image], answered: Answered) -> dict[int, AssetRow]:
        """By position: what is in the store now, of the images that came as base64."""
        encoded = [
            (image.position, text)
            for image in images
            if not image.entry.get("url") and isinstance(text := image.entry.get("b64_json"), str) and text
        ]
        if not encoded:
            return {}
        if not self.library.is_open:
            _log.info("images_not_stored", request_id=answered.request_id, why="storing is off", images=len(encoded))
            return {}
        bytes_max = self.library.bounds.asset_bytes_max
        decoded = await asyncio.to_thread(lambda: [_decoded(text, bytes_max) for _, text in encoded])
        rows = await self.library.put(decoded)
        return {position: row for (position, _), row in zip(encoded, rows, strict=True) if row is not None}

    def _made(
        self,
        answered: Answered,
        request: ModelRequest,
        prompt: str,
        images: Sequence[_Image],
        stored: Mapping[int, AssetRow],
    ) -> list[dict[str, Any]]:
        """Rows of `generations`."""
        model, account = answered.model, answered.account
        # The newest come first in every list: that the first image does among those of its request, ids run backwards.
        ids = [self.library.next_id() for _ in images][::-1]
        return [
            {
                "id": GENERATION_PREFIX + made_id,
                "account_id": account.account_id,
                "creator": account.creator,
                "request_id": answered.request_id,
                "position": image.position,
                "endpoint": request.endpoint,
                "model": model.name,
                "provider": model.provider,
                "prompt": prompt,
                "revised_prompt": _cut(image.entry.get("revised_prompt")),
                "variant": _variant(request, model),
                "asset_id": stored[image.position].id if image.position in stored else "",
                "is_selected": False,
                "created_at": created_at,
            }
            for image, (made_id, created_at) in zip(images, ids, strict=True)
        ]

    def _kept(self, answered: Answered, stored: Mapping[int, AssetRow]) -> list[dict[str, Any]]:
        """Rows of `assets`."""
        account = answered.account
        whose = {"account_id": account.account_id, "creator": account.creator}
        return [{**row._asdict(), **whose, "created_at": self.library.now_ms()} for row in stored.values()]

    def _with_urls(self, answered: Answered, stored: Mapping[int, AssetRow]) -> bytes:
        assert answered.answer is not None  # noqa: S101 -- what is stored came out of it
        data = list(answered.answer["data"])
        for position, row in stored.items():
            rest = {name: value for name, value in data[position].items() if name != "b64_json"}
            data[position] = {**rest, "url": self.links.make(row.id, self.library.now_ms() / 1000).url}
        return orjson.dumps({**answered.answer, "data": data})


class ImageKeeper:
    """Lifetime: one request."""

    __slots__ = ("_kept", "_prompt", "_wants_urls")

    def __init__(self, kept: KeptImages, prompt: str, *, wants_urls: bool) -> None:
        self._kept = kept
        self._prompt = prompt
        self._wants_urls = wants_urls

    async def keep(self, answered: Answered, request: ModelRequest) -> bytes | None:
        """Record and store. Returns the body to send instead, or None where the answer stays as it came. Raises nothing
        but cancellation."""
        return await self._kept.keep_images(answered, request, self._prompt, wants_urls=self._wants_urls)


def _images(answered: Answered, request: ModelRequest) -> list[_Image]:
    """The images of an answer: those with a picture, by their place in it. Of a stream only their number is known."""
    if answered.answer is None:
        # A stream that is given again went through no relay; it was kept because all that was asked for came.
        count = request.images if answered.relay is None else answered.relay.metered(is_partial=False).images
        return [_Image(position, {}) for position in range(min(count, IMAGES_MAX))]
    data = answered.answer.get("data")
    entries = data[:IMAGES_MAX] if isinstance(data, list) else []
    return [
        _Image(position, entry)
        for position, entry in enumerate(entries)
        if isinstance(entry, dict) and (entry.get("url") or entry.get("b64_json"))
    ]


def _decoded(text: str, bytes_max: int) -> bytes:
    """Empty, and so no image, for what is no base64 or too long to be decoded at all."""
    if len(text) > (bytes_max + 2) // 3 * 4 or text.find("=", 0, -2) >= 0:
        return b""
    try:
        # In pieces: one call keeps the interpreter's lock, and the event loop waiting, until it is through.
        pieces = [
            base64.b64decode(text[at : at + _DECODED_AT_ONCE_CHARS], validate=True)
            for at in range(0, len(text), _DECODED_AT_ONCE_CHARS)
        ]
    except (binascii.Error, ValueError):
        return b""
    return b"".join(pieces)


def _variant(request: ModelRequest, model: Model) -> str:
    try:
        return request.variant(model)
    except UnpricedUsage:
        return ""


def _cut(text: object) -> str:
    """What fits a list. Without NUL, which not every database keeps in a text."""
    return text[:PROMPT_CHARS_MAX].replace("\0", "") if isinstance(text, str) else ""
