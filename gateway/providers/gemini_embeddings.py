"""OpenAI's embeddings over `batchEmbedContents`: request and answer. Pure.

Field names are those of google-genai 3.4.0 (`_EmbedContentParametersPrivate_to_mldev`, `EmbedContentResponse`). Vectors
come back as Google made them: the older models normalise only those of full length.
"""

import sys
from array import array
from base64 import b64encode
from collections.abc import Mapping
from typing import Any, Final

import orjson

from gateway.providers.gemini_answer import parse_answer
from gateway.providers.gemini_errors import Refusing
from gateway.providers.gemini_request import model_name, refuse_unknown
from gateway.providers.gemini_usage import embedding_usage
from gateway.providers.translated import Untranslatable
from gateway.request_fields import read_integer, read_short_text, wrong

__all__ = ["EmbeddingsTranslator", "embeddings_body"]

TEXTS_MAX: Final = 100
"""What Google takes in one batch."""
_DIMENSIONS_MAX: Final = 1_000_000
_KNOWN: Final = frozenset({"model", "input", "encoding_format", "dimensions", "user", "metadata", "service_tier"})


def embeddings_body(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body of `batchEmbedContents`. Raises `RequestError`: token arrays mean nothing to another tokenizer."""
    refuse_unknown(body, _KNOWN)
    model = model_name(body)
    if read_short_text(body, "encoding_format") not in ("", "float", "base64"):
        raise wrong("encoding_format", "must be float or base64")
    dimensions = read_integer(body, "dimensions", 1, _DIMENSIONS_MAX)
    extra = {} if dimensions is None else {"outputDimensionality": dimensions}
    return {
        "requests": [
            {"model": f"models/{model}", "content": {"parts": [{"text": text}]}, **extra}
            for text in _texts(body.get("input"))
        ]
    }


def _texts(given: object) -> list[str]:
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts:
        raise wrong("input", "is required and must be a string or an array of strings")
    if not all(isinstance(text, str) for text in texts):
        raise wrong("input", "must be text for this model: arrays of tokens belong to another tokenizer")
    if not all(texts):
        raise wrong("input", "must not hold empty strings")
    if len(texts) > TEXTS_MAX:
        raise wrong("input", f"must hold at most {TEXTS_MAX} strings for this model")
    return texts


class EmbeddingsTranslator(Refusing):
    """Lifetime: one answer. A `Translator`."""

    def __init__(self, model: str, *, is_base64: bool, count: int) -> None:
        """`count` is how many texts were sent."""
        self._model = model
        self._is_base64 = is_base64
        self._count = count

    def whole(self, body: bytes) -> bytes:
        answer = parse_answer(body)
        embeddings = answer.get("embeddings")
        if not isinstance(embeddings, list) or len(embeddings) != self._count:
            raise Untranslatable("another number of vectors than of texts")
        data = [
            {"object": "embedding", "index": index, "embedding": self._vector(embedding)}
            for index, embedding in enumerate(embeddings)
        ]
        told: dict[str, Any] = {"object": "list", "data": data, "model": self._model}
        if (usage := embedding_usage(answer.get("usageMetadata"))) is not None:
            told["usage"] = usage
        return orjson.dumps(told)

    def feed(self, data: bytes) -> bytes:
        raise Untranslatable("a stream where vectors were asked for")

    def finish(self) -> bytes:
        return b""

    def _vector(self, embedding: object) -> str | list[float]:
        values = embedding.get("values") if isinstance(embedding, dict) else None
        if not isinstance(values, list) or not values or not all(type(value) in (int, float) for value in values):
            raise Untranslatable("a vector that is no array of numbers")
        if not self._is_base64:
            return values
        try:
            floats = array("f", values)
        except OverflowError:
            raise Untranslatable("a vector with numbers beyond its type") from None
        if sys.byteorder == "big":
            floats.byteswap()
        return b64encode(floats.tobytes()).decode()
