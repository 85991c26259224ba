"""What the pipeline asks of a request, whatever its endpoint: the seam between one call's story and what is special about
chat, images, speech and all the others.

A request is read and checked once (`gateway.chat`, `gateway.images` ...). From then on it answers questions about itself
for a model and a price: what it can cost, what it needs of a model, what is sent upstream, how an answer is relayed, and
what it consumed. A downgrade or another deployment asks the same questions again for another model. All of it is pure, but
for the two hooks of requests that keep state.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

from gateway.cache.base import Kind
from gateway.catalog import Model, Price, ProviderRow
from gateway.metering import Metered
from gateway.providers.translated import Translator
from gateway.relay import Guard, Relay
from gateway.usage import Usage
from policies.types import Account

if TYPE_CHECKING:
    from gateway.chat import ChatRequest

OUTPUT_TOKENS_EXPECTED = 1_000
"""What an answer is taken to be where nobody said: for soft budgets, token windows and calls a crash cut off."""
OUTPUT_TOKENS_LEAST = 256
"""A hold never shrinks to less output than this."""


class Outgoing(NamedTuple):
    """A request as the provider of a model gets it."""

    path: str
    """OpenAI's, below the provider's base URL: `/chat/completions`."""
    body: bytes
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    """As in `UpstreamRequest`."""
    is_streaming: bool = False
    """Whether an event stream is asked for."""


NOTHING_OUTGOING = Outgoing("", b"")
"""In place of one that has been sent."""


class Answered(NamedTuple):
    """A call that was answered in full and booked, for a request that keeps something of it."""

    request_id: str
    account: Account
    model: Model
    """Which served it."""
    body: bytes
    """The whole answer; empty for a stream."""
    answer: Mapping[str, Any] | None
    """The same parsed; None for a stream, and where it is no JSON."""
    relay: Relay | None
    """What a stream went through; None for a whole answer."""
    cost_nano_usd: int


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
        """What the client called, below /v1: `/chat/completions`."""
        ...

    @property
    def needs(self) -> frozenset[str]:
        """Capabilities a model must have to serve it; looked at for a downgrade's target only."""
        ...

    @property
    def images(self) -> int:
        """Images asked for; 0 on endpoints that return none."""
        ...

    @property
    def cache_kind(self) -> Kind | Literal[""]:
        """What its answer is where that may be kept for whoever asks the same again; empty where it may not."""
        ...

    @property
    def has_tools(self) -> bool:
        """Whether the answer may be a call of tools, which is for this conversation and no other. Asked while `body` is
        there."""
        ...

    def serves(self, model: Model) -> bool:
        """Whether `model` has this endpoint, itself or by way of another one."""
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

    def outgoing(self, model: Model, row: ProviderRow) -> Outgoing:
        """The request as the provider of `model` gets it. Raises `RequestError` when it cannot be written."""
        ...

    def translator(self, model: Model) -> Translator | None:
        """What turns the answer of `model` into this endpoint's shape, made for one answer; None where it has it."""
        ...

    def relay(self, content_type: str, model: Model, row: ProviderRow, guard: Guard) -> Relay | None:
        """How an answer of this type is passed on while it comes; None: it is read whole first."""
        ...

    def meter(self, answer: Mapping[str, Any], model: Model, row: ProviderRow) -> Metered | None:
        """What a whole JSON answer consumed, at the model's price; None if it is no answer of this endpoint."""
        ...

    def meter_other(self, body: bytes, content_type: str, model: Model) -> Metered | None:
        """The same for a whole answer that is no JSON; None if this endpoint has no such answers."""
        ...

    def meter_unanswered(self, model: Model) -> Metered:
        """By the written rule: fully sent, and never properly answered."""
        ...

    def rendered(self, answer: Mapping[str, Any], model: Model) -> tuple[bytes, str] | None:
        """The body and its type that the client asked for, where `model` was asked for another; mostly None."""
        ...

    def checked(self, model: Model) -> "ChatRequest | None":
        """The chat completion whose answer by `model` has to be checked against a schema first; mostly None."""
        ...

    @property
    def keeps_state(self) -> bool:
        """Whether `load` and `keep` are to be called."""
        ...

    async def load(self, account: Account) -> None:
        """Fetch what the request refers to, before it is priced. `account` is who calls. Raises `RequestError`."""
        ...

    async def keep(self, answered: Answered) -> bytes | None:
        """Store what has to be there before the client sees the end of its answer. Returns the body to send instead of a
        whole answer's, or None. The call is booked by now, whatever is raised here."""
        ...


class PlainRequest:
    """What most requests answer to the questions that only some endpoints have another answer to."""

    __slots__ = ()

    endpoint: ClassVar[str]

    @property
    def images(self) -> int:
        return 0

    @property
    def cache_kind(self) -> Kind | Literal[""]:
        return ""

    @property
    def has_tools(self) -> bool:
        return False

    @property
    def needs(self) -> frozenset[str]:
        return frozenset()

    @property
    def keeps_state(self) -> bool:
        return False

    def serves(self, model: Model) -> bool:
        return self.endpoint in model.endpoints

    def translator(self, model: Model) -> Translator | None:
        return None

    def relay(self, content_type: str, model: Model, row: ProviderRow, guard: Guard) -> Relay | None:
        return None

    def meter_other(self, body: bytes, content_type: str, model: Model) -> Metered | None:
        return None

    def rendered(self, answer: Mapping[str, Any], model: Model) -> tuple[bytes, str] | None:
        return None

    def checked(self, model: Model) -> "ChatRequest | None":
        return None

    async def load(self, account: Account) -> None:
        """Nothing is referred to."""

    async def keep(self, answered: Answered) -> bytes | None:
        return None
