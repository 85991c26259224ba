"""How large the input of a response is: bytes of its text, and the dearest case of every part that is none. Pure.

The figures live in a chat request, whose arithmetic (worst case, estimate, clamp) serves both endpoints: a response and
the chat it may be bridged to cost the same by the same rules.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.catalog import Model
from gateway.chat import MESSAGE_TOKENS, PART_TOKENS, ChatRequest
from gateway.chat_metering import CONTEXT_TOKENS_DEFAULT
from gateway.errors import RequestError
from gateway.request_fields import unpriced_feature, wrong
from gateway.streaming import utf8_bytes

__all__ = ["MeasuredChat", "measure_items"]

_PARTS: Mapping[str, int] = {
    "input_image": PART_TOKENS["input_image"],
    "computer_screenshot": PART_TOKENS["input_image"],
    "input_file": PART_TOKENS["file"],
    "input_audio": PART_TOKENS["input_audio"],
}
_IMAGES = frozenset({"input_image", "computer_screenshot"})
_LISTS_OF_PARTS = frozenset({"content", "output"})
"""Fields of an item that may hold parts; `output` also one part alone (a screenshot)."""
_TEXT_PARTS = frozenset({"input_text", "output_text", "text", "refusal", "reasoning_text", "summary_text"})
_FREE_FIELDS = frozenset({"id", "role", "status", "type"})
_KINDS = frozenset(
    """
    message reasoning function_call function_call_output custom_tool_call custom_tool_call_output local_shell_call
    local_shell_call_output apply_patch_call apply_patch_call_output compaction item_reference
    """.split()
)
"""What a caller may send. All others belong to tools that a provider runs and bills, bring such tools along
(`additional_tools`), or make it do more than answer (`compaction_trigger`)."""
_TEXT_FILE = re.compile(r"data:(?!application/pdf|image/|audio/|video/)", re.IGNORECASE)
"""A file in base64 that may be words and nothing else."""
_BYTES_A_TOKEN = 4


@dataclass(slots=True)
class MeasuredChat(ChatRequest):
    """The figures of a response. `body` is empty until it is bridged."""

    kept_tokens: int = 0
    """Tokens in front of the input that the provider keeps: known exactly, and not sent again."""

    def put_in_front(self, tokens: int) -> None:
        """What the provider keeps and reads again: as many tokens, in the estimates as in the bound."""
        self.kept_tokens += tokens
        self.text_bytes += _BYTES_A_TOKEN * tokens

    def input_tokens_max(self, model: Model) -> int:
        # A token a byte is the bound of text; what is kept is counted in tokens already.
        text = self.text_bytes - (_BYTES_A_TOKEN - 1) * self.kept_tokens
        bound = text + MESSAGE_TOKENS * (self.message_count + 1) + self.part_tokens
        return min(bound, model.context_tokens_max or CONTEXT_TOKENS_DEFAULT)


def measure_items(chat: ChatRequest, items: Iterable[object], param: str = "input", *, are_kept: bool = False) -> None:
    """Add `items` to the figures of `chat`. `are_kept`: they come from the gateway's own store, not from a caller.

    Raises `RequestError` for what is no item, or of no kind that a caller may send; `orjson.JSONEncodeError` for one nested
    too deeply.
    """
    for item in items:
        if not isinstance(item, dict):
            raise wrong(param, "must be a string or an array of objects")
        if not are_kept:
            _check_kind(item.get("type"), param)
        chat.message_count += 1
        for field, value in item.items():
            if field in _FREE_FIELDS or value is None:
                continue
            if type(value) is str:
                chat.text_bytes += utf8_bytes(value)
            elif field in _LISTS_OF_PARTS and isinstance(value, list):
                for part in value:
                    _measure_part(chat, part, param)
            elif field in _LISTS_OF_PARTS and isinstance(value, dict):
                _measure_part(chat, value, param)
            else:
                chat.text_bytes += len(orjson.dumps(value))


def _check_kind(kind: object, param: str) -> None:
    if kind is not None and not (isinstance(kind, str) and kind in _KINDS):
        raise unpriced_feature(f"{param}[].type")


def _measure_part(chat: ChatRequest, part: Any, param: str) -> None:
    if not isinstance(part, dict):
        raise wrong(f"{param}[].content", "must hold objects with a `type`")
    if part.get("file_id") is not None:
        raise RequestError(
            f"`{param}[].content[].file_id` is not supported: files kept by a provider belong to no creator. Send the "
            "content itself.",
            code="unsupported_parameter",
            param=param,
        )
    kind = part.get("type")
    if isinstance(kind, str) and kind in _PARTS:
        chat.part_tokens += max(_PARTS[kind], _words_of_file(part))
        chat.has_audio_input |= kind == "input_audio"
        chat.has_images |= kind in _IMAGES
    elif kind in _TEXT_PARTS and isinstance(text := part.get("text"), str) and not part.get("logprobs"):
        chat.text_bytes += utf8_bytes(text)
    else:
        chat.text_bytes += len(orjson.dumps(part))


def _words_of_file(part: Mapping[str, Any]) -> int:
    """How many tokens a file is at most that is sent as base64 of a text, a token a byte; 0 for all others."""
    data = part.get("file_data")
    return len(data) * 3 // 4 if isinstance(data, str) and _TEXT_FILE.match(data) else 0
