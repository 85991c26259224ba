"""What is never kept, who never gets what is, and how little depends on the file: kept answers, looked at from their edges."""

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cache_world import (
    Question,
    ask,
    asked,
    cache_file,
    cached_entries,
    chat,
    completion,
    embedding,
    image,
    keeping_gateway,
    keeps,
    kept_answers,
    limits,
    message,
    response,
    says_anew,
    served,
    streamed,
)
from tests.rig import wire
from tests.rig.client import Answer, connected, request_bytes
from tests.rig.gateway import Gateway, Key
from tests.rig.policy_world import USD, override, usage_entries
from tests.rig.upstream import Close, Gate, Send, Upstream
from tests.rig.waiting import soon

FIXTURES = Path(__file__).parents[1] / "fixtures"
USAGE = wire.usage(9, 4)
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
PIXEL = "data:image/png;base64,iVBORw0KGgo="


@pytest.fixture(scope="module")
def keeping(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    yield from served(keeping_gateway(tmp_path_factory.mktemp("keeping-edges"), upstream))


def fixture(name: str) -> bytes:
    return (FIXTURES / name).read_bytes()


# Never kept


def ended(finish: str) -> bytes:
    return streamed(*wire.text_events("a", finish=finish), wire.event(wire.usage_chunk(USAGE)), wire.DONE)


def embedded(count: int) -> dict[str, Any]:
    data = [{"object": "embedding", "index": index, "embedding": [0.5]} for index in range(count)]
    return {"object": "list", "data": data, "model": "m", "usage": {"prompt_tokens": 4, "total_tokens": 4}}


def drawn(*entries: Mapping[str, str]) -> bytes:
    return wire.reply({"created": wire.CREATED, "data": list(entries)})


def responded(**fields: object) -> bytes:
    data = fixture("streams/responses.txt").split(b"event: response.completed\ndata: ")[1].split(b"\n")[0]
    return wire.reply({**json.loads(data)["response"], **fields})


STREAM: Mapping[str, Any] = {"stream": True}
CLAUDE: Mapping[str, Any] = {"model": "dia-claude"}
BYTES = {"b64_json": "aVZCT1I="}
ERROR = wire.event({"error": {"message": "no", "type": "x", "code": "y"}})
UNFINISHED = streamed(*wire.text_events("a", finish=None)).removesuffix(wire.LAST_CHUNK)
NEVER_KEPT = {
    "cut by length": (chat, {}, wire.reply(wire.completion("a", finish="length", usage=USAGE))),
    "filtered": (chat, {}, wire.reply(wire.completion("a", finish="content_filter", usage=USAGE))),
    "stream cut by length": (chat, STREAM, ended("length")),
    "stream filtered": (chat, STREAM, ended("content_filter")),
    "completion cut by length": (
        completion,
        STREAM,
        streamed(fixture("streams/completions.txt").replace(b"stop", b"length")),
    ),
    "usage estimated": (chat, {}, wire.reply(wire.completion("a"))),
    "stream's usage estimated": (chat, STREAM, streamed(*wire.text_events("a"), wire.DONE)),
    "one choice of two": (chat, {"n": 2}, wire.reply(wire.completion("a", usage=USAGE))),
    "error": (chat, {}, wire.reply({"error": {"message": "no"}}, 500)),
    "refusal": (chat, STREAM, wire.reply({"error": {"message": "no"}}, 400)),
    "error with success": (chat, {}, wire.reply({**wire.completion("a", usage=USAGE), "error": {"message": "no"}})),
    "no answer": (chat, {}, wire.reply({"hello": "world"})),
    "stream broken off": (chat, STREAM, UNFINISHED),
    "stream without an end": (chat, STREAM, UNFINISHED + wire.LAST_CHUNK),
    "error in the stream": (chat, STREAM, streamed(fixture("streams/error_event.txt"))),
    "error before a proper end": (
        chat,
        STREAM,
        streamed(*wire.text_events("a"), wire.event(wire.usage_chunk(USAGE)), ERROR, wire.DONE),
    ),
    "message cut by length": (
        message,
        CLAUDE,
        wire.reply(fixture("anthropic/text.json").replace(b"end_turn", b"max_tokens")),
    ),
    "message stream cut": (
        message,
        {**CLAUDE, **STREAM},
        streamed(fixture("anthropic/text.sse").replace(b"end_turn", b"max_tokens")),
    ),
    "message refused by the model": (message, {**CLAUDE, **STREAM}, streamed(fixture("anthropic/refusal.sse"))),
    "message stream with an error": (message, {**CLAUDE, **STREAM}, streamed(fixture("anthropic/error.sse"))),
    "incomplete response": (response, {}, responded(status="incomplete")),
    "failed response": (response, {}, responded(error={"code": "x", "message": "no"})),
    "response with a state": (response, {"store": True}, responded()),
    "response kept by default": (response, {"store": None}, responded()),
    "stored chat": (chat, {"store": True}, wire.reply(wire.completion("a", usage=USAGE))),
    "one vector of two": (embedding, {"input": ["%s", "b"]}, wire.reply(embedded(1))),
    "one image of two": (image, {"n": 2}, drawn(BYTES)),
    "image at a URL": (image, {}, drawn({"url": "http://images.test/1.png"})),
    "image at a URL beside another": (image, {"n": 2}, drawn(BYTES, {"url": "http://images.test/1.png"})),
    "image filtered": (image, {"n": 2}, drawn(BYTES, {"revised_prompt": "filtered"})),
    "image from another": (image, {"model": "dia-image", "image": PIXEL}, drawn(BYTES)),
}


@pytest.mark.parametrize(("make", "fields", "answer"), NEVER_KEPT.values(), ids=NEVER_KEPT.keys())
async def test_what_is_not_all_that_was_asked_for_is_not_given_again(
    keeping: Gateway, upstream: Upstream, make: Callable[..., Question], fields: Mapping[str, Any], answer: bytes
) -> None:
    key = keeps(keeping)
    script = upstream.script(Send(answer), *([Close()] if answer is UNFINISHED else []))
    if isinstance(fields.get("input"), list):
        fields = {"input": [text.replace("%s", script.marker) for text in fields["input"]]}
    question = make(script, **fields)
    before = kept_answers(keeping)
    for _ in range(2):
        told = await ask(keeping, key, question, "on")
        assert told.header("x-gateway-cache") in {None, "miss", "bypass"}, told
        assert told.header("age") is None
    assert len(script.requests) == 2
    assert kept_answers(keeping) == before


@pytest.mark.parametrize(
    ("path", "body"),
    [
        pytest.param("/v1/moderations", {"model": "dia-moderation", "input": "%s"}, id="moderation"),
        pytest.param("/v1/audio/speech", {"model": "dia-tts", "input": "%s", "voice": "alloy"}, id="speech"),
    ],
)
async def test_answers_of_some_endpoints_are_never_kept(
    keeping: Gateway, upstream: Upstream, path: str, body: Mapping[str, Any]
) -> None:
    key = keeps(keeping)
    answer = {"id": "m", "model": "m", "results": [{"flagged": False}]}
    kind = "audio/mpeg" if "speech" in path else "application/json"
    script = upstream.script(Send(wire.reply(b"sound" if "speech" in path else answer, content_type=kind)))
    question = Question(path, {**body, "input": script.marker})
    assert [await asked(keeping, key, question, "on") for _ in range(2)] == ["bypass"] * 2
    assert len(script.requests) == 2


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_an_answer_whose_client_left_is_not_kept(keeping: Gateway, upstream: Upstream, stream: bool) -> None:
    """Though it came in full, and was paid."""
    key, gate = keeps(keeping), Gate()
    whole = ended("stop") if stream else wire.reply(wire.completion("a", usage=USAGE))
    first = whole.index(b"\r\n\r\n") + 4 if stream else 0
    script = upstream.script(Send(whole[:first]), gate, Send(whole[first:]))
    question = chat(script, stream=stream)
    async with connected(keeping.port) as connection:
        await connection.send(request_bytes("POST", question.path, key=key.key, body=question.body))
        await soon(gate.is_reached.is_set, "the call at the provider")
        await connection.reset()
        # The gateway has seen the client leave before the answer goes on: it reads its connections in turn.
        assert (await keeping.get(key, "/v1/me")).status == 200
        gate.open()
    (entry,) = await soon(lambda: usage_entries(keeping, key), "the entry")
    assert (entry["outcome"], entry["usage_source"]) == ("client_gone", "provider")
    assert await asked(keeping, key, question) == "miss"
    assert len(script.requests) == 2


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_an_answer_that_money_cut_short_is_not_kept(keeping: Gateway, upstream: Upstream, stream: bool) -> None:
    key = keeps(keeping, quota_usd_per_month=10)
    question = chat(says_anew(upstream), model="endless", stream=stream)
    first = await ask(keeping, key, question)
    assert (first.status, first.header("x-gateway-cache")) == (200, "miss")
    bound = int(first.header("x-gateway-clamped-max-tokens") or "0")
    assert bound > 0
    override(keeping, key, cache="on", quota_usd_per_month=1_000_000)
    assert await asked(keeping, key, question, max_tokens=bound) == "miss"
    assert await asked(keeping, key, question, max_completion_tokens=bound) == "miss"
    assert await asked(keeping, key, question) == "miss"
    assert await asked(keeping, key, question) == "hit"
    assert await asked(keeping, key, question, max_tokens=bound) == "hit"


@pytest.mark.parametrize(
    ("make", "tools"),
    [
        pytest.param(chat, TOOLS, id="chat"),
        pytest.param(message, [{"name": "f", "input_schema": {"type": "object"}}], id="message"),
        pytest.param(response, [{"type": "function", "name": "f", "parameters": {"type": "object"}}], id="response"),
    ],
)
async def test_with_tools_an_answer_is_kept_for_who_says_so(
    keeping: Gateway, upstream: Upstream, make: Callable[..., Question], tools: object
) -> None:
    key = keeps(keeping)
    script = says_anew(upstream)
    question = make(script, model="dia-openai", tools=tools)
    told = [await asked(keeping, key, question, wish) for wish in (None, None, "on", "on", None, "refresh", "off")]
    assert told == ["bypass", "bypass", "miss", "hit", "bypass", "refresh", ""]
    assert len(script.requests) == 6


# Who asks for it, and how


async def test_a_plan_asks_a_call_asks_and_either_may_say_no(keeping: Gateway, upstream: Upstream) -> None:
    told: dict[str, list[str]] = {}
    wishes = (None, None, "on", "on", "off", None)
    for use in ("asked", "on", "never"):
        key, question = keeps(keeping, cache=use), chat(says_anew(upstream))
        told[use] = [await asked(keeping, key, question, wish) for wish in wishes]
    assert told == {
        "asked": ["", "", "miss", "hit", "", ""],
        "on": ["miss", "hit", "hit", "hit", "", "hit"],
        "never": [""] * 6,
    }


@pytest.mark.parametrize("word", ["", "yes", "on,off", "on;q=1", "gr\u00fc\u00df", "true", "o" * 5_000])
@pytest.mark.parametrize("use", ["asked", "never"])
async def test_another_word_is_a_mistake(keeping: Gateway, upstream: Upstream, word: str, use: str) -> None:
    key = keeps(keeping, cache=use)
    script = says_anew(upstream)
    answer = await ask(keeping, key, chat(script), word)
    assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "invalid_value", "x-gateway-cache")
    assert script.requests == []


async def test_a_refresh_asks_anew_and_replaces_what_was_kept(keeping: Gateway, upstream: Upstream) -> None:
    key, bodies = keeps(keeping), []
    question = chat(says_anew(upstream))
    for wish, told in ((None, "miss"), ("refresh", "refresh"), (None, "hit"), ("REFRESH", "refresh"), ("On", "hit")):
        answer = await ask(keeping, key, question, wish)
        assert answer.header("x-gateway-cache") == told
        bodies.append(answer.body)
    assert bodies[2] == bodies[1] != bodies[0]
    assert bodies[4] == bodies[3] != bodies[2]


async def test_a_refresh_that_fails_takes_nothing_away(keeping: Gateway, upstream: Upstream) -> None:
    key = keeps(keeping)
    replies = [wire.reply(wire.completion("a", usage=USAGE)), wire.reply({"error": {"message": "no"}}, 500)]
    replies.append(wire.reply(wire.completion("b", finish="length", usage=USAGE)))
    left = iter(replies)
    question = chat(upstream.answer_with(lambda _: [Send(next(left))]))
    answers = [await ask(keeping, key, question, wish) for wish in (None, "refresh", "refresh", None)]
    assert [answer.status for answer in answers] == [200, 500, 200, 200]
    assert answers[3].header("x-gateway-cache") == "hit"
    assert answers[3].body == answers[0].body


# Downgrades


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_a_cheaper_answer_is_never_given_for_the_dearer_model(
    keeping: Gateway, upstream: Upstream, stream: bool
) -> None:
    """Over a budget of ten dollars `pair` becomes `plain`; whoever asks for `plain` by name may have that answer."""
    key, neighbour = (keeps(keeping, budget_usd_per_month=10, cache_scope="shared") for _ in range(2))
    spent = await ask(keeping, key, chat(says_anew(upstream, 1, 10), model="dollar", max_tokens=10), "off")
    assert spent.status == 200
    script = says_anew(upstream, 5, 1)
    dear = chat(script, model="pair", max_tokens=1, stream=stream)
    cheap = Question(dear.path, {**dear.body, "model": "plain"})

    async def heard(whose: Key, question: Question) -> tuple[str | None, str | None, Answer]:
        answer = await ask(keeping, whose, question)
        assert answer.status == 200, answer
        return answer.header("x-gateway-model"), answer.header("x-gateway-cache"), answer

    downgraded = [await heard(key, dear) for _ in range(2)]
    assert [each[:2] for each in downgraded] == [("plain", "miss")] * 2
    assert downgraded[1][2].header("x-gateway-downgraded-from") == "pair"
    for whose in (key, neighbour):
        model, told, answer = await heard(whose, cheap)
        assert (model, told, answer.body) == ("plain", "hit", downgraded[1][2].body)
        assert answer.header("x-gateway-downgraded-from") is None
    first_dear = await heard(neighbour, dear)
    assert first_dear[:2] == ("pair", "miss"), "it may have the dear model, and gets it"
    # What the dear model said is for everybody who asks for it, also over budget: it costs nothing any more.
    again = await heard(key, dear)
    assert again[:2] == ("pair", "hit")
    assert again[2].body == first_dear[2].body
    assert [request.json["model"] for request in script.requests] == ["up-plain"] * 2 + ["up-pair"]


# Access and limits


async def test_a_kept_answer_opens_no_door(keeping: Gateway, upstream: Upstream) -> None:
    key = keeps(keeping)
    other_model = keeping.new_key(key.creator, models=["cent"])
    revoked, paused = keeping.new_key(key.creator), keeping.new_key(key.creator)
    script = says_anew(upstream)
    question = chat(script)
    assert await asked(keeping, revoked, question) == "miss"
    assert [await asked(keeping, each, question) for each in (key, paused)] == ["hit"] * 2
    keeping.admin_json("DELETE", f"/admin/keys/{revoked.id}")
    keeping.admin_json("POST", f"/admin/keys/{paused.id}/pause")

    async def refusal(whose: Key | str | None) -> tuple[int, str | None, str | None]:
        answer = await keeping.post(whose, question.body, (), question.path)
        assert b"answer-canary" not in answer.body
        return answer.status, answer.error["code"], answer.header("x-gateway-cache")

    assert await refusal(other_model) == (403, "model_not_allowed", None)
    assert await refusal(revoked) == (401, "invalid_api_key", None)
    assert await refusal(paused) == (403, "key_paused", None)
    assert await refusal(None) == (401, "invalid_api_key", None)
    for overrides, code in (
        ({"endpoints": ["embeddings"]}, "endpoint_not_allowed"),
        ({"models": ["cent"]}, "model_not_allowed"),
        ({"tiers": ["economy"]}, "tier_not_allowed"),
        ({"addresses": ["10.0.0.0/8"]}, "address_not_allowed"),
    ):
        override(keeping, key, cache="on", **overrides)
        assert await refusal(key) == (403, code, None)
        override(keeping, key, cache="on", **dict.fromkeys(overrides))
    assert await asked(keeping, key, question) == "hit"
    assert len(script.requests) == 1


@pytest.mark.parametrize("of", ["creator", "key"])
async def test_hits_are_calls_to_the_windows_of_requests(keeping: Gateway, upstream: Upstream, of: str) -> None:
    if of == "creator":
        key = keeps(keeping, requests_per_hour=3)
    else:
        key = keeping.new_key(keeps(keeping).creator, overrides={"requests_per_hour": 3})
    script = says_anew(upstream)
    question = chat(script)
    assert [await asked(keeping, key, question) for _ in range(3)] == ["miss", "hit", "hit"]
    answer = await ask(keeping, key, question)
    assert (answer.status, answer.error["code"]) == (429, "rate_limit_exceeded")
    assert float(answer.header("retry-after") or "0") > 0
    assert (len(script.requests), len(cached_entries(keeping, key))) == (1, 2)


async def test_what_costs_nothing_is_given_when_nothing_is_left(keeping: Gateway, upstream: Upstream) -> None:
    """Neither money nor a free place: a hit needs none."""
    key = keeps(keeping, quota_usd_per_month=2, budget_usd_per_month="unlimited", concurrent_calls=1)
    question = chat(says_anew(upstream, 1, 1), model="dollar", max_tokens=1)
    assert await asked(keeping, key, question) == "miss"
    gate = Gate()
    script = upstream.script(gate, Send(wire.reply(wire.completion("a", usage=wire.usage(1, 1)))))
    last = asyncio.get_running_loop().create_task(ask(keeping, key, chat(script, model="dollar", max_tokens=1)))
    await soon(gate.is_reached.is_set, "the call at the provider")
    assert await asked(keeping, key, question) == "hit"
    gate.open()
    assert (await last).status == 200
    refused = await ask(keeping, key, chat(script, "more", model="dollar", max_tokens=1))
    assert (refused.status, refused.error["code"]) == (429, "insufficient_quota")
    assert await asked(keeping, key, question) == "hit"
    assert (await limits(keeping, key))["quota_usd_per_month"] == (2 * USD, 0)


# Forgetting


async def test_the_admin_takes_answers_away_by_creator_by_model_and_all(keeping: Gateway, upstream: Upstream) -> None:
    first, second = keeps(keeping), keeps(keeping)
    one, two = (chat(says_anew(upstream), model=model) for model in ("dia-openai", "dia-always"))

    async def told() -> list[str]:
        return [await asked(keeping, key, question) for key in (first, second) for question in (one, two)]

    def remove(**which: str) -> int:
        return int(keeping.admin_json("DELETE", "/admin/cache", params=which)["removed"])

    assert await told() == ["miss"] * 4
    assert await told() == ["hit"] * 4
    assert remove(creator=first.creator) == 2
    assert await told() == ["miss", "miss", "hit", "hit"]
    assert remove(creator=second.creator, model="dia-always") == 1
    assert await told() == ["hit", "hit", "hit", "miss"]
    assert remove(model="dia-always") >= 2
    assert await told() == ["hit", "miss", "hit", "miss"]
    assert remove(creator="nobody") == remove(model="nobody") == 0
    assert remove(all="true") >= 4
    assert kept_answers(keeping) == 0
    assert await told() == ["miss"] * 4
    assert keeping.admin("DELETE", "/admin/cache").status_code == 400
    assert (await keeping.get(first, "/admin/cache")).status in {401, 403}
    shared = keeps(keeping, cache_scope="shared")
    assert await asked(keeping, shared, one) == "miss"
    keeping.admin_json("DELETE", f"/admin/creators/{shared.creator}")
    assert await asked(keeping, keeps(keeping, cache_scope="shared"), one) == "miss", "what a deleted creator bought"


async def test_of_a_deleted_creator_nothing_is_kept_afterwards_either(keeping: Gateway, upstream: Upstream) -> None:
    """Its last call was under way."""
    key, gate = keeps(keeping, cache_scope="shared"), Gate()
    script = upstream.script(gate, Send(wire.reply(wire.completion("a", usage=USAGE))))
    question = chat(script)
    last = asyncio.get_running_loop().create_task(ask(keeping, key, question))
    await soon(gate.is_reached.is_set, "the call at the provider")
    keeping.admin_json("DELETE", f"/admin/creators/{key.creator}")
    gate.open()
    assert (await last).status == 200
    assert await asked(keeping, keeps(keeping, cache_scope="shared"), question) == "miss"


# The file


def fill_with_garbage(gateway: Gateway) -> None:
    """What was in the file and its log, in their full length."""
    for path in (cache_file(gateway), cache_file(gateway).with_name("cache.db-wal")):
        if path.exists():
            with path.open("r+b") as file:
                file.write(b"garbage!" * (path.stat().st_size // 8 + 1))


def delete(gateway: Gateway) -> None:
    for path in gateway.data_dir.glob("cache.db*"):
        path.unlink()


async def test_the_file_outlives_the_process_and_the_gateway_outlives_the_file(
    keeping: Gateway, upstream: Upstream
) -> None:
    key = keeps(keeping, requests_per_hour=1_000)
    question, drawing = chat(says_anew(upstream), stream=True), image(says_anew(upstream))
    first = await ask(keeping, key, question)
    assert [await asked(keeping, key, each) for each in (question, drawing)] == ["hit", "miss"]
    seen = await limits(keeping, key)
    keeping.kill9()
    keeping.start()
    assert await limits(keeping, key) == seen, "hits are in the windows of requests after a crash too"
    again = await ask(keeping, key, question)
    assert (again.header("x-gateway-cache"), again.body) == ("hit", first.body)
    assert await asked(keeping, key, drawing) == "hit"

    async def is_kept_again() -> None:
        """No call is lost; and before long there are hits once more."""
        for _ in range(3):
            told = [await asked(keeping, key, each) for each in (question, drawing)]
        assert told == ["hit", "hit"]

    for ruin in (delete, fill_with_garbage):
        ruin(keeping)
        assert await asked(keeping, key, chat(says_anew(upstream))) == "miss"
        await is_kept_again()
    keeping.kill9()
    fill_with_garbage(keeping)
    keeping.start()
    assert [await asked(keeping, key, each) for each in (question, drawing)] == ["miss", "miss"]
    await is_kept_again()
