"""The Lua scripts of the counters in Redis, and how limits and answers are written for them.

A script is a few files of `lua/` one after the other: whole numbers, the step, the counters, and what it does. Redis
compiles each once and knows it by its hash. Integers that a double cannot hold travel as decimal digits.
"""

import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import NamedTuple

import orjson

from gateway.counters.base import LimitState, Refused, Taken
from gateway.counters.redis_names import Names
from policies.types import Limit, LimitGroup

__all__ = [
    "BOOK",
    "END",
    "FILL",
    "LEFTOVERS",
    "READ",
    "RESTORE",
    "RETRY",
    "TAKE",
    "Reply",
    "Script",
    "answer_of",
    "groups_for",
    "limits_for",
    "microseconds",
    "number_for",
    "settle_json",
    "states_of",
]

Reply = list[int | bytes]
RETRY = -1
"""The first figure of a reply: the counters are not, or no longer, those that were asked for."""
_LARGE = 9_007_199 * 10**9
"""As in integers.lua: numbers from -LARGE up to below it are exact in a double."""
_US_PER_S = 1e6
_LETTERS = {"rolling": "r", "calendar": "c", "gauge": "g", "balance": "b"}
# A NamedTuple's own constructor takes twice as long as the tuple's, and every call makes one per limit.
_made = tuple.__new__


class Script(NamedTuple):
    name: str
    source: bytes
    sha: bytes
    """SHA-1 of the source in hexadecimal digits: how EVALSHA names it."""


def _script(name: str, *beside: str) -> Script:
    """What every script needs, what this one needs `beside` it, and itself. Each function costs a little at every step."""
    folder = files("gateway.counters").joinpath("lua")
    parts = ("integers", "step", "window", "tally", "gauge", "counters", *beside, name)
    source = "\n".join(folder.joinpath(f"{part}.lua").read_text("utf-8") for part in parts).encode()
    return Script(name, source, hashlib.sha1(source, usedforsecurity=False).hexdigest().encode())


TAKE = _script("take", "holding", "deciding")
READ = _script("read", "holding", "deciding")
RESTORE = _script("restore", "holding")
END, LEFTOVERS = _script("end", "ending"), _script("leftovers")
BOOK, FILL = _script("book"), _script("fill")


# What is asked


def number_for(value: int) -> int | str:
    """An integer as JSON for a script: a number where a double holds it, else its digits."""
    return value if -_LARGE <= value < _LARGE else str(value)


def microseconds(seconds: float) -> int:
    return round(seconds * _US_PER_S)


def groups_for(groups: Sequence[LimitGroup], epoch: str, names: Names) -> tuple[list[str], bytes]:
    """The names of the counters of `groups`, and the groups in JSON, in which limits go by the number of their counter.

    Numbers begin at 3: guard and holds come first. Raises `ValueError` for a negative amount.
    """
    keys: dict[str, int] = {}
    rows = [[_row(limit, keys) for limit in group] for group in groups]
    return [names.counter(key, epoch) for key in keys], orjson.dumps(rows)


def limits_for(
    limits: Sequence[tuple[Limit, int]], epoch: str, names: Names
) -> tuple[list[str], list[list[int | str | bool]]]:
    """As `groups_for`, of limits with amounts that were taken of them; the rows are not JSON yet."""
    keys: dict[str, int] = {}
    rows = [_row(limit if limit.amount == amount else limit._replace(amount=amount), keys) for limit, amount in limits]
    return [names.counter(key, epoch) for key in keys], rows


def _row(limit: Limit, keys: dict[str, int]) -> list[int | str | bool]:
    _, key, kind, capacity, amount, unit, _, window_s, resets_at, amount_min, resume_below, lapsed, *_ = limit
    if amount < 0:
        raise ValueError(f"limit {limit.name} would take {amount}")
    if (number := keys.get(key)) is None:
        number = keys[key] = len(keys) + 3
    until_us = window_s * 1_000_000 if kind == "rolling" else 0 if resets_at is None else microseconds(resets_at)
    row: list[int | str | bool] = [
        number,
        _LETTERS[kind],
        capacity if capacity < _LARGE else str(capacity),
        amount if amount < _LARGE else str(amount),
        unit,
        until_us,
    ]
    if lapsed or amount_min is not None or resume_below is not None:
        row.append(False if amount_min is None else number_for(amount_min))
        row.append(False if resume_below is None else number_for(resume_below))
        row.append(number_for(lapsed))
    return row


def settle_json(actuals: Mapping[str, int]) -> bytes:
    return orjson.dumps({unit: number_for(units) for unit, units in actuals.items()})


# What is answered


def answer_of(reply: Reply, groups: Sequence[LimitGroup]) -> Taken | Refused:
    """What `take` and `preview` say, of a reply of either."""
    figures = list(map(int, reply))
    if figures[0] == 1:
        return _made(Taken, (tuple(_taken(figures, groups)),))
    _, number, settled, held, reset_us, wait_us, is_held, *unsatisfied = figures
    limit = groups[number - 1][-1]
    return Refused(
        LimitState(limit, settled, held, reset_us / _US_PER_S),
        None if wait_us < 0 else wait_us / _US_PER_S,
        bool(is_held),
        tuple(groups[without_room - 1][-1] for without_room in unsatisfied),
    )


def _taken(figures: list[int], groups: Sequence[LimitGroup]) -> list[LimitState]:
    states = []
    at = 1
    for group in groups:
        choice, settled, held, reset_us, taken = figures[at : at + 5]
        states.append(_made(LimitState, (group[choice - 1], settled, held, reset_us / _US_PER_S, taken)))
        at += 5
    return states


def states_of(reply: Reply, limits: Sequence[Limit]) -> tuple[LimitState, ...]:
    figures = list(map(int, reply))
    return tuple(
        LimitState(limit, figures[at], figures[at + 1], figures[at + 2] / _US_PER_S)
        for limit, at in zip(limits, range(1, len(figures), 4), strict=True)
    )
