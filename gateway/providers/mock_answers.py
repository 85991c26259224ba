"""What the mock's answers are made of, whatever the endpoint."""

from typing import Any, NamedTuple

import orjson

CREATED_AT = 1_700_000_000


class Reply(NamedTuple):
    """An answer of status 200, in the pieces it comes in."""

    content_type: str
    pieces: list[bytes]


def json_reply(answer: dict[str, Any]) -> Reply:
    return Reply("application/json", [orjson.dumps(answer)])


def stream_reply(events: list[bytes]) -> Reply:
    return Reply("text/event-stream; charset=utf-8", events)


def tokens_of(text: str) -> int:
    """A token is four bytes, rounded up."""
    return -(-len(text.encode()) // 4)


def words_of(said: str) -> list[str]:
    """What is answered to these words, each with the space behind it."""
    return [f"{word} " for word in f"You said: {said}".split()] if said else ["Hello! "]
