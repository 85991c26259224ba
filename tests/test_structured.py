"""Answers that must match a schema: what is taken for one, what is told of those that do not match, what is left alone."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from gateway.errors import RequestError
from gateway.schema_checker import CheckTooLong, SchemaChecker
from gateway.structured import StructuredOutput, as_stream

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
GOOD = '{"name": "Ada", "age": 36}'


def structured(schema: Any = SCHEMA) -> StructuredOutput:
    return StructuredOutput(schema)


@pytest.fixture
async def checker() -> AsyncIterator[SchemaChecker]:
    made = SchemaChecker()
    yield made
    await made.close()


def answer(content: Any = GOOD, *, finish_reason: str = "stop", **message: Any) -> dict[str, Any]:
    said = {"role": "assistant", "content": content, **message}
    return {
        "id": "c",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": said, "finish_reason": finish_reason}],
    }


@pytest.mark.parametrize(
    "content",
    [GOOD, f"\n {GOOD}\n", f"```json\n{GOOD}\n```", f"```\n{GOOD}\n```\n", f"Here you are: {GOOD} Anything else?"],
)
async def test_json_is_found_in_what_models_wrap_around_it(checker: SchemaChecker, content: str) -> None:
    found = answer(content)
    assert await structured().checked(found, checker, "acme") is None
    assert found["choices"][0]["message"]["content"] == GOOD


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("I would rather not.", "not JSON"),
        ("", "not JSON"),
        (None, "no text"),
        ('{"name": "Ada"}', "age"),
        ('{"name": "Ada", "age": -1}', "at age"),
        ('{"name": 5, "age": "x"}', "at name"),
        ("[1, 2]", "top level"),
    ],
)
async def test_a_flaw_is_told_with_its_place(checker: SchemaChecker, content: str | None, told: str) -> None:
    flaw = await structured().checked(answer(content), checker, "acme")
    assert flaw is not None
    assert told in flaw


async def test_the_words_about_flaws_are_bounded(checker: SchemaChecker) -> None:
    many = answer(orjson.dumps(["y"] * 1_000).decode())
    flaw = await structured({"type": "array", "items": {"const": "x" * 10_000}}).checked(many, checker, "acme")
    assert flaw is not None
    assert len(flaw) < 2_000


@pytest.mark.parametrize(
    "found",
    [
        answer("cut", finish_reason="length"),
        answer("", finish_reason="content_filter"),
        answer(None, tool_calls=[{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]),
        answer(None, refusal="I cannot."),
    ],
    ids=["length", "filter", "tool calls", "refusal"],
)
async def test_what_is_no_answer_to_the_schema_passes_as_it_is(checker: SchemaChecker, found: dict[str, Any]) -> None:
    before = orjson.dumps(found)
    assert await structured().checked(found, checker, "acme") is None
    assert orjson.dumps(found) == before


async def test_every_choice_has_to_match(checker: SchemaChecker) -> None:
    two = answer()
    two["choices"].append(answer("no")["choices"][0])
    assert await structured().checked(two, checker, "acme") is not None


@pytest.mark.parametrize("schema", [None, [], "object", 5])
def test_what_is_no_object_is_no_schema(schema: Any) -> None:
    with pytest.raises(RequestError) as caught:
        StructuredOutput(schema)
    assert caught.value.param == "response_format.json_schema"


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nothing"},
        {"$ref": "http://127.0.0.1:9/schema.json"},
        {"$ref": "file:///etc/passwd"},
        {"pattern": "("},
        {"description": "x" * 300_000},
    ],
    ids=["no type", "another host", "a file", "no pattern", "too large"],
)
async def test_a_schema_that_cannot_be_checked_is_refused_before_the_call(checker: SchemaChecker, schema: Any) -> None:
    with pytest.raises(RequestError) as caught:
        await structured(schema).require_sound(checker, "acme")
    assert (caught.value.status, caught.value.param) == (400, "response_format.json_schema")


async def test_references_inside_a_schema_are_followed(checker: SchemaChecker) -> None:
    inside = {"$defs": {"n": {"type": "integer"}}, "type": "array", "items": {"$ref": "#/$defs/n"}}
    assert await structured(inside).checked(answer("[1, 2]"), checker, "acme") is None
    assert await structured(inside).checked(answer('["a"]'), checker, "acme") is not None


async def test_a_pattern_that_would_backtrack_for_ever_is_checked_at_once(checker: SchemaChecker) -> None:
    evil = {"type": "string", "pattern": "^(a+)+$"}
    assert await structured(evil).checked(answer(orjson.dumps("a" * 5_000 + "!").decode()), checker, "acme") is not None


def test_the_schema_moves_from_the_format_to_the_prompt() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "response_format": {"type": "json_schema"}}
    made = structured()
    told = made.instruct(body)
    assert "response_format" not in told
    assert told["messages"][1:] == body["messages"]
    assert orjson.dumps(SCHEMA).decode() in told["messages"][0]["content"]
    assert len(told["messages"][0]["content"].encode()) == made.instruction_bytes


def test_a_repair_shows_the_model_its_answer_and_the_flaw() -> None:
    messages = structured().repair(
        {"messages": [{"role": "user", "content": "hi"}]}, answer("nonsense"), "it is not JSON"
    )["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert messages[1]["content"] == "nonsense"
    assert messages[2]["content"].endswith("it is not JSON")


def test_a_whole_answer_as_a_stream_says_the_same() -> None:
    whole = answer() | {"usage": {"prompt_tokens": 1, "completion_tokens": 2}}
    events = [event.removeprefix(b"data: ") for event in as_stream(whole, with_usage=True).split(b"\n\n")[:-1]]
    assert events[-1] == b"[DONE]"
    first, last, usage = map(orjson.loads, events[:-1])
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": GOOD}
    assert last["choices"][0] == {"index": 0, "delta": {}, "finish_reason": "stop"}
    assert (usage["choices"], usage["usage"]) == ([], whole["usage"])
    assert b"usage" not in as_stream(whole, with_usage=False)


ALTERNATIVES = {
    "$defs": {
        "a": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/b"}, {"$ref": "#/$defs/c"}]},
        "b": {"type": "object", "properties": {"x": {"$ref": "#/$defs/a"}}},
        "c": {"type": "object", "required": ["q"], "properties": {"x": {"$ref": "#/$defs/a"}}},
    },
    "$ref": "#/$defs/a",
}


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"x": value}
    return value


async def test_a_check_that_would_never_end_is_ended_and_the_next_one_is_not_harmed(checker: SchemaChecker) -> None:
    """Each level of the value doubles the work: this one would take longer than the universe has."""
    for _ in range(2):
        with pytest.raises(CheckTooLong):
            await checker.flaws("acme", ALTERNATIVES, [nested(100)])
        assert await checker.flaws("acme", SCHEMA, [orjson.loads(GOOD)]) == [[]]
    flaw = await structured(ALTERNATIVES).checked(answer(orjson.dumps(nested(100)).decode()), checker, "acme")
    assert flaw is not None
    assert "too long" in flaw


async def test_the_event_loop_goes_on_while_a_check_takes_its_time(checker: SchemaChecker) -> None:
    turns = 0
    check = asyncio.get_running_loop().create_task(checker.flaws("acme", ALTERNATIVES, [nested(100)]))
    while not check.done():
        await asyncio.sleep(0)
        turns += 1
    assert isinstance(check.exception(), CheckTooLong)
    assert turns > 1_000


async def test_checks_at_once_all_get_their_own_answer(checker: SchemaChecker) -> None:
    found = await asyncio.gather(*(checker.flaws(f"c{n}", {"const": n}, [n, n + 1]) for n in range(20)))
    assert [(first, len(second)) for first, second in found] == [([], 1)] * 20


async def test_nothing_is_started_before_it_is_needed_and_nothing_left_behind() -> None:
    checker = SchemaChecker()
    await checker.close()
    checker = SchemaChecker()
    await checker.flaws("acme", SCHEMA, [1])
    (worker,) = checker._idle
    await checker.close()
    assert worker.returncode is not None


async def test_one_creators_endless_checks_keep_nobody_else_waiting(checker: SchemaChecker) -> None:
    async with asyncio.TaskGroup() as group:
        hostile = [group.create_task(_ended(checker, "mallory")) for _ in range(6)]
        await asyncio.sleep(0)
        assert await checker.flaws("acme", SCHEMA, [orjson.loads(GOOD)]) == [[]]
        assert sum(task.done() for task in hostile) <= 1
        for task in hostile:
            task.cancel()


async def _ended(checker: SchemaChecker, creator: str) -> None:
    with pytest.raises(CheckTooLong):
        await checker.flaws(creator, ALTERNATIVES, [nested(100)])
