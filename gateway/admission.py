"""From a request that was read to a call that is admitted: which model, what it may cost at most, and whether it fits.

1. resolve the requested model;
2. make an offer: what the call may cost on that model, and owe (`begin` ends here: what was answered before may be
   answered again now, without the rest);
3. ask the policies for limits, and the counters to take all of them or none;
4. where a limit says so, go on to a cheaper model that can do the call, and from 2 again;
5. where the hold had to shrink, bound the answer by what it pays for.

Nothing is owed before the end of it: whatever is wrong here simply leaves as an error.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

import structlog

from gateway.answers import denied, limit_headers, refused
from gateway.attempts import Attempts, client_waits_s
from gateway.attribution import NO_LABELS, Labels, client_request_id, read_labels
from gateway.cache.base import Wish
from gateway.calls import Call
from gateway.catalog import Catalog, Model, Price, ProviderRow
from gateway.counters.base import CounterStore, LimitState, Refused, Taken
from gateway.decision import Step, decision_text
from gateway.errors import NotFound, PolicyDenied, RequestError, UpstreamError
from gateway.ledger.records import Attribution, Entry, Hold, Ledger, Route
from gateway.metering import Metered
from gateway.metrics import Metrics
from gateway.model_request import NOTHING_OUTGOING, ModelRequest, Outgoing
from gateway.offers import Offer, Offers, RecordPrice, can_serve, cheaper_models
from gateway.pricing import UnpricedUsage, cost_nano_usd
from gateway.providers.base import Provider
from gateway.responder import Header
from gateway.routing import Deployments
from gateway.schema_checker import SchemaChecker
from policies import access, decide, payer, quota, rate_limit, token_rate
from policies import types as policy_types
from policies.types import UNLIMITED, Account, Deny, DowngradeChoice, LimitGroup

if TYPE_CHECKING:
    from gateway.settlement import Settlement

_log = structlog.get_logger()

_FOR_EVER_S = 1e9
_NO_CALL = policy_types.Call("", "", "", "", "", 0, 0)
"""Goes to no provider, so that only what counts for all of them is looked at."""
_PAYER_UNITS = frozenset({"nano_usd", "image", "credit"})
# A NamedTuple's own constructor takes twice as long as the tuple's.
_made = tuple.__new__


@dataclass(slots=True)
class Admitted:
    """A call that may be dialled: what the rest of the story needs of it."""

    request: ModelRequest
    model: Model
    provider: Provider
    row: ProviderRow
    hold: Hold
    states: Sequence[LimitState]
    outgoing: Outgoing
    """What the provider is sent; let go of once it is."""
    charge_price: Price
    credits_each: int | None
    route: Route
    """Who serves it, at which price: the hold's, until another deployment takes over."""
    offers: Sequence[Offer]
    """One for each deployment that may be tried."""
    attempts: Attempts
    clamped_to: int | None = None
    """Output tokens a choice may have, where the hold had to shrink."""
    upstream_request_id: str = ""
    status: int = 0
    reported: Metered | None = None
    """What an answer was metered by that is not relayed yet."""
    paid: "list[tuple[Entry, Settlement]]" = field(default_factory=list)
    """Attempts that cost something and were followed by another."""
    cache_wish: Wish = ""
    cache_key: str = ""
    """Under which the answer may be kept; empty where it may not."""


class Preview(NamedTuple):
    """What admission would do now. `refusal` is what the caller would be told instead."""

    offer: Offer
    states: Sequence[LimitState]
    steps: Sequence[Step]
    clamped_to: int | None
    refusal: PolicyDenied | None


@dataclass(slots=True)
class Course:
    """How far one call has come on its way through the policies."""

    request: ModelRequest
    account: Account
    address: str
    now: datetime
    choice: DowngradeChoice
    offer: Offer
    model: Model
    """The requested one, or the one a downgrade led to; the offer names the deployment."""
    catalog: Catalog
    outgoing: Outgoing = NOTHING_OUTGOING
    """What the provider of the first offer would be sent."""
    labels: Labels = NO_LABELS
    client_id: str = ""
    waits_s: float = _FOR_EVER_S
    """How long the client said it will wait."""
    out_of_reach: UpstreamError | None = None
    """Nobody is there to serve it: it can be answered only if it was before."""
    cache_wish: Wish = ""
    cache_key: str = ""
    """Under which an answer to `outgoing` was looked for."""
    steps: list[Step] = field(default_factory=list)
    overruled: tuple[str, ...] = ()

    def stay(self) -> None:
        """No cheaper model can do it: what is asked for goes on, and the hard limits decide."""
        self.choice = "impossible"
        self.offer = self.offer._replace(call=self.offer.call._replace(downgrade="impossible"))


class Admission:
    """Lifetime: the process. Holds no state of a call."""

    def __init__(
        self,
        *,
        catalog: Callable[[], Catalog],
        providers: Mapping[str, Provider],
        deployments: Deployments,
        counters: CounterStore,
        ledger: Ledger,
        metrics: Metrics,
        record_price: RecordPrice,
        schema_checker: SchemaChecker,
        attempts_max: int = 1,
        is_observing: bool = False,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._catalog = catalog
        self._providers = providers
        self._offers = Offers(deployments, record_price, attempts_max=attempts_max)
        self._attempts_max = attempts_max
        self._counters = counters
        self._ledger = ledger
        self._metrics = metrics
        self._schema_checker = schema_checker
        self._is_observing = is_observing
        self._clock = clock

    async def begin(
        self,
        call: Call,
        account: Account,
        headers: Mapping[bytes, bytes],
        request: ModelRequest,
        address: str,
    ) -> Course:
        """What the call would be sent as, and may cost, whether anybody is there to serve it or not. Takes nothing. Raises
        `RequestError`."""
        catalog = self._catalog()
        labels = read_labels(headers, request.body)
        client_id = client_request_id(headers)
        # One instant for the policies' periods, the hold and the entry: a call belongs to one month only.
        now = call.admitted_at = self._clock()
        model = _resolve(catalog, request)
        try:
            course = await self._begin(account, headers, request, model, address, now, catalog)
        except UpstreamError as error:
            course = await self._begin(account, headers, request, model, address, now, catalog, whatever_health=True)
            course.out_of_reach = error
        course.labels, course.client_id = labels, client_id
        course.waits_s = client_waits_s(headers) or _FOR_EVER_S
        if (chat := request.checked(course.offer.model)) is not None and chat.structured is not None:
            await chat.structured.require_sound(self._schema_checker, account.creator)
        # Written before anything is taken: what cannot be written is the caller's to mend.
        course.outgoing = request.outgoing(course.offer.model, catalog.providers[course.offer.model.provider])
        return course

    def require_access(self, call: Call, course: Course) -> None:
        """For a call that may be answered without being admitted. Raises `PolicyDenied`."""
        deny = access.decide(course.offer.call, course.account, course.now)
        if isinstance(deny, Deny):
            self._count_refusal(call.endpoint, course.account.creator, deny.code)
            raise denied(deny)

    async def admit_hit(self, call: Call, course: Course) -> Taken:
        """Take what a call takes that a kept answer serves: a unit of the windows of requests. Raises `PolicyDenied`."""
        groups = rate_limit.decide(_NO_CALL, course.account, course.now)
        taken = await self._counters.take(call.request_id, groups)
        if isinstance(taken, Refused) and self._is_observing:
            taken = await self._overrule(call.request_id, course, groups, taken)
        if isinstance(taken, Refused):
            raise self._refusal(call, course, taken)
        return taken

    async def admit(self, call: Call, course: Course) -> Admitted:
        """Take every limit the call must fit into. Raises `PolicyDenied`, and `UpstreamError` where no deployment of the model
        is well: with nothing taken."""
        if course.out_of_reach is not None:
            raise course.out_of_reach
        request, catalog, outgoing = course.request, course.catalog, course.outgoing
        taken = await self._take(call.request_id, course)
        if isinstance(taken, Refused):
            raise self._refusal(call, course, taken)
        try:
            model = course.offer.model
            row = catalog.providers[model.provider]
            clamped_to = _clamp(request, course.offer, taken)
            if course.steps or clamped_to is not None:
                outgoing = request.outgoing(model, row)
            hold = _hold(call, course, taken, clamped_to)
        except Exception:
            # Nothing was dialled: what was taken must not stay taken, whatever is wrong with us.
            await self._counters.release(call.request_id)
            raise
        offer = course.offer
        offers = (offer, *offer.fallbacks)
        attempts = Attempts(
            len(offers),
            attempts_max=self._attempts_max,
            retries=course.model.retries,
            ends_at=call.started_at + course.waits_s,
        )
        if not attempts.may_go_on and not course.cache_wish and request.checked(model) is None:
            request.body = {}  # it is in `outgoing` now, and need not be kept twice
        return Admitted(
            request,
            model,
            self._providers[model.provider],
            row,
            hold,
            taken.states,
            outgoing,
            offer.charge_price,
            offer.credits_each,
            hold.route,
            offers,
            attempts,
            clamped_to,
            cache_wish=course.cache_wish,
            cache_key=course.cache_key if outgoing is course.outgoing else "",
        )

    def go_on(self, admitted: Admitted) -> None:
        """To the deployment that the call's attempts name now."""
        offer = admitted.offers[admitted.attempts.index]
        model = offer.model
        row = self._catalog().providers[model.provider]
        admitted.outgoing, admitted.cache_key = admitted.request.outgoing(model, row), ""
        admitted.model, admitted.row, admitted.provider = model, row, self._providers[model.provider]
        admitted.charge_price, admitted.credits_each = offer.charge_price, offer.credits_each
        admitted.route = admitted.hold.route._replace(
            served_model=model.name, provider=model.provider, price_version=model.price.version
        )

    def require_model(self, request: ModelRequest) -> None:
        """Raises `RequestError` unless the catalog has the requested model for this endpoint, switched on."""
        _resolve(self._catalog(), request)

    async def window_headers(self, account: Account) -> list[Header]:
        """`x-ratelimit-*` as the account's windows stand now, for answers that took nothing from them."""
        now = self._clock()
        groups = [*rate_limit.decide(_NO_CALL, account, now), *token_rate.decide(_NO_CALL, account, now)]
        return limit_headers(await self._counters.read([limit for (limit,) in groups]))

    async def preview(
        self, account: Account, headers: Mapping[bytes, bytes], request: ModelRequest, address: str
    ) -> Preview:
        """What `admit` would do now, by the same steps; takes nothing. Raises `RequestError` as it does."""
        catalog = self._catalog()
        read_labels(headers, request.body)
        model = _resolve(catalog, request)
        course = await self._begin(account, headers, request, model, address, self._clock(), catalog)
        try:
            taken = await self._take(None, course)
        except PolicyDenied as denial:
            return Preview(course.offer, (), course.steps, None, denial)
        if isinstance(taken, Refused):
            return Preview(course.offer, (taken.state,), course.steps, None, refused(taken, course.now.timestamp()))
        return Preview(course.offer, taken.states, course.steps, _clamp(request, course.offer, taken), None)

    async def rehearse(
        self, call_id: str, account: Account, request: ModelRequest, model: Model, now: datetime
    ) -> tuple[Course, Taken | Refused]:
        """What becomes of a call made at `now` that asks for `model`, by the same steps; what it takes is taken under
        `call_id`. For counters that no call counts on. Raises `PolicyDenied`, and `RequestError` for a call without a
        price."""
        course = await self._begin(account, {}, request, model, "", now, self._catalog())
        return course, await self._take(call_id, course)

    async def _begin(
        self,
        account: Account,
        headers: Mapping[bytes, bytes],
        request: ModelRequest,
        model: Model,
        address: str,
        now: datetime,
        catalog: Catalog,
        *,
        whatever_health: bool = False,
    ) -> Course:
        choice = _choice(model, headers)
        try:
            offer = await self._offers.make(account, request, model, address, choice, whatever_health=whatever_health)
        except UnpricedUsage:
            raise _unpriced(model) from None
        return Course(request, account, address, now, choice, offer, model, catalog)

    def _refusal(self, call: Call, course: Course, taken: Refused) -> PolicyDenied:
        error = refused(taken, course.now.timestamp())
        self._count_refusal(call.endpoint, course.account.creator, error.code or "")
        return error

    # 3 and 4

    async def _take(self, hold_id: str | None, course: Course) -> Taken | Refused:
        """Along the downgrades until a model fits or none is left. Without a `hold_id` only looks."""
        while True:
            groups = decide(course.offer.call, course.account, course.now)
            if isinstance(groups, Deny):
                if self._is_observing and groups.policy == payer.NAME:
                    self._log_overruled(hold_id, course, "refuse", (payer.NAME,))
                    course.account = _on_quota(course.account)
                    continue
                if hold_id is not None:
                    self._count_refusal(course.request.endpoint, course.account.creator, groups.code)
                raise denied(groups)
            if self._is_observing:
                groups = [tuple(limit._replace(amount_min=None) for limit in group) for group in groups]
            taken = await (self._counters.preview(groups) if hold_id is None else self._counters.take(hold_id, groups))
            if isinstance(taken, Taken):
                return taken
            if self._is_observing:
                return await self._overrule(hold_id, course, groups, taken)
            if course.choice == "refused" and _is_soft(taken) and await self._cheaper(course) is None:
                course.stay()  # there is nothing the caller could have refused
            elif course.choice == "possible" and any(limit.downgrades for limit in taken.unsatisfied):
                await self._go_cheaper(course, taken)
            else:
                return taken

    async def _go_cheaper(self, course: Course, refused: Refused) -> None:
        """On to the next cheaper model that can do the call; where there is none, what is asked for stays.

        The requested model then goes on without the soft budget: whether it may is the hard limits' to say.
        """
        limit = next(limit for limit in refused.unsatisfied if limit.downgrades)
        state = refused.state
        if state.limit.key != limit.key:
            (state,) = await self._counters.read((limit,))
        offer = await self._cheaper(course)
        if offer is None:
            course.stay()
            return
        names = course.offer.call.model, offer.call.model
        course.steps.append(Step(*names, limit.name, state.settled, state.held, limit.capacity))
        course.choice, course.offer, course.model = (
            offer.call.downgrade,
            offer,
            course.catalog.models[offer.call.model],
        )

    async def _cheaper(self, course: Course) -> Offer | None:
        """The call on the nearest model along `downgrade_to` that can do it; None where there is none."""
        for target in cheaper_models(course.catalog, course.model):
            choice: DowngradeChoice = "possible" if target.downgrade_to else "impossible"
            if can_serve(target, course.request) and (offer := await self._try(course, target, choice)):
                return offer
        return None

    async def _try(self, course: Course, target: Model, choice: DowngradeChoice) -> Offer | None:
        """What the call would be on `target`; None where it has no price for it, or the account may not use it."""
        try:
            offer = await self._offers.make(course.account, course.request, target, course.address, choice)
        except (UnpricedUsage, RequestError, UpstreamError):
            return None
        is_denied = isinstance(access.decide(offer.call, course.account, course.now), Deny)
        return None if is_denied else offer

    async def _overrule(
        self, hold_id: str | None, course: Course, groups: Sequence[LimitGroup], refused: Refused
    ) -> Taken | Refused:
        """Observing only: say what would have happened, and take all the same."""
        would_downgrade = course.choice == "possible" and all(limit.downgrades for limit in refused.unsatisfied)
        names = tuple(limit.name for limit in refused.unsatisfied)
        self._log_overruled(hold_id, course, "downgrade" if would_downgrade else "refuse", names)
        lifted = [_lifted(group, course) for group in groups]
        taken = await (self._counters.preview(lifted) if hold_id is None else self._counters.take(hold_id, lifted))
        if isinstance(taken, Refused):
            return taken
        # What is told of a limit is what the plan says, whether it was obeyed or not.
        known = {limit.key: limit for group in groups for limit in group}
        return Taken(tuple(state._replace(limit=known.get(state.limit.key, state.limit)) for state in taken.states))

    def _log_overruled(self, hold_id: str | None, course: Course, would: str, names: tuple[str, ...]) -> None:
        course.overruled += names
        if hold_id is not None:
            _log.warning(
                "policy_overruled",
                would=would,
                request_id=hold_id,
                creator=course.account.creator,
                limits=names,
                model=course.offer.model.name,
            )

    def _count_refusal(self, endpoint: str, creator: str, code: str) -> None:
        self._ledger.count_refusal(creator, code)
        self._metrics.refused(endpoint, code)


def _is_soft(refused: Refused) -> bool:
    """Only the soft budget is in the way."""
    return all(limit.resume_below is not None for limit in refused.unsatisfied)


def _on_quota(account: Account) -> Account:
    return replace(account, plan=replace(account.plan, payers=("quota",)))


def _resolve(catalog: Catalog, request: ModelRequest) -> Model:
    name = request.model
    model = catalog.models.get(name)
    if model is None or not model.active:
        shown = name if len(name) <= 100 and name.isprintable() else "named in the request"
        reason = "is not in this gateway's catalog" if model is None else "is switched off on this gateway"
        raise NotFound(f"The model `{shown}` {reason}.", code="model_not_found", param="model")
    if not request.serves(model):
        raise RequestError(
            f"The model `{name}` does not serve {request.path}.", code="endpoint_not_supported", param="model"
        )
    return model


def _choice(model: Model, headers: Mapping[bytes, bytes]) -> DowngradeChoice:
    choice: DowngradeChoice = "possible"
    wish = headers.get(b"x-gateway-downgrade")
    if wish is not None:
        if wish.lower() not in (b"allow", b"never"):
            raise RequestError(
                "`x-gateway-downgrade` takes `allow` or `never`.", code="invalid_value", param="x-gateway-downgrade"
            )
        choice = "refused" if wish.lower() == b"never" else "possible"
    return choice if model.downgrade_to is not None else "impossible"


def _clamp(request: ModelRequest, offer: Offer, taken: Taken) -> int | None:
    """Bound the answer by the smallest share a shrinking limit could give. Returns output tokens a choice, or None."""
    clamped_to: int | None = None
    for limit, _, _, _, share in taken.states:
        if share < limit.amount:
            for each in (offer, *offer.fallbacks):
                price = each.charge_price if limit.unit == "nano_usd" else each.model.price
                clamped_to = request.clamp(each.model, price, share) or clamped_to
    return clamped_to


def _hold(call: Call, course: Course, taken: Taken, clamped_to: int | None) -> Hold:
    """The money set aside, and what is booked if this process dies."""
    request, offer = course.request, course.offer
    model, charge_price, wanted = offer.model, offer.charge_price, offer.call
    amount = wanted.cost_nano_usd
    if clamped_to is not None:
        amount = max(request.worst_case(each.model, each.model.price) for each in (offer, *offer.fallbacks))
    orphan = request.unfinished_usage(model)
    variant = request.variant(model)
    orphan_cost = cost_nano_usd(orphan, model.price, variant)
    if orphan_cost > amount:
        orphan_cost = amount
    paid_by, unit = _payer(taken)
    orphan_charge = 0
    if paid_by == "quota":
        orphan_charge = orphan_cost
        if charge_price is not model.price:
            orphan_charge = min(wanted.charge_nano_usd, cost_nano_usd(orphan, charge_price, variant))
    attribution = attribution_of(call, course)
    estimate = (wanted.cost_nano_usd, wanted.charge_nano_usd, wanted.expected_nano_usd, wanted.tokens, amount)
    return _made(
        Hold,
        (
            attribution,
            _made(Route, (model.name, model.provider, model.price.version, paid_by, unit)),
            amount,
            orphan,
            orphan_cost,
            orphan_charge,
            "" if charge_price is model.price or paid_by != "quota" else charge_price.version,
            course.steps[-1].limit_name if course.steps else "",
            decision_text(taken.states, estimate, course.steps, clamped_to, course.overruled),
            None if call.claim is None else call.claim.reservation,
        ),
    )


def attribution_of(call: Call, course: Course) -> Attribution:
    """Whom and what the call is booked on."""
    account, request = course.account, course.request
    values = (call.request_id, account.account_id, account.creator, account.key_id, *course.labels)
    return _made(Attribution, (*values, request.endpoint, request.model, course.client_id, call.admitted_at))


def _payer(taken: Taken) -> tuple[str, str]:
    for state in reversed(taken.states):  # payers come late in the order of policies
        limit = state.limit
        if limit.unit in _PAYER_UNITS and (found := payer.payer_of(limit)) is not None:
            return found
    raise AssertionError("a call was admitted without a payer")


def _lifted(group: LimitGroup, course: Course) -> LimitGroup:
    """The group as it would be without limits: what fits is taken as ever, and where nothing does, the last one is.

    Nobody's credits or free images go below nothing for that: the quota pays.
    """
    last = group[-1]
    if last.unit in ("image", "credit"):
        last = quota.alternative(course.offer.call, course.account, course.now)
    return (*group, last._replace(capacity=UNLIMITED, amount_min=None, resume_below=None, downgrades=False))


def _unpriced(model: Model) -> RequestError:
    return RequestError(
        f"The model `{model.name}` has no price for what this request asks, so it is refused.",
        code="unpriced_model",
        param="model",
    )
