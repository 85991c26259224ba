"""instructor through the gateway, under the older OpenAI SDK that it needs."""

import json
from collections.abc import Iterator

import pytest

from tests.clients.python.answers import in_turn, tool_call, tool_completion, tool_events
from tests.clients.python.world import Clients, chat_paid, served
from tests.rig import wire
from tests.rig.upstream import Upstream

USAGE = wire.usage(9, 4)
NEXT = wire.usage(1000, 700, cached=600, reasoning=300)
ULM = {"name": "Ulm", "people": 128928}
NOBODY = {"name": "Ulm", "people": 0}


@pytest.fixture(scope="module")
def client(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    with served(upstream, tmp_path_factory.mktemp("instructor"), ("openai2", "scenarios_instructor")) as (_, [client]):
        yield client


def answer(mode: str, city: dict[str, object], usage: object = USAGE) -> bytes:
    if mode == "TOOLS":
        return tool_completion(tool_call("City", city), usage=usage)
    text = json.dumps(city)
    return wire.reply(wire.completion(f"```json\n{text}\n```" if mode == "MD_JSON" else text, usage=usage))


@pytest.mark.parametrize("scenario", ["create", "create_async"])
@pytest.mark.parametrize("mode", ["TOOLS", "JSON", "MD_JSON"])
def test_an_answer_has_its_type(upstream: Upstream, client: Clients, scenario: str, mode: str) -> None:
    script = in_turn(upstream, answer(mode, ULM))
    played = client.play(scenario, script, mode=mode)
    assert played.value["city"] == ULM
    sent = script.request.json
    if mode == "TOOLS":
        assert sent["tool_choice"] == {"type": "function", "function": {"name": "City"}}
    elif mode == "JSON":
        assert sent["response_format"] == {"type": "json_object"}
    played.assert_paid(chat_paid(9, 4))


@pytest.mark.parametrize("scenario", ["create", "create_async"])
@pytest.mark.parametrize("mode", ["TOOLS", "JSON"])
def test_an_answer_that_does_not_fit_is_asked_for_again_and_both_are_paid(
    upstream: Upstream, client: Clients, scenario: str, mode: str
) -> None:
    script = in_turn(upstream, answer(mode, NOBODY), answer(mode, ULM, NEXT))
    played = client.play(scenario, script, mode=mode, max_retries=2)
    assert played.value["city"] == ULM
    assert "greater than 0" in script.requests[1].body.decode()
    played.assert_paid(chat_paid(9, 4), chat_paid(1000, 700, cached=600, reasoning=300))


def test_a_typed_answer_grows_with_the_stream(upstream: Upstream, client: Clients) -> None:
    played = client.play("create_partial", in_turn(upstream, tool_events(tool_call("City", ULM), USAGE)))
    assert played.value["last"] == ULM
    assert played.value["first"] != ULM
    played.assert_paid(chat_paid(9, 4))
