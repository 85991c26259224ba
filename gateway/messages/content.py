"""What is in a Messages request: checked block by block, and measured for the hold. Pure.

Refused here is what costs extra and has no price row (hosted tools, containers, another region), what is kept in the
operator's account where one creator could reach what is another's (files, threads), and what says who pays. Everything
else may pass to a provider of the Messages API; whether it can be said in a chat is `gateway.messages.chat_body`'s to know.

Source: the parameter types of the anthropic package 2.11.0 and the tool prompt sizes of platform.claude.com/docs
(tool use, bash, text editor, computer use), read 2026-11-21.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.errors import RequestError
from gateway.request_fields import unpriced_feature, wrong
from gateway.streaming import utf8_bytes

__all__ = ["Content", "asked_speed", "check_features", "measure"]

_CLIENT_TOOL = re.compile(r"(?:bash|text_editor|computer|memory|browser_toolset|computer_toolset)_\d{8}")
"""Tools that Anthropic describes and the client runs: they cost their tokens and nothing else."""
_CLEARING = re.compile(r"clear_[a-z_]+_\d{8}")
"""Edits of the context that only leave something out; others let the model write a summary that is billed beside."""

_HOSTED_FIELDS = ("container", "mcp_servers", "compaction", "fallback_credit_token")
_OPERATORS_FIELDS = ("thread", "user_profile_id", "workspace_id", "billing_policy", "betas", "anthropic_beta")
_TIERS = ("auto", "standard_only")

# What one part may cost in tokens at most, as a chat counts it, and what it most likely costs.
_IMAGE_TOKENS_MAX, _IMAGE_TOKENS_LIKELY = 50_000, 1_600
_DOCUMENT_TOKENS_MAX, _DOCUMENT_TOKENS_LIKELY = 150_000, 10_000

# Instructions that nobody sees, in bytes at four to the token: some 350 tokens as soon as there is a tool or a schema, up
# to 1 500 for a tool that Anthropic describes.
_INSTRUCTIONS_BYTES = 1_400
_CLIENT_TOOL_BYTES = 6_000

_UNPRICED_BLOCKS = frozenset({"container_upload", "tool_addition"})
"""Blocks that put a hosted tool to work: one that is not among `tools`, or what one runs on."""

_BLOCKS_MAX = 50_000
"""Of all messages together, and as many messages. Each of a small size, more would keep every other call waiting."""
_DEPTH_MAX = 16
"""Blocks inside blocks; the deepest that mean anything are three."""


@dataclass(slots=True)
class Content:
    """What was found. Sizes are upper bounds in the sense of `gateway.chat.ChatRequest`."""

    blocks: int = 0
    text_bytes: int = 0
    part_tokens: int = 0
    likely_part_tokens: int = 0
    has_images: bool = False
    keeps_an_hour: bool = False
    """Something is to be cached for an hour, at twice the price of input."""
    has_unsigned: bool = False
    """There is thinking without a signature: another model's, which Anthropic would refuse."""


def check_features(body: Mapping[str, Any]) -> None:
    """Raises `RequestError` for what is refused whatever the model."""
    for field in _HOSTED_FIELDS:
        if body.get(field):
            raise unpriced_feature(field)
    for field in _OPERATORS_FIELDS:
        if body.get(field) is not None:
            raise RequestError(
                f"`{field}` belongs to the account of this gateway's operator and is not accepted.",
                code="unsupported_parameter",
                param=field,
            )
    if body.get("inference_geo") not in (None, "global"):
        raise unpriced_feature("inference_geo")
    _check_tools(body.get("tools"))
    _check_edits(body.get("context_management"))


def asked_speed(body: Mapping[str, Any]) -> str:
    """The speed that is asked for and has a price of its own, a row's service tier by the same name; empty for none.

    Raises `RequestError` for a service tier that is none of Anthropic's.
    """
    tier, speed = body.get("service_tier"), body.get("speed")
    if tier not in (None, *_TIERS):
        raise wrong("service_tier", f"takes one of: {', '.join(_TIERS)}")
    if speed is not None and not isinstance(speed, str):
        raise wrong("speed", "must be a string")
    return speed if speed and speed != "standard" else ""


def measure(body: Mapping[str, Any]) -> Content:
    """Everything that becomes input: `system`, messages, tools and schemas. Raises `RequestError` for malformed content."""
    content = Content()
    _note_cache(content, body)
    _measure_blocks(content, body.get("system"), "system", 0)
    if len(body["messages"]) > _BLOCKS_MAX:
        raise _too_many()
    for message in body["messages"]:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise wrong("messages", "must hold objects with a `role`")
        if message.get("content") is None:
            raise wrong("messages[].content", "is required", code="missing_required_parameter")
        _measure_blocks(content, message["content"], "messages[].content", 0)
    for tool in body.get("tools") or ():
        _note_cache(content, tool)
        content.text_bytes += len(orjson.dumps(tool))
        if tool.get("type") not in (None, "custom"):
            content.text_bytes += _CLIENT_TOOL_BYTES
    if body.get("tools"):
        content.text_bytes += _INSTRUCTIONS_BYTES
    for field in ("output_config", "output_format"):
        if body.get(field):
            content.text_bytes += len(orjson.dumps(body[field])) + _INSTRUCTIONS_BYTES
    return content


def _check_tools(tools: object) -> None:
    if tools is None:
        return
    if not isinstance(tools, list):
        raise wrong("tools", "must be an array")
    for tool in tools:
        if not isinstance(tool, dict):
            raise wrong("tools", "must hold objects")
        kind = tool.get("type")
        if kind not in (None, "custom") and not (isinstance(kind, str) and _CLIENT_TOOL.fullmatch(kind)):
            raise unpriced_feature("tools[].type")


def _check_edits(management: object) -> None:
    if management is None:
        return
    edits = management.get("edits") if isinstance(management, dict) else None
    for edit in edits if isinstance(edits, list) else ():
        kind = edit.get("type") if isinstance(edit, dict) else None
        if not isinstance(kind, str) or not _CLEARING.fullmatch(kind):
            raise unpriced_feature("context_management.edits[].type")


def _measure_blocks(content: Content, blocks: object, field: str, depth: int) -> None:
    if blocks is None:
        return
    if isinstance(blocks, str):
        content.text_bytes += utf8_bytes(blocks)
        return
    if not isinstance(blocks, list) or depth > _DEPTH_MAX:
        raise wrong(field, "must be a string or an array of content blocks")
    content.blocks += len(blocks)
    if content.blocks > _BLOCKS_MAX:
        raise _too_many()
    for block in blocks:
        if not isinstance(block, dict) or not isinstance(block.get("type"), str):
            raise wrong(field, "must hold objects with a `type`")
        _note_cache(content, block)
        _measure_block(content, block, field, depth)


def _measure_block(content: Content, block: Mapping[str, Any], field: str, depth: int) -> None:
    kind = block["type"]
    if kind == "text" and isinstance(block.get("text"), str):
        content.text_bytes += utf8_bytes(block["text"])
    elif kind == "image":
        _check_source(block, field)
        content.has_images = True
        content.part_tokens += _IMAGE_TOKENS_MAX
        content.likely_part_tokens += _IMAGE_TOKENS_LIKELY
    elif kind == "document":
        _measure_document(content, block, field, depth)
    elif kind == "tool_result":
        content.text_bytes += utf8_bytes(str(block.get("tool_use_id", "")))
        _measure_blocks(content, block.get("content"), field, depth + 1)
    elif kind in _UNPRICED_BLOCKS:
        raise unpriced_feature(f"{field}[].type")
    else:
        content.has_unsigned |= kind == "thinking" and not block.get("signature")
        # Tool calls, thinking with its signature, search results and what else there may be: at most a token a byte.
        content.text_bytes += len(orjson.dumps(block))
        if kind != "tool_use":
            _look_inside(content, block, field, depth)


def _look_inside(content: Content, block: Mapping[str, Any], field: str, depth: int) -> None:
    """What a block of another kind may hold that costs more than its bytes: a cache mark, a picture, a document."""
    waiting: list[Any] = list(block.values())
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            _note_cache(content, value)
            if value.get("type") in ("image", "document"):
                _measure_block(content, value, field, depth + 1)
            else:
                waiting += value.values()


def _measure_document(content: Content, block: Mapping[str, Any], field: str, depth: int) -> None:
    source = _check_source(block, field)
    content.text_bytes += sum(
        utf8_bytes(text) for name in ("title", "context") if isinstance(text := block.get(name), str)
    )
    if source["type"] == "text":
        content.text_bytes += len(orjson.dumps(source.get("data")))
    elif source["type"] == "content":
        _measure_blocks(content, source.get("content"), field, depth + 1)
    else:
        content.part_tokens += _DOCUMENT_TOKENS_MAX
        content.likely_part_tokens += _DOCUMENT_TOKENS_LIKELY


def _check_source(block: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    source = block.get("source")
    if not isinstance(source, dict) or not isinstance(source.get("type"), str):
        raise wrong(f"{field}[].source", "must be an object with a `type`")
    if source["type"] == "file":
        # Files lie in the operator's account: an id would reach whatever anybody put there.
        raise RequestError(
            "Files by id are not available through this gateway: send the content itself.",
            code="unsupported_parameter",
            param=f"{field}[].source",
        )
    return source


def _too_many() -> RequestError:
    return RequestError(
        f"`messages` must be at most {_BLOCKS_MAX}, with at most as many blocks of content.",
        status=413,
        code="request_too_large",
        param="messages",
    )


def _note_cache(content: Content, holder: Mapping[str, Any]) -> None:
    control = holder.get("cache_control")
    if isinstance(control, dict) and control.get("ttl") not in (None, "5m"):
        content.keeps_an_hour = True
