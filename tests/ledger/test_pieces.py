"""Images, seconds of audio and characters of speech share a column: every view keeps them apart."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.config import Settings
from gateway.ledger.database import Database
from gateway.ledger.entry_json import ENTRY_FIELDS, csv_header, csv_line, entry_json, sums_json
from gateway.ledger.queries import COST_SUMS, CostFilter, EntryFilter, costs, entry_page
from gateway.usage import PIECE_NAMES, Usage
from tests.ledger.books import BOTH, Place, entry, opened

STORES = BOTH

SPOKEN = {
    "images": 2,
    "image_edits": 3,
    "image_variations": 4,
    "speech": 500,
    "transcriptions": 60,
    "translations": 7,
    "chat": 0,
}


@pytest.fixture
async def database(prepared: Place) -> AsyncIterator[Database]:
    database = await opened(prepared, settings=Settings(settle_timeout_s=5))
    await database.ledger.post(
        [
            entry(f"r-{endpoint}", endpoint=endpoint, changes={"usage": Usage(10, pieces=pieces)})
            for endpoint, pieces in SPOKEN.items()
        ]
    )
    yield database
    await database.close()


def pieces_of(shown: dict[str, Any]) -> tuple[int, ...]:
    return tuple(shown[name] for name in PIECE_NAMES)


async def test_an_entry_shows_its_pieces_under_their_own_name(database: Database) -> None:
    found = {
        row["endpoint"]: entry_json(row) for row in await entry_page(database, EntryFilter(), limit=50, before=None)
    }
    assert {endpoint: pieces_of(shown) for endpoint, shown in found.items()} == {
        "images": (2, 0, 0),
        "image_edits": (3, 0, 0),
        "image_variations": (4, 0, 0),
        "speech": (0, 0, 500),
        "transcriptions": (0, 60, 0),
        "translations": (0, 7, 0),
        "chat": (0, 0, 0),
    }
    assert {shown["input_tokens"] for shown in found.values()} == {10}


async def test_a_line_of_csv_has_a_column_for_each(database: Database) -> None:
    header = csv_header(ENTRY_FIELDS).strip().split(",")
    (row,) = await entry_page(database, EntryFilter(equal={"endpoint": "speech"}), limit=5, before=None)
    line = csv_line(entry_json(row)).strip().split(",")
    assert [line[header.index(name)] for name in PIECE_NAMES] == ["0", "0", "500"]


async def test_sums_over_endpoints_do_not_mix(database: Database) -> None:
    (total,) = await costs(database, CostFilter(), ["creator"])
    assert pieces_of(sums_json(total)) == (9, 67, 500)
    assert total.keys() >= set(COST_SUMS)
    assert (total["calls"], total["uncached_input"]) == (7, 70)


async def test_sums_by_endpoint_have_nothing_of_the_others(database: Database) -> None:
    rows = await costs(database, CostFilter(), ["endpoint"])
    assert {row["endpoint"]: pieces_of(sums_json(row)) for row in rows}["transcriptions"] == (0, 60, 0)
    assert [sum(pieces_of(sums_json(row))) for row in rows] == [SPOKEN[row["endpoint"]] for row in rows]
