"""What was measured, as Markdown for people and JSON for machines. Medians over the rounds."""

import dataclasses
import datetime as dt
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.targets.gateway import LedgerCheck

Row = dict[str, Any]
_LABELS = {
    "direct": "direct (no gateway)",
    "gateway": "**this gateway**",
    "one-limit": "this gateway, one rate limit and one quota",
    "scaled": "this gateway on Redis and PostgreSQL",
    "scaled-2": "the same, 2 workers on the same core",
    "litellm": "LiteLLM proxy, no database",
}


@dataclass(frozen=True)
class TargetFacts:
    name: str
    version: str
    startup_s: float | None


@dataclass(frozen=True)
class Result:
    measured_at: float
    """Seconds since the epoch."""
    took_s: float
    command: str
    machine: str
    is_pinned: bool
    disk: dict[str, Any]
    targets: list[TargetFacts]
    left_out: dict[str, str]
    rows: list[Row]
    checks: dict[str, LedgerCheck]
    """By target."""

    def as_json(self) -> dict[str, Any]:
        content = dataclasses.asdict(self)
        for name, check in self.checks.items():
            content["checks"][name]["is_valid"] = check.is_valid
        return content

    def median(self, target: str, kind: str, level: int, column: str) -> float | None:
        """Over the rounds; None when it was not measured, or had nothing to measure."""
        values = [row[column] for row in self._of(target, kind, level) if row.get(column) is not None]
        return statistics.median(values) if values else None

    def total(self, target: str, kind: str, level: int, columns: Sequence[str]) -> int:
        return sum(row.get(column, 0) for row in self._of(target, kind, level) for column in columns)

    def has(self, target: str, kind: str, level: int) -> bool:
        return bool(self._of(target, kind, level))

    def pss_mb_max(self, target: str) -> float | None:
        """The most it held at the end of any measurement."""
        values = [row["pss_mb"] for row in self.rows if row["target"] == target and row["pss_mb"] is not None]
        return max(values, default=None)

    def others_share(self) -> float:
        """Of the targets' core, while one of them was measured."""
        values = [row["others_share"] for row in self.rows if row["others_share"] is not None]
        return statistics.median(values) if values else 0.0

    def first_failure(self, target: str, kind: str, level: int) -> str:
        return next((row["first_failure"] for row in self._of(target, kind, level) if row["first_failure"]), "")

    def _of(self, target: str, kind: str, level: int) -> list[Row]:
        return [row for row in self.rows if (row["target"], row["kind"], row["level"]) == (target, kind, level)]


_FAULTS = ("failed", "non_200", "unfinished", "unsent")


def one_line(row: Row) -> str:
    """Progress, while the run goes on."""
    cost = row["cpu_us_an_event"] or row["cpu_us_a_call"]
    faults = sum(row[name] for name in _FAULTS) + row.get("broken", 0)
    rate = f"{row['events_per_s']:.0f} events/s" if "events_per_s" in row else f"{row['calls_per_s']:.0f} calls/s"
    text = f"round {row['round']}  {row['kind']:>9} {row['level']:<5} {row['target']:<8} {rate:>17}"
    text += f"  p50 {_ms(row.get('latency_p50_us'))} p99 {_ms(row.get('latency_p99_us'))} ms"
    text += f"  {cost:.1f} us" if cost else ""
    return text + (f"  {faults} faults: {row['first_failure']}" if faults else "")


def markdown(result: Result) -> str:
    """All tables, and below them what one needs to know to read them."""
    parts = [
        _head(result),
        "### Calls\n\n" + _calls(result),
    ]
    tables = {"Streams": _streams, "Added latency": _added, "On Redis and PostgreSQL": _shared_stores}
    parts += [f"### {title}\n\n{lines}" for title, table in tables.items() if (lines := table(result))]
    if result.checks:
        told = [f"{_label(name)}: {_ledger(check)}" for name, check in result.checks.items()]
        parts.append("### The ledgers after this load\n\n" + "\n\n".join(told))
    parts.append(_notes(result))
    return "\n\n".join(part for part in parts if part)


def _head(result: Result) -> str:
    measured_at = dt.datetime.fromtimestamp(result.measured_at, dt.UTC)
    versions = ", ".join(f"{t.name} {t.version}" for t in result.targets if t.version)
    pinning = "one core, nothing pinned"
    if result.is_pinned:
        others = result.others_share()
        pinning = (
            f"targets on one core, load and upstream on another; other work took {others:.0%} of the targets' core"
        )
    return (
        f"Measured {measured_at:%Y-%m-%d %H:%M} UTC with `{result.command}` in {result.took_s / 60:.0f} minutes. "
        f"{result.machine}; {pinning}. "
        f"fdatasync {result.disk['fdatasync_ms']:.2f} ms (median) on {result.disk['filesystem']}. {versions}."
    )


def _calls(result: Result) -> str:
    def rate(target: str, level: int) -> float | None:
        return result.median(target, "saturated", level, "calls_per_s")

    def row(target: TargetFacts) -> list[str]:
        name = target.name

        def at_64(column: str) -> float | None:
            return result.median(name, "saturated", 64, column)

        return [
            *(_count(rate(name, level)) for level in (1, 64, 256)),
            _number(at_64("cpu_us_a_call"), 1),
            f"{_ms(at_64('latency_p50_us'))} / {_ms(at_64('latency_p99_us'))}",
            _ratio(rate(name, 64), rate("litellm", 64)),
            _ratio(rate(name, 64), rate("nginx", 64)),
            _number(result.pss_mb_max(name), 0),
            _number(target.startup_s, 2),
        ]

    header = ["target", "calls/s, 1 caller", "64 callers", "256 callers", "CPU µs a call, 64", "p50 / p99 ms, 64"]
    header += ["× LiteLLM", "of nginx", "PSS MB", "start s"]
    return _table(header, [[_label(target.name), *row(target)] for target in result.targets])


def _streams(result: Result) -> str:
    header = ["load", "target", "events/s", "CPU µs an event", "TTFT p50 / p99 ms", "of nginx", "intact", "broken"]
    lines = []
    for kind, level in (("paced", 100), ("paced", 500), ("paced", 2000), ("unpaced", 50)):
        if not any(result.has(target.name, kind, level) for target in result.targets):
            continue
        for target in result.targets:
            name = target.name
            if not result.has(name, kind, level):
                lines.append([f"{level} {kind}", _label(name), *["not tried"] + ["–"] * 5])
                continue
            rate = result.median(name, kind, level, "events_per_s")
            ttft = [_ms(result.median(name, kind, level, f"ttft_{p}_us")) for p in ("p50", "p99")]
            lines.append(
                [
                    f"{level} {kind}",
                    _label(name),
                    _count(rate),
                    _number(result.median(name, kind, level, "cpu_us_an_event"), 1),
                    " / ".join(ttft),
                    _ratio(rate, result.median("nginx", kind, level, "events_per_s")),
                    str(result.total(name, kind, level, ["intact"])),
                    str(result.total(name, kind, level, ["broken", *_FAULTS])),
                ]
            )
    return _table(header, lines) if lines else ""


def _added(result: Result) -> str:
    header = ["load", "target", "p50 / p99 ms", "added p50 ms", "added p99 ms", "CPU µs a call"]
    lines = [
        [f"{level} calls/s", _label(target.name), *_added_cells(result, target.name, level)]
        for level in (20, 100)
        for target in result.targets
        if result.has(target.name, "steady", level)
    ]
    return _table(header, lines) if lines else ""


def _added_cells(result: Result, target: str, level: int) -> list[str]:
    """Latency beside that of the same calls without a gateway, in the same run."""

    def value(name: str, column: str) -> float | None:
        return result.median(name, "steady", level, column)

    def added(column: str) -> str:
        here, direct = value(target, column), value("direct", column)
        if target == "direct" or here is None or direct is None:
            return "–"
        return f"{(here - direct) / 1000:+,.2f}"

    latency = f"{_ms(value(target, 'latency_p50_us'))} / {_ms(value(target, 'latency_p99_us'))}"
    reached = value(target, "calls_per_s") or 0
    if reached < 0.95 * level:
        latency += f" (overloaded: {reached:.0f} calls/s)"
    cpu = _number(value(target, "cpu_us_a_call"), 0)
    return [latency, added("latency_p50_us"), added("latency_p99_us"), cpu]


def _shared_stores(result: Result) -> str:
    """What a call asks of the two servers, and how much of the embedded throughput a process keeps."""
    header = ["callers", "target", "calls/s", "reads by Redis a call", "transactions a call", "log bytes a call"]
    header += ["CPU µs a call", "of the embedded"]
    lines = []
    for level in (1, 64, 256):
        for target in result.targets:
            rows = [row for row in result.rows if (row["target"], row["kind"]) == (target.name, "saturated")]
            work = [row for row in rows if row["level"] == level and row.get("work")]
            if not work:
                continue
            calls = sum(row["answered"] for row in work)
            cpu = result.median(target.name, "saturated", level, "cpu_us_a_call")
            names = ("redis_reads", "transactions", "wal_bytes")
            reads, transactions, log_bytes = (sum(row["work"][name] for row in work) / calls for name in names)
            embedded = result.median("gateway", "saturated", level, "cpu_us_a_call")
            cells = [_number(reads, 2), _number(transactions, 2), _count(log_bytes)]
            rate = _count(result.median(target.name, "saturated", level, "calls_per_s"))
            lines.append([str(level), _label(target.name), rate, *cells, _number(cpu, 0), _ratio(embedded, cpu)])
    return _table(header, lines) if lines else ""


def _ledger(check: LedgerCheck) -> str:
    outcomes = ", ".join(f"{count:,} `{outcome}`" for outcome, count in sorted(check.outcomes.items())) or "nothing"
    verdict = "exact." if check.is_valid else "**NOT EXACT: this run is void.**"
    text = (
        f"The load generator saw {check.seen.ok:,} calls answered to the last byte ({check.seen.unclear:,} refused, cut "
        f"or unfinished); the upstream was asked {check.upstream_requests:,} times; the ledger has {outcomes}; "
        f"`gateway ledger verify` ended with {check.verify_status}: {verdict}"
    )
    if check.restart_s is not None:
        text += f" A start on this ledger took {check.restart_s:.2f} s."
    said = "\n".join(filter(None, (check.problem, check.verify_output if check.verify_status else "")))
    return f"{text}\n\n```\n{said}\n```" if said else text


def _notes(result: Result) -> str:
    left_out = [f"Left out: {name}: {reason.splitlines()[0]}" for name, reason in result.left_out.items()]
    notes = [*left_out, *_connection_notes(result), *_fault_notes(result)]
    return "\n".join(f"- {note}" for note in notes)


def _connection_notes(result: Result) -> Iterator[str]:
    """A pool that does not keep connections alive still gives plausible figures; only this count tells."""
    for row in result.rows:
        opened, level = row["upstream_connections"], row["level"]
        if row["target"] != "direct" and opened > 2 * max(level, 64):
            load = f"`{row['kind']} {level}`, round {row['round']}"
            yield f"{row['target']} opened {opened} upstream connections in {load}: it does not keep them alive."


def _fault_notes(result: Result) -> Iterator[str]:
    for target in result.targets:
        for kind, level in sorted({(row["kind"], row["level"]) for row in result.rows}):
            if faults := result.total(target.name, kind, level, [*_FAULTS, "broken"]):
                reason = result.first_failure(target.name, kind, level) or "no answer before the end of the grace"
                yield f"{target.name}, {kind} {level}: {faults} faults, the first: {reason}"


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def _label(name: str) -> str:
    return _LABELS.get(name, name)


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _count(value: float | None) -> str:
    return _number(value, 0)


def _ms(microseconds: float | None) -> str:
    return "–" if microseconds is None else f"{microseconds / 1000:,.2f}"


def _ratio(value: float | None, base: float | None) -> str:
    """Two significant digits at least."""
    if value is None or not base:
        return "–"
    ratio = value / base
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.2g}"
