"""Whether what was seen is what a page shows, where nothing may differ but what differs at every run.

Ids, keys, signatures, instants, dates, and spans of time are compared by shape. `...` on a page stands for whatever was left
out: as a line of its own for any number of lines, within a line for any text. The width of columns depends on ids and is not
compared.
"""

import re

__all__ = ["differs"]

_SHAPES = (
    (re.compile(r"sk-gwadmin-[\w-]+"), "<admin key>"),
    (re.compile(r"sk-gw-[\w-]+"), "<virtual key>"),
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"), "<uuid>"),
    (re.compile(r"\b(req|resp|msg|chatcmpl|ntc|conv|file|call|img)_[\w-]{16,}"), r"<\1 id>"),
    (re.compile(r"\b(chatcmpl|resp|msg)-[\w-]{8,}"), r"<\1 id>"),
    (re.compile(r"\b(?=\w*[A-Z0-9])(?=\w*[a-z])[0-9A-Za-z]{12}\b"), "<key id>"),
    (re.compile(r"\b(last4\"?:?\s+)\"?\w{4}\b"), r"\1<end of a key>"),
    (re.compile(r"\b\d{8}T\d{6}Z"), "<instant>"),
    (re.compile(r"^(bytes\s+)\d+$"), r"\1<size of a file>"),
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?"), "<instant>"),
    (re.compile(r"\b\d{4}-\d\d-\d\dT\d\d\b"), "<hour>"),
    (re.compile(r"\b\d{4}-\d\d-\d\d\b"), "<day>"),
    (re.compile(r"\b\d{4}-(0[1-9]|1[0-2])\b"), "<month>"),
    (re.compile(r"\bexpires=\d+"), "expires=<time>"),
    (re.compile(r"\bwhsec_[\w+/=]+"), "<webhook secret>"),
    (re.compile(r"\bv1,[\w+/=]{20,}"), "<signature>"),
    (re.compile(r"\b[0-9a-f]{32,64}\b"), "<digest>"),
    (re.compile(r"(?i)^(age|date|webhook-timestamp): .*"), r"\1: <time>"),
    (re.compile(r"(_ms|_s)(\"?)([:=]) ?\d+(\.\d+)?"), r"\1\2\3<span>"),
    (re.compile(r"\b(in|within|for|after) \d+(\.\d+)? (ms|s|min|h|d|days|seconds)\b"), r"\1 <span>"),
    (re.compile(r"\b\d+(\.\d+)? (ms|s)\b"), "<span>"),
    (re.compile(r"-{4,}|─{4,}"), "<rule>"),
    (re.compile(r"\s+"), " "),
)
_ELLIPSIS = "..."
_SEEN_MAX = 6000
"""Characters of what was seen, in a report."""
_CUT_KEYS = (
    (re.compile(r"sk-gwadmin-[\w-]*\.\.\."), "<admin key>"),
    (re.compile(r"sk-gw-[\w-]*\.\.\."), "<virtual key>"),
)


def differs(shown: str, seen: str) -> str:
    """Nothing, or where they part and both texts, for whoever has to correct one of them."""
    wanted = shown.strip("\n").splitlines()
    lines = [_shaped(line) for line in seen.strip("\n").splitlines()]
    fitting = _fitting([_line_pattern(line) for line in wanted], lines)
    if fitting is None:
        return ""
    parted = f"not seen: {wanted[fitting]}" if fitting < len(wanted) else "more was seen than is shown"
    return f"{parted}\n--- shown\n{shown.rstrip()}\n--- seen\n{_cut(seen.rstrip())}\n"


def _line_pattern(line: str) -> re.Pattern[str] | None:
    """What a line must look like; None stands for any number of lines."""
    if line.strip() == _ELLIPSIS:
        return None
    for pattern, name in _CUT_KEYS:
        line = pattern.sub(name, line)
    parts = [re.escape(_shaped(part, ends=False)) for part in line.strip().split(_ELLIPSIS)]
    return re.compile(".*".join(parts))


def _shaped(line: str, *, ends: bool = True) -> str:
    for pattern, name in _SHAPES:
        line = pattern.sub(name, line)
    return line.strip() if ends else line


def _fitting(wanted: list[re.Pattern[str] | None], lines: list[str]) -> int | None:
    """None if all is as wanted, else the first wanted line that cannot be where it is.

    `places` are those up to which the lines can have been read: one way through is enough.
    """
    places = {0}
    for index, pattern in enumerate(wanted):
        if pattern is None:
            places = set(range(min(places), len(lines) + 1))
        else:
            places = {place + 1 for place in places if place < len(lines) and pattern.fullmatch(lines[place])}
        if not places:
            return index
    return None if len(lines) in places else len(wanted)


def _cut(text: str) -> str:
    return text if len(text) <= _SEEN_MAX else f"{text[:_SEEN_MAX]}\n[and {len(text) - _SEEN_MAX} characters more]"
