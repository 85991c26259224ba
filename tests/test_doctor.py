"""`gateway doctor`: what it finds, what it never tells, and whom it never asks."""

import asyncio
import json
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.cli import main
from gateway.ledger.database import Database
from gateway.ledger.migration import migrate
from tests.ledger.books import MODEL, PRICE, entry
from tests.ledger.old_months import post_at
from tests.rig.environment import REPOSITORY, inherited
from tests.rig.gateway import Gateway
from tests.servers.postgres_server import PostgresServer
from tests.servers.redis_server import RedisServer

ROOT_SECRET = "root-of-the-tests-0123456789abcdef"
Row = dict[str, str]
Doctor = Callable[..., tuple[int, list[Row]]]

PRICING = """
version = "1"

[providers.near]
dialect = "openai"
base_url = "http://127.0.0.1:{port}/v1"

[models."near-chat"]
provider = "near"
endpoints = ["chat"]
{prices}
context_tokens_max = 1000
output_tokens_max = 100
source = "{source}"
"""
PRICES = "input_usd_per_mtok = 1\noutput_usd_per_mtok = 2"
PLANS = "[plans.free]\nquota_usd_per_month = 1\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder, a catalog and plans that nothing is wrong with, and no setting but those."""
    import os

    for name in list(os.environ):  # noqa: TID251 -- whoever runs the tests may have settings
        if name.startswith("GATEWAY_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("GATEWAY_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("GATEWAY_SECRET", ROOT_SECRET)
    monkeypatch.setenv("GATEWAY_WEBHOOK_URL", "http://127.0.0.1:9/hook")
    monkeypatch.setenv("GATEWAY_PRICING_FILE", str(write_catalog(tmp_path)))
    plans = tmp_path / "plans.toml"
    plans.write_text(PLANS)
    monkeypatch.setenv("GATEWAY_PLANS_FILE", str(plans))
    return tmp_path / "data"


def write_catalog(folder: Path, *, port: int = 9, prices: str = PRICES, source: str = "") -> Path:
    path = folder / "pricing.toml"
    today = datetime.now(UTC).strftime("%Y-%m-%d")
    path.write_text(PRICING.format(port=port, prices=prices, source=source or f"a page, read {today}"))
    return path


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str]) -> Doctor:
    """The exit code and the findings."""

    def doctor(*arguments: str) -> tuple[int, list[Row]]:
        code, out, err = said(capsys, *arguments, "--json")
        assert err == ""
        found = json.loads(out)
        counts = {level: sum(row["level"] == level for row in found["findings"]) for level in ("ok", "warn", "bad")}
        assert counts == {level: found[level] for level in counts}
        for row in found["findings"]:
            assert row["what"], row
            assert row["why"], row
            assert bool(row["advice"]) == (row["level"] != "ok"), row
        return code, found["findings"]

    return doctor


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(["doctor", *arguments])
    captured = capsys.readouterr()
    return int(caught.value.code or 0), captured.out, captured.err


def about(rows: list[Row], what: str, level: str | None = None) -> list[str]:
    """Why, of each finding about `what`."""
    return [row["why"] for row in rows if row["what"] == what and level in (None, row["level"])]


def troubles(rows: list[Row]) -> list[tuple[str, str]]:
    return [(row["level"], row["what"]) for row in rows if row["level"] != "ok"]


@contextmanager
def listening() -> Iterator[tuple[int, list[int]]]:
    """A port of this machine, and the number of connections to it once the context is left."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        arrived = [0]

        def count() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                arrived[0] += 1
                connection.close()

        thread = threading.Thread(target=count)
        thread.start()
        try:
            yield int(listener.getsockname()[1]), arrived
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(30)


# Refusals first


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        pytest.param({"PORT": "many"}, ["GATEWAY_PORT"], id="no number"),
        pytest.param({"PORT": "many", "ADMIN_KEY": "short"}, ["GATEWAY_PORT", "GATEWAY_ADMIN_KEY"], id="two"),
        pytest.param({"SMTP_URL": "smtp://127.0.0.1"}, ["GATEWAY_SMTP_URL"], id="does not fit the others"),
        pytest.param({"PORT": "many", "WORKERS": "2"}, ["GATEWAY_PORT", "GATEWAY_WORKERS"], id="one behind the other"),
        pytest.param({"DATABASE_URL": "mysql://127.0.0.1/x"}, ["GATEWAY_DATABASE_URL"], id="no known database"),
    ],
)
def test_malformed_settings_are_findings_beside_all_others_and_exit_code_2(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], what: list[str]
) -> None:
    well = {row["what"] for row in doctor("--offline")[1]}
    for name, value in settings.items():
        monkeypatch.setenv(f"GATEWAY_{name}", value)
    code, rows = doctor("--offline")
    assert (code, troubles(rows)) == (2, [("bad", name) for name in what])
    assert {row["area"] for row in rows if row["what"] in what and row["level"] == "bad"} == {"configured"}
    others = well - {f"GATEWAY_{name}" for name in settings}
    unknown = {"database"} if "DATABASE_URL" in settings else set()
    assert others - {row["what"] for row in rows} <= unknown | {row for row in others if row.startswith("GATEWAY_")}


def test_a_setting_out_of_form_is_told_to_people_and_never_with_its_value(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_ADMIN_KEY", "s3cr3t!")
    code, out, err = said(capsys, "--offline")
    assert (code, err, "GATEWAY_ADMIN_KEY" in out, "s3cr3t!" in out) == (2, "", True, False)
    assert out.splitlines()[1].startswith("bad ")


def test_to_connect_offline_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, "--offline", "--connect")
    assert (code, out) == (2, "")
    assert "--offline" in err


def test_nothing_is_changed_and_nothing_made(doctor: Doctor, folder: Path) -> None:
    code, rows = doctor()
    assert (code, troubles(rows)) == (0, [])
    assert not folder.exists()
    migrate_in(folder)
    before = {path.name for path in folder.iterdir()}
    assert doctor()[0] == 0
    assert {path.name for path in folder.iterdir()} - {"gateway.db-wal", "gateway.db-shm"} == before


def migrate_in(folder: Path) -> Path:
    folder.mkdir(mode=0o700)
    path = folder / "gateway.db"
    sqlite3.connect(path).close()
    migrate(path)
    return path


CANARY = "canary-5f1c-"
SECRETS = {
    "GATEWAY_ADMIN_KEY": f"{CANARY}admin-key-0123456789",
    "GATEWAY_SECRET": f"{CANARY}root-secret-0123456789",
    "GATEWAY_DATABASE_URL": f"postgresql://gateway:{CANARY}p%40ss@127.0.0.1:9/ledger?options={CANARY}option",
    "GATEWAY_REDIS_URL": f"redis://:{CANARY}redis@127.0.0.1:9/0",
    "GATEWAY_WEBHOOK_URL": f"http://127.0.0.1:9/{CANARY}hook",
    "GATEWAY_WEBHOOK_SECRET": "whsec_Y2FuYXJ5LTVmMWMtd2ViaG9vay1zZWNyZXQ=",
    "GATEWAY_SLACK_WEBHOOK_URL": f"https://127.0.0.1:9/{CANARY}slack",
    "GATEWAY_SMTP_URL": f"smtp://mail:{CANARY}mail@127.0.0.1:9",
    "GATEWAY_OTEL_HEADERS": f"authorization={CANARY}otel",
    "GATEWAY_ASSETS_S3_ACCESS_KEY": f"{CANARY}s3-access",
    "GATEWAY_ASSETS_S3_SECRET_KEY": f"{CANARY}s3-secret",
}
IN_URLS = {
    "GATEWAY_PUBLIC_URL": f"http://user:{CANARY}public@gateway.example/?key={CANARY}query",
    "GATEWAY_OTEL_ENDPOINT": f"http://user:{CANARY}collector@127.0.0.1:9",
}


@pytest.mark.parametrize("offline", [True, False])
def test_no_secret_is_ever_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, offline: bool
) -> None:
    for name, value in (SECRETS | IN_URLS).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GATEWAY_MAIL_FROM", "gateway@example.com")
    monkeypatch.setenv("GATEWAY_MAIL_TO", "ops@example.com")
    monkeypatch.setenv("NEAR_KEY", f"{CANARY}provider-key")
    path = write_catalog(tmp_path)
    keyed = 'base_url = "http://127.0.0.1:9/v1"\napi_key_env = "NEAR_KEY"'
    path.write_text(path.read_text().replace('base_url = "http://127.0.0.1:9/v1"', keyed))
    for form in ([], ["--json"]):
        code, out, err = said(capsys, *form, *(["--offline"] if offline else ["--connect"]))
        assert (code, err) == (0 if offline else 1, ""), out
        assert CANARY not in out
        assert "Y2FuYXJ5" not in out
        for name in SECRETS:
            assert name in out, "each is told as set"


# What is configured


def test_settings_are_told_where_they_differ_and_slips_are_seen(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_PORT", "8123")
    monkeypatch.setenv("GATEWAY_LOG_LEVEL", "info")
    monkeypatch.setenv("GATEWAY_WEBHOK_SECRET", "whsec_x")
    monkeypatch.setenv("GATEWAY_SERVICE_ACCOUNT", "of somebody else")
    _, rows = doctor("--offline")
    assert about(rows, "GATEWAY_PORT") == ["8123"]
    assert about(rows, "GATEWAY_SECRET") == ["set"]
    assert about(rows, "GATEWAY_LOG_LEVEL") == []
    assert troubles(rows) == [("warn", "GATEWAY_WEBHOK_SECRET")]
    assert [row["advice"] for row in rows if row["what"] == "GATEWAY_WEBHOK_SECRET"] == [
        "did you mean GATEWAY_WEBHOOK_SECRET?"
    ]


def test_files_that_the_gateway_would_not_start_with_are_bad(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "pricing.toml").write_text('version = "1"\nnonsense = 1\n')
    (tmp_path / "plans.toml").write_text("[plans.free]\nrequests_per_hour = -1\n")
    code, rows = doctor("--offline")
    assert code == 1
    assert troubles(rows) == [("bad", "pricing.toml"), ("bad", "plans.toml")]


# What is reachable


@pytest.mark.parametrize(("arguments", "arrivals"), [([], 0), (["--offline"], 0), (["--connect"], 1)])
def test_providers_are_connected_to_only_when_asked(
    doctor: Doctor, tmp_path: Path, arguments: list[str], arrivals: int
) -> None:
    with listening() as (port, arrived):
        write_catalog(tmp_path, port=port)
        code, rows = doctor(*arguments)
    assert (code, arrived) == (0, [arrivals])
    assert bool(about(rows, "near", "ok")) == bool(arrivals)


def test_a_provider_that_does_not_answer_is_bad(doctor: Doctor, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    write_catalog(tmp_path, port=port)
    code, rows = doctor("--connect")
    assert (code, troubles(rows)) == (1, [("bad", "near")])


def test_no_connection_is_opened_that_nobody_asked_for(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "sys.addaudithook(lambda event, args: print(event, args[1], file=sys.stderr)\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo') and not isinstance(args[1], (str, bytes)) else None)\n"
        "from gateway.cli import main\nmain(['doctor'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=REPOSITORY,
        env={**inherited(), "GATEWAY_DATA_DIR": str(tmp_path / "data")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


def test_a_running_gateway_is_asked_and_left_as_it_is(gateway: Gateway) -> None:
    done = gateway.cli("doctor", "--json")
    rows = json.loads(done.stdout)["findings"]
    assert (done.returncode, done.stderr) == (1, "")
    assert {row["why"].split(":")[1] for row in rows if row["level"] == "bad"} == {
        " chat calls are refused as unpriced"
    }, "the rig has models without a price, and nothing else is bad"
    assert about(rows, "gateway", "ok")[0] == "runs, and says that it is ready"
    assert about(rows, "root secret") == ["is the one that the keys were made with"]
    for secret in (gateway.admin_key, gateway.provider_key):
        assert secret not in done.stdout + done.stderr
    assert gateway.is_ready()


def test_postgresql_and_redis_are_looked_at(
    doctor: Doctor, redis: RedisServer, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_DATABASE_URL", database_url)
    monkeypatch.setenv("GATEWAY_REDIS_URL", redis.url)
    code, rows = doctor()
    assert (code, about(rows, "Redis", "ok") != []) == (1, True)
    assert "gateway db upgrade" in next(row["advice"] for row in rows if row["what"] == "database")
    with pytest.raises(SystemExit):
        main(["db", "upgrade", "--json"])


def test_a_current_postgresql_is_well(
    database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], doctor: Doctor
) -> None:
    monkeypatch.setenv("GATEWAY_DATABASE_URL", database_url)
    with pytest.raises(SystemExit):
        main(["db", "upgrade"])
    capsys.readouterr()
    code, rows = doctor()
    assert (code, troubles(rows)) == (0, [("warn", "admins")])
    assert about(rows, "clock", "ok")
    assert about(doctor("--offline")[1], "database") == ["PostgreSQL, not asked: --offline"]


def test_a_wrong_password_is_told_without_it(
    postgres: PostgresServer, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    user, _, rest = database_url.removeprefix("postgresql://").partition(":")
    place = rest.partition("@")[2]
    monkeypatch.setenv("GATEWAY_DATABASE_URL", f"postgresql://{user}:{CANARY}wrong@{place}")
    code, out, err = said(capsys)
    assert (code, err) == (1, "")
    assert CANARY not in out


def test_a_database_of_a_newer_gateway_is_bad(doctor: Doctor, folder: Path) -> None:
    path = migrate_in(folder)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    code, rows = doctor()
    assert (code, troubles(rows)) == (1, [("bad", "database")])


@pytest.mark.parametrize(
    ("free", "level"),
    [
        pytest.param(2**40, "ok", id="plenty"),
        pytest.param(2**29, "warn", id="low"),
        pytest.param(2**20, "bad", id="none"),
    ],
)
def test_room_on_the_disk_is_looked_at(doctor: Doctor, monkeypatch: pytest.MonkeyPatch, free: int, level: str) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(total=2**41, used=2**41 - free, free=free))
    code, rows = doctor("--offline")
    assert (code, [row["level"] for row in rows if row["what"] == "disk"]) == (int(level == "bad"), [level])


def test_clocks_that_differ_are_told(
    doctor: Doctor,
    redis: RedisServer,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """This machine's clock is a minute ahead of both servers'."""
    monkeypatch.setenv("GATEWAY_DATABASE_URL", database_url)
    monkeypatch.setenv("GATEWAY_REDIS_URL", redis.url)
    with pytest.raises(SystemExit):
        main(["db", "upgrade"])
    capsys.readouterr()
    ahead = SimpleNamespace(time=lambda: time.time() + 60, monotonic=time.monotonic)
    monkeypatch.setattr("gateway.commands.examinations.stored.time", ahead)
    monkeypatch.setattr("gateway.commands.examinations.reachable.time", ahead)
    rows = doctor()[1]
    assert [why.partition(" is ")[2][:4] for why in about(rows, "clock", "warn")] == ["-60."]
    assert [why for why in about(rows, "Redis", "warn") if "-60 s" in why]


def test_a_redis_that_throws_counters_away_is_warned_of(
    doctor: Doctor, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_REDIS_URL", redis.url)
    assert about(doctor()[1], "Redis", "warn") == []
    redis.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        rows = doctor()[1]
    finally:
        redis.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    assert about(rows, "Redis", "warn") == ["its maxmemory-policy is allkeys-lru"]


# What the database says


def test_months_that_are_old_enough_and_stay_are_told(
    doctor: Doctor, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.mkdir(mode=0o700)

    async def book() -> None:
        database = await Database.open(folder / "gateway.db")
        await database.record_prices({MODEL: PRICE})
        await post_at(database, datetime(2025, 5, 10, tzinfo=UTC), [entry("r1", at=datetime(2025, 5, 10, tzinfo=UTC))])
        await database.close()

    asyncio.run(book())
    assert about(doctor("--offline")[1], "retention")[0].startswith("entries are kept for ever")
    monkeypatch.setenv("GATEWAY_LEDGER_RETENTION_MONTHS", "1")
    rows = doctor("--offline")[1]
    assert about(rows, "retention", "ok") == ["entries are kept for 1 whole months"]
    (why,) = about(rows, "retention", "warn")
    assert why.startswith("2025-05 is old enough to be dropped, and is not: ")


def test_open_holds_old_keys_and_another_root_secret_are_seen(
    doctor: Doctor, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["creators", "add", "acme"], ["keys", "create", "acme"], ["admin-keys", "create"]):
        with pytest.raises(SystemExit):
            main(arguments)
    capsys.readouterr()
    assert (doctor()[0], troubles(doctor()[1])) == (0, [])
    with closing(sqlite3.connect(folder / "gateway.db")) as connection, connection:
        connection.execute("UPDATE virtual_keys SET created_at = 0")
        insert_hold(connection)
    assert troubles(doctor()[1]) == [("warn", "open holds"), ("warn", "virtual keys")]
    monkeypatch.setenv("GATEWAY_SECRET", "another-root-of-enough-characters")
    code, rows = doctor()
    assert (code, troubles(rows)[0]) == (1, ("bad", "root secret"))
    monkeypatch.delenv("GATEWAY_SECRET")
    code, rows = doctor()
    assert (code, about(rows, "root secret", "bad") != []) == (1, True)
    assert not (folder / "secret").exists(), "looking makes none"


def insert_hold(connection: sqlite3.Connection) -> None:
    """An open call of 1970."""
    columns: list[Any] = connection.execute("PRAGMA table_info(holds)").fetchall()
    values = [0 if kind == "INTEGER" else "x" for _, _, kind, *_ in columns]
    connection.execute(f"INSERT INTO holds VALUES ({', '.join('?' * len(values))})", values)


def test_creators_on_a_plan_that_is_gone_are_bad(
    doctor: Doctor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["creators", "add", "acme"], ["admin-keys", "create"]):
        with pytest.raises(SystemExit):
            main(arguments)
    capsys.readouterr()
    (tmp_path / "plans.toml").write_text("[plans.other]\nquota_usd_per_month = 1\n[plans.open]\n")
    code, rows = doctor()
    assert (code, troubles(rows)) == (1, [("bad", "plan free")]), "nobody is on the plan without a limit"


# What is priced


def test_an_active_model_without_a_price_is_bad(doctor: Doctor, tmp_path: Path) -> None:
    write_catalog(tmp_path, prices="input_usd_per_mtok = 1")
    code, rows = doctor("--offline")
    assert (code, troubles(rows)) == (1, [("bad", "near-chat")])
    assert about(rows, "near-chat") == ["no output_usd_per_mtok: chat calls are refused as unpriced"]


@pytest.mark.parametrize(
    ("source", "told"),
    [
        pytest.param("a page, read 2020-01-31", "read more than 6 months ago: near-chat", id="old"),
        pytest.param("a page", "no day in `source`: near-chat", id="undated"),
        pytest.param("read 2020-99-99", "no day in `source`: near-chat", id="no day at all"),
    ],
)
def test_old_prices_are_warned_of(doctor: Doctor, tmp_path: Path, source: str, told: str) -> None:
    write_catalog(tmp_path, source=source)
    code, rows = doctor("--offline")
    assert (code, about(rows, "age", "warn")) == (0, [told])
    if source.endswith("31"):
        assert about(doctor("--offline", "--price-months", "1200")[1], "age", "warn") == []


# What it is made of


@pytest.mark.parametrize(
    ("version", "level"), [pytest.param("1.82.7", "warn", id="refused"), pytest.param("1.90.0", "ok", id="good")]
)
def test_a_version_of_litellm_that_must_not_be_used_is_told(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str, level: str
) -> None:
    library = tmp_path / "library"
    (library / "litellm").mkdir(parents=True)
    (library / "litellm" / "__init__.py").write_text("raise AssertionError('looked at by its files alone')\n")
    about_it = library / f"litellm-{version}.dist-info"
    about_it.mkdir()
    (about_it / "METADATA").write_text(f"Metadata-Version: 2.1\nName: litellm\nVersion: {version}\n")
    monkeypatch.syspath_prepend(library)
    code, rows = doctor("--offline")
    assert (code, [row["level"] for row in rows if row["what"] == "litellm"]) == (0, [level])
    assert about(rows, "litellm")[0].startswith(version)


# What is risky


@pytest.mark.parametrize(
    ("settings", "level", "what"),
    [
        pytest.param({"ADMIN_KEY": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}, "warn", "GATEWAY_ADMIN_KEY", id="one letter"),
        pytest.param({"SECRET": "only-a-few-chars"}, "warn", "GATEWAY_SECRET", id="short root secret"),
        pytest.param({"HOST": "0.0.0.0", "ASSETS_URL": "off"}, "warn", "GATEWAY_HOST", id="open without a proxy"),
        pytest.param(
            {"HOST": "0.0.0.0", "TRUSTED_PROXIES": "10.0.0.0/8"}, "warn", "GATEWAY_PUBLIC_URL", id="links lead nowhere"
        ),
        pytest.param({"PUBLIC_URL": "http://llm.example"}, "warn", "GATEWAY_PUBLIC_URL", id="plain HTTP"),
        pytest.param({"TRUSTED_PROXIES": "0.0.0.0/0"}, "bad", "GATEWAY_TRUSTED_PROXIES", id="believes everybody"),
        pytest.param({"TRUSTED_PROXIES": "the proxy"}, "bad", "GATEWAY_TRUSTED_PROXIES", id="no network"),
        pytest.param({"POLICY_MODE": "observe"}, "warn", "GATEWAY_POLICY_MODE", id="nothing is enforced"),
    ],
)
def test_risky_settings_are_told(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], level: str, what: str
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(f"GATEWAY_{name}", value)
    code, rows = doctor("--offline")
    assert (code, troubles(rows)) == (int(level == "bad"), [(level, what)])


def test_notices_to_nobody_are_told(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GATEWAY_WEBHOOK_URL")
    assert troubles(doctor("--offline")[1]) == [("warn", "notices")]


def test_plans_without_a_limit_for_money_are_told(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "plans.toml").write_text(
        "[plans.free]\nquota_usd_per_month = 1\nbudget_usd_per_month = 2\n"
        "[plans.open]\n"
        '[plans.capped]\nbudget_usd_per_month = 5\nwhen_budget_reached = "deny"\n'
    )
    code, rows = doctor("--offline")
    assert (code, troubles(rows)) == (0, [("warn", "plans.toml"), ("warn", "plan open")])
    assert "is not below quota_usd_per_month" in about(rows, "plans.toml", "warn")[0]


def test_files_of_others_and_charges_that_wait_are_told(
    doctor: Doctor, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GATEWAY_SECRET")
    (folder / "spool").mkdir(parents=True)
    (folder / "spool" / "a.spool").write_bytes(b"1234")
    (folder / "secret").write_text("x" * 64)
    (folder / "secret").chmod(0o644)
    folder.chmod(0o755)
    code, rows = doctor("--offline")
    assert (code, troubles(rows)) == (1, [("bad", "secret"), ("warn", "data folder"), ("warn", "spool")])
    assert about(rows, "spool") == ["4 bytes of charges wait for the database"]


def test_the_age_of_the_newest_copy_is_told(doctor: Doctor, tmp_path: Path) -> None:
    copies = tmp_path / "copies"
    assert troubles(doctor("--offline", "--backups", str(copies))[1]) == [("bad", "backup")]
    copies.mkdir()
    assert troubles(doctor("--offline", "--backups", str(copies))[1]) == [("bad", "backup")]
    made_at = datetime.now(UTC) - timedelta(days=9)
    (copies / f"gateway-{made_at.strftime('%Y%m%dT%H%M%SZ')}.db").touch()
    (copies / "gateway-20200101T000000Z.db").touch()
    _, rows = doctor("--offline", "--backups", str(copies))
    assert about(rows, "backup", "warn") == [f"the newest copy in {copies} is 9 days old"]
    assert doctor("--offline", "--backups", str(copies), "--backup-days", "9")[0] == 0


def test_people_get_a_table_and_a_sum(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "--offline")
    header, *lines, total = out.splitlines()
    assert (code, header.split()) == (0, ["level", "area", "what", "why", "advice"])
    assert total == f"0 bad, 0 warnings, {len(lines)} ok"
