"""`gateway doctor`: one table of what is configured, reachable, priced and risky, each line with what to do about it.

Connects to what the settings name as the gateway's own (its control socket, PostgreSQL, Redis), and to providers only
with `--connect`; with `--offline` to nothing. Changes nothing.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import unquote, urlsplit

import typer

from gateway.commands.output import AsJson, echo_json, echo_table

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
    from datetime import datetime

    from gateway.catalog import Catalog
    from gateway.commands.examinations.finding import Finding
    from gateway.config import ExaminableSettings, Settings
    from policies.types import Plan

__all__ = ["doctor"]

_COLUMNS = ("level", "area", "what", "why", "advice")
_LEVELS = ("ok", "warn", "bad")
_PRICE_MONTHS = 6
_BACKUP_DAYS = 7
_SECRET_CHARS_MIN = 4


def doctor(
    offline: Annotated[bool, typer.Option("--offline", help="Open no connection: files only.")] = False,
    connect: Annotated[
        bool, typer.Option("--connect", help="Also connect to the providers that have active models; sends nothing.")
    ] = False,
    backups: Annotated[
        Path | None, typer.Option(help="The folder that `gateway db backup` writes to.", metavar="FOLDER")
    ] = None,
    backup_days: Annotated[int, typer.Option(min=1, help="How old the newest copy may be.")] = _BACKUP_DAYS,
    price_months: Annotated[int, typer.Option(min=1, help="How long ago prices may have been read.")] = _PRICE_MONTHS,
    as_json: AsJson = False,
) -> None:
    """Look over the whole gateway: what is configured, reachable, priced and risky, and what to do. Changes nothing.

    Exit code 0: nothing is bad, though there may be warnings; 1: something is bad; 2: the settings cannot be read, and all
    that can still be examined is.
    """
    if offline and connect:
        raise typer.BadParameter("--connect connects, and --offline forbids it: give one of them")
    import asyncio

    from gateway.config import examinable_settings

    given = examinable_settings()
    options = _Options(offline, connect, backups, backup_days, price_months)
    found = list(_scrubbed(asyncio.run(_examine(given, options)), given.settings))
    counts = {level: sum(finding.level == level for finding in found) for level in _LEVELS}
    if as_json:
        echo_json({**counts, "findings": [finding._asdict() for finding in found]})
    else:
        echo_table(_COLUMNS, (finding._asdict() for finding in found))
        typer.echo(f"{counts['bad']} bad, {counts['warn']} warnings, {counts['ok']} ok")
    raise typer.Exit(2 if given.faults else 1 if counts["bad"] else 0)


class _Options:
    def __init__(self, offline: bool, connect: bool, backups: Path | None, backup_days: int, price_months: int) -> None:
        self.offline = offline
        self.connect = connect
        self.backups = backups
        self.backup_days = backup_days
        self.price_months = price_months


async def _examine(given: "ExaminableSettings", options: _Options) -> "list[Finding]":
    return [finding async for finding in _findings(given, options)]


async def _findings(given: "ExaminableSettings", options: _Options) -> "AsyncIterator[Finding]":
    import asyncio
    from datetime import UTC, datetime

    from gateway.commands.examinations import configured, parts, priced, reachable, stored
    from gateway.config import provider_key

    now, settings = datetime.now(UTC), given.settings
    for finding in _malformed(given):
        yield finding
    whole, plans, faults = _files(settings)
    catalog = None if whole is None else whole.with_keys(provider_key)
    for finding in (*configured.examine_settings(settings, whole), *faults, *reachable.examine_folder(settings)):
        yield finding
    plans_in_use = None
    if "database_url" not in given.malformed:
        database = await stored.examine_database(settings, now, offline=options.offline)
        plans_in_use = database.plans_in_use
        for finding in database.findings:
            yield finding
    if not options.offline:
        # It has an event loop of its own where no gateway listens.
        for finding in await asyncio.to_thread(lambda: list(reachable.examine_gateway(settings))):
            yield finding
        for finding in await reachable.examine_redis(settings) if "redis_url" not in given.malformed else ():
            yield finding
    if catalog is not None:
        for finding in await reachable.examine_providers(settings, catalog, connect=options.connect):
            yield finding
        for finding in priced.examine_prices(catalog, now, months_max=options.price_months):
            yield finding
    for finding in _risks(settings, options, now, whole, plans, plans_in_use):
        yield finding
    for finding in parts.examine_parts(settings, catalog):
        yield finding


def _malformed(given: "ExaminableSettings") -> "Iterator[Finding]":
    from gateway.commands.examinations.finding import bad

    advice = "mend it: no command works with it; all else here is told as if it were not set"
    for line in given.faults:
        name, _, reason = line.partition(" ")
        yield bad("configured", name, reason, advice)


def _files(settings: "Settings") -> "tuple[Catalog | None, Mapping[str, Plan] | None, list[Finding]]":
    """The catalog and the plans, and a finding for each that cannot be used."""
    from gateway.catalog import load_catalog
    from gateway.commands.examinations.finding import bad
    from gateway.errors import ConfigError
    from gateway.plans import load_plans

    faults, catalog, plans = [], None, None
    advice = "mend the file: the gateway does not start with it"
    try:
        catalog = load_catalog(settings.pricing_file)
    except ConfigError as exc:
        faults += [bad("configured", "pricing.toml", line, advice) for line in str(exc).splitlines()]
    try:
        plans = load_plans(settings.plans_file)
    except ConfigError as exc:
        faults += [bad("configured", "plans.toml", line, advice) for line in str(exc).splitlines()]
    return catalog, plans, faults


def _risks(
    settings: "Settings",
    options: _Options,
    now: "datetime",
    catalog: "Catalog | None",
    plans: "Mapping[str, Plan] | None",
    plans_in_use: Any,
) -> "Iterator[Finding]":
    from gateway.commands.examinations import risky

    if catalog is not None and plans is not None:
        yield from risky.examine_plans(plans, catalog, plans_in_use)
    yield from risky.examine_secrets(settings)
    yield from risky.examine_files(settings)
    yield from risky.examine_addresses(settings)
    yield from risky.examine_watch(settings)
    yield risky.examine_backups(settings, options.backups, now, days_max=options.backup_days)


def _scrubbed(found: "Iterable[Finding]", settings: "Settings") -> "Iterator[Finding]":
    """Nothing here writes secrets, but what libraries and servers say is quoted: whatever slips in is taken out."""
    secrets = sorted(_secret_texts(settings), key=len, reverse=True)
    for finding in found:
        why = finding.why
        for secret in secrets:
            why = why.replace(secret, "***")
        yield finding._replace(why=why)


def _secret_texts(settings: "Settings") -> set[str]:
    from pydantic import SecretStr

    values = (getattr(settings, name) for name in type(settings).model_fields)
    whole = {value.get_secret_value() for value in values if isinstance(value, SecretStr)}
    found = set(whole)
    for text in whole:
        try:
            password = urlsplit(text).password or ""
        except ValueError:
            continue
        found |= {password, unquote(password)}
    return {text for text in found if len(text) >= _SECRET_CHARS_MIN}
