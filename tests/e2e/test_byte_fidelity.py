"""The client gets the provider's bytes, less the one event only we asked for, and pays the same however they are cut.

Each relay is shown every stream cut in two at every byte, byte by byte, and cut at random; what it lets through is compared
with what a reader of the standard's own words (`events_of`, below) says should be left. Then the same through a gateway.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.audio_duration import Duration
from gateway.catalog import Model, Price, ProviderRow
from gateway.chat import ChatRelay, read_chat_request
from gateway.completions import CompletionRelay, read_completion_request
from gateway.event_relay import ByteRelay
from gateway.image_relay import ImageRelay
from gateway.images import read_image_request
from gateway.messages.from_chat import FromChat as MessageFromChat
from gateway.messages.relay import BridgedRelay, MessagesRelay
from gateway.metering import NOTHING, Metered
from gateway.multipart import FilePart, Form
from gateway.providers import anthropic_answer, gemini_answer
from gateway.providers.translated import Translator
from gateway.relay import EventTooLarge, Guard, Relay
from gateway.responses.from_chat import FromChat as ResponseFromChat
from gateway.responses.relay import ResponsesRelay
from gateway.speech import SpeechRelay, read_speech_request
from gateway.transcriptions import TranscriptionRelay, read_transcription_form
from gateway.usage import Usage
from tests.rig import wire
from tests.rig.catalog import estimated_input
from tests.rig.gateway import Gateway, Key, prompt
from tests.rig.upstream import Script, Send, Upstream

FIXTURES = Path(__file__).parents[1] / "fixtures"
LINE_ENDS = {"LF": b"\n", "CRLF": b"\r\n", "CR": b"\r"}
GUARD = Guard(
    2**21, lambda data: data.replace(b"sk-secret-of-the-provider", b"[redacted]"), b"sk-secret-of-the-provider"
)
PRICE = Price(
    "1",
    input=3_000_000,
    cached_input=300_000,
    cache_write=3_750_000,
    output=15_000_000,
    reasoning=17_000_000,
    audio_input=6_000_000,
    audio_output=12_000_000,
    image_input=10_000_000,
    image_output=40_000_000,
)
"""Pico-dollars a token: a thousandth of that in nano-dollars is what the table below multiplies by."""
MODEL = Model(
    "m",
    "p",
    "upstream-m",
    frozenset({"chat"}),
    PRICE,
    context_tokens_max=128_000,
    output_tokens_max=16_384,
    image_output_tokens_max=6_240,
)


def stream(name: str) -> bytes:
    folder, _, file = name.rpartition("/")
    return (FIXTURES / (folder or "streams") / file).read_bytes()


# What the standard says (html.spec.whatwg.org, "server-sent events", 9.2.5 and 9.2.6), in the plainest words

_EVENT = re.compile(rb"(?:(?!\r\n|\r|\n).)*(?:\r\n|\r|\n)", re.DOTALL)


def events_of(data: bytes) -> list[bytes]:
    """The stream cut behind each blank line that ends an event; what follows the last one is none."""
    events, event = [], b""
    for line in _EVENT.findall(data):
        event += line
        if not line.rstrip(b"\r\n") and event.strip(b"\r\n"):
            events.append(event)
            event = b""
    return events


def data_of(event: bytes) -> bytes:
    lines = re.split(rb"\r\n|\r|\n", event.removeprefix(b"\xef\xbb\xbf"))
    values = [line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:")]
    return b"\n".join(values)


def is_usage_alone(event: bytes) -> bool:
    """What `stream_options.include_usage` adds to a stream: no choices, and a usage that is an object."""
    try:
        message = json.loads(data_of(event).decode("utf-8", "replace"))
    except ValueError:
        return False
    return isinstance(message, dict) and message.get("choices") == [] and isinstance(message.get("usage"), dict)


def without_usage(data: bytes) -> bytes:
    return b"".join(event for event in events_of(data) if not is_usage_alone(event))


# The relays


class Relayed(NamedTuple):
    """All that the client and the books get of a stream."""

    sent: bytes
    held: bytes
    metered: Metered
    is_complete: bool
    has_error_event: bool

    @property
    def whole(self) -> bytes:
        return self.sent + self.held


Make = Callable[[], Relay]


def relayed(make: Make, parts: Iterable[bytes]) -> Relayed:
    relay = make()
    sent = b"".join([relay.feed(part) for part in parts]) + relay.finish()
    is_complete = relay.is_complete
    return Relayed(
        sent, relay.held_back(), relay.metered(is_partial=not is_complete), is_complete, relay.has_error_event
    )


def chat(stream_usage: str = "inject", *, asks: bool = False, n: int = 1) -> Make:
    body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hello there!"}], "stream": True}
    body |= {"n": n} if n > 1 else {}
    body |= {"stream_options": {"include_usage": True}} if asks else {}
    request = read_chat_request(json.dumps(body).encode())
    row = ProviderRow("p", "openai", stream_usage=stream_usage)  # type: ignore[arg-type]
    return lambda: ChatRelay(GUARD, request, MODEL, row)


def completion(*, asks: bool = False) -> Make:
    body: dict[str, Any] = {"model": "m", "prompt": "Hello", "stream": True}
    body |= {"stream_options": {"include_usage": True}} if asks else {}
    request = read_completion_request(json.dumps(body).encode())
    return lambda: CompletionRelay(GUARD, request, MODEL, ProviderRow("p", "openai"))


CHAT = read_chat_request(b'{"model":"m","messages":[{"role":"user","content":"Hello there!"}],"stream":true}')
IMAGE = read_image_request(b'{"model":"m","prompt":"a cat","stream":true,"partial_images":1}')
SPEECH = read_speech_request(b'{"model":"m","input":"Well, good day to you.","voice":"alloy","stream_format":"sse"}')
TRANSCRIPT = read_transcription_form(
    Form([("model", "m"), ("stream", "true")], [FilePart("file", "a.wav", "audio/wav", b"RIFF")]), Duration(9, 9)
)
MAKES: dict[str, Make] = {
    "responses": lambda: ResponsesRelay(GUARD, CHAT, MODEL, ProviderRow("p", "openai")),
    "messages": lambda: MessagesRelay(GUARD, CHAT, MODEL),
    "image": lambda: ImageRelay(GUARD, IMAGE, MODEL),
    "transcript": lambda: TranscriptionRelay(GUARD, TRANSCRIPT, MODEL),
    "speech": lambda: SpeechRelay(GUARD, SPEECH, MODEL),
}


class Case(NamedTuple):
    """A stream and what it comes to, by hand, in nano-dollars (3 000 a token of input, 300 from the cache, 15 000 of
    output, 17 000 of reasoning)."""

    file: str
    usage: Usage
    cost_nano_usd: int
    make: Make
    source: str = "provider"
    is_complete: bool = True


TYPICAL = Usage(36, 64, text_output=31, reasoning=9)
TYPICAL_COST = 36 * 3_000 + 64 * 300 + 31 * 15_000 + 9 * 17_000
CASES = {
    "openai": Case("openai.txt", TYPICAL, TYPICAL_COST, chat()),
    "tools": Case("openai_tools.txt", Usage(80, text_output=31), 80 * 3_000 + 31 * 15_000, chat()),
    "azure": Case("azure.txt", Usage(21, text_output=7), 21 * 3_000 + 7 * 15_000, chat()),
    "groq": Case("groq.txt", Usage(12, text_output=3), 12 * 3_000 + 3 * 15_000, chat()),
    "usage on the finish chunk": Case(
        "usage_on_finish.txt", Usage(7, 10, text_output=9), 7 * 3_000 + 10 * 300 + 9 * 15_000, chat()
    ),
    "running usage": Case("vllm_continuous.txt", Usage(9, text_output=4), 9 * 3_000 + 4 * 15_000, chat()),
    "no [DONE]": Case("no_done.txt", Usage(26, text_output=2), 26 * 3_000 + 2 * 15_000, chat()),
    # By the written rule: 12 bytes of prompt are 3 tokens, 9 bytes of text are 3.
    "no usage": Case("no_usage.txt", Usage(3, text_output=3), 3 * 3_000 + 3 * 15_000, chat(), "estimated"),
    "comments": Case("comments.txt", TYPICAL, TYPICAL_COST, chat()),
    "data over lines": Case("multiline.txt", TYPICAL, TYPICAL_COST, chat()),
    "events after [DONE]": Case("after_done.txt", TYPICAL, TYPICAL_COST, chat()),
    "usage after [DONE]": Case("usage_after_done.txt", TYPICAL, TYPICAL_COST, chat()),
    "invalid UTF-8": Case("invalid_utf8.txt", TYPICAL, TYPICAL_COST, chat()),
    "byte order mark": Case("bom.txt", TYPICAL, TYPICAL_COST, chat()),
    # Two events, 13 bytes: 4 tokens.
    "error event": Case(
        "error_event.txt", Usage(3, text_output=4), 3 * 3_000 + 4 * 15_000, chat(), "estimated", is_complete=False
    ),
    "two choices": Case("two_choices.txt", Usage(5, text_output=2), 5 * 3_000 + 2 * 15_000, chat(n=2)),
    "completion": Case("completions.txt", Usage(5, text_output=6), 5 * 3_000 + 6 * 15_000, completion()),
    "responses": Case("responses.txt", TYPICAL, TYPICAL_COST, MAKES["responses"]),
    "messages": Case(
        "anthropic/text.sse",
        Usage(21, 2_048, 512, text_output=85, reasoning=64),
        21 * 3_000 + 2_048 * 300 + 512 * 3_750 + 85 * 15_000 + 64 * 17_000,
        MAKES["messages"],
    ),
    "image": Case(
        "image.txt",
        Usage(18, image_input=40, image_output=272, pieces=1),
        18 * 3_000 + 40 * 10_000 + 272 * 40_000,
        MAKES["image"],
    ),
    "transcript": Case(
        "transcript.txt", Usage(audio_input=14, text_output=45, pieces=9), 14 * 6_000 + 45 * 15_000, MAKES["transcript"]
    ),
    "speech": Case("speech.txt", Usage(4, audio_output=21, pieces=22), 4 * 3_000 + 21 * 12_000, MAKES["speech"]),
}
NAMED = [pytest.param(case, id=name) for name, case in CASES.items()]


def with_line_ends(data: bytes, line_end: bytes) -> bytes:
    return data.replace(b"\n", line_end)


@pytest.mark.parametrize("line_end", [pytest.param(end, id=name) for name, end in LINE_ENDS.items()])
@pytest.mark.parametrize("case", NAMED)
def test_every_split_in_two_passes_on_the_same_bytes_at_the_same_cost(case: Case, line_end: bytes) -> None:
    data = with_line_ends(stream(case.file), line_end)
    whole = relayed(case.make, [data])
    assert whole.whole == without_usage(data)
    assert (whole.metered.usage, whole.metered.cost_nano_usd) == (case.usage, case.cost_nano_usd)
    assert (whole.metered.source, whole.is_complete) == (case.source, case.is_complete)
    for cut in range(1, len(data)):
        assert relayed(case.make, [data[:cut], data[cut:]]) == whole, f"cut at {cut}"
    assert relayed(case.make, [data[at : at + 1] for at in range(len(data))]) == whole


@given(st.sampled_from(sorted(CASES)), st.sampled_from(sorted(LINE_ENDS)), st.lists(st.integers(1, 3_000), max_size=12))
@settings(max_examples=400)
def test_any_number_of_splits_changes_nothing(name: str, line_end: str, cuts: list[int]) -> None:
    case = CASES[name]
    data = with_line_ends(stream(case.file), LINE_ENDS[line_end])
    assert relayed(case.make, split(data, cuts)) == relayed(case.make, [data])


def split(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted({cut for cut in cuts if cut < len(data)}), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@pytest.mark.parametrize("case", [case for case in NAMED if case.id not in MAKES and case.id != "completion"])
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(chat(asks=True), id="asked for"),
        pytest.param(chat("always"), id="always"),
        pytest.param(chat("never"), id="never"),
    ],
)
def test_where_we_asked_for_nothing_nothing_is_missing(case: Case, make: Make) -> None:
    data = stream(case.file)
    whole = relayed(make, [data])
    assert whole.whole == data
    assert whole.metered.usage == case.usage
    for cut in range(1, len(data), 7):
        assert relayed(make, [data[:cut], data[cut:]]) == whole, f"cut at {cut}"


@pytest.mark.parametrize("case", NAMED)
def test_what_ends_a_stream_waits_for_the_settle(case: Case) -> None:
    """`[DONE]`, or the last typed event: fed, it is held back, and so is what follows."""
    data = stream(case.file)
    relay = case.make()
    sent = relay.feed(data)
    ends = [at for at, event in enumerate(events_of(data)) if ends_stream(event)]
    if not ends:
        assert relay.held_back() == b""
        return
    left = b"".join(event for event in events_of(data)[ends[0] :] if not is_usage_alone(event))
    assert relay.held_back() == left
    assert sent + left == without_usage(data)


def ends_stream(event: bytes) -> bool:
    if data_of(event) == b"[DONE]":
        return True
    last = ("response.completed", "message_stop", "image_generation.completed", "transcript.text.done")
    return any(f'"type":"{name}"'.encode() in data_of(event) for name in (*last, "speech.audio.done"))


# Streams nobody wrote

_TEXT = st.text(max_size=12)
_USAGE = st.builds(
    lambda read, made, cached: {
        "prompt_tokens": read + cached,
        "completion_tokens": made,
        "total_tokens": read + cached + made,
        "prompt_tokens_details": {"cached_tokens": cached},
    },
    st.integers(1, 500),
    st.integers(1, 500),
    st.integers(0, 500),
)


def _chunk(text: str, finish: str | None, extra: dict[str, Any]) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}], **extra}


_MESSAGES = st.one_of(
    st.builds(_chunk, _TEXT, st.none(), st.sampled_from([{}, {"usage": None}, {"error": None}])),
    st.builds(lambda usage: _chunk("", None, {"usage": usage}), _USAGE),
    st.builds(lambda usage: {"choices": [], "usage": usage}, _USAGE),
    st.sampled_from(
        [
            {"choices": [], "prompt_filter_results": []},
            {"choices": [], "usage": None},
            {"usage": {"completion_tokens": 1}},
            {"error": {"message": "broken", "code": 500}},
            {},
        ]
    ),
)


def _written(message: dict[str, Any], is_ascii: bool, form: int, comment: bytes) -> bytes:
    """One event in one of the ways the standard allows."""
    text = json.dumps(message, ensure_ascii=is_ascii).encode("utf-8", "replace")
    lines = [b"data: " + text, b"data:" + text, b"event: x\ndata: " + text, b"data: " + text + b"\nid: 3"][form]
    return comment + lines + b"\n\n"


_EVENTS = st.one_of(
    st.builds(_written, _MESSAGES, st.booleans(), st.integers(0, 3), st.sampled_from([b"", b":\n\n", b": hi\n"])),
    st.sampled_from([b": ping\n\n", b"data: {not json\n\n", b'data: {"x":"\xff"}\n\n', b"data\n\n", b"id: 4\n\n"]),
)


@given(
    st.lists(_EVENTS, max_size=8),
    st.sampled_from([b"", b"data: [DONE]\n\n", b"data:[DONE]\n\n", b"data: [DONE]\n\ndata: {}\n\n"]),
    st.sampled_from(sorted(LINE_ENDS)),
    st.lists(st.integers(1, 900), max_size=9),
)
@settings(max_examples=300)
def test_generated_streams_pass_whole_whatever_the_split(
    events: list[bytes], end: bytes, line_end: str, cuts: list[int]
) -> None:
    finish = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    data = with_line_ends(b"".join([*events, finish, end]), LINE_ENDS[line_end])
    whole = relayed(chat(), [data])
    assert whole.whole == without_usage(data)
    assert relayed(chat(asks=True), [data]).whole == data
    assert relayed(chat(), split(data, cuts)) == whole
    assert relayed(chat(), [data[at : at + 1] for at in range(len(data))]) == whole


@given(st.binary(max_size=120), st.lists(st.integers(1, 120), max_size=5), st.sampled_from(["chat", *sorted(MAKES)]))
@settings(max_examples=300)
def test_bytes_without_meaning_are_never_changed(noise: bytes, cuts: list[int], name: str) -> None:
    """Noise, and an end that makes the stream complete: nothing but noise can be missing from what is let through."""
    make = chat() if name == "chat" else MAKES[name]
    file = "anthropic/text.sse" if name == "messages" else "openai.txt" if name == "chat" else f"{name}.txt"
    data = b"data: " + noise + b"\n\n" + stream(file)
    whole = relayed(make, [data])
    assert relayed(make, split(data, cuts)) == whole
    assert whole.whole == without_usage(data)


# Translated streams: other bytes, and the same bytes whatever the split


class _Chain:
    """A relay behind one translator or two, as the pipeline puts them."""

    def __init__(self, relay: Relay, *translators: Translator) -> None:
        self._relay = relay
        self._translators = translators

    def run(self, parts: Iterable[bytes]) -> Relayed:
        sent = b"".join([self._fed(part) for part in parts]) + self._ended() + self._relay.finish()
        is_complete = self._relay.is_complete
        metered = self._relay.metered(is_partial=not is_complete)
        return Relayed(sent, self._relay.held_back(), metered, is_complete, self._relay.has_error_event)

    def _fed(self, data: bytes, behind: int = 0) -> bytes:
        for translator in self._translators[behind:]:
            data = translator.feed(data)
        return self._relay.feed(data) if data else b""

    def _ended(self) -> bytes:
        return b"".join(
            [self._fed(translator.finish(), at) for at, translator in enumerate(self._translators, start=1)]
        )


def _from_anthropic() -> Translator:
    return anthropic_answer.ChatTranslator(anthropic_answer.Asked(1_790_000_000, True, 2**20))


def _from_gemini() -> Translator:
    return gemini_answer.ChatTranslator(gemini_answer.Asked("gemini-3.5-flash", "req_1", 1_790_000_000, True))


def _to_response() -> ResponseFromChat:
    return ResponseFromChat("resp_1", 1_790_000_000, {"model": "m", "input": "Hi"}, "m", lambda kind: f"{kind}_1")


def _to_message() -> MessageFromChat:
    return MessageFromChat("m", wants_thinking=True, stop_sequences=(), input_tokens_estimate=3)


def _plain(*before: Translator) -> _Chain:
    return _Chain(chat()(), *before)


def _as_response(*before: Translator) -> _Chain:
    return _Chain(MAKES["responses"](), *before, _to_response())


def _as_message(*before: Translator) -> _Chain:
    source = _to_message()
    return _Chain(BridgedRelay(GUARD, CHAT, MODEL, ProviderRow("p", "openai"), source), *before, source)


CLAUDE_COST = 21 * 3_000 + 2_048 * 300 + 512 * 3_750 + 85 * 15_000 + 64 * 17_000
GEMINI_COST = 104 * 3_000 + 4_096 * 300 + 12 * 15_000 + 455 * 17_000
CHAINS: dict[str, tuple[str, Callable[[], _Chain], int]] = {
    "anthropic": ("anthropic/text.sse", lambda: _plain(_from_anthropic()), CLAUDE_COST),
    "anthropic tools": ("anthropic/tools.sse", lambda: _plain(_from_anthropic()), 472 * 3_000 + 89 * 15_000),
    # 25 tokens reported; nine bytes said are three, and one event.
    "anthropic error": ("anthropic/error.sse", lambda: _plain(_from_anthropic()), 25 * 3_000 + 3 * 15_000),
    "gemini": ("gemini/stream.sse", lambda: _plain(_from_gemini()), GEMINI_COST),
    "gemini tools": (
        "gemini/stream_tools.sse",
        lambda: _plain(_from_gemini()),
        80 * 3_000 + 31 * 15_000 + 100 * 17_000,
    ),
    "openai as a response": ("openai.txt", _as_response, TYPICAL_COST),
    "openai as a message": ("openai.txt", _as_message, TYPICAL_COST),
    "openai tools as a response": ("openai_tools.txt", _as_response, 80 * 3_000 + 31 * 15_000),
    "openai tools as a message": ("openai_tools.txt", _as_message, 80 * 3_000 + 31 * 15_000),
    "azure as a response": ("azure.txt", _as_response, 21 * 3_000 + 7 * 15_000),
    "data over lines as a message": ("multiline.txt", _as_message, TYPICAL_COST),
    "invalid UTF-8 as a response": ("invalid_utf8.txt", _as_response, TYPICAL_COST),
    "error as a response": ("error_event.txt", _as_response, 3 * 3_000 + 4 * 15_000),
    "error as a message": ("error_event.txt", _as_message, 3 * 3_000 + 4 * 15_000),
    "anthropic as a response": ("anthropic/text.sse", lambda: _as_response(_from_anthropic()), CLAUDE_COST),
    "gemini as a message": ("gemini/stream.sse", lambda: _as_message(_from_gemini()), GEMINI_COST),
}


@pytest.mark.parametrize("line_end", [pytest.param(end, id=name) for name, end in LINE_ENDS.items()])
@pytest.mark.parametrize("name", CHAINS)
def test_a_translation_says_and_costs_the_same_for_every_split(name: str, line_end: bytes) -> None:
    file, make, cost = CHAINS[name]
    data = with_line_ends(stream(file).replace(b"\r\n", b"\n"), line_end)
    whole = make().run([data])
    assert whole.metered.cost_nano_usd == cost
    assert whole.is_complete == ("error" not in name)
    for cut in range(1, len(data), 1 if len(data) < 1_000 else 5):
        assert make().run([data[:cut], data[cut:]]) == whole, f"cut at {cut}"
    assert make().run([data[at : at + 1] for at in range(len(data))]) == whole


# Edges


@pytest.mark.parametrize(
    "event",
    [
        pytest.param(b'data: {"choices":[],"usage":{}}\n\n', id="empty"),
        pytest.param(b'data: {"choices":[],"usage":{"total_tokens":5}}\n\n', id="no counts"),
        pytest.param(b'data: {"choices":[],"usage":{"prompt_tokens":5}}\n\n', id="half"),
    ],
)
def test_a_usage_object_that_says_nothing_meets_one_fate_in_every_split(event: bytes) -> None:
    """Stripped or not, and counted or not: but alike, however the bytes were cut."""
    data = stream("openai.txt").replace(b"data: [DONE]", event + b"data: [DONE]")
    whole = relayed(chat(), [data])
    for cut in range(1, len(data)):
        assert relayed(chat(), [data[:cut], data[cut:]]) == whole, f"cut at {cut}"
    assert relayed(chat(), [data[at : at + 1] for at in range(len(data))]) == whole
    assert relayed(chat(), events_of(data)) == whole
    assert without_usage(whole.whole) == without_usage(data)


def test_a_byte_order_mark_hides_no_usage() -> None:
    """Every client drops it, so the first event counts."""
    data = b'\xef\xbb\xbfdata: {"choices":[{"index":0,"delta":{"content":"Hello"},"finish_reason":"stop"}],"usage":'
    data += b'{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9}}\n\ndata: [DONE]\n\n'
    whole = relayed(chat(), [data])
    assert whole.whole == data
    assert (whole.metered.usage, whole.metered.source) == (Usage(7, text_output=2), "provider")


@pytest.mark.parametrize("line_end", [pytest.param(end, id=name) for name, end in LINE_ENDS.items()])
@pytest.mark.parametrize("name", ["chat", *sorted(MAKES)])
def test_a_stream_that_breaks_ends_with_its_last_whole_event(name: str, line_end: bytes) -> None:
    """Cut anywhere before its end: what is not whole never reaches the client, and what is whole does."""
    file = "anthropic/text.sse" if name == "messages" else "openai.txt" if name == "chat" else f"{name}.txt"
    make = chat() if name == "chat" else MAKES[name]
    data = with_line_ends(stream(file), line_end)
    ends = [at for at, event in enumerate(events_of(data)) if ends_stream(event)]
    # Chat is complete once it gave its reason; the others once their last event is there.
    done = len(events_of(data)) - 3 if name == "chat" else ends[0]
    before = len(b"".join(events_of(data)[:done]))
    for cut in range(0, before, 5):
        if data[:cut].endswith(b"\n\r"):
            continue  # half of the CRLF that would have ended an event, or all of it: both readings are right
        broken = relayed(make, [data[:cut]])
        assert not broken.is_complete
        assert broken.whole == b"".join(events_of(data[:cut])), f"cut at {cut}"


@pytest.mark.parametrize("name", ["chat", *sorted(MAKES)])
def test_an_event_of_a_megabyte_passes_whole(name: str) -> None:
    file = "anthropic/text.sse" if name == "messages" else "openai.txt" if name == "chat" else f"{name}.txt"
    make = chat() if name == "chat" else MAKES[name]
    large = b'data: {"x":"' + b"y" * 2**20 + b'"}\n\n'
    data = large + stream(file)
    pieces = [data[at : at + 16_384] for at in range(0, len(data), 16_384)]
    assert relayed(make, pieces).whole == without_usage(data)
    with pytest.raises(EventTooLarge):
        relayed(make, [b"data: " + b"y" * 2**20] * 3)


@pytest.mark.parametrize("name", ["chat", *sorted(MAKES)])
def test_the_providers_key_never_passes_wherever_the_cut_falls(name: str) -> None:
    file = "anthropic/text.sse" if name == "messages" else "openai.txt" if name == "chat" else f"{name}.txt"
    make = chat() if name == "chat" else MAKES[name]
    quoted = b'data: {"type":"note","x":"sk-secret-of-the-provider"}\n\n'
    data = quoted + stream(file)
    whole = relayed(make, [data])
    assert whole.whole == without_usage(data).replace(b"sk-secret-of-the-provider", b"[redacted]")
    for cut in range(1, len(quoted) + 2):
        assert relayed(make, [data[:cut], data[cut:]]) == whole


@given(st.binary(max_size=200), st.lists(st.integers(1, 200), max_size=6))
def test_sound_passes_unchanged_and_its_last_piece_waits(sound: bytes, cuts: list[int]) -> None:
    parts = [part for part in split(sound, cuts) if part]
    relay = ByteRelay("audio/mpeg", NOTHING)
    sent = b"".join([relay.feed(part) for part in parts])
    assert sent == b"".join(parts[:-1])
    assert sent + relay.finish() + relay.held_back() == sound


# Through a gateway


@pytest.fixture
def dia_key(dialects: Gateway) -> Key:
    return dialects.new_key()


def played(upstream: Upstream, parts: Sequence[bytes]) -> Script:
    """`parts` as chunks of one body, each handed to the socket by itself."""
    head, last = Send(wire.stream_head()), Send(wire.LAST_CHUNK)
    return upstream.script(head, *(Send(wire.framed(part)) for part in parts if part), last)


CHAT_CASES = [
    pytest.param(case, id=name) for name, case in CASES.items() if name not in (*MAKES, "completion", "error event")
]
WAYS: dict[str, Callable[[bytes], list[bytes]]] = {
    "whole": lambda data: [data],
    "by the event": events_of,
    "in sevens": lambda data: [data[at : at + 7] for at in range(0, len(data), 7)],
    "by the kilobyte": lambda data: [data[at : at + 1_000] for at in range(0, len(data), 1_000)],
}


@pytest.mark.parametrize("line_end", [pytest.param(end, id=name) for name, end in LINE_ENDS.items()])
@pytest.mark.parametrize("case", CHAT_CASES)
async def test_a_gateway_passes_on_the_same_bytes_at_the_same_cost_in_whatever_pieces(
    dialects: Gateway, upstream: Upstream, dia_key: Key, case: Case, line_end: bytes
) -> None:
    data = with_line_ends(stream(case.file), line_end)
    fields = {"n": 2} if case.file == "two_choices.txt" else {}
    for name, cut in WAYS.items():
        script = played(upstream, cut(data))
        answer = await dialects.streamed(dia_key, script, model="dia-openai", **fields)
        assert answer.body == without_usage(data), name
    entries = dialects.entries(creator=dia_key.creator)
    assert len(entries) == len(WAYS)
    if case.source == "estimated":
        read = estimated_input(prompt(script))
        cost = read * 3_000 + case.usage.text_output * 15_000
    else:
        cost = case.cost_nano_usd
    assert {(entry["cost_nano_usd"], entry["usage_source"]) for entry in entries} == {(cost, case.source)}


@pytest.mark.parametrize(
    ("model", "options", "sent"),
    [
        pytest.param("dia-openai", {"include_usage": True}, {"include_usage": True}, id="asked for by the client"),
        pytest.param("dia-always", None, None, id="always"),
        pytest.param("dia-never", None, None, id="never"),
        pytest.param("dia-always", {"include_usage": True}, {"include_usage": True}, id="always, asked for"),
    ],
)
@pytest.mark.parametrize("case", CHAT_CASES)
async def test_a_gateway_that_asked_for_nothing_strips_nothing(
    dialects: Gateway, upstream: Upstream, dia_key: Key, case: Case, model: str, options: Any, sent: Any
) -> None:
    data = stream(case.file)
    fields = {"n": 2} if case.file == "two_choices.txt" else {}
    script = played(upstream, WAYS["by the kilobyte"](data))
    answer = await dialects.streamed(dia_key, script, model=model, stream_options=options, **fields)
    assert answer.body == data
    assert script.request.json.get("stream_options") == sent
    entry = dialects.entry(dia_key)
    assert (entry["usage_source"], entry["output_tokens"]) == (case.source, case.usage.output_tokens)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_a_provider_without_stream_options_is_not_sent_the_clients(
    dialects: Gateway, upstream: Upstream, dia_key: Key, path: str
) -> None:
    """SDKs ask for usage of their own accord; a provider that knows no such option would refuse the whole call."""
    script = played(upstream, [stream("no_usage.txt")])
    said = (
        {"prompt": prompt(script)}
        if path == "/v1/completions"
        else {"messages": [{"role": "user", "content": prompt(script)}]}
    )
    body = {"model": "dia-never", **said, "stream": True, "stream_options": {"include_usage": True}}
    answer = await dialects.post(dia_key, body, path=path)
    assert (answer.status, answer.body) == (200, stream("no_usage.txt"))
    assert "stream_options" not in script.request.json


async def test_a_provider_that_reports_no_usage_is_charged_by_the_written_rule(
    dialects: Gateway, upstream: Upstream, dia_key: Key
) -> None:
    """Nothing injected, nothing stripped: ceil(bytes / 4) of the prompt, and of "neun Byte" nine bytes, three tokens."""
    data = stream("no_usage.txt")
    script = played(upstream, [data])
    answer = await dialects.streamed(dia_key, script, model="dia-never")
    assert answer.body == data
    assert "stream_options" not in script.request.json
    entry = dialects.entry(dia_key)
    assert entry["usage_source"] == "estimated"
    assert entry["cost_nano_usd"] == estimated_input(prompt(script)) * 3_000 + 3 * 15_000


@pytest.mark.parametrize("line_end", [pytest.param(end, id=name) for name, end in LINE_ENDS.items()])
async def test_an_error_event_reaches_the_client_and_nothing_follows_it(
    dialects: Gateway, upstream: Upstream, dia_key: Key, line_end: bytes
) -> None:
    data = with_line_ends(stream("error_event.txt"), line_end)
    for cut in WAYS.values():
        answer = await dialects.chat(dia_key, played(upstream, cut(data)), model="dia-openai", stream=True)
        assert answer.body == data
        assert answer.is_complete
    entries = dialects.entries(creator=dia_key.creator)
    assert {entry["outcome"] for entry in entries} == {"upstream_error"}
    assert len({entry["cost_nano_usd"] for entry in entries}) == 1


@pytest.mark.parametrize("asks", [False, True], ids=["unasked", "asked"])
async def test_an_event_of_a_megabyte_passes_a_gateway(
    dialects: Gateway, upstream: Upstream, dia_key: Key, asks: bool
) -> None:
    large = wire.event({"choices": [{"index": 0, "delta": {"content": "y" * 1_000_000}, "finish_reason": None}]})
    data = large + stream("openai.txt")
    script = played(upstream, WAYS["by the kilobyte"](data))
    options = {"include_usage": True} if asks else None
    answer = await dialects.streamed(dia_key, script, model="dia-openai", stream_options=options)
    assert answer.body == (data if asks else without_usage(data))
    assert dialects.entry(dia_key)["cost_nano_usd"] == TYPICAL_COST
