"""The gateway with everything on: keys, limits, holds, the durable ledger, a log line a request.

After the load it has to account for every call: its ledger must agree with itself (`gateway ledger verify`), with what
the load generator saw answered, and with what the upstream was asked.
"""

import json
import secrets
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from benchmarks.local_http import get_json, post_json
from benchmarks.machine import ROOT, TargetFailed, environment
from benchmarks.targets.base import MODELS, Target

_VERIFY_TIMEOUT_S = 900
_SETTLE_WAIT_S = 10

_CATALOG_HEAD = """\
version = "benchmark"

[providers.upstream]
dialect = "openai"
base_url = "http://127.0.0.1:{port}/v1"
"""

_CATALOG_MODEL = """
[models."{model}"]
provider = "upstream"
endpoints = ["chat"]
input_usd_per_mtok = 0.15
cached_input_usd_per_mtok = 0.075
output_usd_per_mtok = 0.60
context_tokens_max = 128000
output_tokens_max = 16384
source = "made up for the benchmark"
"""


@dataclass(frozen=True)
class Seen:
    """What the load generator saw of one target, over everything it sent, warm-up included."""

    ok: int = 0
    """Answered 200, to the last byte."""
    unclear: int = 0
    """Cut, unfinished or refused: the ledger may or may not have them as calls that went well."""


@dataclass(frozen=True)
class LedgerCheck:
    seen: Seen
    outcomes: dict[str, int]
    """Calls in the ledger by outcome."""
    upstream_requests: int
    verify_status: int
    verify_output: str
    restart_s: float | None
    """From start to ready on the folder the load left behind."""
    problem: str = ""
    """Why the gateway could not be asked, or did not come back."""

    @property
    def rows_are_complete(self) -> bool:
        """Every call that was seen answered is in the ledger, and no call is there that nobody made."""
        ok = self.outcomes.get("ok", 0)
        return self.seen.ok <= ok <= self.seen.ok + self.seen.unclear

    @property
    def is_valid(self) -> bool:
        return not self.problem and self.rows_are_complete and self.verify_status == 0


class Gateway(Target):
    name = "gateway"
    settings: Mapping[str, str] = MappingProxyType({})
    """Beside those of every gateway here."""
    limits: ClassVar[Mapping[str, object]] = {
        "requests_per_minute": 1_000_000_000,
        "requests_per_hour": 1_000_000_000,
        "tokens_per_minute": 1_000_000_000_000,
        "concurrent_calls": 1_000_000,
        "quota_usd_per_month": "100000000",
        "budget_usd_per_month": "10000000",
        "budget_hard_usd_per_month": "100000000",
        "when_budget_reached": "downgrade_then_deny",
    }

    def start(self) -> None:
        self.version = _version()
        self._admin_key = secrets.token_urlsafe(32)
        self.folder /= self.name  # two of them may run side by side
        self.folder.mkdir()
        catalog = self.folder / "pricing.toml"
        rows = [_CATALOG_MODEL.format(model=model) for model in MODELS]
        catalog.write_text(_CATALOG_HEAD.format(port=self.upstream_port) + "".join(rows))
        self._env = {
            "GATEWAY_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(self.port),
            "GATEWAY_DATA_DIR": str(self.folder / "data"),
            "GATEWAY_ADMIN_KEY": self._admin_key,
            "GATEWAY_PRICING_FILE": str(catalog),
            "GATEWAY_LOG_LEVEL": "info",
            **self.settings,
        }
        self._serve()
        self.key = self._make_key()

    def work(self) -> dict[str, int]:
        """What others have done for it since the start, by name: counts that only grow."""
        return {}

    def check_ledger(self, seen: Seen, upstream_requests: int) -> LedgerCheck:
        """Counts the ledger's calls, verifies it, and starts the gateway once more on what it wrote."""
        outcomes: dict[str, int] = {}
        restart_s, problem = None, ""
        try:
            outcomes = self._settled_outcomes(seen.ok)
            verified = self._run_verify()
            restart_s = self._restart()
        except (OSError, RuntimeError, TargetFailed) as exc:
            problem = str(exc)
            verified = self._run_verify()
        return LedgerCheck(
            seen=seen,
            outcomes=outcomes,
            upstream_requests=upstream_requests,
            verify_status=verified.returncode,
            verify_output=(verified.stdout + verified.stderr).strip()[-1500:],
            restart_s=restart_s,
            problem=problem,
        )

    def _run_verify(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "gateway", "ledger", "verify"],
            cwd=ROOT,
            env=environment(self._env),
            capture_output=True,
            text=True,
            timeout=_VERIFY_TIMEOUT_S,
        )

    def _restart(self) -> float | None:
        """Seconds until it is ready again; the start-up time of the empty folder stays as it was."""
        first_startup_s = self.startup_s
        Target.stop(self)
        self._serve()
        restart_s, self.startup_s = self.startup_s, first_startup_s
        return restart_s

    def _serve(self) -> None:
        self._launch([sys.executable, "-m", "gateway", "serve"], "/health/ready", self._env)

    def _admin(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/admin/{path}"

    def _make_key(self) -> str:
        """A virtual key of a creator whom no limit stops, though each is set, and so checked, kept and explained."""
        creator = {"id": "benchmark", "plan": "enterprise", "overrides": self.limits}
        post_json(self._admin("creators"), self._admin_key, creator)
        made: dict[str, Any] = post_json(self._admin("creators/benchmark/keys"), self._admin_key, {})
        key: str = made["key"]
        return key

    def _settled_outcomes(self, expected: int) -> dict[str, int]:
        """Calls by outcome; waits a moment for calls whose client left to be settled."""
        give_up_at = time.monotonic() + _SETTLE_WAIT_S
        while True:
            rows = get_json(self._admin("costs?group_by=outcome"), self._admin_key)["data"]
            outcomes = {row["outcome"]: row["calls"] for row in rows}
            if sum(outcomes.values()) >= expected or time.monotonic() > give_up_at:
                return outcomes
            time.sleep(0.2)


class OneLimit(Gateway):
    """The same gateway with one rate limit and one quota: what all the other policies cost is the difference."""

    name = "one-limit"
    streams_max = 0
    limits: ClassVar[Mapping[str, object]] = {
        "requests_per_hour": 1_000_000_000,
        "tokens_per_minute": "unlimited",
        "concurrent_calls": "unlimited",
        "quota_usd_per_month": "100000000",
        "budget_usd_per_month": "unlimited",
    }


def _version() -> str:
    """The commit, marked when the tree differs from it; the package's version outside a repository."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        described = subprocess.run(git, capture_output=True, text=True, timeout=10)
    except FileNotFoundError:
        described = None
    if described and described.returncode == 0:
        return described.stdout.strip()
    shown = "import importlib.metadata as m, json; print(json.dumps(m.version('llm-gateway')))"
    done = subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True)
    version: str = json.loads(done.stdout) if done.returncode == 0 else "unknown"
    return version
