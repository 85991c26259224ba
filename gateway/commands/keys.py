"""`gateway keys` and `gateway admin-keys`: made, listed, changed, paused, rotated, revoked.

A key's text is printed once, when it is made.
"""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.commands import completion
from gateway.commands.client import admin_client, pages
from gateway.commands.creators import creator_path, parse_overrides
from gateway.commands.output import AsJson, echo_fields, echo_json, echo_table
from gateway.roles import Role

if TYPE_CHECKING:
    from gateway.config import Settings

app = typer.Typer(no_args_is_help=True, help="Virtual keys: what creators call the gateway with.")
admin_app = typer.Typer(no_args_is_help=True, help="Admin keys: what the admin API is called with.")

_COLUMNS = ("id", "name", "last4", "status", "models", "overrides", "scopes", "expires_at")
"""What fits a terminal; all there is comes with `--json`."""
_ADMIN_COLUMNS = ("id", "name", "role", "status", "created_at", "revoked_at")
_SHOWN_ONCE = "The key is shown once and cannot be read again."
_PREFIXES = ("sk-gw-", "sk-gwadmin-")

KeyId = Annotated[str, typer.Argument(help="The key's public id (its second part).")]

RoleOption = Annotated[
    Role,
    typer.Option(
        help="What it may do: owner everything; finance read everything; support neither sees nor moves money."
    ),
]


@app.command()
def create(
    creator: Annotated[
        str, typer.Argument(help="Id of the creator the key is for.", autocompletion=completion.creators)
    ],
    name: Annotated[str, typer.Option(help="What people call the key.")] = "",
    model: Annotated[
        list[str],
        typer.Option(help="A model the key may use; none given: all. Repeatable.", autocompletion=completion.models),
    ] = [],  # noqa: B006
    expires_at: Annotated[str | None, typer.Option(help="When it ends, such as 2030-01-31T12:00:00Z.")] = None,
    expires_in_s: Annotated[int | None, typer.Option(help="When it ends, in seconds from now.")] = None,
    override: Annotated[
        list[str],
        typer.Option(
            "--override",
            help="FIELD=VALUE: a limit of the key's own, beside the creator's, or another field of the plan. Repeatable.",
        ),
    ] = [],  # noqa: B006 -- typer copies it
    act_for: Annotated[
        bool, typer.Option("--act-for", help="A service key: it may name the creator per call.")
    ] = False,
    default_plan: Annotated[
        str | None,
        typer.Option(
            help="With --act-for: the plan of creators it is the first to name; none: refused.",
            autocompletion=completion.plans,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a virtual key for a creator, and print it once."""
    body: dict[str, Any] = {"name": name, "overrides": parse_overrides(override)}
    given = {
        "models": model or None,
        "expires_at": expires_at,
        "expires_in_s": expires_in_s,
        "scopes": ["act_for"] if act_for else None,
        "default_plan": default_plan,
    }
    body |= {field: value for field, value in given.items() if value is not None}
    with admin_client(_settings()) as client:
        _show_new(client.request("POST", f"{creator_path(creator)}/keys", json=body).json(), as_json)


@app.command("list")
def list_(
    creator: Annotated[str, typer.Argument(help="Id of the creator.", autocompletion=completion.creators)],
    as_json: AsJson = False,
) -> None:
    """List a creator's keys, revoked and expired ones too."""
    with admin_client(_settings(), read_only=True) as client:
        rows = list(pages(client, f"{creator_path(creator)}/keys"))
    _show_rows(rows, _COLUMNS, as_json)


@app.command()
def revoke(id: KeyId, as_json: AsJson = False) -> None:
    """Revoke a key: it is refused from the next call on."""
    with admin_client(_settings()) as client:
        _show(client.request("DELETE", f"/admin/keys/{_public_id(id)}").json(), as_json)


@app.command()
def pause(id: KeyId, as_json: AsJson = False) -> None:
    """Pause a key: its calls are refused from the next one on, until it is resumed."""
    with admin_client(_settings()) as client:
        _show(client.request("POST", f"/admin/keys/{_public_id(id)}/pause").json(), as_json)


@app.command()
def resume(id: KeyId, as_json: AsJson = False) -> None:
    """Resume a paused key."""
    with admin_client(_settings()) as client:
        _show(client.request("POST", f"/admin/keys/{_public_id(id)}/resume").json(), as_json)


@app.command()
def rotate(
    id: KeyId,
    grace_s: Annotated[
        int | None, typer.Option(help="How long the old key goes on, in seconds; a day if left out.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key that takes another's place; the old one ends after a grace."""
    body = {} if grace_s is None else {"grace_s": grace_s}
    with admin_client(_settings()) as client:
        _show_new(client.request("POST", f"/admin/keys/{_public_id(id)}/rotate", json=body).json(), as_json)


@admin_app.command("create")
def create_admin(
    name: Annotated[str, typer.Option(help="Who gets the key: the audit log tells admins apart by it.")] = "",
    role: RoleOption = "owner",
    as_json: AsJson = False,
) -> None:
    """Make an admin key, and print it once."""
    body = {"role": role} | ({"name": name} if name else {})
    with admin_client(_settings()) as client:
        _show_new(client.request("POST", "/admin/admin-keys", json=body).json(), as_json)


@admin_app.command("update")
def update_admin(
    id: KeyId,
    name: Annotated[str | None, typer.Option(help="Who has the key.")] = None,
    role: RoleOption | None = None,
    as_json: AsJson = False,
) -> None:
    """Change who an admin key belongs to, or what it may do."""
    changes = {field: value for field, value in {"name": name, "role": role}.items() if value is not None}
    with admin_client(_settings()) as client:
        _show(client.request("PATCH", f"/admin/admin-keys/{_public_id(id)}", json=changes).json(), as_json)


@admin_app.command("list")
def list_admin(as_json: AsJson = False) -> None:
    """List the admin keys. The one in GATEWAY_ADMIN_KEY is not among them."""
    with admin_client(_settings(), read_only=True) as client:
        rows = client.get("/admin/admin-keys")["data"]
    _show_rows(rows, _ADMIN_COLUMNS, as_json)


@admin_app.command("revoke")
def revoke_admin(id: KeyId, as_json: AsJson = False) -> None:
    """Revoke an admin key: it is refused from the next request on."""
    with admin_client(_settings()) as client:
        _show(client.request("DELETE", f"/admin/admin-keys/{_public_id(id)}").json(), as_json)


def _public_id(text: str) -> str:
    """The public id, also of a whole key: who revokes a leaked key has that at hand. The secret part goes no further."""
    from urllib.parse import quote

    prefix = next((prefix for prefix in _PREFIXES if text.startswith(prefix)), "")
    return quote(text.removeprefix(prefix).partition("-")[0] if prefix else text, safe="")


def _settings() -> "Settings":
    from gateway.config import load_settings

    return load_settings()


def _show(row: dict[str, Any], as_json: bool) -> None:
    if as_json:
        echo_json(row)
    else:
        echo_fields(row)


def _show_new(row: dict[str, Any], as_json: bool) -> None:
    if as_json:
        echo_json(row)
        return
    echo_fields({name: value for name, value in row.items() if name != "warnings"})
    for warning in row.get("warnings", ()):
        typer.echo(f"warning: {warning}", err=True)
    typer.echo(_SHOWN_ONCE, err=True)


def _show_rows(rows: list[dict[str, Any]], columns: tuple[str, ...], as_json: bool) -> None:
    if as_json:
        echo_json(rows)
    else:
        echo_table(columns, rows)
