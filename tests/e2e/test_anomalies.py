"""Hours out of the usual, and what is done about them: seen from outside, against histories reckoned by hand.

The floors are those of `TellingGateway`: five calls, one dollar; two hours with calls make a history, the factor is 6.
"""

import itertools
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.e2e.notices_world import Hour, TellingGateway, hour_back, says_tokens, within_an_hour
from tests.rig.client import Answer
from tests.rig.gateway import Key
from tests.rig.policy_world import CENT, USD
from tests.rig.upstream import Upstream
from tests.rig.waiting import soon

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def watched(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator["Watched"]:
    """Nobody is told: notices are recorded all the same."""
    gateway = TellingGateway(tmp_path_factory.mktemp("watched"), upstream)
    try:
        within_an_hour()
        gateway.start()
        yield Watched(gateway, upstream)
        gateway.audit()
        assert gateway.stop() == 0
    finally:
        gateway.close()


class Watched:
    """A gateway that looks often, and what the tests ask of it."""

    def __init__(self, gateway: TellingGateway, upstream: Upstream) -> None:
        self.gateway = gateway
        self.upstream = upstream

    def usual(self, key: Key, calls: Sequence[int], *, feature: str = "", cost_nano_usd: Sequence[int] = ()) -> None:
        """So many calls in hours of the last two weeks, of which some had none."""
        costs = cost_nano_usd or [0] * len(calls)
        hours = zip(calls, costs, strict=True)
        self.gateway.seed(
            *(Hour(3 * back, key.creator, feature, key.id, *figures) for back, figures in enumerate(hours, start=1))
        )

    def already(self, key: Key, calls: int, *, feature: str = "") -> None:
        """So many calls in the hour that runs: fewer than are unusual."""
        self.gateway.seed(Hour(0, key.creator, feature, key.id, calls))

    async def call(self, key: Key, feature: str = "", *, cents: int = 1, headers: Any = ()) -> Answer:
        labels = [("x-gateway-feature", feature)] if feature else []
        return await says_tokens(self.gateway, self.upstream, key, cents, headers=[*headers, *labels])

    async def calls(self, times: int, key: Key, feature: str = "", **more: Any) -> None:
        for _ in range(times):
            answer = await self.call(key, feature, **more)
            assert answer.status == 200, answer

    async def found(self, creator: str) -> dict[str, Any]:
        """The only anomaly of `creator`, once something was done about it."""
        await soon(lambda: any(row["details"] for row in self.of(creator)), f"an unusual hour of {creator}")
        (row,) = self.of(creator)
        return row

    def of(self, creator: str, **filters: object) -> list[dict[str, Any]]:
        return self.gateway.anomalies(creator=creator, **filters)

    async def looked(self) -> None:
        """Returns when every call that was answered before was looked at: an unusual hour of another one was found."""
        key = self.gateway.key_of(f"zz-{next(_numbers)}")
        self.usual(key, [1, 1])
        self.already(key, 5)
        await self.calls(1, key)
        await self.found(key.creator)

    def throttles(self) -> dict[str, dict[str, Any]]:
        return {row["creator"]: row for row in self.gateway.admin_json("GET", "/admin/throttles")["data"]}

    def key_status(self, key: Key) -> str:
        rows = self.gateway.admin_json("GET", f"/admin/creators/{key.creator}/keys")["data"]
        return str(next(row["status"] for row in rows if row["id"] == key.id))

    def told(self, kind: str, creator: str) -> list[dict[str, Any]]:
        return self.gateway.notices(kind=kind, creator=creator)


# The figures


async def test_the_figures_are_those_of_the_history_reckoned_by_hand(watched: Watched) -> None:
    """Sorted 2 3 4 4 5 9: median 4, distances 0 0 1 1 2 5, deviation 1; 4 + 6 x 1.4826 is 12.8956."""
    key = watched.gateway.key_of("by-hand")
    watched.usual(key, [3, 5, 4, 4, 9, 2], feature="search")
    watched.usual(key, [400, 500], feature="another")
    await watched.calls(12, key, "search")
    await watched.looked()
    assert watched.of("by-hand") == []
    await watched.calls(1, key, "search")
    row = await watched.found("by-hand")
    figures = {"value": 13, "median": 4, "deviation": 1, "often": 5, "threshold": 12}
    assert row.pop("id")
    assert row.pop("created_at").startswith(hour_back(0))
    assert row.pop("details").keys() == {"done_at"}
    assert row == {
        "creator": "by-hand",
        "feature": "search",
        "metric": "calls",
        "hour": hour_back(0),
        **figures,
        **{f"{name}_usd": None for name in figures},
        "hours": 6,
        "action": "notify",
    }
    (told,) = watched.told("anomaly.request_rate", "by-hand")
    assert told["data"].items() >= {f"{name}_calls": value for name, value in figures.items()}.items()


async def test_a_dear_hour_is_one_by_its_cost_alone(watched: Watched) -> None:
    """Sorted 50 80 100 100 150 cents: median 100, deviation 20, 95th percentile 100; 1 + 6 x 1.4826 x 0.2 is 2.77912."""
    key = watched.gateway.key_of("dear")
    watched.usual(key, [9] * 5, cost_nano_usd=[50 * CENT, 150 * CENT, 100 * CENT, 100 * CENT, 80 * CENT])
    await watched.calls(1, key, cents=278)
    row = await watched.found("dear")
    assert (row["metric"], row["value"], row["value_usd"]) == ("cost_nano_usd", 278 * CENT, "2.78")
    assert (row["median_usd"], row["deviation_usd"], row["often_usd"]) == ("1", "0.2", "1")
    assert (row["threshold"], row["threshold_usd"], row["hours"]) == (2_779_120_000, "2.77912", 5)
    assert watched.of("dear", metric="cost_nano_usd") == [row]
    assert watched.of("dear", metric="calls") == []
    (told,) = watched.told("anomaly.cost", "dear")
    assert (told["data"]["value_nano_usd"], told["data"]["often_nano_usd"]) == (278 * CENT, USD)


async def test_what_is_busy_every_day_is_no_accident_and_the_figure_that_says_so_is_shown(watched: Watched) -> None:
    key = watched.gateway.key_of("busy-by-day")
    watched.usual(key, [1] * 12 + [20] * 8)
    watched.already(key, 19)
    await watched.calls(1, key)
    await watched.looked()
    assert watched.of("busy-by-day") == []
    await watched.calls(1, key)
    row = await watched.found("busy-by-day")
    figures = {name: row[name] for name in ("value", "median", "deviation", "often", "threshold")}
    assert figures == {"value": 21, "median": 1, "deviation": 0, "often": 20, "threshold": 20}


async def test_small_numbers_and_short_histories_cry_no_wolf(watched: Watched) -> None:
    gateway = watched.gateway
    small, cheap, new, young, quiet = map(gateway.key_of, ("small", "cheap", "new", "young", "quiet"))
    watched.usual(small, [1, 1, 1])
    await watched.calls(5, small)  # five times the usual, and no more than the floor
    watched.usual(cheap, [9, 9, 9], cost_nano_usd=[1, 1, 1])
    await watched.calls(1, cheap, cents=100)  # a thousand million times the usual, and no more than the floor
    watched.usual(young, [1])
    for key in (new, young):
        await watched.calls(12, key)
    watched.usual(quiet, [500, 500, 500])
    await watched.calls(6, quiet)
    await watched.looked()
    assert [row for key in (small, cheap, new, young, quiet) for row in watched.of(key.creator)] == []


# Slowing down


async def test_a_throttled_creator_is_held_to_its_usual_pace_until_an_admin_lifts_it(watched: Watched) -> None:
    """Its hours have 180 calls, of both features: three a minute."""
    gateway = watched.gateway
    key = gateway.key_of("hasty", when_unusual="throttle")
    watched.usual(key, [100, 100], feature="search")
    watched.usual(key, [80, 80], feature="chat")
    watched.already(key, 160, feature="search")
    await watched.calls(1, key, "search")
    row = await watched.found("hasty")
    assert (row["value"], row["threshold"], row["action"]) == (161, 160, "throttle")
    until = (datetime.now(UTC) + timedelta(hours=2)).strftime("%Y-%m-%dT%H:00:00.000Z")
    assert row["details"] == {"requests_per_minute": 3, "until_at": until, "done_at": row["details"]["done_at"]}
    slowed = {"requests_per_minute": 3, "until_at": until}
    assert watched.throttles()["hasty"] == {"creator": "hasty", **slowed, "anomaly_id": row["id"]}
    assert gateway.admin_json("GET", "/admin/creators/hasty")["throttle"].items() >= slowed.items()
    (told,) = watched.told("creator.throttled", "hasty")
    assert told["data"].items() >= {**slowed, "anomaly_id": row["id"]}.items()

    assert [(await watched.call(key, feature)).status for feature in ("chat", "search")] == [200, 200]
    refused = await watched.call(key, "chat")
    assert (refused.status, refused.error["code"]) == (429, "rate_limit_exceeded")
    said = refused.error["metadata"]
    assert (said["name"], said["limit"]) == ("requests_per_minute", 3)
    assert 1 <= int(refused.header("retry-after") or 0) <= 61  # the window moves in steps

    assert gateway.admin_json("DELETE", "/admin/throttles/hasty") == {"creator": "hasty", "lifted": True}
    await watched.calls(2, key, "search")
    assert gateway.admin("DELETE", "/admin/throttles/hasty").status_code == 404
    assert gateway.admin_json("GET", "/admin/creators/hasty")["throttle"] is None
    await watched.looked()
    assert "hasty" not in watched.throttles()
    assert (await watched.found("hasty")) == row
    assert len(watched.told("creator.throttled", "hasty")) == 1


# Pausing


async def test_the_key_that_made_the_excess_is_paused_and_no_other_until_an_admin_resumes_it(watched: Watched) -> None:
    """Usual are 2 and 20 calls. With 20 of the larger key, as ever, the 16th of the other is one above 22 + 6 x 2.2."""
    gateway = watched.gateway
    culprit = gateway.key_of("two-keys", when_unusual="pause")
    quiet = gateway.new_key("two-keys")
    watched.usual(culprit, [2, 2])
    watched.usual(quiet, [20, 20])
    watched.already(quiet, 19)
    await watched.calls(1, quiet)
    await watched.calls(16, culprit)
    row = await watched.found("two-keys")
    assert (row["value"], row["median"], row["threshold"], row["action"]) == (36, 22, 35, "pause")
    assert row["details"] == {"paused_keys": [culprit.id], "done_at": row["details"]["done_at"]}
    (told,) = watched.told("key.paused", "two-keys")
    assert (told["data"]["key_ids"], told["data"]["anomaly_id"]) == ([culprit.id], row["id"])

    for answer in (await watched.call(culprit), await gateway.get(culprit, "/v1/models")):
        assert (answer.status, answer.error["code"]) == (403, "key_paused")
        assert answer.header("x-should-retry") == "false"
    await watched.calls(1, quiet)
    assert (watched.key_status(culprit), watched.key_status(quiet)) == ("paused", "active")

    assert gateway.admin_json("POST", f"/admin/keys/{culprit.id}/resume")["status"] == "active"
    await watched.calls(3, culprit)
    await watched.looked()
    assert watched.key_status(culprit) == "active"
    assert (await watched.found("two-keys")) == row
    assert len(watched.told("key.paused", "two-keys")) == 1


async def test_a_service_key_goes_on_and_the_creator_it_calls_for_is_slowed_down(watched: Watched) -> None:
    gateway = watched.gateway
    gateway.key_of("app")
    service = gateway.new_key("app", scopes=["act_for"])
    own = gateway.key_of("customer", when_unusual="pause")
    watched.usual(own, [1, 1])
    await watched.calls(6, service, headers=[("x-gateway-creator", "customer")])
    row = await watched.found("customer")
    assert row["details"].items() >= {"paused_keys": [], "spared_keys": [service.id], "requests_per_minute": 1}.items()
    for_customer = await watched.call(service, headers=[("x-gateway-creator", "customer")])
    assert (for_customer.status, for_customer.error["code"]) == (429, "rate_limit_exceeded")
    await watched.calls(2, service)
    assert watched.key_status(service) == watched.key_status(own) == "active"
    assert watched.told("key.paused", "customer") == []
