"""`gateway prices`: the catalog's prices beside public price lists, offline."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.commands.output import AsJson, echo_json
from gateway.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.catalog import Catalog
    from gateway.price_references import Comparison, Reference

    _Compared = tuple[Reference, Comparison] | None

app = typer.Typer(help="Prices of the catalog.", no_args_is_help=True)

_HOW_TO_INSTALL = {
    "litellm": "pip install 'llm-gateway[providers]', or name its map with --litellm-map",
    "genai-prices": "pip install 'llm-gateway[prices]'",
}


@app.callback()
def _prices() -> None:
    """Prices of the catalog."""


@app.command()
def diff(
    pricing_file: Annotated[
        Path | None, typer.Option(help="The catalog to compare; by default the one the gateway would use.")
    ] = None,
    litellm_map: Annotated[
        Path | None, typer.Option(help="A price map of litellm; by default that of an installed litellm.")
    ] = None,
    on: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Compare with the prices of this day (UTC); today.")
    ] = None,
    strict: Annotated[bool, typer.Option(help="Exit with 1 if any figure differs.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show where the catalog differs from litellm's price map and from genai-prices. Opens no connection."""
    from gateway.catalog import load_catalog
    from gateway.config import load_settings
    from gateway.price_references import GenaiPrices, LitellmMap, compare

    day = (on or datetime.now(UTC)).replace(tzinfo=UTC)
    try:
        catalog = load_catalog(pricing_file or load_settings().pricing_file)
        litellm = LitellmMap(litellm_map, f"litellm ({litellm_map.name})") if litellm_map else LitellmMap.installed()
    except ConfigError as exc:
        typer.echo(str(exc), err=True)
        raise typer.Exit(2) from None
    references: dict[str, Reference | None] = {"litellm": litellm, "genai-prices": GenaiPrices.installed(day)}
    compared = {
        name: None if reference is None else (reference, compare(catalog, reference))
        for name, reference in references.items()
    }
    if as_json:
        echo_json(_as_json(catalog, day, compared))
    else:
        for name, found in compared.items():
            _show(name, found)
    if strict and any(found and found[1].differences for found in compared.values()):
        raise typer.Exit(1)


def _as_json(catalog: "Catalog", day: datetime, compared: "Mapping[str, _Compared]") -> dict[str, Any]:
    """As `GET /admin/prices/diff` has it: figures as text, null where the catalog has none."""
    references = [_reference_json(name, found) for name, found in compared.items()]
    return {"version": catalog.version, "on": day.strftime("%Y-%m-%d"), "references": references}


def _reference_json(name: str, found: "_Compared") -> dict[str, Any]:
    from gateway.price_references import shown

    if found is None:
        nothing = {"title": name, "installed": False, "equal": 0, "differences": [], "unlisted": []}
        return {"name": name, **nothing, "problem": f"not installed, so not compared: {_HOW_TO_INSTALL[name]}"}
    reference, comparison = found
    differences = [
        {
            "model": difference.model,
            "key": difference.key,
            "ours": None if difference.ours is None else shown(difference.ours),
            "theirs": shown(difference.theirs),
        }
        for difference in comparison.differences
    ]
    return {
        "name": name,
        "title": reference.name,
        "installed": True,
        "equal": comparison.equal,
        "differences": differences,
        "unlisted": comparison.unlisted,
        "problem": None,
    }


def _show(name: str, found: "_Compared") -> None:
    from gateway.price_references import aligned, shown

    if found is None:
        typer.echo(f"{name}: not installed, so not compared: {_HOW_TO_INSTALL[name]}\n")
        return
    reference, comparison = found
    typer.echo(f"{reference.name}: {_summary(comparison)}")
    if comparison.differences:
        header = ("model", "key", "pricing.toml", name)
        rows = [(d.model, d.key, shown(d.ours), shown(d.theirs)) for d in comparison.differences]
        for line in aligned([header, *rows]):
            typer.echo(f"  {line}")
    if comparison.unlisted:
        typer.echo(f"  not listed there: {', '.join(comparison.unlisted)}")
    typer.echo("")


def _summary(comparison: "Comparison") -> str:
    differing = len({difference.model for difference in comparison.differences})
    return f"{comparison.equal} models equal, {differing} different, {len(comparison.unlisted)} not listed"
