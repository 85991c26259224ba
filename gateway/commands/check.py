"""`gateway check` and `gateway healthcheck`: is the configuration sound, and is the running gateway ready."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import typer

from gateway.commands.output import AsJson, echo_json
from gateway.errors import ConfigError

if TYPE_CHECKING:
    from gateway.config import Settings

_HEALTH_TIMEOUT_S = 5.0
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 -- compared with, not bound to
Loaded = TypeVar("Loaded")


class Findings(NamedTuple):
    """Lines for people. A fault stops `gateway serve`; a warning deserves a look."""

    faults: list[str]
    warnings: list[str]

    def load(self, loader: Callable[[], Loaded]) -> Loaded | None:
        """What `loader` returns; its `ConfigError` becomes faults, a line each."""
        try:
            return loader()
        except ConfigError as exc:
            self.faults.extend(str(exc).splitlines())
            return None


def check(as_json: AsJson = False) -> None:
    """Check settings, catalog and plans without starting anything; exit with 1 if something is wrong."""
    findings = _check()
    if as_json:
        echo_json(findings._asdict())
    else:
        for line in findings.faults:
            typer.echo(f"fault: {line}")
        for line in findings.warnings:
            typer.echo(f"warning: {line}")
        typer.echo(f"{len(findings.faults)} faults, {len(findings.warnings)} warnings")
    raise typer.Exit(1 if findings.faults else 0)


def healthcheck(as_json: AsJson = False) -> None:
    """Ask the running gateway whether it is ready; exit with 0 if it is, else 1."""
    from gateway.config import load_settings

    health = health_of(load_settings())
    if as_json:
        echo_json(health._asdict())
    elif health.problem is not None:
        typer.echo(health.problem, err=True)
    raise typer.Exit(0 if health.ready else 1)


class Health(NamedTuple):
    """What the gateway at the settings' address says of itself."""

    address: str
    ready: bool
    status: int | None
    """Of its answer; None where there was none."""
    problem: str | None


def health_of(settings: "Settings") -> Health:
    """Asks `/health/ready` of this machine; takes five seconds at most."""
    import http.client

    host = _ANY_ADDRESS.get(settings.host, settings.host)
    address = f"{host}:{settings.port}"
    connection = http.client.HTTPConnection(host, settings.port, timeout=_HEALTH_TIMEOUT_S)
    try:
        connection.request("GET", "/health/ready")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as exc:
        return Health(address, False, None, f"no answer from {address} ({type(exc).__name__})")
    finally:
        connection.close()
    if status != 200:
        return Health(address, False, status, f"{address} is not ready (status {status})")
    return Health(address, True, status, None)


def _check() -> Findings:
    from gateway.addresses import trusted_networks
    from gateway.catalog import lint_catalog, load_catalog, packaged_catalog
    from gateway.config import load_settings
    from gateway.plan_lint import lint_plans
    from gateway.plans import load_plans, packaged_plans

    findings = Findings([], [])
    settings = findings.load(load_settings)
    if settings is None:
        return findings
    catalog = findings.load(lambda: load_catalog(settings.pricing_file))
    if catalog is not None:
        path = settings.pricing_file or packaged_catalog()
        findings.warnings.extend(f"{path}: {line}" for line in lint_catalog(catalog))
    plans = findings.load(lambda: load_plans(settings.plans_file))
    if plans is not None and catalog is not None:
        path = settings.plans_file or packaged_plans()
        findings.warnings.extend(f"{path}: {line}" for line in lint_plans(plans, catalog))
    findings.load(lambda: trusted_networks(settings.trusted_proxies))
    findings.load(lambda: _check_secret(settings))
    findings.warnings.extend(_doubts_about_folder(settings))
    return findings


def _check_secret(settings: "Settings") -> None:
    """Reads the secret where there is one; checking makes nothing."""
    from gateway.secrets import SECRET_FILE, load_secrets

    if settings.secret is not None or (settings.data_dir / SECRET_FILE).exists():
        load_secrets(settings)


def _doubts_about_folder(settings: "Settings") -> list[str]:
    folder = settings.data_dir
    if folder.is_dir() and folder.stat().st_mode & 0o007:
        return [f"{folder} is open to other users: run `chmod 700` on it"]
    return []
