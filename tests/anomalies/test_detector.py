"""Hours out of the usual are found, recorded and told once; what is usual, or little, or too young to be known is not."""

from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.anomalies import detector as detector_module
from gateway.errors import StoreError
from gateway.ledger.anomalies import Finding, record
from gateway.ledger.hourly import HOUR_MS, hour_of
from gateway.notices.base import Notice
from tests.anomalies.hours import COST, Calls, Told, post_at
from tests.anomalies.scene import Scene
from tests.ledger.books import change, count, entry, rows

BOTH = ["calls", "cost_nano_usd"]
ERRORS = pytest.mark.parametrize(
    "error", [StoreError("The disk is full."), ZeroDivisionError()], ids=["the store", "a fault of ours"]
)


def of_this_hour(scene: Scene, *metrics: str) -> list[tuple[str, str, str, str]]:
    return [("acme", "chat-ui", metric, scene.hour) for metric in metrics]


async def test_an_unusual_hour_is_recorded_and_told_with_all_its_figures(scene: Scene) -> None:
    await scene.creator()
    await scene.book.hours(scene.now_ms, 30, Calls(4))
    await scene.book.hour(scene.now_ms, Calls(40))
    await scene.detector().look()
    calls, cost = scene.anomalies()
    assert {name: value for name, value in calls.items() if name != "details"} == {
        "creator": "acme",
        "feature": "chat-ui",
        "metric": "calls",
        "hour": scene.hour,
        "value": 40,
        "median": 4,
        "deviation": 0,
        "often": 4,
        "threshold": 6,
        "hours": 30,
        "action": "notify",
    }
    assert (cost["metric"], cost["value"], cost["median"]) == ("cost_nano_usd", 40 * COST, 4 * COST)
    assert cost["threshold"] == 4 * COST + 6 * 4 * COST // 10
    assert all(row["details"].keys() == {"done_at"} for row in (calls, cost))
    rate, money = scene.told.notices
    assert (rate.kind, rate.creator) == ("anomaly.request_rate", "acme")
    assert rate.message == (
        f"Creator 'acme' made 40 calls with feature 'chat-ui' in the hour {scene.hour} (UTC), which is out of the usual: above "
        "6, as the median of its 30 earlier hours with calls is 4, their median absolute deviation 0 and their 95th percentile 4."
    )
    assert rate.data["value_calls"] == 40
    assert (rate.data["threshold_calls"], rate.data["hours"], rate.data["feature"]) == (6, 30, "chat-ui")
    assert money.kind == "anomaly.cost"
    assert (money.data["value_nano_usd"], money.data["value_usd"]) == (40 * COST, "0.04")
    assert "cost 0.04 USD" in money.message
    assert rate.data["anomaly_id"] in rate.once


async def test_an_hour_is_told_once_across_looks_and_restarts_and_the_next_one_anew(scene: Scene) -> None:
    await scene.creator()
    await scene.book.hours(scene.now_ms, 30, Calls(4))
    await scene.book.hour(scene.now_ms, Calls(40))
    first = scene.detector()
    await first.look()
    once = scene.anomalies()
    await first.look()
    await scene.book.hour(scene.now_ms + HOUR_MS // 2 + HOUR_MS // 4, Calls(1))
    await first.look()
    await scene.detector().look()
    assert scene.anomalies() == once
    assert scene.told.kinds == ["anomaly.request_rate", "anomaly.cost"]
    scene.go_on()
    await scene.book.hour(scene.now_ms + HOUR_MS // 3, Calls(50))
    await first.look()
    assert scene.found()[2:] == of_this_hour(scene, *BOTH)
    assert len(scene.told.notices) == 4


async def test_an_hour_as_usual_is_none(scene: Scene) -> None:
    await scene.creator()
    for back in range(30, 0, -1):
        await scene.book.hour(scene.now_ms - back * HOUR_MS, Calls(6 + back % 5))
    await scene.book.hour(scene.now_ms, Calls(14))
    await scene.detector().look()
    assert scene.anomalies() == []
    assert scene.told.notices == []


async def test_an_hour_above_the_usual_busy_ones_shows_the_figure_that_decided(scene: Scene) -> None:
    await scene.creator()
    for back in range(30, 0, -1):
        await scene.book.hour(scene.now_ms - back * HOUR_MS, Calls(30 if back % 3 == 0 else 1))
    await scene.book.hour(scene.now_ms, Calls(30))
    await scene.detector(anomaly_cost_usd_min=1).look()
    assert scene.anomalies() == []
    await scene.book.hour(scene.now_ms + HOUR_MS // 2 + HOUR_MS // 4, Calls(1))
    await scene.detector(anomaly_cost_usd_min=1).look()
    (row,) = scene.anomalies()
    assert (row["value"], row["median"], row["deviation"], row["often"], row["threshold"]) == (31, 1, 0, 30, 30)
    (told,) = scene.told.notices
    assert (told.data["often_calls"], told.data["threshold_calls"]) == (30, 30)


async def test_idle_hours_are_left_out(scene: Scene) -> None:
    """Whoever calls every third hour is not out of the usual then, though most hours of its history are empty."""
    await scene.creator()
    for back in range(90, 0, -3):
        await scene.book.hour(scene.now_ms - back * HOUR_MS, Calls(20))
    await scene.book.hour(scene.now_ms, Calls(21))
    await scene.detector().look()
    assert scene.anomalies() == []


@pytest.mark.parametrize(("hours", "known"), [(23, False), (24, True)])
async def test_nothing_is_unusual_before_enough_hours_with_calls_are_known(
    scene: Scene, hours: int, known: bool
) -> None:
    await scene.creator()
    for back in range(2 * hours, 0, -2):
        await scene.book.hour(scene.now_ms - back * HOUR_MS, Calls(1))
    await scene.book.hour(scene.now_ms, Calls(40))
    await scene.detector().look()
    assert bool(scene.anomalies()) is known


async def test_hours_before_the_history_are_not_looked_at(scene: Scene) -> None:
    await scene.creator()
    await scene.book.hours(scene.now_ms, 30, Calls(1))
    await scene.book.hour(scene.now_ms, Calls(40))
    await scene.detector(anomaly_history_days=2, anomaly_hours_min=30).look()
    assert [row["hours"] for row in scene.anomalies()] == [30, 30]
    scene.go_on()
    await scene.book.hour(scene.now_ms, Calls(40))
    await scene.detector(anomaly_history_days=1, anomaly_hours_min=25).look()
    assert len(scene.anomalies()) == 2
    await scene.detector(anomaly_history_days=1, anomaly_hours_min=24).look()
    assert [row["hours"] for row in scene.anomalies()[2:]] == [24, 24]


async def test_small_numbers_do_not_cry_wolf(scene: Scene) -> None:
    """The floors as they come: a hundred calls, and a dollar."""
    await scene.creator()
    defaults = {"anomaly_requests_min": 100, "anomaly_cost_usd_min": "1"}
    await scene.book.hours(scene.now_ms, 30, Calls(1, cost_nano_usd=10))
    await scene.book.hour(scene.now_ms, Calls(100, cost_nano_usd=10_000_000))
    detector = scene.detector(**defaults)
    await detector.look()
    assert scene.anomalies() == []
    await post_at(scene.world.database, [(scene.now_ms + HOUR_MS - 10, entry("last", feature="chat-ui"))])
    await detector.look()
    assert scene.found() == of_this_hour(scene, *BOTH)
    assert [row["threshold"] for row in scene.anomalies()] == [100, 10**9]


async def test_each_metric_counts_by_itself(scene: Scene) -> None:
    await scene.creator()
    await scene.book.hours(scene.now_ms, 30, Calls(4))
    await scene.book.hour(scene.now_ms, Calls(4, cost_nano_usd=30 * COST))
    detector = scene.detector()
    await detector.look()
    assert scene.found() == of_this_hour(scene, "cost_nano_usd")
    await scene.book.hour(scene.now_ms + HOUR_MS - 1_000, *[Calls(1, cost_nano_usd=0)] * 20)
    await detector.look()
    assert scene.found() == of_this_hour(scene, "cost_nano_usd", "calls")


async def test_only_the_feature_and_the_creator_that_are_loud_are_named(scene: Scene) -> None:
    for creator in ("acme", "zeta"):
        await scene.creator(creator)
    usual = [Calls(3, creator, feature) for creator in ("acme", "zeta") for feature in ("chat", "")]
    await scene.book.hours(scene.now_ms, 26, *usual)
    await scene.book.hour(scene.now_ms, *usual, Calls(30, "zeta", "", cost_nano_usd=0))
    await scene.detector().look()
    assert scene.found() == [("zeta", "", "calls", scene.hour)]
    assert "without a feature" in scene.told.notices[0].message


async def test_the_last_entries_of_an_hour_may_come_after_its_end(scene: Scene) -> None:
    await scene.creator()
    await scene.book.hours(scene.now_ms, 30, Calls(4))
    await scene.book.hour(scene.now_ms, Calls(4))
    detector = scene.detector()
    await detector.look()
    assert scene.anomalies() == []
    loud_hour = scene.hour
    late = [(scene.now_ms + HOUR_MS - 50 + index, entry(f"late{index}", feature="chat-ui")) for index in range(40)]
    await post_at(scene.world.database, late)
    scene.go_on()
    await scene.book.hour(scene.now_ms, Calls(1))
    await detector.look()
    assert {hour for *_, hour in scene.found()} == {loud_hour}
    assert [row["value"] for row in scene.anomalies() if row["metric"] == "calls"] == [44]


async def test_pages_and_a_full_memory_lose_nobody(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detector_module, "_PAGE_ROWS", 2)
    monkeypatch.setattr(detector_module, "_USUALS_MAX", 1)
    features = [f"f{index}" for index in range(5)]
    await scene.creator()
    await scene.book.hours(scene.now_ms, 24, *(Calls(1, feature=feature) for feature in features))
    await scene.book.hour(scene.now_ms, *(Calls(20, feature=feature, cost_nano_usd=0) for feature in features))
    detector = scene.detector()
    await detector.look()
    assert [feature for _, feature, *_ in scene.found()] == features
    assert len(detector._usuals) == 1


async def test_a_creator_whose_plan_is_gone_is_told_of_and_left_alone(scene: Scene) -> None:
    await scene.creator(when_unusual="pause")
    change(scene.world.path, "UPDATE creators SET plan = 'gone'")
    usual = [Calls(3), Calls(3, "nobody")]
    await scene.book.hours(scene.now_ms, 24, *usual)
    await scene.book.hour(scene.now_ms, Calls(30, cost_nano_usd=0), Calls(30, "nobody", cost_nano_usd=0))
    await scene.detector().look()
    assert [(row["creator"], row["action"]) for row in scene.anomalies()] == [("acme", "notify"), ("nobody", "notify")]
    assert scene.told.kinds == ["anomaly.request_rate"] * 2


# Crashes and failures


class Stumbling(Told):
    """Fails where a test says so, as a store does."""

    def __init__(self, told: Told, kind: str, error: Exception) -> None:
        super().__init__()
        self.notices = told.notices
        self._kind = kind
        self._error = error

    async def record(self, notice: Notice, **options: Any) -> bool:
        if notice.kind == self._kind:
            raise self._error
        return await super().record(notice, **options)


async def make_loud(scene: Scene, when_unusual: str = "throttle") -> None:
    await scene.creator(when_unusual=when_unusual)
    await scene.book.hours(scene.now_ms, 24, Calls(4))
    await scene.book.hour(scene.now_ms, Calls(40, cost_nano_usd=0))


@pytest.mark.parametrize("kind", ["anomaly.request_rate", "creator.throttled"])
@ERRORS
async def test_what_was_recorded_and_not_done_is_done_at_the_next_start(
    scene: Scene, kind: str, error: Exception
) -> None:
    await make_loud(scene)
    with capture_logs() as logs:
        await scene.detector(told=Stumbling(scene.told, kind, error)).look()
    assert [row["details"] for row in scene.anomalies()] == [{}]
    assert {log["event"] for log in logs if log["log_level"] == "error"} <= {
        "anomalies_failed",
        "anomaly_action_failed",
    }
    assert kind not in scene.told.kinds
    await scene.detector().look()
    (row,) = scene.anomalies()
    assert row["details"]["requests_per_minute"] == 1
    assert row["details"]["done_at"]
    assert scene.told.kinds == ["anomaly.request_rate", "creator.throttled"]
    assert len(scene.throttles()) == 1


@ERRORS
async def test_the_same_process_does_what_failed_at_its_next_look(scene: Scene, error: Exception) -> None:
    await make_loud(scene, "notify")
    stumbling = Stumbling(scene.told, "anomaly.request_rate", error)
    detector = scene.detector(told=stumbling)
    await detector.look()
    assert scene.told.notices == []
    stumbling._kind = ""
    await detector.look()
    assert scene.told.kinds == ["anomaly.request_rate"]


async def test_one_anomaly_that_cannot_be_acted_upon_does_not_keep_the_others(scene: Scene) -> None:
    await make_loud(scene, "throttle")
    known = Finding("zeta", "", "calls", scene.hour, 9, 1, 0, 1, 5, 24, "notify")
    await record(scene.world.database, known, 1)
    await scene.detector(told=Stumbling(scene.told, "creator.throttled", ZeroDivisionError())).look()
    assert [bool(row["details"]) for row in scene.anomalies()] == [True, False]


async def test_a_failed_store_is_logged_and_nothing_is_raised(scene: Scene) -> None:
    await make_loud(scene)
    detector = scene.detector()
    await scene.world.database.close()
    with capture_logs() as logs:
        await detector.look()
    assert [(log["event"], log["step"]) for log in logs] == [("anomalies_failed", "find")]


# Tidying up


async def test_hours_that_nobody_will_look_at_are_deleted_once_an_hour(scene: Scene) -> None:
    await scene.creator()
    detector = scene.detector(anomaly_history_days=1)
    await scene.book.hours(scene.now_ms, 25, Calls(1))
    await detector.look()
    scene.go_on(3)
    await detector.look()
    oldest = rows(scene.world.path, "SELECT min(hour) FROM usage_hourly")[0][0]
    assert oldest == hour_of(scene.now_ms - 26 * HOUR_MS)
    assert count(scene.world.path, "usage_hourly") == 23


async def test_usuals_of_past_hours_are_forgotten(scene: Scene) -> None:
    await make_loud(scene, "notify")
    detector = scene.detector()
    await detector.look()
    assert len(detector._usuals) == 1
    scene.go_on(2)
    await detector.look()
    assert detector._usuals == {}


async def test_names_that_never_were_hide_nothing(scene: Scene) -> None:
    """No feature is above its own usual, because none of them has one; the creator's calls are fifty times as many."""
    await scene.creator(when_unusual="pause")
    await scene.creator("calm")
    key = await scene.key()
    await scene.book.hours(scene.now_ms, 30, Calls(4, key_id=key["id"]), Calls(4, creator="calm"))
    several = [Calls(20, feature=f"new-{number}", key_id=key["id"]) for number in range(10)]
    await scene.book.hour(scene.now_ms, *several, Calls(2, creator="calm"), Calls(1, creator="calm", feature="new"))
    await scene.detector().look()
    assert scene.found() == [("acme", "*", metric, scene.hour) for metric in ("calls", "cost_nano_usd")]
    rate = scene.anomalies()[0]
    assert (rate["value"], rate["median"], rate["hours"]) == (200, 4, 30)
    assert rate["details"]["paused_keys"] == [key["id"]]
    assert "with all features together" in scene.told.notices[0].message


async def test_all_features_together_are_not_told_where_one_says_more(scene: Scene) -> None:
    await scene.creator()
    await scene.book.hours(scene.now_ms, 30, Calls(4), Calls(4, feature="search"))
    await scene.book.hour(scene.now_ms, Calls(40), Calls(4, feature="search"))
    detector = scene.detector()
    await detector.look()
    await detector.look()
    assert {feature for _, feature, _, _ in scene.found()} == {"chat-ui"}
