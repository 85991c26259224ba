"""What a row of docs/settings.md must say of a setting, out of its field: which values it takes, and its default."""

from decimal import Decimal
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic import SecretStr

from gateway.config import Settings

__all__ = ["bounds_of", "default_of"]

_WORDS = {
    int: "a whole number",
    float: "a number",
    Decimal: "a decimal",
    bool: "`true` or `false`",
    str: "text",
    Path: "a path",
    SecretStr: "a secret",
}
_NONE_IN_WORDS = frozenset({"notice_day_cost_usd", "notice_error_percent"})
"""Fields that may be `none`, by a validator of their own."""
_SIZES = ((2**30, "GiB"), (2**20, "MiB"))
_SPANS = ((86_400, "day"), (3_600, "hour"), (60, "minute"))


def bounds_of(name: str) -> str:
    """Kind and bounds: `a whole number, 1 to 256`."""
    field = Settings.model_fields[name]
    kind = _kind(field.annotation)
    parts = [_words_of(kind)]
    found = {key: value for each in field.metadata for key, value in _constraints(each).items()}
    if span := _span(found):
        parts.append(span)
    if "max_length" in found:
        parts.append(f"{found['min_length']} to {found['max_length']} characters")
    if "decimal_places" in found:
        parts.append(f"to {found['decimal_places']} places")
    if "pattern" in found:
        parts.append(f"`{found['pattern']}`")
    if name in _NONE_IN_WORDS:
        parts.append("or `none`")
    return ", ".join(parts)


def default_of(name: str) -> str:
    """As a reader writes it, with what it comes to: `3600 (1 hour)`."""
    value = Settings.model_fields[name].default
    if value in (None, ""):
        return "unset"
    if isinstance(value, bool):
        return f"`{value}`".lower()
    shown = format(value, "g") if isinstance(value, float) else str(value)
    return f"`{shown}`{_comes_to(name, value)}"


def _kind(annotation: Any) -> Any:
    """Without `None`, which stands for a variable that is left out."""
    inner = [part for part in get_args(annotation) if part is not NoneType]
    is_optional = get_origin(annotation) is not Literal and len(inner) == 1
    return inner[0] if is_optional else annotation


def _words_of(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(f"`{word}`" for word in get_args(kind))
    return _WORDS[kind]


def _constraints(metadata: Any) -> dict[str, Any]:
    names = ("ge", "gt", "le", "lt", "min_length", "max_length", "decimal_places", "pattern")
    return {name: value for name in names if (value := getattr(metadata, name, None)) is not None}


def _span(found: dict[str, Any]) -> str:
    low, above, high = found.get("ge"), found.get("gt"), found.get("le")
    if low is not None:
        return f"{low} to {high}" if high is not None else f"from {low}"
    if above is not None:
        return f"above {above}, to {high}" if high is not None else f"above {above}"
    assert high is None, "a bound above and none below"
    return ""


def _comes_to(name: str, value: Any) -> str:
    units = _SIZES if name.endswith("bytes_max") else _SPANS if name.endswith("_s") else ()
    for size, unit in units:
        if value >= 2 * size or (value == size and size >= 3_600):
            assert value % size == 0, f"{name}: no whole number of {unit}"
            many = int(value // size)
            return f" ({many} {unit}{'s' if units is _SPANS and many > 1 else ''})"
    return ""
