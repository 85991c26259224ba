"""What can be read again while the gateway runs: plans, credit packages, and the catalog's models and prices.

`Live` holds what counts now. Whoever needs it reads the attribute at every call and keeps nothing; a call in flight goes
on with the model and the price it began with. A reload takes both files or neither:

1. read both files; a fault in either leaves everything as it is;
2. refuse what only a restart can do: providers are made at the start;
3. refuse to take away a plan that creators are on;
4. record the new prices, because an entry may name them from the next call on;
5. tell whoever has to prepare for the new plans;
6. swap, in one step that nothing waits in.

Afterwards the caller lets the authenticator forget what it merged from the old plans (`Authenticator.invalidate`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from gateway.catalog import Catalog, Model, Price, ProviderRow, load_catalog, packaged_catalog
from gateway.errors import ConfigError
from gateway.plans import CreditPackage, PlanFile, load_plan_file, packaged_plans
from policies.types import Plan

__all__ = ["Changes", "Live"]

_NAMES_SHOWN_MAX = 20
Item = TypeVar("Item")


class Changes(NamedTuple):
    """What a reload brought: names, in the order of the files; what went, in alphabetical order."""

    catalog_version: str
    plans_added: tuple[str, ...] = ()
    plans_removed: tuple[str, ...] = ()
    plans_changed: tuple[str, ...] = ()
    credit_packages_added: tuple[str, ...] = ()
    credit_packages_removed: tuple[str, ...] = ()
    credit_packages_changed: tuple[str, ...] = ()
    models_added: tuple[str, ...] = ()
    models_removed: tuple[str, ...] = ()
    models_repriced: tuple[str, ...] = ()
    """Any price differs, one in credits too."""
    models_switched: tuple[str, ...] = ()
    """On or off."""
    models_changed: tuple[str, ...] = ()
    """Anything else differs: endpoints, bounds, the downgrade, what people read."""

    def to_json(self) -> dict[str, Any]:
        """Every field, names as lists."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in self._asdict().items()}


class Live:
    """The current plans, credit packages and catalog. Attributes are replaced as wholes and never changed in place."""

    plans: Mapping[str, Plan]
    """One object for the life of the process, whose content is always that of the last good file."""
    credit_packages: Mapping[str, CreditPackage]
    catalog: Catalog

    def __init__(
        self, pricing_file: Path | None, plans_file: Path | None, provider_key: Callable[[str], str | None]
    ) -> None:
        """Reads both files, the packaged one for None. `provider_key` finds the key in a variable a provider names; a
        model without one is inactive. Raises `ConfigError` as the loaders do."""
        self._pricing_file = pricing_file
        self._plans_file = plans_file
        self._provider_key = provider_key
        self._reloading = asyncio.Lock()
        self.catalog, plan_file = self._read()
        self._plans = _LivePlans(plan_file.plans)
        self.plans = self._plans
        self.credit_packages = plan_file.credit_packages

    async def reload(
        self,
        *,
        record_prices: Callable[[Iterable[tuple[str, Price]]], Awaitable[None]],
        plans_in_use: Callable[[], Awaitable[Collection[str]]],
        before_swap: Callable[[Mapping[str, Plan]], Awaitable[None]] | None = None,
    ) -> Changes:
        """Read both files again; what differs counts from the next call on.

        `record_prices` makes the prices durable, by model. `plans_in_use` names the plans that creators are on, and those
        that keys give to creators they bring along. `before_swap` is told the new plans while the old ones still count:
        what these begin to count has to know what was used before. Raises `ConfigError`, a line for each reason, and
        whatever the three raise: then nothing has changed.
        """
        async with self._reloading:
            # In a thread: a file of thousands of models takes longer to check than calls in flight should wait.
            catalog, plan_file = await asyncio.to_thread(self._read)
            self._refuse_changed_providers(catalog)
            await self._refuse_missing_plans(plan_file.plans, plans_in_use)
            await record_prices(catalog.prices())
            if before_swap is not None:
                await before_swap(plan_file.plans)
            changes = _changes(self, catalog, plan_file)
            self.catalog = catalog
            self.credit_packages = plan_file.credit_packages
            self._plans.current = plan_file.plans
            return changes

    def _read(self) -> tuple[Catalog, PlanFile]:
        """Both files, with the faults of both together, so that one look is enough to mend them."""
        reasons: list[str] = []
        catalog, plan_file = None, None
        try:
            catalog = load_catalog(self._pricing_file).with_keys(self._provider_key)
        except ConfigError as exc:
            reasons.append(str(exc))
        try:
            plan_file = load_plan_file(self._plans_file)
        except ConfigError as exc:
            reasons.append(str(exc))
        if catalog is None or plan_file is None:
            raise ConfigError("\n".join(reasons))
        return catalog, plan_file

    def _refuse_changed_providers(self, catalog: Catalog) -> None:
        differences = list(_provider_differences(self.catalog.providers, catalog.providers))
        if differences:
            path = self._pricing_file or packaged_catalog()
            raise ConfigError("\n".join(f"{path}: {line}: needs a restart" for line in differences))

    async def _refuse_missing_plans(
        self, plans: Mapping[str, Plan], plans_in_use: Callable[[], Awaitable[Collection[str]]]
    ) -> None:
        gone = self.plans.keys() - plans.keys()
        if gone and (missed := sorted(gone.intersection(await plans_in_use()))):
            path = self._plans_file or packaged_plans()
            raise ConfigError(f"{path}: plans that are in use are not in it any more: {_listed(missed)}")


class _LivePlans(Mapping[str, Plan]):
    """The plans of the last good file, for those who hold a mapping. An iteration goes on over what it began with."""

    def __init__(self, current: Mapping[str, Plan]) -> None:
        self.current = current

    def __getitem__(self, name: str) -> Plan:
        return self.current[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.current)

    def __len__(self) -> int:
        return len(self.current)


def _provider_differences(old: Mapping[str, ProviderRow], new: Mapping[str, ProviderRow]) -> Iterator[str]:
    """A line for each provider that came or went and for each field that differs. No values: none has to be in a log."""
    for name in sorted(old.keys() | new.keys()):
        if name not in new:
            yield f"providers.{name} is gone"
        elif name not in old:
            yield f"providers.{name} is new"
        else:
            differ = [field.name for field in fields(ProviderRow) if _differ(old[name], new[name], field.name)]
            yield from (f"providers.{name}.{field} differs" for field in differ)


def _differ(one: object, other: object, attribute: str) -> bool:
    return bool(getattr(one, attribute) != getattr(other, attribute))


def _changes(live: Live, catalog: Catalog, plan_file: PlanFile) -> Changes:
    plans_added, plans_removed, plans_kept = _compared(live.plans, plan_file.plans)
    packages_added, packages_removed, packages_kept = _compared(live.credit_packages, plan_file.credit_packages)
    models_added, models_removed, models = _compared(live.catalog.models, catalog.models)
    return Changes(
        catalog.version,
        plans_added,
        plans_removed,
        tuple(name for name, old, new in plans_kept if not _is_same_plan(old, new)),
        packages_added,
        packages_removed,
        tuple(name for name, old, new in packages_kept if old != new),
        models_added,
        models_removed,
        tuple(name for name, old, new in models if _price_key(old) != _price_key(new)),
        tuple(name for name, old, new in models if old.active != new.active),
        tuple(name for name, old, new in models if _without_price_and_switch(old) != _without_price_and_switch(new)),
    )


def _compared(
    old: Mapping[str, Item], new: Mapping[str, Item]
) -> tuple[tuple[str, ...], tuple[str, ...], list[tuple[str, Item, Item]]]:
    """Names that are new, names that are gone, and what bears a name in both."""
    added = tuple(name for name in new if name not in old)
    removed = tuple(sorted(name for name in old if name not in new))
    return added, removed, [(name, old[name], new[name]) for name in new if name in old]


def _is_same_plan(old: Plan, new: Plan) -> bool:
    """What is counted because of another plan is no change of this one."""
    return replace(old, counted=new.counted) == new


def _price_key(model: Model) -> tuple[str, int | None]:
    """The digest of the price row, which a new version of the file does not change, and the price in credits."""
    return model.price.version.rpartition(".")[2], model.credits


def _without_price_and_switch(model: Model) -> Model:
    return replace(model, price=_NO_PRICE, credits=None, active=True)


_NO_PRICE = Price("")


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMES_SHOWN_MAX
    return ", ".join(names[:_NAMES_SHOWN_MAX]) + (f" and {more} more" if more > 0 else "")
