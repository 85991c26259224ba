"""Ids of entries: uuid7, in order whatever the clock does."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ledger.ids import EntryIds, id_floor, is_entry_id, ms_in

MS = st.integers(0, 2**48 - 2)


@given(st.lists(MS, min_size=2, max_size=50))
def test_ids_grow_however_the_clock_jumps(clock: list[int]) -> None:
    ids = EntryIds()
    made = [ids.next(now) for now in clock]
    texts = [text for text, _ in made]
    assert texts == sorted(set(texts))
    for (text, ms), now in zip(made, clock, strict=True):
        assert ms_in(text) == ms >= now
        assert is_entry_id(text)
        assert uuid.UUID(text).version == 7
        assert uuid.UUID(text).variant == uuid.RFC_4122


@given(MS, MS)
def test_a_new_process_goes_on_above_the_last_id(first: int, second: int) -> None:
    last, _ = EntryIds().next(first)
    assert EntryIds(last).next(second)[0] > last


def test_a_full_millisecond_flows_over_into_the_next() -> None:
    last = "00000000-0005-7fff-bfff-ffffffffffff"
    following, ms = EntryIds(last).next(5)
    assert ms == 6
    assert following > last


@given(MS, MS)
def test_floors_cut_ids_by_their_instant(at: int, bound: int) -> None:
    text, ms = EntryIds().next(at)
    assert (text >= id_floor(bound)) == (ms >= bound)


@pytest.mark.parametrize(
    "text", ["", "x", "00000000-0000-4000-8000-000000000000", "00000000-0000-7000-8000-00000000000G"]
)
def test_what_is_no_id_is_told(text: str) -> None:
    assert not is_entry_id(text)
