"""Bars for whoever looks on, and only for them; and entries written to a file."""

import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.commands.progress import shown_progress
from gateway.ledger.verify import verify
from tests.servers.postgres_server import PostgresServer
from tests.test_cli_json import book, folder

__all__ = ["folder"]

Run = Callable[..., tuple[int, str, str]]


class Terminal(io.StringIO):
    """A stderr that somebody sits before."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def booked(folder: Path) -> Path:
    folder.mkdir(mode=0o700)
    book(folder)
    return folder


LONG_WORK = [
    pytest.param(("ledger", "verify"), "0 differences", id="verify"),
    pytest.param(("ledger", "close", "2025-05"), "2025-05 ", id="close"),
    pytest.param(("db", "check"), "0 faults", id="check"),
    pytest.param(("db", "upgrade"), "is already at version", id="upgrade"),
    pytest.param(("plans", "try", "--plan", "pro", "--set", "quota_usd_per_month=1"), "would_be_passed", id="try"),
]


@pytest.mark.parametrize(("arguments", "summary"), LONG_WORK)
def test_nothing_is_drawn_in_a_pipe(booked: Path, run: Run, arguments: tuple[str, ...], summary: str) -> None:
    code, out, err = run(*arguments)
    assert (code, err) == (0, "")
    assert summary in out


@pytest.mark.parametrize(("arguments", "summary"), LONG_WORK)
def test_a_terminal_gets_a_bar_and_the_same_summary(
    booked: Path, run: Run, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], summary: str
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    code, out, _ = run(*arguments)
    assert (code, summary in out) == (0, True)
    assert "━" in terminal.getvalue()
    terminal.truncate(0)
    assert run(*arguments, "--json")[0] == 0
    assert "━" not in terminal.getvalue(), "JSON is for scripts, terminal or not"


def test_verifying_tells_how_far_it_is(booked: Path) -> None:
    told: list[tuple[int, int]] = []
    report = verify(booked / "gateway.db", on_progress=lambda done, total: told.append((done, total)))
    assert (report.entries, told) == (1, [(0, 1), (1, 1)])


def test_nobody_is_told_where_nobody_looks() -> None:
    with shown_progress("work", is_quiet=False) as tell:
        assert tell is None


def test_backup_and_restore_show_a_bar_to_a_terminal_and_none_beside_json(
    booked: Path, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert run("creators", "add", "acme")[0] == 0
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    for number, extra in enumerate([(), ("--json",)]):
        copy = str(tmp_path / f"copy{number}.db")
        for arguments, words in ((("db", "backup", copy), "entries"), (("db", "restore", copy), "secret_fits")):
            terminal.seek(terminal.truncate(0))
            code, out, _ = run(*arguments, *extra)
            assert (code, words in out) == (0, True), (arguments, terminal.getvalue())
            assert ("━" in terminal.getvalue()) == (extra == ()), arguments


def test_copying_to_postgresql_shows_a_bar_to_a_terminal_and_lines_in_a_log(
    booked: Path, run: Run, monkeypatch: pytest.MonkeyPatch, postgres: PostgresServer
) -> None:
    assert run("creators", "add", "acme")[0] == 0
    source = f"sqlite:///{booked / 'gateway.db'}"
    terminal = Terminal()
    for name, stderr in (("bar_of_copies", terminal), ("log_of_copies", None)):
        url = postgres.create_database(name)
        try:
            with monkeypatch.context() as patch:
                if stderr is not None:
                    patch.setattr(sys, "stderr", stderr)
                code, out, err = run("db", "copy", source, url)
        finally:
            postgres.drop_database(name)
        assert (code, "0 differences" in out) == (0, True), (out, err, terminal.getvalue())
        assert ("━" in err, "entries" in err) == (False, stderr is None)
    assert "━" in terminal.getvalue()


# gateway ledger export


@pytest.mark.parametrize("name", ["kept.csv", "there"])
def test_what_is_there_already_is_not_written_over(booked: Path, run: Run, tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_text("mine")
    code, out, err = run("ledger", "export", str(file))
    assert (code, out) == (2, "")
    assert f"{file} exists already" in err
    assert file.read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(("--kind", "nonsense"), 1), (("--from", "yesterday"), 1), (("--format", "xml"), 2)],
)
def test_what_is_refused_leaves_no_file(
    booked: Path, run: Run, tmp_path: Path, arguments: tuple[str, ...], code: int
) -> None:
    before = set(tmp_path.iterdir())
    assert run("ledger", "export", str(tmp_path / "out.csv"), *arguments)[0] == code
    assert set(tmp_path.iterdir()) == before
    assert run("ledger", "export", str(tmp_path / "no" / "folder.csv"))[0] == 1


def test_entries_are_written_to_a_file_of_this_user(booked: Path, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "out.csv"
    code, out, err = run("ledger", "export", str(file), "--creator", "acme")
    assert (code, out, err) == (0, "", f"{file}: 1 entries\n")
    (row,) = csv.DictReader(file.read_text().splitlines())
    assert (row["creator"], row["request_id"]) == ("acme", "r1")
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_bytes().decode() == run("ledger", "export")[1], "the file and the standard output have the same"


def test_the_ending_of_the_name_and_filters_count(booked: Path, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "out.ndjson"
    assert run("ledger", "export", str(file), "--model", "gpt-test", "--kind", "usage")[0] == 0
    assert [json.loads(line)["request_id"] for line in file.read_text().splitlines()] == ["r1"]
    assert run("ledger", "export", "--format", "ndjson", "--feature", "nobody-has-it") == (0, "", "")
    header = run("ledger", "export", "--outcome", "crashed")[1]
    assert header.count("\n") == 1
