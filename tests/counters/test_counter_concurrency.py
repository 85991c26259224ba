"""64 tasks at the edge of each kind of limit, on every backend: whoever comes first, the numbers come out exact."""

import asyncio
from random import Random

import pytest

from gateway.counters.base import Refused, Taken
from policies.types import Limit
from tests.counters.backend import (
    Backend,
    a_limit,
    budget,
    credits_left,
    gauge,
    in_groups,
    money,
    requests,
    shrinking,
    tokens,
)

TASKS = 64
ACTUALS = {"nano_usd": 7, "cost_nano_usd": 7, "token": 7, "image": 1, "credit": 2}
EDGES = [
    pytest.param(requests(40), 40, (40, 0), id="requests"),
    pytest.param(requests(600, 20), 30, (600, 0), id="requests in sub-buckets"),
    pytest.param(tokens(1_000, 70), 14, (14 * 7, 0), id="tokens"),
    pytest.param(gauge(9), 9, (0, 0), id="calls at once"),
    pytest.param(money(1_000, 90), 11, (77, 0), id="money"),
    pytest.param(money(1_000, 600), 1, (7, 0), id="money for one"),
    pytest.param(budget(1_000, 90), 11, (77, 0), id="budget"),
    pytest.param(credits_left(100, 30, lapsed=20), 2, (24, 0), id="credits of which some lapsed"),
    pytest.param(a_limit("images:ada", "calendar", 10, 3, "image", resets_at=1_750_086_400.0), 3, (3, 0), id="images"),
]


async def crowd(
    backend: Backend, limits: list[Limit], together: asyncio.Barrier | None = None
) -> list[Taken | Refused]:
    """64 calls that come in any order; they end, in another, only when all have had their answer."""
    random = Random(64)
    groups = in_groups(limits)
    all_answered = asyncio.Barrier(TASKS)

    async def call(number: int) -> Taken | Refused:
        for _ in range(random.randrange(8)):
            await asyncio.sleep(0)
        answer = await backend.store.take(f"h{number}", groups)
        await all_answered.wait()
        for _ in range(random.randrange(8)):
            await asyncio.sleep(0)
        await asyncio.gather(*(backend.store.settle(f"h{number}", ACTUALS) for _ in range(3)))
        await backend.store.release(f"h{number}")
        return answer

    async with asyncio.timeout(30):
        return await asyncio.gather(*(call(number) for number in range(TASKS)))


@pytest.mark.parametrize(("limit", "admitted", "figures"), EDGES)
async def test_64_tasks_at_the_edge_of_a_limit(
    backend: Backend, limit: Limit, admitted: int, figures: tuple[int, int]
) -> None:
    answers = await crowd(backend, [limit])
    assert sum(isinstance(answer, Taken) for answer in answers) == admitted
    (state,) = await backend.store.read([limit])
    assert (state.settled, state.held) == figures


async def test_64_tasks_at_the_edge_of_the_tightest_of_all_limits(backend: Backend) -> None:
    """Those whom the gauge refused took nothing of the limits before it and behind it."""
    limits = [requests(40), tokens(10_000, 70), gauge(9), money(1_000, 50), budget(2_000, 90), credits_left(100, 3)]
    answers = await crowd(backend, limits)
    assert sum(isinstance(answer, Taken) for answer in answers) == 9
    refusals = [answer for answer in answers if isinstance(answer, Refused)]
    assert {limit.name for answer in refusals for limit in answer.unsatisfied} == {"gauge:ada"}
    assert all(answer.held_by_others and answer.retry_after_s == 1.0 for answer in refusals)
    states = await backend.store.read(limits)
    assert [(state.settled, state.held) for state in states] == [(9, 0), (63, 0), (0, 0), (63, 0), (63, 0), (18, 0)]


async def test_64_tasks_share_what_is_left_by_halves(backend: Backend) -> None:
    limit = shrinking(100_000, 80_000, 100)
    answers = await crowd(backend, [limit])
    taken = sorted((answer.states[0].taken for answer in answers if isinstance(answer, Taken)), reverse=True)
    assert taken == [80_000, 10_000, 5_000, 2_500, 1_250, 625, 312, 156]
    assert await backend.store.read([limit]) == ((limit, 8 * 7, 0, 86_400.0, 0),)


async def test_64_tasks_fill_one_payer_after_the_other(backend: Backend) -> None:
    payers = (credits_left(10, 2, key="free"), credits_left(31, 3, key="paid"))
    answers: list[Taken | Refused] = []
    waiting = asyncio.Barrier(TASKS)

    async def call(number: int) -> None:
        await waiting.wait()
        answers.append(await backend.store.take(f"h{number}", [payers]))

    async with asyncio.timeout(30):
        await asyncio.gather(*(call(number) for number in range(TASKS)))
    paid_by = [answer.states[0].limit.name for answer in answers if isinstance(answer, Taken)]
    assert paid_by == ["free"] * 5 + ["paid"] * 10
    states = await backend.store.read(payers)
    assert [(state.settled, state.held) for state in states] == [(0, 10), (0, 30)]


@pytest.mark.parametrize("unused", [0, 3])
async def test_tasks_that_end_and_come_again_never_pass_a_gauge(backend: Backend, unused: int) -> None:
    limit = gauge(5 + unused, 1)
    in_flight = most = 0

    async def calls(number: int) -> None:
        nonlocal in_flight, most
        random = Random(number)
        for again in range(20):
            if isinstance(await backend.store.take(f"h{number}-{again}", [(limit,)]), Taken):
                in_flight += 1
                most = max(most, in_flight)
                for _ in range(1 + random.randrange(4)):
                    await asyncio.sleep(0)
                in_flight -= 1
                await backend.store.release(f"h{number}-{again}")
            await asyncio.sleep(0)

    async with asyncio.timeout(30):
        await asyncio.gather(*(calls(number) for number in range(TASKS)))
    assert most == limit.capacity
    (state,) = await backend.store.read([limit])
    assert (state.settled, state.held) == (0, 0)
