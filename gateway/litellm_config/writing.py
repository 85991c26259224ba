"""Files in the gateway's own formats: pricing.toml, plans.toml, and a file of environment variables without any secret."""

from collections.abc import Iterable, Mapping
from decimal import Decimal

import orjson

from gateway.litellm_config.models import Draft, Place, unpriced
from gateway.litellm_config.providers import Provider

__all__ = ["catalog_text", "environment_text", "plans_text"]

_WIDTH = 118
Row = Mapping[str, object]


def catalog_text(version: str, providers: Mapping[str, Provider], drafts: Iterable[Draft]) -> str:
    """A whole catalog."""
    parts = [
        "# Made by `gateway import litellm-config`. Every key: docs/pricing.md. Prices are US dollars per million tokens.\n"
        f"version = {_value(version)}\n"
    ]
    parts += [_table(f"providers.{_key(name)}", provider.row) for name, provider in sorted(providers.items())]
    parts += [_model(draft) for draft in drafts]
    return "\n".join(parts)


def plans_text(name: str, plan: Row) -> str:
    """A whole plans file with one plan."""
    head = (
        "# Made by `gateway import litellm-config`. Every key: docs/plans.md. The only plan is that of every creator.\n"
    )
    return f"{head}\n{_table(f'plans.{_key(name)}', plan)}"


def environment_text(files: Mapping[str, str], settings: Mapping[str, str], secrets: Mapping[str, str]) -> str:
    """Settings as `NAME=value`, and what the reader has to fill in as comments."""
    lines = ["# Made by `gateway import litellm-config`. Fill in what stands behind # and never commit it."]
    lines += [f"{name}={value}" for name, value in (*files.items(), *settings.items())]
    lines += [f"# {name}=   {purpose}" for name, purpose in secrets.items()]
    return "\n".join(lines) + "\n"


def _model(draft: Draft) -> str:
    first = draft.places[0]
    row: dict[str, object] = {}
    deployments: list[str] = []
    header = f"models.{_value(draft.name)}"
    if len(draft.places) == 1 and not first.model:
        row |= {"provider": first.provider}
        row |= {"upstream_model": first.upstream_model} if first.upstream_model != draft.name else {}
    else:
        deployments = [_deployment(header, place, first) for place in draft.places]
    row["endpoints"] = draft.endpoints
    row |= {"retries": draft.retries} if draft.retries else {}
    row |= first.prices
    row |= draft.row
    note = "# No price: its calls are refused as unpriced until it has one.\n" if unpriced(draft) else ""
    return "\n".join([note + _table(header, row), *deployments])


def _deployment(header: str, place: Place, first: Place) -> str:
    row: dict[str, object] = (
        {"model": place.model} if place.model else {"provider": place.provider, "upstream_model": place.upstream_model}
    )
    row["weight"] = place.weight
    own = {} if place.model or place.prices == first.prices else dict(place.prices)
    return _table(f"{header}.deployments", row | own, is_element=True)


def _table(header: str, row: Row, *, is_element: bool = False) -> str:
    """The table, its plain keys first and the tables below it after."""
    lines = [f"[[{header}]]" if is_element else f"[{header}]"]
    below: list[str] = []
    for key, value in row.items():
        if isinstance(value, Mapping) and any(isinstance(each, Mapping) for each in value.values()):
            below.append(_table(f"{header}.{_key(key)}", value))
        else:
            lines.append(f"{_key(key)} = {_value(value)}")
    return "\n".join(["\n".join(lines) + "\n", *below])


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, int):
        return f"{value:_}" if value >= 10_000 else str(value)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(key)} = {_value(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list | tuple | set | frozenset):
        return "[" + ", ".join(_value(each) for each in value) + "]"
    # JSON's escapes are TOML's as well, but for DEL, which JSON leaves as it is.
    return orjson.dumps(str(value)).decode().replace("\x7f", "\\u007f")


def _key(key: str) -> str:
    is_bare = key.isascii() and key.replace("-", "").replace("_", "").isalnum()
    return key if is_bare else _value(key)
