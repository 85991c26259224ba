"""A completion of the older kind: read once, checked, bounded, written for the provider, and metered. Pure.

One request holds one prompt or many, as text or as tokens, and each gets `n` answers, which share the list of choices.
A bound of the output that the caller left out is 16 tokens, as at OpenAI. It is written into the request, because other
servers of this dialect have other bounds, or none at all (Ollama, llama.cpp): so the worst case holds wherever it is sent.

Held are, for each prompt, a token a byte (or a token a token) within the model's context, and the bound of the output for
each of the answers that are worked on (`best_of` may be more than `n`). Afterwards the provider's report counts, which
knows the tokens of every prompt once; else the written rule of chat. Words that `echo` repeats from a prompt are no output.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from gateway.cache.base import Kind
from gateway.catalog import Model, Price, ProviderRow
from gateway.chat import OTHER_BOUNDS
from gateway.chat_metering import CONTEXT_TOKENS_DEFAULT, OUTPUT_TOKENS_DEFAULT
from gateway.metering import Metered, estimated, reported
from gateway.model_request import OUTPUT_TOKENS_EXPECTED, Estimate, Outgoing, PlainRequest
from gateway.pricing import cost_nano_usd, worst_case_nano_usd
from gateway.relay import Guard, Relay
from gateway.request_fields import (
    dump_body,
    parse_body,
    read_boolean,
    read_integer,
    read_object,
    read_required_text,
    refuse_dear_tier,
    refuse_steering,
    wrong,
)
from gateway.streaming import SseRelay, utf8_bytes
from gateway.text_inputs import Input, read_inputs, tokens_likely, tokens_most
from gateway.usage import Usage, from_chat

__all__ = ["MAX_TOKENS_DEFAULT", "CompletionRequest", "read_completion_request"]

MAX_TOKENS_DEFAULT = 16
"""OpenAI's, where a request names none."""
ANSWERS_MAX = 1_024
"""Prompts times `n` (or `best_of`); as many choices as a relay tells apart."""
_CHOICES_MAX = 128
_TOKENS_MAX = 2**63 - 1
_FROM_THE_BEGINNING = Input(most=1, likely=1)
"""Without a prompt a model goes on from the token that ends a document."""

_NO_INPUT = frozenset(
    """
    model prompt stream stream_options max_tokens n best_of echo logprobs temperature top_p stop seed user metadata
    frequency_penalty presence_penalty logit_bias service_tier
    """.split()
)
_KNOWN = _NO_INPUT | {"suffix"}
_OTHER_BOUNDS = OTHER_BOUNDS | {"max_completion_tokens"}


@dataclass(slots=True)
class CompletionRequest(PlainRequest):
    """The fields the gateway itself reads (`ModelRequest`); `body` is everything, ready to be sent on."""

    body: dict[str, Any]
    model: str
    prompts: list[Input]
    more_bytes: int = 0
    """Of the suffix and of whatever a provider may take for input that we do not know: beside every prompt."""
    is_streaming: bool = False
    wants_usage: bool = False
    max_tokens: int = MAX_TOKENS_DEFAULT
    """The bound of each answer; 0 is one, with `echo`."""
    answers: int = 1
    """How many choices the answer has: `n` for each prompt."""
    choices: int = 1
    """How many answers the provider works on: `n` or `best_of` for each prompt, whichever is more."""
    echoes: bool = False

    endpoint: ClassVar[str] = "completions"
    path: ClassVar[str] = "/completions"

    def input_tokens_estimate(self, model: Model) -> int:
        """What the input most likely is, where nobody reports it."""
        return tokens_likely(self.prompts, _context(model), more=-(-self.more_bytes // 4))

    @property
    def echoed_bytes(self) -> int:
        """Bytes of all answers that only repeat the prompts; what came as tokens is not known in bytes."""
        if not self.echoes:
            return 0
        return sum(one.text_bytes for one in self.prompts) * (self.answers // len(self.prompts))

    @property
    def cache_kind(self) -> Kind | Literal[""]:
        return "completion"

    def fits(self, model: Model) -> bool:
        room = model.context_tokens_max
        return room is None or max(one.likely for one in self.prompts) <= room

    def variant(self, model: Model) -> str:
        return ""

    def output_tokens_max(self, model: Model) -> int:
        """What the model may answer at most, over all choices."""
        return min(self.max_tokens, _output_cap(model)) * self.choices

    def worst_case(self, model: Model, price: Price) -> int:
        most = tokens_most(self.prompts, _context(model), more=self.more_bytes)
        return worst_case_nano_usd(
            price, input_tokens=most, output_tokens=self.output_tokens_max(model), text_only=True
        )

    def estimate(self, model: Model, price: Price) -> Estimate:
        """Nothing of it shrinks: the output is always bounded."""
        output = self.output_tokens_max(model)
        usage = Usage(uncached_input=self.input_tokens_estimate(model), text_output=output)
        return Estimate(
            self.worst_case(model, price), None, cost_nano_usd(usage, price), self.input_tokens_estimate(model) + output
        )

    def unfinished_usage(self, model: Model) -> Usage:
        output = min(OUTPUT_TOKENS_EXPECTED, self.output_tokens_max(model))
        return Usage(uncached_input=self.input_tokens_estimate(model), text_output=output)

    def clamp(self, model: Model, price: Price, nano_usd: int) -> None:
        """The output is bounded already."""
        return

    def outgoing(self, model: Model, row: ProviderRow) -> Outgoing:
        """With the provider's own model name, the output bounded, and usage asked for."""
        body = {**self.body, "model": model.upstream_model}
        cap = model.output_tokens_max
        body["max_tokens"] = self.max_tokens if cap is None else min(self.max_tokens, cap)
        if row.stream_usage == "never":
            body.pop("stream_options", None)
        if self.is_streaming and row.stream_usage == "inject" and not self.wants_usage:
            body["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
        for field in row.drop_fields - {"max_tokens"}:
            body.pop(field, None)
        return Outgoing(self.path, dump_body(body), is_streaming=self.is_streaming)

    def relay(self, content_type: str, model: Model, row: ProviderRow, guard: Guard) -> Relay | None:
        return CompletionRelay(guard, self, model, row) if content_type.startswith("text/event-stream") else None

    def meter(self, answer: Mapping[str, Any], model: Model, row: ProviderRow) -> Metered | None:
        choices = answer.get("choices")
        if choices is None and answer.get("usage") is None:
            return None
        metered = self.judge(answer.get("usage"), lambda: self._output_estimate(choices, model), model, row)
        return metered if isinstance(choices, list) else metered._replace(is_answer=False)

    def meter_unanswered(self, model: Model) -> Metered:
        return estimated(self.input_tokens_estimate(model), 0, model.price)

    def judge(
        self,
        usage: object,
        estimate_output: Callable[[], int],
        model: Model,
        row: ProviderRow,
        *,
        is_partial: bool = False,
    ) -> Metered:
        """By the provider's report where there is one that can be true, else by the written rule.

        A report from the middle of a broken stream may be older than what followed it, so the words that were relayed
        count if they are more. Flag: `usage_refused`.
        """
        believed = from_chat(
            usage,
            context_tokens_max=_context(model) * len(self.prompts),
            output_tokens_max=_output_cap(model),
            choices=self.choices,
            unlisted_is_reasoning=row.unlisted_is_reasoning,
        )
        if believed is not None and is_partial:
            missing = max(0, estimate_output() - believed.output_tokens)
            return reported(
                believed._replace(text_output=believed.text_output + missing), model.price, "provider_partial"
            )
        if believed is not None and (any(believed) or not estimate_output()):
            return reported(believed, model.price)
        # No report, one that cannot be true, or one of nothing at all for an answer that says something.
        flags = () if usage is None else ("usage_refused",)
        return estimated(self.input_tokens_estimate(model), estimate_output(), model.price, *flags)

    def less_echo(self, tokens: int, model: Model) -> int:
        """`tokens` of all that was said, without what only repeats the prompts."""
        if not self.echoes:
            return tokens
        return max(0, min(tokens - self.echoed_bytes // 4, self.output_tokens_max(model)))

    def _output_estimate(self, choices: object, model: Model) -> int:
        """Output tokens of a whole answer by the written rule."""
        found = choices if isinstance(choices, list) else []
        texts = [choice.get("text") for choice in found if isinstance(choice, dict)]
        said = sum(utf8_bytes(text) for text in texts if isinstance(text, str))
        return self.less_echo(-(-said // 4), model)


class CompletionRelay(SseRelay):
    """Chunks of a completion, metered by what they report or, broken off, by what they said."""

    __slots__ = ("_model", "_request", "_row")

    def __init__(self, guard: Guard, request: CompletionRequest, model: Model, row: ProviderRow) -> None:
        is_ours = row.stream_usage == "inject" and not request.wants_usage
        super().__init__(guard, strip_usage=is_ours, choices=request.answers)
        self._request = request
        self._model = model
        self._row = row

    def metered(self, *, is_partial: bool) -> Metered:
        return self._request.judge(
            self.usage, self._output_tokens_estimate, self._model, self._row, is_partial=is_partial
        )

    def _output_tokens_estimate(self) -> int:
        return self._request.less_echo(self.output_tokens_estimate(), self._model)


def read_completion_request(raw: bytes) -> CompletionRequest:
    """Parse and check a body. Raises `RequestError` saying what to change."""
    body = parse_body(raw)
    refuse_steering(body, _KNOWN)
    refuse_dear_tier(body)
    for field in _OTHER_BOUNDS:
        if body.get(field) is not None:
            raise wrong(field, "is not for completions: say `max_tokens`", code="unsupported_parameter")
    model = read_required_text(body, "model")
    prompt = body.get("prompt")
    prompts = [_FROM_THE_BEGINNING] if prompt is None else read_inputs(prompt, "prompt")
    each = read_integer(body, "n", 1, _CHOICES_MAX) or 1
    tried = max(each, read_integer(body, "best_of", 1, _CHOICES_MAX) or 1)
    if len(prompts) * tried > ANSWERS_MAX:
        raise wrong("prompt", f"asks for more than {ANSWERS_MAX} answers, together with `n` and `best_of`")
    suffix = body.get("suffix")
    if suffix is not None and not isinstance(suffix, str):
        raise wrong("suffix", "must be a string")
    bound = read_integer(body, "max_tokens", 0, _TOKENS_MAX)
    return CompletionRequest(
        body,
        model,
        prompts,
        more_bytes=utf8_bytes(suffix or "") + sum(len(dump_body(body[field])) for field in body.keys() - _KNOWN),
        is_streaming=read_boolean(body, "stream"),
        wants_usage=read_boolean(read_object(body, "stream_options"), "include_usage", "stream_options.include_usage"),
        max_tokens=MAX_TOKENS_DEFAULT if bound is None else bound,
        answers=len(prompts) * each,
        choices=len(prompts) * tried,
        echoes=read_boolean(body, "echo"),
    )


def _context(model: Model) -> int:
    return model.context_tokens_max or CONTEXT_TOKENS_DEFAULT


def _output_cap(model: Model) -> int:
    return model.output_tokens_max or OUTPUT_TOKENS_DEFAULT
