"""`gateway credits`: credits given and taken away, calls refunded, charges mended; and what a creator has left."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from gateway.commands import completion
from gateway.commands.client import AdminClient, admin_client, running_client
from gateway.commands.creators import creator_path
from gateway.commands.output import AsJson, echo_fields, echo_json, echo_table

if TYPE_CHECKING:
    from gateway.config import Settings

app = typer.Typer(no_args_is_help=True, help="Credits, refunds and adjustments: entries that no call stands for.")

_GRANT_COLUMNS = ("created_at", "payer", "credits", "package", "price_usd", "note", "expires_at")
_UNIT_NAMES = {"credit": "credits", "image": "images"}

Creator = Annotated[str, typer.Argument(help="The creator's id.", autocompletion=completion.creators)]
Note = Annotated[str, typer.Option(help="Why; it stays on the ledger entry.")]
Key = Annotated[
    str | None,
    typer.Option("--idempotency-key", help="A key of yours: asked for again with it, nothing is booked twice."),
]
Credits = Annotated[str | None, typer.Option("--credits", help="A number of credits.")]
AmountUsd = Annotated[str | None, typer.Option("--amount-usd", help="An amount such as 2.5.")]


@app.command()
def grant(
    creator: Creator,
    credits: Annotated[str | None, typer.Argument(help="How many; or give --package NAME.")] = None,
    package: Annotated[str | None, typer.Option(help="A credit package of the gateway's files.")] = None,
    promo: Annotated[bool, typer.Option("--promo", help="Promotional credits, which are spent first.")] = False,
    expires_at: Annotated[
        str | None, typer.Option(help="When promotional credits end, such as 2030-01-31T12:00:00Z.")
    ] = None,
    note: Note = "",
    idempotency_key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Give a creator credits."""
    if credits is not None and not (credits.isascii() and credits.isdigit()):
        raise typer.BadParameter("CREDITS takes a whole number; a credit package is named with --package NAME")
    body = {"payer": "promo_credits" if promo else "credits", "credits": credits, "package": package}
    _post(f"{creator_path(creator)}/credits", body | {"expires_at": expires_at}, note, idempotency_key, as_json)


@app.command()
def adjust(
    creator: Creator,
    payer: Annotated[
        str | None, typer.Option(help="quota, credits or promo_credits; told by the amount where left out.")
    ] = None,
    amount_usd: AmountUsd = None,
    credits: Credits = None,
    note: Note = "",
    idempotency_key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Mend this month's charge (--amount-usd, below 0: less is owed), or take credits away (--credits -5)."""
    payer = payer or ("quota" if credits is None else "credits")
    body = {"payer": payer, "amount_usd": amount_usd, "credits": credits}
    _post(f"{creator_path(creator)}/adjustments", body, note, idempotency_key, as_json)


@app.command()
def refund(
    request_id: str,
    attempt: Annotated[int | None, typer.Option(help="Which attempt; needed where several were charged.")] = None,
    amount_usd: AmountUsd = None,
    credits: Credits = None,
    note: Note = "",
    idempotency_key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Give back what a call took: all that is left of it, or the amount you name."""
    body = {"attempt": attempt, "amount_usd": amount_usd, "credits": credits}
    _post(f"/admin/ledger/{quote(request_id, safe='')}/refunds", body, note, idempotency_key, as_json)


@app.command()
def balance(creator: Creator, as_json: AsJson = False) -> None:
    """Show what a creator has left, and the latest grants. What open calls hold, only a running gateway knows."""
    with _reading_client() as client:
        shown = client.get(f"{creator_path(creator)}/credits")
    if as_json:
        echo_json(shown)
        return
    for payer, has in shown["balance"].items():
        typer.echo(payer)
        echo_fields({f"  {name}": value for name, value in has.items()})
    if shown["data"]:
        echo_table(_GRANT_COLUMNS, shown["data"])


def _post(path: str, fields: dict[str, Any], note: str, idempotency_key: str | None, as_json: bool) -> None:
    body = {name: value for name, value in fields.items() if value is not None} | {"note": note}
    if idempotency_key is not None:
        body["idempotency_key"] = idempotency_key
    with admin_client(_settings()) as client:
        entry = client.request("POST", path, json=body).json()
    if as_json:
        echo_json(entry)
    else:
        echo_fields(_entry_shown(entry))


def _entry_shown(entry: dict[str, Any]) -> dict[str, Any]:
    """What the creator got (above 0) or lost of its payer's units; an entry itself says what was taken."""
    unit = _UNIT_NAMES.get(entry["payer_unit"])
    amount = {"charge_usd": entry["charge_usd"]} if unit is None else {unit: -entry["payer_amount"]}
    expiry = {"expires_at": entry["expires_at"]} if entry.get("expires_at") else {}
    return {
        "kind": entry["kind"],
        "creator": entry["creator"],
        "payer": entry["payer"],
        **amount,
        **expiry,
        "corrects": entry["corrects"],
        "request_id": entry["request_id"],
        "id": entry["id"],
        "created_at": entry["created_at"],
    }


@contextmanager
def _reading_client() -> Iterator[AdminClient]:
    """The running gateway, or the database file where none runs."""
    from gateway.errors import ConfigError

    settings = _settings()
    with ExitStack() as stack:
        try:
            client = stack.enter_context(running_client(settings))
        except ConfigError:
            client = stack.enter_context(admin_client(settings, read_only=True))
        yield client


def _settings() -> "Settings":
    from gateway.config import load_settings

    return load_settings()
