"""What a call wants of the cache, what is kept of its answer and for how long, and who gets it again."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.cache.base import Wish
from gateway.cache.responses import ResponseCache
from gateway.cache.sqlite import SqliteCache
from gateway.catalog import Model
from gateway.config import Settings
from gateway.errors import RequestError, StoreError
from gateway.image_edits import read_image_edit_form, read_image_edit_request, read_image_variation_form
from gateway.metering import NOTHING, Metered
from gateway.model_request import ModelRequest
from gateway.moderations import read_moderations_request
from gateway.multipart import FilePart, Form
from gateway.sealing import Sealer
from gateway.secrets import Secrets
from gateway.speech import read_speech_request
from gateway.usage import Usage
from policies.types import CacheUse
from tests.cache.asked import (
    BIG,
    DIGEST,
    PAINTER,
    ROW,
    SMALL,
    account,
    chat,
    completion,
    embeddings,
    image,
    messages,
    responses,
)

NOON_S = 1_790_000_000.0
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
METERED = Metered(Usage(uncached_input=3, text_output=2), "provider", 700)
CHAT: dict[str, Any] = {"choices": [{"index": 0, "message": {"content": "A fox."}, "finish_reason": "stop"}]}
STREAM = b'data: {"choices":[{"index":0,"delta":{"content":"A"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
EVENTS = "text/event-stream; charset=utf-8"


class Clock:
    def __init__(self) -> None:
        self.now_s = NOON_S

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(tmp_path: Path, clock: Clock) -> Any:
    sealer = Sealer(Secrets(b"a root of thirty-two bytes or so"), "cache-answers")
    store = SqliteCache(tmp_path / "cache.db", sealer, bytes_max=2**24, wall_clock=clock)
    yield store
    await store.close()


@pytest.fixture
def cache(store: SqliteCache, clock: Clock) -> ResponseCache:
    return cached(store, clock)


def cached(store: SqliteCache | None, clock: Callable[[], float], **settings: Any) -> ResponseCache:
    return ResponseCache(store, digest=DIGEST, settings=Settings(**settings), wall_clock=clock)


def key_of(cache: ResponseCache, request: ModelRequest, model: Model = BIG, **plan: Any) -> str:
    return cache.key(account(**plan), request, model, request.outgoing(model, ROW))


async def keep(cache: ResponseCache, request: ModelRequest, **changed: Any) -> bool:
    """Hand over what must be kept, but for what is changed; `plan` is the account's."""
    model = changed.pop("model", BIG)
    plan = changed.pop("plan", {})
    answer = changed.pop("answer", CHAT)
    how: dict[str, Any] = {
        "answer": answer,
        "body": orjson.dumps(answer),
        "content_type": "application/json",
        "cost_nano_usd": 700,
        **changed,
    }
    metered = how.pop("metered", METERED)
    key = how.pop("key", None)
    key = key_of(cache, request, model, **plan) if key is None else key
    return await cache.keep(key, account(**plan), request, model, metered, **how)


def wished(cache: ResponseCache, use: CacheUse, said: bytes | None, request: ModelRequest) -> Wish:
    headers = {} if said is None else {b"x-gateway-cache": said}
    return cache.wish(account(cache=use), headers, request)


@pytest.mark.parametrize(
    ("use", "said", "expected"),
    [
        ("asked", None, ""),
        ("asked", b"on", "read"),
        ("asked", b"ON", "read"),
        ("asked", b"off", ""),
        ("asked", b"refresh", "refresh"),
        ("on", None, "read"),
        ("on", b"on", "read"),
        ("on", b"Off", ""),
        ("on", b"Refresh", "refresh"),
        ("never", None, ""),
        ("never", b"on", ""),
        ("never", b"off", ""),
        ("never", b"refresh", ""),
    ],
)
def test_the_plan_and_the_call_say_what_is_wanted(
    cache: ResponseCache, use: CacheUse, said: bytes | None, expected: Wish
) -> None:
    assert wished(cache, use, said, chat()) == expected


@pytest.mark.parametrize("use", ["asked", "on", "never"])
@pytest.mark.parametrize("said", [b"", b"yes", b"on,off", b"on ", b"\xff", b"read"])
@pytest.mark.parametrize("is_off", [False, True])
def test_any_other_word_is_refused_whatever_the_plan_says(
    store: SqliteCache, clock: Clock, use: CacheUse, said: bytes, is_off: bool
) -> None:
    with pytest.raises(RequestError) as caught:
        wished(cached(None if is_off else store, clock), use, said, chat())
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "invalid_value", "x-gateway-cache")


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(chat(tools=TOOLS), id="chat"),
        pytest.param(chat(functions=[{"name": "look"}]), id="chat-functions"),
        pytest.param(messages(tools=[{"name": "look", "input_schema": {"type": "object"}}]), id="messages"),
        pytest.param(responses(tools=[{"type": "function", "name": "look"}]), id="responses"),
    ],
)
def test_answers_with_tools_are_kept_only_for_calls_that_say_so(cache: ResponseCache, request_: ModelRequest) -> None:
    assert request_.has_tools
    assert wished(cache, "on", None, request_) == "bypass"
    assert wished(cache, "on", b"on", request_) == "read"
    assert wished(cache, "asked", b"on", request_) == "read"
    assert wished(cache, "on", b"refresh", request_) == "refresh"


@pytest.mark.parametrize(
    "request_",
    [chat(), chat(tools=[]), chat(tools=None), completion(), embeddings(), image(), messages(), responses()],
    ids=lambda request: request.path,
)
def test_what_names_no_tools_has_none(request_: ModelRequest) -> None:
    assert not request_.has_tools


def form(**fields: str) -> Form:
    picture = FilePart("image", "a.png", "image/png", b"\x89PNG")
    return Form(list(fields.items()), [picture])


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        pytest.param(chat(), "chat", id="chat"),
        pytest.param(chat(store=False), "chat", id="chat-not-stored"),
        pytest.param(chat(store=None), "chat", id="chat-store-null"),
        pytest.param(chat(store=True), "", id="chat-stored"),
        pytest.param(chat(store="yes"), "", id="chat-stored-by-another-word"),
        pytest.param(completion(), "completion", id="completion"),
        pytest.param(embeddings(), "embedding", id="embeddings"),
        pytest.param(messages(), "chat", id="messages"),
        pytest.param(responses(), "chat", id="response"),
        pytest.param(responses(store=None), "", id="response-kept-by-default"),
        pytest.param(responses(store=True), "", id="response-kept"),
        pytest.param(responses(previous_response_id="resp_1"), "", id="response-continued"),
        pytest.param(responses(conversation="conv_1"), "", id="response-in-a-conversation"),
        pytest.param(responses(input=[{"type": "item_reference", "id": "msg_1"}]), "", id="response-that-refers"),
        pytest.param(responses(input=[{"type": "reasoning", "id": "rs_1", "summary": []}]), "", id="response-thought"),
        pytest.param(image(), "image", id="image"),
        pytest.param(image(image="https://images.invalid/1"), "", id="image-after-another"),
        pytest.param(
            read_image_edit_request(b'{"model":"m","prompt":"p","images":[{"image_url":"https://images.invalid/1"}]}'),
            "",
            id="edit",
        ),
        pytest.param(read_image_edit_form(form(model="m", prompt="p")), "", id="edit-form"),
        pytest.param(read_image_variation_form(form(model="m")), "", id="variation"),
        pytest.param(read_moderations_request(b'{"model":"m","input":"hi"}'), "", id="moderation"),
        pytest.param(read_speech_request(b'{"model":"m","input":"hi","voice":"v"}'), "", id="speech"),
    ],
)
def test_each_request_says_what_its_answer_is(cache: ResponseCache, request_: ModelRequest, kind: str) -> None:
    assert request_.cache_kind == kind
    assert wished(cache, "on", None, request_) == ("read" if kind else "bypass")
    assert wished(cache, "on", b"refresh", request_) == ("refresh" if kind else "bypass")


def test_a_request_still_says_so_when_its_body_is_gone() -> None:
    """It is let go of once the call is dialled; what is kept is decided afterwards."""
    asked = chat(store=True)
    asked.body = {}
    assert asked.cache_kind == ""


def test_without_a_store_everything_is_bypassed_and_nothing_fails(clock: Clock) -> None:
    assert wished(cached(None, clock), "on", None, chat()) == "bypass"
    assert wished(cached(None, clock), "asked", None, chat()) == ""


@pytest.mark.parametrize(
    ("setting", "request_"),
    [
        ("cache_chat_ttl_s", chat()),
        ("cache_chat_ttl_s", messages()),
        ("cache_chat_ttl_s", responses()),
        ("cache_completion_ttl_s", completion()),
        ("cache_embedding_ttl_s", embeddings()),
        ("cache_image_ttl_s", image()),
    ],
)
def test_a_kind_that_is_kept_for_no_time_is_bypassed(
    store: SqliteCache, clock: Clock, setting: str, request_: ModelRequest
) -> None:
    settings: dict[str, Any] = {setting: 0}
    without = cached(store, clock, **settings)
    assert wished(without, "on", b"on", request_) == "bypass"
    others = cached(store, clock, **{name: 0 for name in _TTLS if name != setting})
    assert wished(others, "on", b"on", request_) == "read"


_TTLS = ("cache_chat_ttl_s", "cache_completion_ttl_s", "cache_embedding_ttl_s", "cache_image_ttl_s")


async def test_a_kept_answer_comes_back_as_it_was(cache: ResponseCache) -> None:
    assert await keep(cache, chat())
    found = await cache.find(key_of(cache, chat()))
    assert found is not None
    assert found._asdict() == {
        "creator": "acme",
        "model": "big",
        "provider": "p",
        "kind": "chat",
        "content_type": "application/json",
        "is_streaming": False,
        "body": orjson.dumps(CHAT),
        "cost_nano_usd": 700,
        "created_at_ms": int(NOON_S) * 1000,
        "expires_at_ms": (int(NOON_S) + 3_600) * 1000,
    }


async def test_a_kept_stream_comes_back_byte_for_byte(cache: ResponseCache) -> None:
    asked = chat(stream=True)
    assert await keep(cache, asked, answer=None, body=STREAM, content_type=EVENTS)
    found = await cache.find(key_of(cache, chat(stream=True)))
    assert found is not None
    assert (found.is_streaming, found.body, found.content_type) == (True, STREAM, EVENTS)
    assert await cache.find(key_of(cache, chat())) is None


def _calls() -> Iterator[Any]:
    text: dict[str, Any] = {"choices": [{"index": 0, "text": " there", "finish_reason": "stop"}]}
    drawn: dict[str, Any] = {"data": [{"b64_json": "aQ=="}]}
    yield pytest.param(chat(), BIG, CHAT, 3_600, id="chat")
    yield pytest.param(messages(), BIG, {"type": "message", "content": [], "stop_reason": "end_turn"}, 3_600, id="msg")
    yield pytest.param(responses(), BIG, {"status": "completed", "output": []}, 3_600, id="response")
    yield pytest.param(completion(), BIG, text, 604_800, id="completion")
    yield pytest.param(embeddings(), BIG, {"data": [{"embedding": [1.0]}]}, 2_592_000, id="embedding")
    yield pytest.param(image(), PAINTER, drawn, 7_776_000, id="image")


@pytest.mark.parametrize(("request_", "model", "answer", "ttl_s"), list(_calls()))
async def test_an_answer_is_kept_as_long_as_its_kind_lasts(
    cache: ResponseCache, clock: Clock, request_: ModelRequest, model: Model, answer: dict[str, Any], ttl_s: int
) -> None:
    assert await keep(cache, request_, model=model, answer=answer)
    key = key_of(cache, request_, model)
    clock.now_s = NOON_S + ttl_s - 0.001
    assert await cache.find(key) is not None
    clock.now_s = NOON_S + ttl_s
    assert await cache.find(key) is None


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"key": ""}, id="without-a-key"),
        pytest.param({"metered": METERED._replace(source="estimated")}, id="estimated"),
        pytest.param({"metered": METERED._replace(source="provider_partial")}, id="partial"),
        pytest.param({"metered": NOTHING}, id="nothing-reported"),
        pytest.param({"metered": METERED._replace(is_answer=False)}, id="no-answer"),
        pytest.param({"answer": {"choices": []}}, id="not-whole"),
        pytest.param({"answer": None, "body": STREAM.replace(b"stop", b"length")}, id="a-cut-stream"),
        pytest.param({"answer": None, "body": b""}, id="an-empty-stream"),
        pytest.param({"body": b""}, id="empty"),
        pytest.param({"body": b"x" * 1_025}, id="too-large"),
    ],
)
async def test_what_is_not_worth_it_is_not_kept(store: SqliteCache, clock: Clock, changed: dict[str, Any]) -> None:
    small = cached(store, clock, cache_answer_bytes_max=1_024)
    assert not await keep(small, chat(), **changed)
    assert await small.find(key_of(small, chat())) is None
    assert (await store.stats()).answers == 0


async def test_an_answer_of_just_the_bound_is_kept(store: SqliteCache, clock: Clock) -> None:
    small = cached(store, clock, cache_answer_bytes_max=1_024)
    assert await keep(small, chat(), body=b"x" * 1_024)


@pytest.mark.parametrize("reason", ["stop", "length"])
async def test_a_long_stream_is_judged_as_a_short_one_is(cache: ResponseCache, reason: str) -> None:
    more = b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n' % (b"a" * 2**10)
    body = more * 300 + STREAM.replace(b"stop", reason.encode())
    assert await keep(cache, chat(stream=True), answer=None, body=body) is (reason == "stop")


async def test_requests_that_may_not_be_kept_are_not_whoever_asks(cache: ResponseCache) -> None:
    assert not await keep(cache, chat(store=True))
    without_time = cached(cache.store, lambda: NOON_S, cache_chat_ttl_s=0)  # type: ignore[arg-type]
    assert not await keep(without_time, chat())


async def test_a_provider_that_keeps_its_word_about_images_need_not_report_them(cache: ResponseCache) -> None:
    """Priced by the image, what came back is counted, and counts as said by the provider."""
    answer = {"created": 1, "data": [{"b64_json": "aQ=="}]}
    metered = image().meter(answer, PAINTER, ROW)
    assert metered is not None
    assert await keep(cache, image(), model=PAINTER, metered=metered, answer=answer)


async def test_a_later_answer_takes_the_place_of_an_earlier_one(cache: ResponseCache, clock: Clock) -> None:
    assert await keep(cache, chat())
    clock.now_s += 1_800
    assert await keep(cache, chat(), body=b'{"second":1}')
    clock.now_s += 3_000
    found = await cache.find(key_of(cache, chat()))
    assert found is not None
    assert found.body == b'{"second":1}'


async def test_creators_get_each_others_answers_only_where_they_share(cache: ResponseCache) -> None:
    await keep(cache, chat(), plan={"creator": "ada"})
    assert await cache.find(key_of(cache, chat(), creator="bob")) is None
    assert await cache.find(key_of(cache, chat(), creator="bob", cache_scope="shared")) is None
    await keep(cache, chat(), plan={"creator": "ada", "cache_scope": "shared"})
    found = await cache.find(key_of(cache, chat(), creator="bob", cache_scope="shared"))
    assert found is not None
    assert found.creator == "ada"
    assert await cache.find(key_of(cache, chat(), creator="bob")) is None


async def test_a_downgraded_answer_is_kept_under_the_model_that_served_it(cache: ResponseCache) -> None:
    assert await keep(cache, chat(model="big"), model=SMALL)
    assert await cache.find(key_of(cache, chat(model="big"), BIG)) is None
    found = await cache.find(key_of(cache, chat(model="small"), SMALL))
    assert found is not None
    assert found.model == "small"


@pytest.mark.parametrize(("prompts", "expected"), [("exact", False), ("normalised", True)])
def test_image_prompts_are_compared_as_the_setting_says(
    store: SqliteCache, clock: Clock, prompts: str, expected: bool
) -> None:
    cache = cached(store, clock, cache_image_prompts=prompts)
    keys = [key_of(cache, image(prompt=prompt), PAINTER) for prompt in ("A red fox.", "a  red FOX")]
    assert (keys[0] == keys[1]) is expected


async def test_a_forgotten_creators_answers_are_gone_from_every_scope(cache: ResponseCache) -> None:
    for creator in ("ada", "bob"):
        await keep(cache, chat(), plan={"creator": creator})
    for seed, creator in enumerate(("ada", "bob")):
        await keep(cache, chat(seed=seed), plan={"creator": creator, "cache_scope": "shared"})
    await cache.forget("ada")
    shared = [await cache.find(key_of(cache, chat(seed=seed), cache_scope="shared")) for seed in (0, 1)]
    own = [await cache.find(key_of(cache, chat(), creator=creator)) for creator in ("ada", "bob")]
    assert [answer is not None for answer in (*shared, *own)] == [False, True, False, True]


async def test_sweeping_removes_what_has_expired_and_nothing_else(
    cache: ResponseCache, store: SqliteCache, clock: Clock
) -> None:
    await keep(cache, chat())
    await keep(cache, embeddings(), answer={"data": [{"embedding": [1.0]}]})
    clock.now_s += 3_600
    await cache.sweep()
    assert (await store.stats()).answers == 1
    assert await cache.find(key_of(cache, embeddings())) is not None


async def test_who_asks_to_be_forgotten_learns_when_it_failed(cache: ResponseCache) -> None:
    await cache.close()
    with pytest.raises(StoreError):
        await cache.forget("ada")
    assert await cache.find(key_of(cache, chat())) is None
    await keep(cache, chat())  # raises nothing


async def test_without_a_store_there_is_nothing_to_do(clock: Clock) -> None:
    nowhere = cached(None, clock)
    assert not await keep(nowhere, chat())
    assert await nowhere.find(key_of(nowhere, chat())) is None
    await nowhere.forget("ada")
    await nowhere.sweep()
    await nowhere.close()


async def test_nothing_is_looked_for_without_a_key(cache: ResponseCache, store: SqliteCache) -> None:
    assert await cache.find("") is None
    assert (await store.stats()).misses == 0


def test_what_may_be_recorded_of_an_answer_is_the_setting(store: SqliteCache, clock: Clock) -> None:
    assert cached(store, clock, cache_answer_bytes_max=4_321).answer_bytes_max == 4_321
