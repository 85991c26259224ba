"""What is allowed and deserves a second look: plans, secrets, addresses, who is told, what is kept where.

Only what the settings and the files say; what the database says is in `stored`.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic import SecretStr

from gateway.addresses import trusted_networks
from gateway.catalog import Catalog
from gateway.commands.examinations.finding import Finding, bad, ok, warn, without_secrets
from gateway.errors import ConfigError
from gateway.plan_lint import lint_plans
from gateway.secrets import SECRET_FILE
from policies.types import Plan

if TYPE_CHECKING:
    from gateway.config import Settings

__all__ = ["examine_addresses", "examine_backups", "examine_files", "examine_plans", "examine_secrets", "examine_watch"]

_KEY_CHARS_GOOD = 24
_DISTINCT_CHARS_GOOD = 8
_BACKUP = re.compile(r"gateway-(\d{8}T\d{6})Z\.db")
_SPOOL_FOLDER = "spool"


def examine_plans(plans: Mapping[str, Plan], catalog: Catalog, in_use: Collection[str] | None) -> Iterator[Finding]:
    """`in_use`: the plans that creators are on; None where the database cannot tell."""
    found = [warn("risky", "plans.toml", line, "see docs/plans.md") for line in lint_plans(plans, catalog)]
    open_ended = [plan.name for plan in plans.values() if not _refuses_for_money(plan)]
    used = [name for name in open_ended if in_use is None or name in in_use]
    for name in used:
        why = "nothing it says refuses a call for money: no quota, and no budget that denies"
        advice = 'set quota_usd_per_month, or budget_hard_usd_per_month with "downgrade_then_deny"'
        found.append(warn("risky", f"plan {name}", why, advice))
    if unknown := sorted(set(in_use or ()) - plans.keys()):
        why = "creators are on it, and the plans file does not have it: their calls are refused"
        found += [bad("risky", f"plan {name}", why, "add it to the file, or move the creators") for name in unknown]
    yield from found
    if not found:
        yield ok("risky", "plans", f"{len(plans)}, each in use with a limit for money")


def _refuses_for_money(plan: Plan) -> bool:
    denies = plan.when_budget_reached == "deny" and plan.budget_nano_usd_per_month is not None
    denies_late = plan.when_budget_reached == "downgrade_then_deny" and plan.budget_hard_nano_usd_per_month is not None
    return plan.quota_nano_usd_per_month is not None or denies or denies_late


def examine_secrets(settings: "Settings") -> Iterator[Finding]:
    """How hard those of the settings are to guess, and who may read the file. Makes none."""
    from gateway.secrets import load_secrets

    weak = [name for name in ("admin_key", "secret") if _is_weak(getattr(settings, name))]
    for name in weak:
        why = f"shorter than {_KEY_CHARS_GOOD} characters, or of few different ones"
        yield warn("risky", f"GATEWAY_{name.upper()}", why, "set a long random one: openssl rand -hex 32")
    file = settings.data_dir / SECRET_FILE
    if settings.secret is None and file.exists():
        try:
            load_secrets(settings)
        except ConfigError as exc:
            yield bad("risky", "secret", str(exc), f"chmod 600 {file}")
            return
    if not weak:
        yield ok("risky", "secrets", "none of the settings is short; the file is this user's alone")


def _is_weak(value: SecretStr | None) -> bool:
    text = "" if value is None else value.get_secret_value()
    return value is not None and (len(text) < _KEY_CHARS_GOOD or len(set(text)) < _DISTINCT_CHARS_GOOD)


def examine_files(settings: "Settings") -> Iterator[Finding]:
    """Who else may read the folder, and what waits in it to be booked."""
    folder = settings.data_dir
    if folder.is_dir() and folder.stat().st_mode & 0o007:
        yield warn("risky", "data folder", f"{folder} is open to other users", f"chmod 700 {folder}")
    waiting = sum(_size(file) for file in (folder / _SPOOL_FOLDER).glob("*.spool"))
    if waiting:
        why = f"{waiting} bytes of charges wait for the database"
        yield warn("risky", "spool", why, "have the database back, and a gateway running on this folder books them")
    else:
        yield ok("risky", "spool", "nothing waits for the database")


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # booked, and gone, this moment
        return 0


def examine_addresses(settings: "Settings") -> Iterator[Finding]:
    """Who may reach the gateway, whose word on addresses it takes, and where its own links lead."""
    is_local, found = _is_local(settings.host), list(_about_proxies(settings))
    if not is_local and not settings.trusted_proxies.strip():
        why = f"listens on {settings.host} in plain HTTP, and knows of no proxy in front"
        advice = "put TLS in front and name it in GATEWAY_TRUSTED_PROXIES; else limits by address see the proxy alone"
        found.append(warn("risky", "GATEWAY_HOST", why, advice))
    if settings.assets_url != "off" and settings.public_url is None and not is_local:
        why = "unset, so URLs of kept images name the address listened on, which callers elsewhere cannot reach"
        found.append(warn("risky", "GATEWAY_PUBLIC_URL", why, "set it to what clients reach the gateway by"))
    if settings.public_url is not None and _is_plain(settings.public_url):
        why = f"{without_secrets(settings.public_url)} is plain HTTP: keys can be read on the way"
        found.append(warn("risky", "GATEWAY_PUBLIC_URL", why, "serve it over https"))
    yield from found
    if not found:
        yield ok("risky", "addresses", f"listens on {settings.host}")


def _about_proxies(settings: "Settings") -> Iterator[Finding]:
    try:
        networks = trusted_networks(settings.trusted_proxies)
    except ConfigError as exc:
        yield bad("risky", "GATEWAY_TRUSTED_PROXIES", str(exc), "the gateway does not start like this")
        return
    if any(network.prefixlen == 0 for network in networks):
        why = "everybody's X-Forwarded-For is believed: any caller may claim any address"
        yield bad("risky", "GATEWAY_TRUSTED_PROXIES", why, "name the proxies' own networks")


def _is_local(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_plain(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "http" and not _is_local(parts.hostname or "")


def examine_watch(settings: "Settings") -> Iterator[Finding]:
    """Whether limits are enforced, and whether anybody is told of trouble."""
    if settings.policy_mode == "observe":
        why = "observe: no limit refuses or downgrades anything"
        yield warn("risky", "GATEWAY_POLICY_MODE", why, "set enforce once the decisions in the log look right")
    targets = [settings.webhook_url, settings.slack_webhook_url, settings.smtp_url]
    count = sum(target is not None for target in targets)
    if count:
        yield ok("risky", "notices", f"go to {count} targets; `gateway notices test` tries them")
    else:
        advice = "set GATEWAY_WEBHOOK_URL, GATEWAY_SLACK_WEBHOOK_URL or GATEWAY_SMTP_URL"
        yield warn("risky", "notices", "are kept, and sent to nobody: money and trouble go unnoticed", advice)


def examine_backups(settings: "Settings", folder: Path | None, now: datetime, *, days_max: int) -> Finding:
    """By the names that `gateway db backup` gives. Nobody but who keeps them knows where they are."""
    if folder is None:
        if settings.postgres_url is not None:
            return ok("risky", "backup", "is the PostgreSQL server's; not looked at")
        return ok("risky", "backup", "not known: name the folder of the copies with --backups")
    try:
        found = [match[1] for file in folder.iterdir() if (match := _BACKUP.fullmatch(file.name))]
    except OSError as exc:
        return bad("risky", "backup", f"{folder} cannot be read ({exc.strerror})", "name another folder")
    if not found:
        return bad("risky", "backup", f"there is no copy in {folder}", f"run `gateway db backup {folder}` every day")
    made_at = datetime.strptime(max(found), "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    age_days = (now - made_at).days
    told = f"the newest copy in {folder} is {age_days} days old"
    if age_days > days_max:
        return warn("risky", "backup", told, f"run `gateway db backup {folder}`, and look why nobody did")
    return ok("risky", "backup", told)
