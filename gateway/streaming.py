"""Server-sent events relayed byte for byte; the usage read off their tail.

`SseRelay.feed` takes bytes as the upstream sent them and returns what may go to the client now:

1. only whole events travel on; an incomplete one waits, since no client can use it and it may be the one we hold back;
2. a block of events is scanned for a few words (`"completion_tokens"`, `"choices":[]`, `"error"`, `[DONE]`) and parsed
   only where one is found (0.2 µs a block instead of 1 µs an event);
3. the usage event that only we asked for (`choices` empty, `usage` an object) is dropped; nothing else is changed;
4. from `[DONE]` on everything is held back, until the call is settled;
5. what was relayed is kept up to 8 KB and then folded (parsed, counted, dropped), so that a stream that breaks can be
   charged by the written rule: max(non-empty delta events, ceil(UTF-8 bytes of what it said / 4)) output tokens.

Sizes are bytes. Any split of the same bytes gives the same output and the same usage.
"""

import re
from collections.abc import Sequence
from typing import Any

import orjson

from gateway.errors import GatewayError, error_body
from gateway.relay import EVENT_STREAM, EventTooLarge, Guard
from gateway.responder import Header

_FOLD_BYTES = 8_192
_CHOICES_MAX = 1_024
"""Indexes a hostile upstream may make us remember."""
_USAGE_WORD = b'"completion_tokens"'
_EMPTY_CHOICES, _EMPTY_CHOICES_SPACED = b'"choices":[]', b'"choices": []'
"""An event that exists for its usage alone, whatever that says."""
_ERROR_WORD = b'"error"'
_DONE_WORD = b"[DONE]"
_BOM = b"\xef\xbb\xbf"
"""Allowed in front of a stream, and no part of its first line."""
# A blank line: two line ends in a row, each LF, CR or CRLF. A CR at the very end may still become CRLF.
_BOUNDARY = re.compile(rb"\n\n|\n\r\n|\r\r\n|\n\r(?!\Z)|\r\r(?!\Z)")
_TEXT_KEYS = frozenset({"content", "refusal", "reasoning_content", "reasoning"})
_LINE_END = re.compile(rb"\r\n|\n|\r")


class SseRelay:
    __slots__ = (
        "_choices",
        "_choices_finished",
        "_choices_seen",
        "_delta_events",
        "_event_bytes_max",
        "_held",
        "_is_done",
        "_kept",
        "_kept_bytes",
        "_redact",
        "_secret",
        "_strip_usage",
        "_tail",
        "_text_bytes",
        "has_error_event",
        "service_tier",
        "usage",
    )

    def __init__(self, guard: Guard, *, strip_usage: bool, choices: int = 1) -> None:
        """`choices` is how many the caller wants."""
        self._redact = guard.redact
        self._secret = guard.secret
        self._choices = choices
        self._strip_usage = strip_usage
        self._event_bytes_max = guard.event_bytes_max
        self._tail = bytearray()
        self._held: list[bytes] = []
        self._is_done = False
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._delta_events = 0
        self._text_bytes = 0
        self._choices_seen: set[int] = set()
        self._choices_finished: set[int] = set()
        self.usage: Any = None
        """The last usage object seen, unjudged; None when there was none."""
        self.service_tier: Any = None
        """The one reported with it; `reported_tier` looks further."""
        self.has_error_event = False

    @property
    def head(self) -> Sequence[Header]:
        return EVENT_STREAM

    def feed(self, data: bytes) -> bytes:
        """What may go to the client now. Raises `EventTooLarge`."""
        tail = self._tail
        if not tail and data.endswith(b"\n\n"):
            return self._take(data)
        tail += data
        cut = last_boundary(tail, max(0, len(tail) - len(data) - 3))
        if not cut:
            if len(tail) > self._event_bytes_max:
                raise EventTooLarge
            return b""
        block = bytes(tail[:cut])
        del tail[:cut]
        return self._take(block)

    def finish(self, *, is_cut: bool = False) -> bytes:
        """What the end of the upstream's body releases: a last event without its blank line, if the stream is complete.

        An incomplete last event of a broken stream is dropped: it would break the client's parser before our error
        event could reach it.
        """
        if not self._tail:
            return b""
        block = bytes(self._tail)
        self._tail.clear()
        released = self._take(block)
        return released if self.is_complete or is_whole(block) else b""

    @property
    def is_done(self) -> bool:
        """`[DONE]` was seen: nothing that follows concerns the client."""
        return self._is_done

    @property
    def is_complete(self) -> bool:
        """The stream said all it had to say: `[DONE]`, or a finish_reason for every choice."""
        if self._is_done:
            return True
        self._fold()
        return len(self._choices_seen) >= self._choices and self._choices_seen == self._choices_finished

    def held_back(self) -> bytes:
        """The terminal event and what followed it, to be sent once the call is settled."""
        return b"".join(self._held)

    def error_event(self, error: GatewayError) -> bytes | None:
        return b"data: " + error_body(error.message, error.type, error.code, error.param) + b"\n\n"

    def output_tokens_estimate(self) -> int:
        """Output by the written rule, of all that came and is no usage, error or terminal event."""
        self._fold()
        return max(self._delta_events, -(-self._text_bytes // 4))

    def reported_tier(self) -> Any:
        """The last service tier that any event named; None when none did."""
        if not self.service_tier:
            self._fold()
        return self.service_tier

    def _take(self, block: bytes) -> bytes:
        if (
            self._is_done
            or _USAGE_WORD in block
            or _EMPTY_CHOICES in block
            or _EMPTY_CHOICES_SPACED in block
            or _DONE_WORD in block
            or _ERROR_WORD in block
            or (self._secret and self._secret in block)
        ):
            return b"".join([self._relayed(event) for event in split_events(block)])
        self._keep(block)
        return block

    def _relayed(self, event: bytes) -> bytes:
        """The event, or nothing where it is ours alone or held back."""
        payload = payload_of(event)
        if self._secret and self._secret in event:
            event = self._redact(event)
        if payload.startswith(_DONE_WORD):
            self._is_done = True
        elif message := parse_payload(payload):
            if message.get("error"):
                self.has_error_event = True
                event = self._redact(event)
            # Judged by the event alone, so that its neighbours in a block change nothing.
            if _says_of_usage(event) and self._is_own_usage(message):
                return b""
        elif _USAGE_WORD in payload:
            # A report with numbers that are none (NaN, 1e400). No client could parse it, and it says nothing.
            self.usage = {}
            if self._strip_usage:
                return b""
        if self._is_done:
            self._held.append(event)
            return b""
        self._keep(event)
        return event

    def _is_own_usage(self, message: dict[str, Any]) -> bool:
        """Notes usage on the way; true for the event that exists only because we asked for usage."""
        usage = message.get("usage")
        if not isinstance(usage, dict):
            return False
        self.usage = usage
        self.service_tier = message.get("service_tier") or self.service_tier
        return self._strip_usage and message.get("choices") == []

    def _keep(self, block: bytes) -> None:
        self._kept.append(block)
        self._kept_bytes += len(block)
        if self._kept_bytes > _FOLD_BYTES:
            self._fold()

    def _fold(self) -> None:
        """Count what was kept, and let it go."""
        if not self._kept:
            return
        payloads = payloads_of(b"".join(self._kept))
        self._kept.clear()
        self._kept_bytes = 0
        try:
            # One parse for all costs half of one for each.
            messages: list[Any] = orjson.loads(b"[%b]" % b",".join(payloads))
        except orjson.JSONDecodeError:
            messages = []
        if len(messages) != len(payloads) or not all(type(message) is dict for message in messages):
            # Something in there is not what it should be: each is judged by itself.
            messages = [parse_payload(payload) for payload in payloads]
        for payload, message in zip(payloads, messages, strict=True):
            if message is not None:
                self._count(message)
            elif _USAGE_WORD not in payload:
                # Not JSON, yet it was relayed: what a client may have read is never free.
                self._delta_events += 1
                self._text_bytes += len(payload)

    def _count(self, message: dict[str, Any]) -> None:
        choices = message.get("choices")
        if type(choices) is not list or message.get("error"):
            return
        if tier := message.get("service_tier"):
            self.service_tier = tier
        said = 0
        for choice in choices:
            if type(choice) is not dict:
                continue
            index = choice.get("index", 0)
            if type(index) is int and 0 <= index < _CHOICES_MAX:
                self._choices_seen.add(index)
                if choice.get("finish_reason"):
                    self._choices_finished.add(index)
            delta = choice.get("delta")
            if delta:
                said += text_bytes(delta)
            elif type(text := choice.get("text")) is str:  # a completion of the older kind
                said += utf8_bytes(text)
        if said:
            self._delta_events += 1
            self._text_bytes += said


def text_bytes(message: object) -> int:
    """UTF-8 bytes of what a message or delta says: content, refusal, reasoning, tool names and arguments."""
    if not isinstance(message, dict):
        return 0
    total = 0
    for key, value in message.items():
        if not value:
            continue
        if key in _TEXT_KEYS:
            if isinstance(value, str):
                total += utf8_bytes(value)
            elif isinstance(value, list):
                total += sum(utf8_bytes(part["text"]) for part in value if _has_text(part))
        elif key == "tool_calls" and isinstance(value, list):
            total += sum(_function_bytes(call.get("function")) for call in value if isinstance(call, dict))
        elif key == "function_call":
            total += _function_bytes(value)
    return total


def _function_bytes(function: object) -> int:
    if not isinstance(function, dict):
        return 0
    return sum(utf8_bytes(part) for key in ("name", "arguments") if isinstance(part := function.get(key), str))


def utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def _has_text(part: object) -> bool:
    return isinstance(part, dict) and isinstance(part.get("text"), str)


def _says_of_usage(event: bytes) -> bool:
    return _USAGE_WORD in event or _EMPTY_CHOICES in event or _EMPTY_CHOICES_SPACED in event


def is_whole(block: bytes) -> bool:
    """Whether the last event of a body that has ended has its blank line: a CR there becomes no CRLF any more."""
    return block.endswith((b"\r\r", b"\n\r", b"\n\n", b"\r\n\r\n"))


def last_boundary(buffer: bytearray, start: int) -> int:
    """Just behind the last blank line at or after `start`; 0 if there is none."""
    if b"\r" not in buffer[start:]:
        return buffer.rfind(b"\n\n", start) + 2 if buffer.rfind(b"\n\n", start) >= 0 else 0
    end = 0
    for match in _BOUNDARY.finditer(buffer, start):
        end = match.end()
    return end


def split_events(block: bytes) -> list[bytes]:
    """The block cut behind each blank line; joined they are the block again."""
    if b"\r" not in block:
        events = [event + b"\n\n" for event in block.split(b"\n\n")]
        last = events.pop()[:-2]
        return [*events, last] if last else events
    events = []
    start = 0
    for match in _BOUNDARY.finditer(block):
        events.append(block[start : match.end()])
        start = match.end()
    if start < len(block):
        events.append(block[start:])
    return events


def payloads_of(block: bytes) -> list[bytes]:
    """The non-empty payloads of a block's events."""
    if b"\r" not in block and block.startswith(b"data: ") and block.endswith(b"\n\n"):
        plain = block[6:-2].split(b"\n\ndata: ")
        # As many lines as events, and as many blank ones: then each event is one `data: ` line.
        if block.count(b"\n") == 2 * len(plain):
            return plain
    return [payload for event in split_events(block) if (payload := payload_of(event))]


def payload_of(event: bytes) -> bytes:
    """The event's `data` lines joined; empty for comments and pings."""
    if event.startswith(b"data: ") and event.endswith(b"\n\n") and event.count(b"\n") == 2 and b"\r" not in event:
        return event[6:-2]
    lines = (line for line in _LINE_END.split(event.removeprefix(_BOM)) if line.startswith(b"data:"))
    return b"\n".join(line[6:] if line[5:6] == b" " else line[5:] for line in lines)


def parse_payload(payload: bytes) -> dict[str, Any] | None:
    try:
        message = orjson.loads(payload)
    except orjson.JSONDecodeError:
        try:  # a provider's invalid UTF-8 passes through, and is metered all the same
            message = orjson.loads(payload.decode("utf-8", "replace"))
        except orjson.JSONDecodeError:
            return None
    return message if isinstance(message, dict) else None
