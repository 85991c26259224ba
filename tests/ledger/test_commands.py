"""`gateway ledger` and `gateway db`, as a person types them."""

import csv
import io
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import Result
from typer.testing import CliRunner

from gateway.cli import app
from gateway.ledger.database import Database
from gateway.ledger.migration import HEAD
from tests.ledger.books import COST, MODEL, PRICE, change, count, entry

Cli = Callable[..., Result]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "gateway.db"


@pytest.fixture
def cli(path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setenv("GATEWAY_DATA_DIR", str(path.parent))
    monkeypatch.setenv("COLUMNS", "250")

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, arguments)

    return run


@pytest.fixture
def booked(path: Path) -> Path:
    """Two creators' entries, made in this process and closed again: commands bring an event loop of their own."""
    import asyncio

    async def book() -> None:
        database = await Database.open(path)
        await database.record_prices({MODEL: PRICE})
        await database.ledger.post([entry("r1"), entry("r2", creator="zeta", feature="=1+1")])
        await database.close()

    asyncio.run(book())
    return path


def test_entries_are_listed_and_exported(cli: Cli, booked: Path) -> None:
    listed = cli("ledger", "list")
    assert listed.exit_code == 0, listed.output
    assert "zeta" in listed.output
    (shown,) = orjson.loads(cli("ledger", "list", "--json", "--creator", "zeta").output)
    assert shown["request_id"] == "r2"
    exported = list(csv.DictReader(io.StringIO(cli("ledger", "export").output, newline="")))
    assert [(row["request_id"], row["feature"], int(row["cost_nano_usd"])) for row in exported] == [
        ("r2", "'=1+1", COST),
        ("r1", "chat-ui", COST),
    ]
    lines = cli("ledger", "export", "--format", "ndjson", "--from", "2020-01-01").output.splitlines()
    assert [orjson.loads(line)["request_id"] for line in lines] == ["r2", "r1"]
    assert cli("ledger", "export", "--format", "ndjson", "--to", "2020-01-01").output == ""


def test_costs_and_charges_are_shown(cli: Cli, booked: Path) -> None:
    costs = orjson.loads(cli("ledger", "costs", "--group-by", "creator", "--json").output)
    assert {row["creator"]: row["cost_nano_usd"] for row in costs["data"]} == {"acme": COST, "zeta": COST}
    assert "total: 2 calls" in cli("ledger", "costs").output
    charges = orjson.loads(cli("ledger", "charges", "2026-05", "--json").output)
    assert [row["creator"] for row in charges["data"]] == ["acme", "zeta"]
    assert "zeta" in cli("ledger", "charges", "2026-05").output


def test_a_month_is_closed_once_and_the_running_one_never(cli: Cli, booked: Path) -> None:
    first, second = cli("ledger", "close", "2026-05"), cli("ledger", "close", "2026-05")
    assert (first.exit_code, second.exit_code) == (0, 0), first.output + second.output
    assert "closed now: 2 creators" in first.output
    assert "was closed before: 2 creators" in second.output
    assert count(booked, "month_charges") == 2
    month = datetime.now(UTC).strftime("%Y-%m")
    running = cli("ledger", "close", month)
    assert running.exit_code != 0
    assert month in str(running.exception)


def test_verify_says_zero_and_exits_with_0_only_then(cli: Cli, booked: Path) -> None:
    clean = cli("ledger", "verify")
    assert clean.exit_code == 0
    assert "0 differences" in clean.output
    change(booked, "UPDATE usage_daily SET cost_nano_usd = cost_nano_usd + 1")
    found = cli("ledger", "verify")
    assert found.exit_code == 1
    assert "2 differences" in found.output
    assert str(COST + 1) in found.output
    as_json: dict[str, Any] = orjson.loads(cli("ledger", "verify", "--json").output)
    assert [row["computed"] for row in as_json["differences"]] == [COST, COST]


def test_the_database_tells_its_version_and_its_health(cli: Cli, booked: Path) -> None:
    status = orjson.loads(cli("db", "status", "--json").output)
    assert (status["version"], status["newest"]) == (HEAD, HEAD)
    assert str(booked) in cli("db", "status").output
    assert "already" in cli("db", "upgrade").output
    check = cli("db", "check")
    assert (check.exit_code, check.output) == (0, "0 faults\n")


def test_an_empty_file_is_upgraded(cli: Cli, path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    assert "upgraded" in cli("db", "upgrade").output
    assert orjson.loads(cli("db", "status", "--json").output)["version"] == HEAD


def test_a_backup_is_a_whole_database_for_its_owner_only(cli: Cli, booked: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy.db"
    made = cli("db", "backup", str(target))
    assert made.exit_code == 0, made.output
    assert target.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(target)) as copy:
        assert copy.execute("SELECT count(*) FROM entries").fetchone() == (2,)
    again = cli("db", "backup", str(target))
    assert again.exit_code != 0
    assert "exists already" in str(again.exception)


@pytest.mark.parametrize(
    "command", [["ledger", "verify"], ["ledger", "list"], ["db", "status"], ["db", "check"], ["db", "upgrade"]]
)
def test_commands_without_a_database_say_so_and_make_none(cli: Cli, path: Path, command: list[str]) -> None:
    result = cli(*command)
    assert result.exit_code != 0
    assert "no database" in str(result.exception)
    assert not path.exists()
