"""Service keys: an app with thousands of creators needs one key, and no other key can call in somebody else's name."""

import itertools
from typing import Any

import pytest

from tests.rig.client import Answer, exchange, request_bytes
from tests.rig.gateway import Gateway, Key, chat_body
from tests.rig.policy_world import (
    USD,
    at_once,
    call,
    chat_request,
    grant,
    limited,
    paint,
    paints,
    says,
    shown_limit,
    split,
    start,
)
from tests.rig.upstream import Upstream

_numbers = itertools.count(1)


def newcomer() -> str:
    return f"customer-{next(_numbers)}@app.test"


def service_key(gateway: Gateway, **fields: Any) -> Key:
    return gateway.new_key(gateway.new_creator("base"), scopes=["act_for"], **fields)


def named(creator: str) -> list[tuple[str, str]]:
    return [("x-gateway-creator", creator)]


async def named_call(gateway: Gateway, upstream: Upstream, key: Key, creator: str, **fields: object) -> Answer:
    return await call(gateway, key, says(upstream, 1), named(creator), model="cent", max_tokens=1, **fields)


@pytest.mark.parametrize("by", ["header", "user"])
async def test_the_named_creator_is_whose_call_it_is(policies: Gateway, upstream: Upstream, by: str) -> None:
    service, other = service_key(policies), limited(policies)
    headers = named(other.creator) if by == "header" else []
    user = None if by == "header" else other.creator
    answer = await call(policies, service, says(upstream, 2), headers, model="dollar", max_tokens=2, user=user)
    assert answer.status == 200, answer
    (entry,) = policies.entries(creator=other.creator)
    assert (entry["creator"], entry["account_id"], entry["key_id"]) == (other.creator, other.creator, service.id)
    assert entry["cost_nano_usd"] == 2 * USD
    assert policies.entries(creator=service.creator) == []
    assert (await shown_limit(policies, other, "quota_usd_per_month"))["used"] == 2 * USD
    assert (await shown_limit(policies, service, "quota_usd_per_month"))["used"] == 0


async def test_the_header_goes_before_the_user(policies: Gateway, upstream: Upstream) -> None:
    service, first, second = service_key(policies), limited(policies), limited(policies)
    assert (await named_call(policies, upstream, service, first.creator, user=second.creator)).status == 200
    assert len(policies.entries(creator=first.creator)) == 1
    assert policies.entries(creator=second.creator) == []


async def test_without_a_name_the_call_is_the_service_keys_own(policies: Gateway, upstream: Upstream) -> None:
    service = service_key(policies)
    assert (await policies.chat(service, says(upstream, 1), model="cent", max_tokens=1)).status == 200
    assert len(policies.entries(creator=service.creator)) == 1


@pytest.mark.parametrize("by", ["header", "user"])
async def test_an_unknown_creator_comes_along_on_the_keys_default_plan(
    policies: Gateway, upstream: Upstream, by: str
) -> None:
    service, name = service_key(policies, default_plan="small"), newcomer()
    headers = named(name) if by == "header" else []
    user = None if by == "header" else name
    answer = await call(policies, service, says(upstream, 1), headers, model="cent", max_tokens=1, user=user)
    assert answer.status == 200, answer
    assert answer.header("x-ratelimit-limit-requests") == "5"
    assert policies.admin_json("GET", f"/admin/creators/{name}")["plan"] == "small"
    assert [entry["key_id"] for entry in policies.entries(creator=name)] == [service.id]


async def test_an_unknown_creator_is_refused_where_the_key_has_no_default_plan(
    policies: Gateway, upstream: Upstream
) -> None:
    service, name, script = service_key(policies), newcomer(), says(upstream, 1)
    for headers, user in ((named(name), None), ([], name)):
        refused = await call(policies, service, script, headers, model="cent", max_tokens=1, user=user)
        assert (refused.status, refused.error["code"]) == (403, "creator_unknown")
    assert script.requests == []
    assert policies.admin("GET", f"/admin/creators/{name}").status_code == 404
    policies.admin_json("POST", "/admin/creators", json={"id": name, "plan": "base"})
    assert (await named_call(policies, upstream, service, name)).status == 200, "known from the next call on"


async def test_a_key_without_the_scope_cannot_name_anybody(policies: Gateway, upstream: Upstream) -> None:
    plain, other, script = limited(policies), limited(policies), says(upstream, 1)
    for name in (other.creator, newcomer()):
        refused = await call(policies, plain, script, named(name), model="cent", max_tokens=1)
        assert (refused.status, refused.error["code"]) == (403, "act_for_not_allowed")
    assert script.requests == []
    told = await call(policies, plain, script, model="cent", max_tokens=1, user=other.creator)
    assert told.status == 200
    assert script.request.json["user"] == other.creator, "for such a key it is OpenAI's field and nothing else"
    assert len(policies.entries(creator=plain.creator)) == 1
    assert policies.entries(creator=other.creator) == []
    assert (await call(policies, plain, script, named(plain.creator), model="cent", max_tokens=1)).status == 200


async def test_asking_about_a_creator_nobody_knows_brings_nobody_along(policies: Gateway) -> None:
    """An estimate spends nothing and changes nothing; a typing error in a name is not a creator."""
    service, name = service_key(policies, default_plan="small"), newcomer()
    body = chat_body(None, model="cent", max_tokens=1)
    await policies.post(service, body, named(name), "/v1/estimate")
    assert policies.admin("GET", f"/admin/creators/{name}").status_code == 404
    await exchange(policies.port, request_bytes("GET", "/v1/me", key=service.key, headers=named(name)))
    assert policies.admin("GET", f"/admin/creators/{name}").status_code == 404


@pytest.mark.parametrize("name", ["", "a b", "../etc", "x" * 129, "semi;colon", "k/1"])
async def test_a_name_that_cannot_be_a_creators_is_refused(policies: Gateway, upstream: Upstream, name: str) -> None:
    service, script = service_key(policies, default_plan="small"), says(upstream, 1)
    answer = await call(policies, service, script, named(name), model="cent", max_tokens=1)
    assert answer.status == 400
    by_user = await call(policies, service, script, model="cent", max_tokens=1, user=name)
    assert by_user.status == 400
    assert script.requests == []


async def test_a_creator_named_twice_or_by_no_text_is_refused(policies: Gateway, upstream: Upstream) -> None:
    service, script = service_key(policies, default_plan="small"), says(upstream, 1)
    twice = named(newcomer()) + named(newcomer())
    assert (await call(policies, service, script, twice, model="cent", max_tokens=1)).status == 400
    assert (await call(policies, service, script, model="cent", max_tokens=1, user=7)).status == 400
    assert script.requests == []


async def test_a_creator_who_is_switched_off_or_deleted_is_nobodys_to_name(
    policies: Gateway, upstream: Upstream
) -> None:
    service, off, gone = service_key(policies, default_plan="small"), limited(policies), limited(policies)
    for key in (off, gone):
        assert (await named_call(policies, upstream, service, key.creator)).status == 200
    policies.admin_json("PATCH", f"/admin/creators/{off.creator}", json={"is_active": False})
    policies.admin_json("DELETE", f"/admin/creators/{gone.creator}")
    for key in (off, gone):
        refused = await named_call(policies, upstream, service, key.creator)
        assert (refused.status, refused.error["code"]) == (403, "creator_inactive")


# Limits


async def test_each_creator_has_limits_of_its_own_in_the_crowd(policies: Gateway, upstream: Upstream) -> None:
    """Three newcomers on a plan with five requests an hour, 64 calls at once."""
    service, script = service_key(policies, default_plan="small"), says(upstream, 1)
    names = [newcomer() for _ in range(3)]
    requests = [chat_request(service, script, named(name), model="cent", max_tokens=1) for name in names]
    calls = [task for request in requests for task in start(policies, request, 22)]
    admitted, _ = split([await task for task in calls])
    assert len(admitted) == len(script.requests) == 15
    assert [len(policies.entries(creator=name)) for name in names] == [5, 5, 5]


async def test_the_service_keys_own_limit_is_counted_over_all_its_creators(
    policies: Gateway, upstream: Upstream
) -> None:
    service = service_key(policies, default_plan="large", overrides={"requests_per_minute": 8})
    names = [newcomer() for _ in range(4)]
    script = says(upstream, 1)
    answers: list[Answer] = []
    for name in names:
        request = chat_request(service, script, named(name), model="cent", max_tokens=1)
        answers += await at_once(policies, request, 4)
    admitted, refused = split(answers)
    assert (len(admitted), len(script.requests)) == (8, 8)
    assert {answer.error["metadata"]["name"] for answer in refused} == {"key_requests_per_minute"}


async def test_a_named_creator_pays_with_its_own_credits(policies: Gateway, upstream: Upstream) -> None:
    service, other = service_key(policies), limited(policies)
    grant(policies, service, 10)
    grant(policies, other, 2)
    script = paints(upstream)
    assert (await paint(policies, service, script, named(other.creator))).header("x-gateway-payer") == "credits"
    refused = await paint(policies, service, script, named(other.creator))
    assert (refused.status, refused.error["code"]) == (429, "insufficient_quota")
    assert (await shown_limit(policies, service, "credits"))["used"] == 0


async def test_what_the_service_key_may_not_use_its_creators_may_not_use_through_it(
    policies: Gateway, upstream: Upstream
) -> None:
    service, other = service_key(policies, models=["cent"]), limited(policies)
    script = says(upstream, 1)
    refused = await call(policies, service, script, named(other.creator), model="dollar", max_tokens=1)
    assert (refused.status, refused.error["code"]) == (403, "model_not_allowed")
    assert (await named_call(policies, upstream, service, other.creator)).status == 200
