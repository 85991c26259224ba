"""The register of calls: its bounds, its drain, and interrupts that come only where they may."""

import asyncio
import re
import time

import pytest

from gateway.calls import Call, Calls, InterruptReason, new_request_id
from gateway.errors import StoreError

HANG_S = 10


def entered(calls: Calls) -> Call:
    call = Call("chat")
    calls.enter(call)
    return call


# The bound and the drain


async def test_calls_above_the_bound_are_refused_until_one_leaves() -> None:
    calls = Calls(2)
    first, _ = entered(calls), entered(calls)
    with pytest.raises(StoreError) as refused:
        entered(calls)
    assert (refused.value.code, refused.value.headers["retry-after"]) == ("overloaded", "1")
    assert len(calls) == 2
    calls.leave(first)
    third = entered(calls)
    assert third.request_id in calls
    assert first.request_id not in calls


async def test_leaving_twice_or_unentered_does_no_harm() -> None:
    calls = Calls(1)
    call = entered(calls)
    for _ in range(2):
        calls.leave(call)
    calls.leave(Call("chat"))
    assert len(calls) == 0


async def test_a_drain_takes_what_still_comes_until_its_grace_is_over() -> None:
    """On connections that are open: the port is the server's to close."""
    calls = Calls(10)
    running = await Running(calls).waiting()
    calls.begin_drain()
    assert calls.is_draining
    assert entered(calls).request_id in calls
    assert running.call.interrupted_by is None
    calls.refuse_if_cut()
    calls.interrupt_all()
    with pytest.raises(StoreError) as refused:
        entered(calls)
    assert refused.value.code == "shutting_down"
    assert refused.value.headers["connection"] == "close"
    assert await running.ended() == "settled"


async def test_a_call_still_being_read_when_the_grace_ends_is_not_admitted() -> None:
    calls = Calls(10)
    call = entered(calls)
    calls.begin_drain()
    calls.interrupt_all()
    assert call.interrupted_by is None, "it may not be interrupted, as it has taken nothing yet"
    with pytest.raises(StoreError) as refused:
        calls.refuse_if_cut()
    assert (refused.value.status, refused.value.code) == (503, "shutting_down")


async def test_the_register_is_idle_once_the_last_call_has_left() -> None:
    calls = Calls(10)
    async with asyncio.timeout(HANG_S):
        await calls.wait_idle()
        first, second = entered(calls), entered(calls)
        waiting = asyncio.get_running_loop().create_task(calls.wait_idle())
        calls.leave(first)
        await asyncio.sleep(0)
        assert not waiting.done()
        calls.leave(second)
        await waiting


# Interrupts


class Running:
    """A call in a task of its own, which waits for ever and says how that ended."""

    def __init__(self, calls: Calls, *, is_interruptible: bool = True) -> None:
        self._calls = calls
        self._is_interruptible = is_interruptible
        self._is_waiting = asyncio.Event()
        self.call: Call
        self.task = asyncio.get_running_loop().create_task(self._serve())

    async def _serve(self) -> str:
        self.call = entered(self._calls)
        try:
            if self._is_interruptible:
                self.call.allow_interrupts()
            self._is_waiting.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if not self.call.absorb_interrupt():
                raise
            await asyncio.sleep(0)  # it settles, which the interrupt must not touch
        finally:
            self._calls.leave(self.call)
        return "settled"

    async def waiting(self) -> "Running":
        await self._is_waiting.wait()
        return self

    async def ended(self) -> str:
        async with asyncio.timeout(HANG_S):
            return await self.task


@pytest.mark.parametrize("reason", ["client_gone", "total_timeout", "drain", "after_done"])
async def test_an_interrupted_call_settles_and_goes_on(reason: InterruptReason) -> None:
    running = await Running(Calls(1)).waiting()
    running.call.interrupt(reason)
    assert await running.ended() == "settled"
    assert running.call.interrupted_by == reason
    assert not running.call.is_cancelled


async def test_only_the_first_interrupt_counts() -> None:
    running = await Running(Calls(1)).waiting()
    running.call.interrupt("client_gone")
    running.call.interrupt("drain")
    assert await running.ended() == "settled"
    assert running.call.interrupted_by == "client_gone"
    assert running.task.cancelling() == 0


async def test_a_call_that_forbids_interrupts_is_left_alone() -> None:
    running = await Running(Calls(1), is_interruptible=False).waiting()
    running.call.interrupt("drain")
    running.call.allow_interrupts()
    running.call.forbid_interrupts()
    running.call.interrupt("client_gone")
    await asyncio.sleep(0)
    assert running.call.interrupted_by is None
    assert not running.task.done()
    running.call.allow_interrupts()
    running.call.interrupt("drain")
    assert await running.ended() == "settled"


async def test_a_cancellation_that_is_not_ours_goes_on() -> None:
    calls = Calls(1)
    running = await Running(calls).waiting()
    running.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running.ended()
    assert running.call.is_cancelled
    assert running.call.interrupted_by is None
    assert len(calls) == 0


async def test_the_end_of_the_grace_interrupts_every_call() -> None:
    calls = Calls(5)
    running = [await Running(calls).waiting() for _ in range(5)]
    calls.interrupt_all()
    assert [await one.ended() for one in running] == ["settled"] * 5
    assert {one.call.interrupted_by for one in running} == {"drain"}


async def test_only_calls_past_their_deadline_are_overdue() -> None:
    calls = Calls(3)
    late, early, without = [await Running(calls).waiting() for _ in range(3)]
    late.call.deadline_at = time.monotonic() - 1
    early.call.deadline_at = time.monotonic() + 1_000
    calls.interrupt_overdue()
    assert await late.ended() == "settled"
    assert late.call.interrupted_by == "total_timeout"
    assert (early.call.interrupted_by, without.call.interrupted_by) == (None, None)
    calls.interrupt_all()
    for running in (early, without):
        await running.ended()


# What a call knows of itself


async def test_a_durable_hold_alone_is_no_dial() -> None:
    """Between the two the call may still wait for a connection, and owes nothing."""
    call = Call("chat")
    call.hold = asyncio.get_running_loop().create_future()
    call.hold.set_result(None)
    assert not call.is_dialled
    call.note_dial()
    assert call.is_dialled


async def test_the_first_byte_is_timed_from_the_request() -> None:
    call = Call("chat")
    assert call.ttft_ms() is None
    call.first_byte_at = call.started_at + 0.25
    assert call.ttft_ms() == 250
    assert call.elapsed_ms() >= 0


def test_request_ids_are_all_different_and_sort_by_time() -> None:
    ids = [new_request_id() for _ in range(1_000)]
    assert len(set(ids)) == 1_000
    assert all(re.fullmatch(r"req_[0-9a-f]{32}", made) for made in ids)
    assert [made[:16] for made in ids] == sorted(made[:16] for made in ids)
