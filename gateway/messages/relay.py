"""Events of a message on their way to the client, native ones and those made of a chat stream alike.

`message_start` reports the input, `message_delta` the output, `message_stop` or `error` ends the stream and is held back
until the call is settled. Comments, pings and events of kinds that are new pass as they are.
"""

from typing import Any

from gateway.catalog import Model, ProviderRow
from gateway.chat import ChatRequest
from gateway.chat_metering import Report as ChatReport
from gateway.chat_metering import meter_chat
from gateway.errors import GatewayError
from gateway.event_relay import EventRelay
from gateway.messages.errors import error_event
from gateway.messages.from_chat import FromChat
from gateway.messages.metering import Report, meter_message
from gateway.metering import Metered
from gateway.relay import Guard
from gateway.streaming import utf8_bytes

__all__ = ["BridgedRelay", "MessagesRelay"]

_SAID = ("text", "thinking", "partial_json")
"""Fields of a delta that hold words the client may have read."""


class MessagesRelay(EventRelay):
    """What a provider of the Messages API streams, metered by what it reports or, broken off, by what it said."""

    __slots__ = ("_chat", "_deltas", "_is_final", "_model", "_said_bytes", "_usage")

    def __init__(self, guard: Guard, chat: ChatRequest, model: Model) -> None:
        """`chat` is what the hold was computed from."""
        super().__init__(guard)
        self._chat = chat
        self._model = model
        self._usage: dict[str, Any] | None = None
        self._is_final = False
        self._deltas = 0
        self._said_bytes = 0

    def note(self, type: str, message: dict[str, Any]) -> bool:
        if type == "content_block_delta":
            self._note_delta(message.get("delta"))
        elif type == "content_block_start":
            self._note_tool(message.get("content_block"))
        elif type == "message_start":
            started = message.get("message")
            self._note_usage(started.get("usage") if isinstance(started, dict) else None)
        elif type == "message_delta":
            self._note_usage(message.get("usage"))
            self._is_final = self._is_final or isinstance(message.get("usage"), dict)
        elif type == "error":
            self.has_error_event = True
        return type in ("message_stop", "error")

    def output_estimate(self) -> int:
        """Output tokens of what was relayed, by the written rule."""
        return max(self._deltas, -(-self._said_bytes // 4))

    def metered(self, *, is_partial: bool) -> Metered:
        report = Report(self._usage, self._is_final)
        return meter_message(self._chat, self._model, report, self.output_estimate, is_partial=is_partial)

    def error_event(self, error: GatewayError) -> bytes | None:
        return error_event(error)

    def _note_delta(self, delta: object) -> None:
        if not isinstance(delta, dict):
            return
        said = sum(utf8_bytes(text) for name in _SAID if isinstance(text := delta.get(name), str))
        if said or delta.get("signature"):
            self._deltas += 1
            self._said_bytes += said

    def _note_tool(self, block: object) -> None:
        if isinstance(block, dict) and isinstance(name := block.get("name"), str) and name:
            self._deltas += 1
            self._said_bytes += utf8_bytes(name)

    def _note_usage(self, usage: object) -> None:
        """Later figures replace earlier ones; what is left out or null stays as it was."""
        if isinstance(usage, dict):
            told = {name: value for name, value in usage.items() if value is not None}
            self._usage = {**(self._usage or {}), **told}


class BridgedRelay(MessagesRelay):
    """Events made of a chat stream. It is metered as that stream, so that the bridge changes no amount."""

    __slots__ = ("_row", "_source")

    def __init__(self, guard: Guard, chat: ChatRequest, model: Model, row: ProviderRow, source: FromChat) -> None:
        """`source` is what makes the events."""
        super().__init__(guard, chat, model)
        self._row = row
        self._source = source

    def metered(self, *, is_partial: bool) -> Metered:
        source = self._source
        report = ChatReport(source.usage, source.service_tier)
        return meter_chat(self._chat, self._model, self._row, report, source.output_estimate, is_partial=is_partial)
