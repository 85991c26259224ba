"""Money adds up: every entry is rounded up once, nothing else ever is, and what an abandoned call used is owed."""

import asyncio
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admission import Admitted
from gateway.attempts import Attempts
from gateway.catalog import Model, Price, ProviderRow
from gateway.chat import read_chat_request
from gateway.config import Settings
from gateway.ledger.records import Entry
from gateway.ledger.rollups import NameBook, Rollups
from gateway.ledger.rows import entry_row
from gateway.ledger.schema import USAGE_DAILY_KEY, USAGE_DAILY_SUMS, entries, usage_daily
from gateway.metering import Ending, reported
from gateway.model_request import NOTHING_OUTGOING as SENT
from gateway.pricing import cost_nano_usd, usd, worst_case_nano_usd
from gateway.providers.mock import MockProvider
from gateway.settlement import settle
from gateway.usage import Usage
from tests.clocked_gateway import Answer, Clock, chat_model, image_model, opened, utc
from tests.ledger.books import entry, hold, rows
from tests.rig import wire
from tests.rig.catalog import cost_nano_usd as rig_cost
from tests.rig.client import connect
from tests.rig.gateway import Gateway, Key
from tests.rig.upstream import Gate, Send, Upstream
from tests.rig.waiting import soon

MILLION = 1_000_000
PICO_18_750 = Price("1.x", input=18_750, output=70_000)
"""0.01875 USD a million tokens: 18.75 nano-dollars a token."""
ROW = ProviderRow("mock", "mock")


def admitted(price: Price, own_price: Price | None = None) -> Admitted:
    """A call of one token that the quota pays, at the catalog's price or the creator's own."""
    model = Model("tiny", "mock", "tiny", frozenset({"chat"}), price)
    request = read_chat_request(b'{"model":"tiny","messages":[{"role":"user","content":"a"}]}')
    provider = MockProvider(ROW, "", Settings())
    once, made = Attempts(1, attempts_max=1, retries=0, ends_at=0.0), hold("req_1")
    return Admitted(request, model, provider, ROW, made, (), SENT, own_price or price, None, made.route, (), once)


def finished(price: Price, usage: Usage, request_id: str = "req_1") -> Entry:
    """The entry of a call as the pipeline makes it: metered, settled, and written down."""
    ending = Ending(reported(usage, price), "ok")
    owed = settle(admitted(price), ending)
    changes = {
        "usage": usage,
        "cost_nano_usd": owed.cost_nano_usd,
        "charge_nano_usd": owed.charge_nano_usd,
        "payer_amount": owed.payer_amount,
    }
    return entry(request_id, changes=changes)


def test_a_million_one_token_calls_sum_to_a_million_times_the_entry_rounded_up_once() -> None:
    """18.75 nano-dollars are entered as 19: a million of them are 19 million, not 18.75 and not one more."""
    # With a price of the creator's own, settling prices each call anew.
    made = admitted(PICO_18_750, replace(PICO_18_750))
    usage = Usage(uncached_input=1)
    ending = Ending(reported(usage, PICO_18_750), "ok")
    sums = Rollups(NameBook(lambda day: ()))
    row = list(entry_row(finished(PICO_18_750, usage), "id", 0))
    place = [entries.columns.keys().index(name) for name in ("cost_nano_usd", "charge_nano_usd", "payer_amount")]
    used = 0
    for _ in range(MILLION):
        owed = settle(made, ending)
        row[place[0]], row[place[1]], row[place[2]] = owed[:3]
        used += owed.actuals["nano_usd"]
        sums.add(row)
    ((attempts, calls),) = [_named(found, "attempts", "calls") for found in sums.rows()]
    assert (attempts, calls) == (MILLION, MILLION)
    ((cost, charge, amount, tokens),) = [
        _named(found, "cost_nano_usd", "charge_nano_usd", "payer_amount", "uncached_input") for found in sums.rows()
    ]
    assert cost == charge == amount == used == 19 * MILLION
    assert tokens == MILLION
    assert usd(cost) == "0.019"


def _named(row: tuple[Any, ...], *names: str) -> list[Any]:
    columns = [column if isinstance(column, str) else column.name for column in (*USAGE_DAILY_KEY, *USAGE_DAILY_SUMS)]
    assert columns == usage_daily.columns.keys(), "a rollup row is its key and its sums"
    found = dict(zip(columns, row, strict=True))
    return [found[name] for name in names]


PRICES = st.integers(min_value=0, max_value=10**9)
TOKENS = st.integers(min_value=0, max_value=10**7)


@given(PRICES, PRICES, PRICES, PRICES, PRICES, st.tuples(TOKENS, TOKENS, TOKENS, TOKENS, TOKENS))
def test_an_entry_is_never_below_the_exact_price_and_less_than_a_nano_dollar_above(
    input: int, cached: int, written: int, output: int, reasoning: int, tokens: tuple[int, int, int, int, int]
) -> None:
    price = Price("1.x", input=input, cached_input=cached, cache_write=written, output=output, reasoning=reasoning)
    uncached, from_cache, to_cache, text, thought = tokens
    usage = Usage(
        uncached_input=uncached, cached_input=from_cache, cache_write=to_cache, text_output=text, reasoning=thought
    )
    exact = Fraction(
        uncached * input + from_cache * cached + to_cache * written + text * output + thought * reasoning, 1_000
    )
    cost = finished(price, usage).cost_nano_usd
    assert type(cost) is int
    assert 0 <= cost - exact < 1


@given(PRICES, PRICES, TOKENS, TOKENS, TOKENS, TOKENS)
def test_no_usage_within_the_bounds_of_a_hold_costs_more_than_the_hold(
    input: int, output: int, input_max: int, output_max: int, tokens_in: int, tokens_out: int
) -> None:
    price = Price("1.x", input=input, output=output)
    held = worst_case_nano_usd(price, input_tokens=input_max, output_tokens=output_max)
    usage = Usage(uncached_input=min(tokens_in, input_max), text_output=min(tokens_out, output_max))
    assert cost_nano_usd(usage, price) <= held


CALLS = 2_000


async def test_thousands_of_calls_through_the_pipeline_sum_to_their_entries(tmp_path: Path) -> None:
    """One token each at 18.75 nano-dollars, 19 an entry: in the entries, the rollup, the counters and the creator's view."""
    async with opened(tmp_path, Clock(utc(2025, 6, 11, 12))) as gateway:
        key = await gateway.new_key(budget_usd_per_month=100, budget_hard_usd_per_month=100)
        for _ in range(CALLS // 100):
            answers = await asyncio.gather(*(gateway.chat(key, "one-token", text="a") for _ in range(100)))
            assert {answer.headers["x-gateway-cost-usd"] for answer in answers} == {"0.000000019"}
        owed = 19 * CALLS
        assert rows(gateway.path, "SELECT count(*), sum(cost_nano_usd), sum(charge_nano_usd) FROM entries") == [
            (CALLS, owed, owed)
        ]
        assert gateway.rollup("calls, cost_nano_usd, charge_nano_usd, payer_amount, uncached_input") == [
            (CALLS, owed, owed, owed, CALLS)
        ]
        limits = await gateway.limits(key)
        for name in ("quota_usd_per_month", "budget_usd_per_month", "budget_hard_usd_per_month"):
            assert (limits[name]["used"], limits[name]["held"]) == (owed, 0), name
        month = (await gateway.view(key))["month"]
        assert (month["calls"], month["cost_usd"], month["charge_usd"]) == (CALLS, "0.000038", "0.000038")
        assert gateway.differences() == []


async def test_no_amount_is_ever_stored_as_anything_but_an_integer(tmp_path: Path) -> None:
    async with opened(tmp_path, Clock(utc(2025, 6, 11, 12))) as gateway:
        key = await gateway.new_key(prices={"talk": {"input_usd_per_mtok": "0.000001"}})
        await gateway.services.credits.grant("acme", credits="20")
        await gateway.chat(key)
        await gateway.images(key, "gallery-half", n=3)
        painted = await gateway.images(key)
        await gateway.services.credits.refund(painted.request_id, amount_usd="0.000000001")
        await gateway.services.credits.adjust("acme", "quota", amount_usd="-0.123456789")
        for table, columns in (
            ("entries", "cost_nano_usd charge_nano_usd payer_amount uncached_input text_output pieces"),
            ("usage_daily", "cost_nano_usd charge_nano_usd payer_amount uncached_input text_output pieces calls"),
            ("credit_grants", "credits expires_at"),
        ):
            for column in columns.split():
                kinds = {kind for (kind,) in rows(gateway.path, f"SELECT DISTINCT typeof({column}) FROM {table}")}
                assert kinds <= {"integer", "null"}, f"{table}.{column}"
        assert gateway.entries("charge_nano_usd", kind="refund") == [(-1,)]
        assert gateway.entries("charge_nano_usd", kind="adjustment") == [(-123_456_789,)]
        assert gateway.differences() == []


@pytest.mark.parametrize(
    ("own_price", "owed"),
    [
        pytest.param("0.000001", 1, id="a pico-dollar a token is owed as a nano-dollar"),
        pytest.param("0.00375", 4, id="3.75 nano-dollars are owed as 4"),
        pytest.param("0", 0, id="a price of 0 is a price"),
    ],
)
async def test_a_creators_own_price_is_rounded_once_for_itself(tmp_path: Path, own_price: str, owed: int) -> None:
    async with opened(tmp_path, Clock(utc(2025, 6, 11, 12))) as gateway:
        key = await gateway.new_key(prices={"one-token": {"input_usd_per_mtok": own_price}})
        for _ in range(20):
            assert (await gateway.chat(key, "one-token", text="a")).status == 200
        assert gateway.rollup("cost_nano_usd, charge_nano_usd") == [(20 * 19, 20 * owed)]
        assert (await gateway.limits(key))["quota_usd_per_month"]["used"] == 20 * owed
        assert gateway.differences() == []


# Abandoned calls


async def test_a_call_abandoned_without_streaming_is_charged_what_the_provider_reports(tmp_path: Path) -> None:
    """It keeps its hold until the provider has answered, then pays for the answer nobody reads."""
    async with opened(tmp_path, Clock(utc(2025, 6, 11, 12))) as gateway:
        key = await gateway.new_key(quota_usd_per_month=1)
        answer = Answer()
        task = asyncio.get_running_loop().create_task(gateway.chat(key, "waits", max_tokens=50, answer=answer))
        await gateway.has_in_flight(1)
        answer.is_gone = True
        # A token for each byte of "hi", framing for one message and the answer, and 50 tokens of output.
        assert (await gateway.limits(key))["quota_usd_per_month"]["held"] == (2 + 16) * 1_000 + 50 * 10_000
        await task
        # "The quick brown " is sixteen bytes.
        columns = "outcome, usage_source, uncached_input, text_output, cost_nano_usd, charge_nano_usd, payer_amount"
        assert gateway.entries(columns) == [("client_gone", "provider", 1, 4, 41_000, 41_000, 41_000)]
        limit = (await gateway.limits(key))["quota_usd_per_month"]
        assert (limit["used"], limit["held"]) == (41_000, 0)
        assert gateway.differences() == []


async def test_images_abandoned_on_the_way_take_credits_for_those_that_came_back(tmp_path: Path) -> None:
    models = image_model("gallery-half-waits", price="0.02", credits=3, upstream="f100d0n0-half")
    async with opened(tmp_path, Clock(utc(2025, 6, 11, 12)), models=models) as gateway:
        key = await gateway.new_key()
        await gateway.services.credits.grant("acme", credits=20)
        answer = Answer()
        task = asyncio.get_running_loop().create_task(gateway.images(key, "gallery-half-waits", n=4, answer=answer))
        await gateway.has_in_flight(1)
        answer.is_gone = True
        assert (await gateway.view(key))["credits"]["held"] == 12
        await task
        columns = "outcome, usage_source, pieces, cost_nano_usd, charge_nano_usd, payer, payer_amount"
        assert gateway.entries(columns) == [("client_gone", "provider", 2, 40_000_000, 0, "credits", 6)]
        assert (await gateway.view(key))["credits"]["left"] == 14


async def test_a_client_that_hangs_up_while_the_provider_works_pays_what_it_reports(
    gateway: Gateway, upstream: Upstream
) -> None:
    """The same through the real server, by RST, with a usage that no estimate would come to."""
    key: Key = gateway.new_key()
    gate = Gate()
    script = upstream.script(gate, Send(wire.reply(wire.completion("x", usage=wire.usage(4_321, 1_234)))))
    connection = await connect(gateway.port)
    await connection.send(gateway.chat_request(key, script))
    await soon(gate.is_reached.is_set, "the request at the provider")
    await connection.reset()
    gate.open()
    await soon(lambda: gateway.entries(creator=key.creator), "the entry")
    entry_of_call = gateway.entry(key)
    assert (entry_of_call["input_tokens"], entry_of_call["output_tokens"]) == (4_321, 1_234)
    assert entry_of_call["usage_source"] == "provider"
    assert entry_of_call["outcome"] == "client_gone"
    assert entry_of_call["charge_nano_usd"] == entry_of_call["cost_nano_usd"] == rig_cost(4_321, 1_234)


async def test_dear_and_cheap_calls_of_one_month_sum_exactly(tmp_path: Path) -> None:
    """Amounts seven orders apart in one rollup and one counter: no digit of the small ones is lost in the large ones."""
    models = chat_model("dear", input="1000000", output="1000000", upstream="f0d0n1") + chat_model(
        "crumb", input="0.000001", output="0.000001", upstream="f0d0n1"
    )
    async with opened(tmp_path, Clock(utc(2025, 6, 11, 12)), models=models) as gateway:
        key = await gateway.new_key(quota_usd_per_month="1000000000")
        for model in ("dear", "crumb", "crumb", "dear", "crumb"):
            assert (await gateway.chat(key, model, text="a", max_tokens=1)).status == 200
        # A dollar a token; a pico-dollar a token, which is a nano-dollar an entry. "The " is one token.
        owed = int(2 * 2 * Decimal(10) ** 9 + 3)
        assert (await gateway.limits(key))["quota_usd_per_month"]["used"] == owed
        assert (await gateway.view(key))["month"]["charge_usd"] == "4.000000003"
