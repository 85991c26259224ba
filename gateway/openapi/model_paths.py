"""Paths that a model answers. Fields are those the gateway reads; whatever else a body holds travels on to the provider."""

from typing import Any

from gateway.openapi import errors
from gateway.openapi.shapes import (
    Answer,
    Body,
    Operation,
    Schema,
    array,
    boolean,
    choice,
    integer,
    number,
    record,
    ref,
    text,
    whatever,
)

__all__ = ["model_operations"]

_TAG = "Calls"
_SECURITY = ("virtualKey", "virtualKeyHeader")
_STREAM = "text/event-stream"
_HEADERS: tuple[Schema, ...] = tuple(
    {"name": name, "in": "header", "description": description, "schema": schema}
    for name, description, schema in (
        ("x-gateway-feature", "A label for the books.", {"type": "string"}),
        ("x-gateway-agent", "A label for the books.", {"type": "string"}),
        ("x-gateway-tags", "Labels for the books, joined by commas.", {"type": "string"}),
        ("x-gateway-creator", "Whom the call is for; only with a service key.", {"type": "string"}),
        ("x-gateway-downgrade", "`never`: refuse instead of a cheaper model.", {"enum": ["allow", "never"]}),
        ("x-gateway-cache", "Whether a kept answer will do.", {"enum": ["on", "off", "refresh"]}),
        ("idempotency-key", "A call that is sent again with it is answered again, and paid once.", {"type": "string"}),
    )
)
_MODEL = text("A model of `GET /v1/models`.")
_WORDS = whatever("A text or an array of them.")
_COMMON: dict[str, Schema] = {
    "stream": boolean("Answer in server-sent events."),
    "user": text("Whom a service key's call is for, or a label."),
    "metadata": {"type": "object", "description": "`feature`, `agent` and `tags` are labels for the books."},
}
_SAMPLING: dict[str, Schema] = {
    "n": integer("How many answers; all are held and paid.", minimum=1, maximum=128),
    "temperature": number(),
    "top_p": number(),
    "stop": _WORDS,
    "seed": integer(),
    "service_tier": text("`auto`, `default`, `standard`, `flex`, or one that the model's row has rates for."),
    "stream_options": {"type": "object", "description": "`include_usage` adds the event with the tokens."},
}
_IMAGE: dict[str, Schema] = {
    "model": _MODEL,
    "prompt": text("What to draw."),
    "n": integer("How many images.", minimum=1, maximum=10),
    "size": text("Such as `1024x1024`."),
    "quality": text("Such as `hd`."),
    "response_format": choice(["url", "b64_json"], "`url`: the gateway keeps the image and signs a URL."),
}
_DRAWN = {**_IMAGE, "partial_images": integer("Images on the way, of a stream.", minimum=0, maximum=3), **_COMMON}
_FILE = text("The bytes.", format="binary")
_SOUND: dict[str, Schema] = {
    "file": text("A file of sound.", format="binary"),
    "model": _MODEL,
    "prompt": text("What the words are about."),
    "response_format": choice(["json", "text", "srt", "vtt", "verbose_json", "diarized_json"]),
    "temperature": number(minimum=0, maximum=1),
}


def model_operations() -> list[Operation]:
    return [
        _call(
            "/v1/chat/completions",
            "Chat with a model",
            "OpenAI's chat completions. A model without structured outputs of its own has its answer checked.",
            {
                "model": _MODEL,
                "messages": array({"type": "object"}, "The conversation so far.", minItems=1),
                "max_completion_tokens": integer("Bound on each answer; lowers what is held.", minimum=1),
                "max_tokens": integer("The older word for it.", minimum=1),
                "tools": array({"type": "object"}, "Of the types `function` and `custom`."),
                "response_format": {"type": "object", "description": "`json_schema` is enforced for every model."},
                **_SAMPLING,
                **_COMMON,
            },
            ["model", "messages"],
            _object("A chat completion.", {"id": text(), "choices": array({"type": "object"}), "usage": whatever()}),
            {"model": "mock-1", "messages": [{"role": "user", "content": "Hello"}]},
            streams=True,
            more=errors.CHECKED,
        ),
        _call(
            "/v1/completions",
            "Complete a text",
            "OpenAI's older completions.",
            {
                "model": _MODEL,
                "prompt": whatever("A text, texts, tokens or lists of tokens; at most 2 048."),
                "max_tokens": integer("16 where it is left out.", minimum=0),
                "best_of": integer(minimum=1, maximum=128),
                "suffix": text(),
                "echo": boolean("Repeat the prompt; what it repeats is no output."),
                **_SAMPLING,
                **_COMMON,
            },
            ["model"],
            _object("A completion.", {"id": text(), "choices": array({"type": "object"}), "usage": whatever()}),
            {"model": "mock-1", "prompt": "Once upon a time"},
            streams=True,
        ),
        _call(
            "/v1/responses",
            "Make a response",
            "OpenAI's responses, on every chat model; `previous_response_id` continues one on any of them.",
            {
                "model": _MODEL,
                "input": whatever("A text or an array of items."),
                "instructions": text(),
                "max_output_tokens": integer(minimum=1),
                "previous_response_id": text("A response of the same creator."),
                "conversation": whatever("The id of a conversation, or an object with it."),
                "store": boolean("false: nothing is kept."),
                "tools": array({"type": "object"}),
                "text": {"type": "object", "description": "`format` as in chat's `response_format`."},
                "reasoning": {"type": "object"},
                **_COMMON,
            },
            ["model"],
            _object("A response.", {"id": text(), "output": array({"type": "object"}), "usage": whatever()}),
            {"model": "mock-1", "input": "My name is Ada."},
            streams=True,
            more=(*errors.CHECKED, *errors.KEPT),
        ),
        _call(
            "/v1/messages",
            "Send Anthropic's messages",
            "Anthropic's API, on every chat model. The virtual key may come as `x-api-key`. Errors have Anthropic's shape.",
            {
                "model": _MODEL,
                "messages": array({"type": "object"}, minItems=1),
                "max_tokens": integer("Bound on the answer.", minimum=1),
                "system": _WORDS,
                "tools": array({"type": "object"}),
                "stop_sequences": array({"type": "string"}),
                "thinking": {"type": "object"},
                "stream": _COMMON["stream"],
                "metadata": {"type": "object", "description": "`user_id` travels on; the rest is for the books."},
            },
            ["model", "max_tokens", "messages"],
            _object("A message.", {"id": text(), "content": array({"type": "object"}), "usage": whatever()}),
            {"model": "mock-1", "max_tokens": 100, "messages": [{"role": "user", "content": "Hello"}]},
            streams=True,
            more=errors.CHECKED,
        ),
        _call(
            "/v1/embeddings",
            "Embed texts",
            "Never downgraded: a vector of one model means nothing to another.",
            {
                "model": _MODEL,
                "input": whatever("A text, texts, tokens or lists of tokens; at most 2 048."),
                "dimensions": integer(minimum=1),
                "encoding_format": choice(["float", "base64"]),
                "user": _COMMON["user"],
            },
            ["model", "input"],
            _object("Vectors.", {"data": array({"type": "object"}), "usage": whatever()}),
            {"model": "mock-embed", "input": "Hello"},
        ),
        _call(
            "/v1/moderations",
            "Moderate texts and images",
            "Without a `model`, `omni-moderation-latest`.",
            {"model": _MODEL, "input": whatever("A text, texts, or parts of the types `text` and `image_url`.")},
            ["input"],
            _object("Verdicts.", {"results": array({"type": "object"})}),
            {"model": "mock-moderation", "input": "Hello"},
        ),
        _call(
            "/v1/images/generations",
            "Draw images",
            "Free images pay first where the plan has them, then credits, then the quota.",
            {**_DRAWN, "style": text()},
            ["model", "prompt"],
            _images(),
            {"model": "mock-image", "prompt": "a red cat"},
            streams=True,
        ),
        _call(
            "/v1/images/edits",
            "Change images",
            "A form with files, or JSON with URLs; a URL is never fetched by the gateway.",
            {**_DRAWN, "image": whatever("One file or several (in JSON: `images`)."), "mask": _FILE},
            ["model", "prompt"],
            _images(),
            None,
            streams=True,
            types=("multipart/form-data", "application/json"),
        ),
        _call(
            "/v1/images/variations",
            "Vary an image",
            "A form. Never streams.",
            {**{name: _IMAGE[name] for name in ("model", "n", "size", "response_format")}, "image": _FILE},
            ["model", "image"],
            _images(),
            None,
            types=("multipart/form-data",),
        ),
        _call(
            "/v1/audio/speech",
            "Say a text",
            "The sound is passed on as it comes.",
            {
                "model": _MODEL,
                "input": text("What to say.", maxLength=4_096),
                "voice": whatever("A name, or an object with an `id`."),
                "instructions": text("How to say it."),
                "response_format": choice(["aac", "flac", "mp3", "opus", "pcm", "wav"]),
                "speed": number(minimum=0.25, maximum=4),
                "stream_format": choice(["audio", "sse"]),
            },
            ["model", "input", "voice"],
            Answer("Sound, or events.", text(format="binary"), types=("audio/*", _STREAM)),
            {"model": "mock-speech", "input": "Hello", "voice": "alloy"},
        ),
        _call(
            "/v1/audio/transcriptions",
            "Write down a recording",
            "How long the file lasts is read off its bytes.",
            {
                **_SOUND,
                "language": text(),
                "timestamp_granularities[]": array(choice(["word", "segment"])),
                "stream": _COMMON["stream"],
            },
            ["model", "file"],
            Answer("The words.", whatever(), types=("application/json", "text/plain", _STREAM)),
            None,
            types=("multipart/form-data",),
        ),
        _call(
            "/v1/audio/translations",
            "Write down a recording in English",
            "As transcriptions. Never streams.",
            _SOUND,
            ["model", "file"],
            Answer("The words.", whatever(), types=("application/json", "text/plain")),
            None,
            types=("multipart/form-data",),
        ),
    ]


def _call(
    path: str,
    summary: str,
    description: str,
    fields: dict[str, Schema],
    required: list[str],
    answer: Answer,
    example: Any,
    *,
    streams: bool = False,
    types: tuple[str, ...] = ("application/json",),
    more: tuple[errors.Code, ...] = (),
) -> Operation:
    codes = errors.JSON_CALL if "application/json" in types else errors.CALL
    if "multipart/form-data" in types:
        codes = (*codes, *errors.FORM_CALL)
    if "application/json" in types and len(types) > 1:
        more = (*more, (400, "unsupported_content_type"))
    return Operation(
        "POST",
        path,
        _TAG,
        summary,
        description,
        answer._replace(types=(*answer.types, _STREAM)) if streams else answer,
        (*codes, *more),
        _SECURITY,
        _HEADERS,
        Body(record(fields, required=required, is_open=True), types),
        example=example,
    )


def _object(description: str, fields: dict[str, Schema]) -> Answer:
    return Answer(f"{description} The provider's own, byte for byte.", record(fields, required=[], is_open=True))


def _images() -> Answer:
    return Answer("Images, as `b64_json` or `url`.", ref("Images"))
