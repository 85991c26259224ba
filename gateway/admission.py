"""From a request that was read to a call that is admitted: which model, what it may cost at most, and whether it fits.

Nothing is owed yet: whatever is wrong here simply leaves as an error.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from gateway.answers import denied, limit_headers, refused
from gateway.attribution import client_request_id, read_labels
from gateway.calls import Call
from gateway.catalog import Catalog, Model, ProviderRow
from gateway.chat import ChatRequest
from gateway.counters.base import CounterStore, LimitState, Refused
from gateway.errors import NotFound, RequestError
from gateway.ledger.records import Attribution, Hold, Ledger, Route
from gateway.metrics import Metrics
from gateway.pricing import UnpricedUsage, cost_nano_usd, worst_case_nano_usd
from gateway.providers.base import Provider
from gateway.usage import Usage
from policies import decide
from policies import types as policy_types

_ORPHAN_OUTPUT_TOKENS = 1_000


@dataclass(slots=True)
class Admitted:
    """A call that may be dialled: what the rest of the story needs of it."""

    request: ChatRequest
    model: Model
    provider: Provider
    row: ProviderRow
    hold: Hold
    states: Sequence[LimitState]
    body: bytes
    """What the provider is sent; let go of once it is."""
    upstream_request_id: str = ""
    status: int = 0


class Admission:
    """Lifetime: the process. Holds no state of a call."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        providers: Mapping[str, Provider],
        counters: CounterStore,
        ledger: Ledger,
        metrics: Metrics,
    ) -> None:
        self._catalog = catalog
        self._providers = providers
        self._counters = counters
        self._ledger = ledger
        self._metrics = metrics

    async def admit(
        self,
        call: Call,
        account: policy_types.Account,
        headers: Mapping[bytes, bytes],
        request: ChatRequest,
    ) -> Admitted:
        """Take every limit the call must fit into. Raises `RequestError` or `PolicyDenied`, with nothing taken."""
        model = self._resolve(request.model)
        row = self._catalog.providers[model.provider]
        labels = read_labels(headers, request.body)
        body = request.upstream_body(model, row.stream_usage)
        # One instant for the policies' periods, the hold and the entry: a call belongs to one month only.
        now = call.admitted_at = datetime.now(UTC)
        hold = self._estimate(call, account, labels, client_request_id(headers), request, model)
        decision = decide(
            policy_types.Call("chat", request.model, model.name, model.provider, model.tier, hold.amount_nano_usd),
            account,
            now,
        )
        if isinstance(decision, policy_types.Deny):
            self._count_refusal(account.creator, decision.code)
            raise denied(decision)
        taken = await self._counters.take(call.request_id, decision)
        if isinstance(taken, Refused):
            self._count_refusal(account.creator, taken.state.limit.refusal.code)
            error = refused(taken, now.timestamp())
            error.headers.update((name.decode(), value.decode()) for name, value in limit_headers([taken.state]))
            raise error
        request.body = {}  # it is in `body` now, and need not be kept twice
        return Admitted(request, model, self._providers[model.provider], row, hold, taken.states, body)

    def _resolve(self, name: str) -> Model:
        model = self._catalog.models.get(name)
        if model is None or not model.active:
            shown = name if len(name) <= 100 and name.isprintable() else "named in the request"
            reason = "is not in this gateway's catalog" if model is None else "is switched off on this gateway"
            raise NotFound(f"The model `{shown}` {reason}.", code="model_not_found", param="model")
        if "chat" not in model.endpoints:
            raise RequestError(
                f"The model `{name}` does not take chat completions.", code="endpoint_not_supported", param="model"
            )
        return model

    def _estimate(
        self,
        call: Call,
        account: policy_types.Account,
        labels: tuple[str, str, str, str],
        client_id: str,
        request: ChatRequest,
        model: Model,
    ) -> Hold:
        """The worst case as a hold, and what is booked if this process dies. Raises `RequestError` if unpriced."""
        price = model.price
        if (request.has_audio_input and price.audio_input is None) or (
            request.wants_audio_output and price.audio_output is None
        ):
            raise _unpriced(model)
        orphan = Usage(uncached_input=request.input_tokens_estimate, text_output=_ORPHAN_OUTPUT_TOKENS)
        try:
            amount = worst_case_nano_usd(
                price,
                input_tokens=request.input_tokens_max(model),
                output_tokens=request.output_tokens_max(model),
                text_only=request.is_text_only,
            )
            orphan_cost = min(amount, cost_nano_usd(orphan, price))
        except UnpricedUsage:
            raise _unpriced(model) from None
        attribution = Attribution(
            call.request_id,
            account.account_id,
            account.creator,
            account.key_id,
            *labels,
            "chat",
            request.model,
            client_id,
            call.admitted_at,
        )
        route = Route(model.name, model.provider, price.version)
        return Hold(attribution, route, amount, orphan, orphan_cost)

    def _count_refusal(self, creator: str, code: str) -> None:
        self._ledger.count_refusal(creator, code)
        self._metrics.refused("chat", code)


def _unpriced(model: Model) -> RequestError:
    return RequestError(
        f"The model `{model.name}` has no price for what this request asks, so it is refused.",
        code="unpriced_model",
        param="model",
    )
