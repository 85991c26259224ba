"""What requests share whose inputs are read and nothing is written: embeddings and moderations. Pure."""

from abc import abstractmethod
from typing import Any

from gateway.catalog import Model, Price, ProviderRow
from gateway.chat_metering import CONTEXT_TOKENS_DEFAULT
from gateway.model_request import Estimate, Outgoing, PlainRequest
from gateway.pricing import cost_nano_usd
from gateway.request_fields import dump_body
from gateway.text_inputs import Input, tokens_likely
from gateway.usage import Usage

__all__ = ["InputsRequest"]


class InputsRequest(PlainRequest):
    """A subclass holds `body` and `inputs`, names endpoint and path, prices the worst case and meters answers."""

    __slots__ = ()

    body: dict[str, Any]
    inputs: list[Input]

    @property
    @abstractmethod
    def path(self) -> str: ...

    @abstractmethod
    def worst_case(self, model: Model, price: Price) -> int: ...

    @abstractmethod
    def _consumed(self, model: Model) -> Usage:
        """By the written rule."""

    def input_tokens_estimate(self, model: Model) -> int:
        """What the input most likely is, where nobody reports it."""
        return tokens_likely(self.inputs, model.context_tokens_max or CONTEXT_TOKENS_DEFAULT)

    def variant(self, model: Model) -> str:
        return ""

    def estimate(self, model: Model, price: Price) -> Estimate:
        """Nothing of it shrinks: there is no output to bound."""
        worst = self.worst_case(model, price)
        return Estimate(worst, None, cost_nano_usd(self._consumed(model), price), self.input_tokens_estimate(model))

    def unfinished_usage(self, model: Model) -> Usage:
        return self._consumed(model)

    def clamp(self, model: Model, price: Price, nano_usd: int) -> None:
        """There is nothing to bound."""
        return

    def outgoing(self, model: Model, row: ProviderRow) -> Outgoing:
        """As it came, with the provider's own model name."""
        body = {**self.body, "model": model.upstream_model}
        for field in row.drop_fields:
            body.pop(field, None)
        return Outgoing(self.path, dump_body(body))
