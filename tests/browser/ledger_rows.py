"""A long ledger in a file of SQLite, written in seconds: half a year of calls as a gateway would have booked them.

What stands in an entry is drawn from a few thousand patterns, made here with a fixed seed and priced by the gateway's
own arithmetic; only its instant and its ids are its own. Rollups are summed from the entries, day by day, as the ledger
keeps them, so that `gateway ledger verify` finds nothing. The gateway that made the tables must not run meanwhile.
"""

import itertools
import json
import random
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from gateway.ledger.hourly import HOUR_MS, hour_of
from gateway.ledger.ids import EntryIds, id_floor
from gateway.ledger.periods import DAY_MS, period_of
from gateway.ledger.schema import ENTRY_COLUMNS, USAGE_DAILY_KEY, USAGE_DAILY_SUMS
from gateway.pricing import cost_nano_usd, price_from_json
from gateway.usage import Usage

__all__ = ["CREDITED", "DAYS", "HOSTILE", "HOSTILE_CREATOR", "LARGEST", "Member", "members", "write_ledger"]

DAYS = 184
"""As long as half a year can be."""
CREATORS = 200
LARGEST = "acme"
"""The creator with the most calls."""
CREDITED = "northwind"
"""A creator whose images are paid with credits."""
HOSTILE_CREATOR = "hostile"
"""A creator all of whose texts are hostile."""
HOSTILE = (
    "<img src=x onerror=alert(1)>",
    '=HYPERLINK("http://x")',
    "w" * 200,
    "invoice\u202egpj.exe",
    "'\"><script>alert(2)</script>",
    "{{ 7 * 7 }}",
)
"""What must stay text wherever it is shown: no element, no formula, no broken page."""

_SEED = 7
_PATTERNS = 4_096
_CREDITS_GRANTED = 10_000_000
_HOURS_KEPT = 28 * 24
_NAMED = (LARGEST, "globex", "initech", CREDITED, HOSTILE_CREATOR, "umbrella", "hooli", "stark-labs")
_FIRST = ("Amber", "Blue", "Cedar", "Delta", "Eagle", "Fern", "Grand", "Harbor", "Iron", "Juniper", "Lake", "Maple",
          "Nova", "Old")  # fmt: skip
_SECOND = ("Analytics", "Bank", "Clinic", "Design", "Energy", "Freight", "Games", "Health", "Insurance", "Journal",
           "Kitchens", "Labs", "Media", "Networks")  # fmt: skip
_FEATURES = ("chat", "search", "summaries", "drafts", "support-bot", "code-review", "image-studio", "translation")
_AGENTS = ("", "", "planner", "researcher", "reviewer")
_DEAR, _CHEAP = "gpt-5", "gpt-5-mini"
_IMAGES = "gpt-image-2"
_IMAGE_VARIANT = "1024x1024/low"
_IMAGE_TOKENS = 272
"""Of one such image."""
_EMBEDDINGS = "text-embedding-3-small"
_PROVIDERS = {
    _DEAR: "openai",
    _CHEAP: "openai",
    "claude-sonnet-5": "anthropic",
    "claude-haiku-5-5": "anthropic",
    "gemini-3.5-flash": "gemini",
    _EMBEDDINGS: "openai",
    _IMAGES: "openai",
}
_CHAT_MODELS = (_DEAR, _DEAR, _CHEAP, "claude-sonnet-5", "claude-haiku-5-5", "gemini-3.5-flash")
_FAILURES = (("upstream_error", 502, "upstream_error"), ("upstream_timeout", 504, "upstream_timeout"))

_CONSTANT_SUMS = ("calls", "attempts", "errors")
_OF_NUMBER = ("id", "request_id", "admitted_at", "created_at", "period_day", "period_month", "latency_ms", "ttft_ms")
"""Columns that the pattern does not say."""


class Member(NamedTuple):
    """A creator of the ledger, and the virtual key its calls were made with."""

    id: str
    key_id: str
    name: str
    plan: str


class _Price(NamedTuple):
    version: str
    row: str

    def of(self, usage: Usage, variant: str = "") -> int:
        return cost_nano_usd(usage, price_from_json(self.row), variant)


class _Day(NamedTuple):
    start_ms: int
    span_ms: int
    first: int
    """Number of its first entry."""
    entries: int


def members(key_ids: Mapping[str, str], *, is_hostile: bool = True) -> list[Member]:
    """Every creator. `key_ids`: creator -> the key that a gateway has made; the others' keys are made up. `is_hostile`: some
    of the names are."""
    others = itertools.islice(((one, other) for other in _SECOND for one in _FIRST), CREATORS - len(_NAMED))
    names = {f"{one}-{other}".lower(): f"{one} {other}" for one, other in others}
    ids = [creator for creator in (*_NAMED, *names) if is_hostile or creator != HOSTILE_CREATOR]
    plans = itertools.cycle(("team", "pro", "free"))
    return [
        Member(
            id=creator,
            key_id=key_ids.get(creator, f"madeup{number:06}"),
            name=HOSTILE[number % len(HOSTILE)]
            if is_hostile and _is_hostile(creator, number)
            else names.get(creator, f"{creator.replace('-', ' ').title()} Ltd"),
            plan=next(plans),
        )
        for number, creator in enumerate(ids)
    ]


def write_ledger(path: Path, calls: int, key_ids: Mapping[str, str], until_ms: int, *, is_hostile: bool = True) -> None:
    """Writes `calls` entries of calls that end at `until_ms`, and what is kept beside them."""
    everybody = members(key_ids, is_hostile=is_hostile)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        # Whatever ends this halfway leaves a file that is thrown away.
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA cache_size = -400000")
        connection.execute("BEGIN")
        _write_creators(connection, everybody, set(key_ids), until_ms - DAYS * DAY_MS, is_hostile=is_hostile)
        days = list(_days(calls, until_ms))
        _write_grants(connection, [member for member in everybody if member.id == CREDITED], days[0].start_ms)
        _write_patterns(connection, everybody)
        for day in days:
            _write_day(connection, day)
        _write_hours(connection, until_ms)
        _write_anomalies(connection, until_ms, is_hostile=is_hostile)
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL")


def _is_hostile(creator: str, number: int) -> bool:
    return creator == HOSTILE_CREATOR or (creator not in _NAMED and number % 25 == 0)


# Creators and credits


def _write_creators(
    connection: sqlite3.Connection, everybody: list[Member], known: set[str], at_ms: int, *, is_hostile: bool
) -> None:
    """Those a gateway made already get no more than their name."""
    metadata = json.dumps({f"note-{number}": text for number, text in enumerate(HOSTILE)})
    for number, member in enumerate(everybody):
        if member.id not in known:
            connection.execute(
                "INSERT INTO creators (id, account_id, name, plan, overrides, metadata, is_active, created_at)"
                " VALUES (?, ?, '', ?, '{}', '{}', 1, ?)",
                (member.id, member.id, member.plan, at_ms),
            )
            connection.execute(
                "INSERT INTO virtual_keys (id, creator_id, account_id, name, digest, last4, created_at)"
                " VALUES (?, ?, ?, ?, ?, 'none', ?)",
                (
                    member.key_id,
                    member.id,
                    member.id,
                    HOSTILE[number % len(HOSTILE)] if is_hostile else "production",
                    f"{number:064x}",
                    at_ms,
                ),
            )
        texts = metadata if is_hostile and _is_hostile(member.id, number) else "{}"
        connection.execute("UPDATE creators SET name = ?, metadata = ? WHERE id = ?", (member.name, texts, member.id))


def _write_grants(connection: sqlite3.Connection, whom: list[Member], at_ms: int) -> None:
    ids = EntryIds()
    for number, member in enumerate(whom):
        entry_id, made_ms = ids.next(at_ms)
        fields = {
            **_attributed(member, "", ""),
            "id": entry_id,
            "request_id": f"grant-{number}",
            "payer": "credits",
            "payer_unit": "credit",
            "kind": "grant",
            "payer_amount": -_CREDITS_GRANTED,
            "usage_source": "none",
            **_instants(made_ms),
        }
        _insert(connection, "entries", fields)
        grant = {
            "entry_id": entry_id,
            "creator": member.id,
            "payer": "credits",
            "credits": _CREDITS_GRANTED,
            "created_at": made_ms,
        }
        _insert(connection, "credit_grants", grant)
        key = {name: fields[name] for name in USAGE_DAILY_KEY}
        sums = dict.fromkeys(USAGE_DAILY_SUMS, 0) | {"attempts": 1, "payer_amount": -_CREDITS_GRANTED}
        _insert(connection, "usage_daily", key | sums)


# Patterns of calls


def _write_patterns(connection: sqlite3.Connection, everybody: list[Member]) -> None:
    columns = [name for name in ENTRY_COLUMNS if name not in _OF_NUMBER]
    connection.execute(f"CREATE TEMP TABLE patterns (number INTEGER PRIMARY KEY, alike, latency, {', '.join(columns)})")
    prices = _prices(connection)
    chance = random.Random(_SEED)
    weights = [1 / (rank + 2) for rank in range(len(everybody))]
    keys: dict[tuple[Any, ...], int] = {}
    for number, member in enumerate(chance.choices(everybody, weights, k=_PATTERNS)):
        call = _call(chance, member, prices)
        alike = keys.setdefault(tuple(call[name] for name in USAGE_DAILY_KEY), len(keys))
        own = {"number": number, "alike": alike, "latency": chance.randint(180, 9_000)}
        _insert(connection, "patterns", own | {name: call[name] for name in columns})


def _prices(connection: sqlite3.Connection) -> dict[str, _Price]:
    rows = connection.execute("SELECT model, version, row FROM price_rows").fetchall()
    return {model: _Price(version, row) for model, version, row in rows}


def _call(chance: random.Random, member: Member, prices: Mapping[str, _Price]) -> dict[str, Any]:
    """The columns of one call: by far the most are answered, some from the cache, some by a cheaper model."""
    # A creator has a few features, and each of them its model: else no two calls of a day would share a rollup.
    features = random.Random(member.id).sample(_FEATURES, 3)
    feature = chance.choice(features)
    if member.id == HOSTILE_CREATOR:
        feature = chance.choice(HOSTILE)
    of_feature = random.Random(f"{member.id} {feature}")
    agent = of_feature.choice(_AGENTS)
    fields = _attributed(member, feature, agent)
    if feature == "image-studio":
        return fields | _image(chance, member, prices)
    if feature == "search":
        return fields | _text_call(chance, prices, "embeddings", _EMBEDDINGS, _EMBEDDINGS)
    model = of_feature.choice(_CHAT_MODELS)
    is_downgraded = model == _DEAR and chance.random() < 0.05
    return fields | _text_call(chance, prices, "chat", model, _CHEAP if is_downgraded else model)


def _text_call(
    chance: random.Random, prices: Mapping[str, _Price], endpoint: str, requested: str, served: str
) -> dict[str, Any]:
    usage = _usage(chance, endpoint)
    fields = _served(endpoint, requested, served, prices)
    luck = chance.random()
    if luck < 0.02:
        outcome, status, error = chance.choice(_FAILURES)
        return fields | {"outcome": outcome, "status": status, "error": error, "usage_source": "none"}
    cost = prices[served].of(usage)
    fields |= usage._asdict()
    if luck < 0.10 and requested == served:
        return fields | {"cached": 1, "saved_nano_usd": cost}
    if requested != served:
        limit = ["budget_usd_per_month", "nano_usd", 100 * 10**9, 99 * 10**9, 10**9, cost]
        step = [requested, served, "budget_usd_per_month", 99 * 10**9, 10**9, 100 * 10**9]
        made = {"limits": [limit], "estimate": [cost, cost, cost, usage.input_tokens, cost], "downgrades": [step]}
        fields |= {"downgrade_reason": "budget", "decision": json.dumps(made)}
    return fields | {"cost_nano_usd": cost, "charge_nano_usd": cost, "payer_amount": cost}


def _image(chance: random.Random, member: Member, prices: Mapping[str, _Price]) -> dict[str, Any]:
    pieces = chance.randint(1, 2)
    prompt = chance.randint(20, 400)
    usage = Usage(uncached_input=prompt, image_output=pieces * _IMAGE_TOKENS, pieces=pieces)
    cost = prices[_IMAGES].of(usage, _IMAGE_VARIANT)
    fields = _served("images", _IMAGES, _IMAGES, prices) | usage._asdict()
    fields |= {"variant": _IMAGE_VARIANT, "cost_nano_usd": cost, "is_streaming": 0}
    if member.id == CREDITED:
        return fields | {"payer": "credits", "payer_unit": "credit", "payer_amount": 10 * usage.pieces}
    if chance.random() < 0.3:
        return fields | {"payer": "free_images", "payer_unit": "image", "payer_amount": usage.pieces}
    return fields | {"charge_nano_usd": cost, "payer_amount": cost}


def _usage(chance: random.Random, endpoint: str) -> Usage:
    if endpoint == "embeddings":
        return Usage(uncached_input=chance.randint(20, 4_000))
    cached = chance.choice((0, 0, 1_024, 4_096))
    return Usage(uncached_input=chance.randint(50, 12_000), cached_input=cached, text_output=chance.randint(5, 3_000))


def _attributed(member: Member, feature: str, agent: str) -> dict[str, Any]:
    """A whole row: what is not said is empty, or nothing."""
    metadata = json.dumps({"origin": HOSTILE[0], "sheet": HOSTILE[1]}) if member.id == HOSTILE_CREATOR else ""
    whole: dict[str, Any] = dict.fromkeys(ENTRY_COLUMNS, "")
    whole |= dict.fromkeys((*Usage._fields, "cost_nano_usd", "charge_nano_usd", "payer_amount", "saved_nano_usd"), 0)
    whole |= dict.fromkeys(("cached", "is_streaming", "status", "latency_ms"), 0)
    return whole | {
        "account_id": member.id,
        "creator": member.id,
        "key_id": member.key_id,
        "feature": feature,
        "agent": agent,
        "metadata": metadata,
        "payer": "quota",
        "payer_unit": "nano_usd",
        "attempt": 1,
        "final": 1,
        "outcome": "ok",
        "ttft_ms": None,
        "corrects": None,
    }


def _served(endpoint: str, requested: str, served: str, prices: Mapping[str, _Price]) -> dict[str, Any]:
    return {
        "endpoint": endpoint,
        "requested_model": requested,
        "served_model": served,
        "provider": _PROVIDERS[served],
        "price_version": prices[served].version,
        "kind": "usage",
        "usage_source": "provider",
        "status": 200,
        "is_streaming": int(endpoint == "chat"),
    }


# Entries and their sums

_NUMBERED = (
    "WITH RECURSIVE numbers(n) AS (VALUES (:first) UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < :after),"
    " timed AS (SELECT n, :start + (n - :first) * :span / :count AS ms, (n * 2654435761 >> 12) % :patterns AS which"
    " FROM numbers WHERE n < :after)"
)
"""The numbers of a day's entries, each with its instant and its pattern, spread as by chance."""
_VALUES = {name: f"pattern.{name}" for name in ENTRY_COLUMNS} | {
    "id": "printf('%08x-%04x-7000-8000-%012x', ms >> 16, ms & 65535, n)",
    "request_id": "printf('req_%024x', n)",
    "admitted_at": "ms",
    "created_at": "ms",
    "latency_ms": "latency + n % 97",
    "ttft_ms": "CASE WHEN is_streaming THEN latency / 4 + n % 31 END",
    "period_day": ":day",
    "period_month": ":month",
}
_INSERT_ENTRIES = (
    f"{_NUMBERED} INSERT INTO entries ({', '.join(ENTRY_COLUMNS)})"
    f" SELECT {', '.join(_VALUES[name] for name in ENTRY_COLUMNS)}"
    " FROM timed CROSS JOIN patterns AS pattern ON pattern.number = which"
)
_SUMS = {name: f"sum(times * pattern.{name})" for name in USAGE_DAILY_SUMS if name not in _CONSTANT_SUMS} | {
    "calls": "sum(times)",
    "attempts": "sum(times)",
    "errors": "sum(times * (outcome NOT IN ('ok', 'client_gone')))",
}
# Rows of `alike` patterns have the same key: to compare one number for each entry is a third of the work.
_INSERT_SUMS = (
    f"{_NUMBERED}, counted AS (SELECT which, count(*) AS times FROM timed GROUP BY which)"
    f" INSERT INTO usage_daily ({', '.join((*USAGE_DAILY_KEY, *USAGE_DAILY_SUMS))})"
    f" SELECT {', '.join(_VALUES[name] for name in USAGE_DAILY_KEY)}, {', '.join(_SUMS[n] for n in USAGE_DAILY_SUMS)}"
    " FROM counted CROSS JOIN patterns AS pattern ON pattern.number = which GROUP BY pattern.alike"
)


def _days(calls: int, until_ms: int) -> Iterator[_Day]:
    """From the first day to the one of `until_ms`: ever more calls, fewer on weekends, the last day as far as it has come."""
    today = until_ms // DAY_MS
    spans = [DAY_MS] * (DAYS - 1) + [until_ms - today * DAY_MS + 1]
    days = range(today - DAYS + 1, today + 1)
    weights = [
        # 1970 began on a Thursday.
        span * (1 + number / DAYS) * (0.4 if (day + 3) % 7 >= 5 else 1) * random.Random(_SEED + day).uniform(0.75, 1.25)
        for number, (day, span) in enumerate(zip(days, spans, strict=True))
    ]
    whole, reached, first = sum(weights), 0.0, 0
    for day, span, weight in zip(days, spans, weights, strict=True):
        reached += weight
        after = round(calls * reached / whole)
        yield _Day(day * DAY_MS, span, first, after - first)
        first = after


def _write_day(connection: sqlite3.Connection, day: _Day) -> None:
    period_day, period_month = period_of(day.start_ms)
    given = {
        "first": day.first,
        "after": day.first + day.entries,
        "count": day.entries,
        "start": day.start_ms,
        "span": day.span_ms,
        "patterns": _PATTERNS,
        "day": period_day,
        "month": period_month,
    }
    connection.execute(_INSERT_ENTRIES, given)
    connection.execute(_INSERT_SUMS, given)


def _write_hours(connection: sqlite3.Connection, until_ms: int) -> None:
    """As far back as anybody looks; the mark says that all was summed, or the gateway would do it while it is looked at."""
    first_ms = (until_ms // HOUR_MS - _HOURS_KEPT) * HOUR_MS
    connection.execute(
        "INSERT INTO usage_hourly (hour, creator, feature, key_id, calls, cost_nano_usd)"
        " SELECT strftime('%Y-%m-%dT%H', created_at / 1000, 'unixepoch') AS hour, creator, feature, key_id,"
        " sum(final), sum(cost_nano_usd) FROM entries WHERE id >= ? AND kind = 'usage' GROUP BY 1, 2, 3, 4",
        (id_floor(first_ms),),
    )
    (last,) = connection.execute("SELECT max(id) FROM entries").fetchone()
    connection.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('usage_hourly_cursor', ?)", (last,))


def _write_anomalies(connection: sqlite3.Connection, until_ms: int, *, is_hostile: bool) -> None:
    """Two that were found, and what people were told of them."""
    ids = EntryIds()
    latest = (HOSTILE_CREATOR, HOSTILE[0], 3) if is_hostile else ("globex", "summaries", 3)
    for creator, feature, hours_ago in ((LARGEST, "drafts", 30), latest):
        anomaly_id, at_ms = ids.next(until_ms - hours_ago * HOUR_MS)
        found = {
            "id": anomaly_id,
            "creator": creator,
            "feature": feature,
            "metric": "cost_nano_usd",
            "hour": hour_of(at_ms),
            "value": 48 * 10**9,
            "median": 2 * 10**9,
            "deviation": 10**8,
            "often": 3 * 10**9,
            "threshold": 12 * 10**9,
            "hours": 400,
            "action": "notify",
            "details": json.dumps({"done_at": "2026-01-01T00:00:00.000Z"}),
            "created_at": at_ms,
        }
        _insert(connection, "anomalies", found)
        notice = {
            "id": f"ntc_{anomaly_id}",
            "kind": "anomaly.cost",
            "once": f"rows/{anomaly_id}",
            "creator": creator,
            "message": f"{creator} spent far more than usual on {feature}.",
            "data": json.dumps({"feature": feature, "hour": hour_of(at_ms)}),
            "created_at": at_ms,
        }
        _insert(connection, "notices", notice)


def _instants(at_ms: int) -> dict[str, Any]:
    day, month = period_of(at_ms)
    return {"admitted_at": at_ms, "created_at": at_ms, "period_day": day, "period_month": month}


def _insert(connection: sqlite3.Connection, table: str, values: Mapping[str, Any]) -> None:
    names: Sequence[str] = list(values)
    connection.execute(
        f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join(f':{name}' for name in names)})", dict(values)
    )
