"""openai-agents through the gateway: over responses, which most chat models do not have, and over chat."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients.python.answers import (
    called_item,
    chat_events,
    event_stream,
    in_turn,
    response,
    response_events,
    response_message,
    tool_call,
    tool_completion,
    tool_events,
)
from tests.clients.python.world import Clients, Paid, chat_paid, served
from tests.rig import wire
from tests.rig.upstream import Script, Send, Upstream

USAGE = wire.usage(9, 4)
NEXT = wire.usage(1000, 700, cached=600, reasoning=300)
WEATHER = tool_call("weather", {"city": "Ulm"})
WAYS = [
    pytest.param("chat", "rig-chat", id="chat"),
    pytest.param("responses", "rig-chat", id="responses of a chat model"),
    pytest.param("responses", "rig-responses", id="responses of the provider"),
]


@pytest.fixture(scope="module")
def client(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    with served(upstream, tmp_path_factory.mktemp("agents"), ("openai3", "scenarios_agents")) as (_, [client]):
        yield client


def text_answer(model: str, text: str, usage: Any = USAGE) -> bytes:
    if model == "rig-responses":
        return wire.reply(response(response_message(text), usage=usage))
    return wire.reply(wire.completion(text, usage=usage))


def tool_answer(model: str, call: dict[str, Any], response_id: str = "") -> bytes:
    if model == "rig-responses":
        return wire.reply(response(called_item(call), id=response_id))
    return tool_completion(call, usage=USAGE)


def paid(api: str, model: str, *usages: tuple[int, int, int, int]) -> list[Paid]:
    endpoint = "chat" if api == "chat" else "responses"
    return [
        chat_paid(taken, given, endpoint=endpoint, model=model, cached=cached, reasoning=reasoning)
        for taken, given, cached, reasoning in usages
    ]


FIRST, SECOND = (9, 4, 0, 0), (1000, 700, 600, 300)


def told(script: Script, turn: int) -> str:
    """What the upstream was told in this turn."""
    return script.requests[turn].body.decode()


@pytest.mark.parametrize(("api", "model"), WAYS)
def test_an_agent_answers(upstream: Upstream, client: Clients, api: str, model: str) -> None:
    script = in_turn(upstream, text_answer(model, "Hello", NEXT))
    played = client.play("run", script, api=api, model=model)
    assert (played.value["output"], played.value["usage"]) == ("Hello", [1, 1000, 700])
    assert "Be brief." in told(script, 0)
    played.assert_paid(*paid(api, model, SECOND))


@pytest.mark.parametrize(("api", "model"), WAYS)
def test_a_streamed_agent_answers(upstream: Upstream, client: Clients, api: str, model: str) -> None:
    streamed = (
        event_stream(response_events("Hello")) if model == "rig-responses" else chat_events("Hel", "lo", usage=USAGE)
    )
    played = client.play("run_streamed", in_turn(upstream, streamed), api=api, model=model)
    assert played.value["output"] == "".join(played.value["deltas"]) == "Hello"
    # Over chat it asks for no usage. The ledger has it all the same.
    assert played.value["usage"] == ([9, 4] if api == "responses" else [0, 0])
    played.assert_paid(*paid(api, model, FIRST))


@pytest.mark.parametrize(("api", "model"), WAYS)
def test_a_loop_of_tools_ends_in_an_answer(upstream: Upstream, client: Clients, api: str, model: str) -> None:
    script = in_turn(upstream, tool_answer(model, WEATHER), text_answer(model, "Sunny.", NEXT))
    played = client.play("tools", script, api=api, model=model)
    assert played.value == {
        "output": "Sunny.",
        "items": ["tool_call_item", "tool_call_output_item", "message_output_item"],
    }
    assert '"strict":true' in told(script, 0)
    assert '"parallel_tool_calls":false' in told(script, 0)
    assert "sunny in Ulm" in told(script, 1)
    played.assert_paid(*paid(api, model, FIRST, SECOND))


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_a_streamed_loop_of_tools_ends_in_an_answer(upstream: Upstream, client: Clients, api: str) -> None:
    script = in_turn(upstream, tool_events(WEATHER, USAGE), chat_events("Sun", "ny.", usage=NEXT))
    played = client.play("tools_streamed", script, api=api, model="rig-chat")
    assert played.value == {
        "output": "Sunny.",
        "items": ["tool_call_item", "tool_call_output_item", "message_output_item"],
    }
    assert "sunny in Ulm" in told(script, 1)
    played.assert_paid(*paid(api, "rig-chat", FIRST, SECOND))


@pytest.mark.parametrize("model", ["rig-chat", "rig-responses"])
def test_a_loop_goes_on_by_the_id_of_the_response_before(upstream: Upstream, client: Clients, model: str) -> None:
    """What is new alone does not hold the marker, so the tool's result has to: it is asked for with the marker in it."""
    answers: list[bytes] = []
    script = upstream.answer_with(lambda _: [Send(answers.pop(0))])
    call = tool_call("weather", {"city": script.marker})
    answers += [tool_answer(model, call, f"resp_{script.marker}"), text_answer(model, "Sunny.", NEXT)]
    played = client.play("tools_by_response_id", script, model=model)
    assert played.value == {"output": "Sunny."}
    if model == "rig-responses":
        last = script.requests[1].json
        assert last["previous_response_id"] == f"resp_{script.marker}"
        assert [item["type"] for item in last["input"]] == ["function_call_output"]
    else:
        assert [each["role"] for each in script.requests[1].json["messages"]] == ["user", "assistant", "tool"]
    played.assert_paid(*paid("responses", model, FIRST, SECOND))


@pytest.mark.parametrize(("api", "model"), WAYS)
def test_a_handoff_reaches_the_other_agent(upstream: Upstream, client: Clients, api: str, model: str) -> None:
    transfer = tool_call("transfer_to_expert", {})
    script = in_turn(upstream, tool_answer(model, transfer), text_answer(model, "I know.", NEXT))
    played = client.play("handoff", script, api=api, model=model)
    assert played.value == {"output": "I know.", "last": "Expert"}
    assert "You know all." in told(script, 1)
    played.assert_paid(*paid(api, model, FIRST, SECOND))


@pytest.mark.parametrize(("api", "model"), WAYS)
def test_output_has_its_type(upstream: Upstream, client: Clients, api: str, model: str) -> None:
    script = in_turn(upstream, text_answer(model, '{"name":"Ulm","people":128928}'))
    played = client.play("typed", script, api=api, model=model)
    assert played.value == {"name": "Ulm", "people": 128928}
    assert "json_schema" in told(script, 0)
    played.assert_paid(*paid(api, model, FIRST))


@pytest.mark.parametrize("model", ["rig-chat", "rig-responses"])
def test_a_session_in_a_conversation_remembers(upstream: Upstream, client: Clients, model: str) -> None:
    script = in_turn(upstream, text_answer(model, "First."), text_answer(model, "Second.", NEXT))
    played = client.play("remembered", script, model=model)
    assert played.value == {"outputs": ["First.", "Second."], "roles": ["user", "assistant"] * 2}
    assert "First." in told(script, 1)
    played.assert_paid(*paid("responses", model, FIRST, SECOND))
