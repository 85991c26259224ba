"""A Messages request told as a chat completion, for models whose provider has no Messages API. Pure.

What a chat has no word for and what changes nothing of the question is left out: cache marks, thinking of earlier turns,
`top_k`, metadata, edits of the context. What would change the question is a 400 that names it: tools only Anthropic
describes, documents by URL, blocks of hosted tools. Nothing is fetched: an image's URL stays a URL.

Source: the parameter types of the anthropic package 2.11.0 and OpenAI's chat completion parameters (openai 3.52.0), read
2026-11-21.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from gateway.errors import RequestError
from gateway.request_fields import dump_body, wrong

__all__ = ["chat_body", "wanted_schema"]

_MEDIA_TYPE = re.compile(r"[a-z0-9]+/[A-Za-z0-9.+-]{1,64}")
_KEPT = ("temperature", "top_p", "stream")
_EFFORTS = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}
_SMALL_BUDGET, _LARGE_BUDGET = 4_096, 16_384
"""Tokens of thinking: below the first the effort is low, from the second on it is high."""
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_SCHEMA_NAME = "output"

Block = Mapping[str, Any]


def chat_body(body: Mapping[str, Any], *, is_reasoning: bool) -> dict[str, Any]:
    """The chat completion body, without model and bound of the output.

    `body` has passed `gateway.messages.content`. `is_reasoning`: the model understands `reasoning_effort`.
    Raises `RequestError` for what cannot be said in a chat.
    """
    told: dict[str, Any] = {"messages": list(_messages(body))}
    told.update((name, body[name]) for name in _KEPT if body.get(name) is not None)
    if stop := body.get("stop_sequences"):
        told["stop"] = stop
    if tools := body.get("tools"):
        told["tools"] = [_tool(tool) for tool in tools]
        told.update(_tool_choice(body.get("tool_choice")))
    if body.get("service_tier") == "standard_only":
        told["service_tier"] = "default"
    if (schema := wanted_schema(body)) is not None:
        told["response_format"] = _response_format(schema)
    if is_reasoning and (effort := _effort(body)):
        told["reasoning_effort"] = effort
    return told


def _messages(body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    if system := _joined(body.get("system"), "system"):
        yield {"role": "system", "content": system}
    for message in body["messages"]:
        role, content = message["role"], message["content"]
        if role == "user":
            yield from _user(content)
        elif role == "assistant":
            yield _assistant(content)
        elif role == "system":
            yield {"role": "system", "content": _joined(content, "messages[].content")}
        else:
            raise wrong("messages[].role", "must be `user`, `assistant` or `system`")


def _joined(blocks: Any, field: str) -> str:
    """Texts of a system prompt as one: not every server takes several."""
    if blocks is None or isinstance(blocks, str):
        return blocks or ""
    return "\n\n".join(_text_of(block, field) for block in blocks)


def _text_of(block: Block, field: str) -> str:
    text = block.get("text") if isinstance(block, dict) and block.get("type") == "text" else None
    if not isinstance(text, str):
        raise _unsayable(f"{field}[].type")
    return text


def _user(content: Any) -> Iterator[dict[str, Any]]:
    """The results of tools first, each a message of its own right behind the call, then what else the user says."""
    if isinstance(content, str):
        yield {"role": "user", "content": content}
        return
    parts: list[dict[str, Any]] = []
    for block in content:
        if block["type"] == "tool_result":
            text, shown = _tool_result(block)
            yield {"role": "tool", "tool_call_id": _word(block, "tool_use_id"), "content": text}
            parts.extend(shown)
    parts.extend(part for block in content if block["type"] != "tool_result" for part in _parts(block))
    if parts:
        yield {"role": "user", "content": _plain(parts)}


def _plain(parts: list[dict[str, Any]]) -> Any:
    """One text needs no array."""
    return parts[0]["text"] if len(parts) == 1 and parts[0]["type"] == "text" else parts


def _tool_result(block: Block) -> tuple[str, list[dict[str, Any]]]:
    """Its text, and the pictures a tool's message cannot hold: the user shows them right after."""
    content = block.get("content")
    inner = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    parts = [part for one in inner for part in _parts(one)]
    text = "\n".join(part["text"] for part in parts if part["type"] == "text")
    shown = [part for part in parts if part["type"] != "text"]
    if shown:
        shown.insert(0, {"type": "text", "text": f"What the tool call {_word(block, 'tool_use_id')} returned:"})
    return f"Error: {text}" if block.get("is_error") is True else text, shown


def _parts(block: Block) -> Iterable[dict[str, Any]]:
    kind = block["type"]
    if kind == "text":
        return [{"type": "text", "text": _text_of(block, "messages[].content")}]
    if kind == "image":
        return [{"type": "image_url", "image_url": {"url": _image_url(block["source"])}}]
    if kind == "document":
        return _document(block)
    if kind == "search_result":
        content = block.get("content")
        texts = [_text_of(one, "messages[].content[].content") for one in content] if isinstance(content, list) else []
        heading = [str(block[name]) for name in ("title", "source") if block.get(name)]
        return [{"type": "text", "text": "\n".join([*heading, *texts])}]
    if kind in ("thinking", "redacted_thinking"):
        return []
    raise _unsayable("messages[].content[].type")


def _image_url(source: Block) -> str:
    if source["type"] == "url" and isinstance(source.get("url"), str):
        url: str = source["url"]
        return url
    return _data_url(source)


def _data_url(source: Block) -> str:
    media_type, data = source.get("media_type"), source.get("data")
    if source["type"] != "base64" or not isinstance(media_type, str) or not isinstance(data, str):
        raise _unsayable("messages[].content[].source")
    if not _MEDIA_TYPE.fullmatch(media_type):
        raise wrong("messages[].content[].source.media_type", "must be a media type")
    return f"data:{media_type};base64,{data}"


def _document(block: Block) -> list[dict[str, Any]]:
    source, title = block["source"], block.get("title")
    heading = [{"type": "text", "text": title}] if isinstance(title, str) and title else []
    if source["type"] == "text" and isinstance(source.get("data"), str):
        return [*heading, {"type": "text", "text": source["data"]}]
    if source["type"] == "content":
        inner = source.get("content")
        blocks = [{"type": "text", "text": inner}] if isinstance(inner, str) else inner or []
        return [*heading, *(part for one in blocks for part in _parts(one))]
    name = title if isinstance(title, str) and title else "document.pdf"
    return [{"type": "file", "file": {"filename": name, "file_data": _data_url(source)}}]


def _assistant(content: Any) -> dict[str, Any]:
    if isinstance(content, str):
        return {"role": "assistant", "content": content}
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    for block in content:
        if block["type"] == "tool_use":
            function = {"name": _word(block, "name"), "arguments": dump_body(block.get("input") or {}).decode()}
            calls.append({"id": _word(block, "id"), "type": "function", "function": function})
        else:
            texts.extend(part["text"] for part in _parts(block) if part["type"] == "text")
    text = "".join(texts)
    if calls:
        return {"role": "assistant", "content": text or None, "tool_calls": calls}
    return {"role": "assistant", "content": text}


def _word(block: Block, name: str) -> str:
    value = block.get(name)
    if not isinstance(value, str) or not value:
        raise wrong(f"messages[].content[].{name}", "is required and must be a non-empty string")
    return value


def _tool(tool: Block) -> dict[str, Any]:
    if tool.get("type") not in (None, "custom"):
        raise RequestError(
            "Only models of Anthropic know the tools that Anthropic describes; this one takes tools with an `input_schema`.",
            code="unsupported_parameter",
            param="tools[].type",
        )
    if not isinstance(tool.get("name"), str):
        raise wrong("tools[].name", "is required and must be a string")
    function: dict[str, Any] = {"name": tool["name"], "parameters": tool.get("input_schema") or {"type": "object"}}
    for name in ("description", "strict"):
        if tool.get(name) is not None:
            function[name] = tool[name]
    return {"type": "function", "function": function}


def _tool_choice(choice: object) -> dict[str, Any]:
    if choice is None:
        return {}
    kind = choice.get("type") if isinstance(choice, dict) else None
    told: dict[str, Any] = {}
    if kind == "tool" and isinstance(choice, dict):
        told["tool_choice"] = {"type": "function", "function": {"name": choice.get("name")}}
    elif isinstance(kind, str) and kind in _CHOICES:
        told["tool_choice"] = _CHOICES[kind]
    else:
        raise wrong("tool_choice.type", "must be `auto`, `any`, `tool` or `none`")
    if isinstance(choice, dict) and choice.get("disable_parallel_tool_use") is True:
        told["parallel_tool_calls"] = False
    return told


def wanted_schema(body: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the answer has to match, if anything. Raises `RequestError`."""
    config = body.get("output_config")
    wanted = (config.get("format") if isinstance(config, dict) else None) or body.get("output_format")
    if wanted is None:
        return None
    schema = wanted.get("schema") if isinstance(wanted, dict) else None
    if not isinstance(wanted, dict) or wanted.get("type") != "json_schema" or not isinstance(schema, dict):
        raise wrong("output_config.format", "must be of type `json_schema` with a `schema`")
    return schema


def _response_format(schema: dict[str, Any]) -> dict[str, Any]:
    named = {"name": _SCHEMA_NAME, "schema": schema, "strict": _is_strict(schema)}
    return {"type": "json_schema", "json_schema": named}


def _is_strict(schema: object) -> bool:
    """Whether OpenAI would enforce it: every object closed, every property required. Others refuse `strict` outright."""
    if isinstance(schema, list):
        return all(_is_strict(one) for one in schema)
    if not isinstance(schema, dict):
        return True
    properties = schema.get("properties")
    if isinstance(properties, dict):
        required = schema.get("required")
        if schema.get("additionalProperties") is not False or not isinstance(required, list):
            return False
        named = {name for name in required if isinstance(name, str)}
        if not named.issuperset(properties):
            return False
        return all(_is_strict(one) for one in properties.values()) and _rest_is_strict(schema)
    return schema.get("type") != "object" and _rest_is_strict(schema)


def _rest_is_strict(schema: dict[str, Any]) -> bool:
    nested = ("items", "anyOf", "allOf")
    definitions = [found for name in ("$defs", "definitions") if isinstance(found := schema.get(name), dict)]
    return all(_is_strict(schema.get(name)) for name in nested) and all(
        _is_strict(list(found.values())) for found in definitions
    )


def _effort(body: Mapping[str, Any]) -> str:
    """How hard a reasoning model shall think; empty to leave it to the model."""
    config, thinking = body.get("output_config"), body.get("thinking")
    asked = config.get("effort") if isinstance(config, dict) else None
    if isinstance(asked, str) and asked in _EFFORTS:
        return _EFFORTS[asked]
    budget = thinking.get("budget_tokens") if isinstance(thinking, dict) else None
    if type(budget) is not int:
        return ""
    return "low" if budget < _SMALL_BUDGET else "medium" if budget < _LARGE_BUDGET else "high"


def _unsayable(field: str) -> RequestError:
    return RequestError(
        f"`{field}` holds something that this model can only be told in Anthropic's own API.",
        code="unsupported_parameter",
        param=field,
    )
