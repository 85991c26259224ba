"""What was set. Secrets are told as set, URLs without what may be a password."""

from collections.abc import Iterator
from difflib import get_close_matches
from typing import TYPE_CHECKING

from pydantic import SecretStr

from gateway.catalog import Catalog
from gateway.commands.examinations.finding import Finding, ok, warn, without_secrets
from gateway.config import provider_key, unknown_variables

if TYPE_CHECKING:
    from gateway.config import Settings

__all__ = ["examine_settings"]

_NEAR = 0.88
"""How alike two names are, from 0 to 1, before one is taken for a slip of the other."""


def examine_settings(settings: "Settings", catalog: Catalog | None) -> Iterator[Finding]:
    """`catalog` as the file has it, with the models that have no provider key; None where it cannot be read."""
    changed = list(_changed(settings))
    yield from changed
    if not changed:
        yield ok("configured", "settings", "all are the defaults")
    yield from _slips(settings)
    if catalog is not None:
        yield from _provider_keys(catalog)


def _changed(settings: "Settings") -> Iterator[Finding]:
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if value != field.default:
            yield ok("configured", f"GATEWAY_{name.upper()}", _shown(value))


def _slips(settings: "Settings") -> Iterator[Finding]:
    """Variables that are no setting, and nearly are one."""
    known = [f"GATEWAY_{name.upper()}" for name in type(settings).model_fields]
    for name in unknown_variables():
        if near := get_close_matches(name, known, 1, _NEAR):
            yield warn("configured", name, "is set, and no setting has this name", f"did you mean {near[0]}?")


def _shown(value: object) -> str:
    if isinstance(value, SecretStr):
        return "set"
    return without_secrets(str(value)) if value is not None else "none"


def _provider_keys(catalog: Catalog) -> Iterator[Finding]:
    """Without a key a provider's models are inactive, which is how most of a catalog is meant to be."""
    for row in catalog.providers.values():
        if not row.api_key_env:
            continue
        count = sum(model.active and model.provider == row.name for model in catalog.models.values())
        state = "set" if provider_key(row.api_key_env) else f"unset: {count} models of {row.name} are inactive"
        yield ok("configured", row.api_key_env, state)
