"""What once went wrong where two things meet: a change and a body under way, a tier and a broken stream, a price and a
client that leaves. None of it may come back."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rig import wire
from tests.rig.catalog import estimated_input, estimated_output, provider
from tests.rig.client import Answer, Connection, connect, exchange, request_bytes
from tests.rig.gateway import CHAT, Gateway, Key, bearer, chat_body, prompt
from tests.rig.policy_world import (
    CENT,
    IMAGES,
    MODELS,
    PLANS,
    call,
    chat_model,
    chat_request,
    grant,
    held_back,
    image_body,
    limited,
    me,
    paint,
    paints,
    pictures,
    policy_gateway,
    says,
    served,
    shown_limit,
    start,
    usage_entries,
)
from tests.rig.upstream import Close, Gate, Script, Send, Upstream
from tests.rig.waiting import eventually, soon

ONE_TOKEN = wire.completion(usage=wire.usage(10, 1))
NEVER = [("x-gateway-downgrade", "never")]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
FURTHER_MODELS = "".join(
    [
        chat_model("talk", "10000", credits=3),
        chat_model("patient-talk", "10000", provider="patient", credits=3),
        chat_model("asks-usage", "1000000", tier="premium", downgrade_to="asks-nothing"),
        chat_model("asks-nothing", "10000", tier="economy", provider="rig-never"),
    ]
)
FURTHER_PLANS = """
[plans.shut]
models = ["nothing"]
"""


@pytest.fixture(scope="module")
def mended(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Afterwards its ledger must verify."""
    folder = tmp_path_factory.mktemp("mended")
    models = MODELS + FURTHER_MODELS + provider("patient", upstream.base_url, gone_grace_s=30)
    yield from served(Gateway(folder, upstream, models=models, plans=PLANS + FURTHER_PLANS))


async def spend(gateway: Gateway, upstream: Upstream, key: Key, dollars: int) -> None:
    """On a model that nothing is cheaper than."""
    answer = await gateway.chat(key, says(upstream, dollars), model="dollar", max_tokens=dollars)
    assert answer.status == 200, answer


async def settled(gateway: Gateway, key: Key) -> dict[str, Any]:
    """The only call of the key's creator, once it is booked."""
    entries = await soon(lambda: usage_entries(gateway, key), "a ledger entry")
    assert len(entries) == 1, entries
    return entries[0]


# A body that is still arriving


def revoke(gateway: Gateway, key: Key) -> None:
    gateway.admin_json("DELETE", f"/admin/keys/{key.id}")


def change(gateway: Gateway, key: Key, **fields: object) -> None:
    gateway.admin_json("PATCH", f"/admin/creators/{key.creator}", json=fields)


def delete(gateway: Gateway, key: Key) -> None:
    gateway.admin_json("DELETE", f"/admin/creators/{key.creator}")


CHANGES: list[Any] = [
    pytest.param(revoke, 401, "invalid_api_key", id="key revoked"),
    pytest.param(delete, 401, "invalid_api_key", id="creator deleted"),
    pytest.param(
        lambda gateway, key: change(gateway, key, is_active=False), 401, "invalid_api_key", id="creator deactivated"
    ),
    pytest.param(lambda gateway, key: change(gateway, key, plan="shut"), 403, "model_not_allowed", id="plan changed"),
    pytest.param(
        lambda gateway, key: change(gateway, key, overrides={"quota_usd_per_month": 0}),
        429,
        "insufficient_quota",
        id="overrides changed",
    ),
]


async def arriving(
    gateway: Gateway, key: Key, body: dict[str, object], *headers: tuple[str, str], path: str = CHAT
) -> Connection:
    """A call whose key was accepted and whose body the gateway waits for: it says so by asking for more."""
    data = wire.compact(body)
    lines = [
        f"POST {path} HTTP/1.1",
        "host: gateway.test",
        f"authorization: Bearer {bearer(key)}",
        "content-type: application/json",
        f"content-length: {len(data)}",
        "expect: 100-continue",
        *(f"{name}: {value}" for name, value in headers),
    ]
    connection = await connect(gateway.port)
    await connection.send("\r\n".join(lines).encode() + b"\r\n\r\n" + data[:-10])
    assert await connection.read_head() == 100
    return connection


async def arrived(connection: Connection, body: dict[str, object]) -> Answer:
    """The answer, once the rest of the body was sent."""
    await connection.send(wire.compact(body)[-10:])
    await connection.read_head()
    answer = await connection.read_rest()
    await connection.close()
    return answer


@pytest.mark.parametrize(("happens", "status", "code"), CHANGES)
async def test_what_changes_while_the_body_arrives_counts_for_that_call(
    mended: Gateway, upstream: Upstream, happens: Callable[[Gateway, Key], None], status: int, code: str
) -> None:
    key, script = limited(mended), says(upstream, 1)
    body = chat_body(script, model="cent", max_tokens=1)
    connection = await arriving(mended, key, body)
    happens(mended, key)
    answer = await arrived(connection, body)
    assert (answer.status, answer.error["code"]) == (status, code)
    assert script.requests == []
    assert mended.entries(creator=key.creator) == []
    assert mended.open_holds() == 0


async def test_nothing_changes_for_a_body_that_arrives_undisturbed(mended: Gateway, upstream: Upstream) -> None:
    key, other, script = limited(mended), limited(mended), says(upstream, 1)
    body = chat_body(script, model="cent", max_tokens=1)
    connection = await arriving(mended, key, body)
    revoke(mended, other)
    assert (await arrived(connection, body)).status == 200
    assert (await settled(mended, key))["cost_nano_usd"] == CENT


async def test_a_named_creator_who_is_switched_off_while_the_body_arrives_is_refused(
    mended: Gateway, upstream: Upstream
) -> None:
    service, other = mended.new_key(mended.new_creator("base"), scopes=["act_for"]), limited(mended)
    named = ("x-gateway-creator", other.creator)
    known = await call(mended, service, says(upstream, 1), [named], model="cent", max_tokens=1)
    assert known.status == 200
    script = says(upstream, 1)
    body = chat_body(script, model="cent", max_tokens=1)
    connection = await arriving(mended, service, body, named)
    change(mended, other, is_active=False)
    answer = await arrived(connection, body)
    assert (answer.status, answer.error["code"]) == (403, "creator_inactive")
    assert script.requests == []
    assert len(mended.entries(creator=other.creator)) == 1, "the call before"


async def test_an_address_that_is_allowed_while_the_body_arrives_from_it_is_served(
    mended: Gateway, upstream: Upstream
) -> None:
    key, script = limited(mended), says(upstream, 1)
    body = chat_body(script, model="cent", max_tokens=1)
    connection = await arriving(mended, key, body)
    change(mended, key, overrides={"addresses": ["127.0.0.0/8"]})
    answer = await arrived(connection, body)
    assert answer.status == 200, answer
    assert (await settled(mended, key))["cost_nano_usd"] == CENT


def is_expired(gateway: Gateway, key: Key) -> bool:
    (shown,) = gateway.admin_json("GET", f"/admin/creators/{key.creator}/keys")["data"]
    return bool(shown["status"] == "expired")


async def test_a_key_that_expires_while_the_body_arrives_is_refused(mended: Gateway, upstream: Upstream) -> None:
    key, script = mended.new_key(plan="base", expires_in_s=2), says(upstream, 1)
    body = chat_body(script, model="cent", max_tokens=1)
    connection = await arriving(mended, key, body)
    eventually(lambda: is_expired(mended, key), "the instant the key expires")
    answer = await arrived(connection, body)
    assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
    assert script.requests == []
    assert mended.entries(creator=key.creator) == []
    assert mended.open_holds() == 0


async def test_a_key_that_is_revoked_while_its_question_arrives_is_foretold_nothing(mended: Gateway) -> None:
    key, body = limited(mended), chat_body(None, model="cent", max_tokens=1)
    connection = await arriving(mended, key, body, path="/v1/estimate")
    revoke(mended, key)
    answer = await arrived(connection, body)
    assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")


# What a client that leaves was given


async def test_a_stream_left_before_its_first_word_takes_no_credits(mended: Gateway, upstream: Upstream) -> None:
    key = limited(mended)
    grant(mended, key, 10)
    script = upstream.script(Gate())
    connection = await connect(mended.port)
    await connection.send(chat_request(key, script, model="talk", stream=True))
    await soon(lambda: script.requests, "the call at the provider")
    assert (await shown_limit(mended, key, "credits"))["held"] == 3
    await connection.reset()
    entry = await settled(mended, key)
    assert (entry["outcome"], entry["payer"], entry["payer_amount"]) == ("client_gone", "credits", 0)
    assert (entry["input_tokens"], entry["output_tokens"]) == (estimated_input(prompt(script)), 0)
    assert (await me(mended, key))["credits"]["left"] == 10


async def test_a_stream_left_before_its_first_word_that_ends_all_the_same_takes_no_credits(
    mended: Gateway, upstream: Upstream
) -> None:
    """What the provider really consumed is booked, and nobody pays for words that reached nobody."""
    key, gate = limited(mended), Gate()
    grant(mended, key, 10)
    events = [*wire.text_events("a word"), wire.event(wire.usage_chunk(wire.usage(10, 5))), wire.DONE]
    script = upstream.script(gate, Send(wire.stream_head() + b"".join(map(wire.framed, events)) + wire.LAST_CHUNK))
    connection = await connect(mended.port)
    await connection.send(chat_request(key, script, model="patient-talk", stream=True))
    await soon(lambda: script.requests, "the call at the provider")
    await connection.reset()
    # A whole answer after the client has left: by now the gateway has seen it go.
    assert (await shown_limit(mended, key, "credits"))["held"] == 3
    gate.open()
    entry = await settled(mended, key)
    assert (entry["outcome"], entry["payer"], entry["payer_amount"]) == ("client_gone", "credits", 0)
    assert (entry["usage_source"], entry["output_tokens"], entry["cost_nano_usd"]) == ("provider", 5, 5 * CENT)
    assert (await me(mended, key))["credits"]["left"] == 10


async def test_a_stream_left_after_its_first_word_takes_the_credits(mended: Gateway, upstream: Upstream) -> None:
    key = limited(mended)
    grant(mended, key, 10)
    said = wire.event(wire.chunk("a word "))
    script = upstream.script(Send(wire.stream_head() + wire.framed(said)), Gate())
    connection = await mended.open_stream(key, script, model="talk")
    await connection.read_until(said)
    await connection.reset()
    entry = await settled(mended, key)
    assert (entry["outcome"], entry["payer"], entry["payer_amount"]) == ("client_gone", "credits", 3)
    assert (await me(mended, key))["credits"]["left"] == 7


@pytest.mark.parametrize(
    ("credits", "free", "asked", "payer", "paid"),
    [
        pytest.param(4, 0, 2, "credits", 4, id="credits"),
        pytest.param(0, 2, 2, "free_images", 2, id="free images"),
    ],
)
async def test_nobody_pays_for_more_images_than_were_asked_for(
    mended: Gateway, upstream: Upstream, credits: int, free: int, asked: int, payer: str, paid: int
) -> None:
    """Five come back for two. All of them cost, because the provider may well bill them."""
    key = limited(mended, free_images_per_day=free)
    if credits:
        grant(mended, key, credits)
    answer = await paint(mended, key, upstream.reply(pictures(5)), n=asked)
    assert (answer.status, len(answer.json["data"])) == (200, 5)
    entry = await settled(mended, key)
    assert (entry["payer"], entry["payer_amount"]) == (payer, paid)
    assert (entry["cost_nano_usd"], entry["images"]) == (5 * 4 * CENT, 5)
    assert "more_images" in entry["flags"]
    shown = await shown_limit(mended, key, "free_images_per_day" if free else "credits")
    assert (shown["used"], shown["held"], shown["remaining"]) == (paid, 0, 0)
    assert (await me(mended, key))["credits"]["left"] == 0


# What is foretold


def foretelling(gateway: Gateway, key: Key, body: object) -> Any:
    return gateway.post(key, body, path="/v1/estimate")


async def test_no_number_of_tokens_is_too_large_to_be_foretold(mended: Gateway) -> None:
    body = chat_body(None, model="cent", max_tokens=2**63 - 1, n=128)
    answer = await foretelling(mended, limited(mended), body)
    assert answer.status == 200, answer
    assert answer.json["hold_nano_usd"] == 128 * 1_000 * CENT
    assert answer.json["expected_cost_nano_usd"] == 128 * 1_000 * CENT


async def test_a_bound_far_above_the_models_takes_no_more_tokens_of_a_window_than_the_models(
    mended: Gateway, upstream: Upstream
) -> None:
    script, gate = held_back(upstream, ONE_TOKEN)
    needed = estimated_input(prompt(script)) + 1_000
    key = limited(mended, tokens_per_minute=needed)
    (task,) = start(mended, chat_request(key, script, model="cent", max_tokens=10**12), 1)
    await soon(lambda: script.requests or task.done(), "the call at the provider")
    held = (await shown_limit(mended, key, "tokens_per_minute"))["held"]
    gate.open()
    assert (await task).status == 200
    assert held == needed
    assert script.request.json["max_tokens"] == 1_000


async def test_foretelling_is_one_of_the_calls_in_flight(upstream: Upstream, tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, upstream, settings={"CALLS_MAX": 1}, models=MODELS, plans=PLANS)
    try:
        gateway.start()
        key = limited(gateway)
        script, gate = held_back(upstream, ONE_TOKEN)
        (task,) = start(gateway, chat_request(key, script, model="cent", max_tokens=1), 1)
        await soon(lambda: script.requests, "the call at the provider")
        body = chat_body(None, model="cent", max_tokens=1)
        refused = await foretelling(gateway, key, body)
        assert (refused.status, refused.error["code"]) == (503, "overloaded")
        assert refused.header("retry-after") == "1"
        gate.open()
        assert (await task).status == 200
        answers = [await foretelling(gateway, key, body) for _ in range(2)]
        assert [answer.status for answer in answers] == [200, 200], "a place is free again, also after an estimate"
        broken = await foretelling(gateway, key, b"{")
        assert broken.status == 400
        assert (await gateway.chat(key, says(upstream, 1), model="cent", max_tokens=1)).status == 200
        assert gateway.stop() == 0
    finally:
        gateway.close()


async def test_what_is_owed_at_an_own_price_is_foretold_beside_what_it_costs(
    mended: Gateway, upstream: Upstream
) -> None:
    key = limited(mended, prices={"cent": {"output_usd_per_mtok": 2500}})
    script = says(upstream, 4)
    body = chat_body(script, model="cent", max_tokens=4)
    told = (await foretelling(mended, key, body)).json
    assert (told["hold_usd"], told["charge_max_usd"]) == ("0.04", "0.01")
    assert told["charge_max_nano_usd"] == CENT
    assert (told["price"]["output_usd_per_mtok"], told["charge_price"]["output_usd_per_mtok"]) == ("10000", "2500")
    assert told["charge_price"]["version"].startswith(told["price"]["version"] + "+")
    assert (await mended.post(key, body)).status == 200
    entry = await settled(mended, key)
    assert (entry["cost_nano_usd"], entry["charge_nano_usd"]) == (4 * CENT, CENT)
    assert entry["charge_price_version"] == told["charge_price"]["version"]


async def test_the_price_of_the_very_image_is_foretold(mended: Gateway) -> None:
    key = limited(mended, prices={"dall-e-3": {"image_usd": {"1024x1024/hd": 3}}})
    told = (await foretelling(mended, key, image_body(None, model="dall-e-3", quality="hd", n=2))).json
    assert (told["price"]["variant"], told["price"]["image_usd"]) == ("1024x1024/hd", "10")
    assert told["charge_price"]["image_usd"] == "3"
    assert (told["hold_usd"], told["charge_max_usd"]) == ("20", "6")


@pytest.mark.parametrize(
    ("tier", "rates"),
    [("", ("10", "20")), ("flex", ("5", "10")), ("priority", ("40", "80"))],
    ids=["ordinary", "flex", "priority"],
)
async def test_the_rates_of_the_tier_asked_for_are_foretold(mended: Gateway, tier: str, rates: tuple[str, str]) -> None:
    body = chat_body(None, model="tiered", max_tokens=10, service_tier=tier or None)
    price = (await foretelling(mended, limited(mended), body)).json["price"]
    assert price["variant"] == tier
    assert (price["input_usd_per_mtok"], price["output_usd_per_mtok"]) == rates


# Downgrades


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        pytest.param("dollar", {}, id="nothing cheaper exists"),
        pytest.param("pair", {"tools": TOOLS}, id="nothing cheaper can do it"),
    ],
)
async def test_who_refuses_a_downgrade_that_cannot_be_is_served(
    mended: Gateway, upstream: Upstream, model: str, fields: dict[str, Any]
) -> None:
    key = limited(mended, budget_usd_per_month=2)
    await spend(mended, upstream, key, 2)
    answer = await call(mended, key, says(upstream, 1), NEVER, model=model, max_tokens=1, **fields)
    assert answer.status == 200, answer
    assert answer.header("x-gateway-model") == model
    assert answer.header("x-gateway-downgraded-from") is None
    refused = await call(mended, key, says(upstream, 1), NEVER, model="pair", max_tokens=1)
    assert (refused.status, refused.error["code"]) == (429, "insufficient_quota"), "here there was one to refuse"


async def test_a_downgrade_to_a_provider_that_is_not_asked_for_usage_does_not_ask_it(
    mended: Gateway, upstream: Upstream
) -> None:
    key = limited(mended, budget_usd_per_month=1)
    await spend(mended, upstream, key, 1)
    usage = wire.event(wire.usage_chunk(wire.usage(10, 2)))
    script = upstream.stream(*wire.text_events("a ", "word"), usage, wire.DONE)
    answer = await mended.streamed(key, script, model="asks-usage", max_tokens=5)
    assert (answer.header("x-gateway-model"), answer.header("x-gateway-downgraded-from")) == (
        "asks-nothing",
        "asks-usage",
    )
    assert script.request.json["model"] == "up-asks-nothing"
    assert "stream_options" not in script.request.json
    assert usage in answer.body, "what we did not ask for is the provider's own word, and travels on"
    (entry,) = [entry for entry in usage_entries(mended, key) if entry["is_streaming"]]
    assert (entry["cost_nano_usd"], entry["usage_source"]) == (2 * CENT, "provider")


# What answers that failed still tell


LIMITED = {"requests_per_hour": 50, "tokens_per_minute": 100_000}


def assert_tells_limits(answer: Answer, *, requests_left: int) -> None:
    assert answer.header("x-ratelimit-limit-requests") == "50"
    assert answer.header("x-ratelimit-remaining-requests") == str(requests_left)
    assert answer.header("x-ratelimit-limit-tokens") == "100000"
    assert {"x-ratelimit-reset-requests", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"} <= (
        answer.header_names
    )
    names = [name.lower() for name, _ in answer.headers]
    assert len(names) == len(set(names)), "nothing is said twice"


FAILURES: list[Any] = [
    pytest.param(lambda upstream: upstream.script(Close()), "upstream_died", id="it died"),
    pytest.param(lambda upstream: upstream.reply(b"no JSON"), "upstream_invalid", id="its answer is none"),
    pytest.param(lambda upstream: upstream.reply({"error": {}}, 401), "provider_unavailable", id="it refused us"),
]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("fails", "code"), FAILURES)
async def test_a_provider_that_fails_leaves_the_callers_limits_and_the_model_in_the_answer(
    mended: Gateway, upstream: Upstream, fails: Callable[[Upstream], Script], code: str, stream: bool
) -> None:
    key = limited(mended, **LIMITED)
    answer = await mended.chat(key, fails(upstream), model="cent", max_tokens=1, stream=stream)
    assert (answer.status, answer.error["code"]) == (502, code)
    assert_tells_limits(answer, requests_left=49)
    assert (answer.header("x-gateway-model"), answer.header("x-gateway-provider")) == ("cent", "rig")
    assert (await settled(mended, key))["request_id"] == answer.request_id


async def test_a_failed_call_that_was_downgraded_says_so(mended: Gateway, upstream: Upstream) -> None:
    key = limited(mended, budget_usd_per_month=1)
    await spend(mended, upstream, key, 1)
    answer = await mended.chat(key, upstream.script(Close()), model="pair", max_tokens=1)
    assert (answer.status, answer.header("x-gateway-model")) == (502, "plain")
    assert answer.header("x-gateway-downgraded-from") == "pair"


@pytest.mark.parametrize(
    ("overrides", "fields", "status"),
    [
        pytest.param({"quota_usd_per_month": 1}, {"model": "dollar", "max_tokens": 2}, 429, id="too little money"),
        pytest.param({}, {"model": "cent", "max_tokens": 0}, 400, id="a wrong field"),
        pytest.param({}, {"model": "nobody-knows"}, 404, id="an unknown model"),
        pytest.param({"models": ["dollar"]}, {"model": "cent"}, 403, id="not in the plan"),
        pytest.param({}, {"model": "picture"}, 429, id="no credits"),
    ],
)
async def test_a_refusal_tells_the_limits_of_a_valid_key(
    mended: Gateway, upstream: Upstream, overrides: dict[str, Any], fields: dict[str, Any], status: int
) -> None:
    key = limited(mended, **LIMITED, **overrides)
    if fields["model"] == "picture":
        answer = await paint(mended, key, paints(upstream), **fields)
    else:
        answer = await mended.chat(key, says(upstream, 1), **fields)
    assert answer.status == status, answer
    assert_tells_limits(answer, requests_left=50)


def assert_tells_no_limits(answer: Answer) -> None:
    assert [name for name in answer.header_names if name.startswith("x-ratelimit")] == []


async def test_a_stranger_is_told_no_limits(mended: Gateway) -> None:
    answer = await mended.chat("sk-gw-nobody-nothing", None)
    assert answer.status == 401
    assert_tells_no_limits(answer)


async def test_whose_key_is_revoked_while_the_body_arrives_is_a_stranger(mended: Gateway) -> None:
    key, body = limited(mended, **LIMITED), chat_body(None, model="cent", max_tokens=1)
    connection = await arriving(mended, key, body)
    revoke(mended, key)
    answer = await arrived(connection, body)
    assert answer.status == 401
    assert_tells_no_limits(answer)


async def test_a_refusal_tells_the_limits_as_they_became_while_the_body_arrived(mended: Gateway) -> None:
    key, body = limited(mended, **LIMITED), chat_body(None, model="cent", max_tokens=1)
    connection = await arriving(mended, key, body)
    change(mended, key, overrides={"requests_per_hour": 7, "quota_usd_per_month": 0})
    answer = await arrived(connection, body)
    assert (answer.status, answer.error["code"]) == (429, "insufficient_quota")
    assert answer.header("x-ratelimit-limit-requests") == "7"
    assert answer.header("x-ratelimit-remaining-requests") == "7"
    assert answer.header("x-ratelimit-limit-tokens") is None, "there is none any more"


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/me"), ("GET", "/v1/models"), ("POST", "/v1/estimate")], ids=lambda word: word
)
async def test_answers_that_take_nothing_tell_the_limits(
    mended: Gateway, upstream: Upstream, method: str, path: str
) -> None:
    key = limited(mended, **LIMITED)
    assert (await mended.chat(key, says(upstream, 1), model="cent", max_tokens=1)).status == 200
    await settled(mended, key)
    body = chat_body(None, model="cent", max_tokens=1) if method == "POST" else None
    answer = await exchange(mended.port, request_bytes(method, path, key=key.key, body=body))
    assert answer.status == 200, answer
    assert_tells_limits(answer, requests_left=49)


# What is told where limits are only observed


@pytest.fixture(scope="module")
def observing(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    yield from served(policy_gateway(tmp_path_factory.mktemp("observed"), upstream, POLICY_MODE="observe"))


async def test_an_observed_call_above_its_limit_still_tells_it(observing: Gateway, upstream: Upstream) -> None:
    key, left = limited(observing, requests_per_hour=2), []
    for _ in range(4):
        answer = await observing.chat(key, says(upstream, 1), model="cent", max_tokens=1)
        assert answer.status == 200, answer
        assert answer.header("x-ratelimit-limit-requests") == "2"
        assert answer.header("x-ratelimit-reset-requests")
        left.append(answer.header("x-ratelimit-remaining-requests"))
    assert left == ["1", "0", "0", "0"]


async def test_an_observed_call_above_a_rate_and_a_budget_would_be_refused(
    observing: Gateway, upstream: Upstream
) -> None:
    """A cheaper model would be no way around the rate."""
    key = limited(observing, requests_per_hour=1, budget_usd_per_month=1)
    answers = [await observing.chat(key, says(upstream, 1), model="pair", max_tokens=1) for _ in range(2)]
    assert [(answer.status, answer.header("x-gateway-model")) for answer in answers] == [(200, "pair")] * 2
    (line,) = [line for line in observing.log_lines("policy_overruled") if line["creator"] == key.creator]
    assert (line["would"], line["request_id"]) == ("refuse", answers[1].request_id)
    assert {"requests_per_hour", "budget_usd_per_month"} <= set(line["limits"])


# Service tiers: 10 and 20 USD per million tokens, 40 and 80 as `priority`, 5 and 10 as `flex`


def nano_usd(input_tokens: int, output_tokens: int, rate: int) -> int:
    """`rate` is that of input; output costs twice as much."""
    return (input_tokens + 2 * output_tokens) * rate * 1_000


async def test_a_priority_stream_that_breaks_before_its_usage_costs_the_rates_asked_for(
    mended: Gateway, upstream: Upstream
) -> None:
    key, words = limited(mended), ("one ", "two ", "three ")
    events = b"".join(map(wire.framed, wire.text_events(*words, finish=None)))
    script = upstream.script(Send(wire.stream_head() + events), Close())
    answer = await mended.chat(key, script, model="tiered", stream=True, service_tier="priority", max_tokens=50)
    answer.assert_broken_off()
    entry = await settled(mended, key)
    assert (entry["outcome"], entry["variant"], entry["usage_source"]) == ("upstream_died", "priority", "estimated")
    assert entry["flags"] == []
    assert entry["cost_nano_usd"] == nano_usd(estimated_input(prompt(script)), estimated_output(*words), 40)


async def test_a_priority_call_that_is_never_answered_costs_the_rates_asked_for(
    mended: Gateway, upstream: Upstream
) -> None:
    key, script = limited(mended), upstream.script(Close())
    answer = await mended.chat(key, script, model="tiered", service_tier="priority", max_tokens=50)
    assert answer.status == 502
    entry = await settled(mended, key)
    assert (entry["variant"], entry["cost_nano_usd"]) == (
        "priority",
        nano_usd(estimated_input(prompt(script)), 0, 40),
    )


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("asked", "named", "rate", "variant", "flags"),
    [
        pytest.param("priority", None, 40, "priority", [], id="priority, and no word of it"),
        pytest.param("priority", "", 40, "priority", [], id="priority, and an empty word"),
        pytest.param("priority", "turbo", 40, "priority", ["unpriced_tier"], id="priority, and an unknown one"),
        pytest.param("priority", "default", 10, "", [], id="priority, and not given"),
        pytest.param("flex", None, 5, "flex", [], id="flex, and no word of it"),
        pytest.param("flex", "turbo", 10, "", ["unpriced_tier"], id="flex, and an unknown one"),
        pytest.param(None, "turbo", 10, "", ["unpriced_tier"], id="nothing, and an unknown one"),
    ],
)
async def test_an_answer_costs_the_tier_it_names_or_at_least_the_one_asked_for(
    mended: Gateway,
    upstream: Upstream,
    asked: str | None,
    named: str | None,
    rate: int,
    variant: str,
    flags: list[str],
    stream: bool,
) -> None:
    key = limited(mended)
    tier: dict[str, Any] = {} if named is None else {"service_tier": named}
    if stream:
        usage = {**wire.usage_chunk(wire.usage(10, 5)), **tier}
        script = upstream.stream(*wire.text_events("a word"), wire.event(usage), wire.DONE)
    else:
        script = says(upstream, 5, **tier)
    answer = await mended.chat(key, script, model="tiered", max_tokens=50, stream=stream, service_tier=asked)
    assert answer.status == 200, answer
    entry = await settled(mended, key)
    assert (entry["variant"], entry["flags"]) == (variant, flags)
    assert entry["cost_nano_usd"] == nano_usd(10, 5, rate)


async def test_a_stream_costs_the_tier_its_chunks_name_when_its_usage_names_none(
    mended: Gateway, upstream: Upstream
) -> None:
    key = limited(mended)
    named = {"service_tier": "priority"}
    words = [wire.event(wire.chunk(word, extra=named)) for word in ("a ", "word")]
    end = wire.event(wire.chunk(finish="stop", extra=named))
    script = upstream.stream(*words, end, wire.event(wire.usage_chunk(wire.usage(10, 5))), wire.DONE)
    await mended.streamed(key, script, model="tiered", max_tokens=50)
    entry = await settled(mended, key)
    assert (entry["variant"], entry["usage_source"]) == ("priority", "provider")
    assert entry["cost_nano_usd"] == nano_usd(10, 5, 40)


def priority_words(*words: str) -> list[bytes]:
    """Words of a stream whose chunks name the tier that nobody asked for."""
    return [wire.event(wire.chunk(word, extra={"service_tier": "priority"})) for word in words]


async def test_a_stream_that_breaks_before_its_usage_costs_the_tier_its_chunks_name(
    mended: Gateway, upstream: Upstream
) -> None:
    key, words = limited(mended), ("one ", "two ", "three ")
    events = b"".join(map(wire.framed, priority_words(*words)))
    script = upstream.script(Send(wire.stream_head() + events), Close())
    answer = await mended.chat(key, script, model="tiered", stream=True, max_tokens=50)
    answer.assert_broken_off()
    entry = await settled(mended, key)
    assert (entry["outcome"], entry["variant"], entry["usage_source"]) == ("upstream_died", "priority", "estimated")
    assert entry["cost_nano_usd"] == nano_usd(estimated_input(prompt(script)), estimated_output(*words), 40)


# Creators that come along


@pytest.mark.parametrize("path", [CHAT, IMAGES], ids=["chat", "images"])
@pytest.mark.parametrize("by", ["header", "user"])
async def test_a_call_for_an_unknown_model_brings_no_creator_along(
    mended: Gateway, upstream: Upstream, by: str, path: str
) -> None:
    service = mended.new_key(mended.new_creator("base"), scopes=["act_for"], default_plan="small")
    name = f"somebody-of-{service.creator}-{by}-{path.count('/')}"
    headers = [("x-gateway-creator", name)] if by == "header" else []
    user = None if by == "header" else name
    script = says(upstream, 1)
    make = chat_body if path == CHAT else image_body
    answer = await mended.post(service, make(script, model="nobody-knows", user=user), headers, path)
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")
    assert mended.admin("GET", f"/admin/creators/{name}").status_code == 404
    elsewhere = "picture" if path == CHAT else "cent"
    answer = await mended.post(service, make(script, model=elsewhere, user=user), headers, path)
    assert (answer.status, answer.error["code"]) == (400, "endpoint_not_supported")
    assert mended.admin("GET", f"/admin/creators/{name}").status_code == 404
    assert script.requests == []
