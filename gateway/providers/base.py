"""The contract of a provider: one call goes in, bytes in OpenAI's shape come out.

A provider opens an `Exchange`: it may connect at once, but writes no byte of the request before `gate` has resolved
(the hold is durable). Every failure is an `UpstreamFailure`, in `open` as in `read`, and says how much was sent, because
money and retries depend on it.
"""

from collections.abc import Awaitable, Callable
from typing import Literal, NamedTuple, Protocol

FailureKind = Literal[
    "unreachable",  # DNS, TCP, TLS or the connect deadline
    "died",  # the connection ended before the answer did
    "first_byte_timeout",
    "idle_timeout",
    "total_timeout",
    "invalid",  # not HTTP as we accept it: framing, bounds, encodings, redirects
]


class UpstreamFailure(Exception):
    """An exchange failed. `detail` is for logs only: our own words, never the provider's text, no secrets."""

    def __init__(self, kind: FailureKind, detail: str, *, is_sent: bool, is_fully_sent: bool) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail
        self.is_sent = is_sent
        """At least one byte of the request was written."""
        self.is_fully_sent = is_fully_sent


class Deadlines(NamedTuple):
    """Seconds. `connect` covers DNS, TCP and TLS; `first_byte` runs from the request sent; `idle` between reads;
    `total` from `open`. Deadlines are checked on a coarse tick, so they may be up to 0.25 s late, never early."""

    connect_s: float
    first_byte_s: float
    idle_s: float
    total_s: float


def _nothing() -> None:
    """For callers that need not know."""


class UpstreamRequest(NamedTuple):
    path: str
    """Below the provider's base URL, e.g. `/chat/completions`: OpenAI's, also for providers that have others."""
    body: bytes
    is_streaming: bool
    deadlines: Deadlines
    request_id: str
    on_dial: Callable[[], None] = _nothing
    """Called right before the first byte of the request is written."""
    content_type: str = "application/json"
    method: str = "POST"
    headers: tuple[tuple[str, str], ...] = ()
    """What an endpoint's own clients may say to its provider (`anthropic-beta`): names in lower case, values checked by
    the endpoint. Providers that translate look at none of it."""


class Exchange(Protocol):
    """One answer being received. Whoever opened it closes it in `finally`."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> dict[str, str]:
        """Lower-case names; the last of a repeated header wins. Only for our own reading: what reaches the client is
        chosen from an allow-list."""
        ...

    async def read(self) -> bytes:
        """The next bytes of the body as they came, `b""` at its end. Raises `UpstreamFailure`."""
        ...

    async def pour(self, take: Callable[[bytes], bool]) -> bool:
        """Hand the body to `take`, piece by piece as it comes, without waking a task for each.

        Returns true at the body's end, false when `take` returned false: nothing is handed over until the next `pour`.
        `take` must not raise. Raises `UpstreamFailure`.
        """
        ...

    def close(self) -> None:
        """Give the connection back if the answer was read to its end, else close it. May be called twice."""
        ...


class Provider(Protocol):
    name: str

    async def open(self, request: UpstreamRequest, gate: Awaitable[None]) -> Exchange:
        """Returns when the answer's head is here. Raises `UpstreamFailure`, or whatever `gate` raises."""
        ...

    async def close(self) -> None:
        """Close every connection. Nothing is opened afterwards."""
        ...
