"""`gateway notices`: what people were told and whether it arrived, a notice to try the way, and the signing secret."""

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.commands import completion
from gateway.commands.client import AdminClient, admin_client, running_client
from gateway.commands.output import AsJson, echo_json, echo_table

if TYPE_CHECKING:
    from gateway.config import Settings

app = typer.Typer(no_args_is_help=True, help="Notices: what people are told about money and trouble.")

_COLUMNS = ("created_at", "kind", "creator", "message", "delivered")
_DELIVERY_COLUMNS = ("target", "state", "attempts", "error")
_TEST_S = 15.0
_POLL_S = 0.2
_TESTS_SEEN = 100


@app.command("list")
def list_(
    kind: Annotated[str | None, typer.Option(help="Only these, such as budget.80_percent.")] = None,
    creator: Annotated[
        str | None, typer.Option(help="Only about this creator.", autocompletion=completion.creators)
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="How many notices, the newest first.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show the newest notices, and where they arrived."""
    wanted = {name: value for name, value in (("kind", kind), ("creator", creator)) if value is not None}
    with admin_client(_settings(), read_only=True) as client:
        rows = client.get("/admin/notices", limit=limit, **wanted)["data"]
    if as_json:
        echo_json(rows)
    else:
        echo_table(_COLUMNS, ({**row, "delivered": _states(row)} for row in rows))


@app.command("test")
def send_test(as_json: AsJson = False) -> None:
    """Have the running gateway send a notice to every target; exit with 1 unless all took it within 15 seconds."""
    with running_client(_settings()) as client:
        notice_id = client.request("POST", "/admin/notices/test").json()["id"]
        deliveries = _first_fate(client, notice_id)
    if as_json:
        echo_json({"id": notice_id, "deliveries": deliveries})
    else:
        echo_table(_DELIVERY_COLUMNS, deliveries)
    if not deliveries or any(delivery["state"] != "delivered" for delivery in deliveries):
        raise typer.Exit(1)


@app.command()
def secret(as_json: AsJson = False) -> None:
    """Print the secret that receivers of webhooks verify signatures with."""
    from gateway.errors import ConfigError
    from gateway.notices.targets import signing_secret
    from gateway.secrets import SECRET_FILE, load_secrets

    settings = _settings()
    path = settings.data_dir / SECRET_FILE
    # To make one here would be to print a secret that no gateway signs with.
    if settings.webhook_secret is None and settings.secret is None and not path.exists():
        raise ConfigError(
            f"{path} is not there: start the gateway once, or set GATEWAY_DATA_DIR as for `gateway serve`"
        )
    found = signing_secret(settings, load_secrets(settings))
    if as_json:
        echo_json({"secret": found})
    else:
        typer.echo(found)


def _first_fate(client: AdminClient, notice_id: str) -> list[dict[str, Any]]:
    """The deliveries of a notice once each was tried, or as they are after 15 seconds."""
    deadline = time.monotonic() + _TEST_S
    while True:
        found = client.get("/admin/notices", kind="test", limit=_TESTS_SEEN)["data"]
        deliveries: list[dict[str, Any]] = next((row["deliveries"] for row in found if row["id"] == notice_id), [])
        is_known = bool(deliveries) and all(delivery["attempts"] for delivery in deliveries)
        if is_known or time.monotonic() > deadline:
            return deliveries
        time.sleep(_POLL_S)


def _states(row: dict[str, Any]) -> dict[str, str]:
    return {delivery["target"]: delivery["error"] or delivery["state"] for delivery in row["deliveries"]}


def _settings() -> "Settings":
    from gateway.config import load_settings

    return load_settings()
