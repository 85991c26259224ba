"""The mock provider's other endpoints: completions, embeddings, moderations, images in forms and in events, and the table
of all that is not chat. Pure, but for reading a form.

Every answer follows from the request alone. A moderated text is flagged if it holds the word `harm`; a vector is made of
the digest of its input.
"""

import base64
import struct
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from typing import Any

import orjson

from gateway.completions import MAX_TOKENS_DEFAULT
from gateway.event_relay import event
from gateway.multipart import FilePart, read_form
from gateway.providers import mock_audio, mock_native
from gateway.providers.base import UpstreamRequest
from gateway.providers.mock_answers import CREATED_AT, Reply, json_reply, stream_reply, tokens_of, words_of
from gateway.providers.mock_images import image_answer

__all__ = ["read_fields", "reply"]

_FORM_BYTES_MAX = 2**30
"""The gateway has bounded the form before it wrote it."""
_DIMENSIONS = 8
_CATEGORIES = (
    "harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm",
    "self-harm/instructions", "self-harm/intent", "sexual", "sexual/minors", "violence", "violence/graphic",
)  # fmt: skip
_FLAGGED = "violence"

Fields = dict[str, Any]
Files = list[FilePart]


async def read_fields(request: UpstreamRequest) -> tuple[Fields, Files]:
    """What the request says, as JSON or as a form, and its files."""
    if not request.content_type.startswith("multipart/"):
        return (orjson.loads(request.body) if request.body else {}), []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": request.body, "more_body": False}

    headers = [(b"content-type", request.content_type.encode("latin-1"))]
    form = await read_form(headers, receive, bytes_max=_FORM_BYTES_MAX)
    return dict(form.fields), form.files


def reply(path: str, fields: Fields, files: Files) -> Reply | None:
    """What a path is answered; None for one the mock does not have."""
    answer = _ANSWERS.get(path)
    return None if answer is None else answer(fields, files)


def _completion(fields: Fields, _: Files) -> Reply:
    prompts = _prompts(fields.get("prompt"))
    limit = fields.get("max_tokens", MAX_TOKENS_DEFAULT)
    each = fields.get("n") or 1
    answers = [_completed(prompt, limit, echoes=bool(fields.get("echo"))) for prompt in prompts for _ in range(each)]
    read = sum(tokens_of(prompt) for prompt in prompts)
    written = sum(tokens for _, tokens, _ in answers)
    usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
    head = {"id": "cmpl-mock", "object": "text_completion", "created": CREATED_AT, "model": fields["model"]}
    if fields.get("stream"):
        wants_usage = bool((fields.get("stream_options") or {}).get("include_usage"))
        return stream_reply(list(_completion_events(head, answers, usage if wants_usage else None)))
    choices = [_choice(index, "".join(words), reason) for index, (words, _, reason) in enumerate(answers)]
    return json_reply({**head, "choices": choices, "usage": usage})


def _completed(prompt: str, limit: int, *, echoes: bool) -> tuple[list[str], int, str]:
    """The pieces of one answer, its tokens and why it ended; a word is at most a token where that is bounded."""
    words = words_of(prompt)
    said = words[:limit]
    tokens = min(limit, tokens_of("".join(said)))
    return ([prompt] if echoes else []) + said, tokens, "length" if len(said) < len(words) else "stop"


def _completion_events(
    head: Fields, answers: list[tuple[list[str], int, str]], usage: Fields | None
) -> Iterator[bytes]:
    more: Fields = {} if usage is None else {"usage": None}
    for index, (words, _, reason) in enumerate(answers):
        for choice in [*(_choice(index, word, None) for word in words), _choice(index, "", reason)]:
            yield b"data: " + orjson.dumps({**head, "choices": [choice], **more}) + b"\n\n"
    if usage is not None:
        yield b"data: " + orjson.dumps({**head, "choices": [], "usage": usage}) + b"\n\n"
    yield b"data: [DONE]\n\n"


def _choice(index: int, text: str, finish_reason: str | None) -> Fields:
    return {"text": text, "index": index, "logprobs": None, "finish_reason": finish_reason}


def _prompts(value: Any) -> list[str]:
    """Texts; what came as tokens is shown as numbers."""
    if value is None or isinstance(value, str):
        return [value or ""]
    if isinstance(value[0], int):
        return [" ".join(map(str, value))]
    return [one if isinstance(one, str) else " ".join(map(str, one)) for one in value]


def _embeddings(fields: Fields, _: Files) -> Reply:
    value = fields["input"]
    inputs = value if isinstance(value, list) and not isinstance(value[0], int) else [value]
    tokens = sum(tokens_of(one) if isinstance(one, str) else len(one) for one in inputs)
    size = fields.get("dimensions") or _DIMENSIONS
    as_text = fields.get("encoding_format") == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": _encoded(vector) if as_text else list(vector)}
        for index, vector in enumerate(_vector(orjson.dumps(one), size) for one in inputs)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json_reply({"object": "list", "data": data, "model": fields["model"], "usage": usage})


def _vector(said: bytes, size: int) -> tuple[float, ...]:
    """Numbers from -1 to 1 that 32 bits hold exactly, so that both formats say the same."""
    digests = b"".join(sha256(b"%d %b" % (block, said)).digest() for block in range(-(-size // 32)))
    return tuple((byte - 128) / 128 for byte in digests[:size])


def _encoded(vector: tuple[float, ...]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _moderations(fields: Fields, _: Files) -> Reply:
    value = fields["input"]
    if isinstance(value, str):
        value = [value]
    texts = [one for one in value if isinstance(one, str)]
    # The parts of one message are judged together.
    parts = " ".join(one.get("text", "") for one in value if isinstance(one, dict))
    judged = texts or [parts]
    return json_reply({"id": "modr-mock", "model": fields["model"], "results": [_verdict(text) for text in judged]})


def _verdict(text: str) -> Fields:
    is_flagged = "harm" in text.lower().split()
    return {
        "flagged": is_flagged,
        "categories": {name: is_flagged and name == _FLAGGED for name in _CATEGORIES},
        "category_scores": {name: 0.9 if is_flagged and name == _FLAGGED else 0.0 for name in _CATEGORIES},
        "category_applied_input_types": {name: ["text"] for name in _CATEGORIES},
    }


def _images(kind: str) -> Callable[[Fields, Files], Reply]:
    """Generations, edits and variations draw alike; the events of a stream bear their kind."""

    def answer(fields: Fields, files: Files) -> Reply:
        number = {name: int(fields.get(name) or 0) for name in ("n", "partial_images")}
        body = {**fields, "n": number["n"], "prompt": fields.get("prompt") or "a variation"}
        if fields.get("stream") not in (True, "true"):
            return json_reply(image_answer(body))
        drawn = image_answer({**body, "n": 1, "response_format": None})
        usage = {"usage": drawn["usage"]} if "usage" in drawn else {}
        shape = {
            "created_at": CREATED_AT,
            "size": fields.get("size") or "1024x1024",
            "quality": fields.get("quality") or "auto",
            "background": "opaque",
            "output_format": "png",
        }
        events = [
            event(f"{kind}.partial_image", {**drawn["data"][0], **shape, "partial_image_index": index})
            for index in range(number["partial_images"])
        ]
        return stream_reply([*events, event(f"{kind}.completed", {**drawn["data"][0], **shape, **usage})])

    return answer


_ANSWERS: Mapping[str, Callable[[Fields, Files], Reply]] = {
    "/completions": _completion,
    "/embeddings": _embeddings,
    "/moderations": _moderations,
    "/images/generations": _images("image_generation"),
    "/images/edits": _images("image_edit"),
    "/images/variations": _images("image_generation"),
    "/audio/speech": lambda fields, files: mock_audio.speech(fields),
    "/audio/transcriptions": lambda fields, files: mock_audio.transcript(fields, files, "transcribe"),
    "/audio/translations": lambda fields, files: mock_audio.transcript(fields, files, "translate"),
    "/responses": lambda fields, files: mock_native.response(fields),
    "/messages": lambda fields, files: mock_native.message(fields),
    "/messages/count_tokens": lambda fields, files: mock_native.counted(fields),
}
