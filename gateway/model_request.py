"""What the pipeline asks of a request, whatever its endpoint: the seam between one call's story and what is special about
chat, images and what will follow.

A request is read and checked once (`gateway.chat`, `gateway.images`). From then on it answers questions about itself for
a model and a price: what it can cost, what it needs of a model, what is sent upstream, and what an answer consumed. A
downgrade asks the same questions again for another model. All of it is pure.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from gateway.catalog import Model, Price, ProviderRow
from gateway.metering import Metered
from gateway.usage import Usage

OUTPUT_TOKENS_EXPECTED = 1_000
"""What an answer is taken to be where nobody said: for soft budgets, token windows and calls a crash cut off."""
OUTPUT_TOKENS_LEAST = 256
"""A hold never shrinks to less output than this."""


class Estimate(NamedTuple):
    """What a request may cost on one model at one price, in nano-dollars."""

    worst: int
    """The most it can cost: `worst_case`."""
    smallest: int | None
    """What the hold may shrink to: the input and 256 tokens of output. None where the caller bounded the output, or
    nothing can shrink."""
    expected: int
    """What it most likely costs: images exactly, chat by its bound or 1 000 tokens of output."""
    tokens: int
    """What token windows take: ceil(bytes / 4) of the input, and the explicit bound of the output or 1 000, within the
    model's cap."""


class ModelRequest(Protocol):
    """One request to one model. `body` is everything that was sent, checked, ready to be changed and sent on."""

    body: dict[str, Any]
    model: str
    """The requested model's name."""
    is_streaming: bool

    @property
    def endpoint(self) -> str:
        """The word the catalog, the ledger and plans use: `chat`, `images`."""
        ...

    @property
    def path(self) -> str:
        """Below the provider's base URL: `/chat/completions`."""
        ...

    @property
    def needs(self) -> frozenset[str]:
        """Capabilities a model must have to serve it; looked at for a downgrade's target only."""
        ...

    @property
    def images(self) -> int:
        """Images asked for; 0 on endpoints that return none."""
        ...

    def fits(self, model: Model) -> bool:
        """Whether `model` can do it at all: capabilities and context. The endpoint is the caller's to check."""
        ...

    def variant(self, model: Model) -> str:
        """What the price also depends on, as far as it is known before the answer (`Entry.variant`)."""
        ...

    def worst_case(self, model: Model, price: Price) -> int:
        """The most it can cost, in nano-dollars. Raises `UnpricedUsage`, `RequestError`."""
        ...

    def estimate(self, model: Model, price: Price) -> Estimate:
        """What it can and will cost. Raises as `worst_case` does."""
        ...

    def unfinished_usage(self, model: Model) -> Usage:
        """What is booked when this process dies with the call open: the input, and 1 000 tokens or all images."""
        ...

    def clamp(self, model: Model, price: Price, nano_usd: int) -> int | None:
        """Bound the output so that the call costs at most `nano_usd`; the tokens a choice may then have.

        None when nothing needed to change. Only where `Estimate.smallest` was not None, and not below it.
        """
        ...

    def upstream_body(self, model: Model, row: ProviderRow) -> bytes:
        """The request as the provider of `model` gets it. Raises `RequestError` when it cannot be written."""
        ...

    def meter(self, answer: Mapping[str, Any], model: Model, row: ProviderRow) -> Metered | None:
        """What a whole JSON answer consumed, at the model's price; None if it is no answer of this endpoint."""
        ...

    def meter_unanswered(self, model: Model) -> Metered:
        """By the written rule: fully sent, and never properly answered."""
        ...
