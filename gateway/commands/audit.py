"""`gateway audit list`: what admins did, the newest first."""

from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.commands.client import admin_client, pages
from gateway.commands.output import AsJson, echo_json, echo_table

if TYPE_CHECKING:
    from gateway.config import Settings

app = typer.Typer(no_args_is_help=True, help="The audit log: what admins did.")

_COLUMNS = ("at", "admin_name", "role", "action", "target", "details", "status")
"""What fits a terminal; all there is comes with `--json`."""


@app.callback()
def _group() -> None:
    """The audit log: what admins did."""


@app.command("list")
def list_(
    since: Annotated[str | None, typer.Option("--from", help="A day or an instant, inclusive (UTC).")] = None,
    until: Annotated[str | None, typer.Option("--to", help="A day or an instant, exclusive (UTC).")] = None,
    admin: Annotated[
        str | None,
        typer.Option(help="Public id of an admin key; `settings` for the one in GATEWAY_ADMIN_KEY, or `local`."),
    ] = None,
    action: Annotated[str | None, typer.Option(help="A part of the action, such as DELETE or /admin/keys.")] = None,
    target: Annotated[str | None, typer.Option(help="The id of what it was done to.")] = None,
    limit: Annotated[int, typer.Option(help="How many at most.", min=1, max=100_000)] = 100,
    as_json: AsJson = False,
) -> None:
    """List what admins did, the newest first. A row without a status was never answered."""
    given = {"from": since, "to": until, "admin": admin, "action": action, "target": target}
    params = {name: value for name, value in given.items() if value is not None}
    with admin_client(_settings(), read_only=True) as client:
        rows = list(islice(pages(client, "/admin/audit", **params), limit))
    if as_json:
        echo_json(rows)
    else:
        echo_table(_COLUMNS, rows)


def _settings() -> "Settings":
    from gateway.config import load_settings

    return load_settings()
