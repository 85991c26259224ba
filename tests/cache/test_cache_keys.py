"""Keys of kept answers: everything that determines an answer is in them, and nothing else is."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.cache.keys import answer_key, normalised_prompt, scope_of
from gateway.catalog import Model
from gateway.model_request import ModelRequest, Outgoing
from gateway.secrets import Secrets
from policies.types import Account
from tests.cache.asked import (
    ACME,
    BIG,
    DIGEST,
    PAINTER,
    QUESTION,
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

MAKERS: dict[str, Callable[..., ModelRequest]] = {
    "chat": chat,
    "completion": completion,
    "embeddings": embeddings,
    "image": image,
    "messages": messages,
    "responses": responses,
}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(("user", "assistant", "system")), "content": TEXTS}),
    min_size=1,
    max_size=4,
)


def key(request: ModelRequest, model: Model | None = None, of: Account = ACME, *, normalises: bool = False) -> str:
    model = model or (PAINTER if request.model == "painter" else BIG)
    return answer_key(DIGEST, of, request, model, request.outgoing(model, ROW), normalises_prompts=normalises)


@pytest.mark.parametrize(
    ("endpoint", "fields"),
    [
        pytest.param(endpoint, fields, id=f"{endpoint}-{'-'.join(fields)}-{number}")
        for number, (endpoint, fields) in enumerate(
            [
                ("chat", {"messages": [{"role": "user", "content": "What is a fox? "}]}),
                ("chat", {"messages": [{"role": "system", "content": "What is a fox?"}]}),
                ("chat", {"messages": [*QUESTION, *QUESTION]}),
                ("chat", {"messages": [{**QUESTION[0], "name": "ada"}]}),
                ("chat", {"messages": [{"role": "user", "content": [{"type": "text", "text": "What is a fox?"}]}]}),
                ("chat", {"temperature": 0}),
                ("chat", {"temperature": 0.5}),
                ("chat", {"top_p": 0.5}),
                ("chat", {"max_tokens": 10}),
                ("chat", {"max_completion_tokens": 10}),
                ("chat", {"n": 2}),
                ("chat", {"seed": 7}),
                ("chat", {"stop": "."}),
                ("chat", {"stop": ["."]}),
                ("chat", {"tools": [TOOL]}),
                ("chat", {"tools": [TOOL], "tool_choice": "none"}),
                ("chat", {"tools": [TOOL], "parallel_tool_calls": False}),
                ("chat", {"response_format": {"type": "json_object"}}),
                ("chat", {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}}),
                ("chat", {"frequency_penalty": 1}),
                ("chat", {"presence_penalty": 1}),
                ("chat", {"logit_bias": {"50": -100}}),
                ("chat", {"logprobs": True}),
                ("chat", {"logprobs": True, "top_logprobs": 2}),
                ("chat", {"reasoning_effort": "low"}),
                ("chat", {"verbosity": "low"}),
                ("chat", {"service_tier": "flex"}),
                ("chat", {"prediction": {"type": "content", "content": "A fox"}}),
                ("chat", {"stream": True}),
                ("chat", {"stream": True, "stream_options": {"include_usage": True}}),
                ("chat", {"top_k": 3}),
                ("completion", {"prompt": "Twice"}),
                ("completion", {"prompt": ["Once"]}),
                ("completion", {"max_tokens": 5}),
                ("completion", {"suffix": "end"}),
                ("completion", {"echo": True}),
                ("completion", {"best_of": 2}),
                ("completion", {"n": 2}),
                ("completion", {"stream": True}),
                ("embeddings", {"input": "foxes"}),
                ("embeddings", {"input": ["fox"]}),
                ("embeddings", {"input": [1, 2]}),
                ("embeddings", {"dimensions": 8}),
                ("embeddings", {"encoding_format": "base64"}),
                ("image", {"prompt": "A blue fox"}),
                ("image", {"prompt": "A red fox."}),
                ("image", {"n": 2}),
                ("image", {"size": "512x512"}),
                ("image", {"quality": "hd"}),
                ("image", {"style": "vivid"}),
                ("image", {"response_format": "b64_json"}),
                ("image", {"output_format": "webp"}),
                ("image", {"background": "transparent"}),
                ("image", {"stream": True}),
                ("messages", {"messages": [{"role": "user", "content": "And a dog?"}]}),
                ("messages", {"system": "Be brief."}),
                ("messages", {"max_tokens": 99}),
                ("messages", {"temperature": 0}),
                ("messages", {"stop_sequences": ["."]}),
                ("messages", {"thinking": {"type": "enabled", "budget_tokens": 1024}}),
                ("messages", {"stream": True}),
                ("responses", {"input": "And a dog?"}),
                ("responses", {"input": [{"role": "user", "content": "What is a fox?"}]}),
                ("responses", {"instructions": "Be brief."}),
                ("responses", {"max_output_tokens": 99}),
                ("responses", {"reasoning": {"effort": "low"}}),
                ("responses", {"text": {"format": {"type": "json_object"}}}),
                ("responses", {"include": ["reasoning.encrypted_content"]}),
                ("responses", {"stream": True}),
            ]
        )
    ],
)
def test_what_determines_the_answer_changes_the_key(endpoint: str, fields: dict[str, Any]) -> None:
    make = MAKERS[endpoint]
    assert len(key(make())) == 64
    assert key(make(**fields)) != key(make())
    assert key(make(**fields)) == key(make(**fields))


@pytest.mark.parametrize("endpoint", ["chat", "completion", "embeddings", "image", "messages"])
@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"user": "u-1"}, id="user"),
        pytest.param({"metadata": {"user_id": "u-1"}}, id="metadata"),
        pytest.param({"safety_identifier": "s"}, id="safety-identifier"),
        pytest.param({"prompt_cache_key": "p"}, id="prompt-cache-key"),
        pytest.param({"prompt_cache_retention": "24h"}, id="prompt-cache-retention"),
        pytest.param({"store": False}, id="store"),
        pytest.param({"store": None}, id="store-null"),
    ],
)
def test_what_changes_no_answer_leaves_the_key(endpoint: str, fields: dict[str, Any]) -> None:
    make = MAKERS[endpoint]
    assert key(make(**fields)) == key(make())


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "u-1"},
        {"metadata": {"order": "7"}},
        {"safety_identifier": "s"},
        {"prompt_cache_key": "p"},
        {"prompt_cache_retention": "24h"},
    ],
    ids=lambda fields: "-".join(fields),
)
def test_what_a_response_repeats_to_its_caller_is_in_its_key(fields: dict[str, Any]) -> None:
    """A Response object has these fields in it, so that it must not be given to who sent others."""
    assert key(responses(**fields)) != key(responses())


def test_the_order_of_names_does_not_matter_in_a_body_and_its_messages() -> None:
    said = {"role": "user", "content": [{"type": "text", "text": "x"}], "name": "ada"}
    turned_round = {"name": "ada", "content": [{"text": "x", "type": "text"}], "role": "user"}
    plain = chat(temperature=0, tools=[TOOL], messages=[said])
    turned = chat(messages=[turned_round], tools=[TOOL], temperature=0)
    assert list(plain.body) != list(turned.body)
    assert key(plain) == key(turned)


def _schema(*names: str) -> dict[str, Any]:
    return {"type": "object", "properties": {name: {"type": "string"} for name in names}}


@pytest.mark.parametrize(
    ("make", "fields"),
    [
        pytest.param(
            chat,
            lambda schema: {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}},
            id="response-format",
        ),
        pytest.param(
            chat,
            lambda schema: {"tools": [{"type": "function", "function": {"name": "look", "parameters": schema}}]},
            id="chat-tools",
        ),
        pytest.param(chat, lambda schema: {"guided_json": schema}, id="a-servers-own-field"),
        pytest.param(
            messages, lambda schema: {"tools": [{"name": "look", "input_schema": schema}]}, id="messages-tools"
        ),
        pytest.param(
            responses,
            lambda schema: {"text": {"format": {"type": "json_schema", "name": "s", "schema": schema}}},
            id="text-format",
        ),
    ],
)
def test_the_order_of_names_in_a_schema_matters(
    make: Callable[..., ModelRequest], fields: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    """A model fills in a schema in its order: what is reasoned first is another answer than what is reasoned afterwards."""
    thought_first, thought_last = _schema("reasoning", "answer"), _schema("answer", "reasoning")
    assert key(make(**fields(thought_first))) != key(make(**fields(thought_last)))
    assert key(make(**fields(thought_first))) == key(make(**fields(_schema("reasoning", "answer"))))


def test_a_schema_is_not_taken_for_its_own_text() -> None:
    assert key(chat(guided_json={"a": 1})) != key(chat(guided_json='{"a":1}'))
    assert key(chat(guided_json={"a": 1})) != key(chat(guided_json={"": '{"a":1}'}))


def test_the_order_of_a_list_does_matter() -> None:
    told = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    assert key(chat(messages=told)) != key(chat(messages=told[::-1]))


@given(MESSAGES, MESSAGES)
def test_other_messages_have_another_key(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> None:
    assume(first != second)
    assert key(chat(messages=first)) != key(chat(messages=second))


@given(TEXTS, TEXTS)
def test_nothing_moves_from_one_message_into_the_next_unseen(first: str, second: str) -> None:
    assume(second)
    parted = [{"role": "user", "content": first}, {"role": "user", "content": second}]
    joined = [{"role": "user", "content": first + second}]
    assert key(chat(messages=parted)) != key(chat(messages=joined))


@given(TEXTS, TEXTS)
def test_creators_share_only_where_both_plans_say_so(first: str, second: str) -> None:
    assume(first != second)
    own = [key(chat(), of=account(creator)) for creator in (first, second)]
    shared = [key(chat(), of=account(creator, cache_scope="shared")) for creator in (first, second)]
    assert shared[0] == shared[1]
    assert len({*own, *shared}) == 3


def test_no_creator_can_be_named_like_the_shared_scope() -> None:
    assert scope_of(account("shared")) != scope_of(account("acme", cache_scope="shared"))


def test_virtual_keys_of_one_creator_find_the_same_answers() -> None:
    assert key(chat(), of=ACME) == key(chat(), of=replace(ACME, key_id="another"))


@pytest.mark.parametrize("make", [chat, completion, messages])
def test_a_downgraded_answer_is_found_under_the_cheaper_name_only(make: Callable[..., ModelRequest]) -> None:
    downgraded = key(make(model="big"), SMALL)
    assert downgraded == key(make(model="small"), SMALL)
    assert downgraded != key(make(model="big"), BIG)


def test_a_downgraded_image_is_found_under_the_cheaper_name() -> None:
    sketcher = replace(PAINTER, name="sketcher", upstream_model="sketcher-upstream")
    downgraded = key(image(), sketcher)
    assert downgraded == key(image(model="sketcher"), sketcher)
    assert downgraded != key(image(), PAINTER)
    # The quality asked for is a word of the dearer model, and was not sent on; who asks the cheaper one for it sends it.
    assert key(image(quality="hd"), sketcher) != key(image(model="sketcher", quality="hd"), sketcher)


def test_a_response_made_of_a_chat_is_found_by_who_asked_for_the_name_it_bears() -> None:
    bridged = replace(SMALL, endpoints=frozenset({"chat"}))
    assert key(responses(model="big"), bridged) != key(responses(model="small"), bridged)
    assert key(responses(model="big"), SMALL) == key(responses(model="small"), SMALL)
    # The name it bears says nothing of who served it: two that a provider knows as one are still two of the catalog.
    assert key(responses(model="big"), bridged) != key(responses(model="big"), replace(bridged, name="tiny"))


def test_the_same_bridged_response_has_the_same_key_twice() -> None:
    """Items get fresh ids when it is written; none of them may be seen in what is sent."""
    bridged = replace(BIG, endpoints=frozenset({"chat"}))
    asked = {"input": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]}
    assert key(responses(**asked), bridged) == key(responses(**asked), bridged)


def test_another_provider_of_the_same_model_has_its_own_answers() -> None:
    assert key(chat(), BIG) != key(chat(), replace(BIG, provider="q"))
    assert key(chat(), BIG) != key(chat(), replace(BIG, upstream_model="big-2"))


def test_each_endpoint_has_its_own_answers() -> None:
    """Even where the same body could be meant for both."""
    asked = {"model": "big", "messages": QUESTION, "prompt": "Once", "max_tokens": 16}
    assert chat(**asked).body == completion(**asked).body
    sent = chat(**asked).outgoing(BIG, ROW)
    keys = [answer_key(DIGEST, ACME, request, BIG, sent) for request in (chat(**asked), completion(**asked))]
    assert keys[0] != keys[1]


def test_a_native_and_a_bridged_answer_are_two() -> None:
    asked, sent = chat(), chat().outgoing(BIG, ROW)
    assert answer_key(DIGEST, ACME, asked, BIG, sent._replace(path="/messages")) != key(asked)


def test_what_is_sent_beside_the_body_is_in_the_key() -> None:
    plain, with_beta = messages(), messages()
    with_beta.betas = "interleaved-thinking-2025-05-14"
    assert key(plain) != key(with_beta)


def test_what_the_catalog_changes_on_the_way_is_in_the_key() -> None:
    asked = chat(max_tokens=4_000)
    assert key(asked, BIG) != key(asked, replace(BIG, output_tokens_max=1_000))


def test_another_root_secret_finds_nothing() -> None:
    asked = chat()
    other = Secrets(b"another root").hasher("cache-keys")
    assert answer_key(other, ACME, asked, BIG, asked.outgoing(BIG, ROW)) != key(asked)


@pytest.mark.parametrize(
    "outgoing",
    [
        pytest.param(Outgoing("/images/edits", b"--x\r\n", "multipart/form-data; boundary=x"), id="form"),
        pytest.param(Outgoing("/chat/completions", b"not json"), id="no-json"),
        pytest.param(Outgoing("/chat/completions", b"[1]"), id="no-object"),
        pytest.param(Outgoing("/chat/completions", b""), id="nothing"),
    ],
)
def test_what_is_no_json_object_has_no_key(outgoing: Outgoing) -> None:
    assert answer_key(DIGEST, ACME, chat(), BIG, outgoing) == ""


def test_a_body_that_can_just_be_written_has_a_key_or_none() -> None:
    """Around the bound of what can be written again, nothing is raised."""
    found = []
    for depth in range(240, 256):
        deep = orjson.loads(b"[" * depth + b"]" * depth)
        request = chat()
        request.body["deep"] = deep
        sent = b'{"model":"m","deep":' + b"[" * depth + b"]" * depth + b"}"
        found.append(bool(answer_key(DIGEST, ACME, request, BIG, Outgoing("/chat/completions", sent))))
    assert found[0]
    assert not found[-1]
    assert found == sorted(found, reverse=True)


def test_the_callers_body_is_left_as_it_was() -> None:
    asked = image(prompt="A RED fox.", user="u-1", metadata={"order": "7"})
    before = orjson.dumps(asked.body)
    key(asked, normalises=True)
    assert orjson.dumps(asked.body) == before


SAME_PROMPTS = [
    "a red fox",
    "A Red FOX",
    "  a  red\n\tfox ",
    "a red fox.",
    "a red fox ...",
    "ａ ｒｅｄ ｆｏｘ．",
    "a red fox…",
    "a red fox。",
]


@pytest.mark.parametrize("prompt", SAME_PROMPTS)
def test_spellings_of_one_image_prompt_are_one_where_that_is_wanted(prompt: str) -> None:
    assert key(image(prompt=prompt), normalises=True) == key(image(prompt="a red fox"), normalises=True)


def test_spellings_are_several_where_it_is_not_wanted() -> None:
    assert len({key(image(prompt=prompt)) for prompt in SAME_PROMPTS}) == len(SAME_PROMPTS)


@pytest.mark.parametrize("prompt", ["a red dog", "a redfox", "a.red fox", "a red fox!", "a red fox?"])
def test_other_prompts_stay_others(prompt: str) -> None:
    assert key(image(prompt=prompt), normalises=True) != key(image(prompt="a red fox"), normalises=True)


def test_only_prompts_of_images_are_normalised() -> None:
    assert key(completion(prompt="ONCE"), normalises=True) != key(completion(prompt="once"), normalises=True)


@given(st.text(max_size=40))
def test_a_normalised_prompt_is_normal(prompt: str) -> None:
    once = normalised_prompt(prompt)
    assert normalised_prompt(once) == once
    assert once == once.strip()
