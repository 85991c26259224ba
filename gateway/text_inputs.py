"""Inputs that are texts or tokens, one or many: what completions and embeddings share. Pure.

OpenAI takes one text, a list of texts, the tokens of one text, or a list of such. A token counts as one; a text as a token
a byte at most and a token per four bytes most likely.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from gateway.request_fields import wrong
from gateway.streaming import utf8_bytes

INPUTS_MAX = 2_048
"""Inputs of one request, as OpenAI bounds them for embeddings."""
_FRAMING = 8
"""Tokens a server may put around a text: where it begins and ends."""


class Input(NamedTuple):
    """The size of one input."""

    most: int
    """No tokenizer makes more tokens of it."""
    likely: int
    text_bytes: int = 0
    """0 for one that came as tokens."""


def text_input(text: str) -> Input:
    size = utf8_bytes(text)
    return Input(size + _FRAMING, -(-size // 4), size)


def read_inputs(value: Any, field: str) -> list[Input]:
    """The inputs in `value`. Raises `RequestError` for anything else, and for more than `INPUTS_MAX`."""
    if isinstance(value, str):
        return [text_input(value)]
    if not isinstance(value, list) or not value:
        raise wrong(field, "must be a text, an array of texts, or tokens", code="missing_required_parameter")
    if type(value[0]) is int:
        return [_tokens(value, field)]
    if len(value) > INPUTS_MAX:
        raise wrong(field, f"must hold at most {INPUTS_MAX} inputs")
    if isinstance(value[0], str):
        return [text_input(_text(one, field)) for one in value]
    return [_tokens(one, field) for one in value]


def tokens_most(inputs: Iterable[Input], context_tokens_max: int, *, more: int = 0) -> int:
    """A bound of all `inputs` together; each has at most the context, and `more` tokens beside its own."""
    return sum(min(one.most + more, context_tokens_max) for one in inputs)


def tokens_likely(inputs: Iterable[Input], context_tokens_max: int, *, more: int = 0) -> int:
    """What all `inputs` together most likely are, by the same bounds; `more` tokens beside each."""
    return sum(min(one.likely + more, context_tokens_max) for one in inputs)


def _text(value: object, field: str) -> str:
    if not isinstance(value, str):
        raise wrong(field, "must hold texts only, or tokens only")
    return value


def _tokens(value: object, field: str) -> Input:
    if not isinstance(value, list) or not value or set(map(type, value)) != {int} or min(value) < 0:
        raise wrong(field, "must hold texts only, or non-empty arrays of tokens (whole numbers from 0) only")
    return Input(len(value), len(value))
