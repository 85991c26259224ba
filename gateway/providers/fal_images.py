"""OpenAI's image requests -> bodies of fal's synchronous endpoints, and fal's answers -> OpenAI's. Pure.

Facts: fal.ai/docs (pages on synchronous requests, on model errors and on FLUX.1 [schnell], read 2026-11-21) and the
package fal-client 1.0.3. In short:
- `POST https://fal.run/<model id>` answers `images` (some models: one `image`), each with a `url`, which with
  `sync_mode` is a data: URI. `has_nsfw_concepts` (older models: `nsfw_content_detected`) tells by position which of them
  the safety checker blanked. No usage is reported: images are priced by the piece.
- Errors are `{"detail": ...}`, a text or a list of `{loc, msg, type, input, ctx}`. `input` repeats what was sent, so it
  is never passed on.

Rules of the translation:
- `response_format`: `b64_json` asks for data: URIs; `url`, like nothing at all, for fal's own URLs. An image that comes
  as a URL stays one, whatever was asked for: the gateway fetches nothing.
- A field that only says what every model of fal does anyway (`quality: "auto"`) is dropped, what concerns OpenAI's
  books alone (`user`, `metadata`) too; any other one fal has no word for is refused and named.
- A blanked image becomes an entry with neither `url` nor `b64_json`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import orjson

from gateway.errors import RequestError, error_body
from gateway.providers.base import UpstreamFailure
from gateway.providers.translated import Untranslatable
from gateway.request_fields import wrong

__all__ = ["FalCall", "FalImages", "fal_call"]

Kind = Literal["generations", "edits"]

_SIDE_PIXELS_MAX = 14_142
"""The most fal's own schema of `image_size` allows. What an image may cost is the catalog's to bound."""
_IMAGES_IN_MAX = 16
_MODEL_CHARS_MAX = 200
_MESSAGE_CHARS_MAX = 2_000
_ERRORS_SHOWN = 3

_SEGMENT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
"""Of a model id, which becomes the path: no empty segment, none that begins with a dot."""
_PIXELS = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")
_PRESETS = frozenset("square_hd square portrait_4_3 portrait_16_9 landscape_4_3 landscape_16_9".split())
_DATA_URI = re.compile(r"data:(image/[a-z0-9.+-]{1,40});base64,", re.IGNORECASE)
_WEB_URL = re.compile(r"https?://[\x21-\x7e]{1,4096}")
_WORD = re.compile(r"[A-Za-z0-9._-]{1,64}")

_AS_USUAL: Mapping[str, tuple[object, ...]] = {
    "quality": ("auto", "standard"),
    "style": (),
    "background": ("auto", "opaque"),
    "moderation": ("auto",),
    "output_compression": (100,),
    "input_fidelity": ("low",),
    "stream": (False,),
    "partial_images": (0,),
    "service_tier": ("auto", "default"),
}
"""Fields without a counterpart, each with the values that ask for nothing fal does not do anyway."""
_DROPPED = frozenset({"model", "user", "metadata", "safety_identifier"})
_OUTPUT_FORMATS = frozenset({"png", "jpeg", "webp"})
_NAMES_AT_FAL = {
    "num_images": "n",
    "image_size": "size",
    "sync_mode": "response_format",
    "image_url": "images",
    "image_urls": "images",
    "mask_url": "mask",
}


class FalCall(NamedTuple):
    """A request as fal gets it."""

    path: str
    body: bytes
    prompt: str
    """As it was sent: where fal answers with another one, it revised it."""


def fal_call(kind: Kind, body: Mapping[str, Any]) -> FalCall:
    """The request for an OpenAI body whose `model` is fal's id of the model.

    Raises `RequestError` for what fal cannot express; `UpstreamFailure` for a model id that is no safe path, which is
    the catalog's fault and not the caller's.
    """
    path = _path(body.get("model"))
    prompt = body.get("prompt")
    if not isinstance(prompt, str) or not prompt:
        raise wrong("prompt", "is required and must be a non-empty string", code="missing_required_parameter")
    sent: dict[str, Any] = {"prompt": prompt}
    for field, value in body.items():
        if value is None or field in _DROPPED or field == "prompt":
            continue
        if field in _AS_USUAL:
            if value not in _AS_USUAL[field]:
                raise _unsupported(field)
        elif kind == "edits" and field in ("image", "images", "mask"):
            sent.update(_pictures(field, value, takes_several=_takes_several(path)))
        else:
            sent.update(_field(field, value))
    if kind == "edits" and not sent.keys() & {"image_url", "image_urls"}:
        raise wrong("images", "is required", code="missing_required_parameter")
    # Said in any case: a model whose default were another would answer with what nobody asked for.
    sent.setdefault("sync_mode", False)
    return FalCall(path, orjson.dumps(sent), prompt)


class FalImages:
    """A `Translator` for one answer. `created` is the instant of the call, in seconds since 1970."""

    def __init__(self, prompt: str, *, created: int) -> None:
        self._prompt = prompt
        self._created = created

    def whole(self, body: bytes) -> bytes:
        """OpenAI's list of images. Raises `Untranslatable`."""
        try:
            answer = orjson.loads(body)
        except orjson.JSONDecodeError as exc:
            raise Untranslatable("fal's answer is no JSON") from exc
        images = _images_in(answer)
        blanked = _blanked(answer)
        revised = answer.get("prompt")
        if not isinstance(revised, str) or not revised or revised == self._prompt:
            revised = None
        data = [_entry(image, revised, is_blanked=number in blanked) for number, image in enumerate(images)]
        return orjson.dumps({"created": self._created, "data": data})

    def refusal(self, status: int, body: bytes) -> bytes:
        """OpenAI's error envelope for fal's `detail`."""
        message, code, param = _told(body)
        return error_body(message, _error_type(status), code, param)

    def feed(self, data: bytes) -> bytes:
        """Nothing is asked for as a stream."""
        raise Untranslatable("fal answered with an event stream")

    def finish(self) -> bytes:
        raise Untranslatable("fal answered with an event stream")


# The request


def _path(model: object) -> str:
    segments = model.split("/") if isinstance(model, str) and len(model) <= _MODEL_CHARS_MAX else []
    if not segments or not all(map(_SEGMENT.fullmatch, segments)):
        raise UpstreamFailure(
            "invalid", "the catalog's upstream_model is no model id of fal", is_sent=False, is_fully_sent=False
        )
    return "/" + "/".join(segments)


def _takes_several(path: str) -> bool:
    """Whether this model takes a list of images. Of fal's editing models those do that are called `.../edit` or
    `.../multi` (flux-2/edit, nano-banana/edit, kontext/multi); the others take one (flux/dev/image-to-image, kontext)."""
    return path.rpartition("/")[2] in ("edit", "multi")


def _field(field: str, value: object) -> dict[str, Any]:
    """A field of OpenAI's, or one of the few of fal's own that change neither price nor safety, in fal's words."""
    match field:
        case "n":
            return {"num_images": value}
        case "size":
            return _size(value)
        case "response_format":
            if value not in ("url", "b64_json"):
                raise wrong(field, "must be `url` or `b64_json`")
            return {"sync_mode": value == "b64_json"}
        case "output_format":
            if not isinstance(value, str) or value not in _OUTPUT_FORMATS:
                raise wrong(field, "must be `png`, `jpeg` or `webp`")
            return {field: value}
        case "seed":
            if type(value) is not int:
                raise wrong(field, "must be an integer")
            return {field: value}
        case "negative_prompt":
            if not isinstance(value, str):
                raise wrong(field, "must be a string")
            return {field: value}
        case "guidance_scale":
            if type(value) not in (int, float):
                raise wrong(field, "must be a number")
            return {field: value}
    raise _unsupported(field)


def _size(value: object) -> dict[str, Any]:
    """`image_size`: one of fal's presets, or width and height. Without one the model has a default of its own."""
    if value in ("auto", ""):
        return {}
    if isinstance(value, str) and value in _PRESETS:
        return {"image_size": value}
    found = _PIXELS.fullmatch(value) if isinstance(value, str) else None
    width, height = (int(side) for side in found.groups()) if found else (0, 0)
    if not 0 < width <= _SIDE_PIXELS_MAX or not 0 < height <= _SIDE_PIXELS_MAX:
        raise wrong(
            "size",
            f"must be `auto`, width and height such as `1024x768`, or one of: {', '.join(sorted(_PRESETS))}",
        )
    return {"image_size": {"width": width, "height": height}}


def _pictures(field: str, value: object, *, takes_several: bool) -> dict[str, Any]:
    """What is to be edited: fal itself reads https: and data: URLs."""
    if field == "mask":
        return {"mask_url": _picture(field, value)}
    values = value if isinstance(value, list) else [value]
    if not 1 <= len(values) <= _IMAGES_IN_MAX:
        raise wrong(field, f"takes 1 to {_IMAGES_IN_MAX} images")
    urls = [_picture(field, each) for each in values]
    if takes_several:
        return {"image_urls": urls}
    if len(urls) > 1:
        raise wrong(field, "takes one image: this model edits no more at once")
    return {"image_url": urls[0]}


def _picture(field: str, value: object) -> str:
    """OpenAI's JSON says `{"image_url": ...}`; the bare URL is taken as well."""
    url = value.get("image_url") if isinstance(value, dict) else value
    if isinstance(url, str) and (_DATA_URI.match(url) or (url.startswith("https://") and _WEB_URL.fullmatch(url))):
        return url
    raise wrong(field, "must be an https: URL or a data: URL of a base64 image, as `image_url`")


def _unsupported(field: str) -> RequestError:
    shown = field if _WORD.fullmatch(field) else "this field"
    return RequestError(
        f"`{shown}` is nothing this model can be told, or not with this value: leave it out.",
        code="unsupported_parameter",
        param=shown,
    )


# The answer


def _images_in(answer: object) -> Sequence[object]:
    if isinstance(answer, dict):
        if isinstance(images := answer.get("images"), list):
            return images
        if isinstance(image := answer.get("image"), dict):
            return [image]
    raise Untranslatable("fal's answer has no images")


def _blanked(answer: Mapping[str, Any]) -> frozenset[int]:
    """Positions of images that the safety checker replaced."""
    flags = answer.get("has_nsfw_concepts")
    if flags is None:
        flags = answer.get("nsfw_content_detected")
    return (
        frozenset(number for number, flag in enumerate(flags) if flag is True)
        if isinstance(flags, list)
        else frozenset()
    )


def _entry(image: object, revised: str | None, *, is_blanked: bool) -> dict[str, Any]:
    url = image.get("url") if isinstance(image, dict) else None
    entry: dict[str, Any] = {}
    if is_blanked or not isinstance(url, str):
        return entry
    if found := _DATA_URI.match(url):
        entry["b64_json"] = url[found.end() :]
    elif _WEB_URL.fullmatch(url):
        entry["url"] = url
    else:
        raise Untranslatable("an image of fal is neither a web URL nor base64")
    if revised is not None:
        entry["revised_prompt"] = revised
    return entry


# Errors


def _told(body: bytes) -> tuple[str, str | None, str | None]:
    """Message, code and the caller's name of the field at fault."""
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        said = None
    if not isinstance(said, dict):
        return "The provider answered with an error.", None, None
    detail = said.get("detail") or said.get("message") or said.get("error")
    faults = [each for each in detail if isinstance(each, dict)] if isinstance(detail, list) else []
    if not faults:
        message = detail if isinstance(detail, str) else "The provider answered with an error."
        return message[:_MESSAGE_CHARS_MAX], _code(said.get("error_type")), None
    params = [_param(fault.get("loc")) for fault in faults]
    lines = [_line(fault, param) for fault, param in zip(faults[:_ERRORS_SHOWN], params, strict=False)]
    return " ".join(lines)[:_MESSAGE_CHARS_MAX], _code(faults[0].get("type")), params[0]


def _line(fault: Mapping[str, Any], param: str | None) -> str:
    message = fault.get("msg")
    text = message if isinstance(message, str) and message else "is not accepted"
    return f"{param}: {text}" if param else text


def _param(loc: object) -> str | None:
    """`["body", "image_size", "width"]` -> `size`: OpenAI's name of what was sent."""
    parts = [part for part in loc if isinstance(part, str) and part != "body"] if isinstance(loc, list) else []
    if not parts:
        return None
    return _code(_NAMES_AT_FAL.get(parts[0], parts[0]))


def _code(word: object) -> str | None:
    return word if isinstance(word, str) and _WORD.fullmatch(word) else None


def _error_type(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    return "invalid_request_error" if status < 500 else "server_error"
