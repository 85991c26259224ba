"""`/dashboard/explore`: any sum of the ledger by any group and sub-group, over days, weeks or months.

One question to `/admin/costs`, made into a table. The same question stands on the page for a terminal, and as a CSV export.
"""

import asyncio
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, cast, get_args
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.dashboard.api import api_of
from gateway.dashboard.figures import decimals
from gateway.dashboard.first_steps import first_steps
from gateway.dashboard.page_query import own_address, refuse_unknown
from gateway.dashboard.periods import GRAINS, Days, Grain, label_of_day, labels_between
from gateway.dashboard.pivot import Cell, Heading, Table, pivot
from gateway.dashboard.render import render
from gateway.dashboard.words import kind_words, outcome_words
from gateway.endpoints.parameters import choice, day, known_parameters, refuse, whole_number
from gateway.errors import GatewayError
from gateway.ledger.records import Kind, Outcome

__all__ = ["METRICS", "UNNAMED", "column_title"]

METRICS: Mapping[str, tuple[str, str, str]] = {
    "cost": ("Cost", "cost_nano_usd", "nano_usd"),
    "charge": ("Charge", "charge_nano_usd", "nano_usd"),
    "saved": ("Saved by the cache", "saved_nano_usd", "nano_usd"),
    "calls": ("Calls", "calls", "count"),
    "errors": ("Errors", "errors", "count"),
    "attempts": ("Attempts", "attempts", "count"),
    "input_tokens": ("Input tokens", "input_tokens", "tokens"),
    "cached_input_tokens": ("Cached input tokens", "cached_input_tokens", "tokens"),
    "cache_write_tokens": ("Cache write tokens", "cache_write_tokens", "tokens"),
    "output_tokens": ("Output tokens", "output_tokens", "tokens"),
    "reasoning_tokens": ("Reasoning tokens", "reasoning_tokens", "tokens"),
    "audio_input_tokens": ("Audio input tokens", "audio_input_tokens", "tokens"),
    "audio_output_tokens": ("Audio output tokens", "audio_output_tokens", "tokens"),
    "image_input_tokens": ("Image input tokens", "image_input_tokens", "tokens"),
    "image_output_tokens": ("Image output tokens", "image_output_tokens", "tokens"),
    "images": ("Images", "images", "count"),
    "audio_seconds": ("Audio seconds", "audio_seconds", "count"),
    "characters": ("Characters of speech", "characters", "count"),
}
"""A sum of `/admin/costs` -> its title, the field that has it, its unit."""
_GROUPS: Mapping[str, str] = {
    "model": "Model",
    "requested_model": "Requested model",
    "creator": "Creator",
    "feature": "Feature",
    "agent": "Agent",
    "provider": "Provider",
    "endpoint": "Endpoint",
    "key_id": "Virtual key",
    "payer": "Payer",
    "kind": "Kind",
    "cached": "Cached",
    "outcome": "Outcome",
    "account_id": "Account",
}
_NONE = "none"
_GRAIN_TITLES = {"day": "Day", "week": "Week", "month": "Month", _NONE: "No grain"}
_FILTERS = (
    "creator",
    "feature",
    "agent",
    "model",
    "provider",
    "endpoint",
    "outcome",
    "kind",
    "payer",
    "cached",
    "key_id",
)
_KNOWN = frozenset({"metric", "group", "split", "grain", "from", "to", "top", "cumulative", *_FILTERS})
_DAYS_DEFAULT = 30
_TOP_DEFAULT = 10
_TOP_MAX = 50
_CELLS_AT_ONCE = 2_000
"""Are sorted while calls wait: a few milliseconds."""
UNNAMED = "(none)"
"""What a group without a name is called."""
_UNNAMED: Mapping[str, str] = {
    "feature": "(no feature)",
    "agent": "(no agent)",
    "model": "(no model)",
    "requested_model": "(no model)",
    "provider": "(no provider)",
    "endpoint": "(no endpoint)",
    "key_id": "(no key)",
    "payer": "(no payer)",
}


class _Question(NamedTuple):
    metric: str
    groups: Sequence[str]
    """Without days: none, one, or the group and its sub-group."""
    grain: Grain
    days: Days
    top: int
    is_cumulative: bool
    filters: Mapping[str, str]

    @property
    def asked(self) -> dict[str, str]:
        """As `/admin/costs` is asked."""
        over_time = {"day": ["day"], "week": ["day"], "month": ["month"], _NONE: []}[self.grain]
        # Something has to be grouped by: a kind is the least there is.
        group_by = [*over_time, *self.groups] or ["kind"]
        return {"group_by": ",".join(group_by), "sums": self.metric, **self.days.query(), **self.filters}


async def show_explore(request: Request) -> Response:
    """A question that cannot be asked, or whose answer would be too long, is shown again with the reason."""
    given = {name: value.strip() for name, value in request.query_params.items() if name in _KNOWN}
    today = datetime.fromtimestamp(request.app.state.clock().timestamp(), UTC).date()
    try:
        question = _read(request, Days(today - timedelta(days=_DAYS_DEFAULT - 1), today + timedelta(days=1)))
        answer = await api_of(request).get("/admin/costs", **question.asked)
        table = await _table(answer["data"], question)
    except GatewayError as error:
        if error.status not in (400, 413, 422, 503):
            raise
        return _page(request, given, problem=error.message, status=error.status)
    form = {**given, "from": question.days.first.isoformat(), "to": question.days.after.isoformat()}
    steps = None if table.columns else await first_steps(request)
    return _page(request, form, question=question, table=table, steps=steps)


def _read(request: Request, default: Days) -> _Question:
    """Fields of a form that were left empty are not asked for. Raises `RequestError`."""
    refuse_unknown(request, sorted(_KNOWN))
    known = known_parameters(request.query_params, _KNOWN)
    query = {name: value.strip() for name, value in known.items() if value.strip()}
    metric = choice(query, "metric", METRICS, "cost")
    group, split = (
        choice(query, name, (*_GROUPS, _NONE), first) for name, first in (("group", "model"), ("split", _NONE))
    )
    grain = choice(query, "grain", GRAINS, "day")
    if group == split and group != _NONE:
        refuse("split", "takes another group than `group`")
    return _Question(
        metric=str(metric),
        groups=[str(name) for name in (group, split) if name != _NONE],
        grain=cast(Grain, grain),
        days=_days(query, default),
        top=whole_number(query, "top", default=_TOP_DEFAULT, least=1, most=_TOP_MAX),
        is_cumulative=choice(query, "cumulative", ("0", "1"), "0") == "1",
        filters={name: query[name] for name in _FILTERS if name in query},
    )


def _days(query: Mapping[str, str], default: Days) -> Days:
    first, after = day(query, "from"), day(query, "to")
    found = Days(
        default.first if first is None else default.first.fromisoformat(first),
        default.after if after is None else default.after.fromisoformat(after),
    )
    if first is None and after is not None:
        found = Days(found.after - min(default.after - default.first, found.after - found.after.min), found.after)
    if found.length <= 0:
        refuse("to", "takes a day after `from`: it is the first that no longer counts")
    return found


async def _table(rows: Sequence[Mapping[str, Any]], question: _Question) -> Table:
    labels = None if question.grain == _NONE else labels_between(question.days, question.grain)

    def make() -> Table:
        return pivot(
            _cells(rows, question),
            columns_max=question.top,
            rows=labels,
            rows_max=question.top if labels is None else None,
            is_cumulative=question.is_cumulative,
        )

    return await asyncio.to_thread(make) if len(rows) > _CELLS_AT_ONCE else make()


def _cells(rows: Iterable[Mapping[str, Any]], question: _Question) -> Iterable[Cell]:
    """Over time a column is a group with its sub-group; without time, groups are rows and sub-groups columns."""
    title, field, _ = METRICS[question.metric]
    for row in rows:
        names = [column_title(row[name], name) for name in question.groups]
        if question.grain == _NONE:
            group, split = [*names, *(["All", title][len(names) :])]
            yield Cell(group, split, row[field])
        else:
            label = row["month"] if question.grain == "month" else label_of_day(row["day"], question.grain)
            yield Cell(label, " / ".join(names) or title, row[field])


def column_title(value: str | bool, group: str = "") -> str:
    """What one value of a group is called."""
    if isinstance(value, bool):
        return "cached" if value else "not cached"
    return value or _UNNAMED.get(group, UNNAMED)


def heading_text(heading: Heading) -> str:
    """`Other (12)` of those that were merged."""
    return f"Other ({heading.merged})" if heading.merged else heading.name


def _page(
    request: Request,
    form: Mapping[str, str],
    *,
    question: _Question | None = None,
    table: Table | None = None,
    steps: dict[str, Any] | None = None,
    problem: str = "",
    status: int = 200,
) -> Response:
    asked = "" if question is None else urlencode(question.asked)
    unit = "count" if question is None else METRICS[question.metric][2]
    url = f"{own_address(request)}/admin/costs?{asked}"
    return render(
        request,
        "explore.html",
        title="Explore",
        status=status,
        form=form,
        problem=problem,
        table=table,
        steps=steps,
        columns=[] if table is None else [heading_text(heading) for heading in table.columns],
        lines=[] if table is None else [(heading_text(heading), line) for heading, line in table.rows],
        caption="" if question is None else _caption(question),
        unit=unit,
        question=question,
        first_title="" if question is None else _first_title(question),
        export_url=f"/dashboard/export/costs?{asked}",
        places=[] if table is None or unit != "nano_usd" else _places(table),
        curl=f'curl -H "Authorization: Bearer $GATEWAY_ADMIN_KEY" {shlex.quote(url)}',
        metrics=[(name, title) for name, (title, _, _) in METRICS.items()],
        groups=[*_GROUPS.items(), (_NONE, "None")],
        grains=list(_GRAIN_TITLES.items()),
        kinds=_choices(get_args(Kind), kind_words),
        outcomes=_choices(get_args(Outcome), outcome_words),
        cached_choices=[("", "All"), ("true", "Cached"), ("false", "Not cached")],
    )


def _places(table: Table) -> list[int]:
    """Digits after the point for each column, the totals' last."""
    columns = [[line[index] for _, line in table.rows] for index in range(len(table.columns))]
    return [*(decimals(column) for column in columns), decimals(table.row_totals)]


def _choices(names: Iterable[str], words: Callable[[str], str]) -> list[tuple[str, str]]:
    return [("", "All"), *((name, words(name)) for name in names)]


def _caption(question: _Question) -> str:
    """`Cost by model and creator, running`."""
    by = " and ".join(_GROUPS[name].lower() for name in question.groups)
    running = ", running total" if question.is_cumulative else ""
    over = "" if question.grain == _NONE else f" per {question.grain}"
    return f"{METRICS[question.metric][0]}{over}{f' by {by}' if by else ''}{running}"


def _first_title(question: _Question) -> str:
    if question.grain != _NONE:
        return {"day": "Day", "week": "Week from Monday", "month": "Month"}[question.grain]
    return _GROUPS[question.groups[0]] if question.groups else "All"


routes = [Route("/dashboard/explore", show_explore, methods=["GET"])]
