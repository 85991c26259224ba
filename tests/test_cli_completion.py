"""Tab in bash, by the variables its completion really sets; and what a mistyped line is answered with."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.cli import main
from tests.rig.environment import REPOSITORY, inherited

Tab = Callable[..., list[str]]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("PRICING_FILE", "PLANS_FILE", "DATABASE_URL", "ADMIN_KEY"):
        monkeypatch.delenv(f"GATEWAY_{name}", raising=False)
    monkeypatch.setenv("GATEWAY_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("GATEWAY_SECRET", "root-of-the-tests-0123456789abcdef")
    return tmp_path / "data"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def tab(monkeypatch: pytest.MonkeyPatch, run: Run) -> Tab:
    """What is offered for the last word."""

    def tab(*words: str) -> list[str]:
        with monkeypatch.context() as patch:
            patch.setenv("_GATEWAY_COMPLETE", "complete_bash")
            patch.setenv("COMP_WORDS", " ".join(("gateway", *words)))
            patch.setenv("COMP_CWORD", str(len(words)))
            code, out, err = run()
        assert (code, err) == (0, "")
        return out.split()

    return tab


def test_a_process_answers_bash_without_a_connection_or_a_heavy_import(folder: Path) -> None:
    script = (
        "import sys\n"
        "sys.addaudithook(lambda event, args: sys.exit(event) if event.startswith('socket.') and event != 'socket.__new__'"
        " else None)\n"
        "from gateway.cli import main\n"
        "try:\n    main([])\n"
        "finally:\n"
        "    heavy = {'sqlalchemy', 'starlette', 'httpx', 'cryptography', 'asyncpg', 'gateway.config', 'rich.console'}\n"
        "    assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    asked = {
        "_GATEWAY_COMPLETE": "complete_bash",
        "COMP_WORDS": "gateway keys create acme --model gpt-4.1",
        "COMP_CWORD": "5",
    }
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=REPOSITORY,
        env={**inherited(), **asked, "GATEWAY_DATABASE_URL": "postgresql://gateway:secret@127.0.0.1:9/ledger"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split()[:2] == ["gpt-4.1", "gpt-4.1-mini"]


def test_commands_and_options_are_offered(tab: Tab) -> None:
    assert tab("cre") == ["credits", "creators"]
    assert tab("ledger", "") == ["list", "export", "costs", "charges", "close", "old-months", "verify"]
    assert tab("ledger", "list", "--cr") == ["--creator"]


def test_creators_models_and_plans_are_offered(tab: Tab, run: Run) -> None:
    for creator in ("acme", "acme-2", "zeta"):
        assert run("creators", "add", creator)[0] == 0
    assert run("creators", "delete", "acme-2", "--yes")[0] == 0
    assert tab("creators", "show", "") == ["acme", "zeta"]
    for words in (["keys", "create"], ["credits", "grant"], ["estimate"], ["ledger", "list", "--creator"]):
        assert tab(*words, "ac") == ["acme"], words
    assert tab("estimate", "acme", "--model", "mock-p") == ["mock-premium"]
    assert tab("creators", "add", "--plan", "pr") == ["pro"]


def test_files_of_the_settings_are_read(tab: Tab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pricing.toml").write_text('[models."mine"]\n[models."$(touch x)"]\n[models."a b"]\n[models."*"]\n')
    monkeypatch.setenv("GATEWAY_PRICING_FILE", str(tmp_path / "pricing.toml"))
    assert tab("estimate", "acme", "--model", "") == ["mine"], "what a shell would run or expand is not offered"


@pytest.mark.parametrize("content", [None, b"", b"no database at all" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_what_cannot_be_read_offers_nothing(
    tab: Tab, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    if content is not None:
        folder.mkdir()
        (folder / "gateway.db").write_bytes(content)
        (tmp_path / "broken.toml").write_bytes(content + b"\xff[[")
    monkeypatch.setenv("GATEWAY_PRICING_FILE", str(tmp_path / "broken.toml"))
    monkeypatch.setenv("GATEWAY_PLANS_FILE", str(tmp_path))
    monkeypatch.setenv("GATEWAY_PORT", "many")
    assert tab("creators", "show", "") == []
    assert tab("estimate", "x", "--model", "") == []
    assert tab("creators", "add", "--plan", "") == []
    assert folder.exists() == (content is not None), "and makes nothing"


def test_the_script_for_the_shell_can_be_shown() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "--show-completion", "bash"],
        cwd=REPOSITORY,
        env={**inherited(), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "_GATEWAY_COMPLETE=complete_bash" in done.stdout


# What a mistyped line is answered with


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (["ledgr"], "Did you mean 'ledger'?"),
        (["keys", "craete"], "Did you mean 'create'"),
        (["ledger", "list", "--creatr", "acme"], "--creator"),
        (["doctor", "--ofline"], "--offline"),
    ],
)
def test_the_near_one_is_suggested(run: Run, arguments: list[str], near: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert near in err


def test_the_version_is_told(run: Run) -> None:
    code, out, _ = run("--version")
    assert (code, out.split()[0], out.count("\n")) == (0, "gateway", 1)


def test_help_has_a_panel_for_each_side_of_the_work(run: Run) -> None:
    _, out, _ = run("--help")
    places = [out.index(f"─ {panel} ─") for panel in ("Run", "Money", "People", "Upkeep")]
    assert places == sorted(places)
    assert "─ Commands ─" not in out, "every command has its panel"
