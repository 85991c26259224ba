"""What a call costs: the ledger against nano-dollars computed by hand from the price list."""

from typing import Any

import pytest

from tests.rig import wire
from tests.rig.catalog import (
    CONTEXT_TOKENS_MAX,
    OUTPUT_TOKENS_MAX,
    cost_nano_usd,
    estimated_input,
    estimated_output,
)
from tests.rig.gateway import Gateway, Key, chat_body, prompt
from tests.rig.upstream import Send, Upstream

USAGE = wire.usage(1000, 7)


async def charged(
    gateway: Gateway, upstream: Upstream, key: Key, usage: object, *, stream: bool, model: str
) -> dict[str, Any]:
    if stream:
        events = [*wire.text_events("a", "b"), wire.event(wire.usage_chunk(usage)), wire.DONE]
        assert (await gateway.streamed(key, upstream.stream(*events), model=model)).is_complete
    else:
        assert (await gateway.chat(key, upstream.reply(wire.completion("ab", usage=usage)), model=model)).status == 200
    return gateway.entry(key)


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize("model", ["rig-chat", "rig-cheap"])
@pytest.mark.parametrize(
    ("prompt_tokens", "completion_tokens", "cached", "reasoning"),
    [
        pytest.param(19, 5, 0, 0, id="plain"),
        pytest.param(1, 1, 0, 0, id="one token each way"),
        pytest.param(1234, 567, 1024, 0, id="cached"),
        pytest.param(1024, 1, 1024, 0, id="all cached"),
        pytest.param(33, 900, 0, 832, id="reasoning"),
        pytest.param(33, 832, 0, 832, id="only reasoning"),
        pytest.param(2077, 1999, 1537, 1501, id="cached and reasoning"),
        pytest.param(5, 0, 0, 0, id="no output"),
        pytest.param(CONTEXT_TOKENS_MAX - 1, OUTPUT_TOKENS_MAX, 0, 0, id="as large as the model allows"),
    ],
)
async def test_a_call_costs_its_tokens_at_the_price_list(
    gateway: Gateway,
    upstream: Upstream,
    key: Key,
    stream: bool,
    model: str,
    prompt_tokens: int,
    completion_tokens: int,
    cached: int,
    reasoning: int,
) -> None:
    usage = wire.usage(prompt_tokens, completion_tokens, cached=cached, reasoning=reasoning)
    entry = await charged(gateway, upstream, key, usage, stream=stream, model=model)
    expected = cost_nano_usd(prompt_tokens, completion_tokens, cached=cached, reasoning=reasoning, model=model)
    assert (entry["cost_nano_usd"], entry["charge_nano_usd"]) == (expected, expected)
    assert entry["input_tokens"] == prompt_tokens
    assert entry["cached_input_tokens"] == cached
    assert entry["output_tokens"] == completion_tokens
    assert entry["reasoning_tokens"] == reasoning
    assert (entry["usage_source"], entry["outcome"], entry["payer"]) == ("provider", "ok", "quota")
    assert entry["requested_model"] == entry["served_model"] == model


async def test_cost_usd_is_the_same_number_as_text(gateway: Gateway, upstream: Upstream, key: Key) -> None:
    entry = await charged(gateway, upstream, key, wire.usage(3, 1), stream=False, model="rig-cheap")
    assert entry["cost_nano_usd"] == 127  # 3 * 18.75 + 70 = 126.25, rounded upward once
    assert isinstance(entry["cost_usd"], str)
    assert entry["cost_usd"] == "0.000000127"


@pytest.mark.parametrize(
    "usage",
    [
        pytest.param({"prompt_tokens": 1000, "completion_tokens": 7, "total_tokens": 1007}, id="without details"),
        pytest.param({**USAGE, "prompt_tokens_details": None, "completion_tokens_details": None}, id="null details"),
        pytest.param({**USAGE, "prompt_tokens_details": {}, "vendor": {"x": 1.5}, "cost": 0.1}, id="vendor fields"),
        pytest.param({**USAGE, "prompt_tokens_details": {"cached_tokens": None}}, id="null cached"),
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_usual_variants_of_usage_are_read(
    gateway: Gateway, upstream: Upstream, key: Key, usage: dict[str, object], stream: bool
) -> None:
    entry = await charged(gateway, upstream, key, usage, stream=stream, model="rig-chat")
    assert (entry["cost_nano_usd"], entry["usage_source"]) == (cost_nano_usd(1000, 7), "provider")


def placed(where: str) -> list[bytes]:
    """A stream that reports `USAGE`, and something smaller before it, at an unusual place."""
    first, *_ = role = wire.text_events("a", finish=None)
    finish = wire.event(wire.chunk(finish="stop"))
    usage = wire.event(wire.usage_chunk(USAGE))
    partial = wire.event(wire.usage_chunk(wire.usage(1000, 2)))
    return {
        "twice": [*role, partial, finish, usage, wire.DONE],
        "in every chunk": [
            first,
            *(wire.event(wire.chunk("a", extra={"usage": wire.usage(1000, sent)})) for sent in range(1, 8)),
            finish,
            wire.DONE,
        ],
        "with choices": [*role, wire.event(wire.chunk("b", extra={"usage": USAGE})), finish, wire.DONE],
        "with the finish reason": [*role, wire.event(wire.chunk(finish="stop", extra={"usage": USAGE})), wire.DONE],
        "before the finish reason": [*role, usage, finish, wire.DONE],
        "after [DONE]": [*role, finish, wire.DONE, usage],
        "without [DONE]": [*role, finish, usage],
        "smaller at last": [*role, wire.event(wire.usage_chunk(wire.usage(1000, 9000))), finish, usage, wire.DONE],
    }[where]


@pytest.mark.parametrize(
    "where",
    [
        "twice",
        "in every chunk",
        "with choices",
        "with the finish reason",
        "before the finish reason",
        "after [DONE]",
        "without [DONE]",
        "smaller at last",
    ],
)
async def test_the_last_usage_wins_wherever_it_stands(
    gateway: Gateway, upstream: Upstream, key: Key, where: str
) -> None:
    answer = await gateway.streamed(key, upstream.stream(*placed(where)))
    assert answer.is_complete
    entry = gateway.entry(key)
    assert (entry["input_tokens"], entry["output_tokens"]) == (1000, 7)
    assert (entry["cost_nano_usd"], entry["usage_source"]) == (cost_nano_usd(1000, 7), "provider")


async def test_usage_split_over_writes_is_read_whole(gateway: Gateway, upstream: Upstream, key: Key) -> None:
    whole = b"".join([*wire.text_events("a"), wire.event(wire.usage_chunk(USAGE)), wire.DONE])
    middle = whole.index(b'"completion_tokens"') + 5
    script = upstream.script(
        Send(wire.stream_head() + wire.framed(whole[:middle])), Send(wire.framed(whole[middle:]) + wire.LAST_CHUNK)
    )
    await gateway.streamed(key, script)
    assert gateway.entry(key)["cost_nano_usd"] == cost_nano_usd(1000, 7)


async def test_words_about_usage_in_the_content_are_no_usage(gateway: Gateway, upstream: Upstream, key: Key) -> None:
    boast = '"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}'
    events = [*wire.text_events(boast), wire.event(wire.usage_chunk(USAGE)), wire.event(wire.chunk(boast)), wire.DONE]
    await gateway.streamed(key, upstream.stream(*events))
    assert gateway.entry(key)["cost_nano_usd"] == cost_nano_usd(1000, 7)


@pytest.mark.parametrize(
    "deltas",
    [
        pytest.param(["Hello"], id="one"),
        pytest.param(["a"] * 40, id="more events than four-byte tokens"),
        pytest.param(["Grüße 🌍 " * 20], id="more bytes than events"),
        pytest.param(["", "", "x" * 9, ""], id="empty deltas do not count"),
        pytest.param(["wort " * 100] * 80, id="longer than what is kept"),
    ],
)
async def test_a_stream_without_usage_is_estimated_by_the_written_rule(
    gateway: Gateway, upstream: Upstream, key: Key, deltas: list[str]
) -> None:
    script = upstream.stream(*wire.text_events(*deltas), wire.DONE)
    await gateway.streamed(key, script)
    entry = gateway.entry(key)
    expected = (estimated_input(prompt(script)), estimated_output(*deltas))
    assert (entry["input_tokens"], entry["output_tokens"]) == expected
    assert entry["cost_nano_usd"] == cost_nano_usd(*expected)
    assert (entry["usage_source"], entry["outcome"]) == ("estimated", "ok")


async def test_reasoning_and_tool_arguments_count_as_output_when_estimated(
    gateway: Gateway, upstream: Upstream, key: Key
) -> None:
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"city":'}}
    rest = {"index": 0, "function": {"arguments": '"Ulm"}'}}
    events = [
        wire.event(wire.chunk(role="assistant", reasoning_content="thinking about it ")),
        wire.event(wire.chunk("Well, ")),
        wire.event(wire.chunk(tool_calls=[call])),
        wire.event(wire.chunk(tool_calls=[rest])),
        wire.event(wire.chunk(finish="tool_calls")),
        wire.DONE,
    ]
    await gateway.streamed(key, upstream.stream(*events))
    least = estimated_output("thinking about it ", "Well, ", '{"city":', '"Ulm"}')
    assert least <= gateway.entry(key)["output_tokens"] <= least + 1  # a name may count


@pytest.mark.parametrize("content", ["Hello", "Grüße 🌍 " * 20], ids=["short", "long"])
async def test_an_answer_without_usage_is_estimated_by_the_written_rule(
    gateway: Gateway, upstream: Upstream, key: Key, content: str
) -> None:
    script = upstream.reply(wire.completion(content))
    assert (await gateway.chat(key, script)).status == 200
    entry = gateway.entry(key)
    expected = (estimated_input(prompt(script)), estimated_output(content))
    assert (entry["input_tokens"], entry["output_tokens"]) == expected
    assert (entry["cost_nano_usd"], entry["usage_source"]) == (cost_nano_usd(*expected), "estimated")


async def test_every_choice_counts_when_estimated(gateway: Gateway, upstream: Upstream, key: Key) -> None:
    answer = wire.completion("four" * 10)
    answer["choices"] = [{**answer["choices"][0], "index": index} for index in range(3)]
    assert (await gateway.chat(key, upstream.reply(answer), n=3)).status == 200
    assert gateway.entry(key)["output_tokens"] == 30


async def test_several_text_parts_count_together_when_estimated(gateway: Gateway, upstream: Upstream, key: Key) -> None:
    script = upstream.reply(wire.completion("Hello"))
    parts = [{"type": "text", "text": prompt(script)}, {"type": "text", "text": "ü" * 100}]
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": parts}]
    assert (await gateway.chat(key, script, messages=messages)).status == 200
    assert gateway.entry(key)["input_tokens"] == estimated_input("be brief" + prompt(script) + "ü" * 100)


ABSURD = [
    pytest.param({**USAGE, "completion_tokens": -7, "total_tokens": 993}, id="negative output"),
    pytest.param({**USAGE, "prompt_tokens": -1000, "total_tokens": -993}, id="negative input"),
    pytest.param({**USAGE, "completion_tokens": 7.5}, id="fraction"),
    pytest.param({**USAGE, "completion_tokens": "7"}, id="string"),
    pytest.param({**USAGE, "completion_tokens": True}, id="bool"),
    pytest.param({**USAGE, "completion_tokens": None}, id="null count"),
    pytest.param({**USAGE, "completion_tokens": [7]}, id="list"),
    pytest.param({**USAGE, "completion_tokens": 10**25, "total_tokens": 10**25 + 1000}, id="25 digits"),
    pytest.param({**USAGE, "completion_tokens": 2**63 - 1}, id="int64"),
    pytest.param({**USAGE, "total_tokens": 3}, id="total below the sum"),
    pytest.param(wire.usage(1000, 7, cached=1001), id="more cached than prompt"),
    pytest.param(wire.usage(1000, 7, reasoning=8), id="more reasoning than output"),
    pytest.param(wire.usage(1000, 7, cached=-1), id="negative cached"),
    pytest.param(wire.usage(1000, OUTPUT_TOKENS_MAX + 1), id="above the output cap"),
    pytest.param(wire.usage(CONTEXT_TOKENS_MAX + 1, 7), id="above the context"),
    pytest.param({}, id="empty"),
    pytest.param({"prompt_tokens": {"completion_tokens": 1}}, id="nested"),
]


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize("usage", ABSURD)
async def test_absurd_usage_is_refused_estimated_and_flagged(
    gateway: Gateway, upstream: Upstream, key: Key, usage: object, stream: bool
) -> None:
    if stream:
        script = upstream.stream(*wire.text_events("a", "b"), wire.event(wire.usage_chunk(usage)), wire.DONE)
        assert (await gateway.streamed(key, script)).is_complete
    else:
        script = upstream.reply(wire.completion("ab", usage=usage))
        assert (await gateway.chat(key, script)).status == 200
    entry = gateway.entry(key)
    expected = (estimated_input(prompt(script)), 2 if stream else 1)
    assert (entry["input_tokens"], entry["output_tokens"]) == expected
    assert (entry["usage_source"], entry["outcome"]) == ("estimated", "ok")
    assert entry["cost_nano_usd"] == cost_nano_usd(*expected)
    if (
        usage or not stream
    ):  # an empty object in a stream says nothing, and is looked at only where it comes with the end
        assert "usage" in str(entry["flags"])


@pytest.mark.parametrize("number", [b"NaN", b"1e400", b"-Infinity", b"7" * 5000], ids=["NaN", "1e400", "inf", "digits"])
async def test_usage_that_is_no_json_is_estimated(
    gateway: Gateway, upstream: Upstream, key: Key, number: bytes
) -> None:
    broken = wire.event(wire.usage_chunk(USAGE)).replace(b'"completion_tokens":7', b'"completion_tokens":' + number)
    script = upstream.stream(*wire.text_events("a", "b"), broken, wire.DONE)
    answer = await gateway.streamed(key, script)
    assert answer.body.endswith(wire.DONE)
    entry = gateway.entry(key)
    assert (entry["usage_source"], entry["output_tokens"]) == ("estimated", 2)
    assert "usage" in str(entry["flags"])


async def test_an_absurd_correction_does_not_undo_honest_usage(gateway: Gateway, upstream: Upstream, key: Key) -> None:
    events = [*wire.text_events("a"), wire.event(wire.usage_chunk(USAGE))]
    absurd = wire.event(wire.usage_chunk({**USAGE, "completion_tokens": -1}))
    await gateway.streamed(key, upstream.stream(*events, absurd, wire.DONE))
    entry = gateway.entry(key)
    assert entry["cost_nano_usd"] > 0
    assert "usage" in str(entry["flags"])


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_usage_above_the_hold_is_charged_in_full_and_flagged(
    gateway: Gateway, upstream: Upstream, key: Key, stream: bool
) -> None:
    """The provider ignored `max_tokens`; what it reports is within the model's caps, so it is owed."""
    usage = wire.usage(1000, 5000)
    if stream:
        events = [*wire.text_events("a"), wire.event(wire.usage_chunk(usage)), wire.DONE]
        await gateway.streamed(key, upstream.stream(*events), max_tokens=10)
    else:
        await gateway.chat(key, upstream.reply(wire.completion("a", usage=usage)), max_tokens=10)
    entry = gateway.entry(key)
    assert entry["cost_nano_usd"] == cost_nano_usd(1000, 5000)
    assert entry["usage_source"] == "provider"
    assert "over_hold" in str(entry["flags"])


async def test_a_hundred_small_calls_cost_a_hundred_times_one(gateway: Gateway, upstream: Upstream, key: Key) -> None:
    """Each entry is rounded once, upward; the sum adds nothing and loses nothing."""
    script = upstream.reply(wire.completion("a", usage=wire.usage(1, 0)))
    for _ in range(100):
        assert (await gateway.post(key, chat_body(script, model="rig-cheap"))).status == 200
    rows = gateway.admin_json("GET", "/admin/costs", params={"group_by": "creator", "creator": key.creator})["data"]
    mine = [row for row in rows if row["creator"] == key.creator]
    assert [(row["calls"], row["cost_nano_usd"], row["input_tokens"]) for row in mine] == [(100, 1900, 100)]
