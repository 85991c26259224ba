"""PostgreSQL killed, frozen, full, in a deadlock, gone in the middle of a COMMIT: nothing is lost and nothing is double."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from sqlalchemy import select
from structlog.testing import capture_logs

from gateway.config import Settings
from gateway.errors import ConfigError, StoreError
from gateway.ledger.database import Database
from gateway.ledger.postgres.opening import open_postgres, verify_postgres
from gateway.ledger.schema import entries
from gateway.ledger.transactions import Transactions
from gateway.tasks import spawn
from tests.ledger.books import COST, MODEL, PRICE, call, change, count, entry, hold, rows
from tests.ledger.postgres_proxy import Cut, Proxy
from tests.servers.postgres_server import PASSWORD, PostgresServer
from tests.servers.postgres_wire import PostgresError, Session

STORES = ("postgres",)
HASTY = Settings(settle_timeout_s=0.3)


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresServer]:
    """To stop, freeze and fill."""
    with PostgresServer(max_connections=20, settings={"superuser_reserved_connections": 3}) as server:
        yield server


@pytest.fixture
async def own(own_server: PostgresServer, request: pytest.FixtureRequest) -> AsyncIterator[Database]:
    if not own_server.is_running:
        own_server.start()
    own_server.flush()
    database = await open_postgres(own_server.create_database("own"), settings=HASTY, has_spool=False)
    await database.record_prices({MODEL: PRICE})
    yield database
    own_server.thaw()
    await database.close()


TOO_MANY = "53300"
SEND_READERS_AWAY = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'gateway reader'"


def taken_connections(server: PostgresServer) -> list[Session]:
    """All there are."""
    taken: list[Session] = []
    while True:
        try:
            taken.append(server.session(database="own"))
        except PostgresError as refusal:
            if refusal.code != TOO_MANY:
                raise
            return taken


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not is_so():
            await asyncio.sleep(0.01)


async def test_a_server_killed_while_settles_wait_loses_none_and_books_none_twice(
    own: Database, own_server: PostgresServer
) -> None:
    url = own_server.url_of("own")
    ledger = own.ledger
    ids = [f"r{n}" for n in range(40)]
    await asyncio.gather(*(ledger.hold(hold(each)) for each in ids))
    first = [spawn(ledger.settle(each, [entry(each)]), "settle") for each in ids[:20]]
    await asyncio.sleep(0)
    await asyncio.to_thread(own_server.kill9)
    later = [spawn(ledger.settle(each, [entry(each)]), "settle") for each in ids[20:]]
    told = await asyncio.gather(*first, *later, return_exceptions=True)
    assert {type(each) for each in told} <= {type(None), StoreError}
    assert StoreError in {type(each) for each in told}
    with pytest.raises(StoreError) as refused:
        await ledger.hold(hold("new"))
    assert refused.value.status == 503
    with pytest.raises(StoreError):
        await own.fetch_one(select(entries.c.id))
    await asyncio.to_thread(own_server.start)
    await until(lambda: ledger.is_ready)
    await call(own, "after")
    assert rows(url, "SELECT count(*), count(DISTINCT request_id), sum(cost_nano_usd) FROM entries") == [
        (41, 41, 41 * COST)
    ]
    assert count(url, "holds") == 0
    assert await own.fetch_one(select(entries.c.id)) is not None
    assert verify_postgres(url).differences == []


async def test_a_frozen_server_refuses_holds_in_time_and_takes_all_settles_when_it_goes_on(
    own: Database, own_server: PostgresServer
) -> None:
    url = own_server.url_of("own")
    ledger = own.ledger
    await asyncio.gather(*(ledger.hold(hold(f"r{n}")) for n in range(5)))
    await asyncio.to_thread(own_server.freeze)
    settles = [spawn(ledger.settle(f"r{n}", [entry(f"r{n}")]), "settle") for n in range(5)]
    async with asyncio.timeout(3):
        with pytest.raises(StoreError) as refused:
            await ledger.hold(hold("waited"))
        assert refused.value.status == 503
        with pytest.raises(StoreError):
            await ledger.hold(hold("refused at once"))
        told = await asyncio.gather(*settles, return_exceptions=True)
    assert {type(each) for each in told} == {StoreError}
    assert not ledger.is_ready
    own_server.thaw()
    await until(lambda: ledger.is_ready)
    await call(own, "after")
    assert rows(url, "SELECT count(*), count(DISTINCT request_id) FROM entries") == [(6, 6)]
    assert count(url, "holds") == 0


async def test_without_a_free_connection_reads_fail_and_the_writer_goes_on(
    own: Database, own_server: PostgresServer
) -> None:
    change(own_server.url_of("own"), SEND_READERS_AWAY)
    taken = taken_connections(own_server)
    try:
        with pytest.raises(StoreError, match="cannot be read"):
            await own.fetch_one(select(entries.c.id))
        await call(own, "r1")
    finally:
        for each in taken:
            each.close()
    async with asyncio.timeout(10):
        while True:
            try:
                assert await own.fetch_one(select(entries.c.request_id)) == {"request_id": "r1"}
                break
            except StoreError:
                continue


async def test_a_writer_sent_away_comes_back_by_itself(database: Database, path: str) -> None:
    ledger = database.ledger
    await ledger.hold(hold("r1"))
    change(
        path, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'gateway writer test'"
    )
    settle = spawn(ledger.settle("r1", [entry("r1")]), "settle")
    await asyncio.gather(settle, return_exceptions=True)
    await until(lambda: ledger.is_ready)
    await call(database, "r2")
    assert rows(path, "SELECT request_id FROM entries ORDER BY id") == [("r1",), ("r2",)]


@pytest.mark.parametrize("state", ["40P01", "40001"], ids=["deadlock", "serialisation"])
async def test_transactions_in_each_others_way_are_repeated_and_nobody_is_told(
    database: Database, path: str, state: str
) -> None:
    change(path, "CREATE SEQUENCE tries")
    change(
        path,
        "CREATE FUNCTION stumble() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF nextval('tries') % 4 <> 0 THEN RAISE EXCEPTION 'stumbled' USING ERRCODE = '{state}'; END IF; "
        "RETURN NULL; END $$",
    )
    for table in ("holds", "usage_daily"):
        change(
            path,
            f"CREATE TRIGGER stumble AFTER INSERT ON {table} FOR EACH STATEMENT EXECUTE FUNCTION stumble()",
        )
    with capture_logs() as logs:
        await asyncio.gather(*(call(database, f"r{n}") for n in range(10)))
        await database.run(lambda transactions: transactions.post([entry("posted")]))
    assert rows(path, "SELECT count(*), sum(cost_nano_usd) FROM entries") == [(11, 11 * COST)]
    assert rows(path, "SELECT sum(calls), sum(cost_nano_usd) FROM usage_daily") == [(11, 11 * COST)]
    assert [log for log in logs if log["log_level"] in ("error", "critical")] == []


# A connection lost in COMMIT


@pytest.fixture
async def proxied(path: str) -> AsyncIterator[tuple[Database, Proxy]]:
    with Proxy(path) as proxy:
        database = await open_postgres(
            proxy.url, settings=Settings(settle_timeout_s=10), instance_id="test", has_spool=False
        )
        yield database, proxy
        await database.close()


@pytest.mark.parametrize("cut", ["before", "after"])
async def test_settles_whose_commit_is_in_doubt_are_booked_once(
    proxied: tuple[Database, Proxy], path: str, cut: Cut
) -> None:
    database, proxy = proxied
    await asyncio.gather(*(database.ledger.hold(hold(f"r{n}")) for n in range(5)))
    proxy.cut = cut
    await asyncio.gather(*(database.ledger.settle(f"r{n}", [entry(f"r{n}")]) for n in range(5)))
    assert proxy.cuts == 1
    assert rows(path, "SELECT count(*), count(DISTINCT request_id) FROM entries") == [(5, 5)]
    assert rows(path, "SELECT sum(calls) FROM usage_daily") == [(5,)]
    assert count(path, "holds") == 0


@pytest.mark.parametrize("cut", ["before", "after"])
async def test_a_hold_whose_commit_is_in_doubt_fails_and_does_not_stay(
    proxied: tuple[Database, Proxy], path: str, cut: Cut
) -> None:
    database, proxy = proxied
    proxy.cut = cut
    with pytest.raises(StoreError):
        await database.ledger.hold(hold("r1"))
    assert proxy.cuts == 1
    await until(lambda: database.ledger.is_ready)
    await database.ledger.settle("unknown", [])
    assert count(path, "holds") == 0
    assert count(path, "entries") == 0


@pytest.mark.parametrize(("cut", "is_done"), [("before", False), ("after", True)])
async def test_a_write_whose_commit_is_in_doubt_is_told_what_became_of_it(
    proxied: tuple[Database, Proxy], path: str, cut: Cut, is_done: bool
) -> None:
    database, proxy = proxied

    def post(transactions: Transactions) -> list[str]:
        return transactions.post([entry("r1")])

    proxy.cut = cut
    (told,) = await asyncio.gather(database.ledger.run(post, is_patient=True), return_exceptions=True)
    assert proxy.cuts == 1
    assert rows(path, "SELECT id FROM entries") == ([(told[0],)] if is_done else [])  # type: ignore[index]
    assert isinstance(told, list) is is_done
    assert isinstance(told, StoreError) is not is_done


# Who may use it


async def test_a_second_gateway_is_refused_while_the_first_one_runs(
    database: Database, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.ledger.postgres.connection._OTHER_ENDS_WITHIN_S", 0.2)
    with pytest.raises(ConfigError, match="another gateway uses this database"):
        await open_postgres(path)
    await call(database, "r1")
    await database.close()
    second = await open_postgres(path)
    await call(second, "r2")
    await second.close()


async def test_a_server_that_is_not_there_is_told_without_the_password(own_server: PostgresServer) -> None:
    url = own_server.url_of("nowhere").replace(str(own_server.port), "1")
    with pytest.raises(ConfigError, match="GATEWAY_DATABASE_URL") as refused:
        await open_postgres(url)
    assert PASSWORD not in str(refused.value)


async def test_what_is_refused_is_logged_without_its_values(database: Database) -> None:
    secret = "canary-of-metadata"
    with capture_logs() as logs, pytest.raises(StoreError):
        await database.ledger.hold(hold("r1", metadata=secret, feature=None))
    assert "ledger_row_refused" in {log["event"] for log in logs}
    assert secret not in repr(logs)


async def test_a_text_with_the_character_0_is_kept_without_it(database: Database, path: str) -> None:
    await call(database, "r1", tags="a\0b")
    assert rows(path, "SELECT tags FROM entries") == [("a\ufffdb",)]
