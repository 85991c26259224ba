"""What the program has, the README and docs/ have: settings, endpoints, headers, error codes, policies, plans, commands."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import typer.main
from starlette.routing import Route

from gateway.answers import _RATELIMIT_UNITS
from gateway.app import DIALECTS
from gateway.cli import app as cli
from gateway.config import Settings
from gateway.endpoints import estimate, health, me, models
from gateway.endpoints.admin import admin_routes
from gateway.endpoints.chat_completions import ChatCompletions
from gateway.endpoints.images import ImageGenerations
from gateway.ledger.entry_json import ENTRY_FIELDS
from gateway.ledger.records import Kind, Outcome, UsageSource
from gateway.plans import load_plans, plan_to_json
from policies import POLICIES
from policies.types import Plan

_OWN_HEADER = re.compile(r"x-gateway-[a-z-]+")
_OTHER_HEADERS = {
    *("x-request-id", "x-upstream-request-id", "x-should-retry", "retry-after", "retry-after-ms"),
    *("idempotency-key", "openai-processing-ms", "openai-version"),
}
_LOG_LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
LEDGER = (ROOT / "docs" / "ledger.md").read_text()
DOCS = README + "".join(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))
SOURCES = [path for package in ("gateway", "policies") for path in (ROOT / package).rglob("*.py")]


def error_codes() -> set[str]:
    """Every literal passed as `code=`, set as a class's `code`, or given first to `Deny`."""
    found = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            values: list[ast.expr] = []
            if isinstance(node, ast.Call):
                values = [keyword.value for keyword in node.keywords if keyword.arg == "code"]
                if isinstance(node.func, ast.Name) and node.func.id == "Deny":
                    values += node.args[:1]
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if any(isinstance(target, ast.Name) and target.id == "code" for target in targets) and node.value:
                    values = [node.value]
            found |= {
                leaf.value
                for value in values
                for leaf in ([value.body, value.orelse] if isinstance(value, ast.IfExp) else [value])
                if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str)
            }
    return found


def paths() -> set[str]:
    routes = [*health.routes, *models.routes, *me.routes, *estimate.routes, *admin_routes()]
    known = {route.path.replace(":path", "") for route in routes if isinstance(route, Route)}
    return {path.split("{")[0].rstrip("/") for path in known} | {ChatCompletions.path, ImageGenerations.path}


def headers() -> set[str]:
    """Every header of ours that the sources name, and of others' those with a meaning here; whoever sends it."""
    found = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
                text = node.value.decode("latin-1") if isinstance(node.value, bytes) else node.value
                if _OWN_HEADER.fullmatch(text) or text in _OTHER_HEADERS:
                    found.add(text)
    return found | {name.decode() for names in _RATELIMIT_UNITS.values() for name in names}


def nodes(*packages: str) -> Iterator[ast.AST]:
    for package in packages:
        for path in (ROOT / package).rglob("*.py"):
            yield from ast.walk(ast.parse(path.read_text()))


def log_events() -> set[str]:
    """Every literal said first to a level of `_log`, or to `log_request`."""
    found = set()
    for node in nodes("gateway"):
        if not (isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant)):
            continue
        called = ast.unparse(node.func)
        if called == "log_request" or called in {f"_log.{level}" for level in _LOG_LEVELS}:
            found.add(node.args[0].value)
    return found


def flags() -> set[str]:
    """In modules that speak of flags: every text alone in a tuple, but for what is spread into it."""
    found = set()
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        if not any(isinstance(node, ast.Name) and node.id.endswith("flags") for node in ast.walk(tree)):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Tuple):
                own = [part for part in node.elts if not isinstance(part, ast.Starred)]
                if len(own) == 1 and isinstance(own[0], ast.Constant) and isinstance(own[0].value, str):
                    found.add(own[0].value)
    return found


def commands() -> set[str]:
    root = typer.main.get_command(cli)
    found = set()
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        found |= {f"{name} {sub}" for sub in getattr(command, "commands", {})} or {name}
    return found


def test_the_search_finds_the_codes_it_should() -> None:
    assert {"invalid_api_key", "insufficient_quota", "unpriced_model", "shutting_down"} <= error_codes()


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_is_documented(name: str) -> None:
    assert f"`GATEWAY_{name.upper()}`" in README


@pytest.mark.parametrize("code", sorted(error_codes()))
def test_every_error_code_is_documented(code: str) -> None:
    assert f"`{code}`" in DOCS


@pytest.mark.parametrize("header", sorted(headers()))
def test_every_header_is_documented(header: str) -> None:
    assert f"`{header}`" in README


@pytest.mark.parametrize("policy", [policy.__name__.rpartition(".")[2] for policy in POLICIES])  # type: ignore[attr-defined]
def test_every_policy_is_documented(policy: str) -> None:
    assert f"| `{policy}` |" in DOCS


@pytest.mark.parametrize("field", sorted(plan_to_json(Plan("any")).keys() - {"name", "budget_is_auto"}))
def test_every_field_of_a_plan_is_documented(field: str) -> None:
    assert f"| `{field}` |" in DOCS


def test_the_searches_find_the_flags_events_and_headers_they_should() -> None:
    assert {"over_hold", "usage_refused", "unpriced_usage", "unpriced_tier", "more_images"} <= flags()
    assert {"request_finished", "request_rejected", "upstream_failed", "call_failed", "serving"} <= log_events()
    assert headers() >= _OTHER_HEADERS


@pytest.mark.parametrize("flag", sorted(flags()))
def test_every_flag_is_documented(flag: str) -> None:
    assert f"| `{flag}` |" in LEDGER


@pytest.mark.parametrize("word", [*get_args(Kind), *get_args(UsageSource), *get_args(Outcome)])
def test_every_word_of_an_entry_is_documented(word: str) -> None:
    assert f"| `{word}` |" in LEDGER


@pytest.mark.parametrize("field", ENTRY_FIELDS)
def test_every_field_of_an_entry_is_documented(field: str) -> None:
    documented = {name for row in LEDGER.splitlines() if row.startswith("| `") for name in row.split("|")[1].split("`")}
    assert field in documented


@pytest.mark.parametrize("event", sorted(log_events()))
def test_every_event_of_the_log_is_documented(event: str) -> None:
    assert f"| `{event}` |" in LEDGER


def test_no_documented_event_or_flag_is_gone() -> None:
    """What the tables name below their headings is what the program still says."""
    events, told_flags = (
        set(re.findall(r"^\| `([a-z_]+)` \|", LEDGER.partition(f"## {title}\n")[2].partition("\n## ")[0], re.MULTILINE))
        for title in ("The log", "Flags")
    )
    assert (events, told_flags) == (log_events(), flags())


@pytest.mark.parametrize("path", sorted(paths()))
def test_every_endpoint_is_documented(path: str) -> None:
    assert path in README


@pytest.mark.parametrize("command", sorted(commands()))
def test_every_command_is_documented(command: str) -> None:
    group, _, sub = command.partition(" ")
    line = next((line for line in README.splitlines() if line.startswith(f"| `gateway {group}")), "")
    assert sub in line
    assert line


@pytest.mark.parametrize("plan", sorted(load_plans()))
def test_every_plan_is_documented(plan: str) -> None:
    assert f"| {plan} |" in README


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_every_dialect_is_documented(dialect: str) -> None:
    assert f"`{dialect}`" in README
