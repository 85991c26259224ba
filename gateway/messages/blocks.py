"""The content blocks of a message that is being streamed, told one after another. Pure.

A chat names its tool calls by number and may, in theory, write several at once; a message finishes a block before the next
one begins. A call is told as it comes, as long as the one before it is finished. Whatever else begins meanwhile waits for
the end. Sizes are bytes.
"""

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import orjson

from gateway.event_relay import event
from gateway.providers.translated import Untranslatable

__all__ = ["Blocks", "Tool"]

_KEPT_BYTES_MAX = 16 * 2**20
"""What is kept of tool calls that are not finished, and of whatever waits for them."""


class Tool:
    """One call of a tool, as far as it has come."""

    __slots__ = ("arguments", "id", "is_closed", "name")

    def __init__(self, id: str, name: str) -> None:
        self.id = id
        self.name = name
        self.arguments = bytearray()
        self.is_closed = False

    def block(self) -> dict[str, Any]:
        """The block as it begins, before its input."""
        return {"type": "tool_use", "id": self.id, "name": self.name, "input": {}}

    def is_finished(self) -> bool:
        """Whether nothing but blanks can follow."""
        try:
            return isinstance(orjson.loads(self.arguments), dict)
        except orjson.JSONDecodeError:
            return False


class _Words:
    """Text or thinking that has to wait; `kind` is the block's type."""

    __slots__ = ("kind", "text")

    def __init__(self, kind: str, text: str) -> None:
        self.kind = kind
        self.text = text


class Blocks:
    """Lifetime: one answer. Every method returns the events that can be told by now; raises `Untranslatable`."""

    __slots__ = ("_count", "_kept_bytes", "_open", "_tools", "_waiting", "tools_count")

    def __init__(self) -> None:
        self._count = 0
        self._open: Tool | str | None = None
        """The block that is being told: a tool's, or a kind of words."""
        self._tools: dict[int, Tool] = {}
        self._waiting: list[Tool | _Words] = []
        self._kept_bytes = 0
        self.tools_count = 0

    def new_tool(self, id: object, name: str) -> Tool:
        """A call, with an id of our own where the server gave none."""
        self.tools_count += 1
        return Tool(id if isinstance(id, str) and id else f"toolu_{uuid4().hex}", name)

    def words(self, kind: str, text: str) -> bytes:
        """More of what is said, or of what is thought; `kind` is `text` or `thinking`."""
        if not self._must_wait(kind):
            return self._open_words(kind) + self._tell_words(kind, text)
        self._keep(len(text.encode()))
        last = self._waiting[-1] if self._waiting else None
        if isinstance(last, _Words) and last.kind == kind:
            last.text += text
        else:
            self._waiting.append(_Words(kind, text))
        return b""

    def call(self, call: Mapping[str, Any], position: int) -> bytes:
        """More of a tool call, as a chat's chunk tells it; `position` is its place there, for servers that do not count."""
        function = call.get("function")
        function = function if isinstance(function, dict) else {}
        index = call.get("index")
        index = index if type(index) is int else position
        tool, told = self._tools.get(index), b""
        name, arguments = function.get("name"), function.get("arguments")
        if isinstance(name, str) and name and _is_new(call.get("id"), tool):
            tool = self._tools[index] = self.new_tool(call.get("id"), name)
            if self._must_wait(tool):
                self._waiting.append(tool)
            else:
                told = self._open_block(tool, tool.block())
        if tool is None:
            raise Untranslatable("a tool call without a name")
        return told + self._arguments(tool, arguments) if isinstance(arguments, str) and arguments else told

    def close(self) -> bytes:
        """The end of the last block, and all that waited for it."""
        told = [self._close_block()]
        for one in self._waiting:
            if isinstance(one, _Words):
                told += [self._open_words(one.kind), self._tell_words(one.kind, one.text)]
            else:
                told.append(self._open_block(one, one.block()))
                if one.arguments:
                    told.append(self._tell_arguments(one.arguments.decode()))
            told.append(self._close_block())
        self._waiting.clear()
        return b"".join(told)

    def _arguments(self, tool: Tool, arguments: str) -> bytes:
        if tool.is_closed:
            if arguments.strip():
                raise Untranslatable("arguments of a tool call that had been complete")
            return b""
        encoded = arguments.encode()
        self._keep(len(encoded))
        tool.arguments += encoded
        return self._tell_arguments(arguments) if tool is self._open else b""

    def _must_wait(self, what: Tool | str) -> bool:
        """Whether the open block cannot end yet, or others wait already."""
        if what == self._open:
            return False
        return bool(self._waiting) or (isinstance(self._open, Tool) and not self._open.is_finished())

    def _keep(self, size: int) -> None:
        self._kept_bytes += size
        if self._kept_bytes > _KEPT_BYTES_MAX:
            raise Untranslatable("tool calls above the bound")

    def _open_words(self, kind: str) -> bytes:
        if self._open == kind:
            return b""
        # Only Anthropic can sign what was thought; its package asks for the key, not for a signature.
        return self._open_block(kind, {"type": kind, kind: "", **({"signature": ""} if kind == "thinking" else {})})

    def _open_block(self, what: Tool | str, block: dict[str, Any]) -> bytes:
        closed = self._close_block()
        self._open = what
        self._count += 1
        return closed + event("content_block_start", {"index": self._count - 1, "content_block": block})

    def _close_block(self) -> bytes:
        if self._open is None:
            return b""
        if isinstance(self._open, Tool):
            self._kept_bytes -= len(self._open.arguments)
            self._open.arguments.clear()
            self._open.is_closed = True
        self._open = None
        return event("content_block_stop", {"index": self._count - 1})

    def _tell_words(self, kind: str, text: str) -> bytes:
        return self._delta({"type": f"{kind}_delta", kind: text})

    def _tell_arguments(self, arguments: str) -> bytes:
        return self._delta({"type": "input_json_delta", "partial_json": arguments})

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return event("content_block_delta", {"index": self._count - 1, "delta": delta})


def _is_new(id: object, tool: Tool | None) -> bool:
    """A second id under one index is a second call: not every server counts them."""
    return tool is None or (isinstance(id, str) and id not in ("", tool.id))
