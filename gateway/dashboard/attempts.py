"""How often somebody may try a key at sign-in: a guess costs an attempt, and attempts run out.

Counted are those that failed within the last minute, and those still being looked at, so that many at once are many.
Altogether there are no more than `_ALL_MAX`, which also bounds what has to be remembered. A process counts for itself.
"""

import math
from collections import deque
from collections.abc import Callable
from ipaddress import IPv6Address, ip_network

from gateway.errors import RequestError

__all__ = ["Attempts"]

_PER_ADDRESS_MAX = 10
_ALL_MAX = 100
_WINDOW_S = 60.0
_IPV6_PREFIX = 64
"""Of IPv6 a subscriber has a network of this size at least, and with it any number of addresses."""

_Attempt = tuple[float, str]


class Attempts:
    """Lifetime: the process. `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failed: deque[_Attempt] = deque()

    def begin(self, address: str) -> _Attempt:
        """An attempt from `address` (an IP address in its shortest form, or nothing), failed until `forgive` says else.

        Raises `RequestError` (429) with `retry-after` where too many failed: then no key is looked at, right or wrong.
        """
        now, source = self._clock(), _source(address)
        while self._failed and self._failed[0][0] <= now - _WINDOW_S:
            self._failed.popleft()
        same = [at for at, known in self._failed if known == source]
        if len(same) >= _PER_ADDRESS_MAX:
            raise _too_many(same[0] + _WINDOW_S - now)
        if len(self._failed) >= _ALL_MAX:
            raise _too_many(self._failed[0][0] + _WINDOW_S - now)
        attempt = (now, source)
        self._failed.append(attempt)
        return attempt

    def forgive(self, attempt: _Attempt) -> None:
        """It did not fail, or not because of its key."""
        if attempt in self._failed:
            self._failed.remove(attempt)


def _source(address: str) -> str:
    if ":" not in address:
        return address
    return str(ip_network((IPv6Address(address), _IPV6_PREFIX), strict=False))


def _too_many(wait_s: float) -> RequestError:
    seconds = max(1, math.ceil(wait_s))
    return RequestError(
        f"Too many keys were refused here. Try again in {seconds} s.",
        status=429,
        code="sign_in_limited",
        headers={"retry-after": str(seconds)},
    )
