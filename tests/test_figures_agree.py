"""Every figure that people look at is the ledger's, to the nano-dollar: pages, JSON, CSV, the entries and `verify` agree.

Ledgers at random, posted by the real writer and the admin API; questions at random.
"""

import asyncio
import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from urllib.parse import urlencode

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.catalog import Price
from gateway.dashboard.explore import METRICS, column_title
from gateway.dashboard.figures import number, percent, usd_round
from gateway.dashboard.periods import label_of_day
from gateway.ledger.records import Outcome, Route
from gateway.pricing import cost_nano_usd
from gateway.usage import NO_USAGE, Usage
from tests.dashboard.world import Page, World, opened_dashboard
from tests.ledger.books import entry, rows

CREATORS = ("ada", "bo", "cy")
FEATURES = ("", "chat-ui", "search", "other")
PRICES = {
    "small": Price(version="1.a", input=1_250_001, cached_input=125_003, output=10_000_007),
    "big/v2": Price(version="2.b", input=7_777_777, cached_input=1, output=33_333_333),
}
TODAY = date(2026, 5, 20)
COLUMNS = {
    "input_tokens": "uncached_input + cached_input + cache_write + audio_input + image_input",
    "output_tokens": "text_output + reasoning + audio_output + image_output",
    "calls": "CASE WHEN final AND kind = 'usage' THEN 1 ELSE 0 END",
    "errors": "CASE WHEN final AND kind = 'usage' AND outcome NOT IN ('ok', 'client_gone') THEN 1 ELSE 0 END",
    "attempts": "1",
    "cached_input_tokens": "cached_input",
    "cost": "cost_nano_usd",
    "charge": "charge_nano_usd",
    "saved": "saved_nano_usd",
}
"""A sum as an entry has it, said again in SQL."""
GROUPS = {"model": "served_model", "creator": "creator", "feature": "feature", "provider": "provider", "kind": "kind",
          "payer": "payer", "outcome": "outcome", "cached": "cached"}  # fmt: skip


class Made(NamedTuple):
    """One call, and what came after it."""

    creator: str
    feature: str
    model: str
    days_ago: int
    usage: Usage
    outcome: Outcome
    is_cached: bool
    is_retried: bool
    """A first attempt, of another model, cost something as well."""
    refund: bool


class Question(NamedTuple):
    metric: str
    group: str
    split: str
    grain: str
    days_ago: int
    days: int
    top: int
    is_cumulative: bool
    creator: str


USAGES = st.builds(
    lambda uncached, cached, text, reasoning: Usage(uncached, cached, text_output=text, reasoning=reasoning),
    *[st.integers(0, 10_000)] * 4,
)
CALLS = st.builds(
    Made,
    st.sampled_from(CREATORS),
    st.sampled_from(FEATURES),
    st.sampled_from(sorted(PRICES)),
    st.integers(0, 80),
    USAGES,
    st.sampled_from(["ok", "client_gone", "upstream_died", "upstream_refused"]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
QUESTIONS = st.builds(
    Question,
    st.sampled_from(sorted(COLUMNS)),
    st.sampled_from(["none", *GROUPS]),
    st.sampled_from(["none", *GROUPS]),
    st.sampled_from(["day", "week", "month", "none"]),
    st.integers(0, 90),
    st.integers(1, 100),
    st.integers(1, 6),
    st.booleans(),
    st.sampled_from(["", *CREATORS]),
)
GRANTS = st.lists(st.tuples(st.sampled_from(CREATORS), st.integers(0, 80), st.integers(1, 10**9)), max_size=3)


@settings(max_examples=5)
@given(st.lists(CALLS, min_size=1, max_size=14), GRANTS, st.lists(QUESTIONS, min_size=6, max_size=6))
def test_pages_json_csv_entries_and_verify_agree(
    calls: list[Made], grants: list[tuple[str, int, int]], questions: list[Question]
) -> None:
    asyncio.run(_check(calls, grants, questions))


async def _check(calls: Sequence[Made], grants: Sequence[tuple[str, int, int]], questions: Iterable[Question]) -> None:
    with TemporaryDirectory() as folder:
        async with opened_dashboard(Path(folder), creators=(), has_calls=False) as world:
            for creator in CREATORS:
                await world.services.accounts.create_creator(creator, plan="open")
            await world.services.database.record_prices(PRICES)
            for n, call in enumerate(calls):
                await _post(world, f"req_{n}", call)
            for creator, days_ago, amount in grants:
                await _grant(world, creator, days_ago, amount)
            world.clock.turn_to(_noon(0))
            expired = await world.services.credits.expire_due(late_holds_s=0)
            assert len(expired) == sum(days_ago > 0 for _, days_ago, _ in grants)
            for question in questions:
                await _agree(
                    world, question._replace(split="none" if question.split == question.group else question.split)
                )
            for period, days in (("7d", 7), ("30d", 30), ("today", 1)):
                await _overview_agrees(world, period, TODAY - timedelta(days=days - 1))
            assert world.gateway.differences() == []


# What is in the ledger


async def _post(world: World, request_id: str, call: Made) -> None:
    at = _noon(call.days_ago)
    world.clock.turn_to(at)
    where: dict[str, Any] = {"creator": call.creator, "feature": call.feature, "requested_model": call.model, "at": at}
    usage = NO_USAGE if call.outcome == "upstream_refused" else call.usage
    cost = cost_nano_usd(usage, PRICES[call.model])
    route = Route(call.model, "mock", PRICES[call.model].version)
    amounts = {"cost_nano_usd": cost, "charge_nano_usd": cost, "payer_amount": cost}
    booked = []
    if call.is_cached:
        amounts = {**dict.fromkeys(amounts, 0), "cached": True, "saved_nano_usd": cost, "outcome": "ok"}
    elif call.is_retried:
        other = next(model for model in PRICES if model != call.model)
        first = cost_nano_usd(call.usage, PRICES[other])
        paid = {"cost_nano_usd": first, "charge_nano_usd": first, "payer_amount": first}
        changes = {"usage": call.usage, "route": Route(other, "other", PRICES[other].version), "final": False, **paid}
        booked.append(entry(request_id, changes={**changes, "outcome": "upstream_died"}, **where))
    changes = {"usage": usage, "route": route, "outcome": call.outcome, "attempt": 1 + len(booked), **amounts}
    booked.append(entry(request_id, changes=changes, **where))
    await world.services.database.ledger.post(booked)
    if call.refund and amounts["payer_amount"]:
        world.clock.advance(days=1)
        await world.admin_api("POST", f"/admin/ledger/{request_id}/refunds", json={"attempt": len(booked)})


async def _grant(world: World, creator: str, days_ago: int, amount: int) -> None:
    world.clock.turn_to(_noon(days_ago))
    at = f"/admin/creators/{creator}"
    await world.admin_api("POST", f"{at}/credits", json={"credits": amount % 1_000 + 1})
    sent = {"payer": "quota", "amount_usd": f"{amount // 10**9}.{amount % 10**9:09d}"}
    await world.admin_api("POST", f"{at}/adjustments", json=sent)
    promised = {"payer": "promo_credits", "credits": amount % 7 + 1, "expires_at": _noon(days_ago - 1).isoformat()}
    await world.admin_api("POST", f"{at}/credits", json=promised)


# What is shown of it


async def _agree(world: World, question: Question) -> None:
    first = TODAY - timedelta(days=question.days_ago)
    after = first + timedelta(days=question.days)
    entries = _summed(world, question, first, after)
    asked = {
        "metric": question.metric, "group": question.group, "split": question.split, "grain": question.grain,
        "from": first.isoformat(), "to": after.isoformat(), "top": str(question.top),
        "cumulative": str(int(question.is_cumulative)), "creator": question.creator,
    }  # fmt: skip
    page = await world.owner.get(f"/dashboard/explore?{urlencode(asked)}")
    assert page.status == 200, page.words
    export = next(href for href in page.hrefs if href.startswith("/dashboard/export/costs?"))
    _, _, query = export.partition("?")
    answer = await world.admin_api("GET", f"/admin/costs?{query}")
    field = METRICS[question.metric][1]
    assert answer["totals"][field] == sum(row[field] for row in answer["data"]) == sum(entries.values())
    groups = [name for name in (question.group, question.split) if name != "none"]
    assert _counted((_place(row, groups, question.grain), row[field]) for row in answer["data"]) == entries
    written = await _csv(world, export)
    assert [int(row[field]) for row in written] == [row[field] for row in answer["data"]]
    assert [[row[name] for name in groups] for row in written] == [
        [_as_text(row[name]) for name in groups] for row in answer["data"]
    ]
    _table_agrees(page, question, entries)


def _table_agrees(page: Page, question: Question, entries: Mapping[tuple[str, ...], int]) -> None:
    if not entries:
        assert "Nothing in the ledger fits." in page.words
        return
    (caption,) = [caption for caption in page.tables if caption.endswith("figures and totals")]
    table = page.tables[caption]
    (_, *headings), *lines = table.rows
    values = [[int(value or 0) for value in line[1:]] for line in table.values[1:]]
    totals = values.pop()
    assert totals[-1] == sum(totals[:-1]) == sum(entries.values())
    if question.is_cumulative:
        assert values[-1] == totals
        above = [[0] * len(totals), *values]
        values = [[new - old for new, old in zip(*pair, strict=True)] for pair in zip(values, above, strict=False)]
    assert [sum(column) for column in zip(*values, strict=True)] == totals
    assert all(line[-1] == sum(line[:-1]) for line in values)
    named = _in_table(entries, question)
    for line, amounts in zip(lines, values, strict=False):
        for heading, amount in zip(headings[:-1], amounts[:-1], strict=True):
            if not (heading.startswith("Other (") or line[0].startswith("Other (")):
                assert amount == named.pop((line[0], heading), 0)
    rest = [
        amount
        for line, amounts in zip(lines, values, strict=False)
        for heading, amount in zip(headings[:-1], amounts[:-1], strict=True)
        if heading.startswith("Other (") or line[0].startswith("Other (")
    ]
    assert sum(rest) == sum(named.values())


def _in_table(entries: Mapping[tuple[str, ...], int], question: Question) -> Counter[tuple[str, str]]:
    """By what the row and the column are called."""
    title = METRICS[question.metric][0]
    found: Counter[tuple[str, str]] = Counter()
    for (label, *names), amount in entries.items():
        if question.grain == "none":
            found[names[0] if names else "All", names[1] if len(names) > 1 else title] += amount
        else:
            found[label, " / ".join(names) or title] += amount
    return found


async def _overview_agrees(world: World, period: str, first: date) -> None:
    page = await world.finance.get(f"/dashboard/overview?period={period}&by=feature")
    assert page.status == 200, page.words
    after = TODAY + timedelta(days=1)
    sums = {
        metric: sum(_summed(world, Question(metric, "none", "none", "none", 0, 0, 1, False, ""), first, after).values())
        for metric in COLUMNS
    }
    hits = sum(
        amount
        for key, amount in _summed(
            world, Question("calls", "cached", "none", "none", 0, 0, 1, False, ""), first, after
        ).items()
        if key[1] == "cached"
    )
    tokens = sums["input_tokens"] + sums["output_tokens"]
    for label, value in (
        ("Spend", usd_round(sums["cost"])),
        ("Calls", number(sums["calls"])),
        ("Tokens", number(tokens)),
        ("Error rate", percent(sums["errors"], sums["calls"])),
        ("Saved by the cache", usd_round(sums["saved"])),
        ("Cache hits", percent(hits, sums["calls"])),
    ):
        assert " ".join(f"{label} {value}".split()) in page.words, (label, value, page.words)
    exact = [given["data-value"] for _, given in page.with_class("money")]
    assert exact[:2] == [str(sums["cost"]), str(sums["saved"])]
    (spend,) = [table for caption, table in page.tables.items() if caption.startswith("Spend a day")]
    assert sum(int(value or 0) for line in spend.values[1:] for value in line[1:]) == sums["cost"]
    creators = page.tables.get("Top creators")
    assert sum(int(line[1] or 0) for line in creators.values[1:]) == sums["cost"] if creators else sums["cost"] == 0


# What the entries say


def _summed(world: World, question: Question, first: date, after: date) -> Counter[tuple[str, ...]]:
    """From nothing but the table of entries: (label, group, sub-group) -> sum."""
    groups = [name for name in (question.group, question.split) if name != "none"]
    columns = ", ".join(["period_day", *(GROUPS[name] for name in groups), f"sum({COLUMNS[question.metric]})"])
    by = ", ".join(["period_day", *(GROUPS[name] for name in groups)])
    where = "period_day >= ? AND period_day < ?" + (" AND creator = ?" if question.creator else "")
    bound = [first.isoformat(), after.isoformat(), *([question.creator] if question.creator else [])]
    found: Counter[tuple[str, ...]] = Counter()
    for day, *names, amount in rows(
        world.gateway.path, f"SELECT {columns} FROM entries WHERE {where} GROUP BY {by}", *bound
    ):
        titles = [_title(group, name) for group, name in zip(groups, names, strict=True)]
        found[label_of_day(day, question.grain), *titles] += amount  # type: ignore[arg-type]
    return found


def _place(row: Mapping[str, Any], groups: Sequence[str], grain: str) -> tuple[str, ...]:
    label = row["month"] if grain == "month" else "" if grain == "none" else label_of_day(row["day"], grain)  # type: ignore[arg-type]
    return label, *(_title(group, row[group]) for group in groups)


def _title(group: str, value: Any) -> str:
    return column_title(bool(value) if group == "cached" else value, group)


def _counted(pairs: Iterable[tuple[tuple[str, ...], int]]) -> Counter[tuple[str, ...]]:
    found: Counter[tuple[str, ...]] = Counter()
    for key, amount in pairs:
        found[key] += amount
    return found


async def _csv(world: World, export: str) -> list[dict[str, str]]:
    answer = await world.owner.http.get(export)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/csv")
    return list(csv.DictReader(io.StringIO(answer.text, newline="")))


def _as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else value


def _noon(days_ago: int) -> datetime:
    return datetime(TODAY.year, TODAY.month, TODAY.day, 12, tzinfo=UTC) - timedelta(days=days_ago)
