"""`gateway`: every command, and how what goes wrong is told: one line on stderr, no traceback, an exit code.

With `--json` that line is JSON, as the API writes errors: `{"error": {"message", "type", "param", "code"}}`; `type` is then also
`config_error` (settings and files that were named), `usage_error` (the command line) or `os_error`.

Exit codes: 0 done, 1 the gateway refused or something is wrong, 2 a setting, a file or the command line is.
"""

import errno
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from gateway.commands import (
    anomalies,
    audit,
    cache,
    check,
    creators,
    db,
    doctor,
    imports,
    keys,
    ledger,
    notices,
    policies,
    prices,
)
from gateway.commands import credits as credit_commands
from gateway.errors import ConfigError, GatewayError

__all__ = ["app", "main"]

_RUN, _MONEY, _PEOPLE, _UPKEEP = "Run", "Money", "People", "Upkeep"

app = typer.Typer(
    name="gateway",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        from importlib.metadata import version

        typer.echo(f"gateway {version('llm-gateway')}")
        raise typer.Exit


@app.callback()
def _gateway(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """A self-hosted, OpenAI-compatible gateway: virtual keys, limits, budgets and an exact ledger."""


@app.command(rich_help_panel=_RUN)
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on; else GATEWAY_HOST.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; else GATEWAY_PORT.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that serve; else GATEWAY_WORKERS.")] = None,
) -> None:
    """Serve until SIGTERM or SIGINT."""
    from gateway.config import load_settings

    options = {"host": host, "port": port, "workers": workers}
    settings = load_settings(**{name: value for name, value in options.items() if value is not None})
    if settings.workers > 1:
        # Without the app, which only the workers need.
        from gateway.workers import serve as serve_until_stopped
    else:
        from gateway.server import serve as serve_until_stopped
    raise typer.Exit(serve_until_stopped(settings))


app.command(rich_help_panel=_RUN)(check.check)
app.command(rich_help_panel=_RUN)(doctor.doctor)
app.command(rich_help_panel=_RUN)(check.healthcheck)
app.command(rich_help_panel=_RUN)(policies.reload)
app.add_typer(ledger.app, name="ledger", rich_help_panel=_MONEY)
app.add_typer(credit_commands.app, name="credits", rich_help_panel=_MONEY)
app.add_typer(prices.app, name="prices", rich_help_panel=_MONEY)
app.add_typer(policies.plans_app, name="plans", rich_help_panel=_MONEY)
app.command(rich_help_panel=_MONEY)(policies.estimate)
app.add_typer(anomalies.app, name="anomalies", rich_help_panel=_MONEY)
app.add_typer(creators.app, name="creators", rich_help_panel=_PEOPLE)
app.add_typer(keys.app, name="keys", rich_help_panel=_PEOPLE)
app.add_typer(keys.admin_app, name="admin-keys", rich_help_panel=_PEOPLE)
app.add_typer(audit.app, name="audit", rich_help_panel=_PEOPLE)
app.add_typer(notices.app, name="notices", rich_help_panel=_PEOPLE)
app.add_typer(db.app, name="db", rich_help_panel=_UPKEEP)
app.add_typer(cache.app, name="cache", rich_help_panel=_UPKEEP)
app.add_typer(imports.app, name="import", rich_help_panel=_UPKEEP)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs the command of `argv` (default: this process's arguments) and ends the process."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    as_json = "--json" in arguments
    try:
        # People are told of a mistyped line in a frame, with what to try; that is typer's work, and no JSON.
        code = app(args=arguments, prog_name="gateway", standalone_mode=not as_json)
    except ConfigError as exc:
        _fail(GatewayError(str(exc), type="config_error", code="config_error"), 2, as_json)
    except GatewayError as exc:
        _fail(exc, 1, as_json)
    except OSError as exc:
        if exc.errno == errno.EPIPE:
            # Whoever read the output has read enough.
            sys.exit(1)
        message = f"{exc.filename}: {exc.strerror}" if exc.filename else str(exc)
        _fail(GatewayError(message, type="os_error", code="os_error"), 1, as_json)
    except typer.Abort:
        _fail(GatewayError("Aborted.", type="usage_error", code="aborted"), 1, as_json)
    except typer.TyperException as exc:
        error = GatewayError(exc.format_message(), type="usage_error", code="usage_error")
        _fail(error, exc.exit_code, as_json)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(error: GatewayError, code: int, as_json: bool) -> NoReturn:
    if as_json:
        typer.echo(error.body(), err=True)
    else:
        for line in error.message.splitlines() or ["failed"]:
            typer.echo(f"gateway: {line}", err=True)
    sys.exit(code)
