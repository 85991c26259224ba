"""What lists take in their query strings. Whatever is unknown or wrong is refused, never ignored."""

import base64
import binascii
from collections.abc import Collection, Mapping
from datetime import UTC, date, datetime
from typing import NoReturn, cast

from starlette.datastructures import QueryParams
from starlette.requests import Request

from gateway.errors import RequestError
from gateway.ledger.database import Database
from gateway.ledger.ids import is_entry_id
from gateway.ledger.periods import ms_of

__all__ = [
    "choice",
    "database_of",
    "day",
    "entry_cursor",
    "instant_ms",
    "known_parameters",
    "pages_only",
    "read_entry_cursor",
    "refuse",
    "whole_number",
    "yes_or_no",
]

_TEXT_CHARS_MAX = 256
_CURSOR_MARK = b"e1:"


def database_of(request: Request) -> Database:
    return cast(Database, request.app.state.database)


def known_parameters(query: QueryParams, known: Collection[str]) -> Mapping[str, str]:
    """The query string as a mapping. Raises `RequestError` for an unknown name, a repeated one and an endless value."""
    found: dict[str, str] = {}
    for name, value in query.multi_items():
        if name not in known:
            raise RequestError(
                f"A parameter of the query is not known here; these are: {', '.join(sorted(known))}.",
                code="unknown_parameter",
            )
        if name in found:
            refuse(name, "is given twice")
        if len(value) > _TEXT_CHARS_MAX:
            refuse(name, f"takes at most {_TEXT_CHARS_MAX} characters")
        found[name] = value
    return found


def pages_only(query: Mapping[str, str], *names: str) -> None:
    """Raises `RequestError` for a parameter of pages where a file was asked for, which holds all that fits."""
    for name in names:
        if name in query:
            refuse(name, "is for pages of JSON; `format=csv` holds all that fits")


def refuse(name: str, reason: str) -> NoReturn:
    raise RequestError(f"`{name}` {reason}.", code="invalid_value", param=name)


def choice(query: Mapping[str, str], name: str, allowed: Collection[str], default: str | None = None) -> str | None:
    value = query.get(name, default)
    if value is not None and value not in allowed:
        refuse(name, f"takes one of: {', '.join(sorted(allowed))}")
    return value


def yes_or_no(query: Mapping[str, str], name: str) -> bool | None:
    value = choice(query, name, {"true", "false"})
    return None if value is None else value == "true"


def whole_number(query: Mapping[str, str], name: str, *, default: int, least: int, most: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(most)) and least <= int(text) <= most):
        refuse(name, f"takes a whole number from {least} to {most}")
    return int(text)


def day(query: Mapping[str, str], name: str) -> str | None:
    """A day as `YYYY-MM-DD`."""
    text = query.get(name)
    if text is None:
        return None
    found = _date(text)
    if found is None:
        refuse(name, "takes a day such as 2026-05-31 (UTC)")
    return found.isoformat()


def instant_ms(query: Mapping[str, str], name: str) -> int | None:
    """A day (its first instant, UTC) or an RFC 3339 instant, in milliseconds since 1970; never below 0."""
    text = query.get(name)
    if text is None:
        return None
    found = _date(text)
    if found is not None:
        return max(0, ms_of(datetime.combine(found, datetime.min.time(), UTC)))
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        refuse(
            name, "takes a day such as 2026-05-31 or an RFC 3339 instant such as 2026-05-31T12:00:00Z (write + as %2B)"
        )
    return max(0, ms_of(at))


def entry_cursor(id: str) -> str:
    """Where a page of entries ended, as its `next_cursor`."""
    return base64.urlsafe_b64encode(_CURSOR_MARK + id.encode()).decode().rstrip("=")


def read_entry_cursor(text: str | None) -> str | None:
    """The id of the last entry shown. Raises `RequestError` for what no answer gave out."""
    if text is None:
        return None
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    entry_id = raw.removeprefix(_CURSOR_MARK).decode("ascii", "replace")
    if not raw.startswith(_CURSOR_MARK) or not is_entry_id(entry_id):
        refuse("cursor", "takes the `next_cursor` of an answer")
    return entry_id


def _date(text: str) -> date | None:
    try:
        found = date.fromisoformat(text)
    except ValueError:
        return None
    return found if found.isoformat() == text else None
