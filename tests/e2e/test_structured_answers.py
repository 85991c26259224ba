"""Answers that must match a JSON Schema, through a real process: what the provider is sent, what the client sees, what it costs."""

import asyncio
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.rig import wire
from tests.rig.catalog import cost_nano_usd, estimated_input
from tests.rig.client import Answer, connect
from tests.rig.gateway import Gateway, Key, chat_body, prompt
from tests.rig.routing_world import asked, bad, begin, fresh, plays, routed_gateway
from tests.rig.upstream import Action, Close, Gate, Script, Send, Stall, Upstream
from tests.rig.waiting import eventually, soon

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": SCHEMA}}
GOOD = '{"name": "Ada", "age": 36}'
BAD = '{"name": "Ada"}'
FIRST, SECOND = (40, 10), (90, 12)
FIRST_COST, SECOND_COST = cost_nano_usd(*FIRST), cost_nano_usd(*SECOND)
TOOL_CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}, "strict": True}}]


@pytest.fixture
def key(routing: Gateway) -> Key:
    """A key of a creator that only this test uses."""
    return routing.new_key()


def says(
    *contents: str | None, usage: tuple[int, int] = FIRST, finish: str = "stop", **message: object
) -> list[Action]:
    """A whole answer, with a choice for each of `contents`."""
    answer = wire.completion(contents[0], usage=wire.usage(*usage), finish=finish, **message)
    (choice,) = answer["choices"]
    answer["choices"] = [
        {**choice, "index": index, "message": {**choice["message"], "content": content}}
        for index, content in enumerate(contents)
    ]
    return [Send(wire.reply(answer, headers=[("x-request-id", f"up-{usage[0]}")]))]


def loose(upstream: Upstream, *answers: list[Any]) -> tuple[str, Script]:
    """A model whose provider enforces no schema, and what it answers."""
    model = fresh("loose")
    return model, plays(upstream, {f"{model}-a": answers})


def content(answer: Answer) -> str:
    """What the client got to read, whole or streamed."""
    if (answer.header("content-type") or "").startswith("text/event-stream"):
        chunks = [json.loads(event.removeprefix(b"data: ")) for event in answer.body.split(b"\n\n")[:-2]]
        assert answer.body.endswith(wire.DONE)
        assert all(chunk["object"] == "chat.completion.chunk" for chunk in chunks)
        deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
        ends = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"] if choice["finish_reason"]]
        assert ends == ["stop"]
        return "".join(delta.get("content") or "" for delta in deltas)
    return str(answer.json["choices"][0]["message"]["content"])


def attempts(gateway: Gateway, key: Key) -> list[tuple[int, bool, str, int]]:
    entries = eventually(lambda: gateway.entries(creator=key.creator), "the entries of the call")
    return sorted(
        (entry["attempt"], entry["final"], entry["outcome"], entry["cost_nano_usd"])
        for entry in entries
        if entry["kind"] == "usage"
    )


# What the provider is sent


@pytest.mark.parametrize("stream", [None, True], ids=["whole", "stream"])
async def test_a_provider_that_enforces_schemas_gets_the_request_as_it_is(
    routing: Gateway, upstream: Upstream, key: Key, stream: bool | None
) -> None:
    model = fresh("lone")
    events = [*wire.text_events("{not", " json"), wire.event(wire.usage_chunk(wire.usage(*FIRST))), wire.DONE]
    streamed = [Send(wire.stream_head()), *(Send(wire.framed(event)) for event in events), Send(wire.LAST_CHUNK)]
    script = plays(upstream, {f"{model}-a": [streamed if stream else says("not json")]})
    fields: dict[str, Any] = {
        "response_format": FORMAT,
        "tools": TOOLS,
        "tool_choice": {"type": "function", "function": {"name": "look"}},
        "parallel_tool_calls": False,
    }
    answer = await routing.chat(key, script, model=model, stream=stream, **fields)
    assert answer.status == 200
    sent = script.request.json
    assert {name: sent[name] for name in fields} == fields
    assert sent["messages"] == chat_body(script)["messages"]
    assert attempts(routing, key) == [(1, True, "ok", FIRST_COST)]


@pytest.mark.parametrize("stream", [None, True], ids=["whole", "stream"])
async def test_another_gets_the_schema_in_words_and_is_asked_for_a_whole_answer(
    routing: Gateway, upstream: Upstream, key: Key, stream: bool | None
) -> None:
    model, script = loose(upstream, says(GOOD))
    fields: dict[str, Any] = {"tools": TOOLS, "tool_choice": "auto", "parallel_tool_calls": False, "temperature": 0}
    answer = await routing.chat(key, script, model=model, stream=stream, response_format=FORMAT, **fields)
    assert (answer.status, content(answer)) == (200, GOOD)
    sent = script.request.json
    assert not {"response_format", "stream", "stream_options"} & sent.keys()
    assert {name: sent[name] for name in fields} == fields
    instruction, *messages = sent["messages"]
    assert json.loads(instruction["content"][instruction["content"].index("{") :]) == SCHEMA
    assert messages == chat_body(script)["messages"]
    assert script.request.header("accept") == "application/json"


# What the client sees, and what it costs


@pytest.mark.parametrize("stream", [None, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    "said",
    [GOOD, f"```json\n{GOOD}\n```", f"```\n{GOOD}\n```", f"Here it is:\n{GOOD}\nAnything else?", f"\n {GOOD} \n"],
    ids=["bare", "json fence", "fence", "words", "space"],
)
async def test_what_is_around_the_json_is_taken_off(
    routing: Gateway, upstream: Upstream, key: Key, said: str, stream: bool | None
) -> None:
    model, script = loose(upstream, says(said))
    answer = await routing.chat(key, script, model=model, stream=stream, response_format=FORMAT)
    assert (answer.status, content(answer)) == (200, GOOD)
    assert attempts(routing, key) == [(1, True, "ok", FIRST_COST)]


@pytest.mark.parametrize("stream", [None, True], ids=["whole", "stream"])
async def test_a_flawed_answer_is_repaired_and_both_attempts_are_paid(
    routing: Gateway, upstream: Upstream, key: Key, stream: bool | None
) -> None:
    model, script = loose(upstream, says(BAD), says(GOOD, usage=SECOND))
    answer = await routing.chat(key, script, model=model, stream=stream, response_format=FORMAT)
    assert (answer.status, content(answer)) == (200, GOOD)
    assert attempts(routing, key) == [(1, False, "upstream_invalid", FIRST_COST), (2, True, "ok", SECOND_COST)]
    if not stream:
        assert Decimal(answer.header("x-gateway-cost-usd") or "0") == Decimal(FIRST_COST + SECOND_COST) / 10**9
        assert answer.json["usage"]["prompt_tokens"] == SECOND[0]
    first, second = (request.json for request in script.requests)
    assert second["messages"][: len(first["messages"])] == first["messages"]
    assert second["messages"][-2] == {"role": "assistant", "content": BAD}
    assert "age" in second["messages"][-1]["content"]
    assert {name: value for name, value in second.items() if name != "messages"} == {
        name: value for name, value in first.items() if name != "messages"
    }


async def test_each_attempt_is_booked_with_its_own_upstream_request(
    routing: Gateway, upstream: Upstream, key: Key
) -> None:
    model, script = loose(upstream, says(BAD), says(GOOD, usage=SECOND))
    answer = await routing.chat(key, script, model=model, response_format=FORMAT)
    assert answer.header("x-upstream-request-id") == f"up-{SECOND[0]}"
    entries = sorted(routing.entries(creator=key.creator), key=lambda entry: int(entry["attempt"]))
    assert [entry["upstream_request_id"] for entry in entries] == [f"up-{FIRST[0]}", f"up-{SECOND[0]}"]


@pytest.mark.parametrize("stream", [None, True], ids=["whole", "stream"])
async def test_what_stays_wrong_is_an_error_and_not_shown(
    routing: Gateway, upstream: Upstream, key: Key, stream: bool | None
) -> None:
    model, script = loose(upstream, says(BAD), says("no json at all", usage=SECOND))
    answer = await routing.chat(key, script, model=model, stream=stream, response_format=FORMAT)
    assert (answer.status, answer.error["code"], answer.header("x-should-retry")) == (502, "schema_mismatch", "false")
    assert b"Ada" not in answer.body
    assert len(script.requests) == 2
    assert attempts(routing, key) == [
        (1, False, "upstream_invalid", FIRST_COST),
        (2, True, "upstream_invalid", SECOND_COST),
    ]


@pytest.mark.parametrize("status", [429, 500, 400, 401])
async def test_a_repair_that_is_refused_leaves_the_first_attempt_paid(
    routing: Gateway, upstream: Upstream, key: Key, status: int
) -> None:
    model, script = loose(upstream, says(BAD), bad(status))
    answer = await routing.chat(key, script, model=model, response_format=FORMAT)
    assert answer.status == (502 if status == 401 else status)
    assert b"Ada" not in answer.body
    assert attempts(routing, key) == [(1, False, "upstream_invalid", FIRST_COST), (2, True, "upstream_refused", 0)]


@pytest.mark.parametrize(
    ("play", "outcome", "status"),
    [([Close()], "upstream_died", 502), ([Stall()], "upstream_timeout", 504)],
    ids=["dies", "silent"],
)
async def test_a_repair_that_breaks_off_owes_its_input(
    routing: Gateway, upstream: Upstream, key: Key, play: list[Any], outcome: str, status: int
) -> None:
    model, script = loose(upstream, says(BAD), play)
    answer = await routing.chat(key, script, model=model, response_format=FORMAT)
    assert answer.status == status
    first, second = attempts(routing, key)
    assert first == (1, False, "upstream_invalid", FIRST_COST)
    assert second[:3] == (2, True, outcome)
    assert second[3] >= cost_nano_usd(estimated_input(prompt(script)), 0)


async def test_an_answer_that_is_none_is_not_repaired(routing: Gateway, upstream: Upstream, key: Key) -> None:
    model, script = loose(upstream, [Send(wire.reply(b"<html>", content_type="text/html"))])
    answer = await routing.chat(key, script, model=model, response_format=FORMAT)
    assert (answer.status, answer.error["code"]) == (502, "upstream_invalid")
    assert len(script.requests) == 1


@pytest.mark.parametrize("stream", [None, True], ids=["whole", "stream"])
async def test_tool_calls_pass_unchecked(routing: Gateway, upstream: Upstream, key: Key, stream: bool | None) -> None:
    model, script = loose(upstream, says(None, finish="tool_calls", tool_calls=[TOOL_CALL]))
    answer = await routing.chat(key, script, model=model, stream=stream, tools=TOOLS, response_format=FORMAT)
    assert answer.status == 200
    if stream:
        delta = json.loads(answer.body.split(b"\n\n")[0].removeprefix(b"data: "))["choices"][0]["delta"]
        assert delta["tool_calls"] == [{"index": 0, **TOOL_CALL}]
    else:
        assert answer.json["choices"][0]["message"]["tool_calls"] == [TOOL_CALL]


@pytest.mark.parametrize("choices", [5, {}, "x"])
@pytest.mark.parametrize("stream", [None, True], ids=["whole", "stream"])
async def test_choices_that_are_no_list_are_no_answer_nor_a_failure_of_ours(
    routing: Gateway, upstream: Upstream, key: Key, choices: object, stream: bool | None
) -> None:
    reply = {**wire.completion(usage=wire.usage(*FIRST)), "choices": choices}
    model, script = loose(upstream, [Send(wire.reply(reply))])
    answer = await routing.chat(key, script, model=model, stream=stream, response_format=FORMAT)
    assert answer.status in (200, 502)
    assert b"internal_error" not in answer.body


async def test_of_several_choices_each_has_to_match_and_the_flawed_one_is_shown_for_repair(
    routing: Gateway, upstream: Upstream, key: Key
) -> None:
    model, script = loose(upstream, says(f"```\n{GOOD}\n```", BAD), says(GOOD, GOOD, usage=SECOND))
    answer = await routing.chat(key, script, model=model, n=2, response_format=FORMAT)
    assert answer.status == 200
    assert [choice["message"]["content"] for choice in answer.json["choices"]] == [GOOD, GOOD]
    first, second = (request.json for request in script.requests)
    assert (first["n"], second["n"]) == (2, 2)
    assert second["messages"][-2]["content"] == BAD


async def test_usage_is_streamed_where_the_client_asked_for_it(routing: Gateway, upstream: Upstream, key: Key) -> None:
    model, script = loose(upstream, says(GOOD))
    answer = await routing.chat(
        key, script, model=model, stream=True, stream_options={"include_usage": True}, response_format=FORMAT
    )
    chunks = [json.loads(event.removeprefix(b"data: ")) for event in answer.body.split(b"\n\n")[:-2]]
    assert (chunks[-1]["choices"], chunks[-1]["usage"]) == ([], wire.usage(*FIRST))


# Leaving, shutting down, many at once


async def test_a_reader_that_leaves_during_the_repair_pays_for_both(
    routing: Gateway, upstream: Upstream, key: Key
) -> None:
    gate = Gate()
    model, script = loose(upstream, says(BAD), [gate, *says(GOOD, usage=SECOND)])
    connection = await connect(routing.port)
    await connection.send(routing.chat_request(key, script, model=model, stream=True, response_format=FORMAT))
    await soon(gate.is_reached.is_set, "the repair")
    await connection.reset()
    first, second = attempts(routing, key)
    assert first == (1, False, "upstream_invalid", FIRST_COST)
    assert second[:3] == (2, True, "client_gone")
    assert second[3] > 0
    gate.open()


async def test_a_shutdown_during_the_repair_books_both(tmp_path: Path, upstream: Upstream) -> None:
    gateway = routed_gateway(tmp_path, upstream, DRAIN_GRACE_S=0.2)
    try:
        gateway.start()
        key, gate = gateway.new_key(), Gate()
        model, script = loose(upstream, says(BAD), [gate, *says(GOOD)])
        call = begin(gateway.chat(key, script, model=model, response_format=FORMAT))
        await soon(gate.is_reached.is_set, "the repair")
        gateway.terminate()
        answer = await call
        assert (answer.status, answer.error["code"]) == (503, "shutting_down")
        assert answer.header("x-should-retry") == "false"
        assert await asyncio.to_thread(gateway.wait) == 0
        gateway.start()
        first, second = attempts(gateway, key)
        assert first == (1, False, "upstream_invalid", FIRST_COST)
        assert second[:3] == (2, True, "aborted")
    finally:
        gateway.close()


async def test_the_hold_covers_both_attempts_however_many_call_at_once(routing: Gateway, upstream: Upstream) -> None:
    """Sixty-four calls, each of which is repaired, on a budget for a few of them: the cap holds."""
    most = 100
    model, script = loose(upstream, says(BAD, usage=(400, most)), says(GOOD, usage=(700, most)))
    # The places' answers go by turns over all requests, so that some are repaired and some fit at once.
    turns = plays(upstream, {f"{model}-a": [says(BAD, usage=(400, most)), says(GOOD, usage=(700, most))] * 100})
    cap = 20 * (cost_nano_usd(400, most) + cost_nano_usd(700, most))
    key = routing.new_key(routing.new_creator(quota_usd_per_month=f"{cap / 1e9:.9f}"))
    answers = await asyncio.gather(
        *(routing.chat(key, turns, model=model, max_tokens=most, response_format=FORMAT) for _ in range(64))
    )
    statuses = {answer.status for answer in answers}
    assert statuses <= {200, 429, 502}, statuses
    assert 429 in statuses
    assert 0 < sum(cost for *_, cost in attempts(routing, key)) <= cap
    assert script.requests == []


async def test_a_budget_for_one_attempt_does_not_do(routing: Gateway, upstream: Upstream) -> None:
    model, script = loose(upstream, says(GOOD))
    one = cost_nano_usd(2_000, 1_000)
    key = routing.new_key(routing.new_creator(quota_usd_per_month=f"{one / 1e9:.9f}"))
    refused = await routing.chat(key, script, model=model, max_tokens=1_000, response_format=FORMAT)
    assert (refused.status, len(script.requests)) == (429, 0)
    assert (await routing.chat(key, script, model=model, max_tokens=1_000)).status == 200


# A schema nobody can check


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "http://127.0.0.1:9/schema.json"},
        {"type": "nonsense"},
        {"type": "string", "pattern": "("},
    ],
    ids=["elsewhere", "no type", "no pattern"],
)
async def test_a_schema_that_cannot_be_checked_is_the_callers_mistake(
    routing: Gateway, upstream: Upstream, key: Key, schema: object
) -> None:
    model, script = loose(upstream, says(GOOD))
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    answer = await routing.chat(key, script, model=model, response_format=wanted)
    assert (answer.status, answer.error["param"]) == (400, "response_format.json_schema")
    assert script.requests == []
    assert routing.entries(creator=key.creator) == []


def branching(depth: int) -> dict[str, Any]:
    """Each level applies the next one twice to the same value."""
    levels = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(depth)}
    return {"$defs": {**levels, f"d{depth}": {"type": "object"}}, "$ref": "#/$defs/d0"}


async def test_a_schema_that_would_take_for_ever_keeps_nobody_else_waiting(
    routing: Gateway, upstream: Upstream, key: Key
) -> None:
    model, script = loose(upstream, says(GOOD), says(GOOD, usage=SECOND))
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": branching(60)}}
    call = begin(routing.chat(key, script, model=model, response_format=wanted))
    other, quick = routing.new_key(), upstream.reply(wire.completion(usage=wire.usage(*FIRST)))
    while not call.done():
        assert (await routing.chat(other, quick)).status == 200
    answer = call.result()
    assert (answer.status, answer.error["code"]) in ((502, "schema_mismatch"), (400, "invalid_value"))
    assert [cost for *_, cost in attempts(routing, key)] == [FIRST_COST, SECOND_COST]


async def test_an_answer_that_has_come_is_owed_as_reported_also_where_nobody_waits_for_its_check(
    routing: Gateway, upstream: Upstream, key: Key
) -> None:
    """The check takes its whole deadline, and the client leaves meanwhile: what the provider reported stays owed."""
    model, script = loose(upstream, says(GOOD, usage=(400, 300)))
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": branching(60)}}
    connection = await connect(routing.port)
    await connection.send(routing.chat_request(key, script, model=model, stream=True, response_format=wanted))
    await soon(lambda: script.requests and script.requests[0].played.is_set(), "the first answer")
    await connection.reset()
    entries = attempts(routing, key)
    assert entries[0][3] == cost_nano_usd(400, 300), entries


async def test_an_answer_nested_too_deeply_to_be_checked_is_paid_and_repaired(
    routing: Gateway, upstream: Upstream, key: Key
) -> None:
    model, script = loose(upstream, says("[" * 400 + "]" * 400), says(GOOD, usage=SECOND))
    answer = await routing.chat(key, script, model=model, response_format=FORMAT)
    assert (answer.status, content(answer)) == (200, GOOD)
    assert attempts(routing, key) == [(1, False, "upstream_invalid", FIRST_COST), (2, True, "ok", SECOND_COST)]


async def test_more_choices_than_are_checked_at_once_are_all_checked(
    routing: Gateway, upstream: Upstream, key: Key
) -> None:
    model, script = loose(upstream, says(*[GOOD] * 127, BAD), says(*[GOOD] * 128, usage=SECOND))
    answer = await routing.chat(key, script, model=model, n=128, response_format=FORMAT)
    assert answer.status == 200
    assert len(script.requests) == 2
    assert script.requests[1].json["messages"][-2]["content"] == BAD


async def test_an_array_of_objects_among_words_is_taken_for_an_array(
    routing: Gateway, upstream: Upstream, key: Key
) -> None:
    model, script = loose(upstream, says(f"Here they are: [{GOOD}]."))
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array", "items": SCHEMA}}}
    answer = await routing.chat(key, script, model=model, response_format=wanted)
    assert (answer.status, content(answer)) == (200, f"[{GOOD}]")
    assert len(script.requests) == 1


# Over the other endpoints


async def test_responses_over_a_model_that_enforces_nothing(routing: Gateway, upstream: Upstream, key: Key) -> None:
    model, script = loose(upstream, says(BAD), says(GOOD, usage=SECOND))
    text = {"format": {"type": "json_schema", "name": "person", "strict": True, "schema": SCHEMA}}
    answer = await routing.post(
        key, {"model": model, "input": prompt(script), "text": text, "store": False}, path="/v1/responses"
    )
    assert answer.status == 200, answer
    (message,) = (item for item in answer.json["output"] if item["type"] == "message")
    assert message["content"][0]["text"] == GOOD
    assert attempts(routing, key) == [(1, False, "upstream_invalid", FIRST_COST), (2, True, "ok", SECOND_COST)]
    assert asked(script) == ["a", "a"]


async def test_a_streamed_response_over_a_model_that_enforces_nothing(
    routing: Gateway, upstream: Upstream, key: Key
) -> None:
    model, script = loose(upstream, says(f"```json\n{GOOD}\n```"))
    text = {"format": {"type": "json_schema", "name": "person", "schema": SCHEMA}}
    body = {"model": model, "input": prompt(script), "text": text, "store": False, "stream": True}
    answer = await routing.post(key, body, path="/v1/responses")
    assert (answer.status, answer.is_complete) == (200, True)
    events = [event.partition(b"data: ")[2] for event in answer.body.split(b"\n\n") if b"data: " in event]
    last = json.loads(events[-1])
    assert last["type"] == "response.completed"
    assert json.loads(last["response"]["output"][-1]["content"][0]["text"]) == json.loads(GOOD)
    assert attempts(routing, key) == [(1, True, "ok", FIRST_COST)]


async def test_messages_over_a_model_that_enforces_nothing(routing: Gateway, upstream: Upstream, key: Key) -> None:
    model, script = loose(upstream, says(BAD), says(GOOD, usage=SECOND))
    body = {
        "model": model,
        "max_tokens": 200,
        "messages": [{"role": "user", "content": prompt(script)}],
        "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
    }
    answer = await routing.post(key, body, path="/v1/messages")
    assert answer.status == 200, answer
    assert answer.json["content"][0]["text"] == GOOD
    assert attempts(routing, key) == [(1, False, "upstream_invalid", FIRST_COST), (2, True, "ok", SECOND_COST)]
