"""Rehearsals: histories small enough to be reckoned by hand, and random ones of which sums must agree."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.app import build_control_app
from gateway.cli import main
from gateway.ledger.records import Entry, Route
from gateway.plans import changed_plan, load_plans, plan_table, read_plan
from gateway.pricing import cost_nano_usd
from gateway.rehearsal import Rehearsals, RehearsalWish
from gateway.usage import NO_USAGE, Usage
from policies.types import Plan
from tests.clocked_gateway import HANG_S, USD, Answer, Clock, ClockedGateway, image_model, opened, utc
from tests.ledger.books import attribution, count

NOW = utc(2026, 5, 20, 12)
FIRST = utc(2026, 5, 20, 8)
CENT = USD // 100
PLANS = """
[plans.free]
requests_per_hour = "unlimited"
quota_usd_per_month = "unlimited"
budget_usd_per_month = "unlimited"
free_images_per_day = 0
payers = ["free_images", "promo_credits", "credits"]

[plans.bounded]
requests_per_hour = 2
quota_usd_per_month = 1
budget_usd_per_month = 0.50
tokens_per_minute = 1_000_000
concurrent_calls = 2
free_images_per_day = 2

[plans.other]
requests_per_hour = 1
"""
MODELS = image_model("gallery-priced", price="0.02", credits=3)


class Past:
    """A gateway whose ledger is written by the test, call by call."""

    def __init__(self, gateway: ClockedGateway) -> None:
        self.gateway = gateway
        self._calls = 0
        self.numbers = itertools.count(1)
        self._keys: dict[str, str] = {}

    async def creator(self, name: str = "ada", *, plan: str = "free", **overrides: Any) -> None:
        accounts = self.gateway.services.accounts
        await accounts.create_creator(name, plan=plan, overrides=overrides or None)
        self._keys[name] = (await accounts.create_key(name))["id"]

    def entry(
        self,
        at: datetime = FIRST,
        *,
        creator: str = "ada",
        model: str = "talk",
        served: str = "",
        output_tokens: int = 10_000,
        images: int = 0,
        latency_ms: int = 1_000,
        payer: tuple[str, str, int] | None = None,
        **changes: Any,
    ) -> Entry:
        """A call of `talk` costs a cent for 1 000 tokens of output, and so does one of `grand` for 100."""
        self._calls += 1
        served = served or model
        row = self.gateway.services.live.catalog.models.get(served)
        usage = Usage(pieces=images) if images else Usage(text_output=output_tokens)
        variant = "1024x1024/standard" if images else ""
        cost = 0 if row is None else cost_nano_usd(usage, row.price, variant)
        paid_by, unit, amount = payer or ("quota", "nano_usd", cost)
        who = attribution(
            f"r{self._calls:05}",
            creator=creator,
            at=at,
            key_id=self._keys[creator],
            requested_model=model,
            endpoint="images" if images else "chat",
        )
        made = Entry(
            who, Route(served, "mock", "1.x", paid_by, unit), 1, True, "usage", usage, "provider", cost,
            cost if paid_by == "quota" else 0, amount, "ok", "", "", 200, False, False, latency_ms, None, "", "", "", variant,
        )  # fmt: skip
        return made._replace(**changes)

    async def had(self, *entries: Entry) -> None:
        await self.gateway.services.database.ledger.post(list(entries))

    async def tried(self, changes: Mapping[str, Any], *, plan: str = "free", **options: Any) -> dict[str, Any]:
        return await self.rehearsed({plan: changed_plan(self.plans[plan], changes)}, **options)

    async def rehearsed(
        self,
        changed: Mapping[str, Plan],
        *,
        days: int = 10,
        creators: list[str] | None = None,
        now: datetime = NOW,
        **bounds: Any,
    ) -> dict[str, Any]:
        services, wish = self.gateway.services, RehearsalWish(changed, days, creators)
        return await Rehearsals(**bounds).rehearse(services.database, self.plans, services.live.catalog, wish, now)

    @property
    def plans(self) -> dict[str, Plan]:
        return dict(self.gateway.services.live.plans)


@pytest.fixture
async def past(tmp_path: Path) -> AsyncIterator[Past]:
    async with opened(tmp_path, Clock(NOW), plans=PLANS, models=MODELS) as gateway:
        yield Past(gateway)


def after(report: Mapping[str, Any]) -> tuple[int, int, int]:
    """Passed, downgraded, refused under the change."""
    tally = report["totals"]["after"]
    return tally["passed"], tally["downgraded"], tally["refused"]


def hours(*numbers: float) -> Iterable[datetime]:
    return [FIRST + timedelta(hours=number) for number in numbers]


# Reckoned by hand


async def test_a_quota_of_25_cents_refuses_the_third_call_of_ten_cents(past: Past) -> None:
    await past.creator()
    await past.had(*(past.entry(at) for at in hours(0, 1, 2, 3)))
    report = await past.tried({"quota_usd_per_month": "0.25"})
    totals = report["totals"]
    assert after(report) == (2, 0, 2)
    assert totals["after"]["refusals"] == [
        {"policy": "quota", "code": "insufficient_quota", "limit": "quota_usd_per_month", "calls": 2}
    ]
    assert totals["after"]["first_refused_at"] == "2026-05-20T10:00:00.000Z"
    assert (totals["booked_nano_usd"], totals["before"]["cost_nano_usd"]) == (40 * CENT, 40 * CENT)
    assert (totals["after"]["cost_nano_usd"], totals["saved_nano_usd"], totals["saved_usd"]) == (
        20 * CENT,
        20 * CENT,
        "0.2",
    )


async def test_a_budget_sends_calls_to_the_cheaper_model_at_its_price_for_the_same_tokens(past: Past) -> None:
    """`grand` costs ten times what `talk` does: 80 cents of budget hold one dollar call less than the next one."""
    await past.creator()
    await past.had(*(past.entry(at, model="grand", output_tokens=4_000) for at in hours(0, 1, 2)))
    report = await past.tried({"quota_usd_per_month": "1", "budget_usd_per_month": "auto"})
    assert after(report) == (2, 1, 0)
    tally = report["totals"]["after"]
    assert tally["downgrades"] == [
        {"from_model": "grand", "to_model": "talk", "limit": "budget_usd_per_month", "calls": 1}
    ]
    assert (tally["cost_nano_usd"], report["totals"]["saved_nano_usd"]) == (84 * CENT, 36 * CENT)
    assert tally["first_downgraded_at"] == "2026-05-20T10:00:00.000Z"


async def test_a_rate_limit_counts_a_rolling_hour(past: Past) -> None:
    await past.creator()
    await past.had(*(past.entry(at) for at in hours(0, 0.5, 0.9, 1.1, 1.2, 3)))
    assert after(await past.tried({"requests_per_hour": 2})) == (4, 0, 2)


async def test_calls_of_the_day_before_still_count_in_windows_and_are_not_in_the_figures(past: Past) -> None:
    await past.creator()
    midnight = utc(2026, 5, 20)
    await past.had(past.entry(midnight - timedelta(minutes=30)), past.entry(midnight - timedelta(hours=2)))
    await past.had(past.entry(midnight + timedelta(minutes=20)), past.entry(midnight + timedelta(minutes=40)))
    report = await past.tried({"requests_per_hour": 1}, days=1)
    assert (report["totals"]["calls"], after(report)) == (2, (1, 0, 1))


async def test_the_month_before_the_first_day_stands_as_it_was(past: Past) -> None:
    await past.creator()
    await past.had(past.entry(utc(2026, 5, 2)), past.entry(utc(2026, 4, 30)), past.entry(FIRST))
    assert after(await past.tried({"quota_usd_per_month": "0.19"}, days=1)) == (0, 0, 1)
    assert after(await past.tried({"quota_usd_per_month": "0.20"}, days=1)) == (1, 0, 0)


async def test_a_new_month_begins_with_nothing_used(past: Past) -> None:
    await past.creator()
    await past.had(past.entry(utc(2026, 4, 30, 23)), past.entry(utc(2026, 5, 1)))
    assert after(await past.tried({"quota_usd_per_month": "0.1"}, days=30)) == (2, 0, 0)


async def test_free_images_are_taken_first_and_then_credits(past: Past) -> None:
    """Two free images, then four credits at three an image: one more, and the last is refused."""
    await past.creator()
    await past.gateway.services.credits.grant("ada", payer="credits", credits=4)
    paid = ("credits", "credit", 1)
    await past.had(*(past.entry(at, model="gallery-priced", images=1, payer=paid) for at in hours(0, 1, 2, 3)))
    # What was spent in truth, of days that are rehearsed, is spent anew.
    report = await past.tried({"free_images_per_day": 2})
    assert after(report) == (3, 0, 1)
    assert report["totals"]["after"]["refusals"][0]["limit"] == "credits"


async def test_what_a_failed_image_took_is_given_back(past: Past) -> None:
    await past.creator()
    failed = past.entry(model="gallery-priced", images=1, payer=("free_images", "image", 0), outcome="upstream_error")
    await past.had(failed, *(past.entry(at, model="gallery-priced", images=1) for at in hours(1, 2)))
    assert after(await past.tried({"free_images_per_day": 1})) == (2, 0, 1)


async def test_calls_overlap_for_as_long_as_they_took(past: Past) -> None:
    await past.creator()
    starts = [FIRST + timedelta(seconds=second) for second in (0, 5, 9, 20)]
    await past.had(*(past.entry(at, latency_ms=8_000) for at in starts))
    report = await past.tried({"concurrent_calls": 1})
    assert after(report) == (3, 0, 1)
    assert report["totals"]["after"]["first_refused_at"] == "2026-05-20T08:00:05.000Z"


async def test_a_bigger_plan_refuses_nothing(past: Past) -> None:
    await past.creator(plan="bounded")
    await past.had(*(past.entry(at) for at in hours(0, 0.1, 0.2, 0.3)))
    bigger = {"requests_per_hour": None, "quota_usd_per_month": 100, "concurrent_calls": "unlimited"}
    report = await past.tried(bigger, plan="bounded")
    assert after(report) == (4, 0, 0)
    assert report["totals"]["before"]["refused"] == 2
    assert report["totals"]["saved_nano_usd"] == -20 * CENT


async def test_a_model_that_the_plan_would_not_include_is_refused(past: Past) -> None:
    await past.creator()
    await past.had(past.entry(), past.entry(model="grand"))
    report = await past.tried({"models": ["talk"]})
    assert after(report) == (1, 0, 1)
    assert report["totals"]["after"]["refusals"][0]["code"] == "model_not_allowed"


async def test_addresses_are_not_known_and_refuse_nobody(past: Past) -> None:
    await past.creator()
    await past.had(past.entry())
    assert after(await past.tried({"addresses": ["192.0.2.0/24"]})) == (1, 0, 0)


async def test_a_call_that_was_downgraded_in_truth_is_asked_for_as_it_was(past: Past) -> None:
    """Without the budget it would have been served by the requested model, at ten times the cost."""
    await past.creator(plan="bounded", budget_usd_per_month="0.05")
    await past.had(past.entry(model="grand", served="talk", output_tokens=5_000))
    report = await past.tried({"requests_per_hour": 3}, plan="bounded")
    assert (report["totals"]["before"]["downgraded"], report["totals"]["before"]["cost_nano_usd"]) == (1, 5 * CENT)


async def test_a_model_that_left_the_catalog_costs_what_it_cost(past: Past) -> None:
    await past.creator()
    await past.had(past.entry(model="gone", cost_nano_usd=7 * CENT, charge_nano_usd=7 * CENT))
    report = await past.tried({"quota_usd_per_month": "0.07"})
    assert (after(report), report["totals"]["after"]["cost_nano_usd"]) == ((1, 0, 0), 7 * CENT)
    assert after(await past.tried({"quota_usd_per_month": "0.06"})) == (0, 0, 1)


async def test_a_kept_answer_counts_as_a_request_and_costs_nothing(past: Past) -> None:
    await past.creator()
    hit = {"cached": True, "usage": NO_USAGE, "cost_nano_usd": 0, "charge_nano_usd": 0, "payer_amount": 0}
    await past.had(past.entry(**hit), past.entry(FIRST + timedelta(minutes=1), **hit))
    report = await past.tried({"requests_per_hour": 1, "quota_usd_per_month": 0})
    assert (after(report), report["totals"]["after"]["cost_nano_usd"]) == ((1, 0, 1), 0)


async def test_all_attempts_of_a_call_are_one_call(past: Past) -> None:
    await past.creator()
    first = past.entry(final=False, status=0)
    last = past.entry()
    await past.had(first, last._replace(attribution=first.attribution, attempt=2))
    report = await past.tried({"requests_per_hour": 1})
    assert (report["totals"]["calls"], report["totals"]["after"]["cost_nano_usd"]) == (1, 20 * CENT)


async def test_overrides_of_a_creator_stand_above_the_changed_plan(past: Past) -> None:
    await past.creator(requests_per_hour=5)
    await past.creator("bo")
    await past.had(*(past.entry(creator=name) for name in ("ada", "ada", "bo", "bo")))
    report = await past.tried({"requests_per_hour": 1})
    refused = {row["creator"]: row["after"]["refused"] for row in report["creators"]}
    assert refused == {"ada": 0, "bo": 1}


async def test_creators_of_other_plans_and_those_not_named_are_left_out(past: Past) -> None:
    for name, plan in (("ada", "free"), ("bo", "free"), ("cy", "other")):
        await past.creator(name, plan=plan)
        await past.had(past.entry(creator=name))
    assert {row["creator"] for row in (await past.tried({}))["creators"]} == {"ada", "bo"}
    assert [row["creator"] for row in (await past.tried({}, creators=["bo", "cy"]))["creators"]] == ["bo"]


async def test_what_was_refused_in_truth_stands_beside(past: Past) -> None:
    gateway = past.gateway
    key = await gateway.new_key("ada", plan="free", requests_per_hour=0)
    answer: Answer = await gateway.chat(key)
    assert answer.code == "rate_limit_exceeded"
    await _refusals_written(gateway)
    report = await past.tried({}, days=2)
    assert report["really_refused"] == {"rate_limit_exceeded": 1}


async def _refusals_written(gateway: ClockedGateway) -> None:
    """Counts of refusals are written a second later at most."""
    async with asyncio.timeout(HANG_S):
        while not count(gateway.path, "refusals_daily"):
            await gateway.services.database.run(lambda transactions: None)


# Bounds


async def test_too_many_entries_leave_the_oldest_days_out(past: Past) -> None:
    await past.creator()
    await past.had(*(past.entry(NOW - timedelta(days=day)) for day in range(5)))
    report = await past.tried({}, days=10, entries_max=3)
    assert (report["totals"]["calls"], report["days_left_out"], report["from"]) == (3, 7, "2026-05-18T00:00:00.000Z")
    assert report["complete"]


async def test_a_day_with_too_many_entries_is_not_complete(past: Past) -> None:
    await past.creator()
    await past.had(*(past.entry(at) for at in hours(0, 1, 2)))
    report = await past.tried({}, entries_max=2)
    assert (report["totals"]["calls"], report["complete"]) == (2, False)


async def test_when_the_time_is_over_the_answer_says_so(past: Past) -> None:
    await past.creator()
    await past.had(past.entry())
    report = await past.tried({}, time_max_s=0.0)
    assert (report["complete"], report["totals"]["calls"]) == (False, 0)


async def test_nothing_of_the_ledger_or_the_live_counters_is_touched(past: Past) -> None:
    key = await past.gateway.new_key("ada", plan="bounded")
    assert (await past.gateway.chat(key)).status == 200
    tables = ("entries", "holds", "usage_daily", "price_rows", "refusals_daily", "creators")

    async def state() -> tuple[list[int], dict[str, Any]]:
        limits = await past.gateway.limits(key)
        # When a window is free again is reckoned from now, and rounded to a second.
        used = {name: {**limit, "resets_at": None} for name, limit in limits.items()}
        return [count(past.gateway.path, table) for table in tables], used

    before = await state()
    report = await past.tried({"requests_per_hour": 0}, plan="bounded", now=NOW + timedelta(minutes=1))
    assert after(report) == (0, 0, 1)
    assert await state() == before
    assert (await past.gateway.chat(key)).status == 200


# Whatever happened

_CALL = st.tuples(
    st.integers(0, 12 * 24 * 60),
    st.integers(0, 1),
    st.sampled_from(["talk", "grand", "gone"]),
    st.integers(0, 20_000),
    st.integers(0, 600_000),
)
_CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "requests_per_hour": st.one_of(st.none(), st.integers(0, 5)),
        "tokens_per_minute": st.integers(0, 30_000),
        "concurrent_calls": st.integers(0, 2),
        "quota_usd_per_month": st.sampled_from(["0", "0.05", "0.3", "1"]),
        "budget_usd_per_month": st.sampled_from(["auto", "0.01", "0.2", "unlimited"]),
        "when_budget_reached": st.sampled_from(["downgrade", "deny"]),
    },
)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls=st.lists(_CALL, max_size=25), changes=_CHANGES)
async def test_random_histories_add_up_and_the_same_plan_makes_no_difference(
    past: Past, calls: Any, changes: Any
) -> None:
    """Each history has creators of its own, so that one gateway is enough."""
    names = [f"{name}-{next(past.numbers)}" for name in ("ada", "bo")]
    for name in names:
        await past.creator(name, plan="bounded")
    await past.had(
        *(
            past.entry(
                NOW - timedelta(minutes=ago), creator=names[whose], model=model, output_tokens=tokens, latency_ms=ms
            )
            for ago, whose, model, tokens, ms in calls
        )
    )
    same = await past.tried({}, plan="bounded", creators=names)
    changed = await past.tried(changes, plan="bounded", creators=names)
    assert same["totals"]["before"] == same["totals"]["after"]
    assert (same["totals"]["saved_nano_usd"], same["changes"], same["toml"]) == (0, {"bounded": {}}, "")
    _require_sums(same)
    _require_sums(changed)
    assert changed["totals"]["before"] == same["totals"]["before"]


def _require_sums(report: Mapping[str, Any]) -> None:
    for compared in (report["totals"], *report["creators"]):
        for tally in (compared["before"], compared["after"]):
            assert compared["calls"] == tally["passed"] + tally["downgraded"] + tally["refused"]
            assert tally["refused"] == sum(line["calls"] for line in tally["refusals"])
            assert tally["downgraded"] == sum(line["calls"] for line in tally["downgrades"])
            assert type(tally["cost_nano_usd"]) is int
        saved = compared["before"]["cost_nano_usd"] - compared["after"]["cost_nano_usd"]
        assert compared["saved_nano_usd"] == saved
    for name in ("calls", "saved_nano_usd", "booked_nano_usd"):
        assert sum(row[name] for row in report["creators"]) == report["totals"][name]
    for name in ("before", "after"):
        by_day = sum(day[f"{name}_nano_usd"] for day in report["by_day"])
        assert by_day == report["totals"][name]["cost_nano_usd"]


# Plans as data


def test_a_plan_told_as_a_table_is_the_same_plan(tmp_path: Path) -> None:
    for plan in load_plans().values():
        assert plan_table(read_plan(plan.name, plan_table(plan))) == plan_table(plan)


async def test_the_lines_for_the_file_make_the_changed_plan(past: Past) -> None:
    changes = {
        "requests_per_hour": None,
        "quota_usd_per_month": "2.5",
        "payers": ["quota"],
        "models": ['odd "name"'],
        "providers": {"mock": {"requests_per_minute": 3}},
    }
    wanted = changed_plan(past.plans["other"], changes)
    report = await past.rehearsed({"other": wanted})
    path = past.gateway.folder / "tried.toml"
    path.write_text(report["toml"])
    found = load_plans(path)["other"]
    assert {key: plan_table(found)[key] for key in changes} == {key: plan_table(wanted)[key] for key in changes}


# The route


@pytest.fixture
async def http(past: Past) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(build_control_app(past.gateway.services))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway", trust_env=False) as http:
        yield http


async def test_the_route_answers_with_the_report(past: Past, http: httpx.AsyncClient) -> None:
    await past.creator()
    await past.had(past.entry(), past.entry(FIRST + timedelta(minutes=1)))
    asked = {"plan": "free", "changes": {"requests_per_hour": 1}, "days": 2}
    answer = await http.post("/admin/rehearsals", json=asked)
    assert (answer.status_code, after(answer.json())) == (200, (1, 0, 1))
    whole = plan_table(changed_plan(past.plans["free"], {"requests_per_hour": 1}))
    same = await http.post("/admin/rehearsals", json={"plans": {"free": whole}, "days": 2, "creators": ["ada"]})
    assert same.json()["totals"] == answer.json()["totals"]


_UNUSABLE: tuple[tuple[dict[str, Any], str, str], ...] = (
    ({}, "invalid_value", "plan"),
    ({"plan": "nope"}, "plan_unknown", "plan"),
    ({"plans": {"nope": {}}}, "plan_unknown", "plans"),
    ({"plan": "free", "plans": {"free": {}}}, "invalid_value", "plans"),
    ({"plan": "free", "days": 91}, "invalid_value", "days"),
    ({"plan": "free", "days": 0}, "invalid_value", "days"),
    ({"plan": "free", "creators": []}, "invalid_value", "creators"),
)
_BAD_CHANGES: tuple[tuple[dict[str, Any], str], ...] = (
    ({"requests_per_hour": -1}, "changes.requests_per_hour: must be a whole number from 0 to 1000000000"),
    ({"quota_usd_per_month": 0.5}, "changes.quota_usd_per_month: is a JSON float"),
    ({"when_budget_reached": "cry"}, "changes.when_budget_reached: must be one of"),
    ({"request_per_hour": 1}, "changes.request_per_hour: unknown key"),
)


async def test_what_cannot_be_rehearsed_is_refused(http: httpx.AsyncClient) -> None:
    for asked, code, param in _UNUSABLE:
        answer = await http.post("/admin/rehearsals", json=asked)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (400, code, param), asked


async def test_a_bad_change_is_refused_in_the_words_of_the_plans_file(http: httpx.AsyncClient) -> None:
    for changes, message in _BAD_CHANGES:
        answer = await http.post("/admin/rehearsals", json={"plan": "free", "changes": changes})
        assert answer.status_code == 400
        assert answer.json()["error"]["message"].startswith(message)
        whole = await http.post("/admin/rehearsals", json={"plans": {"free": changes}})
        assert whole.json()["error"]["message"].startswith(message.replace("changes.", "plans.free."))


async def test_one_rehearsal_at_a_time(past: Past) -> None:
    await past.creator()
    rehearsals, services = Rehearsals(), past.gateway.services
    asked = services.database, past.plans, services.live.catalog, RehearsalWish({"free": past.plans["free"]}, 1), NOW
    running = rehearsals.rehearse(*asked)
    running.send(None)
    with pytest.raises(Exception, match="is running") as caught:
        await rehearsals.rehearse(*asked)
    assert (caught.value.status, caught.value.code) == (409, "rehearsal_running")  # type: ignore[attr-defined]
    running.close()
    assert (await rehearsals.rehearse(*asked))["complete"]


async def test_the_policies_are_told_with_their_creators_and_downgrades(past: Past, http: httpx.AsyncClient) -> None:
    await past.creator()
    found = (await http.get("/admin/policies")).json()
    assert {plan["name"]: plan["creators"] for plan in found["plans"]} == {"free": 1, "bounded": 0, "other": 0}
    assert found["mode"] == "enforce"
    assert {"model": "grand", "active": True, "to": ["talk"]} in found["downgrades"]


# The command


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Runs `gateway plans try` over a gateway of which `ada`, on the plan `free`, made two calls a moment ago: exit code and
    what was printed."""

    async def make() -> None:
        recently = datetime.now(UTC) - timedelta(minutes=1)
        async with opened(tmp_path, Clock(recently), plans=PLANS, models=MODELS) as gateway:
            key = await gateway.new_key("ada", plan="free")
            for _ in range(2):
                assert (await gateway.chat(key)).status == 200

    asyncio.run(make())
    for name, value in (("DATA_DIR", "data"), ("PLANS_FILE", "plans.toml"), ("PRICING_FILE", "pricing.toml")):
        monkeypatch.setenv(f"GATEWAY_{name}", str(tmp_path / value))
    capsys.readouterr()

    def run(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as caught:
            main(["plans", "try", *arguments])
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out + captured.err

    return run


def test_the_command_tries_a_plan_with_other_values_or_a_whole_file(
    run: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    code, printed = run(
        "--plan", "free", "--set", "requests_per_hour=1", "--set", "quota_usd_per_month=0.5", "--days", "2"
    )
    assert code == 0, printed
    assert '[plans.free]\nrequests_per_hour = 1\nquota_usd_per_month = "0.5"\n' in printed
    assert [line.split()[:5] for line in printed.splitlines() if line.startswith("ada")] == [
        ["ada", "2", "1", "0", "1"]
    ]

    other = tmp_path / "other.toml"
    other.write_text(PLANS.replace('requests_per_hour = "unlimited"', "requests_per_hour = 1"))
    code, printed = run(str(other), "--days", "2", "--json")
    report = orjson.loads(printed)
    assert (code, report["plans"], after(report)) == (0, ["free"], (1, 0, 1))


def test_the_command_says_what_it_cannot_try(run: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    same, wrong = tmp_path / "same.toml", tmp_path / "wrong.toml"
    same.write_text(PLANS)
    wrong.write_text("[plans.free]\nrequest_per_hour = 1\n")
    for arguments, code, words in (
        ((), 2, "give a FILE, or --plan and --set"),
        ((str(same), "--plan", "free"), 2, "give a FILE, or --plan and --set"),
        ((str(same),), 1, "changes no plan that is in force"),
        ((str(wrong),), 2, "unknown key"),
        (("--plan", "nope"), 1, "There is no such plan. Plans: free, bounded, other."),
        (("--plan", "free", "--set", "requests_per_hour=x"), 1, "changes.requests_per_hour: must be a whole number"),
    ):
        found = run(*arguments)
        assert found[0] == code, found
        assert words in found[1]
