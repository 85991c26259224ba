"""A moderations request: read once, checked, priced, written for the provider, and metered. Pure.

OpenAI asks nothing for moderation and reports no usage, so its rows say `input_usd_per_mtok = 0`, which is a price. For a
provider that asks for it, held are a token for every byte and the dearest case of every image. Afterwards its report
counts, and without one the written rule: ceil(bytes / 4) of the texts and 765 tokens for each image.

An image is passed on as it came, by its URL or in the body: the gateway fetches nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from gateway.catalog import Model, Price, ProviderRow
from gateway.chat_metering import CONTEXT_TOKENS_DEFAULT
from gateway.inputs_request import InputsRequest
from gateway.metering import Metered, estimated, reported
from gateway.pricing import worst_case_nano_usd
from gateway.request_fields import (
    dump_body,
    parse_body,
    read_required_text,
    refuse_dear_tier,
    refuse_steering,
    wrong,
)
from gateway.text_inputs import INPUTS_MAX, Input, text_input, tokens_most
from gateway.usage import Usage, from_chat

__all__ = ["DEFAULT_MODEL", "ModerationsRequest", "read_moderations_request"]

DEFAULT_MODEL = "omni-moderation-latest"
"""OpenAI's own, where a request names none, as SDKs allow."""
_IMAGE = Input(most=50_000, likely=765)
"""The dearest case is that of chat; the likely one 1024x1024 at high detail (85 + 4 tiles of 170, OpenAI's vision guide)."""
_KNOWN = frozenset("model input user metadata service_tier".split())


@dataclass(slots=True)
class ModerationsRequest(InputsRequest):
    """The fields the gateway itself reads (`ModelRequest`); `body` is everything, ready to be sent on."""

    body: dict[str, Any]
    model: str
    inputs: list[Input]
    has_images: bool = False
    more_bytes: int = 0
    """Of fields we do not know, which a provider may put before every input."""
    is_streaming: bool = False

    endpoint: ClassVar[str] = "moderations"
    path: ClassVar[str] = "/moderations"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"vision"}) if self.has_images else frozenset()

    def fits(self, model: Model) -> bool:
        room = model.context_tokens_max
        return self.needs <= model.capabilities and (room is None or max(one.likely for one in self.inputs) <= room)

    def worst_case(self, model: Model, price: Price) -> int:
        context = model.context_tokens_max or CONTEXT_TOKENS_DEFAULT
        most = tokens_most(self.inputs, context, more=self.more_bytes)
        # The dearest rate of an image as well, where the row has one and an image is there.
        return worst_case_nano_usd(price, input_tokens=most, output_tokens=0, text_only=not self.has_images)

    def meter(self, answer: Mapping[str, Any], model: Model, row: ProviderRow) -> Metered | None:
        """An answer without results is none. Flag: `usage_refused`, a report that cannot be true."""
        results = answer.get("results")
        if not isinstance(results, list) or not results:
            return None
        report = answer.get("usage")
        if report is None:
            return self.meter_unanswered(model)
        context = model.context_tokens_max or CONTEXT_TOKENS_DEFAULT
        # A classifier may count its verdict as a few tokens; none is held for it, and none is charged.
        believed = from_chat(
            report, context_tokens_max=context * len(self.inputs), output_tokens_max=context, choices=1
        )
        if believed is None or (self.input_tokens_estimate(model) and not believed.input_tokens):
            return estimated(self.input_tokens_estimate(model), 0, model.price, "usage_refused")
        only_input = believed._replace(text_output=0, reasoning=0, audio_output=0, image_output=0)
        return reported(only_input, model.price)

    def meter_unanswered(self, model: Model) -> Metered:
        return estimated(self.input_tokens_estimate(model), 0, model.price)

    def _consumed(self, model: Model) -> Usage:
        """What the input is by the written rule."""
        return Usage(uncached_input=self.input_tokens_estimate(model))


def read_moderations_request(raw: bytes) -> ModerationsRequest:
    """Parse and check a body. Raises `RequestError` saying what to change."""
    body = parse_body(raw)
    refuse_steering(body, _KNOWN)
    refuse_dear_tier(body)
    if body.get("model") is None:
        body["model"] = DEFAULT_MODEL
    model = read_required_text(body, "model")
    inputs = _read_inputs(body.get("input"))
    more = sum(len(dump_body(body[field])) for field in body.keys() - _KNOWN)
    return ModerationsRequest(body, model, inputs, _IMAGE in inputs, more)


def _read_inputs(value: object) -> list[Input]:
    """A text, texts, or parts of one message. Raises `RequestError`."""
    if isinstance(value, str):
        return [text_input(value)]
    if not isinstance(value, list) or not value:
        raise wrong("input", "is required: a text, an array of texts, or of parts", code="missing_required_parameter")
    if len(value) > INPUTS_MAX:
        raise wrong("input", f"must hold at most {INPUTS_MAX} entries")
    return [text_input(one) if isinstance(one, str) else _read_part(one) for one in value]


def _read_part(part: object) -> Input:
    if isinstance(part, dict):
        if part.get("type") == "text" and isinstance(text := part.get("text"), str):
            return text_input(text)
        if part.get("type") == "image_url" and _has_url(part.get("image_url")):
            return _IMAGE
    raise wrong("input[]", "must be a text, or a part of the type `text` or `image_url`")


def _has_url(image: object) -> bool:
    return isinstance(image, dict) and isinstance(image.get("url"), str) and bool(image["url"])
