"""OpenAI's image generations over Gemini's image models and Imagen: request and answer. Pure.

- `gemini-*` models make images by `generateContent` with the modality IMAGE, one image a call, and report tokens.
- `imagen-*` models have `predict` (body and answer as in google-genai 3.4.0's `_GenerateImagesParameters_to_vertex` and
  `_GeneratedImage_from_vertex`), up to four images a call, and report nothing. That package offers them on Google's cloud
  platform only.

Gemini knows shapes, not pixels: a size is the aspect ratio and resolution that come closest to it, one of the table. The
pixels of the smaller models are listed as they are documented (ai.google.dev/gemini-api/docs/image-generation, 2026-11).
Images come back in base64, whatever `response_format` says: neither has URLs.
"""

from collections.abc import Mapping
from typing import Any, Final

import orjson

from gateway.providers.gemini_answer import parse_answer, parts_of
from gateway.providers.gemini_errors import Refusing
from gateway.providers.gemini_request import model_name, refuse_unknown, unsupported
from gateway.providers.gemini_usage import image_usage
from gateway.providers.translated import Untranslatable
from gateway.request_fields import read_integer, read_required_text, read_short_text, wrong

__all__ = ["ImagesTranslator", "images_body", "is_imagen"]

SHAPES: Final[Mapping[str, tuple[str, str]]] = {
    # size: aspect ratio, and the resolution where it is not the model's own.
    "1024x1024": ("1:1", ""),
    "1536x1024": ("3:2", ""),
    "1024x1536": ("2:3", ""),
    "1792x1024": ("16:9", ""),
    "1024x1792": ("9:16", ""),
    "1248x832": ("3:2", ""),
    "832x1248": ("2:3", ""),
    "1184x864": ("4:3", ""),
    "864x1184": ("3:4", ""),
    "1152x896": ("5:4", ""),
    "896x1152": ("4:5", ""),
    "1344x768": ("16:9", ""),
    "768x1344": ("9:16", ""),
    "1536x672": ("21:9", ""),
    "2048x2048": ("1:1", "2K"),
    "4096x4096": ("1:1", "4K"),
}
_KNOWN: Final = frozenset(
    "model prompt n size quality response_format moderation user metadata background stream".split()
)
_ORDINARY: Final[Mapping[str, tuple[Any, ...]]] = {"style": ("",), "partial_images": (0,)}
_IMAGEN_MAX: Final = 4


def is_imagen(model: str) -> bool:
    """Whether the model has `predict` instead of `generateContent`."""
    return model.startswith("imagen-")


def images_body(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body of `generateContent` or `predict`. Raises `RequestError`."""
    refuse_unknown(body, _KNOWN, _ORDINARY)
    model = model_name(body)
    prompt = read_required_text(body, "prompt")
    if read_short_text(body, "quality") not in ("", "auto", "standard"):
        raise unsupported("quality")
    if read_short_text(body, "background") not in ("", "auto", "opaque"):
        raise unsupported("background")
    if read_short_text(body, "response_format") not in ("", "url", "b64_json"):
        raise wrong("response_format", "must be url or b64_json")
    ratio, resolution = _shape(body)
    if is_imagen(model):
        parameters: dict[str, Any] = {"sampleCount": read_integer(body, "n", 1, _IMAGEN_MAX) or 1}
        if ratio:
            parameters["aspectRatio"] = ratio
        if resolution:
            parameters["sampleImageSize"] = resolution
        return {"instances": [{"prompt": prompt}], "parameters": parameters}
    if (read_integer(body, "n", 1, 128) or 1) > 1:
        raise wrong("n", "must be 1 for this model: it makes one image a call", code="unsupported_parameter")
    config: dict[str, Any] = {"responseModalities": ["IMAGE"]}
    if ratio:
        config["imageConfig"] = {"aspectRatio": ratio} | ({"imageSize": resolution} if resolution else {})
    return {"contents": [{"role": "user", "parts": [{"text": prompt}]}], "generationConfig": config}


def _shape(body: Mapping[str, Any]) -> tuple[str, str]:
    size = read_short_text(body, "size")
    if size in ("", "auto"):
        return "", ""
    if size not in SHAPES:
        raise wrong("size", f"must be auto or one of {', '.join(SHAPES)} for this model")
    return SHAPES[size]


class ImagesTranslator(Refusing):
    """Lifetime: one answer. A `Translator`."""

    def __init__(self, created: int) -> None:
        """`created`: Unix seconds."""
        self._created = created

    def whole(self, body: bytes) -> bytes:
        """Images that a filter kept back are not there: an answer may have none, and then costs no image."""
        answer = parse_answer(body)
        told: dict[str, Any] = {"created": self._created, "data": [{"b64_json": data} for data in _images(answer)]}
        if (usage := image_usage(answer.get("usageMetadata"))) is not None:
            told["usage"] = usage
        return orjson.dumps(told)

    def feed(self, data: bytes) -> bytes:
        raise Untranslatable("a stream where images were asked for")

    def finish(self) -> bytes:
        return b""


def _images(answer: Mapping[str, Any]) -> list[str]:
    predictions, candidates = answer.get("predictions"), answer.get("candidates")
    if predictions is not None:
        return [data for one in _objects(predictions) if isinstance(data := one.get("bytesBase64Encoded"), str)]
    if candidates is None and not answer.get("promptFeedback") and not answer.get("usageMetadata"):
        # A filter may have taken all of Imagen's images; then its answer is empty.
        if answer:
            raise Untranslatable("an answer with neither images nor a reason")
        return []
    found = []
    for candidate in _objects(candidates or []):
        for part in parts_of(candidate):
            blob = part.get("inlineData")
            # Drafts the model made while it thought are no results.
            if isinstance(blob, dict) and isinstance(data := blob.get("data"), str) and part.get("thought") is not True:
                found.append(data)
    return found


def _objects(entries: object) -> list[dict[str, Any]]:
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise Untranslatable("entries that are no objects")
    return entries
