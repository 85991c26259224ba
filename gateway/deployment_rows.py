"""`[[models."NAME".deployments]]` as pricing.toml writes it: the places that serve one model."""

from typing import NamedTuple

from gateway.price_rows import PRICE_KEYS
from gateway.toml_file import Faults, Table, Where

__all__ = ["DeploymentRow", "read_deployments"]

DEPLOYMENTS_MAX = 50
_WEIGHT_MAX = 1_000_000
_KEYS = frozenset({"model", "provider", "upstream_model", "weight"}) | PRICE_KEYS


class DeploymentRow(NamedTuple):
    """Another model of the catalog, or a provider and what it calls the model. Which of them exist is not looked at."""

    table: Table
    model: str
    provider: str
    upstream_model: str
    """Empty: what the model's own row says."""
    weight: int

    @property
    def has_price(self) -> bool:
        """Whether it has prices of its own; all of them, then."""
        return not PRICE_KEYS.isdisjoint(self.table.data)


def read_deployments(table: Table) -> list[DeploymentRow]:
    """The deployments in a model's table, in their order. Faults are noted."""
    data = table.data.get("deployments", [])
    if not isinstance(data, list) or len(data) > DEPLOYMENTS_MAX or not all(isinstance(each, dict) for each in data):
        table.fault(f"must be at most {DEPLOYMENTS_MAX} tables: [[models.NAME.deployments]]", "deployments")
        return []
    where = (*table.where, "deployments")
    rows = [_row(Table(_Numbered(table.file, number), where, each)) for number, each in enumerate(data, start=1)]
    if rows and not any(row.weight for row in rows):
        table.fault("needs a weight above 0 for one of them", "deployments")
    own = table.data.get("upstream_model") or table.where[-1]
    places = [(row.model, row.provider, "" if row.model else row.upstream_model or own) for row in rows]
    if len(set(places)) < len(places):
        table.fault("names a place twice", "deployments")
    return rows


class _Numbered:
    """Says which of them is meant: all deployments of a model have the same path, and with it the line of the first."""

    def __init__(self, file: Faults, number: int) -> None:
        self._file = file
        self._number = number

    def fault(self, where: Where, reason: str) -> None:
        self._file.fault(where, reason if self._number == 1 else f"{reason} (deployment {self._number} of the model)")


def _row(table: Table) -> DeploymentRow:
    table.refuse_unknown(_KEYS)
    model, provider = table.text("model"), table.text("provider")
    if bool(model) == bool(provider):
        table.fault("a deployment names either a model of this catalog or a provider")
    own = (PRICE_KEYS | {"upstream_model"}) & table.data.keys()
    if model and own:
        table.fault(f"{', '.join(sorted(own))}: the model named here has its own")
    weight = table.count("weight", at_least=0, at_most=_WEIGHT_MAX)
    return DeploymentRow(table, model, provider, table.text("upstream_model"), 1 if weight is None else weight)
