"""Ledger rows as the admin API shows them: JSON objects, and cells that a spreadsheet will not run.

Token totals are OpenAI's inclusive ones: `cached_input_tokens` and `cache_write_tokens` are part of `input_tokens`,
`reasoning_tokens` of `output_tokens`. Images, seconds of audio and characters of speech are one column of the tables, which
the endpoint tells apart; here each has its own. Money is there twice: an exact integer of nano-dollars, and dollars as an exact
decimal string without trailing zeros.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from gateway.decision import decision_json
from gateway.json_depth import is_too_deep
from gateway.ledger.periods import rfc3339
from gateway.ledger.schema import ENTRY_COLUMNS
from gateway.ledger.statements import Row
from gateway.pricing import usd
from gateway.usage import PIECE_NAMES, PIECES_OF_ENDPOINT, Usage

__all__ = ["ENTRY_FIELDS", "csv_header", "csv_line", "entry_json", "explained_json", "sums_json"]

_AMOUNTS = frozenset({"cost_usd", "charge_usd", "saved_usd"})
"""Decimal strings that we made: numbers, whatever they start with."""
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")
_NEEDS_QUOTES = frozenset('",\r\n')


def entry_json(row: Row) -> Row:
    """One row of `entries`, with or without its `decision`, which is not shown."""
    return {
        "id": row["id"],
        "request_id": row["request_id"],
        "attempt": row["attempt"],
        "attempts": row["attempt"],
        "final": row["final"],
        "kind": row["kind"],
        "creator": row["creator"],
        "account_id": row["account_id"],
        "key_id": row["key_id"],
        "feature": row["feature"],
        "agent": row["agent"],
        "tags": row["tags"].split(",") if row["tags"] else [],
        # What no answer could hold was kept once, and must not keep all others of its page from being told.
        "metadata": {} if is_too_deep(row["metadata"]) else _json(row["metadata"], {}),
        "endpoint": row["endpoint"],
        "requested_model": row["requested_model"],
        "served_model": row["served_model"],
        "provider": row["provider"],
        "price_version": row["price_version"],
        "charge_price_version": row["charge_price_version"],
        "variant": row["variant"],
        **_tokens(row),
        **_pieces(row),
        "cost_nano_usd": row["cost_nano_usd"],
        "cost_usd": usd(row["cost_nano_usd"]),
        "charge_nano_usd": row["charge_nano_usd"],
        "charge_usd": usd(row["charge_nano_usd"]),
        "payer": row["payer"],
        "payer_unit": row["payer_unit"],
        "payer_amount": row["payer_amount"],
        "saved_nano_usd": row["saved_nano_usd"],
        "saved_usd": usd(row["saved_nano_usd"]),
        "usage_source": row["usage_source"],
        "outcome": row["outcome"],
        "flags": row["flags"].split(",") if row["flags"] else [],
        "error": row["error"],
        "status": row["status"],
        "cached": row["cached"],
        "is_streaming": row["is_streaming"],
        "latency_ms": row["latency_ms"],
        "ttft_ms": row["ttft_ms"],
        "free_attempts": _json(row["free_attempts"], []),
        "downgrade_reason": row["downgrade_reason"],
        "client_request_id": row["client_request_id"],
        "upstream_request_id": row["upstream_request_id"],
        "corrects": row["corrects"],
        "period_day": row["period_day"],
        "period_month": row["period_month"],
        "admitted_at": rfc3339(row["admitted_at"]),
        "created_at": rfc3339(row["created_at"]),
    }


def explained_json(row: Row) -> Row:
    """One row of `entries` with the `decision` that let the call in: the limits as they stood, the estimate, downgrades.

    None where none was kept. Too long for lists: for whoever asks about one call.
    """
    return {**entry_json(row), "decision": decision_json(row["decision"])}


def sums_json(row: Mapping[str, Any]) -> Row:
    """The sums of rollup rows as `gateway.ledger.queries.costs` has them, without their keys."""
    return {
        "calls": row["calls"],
        "attempts": row["attempts"],
        "errors": row["errors"],
        **_tokens(row),
        **{name: row[name] for name in PIECE_NAMES},
        "cost_nano_usd": row["cost_nano_usd"],
        "cost_usd": usd(row["cost_nano_usd"]),
        "charge_nano_usd": row["charge_nano_usd"],
        "charge_usd": usd(row["charge_nano_usd"]),
        "saved_nano_usd": row["saved_nano_usd"],
        "saved_usd": usd(row["saved_nano_usd"]),
    }


def csv_header(names: Iterable[str]) -> str:
    return ",".join(names) + "\r\n"


def csv_line(row: Mapping[str, Any]) -> str:
    """One line of RFC 4180, its end included.

    A text that a spreadsheet would take for a formula (it starts with `= + - @`, a tab or a line break) is quoted and gets
    a `'` in front; numbers stay as they are, negative ones too. Lists are joined by commas, objects are JSON.
    """
    return ",".join(value if name in _AMOUNTS else _cell(value) for name, value in row.items()) + "\r\n"


def _tokens(row: Mapping[str, Any]) -> dict[str, int]:
    usage = Usage(*(row[name] for name in Usage._fields))
    return {
        "input_tokens": usage.input_tokens,
        "cached_input_tokens": usage.cached_input,
        "cache_write_tokens": usage.cache_write,
        "audio_input_tokens": usage.audio_input,
        "image_input_tokens": usage.image_input,
        "output_tokens": usage.output_tokens,
        "reasoning_tokens": usage.reasoning,
        "audio_output_tokens": usage.audio_output,
        "image_output_tokens": usage.image_output,
    }


def _pieces(row: Mapping[str, Any]) -> dict[str, int]:
    """The pieces of an entry under their name, and none of all others."""
    pieces = dict.fromkeys(PIECE_NAMES, 0)
    pieces[PIECES_OF_ENDPOINT.get(row["endpoint"], "images")] = row["pieces"]
    return pieces


def _json(text: str, empty: Any) -> Any:
    return orjson.loads(text) if text else empty


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        text = value
    elif isinstance(value, list) and all(isinstance(item, str) for item in value):
        text = ",".join(value)
    else:
        text = orjson.dumps(value).decode() if value else ""
    if text.startswith(_FORMULA_STARTS):
        text = "'" + text
    elif _NEEDS_QUOTES.isdisjoint(text):
        return text
    return '"' + text.replace('"', '""') + '"'


ENTRY_FIELDS = tuple(
    entry_json({**dict.fromkeys(ENTRY_COLUMNS, 0), "tags": "", "metadata": "", "flags": "", "free_attempts": ""})
)
"""The names of an entry's fields, in their order."""
