"""How commands show what the admin API answered: tables for people, JSON for scripts.

In tables instants are told to the second, and never broken over lines, however narrow the terminal is.
"""

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import typer

__all__ = ["AsJson", "echo_fields", "echo_json", "echo_table", "pairs"]

_WIDTH_OF_PIPES = 250
_INSTANT = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(?:Z|\+00:00)")
_INSTANT_CHARS = len("2026-05-31T12:00:00Z")
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


def echo_json(value: Any) -> None:
    import orjson

    typer.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())


def echo_table(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """One line a row; names are shown as they are, never read as markup."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    lines = [[_INSTANT.sub(r"\1Z", _cell(row[column])) for column in columns] for row in rows]
    for index, column in enumerate(columns):
        cells = [line[index] for line in lines if _INSTANT.search(line[index])]
        # Others make room for a column of nothing but times; one of texts is only kept from being narrower than a time.
        table.add_column(
            column,
            overflow="fold",
            no_wrap=bool(cells) and max(map(len, cells)) == _INSTANT_CHARS,
            min_width=_INSTANT_CHARS if cells else None,
        )
    for line in lines:
        table.add_row(*map(Text, line))
    width = None if sys.stdout.isatty() else _WIDTH_OF_PIPES
    Console(width=width, highlight=False).print(table)


def echo_fields(row: Mapping[str, Any]) -> None:
    """One line a field."""
    width = max(len(name) for name in row)
    for name, value in row.items():
        typer.echo(f"{name:<{width}}  {_cell(value)}")


def pairs(texts: Sequence[str], option: str) -> dict[str, str]:
    """`NAME=VALUE` options as a dictionary. Raises `typer.BadParameter`."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{option} takes NAME=VALUE")
        found[name] = value
    return found


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={_cell(item)}" for name, item in value.items()) or "-"
    if isinstance(value, list):
        return ", ".join(_cell(item) for item in value) or "-"
    return str(value) if value != "" else "-"
