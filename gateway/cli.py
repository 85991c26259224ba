"""`gateway`: every command, and how what goes wrong is told: one line on stderr, no traceback, an exit code.

Exit codes: 0 done, 1 the gateway refused or something is wrong, 2 a setting, a file or the command line is.
"""

import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from gateway.commands import anomalies, cache, check, creators, db, keys, ledger, notices, policies, prices
from gateway.commands import credits as credit_commands
from gateway.errors import ConfigError, GatewayError

__all__ = ["app", "main"]

app = typer.Typer(
    name="gateway",
    help="A self-hosted, OpenAI-compatible gateway: virtual keys, limits, budgets and an exact ledger.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
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


app.add_typer(creators.app, name="creators")
app.add_typer(keys.app, name="keys")
app.add_typer(keys.admin_app, name="admin-keys")
app.add_typer(credit_commands.app, name="credits")
app.add_typer(ledger.app, name="ledger")
app.add_typer(prices.app, name="prices")
app.add_typer(db.app, name="db")
app.add_typer(cache.app, name="cache")
app.add_typer(notices.app, name="notices")
app.add_typer(anomalies.app, name="anomalies")
app.command()(policies.estimate)
app.command()(policies.reload)
app.command()(check.check)
app.command()(check.healthcheck)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs the command of `argv` (default: this process's arguments) and ends the process."""
    try:
        app(args=None if argv is None else list(argv), prog_name="gateway")
    except ConfigError as exc:
        _fail(str(exc), 2)
    except GatewayError as exc:
        _fail(exc.message, 1)
    except OSError as exc:
        _fail(f"{exc.filename}: {exc.strerror}" if exc.filename else str(exc), 1)
    sys.exit(0)


def _fail(message: str, code: int) -> NoReturn:
    for line in message.splitlines() or ["failed"]:
        typer.echo(f"gateway: {line}", err=True)
    sys.exit(code)
