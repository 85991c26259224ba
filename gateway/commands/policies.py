"""`gateway estimate` and `gateway reload`: what a call would come to, and plans and prices read again."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.commands.client import admin_client, running_client
from gateway.commands.output import AsJson, echo_fields, echo_json, echo_table
from gateway.config import load_settings
from gateway.errors import GatewayError

_SHOWN = "would model provider expected_cost_usd hold_usd payer downgrades clamped_max_tokens".split()
_LIMIT_COLUMNS = ("limit", "unit", "of", "used", "held", "needed", "left")
_MONEY_UNITS = frozenset({"nano_usd", "cost_nano_usd"})


def estimate(
    creator: Annotated[str, typer.Argument(help="Whose plan, prices and limits count.")],
    model: Annotated[str | None, typer.Option(help="The model asked for.")] = None,
    prompt: Annotated[str | None, typer.Option(help="What the user says, or what the image shows.")] = None,
    image: Annotated[bool, typer.Option("--image", help="An image instead of chat.")] = False,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="The bound of a chat answer.")] = None,
    n: Annotated[int | None, typer.Option(min=1, help="Answers or images.")] = None,
    size: Annotated[str | None, typer.Option(help="Of the image, such as 1024x1792.")] = None,
    quality: Annotated[str | None, typer.Option(help="Of the image, such as hd.")] = None,
    body: Annotated[Path | None, typer.Option(help="A file with the whole JSON body instead; - reads stdin.")] = None,
    never_downgrade: Annotated[bool, typer.Option("--never-downgrade", help="As x-gateway-downgrade: never.")] = False,
    address: Annotated[
        str | None, typer.Option(help="The IP address it would come from; left out, one that is allowed.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell what a call would cost, who would pay, and whether it would be downgraded or refused. Spends nothing."""
    if body is not None:
        request = _read_body(body)
    elif model is None or prompt is None:
        raise typer.BadParameter("give --model and --prompt, or --body")
    else:
        given = {"max_tokens": None if image else max_tokens, "n": n, "size": size, "quality": quality}
        said = {"prompt": prompt} if image else {"messages": [{"role": "user", "content": prompt}]}
        request = {"model": model, **said, **{name: value for name, value in given.items() if value is not None}}
    # A body of the caller's own says by itself what it is.
    endpoint = "images" if image else "chat" if body is None else None
    asked = {"creator": creator, "request": request, "downgrade": not never_downgrade}
    asked |= {name: value for name, value in (("endpoint", endpoint), ("address", address)) if value is not None}
    with admin_client(load_settings()) as client:
        try:
            answer = client.request("POST", "/admin/estimate", json=asked).json()
        except GatewayError as exc:
            if exc.code == "endpoint_not_supported" and endpoint == "chat":
                raise GatewayError(f"{exc.message} Pass --image for an image model.", code=exc.code) from None
            raise
    if as_json:
        echo_json(answer)
    else:
        _show(answer)


def reload() -> None:
    """Have the running gateway read plans and prices again; a bad file changes nothing. SIGHUP does the same."""
    with running_client(load_settings()) as client:
        echo_json(client.request("POST", "/admin/reload").json())


def _show(answer: dict[str, Any]) -> None:
    refusal = answer["refusal"]
    fields = {name: answer[name] for name in _SHOWN}
    if refusal is not None:
        fields |= {"refusal": f"{refusal['status']} {refusal['code']}: {refusal['message']}"}
        fields |= {"retry_after_s": refusal["retry_after_s"]}
    echo_fields(fields)
    if answer["limits"]:
        typer.echo()
        echo_table(_LIMIT_COLUMNS, map(_limit_shown, answer["limits"]))


def _limit_shown(limit: dict[str, Any]) -> dict[str, Any]:
    """One line of the table: money in USD, all else in its unit."""
    from gateway.pricing import usd

    amounts = {
        "of": limit["limit"],
        "used": limit["used"],
        "held": limit["held"],
        "needed": limit["needed"],
        "left": limit["remaining"],
    }
    unit = limit["unit"]
    if unit in _MONEY_UNITS:
        unit, amounts = "USD", {name: None if value is None else usd(value) for name, value in amounts.items()}
    return {"limit": limit["name"], "unit": unit, **amounts}


def _read_body(path: Path) -> dict[str, Any]:
    text = typer.get_text_stream("stdin").read() if str(path) == "-" else path.read_text()
    try:
        found = json.loads(text)
    except json.JSONDecodeError as exc:
        raise typer.BadParameter(f"--body is not valid JSON: {exc}") from None
    if not isinstance(found, dict):
        raise typer.BadParameter("--body must be a JSON object")
    return found
