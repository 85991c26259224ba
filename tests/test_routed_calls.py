"""Calls over several deployments, and answers that are checked: who answers, what is booked, what the client is told."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.clocked_gateway import Clock, ClockedGateway, chat_model, opened, utc

NOON = utc(2026, 5, 10, 12)
ENTRY = "attempt, final, served_model, provider, outcome, error, cost_nano_usd, free_attempts"


def routed(name: str, *deployments: str, more: str = "") -> str:
    places = "".join(f'\n[[models."{name}".deployments]]\n{lines}\n' for lines in deployments)
    return chat_model(name, more=more) + places


def at(provider: str, upstream: str = "echo", *more: str) -> str:
    return "\n".join([f'provider = "{provider}"', f'upstream_model = "{upstream}"', *more])


LATER = "weight = 0"
OWN_PRICE = ("input_usd_per_mtok = 3", "output_usd_per_mtok = 30")
NOWHERE = """
[providers.nowhere]
dialect = "openai"
base_url = "http://127.0.0.1:1/v1"

"""
MODELS = NOWHERE + "".join(
    [
        routed("second-helps", at("mock", "error-503"), at("other", "echo", LATER, *OWN_PRICE)),
        routed("none-helps", at("mock", "error-503"), at("other", "error-429", LATER)),
        routed("callers-fault", at("mock", "error-400"), at("other", "echo", LATER)),
        routed("dies", at("mock", "die"), at("other", "echo", LATER)),
        routed("many", *[at("mock", f"error-50{n}") for n in range(5)]),
        routed("by-name", 'model = "talk-other"', more=""),
        chat_model("again", upstream="error-503", more="retries = 1"),
        chat_model("down", provider="nowhere"),
        chat_model("free-form"),
        chat_model("enforced", more='capabilities = ["json_schema"]'),
    ]
)
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}


def world(folder: Path, **settings: Any) -> Any:
    return opened(folder, Clock(NOON), models=MODELS, **settings)


def entries(gateway: ClockedGateway) -> list[tuple[Any, ...]]:
    return gateway.entries(ENTRY)


async def test_another_deployment_answers_and_is_paid_at_its_own_price(tmp_path: Path) -> None:
    async with world(tmp_path) as gateway:
        answer = await gateway.chat(await gateway.new_key(), "second-helps", text="hi")
        assert (answer.status, answer.headers["x-gateway-attempts"]) == (200, "2")
        assert (answer.headers["x-gateway-model"], answer.headers["x-gateway-provider"]) == ("second-helps", "other")
        ((attempt, final, model, provider, outcome, error, cost, free),) = entries(gateway)
        assert (attempt, final, model, provider, outcome, error) == (1, 1, "second-helps", "other", "ok", "")
        usage = answer.json["usage"]
        assert cost == usage["prompt_tokens"] * 3_000 + usage["completion_tokens"] * 30_000
        (failed,) = orjson.loads(free)
        assert (failed["provider"], failed["error"], failed["status"]) == ("mock", "server_error", 503)
        assert gateway.differences() == []


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stream_falls_back_as_well(tmp_path: Path, stream: bool) -> None:
    async with world(tmp_path) as gateway:
        answer = await gateway.chat(await gateway.new_key(), "second-helps", text="hi", stream=stream)
        assert answer.status == 200
        assert b"You" in answer.body
        assert [row[3:5] for row in entries(gateway)] == [("other", "ok")]


async def test_when_nobody_helps_the_last_refusal_is_told_and_nothing_is_owed(tmp_path: Path) -> None:
    async with world(tmp_path) as gateway:
        answer = await gateway.chat(await gateway.new_key(), "none-helps")
        assert (answer.status, answer.headers["x-gateway-attempts"]) == (429, "2")
        ((_, _, _, provider, outcome, _, cost, free),) = entries(gateway)
        assert (provider, outcome, cost) == ("other", "upstream_refused", 0)
        assert [each["provider"] for each in orjson.loads(free)] == ["mock"]


@pytest.mark.parametrize(("model", "outcome"), [("callers-fault", "upstream_refused"), ("dies", "upstream_died")])
async def test_nobody_else_is_asked_for_what_is_wrong_or_may_have_cost(
    tmp_path: Path, model: str, outcome: str
) -> None:
    async with world(tmp_path) as gateway:
        answer = await gateway.chat(await gateway.new_key(), model)
        assert "x-gateway-attempts" not in answer.headers
        assert [row[3:5] for row in entries(gateway)] == [("mock", outcome)]


async def test_attempts_are_bounded_over_all_deployments(tmp_path: Path) -> None:
    async with world(tmp_path, attempts_max=2) as gateway:
        answer = await gateway.chat(await gateway.new_key(), "many")
        assert answer.headers["x-gateway-attempts"] == "2"
        assert len(orjson.loads(entries(gateway)[0][7])) == 1


async def test_a_deployment_may_be_another_model_of_the_catalog(tmp_path: Path) -> None:
    async with world(tmp_path) as gateway:
        answer = await gateway.chat(await gateway.new_key(), "by-name")
        assert (answer.status, answer.headers["x-gateway-model"]) == (200, "talk-other")
        assert entries(gateway)[0][2:4] == ("talk-other", "other")
        assert gateway.differences() == []


async def test_a_model_that_allows_it_is_asked_again(tmp_path: Path) -> None:
    async with world(tmp_path) as gateway:
        answer = await gateway.chat(await gateway.new_key(), "again")
        assert (answer.status, answer.headers["x-gateway-attempts"]) == (503, "2")


async def test_a_client_about_to_give_up_gets_no_further_attempt(tmp_path: Path) -> None:
    async with world(tmp_path) as gateway:
        answer = await gateway.chat(await gateway.new_key(), "again", headers={"x-stainless-timeout": "0.2"})
        assert answer.status == 503
        assert "x-gateway-attempts" not in answer.headers


async def test_a_deployment_that_keeps_failing_is_left_alone_and_nothing_is_booked(tmp_path: Path) -> None:
    async with world(tmp_path, circuit_failures_max=3) as gateway:
        key = await gateway.new_key()
        assert [(await gateway.chat(key, "down")).status for _ in range(3)] == [502] * 3
        answer = await gateway.chat(key, "down")
        assert (answer.status, answer.code) == (503, "circuit_open")
        assert int(answer.headers["retry-after"]) >= 1
        assert len(entries(gateway)) == 3
        assert (await gateway.chat(key, "talk")).status == 200
        assert gateway.services.deployments.troubled() == ["nowhere/echo"]


async def test_the_hold_covers_the_dearest_deployment(tmp_path: Path) -> None:
    async with world(tmp_path) as gateway:
        key = await gateway.new_key(quota_usd_per_month="0.0001")  # pays for `talk` prices, not for three times those
        answer = await gateway.chat(key, "second-helps", max_tokens=5)
        assert answer.status == 429
        assert (await gateway.chat(key, "talk", max_tokens=5)).status == 200


# Answers that have to match a schema


@pytest.mark.parametrize("stream", [False, True])
async def test_json_is_freed_from_the_words_around_it(tmp_path: Path, stream: bool) -> None:
    async with world(tmp_path) as gateway:
        answer = await gateway.chat(
            await gateway.new_key(), "free-form", text='{"a": 1}', response_format=FORMAT, stream=stream
        )
        assert answer.status == 200
        if stream:
            assert answer.body.endswith(b"data: [DONE]\n\n")
            first = orjson.loads(answer.body.split(b"\n\n")[0].removeprefix(b"data: "))
            assert first["choices"][0]["delta"]["content"] == '{"a": 1}'
        else:
            assert answer.json["choices"][0]["message"]["content"] == '{"a": 1}'
        assert [(row[0], row[1], row[4]) for row in entries(gateway)] == [(1, 1, "ok")]


async def test_an_answer_that_stays_wrong_costs_both_attempts_and_is_not_shown(tmp_path: Path) -> None:
    async with world(tmp_path) as gateway:
        answer = await gateway.chat(await gateway.new_key(), "free-form", text="no json", response_format=FORMAT)
        assert (answer.status, answer.code, answer.headers["x-should-retry"]) == (502, "schema_mismatch", "false")
        assert b"no json" not in answer.body
        first, second = entries(gateway)
        assert (first[:2], second[:2]) == ((1, 0), (2, 1))
        assert {first[4], second[4]} == {"upstream_invalid"}
        assert 0 < first[6] < second[6]
        view = await gateway.view(await gateway.second_key())
        assert view["month"]["charge_nano_usd"] == first[6] + second[6]
        assert gateway.differences() == []


async def test_a_provider_that_enforces_the_schema_gets_it_and_is_not_checked(tmp_path: Path) -> None:
    async with world(tmp_path) as gateway:
        answer = await gateway.chat(await gateway.new_key(), "enforced", text="no json", response_format=FORMAT)
        assert answer.status == 200
        assert answer.json["choices"][0]["message"]["content"] == "You said: no json"


async def test_a_schema_that_cannot_be_checked_is_refused_with_nothing_taken(tmp_path: Path) -> None:
    async with world(tmp_path) as gateway:
        key = await gateway.new_key()
        bad = {"type": "json_schema", "json_schema": {"schema": {"$ref": "http://127.0.0.1:9/x"}}}
        answer = await gateway.chat(key, "free-form", response_format=bad)
        assert (answer.status, answer.code) == (400, "invalid_value")
        assert entries(gateway) == []
