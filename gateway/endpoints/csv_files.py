"""Lists as files: CSV that is written piece by piece, so that calls have their turn between any two."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any

from starlette.responses import Response, StreamingResponse

from gateway.ledger.entry_json import csv_header, csv_line

__all__ = ["csv_file", "csv_of_pages", "csv_of_rows"]

_PIECE_ROWS = 8
"""Written at once, in a fraction of a millisecond."""
_REST = 2
"""Calls have their turn for so many times as long as a piece of a file took."""

Shown = Callable[[Any], Mapping[str, Any]]


def csv_file(
    name: str, names: Iterable[str], first: Sequence[Any], others: AsyncIterator[Sequence[Any]], shown: Shown
) -> Response:
    """`NAME.csv` of `first` and then of `others`, each row as `shown` tells it, under the header `names`."""
    names = tuple(names)

    async def body() -> AsyncIterator[bytes]:
        yield csv_header(names).encode()
        rows = first
        while rows:
            for start in range(0, len(rows), _PIECE_ROWS):
                began_at = time.perf_counter()
                piece = "".join(_line(names, shown(row)) for row in rows[start : start + _PIECE_ROWS]).encode()
                took_s = time.perf_counter() - began_at
                yield piece
                await asyncio.sleep(_REST * took_s)
            rows = await anext(others, [])

    headers = {"content-disposition": f'attachment; filename="{name}.csv"'}
    return StreamingResponse(body(), 200, headers, "text/csv; charset=utf-8")


def csv_of_rows(name: str, names: Iterable[str], rows: Sequence[Any], shown: Shown = dict) -> Response:
    """A file of rows that are there already."""
    return csv_file(name, names, rows, _nothing_more(), shown)


async def csv_of_pages(
    name: str, names: Iterable[str], pages: AsyncIterator[Sequence[Any]], shown: Shown = dict
) -> Response:
    """A file of pages that are read one after the other; none but the first may be empty. Raises what reading the first
    raises, so that a store that fails at once gets a proper answer."""
    return csv_file(name, names, await anext(pages, []), pages, shown)


def _line(names: Sequence[str], row: Mapping[str, Any]) -> str:
    return csv_line({name: row.get(name) for name in names})


async def _nothing_more() -> AsyncIterator[Sequence[Any]]:
    nothing: tuple[Sequence[Any], ...] = ()
    for rows in nothing:
        yield rows
