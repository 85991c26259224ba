"""`python -m benchmarks.ledger_rows`: what a long ledger costs whoever asks it, and whoever calls meanwhile.

    1. start the gateway once, so that it makes its tables, its prices and a key, and stop it
    2. write a ledger of `--rows` calls over three months, rollups included, and verify it
    3. start the gateway, and send it calls at a steady rate: how long admission takes with nobody asking
    4. the same while each question is asked again and again: newest pages, pages of one creator, totals of a month,
       and the CSV of a whole month to its end

Printed for each question: how long it took, the largest memory of the gateway's process, and the latency of the calls
beside it as a multiple of that without. Everything is on 127.0.0.1, and each step has its bound. SQLite by default;
`--store postgres` brings a server of its own, `--url` names one, with an empty database.
"""

import argparse
import asyncio
import json
import secrets
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.local_http import get_json, post_json
from benchmarks.machine import ROOT, choose_cores, describe_machine, environment
from benchmarks.native import Upstream, run_load
from benchmarks.targets.gateway import Gateway
from gateway.ledger.ids import id_floor
from gateway.ledger.periods import DAY_MS, month_bounds_ms, ms_of
from gateway.ledger.postgres.link import connect
from gateway.ledger.postgres.partitions import make_partitions
from gateway.ledger.schema import ENTRY_COLUMNS, USAGE_DAILY_KEY, USAGE_DAILY_SUMS
from gateway.pricing import cost_nano_usd, price_from_json
from gateway.usage import Usage
from tests.servers.postgres_server import PostgresServer

MODEL = "mock-1"
CREATORS, FEATURES = 100, 5
USAGE = Usage(uncached_input=420, cached_input=80, text_output=150)
CHUNK_ROWS = 250_000
CALLS_A_SECOND = 100
PAGE_ROWS = 100
QUESTION_TIMEOUT_S = 1_800
VERIFY_TIMEOUT_S = 3_600
READ_BYTES = 256 * 1024

WAYS = {
    "sqlite": {
        "ms": "({first} + n * {span} / {rows})",
        "numbers": "(WITH RECURSIVE numbers(n) AS (VALUES({low}) UNION ALL SELECT n + 1 FROM numbers WHERE n < {high})"
        " SELECT n, {ms} AS ms FROM numbers)",
        "id": "printf('%08x-%04x-7000-8000-%012x', ms >> 16, ms & 65535, n)",
        "day": "strftime('%Y-%m-%d', ms / 1000, 'unixepoch')",
        "true": "1",
        "false": "0",
    },
    "postgres": {
        "ms": "({first} + n * {span} / {rows})",
        "numbers": "(SELECT n, {ms} AS ms FROM generate_series({low}::bigint, {high}::bigint) AS numbers(n)) AS made",
        "id": "lpad(to_hex(ms >> 16), 8, '0') || '-' || lpad(to_hex(ms & 65535), 4, '0') || '-7000-8000-'"
        " || lpad(to_hex(n), 12, '0')",
        "day": "to_char(to_timestamp(ms / 1000) AT TIME ZONE 'UTC', 'YYYY-MM-DD')",
        "true": "true",
        "false": "false",
    },
}


class Months(NamedTuple):
    """Whole months before this one, and up to now."""

    names: list[str]
    first_ms: int
    after_ms: int

    @property
    def asked(self) -> str:
        """The last whole one."""
        return self.names[-2]


class OnPostgres(Gateway):
    name = "gateway-postgres"
    url_of_database = ""
    is_filled = False
    """An earlier run made its creator."""

    def start(self) -> None:
        self.settings = {"GATEWAY_DATABASE_URL": self.url_of_database, "GATEWAY_SECRET": secrets.token_urlsafe(32)}
        super().start()

    def _make_key(self) -> str:
        if not self.is_filled:
            return super()._make_key()
        made: dict[str, Any] = post_json(self._admin("creators/benchmark/keys"), self._admin_key, {})
        return str(made["key"])


class Asked(NamedTuple):
    question: str
    times: int
    seconds: float
    """The median of all times."""
    bytes: int
    """Of the last answer."""
    rss_mb: float
    """The most that the process had meanwhile."""
    calls: dict[str, Any]
    """What the load generator saw."""


def main() -> None:
    options = _options()
    months = _months(datetime.now(UTC))
    target_core, load_core = choose_cores()
    with tempfile.TemporaryDirectory(prefix="ledger-rows-", dir=options.folder) as folder, _server(options) as url:
        upstream = Upstream(load_core, Path(folder))
        kind = OnPostgres if url else Gateway
        target = kind(Path(folder), upstream.port, target_core)
        if isinstance(target, OnPostgres):
            target.url_of_database, target.is_filled = url, options.filled
        try:
            target.start()
            if not options.filled:
                target.stop()
                took_s = _fill(target, url, options.rows, months)
                print(f"{describe_machine()}\n{options.store}, {options.rows} entries, written in {took_s:.0f} s")
                if not options.no_verify:
                    _verify(target)
                target._serve()
            _measure(target, load_core, months, options)
            if not options.no_verify:
                target.stop()
                _verify(target)
        finally:
            target.stop()
            upstream.stop()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ledger_rows", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="entries (default: 1000000)")
    parser.add_argument("--store", choices=WAYS, default="sqlite")
    parser.add_argument("--url", default="", help="an empty database of PostgreSQL on this machine")
    parser.add_argument("--filled", action="store_true", help="with --url: an earlier run has written the entries")
    parser.add_argument("--seconds", type=float, default=15, help="of load beside each question (default: 15)")
    parser.add_argument("--rate", type=int, default=CALLS_A_SECOND, help="calls a second (default: 100)")
    parser.add_argument("--folder", type=Path, help="where the ledger lies meanwhile: about 1 kB an entry")
    parser.add_argument("--no-verify", action="store_true", help="do not compute the ledger again before and after")
    parser.add_argument("--json", type=Path, help="where to write every figure")
    options = parser.parse_args()
    if options.url:
        options.store = "postgres"
    return options


@contextmanager
def _server(options: argparse.Namespace) -> Iterator[str]:
    """The URL of an empty database; empty for SQLite."""
    if options.store == "sqlite" or options.url:
        yield options.url
        return
    settings = {"shared_buffers": "256MB", "max_wal_size": "4GB", "maintenance_work_mem": "256MB"}
    with PostgresServer(settings=settings) as server:
        yield server.create_database("ledger_rows")


def _months(now: datetime) -> Months:
    first = now.replace(day=1)
    names = []
    for _ in range(3):
        names.append(first.strftime("%Y-%m"))
        first = (first - timedelta(days=1)).replace(day=1)
    names.reverse()
    return Months(names, month_bounds_ms(names[0])[0], ms_of(now) - 60_000)


# The ledger


def _fill(target: Gateway, url: str, rows: int, months: Months) -> float:
    started = time.monotonic()
    if url:
        asyncio.run(_fill_postgres(url, rows, months))
    else:
        _fill_file(target.folder / "data" / "gateway.db", rows, months)
    return time.monotonic() - started


def _fill_file(path: Path, rows: int, months: Months) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = -200000")
        (price,) = connection.execute("SELECT version, row FROM price_rows WHERE model = ?", (MODEL,)).fetchall()
        for sql in _statements("sqlite", rows, months, *price):
            connection.execute(sql)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


async def _fill_postgres(url: str, rows: int, months: Months) -> None:
    link = await connect(url, name="ledger rows", statement_timeout_s=QUESTION_TIMEOUT_S)
    try:
        await make_partitions(link, months.names)
        await link.execute("SET synchronous_commit TO off")
        price = await link.fetchrow("SELECT version, row FROM price_rows WHERE model = $1", MODEL)
        for sql in _statements("postgres", rows, months, *price):
            await link.execute(sql)
        await link.execute("ANALYZE")
    finally:
        await link.close()


def _statements(store: str, rows: int, months: Months, version: str, price: str) -> Iterator[str]:
    """Entries in chunks, then the rollups of each day."""
    way = WAYS[store]
    values = _values(way, version, cost_nano_usd(USAGE, price_from_json(price)))
    columns = ", ".join(f'"{name}"' for name in ENTRY_COLUMNS)
    made = ", ".join(values[name] for name in ENTRY_COLUMNS)
    ms = way["ms"].format(first=months.first_ms, span=months.after_ms - months.first_ms, rows=rows)
    for low in range(0, rows, CHUNK_ROWS):
        numbers = way["numbers"].format(low=low, high=min(low + CHUNK_ROWS, rows) - 1, ms=ms)
        yield f"INSERT INTO entries ({columns}) SELECT {made} FROM {numbers}"
    key = ", ".join(USAGE_DAILY_KEY)
    sums = {name: f"sum({name})" for name in USAGE_DAILY_SUMS} | {
        "calls": "count(*)",
        "attempts": "count(*)",
        "errors": "0",
    }
    for day_ms in range(months.first_ms, months.after_ms + DAY_MS, DAY_MS):
        yield (
            f"INSERT INTO usage_daily ({key}, {', '.join(USAGE_DAILY_SUMS)})"
            f" SELECT {key}, {', '.join(sums[name] for name in USAGE_DAILY_SUMS)} FROM entries"
            f" WHERE id >= '{id_floor(day_ms)}' AND id < '{id_floor(day_ms + DAY_MS)}' GROUP BY {key}"
        )


def _values(way: dict[str, str], version: str, cost: int) -> dict[str, str]:
    """An SQL expression for each column, of the number `n` of the entry and its instant `ms`."""
    creator = f"'c' || (n % {CREATORS})"
    texts = {
        "id": way["id"],
        "request_id": "'req_' || n",
        "account_id": creator,
        "creator": creator,
        "key_id": f"'key-' || (n % {CREATORS})",
        "feature": f"'feature-' || (n / {CREATORS} % {FEATURES})",
        "endpoint": "'chat'",
        "requested_model": f"'{MODEL}'",
        "served_model": f"'{MODEL}'",
        "provider": "'upstream'",
        "price_version": f"'{version}'",
        "payer": "'quota'",
        "payer_unit": "'nano_usd'",
        "kind": "'usage'",
        "usage_source": "'provider'",
        "outcome": "'ok'",
        "upstream_request_id": "'chatcmpl-' || n",
        "period_day": way["day"],
        "period_month": f"substr({way['day']}, 1, 7)",
    }
    empty = "tags metadata agent client_request_id flags error free_attempts downgrade_reason variant charge_price_version decision"
    numbers = {
        "admitted_at": "ms",
        "created_at": "ms",
        "attempt": "1",
        "final": way["true"],
        "cached": way["false"],
        "is_streaming": way["false"],
        "status": "200",
        "latency_ms": "850",
        "ttft_ms": "NULL",
        "corrects": "NULL",
        "saved_nano_usd": "0",
        **dict.fromkeys(("cost_nano_usd", "charge_nano_usd", "payer_amount"), str(cost)),
        **{name: str(count) for name, count in USAGE._asdict().items()},
    }
    return texts | numbers | dict.fromkeys(empty.split(), "''")


def _verify(target: Gateway) -> None:
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "ledger", "verify"],
        cwd=ROOT,
        env=environment(target._env),
        capture_output=True,
        text=True,
        timeout=VERIFY_TIMEOUT_S,
    )
    print(f"ledger verify: {done.stdout.strip()[-300:]} ({time.monotonic() - started:.0f} s){done.stderr[-500:]}")
    if done.returncode != 0:
        raise SystemExit("the ledger is not exact: this run is void")


# Questions


def _measure(target: Gateway, core: int | None, months: Months, options: argparse.Namespace) -> None:
    start_ms, end_ms = month_bounds_ms(months.asked)
    first, after = (datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d") for ms in (start_ms, end_ms))
    questions: dict[str, Callable[[], int] | None] = {
        "nothing": None,
        "newest pages": _Pages(target, f"ledger?limit={PAGE_ROWS}"),
        "pages of one creator": _Pages(target, f"ledger?limit={PAGE_ROWS}&creator=c7"),
        "charges of a month": lambda: _read(target, f"charges?month={months.asked}"),
        "costs of a month": lambda: _read(target, f"costs?group_by=creator,feature&from={first}&to={after}"),
        "CSV of a month": lambda: _read(target, f"ledger?format=csv&from={first}&to={after}"),
        "nothing again": None,
    }
    _load(target, core, 3, options.rate)  # to warm it up
    print(
        f"{'question':22} {'times':>6} {'ms':>10} {'kB':>9} {'MB':>6}   calls beside it: p50, p99 ms (multiples), answered"
    )
    found: list[Asked] = []
    for name, ask in questions.items():
        found.append(_asked(name, ask, target, core, options))
        _show(found[-1], found[0])
    if options.json:
        options.json.write_text(json.dumps([asked._asdict() for asked in found], indent=1))


def _show(asked: Asked, quiet: Asked) -> None:
    p50, p99, quiet_p50, quiet_p99 = (each.calls[f"latency_p{n}_us"] for each in (asked, quiet) for n in (50, 99))
    print(
        f"{asked.question:22} {asked.times:6} {asked.seconds * 1000:10.1f} {asked.bytes / 1000:9.0f} {asked.rss_mb:6.0f}"
        f"   {p50 / 1000:7.2f} {p99 / 1000:7.2f}  ({p50 / quiet_p50:.2f}, {p99 / quiet_p99:.2f})  {asked.calls['ok']}",
        flush=True,
    )


def _asked(
    name: str, ask: Callable[[], int] | None, target: Gateway, core: int | None, options: argparse.Namespace
) -> Asked:
    """The question again and again while calls come; at least once, to its end."""
    calls: dict[str, Any] = {}
    load = threading.Thread(target=lambda: calls.update(_load(target, core, options.seconds, options.rate)))
    assert target.process is not None
    _forget_peak(target.process.pid)
    load.start()
    took: list[float] = []
    size = 0
    while ask is not None and (not took or load.is_alive()):
        started = time.perf_counter()
        size = ask()
        took.append(time.perf_counter() - started)
    load.join()
    median = sorted(took)[len(took) // 2] if took else 0.0
    return Asked(name, len(took), median, size, _peak_mb(target.process.pid), calls)


class _Pages:
    """The pages one after the other; from the first again when there are no more."""

    def __init__(self, target: Gateway, path: str) -> None:
        self._target, self._path = target, path
        self._cursor: str | None = None

    def __call__(self) -> int:
        cursor = f"&cursor={self._cursor}" if self._cursor else ""
        page = get_json(self._target._admin(self._path + cursor), self._target._admin_key)
        self._cursor = page["next_cursor"]
        return len(json.dumps(page))


def _read(target: Gateway, path: str) -> int:
    """How many bytes came, each thrown away at once."""
    request = urllib.request.Request(target._admin(path), headers={"authorization": f"Bearer {target._admin_key}"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    size = 0
    give_up_at = time.monotonic() + QUESTION_TIMEOUT_S
    with opener.open(request, timeout=60) as answer:
        while read := answer.read1(READ_BYTES):
            size += len(read)
            if time.monotonic() > give_up_at:
                raise SystemExit(f"{path} took more than {QUESTION_TIMEOUT_S} s")
    return size


def _load(target: Gateway, core: int | None, seconds: float, rate: int) -> dict[str, Any]:
    arguments = ["-c", "32", "-r", str(rate), "-d", str(seconds), "-m", MODEL, "-g", "20"]
    return run_load(target.url, target.key, arguments, core, seconds + 60)


def _forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _peak_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise LookupError(f"no VmHWM of {pid}")


if __name__ == "__main__":
    main()
