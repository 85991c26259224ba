"""The metrics page: it parses, it adds up, and its label sets are closed."""

from typing import Any

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from gateway.ledger.gauges import Figures
from gateway.ledger.records import Route
from gateway.metrics import Metrics
from gateway.usage import Usage
from tests.ledger.books import COST, MODEL, USAGE, entry

ROUTE_LABELS = {"endpoint", "model", "provider"}
LABELS = {
    "gateway_ready": set(),
    "gateway_calls_in_flight": set(),
    "gateway_degraded": {"what"},
    "gateway_instances": set(),
    "gateway_is_leader": set(),
    "gateway_spooled_settles": set(),
    "gateway_deployment_up": {"provider", "model"},
    "gateway_ledger_day_cost_nano_usd": set(),
    "gateway_ledger_month_cost_nano_usd": set(),
    "gateway_ledger_month_charge_nano_usd": set(),
    "gateway_ledger_open_holds": set(),
    "gateway_ledger_oldest_hold_seconds": set(),
    "gateway_refused": {"endpoint", "code"},
    "gateway_rejected": {"endpoint", "code"},
    "gateway_failed_attempts": {"provider", "error"},
    "gateway_cache_lookups": {"result"},
    "gateway_cache_saved_nano_usd": set(),
    "gateway_idempotent_replays": set(),
    "gateway_calls": ROUTE_LABELS | {"outcome"},
    "gateway_cost_nano_usd": ROUTE_LABELS,
    "gen_ai_client_token_usage": ROUTE_LABELS | {"gen_ai_token_type"},
    "gen_ai_server_request_duration_seconds": ROUTE_LABELS,
    "gen_ai_server_time_to_first_token_seconds": ROUTE_LABELS,
}


def metrics(*, in_flight: int = 0, is_ready: bool = True) -> Metrics:
    return Metrics(calls_in_flight=lambda: in_flight, is_ready=lambda: is_ready)


def parsed(of: Metrics) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(of.render().decode())}


def value(of: Metrics, name: str, **labels: str) -> float:
    """The only sample of this name with these labels."""
    samples = [sample for family in parsed(of).values() for sample in family.samples if sample.name == name]
    (found,) = [sample for sample in samples if labels.items() <= sample.labels.items()]
    return float(found.value)


def streamed(**changes: Any) -> Any:
    return entry("r", changes={"is_streaming": True, "ttft_ms": 40, **changes})


def test_a_page_of_nothing_has_every_family() -> None:
    families = parsed(metrics(in_flight=3, is_ready=False))
    assert families.keys() == LABELS.keys()
    assert families["gateway_calls_in_flight"].samples[0].value == 3
    assert families["gateway_ready"].samples[0].value == 0


def test_the_labels_are_these_and_never_a_creator() -> None:
    page = metrics()
    for creator in ("acme", "zeta"):
        page.finished(entry(creator, creator=creator), 0.3)
        page.finished(streamed(), 0.3)
        page.refused("chat", "insufficient_quota")
        page.rejected("chat", "invalid_api_key")
        page.failed_attempt("openai", "rate_limit")
    page._deployments = lambda: {("openai", "gpt-4o"): True}
    page._figures = Figures(1, 2, 3, 4, 5.0)
    for name, family in parsed(page).items():
        assert family.samples, name
        for sample in family.samples:
            assert sample.labels.keys() - {"le"} == LABELS[name], sample
    text = page.render()
    for secret in (b"acme", b"zeta", b"k" * 12):
        assert secret not in text


def test_calls_money_and_tokens_add_up() -> None:
    page = metrics()
    page.finished(entry("a"), 0.3)
    page.finished(entry("b"), 0.3)
    page.finished(entry("c", changes={"outcome": "client_gone", "usage": Usage(), "cost_nano_usd": 0}), 0.3)
    route = {"endpoint": "chat", "model": MODEL, "provider": "openai"}
    assert value(page, "gateway_calls_total", outcome="ok", **route) == 2
    assert value(page, "gateway_calls_total", outcome="client_gone", **route) == 1
    assert value(page, "gateway_cost_nano_usd_total", **route) == 2 * COST
    tokens = "gen_ai_client_token_usage_total"
    assert value(page, tokens, gen_ai_token_type="input", **route) == 2 * USAGE.input_tokens
    assert value(page, tokens, gen_ai_token_type="output", **route) == 2 * USAGE.output_tokens


def test_routes_are_counted_apart() -> None:
    page = metrics()
    page.finished(entry("a"), 0.3)
    page.finished(entry("b", changes={"route": Route("other", "openai", "1")}), 0.3)
    assert value(page, "gateway_calls_total", model=MODEL) == 1
    assert value(page, "gateway_calls_total", model="other") == 1


def test_durations_fall_into_buckets_that_only_grow() -> None:
    page = metrics()
    for seconds in (0.01, 0.011, 3.0, 5_000.0):
        page.finished(entry("a"), seconds)
    name = "gen_ai_server_request_duration_seconds"
    buckets = {
        sample.labels["le"]: sample.value for sample in parsed(page)[name].samples if sample.name == f"{name}_bucket"
    }
    assert (buckets["0.01"], buckets["0.02"], buckets["2.0"], buckets["5.0"]) == (1, 2, 2, 3)
    assert (buckets["320.0"], buckets["+Inf"]) == (3, 4)
    assert list(buckets.values()) == sorted(buckets.values())
    assert value(page, f"{name}_count") == 4
    assert value(page, f"{name}_sum") == 0.01 + 0.011 + 3.0 + 5_000.0


def test_only_streams_that_began_have_a_first_token() -> None:
    page = metrics()
    name = "gen_ai_server_time_to_first_token_seconds"
    page.finished(entry("whole", changes={"ttft_ms": 40}), 0.3)
    page.finished(streamed(ttft_ms=None), 0.3)
    assert value(page, f"{name}_count") == 0
    page.finished(streamed(), 0.3)
    assert value(page, f"{name}_count") == 1
    assert value(page, f"{name}_sum") == 0.04


def test_codes_are_bounded() -> None:
    page = metrics()
    for number in range(1_000):
        page.rejected("chat", f"code_{number}")
        page.rejected("chat", "code_0")
        page.refused("chat", f"code_{number}")
    for name in ("gateway_rejected", "gateway_refused"):
        samples = parsed(page)[name].samples
        assert len(samples) <= 65
        assert any(sample.labels["code"] == "other" for sample in samples)
    assert value(page, "gateway_rejected_total", code="code_0") == 1_001


def test_a_code_with_anything_in_it_does_not_break_the_page() -> None:
    page = metrics()
    code = 'a"b\\c\nd}'
    page.rejected("chat", code)
    assert value(page, "gateway_rejected_total", code=code) == 1


def test_kept_answers_are_counted_with_what_they_saved() -> None:
    page = metrics()
    page.cache_looked_up(is_hit=True)
    page.cache_looked_up(is_hit=False)
    page.cache_looked_up(is_hit=False)
    page.replayed()
    page.finished(entry("hit", changes={"cached": True, "cost_nano_usd": 0, "saved_nano_usd": 2_700}), 0.001)
    page.finished(entry("miss"), 0.3)
    assert value(page, "gateway_cache_lookups_total", result="hit") == 1
    assert value(page, "gateway_cache_lookups_total", result="miss") == 2
    assert value(page, "gateway_cache_saved_nano_usd_total") == 2_700
    assert value(page, "gateway_idempotent_replays_total") == 1


def test_what_is_said_of_trouble_and_of_the_others_is_asked_at_each_scrape() -> None:
    degraded = {"counters": True, "clock": False}
    page = Metrics(
        calls_in_flight=lambda: 0,
        is_ready=lambda: True,
        degraded=lambda: degraded,
        instances=lambda: 3,
        is_leader=lambda: False,
        spooled_settles=lambda: 17,
    )
    assert [value(page, "gateway_degraded", what=what) for what in ("counters", "database", "clock")] == [1, 0, 0]
    degraded["database"] = True
    assert value(page, "gateway_degraded", what="database") == 1
    assert value(page, "gateway_instances") == 3
    assert value(page, "gateway_is_leader") == 0
    assert value(page, "gateway_spooled_settles") == 17


def test_a_process_of_its_own_leads_and_is_well() -> None:
    page = metrics()
    assert {sample.value for sample in parsed(page)["gateway_degraded"].samples} == {0}
    assert (value(page, "gateway_instances"), value(page, "gateway_is_leader")) == (1, 1)


def test_a_deployment_is_down_as_long_as_it_is_not_tried() -> None:
    up = {("openai", "gpt-4o"): True, ("mock", "mock-1"): False}
    page = Metrics(calls_in_flight=lambda: 0, is_ready=lambda: True, deployments=lambda: up)
    assert value(page, "gateway_deployment_up", provider="openai", model="gpt-4o") == 1
    assert value(page, "gateway_deployment_up", provider="mock", model="mock-1") == 0


def test_what_the_database_does_not_tell_has_no_sample() -> None:
    families = parsed(metrics())
    assert [family for name, family in families.items() if name.startswith("gateway_ledger_") and family.samples] == []
