"""How deep JSON may be nested that others sent and that is kept: it must fit into the answers that tell it later, and what
writes those gives up at 254 levels."""

import re

__all__ = ["DEPTH_MAX", "is_too_deep"]

DEPTH_MAX = 64
_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"')


def is_too_deep(text: str) -> bool:
    """Whether `text`, which is JSON, is nested deeper than `DEPTH_MAX`."""
    if text.count("[") + text.count("{") <= DEPTH_MAX:
        return False
    depth = 0
    for sign in _STRINGS.sub("", text):
        if sign in "[{":
            depth += 1
            if depth > DEPTH_MAX:
                return True
        elif sign in "]}":
            depth -= 1
    return False
