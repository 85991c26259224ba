"""The command line, in this process over the database file and over the control socket of something that serves it."""

import asyncio
import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from gateway.audit import AuditLog
from gateway.cli import main
from gateway.commands.client import admin_client
from gateway.config import load_settings
from gateway.endpoints.admin import control_app
from gateway.errors import ConfigError, GatewayError
from gateway.lock import CONTROL_SOCKET, DataLock
from tests.account_world import open_world
from tests.rig.environment import inherited

ROOT_SECRET = "root-of-the-tests-0123456789abcdef"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """An empty data folder, and settings that name it and nothing else."""
    for name in ("PRICING_FILE", "PLANS_FILE", "DATABASE_URL", "ADMIN_KEY"):
        monkeypatch.delenv(f"GATEWAY_{name}", raising=False)
    monkeypatch.setenv("GATEWAY_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("GATEWAY_SECRET", ROOT_SECRET)
    return tmp_path / "data"


@pytest.fixture
def run(capsys):
    """Runs one command; gives its exit code, stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def ask(run):
    """The JSON a command prints."""

    def ask(*arguments: str):
        code, out, err = run(*arguments, "--json")
        assert code == 0, err
        return json.loads(out)

    return ask


@pytest.fixture
def served(folder) -> Iterator[list[str]]:
    """Something that holds the lock and answers on the control socket, as `gateway serve` does; what was asked of it."""
    asked: list[str] = []
    ready, loops = threading.Event(), []
    folder.mkdir(mode=0o700)

    async def serve() -> None:
        async with open_world(folder) as world:
            log = AuditLog(world.database)
            app = control_app(
                {"accounts": world.accounts, "database": world.database, "audit": log, "trusted_proxies": ()}
            )

            async def noting(scope, receive, send):
                asked.append(f"{scope['method']} {scope['path']}")
                await app(scope, receive, send)

            config = uvicorn.Config(noting, uds=str(folder / CONTROL_SOCKET), lifespan="off", log_config=None)
            server = Quiet(config)
            loops.append((asyncio.get_running_loop(), server))
            await server.serve()

    class Quiet(uvicorn.Server):
        async def startup(self, sockets=None) -> None:
            await super().startup(sockets)
            ready.set()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    with DataLock(folder):
        thread.start()
        assert ready.wait(30)
        try:
            yield asked
        finally:
            ((loop, server),) = loops
            loop.call_soon_threadsafe(setattr, server, "should_exit", True)
            thread.join(30)
            assert not thread.is_alive()


def test_creators_and_keys_live_over_the_file(ask, run):
    made = ask(
        "creators", "add", "acme", "--plan", "pro", "--override", "quota_usd_per_month=0.25", "--metadata", "a=b"
    )
    assert made["overrides"] == {"quota_usd_per_month": "0.25"}
    key = ask("keys", "create", "acme", "--name", "Laptop", "--model", "mock-1", "--override", "requests_per_hour=3")
    assert (key["models"], key["overrides"]) == (["mock-1"], {"requests_per_hour": 3})
    rotated = ask("keys", "rotate", key["id"], "--grace-s", "60")
    assert ask("keys", "revoke", rotated["key"])["id"] == rotated["id"], "a whole key serves as well as its id"
    states = {row["id"]: row["status"] for row in ask("keys", "list", "acme")}
    assert states == {key["id"]: "replaced", rotated["id"]: "revoked"}
    assert ask("creators", "update", "acme", "--inactive", "--clear-overrides", "--name", "Acme")["overrides"] == {}
    shown = ask("creators", "show", "acme")
    assert (shown["name"], shown["is_active"], shown["metadata"]) == ("Acme", False, {"a": "b"})
    assert [row["id"] for row in ask("creators", "list", "--plan", "pro")] == ["acme"]
    assert ask("creators", "delete", "acme", "--yes") == {"id": "acme", "deleted": True}
    assert ask("creators", "list") == []


def test_a_key_is_paused_and_resumed(ask, run):
    ask("creators", "add", "acme")
    key = ask("keys", "create", "acme")
    paused = ask("keys", "pause", key["key"])
    assert (paused["id"], paused["status"], paused["paused_at"] is None) == (key["id"], "paused", False)
    code, out, _ = run("keys", "list", "acme")
    assert (code, " paused " in out) == (0, True)
    assert ask("keys", "resume", key["id"])["paused_at"] is None
    assert [(row["status"], row["paused_at"]) for row in ask("keys", "list", "acme")] == [("active", None)]
    code, _, err = run("keys", "pause", "nothing")
    assert (code, "no key with this id" in err) == (1, True)


def test_a_service_key_is_made_with_its_default_plan(ask, run):
    ask("creators", "add", "app")
    key = ask("keys", "create", "app", "--act-for", "--default-plan", "pro")
    assert (key["scopes"], key["default_plan"]) == (["act_for"], "pro")
    assert ask("keys", "rotate", key["id"])["default_plan"] == "pro"
    code, _, err = run("keys", "create", "app", "--default-plan", "pro")
    assert (code, "act_for" in err) == (1, True)


def test_overrides_may_be_lists_and_tables_and_money_in_them_stays_exact(ask, run):
    made = ask(
        *("creators", "add", "acme", "--override", 'models=["mock-1", "gpt-5"]'),
        *("--override", 'prices={"mock-1": {"output_usd_per_mtok": 0.10}}'),
        *("--override", 'providers={"openai": {"requests_per_hour": 7}}', "--override", "requests_per_day=unlimited"),
    )
    assert made["overrides"] == {
        "models": ["mock-1", "gpt-5"],
        "prices": {"mock-1": {"output_usd_per_mtok": "0.10"}},
        "providers": {"openai": {"requests_per_hour": 7}},
        "requests_per_day": "unlimited",
    }
    for value in ("NaN", "Infinity", "-Infinity", "1e400", "9" * 30, "null]"):
        overrides = f'providers={{"openai": {{"requests_per_hour": {value}}}}}'
        code, out, err = run("creators", "update", "acme", "--override", overrides)
        assert code in {1, 2}, value
        assert (out, "Traceback" in err) == ("", False)
    assert ask("creators", "show", "acme")["overrides"] == made["overrides"]


def test_a_limit_without_effect_is_told_beside_the_key(ask, run):
    ask("creators", "add", "acme", "--plan", "free")
    code, out, err = run("keys", "create", "acme", "--override", "requests_per_hour=500")
    assert code == 0
    assert err.startswith("warning: requests_per_hour: the key's 500 has no effect")
    assert "warnings" not in out
    assert len(ask("keys", "create", "acme", "--override", "requests_per_hour=500")["warnings"]) == 1


def test_a_creator_is_shown_with_the_plan_that_counts(ask):
    ask("creators", "add", "acme", "--plan", "pro", "--override", "requests_per_hour=3")
    assert ask("creators", "show", "acme")["effective_plan"]["requests_per_hour"] == 3


def test_admin_keys_are_made_listed_and_revoked(ask):
    made = ask("admin-keys", "create")
    assert made["key"].startswith("sk-gwadmin-")
    assert (made["name"], made["role"]) == ("", "owner")
    other = ask("admin-keys", "create", "--name", "Ada", "--role", "finance")
    assert ask("admin-keys", "update", other["key"], "--name", "Bo", "--role", "owner")["name"] == "Bo"
    assert ask("admin-keys", "revoke", made["key"])["status"] == "revoked"
    shown = {(row["id"], row["name"], row["role"], row["status"]) for row in ask("admin-keys", "list")}
    assert shown == {(made["id"], "", "owner", "revoked"), (other["id"], "Bo", "owner", "active")}


def test_people_get_tables_and_a_key_with_a_warning(run):
    assert run("creators", "add", "acme", "--name", "[red]Acme[/red]")[0] == 0
    code, out, err = run("keys", "create", "acme")
    assert code == 0
    assert out.splitlines()[1].split()[0] == "key"
    assert "sk-gw-" in out.splitlines()[1]
    assert "shown once" in err
    code, out, _ = run("creators", "list")
    assert code == 0
    header, row = out.splitlines()
    assert header.split() == ["id", "name", "plan", "overrides", "is_active", "created_at"]
    assert row.split()[:5] == ["acme", "[red]Acme[/red]", "free", "-", "yes"]
    key_line = run("keys", "list", "acme")[1].splitlines()[1]
    assert "sk-gw" not in key_line
    assert " active " in key_line


def test_writes_go_through_the_socket_of_whoever_serves(served, ask):
    ask("creators", "add", "acme")
    key = ask("keys", "create", "acme")
    ask("keys", "revoke", key["id"])
    assert served == ["POST /admin/creators", "POST /admin/creators/acme/keys", f"DELETE /admin/keys/{key['id']}"]


def test_reads_open_the_file_beside_whoever_serves(served, ask):
    ask("creators", "add", "acme")
    key = ask("keys", "create", "acme")
    served.clear()
    assert [row["id"] for row in ask("keys", "list", "acme")] == [key["id"]]
    assert ask("creators", "show", "acme")["id"] == "acme"
    assert served == []


def test_refusals_of_whoever_serves_arrive_whole(served):
    with admin_client(load_settings()) as client, pytest.raises(GatewayError, match="not a field") as caught:
        client.request("POST", "/admin/creators", json={"role": "admin"})
    assert (caught.value.status, caught.value.param, caught.value.code) == (422, "role", "unknown_field")


def test_a_socket_that_a_crash_left_behind_is_passed_by(folder, ask):
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder / CONTROL_SOCKET))
    assert ask("creators", "add", "acme")["id"] == "acme"


def test_a_folder_too_deep_for_a_socket_works_over_the_file(tmp_path, monkeypatch, ask):
    deep = tmp_path / ("d" * 100) / "data"
    monkeypatch.setenv("GATEWAY_DATA_DIR", str(deep))
    assert ask("creators", "add", "acme")["id"] == "acme"


def test_a_write_is_refused_while_another_holds_the_folder_without_a_socket(folder, run):
    with DataLock(folder):
        code, out, err = run("creators", "add", "acme")
    assert (code, out) == (2, "")
    assert err.startswith("gateway: another gateway serves this data folder (pid ")
    assert err.count("\n") == 1


def test_reading_needs_no_lock_no_secret_and_changes_nothing(folder, ask, monkeypatch):
    ask("creators", "add", "acme")
    monkeypatch.delenv("GATEWAY_SECRET")
    names = {path.name for path in folder.iterdir()}
    with DataLock(folder):
        assert ask("creators", "show", "acme")["id"] == "acme"
        with admin_client(load_settings(), read_only=True) as client, pytest.raises(GatewayError):
            client.request("POST", "/admin/creators", json={"id": "other"})
    assert {path.name for path in folder.iterdir()} - {"gateway.db-wal", "gateway.db-shm"} <= names
    assert [row["id"] for row in ask("creators", "list")] == ["acme"]


def test_reading_before_there_is_a_database_says_so(folder, run):
    code, _, err = run("creators", "list")
    assert code == 2
    assert "no database at" in err
    assert not folder.exists()


def test_writing_under_another_root_secret_is_refused(ask, run, monkeypatch):
    ask("creators", "add", "acme")
    monkeypatch.setenv("GATEWAY_SECRET", "another-root-of-enough-characters")
    code, _, err = run("keys", "create", "acme")
    assert code == 2
    assert "GATEWAY_SECRET" in err


def test_what_the_gateway_refuses_is_one_line_and_exit_code_1(ask, run):
    ask("creators", "add", "acme")
    code, out, err = run("creators", "add", "acme")
    assert (code, out) == (1, "")
    assert err == (
        "gateway: This creator id is taken, or belonged to a creator that was deleted; ids are never used again.\n"
    )
    assert run("creators", "show", "nobody")[0] == 1
    assert run("keys", "revoke", "../creators/acme")[0] == 1
    assert ask("creators", "show", "acme")["is_active"]


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["nonsense"], id="unknown command"),
        pytest.param(["creators", "add", "acme", "--override", "free"], id="an override without a value"),
        pytest.param(["creators", "update", "acme"], id="nothing to change"),
        pytest.param(["keys", "create"], id="no creator"),
    ],
)
def test_a_wrong_command_line_is_exit_code_2(run, arguments):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert "Traceback" not in err


def test_a_wrong_setting_is_named_without_a_traceback(run, monkeypatch):
    monkeypatch.setenv("GATEWAY_PORT", "many")
    code, _, err = run("creators", "list")
    assert code == 2
    assert err.startswith("gateway: GATEWAY_PORT ")


def test_the_client_gives_the_folder_back_and_takes_it_only_alone(folder):
    settings = load_settings()
    for _ in range(2):
        with admin_client(settings) as client:
            assert client.get("/admin/creators")["data"] == []
    with DataLock(folder), pytest.raises(ConfigError), admin_client(settings):
        pass


# gateway credits and gateway estimate


def fields_of(out: str) -> dict[str, str]:
    """`name  value` lines as a dictionary."""
    return dict(line.split(maxsplit=1) for line in out.splitlines() if line.strip())  # type: ignore[misc]


def test_a_grant_says_how_many_credits_the_creator_got(ask, run):
    ask("creators", "add", "acme")
    code, out, err = run("credits", "grant", "acme", "100", "--note", "welcome")
    assert code == 0, err
    shown = fields_of(out)
    assert (shown["kind"], shown["payer"], shown["credits"]) == ("grant", "credits", "100")
    assert "payer_amount" not in shown
    expires = "2050-01-31T12:00:00Z"
    out = run("credits", "grant", "acme", "--package", "small", "--promo", "--expires-at", expires)[1]
    shown = fields_of(out)
    assert (shown["payer"], shown["credits"]) == ("promo_credits", "100")
    assert shown["expires_at"] == "2050-01-31T12:00:00.000Z"
    assert ask("credits", "grant", "acme", "3")["payer_amount"] == -3, "JSON is the entry as the ledger has it"


@pytest.mark.parametrize("credits", ["small", "2.5", "-5", "٣"])
def test_a_grant_of_no_whole_number_says_how_to_name_a_package(ask, run, credits):
    ask("creators", "add", "acme")
    code, out, err = run("credits", "grant", "acme", "--", credits)
    assert (code, out) == (2, "")
    assert "--package" in err
    assert ask("credits", "balance", "acme")["data"] == []


def test_an_adjustment_is_of_what_its_amount_is_in(ask, run):
    ask("creators", "add", "acme")
    ask("credits", "grant", "acme", "100")
    code, out, err = run("credits", "adjust", "acme", "--credits", "-5")
    assert code == 0, err
    assert (fields_of(out)["payer"], fields_of(out)["credits"]) == ("credits", "-5")
    code, out, err = run("credits", "adjust", "acme", "--amount-usd", "-2.5")
    assert code == 0, err
    assert (fields_of(out)["payer"], fields_of(out)["charge_usd"]) == ("quota", "-2.5")
    assert ask("credits", "balance", "acme")["balance"]["credits"]["left"] == 95
    assert run("credits", "adjust", "acme", "--credits", "5")[0] == 1, "credits are given by a grant"


def test_an_estimate_is_told_with_the_limits_it_would_meet(ask, run):
    ask("creators", "add", "acme", "--plan", "free")
    code, out, err = run("estimate", "acme", "--model", "mock-1", "--prompt", "Hello")
    assert code == 0, err
    shown, _, table = out.partition("\n\n")
    assert fields_of(shown)["would"] == "admit"
    header, *rows = (line.split() for line in table.splitlines())
    assert header == ["limit", "unit", "of", "used", "held", "needed", "left"]
    assert ["requests_per_hour", "request", "10", "1", "0", "1", "9"] in rows
    quota = next(row for row in rows if row[0] == "quota_usd_per_month")
    assert quota[1:4] == ["USD", "1", "0"]
    assert quota[4] == fields_of(shown)["hold_usd"]


def test_an_estimate_that_would_be_refused_says_why(ask, run):
    ask("creators", "add", "acme", "--override", "requests_per_hour=0")
    code, out, err = run("estimate", "acme", "--model", "mock-1", "--prompt", "Hello")
    assert code == 0, err
    assert fields_of(out)["would"] == "refuse"
    assert fields_of(out)["refusal"].startswith("429 rate_limit_exceeded: ")


def test_an_estimate_of_an_image_model_asks_for_its_option(ask, run):
    ask("creators", "add", "acme")
    arguments = ("estimate", "acme", "--model", "mock-image", "--prompt", "a red cat")
    code, out, err = run(*arguments)
    assert (code, out) == (1, "")
    assert err.endswith("Pass --image for an image model.\n")
    assert ask(*arguments, "--image")["endpoint"] == "images"
    code, _, err = run("estimate", "acme", "--model", "mock-1", "--prompt", "a red cat", "--image")
    assert (code, "--image" in err) == (1, False)


def test_an_estimate_may_come_from_an_address(ask, run):
    ask("creators", "add", "acme", "--override", 'addresses=["192.0.2.0/24"]')
    arguments = ("estimate", "acme", "--model", "mock-1", "--prompt", "Hello")
    assert ask(*arguments)["would"] == "admit"
    assert ask(*arguments, "--address", "192.0.2.7")["would"] == "admit"
    refused = ask(*arguments, "--address", "198.51.100.7")
    assert (refused["would"], refused["refusal"]["code"]) == ("refuse", "address_not_allowed")
    assert run(*arguments, "--address", "nowhere")[0] == 1


# gateway check


def test_check_finds_nothing_wrong_with_what_ships(run, folder):
    code, out, _ = run("check")
    assert code == 0
    assert "0 faults" in out
    assert not folder.exists()


def test_check_tells_every_fault_with_file_and_line(run, tmp_path, monkeypatch):
    pricing, plans = tmp_path / "pricing.toml", tmp_path / "plans.toml"
    pricing.write_text('version = "1"\n\n[providers.p]\ndialect = "nonsense"\n')
    plans.write_text("[plans.free]\nrequests_per_hour = -1\nrequests_per_fortnight = 5\n")
    monkeypatch.setenv("GATEWAY_PRICING_FILE", str(pricing))
    monkeypatch.setenv("GATEWAY_PLANS_FILE", str(plans))
    code, out, _ = run("check")
    assert code == 1
    assert f"fault: {pricing}:4:" in out
    assert f"fault: {plans}:2:" in out
    assert f"fault: {plans}:3:" in out


def test_check_names_every_wrong_setting(run, monkeypatch):
    monkeypatch.setenv("GATEWAY_PORT", "many")
    monkeypatch.setenv("GATEWAY_SECRET", "changeme")
    code, out, _ = run("check")
    assert code == 1
    assert "fault: GATEWAY_PORT" in out
    assert "fault: GATEWAY_SECRET" in out
    assert "changeme" not in out


def test_check_looks_at_the_folder_and_its_secret(run, folder, monkeypatch):
    monkeypatch.delenv("GATEWAY_SECRET")
    folder.mkdir()
    folder.chmod(0o755)
    (folder / "secret").write_text("x" * 64)
    (folder / "secret").chmod(0o644)
    code, out, _ = run("check")
    assert code == 1
    assert "can be read by others" in out
    assert "warning:" in out
    assert "open to other users" in out


# gateway healthcheck


@pytest.mark.parametrize(("status", "code"), [("200 OK", 0), ("503 Service Unavailable", 1)])
def test_healthcheck_says_what_the_gateway_says(run, monkeypatch, status, code):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("GATEWAY_HOST", "0.0.0.0")
        monkeypatch.setenv("GATEWAY_PORT", str(listener.getsockname()[1]))
        requests: list[bytes] = []

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                requests.append(connection.recv(4_096))
                connection.sendall(f"HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n".encode())

        thread = threading.Thread(target=answer)
        thread.start()
        assert run("healthcheck")[0] == code
        thread.join(30)
    assert requests[0].startswith(b"GET /health/ready HTTP/1.1\r\n")


def test_healthcheck_without_a_gateway_fails_in_one_line(run, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    monkeypatch.setenv("GATEWAY_PORT", str(port))
    code, _, err = run("healthcheck")
    assert code == 1
    assert err == f"no answer from 127.0.0.1:{port} (ConnectionRefusedError)\n"


# The frame


def test_help_names_every_command_and_loads_nothing_heavy():
    script = (
        "import sys\n"
        "from gateway.cli import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'sqlalchemy', 'starlette', 'uvicorn', 'httpx', 'cryptography', 'litellm'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, env=inherited(), check=False
    )
    assert done.returncode == 0, done.stderr
    for command in ("serve", "creators", "keys", "admin-keys", "ledger", "prices", "db", "check", "healthcheck"):
        assert re.search(rf"^\W+{command} ", done.stdout, re.MULTILINE), command


def test_the_package_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "creators", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        env=inherited(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "gateway creators" in done.stdout


def test_what_is_done_over_the_socket_is_in_the_audit_log(ask, served):
    ask("creators", "add", "acme")
    ask("creators", "update", "acme", "--plan", "pro")
    assert served == ["POST /admin/creators", "PATCH /admin/creators/acme"]
    updated, added = ask("audit", "list")
    assert (added["admin_key_id"], added["role"], added["status"], added["address"]) == ("local", "owner", 201, "")
    assert (updated["target"], updated["details"], updated["status"]) == ("id=acme", {"plan": "pro"}, 200)
