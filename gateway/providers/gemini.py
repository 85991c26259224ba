"""Google's Gemini API in its own dialect: chat, embeddings and images.

    /chat/completions     /models/NAME:generateContent, or :streamGenerateContent?alt=sse
    /embeddings           /models/NAME:batchEmbedContents
    /images/generations   /models/NAME:generateContent, or :predict for Imagen

The row has `base_url = "https://generativelanguage.googleapis.com/v1beta"` and `auth_header = "x-goog-api-key"`. What is
translated into what stands in `gemini_request`, `gemini_messages`, `gemini_answer`, `gemini_embeddings`, `gemini_images`.
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import orjson

from gateway.catalog import ProviderRow
from gateway.config import Settings
from gateway.errors import RequestError
from gateway.providers.base import Exchange, UpstreamRequest
from gateway.providers.gemini_answer import Asked, ChatTranslator
from gateway.providers.gemini_embeddings import EmbeddingsTranslator, embeddings_body
from gateway.providers.gemini_images import ImagesTranslator, images_body, is_imagen
from gateway.providers.gemini_request import chat_body, is_single_call, model_name, model_path
from gateway.providers.http_origin import HttpOrigin
from gateway.providers.translated import TranslatedExchange, Translator
from gateway.request_fields import dump_body, read_object

__all__ = ["Gemini"]


class _Call(NamedTuple):
    """One request in Gemini's dialect, and what its answer is turned by, once the answer's headers are here."""

    path: str
    body: dict[str, Any]
    translator: Callable[[Mapping[str, str]], Translator]


class Gemini:
    """Lifetime: the process."""

    def __init__(self, row: ProviderRow, api_key: str, settings: Settings) -> None:
        self.name = row.name
        self._http = HttpOrigin(row, api_key, settings)
        self._answer_bytes_max = settings.answer_bytes_max
        self._event_bytes_max = settings.stream_event_bytes_max

    async def open(self, request: UpstreamRequest, gate: Awaitable[None]) -> Exchange:
        """Send one call. Raises `RequestError` for what Gemini cannot be asked, before anything is sent;
        `UpstreamFailure`, or whatever `gate` raises."""
        call = self._translated(request)
        sent = request._replace(path=call.path, body=dump_body(call.body), headers=())
        inner = await self._http.send(sent, gate)
        return TranslatedExchange(inner, call.translator(inner.headers), answer_bytes_max=self._answer_bytes_max)

    async def close(self) -> None:
        await self._http.close()

    def _translated(self, request: UpstreamRequest) -> _Call:
        translate = {
            "/chat/completions": self._chat,
            "/embeddings": self._embeddings,
            "/images/generations": self._images,
        }.get(request.path)
        if translate is None or request.method != "POST" or request.content_type != "application/json":
            raise RequestError(
                "This model's provider does not have this endpoint.", code="unsupported_endpoint", param="model"
            )
        return translate(request, orjson.loads(request.body))

    def _chat(self, request: UpstreamRequest, body: dict[str, Any]) -> _Call:
        asked = Asked(
            model=model_name(body),
            answer_id=request.request_id,
            created=int(time.time()),
            has_usage_event=read_object(body, "stream_options").get("include_usage") is True,
            is_single_call=is_single_call(body),
            event_bytes_max=self._event_bytes_max,
        )
        method = "streamGenerateContent?alt=sse" if request.is_streaming else "generateContent"

        def translator(headers: Mapping[str, str]) -> Translator:
            return ChatTranslator(asked._replace(service_tier=headers.get("x-gemini-service-tier", "")))

        return _Call(model_path(asked.model, method), chat_body(body), translator)

    def _embeddings(self, request: UpstreamRequest, body: dict[str, Any]) -> _Call:
        model, translated = model_name(body), embeddings_body(body)
        is_base64, count = body.get("encoding_format") == "base64", len(translated["requests"])

        def translator(headers: Mapping[str, str]) -> Translator:
            return EmbeddingsTranslator(model, is_base64=is_base64, count=count)

        return _Call(model_path(model, "batchEmbedContents"), translated, translator)

    def _images(self, request: UpstreamRequest, body: dict[str, Any]) -> _Call:
        model, translated = model_name(body), images_body(body)
        created = int(time.time())

        def translator(headers: Mapping[str, str]) -> Translator:
            return ImagesTranslator(created)

        return _Call(model_path(model, "predict" if is_imagen(model) else "generateContent"), translated, translator)
