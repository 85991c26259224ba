"""What a plan asks for is done, once, and in the measure of what is usual."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gateway.anomalies.actions import Brakes
from gateway.errors import PolicyDenied
from gateway.ledger.hourly import HOUR_MS
from gateway.ledger.periods import rfc3339
from tests.account_world import bearer
from tests.anomalies.hours import COST, Calls, FakeBrakes
from tests.anomalies.scene import Scene, open_scene
from tests.ledger.books import change


async def loud(scene: Scene, *usual: Calls, now: tuple[Calls, ...], hours: int = 24) -> None:
    await scene.book.hours(scene.now_ms, hours, *usual)
    await scene.book.hour(scene.now_ms, *now)


def details(scene: Scene, metric: str = "calls") -> dict[str, Any]:
    (found,) = (row["details"] for row in scene.anomalies() if row["metric"] == metric)
    return {name: value for name, value in found.items() if name != "done_at"}


FREE = {"cost_nano_usd": 0}


async def test_notify_does_no_more_than_tell(scene: Scene) -> None:
    await scene.creator(when_unusual="notify")
    await loud(scene, Calls(4), now=(Calls(40, **FREE),))
    await scene.detector().look()
    assert details(scene) == {}
    assert scene.told.kinds == ["anomaly.request_rate"]
    assert scene.throttles() == []
    assert scene.brakes.paused == []


# Slowing down


@pytest.mark.parametrize(
    ("usual", "expected"),
    [
        pytest.param((Calls(5),), 1, id="never less than one"),
        pytest.param((Calls(60),), 1, id="one a minute"),
        pytest.param((Calls(61),), 2, id="rounded up"),
        pytest.param((Calls(61), Calls(60, feature="other-one")), 3, id="whatever the feature"),
        pytest.param((Calls(61), Calls(90, "somebody")), 2, id="of this creator alone"),
    ],
)
async def test_throttle_slows_a_creator_down_to_its_usual_until_the_next_hour_ends(
    scene: Scene, usual: tuple[Calls, ...], expected: int
) -> None:
    await scene.creator(when_unusual="throttle")
    await loud(scene, *usual, now=(Calls(500, **FREE),), hours=3)
    await scene.detector(anomaly_hours_min=3).look()
    until_ms = scene.now_ms + 2 * HOUR_MS
    assert scene.throttles() == [("acme", expected, until_ms)]
    assert details(scene) == {"requests_per_minute": expected, "until_at": rfc3339(until_ms)}
    told = scene.told.notices[-1]
    assert told.kind == "creator.throttled"
    assert told.creator == "acme"
    assert told.data["requests_per_minute"] == expected
    assert told.data["until_at"] == datetime.fromtimestamp(until_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    assert f"{expected} request" in told.message


async def test_a_throttle_is_lifted_when_it_has_ended_and_not_before(scene: Scene) -> None:
    await scene.creator(when_unusual="throttle")
    await loud(scene, Calls(4), now=(Calls(40, **FREE),))
    detector = scene.detector()
    await detector.look()
    scene.go_on()
    await detector.look()
    assert len(scene.throttles()) == 1
    scene.go_on()
    await scene.detector().look()
    assert scene.throttles() == []
    assert scene.told.kinds == ["anomaly.request_rate", "creator.throttled"]


async def test_a_second_anomaly_of_the_hour_changes_and_tells_nothing(scene: Scene) -> None:
    await scene.creator(when_unusual="throttle")
    await loud(scene, Calls(4), now=(Calls(40),))
    await scene.detector().look()
    assert details(scene, "calls").keys() == {"requests_per_minute", "until_at"}
    assert details(scene, "cost_nano_usd")["skipped"] == "throttled_already"
    assert scene.told.kinds == ["anomaly.request_rate", "creator.throttled", "anomaly.cost"]


async def test_an_anomaly_of_the_next_hour_makes_it_last_longer(scene: Scene) -> None:
    await scene.creator(when_unusual="throttle")
    await loud(scene, Calls(4), now=(Calls(40, **FREE),))
    detector = scene.detector()
    await detector.look()
    scene.go_on()
    await scene.book.hour(scene.now_ms, Calls(40, **FREE))
    await detector.look()
    assert scene.throttles() == [("acme", 1, scene.now_ms + 2 * HOUR_MS)]
    assert scene.told.kinds.count("creator.throttled") == 2


async def test_a_throttle_an_admin_lifted_stays_lifted_for_that_hour(scene: Scene) -> None:
    await scene.creator(when_unusual="throttle")
    await loud(scene, Calls(4), now=(Calls(40, **FREE),))
    detector = scene.detector()
    await detector.look()
    await scene.brakes.lift_throttle("acme")
    await scene.book.hour(scene.now_ms + HOUR_MS - 60_000, Calls(10, **FREE))
    await detector.look()
    await scene.detector().look()
    assert scene.throttles() == []


async def test_what_comes_too_late_to_slow_anybody_down_is_only_told(scene: Scene) -> None:
    await scene.creator(when_unusual="throttle")
    await loud(scene, Calls(4), now=(Calls(40, **FREE),))
    broken = scene.brakes
    scene.brakes = FakeBrakes(scene.world.database, unknown=["acme"])
    await scene.detector().look()
    assert details(scene) == {"skipped": "creator_gone"}
    change(scene.world.path, "UPDATE anomalies SET details = '{}'")
    scene.brakes = broken
    scene.go_on(2)
    await scene.detector().look()
    assert details(scene) == {"skipped": "throttle_over"}
    assert scene.throttles() == []
    assert scene.told.kinds == ["anomaly.request_rate"]


# Pausing


async def keys_of(scene: Scene, *names: str, creator: str = "acme") -> dict[str, str]:
    """Name -> id of a key made for it."""
    return {name: (await scene.key(creator, name=name))["id"] for name in names}


async def test_pause_stops_the_key_that_makes_the_excess_and_not_a_quiet_one(scene: Scene) -> None:
    await scene.creator(when_unusual="pause")
    ids = await keys_of(scene, "loud", "quiet")
    usual = (Calls(10, key_id=ids["loud"]), Calls(10, key_id=ids["quiet"]))
    await loud(scene, *usual, now=(Calls(100, key_id=ids["loud"], **FREE), Calls(11, key_id=ids["quiet"], **FREE)))
    await scene.detector().look()
    assert scene.brakes.paused == [ids["loud"]]
    assert details(scene) == {"paused_keys": [ids["loud"]]}
    told = scene.told.notices[-1]
    assert (told.kind, told.creator, told.data["key_ids"]) == ("key.paused", "acme", [ids["loud"]])
    assert ids["quiet"] not in told.message


async def test_pause_knows_a_key_that_is_always_busy_from_one_that_grew(scene: Scene) -> None:
    await scene.creator(when_unusual="pause")
    ids = await keys_of(scene, "busy", "grew")
    usual = (Calls(100, key_id=ids["busy"]), Calls(1, key_id=ids["grew"]))
    await loud(scene, *usual, now=(Calls(100, key_id=ids["busy"], **FREE), Calls(90, key_id=ids["grew"], **FREE)))
    await scene.detector().look()
    assert scene.brakes.paused == [ids["grew"]]


async def test_pause_stops_as_many_keys_as_it_takes(scene: Scene) -> None:
    await scene.creator(when_unusual="pause")
    ids = await keys_of(scene, "a", "b", "c")
    usual = tuple(Calls(2, key_id=key_id) for key_id in ids.values())
    counts = {"a": 50, "b": 30, "c": 3}
    await loud(scene, *usual, now=tuple(Calls(counts[name], key_id=key_id, **FREE) for name, key_id in ids.items()))
    await scene.detector().look()
    assert scene.brakes.paused == [ids["a"], ids["b"]]
    assert f"{ids['a']}, {ids['b']} of creator 'acme' are paused" in scene.told.notices[-1].message


async def test_pause_goes_by_what_was_unusual(scene: Scene) -> None:
    """The dear key made the cost, though the cheap one made more calls."""
    await scene.creator(when_unusual="pause")
    ids = await keys_of(scene, "cheap", "dear")
    usual = (Calls(20, key_id=ids["cheap"]), Calls(2, key_id=ids["dear"]))
    now = (Calls(21, key_id=ids["cheap"]), Calls(2, key_id=ids["dear"], cost_nano_usd=100 * COST))
    await loud(scene, *usual, now=now)
    await scene.detector().look()
    assert scene.told.kinds == ["anomaly.cost", "key.paused"]
    assert scene.brakes.paused == [ids["dear"]]


async def test_a_revoked_key_is_left_alone(scene: Scene) -> None:
    await scene.creator(when_unusual="pause")
    ids = await keys_of(scene, "gone", "live")
    await scene.world.accounts.revoke_key(ids["gone"])
    now = (Calls(90, key_id=ids["gone"], **FREE), Calls(40, key_id=ids["live"], **FREE))
    await loud(scene, Calls(2, key_id=ids["gone"]), now=now)
    scene.brakes = FakeBrakes(scene.world.database, unknown=[ids["live"]])
    await scene.detector().look()
    assert details(scene) == {"paused_keys": []}
    assert scene.told.kinds == ["anomaly.request_rate"]


async def test_a_service_key_goes_on_for_the_others_and_the_creator_is_slowed_down(scene: Scene) -> None:
    """It is a whole application's: pausing it for one creator would silence all whom it acts for."""
    await scene.creator(when_unusual="pause")
    await scene.creator("app")
    service = (await scene.key("app", scopes=["act_for"]))["id"]
    await loud(scene, Calls(4, key_id=service), now=(Calls(40, key_id=service, **FREE),))
    await scene.detector().look()
    assert scene.brakes.paused == []
    assert scene.throttles() == [("acme", 1, scene.now_ms + 2 * HOUR_MS)]
    done = details(scene)
    assert (done["paused_keys"], done["spared_keys"], done["requests_per_minute"]) == ([], [service], 1)
    assert scene.told.kinds == ["anomaly.request_rate", "creator.throttled"]


async def test_pausing_twice_tells_once(scene: Scene) -> None:
    """As after a crash between the pause and the note that it was made."""
    await scene.creator(when_unusual="pause")
    ids = await keys_of(scene, "loud")
    await loud(scene, Calls(4, key_id=ids["loud"]), now=(Calls(40, key_id=ids["loud"], **FREE),))
    await scene.detector().look()
    change(scene.world.path, "UPDATE anomalies SET details = '{}'")
    await scene.detector().look()
    assert details(scene) == {"paused_keys": [ids["loud"]]}
    assert scene.told.kinds == ["anomaly.request_rate", "key.paused"]


# With the accounts that the gateway has


async def test_the_gateways_own_accounts_are_brakes_that_hold(tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene:
        brakes: Brakes = scene.world.accounts
        scene.brakes = brakes
        await scene.creator("slow", "throttle")
        await scene.creator("leaky", "pause")
        slow, leaky, other = [await scene.key(creator) for creator in ("slow", "leaky", "leaky")]
        usual = (Calls(4, "slow", key_id=slow["id"]), Calls(4, "leaky", key_id=leaky["id"]))
        now = tuple(call._replace(count=40, **FREE) for call in usual)
        await loud(scene, *usual, now=(*now, Calls(1, "leaky", key_id=other["id"], **FREE)))
        assert (await scene.world.account(slow)).plan.requests_per_minute != 1
        detector = scene.detector()
        await detector.look()
        assert (await scene.world.account(slow)).plan.requests_per_minute == 1
        with pytest.raises(PolicyDenied) as refused:
            await scene.world.authenticator.authenticate(bearer(leaky["key"]))
        assert refused.value.code == "key_paused"
        assert (await scene.world.account(other)).creator == "leaky"
        await scene.world.accounts.resume_key(leaky["id"])
        scene.go_on(2)
        await detector.look()
        assert (await scene.world.account(leaky)).creator == "leaky", "what was done once is not done again"
        assert (await scene.world.account(slow)).plan.requests_per_minute != 1
        assert scene.throttles() == []
