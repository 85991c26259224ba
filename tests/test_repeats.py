"""Answers given again, inside one process: what they take, what they leave behind, and when they are there."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.clocked_gateway import HANG_S, Answer, Clock, ClockedGateway, opened, utc

NOON = utc(2026, 6, 11, 12)
CACHED = {"x-gateway-cache": "on"}


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[ClockedGateway]:
    async with opened(tmp_path, Clock(NOON), answers_bytes_max=2**20) as gateway:
        yield gateway


def room_left(gateway: ClockedGateway) -> int:
    left: int = gateway.services.pipeline._repeats._room.bytes_left
    return left


@pytest.mark.parametrize("headers", [CACHED, {"idempotency-key": "k"}], ids=["cache", "key"])
async def test_what_was_recorded_of_a_stream_is_let_go_of(gateway: ClockedGateway, headers: dict[str, str]) -> None:
    key, before = await gateway.new_key(), room_left(gateway)
    answer = await gateway.chat(key, stream=True, headers=headers)
    assert answer.body.endswith(b"data: [DONE]\n\n")
    assert room_left(gateway) == before


async def test_what_was_recorded_of_a_call_the_server_gives_up_is_let_go_of(gateway: ClockedGateway) -> None:
    key, before = await gateway.new_key(), room_left(gateway)
    answer = Answer()
    call = asyncio.get_running_loop().create_task(
        gateway.chat(key, "waits", stream=True, answer=answer, headers={"idempotency-key": "k"})
    )
    async with asyncio.timeout(HANG_S):
        while room_left(gateway) == before and not call.done():
            await asyncio.sleep(0)
        assert room_left(gateway) < before
        call.cancel()
        await asyncio.wait({call})
    assert room_left(gateway) == before


async def test_what_was_answered_is_answered_again_while_nobody_can_serve_it(gateway: ClockedGateway) -> None:
    """An outage is when answers get lost, and when kept ones are worth most."""
    key = await gateway.new_key()
    first = await gateway.chat(key, headers=CACHED)
    keyed = await gateway.chat(key, headers={"idempotency-key": "k"})
    model = gateway.services.catalog.models["talk"]
    for _ in range(gateway.services.settings.circuit_failures_max):
        gateway.services.deployments.failed(model, "unreachable")
    hit, replay = await gateway.chat(key, headers=CACHED), await gateway.chat(key, headers={"idempotency-key": "k"})
    assert (hit.headers["x-gateway-cache"], hit.body) == ("hit", first.body)
    assert (replay.headers["x-gateway-idempotent-replay"], replay.body) == (keyed.request_id, keyed.body)
    for headers in ({"x-gateway-cache": "refresh"}, {"idempotency-key": "other"}, {}):
        refused = await gateway.chat(key, headers=headers)
        assert (refused.status, refused.code) == (503, "circuit_open")
        assert int(refused.headers["retry-after"]) > 0
    assert len(gateway.entries("id")) == 3
