"""A request for images: read once, checked, priced, written for the provider, and metered by what came back. Pure.

Two ways of pricing, told apart by the model's row:
- by the image (`image_usd`): images × the price of their size and quality, exact before the call. Afterwards the images
  that came back count: 2 of 4 cost 2, none costs nothing, whatever else the answer reports.
- by tokens: held are a token for every byte of the input, 8 000 for each image sent along, `image_output_tokens_max` for
  each image asked for, and 100 for each partial one. Afterwards the provider's report counts. Where there is none that can
  be true, the written rule: input = ceil(bytes / 4) and 4 354 for each image sent along, output = `image_output_tokens_max`
  for each image that came back, and 100 for each partial one.

A call that was fully sent and never properly answered costs, by either way, all the images asked for. So does a stream
that broke; one that ended in the provider's own error costs what came of it.

Images sent along are passed on as they came, by URL or in the body: the gateway fetches nothing. Editing and varying them
is `gateway.image_edits`; streams are `gateway.image_relay`.

A creator may owe by the image what the model costs by tokens: the same usage, which counts both, is then owed by the one.

Another model than the requested one gets neither `quality` nor `style`, which are words of the model asked for, and
`size` only where its own table knows it; its own defaults count instead. A model priced by the image has no price for
partial ones, so it is asked for none: fewer than asked for may always come.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from gateway.cache.base import Kind
from gateway.catalog import Model, Price, ProviderRow
from gateway.errors import RequestError
from gateway.image_relay import ImageRelay
from gateway.metering import Metered
from gateway.model_request import Answered, Estimate, Outgoing, PlainRequest
from gateway.price_rows import IMAGE_WORD
from gateway.pricing import UnpricedUsage, cost_nano_usd, resolve_image_variant, worst_case_nano_usd
from gateway.relay import Guard, Relay
from gateway.request_fields import (
    dump_body,
    parse_body,
    read_boolean,
    read_integer,
    read_required_text,
    read_short_text,
    refuse_dear_tier,
    refuse_steering,
    unpriced_feature,
    wrong,
)
from gateway.streaming import utf8_bytes
from gateway.usage import Usage, from_images

__all__ = [
    "IMAGES_MAX",
    "PARTIAL_IMAGES_MAX",
    "ImageKeeper",
    "ImageRequest",
    "base_name",
    "check_image_fields",
    "read_image_request",
]

IMAGES_MAX = 10
PARTIAL_IMAGES_MAX = 3
_REFERENCES_MAX = 64
_PARTIAL_IMAGE_TOKENS = 100
"""One partial image, by OpenAI's image guide (read 2026-11-21)."""
_REFERENCE_TOKENS_MAX = 8_000
"""One image sent along. OpenAI's vision guide: 65 and 129 a tile, and at high fidelity 4 160 if square, else 6 240."""
_REFERENCE_TOKENS = 4_354
"""The same, most likely: a square of one tile at high fidelity."""
_PROMPT_TOKENS = 32
"""Framing that a model priced by tokens puts around the prompt."""
_INPUT_TOKENS_DEFAULT = 200_000
"""Believed at most where the catalog names no context: a long prompt and two dozen large reference images."""
_TABLE_DECIDES = frozenset({"", "auto"})

_KNOWN = frozenset(
    """
    model prompt n size quality style response_format output_format output_compression background moderation
    input_fidelity user metadata stream partial_images service_tier safety_identifier
    """.split()
)
_REFERENCES = frozenset(
    "image images image_url image_urls input_image input_images reference_images init_image mask markup".split()
)
"""Fields that hold images."""
_OTHER_WORDS_FOR_THE_PRICE = frozenset(
    "num_images num_outputs number_of_images batch_size width height image_size resolution".split()
)
"""How other dialects say `n` and `size`: a call would be held by the one and billed by the other."""
_UNPRICED = frozenset({"frame_count", "svg"})
"""Moving pictures cost by the frame, drawings by what their author model says: no price row covers either."""
_UNPRICED_FORMATS = frozenset({"gif", "svg"})
_WORDS_OF_THE_REQUESTED_MODEL = frozenset({"quality", "style"})


class ImageKeeper(Protocol):
    """Where images are kept when the caller wants URLs and the model gives bytes, and for the creator's history."""

    async def keep(self, answered: Answered, request: "ImageRequest") -> bytes | None:
        """Store the images of an answer. Returns the body to send instead of a whole answer's, or None."""
        ...


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
    references: int = 0
    """Images sent along."""
    is_streaming: bool = False
    partial_images: int = 0
    """The most that may come before each image of a stream; 0 where nothing is streamed."""
    keeper: ImageKeeper | None = None
    """Where the images are kept; None where they are not."""

    endpoint: ClassVar[str] = "images"
    path: ClassVar[str] = "/images/generations"

    @property
    def input_tokens_estimate(self) -> int:
        """What the words most likely are, where nobody reports it: a token per four bytes."""
        return -(-self.text_bytes // 4)

    @property
    def cache_kind(self) -> Kind | Literal[""]:
        """Drawn from words alone: what lies at the URL of an image sent along may be another one tomorrow."""
        return "" if self.references else "image"

    @property
    def keeps_state(self) -> bool:
        return self.keeper is not None

    async def keep(self, answered: Answered) -> bytes | None:
        return None if self.keeper is None else await self.keeper.keep(answered, self)

    def fits(self, model: Model) -> bool:
        try:
            self.worst_case(model, model.price)
        except UnpricedUsage:
            return False
        return True

    def variant(self, model: Model) -> str:
        """`size/quality`. Raises `UnpricedUsage`."""
        is_requested = model.asked_as == self.model
        size = self.size if is_requested or self._keeps_size(model) else None
        quality = self.quality if is_requested else None
        return resolve_image_variant(model.price, model, size or None, quality or None)

    def worst_case(self, model: Model, price: Price) -> int:
        variant = self.variant(model)
        # By the piece also where only the creator's own price is.
        if model.price.images or price.image_pico_usd(variant) is not None:
            return cost_nano_usd(Usage(pieces=self.images), price, variant)
        if self.references and price.image_input is None:
            raise UnpricedUsage("image_input", price.version)
        input_tokens, output_tokens = self._input_tokens_max(model), self._output_tokens_max(model, price, self.images)
        # The dearest rates: a model may report words beside its images.
        return worst_case_nano_usd(price, input_tokens=input_tokens, output_tokens=output_tokens)

    def estimate(self, model: Model, price: Price) -> Estimate:
        """Nothing of it shrinks: an image is whole or not at all."""
        worst = self.worst_case(model, price)
        expected = cost_nano_usd(self._all(model, price), price, self.variant(model))
        # Tokens of the input alone: most models are not priced by them, and a report corrects it for those that are.
        tokens = self.input_tokens_estimate + _REFERENCE_TOKENS * self.references
        return Estimate(worst, None, expected, tokens)

    def unfinished_usage(self, model: Model) -> Usage:
        """All images asked for, in tokens where `model` is priced by them."""
        return self._all(model, model.price)

    def clamp(self, model: Model, price: Price, nano_usd: int) -> None:
        """There is nothing to bound."""
        return

    def outgoing(self, model: Model, row: ProviderRow) -> Outgoing:
        return Outgoing(self.path, dump_body(self.outgoing_body(model, row)), is_streaming=self.is_streaming)

    def outgoing_body(self, model: Model, row: ProviderRow) -> dict[str, Any]:
        """As it came for the requested model, with the provider's name for it; in fewer words for another one.

        A URL that the model does not give is not asked for where images are kept: what it gives becomes one.
        """
        body = {**self.body, "model": model.upstream_model}
        if self.keeper is not None and body.get("response_format") == "url" and "url" not in model.capabilities:
            del body["response_format"]
        if model.price.images and self.partial_images:
            body["partial_images"] = 0
        if model.asked_as != self.model:
            for field in _WORDS_OF_THE_REQUESTED_MODEL:
                body.pop(field, None)
            if not self._keeps_size(model):
                body.pop("size", None)
        for field in row.drop_fields:
            body.pop(field, None)
        return body

    def relay(self, content_type: str, model: Model, row: ProviderRow, guard: Guard) -> Relay | None:
        return ImageRelay(guard, self, model) if content_type.startswith("text/event-stream") else None

    def meter(self, answer: Mapping[str, Any], model: Model, row: ProviderRow) -> Metered | None:
        data = answer.get("data")
        if not isinstance(data, list):
            return None
        return self.meter_returned(sum(map(_is_image, data)), answer.get("usage"), model)

    def meter_returned(self, returned: int, report: object, model: Model, *, partial_images: int = 0) -> Metered:
        """What so many images cost, and so many partial ones where nobody reports it.

        Flags: `more_images` than asked for, counted all the same; `usage_refused`, a report that cannot be true;
        `unpriced_usage`, one with a kind of token the price has no rate for, which counts as prompt or as image.
        """
        flags = ("more_images",) if returned > self.images else ()
        if model.price.images:
            usage, variant = Usage(pieces=returned), self.variant(model)
            return Metered(usage, "provider", cost_nano_usd(usage, model.price, variant), flags, variant, returned)
        return self._meter_tokens(report, model, returned, partial_images, flags)

    def meter_unanswered(self, model: Model) -> Metered:
        usage, variant = self._all(model, model.price), self.variant(model)
        return Metered(usage, "estimated", cost_nano_usd(usage, model.price, variant), (), variant)

    def _meter_tokens(
        self, report: object, model: Model, returned: int, partial_images: int, flags: tuple[str, ...]
    ) -> Metered:
        price = model.price
        output_most = self._output_tokens_max(model, price, max(self.images, returned))
        believed = from_images(
            report,
            input_tokens_max=model.context_tokens_max or max(_INPUT_TOKENS_DEFAULT, self._input_tokens_max(model)),
            output_tokens_max=output_most + (model.output_tokens_max or 0),
        )
        variant = self.variant(model)
        if believed is None or (returned and not believed.output_tokens):
            # No report, one that cannot be true, or one of nothing for images that are there.
            usage = self._consumed(model, price, returned, partial_images)
            flags = flags if report is None else (*flags, "usage_refused")
            return Metered(usage, "estimated", cost_nano_usd(usage, price, variant), flags, variant, returned)
        usage = believed._replace(pieces=returned)
        try:
            return Metered(usage, "provider", cost_nano_usd(usage, price, variant), flags, variant, returned)
        except UnpricedUsage:
            usage, flags = _at_known_rates(usage), (*flags, "unpriced_usage")
            return Metered(usage, "provider", cost_nano_usd(usage, price, variant), flags, variant, returned)

    def _all(self, model: Model, price: Price) -> Usage:
        """What the prompt and everything asked for are by the written rule."""
        return self._consumed(model, price, self.images, self.partial_images * self.images)

    def _consumed(self, model: Model, price: Price, images: int, partial_images: int) -> Usage:
        """What the prompt and so many images are by the written rule."""
        if model.price.images:
            return Usage(pieces=images)
        words = self.input_tokens_estimate
        room = max(0, self._input_tokens_max(model) - words)
        return Usage(
            uncached_input=words,
            image_input=min(_REFERENCE_TOKENS * self.references, room),
            image_output=_tokens_each(model, price) * images + _PARTIAL_IMAGE_TOKENS * partial_images,
            pieces=images,
        )

    def _input_tokens_max(self, model: Model) -> int:
        bound = self.text_bytes + _PROMPT_TOKENS + _REFERENCE_TOKENS_MAX * self.references
        return bound if model.context_tokens_max is None else min(bound, model.context_tokens_max)

    def _output_tokens_max(self, model: Model, price: Price, images: int) -> int:
        """Raises `UnpricedUsage`."""
        return (_tokens_each(model, price) + _PARTIAL_IMAGE_TOKENS * self.partial_images) * images

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
    request = ImageRequest(body, "")
    check_image_fields(request)
    return request


def check_image_fields(request: ImageRequest, *, has_prompt: bool = True) -> None:
    """Read what the gateway itself needs off `request.body`; fields of a form may have brackets. Raises `RequestError`."""
    body = request.body
    by_base = {base_name(field): value for field, value in body.items()}
    refuse_steering(by_base, _KNOWN | _REFERENCES)
    refuse_dear_tier(body)
    request.model = read_required_text(body, "model")
    prompt = read_required_text(body, "prompt") if has_prompt else ""
    for field in (by_base.keys() - _KNOWN) & (_OTHER_WORDS_FOR_THE_PRICE | _UNPRICED):
        if by_base[field] is not None:
            raise unpriced_feature(field)
    if body.get("output_format") in _UNPRICED_FORMATS:
        raise unpriced_feature("output_format")
    request.images = read_integer(body, "n", 1, IMAGES_MAX) or 1
    request.size = _shape_word(body, "size")
    request.quality = _shape_word(body, "quality")
    request.is_streaming = read_boolean(body, "stream")
    partial_images = read_integer(body, "partial_images", 0, PARTIAL_IMAGES_MAX) or 0
    if request.is_streaming:
        if request.images > 1:
            # Nothing says whether the reports of several images are parts or running totals.
            raise wrong("n", "must be 1 where `stream` is true")
        request.partial_images = partial_images
    request.references = _count_references(body)
    unknown = [value for field, value in body.items() if base_name(field) not in _KNOWN | _REFERENCES]
    request.text_bytes = utf8_bytes(prompt) + sum(len(dump_body(value)) for value in unknown)


def base_name(field: str) -> str:
    """`image` of `image[]`, `metadata` of `metadata[feature]`: how forms write lists and objects."""
    return field.partition("[")[0]


def _count_references(body: Mapping[str, Any]) -> int:
    """Images in the body. Raises `RequestError` for a file that lies with the provider: those are the operator's."""
    found = 0
    for field, value in body.items():
        if base_name(field) not in _REFERENCES or value is None:
            continue
        images = value if isinstance(value, list) else [value]
        if any(isinstance(image, dict) and image.get("file_id") is not None for image in images):
            raise RequestError(
                f"`{field}` must hold images by their URL or as data: files kept by a provider belong to no creator.",
                code="unsupported_parameter",
                param=field,
            )
        found += len(images)
    if found > _REFERENCES_MAX:
        raise wrong("image", f"and the like must hold at most {_REFERENCES_MAX} images")
    return found


def _shape_word(body: Mapping[str, Any], field: str) -> str:
    word = read_short_text(body, field)
    if word and not IMAGE_WORD.fullmatch(word):
        raise wrong(field, "must be one word such as `1024x1024` or `hd`")
    return word


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
