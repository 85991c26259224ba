"""Tables in a terminal of 80 columns: times in one piece, money as money."""

import asyncio
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.commands.output import echo_table
from gateway.ledger.database import Database
from tests.ledger.books import MODEL, NOON, PRICE, entry
from tests.test_cli_json import folder
from tests.test_cli_progress import Terminal

__all__ = ["folder"]

Run = Callable[..., str]
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """What a command prints on a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: str) -> str:
        terminal = Terminal()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", terminal)
            with pytest.raises(SystemExit):
                main(arguments)
        return re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())

    return run


def book(folder: Path) -> None:
    async def post() -> None:
        database = await Database.open(folder / "gateway.db")
        await database.record_prices({MODEL: PRICE})
        paid = {"charge_nano_usd": 760_211_850, "payer_amount": 760_211_850}
        await database.ledger.post([entry("r1", creator="acme", at=NOON, changes=paid)])
        await database.close()

    asyncio.run(post())


def test_times_are_never_broken_over_lines(run: Run, folder: Path) -> None:
    run("creators", "add", "a-creator-with-a-long-name", "--name", "Somebody With A Long Name")
    run("keys", "create", "a-creator-with-a-long-name", "--expires-in-s", "86400", "--name", "a key for the app")
    run("admin-keys", "create", "--name", "Somebody")
    run("credits", "grant", "a-creator-with-a-long-name", "5", "--note", "a welcome that goes on for quite a while")
    book(folder)
    for arguments in (
        ("creators", "list"),
        ("keys", "list", "a-creator-with-a-long-name"),
        ("admin-keys", "list"),
        ("audit", "list"),
        ("ledger", "list"),
    ):
        out = run(*arguments)
        assert INSTANT.search(out), out
        assert max(map(len, out.splitlines())) <= 80, out
        # What is left of a year without the rest of its instant would be a broken one.
        assert not re.search(r"\b20\d\d-\d", INSTANT.sub("", out)), out


def test_times_within_a_text_stay_whole_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(sys, "stdout", terminal)
    words = "x" * 40
    echo_table(("a", "b", "c"), [{"a": words, "b": "since 2026-05-20T12:00:00.123Z, no more", "c": words}])
    assert "2026-05-20T12:00:00Z" in terminal.getvalue()


def test_charges_are_dollars_with_their_unit(run: Run, folder: Path) -> None:
    folder.mkdir(mode=0o700)
    book(folder)
    out = run("ledger", "charges", "2026-05")
    assert "760211850" not in out
    (row,) = " ".join(out.split()).split("acme")[1:]
    assert row.split()[:3] == ["2026-05", "1", "0.76021185"]
    assert re.search(r"quota 0\.76021185 ?USD", row), row
