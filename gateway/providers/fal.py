"""fal.ai: images over its synchronous endpoints, `POST https://fal.run/<model id>`.

A row in the catalog: `dialect = "fal"`, `base_url = "https://fal.run"`, `api_key_env = "FAL_KEY"`; the key goes into
`authorization: Key ...`. What is asked and answered is turned in `gateway.providers.fal_images`.

fal bills a request that was fully sent whether or not its answer arrives, and nothing can cancel it: the pipeline's rule
for unanswered images, which charges all that were asked for, is also fal's.
"""

import time
from collections.abc import Awaitable
from dataclasses import replace

import orjson

from gateway.catalog import ProviderRow
from gateway.config import Settings
from gateway.errors import RequestError
from gateway.providers.base import Exchange, UpstreamRequest
from gateway.providers.fal_images import FalImages, Kind, fal_call
from gateway.providers.http_origin import HttpOrigin
from gateway.providers.translated import TranslatedExchange

__all__ = ["Fal"]

_KINDS: dict[str, Kind] = {"/images/generations": "generations", "/images/edits": "edits"}


class Fal:
    """Lifetime: the process."""

    def __init__(self, row: ProviderRow, api_key: str, settings: Settings) -> None:
        self.name = row.name
        self._http = HttpOrigin(replace(row, auth_scheme=row.auth_scheme or "Key"), api_key, settings)
        self._answer_bytes_max = settings.answer_bytes_max

    async def open(self, request: UpstreamRequest, gate: Awaitable[None]) -> Exchange:
        """Send one call. Raises `RequestError` for what fal cannot be asked for, `UpstreamFailure`, or what `gate` raises."""
        kind = _KINDS.get(request.path)
        if kind is None or request.is_streaming:
            raise RequestError("This model makes and edits images, whole ones only.", code="unsupported_endpoint")
        if request.content_type != "application/json":
            raise RequestError(
                "This model takes images to edit as URLs or data: URLs in a JSON body, not as a form.",
                code="unsupported_content_type",
            )
        call = fal_call(kind, orjson.loads(request.body))
        # No header of the caller's: fal's own steer retries, queues and how long files are kept.
        sent = request._replace(path=call.path, body=call.body, headers=())
        translator = FalImages(call.prompt, created=int(time.time()))
        inner = await self._http.send(sent, gate)
        exchange = TranslatedExchange(inner, translator, answer_bytes_max=self._answer_bytes_max)
        if (upstream_id := inner.headers.get("x-fal-request-id")) is not None:
            # Under the name by which every upstream's id of a call is looked for.
            exchange.headers = {**exchange.headers, "x-request-id": upstream_id}
        return exchange

    async def close(self) -> None:
        await self._http.close()
