"""What one process gives out while nobody counts for all: its share, told in true figures."""

import pytest

from gateway.counters.base import CountersUnavailable
from gateway.counters.local_share import LocalShare
from gateway.counters.memory import MemoryCounters
from policies.types import UNLIMITED, Limit, LimitGroup
from tests.counters.backend import (
    FakeClock,
    admitted,
    budget,
    credits_left,
    gauge,
    in_groups,
    money,
    refused,
    requests,
    shrinking,
    tokens,
)


class Shares:
    """Several processes that began with the same figures."""

    def __init__(self, of: int) -> None:
        self.clock = FakeClock()
        self.memories = [MemoryCounters(self.clock.monotonic, self.clock.unix) for _ in range(of)]
        self.shares = [self._share(memory, of) for memory in self.memories]
        self.serial = 0

    def __getitem__(self, number: int) -> LocalShare:
        return self.shares[number]

    def _share(self, memory: MemoryCounters, of: int) -> LocalShare:
        clocks = {"clock": self.clock.monotonic, "wall_clock": self.clock.unix}
        return LocalShare(memory, of=of, elsewhere=(), **clocks)

    async def take_all(self, number: int, *groups: Limit | LimitGroup) -> int:
        """How many calls a process lets through, one after the other, all of them open."""
        for count in range(1_000):
            self.serial += 1
            try:
                answer = await self[number].take(f"h{self.serial}", in_groups(groups))
            except CountersUnavailable:
                return count
            if not hasattr(answer, "states"):
                return count
        raise AssertionError("it lets everything through")


async def figures(share: LocalShare, limit: Limit) -> tuple[int, int]:
    (state,) = await share.read([limit])
    return state.settled, state.held


@pytest.mark.parametrize(
    "limit",
    [
        pytest.param(requests(100), id="window"),
        pytest.param(tokens(1_000, 7), id="tokens"),
        pytest.param(money(1_000, 9), id="money"),
        pytest.param(credits_left(50, 3), id="credits"),
        pytest.param(credits_left(50, 3, lapsed=11), id="credits, some lapsed"),
        pytest.param(gauge(10), id="gauge"),
        pytest.param(budget(1_000, 30), id="budget"),
    ],
)
@pytest.mark.parametrize("of", [1, 2, 3])
async def test_all_shares_together_keep_within_the_capacity(limit: Limit, of: int) -> None:
    shares = Shares(of)
    given = sum([await shares.take_all(number, limit) for number in range(of)])
    assert limit.lapsed + given * limit.amount <= limit.capacity
    assert given > 0
    # No more is left lying than each share's rounding.
    assert given * limit.amount >= (limit.resume_below or limit.capacity) - limit.lapsed - of * limit.amount


async def test_what_was_used_before_counts_once() -> None:
    shares = Shares(3)
    for memory in shares.memories:
        await memory.seed_settled(money(1_000, 10).key, 400, resets_at=money(1, 1).resets_at)
        memory.restore("open", [(money(1_000, 100), 100)], age_s=5.0)
    assert [await shares.take_all(number, money(1_000, 10)) for number in range(3)] == [16, 16, 16]
    assert await figures(shares[0], money(1_000, 0)) == (400, 100 + 160)


async def test_a_call_of_before_that_ends_makes_room_for_one_unit_each() -> None:
    shares = Shares(2)
    for memory in shares.memories:
        memory.restore("open", [(gauge(4), 1)], age_s=0.0)
    assert await shares.take_all(0, gauge(4)) == 1
    await shares[0].settle("open", {})
    assert await shares.take_all(0, gauge(4)) == 1
    assert await shares.take_all(1, gauge(4)) == 1


async def test_what_a_call_did_not_use_can_be_given_out_again() -> None:
    shares = Shares(2)
    limit = money(100, 50)
    admitted(await shares[0].take("a", in_groups([limit])))
    with pytest.raises(CountersUnavailable, match="share"):
        await shares[0].take("b", in_groups([limit]))
    await shares[0].settle("a", {"nano_usd": 10})
    assert await figures(shares[0], limit) == (10, 0)
    admitted(await shares[0].take("b", in_groups([money(100, 40)])))
    await shares[0].release("b")
    assert await figures(shares[0], limit) == (10, 0)


async def test_a_call_is_told_what_it_really_took() -> None:
    share = Shares(3)[0]
    answer = admitted(await share.take("a", in_groups([requests(100), tokens(900, 30), gauge(7), money(1_000, 10)])))
    window, minute, calls, quota = answer.states
    assert [state.taken for state in answer.states] == [1, 30, 1, 10]
    assert [(state.settled, state.held) for state in answer.states] == [(1, 0), (0, 30), (0, 1), (0, 10)]
    assert (window.limit.capacity, window.remaining) == (33 + 1 - 1, 32)
    assert (minute.limit.capacity, minute.remaining) == (300, 270)
    assert (calls.limit.capacity, calls.remaining) == (2, 1)
    assert quota.limit == money(1_000, 10)


async def test_a_hold_that_may_shrink_takes_no_more_than_its_share() -> None:
    shares = Shares(3)
    limit = shrinking(100, 80, 20)
    taken = [admitted(await shares[number].take("a", in_groups([limit]))).states[0].taken for number in range(3)]
    assert taken == [33, 33, 33]
    with pytest.raises(CountersUnavailable):
        await shares[0].take("b", in_groups([limit]))


async def test_a_preview_says_what_take_would_and_takes_nothing() -> None:
    share = Shares(3)[0]
    groups = in_groups([requests(100), tokens(900, 30), gauge(7), money(1_000, 10)])
    preview = await share.preview(groups)
    assert preview == await share.preview(groups)
    assert preview == await share.take("a", groups)


async def test_a_limit_that_is_denied_without_its_store_is_named() -> None:
    share = Shares(2)[0]
    denied = money(1_000, 1, key="quota")._replace(on_store_error="deny")
    with pytest.raises(CountersUnavailable, match=r"quota \(test\)") as raised:
        await share.take("a", in_groups([requests(10), denied]))
    assert raised.value.headers["retry-after"] == "1"
    assert await figures(share, requests(10)) == (0, 0)
    admitted(await share.take("a", in_groups([denied._replace(capacity=UNLIMITED)])))
    assert await figures(share, denied) == (0, 1)


async def test_a_limit_that_is_allowed_refuses_nothing_and_is_counted() -> None:
    share = Shares(3)[0]
    allowed = gauge(2)._replace(on_store_error="allow")
    for number in range(5):
        state = admitted(await share.take(f"h{number}", in_groups([allowed]))).states[0]
        assert (state.limit, state.held, state.taken) == (allowed, number + 1, 1)
    refused(await share.take("h", in_groups([allowed, gauge(2)._replace(key="other", amount=3)])))


@pytest.mark.parametrize(
    ("limit", "wait_s"),
    [
        pytest.param(requests(3, 2), 5.0, id="more than the share ever has"),
        pytest.param(requests(9, 4), 3_600.0, id="when the share has room again"),
    ],
)
async def test_a_share_of_a_rate_that_is_given_out_is_refused_as_that(limit: Limit, wait_s: float) -> None:
    share = Shares(2)[0]
    if wait_s > 5.0:
        admitted(await share.take("a", in_groups([limit])))
    answer = refused(await share.take("b", in_groups([limit])))
    assert answer.retry_after_s == wait_s
    assert "all 2 processes" in answer.state.limit.refusal.message
    assert answer.unsatisfied == (limit,)


async def test_a_limit_that_is_used_up_is_refused_as_ever() -> None:
    share = Shares(2)[0]
    memory_full = money(100, 60)
    await share.seed_settled(memory_full.key, 50, resets_at=memory_full.resets_at)
    answer = refused(await share.take("a", in_groups([memory_full])))
    assert answer.state.limit.refusal.message == "quota:ada is used up"
    assert (answer.state.settled, answer.retry_after_s) == (50, 86_400.0)


async def test_what_is_added_without_a_call_nobody_else_knows_of() -> None:
    shares = Shares(2)
    limit = money(100, 10)
    await shares[0].adjust(limit.key, 20, resets_at=limit.resets_at)
    assert await figures(shares[0], limit) == (20, 0)
    assert await shares.take_all(0, limit) + await shares.take_all(1, limit) == 8
    await shares[0].adjust(limit.key, -20, resets_at=limit.resets_at)
    assert (await figures(shares[0], limit))[0] == 0


async def test_calls_of_other_processes_that_ended_keep_what_they_may_have_used() -> None:
    clock = FakeClock()
    memory = MemoryCounters(clock.monotonic, clock.unix)
    memory.restore("theirs", [(gauge(2), 1), (money(100, 60), 60)], age_s=1.0)
    share = LocalShare(memory, of=1, elsewhere=["theirs"], clock=clock.monotonic, wall_clock=clock.unix)
    await share.ended_elsewhere({"theirs"})
    assert share.elsewhere == set()
    assert await figures(share, gauge(2)) == (0, 0)
    assert await figures(share, money(100, 0)) == (60, 0)
