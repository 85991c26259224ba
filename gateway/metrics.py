"""Prometheus metrics. Label sets are closed: endpoints, models and providers of the catalog, outcomes; never a creator.

Money per creator is the ledger's business. Names follow OpenTelemetry's GenAI conventions where it has one
(`gen_ai_*`, seconds and tokens), and `gateway_*` elsewhere. Counts are kept as plain integers and become metric families
only when somebody scrapes: a call costs half a microsecond here instead of five.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.ledger.gauges import Figures
from gateway.ledger.records import Entry

if TYPE_CHECKING:
    from gateway.ledger.gauges import LedgerGauges
    from gateway.siblings import Siblings

_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0)
_CODES_MAX = 64
_DEGRADED = {"counters": False, "database": False, "clock": False}
_ROUTE = ("endpoint", "model", "provider")

_LEDGER_GAUGES = {
    "day_cost_nano_usd": "Provider cost of all calls of this day (UTC), in 1e-9 USD, from the ledger.",
    "month_cost_nano_usd": "The same of this month.",
    "month_charge_nano_usd": "What creators owe for this month so far, in 1e-9 USD, from the ledger.",
    "open_holds": "Calls that are admitted and not settled, in the database.",
    "oldest_hold_seconds": "Age of the oldest of them.",
}

_RouteKey = tuple[str, str, str]


class Metrics(Collector):
    """Lifetime: the process. Belongs to the event loop; `render` must run there too.

    What it asks when somebody scrapes: `degraded` tells of `counters`, `database` and `clock` whether they work by the
    rule for trouble; `instances` how many processes are alive; `spooled_settles` how many wait on local disk;
    `deployments` of each provider and upstream model whether it is tried.
    """

    siblings: "Siblings | None" = None
    """The other workers of the same `serve`, whose numbers stand on the same page."""
    ledger: "LedgerGauges | None" = None
    """What the database tells; without it, nothing of that stands on the page."""

    def __init__(
        self,
        *,
        calls_in_flight: Callable[[], int],
        is_ready: Callable[[], bool],
        degraded: Callable[[], Mapping[str, bool]] = dict,
        instances: Callable[[], int] = lambda: 1,
        is_leader: Callable[[], bool] = lambda: True,
        spooled_settles: Callable[[], int] = lambda: 0,
        deployments: Callable[[], Mapping[tuple[str, str], bool]] = dict,
    ) -> None:
        self._calls_in_flight = calls_in_flight
        self._is_ready = is_ready
        self._degraded = degraded
        self._instances = instances
        self._is_leader = is_leader
        self._spooled_settles = spooled_settles
        self._deployments = deployments
        self._figures: Figures | None = None
        self._routes: dict[_RouteKey, _Series] = {}
        self._refused: dict[tuple[str, str], int] = {}
        self._rejected: dict[tuple[str, str], int] = {}
        self._failed_attempts: dict[tuple[str, str], int] = {}
        self._cache_lookups = {"hit": 0, "miss": 0}
        self._saved_nano_usd = 0
        self._replays = 0
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def finished(self, entry: Entry, duration_s: float) -> None:
        """One admitted call has ended."""
        series = self.spent(entry)
        series.calls[entry.outcome] = series.calls.get(entry.outcome, 0) + 1
        self._saved_nano_usd += entry.saved_nano_usd
        series.duration.observe(duration_s)
        if entry.is_streaming and entry.ttft_ms is not None:
            series.ttft.observe(entry.ttft_ms / 1000)

    def spent(self, entry: Entry) -> "_Series":
        """What one attempt cost, whether or not it was the call's last."""
        key = (entry.attribution.endpoint, entry.route.served_model, entry.route.provider)
        series = self._routes.get(key)
        if series is None:
            series = self._routes[key] = _Series()
        series.cost_nano_usd += entry.cost_nano_usd
        series.input_tokens += entry.usage.input_tokens
        series.output_tokens += entry.usage.output_tokens
        return series

    def refused(self, endpoint: str, code: str) -> None:
        """A policy said no before the dial."""
        _count(self._refused, endpoint, code)

    def rejected(self, endpoint: str, code: str) -> None:
        """A request was answered with an error before admission, refusals included."""
        _count(self._rejected, endpoint, code)

    def failed_attempt(self, provider: str, error: str) -> None:
        """A deployment failed at no cost, and another attempt followed. `error` is one of a few classes."""
        key = (provider, error)
        self._failed_attempts[key] = self._failed_attempts.get(key, 0) + 1

    def cache_looked_up(self, *, is_hit: bool) -> None:
        """A call wanted a kept answer."""
        self._cache_lookups["hit" if is_hit else "miss"] += 1

    def replayed(self) -> None:
        """A call with a known `Idempotency-Key` got the first one's answer."""
        self._replays += 1

    async def page(self) -> bytes:
        """What `/metrics` answers: of every worker that there are several of, or of the only process."""
        own = await self.own_page()
        return own if self.siblings is None else await self.siblings.page_with(own)

    async def own_page(self) -> bytes:
        """`render`, with what the database tells now."""
        await self.read_ledger()
        return self.render()

    async def read_ledger(self) -> None:
        """What the database tells now is what `collect` has."""
        self._figures = None if self.ledger is None else await self.ledger.read()

    def render(self) -> bytes:
        """This process's numbers in the text exposition format, and what the database told last."""
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily("gateway_ready", "1 while new calls are taken.", float(self._is_ready()))
        yield GaugeMetricFamily("gateway_calls_in_flight", "Calls being served now.", float(self._calls_in_flight()))
        degraded = GaugeMetricFamily(
            "gateway_degraded", "1 while this part works by the rule for trouble.", labels=("what",)
        )
        for what, is_degraded in (_DEGRADED | dict(self._degraded())).items():
            degraded.add_metric((what,), float(is_degraded))
        yield degraded
        yield GaugeMetricFamily("gateway_instances", "Processes that are alive, this one included.", self._instances())
        yield GaugeMetricFamily(
            "gateway_is_leader", "1 in the process that does what is done once.", float(self._is_leader())
        )
        yield GaugeMetricFamily(
            "gateway_spooled_settles", "Settles on local disk that wait for the database.", self._spooled_settles()
        )
        up = GaugeMetricFamily(
            "gateway_deployment_up",
            "0 while calls do not try this deployment, because it failed again and again.",
            labels=("provider", "model"),
        )
        for deployment, is_up in self._deployments().items():
            up.add_metric(deployment, float(is_up))
        yield up
        yield from _of_ledger(self._figures)
        yield _codes("gateway_refused", "Calls a policy refused before the dial.", self._refused)
        yield _codes("gateway_rejected", "Requests answered with an error before admission.", self._rejected)
        failed = CounterMetricFamily(
            "gateway_failed_attempts",
            "Attempts that failed and were followed by another.",
            labels=("provider", "error"),
        )
        for labels, count in self._failed_attempts.items():
            failed.add_metric(labels, count)
        yield failed
        lookups = CounterMetricFamily("gateway_cache_lookups", "Calls that wanted a kept answer.", labels=("result",))
        for result, count in self._cache_lookups.items():
            lookups.add_metric((result,), count)
        yield lookups
        yield CounterMetricFamily(
            "gateway_cache_saved_nano_usd",
            "What kept answers cost when they were bought, in 1e-9 USD.",
            self._saved_nano_usd,
        )
        yield CounterMetricFamily("gateway_idempotent_replays", "Answers given again by their key.", self._replays)
        yield from self._of_routes()

    def _of_routes(self) -> Iterable[Metric]:
        calls = CounterMetricFamily("gateway_calls", "Admitted calls by how they ended.", labels=(*_ROUTE, "outcome"))
        cost = CounterMetricFamily("gateway_cost_nano_usd", "Provider cost booked, in 1e-9 USD.", labels=_ROUTE)
        tokens = CounterMetricFamily(
            "gen_ai_client_token_usage", "Tokens metered.", labels=(*_ROUTE, "gen_ai_token_type")
        )
        duration = HistogramMetricFamily("gen_ai_server_request_duration_seconds", "A whole call.", labels=_ROUTE)
        ttft = HistogramMetricFamily(
            "gen_ai_server_time_to_first_token_seconds",
            "From the request to the first byte relayed, streams only.",
            labels=_ROUTE,
        )
        for key, series in self._routes.items():
            for outcome, count in series.calls.items():
                calls.add_metric((*key, outcome), count)
            cost.add_metric(key, series.cost_nano_usd)
            tokens.add_metric((*key, "input"), series.input_tokens)
            tokens.add_metric((*key, "output"), series.output_tokens)
            series.duration.add_to(duration, key)
            series.ttft.add_to(ttft, key)
        yield from (calls, cost, tokens, duration, ttft)


class _Series:
    """All that is counted for one (endpoint, model, provider)."""

    __slots__ = ("calls", "cost_nano_usd", "duration", "input_tokens", "output_tokens", "ttft")

    def __init__(self) -> None:
        self.calls: dict[str, int] = {}
        self.cost_nano_usd = 0
        self.input_tokens = 0
        self.output_tokens = 0
        self.duration = _Histogram()
        self.ttft = _Histogram()


class _Histogram:
    __slots__ = ("_counts", "_sum")

    def __init__(self) -> None:
        self._counts = [0] * (len(_SECONDS) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(_SECONDS, seconds)] += 1
        self._sum += seconds

    def add_to(self, family: HistogramMetricFamily, labels: _RouteKey) -> None:
        buckets: list[tuple[str, float]] = []
        total = 0
        for bound, count in zip((*map(str, _SECONDS), "+Inf"), self._counts, strict=True):
            total += count
            buckets.append((bound, total))
        family.add_metric(labels, buckets, self._sum)


def _of_ledger(figures: Figures | None) -> Iterable[Metric]:
    """Without samples where the database did not tell: a 0 would be taken for a figure."""
    for name, text in _LEDGER_GAUGES.items():
        family = GaugeMetricFamily(f"gateway_ledger_{name}", text)
        if figures is not None:
            family.add_metric((), getattr(figures, name))
        yield family


def _count(counts: dict[tuple[str, str], int], endpoint: str, code: str) -> None:
    # Codes are ours and few; the bound is for the day somebody passes a provider's.
    key = (endpoint, code)
    if key not in counts and len(counts) >= _CODES_MAX:
        key = (endpoint, "other")
    counts[key] = counts.get(key, 0) + 1


def _codes(name: str, text: str, counts: dict[tuple[str, str], int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=("endpoint", "code"))
    for key, count in counts.items():
        family.add_metric(key, count)
    return family
