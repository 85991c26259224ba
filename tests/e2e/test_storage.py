"""A ledger that cannot be written: nothing is given away, nothing is lost, and it heals by itself."""

import contextlib
import sqlite3
from collections.abc import Iterator

import pytest

from tests.rig import wire
from tests.rig.catalog import cost_nano_usd
from tests.rig.client import connected
from tests.rig.gateway import Gateway
from tests.rig.upstream import Gate, Send, Upstream
from tests.rig.waiting import soon

USAGE = wire.usage(9, 4)


@pytest.fixture(scope="module")
def stubborn(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that waits for its ledger for a second only."""
    gateway = Gateway(tmp_path_factory.mktemp("stubborn"), upstream, settings={"SETTLE_TIMEOUT_S": 1})
    try:
        yield gateway.start()
        gateway.audit()
        assert gateway.stop() == 0
    finally:
        gateway.close()


@contextlib.contextmanager
def locked(gateway: Gateway) -> Iterator[None]:
    """Somebody else holds the database for writing."""
    connection = sqlite3.connect(gateway.data_dir / "gateway.db", isolation_level=None, timeout=15)
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")
    finally:
        connection.close()


async def test_no_call_is_dialled_while_its_hold_cannot_be_written(stubborn: Gateway, upstream: Upstream) -> None:
    key = stubborn.new_key()
    script = upstream.reply(wire.completion("a", usage=USAGE))
    with locked(stubborn):
        answer = await stubborn.chat(key, script)
        assert answer.status == 503
        assert answer.error["code"] == "store_unavailable"
        assert script.requests == []
    await works_again(stubborn, upstream)
    assert stubborn.open_holds() == 0


async def works_again(gateway: Gateway, upstream: Upstream) -> None:
    key = gateway.new_key()
    script = upstream.reply(wire.completion("a", usage=USAGE))
    for _ in range(50):
        if (await gateway.chat(key, script)).status == 200:
            return
    raise AssertionError("the gateway did not recover")


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_an_answer_that_cannot_be_booked_is_not_finished_and_is_booked_later(
    stubborn: Gateway, upstream: Upstream, stream: bool
) -> None:
    key = stubborn.new_key()
    gate = Gate()
    if stream:
        end = wire.event(wire.usage_chunk(USAGE)) + wire.DONE
        whole = wire.stream_head() + wire.framed(b"".join(wire.text_events("a")) + end) + wire.LAST_CHUNK
    else:
        whole = wire.reply(wire.completion("a", usage=USAGE))
    script = upstream.script(gate, Send(whole))
    async with connected(stubborn.port) as connection:
        await connection.send(stubborn.chat_request(key, script, stream=stream))
        await soon(gate.is_reached.is_set, "the request at the upstream")
        with locked(stubborn):
            gate.open()
            status = await connection.read_head()
            answer = await connection.read_rest()
            assert b"[DONE]" not in answer.body
            if stream:
                assert b'"error"' in answer.body
            else:
                assert status >= 500
                assert answer.header("x-should-retry") == "false"
    entries = await soon(lambda: stubborn.entries(creator=key.creator), "the entry, once the ledger can be written")
    assert [entry["cost_nano_usd"] for entry in entries] == [cost_nano_usd(9, 4)]
    await works_again(stubborn, upstream)


async def test_reads_go_on_while_nothing_can_be_written(stubborn: Gateway, upstream: Upstream) -> None:
    key = stubborn.new_key()
    assert (await stubborn.chat(key, upstream.reply(wire.completion("a", usage=USAGE)))).status == 200
    with locked(stubborn):
        assert (await stubborn.get(key, "/v1/models")).status == 200
        assert (await stubborn.get(None, "/health/live")).status == 200
        assert len(stubborn.entries(creator=key.creator)) == 1
    await works_again(stubborn, upstream)
