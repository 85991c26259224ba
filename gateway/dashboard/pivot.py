"""Rows of sums -> a table: the largest columns, the rest of them as one, totals, and running totals. Pure, all integers."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

__all__ = ["Cell", "Heading", "Table", "pivot"]


class Cell(NamedTuple):
    """A sum, and where in the table it belongs. Several of one place are added."""

    row: str
    column: str
    amount: int


class Heading(NamedTuple):
    """A row or column. One that stands for `merged` others has no name of its own, whatever they are called."""

    name: str
    merged: int = 0


class Table(NamedTuple):
    columns: list[Heading]
    rows: list[tuple[Heading, list[int]]]
    """With an amount for each column."""
    row_totals: list[int]
    column_totals: list[int]
    total: int
    """Of all cells. The totals are those of the cells also where the rows run on."""

    @property
    def is_empty(self) -> bool:
        return not self.rows


def pivot(
    cells: Iterable[Cell],
    *,
    columns_max: int,
    rows: Sequence[str] | None = None,
    rows_max: int | None = None,
    is_cumulative: bool = False,
) -> Table:
    """The table of `cells`: its columns by their totals, the largest first and equals by name, and beyond `columns_max` of
    them one more with exactly what is left.

    Rows stand in the order of `rows`, in which every row of a cell is found; without it they are sorted and merged as
    columns are, by `rows_max`. `is_cumulative`: a row shows the sum of itself and all above it.
    """
    amounts: dict[tuple[str, str], int] = defaultdict(int)
    for cell in cells:
        amounts[cell.row, cell.column] += cell.amount
    columns = _largest(_totals(amounts, of=1), columns_max)
    lines = {name: Heading(name) for name in rows} if rows is not None else _largest(_totals(amounts, of=0), rows_max)
    headings, lines_shown = list(dict.fromkeys(columns.values())), list(dict.fromkeys(lines.values()))
    column_at = {heading: index for index, heading in enumerate(headings)}
    grid = {line: [0] * len(headings) for line in lines_shown}
    for (row, column), amount in amounts.items():
        grid[lines[row]][column_at[columns[column]]] += amount
    column_totals = [sum(line[index] for line in grid.values()) for index in range(len(headings))]
    shown = _running(list(grid.values())) if is_cumulative else list(grid.values())
    return Table(
        columns=headings,
        rows=list(zip(lines_shown, shown, strict=True)),
        row_totals=[sum(line) for line in shown],
        column_totals=column_totals,
        total=sum(column_totals),
    )


def _totals(amounts: Mapping[tuple[str, str], int], *, of: int) -> dict[str, int]:
    found: dict[str, int] = defaultdict(int)
    for place, amount in amounts.items():
        found[place[of]] += amount
    return found


def _largest(totals: Mapping[str, int], count: int | None) -> dict[str, Heading]:
    """Each name's heading, in the order of the headings: one that would be merged alone keeps its name."""
    names = sorted(totals, key=lambda name: (-totals[name], name))
    if count is None or len(names) <= count + 1:
        return {name: Heading(name) for name in names}
    rest = Heading("", len(names) - count)
    return {name: Heading(name) if index < count else rest for index, name in enumerate(names)}


def _running(lines: Sequence[Sequence[int]]) -> list[list[int]]:
    return [list(line) for line in accumulate(lines, _added)]


def _added(above: Sequence[int], line: Sequence[int]) -> list[int]:
    return [one + other for one, other in zip(above, line, strict=True)]
