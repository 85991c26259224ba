"""Fragments of pricing.toml and plans.toml as the pages show them, read by the gateway's own parsers.

A fragment is put where it belongs: tables without what a whole file needs join the packaged file, providers that only the
text around it names become mock ones.
"""

import json
import tomllib
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from gateway.catalog import load_catalog, packaged_catalog
from gateway.plans import load_plan_file, packaged_plans

__all__ = ["load_fragment"]

_OF_CATALOG = {"version", "providers", "models"}
_OF_PLANS = {"plans", "credit_packages"}


def load_fragment(text: str, folder: Path) -> None:
    """Raises `ConfigError` or `TOMLDecodeError` with what is wrong, `AssertionError` for what is part of neither file."""
    said = tomllib.loads(text, parse_float=Decimal)
    file = folder / "fragment.toml"
    if said.keys() <= _OF_CATALOG:
        file.write_text(_toml(_catalog_with(said)))
        load_catalog(file)
    else:
        assert said.keys() <= _OF_PLANS, f"{sorted(said)}: neither a fragment of pricing.toml nor of plans.toml"
        file.write_text(_toml(_merged(_read(packaged_plans()), said)))
        load_plan_file(file)


def _catalog_with(said: Mapping[str, Any]) -> dict[str, Any]:
    """A row that lists endpoints is whole, and stands in the place of a packaged one; any other one adds to it."""
    packaged = _read(packaged_catalog())
    for name, row in said.get("models", {}).items():
        if "endpoints" in row:
            packaged["models"].pop(name, None)
    catalog = _merged(packaged, said)
    for row in list(catalog["models"].values()):
        for part in (row, *row.get("deployments", ())):
            if provider := part.get("provider"):
                catalog["providers"].setdefault(provider, {"dialect": "mock"})
    return catalog


def _read(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(), parse_float=Decimal)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _toml(table: Mapping[str, Any]) -> str:
    return "".join(f"{json.dumps(key)} = {_value(value)}\n" for key, value in table.items())


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {_value(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return format(value, "f") if isinstance(value, Decimal) else json.dumps(value, ensure_ascii=False)
