"""`[[models."NAME".deployments]]` as pricing.toml writes it: the places that serve one model."""

from typing import NamedTuple

from gateway.price_rows import PRICE_KEYS
from gateway.toml_file import Table

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
    rows = [_row(Table(table.file, (*table.where, "deployments"), each)) for each in data]
    if rows and not any(row.weight for row in rows):
        table.fault("needs a weight above 0 for one of them", "deployments")
    places = [(row.model, row.provider, row.upstream_model) for row in rows]
    if len(set(places)) < len(places):
        table.fault("names a place twice", "deployments")
    return rows


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
