"""The catalog beside the public price lists that are installed, as the admin API and the pages show it.

Reading a list takes a good part of a second, so it is done in a thread, and kept for as long as catalog and day stand.
"""

import asyncio
import threading
from datetime import datetime
from typing import Any, NamedTuple

from gateway.catalog import Catalog
from gateway.errors import ConfigError
from gateway.price_references import Comparison, GenaiPrices, LitellmMap, Reference, compare, shown

__all__ = ["HOW_TO_INSTALL", "price_diff"]

HOW_TO_INSTALL = {
    "litellm": "pip install 'llm-gateway[providers]'",
    "genai-prices": "pip install 'llm-gateway[prices]'",
}


class _Kept(NamedTuple):
    catalog: Catalog
    day: str
    answer: dict[str, Any]


class _Desk:
    """The last comparison of this process. One is made at a time."""

    def __init__(self) -> None:
        self.kept: _Kept | None = None
        self._lock = threading.Lock()

    def compared(self, catalog: Catalog, now: datetime) -> dict[str, Any]:
        """On a thread: whoever comes meanwhile waits for what is being made."""
        with self._lock:
            kept, day = self.kept, _day(now)
            if kept is None or kept.catalog is not catalog or kept.day != day:
                kept = self.kept = _Kept(catalog, day, _compared(catalog, now))
            return kept.answer


_desk = _Desk()


async def price_diff(catalog: Catalog, now: datetime) -> dict[str, Any]:
    """Every figure in which a list that is installed differs from `catalog` on the day of `now` (UTC)."""
    kept = _desk.kept
    if kept is None or kept.catalog is not catalog or kept.day != _day(now):
        return await asyncio.to_thread(_desk.compared, catalog, now)
    return kept.answer


def _day(now: datetime) -> str:
    return now.strftime("%Y-%m-%d")


def _compared(catalog: Catalog, now: datetime) -> dict[str, Any]:
    return {
        "version": catalog.version,
        "on": _day(now),
        "references": [_reference_json(name, catalog, now) for name in HOW_TO_INSTALL],
    }


def _reference_json(name: str, catalog: Catalog, now: datetime) -> dict[str, Any]:
    try:
        reference: Reference | None = LitellmMap.installed() if name == "litellm" else GenaiPrices.installed(now)
    except ConfigError:
        return {**_empty(name), "problem": "its price map cannot be read, so not compared"}
    if reference is None:
        return {**_empty(name), "problem": f"not installed, so not compared: {HOW_TO_INSTALL[name]}"}
    return {**_empty(name), **_comparison_json(compare(catalog, reference)), "title": reference.name, "installed": True}


def _empty(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "title": name,
        "installed": False,
        "problem": None,
        "equal": 0,
        "differences": [],
        "unlisted": [],
    }


def _comparison_json(found: Comparison) -> dict[str, Any]:
    return {
        "equal": found.equal,
        "differences": [
            {
                "model": each.model,
                "key": each.key,
                "ours": None if each.ours is None else shown(each.ours),
                "theirs": shown(each.theirs),
            }
            for each in found.differences
        ],
        "unlisted": found.unlisted,
    }
