"""Kept answers through a running gateway: what they save, to whom they are given, and that they are what was said first."""

import asyncio
import base64
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.cache_world import (
    CANARY,
    EMBEDDED_NANO_USD,
    INPUT_NANO_USD,
    OUTPUT_NANO_USD,
    PNG,
    Question,
    ask,
    asked,
    assert_unreadable,
    cache_file,
    cached_entries,
    chat,
    completion,
    embedding,
    image,
    keeping_gateway,
    keeps,
    limits,
    message,
    response,
    says_anew,
    served,
    streamed,
)
from tests.rig import wire
from tests.rig.client import Answer
from tests.rig.gateway import Gateway, Key
from tests.rig.policy_world import assert_books_agree, limited
from tests.rig.upstream import Script, Send, Upstream

FIXTURES = Path(__file__).parents[1] / "fixtures"
USAGE_ASKED: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}


@pytest.fixture(scope="module")
def keeping(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    yield from served(keeping_gateway(tmp_path_factory.mktemp("keeping"), upstream))


# What it saves

QUESTIONS, CALLS = 60, 100


class Common:
    """Questions as people ask them: the more common a question, the rarer the next. Each costs another amount."""

    def __init__(self, upstream: Upstream) -> None:
        self.asked: list[tuple[Question, Script, int]] = []
        for number in range(QUESTIONS):
            prompt_tokens, output_tokens = 5 + number, 3 + number % 7
            script = says_anew(upstream, prompt_tokens, output_tokens)
            cost = INPUT_NANO_USD * prompt_tokens + OUTPUT_NANO_USD * output_tokens
            ways: list[Question] = [
                chat(script),
                chat(script, **USAGE_ASKED),
                completion(script),
                chat(script, stream=True),
                embedding(script),
                completion(script, stream=True),
            ]
            question = ways[number % len(ways)]
            if "embeddings" in question.path:
                cost = EMBEDDED_NANO_USD * prompt_tokens
            self.asked.append((question, script, cost))
        self.weights = [1 / rank for rank in range(1, QUESTIONS + 1)]

    def drawn(self, seed: int) -> list[int]:
        return random.Random(seed).choices(range(QUESTIONS), self.weights, k=CALLS)


async def test_common_questions_cost_once(keeping: Gateway, upstream: Upstream) -> None:
    common = Common(upstream)
    keys = [keeps(keeping, requests_per_hour=1_000, tokens_per_day=10**9) for _ in range(2)]
    drawn = [common.drawn(seed) for seed in (5, 17)]

    async def ask_all(key: Key, numbers: Sequence[int]) -> list[Answer]:
        return [await ask(keeping, key, common.asked[number][0]) for number in numbers]

    answers = await asyncio.gather(*map(ask_all, keys, drawn))
    for key, numbers, given in zip(keys, drawn, answers, strict=True):
        entries = {entry["request_id"]: entry for entry in await assert_books_agree(keeping, key, admitted=CALLS)}
        first: dict[int, Answer] = {}
        saved = spent = 0
        for number, answer in zip(numbers, given, strict=True):
            assert answer.status == 200, answer
            assert answer.is_complete, answer
            entry, cost = entries[answer.request_id], common.asked[number][2]
            is_hit = number in first
            assert (answer.header("x-gateway-cache"), entry["cached"]) == ("hit" if is_hit else "miss", is_hit)
            shown = (entry["cost_nano_usd"], entry["charge_nano_usd"], entry["payer_amount"], entry["saved_nano_usd"])
            assert shown == ((0, 0, 0, cost) if is_hit else (cost, cost, cost, 0))
            if is_hit:
                assert answer.body == first[number].body
                assert int(answer.header("age") or "-1") >= 0
                assert answer.header("x-gateway-cost-usd") == "0"
                assert entry["input_tokens"] == entry["output_tokens"] == 0
                saved += cost
            else:
                first[number] = answer
                spent += cost
        hits = len(numbers) - len(first)
        assert hits > 0.3 * len(numbers)
        rows = keeping.admin_json("GET", "/admin/costs", params={"group_by": "cached", "creator": key.creator})
        sums = {row["cached"]: (row["calls"], row["cost_nano_usd"], row["saved_nano_usd"]) for row in rows["data"]}
        assert sums == {False: (len(first), spent, 0), True: (hits, 0, saved)}
        assert rows["totals"]["saved_nano_usd"] == saved
    dialled = sum(len(script.requests) for _, script, _ in common.asked)
    assert dialled == sum(len(set(numbers)) for numbers in drawn)


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_a_hit_takes_a_request_and_nothing_else(keeping: Gateway, upstream: Upstream, stream: bool) -> None:
    key = keeps(keeping, requests_per_minute=50, requests_per_hour=90, tokens_per_day=10**9, concurrent_calls=3)
    question = chat(says_anew(upstream), stream=stream)
    assert await asked(keeping, key, question) == "miss"
    before = await limits(keeping, key)
    hit = await ask(keeping, key, question)
    assert hit.header("x-gateway-cache") == "hit"
    assert hit.header("x-ratelimit-remaining-requests") == "48"
    windows = {"requests_per_minute": (2, 0), "requests_per_hour": (2, 0)}
    assert await limits(keeping, key) == {**before, **windows}


# Whose it is


async def test_nobody_is_told_what_another_was_told_unless_both_share(keeping: Gateway, upstream: Upstream) -> None:
    """The upstream's answers name who asked. Six creators, their second keys and a service key that speaks for them all
    ask the same few questions at once and in any order."""
    private = [limited(keeping, "base", cache="on") for _ in range(3)]
    sharing = [limited(keeping, "base", cache="on", cache_scope="shared") for _ in range(3)]
    owners = [key.creator for key in (*private, *sharing)]
    keys = [*private, *sharing, *(keeping.new_key(creator) for creator in owners)]
    service = keeping.new_key(limited(keeping).creator, scopes=["act_for"])
    scripts = [says_anew(upstream) for _ in range(2)]
    makers: list[Callable[..., Question]] = [chat, completion, embedding]
    questions = [make(script, user="?") for script in scripts for make in makers]
    questions += [chat(script, stream=True, user="?") for script in scripts]
    dice = random.Random(23)
    heard: dict[str, Counter[str]] = {owner: Counter() for owner in owners}
    shared = {key.creator for key in sharing}

    async def one() -> None:
        key = dice.choice([*keys, service, service])
        owner = dice.choice(owners) if key is service else key.creator
        headers = [("x-gateway-creator", owner)] if key is service else []
        wish = dice.choice([None] * 7 + ["refresh"])
        answer = await ask(keeping, key, dice.choice(questions), wish, headers, user=owner)
        assert answer.status == 200, answer
        text = answer.body
        if b'"embedding"' in text:
            text = base64.b64decode(answer.json["data"][0]["embedding"])
        told = [name for name in owners if name.encode() + b"." in text]
        assert len(told) == 1, text
        heard[owner][told[0]] += 1

    for _ in range(40):
        await asyncio.gather(*(one() for _ in range(5)))
    for owner, names in heard.items():
        assert set(names) <= (shared if owner in shared else {owner}), (owner, names)
    assert any(len(heard[owner]) > 1 for owner in shared), "those who share do share"
    assert sum(len(script.requests) for script in scripts) < 100


async def test_labels_make_no_other_question_and_all_else_does(keeping: Gateway, upstream: Upstream) -> None:
    key = keeps(keeping)
    question = chat(says_anew(upstream), temperature=0)
    assert await asked(keeping, key, question) == "miss"
    backwards = Question(question.path, dict(reversed(question.body.items())))
    assert await asked(keeping, key, backwards) == "hit"
    assert await asked(keeping, key, question, user="u", metadata={"a": "b"}, store=False) == "hit"
    assert await asked(keeping, key, question, headers=[("x-gateway-feature", "f"), ("user-agent", "x")]) == "hit"
    others: list[dict[str, Any]] = [
        {"temperature": 1},
        {"temperature": False},
        {"seed": 1},
        {"max_tokens": 100},
        {"model": "dia-always"},
        {"stream": True},
        USAGE_ASKED,
        {"stop": "x"},
        {"service_tier": "default"},
        {"response_format": {"type": "json_object"}},
    ]
    told = [await ask(keeping, key, question, None, (), **other) for other in others]
    assert [answer.header("x-gateway-cache") for answer in told if answer.status == 200].count("hit") == 0
    assert sum(answer.status == 200 for answer in told) >= len(others) - 1


async def test_a_response_repeats_nobody_elses_labels(keeping: Gateway, upstream: Upstream) -> None:
    """A Response object has its request's labels in it, so with them it is another question."""
    script = says_anew(upstream)
    labels: list[dict[str, Any]] = [{"metadata": {"whose": "a"}}, {"metadata": {"whose": "b"}}, {"user": "c"}]
    labels += [{"safety_identifier": "d"}, {"prompt_cache_key": "e"}, {}]
    for fields in labels:
        for told in ("miss", "hit"):
            key = keeps(keeping, cache_scope="shared")
            answer = await ask(keeping, key, response(script, model="dia-openai", **fields))
            assert answer.header("x-gateway-cache") == told
            assert {name: answer.json[name] for name in fields} == fields


async def test_nothing_of_it_can_be_read_in_its_file(keeping: Gateway, upstream: Upstream) -> None:
    key, script = keeps(keeping), says_anew(upstream)
    for question in (chat(script), chat(script, stream=True), embedding(script)):
        assert [await asked(keeping, key, question) for _ in range(2)] == ["miss", "hit"]
    path = cache_file(keeping)
    assert path.stat().st_mode & 0o077 == 0
    assert sum(file.stat().st_size for file in keeping.data_dir.glob("cache.db*")) > 0
    assert_unreadable(keeping)


# The same, byte for byte


def fixture(name: str) -> bytes:
    return (FIXTURES / name).read_bytes()


def with_comments(data: bytes) -> bytes:
    """With CRLF, and a comment before every event."""
    return b"".join(b": wait\r\n\r\n" + event.replace(b"\n", b"\r\n") + b"\r\n\r\n" for event in _events(data))


def _events(data: bytes) -> list[bytes]:
    return data.strip(b"\n").split(b"\n\n")


TWO_CHOICES = fixture("streams/two_choices.txt").replace(b'"length"', b'"stop"')
NOTHING: Mapping[str, Any] = {}
WHOLE_CHAT = wire.compact(wire.completion("Grüße\u2028 🌍", usage=wire.usage(9, 4))).replace(
    b',"object"', b' ,\n "object"'
)
TEXT = {"usage": {"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11}}
EMBEDDED = (
    b'{\n "object":"list","data":[{"object":"embedding","index":0,"embedding":[0.1,-2.5e-07,1.0,0.1000000000000000055]}],'
    b'"model":"m","usage":{"prompt_tokens":4,"total_tokens":4}}\n'
)
DRAWN = b'{"created":1790000000, "data":[{"b64_json":"aVZCT1I=","revised_prompt":"a cat"},{"b64_json":"aVZCT1J3"}]}'
REPLAYED = [
    pytest.param(chat, NOTHING, WHOLE_CHAT, id="chat"),
    pytest.param(chat, {"n": 2, "stream": True}, TWO_CHOICES, id="chat with two choices"),
    pytest.param(chat, {"stream": True}, fixture("streams/openai.txt"), id="chat stream"),
    pytest.param(chat, USAGE_ASKED, fixture("streams/openai.txt"), id="chat stream with usage"),
    pytest.param(chat, {"stream": True}, fixture("streams/comments.txt"), id="chat stream with comments"),
    pytest.param(chat, USAGE_ASKED, with_comments(fixture("streams/openai.txt")), id="chat stream with CRLF"),
    pytest.param(chat, {"stream": True}, fixture("streams/openai.txt").replace(b"\n", b"\r"), id="chat stream with CR"),
    pytest.param(chat, USAGE_ASKED, fixture("streams/no_done.txt"), id="chat stream without its last word"),
    pytest.param(chat, {"model": "dia-claude"}, fixture("anthropic/text.json"), id="chat of Claude"),
    pytest.param(chat, {"model": "dia-claude", **USAGE_ASKED}, fixture("anthropic/text.sse"), id="stream of Claude"),
    pytest.param(chat, {"model": "dia-gemini"}, fixture("gemini/chat.json"), id="chat of Gemini"),
    pytest.param(chat, {"model": "dia-gemini", "stream": True}, fixture("gemini/stream.sse"), id="stream of Gemini"),
    pytest.param(message, {"model": "dia-claude"}, fixture("anthropic/text.json"), id="message"),
    pytest.param(message, {"model": "dia-claude", "stream": True}, fixture("anthropic/text.sse"), id="message stream"),
    pytest.param(message, {"model": "dia-openai"}, WHOLE_CHAT, id="bridged message"),
    pytest.param(
        message, {"model": "dia-openai", "stream": True}, fixture("streams/openai.txt"), id="bridged message stream"
    ),
    pytest.param(response, {"stream": True}, fixture("streams/responses.txt"), id="response stream"),
    pytest.param(response, {"model": "dia-openai"}, WHOLE_CHAT, id="bridged response"),
    pytest.param(
        response, {"model": "dia-openai", "stream": True}, fixture("streams/openai.txt"), id="bridged response stream"
    ),
    pytest.param(completion, {"stream": True}, fixture("streams/completions.txt"), id="completion stream"),
    pytest.param(completion, USAGE_ASKED, fixture("streams/completions.txt"), id="completion stream with usage"),
    pytest.param(embedding, {"encoding_format": "float"}, EMBEDDED, id="embedding"),
    pytest.param(image, {"n": 2}, DRAWN, id="images"),
    pytest.param(image, {"model": "dia-image", "stream": True}, fixture("streams/image.txt"), id="image stream"),
]


@pytest.mark.parametrize(("make", "fields", "data"), REPLAYED)
async def test_what_is_given_again_is_what_was_given_first(
    keeping: Gateway, upstream: Upstream, make: Callable[..., Question], fields: Mapping[str, Any], data: bytes
) -> None:
    key = keeps(keeping)
    is_stream = bool(fields.get("stream"))
    pieces = [data[at : at + 211] for at in range(0, len(data), 211)]
    script = upstream.script(Send(streamed(*pieces) if is_stream else wire.reply(data)))
    question = make(script, **fields)
    first, again = await ask(keeping, key, question), await ask(keeping, key, question)
    assert (first.status, first.header("x-gateway-cache")) == (200, "miss"), first
    assert (again.status, again.header("x-gateway-cache")) == (200, "hit"), again
    assert first.is_complete
    assert again.is_complete
    assert again.body == first.body
    assert len(script.requests) == 1
    for name in ("content-type", "x-gateway-model", "x-gateway-provider"):
        assert again.header(name) == first.header(name)
    cost = {"x-gateway-cost-usd"}  # a stream that costs something leaves before that is known
    assert again.header_names - cost == first.header_names - cost | {"age"}
    assert again.request_id != first.request_id
    (entry,) = cached_entries(keeping, key)
    assert (entry["request_id"], entry["is_streaming"], entry["saved_nano_usd"] > 0) == (
        again.request_id,
        is_stream,
        True,
    )


async def test_an_answer_that_was_checked_against_a_schema_is_kept_as_it_was_shown(
    keeping: Gateway, upstream: Upstream
) -> None:
    """`plain` enforces no schema: the gateway asks for the whole answer, checks it, mends it, and streams it itself."""
    key = keeps(keeping)
    schema = {"name": "s", "schema": {"type": "object", "required": ["a"]}}
    form = {"type": "json_schema", "json_schema": schema}
    for stream in (False, True):
        answers = iter(["no JSON", '{"a": 1}', '{"a": 2}'])
        script = upstream.answer_with(
            lambda _, left=answers: [Send(wire.reply(wire.completion(next(left), usage=wire.usage(5, 2))))]  # type: ignore[misc]
        )
        question = chat(script, model="plain", response_format=form, max_tokens=50, stream=stream)
        first, again = await ask(keeping, key, question), await ask(keeping, key, question)
        assert (first.status, again.status, again.header("x-gateway-cache")) == (200, 200, "hit"), first
        assert again.body == first.body
        assert len(script.requests) == 2
    # Two attempts of two tokens at a cent each: both were paid, and both are saved.
    assert {entry["saved_nano_usd"] for entry in cached_entries(keeping, key)} == {40_000_000}


async def test_an_image_at_a_url_is_given_again_at_another_url(keeping: Gateway, upstream: Upstream) -> None:
    """Also to another creator, who has the image in its own history."""
    first_key, second_key = (keeps(keeping, cache_scope="shared") for _ in range(2))
    script = says_anew(upstream)
    question = image(script, response_format="url", size="256x256")
    answers = [await ask(keeping, key, question) for key in (first_key, first_key, second_key)]
    assert [answer.header("x-gateway-cache") for answer in answers] == ["miss", "hit", "hit"]
    assert len(script.requests) == 1
    urls = [answer.json["data"][0]["url"] for answer in answers]
    assert len(set(urls)) == 3
    with httpx.Client(trust_env=False) as client:
        pictures = {client.get(url).content for url in urls}
    (picture,) = pictures
    assert picture.startswith(PNG + CANARY.encode())
    for key, count in ((first_key, 2), (second_key, 1)):
        answer = await keeping.get(key, "/v1/generations")
        assert len(answer.json["data"]) == count, answer
    assert await asked(keeping, second_key, image(script, size="256x256")) == "miss", "bytes were asked for, not a URL"


async def test_a_streamed_image_is_in_the_history_each_time(keeping: Gateway, upstream: Upstream) -> None:
    key = keeps(keeping)
    script = upstream.script(Send(streamed(fixture("streams/image.txt"))))
    question = image(script, model="dia-image", stream=True)
    assert [await asked(keeping, key, question) for _ in range(2)] == ["miss", "hit"]
    made = (await keeping.get(key, "/v1/generations")).json["data"]
    assert len({one["request_id"] for one in made}) == 2, made


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize(("size", "told"), [(100_000, "hit"), (200_000, "miss")], ids=["long", "too long"])
async def test_an_answer_is_kept_up_to_a_length(
    keeping: Gateway, upstream: Upstream, stream: bool, size: int, told: str
) -> None:
    key = keeps(keeping)
    text, usage = "long ".ljust(size // 50, "x"), wire.usage(9, 4)
    events = [*wire.text_events(*[text] * 50), wire.event(wire.usage_chunk(usage)), wire.DONE]
    whole = wire.reply(wire.completion(text * 50, usage=usage))
    question = chat(upstream.script(Send(streamed(*events) if stream else whole)), stream=stream)
    first, again = await ask(keeping, key, question), await ask(keeping, key, question)
    assert again.header("x-gateway-cache") == told
    assert again.is_complete
    assert again.body == first.body
    assert len(again.body) > size


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_a_hit_with_an_idempotency_key_is_booked_once(keeping: Gateway, upstream: Upstream, stream: bool) -> None:
    key = keeps(keeping)
    script = says_anew(upstream)
    question = chat(script, stream=stream)
    assert await asked(keeping, key, question) == "miss"
    named = [("idempotency-key", "a-hit")]
    hit = await ask(keeping, key, question, headers=named)
    replayed = await ask(keeping, key, question, headers=named)
    assert (hit.status, hit.header("x-gateway-cache")) == (200, "hit")
    assert replayed.header("x-gateway-idempotent-replay") == hit.request_id
    assert replayed.body == hit.body
    assert len(script.requests) == 1
    assert len(cached_entries(keeping, key)) == 1


# Through the SDK


@pytest.fixture
def client(keeping: Gateway) -> Iterator[openai.OpenAI]:
    http_client = openai.DefaultHttpxClient(trust_env=False)
    key = keeps(keeping).key
    with openai.OpenAI(base_url=f"{keeping.url}/v1", api_key=key, http_client=http_client, max_retries=0) as client:
        yield client


def test_the_sdk_reads_a_hit_as_it_reads_an_answer(upstream: Upstream, client: openai.OpenAI) -> None:
    script = says_anew(upstream)
    body: Any = chat(script).body
    first, again = (client.chat.completions.with_raw_response.create(**body) for _ in range(2))
    assert (first.headers["x-gateway-cache"], again.headers["x-gateway-cache"]) == ("miss", "hit")
    assert again.parse() == first.parse()
    assert CANARY in str(again.parse().choices[0].message.content)
    streams = [list(client.chat.completions.create(**body, **USAGE_ASKED)) for _ in range(2)]
    assert streams[0] == streams[1]
    assert streams[1][-1].usage is not None
    with client.chat.completions.stream(**body) as events:
        said = events.get_final_completion().choices[0].message.content
    assert CANARY in str(said)
    drawn: Any = embedding(script).body
    vectors = [client.embeddings.create(**drawn, encoding_format="base64") for _ in range(2)]
    assert vectors[0].data[0].embedding == vectors[1].data[0].embedding
    texts: Any = completion(script).body
    assert client.completions.create(**texts) == client.completions.create(**texts)
    # Chat whole, with usage, and without; vectors; text.
    assert len(script.requests) == 5
