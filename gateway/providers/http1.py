"""Reading one HTTP/1.1 answer from the bytes of a connection, whatever pieces they come in. No sockets, no clock.

llhttp (through httptools, leniencies off) reads heads and chunks; where a head ends and how long a body is we count
ourselves as well, and an answer is accepted only where both agree: two opinions about framing are how one call's bytes
end up in another's answer. Heads and chunk framing are bounded here; the body is not kept longer than its reader wants.
"""

import re
from typing import Final, NamedTuple

import httptools

# What is expected next, in the order a call goes through it.
REST: Final = 0
HEAD: Final = 1
LENGTH: Final = 2
CHUNKED: Final = 3
UNTIL_EOF: Final = 4
ENDED: Final = 5
FAILED: Final = 6

_CHUNK_SLACK_BYTES: Final = 16 * 1024
"""How much chunk framing, extensions and trailers may exceed what sane chunks need: 16 bytes a piece and twice the
body, the rule Go's net/http settled on."""

_HEAD_END: Final = b"\r\n\r\n"
_VERSIONS: Final = (b"HTTP/1.1 ", b"HTTP/1.0 ")
_BARE_LF: Final = re.compile(rb"(?<!\r)\n")
_ONCE_ONLY: Final = frozenset(("content-length", "transfer-encoding", "content-encoding"))


class Bounds(NamedTuple):
    """What an answer's head may weigh, interim answers included."""

    answer_head_bytes_max: int
    headers_max: int


class Invalid(Exception):
    """The upstream spoke HTTP as we do not accept it; the text is ours and safe to log."""


class Answer:
    """Reads the answers of one connection, one after the other: `begin`, `feed` until `phase` is ENDED, again.

    `take` hands out the body. The owner may set `phase` to REST or FAILED.
    """

    __slots__ = (
        "_bounds",
        "_chunk_overhead",
        "_flaw",
        "_head_bytes",
        "_held",
        "_is_complete",
        "_is_head_parsed",
        "_parser",
        "_remaining",
        "_tail",
        "has_bytes",
        "has_head",
        "headers",
        "is_clean",
        "phase",
        "pieces",
        "status",
        "unread_bytes",
    )

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._parser = httptools.HttpResponseParser(self)
        # As long as a call.
        self.phase: int = REST
        self.status = 0
        self.headers: dict[str, str] = {}
        """Lower-case names, the last of a repeated one; never trailers. A new dictionary for every answer."""
        self.has_head = False
        self.has_bytes = False
        """Something has come, be it a single byte of an interim answer."""
        self.is_clean = True
        """Nothing was seen that forbids another call on this connection."""
        self.pieces: list[bytes] = []
        self.unread_bytes = 0
        self._held = bytearray()
        self._head_bytes = 0
        self._remaining = 0
        self._chunk_overhead = 0
        self._tail = b""
        # As long as a message, of which a call may have several (interim answers).
        self._is_head_parsed = False
        self._is_complete = False
        self._flaw: str | None = None

    def begin(self) -> None:
        """Expect an answer."""
        self.phase = HEAD
        self.headers = {}
        self.has_head = self.has_bytes = False
        self.is_clean = True
        self._head_bytes = 0
        self._chunk_overhead = 0
        self._tail = b""

    def feed(self, data: bytes) -> None:
        """The next bytes, in one of the phases from HEAD to UNTIL_EOF. Raises: Invalid."""
        phase = self.phase
        if phase == HEAD:
            self._take_head(data)
        elif phase == LENGTH:
            self._take_length(data)
        elif phase == CHUNKED:
            self._take_chunks(data)
        else:
            self._keep(data)

    def end_of_file(self) -> None:
        """The upstream closed in good order, which ends a body without framing of its own."""
        if self.phase == UNTIL_EOF:
            self.is_clean = False
            self.phase = ENDED

    def take(self) -> bytes:
        """All that has come of the body since, which may be nothing."""
        pieces = self.pieces
        if not pieces:
            return b""
        self.pieces = []
        self.unread_bytes = 0
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    # What the parser tells. It may run past the end of a message; nothing of what follows is kept.

    def on_message_begin(self) -> None:
        if self._is_complete:
            self.is_clean = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.phase != HEAD:
            return  # a trailer
        lower = name.decode("latin-1").lower()
        headers = self.headers
        if lower in headers and lower in _ONCE_ONLY:
            self._flaw = f"{lower} was given twice"
        headers[lower] = value.decode("latin-1").rstrip(" \t")

    def on_headers_complete(self) -> None:
        self._is_head_parsed = True

    def on_body(self, data: bytes) -> None:
        if not self._is_complete:
            self._keep(data)

    def on_message_complete(self) -> None:
        if not self._is_complete:
            self._is_complete = True
            # Only in here does llhttp answer for the message that ended; afterwards it says no to everything.
            if not self._parser.should_keep_alive():
                self.is_clean = False

    # The head.

    def _take_head(self, data: bytes) -> None:
        self.has_bytes = True
        held: bytes | bytearray = data
        searched = 0
        if self._held:
            held = self._held
            searched = max(0, len(held) - len(_HEAD_END) + 1)
            held += data
        begin = 0
        while (end := held.find(_HEAD_END, searched)) >= 0:
            end += len(_HEAD_END)
            self._head_bytes += end - begin
            if self._head_bytes > self._bounds.answer_head_bytes_max:
                raise Invalid("the answer's head is too large")
            self._read_head(bytes(held[begin:end]))
            begin = searched = end
            if self.has_head:
                self._held = bytearray()
                self._begin_body(bytes(held[begin:]))
                return
        self._hold(held, begin, searched)

    def _hold(self, held: bytes | bytearray, begin: int, searched: int) -> None:
        """Keep the piece of a head for the next read, unless it can be no head already."""
        if begin or held is not self._held:
            searched = max(0, searched - begin)
            held = self._held = bytearray(held[begin:])
        if self._head_bytes + len(held) > self._bounds.answer_head_bytes_max:
            raise Invalid("the answer's head is too large")
        start = bytes(held[: len(_VERSIONS[0])])
        if not any(version.startswith(start) for version in _VERSIONS):
            raise Invalid("the answer is not HTTP/1.1 or HTTP/1.0")
        if _BARE_LF.search(held, searched):
            raise Invalid("the answer's head is malformed")

    def _read_head(self, head: bytes) -> None:
        """Judge one head, of the answer or of an interim one."""
        if not head.startswith(_VERSIONS):
            raise Invalid("the answer is not HTTP/1.1 or HTTP/1.0")
        if head.count(b"\r\n") - 2 > self._bounds.headers_max:
            raise Invalid("the answer has too many headers")
        self.headers = {}
        self._is_head_parsed = self._is_complete = False
        self._flaw = None
        try:
            self._parser.feed_data(head)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            raise Invalid("the answer's head is malformed") from None
        if self._flaw is not None:
            raise Invalid(self._flaw)
        if not self._is_head_parsed:
            raise Invalid("the answer's head does not end where it seems to")
        status = self._parser.get_status_code()
        if 100 <= status < 200:
            self._skip_interim()
            return
        self.status = status
        self.phase = self._framing(status, is_http10=head.startswith(_VERSIONS[1]))
        if self._is_complete and self.phase != LENGTH:
            raise Invalid("the answer ends before its body")
        self.has_head = True

    def _skip_interim(self) -> None:
        # 101 never comes here: llhttp stops at it, as nobody asked for another protocol.
        if not self._is_complete or "content-length" in self.headers or "transfer-encoding" in self.headers:
            raise Invalid("an interim answer has a body")

    def _framing(self, status: int, *, is_http10: bool) -> int:
        """How the body ends: RFC 9112, 6.3, without the cases that implementations are known to read differently."""
        if not 200 <= status < 600:
            raise Invalid("the answer's status is unknown")
        if 300 <= status < 400:
            raise Invalid("the answer is a redirect")
        if self.headers.get("content-encoding", "identity").lower() not in ("identity", ""):
            raise Invalid("the answer is compressed although identity was asked for")
        if is_http10:
            # Old proxies pass "Connection: keep-alive" on without understanding it.
            self.is_clean = False
        encoding = self.headers.get("transfer-encoding")
        length = self.headers.get("content-length")
        if encoding is not None and (length is not None or is_http10 or encoding.lower() != "chunked"):
            raise Invalid("the answer's transfer-encoding is not plain chunked")
        if length is not None and not (length.isascii() and length.isdigit() and len(length) <= 15):
            raise Invalid("the answer's content-length is no length")
        if status == 204:
            self._remaining = 0
            return LENGTH
        if encoding is not None:
            return CHUNKED
        if length is not None:
            self._remaining = int(length)
            return LENGTH
        return UNTIL_EOF

    # The body.

    def _begin_body(self, data: bytes) -> None:
        """The head is judged; `data` is what came behind it in the same read."""
        if self.phase == LENGTH:
            self._take_length(data)
        elif data:
            self.feed(data)

    def _take_length(self, data: bytes) -> None:
        if len(data) > self._remaining:
            data = data[: self._remaining]
            self.is_clean = False
        self._remaining -= len(data)
        if data:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserError:
                raise Invalid("the answer's body is malformed") from None
        if self._is_complete != (self._remaining == 0):
            raise Invalid("the answer's body does not end where it should")
        if self._is_complete:
            self.phase = ENDED

    def _take_chunks(self, data: bytes) -> None:
        unread, pieces = self.unread_bytes, len(self.pieces)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if not self._is_complete:
                raise Invalid("the answer's chunks are malformed") from None
            self.is_clean = False  # what came behind the end made no sense, which the answer need not suffer for
        self._tail = data[-5:] if len(data) >= 5 else (self._tail + data)[-5:]
        if self._is_complete:
            # llhttp skips stray line ends between messages; here they are bytes after the end like any others. A
            # chunked message ends in the empty line behind its last size or trailer: in exactly two line ends.
            if not self._tail.endswith(_HEAD_END) or self._tail[0] in b"\r\n":
                self.is_clean = False
            self.phase = ENDED
            return
        body, pieces = self.unread_bytes - unread, len(self.pieces) - pieces
        self._chunk_overhead = max(0, self._chunk_overhead + len(data) - 3 * body - 16 * pieces)
        if self._chunk_overhead > _CHUNK_SLACK_BYTES:
            raise Invalid("the answer's chunks are mostly framing")

    def _keep(self, data: bytes) -> None:
        self.pieces.append(data)
        self.unread_bytes += len(data)
