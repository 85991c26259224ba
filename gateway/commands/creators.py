"""`gateway creators`: whom the gateway serves and charges."""

import re
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from gateway.commands import completion
from gateway.commands.client import admin_client, pages
from gateway.commands.output import AsJson, echo_fields, echo_json, echo_table, pairs

if TYPE_CHECKING:
    from gateway.config import Settings

app = typer.Typer(no_args_is_help=True, help="Creators: whom the gateway serves and charges.")

_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")
_COLUMNS = ("id", "name", "plan", "overrides", "is_active", "created_at")

Id = Annotated[str, typer.Argument(help="The creator's id.", autocompletion=completion.creators)]
Plan = Annotated[str | None, typer.Option(help="A plan of the plans file.", autocompletion=completion.plans)]
Name = Annotated[str | None, typer.Option(help="What people call the creator.")]
Overrides = Annotated[
    list[str],
    typer.Option(
        "--override",
        help="A field of the plan, FIELD=VALUE; `unlimited` lifts a limit; lists and tables as JSON. Repeatable.",
    ),
]
Metadata = Annotated[list[str], typer.Option("--metadata", help="A note, NAME=VALUE. Repeatable.")]


@app.command()
def add(
    id: Annotated[str | None, typer.Argument(help="An id of yours, never used again. Left out: one is made.")] = None,
    plan: Plan = None,
    name: Name = None,
    override: Overrides = [],  # noqa: B006 -- typer copies it
    metadata: Metadata = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Add a creator."""
    fields: dict[str, Any] = {"id": id, "plan": plan, "name": name}
    body = {key: value for key, value in fields.items() if value is not None}
    body |= {"overrides": parse_overrides(override), "metadata": pairs(metadata, "--metadata")}
    with admin_client(_settings()) as client:
        _show(client.request("POST", "/admin/creators", json=body).json(), as_json)


@app.command("list")
def list_(
    plan: Annotated[
        str | None, typer.Option(help="Only creators on this plan.", autocompletion=completion.plans)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the creators."""
    filters: dict[str, str | int] = {} if plan is None else {"plan": plan}
    with admin_client(_settings(), read_only=True) as client:
        rows = list(pages(client, "/admin/creators", **filters))
    if as_json:
        echo_json(rows)
    else:
        echo_table(_COLUMNS, rows)


@app.command()
def show(id: Id, as_json: AsJson = False) -> None:
    """Show one creator."""
    with admin_client(_settings(), read_only=True) as client:
        _show(client.get(creator_path(id)), as_json)


@app.command()
def update(
    id: Id,
    plan: Plan = None,
    name: Name = None,
    override: Overrides = [],  # noqa: B006 -- typer copies it
    clear_overrides: Annotated[bool, typer.Option("--clear-overrides", help="Back to the plan's own limits.")] = False,
    metadata: Metadata = [],  # noqa: B006
    active: Annotated[bool | None, typer.Option("--active/--inactive", help="Whether its keys work.")] = None,
    as_json: AsJson = False,
) -> None:
    """Change a creator. Overrides and metadata are replaced as a whole when given."""
    fields: dict[str, Any] = {"plan": plan, "name": name, "is_active": active}
    body = {key: value for key, value in fields.items() if value is not None}
    if override or clear_overrides:
        body["overrides"] = parse_overrides(override)
    if metadata:
        body["metadata"] = pairs(metadata, "--metadata")
    if not body:
        raise typer.BadParameter("nothing to change was given")
    with admin_client(_settings()) as client:
        _show(client.request("PATCH", creator_path(id), json=body).json(), as_json)


@app.command()
def delete(
    id: Id, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False, as_json: AsJson = False
) -> None:
    """Delete a creator: its keys end, its names are erased, its ledger entries stay."""
    if not yes:
        typer.confirm(f"Delete creator {id!r} and revoke all its keys? This cannot be undone.", abort=True, err=True)
    with admin_client(_settings()) as client:
        _show(client.request("DELETE", creator_path(id)).json(), as_json)


def creator_path(id: str) -> str:
    return f"/admin/creators/{quote(id, safe='')}"


def parse_overrides(texts: list[str]) -> dict[str, Any]:
    """FIELD=VALUE as the admin API takes it. Raises `typer.BadParameter`.

    Whole numbers become such, lists and tables are JSON, all else is text; money is never a float.
    """
    return {name: _override(name, value) for name, value in pairs(texts, "--override").items()}


def _override(name: str, value: str) -> Any:
    if not value.startswith(("[", "{")):
        return _whole(value)
    import json

    try:
        # A decimal stays the text it is: the API takes that, and refuses floats. So it refuses NaN and endless numbers.
        return json.loads(value, parse_float=str, parse_constant=str, parse_int=_whole)
    except (ValueError, RecursionError) as exc:
        raise typer.BadParameter(f"--override {name} is not valid JSON: {exc}") from None


def _whole(value: str) -> int | str:
    return int(value) if _WHOLE_NUMBER.fullmatch(value) else value


def _settings() -> "Settings":
    from gateway.config import load_settings

    return load_settings()


def _show(row: dict[str, Any], as_json: bool) -> None:
    if as_json:
        echo_json(row)
    else:
        echo_fields(row)
