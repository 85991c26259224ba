"""Answers and streams of `generateContent` -> chat completions and their chunks. Pure; one translator an answer.

- Text, thoughts (`reasoning_content`), function calls and images come from a candidate's parts. Images, which a model for
  images makes in a chat, are `images` on the message, each a data: URL: they were paid for, and OpenAI has no field.
- Tool calls keep Gemini's id where it gave one of its own; else the id is made of the answer's id and a number. The
  thought signature that must come back with a call is in `extra_content.google.thought_signature`, as Google's own OpenAI
  endpoint has it.
- Every chunk of a stream repeats the usage so far; the last one counts. Older models also repeat `finishReason`, so what
  ends the answer (finish reasons, usage, `[DONE]`) is said when the body has ended, and only for finished candidates.
- A prompt that was blocked has no candidate: the answer is empty, its finish_reason `content_filter`.
- A model that stopped over its own malformed call, or never finished, has given no answer. Whole, that is a body without
  choices, in a stream an error event; the usage is told all the same, because it is charged.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple

import orjson

from gateway.errors import error_body
from gateway.providers.gemini_errors import Refusing, envelope, error_in
from gateway.providers.gemini_usage import chat_usage, service_tier
from gateway.providers.translated import Untranslatable
from gateway.streaming import last_boundary, payload_of, split_events

__all__ = ["Asked", "ChatTranslator", "parse_answer", "parts_of"]

_FINISHES: Final = {"STOP": "stop", "FUNCTION_CALL": "stop", "MAX_TOKENS": "length", "CONTINUATION": "length"}
_FILTERED: Final = "content_filter"
"""What every other reason becomes: the provider withheld something, and the answer is not to be taken for whole."""
_FAULTS: Final = frozenset(
    """
    MALFORMED_FUNCTION_CALL UNEXPECTED_TOOL_CALL TOO_MANY_TOOL_CALLS MISSING_THOUGHT_SIGNATURE MALFORMED_RESPONSE
    """.split()
)
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_CALL_ID: Final = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_CANDIDATES_MAX: Final = 128


class Asked(NamedTuple):
    """What the translation of an answer takes from its request."""

    model: str
    answer_id: str
    """In place of Gemini's, where it gives none."""
    created: int
    """Unix seconds."""
    has_usage_event: bool = False
    """`stream_options.include_usage`."""
    is_single_call: bool = False
    """Only a candidate's first tool call is told; the model can ask for the others in the next turn."""
    service_tier: str = ""
    """`x-gemini-service-tier`, once the head is here."""
    event_bytes_max: int = 2**24


class _Said(NamedTuple):
    """What a candidate, or a chunk of it, says."""

    text: str
    reasoning: str
    calls: list[dict[str, Any]]
    images: list[str]
    signature: str


class _Choice:
    """A candidate so far."""

    __slots__ = ("calls", "finish", "has_begun", "images", "is_faulty")

    def __init__(self) -> None:
        self.calls = 0
        self.images = 0
        self.finish = ""
        self.has_begun = False
        self.is_faulty = False


class ChatTranslator(Refusing):
    """Lifetime: one answer. A `Translator`."""

    __slots__ = ("_asked", "_call_ids", "_choices", "_has_failed", "_id", "_model", "_tail", "_tier", "_usage")

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._id = asked.answer_id
        self._model = asked.model
        self._tier = service_tier(None, asked.service_tier)
        self._usage: dict[str, Any] | None = None
        self._choices: dict[int, _Choice] = {}
        self._call_ids: set[str] = set()
        self._tail = bytearray()
        self._has_failed = False

    def whole(self, body: bytes) -> bytes:
        answer = parse_answer(body)
        self._note(answer)
        choices = [self._whole_choice(candidate, index) for index, candidate in _candidates(answer)]
        if not choices and _is_blocked(answer):
            self._choices[0] = choice = _Choice()
            choice.finish = _FILTERED
            choices.append(_blocked_choice())
        fields: dict[str, Any] = {"choices": choices, "usage": self._usage}
        if not choices or any(choice.is_faulty or not choice.finish for choice in self._choices.values()):
            if self._usage is None:
                raise Untranslatable("an answer without finished candidates and without usage")
            del fields["choices"]
        elif self._usage is None:
            del fields["usage"]
        return orjson.dumps(self._head("chat.completion") | fields)

    def feed(self, data: bytes) -> bytes:
        tail = self._tail
        tail += data
        cut = last_boundary(tail, max(0, len(tail) - len(data) - 3))
        if not cut:
            if len(tail) > self._asked.event_bytes_max:
                raise Untranslatable("an event above the bound")
            return b""
        block = bytes(tail[:cut])
        del tail[:cut]
        return b"".join(self._event(event) for event in split_events(block))

    def finish(self) -> bytes:
        rest = b""
        # An event that was cut off is no event; whether the answer is whole, its candidates say.
        with suppress(Untranslatable):
            rest = self._event(bytes(self._tail))
        self._tail.clear()
        if self._has_failed:
            return rest
        said = [rest]
        choices = self._choices
        is_faulty = any(choice.is_faulty for choice in choices.values())
        is_complete = bool(choices) and not is_faulty and all(choice.finish for choice in choices.values())
        if is_complete:
            said += [self._chunk(index, {}, choice.finish) for index, choice in sorted(choices.items())]
        said.append(self._usage_event())
        if is_complete:
            said.append(b"data: [DONE]\n\n")
        elif is_faulty:
            message = "The model wrote a tool call that cannot be read. Ask again."
            said.append(b"data: " + error_body(message, "server_error", "malformed_tool_call") + b"\n\n")
        return b"".join(said)

    def _event(self, event: bytes) -> bytes:
        """What one event of the stream becomes: a chunk for each candidate in it."""
        # An error in the middle may come as bare JSON, without `data:`.
        payload = payload_of(event) or (event if event.lstrip()[:1] in (b"{", b"[") else b"")
        if not payload.strip() or self._has_failed:
            return b""
        answer = _parse(payload)
        if error := error_in(answer):
            self._has_failed = True
            # Before the error, because clients read no further; what was used until then is charged.
            return self._usage_event() + b"data: " + envelope(error) + b"\n\n"
        if not isinstance(answer, dict):
            raise Untranslatable("an event that is no object")
        self._note(answer)
        chunks = [self._delta_chunk(candidate, index) for index, candidate in _candidates(answer)]
        if not chunks and not self._choices and _is_blocked(answer):
            self._choices[0] = choice = _Choice()
            choice.finish = _FILTERED
            chunks.append(self._chunk(0, {"role": "assistant", "content": ""}))
        return b"".join(chunks)

    def _usage_event(self) -> bytes:
        if not self._asked.has_usage_event or self._usage is None:
            return b""
        return _data(self._head("chat.completion.chunk") | {"choices": [], "usage": self._usage})

    def _note(self, answer: Mapping[str, Any]) -> None:
        """Take what an answer, or a chunk of it, says of itself. The id is the first one: it is in all chunks."""
        report = answer.get("usageMetadata")
        self._usage = chat_usage(report) or self._usage
        self._tier = service_tier(report) or self._tier
        if not self._choices:
            if isinstance(version := answer.get("modelVersion"), str) and version:
                self._model = version
            if isinstance(given := answer.get("responseId"), str) and _ID.fullmatch(given):
                self._id = given

    def _whole_choice(self, candidate: Mapping[str, Any], index: int) -> dict[str, Any]:
        choice = self._choices.setdefault(index, _Choice())
        message = {"role": "assistant", "content": None, "refusal": None} | self._delta(candidate, choice, index)
        for call in message.get("tool_calls", ()):
            del call["index"]
        if message["content"] is None and not choice.calls:
            message["content"] = ""
        self._note_finish(candidate, choice)
        logprobs = _logprobs(candidate)
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": choice.finish}

    def _delta_chunk(self, candidate: Mapping[str, Any], index: int) -> bytes:
        choice = self._choices.setdefault(index, _Choice())
        delta = self._delta(candidate, choice, index)
        self._note_finish(candidate, choice)
        if not choice.has_begun:
            choice.has_begun = True
            delta = {"role": "assistant", "content": ""} | delta
        logprobs = _logprobs(candidate)
        if not delta and logprobs is None:
            return b""
        return self._chunk(index, delta, logprobs=logprobs)

    def _delta(self, candidate: Mapping[str, Any], choice: _Choice, index: int) -> dict[str, Any]:
        """What a candidate says, in the fields of a delta. Counts its calls and images."""
        said = _said(candidate)
        delta: dict[str, Any] = {}
        if said.reasoning:
            delta["reasoning_content"] = said.reasoning
        if said.text:
            delta["content"] = said.text
        if said.calls and (calls := [self._call(part, choice, index) for part in self._told(said.calls, choice)]):
            delta["tool_calls"] = calls
        if said.images:
            first = choice.images
            choice.images += len(said.images)
            delta["images"] = [
                {"type": "image_url", "index": number, "image_url": {"url": url}}
                for number, url in enumerate(said.images, first)
            ]
        if said.signature:
            delta["extra_content"] = {"google": {"thought_signature": said.signature}}
        return delta

    def _told(self, calls: list[dict[str, Any]], choice: _Choice) -> list[dict[str, Any]]:
        return calls[: 0 if choice.calls else 1] if self._asked.is_single_call else calls

    def _call(self, part: Mapping[str, Any], choice: _Choice, index: int) -> dict[str, Any]:
        call = part["functionCall"]
        name, arguments = call.get("name"), call.get("args")
        if not isinstance(name, str) or not name or not isinstance(arguments, dict | None):
            raise Untranslatable("a function call without a name or with arguments that are no object")
        number = choice.calls
        choice.calls += 1
        given = call.get("id")
        if not isinstance(given, str) or not _CALL_ID.fullmatch(given) or given in self._call_ids:
            given = f"call_{self._id}_{index}_{number}"
        self._call_ids.add(given)
        told: dict[str, Any] = {
            "index": number,
            "id": given,
            "type": "function",
            "function": {"name": name, "arguments": orjson.dumps(arguments or {}).decode()},
        }
        if signature := _signature(part):
            told["extra_content"] = {"google": {"thought_signature": signature}}
        return told

    @staticmethod
    def _note_finish(candidate: Mapping[str, Any], choice: _Choice) -> None:
        reason = candidate.get("finishReason")
        if not isinstance(reason, str) or not reason or reason == "FINISH_REASON_UNSPECIFIED":
            return
        choice.is_faulty = reason in _FAULTS
        choice.finish = _FINISHES.get(reason, _FILTERED)
        if choice.finish == "stop" and choice.calls:
            choice.finish = "tool_calls"

    def _chunk(
        self, index: int, delta: dict[str, Any], finish: str | None = None, logprobs: dict[str, Any] | None = None
    ) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return _data(self._head("chat.completion.chunk") | {"choices": [choice]})

    def _head(self, kind: str) -> dict[str, Any]:
        head = {
            "id": f"chatcmpl-{self._id}",
            "object": kind,
            "created": self._asked.created,
            "model": self._model,
        }
        return head | ({"service_tier": self._tier} if self._tier else {})


def parse_answer(body: bytes) -> dict[str, Any]:
    """A whole answer. Raises `Untranslatable`."""
    answer = _parse(body)
    if not isinstance(answer, dict):
        raise Untranslatable("an answer that is no object")
    return answer


def parts_of(candidate: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The parts of a candidate; those blocked by a filter have none. Raises `Untranslatable`."""
    content = candidate.get("content")
    parts = content.get("parts") if isinstance(content, dict) else None
    if parts is None:
        return
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise Untranslatable("a content whose parts are no objects")
    yield from parts


def _said(candidate: Mapping[str, Any]) -> _Said:
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    images: list[str] = []
    signature = ""
    for part in parts_of(candidate):
        if isinstance(part.get("functionCall"), dict):
            calls.append(part)
            continue
        is_thought = part.get("thought") is True
        if isinstance(text := part.get("text"), str):
            (thoughts if is_thought else texts).append(text)
        elif (url := _image_url(part)) and not is_thought:
            images.append(url)
        if not is_thought:
            signature = _signature(part) or signature
    return _Said("".join(texts), "".join(thoughts), calls, images, signature)


def _image_url(part: Mapping[str, Any]) -> str:
    blob = part.get("inlineData")
    if not isinstance(blob, dict):
        return ""
    mime, data = blob.get("mimeType"), blob.get("data")
    is_image = isinstance(mime, str) and mime.startswith("image/") and isinstance(data, str)
    return f"data:{mime};base64,{data}" if is_image else ""


def _signature(part: Mapping[str, Any]) -> str:
    signature = part.get("thoughtSignature")
    return signature if isinstance(signature, str) else ""


def _candidates(answer: Mapping[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    found = answer.get("candidates") or []
    if not isinstance(found, list) or not all(isinstance(candidate, dict) for candidate in found):
        raise Untranslatable("candidates that are no objects")
    numbered = [(candidate.get("index", number), candidate) for number, candidate in enumerate(found)]
    indexes = {index for index, _ in numbered if type(index) is int and 0 <= index < _CANDIDATES_MAX}
    if len(indexes) != len(numbered):
        raise Untranslatable("candidates whose indexes are no numbers of their own")
    return numbered


def _is_blocked(answer: Mapping[str, Any]) -> bool:
    feedback = answer.get("promptFeedback")
    return isinstance(feedback, dict) and bool(feedback.get("blockReason"))


def _blocked_choice() -> dict[str, Any]:
    message = {"role": "assistant", "content": "", "refusal": None}
    return {"index": 0, "message": message, "logprobs": None, "finish_reason": _FILTERED}


def _logprobs(candidate: Mapping[str, Any]) -> dict[str, Any] | None:
    result = candidate.get("logprobsResult")
    chosen = result.get("chosenCandidates") if isinstance(result, dict) else None
    if not isinstance(result, dict) or not isinstance(chosen, list):
        return None
    tops = result.get("topCandidates")
    listed = tops if isinstance(tops, list) else []
    content = []
    for number, token in enumerate(chosen):
        top = listed[number].get("candidates") if number < len(listed) and isinstance(listed[number], dict) else None
        others = [_logprob(other) for other in top] if isinstance(top, list) else []
        content.append(_logprob(token) | {"top_logprobs": others})
    return {"content": content, "refusal": None}


def _logprob(token: object) -> dict[str, Any]:
    if not isinstance(token, dict):
        raise Untranslatable("a token that is no object")
    text = token.get("token")
    word = text if isinstance(text, str) else ""
    # A log probability of zero, which is certainty, is left out of Google's JSON.
    logprob = token.get("logProbability", 0.0)
    return {"token": word, "logprob": logprob, "bytes": list(word.encode("utf-8", "replace"))}


def _parse(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        raise Untranslatable("a message that is no JSON") from None


def _data(message: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(message) + b"\n\n"
