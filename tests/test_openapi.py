"""`/openapi.json` says what the program does: every route, every parameter, roles and codes as they are enforced."""

import json
import re
from collections.abc import AsyncIterator, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from starlette.routing import Route

from gateway.app import MODEL_PATHS, public_routes
from gateway.endpoints.admin.permissions import PERMISSIONS
from gateway.endpoints.docs import is_docs_path
from gateway.estimating import READERS
from gateway.openapi import openapi_document, operations
from gateway.openapi.shapes import Operation
from tests.dashboard.world import Visitor, World, opened_dashboard

ROOT = Path(__file__).parents[1]
META_SCHEMA = files("openapi_spec_validator") / "resources" / "schemas" / "v3.1" / "schema.json"
"""The official one of 2022-10-07."""
DOCUMENT = openapi_document()
IDS = {
    "id": "ada",
    "name": "talk",
    "request_id": "req_1",
    "response_id": "resp_1",
    "conversation_id": "conv_1",
    "item_id": "msg_1",
    "month": "2026-04",
    "plan": "open",
    "creator": "ada",
}


WORDS = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/responses": "responses",
    "/v1/messages": "messages",
    "/v1/embeddings": "embeddings",
    "/v1/moderations": "moderations",
    "/v1/images/generations": "images",
    "/v1/audio/speech": "speech",
}
MISSING_HERE = {
    *("model_not_found", "key_not_found", "not_found", "plan_unknown", "package_unknown", "creator_not_found"),
}
ELSEWHERE = {
    *(
        "admins_only",
        "creators_only",
        "cross_origin",
        "sign_in_limited",
        "invalid_request",
        "invalid_host",
        "headers_too_large",
        "gateway_unreachable",
    ),
}
"""Codes that no path of the API answers with: pages, the server below HTTP, the proxy in front."""


def routes() -> set[tuple[str, str]]:
    """Method and path of whatever is served and no page."""
    found = {("POST", path) for path in MODEL_PATHS}
    for route in public_routes():
        assert isinstance(route, Route)
        path = route.path.replace(":path}", "}")
        if not path.startswith("/dashboard") and (path == "/openapi.json" or not is_docs_path(path)):
            found |= {(method, path) for method in route.methods or () if method != "HEAD"}
    return found


def named(operation: Operation) -> str:
    return f"{operation.method} {operation.path}"


def documented_codes() -> set[tuple[int, str]]:
    """Status and code of the README's table."""
    table = (ROOT / "README.md").read_text().partition("\n## Errors\n")[2].partition("\n## ")[0]
    assert "`item_not_found` is 400 for a reference in the input" in table
    return {(400, "item_not_found")} | {
        (int(status), code)
        for status, codes in re.findall(r"^\| (\d{3}) \| ([^|]+) \|", table, re.MULTILINE)
        for code in re.findall(r"`(\w+)`", codes)
    }


def schemas(value: Any) -> Iterator[dict[str, Any]]:
    """Every schema of the document, wherever it stands."""
    if isinstance(value, dict):
        yield from (each for name, each in value.items() if name == "schema")
        for each in value.values():
            yield from schemas(each)
    elif isinstance(value, list):
        for each in value:
            yield from schemas(each)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with opened_dashboard(tmp_path, signs_in=False) as opened:
        yield opened


# The document


def test_it_is_valid_by_the_official_schema() -> None:
    validator = jsonschema_rs.validator_for(json.loads(META_SCHEMA.read_text()))
    assert [error.message for error in validator.iter_errors(json.loads(json.dumps(DOCUMENT)))] == []


def test_the_official_schema_would_have_found_a_fault() -> None:
    validator = jsonschema_rs.validator_for(json.loads(META_SCHEMA.read_text()))
    assert not validator.is_valid({**json.loads(json.dumps(DOCUMENT)), "paths": {"no-slash": {}}})


def test_every_schema_in_it_is_one() -> None:
    components = json.loads(json.dumps(DOCUMENT["components"]))
    found = [*schemas(DOCUMENT["paths"]), *components["schemas"].values()]
    assert len(found) > 200
    for schema in found:
        jsonschema_rs.validator_for({**schema, "components": components})


def test_ids_of_operations_are_unique() -> None:
    ids = [each["operationId"] for methods in DOCUMENT["paths"].values() for each in methods.values()]
    assert len(set(ids)) == len(ids) == len(operations())


# Routes, roles, codes


def test_every_route_is_described_and_no_other() -> None:
    described = [(each.method, each.path) for each in operations()]
    assert set(described) == routes()
    assert len(described) == len(set(described))


@pytest.mark.parametrize("operation", operations(), ids=named)
def test_every_operation_says_what_it_does_and_whom_it_is_for(operation: Operation) -> None:
    assert len(operation.summary) > 5
    assert not operation.summary.endswith(".")
    assert operation.description.endswith(".")
    assert operation.answer.description.endswith(".")
    expected = {"/v1": {"virtualKey", "virtualKeyHeader"}, "/admin": {"adminKey"}}
    start = "/" + operation.path.split("/")[1]
    assert set(operation.security) == expected.get(start, set())
    assert all(each["description"] for each in operation.parameters)


def test_roles_are_those_that_are_enforced() -> None:
    allowed = {(method, path.replace(":path}", "}")): roles for (method, path), roles in PERMISSIONS.items()}
    for operation in operations():
        if operation.path.startswith("/admin"):
            assert set(operation.roles) == {"owner", *allowed.get((operation.method, operation.path), ())}
        else:
            assert operation.roles == ()


def test_codes_are_the_documented_ones_with_their_status() -> None:
    told = {code for each in operations() for code in each.codes if code[1]}
    assert told <= documented_codes()


def test_no_documented_code_belongs_to_no_path() -> None:
    told = {code for each in operations() for code in each.codes}
    assert {code for _, code in documented_codes() - told} == ELSEWHERE


# What is said, against what is done


def filled(operation: Operation) -> str:
    return re.sub(r"\{(\w+)\}", lambda name: IDS[name[1]], operation.path)


async def asked(world: World, visitor: Visitor, operation: Operation, query: str = "") -> Any:
    key = world.admin_keys["owner"] if operation.security == ("adminKey",) else world.keys["ada"]
    return await visitor.api(operation.method, f"{filled(operation)}{query}", key)


async def test_every_parameter_a_handler_knows_is_described(world: World) -> None:
    """A name nobody knows is refused with the list of those that are known: that list is the description's."""
    visitor = await world.stranger()
    compared = set()
    for operation in operations():
        if operation.method in ("PATCH", "POST") and operation.path != "/v1/estimate":
            continue
        if not operation.security:
            continue
        answer = await asked(world, visitor, operation, "?nobody_knows_this=1")
        told = {each["name"] for each in operation.parameters if each["in"] == "query"}
        if "application/json" not in answer.headers.get("content-type", ""):
            continue
        message = (answer.json().get("error") or {}).get("message", "")
        if "is not known here; these are:" in message:
            known = message.partition("these are: ")[2].rstrip(".")
            assert told == {name for name in known.split(", ") if name}, named(operation)
            compared.add(operation.path)
    assert {"/v1/me/calls", "/v1/me/usage", "/v1/estimate", "/admin/ledger", "/admin/costs", "/admin/audit"} <= compared
    assert len(compared) >= 20


async def test_no_described_parameter_is_unknown_to_its_handler(world: World) -> None:
    visitor = await world.stranger()
    tried = 0
    for operation in operations():
        for parameter in operation.parameters:
            if parameter["in"] != "query" or not operation.security or operation.method != "GET":
                continue
            answer = await asked(world, visitor, operation, f"?{parameter['name']}=")
            code = answer.json()["error"]["code"] if answer.status_code >= 400 else ""
            assert code not in ("unknown_parameter", "unknown_field"), (named(operation), parameter["name"])
            tried += 1
    assert tried > 60


async def test_answers_are_of_the_described_shape(world: World) -> None:
    """Every question that can be asked without a body, of a gateway with calls in its books."""
    visitor = await world.stranger()
    request_id = world.calls[0].request_id
    components = json.loads(json.dumps(DOCUMENT["components"]))
    checked = set()
    needed = {"/admin/costs": "?group_by=day,model", "/admin/charges": "?month=2026-05"}
    for operation in operations():
        if operation.method != "GET" or operation.answer.types[0] != "application/json":
            continue
        path = filled(operation).replace(IDS["request_id"], request_id)
        key = world.admin_keys["owner"] if operation.security == ("adminKey",) else world.keys["ada"]
        answer = await visitor.api("GET", f"{path}{needed.get(operation.path, '')}", key)
        if answer.status_code == 200:
            schema = {**operation.answer.schema, "components": components}
            faults = [error.message for error in jsonschema_rs.validator_for(schema).iter_errors(answer.json())]
            assert faults == [], named(operation)
            checked.add(operation.path)
        else:
            error = {**components["schemas"]["Error"], "components": components}
            assert jsonschema_rs.is_valid(error, answer.json())
            code = (answer.status_code, answer.json()["error"]["code"])
            assert code in operation.codes, named(operation)
    assert {"/v1/me", "/v1/me/calls", "/admin/ledger", "/admin/creators/{id}", "/health/ready"} <= checked
    assert len(checked) >= 35


async def test_entries_and_calls_have_exactly_the_described_fields(world: World) -> None:
    visitor = await world.stranger()
    entry = (await visitor.api("GET", "/admin/ledger", world.admin_keys["owner"])).json()["data"][0]
    call = (await visitor.api("GET", "/v1/me/calls", world.keys["ada"])).json()["data"][0]
    for name, shown in (("Entry", entry), ("Call", call)):
        assert list(DOCUMENT["components"]["schemas"][name]["properties"]) == list(shown)


async def test_examples_are_taken(world: World) -> None:
    """Not refused for what is in them: bodies of calls are read, everything else is asked. Models and keys of the examples
    are those of a packaged gateway, and not known to this one."""
    visitor = await world.stranger()
    store = world.services.response_store
    tried = 0
    for operation in operations():
        if operation.example is None:
            continue
        tried += 1
        if operation.path in MODEL_PATHS:
            READERS[WORDS[operation.path]](json.dumps(operation.example).encode(), store)
            continue
        key = world.admin_keys["owner"] if operation.security == ("adminKey",) else world.keys["ada"]
        answer = await visitor.api(operation.method, filled(operation), key, json=operation.example)
        if answer.status_code >= 400:
            error = answer.json()["error"]
            code = error.get("code") or error["details"]["error_code"]
            assert code in MISSING_HERE, (named(operation), answer.text)
        else:
            assert answer.status_code == operation.answer.status, named(operation)
    assert tried > 20
