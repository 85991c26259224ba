"""A request to write down sound: what is refused, what it costs before and after, what is sent on, how words are relayed."""

import asyncio
import json
from typing import Any, cast

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.attribution import read_labels
from gateway.audio_duration import Duration, duration_of
from gateway.catalog import Model, Price, ProviderRow
from gateway.endpoints.transcriptions import Transcriptions
from gateway.endpoints.translations import Translations
from gateway.errors import RequestError
from gateway.model_request import ModelRequest
from gateway.multipart import FilePart, Form, read_form
from gateway.pipeline import Pipeline
from gateway.pricing import UnpricedUsage, charged_price, cost_nano_usd
from gateway.relay import Guard, Relay
from gateway.transcriptions import TranscriptionRequest, read_transcription_form, read_translation_form
from gateway.usage import Usage

ROW = ProviderRow("p", "openai")
GUARD = Guard(1 << 20, lambda data: data.replace(b"sk-secret", b"..."), b"sk-secret")
FILE = FilePart("file", "a.wav", "audio/wav", b"RIFF-and-so-on")
MINUTE = Duration(61, 61)
SECONDS_20 = Duration(20, 20)
FUZZY = Duration(600, 40, False)
"""Of a file whose bytes do not fix how long it lasts."""


def model(price: Price, **fields: Any) -> Model:
    return Model("w", "p", "upstream-w", frozenset({"transcriptions", "translations"}), price, **fields)


BY_SECOND = model(Price("1", audio_second=100_000_000))  # 100 000 nano-dollars a second
BY_TOKENS = model(Price("2", input=2_500_000, audio_input=6_000_000, output=10_000_000), output_tokens_max=2_000)
SECOND = 100_000
TEXT_IN, SOUND_IN, OUT = 2_500, 6_000, 10_000  # nano-dollars a token


def form(*more: tuple[str, str], files: list[FilePart] | None = None, **fields: str) -> Form:
    named = {"model": "w", **fields}
    return Form([*named.items(), *more], [FILE] if files is None else files)


def asked(*more: tuple[str, str], duration: Duration = MINUTE, **fields: str) -> TranscriptionRequest:
    return read_transcription_form(form(*fields.items(), *more), duration)


def test_it_is_a_model_request() -> None:
    request: ModelRequest = asked()
    assert (request.endpoint, request.path, request.images) == ("transcriptions", "/audio/transcriptions", 0)
    other: ModelRequest = read_translation_form(form(), MINUTE)
    assert (other.endpoint, other.path) == ("translations", "/audio/translations")
    assert request.serves(BY_SECOND)
    assert request.variant(BY_SECOND) == "seconds"


@pytest.mark.parametrize(
    ("sent", "param"),
    [
        pytest.param(form(model=""), "model", id="no model"),
        pytest.param(form(("model", "other")), "model", id="two models"),
        pytest.param(form(files=[]), "file", id="no file"),
        pytest.param(form(("file", "RIFF"), files=[]), "file", id="a file that is a value"),
        pytest.param(form(("file", "RIFF")), "file", id="a file and a value"),
        pytest.param(form(files=[FILE, FILE]), "file", id="two files"),
        pytest.param(form(files=[FILE._replace(name="audio")]), "file", id="a file of another name"),
        pytest.param(form(files=[FILE._replace(data=b"")]), "file", id="an empty file"),
        pytest.param(form(prompt="x" * 100_001), "prompt", id="a long prompt"),
        pytest.param(form(language="x" * 65), "language", id="a long language"),
        pytest.param(form(response_format="xml"), "response_format", id="another format"),
        pytest.param(form(temperature="hot"), "temperature", id="a temperature in words"),
        pytest.param(form(temperature="1.1"), "temperature", id="too hot"),
        pytest.param(form(temperature="nan"), "temperature", id="no temperature at all"),
        pytest.param(form(stream="yes"), "stream", id="a stream in words"),
        pytest.param(form(("timestamp_granularities[]", "letter")), "timestamp_granularities", id="letters"),
        pytest.param(form(*[("include[]", "logprobs")] * 17), "include", id="many includes"),
        pytest.param(form(service_tier="priority"), "service_tier", id="a dear tier"),
        pytest.param(form(api_base="http://127.0.0.1"), "api_base", id="a host of the caller's choice"),
    ],
)
def test_what_cannot_be_meant_or_priced_is_refused(sent: Form, param: str) -> None:
    for read in (read_transcription_form, read_translation_form):
        with pytest.raises(RequestError) as caught:
            read(sent, MINUTE)
        assert (caught.value.status, caught.value.param) == (400, param)


def test_translations_are_not_streamed() -> None:
    assert asked(stream="True").is_streaming
    with pytest.raises(RequestError) as caught:
        read_translation_form(form(stream="true"), MINUTE)
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "stream")
    assert not read_translation_form(form(stream="false"), MINUTE).is_streaming


def test_labels_are_read_as_from_json() -> None:
    request = asked(("metadata[order]", "7"), user="somebody")
    assert request.body["metadata"] == {"order": "7"}
    assert request.body["user"] == "somebody"
    read_labels({}, request.body)


# Before


def test_seconds_are_held_for_the_longest_the_file_can_be() -> None:
    request = asked(duration=FUZZY)
    assert request.worst_case(BY_SECOND, BY_SECOND.price) == 600 * SECOND
    assert request.estimate(BY_SECOND, BY_SECOND.price) == (600 * SECOND, None, 40 * SECOND, 0)
    assert request.unfinished_usage(BY_SECOND) == Usage(pieces=600)


def test_tokens_are_held_for_sound_prompt_and_the_longest_answer() -> None:
    request = asked(prompt="Grüße!")  # 8 bytes
    # 61 x 50 + 8 + 32 tokens in, all at the dearest rate; 2 000 out.
    assert request.worst_case(BY_TOKENS, BY_TOKENS.price) == 3_090 * SOUND_IN + 2_000 * OUT
    # 610 of sound, 2 of the prompt, 244 words.
    expected = 610 * SOUND_IN + 2 * TEXT_IN + 244 * OUT
    assert request.estimate(BY_TOKENS, BY_TOKENS.price).expected == expected
    capped = model(BY_TOKENS.price, context_tokens_max=1_000, output_tokens_max=100)
    assert request.worst_case(capped, capped.price) == 1_000 * SOUND_IN + 100 * OUT


def test_voices_to_compare_with_count_as_ten_seconds_each() -> None:
    request = asked(("known_speaker_references[]", "data:audio/wav;base64,UklG"), ("known_speaker_names[]", "agent"))
    assert (request.references, request.prompt_bytes) == (1, 0)
    assert request.worst_case(BY_TOKENS, BY_TOKENS.price) == (71 * 50 + 32) * SOUND_IN + 2_000 * OUT
    assert request.meter_unanswered(BY_TOKENS).usage.audio_input == 710


@pytest.mark.parametrize(
    "price",
    [
        Price("0"),
        Price("0", input=1, output=1),
        Price("0", input=1, audio_input=1),
        Price("0", audio_input=1, output=1),
        Price("0", character=1),
        Price("0", images={"*/*": 1}),
    ],
)
def test_without_a_price_it_is_refused(price: Price) -> None:
    with pytest.raises(UnpricedUsage):
        asked().worst_case(model(price), price)
    assert not asked().fits(model(price))


def test_a_creator_may_owe_seconds_for_what_costs_tokens() -> None:
    own = charged_price(BY_TOKENS, {"audio_second": 300_000})
    request = asked()
    assert request.fits(BY_TOKENS)
    assert request.worst_case(BY_TOKENS, own) == 61 * 300
    metered = request.meter({"text": "hi", "usage": REPORT}, BY_TOKENS, ROW)
    assert metered is not None
    assert cost_nano_usd(metered.usage, own, metered.variant) == 61 * 300


# What is sent on


async def sent(request: TranscriptionRequest, row: ProviderRow = ROW) -> Form:
    outgoing = request.outgoing(BY_SECOND, row)

    async def receive() -> Any:
        return {"type": "http.request", "body": outgoing.body}

    return await read_form([(b"content-type", outgoing.content_type.encode())], receive, bytes_max=10_000)


async def test_the_provider_gets_the_form_under_its_own_name_for_the_model() -> None:
    request = asked(
        ("include[]", "logprobs"),
        ("include[]", "other"),
        ("metadata[a]", "b"),
        ("chunking_strategy[type]", "server_vad"),
        prompt="Grüße",
        stream="true",
        user="u",
        hint="x",
    )
    found = await sent(request, ProviderRow("p", "openai", drop_fields=frozenset({"hint"})))
    assert found.fields == [
        ("model", "upstream-w"),
        ("prompt", "Grüße"),
        ("stream", "true"),
        ("include[]", "logprobs"),
        ("include[]", "other"),
        ("chunking_strategy[type]", "server_vad"),
    ]
    assert found.files == [FILE]
    outgoing = request.outgoing(BY_SECOND, ROW)
    assert (outgoing.path, outgoing.is_streaming) == ("/audio/transcriptions", True)


@pytest.mark.parametrize(
    ("data", "filename"), [(b"RIFF\0\0\0\0WAVE", "audio.wav"), (b"fLaC....", "audio.flac"), (b"????", "audio")]
)
async def test_a_file_without_a_name_gets_one_that_tells_its_format(data: bytes, filename: str) -> None:
    bare = form(files=[FILE._replace(filename="", data=data)])
    (file,) = (await sent(read_transcription_form(bare, MINUTE))).files
    assert (file.filename, file.data) == (filename, data)


# After: whole answers

REPORT = {
    "type": "tokens",
    "input_tokens": 620,
    "input_token_details": {"text_tokens": 20, "audio_tokens": 600},
    "output_tokens": 45,
    "total_tokens": 665,
}
BY_REPORT = 20 * TEXT_IN + 600 * SOUND_IN + 45 * OUT


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [
        pytest.param({"text": "hi", "usage": {"type": "duration", "seconds": 9}}, 9, id="usage"),
        pytest.param({"text": "hi", "usage": {"type": "duration", "seconds": 8.2}}, 9, id="a fraction rounded up"),
        pytest.param({"text": "hi", "duration": 8.470000267028809, "segments": []}, 9, id="verbose"),
        pytest.param({"text": "hi", "duration": "8.47"}, 9, id="as text"),
        pytest.param({"text": "hi", "duration": 3, "usage": {"type": "duration", "seconds": 9}}, 9, id="usage first"),
        pytest.param({"text": "", "duration": 0}, 0, id="a zero is a zero"),
        pytest.param({"text": "hi", "duration": 304}, 304, id="longer than the file seemed"),
    ],
)
def test_seconds_are_those_the_answer_says(answer: dict[str, Any], seconds: int) -> None:
    metered = asked().meter(answer, BY_SECOND, ROW)
    assert metered == (Usage(pieces=seconds), "provider", seconds * SECOND, (), "seconds", 0, True)


@pytest.mark.parametrize(
    "answer",
    [
        {"duration": -1},
        {"duration": 305},
        {"duration": True},
        {"duration": "long"},
        {"duration": "1e99"},
        {"duration": [5]},
        {"usage": {"type": "duration", "seconds": "x"}},
        {"usage": {"type": "duration"}},
        {"usage": "5"},
    ],
)
def test_seconds_that_cannot_be_true_are_flagged_and_the_rule_counts(answer: dict[str, Any]) -> None:
    metered = asked().meter({"text": "hi", **answer}, BY_SECOND, ROW)
    assert metered == (Usage(pieces=61), "estimated", 61 * SECOND, ("usage_refused",), "seconds", 0, True)


@pytest.mark.parametrize(
    ("duration", "size", "seconds", "is_believed"),
    [
        pytest.param(SECONDS_20, 1_000_000, 2_000, True, id="down to the lowest bit rate of its size"),
        pytest.param(SECONDS_20, 1_000_000, 2_001, False, id="below that"),
        pytest.param(FUZZY, 1_000, 86_400, True, id="a day of what no size bounds"),
        pytest.param(FUZZY, 1_000, 86_401, False, id="more than a day"),
    ],
)
def test_a_report_above_the_hold_is_charged_as_long_as_it_can_be_true(
    duration: Duration, size: int, seconds: int, is_believed: bool
) -> None:
    file = FILE._replace(data=bytes(size))
    request = read_transcription_form(form(files=[file]), duration)
    request.body.clear()  # as it is once it was sent
    metered = request.meter({"text": "hi", "duration": seconds}, BY_SECOND, ROW)
    assert metered is not None
    charged = seconds if is_believed else duration.seconds_most
    assert (metered.source, metered.cost_nano_usd) == ("provider" if is_believed else "estimated", charged * SECOND)
    assert (metered.cost_nano_usd > request.worst_case(BY_SECOND, BY_SECOND.price)) == is_believed

    usage = {"input_tokens": seconds * 50, "output_tokens": 1}
    metered = request.meter({"text": "hi", "usage": usage}, BY_TOKENS, ROW)
    assert metered is not None
    assert (metered.source == "provider", bool(metered.flags)) == (is_believed, not is_believed)


def test_tokens_are_those_the_answer_says() -> None:
    metered = asked().meter({"text": "hi", "usage": REPORT}, BY_TOKENS, ROW)
    usage = Usage(20, audio_input=600, text_output=45, pieces=61)
    assert metered == (usage, "provider", BY_REPORT, (), "seconds", 0, True)


def test_tokens_beside_seconds_cost_nothing_more() -> None:
    metered = asked().meter({"text": "hi", "usage": REPORT, "duration": 9}, BY_SECOND, ROW)
    assert metered is not None
    assert (metered.source, metered.cost_nano_usd, metered.usage.audio_input) == ("provider", 9 * SECOND, 600)
    estimated = asked().meter({"text": "hi", "usage": REPORT}, BY_SECOND, ROW)
    assert estimated is not None
    assert (estimated.source, estimated.cost_nano_usd, estimated.flags) == ("estimated", 61 * SECOND, ())


@pytest.mark.parametrize("change", [{"input_tokens": -1}, {"total_tokens": 1}, {"output_tokens": 2_001}])
def test_tokens_that_cannot_be_true_are_flagged_and_the_rule_counts(change: dict[str, Any]) -> None:
    metered = asked(prompt="four").meter({"text": "12345", "usage": {**REPORT, **change}}, BY_TOKENS, ROW)
    # ceil(4 / 4) of the prompt, 10 a second of sound, ceil(5 / 4) written.
    usage = Usage(1, audio_input=610, text_output=2, pieces=61)
    cost = TEXT_IN + 610 * SOUND_IN + 2 * OUT
    assert metered == (usage, "estimated", cost, ("usage_refused",), "seconds", 0, True)


def test_nothing_said_is_nothing_refused() -> None:
    metered = asked().meter({"text": "hi"}, BY_SECOND, ROW)
    assert metered == (Usage(pieces=61), "estimated", 61 * SECOND, (), "seconds", 0, True)


@pytest.mark.parametrize("answer", [{}, {"error": "no"}, {"text": 5}, {"usage": REPORT}])
def test_what_holds_no_words_is_no_answer(answer: dict[str, Any]) -> None:
    assert asked().meter(answer, BY_SECOND, ROW) is None


def test_a_call_never_answered_owes_its_input() -> None:
    assert asked().meter_unanswered(BY_SECOND).cost_nano_usd == 61 * SECOND
    assert asked().meter_unanswered(BY_TOKENS).cost_nano_usd == 610 * SOUND_IN


SRT = b"1\r\n00:00:00,000 --> 00:00:04,500\r\nhi\r\n\r\n2\r\n00:00:04,500 --> 00:01:12,001\r\nyou\r\n"
VTT = b"WEBVTT\n\n00:00.000 --> 01:12.001\nhi\n"


@pytest.mark.parametrize(
    ("body", "duration", "seconds"),
    [
        pytest.param(SRT, FUZZY, 600, id="srt"),
        pytest.param(SRT, SECONDS_20, 73, id="srt of what was longer"),
        pytest.param(VTT, SECONDS_20, 73, id="vtt of what was longer"),
        pytest.param(b"00:00:00,000 --> 00:10:31,000 line:0", FUZZY, 631, id="with settings"),
        pytest.param(SRT, MINUTE, 61, id="a cue that runs past the end"),
        pytest.param(b"just words --> and more", FUZZY, 600, id="words"),
        pytest.param(b"", FUZZY, 600, id="silence"),
        pytest.param(b"00:00:00,000 --> 09:00:00,000", FUZZY, 32_400, id="a cue that only the provider can know"),
        pytest.param(b"00:00:00,000 --> 25:00:00,000", FUZZY, 600, id="a cue that cannot be true"),
        pytest.param(b"00:00:00,000 --> 09:00:00,000", SECONDS_20, 20, id="a cue that the size disproves"),
        pytest.param(b"x-->" * 10_000, FUZZY, 600, id="arrows"),
    ],
)
def test_plain_answers_last_as_long_as_the_file_can_or_their_cues_prove(
    body: bytes, duration: Duration, seconds: int
) -> None:
    for response_format in ("text", "srt", "vtt"):
        request = asked(response_format=response_format, duration=duration)
        metered = request.meter_other(body, "text/plain; charset=utf-8", BY_SECOND)
        assert metered is not None
        assert (metered.source, metered.usage, metered.flags) == ("estimated", Usage(pieces=seconds), ())
        assert metered.cost_nano_usd == seconds * SECOND


@pytest.mark.parametrize("content_type", ["text/html", "application/octet-stream", "", "text/plain\r\nx: y"])
def test_a_plain_answer_of_another_type_is_none(content_type: str) -> None:
    assert asked(response_format="text").meter_other(b"hi", content_type, BY_SECOND) is None
    assert asked().meter_other(b"hi", "text/plain", BY_SECOND) is None


def test_words_that_happen_to_be_json_are_words() -> None:
    metered = asked(response_format="text").meter({"said": 1}, BY_SECOND, ROW)
    assert metered is not None
    assert metered.cost_nano_usd == 61 * SECOND


def test_a_kind_of_token_without_a_rate_counts_as_sound() -> None:
    """A model that is later given a report of text it has no rate for; such a row is refused before a call."""
    bare = model(Price("b", audio_input=6_000_000, output=10_000_000))
    metered = asked().meter({"text": "hi", "usage": REPORT}, bare, ROW)
    assert metered is not None
    assert (metered.flags, metered.cost_nano_usd) == (("unpriced_usage",), 620 * SOUND_IN + 45 * OUT)


# After: streams


def sse(*events: dict[str, Any]) -> bytes:
    return b"".join(b"data: %s\n\n" % json.dumps(event).encode() for event in events)


DELTA = {"type": "transcript.text.delta", "delta": "Grüße "}
SEGMENT = {"type": "transcript.text.segment", "text": "aus Köln", "speaker": "A"}
DONE = {"type": "transcript.text.done", "text": "Grüße aus Köln", "usage": REPORT}


def streamed(to: Model = BY_TOKENS) -> Relay:
    relay = asked(stream="true").relay("text/event-stream; charset=utf-8", to, ROW, GUARD)
    assert relay is not None
    return relay


@given(st.lists(st.integers(0, 400), max_size=6))
def test_events_are_relayed_alike_in_any_pieces_and_metered_by_their_report(cuts: list[int]) -> None:
    stream = sse(DELTA, SEGMENT, DONE)
    at = sorted(min(cut, len(stream)) for cut in cuts)
    relay = streamed()
    passed = b"".join(relay.feed(stream[a:b]) for a, b in zip([0, *at], [*at, len(stream)], strict=True))
    assert passed + relay.finish() == sse(DELTA, SEGMENT)
    assert relay.held_back() == sse(DONE)
    assert relay.is_complete
    assert relay.metered(is_partial=False).cost_nano_usd == BY_REPORT


def test_a_stream_that_breaks_owes_its_input_and_what_was_said() -> None:
    relay = streamed()
    relay.feed(sse(DELTA, SEGMENT) + b'data: {"type"')
    assert relay.finish() == b""
    assert not relay.is_complete
    # 8 + 9 bytes were said: ceil(17 / 4) = 5 tokens.
    metered = relay.metered(is_partial=True)
    assert metered.usage == Usage(audio_input=610, text_output=5, pieces=61)
    assert (metered.source, metered.cost_nano_usd) == ("estimated", 610 * SOUND_IN + 5 * OUT)


def test_a_stream_of_what_costs_seconds_owes_seconds() -> None:
    relay = streamed(BY_SECOND)
    relay.feed(sse(DELTA, {**DONE, "usage": {"type": "duration", "seconds": 30}}))
    assert relay.metered(is_partial=False).cost_nano_usd == 30 * SECOND


def test_an_error_event_is_passed_on_without_secrets() -> None:
    relay = streamed()
    assert b"sk-secret" not in relay.feed(sse({"error": {"message": "with sk-secret"}}))
    assert (relay.has_error_event, relay.is_complete) == (True, False)


@given(st.lists(st.sampled_from([DELTA, SEGMENT, DONE, {"type": 5}, {"delta": 5}, {"type": "x", "usage": None}])))
def test_any_events_have_a_cost_within_what_was_held(events: list[dict[str, Any]]) -> None:
    relay = streamed()
    relay.feed(sse(*events))
    assert relay.metered(is_partial=True).cost_nano_usd <= asked().worst_case(BY_TOKENS, BY_TOKENS.price)


def test_json_is_read_whole() -> None:
    assert asked(stream="true").relay("application/json", BY_TOKENS, ROW, GUARD) is None


# The endpoints


@pytest.mark.parametrize(("endpoint", "word"), [(Transcriptions, "transcriptions"), (Translations, "translations")])
@pytest.mark.parametrize("frames", [5, 20], ids=["at once", "in a thread"])
async def test_a_form_that_comes_in_is_read_measured_and_checked(endpoint: Any, word: str, frames: int) -> None:
    sound = (b"\xff\xfb\x90\x00" + bytes(413)) * frames
    asked_for = httpx.Request(
        "POST", "http://127.0.0.1/", data={"model": "w"}, files={"file": ("a.mp3", sound, "audio/mpeg")}
    )
    body = asked_for.read()

    async def receive() -> Any:
        return {"type": "http.request", "body": body}

    headers = [(b"content-type", asked_for.headers["content-type"].encode())]
    made = endpoint(cast(Pipeline, None), 5_000_000)
    async with asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(made.read(headers, receive))
        await asyncio.sleep(0)  # one turn for it: whatever is not done by then is not done on the loop
        assert reading.done() == (len(sound) <= 4_096)
    request = reading.result()
    assert isinstance(request, TranscriptionRequest)
    assert (request.endpoint, made.path) == (word, f"/v1/audio/{word}")
    assert request.duration == duration_of(sound) == Duration(-(-frames * 1152 // 44_100), -(-frames * 1152 // 44_100))
    with pytest.raises(RequestError) as caught:
        await endpoint(cast(Pipeline, None), len(body) - 1).read(headers, receive)
    assert caught.value.status == 413
