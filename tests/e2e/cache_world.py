"""A gateway that keeps answers, an upstream that never says the same thing twice, and the same question for all endpoints.

Whoever gets the same bytes twice has therefore been answered from what was kept, whatever the headers say.
"""

import base64
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.rig import wire
from tests.rig.catalog import dialect_rows
from tests.rig.client import Answer
from tests.rig.gateway import CHAT, Gateway, Key, prompt
from tests.rig.policy_world import IMAGES, MODELS, PLANS, limited
from tests.rig.upstream import Action, Request, Script, Send, Upstream

CANARY = "answer-canary-7d21"
"""In every word the upstream says: it must not be readable where answers are kept."""
PNG = b"\x89PNG\r\n\x1a\n"
INPUT_NANO_USD, OUTPUT_NANO_USD, EMBEDDED_NANO_USD = 3_000, 15_000, 20
"""A token of the models that are called `dia-...`."""

_numbers = itertools.count(1)


class Question(NamedTuple):
    """What one call asks, and where."""

    path: str
    body: dict[str, Any]


def keeping_gateway(folder: Path, upstream: Upstream) -> Gateway:
    """Plans say nothing about kept answers: creators do, by their overrides."""
    settings = {"GENERATION_HISTORY": True, "CACHE_ANSWER_BYTES_MAX": 150_000}
    return Gateway(folder, upstream, settings=settings, models=MODELS + dialect_rows(upstream.base_url), plans=PLANS)


def served(gateway: Gateway) -> Iterator[Gateway]:
    """For fixtures: the usual audit at the end, and what is kept can be read by nobody."""
    try:
        yield gateway.start()
        gateway.audit()
        assert_unreadable(gateway)
        assert gateway.stop() == 0
    finally:
        gateway.close()


def keeps(gateway: Gateway, **overrides: object) -> Key:
    """A key of a new creator whose answers are kept without being asked for."""
    return limited(gateway, "base", **{"cache": "on", **overrides})


# Questions


def chat(script: Script, question: str = "", **fields: Any) -> Question:
    messages = [{"role": "user", "content": f"{prompt(script)} {question}"}]
    return Question(CHAT, {"model": "dia-openai", "messages": messages, **fields})


def completion(script: Script, question: str = "", **fields: Any) -> Question:
    return Question("/v1/completions", {"model": "dia-openai", "prompt": f"{prompt(script)} {question}", **fields})


def embedding(script: Script, question: str = "", **fields: Any) -> Question:
    return Question("/v1/embeddings", {"model": "dia-embedding", "input": f"{prompt(script)} {question}", **fields})


def message(script: Script, question: str = "", **fields: Any) -> Question:
    messages = [{"role": "user", "content": f"{prompt(script)} {question}"}]
    body = {"model": "dia-native", "max_tokens": 2_000, "messages": messages}
    return Question("/v1/messages", {**body, **fields})


def response(script: Script, question: str = "", **fields: Any) -> Question:
    """Without the words that the audit looks for in the database, where responses with a state are kept."""
    body = {"model": "dia-native", "input": f"{script.marker} {question}", "store": False}
    return Question("/v1/responses", {**body, **fields})


def image(script: Script, question: str = "", **fields: Any) -> Question:
    """Likewise: the history of images has their prompts."""
    return Question(IMAGES, {"model": "dia-dalle", "prompt": f"{script.marker} {question}", **fields})


async def ask(
    gateway: Gateway, key: Key, question: Question, wish: str | None = None, headers: Any = (), **fields: Any
) -> Answer:
    """A call; `wish` is what its `x-gateway-cache` says."""
    wished = [] if wish is None else [("x-gateway-cache", wish)]
    return await gateway.post(key, {**question.body, **fields}, [*headers, *wished], question.path)


async def asked(gateway: Gateway, key: Key, question: Question, wish: str | None = None, **more: Any) -> str:
    """What a call that was answered in full is told about the cache; empty for nothing."""
    answer = await ask(gateway, key, question, wish, **more)
    assert answer.status == 200, answer
    assert answer.is_complete, answer
    return answer.header("x-gateway-cache") or ""


# Answers


def says_anew(upstream: Upstream, prompt_tokens: int = 9, output_tokens: int = 4) -> Script:
    """Another answer each time, in the shape of the endpoint, which quotes the request's `user`."""

    def answer(request: Request) -> Sequence[Action]:
        asked = request.json
        said = f"{CANARY} {next(_numbers)} for {asked.get('user')}."
        return [Send(_spoken(request.line, asked, said, prompt_tokens, output_tokens))]

    return upstream.answer_with(answer)


def _spoken(line: str, asked: dict[str, Any], said: str, prompt_tokens: int, output_tokens: int) -> bytes:
    usage = wire.usage(prompt_tokens, output_tokens)
    if "/embeddings" in line:
        used = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
        entry = {"object": "embedding", "index": 0, "embedding": base64.b64encode(said.encode()).decode()}
        return wire.reply({"object": "list", "data": [entry], "model": "embedder", "usage": used})
    if "/images" in line:
        drawn = {"b64_json": base64.b64encode(PNG + said.encode()).decode()}
        return wire.reply({"created": wire.CREATED, "data": [drawn] * asked.get("n", 1)})
    if "/chat/" in line and asked.get("stream"):
        return streamed(*wire.text_events(*said.split()), wire.event(wire.usage_chunk(usage)), wire.DONE)
    if "/chat/" in line:
        return wire.reply(wire.completion(said, usage=usage))
    if asked.get("stream"):
        events = [text_completion(said[at : at + 9]) for at in range(0, len(said), 9)]
        last = [text_completion("", "stop"), {**text_completion(""), "choices": [], "usage": usage}]
        return streamed(*map(wire.event, [*events, *last]), wire.DONE)
    return wire.reply({**text_completion(said, "stop"), "usage": usage})


def text_completion(text: str, finish: str | None = None) -> dict[str, Any]:
    choice = {"text": text, "index": 0, "logprobs": None, "finish_reason": finish}
    return {
        "id": "cmpl-rig",
        "object": "text_completion",
        "created": wire.CREATED,
        "model": "instruct",
        "choices": [choice],
    }


def streamed(*events: bytes) -> bytes:
    return wire.stream_head() + b"".join(map(wire.framed, events)) + wire.LAST_CHUNK


# What there is to see


def cached_entries(gateway: Gateway, key: Key) -> list[dict[str, Any]]:
    return [entry for entry in gateway.entries(creator=key.creator) if entry["cached"]]


async def limits(gateway: Gateway, key: Key) -> dict[str, tuple[int, int]]:
    """What is used and held of every limit."""
    answer = await gateway.get(key, "/v1/me")
    assert answer.status == 200, answer
    return {limit["name"]: (limit["used"], limit["held"]) for limit in answer.json["limits"]}


def kept_answers(gateway: Gateway) -> int:
    return int(gateway.admin_json("GET", "/admin/cache")["answers"])


def cache_file(gateway: Gateway) -> Path:
    return gateway.data_dir / "cache.db"


def assert_unreadable(gateway: Gateway) -> None:
    """Neither kept answers nor their questions can be read where they are kept."""
    content = b"".join(file.read_bytes() for file in gateway.data_dir.glob("cache.db*"))
    encoded = base64.b64encode(CANARY.encode()).decode()[:20]
    words = [CANARY, encoded, "rig-script-", *(text for _, text in gateway.canaries())]
    assert [word for word in words if word.encode() in content] == []
