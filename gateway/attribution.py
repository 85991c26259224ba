"""What a caller may say about a call for the books: feature, agent, tags and metadata. Never who pays.

Headers `x-gateway-feature`, `x-gateway-agent`, `x-gateway-tags` come first, then the same keys in OpenAI's `metadata`,
which are taken out before the request travels on.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from gateway.errors import RequestError
from gateway.json_depth import is_too_deep

METADATA_BYTES_MAX = 1024
TAGS_MAX = 16
_LABEL = re.compile(r"[A-Za-z0-9._-]{1,64}")
_CLIENT_REQUEST_ID_CHARS_MAX = 128


class Labels(NamedTuple):
    feature: str = ""
    agent: str = ""
    tags: str = ""
    """Comma-joined."""
    metadata: str = ""
    """What else the caller put in `metadata`, as JSON; empty above 1 KB or when there is none."""


NO_LABELS = Labels()


def read_labels(headers: Mapping[bytes, bytes], body: dict[str, Any]) -> Labels:
    """The call's labels; takes its own keys out of `body["metadata"]`. Raises `RequestError` on a malformed label."""
    metadata = body.get("metadata")
    feature = headers.get(b"x-gateway-feature")
    agent = headers.get(b"x-gateway-agent")
    tags = headers.get(b"x-gateway-tags")
    if metadata is None and feature is None and agent is None and tags is None:
        return NO_LABELS
    if metadata is not None and not isinstance(metadata, dict):
        raise RequestError("`metadata` must be an object.", code="invalid_value", param="metadata")
    own: dict[str, Any] = {key: metadata.pop(key, None) for key in ("feature", "agent", "tags")} if metadata else {}
    if metadata is not None and not metadata:
        del body["metadata"]
    return Labels(
        feature=_label("feature", feature, own.get("feature")),
        agent=_label("agent", agent, own.get("agent")),
        tags=_tags(tags, own.get("tags")),
        metadata=_metadata(metadata),
    )


def client_request_id(headers: Mapping[bytes, bytes]) -> str:
    """The caller's own `x-request-id`, for the log; empty when absent or not plain text."""
    value = headers.get(b"x-request-id")
    if not value or len(value) > _CLIENT_REQUEST_ID_CHARS_MAX or not value.isascii():
        return ""
    text = value.decode("ascii")
    return text if text.isprintable() else ""


def _label(name: str, header: bytes | None, value: object) -> str:
    text = header.decode("latin-1") if header is not None else value
    if text is None or text == "":
        return ""
    if not isinstance(text, str) or not _LABEL.fullmatch(text):
        raise RequestError(
            f"`{name}` must be 1 to 64 letters, digits, dots, dashes or underscores.",
            code="invalid_value",
            param=name,
        )
    return text


def _tags(header: bytes | None, value: object) -> str:
    given: list[Any]
    if header is not None:
        given = header.decode("latin-1").split(",")
    elif isinstance(value, str):
        given = value.split(",")
    elif isinstance(value, list):
        given = value
    elif value is None:
        return ""
    else:
        raise RequestError(
            "`tags` must be an array of texts, or one text with commas.", code="invalid_value", param="tags"
        )
    if len(given) > TAGS_MAX:
        raise RequestError(f"`tags` may hold at most {TAGS_MAX} tags.", code="invalid_value", param="tags")
    return ",".join(filter(None, (_label("tags", None, tag.strip() if isinstance(tag, str) else tag) for tag in given)))


def _metadata(metadata: Mapping[str, Any] | None) -> str:
    if not metadata:
        return ""
    try:
        text = orjson.dumps(metadata)
    except orjson.JSONEncodeError:
        raise _too_deep() from None
    if len(text) > METADATA_BYTES_MAX:
        return ""
    kept = text.decode()
    if is_too_deep(kept):
        raise _too_deep()
    return kept


def _too_deep() -> RequestError:
    return RequestError("`metadata` is nested too deeply.", code="invalid_value", param="metadata")
