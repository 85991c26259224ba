"""A request's fingerprint, made of its body while that is read: it tells a repetition from another request.

Two bodies are the same if their bytes are. In a form (`multipart/form-data`) the boundary does not count: SDKs draw a new
one for every try. Wherever it occurs, one byte stands in its place that no boundary can hold.

Of the body only a digest is kept, and of a form the few bytes that may be the begin of a boundary.
"""

import re
from collections.abc import Callable
from hashlib import sha256
from itertools import chain

from starlette.types import Message, Receive

__all__ = ["BodyHash", "form_boundary", "length_prefixed"]

_SLICE_BYTES = 64 * 2**10
"""What of a form is copied at once, however long the message is that it came in."""
_STAND_IN = b"\0"
_LABEL = b"fingerprint"
_LENGTH_BYTES = 8

_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
"""RFC 2046, 5.1.1. Neither escapes nor quotation marks, so that a quoted one stands as it is."""
_PARAMETER = re.compile(rb'[ \t]*;[ \t]*([^\s=;"]+)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s";]*))')
"""RFC 9110, 5.6.6."""


class BodyHash:
    """Lifetime: one request. `hashed` takes the place of its `receive`."""

    __slots__ = ("_boundary", "_digest", "_hasher", "_is_whole", "_receive", "_tail")

    def __init__(self, receive: Receive, content_type: bytes, hasher: Callable[[bytes], bytes]) -> None:
        """`hasher` makes a digest under a secret key (`Secrets.hasher`): what was asked cannot be guessed from it."""
        self._receive = receive
        self._hasher = hasher
        self._boundary = form_boundary(content_type)
        self._digest = sha256()
        self._tail = b""
        """The end of what came of a form, where a boundary may have begun; not in the digest yet."""
        self._is_whole = False

    async def hashed(self) -> Message:
        """The next message, as it came."""
        message = await self._receive()
        if message["type"] == "http.request":
            self._add(message.get("body", b""))
            self._is_whole = not message.get("more_body")
        return message

    def fingerprint(self, method: str, path: str) -> str:
        """Hex, the same for the same request. Raises `RuntimeError` unless the body was read to its end."""
        if not self._is_whole:
            raise RuntimeError("a body has its fingerprint once all of it was read")
        body = self._digest.copy()
        body.update(self._tail)
        return self._hasher(length_prefixed(_LABEL, method.encode(), path.encode(), body.digest())).hex()

    def _add(self, data: bytes) -> None:
        boundary = self._boundary
        if not boundary:
            self._digest.update(data)
            return
        view = memoryview(data)
        for start in range(0, len(data), _SLICE_BYTES):
            # The byte that stands for a boundary also keeps its neighbours from forming another: it is in none.
            text = b"".join((self._tail, view[start : start + _SLICE_BYTES])).replace(boundary, _STAND_IN)
            done = max(0, len(text) - len(boundary) + 1)
            self._digest.update(memoryview(text)[:done])
            self._tail = text[done:]


def form_boundary(content_type: bytes) -> bytes:
    """The boundary a form's content type names; empty for what is no form, or not a sound one."""
    kind, _, _ = content_type.partition(b";")
    if kind.strip().lower() != b"multipart/form-data":
        return b""
    at = len(kind)
    while match := _PARAMETER.match(content_type, at):
        name, quoted, plain = match.groups()
        if name.lower() == b"boundary":
            boundary = plain if quoted is None else quoted
            return boundary if _BOUNDARY.fullmatch(boundary) else b""
        at = match.end()
    return b""


def length_prefixed(*parts: bytes) -> bytes:
    """All of them in one: other parts never give the same."""
    return b"".join(chain.from_iterable((len(part).to_bytes(_LENGTH_BYTES, "big"), part) for part in parts))
