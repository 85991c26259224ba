"""`gateway cache`: what the running gateway keeps of answers, and having it forget them."""

from typing import TYPE_CHECKING, Annotated

import typer

from gateway.commands import completion
from gateway.commands.client import running_client
from gateway.commands.output import AsJson, echo_fields, echo_json

if TYPE_CHECKING:
    from gateway.config import Settings

app = typer.Typer(no_args_is_help=True, help="Kept answers: how many there are, and taking them out.")


@app.command()
def stats(as_json: AsJson = False) -> None:
    """Show how much the running gateway keeps, and how often it was of use since its start."""
    with running_client(_settings()) as client:
        found = client.get("/admin/cache")
    if as_json:
        echo_json(found)
    else:
        echo_fields(found)


@app.command()
def clear(
    creator: Annotated[
        str | None, typer.Option(help="What this creator bought.", autocompletion=completion.creators)
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="What this model answered.", autocompletion=completion.models)
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Have the running gateway forget answers: a creator's, a model's, those of both, or all."""
    if everything == (creator is not None or model is not None):
        raise typer.BadParameter("give --creator, --model or both; or --all alone")
    given = {"creator": creator, "model": model, "all": "true" if everything else None}
    params = {name: value for name, value in given.items() if value is not None}
    with running_client(_settings()) as client:
        answer = client.request("DELETE", "/admin/cache", params=params).json()
    if as_json:
        echo_json(answer)
    else:
        echo_fields(answer)


def _settings() -> "Settings":
    from gateway.config import load_settings

    return load_settings()
