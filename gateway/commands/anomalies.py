"""`gateway anomalies`: hours out of the usual, and the creators who are slowed down because of one."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from gateway.commands import completion
from gateway.commands.client import admin_client, pages
from gateway.commands.output import AsJson, echo_fields, echo_json, echo_table

if TYPE_CHECKING:
    from gateway.config import Settings

app = typer.Typer(no_args_is_help=True, help="Hours out of the usual, and what was done about them.")

_COLUMNS = ("hour", "creator", "feature", "metric", "value", "threshold", "median", "hours", "action", "details")
_THROTTLE_COLUMNS = ("creator", "requests_per_minute", "until_at", "anomaly_id")


class Metric(StrEnum):
    """What was out of the usual."""

    CALLS = "calls"
    COST = "cost_nano_usd"


@app.command("list")
def list_(
    creator: Annotated[str | None, typer.Option(help="Only this creator.", autocompletion=completion.creators)] = None,
    metric: Annotated[Metric | None, typer.Option(help="Only this metric.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="How many, the newest first.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show the latest hours out of the usual. Costs are in US dollars; --json has all figures, exact to the nano-dollar."""
    given = {"creator": creator, "metric": None if metric is None else metric.value}
    filters: dict[str, str | int] = {name: value for name, value in given.items() if value is not None}
    with admin_client(_settings(), read_only=True) as client:
        rows = client.get("/admin/anomalies", limit=limit, **filters)["data"]
    if as_json:
        echo_json(rows)
    else:
        echo_table(_COLUMNS, [_shown(row) for row in rows])


@app.command()
def throttles(as_json: AsJson = False) -> None:
    """Show the creators who are slowed down now."""
    with admin_client(_settings(), read_only=True) as client:
        rows = list(pages(client, "/admin/throttles"))
    if as_json:
        echo_json(rows)
    else:
        echo_table(_THROTTLE_COLUMNS, rows)


@app.command()
def lift(
    creator: Annotated[str, typer.Argument(help="Id of the creator.", autocompletion=completion.creators)],
    as_json: AsJson = False,
) -> None:
    """Stop slowing a creator down, from the next call on."""
    with admin_client(_settings()) as client:
        row = client.request("DELETE", f"/admin/throttles/{quote(creator, safe='')}").json()
    if as_json:
        echo_json(row)
    else:
        echo_fields(row)


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """Costs as people read them."""
    if row["metric"] == Metric.CALLS.value:
        return row
    return {**row, "metric": "cost_usd", **{name: row[f"{name}_usd"] for name in ("value", "threshold", "median")}}


def _settings() -> "Settings":
    from gateway.config import load_settings

    return load_settings()
