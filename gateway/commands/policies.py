"""`gateway estimate`, `gateway reload` and `gateway plans try`: what a call would come to, plans and prices read again, and
what other plans would have done to the calls of the last days."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.commands import completion
from gateway.commands.client import AdminClient, admin_client, running_client
from gateway.commands.output import AsJson, echo_fields, echo_json, echo_table, pairs
from gateway.commands.progress import shown_work
from gateway.errors import GatewayError

if TYPE_CHECKING:
    from gateway.config import Settings

_SHOWN = "would model provider expected_cost_usd hold_usd payer downgrades clamped_max_tokens".split()
_LIMIT_COLUMNS = ("limit", "unit", "of", "used", "held", "needed", "left")
_TRIED_COLUMNS = (
    "creator",
    "calls",
    "passed",
    "downgraded",
    "refused",
    "cost_usd",
    "would_cost_usd",
    "saved_usd",
    "first",
)
_MONEY_UNITS = frozenset({"nano_usd", "cost_nano_usd"})

plans_app = typer.Typer(help="Plans: what other ones would have done.", no_args_is_help=True)


@plans_app.callback()
def _plans() -> None:
    """A group, though it has one command."""


@plans_app.command(name="try")
def try_plans(
    file: Annotated[
        Path | None, typer.Argument(help="A plans file: every plan that differs from those in force.")
    ] = None,
    plan: Annotated[
        str | None, typer.Option(help="One plan instead, with --set.", autocompletion=completion.plans)
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A key of plans.toml; may be given again.")
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=90, help="How many days of calls, today among them.")] = 30,
    creator: Annotated[
        list[str] | None,
        typer.Option(help="Only this creator; may be given again.", autocompletion=completion.creators),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell what changed plans would have done to the calls of the last days. Changes nothing."""
    if (file is None) == (plan is None) or (file is not None and set_):
        raise typer.BadParameter("give a FILE, or --plan and --set")
    asked: dict[str, Any] = {"days": days} | ({} if creator is None else {"creators": creator})
    # It reads only: in this process, so that no running gateway has the work.
    with admin_client(_settings(), read_only=True) as client:
        if file is not None:
            asked["plans"] = _differing_plans(client, file)
        else:
            asked |= {"plan": plan, "changes": _values(pairs(set_ or [], "--set"))}
        with shown_work(f"trying {days} days", is_quiet=as_json):
            answer = client.request("POST", "/admin/rehearsals", json=asked).json()
    if as_json:
        echo_json(answer)
    else:
        _show_rehearsal(answer)


def estimate(
    creator: Annotated[
        str, typer.Argument(help="Whose plan, prices and limits count.", autocompletion=completion.creators)
    ],
    model: Annotated[str | None, typer.Option(help="The model asked for.", autocompletion=completion.models)] = None,
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
    with admin_client(_settings()) as client:
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


def reload(as_json: AsJson = False) -> None:
    """Have the running gateway read plans and prices again; a bad file changes nothing. SIGHUP does the same."""
    with running_client(_settings()) as client:
        changes = client.request("POST", "/admin/reload").json()
    if as_json:
        echo_json(changes)
    else:
        echo_fields(changes)


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


def _differing_plans(client: AdminClient, file: Path) -> dict[str, Any]:
    """The plans of `file` that are in force under the same name and say something else. Raises `GatewayError` where there is
    none, `ConfigError`."""
    from gateway.plans import load_plans, plan_table, plan_to_json

    in_force = {plan["name"]: plan for plan in client.get("/admin/plans")["data"]}
    plans = load_plans(file)
    found = {
        name: plan_table(plan)
        for name, plan in plans.items()
        if name in in_force and plan_to_json(plan) != in_force[name]
    }
    if not found:
        raise GatewayError(f"{file} changes no plan that is in force, so no call would have gone otherwise.")
    return found


def _values(texts: dict[str, str]) -> dict[str, Any]:
    """JSON where it is some, with decimals as they are written; else text."""
    found: dict[str, Any] = {}
    for key, text in texts.items():
        try:
            found[key] = json.loads(text, parse_float=str)
        except json.JSONDecodeError:
            found[key] = text
    return found


def _show_rehearsal(answer: dict[str, Any]) -> None:
    from gateway.dashboard.figures import instant

    total = answer["totals"]
    echo_fields(
        {
            "plans": answer["plans"],
            "from": instant(answer["from"]),
            "to": instant(answer["to"]),
            "complete": answer["complete"],
            "days_left_out": answer["days_left_out"],
            "calls": total["calls"],
            **{f"would_be_{name}": total["after"][name] for name in ("passed", "downgraded", "refused")},
            "cost_usd": total["before"]["cost_usd"],
            "would_cost_usd": total["after"]["cost_usd"],
            "saved_usd": total["saved_usd"],
            "booked_usd": total["booked_usd"],
            "really_refused": answer["really_refused"],
        }
    )
    if answer["creators"]:
        typer.echo()
        echo_table(_TRIED_COLUMNS, map(_tried, answer["creators"]))
    if answer["toml"]:
        typer.echo(f"\nNothing was changed. For plans.toml:\n\n{answer['toml']}")
    for assumption in answer["assumptions"]:
        typer.echo(f"- {assumption}")


def _tried(row: dict[str, Any]) -> dict[str, Any]:
    """One creator's line."""
    after = row["after"]
    firsts = [at for at in (after["first_downgraded_at"], after["first_refused_at"]) if at is not None]
    return {
        "creator": row["creator"],
        "calls": row["calls"],
        **{name: after[name] for name in ("passed", "downgraded", "refused")},
        "cost_usd": row["before"]["cost_usd"],
        "would_cost_usd": after["cost_usd"],
        "saved_usd": row["saved_usd"],
        "first": min(firsts, default=None),
    }


def _read_body(path: Path) -> dict[str, Any]:
    text = typer.get_text_stream("stdin").read() if str(path) == "-" else path.read_text()
    try:
        found = json.loads(text)
    except json.JSONDecodeError as exc:
        raise typer.BadParameter(f"--body is not valid JSON: {exc}") from None
    if not isinstance(found, dict):
        raise typer.BadParameter("--body must be a JSON object")
    return found


def _settings() -> "Settings":
    from gateway.config import load_settings

    return load_settings()
