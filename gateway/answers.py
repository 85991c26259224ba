"""What leaves towards the client: headers by allow-list, and a provider's refusals made safe to show.

A provider's 401, 402, 403 and `insufficient_quota` concern the operator, never the caller: they become 502
`provider_unavailable`. Its other errors pass through with secrets removed.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from math import ceil
from typing import Any

import orjson

from gateway.counters.base import LimitState, Refused
from gateway.errors import DO_NOT_RETRY, GatewayError, PolicyDenied, UpstreamError, error_body
from gateway.providers.base import FailureKind, UpstreamFailure
from gateway.responder import Header
from policies.refusals import explain
from policies.types import UNLIMITED, Deny

ERROR_BYTES_MAX = 256 * 1024
"""What is read of a provider's error answer."""

_PASSED_HEADERS = (
    ("openai-processing-ms", b"openai-processing-ms"),
    ("openai-version", b"openai-version"),
    ("x-request-id", b"x-upstream-request-id"),
    ("request-id", b"x-upstream-request-id"),  # Anthropic's word for it
)
_PASSED_ERROR_HEADERS = ("retry-after", "retry-after-ms", "x-should-retry")
_SAFE_VALUE_CHARS_MAX = 256
_WORD_CHARS_MAX = 64
_KEY_LIKE = re.compile(r"\b(?:sk|key|pk|xai|gsk|AIza)[-_][A-Za-z0-9_\-*]{8,}|\bAIza[A-Za-z0-9_\-]{20,}|Bearer\s+\S+")
_REQUEST_STATUSES = frozenset({400, 413, 422})
_TOO_LONG = re.compile(
    r"maximum context length|context[ _]length|context window|prompt is too long|input is too long|too many (?:input )?tokens"
    r"|input token count.{0,40}exceeds|exceeds? the (?:model's |maximum )?(?:context|number of tokens|input)",
    re.IGNORECASE,
)
"""How OpenAI, Anthropic, Gemini, vLLM, Groq, Mistral and Bedrock say that a prompt does not fit, as of 2026-11."""
_OPERATOR_CODES = frozenset({"insufficient_quota", "invalid_api_key"})
"""Also with another status: Google answers a bad key with 400."""
_OPERATOR_STATUSES = frozenset({401, 402, 403})

_RATELIMIT_UNITS = {
    unit: tuple(f"x-ratelimit-{what}-{unit}s".encode() for what in ("limit", "remaining", "reset"))
    for unit in ("request", "token")
}

_FAILURES: dict[FailureKind, tuple[int, str, str]] = {
    "unreachable": (502, "provider_unreachable", "The provider could not be reached."),
    "died": (502, "upstream_died", "The provider closed the connection before its answer was complete."),
    "first_byte_timeout": (504, "upstream_timeout", "The provider did not begin to answer in time."),
    "idle_timeout": (504, "upstream_timeout", "The provider went silent in the middle of its answer."),
    "total_timeout": (504, "upstream_timeout", "The provider did not finish its answer in time."),
    "invalid": (502, "upstream_invalid", "The provider's answer was not one this gateway accepts."),
}

_DENIED_STATUS = {
    "model_not_allowed": 403,
    "tier_not_allowed": 403,
    "endpoint_not_allowed": 403,
    "address_not_allowed": 403,
}
_DENIED_TYPE = {"insufficient_quota": "insufficient_quota"}


def limit_headers(states: Sequence[LimitState]) -> list[Header]:
    """`x-ratelimit-{limit,remaining,reset}-{requests,tokens}` of the tightest limit of each unit; none for no limit."""
    headers: list[Header] = []
    tightest: dict[str, tuple[int, int, float]] = {}
    for limit, settled, held, reset_s, _ in states:
        unit = limit.unit
        if unit in _RATELIMIT_UNITS and (capacity := limit.capacity) < UNLIMITED:
            remaining = capacity - settled - held
            if unit not in tightest or remaining < tightest[unit][0]:
                tightest[unit] = remaining, capacity, reset_s
    for name, (remaining, capacity, reset_s) in tightest.items():
        limit_name, remaining_name, reset_name = _RATELIMIT_UNITS[name]
        headers.append((limit_name, b"%d" % capacity))
        headers.append((remaining_name, b"%d" % remaining if remaining > 0 else b"0"))
        headers.append((reset_name, duration(reset_s)))
    return headers


def limit_json(state: LimitState) -> dict[str, Any]:
    """A limit as callers and admins read it; `limit` and `remaining` are null where there is none."""
    limit = state.limit
    is_limited = limit.capacity < UNLIMITED
    return {
        "name": limit.name,
        "unit": limit.unit,
        "limit": limit.capacity if is_limited else None,
        "used": state.settled,
        "held": state.held,
        "remaining": state.remaining if is_limited else None,
        "needed": limit.amount,
        "reset_s": ceil(state.reset_s),
    }


def duration(seconds: float) -> bytes:
    """Go's notation, which OpenAI's reset headers use: `1s`, `6m0s`, `1h0m0s`; below a second `350ms`."""
    if seconds < 1:
        return b"%dms" % max(0, round(seconds * 1000))
    # A difference of two clock readings is never a whole number.
    return _whole_duration(ceil(seconds - 0.0005))


@lru_cache(maxsize=4_096)
def _whole_duration(whole: int) -> bytes:
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return b"%dh%dm%ds" % (hours, minutes, rest)
    return b"%dm%ds" % (minutes, rest) if minutes else b"%ds" % rest


def upstream_headers(headers: dict[str, str], provider_key: str = "") -> list[Header]:
    """What of a provider's headers a client may see: never its limits, its organisation, its cookies, or our key."""
    passed: list[Header] = []
    for name, shown in _PASSED_HEADERS:
        if name in headers and (value := _safe(headers, name, provider_key)):
            passed.append((shown, value.encode("ascii")))
    return passed


def upstream_request_id(headers: dict[str, str], provider_key: str = "") -> str:
    """The provider's own id of the call; empty where it names none that is fit to be kept."""
    return _safe(headers, "x-request-id", provider_key) or _safe(headers, "request-id", provider_key) or ""


def denied(deny: Deny) -> PolicyDenied:
    """A policy's own refusal, before any limit was asked."""
    status = _DENIED_STATUS.get(deny.code, 429)
    return PolicyDenied(
        deny.message,
        status=status,
        type="permission_error" if status == 403 else _DENIED_TYPE.get(deny.code),
        code=deny.code,
        metadata={"policy": deny.policy},
        headers=DO_NOT_RETRY if status == 403 else None,
    )


def refused(refusal: Refused, now_unix: float) -> PolicyDenied:
    """A limit that did not fit, with the true wait; only what waiting heals soon may be retried by an SDK."""
    state = refusal.state
    limit = state.limit
    said = explain(
        limit,
        settled=state.settled,
        held=state.held,
        retry_after_s=refusal.retry_after_s,
        held_by_others=refusal.held_by_others,
    )
    metadata: dict[str, Any] = {
        "policy": said.deny.policy,
        "name": limit.name,
        "unit": limit.unit,
        "limit": limit.capacity,
        "settled": state.settled,
        "held": state.held,
        "remaining": state.remaining,
    }
    headers: dict[str, str] = {}
    wait = said.retry_after_s
    if wait is not None:
        if not refusal.held_by_others:  # else nothing resets: calls in flight give back
            # Rounded up, as the wait is: two clock readings lie in between.
            resets_at = ceil((now_unix + wait) * 10) / 10 if limit.resets_at is None else limit.resets_at
            metadata["reset_at"] = _instant(resets_at)
        headers["retry-after"] = str(max(1, ceil(wait)))
        headers["retry-after-ms"] = str(max(1, ceil(wait * 1000)))
    if not said.should_retry or said.deny.code == "insufficient_quota":
        headers.update(DO_NOT_RETRY)
    code = said.deny.code
    return PolicyDenied(said.deny.message, type=_DENIED_TYPE.get(code), code=code, metadata=metadata, headers=headers)


def upstream_failed(failure: UpstreamFailure) -> UpstreamError:
    """What the caller is told. Once the request was sent it may have cost something: an SDK must not repeat it unasked."""
    status, code, message = _FAILURES[failure.kind]
    return UpstreamError(message, status=status, code=code, headers=DO_NOT_RETRY if failure.is_fully_sent else None)


def upstream_invalid() -> UpstreamError:
    status, code, message = _FAILURES["invalid"]
    return UpstreamError(message, status=status, code=code, headers=DO_NOT_RETRY)


def provider_refusal(
    status: int, headers: dict[str, str], body: bytes, provider_key: str
) -> tuple[GatewayError, bytes]:
    """The error and the body a client gets for a provider's answer of 300 or more."""
    error = _error_of(body)
    said_codes = [word for name in ("code", "type") if isinstance(word := (error or {}).get(name), str)]
    if status in _OPERATOR_STATUSES or not _OPERATOR_CODES.isdisjoint(said_codes) or _is_bad_key(status, error):
        unavailable = UpstreamError(
            "The provider cannot be used right now; the operator of this gateway has to look after it.",
            code="provider_unavailable",
            headers=DO_NOT_RETRY,
        )
        return unavailable, unavailable.body()
    passed = {name: value for name in _PASSED_ERROR_HEADERS if (value := _safe(headers, name, provider_key))}
    said = error or {"code": "upstream_error"}
    message = redact(str(said.get("message") or "The provider answered with an error."), provider_key)
    kind = _word(said.get("type"), provider_key) or "upstream_error"
    code, param = _word(said.get("code"), provider_key), _word(said.get("param"), provider_key)
    if status in _REQUEST_STATUSES and (code == "context_length_exceeded" or _TOO_LONG.search(message)):
        # Clients shorten their prompt when they read this code; providers say it in many ways.
        status, kind, code = 400, "invalid_request_error", "context_length_exceeded"
        param = param or "messages"
    elif status == 529:  # Anthropic's word for an overload; SDKs and proxies know 503
        status = 503
    refusal = UpstreamError(message, status=status, type=kind, code=code, param=param, headers=passed)
    return refusal, error_body(message, kind, code, param)


def _is_bad_key(status: int, error: dict[str, Any] | None) -> bool:
    """Google's compatible endpoint tells it as the caller's mistake, in words alone."""
    message = error.get("message") if status == 400 and error else None
    return isinstance(message, str) and "API key not valid" in message


def parse_answer(body: bytes) -> dict[str, Any] | None:
    """A provider's whole answer, if it is a JSON object."""
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return parsed if isinstance(parsed, dict) else None


def redact(text: str, provider_key: str) -> str:
    """Without the provider's key and without anything that looks like one."""
    if provider_key:
        text = text.replace(provider_key, "[redacted]")
    return _KEY_LIKE.sub("[redacted]", text)


def redact_bytes(data: bytes, provider_key: str) -> bytes:
    """`redact` for bytes that need not be UTF-8; nothing else changes."""
    return redact(data.decode("utf-8", "surrogateescape"), provider_key).encode("utf-8", "surrogateescape")


def _word(value: object, provider_key: str) -> str | None:
    """A type, code or parameter: one short word, whatever the provider put there."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    text = redact(str(value), provider_key)
    return text if len(text) <= _WORD_CHARS_MAX and text.isprintable() else None


def _error_of(body: bytes) -> dict[str, Any] | None:
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if isinstance(parsed, list) and parsed:  # Gemini's compatible endpoint wraps its error in a list
        parsed = parsed[0]
    error = parsed.get("error") if isinstance(parsed, dict) else None
    if isinstance(error, str):  # Ollama's older shape
        return {"message": error}
    if error is None and isinstance(parsed, dict) and isinstance(parsed.get("message"), str):
        return parsed  # vLLM's and Mistral's, flat
    return error if isinstance(error, dict) else None


def _instant(unix_time: float) -> str | None:
    try:
        return datetime.fromtimestamp(unix_time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError):  # the end of the calendar's last month
        return None


def _safe(headers: dict[str, str], name: str, provider_key: str) -> str | None:
    value = headers.get(name)
    if not value or len(value) > _SAFE_VALUE_CHARS_MAX or not value.isascii() or not value.isprintable():
        return None
    return None if provider_key and provider_key in value else value
