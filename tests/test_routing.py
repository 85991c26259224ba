"""Deployments: who comes first, who is left out, and for how long."""

from collections import Counter
from dataclasses import replace
from random import Random

import pytest

from gateway.catalog import Catalog, Deployment, Model, Price
from gateway.errors import UpstreamError
from gateway.providers.base import UpstreamFailure
from gateway.routing import Deployments, class_of_failure, class_of_status

ALONE = Model("talk", "openai", "talk-1", frozenset({"chat"}), Price("v", input=1, output=1))
CALLS = 4_000


def place(provider: str) -> Model:
    return replace(ALONE, provider=provider)


def several(*weights: int, sticky: bool = False) -> Model:
    """Deployments `p0`, `p1` ... of these weights."""
    found = tuple(Deployment(place(f"p{n}"), weight) for n, weight in enumerate(weights))
    return replace(ALONE, deployments=found, sticky=sticky)


class World:
    def __init__(self, failures_max: int = 3, open_s: float = 10.0) -> None:
        self.now = 100.0
        draw = Random(7).random
        self.of = Deployments(failures_max=failures_max, open_s=open_s, clock=lambda: self.now, draw=draw)

    def order(self, model: Model, creator: str = "acme") -> list[str]:
        return [each.provider for each in self.of.order(model, creator)]

    def fail(
        self, provider: str, times: int = 1, error: str = "server_error", retry_after_s: float | None = None
    ) -> None:
        for _ in range(times):
            self.of.failed(place(provider), error, retry_after_s)  # type: ignore[arg-type]


@pytest.fixture
def world() -> World:
    return World()


def test_a_model_without_deployments_is_its_own(world: World) -> None:
    assert list(world.of.order(ALONE, "acme")) == [ALONE]


def test_the_first_choice_follows_the_weights(world: World) -> None:
    model = several(3, 1)
    firsts = Counter(world.order(model)[0] for _ in range(CALLS))
    assert 0.72 < firsts["p0"] / CALLS < 0.78


def test_every_deployment_is_in_every_order_once(world: World) -> None:
    assert all(sorted(world.order(several(5, 1, 2))) == ["p0", "p1", "p2"] for _ in range(50))


def test_weight_nought_is_for_when_the_others_fail(world: World) -> None:
    assert all(world.order(several(0, 1, 1))[-1] == "p0" for _ in range(200))


def test_a_sticky_model_keeps_a_creator_and_shares_creators_by_weight(world: World) -> None:
    model = several(3, 1, sticky=True)
    assert len({tuple(world.order(model, "acme")) for _ in range(20)}) == 1
    firsts = Counter(world.order(model, f"c{n}")[0] for n in range(CALLS))
    assert 0.72 < firsts["p0"] / CALLS < 0.78


def test_a_rollout_moves_only_creators_who_have_to_move(world: World) -> None:
    before, after = several(90, 10, sticky=True), several(80, 20, sticky=True)
    moves = Counter((world.order(before, f"c{n}")[0], world.order(after, f"c{n}")[0]) for n in range(CALLS))
    assert moves["p1", "p0"] == 0
    assert 0.06 < moves["p0", "p1"] / CALLS < 0.14


def test_failures_in_a_row_open_a_circuit_and_a_success_between_does_not(world: World) -> None:
    model = several(1, 1)
    world.fail("p0", 2)
    world.of.succeeded(place("p0"))
    world.fail("p0", 2)
    assert sorted(world.order(model)) == ["p0", "p1"]
    world.fail("p0")
    assert world.order(model) == ["p1"]
    assert world.of.troubled() == ["p0/talk-1"]


def test_an_open_circuit_lets_one_call_try_after_its_time(world: World) -> None:
    model = several(1, 0)
    world.fail("p0", 3)
    world.now += 10.1
    assert world.order(model) == ["p0", "p1"]
    world.of.dials(place("p0"))
    assert world.order(model) == ["p1"]  # the one that tries is on its way
    world.now += 10.1
    world.of.dials(place("p0"))
    world.of.succeeded(place("p0"))
    assert world.order(model) == ["p0", "p1"]
    assert world.of.troubled() == []


def test_with_nobody_in_reach_the_wait_is_told(world: World) -> None:
    for provider in ("p0", "p1"):
        world.fail(provider, 3, "unreachable")
        world.now += 2
    with pytest.raises(UpstreamError) as caught:
        world.order(several(1, 1))
    assert (caught.value.status, caught.value.code, caught.value.headers["retry-after"]) == (503, "circuit_open", "7")
    world.now += 6.1
    assert world.order(several(1, 1)) == ["p0"]


@pytest.mark.parametrize("error", ["server_error", "timeout", "broken"])
def test_what_one_caller_may_provoke_takes_no_model_away_from_all(world: World, error: str) -> None:
    world.fail("openai", 50, error)
    assert world.order(ALONE) == ["openai"]
    for provider in ("p0", "p1"):
        world.fail(provider, 50, error)
    assert sorted(world.order(several(1, 1))) == ["p0", "p1"]


def test_a_lone_deployment_out_of_reach_fails_fast(world: World) -> None:
    world.fail("openai", 3, "unreachable")
    with pytest.raises(UpstreamError):
        world.order(ALONE)


def test_circuits_can_be_switched_off() -> None:
    world = World(failures_max=0)
    world.fail("openai", 100)
    assert world.order(ALONE) == ["openai"]


@pytest.mark.parametrize("error", ["rate_limit", "auth", "not_found", "request"])
def test_what_says_nothing_of_health_opens_no_circuit(world: World, error: str) -> None:
    world.fail("openai", 50, error)
    assert world.order(ALONE) == ["openai"]


@pytest.mark.parametrize(("asked", "cool_s"), [(None, 5.0), (2.0, 2.0), (1e9, 60.0), (0.0, 0.0)])
def test_a_limited_deployment_comes_after_the_others_for_as_long_as_it_asked(
    world: World, asked: float | None, cool_s: float
) -> None:
    model = several(1, 0)
    world.fail("p0", 1, "rate_limit", asked)
    if cool_s:
        world.now += cool_s - 0.1
        assert world.order(model) == ["p1", "p0"]
    world.now += 0.2
    assert world.order(model) == ["p0", "p1"]


def test_admins_see_every_deployment_once_with_its_models_and_state(world: World) -> None:
    shared = replace(several(1, 1), name="other")
    catalog = Catalog(
        "v", {}, {"talk": several(1, 1), "other": shared, "off": replace(ALONE, name="off", active=False)}
    )
    world.fail("p0", 3)
    world.fail("p1", 1, "rate_limit", 20.0)
    lines = {line["provider"]: line for line in world.of.state(catalog)}
    assert lines.keys() == {"p0", "p1"}
    assert lines["p0"] == {
        "provider": "p0",
        "upstream_model": "talk-1",
        "models": ["talk", "other"],
        "state": "open",
        "retry_in_s": 10.0,
        "troubled_for_s": 0.0,
        "failures_in_a_row": 3,
        "last_error": "server_error",
    }
    assert (lines["p1"]["state"], lines["p1"]["retry_in_s"]) == ("cooling_down", 20.0)
    world.now += 30
    assert [line["state"] for line in world.of.state(catalog)] == ["half_open", "ok"]
    assert [line["troubled_for_s"] for line in world.of.state(catalog)] == [30.0, 30.0]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, "request"),
        (422, "request"),
        (401, "auth"),
        (402, "auth"),
        (403, "auth"),
        (404, "not_found"),
        (429, "rate_limit"),
        (500, "server_error"),
        (529, "server_error"),
    ],
)
def test_classes_of_statuses(status: int, error: str) -> None:
    assert class_of_status(status) == error


def test_classes_of_failures() -> None:
    classes = {
        kind: class_of_failure(UpstreamFailure(kind, "", is_sent=False, is_fully_sent=False))  # type: ignore[arg-type]
        for kind in ("unreachable", "died", "first_byte_timeout", "idle_timeout", "total_timeout", "invalid")
    }
    assert classes == {
        "unreachable": "unreachable",
        "died": "broken",
        "first_byte_timeout": "timeout",
        "idle_timeout": "timeout",
        "total_timeout": "timeout",
        "invalid": "broken",
    }
