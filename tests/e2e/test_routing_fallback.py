"""Several deployments of one model behind a real process: who is asked, in which order, how often, and what is booked."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from tests.rig import wire
from tests.rig.catalog import cost_nano_usd, estimated_input
from tests.rig.gateway import CHAT, Gateway, Key, chat_body, prompt
from tests.rig.routing_world import ATTEMPTS_MAX, asked, bad, fresh, good, plays, streamed
from tests.rig.upstream import Close, Pause, Reset, Script, Send, Stall, Upstream

COST = cost_nano_usd(40, 10)
CHEAP = cost_nano_usd(40, 10, model="rig-cheap")
MANY = 160


@pytest.fixture
def key(routing: Gateway) -> Key:
    """A key of a creator that only this test uses."""
    return routing.new_key()


def free(entry: dict[str, Any]) -> list[tuple[str, str, int]]:
    return [(each["provider"], each["error"], each["status"]) for each in entry["free_attempts"]]


async def calls(gateway: Gateway, key: Key, script: Script, model: str, number: int) -> list[str | None]:
    """The providers that served so many calls."""
    answers = await asyncio.gather(*(gateway.chat(key, script, model=model) for _ in range(number)))
    assert {answer.status for answer in answers} == {200}
    return [answer.header("x-gateway-provider") for answer in answers]


# Who comes first


async def test_calls_are_shared_by_weight(routing: Gateway, upstream: Upstream, key: Key) -> None:
    """3 to 1 over 160 calls: 120 expected, and beyond 40 from it once in a million million runs."""
    script = plays(upstream, {"shared-a": [good()], "shared-b": [good()]})
    shares = Counter(await calls(routing, key, script, "shared", MANY))
    assert shares.keys() == {"place-a", "place-b"}
    assert 80 < shares["place-a"] < 155
    booked = Counter(entry["provider"] for entry in routing.entries(creator=key.creator))
    assert booked == shares


async def test_a_sticky_model_serves_a_creator_from_one_place(routing: Gateway, upstream: Upstream) -> None:
    script = plays(upstream, {"sticky-a": [good()], "sticky-b": [good()]})
    homes = set()
    for _ in range(24):
        key = routing.new_key()
        (home,) = set(await calls(routing, key, script, "sticky", 2))
        homes.add(home)
    assert homes == {"place-a", "place-b"}


async def test_the_second_key_of_a_creator_goes_to_the_same_place(routing: Gateway, upstream: Upstream) -> None:
    script = plays(upstream, {"sticky-a": [good()], "sticky-b": [good()]})
    for _ in range(3):
        creator = routing.new_creator()
        served = [await calls(routing, routing.new_key(creator), script, "sticky", 2) for _ in range(2)]
        assert len({home for homes in served for home in homes}) == 1


# Who comes next


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("status", "error"),
    [
        (429, "rate_limit"),
        (500, "server_error"),
        (502, "server_error"),
        (503, "server_error"),
        (529, "server_error"),
        (401, "auth"),
        (403, "auth"),
        (404, "not_found"),
    ],
)
async def test_a_refusal_is_answered_by_the_next_place_at_its_own_price(
    routing: Gateway, upstream: Upstream, key: Key, status: int, error: str, stream: bool
) -> None:
    model = fresh("pair")
    answer_of_b = streamed("Hel", "lo!") if stream else good()
    script = plays(upstream, {f"{model}-a": [bad(status)], f"{model}-b": [answer_of_b]})
    answer = await routing.chat(key, script, model=model, stream=stream or None)
    assert (answer.status, answer.is_complete) == (200, True)
    assert (answer.header("x-gateway-provider"), answer.header("x-gateway-attempts")) == ("place-b", "2")
    assert b"refused" not in answer.body
    assert asked(script) == ["a", "b"]
    entry = routing.entry(key)
    assert (entry["provider"], entry["served_model"], entry["requested_model"]) == ("place-b", model, model)
    assert (entry["attempt"], entry["final"], entry["outcome"]) == (1, True, "ok")
    assert (entry["cost_nano_usd"], entry["charge_nano_usd"]) == (CHEAP, CHEAP)
    assert free(entry) == [("place-a", error, status)]


@pytest.mark.parametrize("model", ["dead-first", "hole-first"])
async def test_a_place_that_cannot_be_reached_is_passed_over(
    routing: Gateway, upstream: Upstream, key: Key, model: str
) -> None:
    script = plays(upstream, {f"{model.partition('-')[0]}-b": [good()]})
    answer = await routing.chat(key, script, model=model)
    assert (answer.status, answer.header("x-gateway-provider")) == (200, "place-b")
    entry = routing.entry(key)
    assert [error for _, error, _ in free(entry)] == ["unreachable"]
    assert entry["cost_nano_usd"] == COST


async def test_all_places_are_tried_in_their_order(routing: Gateway, upstream: Upstream, key: Key) -> None:
    model = fresh("trio")
    script = plays(upstream, {f"{model}-a": [bad(503)], f"{model}-b": [bad(429)], f"{model}-c": [good()]})
    answer = await routing.chat(key, script, model=model)
    assert (answer.status, answer.header("x-gateway-attempts")) == (200, "3")
    assert asked(script) == ["a", "b", "c"]
    assert free(routing.entry(key)) == [("place-a", "server_error", 503), ("place-b", "rate_limit", 429)]


async def test_no_call_makes_more_attempts_than_the_setting_allows(
    routing: Gateway, upstream: Upstream, key: Key
) -> None:
    model = fresh("five")
    script = plays(upstream, {f"{model}-{n}": [bad(503)] for n in range(5)})
    answer = await routing.chat(key, script, model=model)
    assert (answer.status, answer.header("x-gateway-attempts")) == (503, str(ATTEMPTS_MAX))
    assert len(set(asked(script))) == len(script.requests) == ATTEMPTS_MAX
    entry = routing.entry(key)
    assert (entry["outcome"], entry["cost_nano_usd"], len(entry["free_attempts"])) == (
        "upstream_refused",
        0,
        ATTEMPTS_MAX - 1,
    )


async def test_the_bound_holds_over_places_and_retries_together(routing: Gateway, upstream: Upstream, key: Key) -> None:
    model = fresh("twice")
    script = plays(upstream, {f"{model}-a": [bad(503)], f"{model}-b": [bad(503)]})
    answer = await routing.chat(key, script, model=model)
    assert answer.status == 503
    assert asked(script) == ["a", "b", "a"]


async def test_the_last_refusal_is_what_the_client_reads(routing: Gateway, upstream: Upstream, key: Key) -> None:
    model = fresh("pair")
    script = plays(upstream, {f"{model}-a": [bad(500)], f"{model}-b": [bad(429, [("retry-after", "7")], type="slow")]})
    answer = await routing.chat(key, script, model=model)
    assert (answer.status, answer.error["type"], answer.header("retry-after")) == (429, "slow", "7")
    entry = routing.entry(key)
    assert (entry["provider"], entry["outcome"], entry["cost_nano_usd"]) == ("place-b", "upstream_refused", 0)


# Who does not


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_the_callers_mistake_is_nobody_elses(routing: Gateway, upstream: Upstream, key: Key, status: int) -> None:
    model = fresh("pair")
    script = plays(upstream, {f"{model}-a": [bad(status)], f"{model}-b": [good()]})
    answer = await routing.chat(key, script, model=model)
    assert (answer.status, answer.header("x-gateway-attempts")) == (status, None)
    assert asked(script) == ["a"]


@pytest.mark.parametrize(
    ("play", "outcome"),
    [
        ([Close()], "upstream_died"),
        ([Reset()], "upstream_died"),
        ([Stall()], "upstream_timeout"),
        ([Send(wire.head(200, [("content-length", "100")]) + b'{"cho'), Close()], "upstream_died"),
        ([Send(b"nonsense\r\n\r\n"), Close()], "upstream_invalid"),
    ],
    ids=["closed", "reset", "silent", "cut", "no http"],
)
async def test_what_was_sent_and_may_have_cost_is_not_sent_again(
    routing: Gateway, upstream: Upstream, key: Key, play: Any, outcome: str
) -> None:
    model = fresh("pair")
    script = plays(upstream, {f"{model}-a": [play], f"{model}-b": [good()]})
    answer = await routing.chat(key, script, model=model)
    assert answer.status in (502, 504)
    assert (answer.header("x-should-retry"), answer.header("x-gateway-attempts")) == ("false", None)
    assert asked(script) == ["a"]
    entry = routing.entry(key)
    assert (entry["outcome"], entry["provider"], entry["free_attempts"]) == (outcome, "place-a", [])
    assert entry["cost_nano_usd"] == cost_nano_usd(estimated_input(prompt(script)), 0)


async def test_a_stream_that_has_begun_stays_where_it_is(routing: Gateway, upstream: Upstream, key: Key) -> None:
    model = fresh("pair")
    begun = [Send(wire.stream_head() + b"".join(map(wire.framed, wire.text_events("Hel", finish=None)))), Close()]
    script = plays(upstream, {f"{model}-a": [begun], f"{model}-b": [streamed()]})
    answer = await routing.chat(key, script, model=model, stream=True)
    answer.assert_broken_off()
    assert asked(script) == ["a"]
    assert routing.entry(key)["outcome"] == "upstream_died"


# The same place again


@pytest.mark.parametrize("headers", [[], [("retry-after", "0")], [("retry-after", "0.3")]], ids=["none", "0", "0.3"])
async def test_a_model_with_retries_is_asked_again_after_a_pause(
    routing: Gateway, upstream: Upstream, key: Key, headers: Any
) -> None:
    model = fresh("again")
    script = plays(upstream, {f"{model}-a": [bad(429, headers), bad(503), good()]})
    answer = await routing.chat(key, script, model=model)
    assert (answer.status, answer.header("x-gateway-attempts")) == (200, "3")
    assert len(script.requests) == 3
    assert routing.entry(key)["cost_nano_usd"] == COST


async def test_a_wait_longer_than_the_gateway_takes_is_the_clients(
    routing: Gateway, upstream: Upstream, key: Key
) -> None:
    model = fresh("again")
    script = plays(upstream, {f"{model}-a": [bad(429, [("retry-after", "30")]), good()]})
    answer = await routing.chat(key, script, model=model)
    assert (answer.status, answer.header("retry-after")) == (429, "30")
    assert len(script.requests) == 1


async def test_the_place_that_may_be_asked_soonest_is_asked_again(
    routing: Gateway, upstream: Upstream, key: Key
) -> None:
    """The first one asked for a longer wait than anybody takes; the other did not."""
    model = fresh("twice")
    script = plays(
        upstream, {f"{model}-a": [bad(429, [("retry-after", "30")]), good()], f"{model}-b": [bad(503), good()]}
    )
    assert (await routing.chat(key, script, model=model)).status == 200
    assert asked(script) == ["a", "b", "b"]


async def test_a_place_that_only_the_operator_can_mend_is_not_asked_again(
    routing: Gateway, upstream: Upstream, key: Key
) -> None:
    model = fresh("twice")
    script = plays(upstream, {f"{model}-a": [bad(401), good()], f"{model}-b": [bad(503), good()]})
    assert (await routing.chat(key, script, model=model)).status == 200
    assert asked(script) == ["a", "b", "b"]


async def test_without_retries_the_same_place_is_asked_once(routing: Gateway, upstream: Upstream, key: Key) -> None:
    model = fresh("lone")
    script = plays(upstream, {f"{model}-a": [bad(503), good()]})
    assert (await routing.chat(key, script, model=model)).status == 503
    assert len(script.requests) == 1


async def test_no_attempt_is_made_for_a_client_that_will_have_given_up(
    routing: Gateway, upstream: Upstream, key: Key
) -> None:
    model = fresh("again")
    script = plays(upstream, {f"{model}-a": [bad(429, [("retry-after", "2")]), good()]})
    body = chat_body(script, model=model)
    answer = await routing.post(key, body, headers=[("x-stainless-timeout", "1")])
    assert answer.status == 429
    assert len(script.requests) == 1


async def test_no_other_place_is_asked_either_once_the_clients_time_is_up(
    routing: Gateway, upstream: Upstream, key: Key
) -> None:
    model = fresh("pair")
    slow = [Pause(0.5), *bad(503)]
    script = plays(upstream, {f"{model}-a": [slow], f"{model}-b": [good()]})
    body = chat_body(script, model=model)
    answer = await routing.post(key, body, headers=[("x-stainless-timeout", "0.3")])
    assert answer.status == 503
    assert asked(script) == ["a"]


# Keys and prices


async def test_a_place_without_a_key_is_left_out(routing: Gateway, upstream: Upstream, key: Key) -> None:
    script = plays(upstream, {"keyless-b": [good()]})
    answer = await routing.chat(key, script, model="keyless-first")
    assert (answer.status, answer.header("x-gateway-attempts")) == (200, None)
    assert routing.entry(key)["free_attempts"] == []


async def test_a_model_all_of_whose_places_lack_a_key_is_switched_off(routing: Gateway, key: Key) -> None:
    answer = await routing.chat(key, model="keyless-both")
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")
    listed = await routing.get(key, "/v1/models")
    assert "keyless-both" not in {each["id"] for each in listed.json["data"]}


@pytest.mark.parametrize("fields", [{}, {"max_tokens": 20}], ids=["unbounded", "bounded"])
async def test_places_that_cost_nothing_serve_for_nothing(
    routing: Gateway, upstream: Upstream, key: Key, fields: dict[str, Any]
) -> None:
    script = plays(upstream, {"free-a": [good()], "free-b": [good()]})
    answer = await routing.chat(key, script, model="free", **fields)
    assert answer.status == 200, answer
    assert (routing.entry(key)["cost_nano_usd"], routing.entry(key)["outcome"]) == (0, "ok")


async def test_failed_attempts_are_counted_by_provider_and_class(
    routing: Gateway, upstream: Upstream, key: Key
) -> None:
    def count() -> float:
        wanted = 'gateway_failed_attempts_total{error="rate_limit",provider="place-a"} '
        lines = routing.admin("GET", "/metrics").text.splitlines()
        return sum(float(line.removeprefix(wanted)) for line in lines if line.startswith(wanted))

    model = fresh("pair")
    before = count()
    script = plays(upstream, {f"{model}-a": [bad(429)], f"{model}-b": [good()]})
    assert (await routing.chat(key, script, model=model)).status == 200
    assert count() == before + 1


async def test_the_request_leaves_for_each_place_with_its_own_name_and_nothing_else_changed(
    routing: Gateway, upstream: Upstream, key: Key
) -> None:
    model = fresh("pair")
    script = plays(upstream, {f"{model}-a": [bad(503)], f"{model}-b": [good()]})
    sent = chat_body(script, model=model, temperature=0.5, tool_choice="none", seed=7, tools=[])
    assert (await routing.post(key, sent, path=CHAT)).status == 200
    first, second = (request.json for request in script.requests)
    assert first == {**sent, "model": f"{model}-a"}
    assert second == {**sent, "model": f"{model}-b"}
    assert [request.line.split()[1] for request in script.requests] == [
        "/v1/place-a/chat/completions",
        "/v1/place-b/chat/completions",
    ]
