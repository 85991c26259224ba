"""A gateway with half a year of calls in its ledger, for pages to be looked at: 10^6 of them, or a few hundred.

The ledger is made once for all processes of a test run, and copied for each: a gateway is alone with its folder. Prices
are the packaged ones; nothing that tests ask for leads to a real provider, and no provider has a key.
"""

import fcntl
import json
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.browser.ledger_rows import CREDITED, HOSTILE_CREATOR, LARGEST, write_ledger
from tests.rig.environment import REPOSITORY
from tests.rig.gateway import Gateway, Key
from tests.rig.upstream import Upstream

__all__ = ["CALLS", "CALLS_FEW", "PLANS", "Site", "build_once", "opened", "site_of"]

CALLS = 1_000_000
CALLS_FEW = 600
PLANS = """
[plans.free]
requests_per_minute = 60
quota_usd_per_month = 500
free_images_per_day = 3

[plans.pro]
requests_per_minute = 600
quota_usd_per_month = 50000
budget_usd_per_month = 20000

[plans.team]
requests_per_minute = 6000
concurrent_calls = 50
quota_usd_per_month = 250000
budget_usd_per_month = "unlimited"

[credit_packages.small]
credits = 100
price_usd = 9
"""
SHOWN_PLANS = """
[plans.free]
requests_per_minute = 60
quota_usd_per_month = 10
free_images_per_day = 3

[plans.pro]
requests_per_minute = 600
requests_per_hour = 20000
quota_usd_per_month = 100
budget_usd_per_month = 60
when_budget_reached = "downgrade_then_deny"

[plans.team]
requests_per_minute = 6000
tokens_per_minute = 2000000
concurrent_calls = 50
quota_usd_per_month = 250
budget_usd_per_month = 120

[credit_packages.small]
credits = 100
price_usd = 9
"""
"""Limits that a few of the creators come near, for pictures."""
_SIGNING_IN = (LARGEST, CREDITED, HOSTILE_CREATOR)
"""Creators with a virtual key that works."""
_ROLES = ("finance", "support")
_KEYS = "keys.json"
_PLANS_FILE = "plans-of-site.toml"
_VERIFY_WITHIN_S = 600.0
_MARGIN_MS = 1_000
"""So that a call that is made now is later than all of the ledger."""


@dataclass(frozen=True)
class Site:
    """A running gateway, and the keys people sign in with."""

    gateway: Gateway
    owner_key: str = field(repr=False)
    admin_keys: dict[str, str] = field(repr=False)
    """Role -> key."""
    keys: dict[str, Key] = field(repr=False)
    """Creator -> virtual key."""

    @property
    def url(self) -> str:
        return self.gateway.url

    def verify(self) -> str:
        """What `gateway ledger verify` prints. Raises `AssertionError` when it finds a difference."""
        done = subprocess.run(
            [sys.executable, "-m", "gateway", "ledger", "verify"],
            cwd=REPOSITORY,
            env=self.gateway.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_VERIFY_WITHIN_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        return done.stdout

    def key_of(self, who: str) -> str:
        """The key that `who` signs in with: `owner`, `finance`, `support`, `creator` or `hostile`."""
        creators = {"creator": LARGEST, "hostile": HOSTILE_CREATOR}
        if who in creators:
            return self.keys[creators[who]].key
        return self.owner_key if who == "owner" else self.admin_keys[who]

    @property
    def last_month(self) -> str:
        """The month before this one: over, and still open."""
        first = datetime.now(UTC).replace(day=1)
        return (first - timedelta(days=1)).strftime("%Y-%m")

    @property
    def newest_call(self) -> str:
        """The request id of the newest call of the largest creator."""
        found = self.gateway.admin_json("GET", "/admin/ledger", params={"creator": LARGEST, "limit": 1})
        return str(found["data"][0]["request_id"])


def build_once(shared: Path, calls: int, upstream: Upstream, *, is_hostile: bool = True) -> Path:
    """The folder of a stopped gateway with `calls` entries below `shared`. A process that comes second waits.

    `is_hostile`: some of the texts are; without it, and with other plans, it is what a company may look like.
    """
    folder = shared / f"ledger-{calls}{'' if is_hostile else '-shown'}"
    with _locked(shared / f"{folder.name}.lock"):
        if not (folder / _KEYS).is_file():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            _build(folder, calls, upstream, is_hostile)
    return folder


@contextmanager
def opened(made: Path, folder: Path, upstream: Upstream) -> Iterator[Site]:
    """A gateway of one's own over a copy of what `build_once` made, its months closed but for the last two; it must end
    cleanly."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(made / "data", folder / "data")
    known = json.loads((made / _KEYS).read_text())
    gateway = _gateway(folder, upstream, (made / _PLANS_FILE).read_text())
    try:
        gateway.start()
        for month in _months_before_the_last(gateway.data_dir / "gateway.db"):
            gateway.admin_json("POST", f"/admin/charges/{month}/close")
        keys = {creator: Key(**key) for creator, key in known["keys"].items()}
        yield Site(gateway, gateway.admin_key, known["admin_keys"], keys)
        assert gateway.stop() == 0
    finally:
        gateway.close()


@contextmanager
def site_of(folder: Path, calls: int, *, is_hostile: bool = True) -> Iterator[Site]:
    """Made and opened at once, for commands."""
    upstream = Upstream()
    try:
        with opened(build_once(folder, calls, upstream, is_hostile=is_hostile), folder / "site", upstream) as site:
            yield site
    finally:
        upstream.close()


def _gateway(folder: Path, upstream: Upstream, plans: str) -> Gateway:
    settings = {"PRICING_FILE": REPOSITORY / "pricing.toml", "SHUTDOWN_GRACE_S": 5}
    return Gateway(folder, upstream, settings=settings, plans=plans)


def _build(folder: Path, calls: int, upstream: Upstream, is_hostile: bool) -> None:
    """The gateway makes its tables, prices and keys; when it has stopped, its ledger is written."""
    plans = PLANS if is_hostile else SHOWN_PLANS
    signing_in = [creator for creator in _SIGNING_IN if is_hostile or creator != HOSTILE_CREATOR]
    gateway = _gateway(folder, upstream, plans)
    (folder / _PLANS_FILE).write_text(plans)
    try:
        gateway.start()
        for creator in signing_in:
            gateway.admin_json("POST", "/admin/creators", json={"id": creator, "plan": "team"})
        keys = {creator: gateway.new_key(creator, name=f"{creator} key") for creator in signing_in}
        made = {role: gateway.admin_json("POST", "/admin/admin-keys") for role in _ROLES}
        assert gateway.stop() == 0
        database = gateway.data_dir / "gateway.db"
        _give_roles(database, {role: key["id"] for role, key in made.items()})
        until_ms = time.time_ns() // 10**6 - _MARGIN_MS
        write_ledger(database, calls, {c: key.id for c, key in keys.items()}, until_ms, is_hostile=is_hostile)
    finally:
        gateway.close()
    known = {
        "keys": {creator: vars(key) for creator, key in keys.items()},
        "admin_keys": {role: key["key"] for role, key in made.items()},
    }
    (folder / _KEYS).write_text(json.dumps(known))


def _give_roles(database: Path, key_ids: Mapping[str, str]) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        for role, key_id in key_ids.items():
            connection.execute("UPDATE admin_keys SET name = ?, role = ? WHERE id = ?", (f"{role} desk", role, key_id))


def _months_before_the_last(database: Path) -> list[str]:
    """Of the months that are over the last one stays open, so that it can be closed."""
    with closing(sqlite3.connect(database)) as connection:
        months = connection.execute("SELECT DISTINCT substr(period_day, 1, 7) FROM usage_daily ORDER BY 1").fetchall()
    return [month for (month,) in months[:-2]]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
