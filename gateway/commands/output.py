"""How commands show what the admin API answered: tables for people, JSON for scripts."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import typer

__all__ = ["AsJson", "echo_fields", "echo_json", "echo_table", "pairs"]

_WIDTH_OF_PIPES = 250
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
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(row[column])) for column in columns))
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
