"""What one process may give out of every limit while nobody can count for all of them.

Counters in memory begin with all that was used up to then, by everybody: settled as the ledger has it, and the calls that
are open. From then on each call of this process counts as often as there are processes. Where every one of them keeps
what was used before plus its own calls, so multiplied, within the capacity, all together keep within it too: what was
used before + the sum of all own calls is the mean of what they keep within.

Calls that were open before count once. Those of other processes end here when the ledger says that they have: at what they
had taken, which is what they may have used.

What is told of a limit is what was really taken, as far as it is known here. Windows and gauges are told with the capacity
that this process has, so that `remaining` is what it would let through.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from gateway.counters.base import RETRY_SOON, CountersUnavailable, LimitState, Refused, Taken
from gateway.counters.memory import MemoryCounters
from policies.types import UNLIMITED, Limit, LimitGroup

__all__ = ["LocalShare"]

_SHARE_RETRY_S = 5.0
"""Only the other shares are in the way: nobody knows for how long."""


class LocalShare:
    """One of `of` processes. Lifetime: one agreement to count locally.

    `memory` holds what was used before; `elsewhere` are the ids of open calls in it that other processes serve. No method
    suspends. `take` and `preview` raise `CountersUnavailable` where a limit is to be refused without its store, or where
    of money only the shares of others are left.
    """

    def __init__(
        self,
        memory: MemoryCounters,
        *,
        of: int,
        elsewhere: Iterable[str],
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self.of = of
        self.elsewhere = set(elsewhere)
        self._memory = memory
        self._surplus = MemoryCounters(clock, wall_clock)
        """By how much `memory` counts more than this process's calls took."""
        self._own: set[str] = set()
        """Holds that count `of` times."""

    async def take(self, hold_id: str, groups: Sequence[LimitGroup]) -> Taken | Refused:
        shares = self._shares(groups)
        answer = await self._memory.take(hold_id, shares)
        if isinstance(answer, Taken):
            self._own.add(hold_id)
            if self.of > 1:
                await self._surplus.take(hold_id, [(self._surplus_of(state),) for state in answer.states])
        return await self._told(answer, groups, shares)

    async def preview(self, groups: Sequence[LimitGroup]) -> Taken | Refused:
        shares = self._shares(groups)
        answer = await self._memory.preview(shares)
        return await self._told(answer, groups, shares, is_taken=False)

    async def read(self, limits: Iterable[Limit]) -> tuple[LimitState, ...]:
        limits = tuple(limits)
        return tuple(await self._told_states(await self._memory.read(limits), limits))

    async def settle(self, hold_id: str, actuals: Mapping[str, int]) -> None:
        of = self.of if hold_id in self._own else 1
        await self._memory.settle(hold_id, _times(of, actuals))
        await self._surplus.settle(hold_id, _times(of - 1, actuals))
        self._forget(hold_id)

    async def release(self, hold_id: str) -> None:
        await self._memory.release(hold_id)
        await self._surplus.release(hold_id)
        self._forget(hold_id)

    async def ended_elsewhere(self, hold_ids: Collection[str]) -> None:
        """These have ended in other processes; nothing here knows what they used."""
        for hold_id in hold_ids:
            await self.settle(hold_id, {})

    async def adjust(self, key: str, units: int, *, resets_at: float | None = None) -> None:
        """What is added nobody else hears of, so it counts like a call of this process; what is given back counts once."""
        if units > 0 and self.of > 1:
            await self._surplus.adjust(key, units * (self.of - 1), resets_at=resets_at)
            units *= self.of
        await self._memory.adjust(key, units, resets_at=resets_at)

    async def seed_rolling(
        self, key: str, window_s: int, capacity: int, admitted: Iterable[tuple[float, int]], *, unit: str = "request"
    ) -> None:
        await self._memory.seed_rolling(key, window_s, capacity, admitted, unit=unit)

    async def seed_settled(
        self, key: str, units: int, *, resets_at: float | None = None, is_refused: bool = False
    ) -> None:
        await self._memory.seed_settled(key, units, resets_at=resets_at, is_refused=is_refused)

    def _forget(self, hold_id: str) -> None:
        self._own.discard(hold_id)
        self.elsewhere.discard(hold_id)

    # What is asked of the memory

    def _shares(self, groups: Sequence[LimitGroup]) -> list[LimitGroup]:
        return [tuple([self._share(limit) for limit in group]) for group in groups]

    def _share(self, limit: Limit) -> Limit:
        if limit.on_store_error == "deny" and limit.capacity < UNLIMITED:
            raise CountersUnavailable(
                f"The limit {limit.name} ({limit.refusal.policy}) cannot be counted for all processes now, and the plan "
                "has calls refused until it can.",
                headers=RETRY_SOON,
            )
        capacity = UNLIMITED if limit.on_store_error == "allow" else limit.capacity
        if self.of == 1:
            return limit if capacity == limit.capacity else limit._replace(capacity=capacity)
        least = None if limit.amount_min is None else limit.amount_min * self.of
        return limit._replace(capacity=capacity, amount=limit.amount * self.of, amount_min=least)

    def _surplus_of(self, state: LimitState) -> Limit:
        surplus = state.taken - state.taken // self.of
        return state.limit._replace(amount=surplus, amount_min=None, resume_below=None, lapsed=0)

    # What is told

    async def _told(
        self,
        answer: Taken | Refused,
        groups: Sequence[LimitGroup],
        shares: Sequence[LimitGroup],
        *,
        is_taken: bool = True,
    ) -> Taken | Refused:
        """In the words of who asked: its own limits, and what was really taken of them."""
        asked = {
            id(share): limit
            for group, of_group in zip(groups, shares, strict=True)
            for limit, share in zip(group, of_group, strict=True)
        }
        if isinstance(answer, Taken):
            limits = [asked[id(state.limit)] for state in answer.states]
            return Taken(tuple(await self._told_states(answer.states, limits, is_taken=is_taken)))
        unsatisfied = tuple(asked[id(limit)] for limit in answer.unsatisfied)
        answer = answer._replace(unsatisfied=unsatisfied)
        limit = asked[id(answer.state.limit)]
        if self.of == 1:
            return answer._replace(state=answer.state._replace(limit=limit))
        return await self._told_refusal(answer, limit)

    async def _told_refusal(self, answer: Refused, limit: Limit) -> Refused:
        """What is refused because others have their shares is told as that. Of money nobody can say that it is used up."""
        (state,) = await self._told_states([answer.state], [limit])
        least = limit.amount if limit.amount_min is None else min(limit.amount, limit.amount_min)
        has_room = state.settled + state.held + least <= limit.capacity
        if has_room and limit.kind in ("calendar", "balance") and not limit.downgrades:
            raise CountersUnavailable(
                f"This process has given out its share of {limit.name}, and what is left of the limit cannot be counted "
                "for all processes now.",
                headers=RETRY_SOON,
            )
        wait_s = answer.retry_after_s
        if wait_s is None and least <= limit.capacity and limit.kind != "balance":
            # More than a share ever has: the store's return helps, or the end of the period.
            wait_s = _SHARE_RETRY_S if has_room else max(state.reset_s, _SHARE_RETRY_S)
        if has_room:
            message = f"{limit.refusal.message} As it cannot be counted for all {self.of} processes now, each gives out its share."
            limit = limit._replace(refusal=limit.refusal._replace(message=message))
        return answer._replace(state=state._replace(limit=limit), retry_after_s=wait_s)

    async def _told_states(
        self, states: Sequence[LimitState], limits: Sequence[Limit], *, is_taken: bool = True
    ) -> list[LimitState]:
        if self.of == 1:
            return [state._replace(limit=limit) for state, limit in zip(states, limits, strict=True)]
        surpluses = await self._surplus.read(limits)
        return [
            self._told_state(state, limit, surplus, is_taken=is_taken)
            for state, limit, surplus in zip(states, limits, surpluses, strict=True)
        ]

    def _told_state(self, counted: LimitState, limit: Limit, surplus: LimitState, *, is_taken: bool) -> LimitState:
        taken = counted.taken // self.of
        # What was only tried is in the figures, but is no surplus.
        tried = 0 if is_taken else counted.taken - taken
        settled = max(0, counted.settled - surplus.settled - (tried if limit.unit == "request" else 0))
        held = max(0, counted.held - surplus.held - (0 if limit.unit == "request" else tried))
        if limit.kind in ("rolling", "gauge") and limit.capacity < UNLIMITED and limit.on_store_error != "allow":
            left = max(0, limit.capacity - counted.settled - counted.held) // self.of
            limit = limit._replace(capacity=min(limit.capacity, settled + held + left))
        return LimitState(limit, settled, held, counted.reset_s, taken)


def _times(times: int, actuals: Mapping[str, int]) -> Mapping[str, int]:
    return actuals if times == 1 else {unit: units * times for unit, units in actuals.items()}
