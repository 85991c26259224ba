"""The event stream of a response on its way: relayed as it came, metered by its last event or by what it said.

Native and bridged streams look the same here. The usage stands in the response object of the terminal event; a stream that
breaks before it is charged by the written rule: max(non-empty delta events, ceil(UTF-8 bytes of what they said / 4)).

Source: openai-python 3.52.0 (2026-11-16), `types/responses/response_stream_event.py`.
"""

from collections.abc import Callable
from typing import Any

from gateway.catalog import Model, ProviderRow
from gateway.chat import ChatRequest
from gateway.chat_metering import Report, meter_chat
from gateway.errors import GatewayError
from gateway.event_relay import EventRelay, event
from gateway.metering import Metered
from gateway.relay import Guard
from gateway.responses.from_chat import error_fields
from gateway.responses.metering import as_chat_usage, item_bytes
from gateway.streaming import utf8_bytes

__all__ = ["ResponsesRelay"]

_TERMINAL = frozenset({"response.completed", "response.incomplete", "response.failed"})
_NOT_WORDS = frozenset({"response.audio.delta", "response.output_audio.delta"})
"""Deltas in base64: each is an event that said something, and no text."""
_SEQUENCE_MAX = 2**53
"""Beyond it clients in JavaScript count no further."""


class ResponsesRelay(EventRelay):
    """Lifetime: one answer."""

    __slots__ = (
        "_chat",
        "_delta_bytes",
        "_delta_events",
        "_done_bytes",
        "_model",
        "_row",
        "_sequence",
        "_tier",
        "_usage",
        "response",
    )

    def __init__(self, guard: Guard, chat: ChatRequest, model: Model, row: ProviderRow) -> None:
        """`chat` has the figures of the request."""
        super().__init__(guard)
        self._chat = chat
        self._model = model
        self._row = row
        self._sequence = -1
        self._delta_events = 0
        self._delta_bytes = 0
        self._done_bytes = 0
        self._usage: Any = None
        self._tier: Any = None
        self.response: dict[str, Any] | None = None
        """As the terminal event has it; None before, and in a stream that had none."""

    def note(self, type: str, message: dict[str, Any]) -> bool:
        sequence = message.get("sequence_number")
        if isinstance(sequence, int) and self._sequence < sequence < _SEQUENCE_MAX:
            self._sequence = sequence
        if type.endswith(".delta"):
            self._count_delta(type, message.get("delta"))
        elif type == "response.output_item.added":
            # A tool's name comes with its item, before the deltas of its arguments.
            self._count_delta(type, _name_of(message.get("item")))
        elif type == "response.output_item.done":
            self._done_bytes += item_bytes(message.get("item"))
        elif type in _TERMINAL:
            return self._note_end(type, message.get("response"))
        elif type == "error" or message.get("error"):
            self.has_error_event = True
            return True
        return False

    def metered(self, *, is_partial: bool) -> Metered:
        report = Report(as_chat_usage(self._usage), self._tier)
        estimate: Callable[[], int] = self.output_tokens_estimate
        return meter_chat(self._chat, self._model, self._row, report, estimate, is_partial=is_partial)

    def output_tokens_estimate(self) -> int:
        """Output by the written rule. A provider that sends items without deltas has said their words all the same."""
        return max(self._delta_events, -(-max(self._delta_bytes, self._done_bytes) // 4))

    def error_event(self, error: GatewayError) -> bytes | None:
        said = {"type": error.type, "code": error.code, "message": error.message, "param": error.param}
        return event("error", {"sequence_number": self._sequence + 1, **error_fields(said)})

    def _count_delta(self, type: str, said: object) -> None:
        if isinstance(said, str) and said:
            self._delta_events += 1
            if type not in _NOT_WORDS:
                self._delta_bytes += utf8_bytes(said)

    def _note_end(self, type: str, response: object) -> bool:
        if isinstance(response, dict):
            self.response = response
            self._usage = response.get("usage")
            self._tier = response.get("service_tier")
        self.has_error_event |= type == "response.failed"
        return True


def _name_of(item: object) -> object:
    return item.get("name") if isinstance(item, dict) else None
