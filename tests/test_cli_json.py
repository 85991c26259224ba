"""Every command that prints has `--json`, and prints JSON with it, whether it is done or finds something wrong."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from gateway.cli import app, main
from tests.ledger.books import MODEL, PRICE, entry
from tests.rig.gateway import Gateway

Json = Callable[..., Any]
Command = tuple[str, ...]

WITHOUT: dict[Command, str] = {
    ("serve",): "its log is JSON already",
}
ELSEWHERE: dict[Command, str] = {
    ("db", "copy"): "needs PostgreSQL: tests/ledger/test_copy.py",
    ("db", "backup"): "tests/ledger/test_backup.py",
    ("db", "restore"): "tests/ledger/test_backup.py",
    ("import", "litellm-config"): "tests/test_import_litellm.py",
}
OVER_THE_FILE: dict[Command, tuple[str, ...]] = {
    ("creators", "add"): ("acme", "--plan", "pro"),
    ("creators", "list"): (),
    ("creators", "show"): ("acme",),
    ("creators", "update"): ("acme", "--name", "Acme"),
    ("creators", "delete"): ("gone", "--yes"),
    ("keys", "create"): ("acme",),
    ("keys", "list"): ("acme",),
    ("keys", "pause"): ("{key}",),
    ("keys", "resume"): ("{key}",),
    ("keys", "rotate"): ("{key}",),
    ("keys", "revoke"): ("{key}",),
    ("admin-keys", "create"): (),
    ("admin-keys", "list"): (),
    ("admin-keys", "update"): ("{admin}", "--name", "Ada"),
    ("admin-keys", "revoke"): ("{admin}",),
    ("credits", "grant"): ("acme", "5"),
    ("credits", "adjust"): ("acme", "--credits", "-1"),
    ("credits", "refund"): ("r1",),
    ("credits", "balance"): ("acme",),
    ("estimate",): ("acme", "--model", "mock-1", "--prompt", "Hello"),
    ("plans", "try"): ("--plan", "pro", "--set", "quota_usd_per_month=1"),
    ("prices", "diff"): (),
    ("check",): (),
    ("doctor",): ("--offline",),
    ("notices", "list"): (),
    ("notices", "secret"): (),
    ("anomalies", "list"): (),
    ("anomalies", "throttles"): (),
    ("audit", "list"): (),
    ("ledger", "list"): (),
    ("ledger", "export"): ("{folder}/entries.csv",),
    ("ledger", "costs"): (),
    ("ledger", "charges"): ("2026-05",),
    ("ledger", "close"): ("2025-05",),
    ("ledger", "old-months"): (),
    ("ledger", "verify"): (),
    ("db", "status"): (),
    ("db", "upgrade"): (),
    ("db", "check"): (),
}
BESIDE_A_GATEWAY: dict[Command, tuple[str, ...]] = {
    ("healthcheck",): (),
    ("reload",): (),
    ("cache", "stats"): (),
    ("cache", "clear"): ("--creator", "nobody"),
    ("anomalies", "lift"): ("nobody",),
    ("notices", "test"): (),
}
REFUSED = {("anomalies", "lift"), ("notices", "test")}
"""Nobody is slowed down, and no target is set: what is refused is one line of JSON on stderr."""


def commands(group: Any = None, above: Command = ()) -> Iterator[tuple[Command, Any]]:
    """Every command of the tree that is no group, with its path."""
    for name, command in (group or typer.main.get_command(app)).commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*above, name))
        else:
            yield (*above, name), command


@pytest.mark.parametrize(("path", "command"), [pytest.param(*row, id=" ".join(row[0])) for row in commands()])
def test_every_command_has_it(path: Command, command: Any) -> None:
    options = {option for parameter in command.params for option in parameter.opts}
    assert ("--json" in options) != (path in WITHOUT)
    assert path in {**WITHOUT, **ELSEWHERE, **OVER_THE_FILE, **BESIDE_A_GATEWAY}, "say how it is tried"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("PRICING_FILE", "PLANS_FILE", "DATABASE_URL", "ADMIN_KEY"):
        monkeypatch.delenv(f"GATEWAY_{name}", raising=False)
    monkeypatch.setenv("GATEWAY_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("GATEWAY_SECRET", "root-of-the-tests-0123456789abcdef")
    return tmp_path / "data"


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Json:
    """The JSON a command prints, and nothing beside it."""

    def ask(*arguments: str) -> Any:
        with pytest.raises(SystemExit) as caught:
            main((*arguments, "--json"))
        captured = capsys.readouterr()
        assert (caught.value.code or 0, captured.err) == (0, ""), arguments
        return json.loads(captured.out)

    return ask


def test_what_is_printed_over_the_file_parses(folder: Path, ask: Json) -> None:
    ask("creators", "add", "gone")
    ask("admin-keys", "create")
    book(folder)
    names = {"folder": str(folder)}
    for path, arguments in OVER_THE_FILE.items():
        found = ask(*path, *(argument.format(**names) for argument in arguments))
        if path == ("keys", "create"):
            names["key"] = found["id"]
        if path == ("admin-keys", "create"):
            names["admin"] = found["id"]


def book(folder: Path) -> None:
    """An entry of `acme`, as a gateway would have left it."""
    import asyncio

    from gateway.ledger.database import Database

    async def book() -> None:
        database = await Database.open(folder / "gateway.db")
        await database.record_prices({MODEL: PRICE})
        await database.ledger.post([entry("r1", creator="acme")])
        await database.close()

    asyncio.run(book())


def test_what_is_printed_beside_a_gateway_parses(
    gateway: Gateway, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in gateway.environment.items():
        if name.startswith("GATEWAY_"):
            monkeypatch.setenv(name, value)
    for path, arguments in BESIDE_A_GATEWAY.items():
        with pytest.raises(SystemExit) as caught:
            main((*path, *arguments, "--json"))
        captured = capsys.readouterr()
        if path in REFUSED:
            assert (caught.value.code, captured.out, captured.err.count("\n")) == (1, "", 1), path
            assert json.loads(captured.err)["error"]["message"], path
        else:
            assert (caught.value.code or 0, captured.err) == (0, ""), path
            json.loads(captured.out)


def test_what_is_wrong_is_json_too(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_PORT", "1")
    with pytest.raises(SystemExit) as caught:
        main(["healthcheck", "--json"])
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert (caught.value.code, captured.err, found["ready"], found["status"]) == (1, "", False, None)
    assert found["problem"] == "no answer from 127.0.0.1:1 (ConnectionRefusedError)"


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "told"),
    [
        pytest.param(
            ("creators", "show", "nobody"),
            {},
            1,
            ("invalid_request_error", "creator_not_found", "no creator"),
            id="refused",
        ),
        pytest.param(
            ("creators", "list"),
            {"GATEWAY_PORT": "x"},
            2,
            ("config_error", "config_error", "GATEWAY_PORT"),
            id="setting",
        ),
        pytest.param(("creators", "show"), {}, 2, ("usage_error", "usage_error", "Missing argument"), id="left out"),
        pytest.param(
            ("creatrs", "list"), {}, 2, ("usage_error", "usage_error", "Did you mean 'creators'"), id="mistyped"
        ),
        pytest.param(
            ("ledger", "export", "{folder}/missing/x.csv"), {}, 1, ("os_error", "os_error", "missing"), id="no folder"
        ),
        pytest.param(
            ("ledger", "export", "--format", "csv"), {}, 2, ("usage_error", "usage_error", "--format"), id="both forms"
        ),
    ],
)
def test_errors_are_json_on_the_standard_error(
    folder: Path,
    ask: Json,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: Command,
    environment: dict[str, str],
    code: int,
    told: tuple[str, str, str],
) -> None:
    ask("creators", "add", "acme")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as caught:
        main((*(argument.format(folder=folder) for argument in arguments), "--json"))
    captured = capsys.readouterr()
    error = json.loads(captured.err)["error"]
    assert (caught.value.code, captured.out, captured.err.count("\n")) == (code, "", 1)
    assert ((error["type"], error["code"]), told[2] in error["message"]) == (told[:2], True)
    assert error.keys() == {"message", "type", "param", "code"}


def test_an_export_says_what_it_wrote_or_writes_lines_of_json(
    folder: Path, capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder.mkdir(mode=0o700)
    book(folder)
    outputs = []
    for arguments in (("x.ndjson", "--json"), ("-", "--json"), ("-",), ()):
        with pytest.raises(SystemExit) as caught:
            main(("ledger", "export", *arguments))
        captured = capsysbinary.readouterr()
        assert (caught.value.code, captured.err) == (0, b"")
        outputs.append(captured.out)
    assert json.loads(outputs[0]) == {"file": "x.ndjson", "format": "ndjson", "entries": 1}
    assert outputs[1] == Path("x.ndjson").read_bytes()
    assert outputs[2] == outputs[3]
    assert outputs[2].startswith(b"id,")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "x.ndjson"]


def test_figures_that_differ_from_a_list_are_exact_texts(ask: Json, folder: Path, tmp_path: Path) -> None:
    listed = tmp_path / "map.json"
    listed.write_text('{"gpt-4.1": {"litellm_provider": "openai", "input_cost_per_token": 0.00000200000010}}')
    found = ask("prices", "diff", "--litellm-map", str(listed))
    (litellm, _) = found["references"]
    assert (litellm["title"], litellm["installed"]) == ("litellm (map.json)", True)
    assert litellm["differences"] == [
        {"model": "gpt-4.1", "key": "input_usd_per_mtok", "ours": "2", "theirs": "2.0000001"}
    ]
