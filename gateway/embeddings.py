"""An embeddings request: read once, checked, priced, written for the provider, and metered by its report. Pure.

Held is a token for every byte of a text and one for every token, each input within the model's context; there is no
output. Afterwards the provider's report counts; without one that can be true, the written rule: ceil(bytes / 4) of the
texts, and every token that was sent.

`encoding_format` and `dimensions` travel on as they came: SDKs ask for base64 where their caller names no format, and
decode it themselves. A vector of one model means nothing to another, so a call is never downgraded.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from gateway.cache.base import Kind
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
from gateway.text_inputs import Input, read_inputs, tokens_most
from gateway.usage import Usage, from_chat

__all__ = ["EmbeddingsRequest", "read_embeddings_request"]

_KNOWN = frozenset("model input encoding_format dimensions user metadata service_tier".split())


@dataclass(slots=True)
class EmbeddingsRequest(InputsRequest):
    """The fields the gateway itself reads (`ModelRequest`); `body` is everything, ready to be sent on."""

    body: dict[str, Any]
    model: str
    inputs: list[Input]
    more_bytes: int = 0
    """Of fields we do not know, which a provider may put before every input."""
    is_streaming: bool = False

    endpoint: ClassVar[str] = "embeddings"
    path: ClassVar[str] = "/embeddings"

    @property
    def cache_kind(self) -> Kind | Literal[""]:
        return "embedding"

    def fits(self, model: Model) -> bool:
        """Only the requested model does, and only what no input exceeds."""
        room = model.context_tokens_max
        return model.asked_as == self.model and (room is None or max(one.likely for one in self.inputs) <= room)

    def worst_case(self, model: Model, price: Price) -> int:
        context = model.context_tokens_max or CONTEXT_TOKENS_DEFAULT
        most = tokens_most(self.inputs, context, more=self.more_bytes)
        return worst_case_nano_usd(price, input_tokens=most, output_tokens=0, text_only=True)

    def meter(self, answer: Mapping[str, Any], model: Model, row: ProviderRow) -> Metered | None:
        """No vectors are no answer, though what was reported for them is owed. Flag: `usage_refused`."""
        data, report = answer.get("data"), answer.get("usage")
        has_vectors = isinstance(data, list) and bool(data)
        if not has_vectors and report is None:
            return None
        believed = self._believe(report, model)
        if believed is not None and (any(believed) or not self.input_tokens_estimate(model)):
            metered = reported(believed, model.price)
        else:
            # No report, one that cannot be true, or one of nothing at all for inputs that say something.
            flags = () if report is None else ("usage_refused",)
            metered = estimated(self.input_tokens_estimate(model), 0, model.price, *flags)
        return metered if has_vectors else metered._replace(is_answer=False)

    def meter_unanswered(self, model: Model) -> Metered:
        return estimated(self.input_tokens_estimate(model), 0, model.price)

    def _consumed(self, model: Model) -> Usage:
        """What the input is by the written rule."""
        return Usage(uncached_input=self.input_tokens_estimate(model))

    def _believe(self, report: object, model: Model) -> Usage | None:
        """The provider's report in buckets, or None if it cannot be true. One number is enough: all of it is input."""
        if not isinstance(report, dict):
            return None
        prompt, total = report.get("prompt_tokens"), report.get("total_tokens")
        usage = {
            **report,
            "prompt_tokens": total if prompt is None else prompt,
            "total_tokens": prompt if total is None else total,
        }
        context = model.context_tokens_max or CONTEXT_TOKENS_DEFAULT
        return from_chat(
            usage, context_tokens_max=context * len(self.inputs), output_tokens_max=0, choices=len(self.inputs)
        )


def read_embeddings_request(raw: bytes) -> EmbeddingsRequest:
    """Parse and check a body. Raises `RequestError` saying what to change."""
    body = parse_body(raw)
    refuse_steering(body, _KNOWN)
    refuse_dear_tier(body)
    model = read_required_text(body, "model")
    if body.get("input") is None:
        raise wrong("input", "is required", code="missing_required_parameter")
    inputs = read_inputs(body["input"], "input")
    more = sum(len(dump_body(body[field])) for field in body.keys() - _KNOWN)
    return EmbeddingsRequest(body, model, inputs, more)
