"""What is particular to the counters in Redis: whole numbers in Lua, names and expiries, round trips, and the server's clock.

Outages and rebuilds are in `test_redis_epochs.py`.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.counters.base import CounterSeeds, CounterStore, Refused, Taken
from gateway.counters.redis import RedisCounters
from gateway.counters.redis_names import Names
from gateway.errors import ConfigError
from policies import quota, rate_limit
from policies.owners import creator_owner, key_owner
from policies.types import UNLIMITED, Limit
from tests.counters.backend import (
    FakeClock,
    MemoryBackend,
    a_limit,
    admitted,
    budget,
    credits_left,
    gauge,
    in_groups,
    money,
    refused,
    requests,
    tokens,
)
from tests.counters.redis_backend import PACE, RedisBackend
from tests.servers.redis_server import PASSWORD, RedisServer

# Whole numbers


NEAR = st.sampled_from([0, 1, 10**9, 9_007_199 * 10**9, 2**53, 2**62, 2**63 - 1])
INTEGERS = st.builds(
    lambda base, more, sign: sign * (base + more), NEAR, st.integers(-3, 3), st.sampled_from([-1, 1])
) | st.integers(-(2**63), 2**63)
PAIRS = st.lists(st.tuples(INTEGERS, INTEGERS), min_size=1, max_size=40)

CALCULATOR = """
local answers = {}
for number = 1, #ARGV, 2 do
  local a, b = int(ARGV[number]), int(ARGV[number + 1])
  local sum = add(a, b)
  answers[#answers + 1] = {
    text(sum), text(sub(a, b)), text(max(a, b)), text(min(a, b)), text(half(a)), text(a), less(a, b) and 1 or 0,
    more(a, b) and 1 or 0, text(sub(sum, b)), text(int(told(a))), text(int(cmsgpack.unpack(cmsgpack.pack(told(a))))),
  }
end
return answers"""


@pytest.fixture(scope="module")
def calculator() -> str:
    return files("gateway.counters").joinpath("lua/integers.lua").read_text("utf-8") + CALCULATOR


@settings(max_examples=60)
@given(PAIRS)
@example(
    [
        (2**53, 1),
        (2**53 - 1, 1),
        (-(2**53), -1),
        (2**62, 2**62),
        (9_007_198_999_999_999, 1),
        (9_007_198_999_999_999, 9_007_198_999_999_998),
        (-1, 10**9),
        (-1, 1),
    ]
)
def test_whole_numbers_are_exact_beyond_64_bits(
    counters_server: RedisServer, calculator: str, pairs: list[tuple[int, int]]
) -> None:
    said: Any = counters_server.command("EVAL", calculator, 0, *(str(value) for pair in pairs for value in pair))
    for (a, b), row in zip(pairs, said, strict=True):
        expected = [a + b, a - b, max(a, b), min(a, b), a // 2, a, int(a < b), int(a > b), a, a, a]
        assert [int(figure) for figure in row] == expected


# Beside the counters in memory


LARGE = st.builds(
    lambda base, more: max(0, base + more), st.sampled_from([0, 1, 2**52, 2**53, 2**60, 2**61]), st.integers(-2, 2)
)
CAPACITIES = st.sampled_from([5, 2**53 - 1, 2**53 + 1, 2**61 + 3, UNLIMITED])
LARGE_LIMITS = st.one_of(
    st.builds(money, CAPACITIES, LARGE),
    st.builds(lambda c, a, least: money(c, a)._replace(amount_min=least), CAPACITIES, LARGE, LARGE),
    st.builds(lambda c, a, mark: budget(c, a, resume_below=mark), CAPACITIES, LARGE, LARGE),
    st.builds(lambda c, a, lapsed: credits_left(c, a, lapsed=lapsed), CAPACITIES, LARGE, LARGE),
    st.builds(tokens, CAPACITIES, LARGE),
    st.builds(requests, CAPACITIES, st.sampled_from([0, 1, 2**53])),
    st.builds(gauge, CAPACITIES, LARGE),
)
STEPS = st.lists(
    st.tuples(
        st.lists(st.lists(LARGE_LIMITS, min_size=1, max_size=2).map(tuple), min_size=1, max_size=4),
        st.sampled_from(["open", "settle", "release", "end another"]),
        LARGE,
        st.integers(-(2**61), 2**61),
        st.sampled_from([0.0, 1.0, 30.0, 3_700.0]),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=80)
@given(STEPS)
def test_the_answers_are_those_of_the_counters_in_memory(counters_server: RedisServer, steps: list[Any]) -> None:
    """Also with amounts and capacities that no double holds."""
    clock = FakeClock()
    memory, redis = MemoryBackend(clock), RedisBackend(counters_server, clock)
    open_holds: list[str] = []
    limits: dict[str, Limit] = {}
    try:
        for number, (groups, ending, actual, units, seconds) in enumerate(steps):
            limits |= {limit.key: limit for group in groups for limit in group}
            assert redis.preview(*groups) == memory.preview(*groups)
            answer = memory.take(f"h{number}", *groups)
            assert redis.take(f"h{number}", *groups) == answer
            if isinstance(answer, Taken):
                open_holds.append(f"h{number}")
            if ending != "open" and open_holds:
                hold_id = open_holds.pop(0 if ending == "end another" else -1)
                for each in (memory, redis):
                    if ending == "release":
                        each.release(hold_id)
                    else:
                        each.settle(hold_id, {"nano_usd": actual, "token": actual, "credit": -actual})
            for limit in limits.values():
                if limit.kind in ("calendar", "balance"):
                    for each in (memory, redis):
                        each.adjust(limit, units)
            clock.advance(seconds)
            for limit in limits.values():
                assert redis.read(limit) == memory.read(limit)
    finally:
        asyncio.run(redis.close())


# One store of its own


@pytest.fixture
async def counters(counters_server: RedisServer) -> AsyncIterator[RedisCounters]:
    """On the server's clock, in a server without anything else."""
    counters_server.flush()
    counters = RedisCounters(counters_server.url, pace=PACE)
    await counters.connect()
    yield counters
    await counters.aclose()


def keys_of(server: RedisServer) -> list[str]:
    found: Any = server.command("KEYS", "*")
    return sorted(found)


def of_ada(limit: Limit) -> Limit:
    return limit._replace(key=limit.key.replace(":ada", ":c/ada"))


EVERY_KIND = [requests(5), tokens(100, 10), gauge(3), money(1_000, 10), budget(1_000, 10), credits_left(10, 1)]
THIS_MONTH = datetime.now(UTC).timestamp() + 86_400


def current(limit: Limit) -> Limit:
    """In a period that the server's clock has not seen the end of."""
    return limit if limit.resets_at is None else limit._replace(resets_at=THIS_MONTH)


async def test_it_is_a_counter_store_and_takes_seeds(counters: RedisCounters) -> None:
    store: CounterStore = counters
    seeds: CounterSeeds = counters
    limit = current(money(100, 40))
    await seeds.seed_settled(limit.key, 70, resets_at=limit.resets_at)
    assert isinstance(await store.take("h", [(limit,)]), Refused)


async def test_all_of_one_account_shares_a_hash_tag(counters: RedisCounters, counters_server: RedisServer) -> None:
    admitted(await counters.take("h", in_groups([current(of_ada(limit)) for limit in EVERY_KIND])))
    counted = [key for key in keys_of(counters_server) if "{" in key]
    assert len(counted) >= len(EVERY_KIND) + 1
    assert {key[key.index("{") : key.index("}") + 1] for key in counted} == {"{ada}"}


async def test_everything_that_is_counted_expires(counters: RedisCounters, counters_server: RedisServer) -> None:
    await counters.seed_rolling(requests(5, key="other").key, 60, 5, [(1.0, 2), (2.0, 1)])
    admitted(await counters.take("h", in_groups([current(limit) for limit in EVERY_KIND])))
    refused(await counters.take("i", in_groups([current(budget(5, 10))])))
    await counters.release("never taken", account_id="bob")
    days = {
        key.rpartition("e:")[2]: int(str(counters_server.command("PTTL", key))) / 86_400_000
        for key in keys_of(counters_server)
        if "{" in key
    }
    assert all(0 < left <= 400 for left in days.values()), days
    balances = [left for key, left in days.items() if key.endswith("credits:ada")]
    assert len(balances) == 1
    assert balances[0] > 399  # longer than any epoch: it must not be forgotten before it is seeded anew


async def test_refused_calls_and_ended_ones_leave_nothing_behind(
    counters: RedisCounters, counters_server: RedisServer
) -> None:
    before = keys_of(counters_server)
    refused(await counters.take("a", in_groups([requests(5), gauge(1, 2)])))
    admitted(await counters.preview(in_groups([current(limit) for limit in EVERY_KIND])))
    await counters.read([current(limit) for limit in EVERY_KIND])
    assert keys_of(counters_server) == before
    admitted(await counters.take("b", in_groups([gauge(3), tokens(100, 10), current(money(1_000, 10))])))
    await counters.release("b")
    assert [key for key in keys_of(counters_server) if key not in before and "@holds" not in key] == []
    assert counters.open_holds == 0


@pytest.mark.parametrize(
    ("key", "tag"),
    [
        (quota.counter_key(creator_owner("ada"), "2025-01"), "ada"),
        (rate_limit.counter_key(creator_owner("ada"), 60, "openai"), "ada"),
        (rate_limit.counter_key(key_owner("k1"), 60), "account of k1"),
        ("nobody's", "-"),
    ],
)
def test_the_hash_tag_is_the_account(key: str, tag: str) -> None:
    names = Names("gw:", lambda key_id: f"account of {key_id}")
    assert names.tag(key) == tag
    assert names.counter(key, "e1") == f"gw:{{{tag}}}:e1:{key}"


def test_a_calls_holds_lie_with_its_creator() -> None:
    names = Names("gw:")
    assert names.tag_among(["requests:k/k1/60", "requests:c/ada/60", "calls:c/bob"]) == "ada"
    assert names.tag_among(["requests:k/k1/60"]) == "k1"
    assert names.tag_among([]) == "-"


# Round trips


async def test_a_step_is_one_round_trip(counters: RedisCounters) -> None:
    limits = [current(of_ada(limit)) for limit in EVERY_KIND]
    await counters.take("warm", in_groups(limits))  # the server has compiled the scripts then
    await counters.preview(in_groups(limits))
    await counters.settle("warm", {})
    await counters.adjust("quota:c/ada/2025-01", 5)
    await counters.read(limits)
    made = []
    for step in (
        counters.take("a", in_groups(limits)),
        counters.take("b", in_groups(limits)),
        counters.settle("a", {"nano_usd": 5}),
        counters.release("b"),
        counters.preview(in_groups(limits)),
        counters.read(limits),
        counters.adjust("quota:c/ada/2025-01", 5),
    ):
        before = counters.round_trips
        await step
        made.append(counters.round_trips - before)
    assert made == [1] * 7


async def test_calls_that_come_together_share_a_round_trip(counters: RedisCounters) -> None:
    await counters.take("warm", in_groups([gauge(100)]))
    before = counters.round_trips
    answers = await asyncio.gather(*(counters.take(f"h{n}", in_groups([gauge(41)])) for n in range(64)))
    assert counters.round_trips - before == 1
    assert sum(isinstance(answer, Taken) for answer in answers) == 40


async def test_what_makes_no_sense_fails_alone(counters: RedisCounters) -> None:
    good, bad, double = await asyncio.gather(
        counters.take("a", in_groups([gauge(5)])),
        counters.take("b", in_groups([gauge(5, -1)])),
        counters.take("a", in_groups([gauge(5)])),
        return_exceptions=True,
    )
    assert isinstance(good, Taken)
    assert isinstance(bad, ValueError)
    assert isinstance(double, ValueError)
    assert (await counters.read([gauge(5)]))[0].held == 1
    await counters.release("a")
    assert (await counters.read([gauge(5)]))[0].held == 0


async def test_a_server_that_forgot_the_scripts_is_told_them_again(
    counters: RedisCounters, counters_server: RedisServer
) -> None:
    admitted(await counters.take("a", in_groups([gauge(5)])))
    counters_server.command("SCRIPT", "FLUSH")
    answers = await asyncio.gather(*(counters.take(f"b{n}", in_groups([gauge(5)])) for n in range(3)))
    assert [admitted(answer).states[0].held for answer in answers] == [2, 3, 4]


# Several processes


async def test_two_processes_share_the_counters(counters: RedisCounters, counters_server: RedisServer) -> None:
    other = RedisCounters(counters_server.url, pace=PACE)
    try:
        limit = current(of_ada(money(1_000, 600)))
        admitted(await counters.take("h", [(limit,)]))
        assert refused(await other.take("i", [(limit,)])).held_by_others
        with pytest.raises(ValueError, match="open already"):
            await other.take("h", [(limit._replace(amount=0),)])
        await other.settle("h", {"nano_usd": 250})  # not known here, and nobody said whose it is
        assert (await other.read([limit]))[0][1:3] == (0, 600)
        await other.settle("h", {"nano_usd": 250}, account_id="ada")
        await counters.settle("h", {"nano_usd": 600})
        await other.release("h", account_id="ada")
        assert (await counters.read([limit]))[0][1:3] == (250, 0)
        assert (counters.open_holds, other.open_holds) == (0, 0)
    finally:
        await other.aclose()


@pytest.mark.parametrize("limit", [money(40_000, 1_000), requests(40), gauge(40), tokens(40_000, 1_000)])
async def test_three_processes_admit_exactly_the_capacity(
    counters: RedisCounters, counters_server: RedisServer, limit: Limit
) -> None:
    others = [RedisCounters(counters_server.url, pace=PACE) for _ in range(2)]
    limit = current(of_ada(limit))
    try:
        answers = await asyncio.gather(
            *(
                store.take(f"h{number}-{n}", [(limit,)])
                for n in range(50)
                for number, store in enumerate([counters, *others])
            )
        )
        assert sum(isinstance(answer, Taken) for answer in answers) == 40
    finally:
        for other in others:
            await other.aclose()


# The server's clock


async def test_windows_are_measured_by_the_servers_clock(counters: RedisCounters) -> None:
    limit = requests(1)
    admitted(await counters.take("h", [(limit,)]))
    answer = refused(await counters.take("i", [(limit,)]))
    assert answer.retry_after_s is not None
    assert 3_500 < answer.retry_after_s <= 3_600


async def test_a_server_whose_clock_steps_back_frees_nothing(
    counters: RedisCounters, counters_server: RedisServer
) -> None:
    """As if its latest instant had been read off a clock that was an hour ahead."""
    limit = of_ada(requests(1, window_s=60))
    admitted(await counters.take("a", [(limit,)]))
    (holds,) = [key for key in keys_of(counters_server) if key.endswith("@holds")]
    ahead_us = int(str(counters_server.command("HGET", holds, "@"))) + 3_600_000_000
    counters_server.command("HSET", holds, "@", ahead_us)
    admitted(await counters.take("b", [(limit,)]))
    answer = refused(await counters.take("c", [(limit,)]))
    assert answer.retry_after_s == 60.0


async def test_money_says_when_its_month_ends(counters: RedisCounters) -> None:
    (state,) = admitted(await counters.take("h", [(current(money(100, 100)),)])).states
    assert abs(state.reset_s - (THIS_MONTH - datetime.now(UTC).timestamp())) < 60


# Mistakes


@pytest.mark.parametrize("url", ["http://localhost", "localhost:6379", f"http://:{PASSWORD}@localhost"])
def test_a_url_of_another_kind_stops_the_start_and_is_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError, match="GATEWAY_REDIS_URL") as raised:
        RedisCounters(url)
    assert PASSWORD not in str(raised.value)


async def test_a_counter_of_another_kind_is_left_alone(counters: RedisCounters) -> None:
    await counters.take("h", in_groups([requests(5), a_limit("owed", "balance", 9, 4, "credit")]))
    with pytest.raises(ValueError, match="settles nothing"):
        await counters.adjust("requests:ada", 1)
    with pytest.raises(ValueError, match="not a rolling window"):
        await counters.seed_rolling("owed", 60, 5, [(0.0, 1)])
    with pytest.raises(ValueError, match="-1"):
        await counters.seed_settled("owed", -1)


async def test_reading_nothing_asks_nobody(counters: RedisCounters) -> None:
    before = counters.round_trips
    assert await counters.read([]) == ()
    await counters.settle("never taken", {"nano_usd": 1})
    await counters.release("never taken")
    assert counters.round_trips == before
