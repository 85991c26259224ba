"""`gateway ledger`: entries, costs and charges shown, a month closed, everything computed again."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from gateway.commands import completion
from gateway.commands.client import PAGE_ROWS, admin_client, pages
from gateway.commands.output import AsJson, echo_json, echo_table
from gateway.commands.progress import shown_progress, shown_work
from gateway.errors import ConfigError

if TYPE_CHECKING:
    from gateway.config import Settings

app = typer.Typer(no_args_is_help=True, help="The ledger: what was used, what it cost, what is owed.")

_ENTRY_COLUMNS = (
    "created_at",
    "creator",
    "feature",
    "served_model",
    "input_tokens",
    "output_tokens",
    "cost_usd",
    "outcome",
)
_DUE_COLUMNS = ("month", "entries", "obstacle")
_CHARGE_COLUMNS = ("creator", "month", "calls", "charge_usd", "cost_usd", "taken", "closed")
_STDOUT = Path("-")
_SHOWN_MAX = 200

Month = Annotated[str, typer.Argument(help="A month, such as 2026-05.", metavar="YYYY-MM")]
Creator = Annotated[str | None, typer.Option(help="Only this creator.", autocompletion=completion.creators)]
From = Annotated[str | None, typer.Option("--from", help="First day, or instant, that is meant (UTC).")]
To = Annotated[str | None, typer.Option("--to", help="First day, or instant, that is no longer meant (UTC).")]


class Form(StrEnum):
    """How entries are written."""

    CSV = "csv"
    NDJSON = "ndjson"


@app.command("list")
def list_(
    creator: Creator = None,
    since: From = None,
    until: To = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="How many entries, the newest first.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show the newest entries."""
    with admin_client(_settings(), read_only=True) as client:
        rows = client.get("/admin/ledger", limit=limit, **_given(creator, since, until))["data"]
    if as_json:
        echo_json(rows)
    else:
        echo_table(_ENTRY_COLUMNS, rows)


@app.command()
def export(
    file: Annotated[
        Path | None, typer.Argument(help="A new file. Left out, or `-`: the standard output.", show_default=False)
    ] = None,
    creator: Creator = None,
    model: Annotated[
        str | None, typer.Option(help="Only what this model served.", autocompletion=completion.models)
    ] = None,
    feature: Annotated[str | None, typer.Option(help="Only this feature.")] = None,
    agent: Annotated[str | None, typer.Option(help="Only this agent.")] = None,
    provider: Annotated[str | None, typer.Option(help="Only this provider.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only this kind of entry, such as usage or refund.")] = None,
    outcome: Annotated[str | None, typer.Option(help="Only this outcome, such as ok or crashed.")] = None,
    since: From = None,
    until: To = None,
    form: Annotated[
        Form | None, typer.Option("--format", help="csv or ndjson; else what the file's name ends with, else csv.")
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print JSON, for scripts: of a file, what was written; else the entries, one a line."
        ),
    ] = False,
) -> None:
    """Write every entry that fits to a file or the standard output, the newest first."""
    filters = _given(creator, since, until)
    more = {
        "model": model,
        "feature": feature,
        "agent": agent,
        "provider": provider,
        "kind": kind,
        "outcome": outcome,
    }
    filters |= {name: value for name, value in more.items() if value is not None}
    if file is None or file == _STDOUT:
        if as_json and form is Form.CSV:
            raise typer.BadParameter("--json prints the entries as ndjson, and --format asks for csv: give one of them")
        form = Form.NDJSON if as_json else form or Form.CSV
        _export(typer.get_binary_stream("stdout"), form, filters, is_quiet=as_json)
        return
    form = form or _form_of(file)
    with _new_file(file) as target:
        count = _export(target, form, filters, is_quiet=as_json)
    if as_json:
        echo_json({"file": str(file), "format": form.value, "entries": count})
    else:
        typer.echo(f"{file}: {count} entries", err=True)


def _form_of(file: Path) -> Form:
    return Form.NDJSON if file.suffix in {".ndjson", ".jsonl"} else Form.CSV


def _export(target: BinaryIO, form: Form, filters: dict[str, str], *, is_quiet: bool) -> int:
    """How many entries were written."""
    import orjson

    from gateway.ledger.entry_json import ENTRY_FIELDS, csv_header, csv_line

    is_csv, count = form is Form.CSV, 0
    # A bar between lines that go to the same terminal would be in their way.
    with (
        admin_client(_settings(), read_only=True) as client,
        shown_progress("entries", is_quiet=is_quiet or target.isatty()) as tell,
    ):
        # Read before anything is written, so that what is refused leaves nothing behind.
        rows = pages(client, "/admin/ledger", **filters)
        first = list(islice(rows, 1))
        if is_csv:
            target.write(csv_header(ENTRY_FIELDS).encode())
        for count, row in enumerate(chain(first, rows), start=1):
            target.write(csv_line(row).encode() if is_csv else orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
            if tell is not None and not count % PAGE_ROWS:
                tell(count, 0)
        target.flush()
    return count


@contextmanager
def _new_file(file: Path) -> Iterator[BinaryIO]:
    """What is written gets its name when all of it is there; only this user may read it. Raises `ConfigError`, `OSError`."""
    if file.exists():
        raise ConfigError(f"{file} exists already: name a new file, or take it away first")
    draft = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as target:
            yield target
        draft.rename(file)
    finally:
        draft.unlink(missing_ok=True)


@app.command()
def costs(
    group_by: Annotated[str, typer.Option(help="Rollup keys, joined by commas.")] = "creator,served_model",
    creator: Creator = None,
    since: From = None,
    until: To = None,
    as_json: AsJson = False,
) -> None:
    """Sum up what calls cost."""
    with admin_client(_settings(), read_only=True) as client:
        found = client.get("/admin/costs", group_by=group_by, **_given(creator, since, until))
    if as_json:
        echo_json(found)
        return
    columns = (*group_by.split(","), "calls", "input_tokens", "output_tokens", "cost_usd", "charge_usd")
    echo_table(columns, found["data"])
    typer.echo(f"total: {found['totals']['calls']} calls, {found['totals']['cost_usd']} USD")


@app.command()
def charges(month: Month, as_json: AsJson = False) -> None:
    """Show what each creator owes for a month."""
    with admin_client(_settings(), read_only=True) as client:
        found = client.get("/admin/charges", month=month)
    if as_json:
        echo_json(found)
    else:
        echo_table(_CHARGE_COLUMNS, ({**row, "taken": _taken(row["units"])} for row in found["data"]))


def _taken(units: dict[str, int]) -> str:
    """What each payer gave, in its own unit: the quota gives dollars, counted in nano-dollars."""
    from gateway.pricing import usd

    amounts = {payer: f"{usd(amount)} USD" if payer == "quota" else f"{amount}" for payer, amount in units.items()}
    return ", ".join(f"{payer} {amount}" for payer, amount in amounts.items())


@app.command()
def close(month: Month, as_json: AsJson = False) -> None:
    """Write a month's charges for good. Closing it again changes nothing."""
    from urllib.parse import quote

    with shown_work(f"closing {month}", is_quiet=as_json), admin_client(_settings()) as client:
        closed = client.request("POST", f"/admin/charges/{quote(month, safe='')}/close").json()
    if as_json:
        echo_json(closed)
        return
    how = "closed now" if closed["closed_now"] else "was closed before"
    typer.echo(f"{closed['month']} {how}: {closed['creators']} creators")


@app.command("old-months")
def old_months(
    months: Annotated[int | None, typer.Option(min=1, help="Instead of GATEWAY_LEDGER_RETENTION_MONTHS.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show which months' entries are old enough to be dropped, and what is in the way. Changes nothing."""
    import asyncio
    from datetime import UTC, datetime

    from gateway.ledger.opening import open_database_read_only
    from gateway.ledger.retention import months_to_drop

    settings = _settings()
    kept = settings.ledger_retention_months if months is None else months

    async def look() -> list[dict[str, Any]]:
        database = await open_database_read_only(settings)
        try:
            return [due._asdict() async for due in months_to_drop(database, kept, datetime.now(UTC))]
        finally:
            await database.close()

    due = asyncio.run(look())
    if as_json:
        echo_json(due)
    elif not kept:
        typer.echo("nothing is dropped: GATEWAY_LEDGER_RETENTION_MONTHS is 0")
    else:
        echo_table(_DUE_COLUMNS, due)


@app.command()
def verify(as_json: AsJson = False) -> None:
    """Compute costs, rollups and closed months again from the entries; exit with 1 if anything differs."""
    from gateway.ledger.opening import verify_database

    with shown_progress("entries", is_quiet=as_json, then="sums and closed months") as tell:
        report = verify_database(_settings(), on_progress=tell)
    if as_json:
        echo_json({**report._asdict(), "differences": [difference._asdict() for difference in report.differences]})
    else:
        _show_report(report)
    raise typer.Exit(1 if report.differences_count else 0)


def _show_report(report: Any) -> None:
    typer.echo(f"{report.entries} entries, {report.rollups} rollup rows, {report.closed_months} closed months")
    if report.differences_count:
        shown = report.differences[:_SHOWN_MAX]
        echo_table(shown[0]._fields, (difference._asdict() for difference in shown))
    typer.echo(f"{report.differences_count} differences")


def _given(creator: str | None, since: str | None, until: str | None) -> dict[str, str]:
    options = {"creator": creator, "from": since, "to": until}
    return {name: value for name, value in options.items() if value is not None}


def _settings() -> "Settings":
    from gateway.config import load_settings

    return load_settings()
