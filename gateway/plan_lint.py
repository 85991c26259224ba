"""What a loadable plans file should still explain, held against the catalog. For `gateway check`."""

from collections.abc import Iterable, Mapping

from gateway.catalog import Catalog, Model
from gateway.pricing import IMAGE_PREFIX, usd
from policies.types import Payer, Plan
from policies.windows import WINDOWS

__all__ = ["lint_plans"]

_DEFAULT_PAYERS = Plan("").payers


def lint_plans(plans: Mapping[str, Plan], catalog: Catalog) -> list[str]:
    """One warning a line, naming the plan: caps in the wrong order, names the catalog lacks, prices that a request gets
    around, payers that never pay, rules for limits that are not set."""
    return [f"plans.{plan.name}: {text}" for plan in plans.values() for text in _doubts(plan, catalog)]


def _doubts(plan: Plan, catalog: Catalog) -> Iterable[str]:
    yield from _caps(plan)
    yield from _names(plan, catalog)
    yield from _image_prices(plan, catalog)
    yield from _payers(plan, catalog)
    yield from _without_store(plan)


def _caps(plan: Plan) -> Iterable[str]:
    budget, quota = plan.budget_nano_usd_per_month, plan.quota_nano_usd_per_month
    hard = plan.budget_hard_nano_usd_per_month
    if budget is not None and quota is not None and budget >= quota and not plan.budget_is_auto:
        yield (
            f"budget_usd_per_month ({usd(budget)}) is not below quota_usd_per_month ({usd(quota)}): calls that the quota "
            "pays are refused before the budget is reached"
        )
    if hard is None:
        if plan.when_budget_reached == "downgrade_then_deny":
            yield "when_budget_reached never denies: there is no budget_hard_usd_per_month"
    elif plan.when_budget_reached != "downgrade_then_deny":
        yield 'budget_hard_usd_per_month has no effect unless when_budget_reached = "downgrade_then_deny"'
    elif budget is None or hard < budget:
        soft = "without limit" if budget is None else usd(budget)
        yield (
            f"budget_hard_usd_per_month ({usd(hard)}) is below budget_usd_per_month ({soft}): calls are refused before "
            "any is downgraded"
        )


def _names(plan: Plan, catalog: Catalog) -> Iterable[str]:
    models = catalog.models.keys()
    tiers = {model.tier for model in catalog.models.values()}
    yield from _unknown("models", plan.models or (), models)
    yield from _unknown("tiers", plan.tiers or (), tiers)
    yield from _unknown("providers", plan.providers, catalog.providers)
    yield from _unknown("prices", plan.prices, models)
    if not any(_allows(plan, model) for model in catalog.models.values() if model.active):
        yield "no active model of the catalog is left by its models, tiers and endpoints"


def _unknown(key: str, named: Iterable[str], known: Iterable[str]) -> Iterable[str]:
    if missing := sorted(set(named) - set(known)):
        yield f"{key} names what the catalog does not have: {', '.join(missing)}"


def _image_prices(plan: Plan, catalog: Catalog) -> Iterable[str]:
    """A request need not say size and quality, and where tokens have the price, none of both is as good as any."""
    for name, row in sorted(plan.prices.items()):
        model = catalog.models.get(name)
        if model is None or "images" not in model.endpoints or model.price.images or f"{IMAGE_PREFIX}*/*" in row:
            continue
        if any(key.startswith(IMAGE_PREFIX) for key in row):
            yield f'prices."{name}".image_usd has no "*": images of another size, or of none named, are owed by tokens'


def _allows(plan: Plan, model: Model) -> bool:
    return (
        (plan.models is None or model.name in plan.models)
        and (plan.tiers is None or model.tier in plan.tiers)
        and (plan.endpoints is None or bool(model.endpoints & plan.endpoints))
    )


def _payers(plan: Plan, catalog: Catalog) -> Iterable[str]:
    """Nothing about the usual payers where no model has a price in credits: nobody asked for them."""
    priced = [model for model in catalog.models.values() if _allows(plan, model) and _has_credits(plan, model)]
    if not priced:
        if plan.payers != _DEFAULT_PAYERS:
            yield "payers are never asked: no model it allows has a price in credits"
        return
    for payer, reason in _never_paying(plan, priced):
        yield f"payers names {payer}, which can never pay: {reason}"


def _never_paying(plan: Plan, priced: list[Model]) -> Iterable[tuple[Payer, str]]:
    has_images = any(model.endpoints & {"images", "image_edits"} for model in priced)
    for place, payer in enumerate(plan.payers):
        if "quota" in plan.payers[:place] and plan.quota_nano_usd_per_month is None:
            yield payer, "the quota before it has no limit"
        elif payer == "quota" and plan.quota_nano_usd_per_month == 0:
            yield payer, "quota_usd_per_month is 0"
        elif payer == "free_images" and plan.free_images_per_day == 0:
            yield payer, "free_images_per_day is 0"
        elif payer == "free_images" and not has_images and plan.payers != _DEFAULT_PAYERS:
            yield payer, "no model it allows with a price in credits makes images"


def _without_store(plan: Plan) -> Iterable[str]:
    """A key's own limits go by it, too, but nobody would set it for those alone without knowing."""
    limits = {name: getattr(plan, name) for name in WINDOWS}
    for provider in plan.providers.values():
        limits.update({name: value for name in WINDOWS if (value := getattr(provider, name)) is not None})
    units = {WINDOWS[name].unit for name, value in limits.items() if value is not None}
    has = {
        "rate_limit": "request" in units,
        "token_rate": "token" in units,
        "concurrency": "call" in units,
        "quota": plan.quota_nano_usd_per_month is not None,
    }
    for limited_by in plan.on_store_error:
        if not has.get(limited_by, True):
            yield f"on_store_error.{limited_by} has no effect: the plan sets no such limit"


def _has_credits(plan: Plan, model: Model) -> bool:
    return model.credits is not None or "credits" in plan.prices.get(model.name, {})
