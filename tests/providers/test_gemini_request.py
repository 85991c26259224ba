"""What Gemini is asked, for what OpenAI's clients ask."""

from typing import Any

import orjson
import pytest

from gateway.errors import RequestError
from gateway.providers.gemini_embeddings import embeddings_body
from gateway.providers.gemini_images import SHAPES, images_body
from gateway.providers.gemini_messages import NO_SIGNATURE
from gateway.providers.gemini_request import chat_body, is_single_call, model_name, model_path
from gateway.providers.gemini_schema import adapt

HELLO = {"role": "user", "content": "Hello"}
HELLO_CONTENTS = [{"role": "user", "parts": [{"text": "Hello"}]}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "Says it.", "parameters": SCHEMA}}
CLOCK = {"type": "function", "function": {"name": "clock"}}
STRICT = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA, "strict": True}}


def asked(*messages: dict[str, Any], model: str = "gemini-3.5-flash", **fields: Any) -> dict[str, Any]:
    return chat_body({"model": model, "messages": list(messages) or [HELLO], **fields})


def called(call_id: str, name: str, arguments: str = "{}", **more: Any) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}, **more}


def refused(error: pytest.ExceptionInfo[RequestError]) -> tuple[int, str | None]:
    return error.value.status, error.value.param


def test_a_plain_question_is_nothing_but_contents() -> None:
    assert asked() == {"contents": HELLO_CONTENTS}


def test_system_and_developer_messages_become_the_instruction_wherever_they_stand() -> None:
    translated = asked(
        {"role": "system", "content": "Be brief."},
        HELLO,
        {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
    )
    assert translated["systemInstruction"] == {"parts": [{"text": "Be brief."}, {"text": "Be kind."}]}
    assert translated["contents"] == HELLO_CONTENTS


def test_a_lone_system_message_is_what_the_user_says() -> None:
    assert asked({"role": "system", "content": "Hello"}) == {"contents": HELLO_CONTENTS}


def test_neighbours_of_one_role_are_one_content() -> None:
    translated = asked(HELLO, {"role": "user", "content": "Anyone?"}, {"role": "assistant", "content": "Yes."}, HELLO)
    assert [content["role"] for content in translated["contents"]] == ["user", "model", "user"]
    assert translated["contents"][0]["parts"] == [{"text": "Hello"}, {"text": "Anyone?"}]


def test_an_assistant_that_said_nothing_leaves_no_empty_content() -> None:
    translated = asked(HELLO, {"role": "assistant", "content": None}, HELLO)
    assert [content["role"] for content in translated["contents"]] == ["user"]


def test_tool_calls_and_their_answers_come_with_names_ids_and_signatures() -> None:
    signed = {"extra_content": {"google": {"thought_signature": "c2lnbmVk"}}}
    translated = asked(
        HELLO,
        {"role": "assistant", "content": None, "tool_calls": [called("a", "weather", '{"city":"Köln"}', **signed), called("b", "clock", "")]},
        {"role": "tool", "tool_call_id": "b", "content": "12:30"},
        {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": '{"sky":"grey"}'}]},
    )  # fmt: skip
    assert translated["contents"][1:] == [
        {
            "role": "model",
            "parts": [
                {"functionCall": {"id": "a", "name": "weather", "args": {"city": "Köln"}}, "thoughtSignature": "c2lnbmVk"},
                {"functionCall": {"id": "b", "name": "clock", "args": {}}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"id": "b", "name": "clock", "response": {"output": "12:30"}}},
                {"functionResponse": {"id": "a", "name": "weather", "response": {"output": {"sky": "grey"}}}},
            ],
        },
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "signature"),
    [
        pytest.param("gemini-3.5-flash", NO_SIGNATURE, id="Gemini 3"),
        pytest.param("gemini-4-argon", NO_SIGNATURE, id="Gemini 4"),
        pytest.param("gemini-2.5-pro", None, id="before Gemini 3"),
        pytest.param("gemma-4-31b-it", None, id="Gemma"),
    ],
)
def test_calls_of_another_model_get_the_word_that_stands_for_no_signature(model: str, signature: str | None) -> None:
    calls = [called("a", "clock"), called("b", "clock")]
    translated = asked(HELLO, {"role": "assistant", "tool_calls": calls}, model=model)
    found = [part.get("thoughtSignature") for part in translated["contents"][1]["parts"]]
    assert found == [signature, None]


def test_the_signature_of_a_text_comes_back_with_it() -> None:
    extra = {"google": {"thought_signature": "c2ln"}}
    translated = asked(HELLO, {"role": "assistant", "content": "Hi.", "extra_content": extra}, HELLO)
    assert translated["contents"][1]["parts"] == [{"text": "Hi.", "thoughtSignature": "c2ln"}]


@pytest.mark.parametrize(
    ("part", "translated"),
    [
        pytest.param(
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,aVZC", "detail": "high"}},
            {"inlineData": {"mimeType": "image/png", "data": "aVZC"}},
            id="image as data",
        ),
        pytest.param(
            {"type": "image_url", "image_url": {"url": "https://example.com/a/cat.PNG?x=1"}},
            {"fileData": {"mimeType": "image/png", "fileUri": "https://example.com/a/cat.PNG?x=1"}},
            id="image as URL",
        ),
        pytest.param(
            {"type": "image_url", "image_url": {"url": "https://storage.googleapis.com/bucket/film.mp4"}},
            {"fileData": {"mimeType": "image/jpeg", "fileUri": "https://storage.googleapis.com/bucket/film.mp4"}},
            id="whatever a URL holds, it is declared as an image",
        ),
        pytest.param(
            {"type": "input_audio", "input_audio": {"data": "UklG", "format": "wav"}},
            {"inlineData": {"mimeType": "audio/wav", "data": "UklG"}},
            id="audio",
        ),
        pytest.param(
            {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBE"}},
            {"inlineData": {"mimeType": "application/pdf", "data": "JVBE"}},
            id="file",
        ),
    ],
)
def test_parts_that_are_no_text(part: dict[str, Any], translated: dict[str, Any]) -> None:
    said = asked({"role": "user", "content": [{"type": "text", "text": "What is it?"}, part]})
    assert said["contents"][0]["parts"] == [{"text": "What is it?"}, translated]


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/cat.png",
        "gs://bucket/cat.png",
        "file:///etc/passwd",
        "https:///cat.png",
        "https://[/cat.png",
        "https://example.com/a cat.png",
        "https://generativelanguage.googleapis.com/v1beta/files/abc",
        "https://GENERATIVELANGUAGE.googleapis.com.:443/v1beta/files/abc",
        "https://user@generativelanguage.googleapis.com/v1beta/files/abc",
        "https://www.youtube.com/watch?v=1",
        "https://youtu.be/1",
        "data:image/png,plain",
        "data:video/mp4;base64,AAAA",
        "data:image/png;base64,",
        "data:image/png;base64,a*b=",
        7,
    ],
)
def test_an_image_that_is_none_or_belongs_to_the_operator_is_refused(url: object) -> None:
    with pytest.raises(RequestError) as error:
        asked({"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]})
    assert refused(error) == (400, "messages[0].content[0].image_url.url")


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        pytest.param([{"role": "tool", "tool_call_id": "x", "content": "1"}], "messages[0].tool_call_id", id="unknown call"),
        pytest.param([{"role": "function", "name": "f", "content": "1"}], "messages[0].role", id="old role"),
        pytest.param([{"role": "assistant", "function_call": {}}], "messages[0].function_call", id="old call"),
        pytest.param([{"role": "assistant", "audio": {"id": "1"}}], "messages[0].audio", id="spoken answer"),
        pytest.param([{"role": "user", "content": 7}], "messages[0].content", id="no content"),
        pytest.param([{"role": "user", "content": ["x"]}], "messages[0].content[0]", id="part that is no object"),
        pytest.param([{"role": "user", "content": [{"type": "video_url"}]}], "messages[0].content[0].type", id="film"),
        pytest.param([{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}], "messages[0].content[0].file.file_id", id="stored file"),
        pytest.param([{"role": "user", "content": [{"type": "file", "file": {"file_data": "data:video/mp4;base64,AAAA"}}]}], "messages[0].content[0].file.file_data", id="film as file"),
        pytest.param([{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "midi"}}]}], "messages[0].content[0].input_audio.format", id="notes"),
        pytest.param([{"role": "system", "content": [{"type": "image_url"}]}], "messages[0].content", id="image in the instruction"),
        pytest.param([{"role": "assistant", "tool_calls": [called("a", "f", "[]")]}], "messages[0].tool_calls[0].function.arguments", id="arguments that are no object"),
        pytest.param([{"role": "assistant", "tool_calls": [called("", "f")]}], "messages[0].tool_calls[0].id", id="call without id"),
        pytest.param([{"role": "assistant", "tool_calls": [{"type": "custom", "id": "a"}]}], "messages[0].tool_calls[0]", id="call of another type"),
        pytest.param([], "messages", id="nothing said"),
        pytest.param(["x"], "messages[0]", id="message that is no object"),
        pytest.param([{"role": ["user"], "content": "x"}], "messages[0].role", id="role that is no word"),
        pytest.param([{"role": "user", "content": [{"type": "text", "text": 7}]}], "messages[0].content[0].text", id="text that is none"),
        pytest.param([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}], "messages[0].content[0].image_url", id="image that is no object"),
        pytest.param([{"role": "user", "content": [{"type": "input_audio", "input_audio": {"format": "wav"}}]}], "messages[0].content[0].input_audio.data", id="audio without data"),
        pytest.param([{"role": "user", "content": [{"type": "file", "file": {}}]}], "messages[0].content[0].file.file_data", id="file without data"),
        pytest.param([{"role": "assistant", "tool_calls": {}}], "messages[0].tool_calls", id="calls that are no array"),
        pytest.param([{"role": "assistant", "tool_calls": [called("a", "")]}], "messages[0].tool_calls[0].function.name", id="call without a name"),
        pytest.param([{"role": "assistant", "tool_calls": [called("a", "f", "{")]}], "messages[0].tool_calls[0].function.arguments", id="arguments that are no JSON"),
    ],
)  # fmt: skip
def test_messages_that_cannot_be_said_are_refused_by_name(messages: list[Any], param: str) -> None:
    with pytest.raises(RequestError) as error:
        chat_body({"model": "gemini-3.5-flash", "messages": messages})
    assert refused(error) == (400, param)


@pytest.mark.parametrize(
    ("fields", "config"),
    [
        pytest.param({"temperature": 0, "top_p": 0.5, "top_k": 40}, {"temperature": 0, "topP": 0.5, "topK": 40}, id="sampling"),
        pytest.param({"frequency_penalty": 1, "presence_penalty": -1.5}, {"frequencyPenalty": 1, "presencePenalty": -1.5}, id="penalties"),
        pytest.param({"max_tokens": 9}, {"maxOutputTokens": 9}, id="max_tokens"),
        pytest.param({"max_tokens": 9, "max_completion_tokens": 7}, {"maxOutputTokens": 7}, id="max_completion_tokens"),
        pytest.param({"max_tokens": 2**40}, {"maxOutputTokens": 2**31 - 1}, id="more than 32 bits"),
        pytest.param({"n": 2}, {"candidateCount": 2}, id="n"),
        pytest.param({"stop": "END"}, {"stopSequences": ["END"]}, id="stop"),
        pytest.param({"stop": ["a", "b"]}, {"stopSequences": ["a", "b"]}, id="stops"),
        pytest.param({"seed": 7}, {"seed": 7}, id="seed"),
        pytest.param({"seed": -1}, {"seed": 2**31 - 1}, id="seed of 64 bits"),
        pytest.param({"response_format": {"type": "json_object"}}, {"responseMimeType": "application/json"}, id="json"),
        pytest.param(
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}}},
            {"responseMimeType": "application/json", "responseJsonSchema": SCHEMA},
            id="schema",
        ),
        pytest.param({"logprobs": True, "top_logprobs": 3}, {"responseLogprobs": True, "logprobs": 3}, id="logprobs"),
        pytest.param({"modalities": ["text", "image"]}, {"responseModalities": ["TEXT", "IMAGE"]}, id="images"),
    ],
)  # fmt: skip
def test_fields_of_the_generation(fields: dict[str, Any], config: dict[str, Any]) -> None:
    assert asked(**fields) == {"contents": HELLO_CONTENTS, "generationConfig": config}


@pytest.mark.parametrize(
    "fields",
    [
        {"stream": True, "stream_options": {"include_usage": True}},
        {"user": "u", "metadata": {"a": "b"}, "store": True, "safety_identifier": "s", "prompt_cache_key": "k"},
        {
            "n": 1,
            "response_format": {"type": "text"},
            "service_tier": "auto",
            "modalities": ["text"],
            "logprobs": False,
        },
        {
            "verbosity": "medium",
            "logit_bias": {},
            "functions": None,
            "audio": None,
            "tools": [],
            "reasoning_effort": None,
        },
    ],
)
def test_what_asks_for_nothing_leaves_no_trace(fields: dict[str, Any]) -> None:
    assert asked(**fields) == {"contents": HELLO_CONTENTS}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"functions": [{}]}, "functions"),
        ({"logit_bias": {"1": 5}}, "logit_bias"),
        ({"verbosity": "low"}, "verbosity"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"safetySettings": []}, "safetySettings"),
        ({"x" * 80: 1}, "a field"),
        ({"service_tier": "scale"}, "service_tier"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"stop": [1]}, "stop"),
        ({"n": 0}, "n"),
        ({"response_format": {"type": "grammar"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"tools": [{"type": "custom", "custom": {}}]}, "tools[0].type"),
        ({"tools": {}}, "tools"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [CLOCK], "tool_choice": "perhaps"}, "tool_choice"),
        ({"tools": [CLOCK], "tool_choice": {"type": "function"}}, "tool_choice"),
        ({"reasoning_effort": "much"}, "reasoning_effort"),
    ],
)
def test_what_cannot_be_said_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as error:
        asked(**fields)
    assert refused(error) == (400, param)


@pytest.mark.parametrize(
    ("model", "effort", "thinking"),
    [
        ("gemini-3.5-flash", "minimal", {"thinkingLevel": "MINIMAL", "includeThoughts": True}),
        ("gemini-3.5-flash", "high", {"thinkingLevel": "HIGH", "includeThoughts": True}),
        ("gemini-4-argon", "xhigh", {"thinkingLevel": "XHIGH", "includeThoughts": True}),
        ("gemini-3.1-pro-preview", "minimal", {"thinkingLevel": "LOW", "includeThoughts": True}),
        ("gemini-2.5-flash", "none", {"thinkingBudget": 0}),
        ("gemini-2.5-pro", "minimal", {"thinkingBudget": 1_024, "includeThoughts": True}),
        ("gemini-2.5-pro", "medium", {"thinkingBudget": 8_192, "includeThoughts": True}),
        ("gemini-2.5-pro", "xhigh", {"thinkingBudget": 24_576, "includeThoughts": True}),
    ],
)
def test_efforts_are_levels_or_budgets(model: str, effort: str, thinking: dict[str, Any]) -> None:
    assert asked(model=model, reasoning_effort=effort)["generationConfig"] == {"thinkingConfig": thinking}


def test_a_model_that_always_thinks_refuses_not_to() -> None:
    with pytest.raises(RequestError) as error:
        asked(reasoning_effort="none")
    assert refused(error) == (400, "reasoning_effort")


@pytest.mark.parametrize(
    ("fields", "calling"),
    [
        pytest.param({}, None, id="nothing said"),
        pytest.param({"tool_choice": "auto"}, {"mode": "AUTO"}, id="auto"),
        pytest.param({"tool_choice": "none"}, {"mode": "NONE"}, id="none"),
        pytest.param({"tool_choice": "required"}, {"mode": "ANY"}, id="required"),
        pytest.param(
            {"tool_choice": {"type": "function", "function": {"name": "clock"}}},
            {"mode": "ANY", "allowedFunctionNames": ["clock"]},
            id="one function",
        ),
        pytest.param(
            {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [CLOCK]}}},
            {"mode": "VALIDATED", "allowedFunctionNames": ["clock"]},
            id="some functions",
        ),
        pytest.param({"tools": [STRICT]}, {"mode": "VALIDATED"}, id="strict"),
        pytest.param({"tools": [STRICT], "tool_choice": "auto"}, {"mode": "VALIDATED"}, id="strict and auto"),
    ],
)
def test_tool_choice(fields: dict[str, Any], calling: dict[str, Any] | None) -> None:
    translated = asked(**{"tools": [WEATHER, CLOCK], **fields})
    assert translated.get("toolConfig") == (None if calling is None else {"functionCallingConfig": calling})


def test_tools_are_declared_by_json_schema() -> None:
    assert asked(tools=[WEATHER, CLOCK])["tools"] == [
        {
            "functionDeclarations": [
                {"name": "weather", "description": "Says it.", "parametersJsonSchema": SCHEMA},
                {"name": "clock"},
            ]
        }
    ]


def test_a_result_that_only_looks_like_json_is_text() -> None:
    call = {"role": "assistant", "tool_calls": [called("a", "f")]}
    translated = asked(HELLO, call, {"role": "tool", "tool_call_id": "a", "content": "[see below]"})
    assert translated["contents"][2]["parts"][0]["functionResponse"]["response"] == {"output": "[see below]"}


def test_parallel_calls_are_the_answers_business() -> None:
    assert is_single_call({"parallel_tool_calls": False})
    assert not is_single_call({"parallel_tool_calls": True})
    assert "toolConfig" not in asked(tools=[CLOCK], parallel_tool_calls=False)


@pytest.mark.parametrize(("asked_for", "sent"), [("default", "standard"), ("flex", "flex"), ("priority", "priority")])
def test_a_tier_that_is_charged_is_asked_for(asked_for: str, sent: str) -> None:
    assert asked(service_tier=asked_for)["serviceTier"] == sent


def test_const_becomes_an_enum_where_it_is_a_keyword_and_only_there() -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$defs": {"cat": {"properties": {"kind": {"const": "cat"}, "const": {"type": "string"}}}},
        "anyOf": [{"$ref": "#/$defs/cat"}, {"const": None}],
        "items": {"const": 1, "default": {"const": 2}},
        "additionalProperties": False,
    }
    assert adapt(schema) == {
        "$defs": {"cat": {"properties": {"kind": {"enum": ["cat"]}, "const": {"type": "string"}}}},
        "anyOf": [{"$ref": "#/$defs/cat"}, {"enum": [None]}],
        "items": {"enum": [1], "default": {"const": 2}},
        "additionalProperties": False,
    }


def test_the_deepest_schema_that_can_arrive_is_adapted() -> None:
    """A body was written by orjson before it gets here, which bounds its depth to 254."""
    schema: dict[str, Any] = {"const": 1}
    for _ in range(240):
        schema = {"items": schema}
    orjson.dumps(schema)
    assert b'"enum":[1]' in orjson.dumps(adapt(schema))


@pytest.mark.parametrize("name", ["a/b", "..", "../x", "a:b", "a?b", "a b", "%2e", "", "ä", "-a", None, "x" * 200])
def test_a_model_that_is_more_than_a_name_is_refused(name: object) -> None:
    with pytest.raises(RequestError) as error:
        model_name({"model": name})
    assert refused(error) == (400, "model")


def test_the_path_names_model_and_method() -> None:
    assert model_path("gemini-3.5-flash", "generateContent") == "/models/gemini-3.5-flash:generateContent"


def test_texts_become_one_batch() -> None:
    body = {"model": "gemini-embedding-001", "input": ["a", "b"], "dimensions": 256, "encoding_format": "base64"}
    assert embeddings_body(body) == {
        "requests": [
            {
                "model": "models/gemini-embedding-001",
                "content": {"parts": [{"text": text}]},
                "outputDimensionality": 256,
            }
            for text in "ab"
        ]
    }


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": [1, 2]}, "input"),
        ({"input": [[1, 2]]}, "input"),
        ({"input": []}, "input"),
        ({"input": [""]}, "input"),
        ({"input": ["a"] * 101}, "input"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "task_type": "x"}, "task_type"),
    ],
)
def test_what_cannot_be_embedded_is_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as error:
        embeddings_body({"model": "gemini-embedding-001", **fields})
    assert refused(error) == (400, param)


def test_a_gemini_model_is_asked_for_one_image_of_a_shape() -> None:
    body = {"model": "gemini-3.1-flash-image", "prompt": "A cube", "size": "1536x1024", "n": 1, "quality": "auto"}
    assert images_body(body) == {
        "contents": [{"role": "user", "parts": [{"text": "A cube"}]}],
        "generationConfig": {"responseModalities": ["IMAGE"], "imageConfig": {"aspectRatio": "3:2"}},
    }


def test_a_large_square_is_a_resolution() -> None:
    config = images_body({"model": "gemini-3-pro-image", "prompt": "A cube", "size": "2048x2048"})["generationConfig"]
    assert config["imageConfig"] == {"aspectRatio": "1:1", "imageSize": "2K"}


def test_imagen_makes_several() -> None:
    body = {"model": "imagen-4.0-generate-001", "prompt": "A cube", "size": "1024x1792", "n": 3}
    assert images_body(body) == {
        "instances": [{"prompt": "A cube"}],
        "parameters": {"sampleCount": 3, "aspectRatio": "9:16"},
    }


def test_every_size_is_near_its_ratio() -> None:
    for size, (ratio, _) in SHAPES.items():
        (width, height), (across, down) = ((int(one) for one in text.split(mark)) for text, mark in ((size, "x"), (ratio, ":")))  # fmt: skip
        assert abs(width * down / (height * across) - 1) < 0.05, size


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"model": "imagen-4.0-generate-001", "n": 5}, "n"),
        ({"size": "256x256"}, "size"),
        ({"quality": "hd"}, "quality"),
        ({"style": "vivid"}, "style"),
        ({"background": "transparent"}, "background"),
        ({"output_format": "webp"}, "output_format"),
        ({"prompt": ""}, "prompt"),
    ],
)
def test_images_that_cannot_be_made_are_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as error:
        images_body({"model": "gemini-3.1-flash-image", "prompt": "A cube", **fields})
    assert refused(error) == (400, param)
