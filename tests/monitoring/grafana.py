"""A dashboard against Grafana's own schema, by the classes that Grafana generates from it.

`grafana-foundation-sdk` 11.6 (Apache-2.0, the newest of its dashboards' first schema on 2026-11-21) makes an object of any
JSON, drops what it does not know and checks no type. So the file is compared with what was made of it: every field must be
one of the class, no field that the schema wants may be missing, every value must fit the annotation of its field, and what
is a panel's or a query's own must belong to a kind of panel and of data source that Grafana has.
"""

import enum
import types
import typing
from collections.abc import Iterator
from functools import cache
from typing import Any

from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.cog.runtime import UnknownDataquery
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.dashboard import Dashboard

__all__ = ["UNITS", "faults"]

UNITS = frozenset(value for name, value in vars(units).items() if isinstance(value, str) and not name.startswith("_"))
"""Units of values that Grafana knows by name; it shows a stranger as text behind the number."""

_PACKAGE = Dashboard.__module__.partition(".")[0]
_LEAVES: dict[type, tuple[type, ...]] = {str: (str,), bool: (bool,), int: (int,), float: (int, float)}


def faults(dashboard: dict[str, Any]) -> list[str]:
    """What Grafana would not read as it is meant, by path; nothing for a dashboard that is one."""
    register_default_plugins()
    try:
        made = Dashboard.from_json(dashboard)
    except (AttributeError, KeyError, TypeError, ValueError) as problem:
        return [f"it cannot be read: {problem!r}"]
    return list(_faults_of_object(dashboard, made, ""))


def _faults_of_object(told: Any, made: Any, path: str) -> Iterator[str]:
    """`made` is of one of Grafana's classes, and `told` is what it was made of."""
    if isinstance(made, UnknownDataquery):
        yield f"{path}: a query of a data source that is not known"
        return
    if not isinstance(told, dict):
        yield f"{path}: {told!r:.80} is not an object"
        return
    kind: Any = type(made)
    names = _fields(kind)
    for key in told.keys() - names.keys():
        yield f"{path}.{key}: {kind.__name__} has no such field"
    for key in _required(kind) - told.keys():
        yield f"{path}.{key}: {kind.__name__} needs it"
    for key in told.keys() & names.keys():
        yield from _faults_of(told[key], getattr(made, names[key]), _hints(kind)[names[key]], f"{path}.{key}")


def _faults_of(told: Any, made: Any, hint: Any, path: str) -> Iterator[str]:
    """`hint` is the annotation of the field that `made` is the value of."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        yield from _faults_of(told, made, _chosen(told, made, typing.get_args(hint)), path)
    elif origin is list and isinstance(told, list) and isinstance(made, list) and len(made) == len(told):
        [each] = typing.get_args(hint)
        for number, pair in enumerate(zip(told, made, strict=True)):
            yield from _faults_of(*pair, each, f"{path}[{number}]")
    elif origin is dict and isinstance(told, dict):
        return
    elif _is_grafanas(made):
        if hint is not object and not (isinstance(hint, type) and isinstance(made, hint)):
            yield f"{path}: {type(made).__name__} stands where {_name(hint)} is expected"
        yield from _faults_of_object(told, made, path)
    elif hint is object and isinstance(told, dict | list):
        yield f"{path}: fields of a kind that is not known"
    elif made != told or not _fits(told, hint):
        yield f"{path}: {told!r:.80} is not {_name(hint)}"


def _chosen(told: Any, made: Any, hints: tuple[Any, ...]) -> Any:
    """Which of the alternatives the value is meant to be; the first but None where it is nothing of the kind."""
    if told is None and type(None) in hints:
        return type(None)
    real = [hint for hint in hints if hint is not type(None)]
    for hint in real:
        plain = typing.get_origin(hint) or hint
        if _fits(told, hint) or (isinstance(plain, type) and isinstance(made, plain) and plain is not object):
            return hint
    return real[0]


def _fits(value: Any, hint: Any) -> bool:
    if hint is object:
        return True
    if hint is type(None):
        return value is None
    if typing.get_origin(hint) is typing.Literal:
        return value in typing.get_args(hint)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return any(type(value) is type(member.value) and value == member.value for member in hint)
    return type(value) in _LEAVES.get(hint, ())


def _is_grafanas(made: Any) -> bool:
    kind = type(made)
    return kind.__module__.startswith(_PACKAGE) and not isinstance(made, enum.Enum)


def _name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


@cache
def _fields(kind: type) -> dict[str, str]:
    """The names of the class's attributes, by their names in JSON."""
    blank: Any = object.__new__(kind)
    blank.__dict__.update((name, name) for name in _hints(kind))
    return {key: str(name) for key, name in blank.to_json().items()}


@cache
def _required(kind: type) -> frozenset[str]:
    """The names in JSON that are written whether or not the attribute has a value."""
    blank: Any = object.__new__(kind)
    blank.__dict__.update(dict.fromkeys(_hints(kind)))
    return frozenset(blank.to_json())
