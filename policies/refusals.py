"""What a caller is told when the counter store found no room: one function for every kind of limit.

A policy says which limit of which plan it is (`Limit.refusal`); the store says what was used, what is held and how long
the wait is; here they become one sentence after another that a developer of an app can act on.
"""

from datetime import UTC, datetime

from policies.amounts import amount_text, wait_text
from policies.types import Deny, Limit, Refusal

RETRY_WAIT_S_MAX = 60.0
"""SDKs may wait by themselves up to here; a longer wait is for the app to decide."""


def explain(limit: Limit, *, settled: int, held: int, retry_after_s: float | None, held_by_others: bool) -> Refusal:
    """The refusal of a call that `limit` had no room for, out of what the store reported.

    Codes: `request_too_large` where the amount is above the whole capacity, `rate_limit_exceeded` where only calls in
    flight are in the way (also of money: they give back what they do not use), else the policy's own.
    """
    if retry_after_s is None and 0 < limit.capacity < limit.amount:
        return Refusal(_too_large(limit), None, False)
    should_retry = retry_after_s is not None and retry_after_s <= RETRY_WAIT_S_MAX
    deny = _in_flight(limit, settled, held) if held_by_others else _used_up(limit, settled, held, retry_after_s)
    return Refusal(deny, retry_after_s, should_retry)


def _too_large(limit: Limit) -> Deny:
    message = (
        f"This request may need {amount_text(limit.amount, limit.unit)}, more than the whole limit {limit.name} of "
        f"{amount_text(limit.capacity, limit.unit)}. Waiting will not help: ask for less output (max tokens, n), send "
        "less input, or ask the gateway's admin for a larger plan."
    )
    return Deny("request_too_large", message, limit.refusal.policy)


def _in_flight(limit: Limit, settled: int, held: int) -> Deny:
    message = (
        f"{limit.refusal.message} {_figures(limit, settled, held)} Calls in flight give back what they do not use: "
        "try again in a moment, or make fewer calls at once."
    )
    return Deny("rate_limit_exceeded", message, limit.refusal.policy)


def _used_up(limit: Limit, settled: int, held: int, retry_after_s: float | None) -> Deny:
    parts = [limit.refusal.message, _figures(limit, settled, held)]
    if limit.capacity == 0:
        parts.append("The limit is 0: ask the gateway's admin for a larger plan.")
    elif limit.resets_at is not None:
        parts.append(f"It starts afresh at {_instant(limit.resets_at)}: wait, or ask the gateway's admin for more.")
    elif retry_after_s is not None:
        parts.append(f"Try again in {wait_text(retry_after_s)}, or ask the gateway's admin for a larger plan.")
    else:
        parts.append("Waiting will not help: ask the gateway's admin for more.")
    return limit.refusal._replace(message=" ".join(parts))


def _figures(limit: Limit, settled: int, held: int) -> str:
    figures = [f"used {amount_text(settled, limit.unit)}"]
    if held:
        figures.append(f"held by calls in flight {amount_text(held, limit.unit)}")
    figures.append(f"needed {amount_text(limit.amount, limit.unit)}")
    text = ", ".join(figures)
    return f"{text[0].upper()}{text[1:]}."


def _instant(unix_time: float) -> str:
    try:
        at = datetime.fromtimestamp(unix_time, UTC)
    except (ValueError, OverflowError):  # the end of the calendar's last month lies beyond it
        return "the end of the calendar"
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")
