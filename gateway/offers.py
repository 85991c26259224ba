"""What a call may cost, and owe, on the models and deployments that could serve it.

An offer is made for the requested model, and again for each cheaper one a downgrade looks at. Where a model has several
deployments it covers the dearest of those the call may try.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from gateway.catalog import Catalog, Model, Price
from gateway.model_request import ModelRequest
from gateway.pricing import charged_price
from gateway.routing import Deployments
from policies import types as policy_types
from policies.types import Account, DowngradeChoice

__all__ = ["Offer", "Offers", "RecordPrice", "can_serve", "cheaper_models"]

RecordPrice = Callable[[str, Price], Awaitable[None]]
"""Keeps a price row under its version, so that entries priced by it can be computed again."""
_CHARGED_PRICES_KEPT = 10_000
# A NamedTuple's own constructor takes twice as long as the tuple's.
_made = tuple.__new__


class Offer(NamedTuple):
    """What one request may cost on one model, for one account."""

    model: Model
    charge_price: Price
    """What the creator owes by: the catalog's price, unless an override says otherwise."""
    call: policy_types.Call
    credits_each: int | None
    """Credits per image, or per call on endpoints without images."""
    fallbacks: "tuple[Offer, ...]" = ()
    """The same on the model's other deployments, in the order they are tried. `call` covers the dearest of all."""


class Offers:
    """Lifetime: the process. Holds no state of a call."""

    def __init__(self, deployments: Deployments, record_price: RecordPrice, *, attempts_max: int) -> None:
        self._deployments = deployments
        self._record_price = record_price
        self._attempts_max = attempts_max
        self._charged_prices: dict[tuple[str, frozenset[tuple[str, int]]], Price] = {}

    async def make(
        self,
        account: Account,
        request: ModelRequest,
        model: Model,
        address: str,
        choice: DowngradeChoice,
        *,
        whatever_health: bool = False,
    ) -> Offer:
        """What the call may cost on whichever deployment of `model` serves it, or would serve it if all were well.

        Raises `UnpricedUsage`, `RequestError` for a feature without a price, `UpstreamError` where no deployment is well.
        """
        ordered = self._deployments.drawn if whatever_health else self._deployments.order
        places = ordered(model, account.creator)
        if len(places) > 1:
            # What one of them keeps for this creator, or only some can read, is asked of those.
            places = [place for place in places if request.fits(place)] or places
        if len(places) == 1:
            (place,) = places
            charge_price = place.price if not account.plan.prices else await self._charge_price(account, place)
            return _offer(account, request, place, charge_price, address, choice, model)
        offers = [
            _offer(account, request, place, await self._charge_price(account, place), address, choice, model)
            for place in places[: self._attempts_max]
        ]
        return offers[0]._replace(call=_dearest([offer.call for offer in offers]), fallbacks=tuple(offers[1:]))

    async def _charge_price(self, account: Account, model: Model) -> Price:
        """What the account owes by, kept for `verify` before any entry may name it."""
        overrides = account.plan.prices.get(model.name)
        if overrides is None:
            return model.price
        key = (model.price.version, frozenset(overrides.items()))
        known = self._charged_prices.get(key)
        if known is None:
            known = charged_price(model, overrides)
            if known is not model.price:
                await self._record_price(model.name, known)
            if len(self._charged_prices) >= _CHARGED_PRICES_KEPT:
                self._charged_prices.clear()
            self._charged_prices[key] = known
        return known


def _offer(
    account: Account,
    request: ModelRequest,
    model: Model,
    charge_price: Price,
    address: str,
    choice: DowngradeChoice,
    named: Model,
) -> Offer:
    """On one deployment, `model`, of the model `named`. Raises `UnpricedUsage`, or `RequestError` for a feature without
    a price."""
    price, credits_each = model.price, named.credits if model.credits is None else model.credits
    cost, cost_min, expected, tokens = estimated = request.estimate(model, price)
    if account.plan.prices:
        credits_each = account.plan.prices.get(model.name, {}).get("credits", credits_each)
    if charge_price is not price:
        estimated = request.estimate(model, charge_price)
    # In the order of the fields: names would double the price of the tuple.
    call = _made(
        policy_types.Call,
        (
            request.endpoint,
            request.model,
            named.name,
            model.provider,
            named.tier,
            estimated[0],
            cost,
            expected,
            estimated[1],
            cost_min,
            tokens,
            request.images,
            None if credits_each is None else credits_each * (request.images or 1),
            address,
            choice,
        ),
    )
    return _made(Offer, (model, charge_price, call, credits_each, ()))


def _dearest(calls: Sequence[policy_types.Call]) -> policy_types.Call:
    """The first of the calls with the largest amounts of all: whichever is made, it fits."""
    least = [call.charge_min_nano_usd for call in calls], [call.cost_min_nano_usd for call in calls]
    in_credits = [call.credits for call in calls if call.credits is not None]
    return calls[0]._replace(
        charge_nano_usd=max(call.charge_nano_usd for call in calls),
        cost_nano_usd=max(call.cost_nano_usd for call in calls),
        expected_nano_usd=max(call.expected_nano_usd for call in calls),
        tokens=max(call.tokens for call in calls),
        charge_min_nano_usd=None if None in least[0] else max(each for each in least[0] if each is not None),
        cost_min_nano_usd=None if None in least[1] else max(each for each in least[1] if each is not None),
        credits=max(in_credits, default=None),
    )


def can_serve(model: Model, request: ModelRequest) -> bool:
    """Whether a downgrade may lead to `model` at all."""
    return model.active and request.serves(model) and request.fits(model)


def cheaper_models(catalog: Catalog, model: Model) -> Sequence[Model]:
    """The chain of `downgrade_to` behind `model`, nearest first. The catalog refuses chains that lead back."""
    chain: list[Model] = []
    name = model.downgrade_to
    while name is not None and (target := catalog.models.get(name)) is not None:
        chain.append(target)
        name = target.downgrade_to
    return chain
