"""What a caller is told when the counter store found no room: one function for every kind of limit.

A policy says which limit of which plan it is (`Limit.refusal`); the store says what was used, what is held and how long
the wait is; here they become one sentence after another that a developer of an app can act on.
"""

from datetime import UTC, datetime

from policies.amounts import amount_text, wait_text
from policies.types import Deny, Limit, Refusal

RETRY_WAIT_S_MAX = 60.0
"""SDKs may wait by themselves up to here; a longer wait is for the app to decide."""

_LESS = {
    "image": "ask for fewer images (n)",
    "token": "ask for less output (max tokens, n), send less input",
    "nano_usd": "ask for less output (max tokens, n), send less input",
    "cost_nano_usd": "ask for less output (max tokens, n), send less input",
}


def explain(limit: Limit, *, settled: int, held: int, retry_after_s: float | None, held_by_others: bool) -> Refusal:
    """The refusal of a call that `limit` had no room for, out of what the store reported.

    Codes: `request_too_large` where even the least amount is above the whole capacity, `rate_limit_exceeded` where only
    calls in flight are in the way (also of money: they give back what they do not use), else the policy's own. A balance
    is never too small for a request: it can be added to.
    """
    if retry_after_s is None and limit.kind != "balance" and 0 < limit.capacity < _needed(limit):
        return Refusal(_too_large(limit), None, False)
    should_retry = retry_after_s is not None and retry_after_s <= RETRY_WAIT_S_MAX
    deny = _in_flight(limit, settled, held) if held_by_others else _used_up(limit, settled, held, retry_after_s)
    return Refusal(deny, retry_after_s, should_retry)


def _too_large(limit: Limit) -> Deny:
    # A budget's own words also say that the caller ruled the cheaper model out.
    said = f"{limit.refusal.message} " if limit.resume_below is not None else ""
    message = (
        f"{said}This request may need {_needed_text(limit)}, more than the whole limit {limit.name} of "
        f"{amount_text(limit.capacity, limit.unit)}. Waiting will not help: {_LESS.get(limit.unit, 'ask for less')}, or "
        "ask the gateway's admin for a larger plan."
    )
    return Deny("request_too_large", message, limit.refusal.policy)


def _in_flight(limit: Limit, settled: int, held: int) -> Deny:
    if limit.kind == "gauge":
        advice = "One more fits as soon as one of them has ended: try again in a moment, or make fewer calls at once."
    else:
        advice = "Calls in flight give back what they do not use: try again in a moment, or make fewer calls at once."
    message = f"{limit.refusal.message} {_figures(limit, settled, held)} {advice}"
    return Deny("rate_limit_exceeded", message, limit.refusal.policy)


def _used_up(limit: Limit, settled: int, held: int, retry_after_s: float | None) -> Deny:
    parts = [limit.refusal.message, _figures(limit, settled, held)]
    if limit.resume_below and settled + held + _needed(limit) <= limit.capacity:
        resume = amount_text(limit.resume_below, limit.unit)
        parts.append(f"Once it was reached, it has room again below {resume}.")
    parts.append(_advice(limit, retry_after_s))
    return limit.refusal._replace(message=" ".join(parts))


def _advice(limit: Limit, retry_after_s: float | None) -> str:
    is_too_small = limit.kind == "balance" or limit.capacity < _needed(limit)
    if is_too_small and retry_after_s is not None:
        # The limit told of is the last alternative of its group: the wait is that of an earlier one.
        return f"Another way to pay has room in {wait_text(retry_after_s)}: wait, or ask the gateway's admin for more."
    if limit.kind == "balance":
        return "Waiting will not help: ask the gateway's admin for more credits."
    if limit.capacity == 0:
        return "The limit is 0: ask the gateway's admin for a larger plan."
    if limit.resets_at is not None:
        return f"It starts afresh at {_instant(limit.resets_at)}: wait, or ask the gateway's admin for more."
    if retry_after_s is not None:
        return f"Try again in {wait_text(retry_after_s)}, or ask the gateway's admin for a larger plan."
    return "Waiting will not help: ask the gateway's admin for more."


def _figures(limit: Limit, settled: int, held: int) -> str:
    if limit.kind == "balance":
        return _balance_figures(limit, settled, held)
    if limit.kind == "gauge":
        return f"In flight {amount_text(held, limit.unit)}, needed {_needed_text(limit)}."
    figures = [f"Used {amount_text(settled, limit.unit)}"]
    if held:
        figures.append(f"held by calls in flight {amount_text(held, limit.unit)}")
    figures.append(f"needed {_needed_text(limit)}")
    return f"{', '.join(figures)}."


def _balance_figures(limit: Limit, settled: int, held: int) -> str:
    left = max(0, limit.capacity - max(settled + held, limit.lapsed))
    text = f"You have {amount_text(left, limit.unit)}"
    if held:
        text = f"{text} beside {amount_text(held, limit.unit)} held by calls in flight"
    return f"{text}, and it costs {amount_text(limit.amount, limit.unit)}."


def _needed(limit: Limit) -> int:
    """The least it would have taken."""
    return limit.amount if limit.amount_min is None else limit.amount_min


def _needed_text(limit: Limit) -> str:
    text = amount_text(_needed(limit), limit.unit)
    return text if limit.amount_min is None else f"at least {text}"


def _instant(unix_time: float) -> str:
    try:
        at = datetime.fromtimestamp(unix_time, UTC)
    except (ValueError, OverflowError):  # the end of the calendar's last month lies beyond it
        return "the end of the calendar"
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")
