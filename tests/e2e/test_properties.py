"""What must hold for any calls, shown for generated ones against the running gateway."""

import asyncio
from collections import defaultdict
from collections.abc import Coroutine
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.rig import catalog, wire
from tests.rig.catalog import CONTEXT_TOKENS_MAX, OUTPUT_TOKENS_MAX, cost_nano_usd
from tests.rig.client import Answer
from tests.rig.gateway import Gateway, chat_body
from tests.rig.upstream import Script, Upstream

T = TypeVar("T")

MODELS = ["rig-chat", "rig-cheap"]
NAMES = st.sampled_from(["", "search", "chat", "Feature.1"])


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def is_usage_possible(numbers: tuple[int, int, int, int]) -> bool:
    prompt, completion, cached, reasoning = numbers
    return cached <= prompt and reasoning <= completion and prompt + completion <= CONTEXT_TOKENS_MAX


USAGES = st.tuples(
    st.integers(1, CONTEXT_TOKENS_MAX - 1),
    st.integers(0, OUTPUT_TOKENS_MAX),
    st.integers(0, 5_000),
    st.integers(0, 5_000),
).filter(is_usage_possible)


def scripted(upstream: Upstream, numbers: tuple[int, int, int, int], *, is_streaming: bool) -> Script:
    prompt, completion, cached, reasoning = numbers
    usage = wire.usage(prompt, completion, cached=cached, reasoning=reasoning)
    if is_streaming:
        return upstream.stream(*wire.text_events("a"), wire.event(wire.usage_chunk(usage)), wire.DONE)
    return upstream.reply(wire.completion("a", usage=usage))


@settings(max_examples=40)
@given(numbers=USAGES, model=st.sampled_from(MODELS), is_streaming=st.booleans())
def test_any_usage_costs_exactly_its_price(
    gateway: Gateway, upstream: Upstream, numbers: tuple[int, int, int, int], model: str, is_streaming: bool
) -> None:
    key = gateway.new_key()
    script = scripted(upstream, numbers, is_streaming=is_streaming)
    assert run(gateway.chat(key, script, model=model, stream=is_streaming)).status == 200
    prompt, completion, cached, reasoning = numbers
    entry = gateway.entry(key)
    assert entry["cost_nano_usd"] == cost_nano_usd(prompt, completion, cached=cached, reasoning=reasoning, model=model)


PRICE = st.decimals(min_value=0, max_value=1000, places=6).map(lambda price: format(price, "f"))


@pytest.fixture(scope="module")
def priced(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A gateway with twenty models at generated prices, and these prices."""
    prices: list[dict[str, str]] = []

    @settings(max_examples=20, database=None)
    @given(price=st.fixed_dictionaries(dict.fromkeys(("input", "cached", "output", "reasoning"), PRICE)))
    def generate(price: dict[str, str]) -> None:
        prices.append(price)

    generate()
    models = "".join(
        catalog.model(f"generated-{number}")
        .replace("2.50", price["input"])
        .replace("0.3125", price["cached"])
        .replace("10.00", price["output"])
        .replace("12.34567", price["reasoning"])
        for number, price in enumerate(prices)
    )
    gateway = Gateway(tmp_path_factory.mktemp("priced"), upstream, models=models)
    try:
        yield gateway.start(), prices
        gateway.audit()
        assert gateway.stop() == 0
    finally:
        gateway.close()


def test_any_price_is_charged_exactly(priced: Any, upstream: Upstream) -> None:
    gateway, prices = priced
    prompt, completion, cached, reasoning = numbers = (1237, 811, 513, 17)
    for number, price in enumerate(prices):
        key = gateway.new_key()
        answer = run(gateway.chat(key, scripted(upstream, numbers, is_streaming=False), model=f"generated-{number}"))
        assert answer.status == 200
        nano = 1000 * (
            (prompt - cached) * Fraction(price["input"])
            + cached * Fraction(price["cached"])
            + (completion - reasoning) * Fraction(price["output"])
            + reasoning * Fraction(price["reasoning"])
        )
        assert gateway.entry(key)["cost_nano_usd"] == -(-nano.numerator // nano.denominator), price


ENDINGS = ["ok", "stream", "refused", "nonsense", "cut", "dead", "invalid", "unknown model"]


def call(upstream: Upstream, ending: str) -> tuple[Script | None, dict[str, object]]:
    """What is asked so that the call ends like this."""
    numbers = (100, 10, 0, 0)
    error = {"error": {"message": "no", "type": "x", "param": None, "code": None}}
    return {
        "ok": lambda: (scripted(upstream, numbers, is_streaming=False), {}),
        "stream": lambda: (scripted(upstream, numbers, is_streaming=True), {"stream": True}),
        "refused": lambda: (upstream.reply(error, 400), {}),
        "nonsense": lambda: (upstream.reply(b"null"), {}),
        "cut": lambda: (upstream.stream(*wire.text_events("a", finish=None)), {"stream": True}),
        "dead": lambda: (None, {"model": "rig-dead"}),
        "invalid": lambda: (None, {"max_tokens": 0}),
        "unknown model": lambda: (None, {"model": "gpt-nowhere"}),
    }[ending]()


@settings(max_examples=10)
@given(endings=st.lists(st.sampled_from(ENDINGS), min_size=1, max_size=24))
def test_every_admitted_call_has_exactly_one_final_entry(
    gateway: Gateway, upstream: Upstream, endings: list[str]
) -> None:
    key = gateway.new_key()

    async def all_at_once() -> list[Answer]:
        calls = [call(upstream, ending) for ending in endings]
        return await asyncio.gather(*(gateway.chat(key, script, **fields) for script, fields in calls))

    answers = run(all_at_once())
    admitted = {
        answer.request_id
        for answer, ending in zip(answers, endings, strict=True)
        if ending not in {"invalid", "unknown model"}
    }
    entries = gateway.entries(creator=key.creator)
    assert sorted(entry["request_id"] for entry in entries) == sorted(admitted)


CALLS = st.lists(st.tuples(USAGES, st.sampled_from(MODELS), st.booleans(), NAMES, NAMES), min_size=1, max_size=12)
GROUPS = ["creator", "feature", "agent", "requested_model", "served_model", "provider", "endpoint", "outcome"]


@settings(max_examples=8)
@given(calls=CALLS, groups=st.lists(st.sampled_from(GROUPS), min_size=1, max_size=3, unique=True))
def test_costs_and_charges_are_the_sums_of_the_entries(
    gateway: Gateway, upstream: Upstream, calls: list[Any], groups: list[str]
) -> None:
    key = gateway.new_key()
    for numbers, model, is_streaming, feature, agent in calls:
        script = scripted(upstream, numbers, is_streaming=is_streaming)
        headers = [(f"x-gateway-{name}", value) for name, value in (("feature", feature), ("agent", agent)) if value]
        body = chat_body(script, model=model, stream=is_streaming)
        assert run(gateway.post(key, body, headers)).status == 200
    entries = gateway.entries(creator=key.creator)
    assert len(entries) == len(calls)

    sums: dict[tuple[str, ...], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for entry in entries:
        row = (1, entry["input_tokens"], entry["output_tokens"], entry["cost_nano_usd"])
        group = tuple(entry[name] for name in groups)
        sums[group] = [total + value for total, value in zip(sums[group], row, strict=True)]
    reported = gateway.admin_json("GET", "/admin/costs", params={"group_by": ",".join(groups), "creator": key.creator})[
        "data"
    ]
    assert {
        tuple(row[name] for name in groups): [
            row["calls"],
            row["input_tokens"],
            row["output_tokens"],
            row["cost_nano_usd"],
        ]
        for row in reported
    } == sums

    month = datetime.now(UTC).strftime("%Y-%m")
    charges = gateway.admin_json("GET", "/admin/charges", params={"month": month})["data"]
    (mine,) = [row for row in charges if row["creator"] == key.creator]
    assert mine["charge_nano_usd"] == sum(entry["charge_nano_usd"] for entry in entries)


@settings(max_examples=10)
@given(limit=st.integers(0, 30), asked=st.integers(1, 40))
def test_no_more_than_the_limit_ever_pass(gateway: Gateway, upstream: Upstream, limit: int, asked: int) -> None:
    key = gateway.new_key(gateway.new_creator("open", requests_per_hour=limit))
    script = scripted(upstream, (1, 1, 0, 0), is_streaming=False)

    async def all_at_once() -> list[Answer]:
        return await asyncio.gather(*(gateway.chat(key, script) for _ in range(asked)))

    passed = [answer for answer in run(all_at_once()) if answer.status == 200]
    assert len(passed) == len(script.requests) == min(limit, asked)


@settings(max_examples=10)
@given(amounts=st.lists(st.integers(1, 8), min_size=1, max_size=12), quota=st.integers(1, 20))
def test_the_month_never_costs_more_than_its_quota(
    gateway: Gateway, upstream: Upstream, amounts: list[int], quota: int
) -> None:
    """Each call may use all it asked for, at a dollar a token, and all come at once."""
    key = gateway.new_key(gateway.new_creator("open", quota_usd_per_month=quota))

    async def all_at_once() -> list[Answer]:
        return await asyncio.gather(
            *(
                gateway.chat(
                    key,
                    scripted(upstream, (0, amount, 0, 0), is_streaming=False),
                    model="rig-dear",
                    max_tokens=amount,
                )
                for amount in amounts
            )
        )

    answers = run(all_at_once())
    assert {answer.status for answer in answers} <= {200, 429}
    assert sum(entry["cost_nano_usd"] for entry in gateway.entries(creator=key.creator)) <= quota * 10**9
