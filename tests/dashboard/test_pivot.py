"""A table of sums has every sum in it once, whatever is merged and however it runs on."""

from collections import Counter
from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from gateway.dashboard.pivot import Cell, Heading, pivot

NAMES = st.sampled_from(["", "a", "b", "c", "d", "e", "Other", "other"])
CELLS = st.lists(st.builds(Cell, NAMES, NAMES, st.integers(-(10**15), 10**15)), max_size=40)


def amounts(cells: list[Cell], place: int) -> Counter[str]:
    found: Counter[str] = Counter()
    for cell in cells:
        found[cell[place]] += cell.amount
    return found


@given(CELLS, st.integers(1, 9), st.integers(1, 9))
def test_all_cells_are_in_the_totals(cells: list[Cell], columns_max: int, rows_max: int) -> None:
    table = pivot(cells, columns_max=columns_max, rows_max=rows_max)
    assert table.total == sum(cell.amount for cell in cells)
    assert table.row_totals == [sum(line) for _, line in table.rows]
    assert table.column_totals == [sum(line[n] for _, line in table.rows) for n in range(len(table.columns))]
    assert sum(table.row_totals) == sum(table.column_totals) == table.total


@given(CELLS, st.integers(1, 9))
def test_what_is_merged_is_exactly_the_rest(cells: list[Cell], columns_max: int) -> None:
    table = pivot(cells, columns_max=columns_max)
    by_name = amounts(cells, 1)
    rest = 0
    for heading, total in zip(table.columns, table.column_totals, strict=True):
        if heading.merged:
            rest, merged = total, heading.merged
            assert len(table.columns) == columns_max + 1
            assert merged == len(by_name)
        else:
            assert by_name.pop(heading.name) == total
    assert rest == sum(by_name.values())


@given(CELLS, st.integers(1, 9))
def test_the_largest_stand_apart(cells: list[Cell], columns_max: int) -> None:
    table = pivot(cells, columns_max=columns_max)
    named = [total for heading, total in zip(table.columns, table.column_totals, strict=True) if not heading.merged]
    shown = {heading.name for heading in table.columns if not heading.merged}
    assert named == sorted(named, reverse=True)
    assert all(amount <= named[-1] for name, amount in amounts(cells, 1).items() if name not in shown)


@given(CELLS, st.integers(1, 9))
def test_a_running_table_ends_with_the_sums(cells: list[Cell], columns_max: int) -> None:
    plain = pivot(cells, columns_max=columns_max)
    running = pivot(cells, columns_max=columns_max, is_cumulative=True)
    assert running.columns == plain.columns
    assert (running.column_totals, running.total) == (plain.column_totals, plain.total)
    for n in range(len(plain.columns)):
        assert [line[n] for _, line in running.rows] == list(accumulate(line[n] for _, line in plain.rows))
    if running.rows:
        assert running.rows[-1][1] == running.column_totals


@given(CELLS, st.randoms(use_true_random=False))
def test_the_order_of_cells_changes_nothing(cells: list[Cell], random: object) -> None:
    mixed = list(cells)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    assert pivot(mixed, columns_max=3, rows_max=2) == pivot(cells, columns_max=3, rows_max=2)


def test_rows_stand_as_they_were_asked_for_also_without_a_cell() -> None:
    table = pivot([Cell("2", "x", 5), Cell("2", "y", 1), Cell("1", "x", 2)], columns_max=9, rows=["1", "2", "3"])
    assert table.columns == [Heading("x"), Heading("y")]
    assert table.rows == [(Heading("1"), [2, 0]), (Heading("2"), [5, 1]), (Heading("3"), [0, 0])]


def test_one_alone_is_not_merged() -> None:
    cells = [Cell("r", name, 1) for name in "abc"]
    assert pivot(cells, columns_max=2).columns == [Heading("a"), Heading("b"), Heading("c")]
    assert pivot([*cells, Cell("r", "d", 1)], columns_max=2).columns == [Heading("a"), Heading("b"), Heading("", 2)]
