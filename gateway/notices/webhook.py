"""Notices by HTTP: one POST, one status; and the webhook that is signed by the Standard Webhooks rules.

Loaded only where a webhook is configured. The format is that of the Standard Webhooks specification, version 1: the
headers `webhook-id` (the same in every attempt), `webhook-timestamp` (of the attempt, Unix seconds) and
`webhook-signature`; a body of `type`, `timestamp` (when it happened) and `data`; 2xx is a success, 410 says that nothing
is wanted any more, and 429 and 503 may name a time to come back.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx
import orjson
import standardwebhooks

from gateway.ledger.notices import Outgoing
from gateway.ledger.periods import rfc3339
from gateway.notices.targets import DeliveryError

__all__ = ["BODY_BYTES_MAX", "Poster", "Webhook"]

TIMEOUT_S = 10.0
BODY_BYTES_MAX = 20 * 1024
_ANSWER_BYTES_MAX = 1024
_GONE = 410
_ASKS_TO_WAIT = frozenset({429, 503})
_SECONDS_DIGITS_MAX = 9


class Poster:
    """Posts JSON to one address. Follows no redirect, asks no proxy of the environment, keeps no connection open.

    Notices are far apart: a connection that was kept would be one that the other side has closed.
    """

    def __init__(self, url: str) -> None:
        _quiet_library()
        self._url = url
        self._http = httpx.AsyncClient(
            headers={"content-type": "application/json", "accept-encoding": "identity", "user-agent": "llm-gateway"},
            verify=ssl.create_default_context(),  # the system's certificates, as for providers
            timeout=TIMEOUT_S,
            limits=httpx.Limits(max_connections=1, max_keepalive_connections=0),
            follow_redirects=False,
            trust_env=False,
        )

    async def post(self, body: bytes, headers: Mapping[str, str]) -> None:
        """Returns when the answer was 2xx. Raises `DeliveryError`, after ten seconds at the latest."""
        answer: httpx.Response | None = None
        try:
            async with (
                asyncio.timeout(TIMEOUT_S),
                self._http.stream("POST", self._url, content=body, headers=headers) as answer,
            ):
                await _read_a_little(answer)
        except (TimeoutError, httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as exc:
            # The status says it all: what came, or did not come, after it changes nothing.
            if answer is None:
                raise DeliveryError(_word(exc)) from None  # whose text may hold the address
        assert answer is not None  # noqa: S101 -- else it raised above
        if not answer.is_success:
            raise _refusal(answer)

    async def close(self) -> None:
        await self._http.aclose()


class Webhook:
    """Signed notices. `secret`: `whsec_` and base64."""

    name = "webhook"

    def __init__(self, url: str, secret: str, *, wall_clock: Callable[[], float]) -> None:
        self._poster = Poster(url)
        self._signer = standardwebhooks.Webhook(secret)
        self._wall_clock = wall_clock

    async def deliver(self, notice: Outgoing) -> None:
        data = {**notice.data, "id": notice.id, "creator": notice.creator, "message": notice.message}
        body = orjson.dumps({"type": notice.kind, "timestamp": rfc3339(notice.created_at), "data": data})
        # In UTC: the library takes the hour as it stands, whatever zone the instant is written in.
        sent_at = datetime.fromtimestamp(int(self._wall_clock()), UTC)
        headers = {
            "webhook-id": notice.id,
            "webhook-timestamp": str(int(sent_at.timestamp())),
            "webhook-signature": self._signer.sign(notice.id, sent_at, body.decode()),
        }
        await self._poster.post(body, headers)

    async def close(self) -> None:
        await self._poster.close()


async def _read_a_little(answer: httpx.Response) -> None:
    """Some servers give up a request whose answer nobody reads; no more than its beginning is taken."""
    read = 0
    async for chunk in answer.aiter_raw():
        read += len(chunk)
        if read >= _ANSWER_BYTES_MAX:
            return


def _refusal(answer: httpx.Response) -> DeliveryError:
    status = answer.status_code
    retry_after_s = _seconds(answer.headers.get("retry-after", "")) if status in _ASKS_TO_WAIT else None
    return DeliveryError(f"http_{status}", retry_after_s=retry_after_s, is_final=status == _GONE)


def _seconds(retry_after: str) -> float | None:
    """A number of seconds, or a date (RFC 9110, section 10.2.3); None for anything else."""
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return float(text) if len(text) <= _SECONDS_DIGITS_MAX else None
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    aware = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return max(0.0, (aware - datetime.now(UTC)).total_seconds())


def _word(exc: Exception) -> str:
    if isinstance(exc, (TimeoutError, httpx.TimeoutException)):
        return "timeout"
    if isinstance(exc, httpx.ConnectError):
        return "connect_failed"
    if isinstance(exc, httpx.InvalidURL):
        return "url_invalid"
    return "connection_broken"


def _quiet_library() -> None:
    """httpx tells the whole address of each request at the level INFO, httpcore its host and headers at DEBUG."""
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
