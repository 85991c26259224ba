"""`reasoning_effort` and sampling, by generation of Claude. Pure.

Anthropic's models differ in what they take, and refuse the rest with a 400 (the thinking pages, the migration guides and
the effort page of platform.claude.com, and `thinking_types.py` of anthropic 2.11.0, all read 2026-11-21):

    up to 4.5                thinks where it gets a budget; temperature and top_p
    4.6                      adaptive thinking and an effort from low to max, without xhigh; temperature and top_p
    4.7 and 4.8              the same with xhigh, thinking off unless asked for; no sampling from here on
    Opus 5, Sonnet 5,        think unless told not to
    Haiku 5.5
    Sonnet 5.5               likewise, but off is called `between_tools`
    Opus 5.5, Fable, Mythos  always think; how much is up to the effort

    effort     budget up to 4.5   effort since 4.6
    none       no thinking        off; `low` where it cannot be
    minimal    1 024 tokens       low
    low        1 024              low
    medium     4 096              medium
    high       8 192              high
    xhigh      12 288             xhigh; on 4.6 high
    max        12 288             max

Models whose names are unknown count as the newest. Whoever names an effort also gets a summary of the thoughts, which
cost the same told or untold.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from gateway.request_fields import wrong

__all__ = ["OUTPUT_TOKENS_DEFAULT", "Thinking", "output_tokens_default", "takes_sampling", "thinking_for"]

OUTPUT_TOKENS_DEFAULT: Final = 4_096
"""Anthropic demands a bound of the output. This is it where the caller gave none; room for thinking comes on top."""

_BUDGETS: Final = {
    "none": 0,
    "minimal": 1_024,
    "low": 1_024,
    "medium": 4_096,
    "high": 8_192,
    "xhigh": 12_288,
    "max": 12_288,
}
"""With the default bound added, the largest is 16 384: what the gateway takes for a model's cap where it knows none."""
_BUDGET_MIN: Final = 1_024
_EFFORTS: Final = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "max"}
_DATE: Final = r"(?:-\d{8})?"
_TAKES_BUDGET: Final = re.compile(rf"claude-(?:[123]\b.*|(?:opus|sonnet|haiku)-4(?:-[0-5])?{_DATE}(?:-latest)?)")
_IS_4_6: Final = re.compile(rf"claude-(?:opus|sonnet|haiku)-4-6{_DATE}")
_IS_OPT_IN: Final = re.compile(rf"claude-(?:opus|sonnet|haiku)-4-[6-9]{_DATE}")
_CAN_DISABLE: Final = re.compile(rf"claude-(?:opus-5|sonnet-5|haiku-5-5){_DATE}")
_BETWEEN_TOOLS: Final = re.compile(rf"claude-sonnet-5-5{_DATE}")


class Thinking(NamedTuple):
    """What the body says of it; None: nothing."""

    thinking: Mapping[str, Any] | None = None
    effort: str | None = None


def takes_sampling(model: str) -> bool:
    """Whether `model` knows temperature and top_p."""
    return bool(_TAKES_BUDGET.fullmatch(model) or _IS_4_6.fullmatch(model))


def output_tokens_default(effort: str | None) -> int:
    """The bound of the output, in tokens, where the caller gave none. Thinking counts as output."""
    return OUTPUT_TOKENS_DEFAULT + _BUDGETS.get(effort or "none", 0)


def thinking_for(
    model: str, effort: str | None, *, max_tokens: int, is_between_tools: bool, has_forced_tool: bool
) -> Thinking:
    """How `model` is asked to think. Raises `RequestError` for an unknown effort.

    A budget stays below `max_tokens`, and leaves half of it or 4 096 tokens where there is room. Thinking is not asked for beside a forced
    tool, which Anthropic refuses; nor, with a budget, in the middle of a round of tools, where it wants the thoughts the
    round began with, which no chat client has.
    """
    if effort is None:
        return Thinking()
    if effort not in _BUDGETS:
        raise wrong("reasoning_effort", f"must be one of {', '.join(_BUDGETS)}")
    if _TAKES_BUDGET.fullmatch(model):
        if effort == "none" or max_tokens <= _BUDGET_MIN or is_between_tools or has_forced_tool:
            return Thinking()
        budget = min(_BUDGETS[effort], max(_BUDGET_MIN, max_tokens // 2, max_tokens - OUTPUT_TOKENS_DEFAULT))
        return Thinking({"type": "enabled", "budget_tokens": budget})
    if effort == "none":
        return _without(model)
    is_4_6 = bool(_IS_4_6.fullmatch(model))
    word = "high" if is_4_6 and effort == "xhigh" else _EFFORTS[effort]
    if has_forced_tool:
        return Thinking(effort=word)
    # Since 4.7 thoughts come back empty unless a summary is asked for; before, a summary is what came.
    return Thinking({"type": "adaptive"} if is_4_6 else {"type": "adaptive", "display": "summarized"}, word)


def _without(model: str) -> Thinking:
    if _IS_OPT_IN.fullmatch(model):
        return Thinking()
    if _CAN_DISABLE.fullmatch(model):
        return Thinking({"type": "disabled"})
    if _BETWEEN_TOOLS.fullmatch(model):
        return Thinking({"type": "between_tools"})
    return Thinking(effort="low")
