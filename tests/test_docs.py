"""What the program has, the README and docs/ have: endpoints, headers, error codes, policies, plans, commands, notices. Settings and
metrics have tests of their own."""

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
import typer.main
from starlette.routing import Route

from gateway import catalog, deployment_rows
from gateway.anomalies.words import FIGURES
from gateway.answers import _RATELIMIT_UNITS
from gateway.app import _CREATOR_MODULES, _ENDPOINTS, _IMAGE_ENDPOINTS
from gateway.cache.base import Kind as CacheKind
from gateway.cache.responses import _WORDS as CACHE_WISHES
from gateway.catalog import load_catalog
from gateway.cli import app as cli
from gateway.endpoints import assets, health
from gateway.endpoints.admin import admin_routes
from gateway.endpoints.responses import Responses
from gateway.estimating import READERS
from gateway.ledger.entry_json import ENTRY_FIELDS
from gateway.ledger.late_settles import LATE_SETTLE
from gateway.ledger.records import Kind, Outcome, UsageSource
from gateway.notices.base import Kind as NoticeKind
from gateway.notices.words import _SUBJECTS
from gateway.plans import load_plans, plan_to_json
from gateway.price_rows import PRICE_KEYS
from gateway.provider_rows import DIALECTS as WORDS
from gateway.provider_rows import ProviderRow
from gateway.repeats import _SHOWN
from gateway.services import DIALECTS
from policies import POLICIES
from policies.types import AnomalyAction, BudgetAction, CacheScope, CacheUse, Plan

_OWN_HEADER = re.compile(r"x-gateway-[a-z-]+")
_OTHER_HEADERS = {
    *("x-request-id", "x-upstream-request-id", "x-should-retry", "retry-after", "retry-after-ms"),
    *("idempotency-key", "age", "openai-processing-ms", "openai-version"),
    *("webhook-id", "webhook-timestamp", "webhook-signature"),
}
_LOG_LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
LEDGER, PRICING, PROVIDERS, ENDPOINTS, PLANS, REPEATS, NOTICES = (
    (ROOT / "docs" / f"{name}.md").read_text()
    for name in ("ledger", "pricing", "providers", "endpoints", "plans", "repeats", "notices")
)
DOCS = README + "".join(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))
SOURCES = [path for package in ("gateway", "policies") for path in (ROOT / package).rglob("*.py")]


@cache
def nodes_of(path: Path) -> list[ast.AST]:
    """All of a source; many questions are asked of each."""
    return list(ast.walk(ast.parse(path.read_text())))


def error_codes() -> set[str]:
    """Every literal passed as `code=`, set as a class's `code`, or given first to `Deny`."""
    found = set()
    for path in SOURCES:
        for node in nodes_of(path):
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


def routes() -> set[tuple[str, str]]:
    """Method and path of everything that is served; what stands in braces is left out."""
    found = {("POST", endpoint.path) for endpoint in (*_ENDPOINTS, *_IMAGE_ENDPOINTS, Responses)}
    creators = [route for module in _CREATOR_MODULES for route in module.routes]
    for route in [*health.routes, *assets.routes, *creators, *admin_routes()]:
        assert isinstance(route, Route)
        found |= {(method, in_braces(route.path)) for method in route.methods or () if method != "HEAD"}
    return found


def documented_routes() -> set[tuple[str, str]]:
    """What the table of endpoints names: `GET /a`, and `GET`, `POST /a` or `POST/GET /a` for both."""
    found = set()
    for line in README.partition("\n## Endpoints\n")[2].partition("\n## ")[0].splitlines():
        methods: set[str] = set()
        for told in re.findall(
            r"`([A-Z/]+)?(?: ?(/[^`?]*)[^`]*)?`", line.split("|")[1] if line.startswith("| `") else ""
        ):
            methods |= set(told[0].split("/")) - {""}
            if told[1]:
                found |= {(method, in_braces(told[1])) for method in methods}
                methods = set()
    return found


def in_braces(path: str) -> str:
    return re.sub(r"\{[^}]*\}", "{}", path)


def headers() -> set[str]:
    """Every header of ours that the sources name, and of others' those with a meaning here; whoever sends it."""
    found = set()
    for path in SOURCES:
        for node in nodes_of(path):
            if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
                text = node.value.decode("latin-1") if isinstance(node.value, bytes) else node.value
                if _OWN_HEADER.fullmatch(text) or text in _OTHER_HEADERS:
                    found.add(text)
    return found | {name.decode() for names in _RATELIMIT_UNITS.values() for name in names}


def nodes(*packages: str) -> Iterator[ast.AST]:
    for package in packages:
        for path in (ROOT / package).rglob("*.py"):
            yield from nodes_of(path)


def log_events() -> set[str]:
    """Every literal said first to a level of `_log`, or to `log_request`; one of two where it depends."""
    found = set()
    for node in nodes("gateway"):
        if not (isinstance(node, ast.Call) and node.args):
            continue
        called = ast.unparse(node.func)
        if called == "log_request" or called in {f"_log.{level}" for level in _LOG_LEVELS}:
            first = node.args[0]
            either = (first.body, first.orelse) if isinstance(first, ast.IfExp) else (first,)
            found |= {name.value for name in either if isinstance(name, ast.Constant) and isinstance(name.value, str)}
    return found


def flags() -> set[str]:
    """In modules that speak of flags: every text alone in a tuple, but for what is spread into it. What a table of fields
    has for its values is none. And the one of corrections, which have no other."""
    found = {LATE_SETTLE}
    for path in SOURCES:
        found_here = nodes_of(path)
        if not any(isinstance(node, ast.Name) and node.id.endswith("flags") for node in found_here):
            continue
        values = {id(value) for node in found_here if isinstance(node, ast.Dict) for value in node.values}
        for node in found_here:
            if isinstance(node, ast.Tuple) and id(node) not in values:
                own = [part for part in node.elts if not isinstance(part, ast.Starred)]
                if len(own) == 1 and isinstance(own[0], ast.Constant) and isinstance(own[0].value, str):
                    found.add(own[0].value)
    return found


def cache_answers() -> set[str]:
    """What `x-gateway-cache` says in an answer: beside the table of it, what stands with its name in a pair."""
    found = set(_SHOWN.values())
    for node in nodes("gateway"):
        match node:
            case ast.Tuple(elts=[ast.Constant(value=b"x-gateway-cache"), ast.Constant(value=bytes(word))]):
                found.add(word)
    return {word.decode() for word in found}


def notice_figures() -> set[str]:
    """The names under which notices have their figures; money is `used_*` for `used_nano_usd` and `used_usd`."""
    found = set()
    for module in ("gateway/notices/words.py", "gateway/anomalies/words.py"):
        for node in nodes_of(ROOT / module):
            if isinstance(node, ast.Dict):
                found |= {
                    key.value for key in node.keys if isinstance(key, ast.Constant) and isinstance(key.value, str)
                }
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "_money":
                name = node.args[0]
                assert isinstance(name, ast.Constant)
                assert isinstance(name.value, str)
                found.add(f"{name.value}_*")
    return found - _SUBJECTS.keys()


def kinds_told() -> dict[str, str]:
    """Kind of a notice -> its row."""
    rows = NOTICES.partition("\n## What is told\n")[2].partition("\n## ")[0].splitlines()
    return {row.split("`")[1]: row for row in rows if row.startswith("| `") and not row.startswith("| `kind`")}


def commands() -> set[str]:
    root = typer.main.get_command(cli)
    found = set()
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        found |= {f"{name} {sub}" for sub in getattr(command, "commands", {})} or {name}
    return found


def test_the_search_finds_the_codes_it_should() -> None:
    assert {"invalid_api_key", "insufficient_quota", "unpriced_model", "shutting_down"} <= error_codes()


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


_PLAN_WORDS = {
    "when_budget_reached": BudgetAction,
    "cache": CacheUse,
    "cache_scope": CacheScope,
    "when_unusual": AnomalyAction,
}


@pytest.mark.parametrize(("key", "word"), [(key, word) for key, kind in _PLAN_WORDS.items() for word in get_args(kind)])
def test_every_word_of_a_plan_is_documented(key: str, word: str) -> None:
    """Beside its key, or in a table of its own that begins with the key; and in the comments of the packaged file."""
    row, *_ = re.findall(rf"^\| `{key}` \| .*$", PLANS, re.MULTILINE)
    own = PLANS.partition(f"\n| `{key}` | the ")[2].partition("\n\n")[0]
    assert f"`{word}`" in row or f"\n| `{word}` |" in own
    packaged = (ROOT / "policies" / "plans.toml").read_text()
    assert f'"{word}"' in packaged.partition(f"\n# {key} ")[2].partition("\n\n")[0]


def test_no_key_of_a_plan_that_takes_words_is_missing_above() -> None:
    taking_words = {field.name for field in fields(Plan) if isinstance(field.default, str)}
    assert taking_words == _PLAN_WORDS.keys()


def test_the_searches_find_the_words_of_the_cache_and_the_figures_they_should() -> None:
    assert cache_answers() == {"hit", "miss", "refresh", "bypass"}
    assert {"limit_name", "used_*", "percent", "key_ids", "threshold_calls", "left_credits"} <= notice_figures() | {
        f"{name}_calls" for name in FIGURES
    }


@pytest.mark.parametrize("word", sorted(cache_answers()))
def test_every_answer_of_the_cache_is_documented(word: str) -> None:
    assert f"| `{word}` |" in REPEATS.partition("| `x-gateway-cache` | what |")[2].partition("\n\n")[0]


@pytest.mark.parametrize("word", [word.decode() for word in CACHE_WISHES])
def test_every_wish_of_the_cache_is_documented(word: str) -> None:
    (head,) = re.findall(r"^\| plan's `cache` \|.*$", REPEATS, re.MULTILINE)
    (row,) = re.findall(r"^\| `x-gateway-cache` \| `on`.*$", README, re.MULTILINE)
    assert re.search(rf"[` ]{word}`", head)
    assert f"`{word}`" in row


@pytest.mark.parametrize("kind", get_args(CacheKind))
def test_every_kind_of_kept_answer_is_documented(kind: str) -> None:
    assert re.search(rf"^\| `{kind}` \| .* \| `GATEWAY_CACHE_{kind.upper()}_TTL_S`, ", REPEATS, re.MULTILINE)


@pytest.mark.parametrize("kind", get_args(NoticeKind))
def test_every_kind_of_notice_is_documented(kind: str) -> None:
    assert kinds_told()[kind].count("|") == 5


def test_no_documented_kind_of_notice_is_gone() -> None:
    assert kinds_told().keys() == set(get_args(NoticeKind))


@pytest.mark.parametrize("figure", sorted(notice_figures() | {f"{name}_calls" for name in FIGURES}))
def test_every_figure_of_a_notice_is_documented(figure: str) -> None:
    assert f"`{figure}`" in "".join(kinds_told().values())


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


def test_the_search_finds_the_endpoints_it_should() -> None:
    assert {("POST", "/v1/images/edits"), ("DELETE", "/v1/responses/{}"), ("GET", "/health/ready")} <= routes()


@pytest.mark.parametrize(("method", "path"), sorted(routes()))
def test_every_endpoint_is_documented(method: str, path: str) -> None:
    assert (method, path) in documented_routes()


def test_no_documented_endpoint_is_gone() -> None:
    assert documented_routes() <= routes()


@pytest.mark.parametrize("endpoint", sorted(catalog.ENDPOINTS))
def test_every_word_for_an_endpoint_is_documented(endpoint: str) -> None:
    """With its path, and with what is held and booked for it."""
    rows = [line for line in ENDPOINTS.splitlines() if line.startswith("|") and f"`{endpoint}`" in line]
    assert any(f"| `{endpoint}` |" in row and "/v1/" in row for row in rows)
    money = ENDPOINTS.partition("\n## Money")[2].partition("\n## ")[0]
    assert any(row in money for row in rows)


def test_every_endpoint_that_can_be_estimated_is_documented() -> None:
    (row,) = re.findall(r"\| `endpoint` \| told by the request \|.*", DOCS)
    assert set(re.findall(r"`([a-z_]+)`", row)) == {"endpoint", *READERS}


@pytest.mark.parametrize("command", sorted(commands()))
def test_every_command_is_documented(command: str) -> None:
    group, _, sub = command.partition(" ")
    line = next((line for line in README.splitlines() if line.startswith(f"| `gateway {group}")), "")
    assert sub in line
    assert line


@pytest.mark.parametrize("plan", sorted(load_plans()))
def test_every_plan_is_documented(plan: str) -> None:
    assert f"| {plan} |" in README


@pytest.mark.parametrize("dialect", sorted({*WORDS, *DIALECTS}))
def test_every_dialect_is_documented(dialect: str) -> None:
    assert dialect in served_by()["/v1/chat/completions"]
    assert f"| `{dialect}` |" in PROVIDERS


_OF_THE_ROW = {"name", "price", "route", "deployments"}
"""What a `Model` has and no row says, or says in a table of its own."""
_ROW_KEYS = {
    *(field.name for row in (ProviderRow, catalog.Model) for field in fields(row) if field.name not in _OF_THE_ROW),
    *(key for key in PRICE_KEYS | deployment_rows._KEYS if key not in ("image_usd", "long_prompt", "service_tiers")),
}


@pytest.mark.parametrize("key", sorted(_ROW_KEYS))
def test_every_key_of_the_catalog_is_documented(key: str) -> None:
    documented = {
        name for row in PRICING.splitlines() if row.startswith("| `") for name in row.split("|")[1].split("`")
    }
    assert key in documented


def catalogs() -> list[str]:
    """The examples of rows that stand for themselves."""
    blocks = re.findall(r"^```toml\n(.*?)^```", PROVIDERS, re.MULTILINE | re.DOTALL)
    return [block for block in blocks if "[providers." in block]


@pytest.mark.parametrize("block", catalogs(), ids=lambda block: re.findall(r"\[providers\.(.*?)\]", block)[-1])
def test_rows_in_the_docs_load(block: str, tmp_path: Path) -> None:
    file = tmp_path / "pricing.toml"
    file.write_text(block if "version" in block.partition("[")[0] else f'version = "1"\n{block}')
    assert load_catalog(file).providers


# The table of endpoints and providers


@cache
def served_by() -> dict[str, dict[str, list[str]]]:
    """By path and column, the numbers of the tests that show it."""
    section = README.partition("\n## Providers\n")[2].partition("\n<details>")[0]
    head, _, *rows = [
        [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if line.startswith("|")
    ]
    return {row[0]: {column: cell.split() for column, cell in zip(head[1:], row[1:], strict=True)} for row in rows}


@cache
def evidence() -> dict[str, str]:
    section = README.partition("\n<details>")[2].partition("</details>")[0]
    return dict(re.findall(r"^\| (\d+) \| `([^`]+)` \|$", section, re.MULTILINE))


def test_the_table_has_every_endpoint_and_dialect() -> None:
    hot = {endpoint.path for endpoint in (*_ENDPOINTS, *_IMAGE_ENDPOINTS, Responses)}
    assert served_by().keys() == hot | {"/v1/conversations"}
    (columns,) = {tuple(row) for row in served_by().values()}
    assert set(columns) == {*WORDS, "bridged over chat"}


def test_every_number_in_the_table_is_a_test_and_every_test_is_in_the_table() -> None:
    numbers = [number for row in served_by().values() for cell in row.values() for number in cell]
    assert set(numbers) == set(evidence())
    assert len(set(evidence().values())) == len(evidence())


@pytest.mark.parametrize("name", sorted(set(evidence().values())))
def test_every_test_the_table_names_exists(name: str) -> None:
    path, _, function = name.partition("::")
    assert function in {
        node.name for node in nodes_of(ROOT / path) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_every_client_has_its_tests_and_every_file_of_tests_its_client() -> None:
    clients = README.partition("| client | tests |")[2].partition("\n\n")[0]
    told = {name.rpartition("/")[2] for name in re.findall(r"`([a-z_/]+\.py)`", clients)}
    assert told | {"test_environments.py"} == {path.name for path in (ROOT / "tests" / "clients").glob("test_*.py")}


def test_every_page_and_anchor_that_is_linked_to_exists() -> None:
    pages = {path: path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
    missing = []
    for page, text in pages.items():
        for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", text):
            path = (page.parent / target).resolve() if target else page
            if "://" not in target and not (path.exists() and (not anchor or anchor in anchors(path.read_text()))):
                missing.append((page.name, target, anchor))
    assert not missing


def anchors(text: str) -> set[str]:
    """Of a page's headings, as they are made from the words in them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
