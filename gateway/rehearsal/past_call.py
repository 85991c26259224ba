"""A call that was made: the questions about models and prices that a request answers before it is sent, answered by what
is known of it afterwards."""

from dataclasses import dataclass, replace
from datetime import datetime

from gateway.catalog import Model, Price
from gateway.model_request import Estimate
from gateway.pricing import cost_nano_usd
from gateway.usage import Usage

__all__ = ["PastCall"]

_IMAGE_ENDPOINTS = frozenset({"images", "image_edits", "image_variations"})
_ALSO_SERVED_BY_CHAT = frozenset({"responses", "messages", "completions"})
_SUCCEEDED = frozenset({"ok", "client_gone"})


@dataclass(slots=True)
class PastCall:
    """All attempts of one call. Stands where `Admission` expects a request, of which it is asked no more than this."""

    request_id: str
    creator: str
    key_id: str
    endpoint: str
    model: str
    """The requested one."""
    served_model: str
    provider: str
    admitted_at: int
    """Unix time in milliseconds."""
    cost_nano_usd: int
    """What it cost in truth."""
    latency_ms: int
    outcome: str
    usage: Usage
    variant: str
    cached: int
    """1 or 0."""
    payer_unit: str
    payer_amount: int
    at: datetime
    """The same as `admitted_at`."""

    def followed_by(self, later: "PastCall") -> "PastCall":
        """The same call with one more attempt."""
        return replace(
            later,
            cost_nano_usd=self.cost_nano_usd + later.cost_nano_usd,
            latency_ms=max(self.latency_ms, later.latency_ms),
            usage=Usage(*map(sum, zip(self.usage, later.usage, strict=True))),
        )

    @property
    def is_delivered(self) -> bool:
        """Whether credits and free images were due."""
        return self.outcome in _SUCCEEDED

    @property
    def images(self) -> int:
        """Those that came back; one where nobody wrote down how many."""
        if self.endpoint not in _IMAGE_ENDPOINTS:
            return 0
        return self.usage.pieces or (self.payer_amount if self.payer_unit == "image" else 0) or 1

    @property
    def tokens(self) -> int:
        return self.usage.input_tokens + self.usage.output_tokens

    def serves(self, model: Model) -> bool:
        if self.endpoint in model.endpoints:
            return True
        return self.endpoint in _ALSO_SERVED_BY_CHAT and "chat" in model.endpoints

    def fits(self, model: Model) -> bool:
        """Of the places that serve the requested model, the one that did; any cheaper model."""
        return model.asked_as != self.model or (model.name, model.provider) == (self.served_model, self.provider)

    def estimate(self, model: Model, price: Price) -> Estimate:
        """What it cost where it was served, and would have cost elsewhere for the same tokens or images.

        Raises `UnpricedUsage` where that has no price.
        """
        if model.name == self.served_model and price is model.price:
            cost = self.cost_nano_usd
        else:
            cost = cost_nano_usd(self.usage, price, self.variant)
        return Estimate(cost, None, cost, self.tokens)
