"""`gateway prices`: the catalog's prices beside public price lists, offline."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from gateway.catalog import Catalog, load_catalog
from gateway.config import load_settings
from gateway.errors import ConfigError
from gateway.price_references import Comparison, GenaiPrices, LitellmMap, Reference, aligned, compare, shown

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
) -> None:
    """Show where the catalog differs from litellm's price map and from genai-prices. Opens no connection."""
    day = (on or datetime.now(UTC)).replace(tzinfo=UTC)
    try:
        catalog = load_catalog(pricing_file or load_settings().pricing_file)
        litellm = LitellmMap(litellm_map, f"litellm ({litellm_map.name})") if litellm_map else LitellmMap.installed()
    except ConfigError as exc:
        typer.echo(str(exc), err=True)
        raise typer.Exit(2) from None
    references: dict[str, Reference | None] = {"litellm": litellm, "genai-prices": GenaiPrices.installed(day)}
    found = [_show(catalog, name, reference) for name, reference in references.items()]
    if strict and any(found):
        raise typer.Exit(1)


def _show(catalog: Catalog, name: str, reference: Reference | None) -> bool:
    """Print one comparison; whether anything differs."""
    if reference is None:
        typer.echo(f"{name}: not installed, so not compared: {_HOW_TO_INSTALL[name]}\n")
        return False
    comparison = compare(catalog, reference)
    typer.echo(f"{reference.name}: {_summary(comparison)}")
    if comparison.differences:
        header = ("model", "key", "pricing.toml", name)
        rows = [(d.model, d.key, shown(d.ours), shown(d.theirs)) for d in comparison.differences]
        for line in aligned([header, *rows]):
            typer.echo(f"  {line}")
    if comparison.unlisted:
        typer.echo(f"  not listed there: {', '.join(comparison.unlisted)}")
    typer.echo("")
    return bool(comparison.differences)


def _summary(comparison: Comparison) -> str:
    differing = len({difference.model for difference in comparison.differences})
    return f"{comparison.equal} models equal, {differing} different, {len(comparison.unlisted)} not listed"
