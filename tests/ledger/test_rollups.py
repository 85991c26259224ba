"""Rollups: the sums of the entries, by every key, in the period of the admission."""

import asyncio
import shutil
import tempfile
from collections import Counter
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.ledger.database import Database
from gateway.ledger.periods import month_bounds_ms, ms_of, period_of, rfc3339
from gateway.ledger.records import Entry, Route
from gateway.ledger.rollups import NAMES_MAX, OTHER
from gateway.ledger.schema import USAGE_DAILY_KEY
from gateway.usage import Usage
from tests.ledger.books import (
    BOTH,
    COST,
    NOON,
    Place,
    attribution,
    call,
    change,
    count,
    entry,
    hold,
    opened,
    refuse_entries,
    rows,
    verify,
)
from tests.servers.postgres_server import PostgresServer

STORES = BOTH

COUNTS = st.integers(0, 10**12)
USAGES = st.builds(Usage, *[COUNTS] * len(Usage._fields))
NAMES = st.sampled_from(["", "a", "b", OTHER])
INSTANTS = st.timedeltas(timedelta(0), timedelta(days=4)).map(lambda age: datetime(2026, 3, 2, tzinfo=UTC) - age)

SUMS_OF_ENTRIES = f"""
    SELECT {", ".join(USAGE_DAILY_KEY)}, count(*) FILTER (WHERE final AND kind = 'usage'), count(*), {", ".join(f"sum({name})" for name in Usage._fields)},
           sum(cost_nano_usd), sum(charge_nano_usd), sum(payer_amount),
           count(*) FILTER (WHERE final AND kind = 'usage' AND outcome NOT IN ('ok', 'client_gone')), sum(saved_nano_usd)
    FROM entries GROUP BY {", ".join(USAGE_DAILY_KEY)} ORDER BY {", ".join(USAGE_DAILY_KEY)}
"""


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    booked = attribution(
        "",
        creator=draw(st.sampled_from(["acme", "zeta"])),
        at=draw(INSTANTS),
        feature=draw(NAMES),
        agent=draw(NAMES),
        endpoint=draw(st.sampled_from(["chat", "embeddings"])),
    )
    is_cached = draw(st.booleans())
    return entry("")._replace(
        attribution=booked,
        route=Route(draw(st.sampled_from(["m1", "m2"])), "p", "1", draw(st.sampled_from(["quota", "credits"]))),
        final=draw(st.booleans()),
        kind=draw(st.sampled_from(["usage", "refund"])),
        usage=draw(USAGES),
        cost_nano_usd=draw(st.integers(-(10**12), 10**12)),
        charge_nano_usd=draw(st.integers(-(10**12), 10**12)),
        payer_amount=draw(st.integers(-(10**12), 10**12)),
        outcome=draw(st.sampled_from(["ok", "client_gone", "upstream_error", "crashed"])),
        cached=is_cached,
        saved_nano_usd=draw(st.integers(0, 10**12)) if is_cached else 0,
    )


async def post(path: Place, made: list[Entry]) -> None:
    """Through holds and settles, several in a batch."""
    database = await opened(path)
    calls = [e._replace(attribution=e.attribution._replace(request_id=f"r{n}")) for n, e in enumerate(made)]
    await asyncio.gather(*(database.ledger.hold(hold(call.attribution.request_id)) for call in calls))
    await asyncio.gather(*(database.ledger.settle(call.attribution.request_id, [call]) for call in calls))
    await database.close()


def check_sums(path: Place, made: list[Entry]) -> None:
    asyncio.run(post(path, made))
    stored = rows(path, f"SELECT * FROM usage_daily ORDER BY {', '.join(USAGE_DAILY_KEY)}")
    assert stored == rows(path, SUMS_OF_ENTRIES)
    assert sum(row[len(USAGE_DAILY_KEY) + 1] for row in stored) == len(made)
    assert [difference for difference in verify(path).differences if difference.table == "usage_daily"] == []


@settings(max_examples=15)
@given(made=st.lists(entries(), max_size=12))
def test_rollups_are_the_sums_of_the_entries(empty: Path, made: list[Entry]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check_sums(Path(shutil.copy(empty, folder)), made)


@settings(max_examples=4)
@given(made=st.lists(entries(), min_size=4, max_size=12))
def test_rollups_in_postgres_are_the_sums_of_the_entries(
    postgres_server: PostgresServer, template: str, made: list[Entry]
) -> None:
    url = postgres_server.create_database("rollups", template=template)
    try:
        check_sums(url, made)
    finally:
        postgres_server.drop_database("rollups")


async def test_what_cached_answers_saved_is_summed_apart_from_what_the_others_cost(
    database: Database, path: Place
) -> None:
    free = {"cost_nano_usd": 0, "charge_nano_usd": 0, "payer_amount": 0}
    hits = [entry(f"hit{n}", changes={**free, "cached": True, "saved_nano_usd": 10 + n}) for n in range(3)]
    await database.ledger.post([*hits, entry("miss")])
    await database.ledger.post([entry("later", changes={**free, "cached": True, "saved_nano_usd": 7})])
    sums = rows(path, "SELECT cached, sum(calls), sum(cost_nano_usd), sum(saved_nano_usd) FROM usage_daily GROUP BY 1")
    assert sums == [(0, 1, COST, 0), (1, 4, 0, 10 + 11 + 12 + 7)]


# Periods

TOKYO, NEW_YORK = timezone(timedelta(hours=9)), timezone(timedelta(hours=-4))


@pytest.mark.parametrize(
    ("at", "day"),
    [
        pytest.param(datetime(2026, 5, 31, 23, 59, 59, 999_999, UTC), "2026-05-31", id="last instant of a month"),
        pytest.param(datetime(2026, 6, 1, tzinfo=UTC), "2026-06-01", id="first instant of a month"),
        pytest.param(datetime(2026, 6, 1, 8, 59, 59, tzinfo=TOKYO), "2026-05-31", id="already June in Tokyo"),
        pytest.param(datetime(2026, 5, 31, 20, 0, tzinfo=NEW_YORK), "2026-06-01", id="still May in New York"),
        pytest.param(datetime(2028, 2, 29, 12, tzinfo=UTC), "2028-02-29", id="leap day"),
        pytest.param(datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC), "2026-12-31", id="year end"),
        pytest.param(datetime(2027, 1, 1, 8, 0, tzinfo=TOKYO), "2026-12-31", id="year end in Tokyo"),
    ],
)
async def test_a_call_is_in_the_period_of_its_admission_in_utc(
    database: Database, path: Place, at: datetime, day: str
) -> None:
    await call(database, "r1", at=at)
    assert rows(path, "SELECT period_day, period_month FROM entries") == [(day, day[:7])]
    assert rows(path, "SELECT period_day FROM usage_daily") == [(day,)]
    start, end = month_bounds_ms(day[:7])
    assert start <= ms_of(at) < end


@settings(max_examples=50)
@given(st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1), timezones=st.timezones()))  # noqa: DTZ001 -- zones are drawn
def test_periods_are_those_of_the_calendar(at: datetime) -> None:
    utc = at.astimezone(UTC)
    assert period_of(ms_of(at)) == (utc.strftime("%Y-%m-%d"), utc.strftime("%Y-%m"))
    assert datetime.fromisoformat(rfc3339(ms_of(at))) == utc.replace(microsecond=utc.microsecond // 1000 * 1000)


@pytest.mark.parametrize(
    "text", ["", "2026", "2026-13", "2026-00", "2026-1", "2026-01-01", "26-01", "2026-W1", "abcd-ef"]
)
def test_what_is_no_month_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        month_bounds_ms(text)


# Names


def features(path: Place, creator: str) -> Counter[str]:
    found = rows(path, "SELECT feature, sum(calls) FROM usage_daily WHERE creator = ? GROUP BY feature", creator)
    return Counter(dict(found))


async def test_names_beyond_the_bound_are_summed_as_other(path: Place) -> None:
    """Per creator and day, by the order of posting, over restarts, and so that `verify` comes to the same."""
    database = await opened(path)

    async def calls(creator: str, names: range, **fields: Any) -> None:
        already = count(path, "entries")
        made = (f"{creator}-{n}-{already}" for n in names)
        await asyncio.gather(
            *(
                call(database, name, creator=creator, feature=f"f{n}", agent=f"a{n % 3}", **fields)
                for name, n in zip(made, names, strict=True)
            )
        )

    await calls("acme", range(150))
    await calls("zeta", range(3))
    await database.close()
    database = await opened(path)
    await calls("acme", range(100, 250))
    await calls("acme", range(3), at=NOON + timedelta(days=1))
    await call(database, "unnamed", creator="acme", feature="")
    await database.close()
    counted = features(path, "acme")
    assert len(counted) == NAMES_MAX + 2
    assert counted[OTHER] == 50
    assert counted[""] == 1
    assert counted["f120"] == 2
    assert features(path, "zeta") == {"f0": 1, "f1": 1, "f2": 1}
    assert rows(path, "SELECT count(DISTINCT feature) FROM entries WHERE creator = 'acme'") == [(251,)]
    assert [d for d in verify(path).differences if d.table == "usage_daily"] == []


def of_usage_daily(path: Place) -> list[tuple[str, str]]:
    return [(found.column, str(found.stored)) for found in verify(path).differences if found.table == "usage_daily"]


async def test_names_that_cannot_have_been_folded_rightly_are_found(database: Database, path: Place) -> None:
    names = [entry(f"r{n}", feature=f"f{n}") for n in range(NAMES_MAX + 5)]
    await database.ledger.post(names)
    assert of_usage_daily(path) == []
    # The set is taken from the rollups, so one of the 200 may be another one: the sums tell.
    change(path, "UPDATE usage_daily SET feature = 'f203' WHERE feature = 'f7'")
    assert of_usage_daily(path) == []
    change(path, "UPDATE usage_daily SET feature = 'f7' WHERE feature = 'f203'")
    change(path, "UPDATE usage_daily SET calls = calls + 1 WHERE feature = 'other'")
    assert of_usage_daily(path) == [("calls", "6")]
    change(path, "UPDATE usage_daily SET calls = calls - 1 WHERE feature = 'other'")
    # Fewer than 200 have rows though others were folded.
    change(path, "DELETE FROM usage_daily WHERE feature = 'f7'")
    assert ("names", "199") in of_usage_daily(path)
    assert len(of_usage_daily(path)) > 1


async def test_more_names_than_there_is_room_for_are_found(database: Database, path: Place) -> None:
    await database.ledger.post([entry(f"r{n}", feature=f"f{n}") for n in range(NAMES_MAX)])
    assert of_usage_daily(path) == []
    await database.ledger.post([entry("one more", feature="one-more")])
    assert of_usage_daily(path) == []
    change(path, "UPDATE usage_daily SET feature = 'one-more' WHERE feature = 'other'")
    assert of_usage_daily(path) == [("names", "201")]


async def test_a_name_of_a_transaction_rolled_back_takes_no_place(database: Database, path: Place) -> None:
    refuse_entries(path, "NEW.feature LIKE 'bad%'")
    names = [f"bad{n}" for n in range(NAMES_MAX + 20)]
    for start in range(0, len(names), 20):  # a batch is repeated row by row: a slow disk has to keep up
        refused = [call(database, name, feature=name) for name in names[start : start + 20]]
        await asyncio.gather(*refused, return_exceptions=True)
    await call(database, "good", feature="good")
    assert features(path, "acme") == {"good": 1}
