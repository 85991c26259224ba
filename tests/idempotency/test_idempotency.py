"""A call that is sent again is answered again: by the first answer, or by why there is none."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select
from structlog.testing import capture_logs

from gateway.calls import new_request_id
from gateway.errors import RequestError, StoreError
from gateway.idempotency import Claim, Idempotency, KeptAnswer
from gateway.ledger.database import Conflict, Database
from gateway.ledger.orphans import book_orphans
from gateway.ledger.schema import idempotency
from gateway.responder import Header
from gateway.secrets import Secrets
from gateway.tasks import spawn
from policies.types import Account
from tests.account_world import Clock, World, open_world
from tests.ledger.books import be_hasty, change, entry, hold, locked, rows

TTL_S = 3_600
VALUE = b"canary-of-the-value"
HEADERS: list[Header] = [
    (b"content-type", b"application/json"),
    (b"x-gateway-model", b"gpt-test"),
    (b"x-gateway-provider", b"canary-of-the-headers"),
    (b"x-should-retry", b"false"),
]
BODY = b'{"words":"canary-of-the-body"}' + bytes(range(256))


class Desk:
    """The service over a database, and calls that go through it as the pipeline's do."""

    def __init__(self, world: World, account: Account, **bounds: Any) -> None:
        self.database = world.database
        self.path = world.path
        self.clock: Clock = world.clock
        self.account = account
        self.alive: set[str] = set()
        self.service = self.another(**bounds)

    def another(
        self, *, secrets: Secrets | None = None, database: Database | None = None, **bounds: Any
    ) -> Idempotency:
        """As of another process, or after a restart."""
        known = {"ttl_s": TTL_S, "answer_bytes_max": 1_000, "bytes_max": 1_000_000}
        return Idempotency(
            database or self.database,
            secrets or Secrets(b"root-of-the-tests-0123456789abcdef"),
            wall_clock=self.clock,
            is_alive=self.alive.__contains__,
            **{**known, **bounds},
        )

    async def claim(
        self,
        value: bytes = VALUE,
        fingerprint: str = "f1",
        *,
        account: Account | None = None,
        service: Idempotency | None = None,
    ) -> Claim | KeptAnswer:
        return await (service or self.service).claim(account or self.account, new_request_id(), value, fingerprint)

    async def claimed(self, *args: Any, **kwargs: Any) -> Claim:
        claim = await self.claim(*args, **kwargs)
        assert isinstance(claim, Claim)
        return claim

    async def refused(self, *args: Any, **kwargs: Any) -> RequestError:
        with pytest.raises(RequestError) as refused:
            await self.claim(*args, **kwargs)
        return refused.value

    async def hold(self, claim: Claim, account: Account | None = None) -> None:
        creator = (account or self.account).creator
        await self.database.ledger.hold(hold(claim.request_id, creator=creator)._replace(reservation=claim.reservation))

    async def settle(self, claim: Claim, *, frees: bool = False) -> None:
        value_id = claim.reservation.id if frees else ""
        await self.database.ledger.settle(claim.request_id, [entry(claim.request_id)], frees=value_id)

    async def call(
        self,
        value: bytes = VALUE,
        *,
        status: int = 200,
        headers: Sequence[Header] = HEADERS,
        body: bytes | None = BODY,
        account: Account | None = None,
    ) -> Claim:
        """A whole call, from claim to leave."""
        claim = await self.claimed(value, account=account)
        await self.hold(claim, account)
        await self.settle(claim)
        await self.service.keep(claim, status, headers, body)
        self.service.leave(claim)
        return claim

    async def state_of(self, claim: Claim) -> str | None:
        query = select(idempotency.c.state).where(idempotency.c.id == claim.reservation.id)
        row = await self.database.fetch_one(query)
        return None if row is None else row["state"]

    def pass_s(self, seconds: float) -> None:
        self.clock.now_s += seconds


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as world:
        yield world


@pytest.fixture
async def account(world: World) -> Account:
    return await world.account(await world.new_key("acme"))


@pytest.fixture
async def desk(world: World, account: Account) -> Desk:
    return Desk(world, account)


def is_in_progress(error: RequestError) -> bool:
    assert error.status == 409
    is_it = error.code == "idempotency_in_progress"
    assert error.headers == ({"retry-after": "1", "retry-after-ms": "1000"} if is_it else {"x-should-retry": "false"})
    return is_it


def is_unavailable(error: RequestError) -> bool:
    return not is_in_progress(error) and error.code == "idempotency_result_unavailable"


# Claims


async def test_a_value_nobody_used_is_the_callers(desk: Desk) -> None:
    claim = await desk.service.claim(desk.account, "req_1", VALUE, "f1")
    assert isinstance(claim, Claim)
    assert (claim.request_id, claim.reservation.fingerprint, claim.is_freed) == ("req_1", "f1", False)
    assert claim.reservation.expires_at == datetime.fromtimestamp(desk.clock.now_s + TTL_S, UTC)


async def test_of_twenty_calls_at_once_one_gets_the_value(desk: Desk) -> None:
    results = await asyncio.gather(*(desk.claim() for _ in range(20)), return_exceptions=True)
    claims = [result for result in results if isinstance(result, Claim)]
    refusals = [result for result in results if isinstance(result, RequestError)]
    assert (len(claims), len(refusals)) == (1, 19)
    assert all(is_in_progress(refusal) for refusal in refusals)


async def test_a_value_is_taken_from_claim_to_leave_and_answered_from_then_on(desk: Desk) -> None:
    claim = await desk.claimed()
    assert is_in_progress(await desk.refused())
    await desk.hold(claim)
    assert is_in_progress(await desk.refused())
    await desk.settle(claim)
    assert is_in_progress(await desk.refused())
    await desk.service.keep(claim, 200, HEADERS, BODY)
    assert is_in_progress(await desk.refused())
    desk.service.leave(claim)
    assert isinstance(await desk.claim(), KeptAnswer)


async def test_retries_all_through_a_call_never_get_the_value_too(desk: Desk) -> None:
    """Whatever instant a look-up falls into, the call is seen in the register or in the database."""
    call = spawn(desk.call(), "call")
    results: list[Any] = []

    async def retry() -> None:
        is_last = False
        while not is_last:
            is_last = call.done()
            await asyncio.sleep(0)
            try:
                results.append(await desk.claim())
            except RequestError as refusal:
                results.append(refusal)

    await asyncio.gather(*(retry() for _ in range(5)))
    claim = await call
    assert {type(result) for result in results} == {RequestError, KeptAnswer}
    assert all(is_in_progress(result) for result in results if isinstance(result, RequestError))
    assert {result.request_id for result in results if isinstance(result, KeptAnswer)} == {claim.request_id}


async def test_a_call_that_ended_before_its_hold_leaves_the_value_to_the_next(desk: Desk) -> None:
    first = await desk.claimed()
    desk.service.leave(first)
    second = await desk.claimed(fingerprint="f2")
    desk.service.leave(first)  # once more, and late: it has no right to it any more
    assert is_in_progress(await desk.refused(fingerprint="f2"))
    desk.service.leave(second)
    await desk.claimed()


async def test_a_caller_who_leaves_during_the_look_up_claims_nothing(desk: Desk) -> None:
    looking = spawn(desk.claim(), "looking")
    await asyncio.sleep(0)
    waiting = spawn(desk.claim(), "waiting")
    await asyncio.sleep(0)
    looking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await looking
    assert isinstance(await waiting, Claim)


async def test_a_failing_store_claims_nothing(desk: Desk) -> None:
    """Expired rows have to go first: while that cannot be written, nobody has the value."""
    await desk.call()
    desk.pass_s(TTL_S)
    await be_hasty(desk.database)
    with locked(desk.path), pytest.raises(StoreError):
        await desk.claim()
    async with asyncio.timeout(10):
        while not desk.database.ledger.is_ready:
            await asyncio.sleep(0)
    await desk.claimed()


@pytest.mark.parametrize("value", [b"", b"x" * 256], ids=["empty", "too long"])
async def test_a_value_has_1_to_255_bytes(desk: Desk, value: bytes) -> None:
    refusal = await desk.refused(value)
    assert (refusal.status, refusal.code, refusal.param) == (400, "invalid_value", "idempotency-key")


@pytest.mark.parametrize("value", [b"x", b"x" * 255, "é".encode("latin-1"), b"\0"], ids=["1", "255", "latin-1", "NUL"])
async def test_a_value_may_be_any_bytes(desk: Desk, value: bytes) -> None:
    claim = await desk.call(value)
    answer = await desk.claim(value)
    assert isinstance(answer, KeptAnswer)
    assert answer.request_id == claim.request_id


async def test_one_callers_value_means_nothing_to_another(desk: Desk) -> None:
    """Another virtual key of the same creator, another creator behind the same key, and names that run together."""
    own = replace(desk.account, key_id="key", creator="acme")
    others = [
        replace(own, key_id="key2"),
        replace(own, creator="acme2"),
        replace(own, key_id="keya", creator="cme"),
        replace(own, key_id="ke", creator="yacme"),
    ]
    await desk.call(account=own)
    claims = [await desk.claimed(account=other) for other in others]
    assert len({claim.reservation.id for claim in claims}) == len(others)
    assert isinstance(await desk.claim(account=own), KeptAnswer)


# Another request with the same value


async def test_another_request_with_the_value_of_a_running_call_is_refused(desk: Desk) -> None:
    await desk.claimed()
    refusal = await desk.refused(fingerprint="f2")
    assert (refusal.status, refusal.code, refusal.param) == (422, "idempotency_key_reused", "idempotency-key")


@pytest.mark.parametrize("state", ["open", "kept", "too_large", "dropped"])
async def test_another_request_with_the_value_of_a_call_that_is_over_is_refused(desk: Desk, state: str) -> None:
    claim = await desk.call()
    change(desk.path, "UPDATE idempotency SET state = ?", state)
    refusal = await desk.refused(fingerprint="f2")
    assert (refusal.status, refusal.code) == (422, "idempotency_key_reused")
    assert await desk.state_of(claim) == state


async def test_another_request_does_not_keep_the_first_ones_retry_from_its_answer(desk: Desk) -> None:
    claim = await desk.call()
    other, retry = await asyncio.gather(desk.claim(fingerprint="f2"), desk.claim(), return_exceptions=True)
    assert isinstance(other, RequestError)
    assert other.code == "idempotency_key_reused"
    assert isinstance(retry, KeptAnswer)
    assert retry.request_id == claim.request_id


# Answers


async def test_a_retry_gets_the_first_answer(desk: Desk) -> None:
    claim = await desk.call(status=207)
    assert await desk.claim() == KeptAnswer(claim.request_id, 207, HEADERS, BODY)


async def test_retries_at_once_all_get_the_answer(desk: Desk) -> None:
    await desk.call()
    answers = await asyncio.gather(*(desk.claim() for _ in range(20)))
    assert all(isinstance(answer, KeptAnswer) and answer.body == BODY for answer in answers)


async def test_an_answer_outlives_a_restart(desk: Desk) -> None:
    claim = await desk.call()
    await desk.database.close()
    database = await Database.open(desk.path)
    try:
        answer = await desk.claim(service=desk.another(database=database))
    finally:
        await database.close()
    assert answer == KeptAnswer(claim.request_id, 200, HEADERS, BODY)


async def test_of_the_headers_those_are_kept_that_are_about_the_answer(desk: Desk) -> None:
    await desk.call(
        headers=[
            (b"Content-Type", b"text/event-stream; charset=utf-8"),
            (b"x-request-id", b"req_1"),
            (b"x-gateway-cost-usd", b"0.12"),
            (b"x-gateway-cache", b"miss"),
            (b"x-gateway-idempotent-replay", b"req_0"),
            (b"x-gateway-downgraded-from", b"gpt-\xe9"),
            (b"x-ratelimit-remaining-requests", b"7"),
            (b"retry-after", b"3"),
            (b"x-should-retry", b"false"),
            (b"set-cookie", b"a=b"),
        ]
    )
    answer = await desk.claim()
    assert isinstance(answer, KeptAnswer)
    assert answer.headers == [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"x-gateway-downgraded-from", b"gpt-\xe9"),
        (b"x-should-retry", b"false"),
    ]


@pytest.mark.parametrize("body", [b"", b"x" * 1_000], ids=["empty", "as large as may be"])
async def test_answers_within_the_bound_are_kept(desk: Desk, body: bytes) -> None:
    await desk.call(body=body)
    answer = await desk.claim()
    assert isinstance(answer, KeptAnswer)
    assert answer.body == body


@pytest.mark.parametrize("body", [None, b"x" * 1_001], ids=["told so", "seen"])
async def test_a_larger_answer_is_not_kept_and_the_call_not_made_again(desk: Desk, body: bytes | None) -> None:
    claim = await desk.call(body=body)
    assert await desk.state_of(claim) == "too_large"
    refusal = await desk.refused()
    assert is_unavailable(refusal)
    assert refusal.metadata == {"request_id": claim.request_id}


async def test_neither_value_nor_answer_can_be_read_in_the_database(desk: Desk, world: World) -> None:
    await desk.call()
    stored = world.stored_bytes()
    assert b"gpt-test" in stored  # the entry's model: the bytes are the right ones
    assert b"canary" not in stored
    answer = await desk.claim()
    assert b"canary" in b"".join(value for _, value in answer.headers) + answer.body  # type: ignore[union-attr]
    assert "canary" not in repr(answer)


async def test_an_answer_that_does_not_open_is_unavailable(desk: Desk) -> None:
    """Its value was another's, or the root secret was: the row is there, and nobody can read it."""
    first = await desk.call()
    await desk.call(b"second")
    sealed = rows(desk.path, "SELECT answer FROM idempotency WHERE request_id != ?", first.request_id)[0][0]
    change(desk.path, "UPDATE idempotency SET answer = ? WHERE request_id = ?", sealed, first.request_id)
    assert is_unavailable(await desk.refused())
    change(desk.path, "UPDATE idempotency SET answer = x'00' WHERE request_id = ?", first.request_id)
    assert is_unavailable(await desk.refused())


async def test_under_another_root_secret_a_value_stands_for_nothing(desk: Desk) -> None:
    await desk.call()
    assert isinstance(await desk.claim(service=desk.another(secrets=Secrets(b"another root"))), Claim)


async def test_what_was_freed_is_not_kept_and_can_be_called_anew(desk: Desk) -> None:
    claim = await desk.claimed()
    await desk.hold(claim)
    await desk.settle(claim, frees=True)
    claim.is_freed = True
    with capture_logs() as logs:
        await desk.service.keep(claim, 502, HEADERS, BODY)
    assert logs == []
    desk.service.leave(claim)
    again = await desk.call()
    assert await desk.state_of(again) == "kept"


async def test_an_answer_is_kept_once_and_only_in_its_own_row(desk: Desk) -> None:
    first = await desk.call()
    with capture_logs() as logs:
        await desk.service.keep(first, 500, [], b"later")
        desk.pass_s(TTL_S)
        second = await desk.claimed()
        await desk.hold(second)
        await desk.service.keep(first, 500, [], b"much later")
    assert [log["event"] for log in logs] == ["idempotent_answer_not_kept"] * 2
    assert await desk.state_of(second) == "open"
    await desk.service.keep(second, 200, HEADERS, b"second")
    desk.service.leave(second)
    assert await desk.claim() == KeptAnswer(second.request_id, 200, HEADERS, b"second")


async def test_an_answer_that_cannot_be_kept_still_leaves(desk: Desk) -> None:
    claim = await desk.claimed()
    await desk.hold(claim)
    await desk.settle(claim)
    await be_hasty(desk.database)
    with capture_logs() as logs, locked(desk.path):
        await desk.service.keep(claim, 200, HEADERS, BODY)
    assert [log["request_id"] for log in logs if log["event"] == "idempotent_answer_not_kept"] == [claim.request_id]
    assert "canary" not in str(logs)
    desk.service.leave(claim)
    assert is_unavailable(await desk.refused())


# Calls of other processes, and of dead ones


async def test_a_call_of_another_process_runs_while_its_hold_is_open(desk: Desk) -> None:
    claim = await desk.claimed()
    await desk.hold(claim)
    elsewhere = desk.another()
    assert is_in_progress(await desk.refused(service=elsewhere))
    await desk.settle(claim)
    await desk.service.keep(claim, 200, HEADERS, BODY)
    answer = await desk.claim(service=elsewhere)
    assert isinstance(answer, KeptAnswer)


async def test_of_two_processes_that_claim_a_value_one_gets_its_hold(desk: Desk) -> None:
    elsewhere = desk.another()
    mine, theirs = await desk.claimed(), await desk.claimed(service=elsewhere)
    await desk.hold(mine)
    with pytest.raises(Conflict):
        await desk.hold(theirs)
    assert is_in_progress(elsewhere.conflict())


async def test_a_call_in_flight_here_runs_also_without_its_hold(desk: Desk) -> None:
    claim = await desk.claimed()
    await desk.hold(claim)
    await desk.settle(claim)
    desk.service.leave(claim)
    desk.alive.add(claim.request_id)
    assert is_in_progress(await desk.refused())
    desk.alive.clear()
    assert is_unavailable(await desk.refused())


async def test_a_call_that_crashed_is_not_made_again(desk: Desk) -> None:
    claim = await desk.claimed()
    await desk.hold(claim)
    restarted = desk.another()
    assert [row["request_id"] for row in await book_orphans(desk.database)] == [claim.request_id]
    refusal = await desk.refused(service=restarted)
    assert is_unavailable(refusal)
    assert refusal.metadata == {"request_id": claim.request_id}
    desk.pass_s(TTL_S)
    assert isinstance(await desk.claim(service=restarted), Claim)


# What goes


async def test_an_expired_value_is_free_and_its_row_gone_before_the_new_hold(desk: Desk) -> None:
    first = await desk.call()
    desk.pass_s(TTL_S - 0.001)
    assert isinstance(await desk.claim(), KeptAnswer)
    desk.pass_s(0.001)
    second = await desk.claimed(fingerprint="f2")
    assert second.reservation.id == first.reservation.id
    assert rows(desk.path, "SELECT * FROM idempotency") == []
    await desk.hold(second)
    assert rows(desk.path, "SELECT request_id FROM idempotency") == [(second.request_id,)]


async def test_a_call_that_outruns_its_value_keeps_it_from_others_here(desk: Desk) -> None:
    claim = await desk.claimed()
    await desk.hold(claim)
    desk.pass_s(2 * TTL_S)
    await desk.service.purge()
    assert is_in_progress(await desk.refused())
    desk.service.leave(claim)
    await desk.claimed()


async def test_a_purge_removes_what_has_expired_and_nothing_else(desk: Desk) -> None:
    await desk.call(b"old")
    desk.pass_s(TTL_S / 2)
    young = await desk.call(b"young")
    desk.pass_s(TTL_S / 2)
    await desk.service.purge()
    assert rows(desk.path, "SELECT request_id, state FROM idempotency") == [(young.request_id, "kept")]


@asynccontextmanager
async def traced(database: Database) -> AsyncIterator[list[str]]:
    """The first words of what is written meanwhile."""
    words: list[str] = []

    def note(sql: str) -> None:
        words.append(sql.split(" ")[0])

    await database.run(lambda transactions: transactions.connection.raw.set_trace_callback(note))
    yield words
    await database.run(lambda transactions: transactions.connection.raw.set_trace_callback(None))


async def fill(desk: Desk, sizes: Sequence[int], *, creator: str = "acme", state: str = "kept") -> None:
    """Rows with answers said to be that large, each a millisecond older than the next; none has expired."""
    now = int(desk.clock.now_s * 1000)
    row = {"fingerprint": "f", "account_id": creator, "creator": creator, "created_at": now, "state": state}
    await desk.database.write(
        *(
            insert(idempotency).values(
                id=f"{creator}{n:04d}",
                request_id=f"r{n:04d}",
                size_bytes=size,
                answer=b"",
                expires_at=now + 1 + n,
                **row,
            )
            for n, size in enumerate(sizes)
        )
    )


@pytest.mark.parametrize(
    ("sizes", "deletes"),
    [pytest.param([0] * 1_001, 3, id="rows"), pytest.param([10 * 2**20] * 5, 3, id="bytes")],
)
async def test_a_purge_and_an_oblivion_go_in_small_transactions(desk: Desk, sizes: list[int], deletes: int) -> None:
    await fill(desk, sizes)
    async with traced(desk.database) as words:
        await desk.service.forget("acme")
    assert words.count("DELETE") == deletes
    await fill(desk, sizes)
    desk.pass_s(TTL_S)
    async with traced(desk.database) as words:
        await desk.service.purge()
    assert words.count("DELETE") == deletes
    assert rows(desk.path, "SELECT * FROM idempotency") == []


async def test_room_is_made_as_soon_as_answers_are_too_many_and_no_answer_waits_for_it(desk: Desk) -> None:
    desk.service = desk.another(bytes_max=600)
    claims = []
    for n in range(6):
        claims.append(await desk.call(b"%d" % n, body=bytes(200)))
        desk.pass_s(1)
    async with asyncio.timeout(10):
        while sum(row[0] for row in rows(desk.path, "SELECT size_bytes FROM idempotency")) > 600:
            await asyncio.sleep(0)
    states = [await desk.state_of(claim) for claim in claims]
    assert states == sorted(states)  # `dropped` before `kept`: the oldest went
    assert states[-1] == "kept"


async def test_a_purge_drops_the_oldest_answers_until_the_others_fit(desk: Desk) -> None:
    claims = []
    for n in range(4):
        claims.append(await desk.call(b"%d" % n))
        desk.pass_s(1)
    size = rows(desk.path, "SELECT size_bytes FROM idempotency")[0][0]
    assert size == len(rows(desk.path, "SELECT answer FROM idempotency")[0][0])
    await desk.another(bytes_max=4 * size).purge()
    assert [await desk.state_of(claim) for claim in claims] == ["kept"] * 4
    await desk.another(bytes_max=2 * size).purge()
    assert [await desk.state_of(claim) for claim in claims] == ["dropped", "dropped", "kept", "kept"]
    await desk.another(bytes_max=2 * size - 1).purge()
    assert [await desk.state_of(claim) for claim in claims] == ["dropped"] * 3 + ["kept"]
    assert rows(desk.path, "SELECT count(*) FROM idempotency WHERE answer IS NULL AND size_bytes = 0") == [(3,)]
    assert is_unavailable(await desk.refused(b"0"))
    answer = await desk.claim(b"3")
    assert isinstance(answer, KeptAnswer)
    assert answer.body == BODY


async def test_dropping_goes_in_small_transactions_too(desk: Desk) -> None:
    await fill(desk, [10 * 2**20] * 7)
    async with traced(desk.database) as words:
        await desk.another(bytes_max=25 * 2**20).purge()
    assert words.count("UPDATE") == 3
    states = [row[0] for row in rows(desk.path, "SELECT state FROM idempotency ORDER BY id")]
    assert states == ["dropped"] * 5 + ["kept"] * 2


async def test_without_room_no_answer_stays_and_open_calls_do(desk: Desk) -> None:
    kept = await desk.call(b"kept")
    large = await desk.call(b"large", body=None)
    running = await desk.claimed(b"running")
    await desk.hold(running)
    await desk.another(bytes_max=0).purge()
    assert [await desk.state_of(each) for each in (kept, large, running)] == ["dropped", "too_large", "open"]


async def test_a_creator_is_forgotten_alone(desk: Desk, world: World) -> None:
    other = await world.account(await world.new_key("zeta"))
    running = await desk.claimed(b"running")
    await desk.hold(running)
    await desk.call()
    kept = await desk.call(account=other)
    await desk.service.forget("acme")
    assert rows(desk.path, "SELECT creator, request_id FROM idempotency") == [("zeta", kept.request_id)]
    await desk.service.keep(running, 200, HEADERS, BODY)
    assert await desk.state_of(running) is None
