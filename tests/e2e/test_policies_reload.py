"""Plans read again while the gateway runs; a gateway that only observes; who may call what from where."""

import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.rig.gateway import Gateway, Key
from tests.rig.policy_world import (
    CENT,
    MODELS,
    PLANS,
    USD,
    assert_books_agree,
    at_once,
    call,
    chat_request,
    grant,
    limited,
    me,
    paint,
    paints,
    policy_gateway,
    says,
    served,
    shown_limit,
    split,
)
from tests.rig.upstream import Upstream
from tests.rig.waiting import soon

Write = Callable[[str, str], None]


@pytest.fixture(scope="module")
def changing(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    yield from served(policy_gateway(tmp_path_factory.mktemp("changing"), upstream))


@pytest.fixture
def write(changing: Gateway) -> Iterator[Write]:
    """Changes a plan in the file; afterwards the file is what it was."""

    def replace(old: str, new: str) -> None:
        assert old in PLANS
        plans_file(changing).write_text(PLANS.replace(old, new))

    yield replace
    plans_file(changing).write_text(PLANS)
    changing.admin_json("POST", "/admin/reload")


def plans_file(gateway: Gateway) -> Path:
    return gateway.folder / "plans.toml"


async def cheap(gateway: Gateway, upstream: Upstream, key: Key) -> int:
    return (await gateway.chat(key, says(upstream, 1), model="cent", max_tokens=1)).status


# Plans


async def test_a_changed_plan_counts_on_the_next_call_and_what_was_used_stays_used(
    changing: Gateway, upstream: Upstream, write: Write
) -> None:
    key = changing.new_key(plan="small")
    script = says(upstream, 1)
    request = chat_request(key, script, model="cent", max_tokens=1)
    assert len(split(await at_once(changing, request, 20))[0]) == 5
    write("requests_per_hour = 5\n", "requests_per_hour = 12\n")
    assert len(split(await at_once(changing, request, 5))[0]) == 0, "the file alone changes nothing"
    told = changing.admin_json("POST", "/admin/reload")
    assert told["plans_changed"] == ["small"]
    assert len(split(await at_once(changing, request, 20))[0]) == 7
    assert (await shown_limit(changing, key, "requests_per_hour"))["limit"] == 12
    write("requests_per_hour = 5\n", "requests_per_hour = 3\n")
    changing.admin_json("POST", "/admin/reload")
    assert await cheap(changing, upstream, key) == 429
    shown = await shown_limit(changing, key, "requests_per_hour")
    assert (shown["limit"], shown["used"], shown["remaining"]) == (3, 12, 0)
    await assert_books_agree(changing, key, admitted=12)


async def test_a_hangup_reads_the_plans_again(changing: Gateway, upstream: Upstream, write: Write) -> None:
    key = changing.new_key(plan="small")
    assert [await cheap(changing, upstream, key) for _ in range(6)] == [200] * 5 + [429]
    write("requests_per_hour = 5\n", "requests_per_hour = 6\n")
    assert changing.process is not None
    changing.process.send_signal(signal.SIGHUP)

    def limit_of_plan() -> bool:
        plans = changing.admin_json("GET", "/admin/plans")["data"]
        return any(plan["name"] == "small" and plan["requests_per_hour"] == 6 for plan in plans)

    await soon(limit_of_plan, "the plan as the file has it now")
    assert [await cheap(changing, upstream, key) for _ in range(2)] == [200, 429]


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        pytest.param("requests_per_hour = 5\n", "requests_per_hour = -5\n", "requests_per_hour", id="negative"),
        pytest.param("requests_per_hour = 5\n", "request_per_hour = 9\n", "request_per_hour", id="misspelt"),
        pytest.param("requests_per_hour = 5\n", "requests_per_hour = \n", "plans.toml", id="no TOML"),
        pytest.param("[plans.small]", "[plans.tiny]", "small", id="a plan that creators are on is gone"),
    ],
)
@pytest.mark.parametrize("how", ["admin", "signal"])
async def test_a_bad_file_keeps_the_old_plans_and_says_why(
    changing: Gateway, upstream: Upstream, write: Write, old: str, new: str, named: str, how: str
) -> None:
    key = changing.new_key(plan="small")
    write(old, new)
    if how == "admin":
        refused = changing.admin("POST", "/admin/reload")
        assert refused.status_code == 422
        assert refused.json()["error"]["code"] == "config_invalid"
        assert named in refused.json()["error"]["message"]
    else:
        told = len(changing.log_lines("reload_refused"))
        assert changing.process is not None
        changing.process.send_signal(signal.SIGHUP)
        await soon(lambda: len(changing.log_lines("reload_refused")) > told, "the refusal in the log")
        assert named in changing.log_lines("reload_refused")[-1]["reason"]
    assert [await cheap(changing, upstream, key) for _ in range(6)] == [200] * 5 + [429]


async def test_another_plan_counts_on_the_next_call_in_the_crowd(changing: Gateway, upstream: Upstream) -> None:
    key = changing.new_key(plan="small")
    script = says(upstream, 1)
    request = chat_request(key, script, model="cent", max_tokens=1)
    assert len(split(await at_once(changing, request, 64))[0]) == 5
    changing.admin_json("PATCH", f"/admin/creators/{key.creator}", json={"plan": "large"})
    assert len(split(await at_once(changing, request, 128))[0]) == 95
    changing.admin_json("PATCH", f"/admin/creators/{key.creator}", json={"plan": "small"})
    assert await cheap(changing, upstream, key) == 429
    assert (await me(changing, key))["plan"]["name"] == "small"
    await assert_books_agree(changing, key, admitted=100)


async def test_money_used_on_one_plan_is_used_on_the_next(changing: Gateway, upstream: Upstream) -> None:
    key = changing.new_key(plan="large")
    assert (await changing.chat(key, says(upstream, 5), model="dollar", max_tokens=5)).status == 200
    changing.admin_json("PATCH", f"/admin/creators/{key.creator}", json={"plan": "small"})
    refused = await changing.chat(key, says(upstream, 1), model="cent", max_tokens=1)
    assert (refused.status, refused.error["code"]) == (429, "insufficient_quota")


async def test_a_changed_price_counts_on_the_next_call(changing: Gateway, upstream: Upstream) -> None:
    pricing = changing.folder / "pricing.toml"
    before = pricing.read_text()
    assert MODELS in before
    key = limited(changing)
    pricing.write_text(before.replace("output_usd_per_mtok = 10000\n", "output_usd_per_mtok = 20000\n"))
    try:
        told = changing.admin_json("POST", "/admin/reload")
        assert "cent" in told["models_repriced"]
        assert await cheap(changing, upstream, key) == 200
    finally:
        pricing.write_text(before)
        changing.admin_json("POST", "/admin/reload")
    assert await cheap(changing, upstream, key) == 200
    entries = await assert_books_agree(changing, key, admitted=2)
    assert [entry["cost_nano_usd"] for entry in entries] == [CENT, 2 * CENT]


# Observing


@pytest.fixture(scope="module")
def observing(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    gateway = policy_gateway(tmp_path_factory.mktemp("observing"), upstream, POLICY_MODE="observe")
    yield from served(gateway)


@pytest.mark.parametrize(
    ("overrides", "fields", "would", "limit"),
    [
        pytest.param({"requests_per_hour": 3}, {"model": "cent"}, "refuse", "requests_per_hour", id="requests"),
        pytest.param({"tokens_per_minute": 60}, {"model": "cent"}, "refuse", "tokens_per_minute", id="tokens"),
        pytest.param({"quota_usd_per_month": 3}, {"model": "dollar"}, "refuse", "quota_usd_per_month", id="quota"),
        pytest.param({"budget_usd_per_month": 3}, {"model": "pair"}, "downgrade", "budget_usd_per_month", id="budget"),
        pytest.param(
            {"budget_usd_per_month": 3, "when_budget_reached": "deny"},
            {"model": "dollar"},
            "refuse",
            "budget_hard_usd_per_month",
            id="hard budget",
        ),
    ],
)
async def test_who_only_observes_refuses_and_downgrades_nothing_and_books_what_happened(
    observing: Gateway, upstream: Upstream, overrides: dict[str, Any], fields: dict[str, Any], would: str, limit: str
) -> None:
    key = limited(observing, **overrides)
    script = says(upstream, 1)
    answers = await at_once(observing, chat_request(key, script, max_tokens=1, **fields), 20)
    assert {answer.status for answer in answers} == {200}
    assert {answer.header("x-gateway-model") for answer in answers} == {fields["model"]}
    assert {answer.header("x-gateway-downgraded-from") for answer in answers} == {None}
    entries = await assert_books_agree(observing, key, admitted=20)
    cost = CENT if fields["model"] == "cent" else USD
    assert sum(entry["cost_nano_usd"] for entry in entries) == 20 * cost
    overruled = [line for line in observing.log_lines("policy_overruled") if line["creator"] == key.creator]
    assert overruled
    assert {line["would"] for line in overruled} == {would}
    assert all(limit in line["limits"] for line in overruled)
    ids = {line["request_id"] for line in overruled}
    assert ids <= {entry["request_id"] for entry in entries}


async def test_an_observed_image_that_nobody_could_pay_is_painted_and_booked(
    observing: Gateway, upstream: Upstream
) -> None:
    key = limited(observing, free_images_per_day=1)
    grant(observing, key, 2)
    answers = [await paint(observing, key, paints(upstream)) for _ in range(4)]
    assert [answer.status for answer in answers] == [200] * 4
    entries = await assert_books_agree(observing, key, admitted=4)
    assert sum(entry["cost_nano_usd"] for entry in entries) == 16 * CENT
    assert sum(entry["payer_amount"] for entry in entries if entry["payer"] == "free_images") >= 1


async def test_what_an_observed_call_may_not_be_clamped_to_is_sent_as_it_came(
    observing: Gateway, upstream: Upstream
) -> None:
    """Observing changes nothing: not the length of an answer either."""
    key = limited(observing, quota_usd_per_month=1)
    script = says(upstream, 1)
    answer = await observing.chat(key, script, model="endless")
    assert answer.status == 200
    assert answer.header("x-gateway-clamped-max-tokens") is None
    assert "max_completion_tokens" not in script.request.json


# Who, what, from where


@pytest.mark.parametrize(
    ("overrides", "code"),
    [
        pytest.param({"models": ["dollar"]}, "model_not_allowed", id="models"),
        pytest.param({"tiers": ["premium", "standard"]}, "tier_not_allowed", id="tiers"),
        pytest.param({"endpoints": ["images"]}, "endpoint_not_allowed", id="endpoints"),
        pytest.param({"addresses": ["192.0.2.0/24"]}, "address_not_allowed", id="addresses"),
    ],
)
@pytest.mark.parametrize("whose", ["creator", "key"])
async def test_what_is_not_allowed_is_403_takes_nothing_and_reaches_nobody(
    policies: Gateway, upstream: Upstream, overrides: dict[str, Any], code: str, whose: str
) -> None:
    if whose == "creator":
        key = limited(policies, **overrides)
    else:
        key = policies.new_key(policies.new_creator("base"), overrides=overrides)
    script = says(upstream, 1)
    refused = await policies.chat(key, script, model="cent", max_tokens=1)
    assert (refused.status, refused.error["code"]) == (403, code)
    assert refused.error["type"] == "permission_error"
    assert script.requests == []
    if code == "address_not_allowed":
        # Reading is refused from there, too, so the ledger is asked.
        assert policies.entries(creator=key.creator) == []
    else:
        await assert_books_agree(policies, key, admitted=0)
    free = policies.new_key(key.creator) if whose == "key" else limited(policies)
    assert await cheap(policies, upstream, free) == 200


async def test_images_are_an_endpoint_of_their_own(policies: Gateway, upstream: Upstream) -> None:
    key = limited(policies, endpoints=["chat"])
    script = paints(upstream)
    refused = await paint(policies, key, script, model="flux-schnell")
    assert (refused.status, refused.error["code"]) == (403, "endpoint_not_allowed")
    assert script.requests == []
    assert await cheap(policies, upstream, key) == 200


def forwarded(*values: str) -> list[tuple[str, str]]:
    return [("x-forwarded-for", value) for value in values]


SPOOFS = [
    forwarded("192.0.2.7"),
    forwarded("192.0.2.7, 192.0.2.8"),
    [("x-real-ip", "192.0.2.7")],
    [("forwarded", "for=192.0.2.7")],
]


@pytest.mark.parametrize("headers", SPOOFS, ids=["one hop", "two hops", "x-real-ip", "forwarded"])
async def test_a_forwarded_address_is_nothing_where_no_proxy_is_trusted(
    policies: Gateway, upstream: Upstream, headers: list[tuple[str, str]]
) -> None:
    script = says(upstream, 1)
    elsewhere = limited(policies, addresses=["192.0.2.0/24"])
    spoofed = await call(policies, elsewhere, script, headers, model="cent", max_tokens=1)
    assert (spoofed.status, spoofed.error["code"]) == (403, "address_not_allowed")
    here = limited(policies, addresses=["127.0.0.1"])
    assert (await call(policies, here, script, headers, model="cent", max_tokens=1)).status == 200


@pytest.fixture(scope="module")
def behind_a_proxy(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("proxied")
    yield from served(policy_gateway(folder, upstream, TRUSTED_PROXIES="127.0.0.1/32,198.51.100.0/24"))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param(forwarded("192.0.2.7"), 200, id="as the proxy saw it"),
        pytest.param(forwarded("192.0.2.7, 203.0.113.9"), 403, id="invented by the client"),
        pytest.param(forwarded("203.0.113.9, 192.0.2.7"), 200, id="the last one counts"),
        pytest.param(forwarded("192.0.2.7, 198.51.100.3"), 200, id="through two trusted proxies"),
        pytest.param(forwarded("192.0.2.7", "203.0.113.9"), 403, id="invented in a header of its own"),
        pytest.param(forwarded("192.0.2.7, 203.0.113.9, 198.51.100.3"), 403, id="invented before two proxies"),
        pytest.param([], 403, id="the proxy itself"),
        pytest.param(forwarded("nonsense"), 403, id="nonsense"),
        pytest.param([("x-real-ip", "192.0.2.7")], 403, id="another header"),
    ],
)
async def test_a_trusted_proxy_is_believed_as_far_as_it_saw(
    behind_a_proxy: Gateway, upstream: Upstream, headers: list[tuple[str, str]], status: int
) -> None:
    key = limited(behind_a_proxy, addresses=["192.0.2.0/24"])
    answer = await call(behind_a_proxy, key, says(upstream, 1), headers, model="cent", max_tokens=1)
    assert answer.status == status
    if status == 403:
        assert answer.error["code"] == "address_not_allowed"


async def test_expired_and_revoked_keys_are_nobodys(policies: Gateway, upstream: Upstream) -> None:
    creator = policies.new_creator("base")
    brief, lasting = policies.new_key(creator, expires_in_s=1), policies.new_key(creator, expires_in_s=3_600)
    made_at = datetime.now(UTC)
    assert await cheap(policies, upstream, brief) == 200
    revoked = policies.new_key(creator)
    assert await cheap(policies, upstream, revoked) == 200
    policies.admin_json("DELETE", f"/admin/keys/{revoked.id}")
    assert await cheap(policies, upstream, revoked) == 401
    await soon(lambda: datetime.now(UTC) > made_at + timedelta(seconds=1), "the end of the brief key")
    assert await cheap(policies, upstream, brief) == 401
    assert await cheap(policies, upstream, lasting) == 200
