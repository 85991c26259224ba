"""JSON without what is about money, for admins who neither see nor move it.

By the names of fields: a name that may be money's is taken for it. Where a value is money by what stands beside it (the
unit of a limit, the metric of an anomaly, the kind of a notice), what is not known to be none goes, too.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, cast

from gateway.anomalies.words import FIGURES

__all__ = ["MONEY", "without_money"]

MONEY = re.compile(
    r"usd|cost|charge|credit|pric|pay|balance|budget|quota|amount|saved|saving|spen[dt]|burn|forecast|owed|owes|bill|money"
    r"|refund|grant|permille|^units$",
    re.IGNORECASE,
)
"""What a field's name has in it that may be about money."""
_NAMES_KEPT = 1_024
_UNITS = frozenset({"request", "token", "call", "image"})
"""Of limits that count no money."""
_OF_A_LIMIT = frozenset({"name", "unit", "resets_at", "reset_s", "key_id", "kind", "window_s", "limited_by"})
_STEP_FIGURES = frozenset({"used", "held", "limit"})
_OF_A_NOTICE = frozenset({"message", "data", "once"})
_OPEN_NOTICES = frozenset(
    {"key.expiring", "key.paused", "creator.throttled", "anomaly.request_rate", "error_rate.above", "test"}
)
"""Kinds whose sentences and words name no amount of money."""


def without_money(value: Any) -> Any:
    """A copy of what `orjson.loads` returned, as deep as it goes, without the fields that are about money."""
    if isinstance(value, list):
        return [without_money(item) for item in value]
    if not isinstance(value, dict):
        return value
    fields = cast(Mapping[str, Any], value)
    hidden = _hidden(fields)
    return {name: without_money(item) for name, item in fields.items() if name not in hidden and not _is_money(name)}


@lru_cache(_NAMES_KEPT)
def _is_money(name: str) -> bool:
    """Of a thousand entries the same fifty names are asked for, which takes longer than all the rest."""
    return MONEY.search(name) is not None


def _hidden(fields: Mapping[str, Any]) -> frozenset[str]:
    """Names that are money's by what stands beside them."""
    if "unit" in fields and fields["unit"] not in _UNITS:
        return frozenset(fields) - _OF_A_LIMIT
    if fields.get("metric", "calls") != "calls":
        return frozenset(FIGURES)
    if "limit_name" in fields and "to_model" in fields:
        return _STEP_FIGURES  # a downgrade is a matter of budgets
    if "kind" in fields and "once" in fields:
        return frozenset({"data"}) if fields["kind"] in _OPEN_NOTICES else _OF_A_NOTICE
    return frozenset()
