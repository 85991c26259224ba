"""pydantic-ai through the gateway: each of its models in front of a model that chats, and of one that speaks its own API."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients.python.answers import (
    called_item,
    chat_events,
    claude,
    claude_call,
    claude_events,
    claude_text,
    event_stream,
    in_turn,
    response,
    response_events,
    response_message,
    tool_call,
    tool_completion,
)
from tests.clients.python.world import Clients, Paid, chat_paid, served
from tests.rig import wire
from tests.rig.upstream import Upstream

WAYS = [
    pytest.param("chat", "rig-chat", id="chat"),
    pytest.param("responses", "rig-chat", id="responses of a chat model"),
    pytest.param("responses", "rig-responses", id="responses of the provider"),
    pytest.param("messages", "rig-chat", id="messages of a chat model"),
    pytest.param("messages", "rig-messages", id="messages of the provider"),
]
FIRST, SECOND = (9, 4), (1000, 700)
ULM = {"name": "Ulm", "people": 128928}
ULM_TEXT = '{"name":"Ulm","people":128928}'
WEATHER = tool_call("weather", {"city": "Ulm"})


@pytest.fixture(scope="module")
def client(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    wanted = ("openai3", "scenarios_pydantic_ai")
    with served(upstream, tmp_path_factory.mktemp("pydantic-ai"), wanted) as (_, [client]):
        yield client


def text_answer(model: str, text: str, usage: tuple[int, int] = FIRST) -> bytes:
    if model == "rig-responses":
        return wire.reply(response(response_message(text), usage=wire.usage(*usage)))
    if model == "rig-messages":
        return wire.reply(claude(claude_text(text), usage=usage))
    return wire.reply(wire.completion(text, usage=wire.usage(*usage)))


def tool_answer(model: str, call: dict[str, Any]) -> bytes:
    if model == "rig-responses":
        return wire.reply(response(called_item(call)))
    if model == "rig-messages":
        return wire.reply(claude(claude_call(call), usage=FIRST, stop="tool_use"))
    return tool_completion(call, usage=wire.usage(*FIRST))


def streamed_answer(model: str) -> bytes:
    if model == "rig-responses":
        return event_stream(response_events("Hello"))
    if model == "rig-messages":
        return event_stream(claude_events("Hel", "lo", usage=FIRST))
    return chat_events("Hel", "lo", usage=wire.usage(*FIRST))


def paid(api: str, model: str, *usages: tuple[int, int]) -> list[Paid]:
    return [chat_paid(*usage, endpoint=api, model=model) for usage in usages]


@pytest.mark.parametrize(("api", "model"), WAYS)
def test_an_agent_answers(upstream: Upstream, client: Clients, api: str, model: str) -> None:
    script = in_turn(upstream, text_answer(model, "Grüße", SECOND))
    played = client.play("run", script, api=api, model=model)
    assert played.value == {"output": "Grüße", "usage": [1, 1000, 700]}
    assert "Be brief." in script.request.body.decode()
    played.assert_paid(*paid(api, model, SECOND))


@pytest.mark.parametrize(("api", "model"), WAYS)
def test_a_streamed_agent_answers(upstream: Upstream, client: Clients, api: str, model: str) -> None:
    played = client.play("run_stream", in_turn(upstream, streamed_answer(model)), api=api, model=model)
    assert "".join(played.value["pieces"]) == "Hello"
    assert played.value["usage"] == [9, 4]
    played.assert_paid(*paid(api, model, FIRST))


@pytest.mark.parametrize(("api", "model"), WAYS)
def test_a_loop_of_tools_ends_in_an_answer(upstream: Upstream, client: Clients, api: str, model: str) -> None:
    script = in_turn(upstream, tool_answer(model, WEATHER), text_answer(model, "Sunny.", SECOND))
    played = client.play("tools", script, api=api, model=model)
    assert played.value == {"output": "Sunny."}
    assert "sunny in Ulm" in script.requests[1].body.decode()
    played.assert_paid(*paid(api, model, FIRST, SECOND))


@pytest.mark.parametrize(("api", "model"), WAYS)
def test_output_has_its_type_by_a_tool(upstream: Upstream, client: Clients, api: str, model: str) -> None:
    script = in_turn(upstream, tool_answer(model, tool_call("final_result", ULM)))
    played = client.play("typed_by_tool", script, api=api, model=model)
    assert played.value == ULM
    assert "tool_choice" in script.request.json
    played.assert_paid(*paid(api, model, FIRST))


@pytest.mark.parametrize(("api", "model"), WAYS[:3])
def test_output_has_its_type_by_a_schema(upstream: Upstream, client: Clients, api: str, model: str) -> None:
    script = in_turn(upstream, text_answer(model, ULM_TEXT))
    played = client.play("typed_by_schema", script, api=api, model=model)
    assert played.value == ULM
    assert "json_schema" in script.request.body.decode()
    played.assert_paid(*paid(api, model, FIRST))
