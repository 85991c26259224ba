"""An image generation request: read once, checked, priced, written for the provider, and metered by what came back. Pure.

Two ways of pricing, told apart by the model's row:
- by the image (`image_usd`): images × the price of their size and quality, exact before the call. Afterwards the images
  that came back count: 2 of 4 cost 2, none costs nothing, whatever else the answer reports.
- by tokens: held are a token for every byte of the input and `image_output_tokens_max` for each image. Afterwards the
  provider's report counts. Where there is none that can be true, the written rule: input = ceil(bytes / 4), output =
  `image_output_tokens_max` for each image that came back.

A call that was fully sent and never properly answered costs, by either way, all the images asked for.

A creator may owe by the image what the model costs by tokens: the same usage, which counts both, is then owed by the one.

Another model than the requested one gets neither `quality` nor `style`, which are words of the model asked for, and
`size` only where its own table knows it; its own defaults count instead.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from gateway.catalog import Model, Price, ProviderRow
from gateway.errors import RequestError
from gateway.metering import Metered
from gateway.model_request import Estimate, Outgoing, PlainRequest
from gateway.price_rows import IMAGE_WORD
from gateway.pricing import UnpricedUsage, cost_nano_usd, resolve_image_variant, worst_case_nano_usd
from gateway.request_fields import (
    dump_body,
    parse_body,
    read_boolean,
    read_integer,
    read_required_text,
    read_short_text,
    refuse_steering,
    unpriced_feature,
    wrong,
)
from gateway.streaming import utf8_bytes
from gateway.usage import Usage, from_images

__all__ = ["IMAGES_MAX", "ImageRequest", "read_image_request"]

IMAGES_MAX = 10
_PROMPT_TOKENS = 32
"""Framing that a model priced by tokens puts around the prompt."""
_INPUT_TOKENS_DEFAULT = 200_000
"""Believed at most where the catalog names no context: a long prompt and two dozen large reference images."""
_TABLE_DECIDES = frozenset({"", "auto"})

_KNOWN = frozenset(
    """
    model prompt n size quality style response_format output_format output_compression background moderation
    input_fidelity user metadata stream partial_images
    """.split()
)
_OTHER_WORDS_FOR_THE_PRICE = frozenset(
    "num_images num_outputs number_of_images batch_size width height image_size resolution".split()
)
"""How other dialects say `n` and `size`: a call would be held by the one and billed by the other."""
_WORDS_OF_THE_REQUESTED_MODEL = frozenset({"quality", "style"})


@dataclass(slots=True)
class ImageRequest(PlainRequest):
    """The fields the gateway itself reads (`ModelRequest`); `body` is everything, ready to be sent on."""

    body: dict[str, Any]
    model: str
    images: int = 1
    """`n`."""
    size: str = ""
    """As the caller wrote it; empty where the model's default counts. Likewise `quality`."""
    quality: str = ""
    text_bytes: int = 0
    """UTF-8 bytes of the prompt and of whatever a provider may take for input that we do not know."""
    is_streaming: bool = False

    endpoint: ClassVar[str] = "images"
    path: ClassVar[str] = "/images/generations"

    @property
    def input_tokens_estimate(self) -> int:
        """What the input most likely is, where nobody reports it: a token per four bytes."""
        return -(-self.text_bytes // 4)

    def fits(self, model: Model) -> bool:
        try:
            self.worst_case(model, model.price)
        except UnpricedUsage:
            return False
        return True

    def variant(self, model: Model) -> str:
        """`size/quality`. Raises `UnpricedUsage`."""
        is_requested = model.name == self.model
        size = self.size if is_requested or self._keeps_size(model) else None
        quality = self.quality if is_requested else None
        return resolve_image_variant(model.price, model, size or None, quality or None)

    def worst_case(self, model: Model, price: Price) -> int:
        variant = self.variant(model)
        # By the piece also where only the creator's own price is.
        if model.price.images or price.image_pico_usd(variant) is not None:
            return cost_nano_usd(Usage(pieces=self.images), price, variant)
        input_tokens, output_tokens = self._input_tokens_max(model), _tokens_each(model, price) * self.images
        # The dearest rates: a model may report words beside its images.
        return worst_case_nano_usd(price, input_tokens=input_tokens, output_tokens=output_tokens)

    def estimate(self, model: Model, price: Price) -> Estimate:
        """Nothing of it shrinks: an image is whole or not at all."""
        expected = cost_nano_usd(self._consumed(model, price, self.images), price, self.variant(model))
        # Tokens of the input alone: most models are not priced by them, and a report corrects it for those that are.
        return Estimate(self.worst_case(model, price), None, expected, self.input_tokens_estimate)

    def unfinished_usage(self, model: Model) -> Usage:
        """All images asked for, in tokens where `model` is priced by them."""
        return self._consumed(model, model.price, self.images)

    def clamp(self, model: Model, price: Price, nano_usd: int) -> None:
        """There is nothing to bound."""
        return

    def outgoing(self, model: Model, row: ProviderRow) -> Outgoing:
        """As it came for the requested model, with the provider's name for it; in fewer words for another one."""
        body = {**self.body, "model": model.upstream_model}
        if model.name != self.model:
            for field in _WORDS_OF_THE_REQUESTED_MODEL:
                body.pop(field, None)
            if not self._keeps_size(model):
                body.pop("size", None)
        for field in row.drop_fields:
            body.pop(field, None)
        return Outgoing(self.path, dump_body(body))

    def meter(self, answer: Mapping[str, Any], model: Model, row: ProviderRow) -> Metered | None:
        """Flags: `more_images` than asked for, counted all the same; `usage_refused`, a report that cannot be true;
        `unpriced_usage`, one with a kind of token the price has no rate for, which counts as prompt or as image."""
        data = answer.get("data")
        if not isinstance(data, list):
            return None
        returned = sum(map(_is_image, data))
        flags = ("more_images",) if returned > self.images else ()
        if model.price.images:
            usage, variant = Usage(pieces=returned), self.variant(model)
            return Metered(usage, "provider", cost_nano_usd(usage, model.price, variant), flags, variant, returned)
        return self._meter_tokens(answer.get("usage"), model, returned, flags)

    def meter_unanswered(self, model: Model) -> Metered:
        usage, variant = self._consumed(model, model.price, self.images), self.variant(model)
        return Metered(usage, "estimated", cost_nano_usd(usage, model.price, variant), (), variant)

    def _meter_tokens(self, report: object, model: Model, returned: int, flags: tuple[str, ...]) -> Metered:
        price = model.price
        believed = from_images(
            report,
            input_tokens_max=model.context_tokens_max or max(_INPUT_TOKENS_DEFAULT, self._input_tokens_max(model)),
            output_tokens_max=_tokens_each(model, price) * max(self.images, returned) + (model.output_tokens_max or 0),
        )
        variant = self.variant(model)
        if believed is None or (returned and not believed.output_tokens):
            # No report, one that cannot be true, or one of nothing for images that are there.
            usage = self._consumed(model, price, returned)
            flags = flags if report is None else (*flags, "usage_refused")
            return Metered(usage, "estimated", cost_nano_usd(usage, price, variant), flags, variant, returned)
        usage = believed._replace(pieces=returned)
        try:
            return Metered(usage, "provider", cost_nano_usd(usage, price, variant), flags, variant, returned)
        except UnpricedUsage:
            usage, flags = _at_known_rates(usage), (*flags, "unpriced_usage")
            return Metered(usage, "provider", cost_nano_usd(usage, price, variant), flags, variant, returned)

    def _consumed(self, model: Model, price: Price, images: int) -> Usage:
        """What the prompt and so many images are by the written rule."""
        if model.price.images:
            return Usage(pieces=images)
        output_tokens = _tokens_each(model, price) * images
        return Usage(uncached_input=self.input_tokens_estimate, image_output=output_tokens, pieces=images)

    def _input_tokens_max(self, model: Model) -> int:
        bound = self.text_bytes + _PROMPT_TOKENS
        return bound if model.context_tokens_max is None else min(bound, model.context_tokens_max)

    def _keeps_size(self, model: Model) -> bool:
        """Whether another model than the requested one knows the size asked for: its table has a price for it."""
        if self.size in _TABLE_DECIDES or not model.price.images:
            return False
        try:
            resolve_image_variant(model.price, model, self.size, None)
        except UnpricedUsage:
            return False
        return True


def read_image_request(raw: bytes) -> ImageRequest:
    """Parse and check a body. Raises `RequestError` saying what to change."""
    body = parse_body(raw)
    refuse_steering(body, _KNOWN)
    model = read_required_text(body, "model")
    prompt = read_required_text(body, "prompt")
    if read_boolean(body, "stream"):
        raise _no_streaming("stream")
    if body.get("partial_images") is not None:
        raise _no_streaming("partial_images")
    unknown = body.keys() - _KNOWN
    for field in unknown & _OTHER_WORDS_FOR_THE_PRICE:
        if body[field] is not None:
            raise unpriced_feature(field)
    return ImageRequest(
        body,
        model,
        images=read_integer(body, "n", 1, IMAGES_MAX) or 1,
        size=_shape_word(body, "size"),
        quality=_shape_word(body, "quality"),
        text_bytes=utf8_bytes(prompt) + sum(len(dump_body(body[field])) for field in unknown),
    )


def _shape_word(body: Mapping[str, Any], field: str) -> str:
    word = read_short_text(body, field)
    if word and not IMAGE_WORD.fullmatch(word):
        raise wrong(field, "must be one word such as `1024x1024` or `hd`")
    return word


def _no_streaming(field: str) -> RequestError:
    return RequestError(
        f"`{field}` is not supported for images: they are answered whole.", code="unsupported_parameter", param=field
    )


def _is_image(entry: object) -> bool:
    """Filtered and failed images have an entry with neither."""
    return isinstance(entry, dict) and any(
        isinstance(content := entry.get(name), str) and content for name in ("url", "b64_json")
    )


def _tokens_each(model: Model, price: Price) -> int:
    """The most tokens an image can be. Raises `UnpricedUsage` where that, or a rate it needs, is not known."""
    if model.image_output_tokens_max is None or price.image_output is None:
        raise UnpricedUsage("image_output", price.version)
    if price.input is None:
        raise UnpricedUsage("uncached_input", price.version)
    return model.image_output_tokens_max


def _at_known_rates(usage: Usage) -> Usage:
    """Input as words and output as images: the two rates no model priced by tokens is without."""
    return Usage(
        uncached_input=usage.uncached_input + usage.audio_input + usage.image_input,
        cached_input=usage.cached_input,
        cache_write=usage.cache_write,
        image_output=usage.output_tokens,
        pieces=usage.pieces,
    )
